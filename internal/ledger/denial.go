package ledger

import (
	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// The outcomes of a denial, as reports count them.
const (
	OutcomeDenied   = "denied"   // nothing was taken
	OutcomeWarned   = "warned"   // mode warn allowed it
	OutcomeShadowed = "shadowed" // mode shadow allowed it
	OutcomeExcess   = "excess"   // reported use beyond what the plan permits (S14): it was counted
)

// Outcome returns the outcome of a take or an event, or "" if it was within what the
// plan permits. recorded is true for events and settlements: their use is counted in
// any case.
func Outcome(e *engine.Effect, recorded bool) string {
	switch {
	case e.Would == "":
		return ""
	case e.Decision.Reason == usher.Warned:
		return OutcomeWarned
	case e.Decision.Reason == usher.Shadowed:
		return OutcomeShadowed
	case recorded:
		return OutcomeExcess
	}
	return OutcomeDenied
}
