package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

const (
	// loginCookie begins the name of a cookie that holds a login at the identity
	// provider while it lasts. Each login has its own, so that two tabs do not
	// overwrite each other's.
	loginCookie = "__Host-usher-login-"
	// maxLogins is how many unfinished logins a browser may have: one more ends the
	// earlier ones, so that their cookies do not fill the header of every request.
	maxLogins = 8
)

// loginCookieOf returns the name of the cookie of the login with a state; "" if a
// state cannot be one of ours.
func loginCookieOf(state string) string {
	if len(state) < 16 {
		return ""
	}
	if name := state[:16]; strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == "" {
		return loginCookie + name
	}
	return ""
}

// beginLogin gives the browser the cookie of a login at the identity provider.
func beginLogin(w http.ResponseWriter, r *http.Request, begun auth.LoginAtProvider) {
	var names []string
	for _, c := range r.Cookies() {
		if strings.HasPrefix(c.Name, loginCookie) {
			names = append(names, c.Name)
		}
	}
	if len(names) >= maxLogins {
		for _, name := range names {
			setCookie(w, name, "", 0)
		}
	}
	setCookie(w, loginCookieOf(begun.State), begun.Cookie, auth.LoginWithin)
}

type ownerIn struct {
	Token    string `json:"token" doc:"The token that usher operator token printed; it works once"`
	Email    string `json:"email" doc:"The operator logs in with it"`
	Name     string `json:"name,omitempty"`
	Password string `json:"password" doc:"12 characters to 1,024 bytes"`
}

type inviteIn struct {
	Token    string `json:"token" doc:"Of the invitation; it works once"`
	Password string `json:"password" doc:"12 characters to 1,024 bytes"`
}

type loginIn struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

type stepUpIn struct {
	Password string `json:"password,omitempty" doc:"Absent: the operator logs in again at the identity provider"`
	ReturnTo string `json:"return_to,omitempty" doc:"The path of this server to which the browser then returns"`
}

type sessionOut struct {
	ID          string                                  `json:"id" doc:"Of the session; opaque, not what the cookie holds"`
	Operator    sessionOperator                         `json:"operator"`
	Method      string                                  `json:"method" enum:"password,oidc" doc:"How the operator logged in"`
	Roles       map[usher.Environment][]string          `json:"roles" doc:"Current roles, by environment"`
	Permissions map[usher.Environment][]auth.Permission `json:"permissions" doc:"The permissions that these roles give, by environment"`
	Risks       map[usher.Environment][]auth.Permission `json:"step_up" doc:"Which of these need a login or step-up from the last 10 minutes"`
	CSRF        string                                  `json:"csrf" enum:"origin" doc:"origin: the browser's Sec-Fetch-Site and Origin are checked; no token is needed"`
	ProvedUntil *time.Time                              `json:"proved_until,omitempty" doc:"Until when no step-up is needed; absent: one is needed now"`
	IdleEndsAt  time.Time                               `json:"idle_ends_at" doc:"When the session ends if no call comes before"`
	EndsAt      time.Time                               `json:"ends_at" doc:"When the session ends in any case"`
}

type sessionOperator struct {
	ID    string `json:"id"`
	Name  string `json:"name,omitempty"`
	Email string `json:"email,omitempty"`
}

type redirectOut struct {
	Redirect string `json:"redirect" doc:"The address of the identity provider, where the browser goes on and the operator logs in again"`
}

// stepUpOut is the session that is proved now, or where to prove it.
type stepUpOut struct{}

// Schema says that it is one of the two.
func (stepUpOut) Schema(r huma.Registry) *huma.Schema {
	session, redirect := r.Schema(reflect.TypeFor[sessionOut](), true, ""), r.Schema(reflect.TypeFor[redirectOut](), true, "")
	return &huma.Schema{OneOf: []*huma.Schema{session, redirect}}
}

