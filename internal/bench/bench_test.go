package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/testpg"
	"github.com/usher-sh/usher/internal/usage"
)

const (
	million = 1_000_000
	clients = 64
)

// BenchmarkB3_Consume measures POST /v1/consume on a SQLite file with a million takes,
// against a bare handler that gets the same bytes.
func BenchmarkB3_Consume(b *testing.B) {
	b.Run("ordered", func(b *testing.B) { consumeRatio(b, false, pastUUID, orderedUUID) })
	b.Run("random", func(b *testing.B) { consumeRatio(b, false, anyUUID, randomUUID) })
	b.Run("hot-ordered", func(b *testing.B) { consumeRatio(b, true, pastUUID, orderedUUID) })
	b.Run("hot-random", func(b *testing.B) { consumeRatio(b, true, anyUUID, randomUUID) })
}

func consumeRatio(b *testing.B, hot bool, stored string, uuid func([]byte, *rand.Rand)) {
	file := filepath.Join(b.TempDir(), "usher.db")
	w := open(b, file)
	w.found(b, clients)
	key := w.key(b)
	_, err := w.Usage.Consume(b.Context(), env, usage.ConsumeOp{Customer: customer(0), Feature: "calls", Key: "first"})
	must(b, err)
	w.stop()
	bulk(b, file, func(c *sql.Conn) {
		multiply(b, c, "op", "key = 'first'", million, func(column string) string {
			if column == "key" {
				return stored
			}
			return ""
		})
	})
	w = open(b, file)
	ours, bare := listen(b, w.Server), listen(b, http.HandlerFunc(bareConsume))
	l := consume(key, clients, hot, uuid)
	granted := int64(1)
	rate := func(addr string, d time.Duration) float64 {
		m := l.run(b, addr, d)
		if m.allowed != m.answers {
			b.Fatalf("%d of %d were allowed; the limit is far away", m.allowed, m.answers)
		}
		if addr == ours {
			granted += m.allowed
		}
		return m.perSecond
	}
	us := func() float64 { return rate(ours, 2*time.Second) }
	them := func() float64 { return rate(bare, time.Second) }
	us() // warm
	them()
	for b.Loop() {
		x, y, ratio := pairs(5, us, them)
		b.ReportMetric(ratio, "ratio")
		b.ReportMetric(x, "consumes/s")
		b.ReportMetric(y, "bare/s")
	}
	b.ReportMetric(0, "ns/op")
	w.stop()
	bulk(b, file, func(c *sql.Conn) {
		if got, want := number(b, c, `SELECT count(*) FROM op`), million+granted; got != want {
			b.Errorf("%d stored takes, want %d", got, want)
		}
		if got := number(b, c, `SELECT sum(used) FROM bucket WHERE feature = 'calls'`); got != granted {
			b.Errorf("%d units used, want %d: what was granted", got, granted)
		}
	})
}

// SQL for the ids of rows that are stored before the benchmark: UUIDs in order of
// time, one a millisecond until an hour ago, or random ones.
const (
	anyUUID = `(SELECT substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-4' || substr(h, 14, 3) || '-8' || substr(h, 18, 3) ||
		'-' || substr(h, 21) FROM (SELECT lower(hex(randomblob(16))) || substr('', n) AS h))`
	pastUUID = `(SELECT substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-7' || substr(h, 13, 3) || '-8' || substr(h, 16, 3) ||
		'-' || substr(h, 19, 12)
		FROM (SELECT printf('%012x', (strftime('%s', 'now') - 3600) * 1000 - 1000000 + n) || lower(hex(randomblob(9))) AS h))`
	// The same on PostgreSQL.
	pastUUIDPostgres = `(SELECT substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-7' || substr(h, 13, 3) ||
		'-8' || substr(h, 16, 3) || '-' || substr(h, 19, 12)
		FROM (SELECT lpad(to_hex((extract(epoch FROM now())::bigint - 3600) * 1000 - 1000000 + n), 12, '0') || md5(n::text) AS h) AS x)`
)

