package usage

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/store"
)

// How a batch is committed. All use of a process goes through one goroutine, which
// takes what has queued and commits it in one transaction (group commit): one write
// to the disk pays for all of it, and takes of one customer need no lock against
// each other.
//
// A batch is decided on clones of the customers' snapshots. The clones are shown to
// checks only after the commit, so that a check never sees use that might be rolled
// back. Whatever makes an attempt wrong rolls it back as a whole, and the batch is
// decided again from the start: a snapshot that is older than the database
// (errStale), a key that has an answer (errTaken), a request that panics.

// errStale means that a snapshot is older than the database, which is known once the
// customer is locked.
var errStale = errors.New("usage: a snapshot is old")

// errTaken means that a key of the batch has a stored answer, or that an event of it
// is stored already.
var errTaken = errors.New("usage: a key has an answer already")

// maxRuns is how many attempts one batch has. Another attempt is needed if a customer
// was changed or a retry is found while the batch is decided.
const maxRuns = 12

// commit runs a batch until it is decided on the newest state and committed. A nil
// error means that each request has its own result, which may be an error, or is
// locked. wait: wait for customers that other nodes have locked.
func (u *Usage) commit(ctx context.Context, batch []*request, wait bool) error {
	var takes []*take
	var bodies []*body
	for _, r := range batch {
		if r.take != nil {
			takes = append(takes, r.take)
		} else {
			bodies = append(bodies, r.events)
		}
	}
	takes, followers := u.known(takes)
	ended := map[string]bool{}
	var p *panicked
	for range maxRuns {
		if len(takes) == 0 && len(bodies) == 0 {
			u.follow(ctx, followers)
			return nil
		}
		b := &batchRun{u: u, ctx: ctx, wait: wait, worlds: map[store.Holder]*world{}, ended: ended}
		if err := b.warm(takes, bodies); err != nil {
			return err
		}
		err := u.cfg.DB.Usage(ctx, func(tx *store.UsageTx) error {
			return guarded(func() error { return b.run(tx, takes, bodies) })
		})
		switch {
		case err == nil:
			if err := guarded(func() error { b.publish(); return nil }); err != nil {
				// The use is committed, so the callers get their answers; only memory
				// is in doubt.
				u.cfg.Log.Error("committed use could not be shown to checks; it is read again", "error", err)
				b.forget()
			}
			if slices.ContainsFunc(batch, func(r *request) bool { return r.locked() == store.Holder{} }) {
				u.committed.Store(time.Now().UnixNano())
			}
			for _, t := range takes {
				switch op, known := b.known[t.opKey()]; {
				case t.locked != (store.Holder{}):
				case known:
					t.answer(op)
					u.replays.store(op)
				case t.err == nil && t.key != "":
					u.replays.store(t.stored)
				}
			}
			// A batch without retries brings the end of reading keys first closer.
			if len(b.known) == 0 && len(takes) > 0 && u.retries > 0 {
				u.retries--
			}
			u.follow(ctx, followers)
			return nil
		case b.locking && store.Locked(err): // waited in vain: all of it is left
			for _, t := range takes {
				(&request{take: t}).lockedOut()
			}
			for _, e := range bodies {
				(&request{events: e}).lockedOut()
			}
			u.follow(ctx, followers)
			return nil
		case errors.Is(err, errStale):
			for env := range b.environments() {
				if err := u.cfg.Live.Refresh(ctx, env); err != nil {
					return err
				}
			}
			b.forget()
		case errors.Is(err, errTaken):
			u.retries = retriesExpected
			if takes, err = u.replay(ctx, takes); err != nil {
				return err
			}
		case errors.As(err, &p) && (b.deciding != nil || b.recording != nil):
			// Its request ends here. All that the batch did is rolled back, and the
			// others are decided again without it.
			u.endPanicked(b, p)
			takes = slices.DeleteFunc(takes, func(t *take) bool { return t == b.deciding })
			bodies = slices.DeleteFunc(bodies, func(e *body) bool { return e == b.recording })
		default:
			// The commit may have happened all the same: read again what it touched.
			b.forget()
			return err
		}
	}
	if p != nil { // too many requests of the batch panicked: run lets each run alone now
		return p
	}
	return usher.Errorf(usher.Unavailable, "the state changed too often while the use was being written; try again")
}

