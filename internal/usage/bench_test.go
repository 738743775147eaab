package usage_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

// BenchmarkIngest records batches of 1,000 events with ids in the order of
// time, for one customer, durably on SQLite.
func BenchmarkIngest(b *testing.B) {
	c := &clock{}
	now := at(b, "2026-03-31T10:00:00Z")
	c.set(now)
	n := start(b, filepath.Join(b.TempDir(), "u.db"), c)
	n.found(b, c, "acme")
	k := 0
	for b.Loop() {
		events := make([]usher.Event, 1000)
		for i := range events {
			k++
			events[i] = event(fmt.Sprintf("%010d", k), "llm.completion", `{"tokens":7,"model":"a"}`, now.Add(-time.Duration(k%5000)*time.Second))
		}
		r, err := n.usage.Ingest(b.Context(), usher.Sandbox, events)
		if err != nil || r.Accepted != len(events) {
			b.Fatal(err, r)
		}
	}
	b.ReportMetric(float64(k)/b.Elapsed().Seconds(), "events/s")
}
