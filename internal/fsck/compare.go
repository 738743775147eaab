package fsck

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
)

// correction compares a correction with the take that made it. Entries of a take have
// no dimensions, so the correction of an event is subtracted from the event's
// dimensions here.
func (c *checker) correction(x *store.CorrectionState) error {
	if err := c.row(&c.r.Corrections); err != nil {
		return err
	}
	if !c.mine(x.Holder, x.Feature) {
		return nil
	}
	note := func(ledger, stored string) {
		c.note(Difference{What: "correction", Environment: x.Env, Customer: x.Customer, Feature: x.Feature, Name: x.Key,
			Ledger: ledger, Stored: stored})
	}
	k := c.key(ofCorrection, x.Holder, x.Feature, "", x.Key, 0)
	made, ok := c.sums[k]
	delete(c.sums, k)
	switch {
	case !ok && x.At >= c.cutoff:
		note("no take that made it", fmt.Sprint("one of ", x.Amount))
	case ok && made.used != x.Amount:
		note(fmt.Sprint(made.used), fmt.Sprint(x.Amount))
	case ok && made.at != hashOf(x.Entries):
		note("other entries", "those of its row")
	}
	if x.Source == "" {
		return nil
	}
	if x.Event == nil {
		note("no event "+x.Source+" "+x.Ref, fmt.Sprint("a correction of it of ", x.Amount))
		return nil
	}
	list, err := ledger.DecodeReadings(x.Event)
	if err != nil {
		return nil // the event cannot be read, which is reported with the events
	}
	for i := range list {
		if r := &list[i]; r.Adds() && r.Feature == x.Feature {
			for _, d := range r.Dimensions {
				c.spans(ofDimMinute, x.Holder, x.Feature, d.Path, d.Value, "", x.EventAt, -x.Amount)
			}
		}
	}
	return nil
}

// hold compares a reservation with the takes that made and ended it, and adds what an
// open one holds to its buckets.
func (c *checker) hold(x *store.HoldState) error {
	if err := c.row(&c.r.Holds); err != nil {
		return err
	}
	if x.State == store.HoldOpen {
		list, _, err := ledger.ReadEntries(x.Entries)
		if err != nil {
			c.damaged(x.Holder, "reservation", x.Feature, x.ID, err)
		}
		for _, e := range list {
			if c.mine(x.Holder, e.Bucket.Feature) {
				c.add(c.key(ofBucket, x.Holder, e.Bucket.Feature, e.Bucket.Clock, "", e.Bucket.Start), "", 0, e.Amount, 0)
			}
		}
	}
	if !c.mine(x.Holder, x.Feature) {
		return nil
	}
	made := c.key(ofHold, x.Holder, x.Feature, "", x.ID, 0)
	ended := c.key(ofEnd, x.Holder, x.Feature, "", x.ID, 0)
	_, ok := c.sums[made]
	end := c.sums[ended].used
	delete(c.sums, made)
	delete(c.sums, ended)
	note := func(ledger string) {
		c.note(Difference{What: "reservation", Environment: x.Env, Customer: x.Customer, Feature: x.Feature, Name: x.ID,
			Ledger: ledger, Stored: x.State})
	}
	if !ok && x.At >= c.cutoff {
		note("no take that made it")
	}
	gone := end == 0 && x.ClosedAt < c.cutoff // the take that ended it may have been folded
	right := map[string]bool{
		store.HoldOpen: end == 0, store.HoldSettled: end == 1 || gone, store.HoldReleased: end == 2 || gone, store.HoldExpired: end != 1}
	if !right[x.State] {
		note([]string{"no take that ended it", store.HoldSettled, store.HoldReleased}[end])
	}
	return nil
}

// take returns a sum and removes it. What is left in the end are sums without a row.
func (c *checker) take(k sumKey) (v sum, ties []int64, ok bool) {
	v, ok = c.sums[k]
	ties = c.ties[k]
	delete(c.sums, k)
	delete(c.ties, k)
	return v, ties, ok
}

