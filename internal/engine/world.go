// Package engine is the arithmetic of entitlement: Decide answers, Explain says
// why, Take applies use. It is pure: values in, values out. It reads no clock,
// database or network, and returns no error: a "no" is an answer. It panics only
// when a caller breaks its contract. README.md explains its words and follows one
// example from facts to answer.
package engine

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
)

// World is the facts of one customer, compiled. It contains no use and never
// changes, so it may be shared between goroutines; what it computes on demand it
// keeps.
type World struct {
	book       *Book
	customer   *usher.Customer // nil: unknown
	zone       *time.Location  // the newest one: trials and grace periods are counted in it
	anchorings []anchoring
	timeline   []era
	subs       [][]stay // by subscription, the one that began last first; each covers all of time
	// features are by place in Book.keys. One is nil until it is asked about, so
	// that a customer is small who could use 200 features and uses 5.
	features []atomic.Pointer[feature]
	bytes    atomic.Int64    // that it holds, estimated
	changes  []int64         // every instant at which any source changes, ascending
	known    map[int64]int64 // by the instant of a change that is dated in the past: when it was made
}

// feature is what a world knows about one feature.
type feature struct {
	def       *usher.Feature
	gauge     usher.Aggregation // "" if use adds up
	rolls     bool              // some allowance of it, in any plan, add-on or override, rolls over
	overrides []*usher.Override // by creation, so that the latest is last
	set       []turn            // which override of this form counts when
	add       []turn
	deny      []turn
	grants    []*usher.Grant // by id
	granted   []turn         // when any of the grants is in force
	granting  int64          // the last instant at which a grant begins
	pool      *feature       // of Draws
	passing   bool           // made for one question about all features, so its memory does not count
	frame     atomic.Pointer[frame]
	runs      atomic.Pointer[[]run]
}

// NewWorld compiles the facts of one customer, in about linear time. It keeps no
// slice of f, but f.Book and f.Customer must not change afterwards. f.Book must be
// set. A zone that cannot be loaded counts as UTC; writing one is refused.
func NewWorld(f Facts) *World {
	if f.Book == nil {
		panic("engine: NewWorld: Facts.Book must be set")
	}
	w := &World{book: f.Book, customer: f.Customer, zone: time.UTC, features: make([]atomic.Pointer[feature], len(f.Book.keys))}
	w.bytes.Store(sizeOf(&f))
	if f.Customer == nil {
		w.timeline = []era{{from: minMicro, until: maxMicro}}
		return w
	}
	clocks := f.Customer.Clocks
	if len(clocks) == 0 {
		clocks = []usher.Clock{{From: f.Customer.CreatedAt, Anchor: f.Customer.CreatedAt}}
	}
	for i, c := range clocks {
		name := c.Timezone
		if name == "" {
			name = f.Book.Timezone
		}
		zone, err := calendar.Zone(name)
		if err != nil {
			zone = time.UTC
		}
		k := anchoring{from: c.From.UnixMicro(), until: maxMicro, anchor: c.Anchor, zone: zone}
		if i > 0 {
			w.anchorings[i-1].until = k.from
			w.changes = append(w.changes, k.from)
		}
		w.anchorings = append(w.anchorings, k)
		w.zone = zone
	}
	w.anchorings[0].from = minMicro // events may be dated before the customer was created
	w.timeline = w.eras(f)
	for _, e := range w.timeline {
		w.changes = append(w.changes, e.from)
	}
	overrides, grants := slices.Clone(f.Overrides), slices.Clone(f.Grants)
	for i := range overrides {
		o := &overrides[i]
		if ft := w.feature(o.Feature); ft != nil {
			ft.overrides = append(ft.overrides, o)
			w.changes = append(w.changes, o.CreatedAt.UnixMicro(), micro(o.ExpiresAt, maxMicro))
		}
	}
	for i := range grants {
		g := &grants[i]
		if ft := w.feature(g.Feature); ft != nil {
			ft.grants = append(ft.grants, g)
			w.changes = append(w.changes, g.EffectiveAt.UnixMicro(), grantEnd(g))
		}
	}
	for i := range w.features {
		ft := w.features[i].Load()
		if ft == nil || len(ft.overrides)+len(ft.grants) == 0 {
			continue
		}
		slices.SortStableFunc(ft.overrides, func(x, y *usher.Override) int {
			if c := x.CreatedAt.Compare(y.CreatedAt); c != 0 {
				return c
			}
			return cmp.Compare(x.ID, y.ID)
		})
		slices.SortStableFunc(ft.grants, func(x, y *usher.Grant) int { return cmp.Compare(x.ID, y.ID) })
		ft.arrange()
	}
	slices.Sort(w.changes)
	w.changes = slices.Compact(w.changes)
	return w
}

