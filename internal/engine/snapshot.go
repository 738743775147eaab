package engine

import (
	"maps"
	"time"

	"github.com/usher-sh/usher"
)

// Snapshot is all that decides for one customer at one revision: its world and its
// use. Decide and Explain only read it, so many goroutines may share one. Take
// changes a clone that the writer made for itself.
type Snapshot struct {
	World    *World
	Revision int64

	use      map[string]*shelf // by feature
	openings map[BucketKey]int64
	lapses   []Lapse            // soonest first
	held     bool               // Expire has run on this clone, so all of lapses still counts
	dirty    []BucketKey        // changed by Take, in the order of the first change
	changed  map[BucketKey]bool // dirty as a set, once it is long
}

// NewSnapshot joins a world with its use: those of the buckets named by Needs that
// exist, and the sums that its openings ask for.
func NewSnapshot(w *World, revision int64, buckets []Bucket, openings map[BucketKey]int64) *Snapshot {
	s := &Snapshot{World: w, Revision: revision, use: make(map[string]*shelf), openings: openings}
	for _, b := range buckets {
		s.Put(b)
	}
	return s
}

// Clone returns a copy that Take may change while others read s. It shares the world
// and copies the buckets.
func (s *Snapshot) Clone() *Snapshot {
	c := &Snapshot{World: s.World, Revision: s.Revision, use: make(map[string]*shelf, len(s.use)), openings: s.openings, lapses: s.lapses}
	for f, list := range s.use {
		c.use[f] = list.clone()
	}
	return c
}

// Open adds sums that windows open with, for instants that the snapshot was not
// loaded for. Nobody else may read the snapshot yet.
func (s *Snapshot) Open(sums map[BucketKey]int64) {
	if len(sums) == 0 {
		return
	}
	all := make(map[BucketKey]int64, len(s.openings)+len(sums))
	maps.Copy(all, s.openings)
	maps.Copy(all, sums)
	s.openings = all
}

// Opened reports whether an opening's sum is in memory.
func (s *Snapshot) Opened(k BucketKey) bool {
	_, ok := s.openings[k]
	return ok
}

// Has reports whether the bucket is in memory.
func (s *Snapshot) Has(k BucketKey) bool { return s.use[k.Feature].find(k.Clock, k.Start) >= 0 }

// Put adds or replaces one bucket. Nobody else may read the snapshot yet.
func (s *Snapshot) Put(b Bucket) {
	sh := s.use[b.Feature]
	if sh == nil {
		sh = new(shelf)
		s.use[b.Feature] = sh
	}
	sh.put(b)
}

// Bucket returns one bucket and whether it is in memory. If not, the bucket has its
// key and no use.
func (s *Snapshot) Bucket(k BucketKey) (Bucket, bool) {
	list := s.use[k.Feature]
	if i := list.find(k.Clock, k.Start); i >= 0 {
		return list.list[i], true
	}
	return Bucket{BucketKey: k}, false
}

// Dirty returns the buckets that Take changed since the clone was made.
func (s *Snapshot) Dirty() []Bucket {
	out := make([]Bucket, 0, len(s.dirty))
	for _, k := range s.dirty {
		b, _ := s.Bucket(k)
		out = append(out, b)
	}
	return out
}

// Prune drops buckets that ended before t and that no decision from then on reads, so
// that a snapshot that is kept for long stays small. It does nothing to short lists.
func (s *Snapshot) Prune(t time.Time) {
	at := t.UnixMicro()
	for f, sh := range s.use {
		if len(sh.list) < 24 {
			continue
		}
		keep := map[BucketKey]bool{}
		if ft := s.World.feature(f); ft != nil {
			for _, k := range s.World.needs(ft, at, nil) {
				keep[k] = true
			}
		}
		newest := map[string]int64{}
		for i := range sh.list {
			b := &sh.list[i]
			newest[b.Clock] = max(newest[b.Clock], b.Start)
		}
		kept := new(shelf)
		for _, b := range sh.list {
			if b.End > at || keep[b.BucketKey] || newest[b.Clock] == b.Start && b.Clock[0] != 'c' {
				kept.put(b)
			}
		}
		if len(kept.list) < len(sh.list) {
			s.use[f] = kept
		}
	}
}

// Needs returns the buckets and sums that decisions at t read: of one feature and
// its pool, or of all features if feature is "". A key stands for the bucket of its
// feature and clock that started last, at or before the key's start.
func (w *World) Needs(feature string, t time.Time) (keys []BucketKey, openings []Opening) {
	at := t.UnixMicro()
	if feature != "" {
		f := w.feature(feature)
		if f == nil {
			return nil, nil
		}
		keys = w.needs(f, at, &openings)
		if f.pool != nil {
			keys = append(keys, w.needs(f.pool, at, &openings)...)
		}
		return keys, openings
	}
	// What is computed only to know what to read is not kept: most customers are
	// asked about few of the features that they have.
	for i, k := range w.book.keys {
		f := w.features[i].Load()
		if f == nil {
			f = w.newFeature(w.book.Features[k])
			f.passing = true
		}
		keys = append(keys, w.needs(f, at, &openings)...)
	}
	return keys, openings
}

// needs is Needs of one feature. openings may be nil.
func (w *World) needs(f *feature, at int64, openings *[]Opening) []BucketKey {
	if !f.def.Kind.Counts() || w.customer == nil {
		return nil
	}
	fr := w.frameAt(f, at)
	var keys []BucketKey
	open := func(o *Opening) {
		if o != nil && openings != nil {
			*openings = append(*openings, *o)
		}
	}
	for i := range fr.rows {
		r := &fr.rows[i]
		k := r.key
		if r.firstUse {
			k.Start = at
		}
		keys = append(keys, k)
		keys = append(keys, r.carry...)
		if r.roll != nil {
			keys = append(keys, r.roll.source...)
			open(r.roll.opening)
		}
		open(r.opening)
	}
	if f.pool != nil {
		keys = append(keys, BucketKey{f.def.Key, ClockDrawn, 0})
	}
	if f.def.Kind == usher.Seats {
		keys = append(keys, BucketKey{f.def.Key, ClockSeats, 0})
	}
	for i := range fr.caps {
		c := &fr.caps[i]
		if c.cap.Sliding {
			length, step := slidingSpan(c.cap.Per)
			for start := c.key.Start - length; start <= c.key.Start; start += step {
				keys = append(keys, BucketKey{c.key.Feature, c.key.Clock, start})
			}
			continue
		}
		keys = append(keys, c.key)
		for _, o := range c.openings {
			open(o)
		}
	}
	return keys
}

// Key returns the key under which NewSnapshot expects an opening's sum. It contains
// the opening's end, because a clock that goes and comes back has several openings.
func (o Opening) Key() BucketKey { return BucketKey{o.Feature, o.Clock, o.Until} }

// window returns the span as times; a bound that it does not have is zero.
func (s span) window() usher.Window {
	var w usher.Window
	if s.start > 0 {
		w.Start = time.UnixMicro(s.start).UTC()
	}
	if s.end != maxMicro && s.end != 0 { // 0: not begun (first_use)
		w.End = time.UnixMicro(s.end).UTC()
	}
	return w
}
