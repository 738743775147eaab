package engine

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/usher-sh/usher"
)

// maxWaits bounds how many instants to come Advise looks at. A sliding cap lets units
// fall out in up to 61 steps.
const maxWaits = 64

// Advise says what would make the answer to q at an instant a yes, smallest first. It
// finds out by deciding again: each change is applied to a copy of the facts, and only
// what then allows the amount is advice. What the customer has already is never
// advice, and a yes needs none. f are the facts that d was decided by.
//
// load returns the snapshot of a world for q.Feature at an instant, with its use; nil
// says that it cannot, and ends the search.
func Advise(f Facts, q Query, d *usher.Decision, at time.Time, load func(*World, time.Time) *Snapshot) []usher.WhatWouldChange {
	out := []usher.WhatWouldChange{}
	q.Buf = nil
	switch {
	case d.Allowed:
		return out
	case f.Customer == nil:
		return append(out, usher.WhatWouldChange{Kind: usher.AdviceCustomer, What: "create the customer", Target: q.Customer})
	case f.Book.Features[q.Feature] == nil:
		return append(out, usher.WhatWouldChange{Kind: usher.AdviceCatalogue, What: "add the feature to the catalogue", Target: q.Feature})
	}
	a := &adviser{f: f, q: q, d: d, at: at, w: NewWorld(f)}
	a.def = f.Book.Features[q.Feature]
	var helps []change
	if d.Reason != usher.ReasonSuspended {
		if c, ok := a.wait(load); ok {
			helps = append(helps, c)
		}
	}
	for _, c := range a.changes() {
		s := load(NewWorld(c.facts), at)
		if s == nil {
			break
		}
		if c.frees > 0 {
			s = s.Clone()
			s.adjust(BucketKey{q.Feature, ClockSeats, 0}, -c.frees, 0)
		}
		x := Decide(s, q, at)
		if !x.Allowed {
			continue
		}
		c.limit(&x)
		helps = append(helps, c)
	}
	slices.SortStableFunc(helps, func(x, y change) int {
		return cmp.Or(cmp.Compare(x.size, y.size), cmp.Compare(x.most(), y.most()))
	})
	for i := range helps {
		out = append(out, helps[i].WhatWouldChange)
	}
	return out
}

// adviser is a question that was answered with a no, and what answered it.
type adviser struct {
	f   Facts
	q   Query
	d   *usher.Decision
	at  time.Time
	w   *World
	def *usher.Feature
}

// change is something that could be done, and the facts after it.
type change struct {
	usher.WhatWouldChange
	facts Facts
	frees int64 // seats that are given up
	size  int   // one of the sizes
}

// The sizes of changes, smallest first: time alone, to take back a decision about this
// customer, what is sold, an amount, and an exception.
const (
	itself = iota
	takenBack
	sold
	granted
	exceptional
)

// most returns the limit after the change, for the order of changes of one size.
func (c *change) most() int64 {
	switch {
	case c.Unlimited:
		return maxMicro
	case c.Limit != nil:
		return c.Limit.Units
	}
	return 0
}

// limit notes what the limit would be.
func (c *change) limit(x *usher.Decision) {
	if c.Unlimited = x.Unlimited; x.Counted && !x.Unlimited {
		c.Limit = &usher.Quantity{Units: x.Limit, Precision: x.Precision}
	}
}

// wait finds the first instant at which time alone makes the answer a yes.
func (a *adviser) wait(load func(*World, time.Time) *Snapshot) (c change, ok bool) {
	was := a.d
	at := a.d.ValidUntil
	for range maxWaits {
		if at.IsZero() {
			return c, false
		}
		s := load(a.w, at)
		if s == nil {
			return c, false
		}
		x := Decide(s, a.q, at)
		if x.Allowed {
			c.Kind, c.At, c.What, c.size = usher.AdviceWait, at, "what is held becomes free again", itself
			switch {
			case !was.Counted || !isAmount(was.Reason):
				c.What = "the feature becomes available"
			case was.Reason == usher.CapReached:
				c.What = "the cap lets it through again"
			case was.Window != nil && x.Window != nil && *was.Window != *x.Window:
				c.What = "a new window begins"
			case x.Limit > was.Limit || x.Unlimited:
				c.What = "the limit rises"
			}
			c.limit(&x)
			return c, true
		}
		at = x.ValidUntil
	}
	return c, false
}

// isAmount reports whether a refusal says that too little is left.
func isAmount(r usher.Reason) bool {
	switch r {
	case usher.CapReached, usher.InsufficientCredits, usher.SeatLimitReached, usher.LimitReached:
		return true
	}
	return false
}

// changes lists what could be done about the answer. Not all of it would help.
func (a *adviser) changes() (out []change) {
	statuses := a.statuses()
	if a.d.Reason == usher.ReasonSuspended {
		return statuses
	}
	out = append(out, statuses...)
	out = append(out, a.seats()...)
	out = append(out, a.removals()...)
	out = append(out, a.addons()...)
	out = append(out, a.plans()...)
	out = append(out, a.grants()...)
	return append(out, a.overrides()...)
}

