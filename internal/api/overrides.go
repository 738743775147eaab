package api

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/door"
)

type overrideIn struct {
	ID   string `path:"id"`
	Body struct {
		Feature   string `json:"feature"`
		Value     any    `json:"value" doc:"What a plan would say: true, 90, {\"limit\": 5}, \"unlimited\"; or {\"add\": 500}, or {\"deny\": true}"`
		Reason    string `json:"reason" doc:"Up to 500 bytes"`
		ExpiresAt string `json:"expires_at,omitempty" format:"date-time" doc:"Either this, or expires"`
		Expires   string `json:"expires,omitempty" enum:"never"`
	}
	RawBody []byte
}

// exceptionPatchIn changes an override or a grant.
type exceptionPatchIn struct {
	ID   string `path:"id"`
	Body struct {
		ExpiresAt string `json:"expires_at,omitempty" format:"date-time" doc:"A new end, later than now"`
		Expires   string `json:"expires,omitempty" enum:"never" doc:"Never: no end"`
		Reason    string `json:"reason,omitempty" minLength:"1" doc:"Up to 500 bytes"`
	}
}

func (in *exceptionPatchIn) patch() (customers.ExceptionPatch, error) {
	end, err := door.When("body.expires_at", in.Body.ExpiresAt)
	return customers.ExceptionPatch{ExpiresAt: end, Expires: in.Body.Expires, Reason: in.Body.Reason}, err
}

type overrideOut struct{ Body customers.Override }

// overridesRoutes registers exceptions: what sales or support promised one
// customer beyond its plan, with a reason and, unless it is said to be forever,
// an end. An override changes one feature and ends by itself.
func (a *api) overridesRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "POST /v1/customers/{id}/overrides", Perm: auth.PermOverridesWrite, IfMatch: true,
		ID: "createOverride", Keyed: true, Tag: "Overrides", Summary: "Make an exception for one customer", Status: http.StatusCreated,
		Example: `{"feature":"sso","value":true,"reason":"beta","expires_at":"2026-06-01T00:00:00Z"}`,
		Answer: `{"id":"ovr_0pgp1k3vr2d8ktu5hb5mf1g8no","customer":"acme","feature":"sso","value":true,"reason":"beta",
			"expires_at":"2026-06-01T00:00:00Z","created_by":"key:key_0pgp1jbeml64gssk02rrp3n4to","created_at":"2026-03-10T12:00:00Z",
			"revision":18}`}, a.addOverride)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/overrides", Perm: auth.PermCustomersRead,
		ID: "listOverrides", Tag: "Overrides", Summary: "A customer's overrides, expired ones included",
		Answer: `{"data":[{"id":"ovr_0pgp1k3vr2d8ktu5hb5mf1g8no","customer":"acme","feature":"sso","value":true,"reason":"beta",
			"expires_at":"2026-06-01T00:00:00Z","created_by":"key:key_0pgp1jbeml64gssk02rrp3n4to","created_at":"2026-03-10T12:00:00Z",
			"revision":18}]}`}, a.listOverrides)
	door.Register(d, door.Route{Pattern: "PATCH /v1/overrides/{id}", Perm: auth.PermOverridesWrite, IfMatch: true,
		ID: "updateOverride", Tag: "Overrides", Summary: "Change the end or the reason of an override",
		Text:    "What is absent stays. One that has ended is not changed: 409.",
		Example: `{"expires_at":"2026-07-01T00:00:00Z","reason":"beta, extended"}`,
		Answer: `{"id":"ovr_0pgp1k3vr2d8ktu5hb5mf1g8no","customer":"acme","feature":"sso","value":true,"reason":"beta, extended",
			"expires_at":"2026-07-01T00:00:00Z","created_by":"key:key_0pgp1jbeml64gssk02rrp3n4to","created_at":"2026-03-10T12:00:00Z",
			"revision":19}`}, a.patchOverride)
	door.Register(d, door.Route{Pattern: "DELETE /v1/overrides/{id}", Perm: auth.PermOverridesWrite, IfMatch: true,
		ID: "deleteOverride", Tag: "Overrides", Summary: "End an override", Status: http.StatusNoContent}, a.deleteOverride)
}

func (a *api) addOverride(ctx context.Context, c *door.Call, in *overrideIn) (*madeOut[customers.Override], error) {
	expires, err := door.When("body.expires_at", in.Body.ExpiresAt)
	if err != nil {
		return nil, err
	}
	// The value as it was sent: its numbers must not become floats.
	var raw struct {
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(in.RawBody, &raw); err != nil {
		return nil, door.Invalid("body", "%s", err)
	}
	body := in.Body
	body.Value = raw.Value
	return once(ctx, a, c, c.Key, in.ID, body, func(g customers.Guard) (customers.Override, error) {
		return a.Customers.AddOverride(ctx, c.Env, c.By(), g, in.ID, customers.NewOverride{
			Feature: body.Feature, Value: raw.Value, Reason: body.Reason, ExpiresAt: expires, Expires: body.Expires})
	})
}

func (a *api) patchOverride(ctx context.Context, c *door.Call, in *exceptionPatchIn) (*overrideOut, error) {
	patch, err := in.patch()
	if err != nil {
		return nil, err
	}
	got, err := a.Customers.PatchOverride(ctx, c.Env, c.By(), guard(c), in.ID, patch)
	return &overrideOut{got}, err
}

func (a *api) deleteOverride(ctx context.Context, c *door.Call, in *door.PathID) (*struct{}, error) {
	return nil, a.Customers.RemoveOverride(ctx, c.Env, c.By(), guard(c), in.ID)
}

func (a *api) listOverrides(ctx context.Context, c *door.Call, in *door.ListIn) (*door.ListOut[customers.Override], error) {
	after, err := door.Cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	data, next, err := a.Customers.Overrides(ctx, c.Env, in.ID, after, in.Limit)
	return door.Listed(data, next), err
}
