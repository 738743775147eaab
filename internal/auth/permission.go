package auth

import (
	"slices"
	"strings"

	"github.com/usher-sh/usher"
)

// Permission is what a route asks of who calls it. Every route of the API names
// exactly one.
type Permission string

// The permissions.
const (
	PermDecide             Permission = "decide"              // checks, explanations, entitlements
	PermConsume            Permission = "consume"             // takes and reservations: use that is decided and counted at once
	PermSeat               Permission = "seat"                // give and free seats
	PermSeatsRead          Permission = "seats.read"          // who holds a seat
	PermIngest             Permission = "ingest"              // events
	PermUsageRead          Permission = "usage.read"          // what was used, held and denied
	PermUsageWrite         Permission = "usage.write"         // corrections
	PermCatalogRead        Permission = "catalog.read"        // the catalogue and its history
	PermCatalogWrite       Permission = "catalog.write"       // apply a catalogue
	PermCustomersRead      Permission = "customers.read"      // customers and what they hold
	PermCustomersWrite     Permission = "customers.write"     // create, change and delete customers
	PermSubscriptionsWrite Permission = "subscriptions.write" // subscribe and change subscriptions
	PermOverridesWrite     Permission = "overrides.write"     // exceptions
	PermGrantsWrite        Permission = "grants.write"        // one-off amounts
	PermClockRead          Permission = "clock.read"          // the environment's time
	PermClockWrite         Permission = "clock.write"         // set the sandbox's time
	PermMembersRead        Permission = "members.read"        // customers' members, groups, roles and resources
	PermMembersWrite       Permission = "members.write"       // change them
	PermSearch             Permission = "search"              // who can, what can
	PermAccess             Permission = "access.decide"       // AuthZEN
	PermFlags              Permission = "flags"               // OFREP
	PermSCIM               Permission = "scim"                // SCIM, for one customer
	PermAuditRead          Permission = "audit.read"          // the audit log
	PermKeysRead           Permission = "keys.read"           // API keys, without their secrets
	PermKeysWrite          Permission = "keys.write"          // make and rotate keys
	PermKeysRevoke         Permission = "keys.revoke"         // end keys
	PermElevationRequest   Permission = "elevation.request"   // ask for a role for a while, or take it in an emergency
	PermElevationApprove   Permission = "elevation.approve"   // say yes or no to others, and review emergencies
	PermOperatorsRead      Permission = "operators.read"      // operators and their roles
	PermOperatorsWrite     Permission = "operators.write"     // change them
)

// grade is a permission and how much harm its use can do.
type grade struct {
	p    Permission
	risk usher.Risk
}

// grades has every permission. A permission's place is its bit.
var grades = []grade{
	{PermDecide, usher.RiskLow}, {PermConsume, usher.RiskMedium}, {PermSeat, usher.RiskMedium}, {PermSeatsRead, usher.RiskLow},
	{PermIngest, usher.RiskMedium}, {PermUsageRead, usher.RiskLow}, {PermUsageWrite, usher.RiskMedium},
	{PermCatalogRead, usher.RiskLow}, {PermCatalogWrite, usher.RiskHigh},
	{PermCustomersRead, usher.RiskLow}, {PermCustomersWrite, usher.RiskMedium}, {PermSubscriptionsWrite, usher.RiskMedium},
	{PermOverridesWrite, usher.RiskMedium}, {PermGrantsWrite, usher.RiskMedium},
	{PermClockRead, usher.RiskLow}, {PermClockWrite, usher.RiskLow},
	{PermMembersRead, usher.RiskLow}, {PermMembersWrite, usher.RiskMedium}, {PermSearch, usher.RiskLow},
	{PermAccess, usher.RiskLow}, {PermFlags, usher.RiskLow}, {PermSCIM, usher.RiskMedium}, {PermAuditRead, usher.RiskMedium},
	{PermKeysRead, usher.RiskLow}, {PermKeysWrite, usher.RiskHigh}, {PermKeysRevoke, usher.RiskMedium},
	{PermElevationRequest, usher.RiskLow}, {PermElevationApprove, usher.RiskHigh},
	{PermOperatorsRead, usher.RiskMedium}, {PermOperatorsWrite, usher.RiskHigh},
}

// Permissions lists every permission.
var Permissions = func() (all []Permission) {
	for _, g := range grades {
		all = append(all, g.p)
	}
	return all
}()

// Risk is how much harm a permission's use can do in an environment. One that
// does not exist is high.
func (p Permission) Risk(env usher.Environment) usher.Risk {
	i, ok := bits[p]
	switch {
	case !ok:
		return usher.RiskHigh
	case p == PermCatalogWrite && env == usher.Sandbox:
		return usher.RiskMedium
	}
	return grades[i].risk
}

// The roles of API keys.
const (
	RoleAdmin   = "admin"   // everything
	RoleApp     = "app"     // what a product needs at run time: decide, consume, reserve, seat, report and read use, manage members
	RoleRead    = "read"    // decide, and every read but of keys, operators and the audit log
	RoleAuthZEN = "authzen" // AuthZEN and searches
	RoleOFREP   = "ofrep"   // flags
	RoleSCIM    = "scim"    // SCIM, of the key's own customer
)

