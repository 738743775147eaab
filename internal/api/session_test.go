package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

const ownerPassword = "zq7 four small words zq7"

// office is a world in which people log in. Its clock is the operators' own.
type office struct {
	*world
	ahead  atomic.Int64 // nanoseconds, of real time
	hashes atomic.Int64
	seen   strings.Builder // every answer, whole
	peer   string          // where calls come from
}

func newOffice(t *testing.T, change func(*door.Config)) *office {
	t.Helper()
	o := &office{world: newWorld(t), peer: "192.0.2.1:1234"}
	log := slog.New(slog.NewTextHandler(o.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a := auth.New(auth.Config{DB: o.db, Log: log, PublicURL: "https://usher.example.com",
		Now: func() time.Time { return time.Now().Add(time.Duration(o.ahead.Load())) },
		Hash: func(password, salt []byte) []byte {
			o.hashes.Add(1)
			sum := sha256.Sum256(append(salt[:len(salt):len(salt)], password...))
			return sum[:]
		}})
	t.Cleanup(a.Close)
	o.auth = a
	o.again(func(s *setup) {
		s.API.Auth = a
		s.Door.Auth, s.Door.Log, s.Door.PublicURL = a, log, "https://usher.example.com"
		if change != nil {
			change(&s.Door)
		}
	})
	return o
}

// send is one call as a browser on a page of ours makes it, but for headers.
func (o *office) send(method, target, body, cookie string, headers ...string) *httptest.ResponseRecorder {
	o.t.Helper()
	r := httptest.NewRequest(method, "https://usher.example.com"+target, strings.NewReader(body))
	r.RemoteAddr = o.peer
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if cookie != "" {
		r.Header.Set("Cookie", door.SessionCookie+"="+cookie)
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i < len(headers); i += 2 {
		if r.Header.Del(headers[i]); headers[i+1] != "" {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	out := httptest.NewRecorder()
	o.api.ServeHTTP(out, r)
	o.seen.WriteString(out.Body.String() + "\n")
	return out
}

func (o *office) token() string {
	o.t.Helper()
	token, _, err := o.auth.OwnerToken(context.Background(), usher.By{Actor: usher.Actor{Kind: "cli"}})
	if err != nil {
		o.t.Fatal(err)
	}
	return token
}

// given is the cookie that an answer sets.
func given(t *testing.T, out *httptest.ResponseRecorder) *http.Cookie {
	t.Helper()
	for _, c := range out.Result().Cookies() {
		if c.Name == door.SessionCookie {
			return c
		}
	}
	t.Fatalf("no cookie: %d %s", out.Code, out.Body)
	return nil
}

func (o *office) owner(email string) (cookie string) {
	o.t.Helper()
	out := o.send("POST", "/v1/session/owner", `{"token":"`+o.token()+`","email":"`+email+`","password":"`+ownerPassword+`"}`, "")
	if out.Code != 201 {
		o.t.Fatalf("got %d %s", out.Code, out.Body)
	}
	return given(o.t.(*testing.T), out).Value
}

func (o *office) want(out *httptest.ResponseRecorder, status int, code usher.Code) {
	o.t.Helper()
	if out.Code != status || code != "" && !strings.Contains(out.Body.String(), `"code":"`+string(code)+`"`) {
		o.t.Errorf("got %d %s, want %d %s", out.Code, out.Body, status, code)
	}
}

// TestSessionsOverHTTP: from the first owner's token to the logout.
func TestSessionsOverHTTP(t *testing.T) {
	t.Parallel()
	o := newOffice(t, nil)
	token := o.token()
	body := `{"token":"` + token + `","email":"Ann@example.com","name":"Ann","password":"` + ownerPassword + `"}`
	out := o.send("POST", "/v1/session/owner", body, "")
	o.want(out, 201, "")
	c := given(t, out)
	if !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 12*3600 {
		t.Errorf("the cookie is %+v", c)
	}
	if strings.Contains(out.Body.String(), c.Value) {
		t.Error("the answer holds the cookie's secret")
	}
	o.want(o.send("POST", "/v1/session/owner", body, ""), 401, usher.Unauthenticated)

	var s sessionOut
	out = o.send("GET", "/v1/session", "", c.Value)
	if err := json.Unmarshal(out.Body.Bytes(), &s); err != nil || out.Code != 200 || s.Operator.Email != "ann@example.com" ||
		s.Method != "password" || s.CSRF != "origin" ||
		s.ProvedUntil == nil || len(s.Permissions[usher.Production]) != len(auth.Permissions) || len(s.Risks[usher.Production]) == 0 ||
		s.EndsAt.Sub(time.Now()) > 12*time.Hour {
		t.Errorf("got %d %s, %v", out.Code, out.Body, err)
	}
	// A session does what its roles may, in the environment that it names.
	o.want(o.send("GET", "/v1/customers/acme", "", c.Value), 200, "")
	o.want(o.send("GET", "/v1/customers/acme", "", c.Value, "Usher-Environment", "sandbox"), 404, usher.NotFound)
	o.want(o.send("GET", "/v1/customers/acme", "", c.Value, "Usher-Environment", "test"), 400, usher.Invalid)
	o.want(o.send("POST", "/v1/check", `{"customer":"acme","feature":"sso"}`, c.Value), 200, "")
	// A key wins over a cookie, a broken one too.
	o.want(o.send("GET", "/v1/customers/acme", "", c.Value, "Authorization", "Bearer x"), 401, usher.Unauthenticated)

	// A high-risk action takes a proof of the last ten minutes.
	const risky = "/v1/operators/opr_nobody/sessions"
	o.want(o.send("DELETE", risky, "", c.Value), 404, usher.NotFound)
	o.ahead.Add(int64(10 * time.Minute))
	o.want(o.send("DELETE", risky, "", c.Value), 403, usher.StepUpRequired)
	o.want(o.send("DELETE", risky, "", "", "Authorization", "Bearer "+o.keys[auth.RoleAdmin]), 404, usher.NotFound)
	o.want(o.send("POST", "/v1/session/step-up", `{"password":"wrong"}`, c.Value), 401, usher.Unauthenticated)
	out = o.send("POST", "/v1/session/step-up", `{"password":"`+ownerPassword+`"}`, c.Value)
	o.want(out, 200, "")
	proved := given(t, out).Value
	o.want(o.send("DELETE", risky, "", proved), 404, usher.NotFound)
	o.want(o.send("GET", "/v1/session", "", c.Value), 401, usher.Unauthenticated) // the cookie before
	if got := o.send("GET", "/v1/session", "", "").Body.String(); !strings.Contains(got, `"title":"Not authenticated"`) ||
		strings.Contains(got, "key") {
		t.Errorf("without a session: got %s, want no word of keys", got)
	}

	// Log out: the cookie goes, and a copy of it is worth nothing.
	out = o.send("DELETE", "/v1/session", "", proved)
	if o.want(out, 204, ""); given(t, out).MaxAge >= 0 {
		t.Error("the cookie stays in the browser")
	}
	o.want(o.send("GET", "/v1/session", "", proved), 401, usher.Unauthenticated)
	o.want(o.send("GET", "/v1/customers/acme", "", proved), 401, usher.Unauthenticated)
	o.want(o.send("DELETE", "/v1/session", "", proved), 204, "")

	// Log in again; two cookies of the name are none.
	out = o.send("POST", "/v1/session", `{"email":"ann@example.com","password":"`+ownerPassword+`"}`, "planted")
	o.want(out, 201, "")
	in := given(t, out).Value
	o.want(o.send("GET", "/v1/session", "", in), 200, "")
	o.want(o.send("GET", "/v1/session", "", "", "Cookie", door.SessionCookie+"="+in+"; "+door.SessionCookie+"="+in), 401,
		usher.Unauthenticated)
	// Another operator ends all of her sessions.
	o.want(o.send("DELETE", "/v1/operators/"+s.Operator.ID+"/sessions", "", "", "Authorization", "Bearer "+o.keys[auth.RoleAdmin]), 204, "")
	o.want(o.send("GET", "/v1/session", "", in), 401, usher.Unauthenticated)

	for _, bad := range []string{``, `[]`, `{`, `{"email":1,"password":"zq7"}`, `{"email":"a","password":"zq7","more":"zq7"}`,
		`{"email":"a","email":"b"}`} {
		out := o.send("POST", "/v1/session", bad, "", "Content-Type", "application/json")
		if o.want(out, 400, usher.Invalid); strings.Contains(out.Body.String(), "zq7") {
			t.Errorf("%s: the answer repeats it: %s", bad, out.Body)
		}
	}
	o.want(o.send("POST", "/v1/session", `{"email":"a","password":"b"}`, "", "Content-Type", "text/plain"), 415, usher.UnsupportedMedia)

	// All of it is in the audit log, by opaque ids.
	o.auth.Close() // what failed is noted beside the calls
	rows, err := o.db.Audit(context.Background(), usher.AuditQuery{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(rows)
	for _, action := range []string{"session.start", "session.step_up", "session.end", "session.end_all", "session.refuse", "password.set"} {
		if !strings.Contains(string(text), `"`+action+`"`) {
			t.Errorf("the audit log has no %s: %s", action, text)
		}
	}
	if strings.Contains(o.log.String(), "WARN") {
		t.Error(o.log.String())
	}
	if strings.Contains(strings.ToLower(string(text)), "ann") {
		t.Error("the audit log holds a name or an email")
	}
}

// TestCrossSite: another site's page can do nothing with a session, nor log
// a person in as another one.
func TestCrossSite(t *testing.T) {
	t.Parallel()
	o := newOffice(t, nil)
	cookie := o.owner("ann@example.com")
	const check = `{"customer":"acme","feature":"sso"}`
	for _, c := range []struct {
		site, origin string
		ok           bool
	}{
		{"same-origin", "", true}, {"same-origin", "https://usher.example.com", true}, {"none", "", true},
		{"", "https://usher.example.com", true},
		{"cross-site", "", false}, {"same-site", "", false}, {"cross-site", "https://usher.example.com", true},
		// the last cannot be of a browser: the origin is what is trusted
		{"", "https://evil.example", false}, {"", "null", false}, {"", "http://usher.example.com.evil.example", false},
		{"cross-site", "https://evil.example", false}, {"", "", false},
	} {
		for _, call := range []struct{ method, path, body string }{{"POST", "/v1/check", check}, {"PUT", "/v1/customers/acme", `{"name":"x"}`},
			{"DELETE", "/v1/grants/none", ""}} {
			got := o.send(call.method, call.path, call.body, cookie, "Sec-Fetch-Site", c.site, "Origin", c.origin)
			if ok := got.Code != 403; ok != c.ok {
				t.Errorf("%s %s, Sec-Fetch-Site %q, Origin %q: got %d %s, want it let through: %v", call.method, call.path, c.site, c.origin,
					got.Code, got.Body, c.ok)
			}
		}
		// Reading changes nothing, and what is read stays here (no CORS).
		got := o.send("GET", "/v1/customers/acme", "", cookie, "Sec-Fetch-Site", c.site, "Origin", c.origin)
		if got.Code != 200 || got.Header().Get("Access-Control-Allow-Origin") != "" ||
			got.Header().Get("Cross-Origin-Resource-Policy") != "same-origin" {
			t.Errorf("GET: got %d %v", got.Code, got.Header())
		}
		// A login from another site is refused; a program without either header may log in.
		login := o.send("POST", "/v1/session", `{"email":"ann@example.com","password":"`+ownerPassword+`"}`, "", "Sec-Fetch-Site", c.site,
			"Origin", c.origin)
		if want := c.ok || c.site == "" && c.origin == ""; (login.Code == 201) != want {
			t.Errorf("a login, Sec-Fetch-Site %q, Origin %q: got %d %s", c.site, c.origin, login.Code, login.Body)
		}
		// A key is nobody's browser.
		key := o.send("POST", "/v1/check", check, "", "Authorization", "Bearer "+o.keys[auth.RoleApp], "Sec-Fetch-Site", c.site, "Origin",
			c.origin)
		o.want(key, 200, "")
	}
	// A host that a request makes up is believed nowhere.
	for _, host := range []string{"evil.example", "usher.example.com:1"} {
		r := httptest.NewRequest("POST", "/v1/check", strings.NewReader(check))
		r.Host = host
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Cookie", door.SessionCookie+"="+cookie)
		r.Header.Set("Origin", "https://other.example")
		out := httptest.NewRecorder()
		o.api.ServeHTTP(out, r)
		o.want(out, 403, usher.Forbidden)
		if strings.Contains(out.Body.String(), host) {
			t.Error("the answer repeats the host")
		}
	}
}

// TestHeaders: every answer, errors too, says what browsers may do with it.
func TestHeaders(t *testing.T) {
	t.Parallel()
	o := newOffice(t, nil)
	for _, call := range []struct{ method, path string }{{"GET", "/healthz"}, {"GET", "/v1/session"}, {"POST", "/v1/check"},
		{"GET", "/nowhere"}, {"GET", "//"}, {"PUT", "/v1/customers/x"}, {"GET", "/metrics"},
		{"GET", "/v1/session/oidc/start"}, {"GET", "/openapi.json"}, {"TRACE", "/v1/check"}} {
		h := o.send(call.method, call.path, "", "").Header()
		wantHeaders(t, h, map[string]string{"X-Content-Type-Options": "nosniff",
			"Content-Security-Policy":      "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Resource-Policy": "same-origin", "Strict-Transport-Security": "max-age=63072000; includeSubDomains", "Server": "",
			"X-Powered-By": ""})
	}
	wantHeaders(t, o.send("POST", "/ofrep/v1/evaluate/flags", "{}", "").Header(),
		map[string]string{"Cross-Origin-Resource-Policy": "cross-origin"})
	wantHeaders(t, o.send("GET", "/v1/customers/acme", "", "", "Authorization", "Bearer "+o.keys[auth.RoleAdmin]).Header(),
		map[string]string{"Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"})
	// What a program asks with a key is no page.
	wantHeaders(t, o.send("POST", "/v1/check", "{}", "", "Authorization", "Bearer x").Header(),
		map[string]string{"X-Content-Type-Options": "nosniff", "Content-Security-Policy": ""})
	// Only an address that is https says that it is.
	plain := newOffice(t, func(c *door.Config) { c.PublicURL = "http://127.0.0.1:8080" })
	wantHeaders(t, plain.send("GET", "/healthz", "", "").Header(), map[string]string{"Strict-Transport-Security": ""})
}

// TestWrongKeysAreCounted: an address may try some; a caller with a valid key is
// not held up, and who else it is an honest proxy says.
func TestWrongKeysAreCounted(t *testing.T) {
	t.Parallel()
	o := newOffice(t, nil)
	try := func(from, header string) *httptest.ResponseRecorder {
		o.peer = from
		return o.send("GET", "/v1/customers/acme", "", "", "Authorization", header, "X-Forwarded-For", "198.51.100.7")
	}
	for range 20 {
		o.want(try("192.0.2.1:1", "Bearer usk_wrong"), 401, usher.Unauthenticated)
	}
	out := try("192.0.2.1:2", "Bearer usk_wrong")
	o.want(out, 429, usher.RateLimited)
	if n, err := strconv.Atoi(out.Header().Get("Retry-After")); err != nil || n < 1 || n > 60 {
		t.Errorf("Retry-After is %q", out.Header().Get("Retry-After"))
	}
	o.want(try("192.0.2.1:3", "Bearer "+o.keys[auth.RoleAdmin]), 200, "")
	o.want(try("192.0.2.2:1", "Bearer usk_wrong"), 401, usher.Unauthenticated)
	o.want(try("192.0.2.1:3", ""), 401, usher.Unauthenticated) // nothing was tried
	o.ahead.Add(int64(time.Minute))
	o.want(try("192.0.2.1:3", "Bearer usk_wrong"), 401, usher.Unauthenticated)

	// Behind a proxy it is the address that the proxy saw, not one that a client
	// wrote before it.
	p := newOffice(t, func(c *door.Config) { c.Proxies = 1 })
	p.peer = "10.0.0.1:1"
	via := func(chain string) *httptest.ResponseRecorder {
		return p.send("GET", "/v1/customers/acme", "", "", "Authorization", "Bearer usk_wrong", "X-Forwarded-For", chain)
	}
	for i := range 20 {
		p.want(via("203.0.113."+strconv.Itoa(i)+", 198.51.100.7"), 401, usher.Unauthenticated)
	}
	p.want(via("203.0.113.99, 198.51.100.7"), 429, usher.RateLimited)
	p.want(via("198.51.100.7, 198.51.100.8"), 401, usher.Unauthenticated)
}

// TestRateOfAKey: a key's own limit is kept, and each answer says how it stands.
func TestRateOfAKey(t *testing.T) {
	t.Parallel()
	o := newOffice(t, nil)
	key, _, err := o.auth.CreateKey(context.Background(), usher.By{Actor: usher.Actor{Kind: "cli"}}, usher.Production,
		auth.NewKey{Role: auth.RoleApp, Rate: usher.RateLimit{PerSecond: 1, Burst: 3}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(key string) *httptest.ResponseRecorder {
		return o.send("POST", "/v1/check", `{"customer":"acme","feature":"sso"}`, "", "Authorization", "Bearer "+key)
	}
	for i := range 3 {
		out := ask(key)
		o.want(out, 200, "")
		wantHeaders(t, out.Header(), map[string]string{"RateLimit-Policy": `"key";q=3;w=3`})
		if got := out.Header().Get("RateLimit"); !strings.HasPrefix(got, `"key";r=`+strconv.Itoa(2-i)+`;t=`) {
			t.Errorf("call %d: RateLimit is %s", i+1, got)
		}
	}
	out := ask(key)
	o.want(out, 429, usher.RateLimited)
	wantHeaders(t, out.Header(), map[string]string{"Retry-After": "1"})
	o.ahead.Add(int64(time.Second))
	o.want(ask(key), 200, "")
	if out := ask(o.keys[auth.RoleApp]); out.Code != 200 || out.Header().Get("RateLimit") != "" {
		t.Errorf("a key without a limit: got %d %v", out.Code, out.Header())
	}
}

// TestSecretsAreNowhere: through every door, right and wrong, no key, password,
// token or cookie is in the log, in an answer, or in the database.
func TestSecretsAreNowhere(t *testing.T) {
	t.Parallel()
	o := newOffice(t, nil)
	token := o.token()
	secrets := []string{ownerPassword, token, "zq7wrongzq7"}
	for _, role := range []string{auth.RoleAdmin, auth.RoleApp, auth.RoleRead} {
		key := o.keys[role]
		secrets = append(secrets, key, key[len(key)-59:])
		o.send("GET", "/v1/customers/acme", "", "", "Authorization", "Bearer "+key)
		o.send("PUT", "/v1/customers/acme", `{"name":1}`, "", "Authorization", "Bearer "+key)
		o.send("GET", "/v1/customers/acme?key="+key, "", "", "Authorization", "Bearer "+key+"x")
		o.send("GET", "/v1/customers/acme", "", "", "Authorization", "Basic "+key)
	}
	out := o.send("POST", "/v1/session/owner", `{"token":"`+token+`","email":"ann@example.com","password":"`+ownerPassword+`"}`, "")
	cookie := given(t, out).Value
	secrets = append(secrets, cookie)
	login := func(password string) *httptest.ResponseRecorder {
		return o.send("POST", "/v1/session", `{"email":"ann@example.com","password":"`+password+`"}`, cookie)
	}
	login("zq7wrongzq7")
	next := given(t, login(ownerPassword)).Value
	secrets = append(secrets, next)
	for _, c := range []string{cookie, next, cookie + "x"} {
		o.send("GET", "/v1/session", "", c)
		o.send("POST", "/v1/session/step-up", `{"password":"zq7wrongzq7"}`, c)
		o.send("POST", "/v1/session/step-up", `{"password":["`+ownerPassword+`"]}`, c)
		o.send("DELETE", "/v1/customers/none", "", c)
	}
	o.send("POST", "/v1/session/owner", `{"token":"`+token+`","email":"eve@example.com","password":"`+ownerPassword+`"}`, "")
	o.send("POST", "/v1/session/owner", `{"`+token+`":1,"`+ownerPassword+`":2}`, "")
	o.send("GET", "/v1/session/oidc/callback?state=zq7wrongzq7abcde&code=zq7wrongzq7", "", "", "Cookie",
		loginCookie+"zq7wrongzq7abcde=zq7wrongzq7")
	for range 8 {
		login("zq7wrongzq7") // until the account waits
	}
	o.db.Close() // and while the database is away
	login(ownerPassword)
	o.send("GET", "/v1/session", "", next)
	o.auth.Close()
	for _, secret := range secrets {
		if strings.Contains(o.log.String(), secret) {
			t.Errorf("%q is in the log", secret)
		}
		if strings.Contains(o.seen.String(), secret) {
			t.Errorf("%q is in an answer", secret)
		}
	}
	if !strings.Contains(o.log.String(), "route=\"POST /v1/session\"") {
		t.Error("the log was not looked at")
	}
}
