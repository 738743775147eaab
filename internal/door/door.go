// Package door has what every HTTP door needs: the route table, a strict reader of
// JSON, problems, paging, metrics, and who is calling. It knows no door and no noun: a
// route brings everything that is special about it.
package door

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

// Config is what a server of doors needs.
type Config struct {
	// Auth says who is calling. It must be set.
	Auth *auth.Service
	// Ready returns why checks cannot be answered now, and why nothing can be taken;
	// nil is always ready.
	Ready func(context.Context) (checks, takes error)
	// Log gets one line for each request at debug level, and every failure of the
	// server; nil is silent.
	Log *slog.Logger
	// LogRequests raises the line of each request to level info.
	LogRequests bool
	// Version is the program's, for the OpenAPI document.
	Version string
	// PublicURL is scheme and host of the address that clients use, without a
	// path. Absolute addresses are made of it, never of a request's Host header.
	PublicURL string
	// Proxies is the number of reverse proxies in front: the caller's address is
	// that many from the right in X-Forwarded-For; 0 is the connection's.
	Proxies int
	// BodyBytes bounds the memory of all bodies that are being read or worked on, for
	// callers with a key or a session; 0 is 128 MiB. Beyond it the answer is 503.
	BodyBytes int64
	// Metrics are more collectors for /metrics.
	Metrics []prometheus.Collector
}

// Door is an HTTP handler that doors register their routes on. It is safe for
// concurrent use once all routes are registered.
type Door struct {
	Config
	log       *slog.Logger
	mux       *http.ServeMux
	patterns  []string // on the mux
	huma      huma.API
	table     []*Route
	pending   *Route                      // the route that is being registered
	direct    map[string]http.HandlerFunc // hand-written POST routes without parameters, by path
	fallbacks []fallback
	slashes   []string // AnySlashes
	metrics   *metrics
	bodies    budget // of callers with a key or a session
	strangers budget // of others
	document  func() *huma.OpenAPI
	openapi   func() ([]byte, error)
	ownSite   *http.CrossOriginProtection
	lost      http.HandlerFunc // answers paths that no route has
}

// fallback is the form of errors for paths below a prefix that no route has.
type fallback struct {
	prefix string
	fail   Fail
}

// New returns a door with the server's own pages: health, metrics and the
// OpenAPI document.
func New(c Config) *Door {
	d := &Door{Config: c, log: c.Log, mux: http.NewServeMux(), direct: map[string]http.HandlerFunc{}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.bodies.most, d.strangers.most = cmp.Or(c.BodyBytes, bodyBytes), strangerBytes
	d.metrics = newMetrics(c.Metrics)
	d.metrics.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "usher_http_body_bytes", Help: "Memory of the request bodies that are being read or worked on.",
	}, func() float64 { return float64(d.HeldBytes()) }))
	d.ownSite = http.NewCrossOriginProtection()
	if c.PublicURL != "" { // behind a proxy that changes Host, the server's own pages must not count as another site
		if err := d.ownSite.AddTrustedOrigin(c.PublicURL); err != nil {
			d.log.Warn("the public address is not an origin", "error", err)
		}
	}
	d.huma = huma.NewAPI(openAPIConfig(c.Version), humago.NewAdapter(wrappingMux{d}, ""))
	d.document = sync.OnceValue(d.complete)
	d.openapi = sync.OnceValues(d.writeOpenAPI)
	d.pages()
	d.on("/", d.wrap(&Route{Pattern: "/"}, d.unknown))
	d.lost = d.wrap(&Route{Pattern: "/"}, func(w http.ResponseWriter, r *http.Request, c *Call) {
		c.fail = d.failBelow(r.URL.Path)
		c.Fail(w, usher.Errorf(usher.NotFound,
			"the path has an empty segment, or a segment . or ..; an id of . or .. must be percent-encoded, and no id is empty"))
	})
	return d
}

// Below sets the form of errors for paths below prefix that no route has.
func (d *Door) Below(prefix string, f Fail) { d.fallbacks = append(d.fallbacks, fallback{prefix, f}) }

// AnySlashes finds paths below prefix also with more slashes before, in and after prefix,
// as they come from a base URL that ends with one. What follows must be clean, as
// everywhere: an empty id names nothing.
func (d *Door) AnySlashes(prefix string) { d.slashes = append(d.slashes, prefix) }

