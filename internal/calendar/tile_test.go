package calendar

import (
	"hash/fnv"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

// The reference for I8. It does not use offsets, zone bounds or date arithmetic. It
// has a table of dates, made by turning one page at a time, and clocks, which it
// reads by formatting an instant. It finds the instant of a wall time by watching
// those clocks from one day to the next.

// pages is every date in order, as 20060102, and pageOf finds one.
var pages, pageOf = func() ([]int32, map[int32]int) {
	var all []int32
	number := map[int32]int{}
	y, m, d := int32(1960), int32(1), int32(1)
	for y < 2206 {
		number[y*10000+m*100+d] = len(all)
		all = append(all, y*10000+m*100+d)
		if d++; d > lastDay(y, m) {
			d, m = 1, m+1
		}
		if m > 12 {
			m, y = 1, y+1
		}
	}
	return all, number
}()

func lastDay(y, m int32) int32 {
	switch {
	case m == 2 && y%4 == 0 && (y%100 != 0 || y%400 == 0):
		return 29
	case m == 2:
		return 28
	case m == 4 || m == 6 || m == 9 || m == 11:
		return 30
	}
	return 31
}

// shown reads the clocks of loc at sec: the page, and the second of the day.
func shown(sec int64, loc *time.Location) int64 {
	var buf [14]byte
	b := time.Unix(sec, 0).In(loc).AppendFormat(buf[:0], "20060102150405")
	n := int64(0)
	for _, c := range b {
		n = n*10 + int64(c-'0')
	}
	return int64(pageOf[int32(n/1e6)])*86400 + n/1e4%100*3600 + n/100%100*60 + n%100
}

// comes returns, for each page from first up to last, the first second at which
// the clocks of loc show clock seconds on that page or anything later.
func comes(first, last int, clock int64, loc *time.Location) []int64 {
	when := make([]int64, 0, last-first)
	y, m, d := pages[first-3]/10000, pages[first-3]/100%100, pages[first-3]%100
	sec := time.Date(int(y), time.Month(m), int(d), 0, 0, 0, 0, time.UTC).Unix()
	now := shown(sec, loc)
	for page := first; page < last; page++ {
		target := int64(page)*86400 + clock
		for now < target {
			// Go in large steps while the clocks run evenly, else in small ones.
			for _, step := range [...]int64{6 * 3600, 3600, 60, 1} {
				next := shown(sec+step, loc)
				if step == 1 || next == now+step && next <= target {
					sec, now = sec+step, next
					break
				}
			}
		}
		when = append(when, sec)
	}
	return when
}

// reference holds, for one zone and time of day, when that time comes on each
// page from first on.
type reference struct {
	loc   *time.Location
	first int
	when  []int64
	clock int64
}

func newReference(loc *time.Location, from, to int32, clock int64) *reference {
	first := pageOf[from]
	return &reference{loc, first, comes(first, pageOf[to], clock, loc), clock}
}

// starts lists the starts of the windows of p from the anchor on the given page
// that the reference spans, by going out from the anchor page by page or month
// by month; where several fall together only the last has any length.
func (r *reference) starts(p usher.Period, anchor int) []int64 {
	var list []int
	inside := func(page int) bool { return page >= r.first && page < r.first+len(r.when) }
	months := map[usher.Unit]int{usher.Month: 1, usher.Quarter: 3, usher.Year: 12}[p.Unit] * p.Every
	days := map[usher.Unit]int{usher.Day: 1, usher.Week: 7}[p.Unit] * p.Every
	for _, dir := range []int{-1, 1} {
		page, y, m, d := anchor, pages[anchor]/10000, pages[anchor]/100%100, pages[anchor]%100
		for inside(page) {
			if dir < 0 {
				list = append([]int{page}, list...)
			} else if page != anchor {
				list = append(list, page)
			}
			page += dir * days
			for range months {
				if m += int32(dir); m == 0 {
					y, m = y-1, 12
				} else if m == 13 {
					y, m = y+1, 1
				}
			}
			if months > 0 {
				var known bool
				if page, known = pageOf[y*10000+m*100+min(d, lastDay(y, m))]; !known {
					break
				}
			}
		}
	}
	var starts []int64
	for _, page := range list {
		s := r.when[page-r.first]
		if len(starts) > 0 && starts[len(starts)-1] == s {
			continue
		}
		starts = append(starts, s)
	}
	return starts
}

// check compares At with the reference over every window that it spans: at the
// start, soon after, and at the last nanosecond. Agreement means that they tile.
// It reports how many windows it saw, and only the first that is wrong.
func (r *reference) check(t *testing.T, p usher.Period, anchor int) int {
	t.Helper()
	if anchor < r.first || anchor >= r.first+len(r.when) {
		t.Fatalf("anchor %d lies outside the reference", pages[anchor])
	}
	origin := r.when[anchor-r.first]
	if shown(origin, r.loc) != int64(anchor)*86400+r.clock {
		return 0 // the clocks never show this anchor
	}
	starts := r.starts(p, anchor)
	for i := 0; i+1 < len(starts); i++ {
		start, end := time.Unix(starts[i], 0).UTC(), time.Unix(starts[i+1], 0).UTC()
		// The clocks may be put back just after the start, to before it.
		soon, later := starts[i]+25*60, starts[i]+55*60
		for _, probe := range [...]time.Time{start, time.Unix(soon, 7), time.Unix(later, 7), end.Add(-1)} {
			if !probe.Before(end) {
				continue
			}
			if w, ok := At(p, time.Unix(origin, 0), r.loc, probe); !ok || w.Start != start || w.End != end {
				t.Errorf("%v from %s in %s at %s:\n got [%s, %s)\nwant [%s, %s)", p, time.Unix(origin, 0).In(r.loc), r.loc, probe.In(r.loc),
					w.Start.In(r.loc), w.End.In(r.loc), start.In(r.loc), end.In(r.loc))
				return i
			}
		}
	}
	return max(0, len(starts)-1)
}

// checkAll checks every unit, with anchors on every day of the month, in year y.
func (r *reference) checkAll(t *testing.T, rng *rand.Rand, y int32) (windows int) {
	t.Helper()
	for d := int32(1); d <= 31; d++ {
		a := pageOf[y*10000+100+d]
		for _, p := range []usher.Period{per(1, usher.Month), per(1+rng.IntN(20), usher.Month), per(1, usher.Quarter), per(1, usher.Year)} {
			windows += r.check(t, p, a)
		}
		if d <= 7 {
			windows += r.check(t, per(1, usher.Week), a)
		}
		windows += r.check(t, per(1+rng.IntN(100), usher.Week), a)
		windows += r.check(t, per(2+rng.IntN(usher.MaxEvery-1), usher.Day), a)
	}
	windows += r.check(t, per(1, usher.Day), pageOf[y*10000+101])
	if leap, ok := pageOf[y*10000+229]; ok {
		windows += r.check(t, per(1, usher.Month), leap)
		windows += r.check(t, per(1+rng.IntN(9), usher.Year), leap)
	}
	return windows
}

// full reports whether to test everything: USHER_FULL=1 go test -timeout 1h.
func full() bool { return os.Getenv("USHER_FULL") == "1" }

// seeded is the same for the same name and USHER_SEED.
func seeded(s string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(s + os.Getenv("USHER_SEED")))
	return rand.New(rand.NewPCG(h.Sum64(), 1))
}

