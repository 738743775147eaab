package door

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
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

// TestFailuresInTheLog: what the server cannot do has one line that says whose
// request it was. A client that hangs up is no failure; a deadline that no room
// has given a meaning is a bug, and no outage.
func TestFailuresInTheLog(t *testing.T) {
	t.Parallel()
	hungUp, hangUp := context.WithCancel(t.Context())
	hangUp()
	for name, test := range map[string]struct {
		ctx    context.Context
		err    error
		status int
		line   string // "": none
	}{
		"a bug": {t.Context(), errors.New("a secret"), 500, `level=ERROR msg="request failed" error="a secret"`},
		"a deadline without a code": {t.Context(), fmt.Errorf("read x: %w", context.DeadlineExceeded), 500,
			`level=ERROR msg="request failed" error="read x: context deadline exceeded"`},
		"an outage": {t.Context(), fmt.Errorf("read x: %w (%w)", usher.Errorf(usher.Unavailable, "the disk is full"), errors.New("a secret")),
			503, `level=WARN msg="request could not be served" error="read x: the disk is full (a secret)"`},
		"a client that hung up":     {hungUp, fmt.Errorf("read x: %w", context.Canceled), 499, ""},
		"a bug, and nobody listens": {hungUp, errors.New("a secret"), 500, `level=ERROR msg="request failed" error="a secret"`},
		"a mistake of the caller":   {t.Context(), usher.Errorf(usher.Invalid, "why"), 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			d := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
			d.on("GET /v1/customers/{id}/x", d.wrap(&Route{Pattern: "GET /v1/customers/{id}/x"}, func(
				w http.ResponseWriter, _ *http.Request, c *Call) {
				c.Env = usher.Sandbox
				c.Fail(w, test.err)
			}))
			r := httptest.NewRequestWithContext(test.ctx, "GET", "/v1/customers/acme/x", nil)
			r.Header.Set("X-Request-ID", "t")
			got := httptest.NewRecorder()
			d.ServeHTTP(got, r)
			if got.Code != test.status || strings.Contains(got.Body.String(), "secret") {
				t.Errorf("got %d %s, want %d", got.Code, got.Body, test.status)
			}
			if test.line == "" {
				if log.Len() > 0 {
					t.Errorf("got the line %s, want none", &log)
				}
				return
			}
			before, after, _ := strings.Cut(test.line, " error=")
			want := before + ` request_id=t env=sandbox customer=acme route="GET /v1/customers/{id}/x" error=` + after + "\n"
			if _, line, _ := strings.Cut(log.String(), " "); line != want {
				t.Errorf("got  %s\nwant %s", line, want)
			}
		})
	}
}

// The customer of a failure is the one that the request is about: as the body
// says, else the path, else the key.
func TestAbout(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]*Call{
		"body": {About: "body", Route: &Route{Pattern: "POST /v1/check"}},
		"key":  {Identity: auth.Identity{Customer: "key"}, Route: &Route{Pattern: "GET /scim/v2/Users/{id}"}},
		"":     {Route: &Route{Pattern: "DELETE /v1/grants/{id}"}},
	} {
		c.request = httptest.NewRequest("GET", "/", nil)
		c.request.SetPathValue("id", "path")
		if got := c.about(); got != want {
			t.Errorf("%s: got %q, want %q", c.Route.Pattern, got, want)
		}
	}
}

// TestRequestsInTheLog: a request has a line at level info only if that was asked for.
func TestRequestsInTheLog(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{false, true} {
		var log bytes.Buffer
		d := New(Config{Log: slog.New(slog.NewJSONHandler(&log, nil)), LogRequests: on})
		r := httptest.NewRequest("GET", "/healthz", nil)
		r.Header.Set("X-Request-ID", "t7")
		d.ServeHTTP(httptest.NewRecorder(), r)
		if got := strings.Contains(log.String(), `"msg":"request","request_id":"t7","route":"GET /healthz","status":200`); got != on {
			t.Errorf("LogRequests %v: the log is %q", on, log.String())
		}
	}
}

// TestMetricsAreShort: a route that nobody calls has no lines in /metrics.
func TestMetricsAreShort(t *testing.T) {
	t.Parallel()
	d := New(Config{})
	for i := range 200 {
		d.wrap(&Route{Pattern: fmt.Sprintf("GET /test/%d", i)}, func(http.ResponseWriter, *http.Request, *Call) {})
	}
	d.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/healthz", nil))
	got := httptest.NewRecorder()
	d.ServeHTTP(got, httptest.NewRequest("GET", "/metrics", nil))
	if got.Body.Len() > 40_000 || !strings.Contains(got.Body.String(), `usher_http_requests_total{code="200",route="GET /healthz"} 1`) {
		t.Errorf("got %d %d bytes, want at most 40,000 with the route that was called", got.Code, got.Body.Len())
	}
}
