package customers

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// audited is one side of a change in the audit log: what was before, or after.
type audited struct {
	Customer      *auditedCustomer     `json:"customer,omitempty"`
	Subscriptions []usher.Subscription `json:"subscriptions,omitempty"`
	Overrides     []Override           `json:"overrides,omitempty"`
	Grants        []Grant              `json:"grants,omitempty"`
}

// auditedCustomer leaves out what may be personal data: it says whether name and
// metadata changed, but not their values.
type auditedCustomer struct {
	Timezone string     `json:"timezone,omitempty"`
	Anchor   *time.Time `json:"anchor,omitempty"`
	Changed  []string   `json:"changed,omitempty"` // fields whose values are left out
}

func auditCustomer(c *usher.Customer) *auditedCustomer {
	if c == nil {
		return nil
	}
	v := &auditedCustomer{Timezone: c.Timezone}
	if len(c.Clocks) > 0 {
		v.Anchor = &c.Clocks[len(c.Clocks)-1].Anchor
	}
	return v
}

// copied returns a copy of h, to be compared with h after a change.
func (h *held) copied() *held {
	old := *h
	if h.Customer != nil {
		c := *h.Customer
		old.Customer = &c
	}
	old.Subscriptions, old.Overrides, old.Grants = slices.Clone(h.Subscriptions), slices.Clone(h.Overrides), slices.Clone(h.Grants)
	// Changes replace phases in place, so these are copied too.
	for i := range old.Subscriptions {
		old.Subscriptions[i].Phases = slices.Clone(h.Subscriptions[i].Phases)
	}
	return &old
}

// audit fills in the audit record of c. h is the state before the change.
func (h *held) audit(c *store.CustomerChange) (err error) {
	var before, after audited
	switch {
	case c.Put != nil:
		before.Customer, after.Customer = auditCustomer(h.Customer), auditCustomer(c.Put)
		old := h.Customer
		if old == nil {
			old = &usher.Customer{}
		}
		if old.Name != c.Put.Name {
			after.Customer.Changed = append(after.Customer.Changed, "name")
		}
		if !maps.Equal(old.Metadata, c.Put.Metadata) {
			after.Customer.Changed = append(after.Customer.Changed, "metadata")
		}
	case c.Delete:
		before.Customer = auditCustomer(h.Customer)
	}
	for i := range h.Subscriptions {
		s := &h.Subscriptions[i]
		if slices.ContainsFunc(c.Subscriptions, func(n usher.Subscription) bool { return n.ID == s.ID }) {
			before.Subscriptions = append(before.Subscriptions, *s)
		}
	}
	after.Subscriptions = c.Subscriptions
	for i := range h.Overrides {
		if o := &h.Overrides[i]; c.Delete || slices.Contains(c.CloseOverrides, o.ID) ||
			slices.ContainsFunc(c.Overrides, func(n usher.Override) bool { return n.ID == o.ID }) {
			before.Overrides = append(before.Overrides, h.showOverride(o, h.Revision))
		}
	}
	for i := range c.Overrides {
		after.Overrides = append(after.Overrides, h.showOverride(&c.Overrides[i], h.Revision))
		c.Note.Reason = c.Overrides[i].Reason
	}
	for i := range h.Grants {
		g := &h.Grants[i]
		if c.Delete || slices.Contains(c.CloseGrants, g.ID) || slices.ContainsFunc(c.Grants, func(n usher.Grant) bool { return n.ID == g.ID }) {
			before.Grants = append(before.Grants, h.showGrant(g, h.Revision))
		}
	}
	for i := range c.Grants {
		after.Grants = append(after.Grants, h.showGrant(&c.Grants[i], h.Revision))
		if c.Grants[i].VoidedAt == nil {
			c.Note.Reason = c.Grants[i].Reason
		}
	}
	if c.Note.Before, err = before.json(); err == nil {
		c.Note.After, err = after.json()
	}
	return err
}

// json returns one side of a change as JSON; nil if it is empty.
func (a *audited) json() (json.RawMessage, error) {
	if a.Customer == nil && len(a.Subscriptions)+len(a.Overrides)+len(a.Grants) == 0 {
		return nil, nil
	}
	return json.Marshal(a)
}
