package powercut

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/usage"
)

// full is whether the proofs run at the size that is claimed, or at one for
// every day.
var full = os.Getenv("USHER_PROVE") == "full"

// seed is what the run's choices come from; the scheduler's are its own.
var seed = func() uint64 {
	if n, err := strconv.ParseUint(os.Getenv("USHER_SEED"), 10, 64); err == nil {
		return n
	}
	return rand.Uint64() >> 32
}()

func sized(small, large int) int {
	if full {
		return large
	}
	return small
}

const perMinute = 25 // exports a customer may take

const catalogue = `usher: 1
meters:
  calls:  {event: api.request}
  tokens: {event: llm.completion, sum: data.tokens, dimensions: [data.model]}
features:
  exports: {kind: metered}
  calls:   {kind: metered, meter: calls}
  tokens:  {kind: metered, meter: tokens}
plans:
  free:
    default: true
    entitlements:
      exports: {limit: 25, per: minute}
      calls: {limit: 1000000, per: lifetime}
      tokens: {limit: 100, per: lifetime, overage: unlimited}
`

var (
	people   = []string{"acme", "beta", "core"}
	features = []string{"exports", "calls", "tokens"}
)

// clock is the server's, moved by the tests.
type clock struct{ us atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.us.Store(time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC).UnixMicro())
	return c
}

func (c *clock) now() time.Time { return time.UnixMicro(c.us.Load()).UTC() }

