package usage

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/live"
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

// errStale means that a snapshot is older than what the database has under the lock.
var errStale = errors.New("usage: a snapshot is old")

// errTaken means that a key of the batch has a stored answer, or that an event of it
// is stored already.
var errTaken = errors.New("usage: a key has an answer already")

// maxRuns is how many attempts one batch has.
const maxRuns = 12

// commit runs a batch until it is decided on the newest state and committed. A nil
// error means that each request has its own result, which may be an error.
func (u *Usage) commit(ctx context.Context, batch []*request) error {
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
			return u.follow(followers)
		}
		b := &batchRun{u: u, ctx: ctx, worlds: map[store.Holder]*world{}, ended: ended}
		err := u.cfg.DB.Usage(ctx, func(tx *store.UsageTx) error {
			return guarded(func() error { return b.run(tx, takes, bodies) })
		})
		switch {
		case err == nil:
			if err := guarded(func() error { b.publish(); return nil }); err != nil {
				// What is committed stands; memory is read again.
				u.cfg.Log.Error("committed use could not be shown to checks; it is read again", "error", err)
				b.forget()
			}
			for _, t := range takes {
				switch op, known := b.known[t.opKey()]; {
				case known:
					t.answer(op)
					u.replays.store(op)
				case t.err == nil && t.key != "":
					u.replays.store(t.stored)
				}
			}
			if len(b.known) == 0 && len(takes) > 0 && u.retries > 0 {
				u.retries--
			}
			return u.follow(followers)
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
	if p != nil { // more than one batch should hold: each request runs alone now
		return p
	}
	return usher.Errorf(usher.Unavailable, "the state changed too often while the use was being written; try again")
}

// known answers takes whose keys were stored a moment ago. Of takes with the same key
// it returns the first to be decided, and the others as its followers.
func (u *Usage) known(takes []*take) (first []*take, followers []*take) {
	seen := map[store.OpKey]bool{}
	for _, t := range takes {
		if t.key == "" {
			first = append(first, t)
			continue
		}
		if op, ok := u.replays.get(t.opKey()); ok {
			t.answer(op)
			continue
		}
		if seen[t.opKey()] {
			followers = append(followers, t)
			continue
		}
		seen[t.opKey()] = true
		first = append(first, t)
	}
	return first, followers
}

// follow answers takes whose key another take of the batch had first, now that the
// key has an answer.
func (u *Usage) follow(followers []*take) error {
	for _, f := range followers {
		if op, ok := u.replays.get(f.opKey()); ok {
			f.answer(op)
			continue
		}
		// The first ended with an error, so nothing is stored: this one is decided itself.
		if err := u.commit(context.Background(), []*request{{take: f}}); err != nil {
			return err
		}
	}
	return nil
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
	worlds  map[store.Holder]*world
	rollups map[store.Merge]map[store.RollupKey]store.RollupValue // not yet written
	denials map[store.DenialKey]store.DenialCount
	holds   map[usher.Environment][]engine.Hold // new reservations
	known   map[store.OpKey]store.Op            // keys of the batch that had an answer before it
	// ended has the reservations and corrections whose stored answers an earlier
	// attempt looked for: without an answer now, it is no longer kept.
	ended map[string]bool

	// The request that is being decided: a panic is its own. Both are nil while
	// the batch works for all.
	deciding  *take
	recording *body
}

