package live

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/store"
)

// entry is one customer's place. generation rises whenever what is loaded may
// have become old, so that a load which began before is not kept.
type entry struct {
	mu         sync.Mutex // one load at a time
	generation atomic.Int64
	state      atomic.Pointer[state]
	old        atomic.Pointer[memory] // what was dropped, for want of better
	directory  atomic.Pointer[stamp]  // changes with the customer's directory
	seats      atomic.Pointer[stamp]  // and with who sits
}

// memory is a snapshot that may be out of date.
type memory struct {
	snapshot *engine.Snapshot
	at       int64 // when it was still good, µs
}

// state is a snapshot and the span in which it answers without asking again.
type state struct {
	snapshot    *engine.Snapshot
	from, until int64 // µs
	stale       int64 // since when another node may have used something, µs; 0: it has not
}

// holds reports whether st knows what decides at an instant, if not its use.
func (st *state) holds(e *environment, us int64) bool {
	return st != nil && st.from <= us && us < st.until && st.snapshot.World.Book() == e.book.Load().book
}

// redirect forgets who a customer's people are.
func (l *Live) redirect(e *environment, customer string) {
	if en, ok := e.customers.GetIfPresent(customer); ok {
		en.directory.Store(&stamp{})
	}
}

// drop forgets a customer's snapshot.
func (l *Live) drop(e *environment, customer string) {
	l.redirect(e, customer)
	if en, ok := e.customers.GetIfPresent(customer); ok {
		en.generation.Add(1)
		if st := en.state.Swap(nil); st != nil {
			en.old.Store(&memory{st.snapshot, l.cfg.Now().UnixMicro()})
		}
	}
}

// Remembered is the last that was known of a customer, and when it was still
// good: for checks while the database does not answer (S06). nil is nothing.
func (l *Live) Remembered(env usher.Environment, customer string) (*engine.Snapshot, time.Time) {
	en, ok := l.envs[env].customers.GetIfPresent(customer)
	if !ok {
		return nil, time.Time{}
	}
	if st := en.state.Load(); st != nil && st.stale != 0 {
		return st.snapshot, time.UnixMicro(st.stale).UTC()
	}
	if m := en.old.Load(); m != nil && m.snapshot.World.Book() == l.Book(env) {
		return m.snapshot, time.UnixMicro(m.at).UTC()
	}
	return nil, time.Time{}
}

// used notes that another node changed a customer's use. What else is known of
// it stays.
func (l *Live) used(e *environment, customer string) {
	en, ok := e.customers.GetIfPresent(customer)
	if !ok {
		return
	}
	en.generation.Add(1)
	en.seats.Store(&stamp{})
	if st := en.state.Load(); st != nil && st.stale == 0 && !en.state.CompareAndSwap(st, &state{st.snapshot, st.from, st.until, l.cfg.Now().UnixMicro()}) {
		en.state.Store(nil)
	}
}

// Snapshot is what decides for a customer at an instant. Where at is the
// environment's present it comes from memory; other instants are read from the
// database. An unknown customer has a snapshot too: its world is not Known.
func (l *Live) Snapshot(ctx context.Context, env usher.Environment, customer string, at time.Time) (*engine.Snapshot, error) {
	e := l.envs[env]
	now := l.Now(env)
	if at.After(now) || now.Sub(at) > time.Second {
		s, _, err := l.load(ctx, e, customer, at)
		if err == nil && at.Before(now) {
			s.Expire(now) // what has ended is gone from the past too, whether or not it was written
		}
		return s, err
	}
	return l.present(ctx, e, customer, at, false)
}

// Base is the snapshot of the present that a writer begins with, which reads use
// itself, under locks: here it may be old.
func (l *Live) Base(ctx context.Context, env usher.Environment, customer string, now time.Time) (*engine.Snapshot, error) {
	return l.present(ctx, l.envs[env], customer, now, true)
}

func (l *Live) present(ctx context.Context, e *environment, customer string, at time.Time, old bool) (*engine.Snapshot, error) {
	us := at.UnixMicro()
	en, ok := e.customers.GetIfPresent(customer)
	if ok {
		if st := en.state.Load(); st.holds(e, us) && (old || st.stale == 0) {
			return st.snapshot, nil
		}
	} else {
		en, _ = e.customers.SetIfAbsent(customer, newEntry())
	}
	en.mu.Lock()
	defer en.mu.Unlock()
	st := en.state.Load()
	if st.holds(e, us) && (old || st.stale == 0) {
		return st.snapshot, nil
	}
	generation := en.generation.Load()
	var s *engine.Snapshot
	var span state
	var err error
	if st.holds(e, us) { // only its use is old
		span = *st
		s, err = l.use(ctx, e.name, customer, st.snapshot.World, st.snapshot.Revision, at)
	} else {
		s, span, err = l.load(ctx, e, customer, at)
	}
	if err != nil {
		return nil, err
	}
	span.snapshot, span.stale = s, 0
	if en.generation.Load() == generation {
		en.state.Store(&span)
		en.old.Store(nil)
		if en.generation.Load() != generation {
			en.state.CompareAndSwap(&span, nil)
		}
	}
	return s, nil
}

