package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/usher-sh/usher/internal/openapitest"
)

// TestLaw_Examples: each body has an example, which is valid.
func TestLaw_Examples(t *testing.T) {
	t.Parallel()
	doc := openapitest.Of(t, newWorld(t).api)
	for _, op := range doc.Operations() {
		for _, wrong := range op.Examples(doc) {
			t.Errorf("%s: %s", op.Pattern, wrong)
		}
	}
}

// TestLaw_DocumentedIsKnown sends each property and each query parameter that
// the document says a request may have, one at a time. The server may refuse the
// value, but must know the name.
func TestLaw_DocumentedIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	doc := openapitest.Of(t, w.api)
	known := func(got *httptest.ResponseRecorder, pattern, where string) {
		t.Helper()
		text := got.Body.String()
		for _, unknown := range []string{"unknown field", "unknown parameter", "unexpected property"} {
			if strings.Contains(text, unknown) {
				t.Errorf("%s: the document has %s, and the server answers %s", pattern, where, text)
				return
			}
		}
	}
	sent := 0
	for _, op := range doc.Operations() {
		method, path, _ := strings.Cut(op.Pattern, " ")
		if strings.HasPrefix(path, "/v1/session") || op.Pattern == "GET /ofrep/v1/events" {
			continue // an owner is made once, and a stream does not end: they have tests of their own
		}
		for place, value := range op.Properties(doc) {
			var body any = value
			parts := strings.Split(place, ".")
			for i := len(parts) - 1; i >= 0; i-- {
				body = map[string]any{parts[i]: body}
			}
			text, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			sent++
			known(w.do(method, sample(path), "application/json", string(text)), op.Pattern, "the property "+place)
		}
		for _, name := range op.Parameters(doc, "query") {
			sent++
			known(w.do(method, sample(path)+"?"+name+"=x", "", ""), op.Pattern, "the query parameter "+name)
		}
	}
	if sent < 200 {
		t.Errorf("only %d properties and parameters were sent", sent)
	}
}

// TestLaw_EmptyNeverGrants sends each property of each request, and each query
// parameter, as an empty text and as null. What selects, limits, ends or names
// something must be refused: a caller with an unset variable must not get
// everything instead of one thing.
func TestLaw_EmptyNeverGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	doc := openapitest.Of(t, w.api)
	sent := 0
	refused := func(got *httptest.ResponseRecorder, pattern, what, location string) {
		t.Helper()
		sent++
		if got.Code != http.StatusBadRequest || !strings.Contains(got.Body.String(), `"location":"`+location) {
			t.Errorf("%s with %s: got %d %s, want 400 at %s", pattern, what, got.Code, got.Body, location)
		}
	}
	for _, op := range doc.Operations() {
		method, path, _ := strings.Cut(op.Pattern, " ")
		if !strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/v1/session") || op.Pattern == "POST /v1/events" {
			continue // other protocols have rules of their own, and no login is known by an empty text
		}
		for place := range op.Properties(doc) {
			parts := strings.Split(place, ".")
			name := parts[len(parts)-1]
			for what, value := range map[string]any{"an empty text": "", "null": nil} {
				switch {
				case value == "" && slices.Contains([]string{"name", "title", "description", "email", "value", "cursor"}, name):
					continue
				case value == nil && slices.Contains([]string{"parent", "ends_at", "trial_ends_at"}, name):
					continue
				}
				body := value
				for i := len(parts) - 1; i >= 0; i-- {
					body = map[string]any{parts[i]: body}
				}
				text, err := json.Marshal(body)
				if err != nil {
					t.Fatal(err)
				}
				refused(w.do(method, sample(path), "application/json", string(text)), op.Pattern, place+" as "+what, "body."+place)
			}
		}
		for _, name := range op.Parameters(doc, "query") {
			if name == "cursor" {
				continue // an empty one is the start of a list
			}
			refused(w.do(method, sample(path)+"?"+name+"=", "", ""), op.Pattern, "an empty parameter "+name, "query."+name)
		}
	}
	if sent < 200 {
		t.Errorf("only %d properties and parameters were sent", sent)
	}
}