// world is one customer's state in a batch. base is the snapshot that checks see;
// next is a clone of it, which the batch changes.
type world struct {
	base, next *engine.Snapshot
	now        time.Time
	loaded     map[engine.BucketKey]bool // buckets read under the lock, or known not to exist
	opened     map[engine.BucketKey]bool // windows whose opening sum was read under the lock
	present    map[string]bool           // features for which all that a decision at now reads is loaded
	seated     bool                      // a seat was taken or freed
	late       bool                      // use was booked before the present windows: memory is read again
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

// run is one attempt: it locks the batch's customers, decides every request and
// writes what they did. It starts from nothing, so the database may run it again.
func (b *batchRun) run(tx *store.UsageTx, takes []*take, bodies []*body) error {
	b.tx = tx
	b.rollups = map[store.Merge]map[store.RollupKey]store.RollupValue{store.MergeAdd: {}, store.MergeMax: {}, store.MergeLast: {}}
	b.denials = map[store.DenialKey]store.DenialCount{}
	b.holds = map[usher.Environment][]engine.Hold{}
	clear(b.worlds)
	for _, t := range takes {
		b.worlds[t.holder()] = nil
	}
	for _, e := range bodies {
		for i := range e.events {
			if e.events[i].Subject != "" {
				b.worlds[store.Holder{Env: e.env, Customer: e.events[i].Subject}] = nil
			}
		}
	}
	holders := slices.Collect(maps.Keys(b.worlds))
	// Read before the snapshots: each snapshot is of this revision or a newer one.
	known := map[usher.Environment]int64{}
	for _, h := range holders {
		known[h.Env] = b.u.cfg.Live.Revision(h.Env)
	}
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
	heads, err := tx.Lock(holders, known)
	if err != nil {
		return err
	}
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
	// Retries come in crowds, after an outage or a restart. While they do, reading
	// the stored answers first, under the locks, is cheaper than running batches twice.
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
	if len(changed) > 0 {
		if err := tx.Tell(b.u.cfg.Node, time.Now().UTC(), changed); err != nil {
			return err
		}
	}
	return nil
}

// publish shows the committed use to checks on this node.
func (b *batchRun) publish() {
	for h, w := range b.worlds {
		if w.seated {
			b.u.cfg.Live.Seated(h.Env, h.Customer)
		}
		if w.next == nil || len(w.next.Dirty()) == 0 {
			continue
		}
		if w.late {
			b.u.cfg.Live.Forget(h.Env, h.Customer)
			continue
		}
		w.next.Prune(w.now)
		b.u.cfg.Live.Publish(h.Env, h.Customer, w.base, w.next.Clone())
	}
}

// ready loads what a decision about a feature at an instant reads: buckets, and the
// sums that windows open with. An opening is the use before a window that counts in
// it, because the plan or its clock changed in the middle; it is added up from the
// rollups. On PostgreSQL all of it is read, because other nodes write too; on SQLite
// only what is not in memory.
func (b *batchRun) ready(h store.Holder, w *world, feature string, at time.Time) error {
	if at.Equal(w.now) {
		if w.present[feature] {
			return nil
		}
		w.present[feature] = true
	}
	keys, openings := w.next.World.Needs(feature, at)
	if err := b.load(h, w, keys); err != nil {
		return err
	}
	unread := openings[:0:0]
	for _, o := range openings {
		k := o.Key()
		// On SQLite memory is right, unless this batch booked use before the window.
		if w.opened[k] || !b.shared() && !w.late && w.next.Opened(k) {
			continue
		}
		w.opened[k] = true
		unread = append(unread, o)
	}
	if len(unread) == 0 {
		return nil
	}
	if w.late { // the sums must include what this batch has booked
		if err := b.flush(); err != nil {
			return err
		}
	}
	sums, err := live.Openings(b.ctx, b.tx, h.Env, h.Customer, unread)
	if err != nil {
		return err
	}
	w.next.Open(sums)
	return nil
}

// shared reports whether other nodes write to the database too.
func (b *batchRun) shared() bool { return b.u.cfg.DB.Dialect() == store.Postgres }

// flush writes the rollups that the batch has added up so far.
func (b *batchRun) flush() error {
	for m, r := range b.rollups {
		if len(r) > 0 {
			if err := b.tx.PutRollups(m, r); err != nil {
				return err
			}
			clear(r)
		}
	}
	return nil
}

// load reads buckets: on PostgreSQL all of them, because other nodes write too, on
// SQLite those that are not in memory.
func (b *batchRun) load(h store.Holder, w *world, keys []engine.BucketKey) error {
	return b.read(map[store.Holder][]engine.BucketKey{h: b.missing(w, keys, nil)})
}

// missing appends to missing those of keys that must be read, and notes that they
// will be.
func (b *batchRun) missing(w *world, keys, missing []engine.BucketKey) []engine.BucketKey {
	for _, k := range keys {
		if !w.loaded[k] {
			w.loaded[k] = true
			if b.shared() || !w.next.Has(k) {
				missing = append(missing, k)
			}
		}
	}
	return missing
}

// read puts the database's buckets into memory, except those that the batch has
// changed.
func (b *batchRun) read(keys map[store.Holder][]engine.BucketKey) error {
	found, err := b.tx.Buckets(keys)
	if err != nil {
		return err
	}
	for h, list := range found {
		w := b.worlds[h]
		for _, f := range list {
			if !w.next.Has(f.BucketKey) || b.shared() && !w.dirty(f.BucketKey) {
				w.next.Put(f)
			}
		}
	}
	return nil
}

// prefetch reads, on PostgreSQL, the buckets that the batch's requests will need in
// one statement instead of one for each customer.
func (b *batchRun) prefetch(takes []*take, bodies []*body) error {
	if !b.shared() {
		return nil
	}
	keys := map[store.Holder][]engine.BucketKey{}
	need := func(h store.Holder, feature string, at time.Time) {
		if w := b.worlds[h]; w.next.World.Known() {
			list, _ := w.next.World.Needs(feature, at)
			if list = b.missing(w, list, keys[h]); len(list) > 0 {
				keys[h] = list
			}
		}
	}
	for _, t := range takes {
		need(t.holder(), t.feature, b.worlds[t.holder()].now)
	}
	type asked struct {
		h    store.Holder
		kind string
		day  int64
	}
	seen := map[asked]bool{}
	for _, e := range bodies {
		for i := range e.events {
			ev := &e.events[i]
			h := store.Holder{Env: e.env, Customer: ev.Subject}
			w := b.worlds[h]
			at := ev.Time
			if w == nil {
				continue
			}
			if at.IsZero() {
				at = w.now
			}
			if k := (asked{h, ev.Type, store.Hour.Start(at.UnixMicro())}); seen[k] {
				continue
			} else {
				seen[k] = true
			}
			for _, f := range w.next.World.Book().Reading(ev.Type) {
				need(h, f.Key, at)
			}
		}
	}
	return b.read(keys)
}

// expire frees what the customers' ended reservations and seats hold, before
// anything is decided, and closes their rows, so that it is freed once (S10, S23). A
// lapse is such a thing that ends by itself: when, and how much of which bucket it
// holds.
func (b *batchRun) expire(holders []store.Holder) error {
	if b.shared() { // other nodes make and end reservations too
		all, err := b.tx.Lapses(holders)
		if err != nil {
			return err
		}
		for _, h := range holders {
			b.worlds[h].next.SetLapses(all[h])
		}
	}
	for _, h := range holders {
		w := b.worlds[h]
		var keys []engine.BucketKey
		for _, l := range w.next.Lapses() {
			if l.Expires > w.now.UnixMicro() {
				break
			}
			keys = append(keys, l.Bucket)
		}
		if len(keys) > 0 {
			if err := b.load(h, w, keys); err != nil {
				return err
			}
		}
		if w.next.Expire(w.now) {
			if err := b.tx.Expire(h, w.now); err != nil {
				return err
			}
		}
	}
	return nil
}

// outside notes that use is booked at an instant. If the instant is before the
// present windows, what is booked may change the sums that they opened with: what
// memory has of them is read again.
func (w *world) outside(at time.Time) {
	if at.Before(w.now) {
		if from, _ := w.next.World.Stable(w.now); at.Before(from) {
			w.late = true
			clear(w.present)
			clear(w.opened)
		}
	}
}

func (w *world) dirty(k engine.BucketKey) bool {
	return slices.ContainsFunc(w.next.Dirty(), func(b engine.Bucket) bool { return b.BucketKey == k })
}

// take decides one take. An error with a code that blames the caller ends this take
// alone; any other ends the attempt.
func (b *batchRun) take(t *take) error {
	h := t.holder()
	w := b.worlds[h]
	t.at, t.posting, t.decision, t.err = w.now, ledger.Posting{At: w.now}, usher.Decision{}, nil
	e, err := t.decide(b, w)
	var own *usher.Error
	if errors.As(err, &own) && own.Code != usher.Unavailable && own.Code != usher.Internal {
		t.err = err
		return nil
	}
	if err != nil {
		return err
	}
	e.Decision.Revision = b.u.cfg.Live.Revision(h.Env)
	if t.call == ledger.Consume {
		e.Decision.Taken = true
	}
	t.posting.Would, t.posting.Outcome, t.posting.Entries = e.Would, ledger.Outcome(&e, t.call == ledger.Settle), e.Entries
	t.decision = e.Decision
	b.post(h, e.Entries, t.posting.At)
	w.outside(t.posting.At)
	b.deny(h, w, t.feature, t.posting.Outcome, e.Would, t.amount, w.now)
	return nil
}

// post adds entries to the minute, the hour and the day of an instant.
func (b *batchRun) post(h store.Holder, entries []engine.Entry, at time.Time) {
	for _, e := range entries {
		if e.Allowance != engine.EntryCap { // a cap counts use that its allowance counts too
			b.roll(store.MergeAdd, store.RollupKey{Holder: h, Feature: e.Bucket.Feature, Value: e.Bucket.Clock}, at, e.Amount, 0)
		}
	}
}

// roll merges use into the minute, the hour and the day of an instant. at is the
// instant of a last gauge's value in microseconds, else 0.
func (b *batchRun) roll(m store.Merge, k store.RollupKey, instant time.Time, used, at int64) {
	for _, g := range []store.Grain{store.Minute, store.Hour, store.Day} {
		k.Grain, k.Start = g, g.Start(instant.UnixMicro())
		b.merge(m, k, used, at)
	}
}

func (b *batchRun) merge(m store.Merge, k store.RollupKey, used, at int64) {
	v, ok := b.rollups[m][k]
	switch m {
	case store.MergeAdd:
		v.Used += used
	case store.MergeMax:
		if !ok || used > v.Used {
			v.Used = used
		}
	case store.MergeLast:
		if !ok || at >= v.At {
			v = store.RollupValue{Used: used, At: at}
		}
	}
	b.rollups[m][k] = v
}
