package customers

import (
	"context"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/live"
)

// Preview is the effect that a change of a subscription would have, feature by feature.
type Preview struct {
	At       time.Time // when the change would take effect; both decisions are of that instant
	Features []FeaturePreview
	Revision int64
}

// FeaturePreview is one feature without and with the change. The decisions are for one
// whole unit.
type FeaturePreview struct {
	Feature string
	Changed bool // the customer may do more, less or something else
	Before  usher.Decision
	After   usher.Decision
}

// Preview decides every feature without and with a patch, and changes nothing. It
// returns the errors that PatchSubscription would return.
func (s *Service) Preview(ctx context.Context, env usher.Environment, id string, in SubscriptionPatch) (Preview, error) {
	sub, err := s.cfg.DB.Subscription(ctx, env, id)
	if err != nil {
		return Preview{}, err
	}
	h, err := s.read(ctx, env, sub.Customer)
	if err != nil {
		return Preview{}, err
	}
	next, at, err := h.patch(id, in)
	if err != nil {
		return Preview{}, err
	}
	before, err := s.snapshot(ctx, env, h, at)
	if err != nil {
		return Preview{}, err
	}
	h.replaceSubscription(next)
	after, err := s.snapshot(ctx, env, h, at)
	if err != nil {
		return Preview{}, err
	}
	p := Preview{At: at, Revision: h.EnvRevision}
	for _, key := range before.World.Features() {
		q := engine.Query{Customer: h.id, Feature: key, Amount: 1}
		// One whole unit, in smallest units.
		for range h.book.Features[key].Precision {
			q.Amount *= 10
		}
		f := FeaturePreview{Feature: key, Before: engine.Decide(before, q, at), After: engine.Decide(after, q, at)}
		f.Changed = !same(&f.Before, &f.After)
		p.Features = append(p.Features, f)
	}
	return p, nil
}

// same reports whether two decisions mean the same for the customer, from whatever
// sources they come.
func same(a, b *usher.Decision) bool {
	sameValue := (a.Value == nil) == (b.Value == nil) && (a.Value == nil || a.Value.Equal(*b.Value))
	return a.Allowed == b.Allowed && a.Reason == b.Reason && sameValue && a.Unlimited == b.Unlimited &&
		a.Limit == b.Limit && a.Used == b.Used && a.Remaining == b.Remaining && a.Overage == b.Overage && a.Excess == b.Excess
}

// snapshot reads the use that decisions at an instant need, and joins it with what is
// held.
func (s *Service) snapshot(ctx context.Context, env usher.Environment, h *held, at time.Time) (*engine.Snapshot, error) {
	w := engine.NewWorld(engine.Facts{Book: h.book, Customer: h.Customer, Subscriptions: h.Subscriptions, Overrides: h.Overrides,
		Grants: h.Grants})
	keys, openings := w.Needs("", at)
	buckets, err := s.cfg.DB.LoadBuckets(ctx, env, h.id, keys)
	if err != nil {
		return nil, err
	}
	sums, err := live.Openings(ctx, s.cfg.DB, env, h.id, openings)
	if err != nil {
		return nil, err
	}
	return engine.NewSnapshot(w, h.EnvRevision, buckets, sums), nil
}
