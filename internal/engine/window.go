package engine

import (
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
)

// span is [start, end) in microseconds since 1970 UTC. At the instant of its end
// it no longer holds (S09).
type span struct{ start, end int64 }

var forever = span{0, maxMicro}

// anchoring is one anchor and time zone of the customer, in force over
// [from, until). A new one never changes windows that have ended.
type anchoring struct {
	from, until int64
	anchor      time.Time
	zone        *time.Location
}

// raw returns the window of a clock as if this anchoring had always been in force.
func (k *anchoring) raw(p usher.Period, a usher.Anchor, at int64) span {
	anchor := k.anchor
	if a == usher.AnchorCalendar {
		anchor = calendar.Origin(p, k.zone)
	}
	w, _ := calendar.At(p, anchor, k.zone, time.UnixMicro(at))
	return span{w.Start.UnixMicro(), w.End.UnixMicro()}
}

// windowAt returns the window of a clock that contains an instant. A new anchor or
// zone cuts the open window that it moves, and only that one (S18). cut is the
// start of the window that was cut where this one begins, or 0.
func (w *World) windowAt(p usher.Period, a usher.Anchor, at int64) (s span, cut int64) {
	if p.Unit == usher.Lifetime {
		return forever, 0
	}
	i := len(w.anchorings) - 1
	for i > 0 && w.anchorings[i].from > at {
		i--
	}
	s = w.anchorings[i].raw(p, a, at)
	// Looking back: did this window begin under an older anchoring? A window that
	// begins exactly when the new anchor takes effect carries use as well;
	// otherwise a new anchor would give an allowance twice.
	for j := i; j > 0 && s.start <= w.anchorings[j].from; j-- {
		from := w.anchorings[j].from
		old := w.anchorings[j-1].raw(p, a, from)
		if old.end == s.end {
			s.start = old.start // the boundary does not move, so nothing is cut
			continue
		}
		s.start = from
		if old.start < from {
			before, _ := w.windowAt(p, a, from-1)
			cut = before.start
		}
		break
	}
	// Looking ahead: does a newer anchoring cut it before it ends?
	for j := i + 1; j < len(w.anchorings) && s.end > w.anchorings[j].from; j++ {
		if next := w.anchorings[j].raw(p, a, w.anchorings[j].from); next.end != s.end {
			s.end = w.anchorings[j].from
			break
		}
	}
	return s, cut
}

// addPeriod returns the end of a window that begins with its first use: it has no
// anchor but its own start.
func addPeriod(start int64, p usher.Period, w *World, at int64) int64 {
	t := time.UnixMicro(start).UTC()
	win, ok := calendar.At(p, t, w.Zone(time.UnixMicro(at)), t)
	if !ok {
		return maxMicro
	}
	return win.End.UnixMicro()
}

// slidingSpan returns the length of a sliding cap's span and of the steps in which
// it counts, a sixtieth each, in microseconds. A step that lies partly outside the
// span counts whole, so the cap is never exceeded.
func slidingSpan(p usher.Period) (length, step int64) {
	length = minuteµs * int64(p.Every)
	switch p.Unit {
	case usher.Hour:
		length *= 60
	case usher.Day:
		length *= 24 * 60
	}
	return length, length / 60
}

// slidingUse returns the use in all of a sliding cap's steps that reach into the
// span that ends at at, and the instant at which the first of that use falls out;
// maxMicro if there is no such use.
func (s *Snapshot) slidingUse(list *shelf, c *capRow, at int64) (used, falls int64) {
	length, step := slidingSpan(c.cap.Per)
	falls = maxMicro
	if list == nil {
		return 0, falls
	}
	for i := range list.list {
		if b := &list.list[i]; b.Clock == c.key.Clock && b.Start > at-length-step && b.Start <= at {
			if n := s.holds(b, at); n > 0 {
				used, falls = satAdd(used, n), min(falls, b.Start+length+step)
			}
		}
	}
	return used, falls
}
