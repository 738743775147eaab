package calendar

import (
	"archive/zip"
	_ "embed"
	"go/build"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

//go:embed testdata/zones.txt
var zoneList string

// zoneNames lists every zone: those of the Go installation, which are the ones that
// the program embeds, or those of the list if there is no installation.
func zoneNames(t testing.TB) []string {
	names, _ := readZones(t)
	return names
}

// distinctZones leaves out names with the same data as another.
func distinctZones(t testing.TB) []string {
	names, sums := readZones(t)
	seen := map[uint32]bool{}
	return slices.DeleteFunc(names, func(name string) bool {
		sum, known := sums[name]
		again := known && seen[sum]
		seen[sum] = true
		return again
	})
}

func readZones(t testing.TB) (names []string, sums map[string]uint32) {
	sums = map[string]uint32{}
	if z, err := zip.OpenReader(filepath.Join(build.Default.GOROOT, "lib", "time", "zoneinfo.zip")); err == nil {
		defer z.Close()
		for _, f := range z.File {
			if !strings.HasSuffix(f.Name, "/") {
				names, sums[f.Name] = append(names, f.Name), f.CRC32
			}
		}
	} else {
		names = strings.Fields(zoneList)
	}
	if len(names) < 400 {
		t.Fatalf("only %d zones to test with", len(names))
	}
	slices.Sort(names)
	return names, sums
}

func TestZone(t *testing.T) {
	t.Parallel()
	for _, name := range zoneNames(t) {
		if loc, err := Zone(name); err != nil || loc.String() != name {
			t.Errorf("%s: got %v, %v", name, loc, err)
		}
	}
	if loc, err := Zone(""); err != nil || loc != time.UTC {
		t.Errorf(`"": got %v, %v; want UTC`, loc, err)
	}
	for _, name := range []string{
		"Local", "local", "localtime", "posixrules", "right/UTC", "posix/Europe/Berlin", "zone.tab", "tzdata.zi", "europe/berlin",
		"Mars/Olympus", "Europe", "Europe/", "/Europe/Berlin", "Europe//Berlin", "Europe/../Asia/Tokyo", "./UTC", "../UTC", `Europe\Berlin`,
		"/etc/passwd",
		"Europe/Berlin ", " UTC", "UTC\x00", "UTC+1", "+01:00", "Europe/Zürich", ".", "/", strings.Repeat("A", 10_000),
	} {
		loc, err := Zone(name)
		if loc != nil || usher.ErrorCode(err) != usher.Invalid {
			t.Errorf("%.50q: got %v, %v; want an Invalid error", name, loc, err)
			continue
		}
		if !strings.Contains(err.Error(), strings.Trim(quoted(name), `"`)) || len(err.Error()) > 400 {
			t.Errorf("%.50q: the message does not name it, or is long: %.500s", name, err)
		}
	}
}

func quoted(s string) string { return usher.Errorf(usher.Invalid, "%.64q", s).Error() }

func TestZoneIsOneLocationForAll(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	got := make([]*time.Location, 20)
	for i := range got {
		wg.Go(func() { got[i], _ = Zone("Europe/Vaduz") })
	}
	wg.Wait()
	for i := range got {
		if got[i] == nil || got[i] != got[0] {
			t.Errorf("call %d: got %p, call 0 got %p", i, got[i], got[0])
		}
	}
}
