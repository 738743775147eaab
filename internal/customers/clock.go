package customers

import (
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
)

// maxClocks bounds a customer's clocks: each moves windows, and that is rare.
const maxClocks = 1000

// inForce returns the index of the clock in force at t.
func inForce(clocks []usher.Clock, t time.Time) int {
	i := len(clocks) - 1
	for i > 0 && clocks[i].From.After(t) {
		i--
	}
	return i
}

// anchored returns clocks with a new anchor in force from a minute on. Changes that
// were to come later are dropped, because the new anchor is the latest decision. used
// says that use was counted by the clocks so far; then even the first must stay, so
// that the use of its windows is carried over.
func anchored(clocks []usher.Clock, from, anchor time.Time, used bool) []usher.Clock {
	i := inForce(clocks, from)
	kept := slices.Clone(clocks[:i+1])
	if kept[i].Anchor.Equal(anchor) {
		return kept
	}
	return tidy(placed(kept, i, from, used, func(c *usher.Clock) { c.Anchor = anchor }))
}

// zoned returns clocks with a new zone in force from a minute on, also in clocks that
// begin later.
func zoned(clocks []usher.Clock, from time.Time, zone string, used bool) []usher.Clock {
	i := inForce(clocks, from)
	if clocks[i].Timezone == zone {
		return clocks
	}
	return tidy(placed(slices.Clone(clocks), i, from, used, func(c *usher.Clock) { c.Timezone = zone }))
}

// placed applies set to the clock i, which is in force at from, and to all clocks
// after it. If clock i began earlier, it is split, so that it changes from then on
// only.
func placed(clocks []usher.Clock, i int, from time.Time, used bool, set func(*usher.Clock)) []usher.Clock {
	// The first clock is kept even if it began at from: use was counted in its windows, and
	// the engine carries that use over only if it knows them.
	if clocks[i].From.Before(from) || i == 0 && used {
		c := clocks[i]
		c.From = from
		i++
		clocks = slices.Insert(clocks, i, c)
	}
	for j := i; j < len(clocks); j++ {
		set(&clocks[j])
	}
	return clocks
}

// tidy drops clocks that are the same as the one before.
func tidy(clocks []usher.Clock) []usher.Clock {
	return slices.CompactFunc(clocks, func(a, b usher.Clock) bool { return a.Anchor.Equal(b.Anchor) && a.Timezone == b.Timezone })
}

// start gives the customer its anchor when it gets a subscription (S18): named, the
// anchor that the caller gave with the subscription, or the start of the customer's
// first subscription. others are the customer's other subscriptions as they are from
// now on. start reports whether anything changed.
func (h *held) start(c *usher.Customer, others []usher.Subscription, starts time.Time, named *time.Time) bool {
	before := *c
	if !slices.ContainsFunc(others, began) {
		forgetStart(c, others, h.now)
	}
	if named != nil || c.Anchor == nil {
		anchor, from := minute(starts), minute(starts)
		if named != nil {
			anchor = minute(*named)
		}
		if starts.Before(h.now) {
			from = minute(h.now)
		}
		if first := c.Clocks[0].From; c.Anchor == nil && !h.used && (!minute(starts).After(first) || !from.After(first)) {
			// Until now windows began at the creation, and no use was counted in them,
			// so the anchor can hold from the beginning.
			c.Clocks = slices.Clone(c.Clocks)
			for i := range c.Clocks {
				c.Clocks[i].Anchor = anchor
			}
		} else {
			c.Clocks = anchored(c.Clocks, from, anchor, h.used)
		}
		c.Anchor = &anchor
	}
	return before.Anchor != c.Anchor || !slices.Equal(before.Clocks, c.Clocks)
}

// forgetStart takes back an anchor to come that a subscription would have brought,
// if that subscription is replaced before it begins.
func forgetStart(c *usher.Customer, never []usher.Subscription, now time.Time) {
	last := len(c.Clocks) - 1
	if c.Anchor == nil || last < 1 || !c.Clocks[last].From.After(now) ||
		!slices.ContainsFunc(never, func(s usher.Subscription) bool { return minute(s.StartsAt).Equal(c.Clocks[last].From) }) {
		return
	}
	c.Clocks = slices.Clone(c.Clocks[:last])
	c.Anchor = nil
	if k := c.Clocks[last-1]; !k.Anchor.Equal(c.Clocks[0].From) {
		c.Anchor = &k.Anchor
	}
}

// began reports whether the subscription is in force at any time: one that was
// replaced before its start never is.
func began(s usher.Subscription) bool { return s.EndsAt == nil || s.EndsAt.After(s.StartsAt) }

// periodOf returns the billing period that contains t: a month or a year from the
// anchor in force then (S35).
func (h *held) periodOf(plan usher.Ref, t time.Time) usher.Window {
	unit := usher.Month
	if p, ok := h.book.Plan(plan); ok && p.Period != "" {
		unit = p.Period
	}
	k := h.Customer.Clocks[inForce(h.Customer.Clocks, t)]
	w, _ := calendar.At(usher.Period{Every: 1, Unit: unit}, k.Anchor, h.zoneOf(k), t)
	return w
}
