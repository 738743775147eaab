package oidctest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/server"
	"github.com/usher-sh/usher/internal/store"
)

const (
	clientID     = "usher"
	clientSecret = "zq7clientzq7"
	password     = "verysecure" // of the provider's test users
)

// provider is a real identity provider. Tests can change the answers of its token
// endpoint and sign them with its key.
type provider struct {
	*httptest.Server
	storage *storage.Storage
	mu      sync.Mutex
	change  func(claims map[string]any) (idToken string) // nil leaves the token as it is
	down    bool
}

func newProvider(t *testing.T, redirect string) *provider {
	t.Helper()
	p := &provider{}
	p.Server = httptest.NewUnstartedServer(nil)
	issuer := "http://" + p.Server.Listener.Addr().String()
	client := storage.WebClient(clientID, clientSecret, redirect)
	p.storage = storage.NewStorageWithClients(storage.NewUserStore(issuer), map[string]*storage.Client{clientID: client})
	real := exampleop.SetupServer(issuer, p.storage, nil, false, op.WithAllowInsecure(), op.WithLogger(slog.New(slog.DiscardHandler)))
	p.Server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		change, down := p.change, p.down
		p.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		if r.URL.Path != "/oauth/token" || change == nil {
			real.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		real.ServeHTTP(rec, r)
		var answer map[string]any
		if rec.Code == 200 && json.Unmarshal(rec.Body.Bytes(), &answer) == nil {
			answer["id_token"] = change(claimsOf(answer["id_token"].(string)))
			rec.Body.Reset()
			json.NewEncoder(rec.Body).Encode(answer)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes())
	})
	p.Start()
	t.Cleanup(p.Close)
	return p
}

func (p *provider) set(change func(claims map[string]any) string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.change = change
}

func claimsOf(token string) map[string]any {
	var claims map[string]any
	b, _ := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	json.Unmarshal(b, &claims)
	return claims
}

// sign signs a token with a key; nil is the provider's own.
func (p *provider) sign(claims map[string]any, key *rsa.PrivateKey) string {
	own, _ := p.storage.SigningKey(context.Background())
	if key == nil {
		key = own.Key().(*rsa.PrivateKey)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: own.ID()}}, nil)
	if err != nil {
		panic(err)
	}
	body, _ := json.Marshal(claims)
	jws, err := signer.Sign(body)
	if err != nil {
		panic(err)
	}
	token, _ := jws.CompactSerialize()
	return token
}

// world is an usher server, over https, and a provider.
type world struct {
	t        *testing.T
	provider *provider
	site     *httptest.Server
	db       *store.DB
	auth     *auth.Service
	log      *log
}

type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t *testing.T, claim string, roles map[string]string) *world {
	t.Helper()
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, log: &log{}}
	logger := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var handler http.Handler
	w.site = httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { handler.ServeHTTP(rw, r) }))
	t.Cleanup(w.site.Close)
	w.provider = newProvider(t, w.site.URL+auth.OIDCCallback)
	c := auth.OIDC{Issuer: w.provider.URL, ClientID: clientID, ClientSecret: clientSecret, RolesClaim: claim, Roles: roles}
	must(c.Check())
	srv, err := server.Open(ctx, server.Config{DB: filepath.Join(t.TempDir(), "usher.db"), Log: logger, PublicURL: w.site.URL, OIDC: c})
	must(err)
	t.Cleanup(func() { srv.Close() })
	w.db, w.auth, handler = srv.DB, srv.Auth, srv
	return w
}

// browser is one person's browser.
type browser struct {
	*world
	http *http.Client
	seen []string // every answer of ours, for what must not be in it
}

func (w *world) browser() *browser {
	jar, _ := cookiejar.New(nil)
	c := *w.site.Client()
	c.Jar = jar
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &browser{world: w, http: &c}
}

// do sends a request and returns the status, the Location header and the body.
func (b *browser) do(method, address, contentType, body string) (int, string, string) {
	b.t.Helper()
	if strings.HasPrefix(address, "/") {
		address = b.site.URL + address
	}
	r, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	res, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if strings.HasPrefix(address, b.site.URL) {
		b.seen = append(b.seen, string(text))
	}
	where := res.Header.Get("Location")
	if where != "" {
		base, _ := url.Parse(address)
		if u, err := base.Parse(where); err == nil {
			where = u.String()
		}
	}
	return res.StatusCode, where, string(text)
}

