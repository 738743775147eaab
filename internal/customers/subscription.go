package customers

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/store"
)

// Subscription is a subscription as answers show it. Status, trial, plan, add-ons and
// period are those at the time of the answer.
type Subscription struct {
	ID            string           `json:"id"`
	Customer      string           `json:"customer"`
	Plan          string           `json:"plan"` // "pro@1"
	Pinned        bool             `json:"pinned,omitempty"`
	Family        string           `json:"family"`
	Status        usher.Status     `json:"status"`
	StatusSince   *time.Time       `json:"status_since,omitempty"` // absent unless the status was set
	StartsAt      time.Time        `json:"starts_at"`
	EndsAt        *time.Time       `json:"ends_at,omitempty"`
	TrialEndsAt   *time.Time       `json:"trial_ends_at,omitempty"` // absent unless a trial decides about the status
	Addons        []HeldAddon      `json:"addons"`
	CurrentPeriod *Period          `json:"current_period,omitempty"` // absent once it is over
	Scheduled     []ScheduledPhase `json:"scheduled,omitempty"`
	CreatedAt     time.Time        `json:"created_at"`
	Revision      int64            `json:"revision"` // of the customer's newest change
}

// HeldAddon is an add-on of a subscription as answers show it.
type HeldAddon struct {
	Addon    string `json:"addon"` // "api-pack@1"
	Quantity int    `json:"quantity"`
}

// ScheduledPhase is a change to come. Fields that are absent do not change.
type ScheduledPhase struct {
	At     time.Time    `json:"at"`
	Plan   string       `json:"plan,omitempty"`
	Addons *[]HeldAddon `json:"addons,omitempty"`
	Status usher.Status `json:"status,omitempty"`
}

// Period is a billing period, [Start, End).
type Period struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// AddonInput asks for an add-on, Quantity times; 0 is once.
type AddonInput struct {
	Addon    string
	Quantity int
}

// MaybeTime is a time that may be absent (Given is false), null (At is nil), or
// given.
type MaybeTime struct {
	Given bool
	At    *time.Time
}

// NewSubscription is a subscription to be made. Plan and add-ons may name a version
// ("pro@1"); migration does not change such a subscription (S29).
type NewSubscription struct {
	Plan     string
	StartsAt *time.Time // nil: now; may lie in the past
	EndsAt   *time.Time // nil: open
	Anchor   *time.Time // nil: the customer's (S18)
	TrialEnd MaybeTime  // not given: the plan's trial; null: none (S35)
	Addons   []AddonInput
}

// SubscriptionPatch is a change of a subscription. Fields that are absent do not
// change.
type SubscriptionPatch struct {
	Plan     *string
	Addons   *[]AddonInput // replaces the list
	EndsAt   MaybeTime     // applies directly; null clears it
	TrialEnd MaybeTime     // applies directly; null: no trial
	Status   usher.Status  // active, past_due, suspended or canceled; "": no change
	When     string        // "" and "now", "period_end", or a time not before now
}

// maxPhases bounds a subscription's history, because every load of the customer reads
// it.
const maxPhases = 1000

// Subscribe makes a subscription. A subscription of the same family, live or to come,
// is replaced: it ends when the new one starts (S28). Subscribe may give the customer
// its anchor (S18).
func (s *Service) Subscribe(ctx context.Context, env usher.Environment, by usher.By, guard Guard, customer string,
	in NewSubscription) (Subscription, error) {
	id := s.cfg.NewID("sub_")
	create := func(h *held, c *store.CustomerChange) (none Subscription, made func(int64) Subscription, err error) {
		if err := h.must(); err != nil {
			return none, nil, err
		}
		sub, err := h.subscribe(id, in)
		if err != nil {
			return none, nil, err
		}
		if len(h.Subscriptions) >= maxHeld {
			return none, nil, usher.Errorf(usher.Refused, "the customer has had %d subscriptions already, which is the limit", maxHeld)
		}
		all := slices.Clone(h.Subscriptions)
		for i := range all {
			if o := &all[i]; o.Family == sub.Family && (o.EndsAt == nil || o.EndsAt.After(h.now)) && endBy(o, sub.StartsAt) {
				c.Subscriptions = append(c.Subscriptions, *o)
			}
		}
		next := *h.Customer
		if h.start(&next, all, sub.StartsAt, in.Anchor) {
			if len(next.Clocks) > maxClocks {
				return none, nil, usher.Errorf(usher.Refused, "the windows of customer %q have been moved %d times, which is the limit",
					customer, maxClocks)
			}
			c.Put, h.Customer = &next, &next
		}
		c.Subscriptions = append(c.Subscriptions, sub)
		h.Subscriptions = append(all, sub)
		c.Note.Object = id
		return none, func(revision int64) Subscription { return h.show(&sub, revision) }, nil
	}
	return change(ctx, s, env, by, guard, customer, "subscription.create", create)
}

