package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/usage"
)

const testCatalog = `
usher: 1
meters:
  api_calls: {event: api.request}
  tokens: {event: llm.completion, sum: data.tokens, dimensions: [data.model]}
features:
  sso: {kind: switch}
  support: {kind: config, type: enum, values: [community, email]}
  regions: {kind: config, type: list}
  api_calls: {kind: metered, meter: api_calls}
  tokens: {kind: metered, meter: tokens}
  credits: {kind: credits, precision: 3}
plans:
  pro:
    default: true
    entitlements:
      sso: true
      support: email
      regions: [eu, us]
      api_calls: {limit: 100, per: month}
      tokens: {limit: 1000, per: month}
      credits: {limit: "5.000", per: month}
`

// world is a whole server on a fresh database, with one customer, acme, and one
// with an odd id.
type world struct {
	t    testing.TB
	api  *server
	auth *auth.Service
	db   *store.DB
	keys map[string]string // by role, of production; "sandbox" is an admin's there
	log  *lockedBuffer
	past atomic.Int64 // nanoseconds from start until now, by the server's clock
}

func (w *world) now() time.Time { return start.Add(time.Duration(w.past.Load())) }

// pass moves the server's clock, also back.
func (w *world) pass(d time.Duration) { w.past.Add(int64(d)) }

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var start = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// newWorld is one on a fresh SQLite file.
func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, filepath.Join(t.TempDir(), "usher.db"), testCatalog)
}

func newWorldOn(t testing.TB, dsn, catalogue string) *world {
	t.Helper()
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, keys: map[string]string{}, log: &lockedBuffer{}}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	var err error
	w.db, err = store.Open(ctx, store.Config{DSN: dsn, MaxConns: 4})
	must(err)
	t.Cleanup(func() { w.db.Close() })
	l, err := live.New(ctx, live.Config{DB: w.db, Now: w.now})
	must(err)
	var made atomic.Int64
	u := usage.New(usage.Config{DB: w.db, Live: l, Node: "test", Log: log, NewID: func(prefix string) string {
		return prefix +
			strconv.FormatInt(made.Add(1), 10)
	}})
	t.Cleanup(func() { u.Close(ctx) })
	w.auth = auth.New(auth.Config{DB: w.db, Log: log})
	t.Cleanup(w.auth.Close)
	for _, role := range auth.Roles {
		n := auth.NewKey{Name: role, Role: role}
		if role == auth.RoleSCIM {
			n.Customer = "acme"
		}
		w.keys[role], _, err = w.auth.CreateKey(ctx, usher.By{Actor: usher.Actor{Kind: "cli"}}, usher.Production, n)
		must(err)
	}
	w.keys["sandbox"], _, err = w.auth.Create(ctx, usher.Actor{Kind: "cli"}, usher.Sandbox, "", auth.RoleAdmin, time.Time{})
	must(err)
	cat, err := catalogfile.Parse("test.yaml", []byte(catalogue))
	must(err)
	var plans []usher.PlanVersion
	for _, p := range cat.Plans {
		plans = append(plans, usher.PlanVersion{Version: 1, Plan: *p})
	}
	note := store.Note{By: usher.By{Actor: usher.Actor{Kind: "system"}, RequestID: "test"}, Action: "test", Object: "test",
		At: start.AddDate(0, -1, 0)}
	_, err = w.db.ApplyCatalog(ctx, store.CatalogChange{Env: usher.Production, Note: note, Source: catalogue, Canonical: catalogue,
		Hash: "sha256:test", Plans: plans})
	must(err)
	anchor := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e, err := w.db.Environment(ctx, usher.Production)
	must(err)
	for _, id := range []string{"acme", "odd/näme ?&%"} {
		_, err = w.db.ChangeCustomer(ctx, store.CustomerChange{Env: usher.Production, Note: note, BasisCatalog: e.CatalogRevision, Customer: id,
			Put: &usher.Customer{ID: id, CreatedAt: anchor, Anchor: &anchor, Clocks: []usher.Clock{{From: anchor, Anchor: anchor}}}})
		must(err)
	}
	must(l.Refresh(ctx, usher.Production))
	var ids atomic.Int64
	w.api = serve(setup{T: t, API: Config{Live: l, Decide: decide.New(l), Usage: u, Auth: w.auth,
		Customers: customers.New(customers.Config{DB: w.db, Live: l, NewID: func(prefix string) string {
			return prefix +
				strconv.FormatInt(ids.Add(1), 10)
		}}),
		Catalog:   catalog.New(catalog.Config{DB: w.db, Live: l}),
		Directory: directory.New(directory.Config{DB: w.db, Live: l, Direct: u.Direct})},
		Door: door.Config{Auth: w.auth, Ready: func(ctx context.Context) (checks, takes error) { return w.db.Ping(ctx), u.Ready(ctx) },
			Log: log, Version: "test"}})
	return w
}

// do sends one request as an admin, unless a header says otherwise.
func (w *world) do(method, target, contentType, body string, headers ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+w.keys[auth.RoleAdmin])
	r.Header.Set("X-Request-ID", "t")
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	out := httptest.NewRecorder()
	w.api.ServeHTTP(out, r)
	return out
}