// atProvider logs a user in there and returns the address of ours that the
// provider sends the browser back to.
func (b *browser) atProvider(address, user string) string {
	b.t.Helper()
	status, login, body := b.do("GET", address, "", "")
	if status != http.StatusFound || !strings.Contains(login, "/login/") {
		b.t.Fatalf("the provider: got %d %s %s, want its login page", status, login, body)
	}
	id := regexp.MustCompile(`authRequestID=([^&]+)`).FindStringSubmatch(login)[1]
	form := url.Values{"id": {id}, "username": {user}, "password": {password}}
	status, next, body := b.do("POST", b.provider.URL+"/login/username", "application/x-www-form-urlencoded", form.Encode())
	if status != http.StatusFound {
		b.t.Fatalf("the provider's login: got %d %s", status, body)
	}
	status, back, body := b.do("GET", next, "", "")
	if status != http.StatusFound || !strings.HasPrefix(back, b.site.URL) {
		b.t.Fatalf("after the provider's login: got %d %s %s", status, back, body)
	}
	return back
}

func (b *browser) start() string {
	b.t.Helper()
	status, address, body := b.do("GET", "/v1/session/oidc/start?return_to=/customers?x=1", "", "")
	if status != http.StatusFound || !strings.HasPrefix(address, b.provider.URL) {
		b.t.Fatalf("start: got %d %s %s, want the provider", status, address, body)
	}
	return address
}

// user1 is a test user of the provider.
func (b *browser) user1() string {
	u, _ := url.Parse(b.provider.URL)
	return "test-user@" + u.Hostname()
}

type session struct {
	ID          string
	Operator    struct{ ID, Email, Name string }
	Method      string
	Roles       map[string][]string
	ProvedUntil *time.Time `json:"proved_until"`
}

func (b *browser) session() (s session, ok bool) {
	b.t.Helper()
	status, _, body := b.do("GET", "/v1/session", "", "")
	json.Unmarshal([]byte(body), &s)
	return s, status == 200
}

// refused finishes a login that must fail.
func (b *browser) refused(back string, status int, words string) {
	b.t.Helper()
	got, where, body := b.do("GET", back, "", "")
	if got != status || !strings.Contains(body, words) || where != "" {
		b.t.Errorf("got %d %s %s, want %d: %s", got, where, body, status, words)
	}
	if s, ok := b.session(); ok {
		b.t.Errorf("there is a session all the same: %+v", s)
	}
}

// TestLogin: a person comes back from the provider, is made an operator with the
// role of the claim (here one that only its userinfo tells), and is the same one
// the next time.
func TestLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "preferred_username", map[string]string{"test-user@127.0.0.1": "owner", "test-user2": "support"})
	b := w.browser()
	address := b.start()
	q, _ := url.Parse(address)
	for name, want := range map[string]string{"response_type": "code", "code_challenge_method": "S256", "client_id": clientID,
		"redirect_uri": w.site.URL + auth.OIDCCallback} {
		if got := q.Query().Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if len(q.Query().Get(name)) < 43 {
			t.Errorf("%s is %q, want 256 bits", name, q.Query().Get(name))
		}
	}
	back := b.atProvider(address, b.user1())
	status, where, body := b.do("GET", back, "", "")
	if status != http.StatusFound || where != w.site.URL+"/customers?x=1" {
		t.Fatalf("got %d %s %s, want to go on", status, where, body)
	}
	s, ok := b.session()
	if !ok || s.Method != "oidc" || !slices.Equal(s.Roles["production"], []string{"owner"}) || s.Operator.Email != "test-user@zitadel.ch" ||
		s.ProvedUntil == nil {
		t.Errorf("got %+v, want an owner who has just logged in", s)
	}
	// Another person, and the first again.
	other := w.browser()
	other.do("GET", other.atProvider(other.start(), "test-user2"), "", "")
	s2, ok := other.session()
	if !ok || s2.Operator.ID == s.Operator.ID || !slices.Equal(s2.Roles["production"], []string{"support"}) {
		t.Errorf("got %+v, want another operator", s2)
	}
	again := w.browser()
	again.do("GET", again.atProvider(again.start(), again.user1()), "", "")
	if s3, _ := again.session(); s3.Operator.ID != s.Operator.ID || s3.ID == s.ID {
		t.Errorf("got %+v, want the same operator in another session", s3)
	}

	// The callback again, in the same browser with a cookie that it kept.
	if status, _, body := b.do("GET", back, "", ""); status != 401 || !strings.Contains(body, "start again") {
		t.Errorf("the callback again: got %d %s, want 401", status, body)
	}
	w.quiet(b.seen, back)
}

