package engine

import (
	"math"
	"slices"
	"time"

	"github.com/usher-sh/usher"
)

const (
	minMicro = math.MinInt64
	maxMicro = math.MaxInt64
	minuteµs = 60_000_000
)

// figures are a row's figures at an instant.
type figures struct {
	window    span
	start     int64 // of the bucket
	unlimited bool
	limit     int64
	opening   int64
	used      int64 // with opening
	reserved  int64
	remaining int64
	overage   int64
	excess    int64
	room      int64 // what overage still permits
}

// settle derives what is left, overage and excess from use and limit (S14, S19,
// S20): what lies beyond the limit is overage as far as that is permitted, and
// excess from there.
func (n *figures) settle(o usher.Overage) {
	n.remaining, n.overage, n.excess, n.room = 0, 0, 0, 0
	if n.unlimited {
		return
	}
	held := satAdd(n.used, n.reserved)
	permitted := o.Max
	if o.Unlimited {
		permitted = math.MaxInt64
	}
	if held <= n.limit {
		n.remaining, n.room = n.limit-held, min(permitted, math.MaxInt64-n.limit)
		return
	}
	beyond := held - n.limit
	n.overage = min(beyond, permitted)
	n.excess = beyond - n.overage
	n.room = min(permitted-n.overage, math.MaxInt64-held) // so that use can be counted (S24)
}

// sums adds up what a list of rows still holds.
func sums(rows []figures) (included, room int64, unlimited bool) {
	for i := range rows {
		n := &rows[i]
		unlimited = unlimited || n.unlimited
		included = satAdd(included, n.remaining)
		room = satAdd(room, n.room)
	}
	return
}

// fits reports whether every bucket can count amount more.
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
// the draw. The product itself fits, because the pool's figures bound it.
func (s *Snapshot) drawFits(f *feature, buf *Buf, v verdict) bool {
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

// applyAdd raises the first limited slot, or lowers slots in order, none below 0.
func applyAdd(slots []slot, n int64) bool {
	done := false
	for i := range slots {
		if slots[i].unlimited {
			continue
		}
		done = true
		if n >= 0 {
			slots[i].limit = satAdd(slots[i].limit, n)
			return true
		}
		take := min(slots[i].limit, -n)
		slots[i].limit -= take
		n += take
		if n == 0 {
			return true
		}
	}
	return done
}

// combine applies a rule to two values (S04).
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
		all := slices.Concat(x.List, y.List)
		slices.Sort(all)
		return &usher.Value{List: slices.Compact(all)}
	}
	return y
}

// rank places a value in its order. An enum's is that of the feature as it is
// now, because values may have been added since a plan was published.
func rank(f *usher.Feature, v *usher.Value) int64 {
	if f.Type == usher.TypeEnum {
		return int64(slices.Index(f.Values, v.Text))
	}
	return v.Int
}

func scale(v *usher.Value, times int64) *usher.Value {
	if times == 1 {
		return v
	}
	return &usher.Value{Int: satMul(v.Int, times)}
}

func times(o usher.Overage, n int64) usher.Overage {
	o.Max = satMul(o.Max, n)
	return o
}

func timesRollover(r *usher.Rollover, n int64) *usher.Rollover {
	if r == nil || n == 1 {
		return r
	}
	return &usher.Rollover{Max: satMul(r.Max, n), Windows: r.Windows}
}

// satAdd and satMul stay at the bounds of int64 instead of wrapping; limits are
// checked for overflow where they are written, so this is a second fence (S24).
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

func satMul(x, n int64) int64 {
	if x == 0 || n == 0 {
		return 0
	}
	if x > math.MaxInt64/n {
		return math.MaxInt64
	}
	return x * n
}

func cmp64(x, y int64) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func micro(t *time.Time, none int64) int64 {
	if t == nil {
		return none
	}
	return t.UnixMicro()
}