// state returns the state of a subscription now.
func (a *adviser) state(s *usher.Subscription) State {
	return a.f.Book.StateAt(s, a.at, FirstStart(a.f.Subscriptions, s.Family), a.w.zone)
}

// with returns the facts with one subscription replaced.
func (a *adviser) with(i int, s usher.Subscription) Facts {
	f := a.f
	f.Subscriptions = slices.Clone(f.Subscriptions)
	f.Subscriptions[i] = s
	return f
}

// from returns a subscription with a change from now on. Changes of the same fields
// that were to come are dropped, as a change that is made drops them.
func (a *adviser) from(s usher.Subscription, p usher.Phase) usher.Subscription {
	p.At = a.at
	var phases []usher.Phase
	for _, was := range s.Phases {
		if !was.At.Before(a.at) {
			if p.Plan != nil {
				was.Plan = nil
			}
			if p.Addons != nil {
				was.Addons = nil
			}
			if p.Status != "" {
				was.Status = ""
			}
		}
		phases = append(phases, was)
	}
	s.Phases = append(phases, p)
	slices.SortStableFunc(s.Phases, func(x, y usher.Phase) int { return x.At.Compare(y.At) })
	return s
}

// statuses are subscriptions that give nothing and would if they were active.
func (a *adviser) statuses() (out []change) {
	for i := range a.f.Subscriptions {
		s := a.f.Subscriptions[i]
		st := a.state(&s)
		if st.Live || st.Dead == usher.NotStarted || a.replaced(i) {
			continue
		}
		if s.EndsAt != nil && !s.EndsAt.After(a.at) {
			s.EndsAt = nil
		}
		out = append(out, change{WhatWouldChange: usher.WhatWouldChange{Kind: usher.AdviceStatus, Target: s.ID,
			What: "set the subscription's status to active"}, facts: a.with(i, a.from(s, usher.Phase{Status: usher.Active})), size: takenBack})
	}
	return out
}

// replaced reports whether another subscription of the family holds its place, so that
// this one cannot come back.
func (a *adviser) replaced(i int) bool {
	s := &a.f.Subscriptions[i]
	for k := range a.f.Subscriptions {
		o := &a.f.Subscriptions[k]
		if k != i && o.Family == s.Family && (a.state(o).Holds || o.StartsAt.After(a.at) && (o.EndsAt == nil || o.EndsAt.After(o.StartsAt))) {
			return true
		}
	}
	return false
}

// seats is to free as many seats as are missing.
func (a *adviser) seats() (out []change) {
	n := a.q.Amount - a.d.Remaining
	if a.d.Reason != usher.SeatLimitReached || n <= 0 {
		return nil
	}
	n += a.d.Excess + a.d.Overage
	if n > a.d.Used {
		return nil
	}
	what := "free a seat"
	if n > 1 {
		what = fmt.Sprintf("free %d seats", n)
	}
	return []change{{WhatWouldChange: usher.WhatWouldChange{Kind: usher.AdviceSeat, What: what, Target: a.q.Feature}, facts: a.f, frees: n,
		size: takenBack}}
}

// removals are to remove one of the overrides that are in force.
func (a *adviser) removals() (out []change) {
	for i := range a.f.Overrides {
		o := &a.f.Overrides[i]
		if o.Feature != a.q.Feature || o.CreatedAt.After(a.at) || o.ExpiresAt != nil && !o.ExpiresAt.After(a.at) {
			continue
		}
		what := "remove the override that lowers it"
		if o.Deny || o.Set != nil && o.Set.On != nil && !*o.Set.On {
			what = "remove the override that denies it"
		}
		f := a.f
		f.Overrides = slices.Delete(slices.Clone(f.Overrides), i, i+1)
		out = append(out, change{WhatWouldChange: usher.WhatWouldChange{Kind: usher.AdviceOverride, What: what, Target: o.ID}, facts: f,
			size: takenBack})
	}
	return out
}

// addons are to add an add-on that the customer does not have to its newest
// subscription that is live.
func (a *adviser) addons() (out []change) {
	into := -1
	held := map[string]bool{}
	var has []usher.HeldAddon
	for i := range a.f.Subscriptions {
		s := &a.f.Subscriptions[i]
		st := a.state(s)
		if !st.Live || !st.Holds {
			continue
		}
		for _, x := range st.Addons {
			held[x.Addon.Key] = true
		}
		if into < 0 || !s.StartsAt.Before(a.f.Subscriptions[into].StartsAt) {
			into, has = i, st.Addons
		}
	}
	if into < 0 {
		return nil
	}
	for _, key := range sortedKeys(a.f.Book.newAddon) {
		ref := a.f.Book.newAddon[key]
		if ents := a.f.Book.addons[ref].Entitlements; held[key] || !a.concerns(ents) {
			continue
		}
		all := append(slices.Clone(has), usher.HeldAddon{Addon: ref, Quantity: 1})
		out = append(out, change{WhatWouldChange: usher.WhatWouldChange{Kind: usher.AdviceAddon, What: "add the add-on " + key, Target: key},
			facts: a.with(into, a.from(a.f.Subscriptions[into], usher.Phase{Addons: &all})), size: sold})
	}
	return out
}

