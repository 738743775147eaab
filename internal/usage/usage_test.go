package usage_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/testpg"
	"github.com/usher-sh/usher/internal/usage"
)

func TestMain(m *testing.M) { testpg.Main(m) }

const catalogue = `usher: 1
meters:
  api_calls: {event: api.request}
  tokens:    {event: llm.completion, sum: data.tokens, dimensions: [data.model]}
  storage:   {event: storage.sampled, last: data.bytes}
  active:    {event: session.gauge, max: data.sessions}
  visitors:  {event: page.viewed, unique: data.visitor}
features:
  sso:       {kind: switch}
  api_calls: {kind: metered, meter: api_calls}
  tokens:    {kind: metered, meter: tokens}
  storage:   {kind: metered, meter: storage}
  active:    {kind: metered, meter: active}
  visitors:  {kind: metered, meter: visitors}
  exports:   {kind: metered}
plans:
  free:
    default: true
    entitlements:
      api_calls: {limit: 1000, per: month, caps: [{limit: 700, per: minute}]}
      tokens: {limit: 100, per: day, overage: unlimited}
      storage: {limit: 500, per: month}
      active: {limit: 10, per: day}
      visitors: {limit: 3, per: day}
      exports: {limit: 50, per: lifetime}
`

// node is one process's rooms on a database, with a clock that tests move.
type node struct {
	db     *store.DB
	live   *live.Live
	usage  *usage.Usage
	decide *decide.Service
}

type clock struct{ us atomic.Int64 }

func (c *clock) now() time.Time  { return time.UnixMicro(c.us.Load()).UTC() }
func (c *clock) set(t time.Time) { c.us.Store(t.UnixMicro()) }
func at(t testing.TB, s string) time.Time {
	t.Helper()
	v, err := usher.ParseTime(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// each runs a story on both databases.
func each(t *testing.T, story func(t *testing.T, dsn string)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		story(t, filepath.Join(t.TempDir(), "usher.db"))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		pg, err := testpg.Default()
		if err != nil {
			t.Skip("no PostgreSQL binaries: ", err)
		}
		dsn, err := pg.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		story(t, dsn)
	})
}

func start(t testing.TB, dsn string, c *clock) *node {
	t.Helper()
	ctx := t.Context()
	db, err := store.Open(ctx, store.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("node-%d", time.Now().UnixNano())
	l, err := live.New(ctx, live.Config{DB: db, Now: c.now, PollInterval: 20 * time.Millisecond, Node: name})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { job.New(job.Config{}, l.Jobs()...).Run(running); close(done) }()
	n := &node{db, l, usage.New(usage.Config{DB: db, Live: l, Node: name}), decide.New(l)}
	t.Cleanup(func() {
		if err := n.usage.Close(context.Background()); err != nil {
			t.Error(err)
		}
		stop()
		<-done
		db.Close()
	})
	return n
}

// found sets up the catalogue and customers.
func (n *node) found(t testing.TB, c *clock, customers ...string) {
	t.Helper()
	n.apply(t, c, catalogue, customers...)
}

func (n *node) apply(t testing.TB, c *clock, catalogue string, customers ...string) {
	t.Helper()
	ctx := t.Context()
	cat, err := catalogfile.Parse("test", []byte(catalogue))
	if err != nil {
		t.Fatal(err)
	}
	plan := usher.PlanVersion{Version: 1, Plan: *catalogfile.Resolve(cat, "free")}
	note := store.Note{By: usher.By{Actor: usher.Actor{Kind: "system"}}, Action: "catalog.apply", At: c.now()}
	rev, err := n.db.ApplyCatalog(ctx, store.CatalogChange{Env: usher.Sandbox, Note: note, Source: catalogue,
		Canonical: string(catalogfile.Format(cat)), Hash: catalogfile.Hash(cat), Plans: []usher.PlanVersion{plan}})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range customers {
		k := usher.Clock{From: c.now(), Anchor: c.now().Truncate(time.Minute)}
		_, err := n.db.ChangeCustomer(ctx, store.CustomerChange{Env: usher.Sandbox, Note: note, Customer: id, BasisCatalog: rev,
			Put: &usher.Customer{ID: id, CreatedAt: c.now(), Clocks: []usher.Clock{k}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := n.live.Refresh(ctx, usher.Sandbox); err != nil {
		t.Fatal(err)
	}
}

func (n *node) consume(t *testing.T, feature, key string, amount int) usher.Decision {
	t.Helper()
	d, err := n.usage.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: feature, Key: key,
		Amount: usher.Number(fmt.Sprint(amount))})
	if err != nil {
		t.Fatalf("consume %s %s: %v", feature, key, err)
	}
	return d
}

func (n *node) check(t *testing.T, feature string) usher.Decision {
	t.Helper()
	d, err := n.decide.Check(t.Context(), usher.Sandbox, decide.CheckQuery{Customer: "acme", Feature: feature}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func event(id, kind, data string, when time.Time) usher.Event {
	return usher.Event{ID: id, Source: "test", Type: kind, Subject: "acme", Time: when, Data: json.RawMessage(data)}
}

// 64 callers want 20 each of a limit of 1,000: exactly the limit is granted,
// and what a check says after is what was taken.
func TestS12_ParallelConsumesTakeExactlyTheLimit(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		var granted, denied atomic.Int64
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for j := range 20 {
					d, err := n.usage.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "exports",
						Key: fmt.Sprintf("k-%d-%d", i, j)})
					switch {
					case err != nil:
						t.Error(err)
					case d.Allowed:
						granted.Add(1)
					case d.Reason == usher.LimitReached:
						denied.Add(1)
					default:
						t.Error(d.Reason)
					}
				}
			})
		}
		wg.Wait()
		if granted.Load() != 50 || denied.Load() != 64*20-50 {
			t.Errorf("granted %d, denied %d; want 50 and %d", granted.Load(), denied.Load(), 64*20-50)
		}
		if d := n.check(t, "exports"); d.Allowed || d.Used != 50 || d.Remaining != 0 {
			t.Errorf("check after: %+v", d)
		}
	})
}

