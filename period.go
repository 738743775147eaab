package usher

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Unit is a length of the calendar.
type Unit string

// The units of a window. Minute and hour are elapsed time; day and longer
// follow the wall clock of the customer's zone; lifetime has no bounds (S08).
const (
	Minute   Unit = "minute"
	Hour     Unit = "hour"
	Day      Unit = "day"
	Week     Unit = "week"
	Month    Unit = "month"
	Quarter  Unit = "quarter"
	Year     Unit = "year"
	Lifetime Unit = "lifetime"
)

// Units lists every unit, shortest first.
var Units = []Unit{Minute, Hour, Day, Week, Month, Quarter, Year, Lifetime}

// MaxEvery is the largest Period.Every.
const MaxEvery = 1000

// Period is the length of a window: Every × Unit. Every is 1 to MaxEvery, and 1
// for Lifetime.
type Period struct {
	Every int  `json:"every" keep:"1"`
	Unit  Unit `json:"unit" keep:"2"`
}

// String is "month" or "6 hour"; it is also the stored name of a clock.
func (p Period) String() string {
	if p.Every == 1 {
		return string(p.Unit)
	}
	return strconv.Itoa(p.Every) + " " + string(p.Unit)
}

// Length is a Period as answers show it: "month", or {"every": 6, "unit": "hour"}.
type Length Period

// MarshalJSON writes the unit alone if it is one of it.
func (l Length) MarshalJSON() ([]byte, error) { return appendPeriod(nil, Period(l)), nil }

// UnmarshalJSON reads what MarshalJSON wrote.
func (l *Length) UnmarshalJSON(b []byte) error { return (*Period)(l).UnmarshalJSON(b) }

// Anchor says from where windows are computed.
type Anchor string

// The anchors. AnchorSubscription is the customer's own (S18) and the default.
const (
	AnchorSubscription Anchor = "subscription"
	AnchorCalendar     Anchor = "calendar"
	AnchorFirstUse     Anchor = "first_use"
)

// Span is a length of time in calendar terms, such as a trial of 14 days. Days,
// weeks, months and years follow the wall clock; minutes and hours are elapsed
// time. The zero Span is no time at all.
type Span struct {
	N    int  `json:"n"`
	Unit Unit `json:"unit"` // any but Quarter and Lifetime
}

// MaxSpan is the largest Span.N.
const MaxSpan = 10_000

// ParseSpan reads "14 days", "1 month", "36 hours".
func ParseSpan(s string) (Span, error) {
	bad := Errorf(Invalid, `must be a span such as "14 days", "1 month" or "36 hours", got %s`, clip(s))
	number, unit, ok := strings.Cut(strings.TrimSpace(s), " ")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 0 || !digits(number) {
		return Span{}, bad
	}
	if n > MaxSpan {
		return Span{}, Errorf(Invalid, "must be at most %d units long, got %s", MaxSpan, clip(s))
	}
	switch u := Unit(strings.TrimSuffix(unit, "s")); u {
	case Minute, Hour, Day, Week, Month, Year:
		return Span{n, u}, nil
	}
	return Span{}, bad
}

// String is the form that ParseSpan reads.
func (s Span) String() string {
	if s.N == 1 {
		return "1 " + string(s.Unit)
	}
	return fmt.Sprintf("%d %ss", s.N, s.Unit)
}

// MarshalText makes a Span a string in JSON; the zero Span is "".
func (s Span) MarshalText() ([]byte, error) {
	if s == (Span{}) {
		return nil, nil
	}
	return []byte(s.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (s *Span) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*s = Span{}
		return nil
	}
	*s, err = ParseSpan(string(text))
	return err
}

// Window is a half-open span [Start, End) (S09). Both zero: it has no bounds.
type Window struct {
	Start time.Time `json:"start,omitzero" keep:"1" doc:"The first instant of the window"`
	End   time.Time `json:"end,omitzero" keep:"2" doc:"The first instant after the window"`
}

// MinTime and MaxTime bound every instant that usher accepts.
var (
	MinTime = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	MaxTime = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// ParseTime reads an RFC 3339 time with its zone, cut to the microsecond, as
// UTC. Times before MinTime or from MaxTime on are refused.
func ParseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, Errorf(Invalid, `must be an RFC 3339 time with its zone, such as "2026-03-31T00:00:00Z", got %s`, clip(s))
	}
	if t.Before(MinTime) || !t.Before(MaxTime) {
		return time.Time{}, Errorf(Invalid, "must lie between %s and %s, got %s", MinTime.Format("2006"), MaxTime.Format("2006"), clip(s))
	}
	return t.UTC().Truncate(time.Microsecond), nil
}