// quiet looks for what must be nowhere.
func (w *world) quiet(seen []string, addresses ...string) {
	w.t.Helper()
	secrets := []string{clientSecret, "__Host-usher="}
	for _, address := range addresses {
		u, _ := url.Parse(address)
		secrets = append(secrets, u.Query().Get("code"), u.Query().Get("state"))
	}
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		if strings.Contains(w.log.String(), secret) {
			w.t.Errorf("%q is in the log", secret)
		}
		for _, answer := range seen {
			if strings.Contains(answer, secret) {
				w.t.Errorf("%q is in an answer: %s", secret, answer)
			}
		}
	}
}

// TestForgedLogins: a login with any fault is refused.
func TestForgedLogins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "groups", map[string]string{"eng": "developer"})
	good := func(c map[string]any) map[string]any { c["groups"] = []string{"x", "eng"}; return c }
	p := w.provider
	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	with := func(name string, value any) func(map[string]any) string {
		return func(c map[string]any) string { good(c)[name] = value; return p.sign(c, nil) }
	}
	bare := func(alg string) func(map[string]any) string {
		return func(c map[string]any) string {
			body, _ := json.Marshal(good(c))
			b64 := base64.RawURLEncoding.EncodeToString
			return b64([]byte(`{"alg":"`+alg+`"}`)) + "." + b64(body) + "."
		}
	}
	now := time.Now()
	for name, c := range map[string]struct {
		change func(map[string]any) string
		words  string
	}{
		"wrong nonce":          {with("nonce", "another"), "nonce"},
		"no nonce":             {with("nonce", ""), "nonce"},
		"wrong issuer":         {with("iss", "https://evil.example"), "another provider"},
		"wrong audience":       {with("aud", []string{"another"}), "another client"},
		"for another party":    {with("azp", "another"), "another client"},
		"expired":              {with("exp", now.Add(-2*time.Minute).Unix()), "expired"},
		"of the future":        {with("iat", now.Add(2*time.Minute).Unix()), "future"},
		"not yet":              {with("nbf", now.Add(2*time.Minute).Unix()), "future"},
		"no subject":           {with("sub", ""), "subject"},
		"another's signature":  {func(c map[string]any) string { return p.sign(good(c), foreign) }, "signature"},
		"no signature":         {bare("none"), "malformed"},
		"a symmetric one":      {bare("HS256"), "malformed"},
		"not a token":          {func(map[string]any) string { return "x.y" }, "malformed"},
		"no token":             {func(map[string]any) string { return "" }, "no id token"},
		"another access token": {with("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), "access token"},
	} {
		p.set(c.change)
		b := w.browser()
		back := b.atProvider(b.start(), b.user1())
		b.refused(back, 401, c.words)
		w.quiet(b.seen, back)
		if t.Failed() {
			t.Fatalf("in %q", name)
		}
	}
	p.set(func(c map[string]any) string { return p.sign(c, nil) })
	b := w.browser()
	b.refused(b.atProvider(b.start(), b.user1()), 403, "no role")

	// Within the skew, and with a role: in.
	p.set(func(c map[string]any) string {
		good(c)["exp"], c["iat"] = now.Add(-30*time.Second).Unix(), time.Now().Add(30*time.Second).Unix()
		return p.sign(c, nil)
	})
	b = w.browser()
	if status, _, body := b.do("GET", b.atProvider(b.start(), b.user1()), "", ""); status != http.StatusFound {
		t.Errorf("within a minute: got %d %s, want it taken", status, body)
	}
}

// TestWhoComesBack: only the browser that began a login can finish it, once.
func TestWhoComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "preferred_username", map[string]string{"test-user@127.0.0.1": "owner"})
	b := w.browser()
	back := b.atProvider(b.start(), b.user1())
	u, _ := url.Parse(back)
	with := func(name, value string) string {
		q := u.Query()
		q.Set(name, value)
		other := *u
		other.RawQuery = q.Encode()
		return other.String()
	}
	// Another browser with the address: a login that was planted, or stolen.
	other := w.browser()
	other.refused(back, 401, "not started in this browser")
	other.start()
	other.refused(back, 401, "not started in this browser")
	// What fails takes the cookie with it, so each begins anew.
	for name, c := range map[string]struct {
		change       string
		value, words string
		status       int
	}{
		"another state":  {"state", "x", "not started", 401},
		"no code":        {"code", "", "no code", 401},
		"another code":   {"code", "zq7wrongzq7", "refused the login", 401},
		"another issuer": {"iss", "https://evil.example", "another identity provider", 401},
		"denied":         {"error", "access_denied", "access_denied", 403},
		"an error":       {"error", "<script>x</script>", "scriptxscript", 401},
	} {
		b := w.browser()
		u, _ = url.Parse(b.atProvider(b.start(), b.user1()))
		b.refused(with(c.change, c.value), c.status, c.words)
		if t.Failed() {
			t.Fatalf("in %q", name)
		}
	}
	// A code is for one use, also with a cookie that was kept.
	b = w.browser()
	back = b.atProvider(b.start(), b.user1())
	site, _ := url.Parse(w.site.URL)
	var kept *http.Cookie
	for _, c := range b.http.Jar.Cookies(site) {
		if strings.HasPrefix(c.Name, "__Host-usher-login-") {
			kept = &http.Cookie{Name: c.Name, Value: c.Value, Path: "/", Secure: true}
		}
	}
	if status, _, body := b.do("GET", back, "", ""); status != http.StatusFound || kept == nil {
		t.Fatalf("got %d %s", status, body)
	}
	thief := w.browser()
	thief.http.Jar.SetCookies(site, []*http.Cookie{kept})
	thief.refused(back, 401, "start again")

	// The provider holds us to PKCE: a code without its verifier is worth nothing.
	b = w.browser()
	u, _ = url.Parse(b.atProvider(b.start(), b.user1()))
	form := url.Values{"grant_type": {"authorization_code"}, "code": {u.Query().Get("code")}, "redirect_uri": {w.site.URL + auth.OIDCCallback}}
	r, _ := http.NewRequest("POST", w.provider.URL+"/oauth/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(clientID, clientSecret)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode == 200 {
		t.Error("the provider gave a token without the PKCE verifier")
	}

	for _, to := range []string{"//evil.example", "https://evil.example", "/\\evil.example", "javascript:x"} {
		if status, _, _ := b.do("GET", "/v1/session/oidc/start?return_to="+url.QueryEscape(to), "", ""); status != 400 {
			t.Errorf("return_to %s: got %d, want 400", to, status)
		}
	}
}