// A retry gets the first answer, denials too, also after a restart; another
// body under the same key is refused.
func TestS13_OneKeyOneEffectOneAnswer(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		first := n.consume(t, "exports", "a", 30)
		no := n.consume(t, "exports", "b", 30)
		if !first.Allowed || first.Used != 30 || no.Allowed || no.Used != 30 {
			t.Fatalf("got %+v and %+v", first, no)
		}
		for _, again := range []*node{n, nil} {
			if again == nil { // a second node has no memory of it
				if n.db.Dialect() == store.SQLite {
					continue
				}
				again = start(t, dsn, c)
			}
			d := again.consume(t, "exports", "a", 30)
			if !d.Replayed || !d.Allowed || d.Used != 30 || d.Consumed != 30 || len(d.Deductions) != 1 {
				t.Errorf("replay: %+v", d)
			}
			if d := again.consume(t, "exports", "b", 30); !d.Replayed || d.Allowed || d.Reason != usher.LimitReached {
				t.Errorf("replayed denial: %+v", d)
			}
			_, err := again.usage.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: "a", Amount: "31"})
			if usher.ErrorCode(err) != usher.KeyReused {
				t.Errorf("same key, other amount: %v", err)
			}
		}
		if d := n.check(t, "exports"); d.Used != 30 {
			t.Errorf("used %d, want 30", d.Used)
		}
	})
}

