package door

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

// about is what the OpenAPI document says first.
const about = "Entitlements, metering and limits for SaaS companies.\n\n" +
	"Send an API key as `Authorization: Bearer usk_…`. The key decides the environment. Most calls also accept the session of " +
	"an operator.\n\n" +
	"Every error is `application/problem+json` (RFC 9457), unless a protocol such as SCIM has a form of its own. " +
	"A decision that says no is not an error: it is a 200 with `allowed: false`.\n\n" +
	"Quantities are integers up to 2^63-1, or decimal strings for features with a precision. Numbers in JavaScript and TypeScript are exact " +
	"up to 2^53 only."

// tags are the groups of operations in the order in which they are shown.
var tags = []*huma.Tag{
	{Name: "Decisions", Description: "Ask what a customer or a member may do. Nothing is counted."},
	{Name: "Use", Description: "Count what customers use: take at once, reserve and settle, or report events."},
	{Name: "Seats", Description: "Who holds a seat of a feature."},
	{Name: "Catalogue", Description: "The file with features, plans and add-ons."},
	{Name: "Customers", Description: "The accounts that buy."},
	{Name: "Subscriptions", Description: "Which plan a customer has, and when it changes."},
	{Name: "Overrides", Description: "Exceptions for one customer."},
	{Name: "Grants", Description: "One-off amounts for one customer."},
	{Name: "Members", Description: "The people of a customer: members, groups, roles, assignments and resources."},
	{Name: "Clock", Description: "The time of the environment. It can be set in the sandbox."},
	{Name: "Audit", Description: "Who changed what, and when."},
	{Name: "Keys", Description: "API keys."},
	{Name: "Operators", Description: "The people who run this installation, and their roles."},
	{Name: "Sessions", Description: "How operators log in."},
	{Name: "AuthZEN", Description: "The OpenID AuthZEN protocol for decisions about members."},
	{Name: "OpenFeature", Description: "The OpenFeature remote evaluation protocol (OFREP) for feature flags."},
	{Name: "SCIM", Description: "SCIM 2.0 provisioning of a customer's members and groups."},
	{Name: "Server", Description: "The server itself. These calls need no key."},
}

// The headers of answers and requests that have a meaning of their own.
var headers = map[string]*huma.Header{
	"X-Request-ID":     {Required: true, Description: "The id of this request; the server's log has it too", Schema: text()},
	"RateLimit-Policy": {Description: "The limit of calls of the key, if it has one", Schema: text()},
	"RateLimit":        {Description: "What is left of the limit of calls of the key", Schema: text()},
	"Retry-After": {Description: "Seconds to wait before the next try. Sent with 429 and 503",
		Schema: &huma.Schema{Type: huma.TypeInteger}},
	"Allow":            {Description: "The methods that exist here. Sent with 405", Schema: text()},
	"WWW-Authenticate": {Description: "How to say who is calling. Sent with 401", Schema: text()},
}

// The headers that requests may have.
var (
	keyParam = &huma.Param{Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: huma.TypeString, MaxLength: new(255)},
		Description: "A key that is new for each action. The same call with the same key again has no second effect and answers " +
			"as the first time"}
	matchParam = &huma.Param{Name: "If-Match", In: "header", Schema: text(),
		Description: `The revision of the customer in double quotes, such as "17". ` +
			"The call is refused with 412 if the customer has changed since"}
)

// parameters are headers that many operations take: they refer to these.
var parameters = map[string]*huma.Param{
	"RequestIDHeader": {Name: "X-Request-ID", In: "header", Schema: text(),
		Description: "An id of the caller's for this request, for the logs of both sides. The answer has it in full, and logs have its " +
			"first 128 bytes. The server makes one if it is absent or has other characters than printable ASCII"},
	"EnvironmentHeader": {Name: "Usher-Environment", In: "header", Schema: &huma.Schema{Type: huma.TypeString,
		Enum: texts(usher.Environments...)},
		Description: "With a session: the environment that the call is about. Default: production. A key has its own"},
}

func shared(name string) *huma.Param { return &huma.Param{Ref: "#/components/parameters/" + name} }

var cachedParam = &huma.Param{Name: "If-None-Match", In: "header", Schema: text(), Description: "The ETags of answers that the caller has"}

func text() *huma.Schema { return &huma.Schema{Type: huma.TypeString} }