// awkward are zones with gaps and overlaps at midnight, of half an hour, of a
// whole day, of seconds, at two in the week, before midnight, or reversed.
var awkward = []string{
	"America/New_York", "Europe/Dublin", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati", "America/Havana",
	"America/Sao_Paulo", "Africa/Casablanca", "Africa/Monrovia", "America/Godthab", "Asia/Gaza", "Africa/Cairo", "America/St_Johns",
	"Antarctica/Troll",
}

func TestI8_WindowsTileOver130YearsInAwkwardZones(t *testing.T) {
	t.Parallel()
	names := awkward
	if full() {
		names = distinctZones(t)
	} else if testing.Short() {
		names = awkward[:2]
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rng := seeded(name)
			clocks := []int64{0, 3600 + 1800, 2*3600 + 1800, int64(rng.IntN(24*60)) * 60}
			for i, clock := range clocks {
				if !full() && i != len(name)%len(clocks) {
					continue
				}
				r := newReference(zone(t, name), 19700102, 21000102, clock)
				year := []int32{1971, 2000, 2096, 2031}[i]
				if n := r.checkAll(t, rng, year); n < 47_000 {
					t.Errorf("only %d windows", n)
				}
			}
		})
	}
}

// Every zone, over years that the seed picks: two of them, or eight with
// USHER_PROVE=full.
func TestI8_WindowsTileInAllZones(t *testing.T) {
	t.Parallel()
	years := int32(2)
	if os.Getenv("USHER_PROVE") == "full" {
		years = 8
	}
	names, windows := zoneNames(t), 0
	for _, name := range names {
		rng := seeded(name)
		clock := []int64{0, 3600 + 1800, 2*3600 + 1800, 23*3600 + 1800, int64(rng.IntN(24*60)) * 60}[rng.IntN(5)]
		y := int32(1971 + rng.IntN(int(227-years)))
		r := newReference(zone(t, name), y*10000+101, (y+years)*10000+101, clock)
		windows += r.checkAll(t, rng, y+int32(rng.IntN(int(years))))
	}
	t.Logf("seed %q: %d windows in %d zones tile the line", os.Getenv("USHER_SEED"), windows, len(names))
}

