// Package live is the loaded world: one immutable snapshot per customer, loaded
// on demand, bounded in number, dropped when a newer revision touches it. It
// decides nothing and writes nothing.
package live

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/store"
)

// Config says where the world is loaded from.
type Config struct {
	DB *store.DB
	// Now is the server's clock; nil is time.Now.
	Now func() time.Time
	// PollInterval is how often other nodes' changes are read; 0 is 200 ms. A
	// SQLite file has one process, so there it does not matter.
	PollInterval time.Duration
	// MaxCustomers bounds the customers held in memory, of all environments
	// together; 0 is 200,000.
	MaxCustomers int
	// MaxMembers bounds the members and resources held in memory; 0 is 500,000.
	MaxMembers int
	// Node is this process's name among the nodes of one database.
	Node string
}

// Live is the loaded world of all environments. Its methods are safe for
// concurrent use.
type Live struct {
	cfg  Config
	envs map[usher.Environment]*environment

	batches map[string]int64 // newest usage batch seen, by node; owned by Poll
	polled  time.Time        // when Poll last succeeded; New counts
	asOf    atomic.Int64     // when other nodes' changes were last read, in µs, while they cannot be; else 0
}

// environment is one environment's part. revision is stored only after all that
// it changed has been dropped, so whoever reads it first sees nothing older.
type environment struct {
	name      usher.Environment
	mu        sync.Mutex // one refresh at a time
	revision  atomic.Int64
	clock     atomic.Int64 // test clock in µs; realTime is none
	book      atomic.Pointer[edition]
	customers *otter.Cache[string, *entry]
	members   *otter.Cache[memberKey, *principal]
	past      atomic.Pointer[edition] // the last catalogue of the past that was asked for

	watching sync.Mutex
	watchers map[chan struct{}]bool
}

// edition is a catalogue revision, compiled.
type edition struct {
	revision int64
	catalog  *usher.Catalog
	book     *engine.Book
	access   *access.Book
}

const realTime = -1

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

// New loads catalogues and clocks.
func New(ctx context.Context, cfg Config) (*Live, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.PollInterval <= 0 {
		cfg.PollInterval = 200 * time.Millisecond
	}
	if cfg.MaxCustomers <= 0 {
		cfg.MaxCustomers = 200_000
	}
	if cfg.MaxMembers <= 0 {
		cfg.MaxMembers = 500_000
	}
	l := &Live{cfg: cfg, envs: map[usher.Environment]*environment{}, polled: cfg.Now()}
	if cfg.DB.Dialect() == store.Postgres {
		nodes, err := cfg.DB.UsageNodes(ctx)
		if err != nil {
			return nil, err
		}
		l.batches = nodes
	}
	states, err := cfg.DB.Environments(ctx)
	if err != nil {
		return nil, err
	}
	for name, st := range states {
		cache, err := otter.New(&otter.Options[string, *entry]{MaximumSize: max(cfg.MaxCustomers/len(states), 1)})
		if err != nil {
			return nil, err
		}
		members, err := otter.New(&otter.Options[memberKey, *principal]{MaximumSize: max(cfg.MaxMembers/len(states), 1)})
		if err != nil {
			return nil, err
		}
		e := &environment{name: name, customers: cache, members: members}
		ed, err := l.edition(ctx, name, st.CatalogRevision)
		if err != nil {
			return nil, err
		}
		e.book.Store(ed)
		e.setClock(st.Clock)
		e.revision.Store(st.Revision)
		l.envs[name] = e
	}
	return l, nil
}

func (e *environment) setClock(t time.Time) {
	if t.IsZero() {
		e.clock.Store(realTime)
		return
	}
	e.clock.Store(t.UnixMicro())
}

// edition loads and compiles a catalogue revision; 0 is the empty catalogue.
func (l *Live) edition(ctx context.Context, env usher.Environment, revision int64) (*edition, error) {
	c := &usher.Catalog{}
	if revision == 0 {
		return &edition{0, c, engine.NewBook(c, nil, nil), access.NewBook(c, nil)}, nil
	}
	row, err := l.cfg.DB.CatalogAt(ctx, env, revision)
	if err != nil {
		return nil, err
	}
	if c, err = catalogfile.Parse("stored catalogue", []byte(row.Canonical)); err != nil {
		return nil, err
	}
	plans, err := l.cfg.DB.PlanVersions(ctx, env, revision)
	if err != nil {
		return nil, err
	}
	addons, err := l.cfg.DB.AddonVersions(ctx, env, revision)
	if err != nil {
		return nil, err
	}
	conditions, err := catalogfile.Conditions(c)
	if err != nil {
		return nil, err
	}
	return &edition{row.Revision, c, engine.NewBook(c, plans, addons), access.NewBook(c, conditions)}, nil
}

// Now is the environment's present: the server's clock, or the sandbox's test
// clock where one is set (S11). UTC, cut to the microsecond.
func (l *Live) Now(env usher.Environment) time.Time {
	if us := l.envs[env].clock.Load(); us != realTime {
		return time.UnixMicro(us).UTC()
	}
	return l.cfg.Now().UTC().Truncate(time.Microsecond)
}

