package api

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/door"
)

// madeOut is the answer of a call that takes an idempotency key.
type madeOut[T any] struct {
	Replayed string `header:"Idempotent-Replayed" doc:"true: this is the stored answer to the first call"`
	Body     T
}

func guard(c *door.Call) customers.Guard { return customers.Guard{IfMatch: c.IfMatch} }

// once runs a management call under its idempotency key, if it has one. object is
// the id in the path, body what was asked.
func once[T any](ctx context.Context, a *api, c *door.Call, key, object string, body any, do func(g customers.Guard) (T, error)) (
	*madeOut[T], error) {
	call := customers.Call{Key: key, Name: c.Route.ID, Object: object, Body: body, Status: cmp.Or(c.Route.Status, http.StatusOK)}
	made, replayed, err := customers.Once(ctx, a.Customers, c.Env, guard(c), call, do)
	out := &madeOut[T]{Body: made}
	if replayed {
		out.Replayed = "true"
	}
	return out, err
}

// maybeTime is a time that may be absent, null or given.
type maybeTime struct{ customers.MaybeTime }

// Schema says that it is a time or null.
func (maybeTime) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Nullable: true}
}

// UnmarshalJSON is called only where there is a value.
func (m *maybeTime) UnmarshalJSON(b []byte) error {
	m.Given = true
	if string(b) == "null" {
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	t, err := usher.ParseTime(s)
	m.At = &t
	return err
}

// MarshalJSON tells absent from null, for the hash of a body.
func (m maybeTime) MarshalJSON() ([]byte, error) {
	if !m.Given {
		return []byte(`"absent"`), nil
	}
	return json.Marshal(m.At)
}

type customerIn struct {
	ID   string `path:"id" doc:"An id that you choose: any UTF-8 of up to 255 bytes, percent-encoded"`
	Body struct {
		Name     string            `json:"name,omitempty" doc:"Up to 200 bytes"`
		Timezone string            `json:"timezone,omitempty" doc:"An IANA name such as Europe/Berlin; absent is the environment's"`
		Anchor   string            `json:"anchor,omitempty" format:"date-time" doc:"Where windows are counted from; absent leaves it as it is"`
		Metadata map[string]string `json:"metadata,omitempty" doc:"Up to 50 entries; replaces what was there"`
	}
}

type customerOut struct {
	Status int
	Body   customers.Customer
}

// customersRoutes registers customers, the accounts that buy. The id is the
// caller's own, from its database or its billing. A PUT is safe to repeat with
// every sign-up or sync. The anchor places a customer's windows and, once set,
// stays: a PUT without one must not move the day on which a month begins. A
// deleted customer keeps its use, so that deleting and creating it again gives
// nothing twice.
func (a *api) customersRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "PUT /v1/customers/{id}", Perm: auth.PermCustomersWrite, IfMatch: true,
		ID: "putCustomer", Tag: "Customers", Also: http.StatusCreated, Summary: "Create or replace a customer",
		Text: "201 if the customer is new. Name, time zone and metadata are replaced, even if they are absent; an absent anchor " +
			"leaves the anchor. A deleted customer is revived with its anchor and use.",
		Example: `{"name":"Acme","timezone":"America/New_York","metadata":{"crm":"42"}}`,
		Answer: `{"id":"acme","name":"Acme","timezone":"America/New_York","anchor":"2026-01-31T00:00:00Z","metadata":{
			"crm":"42"},"created_at":"2026-01-31T00:00:00Z","revision":17}`}, a.putCustomer)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}", Perm: auth.PermCustomersRead,
		ID: "getCustomer", Tag: "Customers", Summary: "A customer",
		Answer: `{"id":"acme","name":"Acme","timezone":"America/New_York","anchor":"2026-01-31T00:00:00Z","metadata":{
			"crm":"42"},"created_at":"2026-01-31T00:00:00Z","revision":17}`}, a.getCustomer)
	door.Register(d, door.Route{Pattern: "GET /v1/customers", Perm: auth.PermCustomersRead,
		ID: "listCustomers", Tag: "Customers", Summary: "All customers, by id",
		Answer: `{"data":[{"id":"acme","name":"Acme","timezone":"America/New_York","anchor":"2026-01-31T00:00:00Z","metadata":{
			"crm":"42"},"created_at":"2026-01-31T00:00:00Z"}]}`}, a.listCustomers)
	door.Register(d, door.Route{Pattern: "DELETE /v1/customers/{id}", Perm: auth.PermCustomersWrite, IfMatch: true,
		ID: "deleteCustomer", Tag: "Customers", Summary: "Delete a customer", Status: http.StatusNoContent,
		Text: "Name and metadata are erased and all that it holds ends; recorded use stays."}, a.deleteCustomer)
}

func (a *api) putCustomer(ctx context.Context, c *door.Call, in *customerIn) (*customerOut, error) {
	anchor, err := door.When("body.anchor", in.Body.Anchor)
	if err != nil {
		return nil, err
	}
	got, created, err := a.Customers.PutCustomer(ctx, c.Env, c.By(), guard(c), in.ID, customers.CustomerInput{
		Name: in.Body.Name, Timezone: in.Body.Timezone, Anchor: anchor, Metadata: in.Body.Metadata})
	out := &customerOut{http.StatusOK, got}
	if created {
		out.Status = http.StatusCreated
	}
	return out, err
}

func (a *api) getCustomer(ctx context.Context, c *door.Call, in *door.PathID) (*customerOut, error) {
	got, err := a.Customers.Customer(ctx, c.Env, in.ID)
	return &customerOut{http.StatusOK, got}, err
}

func (a *api) listCustomers(ctx context.Context, c *door.Call, in *door.PageIn) (*door.ListOut[customers.Customer], error) {
	after, err := door.Cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	data, next, err := a.Customers.Customers(ctx, c.Env, after, in.Limit)
	return door.Listed(data, next), err
}

func (a *api) deleteCustomer(ctx context.Context, c *door.Call, in *door.PathID) (*struct{}, error) {
	return nil, a.Customers.DeleteCustomer(ctx, c.Env, c.By(), guard(c), in.ID)
}
