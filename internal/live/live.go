// Package live is the loaded world: one immutable snapshot per customer, loaded
// on demand, bounded in bytes, dropped when a newer revision touches it. It
// decides nothing and writes nothing itself; Change is the loop in which every
// change to this world is made.
package live

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/store"
)

// Config says where the world is loaded from.
type Config struct {
	DB *store.DB
	// Now is the server's clock; nil is time.Now.
	Now func() time.Time
	// PollInterval is how often other nodes' changes are read, and how often it is
	// found out whether the database may still be written; 0 is 200 ms.
	PollInterval time.Duration
	// CacheBytes bounds the memory for customers, members and resources, of all
	// environments together, as the engine estimates it; 0 is 1 GiB. What was not
	// asked about for long is dropped first, and read again when it is asked about.
	CacheBytes int64
	// Node is this process's name among the nodes of one database.
	Node string
}

// Live is the loaded world of all environments. Its methods are safe for
// concurrent use.
type Live struct {
	cfg  Config
	envs map[usher.Environment]*environment
	locks

	batches map[string]int64 // newest usage batch seen, by node; owned by Poll
	polled  time.Time        // when Poll last succeeded; at first, when New ran
	asOf    atomic.Int64     // µs: when other nodes' changes were last read, if that fails now; otherwise 0
}

// environment is what memory has of one environment. Refresh drops all that a
// revision changed before it stores the revision. So a reader that loads revision
// first, and state after it, never gets state older than that revision.
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

const realTime = -1 // as environment.clock: there is no test clock

// New loads the environments with their catalogues and clocks. Customers are loaded
// when they are first asked about.
func New(ctx context.Context, cfg Config) (*Live, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.PollInterval <= 0 {
		cfg.PollInterval = 200 * time.Millisecond
	}
	if cfg.CacheBytes <= 0 {
		cfg.CacheBytes = 1 << 30
	}
	l := &Live{cfg: cfg, envs: map[usher.Environment]*environment{}, locks: locks{seed: maphash.MakeSeed()}, polled: cfg.Now()}
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
		// Customers get three quarters, members and resources the rest.
		share := uint64(cfg.CacheBytes) / uint64(len(states)) / 4
		cache, err := otter.New(&otter.Options[string, *entry]{MaximumWeight: 3 * share, Weigher: weighEntry})
		if err != nil {
			return nil, err
		}
		members, err := otter.New(&otter.Options[memberKey, *principal]{MaximumWeight: share, Weigher: weighPrincipal})
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

// Now returns the environment's present: the sandbox's test clock if it is set
// (S11), otherwise the server's clock. UTC, cut to the microsecond.
func (l *Live) Now(env usher.Environment) time.Time {
	if us := l.envs[env].clock.Load(); us != realTime {
		return time.UnixMicro(us).UTC()
	}
	return l.cfg.Now().UTC().Truncate(time.Microsecond)
}

// TestClock returns the instant at which a sandbox's clock stands; ok is false if
// the environment is in real time.
func (l *Live) TestClock(env usher.Environment) (now time.Time, ok bool) {
	us := l.envs[env].clock.Load()
	return time.UnixMicro(us).UTC(), us != realTime
}

// Revision returns the environment's newest revision that this node knows.
func (l *Live) Revision(env usher.Environment) int64 { return l.envs[env].revision.Load() }

// Book returns the catalogue in force, compiled. It is empty before the first apply.
func (l *Live) Book(env usher.Environment) *engine.Book { return l.envs[env].book.Load().book }

// Catalog returns the catalogue in force, as parsed from its file; never nil.
func (l *Live) Catalog(env usher.Environment) *usher.Catalog { return l.envs[env].book.Load().catalog }

// CatalogRevision returns the revision of Catalog and Book; 0: none was applied.
func (l *Live) CatalogRevision(env usher.Environment) int64 { return l.envs[env].book.Load().revision }

// refreshFor bounds one refresh.
const refreshFor = 10 * time.Second

// Refresh takes in every change that is committed now. The caller that commits a
// change must call it, so that this node's next answer includes the change. It takes
// at most 10 s, because others wait for it; then the error is Unavailable.
func (l *Live) Refresh(callers context.Context, env usher.Environment) error {
	ctx, cancel := context.WithTimeout(callers, refreshFor)
	defer cancel()
	err := l.refresh(ctx, env)
	if err != nil && ctx.Err() != nil && callers.Err() == nil {
		return fmt.Errorf("%w (%w)", usher.Errorf(usher.Unavailable, "the database took too long to answer"), err)
	}
	return err
}

func (l *Live) refresh(ctx context.Context, env usher.Environment) error {
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
			// A migration changes customers and the catalogue in one revision.
			// Snapshots of the old catalogue are not used again (holds), so the
			// order of the two does not matter.
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

// Watch sends a signal on changed when the environment's revision has risen on this
// node. Changes before the receiver has taken a signal send no further one. stop
// ends it.
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
		default: // it has not received the last signal yet
		}
	}
}
