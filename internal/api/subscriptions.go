package api

import (
	"context"
	"net/http"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/door"
)

type addonIn struct {
	Addon    string `json:"addon" doc:"A key, or a version such as api-pack@1, from which migrations do not move the subscription"`
	Quantity int    `json:"quantity,omitempty" minimum:"1" maximum:"10000" doc:"Default 1"`
}

func addonInputs(all []addonIn) []customers.AddonInput {
	out := make([]customers.AddonInput, len(all))
	for i, a := range all {
		out[i] = customers.AddonInput(a)
	}
	return out
}

type subscribeIn struct {
	ID   string `path:"id"`
	Body struct {
		Plan        string    `json:"plan" doc:"A key, or a version such as pro@1, from which migrations do not move the subscription"`
		StartsAt    string    `json:"starts_at,omitempty" format:"date-time" doc:"Default now; may lie in the past"`
		EndsAt      string    `json:"ends_at,omitempty" format:"date-time"`
		Anchor      string    `json:"anchor,omitempty" format:"date-time" doc:"Where the customer's windows are counted from"`
		TrialEndsAt maybeTime `json:"trial_ends_at,omitempty" doc:"Absent: the plan's trial; null: none"`
		Addons      []addonIn `json:"addons,omitempty" nullable:"false" maxItems:"1000"`
	}
}

type patchIn struct {
	ID   string `path:"id"`
	Body subscriptionPatchIn
}

type subscriptionPatchIn struct {
	Plan        string     `json:"plan,omitempty" minLength:"1" doc:"Of the same family"`
	Addons      *[]addonIn `json:"addons,omitempty" nullable:"false" maxItems:"1000" doc:"Replaces the list"`
	EndsAt      maybeTime  `json:"ends_at,omitempty" doc:"Null: no end. Takes effect at once, whatever when says"`
	TrialEndsAt maybeTime  `json:"trial_ends_at,omitempty" doc:"Null: no trial. Takes effect at once, whatever when says"`
	Status      string     `json:"status,omitempty" enum:"active,past_due,suspended,canceled"`
	When        string     `json:"when,omitempty" doc:"\"now\" (default), \"period_end\", or a time not before now"`
}

type subscriptionOut struct{ Body customers.Subscription }

type previewOut struct {
	Body struct {
		At       time.Time        `json:"at" doc:"When the change would take effect"`
		Features []featurePreview `json:"features" nullable:"false"`
		Revision int64            `json:"revision"`
	}
}

type featurePreview struct {
	Feature string         `json:"feature"`
	Changed bool           `json:"changed"`
	Before  usher.Decision `json:"before"`
	After   usher.Decision `json:"after"`
}

// subscriptionsRoutes registers which plan a customer has, and when that
// changes. A customer has one plan of each family; a new one replaces the old
// one. Changes are recorded with the time from which they hold, in the past or
// in the future, and a preview says for each feature what a change would come
// to.
func (a *api) subscriptionsRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "POST /v1/customers/{id}/subscriptions", Perm: auth.PermSubscriptionsWrite, IfMatch: true,
		ID: "createSubscription", Keyed: true, Tag: "Subscriptions", Summary: "Subscribe a customer to a plan", Status: http.StatusCreated,
		Text:    "A subscription of the same family ends where this one starts.",
		Example: `{"plan":"pro","addons":[{"addon":"api-pack","quantity":2}]}`,
		Answer: `{"id":"sub_0pgp1k3vr2d8ktu5hb5mf1g8no","customer":"acme","plan":"pro@1","family":"main","status":"active",
			"starts_at":"2026-03-01T00:00:00Z","addons":[{"addon":"api-pack@1","quantity":2}],"current_period":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"created_at":"2026-03-01T00:00:00Z","revision":17}`}, a.subscribe)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/subscriptions", Perm: auth.PermCustomersRead,
		ID: "listSubscriptions", Tag: "Subscriptions", Summary: "A customer's subscriptions, ended ones included",
		Answer: `{"data":[{"id":"sub_0pgp1k3vr2d8ktu5hb5mf1g8no","customer":"acme","plan":"pro@1","family":"main","status":"active",
			"starts_at":"2026-03-01T00:00:00Z","addons":[{"addon":"api-pack@1","quantity":2}],"current_period":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"created_at":"2026-03-01T00:00:00Z","revision":17}]}`}, a.listSubscriptions)
	door.Register(d, door.Route{Pattern: "GET /v1/subscriptions/{id}", Perm: auth.PermCustomersRead,
		ID: "getSubscription", Tag: "Subscriptions", Summary: "A subscription",
		Answer: `{"id":"sub_0pgp1k3vr2d8ktu5hb5mf1g8no","customer":"acme","plan":"pro@1","family":"main","status":"active",
			"starts_at":"2026-03-01T00:00:00Z","addons":[{"addon":"api-pack@1","quantity":2}],"current_period":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"created_at":"2026-03-01T00:00:00Z","revision":17}`}, a.getSubscription)
	door.Register(d, door.Route{Pattern: "PATCH /v1/subscriptions/{id}", Perm: auth.PermSubscriptionsWrite, IfMatch: true,
		ID: "updateSubscription", Keyed: true, Tag: "Subscriptions", Summary: "Change a subscription, now or later",
		Text:    "What is absent stays. A change supersedes later scheduled changes of the same fields.",
		Example: `{"addons":[{"addon":"api-pack","quantity":2}],"when":"now"}`,
		Answer: `{"id":"sub_0pgp1k3vr2d8ktu5hb5mf1g8no","customer":"acme","plan":"pro@1","family":"main","status":"active",
			"starts_at":"2026-03-01T00:00:00Z","addons":[{"addon":"api-pack@1","quantity":2}],"current_period":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"created_at":"2026-03-01T00:00:00Z","revision":17}`}, a.patchSubscription)
	door.Register(d, door.Route{Pattern: "POST /v1/subscriptions/{id}/preview", Perm: auth.PermCustomersRead,
		ID: "previewSubscription", Tag: "Subscriptions", Summary: "What a change would do, feature by feature",
		Text:    "Takes the body of the change, and changes nothing.",
		Example: `{"plan":"free"}`,
		Answer: `{"at":"2026-03-10T12:00:00Z","features":[{"feature":"sso","changed":true,"before":{"allowed":true,"reason":"granted",
			"customer":"acme","feature":"sso","kind":"switch","plan":"pro@1","revision":17},"after":{"allowed":false,
			"reason":"not_entitled","customer":"acme","feature":"sso","kind":"switch","revision":17}}],"revision":17}`}, a.previewSubscription)
}

