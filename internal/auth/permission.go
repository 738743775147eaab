package auth

import "slices"

// Permission is what a route asks of the key that calls it. Every route of the
// API names exactly one.
type Permission string

// The permissions.
const (
	PermDecide         Permission = "decide"          // checks, explanations, entitlements
	PermConsume        Permission = "consume"         // takes and reservations: use that is decided and counted at once
	PermSeat           Permission = "seat"            // give and free seats
	PermSeatsRead      Permission = "seats.read"      // who holds a seat
	PermIngest         Permission = "ingest"          // events
	PermUsageRead      Permission = "usage.read"      // what was used, held and denied
	PermUsageWrite     Permission = "usage.write"     // corrections
	PermCatalogRead    Permission = "catalog.read"    // the catalogue and its history
	PermCatalogWrite   Permission = "catalog.write"   // apply a catalogue
	PermCustomersRead  Permission = "customers.read"  // customers and what they hold
	PermCustomersWrite Permission = "customers.write" // change customers and what they hold
	PermClockRead      Permission = "clock.read"      // the environment's time
	PermClockWrite     Permission = "clock.write"     // set the sandbox's time
)

// Permissions lists every permission.
var Permissions = []Permission{
	PermDecide, PermConsume, PermSeat, PermSeatsRead, PermIngest, PermUsageRead, PermUsageWrite, PermCatalogRead, PermCatalogWrite,
	PermCustomersRead, PermCustomersWrite, PermClockRead, PermClockWrite,
}

// The roles of API keys.
const (
	RoleAdmin = "admin" // everything
	RoleApp   = "app"   // what a product needs at run time: decide, consume, reserve, seat, report and read use
	RoleRead  = "read"  // every read, no write
)

// Roles lists every role, widest first.
var Roles = []string{RoleAdmin, RoleApp, RoleRead}

var permissions = map[string][]Permission{
	RoleAdmin: Permissions,
	RoleApp:   {PermDecide, PermConsume, PermSeat, PermSeatsRead, PermIngest, PermUsageRead},
	RoleRead:  {PermDecide, PermSeatsRead, PermUsageRead, PermCatalogRead, PermCustomersRead, PermClockRead},
}

// Allows reports whether a role has a permission. A role that does not exist
// has none.
func Allows(role string, p Permission) bool { return slices.Contains(permissions[role], p) }
