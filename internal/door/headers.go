package door

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Header is a header of every answer of a route. The value is shared and must not be
// written to.
type Header struct {
	Name  string
	Value []string
}

// What every answer tells browsers: it is data and not a page, it must not be framed,
// other sites must not read it, and its address must not be sent to others. Calls with
// a key and a body get only the first header: browsers send such calls for scripts
// only, and the rest would cost a check a twentieth of its time.
var safeHeaders = []Header{
	{"X-Content-Type-Options", []string{"nosniff"}},
	{"Content-Security-Policy", []string{"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}},
	{"Referrer-Policy", []string{"no-referrer"}},
	{"Cross-Origin-Resource-Policy", []string{"same-origin"}},
}

// secureOnly makes browsers use https only, for two years as preload lists demand. It
// is sent only if the public address is https.
var secureOnly = Header{"Strict-Transport-Security", []string{"max-age=63072000; includeSubDomains"}}

// headersOf returns the headers of every answer of a route.
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

// shareWith lets pages of the given origins read the answer.
func shareWith(origins []string, w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if !slices.Contains(origins, origin) {
		return
	}
	// Allow-Credentials is never sent: a page of another origin must not use a cookie
	// of this host.
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "ETag, Retry-After, X-Request-ID")
}

// preflight answers the question that a browser asks before it calls a route from a
// page of another origin.
func (d *Door) preflight(w http.ResponseWriter, r *http.Request, c *Call) {
	h := w.Header()
	if h.Get("Access-Control-Allow-Origin") == "" || r.Header.Get("Access-Control-Request-Method") == "" {
		d.unknown(w, r, c)
		return
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, If-None-Match, Last-Event-ID, X-API-Key, X-Request-ID")
	h.Set("Access-Control-Max-Age", "3600")
	c.Status = http.StatusNoContent
	w.WriteHeader(c.Status)
}

// addressOf returns the address that a call comes from: that of the connection or,
// behind d.Proxies proxies, the one that the outermost proxy saw. Entries further left
// in X-Forwarded-For can be forged by anybody.
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