func (a *api) subscribe(ctx context.Context, c *door.Call, in *subscribeIn) (*madeOut[customers.Subscription], error) {
	ask := customers.NewSubscription{Plan: in.Body.Plan, TrialEnd: in.Body.TrialEndsAt.MaybeTime, Addons: addonInputs(in.Body.Addons)}
	var err error
	if ask.StartsAt, err = door.When("body.starts_at", in.Body.StartsAt); err != nil {
		return nil, err
	}
	if ask.EndsAt, err = door.When("body.ends_at", in.Body.EndsAt); err != nil {
		return nil, err
	}
	if ask.Anchor, err = door.When("body.anchor", in.Body.Anchor); err != nil {
		return nil, err
	}
	return once(ctx, a, c, c.Key, in.ID, in.Body, func(g customers.Guard) (customers.Subscription, error) {
		return a.Customers.Subscribe(ctx, c.Env, c.By(), g, in.ID, ask)
	})
}

func (b *subscriptionPatchIn) patch() customers.SubscriptionPatch {
	p := customers.SubscriptionPatch{EndsAt: b.EndsAt.MaybeTime, TrialEnd: b.TrialEndsAt.MaybeTime, Status: usher.Status(b.Status),
		When: b.When}
	if b.Plan != "" {
		p.Plan = &b.Plan
	}
	if b.Addons != nil {
		all := addonInputs(*b.Addons)
		p.Addons = &all
	}
	return p
}

func (a *api) patchSubscription(ctx context.Context, c *door.Call, in *patchIn) (*madeOut[customers.Subscription], error) {
	return once(ctx, a, c, c.Key, in.ID, in.Body, func(g customers.Guard) (customers.Subscription, error) {
		return a.Customers.PatchSubscription(ctx, c.Env, c.By(), g, in.ID, in.Body.patch())
	})
}

func (a *api) previewSubscription(ctx context.Context, c *door.Call, in *patchIn) (*previewOut, error) {
	p, err := a.Customers.Preview(ctx, c.Env, in.ID, in.Body.patch())
	if err != nil {
		return nil, err
	}
	out := &previewOut{}
	out.Body.At, out.Body.Revision = p.At, p.Revision
	out.Body.Features = make([]featurePreview, len(p.Features))
	for i, f := range p.Features {
		out.Body.Features[i] = featurePreview(f)
	}
	return out, nil
}

func (a *api) getSubscription(ctx context.Context, c *door.Call, in *door.PathID) (*subscriptionOut, error) {
	got, err := a.Customers.Subscription(ctx, c.Env, in.ID)
	return &subscriptionOut{got}, err
}

func (a *api) listSubscriptions(ctx context.Context, c *door.Call, in *door.ListIn) (*door.ListOut[customers.Subscription], error) {
	after, err := door.Cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	data, next, err := a.Customers.Subscriptions(ctx, c.Env, in.ID, after, in.Limit)
	return door.Listed(data, next), err
}