// process is usher's rooms over a disk, wired as `usher serve` does.
type process struct {
	db        *store.DB
	live      *live.Live
	usage     *usage.Usage
	decide    *decide.Service
	customers *customers.Service
	catalog   *catalog.Service
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// pragmas changes what usher asks SQLite for; nil changes nothing.
type pragmas = *strings.Replacer

func instead(of, put string) pragmas {
	return strings.NewReplacer("_pragma="+url.QueryEscape(of), "_pragma="+put)
}

// oftenMoved makes SQLite move pages from its log to the main file after few
// commits, so that faults and power cuts come then too.
var oftenMoved = instead("synchronous(FULL)", "synchronous(FULL)&_pragma=wal_autocheckpoint(20)")

func boot(ctx context.Context, d *Disk, dir string, c *clock, p pragmas) (*process, error) {
	open := d.OpenSQLite
	if p != nil {
		open = func(uri string) (*sql.DB, error) { return d.OpenSQLite(p.Replace(uri)) }
	}
	db, err := store.Open(ctx, store.Config{DSN: filepath.Join(dir, "usher.db"), OpenSQLite: open})
	if err != nil {
		return nil, err
	}
	l, err := live.New(ctx, live.Config{DB: db, Now: c.now, Node: "node"})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	n := atomic.Int64{}
	return &process{db, l, usage.New(usage.Config{DB: db, Live: l, Node: "node", Log: quiet}), decide.New(l),
		customers.New(customers.Config{DB: db, Live: l, NewID: func(prefix string) string { return fmt.Sprint(prefix, n.Add(1)) }}),
		catalog.New(catalog.Config{DB: db, Live: l})}, nil
}

// found puts the catalogue in force and the customers in place; again is no harm.
func (p *process) found(ctx context.Context) error {
	system := usher.Actor{Kind: "system"}
	if _, err := p.catalog.Apply(ctx, usher.Sandbox, usher.By{Actor: system}, []byte(catalogue), catalog.Options{}); err != nil {
		return err
	}
	for _, id := range people {
		if _, _, err := p.customers.PutCustomer(ctx, usher.Sandbox, usher.By{Actor: system}, customers.Guard{}, id,
			customers.CustomerInput{}); err != nil {
			return err
		}
	}
	return nil
}

// end ends the process. After a power cut nothing of it reaches the disk.
func (p *process) end() {
	_ = p.usage.Close(context.Background())
	_ = p.db.Close()
}

// take is what one key was asked for, and its first answer.
type take struct {
	op     usage.ConsumeOp
	hold   bool   // reserved first, then settled: the answer is the settlement's
	answer string // "": none came
	got    usher.Decision
}

// reserve holds an amount and settles it: two takes, either of which may be the
// last before the power goes.
func (p *process) reserve(ctx context.Context, env usher.Environment, op usage.ConsumeOp) (usher.Decision, error) {
	d, err := p.usage.Reserve(ctx, env, usage.ReserveOp{ConsumeOp: op})
	if err != nil || !d.Allowed {
		return d, err
	}
	held := d.Window
	d, err = p.usage.Settle(ctx, env, d.Reservation.ID, op.Amount)
	d.Window = held // where the use is booked, whenever it is settled
	return d, err
}

// witness stands outside and remembers what was acknowledged.
type witness struct {
	mu     sync.Mutex
	clock  *clock
	takes  map[string]*take
	keys   []string // in the order asked
	events map[string]usher.Event
	told   map[string]bool // events that were acknowledged
	fresh  []string        // keys since the last verification
	recent []string        // events since then
	wrong  []string        // answers that must not be
	asked  atomic.Int64
	denied atomic.Int64 // requests that were told to come back
}

func newWitness(c *clock) *witness {
	return &witness{clock: c, takes: map[string]*take{}, events: map[string]usher.Event{}, told: map[string]bool{}}
}

func (w *witness) broken(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

func words(d usher.Decision) string {
	d.Replayed = false
	b, err := json.Marshal(d)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// consume asks once and remembers. An answer must be the first of its key.
func (w *witness) consume(ctx context.Context, p *process, op usage.ConsumeOp) error {
	w.mu.Lock()
	t := w.takes[op.Key]
	if t == nil {
		t = &take{op: op, hold: strings.HasPrefix(op.Key, "hold-")}
		w.takes[op.Key] = t
		w.keys = append(w.keys, op.Key)
		w.fresh = append(w.fresh, op.Key)
	}
	before := t.answer // answers that come while this one is under way may be either's first
	w.mu.Unlock()
	w.asked.Add(1)
	ask := p.usage.Consume
	if t.hold {
		ask = p.reserve
	}
	d, err := ask(ctx, usher.Sandbox, op)
	if err != nil {
		w.denied.Add(1)
		if usher.ErrorCode(err) != usher.Unavailable {
			w.broken("key %s: an error of code %q: %v", op.Key, usher.ErrorCode(err), err)
		}
		return err
	}
	w.mu.Lock()
	first := t.answer
	if first == "" {
		t.answer, t.got = words(d), d
	}
	w.mu.Unlock()
	switch {
	case before != "" && !d.Replayed:
		w.broken("key %s was acknowledged and is forgotten: %s, now %s", op.Key, before, words(d))
	case first != "" && first != words(d):
		w.broken("key %s: answered %s first and %s now", op.Key, first, words(d))
	}
	return nil
}

// ingest sends events and remembers which were acknowledged. Events that were
// acknowledged before must be duplicates, and others accepted at most once.
func (w *witness) ingest(ctx context.Context, p *process, events []usher.Event) error {
	known := 0
	w.mu.Lock()
	for _, e := range events {
		if w.told[e.ID] {
			known++
		}
		if _, ok := w.events[e.ID]; !ok {
			w.events[e.ID] = e
			w.recent = append(w.recent, e.ID)
		}
	}
	w.mu.Unlock()
	w.asked.Add(1)
	r, err := p.usage.Ingest(ctx, usher.Sandbox, events)
	if err != nil {
		w.denied.Add(1)
		if usher.ErrorCode(err) != usher.Unavailable {
			w.broken("events: an error of code %q: %v", usher.ErrorCode(err), err)
		}
		return err
	}
	if r.Duplicates < known || r.Accepted+r.Duplicates != len(events) {
		w.broken("of %d events %d were acknowledged before; now %d accepted, %d duplicates, rejected: %v", len(events), known, r.Accepted,
			r.Duplicates, r.Rejected)
	}
	w.mu.Lock()
	for _, e := range events {
		w.told[e.ID] = true
	}
	w.mu.Unlock()
	return nil
}

// work lets workers take and report until each has asked n times or stop says so.
// What was asked before is asked again now and then. Another client checks meanwhile.
func (w *witness) work(ctx context.Context, p *process, name string, rng *rand.Rand, workers, n int, stop func() bool) {
	var wg sync.WaitGroup
	for i := range workers {
		rng := rand.New(rand.NewPCG(rng.Uint64(), uint64(i)))
		wg.Go(func() {
			for j := 0; j < n && !stop(); j++ {
				id := fmt.Sprintf("%s-%d-%d", name, i, j)
				who := people[rng.IntN(len(people))]
				switch rng.IntN(8) {
				case 0, 1:
					events := make([]usher.Event, 1+rng.IntN(4))
					for k := range events {
						e := usher.Event{ID: fmt.Sprint(id, "-", k), Source: "test", Type: "api.request", Subject: who, Time: w.clock.now()}
						if rng.IntN(2) == 0 {
							e.Type, e.Data = "llm.completion", json.RawMessage(fmt.Sprintf(`{"tokens":%d,"model":"m%d"}`, 1+rng.IntN(9), rng.IntN(3)))
						}
						events[k] = e
					}
					_ = w.ingest(ctx, p, events)
				case 2:
					w.mu.Lock()
					var op usage.ConsumeOp
					if len(w.keys) > 0 {
						op = w.takes[w.keys[rng.IntN(len(w.keys))]].op
					}
					w.mu.Unlock()
					if op.Key != "" {
						_ = w.consume(ctx, p, op)
					}
				case 3:
					w.check(ctx, p, who, "exports")
				default:
					feature := "exports"
					if rng.IntN(3) == 0 {
						feature = "calls"
					}
					if rng.IntN(3) == 0 {
						id = "hold-" + id
					}
					_ = w.consume(ctx, p, usage.ConsumeOp{Customer: who, Feature: feature, Key: id, Amount: usher.Number(fmt.Sprint(1 + rng.IntN(3)))})
				}
			}
		})
	}
	wg.Wait()
}

// check asks what is left; ok is false where no answer came.
func (w *witness) check(ctx context.Context, p *process, who, feature string) (d usher.Decision, ok bool) {
	d, err := p.decide.Check(ctx, usher.Sandbox, decide.CheckQuery{Customer: who, Feature: feature}, nil)
	if err != nil {
		if usher.ErrorCode(err) != usher.Unavailable {
			w.broken("check of %s %s: an error of code %q: %v", who, feature, usher.ErrorCode(err), err)
		}
		return d, false
	}
	if feature == "exports" && d.Used > perMinute {
		w.broken("check of %s: used %d of %d", who, d.Used, perMinute)
	}
	return d, true
}

// settle asks again for all that got no answer, until it has one: then every
// key and every event is known, and the sums below are exact.
func (w *witness) settle(ctx context.Context, p *process, all bool) error {
	w.mu.Lock()
	keys, ids := w.fresh, w.recent
	if all {
		keys, ids = w.keys, nil
		for id := range w.events {
			ids = append(ids, id)
		}
	}
	w.mu.Unlock()
	errs := make([]error, len(keys)+1)
	var wg sync.WaitGroup
	for i, k := range keys {
		op := w.takes[k].op
		wg.Go(func() { errs[i] = w.consume(ctx, p, op) })
	}
	events := make([]usher.Event, len(ids))
	for i, id := range ids {
		events[i] = w.events[id]
	}
	wg.Go(func() { errs[len(keys)] = w.ingest(ctx, p, events) })
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	w.mu.Lock()
	w.fresh, w.recent = nil, nil
	w.mu.Unlock()
	return nil
}

// beside opens the database for reading, next to usher.
func beside(d *Disk, dir string) (*sql.DB, error) {
	db, err := d.OpenSQLite("file://" + filepath.ToSlash(filepath.Join(dir, "usher.db")) +
		"?_pragma=busy_timeout(10000)&_pragma=query_only(1)")
	if err == nil {
		db.SetMaxOpenConns(1)
	}
	return db, err
}

// audit reads the database beside usher and compares it with what is known.
// Every key and event must have its answer by now.
func (w *witness) audit(ctx context.Context, p *process, d *Disk, dir string) error {
	db, err := beside(d, dir)
	if err != nil {
		return err
	}
	defer db.Close()
	var s string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check`).Scan(&s); err != nil {
		return err
	}
	if s != "ok" {
		w.broken("integrity_check: %s", s)
	}
	sums := func(text string) (map[string]int64, error) {
		rows, err := db.QueryContext(ctx, text)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		all := map[string]int64{}
		for rows.Next() {
			var k string
			var n int64
			if err := rows.Scan(&k, &n); err != nil {
				return nil, err
			}
			all[k] = n
		}
		return all, rows.Err()
	}
	want, windows, rows := map[string]int64{}, map[string]int64{}, map[string]int64{"op": int64(len(w.takes)), "event": int64(len(w.events))}
	for k, t := range w.takes {
		if t.answer == "" {
			w.broken("key %s has no answer", k)
			continue
		}
		if t.hold && t.got.Allowed {
			rows["op"]++ // the settlement is one of its own
		}
		if t.got.Consumed == 0 {
			continue
		}
		want[t.op.Customer+" "+t.op.Feature] += t.got.Consumed
		if t.op.Feature == "exports" {
			windows[t.op.Customer+" "+strconv.FormatInt(t.got.Window.Start.UnixMicro(), 10)] += t.got.Consumed
		}
	}
	for _, e := range w.events {
		var data struct{ Tokens int64 }
		if e.Type == "api.request" {
			want[e.Subject+" calls"]++
			continue
		}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			return err
		}
		want[e.Subject+" tokens"] += data.Tokens
	}
	for k, n := range windows {
		if n > perMinute {
			w.broken("%s: %d granted of %d", k, n, perMinute)
		}
	}
	for _, x := range []struct {
		what, text string
		want       map[string]int64
	}{
		{"rows", `SELECT 'op', count(*) FROM op UNION ALL SELECT 'event', count(*) FROM event`, rows},
		{"used in buckets", `SELECT customer || ' ' || feature, sum(used) FROM bucket GROUP BY 1 HAVING sum(used) > 0`, want},
		{"used by minute", `SELECT customer || ' ' || feature, sum(used) FROM rollup WHERE grain = 1 GROUP BY 1 HAVING sum(used) > 0`, want},
		{"used by hour", `SELECT customer || ' ' || feature, sum(used) FROM rollup WHERE grain = 60 GROUP BY 1 HAVING sum(used) > 0`, want},
		{"used by day", `SELECT customer || ' ' || feature, sum(used) FROM rollup WHERE grain = 1440 GROUP BY 1 HAVING sum(used) > 0`, want},
		{"still held", `SELECT customer || ' ' || feature, sum(reserved) FROM bucket GROUP BY 1 HAVING sum(reserved) <> 0
			UNION ALL SELECT 'open ' || state, count(*) FROM hold WHERE state = 'open' GROUP BY 1`, map[string]int64{}},
		{"windows of exports", `SELECT customer || ' ' || start_at, used FROM bucket WHERE feature = 'exports' AND used > 0`, windows},
	} {
		got, err := sums(x.text)
		if err != nil {
			return err
		}
		if fmt.Sprint(got) != fmt.Sprint(x.want) {
			w.broken("%s: %v, but %v was acknowledged", x.what, got, x.want)
		}
	}
	// What checks say is what is stored.
	for _, who := range people {
		for _, f := range features {
			c, ok := w.check(ctx, p, who, f)
			if !ok {
				return fmt.Errorf("check of %s %s: no answer", who, f)
			}
			stored := want[who+" "+f]
			if f == "exports" {
				stored = windows[who+" "+strconv.FormatInt(c.Window.Start.UnixMicro(), 10)]
			}
			if c.Used != stored {
				w.broken("check of %s %s: used %d, stored %d", who, f, c.Used, stored)
			}
		}
	}
	return nil
}

// report fails the test for every promise that was broken, up to a few.
func (w *witness) report(t *testing.T, where string) bool {
	for i, s := range w.wrong {
		if i == 5 {
			t.Errorf("%s: and %d more", where, len(w.wrong)-i)
			break
		}
		t.Errorf("%s: %s", where, s)
	}
	return len(w.wrong) > 0
}
