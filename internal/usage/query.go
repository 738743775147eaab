package usage

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
	"github.com/usher-sh/usher/internal/store"
)

// UsageQuery asks for the use of one feature in [From, To). Both are moved to the next
// whole minute, so that spans that follow one another count nothing twice.
type UsageQuery struct {
	Customer string
	Feature  string
	From, To time.Time
	Window   usher.Unit // Minute, Hour, Day or Month; days and months in the customer's zone
	GroupBy  string     // a dimension of the feature's meter; "" is none
}

// wholeMinute returns the first whole minute at or after t.
func wholeMinute(t time.Time) time.Time {
	return t.Add(time.Minute - time.Microsecond).Truncate(time.Minute)
}

// maxPoints is how many windows one answer may have: a month of minutes fits.
const maxPoints = 50_000

// Query returns the use in each window, in order, without windows that have none. The
// value of a window depends on the feature's meter: the sum of what adds up, the
// greatest value for max, the latest for last, and for unique the exact number of
// different values.
func (u *Usage) Query(ctx context.Context, env usher.Environment, q UsageQuery) ([]usher.UsagePoint, error) {
	book := u.cfg.Live.Book(env)
	var problems []usher.Problem
	bad := func(where, what string) {
		problems = append(problems, usher.Problem{Location: where, Message: what})
	}
	f := book.Features[q.Feature]
	if f == nil {
		bad("feature", fmt.Sprintf("unknown feature %q", q.Feature))
	}
	span := map[usher.Unit]time.Duration{ // the shortest window
		usher.Minute: time.Minute, usher.Hour: time.Hour, usher.Day: 23 * time.Hour, usher.Month: 28 * 24 * time.Hour}[q.Window]
	if span == 0 {
		bad("window", "must be minute, hour, day or month")
	}
	from, to := wholeMinute(q.From), wholeMinute(q.To)
	switch {
	case !q.From.Before(q.To):
		bad("to", "must be after from")
	case span > 0 && to.Sub(from)/span > maxPoints:
		bad("window", fmt.Sprintf("must be longer, or from and to closer: one answer has at most %d windows", maxPoints))
	}
	aggregation := usher.Sum
	if f != nil {
		m := book.Meter(f)
		if m != nil {
			aggregation = m.Aggregation
		}
		if q.GroupBy != "" {
			switch {
			case m == nil || !slices.Contains(m.Dimensions, q.GroupBy):
				bad("group_by", "must be one of the dimensions that the feature's meter declares")
			case aggregation == usher.Unique:
				bad("group_by", "must not be set: the meter counts different values, which are counted over all groups only")
			}
		}
	}
	if len(problems) > 0 {
		return nil, &usher.Error{Code: usher.Invalid, Detail: "the usage query is not valid", Problems: problems}
	}
	s, err := u.cfg.Live.Snapshot(ctx, env, q.Customer, u.cfg.Live.Now(env))
	if err != nil {
		return nil, err
	}
	if !s.World.Known() {
		return nil, usher.Errorf(usher.NotFound, "no customer %q", q.Customer)
	}
	period := usher.Period{Every: 1, Unit: q.Window}
	windowOf := func(t time.Time) usher.Window {
		zone := s.World.Zone(t)
		w, _ := calendar.At(period, calendar.Origin(period, zone), zone, t)
		return w
	}
	if aggregation == usher.Unique {
		return u.uniques(ctx, env, q, f, from, to, windowOf)
	}
	// Rollups exist for each minute, hour and day. Spans covers a window with the
	// fewest rows: those of whole days and hours, and minutes only at its ends.
	var spans []store.Span
	for t := from; t.Before(to); {
		end := windowOf(t).End
		if end.After(to) {
			end = to
		}
		if q.Window == usher.Minute {
			end = to
			spans = append(spans, store.Span{Grain: store.Minute, From: t.UnixMicro(), Until: end.UnixMicro()})
		} else {
			spans = append(spans, store.Spans(t, end)...)
		}
		t = end
	}
	// Only events have a dimension's values. What else was used, by consumes and
	// settlements, is in the group "", so that the groups add up to the total.
	read := u.cfg.DB.Rollups
	rest := q.GroupBy != "" && aggregation.Adds()
	if rest {
		read = u.cfg.DB.Groups
	}
	rows, err := read(ctx, env, q.Customer, q.Feature, q.GroupBy, store.JoinSpans(spans))
	if err != nil {
		return nil, err
	}
	type key struct {
		start int64
		value string
	}
	points := map[key]*usher.UsagePoint{}
	latest := map[key]time.Time{}
	var w usher.Window
	for _, r := range rows {
		if r.Start.Before(w.Start) || !r.Start.Before(w.End) {
			w = windowOf(r.Start)
		}
		k := key{w.Start.UnixMicro(), r.Value}
		point := func(k key) *usher.UsagePoint {
			p := points[k]
			if p == nil {
				p = &usher.UsagePoint{Start: w.Start, End: w.End, Precision: f.Precision}
				if q.GroupBy != "" {
					p.Group = map[string]string{q.GroupBy: k.value}
				}
				points[k] = p
			}
			return p
		}
		if rest && r.Clock == "" {
			if r.Value != "" {
				point(k).Value += r.Used
				point(key{k.start, ""}).Value -= r.Used
			}
			continue // events without a value are in the total as well
		}
		p := point(k)
		switch aggregation {
		case usher.Max:
			p.Value = max(p.Value, r.Used)
		case usher.Last:
			if !r.At.Before(latest[k]) {
				p.Value, latest[k] = r.Used, r.At
			}
		default:
			p.Value += r.Used
		}
	}
	out := make([]usher.UsagePoint, 0, len(points))
	for _, p := range points {
		if p.Value != 0 || !aggregation.Adds() {
			out = append(out, *p)
		}
	}
	slices.SortFunc(out, func(x, y usher.UsagePoint) int {
		return cmp.Or(x.Start.Compare(y.Start), cmp.Compare(x.Group[q.GroupBy], y.Group[q.GroupBy]))
	})
	return out, nil
}

// uniques counts the different values in each window.
func (u *Usage) uniques(ctx context.Context, env usher.Environment, q UsageQuery, f *usher.Feature, from, to time.Time,
	windowOf func(time.Time) usher.Window) ([]usher.UsagePoint, error) {
	var windows, clipped []usher.Window
	for t := from; t.Before(to); {
		w := windowOf(t)
		windows = append(windows, w)
		c := w
		if c.Start.Before(t) { // the window began before from, or the customer's zone changed
			c.Start = t
		}
		if c.End.After(to) {
			c.End = to
		}
		clipped = append(clipped, c)
		t = w.End
	}
	counts, err := u.cfg.DB.SeenIn(ctx, env, q.Customer, q.Feature, clipped)
	if err != nil {
		return nil, err
	}
	out := []usher.UsagePoint{}
	for i, n := range counts {
		if n > 0 {
			out = append(out, usher.UsagePoint{Start: windows[i].Start, End: windows[i].End, Value: n, Precision: f.Precision})
		}
	}
	return out, nil
}
