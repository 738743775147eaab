package customers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
	"github.com/usher-sh/usher/internal/store"
)

// Customer is a customer as it is shown.
type Customer struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Timezone  string            `json:"timezone"` // "": the environment's
	Anchor    time.Time         `json:"anchor"`   // in force now (S18)
	Metadata  map[string]string `json:"metadata"`
	CreatedAt time.Time         `json:"created_at"`
	Revision  int64             `json:"revision,omitempty"` // of the customer's newest change; absent in lists
}

// CustomerInput is what a caller sends to create or replace a customer. Name, zone
// and metadata replace the old ones, also if they are absent. An absent anchor keeps
// the old anchor, because windows must not move by accident.
type CustomerInput struct {
	Name     string
	Timezone string // IANA; "": the environment's
	Anchor   *time.Time
	Metadata map[string]string
}

// The bounds of a customer; in bytes, except MaxMetadata.
const (
	MaxName          = 200
	MaxMetadata      = 50 // entries
	MaxMetadataKey   = 64
	MaxMetadataValue = 500
)

// PutCustomer creates a customer, replaces it, or revives a deleted one with its
// anchor and use (S36). created reports whether it did not exist. A new anchor or zone
// holds from now on (S18). If nothing changes, there is no new revision.
func (s *Service) PutCustomer(ctx context.Context, env usher.Environment, by usher.By, guard Guard, id string,
	in CustomerInput) (c Customer, created bool, err error) {
	if err := in.check(id); err != nil {
		return Customer{}, false, err
	}
	put := func(h *held, c *store.CustomerChange) (Customer, func(int64) Customer, error) {
		created = h.Customer == nil
		next := h.put(in)
		if len(next.Clocks) > maxClocks {
			return Customer{}, nil, usher.Errorf(usher.Refused, "the windows of customer %q have been moved %d times, which is the limit",
				id, maxClocks)
		}
		if !created && sameCustomer(h.Customer, next) {
			return show(next, h.now, h.Revision), nil, nil
		}
		c.Put = next
		return Customer{}, func(revision int64) Customer { return show(next, h.now, revision) }, nil
	}
	c, err = change(ctx, s, env, by, guard, id, "customer.put", put)
	return c, created, err
}

func sameCustomer(a, b *usher.Customer) bool {
	return a.Name == b.Name && a.Timezone == b.Timezone && maps.Equal(a.Metadata, b.Metadata) && slices.Equal(a.Clocks, b.Clocks) &&
		(a.Anchor == nil) == (b.Anchor == nil) && (a.Anchor == nil || a.Anchor.Equal(*b.Anchor))
}

// put returns the customer with the input's values: new, replaced or revived.
func (h *held) put(in CustomerInput) *usher.Customer {
	now := minute(h.now)
	next := &usher.Customer{ID: h.id, CreatedAt: h.now}
	switch {
	case h.Customer != nil:
		*next = *h.Customer
	case h.Deleted != nil:
		next.Anchor, next.Clocks = h.Deleted.Anchor, h.Deleted.Clocks
	default:
		next.Clocks = []usher.Clock{{From: now, Anchor: now, Timezone: in.Timezone}}
	}
	next.Name, next.Timezone, next.Metadata = in.Name, in.Timezone, in.Metadata
	next.Clocks = zoned(next.Clocks, now, in.Timezone, h.used)
	if in.Anchor == nil {
		return next
	}
	anchor := minute(*in.Anchor)
	if !next.Clocks[inForce(next.Clocks, now)].Anchor.Equal(anchor) {
		next.Clocks = anchored(next.Clocks, now, anchor, h.used)
	}
	next.Anchor = &anchor
	return next
}

func (in *CustomerInput) check(id string) error {
	var p problems
	if err := usher.CheckID("a customer's id", id); err != nil {
		p.add("id", "%s", err)
	}
	if words := untidy(in.Name, MaxName); words != "" {
		p.add("name", "%s", words)
	}
	if _, err := calendar.Zone(in.Timezone); err != nil {
		p.add("timezone", "%s", err)
	}
	if len(in.Metadata) > MaxMetadata {
		p.add("metadata", "must have at most %d entries, this has %d", MaxMetadata, len(in.Metadata))
	}
	for i, key := range slices.Sorted(maps.Keys(in.Metadata)) {
		if i == MaxMetadata {
			break
		}
		if words := untidy(key, MaxMetadataKey); words != "" || key == "" {
			p.add("metadata", "the key %.80q must be 1 to %d bytes of UTF-8 without control characters", key, MaxMetadataKey)
		}
		if words := untidy(in.Metadata[key], MaxMetadataValue); words != "" {
			p.add(fmt.Sprintf("metadata.%.80s", key), "%s", words)
		}
	}
	return p.err()
}

func show(c *usher.Customer, now time.Time, revision int64) Customer {
	v := Customer{ID: c.ID, Name: c.Name, Timezone: c.Timezone, Anchor: c.Clocks[inForce(c.Clocks, now)].Anchor,
		Metadata: c.Metadata, CreatedAt: c.CreatedAt, Revision: revision}
	if v.Metadata == nil {
		v.Metadata = map[string]string{}
	}
	return v
}

// Customer returns a customer; NotFound if it does not exist.
func (s *Service) Customer(ctx context.Context, env usher.Environment, id string) (Customer, error) {
	h, err := s.known(ctx, env, id)
	if err != nil {
		return Customer{}, err
	}
	return show(h.Customer, h.now, h.Revision), nil
}

// known reads a customer; NotFound if it does not exist.
func (s *Service) known(ctx context.Context, env usher.Environment, id string) (*held, error) {
	h, err := s.read(ctx, env, id)
	if err != nil {
		return nil, err
	}
	return h, h.must()
}

// Customers returns up to limit customers in the order of ids, after the given id, and
// the cursor of the next page, "" after the last.
func (s *Service) Customers(ctx context.Context, env usher.Environment, after string, limit int) ([]Customer, string, error) {
	all, err := s.cfg.DB.Customers(ctx, env, after, limit+1)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(all) > limit {
		all, next = all[:limit], all[limit-1].ID
	}
	now := s.cfg.Live.Now(env)
	out := make([]Customer, len(all))
	for i := range all {
		out[i] = show(&all[i], now, 0)
	}
	return out, next, nil
}

// DeleteCustomer erases name and metadata and ends everything that the customer holds.
// Its use stays (S36). It returns NotFound if the customer does not exist.
func (s *Service) DeleteCustomer(ctx context.Context, env usher.Environment, by usher.By, guard Guard, id string) error {
	remove := func(h *held, c *store.CustomerChange) (none struct{}, made func(int64) struct{}, err error) {
		if err := h.must(); err != nil {
			return none, nil, err
		}
		c.Delete = true
		// Subscriptions stay on record after their end, so that a trial is given only
		// once (S35).
		c.Subscriptions = slices.Clone(h.Subscriptions)
		for i := range c.Subscriptions {
			endBy(&c.Subscriptions[i], h.now)
		}
		return none, func(int64) struct{} { return none }, nil
	}
	_, err := change(ctx, s, env, by, guard, id, "customer.delete", remove)
	return err
}

// endBy ends a subscription at t, or at its start if that is later. It returns false
// if the subscription ends by then anyway.
func endBy(s *usher.Subscription, t time.Time) bool {
	if s.StartsAt.After(t) {
		t = s.StartsAt
	}
	if s.EndsAt != nil && !s.EndsAt.After(t) {
		return false
	}
	s.EndsAt = &t
	return true
}
