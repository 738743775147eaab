package usage_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/testpg"
	"github.com/usher-sh/usher/internal/usage"
)

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

// What was changed elsewhere binds the next consume, though this node has the
// customer in memory and has not heard of the change: first an override that
// lowers the limit, then a catalogue.
func TestS06_AChangeElsewhereBindsAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		u := n.deaf(t, c)
		if d := take(t, u, "warm", "10"); !d.Allowed || d.Limit != 50 {
			t.Fatalf("got %+v", d)
		}
		note := store.Note{By: usher.By{Actor: usher.Actor{Kind: "system"}}, Action: "override.set", At: c.now()}
		st, err := n.db.LoadCustomer(ctx, usher.Sandbox, "acme", 0)
		if err != nil {
			t.Fatal(err)
		}
		limit := int64(15)
		if _, err := n.db.ChangeCustomer(ctx, store.CustomerChange{Env: usher.Sandbox, Note: note, Customer: "acme", Basis: st.Revision,
			BasisCatalog: st.CatalogRevision,
			Overrides: []usher.Override{{ID: "ovr_1", Customer: "acme", Feature: "exports", Set: &usher.OverrideSet{Limit: &limit}, Reason: "test",
				CreatedBy: "test", CreatedAt: c.now()}}}); err != nil {
			t.Fatal(err)
		}
		if d := take(t, u, "a", "10"); d.Allowed || d.Limit != 15 || d.Used != 10 {
			t.Errorf("after the limit was lowered to 15: %+v", d)
		}
		if d := take(t, u, "b", "5"); !d.Allowed || d.Used != 15 {
			t.Errorf("what the lowered limit holds: %+v", d)
		}

		// A catalogue in which exports is a switch no more: it has another feature.
		const second = "usher: 1\nfeatures: {other: {kind: switch}}\n"
		cat, err := catalogfile.Parse("test", []byte(second))
		if err != nil {
			t.Fatal(err)
		}
		env, err := n.db.Environment(ctx, usher.Sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.db.ApplyCatalog(ctx, store.CatalogChange{Env: usher.Sandbox, Note: note, Basis: env.Revision, Source: second,
			Canonical: string(catalogfile.Format(cat)), Hash: catalogfile.Hash(cat)}); err != nil {
			t.Fatal(err)
		}
		if d := take(t, u, "c", "1"); d.Allowed || d.Reason != usher.UnknownFeature {
			t.Errorf("after a catalogue without the feature: %+v", d)
		}
	})
}

// hold keeps every writer of the node's database from committing, until release.
func (n *node) hold(t *testing.T) (release func()) {
	t.Helper()
	held, end, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		hold := func() error { close(held); <-end; return nil }
		if n.db.Dialect() == store.SQLite {
			ended <- n.db.Usage(context.Background(), func(*store.UsageTx) error { return hold() })
		} else {
			ended <- n.db.Quiet(context.Background(), hold)
		}
	}()
	<-held
	return func() {
		close(end)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// together hands the writer requests that it takes as one batch: it is held up
// on a first one until all the others have come. On PostgreSQL the first is in their
// batch, because the writer goes on with what it can do.
func (n *node) together(t *testing.T, u *usage.Usage, requests ...func()) {
	t.Helper()
	release := n.hold(t)
	var wg sync.WaitGroup
	// A caller that has gone away already queues its request and does not wait.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := u.Consume(gone, usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: "first"})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v", err)
	}
	until := time.Now().Add(30 * time.Second)
	wait := func(what string, ok func() bool) {
		for !ok() {
			if time.Now().After(until) {
				t.Error(what)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	wait("the writer does not take the first", func() bool { return u.Queued() == 0 && u.Working() })
	for _, r := range requests {
		wg.Go(r)
	}
	wait("the requests do not queue", func() bool {
		if n.db.Dialect() == store.Postgres && u.Queued() > 0 { // in the lane of a locked customer, or in the batch that waits
			return false
		}
		return u.Waiting() == int64(1+len(requests))
	})
	release()
	wg.Wait()
}

// A batch in which one key turns out to be known is decided again without it.
// What the first attempt had added up is gone: use, its minutes and the answers
// agree. A key that stands twice in the batch counts once.
func TestS13_ABatchDecidedTwiceCountsOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		take(t, n.usage, "known", "5")
		u := n.deaf(t, c) // which does not remember the key
		n.together(t, u,
			func() {
				if d := take(t, u, "known", "5"); !d.Replayed || !d.Allowed || d.Used != 5 {
					t.Errorf("known: %+v", d)
				}
			},
			func() {
				if d := take(t, u, "new", "7"); !d.Allowed || d.Replayed || d.Consumed != 7 {
					t.Errorf("new: %+v", d)
				}
			},
			func() {
				if d := take(t, u, "twin", "2"); !d.Allowed || d.Consumed != 2 {
					t.Errorf("twin: %+v", d)
				}
			},
			func() {
				if d := take(t, u, "twin", "2"); !d.Allowed || d.Consumed != 2 {
					t.Errorf("twin: %+v", d)
				}
			})
		if d := take(t, u, "after", "1"); d.Used != 16 {
			t.Errorf("used %d, want 5 + 1 + 7 + 2 + 1", d.Used)
		}
		points, err := n.usage.Query(t.Context(), usher.Sandbox, usage.UsageQuery{Customer: "acme", Feature: "exports",
			From: c.now().Add(-time.Hour), To: c.now().Add(time.Hour), Window: usher.Hour})
		if err != nil || len(points) != 1 || fmt.Sprint(points[0].Value) != "16" {
			t.Errorf("minutes: %+v, %v; want 16 in one hour", points, err)
		}
	})
}