// known answers takes whose keys were stored a moment ago. Of takes with the same key
// it returns the first to be decided, and the others as its followers.
func (u *Usage) known(takes []*take) (first []*take, followers []*take) {
	seen := map[store.OpKey]*take{}
	for _, t := range takes {
		t.locked, t.first = store.Holder{}, nil
		if t.key == "" {
			first = append(first, t)
			continue
		}
		if op, ok := u.replays.get(t.opKey()); ok {
			t.answer(op)
			continue
		}
		if t.first = seen[t.opKey()]; t.first != nil {
			followers = append(followers, t)
			continue
		}
		seen[t.opKey()] = t
		first = append(first, t)
	}
	return first, followers
}

// follow answers takes whose key another take of the batch had first, now that the
// key has an answer.
func (u *Usage) follow(ctx context.Context, followers []*take) {
	for _, f := range followers {
		if op, ok := u.replays.get(f.opKey()); ok {
			f.answer(op)
			continue
		}
		if f.locked = f.first.locked; f.locked != (store.Holder{}) {
			continue
		}
		// The first ended with an error, so nothing is stored: this one is decided itself.
		alone := &request{take: f}
		u.conclude(alone, guarded(func() error { return u.commit(ctx, []*request{alone}, false) }))
	}
}

// replay answers the takes whose keys are stored and returns the rest.
func (u *Usage) replay(ctx context.Context, takes []*take) ([]*take, error) {
	keys := make([]store.OpKey, 0, len(takes))
	for _, t := range takes {
		if t.key != "" {
			keys = append(keys, t.opKey())
		}
	}
	ops, err := u.cfg.DB.Ops(ctx, keys)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(takes), func(t *take) bool {
		op, ok := ops[t.opKey()]
		if ok {
			t.answer(op)
			u.replays.store(op)
		}
		return ok
	}), nil
}

// batchRun is one attempt at a batch: the customers' state as this attempt changes
// it, and the rows that it will write. A new attempt starts with a new one.
type batchRun struct {
	u       *Usage
	ctx     context.Context
	tx      *store.UsageTx
	wait    bool // for customers that other nodes have locked
	locking bool // it comes to the locks, and has done nothing else yet
	worlds  map[store.Holder]*world
	rollups map[store.Merge]map[store.RollupKey]store.RollupValue // not yet written
	denials map[store.DenialKey]store.DenialCount
	holds   map[usher.Environment][]engine.Hold // new reservations
	// unmatched has the types of events that no meter reads: at most
	// store.MaxUnmatched of an environment, as many as are remembered.
	unmatched map[store.UnmatchedKey]usher.UnmatchedType
	known     map[store.OpKey]store.Op // keys of the batch that had an answer before it
	// ended has the reservations and corrections that are over, so that an earlier
	// attempt ended with errTaken to read their stored answers. If one comes up
	// again, no answer was found: it was folded.
	ended map[string]bool

	// The request that is being decided now, which a panic is blamed on. Both are
	// nil while the batch works for all requests.
	deciding  *take
	recording *body
}

// forget drops the batch's customers from memory, so that they are read again.
func (b *batchRun) forget() {
	for h := range b.worlds {
		b.u.cfg.Live.Forget(h.Env, h.Customer)
	}
}

// environments returns the environments of the batch's customers.
func (b *batchRun) environments() map[usher.Environment]bool {
	envs := map[usher.Environment]bool{}
	for h := range b.worlds {
		envs[h.Env] = true
	}
	return envs
}