// The roles of operators. An API key may have one too, owner apart.
const (
	RoleOwner     = "owner"     // everything
	RolePricing   = "pricing"   // the catalogue
	RoleSupport   = "support"   // customers' members, seats, overrides and grants
	RoleSales     = "sales"     // subscriptions and grants
	RoleFinance   = "finance"   // corrections of use
	RoleSecurity  = "security"  // the audit log, operators, ending keys
	RoleDeveloper = "developer" // keys, and everything in the sandbox
)

// Roles lists every role that an API key may have, widest first.
var Roles = []string{RoleAdmin, RoleApp, RoleRead, RoleAuthZEN, RoleOFREP, RoleSCIM,
	RolePricing, RoleSupport, RoleSales, RoleFinance, RoleSecurity, RoleDeveloper}

// OperatorRoles lists every role that an operator may have, widest first.
var OperatorRoles = []string{RoleOwner, RolePricing, RoleSupport, RoleSales, RoleFinance, RoleSecurity, RoleDeveloper}

// reads is what every operator role but owner includes; nobody has it alone.
const reads = "reads"

// ofInstallation are about operators, who are of the installation, not of an
// environment. Only what is held in production gives them.
var ofInstallation = setOf(PermOperatorsRead, PermOperatorsWrite, PermElevationApprove)

// handsOn are what hands out rights. An emergency gives none of them: it is for
// repairs.
var handsOn = setOf(PermKeysWrite, PermOperatorsWrite, PermElevationApprove)

// Plane is the built-in roles and the permissions as a catalogue says such
// things, for an environment. The caller owns it.
func Plane(env usher.Environment) *usher.Catalog {
	c := &usher.Catalog{Permissions: map[string]*usher.Permission{}, Roles: map[string]*usher.Role{}}
	for _, p := range Permissions {
		c.Permissions[string(p)] = &usher.Permission{Key: string(p), Risk: p.Risk(env)}
	}
	role := func(key, title string, includes []string, patterns ...string) {
		slices.Sort(patterns)
		c.Roles[key] = &usher.Role{Key: key, Title: title, Includes: includes, Permissions: patterns}
	}
	role(RoleAdmin, "Everything", nil, "**")
	role(RoleApp, "What a product needs at run time", nil, "decide", "access.decide", "search", "flags", "consume", "seat", "seats.read",
		"ingest", "usage.read", "members.*")
	role(RoleRead, "Decide and read", nil, "decide", "access.decide", "search", "flags", "seats.read", "usage.read", "catalog.read",
		"customers.read", "clock.read", "members.read")
	role(RoleAuthZEN, "AuthZEN and searches", nil, "access.decide", "search")
	role(RoleOFREP, "Flags", nil, "flags")
	role(RoleSCIM, "SCIM", nil, "scim")

	role(reads, "", nil, "decide", "search", "seats.read", "usage.read", "catalog.read", "customers.read", "clock.read", "members.read",
		"elevation.request")
	base := []string{reads}
	role(RoleOwner, "Owner", nil, "**")
	role(RolePricing, "Pricing", base, "catalog.*")
	role(RoleSupport, "Support", base, "members.*", "seat", "overrides.*", "grants.*")
	role(RoleSales, "Sales", base, "subscriptions.*", "grants.*")
	role(RoleFinance, "Finance", base, "usage.*")
	role(RoleSecurity, "Security", base, "audit.read", "keys.read", "keys.revoke", "operators.read")
	developer := []string{"keys.*"}
	if env == usher.Sandbox {
		developer = []string{"**"}
	}
	role(RoleDeveloper, "Developer", base, developer...)
	return c
}

// permSet is a set of permissions: a bit for each.
type permSet uint64

var bits = func() map[Permission]uint8 {
	m := make(map[Permission]uint8, len(grades))
	for i, g := range grades {
		m[g.p] = uint8(i)
	}
	return m
}()

func setOf(list ...Permission) (s permSet) {
	for _, p := range list {
		s |= 1 << bits[p]
	}
	return s
}

func (s permSet) has(p Permission) bool {
	i, ok := bits[p]
	return ok && s&(1<<i) != 0
}

// text lists what is in s, for people.
func (s permSet) text() string {
	var list []string
	for _, p := range Permissions {
		if s.has(p) {
			list = append(list, string(p))
		}
	}
	return strings.Join(list, ", ")
}

// planes is what each role gives in each environment.
var planes = func() map[usher.Environment]map[string]permSet {
	all := map[usher.Environment]map[string]permSet{}
	for _, env := range usher.Environments {
		c := Plane(env)
		all[env] = map[string]permSet{}
		for key := range c.Roles {
			set := expand(c, key)
			if env == usher.Sandbox {
				set &^= ofInstallation
			}
			all[env][key] = set
		}
		delete(all[env], reads)
	}
	return all
}()

func expand(c *usher.Catalog, role string) (s permSet) {
	r := c.Roles[role]
	for _, other := range r.Includes {
		s |= expand(c, other)
	}
	for p, i := range bits {
		for _, pattern := range r.Permissions {
			if usher.MatchPermission(pattern, string(p)) {
				s |= 1 << i
			}
		}
	}
	return s
}

// gives is what a role gives in an environment: nothing where there is no such
// role or environment.
func gives(role string, env usher.Environment) permSet { return planes[env][role] }

// Allows reports whether a role gives a permission in an environment. A role
// that does not exist gives none.
func Allows(role string, env usher.Environment, p Permission) bool { return gives(role, env).has(p) }
