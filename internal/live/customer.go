package live

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/store"
)

// entry is what memory has of one customer. A load takes a while, and a change may
// be committed meanwhile; so each change raises generation, and a load whose
// generation has passed is not kept. That makes locks for readers unnecessary.
type entry struct {
	mu         sync.Mutex // one load at a time
	generation atomic.Int64
	state      atomic.Pointer[state]
	old        atomic.Pointer[memory] // the last snapshot that was dropped, for when the database is away
	directory  atomic.Pointer[stamp]  // replaced when the customer's directory changes
	seats      atomic.Pointer[stamp]  // replaced when a seat of the customer is taken or freed
	weight     atomic.Int64           // bytes for which the cache counts it
	world      atomic.Int64           // bytes of its world when it was counted
}

// emptyEntry is the weight of an entry without a snapshot, in bytes: the entry, its key
// and its place in the cache.
const emptyEntry = 400

// bytes estimates the memory that an entry holds.
func (en *entry) bytes() int64 {
	n := int64(emptyEntry)
	if st := en.state.Load(); st != nil {
		n += st.snapshot.Bytes()
	}
	if m := en.old.Load(); m != nil {
		n += m.snapshot.Bytes()
	}
	return n
}

func weighEntry(_ string, en *entry) uint32 {
	n := min(en.bytes(), math.MaxUint32)
	en.weight.Store(n)
	if st := en.state.Load(); st != nil {
		en.world.Store(st.snapshot.World.Bytes())
	}
	return uint32(n)
}

// weigh makes the cache count a customer's entry anew if it has grown since: a snapshot
// was loaded, more features were asked about, or use was added.
func (e *environment) weigh(customer string, en *entry) {
	if n := en.bytes(); n <= en.weight.Load()*3/2 {
		return
	}
	e.customers.ComputeIfPresent(customer, func(now *entry) (*entry, otter.ComputeOp) {
		if now != en { // dropped and made again meanwhile
			return now, otter.CancelOp
		}
		return now, otter.WriteOp
	})
}

// memory is a snapshot that may be out of date.
type memory struct {
	snapshot *engine.Snapshot
	at       int64 // until when it was up to date, µs
}

// state is a snapshot and the span [from, until) in which it answers without a
// read of the database: from one change of windows or plans to the next.
type state struct {
	snapshot    *engine.Snapshot
	from, until int64 // µs
	stale       int64 // since when another node may have changed the use, µs; 0: not since it was loaded
}

// holds reports whether st has the plans and windows that decide at an instant. Its
// use may be out of date (stale).
func (st *state) holds(e *environment, us int64) bool {
	return st != nil && st.from <= us && us < st.until && st.snapshot.World.Book() == e.book.Load().book
}

// redirect makes what memory has of a customer's members and resources out of date.
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

// Remembered returns the last snapshot of a customer, and until when it was up to
// date: for checks while the database does not answer (S06). nil: there is none.
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

// used notes that another node changed a customer's use. Its plans and windows are
// still right, so that only the use is read again.
func (l *Live) used(e *environment, customer string) {
	en, ok := e.customers.GetIfPresent(customer)
	if !ok {
		return
	}
	en.generation.Add(1)
	en.seats.Store(&stamp{})
	if st := en.state.Load(); st != nil && st.stale == 0 &&
		!en.state.CompareAndSwap(st, &state{st.snapshot, st.from, st.until, l.cfg.Now().UnixMicro()}) {
		en.state.Store(nil)
	}
}

// Snapshot returns what decides for a customer at an instant. At the present, that
// is up to a second ago, it comes from memory; other instants are read from the
// database. An unknown customer has a snapshot too, whose world is not Known.
func (l *Live) Snapshot(ctx context.Context, env usher.Environment, customer string, at time.Time) (*engine.Snapshot, error) {
	e := l.envs[env]
	now := l.Now(env)
	if at.After(now) || now.Sub(at) > time.Second {
		s, _, err := l.load(ctx, e, customer, at)
		if err == nil && at.Before(now) {
			// A reservation that has expired by now holds nothing in the past either.
			// Whether a batch has written that already must not change the answer.
			s.Expire(now)
		}
		return s, err
	}
	return l.present(ctx, e, customer, at, false)
}

// Base returns the snapshot of the present that a writer begins with. Its use may be
// out of date: the writer reads use itself, under locks.
func (l *Live) Base(ctx context.Context, env usher.Environment, customer string, now time.Time) (*engine.Snapshot, error) {
	return l.present(ctx, l.envs[env], customer, now, true)
}

