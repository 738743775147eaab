package engine

import (
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// Explain answers q and says why. It evaluates the same rules as Decide, and records
// every source that it considered (S04). Advise says what would change the answer.
func Explain(s *Snapshot, q Query, at time.Time) usher.Explanation {
	q.Buf = new(Buf)
	x := usher.Explanation{Decision: Decide(s, q, at), Considered: []usher.SourceTrace{}, Changes: []usher.WhatWouldChange{}}
	w := s.World
	f := w.feature(q.Feature)
	if w.customer == nil || f == nil {
		return x
	}
	tr := &trace{at: at.UnixMicro()}
	fr := w.buildFrame(f, tr.at, tr)
	x.Considered = append(x.Considered, tr.considered...)
	x.Combined = fr.rule
	if f.def.Kind.Counts() {
		x.Allowances, x.Caps = listRows(nil, fr, q.Buf.rows), listCaps(nil, fr, q.Buf.caps)
	}
	return x
}

// trace records every source that an evaluation looked at; nil records nothing.
// It is the only difference between deciding and explaining, so an explanation
// cannot give other reasons than those that decided.
type trace struct {
	at         int64 // the instant that is evaluated
	considered []usher.SourceTrace
}

// holding records a plan or an add-on, n times: what it gives, from when until when,
// whether that is used, and why.
func (t *trace) holding(w *World, f *feature, h *holding, ent *usher.Entitlement, n int64, used bool, why string) {
	if t == nil {
		return
	}
	x := usher.SourceTrace{ID: h.id, Kind: "plan", Ref: h.ref.String(), Gives: w.describe(f, ent, n), Used: used, Why: why}
	if h.kind == fromAddon {
		x.Kind, x.Quantity = "addon", h.times
	}
	if h.began > 0 {
		x.From = instant(h.began)
	}
	if i := w.subscriptionOf(h, t.at); i >= 0 {
		x.Subscription = w.subs[i][0].id
		x.Until = instant(w.heldUntil(i, h, t.at))
	}
	if len(ent.Allowances) == 1 {
		a := &ent.Allowances[0]
		if !a.Unlimited {
			x.Amount = &usher.Quantity{Units: satMul(a.Limit, n), Precision: f.def.Precision}
		}
		x.Per = length(a.Per)
	}
	t.considered = append(t.considered, x)
}

// override records an override.
func (t *trace) override(w *World, f *feature, o *usher.Override, used bool, why string) {
	if t == nil {
		return
	}
	x := usher.SourceTrace{ID: "override:" + o.ID, Kind: "override", Ref: o.ID, Gives: w.describeOverride(f, o), Used: used, Why: why,
		From: o.CreatedAt.UTC()}
	if o.ExpiresAt != nil {
		x.Until = o.ExpiresAt.UTC()
	}
	switch {
	case o.Add != nil:
		x.Amount = &usher.Quantity{Units: *o.Add, Precision: f.def.Precision}
	case o.Set != nil && o.Set.Limit != nil:
		x.Amount = &usher.Quantity{Units: *o.Set.Limit, Precision: f.def.Precision}
		if o.Set.Per != nil {
			x.Per = length(*o.Set.Per)
		}
	}
	t.considered = append(t.considered, x)
}

// grant records a grant.
func (t *trace) grant(w *World, f *feature, g *usher.Grant, used bool, why string) {
	if t == nil {
		return
	}
	t.considered = append(t.considered, usher.SourceTrace{ID: "grant:" + g.ID, Kind: "grant", Ref: g.ID,
		Gives: w.amount(f, g.Amount) + " once", Used: used, Why: why, From: g.EffectiveAt.UTC(), Until: instant(grantEnd(g)),
		Amount: &usher.Quantity{Units: g.Amount, Precision: f.def.Precision}})
}

// length returns a window's length for an answer; nil if the amount never renews.
func length(p usher.Period) *usher.Length {
	if p.Unit == usher.Lifetime {
		return nil
	}
	l := usher.Length(p)
	return &l
}

// subscriptionOf returns the index of the subscription that has a holding at an
// instant, -1 if it is a default plan.
func (w *World) subscriptionOf(h *holding, at int64) int {
	return slices.IndexFunc(w.subs, func(list []stay) bool {
		return slices.ContainsFunc(stayAt(list, at).held, func(o holding) bool {
			return o.id == h.id && o.began == h.began && o.dead == h.dead
		})
	})
}

// heldUntil returns when a subscription stops having what it has at an instant, or
// having it in the same state; maxMicro is never.
func (w *World) heldUntil(sub int, h *holding, at int64) int64 {
	for _, s := range w.subs[sub] {
		same := func(o holding) bool { return o.id == h.id && o.dead == h.dead && o.times == h.times }
		if s.start > at && !slices.ContainsFunc(s.held, same) {
			return s.start
		}
	}
	return maxMicro
}

// amount writes a quantity with its unit: "1000 calls".
func (w *World) amount(f *feature, n int64) string {
	s := usher.FormatQuantity(n, f.def.Precision)
	if f.def.Unit != "" {
		s += " " + f.def.Unit
	}
	return s
}

// describe writes what an entitlement gives, n times.
func (w *World) describe(f *feature, ent *usher.Entitlement, n int64) string {
	switch f.def.Kind {
	case usher.Switch:
		if ent.On {
			return "on"
		}
		return "off"
	case usher.Config:
		if ent.Value == nil {
			return "nothing"
		}
		return w.value(f, ent.Value)
	}
	var parts []string
	for _, a := range ent.Allowances {
		p := "unlimited"
		if !a.Unlimited {
			p = w.amount(f, satMul(a.Limit, n))
		}
		if a.Per.Unit != usher.Lifetime {
			p += " per " + a.Per.String()
		}
		switch {
		case a.Overage.Unlimited:
			p += ", then unlimited overage"
		case a.Overage.Max > 0:
			p += ", then " + w.amount(f, satMul(a.Overage.Max, n)) + " overage"
		}
		parts = append(parts, p)
	}
	for _, c := range ent.Caps {
		parts = append(parts, "at most "+w.amount(f, c.Limit)+" per "+c.Per.String())
	}
	if len(parts) == 0 && f.def.Draws != nil {
		parts = append(parts, "draws on "+f.def.Draws.Credits)
	}
	return strings.Join(parts, "; ")
}

// describeOverride writes what an override does.
func (w *World) describeOverride(f *feature, o *usher.Override) string {
	switch {
	case o.Deny:
		return "deny"
	case o.Add != nil:
		if *o.Add < 0 {
			return "lower by " + w.amount(f, -*o.Add)
		}
		return "add " + w.amount(f, *o.Add)
	case o.Set == nil:
		return "nothing"
	}
	s := o.Set
	switch {
	case s.On != nil && *s.On:
		return "set on"
	case s.On != nil:
		return "set off"
	case s.Value != nil:
		return "set " + w.value(f, s.Value)
	case s.Unlimited:
		return "set unlimited"
	case s.Limit != nil && s.Per != nil && s.Per.Unit != usher.Lifetime:
		return "set " + w.amount(f, *s.Limit) + " per " + s.Per.String()
	case s.Limit != nil:
		return "set " + w.amount(f, *s.Limit)
	}
	return "set terms"
}

// value writes a config's value.
func (w *World) value(f *feature, v *usher.Value) string {
	switch f.def.Type {
	case usher.TypeInteger, usher.TypeDecimal:
		return w.amount(f, v.Int)
	case usher.TypeList:
		return "[" + strings.Join(v.List, ", ") + "]"
	}
	return v.Text
}
