// Package api is HTTP in: the route table, the OpenAPI document, and one small
// handler per route. It decides nothing: it reads requests strictly, asks the
// rooms below, and writes their answers.
package api

import (
	"cmp"
	"context"
	"hash/maphash"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/usage"
)

// Config is what the API asks.
type Config struct {
	DB     *store.DB
	Live   *live.Live
	Decide *decide.Service
	Usage  *usage.Usage
	Auth   *auth.Service
	// What the management routes change.
	Customers *customers.Service
	Catalog   *catalog.Service
	Directory *directory.Service
	NewID     func(prefix string) string // of members and groups that SCIM makes; nil is usher.NewID with the time now
	Log       *slog.Logger               // nil is silent; one line per request at debug level
	Version   string                     // of the program, for the OpenAPI document
	// PublicURL is scheme and host of where usher is reached, without a path:
	// absolute addresses are made of it, never of a request's Host header.
	PublicURL string
	// CORSOrigins are the origins whose pages may call OFREP from a browser;
	// nil is none.
	CORSOrigins []string
	// Proxies is how many reverse proxies stand in front: the caller's address is
	// that many from the right in X-Forwarded-For; 0 is the connection's.
	Proxies int
	// Metrics are further collectors for /metrics.
	Metrics []prometheus.Collector
}

// API is the handler of every route. It is safe for concurrent use.
type API struct {
	Config
	log      *slog.Logger
	mux      *http.ServeMux
	patterns []string // on the mux
	huma     huma.API
	table    []*route
	pending  *route                      // being registered
	direct   map[string]http.HandlerFunc // hand-written POST routes without parameters, by path
	metrics  *metrics
	openapi  func() ([]byte, error)
	ownSite  *http.CrossOriginProtection
	pool     sync.Pool
	lost     http.HandlerFunc // answers paths that name nothing
	streams  streams

	provisioning scimState
}

// New makes the handler of every route.
func New(c Config) *API {
	a := &API{Config: c, log: c.Log, mux: http.NewServeMux(), direct: map[string]http.HandlerFunc{}}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.pool.New = func() any { return new(scratch) }
	a.metrics = newMetrics(c.Metrics)
	a.provisioning.seed = maphash.MakeSeed()
	a.ownSite = http.NewCrossOriginProtection()
	if c.PublicURL != "" { // else a proxy that changes Host would make our own pages another site's
		if err := a.ownSite.AddTrustedOrigin(c.PublicURL); err != nil {
			a.log.Warn("the public address is no origin", "error", err)
		}
	}
	a.huma = huma.NewAPI(openAPIConfig(c.Version), humago.NewAdapter(wrappingMux{a}, ""))
	a.openapi = sync.OnceValues(a.writeOpenAPI)
	a.routes()
	a.on("/", a.wrap(&route{Pattern: "/"}, a.unknown))
	a.lost = a.wrap(&route{Pattern: "/"}, func(w http.ResponseWriter, r *http.Request, c *call) {
		c.scim = strings.HasPrefix(r.URL.Path, scimRoot)
		a.fail(w, c, usher.Errorf(usher.NotFound, "the path has an empty segment, or one that is . or ..: an id of that kind is written percent-encoded, and none is empty"))
	})
	return a
}

// on puts a handler on the mux. Nothing else does.
func (a *API) on(pattern string, h http.HandlerFunc) {
	a.patterns = append(a.patterns, pattern)
	a.mux.HandleFunc(pattern, h)
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.TransferEncoding) > 0 && r.ProtoMajor == 1 {
		// The length that may have stood beside it is gone. A proxy that believed
		// that one would see another request in what follows (RFC 9112, 6.3).
		w.Header()["Connection"] = []string{"close"}
	}
	if len(a.CORSOrigins) > 0 && strings.HasPrefix(r.URL.Path, "/ofrep/") && a.crossOrigin(w, r) {
		return
	}
	if r.Method == http.MethodPost {
		if h := a.direct[r.URL.Path]; h != nil { // what the mux would find, sooner
			h(w, r)
			return
		}
	}
	// The mux would redirect such a path to a clean one, which names another
	// resource: an empty customer's grants are not the customer "grants".
	if unclean(r.URL) {
		a.lost(w, r)
		return
	}
	a.mux.ServeHTTP(w, r)
}

// unclean reports whether a path has an empty segment, the last one included,
// or one that is . or .. and not percent-encoded.
func unclean(u *url.URL) bool {
	p := cmp.Or(u.RawPath, u.Path)
	if p == "/" {
		return false
	}
	for rest, more := strings.TrimPrefix(p, "/"), true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		if segment == "." || segment == ".." || segment == "" {
			return true
		}
	}
	return false
}

// NewServer makes a server with the limits that a public one needs. It does not
// listen yet.
func NewServer(addr string, h http.Handler) *http.Server {
	return &http.Server{
		Addr: addr, Handler: h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

// wrappingMux gives huma's handlers what every route has.
type wrappingMux struct{ *API }

func (m wrappingMux) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	rt := m.pending
	m.on(pattern, m.wrap(rt, func(w http.ResponseWriter, r *http.Request, c *call) {
		if !m.admit(w, r, c) {
			return
		}
		c.IfMatch = strings.TrimSpace(r.Header.Get("If-Match"))
		sw := &statusWriter{ResponseWriter: w}
		c.wrote = &sw.wrote
		h(sw, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
		c.status = sw.status
	}))
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (w *statusWriter) WriteHeader(status int) {
	if !w.wrote {
		w.status, w.wrote = status, true
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if !w.wrote {
		w.status, w.wrote = http.StatusOK, true
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// unknown answers where no route fits: 404, or 405 where another method would.
func (a *API) unknown(w http.ResponseWriter, r *http.Request, c *call) {
	c.scim = strings.HasPrefix(r.URL.Path, scimRoot)
	var allow []string
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		other := *r
		other.Method = method
		if _, pattern := a.mux.Handler(&other); pattern != "/" && pattern != "" {
			allow = append(allow, method)
		}
	}
	if len(allow) > 0 {
		p := newProblem(methodNotAllowed, r.Method+" does not exist here, but "+strings.Join(allow, ", ")+" does", nil)
		p.allow = strings.Join(allow, ", ")
		a.fail(w, c, p)
		return
	}
	a.fail(w, c, newProblem("not_found", "there is no "+clip(r.URL.Path)+"; /openapi.json lists every route", nil))
}
