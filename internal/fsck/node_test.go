package fsck_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
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
	db    *store.DB
	live  *live.Live
	usage *usage.Usage
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
	n := &node{db, l, usage.New(usage.Config{DB: db, Live: l, Node: name})}
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

func event(id, kind, data string, when time.Time) usher.Event {
	return usher.Event{ID: id, Source: "test", Type: kind, Subject: "acme", Time: when, Data: json.RawMessage(data)}
}

// deaf is a node that never hears of others' changes by itself.
func (n *node) deaf(t *testing.T, c *clock) *usage.Usage {
	t.Helper()
	name := fmt.Sprintf("deaf-%p", t)
	l, err := live.New(t.Context(), live.Config{DB: n.db, Now: c.now, Node: name}) // its Run is not called
	if err != nil {
		t.Fatal(err)
	}
	u := usage.New(usage.Config{DB: n.db, Live: l, Node: name})
	t.Cleanup(func() {
		if err := u.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return u
}

func take(t *testing.T, u *usage.Usage, key, amount string) usher.Decision {
	t.Helper()
	d, err := u.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: key,
		Amount: usher.Number(amount)})
	if err != nil {
		t.Fatalf("consume %s: %v", key, err)
	}
	return d
}
