package api

import (
	"context"
	"net/http"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/customers"
)

type grantIn struct {
	ID   string `path:"id"`
	Body struct {
		Feature     string          `json:"feature"`
		Amount      usher.Number    `json:"amount"`
		Kind        usher.GrantKind `json:"kind,omitempty" enum:"promotion,compensation,purchase" doc:"Default promotion"`
		Priority    *int            `json:"priority,omitempty" minimum:"0" maximum:"255" doc:"Lower burns first; default 100"`
		EffectiveAt string          `json:"effective_at,omitempty" format:"date-time" doc:"Default now"`
		ExpiresAt   string          `json:"expires_at,omitempty" format:"date-time" doc:"Absent: never"`
		Reason      string          `json:"reason" doc:"Up to 500 bytes"`
		Key         string          `json:"key,omitempty" doc:"The idempotency key, if not in the header"`
	}
	RawBody []byte
}

var (
	addGrantDoc = doc{ID: "createGrant", Tag: "Grants", Summary: "Give a customer a one-off amount", Status: http.StatusCreated,
		Text: "Of a metered feature that adds up, or of credits. Under one key it is given once."}
	listGrantsDoc  = doc{ID: "listGrants", Tag: "Grants", Summary: "A customer's grants, those that are over included"}
	deleteGrantDoc = doc{ID: "deleteGrant", Tag: "Grants", Summary: "Void what is left of a grant", Status: http.StatusNoContent}
)

func (a *API) addGrant(ctx context.Context, c *call, in *grantIn) (*madeOut[customers.Grant], error) {
	if err := noNulls(in.RawBody); err != nil {
		return nil, err
	}
	ask := customers.NewGrant{Feature: in.Body.Feature, Amount: in.Body.Amount, Kind: in.Body.Kind, Priority: in.Body.Priority, Reason: in.Body.Reason}
	var err error
	if ask.EffectiveAt, err = when("body.effective_at", in.Body.EffectiveAt); err != nil {
		return nil, err
	}
	if ask.ExpiresAt, err = when("body.expires_at", in.Body.ExpiresAt); err != nil {
		return nil, err
	}
	key := c.Key
	if k := in.Body.Key; k != "" {
		if err := usher.CheckIdempotencyKey(k); err != nil {
			return nil, at("body.key", err)
		}
		if key != "" && key != k {
			return nil, invalid("body.key", "is not the Idempotency-Key of the header: send one of them")
		}
		key = k
	}
	body := in.Body
	body.Key = ""
	return once(ctx, a, c, key, in.ID, body, func(m customers.Meta) (customers.Grant, error) {
		return a.Customers.AddGrant(ctx, c.Env, m, in.ID, ask)
	})
}

func (a *API) deleteGrant(ctx context.Context, c *call, in *pathID) (*struct{}, error) {
	return nil, a.Customers.VoidGrant(ctx, c.Env, meta(c), in.ID)
}

func (a *API) listGrants(ctx context.Context, c *call, in *listIn) (*listOut[customers.Grant], error) {
	after, err := cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	data, next, err := a.Customers.Grants(ctx, c.Env, in.ID, after, in.Limit)
	return listed(data, next), err
}
