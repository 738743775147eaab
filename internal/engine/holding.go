package engine

import (
	"cmp"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
)

// Facts is what decides for one customer: the input of NewWorld.
type Facts struct {
	Book          *Book
	Customer      *usher.Customer // nil: unknown (S01)
	Subscriptions []usher.Subscription
	Overrides     []usher.Override
	Grants        []usher.Grant
}

// State is what a subscription is at an instant.
type State struct {
	Status    usher.Status
	Since     time.Time    // when the status began, where it was set; else zero
	Live      bool         // gives its plan's and add-ons' entitlements
	Dead      usher.Reason // why it gives nothing, where it does not
	Holds     bool         // keeps its family from falling to the default plan (S28)
	Plan      usher.Ref    // what it gives, or would give
	Began     time.Time    // when Plan began to be held
	Addons    []usher.HeldAddon
	TrialEnds time.Time // zero: no trial governs
}

// FirstStart returns when the customer's first subscription of a family
// started: trials count from there, once ever (S35). One that was replaced
// before it began has used up no trial, and counts only where no other did.
func FirstStart(subs []usher.Subscription, family string) time.Time {
	var first, never time.Time
	for i := range subs {
		s := &subs[i]
		t := &first
		if s.EndsAt != nil && !s.EndsAt.After(s.StartsAt) {
			t = &never
		}
		if s.Family == family && (t.IsZero() || s.StartsAt.Before(*t)) {
			*t = s.StartsAt
		}
	}
	if first.IsZero() {
		return never
	}
	return first
}

// StateAt is the subscription at t: the fold of its phases, its trial and the
// unpaid policy of its plan (S10, S27, S35). first is FirstStart of its family,
// loc the customer's zone.
func (b *Book) StateAt(s *usher.Subscription, t, first time.Time, loc *time.Location) State {
	var (
		st         State
		status     usher.Status
		trialEnded bool
	)
	// endTrial applies a trial that ends before until while no status is set.
	endTrial := func(until time.Time) {
		if status != "" || st.Began.IsZero() {
			return
		}
		end := b.trialEnd(s, st.Plan, first, loc)
		if !end.IsZero() && (end.After(st.Began) || s.TrialEndsAt != nil) && !end.After(until) {
			trialEnded, st.TrialEnds = true, end
		}
	}
	for _, p := range s.Phases {
		if p.At.After(t) {
			if p.At.Equal(s.StartsAt) || st.Began.IsZero() {
				// Not begun: what it would give is the first phase's.
				if p.Plan != nil {
					st.Plan = p.Plan.Ref
				}
				if p.Addons != nil {
					st.Addons = *p.Addons
				}
			}
			break
		}
		endTrial(p.At)
		if p.Plan != nil && p.Plan.Ref != st.Plan {
			st.Plan, st.Began = p.Plan.Ref, p.At
		}
		if p.Addons != nil {
			st.Addons = *p.Addons
		}
		if p.Status != "" && p.Status != status {
			status, st.Since, trialEnded, st.TrialEnds = p.Status, p.At, false, time.Time{}
		}
	}
	ended := s.EndsAt != nil && !t.Before(*s.EndsAt)
	if ended {
		endTrial(*s.EndsAt)
	} else {
		endTrial(t)
	}
	switch {
	case t.Before(s.StartsAt):
		st.Status, st.Dead = usher.Scheduled, usher.NotStarted
		return st
	case trialEnded: // which comes before subscription_ended (S37)
		st.Status, st.Dead = usher.Ended, usher.TrialEnded
		return st
	case ended:
		st.Status, st.Dead = usher.Ended, usher.SubscriptionEnded
		return st
	}
	switch status {
	case "":
		st.Status, st.Live, st.Holds = usher.Active, true, true
		if end := b.trialEnd(s, st.Plan, first, loc); !end.IsZero() && end.After(t) {
			st.Status, st.TrialEnds = usher.Trialing, end
		}
	case usher.Active:
		st.Status, st.Live, st.Holds = usher.Active, true, true
	case usher.Suspended:
		st.Status, st.Dead, st.Holds = usher.Suspended, usher.ReasonSuspended, true
	case usher.Canceled:
		st.Status, st.Dead = usher.Canceled, usher.SubscriptionEnded
	case usher.PastDueSt:
		st.Status, st.Live, st.Holds = usher.PastDueSt, true, true
		policy := b.pastDue(st.Plan)
		if t.Before(calendar.Add(st.Since, policy.Grace, loc)) {
			break
		}
		switch policy.Then {
		case usher.ThenSuspend:
			st.Live, st.Dead = false, usher.ReasonSuspended
		case usher.ThenDefault:
			st.Live, st.Holds, st.Dead = false, false, usher.ReasonSuspended
		default:
			if p, ok := b.Newest(policy.Then); ok {
				st.Plan, st.Addons = p.Ref(), nil
				st.Began = calendar.Add(st.Since, policy.Grace, loc)
			} else { // no longer sold: what is missing gives nothing (S01)
				st.Live, st.Holds, st.Dead = false, false, usher.ReasonSuspended
			}
		}
	}
	return st
}

