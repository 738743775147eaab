// Package calendar computes windows from an anchor, a period and a time zone,
// and adds calendar spans to instants. It does not know the present time, and
// never counts a window from the one before it.
//
// It computes in wall seconds: what the clocks of a zone show, in seconds since
// they showed 1970-01-01T00:00. It lays windows out evenly there and then resolves
// each boundary to the first instant at which the clocks show that time or a later
// one. This one rule decides what happens in gaps and overlaps (S08).
package calendar

import (
	"time"

	"github.com/usher-sh/usher"
)

const (
	minute = 60
	hour   = 60 * minute
	day    = 24 * hour
)

// length returns the length of a unit, in calendar months or else in seconds. Both
// are zero for Lifetime and for an unknown unit.
func length(u usher.Unit) (months int, seconds int64) {
	switch u {
	case usher.Minute:
		return 0, minute
	case usher.Hour:
		return 0, hour
	case usher.Day:
		return 0, day
	case usher.Week:
		return 0, 7 * day
	case usher.Month:
		return 1, 0
	case usher.Quarter:
		return 3, 0
	case usher.Year:
		return 12, 0
	}
	return 0, 0
}

// At returns the window of period p that contains t, in UTC: [anchor + n periods,
// anchor + n+1 periods), where n is negative if t is before the anchor (S07, S09).
// Minutes and hours are elapsed time. Days and longer follow the wall clock of loc:
// the day is clamped to the month's length, a gap is resolved to the first instant
// after it and an overlap to its first occurrence (S08). The anchor is cut to the
// whole minute, of the wall clock for days and longer. A window is never empty, and
// the end of each is the start of the next.
//
// ok is false for Lifetime, which has no bounds, and for an invalid period. Anchor
// and t must be between usher.MinTime and usher.MaxTime.
func At(p usher.Period, anchor time.Time, loc *time.Location, t time.Time) (w usher.Window, ok bool) {
	months, seconds := length(p.Unit)
	if months == 0 && seconds == 0 || p.Every < 1 || p.Every > usher.MaxEvery {
		return usher.Window{}, false
	}
	months, seconds = months*p.Every, seconds*int64(p.Every)
	sec := t.Unix()

	if p.Unit == usher.Minute || p.Unit == usher.Hour {
		first := floor(anchor.Unix(), minute)
		start := first + floor(sec-first, seconds)
		return usher.Window{Start: instant(start), End: instant(start + seconds)}, true
	}

	// The window that holds t is the last whose start the clocks have reached.
	here := stretchAt(sec, loc)
	now := reached(sec, here, loc)
	first := floor(showing(anchor, loc), minute)
	var start, end int64
	if months == 0 {
		start = first + floor(now-first, seconds)
		end = start + seconds
	} else {
		d := dateOf(first)
		n := floor(dateOf(now).month-d.month, int64(months))
		if start = d.plus(n); start > now { // the boundary is later in this month, clamped or not
			n -= int64(months)
			start = d.plus(n)
		}
		end = d.plus(n + int64(months))
	}
	return usher.Window{Start: instant(resolve(start, here, loc)), End: instant(resolve(end, here, loc))}, true
}

// Origin returns the anchor of calendar windows (`anchor: calendar`) in loc, in UTC:
// the wall clock's 1970-01-01T00:00, so that quarters and years start in
// January; for weeks 1970-01-05T00:00, a Monday (S08).
func Origin(p usher.Period, loc *time.Location) time.Time {
	if p.Unit == usher.Week {
		return Resolve(1970, time.January, 5, 0, 0, 0, 0, loc)
	}
	return Resolve(1970, time.January, 1, 0, 0, 0, 0, loc)
}

// Add returns t plus s, in UTC. Minutes and hours are elapsed time; days and
// longer keep the wall clock's time of day in loc, with the day clamped to the
// month's length and gaps and overlaps resolved as for windows (S08). It returns t
// for a span of 0 and for a unit without length.
func Add(t time.Time, s usher.Span, loc *time.Location) time.Time {
	months, seconds := length(s.Unit)
	if s.N == 0 || months == 0 && seconds == 0 {
		return t.UTC()
	}
	if s.Unit == usher.Minute || s.Unit == usher.Hour {
		return time.Unix(t.Unix()+int64(s.N)*seconds, int64(t.Nanosecond())).UTC()
	}
	wall := showing(t, loc) + int64(s.N)*seconds
	if months != 0 {
		wall = dateOf(wall).plus(int64(s.N) * int64(months))
	}
	return resolveNano(wall, t.Nanosecond(), loc)
}

// date is a wall time in the parts that counting in months needs.
type date struct {
	month int64 // months since January of year 0
	day   int   // 1 to 31
	clock int64 // seconds since midnight
}

func dateOf(wall int64) date {
	y, m, d := instant(wall).Date()
	return date{int64(y)*12 + int64(m) - 1, d, wall - floor(wall, day)}
}

// plus returns the wall seconds n months after d, clamped to the last day of
// the month (S07).
func (d date) plus(n int64) int64 {
	month := d.month + n
	y := int(floor(month, 12) / 12)
	m := time.Month(month-int64(y)*12) + 1
	first := time.Date(y, m, 1, 0, 0, 0, 0, time.UTC).Unix()
	next := time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC).Unix()
	return min(first+int64(d.day-1)*day, next-day) + d.clock
}

// floor returns the largest multiple of size that is not above n.
func floor(n, size int64) int64 {
	r := n % size
	if r < 0 {
		r += size
	}
	return n - r
}

func instant(sec int64) time.Time { return time.Unix(sec, 0).UTC() }