func setCookie(w http.ResponseWriter, name, value string, lives time.Duration) {
	c := &http.Cookie{Name: name, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		MaxAge: int(lives / time.Second)}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// noPermissions keeps a page from the sensors of a visitor's machine.
var noPermissions = []door.Header{{Name: "Permissions-Policy", Value: []string{"camera=(), geolocation=(), microphone=()"}}}

// sendsCookie is the header that begins, renews or ends a session.
var sendsCookie = []door.Sent{{Name: "Set-Cookie", Description: "The cookie of the session; empty and expired when the session has ended",
	Always: true}}

// redirects are the headers of a step of a login at the identity provider.
var redirects = append([]door.Sent{{Name: "Location", Description: "The address at which the browser goes on"}}, sendsCookie...)

// sessionRoutes registers how operators log in: the first owner with a one-time
// token, others with an invitation, a password or through the identity provider. A session
// lives in a cookie that scripts and other sites cannot use; it ends after 30
// minutes without a call and 12 hours at the latest. High-risk actions ask for
// a proof from the last ten minutes, which a step-up gives.
func (a *api) sessionRoutes(d *door.Door) {
	d.Handle(door.Route{Pattern: "POST /v1/session/owner", Headers: noPermissions, Sends: sendsCookie,
		ID: "makeOwner", Tag: "Sessions", Summary: "Become an owner with a one-time token, and log in", Status: http.StatusCreated,
		Request: ownerIn{}, Response: sessionOut{},
		Text:    "`usher operator token` makes the token. Others come through the identity provider or by an invitation.",
		Example: `{"token":"uso_…","email":"ada@example.com","name":"Ada","password":"four small words here"}`,
		Answer: `{"id":"ses_0pgp1uae8h79durfnu3fda0re4","operator":{"id":"opr_0pgp1ueh6c0q7k2njpc55dit58","name":"Ada",
			"email":"ada@example.com"},"method":"password","roles":{"production":["support"],"sandbox":["support"]},
			"permissions":{"production":["customers.read"],"sandbox":["customers.read"]},"step_up":{"production":[],
			"sandbox":[]},"csrf":"origin","proved_until":"2026-03-10T12:10:00Z","idle_ends_at":"2026-03-10T12:30:00Z",
			"ends_at":"2026-03-11T00:00:00Z"}`}, a.makeOwner)
	d.Handle(door.Route{Pattern: "POST /v1/session/invite", Headers: noPermissions, Sends: sendsCookie,
		ID: "acceptInvite", Tag: "Sessions", Summary: "Set a password with an invitation, and log in", Status: http.StatusCreated,
		Request: inviteIn{}, Response: sessionOut{},
		Text:    "POST /v1/operators/{id}/invite makes the token. The operator keeps its roles; its other sessions end.",
		Example: `{"token":"uso_…","password":"four small words here"}`,
		Answer: `{"id":"ses_0pgp1uae8h79durfnu3fda0re4","operator":{"id":"opr_0pgp1ueh6c0q7k2njpc55dit58","name":"Ada",
			"email":"ada@example.com"},"method":"password","roles":{"production":["support"],"sandbox":["support"]},
			"permissions":{"production":["customers.read"],"sandbox":["customers.read"]},"step_up":{"production":[],
			"sandbox":[]},"csrf":"origin","proved_until":"2026-03-10T12:10:00Z","idle_ends_at":"2026-03-10T12:30:00Z",
			"ends_at":"2026-03-11T00:00:00Z"}`}, a.acceptInvite)
	d.Handle(door.Route{Pattern: "POST /v1/session", Headers: noPermissions, Sends: sendsCookie,
		ID: "login", Tag: "Sessions", Summary: "Log in by email and password", Status: http.StatusCreated, Request: loginIn{},
		Response: sessionOut{},
		Text:     "An unknown email, a wrong password and too many attempts have one answer.",
		Example:  `{"email":"ada@example.com","password":"four small words here"}`,
		Answer: `{"id":"ses_0pgp1uae8h79durfnu3fda0re4","operator":{"id":"opr_0pgp1ueh6c0q7k2njpc55dit58","name":"Ada",
			"email":"ada@example.com"},"method":"password","roles":{"production":["support"],"sandbox":["support"]},
			"permissions":{"production":["customers.read"],"sandbox":["customers.read"]},"step_up":{"production":[],
			"sandbox":[]},"csrf":"origin","proved_until":"2026-03-10T12:10:00Z","idle_ends_at":"2026-03-10T12:30:00Z",
			"ends_at":"2026-03-11T00:00:00Z"}`}, a.login)
	d.Handle(door.Route{Pattern: "GET /v1/session", Session: true, Headers: noPermissions, Sends: sendsCookie,
		ID: "getSession", Tag: "Sessions", Summary: "Who is logged in, what they may do, and until when", Response: sessionOut{},
		Answer: `{"id":"ses_0pgp1uae8h79durfnu3fda0re4","operator":{"id":"opr_0pgp1ueh6c0q7k2njpc55dit58","name":"Ada",
			"email":"ada@example.com"},"method":"password","roles":{"production":["support"],"sandbox":["support"]},
			"permissions":{"production":["customers.read"],"sandbox":["customers.read"]},"step_up":{"production":[],
			"sandbox":[]},"csrf":"origin","proved_until":"2026-03-10T12:10:00Z","idle_ends_at":"2026-03-10T12:30:00Z",
			"ends_at":"2026-03-11T00:00:00Z"}`}, a.getSession)
	d.Handle(door.Route{Pattern: "DELETE /v1/session", Headers: noPermissions, Sends: sendsCookie,
		ID: "logout", Tag: "Sessions", Summary: "Log out", Status: http.StatusNoContent, Text: "204 even if nobody is logged in."}, a.logout)
	d.Handle(door.Route{Pattern: "POST /v1/session/step-up", Session: true, Headers: noPermissions, Sends: sendsCookie,
		ID: "stepUp", Tag: "Sessions", Summary: "Log in again within a session, for high-risk actions", Request: stepUpIn{},
		Response: stepUpOut{},
		Text: "With a password the session is proved at once and has a new cookie. A session that came from the identity provider is proved " +
			"there: the browser goes to redirect.",
		Example: `{"password":"four small words here"}`,
		Answer: `{"id":"ses_0pgp1uae8h79durfnu3fda0re4","operator":{"id":"opr_0pgp1ueh6c0q7k2njpc55dit58","name":"Ada",
			"email":"ada@example.com"},"method":"password","roles":{"production":["support"],"sandbox":["support"]},
			"permissions":{"production":["customers.read"],"sandbox":["customers.read"]},"step_up":{"production":[],
			"sandbox":[]},"csrf":"origin","proved_until":"2026-03-10T12:10:00Z","idle_ends_at":"2026-03-10T12:30:00Z",
			"ends_at":"2026-03-11T00:00:00Z"}`}, a.stepUp)
	d.Handle(door.Route{Pattern: "GET /v1/session/oidc/start", Headers: noPermissions, Sends: redirects,
		ID: "startOIDC", Tag: "Sessions", Summary: "Log in with the identity provider", Status: http.StatusFound, Produces: "text/plain",
		Params: []*huma.Param{door.QueryParam("return_to", "Where the browser goes on after the login: a path of this server; absent is /",
			false)}}, a.startOIDC)
	d.Handle(door.Route{Pattern: "GET /v1/session/oidc/callback", Headers: noPermissions, Sends: redirects,
		ID: "finishOIDC", Tag: "Sessions", Summary: "Where the identity provider sends the browser back to", Status: http.StatusFound,
		Produces: "text/plain",
		Params: []*huma.Param{door.QueryParam("state", "", true), door.QueryParam("code", "", false), door.QueryParam("error", "", false),
			door.QueryParam("iss", "", false)}}, a.finishOIDC)
	door.Register(d, door.Route{Pattern: "DELETE /v1/operators/{id}/sessions", Perm: auth.PermOperatorsWrite,
		ID: "endSessions", Tag: "Operators", Summary: "End all sessions of an operator", Status: http.StatusNoContent,
		Text: "An operator with more permissions than the caller is a 403."}, a.endSessions)
}

// body reads the JSON body of a route about the session. What is wrong with it
// is said without repeating it.
func body(r *http.Request, c *door.Call, into any) error {
	b, err := c.ReadAll(r, nil)
	if err != nil {
		return err
	}
	if err := door.CheckJSON(b); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			return door.Invalid("body."+door.ClipName(wrong.Field), "must be text")
		}
		return door.Invalid("body", "must be an object of the fields that this route knows")
	}
	return nil
}

