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

// errStale means that a snapshot was older than the database under the lock.
var errStale = errors.New("usage: a snapshot is old")

// errTaken means that a key or an event of the batch is stored already.
var errTaken = errors.New("usage: a key has an answer already")

// maxRuns bounds how often one batch is decided again.
const maxRuns = 12

// commit runs a batch until it is decided on the newest state and committed.
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
			u.retries = 32
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

// known answers takes whose keys were seen a moment ago, and sets aside those
// whose key stands twice in the batch: they follow the first.
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

// follow answers takes whose key stood before them in the batch, now that it has
// an answer.
func (u *Usage) follow(followers []*take) error {
	for _, f := range followers {
		if op, ok := u.replays.get(f.opKey()); ok {
			f.answer(op)
			continue
		}
		// The first was refused, and nothing is stored: this one stands for itself.
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

// batchRun is one attempt at a batch.
type batchRun struct {
	u       *Usage
	ctx     context.Context
	tx      *store.UsageTx
	worlds  map[store.Holder]*world
	rollups map[store.Merge]map[store.RollupKey]store.RollupValue
	denials map[store.DenialKey]store.DenialCount
	holds   map[usher.Environment][]engine.Hold // new reservations
	known   map[store.OpKey]store.Op            // keys of the batch that had an answer already
	ended   map[string]bool                     // reservations and corrections whose stored answers were looked for

	// The request that is being decided: a panic is its own. Both are nil while
	// the batch works for all.
	deciding  *take
	recording *body
}

// world is one customer's state in a batch: a private clone of its snapshot.
type world struct {
	base, next *engine.Snapshot
	now        time.Time
	loaded     map[engine.BucketKey]bool // read under the lock, or known not to exist
	opened     map[engine.BucketKey]bool
	present    map[string]bool // features whose needs at now are met
	seated     bool            // somebody sits who did not, or the other way round
	late       bool            // use was booked outside the present windows: memory is read again
}

// forget drops the batch's customers from memory, so that they are read again.
func (b *batchRun) forget() {
	for h := range b.worlds {
		b.u.cfg.Live.Forget(h.Env, h.Customer)
	}
}

func (b *batchRun) environments() map[usher.Environment]bool {
	envs := map[usher.Environment]bool{}
	for h := range b.worlds {
		envs[h.Env] = true
	}
	return envs
}

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
	// Read before any snapshot is taken: what is older than this is in none.
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
		if clock, set := b.u.cfg.Live.TestClock(h.Env); heads != nil && set && !clock.Equal(heads[h].Clock) || heads != nil && !set && !heads[h].Clock.IsZero() {
			b.worlds[h] = &world{} // another node has moved the sandbox's clock
			return errStale
		}
		if head := heads[h]; head.Revision > s.Revision || head.CatalogRevision > s.Revision {
			b.worlds[h] = &world{}
			return errStale
		}
		b.worlds[h] = &world{base: s, next: s.Clone(), now: now, loaded: map[engine.BucketKey]bool{}, opened: map[engine.BucketKey]bool{}, present: map[string]bool{}}
	}
	if err := b.expire(holders); err != nil {
		return err
	}
	if err := b.prefetch(takes, bodies); err != nil {
		return err
	}
	// Retries come in crowds, after an outage or a restart. Looking for their
	// answers first, under the locks, is cheaper then than to run batches twice.
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

// publish shows the committed use to checks of this node.
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

// ready reads what a feature's decisions at an instant need and memory may not
// have: on PostgreSQL all of it, since other nodes write too.
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
		// On SQLite what memory has is true, unless this batch booked something before it.
		if w.opened[k] || !b.shared() && !w.late && w.next.Opened(k) {
			continue
		}
		w.opened[k] = true
		unread = append(unread, o)
	}
	if len(unread) == 0 {
		return nil
	}
	if w.late { // the sums are to hold what this batch has booked
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

// flush writes the rollups that have come together.
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

// load reads buckets that memory may not have: on PostgreSQL all of them, since
// other nodes write too.
func (b *batchRun) load(h store.Holder, w *world, keys []engine.BucketKey) error {
	return b.read(map[store.Holder][]engine.BucketKey{h: b.missing(w, keys, nil)})
}

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

// read puts buckets of the database into memory, but for those that the batch
// has changed.
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

// prefetch reads, on PostgreSQL, what the batch's operations need of the present
// in one question instead of one for each customer.
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

// expire gives back what has ended of the customers' reservations and seats,
// before anything is decided, and closes it, so that it is given back once
// (S10, S23).
func (b *batchRun) expire(holders []store.Holder) error {
	if b.shared() { // other nodes hold and end things too
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

// outside notes an instant that use is booked at: before the sources of the
// present, it changes what memory holds of them.
func (w *world) outside(at time.Time) {
	if at.Before(w.now) {
		if from, _ := w.next.World.Stable(w.now); at.Before(from) {
			w.late = true
			clear(w.present) // what was read of the openings may be out of date
			clear(w.opened)
		}
	}
}

func (w *world) dirty(k engine.BucketKey) bool {
	return slices.ContainsFunc(w.next.Dirty(), func(b engine.Bucket) bool { return b.BucketKey == k })
}

// take decides one take. An error that blames the caller is the take's own.
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
	if t.route == ledger.Consume {
		e.Decision.Taken = true
	}
	t.posting.Would, t.posting.Outcome, t.posting.Entries = e.Would, ledger.Outcome(&e, t.route == ledger.Settle), e.Entries
	t.decision = e.Decision
	b.post(h, e.Entries, t.posting.At)
	w.outside(t.posting.At)
	b.deny(h, w, t.feature, t.posting.Outcome, e.Would, t.amount, w.now)
	return nil
}

// post adds entries to the spans that an instant lies in.
func (b *batchRun) post(h store.Holder, entries []engine.Entry, at time.Time) {
	for _, e := range entries {
		if e.Allowance != engine.EntryCap { // which counts what is counted already
			b.roll(store.MergeAdd, store.RollupKey{Holder: h, Feature: e.Bucket.Feature, Value: e.Bucket.Clock}, at, e.Amount, 0)
		}
	}
}

// roll merges use into the minute, the hour and the day of an instant.
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
