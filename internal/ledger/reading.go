package ledger

import (
	"errors"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/meter"
)

// Reading is what one event did to one feature, as the ledger keeps it: enough
// to compute every bucket and report again, whatever the catalogue says by then.
type Reading struct {
	Feature     string
	Aggregation usher.Aggregation
	Amount      int64  // added, or the gauge's value
	Distinct    string // the value of unique
	Dimensions  []meter.Dimension
	Outcome     string // of a denial, or of excess; "" is none
	Reason      usher.Reason
	Entries     []engine.Entry
}

func (r *Reading) Adds() bool { return r.Aggregation.Adds() }

// ledgerVersion is the first byte of an event's ledger.
const ledgerVersion = 1

func EncodeReadings(list []Reading) []byte {
	e := &encoder{b: []byte{ledgerVersion}}
	e.num(int64(len(list)))
	for i := range list {
		r := &list[i]
		e.str(r.Feature)
		e.str(string(r.Aggregation))
		e.num(r.Amount)
		e.str(r.Distinct)
		e.num(int64(len(r.Dimensions)))
		for _, d := range r.Dimensions {
			e.str(d.Path)
			e.str(d.Value)
		}
		e.str(r.Outcome)
		e.str(string(r.Reason))
		e.b = AppendEntries(e.b, r.Entries)
	}
	return e.b
}

func DecodeReadings(b []byte) ([]Reading, error) {
	if len(b) == 0 || b[0] != ledgerVersion {
		return nil, errors.New("ledger: an event's ledger has an unknown form")
	}
	d := &decoder{b: b[1:]}
	var list []Reading
	for range d.size() {
		r := Reading{Feature: d.str(), Aggregation: usher.Aggregation(d.str()), Amount: d.num(), Distinct: d.str()}
		for range d.size() {
			r.Dimensions = append(r.Dimensions, meter.Dimension{Path: d.str(), Value: d.str()})
		}
		r.Outcome, r.Reason = d.str(), usher.Reason(d.str())
		r.Entries = d.entries()
		if d.bad {
			return nil, errors.New("ledger: an event's ledger is damaged")
		}
		list = append(list, r)
	}
	return list, nil
}
