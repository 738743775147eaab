package api

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/testpg"
)

const flagCatalog = `
usher: 1
features:
  sso: {kind: switch}
  audit: {kind: switch}
  support: {kind: config, type: enum, values: [community, email]}
  regions: {kind: config, type: list}
  retention: {kind: config, type: integer}
  discount: {kind: config, type: decimal, precision: 2}
  greeting: {kind: config, type: string}
  none: {kind: config, type: integer}
  exports: {kind: metered}
  hours: {kind: metered, precision: 1}
  editors: {kind: seats}
  credits: {kind: credits}
  credits.allowed: {kind: config, type: string}
plans:
  pro:
    default: true
    entitlements:
      sso: true
      support: email
      regions: [eu, us]
      retention: 90
      discount: "12.50"
      greeting: "hi, \"you\" <b>"
      exports: {limit: 3, per: month}
      hours: {limit: "2.5", per: month}
      editors: {limit: 5}
      credits: unlimited
      credits.allowed: mine
`

func newFlagWorld(t *testing.T) *world {
	t.Helper()
	w := newWorldOn(t, filepath.Join(t.TempDir(), "usher.db"), flagCatalog)
	w.again(func(s *setup) { s.Door.PublicURL = "https://usher.test" })
	return w
}

const (
	flagsPath  = "/ofrep/v1/evaluate/flags"
	eventsPath = "/ofrep/v1/events"
)

func (w *world) flag(key, body string, headers ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	return w.do("POST", flagsPath+"/"+key, "application/json", body, headers...)
}

