package engine

import (
	"cmp"
	"slices"

	"github.com/usher-sh/usher"
)

// turn says which entry of a list counts from an instant on, until the next turn.
type turn struct {
	from int64
	of   int // its index in the list; -1: none
}

// overlay returns which of several spans counts when: of those that overlap, the
// last in the list. The first turn begins at minMicro, and neighbours differ.
// Empty spans never count.
//
// The spans cut time into cells. overlay paints cells from the last span to the
// first and never visits a painted cell again, so its work is n log n; asking
// every span at every cut would be n².
func overlay(spans []span) []turn {
	cuts := make([]int64, 1, 2*len(spans)+1)
	cuts[0] = minMicro
	for _, s := range spans {
		if s.start < s.end {
			cuts = append(cuts, s.start, s.end)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	top := make([]int, len(cuts))    // by cell: the span on top
	free := make([]int, len(cuts)+1) // by cell: a cell at or after it that may be unpainted
	for i := range top {
		top[i], free[i] = -1, i
	}
	free[len(cuts)] = len(cuts)
	next := func(i int) int { // the first unpainted cell at or after i
		for free[i] != i {
			free[i] = free[free[i]] // halve the path for the next visit
			i = free[i]
		}
		return i
	}
	for i := len(spans) - 1; i >= 0; i-- {
		s := spans[i]
		if s.start >= s.end {
			continue
		}
		c, _ := slices.BinarySearch(cuts, s.start)
		end, _ := slices.BinarySearch(cuts, s.end)
		for c = next(c); c < end; c = next(c) {
			top[c], free[c] = i, c+1
		}
	}
	turns := make([]turn, 0, len(cuts))
	for i, from := range cuts {
		if i == 0 || top[i] != top[i-1] {
			turns = append(turns, turn{from, top[i]})
		}
	}
	return turns
}

// turnAt returns the index of the entry that counts at an instant, -1 for none, and
// the span in which it does. No turns at all mean that nothing ever counts.
func turnAt(turns []turn, at int64) (of int, s span) {
	if len(turns) == 0 {
		return -1, span{minMicro, maxMicro}
	}
	i, found := slices.BinarySearchFunc(turns, at, func(t turn, at int64) int { return cmp.Compare(t.from, at) })
	if !found {
		i--
	}
	s = span{turns[i].from, maxMicro}
	if i+1 < len(turns) {
		s.end = turns[i+1].from
	}
	return turns[i].of, s
}

// run says which clocks, caps and rollovers a feature has from an instant on, until
// the next run. Grants are left out: each has a clock of its own, so no grant makes
// a shared clock appear or disappear.
type run struct {
	from   int64
	clocks []string
	caps   []capClock
	left   []leftover
}

// leftover names the clock of the bucket for what an allowance of a clock leaves.
type leftover struct{ clock, into string }

// capClock identifies a cap's count: caps with the same one share it.
type capClock struct {
	per    usher.Period
	anchor usher.Anchor
}

// runsOf returns the runs of a feature. They are made when a window first asks
// about its past, and kept. Of a customer whose sources do not change inside
// their windows they are never made.
func (w *World) runsOf(f *feature) []run {
	if p := f.runs.Load(); p != nil {
		return *p
	}
	cuts := make([]int64, 0, len(w.timeline)+len(f.set)+len(f.deny))
	for i := range w.timeline {
		cuts = append(cuts, w.timeline[i].from)
	}
	for _, list := range [][]turn{f.set, f.deny} { // an add changes no clock
		for _, t := range list {
			cuts = append(cuts, t.from)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var (
		runs      []run
		live      []given
		was       []given
		set, deny *usher.Override
	)
	for i, from := range cuts {
		x, _ := f.exceptionAt(from)
		was, live = live, w.liveAt(f, w.eraAt(from), was[:0])
		if i > 0 && x.set == set && x.deny == deny && slices.Equal(live, was) {
			continue
		}
		set, deny = x.set, x.deny
		r := run{from: from}
		terms := w.termsAt(f, from)
		for _, s := range clocked(terms.slots) {
			if !slices.Contains(r.clocks, s.clock) {
				r.clocks = append(r.clocks, s.clock)
			}
			if s.rollover != nil {
				r.left = append(r.left, leftover{s.clock, s.into})
			}
		}
		for _, c := range terms.caps {
			r.caps = append(r.caps, capClock{c.cap.Per, c.cap.Anchor})
		}
		if n := len(runs); n == 0 || !runs[n-1].like(&r) {
			runs = append(runs, r)
		}
	}
	f.runs.Store(&runs)
	return runs
}

// like reports whether two runs differ in nothing but their beginning.
func (r *run) like(o *run) bool {
	return slices.Equal(r.clocks, o.clocks) && slices.Equal(r.caps, o.caps) && slices.Equal(r.left, o.left)
}

// runAt returns the index of the run that holds at an instant.
func runAt(runs []run, at int64) int {
	i, found := slices.BinarySearchFunc(runs, at, func(r run, at int64) int { return cmp.Compare(r.from, at) })
	if !found {
		i--
	}
	return i
}