func (h *held) subscribe(id string, in NewSubscription) (usher.Subscription, error) {
	var p problems
	sub := usher.Subscription{ID: id, Customer: h.id, StartsAt: h.now, EndsAt: microp(in.EndsAt), CreatedAt: h.now}
	if in.StartsAt != nil {
		sub.StartsAt = micro(*in.StartsAt)
	}
	plan := h.plan(&p, in.Plan)
	addons := h.addons(&p, in.Addons)
	if plan != nil {
		v, _ := h.book.Plan(plan.Ref)
		sub.Family = v.Family
	}
	h.trial(&p, &sub, in.TrialEnd)
	if sub.EndsAt != nil && !sub.EndsAt.After(sub.StartsAt) {
		p.add("ends_at", "must be after starts_at (%s)", sub.StartsAt.Format(time.RFC3339Nano))
	}
	sub.Phases = []usher.Phase{{At: sub.StartsAt, Plan: plan, Addons: &addons}}
	return sub, p.err()
}

func (h *held) trial(p *problems, sub *usher.Subscription, end MaybeTime) {
	if !end.Given {
		return
	}
	sub.TrialEndsAt, sub.NoTrial = microp(end.At), end.At == nil
	if sub.TrialEndsAt != nil && !sub.TrialEndsAt.After(sub.StartsAt) {
		p.add("trial_ends_at", "must be after starts_at (%s); null means no trial", sub.StartsAt.Format(time.RFC3339Nano))
	}
}

// plan finds the plan version for a subscription by the name that the caller gave.
func (h *held) plan(p *problems, name string) *usher.HeldPlan {
	ref, err := usher.ParseRef("plan", name)
	if err != nil {
		p.add("plan", "%s", err)
		return nil
	}
	newest, ok := h.book.Newest(ref.Key)
	if !ok {
		p.add("plan", "there is no plan %q; %s", ref.Key, choice("plans", h.catalog.Plans))
		return nil
	}
	// A key without a version follows migrations; a version that was named is pinned.
	if ref.Version == 0 {
		return &usher.HeldPlan{Ref: newest.Ref()}
	}
	if _, ok := h.book.Plan(ref); !ok {
		p.add("plan", "there is no version %s; the newest is %s", ref, newest.Ref())
		return nil
	}
	return &usher.HeldPlan{Ref: ref, Pinned: true}
}

func choice[T any](what string, of map[string]T) string {
	const most = 20
	keys := slices.Sorted(maps.Keys(of))
	switch {
	case len(keys) == 0:
		return "the catalogue has no " + what
	case len(keys) > most:
		return fmt.Sprintf("%s are %s and %d more", what, strings.Join(keys[:most], ", "), len(keys)-most)
	}
	return what + " are " + strings.Join(keys, ", ")
}