func TestOFREP_Flags(t *testing.T) {
	t.Parallel()
	w := newFlagWorld(t)
	const acme = `{"context":{"targetingKey":"acme","colour":{"deep":[1,null]}},"more":true}`
	const month = `"window":{"start":"2026-03-01T00:00:00Z","end":"2026-04-01T00:00:00Z"}`
	const resets = `"resets_at":"2026-04-01T00:00:00Z"`
	no := func(kind string) string {
		return `"reason":"DISABLED","metadata":{"reason":"not_entitled","allowed":false,"kind":"` + kind + `","revision":3}}`
	}
	yes := func(kind string) string {
		return `"metadata":{"reason":"granted","allowed":true,"kind":"` + kind + `","plan":"pro@1","revision":3}}`
	}
	for key, want := range map[string]string{
		"sso": `{"key":"sso","value":true,"reason":"TARGETING_MATCH","variant":"on",` + yes("switch"),
		"audit": `{"key":"audit","value":false,"reason":"DISABLED","variant":"off","metadata":{"reason":"not_entitled",` +
			`"allowed":false,"kind":"switch","revision":3}}`,
		"support":          `{"key":"support","value":"email","reason":"TARGETING_MATCH","variant":"email",` + yes("config"),
		"regions":          `{"key":"regions","value":["eu","us"],"reason":"TARGETING_MATCH","variant":"pro@1",` + yes("config"),
		"retention":        `{"key":"retention","value":90,"reason":"TARGETING_MATCH","variant":"pro@1",` + yes("config"),
		"discount":         `{"key":"discount","value":12.50,"reason":"TARGETING_MATCH","variant":"pro@1",` + yes("config"),
		"greeting":         `{"key":"greeting","value":"hi, \"you\" <b>","reason":"TARGETING_MATCH","variant":"pro@1",` + yes("config"),
		"greeting.allowed": `{"key":"greeting.allowed","value":true,"reason":"TARGETING_MATCH","variant":"on",` + yes("config"),
		"none":             `{"key":"none","value":0,` + no("config"),
		"none.allowed": `{"key":"none.allowed","value":false,"reason":"DISABLED","variant":"off","metadata":{"reason":"not_entitled",` +
			`"allowed":false,"kind":"config","revision":3}}`,
		"exports": `{"key":"exports","value":{"allowed":true,"reason":"within_limit","limit":3,"used":0,"reserved":0,"remaining":3,` +
			`"unlimited":false,"overage":0,` + month + `},"reason":"TARGETING_MATCH","variant":"pro@1","metadata":{"reason":"within_limit",` +
			`"allowed":true,"kind":"metered","plan":"pro@1","limit":3,"used":0,"reserved":0,"remaining":3,"unlimited":false,"overage":0,` +
			resets + `,"revision":3}}`,
		"hours.allowed": `{"key":"hours.allowed","value":true,"reason":"TARGETING_MATCH","variant":"on",` +
			`"metadata":{"reason":"within_limit","allowed":true,"kind":"metered","plan":"pro@1","limit":"2.5","used":"0.0","reserved":"0.0",` +
			`"remaining":"2.5","unlimited":false,"overage":"0.0",` + resets + `,"revision":3}}`,
		"editors": `{"key":"editors","value":{"allowed":true,"reason":"within_limit","limit":5,"used":0,"reserved":0,"remaining":5,` +
			`"unlimited":false,"overage":0},"reason":"TARGETING_MATCH","variant":"pro@1","metadata":{"reason":"within_limit","allowed":true,` +
			`"kind":"seats","plan":"pro@1","limit":5,"used":0,"reserved":0,"remaining":5,"unlimited":false,"overage":0,"revision":3}}`,
		"credits": `{"key":"credits","value":{"allowed":true,"reason":"unlimited","used":0,"reserved":0,"unlimited":true,` +
			`"overage":0},"reason":"TARGETING_MATCH","variant":"pro@1","metadata":{"reason":"unlimited","allowed":true,"kind":"credits",` +
			`"plan":"pro@1","used":0,"reserved":0,"unlimited":true,"overage":0,"revision":3}}`,
		"credits.allowed": `{"key":"credits.allowed","value":"mine","reason":"TARGETING_MATCH","variant":"pro@1",` + yes("config"),
		// a feature goes before what is made up
	} {
		got := w.flag(key, acme)
		if w.want(got, 200, want); !json.Valid(got.Body.Bytes()) {
			t.Errorf("%s: not JSON", key)
		}
		wantHeaders(t, got.Header(), map[string]string{"Content-Type": "application/json"})
	}
	// A customer that is not there has nothing; that is an answer.
	w.want(w.flag("retention", `{"context":{"targetingKey":"nobody"}}`), 200,
		`{"key":"retention","value":0,"reason":"DISABLED","metadata":{"reason":"unknown_customer","allowed":false,"kind":"config","revision":3}}`)
	// What is used up is off, and its numbers say why.
	for n := range 3 {
		w.want2xx(w.do("POST", "/v1/consume", "application/json", `{"customer":"acme","feature":"exports","amount":1}`, "Idempotency-Key",
			strings.Repeat("k", n+1)))
	}
	got := w.flag("exports.allowed", acme)
	if want := `{"key":"exports.allowed","value":false,"reason":"DISABLED","variant":"off","metadata":{"reason":"limit_reached",` +
		`"allowed":false,"kind":"metered","plan":"pro@1","limit":3,"used":3,"reserved":0,"remaining":0,"unlimited":false,"overage":0,` +
		resets + `,"revision":3}}`; got.Body.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.Body, want)
	}
}

func (w *world) want2xx(got *httptest.ResponseRecorder) {
	w.t.Helper()
	if got.Code >= 300 {
		w.t.Fatalf("got %d %s", got.Code, got.Body)
	}
}

