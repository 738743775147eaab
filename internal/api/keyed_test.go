package api

import (
	"encoding/json"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher/internal/testpg"
)

const keyedCatalog = `
usher: 1
meters:
  tokens: {event: llm.completion, sum: data.tokens}
features:
  sso: {kind: switch}
  calls: {kind: metered, precision: 2}
  tokens: {kind: metered, meter: tokens}
permissions: {call: {feature: calls}}
roles: {caller: {permissions: [call]}}
plans:
  pro: {default: true, entitlements: {sso: true, calls: {limit: 100, per: day}, tokens: {limit: 10, per: day}}}
  team: {entitlements: {calls: {limit: 1000, per: day}}}
`

// keyedCall is one call whose answer is stored: under the caller's key, or under the
// id of a reservation that it ends.
type keyedCall struct {
	method, path, body string
	status             int
}

// keyedCalls has, for each route with a key, and for the two that end a reservation,
// calls that succeed in a new world, in the order in which they are made. A developer who
// adds a route with a key adds a call here.
var keyedCalls = []struct {
	pattern string
	calls   []keyedCall
}{
	{"POST /v1/consume", []keyedCall{
		{"POST", "/v1/consume", `{"customer":"acme","feature":"calls","amount":2.50,"key":"c1"}`, 200},
		{"POST", "/v1/consume", `{"customer":"acme","feature":"calls","amount":500,"key":"c2"}`, 200}, // a denial
		{"POST", "/v1/consume", `{"customer":"acme","feature":"calls","member":"ann","key":"c3"}`, 200},
		{"POST", "/v1/consume", `{"customer":"acme","feature":"calls","member":"ann","permission":"call","key":"c4"}`, 200},
	}},
	{"POST /v1/reservations", []keyedCall{
		{"POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":3.25,"ttl":"1h","key":"r1"}`, 201},
		{"POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":4,"member":"ann","permission":"call","key":"r2"}`, 201},
		{"POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":500,"key":"r3"}`, 200},
	}},
	{"POST /v1/reservations/{id}/settle", []keyedCall{{"POST", "/v1/reservations/{r1}/settle", `{"amount":4.75}`, 200}}},
	{"POST /v1/reservations/{id}/release", []keyedCall{{"POST", "/v1/reservations/{r2}/release", ``, 200}}},
	{"POST /v1/corrections", []keyedCall{
		{"POST", "/v1/corrections", `{"ref":"c1","amount":1.25,"reason":"test","key":"b1"}`, 201},
		{"POST", "/v1/corrections", `{"ref":"r1","feature":"calls","amount":1,"reason":"test","key":"b2"}`, 201},
		{"POST", "/v1/corrections", `{"ref":{"source":"s","id":"e1"},"amount":1,"reason":"test","key":"b3"}`, 201},
	}},
	{"POST /v1/customers/{id}/subscriptions", []keyedCall{
		{"POST", "/v1/customers/acme/subscriptions", `{"plan":"team","key":"m1"}`, 201}}},
	{"PATCH /v1/subscriptions/{id}", []keyedCall{{"PATCH", "/v1/subscriptions/{m1}", `{"ends_at":"2026-03-10T13:00:00Z","key":"m2"}`, 200}}},
	{"POST /v1/customers/{id}/overrides", []keyedCall{{"POST", "/v1/customers/acme/overrides",
		`{"feature":"calls","value":{"limit":"7.50"},"reason":"test","expires_at":"2026-03-11T12:00:00Z","key":"m3"}`, 201}}},
	{"POST /v1/customers/{id}/grants", []keyedCall{{"POST", "/v1/customers/acme/grants",
		`{"feature":"calls","amount":1.50,"reason":"test","expires_at":"2026-03-11T12:00:00Z","key":"m4"}`, 201}}},
}

// removals are what may be gone when a call is made again.
var removals = map[string]func(t *testing.T, w *world, must func(status int, got *httptest.ResponseRecorder)){
	"the customer": func(t *testing.T, w *world, must func(int, *httptest.ResponseRecorder)) {
		must(204, w.json("DELETE", "/v1/customers/acme", ``))
	},
	"the member": func(t *testing.T, w *world, must func(int, *httptest.ResponseRecorder)) {
		must(204, w.json("DELETE", "/v1/customers/acme/members/ann", ``))
	},
	"the features": func(t *testing.T, w *world, must func(int, *httptest.ResponseRecorder)) {
		must(204, w.json("DELETE", "/v1/customers/acme/members/ann", ``)) // who is given the role
		must(200, w.do("PUT", "/v1/catalog?migrate=all", "application/yaml",
			"usher: 1\nfeatures: {sso: {kind: switch}}\nplans: {pro: {default: true, entitlements: {sso: true}}}\n"))
	},
	"the plans": func(t *testing.T, w *world, must func(int, *httptest.ResponseRecorder)) {
		text, _, _ := strings.Cut(keyedCatalog, "plans:")
		must(200, w.do("PUT", "/v1/catalog?migrate=all", "application/yaml", text))
	},
}

// TestS13_AnAnswerIsKeptWhateverIsRemoved makes every call that has a key, removes
// something, and makes the calls again: each gets the answer that it got first.
func TestS13_AnAnswerIsKeptWhateverIsRemoved(t *testing.T) {
	t.Parallel()
	for what, remove := range removals {
		for _, dialect := range []string{"sqlite", "postgres"} {
			t.Run(what+" on "+dialect, func(t *testing.T) {
				t.Parallel()
				dsn := filepath.Join(t.TempDir(), "usher.db")
				if dialect == "postgres" {
					server, err := testpg.Default()
					if err != nil {
						t.Skip("no PostgreSQL binaries: ", err)
					}
					if dsn, err = server.NewDatabase(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				replays(t, newWorldOn(t, dsn, keyedCatalog), remove)
			})
		}
	}
}

func replays(t *testing.T, w *world, remove func(*testing.T, *world, func(int, *httptest.ResponseRecorder))) {
	must := func(status int, got *httptest.ResponseRecorder) {
		t.Helper()
		if got.Code != status {
			t.Fatalf("got %d %s, want %d", got.Code, got.Body, status)
		}
	}
	keyed := map[string]bool{"POST /v1/reservations/{id}/settle": true, "POST /v1/reservations/{id}/release": true}
	for _, rt := range w.api.Routes() {
		if rt.Keyed {
			keyed[rt.Pattern] = true
		}
	}
	must(201, w.json("PUT", "/v1/customers/acme/members/ann", `{}`))
	must(200, w.json("PUT", "/v1/customers/acme/assignments", `{"member":"ann","role":"caller"}`))
	const event = `{"specversion":"1.0","id":"e1","source":"s","type":"llm.completion","subject":"acme","data":{"tokens":3}}`
	must(200, w.do("POST", "/v1/events", eventType, event))

	ids := strings.NewReplacer()
	var named []string
	ask := func(c keyedCall) (map[string]any, bool) {
		t.Helper()
		var headers []string
		path, body := ids.Replace(c.path), c.body
		// The routes of changes take the key in a header, unless they make a grant.
		if before, key, ok := strings.Cut(body, `,"key":"m`); ok {
			body, key = before+"}", strings.TrimSuffix(key, `"}`)
			headers = []string{"Idempotency-Key", "m" + key}
		}
		got := w.json(c.method, path, body, headers...)
		if got.Code != c.status {
			t.Errorf("%s %s %s: got %d %s, want %d", c.method, path, c.body, got.Code, got.Body, c.status)
			return nil, false
		}
		var v map[string]any
		if err := json.Unmarshal(got.Body.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		replayed := v["replayed"] == true || got.Header().Get("Idempotent-Replayed") == "true"
		delete(v, "replayed")
		return v, replayed
	}
	first := map[string]map[string]any{}
	for _, r := range keyedCalls {
		if !keyed[r.pattern] {
			t.Errorf("%s has no key, or is no route", r.pattern)
		}
		delete(keyed, r.pattern)
		for _, c := range r.calls {
			v, replayed := ask(c)
			if replayed {
				t.Errorf("%s %s: replayed at once", c.path, c.body)
			}
			first[c.path+c.body] = v
			id, _ := v["id"].(string)
			if held, ok := v["reservation"].(map[string]any); ok {
				id, _ = held["id"].(string)
			}
			if _, key, ok := strings.Cut(c.body, `"key":"`); ok && id != "" {
				named = append(named, "{"+strings.TrimSuffix(key, `"}`)+"}", id)
				ids = strings.NewReplacer(named...)
			}
		}
	}
	for pattern := range keyed {
		t.Errorf("%s has a key and no call in keyedCalls", pattern)
	}
	w.pass(40 * 24 * time.Hour) // no window that has use is open any more; all answers are younger than 62 days
	remove(t, w, must)
	for _, r := range keyedCalls {
		for _, c := range r.calls {
			v, replayed := ask(c)
			if !replayed || !reflect.DeepEqual(v, first[c.path+c.body]) {
				t.Errorf("%s %s, again: replayed %v, got\n%v\nwant\n%v", c.path, c.body, replayed, v, first[c.path+c.body])
			}
		}
	}
	// An event's answer is that it is known.
	if got := w.do("POST", "/v1/events", eventType, event); got.Code != 200 || !strings.Contains(got.Body.String(), `"duplicates":1`) {
		t.Errorf("the event again: got %d %s, want a duplicate", got.Code, got.Body)
	}
	// And another body is another call.
	for _, c := range []keyedCall{
		{"POST", "/v1/consume", `{"customer":"acme","feature":"calls","amount":2,"key":"c1"}`, 409},
		{"POST", "/v1/reservations/{r1}/settle", `{"amount":4.5}`, 409},
		{"POST", "/v1/reservations/{r1}/release", ``, 409},
		{"POST", "/v1/corrections", `{"ref":"c1","amount":1,"reason":"test","key":"b1"}`, 409},
		{"POST", "/v1/customers/acme/grants", `{"feature":"calls","amount":1,"reason":"test","key":"m4"}`, 409},
	} {
		ask(c)
	}
}
