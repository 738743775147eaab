package engine

import (
	"cmp"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
)

// Facts is everything that decides for one customer, except its use.
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
	Since     time.Time    // when the status began, if it was set; else zero
	Live      bool         // gives its plan's and add-ons' entitlements
	Dead      usher.Reason // why it gives nothing; "" if Live
	Holds     bool         // keeps its family from falling to the default plan (S28)
	Plan      usher.Ref    // what it gives, or would give
	Began     time.Time    // when Plan began to be held
	Addons    []usher.HeldAddon
	TrialEnds time.Time // zero: no trial decides about the status
}

// FirstStart returns when the customer's first subscription of a family started:
// trials count from there, once (S35). A subscription that was replaced before it
// began used up no trial, so it counts only if there is no other.
func FirstStart(subs []usher.Subscription, family string) time.Time { return firstStarts(subs)[family] }

// firstStarts returns FirstStart of every family.
func firstStarts(subs []usher.Subscription) map[string]time.Time {
	first, never := map[string]time.Time{}, map[string]time.Time{}
	for i := range subs {
		s := &subs[i]
		of := first
		if s.EndsAt != nil && !s.EndsAt.After(s.StartsAt) {
			of = never
		}
		if t, ok := of[s.Family]; !ok || s.StartsAt.Before(t) {
			of[s.Family] = s.StartsAt
		}
	}
	for family, t := range never {
		if _, ok := first[family]; !ok {
			first[family] = t
		}
	}
	return first
}

// StateAt returns what a subscription is at t, from its phases, its trial and its
// plan's policy for unpaid ones (S10, S27, S35). first is FirstStart of its family,
// loc the customer's zone. boundaries must list every instant at which the result
// may change.
func (b *Book) StateAt(s *usher.Subscription, t, first time.Time, loc *time.Location) State {
	var (
		st         State
		status     usher.Status
		trialEnded bool
	)
	// endTrial ends a trial that is over by until, unless a status was set: a status
	// that the operator or the provider set decides alone.
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
				// It has not begun; it would give what its first phase says.
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
	case trialEnded: // the more helpful reason than subscription_ended (S37)
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
			} else { // no such plan any more, and missing data gives nothing (S01)
				st.Live, st.Holds, st.Dead = false, false, usher.ReasonSuspended
			}
		}
	}
	return st
}

// trialEnd returns when a subscription's trial ends, zero without one. The end that
// the subscription names beats the length that its plan gives.
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

// pastDue returns the policy of a plan for unpaid subscriptions.
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

// holding is one plan or add-on that a customer has, either live or dead.
type holding struct {
	kind  sourceKind
	id    string // "plan:pro@1"
	ref   usher.Ref
	times int64 // quantity of an add-on; 1 for a plan
	began int64
	dead  usher.Reason // why it gives nothing; "" if it is live
	ents  map[string]*usher.Entitlement
}

// stay is a subscription, or a family's default plan, over a span in which its
// state does not change.
type stay struct {
	span
	order  int    // of its subscription in World.subs
	id     string // of its subscription; "": a default plan
	family string
	holds  bool      // keeps the family from falling to the default plan
	held   []holding // its plan, then its add-ons
}

// era is a span [from, until) in which the customer holds the same things.
type era struct {
	from, until int64
	held        []*stay // at most one of each family, in the order of World.subs; default plans last
}

// knownAt notes when a change at t was made, if it is dated back. Use that came between
// the two was counted by the rules before the change.
func (w *World) knownAt(t int64, made time.Time) {
	if m := made.UnixMicro(); m > t {
		if w.known == nil {
			w.known = map[int64]int64{}
		}
		w.known[t] = max(w.known[t], m)
	}
}

// sourceKind says what gives an entitlement.
type sourceKind uint8

// The kinds of sources in the order of usher.CombineOverride, weakest first.
const (
	fromPlan sourceKind = iota
	fromAddon
	fromOverride
	fromGrant
)

// eras cuts the customer's time at every change of a subscription. Plans of one
// family exclude each other: if several subscriptions of it overlap, the one that
// began last counts, and if there is none, the family's default plan.
func (w *World) eras(f Facts) []era {
	b := f.Book
	created := f.Customer.CreatedAt.UnixMicro()
	cuts := []int64{minMicro, created}
	first := firstStarts(f.Subscriptions)
	subs := make([]*usher.Subscription, len(f.Subscriptions))
	for i := range f.Subscriptions {
		subs[i] = &f.Subscriptions[i]
	}
	slices.SortStableFunc(subs, func(x, y *usher.Subscription) int {
		return cmp.Or(y.StartsAt.Compare(x.StartsAt), y.CreatedAt.Compare(x.CreatedAt))
	})
	w.subs = make([][]stay, len(subs))
	for i, s := range subs {
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
		w.subs[i] = b.stays(s, i, bounds, first[s.Family], w.zone)
	}
	families := w.families()
	defaults := w.defaultStays(created)
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	// Walk through time with one line per family, so that a cut costs only what changes
	// there, not a look at every subscription.
	out := make([]era, len(cuts))
	for i, from := range cuts {
		e := &out[i]
		e.from, e.until = from, maxMicro
		if i > 0 {
			out[i-1].until = from
			e.held = out[i-1].held
		}
		changed := from == created
		for k := range families {
			changed = families[k].advance(from) || changed
		}
		if !changed {
			continue
		}
		e.held = nil
		for k := range families {
			if s := families[k].now; s != nil {
				e.held = append(e.held, s)
			}
		}
		slices.SortFunc(e.held, func(x, y *stay) int { return x.order - y.order })
		for k := range defaults {
			d := &defaults[k]
			if from >= created && !slices.ContainsFunc(e.held, func(s *stay) bool { return s.order < len(subs) && s.family == d.family }) {
				e.held = append(e.held, d)
			}
		}
	}
	return out
}

