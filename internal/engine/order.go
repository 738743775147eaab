package engine

import (
	"cmp"
	"slices"
)

// before compares two slots in burn order (S15): negative if x burns first. The
// order is total, so that the same facts always burn the same way. Each step
// decides only if all steps above it are equal.
func before(x, y *slot) int {
	return cmp.Or(
		falseFirst(!x.unlimited, !y.unlimited), // an unlimited slot is never used up, so nothing after it is touched
		cmp.Compare(x.priority, y.priority),    // the seller's own order; the lower number burns first
		cmp.Compare(x.end, y.end),              // what ends soonest would be lost soonest
		falseFirst(x.paid, y.paid),             // free before paid
		falseFirst(!x.rolled, !y.rolled),       // what was rolled over is not rolled again, so before the fresh amount (S21)
		cmp.Compare(x.began, y.began),
		cmp.Compare(x.id, y.id),
	)
}

// falseFirst compares two conditions: negative if only y is true.
func falseFirst(x, y bool) int {
	switch {
	case x == y:
		return 0
	case y:
		return -1
	}
	return 1
}

// burnOrder returns the frame's parts in burn order at an instant. A window that
// begins with its first use has no end in the frame, because frames know no use;
// here its real end, or the end that it would have if it began now, is filled in
// and the parts are sorted again.
func (s *Snapshot) burnOrder(fr *frame, rows []figures, at int64) []part {
	order := slices.Clone(fr.burn)
	for i := range order {
		p := &order[i]
		if r := &fr.rows[p.row]; r.firstUse {
			if p.end = rows[p.row].window.end; p.end == 0 {
				p.end = addPeriod(rows[p.row].start, r.per, s.World, at)
			}
		}
	}
	slices.SortStableFunc(order, func(x, y part) int { return before(&x.slot, &y.slot) })
	return order
}

// bookkeeper returns the index of the row that excess is booked to: the last in
// burn order that is neither a grant nor a rollover. A limit that is raised later
// then covers the excess, and a later grant does not (S14, S19). -1 means that
// place has not yet added the row for ClockNone, which every finished frame of a
// feature with grants alone, or with nothing, has.
func bookkeeper(fr *frame) int {
	for i := len(fr.rows) - 1; i >= 0; i-- {
		if r := &fr.rows[i]; !r.grant && r.roll == nil {
			return i
		}
	}
	return -1
}
