package engine

import (
	"cmp"
	"slices"
	"time"

	"github.com/usher-sh/usher"
)

// slot is one allowance or grant of a feature at an instant, or what one of them
// rolled over: an amount that use can burn.
type slot struct {
	id        string // "plan:pro@1", "grant:gr_…", "rollover:plan:pro@1"
	clock     string // of the bucket that counts it; "" until clocked, except of a grant
	kind      sourceKind
	unlimited bool
	limit     int64 // smallest units, not negative; 0 if unlimited
	overage   usher.Overage
	rollover  *usher.Rollover // nil: what is left at the window's end is lost
	per       usher.Period
	anchor    usher.Anchor
	priority  int   // 0 to 255; the lower burns first
	paid      bool  // it was bought: burns after what was free
	rolled    bool  // it was rolled over: burns before the fresh amount of its clock (S21)
	began     int64 // when its source began to be held
	start     int64 // of its window
	end       int64 // of its window; 0 for a window that begins with its first use
	onChange  usher.OnChange
	into      string // clock of the bucket for what it leaves (S21); set by clocked
}

// rules is what the sources in force say about one feature, before windows and
// use come in. It holds over [from, until).
type rules struct {
	from, until int64
	dead        usher.Reason // why no source gives the feature; "" if one does
	plan        usher.Ref    // zero unless exactly one plan gives it
	plans       int          // how many plans give it
	sources     []string     // the ids of all sources that are used, in the order in which they apply
	on          bool         // of a switch
	value       *usher.Value // of a config
	rule        usher.Combine
	slots       []slot    // of a feature that counts
	caps        []capRule // all of them apply (S04)
	draws       bool      // entitled by drawing on credits alone
	mode        usher.Mode
	fail        usher.Fail // "" if nothing says it
}

// capRule is a cap and the source that sets it.
type capRule struct {
	id  string
	cap usher.Cap
}

// given is one live source's entitlement.
type given struct {
	*holding
	ent *usher.Entitlement
}

// exception holds the overrides that count for a feature at an instant: in each
// form the latest wins (S03). nil means that there is none of the form.
type exception struct{ set, add, deny *usher.Override }

// exceptionAt returns the overrides that count at an instant, and the span
// around it in which the same ones do.
func (f *feature) exceptionAt(at int64) (x exception, s span) {
	pick := func(turns []turn) *usher.Override {
		i, t := turnAt(turns, at)
		s = span{max(s.start, t.start), min(s.end, t.end)}
		if i < 0 {
			return nil
		}
		return f.overrides[i]
	}
	s = span{minMicro, maxMicro}
	return exception{pick(f.set), pick(f.add), pick(f.deny)}, s
}

// liveAt appends to live what an era's plans and add-ons give of a feature,
// weakest first: plans before add-ons, then by the time since when they are held
// (S04). The id makes the order total.
func (w *World) liveAt(f *feature, e *era, live []given) []given {
	for _, s := range e.held {
		for i := range s.held {
			if h := &s.held[i]; h.dead == "" {
				if ent := h.ents[f.def.Key]; ent != nil {
					live = append(live, given{h, ent})
				}
			}
		}
	}
	slices.SortStableFunc(live, func(x, y given) int {
		if x.kind != y.kind {
			return int(x.kind) - int(y.kind)
		}
		if x.began != y.began {
			return cmp.Compare(x.began, y.began)
		}
		return cmp.Compare(x.id, y.id)
	})
	return live
}

// rulesAt evaluates all sources of one feature at an instant (S03, S04, S05). It
// always starts from the sources and never subtracts what was removed from what
// was there before. It reads every grant, so it runs once for each frame; see
// termsAt.
func (w *World) rulesAt(f *feature, at int64, tr *trace) rules {
	e := w.eraAt(at)
	x, during := f.exceptionAt(at)
	r := rules{from: max(e.from, during.start), until: min(e.until, during.end)}
	live := w.liveAt(f, e, nil)
	w.traceDead(f, e, at, tr)
	w.traceOverrides(f, x, at, tr)
	if x.deny != nil { // it beats every source, also grants
		w.ruleDenied(f, &r, live, x, tr)
		return r
	}
	w.ruleLive(f, &r, live, x, w.grantsAt(f, &r, at, tr), tr)
	if r.dead == usher.NotEntitled {
		r.dead = w.whyNot(f, e, at)
	}
	return r
}

// termsAt evaluates the plans, add-ons and overrides of one feature at an instant,
// and no grants, whose number has no bound. Code that asks about many instants
// reads this instead of rulesAt.
func (w *World) termsAt(f *feature, at int64) (r rules) {
	x, _ := f.exceptionAt(at)
	if x.deny != nil {
		r.dead = usher.Revoked
		return r
	}
	w.ruleLive(f, &r, w.liveAt(f, w.eraAt(at), nil), x, nil, nil)
	return r
}