// arrange computes which of the feature's overrides and grants count when, so that
// no question has to read them all.
func (f *feature) arrange() {
	if n := len(f.overrides); n > 0 {
		set, add, deny := make([]span, n), make([]span, n), make([]span, n) // an override's span is empty in the forms that it does not have
		for i, o := range f.overrides {
			s := span{o.CreatedAt.UnixMicro(), micro(o.ExpiresAt, maxMicro)}
			switch {
			case o.Deny:
				deny[i] = s
			case o.Add != nil:
				add[i] = s
			default:
				set[i] = s
			}
			if o.Set != nil && o.Set.Rollover != nil {
				f.rolls = true
			}
		}
		f.set, f.add, f.deny = overlay(set), overlay(add), overlay(deny)
	}
	if n := len(f.grants); n > 0 {
		spans := make([]span, n)
		for i, g := range f.grants {
			spans[i] = span{g.EffectiveAt.UnixMicro(), grantEnd(g)}
			f.granting = max(f.granting, min(spans[i].start, spans[i].end))
		}
		f.granted = overlay(spans)
	}
}

// Known reports whether the customer exists.
func (w *World) Known() bool { return w.customer != nil }

// Book returns the catalogue that the world was compiled from.
func (w *World) Book() *Book { return w.book }

// Features returns the keys of all features, ascending. The caller must not change
// them.
func (w *World) Features() []string { return w.book.keys }

// feature returns what the world knows about a feature, and keeps it; nil if the
// catalogue does not have the feature.
func (w *World) feature(key string) *feature {
	i, ok := w.book.index[key]
	if !ok {
		return nil
	}
	p := &w.features[i]
	if f := p.Load(); f != nil {
		return f
	}
	f := w.newFeature(w.book.Features[key])
	if !p.CompareAndSwap(nil, f) { // another goroutine was first: its frames must not be lost
		return p.Load()
	}
	w.bytes.Add(sizeFeature)
	return f
}

// newFeature returns what a world knows about a feature for which the customer has no
// override and no grant.
func (w *World) newFeature(def *usher.Feature) *feature {
	f := &feature{def: def, rolls: w.book.rolls[def.Key], granting: minMicro}
	if m := w.book.Meters[def.Meter]; m != nil && !m.Aggregation.Adds() {
		f.gauge = m.Aggregation
	}
	if d := def.Draws; d != nil {
		f.pool = w.feature(d.Credits)
	}
	return f
}

// Estimates of what a world holds, in bytes of memory on a 64-bit machine, with what
// the allocator adds. TestBytes compares them with the heap.
const (
	sizeWorld    = 900 // with a subscription's stays and eras
	sizeFeature  = 320
	sizeFrame    = 420 // without rows and caps
	sizeRow      = 700 // with its slots and their parts in burn order
	sizeCap      = 600
	sizeOverride = 420 // with its turns
	sizeGrant    = 380
	sizeStay     = 420
	sizeBucket   = 130
)

// sizeOf estimates what a world of these facts holds before anybody asks about it.
func sizeOf(f *Facts) int64 {
	n := sizeWorld + 8*len(f.Book.keys) + sizeOverride*len(f.Overrides) + sizeGrant*len(f.Grants) + sizeStay*len(f.Subscriptions)
	if c := f.Customer; c != nil {
		n += len(c.ID) + len(c.Name) + 80*len(c.Clocks)
		for k, v := range c.Metadata {
			n += 64 + len(k) + len(v)
		}
	}
	return int64(n)
}

// Bytes estimates the memory that the world holds alone, in bytes. It grows as features
// are asked about.
func (w *World) Bytes() int64 { return w.bytes.Load() }

// Bytes estimates the memory that the snapshot holds alone, in bytes: without its
// book, which all customers share. It grows as features are asked about.
func (s *Snapshot) Bytes() int64 {
	n := s.World.bytes.Load()
	for _, sh := range s.use {
		n += 64 + sizeBucket*int64(len(sh.list))
	}
	return n + 96*int64(len(s.openings)) + 64*int64(len(s.lapses))
}

// Zone returns the customer's zone at t.
func (w *World) Zone(t time.Time) *time.Location {
	at := t.UnixMicro()
	for i := len(w.anchorings) - 1; i >= 0; i-- {
		if w.anchorings[i].from <= at {
			return w.anchorings[i].zone
		}
	}
	return w.zone
}

// Stable returns the span around t in which no source begins or ends. The zero
// time means that there is no bound. A snapshot that was loaded at t answers for
// all of the span.
func (w *World) Stable(t time.Time) (from, until time.Time) {
	at := t.UnixMicro()
	i, found := slices.BinarySearch(w.changes, at)
	if found {
		i++
	}
	if i > 0 && w.changes[i-1] != minMicro {
		from = time.UnixMicro(w.changes[i-1]).UTC()
	}
	if i < len(w.changes) && w.changes[i] != maxMicro {
		until = time.UnixMicro(w.changes[i]).UTC()
	}
	return from, until
}

// eraAfter returns the index of the first era that begins after an instant.
func (w *World) eraAfter(at int64) int {
	i, found := slices.BinarySearchFunc(w.timeline, at, func(e era, at int64) int { return cmp.Compare(e.from, at) })
	if found {
		i++
	}
	return i
}

// eraAt returns the era at an instant.
func (w *World) eraAt(at int64) *era {
	i, found := slices.BinarySearchFunc(w.timeline, at, func(e era, at int64) int { return cmp.Compare(e.from, at) })
	if !found {
		i--
	}
	return &w.timeline[max(i, 0)]
}