// load reads a customer from the database.
func (l *Live) load(ctx context.Context, e *environment, customer string, at time.Time) (*engine.Snapshot, state, error) {
	db := l.cfg.DB
	st, err := db.LoadCustomer(ctx, e.name, customer, 0)
	if err != nil {
		return nil, state{}, err
	}
	ed := e.book.Load()
	if ed.revision != st.CatalogRevision {
		if err := l.Refresh(ctx, e.name); err != nil {
			return nil, state{}, err
		}
		if ed = e.book.Load(); ed.revision < st.CatalogRevision {
			return nil, state{}, usher.Errorf(usher.Unavailable, "the catalogue is being replaced; try again")
		}
	}
	w := engine.NewWorld(engine.Facts{Book: ed.book, Customer: st.Customer, Subscriptions: st.Subscriptions, Overrides: st.Overrides, Grants: st.Grants})
	s, err := l.use(ctx, e.name, customer, w, st.EnvRevision, at)
	if err != nil {
		return nil, state{}, err
	}
	from, until := w.Stable(at)
	span := state{from: from.UnixMicro(), until: until.UnixMicro()}
	if until.IsZero() {
		span.until = 1<<63 - 1
	}
	return s, span, nil
}

// use joins a world with the use that decisions at an instant read.
func (l *Live) use(ctx context.Context, env usher.Environment, customer string, w *engine.World, revision int64, at time.Time) (*engine.Snapshot, error) {
	keys, openings := w.Needs("", at)
	buckets, err := l.cfg.DB.LoadBuckets(ctx, env, customer, keys)
	if err != nil {
		return nil, err
	}
	sums, err := Openings(ctx, l.cfg.DB, env, customer, openings)
	if err != nil {
		return nil, err
	}
	s := engine.NewSnapshot(w, revision, buckets, sums)
	lapses, err := l.cfg.DB.Lapses(ctx, store.Holder{Env: env, Customer: customer})
	if err != nil {
		return nil, err
	}
	s.SetLapses(lapses)
	return s, nil
}

// Reader is what Openings reads from: the database, or a transaction of it.
type Reader interface {
	UseByClock(ctx context.Context, env usher.Environment, customer, feature string, from, until time.Time) (map[string]int64, error)
}

// Openings reads the sums that a world's windows open with (S34).
func Openings(ctx context.Context, r Reader, env usher.Environment, customer string, openings []engine.Opening) (map[engine.BucketKey]int64, error) {
	if len(openings) == 0 {
		return nil, nil
	}
	sums := make(map[engine.BucketKey]int64, len(openings))
	for _, o := range openings {
		byClock, err := r.UseByClock(ctx, env, customer, o.Feature, time.UnixMicro(o.From).UTC(), time.UnixMicro(o.Until).UTC())
		if err != nil {
			return nil, err
		}
		for _, c := range o.Except {
			delete(byClock, c)
		}
		var sum int64
		for _, n := range byClock {
			sum += n
		}
		sums[o.Key()] = sum
	}
	return sums, nil
}

// Publish puts in the use that the writer committed: next was cloned from base.
// Where something else came between, the customer is read again instead.
func (l *Live) Publish(env usher.Environment, customer string, base, next *engine.Snapshot) {
	en, ok := l.envs[env].customers.GetIfPresent(customer)
	if !ok {
		return
	}
	en.generation.Add(1)
	st := en.state.Load()
	if st != nil && st.snapshot == base && next != nil {
		if en.state.CompareAndSwap(st, &state{next, st.from, st.until, st.stale}) {
			return
		}
	}
	en.state.Store(nil)
}

// Forget drops a customer's snapshot, so that it is read again.
func (l *Live) Forget(env usher.Environment, customer string) { l.drop(l.envs[env], customer) }

// Customers is how many customers are in memory.
func (l *Live) Customers(env usher.Environment) int { return l.envs[env].customers.EstimatedSize() }
