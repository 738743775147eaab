package main

import (
	"testing"
	"time"
)

func TestTimesOfFlags(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	w := when{now: func() (time.Time, error) { return now, nil }}
	back, ends := w, w
	back.back = true
	ends.periodEnd = func() (time.Time, error) { return now.AddDate(0, 1, 0), nil }
	for _, c := range []struct {
		when when
		text string
		want string // "": refused
	}{
		{w, "2026-12-12", "2026-12-12T00:00:00Z"},
		{w, "2026-12-12T01:02:03+02:00", "2026-12-11T23:02:03Z"},
		{w, "14d", "2026-03-24T12:00:00Z"},
		{w, "2w", "2026-03-24T12:00:00Z"},
		{w, "1w1d1h30m", "2026-03-18T13:30:00Z"},
		{w, "0s", "2026-03-10T12:00:00Z"},
		{back, "14d", "2026-02-24T12:00:00Z"},
		{back, "2026-12-12", "2026-12-12T00:00:00Z"},
		{ends, "period-end", "2026-04-10T12:00:00Z"},
		{w, "period-end", ""},
		{w, "14", ""},
		{w, "-14d", ""},
		{w, "1d-1h", ""},
		{w, "1d2w", ""},
		{w, "14 d", ""},
		{w, "2026-02-30", ""},
		{w, "2026-12-12T00:00", ""},
		{w, "99999d2562047h", ""},
	} {
		got := c.text
		if err := c.when.read(asked{flag: "--x", text: &got}); err != nil {
			got = ""
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
	never := "never"
	if err := w.read(asked{"--x", &never, "never"}); err != nil || never != "never" {
		t.Errorf("got %q, %v", never, err)
	}
}
