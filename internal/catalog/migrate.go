package catalog

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// pageSize is how many subscriptions are read at once.
const pageSize = 1000

// holding calls each for every subscription that names a version and has not ended.
func (p *plan) holding(ctx context.Context, ref string, each func(s *usher.Subscription) (more bool, err error)) error {
	after := ""
	for {
		page, err := p.db.SubscriptionsHolding(ctx, p.env, ref, after, pageSize)
		if err != nil {
			return err
		}
		for i := range page {
			if s := &page[i]; s.EndsAt == nil || s.EndsAt.After(p.now) {
				if more, err := each(s); err != nil || !more {
					return err
				}
			}
		}
		if len(page) < pageSize {
			return nil
		}
		after = page[len(page)-1].ID
	}
}

// held lists the versions that subscriptions name which have not ended.
func (p *plan) held() []string {
	refs := map[string]bool{}
	for _, h := range p.holders {
		for _, ref := range h.Refs() {
			refs[ref] = true
		}
	}
	return slices.Sorted(maps.Keys(refs))
}

// migrate moves subscriptions to the newest versions (S29), at once, together with
// their scheduled changes. Pinned versions stay, and their subscriptions are listed.
func (p *plan) migrate(ctx context.Context, what string) error {
	if what == "" {
		return nil
	}
	pinned := map[string]bool{}
	for _, name := range p.held() {
		ref, err := usher.ParseRef("version", name)
		if err != nil {
			return err
		}
		old := what == "all" || what == ref.Key
		old = old && (p.older(p.newest, ref) || what == "all" && p.older(p.newestA, ref))
		if !old {
			continue
		}
		err = p.holding(ctx, name, func(s *usher.Subscription) (bool, error) {
			if m, ok := p.moved[s.ID]; ok {
				s = &m
			}
			next, changed, pin, err := p.move(s, what)
			if err != nil {
				return false, err
			}
			if changed {
				p.moved[s.ID] = next
			}
			if pin {
				pinned[s.ID] = true
			}
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.moved)) {
		p.change.Migrate = append(p.change.Migrate, p.moved[id])
	}
	p.result.Migrated = len(p.moved)
	left := slices.Sorted(maps.Keys(pinned))
	p.result.LeftPinned = append(p.result.LeftPinned, left[:min(len(left), maxListed)]...)
	return nil
}

func (p *plan) older(newest map[string]usher.Ref, ref usher.Ref) bool {
	n, ok := newest[ref.Key]
	return ok && n.Version > ref.Version
}

// move returns a subscription with the newest versions from now on, whether that
// changes anything, and whether a pin kept it from moving somewhere.
func (p *plan) move(s *usher.Subscription, what string) (next usher.Subscription, changed, pinned bool, err error) {
	next = *s
	next.Phases = slices.Clone(s.Phases)
	at := p.now
	if s.StartsAt.After(at) {
		at = s.StartsAt
	}
	var plan *usher.HeldPlan
	var addons *[]usher.HeldAddon
	var status usher.Status
	// Phases up to now are history and stay. i becomes the first phase to come.
	i := 0
	for ; i < len(next.Phases) && !next.Phases[i].At.After(at); i++ {
		f := next.Phases[i]
		if f.Plan != nil {
			plan = f.Plan
		}
		if f.Addons != nil {
			addons = f.Addons
		}
		if f.Status != "" {
			status = f.Status
		}
	}
	if status == usher.Canceled && i == len(next.Phases) {
		return next, false, false, nil // it is canceled, and nothing will change that
	}
	now := usher.Phase{At: at}
	if now.Plan, err = p.movePlan(plan, what, s, &pinned); err != nil {
		return next, false, false, err
	}
	now.Addons = p.moveAddons(addons, what, &pinned)
	for k := i; k < len(next.Phases); k++ {
		f := &next.Phases[k]
		moved, err := p.movePlan(f.Plan, what, s, &pinned)
		if err != nil {
			return next, false, false, err
		}
		if moved != nil {
			f.Plan, changed = moved, true
		}
		if moved := p.moveAddons(f.Addons, what, &pinned); moved != nil {
			f.Addons, changed = moved, true
		}
	}
	switch {
	case now.Plan == nil && now.Addons == nil:
		return next, changed, pinned, nil
	// Two phases at one instant would leave it to their order which of them counts.
	case i > 0 && next.Phases[i-1].At.Equal(at):
		if now.Plan != nil {
			next.Phases[i-1].Plan = now.Plan
		}
		if now.Addons != nil {
			next.Phases[i-1].Addons = now.Addons
		}
	default:
		next.Phases = slices.Insert(next.Phases, i, now)
	}
	return next, true, pinned, nil
}

// movePlan returns the version to which a plan moves; nil: it stays.
func (p *plan) movePlan(h *usher.HeldPlan, what string, s *usher.Subscription, pinned *bool) (*usher.HeldPlan, error) {
	if h == nil || what != "all" && what != h.Key || !p.older(p.newest, h.Ref) {
		return nil, nil
	}
	if h.Pinned {
		*pinned = true
		return nil, nil
	}
	to := p.newest[h.Key]
	if family := p.next.Plans[h.Key].Family; family != s.Family {
		return nil, usher.Errorf(usher.Refused,
			"plan %s moves from family %s to %s, and subscription %s holds a version of the old family: it can be replaced, but not migrated",
			h.Key, s.Family, family, s.ID)
	}
	return &usher.HeldPlan{Ref: to}, nil
}

// moveAddons returns the add-ons after they moved; nil: they stay.
func (p *plan) moveAddons(all *[]usher.HeldAddon, what string, pinned *bool) *[]usher.HeldAddon {
	if all == nil || what != "all" {
		return nil
	}
	var out []usher.HeldAddon
	changed := false
	for _, a := range *all {
		switch {
		case !p.older(p.newestA, a.Addon):
		case a.Pinned:
			*pinned = true
		default:
			a.Addon, changed = p.newestA[a.Addon.Key], true
		}
		// The subscription may have the newest version too: one entry for each version.
		k := slices.IndexFunc(out, func(b usher.HeldAddon) bool { return b.Addon == a.Addon })
		if k >= 0 && out[k].Quantity+a.Quantity <= usher.MaxAddonQuantity {
			out[k].Quantity += a.Quantity
			out[k].Pinned = out[k].Pinned || a.Pinned
			continue
		}
		out = append(out, a)
	}
	if !changed {
		return nil
	}
	return &out
}

// needs lists the versions that a subscription holds now or will hold: none if it is
// over and no change to come revives it.
func (p *plan) needs(ctx context.Context, s *usher.Subscription) ([]usher.Ref, error) {
	if m, ok := p.moved[s.ID]; ok {
		s = &m
	}
	over, err := p.over(ctx, s)
	if err != nil || over {
		return nil, err
	}
	return versionsFrom(s, p.now), nil
}

// versionsFrom lists the versions that a subscription names at t or later, once for
// each phase that has them.
func versionsFrom(s *usher.Subscription, t time.Time) []usher.Ref {
	at := t
	if s.StartsAt.After(at) {
		at = s.StartsAt
	}
	var plan *usher.HeldPlan
	var addons []usher.HeldAddon
	var refs []usher.Ref
	done := false
	add := func() {
		if plan != nil {
			refs = append(refs, plan.Ref)
		}
		for _, a := range addons {
			refs = append(refs, a.Addon)
		}
	}
	for _, f := range s.Phases {
		if f.At.After(at) && !done {
			add()
			done = true
		}
		if f.Plan != nil {
			plan = f.Plan
		}
		if f.Addons != nil {
			addons = *f.Addons
		}
		if done {
			add()
		}
	}
	if !done {
		add()
	}
	return refs
}

// over reports whether a subscription gives nothing now and has no change to come.
// Whether its trial is over depends on the customer's other subscriptions, so those
// are read too.
func (p *plan) over(ctx context.Context, s *usher.Subscription) (bool, error) {
	if last := s.Phases[len(s.Phases)-1]; last.At.After(p.now) {
		return false, nil
	}
	st, err := p.db.LoadCustomer(ctx, p.env, s.Customer, 0)
	if err != nil || st.Customer == nil {
		return err == nil, err
	}
	status := p.status(s, st.Subscriptions, st.Customer)
	return status == usher.Ended || status == usher.Canceled, nil
}

// impact finds which subscriptions the new versions affect.
func (p *plan) impact(ctx context.Context) error {
	for _, v := range p.change.Plans {
		if err := p.touches(ctx, v.Ref(), v.Default, "plan "+v.Key); err != nil {
			return err
		}
	}
	for _, v := range p.change.Addons {
		if err := p.touches(ctx, v.Ref(), false, "add-on "+v.Key); err != nil {
			return err
		}
	}
	return nil
}

// touches counts the subscriptions that hold another version of ref now or will hold
// one, once for each version.
func (p *plan) touches(ctx context.Context, ref usher.Ref, isDefault bool, what string) error {
	if ref.Version == 1 && !isDefault {
		return nil // the first version: no subscription has an older one
	}
	var holders, moved int64 // subscriptions with an older version, and those of them that get this one now
	im := Impact{Version: ref.String(), Subscriptions: map[string]int64{}, Default: isDefault}
	err := p.holding(ctx, ref.Key, func(s *usher.Subscription) (bool, error) {
		if refs := versionsFrom(s, p.now); !canceled(s, p.now) {
			older := false
			for k, r := range refs {
				if r.Key == ref.Key && r != ref && !slices.Contains(refs[:k], r) {
					im.Subscriptions[r.String()]++
					older = true
				}
			}
			if older {
				holders++
			}
			if m, ok := p.moved[s.ID]; ok && !slices.Contains(refs, ref) && slices.Contains(versionsFrom(&m, p.now), ref) {
				moved++
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(im.Subscriptions)) {
		words = append(words, usher.CountOf(im.Subscriptions[name], "subscription")+" on "+name)
	}
	im.Text = what + ": " + strings.Join(words, ", ")
	switch {
	case len(words) == 0:
		im.Text = what + ": no subscription has an older version"
	case moved == 1:
		im.Text += "; 1 migrates now"
	case moved > 0:
		im.Text += fmt.Sprintf("; %d migrate now", moved)
	case holders == 1:
		im.Text += ", which stays there"
	default:
		im.Text += ", which stay there"
	}
	if isDefault {
		im.Text += "; customers on the default plan follow " + ref.String() + " at once"
	}
	p.result.Impact = append(p.result.Impact, im)
	return nil
}

// canceled reports whether a subscription is canceled at t and has no change to come.
func canceled(s *usher.Subscription, t time.Time) bool {
	var status usher.Status
	for _, f := range s.Phases {
		status = cmp.Or(f.Status, status)
	}
	return status == usher.Canceled && !s.Phases[len(s.Phases)-1].At.After(t)
}