// Minutes and hours are plain elapsed time, whatever the zone.
func TestI8_MinutesAndHoursTile(t *testing.T) {
	t.Parallel()
	rng := seeded("minutes and hours")
	names := zoneNames(t)
	for range 20_000 {
		p := per(1+rng.IntN(usher.MaxEvery), []usher.Unit{usher.Minute, usher.Hour}[rng.IntN(2)])
		size := time.Duration(p.Every) * map[usher.Unit]time.Duration{usher.Minute: time.Minute, usher.Hour: time.Hour}[p.Unit]
		loc := zone(t, names[rng.IntN(len(names))])
		anchor, probe := anyTime(rng), anyTime(rng)
		w, ok := At(p, anchor, loc, probe)
		cut := anchor.Truncate(time.Minute)
		if !ok || w.Start.After(probe) || !w.End.After(probe) || w.End.Sub(w.Start) != size ||
			(w.Start.Unix()-cut.Unix())%int64(size/time.Second) != 0 {
			t.Fatalf("%v from %v in %s at %v: got [%v, %v)", p, anchor, loc, probe, w.Start, w.End)
		}
	}
}

func anyTime(rng *rand.Rand) time.Time {
	return usher.MinTime.Add(time.Duration(rng.Int64N(int64(usher.MaxTime.Sub(usher.MinTime)))))
}

// Every number of every unit, at any time, from any anchor: the window holds
// the instant and meets its neighbours.
func TestI8_AnyPeriodMeetsItsNeighbours(t *testing.T) {
	t.Parallel()
	rng := seeded("any period")
	names := zoneNames(t)
	n := 100_000
	if full() {
		n = 20_000_000
	}
	for range n {
		p := per(1+rng.IntN(usher.MaxEvery), usher.Units[rng.IntN(len(usher.Units)-1)])
		if rng.IntN(2) == 0 {
			p.Every = 1 + rng.IntN(4)
		}
		meets(t, p, anyTime(rng), zone(t, names[rng.IntN(len(names))]), anyTime(rng))
	}
}