// deadAt returns the dead of rulesAt without reading every grant.
func (w *World) deadAt(f *feature, at int64) usher.Reason {
	r := w.termsAt(f, at)
	if r.dead != usher.NotEntitled {
		return r.dead
	}
	if i, _ := turnAt(f.granted, at); i >= 0 && f.def.Kind.Counts() {
		return ""
	}
	return w.whyNot(f, w.eraAt(at), at)
}

// whyNot returns the reason why no source gives a feature (S37). The most helpful
// answer is a plan or add-on that the customer has and that gives nothing now ("your
// trial has ended"); of several, the first in the order of usher.Reasons. A grant that
// has not begun comes second.
func (w *World) whyNot(f *feature, e *era, at int64) usher.Reason {
	var why usher.Reason
	w.dead(e, at, func(h *holding) {
		if h.ents[f.def.Key] != nil && (why == "" || order(h.dead) < order(why)) {
			why = h.dead
		}
	})
	switch {
	case why != "":
		return why
	case at < f.granting:
		return usher.NotStarted
	}
	return usher.NotEntitled
}

// traceDead records the plans and add-ons that the customer has and that give
// nothing.
func (w *World) traceDead(f *feature, e *era, at int64, tr *trace) {
	if tr == nil {
		return
	}
	w.dead(e, at, func(h *holding) {
		if ent := h.ents[f.def.Key]; ent != nil {
			tr.holding(w, f, h, ent, h.times, false, "gives nothing: "+string(h.dead))
		}
	})
}

// traceOverrides records the overrides that have expired, then the live ones that
// a later one replaces. Those that count are recorded where they are applied.
func (w *World) traceOverrides(f *feature, x exception, at int64, tr *trace) {
	if tr == nil {
		return
	}
	for _, o := range f.overrides {
		if at >= o.CreatedAt.UnixMicro() && at >= micro(o.ExpiresAt, maxMicro) {
			tr.override(w, f, o, false, "expired")
		}
	}
	for _, o := range f.overrides {
		if at >= o.CreatedAt.UnixMicro() && at < micro(o.ExpiresAt, maxMicro) && o != x.set && o != x.add && o != x.deny {
			tr.override(w, f, o, false, "a later override of the same form replaces it")
		}
	}
}

// ruleDenied sets the rules of a feature that an override denies.
func (w *World) ruleDenied(f *feature, r *rules, live []given, x exception, tr *trace) {
	r.dead, r.mode, r.fail = usher.Revoked, cmp.Or(f.def.Mode, usher.Enforce), f.def.Fail
	if tr == nil {
		return
	}
	for _, g := range live {
		tr.holding(w, f, g.holding, g.ent, g.times, false, "denied by override:"+x.deny.ID)
	}
	for _, o := range []*usher.Override{x.set, x.add} {
		if o != nil {
			tr.override(w, f, o, false, "denied by override:"+x.deny.ID)
		}
	}
	tr.override(w, f, x.deny, true, x.deny.Reason)
}

// grantsAt returns the grants in force, by id, and narrows r to the span in which
// these and no others are. A grant ends when it expires or is voided, whichever is
// first; one that is voided before it begins is never in force.
func (w *World) grantsAt(f *feature, r *rules, at int64, tr *trace) []*usher.Grant {
	var grants []*usher.Grant
	narrow := func(from, until int64) {
		r.from, r.until = max(r.from, from), min(r.until, until)
	}
	for _, g := range f.grants {
		from, until := g.EffectiveAt.UnixMicro(), grantEnd(g)
		switch {
		case at < from && at < until:
			narrow(minMicro, min(from, until))
			if tr != nil {
				tr.grant(w, f, g, false, "begins "+stamp(from))
			}
		case at >= until:
			narrow(until, maxMicro)
			if tr != nil {
				why := "expired " + stamp(until)
				if g.VoidedAt != nil && g.VoidedAt.UnixMicro() == until {
					why = "voided " + stamp(until)
				}
				tr.grant(w, f, g, false, why)
			}
		default:
			narrow(from, until)
			grants = append(grants, g)
		}
	}
	return grants
}

