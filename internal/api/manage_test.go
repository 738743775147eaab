package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/customers"
)

// managed is a whole server that can also be managed.
func managed(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	var n atomic.Int64
	w.again(func(s *setup) {
		cfg := &s.API
		cfg.Customers = customers.New(customers.Config{DB: w.db, Live: cfg.Live, NewID: func(p string) string {
			return fmt.Sprintf("%s%d", p,
				n.Add(1))
		}})
		cfg.Catalog = catalog.New(catalog.Config{DB: w.db, Live: cfg.Live})
	})
	return w
}

// call sends JSON and reads the answer's body into a map.
func (w *world) call(status int, method, target, body string, headers ...string) (map[string]any, *httptest.ResponseRecorder) {
	w.t.Helper()
	kind := "application/json"
	if body == "" {
		kind = ""
	}
	r := w.do(method, target, kind, body, headers...)
	if r.Code != status {
		w.t.Fatalf("%s %s %s: got %d %s, want %d", method, target, body, r.Code, r.Body, status)
	}
	var m map[string]any
	if r.Body.Len() > 0 {
		if err := json.Unmarshal(r.Body.Bytes(), &m); err != nil {
			w.t.Fatalf("%s %s: %s: %v", method, target, r.Body, err)
		}
	}
	return m, r
}

const managedCatalog = `# the file, as it was sent
usher: 1
features:
  sso: {kind: switch}
  api: {kind: metered}
  credits: {kind: credits, precision: 3}
plans:
  free: {default: true, entitlements: {api: {limit: 10, per: month}}}
  pro: {trial: 14 days, entitlements: {sso: true, api: {limit: 100, per: month}}}
addons:
  pack: {entitlements: {api: {limit: 5, per: month}}}
`

