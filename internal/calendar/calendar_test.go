package calendar

import (
	"fmt"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := Zone(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// instants are written in the tests as RFC 3339.
func at(t testing.TB, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func per(every int, unit usher.Unit) usher.Period { return usher.Period{Every: every, Unit: unit} }

// wantBounds checks that successive windows from the one that holds the first
// bound on have exactly these bounds, and that each holds its start, its last
// nanosecond, and not its end (S09).
func wantBounds(t *testing.T, p usher.Period, anchor time.Time, loc *time.Location, bounds ...string) {
	t.Helper()
	for i := 0; i+1 < len(bounds); i++ {
		start, end := at(t, bounds[i]), at(t, bounds[i+1])
		for _, probe := range []time.Time{start, start.Add(end.Sub(start) / 2), end.Add(-1)} {
			w, ok := At(p, anchor, loc, probe)
			if !ok || !w.Start.Equal(start) || !w.End.Equal(end) {
				t.Errorf("%v from %s in %s at %s:\n got [%s, %s) ok %t\nwant [%s, %s)", p, anchor.Format(time.RFC3339), loc, probe.UTC().Format(time.RFC3339Nano),
					w.Start.In(loc).Format(time.RFC3339Nano), w.End.In(loc).Format(time.RFC3339Nano), ok,
					start.In(loc).Format(time.RFC3339), end.In(loc).Format(time.RFC3339))
			}
			if w.Start.Location() != time.UTC || w.End.Location() != time.UTC {
				t.Errorf("%v in %s: bounds are not in UTC: %v", p, loc, w)
			}
		}
	}
}

func TestS07_MonthEndIsClampedFromTheAnchorNeverChained(t *testing.T) {
	t.Parallel()
	utc := time.UTC
	a := at(t, "2023-01-31T10:20:00Z")
	wantBounds(t, per(1, usher.Month), a, utc,
		"2023-01-31T10:20:00Z", "2023-02-28T10:20:00Z", "2023-03-31T10:20:00Z", "2023-04-30T10:20:00Z", "2023-05-31T10:20:00Z")
	wantBounds(t, per(1, usher.Month), a, utc, "2024-01-31T10:20:00Z", "2024-02-29T10:20:00Z", "2024-03-31T10:20:00Z")
	for d, feb := range map[int]int{27: 27, 28: 28, 29: 28, 30: 28, 31: 28} {
		a := time.Date(2023, 1, d, 0, 0, 0, 0, utc)
		wantBounds(t, per(1, usher.Month), a, utc, a.Format(time.RFC3339),
			fmt.Sprintf("2023-02-%02dT00:00:00Z", feb), fmt.Sprintf("2023-03-%02dT00:00:00Z", d), fmt.Sprintf("2023-04-%02dT00:00:00Z", min(d, 30)))
	}
	// Years from 29 February.
	wantBounds(t, per(1, usher.Year), at(t, "2024-02-29T00:00:00Z"), utc,
		"2024-02-29T00:00:00Z", "2025-02-28T00:00:00Z", "2026-02-28T00:00:00Z", "2027-02-28T00:00:00Z", "2028-02-29T00:00:00Z")
	wantBounds(t, per(1, usher.Year), at(t, "2096-02-29T00:00:00Z"), utc, "2096-02-29T00:00:00Z", "2097-02-28T00:00:00Z")
	wantBounds(t, per(4, usher.Year), at(t, "2096-02-29T00:00:00Z"), utc, "2096-02-29T00:00:00Z", "2100-02-28T00:00:00Z", "2104-02-29T00:00:00Z")
	// Quarters and every: n.
	wantBounds(t, per(1, usher.Quarter), at(t, "2023-11-30T00:00:00Z"), utc,
		"2023-11-30T00:00:00Z", "2024-02-29T00:00:00Z", "2024-05-30T00:00:00Z", "2024-08-30T00:00:00Z", "2024-11-30T00:00:00Z", "2025-02-28T00:00:00Z")
	wantBounds(t, per(13, usher.Month), at(t, "2024-01-31T00:00:00Z"), utc, "2024-01-31T00:00:00Z", "2025-02-28T00:00:00Z", "2026-03-31T00:00:00Z")
}