// Every aggregation, with a duplicate, a bad neighbour, a late and a too late
// event (S14, S17).
func TestS17_EventsAreRecordedOnceWhereTheyBelong(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		start1 := at(t, "2026-03-01T00:00:00Z")
		c.set(start1)
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		now := at(t, "2026-03-10T12:00:30Z")
		c.set(now)
		events := []usher.Event{
			event("1", "api.request", ``, now),
			event("1", "api.request", ``, now), // the same again
			event("2", "llm.completion", `{"tokens":70,"model":"a"}`, now),
			event("3", "llm.completion", `{"tokens":"50","model":"b"}`, now.Add(-time.Minute)),
			event("4", "llm.completion", `{"tokens":1.5}`, now),
			event("5", "llm.completion", `{"tokens":-1}`, now),
			event("6", "llm.completion", `{}`, now),
			event("7", "storage.sampled", `{"bytes":300}`, now),
			event("8", "storage.sampled", `{"bytes":200}`, now.Add(-time.Hour)), // older: the newer stays
			event("9", "session.gauge", `{"sessions":4}`, now),
			event("10", "session.gauge", `{"sessions":3}`, now),
			event("11", "page.viewed", `{"visitor":"x"}`, now),
			event("12", "page.viewed", `{"visitor":"y"}`, now),
			event("13", "page.viewed", `{"visitor":"x"}`, now),
			event("14", "api.request", ``, now.Add(-41*24*time.Hour)),
			event("15", "api.request", ``, now.Add(2*time.Hour)),
			event("16", "nobody.reads.this", `{"a":1}`, now),
			{ID: "17", Source: "test", Type: "api.request", Subject: "ghost"},
			{ID: "", Source: "test", Type: "api.request", Subject: "acme"},
			event("2", "llm.completion", `{"tokens":71,"model":"a"}`, now), // other content
		}
		r, err := n.usage.Ingest(t.Context(), usher.Sandbox, events)
		if err != nil {
			t.Fatal(err)
		}
		want := map[int]string{4: "invalid_value", 5: "invalid_value", 6: "invalid_value", 14: "too_late", 15: "too_early",
			17: "unknown_customer", 18: "invalid", 19: "id_reused"}
		if r.Accepted != 11 || r.Duplicates != 1 || len(r.Rejected) != len(want) {
			t.Errorf("got %+v", r)
		}
		for _, x := range r.Rejected {
			if want[x.Index] != x.Code {
				t.Errorf("event %d: %s (%s), want %s", x.Index, x.Code, x.Message, want[x.Index])
			}
		}
		for f, want := range map[string]int64{"api_calls": 1, "tokens": 120, "storage": 300, "active": 4, "visitors": 2} {
			if d := n.check(t, f); d.Used != want {
				t.Errorf("%s: used %d, want %d", f, d.Used, want)
			}
		}
		if d := n.check(t, "tokens"); d.Overage != 20 || d.Excess != 0 {
			t.Errorf("tokens: %+v", d)
		}
		// A sandbox day later: last keeps its value, max and unique start empty.
		c.set(now.Add(24 * time.Hour))
		for f, want := range map[string]int64{"storage": 300, "active": 0, "visitors": 0, "tokens": 0} {
			if d := n.check(t, f); d.Used != want {
				t.Errorf("next day %s: used %d, want %d", f, d.Used, want)
			}
		}
		// A late event counts in the closed window.
		if _, err := n.usage.Ingest(t.Context(), usher.Sandbox,
			[]usher.Event{event("20", "llm.completion", `{"tokens":5,"model":"b"}`, now)}); err != nil {
			t.Fatal(err)
		}
		d, err := n.decide.Check(t.Context(), usher.Sandbox, decide.CheckQuery{Customer: "acme", Feature: "tokens", At: now}, nil)
		if err != nil || d.Used != 125 {
			t.Errorf("tokens of the closed day: %d, %v; want 125", d.Used, err)
		}
		// Usage by window and group.
		for _, q := range []struct {
			feature string
			window  usher.Unit
			group   string
			want    string
		}{
			{"tokens", usher.Minute, "", "2026-03-10T11:59:00Z 50; 2026-03-10T12:00:00Z 75; "},
			{"tokens", usher.Day, "data.model", "2026-03-10T00:00:00Z a 70; 2026-03-10T00:00:00Z b 55; "},
			{"visitors", usher.Month, "", "2026-03-01T00:00:00Z 2; "},
			{"active", usher.Hour, "", "2026-03-10T12:00:00Z 4; "},
			{"storage", usher.Hour, "", "2026-03-10T11:00:00Z 200; 2026-03-10T12:00:00Z 300; "},
		} {
			points, err := n.usage.Query(t.Context(), usher.Sandbox, usage.UsageQuery{Customer: "acme", Feature: q.feature, From: start1,
				To: c.now(), Window: q.window, GroupBy: q.group})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, p := range points {
				got += p.Start.Format(time.RFC3339) + " "
				if q.group != "" {
					got += p.Group[q.group] + " "
				}
				got += fmt.Sprint(p.Value) + "; "
			}
			if got != q.want {
				t.Errorf("usage of %s per %s: %s, want %s", q.feature, q.window, got, q.want)
			}
		}
	})
}