// TestClock is the instant that a sandbox's clock stands at; ok is false where
// the environment lives in real time.
func (l *Live) TestClock(env usher.Environment) (now time.Time, ok bool) {
	us := l.envs[env].clock.Load()
	return time.UnixMicro(us).UTC(), us != realTime
}

// Revision is the environment's newest revision that this node has taken in.
func (l *Live) Revision(env usher.Environment) int64 { return l.envs[env].revision.Load() }

// Book is the catalogue in force, compiled; empty where none was applied.
func (l *Live) Book(env usher.Environment) *engine.Book { return l.envs[env].book.Load().book }

// Catalog is the catalogue in force, as its file says it; never nil.
func (l *Live) Catalog(env usher.Environment) *usher.Catalog { return l.envs[env].book.Load().catalog }

// CatalogRevision is the revision of Catalog and Book; 0 is none.
func (l *Live) CatalogRevision(env usher.Environment) int64 { return l.envs[env].book.Load().revision }

// Refresh takes in every change that is committed now. Whoever wrote one calls
// it, so that the next answer of this node knows it.
func (l *Live) Refresh(ctx context.Context, env usher.Environment) error {
	e := l.envs[env]
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		known := e.revision.Load()
		changes, err := l.cfg.DB.ChangesSince(ctx, env, known)
		if err != nil || len(changes) == 0 {
			return err
		}
		whole := false
		for _, c := range changes {
			known = c.Revision
			if c.Customer == "" {
				whole = true
				continue
			}
			if c.Directory {
				l.redirect(e, c.Customer)
				continue
			}
			// A migration touches customers under the catalogue's revision; a
			// new edition drops every snapshot anyway.
			l.drop(e, c.Customer)
		}
		if whole {
			st, err := l.cfg.DB.Environment(ctx, env)
			if err != nil {
				return err
			}
			if st.CatalogRevision != e.book.Load().revision {
				ed, err := l.edition(ctx, env, st.CatalogRevision)
				if err != nil {
					return err
				}
				e.book.Store(ed)
			}
			e.setClock(st.Clock)
		}
		e.revision.Store(known)
		e.tell()
	}
}

// Watch signals after the environment's revision has moved on this node: once
// for any number of changes that nobody has received yet. stop ends it.
func (l *Live) Watch(env usher.Environment) (changed <-chan struct{}, stop func()) {
	e, c := l.envs[env], make(chan struct{}, 1)
	e.watching.Lock()
	defer e.watching.Unlock()
	if e.watchers == nil {
		e.watchers = map[chan struct{}]bool{}
	}
	e.watchers[c] = true
	return c, func() {
		e.watching.Lock()
		defer e.watching.Unlock()
		delete(e.watchers, c)
	}
}

func (e *environment) tell() {
	e.watching.Lock()
	defer e.watching.Unlock()
	for c := range e.watchers {
		select {
		case c <- struct{}{}:
		default: // it has not looked since the last one
		}
	}
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

// AsOf is when other nodes' changes were last read, while they cannot be; the
// zero time where this node is up to date.
func (l *Live) AsOf() time.Time {
	us := l.asOf.Load()
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
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

// pollFor bounds how long reading other nodes' changes may take.
const pollFor = 2 * time.Second

// Jobs returns the work that keeps this node's memory up to date: reading other
// nodes' changes. On SQLite there is none, because one process owns the file and
// all changes are its own.
func (l *Live) Jobs() []job.Job {
	if l.cfg.DB.Dialect() == store.SQLite {
		return nil
	}
	return []job.Job{{Name: "read_changes", Every: l.cfg.PollInterval, First: l.cfg.PollInterval, PerNode: true, Run: l.Poll}}
}

// Poll takes in other nodes' changes: revisions, clocks, and whose usage changed.
// After an error or a panic, answers carry the time of the last success until Poll
// succeeds: the next one reads the same changes again. Only one call may run at a
// time.
func (l *Live) Poll(ctx context.Context) error {
	done := false
	defer func() {
		if !done && ctx.Err() == nil {
			l.asOf.Store(l.polled.UnixMicro())
		}
	}()
	began := l.cfg.Now()
	asking, cancel := context.WithTimeout(ctx, pollFor)
	defer cancel()
	if err := l.poll(asking); err != nil {
		return err
	}
	l.asOf.Store(0)
	l.polled, done = began, true
	return nil
}

func (l *Live) poll(ctx context.Context) error {
	states, err := l.cfg.DB.Environments(ctx)
	if err != nil {
		return err
	}
	for name, e := range l.envs {
		if states[name].Revision != e.revision.Load() {
			if err := l.Refresh(ctx, name); err != nil {
				return err
			}
		}
	}
	for {
		batches, err := l.cfg.DB.UsageBatchesSince(ctx, l.batches)
		if err != nil {
			return err
		}
		for _, b := range batches {
			if seen, ok := l.batches[b.Node]; ok && b.N != seen+1 && b.Node != l.cfg.Node {
				for _, e := range l.envs { // missed some: whose usage changed is not known
					for customer := range e.customers.Keys() {
						l.used(e, customer)
					}
				}
			}
			if b.Node != l.cfg.Node {
				for env, customers := range b.Customers {
					for _, c := range customers {
						l.used(l.envs[env], c)
					}
				}
			}
			l.batches[b.Node] = b.N // last: what fails before is read again
		}
		if len(batches) < 1000 {
			return nil
		}
	}
}
