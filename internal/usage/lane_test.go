package usage_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/testpg"
	"github.com/usher-sh/usher/internal/usage"
)

// shared starts a node on PostgreSQL and a session that plays another node.
func shared(t *testing.T, customers ...string) (*node, *sql.DB) {
	t.Helper()
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
	n.found(t, c, customers...)
	other, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	return n, other
}

// lock locks a customer as a batch of another node does.
func lock(ctx context.Context, other *sql.DB, customer string) (*sql.Tx, error) {
	tx, err := other.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, `SELECT 1 FROM customer WHERE env = 'sandbox' AND id = $1 FOR UPDATE`, customer); err != nil {
		tx.Rollback()
		return nil, err
	}
	return tx, nil
}

// Another node keeps a customer locked. Takes, events and changes of directories of all
// others go on; the locked customer's wait, and are done once each when it is free.
func TestALockedCustomerHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	n, other := shared(t, "acme", "umbrella")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a bug shows as an error
	defer cancel()
	consume := func(customer, key string) (usher.Decision, error) {
		return n.usage.Consume(ctx, usher.Sandbox, usage.ConsumeOp{Customer: customer, Feature: "exports", Key: key})
	}
	of := func(id, customer string) usher.Event {
		e := event(id, "api.request", `{}`, time.Time{})
		e.Subject = customer
		return e
	}
	held, err := lock(ctx, other, "acme")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Rollback()
	var wait sync.WaitGroup
	answered := make(chan string, 10)
	for i := range 4 { // two with one key, one more, and events of both customers
		wait.Go(func() {
			name := []string{"one", "one", "two", "events"}[i]
			if name == "events" {
				r, err := n.usage.Ingest(ctx, usher.Sandbox, []usher.Event{of("both-1", "umbrella"), of("both-2", "acme")})
				if err != nil || r.Accepted != 2 {
					t.Errorf("events of a locked and of a free customer: %+v, %v", r, err)
				}
			} else if d, err := consume("acme", name); err != nil || !d.Allowed {
				t.Errorf("%s of the locked customer: %+v, %v", name, d, err)
			}
			answered <- name
		})
	}
	for n.usage.Waiting() < 4 {
		if ctx.Err() != nil {
			t.Fatal("the requests of the locked customer do not wait")
		}
		time.Sleep(time.Millisecond)
	}
	for i := range 30 {
		if d, err := consume("umbrella", fmt.Sprint("free-", i)); err != nil || !d.Allowed {
			t.Fatalf("take %d of a free customer: %+v, %v", i, d, err)
		}
	}
	if r, err := n.usage.Ingest(ctx, usher.Sandbox, []usher.Event{of("free", "umbrella")}); err != nil || r.Accepted != 1 {
		t.Errorf("events of a free customer: %+v, %v", r, err)
	}
	if d, err := consume("nobody", "nobody"); err != nil || d.Allowed {
		t.Errorf("a customer that does not exist: %+v, %v; want no, at once", d, err)
	}
	select {
	case name := <-answered:
		t.Errorf("%s was answered while its customer was locked", name)
	default:
	}
	if err := held.Rollback(); err != nil {
		t.Fatal(err)
	}
	wait.Wait()
	if d := n.check(t, "exports"); d.Used != 2 {
		t.Errorf("the locked customer used %d, want 2: each key once", d.Used)
	}
	if d, err := consume("umbrella", "last"); err != nil || d.Used != 31 {
		t.Errorf("the free customer used %d, %v, want 31", d.Used, err)
	}
}

// A customer that other nodes lock again and again, one after the other, gets its turn:
// who waits for a lock is served in order.
func TestABusyCustomerGetsItsTurn(t *testing.T) {
	t.Parallel()
	n, other := shared(t, "acme")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	busy, stop := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	for range 3 {
		others.Go(func() {
			for busy.Err() == nil {
				tx, err := lock(busy, other, "acme")
				if err != nil {
					continue
				}
				time.Sleep(2 * time.Millisecond) // the other node's work
				tx.Rollback()
			}
		})
	}
	for i := range 10 {
		d, err := n.usage.Consume(ctx, usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: fmt.Sprint("k", i)})
		if err != nil || !d.Allowed || d.Used != int64(i+1) {
			t.Fatalf("take %d of a busy customer: %+v, %v", i, d, err)
		}
	}
}

// A key that another node is just writing, for another customer, ends its own take
// only: the others of the batch go on.
func TestAKeyThatIsBeingWrittenHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	n, other := shared(t, "acme", "umbrella")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tx, err := other.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, `INSERT INTO op (key, env, route, body_hash, customer, feature, at, amount, answer)
		VALUES ('same', 'sandbox', 'consume', '', 'umbrella', 'exports', 1, 1, '')`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		d, err := n.usage.Consume(ctx, usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: "same"})
		if err == nil && (!d.Allowed || d.Replayed) {
			err = fmt.Errorf("got %+v", d)
		}
		done <- err
	}()
	for i := range 10 {
		d, err := n.usage.Consume(ctx, usher.Sandbox, usage.ConsumeOp{Customer: "umbrella", Feature: "exports", Key: fmt.Sprint("k", i)})
		if err != nil || !d.Allowed {
			t.Fatalf("take %d of another customer: %+v, %v", i, d, err)
		}
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the take whose key was free in the end: %v", err)
	}
}

// A batch whose node is frozen loses its customers after a while, and then its commit
// fails: another node has gone on.
func TestAFrozenBatchLosesItsCustomers(t *testing.T) {
	t.Parallel()
	n, _ := shared(t, "acme")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := n.db.Usage(ctx, func(tx *store.UsageTx) error {
		if _, err := tx.Lock([]store.Holder{{Env: usher.Sandbox, Customer: "acme"}}, nil); err != nil {
			return err
		}
		// Frozen here, until the writer, which plays another node, has what it wants.
		d, err := n.usage.Consume(ctx, usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: "other"})
		if err != nil || !d.Allowed || d.Used != 1 {
			t.Errorf("the other node: %+v, %v", d, err)
		}
		return nil
	})
	if usher.ErrorCode(err) != usher.Unavailable {
		t.Errorf("the commit of the node that was frozen: %v, want that it is lost", err)
	}
	if err := n.usage.Ready(ctx); err != nil {
		t.Errorf("ready: %v", err)
	}
}

// Ready says that nothing can be taken while no node may write, and asks the database
// when the writer has nothing to do.
func TestReadyWhileNothingCanBeTaken(t *testing.T) {
	t.Parallel()
	n, other := shared(t, "acme")
	tx, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if err := n.usage.Ready(t.Context()); err != nil {
		t.Errorf("before: %v", err)
	}
	if _, err := tx.ExecContext(t.Context(), `LOCK TABLE customer IN EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	if err := n.usage.Ready(t.Context()); usher.ErrorCode(err) != usher.Unavailable {
		t.Errorf("while another session has locked all customers: %v, want Unavailable", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := n.usage.Ready(t.Context()); err != nil {
		t.Errorf("after: %v", err)
	}
}
