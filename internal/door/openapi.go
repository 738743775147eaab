package door

import (
	"encoding/json"
	"net/http"
	"path"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
)

// number is how a quantity looks in a schema.
type number struct{}

// Schema says that a quantity is read from a number or from a decimal string.
func (number) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Description: `A quantity: a number, or a decimal string such as "1.5"`,
		OneOf: []*huma.Schema{{Type: huma.TypeNumber}, {Type: huma.TypeString, Pattern: `^[0-9]+(\.[0-9]+)?$`}}}
}

// ref is how a plan's or an add-on's name looks in a schema.
type ref struct{}

// Schema says that a reference is text.
func (ref) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: `A key with or without its version: "pro", "pro@3"`}
}

// schemaName names a type in the document.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[usher.Problem]() {
		return "ProblemItem" // Problem is the whole error
	}
	name := strings.TrimSuffix(huma.DefaultSchemaNamer(t, hint), "Doc")
	if dir, own := path.Split(t.PkgPath()); path.Base(dir) == "doors" { // each door has names of its own
		return strings.ToUpper(own[:1]) + own[1:] + name
	}
	return name
}

func openAPIConfig(version string) huma.Config {
	registry := huma.NewMapRegistry("#/components/schemas/", schemaName)
	registry.RegisterTypeAlias(reflect.TypeFor[usher.Number](), reflect.TypeFor[number]())
	registry.RegisterTypeAlias(reflect.TypeFor[usher.Ref](), reflect.TypeFor[ref]())
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{Title: "usher", Version: version,
				Description: "Entitlements, metering and limits. Every call but the last group takes `Authorization: Bearer usk_…`, and the key says which environment it is about; or an operator's session, but for SCIM. Every error is `application/problem+json`."},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"key":     {Type: "http", Scheme: "bearer", Description: "An API key, usk_…"},
					"session": {Type: "apiKey", In: "cookie", Name: SessionCookie, Description: "The session of an operator's browser. The call is about production unless the header Usher-Environment says sandbox, and what is not a GET must come from a page of this server."},
				},
			},
		},
		Formats:                      map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
	}
}

// describe documents a hand-written route.
func (d *Door) describe(op *huma.Operation, rt *Route) {
	schemas := d.huma.OpenAPI().Components.Schemas
	of := func(v any) *huma.Schema { return schemas.Schema(reflect.TypeOf(v), true, op.OperationID) }
	op.Parameters = rt.Params
	if rt.Request != nil {
		op.RequestBody = &huma.RequestBody{Required: !rt.Optional, Content: map[string]*huma.MediaType{}}
		for _, t := range rt.Accept {
			op.RequestBody.Content[t] = &huma.MediaType{Schema: of(rt.Request)}
		}
	}
	status := rt.Status
	if status == 0 {
		status = http.StatusOK
	}
	produces := rt.Produces
	if produces == "" {
		produces = "application/json"
	}
	ok := &huma.Response{Description: http.StatusText(status)}
	if rt.Response != nil {
		ok.Content = map[string]*huma.MediaType{produces: {Schema: of(rt.Response)}}
	}
	op.Responses = map[string]*huma.Response{
		strconv.Itoa(status): ok,
		"default":            {Description: "Error", Content: map[string]*huma.MediaType{"application/problem+json": {Schema: of(Problem{})}}},
	}
	if rt.Errors != nil {
		op.Responses["default"].Content = map[string]*huma.MediaType{produces: {Schema: of(rt.Errors)}}
	}
	if rt.Also != 0 {
		op.Responses[strconv.Itoa(rt.Also)] = &huma.Response{Description: http.StatusText(rt.Also), Content: ok.Content}
	}
}

func (d *Door) writeOpenAPI() ([]byte, error) { return json.Marshal(d.huma.OpenAPI()) }

// PathParam documents a parameter of the path.
func PathParam(name, text string) *huma.Param {
	return &huma.Param{Name: name, In: "path", Required: true, Description: text, Schema: &huma.Schema{Type: huma.TypeString}}
}

// QueryParam documents a parameter of the query.
func QueryParam(name, text string, required bool) *huma.Param {
	return &huma.Param{Name: name, In: "query", Description: text, Required: required, Schema: &huma.Schema{Type: huma.TypeString}}
}
