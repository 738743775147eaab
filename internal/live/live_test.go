package live_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

const file = `usher: 1
features: {sso: {kind: switch}}
plans: {free: {default: true, entitlements: {sso: %v}}}
`

func open(t *testing.T, dsn string, cacheBytes int64) (*store.DB, *live.Live) {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	l, err := live.New(t.Context(), live.Config{DB: db, PollInterval: 10 * time.Millisecond, Node: fmt.Sprintf("%p", db),
		CacheBytes: cacheBytes})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { job.New(job.Config{}, l.Jobs()...).Run(ctx); close(done) }()
	t.Cleanup(func() { stop(); <-done; db.Close() })
	return db, l
}

// apply puts a catalogue in force whose one plan gives sso or not.
func apply(t *testing.T, db *store.DB, version int, sso bool) int64 {
	t.Helper()
	c, err := catalogfile.Parse("test", fmt.Appendf(nil, file, sso))
	if err != nil {
		t.Fatal(err)
	}
	st, err := db.Environment(t.Context(), usher.Sandbox)
	if err != nil {
		t.Fatal(err)
	}
	rev, err := db.ApplyCatalog(t.Context(), store.CatalogChange{Env: usher.Sandbox, Basis: st.Revision,
		Note:   store.Note{By: usher.By{Actor: usher.Actor{Kind: "system"}}, Action: "catalog.apply", At: time.Now()},
		Source: "x", Canonical: string(catalogfile.Format(c)), Hash: catalogfile.Hash(c),
		Plans: []usher.PlanVersion{{Version: version, Plan: *catalogfile.Resolve(c, "free")}}})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func create(t *testing.T, db *store.DB, id string) {
	t.Helper()
	st, err := db.LoadCustomer(t.Context(), usher.Sandbox, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(-time.Hour)
	if _, err := db.ChangeCustomer(t.Context(), store.CustomerChange{Env: usher.Sandbox, Customer: id, Basis: st.Revision,
		BasisCatalog: st.CatalogRevision, Note: store.Note{By: usher.By{Actor: usher.Actor{Kind: "system"}}, Action: "customer.put", At: now},
		Put: &usher.Customer{ID: id, CreatedAt: now, Clocks: []usher.Clock{{From: now, Anchor: now}}}}); err != nil {
		t.Fatal(err)
	}
}

func allowed(t *testing.T, l *live.Live, customer string) bool {
	t.Helper()
	now := l.Now(usher.Sandbox)
	s, err := l.Snapshot(t.Context(), usher.Sandbox, customer, now)
	if err != nil {
		t.Fatal(err)
	}
	return engine.Decide(s, engine.Query{Customer: customer, Feature: "sso"}, now).Allowed
}

// A warm customer costs no query: the same snapshot is given again, until a
// revision touches it.
func TestS06_WarmUntilARevisionTouchesIt(t *testing.T) {
	t.Parallel()
	db, l := open(t, filepath.Join(t.TempDir(), "u.db"), 0)
	apply(t, db, 1, true)
	create(t, db, "acme")
	create(t, db, "other")
	if err := l.Refresh(t.Context(), usher.Sandbox); err != nil {
		t.Fatal(err)
	}
	get := func() *engine.Snapshot {
		s, err := l.Snapshot(t.Context(), usher.Sandbox, "acme", l.Now(usher.Sandbox))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := get()
	if get() != first {
		t.Error("a warm customer was loaded again")
	}
	create(t, db, "third") // touches another customer
	if err := l.Refresh(t.Context(), usher.Sandbox); err != nil {
		t.Fatal(err)
	}
	if get() != first {
		t.Error("another customer's change dropped this one")
	}
	create(t, db, "acme")
	if get() != first {
		t.Error("a change shows before it is taken in: its revision would be newer than the answer's")
	}
	if err := l.Refresh(t.Context(), usher.Sandbox); err != nil {
		t.Fatal(err)
	}
	second := get()
	if second == first {
		t.Error("a change of this customer was not taken in")
	}
	if r := l.Revision(usher.Sandbox); r != 5 {
		t.Errorf("revision %d, want 5", r)
	}
	apply(t, db, 2, false)
	if err := l.Refresh(t.Context(), usher.Sandbox); err != nil {
		t.Fatal(err)
	}
	if get() == second || allowed(t, l, "acme") {
		t.Error("a new catalogue was not taken in")
	}
	if allowed(t, l, "ghost") {
		t.Error("an unknown customer is allowed")
	}
}

// However many customers are asked about, memory holds no more bytes than its bound,
// and nothing about customers that do not exist.
func TestCustomersInMemoryAreBounded(t *testing.T) {
	t.Parallel()
	const bound = 128 << 10
	db, l := open(t, filepath.Join(t.TempDir(), "u.db"), bound)
	apply(t, db, 1, true)
	create(t, db, "acme")
	if err := l.Refresh(t.Context(), usher.Sandbox); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if allowed(t, l, fmt.Sprint("ghost", i)) {
			t.Fatal("an unknown customer is allowed")
		}
	}
	if n := l.Customers(usher.Sandbox); n > 1 {
		t.Errorf("%d customers in memory, of which one exists", n)
	}
	const customers = 300
	for i := range customers {
		id := fmt.Sprint("customer", i)
		create(t, db, id)
		if !allowed(t, l, id) || i%50 == 0 && !allowed(t, l, "acme") {
			t.Fatalf("%s or acme lost its plan", id)
		}
	}
	until := time.Now().Add(10 * time.Second)
	for l.CacheBytes(usher.Sandbox) > bound {
		if time.Now().After(until) {
			t.Fatalf("%d bytes in memory, want at most %d", l.CacheBytes(usher.Sandbox), bound)
		}
		time.Sleep(time.Millisecond)
	}
	if n := l.Customers(usher.Sandbox); n < 10 || n >= customers {
		t.Errorf("%d of %d customers in memory, want as many as have room", n, customers)
	}
}

// A change written on one node is seen by the other's next answers soon.
func TestS06_TwoNodesSeeEachOthersChanges(t *testing.T) {
	t.Parallel()
	server, err := testpg.Default()
	if err != nil {
		t.Skip("no PostgreSQL binaries: ", err)
	}
	dsn, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	one, _ := open(t, dsn, 0)
	_, two := open(t, dsn, 0)
	apply(t, one, 1, true)
	create(t, one, "acme")
	wait := func(want bool) {
		t.Helper()
		began := time.Now()
		for allowed(t, two, "acme") != want {
			if time.Since(began) > 20*time.Second {
				t.Fatalf("the other node does not say %v", want)
			}
			time.Sleep(time.Millisecond)
		}
		t.Logf("seen after %v", time.Since(began).Round(time.Millisecond))
	}
	wait(true)
	apply(t, one, 2, false)
	wait(false)
	apply(t, one, 3, true)
	wait(true)
}

// A panic while other nodes' changes are read costs that reading, not the
// process: answers are marked as old until the next one works.
func TestS06_ReadingChangesGoesOnAfterAPanic(t *testing.T) {
	t.Parallel()
	server, err := testpg.Default()
	if err != nil {
		t.Skip("no PostgreSQL binaries: ", err)
	}
	dsn, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	db, _ := open(t, dsn, 0)
	var broken atomic.Bool
	two, err := live.New(t.Context(), live.Config{DB: db, PollInterval: time.Millisecond, Node: "two",
		Now: func() time.Time {
			if broken.Load() {
				panic("no clock")
			}
			return time.Now()
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { job.New(job.Config{Log: slog.New(slog.DiscardHandler)}, two.Jobs()...).Run(ctx); close(done) }()
	t.Cleanup(func() { stop(); <-done })
	wait := func(what string, ok func() bool) {
		t.Helper()
		for until := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				t.Fatal("it never happened: ", what)
			}
		}
	}
	revision := apply(t, db, 1, true)
	wait("the change is read", func() bool { return two.Revision(usher.Sandbox) == revision })
	broken.Store(true)
	wait("answers are marked as old", func() bool { return !two.AsOf().IsZero() })
	broken.Store(false)
	revision = apply(t, db, 2, false)
	wait("the next change is read", func() bool { return two.Revision(usher.Sandbox) == revision && two.AsOf().IsZero() })
}