// addons finds the add-on versions for a subscription. Each is listed once, in the
// order in which the caller named them first.
func (h *held) addons(p *problems, asked []AddonInput) []usher.HeldAddon {
	all := []usher.HeldAddon{}
	for i, a := range asked {
		at := fmt.Sprintf("addons[%d]", i)
		ref, err := usher.ParseRef("add-on", a.Addon)
		if err != nil {
			p.add(at+".addon", "%s", err)
			continue
		}
		newest, ok := h.book.NewestAddon(ref.Key)
		if !ok {
			p.add(at+".addon", "there is no add-on %q; %s", ref.Key, choice("add-ons", h.catalog.Addons))
			continue
		}
		pinned := ref.Version != 0
		if !pinned {
			ref = newest.Ref()
		} else if _, ok := h.book.Addon(ref); !ok {
			p.add(at+".addon", "there is no version %s; the newest is %s", ref, newest.Ref())
			continue
		}
		quantity := a.Quantity
		if quantity == 0 {
			quantity = 1
		}
		if quantity < 1 || quantity > usher.MaxAddonQuantity {
			p.add(at+".quantity", "must be a whole number from 1 to %d, got %d", usher.MaxAddonQuantity, a.Quantity)
			continue
		}
		k := slices.IndexFunc(all, func(h usher.HeldAddon) bool { return h.Addon == ref })
		if k < 0 {
			k = len(all)
			all = append(all, usher.HeldAddon{Addon: ref})
		}
		all[k].Quantity += quantity
		all[k].Pinned = all[k].Pinned || pinned
		if all[k].Quantity > usher.MaxAddonQuantity {
			p.add(at+".quantity", "add-on %s would be held %d times in all; the limit is %d", ref, all[k].Quantity, usher.MaxAddonQuantity)
		}
	}
	// The engine multiplies limit and quantity. Refused here, the product can never overflow
	// there.
	for _, a := range all {
		v, _ := h.book.Addon(a.Addon)
		for feature, e := range v.Entitlements {
			for _, allowance := range e.Allowances {
				if allowance.Limit > math.MaxInt64/int64(a.Quantity) {
					p.add("addons", "%d times the limit of %s in add-on %s is beyond what can be counted", a.Quantity, feature, a.Addon)
				}
			}
		}
	}
	return all
}

// PatchSubscription changes a subscription from an instant on. Scheduled changes of
// the same fields that come later are dropped. For a subscription that is over it
// returns Conflict, unless the patch makes it active again.
func (s *Service) PatchSubscription(ctx context.Context, env usher.Environment, by usher.By, guard Guard, id string,
	in SubscriptionPatch) (Subscription, error) {
	sub, err := s.cfg.DB.Subscription(ctx, env, id)
	if err != nil {
		return Subscription{}, err
	}
	alter := func(h *held, c *store.CustomerChange) (none Subscription, made func(int64) Subscription, err error) {
		next, _, err := h.patch(id, in)
		if err != nil {
			return none, nil, err
		}
		c.Subscriptions = []usher.Subscription{next}
		c.Note.Object = id
		h.replaceSubscription(next)
		return none, func(revision int64) Subscription { return h.show(&next, revision) }, nil
	}
	return change(ctx, s, env, by, guard, sub.Customer, "subscription.change", alter)
}

// replaceSubscription replaces one subscription in what is held.
func (h *held) replaceSubscription(next usher.Subscription) {
	h.Subscriptions = slices.Clone(h.Subscriptions)
	for i := range h.Subscriptions {
		if h.Subscriptions[i].ID == next.ID {
			h.Subscriptions[i] = next
		}
	}
}

