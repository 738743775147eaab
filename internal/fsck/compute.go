package fsck

import (
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strings"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
)

// The kinds of sums. Those of rollups and of dimensions are in the order of grains.
const (
	ofBucket = iota
	ofMinute
	ofHour
	ofDay
	ofDimMinute
	ofDimHour
	ofDimDay
	ofSeen
	ofDenial
	ofHold       // a reservation that a take made
	ofEnd        // how a take ended a reservation: used is 1 for settled, 2 for released
	ofCorrection // a correction that a take made: at is hashOf its entries
)

var grains = [...]store.Grain{store.Minute, store.Hour, store.Day}

// kindNames has the name of each kind for Difference.What.
var kindNames = [...]string{"bucket", "minute", "hour", "day", "dimension per minute", "dimension per hour", "dimension per day",
	"seen value", "denials of the hour", "reservation", "end of a reservation", "correction"}

// sumKey names a sum. Places and names are indexes into the checker's lists, to save
// memory: there are many sums, but few different names.
type sumKey struct {
	place, name uint32
	kind        uint8
	value       string // of a dimension or a unique meter, the reason of denials, or an id
	start       int64  // µs
}

// sum is what one row must be according to the ledger.
type sum struct {
	used, reserved int64             // of denials: how many, and the sum of their amounts
	at             int64             // of a last gauge: the instant of its value, µs
	how            usher.Aggregation // Last and Max: the newest and the greatest value; "": added up
}

// key returns the name of a sum.
func (c *checker) key(kind int, h store.Holder, feature, name, value string, start int64) sumKey {
	p, ok := c.places[placeOf{h, feature}]
	if !ok {
		p = uint32(len(c.placeList))
		h := store.Holder{Env: h.Env, Customer: strings.Clone(h.Customer)}
		c.placeList = append(c.placeList, placeOf{h, strings.Clone(feature)})
		c.places[c.placeList[p]] = p
	}
	n, ok := c.names[name]
	if !ok {
		n = uint32(len(c.nameList))
		c.nameList = append(c.nameList, strings.Clone(name))
		c.names[c.nameList[n]] = n
	}
	return sumKey{p, n, uint8(kind), value, start}
}

// add merges use into a sum, as the writer merges it into a row.
func (c *checker) add(k sumKey, how usher.Aggregation, used, reserved, at int64) {
	v, ok := c.sums[k]
	switch how {
	case usher.Max:
		if !ok || used > v.used {
			v.used = used
		}
	case usher.Last:
		switch {
		case !ok || at > v.at:
			v.used, v.at = used, at
			delete(c.ties, k)
		// The writer kept whichever came to it last, which the ledger does not say: each of
		// these values is right.
		case at == v.at && used != v.used && !slices.Contains(c.ties[k], used):
			c.ties[k] = append(c.ties[k], used)
		}
	default:
		v.used, v.reserved = v.used+used, v.reserved+reserved
		how = ""
	}
	v.how = how
	c.sums[k] = v
}

// spans adds use to the minute, the hour and the day of an instant.
func (c *checker) spans(first int, h store.Holder, feature, name, value string, how usher.Aggregation, instant, used int64) {
	if !c.mine(h, feature) {
		return
	}
	at := int64(0)
	if how == usher.Last {
		at = instant
	}
	for i, g := range grains {
		c.add(c.key(first+i, h, feature, name, value, g.Start(instant)), how, used, 0, at)
	}
}

// entries adds what a take did at an instant.
func (c *checker) entries(h store.Holder, list []engine.Entry, instant int64) {
	for i := range list {
		e := &list[i]
		c.entry(h, e.Bucket, e.Allowance == engine.EntryCap, e.Amount, instant)
	}
}

// entry adds an amount to a bucket and, unless another bucket counts it too, to the
// spans of an instant.
func (c *checker) entry(h store.Holder, b engine.BucketKey, counted bool, amount, instant int64) {
	if !c.mine(h, b.Feature) {
		return
	}
	c.add(c.key(ofBucket, h, b.Feature, b.Clock, "", b.Start), "", amount, 0, 0)
	if !counted {
		c.spans(ofMinute, h, b.Feature, b.Clock, "", "", instant, amount)
	}
}

// deny adds a denial to the sum of its hour, as the writer does.
func (c *checker) deny(h store.Holder, feature, outcome string, reason usher.Reason, amount, instant int64) {
	if outcome == "" || reason == usher.UnknownCustomer || reason == usher.UnknownFeature || !c.mine(h, feature) {
		return
	}
	k := c.key(ofDenial, h, feature, outcome, string(reason), store.Hour.Start(instant))
	v := c.sums[k]
	v.used++
	// The sum stops at the greatest number, as in the row.
	v.reserved = min(amount, math.MaxInt64-v.reserved) + v.reserved
	c.sums[k] = v
}