// present returns the snapshot of the present from memory, or loads it. old allows
// use that is out of date.
func (l *Live) present(ctx context.Context, e *environment, customer string, at time.Time, old bool) (*engine.Snapshot, error) {
	us := at.UnixMicro()
	en, ok := e.customers.GetIfPresent(customer)
	if ok {
		if st := en.state.Load(); st.holds(e, us) && (old || st.stale == 0) {
			if st.snapshot.World.Bytes() > 2*en.world.Load() { // many features were asked about since
				e.weigh(customer, en)
			}
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
		s, err = l.use(ctx, e.name, customer, st.snapshot.World, st.snapshot.Revision, "", at)
	} else {
		s, span, err = l.load(ctx, e, customer, at)
	}
	if err != nil {
		return nil, err
	}
	span.snapshot, span.stale = s, 0
	// Keep it only if nothing changed while it was loaded. A change that comes
	// between the two looks at generation either sees the new state and drops it, or
	// is seen here.
	//
	// A customer that does not exist is not kept: callers can make up any number of
	// them.
	if !s.World.Known() {
		e.customers.ComputeIfPresent(customer, func(now *entry) (*entry, otter.ComputeOp) {
			if now != en || en.generation.Load() != generation {
				return now, otter.CancelOp
			}
			return now, otter.InvalidateOp
		})
		return s, nil
	}
	if en.generation.Load() == generation {
		en.state.Store(&span)
		en.old.Store(nil)
		if en.generation.Load() != generation {
			en.state.CompareAndSwap(&span, nil)
		}
		e.weigh(customer, en)
	}
	return s, nil
}

// load reads a customer from the database.
func (l *Live) load(ctx context.Context, e *environment, customer string, at time.Time) (*engine.Snapshot, state, error) {
	facts, revision, err := l.facts(ctx, e, customer)
	if err != nil {
		return nil, state{}, err
	}
	w := engine.NewWorld(facts)
	s, err := l.use(ctx, e.name, customer, w, revision, "", at)
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

// facts reads what decides for a customer, without its use, and the revision.
func (l *Live) facts(ctx context.Context, e *environment, customer string) (engine.Facts, int64, error) {
	st, err := l.cfg.DB.LoadCustomer(ctx, e.name, customer, 0)
	if err != nil {
		return engine.Facts{}, 0, err
	}
	ed := e.book.Load()
	if ed.revision != st.CatalogRevision { // the customer was read under a catalogue that is new to this node
		if err := l.Refresh(ctx, e.name); err != nil {
			return engine.Facts{}, 0, err
		}
		if ed = e.book.Load(); ed.revision < st.CatalogRevision {
			return engine.Facts{}, 0, usher.Errorf(usher.Unavailable, "the catalogue is being replaced; try again")
		}
	}
	return engine.Facts{Book: ed.book, Customer: st.Customer, Subscriptions: st.Subscriptions, Overrides: st.Overrides, Grants: st.Grants},
		st.EnvRevision, nil
}

// Facts reads from the database what decides for a customer now, without its use. An
// unknown customer has facts too.
func (l *Live) Facts(ctx context.Context, env usher.Environment, customer string) (engine.Facts, error) {
	f, _, err := l.facts(ctx, l.envs[env], customer)
	return f, err
}

// Imagine joins a world, such as a customer's after a change that was not made, with
// the use that decisions about one feature at an instant need. Memory stays as it is.
func (l *Live) Imagine(ctx context.Context, env usher.Environment, customer string, w *engine.World, feature string,
	at time.Time) (*engine.Snapshot, error) {
	s, err := l.use(ctx, env, customer, w, 0, feature, at)
	if now := l.Now(env); err == nil && at.Before(now) {
		s.Expire(now) // as Snapshot does
	}
	return s, err
}

// use reads the use that decisions at an instant need, and joins it with a world.
// feature is what they are about; "" is every feature.
func (l *Live) use(ctx context.Context, env usher.Environment, customer string, w *engine.World, revision int64, feature string,
	at time.Time) (*engine.Snapshot, error) {
	keys, openings := w.Needs(feature, at)
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

// Openings reads the sums that a world's windows open with (S34): for each, the use
// of its span on all clocks but those whose buckets count it anyway.
func Openings(ctx context.Context, r Reader, env usher.Environment, customer string, openings []engine.Opening) (
	map[engine.BucketKey]int64, error) {
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

// Publish replaces the snapshot base by next, which has the use that the writer
// committed. If memory no longer has base, another change came between, and the
// customer is read again instead.
func (l *Live) Publish(env usher.Environment, customer string, base, next *engine.Snapshot) {
	en, ok := l.envs[env].customers.GetIfPresent(customer)
	if !ok {
		return
	}
	en.generation.Add(1)
	st := en.state.Load()
	if st != nil && st.snapshot == base && next != nil {
		if en.state.CompareAndSwap(st, &state{next, st.from, st.until, st.stale}) {
			l.envs[env].weigh(customer, en)
			return
		}
	}
	en.state.Store(nil)
}

// Forget drops a customer's snapshot, so that it is read again.
func (l *Live) Forget(env usher.Environment, customer string) { l.drop(l.envs[env], customer) }

// CacheBytes returns about how many bytes the customers, members and resources in
// memory hold.
func (l *Live) CacheBytes(env usher.Environment) int64 {
	e := l.envs[env]
	return int64(e.customers.WeightedSize() + e.members.WeightedSize())
}

// Customers returns about how many customers are in memory.
func (l *Live) Customers(env usher.Environment) int { return l.envs[env].customers.EstimatedSize() }
