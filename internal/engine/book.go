package engine

import (
	"cmp"
	"maps"
	"slices"

	"github.com/usher-sh/usher"
)

// Book is one catalogue revision as decisions read it: the feature definitions and
// every published plan and add-on version. All customers of an environment share
// it, and it never changes.
type Book struct {
	Timezone string // the environment's zone; "" is UTC
	Features map[string]*usher.Feature
	Meters   map[string]*usher.Meter

	plans    map[usher.Ref]*usher.PlanVersion
	addons   map[usher.Ref]*usher.AddonVersion
	newest   map[string]usher.Ref // by plan key, of the plans in the file
	newAddon map[string]usher.Ref // by add-on key, of the add-ons in the file
	defaults []usher.Ref          // newest version of each family's default plan, by family
	byEvent  map[string][]*usher.Feature
	rolls    map[string]bool // by feature: some allowance of some version rolls over
	keys     []string        // of all features, ascending
	index    map[string]int  // by feature: its place in keys
}

// NewBook compiles a catalogue and its published versions. Plan finds versions that
// the catalogue no longer sells, because subscriptions stay on theirs (S29); Newest
// does not. The arguments must not change afterwards.
func NewBook(c *usher.Catalog, plans []usher.PlanVersion, addons []usher.AddonVersion) *Book {
	b := &Book{
		Timezone: c.Timezone, Features: c.Features, Meters: c.Meters,
		plans: map[usher.Ref]*usher.PlanVersion{}, addons: map[usher.Ref]*usher.AddonVersion{},
		newest: map[string]usher.Ref{}, newAddon: map[string]usher.Ref{}, byEvent: map[string][]*usher.Feature{},
		rolls: map[string]bool{},
	}
	b.keys = slices.Sorted(maps.Keys(c.Features))
	b.index = make(map[string]int, len(b.keys))
	for i, k := range b.keys {
		b.index[k] = i
	}
	for i := range plans {
		p := &plans[i]
		b.plans[p.Ref()] = p
		b.noteRollovers(p.Entitlements)
		if c.Plans[p.Key] != nil && p.Version > b.newest[p.Key].Version {
			b.newest[p.Key] = p.Ref()
		}
	}
	for i := range addons {
		a := &addons[i]
		b.addons[a.Ref()] = a
		b.noteRollovers(a.Entitlements)
		if c.Addons[a.Key] != nil && a.Version > b.newAddon[a.Key].Version {
			b.newAddon[a.Key] = a.Ref()
		}
	}
	for key, p := range c.Plans {
		if ref, ok := b.newest[key]; ok && p.Default {
			b.defaults = append(b.defaults, ref)
		}
	}
	slices.SortFunc(b.defaults, func(x, y usher.Ref) int {
		if fx, fy := b.plans[x].Family, b.plans[y].Family; fx != fy {
			return cmp.Compare(fx, fy)
		}
		return cmp.Compare(x.Key, y.Key)
	})
	for _, f := range c.Features {
		if m := c.Meters[f.Meter]; m != nil {
			b.byEvent[m.Event] = append(b.byEvent[m.Event], f)
		}
	}
	for _, fs := range b.byEvent {
		slices.SortFunc(fs, func(x, y *usher.Feature) int { return cmp.Compare(x.Key, y.Key) })
	}
	return b
}

// noteRollovers notes the features of which something rolls over.
func (b *Book) noteRollovers(ents map[string]*usher.Entitlement) {
	for key, e := range ents {
		if slices.ContainsFunc(e.Allowances, func(a usher.Allowance) bool { return a.Rollover != nil }) {
			b.rolls[key] = true
		}
	}
}

// Newest returns the newest published version of a plan that is sold now.
func (b *Book) Newest(plan string) (*usher.PlanVersion, bool) {
	ref, ok := b.newest[plan]
	return b.plans[ref], ok
}

// Plan returns a published version, sold or not.
func (b *Book) Plan(ref usher.Ref) (*usher.PlanVersion, bool) {
	p, ok := b.plans[ref]
	return p, ok
}

// NewestAddon returns the newest published version of an add-on that is sold now.
func (b *Book) NewestAddon(addon string) (*usher.AddonVersion, bool) {
	ref, ok := b.newAddon[addon]
	return b.addons[ref], ok
}

// Addon returns a published version, sold or not.
func (b *Book) Addon(ref usher.Ref) (*usher.AddonVersion, bool) {
	a, ok := b.addons[ref]
	return a, ok
}

// Reading returns the features whose meters read events of a type, by key.
func (b *Book) Reading(eventType string) []*usher.Feature { return b.byEvent[eventType] }

// Meter returns the meter of a feature, nil if it has none.
func (b *Book) Meter(f *usher.Feature) *usher.Meter { return b.Meters[f.Meter] }

// Gauge reports whether the feature's meter keeps a level and not a total: last, max
// or unique (S33).
func (b *Book) Gauge(f *usher.Feature) bool {
	m := b.Meters[f.Meter]
	return m != nil && !m.Aggregation.Adds()
}
