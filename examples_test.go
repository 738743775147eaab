package usher_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usher-sh/usher/internal/catalogfile"
)

// TestExamples: every example is a catalogue that usher reads, reads again as
// it writes it, and a page that says what to notice.
func TestExamples(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("examples/*/catalog.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %d examples (%v), want at least 3", len(files), err)
	}
	index, err := os.ReadFile("examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := catalogfile.Parse(file, src)
			if err != nil {
				t.Fatal(err)
			}
			again, err := catalogfile.Parse(file, catalogfile.Format(c))
			if err != nil {
				t.Fatalf("its canonical form is refused: %v", err)
			}
			if got, want := catalogfile.Hash(again), catalogfile.Hash(c); got != want {
				t.Errorf("the hash of its canonical form is %s, want %s", got, want)
			}
			for key, f := range c.Features { // a feature that nobody sells is a mistake of ours
				sold := false
				for _, p := range c.Plans {
					sold = sold || p.Entitlements[key] != nil
				}
				for _, a := range c.Addons {
					sold = sold || a.Entitlements[key] != nil
				}
				if !sold {
					t.Errorf("feature %s (%s) is in no plan and no add-on", key, f.Kind)
				}
			}
			page, err := os.ReadFile(filepath.Join(dir, "README.md"))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(page), "What to notice") {
				t.Errorf("%s/README.md does not say what to notice", dir)
			}
			if !strings.Contains(string(index), "("+filepath.Base(dir)+"/README.md)") {
				t.Errorf("examples/README.md does not list %s", dir)
			}
		})
	}
}
