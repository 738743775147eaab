package api

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// header is one that is on every answer of a route. The value is shared and
// never written to.
type header struct {
	name  string
	value []string
}

// What every answer says to browsers: it is data, no page; nobody frames it, no
// other site reads it, and no address of ours is told to others. The first is
// all that a call with a key and a body gets: browsers send such calls for
// scripts only, and the rest would cost a check a twentieth of its time.
var safeHeaders = []header{
	{"X-Content-Type-Options", []string{"nosniff"}},
	{"Content-Security-Policy", []string{"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}},
	{"Referrer-Policy", []string{"no-referrer"}},
}

var (
	sameOrigin  = header{"Cross-Origin-Resource-Policy", []string{"same-origin"}}
	crossOrigin = header{"Cross-Origin-Resource-Policy", []string{"cross-origin"}}
	// secureOnly is for two years, as the preload lists ask; only an address that
	// is https says so.
	secureOnly    = header{"Strict-Transport-Security", []string{"max-age=63072000; includeSubDomains"}}
	noPermissions = header{"Permissions-Policy", []string{"camera=(), geolocation=(), microphone=()"}}
)

// headersOf are the headers that are on every answer of a route.
func (a *API) headersOf(rt *route) []header {
	list := safeHeaders[:len(safeHeaders):len(safeHeaders)]
	if strings.Contains(rt.Pattern, " /ofrep/") {
		list = append(list, crossOrigin)
	} else {
		list = append(list, sameOrigin)
	}
	if strings.HasPrefix(a.PublicURL, "https://") {
		list = append(list, secureOnly)
	}
	if strings.Contains(rt.Pattern, sessionRoutes) {
		list = append(list, noPermissions)
	}
	return list
}

// addressOf is where a call comes from: the connection, or, behind a.Proxies
// proxies, what the outermost of them says. What stands further left in
// X-Forwarded-For anybody can write.
func (a *API) addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if a.Proxies <= 0 {
		return host
	}
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	if len(hops) < a.Proxies {
		return host
	}
	said := strings.TrimSpace(hops[len(hops)-a.Proxies])
	if _, err := netip.ParseAddr(said); err != nil {
		return host
	}
	return said
}