// TestRolesFollowTheClaim: each login's claim replaces the one before; what was
// given by hand stays.
func TestRolesFollowTheClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "groups", map[string]string{"eng": "developer", "rev": "pricing"})
	p := w.provider
	login := func(groups any) (session, int) {
		t.Helper()
		p.set(func(c map[string]any) string { c["groups"] = groups; return p.sign(c, nil) })
		b := w.browser()
		status, _, _ := b.do("GET", b.atProvider(b.start(), b.user1()), "", "")
		s, _ := b.session()
		return s, status
	}
	s, _ := login([]string{"eng", "rev", "other"})
	if got := s.Roles["production"]; !slices.Equal(got, []string{"developer", "pricing"}) {
		t.Errorf("got %v", got)
	}
	id := s.Operator.ID
	if s, _ = login("rev"); !slices.Equal(s.Roles["production"], []string{"pricing"}) || s.Operator.ID != id {
		t.Errorf("got %+v, want the same operator with one role", s)
	}
	if _, status := login([]string{}); status != 403 {
		t.Errorf("without a role: got %d, want 403", status)
	}
	op, err := w.db.Operator(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range op.Roles {
		if r.InForce(time.Now()) || r.Source != usher.SourceSSO {
			t.Errorf("%+v is in force after a login without groups", r)
		}
	}
	if err := w.db.PutOperatorRole(t.Context(), id, usher.OperatorRole{ID: "oas_x", Role: "support", From: time.Now().Add(-time.Minute),
		Source: usher.SourceManual, GrantedBy: "cli"},
		nil, usher.By{Actor: usher.Actor{Kind: "cli"}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if s, _ = login([]string{"eng"}); !slices.Equal(s.Roles["production"], []string{"developer", "support"}) {
		t.Errorf("got %v, want the claim's role beside the one that was given by hand", s.Roles)
	}
}

// TestTwoTabs: a browser may log in in several tabs at once, and each login ends.
func TestTwoTabs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "preferred_username", map[string]string{"test-user@127.0.0.1": "owner"})
	b := w.browser()
	first, second := b.start(), b.start()
	for _, tab := range []string{first, second} {
		if status, where, body := b.do("GET", b.atProvider(tab, b.user1()), "", ""); status != http.StatusFound {
			t.Errorf("got %d %s %s, want to go on", status, where, body)
		}
	}
	if _, ok := b.session(); !ok {
		t.Error("there is no session")
	}
	// Logins that are given up do not fill the browser with cookies.
	site, _ := url.Parse(w.site.URL)
	for range 30 {
		b.start()
	}
	if n := len(b.http.Jar.Cookies(site)); n > 10 {
		t.Errorf("the browser has %d cookies", n)
	}
	if status, _, body := b.do("GET", b.atProvider(b.start(), b.user1()), "", ""); status != http.StatusFound {
		t.Errorf("got %d %s, want to go on", status, body)
	}
}

