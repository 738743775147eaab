package usage

import (
	"errors"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/meter"
	"github.com/usher-sh/usher/internal/store"
)

// reading is what one event did to one feature, as the ledger keeps it: enough
// to compute every bucket and report again, whatever the catalogue says by then.
type reading struct {
	feature     string
	aggregation usher.Aggregation
	amount      int64  // added, or the gauge's value
	distinct    string // the value of unique
	dimensions  []meter.Dimension
	outcome     string // of a denial, or of excess; "" is none
	reason      usher.Reason
	entries     []engine.Entry
}

func (r *reading) adds() bool { return r.aggregation.Adds() }

// ledgerVersion is the first byte of an event's ledger.
const ledgerVersion = 1

func encodeReadings(list []reading) []byte {
	e := &encoder{b: []byte{ledgerVersion}}
	e.num(int64(len(list)))
	for i := range list {
		r := &list[i]
		e.str(r.feature)
		e.str(string(r.aggregation))
		e.num(r.amount)
		e.str(r.distinct)
		e.num(int64(len(r.dimensions)))
		for _, d := range r.dimensions {
			e.str(d.Path)
			e.str(d.Value)
		}
		e.str(r.outcome)
		e.str(string(r.reason))
		e.b = store.AppendEntries(e.b, r.entries)
	}
	return e.b
}

func decodeReadings(b []byte) ([]reading, error) {
	if len(b) == 0 || b[0] != ledgerVersion {
		return nil, errors.New("usage: an event's ledger has an unknown form")
	}
	d := &decoder{b: b[1:]}
	var list []reading
	for range d.size() {
		r := reading{feature: d.str(), aggregation: usher.Aggregation(d.str()), amount: d.num(), distinct: d.str()}
		for range d.size() {
			r.dimensions = append(r.dimensions, meter.Dimension{Path: d.str(), Value: d.str()})
		}
		r.outcome, r.reason = d.str(), usher.Reason(d.str())
		r.entries = d.entries()
		if d.bad {
			return nil, errors.New("usage: an event's ledger is damaged")
		}
		list = append(list, r)
	}
	return list, nil
}

// outcome says how a denial ended, or what a mode let pass.
func outcome(e *engine.Effect, recorded bool) string {
	switch {
	case e.Would == "":
		return ""
	case e.Decision.Reason == usher.Warned:
		return store.OutcomeWarned
	case e.Decision.Reason == usher.Shadowed:
		return store.OutcomeShadowed
	case recorded:
		return store.OutcomeExcess
	}
	return store.OutcomeDenied
}