// bucket compares a stored bucket with its sum, and its figures with each other.
func (c *checker) bucket(h store.Holder, b engine.Bucket) error {
	if !c.mine(h, b.Feature) {
		return nil
	}
	c.stored(&c.r.Buckets)
	k := c.key(ofBucket, h, b.Feature, b.Clock, "", b.Start)
	v, ties, _ := c.take(k)
	// right is the stored row with the figures that follow from the ledger. The others, such
	// as the limit, stay as they are.
	right := b
	right.Reserved = v.reserved
	if !slices.Contains(ties, b.Used) {
		right.Used = v.used
	}
	if v.how == usher.Last {
		right.At = v.at
	}
	d := c.difference(k)
	d.Ledger, d.Stored = figures(right, v.how), figures(b, v.how)
	wrong := right != b
	if !wrong && !bounded(b) {
		wrong = true
		d.What, d.Ledger = "bounds of a bucket", "beyond its limit of "+fmt.Sprint(b.Limit)+" "+fmt.Sprint(beyond(b))
		d.Stored = fmt.Sprintf("overage %d and excess %d", b.Overage, b.Excess)
	}
	if !wrong {
		return nil
	}
	// More was given back than taken: the ledger itself is wrong, and the schema would
	// refuse such a row.
	if right.Used < 0 || right.Reserved < 0 {
		d.Derived = false
	}
	return c.differ(d, func(tx *store.UsageTx) error {
		if !right.Unlimited {
			// Overage that was permitted stays permitted, as far as the use still needs it. The
			// rest is excess, as the schema demands (I1).
			right.Overage = min(right.Overage, beyond(right))
			right.Excess = beyond(right) - right.Overage
		} else {
			right.Overage, right.Excess = 0, 0
		}
		return tx.PutBuckets(map[store.Holder][]engine.Bucket{h: {right}})
	})
}

// figures returns a bucket's figures as a Difference shows them.
func figures(b engine.Bucket, how usher.Aggregation) string {
	s := fmt.Sprintf("used %d, reserved %d", b.Used, b.Reserved)
	if how == usher.Last {
		s += " at " + instant(b.At)
	}
	return s
}

// beyond returns by how much a bucket exceeds its limit, 0 if it does not.
func beyond(b engine.Bucket) int64 {
	held := b.Used
	for _, n := range []int64{b.Reserved, b.Opening} {
		held = min(n, math.MaxInt64-held) + held
	}
	return max(held-b.Limit, 0)
}

// bounded reports whether a bucket's figures agree with each other (I1).
func bounded(b engine.Bucket) bool {
	if b.Used < 0 || b.Reserved < 0 || b.Opening < 0 || b.Overage < 0 || b.Excess < 0 || b.Limit < 0 {
		return false
	}
	if b.Unlimited {
		return b.Limit == 0 && b.Overage == 0 && b.Excess == 0
	}
	over := beyond(b)
	return b.Overage <= over && b.Excess == over-b.Overage
}

// rollup compares a stored rollup with its sum.
func (c *checker) rollup(k store.RollupKey, stored store.RollupValue) error {
	if !c.mine(k.Holder, k.Feature) {
		return nil
	}
	c.stored(&c.r.Rollups)
	i := slices.Index(grains[:], k.Grain)
	if i < 0 {
		return fmt.Errorf("fsck: a rollup has the grain %d", k.Grain)
	}
	sk := c.key(ofMinute+i, k.Holder, k.Feature, k.Value, "", k.Start)
	if k.Dimension != "" {
		sk = c.key(ofDimMinute+i, k.Holder, k.Feature, k.Dimension, k.Value, k.Start)
	}
	v, ties, ok := c.take(sk)
	same := stored.Used == v.used || slices.Contains(ties, stored.Used)
	if v.how == usher.Last {
		same = same && stored.At == v.at
	}
	if same && (ok || k.Value != "gauge" || k.Dimension != "") {
		return nil
	}
	d := c.difference(sk)
	d.Ledger, d.Stored = fmt.Sprint(v.used), fmt.Sprint(stored.Used)
	if v.how == usher.Last {
		d.Ledger, d.Stored = d.Ledger+" at "+instant(v.at), d.Stored+" at "+instant(stored.At)
	}
	if !ok {
		d.Ledger = "nothing"
	}
	return c.differ(d, func(tx *store.UsageTx) error {
		if !ok {
			return tx.DropRollup(k)
		}
		return tx.PutRollups(store.MergeSet, map[store.RollupKey]store.RollupValue{k: {Used: v.used, At: v.at}})
	})
}

// seen compares a value that a unique meter saw in a minute.
func (c *checker) seen(h store.Holder, feature, value string, minute int64) error {
	if !c.mine(h, feature) {
		return nil
	}
	c.stored(&c.r.Seen)
	k := c.key(ofSeen, h, feature, "", value, minute)
	if _, _, ok := c.take(k); ok {
		return nil
	}
	d := c.difference(k)
	d.Ledger, d.Stored = "not seen", "seen"
	return c.differ(d, func(tx *store.UsageTx) error { return tx.Unsee(h, feature, value, minute) })
}