// holdersOf returns the customers whose use the requests change.
func holdersOf(takes []*take, bodies []*body) []store.Holder {
	all := map[store.Holder]bool{}
	for _, t := range takes {
		all[t.holder()] = true
	}
	for _, e := range bodies {
		maps.Copy(all, (&request{events: e}).holders())
	}
	return slices.Collect(maps.Keys(all))
}

// warm loads the customers before there is a transaction. It has its locks for a
// shorter time then, and is not idle for so long that the database takes this node for
// a frozen one.
func (b *batchRun) warm(takes []*take, bodies []*body) error {
	if !b.shared() {
		return nil
	}
	for _, h := range holdersOf(takes, bodies) {
		if _, err := b.u.cfg.Live.Base(b.ctx, h.Env, h.Customer, b.u.cfg.Live.Now(h.Env)); err != nil {
			return err
		}
	}
	return nil
}

// lock locks the customers and returns their heads, and those that other nodes have
// locked: none, or a Locked error, if the batch waits for them.
func (b *batchRun) lock(holders []store.Holder, known map[usher.Environment]int64) (
	heads map[store.Holder]store.Head, locked []store.Holder, err error) {
	if b.wait {
		heads, err = b.tx.Lock(holders, known)
		return heads, nil, err
	}
	return b.tx.LockFree(holders, known)
}

// without returns what of a batch needs none of the locked customers, and notes with
// the other requests which one they need.
func without(locked []store.Holder, takes []*take, bodies []*body, holders []store.Holder) ([]*take, []*body, []store.Holder) {
	is := make(map[store.Holder]bool, len(locked))
	for _, h := range locked {
		is[h] = true
	}
	takes = slices.DeleteFunc(slices.Clone(takes), func(t *take) bool {
		t.locked = store.Holder{}
		if is[t.holder()] {
			t.locked = t.holder()
		}
		return t.locked != store.Holder{}
	})
	bodies = slices.DeleteFunc(slices.Clone(bodies), func(e *body) bool {
		e.locked = store.Holder{}
		for i := 0; i < len(e.events) && len(is) > 0; i++ {
			if h := (store.Holder{Env: e.env, Customer: e.events[i].Subject}); is[h] {
				e.locked = h
				break
			}
		}
		return e.locked != store.Holder{}
	})
	return takes, bodies, slices.DeleteFunc(holders, func(h store.Holder) bool { return is[h] })
}

