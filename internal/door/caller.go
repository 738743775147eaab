package door

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

// SessionCookie holds an operator's session. Browsers accept a __Host- cookie from
// https and from this machine only, never send it to another host, and let no other
// host set it.
const SessionCookie = "__Host-usher"

// enter checks the caller. It returns true if the call is allowed; otherwise it answers
// with the error.
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

// identify finds out who is calling, by the Authorization header, or else by X-API-Key
// where the route takes that, or else by the cookie of a session, and whether the caller has the route's permission.
func (c *Call) identify(w http.ResponseWriter, r *http.Request) bool {
	var header, cookie string
	list := r.Header["Authorization"]
	if bare := r.Header["X-Api-Key"]; c.Route.BareKey && len(bare) > 0 && strings.Join(list, "") == "" {
		list = make([]string, len(bare))
		for i, key := range bare {
			list[i] = "Bearer " + key
		}
	}
	if len(list) == 1 {
		header = list[0]
	} else if len(list) == 0 && len(r.Header["Cookie"]) > 0 {
		cookie = CookieOf(r, SessionCookie)
	}
	var err error
	if cookie != "" {
		err = c.identifySession(r, cookie)
	} else {
		// Two Authorization headers count as none: header is empty.
		c.Credentials = header
		c.Identity, err = c.Route.door.Auth.Authenticate(r.Context(), header)
	}
	if err != nil {
		c.Refuse(w, r, err, header != "" || cookie != "")
		return false
	}
	// Counted before the permission is checked, so that calls that are refused cost their
	// key something, too.
	if !c.limited(w) {
		return false
	}
	switch {
	case !c.Allows(c.Route.Perm) && c.Session != nil:
		err = usher.Errorf(usher.Forbidden, "none of your roles may do this in %s: it needs the permission %q", c.Env, c.Route.Perm)
	case !c.Allows(c.Route.Perm):
		err = usher.Errorf(usher.Forbidden, "a key of role %q may not do this: it needs the permission %q", c.Actor.Role, c.Route.Perm)
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

// limited counts a call against the limit of its key and sets the headers that say
// what is left (draft-ietf-httpapi-ratelimit-headers). If nothing is left, it answers
// 429 and returns false.
func (c *Call) limited(w http.ResponseWriter) bool {
	l, ok := c.Route.door.Auth.Limit(&c.Identity)
	if !ok {
		return true
	}
	// The window of a token bucket is how long it takes to fill.
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

// Refuse answers a caller who is not let in. tried says that the caller sent a key or
// a session that is not valid. The number of such tries from one address is limited.
func (c *Call) Refuse(w http.ResponseWriter, r *http.Request, err error, tried bool) {
	if tried && usher.ErrorCode(err) == usher.Unauthenticated {
		if wait := c.Route.door.Auth.Stranger(c.Route.door.addressOf(r)); wait > 0 {
			err = &usher.Error{Code: usher.RateLimited, RetryAfter: max(wait, time.Second),
				Detail: "there were too many calls without a valid key or session from this network; wait"}
		}
	}
	c.Fail(w, err)
}

var errCrossSite = usher.Errorf(usher.Forbidden,
	"a call that uses or starts a session must come from a page of this server; by its Sec-Fetch-Site or Origin header it does not")

// SameSite refuses a call that a page of another site sent. The standard library
// checks Sec-Fetch-Site, or compares Origin with the host. A call with neither header
// did not come from a browser, and is allowed.
func (c *Call) SameSite(r *http.Request) error {
	if c.Route.door.ownSite.Check(r) != nil {
		return errCrossSite
	}
	return nil
}

// OwnPage refuses a call with a session unless it came from a page of this server.
// Browsers send Sec-Fetch-Site or Origin with every call that can change something, so
// a call with neither is refused as well.
func (c *Call) OwnPage(r *http.Request) error {
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	if !safe && r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
		return errCrossSite
	}
	return c.SameSite(r)
}

// CookieOf returns the value of a cookie that the request has exactly once, or "".
func CookieOf(r *http.Request, name string) string {
	if list := r.CookiesNamed(name); len(list) == 1 {
		return list[0].Value
	}
	return ""
}

// environmentOf returns the environment that a call with a session is about.
func environmentOf(r *http.Request) (usher.Environment, error) {
	env := usher.Environment(r.Header.Get("Usher-Environment"))
	switch {
	case len(r.Header["Usher-Environment"]) > 1: // a proxy may have checked the other value
		return "", Invalid("header.Usher-Environment", "must be given once")
	case env == "":
		return usher.Production, nil
	case !slices.Contains(usher.Environments, env):
		return "", Invalid("header.Usher-Environment", "must be production or sandbox")
	}
	return env, nil
}

// identifySession finds out which operator calls with a cookie, and whether the call
// came from a page of this server.
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
