package api

import (
	"context"
	"net/http"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

type keyBody struct {
	ID          string            `json:"id"`
	Environment usher.Environment `json:"environment"`
	Name        string            `json:"name,omitempty"`
	Role        string            `json:"role"`
	Customer    string            `json:"customer,omitempty" doc:"The customer of the key: of AuthZEN calls that name none, and the only one that SCIM serves"`
	Properties  bool              `json:"properties" doc:"Whether properties in requests may override stored ones"`
	Rate        *usher.RateLimit  `json:"rate,omitempty" doc:"The key's own limit of calls; absent: the server's"`
	Rotates     string            `json:"rotates,omitempty" doc:"The first key of the rotations that this key comes from"`
	CreatedAt   time.Time         `json:"created_at"`
	ExpiresAt   *time.Time        `json:"expires_at,omitempty"`
	RevokedAt   *time.Time        `json:"revoked_at,omitempty"`
	LastUsedAt  *time.Time        `json:"last_used_at,omitempty" doc:"To the minute; absent: never"`
	Key         string            `json:"key,omitempty" doc:"The key itself, only in the answer that creates it"`
}

func keyOf(k usher.APIKey, key string) keyBody {
	b := keyBody{ID: k.ID, Environment: k.Env, Name: k.Name, Role: k.Role, Customer: k.Customer, Properties: !k.NoProperties, Rotates: k.Line,
		CreatedAt: k.CreatedAt, ExpiresAt: some(k.ExpiresAt), RevokedAt: some(k.RevokedAt), LastUsedAt: some(k.LastUsedAt), Key: key}
	if k.Rate != (usher.RateLimit{}) {
		b.Rate = &k.Rate
	}
	return b
}

// some is a time that may not be there.
func some(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

type keyOut struct{ Body keyBody }

type createKeyIn struct {
	Body struct {
		Name       string  `json:"name,omitempty" maxLength:"255" doc:"What the key is for, for people to read"`
		Role       string  `json:"role"`
		ExpiresAt  string  `json:"expires_at,omitempty" format:"date-time" doc:"Default never"`
		Customer   string  `json:"customer,omitempty" doc:"The role scim needs one"`
		Properties *bool   `json:"properties,omitempty" doc:"Default true"`
		Rate       *rateIn `json:"rate,omitempty"`
	}
}

type rateIn struct {
	PerSecond int64 `json:"per_second,omitempty" minimum:"0" maximum:"1000000" doc:"Calls per second; 0 is the server's own limit"`
	Burst     int64 `json:"burst,omitempty" minimum:"0" maximum:"1000000" doc:"Calls at once; 0 is the server's own limit"`
}

type rotateKeyIn struct {
	ID   string `path:"id"`
	Body struct {
		Grace     string `json:"grace,omitempty" doc:"How long the old key stays valid, such as \"24h\", the default; at most \"2160h\"; \"0s\" ends it now"`
		ExpiresAt string `json:"expires_at,omitempty" format:"date-time" doc:"Of the new key; default: when the old one would have ended"`
	}
}

type nothingOut struct{}

// keysRoutes registers API keys. A key belongs to one environment and does what
// its role permits, for one customer if it names one. Its secret is shown once
// and stored as a hash. A key is replaced without an outage by rotating it:
// both keys work until the grace is over.
func (a *api) keysRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "GET /v1/keys", Perm: auth.PermKeysRead,
		ID: "listKeys", Tag: "Keys", Summary: "API keys of the environment, without their secrets",
		Text: "Ended ones too, oldest first.",
		Answer: `{"data":[{"id":"key_0pgp1uf2lvq1reftlujnf98jak","environment":"production","name":"shop","role":"app",
			"properties":true,"rate":{"per_second":50,"burst":100},"created_at":"2026-03-10T12:00:00Z"}]}`}, a.listKeys)
	door.Register(d, door.Route{Pattern: "POST /v1/keys", Perm: auth.PermKeysWrite,
		ID: "createKey", Tag: "Keys", Summary: "Make an API key", Status: http.StatusCreated,
		Text: "The key is for the caller's environment, with no more permissions than the caller has, and for no longer. Only this answer " +
			"shows the key, so the call accepts no Idempotency-Key.",
		Example: `{"name":"shop","role":"app","rate":{"per_second":50,"burst":100}}`,
		Answer: `{"id":"key_0pgp1uf2lvq1reftlujnf98jak","environment":"production","name":"shop","role":"app","properties":true,
			"rate":{"per_second":50,"burst":100},"created_at":"2026-03-10T12:00:00Z",
			"key":"usk_production_key_0pgp1uf2lvq1reftlujnf98jak_…"}`}, a.createKey)
	door.Register(d, door.Route{Pattern: "POST /v1/keys/{id}/rotate", Perm: auth.PermKeysWrite,
		ID: "rotateKey", Tag: "Keys", Summary: "Replace a key by a new one; the old one then ends", Status: http.StatusCreated,
		Text: "Same name, role, customer and limit, and the same end unless `expires_at` sets another. Both live until the old one's " +
			"grace is over. Two live keys of one line at most: 409.",
		Example: `{"grace":"24h"}`,
		Answer: `{"id":"key_0pgp1uf2lvq1reftlujnf98jak","environment":"production","name":"shop","role":"app","properties":true,
			"rate":{"per_second":50,"burst":100},"created_at":"2026-03-10T12:00:00Z","rotates":"key_0pgp1jbeml64gssk02rrp3n4to",
			"key":"usk_production_key_0pgp1uf2lvq1reftlujnf98jak_…"}`}, a.rotateKey)
	door.Register(d, door.Route{Pattern: "DELETE /v1/keys/{id}", Perm: auth.PermKeysRevoke,
		ID: "revokeKey", Tag: "Keys", Summary: "Revoke an API key permanently", Status: http.StatusNoContent,
		Text: "At once on this node, within a second on others."}, a.revokeKey)
}