// answerSession answers with a session; cookie is its new one, or "".
func (a *api) answerSession(w http.ResponseWriter, r *http.Request, c *door.Call, cookie string, s *usher.Session) {
	who, err := a.Auth.Who(r.Context(), s)
	if err != nil {
		c.Fail(w, err)
		return
	}
	out := sessionOut{ID: s.ID, Operator: sessionOperator{who.Operator.ID, who.Operator.Name, who.Operator.Email}, Method: s.Method,
		Roles: who.Roles, Permissions: who.Permissions,
		Risks: map[usher.Environment][]auth.Permission{}, CSRF: "origin", IdleEndsAt: s.IdleEnds(), EndsAt: s.Ends()}
	for env, list := range who.Permissions {
		out.Risks[env] = []auth.Permission{}
		for _, p := range list {
			if p.Risk(env) == usher.RiskHigh {
				out.Risks[env] = append(out.Risks[env], p)
			}
		}
	}
	if !who.ProvedUntil.IsZero() {
		out.ProvedUntil = &who.ProvedUntil
	}
	b, err := json.Marshal(out)
	if err != nil {
		c.Fail(w, err)
		return
	}
	if cookie != "" {
		setCookie(w, door.SessionCookie, cookie, usher.SessionAbsolute)
		w.Header()["Cache-Control"] = door.NoStore
	}
	c.Write(w, b)
}