// op adds up a stored take.
func (c *checker) op(o *store.Op) error {
	if o.Management() {
		return c.row(new(int64))
	}
	if err := c.row(&c.r.Takes); err != nil {
		return err
	}
	h := store.Holder{Env: o.Env, Customer: o.Customer}
	d, p, err := ledger.DecodeAnswer(o.Answer, o.At)
	if err != nil {
		c.damaged(h, "take", o.Feature, o.Key, err)
		return nil
	}
	c.entries(h, p.Entries, p.At.UnixMicro())
	c.answered(h, o, &d, p.Entries)
	c.deny(h, o.Feature, p.Outcome, p.Would, o.Amount, o.At.UnixMicro())
	if !c.mine(h, o.Feature) {
		return nil
	}
	switch o.Route {
	case ledger.Reserve:
		if d.Reservation != nil {
			// No figures: only whether the reservation has a row is compared.
			c.sums[c.key(ofHold, h, o.Feature, "", d.Reservation.ID, 0)] = sum{}
		}
	case ledger.Settle:
		c.sums[c.key(ofEnd, h, o.Feature, "", strings.TrimPrefix(o.Key, ledger.HoldKey("")), 0)] = sum{used: 1}
	case ledger.Release:
		c.sums[c.key(ofEnd, h, o.Feature, "", strings.TrimPrefix(o.Key, ledger.HoldKey("")), 0)] = sum{used: 2}
	case ledger.Correct:
		c.sums[c.key(ofCorrection, h, o.Feature, "", o.Key, 0)] = sum{used: o.Amount, at: hashOf(ledger.AppendEntries(nil, p.Entries))}
	}
	return nil
}

// answered compares what a take's answer says was used or given back with what its
// entries keep. No row follows from either, so no repair can say which one is right.
func (c *checker) answered(h store.Holder, o *store.Op, d *usher.Decision, entries []engine.Entry) {
	said := d.Consumed
	if d.Correction != nil {
		said = -d.Correction.Amount
	}
	kept := engine.Taken(o.Feature, entries)
	if c.part != 0 || kept == said && (d.Reservation == nil || d.Reservation.Settled == d.Consumed) {
		return
	}
	if d.Correction == nil && kept == said {
		said = d.Reservation.Settled
	}
	c.note(Difference{What: "answer of a take", Environment: h.Env, Customer: h.Customer, Feature: o.Feature, Name: o.Key,
		Ledger: fmt.Sprint(kept), Stored: fmt.Sprint(said)})
}

// hashOf returns a hash by which stored entries are compared.
func hashOf(b []byte) int64 {
	h := fnv.New64a()
	h.Write(b)
	return int64(h.Sum64())
}

// damaged notes a row of the ledger that cannot be read. No row of its customer is
// repaired, because the unreadable row may have counted in any of them.
func (c *checker) damaged(h store.Holder, what, feature, name string, err error) {
	c.spoiled[store.Holder{Env: h.Env, Customer: strings.Clone(h.Customer)}] = true
	if c.part == 0 {
		c.note(Difference{What: what, Environment: h.Env, Customer: h.Customer, Feature: feature, Name: name,
			Ledger: "nothing, because it cannot be read", Stored: err.Error()})
	}
}

// folded adds up a sum of takes whose answers are no longer stored.
func (c *checker) folded(f *store.FoldedRow) error {
	if err := c.row(&c.r.Folded); err != nil {
		return err
	}
	c.entry(f.Holder, f.Bucket, strings.HasPrefix(f.Bucket.Clock, "cap:"), f.Amount, f.Minute)
	return nil
}

// event adds up what an event did.
func (c *checker) event(e *store.EventRow) error {
	if err := c.row(&c.r.Events); err != nil {
		return err
	}
	h := store.Holder{Env: e.Env, Customer: e.Customer}
	list, err := ledger.DecodeReadings(e.Entries)
	if err != nil {
		c.damaged(h, "event", "", e.Source+" "+e.ID, err)
		return nil
	}
	at := e.At.UnixMicro()
	for i := range list {
		r := &list[i]
		switch {
		case r.Adds():
			c.entries(h, r.Entries, at)
			c.deny(h, r.Feature, r.Outcome, r.Reason, r.Amount, e.ReceivedAt.UnixMicro())
		default:
			// Values of max, last and unique do not add up: they are merged as the writer merges
			// them into the row.
			how := r.Aggregation
			for _, en := range r.Entries {
				if c.mine(h, en.Bucket.Feature) {
					c.add(c.key(ofBucket, h, en.Bucket.Feature, en.Bucket.Clock, "", en.Bucket.Start), how, en.Amount, 0, at)
				}
			}
			if how != usher.Unique {
				c.spans(ofMinute, h, r.Feature, "gauge", "", how, at, r.Amount)
			} else if c.mine(h, r.Feature) {
				c.sums[c.key(ofSeen, h, r.Feature, "", r.Distinct, store.Minute.Start(at))] = sum{}
			}
		}
		for _, d := range r.Dimensions {
			c.spans(ofDimMinute, h, r.Feature, d.Path, d.Value, r.Aggregation, at, r.Amount)
		}
	}
	return nil
}

// seat adds a seat that is taken now.
func (c *checker) seat(h store.Holder, feature string, pending bool) error {
	if err := c.row(&c.r.Seats); err != nil {
		return err
	}
	if !c.mine(h, feature) {
		return nil
	}
	k := c.key(ofBucket, h, feature, engine.ClockSeats, "", 0)
	if pending {
		c.add(k, "", 0, 1, 0)
	} else {
		c.add(k, "", 1, 0, 0)
	}
	return nil
}