// tidied returns a request without the slashes that AnySlashes lets it have too many;
// r itself, if it has none of these.
func (d *Door) tidied(r *http.Request) *http.Request {
	for _, prefix := range d.slashes {
		rest, ok := r.URL.EscapedPath(), true
		for segment := range strings.SplitSeq(prefix[1:], "/") {
			if rest, ok = strings.CutPrefix("/"+strings.TrimLeft(rest, "/"), "/"+segment); !ok {
				break
			}
		}
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		raw := prefix
		if rest = strings.TrimLeft(rest, "/"); rest != "" {
			raw += "/" + rest
		}
		path, err := url.PathUnescape(raw)
		if err != nil {
			return r
		}
		tidy, u := *r, *r.URL
		u.Path, u.RawPath = path, raw
		tidy.URL = &u
		return &tidy
	}
	return r
}

// failBelow returns the form of errors for a path that no route has; nil: a problem.
func (d *Door) failBelow(path string) Fail {
	for _, f := range d.fallbacks {
		if strings.HasPrefix(path, f.prefix) {
			return f.fail
		}
	}
	return nil
}

// HeldBytes returns the memory, in bytes, of all bodies that are being read or worked
// on. The first 4 KiB of each do not count.
func (d *Door) HeldBytes() int64 { return d.bodies.held.Load() + d.strangers.held.Load() }

// Routes returns the route table in the order of registration. The rows must not be
// changed.
func (d *Door) Routes() []*Route { return d.table }

// Document returns the OpenAPI document. It must not be changed.
func (d *Door) Document() *huma.OpenAPI { return d.document() }

// Alias makes the document show one type as another.
func (d *Door) Alias(t, as reflect.Type) {
	d.huma.OpenAPI().Components.Schemas.RegisterTypeAlias(t, as)
}

// Collect adds a collector to /metrics.
func (d *Door) Collect(c prometheus.Collector) { d.metrics.registry.MustRegister(c) }

// on puts a handler on the mux. Nothing else does.
func (d *Door) on(pattern string, h http.HandlerFunc) {
	d.patterns = append(d.patterns, pattern)
	d.mux.HandleFunc(pattern, h)
}

// ServeHTTP answers one request.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.TransferEncoding) > 0 && r.ProtoMajor == 1 {
		// net/http has dropped a Content-Length that came with chunked encoding. A
		// proxy that believed the length would take the rest of the body for another
		// request, so this connection must end (RFC 9112, 6.3).
		w.Header()["Connection"] = []string{"close"}
	}
	if r.Method == http.MethodPost {
		if h := d.direct[r.URL.Path]; h != nil { // the handler that the mux would find, without its search
			h(w, r)
			return
		}
	}
	// The mux would redirect such a path to a clean one, which names another
	// resource: an empty customer's grants are not the customer "grants".
	if unclean(r.URL) {
		r = d.tidied(r)
	}
	if unclean(r.URL) {
		d.lost(w, r)
		return
	}
	d.mux.ServeHTTP(w, r)
}

// unclean reports whether a path has an empty segment, also at its end, or a segment .
// or .. that is not percent-encoded.
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

// NewServer returns a server with the time and size limits that a public server needs.
// It does not listen yet.
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

// wrappingMux registers huma's handlers behind Door.wrap.
type wrappingMux struct{ *Door }

// HandleFunc registers huma's handler of the route that is being registered.
func (m wrappingMux) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	m.add(m.pending, func(w http.ResponseWriter, r *http.Request, c *Call) {
		if !c.admit(w, r) {
			return
		}
		sw := &statusWriter{ResponseWriter: w}
		c.Wrote = &sw.wrote
		h(sw, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
		c.Status = sw.status
	})
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

// Unwrap returns the writer below, for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// unknown answers a request that no route fits: 405 if its path exists with another
// method, otherwise 404.
func (d *Door) unknown(w http.ResponseWriter, r *http.Request, c *Call) {
	c.fail = d.failBelow(r.URL.Path)
	var allow []string
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		other := *r
		other.Method = method
		if _, pattern := d.mux.Handler(&other); pattern != "/" && pattern != "" {
			allow = append(allow, method)
		}
	}
	if len(allow) > 0 {
		p := NewProblem(MethodNotAllowed, r.Method+" does not exist here, but "+strings.Join(allow, ", ")+" does", nil)
		p.allow = strings.Join(allow, ", ")
		c.Fail(w, p)
		return
	}
	c.Fail(w, NewProblem(usher.NotFound, "there is no "+Clip(r.URL.Path)+"; /openapi.json lists every route", nil))
}