// want compares an answer. Its valid_until is compared only if body has one.
func (w *world) want(got *httptest.ResponseRecorder, status int, body string) {
	w.t.Helper()
	text := got.Body.String()
	if !strings.Contains(body, "valid_until") {
		text = validUntil.ReplaceAllString(text, "")
	}
	if got.Code != status || text != body {
		w.t.Errorf("got %d\n%s\nwant %d\n%s", got.Code, text, status, body)
	}
}

var validUntil = regexp.MustCompile(`"valid_until":"[^"]*",`)

// bad is the body of a 400 with problems "location|message".
func bad(problems ...string) string {
	var list []usher.Problem
	for _, p := range problems {
		location, message, _ := strings.Cut(p, "|")
		list = append(list, usher.Problem{Location: location, Message: message})
	}
	e := door.Invalids(list)
	p := door.NewProblem(usher.Invalid, e.Detail, list)
	p.RequestID = "t"
	b, _ := door.Marshal(p)
	return string(b)
}

func TestS01_Check(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const end = `"window":{"start":"2026-03-01T00:00:00Z","end":"2026-04-01T00:00:00Z"},"plan":"pro@1","mode":"enforce",` +
		`"valid_until":"2026-04-01T00:00:00Z","revision":3}`
	for body, want := range map[string]string{
		`{"customer":"acme","feature":"api_calls","amount":10}`: `{"allowed":true,"reason":"within_limit","custo` +
			`mer":"acme","feature":"api_calls","kind":"metered","precision":0,"limit":100,"used":0,"reserved":0,"remaining":100,` +
			`"unlimited":false,"overage":0,` + end,
		`{"customer":"acme","feature":"api_calls","amount":"101.0"}`: `{"allowed":false,"reason":"limit_reached",` +
			`"customer":"acme","feature":"api_calls","kind":"metered","precision":0,"limit":100,"used":0,"reserved":0,"remaining":100,` +
			`"unlimited":false,"overage":0,` + end,
		`{"customer":"acme","feature":"credits","amount":"1.5"}`: `{"allowed":true,"reason":"within_limit","custo` +
			`mer":"acme","feature":"credits","kind":"credits","precision":3,"limit":"5.000","used":"0.000","reserved":"0.000",` +
			`"remaining":"5.000","unlimited":false,"overage":"0.000",` + end,
		` { "feature" : "sso" , "customer" : "acme" , "at" : "2026-03-01T01:00:00+02:00" } `: `{"allowed":true,"reason":"granted","customer":` +
			`"acme","feature":"sso","kind":"switch","plan":"pro@1","revision":3}`,
		`{"customer":"acme","feature":"regions"}`: `{"allowed":true,"reason":"granted","customer":` +
			`"acme","feature":"regions","kind":"config","value":["eu","us"],"plan":"pro@1","revision":3}`,
		`{"customer":"nobody","feature":"sso"}`: `{"allowed":false,"reason":"unknown_customer",` +
			`"customer":"nobody","feature":"sso","kind":"switch","revision":3}`,
		`{"customer":"acme","feature":"Nope <x>"}`: `{"allowed":false,"reason":"unknown_feature",` +
			`"customer":"acme","feature":"Nope <x>","revision":3}`,
		`{"customer":"odd\/n\u00e4me ?&%","feature":"support"}`: `{"allowed":true,"reason":"granted","customer":` +
			`"odd/näme ?&%","feature":"support","kind":"config","value":"email","plan":"pro@1","revision":3}`,
	} {
		got := w.do("POST", "/v1/check", "application/json", body)
		w.want(got, 200, want)
		wantHeaders(t, got.Header(), map[string]string{"Content-Type": "application/json", "X-Request-Id": "t",
			"X-Content-Type-Options": "nosniff"})
	}
	no := func(feature, kind string) string {
		if feature == "credits" {
			kind += `","precision":3,"mode":"enforce`
		} else if kind == "metered" {
			kind += `","mode":"enforce`
		}
		return `{"allowed":false,"reason":"not_entitled","customer":"odd/näme ?&%","feature":"` + feature + `","kind":"` + kind +
			`","valid_until":"2026-01-01T00:00:00Z","revision":3}`
	}
	w.want(w.do("GET", "/v1/customers/odd%2Fn%C3%A4me%20%3F&%25/entitlements?at=2025-06-01T00:00:00Z", "", ""), 200, `{"data":[`+
		strings.Join([]string{
			no("api_calls", "metered"), no("credits", "credits"), no("regions", "config"), no("sso", "switch"), no("support", "config"),
			no("tokens", "metered")}, ",")+`],"revision":3}`)
	w.want(w.do("POST", "/v1/check/batch", "application/json", `{"checks":[{"customer":"nobody","feature":"sso"},{"customer":"acme",`+
		`"feature":"sso","min_revision":3}],"min_revision":2}`), 200,
		`{"decisions":[{"allowed":false,"reason":"unknown_customer","customer":"nobody","feature":"sso","kind":"switch","revision":3},`+
			`{"allowed":true,"reason":"granted","customer":"acme","feature":"sso","kind":"switch","plan":"pro@1","revision":3}]}`)
	w.want(w.do("POST", "/v1/check/batch", "application/json", `{"checks":[]}`), 200, `{"decisions":[]}`)
}

