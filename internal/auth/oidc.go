package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// OIDC is the identity provider that operators log in with (OpenID Connect Core
// 1.0, code flow with PKCE). The zero OIDC is none.
type OIDC struct {
	Issuer       string // exactly as the provider says it
	ClientID     string
	ClientSecret string // "" is a public client
	// RolesClaim is the claim that says what an operator is, a text or a list of
	// texts; "" is groups. Roles says which role each value of it gives.
	RolesClaim string
	Roles      map[string]string
	Client     *http.Client // nil is one with a timeout that follows no redirects
}

// Limits on what a provider is believed.
const (
	skew         = time.Minute // between its clock and ours
	providerWait = 10 * time.Second
	providerBody = 1 << 20
	maxGroups    = 1000
	// LoginWithin is how long a login at the provider may take.
	LoginWithin = 10 * time.Minute
	// OIDCCallback is where the provider sends browsers back to, below PublicURL.
	OIDCCallback = "/v1/session/oidc/callback"
)

// algorithms are the signatures that are believed: none that needs no key of the
// provider's own.
var algorithms = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512,
	oidc.EdDSA}

// Check returns an Invalid error, with every problem, unless c is none or whole.
func (c OIDC) Check() error {
	if c.Issuer == "" && c.ClientID == "" {
		return nil
	}
	var list []usher.Problem
	wrong := func(where, what string) { list = append(list, usher.Problem{Location: where, Message: what}) }
	if !issuerAddress(c.Issuer) {
		wrong("oidc-issuer", "must be an https address, such as https://login.example.com")
	}
	if c.ClientID == "" {
		wrong("oidc-client-id", "must not be empty")
	}
	if len(c.Roles) == 0 {
		wrong("oidc-role-map", "must give at least one role, as in engineering=developer: without one, no operator could do anything")
	}
	for group, role := range c.Roles {
		if !slices.Contains(OperatorRoles, role) {
			wrong("oidc-role-map", group+"="+role+": the role must be one of "+strings.Join(OperatorRoles, ", "))
		}
	}
	if len(list) > 0 {
		slices.SortStableFunc(list, func(a, b usher.Problem) int { return strings.Compare(a.Location+a.Message, b.Location+b.Message) })
		return &usher.Error{Code: usher.Invalid, Detail: "the identity provider cannot be used", Problems: list}
	}
	return nil
}

// issuerAddress reports whether an issuer can be one.
func issuerAddress(issuer string) bool {
	u, err := url.Parse(issuer)
	return err == nil && len(issuer) <= 1024 && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()))
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// provider is what is known of the identity provider, learned at the first login.
type provider struct {
	c     OIDC
	mu    sync.Mutex
	known *knownProvider
	again time.Time // not before, where it did not answer
}

type knownProvider struct {
	oauth2.Config
	*oidc.Provider
	verifier *oidc.IDTokenVerifier
}

var errNoProvider = usher.Errorf(usher.NotFound, "no identity provider is set up: `usher serve --oidc-issuer` names one")

func unreachable(what string) error {
	return &usher.Error{Code: usher.Unavailable, Detail: "the identity provider " + what + ", try again", RetryAfter: 5 * time.Second}
}

// bounded is a transport that reads no more of an answer than a provider needs.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(res.Body, providerBody), res.Body}
	}
	return res, err
}

