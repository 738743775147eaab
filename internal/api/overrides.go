package api

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/usher-sh/usher/internal/customers"
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

var (
	addOverrideDoc = doc{ID: "createOverride", Tag: "Overrides", Summary: "Make an exception for one customer", Status: http.StatusCreated,
		Text: "Takes an Idempotency-Key."}
	listOverridesDoc  = doc{ID: "listOverrides", Tag: "Overrides", Summary: "A customer's overrides, expired ones included"}
	deleteOverrideDoc = doc{ID: "deleteOverride", Tag: "Overrides", Summary: "End an override", Status: http.StatusNoContent}
)

func (a *API) addOverride(ctx context.Context, c *call, in *overrideIn) (*madeOut[customers.Override], error) {
	if err := noNulls(in.RawBody, "value"); err != nil {
		return nil, err
	}
	expires, err := when("body.expires_at", in.Body.ExpiresAt)
	if err != nil {
		return nil, err
	}
	// The value as it was sent: its numbers must not become floats.
	var raw struct {
		Value json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal(in.RawBody, &raw); err != nil {
		return nil, invalid("body", "%s", err)
	}
	body := in.Body
	body.Value = raw.Value
	return once(ctx, a, c, c.Key, in.ID, body, func(m customers.Meta) (customers.Override, error) {
		return a.Customers.AddOverride(ctx, c.Env, m, in.ID, customers.NewOverride{
			Feature: body.Feature, Value: raw.Value, Reason: body.Reason, ExpiresAt: expires, Expires: body.Expires})
	})
}

func (a *API) deleteOverride(ctx context.Context, c *call, in *pathID) (*struct{}, error) {
	return nil, a.Customers.RemoveOverride(ctx, c.Env, meta(c), in.ID)
}

func (a *API) listOverrides(ctx context.Context, c *call, in *listIn) (*listOut[customers.Override], error) {
	after, err := cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	data, next, err := a.Customers.Overrides(ctx, c.Env, in.ID, after, in.Limit)
	return listed(data, next), err
}