// stays returns the spans in which a subscription's state does not change. They
// follow each other and cover all of time.
func (b *Book) stays(s *usher.Subscription, order int, bounds []int64, first time.Time, loc *time.Location) []stay {
	bounds = append(slices.Clip(bounds), minMicro)
	slices.Sort(bounds)
	bounds = slices.Compact(bounds)
	out := make([]stay, len(bounds))
	for i, from := range bounds {
		st := b.StateAt(s, time.UnixMicro(from).UTC(), first, loc)
		out[i] = stay{span: span{from, maxMicro}, order: order, id: s.ID, family: s.Family, holds: st.Holds}
		if i > 0 {
			out[i-1].end = from
		}
		if p := b.plans[st.Plan]; p != nil {
			out[i].held = append(out[i].held, holding{kind: fromPlan, id: "plan:" + st.Plan.String(), ref: st.Plan, times: 1,
				began: st.Began.UnixMicro(), dead: st.Dead, ents: p.Entitlements})
		}
		for _, a := range st.Addons {
			if v := b.addons[a.Addon]; v != nil {
				out[i].held = append(out[i].held, holding{kind: fromAddon, id: "addon:" + a.Addon.String(), ref: a.Addon,
					times: int64(a.Quantity), began: s.StartsAt.UnixMicro(), dead: st.Dead, ents: v.Entitlements})
			}
		}
	}
	return out
}

// defaultStays returns the default plans of all families, which the customer may
// have from its creation on.
func (w *World) defaultStays(created int64) []stay {
	out := make([]stay, 0, len(w.book.defaults))
	for i, ref := range w.book.defaults {
		p := w.book.plans[ref]
		out = append(out, stay{span: span{created, maxMicro}, order: len(w.subs) + i, family: p.Family, holds: true,
			held: []holding{{kind: fromPlan, id: "plan:" + ref.String(), ref: ref, times: 1, began: created, ents: p.Entitlements}}})
	}
	return out
}

// familyLine walks through time along the stays of one family.
type familyLine struct {
	stays []*stay
	turns []turn // which of the stays counts when
	next  int    // index of the next turn
	now   *stay  // nil: the family has its default plan
}

// advance moves to an instant and reports whether another stay counts now.
func (l *familyLine) advance(at int64) bool {
	was := l.now
	for ; l.next < len(l.turns) && l.turns[l.next].from <= at; l.next++ {
		l.now = nil
		if i := l.turns[l.next].of; i >= 0 {
			l.now = l.stays[i]
		}
	}
	return l.now != was
}

// families returns a line for each family that the customer has subscribed to.
func (w *World) families() []familyLine {
	at := map[string]int{}
	var lines []familyLine
	for i := len(w.subs) - 1; i >= 0; i-- { // overlay lets the last one win: that must be what began last
		for k := range w.subs[i] {
			s := &w.subs[i][k]
			if !s.holds {
				continue
			}
			n, ok := at[s.family]
			if !ok {
				n = len(lines)
				at[s.family] = n
				lines = append(lines, familyLine{})
			}
			lines[n].stays = append(lines[n].stays, s)
		}
	}
	for n := range lines {
		spans := make([]span, len(lines[n].stays))
		for i, s := range lines[n].stays {
			spans[i] = s.span
		}
		lines[n].turns = overlay(spans)
	}
	return lines
}

// dead calls see for each plan and add-on that the customer has and that gives
// nothing at an instant. It leaves out subscriptions that another one of their
// family replaces. It reads every subscription.
func (w *World) dead(e *era, at int64, see func(*holding)) {
	for i := range w.subs {
		s := stayAt(w.subs[i], at)
		if s.holds && !slices.Contains(e.held, s) {
			continue
		}
		for k := range s.held {
			if s.held[k].dead != "" {
				see(&s.held[k])
			}
		}
	}
}

// stayAt returns which of a subscription's stays holds at an instant.
func stayAt(list []stay, at int64) *stay {
	n, found := slices.BinarySearchFunc(list, at, func(s stay, at int64) int { return cmp.Compare(s.start, at) })
	if !found {
		n--
	}
	return &list[n]
}
