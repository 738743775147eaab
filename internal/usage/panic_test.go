package usage_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/fsck"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/usage"
)

// record is a log that is read while it is written.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) { r.mu.Lock(); defer r.mu.Unlock(); return r.b.Write(b) }
func (r *record) String() string              { r.mu.Lock(); defer r.mu.Unlock(); return r.b.String() }

// A take that panics while it is decided ends with an error and books nothing.
// The others of its batch, takes and events, are answered and kept, and its own
// key works when it is sent again.
func TestS12_APanicEndsOneTake(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.apply(t, c, strings.Replace(catalogue, "  exports:   {kind: metered}\n", "  exports:   {kind: metered}\n  members:   {kind: seats}\n",
			1), "acme", "umbrella")
		var log record
		u := usage.New(usage.Config{DB: n.db, Live: n.live, Node: "panics", Log: slog.New(slog.NewTextHandler(&log, nil))})
		t.Cleanup(func() {
			if err := u.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		consume := func(customer, key, amount string) {
			d, err := u.Consume(ctx, usher.Sandbox, usage.ConsumeOp{Customer: customer, Feature: "exports", Key: key, Amount: usher.Number(amount)})
			if err != nil || !d.Allowed || d.Replayed {
				t.Errorf("%s of %s: %+v, %v", key, customer, d, err)
			}
		}
		ends := func(what string, err error) {
			if err == nil || usher.ErrorCode(err) != usher.Internal {
				t.Errorf("%s: %v, want an error without a code", what, err)
			}
		}
		panics := func(key string) {
			_, err := u.ConsumeThenPanic(ctx, usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: key, Amount: "7"}, "members")
			ends(key, err)
		}
		n.together(t, u,
			func() { consume("acme", "a", "2") },
			func() { panics("p") },
			func() { consume("acme", "b", "3") },
			func() { consume("umbrella", "c", "4") },
			func() { panics("q") },
			func() {
				r, err := u.Ingest(ctx, usher.Sandbox, []usher.Event{event("e", "llm.completion", `{"tokens":5,"model":"a"}`, c.now())})
				if err != nil || r.Accepted != 1 {
					t.Errorf("events: %+v, %v", r, err)
				}
			},
			func() {
				ends("events that panic", u.IngestThenPanic(ctx, usher.Sandbox, []usher.Event{
					event("e1", "llm.completion", `{"tokens":11,"model":"a"}`, c.now()), event("e2", "llm.completion", `{"tokens":13,"model":"a"}`,
						c.now())}))
			})
		if d := n.check(t, "exports"); d.Used != 1+2+3 {
			t.Errorf("used %d, want the 6 of those that did not panic", d.Used)
		}
		if d := n.check(t, "tokens"); d.Used != 5 {
			t.Errorf("tokens: used %d, want the 5 of the event that was recorded", d.Used)
		}
		if seats, _, err := u.Seats(ctx, usher.Sandbox, "acme", "members", "", 10); err != nil || len(seats) != 0 {
			t.Errorf("seats: %+v, %v; want what the panic left undone rolled back", seats, err)
		}
		for _, want := range []string{"ConsumeThenPanic", "customer=acme", "feature=exports"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log has no %q: %s", want, log.String())
			}
		}
		consume("acme", "p", "7")
		if r, err := u.Ingest(ctx, usher.Sandbox,
			[]usher.Event{event("e1", "llm.completion", `{"tokens":11,"model":"a"}`, c.now())}); err != nil || r.Accepted != 1 {
			t.Errorf("events, sent again: %+v, %v", r, err)
		}
		if d := n.check(t, "exports"); d.Used != 13 {
			t.Errorf("used %d, want 6 and 7", d.Used)
		}
		if r, err := fsck.Run(ctx, n.db, fsck.Options{Now: c.now}); err != nil || r.Total != 0 {
			t.Errorf("the ledger: %+v, %v", r, err)
		}
	})
}

// However many takes of one batch panic, the others are kept.
func TestS12_ManyPanicsInABatch(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		u := usage.New(usage.Config{DB: n.db, Live: n.live, Node: "panics", Log: slog.New(slog.DiscardHandler)})
		t.Cleanup(func() {
			if err := u.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		var requests []func()
		for i := range 40 {
			requests = append(requests, func() {
				op := usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: fmt.Sprint("k", i)}
				if i%2 == 0 {
					if _, err := u.ConsumeThenPanic(t.Context(), usher.Sandbox, op, "exports"); err == nil || usher.ErrorCode(err) != usher.Internal {
						t.Errorf("%s: %v", op.Key, err)
					}
					return
				}
				if d, err := u.Consume(t.Context(), usher.Sandbox, op); err != nil || !d.Allowed {
					t.Errorf("%s: %+v, %v", op.Key, d, err)
				}
			})
		}
		n.together(t, u, requests...)
		if d := n.check(t, "exports"); d.Used != 1+20 {
			t.Errorf("used %d, want 21", d.Used)
		}
	})
}

// A walk over old answers that panics ends; the next one folds them.
func TestS13_FoldingGoesOnAfterAPanic(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-01-10T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		take(t, n.usage, "old", "3")
		c.set(at(t, "2026-03-31T10:00:00Z"))
		var log record
		var walks atomic.Int64
		u := usage.New(usage.Config{DB: n.db, Live: n.live, Node: "folds",
			Folding: usage.Folding{Pause: time.Millisecond, Now: func() time.Time {
				if walks.Add(1) == 1 {
					panic("no clock")
				}
				return c.now()
			}}})
		t.Cleanup(func() {
			if err := u.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		jobs := job.New(job.Config{DB: n.db, Node: "folds", Now: c.now, Log: slog.New(slog.NewTextHandler(&log, nil))}, u.Jobs()...)
		if err := jobs.RunNow(t.Context(), "fold_answers"); err == nil || !strings.Contains(log.String(), "no clock") {
			t.Errorf("got %v from a walk that panics, the log says: %s", err, log.String())
		}
		if err := jobs.RunNow(t.Context(), "fold_answers"); err != nil || n.answers(t) > 0 {
			t.Errorf("the next walk ended with %v, %d answers are left", err, n.answers(t))
		}
	})
}

// A batch that panics before any of its takes is decided runs again, each take
// alone.
func TestS12_APanicOfTheWholeBatch(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		var log record
		var left atomic.Int64 // how many more readings of the clock, by an attempt at a batch, until one panics
		l, err := live.New(t.Context(), live.Config{DB: n.db, Node: "panics", Now: func() time.Time {
			if left.Load() > 0 && left.Add(-1) == 0 {
				panic("no clock")
			}
			return c.now()
		}})
		if err != nil {
			t.Fatal(err)
		}
		u := usage.New(usage.Config{DB: n.db, Live: l, Node: "panics", Log: slog.New(slog.NewTextHandler(&log, nil))})
		t.Cleanup(func() {
			if err := u.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		n.together(t, u, func() { take(t, u, "a", "2") }, func() { take(t, u, "b", "3") }, func() {
			for u.Waiting() < 3 { // the first and the two above
				time.Sleep(time.Millisecond)
			}
			if left.Store(1); n.db.Dialect() == store.SQLite { // where the first has a batch of its own
				left.Store(2)
			}
			take(t, u, "d", "4")
		})
		if !strings.Contains(log.String(), "no clock") {
			t.Errorf("nothing panicked: %s", log.String())
		}
		if d := take(t, u, "c", "1"); d.Used != 1+2+3+4+1 {
			t.Errorf("used %d, want 11", d.Used)
		}
	})
}
