package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

// sessionRoutes is in the pattern of every route about the caller's own session.
// None takes a key; each finds out by itself who is there.
const sessionRoutes = " /v1/session"

// takesSession are the routes that need a session and take no key.
var takesSession = map[string]bool{"GET /v1/session": true, "POST /v1/session/step-up": true}

// The cookies. Browsers take a __Host- cookie from https and from this machine
// only, send it to no other host, and let no other host set it.
const (
	sessionCookie = "__Host-usher"
	loginCookie   = "__Host-usher-login"
)

type ownerIn struct {
	Token    string `json:"token" doc:"Of usher operator token; it works once"`
	Email    string `json:"email" doc:"What one logs in with"`
	Name     string `json:"name,omitempty"`
	Password string `json:"password" doc:"12 characters to 1,024 bytes"`
}

type loginIn struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

type stepUpIn struct {
	Password string `json:"password,omitempty" doc:"Absent: the proof is made at the identity provider"`
	ReturnTo string `json:"return_to,omitempty" doc:"Where the browser goes on after that: a path of this server"`
}

type sessionOut struct {
	ID          string                                  `json:"id" doc:"Of the session; opaque, not what the cookie holds"`
	Operator    sessionOperator                         `json:"operator"`
	Method      string                                  `json:"method" enum:"password,oidc" doc:"How the operator logged in"`
	Roles       map[usher.Environment][]string          `json:"roles" doc:"In force now, by environment"`
	Permissions map[usher.Environment][]auth.Permission `json:"permissions" doc:"What that gives, by environment"`
	Risks       map[usher.Environment][]auth.Permission `json:"step_up" doc:"Which of these take a proof that is at most 10 minutes old"`
	CSRF        string                                  `json:"csrf" enum:"origin" doc:"origin: the browser's Sec-Fetch-Site and Origin are checked; no token is needed"`
	ProvedUntil *time.Time                              `json:"proved_until,omitempty" doc:"Until when step_up is not asked again; absent: it is"`
	IdleEndsAt  time.Time                               `json:"idle_ends_at" doc:"Unless a call comes before"`
	EndsAt      time.Time                               `json:"ends_at" doc:"In any case"`
}

type sessionOperator struct {
	ID    string `json:"id"`
	Name  string `json:"name,omitempty"`
	Email string `json:"email,omitempty"`
}

type stepUpOut struct {
	sessionOut
	Redirect string `json:"redirect,omitempty" doc:"Where the browser goes for the proof, where it is made at the identity provider; the session is then absent"`
}

func queryParam(name, text string, required bool) *huma.Param {
	return &huma.Param{Name: name, In: "query", Description: text, Required: required, Schema: &huma.Schema{Type: huma.TypeString}}
}

var (
	ownerDoc = doc{ID: "makeOwner", Tag: "Sessions", Summary: "Become an owner with a one-time token, and log in", Status: http.StatusCreated, request: ownerIn{}, response: sessionOut{},
		Text: "`usher operator token` makes the token. Everybody else comes through the identity provider."}
	loginDoc = doc{ID: "login", Tag: "Sessions", Summary: "Log in by email and password", Status: http.StatusCreated, request: loginIn{}, response: sessionOut{},
		Text: "An unknown email, a wrong password and too many attempts have one answer."}
	getSessionDoc = doc{ID: "getSession", Tag: "Sessions", Summary: "Who is logged in, what they may do, and until when", response: sessionOut{}}
	logoutDoc     = doc{ID: "logout", Tag: "Sessions", Summary: "Log out", Status: http.StatusNoContent, Text: "204 also where nobody is logged in."}
	stepUpDoc     = doc{ID: "stepUp", Tag: "Sessions", Summary: "Prove again who one is, for what can do much harm", request: stepUpIn{}, response: stepUpOut{},
		Text: "With a password the session is proved at once and has a new cookie. A session that came from the identity provider is proved there: the browser goes to redirect."}
	startOIDCDoc = doc{ID: "startOIDC", Tag: "Sessions", Summary: "Log in with the identity provider", Status: http.StatusFound, produces: "text/plain",
		params: []*huma.Param{queryParam("return_to", "Where the browser goes on after the login: a path of this server; absent is /", false)}}
	finishOIDCDoc = doc{ID: "finishOIDC", Tag: "Sessions", Summary: "Where the identity provider sends the browser back to", Status: http.StatusFound, produces: "text/plain",
		params: []*huma.Param{queryParam("state", "", true), queryParam("code", "", false), queryParam("error", "", false), queryParam("iss", "", false)}}
	endSessionsDoc = doc{ID: "endSessions", Tag: "Operators", Summary: "End all sessions of an operator", Status: http.StatusNoContent,
		Text: "Whoever may do more than the caller is a 403."}
)

