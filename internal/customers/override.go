package customers

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/store"
)

// Override is an override as answers show it. Value has the form in which the caller
// sent it: true, 90, {"limit": 5}, "unlimited", {"add": 500}, {"deny": true}.
type Override struct {
	ID        string          `json:"id"`
	Customer  string          `json:"customer"`
	Feature   string          `json:"feature"`
	Value     json.RawMessage `json:"value"`
	Reason    string          `json:"reason"`
	ExpiresAt *time.Time      `json:"expires_at,omitempty"`
	Expires   string          `json:"expires,omitempty"` // "never", or absent
	CreatedBy string          `json:"created_by"`
	CreatedAt time.Time       `json:"created_at"`
	Revision  int64           `json:"revision"` // of the customer's newest change
}

// NewOverride is an override to be made (S03).
type NewOverride struct {
	Feature   string
	Value     json.RawMessage // as catalogfile.ParseOverride reads it
	Reason    string
	ExpiresAt *time.Time
	Expires   string // "never" if ExpiresAt is nil: exactly one of them is set
}

// MaxReason is the longest reason in bytes.
const MaxReason = 500

// maxHeld bounds a customer's overrides, its grants and its subscriptions, because every load of the
// customer reads them.
const maxHeld = 10_000

// AddOverride makes an exception for a customer, from now on.
func (s *Service) AddOverride(ctx context.Context, env usher.Environment, by usher.By, guard Guard, customer string,
	in NewOverride) (Override, error) {
	id := s.cfg.NewID("ovr_")
	create := func(h *held, c *store.CustomerChange) (none Override, made func(int64) Override, err error) {
		if err := h.must(); err != nil {
			return none, nil, err
		}
		o, err := h.override(id, in)
		if err != nil {
			return none, nil, err
		}
		if len(h.Overrides) >= maxHeld {
			return none, nil, usher.Errorf(usher.Refused, "the customer has %d overrides already, which is the limit: remove some", maxHeld)
		}
		o.CreatedBy = by.Actor.String()
		c.Overrides = []usher.Override{o}
		c.Note.Object = id
		return none, func(revision int64) Override { return h.showOverride(&o, revision) }, nil
	}
	return change(ctx, s, env, by, guard, customer, "override.create", create)
}

func (h *held) override(id string, in NewOverride) (usher.Override, error) {
	var p problems
	o := usher.Override{ID: id, Customer: h.id, Feature: in.Feature, Reason: in.Reason, CreatedAt: h.now, ExpiresAt: microp(in.ExpiresAt)}
	p.reason(in.Reason)
	switch {
	case in.Expires != "" && in.Expires != "never":
		p.add("expires", `must be "never", or absent if expires_at is given, got %.40q`, in.Expires)
	case (in.Expires == "") == (in.ExpiresAt == nil):
		p.add("expires_at", `give exactly one of "expires_at" and "expires": "never"`)
	case o.ExpiresAt != nil && !o.ExpiresAt.After(h.now):
		p.add("expires_at", "must be later than now (%s)", h.now.Format(time.RFC3339Nano))
	}
	f := h.feature(&p, in.Feature)
	if len(in.Value) == 0 {
		p.add("value", `is required: a value as in a plan, such as true, 90 or {"limit": 5}, or {"add": 500}, or {"deny": true}`)
	} else if f != nil {
		var err error
		o.Set, o.Add, o.Deny, err = catalogfile.ParseOverride(f, h.book.Meter(f), in.Value)
		p.note("value", err)
		if set := o.Set; err == nil && set != nil && set.Limit != nil && set.Per == nil && f.Kind != usher.Seats && !h.clocked(f.Key) {
			p.add("value.per", `is required, such as "month", because no plan or add-on of the customer gives %s a window now`, f.Key)
		}
	}
	return o, p.err()
}

func (p *problems) reason(reason string) {
	if reason == "" {
		p.add("reason", "is required, at most %d bytes: why the customer gets it", MaxReason)
	} else if words := untidy(reason, MaxReason); words != "" {
		p.add("reason", "%s", words)
	}
}

func (h *held) feature(p *problems, key string) *usher.Feature {
	f := h.book.Features[key]
	if f == nil {
		p.add("feature", "there is no feature %.80q; %s", key, choice("features", h.book.Features))
	}
	return f
}

// clocked reports whether a plan or add-on that the customer holds now gives a feature
// with a window. An override that is only a limit takes over that window (S03).
func (h *held) clocked(feature string) bool {
	has := func(of map[string]*usher.Entitlement) bool {
		return of[feature] != nil && len(of[feature].Allowances) > 0
	}
	taken := map[string]bool{}
	for i := range h.Subscriptions {
		sub := &h.Subscriptions[i]
		st := h.state(sub, h.now)
		taken[sub.Family] = taken[sub.Family] || st.Holds
		if !st.Live {
			continue
		}
		if v, ok := h.book.Plan(st.Plan); ok && has(v.Entitlements) {
			return true
		}
		for _, a := range st.Addons {
			if v, ok := h.book.Addon(a.Addon); ok && has(v.Entitlements) {
				return true
			}
		}
	}
	// A default plan counts only in a family that no subscription holds.
	for key, p := range h.catalog.Plans {
		if v, ok := h.book.Newest(key); ok && p.Default && !taken[p.Family] && has(v.Entitlements) {
			return true
		}
	}
	return slices.ContainsFunc(h.Overrides, func(o usher.Override) bool {
		return o.Feature == feature && o.Set != nil && o.Set.Per != nil && (o.ExpiresAt == nil || o.ExpiresAt.After(h.now))
	})
}

