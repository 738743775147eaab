package engine

import (
	"math"
	"slices"
	"time"

	"github.com/usher-sh/usher"
)

// Instants are microseconds since 1970 UTC. A span that has no beginning starts
// at minMicro, one that has no end ends at maxMicro.
const (
	minMicro = math.MinInt64
	maxMicro = math.MaxInt64
	minuteµs = 60_000_000
)

// Quantities are int64 counts of a feature's smallest unit. Every figure below
// is between 0 and math.MaxInt64: sums stop at the bounds instead of wrapping,
// and a take that would pass them is refused (S24).

// figures are a row's numbers at an instant.
type figures struct {
	window    span
	start     int64 // start of the bucket
	unlimited bool
	limit     int64 // 0 if unlimited
	opening   int64 // use that the window began with; part of used
	used      int64
	reserved  int64 // held by open reservations
	remaining int64 // of limit
	overage   int64 // beyond limit, and permitted
	excess    int64 // beyond limit, and not permitted
	room      int64 // overage that is still permitted
}

// settle computes remaining, overage, excess and room from limit, used and
// reserved (S14, S19, S20). It starts from zero each time, so a limit that was
// raised or lowered counts at once, also for use that came before.
func (n *figures) settle(o usher.Overage) {
	n.remaining, n.overage, n.excess, n.room = 0, 0, 0, 0
	if n.unlimited {
		return // nothing is beyond an unlimited row
	}
	// A reservation may become use, so it takes its place already now.
	held := satAdd(n.used, n.reserved)
	permitted := o.Max
	if o.Unlimited {
		permitted = math.MaxInt64
	}
	if held <= n.limit {
		// limit+room must stay countable: a take of all of it leads to that use.
		n.remaining, n.room = n.limit-held, min(permitted, math.MaxInt64-n.limit)
		return
	}
	// Here held > limit >= 0, so no difference below is negative.
	beyond := held - n.limit
	n.overage = min(beyond, permitted)
	n.excess = beyond - n.overage
	n.room = min(permitted-n.overage, math.MaxInt64-held)
}

// sums adds up what rows still hold: included amounts, and room for overage.
// Both stop at math.MaxInt64.
func sums(rows []figures) (included, room int64, unlimited bool) {
	for i := range rows {
		n := &rows[i]
		unlimited = unlimited || n.unlimited
		included = satAdd(included, n.remaining)
		room = satAdd(room, n.room)
	}
	return included, room, unlimited
}

// fits reports whether each row and each cap can count amount more without
// passing math.MaxInt64 (S24). A take may divide the amount over several rows, but
// how is not known yet, so each row must be able to take all of it.
func fits(buf *Buf, amount int64) bool {
	for i := range buf.rows {
		if n := &buf.rows[i]; satAdd(n.used, n.reserved) > math.MaxInt64-amount {
			return false
		}
	}
	for i := range buf.caps {
		if buf.caps[i].used > math.MaxInt64-amount {
			return false
		}
	}
	return true
}

// drawFits reports whether the pool and the count of what it paid for can take
// the draw (S24, S25). drawn is in units of the feature, the pool's figures are
// in credits. drawn*rate does not overflow: divide divided the pool's own int64
// figures by rate to get drawn.
func (s *Snapshot) drawFits(f *feature, buf *Buf, v division) bool {
	drawn := v.pool + v.poolOver
	if drawn == 0 {
		return true
	}
	for i := range buf.pool {
		if n := &buf.pool[i]; satAdd(n.used, n.reserved) > math.MaxInt64-drawn*f.def.Draws.Rate {
			return false
		}
	}
	b, _ := s.Bucket(BucketKey{f.def.Key, ClockDrawn, 0})
	return satAdd(b.Used, b.Reserved) <= math.MaxInt64-drawn
}

// applyAdd applies an override's add to slots, once in all (S03). A positive n
// raises the first slot that has a limit. A negative n lowers slots in order
// until it is used up, none below 0. It reports whether any slot has a limit.
func applyAdd(slots []slot, n int64) bool {
	done := false
	for i := range slots {
		if slots[i].unlimited {
			continue // neither more nor less than unlimited
		}
		done = true
		if n >= 0 {
			slots[i].limit = satAdd(slots[i].limit, n)
			return true
		}
		take := min(slots[i].limit, lower(n))
		slots[i].limit -= take
		n += take
		if n == 0 {
			return true
		}
	}
	return done
}

// lower returns -n of a negative n. For math.MinInt64, which has no positive
// counterpart, it returns math.MaxInt64: no limit is greater.
func lower(n int64) int64 {
	if n == math.MinInt64 {
		return math.MaxInt64
	}
	return -n
}

// combine applies a config's rule to two values (S04). y is from the stronger
// source and wins unless the rule says otherwise.
func combine(f *usher.Feature, rule usher.Combine, x, y *usher.Value) *usher.Value {
	switch rule {
	case usher.CombineMax:
		if rank(f, y) > rank(f, x) {
			return y
		}
		return x
	case usher.CombineMin:
		if rank(f, y) < rank(f, x) {
			return y
		}
		return x
	case usher.CombineSum:
		return &usher.Value{Int: satAdd(x.Int, y.Int)}
	case usher.CombineUnion:
		all := slices.Concat(x.List, y.List) // a copy: values belong to the catalogue
		slices.Sort(all)
		return &usher.Value{List: slices.Compact(all)}
	}
	return y
}

// rank places a value in its order. An enum's order is that of the feature as it
// is now, because values may have been added since a plan was published. A value
// that the feature no longer lists has rank -1, below all others.
func rank(f *usher.Feature, v *usher.Value) int64 {
	if f.Type == usher.TypeEnum {
		return int64(slices.Index(f.Values, v.Text))
	}
	return v.Int
}

// scale returns n times a number. n is an add-on's quantity, at least 1.
func scale(v *usher.Value, n int64) *usher.Value {
	if n == 1 {
		return v
	}
	return &usher.Value{Int: satMul(v.Int, n)}
}

// times returns n times an overage: each instance of an add-on brings its own.
func times(o usher.Overage, n int64) usher.Overage {
	o.Max = satMul(o.Max, n)
	return o
}

// timesRollover returns a rollover with n times its maximum. How many windows it
// lives does not grow with the quantity.
func timesRollover(r *usher.Rollover, n int64) *usher.Rollover {
	if r == nil || n == 1 {
		return r
	}
	return &usher.Rollover{Max: satMul(r.Max, n), Windows: r.Windows}
}

// satAdd returns x+y, or the bound of int64 that the sum would pass. Limits are
// checked for overflow when they are written; this is the second fence (S24).
func satAdd(x, y int64) int64 {
	s := x + y
	switch {
	case x > 0 && y > 0 && s < 0:
		return math.MaxInt64
	case x < 0 && y < 0 && s >= 0:
		return math.MinInt64
	}
	return s
}

// satMul returns x*n, or the bound of int64 that the product would pass. n is a
// quantity and must not be negative.
func satMul(x, n int64) int64 {
	switch {
	case n < 0:
		panic("engine: satMul: n is a quantity and must not be negative")
	case x == 0 || n == 0:
		return 0
	case x > math.MaxInt64/n:
		return math.MaxInt64
	case x < math.MinInt64/n:
		return math.MinInt64
	}
	return x * n
}

// micro returns an instant that may be missing, and none where it is.
func micro(t *time.Time, none int64) int64 {
	if t == nil {
		return none
	}
	return t.UnixMicro()
}