// Two nodes on one PostgreSQL: a limit is shared exactly, and each sees the
// other's changes and use.
func TestS06_TwoNodesShareOneLimit(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Default()
	if err != nil {
		t.Skip("no PostgreSQL binaries: ", err)
	}
	dsn, err := pg.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{}
	c.set(at(t, "2026-03-31T10:00:00Z"))
	one := start(t, dsn, c)
	two := start(t, dsn, c)
	one.found(t, c, "acme")
	until := time.Now().Add(30 * time.Second)
	for two.check(t, "exports").Reason != usher.WithinLimit {
		if time.Now().After(until) {
			t.Fatal("the second node never saw the customer")
		}
		time.Sleep(time.Millisecond)
	}
	var granted atomic.Int64
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			n := one
			if i%2 == 1 {
				n = two
			}
			for j := range 10 {
				d, err := n.usage.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "exports",
					Key: fmt.Sprintf("k-%d-%d", i, j)})
				if err != nil {
					t.Error(err)
				} else if d.Allowed {
					granted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if granted.Load() != 50 {
		t.Errorf("granted %d, want exactly 50", granted.Load())
	}
	for _, n := range []*node{one, two} {
		for n.check(t, "exports").Used != 50 {
			if time.Now().After(until) {
				t.Fatalf("a node still says used %d", n.check(t, "exports").Used)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// What is not consumable says so, and what is malformed is refused with its place.
func TestS33_NotConsumable(t *testing.T) {
	t.Parallel()
	c := &clock{}
	c.set(at(t, "2026-03-31T10:00:00Z"))
	n := start(t, filepath.Join(t.TempDir(), "u.db"), c)
	n.found(t, c, "acme")
	for _, q := range []struct {
		feature, amount, key string
		want                 usher.Code
	}{
		{"sso", "1", "k", usher.NotConsumable},
		{"storage", "1", "k", usher.NotConsumable},
		{"exports", "1.5", "k", usher.Invalid},
		{"exports", "-1", "k", usher.Invalid},
		{"exports", "9223372036854775808", "k", usher.Invalid},
		{"exports", "1e3", "k", usher.Invalid},
		{"exports", "1", "", usher.Invalid},
		{"exports", "1", "tab\t", usher.Invalid},
	} {
		_, err := n.usage.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: q.feature, Key: q.key,
			Amount: usher.Number(q.amount)})
		if usher.ErrorCode(err) != q.want {
			t.Errorf("%s %s %q: %v, want %s", q.feature, q.amount, q.key, err, q.want)
		}
	}
	// No such customer and no such feature are answers (S01), and stored ones.
	d, err := n.usage.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "ghost", Feature: "exports", Key: "g"})
	if err != nil || d.Allowed || d.Reason != usher.UnknownCustomer {
		t.Errorf("unknown customer: %+v, %v", d, err)
	}
	if d := n.consume(t, "nope", "f", 1); d.Allowed || d.Reason != usher.UnknownFeature {
		t.Errorf("unknown feature: %+v", d)
	}
	if d := n.consume(t, "nope", "f", 1); !d.Replayed {
		t.Errorf("the answer was not kept: %+v", d)
	}
}

// Many retries of one key at once, on a process that has never seen it, all get
// the first answer.
func TestS13_RetriesAtOnceAfterARestart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		n.consume(t, "exports", "a", 30)
		again := usage.New(usage.Config{DB: n.db, Live: n.live})
		defer again.Close(context.Background())
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				d, err := again.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: "a", Amount: "30"})
				if err != nil || !d.Allowed || !d.Replayed || d.Used != 30 {
					t.Errorf("%+v, %v", d, err)
				}
			})
		}
		wg.Wait()
		if d := n.check(t, "exports"); d.Used != 30 {
			t.Errorf("used %d, want 30", d.Used)
		}
	})
}
