package ledger

import (
	"errors"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/meter"
)

// Reading is what one event did to one feature. It holds enough to compute every
// bucket and report again, even after the catalogue has changed.
type Reading struct {
	Feature     string
	Aggregation usher.Aggregation // of the feature's meter when the event came
	Amount      int64             // smallest units: what was added, or the gauge's value
	Distinct    string            // the value that a unique meter saw
	Dimensions  []meter.Dimension // groups of the reports that it counts in
	Outcome     string            // of a denial or of excess, one of the Outcome constants; "": neither
	Reason      usher.Reason      // of the denial
	Entries     []engine.Entry    // what it added to each bucket
}

// Adds reports whether use adds up. A gauge does not: its newest, greatest or
// different values count.
func (r *Reading) Adds() bool { return r.Aggregation.Adds() }

// readingsVersion is the first byte of an event's stored readings.
const readingsVersion = 1

// EncodeReadings returns the stored form of what one event did.
func EncodeReadings(list []Reading) []byte {
	e := &encoder{b: []byte{readingsVersion}}
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

// DecodeReadings reads what EncodeReadings wrote. Unknown versions and damaged
// bytes are errors.
func DecodeReadings(b []byte) ([]Reading, error) {
	if len(b) == 0 || b[0] != readingsVersion {
		return nil, errors.New("ledger: unknown version of an event's readings")
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
			return nil, errors.New("ledger: an event's readings are damaged")
		}
		list = append(list, r)
	}
	return list, nil
}