// run is one attempt: it locks the batch's customers, decides every request and
// writes what they did. It starts from nothing, so the database may run it again.
func (b *batchRun) run(tx *store.UsageTx, takes []*take, bodies []*body) error {
	b.tx, b.locking = tx, true
	b.rollups = map[store.Merge]map[store.RollupKey]store.RollupValue{store.MergeAdd: {}, store.MergeMax: {}, store.MergeLast: {}}
	b.denials = map[store.DenialKey]store.DenialCount{}
	b.holds = map[usher.Environment][]engine.Hold{}
	b.unmatched = map[store.UnmatchedKey]usher.UnmatchedType{}
	clear(b.worlds)
	holders := holdersOf(takes, bodies)
	// The revisions are read before the snapshots, so that each snapshot is of its
	// revision here or of a newer one.
	known := map[usher.Environment]int64{}
	for _, h := range holders {
		known[h.Env] = b.u.cfg.Live.Revision(h.Env)
	}
	// Locks are taken in one order everywhere, so that nodes cannot deadlock:
	// environments first, then customers.
	var raised []usher.Environment
	for _, t := range takes {
		if t.directs && !slices.Contains(raised, t.env) {
			raised = append(raised, t.env)
		}
	}
	if len(raised) > 0 {
		slices.Sort(raised)
		if err := tx.LockEnvironments(raised); err != nil {
			return err
		}
	}
	heads, locked, err := b.lock(holders, known)
	if err != nil {
		return err
	}
	b.locking = false
	takes, bodies, holders = without(locked, takes, bodies, holders)
	for _, h := range holders {
		now := b.u.cfg.Live.Now(h.Env)
		s, err := b.u.cfg.Live.Base(b.ctx, h.Env, h.Customer, now)
		if err != nil {
			return err
		}
		clock, set := b.u.cfg.Live.TestClock(h.Env)
		if heads != nil && (set && !clock.Equal(heads[h].Clock) || !set && !heads[h].Clock.IsZero()) {
			b.worlds[h] = &world{} // another node moved the sandbox's clock
			return errStale
		}
		// Both are the revision of the last change. A newer one than the snapshot's
		// means that a plan, an override or the catalogue has changed since.
		if head := heads[h]; head.Revision > s.Revision || head.CatalogRevision > s.Revision {
			b.worlds[h] = &world{}
			return errStale
		}
		b.worlds[h] = &world{base: s, next: s.Clone(), now: now,
			loaded: map[engine.BucketKey]bool{}, opened: map[engine.BucketKey]bool{}, present: map[string]bool{}}
	}
	if err := b.expire(holders); err != nil {
		return err
	}
	if err := b.prefetch(takes, bodies); err != nil {
		return err
	}
	// Callers retry in crowds, after an outage or a restart. For some batches after
	// the first retry, the stored answers are read before anything is decided: one
	// read costs less than running the whole batch twice.
	b.known = nil
	if b.u.retries > 0 && len(takes) > 0 {
		keys := make([]store.OpKey, 0, len(takes))
		for _, t := range takes {
			if t.key != "" {
				keys = append(keys, t.opKey())
			}
		}
		if b.known, err = tx.Ops(keys); err != nil {
			return err
		}
	}
	ops := make([]store.Op, 0, len(takes))
	for _, t := range takes {
		if _, ok := b.known[t.opKey()]; ok && t.key != "" {
			continue
		}
		b.deciding = t
		if err := b.take(t); err != nil {
			return err
		}
		b.deciding = nil
		if t.key != "" && t.err == nil {
			t.stored = t.row()
			ops = append(ops, t.stored)
		}
	}
	for _, e := range bodies {
		b.recording = e
		if err := b.record(e); err != nil {
			return err
		}
		b.recording = nil
	}
	if len(ops) > 0 {
		n, err := tx.InsertOps(ops)
		if err != nil {
			return err
		}
		// An insert skips keys that exist. So fewer rows than takes means that some
		// key has an answer, perhaps from another node: replay it instead.
		if n < int64(len(ops)) {
			return errTaken
		}
	}
	for env, holds := range b.holds {
		if err := tx.InsertHolds(env, holds); err != nil {
			return err
		}
	}
	if len(b.denials) > 0 {
		if err := tx.PutDenials(b.denials); err != nil {
			return err
		}
	}
	var changed []store.Holder
	buckets := make(map[store.Holder][]engine.Bucket, len(holders))
	for _, h := range holders {
		if dirty := b.worlds[h].next.Dirty(); len(dirty) > 0 {
			buckets[h] = dirty
			changed = append(changed, h)
		}
	}
	if err := tx.PutBuckets(buckets); err != nil {
		return err
	}
	if err := b.flush(); err != nil {
		return err
	}
	if err := b.reopen(changed); err != nil {
		return err
	}
	if len(changed) > 0 {
		if err := tx.Tell(b.u.cfg.Node, time.Now().UTC(), changed); err != nil {
			return err
		}
	}
	if len(b.unmatched) > 0 {
		return tx.PutUnmatched(b.unmatched)
	}
	return nil
}

// publish shows the committed use to checks on this node. It must not run before the
// commit.
func (b *batchRun) publish() {
	for h, w := range b.worlds {
		if w.seated {
			b.u.cfg.Live.Seated(h.Env, h.Customer)
		}
		if w.next == nil || len(w.next.Dirty()) == 0 {
			continue
		}
		w.next.Prune(w.now)
		b.u.cfg.Live.Publish(h.Env, h.Customer, w.base, w.next.Clone())
	}
}