// ruleLive evaluates what is in force when no override denies. Where several
// sources give a feature, the strictest mode and the strictest fail policy count
// (S04), unless an override sets them.
func (w *World) ruleLive(f *feature, r *rules, live []given, x exception, grants []*usher.Grant, tr *trace) {
	set, add := x.set, x.add
	r.mode, r.fail = usher.Shadow, usher.FailOpen // the mildest; each source can only make them stricter
	said := false                                 // something names a fail policy
	strictest := func(m usher.Mode, fl usher.Fail) {
		if m == "" {
			m = f.def.Mode
		}
		if fl == "" {
			fl = f.def.Fail
		}
		if m == "" || m == usher.Enforce {
			r.mode = usher.Enforce
		} else if m == usher.Warn && r.mode == usher.Shadow {
			r.mode = usher.Warn
		}
		said = said || fl != ""
		if fl != usher.FailOpen {
			r.fail = usher.FailClosed
		}
	}
	for _, g := range live {
		strictest(g.ent.Mode, g.ent.Fail)
		if g.kind == fromPlan {
			r.plans++
			r.plan = g.ref
		}
	}
	if r.plans != 1 {
		r.plan = usher.Ref{}
	}
	if len(live) == 0 { // grants and overrides alone: the feature's own
		strictest("", "")
	}
	if set != nil && set.Set.Mode != "" {
		r.mode = set.Set.Mode
	}
	if !said {
		r.fail = ""
	}
	if set != nil && set.Set.Fail != "" {
		r.fail = set.Set.Fail
	}
	switch f.def.Kind {
	case usher.Switch:
		w.ruleSwitch(f, r, live, set, tr)
	case usher.Config:
		w.ruleConfig(f, r, live, set, add, tr)
	default:
		w.ruleAmounts(f, r, live, set, add, grants, tr)
	}
}

// ruleSwitch decides a switch: on if any source gives it. An override that sets it
// decides alone, in both directions (S03).
func (w *World) ruleSwitch(f *feature, r *rules, live []given, set *usher.Override, tr *trace) {
	r.rule = usher.CombineMax // off is less than on
	if set != nil && set.Set.On != nil {
		for _, g := range live {
			tr.holding(w, f, g.holding, g.ent, 1, false, "override:"+set.ID+" decides")
		}
		tr.override(w, f, set, true, set.Reason)
		r.rule, r.sources, r.on = usher.CombineOverride, []string{"override:" + set.ID}, *set.Set.On
		if !r.on {
			r.dead = usher.Revoked
		}
		return
	}
	for _, g := range live {
		tr.holding(w, f, g.holding, g.ent, 1, g.ent.On, "")
		if g.ent.On {
			r.on = true
			r.sources = append(r.sources, g.id)
		}
	}
	if !r.on {
		r.dead = usher.NotEntitled
	}
}

// ruleConfig combines a config's values by the feature's rule (S04). An override
// that sets the value replaces them all; an add then applies to the result, if it
// is a number.
func (w *World) ruleConfig(f *feature, r *rules, live []given, set, add *usher.Override, tr *trace) {
	r.rule = f.def.Combine
	var v *usher.Value
	if set != nil && set.Set.Value != nil {
		for _, g := range live {
			tr.holding(w, f, g.holding, g.ent, 1, false, "override:"+set.ID+" decides")
		}
		tr.override(w, f, set, true, set.Reason)
		r.rule, r.sources, v = usher.CombineOverride, []string{"override:" + set.ID}, set.Set.Value
	} else {
		for i, g := range live {
			val := g.ent.Value
			if val == nil {
				continue
			}
			times := int64(1)
			if r.rule == usher.CombineSum { // only a sum knows how many instances there are
				times = g.times
			}
			used := true
			if v == nil {
				v = scale(val, times)
			} else {
				v = combine(f.def, r.rule, v, scale(val, times))
			}
			if r.rule == usher.CombineOverride { // the last one wins: live is ordered weakest first
				used = i == len(live)-1
				if used {
					r.sources = r.sources[:0]
				}
			}
			if used {
				r.sources = append(r.sources, g.id)
			}
			tr.holding(w, f, g.holding, g.ent, times, used, "")
		}
	}
	if v == nil {
		r.dead = usher.NotEntitled
		if add != nil {
			tr.override(w, f, add, false, "nothing live to add to")
		}
		return
	}
	if add != nil && (f.def.Type == usher.TypeInteger || f.def.Type == usher.TypeDecimal) {
		v = &usher.Value{Int: satAdd(v.Int, *add.Add)}
		r.sources = append(slices.Clip(r.sources), "override:"+add.ID)
		tr.override(w, f, add, true, add.Reason)
	}
	r.value = v
}

