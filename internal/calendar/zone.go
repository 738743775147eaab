package calendar

import (
	"math"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // embeds the zones, for hosts without zone data

	"github.com/usher-sh/usher"
)

// zones keeps what Zone has loaded. Only existing names are kept, so it stays small.
var zones sync.Map // string -> *time.Location

// Zone returns the IANA time zone of a name, such as "Europe/Berlin"; "" is UTC.
// Every call with the same name returns the same location. Any other name, also
// "Local" or a path, is an Invalid error that quotes the name.
func Zone(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	if loc, ok := zones.Load(name); ok {
		return loc.(*time.Location), nil
	}
	if plausible(name) {
		if loc, err := time.LoadLocation(name); err == nil {
			first, _ := zones.LoadOrStore(name, loc)
			return first.(*time.Location), nil
		}
	}
	return nil, usher.Errorf(usher.Invalid, `unknown time zone %.64q: must be an IANA name such as "Europe/Berlin" or "UTC"`, name)
}

// plausible reports whether name has the form of a zone name: parts separated by
// single slashes, each beginning with a capital letter. This excludes the other
// files of a host's zone directory, such as "localtime" and "right/UTC".
func plausible(name string) bool {
	if name == "Local" || len(name) > 64 {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] < 'A' || part[0] > 'Z' {
			return false
		}
		for _, c := range part {
			switch {
			case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_', c == '-', c == '+':
			default:
				return false
			}
		}
	}
	return true
}

// Resolve returns the first instant, in UTC, at which the clocks of loc show
// the given wall time or a later one. For a time that they skip this is the first
// instant after the gap, however long it is; for one that they show twice it is the
// first occurrence (S08). Values outside their usual ranges carry over, as in
// time.Date: 31 April is 1 May.
func Resolve(year int, month time.Month, day, hour, min, sec, nsec int, loc *time.Location) time.Time {
	wall := time.Date(year, month, day, hour, min, sec, nsec, time.UTC)
	return resolveNano(wall.Unix(), wall.Nanosecond(), loc)
}

// No zone has ever been this far from UTC, in seconds. So two stretches of one zone
// overlap by at most twice this.
const farthest = 26 * hour

// No zone has nearly this many stretches within a few days. This bound ends the
// search for instants so far away that arithmetic on them overflows.
const most = 20

// stretch is a run of instants [from, to), in Unix seconds, over which the
// clocks of a zone keep one offset from UTC. Neighbours may have the same offset.
type stretch struct{ from, to, offset int64 }

func stretchAt(sec int64, loc *time.Location) stretch {
	t := time.Unix(sec, 0).In(loc)
	_, offset := t.Zone()
	s := stretch{math.MinInt64, math.MaxInt64, int64(offset)}
	from, to := t.ZoneBounds()
	if !from.IsZero() {
		s.from = from.Unix()
	}
	if !to.IsZero() {
		s.to = to.Unix()
	}
	if s.to <= sec {
		// For the last day of a leap year that follows a zone's rule, Go 1.26 returns
		// the start of that day as the end of the year.
		s.to = floor(sec, day) + day
	}
	return s
}

// showing returns the wall seconds that the clocks of loc show at t.
func showing(t time.Time, loc *time.Location) int64 {
	_, offset := t.In(loc).Zone()
	return t.Unix() + int64(offset)
}

// reached returns the latest wall seconds that the clocks of loc have shown up to
// sec, which is in here. It is more than they show at sec only if they were put back
// shortly before.
func reached(sec int64, here stretch, loc *time.Location) int64 {
	latest := sec + here.offset
	for s, i := here, 0; i < most && s.from > sec-2*farthest; i++ {
		before := s.from - 1
		s = stretchAt(before, loc)
		latest = max(latest, before+s.offset)
	}
	return latest
}

// resolve returns the first Unix second at which the clocks of loc show wall or
// later. It is fast if that second is well inside near.
func resolve(wall int64, near stretch, loc *time.Location) int64 {
	if sec := wall - near.offset; sec > near.from+2*farthest && sec < near.to {
		return sec
	}
	sec := wall - farthest
	for range most {
		s := stretchAt(sec, loc)
		sec = max(sec, wall-s.offset)
		if sec < s.to {
			break
		}
		sec = s.to
	}
	return sec
}

// resolveNano is resolve for a wall time with a fraction of a second. It drops the
// fraction if the wall time is in a gap.
func resolveNano(wall int64, nsec int, loc *time.Location) time.Time {
	sec := resolve(wall, stretchAt(wall, loc), loc)
	if sec+stretchAt(sec, loc).offset != wall {
		nsec = 0
	}
	return time.Unix(sec, int64(nsec)).UTC()
}
