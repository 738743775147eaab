package engine

// BucketKey names one bucket of a customer: a feature, the clock that its
// windows follow, and the window's start.
type BucketKey struct {
	Feature string
	Clock   string // a name that the engine makes; README.md lists the forms
	Start   int64  // microseconds since 1970 UTC
}

// Bucket is the stored count of one clock of one feature in one window. Quantities
// are in smallest units and never negative. Limit, Opening, Overage and Excess are
// copies of what the rules said at the last change; the database uses them to check
// that no bucket holds more than is permitted (I1). Decisions read only Used,
// Reserved and the window.
type Bucket struct {
	BucketKey
	End       int64 // microseconds since 1970 UTC, exclusive; math.MaxInt64 is open
	Unlimited bool
	Limit     int64 // 0 if Unlimited
	Opening   int64 // use that the window began with (S18, S34); not part of Used
	Used      int64 // includes Overage and Excess
	Reserved  int64
	Overage   int64
	Excess    int64
	At        int64 // time of the newest value of a gauge, in microseconds since 1970 UTC; 0: none
}

// ClockNone is the clock of use that nothing entitles (S14).
const ClockNone = "none"

// shelf is the buckets of one feature in a snapshot. nil is empty.
//
// Most shelves are short and are searched from end to end. A customer with
// thousands of grants has long ones, so above shortShelf a shelf has an index:
// index, which clones share and nobody changes, and added, which belongs to this
// shelf alone.
type shelf struct {
	list         []Bucket
	index, added map[place]int // positions in list; nil on a short shelf
}

// place identifies a bucket on its shelf.
type place struct {
	clock string
	start int64
}

// shortShelf is the greatest number of buckets that are searched one by one. Up to
// there a search is faster than a map.
const shortShelf = 16

// find returns the position of a bucket, -1 without one.
func (sh *shelf) find(clock string, start int64) int {
	if sh == nil {
		return -1
	}
	if len(sh.list) > shortShelf {
		at := place{clock, start}
		if i, ok := sh.index[at]; ok {
			return i
		}
		if i, ok := sh.added[at]; ok {
			return i
		}
		return -1
	}
	for i := range sh.list {
		if b := &sh.list[i]; b.Start == start && b.Clock == clock {
			return i
		}
	}
	return -1
}

// latest returns the position of the newest bucket of a clock that began at or
// before an instant, -1 without one.
func (sh *shelf) latest(clock string, at int64) int {
	best := -1
	if sh == nil {
		return best
	}
	for i := range sh.list {
		if b := &sh.list[i]; b.Clock == clock && b.Start <= at && (best < 0 || b.Start > sh.list[best].Start) {
			best = i
		}
	}
	return best
}

// put adds or replaces one bucket.
func (sh *shelf) put(b Bucket) {
	if i := sh.find(b.Clock, b.Start); i >= 0 {
		sh.list[i] = b
		return
	}
	sh.list = append(sh.list, b)
	switch n := len(sh.list); {
	case n == shortShelf+1:
		sh.index, sh.added = nil, places(sh.list)
	case n > shortShelf:
		if sh.added == nil {
			sh.added = map[place]int{}
		}
		sh.added[place{b.Clock, b.Start}] = n - 1
	}
}

// clone returns a shelf that may be changed without being seen through sh.
func (sh *shelf) clone() *shelf {
	c := &shelf{list: append(make([]Bucket, 0, len(sh.list)+2), sh.list...), index: sh.index}
	if len(sh.added) > 0 { // index them now, and the clone's clones share the index
		c.index = places(c.list)
	}
	return c
}

// places returns the positions of all buckets of a list.
func places(list []Bucket) map[place]int {
	m := make(map[place]int, len(list))
	for i := range list {
		m[place{list[i].Clock, list[i].Start}] = i
	}
	return m
}