// TestTheProviderIsFollowed: the last role that the provider takes away gives nothing in
// the very next call, also in sessions from before; and the email is the provider's.
func TestTheProviderIsFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "groups", map[string]string{"eng": "developer"})
	p := w.provider
	login := func(email string, groups ...string) (*browser, int) {
		t.Helper()
		p.set(func(c map[string]any) string {
			c["groups"], c["email"] = append([]string{}, groups...), email
			return p.sign(c, nil)
		})
		b := w.browser()
		status, _, _ := b.do("GET", b.atProvider(b.start(), b.user1()), "", "")
		return b, status
	}
	before, status := login("ada@example.com", "eng")
	if status != http.StatusFound {
		t.Fatalf("got %d, want to go on", status)
	}
	s, _ := before.session()
	if s.Operator.Email != "ada@example.com" {
		t.Errorf("got %q", s.Operator.Email)
	}
	if status, _, body := before.do("GET", "/v1/keys", "", ""); status != http.StatusOK {
		t.Fatalf("got %d %s, want the keys", status, body)
	}
	if _, status := login("Ada@new.example.com"); status != 403 {
		t.Fatalf("got %d, want 403", status)
	}
	if status, _, body := before.do("GET", "/v1/keys", "", ""); status != 403 {
		t.Errorf("got %d %s, want 403: the role is gone", status, body)
	}
	after, _ := login("Ada@new.example.com", "eng")
	if s, ok := after.session(); !ok || s.Operator.Email != "ada@new.example.com" {
		t.Errorf("got %v %+v, want the email of the provider", ok, s)
	}
	// An address that another operator has stays that operator's.
	cli := usher.By{Actor: usher.Actor{Kind: "cli"}}
	if _, err := w.auth.CreateOperator(t.Context(), cli, auth.NewOperator{Email: "grace@example.com"}); err != nil {
		t.Fatal(err)
	}
	for _, email := range []string{"grace@example.com", "\x00"} {
		b, _ := login(email, "eng")
		if s, ok := b.session(); !ok || s.Operator.Email != "ada@new.example.com" {
			t.Errorf("%q: got %v %+v, want the email as it was", email, ok, s)
		}
	}
}

