package ledger

import (
	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// The outcomes of a denial.
const (
	OutcomeDenied   = "denied"   // nothing was taken
	OutcomeWarned   = "warned"   // mode warn let it pass
	OutcomeShadowed = "shadowed" // mode shadow let it pass
	OutcomeExcess   = "excess"   // reported use beyond what is permitted (S14)
)

// Outcome says how a denial ended, or what a mode let pass.
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