func TestOFREP_Errors(t *testing.T) {
	t.Parallel()
	w := newFlagWorld(t)
	for _, c := range []struct {
		key, body string
		status    int
		code      string
	}{
		{"sso", ``, 400, "PARSE_ERROR"},
		{"sso", `{`, 400, "PARSE_ERROR"},
		{"sso", `[]`, 400, "PARSE_ERROR"},
		{"sso", `{} {}`, 400, "PARSE_ERROR"},
		{"sso", `{"context":{"targetingKey":"acme","targetingKey":"core"}}`, 400, "PARSE_ERROR"},
		{"sso", `{"context":{"targetingKey":"acme","x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}}`, 400, "PARSE_ERROR"},
		{"sso", `{}`, 400, "TARGETING_KEY_MISSING"},
		{"sso", `{"context":null}`, 400, "TARGETING_KEY_MISSING"},
		{"sso", `{"context":{}}`, 400, "TARGETING_KEY_MISSING"},
		{"sso", `{"context":{"targetingKey":""}}`, 400, "TARGETING_KEY_MISSING"},
		{"nothing", `{"context":{}}`, 400, "TARGETING_KEY_MISSING"},
		{"sso", `{"context":[]}`, 400, "INVALID_CONTEXT"},
		{"sso", `{"context":{"targetingKey":5}}`, 400, "INVALID_CONTEXT"},
		{"sso", `{"context":{"targetingKey":"a\u0007"}}`, 400, "INVALID_CONTEXT"},
		{"sso", `{"context":{"targetingKey":"` + strings.Repeat("x", 256) + `"}}`, 400, "INVALID_CONTEXT"},
		{"sso", `{"context":{"targetingKey":"acme","member":true}}`, 400, "INVALID_CONTEXT"},
		{"sso", `{"context":{"targetingKey":"acme","member":""}}`, 400, "INVALID_CONTEXT"},
		{"sso", `{"context":{"targetingKey":"acme","member":null}}`, 400, "INVALID_CONTEXT"},
		{"nothing", `{"context":{"targetingKey":"acme"}}`, 404, "FLAG_NOT_FOUND"},
		{"sso.allowed", `{"context":{"targetingKey":"acme"}}`, 404, "FLAG_NOT_FOUND"},
		{"nothing.allowed", `{"context":{"targetingKey":"acme"}}`, 404, "FLAG_NOT_FOUND"},
		{"%3Cb%3E", `{"context":{"targetingKey":"acme"}}`, 404, "FLAG_NOT_FOUND"},
	} {
		check := func(got *httptest.ResponseRecorder, key string) {
			t.Helper()
			var e map[string]string
			if err := json.Unmarshal(got.Body.Bytes(), &e); err != nil {
				t.Errorf("%s %s: %v", c.key, c.body, err)
			}
			if got.Code != c.status || e["errorCode"] != c.code || e["key"] != key || e["errorDetails"] == "" ||
				got.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%s %s: got %d %s, want %d %s", c.key, c.body, got.Code, got.Body, c.status, c.code)
			}
		}
		key, _ := url.PathUnescape(c.key)
		check(w.flag(c.key, c.body), key)
		if c.status != 404 {
			check(w.do("POST", flagsPath, "application/json", c.body), "")
		}
	}
	if got := w.do("POST", flagsPath, "text/plain", `{}`); got.Code != 415 || !strings.Contains(got.Body.String(),
		`"errorCode":"PARSE_ERROR"`) {
		t.Errorf("another content type: got %d %s", got.Code, got.Body)
	}
	if got := w.do("POST", flagsPath, "application/json; charset=utf-8", `{"context":{"targetingKey":"acme"}}`); got.Code != 200 {
		t.Errorf("with a charset: got %d %s", got.Code, got.Body)
	}
	// What is wrong is said once.
	w.want(w.flag("sso", `{"context":}`), 400, `{"key":"sso","errorCode":"PARSE_ERROR",`+
		`"errorDetails":"body: invalid JSON at line 1, column 12: expected a value, got `+"`}`"+`"}`)
	// A key in X-API-Key, which other routes do not take.
	key := w.keys[auth.RoleApp]
	if got := w.flag("sso", `{"context":{"targetingKey":"acme"}}`, "Authorization", "", "X-API-Key", key); got.Code != 200 {
		t.Errorf("X-API-Key: got %d %s", got.Code, got.Body)
	}
	if got := w.flag("sso", `{}`, "Authorization", "", "X-API-Key", key+"x"); got.Code != 401 {
		t.Errorf("a wrong X-API-Key: got %d %s", got.Code, got.Body)
	}
	if got := w.flag("sso", `{"context":{"targetingKey":"acme"}}`, "X-API-Key", "x"); got.Code != 200 {
		t.Errorf("both: got %d %s, want Authorization to win", got.Code, got.Body)
	}
	if got := w.do("POST", "/v1/check", "application/json", `{"customer":"acme","feature":"sso"}`, "Authorization", "",
		"X-API-Key", key); got.Code != 401 {
		t.Errorf("another route: got %d %s", got.Code, got.Body)
	}
	// Who calls is told as everywhere.
	if got := w.flag("sso", `{}`, "Authorization", ""); got.Code != 401 || got.Header().Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("without a key: got %d %s", got.Code, got.Body)
	}
	if got := w.do("GET", flagsPath, "", ""); got.Code != 405 {
		t.Errorf("GET: got %d", got.Code)
	}
	w.db.Close()
	got := w.flag("sso", `{"context":{"targetingKey":"odd/näme ?&%"}}`)
	w.want(got, 500, `{"key":"sso","errorCode":"GENERAL","errorDetails":"internal error"}`)
}