// TestALinkedOperatorComesIn: a login with the subject of an existing operator is that
// operator, with the roles that were given by hand, and creates no second one. An equal
// email does not link a login with an operator.
func TestALinkedOperatorComesIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "groups", map[string]string{"eng": "developer"})
	p := w.provider
	var sub string
	p.set(func(c map[string]any) string {
		c["groups"], c["email"], c["email_verified"] = []string{}, "grace@example.com", true
		sub, _ = c["sub"].(string)
		return p.sign(c, nil)
	})
	cli := usher.By{Actor: usher.Actor{Kind: "cli"}}
	support := func(id, role string) {
		t.Helper()
		if err := w.db.PutOperatorRole(t.Context(), id, usher.OperatorRole{ID: "oas_" + role, Role: role, From: time.Now().Add(-time.Minute),
			Source: usher.SourceManual, GrantedBy: "cli"},
			nil, usher.By{Actor: usher.Actor{Kind: "cli"}}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	namesake, err := w.auth.CreateOperator(t.Context(), cli, auth.NewOperator{Email: "grace@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	support(namesake.ID, "pricing")
	b := w.browser()
	if status, _, _ := b.do("GET", b.atProvider(b.start(), b.user1()), "", ""); status != 403 || sub == "" {
		t.Fatalf("another person with the email of an operator: got %d, want 403", status)
	}
	made, err := w.auth.CreateOperator(t.Context(), cli, auth.NewOperator{Name: "Grace", Subject: usher.SSOSubject{Subject: sub}})
	if err != nil {
		t.Fatal(err)
	}
	support(made.ID, "support")
	b = w.browser()
	b.do("GET", b.atProvider(b.start(), b.user1()), "", "")
	if s, ok := b.session(); !ok || s.Operator.ID != made.ID || !slices.Equal(s.Roles["production"], []string{"support"}) {
		t.Errorf("got %v %+v, want %s with the role support", ok, s, made.ID)
	}
	if all, err := w.auth.Operators(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("got %+v, %v, want no third operator", all, err)
	}
}

// TestStepUp: the same person must log in again at the provider.
func TestStepUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "preferred_username", map[string]string{"test-user@127.0.0.1": "owner", "test-user2": "owner"})
	b := w.browser()
	p := w.provider
	// It was long ago that this person proved who they are there.
	p.set(func(c map[string]any) string {
		c["auth_time"] = time.Now().Add(-time.Hour).Unix()
		return p.sign(c, nil)
	})
	b.do("GET", b.atProvider(b.start(), b.user1()), "", "")
	before, _ := b.session()
	high := func() int { status, _, _ := b.do("DELETE", "/v1/operators/opr_nobody/sessions", "", ""); return status }
	if status := high(); status != 403 || before.ProvedUntil != nil {
		t.Fatalf("a proof of an hour ago: got %d, want 403", status)
	}
	prove := func(user string) (int, string) {
		t.Helper()
		status, _, body := b.do("POST", "/v1/session/step-up", "application/json", `{"return_to":"/back"}`)
		var to struct{ Redirect string }
		if json.Unmarshal([]byte(body), &to); status != 200 || !strings.Contains(to.Redirect, "prompt=login") ||
			!strings.Contains(to.Redirect, "max_age=0") {
			t.Fatalf("step-up: got %d %s", status, body)
		}
		status, _, body = b.do("GET", b.atProvider(to.Redirect, user), "", "")
		return status, body
	}
	if status, body := prove(b.user1()); status != 401 || !strings.Contains(body, "auth_time") {
		t.Errorf("a provider that did not ask again: got %d %s, want 401", status, body)
	}
	p.set(nil)
	if status, body := prove("test-user2"); status != 403 || !strings.Contains(body, "is not the operator of this session") {
		t.Errorf("another person: got %d %s, want 403", status, body)
	}
	if status := high(); status != 403 {
		t.Errorf("after proofs that failed: got %d, want 403", status)
	}
	if status, body := prove(b.user1()); status != http.StatusFound {
		t.Errorf("a fresh proof: got %d %s", status, body)
	}
	after, ok := b.session()
	if !ok || after.ID == before.ID || after.Operator.ID != before.Operator.ID || after.ProvedUntil == nil {
		t.Errorf("got %+v, want a new session of the same operator", after)
	}
	if status := high(); status != 404 {
		t.Errorf("after the proof: got %d, want 404: there is no such operator", status)
	}
}

// TestProviderAway: logging in says so, and goes on when the provider is back.
func TestProviderAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "preferred_username", map[string]string{"test-user@127.0.0.1": "owner"})
	w.provider.mu.Lock()
	w.provider.down = true
	w.provider.mu.Unlock()
	b := w.browser()
	for range 2 {
		if status, _, body := b.do("GET", "/v1/session/oidc/start", "", ""); status != 503 || !strings.Contains(body, "identity provider") {
			t.Errorf("got %d %s, want 503 in words", status, body)
		}
	}
	w.provider.mu.Lock()
	w.provider.down = false
	w.provider.mu.Unlock()
	time.Sleep(1100 * time.Millisecond)
	back := b.atProvider(b.start(), b.user1())
	w.provider.mu.Lock()
	w.provider.down = true
	w.provider.mu.Unlock()
	b.refused(back, 503, "cannot be reached")
}
