package api

import (
	"encoding/json"
	"net/http/httptest"
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
		for _, unknown := range []string{"unknown field", "unknown parameter", "unexpected property", "is no field of this", "is no parameter of this"} {
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
