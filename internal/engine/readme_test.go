package engine_test

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/story"
)

// TestReadme runs the README's example and holds its table of buckets to what
// the engine counted.
func TestReadme(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(src), "```text\n")
	text, after, closed := strings.Cut(rest, "```\n")
	if !ok || !closed {
		t.Fatal("README.md has no ```text block")
	}
	s, err := story.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r := newStage(t)
	r.apply(s.Files, "catalog.yaml")
	for _, line := range s.Lines {
		r.where = fmt.Sprintf("README.md, story line %d: %s", line.Number, line.Text)
		r.run(s, line)
	}
	var buckets []engine.Bucket
	for _, b := range r.used["acme"].buckets {
		buckets = append(buckets, b)
	}
	slices.SortFunc(buckets, func(x, y engine.Bucket) int {
		return cmp.Or(cmp.Compare(x.Clock, y.Clock), cmp.Compare(x.Start, y.Start))
	})
	want := "| clock | start | end | limit | opening | used |\n| --- | --- | --- | --- | --- | --- |\n"
	for _, b := range buckets {
		end, limit := "none", "none"
		if b.End != math.MaxInt64 {
			end = time.UnixMicro(b.End).UTC().Format(time.DateOnly)
		}
		if !b.Unlimited {
			limit = fmt.Sprint(b.Limit)
		}
		want += fmt.Sprintf("| `%s` | %s | %s | %s | %d | %d |\n", b.Clock, time.UnixMicro(b.Start).UTC().Format(time.DateOnly), end, limit,
			b.Opening, b.Used)
	}
	if !strings.Contains(after, want+"\n") {
		t.Errorf("README.md must show these buckets:\n%s", want)
	}
}