func (c *OIDC) client() *http.Client {
	if c.Client != nil {
		return c.Client
	}
	return &http.Client{Timeout: providerWait, Transport: bounded{http.DefaultTransport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get is the provider, discovered where it is not known yet.
func (p *provider) get(ctx context.Context, publicURL string, now func() time.Time) (*knownProvider, error) {
	if p.c.Issuer == "" {
		return nil, errNoProvider
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known != nil {
		return p.known, nil
	}
	if now().Before(p.again) {
		return nil, unreachable("does not answer")
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(context.WithoutCancel(ctx), p.c.client()), providerWait)
	defer cancel()
	found, err := oidc.NewProvider(ctx, p.c.Issuer)
	if err != nil {
		p.again = now().Add(time.Second)
		var other *oidc.IssuerMismatchError
		if errors.As(err, &other) {
			return nil, unreachable("says that it is another issuer than --oidc-issuer")
		}
		return nil, unreachable("cannot be reached, or does not answer as one")
	}
	var says struct {
		Methods []string `json:"token_endpoint_auth_methods_supported"`
	}
	found.Claims(&says)
	k := &knownProvider{Provider: found,
		verifier: found.VerifierContext(oidc.ClientContext(context.Background(), p.c.client()),
			&oidc.Config{ClientID: p.c.ClientID, SupportedSigningAlgs: algorithms, SkipExpiryCheck: true /* checkTimes does */})}
	k.Config = oauth2.Config{ClientID: p.c.ClientID, ClientSecret: p.c.ClientSecret, Endpoint: found.Endpoint(), RedirectURL: publicURL +
		OIDCCallback,
		Scopes: []string{oidc.ScopeOpenID, "profile", "email"}}
	k.Config.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if p.c.ClientSecret == "" || len(says.Methods) > 0 && !slices.Contains(says.Methods, "client_secret_basic") {
		k.Config.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	p.known = k
	return k, nil
}

// A login at the provider is bound to the browser that began it by a cookie,
// "<secret>.<purpose>.<where to go on>". State, nonce and PKCE verifier are made
// of its secret, so that nothing has to be stored for logins that never end.
const (
	purposeLogin = "login"
	purposeProof = "proof"
)

func derived(secret, what string) string {
	sum := sha256.Sum256([]byte("usher " + what + "\x00" + secret))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// LocalPath reports whether a browser that goes to s stays with this server: it
// is a path, and nothing that browsers take for an address or a scheme.
func LocalPath(s string) bool {
	if len(s) == 0 || len(s) > 1024 || s[0] != '/' || len(s) > 1 && s[1] == '/' || strings.ContainsAny(s, "\\") {
		return false
	}
	for i := range len(s) {
		if s[i] <= 0x20 || s[i] >= 0x7f { // browsers drop tabs and line ends, and "/\t/x" becomes "//x"
			return false
		}
	}
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "" && u.Host == "" && u.User == nil
}

// LoginAtProvider is a login that StartOIDC has begun.
type LoginAtProvider struct {
	Address string // at the provider, where the browser goes
	State   string // in the query with which the browser comes back
	Cookie  string // the value of the cookie that binds the login to the browser
}

// StartOIDC begins a login at the identity provider, or, where proof is true, a
// fresh proof of who the operator is. A browser may have several at once, each
// with a cookie of its own. It returns NotFound if there is no
// provider, and Invalid if returnTo is not a local path.
func (s *Service) StartOIDC(ctx context.Context, returnTo string, proof bool) (begun LoginAtProvider, err error) {
	if returnTo == "" {
		returnTo = "/"
	}
	if !LocalPath(returnTo) {
		return begun, usher.Errorf(usher.Invalid, "return_to must be a path of this server, such as /customers")
	}
	p, err := s.provider.get(ctx, s.c.PublicURL, s.c.Now)
	if err != nil {
		return begun, err
	}
	secret, _, err := s.secret()
	if err != nil {
		return begun, err
	}
	purpose := purposeLogin
	options := []oauth2.AuthCodeOption{oidc.Nonce(derived(secret, "nonce")), oauth2.S256ChallengeOption(derived(secret, "verifier"))}
	if proof {
		purpose = purposeProof
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"), oauth2.SetAuthURLParam("max_age", "0"))
	}
	begun.State = derived(secret, "state")
	begun.Address = p.AuthCodeURL(begun.State, options...)
	begun.Cookie = secret + "." + purpose + "." + base64.RawURLEncoding.EncodeToString([]byte(returnTo))
	return begun, nil
}

// Returned is what a browser brings back from the provider.
type Returned struct {
	State, Code, Error, Issuer string // of the query
	Cookie                     string // the one that StartOIDC made
}

var errNotBegun = usher.Errorf(usher.Unauthenticated, "this login was not started in this browser, was used before, or took too long: "+
	"start again")

// FinishOIDC ends a login at the provider: it lets the operator in, or notes the
// fresh proof of one whose session the browser has. The operator is known by
// issuer and subject, never by email; one who is not known yet is made where
// the roles claim gives a role, and what that claim gives replaces what it gave
// before. returnTo is a local path.
// Who is not let in is counted in the audit log.
func (s *Service) FinishOIDC(ctx context.Context, v Visit, r Returned) (cookie string, out *usher.Session, returnTo string, err error) {
	cookie, out, returnTo, err = s.finishOIDC(ctx, v, r)
	if code := usher.ErrorCode(err); err != nil && (code == usher.Unauthenticated || code == usher.Forbidden) {
		s.noteTurnedAway(v)
	}
	return cookie, out, returnTo, err
}

func (s *Service) finishOIDC(ctx context.Context, v Visit, r Returned) (cookie string, out *usher.Session, returnTo string, err error) {
	secret, rest, _ := strings.Cut(r.Cookie, ".")
	purpose, to, _ := strings.Cut(rest, ".")
	path, err := base64.RawURLEncoding.DecodeString(to)
	state := derived(secret, "state")
	if len(secret) != secretLen || err != nil || !LocalPath(string(path)) || purpose != purposeLogin && purpose != purposeProof ||
		subtle.ConstantTimeCompare([]byte(state), []byte(r.State)) != 1 {
		return "", nil, "", errNotBegun
	}
	p, err := s.provider.get(ctx, s.c.PublicURL, s.c.Now)
	if err != nil {
		return "", nil, "", err
	}
	if r.Issuer != "" && r.Issuer != s.c.OIDC.Issuer { // RFC 9207
		return "", nil, "", usher.Errorf(usher.Unauthenticated, "the answer came from another identity provider than the one that was asked")
	}
	if r.Error != "" {
		code := usher.Unauthenticated
		if r.Error == "access_denied" {
			code = usher.Forbidden
		}
		return "", nil, "", usher.Errorf(code, "the identity provider let nobody in: %s", word(r.Error))
	}
	proof := purpose == purposeProof
	who, err := s.identify(ctx, p, secret, r.Code, proof)
	if err != nil {
		return "", nil, "", err
	}
	now := s.c.Now().UTC().Truncate(time.Microsecond)
	as := usher.SSOSubject{Issuer: s.c.OIDC.Issuer, Subject: who.subject}
	if proof {
		old, err := s.Session(ctx, v.Cookie)
		if err != nil {
			return "", nil, "", err
		}
		op, err := s.c.DB.OperatorOf(ctx, as)
		if err != nil {
			return "", nil, "", err
		}
		if op != old.Operator {
			return "", nil, "", usher.Errorf(usher.Forbidden, "the person who logged in at the identity provider is not the operator of this "+
				"session")
		}
		cookie, out, err = s.follow(ctx, v, old, state, who.proved)
		return cookie, out, string(path), notTwice(err)
	}
	id := store.SignIn{Subject: as, Name: who.name, Email: who.email, Roles: who.roles, NewID: s.id}
	op, err := s.c.DB.SignIn(ctx, id, v.RequestID, now)
	if op != "" { // also one who is not let in, because the provider took the last role away
		s.operators.forget(op)
	}
	if err != nil {
		return "", nil, "", err
	}
	cookie, out, err = s.begin(ctx, v, op, usher.LoginOIDC, state, who.proved, nil)
	return cookie, out, string(path), notTwice(err)
}

func notTwice(err error) error {
	if usher.ErrorCode(err) == usher.Conflict {
		return errNotBegun
	}
	return err
}

// word is a provider's error code, or what is left of something else.
func word(s string) string {
	s = strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-' || r == '.' {
			return r
		}
		return -1
	}, s)
	if len(s) == 0 || len(s) > 60 {
		return "an error without a name"
	}
	return s
}

// person is who the provider says came.
type person struct {
	subject, name, email string
	roles                []string
	proved               time.Time // when they proved it there; zero where it does not say
}

// identify exchanges a code and believes what the provider then says, as far as
// OpenID Connect Core 3.1.3.7 allows.
func (s *Service) identify(ctx context.Context, p *knownProvider, secret, code string, proof bool) (who person, err error) {
	if code == "" || len(code) > 4096 {
		return who, usher.Errorf(usher.Unauthenticated, "the identity provider gave no code")
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, s.c.OIDC.client()), providerWait)
	defer cancel()
	token, err := p.Exchange(ctx, code, oauth2.VerifierOption(derived(secret, "verifier")))
	if err != nil {
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) && refused.Response != nil && refused.Response.StatusCode < 500 {
			s.c.Log.Warn("the identity provider refused a login", "error", word(refused.ErrorCode), "status", refused.Response.StatusCode)
			return who, usher.Errorf(usher.Unauthenticated, "the identity provider refused the login: %s; start again", word(refused.ErrorCode))
		}
		return who, unreachable("cannot be reached")
	}
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return who, usher.Errorf(usher.Unauthenticated, "the identity provider sent no id token")
	}
	not := func(why string) error {
		s.c.Log.Warn("an id token was refused", "why", why)
		return usher.Errorf(usher.Unauthenticated, "the identity provider's id token is not valid: %s", why)
	}
	id, err := p.verifier.Verify(ctx, raw)
	if err != nil {
		var network net.Error
		if errors.As(err, &network) || ctx.Err() != nil || strings.Contains(err.Error(), "fetching keys") {
			return who, unreachable("does not give its keys")
		}
		return who, not(whyNot(err))
	}
	var claims struct {
		AuthorizedParty string `json:"azp"`
		NotBefore       int64  `json:"nbf"`
		AuthTime        int64  `json:"auth_time"`
		Name            string `json:"name"`
		Email           string `json:"email"`
	}
	all := map[string]any{}
	if id.Claims(&claims) != nil || id.Claims(&all) != nil {
		return who, not("its claims are malformed")
	}
	now := s.c.Now()
	switch {
	case subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(derived(secret, "nonce"))) != 1:
		return who, not("its nonce is of another login")
	case id.Subject == "" || len(id.Subject) > maxSubject:
		return who, not("its subject is empty or too long")
	case claims.AuthorizedParty != "" && claims.AuthorizedParty != s.c.OIDC.ClientID, claims.AuthorizedParty == "" && len(id.Audience) > 1:
		return who, not("it was made for another client")
	case !now.Before(id.Expiry.Add(skew)):
		return who, not("it has expired")
	case id.IssuedAt.After(now.Add(skew)), claims.NotBefore != 0 && time.Unix(claims.NotBefore, 0).After(now.Add(skew)):
		return who, not("it is of the future")
	}
	if id.AccessTokenHash != "" && id.VerifyAccessToken(token.AccessToken) != nil {
		return who, not("it does not belong to the access token")
	}
	if t := time.Unix(claims.AuthTime, 0).UTC(); claims.AuthTime > 0 && !t.After(now.Add(skew)) {
		who.proved = t
		if t.After(now) {
			who.proved = now.UTC().Truncate(time.Microsecond)
		}
	}
	if proof && now.Sub(who.proved) > 2*skew {
		return who, not("it does not say that you have just logged in (auth_time)")
	}
	who.subject, who.name, who.email = id.Subject, claims.Name, claims.Email
	claim := s.c.OIDC.RolesClaim
	if claim == "" {
		claim = "groups"
	}
	if _, ok := all[claim]; (!ok || who.email == "") && p.UserInfoEndpoint() != "" && !proof {
		// Many providers say more there than in the token.
		info, err := p.UserInfo(ctx, oauth2.StaticTokenSource(token))
		if err == nil && info.Subject == id.Subject {
			more := map[string]any{}
			info.Claims(&more)
			if !ok {
				all[claim] = more[claim]
			}
			if who.email == "" {
				who.email = info.Email
			}
			if n, is := more["name"].(string); is && who.name == "" {
				who.name = n
			}
		}
	}
	who.roles = s.c.OIDC.rolesOf(all[claim])
	return who, nil
}

// whyNot is why a token is not believed, without a part of it.
func whyNot(err error) string {
	for part, why := range map[string]string{
		"different provider": "another provider issued it", "expected audience": "it was made for another client",
		"malformed jwt":    "it is malformed, or signed in a way that is not accepted",
		"verify signature": "its signature is not the provider's", "not signed": "it is not signed",
	} {
		if strings.Contains(err.Error(), part) {
			return why
		}
	}
	return "it cannot be verified"
}

// rolesOf are the roles that a claim gives, each once, sorted.
func (c *OIDC) rolesOf(claim any) (roles []string) {
	var values []any
	switch v := claim.(type) {
	case string:
		values = []any{v}
	case []any:
		values = v[:min(len(v), maxGroups)]
	}
	for _, v := range values {
		if group, ok := v.(string); ok && c.Roles[group] != "" {
			roles = append(roles, c.Roles[group])
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}
