package api

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

// keyless is every route that needs no key. A developer who adds one decides it here.
var keyless = []string{"GET /healthz", "GET /readyz", "GET /metrics", "GET /openapi.json", "GET /.well-known/authzen-configuration"}

// ofSessions is every route that asks for a session by itself, or makes one, and
// what it answers to a caller with a key or with nothing.
var ofSessions = map[string]int{"POST /v1/session/owner": 415, "POST /v1/session/invite": 415, "POST /v1/session": 415,
	"GET /v1/session": 401, "DELETE /v1/session": 403,
	"POST /v1/session/step-up":   403,
	"GET /v1/session/oidc/start": 404, "GET /v1/session/oidc/callback": 401}

func TestLaw_EveryRouteHasAPermission(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := &lockedBuffer{}
	w.again(func(s *setup) {
		s.Door.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	seen := map[string]bool{}
	for _, rt := range w.api.Routes() {
		if seen[rt.Pattern] {
			t.Errorf("%s is in the table twice", rt.Pattern)
		}
		seen[rt.Pattern] = true
		if open := slices.Contains(keyless, rt.Pattern) || ofSessions[rt.Pattern] != 0; open != (rt.Perm == "") {
			t.Errorf("%s has permission %q: a route has one, or is in the keyless list", rt.Pattern, rt.Perm)
		}
		if rt.Perm != "" && !slices.Contains(auth.Permissions, rt.Perm) {
			t.Errorf("%s asks for %q, which is not a permission", rt.Pattern, rt.Perm)
		}
		if rt.ID == "" || rt.Summary == "" || rt.Tag == "" {
			t.Errorf("%s is not documented: it needs an id, a summary and a tag", rt.Pattern)
		}
		method, path, _ := strings.Cut(rt.Pattern, " ")
		w.api.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, sample(path), nil))
		if lines := strings.Split(strings.TrimSpace(log.String()), "\n"); !strings.Contains(lines[len(lines)-1],
			fmt.Sprintf("route=%q", rt.Pattern)) {
			t.Errorf("%s is in the table, and %s %s is answered by another: %s", rt.Pattern, method, sample(path), lines[len(lines)-1])
		}
	}
}

func sample(path string) string {
	for strings.Contains(path, "{") {
		a, b := strings.Index(path, "{"), strings.Index(path, "}")
		path = path[:a] + "x" + path[b+1:]
	}
	return path
}

func TestLaw_OpenAPIHasExactlyTheTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.do("GET", "/openapi.json", "", "", "Authorization", "")
	var d struct {
		OpenAPI string                               `json:"openapi"`
		Paths   map[string]map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal(got.Body.Bytes(), &d); err != nil || got.Code != 200 {
		t.Fatalf("got %d, %v", got.Code, err)
	}
	if d.OpenAPI != "3.1.0" {
		t.Errorf("got version %q, want 3.1.0", d.OpenAPI)
	}
	var have, want []string
	for path, methods := range d.Paths {
		for method, op := range methods {
			have = append(have, strings.ToUpper(method)+" "+path)
			if _, ok := op["responses"].(map[string]any)["default"]; !ok {
				t.Errorf("%s %s does not say what its errors look like", method, path)
			}
		}
	}
	for _, rt := range w.api.Routes() {
		want = append(want, rt.Pattern)
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
	if strings.Contains(got.Body.String(), `"$ref":"#/components/schemas/`) {
		for _, part := range strings.Split(got.Body.String(), `"$ref":"#/components/schemas/`)[1:] {
			name, _, _ := strings.Cut(part, `"`)
			if !strings.Contains(got.Body.String(), `"`+name+`":{`) {
				t.Errorf("the schema %s is named and not there", name)
			}
		}
	}
}

// TestLaw_SecurityInOpenAPI: the document says which calls take a key and which
// the cookie of a session, and that is so.
func TestLaw_SecurityInOpenAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var d struct {
		Paths map[string]map[string]struct {
			Security []map[string][]string `json:"security"`
		} `json:"paths"`
		Components struct {
			SecuritySchemes map[string]map[string]string `json:"securitySchemes"`
		} `json:"components"`
	}
	if err := json.Unmarshal(w.do("GET", "/openapi.json", "", "").Body.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	if s := d.Components.SecuritySchemes["session"]; s["type"] != "apiKey" || s["in"] != "cookie" || s["name"] != door.SessionCookie {
		t.Errorf("got %v, want the session's cookie", s)
	}
	for _, rt := range w.api.Routes() {
		method, path, _ := strings.Cut(rt.Pattern, " ")
		got := []string{}
		for _, one := range d.Paths[path][strings.ToLower(method)].Security {
			for name := range one {
				if d.Components.SecuritySchemes[name] == nil {
					t.Errorf("%s: no scheme %q", rt.Pattern, name)
				}
				got = append(got, name)
			}
		}
		want := []string{}
		switch {
		case rt.Perm == auth.PermSCIM:
			want = []string{"key"}
		case rt.Perm != "":
			want = []string{"key", "session"}
			if rt.Perm == auth.PermFlags {
				want = []string{"key", "bareKey", "session"}
			}
		case rt.Pattern == "GET /v1/session", rt.Pattern == "POST /v1/session/step-up":
			want = []string{"session"}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", rt.Pattern, got, want)
		}
	}
}

// TestLaw_KeylessRoutes: what takes no key answers without one, and what finds
// out by itself who is there does.
func TestLaw_KeylessRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, rt := range w.api.Routes() {
		if rt.Perm != "" {
			continue // TestLaw_RolesTimesRoutes walks it
		}
		want := ofSessions[rt.Pattern]
		if want == 0 {
			want = 200
		}
		method, path, _ := strings.Cut(rt.Pattern, " ")
		for _, header := range []string{"", "Bearer " + w.keys[auth.RoleAdmin], "Bearer " + w.keys[auth.RoleRead]} {
			if got := w.do(method, sample(path), "x/y", "{", "Authorization", header); got.Code != want {
				t.Errorf("%s: got %d %s, want %d", rt.Pattern, got.Code, got.Body, want)
			}
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const ask = `{"customer":"acme","feature":"sso"}`
	none := problemBody(usher.Unauthenticated, "a valid API key is required: send Authorization: Bearer usk_…")
	key := w.keys[auth.RoleAdmin]
	for _, header := range []string{"", "Bearer", "Bearer ", "Bearer x", "Basic " + key, key, "Bearer " + key + "x", "Bearer " +
		key[:len(key)-1], "Bearer " + strings.ToUpper(key),
		"Bearer " + strings.Replace(key, "production", "sandbox", 1), "Bearer  " + key} {
		got := w.do("POST", "/v1/check", "application/json", ask, "Authorization", header)
		w.want(got, 401, none)
		wantHeaders(t, got.Header(), map[string]string{"WWW-Authenticate": "Bearer"})
	}
	got := w.do("POST", "/v1/consume", "application/json", `{}`, "Authorization", "Bearer "+w.keys[auth.RoleRead])
	w.want(got, 403, problemBody(usher.Forbidden, `a key of role "read" may not do this: it needs the permission "consume"`))
	// A key of the sandbox sees the sandbox, where nobody is.
	got = w.do("POST", "/v1/check", "application/json", ask, "Authorization", "bearer "+w.keys["sandbox"])
	w.want(got, 200, `{"allowed":false,"reason":"unknown_customer","customer":"acme","feature":"sso","revision":0}`)
	for _, k := range w.keys {
		if secret := k[len(k)-40:]; strings.Contains(w.log.String(), secret) {
			t.Error("a key's secret is in the log")
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for id, kept := range map[string]bool{"abc-123": true, "with space": true, strings.Repeat("x", 128): true,
		strings.Repeat("x", 129): true, strings.Repeat("x", 4000): true, "": false, "a\x7f": false, "é": false} {
		got := w.do("GET", "/v1/nothing", "", "", "X-Request-ID", id)
		echo := got.Header().Get("X-Request-ID")
		if (echo == id) != kept || echo == "" {
			t.Errorf("%q: got %q back, want it kept: %v", id, echo, kept)
		}
		if !strings.Contains(got.Body.String(), `"request_id":"`+echo[:min(len(echo), 128)]+`"`) {
			t.Errorf("%q: the problem does not say it: %s", id, got.Body)
		}
	}
	made := func() string {
		return w.do("GET", "/v1/nothing", "", "", "X-Request-ID", "").Header().Get("X-Request-ID")
	}
	if a, b := made(), made(); a == "" || a == b {
		t.Errorf("made %q and %q", a, b)
	}
}

func TestServerPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(w.do("GET", "/healthz", "", "", "Authorization", ""), 200, `{"status":"ok"}`)
	w.want(w.do("GET", "/readyz", "", "", "Authorization", ""), 200, `{"checks":"ok","takes":"ok"}`)
	w.want(w.do("GET", "/readyz?takes", "", "", "Authorization", ""), 200, `{"checks":"ok","takes":"ok"}`)
	if got := w.do("GET", "/readyz?takes=no", "", "", "Authorization", ""); got.Code != 400 {
		t.Errorf("takes=no: got %d %s, want 400", got.Code, got.Body)
	}
	w.do("POST", "/v1/check", "application/json", `{"customer":"acme","feature":"sso"}`)
	w.do("POST", "/v1/check", "application/json", `{`)
	w.do("POST", "/v1/events", eventType, event("1", `{}`))
	got := w.do("GET", "/metrics", "", "", "Authorization", "")
	for _, line := range []string{
		`usher_http_requests_total{code="200",route="POST /v1/check"} 1`, `usher_http_requests_total{code="400",route="POST /v1/check"} 1`,
		`usher_http_request_duration_seconds_count{route="POST /v1/check"} 2`, `usher_decisions_total{reason="granted"} 1`,
		`usher_events_total{result="invalid_value"} 1`,
	} {
		if !strings.Contains(got.Body.String(), "\n"+line+"\n") {
			t.Errorf("/metrics does not have %s", line)
		}
	}
	w.db.Close()
	down := w.do("GET", "/readyz", "", "")
	if down.Code != 503 || down.Header().Get("Retry-After") != "1" {
		t.Errorf("without a database: got %d %s, want 503 with Retry-After", down.Code, down.Body)
	}
	w.want(w.do("GET", "/healthz", "", ""), 200, `{"status":"ok"}`)
}
