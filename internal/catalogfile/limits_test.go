package catalogfile

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
)

// TestHostileFiles gives Parse what is made to exhaust it. Each is refused with
// a word that tells why.
func TestHostileFiles(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'n'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	plans := func(n int) string {
		var b strings.Builder
		b.WriteString("usher: 1\nplans:\n")
		for i := range n {
			fmt.Fprintf(&b, "  p%d: {}\n", i)
		}
		return b.String()
	}
	tests := []struct {
		name, src, want string
	}{
		{"alias bomb", bomb, "aliases such as *a are not supported"},
		{"an alias of itself", "usher: 1\nplans: &a {b: *a}\n", "aliases such as *a are not supported"},
		{"too large", strings.Repeat("#", MaxSize+1), "at most 4194304 bytes"},
		{"deep flow", "usher: 1\nplans: " + strings.Repeat("[", 500_000), "nested deeper than 32"},
		{"deep flow maps", "usher: 1\nplans: " + strings.Repeat("{a: ", 250_000), "nested deeper than 32"},
		{"deep block", deepBlock(2000), "nested deeper than 32"},
		{"deep lists", "usher: 1\nplans: \n" + strings.Repeat("- ", 500_000), "nested deeper than 32"},
		{"a little too deep", "usher: 1\nplans: " + strings.Repeat("[", 40) + strings.Repeat("]", 40), "nested deeper than 32"},
		{"block and flow together", "usher: 1\n" + strings.TrimPrefix(deepBlock(20), "usher: 1\n") + strings.Repeat(" ", 25) + strings.Repeat(
			"[", 30) + strings.Repeat("]", 30), "nested deeper than 32"},
		{"deep JSON", `{"plans":` + strings.Repeat("[", 2_000_000), "nested deeper than 32"},
		{"deep JSON maps", strings.Repeat(`{"a":`, 800_000), "nested deeper than 32"},
		{"many nodes", "usher: 1\nplans: [" + strings.Repeat("a,", MaxNodes) + "a]", "at most 200000 keys and values"},
		{"very many nodes", "usher: 1\nplans: [" + strings.Repeat("a,", 2_000_000) + "a]", "at most 200000 keys and values"},
		{"very many lines", "usher: 1\nplans:\n" + strings.Repeat("- \n", 1_300_000), "at most 200000 keys and values"},
		{"many JSON nodes", `{"plans": [` + strings.Repeat("1,", 2_000_000) + "1]}", "at most 200000 keys and values"},
		{"many plans", plans(MaxEntries + 1), "may hold at most 10000 plans, this one holds 10001"},
		{"as many nodes as are built", "usher: 1\nplans: [" + strings.Repeat("a,", maxMarks-10) + "a]", "at most 200000 keys and values"},
		{"many lines of comments", strings.Repeat("# x\n", 1_000_000), "separators"},
		{"open question marks", strings.Repeat("? ", 2_000_000), ""},
		{"an open quote", `usher: "` + strings.Repeat("a\n", 500_000), "a closing quote is missing"},
		{"many comments", strings.Repeat("# x\n", 500_000), "the file is empty"},
		{"comments in a list", "usher: 1\nplans: [\n" + strings.Repeat("# x\n", 500_000) + "]", "must be a map"},
		{"a long key", strings.Repeat("a", 4_000_000) + ": 1", ""},
		{"many anchors", "usher: 1\nplans: [" + strings.Repeat("&a x,", 190_000) + "]", "must be a map"},
		{"not UTF-8", "usher: 1\nplans: {\xff}", "byte 0xFF is not UTF-8"},
		{"UTF-16", "\xff\xfeu\x00", "byte 0xFF is not UTF-8"},
		{"NUL", "usher: 1\n\x00", "control character U+0000"},
		{"nothing but a BOM", "\ufeff", "the file is empty"},
	}
	for _, tt := range tests {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		c, err := Parse("catalog.yaml", []byte(tt.src))
		runtime.ReadMemStats(&after)
		if err == nil || c != nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, clip(fmt.Sprint(err)), tt.want)
		}
		if len(fmt.Sprint(err)) > 50_000 {
			t.Errorf("%s: the error has %d bytes", tt.name, len(fmt.Sprint(err)))
		}
		if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 1000 {
			t.Errorf("%s: allocated %d MiB", tt.name, used)
		} else {
			t.Logf("%s: %d MiB", tt.name, used)
		}
	}
}

func deepBlock(depth int) string {
	var b strings.Builder
	b.WriteString("usher: 1\n")
	for i := range depth {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func TestProblemsAreBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("usher: 1\nplans:\n")
	for i := range 250 {
		fmt.Fprintf(&b, "  p%d: {titel: x}\n", i)
	}
	_, err := Parse("catalog.yaml", []byte(b.String()))
	var e *usher.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v", err)
	}
	if len(e.Problems) != MaxProblems+1 {
		t.Fatalf("got %d problems, want %d and a last one", len(e.Problems), MaxProblems)
	}
	if got := e.Problems[MaxProblems].Message; got != "… and 150 more" {
		t.Errorf("got %q at the end", got)
	}
	if got, want := e.Detail, "catalog.yaml has 250 problems"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := e.Problems[0].Location, "catalog.yaml:3:8"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestLargestFileParses shows that the bounds leave room for a large catalogue.
func TestLargestFileParses(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("usher: 1\nfeatures:\n")
	for i := range MaxEntries {
		fmt.Fprintf(&b, "  f%d: {kind: metered}\n", i)
	}
	b.WriteString("plans:\n")
	for i := range MaxEntries {
		fmt.Fprintf(&b, "  p%d: {entitlements: {f%d: {limit: 5, per: month}}}\n", i, i)
	}
	c, err := Parse("catalog.yaml", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Plans) != MaxEntries || len(c.Features) != MaxEntries {
		t.Errorf("got %d plans and %d features", len(c.Plans), len(c.Features))
	}
	if again, err := Parse("formatted", Format(c)); err != nil || Hash(again) != Hash(c) {
		t.Errorf("it does not survive Format: %v", err)
	}
}

// TestLongChains extends plans as far as it goes, and one further.
func TestLongChains(t *testing.T) {
	t.Parallel()
	chain := func(n int) string {
		var b strings.Builder
		b.WriteString("usher: 1\nfeatures: {a: {kind: switch}}\nplans:\n  p0: {entitlements: {a: true}}\n")
		for i := 1; i < n; i++ {
			fmt.Fprintf(&b, "  p%d: {extends: p%d}\n", i, i-1)
		}
		return b.String()
	}
	c := mustParse(t, chain(MaxExtends))
	if e := Resolve(c, fmt.Sprintf("p%d", MaxExtends-1)).Entitlements["a"]; e == nil || !e.On {
		t.Errorf("the last of the chain got %v, want what the first gives", e)
	}
	_, err := Parse("x", []byte(chain(MaxExtends+1)))
	if err == nil || !strings.Contains(err.Error(), "makes a chain of more than 64 plans") {
		t.Errorf("got %v", err)
	}
	if _, err := Parse("x", []byte(chain(MaxEntries))); err == nil {
		t.Error("a chain of all plans was accepted")
	}
}
