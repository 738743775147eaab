package door

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher/internal/auth"
)

// Route is a row of the route table: one route, one row. The OpenAPI document
// and the permission matrix are read off the rows.
type Route struct {
	Pattern string // "POST /v1/check"
	// Perm is what the caller must be permitted to do; "" asks for no key.
	Perm auth.Permission
	// Session asks for an operator's session, and takes no key.
	Session bool
	// Ticket lets a request with a query parameter "ticket" in without a key: the
	// handler must redeem the ticket.
	Ticket bool

	ID      string // operationId: "putCustomer"
	Summary string // one line
	Text    string // more, in Markdown
	Tag     string
	Status  int      // of success; 0 is 200
	Also    int      // another status, with the same body unless it is 204; 0 is none
	MaxBody int64    // bytes; 0 is 1 MiB
	Accept  []string // content types of the body; nil is application/json
	// Raw leaves the body as it is: the input has RawBody []byte.
	Raw bool
	// NoBody is for a PUT whose path says it all.
	NoBody bool

	Params   []*huma.Param  // of a hand-written route: what huma reads off a type
	Request  any            // a value of the body's type, or nil
	Requests map[string]any // the same for a content type of its own
	Optional bool           // the body may be left out
	Response any
	// Responses are the values of the answer's types for content types of their own.
	Responses map[string]any
	Errors    map[string]any // values of the errors' types, by content type; nil is Problem
	Produces  string         // content types of the response, separated by ", "; "" is application/json

	// Keyed is for a route that takes the header Idempotency-Key, and IfMatch for
	// one that takes If-Match with the revision of a customer.
	Keyed, IfMatch bool
	// Sends are further headers of an answer of success. Cached is for a route that
	// takes If-None-Match with the ETag that it sends, and answers 304.
	Sends  []Sent
	Cached bool
	// Example and Answer are the text of a request's body and of the body of its
	// answer of success. The OpenAPI document shows them.
	Example, Answer string

	// Fail answers with an error; nil answers with a problem (RFC 9457).
	Fail Fail
	// Headers are on every answer, instead of the door's own of the same name.
	Headers []Header
	// Origins are the origins whose pages may call the route from a browser (CORS).
	Origins []string

	door *Door
	body *huma.Schema // of a typed handler's JSON body, or nil
}

// Sent is a header of an answer in the OpenAPI document.
type Sent struct {
	Name, Description string
	// Always is for a header that may be on errors, too.
	Always bool
}

// Fail answers a request with an error, in the form of the route's protocol.
type Fail func(w http.ResponseWriter, c *Call, err error)

// Handler answers one request of a hand-written route.
type Handler func(w http.ResponseWriter, r *http.Request, c *Call)

// maxBody is the largest body, in bytes, of a route that names no other.
const maxBody = 1 << 20

// row adds a route to the table, with what is left out filled in.
func (d *Door) row(rt Route) *Route {
	rt.door = d
	if rt.MaxBody == 0 {
		rt.MaxBody = maxBody
	}
	method, _, _ := strings.Cut(rt.Pattern, " ")
	if rt.Accept == nil && !rt.NoBody && method != http.MethodGet && method != http.MethodDelete {
		rt.Accept = JSONType
	}
	d.table = append(d.table, &rt)
	return &rt
}

// add puts a route's handler on the mux, behind who may call.
func (d *Door) add(rt *Route, h Handler) {
	wrapped := d.wrap(rt, func(w http.ResponseWriter, r *http.Request, c *Call) {
		if c.enter(w, r) {
			h(w, r, c)
		}
	})
	d.on(rt.Pattern, wrapped)
	method, path, _ := strings.Cut(rt.Pattern, " ")
	if method == http.MethodPost && rt != d.pending && !strings.Contains(path, "{") {
		d.direct[path] = wrapped
	}
	if len(rt.Origins) > 0 && !slices.Contains(d.patterns, "OPTIONS "+path) {
		d.on("OPTIONS "+path, d.wrap(&Route{Pattern: "OPTIONS " + path, Fail: rt.Fail, Headers: rt.Headers, Origins: rt.Origins}, d.preflight))
	}
}

// Register adds a route whose handler is a typed function: its input and output
// say what huma reads, checks, writes and documents. The body has been checked
// to be strict JSON of the right type and size, and the call to be permitted.
func Register[In, Out any](d *Door, row Route, h func(context.Context, *Call, *In) (*Out, error)) {
	rt := d.row(row)
	d.pending = rt
	op := d.operation(rt)
	op.MaxBodyBytes = -1 // admit has bounded it
	huma.Register(d.huma, *op, func(ctx context.Context, in *In) (*Out, error) {
		c := callOf(ctx)
		out, err := h(ctx, c, in)
		if err != nil {
			return nil, c.Problem(err)
		}
		return out, nil
	})
	d.pending = nil
	rt.body = d.strictBody(operationOf(d.huma.OpenAPI(), rt.Pattern))
}

// Handle adds a hand-written route, which reads and writes by itself.
func (d *Door) Handle(row Route, h Handler) {
	rt := d.row(row)
	op := d.operation(rt)
	d.describe(op, rt)
	d.huma.OpenAPI().AddOperation(op)
	d.add(rt, h)
}

// operation is what both kinds of routes have in the OpenAPI document.
func (d *Door) operation(rt *Route) *huma.Operation {
	method, path, _ := strings.Cut(rt.Pattern, " ")
	op := &huma.Operation{
		Method: method, Path: path, OperationID: rt.ID, Summary: rt.Summary, Description: rt.Text,
		DefaultStatus: rt.Status,
	}
	if rt.Tag != "" {
		op.Tags = []string{rt.Tag}
	}
	if rt.Perm != "" {
		op.Security = []map[string][]string{{"key": {}}}
		if rt.Perm != auth.PermSCIM { // whose key says which customer
			op.Security = append(op.Security, map[string][]string{"session": {}})
		}
		op.Extensions = map[string]any{"x-permission": string(rt.Perm)}
	} else if rt.Session {
		op.Security = []map[string][]string{{"session": {}}}
	}
	return op
}