// RemoveOverride ends an override; NotFound if it does not exist.
func (s *Service) RemoveOverride(ctx context.Context, env usher.Environment, by usher.By, guard Guard, id string) error {
	o, err := s.cfg.DB.Override(ctx, env, id)
	if err != nil {
		return err
	}
	remove := func(h *held, c *store.CustomerChange) (none struct{}, made func(int64) struct{}, err error) {
		c.CloseOverrides = []string{id}
		c.Note.Object = id
		return none, func(int64) struct{} { return none }, nil
	}
	_, err = change(ctx, s, env, by, guard, o.Customer, "override.delete", remove)
	return err
}

// Overrides returns up to limit of a customer's overrides, also expired ones, in the
// order of ids after the given id, and the cursor of the next page.
func (s *Service) Overrides(ctx context.Context, env usher.Environment, customer, after string, limit int) ([]Override, string, error) {
	h, err := s.known(ctx, env, customer)
	if err != nil {
		return nil, "", err
	}
	all, next := page(h.Overrides, func(o *usher.Override) string { return o.ID }, after, limit)
	out := make([]Override, len(all))
	for i := range all {
		out[i] = h.showOverride(&all[i], h.Revision)
	}
	return out, next, nil
}

func (h *held) showOverride(o *usher.Override, revision int64) Override {
	v := Override{ID: o.ID, Customer: o.Customer, Feature: o.Feature, Reason: o.Reason, ExpiresAt: o.ExpiresAt,
		CreatedBy: o.CreatedBy, CreatedAt: o.CreatedAt, Revision: revision}
	if o.ExpiresAt == nil {
		v.Expires = "never"
	}
	f := h.book.Features[o.Feature]
	if f == nil {
		f = &usher.Feature{} // no longer sold: whole units
	}
	v.Value = overrideValue(f, o)
	return v
}

// overrideValue returns the value in the form that ParseOverride reads.
func overrideValue(f *usher.Feature, o *usher.Override) json.RawMessage {
	quantity := func(n int64) json.RawMessage { return usher.AppendQuantity(nil, n, f.Precision) }
	var v any
	switch set := o.Set; {
	case o.Deny:
		v = map[string]any{"deny": true}
	case o.Add != nil:
		v = map[string]any{"add": quantity(*o.Add)}
	case set.On != nil:
		v = valued(*set.On, set.Fail)
	case set.Value != nil:
		switch f.Type {
		case usher.TypeInteger:
			v = set.Value.Int
		case usher.TypeDecimal:
			v = quantity(set.Value.Int)
		case usher.TypeList:
			v = set.Value.List
		default:
			v = set.Value.Text
		}
		v = valued(v, set.Fail)
	default:
		v = limits(set, quantity)
	}
	b, err := json.Marshal(v)
	if err != nil { // cannot be: only texts, numbers and maps
		return json.RawMessage("null")
	}
	return b
}

func valued(v any, fail usher.Fail) any {
	if fail == "" {
		return v
	}
	return map[string]any{"value": v, "fail": fail}
}

func limits(set *usher.OverrideSet, quantity func(int64) json.RawMessage) any {
	m := map[string]any{}
	if set.Unlimited {
		m["limit"] = "unlimited"
	}
	if set.Limit != nil {
		m["limit"] = quantity(*set.Limit)
	}
	if set.Per != nil {
		m["per"] = per(*set.Per)
	}
	if set.Anchor != "" {
		m["anchor"] = set.Anchor
	}
	if set.Priority != nil {
		m["priority"] = *set.Priority
	}
	if o := set.Overage; o != nil {
		switch {
		case o.Unlimited:
			m["overage"] = "unlimited"
		case o.Max == 0:
			m["overage"] = "none"
		default:
			m["overage"] = map[string]any{"max": quantity(o.Max)}
		}
	}
	if r := set.Rollover; r != nil {
		m["rollover"] = map[string]any{"max": quantity(r.Max), "windows": r.Windows}
	}
	if set.Caps != nil {
		caps := []any{}
		for _, c := range *set.Caps {
			cm := map[string]any{"limit": quantity(c.Limit), "per": per(c.Per)}
			if c.Anchor != "" && c.Anchor != usher.AnchorSubscription {
				cm["anchor"] = c.Anchor
			}
			if c.Sliding {
				cm["sliding"] = true
			}
			caps = append(caps, cm)
		}
		m["caps"] = caps
	}
	if set.Mode != "" {
		m["mode"] = set.Mode
	}
	if set.Fail != "" {
		m["fail"] = set.Fail
	}
	if set.Unlimited && len(m) == 1 {
		return "unlimited"
	}
	return m
}

func per(p usher.Period) any {
	if p.Every == 1 {
		return p.Unit
	}
	return map[string]any{"every": json.RawMessage(strconv.Itoa(p.Every)), "unit": p.Unit}
}
