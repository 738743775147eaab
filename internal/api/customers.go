package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/store"
)

type pathID struct {
	ID string `path:"id"`
}

// listIn is what every list of something's asks.
type listIn struct {
	ID     string `path:"id"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before"`
}

// pageIn is what a list of everything asks.
type pageIn struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before"`
}

type listBody[T any] struct {
	Data       []T    `json:"data" nullable:"false"`
	NextCursor string `json:"next_cursor,omitempty" doc:"Absent on the last page"`
}

type listOut[T any] struct{ Body listBody[T] }

func listed[T any](data []T, next string) *listOut[T] {
	if data == nil {
		data = []T{}
	}
	return &listOut[T]{listBody[T]{data, cursorOf(next)}}
}

// A cursor is opaque: the id that the next page comes after.
func cursorOf(id string) string { return base64.RawURLEncoding.EncodeToString([]byte(id)) }

func cursor(s string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || !isText(string(b)) {
		return "", invalid("query.cursor", "must be the next_cursor of an answer")
	}
	return string(b), nil
}

// madeOut is the answer of a call that takes an idempotency key.
type madeOut[T any] struct {
	Replayed string `header:"Idempotent-Replayed" doc:"true: the answer that was given first"`
	Body     T
}

func meta(c *call) customers.Meta {
	return customers.Meta{Actor: c.Actor, RequestID: c.RequestID, IfMatch: c.IfMatch}
}

// once runs a management call under its idempotency key, if it has one (S13):
// the first answer is stored with its effect, the same call again gets it, and
// another call under that key is refused. object is the id in the path, body
// what was asked.
func once[T any](ctx context.Context, a *API, c *call, key, object string, body any, do func(m customers.Meta) (T, error)) (*madeOut[T], error) {
	m := meta(c)
	if key == "" {
		made, err := do(m)
		return &madeOut[T]{Body: made}, err
	}
	hash, err := bodyHash(c.route.Pattern, object, body)
	if err != nil {
		return nil, err
	}
	for {
		stored, err := a.DB.Answer(ctx, c.Env, key)
		if err != nil {
			return nil, err
		}
		if stored != nil {
			if stored.Route != c.route.Pattern || !bytes.Equal(stored.BodyHash, hash) {
				return nil, usher.Errorf(usher.KeyReused, "the idempotency key %q came with another request before", key)
			}
			out := &madeOut[T]{Replayed: "true"}
			return out, json.Unmarshal(stored.Body, &out.Body)
		}
		status := c.route.doc.Status
		if status == 0 {
			status = http.StatusOK
		}
		m.Answer = &store.StoredAnswer{Key: key, Route: c.route.Pattern, BodyHash: hash, Status: status}
		made, err := do(m)
		if !errors.Is(err, store.ErrKeyTaken) {
			return &madeOut[T]{Body: made}, err
		}
		// The same key at the same time: its answer is there now.
	}
}

// bodyHash is of what makes two requests the same: names in any order, numbers
// and times in any way of writing them.
func bodyHash(route, object string, body any) ([]byte, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if b, err = json.Marshal([]any{route, object, inOneForm(v)}); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}

// inOneForm writes numbers and times in one way each, wherever they stand.
func inOneForm(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = inOneForm(v[k])
		}
	case []any:
		for i := range v {
			v[i] = inOneForm(v[i])
		}
	case json.Number:
		return inOneForm(v.String())
	case string:
		if n, err := usher.Number(v).Units(usher.MaxPrecision); err == nil {
			return usher.FormatQuantity(n, usher.MaxPrecision)
		}
		if t, err := usher.ParseTime(v); err == nil {
			return t
		}
	}
	return v
}

// when reads an optional time; "" is nil.
func when(location, s string) (*time.Time, error) {
	if s == "" {
		return nil, nil
	}
	t, err := usher.ParseTime(s)
	if err != nil {
		return nil, at(location, err)
	}
	return &t, nil
}

// noNulls refuses null where it has no meaning: what is absent has a default,
// and what is null is more likely a mistake. Members of the body in allowed
// may be null, or anything.
func noNulls(body []byte, allowed ...string) error {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return invalid("body", "%s", err)
	}
	var wrong []usher.Problem
	var walk func(location string, v any)
	walk = func(location string, v any) {
		switch v := v.(type) {
		case nil:
			wrong = append(wrong, usher.Problem{Location: location, Message: "must not be null: leave it out"})
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				if location != "body" || !slices.Contains(allowed, name) {
					walk(location+"."+clipName(name), v[name])
				}
			}
		case []any:
			for i := range v {
				walk(fmt.Sprintf("%s[%d]", location, i), v[i])
			}
		}
	}
	walk("body", v)
	if len(wrong) > 0 {
		return invalids(wrong[:min(len(wrong), 20)])
	}
	return nil
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
	ID   string `path:"id" doc:"Yours: any UTF-8 of up to 255 bytes, percent-encoded"`
	Body struct {
		Name     string            `json:"name,omitempty" doc:"Up to 200 bytes"`
		Timezone string            `json:"timezone,omitempty" doc:"An IANA name such as Europe/Berlin; absent is the environment's"`
		Anchor   string            `json:"anchor,omitempty" format:"date-time" doc:"Where windows are counted from; absent leaves it as it is"`
		Metadata map[string]string `json:"metadata,omitempty" doc:"Up to 50 entries; replaces what was there"`
	}
	RawBody []byte
}

type customerOut struct {
	Status int
	Body   customers.Customer
}

var (
	putCustomerDoc = doc{ID: "putCustomer", Tag: "Customers", Summary: "Create or replace a customer",
		Text: "201 where it was not there. Name, time zone and metadata replace what was there, also where they are absent; an absent anchor leaves the anchor. A deleted customer is revived with its anchor and use."}
	getCustomerDoc    = doc{ID: "getCustomer", Tag: "Customers", Summary: "A customer"}
	listCustomersDoc  = doc{ID: "listCustomers", Tag: "Customers", Summary: "All customers, by id"}
	deleteCustomerDoc = doc{ID: "deleteCustomer", Tag: "Customers", Summary: "Delete a customer", Status: http.StatusNoContent,
		Text: "Name and metadata are erased and all that it holds ends; recorded use stays."}
)

func (a *API) putCustomer(ctx context.Context, c *call, in *customerIn) (*customerOut, error) {
	if err := noNulls(in.RawBody); err != nil {
		return nil, err
	}
	anchor, err := when("body.anchor", in.Body.Anchor)
	if err != nil {
		return nil, err
	}
	got, created, err := a.Customers.PutCustomer(ctx, c.Env, meta(c), in.ID, customers.CustomerInput{
		Name: in.Body.Name, Timezone: in.Body.Timezone, Anchor: anchor, Metadata: in.Body.Metadata})
	out := &customerOut{http.StatusOK, got}
	if created {
		out.Status = http.StatusCreated
	}
	return out, err
}

func (a *API) getCustomer(ctx context.Context, c *call, in *pathID) (*customerOut, error) {
	got, err := a.Customers.Customer(ctx, c.Env, in.ID)
	return &customerOut{http.StatusOK, got}, err
}

func (a *API) listCustomers(ctx context.Context, c *call, in *pageIn) (*listOut[customers.Customer], error) {
	after, err := cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	data, next, err := a.Customers.Customers(ctx, c.Env, after, in.Limit)
	return listed(data, next), err
}

func (a *API) deleteCustomer(ctx context.Context, c *call, in *pathID) (*struct{}, error) {
	return nil, a.Customers.DeleteCustomer(ctx, c.Env, meta(c), in.ID)
}