// meets fails unless the window at probe holds it, is not empty, is the same
// from its first to its last instant, and meets both neighbours.
func meets(t *testing.T, p usher.Period, anchor time.Time, loc *time.Location, probe time.Time) {
	t.Helper()
	w, ok := At(p, anchor, loc, probe)
	if !ok || w.Start.After(probe) || !w.End.After(probe) {
		t.Fatalf("%v from %v in %s: [%v, %v) does not hold %v", p, anchor, loc, w.Start, w.End, probe)
	}
	first, _ := At(p, anchor, loc, w.Start)
	last, _ := At(p, anchor, loc, w.End.Add(-1))
	before, _ := At(p, anchor, loc, w.Start.Add(-1))
	after, _ := At(p, anchor, loc, w.End)
	if first != w || last != w || before.End != w.Start || after.Start != w.End || !before.Start.Before(before.End) ||
		!after.Start.Before(after.End) {
		t.Fatalf("%v from %v in %s at %v:\nwindow [%v, %v)\nat its start [%v, %v)\nat its last instant [%v, %v)\nbefore it [%v, %v)\nafter it "+
			"[%v, %v)", p, anchor, loc, probe,
			w.Start, w.End, first.Start, first.End, last.Start, last.End, before.Start, before.End, after.Start, after.End)
	}
}

// FuzzAt: for instants that usher accepts the windows are right; for all others At
// still returns.
func FuzzAt(f *testing.F) {
	names := zoneNames(f)
	f.Add(uint16(0), uint8(4), int16(1), int64(1_700_000_000), int64(1_800_000_000), int64(5))
	f.Add(uint16(300), uint8(2), int16(1000), int64(0), int64(7_258_118_399), int64(999_999_999))
	f.Add(uint16(500), uint8(6), int16(-1), int64(-1<<63), int64(1<<63-1), int64(-1))
	for i, name := range names {
		if name == "Pacific/Apia" {
			f.Add(uint16(i), uint8(2), int16(1), int64(1_325_000_000), int64(1_325_239_200), int64(0))
		}
	}
	f.Fuzz(func(t *testing.T, z uint16, unit uint8, every int16, anchor, sec, nsec int64) {
		p := per(int(every), usher.Units[int(unit)%len(usher.Units)])
		loc := zone(t, names[int(z)%len(names)])
		a, probe := time.Unix(anchor, 0), time.Unix(sec, nsec)
		_, ok := At(p, a, loc, probe)
		if want := p.Unit != usher.Lifetime && p.Every >= 1 && p.Every <= usher.MaxEvery; ok != want {
			t.Fatalf("%v: ok is %t", p, ok)
		}
		Add(probe, usher.Span{N: int(every), Unit: p.Unit}, loc)
		if !ok || a.Before(usher.MinTime) || !a.Before(usher.MaxTime) || probe.Before(usher.MinTime) || !probe.Before(usher.MaxTime) {
			return
		}
		meets(t, p, a, loc, probe)
		meets(t, p, Origin(p, loc), loc, probe)
	})
}

func BenchmarkAt(b *testing.B) {
	loc := zone(b, "America/New_York")
	anchor := at(b, "2021-01-31T10:20:00-05:00")
	for _, unit := range []usher.Unit{usher.Minute, usher.Day, usher.Month} {
		for _, now := range []string{"2026-06-15T12:00:00Z", "2026-03-05T12:00:00Z", "2150-03-05T12:00:00Z"} {
			b.Run(string(unit)+"/"+now[:10], func(b *testing.B) {
				t := at(b, now)
				b.ReportAllocs()
				for b.Loop() {
					At(per(1, unit), anchor, loc, t)
				}
			})
		}
	}
	b.Run("month/calendar", func(b *testing.B) {
		t, p := at(b, "2026-06-15T12:00:00Z"), per(1, usher.Month)
		b.ReportAllocs()
		for b.Loop() {
			At(p, Origin(p, loc), loc, t)
		}
	})
}
