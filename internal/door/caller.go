package door

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

// SessionCookie holds an operator's session. Browsers take a __Host- cookie from
// https and from this machine only, send it to no other host, and let no other
// host set it.
const SessionCookie = "__Host-usher"

// enter lets a caller in, or answers why not and returns false.
func (c *Call) enter(w http.ResponseWriter, r *http.Request) bool {
	switch rt := c.Route; {
	case rt.Session:
		cookie := CookieOf(r, SessionCookie)
		if err := c.identifySession(r, cookie); err != nil {
			c.Refuse(w, r, err, cookie != "")
			return false
		}
		return true
	case rt.Perm == "", rt.Ticket && r.URL.Query().Has("ticket"):
		return true
	}
	return c.identify(w, r)
}

// identify finds out who calls and whether they may: by the Authorization
// header, or where there is none by the cookie of a session.
func (c *Call) identify(w http.ResponseWriter, r *http.Request) bool {
	var header, cookie string
	list := r.Header["Authorization"]
	if len(list) == 1 {
		header = list[0]
	} else if len(list) == 0 && len(r.Header["Cookie"]) > 0 {
		cookie = CookieOf(r, SessionCookie)
	}
	var err error
	if cookie != "" {
		err = c.identifySession(r, cookie)
	} else {
		c.Identity, err = c.Route.door.Auth.Authenticate(r.Context(), header)
	}
	if err != nil {
		c.Refuse(w, r, err, header != "" || cookie != "")
		return false
	}
	if !c.limited(w) {
		return false
	}
	switch {
	case !c.Allows(c.Route.Perm) && c.Session != nil:
		err = usher.Errorf(usher.Forbidden, "none of your roles may do this in %s: it takes the permission %q", c.Env, c.Route.Perm)
	case !c.Allows(c.Route.Perm):
		err = usher.Errorf(usher.Forbidden, "a key of role %q may not do this: it takes the permission %q", c.Actor.Role, c.Route.Perm)
	case c.Session != nil:
		err = c.Route.door.Auth.StepUp(c.Session, c.Route.Perm, c.Env)
	}
	if err != nil {
		c.Fail(w, err)
		return false
	}
	if err := words(r); err != nil {
		c.Fail(w, err)
		return false
	}
	if keys := r.Header["Idempotency-Key"]; len(keys) > 0 {
		c.Key = keys[0]
		if err := usher.CheckIdempotencyKey(c.Key); err != nil || len(keys) > 1 {
			if err == nil {
				err = usher.Errorf(usher.Invalid, "must be given once")
			}
			c.Fail(w, At("header.Idempotency-Key", err))
			return false
		}
	}
	return true
}

// limited counts a call of a key against its limit and says how that stands
// (draft-ietf-httpapi-ratelimit-headers). It answers 429 and returns false where
// there is no room.
func (c *Call) limited(w http.ResponseWriter) bool {
	l, ok := c.Route.door.Auth.Limit(&c.Identity)
	if !ok {
		return true
	}
	// The window of a bucket is how long it takes to fill.
	window := max(int(math.Ceil(float64(l.Burst)/l.PerSecond)), 1)
	h := w.Header()
	h["Ratelimit-Policy"] = []string{`"key";q=` + strconv.Itoa(l.Burst) + `;w=` + strconv.Itoa(window)}
	reset := int(math.Ceil(max(float64(l.Burst-l.Left)/l.PerSecond, l.Wait.Seconds())))
	h["Ratelimit"] = []string{`"key";r=` + strconv.Itoa(l.Left) + `;t=` + strconv.Itoa(reset)}
	if l.Wait == 0 {
		return true
	}
	c.Fail(w, &usher.Error{Code: usher.RateLimited, RetryAfter: l.Wait,
		Detail: "this key may make " + strconv.FormatFloat(l.PerSecond, 'f', -1, 64) + " calls a second, and at most " +
			strconv.Itoa(l.Burst) + " at once; wait"})
	return false
}

// Refuse answers a caller who could not be let in. Those who tried with something
// that is not valid may do so only so often from one address.
func (c *Call) Refuse(w http.ResponseWriter, r *http.Request, err error, tried bool) {
	if tried && usher.ErrorCode(err) == usher.Unauthenticated {
		if wait := c.Route.door.Auth.Stranger(c.Route.door.addressOf(r)); wait > 0 {
			err = &usher.Error{Code: usher.RateLimited, RetryAfter: max(wait, time.Second),
				Detail: "there were too many calls without a valid key or session from this network: wait"}
		}
	}
	c.Fail(w, err)
}

var errCrossSite = usher.Errorf(usher.Forbidden,
	"a call with a session, or for one, must come from a page of this server: the browser's Sec-Fetch-Site or Origin does not say so")

// SameSite refuses what another site's page sent: the standard library compares
// Sec-Fetch-Site, or Origin with the host. What has neither came from no browser.
func (c *Call) SameSite(r *http.Request) error {
	if c.Route.door.ownSite.Check(r) != nil {
		return errCrossSite
	}
	return nil
}

// OwnPage refuses a call with a session that did not come from a page of ours.
// Browsers send Sec-Fetch-Site or Origin with every call that can change
// something, so one that has neither is refused as well.
func (c *Call) OwnPage(r *http.Request) error {
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	if !safe && r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
		return errCrossSite
	}
	return c.SameSite(r)
}

// CookieOf is a cookie that came exactly once, or "".
func CookieOf(r *http.Request, name string) string {
	if list := r.CookiesNamed(name); len(list) == 1 {
		return list[0].Value
	}
	return ""
}

// environmentOf is what a call with a session is about.
func environmentOf(r *http.Request) (usher.Environment, error) {
	env := usher.Environment(r.Header.Get("Usher-Environment"))
	switch {
	case len(r.Header["Usher-Environment"]) > 1: // a proxy may have believed the other one
		return "", Invalid("header.Usher-Environment", "must be given once")
	case env == "":
		return usher.Production, nil
	case !slices.Contains(usher.Environments, env):
		return "", Invalid("header.Usher-Environment", "must be production or sandbox")
	}
	return env, nil
}

// identifySession finds out who calls with a cookie, and whether the call came
// from a page of ours.
func (c *Call) identifySession(r *http.Request, cookie string) error {
	env, err := environmentOf(r)
	if err != nil {
		return err
	}
	if err := c.OwnPage(r); err != nil {
		return err
	}
	c.Identity, c.Session, err = c.Route.door.Auth.Visitor(r.Context(), cookie, env)
	return err
}

func (c *Call) Visit(r *http.Request) auth.Visit {
	return auth.Visit{Address: c.Route.door.addressOf(r), RequestID: c.RequestID, Cookie: CookieOf(r, SessionCookie)}
}
