package ledger

import "time"

// Kept is how long a stored answer is kept at least (S13). After that its key can be
// used again; what it took stays, added up for each bucket and minute.
const Kept = 62 * 24 * time.Hour

// The calls whose answers are kept. A stored answer names its call, so that a key
// serves one kind of call.
const (
	Consume = "consume"
	Reserve = "reserve"
	Settle  = "settle"
	Release = "release"
	Correct = "correct"
)

// HoldKey returns the key under which the end of a reservation is stored, so that a
// reservation ends once and has one answer. Callers' keys are ASCII, so § keeps it
// from being one of theirs.
func HoldKey(id string) string { return "§" + id }
