package api

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/usher-sh/usher"
)

// limited counts a call of a key against its limit and says how that stands
// (draft-ietf-httpapi-ratelimit-headers). It answers 429 and returns false where
// there is no room.
func (a *API) limited(w http.ResponseWriter, c *call) bool {
	l, ok := a.Auth.Limit(&c.Identity)
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
	a.fail(w, c, &usher.Error{Code: usher.RateLimited, RetryAfter: l.Wait,
		Detail: "this key may make " + strconv.FormatFloat(l.PerSecond, 'f', -1, 64) + " calls a second, and " + strconv.Itoa(l.Burst) + " at once: wait"})
	return false
}

// refuse answers who could not be let in. Whoever tried with something that is
// not valid may do so only so often from one address.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, c *call, err error, tried bool) {
	if tried && usher.ErrorCode(err) == usher.Unauthenticated {
		if wait := a.Auth.Stranger(a.addressOf(r)); wait > 0 {
			err = &usher.Error{Code: usher.RateLimited, RetryAfter: max(wait, time.Second),
				Detail: "there were too many calls without a valid key or session from this network: wait"}
		}
	}
	a.fail(w, c, err)
}