// complete adds to the document what does not follow from the types of one route:
// headers, quantities, addresses and examples. It runs once, after all routes are
// registered.
func (d *Door) complete() *huma.OpenAPI {
	doc := d.huma.OpenAPI()
	showQuantities(doc.Components.Schemas)
	doc.Servers = []*huma.Server{{URL: "/"}}
	if d.PublicURL != "" {
		doc.Servers[0].URL = d.PublicURL
	}
	doc.Components.Headers, doc.Components.Parameters = headers, parameters
	openAnswers(doc)
	for _, rt := range d.table {
		op := operationOf(doc, rt.Pattern)
		op.Parameters = append(slices.Clip(op.Parameters), shared("RequestIDHeader")) // routes may share their parameters
		if rt.Perm != "" && rt.Perm != auth.PermSCIM {
			op.Parameters = append(op.Parameters, shared("EnvironmentHeader"))
		}
		if rt.Keyed {
			op.Parameters = append(op.Parameters, keyParam)
		}
		if rt.IfMatch {
			op.Parameters = append(op.Parameters, matchParam)
		}
		if rt.Cached {
			op.Parameters = append(op.Parameters, cachedParam)
			op.Responses[strconv.Itoa(http.StatusNotModified)] = &huma.Response{Description: "The answer that the caller has is current"}
		}
		if rt.Raw {
			op.RequestBody.Content = map[string]*huma.MediaType{}
			for _, t := range rt.Accept {
				op.RequestBody.Content[t] = &huma.MediaType{Schema: text()}
				if t == "application/json" {
					op.RequestBody.Content[t].Schema = &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
				}
			}
		}
		if op.RequestBody != nil {
			delete(op.RequestBody.Content, "application/octet-stream") // huma adds it for a body that is also kept as it came
			showExample(op.RequestBody.Content, rt.Example)
		}
		if also := strconv.Itoa(rt.Also); rt.Also != 0 && op.Responses[also] == nil {
			made := *op.Responses[strconv.Itoa(max(rt.Status, http.StatusOK))]
			made.Description, made.Headers = http.StatusText(rt.Also), maps.Clone(made.Headers)
			op.Responses[also] = &made
		}
		for status, answer := range op.Responses {
			if answer.Headers == nil {
				answer.Headers = map[string]*huma.Header{}
			}
			if status == "default" {
				for name := range headers {
					answer.Headers[name] = &huma.Header{Ref: "#/components/headers/" + name}
				}
				for _, h := range rt.Sends {
					if h.Always {
						answer.Headers[h.Name] = &huma.Header{Description: h.Description, Schema: text()}
					}
				}
				continue
			}
			for _, name := range []string{"X-Request-ID", "RateLimit", "RateLimit-Policy"} {
				answer.Headers[name] = &huma.Header{Ref: "#/components/headers/" + name}
			}
			for _, h := range rt.Sends {
				answer.Headers[h.Name] = &huma.Header{Description: h.Description, Schema: text()}
			}
			if n, _ := strconv.Atoi(status); n == max(rt.Status, http.StatusOK) {
				showExample(answer.Content, rt.Answer)
			}
		}
	}
	used := map[string]bool{}
	for _, rt := range d.table {
		used[rt.Tag] = true
	}
	doc.Tags = slices.DeleteFunc(slices.Clone(tags), func(t *huma.Tag) bool { return !used[t.Name] })
	return doc
}

// showExample gives an example to each content type that it fits: text, JSON, or
// JSON in an array.
func showExample(content map[string]*huma.MediaType, example string) {
	isJSON := json.Valid([]byte(example))
	for t, m := range content {
		switch wantsJSON := strings.HasSuffix(t, "json"); {
		case example == "" || wantsJSON != isJSON: // there is none, or it has another form
		case m.Schema.Ref == "" && m.Schema.Type == "" && m.Schema.OneOf == nil: // anything is allowed
		case isJSON && m.Schema.Type == huma.TypeArray:
			m.Example = json.RawMessage("[" + example + "]")
		case isJSON:
			m.Example = json.RawMessage(example)
		default:
			m.Example = example
		}
	}
}

// operationOf returns the operation of a route.
func operationOf(doc *huma.OpenAPI, pattern string) *huma.Operation {
	method, path, _ := strings.Cut(pattern, " ")
	item := doc.Paths[path]
	switch method {
	case http.MethodGet:
		return item.Get
	case http.MethodPut:
		return item.Put
	case http.MethodPost:
		return item.Post
	case http.MethodPatch:
		return item.Patch
	}
	return item.Delete
}

func (d *Door) writeOpenAPI() ([]byte, error) { return json.Marshal(d.Document()) }