// signIn reads what a page of this server sends and, if that is right, starts the
// session that start makes of it.
func (a *api) signIn(w http.ResponseWriter, r *http.Request, c *door.Call, in any,
	start func() (cookie string, s *usher.Session, err error)) {
	err := c.SameSite(r)
	if err == nil {
		err = body(r, c, in)
	}
	var cookie string
	var s *usher.Session
	if err == nil {
		cookie, s, err = start()
	}
	if err != nil {
		c.Fail(w, err)
		return
	}
	c.Status = http.StatusCreated
	a.answerSession(w, r, c, cookie, s)
}

func (a *api) makeOwner(w http.ResponseWriter, r *http.Request, c *door.Call) {
	var in ownerIn
	a.signIn(w, r, c, &in, func() (string, *usher.Session, error) {
		return a.Auth.Owner(r.Context(), c.Visit(r), in.Token, auth.NewOperator{Name: in.Name, Email: in.Email}, in.Password)
	})
}

func (a *api) acceptInvite(w http.ResponseWriter, r *http.Request, c *door.Call) {
	var in inviteIn
	a.signIn(w, r, c, &in, func() (string, *usher.Session, error) {
		return a.Auth.AcceptInvite(r.Context(), c.Visit(r), in.Token, in.Password)
	})
}

func (a *api) login(w http.ResponseWriter, r *http.Request, c *door.Call) {
	var in loginIn
	a.signIn(w, r, c, &in, func() (string, *usher.Session, error) {
		return a.Auth.Login(r.Context(), c.Visit(r), in.Email, in.Password)
	})
}

