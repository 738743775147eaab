package api

import (
	"context"
	"net/http"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/door"
)

type grantIn struct {
	ID   string `path:"id"`
	Body struct {
		Feature     string          `json:"feature"`
		Amount      usher.Number    `json:"amount"`
		Kind        usher.GrantKind `json:"kind,omitempty" doc:"Default promotion"`
		Priority    *int            `json:"priority,omitempty" minimum:"0" maximum:"255" doc:"Lower burns first; default 100"`
		EffectiveAt string          `json:"effective_at,omitempty" format:"date-time" doc:"Default now"`
		ExpiresAt   string          `json:"expires_at,omitempty" format:"date-time" doc:"Absent: never"`
		Reason      string          `json:"reason" doc:"Up to 500 bytes"`
		Key         string          `json:"key,omitempty" doc:"The idempotency key, if not in the header"`
	}
}

// grantsRoutes registers one-off amounts: credits that were bought, a
// promotion, a compensation by support. A grant has its own balance and, if it
// has an end, an end; which grant is used first follows from priority and end
// (S08). Voiding one takes away what is left of it, never what was used.
func (a *api) grantsRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "POST /v1/customers/{id}/grants", Perm: auth.PermGrantsWrite, IfMatch: true,
		ID: "createGrant", Keyed: true, Tag: "Grants", Summary: "Give a customer a one-off amount", Status: http.StatusCreated,
		Text: "Of a metered feature that adds up, or of credits. Under one key it is given once.",
		Example: `{"feature":"api_calls","amount":5000,"kind":"compensation","priority":50,"expires_at":"2026-06-01T00:00:00Z",
			"reason":"outage of 9 March"}`,
		Answer: `{"id":"gr_0pgp1k3vr2d8ktu5hb5mf1g8no","customer":"acme","feature":"api_calls","amount":5000,"kind":"compensation",
			"priority":50,"effective_at":"2026-03-10T12:00:00Z","expires_at":"2026-06-01T00:00:00Z","reason":"outage of 9 March",
			"created_by":"key:key_0pgp1jbeml64gssk02rrp3n4to","created_at":"2026-03-10T12:00:00Z","revision":18}`}, a.addGrant)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/grants", Perm: auth.PermCustomersRead,
		ID: "listGrants", Tag: "Grants", Summary: "A customer's grants, ended ones included",
		Answer: `{"data":[{"id":"gr_0pgp1k3vr2d8ktu5hb5mf1g8no","customer":"acme","feature":"api_calls","amount":5000,"kind":"compensation",
			"priority":50,"effective_at":"2026-03-10T12:00:00Z","expires_at":"2026-06-01T00:00:00Z","reason":"outage of 9 March",
			"created_by":"key:key_0pgp1jbeml64gssk02rrp3n4to","created_at":"2026-03-10T12:00:00Z","revision":18}]}`}, a.listGrants)
	door.Register(d, door.Route{Pattern: "PATCH /v1/grants/{id}", Perm: auth.PermGrantsWrite, IfMatch: true,
		ID: "updateGrant", Tag: "Grants", Summary: "Change the end or the reason of a grant",
		Text:    "What is absent stays. One that has ended or was voided is not changed: 409.",
		Example: `{"expires_at":"2026-07-01T00:00:00Z"}`,
		Answer: `{"id":"gr_0pgp1k3vr2d8ktu5hb5mf1g8no","customer":"acme","feature":"api_calls","amount":5000,"kind":"compensation",
			"priority":50,"effective_at":"2026-03-10T12:00:00Z","expires_at":"2026-07-01T00:00:00Z","reason":"outage of 9 March",
			"created_by":"key:key_0pgp1jbeml64gssk02rrp3n4to","created_at":"2026-03-10T12:00:00Z","revision":19}`}, a.patchGrant)
	door.Register(d, door.Route{Pattern: "DELETE /v1/grants/{id}", Perm: auth.PermGrantsWrite, IfMatch: true,
		ID: "deleteGrant", Tag: "Grants", Summary: "Void what is left of a grant", Status: http.StatusNoContent}, a.deleteGrant)
}

func (a *api) addGrant(ctx context.Context, c *door.Call, in *grantIn) (*madeOut[customers.Grant], error) {
	ask := customers.NewGrant{Feature: in.Body.Feature, Amount: in.Body.Amount, Kind: in.Body.Kind, Priority: in.Body.Priority,
		Reason: in.Body.Reason}
	var err error
	if ask.EffectiveAt, err = door.When("body.effective_at", in.Body.EffectiveAt); err != nil {
		return nil, err
	}
	if ask.ExpiresAt, err = door.When("body.expires_at", in.Body.ExpiresAt); err != nil {
		return nil, err
	}
	key := c.Key
	if k := in.Body.Key; k != "" {
		if err := usher.CheckIdempotencyKey(k); err != nil {
			return nil, door.At("body.key", err)
		}
		if key != "" && key != k {
			return nil, door.Invalid("body.key", "is not the Idempotency-Key of the header: send one of them")
		}
		key = k
	}
	body := in.Body
	body.Key = ""
	return once(ctx, a, c, key, in.ID, body, func(g customers.Guard) (customers.Grant, error) {
		return a.Customers.AddGrant(ctx, c.Env, c.By(), g, in.ID, ask)
	})
}

type grantOut struct{ Body customers.Grant }

func (a *api) patchGrant(ctx context.Context, c *door.Call, in *exceptionPatchIn) (*grantOut, error) {
	patch, err := in.patch()
	if err != nil {
		return nil, err
	}
	got, err := a.Customers.PatchGrant(ctx, c.Env, c.By(), guard(c), in.ID, patch)
	return &grantOut{got}, err
}

func (a *api) deleteGrant(ctx context.Context, c *door.Call, in *door.PathID) (*struct{}, error) {
	return nil, a.Customers.VoidGrant(ctx, c.Env, c.By(), guard(c), in.ID)
}

func (a *api) listGrants(ctx context.Context, c *door.Call, in *door.ListIn) (*door.ListOut[customers.Grant], error) {
	after, err := door.Cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	data, next, err := a.Customers.Grants(ctx, c.Env, in.ID, after, in.Limit)
	return door.Listed(data, next), err
}
