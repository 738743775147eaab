package store

import (
	"testing"
	"time"
)

// A span is covered once, whatever its edges, and a long one by few rows: a
// month of a customer's use is some hundred rows however much was used.
func TestSpansCoverOnceAndAreFew(t *testing.T) {
	t.Parallel()
	utc := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	zone := func(name string) time.Time {
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		return time.Date(2026, 3, 1, 0, 0, 0, 0, loc)
	}
	for _, tt := range []struct {
		name        string
		from, until time.Time
		most        int64 // rows, where every span has one
	}{
		{"a month of UTC", utc, utc.AddDate(0, 1, 0), 31},
		{"a month of New York", zone("America/New_York"), zone("America/New_York").AddDate(0, 1, 0), 31 + 24},
		{"a month of India", zone("Asia/Kolkata"), zone("Asia/Kolkata").AddDate(0, 1, 0), 31 + 24 + 60},
		{"a year less a minute at each end", utc.Add(time.Minute), utc.AddDate(1, 0, 0).Add(-time.Minute), 365 + 46 + 118},
		{"some minutes", utc.Add(50 * time.Minute), utc.Add(70 * time.Minute), 20},
		{"within a minute's hour", utc.Add(3 * time.Minute), utc.Add(5 * time.Minute), 2},
		{"nothing", utc, utc, 0},
		{"before 1970", time.Date(1969, 12, 30, 22, 59, 0, 0, time.UTC), time.Date(1970, 1, 2, 1, 1, 0, 0, time.UTC), 3 + 1 + 2 + 1 + 1},
	} {
		at, rows := micros(tt.from), int64(0)
		for _, s := range Spans(tt.from, tt.until) {
			if s.From != at || s.From >= s.Until || s.Grain.Start(s.From) != s.From || s.Grain.Start(s.Until) != s.Until {
				t.Errorf("%s: %+v does not follow %d", tt.name, s, at)
			}
			at = s.Until
			rows += (s.Until - s.From) / s.Grain.micros()
		}
		if at != micros(tt.until) {
			t.Errorf("%s: ends at %d, want %d", tt.name, at, micros(tt.until))
		}
		if rows > tt.most {
			t.Errorf("%s: %d rows, want at most %d", tt.name, rows, tt.most)
		}
	}
}