// ruleAmounts lists the slots and caps of a feature that counts. Allowances add
// up, each in a slot of its own, and all caps apply (S04). Overrides apply in the
// order set, add (S03); grants come last, because no override changes a grant.
func (w *World) ruleAmounts(f *feature, r *rules, live []given, set, add *usher.Override, grants []*usher.Grant, tr *trace) {
	r.rule = usher.CombineSum
	onChange := func(ent *usher.Entitlement) usher.OnChange {
		if ent.OnChange != "" {
			return ent.OnChange
		}
		return f.def.OnChange
	}
	var setLimit bool
	if set != nil {
		setLimit = set.Set.Limit != nil || set.Set.Unlimited
	}
	entitled := set != nil && setLimit
	for _, g := range live {
		entitled = true
		if len(g.ent.Allowances) == 0 && f.def.Draws != nil {
			r.draws = true
		}
		if (!setLimit || len(g.ent.Allowances) == 0) && !slices.Contains(r.sources, g.id) {
			r.sources = append(r.sources, g.id)
		}
		why := ""
		if setLimit {
			why = "its limit is replaced by override:" + set.ID
		}
		if tr != nil {
			tr.holding(w, f, g.holding, g.ent, g.times, !setLimit, why)
		}
		for _, a := range g.ent.Allowances {
			r.slots = append(r.slots, slot{
				id: g.id, kind: g.kind, unlimited: a.Unlimited, limit: satMul(a.Limit, g.times), overage: times(a.Overage, g.times),
				rollover: timesRollover(a.Rollover, g.times), per: a.Per, anchor: a.Anchor, priority: a.Priority, began: g.began,
				onChange: onChange(g.ent),
			})
		}
		for _, c := range g.ent.Caps {
			r.caps = append(r.caps, capRule{g.id, c})
		}
	}
	if set != nil {
		w.applySet(r, set, setLimit)
		if entitled {
			r.sources = append(r.sources, "override:"+set.ID)
		}
		tr.override(w, f, set, entitled, set.Reason)
	}
	if add != nil {
		used := applyAdd(r.slots, *add.Add)
		why := add.Reason
		if !used {
			why = "there is no limit to add to"
		} else {
			r.sources = append(r.sources, "override:"+add.ID)
		}
		tr.override(w, f, add, used, why)
	}
	r.slots, r.sources = slices.Grow(r.slots, len(grants)), slices.Grow(r.sources, len(grants))
	for _, g := range grants {
		entitled = true
		id := "grant:" + g.ID
		r.sources = append(r.sources, id)
		if tr != nil {
			tr.grant(w, f, g, true, g.Reason)
		}
		r.slots = append(r.slots, slot{id: id, clock: id, kind: fromGrant, limit: g.Amount, priority: g.Priority,
			paid: g.Kind == usher.Purchase, began: g.EffectiveAt.UnixMicro(), end: grantEnd(g)})
	}
	if !entitled {
		r.dead = usher.NotEntitled
	}
}

// applySet applies an override's set (S03). A limit, or unlimited, replaces the
// allowances of all plans and add-ons by one slot. Each other field that the
// override names is changed in every slot; what it does not name stays.
func (w *World) applySet(r *rules, o *usher.Override, setLimit bool) {
	s := o.Set
	if setLimit {
		base := slot{per: usher.Period{Every: 1, Unit: usher.Lifetime}, priority: usher.DefaultPriority}
		if len(r.slots) > 0 { // period, anchor and the rest come from the plan, which is first
			base = r.slots[0]
		}
		base.id, base.kind, base.began = "override:"+o.ID, fromOverride, o.CreatedAt.UnixMicro()
		base.unlimited, base.limit = s.Unlimited, 0
		if s.Limit != nil {
			base.limit = *s.Limit
		}
		r.slots = []slot{base}
	}
	for i := range r.slots {
		p := &r.slots[i]
		if s.Per != nil {
			p.per = *s.Per
		}
		if s.Anchor != "" {
			p.anchor = s.Anchor
		}
		if s.Priority != nil {
			p.priority = *s.Priority
		}
		if s.Overage != nil { // once in all, not once for each slot
			if p.overage = *s.Overage; i > 0 {
				p.overage.Max = 0
			}
		}
		if s.Rollover != nil {
			p.rollover = s.Rollover
		}
	}
	if s.Caps != nil {
		r.caps = nil
		for _, c := range *s.Caps {
			r.caps = append(r.caps, capRule{"override:" + o.ID, c})
		}
	}
}

// clockName returns the name under which an allowance's buckets are kept. It is
// the same for every allowance with the same period and anchor, whatever plan it
// is from, so that a plan change finds the use again (S18, S34). The README lists
// all forms.
func clockName(p usher.Period, a usher.Anchor) string {
	if a == "" || a == usher.AnchorSubscription || p.Unit == usher.Lifetime {
		return p.String()
	}
	return p.String() + "/" + string(a)
}

// grantEnd returns the instant at which a grant ends: it expires, or is voided.
func grantEnd(g *usher.Grant) int64 {
	return min(micro(g.ExpiresAt, maxMicro), micro(g.VoidedAt, maxMicro))
}

// order returns a reason's place in the precedence of S37. Of several reasons, the
// answer has the lowest.
func order(r usher.Reason) int { return slices.Index(usher.Reasons, r) }

// stamp formats an instant for a text.
func stamp(at int64) string { return time.UnixMicro(at).UTC().Format(time.RFC3339Nano) }