// patch returns the subscription with the changes of in, and the instant from which
// they hold.
func (h *held) patch(id string, in SubscriptionPatch) (next usher.Subscription, at time.Time, err error) {
	i := slices.IndexFunc(h.Subscriptions, func(s usher.Subscription) bool { return s.ID == id })
	if h.Customer == nil || i < 0 {
		return next, at, usher.Errorf(usher.NotFound, "no subscription %q", id)
	}
	next = h.Subscriptions[i]
	var p problems
	if in.Plan == nil && in.Addons == nil && !in.EndsAt.Given && !in.TrialEnd.Given && in.Status == "" {
		p.add("", "must have at least one of plan, addons, ends_at, trial_ends_at and status")
	}
	switch in.Status {
	case "", usher.Active, usher.PastDueSt, usher.Suspended, usher.Canceled:
	default:
		p.add("status", "must be active, past_due, suspended or canceled, got %.40q; the other statuses follow from time", string(in.Status))
	}
	from := h.now
	if next.StartsAt.After(from) {
		from = next.StartsAt
	}
	at = from
	switch in.When {
	case "", "now":
	case "period_end":
		at = h.periodOf(fold(&next, from).plan.Ref, from).End
	default:
		t, err := usher.ParseTime(in.When)
		if err != nil {
			p.add("when", `must be "now", "period_end" or a time: %s`, err)
		} else if t.Before(h.now) {
			p.add("when", "must not be before now (%s)", h.now.Format(time.RFC3339Nano))
		} else if t.After(at) {
			at = t
		}
	}
	change := usher.Phase{At: at, Status: in.Status}
	if in.Plan != nil {
		change.Plan = h.plan(&p, *in.Plan)
	}
	if in.Addons != nil {
		all := h.addons(&p, *in.Addons)
		change.Addons = &all
	}
	h.trial(&p, &next, in.TrialEnd)
	over := h.state(&next, h.now)
	if in.EndsAt.Given || in.TrialEnd.Given {
		next.EndsSet = h.now
	}
	if in.EndsAt.Given {
		next.EndsAt = microp(in.EndsAt.At)
		if next.EndsAt != nil && !next.EndsAt.After(next.StartsAt) {
			p.add("ends_at", "must be after starts_at (%s)", next.StartsAt.Format(time.RFC3339Nano))
		}
	}
	if err := p.err(); err != nil {
		return next, at, err
	}
	if change.Plan != nil {
		if v, _ := h.book.Plan(change.Plan.Ref); v.Family != next.Family {
			return next, at, usher.Errorf(usher.Refused,
				"plan %s is of family %s, but this subscription is of family %s: create another subscription for the plan",
				v.Ref(), v.Family, next.Family)
		}
	}
	if over.Status == usher.Ended || over.Status == usher.Canceled {
		// What is over stays over, so that a late message of a billing system does not revive
		// it by accident.
		if in.Status != usher.Active {
			return next, at, usher.Errorf(usher.Conflict, `the subscription is %s: only "status": "active" revives it`, over.Status)
		}
		if !in.EndsAt.Given && next.EndsAt != nil && !next.EndsAt.After(at) {
			next.EndsAt = nil
		}
	}
	if next.Phases = phased(next.Phases, change); len(next.Phases) > maxPhases {
		return next, at, usher.Errorf(usher.Refused,
			"the subscription has changed %d times already, which is the limit: create a new subscription in its place", maxPhases)
	}
	// Only these two can make the subscription overlap another of its family; a change of
	// plan stays within its span.
	if in.EndsAt.Given || in.Status == usher.Active {
		if err := h.clash(&next); err != nil {
			return next, at, err
		}
	}
	return next, at, nil
}

// phased adds a change to phases, at its time. Later phases lose the fields that the
// change sets: the latest decision wins, and an older schedule must not undo it.
func phased(phases []usher.Phase, change usher.Phase) []usher.Phase {
	if change.Plan == nil && change.Addons == nil && change.Status == "" {
		return phases
	}
	var out []usher.Phase
	for _, p := range phases {
		if p.At.Before(change.At) {
			out = append(out, p)
		}
	}
	first := len(out)
	out = append(out, change)
	for _, p := range phases {
		switch {
		case p.At.Before(change.At):
		case p.At.Equal(change.At):
			c := &out[first]
			if c.Plan == nil {
				c.Plan = p.Plan
			}
			if c.Addons == nil {
				c.Addons = p.Addons
			}
			if c.Status == "" {
				c.Status = p.Status
			}
		default:
			if change.Plan != nil {
				p.Plan = nil
			}
			if change.Addons != nil {
				p.Addons = nil
			}
			if change.Status != "" {
				p.Status = ""
			}
			if p.Plan != nil || p.Addons != nil || p.Status != "" {
				out = append(out, p)
			}
		}
	}
	return out
}

// clash returns Conflict if next and another subscription of its family would be in
// force at the same time.
func (h *held) clash(next *usher.Subscription) error {
	for i := range h.Subscriptions {
		o := &h.Subscriptions[i]
		if o.ID == next.ID || o.Family != next.Family {
			continue
		}
		from := h.now
		for _, t := range []time.Time{o.StartsAt, next.StartsAt} {
			if t.After(from) {
				from = t
			}
		}
		if o.EndsAt != nil && !o.EndsAt.After(from) || next.EndsAt != nil && !next.EndsAt.After(from) {
			continue
		}
		if h.state(o, from).Holds && h.state(next, from).Holds {
			return usher.Errorf(usher.Conflict,
				"the customer has subscription %s of family %s from %s on: end that subscription first, or set ends_at to that time or earlier",
				o.ID, o.Family, from.Format(time.RFC3339Nano))
		}
	}
	return nil
}

