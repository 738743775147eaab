// Package engine is the arithmetic of entitlement: Decide answers, Explain says
// why, Take applies use. It is pure: values in, values out. It refuses to read
// a clock, a database or a network, and to return an error: a "no" is an answer.
package engine

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
)

// World is one customer's deciding state, compiled. It holds no use and never
// changes; what it computes on demand it keeps, so it may be shared freely.
type World struct {
	book     *Book
	customer *usher.Customer // nil: unknown
	zone     *time.Location  // in force last: for trials and grace
	ticks    []tick
	timeline []era
	features map[string]*feature
	changes  []int64         // every instant at which any source changes, ascending
	known    map[int64]int64 // when a change that is dated in the past became known, by its instant
}

// feature is what the world holds for one feature.
type feature struct {
	def       *usher.Feature
	gauge     usher.Aggregation // "" where use adds up
	overrides []usher.Override  // by creation
	grants    []usher.Grant
	pool      *feature // of Draws
	frame     atomic.Pointer[frame]
}

// NewWorld compiles the facts of one customer. Zones that cannot be loaded
// count as UTC; they are refused where they are written.
func NewWorld(f Facts) *World {
	w := &World{book: f.Book, customer: f.Customer, zone: time.UTC, features: make(map[string]*feature, len(f.Book.Features))}
	for key, def := range f.Book.Features {
		ft := &feature{def: def}
		if m := f.Book.Meters[def.Meter]; m != nil && !m.Aggregation.Adds() {
			ft.gauge = m.Aggregation
		}
		w.features[key] = ft
	}
	for _, ft := range w.features {
		if d := ft.def.Draws; d != nil {
			ft.pool = w.features[d.Credits]
		}
	}
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
		k := tick{from: c.From.UnixMicro(), until: maxMicro, anchor: c.Anchor, zone: zone}
		if i > 0 {
			w.ticks[i-1].until = k.from
			w.changes = append(w.changes, k.from)
		}
		w.ticks = append(w.ticks, k)
		w.zone = zone
	}
	w.ticks[0].from = minMicro
	w.timeline = w.eras(f)
	for _, e := range w.timeline {
		w.changes = append(w.changes, e.from)
	}
	for i := range f.Overrides {
		o := f.Overrides[i]
		if ft := w.features[o.Feature]; ft != nil {
			ft.overrides = append(ft.overrides, o)
			w.changes = append(w.changes, o.CreatedAt.UnixMicro(), micro(o.ExpiresAt, maxMicro))
		}
	}
	for i := range f.Grants {
		g := f.Grants[i]
		if ft := w.features[g.Feature]; ft != nil {
			ft.grants = append(ft.grants, g)
			w.changes = append(w.changes, g.EffectiveAt.UnixMicro(), grantEnd(&g))
		}
	}
	for _, ft := range w.features {
		slices.SortStableFunc(ft.overrides, func(x, y usher.Override) int {
			if c := x.CreatedAt.Compare(y.CreatedAt); c != 0 {
				return c
			}
			return compare(x.ID, y.ID)
		})
		slices.SortStableFunc(ft.grants, func(x, y usher.Grant) int { return compare(x.ID, y.ID) })
	}
	slices.Sort(w.changes)
	w.changes = slices.Compact(w.changes)
	return w
}

// Known reports whether the customer exists.
func (w *World) Known() bool { return w.customer != nil }

// Book returns the catalogue that the world was compiled from.
func (w *World) Book() *Book { return w.book }

// Features returns the keys of all features, ascending.
func (w *World) Features() []string {
	keys := make([]string, 0, len(w.features))
	for k := range w.features {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Zone is the customer's zone in force at t.
func (w *World) Zone(t time.Time) *time.Location {
	at := t.UnixMicro()
	for i := len(w.ticks) - 1; i >= 0; i-- {
		if w.ticks[i].from <= at {
			return w.ticks[i].zone
		}
	}
	return w.zone
}

// Stable returns the span around t in which no source begins or ends, as
// instants; the zero time stands for no bound. Use that a snapshot was loaded
// with answers for all of it.
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

// eraAt is the span that holds at.
func (w *World) eraAt(at int64) *era {
	i, found := slices.BinarySearchFunc(w.timeline, at, func(e era, at int64) int { return cmp64(e.from, at) })
	if !found {
		i--
	}
	return &w.timeline[max(i, 0)]
}