// denial compares the denials of an hour. The ledger does not have the denials of seats,
// and older answers may be folded. In these cases more denials than the ledger has are
// right, and only fewer are wrong.
func (c *checker) denial(k store.DenialKey, stored store.DenialCount) error {
	if !c.mine(k.Holder, k.Feature) {
		return nil
	}
	c.stored(&c.r.Denials)
	sk := c.key(ofDenial, k.Holder, k.Feature, k.Outcome, string(k.Reason), k.Hour)
	v, _, _ := c.take(sk)
	if c.seats[featureOf{k.Env, k.Feature}] {
		return nil
	}
	right := store.DenialCount{N: v.used, Amount: v.reserved}
	if k.Hour < c.cutoff { // some of its takes may have been folded
		right.N, right.Amount = max(right.N, stored.N), max(right.Amount, stored.Amount)
	}
	if right == stored {
		return nil
	}
	d := c.difference(sk)
	d.Ledger, d.Stored = times(right), times(stored)
	return c.differ(d, func(tx *store.UsageTx) error { return tx.SetDenial(k, right) })
}

func times(n store.DenialCount) string {
	return fmt.Sprintf("%d, which asked for %d in all", n.N, n.Amount)
}

// missing reports the sums that have no row.
func (c *checker) missing() error {
	left := make([]sumKey, 0, len(c.sums))
	for k, v := range c.sums {
		if k.kind <= ofDimDay && v.used == 0 && v.reserved == 0 && (k.kind == ofBucket || v.how == "") {
			continue
		}
		left = append(left, k)
	}
	slices.SortFunc(left, func(x, y sumKey) int {
		p, q := &c.placeList[x.place], &c.placeList[y.place]
		return cmp.Or(strings.Compare(string(p.Env), string(q.Env)), strings.Compare(p.Customer, q.Customer),
			strings.Compare(p.feature, q.feature), cmp.Compare(x.kind, y.kind), strings.Compare(c.nameList[x.name], c.nameList[y.name]),
			strings.Compare(x.value, y.value), cmp.Compare(x.start, y.start))
	})
	for _, k := range left {
		v, p := c.sums[k], c.placeList[k.place]
		name := c.nameList[k.name]
		d := c.difference(k)
		d.Stored = "nothing"
		var do func(*store.UsageTx) error
		switch {
		case k.kind == ofBucket:
			b := newBucket(engine.BucketKey{Feature: p.feature, Clock: name, Start: k.start}, v)
			d.Ledger = figures(b, v.how)
			d.Derived = v.used >= 0 && v.reserved >= 0
			do = func(tx *store.UsageTx) error { return tx.PutBuckets(map[store.Holder][]engine.Bucket{p.Holder: {b}}) }
		case k.kind <= ofDimDay:
			d.Ledger = fmt.Sprint(v.used)
			rk := store.RollupKey{Holder: p.Holder, Feature: p.feature, Value: name, Grain: grains[(k.kind-ofMinute)%3], Start: k.start}
			if k.kind >= ofDimMinute {
				rk.Dimension, rk.Value = name, k.value
			}
			do = func(tx *store.UsageTx) error {
				return tx.PutRollups(store.MergeSet, map[store.RollupKey]store.RollupValue{rk: {Used: v.used, At: v.at}})
			}
		case k.kind == ofSeen:
			d.Ledger, d.Stored = "seen", "not seen"
			do = func(tx *store.UsageTx) error { return tx.See(p.Holder, p.feature, k.value, k.start) }
		case k.kind == ofDenial:
			n := store.DenialCount{N: v.used, Amount: v.reserved}
			d.Ledger = times(n)
			dk := store.DenialKey{Holder: p.Holder, Feature: p.feature, Hour: k.start, Outcome: name, Reason: usher.Reason(k.value)}
			do = func(tx *store.UsageTx) error { return tx.SetDenial(dk, n) }
		default: // a reservation or a correction without its row
			d.Name, d.Start, d.Derived = k.value, "", false
			d.Ledger = "there is one"
		}
		if err := c.differ(d, do); err != nil {
			return err
		}
	}
	return nil
}

// stored counts one row that follows from the ledger.
func (c *checker) stored(n *int64) {
	*n++
	if c.rows++; c.rows%progressRows == 0 && c.o.Progress != nil {
		c.o.Progress(c.doing, c.rows)
	}
}

// difference returns a Difference that names the row of a sum. The caller adds what
// differs.
func (c *checker) difference(k sumKey) Difference {
	p := &c.placeList[k.place]
	d := Difference{What: kindNames[k.kind], Environment: p.Env, Customer: p.Customer, Feature: p.feature,
		Name: c.nameList[k.name], Derived: true}
	if k.value != "" {
		d.Name = strings.TrimSpace(d.Name + " " + k.value)
	}
	d.Start = instant(k.start)
	return d
}

// instant returns an instant in microseconds as text.
func instant(us int64) string { return time.UnixMicro(us).UTC().Format(time.RFC3339Nano) }

// note adds a difference to the report, which lists the first maxDifferences.
func (c *checker) note(d Difference) {
	c.r.Total++
	if len(c.r.Differences) < maxDifferences {
		c.r.Differences = append(c.r.Differences, d)
	}
}