var errCrossSite = usher.Errorf(usher.Forbidden, "a call with a session, or for one, must come from a page of this server: the browser's Sec-Fetch-Site or Origin does not say so")

// sameSite refuses what another site's page sent: the standard library compares
// Sec-Fetch-Site, or Origin with the host. What has neither came from no browser.
func (a *API) sameSite(r *http.Request) error {
	if a.ownSite.Check(r) != nil {
		return errCrossSite
	}
	return nil
}

// ownPage refuses a call with a session that did not come from a page of ours.
// Browsers send Sec-Fetch-Site or Origin with every call that can change
// something, so one that has neither is refused as well.
func (a *API) ownPage(r *http.Request) error {
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	if !safe && r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
		return errCrossSite
	}
	return a.sameSite(r)
}

// cookieOf is a cookie that came exactly once, or "".
func cookieOf(r *http.Request, name string) string {
	if list := r.CookiesNamed(name); len(list) == 1 {
		return list[0].Value
	}
	return ""
}

func setCookie(w http.ResponseWriter, name, value string, lives time.Duration) {
	c := &http.Cookie{Name: name, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(lives / time.Second)}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// environmentOf is what a call with a session is about.
func environmentOf(r *http.Request) (usher.Environment, error) {
	env := usher.Environment(r.Header.Get("Usher-Environment"))
	switch {
	case len(r.Header["Usher-Environment"]) > 1: // a proxy may have believed the other one
		return "", invalid("header.Usher-Environment", "must be given once")
	case env == "":
		return usher.Production, nil
	case !slices.Contains(usher.Environments, env):
		return "", invalid("header.Usher-Environment", "must be production or sandbox")
	}
	return env, nil
}

// identifySession finds out who calls with a cookie, and whether the call came
// from a page of ours.
func (a *API) identifySession(r *http.Request, c *call, cookie string) error {
	env, err := environmentOf(r)
	if err != nil {
		return err
	}
	if err := a.ownPage(r); err != nil {
		return err
	}
	c.Identity, c.session, err = a.Auth.Visitor(r.Context(), cookie, env)
	return err
}

func (a *API) visit(r *http.Request, c *call) auth.Visit {
	return auth.Visit{Address: a.addressOf(r), RequestID: c.RequestID, Cookie: cookieOf(r, sessionCookie)}
}

// body reads the JSON body of a route about the session. What is wrong with it
// is said without repeating it.
func (a *API) body(r *http.Request, rt *route, into any) error {
	b, err := a.readAll(r, rt, nil)
	if err != nil {
		return err
	}
	if err := checkJSON(b); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			return invalid("body."+clipName(wrong.Field), "must be text")
		}
		return invalid("body", "must be an object of the fields that this route knows")
	}
	return nil
}

// answerSession answers with a session; cookie is its new one, or "".
func (a *API) answerSession(w http.ResponseWriter, r *http.Request, c *call, cookie string, s *auth.Session) {
	who, err := a.Auth.Who(r.Context(), s)
	if err != nil {
		a.fail(w, c, err)
		return
	}
	out := sessionOut{ID: s.ID, Operator: sessionOperator{who.Operator.ID, who.Operator.Name, who.Operator.Email}, Method: s.Method, Roles: who.Roles, Permissions: who.Permissions,
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
		a.fail(w, c, err)
		return
	}
	if cookie != "" {
		setCookie(w, sessionCookie, cookie, auth.SessionAbsolute)
		w.Header()["Cache-Control"] = noStore
	}
	a.write(w, c, b)
}

func (a *API) makeOwner(w http.ResponseWriter, r *http.Request, c *call) {
	var in ownerIn
	err := a.sameSite(r)
	if err == nil {
		err = a.body(r, c.route, &in)
	}
	var cookie string
	var s *auth.Session
	if err == nil {
		cookie, s, err = a.Auth.Owner(r.Context(), a.visit(r, c), in.Token, auth.NewOperator{Name: in.Name, Email: in.Email}, in.Password)
	}
	if err != nil {
		a.fail(w, c, err)
		return
	}
	c.status = http.StatusCreated
	a.answerSession(w, r, c, cookie, s)
}