// bulk reads a bulk answer by key.
func bulk(t *testing.T, got *httptest.ResponseRecorder) map[string]map[string]any {
	t.Helper()
	var all struct {
		Flags []map[string]any `json:"flags"`
	}
	if err := json.Unmarshal(got.Body.Bytes(), &all); err != nil || got.Code != 200 {
		t.Fatalf("got %d %s, %v", got.Code, got.Body, err)
	}
	flags := map[string]map[string]any{}
	for _, f := range all.Flags {
		key := f["key"].(string)
		if flags[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		flags[key] = f
	}
	return flags
}

func TestOFREP_BulkAndETag(t *testing.T) {
	t.Parallel()
	w := newFlagWorld(t)
	const acme = `{"context":{"targetingKey":"acme"}}`
	ask := func(headers ...string) *httptest.ResponseRecorder {
		t.Helper()
		return w.do("POST", flagsPath, "application/json", acme, headers...)
	}
	first := ask()
	flags := bulk(t, first)
	if len(flags) != 13+10 { // a yes or no of each that is not a switch, but for one whose key is taken
		t.Errorf("got %d flags: %s", len(flags), first.Body)
	}
	if flags["credits.allowed"]["value"] != "mine" || flags["regions.allowed"]["value"] != true || flags["sso.allowed"] != nil {
		t.Errorf("got %s", first.Body)
	}
	etag := first.Header().Get("ETag")
	if len(etag) < 10 || etag[0] != '"' || etag[len(etag)-1] != '"' {
		t.Fatalf("got ETag %s, want a strong one", etag)
	}
	for _, given := range []string{etag, "W/" + etag, `"x", ` + etag, `"x",W/` + etag + `, "y"`, "*"} {
		got := ask("If-None-Match", given)
		if got.Code != 304 || got.Body.Len() != 0 || got.Header().Get("ETag") != etag {
			t.Errorf("%s: got %d %s", given, got.Code, got.Body)
		}
	}
	for _, given := range []string{`"x"`, strings.Trim(etag, `"`), "", etag + "x"} {
		if got := ask("If-None-Match", given); got.Code != 200 || got.Body.String() != first.Body.String() {
			t.Errorf("%s: got %d", given, got.Code)
		}
	}
	// Another customer's change is none of this one's, its own is.
	w.want2xx(w.do("POST", "/v1/customers/"+url.PathEscape("odd/näme ?&%")+"/overrides", "application/json",
		`{"feature":"retention","value":1,"reason":"test","expires":"never"}`))
	if got := ask("If-None-Match", etag); got.Code != 304 {
		t.Errorf("after another customer's change: got %d %s", got.Code, got.Body)
	}
	w.want2xx(w.do("POST", "/v1/consume", "application/json", `{"customer":"acme","feature":"exports"}`, "Idempotency-Key", "1"))
	if got := ask("If-None-Match", etag); got.Code != 200 || got.Header().Get("ETag") == etag {
		t.Errorf("after use: got %d", got.Code)
	}
	w.want2xx(w.do("POST", "/v1/customers/acme/overrides", "application/json",
		`{"feature":"retention","value":365,"reason":"test","expires":"never"}`))
	got := ask("If-None-Match", etag)
	if flags := bulk(t, got); flags["retention"]["value"] != 365.0 {
		t.Errorf("after its own change: got %s", got.Body)
	}
	// The address of the stream holds no key.
	if strings.Contains(got.Body.String(), w.keys[auth.RoleAdmin][len(w.keys[auth.RoleAdmin])-40:]) {
		t.Error("the answer holds a key")
	}
}

// TestOFREP_KeyOfOneCustomer: a key that is in a browser is public, so there is
// one that can ask for flags of one customer and for nothing else.
func TestOFREP_KeyOfOneCustomer(t *testing.T) {
	t.Parallel()
	w := newFlagWorld(t)
	key, _, err := w.auth.CreateKey(t.Context(), usher.By{Actor: usher.Actor{Kind: "cli"}}, usher.Production,
		auth.NewKey{Role: auth.RoleOFREP, Customer: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	const acme, nobody = `{"context":{"targetingKey":"acme"}}`, `{"context":{"targetingKey":"nobody"}}`
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", flagsPath + "/sso", acme, 200},
		{"POST", flagsPath + "/sso", nobody, 403},
		{"POST", flagsPath + "/sso", `{}`, 400},
		{"POST", flagsPath, acme, 200},
		{"POST", flagsPath, nobody, 403},
		{"GET", eventsPath + "?targetingKey=nobody", "", 403},
		{"POST", "/v1/check", `{"customer":"acme","feature":"sso"}`, 403},
		{"GET", "/v1/customers/acme", "", 403},
	} {
		kind := ""
		if c.body != "" {
			kind = "application/json"
		}
		if got := w.do(c.method, c.path, kind, c.body, "Authorization", "Bearer "+key); got.Code != c.status {
			t.Errorf("%s %s %s: got %d %s, want %d", c.method, c.path, c.body, got.Code, got.Body, c.status)
		}
	}
}

func TestOFREP_CrossOrigin(t *testing.T) {
	t.Parallel()
	w := newFlagWorld(t)
	const page = "https://app.example.com"
	preflight := func(path, origin string) *httptest.ResponseRecorder {
		return w.do("OPTIONS", path, "", "", "Authorization", "", "Origin", origin, "Access-Control-Request-Method", "POST",
			"Access-Control-Request-Headers", "authorization,content-type,if-none-match")
	}
	if got := preflight(flagsPath, page); got.Code == 204 || got.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("none by default: got %d %v", got.Code, got.Header())
	}
	w.again(func(s *setup) { s.Origins = []string{page, "http://localhost:5173"} })
	got := preflight(flagsPath+"/sso", page)
	wantHeaders(t, got.Header(), map[string]string{"Access-Control-Allow-Origin": page, "Vary": "Origin",
		"Access-Control-Allow-Credentials": "", "Access-Control-Allow-Methods": "GET, POST"})
	if allow := got.Header().Get("Access-Control-Allow-Headers"); got.Code != 204 || !strings.Contains(allow, "Authorization") ||
		!strings.Contains(allow, "If-None-Match") || !strings.Contains(allow, "Content-Type") {
		t.Errorf("got %d %s", got.Code, allow)
	}
	for _, c := range []struct{ path, origin string }{{flagsPath, "https://evil.example.com"}, {flagsPath, "null"}, {"/v1/check", page},
		{"/ofrepx", page}, {flagsPath, page + "/"}} {
		if got := preflight(c.path, c.origin); got.Code == 204 || got.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s from %s: got %d %v", c.path, c.origin, got.Code, got.Header())
		}
	}
	got = w.do("POST", flagsPath, "application/json", `{"context":{"targetingKey":"acme"}}`, "Origin", page)
	wantHeaders(t, got.Header(), map[string]string{"Access-Control-Allow-Origin": page,
		"Access-Control-Expose-Headers": "ETag, Retry-After, X-Request-ID", "Access-Control-Allow-Credentials": ""})
	// A page must be able to read that its key does not hold.
	got = w.do("POST", flagsPath, "application/json", `{}`, "Origin", page, "Authorization", "")
	wantHeaders(t, got.Header(), map[string]string{"Access-Control-Allow-Origin": page})
	got = w.do("POST", "/v1/check", "application/json", `{}`, "Origin", page)
	wantHeaders(t, got.Header(), map[string]string{"Access-Control-Allow-Origin": ""})
}

