package api

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// send is one request with headers; it returns the status and the body.
func (a *actor) send(method, path, body string, headers ...string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+a.key)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	a.api.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func newGuarded(t *testing.T) *actor {
	a := newActor(t, filepath.Join(t.TempDir(), "usher.db"), "2026-01-20T00:00:00Z")
	a.where = t.Name()
	a.call(200, "PUT", "/v1/catalog", []byte("usher: 1\nfeatures: {calls: {kind: metered}}\nplans: {free: {default: true,"+
		" entitlements: {calls: {limit: 5, per: month}}}, pro: {entitlements: {calls: {limit: 50, per: month}}}}\n"))
	a.call(201, "PUT", "/v1/customers/acme", map[string]any{})
	return a
}

// If-Match guards every change of a customer by its revision.
func TestIfMatch(t *testing.T) {
	t.Parallel()
	a := newGuarded(t)
	for _, c := range []struct {
		method, path, body, match string
		want                      int
	}{
		{"PUT", "/v1/customers/acme", `{"name":"A"}`, `"nope"`, 412},
		{"POST", "/v1/customers/acme/subscriptions", `{"plan":"pro"}`, `"2"`, 412},
		{"DELETE", "/v1/customers/acme", ``, `"2"`, 412},
		{"PUT", "/v1/customers/acme", `{"name":"A"}`, `"3"`, 200},
		{"PUT", "/v1/customers/acme", `{"name":"B"}`, `"3"`, 412},
		{"PUT", "/v1/customers/acme", `{"name":"B"}`, `*`, 200},
		{"PUT", "/v1/customers/new", `{"name":"B"}`, `*`, 412},
	} {
		if status, body := a.send(c.method, c.path, c.body, "If-Match", c.match); status != c.want {
			t.Errorf("%s %s If-Match %s: %d %s, want %d", c.method, c.path, c.match, status, body, c.want)
		}
	}
}

// A path with an empty or a dot segment names nothing; it is never sent on to
// another resource.
func TestPathsAreNotRedirected(t *testing.T) {
	t.Parallel()
	a := newGuarded(t)
	for _, path := range []string{"/v1/customers//grants", "//v1/clock", "/v1/../v1/clock", "/v1/customers/.", "/v1/customers/..",
		"/v1/customers//", "/./v1/clock"} {
		status, body := a.send("GET", path, "")
		if status != 404 || !strings.Contains(body, `"code":"not_found"`) {
			t.Errorf("%s: %d %s, want a 404 problem", path, status, body)
		}
	}
	a.call(201, "PUT", "/v1/customers/%2e%2e", map[string]any{})
	a.call(200, "GET", "/v1/customers/%2e%2e", nil)
	a.call(201, "PUT", "/v1/customers/a%2F%2Fb", map[string]any{})
	if status, body := a.send("GET", "/v1/customers/a%2F%2Fb", ""); status != 200 || !strings.Contains(body, `"id":"a//b"`) {
		t.Errorf("%d %s", status, body)
	}
}

// The same call in other words is the same call (S13).
func TestS13_SameBodyOtherWords(t *testing.T) {
	t.Parallel()
	a := newGuarded(t)
	first := a.call(201, "POST", "/v1/customers/acme/grants", map[string]any{"feature": "calls", "amount": 5, "reason": "r", "key": "k",
		"expires_at": "2027-01-01T00:00:00Z"})
	for _, body := range []string{
		`{"key":"k","reason":"r","amount":"5","feature":"calls","expires_at":"2027-01-01T00:00:00.000Z"}`,
		`{"key":"k","reason":"r","amount":5.0,"feature":"calls","expires_at":"2027-01-01T01:00:00+01:00"}`,
	} {
		if status, got := a.send("POST", "/v1/customers/acme/grants", body); status != 201 ||
			strings.TrimSpace(got) != strings.TrimSpace(string(first)) {
			t.Errorf("%s: %d %s, want the first answer", body, status, got)
		}
	}
	if status, got := a.send("POST", "/v1/customers/acme/grants",
		`{"key":"k","reason":"r","amount":6,"feature":"calls","expires_at":"2027-01-01T00:00:00Z"}`); status != 409 {
		t.Errorf("another amount: %d %s", status, got)
	}
}
