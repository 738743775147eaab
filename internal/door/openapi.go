package door

import (
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

func openAPIConfig(version string) huma.Config {
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: "usher", Version: version, Description: about},
			Tags:    tags,
			Components: &huma.Components{
				Schemas: schemas(),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"key": {Type: "http", Scheme: "bearer", Description: "An API key: usk_…"},
					"bareKey": {Type: "apiKey", In: "header", Name: "X-API-Key",
						Description: "An API key: usk_…, without a word before it. Authorization wins if both are sent"},
					"session": {Type: "apiKey", In: "cookie", Name: SessionCookie, Description: "The session of an operator's browser. " +
						"Calls are about production unless the header Usher-Environment is sandbox. Calls other than GET must come from a " +
						"page of this server."},
				},
			},
		},
		Formats:                      map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
	}
}

// describe adds a hand-written route to the document.
func (d *Door) describe(op *huma.Operation, rt *Route) {
	schemas := d.huma.OpenAPI().Components.Schemas
	of := func(v any) *huma.Schema { return schemas.Schema(reflect.TypeOf(v), true, op.OperationID) }
	op.Parameters = rt.Params
	if rt.Request != nil {
		op.RequestBody = &huma.RequestBody{Required: !rt.Optional, Content: map[string]*huma.MediaType{}}
		for _, t := range rt.Accept {
			body := rt.Request
			if own, ok := rt.Requests[t]; ok {
				body = own
			}
			op.RequestBody.Content[t] = &huma.MediaType{Schema: of(body)}
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
		ok.Content = map[string]*huma.MediaType{}
		for t := range strings.SplitSeq(produces, ", ") {
			answer := rt.Response
			if own, is := rt.Responses[t]; is {
				answer = own
			}
			ok.Content[t] = &huma.MediaType{Schema: of(answer)}
		}
	}
	op.Responses = map[string]*huma.Response{
		strconv.Itoa(status): ok,
		"default":            {Description: "Error", Content: map[string]*huma.MediaType{}},
	}
	errors := rt.Errors
	if errors == nil {
		errors = map[string]any{"application/problem+json": Problem{}}
	}
	for t, v := range errors {
		op.Responses["default"].Content[t] = &huma.MediaType{Schema: of(v)}
	}
	if rt.Also != 0 {
		also := &huma.Response{Description: http.StatusText(rt.Also)}
		if rt.Also != http.StatusNoContent {
			also.Content = ok.Content
		}
		op.Responses[strconv.Itoa(rt.Also)] = also
	}
}

// PathParam returns the document's entry for a parameter of the path.
func PathParam(name, text string) *huma.Param {
	return &huma.Param{Name: name, In: "path", Required: true, Description: text, Schema: &huma.Schema{Type: huma.TypeString}}
}

// QueryParam returns the document's entry for a parameter of the query.
func QueryParam(name, text string, required bool) *huma.Param {
	return &huma.Param{Name: name, In: "query", Description: text, Required: required, Schema: &huma.Schema{Type: huma.TypeString}}
}