// listening serves a world's API with limits that a stream must outlive.
func listening(t *testing.T, w *world) *http.Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.again(func(s *setup) { s.Door.PublicURL = "http://" + l.Addr().String() })
	srv := door.NewServer(l.Addr().String(), w.api)
	srv.ReadTimeout, srv.WriteTimeout = 300*time.Millisecond, 300*time.Millisecond
	srv.RegisterOnShutdown(w.api.flags.EndStreams)
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return srv
}

// streamOf is where a customer's bulk answer says that changes are told.
func (w *world) streamOf(customer, member string, headers ...string) string {
	w.t.Helper()
	context := map[string]any{"targetingKey": customer}
	if member != "" {
		context["member"] = member
	}
	body, _ := json.Marshal(map[string]any{"context": context})
	got := w.do("POST", flagsPath, "application/json", string(body), headers...)
	var all struct {
		EventStreams []struct {
			Type, URL          string
			InactivityDelaySec int
		}
	}
	if err := json.Unmarshal(got.Body.Bytes(), &all); err != nil || len(all.EventStreams) != 1 || all.EventStreams[0].Type != "sse" ||
		all.EventStreams[0].InactivityDelaySec != 120 {
		w.t.Fatalf("got %d %s, %v", got.Code, got.Body, err)
	}
	return all.EventStreams[0].URL
}