// state returns the state of a subscription at t.
func (h *held) state(sub *usher.Subscription, t time.Time) engine.State {
	st := h.book.StateAt(sub, t, engine.FirstStart(h.Subscriptions, sub.Family), h.zone())
	if !began(*sub) {
		st.Status = usher.Ended // it was replaced before it began, so it is not "scheduled"
	}
	return st
}

// folded is the plan and the add-ons of a subscription at an instant.
type folded struct {
	plan   usher.HeldPlan
	addons []usher.HeldAddon
}

// fold computes plan and add-ons at t, or at the subscription's start if that is later,
// from its phases.
func fold(sub *usher.Subscription, t time.Time) (f folded) {
	for i, p := range sub.Phases {
		if i > 0 && p.At.After(t) {
			break
		}
		if p.Plan != nil {
			f.plan = *p.Plan
		}
		if p.Addons != nil {
			f.addons = *p.Addons
		}
	}
	return f
}

func (h *held) show(sub *usher.Subscription, revision int64) Subscription {
	f, st := fold(sub, h.now), h.state(sub, h.now)
	v := Subscription{
		ID: sub.ID, Customer: sub.Customer, Plan: f.plan.Ref.String(), Pinned: f.plan.Pinned, Family: sub.Family, Status: st.Status,
		StartsAt: sub.StartsAt, EndsAt: sub.EndsAt, Addons: shownAddons(f.addons), CreatedAt: sub.CreatedAt, Revision: revision,
	}
	if !st.Since.IsZero() {
		v.StatusSince = &st.Since
	}
	// Before its start a subscription has no trial yet: show the one that it will begin
	// with.
	begun := st
	if st.Status == usher.Scheduled {
		begun = h.state(sub, sub.StartsAt)
	}
	if !begun.TrialEnds.IsZero() {
		v.TrialEndsAt = &begun.TrialEnds
	}
	if st.Status != usher.Ended && st.Status != usher.Canceled {
		at := h.now
		if sub.StartsAt.After(at) {
			at = sub.StartsAt
		}
		w := h.periodOf(f.plan.Ref, at)
		v.CurrentPeriod = &Period{w.Start, w.End}
	}
	for i, p := range sub.Phases {
		if i == 0 || !p.At.After(h.now) {
			continue
		}
		sp := ScheduledPhase{At: p.At, Status: p.Status}
		if p.Plan != nil {
			sp.Plan = p.Plan.Ref.String()
		}
		if p.Addons != nil {
			all := shownAddons(*p.Addons)
			sp.Addons = &all
		}
		v.Scheduled = append(v.Scheduled, sp)
	}
	return v
}

func shownAddons(all []usher.HeldAddon) []HeldAddon {
	out := make([]HeldAddon, len(all))
	for i, a := range all {
		out[i] = HeldAddon{a.Addon.String(), a.Quantity}
	}
	return out
}

// Subscription returns a subscription; NotFound if it does not exist.
func (s *Service) Subscription(ctx context.Context, env usher.Environment, id string) (Subscription, error) {
	sub, err := s.cfg.DB.Subscription(ctx, env, id)
	if err != nil {
		return Subscription{}, err
	}
	h, err := s.known(ctx, env, sub.Customer)
	if err != nil {
		return Subscription{}, err
	}
	for i := range h.Subscriptions {
		if h.Subscriptions[i].ID == id {
			return h.show(&h.Subscriptions[i], h.Revision), nil
		}
	}
	return Subscription{}, usher.Errorf(usher.NotFound, "no subscription %q", id)
}

// Subscriptions returns up to limit of a customer's subscriptions, also ended ones, in
// the order of ids after the given id, and the cursor of the next page.
func (s *Service) Subscriptions(ctx context.Context, env usher.Environment, customer, after string, limit int) (
	[]Subscription, string, error) {
	h, err := s.known(ctx, env, customer)
	if err != nil {
		return nil, "", err
	}
	all, next := page(h.Subscriptions, func(s *usher.Subscription) string { return s.ID }, after, limit)
	out := make([]Subscription, len(all))
	for i := range all {
		out[i] = h.show(&all[i], h.Revision)
	}
	return out, next, nil
}
