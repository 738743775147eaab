package ledger

import "time"

// Kept is how long a stored answer is kept at least (S13). After that its key
// is forgotten; what it took stays, added up per bucket and minute.
const Kept = 62 * 24 * time.Hour

// The calls whose answers are kept.
const (
	Consume = "POST /v1/consume"
	Reserve = "POST /v1/reservations"
	Settle  = "POST /v1/reservations/{id}/settle"
	Release = "POST /v1/reservations/{id}/release"
	Correct = "POST /v1/corrections"
	Seat    = "PUT /v1/customers/{id}/seats/{feature}/{holder}"
)

// HoldKey is the key under which the end of a reservation is kept: one end, one
// answer. No caller's key is like it: those are ASCII.
func HoldKey(id string) string { return "§" + id }