// events opens a stream and gives its data lines; closed when it ends.
func events(t *testing.T, address string, headers ...string) <-chan string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	req, err := http.NewRequestWithContext(ctx, "GET", address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("got %d %v", res.StatusCode, res.Header)
	}
	data := make(chan string, 100)
	go func() {
		defer close(data)
		defer res.Body.Close()
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				data <- text
			}
		}
	}()
	return data
}

func quietFor(t *testing.T, d time.Duration, who string, c <-chan string) {
	t.Helper()
	select {
	case text, ok := <-c:
		t.Errorf("%s was told %q (open: %v), want silence", who, text, ok)
	case <-time.After(d):
	}
}

func told(t *testing.T, who string, c <-chan string) (etag string) {
	t.Helper()
	select {
	case text := <-c:
		var e struct {
			Type, ETag   string
			LastModified int64
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil || e.Type != "refetchEvaluation" || e.ETag == "" || e.LastModified == 0 {
			t.Fatalf("%s: got %q, %v", who, text, err)
		}
		return e.ETag
	case <-time.After(time.Second):
		t.Fatalf("%s was not told within a second", who)
	}
	return ""
}

func (w *world) override(customer, feature, value string) {
	w.t.Helper()
	w.want2xx(w.do("POST", "/v1/customers/"+url.PathEscape(customer)+"/overrides", "application/json", `{"feature":"`+feature+`","value":`+
		value+`,"reason":"test","expires":"never"}`))
}

func TestOFREP_Events(t *testing.T) {
	t.Parallel()
	w := newFlagWorld(t)
	listening(t, w)
	const odd = "odd/näme ?&%"
	address := w.streamOf("acme", "")
	if again := w.streamOf("acme", ""); again != address && time.Now().Minute() != 0 {
		t.Errorf("got %s, then %s: it is the same while nothing changes", address, again)
	}
	acme, other := events(t, address), events(t, w.streamOf(odd, ""))
	byKey := events(t, w.api.PublicURL+"/ofrep/v1/events?targetingKey=acme", "Authorization", "Bearer "+w.keys[auth.RoleApp])
	quietFor(t, 700*time.Millisecond, "nobody", acme) // longer than the server's limits for other answers
	w.override("acme", "retention", `365`)
	etag := told(t, "acme", acme)
	told(t, "acme by its key", byKey)
	if got := w.do("POST", flagsPath+"?flagConfigEtag="+url.QueryEscape(etag), "application/json",
		`{"context":{"targetingKey":"acme"}}`); bulk(t, got)["retention"]["value"] != 365.0 {
		t.Errorf("asked again: got %s", got.Body)
	}
	// Use is not told, what other customers do neither.
	w.want2xx(w.do("POST", "/v1/consume", "application/json", `{"customer":"acme","feature":"exports"}`, "Idempotency-Key", "1"))
	quietFor(t, 400*time.Millisecond, "acme", acme)
	quietFor(t, 10*time.Millisecond, odd, other)
	// Many at once are told once or twice.
	for n := range 10 {
		w.override("acme", "discount", `"1.`+strconv.Itoa(n)+`"`)
	}
	told(t, "acme", acme)
	time.Sleep(300 * time.Millisecond)
	if n := len(acme); n > 4 {
		t.Errorf("ten changes at once were told %d times more", n)
	}
	// One who comes back with what it had is told what it missed, and nothing else.
	told(t, "one who connects late", events(t, address))
	last := strings.Trim(etag, `"`)
	told(t, "one who comes back", events(t, address, "Last-Event-ID", last))
	fresh := events(t, w.streamOf("acme", ""))
	quietFor(t, 400*time.Millisecond, "one who has it all", fresh)
	quietFor(t, 10*time.Millisecond, odd, other)
}

func TestOFREP_EventsEnd(t *testing.T) {
	t.Parallel()
	w := newFlagWorld(t)
	srv := listening(t, w)
	key, k, err := w.auth.Create(t.Context(), usher.Actor{Kind: "cli"}, usher.Production, "browser", auth.RoleApp, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	address := w.streamOf("acme", "", "Authorization", "Bearer "+key)
	stream, stays := events(t, address), events(t, w.streamOf("acme", ""))
	if err := w.auth.Revoke(t.Context(), usher.Actor{Kind: "cli"}, k.ID); err != nil {
		t.Fatal(err)
	}
	select {
	case text, open := <-stream:
		if open {
			t.Errorf("got %q, want the end", text)
		}
	case <-time.After(4 * time.Second):
		t.Error("a revoked key's stream goes on")
	}
	get := func(address string, headers ...string) (int, string) {
		t.Helper()
		got := w.do("GET", strings.TrimPrefix(address, w.api.PublicURL), "", "", append([]string{"Authorization", ""}, headers...)...)
		return got.Code, got.Body.String()
	}
	if status, body := get(address); status != 401 {
		t.Errorf("a revoked key's ticket: got %d %s", status, body)
	}
	good := w.streamOf("acme", "")
	for address, want := range map[string]int{
		eventsPath:                    401,
		eventsPath + "?ticket=":       400,
		eventsPath + "?ticket=x":      401,
		good[:len(good)-3]:            401,
		good + "&member=alice":        400,
		good + "&ticket=x":            400,
		eventsPath + "?targetingKey=": 401,
	} {
		if status, body := get(address); status != want {
			t.Errorf("%s: got %d %s, want %d", address, status, body, want)
		}
	}
	if status, body := get(eventsPath+"?member=a", "Authorization", "Bearer "+w.keys[auth.RoleApp]); status != 400 {
		t.Errorf("without a customer: got %d %s", status, body)
	}
	// A server that stops does not wait for streams.
	began := time.Now()
	if err := srv.Shutdown(t.Context()); err != nil || time.Since(began) > 3*time.Second {
		t.Errorf("stopping took %s, %v", time.Since(began), err)
	}
	if _, open := <-stays; open {
		t.Error("a stream goes on after the stop")
	}
	if status, body := get(good); status != 503 {
		t.Errorf("after the stop: got %d %s", status, body)
	}
}

// TestOFREP_EventsOfManyNodes: a change made on one node is told by another, and
// its ticket holds there. What a refetch says of the event makes a node that is
// behind look.
func TestOFREP_EventsOfManyNodes(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Default()
	if err != nil {
		t.Skip(err)
	}
	dsn, err := pg.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOn(t, dsn, flagCatalog)
	w.again(func(s *setup) { s.Door.PublicURL = "https://usher.test" })
	// The second node never polls, unless it is asked to.
	second := func(poll time.Duration) *server {
		l, err := live.New(t.Context(), live.Config{DB: w.db, Now: w.now, PollInterval: poll, Node: poll.String()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { job.New(job.Config{}, l.Jobs()...).Run(ctx); close(done) }()
		keys := auth.New(auth.Config{DB: w.db})
		t.Cleanup(func() { stop(); <-done; keys.Close() })
		return serve(setup{T: t, API: Config{Live: l, Decide: decide.New(l), Auth: keys}, Door: door.Config{Auth: keys, Version: "test"}})
	}
	behind, polls := &world{t: t, api: second(time.Hour), keys: w.keys}, &world{t: t, api: second(50 * time.Millisecond), keys: w.keys}
	listening(t, polls)
	const ask = `{"context":{"targetingKey":"acme"}}`
	if flags := bulk(t, behind.do("POST", flagsPath, "application/json", ask)); flags["retention"]["value"] != 90.0 {
		t.Fatalf("got %v", flags["retention"])
	}
	address := strings.Replace(w.streamOf("acme", ""), w.api.PublicURL, polls.api.PublicURL, 1) // one node's ticket, at another
	stream := events(t, address)
	w.override("acme", "retention", `365`)
	etag := told(t, "acme", stream)
	if flags := bulk(t, behind.do("POST", flagsPath, "application/json", ask)); flags["retention"]["value"] != 90.0 {
		t.Errorf("got %v from a node that is behind: is it?", flags["retention"])
	}
	if flags := bulk(t, behind.do("POST", flagsPath+"?flagConfigEtag="+url.QueryEscape(etag)+"&flagConfigLastModified=1", "application/json",
		ask)); flags["retention"]["value"] != 365.0 {
		t.Errorf("got %v, want what the event told of", flags["retention"])
	}
}
