package door

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/engine"
)

// Call is one request: who makes it, to which route, and how it was answered.
type Call struct {
	auth.Identity
	RequestID string // at most maxRequestID bytes
	// Credentials is how a key was sent, as auth.Authenticate reads it; "": no key was.
	Credentials string
	// Key is the Idempotency-Key header, already checked; "": the request has none.
	Key string
	// IfMatch is the If-Match header of a route with a typed handler; "": the request
	// has none.
	IfMatch string
	Session *usher.Session // of an operator who calls with a cookie; nil: a key
	Route   *Route
	Status  int   // of the answer
	Wrote   *bool // whether the answer has begun; nil: that is not known
	// About is the customer that the request is about, for the log. A handler sets it
	// if the body names the customer; a path or a key that names it needs no help.
	About string

	held    int64   // bytes of budget
	budget  *budget // that the body belongs to; nil: nothing is held
	fail    Fail    // replaces the route's Fail; nil: it does not
	id      [1]string
	request *http.Request
}

// about returns the customer that the call is about; "" if it is not known.
func (c *Call) about() string {
	if c.About == "" && strings.Contains(c.Route.Pattern, " /v1/customers/{id}") {
		return c.request.PathValue("id")
	}
	return cmp.Or(c.About, c.Customer)
}

// gone reports whether the client no longer waits for the answer. The doors set no
// deadline of their own on a request's context.
func (c *Call) gone() bool { return c.request.Context().Err() != nil }

// failed logs that the server cannot answer the call, with all that is needed to find
// out why.
func (c *Call) failed(level slog.Level, message string, attrs ...slog.Attr) {
	c.Route.door.log.LogAttrs(context.Background(), level, message, append([]slog.Attr{slog.String("request_id", c.RequestID),
		slog.String("env", string(c.Env)), slog.String("customer", c.about()), slog.String("route", c.Route.Pattern)}, attrs...)...)
}

// By says who makes a change that the call asks for. Reason and Cause are empty.
func (c *Call) By() usher.By { return usher.By{Actor: c.Actor, RequestID: c.RequestID} }

type callKey struct{}

// callOf returns the Call of a request that huma handles.
func callOf(ctx context.Context) *Call { return ctx.Value(callKey{}).(*Call) }

// Scratch is memory that a request borrows.
type Scratch struct {
	In  []byte
	Out []byte
	R   Reader
	Buf engine.Buf
}

// keepScratch is the most memory, in bytes, that goes back to the pool. One huge body
// must not occupy memory for ever.
const keepScratch = 64 << 10

var pool = sync.Pool{New: func() any { return new(Scratch) }}

// Borrow returns memory for one request. GiveBack must be called at its end.
func Borrow() *Scratch { return pool.Get().(*Scratch) }

// GiveBack returns s to the pool. Neither s nor what was read into it may be used
// afterwards.
func (s *Scratch) GiveBack() {
	if cap(s.In) > keepScratch || cap(s.Out) > keepScratch {
		return
	}
	s.R.Reset(nil)
	pool.Put(s)
}

// Header values that all answers share, to save allocations. They must not be written
// to.
var (
	JSONType    = []string{"application/json"}
	problemType = []string{"application/problem+json"}
	NoStore     = []string{"no-store"}
)

// wrap gives a handler what every route has: a request id, safe headers, metrics, and
// a recover, so that a panic ends one request only.
func (d *Door) wrap(rt *Route, h Handler) http.HandlerFunc {
	rt.door = d
	m := d.metrics.route(rt.Pattern)
	fixed := d.headersOf(rt)
	level := slog.LevelDebug
	if d.LogRequests {
		level = slog.LevelInfo
	}
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		c := &Call{Route: rt, Status: http.StatusOK, request: r}
		header := w.Header()
		if given := r.Header["X-Request-Id"]; len(given) == 1 && saneID(given[0]) {
			c.RequestID = given[0][:min(len(given[0]), maxRequestID)]
			header["X-Request-Id"] = given
		} else {
			c.id[0] = usher.NewID("req_", began, nil)
			c.RequestID = c.id[0]
			header["X-Request-Id"] = c.id[:]
		}
		list := fixed
		if r.Method == http.MethodPost && len(r.Header["Authorization"]) > 0 {
			list = fixed[:1] // only a script can send such a call, so nothing shows the answer as a page
		}
		for i := range list {
			header[list[i].Name] = list[i].Value
		}
		if r.Method != http.MethodPost { // answers to POST are not cached anyway
			header["Cache-Control"] = NoStore
		}
		if len(rt.Origins) > 0 {
			shareWith(rt.Origins, w, r)
		}
		defer c.release()
		defer func() {
			if p := recover(); p != nil {
				c.panicked(w, p)
			}
			took := time.Since(began)
			m.done(c.Status, took)
			if d.log.Enabled(r.Context(), level) {
				d.log.LogAttrs(r.Context(), level, "request", slog.String("request_id", c.RequestID), slog.String("route", rt.Pattern),
					slog.Int("status", c.Status), slog.Duration("took", took), slog.String("actor", c.Actor.String()), slog.String("env", string(c.Env)))
			}
		}()
		h(w, r, c)
	}
}

