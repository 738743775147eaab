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

// at reads RFC 3339, also with seconds in the offset.
func at(t testing.TB, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		v, err = time.Parse("2006-01-02T15:04:05Z07:00:00", s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func per(every int, unit usher.Unit) usher.Period { return usher.Period{Every: every, Unit: unit} }

// wantBounds checks that successive windows from the one that holds the first
// bound on have exactly these bounds, and that each holds its start, its last
// nanosecond and what lies between, and not its end (S09).
func wantBounds(t *testing.T, p usher.Period, anchor time.Time, loc *time.Location, bounds ...string) {
	t.Helper()
	for i := 0; i+1 < len(bounds); i++ {
		start, end := at(t, bounds[i]), at(t, bounds[i+1])
		probes := []time.Time{start, end.Add(-1)}
		for i := range time.Duration(60) {
			probes = append(probes, start.Add(end.Sub(start)/60*i))
		}
		for _, probe := range probes {
			w, ok := At(p, anchor, loc, probe)
			if !ok || !w.Start.Equal(start) || !w.End.Equal(end) {
				t.Errorf("%v from %s in %s at %s:\n got [%s, %s) ok %t\nwant [%s, %s)", p, anchor.Format(time.RFC3339), loc,
					probe.UTC().Format(time.RFC3339Nano),
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
	wantBounds(t, per(4, usher.Year), at(t, "2096-02-29T00:00:00Z"), utc, "2096-02-29T00:00:00Z", "2100-02-28T00:00:00Z",
		"2104-02-29T00:00:00Z")
	// Quarters and every: n.
	wantBounds(t, per(1, usher.Quarter), at(t, "2023-11-30T00:00:00Z"), utc,
		"2023-11-30T00:00:00Z", "2024-02-29T00:00:00Z", "2024-05-30T00:00:00Z", "2024-08-30T00:00:00Z", "2024-11-30T00:00:00Z",
		"2025-02-28T00:00:00Z")
	wantBounds(t, per(13, usher.Month), at(t, "2024-01-31T00:00:00Z"), utc, "2024-01-31T00:00:00Z", "2025-02-28T00:00:00Z",
		"2026-03-31T00:00:00Z")
}

func TestS07_AnchorIsCutToTheMinuteAndCountsBothWays(t *testing.T) {
	t.Parallel()
	a := at(t, "2024-05-31T10:20:59.999999Z")
	wantBounds(t, per(1, usher.Month), a, time.UTC,
		"2024-01-31T10:20:00Z", "2024-02-29T10:20:00Z", "2024-03-31T10:20:00Z", "2024-04-30T10:20:00Z", "2024-05-31T10:20:00Z",
		"2024-06-30T10:20:00Z")
	wantBounds(t, per(1, usher.Hour), a, time.UTC, "2024-05-31T08:20:00Z", "2024-05-31T09:20:00Z", "2024-05-31T10:20:00Z",
		"2024-05-31T11:20:00Z")
	wantBounds(t, per(15, usher.Minute), a, time.UTC, "2024-05-31T10:05:00Z", "2024-05-31T10:20:00Z", "2024-05-31T10:35:00Z")
	wantBounds(t, per(1, usher.Day), a, time.UTC, "2024-05-30T10:20:00Z", "2024-05-31T10:20:00Z", "2024-06-01T10:20:00Z")
	// The day is the one on the customer's wall: 31 January in Auckland is the
	// 30th in UTC.
	wantBounds(t, per(1, usher.Month), at(t, "2024-01-31T00:30:00+13:00"), zone(t, "Pacific/Auckland"),
		"2024-01-31T00:30:00+13:00", "2024-02-29T00:30:00+13:00", "2024-03-31T00:30:00+13:00", "2024-04-30T00:30:00+12:00")
	// Liberia was 44 minutes and 30 seconds behind until 1972: there it is the
	// wall clock's minute, so that later windows still start on whole minutes.
	wantBounds(t, per(1, usher.Day), at(t, "1972-01-05T12:00:00Z"), zone(t, "Africa/Monrovia"),
		"1972-01-05T11:15:00-00:44:30", "1972-01-06T11:15:00-00:44:30", "1972-01-07T11:15:00Z", "1972-01-08T11:15:00Z")
}

func TestS08_GapsAndOverlaps(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, zone, anchor string
		p                  usher.Period
		bounds             []string
	}{
		{"New York: 02:30 is skipped, so 03:00", "America/New_York", "2024-03-01T02:30:00-05:00", per(1, usher.Day),
			[]string{"2024-03-09T02:30:00-05:00", "2024-03-10T03:00:00-04:00", "2024-03-11T02:30:00-04:00"}},
		{"New York: 01:30 comes twice, so the first", "America/New_York", "2024-10-01T01:30:00-04:00", per(1, usher.Day),
			[]string{"2024-11-02T01:30:00-04:00", "2024-11-03T01:30:00-04:00", "2024-11-04T01:30:00-05:00"}},
		{"New York: 02:00 comes once, after 01:00 has come twice", "America/New_York", "2024-10-01T02:00:00-04:00", per(1, usher.Day),
			[]string{"2024-11-02T02:00:00-04:00", "2024-11-03T02:00:00-05:00", "2024-11-04T02:00:00-05:00"}},
		{"New York: an anchor in the second 01:30 means the wall clock's 01:30", "America/New_York", "2024-11-03T01:30:00-05:00",
			per(1, usher.Day),
			[]string{"2024-11-02T01:30:00-04:00", "2024-11-03T01:30:00-04:00", "2024-11-04T01:30:00-05:00"}},
		{"New York: days of 23 and 25 hours", "America/New_York", "1970-01-01T00:00:00-05:00", per(1, usher.Day),
			[]string{"2024-11-03T00:00:00-04:00", "2024-11-04T00:00:00-05:00"}},
		{"New York: hours are elapsed time", "America/New_York", "2024-03-09T20:00:00-05:00", per(6, usher.Hour),
			[]string{"2024-03-09T20:00:00-05:00", "2024-03-10T03:00:00-04:00", "2024-03-10T09:00:00-04:00"}},
		{"New York: months", "America/New_York", "2024-01-10T02:30:00-05:00", per(1, usher.Month),
			[]string{"2024-02-10T02:30:00-05:00", "2024-03-10T03:00:00-04:00", "2024-04-10T02:30:00-04:00"}},
		{"New York: long after the last rule on file", "America/New_York", "2024-01-14T02:30:00-05:00", per(1, usher.Month),
			[]string{"2190-02-14T02:30:00-05:00", "2190-03-14T03:00:00-04:00", "2190-04-14T02:30:00-04:00"}},
		{"New York: the last day of a leap year", "America/New_York", "2024-01-13T20:00:00-05:00", per(1, usher.Day),
			[]string{"2040-12-29T20:00:00-05:00", "2040-12-30T20:00:00-05:00", "2040-12-31T20:00:00-05:00", "2041-01-01T20:00:00-05:00"}},
		{"London: 01:00 is skipped", "Europe/London", "2024-01-31T01:00:00Z", per(1, usher.Month),
			[]string{"2024-02-29T01:00:00Z", "2024-03-31T02:00:00+01:00", "2024-04-30T01:00:00+01:00"}},
		{"London: 01:00 comes twice", "Europe/London", "2024-01-27T01:00:00Z", per(1, usher.Month),
			[]string{"2024-09-27T01:00:00+01:00", "2024-10-27T01:00:00+01:00", "2024-11-27T01:00:00Z"}},
		{"London: standard time all through 1970", "Europe/London", "1970-01-01T00:00:00+01:00", per(1, usher.Month),
			[]string{"1970-01-01T00:00:00+01:00", "1970-02-01T00:00:00+01:00"}},
		{"Lord Howe: a gap of half an hour", "Australia/Lord_Howe", "2024-09-01T02:10:00+10:30", per(1, usher.Day),
			[]string{"2024-10-05T02:10:00+10:30", "2024-10-06T02:30:00+11:00", "2024-10-07T02:10:00+11:00"}},
		{"Lord Howe: an overlap of half an hour", "Australia/Lord_Howe", "2024-03-01T01:40:00+11:00", per(1, usher.Day),
			[]string{"2024-04-06T01:40:00+11:00", "2024-04-07T01:40:00+11:00", "2024-04-08T01:40:00+10:30"}},
		{"Apia: 30 December 2011 does not exist", "Pacific/Apia", "2011-12-01T00:00:00-10:00", per(1, usher.Day),
			[]string{"2011-12-28T00:00:00-10:00", "2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00"}},
		{"Apia: noon of the day that does not exist", "Pacific/Apia", "2011-12-01T12:00:00-10:00", per(1, usher.Day),
			[]string{"2011-12-29T12:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00", "2012-01-01T12:00:00+14:00"}},
		{"Apia: a month from the day that does not exist", "Pacific/Apia", "2011-10-30T09:00:00-10:00", per(1, usher.Month),
			[]string{"2011-11-30T09:00:00-10:00", "2011-12-31T00:00:00+14:00", "2012-01-30T09:00:00+14:00"}},
		{"Apia: a week from the day that does not exist", "Pacific/Apia", "2011-12-23T00:00:00-10:00", per(1, usher.Week),
			[]string{"2011-12-23T00:00:00-10:00", "2011-12-31T00:00:00+14:00", "2012-01-06T00:00:00+14:00"}},
		{"Apia: every 10 hours passes the date line unmoved", "Pacific/Apia", "2011-12-29T20:00:00-10:00", per(10, usher.Hour),
			[]string{"2011-12-29T20:00:00-10:00", "2011-12-31T06:00:00+14:00", "2011-12-31T16:00:00+14:00"}},
		{"Kwajalein: 21 August 1993 does not exist", "Pacific/Kwajalein", "1993-08-01T00:00:00-12:00", per(1, usher.Day),
			[]string{"1993-08-19T00:00:00-12:00", "1993-08-20T00:00:00-12:00", "1993-08-22T00:00:00+12:00", "1993-08-23T00:00:00+12:00"}},
		{"Kwajalein: 30 September 1969 came twice", "Pacific/Kwajalein", "1969-09-01T12:00:00+11:00", per(1, usher.Day),
			[]string{"1969-09-29T12:00:00+11:00", "1969-09-30T12:00:00+11:00", "1969-10-01T12:00:00-12:00"}},
		{"Havana: midnight is skipped", "America/Havana", "2024-01-10T00:00:00-05:00", per(1, usher.Month),
			[]string{"2024-02-10T00:00:00-05:00", "2024-03-10T01:00:00-04:00", "2024-04-10T00:00:00-04:00"}},
		{"Havana: midnight comes twice", "America/Havana", "2024-01-03T00:00:00-05:00", per(1, usher.Day),
			[]string{"2024-11-02T00:00:00-04:00", "2024-11-03T00:00:00-04:00", "2024-11-04T00:00:00-05:00"}},
		{"São Paulo: midnight is skipped", "America/Sao_Paulo", "2018-10-04T00:00:00-03:00", per(1, usher.Month),
			[]string{"2018-10-04T00:00:00-03:00", "2018-11-04T01:00:00-02:00", "2018-12-04T00:00:00-02:00"}},
		{"São Paulo: the last hour of a day comes twice, midnight once", "America/Sao_Paulo", "2018-01-01T00:00:00-02:00", per(1, usher.Day),
			[]string{"2018-02-17T00:00:00-02:00", "2018-02-18T00:00:00-03:00", "2018-02-19T00:00:00-03:00"}},
		{"São Paulo: 23:30 comes twice", "America/Sao_Paulo", "2018-01-01T23:30:00-02:00", per(1, usher.Day),
			[]string{"2018-02-16T23:30:00-02:00", "2018-02-17T23:30:00-02:00", "2018-02-18T23:30:00-03:00"}},
		{"Casablanca: put back for Ramadan", "Africa/Casablanca", "2024-01-10T02:30:00+01:00", per(1, usher.Month),
			[]string{"2024-02-10T02:30:00+01:00", "2024-03-10T02:30:00+01:00", "2024-04-10T02:30:00+00:00"}},
		{"Casablanca: put forward after it", "Africa/Casablanca", "2024-01-14T02:30:00+01:00", per(1, usher.Month),
			[]string{"2024-03-14T02:30:00+00:00", "2024-04-14T03:00:00+01:00", "2024-05-14T02:30:00+01:00"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			wantBounds(t, tt.p, at(t, tt.anchor), zone(t, tt.zone), tt.bounds...)
		})
	}
}

func TestS08_CalendarAnchors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		zone   string
		p      usher.Period
		bounds []string
	}{
		{"UTC", per(1, usher.Week), []string{"2024-02-26T00:00:00Z", "2024-03-04T00:00:00Z", "2024-03-11T00:00:00Z"}}, // Mondays
		{"America/New_York", per(1, usher.Week), []string{"2024-03-04T00:00:00-05:00", "2024-03-11T00:00:00-04:00"}},
		{"UTC", per(2, usher.Week), []string{"1970-01-05T00:00:00Z", "1970-01-19T00:00:00Z", "1970-02-02T00:00:00Z"}},
		{"UTC", per(1, usher.Quarter), []string{"2024-01-01T00:00:00Z", "2024-04-01T00:00:00Z", "2024-07-01T00:00:00Z", "2024-10-01T00:00:00Z",
			"2025-01-01T00:00:00Z"}},
		{"Europe/Berlin", per(1, usher.Quarter), []string{"2024-01-01T00:00:00+01:00", "2024-04-01T00:00:00+02:00"}},
		{"Europe/London", per(1, usher.Month), []string{"2024-03-01T00:00:00Z", "2024-04-01T00:00:00+01:00", "2024-05-01T00:00:00+01:00"}},
		{"Africa/Monrovia", per(1, usher.Month), []string{"1970-01-01T00:00:00-00:44:30", "1970-02-01T00:00:00-00:44:30"}},
		{"Africa/Monrovia", per(1, usher.Month), []string{"2024-01-01T00:00:00Z", "2024-02-01T00:00:00Z"}},
		{"Pacific/Apia", per(1, usher.Month), []string{"2011-12-01T00:00:00-10:00", "2012-01-01T00:00:00+14:00"}},
		{"UTC", per(1, usher.Year), []string{"2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"}},
		// Every n counts from 1970: 54 years are 648 months, 92 times 7 and 4.
		{"UTC", per(7, usher.Month), []string{"1970-01-01T00:00:00Z", "1970-08-01T00:00:00Z", "1971-03-01T00:00:00Z"}},
		{"UTC", per(7, usher.Month), []string{"2023-09-01T00:00:00Z", "2024-04-01T00:00:00Z", "2024-11-01T00:00:00Z"}},
		{"UTC", per(5, usher.Year), []string{"2020-01-01T00:00:00Z", "2025-01-01T00:00:00Z"}},
		{"UTC", per(10, usher.Day), []string{"1970-01-01T00:00:00Z", "1970-01-11T00:00:00Z"}},
		{"UTC", per(10, usher.Day), []string{"2024-12-23T00:00:00Z", "2025-01-02T00:00:00Z"}}, // days 20,080 and 20,090
		{"UTC", per(1000, usher.Year), []string{"1970-01-01T00:00:00Z", "2970-01-01T00:00:00Z"}},
		{"UTC", per(7, usher.Hour), []string{"1970-01-01T00:00:00Z", "1970-01-01T07:00:00Z"}},
		// Hours are elapsed time from midnight on that day in the zone.
		{"Asia/Kolkata", per(1, usher.Hour), []string{"2024-01-01T00:00:00+05:30", "2024-01-01T01:00:00+05:30"}},
		{"America/New_York", per(6, usher.Hour), []string{"2024-07-01T01:00:00-04:00", "2024-07-01T07:00:00-04:00"}},
		{"America/New_York", per(5, usher.Minute), []string{"2024-07-01T01:00:00-04:00", "2024-07-01T01:05:00-04:00"}},
	}
	for _, tt := range tests {
		loc := zone(t, tt.zone)
		wantBounds(t, tt.p, Origin(tt.p, loc), loc, tt.bounds...)
	}
	// No zone skips the origin, so it shows there what it should.
	for _, name := range zoneNames(t) {
		loc := zone(t, name)
		if got := Origin(per(1, usher.Month), loc).In(loc).Format("2006-01-02T15:04:05"); got != "1970-01-01T00:00:00" {
			t.Errorf("origin of months in %s is %s", name, got)
		}
		if got := Origin(per(3, usher.Week), loc).In(loc).Format("Mon 2006-01-02T15:04:05"); got != "Mon 1970-01-05T00:00:00" {
			t.Errorf("origin of weeks in %s is %s", name, got)
		}
	}
}

func TestS08_NoBounds(t *testing.T) {
	t.Parallel()
	now := at(t, "2024-01-01T00:00:00Z")
	for _, p := range []usher.Period{per(1, usher.Lifetime), {}, per(0, usher.Month), per(-1, usher.Day), per(usher.MaxEvery+1, usher.Hour),
		per(1, "fortnight")} {
		if w, ok := At(p, now, time.UTC, now); ok || w != (usher.Window{}) {
			t.Errorf("%v: got %v, %t; want no window", p, w, ok)
		}
	}
}

func TestS09_ABoundaryBelongsToTheNewWindowOnce(t *testing.T) {
	t.Parallel()
	loc := zone(t, "America/New_York")
	anchor := at(t, "2024-01-10T02:30:00-05:00")
	for _, p := range []usher.Period{per(1, usher.Minute), per(5, usher.Hour), per(1, usher.Day), per(1, usher.Week), per(1, usher.Month),
		per(1, usher.Quarter), per(1, usher.Year)} {
		w, _ := At(p, anchor, loc, anchor)
		if !w.Start.Equal(anchor) {
			t.Errorf("%v: the window at the anchor starts %v", p, w.Start)
		}
		last, _ := At(p, anchor, loc, w.End.Add(-1))
		next, _ := At(p, anchor, loc, w.End)
		before, _ := At(p, anchor, loc, w.Start.Add(-1))
		if last != w || !next.Start.Equal(w.End) || !before.End.Equal(w.Start) {
			t.Errorf("%v: around [%v, %v): a nanosecond before its end %v, at its end %v, before its start %v", p, w.Start, w.End, last, next,
				before)
		}
	}
}

func TestS08_Resolve(t *testing.T) {
	t.Parallel()
	const layout = "2006-01-02T15:04:05.999999999"
	tests := []struct{ zone, wall, want string }{
		{"UTC", "2024-01-31T10:00:00.000000001", "2024-01-31T10:00:00.000000001Z"},
		{"America/New_York", "2024-03-10T01:59:59.999999999", "2024-03-10T06:59:59.999999999Z"},
		{"America/New_York", "2024-03-10T02:00:00", "2024-03-10T07:00:00Z"},
		{"America/New_York", "2024-03-10T02:59:59.5", "2024-03-10T07:00:00Z"}, // not half a second after it
		{"America/New_York", "2024-03-10T03:00:00", "2024-03-10T07:00:00Z"},
		{"America/New_York", "2024-03-10T03:00:00.5", "2024-03-10T07:00:00.5Z"},
		{"America/New_York", "2024-11-03T00:59:59", "2024-11-03T04:59:59Z"},
		{"America/New_York", "2024-11-03T01:00:00", "2024-11-03T05:00:00Z"},
		{"America/New_York", "2024-11-03T01:59:59.75", "2024-11-03T05:59:59.75Z"},
		{"America/New_York", "2024-11-03T02:00:00", "2024-11-03T07:00:00Z"},
		{"America/New_York", "2150-11-01T01:30:00", "2150-11-01T05:30:00Z"},
		{"Europe/Dublin", "2024-10-27T01:30:00", "2024-10-27T00:30:00Z"}, // winter is its daylight saving
		{"Australia/Lord_Howe", "2024-10-06T02:15:00", "2024-10-05T15:30:00Z"},
		{"Australia/Lord_Howe", "2024-04-07T01:45:00", "2024-04-06T14:45:00Z"},
		{"Pacific/Apia", "2011-12-30T00:00:00", "2011-12-30T10:00:00Z"},
		{"Pacific/Apia", "2011-12-30T23:59:59.9", "2011-12-30T10:00:00Z"},
		{"Pacific/Kwajalein", "1993-08-21T12:00:00", "1993-08-21T12:00:00Z"},
		{"Pacific/Kwajalein", "1969-09-30T12:00:00", "1969-09-30T01:00:00Z"}, // most of that day came twice
		{"America/Havana", "2024-03-10T00:00:00", "2024-03-10T05:00:00Z"},
		{"America/Havana", "2024-11-03T00:30:00", "2024-11-03T04:30:00Z"},
		{"America/Sao_Paulo", "2018-11-04T00:00:00", "2018-11-04T03:00:00Z"},
		{"Africa/Monrovia", "1972-01-06T23:59:59", "1972-01-07T00:44:29Z"},
		{"Africa/Monrovia", "1972-01-07T00:10:00", "1972-01-07T00:44:30Z"}, // a gap of 44 minutes and 30 seconds
		{"Africa/Monrovia", "1972-01-07T00:44:31", "1972-01-07T00:44:31Z"},
		{"Africa/Cairo", "2023-04-28T00:00:00", "2023-04-27T22:00:00Z"},
		{"America/Godthab", "2024-03-30T23:30:00", "2024-03-31T01:00:00Z"}, // put forward before midnight
	}
	for _, tt := range tests {
		w, err := time.Parse(layout, tt.wall)
		if err != nil {
			t.Fatal(err)
		}
		got := Resolve(w.Year(), w.Month(), w.Day(), w.Hour(), w.Minute(), w.Second(), w.Nanosecond(), zone(t, tt.zone))
		if got.Format(time.RFC3339Nano) != tt.want {
			t.Errorf("%s in %s: got %s, want %s", tt.wall, tt.zone, got.Format(time.RFC3339Nano), tt.want)
		}
	}
	if got, want := Resolve(2023, 2, 29, 24, 0, 0, 0, time.UTC), at(t, "2023-03-02T00:00:00Z"); !got.Equal(want) {
		t.Errorf("29 February 2023, 24:00: got %v, want it carried over to %v", got, want)
	}
}

func TestS35_Add(t *testing.T) {
	t.Parallel()
	tests := []struct{ zone, from, span, want string }{
		{"America/New_York", "2024-03-01T09:00:00.123456-05:00", "14 days", "2024-03-15T09:00:00.123456-04:00"}, // 335 hours
		{"America/New_York", "2024-03-01T09:00:00-05:00", "336 hours", "2024-03-15T10:00:00-04:00"},
		{"America/New_York", "2024-03-09T02:30:00.5-05:00", "1 day", "2024-03-10T03:00:00-04:00"},
		{"America/New_York", "2024-03-03T02:30:00-05:00", "1 week", "2024-03-10T03:00:00-04:00"},
		{"America/New_York", "2024-11-02T01:30:00-04:00", "1 day", "2024-11-03T01:30:00-04:00"},
		{"America/New_York", "2024-11-03T01:30:00-05:00", "1 day", "2024-11-04T01:30:00-05:00"},
		{"America/New_York", "2024-11-03T01:30:00-05:00", "0 days", "2024-11-03T01:30:00-05:00"},
		{"America/New_York", "2024-11-03T01:30:00-04:00", "60 minutes", "2024-11-03T01:30:00-05:00"},
		{"Europe/London", "2024-01-31T12:00:00Z", "1 month", "2024-02-29T12:00:00Z"},
		{"Europe/London", "2024-01-31T12:00:00Z", "3 months", "2024-04-30T12:00:00+01:00"},
		{"Europe/London", "2024-02-29T12:00:00Z", "1 year", "2025-02-28T12:00:00Z"},
		{"Europe/London", "2024-02-29T12:00:00Z", "4 years", "2028-02-29T12:00:00Z"},
		{"Pacific/Apia", "2011-12-28T08:00:00-10:00", "2 days", "2011-12-31T00:00:00+14:00"},
		{"Pacific/Apia", "2011-12-28T08:00:00-10:00", "3 days", "2011-12-31T08:00:00+14:00"},
		{"UTC", "2024-01-01T00:00:00Z", "10000 minutes", "2024-01-07T22:40:00Z"},
		{"UTC", "2024-01-01T00:00:00Z", "10000 days", "2051-05-19T00:00:00Z"},
	}
	for _, tt := range tests {
		s, err := usher.ParseSpan(tt.span)
		if err != nil {
			t.Fatal(err)
		}
		got := Add(at(t, tt.from), s, zone(t, tt.zone))
		if want := at(t, tt.want); !got.Equal(want) || got.Location() != time.UTC {
			t.Errorf("%s + %s in %s: got %s, want %s", tt.from, tt.span, tt.zone, got.Format(time.RFC3339Nano), want.UTC().Format(time.RFC3339Nano))
		}
	}
	start := at(t, "2024-03-31T12:00:00Z")
	if got := Add(start, usher.Span{N: -1, Unit: usher.Month}, time.UTC); !got.Equal(at(t, "2024-02-29T12:00:00Z")) {
		t.Errorf("31 March less a month: got %v", got)
	}
	for _, s := range []usher.Span{{}, {N: 3}, {N: 1, Unit: usher.Lifetime}, {N: 1, Unit: "fortnight"}} {
		if got := Add(start, s, zone(t, "Asia/Tokyo")); got != start.UTC() {
			t.Errorf("%v + %+v: got %v, want no change", start, s, got)
		}
	}
}
