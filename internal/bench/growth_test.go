package main

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkGrowth_Customers follows the real program as customers grow.
func BenchmarkGrowth_Customers(b *testing.B) {
	program := build(b)
	for _, n := range []int{1000, 10_000, 100_000, million} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			file, key := manyCustomers(b, b.TempDir(), n)
			for b.Loop() {
				var ready, rss []float64
				for range 5 {
					p := serve(b, program, file)
					ready, rss = append(ready, p.ready.Seconds()*1000), append(rss, p.rss(b))
					p.stop()
				}
				b.ReportMetric(median(ready), "ready-ms")
				b.ReportMetric(median(rss), "MB")
				p := serve(b, program, file)
				asked := min(n, inMemory)
				held := check(key, checkers, func(r *rand.Rand) int { return r.IntN(asked) * (n / asked) })
				for p.gauge(b, "usher_customers_loaded") < float64(asked)*0.95 {
					held.run(b, p.addr, 500*time.Millisecond)
				}
				m := held.run(b, p.addr, 2*time.Second)
				b.ReportMetric(micros(m.p50), "p50-µs")
				b.ReportMetric(micros(m.p99), "p99-µs")
				anyOf := check(key, checkers, func(r *rand.Rand) int { return r.IntN(n) })
				m = anyOf.run(b, p.addr, 2*time.Second)
				b.ReportMetric(micros(m.p50), "any-p50-µs")
				b.ReportMetric(micros(m.p99), "any-p99-µs")
				p.stop()
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkGrowth_Clients follows check and consume as clients grow, each with
// its own customer.
func BenchmarkGrowth_Clients(b *testing.B) {
	const most = 256
	w := open(b, filepath.Join(b.TempDir(), "usher.db"))
	w.found(b, most)
	key := w.key(b)
	addr := listen(b, w.Server)
	for _, n := range []int{1, 4, 16, 64, most} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				for name, l := range map[string]*load{
					"check":   check(key, n, func(r *rand.Rand) int { return r.IntN(most) }),
					"consume": consume(key, n, false, orderedUUID),
				} {
					l.run(b, addr, 500*time.Millisecond) // warm
					m := l.run(b, addr, 3*time.Second)
					b.ReportMetric(m.perSecond, name+"s/s")
					b.ReportMetric(micros(m.p50), name+"-p50-µs")
					b.ReportMetric(micros(m.p99), name+"-p99-µs")
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func micros(d time.Duration) float64 { return d.Seconds() * 1e6 }