// While a consume waits inside its transaction, a check does not see it.
func TestS12_ChecksSeeOnlyWhatIsCommitted(t *testing.T) {
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
	n := start(t, dsn, c)
	n.found(t, c, "acme")
	take(t, n.usage, "warm", "10")
	if d := n.check(t, "exports"); d.Used != 10 {
		t.Fatalf("got %+v", d)
	}
	// Another session holds the table that the writer comes to last.
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec(`LOCK TABLE usage_batch IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if d := take(t, n.usage, "a", "20"); !d.Allowed || d.Used != 30 {
			t.Errorf("got %+v", d)
		}
	})
	until := time.Now().Add(30 * time.Second)
	for waits := 0; waits == 0; {
		if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO usage_batch%'`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(until) {
			t.Fatal("the consume never came to its last statement")
		}
		time.Sleep(time.Millisecond)
	}
	if d := n.check(t, "exports"); d.Used != 10 {
		t.Errorf("used %d before the commit, want 10", d.Used)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if d := n.check(t, "exports"); d.Used != 30 {
		t.Errorf("used %d after the commit, want 30", d.Used)
	}
}

// One key in two environments is two keys.
func TestI10_KeysAreOfOneEnvironment(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme") // in the sandbox alone
		take(t, n.usage, "a", "30")
		d, err := n.usage.Consume(t.Context(), usher.Production, usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: "a", Amount: "30"})
		if err != nil || d.Replayed || d.Allowed || d.Reason != usher.UnknownCustomer {
			t.Errorf("production got the sandbox's answer: %+v, %v", d, err)
		}
	})
}

// The writer's own deadline is neither a bug nor an outage of the database: the
// caller learns that the use may be committed, repeats the call, and counts once.
func TestS12_TheWritersDeadline(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		u := n.deaf(t, c)
		u.CommitWithin(50 * time.Millisecond)
		op := usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: "slow", Amount: "2"}
		_, err := u.ConsumeAfterTheDeadline(t.Context(), usher.Sandbox, op)
		var coded *usher.Error
		if !errors.As(err, &coded) || coded.Code != usher.Unavailable || coded.RetryAfter <= 0 || !errors.Is(err, context.DeadlineExceeded) ||
			!strings.Contains(coded.Detail, "within 50ms") || strings.Contains(coded.Detail, "database") {
			t.Fatalf("got %v, want unavailable, with the deadline and the same key again as the way on", err)
		}
		again := n.deaf(t, c)
		if d, err := again.Consume(t.Context(), usher.Sandbox, op); err != nil || !d.Allowed || d.Used != 2 {
			t.Errorf("the same call again: got %+v %v, want 2 used", d, err)
		}

		// A client that goes away is told of its own going, whatever becomes of the use.
		ctx, leave := context.WithCancel(t.Context())
		leave()
		op.Key = "left"
		if _, err := again.Consume(ctx, usher.Sandbox, op); !errors.Is(err, context.Canceled) || usher.ErrorCode(err) == usher.Unavailable {
			t.Errorf("a client that left: got %v, want its own context's error without a code", err)
		}
	})
}