// A customer's life over HTTP, in the sandbox with its own clock.
func TestManagement(t *testing.T) {
	t.Parallel()
	w := managed(t)
	sandbox := []string{"Authorization", "Bearer " + w.keys["sandbox"]}
	do := func(status int, method, target, body string) map[string]any {
		t.Helper()
		m, _ := w.call(status, method, target, body, sandbox...)
		return m
	}
	if m := do(200, "GET", "/v1/clock", ""); m["test"] != false {
		t.Errorf("got %v", m)
	}
	if m := do(200, "PUT", "/v1/clock", `{"now":"2026-01-31T00:00:00Z"}`); m["now"] != "2026-01-31T00:00:00Z" || m["test"] != true {
		t.Errorf("got %v", m)
	}
	w.call(422, "PUT", "/v1/clock", `{"now":"2027-01-31T00:00:00Z"}`)
	do(404, "GET", "/v1/catalog", "")

	put := func(status int, target, kind, body string, headers ...string) *httptest.ResponseRecorder {
		t.Helper()
		r := w.do("PUT", target, kind, body, append(headers, sandbox...)...)
		if r.Code != status {
			t.Fatalf("%s: got %d %s", target, r.Code, r.Body)
		}
		return r
	}
	if r := put(200, "/v1/catalog?dry_run=true", "text/yaml", managedCatalog); !strings.Contains(r.Body.String(), `"dry_run":true`) {
		t.Errorf("got %s", r.Body)
	}
	r := put(200, "/v1/catalog", "application/yaml", managedCatalog)
	tag := r.Header().Get("ETag")
	if !strings.Contains(r.Body.String(), `"plans":{"free":"free@1","pro":"pro@1"}`) || !strings.HasPrefix(tag, `"sha256:`) {
		t.Errorf("got %s %s", tag, r.Body)
	}
	put(412, "/v1/catalog", "application/yaml", managedCatalog, "If-Match", `"sha256:0"`)
	put(200, "/v1/catalog", "application/yaml", managedCatalog, "If-Match", tag)
	put(415, "/v1/catalog", "text/plain", managedCatalog)
	put(400, "/v1/catalog", "application/yaml", "usher: 2")
	got := w.do("GET", "/v1/catalog", "", "", sandbox...)
	if got.Code != 200 || got.Body.String() != managedCatalog || got.Header().Get("Content-Type") != "application/yaml" ||
		got.Header().Get("ETag") != tag {
		t.Errorf("got %d %v %s", got.Code, got.Header(), got.Body)
	}
	if m := do(200, "GET", "/v1/catalog/revisions", ""); len(m["data"].([]any)) != 1 {
		t.Errorf("got %v", m)
	}

	do(201, "PUT", "/v1/customers/acme", `{"name":"Acme","timezone":"America/New_York","metadata":{"crm":"42"}}`)
	if m := do(200, "PUT", "/v1/customers/acme", `{"name":"Acme <Inc>","timezone":"America/New_York"}`); m["name"] != "Acme <Inc>" ||
		m["anchor"] != "2026-01-31T00:00:00Z" {
		t.Errorf("got %v", m)
	}
	s := do(201, "POST", "/v1/customers/acme/subscriptions", `{"plan":"pro","addons":[{"addon":"pack","quantity":2}],"trial_ends_at":null}`)
	id := s["id"].(string)
	if s["plan"] != "pro@1" || s["status"] != "active" || s["revision"] == nil || s["starts_at"] != "2026-01-31T00:00:00Z" {
		t.Errorf("got %v", s)
	}
	if m := do(200, "POST", "/v1/check", `{"customer":"acme","feature":"api"}`); m["limit"] != 110.0 || m["revision"] != s["revision"] {
		t.Errorf("got %v", m)
	}
	p := do(200, "POST", "/v1/subscriptions/"+id+"/preview", `{"plan":"free","addons":[]}`)
	first := p["features"].([]any)[0].(map[string]any)
	if first["feature"] != "api" || first["changed"] != true || first["after"].(map[string]any)["limit"] != 10.0 {
		t.Errorf("got %v", p)
	}
	if m := do(200, "PATCH", "/v1/subscriptions/"+id, `{"plan":"free","when":"period_end"}`); m["plan"] != "pro@1" ||
		len(m["scheduled"].([]any)) != 1 {
		t.Errorf("got %v", m)
	}
	if m := do(200, "PATCH", "/v1/subscriptions/"+id, `{"ends_at":"2026-12-01T00:00:00Z"}`); m["ends_at"] != "2026-12-01T00:00:00Z" {
		t.Errorf("got %v", m)
	}
	if m := do(200, "PATCH", "/v1/subscriptions/"+id, `{"ends_at":null}`); m["ends_at"] != nil {
		t.Errorf("got %v", m)
	}
	if m := do(200, "GET", "/v1/subscriptions/"+id, ""); m["id"] != id {
		t.Errorf("got %v", m)
	}
	if m := do(200, "GET", "/v1/customers/acme/subscriptions", ""); len(m["data"].([]any)) != 1 {
		t.Errorf("got %v", m)
	}

	o := do(201, "POST", "/v1/customers/acme/overrides", `{"feature":"api","value":{"limit":9007199254740993},"reason":"beta",`+
		`"expires_at":"2026-06-01T00:00:00Z"}`)
	if raw, _ := w.call(200, "GET", "/v1/customers/acme/overrides", "", sandbox...); fmt.Sprint(raw["data"]) == "" {
		t.Error("no overrides")
	}
	if r := w.do("GET", "/v1/customers/acme/overrides", "", "", sandbox...); !strings.Contains(r.Body.String(),
		`"value":{"limit":9007199254740993}`) {
		t.Errorf("the number went through a float: %s", r.Body)
	}
	path := "/v1/overrides/" + o["id"].(string)
	if m := do(200, "PATCH", path, `{"expires":"never"}`); m["expires"] != "never" || m["expires_at"] != nil || m["reason"] != "beta" {
		t.Errorf("got %v", m)
	}
	if m := do(200, "PATCH", path, `{"expires_at":"2026-07-01T00:00:00Z","reason":"longer"}`); m["expires_at"] != "2026-07-01T00:00:00Z" ||
		m["expires"] != nil || m["reason"] != "longer" {
		t.Errorf("got %v", m)
	}
	for _, body := range []string{`{}`, `{"reason":""}`, `{"reason":null}`, `{"expires_at":"2026-01-01T00:00:00Z"}`, `{"expires":"soon"}`,
		`{"expires_at":null}`, `{"expires_at":"2026-07-01T00:00:00Z","expires":"never"}`, `{"value":5}`} {
		do(400, "PATCH", path, body)
	}
	do(404, "PATCH", "/v1/overrides/ovr_none", `{"expires":"never"}`)
	do(204, "DELETE", path, "")
	do(404, "PATCH", path, `{"expires":"never"}`)
	do(404, "DELETE", "/v1/overrides/"+o["id"].(string), "")
	do(400, "POST", "/v1/customers/acme/overrides", `{"feature":"sso","value":true,"reason":"beta"}`)

	g := do(201, "POST", "/v1/customers/acme/grants", `{"feature":"credits","amount":"5.5","priority":50,"reason":"welcome"}`)
	if g["amount"] != "5.500" || g["priority"] != 50.0 {
		t.Errorf("got %v", g)
	}
	path = "/v1/grants/" + g["id"].(string)
	if m := do(200, "PATCH", path, `{"expires_at":"2026-07-01T00:00:00Z"}`); m["expires_at"] != "2026-07-01T00:00:00Z" ||
		m["reason"] != "welcome" || m["amount"] != "5.500" {
		t.Errorf("got %v", m)
	}
	do(400, "PATCH", path, `{"amount":7}`)
	do(204, "DELETE", path, "")
	do(409, "PATCH", path, `{"expires":"never"}`)
	if m := do(200, "GET", "/v1/customers/acme/grants", ""); len(m["data"].([]any)) != 1 {
		t.Errorf("got %v", m)
	}
	do(422, "POST", "/v1/customers/acme/grants", `{"feature":"sso","amount":1,"reason":"r"}`)
	do(400, "POST", "/v1/customers/acme/grants", `{"feature":"api","amount":1,"priority":null,"reason":"r"}`)
	do(400, "POST", "/v1/customers/acme/grants", `{"feature":"api","amount":null,"reason":"r"}`)
	do(400, "POST", "/v1/customers/acme/grants", `{"feature":"api","amount":true,"reason":"r"}`)
	do(400, "POST", "/v1/customers/acme/grants", `{"feature":"api","amount":1e3,"reason":"r"}`)
	do(400, "POST", "/v1/customers/acme/overrides", `{"feature":"sso","value":null,"reason":"r","expires":"never"}`)
	do(404, "POST", "/v1/customers/nobody/grants", `{"feature":"api","amount":1,"reason":"r"}`)

	for body, status := range map[string]int{
		`{"plan":"pro","addon":[]}`:                               400, // unknown field
		`{"plan":"pro","addons":null}`:                            400,
		`{"plan":"pro","starts_at":null}`:                         400,
		`{"plan":"pro","starts_at":"2026-01-31"}`:                 400,
		`{"plan":"pro","trial_ends_at":"soon"}`:                   400,
		`{}`:                                                      400,
		`{"plan":"pro","addons":[{"addon":"pack","quantity":0}]}`: 400,
	} {
		if r := w.do("POST", "/v1/customers/acme/subscriptions", "application/json", body, sandbox...); r.Code != status {
			t.Errorf("%s: got %d %s, want %d", body, r.Code, r.Body, status)
		}
	}
	do(204, "DELETE", "/v1/customers/acme", "")
	do(404, "GET", "/v1/customers/acme", "")
	do(404, "GET", "/v1/subscriptions/"+id, "")
}

