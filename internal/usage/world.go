package usage

import (
	"slices"
	"time"

	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
)

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

// What a batch reads before it decides. On SQLite this process is the only writer, so
// that memory is right and only what was never loaded is read. On PostgreSQL other
// nodes write too: under the locks, each bucket and sum is read once per attempt.

// ready loads what a decision about a feature at an instant reads: buckets, and the
// sums that windows open with. An opening is use from before a window that counts in
// it, because the plan or its clock changed in the middle; it is added up from the
// rollups.
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

// reopen reads again what use before the present windows may have changed: the sums
// that they open with. All else that memory has of a customer is still true, so that
// late events, which come by the thousand, do not make each batch load its customers
// anew. Few customers have windows with such a sum.
func (b *batchRun) reopen(changed []store.Holder) error {
	for _, h := range changed {
		w := b.worlds[h]
		if !w.late {
			continue
		}
		_, openings := w.next.World.Needs("", w.now)
		sums, err := live.Openings(b.ctx, b.tx, h.Env, h.Customer, openings)
		if err != nil {
			return err
		}
		w.next.Open(sums)
	}
	return nil
}

// shared reports whether other nodes write to the database too.
func (b *batchRun) shared() bool { return b.u.cfg.DB.Dialect() == store.Postgres }

// load reads the buckets that this attempt has not read and that are not in memory.
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
	// Events of one customer, type and hour need the same buckets, so ask once for
	// all of them. If a window ends within the hour, ready reads the rest.
	type asked struct {
		h    store.Holder
		kind string
		hour int64
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

// expire frees what the customers' expired reservations and seats hold, before
// anything is decided, and closes their rows, so that nothing is freed twice (S10,
// S23). A lapse is the end of one of them: when it comes, and how much of which bucket
// it frees.
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
		for _, l := range w.next.Lapses() { // earliest end first
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

// outside notes that use is booked at an instant. If the instant is before the present
// windows, that use may change the sums that they opened with, so that what memory has
// of them is no longer right and must be read again.
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