func (a *API) login(w http.ResponseWriter, r *http.Request, c *call) {
	var in loginIn
	err := a.sameSite(r)
	if err == nil {
		err = a.body(r, c.route, &in)
	}
	var cookie string
	var s *auth.Session
	if err == nil {
		cookie, s, err = a.Auth.Login(r.Context(), a.visit(r, c), in.Email, in.Password)
	}
	if err != nil {
		a.fail(w, c, err)
		return
	}
	c.status = http.StatusCreated
	a.answerSession(w, r, c, cookie, s)
}

func (a *API) getSession(w http.ResponseWriter, r *http.Request, c *call) {
	cookie := cookieOf(r, sessionCookie)
	if err := a.identifySession(r, c, cookie); err != nil {
		a.refuse(w, r, c, err, cookie != "")
		return
	}
	a.answerSession(w, r, c, "", c.session)
}

func (a *API) logout(w http.ResponseWriter, r *http.Request, c *call) {
	if err := a.ownPage(r); err != nil {
		a.fail(w, c, err)
		return
	}
	v := a.visit(r, c)
	s, err := a.Auth.Session(r.Context(), v.Cookie)
	if err == nil {
		err = a.Auth.Logout(r.Context(), v, s)
	}
	if err != nil && usher.ErrorCode(err) != usher.Unauthenticated {
		a.fail(w, c, err)
		return
	}
	setCookie(w, sessionCookie, "", 0)
	c.status = http.StatusNoContent
	w.WriteHeader(c.status)
}

func (a *API) stepUp(w http.ResponseWriter, r *http.Request, c *call) {
	var in stepUpIn
	v := a.visit(r, c)
	if err := a.identifySession(r, c, v.Cookie); err != nil {
		a.refuse(w, r, c, err, v.Cookie != "")
		return
	}
	if err := a.body(r, c.route, &in); err != nil {
		a.fail(w, c, err)
		return
	}
	if in.Password == "" && c.session.Method == auth.MethodOIDC {
		address, login, err := a.Auth.StartOIDC(r.Context(), in.ReturnTo, true)
		if err != nil {
			a.fail(w, c, err)
			return
		}
		setCookie(w, loginCookie, login, auth.LoginWithin)
		b, err := json.Marshal(map[string]string{"redirect": address})
		if err != nil {
			a.fail(w, c, err)
			return
		}
		a.write(w, c, b)
		return
	}
	cookie, s, err := a.Auth.Prove(r.Context(), v, c.session, in.Password)
	if err != nil {
		a.fail(w, c, err)
		return
	}
	a.answerSession(w, r, c, cookie, s)
}

// query reads the query of a route that a browser is sent to: each of names at
// most once, and nothing is refused for being there besides.
func query(r *http.Request, names ...string) (map[string]string, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("query", "must be percent-encoded")
	}
	out := map[string]string{}
	for _, name := range names {
		if len(q[name]) > 1 {
			return nil, invalid("query."+name, "must be given once")
		}
		out[name] = q.Get(name)
	}
	return out, nil
}

func (a *API) startOIDC(w http.ResponseWriter, r *http.Request, c *call) {
	q, err := query(r, "return_to")
	var address, cookie string
	if err == nil {
		address, cookie, err = a.Auth.StartOIDC(r.Context(), q["return_to"], false)
	}
	if err != nil {
		a.fail(w, c, err)
		return
	}
	setCookie(w, loginCookie, cookie, auth.LoginWithin)
	a.redirect(w, c, address)
}

func (a *API) finishOIDC(w http.ResponseWriter, r *http.Request, c *call) {
	q, err := query(r, "state", "code", "error", "iss")
	setCookie(w, loginCookie, "", 0) // it was for one use
	var cookie, to string
	if err == nil {
		cookie, _, to, err = a.Auth.FinishOIDC(r.Context(), a.visit(r, c),
			auth.Returned{State: q["state"], Code: q["code"], Error: q["error"], Issuer: q["iss"], Cookie: cookieOf(r, loginCookie)})
	}
	if err != nil {
		a.refuse(w, r, c, err, true)
		return
	}
	setCookie(w, sessionCookie, cookie, auth.SessionAbsolute)
	a.redirect(w, c, to)
}

func (a *API) redirect(w http.ResponseWriter, c *call, to string) {
	w.Header()["Cache-Control"] = noStore
	w.Header()["Location"] = []string{to}
	c.status = http.StatusFound
	w.WriteHeader(c.status)
}

func (a *API) endSessions(ctx context.Context, c *call, in *pathID) (*struct{}, error) {
	_, err := a.Auth.EndSessions(ctx, &c.Identity, by(c), in.ID)
	return nil, err
}
