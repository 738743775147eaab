package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// Explain answers q and says why. It evaluates the same rules as Decide, and records
// every source that it considered (S04) and what would change the answer.
func Explain(s *Snapshot, q Query, at time.Time) usher.Explanation {
	q.Buf = new(Buf)
	x := usher.Explanation{Decision: Decide(s, q, at), Considered: []usher.SourceTrace{}, Changes: []usher.WhatWouldChange{}}
	w := s.World
	f := w.features[q.Feature]
	if w.customer == nil || f == nil {
		what := "create the customer"
		if w.customer != nil {
			what = "add the feature to the catalogue"
		}
		x.Changes = append(x.Changes, usher.WhatWouldChange{What: what})
		return x
	}
	now := at.UnixMicro()
	tr := &trace{}
	fr := w.buildFrame(f, now, tr)
	x.Considered = append(x.Considered, tr.considered...)
	x.Combined = fr.rule
	buf := q.Buf
	if f.def.Kind.Counts() {
		x.Allowances, x.Caps = listRows(nil, fr, buf.rows), listCaps(nil, fr, buf.caps)
	}
	x.Changes = append(x.Changes, w.changesFor(s, f, fr, &x, q.Amount, now)...)
	return x
}

// changesFor returns what would turn a "no" into a "yes" or a "yes" into a "no": first
// what happens by itself, then what an operator could do.
func (w *World) changesFor(s *Snapshot, f *feature, fr *frame, x *usher.Explanation, amount, at int64) []usher.WhatWouldChange {
	var out []usher.WhatWouldChange
	d := &x.Decision
	when := func(t int64, format string, args ...any) {
		out = append(out, usher.WhatWouldChange{What: fmt.Sprintf(format, args...), At: stamp(t)})
	}
	// What happens by itself: a source begins or ends, a window ends.
	for _, t := range w.changesIn(at, maxMicro) {
		if len(out) == 3 {
			break
		}
		if then := w.deadAt(f, t); then != fr.dead {
			if then == "" {
				when(t, "the feature becomes available")
			} else {
				when(t, "the feature ends: %s", then)
			}
			break
		}
	}
	if d.Counted && fr.dead == "" {
		switch d.Reason {
		case usher.CapReached:
			for i := range x.Caps {
				if c := &x.Caps[i]; c.Remaining < amount && !c.Window.End.IsZero() {
					when(c.Window.End.UnixMicro(), "a new %s begins for the cap of %s", c.Per, w.amount(f, c.Limit))
				}
			}
		case usher.LimitReached, usher.InsufficientCredits, usher.ReasonOverage, usher.Warned, usher.Shadowed:
			if d.Window != nil {
				when(d.Window.End.UnixMicro(), "a new window begins")
			}
		}
		if !d.Allowed && d.Remaining > 0 && d.Remaining < amount {
			out = append(out, usher.WhatWouldChange{What: "ask for at most " + w.amount(f, d.Remaining)})
		}
	}
	if d.Allowed {
		return out
	}
	// What an operator could do.
	var plans, addons []string
	for key, ref := range w.book.newest {
		ent := w.book.plans[ref].Entitlements[f.def.Key]
		if ent != nil && ref != fr.plan && w.better(f, ent, fr) {
			plans = append(plans, key)
		}
	}
	for key, ref := range w.book.newAddon {
		if ent := w.book.addons[ref].Entitlements[f.def.Key]; ent != nil && (len(ent.Allowances) > 0 || ent.On || ent.Value != nil) {
			addons = append(addons, key)
		}
	}
	slices.Sort(plans)
	slices.Sort(addons)
	switch d.Reason {
	case usher.Revoked:
		out = append(out, usher.WhatWouldChange{What: "remove the override that denies it"})
		return out
	case usher.ReasonSuspended:
		out = append(out, usher.WhatWouldChange{What: "set the subscription's status to active"})
	case usher.TrialEnded:
		out = append(out, usher.WhatWouldChange{What: "set the subscription's status to active, or move trial_ends_at"})
	}
	if len(plans) > 0 {
		out = append(out, usher.WhatWouldChange{What: "a plan that gives more: " + strings.Join(plans, ", ")})
	}
	if len(addons) > 0 {
		out = append(out, usher.WhatWouldChange{What: "an add-on that gives it: " + strings.Join(addons, ", ")})
	}
	return out
}

// better reports whether a plan's entitlement gives more than holds now.
func (w *World) better(f *feature, ent *usher.Entitlement, fr *frame) bool {
	if !f.def.Kind.Counts() {
		return ent.On || ent.Value != nil
	}
	var have int64
	for i := range fr.rows {
		have = satAdd(have, fr.rows[i].limit)
	}
	if fr.dead != "" {
		have = -1
	}
	var give int64
	for _, a := range ent.Allowances {
		if a.Unlimited {
			return true
		}
		give = satAdd(give, a.Limit)
	}
	return give > have
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