func (a *api) listKeys(ctx context.Context, c *door.Call, in *door.PageIn) (*door.ListOut[keyBody], error) {
	keys, err := a.Auth.Keys(ctx, c.Env)
	if err != nil {
		return nil, err
	}
	all := make([]keyBody, len(keys))
	for i, k := range keys {
		all[i] = keyOf(k, "")
	}
	return door.Page(all, func(k keyBody) string { return k.ID }, in)
}

// mayMake says why a key may not be made by the caller, or not at all.
func (a *api) mayMake(ctx context.Context, c *door.Call, n auth.NewKey) error {
	if c.Key != "" {
		return door.Invalid("header.Idempotency-Key",
			"is not taken here: the answer would have to be stored, and the key with it. Leave it out, and end a key whose answer was lost")
	}
	if err := c.MayMake(n); err != nil {
		return err
	}
	return a.Auth.CustomerThere(ctx, c.Env, n.Customer)
}

func (a *api) createKey(ctx context.Context, c *door.Call, in *createKeyIn) (*keyOut, error) {
	ignored := in.Body.Properties != nil && !*in.Body.Properties
	n := auth.NewKey{Name: in.Body.Name, Role: in.Body.Role, Customer: in.Body.Customer, NoProperties: ignored}
	expires, err := door.When("body.expires_at", in.Body.ExpiresAt)
	if err != nil {
		return nil, err
	}
	if expires != nil {
		n.ExpiresAt = *expires
	}
	if r := in.Body.Rate; r != nil {
		n.Rate = usher.RateLimit{PerSecond: r.PerSecond, Burst: r.Burst}
	}
	if err := a.mayMake(ctx, c, n); err != nil {
		return nil, err
	}
	key, k, err := a.Auth.CreateKey(ctx, c.By(), c.Env, n)
	if err != nil {
		return nil, err
	}
	return &keyOut{keyOf(k, key)}, nil
}

func (a *api) rotateKey(ctx context.Context, c *door.Call, in *rotateKeyIn) (*keyOut, error) {
	old, err := a.Auth.Key(ctx, c.Env, in.ID)
	if err != nil {
		return nil, err
	}
	grace := auth.DefaultGrace
	if in.Body.Grace != "" {
		if grace, err = time.ParseDuration(in.Body.Grace); err != nil {
			return nil, door.Invalid("body.grace", `must be a span such as "24h", got %q`, door.Clip(in.Body.Grace))
		}
	}
	expires, err := door.When("body.expires_at", in.Body.ExpiresAt)
	if err != nil {
		return nil, err
	}
	n := auth.NewKey{Role: old.Role, Customer: old.Customer, NoProperties: old.NoProperties, Rate: old.Rate}
	switch {
	case expires != nil:
		n.ExpiresAt = *expires
	default:
		if n.ExpiresAt, err = a.Auth.LineEnd(ctx, c.Env, in.ID); err != nil {
			return nil, err
		}
	}
	if err := a.mayMake(ctx, c, n); err != nil {
		return nil, err
	}
	key, k, err := a.Auth.RotateKey(ctx, c.By(), c.Env, in.ID, grace, n.ExpiresAt)
	if err != nil {
		return nil, err
	}
	return &keyOut{keyOf(k, key)}, nil
}

func (a *api) revokeKey(ctx context.Context, c *door.Call, in *door.PathID) (*nothingOut, error) {
	if _, err := a.Auth.Key(ctx, c.Env, in.ID); err != nil {
		return nil, err
	}
	return nil, a.Auth.RevokeKey(ctx, c.By(), in.ID)
}
