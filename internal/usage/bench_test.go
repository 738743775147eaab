package usage_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

// BenchmarkIngest records batches of 1,000 events with ids in the order of time, of 100
// customers, durably on SQLite: of the present windows, and of a time before the
// customers were created, which is before any window that memory holds.
func BenchmarkIngest(b *testing.B) {
	for name, age := range map[string]time.Duration{"present": 2 * time.Hour, "late": 0} {
		b.Run(name, func(b *testing.B) {
			c := &clock{}
			now := at(b, "2026-03-31T10:00:00Z")
			c.set(now.Add(-age))
			n := start(b, filepath.Join(b.TempDir(), "u.db"), c)
			var customers []string
			for i := range 100 {
				customers = append(customers, fmt.Sprint("c", i))
			}
			n.found(b, c, customers...)
			c.set(now)
			k := 0
			for b.Loop() {
				events := make([]usher.Event, 1000)
				for i := range events {
					k++
					events[i] = event(fmt.Sprintf("%010d", k), "llm.completion", `{"tokens":7,"model":"a"}`, now.Add(-time.Duration(1+k%60)*time.Second))
					events[i].Subject = customers[k%len(customers)]
				}
				r, err := n.usage.Ingest(b.Context(), usher.Sandbox, events)
				if err != nil || r.Accepted != len(events) {
					b.Fatal(err, r)
				}
			}
			b.ReportMetric(float64(k)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