// BenchmarkB4_Events records batches of 1,000 events in a database that has a million,
// through the library; once over HTTP, for comparison.
func BenchmarkB4_Events(b *testing.B) {
	sqlite := func(b *testing.B) string { return filepath.Join(b.TempDir(), "usher.db") }
	b.Run("sqlite-ordered", func(b *testing.B) { events(b, sqlite(b), pastUUID, orderedUUID) })
	b.Run("sqlite-random", func(b *testing.B) { events(b, sqlite(b), anyUUID, randomUUID) })
	b.Run("postgres", func(b *testing.B) {
		// As a server that does not lose acknowledged takes; the rest is the default.
		pg, err := testpg.Start("fsync=on", "synchronous_commit=on", "full_page_writes=on")
		if errors.Is(err, testpg.ErrNoBinaries) {
			b.Skip(err)
		}
		must(b, err)
		b.Cleanup(pg.Stop)
		dsn, err := pg.NewDatabase(b.Context())
		must(b, err)
		events(b, dsn, pastUUIDPostgres, orderedUUID)
	})
}

const (
	perBatch  = 1000
	batches   = 150 // of one run
	reporters = 4   // callers of Ingest
	reported  = 100 // customers that the events are of
)

func events(b *testing.B, dsn, stored string, uuid func([]byte, *rand.Rand)) {
	w := open(b, dsn)
	w.found(b, reported)
	key := w.key(b)
	r := newRand(0)
	sent := int64(1)
	// make prepares the events of n batches. Ordered ids are ordered across batches.
	ready := func(n int) [][]usher.Event {
		list := make([][]usher.Event, n)
		now := time.Now().UTC()
		id := make([]byte, uuidLength)
		for i := range list {
			list[i] = make([]usher.Event, perBatch)
			for j := range list[i] {
				uuid(id, r)
				list[i][j] = usher.Event{ID: string(id), Source: "gateway", Type: "llm.completion", Subject: customer(r.IntN(reported)),
					Time: now.Add(-time.Duration(r.IntN(60)) * time.Second), Data: fmt.Appendf(nil, `{"tokens":%d,"model":"m%d"}`, 1+r.IntN(900),
						r.IntN(4))}
			}
		}
		return list
	}
	first, err := w.Usage.Ingest(b.Context(), env, ready(1)[0][:1])
	must(b, err)
	if first.Accepted != 1 {
		b.Fatalf("got %+v", first)
	}
	w.stop()
	bulk(b, dsn, func(c *sql.Conn) {
		multiply(b, c, "event", "source = 'gateway'", million, func(column string) string {
			if column == "id" {
				return stored
			}
			return ""
		})
	})
	w = open(b, dsn)
	addr := listen(b, w.Server)
	ingest := func(send func(caller int, events []usher.Event) error) float64 {
		list := ready(batches)
		next := make(chan []usher.Event, len(list))
		for _, l := range list {
			next <- l
		}
		close(next)
		var wg sync.WaitGroup
		began := time.Now()
		for i := range reporters {
			wg.Go(func() {
				for l := range next {
					if err := send(i, l); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		took := time.Since(began)
		if b.Failed() {
			b.FailNow()
		}
		sent += batches * perBatch
		return batches * perBatch / took.Seconds()
	}
	library := func() float64 {
		return ingest(func(_ int, list []usher.Event) error {
			res, err := w.Usage.Ingest(b.Context(), env, list)
			if err == nil && res.Accepted != len(list) {
				err = fmt.Errorf("got %d of %d events: %v", res.Accepted, len(list), res.Rejected)
			}
			return err
		})
	}
	library() // warm
	for b.Loop() {
		var rates []float64
		for range 5 {
			rates = append(rates, library())
		}
		b.ReportMetric(median(rates), "events/s")
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(overHTTP(b, addr, key, ingest), "http-events/s")
	w.stop()
	bulk(b, dsn, func(c *sql.Conn) {
		if got, want := number(b, c, `SELECT count(*) FROM event`), million+sent; got != want {
			b.Errorf("%d stored events, want %d", got, want)
		}
	})
}

// number queries one number.
func number(b testing.TB, c *sql.Conn, text string) (n int64) {
	b.Helper()
	must(b, c.QueryRowContext(b.Context(), text).Scan(&n))
	return n
}

// overHTTP posts the same events as CloudEvents.
func overHTTP(b *testing.B, addr, key string, ingest func(func(int, []usher.Event) error) float64) float64 {
	return ingest(func(_ int, list []usher.Event) error {
		var body bytes.Buffer
		for i, e := range list {
			fmt.Fprintf(&body, `%c{"specversion":"1.0","id":%q,"source":%q,"type":%q,"subject":%q,"time":%q,"data":%s}`,
				"[,"[min(i, 1)], e.ID, e.Source, e.Type, e.Subject, e.Time.Format(time.RFC3339Nano), e.Data)
		}
		body.WriteByte(']')
		req, err := http.NewRequest("POST", "http://"+addr+"/v1/events", &body)
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/cloudevents-batch+json")
		req.Header.Set("Authorization", "Bearer "+key)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		var got usher.IngestResult
		err = json.NewDecoder(res.Body).Decode(&got)
		if err == nil && got.Accepted != len(list) {
			err = fmt.Errorf("%s: got %d of %d events: %v", res.Status, got.Accepted, len(list), got.Rejected)
		}
		return err
	})
}

// BenchmarkB5B6_Customers starts the real program with a million customers, asks about
// customers that it has in memory and then about any, and compares with a program
// that has a thousand.
func BenchmarkB5B6_Customers(b *testing.B) {
	program := build(b)
	dir := b.TempDir()
	smallFile, smallKey := manyCustomers(b, dir, 1000)
	bigFile, bigKey := manyCustomers(b, dir, million)

	for b.Loop() {
		var ready, rss []float64
		for range 5 {
			p := serve(b, program, bigFile)
			ready, rss = append(ready, p.ready.Seconds()*1000), append(rss, p.rss(b))
			p.stop()
		}
		b.ReportMetric(median(ready), "ready-ms")
		b.ReportMetric(median(rss), "MB")

		small, big := serve(b, program, smallFile), serve(b, program, bigFile)
		p50 := func(p *process, key string, customers int) func() float64 {
			l := check(key, checkers, func(r *rand.Rand) int { return r.IntN(customers) })
			return func() float64 {
				m := l.run(b, p.addr, 500*time.Millisecond)
				if m.allowed != m.answers {
					b.Fatalf("%d of %d were allowed", m.allowed, m.answers)
				}
				return m.p50.Seconds() * 1e6
			}
		}
		// In memory: as many as fit, spread over the million.
		held := check(bigKey, checkers, func(r *rand.Rand) int { return r.IntN(inMemory) * (million / inMemory) })
		for big.gauge(b, "usher_customers_loaded") < inMemory*95/100 {
			held.run(b, big.addr, 500*time.Millisecond)
		}
		b.ReportMetric(big.rss(b), "MB-loaded")
		heldP50 := func() float64 { return held.run(b, big.addr, 500*time.Millisecond).p50.Seconds() * 1e6 }
		x, y, ratio := pairs(7, heldP50, p50(small, smallKey, 1000))
		b.ReportMetric(ratio, "ratio")
		b.ReportMetric(x, "held-p50-µs")
		b.ReportMetric(y, "1k-p50-µs")
		x, _, ratio = pairs(5, p50(big, bigKey, million), p50(small, smallKey, 1000))
		b.ReportMetric(ratio, "any-ratio")
		b.ReportMetric(x, "any-p50-µs")
		b.ReportMetric(big.gauge(b, "usher_customers_loaded"), "in-memory")
		b.ReportMetric(big.rss(b), "MB-after")
		small.stop()
		big.stop()
	}
	b.ReportMetric(0, "ns/op")
}

// checkers is small, so that the benchmark measures an answer and not a queue.
const checkers = 2

// inMemory is a number of customers that the server certainly keeps in memory.
const inMemory = 50_000

// BenchmarkB7_Hot lets 64 clients consume from one customer's limit, against
// each from its own.
func BenchmarkB7_Hot(b *testing.B) {
	w := open(b, filepath.Join(b.TempDir(), "usher.db"))
	w.found(b, clients)
	key := w.key(b)
	addr := listen(b, w.Server)
	rate := func(hot bool) func() float64 {
		l := consume(key, clients, hot, orderedUUID)
		return func() float64 { return l.run(b, addr, 2*time.Second).perSecond }
	}
	rate(true)()
	rate(false)()
	for b.Loop() {
		x, y, ratio := pairs(5, rate(true), rate(false))
		b.ReportMetric(ratio, "ratio")
		b.ReportMetric(x, "hot/s")
		b.ReportMetric(y, "spread/s")
	}
	b.ReportMetric(0, "ns/op")
}