func (b *Book) trialEnd(s *usher.Subscription, plan usher.Ref, first time.Time, loc *time.Location) time.Time {
	switch {
	case s.TrialEndsAt != nil:
		return *s.TrialEndsAt
	case s.NoTrial:
		return time.Time{}
	}
	if p := b.plans[plan]; p != nil && p.Trial.N > 0 {
		return calendar.Add(first, p.Trial, loc)
	}
	return time.Time{}
}

func (b *Book) pastDue(plan usher.Ref) usher.PastDue {
	if p := b.plans[plan]; p != nil && p.PastDue != nil {
		return *p.PastDue
	}
	return usher.DefaultPastDue
}

// boundaries lists the instants at which the subscription's state may change.
func (b *Book) boundaries(s *usher.Subscription, first time.Time, loc *time.Location) []int64 {
	var at []int64
	add := func(t time.Time) { at = append(at, t.UnixMicro()) }
	add(s.StartsAt)
	if s.EndsAt != nil {
		add(*s.EndsAt)
	}
	if s.TrialEndsAt != nil {
		add(*s.TrialEndsAt)
	}
	var plan usher.Ref
	var since time.Time
	var status usher.Status
	for _, p := range s.Phases {
		add(p.At)
		if p.Plan != nil {
			plan = p.Plan.Ref
			if end := b.trialEnd(s, plan, first, loc); !end.IsZero() {
				add(end)
			}
		}
		if p.Status == usher.PastDueSt && status != p.Status {
			since = p.At
		}
		if p.Status != "" {
			status = p.Status
		}
		if !since.IsZero() {
			add(calendar.Add(since, b.pastDue(plan).Grace, loc))
		}
	}
	return at
}

// holding is one thing held over a span of time: a plan or an add-on, alive, or
// dead with the reason why.
type holding struct {
	kind   sourceKind
	id     string // "plan:pro@1"
	ref    usher.Ref
	times  int64 // quantity of an add-on; 1 for a plan
	began  int64
	dead   usher.Reason // "" is alive
	ents   map[string]*usher.Entitlement
	family string
}

// era is a span [from, until) in which the same things are held.
type era struct {
	from, until int64
	held        []holding
}

// knownAt notes when the change at t was made, where it is dated back: until
// then use followed what held before.
func (w *World) knownAt(t int64, made time.Time) {
	if m := made.UnixMicro(); m > t {
		if w.known == nil {
			w.known = map[int64]int64{}
		}
		w.known[t] = max(w.known[t], m)
	}
}

type sourceKind uint8

// In the order of precedence of CombineOverride, weakest first.
const (
	fromPlan sourceKind = iota
	fromAddon
	fromOverride
	fromGrant
)

// eras cuts the customer's time at every change of a subscription.
func (w *World) eras(f Facts) []era {
	b := f.Book
	cuts := []int64{minMicro, f.Customer.CreatedAt.UnixMicro()}
	first := map[string]time.Time{}
	for i := range f.Subscriptions {
		s := &f.Subscriptions[i]
		first[s.Family] = FirstStart(f.Subscriptions, s.Family)
		bounds := b.boundaries(s, first[s.Family], w.zone)
		cuts = append(cuts, bounds...)
		for _, t := range bounds {
			w.knownAt(t, s.CreatedAt)
		}
		for _, end := range []*time.Time{s.EndsAt, s.TrialEndsAt} {
			if end != nil && !s.EndsSet.IsZero() {
				w.knownAt(end.UnixMicro(), s.EndsSet)
			}
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	created := f.Customer.CreatedAt.UnixMicro()
	out := make([]era, 0, len(cuts))
	for i, from := range cuts {
		e := era{from: from, until: maxMicro}
		if i+1 < len(cuts) {
			e.until = cuts[i+1]
		}
		at := time.UnixMicro(from).UTC()
		taken := map[string]bool{} // families that have a subscription
		// Where two of one family overlap, the one that began last holds.
		order := make([]int, len(f.Subscriptions))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(x, y int) int {
			a, b := &f.Subscriptions[x], &f.Subscriptions[y]
			return cmp.Or(b.StartsAt.Compare(a.StartsAt), b.CreatedAt.Compare(a.CreatedAt))
		})
		for _, k := range order {
			s := &f.Subscriptions[k]
			st := b.StateAt(s, at, first[s.Family], w.zone)
			if st.Holds {
				if taken[s.Family] {
					continue
				}
				taken[s.Family] = true
			}
			p := b.plans[st.Plan]
			if p != nil {
				e.held = append(e.held, holding{kind: fromPlan, id: "plan:" + st.Plan.String(), ref: st.Plan, times: 1,
					began: st.Began.UnixMicro(), dead: st.Dead, ents: p.Entitlements, family: s.Family})
			}
			for _, a := range st.Addons {
				if v := b.addons[a.Addon]; v != nil {
					e.held = append(e.held, holding{kind: fromAddon, id: "addon:" + a.Addon.String(), ref: a.Addon, times: int64(a.Quantity),
						began: s.StartsAt.UnixMicro(), dead: st.Dead, ents: v.Entitlements, family: s.Family})
				}
			}
		}
		if from >= created {
			for _, ref := range b.defaults {
				if p := b.plans[ref]; !taken[p.Family] {
					e.held = append(e.held, holding{kind: fromPlan, id: "plan:" + ref.String(), ref: ref, times: 1,
						began: created, ents: p.Entitlements, family: p.Family})
				}
			}
		}
		out = append(out, e)
	}
	return out
}
