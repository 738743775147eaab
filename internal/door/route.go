package door

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher/internal/auth"
)

// Route is a row of the route table. The OpenAPI document and the permission matrix
// are made from the rows.
type Route struct {
	Pattern string // "POST /v1/check"
	// Perm is the permission that the caller needs; "": anybody may call, without a key.
	Perm auth.Permission
	// Session says that the route needs an operator's session and accepts no key.
	Session bool
	// Ticket lets a request with the query parameter "ticket" in without a key. The
	// handler must redeem the ticket.
	Ticket bool
	// BareKey takes a key also from the header X-API-Key, for protocols whose clients send
	// it so.
	BareKey bool

	ID      string // operationId: "putCustomer"
	Summary string // one line
	Text    string // more, in Markdown
	Tag     string
	Status  int      // of success; 0 is 200
	Also    int      // another status, with the same body unless it is 204; 0 is none
	MaxBody int64    // bytes; 0 is 1 MiB, and 16 KiB of a route without a key
	Accept  []string // content types of the body; nil is application/json
	// Raw passes the body unparsed: the input has RawBody []byte.
	Raw bool
	// NoBody says that the route takes no body: a PUT whose path says everything.
	NoBody bool

	Params   []*huma.Param  // of a hand-written route; for others huma finds them by the input type
	Request  any            // a value of the body's type, or nil
	Requests map[string]any // the same for a content type of its own
	Optional bool           // the body may be left out
	Response any
	// Responses are the values of the answer's types for content types of their own.
	Responses map[string]any
	Errors    map[string]any // values of the errors' types, by content type; nil is Problem
	Produces  string         // content types of the response, separated by ", "; "" is application/json

	// Keyed says that the route accepts the header Idempotency-Key, and IfMatch that it
	// accepts If-Match with the revision of a customer.
	Keyed, IfMatch bool
	// Sends are more headers of an answer of success. Cached says that the route sends
	// an ETag, accepts If-None-Match with it, and answers 304.
	Sends  []Sent
	Cached bool
	// Example and Answer are the text of a request's body and of the body of its
	// answer of success. The OpenAPI document shows them.
	Example, Answer string

	// Fail answers with an error; nil answers with a problem (RFC 9457).
	Fail Fail
	// Headers are on every answer, and replace the door's headers of the same name.
	Headers []Header
	// Origins are the origins whose pages may call the route from a browser (CORS).
	Origins []string

	door *Door
	body *huma.Schema // of a typed handler's JSON body, or nil
}

// Sent is a header of an answer, for the OpenAPI document.
type Sent struct {
	Name, Description string
	// Always is for a header that may be on errors, too.
	Always bool
}

// Fail answers a request with an error, in the form of the route's protocol.
type Fail func(w http.ResponseWriter, c *Call, err error)

// Handler answers one request of a hand-written route.
type Handler func(w http.ResponseWriter, r *http.Request, c *Call)

// The defaults of Route.MaxBody, in bytes: of a route that asks for a key, and of one
// that anybody may call or that asks for a session.
const (
	maxBody      = 1 << 20
	strangerBody = 16 << 10
)

// row adds a route to the table and fills in defaults.
func (d *Door) row(rt Route) *Route {
	rt.door = d
	if rt.MaxBody == 0 {
		rt.MaxBody = maxBody
		if rt.Perm == "" {
			rt.MaxBody = strangerBody
		}
	}
	method, _, _ := strings.Cut(rt.Pattern, " ")
	if rt.Accept == nil && !rt.NoBody && method != http.MethodGet && method != http.MethodDelete {
		rt.Accept = JSONType
	}
	d.table = append(d.table, &rt)
	return &rt
}

// add puts a route's handler on the mux, behind the check of who may call it.
func (d *Door) add(rt *Route, h Handler) {
	wrapped := d.wrap(rt, func(w http.ResponseWriter, r *http.Request, c *Call) {
		if c.enter(w, r) {
			h(w, r, c)
		}
	})
	d.on(rt.Pattern, wrapped)
	method, path, _ := strings.Cut(rt.Pattern, " ")
	// The hot routes (check, consume) are found by one map look-up instead of the mux
	// (ServeHTTP). huma registers its own while pending is set.
	if method == http.MethodPost && rt != d.pending && !strings.Contains(path, "{") {
		d.direct[path] = wrapped
	}
	if len(rt.Origins) > 0 && !slices.Contains(d.patterns, "OPTIONS "+path) {
		d.on("OPTIONS "+path, d.wrap(&Route{Pattern: "OPTIONS " + path, Fail: rt.Fail, Headers: rt.Headers, Origins: rt.Origins}, d.preflight))
	}
}

// Register adds a route whose handler is a typed function. From its input and output
// types huma knows what to read, check, write and document. Before h runs, the caller's
// permission was checked, and that the body is strict JSON of the right type and size.
func Register[In, Out any](d *Door, row Route, h func(context.Context, *Call, *In) (*Out, error)) {
	rt := d.row(row)
	d.pending = rt
	op := d.operation(rt)
	op.MaxBodyBytes = -1 // no limit of huma's own: admit has limited it
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

// Handle adds a hand-written route, whose handler reads and writes by itself.
func (d *Door) Handle(row Route, h Handler) {
	rt := d.row(row)
	op := d.operation(rt)
	d.describe(op, rt)
	d.huma.OpenAPI().AddOperation(op)
	d.add(rt, h)
}

// operation returns what typed and hand-written routes have in common in the document.
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
		if rt.BareKey {
			op.Security = append(op.Security, map[string][]string{"bareKey": {}})
		}
		if rt.Perm != auth.PermSCIM { // SCIM needs the key of one customer; a session has no customer
			op.Security = append(op.Security, map[string][]string{"session": {}})
		}
		op.Extensions = map[string]any{"x-permission": string(rt.Perm)}
	} else if rt.Session {
		op.Security = []map[string][]string{{"session": {}}}
	}
	return op
}
