package engine

import (
	"slices"
	"strings"
)

// before is the burn order (S15): unlimited first; lower priority number;
// soonest end; free before paid; rolled over before fresh; earlier start; id.
func before(x, y *slot) int {
	switch {
	case x.unlimited != y.unlimited:
		return btoi(y.unlimited) - btoi(x.unlimited)
	case x.priority != y.priority:
		return x.priority - y.priority
	case x.end != y.end:
		return cmp64(x.end, y.end)
	case x.paid != y.paid:
		return btoi(x.paid) - btoi(y.paid)
	case x.rolled != y.rolled:
		return btoi(y.rolled) - btoi(x.rolled)
	case x.began != y.began:
		return cmp64(x.began, y.began)
	}
	return strings.Compare(x.id, y.id)
}

// burnOrder sorts the slots by the ends of windows that began with their first
// use, or would begin now (S15).
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

// bookkeeper is the row that excess is booked to: the last in burn order that
// is no grant and no rollover, so that a raised limit covers it and a later
// grant does not (S14, S19). place sees to it that there is one: ClockNone where
// there are grants alone, or nothing.
func bookkeeper(fr *frame) int {
	for i := len(fr.rows) - 1; i >= 0; i-- {
		if r := &fr.rows[i]; !r.grant && r.roll == nil {
			return i
		}
	}
	return -1
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