func (c *Call) panicked(w http.ResponseWriter, p any) {
	if p == http.ErrAbortHandler {
		panic(p)
	}
	c.failed(slog.LevelError, "a request panicked", slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
	if c.Wrote != nil && *c.Wrote {
		c.Status = http.StatusInternalServerError
		panic(http.ErrAbortHandler) // cut the connection: half an answer must not look complete
	}
	c.Fail(w, NewProblem(usher.Internal, "internal error", nil))
}

// maxRequestID is how much of a caller's X-Request-ID logs, problems and the audit log
// show, in bytes. The answer's header has all of it.
const maxRequestID = 128

func saneID(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return len(s) > 0
}

// IsText reports whether both databases accept s as text: PostgreSQL fails on U+0000
// and on bytes that are not valid UTF-8.
func IsText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// words returns Invalid if the path or the query is not valid text (IsText).
func words(r *http.Request) error {
	if !IsText(r.URL.Path) {
		for rest := r.Pattern; ; {
			_, after, more := strings.Cut(rest, "{")
			if !more {
				return Invalid("path", "must be valid UTF-8, without the control character U+0000")
			}
			var name string
			name, rest, _ = strings.Cut(after, "}")
			switch v := r.PathValue(name); {
			case !utf8.ValidString(v):
				return Invalid("path."+name, "must be valid UTF-8")
			case strings.IndexByte(v, 0) >= 0:
				return Invalid("path."+name, "must not contain control characters (U+0000)")
			}
		}
	}
	if r.URL.RawQuery != "" {
		// Whether the query is well formed is checked by the route.
		if s, err := url.QueryUnescape(r.URL.RawQuery); err == nil && !IsText(s) {
			return Invalid("query", "must be valid UTF-8, without the control character U+0000")
		}
	}
	return nil
}

// admit checks, for huma's routes, what huma does not: the body's type and size, and
// strict JSON. The body can be read again afterwards.
func (c *Call) admit(w http.ResponseWriter, r *http.Request) bool {
	c.IfMatch = strings.TrimSpace(r.Header.Get("If-Match"))
	err := noEmptyParameters(r)
	if c.Route.Accept == nil {
		if err != nil {
			c.Fail(w, err)
		}
		return err == nil
	}
	var body []byte
	if err == nil {
		body, err = c.ReadAll(r, nil)
	}
	if err == nil && !c.Route.Raw {
		err = c.Route.checkBody(body)
	}
	if err != nil {
		c.Fail(w, err)
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	return true
}

// Write answers with JSON and c.Status.
func (c *Call) Write(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h["Content-Type"] = JSONType
	if len(body) > 2000 { // net/http sets the length of short answers by itself
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	if c.Status != http.StatusOK {
		w.WriteHeader(c.Status)
	}
	w.Write(body)
}

// Unchanged sends an ETag and reports whether the caller has that answer already. If
// so, it has answered 304, and the handler must write nothing.
func (c *Call) Unchanged(w http.ResponseWriter, r *http.Request, etag string) bool {
	w.Header()["Etag"] = []string{etag}
	for _, line := range r.Header["If-None-Match"] {
		for item := range strings.SplitSeq(line, ",") {
			item = strings.TrimSpace(item) // the comparison is weak (RFC 9110 13.1.2)
			if item == "*" || strings.TrimPrefix(item, "W/") == strings.TrimPrefix(etag, "W/") {
				c.Status = http.StatusNotModified
				w.WriteHeader(c.Status)
				return true
			}
		}
	}
	return false
}

// Decided counts a decision for /metrics.
func (c *Call) Decided(d *usher.Decision) { c.Route.door.metrics.decided(d) }
