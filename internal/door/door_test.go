package door

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
)

// problemBody is the exact body of an error without a list.
func problemBody(code usher.Code, detail string) string {
	p := NewProblem(code, detail, nil)
	p.RequestID = "t"
	b, _ := Marshal(p)
	return string(b)
}

// TestFaults: a failure of the server is logged and not shown.
func TestFaults(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	d := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	serve := func(h Handler) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Request-ID", "t")
		out := httptest.NewRecorder()
		d.wrap(&Route{Pattern: "GET /test"}, h)(out, r)
		return out
	}
	want := func(got *httptest.ResponseRecorder, status int, body string) {
		t.Helper()
		if got.Code != status || got.Body.String() != body {
			t.Errorf("got %d\n%s\nwant %d\n%s", got.Code, got.Body, status, body)
		}
	}
	fails := func(err error) *httptest.ResponseRecorder {
		return serve(func(w http.ResponseWriter, _ *http.Request, c *Call) { c.Fail(w, err) })
	}
	internal := problemBody(usher.Internal, "internal error")
	want(serve(func(http.ResponseWriter, *http.Request, *Call) { panic("secret one") }), 500, internal)
	want(fails(errors.New("secret two")), 500, internal)
	want(fails(usher.Errorf(usher.Internal, "secret three")), 500, internal)
	for _, secret := range []string{"secret one", "secret two", "secret three"} {
		if !strings.Contains(log.String(), secret) {
			t.Errorf("%q is not in the log", secret)
		}
	}
	for code, status := range usher.Codes {
		if code == usher.Internal {
			continue
		}
		got := fails(fmt.Errorf("wrapped: %w", usher.Errorf(code, "why")))
		want(got, status, problemBody(code, "why"))
		again := ""
		if status == 429 || status == 503 {
			again = "1"
		}
		if got.Header().Get("Retry-After") != again {
			t.Errorf("%s: Retry-After is %q, want %q", code, got.Header().Get("Retry-After"), again)
		}
	}
}