func wantHeaders(t *testing.T, h http.Header, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got := h.Get(name); got != value {
			t.Errorf("header %s: got %q, want %q", name, got, value)
		}
	}
}

// TestS13_Consume: one key, one effect, one answer; the key may be in the body or the header.
func TestS13_Consume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const head = `"customer":"acme","feature":"api_calls","kind":"metered","precision":0,"limit":100,"used":10,"reserved":0,` +
		`"remaining":90,"unlimited":false,"overage":0,"window":{"start":"2026-03-01T00:00:00Z","end":"2026-04-01T00:00:00Z"},` +
		`"plan":"pro@1","mode":"enforce",`
	const took = `{"allowed":true,"reason":"within_limit",` + head + `"consumed":10,"deductions":[{"allowance":"plan:pro@1","amount":10}],`
	consume := func(body string, headers ...string) *httptest.ResponseRecorder {
		return w.do("POST", "/v1/consume", "application/json", body, headers...)
	}
	w.want(consume(`{"customer":"acme","feature":"api_calls","amount":10,"key":"k1"}`), 200, took+`"revision":3}`)
	w.want(consume(`{"customer":"acme","feature":"api_calls","amount":"10.0"}`, "Idempotency-Key", "k1"), 200, took+
		`"replayed":true,"revision":3}`)
	w.want(consume(`{"customer":"acme","feature":"api_calls","amount":91,"key":"k2"}`), 200, `{"allowed":false,"reason":"limit_reached",`+
		head+`"consumed":0,"deductions":[],"revision":3}`)
	other := consume(`{"customer":"acme","feature":"api_calls","amount":11,"key":"k1"}`)
	if other.Code != 409 || !strings.Contains(other.Body.String(), `"code":"key_reused"`) {
		t.Errorf("the same key with another body: got %d %s, want 409 key_reused", other.Code, other.Body)
	}
	plain := consume(`{"customer":"acme","feature":"sso","key":"k3"}`)
	if plain.Code != 422 || !strings.Contains(plain.Body.String(), `"code":"not_consumable"`) {
		t.Errorf("consuming a switch: got %d %s, want 422 not_consumable", plain.Code, plain.Body)
	}
}

func TestS17_UnmatchedEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const event = `{"specversion":"1.0","id":"%s","source":"gateway","type":"%s","subject":"acme"}`
	batch := "[" + fmt.Sprintf(event, "1", "api.requets") + "," + fmt.Sprintf(event, "2", "api.request") + "," +
		fmt.Sprintf(event, "3", "b") + "]"
	w.want(w.do("POST", "/v1/events", eventsType, batch), 200, `{"accepted":3,"duplicates":0,"unmatched":2,"rejected":[]}`)
	const seen = `"count":1,"last_seen":"2026-03-10T12:00:00Z","source":"gateway"}`
	w.want(w.do("GET", "/v1/events/unmatched?limit=1", "", ""), 200,
		`{"data":[{"type":"api.requets",`+seen+`],"next_cursor":"YXBpLnJlcXVldHM"}`+"\n")
	w.want(w.do("GET", "/v1/events/unmatched?cursor=YXBpLnJlcXVldHM", "", ""), 200, `{"data":[{"type":"b",`+seen+`]}`+"\n")
}

func TestExplain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.do("POST", "/v1/explain", "application/json", `{"customer":"acme","feature":"api_calls","amount":101}`)
	var x usher.Explanation
	if err := json.Unmarshal(got.Body.Bytes(), &x); err != nil || got.Code != 200 {
		t.Fatalf("got %d %s: %v", got.Code, got.Body, err)
	}
	if x.Decision.Reason != usher.LimitReached || len(x.Considered) != 1 || len(x.Allowances) != 1 {
		t.Errorf("got %s, want a denial with one source and one allowance", got.Body)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do("POST", "/v1/events", eventType, event("1", `{"tokens":7,"model":"a"}`))
	w.do("POST", "/v1/events", eventType, event("2", `{"tokens":5,"model":"b"}`))
	const ask = "/v1/usage?customer=acme&feature=tokens&from=2026-03-01T00:00:00Z&to=2026-04-01T00:00:00Z&window=day"
	const day = `{"start":"2026-03-10T00:00:00Z","end":"2026-03-11T00:00:00Z","value":`
	w.want(w.do("GET", ask, "", ""), 200, `{"data":[`+day+`12}]}`)
	w.want(w.do("GET", ask+"&group_by=data.model", "", ""), 200, `{"data":[`+day+`7,"group":{"data.model":"a"}},`+day+
		`5,"group":{"data.model":"b"}}]}`)
	w.want(w.do("GET", strings.Replace(ask, "2026-03-01", "2026-03-11", 1), "", ""), 200, `{"data":[]}`)
}
