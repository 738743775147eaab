package door

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Header is one that is on every answer of a route. The value is shared and
// must not be written to.
type Header struct {
	Name  string
	Value []string
}

// What every answer says to browsers: it is data, no page; nobody frames it, no
// other site reads it, and no address of ours is told to others. The first is
// all that a call with a key and a body gets: browsers send such calls for
// scripts only, and the rest would cost a check a twentieth of its time.
var safeHeaders = []Header{
	{"X-Content-Type-Options", []string{"nosniff"}},
	{"Content-Security-Policy", []string{"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}},
	{"Referrer-Policy", []string{"no-referrer"}},
	{"Cross-Origin-Resource-Policy", []string{"same-origin"}},
}

// secureOnly is for two years, as the preload lists ask; only an address that is
// https says so.
var secureOnly = Header{"Strict-Transport-Security", []string{"max-age=63072000; includeSubDomains"}}

// headersOf are the headers that are on every answer of a route.
func (d *Door) headersOf(rt *Route) []Header {
	list := slices.Clone(safeHeaders)
	if strings.HasPrefix(d.PublicURL, "https://") {
		list = append(list, secureOnly)
	}
	for _, h := range rt.Headers {
		if i := slices.IndexFunc(list, func(own Header) bool { return own.Name == h.Name }); i >= 0 {
			list[i] = h
		} else {
			list = append(list, h)
		}
	}
	return list
}

// shareWith lets pages of the origins that may call a route read its answer.
func shareWith(origins []string, w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if !slices.Contains(origins, origin) {
		return
	}
	// Never with credentials: a cookie of this host must not count here.
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "ETag, Retry-After, X-Request-ID")
}

// preflight answers what a browser asks before it calls a route from a page of
// another origin.
func (d *Door) preflight(w http.ResponseWriter, r *http.Request, c *Call) {
	h := w.Header()
	if h.Get("Access-Control-Allow-Origin") == "" || r.Header.Get("Access-Control-Request-Method") == "" {
		d.unknown(w, r, c)
		return
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, If-None-Match, Last-Event-ID, X-Request-ID")
	h.Set("Access-Control-Max-Age", "3600")
	c.Status = http.StatusNoContent
	w.WriteHeader(c.Status)
}

// addressOf is where a call comes from: the connection, or, behind d.Proxies
// proxies, what the outermost of them says. What stands further left in
// X-Forwarded-For anybody can write.
func (d *Door) addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if d.Proxies <= 0 {
		return host
	}
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	if len(hops) < d.Proxies {
		return host
	}
	said := strings.TrimSpace(hops[len(hops)-d.Proxies])
	if _, err := netip.ParseAddr(said); err != nil {
		return host
	}
	return said
}
