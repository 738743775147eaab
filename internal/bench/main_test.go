package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
)

// TestTable: each target shows the last measurement and whether it keeps the bound, or
// that it was not measured.
func TestTable(t *testing.T) {
	t.Parallel()
	const printed = `goos: linux
BenchmarkB1_Switch-2    	36918044	        32.5 ns/op	       0 B/op	       0 allocs/op
BenchmarkB1_Metered-16  	 1	       132 ns/op	       1 allocs/op
BenchmarkB2_CheckRatio 	       1	     70000 bare/s	         1.000 ratio
BenchmarkB3_Consume/ordered-2         	       1	     81079 bare/s	      9679 consumes/s	         0.4999 ratio
BenchmarkB4_Events/sqlite-random-2    	       1	     20001 events/s
PASS
`
	var out bytes.Buffer
	if err := run(strings.NewReader(printed), &out, io.Discard, ""); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{ // the last two cells, by what
		"decide a switch":                      "32 ns ok",
		"decide a config value":                "not measured ",
		"decide metered: 3 allowances, 2 caps": "132 ns ok",
		"allocations of the same":              "1 below",
		"check over HTTP, of the bare handler": "1.00 ok",
		"the same, 64 customers, keys by time": "0.50 below",
		"events, SQLite, random ids":           "20001/s ok",
	}
	for _, line := range strings.Split(out.String(), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 7 {
			continue
		}
		what := strings.TrimSpace(cells[2])
		got := strings.TrimSpace(cells[4]) + " " + strings.TrimSpace(cells[5])
		if w, ok := want[what]; ok && got != w {
			t.Errorf("%s: got %q, want %q", what, got, w)
		}
		delete(want, what)
	}
	if len(want) > 0 {
		t.Errorf("no line of %v in\n%s", want, &out)
	}
}

// TestFailure: a benchmark that failed never looks like one that was measured.
func TestFailure(t *testing.T) {
	t.Parallel()
	for _, printed := range []string{"--- FAIL: BenchmarkB7_Hot\n", "FAIL	github.com/usher-sh/usher/engine [build failed]\n"} {
		if err := run(strings.NewReader(printed), io.Discard, io.Discard, ""); err == nil {
			t.Errorf("%q: got no error", printed)
		}
	}
}

// TestPicture: the picture in the documentation shows the numbers beside it.
func TestPicture(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/benchmarks-growth.csv")
	if err != nil {
		t.Fatal(err)
	}
	points, err := fromCSV(text)
	if err != nil {
		t.Fatal(err)
	}
	if got := toCSV(points); !bytes.Equal(got, text) {
		t.Errorf("the numbers are not written as they are read:\n%s", got)
	}
	picture, err := os.ReadFile("../../docs/benchmarks-growth.svg")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(draw(points), picture) {
		t.Error("docs/benchmarks-growth.svg is not drawn from docs/benchmarks-growth.csv: run make bench-growth")
	}
	if bytes.Contains(picture, []byte("not measured")) || bytes.Contains(picture, []byte("NaN")) {
		t.Error("a curve has no points")
	}
}

// TestUUIDs: ids in order of time sort in that order, and both kinds are valid.
func TestUUIDs(t *testing.T) {
	t.Parallel()
	r := newRand(1)
	last := ""
	for range 1000 {
		var b [uuidLength]byte
		orderedUUID(b[:], r)
		id := string(b[:])
		if id[:15] < last || id[14] != '7' || !strings.ContainsRune("89ab", rune(id[19])) {
			t.Fatalf("got %s after %s", id, last)
		}
		last = id[:15]
		randomUUID(b[:], r)
		if b[14] != '4' || strings.Count(string(b[:]), "-") != 4 {
			t.Fatalf("got %s", b)
		}
	}
}

// TestManyCustomers: customers that are inserted in bulk decide as the first one does.
// manyCustomers checks it.
func TestManyCustomers(t *testing.T) {
	t.Parallel()
	manyCustomers(t, t.TempDir(), 10)
}