// plans are to move the subscription of a plan's family to the plan, or to subscribe
// to it.
func (a *adviser) plans() (out []change) {
	held := map[string]bool{}
	for _, s := range a.w.eraAt(a.at.UnixMicro()).held {
		for i := range s.held {
			held[s.held[i].ref.Key] = held[s.held[i].ref.Key] || s.held[i].kind == fromPlan
		}
	}
	for _, key := range sortedKeys(a.f.Book.newest) {
		v := a.f.Book.plans[a.f.Book.newest[key]]
		if held[key] || !a.concerns(v.Entitlements) {
			continue
		}
		c := change{WhatWouldChange: usher.WhatWouldChange{Kind: usher.AdvicePlan, What: "move to the plan " + key, Target: key}, size: sold}
		plan := usher.Phase{Plan: &usher.HeldPlan{Ref: v.Ref()}}
		i := slices.IndexFunc(a.f.Subscriptions, func(s usher.Subscription) bool { return s.Family == v.Family && a.state(&s).Holds })
		if i >= 0 {
			c.facts = a.with(i, a.from(a.f.Subscriptions[i], plan))
		} else {
			plan.At, plan.Addons = a.at, &[]usher.HeldAddon{}
			c.What, c.facts = "subscribe to the plan "+key, a.f
			c.facts.Subscriptions = append(slices.Clip(a.f.Subscriptions), usher.Subscription{ID: "sub_new", Customer: a.q.Customer,
				Family: v.Family, StartsAt: a.at, CreatedAt: a.at, Phases: []usher.Phase{plan}})
		}
		out = append(out, c)
	}
	return out
}

// concerns reports whether entitlements have to do with the feature, or with the pool
// that it draws on.
func (a *adviser) concerns(ents map[string]*usher.Entitlement) bool {
	return ents[a.q.Feature] != nil || a.def.Draws != nil && ents[a.def.Draws.Credits] != nil
}

// short returns how much more there must be for the amount, overage included.
func (a *adviser) short() int64 {
	n := a.q.Amount - a.d.Remaining
	if a.d.OveragePermitted {
		n -= min(max(n, 0), a.d.OverageLeft)
	}
	return n
}

// grants are to grant what is missing: of the feature, or of the credits that it draws
// on.
func (a *adviser) grants() (out []change) {
	n := a.short()
	if n <= 0 || a.def.Kind != usher.Metered && a.def.Kind != usher.Credits || a.f.Book.Gauge(a.def) {
		return nil
	}
	if d := a.def.Draws; d != nil && isAmount(a.d.Reason) {
		out = append(out, a.grant(a.f.Book.Features[d.Credits], satMul(d.Rate, n)))
	}
	return append(out, a.grant(a.def, n))
}

func (a *adviser) grant(f *usher.Feature, n int64) change {
	c := change{facts: a.f, size: granted, WhatWouldChange: usher.WhatWouldChange{Kind: usher.AdviceGrant, Target: f.Key,
		What: "grant " + a.w.amount(a.w.feature(f.Key), n) + " of " + f.Key}}
	c.facts.Grants = append(slices.Clip(a.f.Grants), usher.Grant{ID: "gr_new", Customer: a.q.Customer, Feature: f.Key, Amount: n,
		Kind: usher.Promotion, Priority: usher.DefaultPriority, EffectiveAt: a.at, CreatedAt: a.at})
	return c
}

// overrides are to make an override that gives what is missing. Of a config only a
// person knows which value is wanted.
func (a *adviser) overrides() []change {
	o := usher.Override{ID: "ovr_new", Customer: a.q.Customer, Feature: a.q.Feature, CreatedAt: a.at}
	f := a.w.feature(a.q.Feature)
	what := ""
	switch n := satAdd(a.short(), a.d.Excess); {
	case a.def.Kind == usher.Switch:
		on := true
		o.Set, what = &usher.OverrideSet{On: &on}, "make an override that sets it on"
	case !a.def.Kind.Counts() || n <= 0:
		return nil
	case isAmount(a.d.Reason):
		what = "make an override that adds " + a.w.amount(f, n)
		if x, _ := f.exceptionAt(a.at.UnixMicro()); x.add != nil { // a new one of the same form replaces it
			n = satAdd(n, *x.add.Add)
			what = "make an override that adds "
			if n < 0 {
				what = "make an override that lowers it by "
			}
			what += a.w.amount(f, max(n, lower(min(n, 0)))) + " in place of override:" + x.add.ID
		}
		o.Add = &n
	default:
		per := usher.Period{Every: 1, Unit: usher.Lifetime}
		o.Set, what = &usher.OverrideSet{Limit: &n, Per: &per}, "make an override that gives "+a.w.amount(f, n)
	}
	c := change{facts: a.f, size: exceptional, WhatWouldChange: usher.WhatWouldChange{Kind: usher.AdviceOverride, What: what,
		Target: a.q.Feature}}
	c.facts.Overrides = append(slices.Clip(a.f.Overrides), o)
	return []change{c}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