func (a *api) getSession(w http.ResponseWriter, r *http.Request, c *door.Call) {
	a.answerSession(w, r, c, "", c.Session)
}

func (a *api) logout(w http.ResponseWriter, r *http.Request, c *door.Call) {
	if err := c.OwnPage(r); err != nil {
		c.Fail(w, err)
		return
	}
	v := c.Visit(r)
	s, err := a.Auth.Session(r.Context(), v.Cookie)
	if err == nil {
		err = a.Auth.Logout(r.Context(), v, s)
	}
	if err != nil && usher.ErrorCode(err) != usher.Unauthenticated {
		c.Fail(w, err)
		return
	}
	setCookie(w, door.SessionCookie, "", 0)
	c.Status = http.StatusNoContent
	w.WriteHeader(c.Status)
}

func (a *api) stepUp(w http.ResponseWriter, r *http.Request, c *door.Call) {
	var in stepUpIn
	v := c.Visit(r)
	if err := body(r, c, &in); err != nil {
		c.Fail(w, err)
		return
	}
	if in.Password == "" && c.Session.Method == usher.LoginOIDC {
		begun, err := a.Auth.StartOIDC(r.Context(), in.ReturnTo, true)
		if err != nil {
			c.Fail(w, err)
			return
		}
		beginLogin(w, r, begun)
		b, err := door.Marshal(redirectOut{begun.Address})
		if err != nil {
			c.Fail(w, err)
			return
		}
		c.Write(w, b)
		return
	}
	cookie, s, err := a.Auth.Prove(r.Context(), v, c.Session, in.Password)
	if err != nil {
		c.Fail(w, err)
		return
	}
	a.answerSession(w, r, c, cookie, s)
}

// query reads the query of a route that a browser is sent to: each of names at
// most once, and nothing is refused for being there besides.
func query(r *http.Request, names ...string) (map[string]string, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, door.Invalid("query", "must be percent-encoded")
	}
	out := map[string]string{}
	for _, name := range names {
		if len(q[name]) > 1 {
			return nil, door.Invalid("query."+name, "must be given once")
		}
		out[name] = q.Get(name)
	}
	return out, nil
}

func (a *api) startOIDC(w http.ResponseWriter, r *http.Request, c *door.Call) {
	q, err := query(r, "return_to")
	var begun auth.LoginAtProvider
	if err == nil {
		begun, err = a.Auth.StartOIDC(r.Context(), q["return_to"], false)
	}
	if err != nil {
		c.Fail(w, err)
		return
	}
	beginLogin(w, r, begun)
	a.redirect(w, c, begun.Address)
}

func (a *api) finishOIDC(w http.ResponseWriter, r *http.Request, c *door.Call) {
	q, err := query(r, "state", "code", "error", "iss")
	var cookie, to, login string
	if name := loginCookieOf(q["state"]); name != "" {
		login = door.CookieOf(r, name)
		setCookie(w, name, "", 0) // it was for one use
	}
	if err == nil {
		cookie, _, to, err = a.Auth.FinishOIDC(r.Context(), c.Visit(r),
			auth.Returned{State: q["state"], Code: q["code"], Error: q["error"], Issuer: q["iss"], Cookie: login})
	}
	if err != nil {
		c.Refuse(w, r, err, true)
		return
	}
	setCookie(w, door.SessionCookie, cookie, usher.SessionAbsolute)
	a.redirect(w, c, to)
}

func (a *api) redirect(w http.ResponseWriter, c *door.Call, to string) {
	w.Header()["Cache-Control"] = door.NoStore
	w.Header()["Location"] = []string{to}
	c.Status = http.StatusFound
	w.WriteHeader(c.Status)
}

func (a *api) endSessions(ctx context.Context, c *door.Call, in *door.PathID) (*struct{}, error) {
	_, err := a.Auth.EndSessions(ctx, &c.Identity, c.By(), in.ID)
	return nil, err
}
