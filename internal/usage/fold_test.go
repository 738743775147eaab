package usage_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/fsck"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/usage"
)

// folder is a second usage room on a node's database, which folds by the clock.
func (n *node) folder(t *testing.T, c *clock, f usage.Folding) *usage.Usage {
	t.Helper()
	f.Now = c.now
	u := usage.New(usage.Config{DB: n.db, Live: n.live, Node: fmt.Sprintf("folder-%p", &f), Folding: f})
	t.Cleanup(func() {
		if err := u.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return u
}

// slow is a folder that only folds when it is told to.
func (n *node) slow(t *testing.T, c *clock) *usage.Usage {
	return n.folder(t, c, usage.Folding{Pause: time.Millisecond})
}

func (n *node) answers(t *testing.T) (count int64) {
	t.Helper()
	err := n.db.Scan(t.Context(), func(s *store.Scan) error {
		return s.Ops(func(*store.Op) error { count++; return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

func (n *node) agrees(t *testing.T, c *clock, when string) fsck.Report {
	t.Helper()
	r, err := fsck.Run(t.Context(), n.db, fsck.Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	if r.Total != 0 {
		t.Errorf("%s: %v", when, r.Differences)
	}
	return r
}

func raw(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	driver := "sqlite"
	if strings.HasPrefix(dsn, "postgres") {
		driver = "pgx"
	} else {
		dsn = "file:" + dsn + "?_pragma=busy_timeout(10000)"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// A stored answer is kept for 62 days from when it was given, also that of a correction
// whose take is older and was folded meanwhile, and that of a late settlement.
func TestS13_AnAnswerOutlivesItsTake(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		c := &clock{}
		began := at(t, "2026-01-05T10:00:30Z")
		c.set(began)
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		u := n.slow(t, c)
		n.consume(t, "exports", "old", 20)
		held, err := n.usage.Reserve(ctx, usher.Sandbox, usage.ReserveOp{ConsumeOp: usage.ConsumeOp{Customer: "acme", Feature: "exports",
			Key: "held", Amount: "9"}})
		if err != nil || !held.Allowed {
			t.Fatal(held, err)
		}
		c.set(began.Add(ledger.Kept / 2))
		correct := func(amount usher.Number) (usher.Decision, error) {
			return u.Correct(ctx, usher.Sandbox, usage.CorrectOp{Ref: "old", Amount: amount, Reason: "test", Key: "back"})
		}
		settle := func() (usher.Decision, error) { return u.Settle(ctx, usher.Sandbox, held.Reservation.ID, "4") }
		back, err := correct("2")
		if err != nil {
			t.Fatal(err)
		}
		settled, err := settle()
		if err != nil {
			t.Fatal(err)
		}
		c.set(began.Add(ledger.Kept + time.Hour))
		if folded, err := u.Fold(ctx); err != nil || folded != 2 {
			t.Fatalf("folded %d, %v; want the take and the reservation", folded, err)
		}
		if d, err := correct("2"); err != nil || !d.Replayed || !reflect.DeepEqual(d.Correction, back.Correction) {
			t.Errorf("the correction again: got %+v, %v; want the first answer", d, err)
		}
		_, err = correct("3")
		wantError(t, "another correction", err, usher.KeyReused)
		if d, err := settle(); err != nil || !d.Replayed || d.Consumed != settled.Consumed {
			t.Errorf("the settlement again: got %+v, %v; want the first answer", d, err)
		}
		c.set(began.Add(ledger.Kept/2 + ledger.Kept + time.Hour))
		if folded, err := u.Fold(ctx); err != nil || folded != 2 {
			t.Fatalf("folded %d, %v; want the correction and the settlement", folded, err)
		}
		_, err = correct("2")
		wantError(t, "the correction, after its answer was folded", err, usher.NotFound)
		n.agrees(t, c, "after")
	})
}

// A key is good for 62 days. After that it is forgotten and its use stays: in
// the limit, in the reports, in the ledger. A younger key still has its answer.
func TestS13_OldKeysAreForgottenAndTheirUseStays(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		c := &clock{}
		began := at(t, "2026-01-05T10:00:30Z")
		c.set(began)
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		u := n.slow(t, c)
		n.consume(t, "exports", "old", 20)
		n.consume(t, "exports", "denied", 40)
		n.consume(t, "api_calls", "calls", 7)
		res, err := n.usage.Reserve(ctx, usher.Sandbox, usage.ReserveOp{ConsumeOp: usage.ConsumeOp{Customer: "acme", Feature: "exports",
			Key: "held", Amount: "9"}})
		if err != nil || !res.Allowed {
			t.Fatal(res, err)
		}
		if _, err := n.usage.Settle(ctx, usher.Sandbox, res.Reservation.ID, "4"); err != nil {
			t.Fatal(err)
		}
		if _, err := n.usage.Correct(ctx, usher.Sandbox, usage.CorrectOp{Ref: "old", Amount: "2", Reason: "test", Key: "back",
			Actor: "test"}); err != nil {
			t.Fatal(err)
		}
		edge := began.Add(ledger.Kept / 2)
		c.set(edge)
		n.consume(t, "exports", "young", 5)
		before := n.agrees(t, c, "before")
		if before.Takes != 7 || before.Folded != 0 {
			t.Fatalf("before: %+v", before)
		}

		c.set(began.Add(ledger.Kept)) // not older than 62 days
		if k, err := u.Fold(ctx); err != nil || k != 0 {
			t.Errorf("folded %d at 62 days, %v", k, err)
		}
		c.set(began.Add(ledger.Kept + time.Microsecond))
		if k, err := u.Fold(ctx); err != nil || k != 6 {
			t.Errorf("folded %d, %v; want 6", k, err)
		}
		after := n.agrees(t, c, "after")
		if after.Takes != 1 || after.Folded == 0 || after.Buckets != before.Buckets || after.Rollups != before.Rollups {
			t.Errorf("after: %+v, before: %+v", after, before)
		}
		if k, err := u.Fold(ctx); err != nil || k != 0 {
			t.Errorf("again: folded %d, %v", k, err)
		}
		again := n.deaf(t, c) // which remembers no key
		if d := take(t, again, "young", "5"); !d.Replayed || d.Used != 27 {
			t.Errorf("a young key: %+v", d)
		}
		if d := take(t, again, "old", "1"); d.Replayed || !d.Allowed || d.Used != 28 {
			t.Errorf("a forgotten key is a new one: %+v", d)
		}
		points, err := n.usage.Query(ctx, usher.Sandbox, usage.UsageQuery{Customer: "acme", Feature: "exports", From: began.Truncate(time.Minute),
			To: began.Add(time.Minute), Window: usher.Minute})
		if err != nil || len(points) != 1 || points[0].Value != 22 {
			t.Errorf("the minute of what is folded: %+v, %v; want 22", points, err)
		}
		// A folded row that is changed is found like any other.
		if _, err := raw(t, dsn).ExecContext(ctx, `UPDATE folded SET amount = amount + 1 WHERE feature = 'exports'`); err != nil {
			t.Fatal(err)
		}
		if r, err := fsck.Run(ctx, n.db, fsck.Options{Now: c.now}); err != nil || r.Total == 0 {
			t.Errorf("a changed folded row: %+v, %v", r, err)
		}
	})
}

// Two nodes that fold at once, while others take, fold each answer once; no take
// fails or waits for the walk.
func TestS13_TwoNodesFoldOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		c := &clock{}
		c.set(at(t, "2026-01-05T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		one, two := n.slow(t, c), n.slow(t, c)
		const old = 3000
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				for j := range old / 100 {
					if _, err := n.usage.Consume(ctx, usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "api_calls",
						Key: fmt.Sprintf("old-%d-%d", i, j)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		c.set(c.now().Add(ledger.Kept + time.Hour))
		var folded, taken atomic.Int64
		stop := make(chan struct{})
		var takers sync.WaitGroup
		for i := range 4 {
			takers.Go(func() {
				for j := 0; ; j++ {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := n.usage.Consume(ctx, usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "api_calls",
						Key: fmt.Sprintf("new-%d-%d", i, j)}); err != nil {
						t.Error(err)
						return
					}
					taken.Add(1)
				}
			})
		}
		for taken.Load() == 0 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		for _, u := range []*usage.Usage{one, two} {
			wg.Go(func() {
				for { // what one walk left to a faster one, the next has
					k, err := u.Fold(ctx)
					if err != nil {
						t.Error(err)
					}
					if folded.Add(k); k == 0 {
						return
					}
				}
			})
		}
		wg.Wait()
		close(stop)
		takers.Wait()
		if folded.Load() != old {
			t.Errorf("folded %d answers of %d", folded.Load(), old)
		}
		if k := n.answers(t); k != taken.Load() {
			t.Errorf("%d answers are kept, want the %d new ones", k, taken.Load())
		}
		n.agrees(t, c, "after")
	})
}

// A server folds once a day by the job that the room declares, and a walk that is
// stopped in the middle ends at once.
func TestS13_FoldingIsADailyJob(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-01-05T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		jobs := job.New(job.Config{DB: n.db, Node: "folder", Now: c.now}, n.slow(t, c).Jobs()...)
		due := func() {
			t.Helper()
			if err := jobs.Due(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		due() // the first walk is due in five minutes
		for round := range 3 {
			n.consume(t, "api_calls", fmt.Sprint("k", round), 1)
			c.set(c.now().Add(ledger.Kept + time.Hour))
			due()
			if k := n.answers(t); k != 0 {
				t.Fatalf("round %d: %d answers are still there", round, k)
			}
		}
		n.consume(t, "api_calls", "last", 1)
		asleep := n.folder(t, c, usage.Folding{Pause: 24 * time.Hour})
		ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer stop()
		if _, err := asleep.Fold(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v from a walk that was stopped, want that it was", err)
		}
	})
}

// A sandbox that stands in the past keeps its keys for 62 days of its own time.
func TestS13_ASandboxFoldsByItsOwnClock(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		c := &clock{}
		c.set(at(t, "2026-01-05T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		u := n.slow(t, c)
		set := func(s string) {
			t.Helper()
			if err := n.db.SetClock(ctx, usher.Sandbox, at(t, s), usher.By{Actor: usher.Actor{Kind: "system"}}, c.now()); err != nil {
				t.Fatal(err)
			}
			if err := n.live.Refresh(ctx, usher.Sandbox); err != nil {
				t.Fatal(err)
			}
		}
		set("2026-01-05T10:00:00Z")
		n.consume(t, "exports", "old", 20)
		c.set(at(t, "2026-09-01T00:00:00Z"))
		if folded, err := u.Fold(ctx); err != nil || folded != 0 {
			t.Fatalf("folded %d, %v; want the sandbox's key kept", folded, err)
		}
		set("2026-03-20T10:00:00Z")
		if folded, err := u.Fold(ctx); err != nil || folded != 1 {
			t.Fatalf("folded %d, %v; want 1", folded, err)
		}
	})
}