func TestCustomerIDsRoundTrip(t *testing.T) {
	t.Parallel()
	w := managed(t)
	for _, id := range []string{"a/b", "a:b", "50%", "ä ö", "a?b&c=d#e", "..", "a//b", "org/1/team/2", "+1", "%2F"} {
		at := "/v1/customers/" + url.PathEscape(id)
		if id == ".." {
			at = "/v1/customers/%2E%2E"
		}
		m, _ := w.call(201, "PUT", at, `{"name":"x"}`)
		if m["id"] != id {
			t.Errorf("%q became %q", id, m["id"])
		}
		w.call(201, "POST", at+"/grants", `{"feature":"api_calls","amount":1,"reason":"r"}`)
		if m, _ := w.call(200, "GET", at, ""); m["id"] != id {
			t.Errorf("%q is read as %q", id, m["id"])
		}
	}
	// Every one is listed once, page by page.
	seen := map[string]bool{}
	for target := "/v1/customers?limit=3"; ; {
		m, _ := w.call(200, "GET", target, "")
		for _, c := range m["data"].([]any) {
			seen[c.(map[string]any)["id"].(string)] = true
		}
		next, ok := m["next_cursor"].(string)
		if !ok {
			break
		}
		target = "/v1/customers?limit=3&cursor=" + next
	}
	if len(seen) != 12 || !seen["a/b"] || !seen["acme"] {
		t.Errorf("got %v", seen)
	}
	w.call(400, "GET", "/v1/customers?limit=1001", "")
	w.call(400, "GET", "/v1/customers?cursor=!", "")
}

