package customers

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// Grant is a grant as answers show it.
type Grant struct {
	ID          string          `json:"id"`
	Customer    string          `json:"customer"`
	Feature     string          `json:"feature"`
	Amount      json.RawMessage `json:"amount" quantity:"true"` // a number, or a decimal string if the feature has a precision
	Kind        usher.GrantKind `json:"kind"`
	Priority    int             `json:"priority"`
	EffectiveAt time.Time       `json:"effective_at"`
	ExpiresAt   *time.Time      `json:"expires_at,omitempty"`
	VoidedAt    *time.Time      `json:"voided_at,omitempty"`
	Reason      string          `json:"reason"`
	CreatedBy   string          `json:"created_by"`
	CreatedAt   time.Time       `json:"created_at"`
	Revision    int64           `json:"revision"` // of the customer's newest change
}

// NewGrant is a grant to be made.
type NewGrant struct {
	Feature     string
	Amount      usher.Number
	Kind        usher.GrantKind // "": promotion
	Priority    *int            // nil: usher.DefaultPriority
	EffectiveAt *time.Time      // nil: now
	ExpiresAt   *time.Time      // nil: never
	Reason      string
}

// AddGrant gives a customer a one-off amount of credits, or of a metered feature whose
// use adds up. For any other feature it is Refused. The sum of a feature's grants that
// have not ended must be countable.
func (s *Service) AddGrant(ctx context.Context, env usher.Environment, by usher.By, guard Guard, customer string, in NewGrant) (
	Grant, error) {
	id := s.cfg.NewID("gr_")
	create := func(h *held, c *store.CustomerChange) (none Grant, made func(int64) Grant, err error) {
		if err := h.must(); err != nil {
			return none, nil, err
		}
		g, err := h.grant(id, in)
		if err != nil {
			return none, nil, err
		}
		if len(h.Grants) >= maxHeld {
			return none, nil, usher.Errorf(usher.Refused, "the customer has had %d grants already, which is the limit", maxHeld)
		}
		g.CreatedBy = by.Actor.String()
		c.Grants = []usher.Grant{g}
		c.Note.Object = id
		return none, func(revision int64) Grant { return h.showGrant(&g, revision) }, nil
	}
	return change(ctx, s, env, by, guard, customer, "grant.create", create)
}

func (h *held) grant(id string, in NewGrant) (usher.Grant, error) {
	var p problems
	g := usher.Grant{ID: id, Customer: h.id, Feature: in.Feature, Kind: in.Kind, Priority: usher.DefaultPriority,
		EffectiveAt: h.now, ExpiresAt: microp(in.ExpiresAt), Reason: in.Reason, CreatedAt: h.now}
	if in.EffectiveAt != nil {
		g.EffectiveAt = micro(*in.EffectiveAt)
	}
	if in.Priority != nil {
		g.Priority = *in.Priority
	}
	p.reason(in.Reason)
	switch g.Kind {
	case "":
		g.Kind = usher.Promotion
	case usher.Promotion, usher.Purchase, usher.Compensation:
	default:
		p.add("kind", "must be promotion, purchase or compensation, got %.40q", string(g.Kind))
	}
	if g.Priority < 0 || g.Priority > 255 {
		p.add("priority", "must be from 0 (burns first) to 255, got %d", g.Priority)
	}
	if g.ExpiresAt != nil && !g.ExpiresAt.After(g.EffectiveAt) {
		p.add("expires_at", "must be after effective_at (%s)", g.EffectiveAt.Format(time.RFC3339Nano))
	}
	f := h.feature(&p, in.Feature)
	if f != nil {
		if f.Kind != usher.Metered && f.Kind != usher.Credits || h.book.Gauge(f) {
			return g, usher.Errorf(usher.Refused, "a grant is an amount to be used up, but %s is %s: make an override instead", f.Key, unfit(h, f))
		}
		h.grantAmount(&p, &g, f, in.Amount)
	}
	return g, p.err()
}

// unfit says what a feature is for which no grant can be made.
func unfit(h *held, f *usher.Feature) string {
	if h.book.Gauge(f) {
		return "a level, measured by " + string(h.book.Meter(f).Aggregation)
	}
	return "of kind " + string(f.Kind)
}

func (h *held) grantAmount(p *problems, g *usher.Grant, f *usher.Feature, amount usher.Number) {
	if amount == "" {
		p.add("amount", "is required")
		return
	}
	units, err := amount.Units(f.Precision)
	if err != nil {
		p.add("amount", "%s", err)
		return
	}
	if units == 0 {
		p.add("amount", "must be more than 0")
		return
	}
	g.Amount = units
	// Counts down what may be left, because adding up could overflow.
	left := int64(math.MaxInt64) - units
	for _, o := range h.Grants {
		if o.Feature != f.Key || o.VoidedAt != nil || o.ExpiresAt != nil && !o.ExpiresAt.After(h.now) {
			continue
		}
		if o.Amount > left {
			p.add("amount", "is, together with the customer's other grants, beyond what can be counted (at most %s)",
				usher.FormatQuantity(usher.MaxQuantity, f.Precision))
			return
		}
		left -= o.Amount
	}
}

// VoidGrant takes away what is left of a grant; use that burned it stays. It does
// nothing to a grant that is void already, and returns NotFound if the grant does not
// exist.
func (s *Service) VoidGrant(ctx context.Context, env usher.Environment, by usher.By, guard Guard, id string) error {
	g, err := s.cfg.DB.Grant(ctx, env, id)
	if err != nil {
		return err
	}
	void := func(h *held, c *store.CustomerChange) (none struct{}, made func(int64) struct{}, err error) {
		i := slices.IndexFunc(h.Grants, func(g usher.Grant) bool { return g.ID == id })
		if i < 0 {
			return none, nil, usher.Errorf(usher.NotFound, "no grant %q", id)
		}
		g := h.Grants[i]
		if g.VoidedAt != nil {
			return none, nil, nil
		}
		g.VoidedAt = &h.now
		c.Grants = []usher.Grant{g}
		c.Note.Object = id
		return none, func(int64) struct{} { return none }, nil
	}
	_, err = change(ctx, s, env, by, guard, g.Customer, "grant.void", void)
	return err
}

// Grants returns up to limit of a customer's grants, also ended ones, in the order of
// ids after the given id, and the cursor of the next page.
func (s *Service) Grants(ctx context.Context, env usher.Environment, customer, after string, limit int) ([]Grant, string, error) {
	h, err := s.known(ctx, env, customer)
	if err != nil {
		return nil, "", err
	}
	all, next := page(h.Grants, func(g *usher.Grant) string { return g.ID }, after, limit)
	out := make([]Grant, len(all))
	for i := range all {
		out[i] = h.showGrant(&all[i], h.Revision)
	}
	return out, next, nil
}

func (h *held) showGrant(g *usher.Grant, revision int64) Grant {
	precision := 0
	if f := h.book.Features[g.Feature]; f != nil {
		precision = f.Precision
	}
	return Grant{
		ID: g.ID, Customer: g.Customer, Feature: g.Feature, Amount: usher.AppendQuantity(nil, g.Amount, precision),
		Kind: g.Kind, Priority: g.Priority, EffectiveAt: g.EffectiveAt, ExpiresAt: g.ExpiresAt, VoidedAt: g.VoidedAt,
		Reason: g.Reason, CreatedBy: g.CreatedBy, CreatedAt: g.CreatedAt, Revision: revision,
	}
}