func TestS13_ManagementIsIdempotent(t *testing.T) {
	t.Parallel()
	w := managed(t)
	const grants = "/v1/customers/acme/grants"
	body := `{"feature":"api_calls","amount":5,"reason":"<welcome>","key":"k1"}`
	_, first := w.call(201, "POST", grants, body)
	for _, same := range []string{body, `{"key":"k1","reason":"<welcome>","amount":"5","feature":"api_calls"}`} {
		_, again := w.call(201, "POST", grants, same)
		if again.Body.String() != first.Body.String() || again.Header().Get("Idempotent-Replayed") != "true" ||
			first.Header().Get("Idempotent-Replayed") != "" {
			t.Errorf("got %s, want %s again", again.Body, first.Body)
		}
	}
	_, again := w.call(201, "POST", grants, `{"feature":"api_calls","amount":5,"reason":"<welcome>"}`, "Idempotency-Key", "k1")
	if again.Body.String() != first.Body.String() {
		t.Errorf("header or body, it is one key: got %s", again.Body)
	}
	for target, body := range map[string]string{
		grants: `{"feature":"api_calls","amount":6,"reason":"<welcome>","key":"k1"}`,
		"/v1/customers/" + url.PathEscape("odd/näme ?&%") + "/grants": `{"feature":"api_calls","amount":5,"reason":"<welcome>","key":"k1"}`,
	} {
		if m, _ := w.call(409, "POST", target, body); m["code"] != "key_reused" {
			t.Errorf("got %v", m)
		}
	}
	w.call(409, "POST", "/v1/customers/acme/subscriptions", `{"plan":"pro"}`, "Idempotency-Key", "k1")
	w.call(400, "POST", grants, body, "Idempotency-Key", "k2")

	// A refusal is not stored: the same key may try again.
	w.call(400, "POST", grants, `{"feature":"nope","amount":5,"reason":"r","key":"k3"}`)
	w.call(201, "POST", grants, `{"feature":"api_calls","amount":5,"reason":"r","key":"k3"}`)

	_, sub := w.call(201, "POST", "/v1/customers/acme/subscriptions", `{"plan":"pro"}`, "Idempotency-Key", "k4")
	_, subAgain := w.call(201, "POST", "/v1/customers/acme/subscriptions", `{"plan":"pro"}`, "Idempotency-Key", "k4")
	if sub.Body.String() != subAgain.Body.String() {
		t.Errorf("got %s, want %s", subAgain.Body, sub.Body)
	}
	m, _ := w.call(200, "GET", "/v1/customers/acme/subscriptions", "")
	if len(m["data"].([]any)) != 1 {
		t.Errorf("got %v", m)
	}

	// At the same time: one grant, one answer.
	var wg sync.WaitGroup
	answers := make([]string, 8)
	for i := range answers {
		wg.Go(func() {
			r := w.do("POST", grants, "application/json", `{"feature":"api_calls","amount":1,"reason":"r","key":"k5"}`)
			answers[i] = fmt.Sprint(r.Code, r.Body)
		})
	}
	wg.Wait()
	for _, a := range answers {
		if a != answers[0] || !strings.HasPrefix(a, fmt.Sprint(http.StatusCreated)) {
			t.Errorf("got %s and %s", answers[0], a)
		}
	}
	if m, _ := w.call(200, "GET", grants, ""); len(m["data"].([]any)) != 3 {
		t.Errorf("got %v", m)
	}
}
