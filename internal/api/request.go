package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/engine"
)

// call is one request: who makes it, where, and what became of it.
type call struct {
	auth.Identity
	RequestID string
	// Key is the Idempotency-Key header, already checked; "" where there is none.
	Key string
	// IfMatch is the If-Match header; "" where there is none.
	IfMatch string

	session *auth.Session // of an operator who calls with a cookie; nil: a key

	route  *route
	scim   bool // an error is SCIM's
	status int
	wrote  *bool // whether an answer has begun, where a.wrap cannot see it
	id     [1]string
}

type callKey struct{}

// scratch is memory that a request borrows.
type scratch struct {
	in  []byte
	out []byte
	r   reader
	buf engine.Buf
}

// keepScratch bounds what goes back to the pool.
const keepScratch = 64 << 10

func (a *API) borrow() *scratch { return a.pool.Get().(*scratch) }

func (a *API) giveBack(s *scratch) {
	if cap(s.in) > keepScratch || cap(s.out) > keepScratch {
		return
	}
	s.r.Reset(nil)
	a.pool.Put(s)
}

// Shared header values: none of them is ever written to.
var (
	jsonType    = []string{"application/json"}
	problemType = []string{"application/problem+json"}
	noStore     = []string{"no-store"}
)

// wrap is what every route has: a request id, safe headers, metrics, and a
// panic that ends one request only.
func (a *API) wrap(rt *route, h func(http.ResponseWriter, *http.Request, *call)) http.HandlerFunc {
	m := a.metrics.route(rt.Pattern)
	fixed := a.headersOf(rt)
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		c := &call{route: rt, scim: rt.doc.Tag == scimTag, status: http.StatusOK}
		header := w.Header()
		if given := r.Header["X-Request-Id"]; len(given) == 1 && saneID(given[0]) {
			c.RequestID = given[0]
			header["X-Request-Id"] = given
		} else {
			c.id[0] = usher.NewID("req_", began, nil)
			c.RequestID = c.id[0]
			header["X-Request-Id"] = c.id[:]
		}
		list := fixed
		if r.Method == http.MethodPost && len(r.Header["Authorization"]) > 0 {
			list = fixed[:1] // no browser shows what answers this as a page, or has it read by another site
		}
		for i := range list {
			header[list[i].name] = list[i].value
		}
		if r.Method != http.MethodPost { // what answers a POST is not cached anyway
			header["Cache-Control"] = noStore
		}
		defer func() {
			if p := recover(); p != nil {
				a.panicked(w, c, p)
			}
			took := time.Since(began)
			m.done(c.status, took)
			if a.log.Enabled(r.Context(), slog.LevelDebug) {
				a.log.LogAttrs(r.Context(), slog.LevelDebug, "request", slog.String("request_id", c.RequestID), slog.String("route", rt.Pattern),
					slog.Int("status", c.status), slog.Duration("took", took), slog.String("actor", c.Actor.String()), slog.String("env", string(c.Env)))
			}
		}()
		h(w, r, c)
	}
}

func (a *API) panicked(w http.ResponseWriter, c *call, p any) {
	if p == http.ErrAbortHandler {
		panic(p)
	}
	a.log.Error("a request panicked", "request_id", c.RequestID, "route", c.route.Pattern, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if c.wrote != nil && *c.wrote {
		c.status = http.StatusInternalServerError
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
	a.fail(w, c, newProblem(usher.Internal, "internal error", nil))
}

func saneID(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 128
}

// identify finds out who calls and whether they may: by the Authorization
// header, or where there is none by the cookie of a session.
func (a *API) identify(w http.ResponseWriter, r *http.Request, c *call) bool {
	var header, cookie string
	list := r.Header["Authorization"]
	if len(list) == 1 {
		header = list[0]
	} else if len(list) == 0 && len(r.Header["Cookie"]) > 0 {
		cookie = cookieOf(r, sessionCookie)
	}
	var err error
	if cookie != "" {
		err = a.identifySession(r, c, cookie)
	} else {
		c.Identity, err = a.Auth.Authenticate(r.Context(), header)
	}
	if err != nil {
		a.refuse(w, r, c, err, header != "" || cookie != "")
		return false
	}
	if !a.limited(w, c) {
		return false
	}
	switch {
	case !c.Allows(c.route.Perm) && c.session != nil:
		err = usher.Errorf(usher.Forbidden, "none of your roles may do this in %s: it takes the permission %q", c.Env, c.route.Perm)
	case !c.Allows(c.route.Perm):
		err = usher.Errorf(usher.Forbidden, "a key of role %q may not do this: it takes the permission %q", c.Actor.Role, c.route.Perm)
	case c.session != nil:
		err = a.Auth.StepUp(c.session, c.route.Perm, c.Env)
	}
	if err != nil {
		a.fail(w, c, err)
		return false
	}
	if err := words(r); err != nil {
		a.fail(w, c, err)
		return false
	}
	if keys := r.Header["Idempotency-Key"]; len(keys) > 0 {
		c.Key = keys[0]
		if err := usher.CheckIdempotencyKey(c.Key); err != nil || len(keys) > 1 {
			if err == nil {
				err = usher.Errorf(usher.Invalid, "must be given once")
			}
			a.fail(w, c, at("header.Idempotency-Key", err))
			return false
		}
	}
	return true
}

// isText reports whether s is what both databases take for text: PostgreSQL has
// no U+0000, and fails on what is no UTF-8.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// words returns Invalid where the path or the query is no text.
func words(r *http.Request) error {
	if !isText(r.URL.Path) {
		for rest := r.Pattern; ; {
			_, after, more := strings.Cut(rest, "{")
			if !more {
				return invalid("path", "must be valid UTF-8, without the control character U+0000")
			}
			var name string
			name, rest, _ = strings.Cut(after, "}")
			switch v := r.PathValue(name); {
			case !utf8.ValidString(v):
				return invalid("path."+name, "must be valid UTF-8")
			case strings.IndexByte(v, 0) >= 0:
				return invalid("path."+name, "must not contain control characters (U+0000)")
			}
		}
	}
	if r.URL.RawQuery != "" {
		// Whether it is well formed is for the route to say.
		if s, err := url.QueryUnescape(r.URL.RawQuery); err == nil && !isText(s) {
			return invalid("query", "must be valid UTF-8, without the control character U+0000")
		}
	}
	return nil
}

// admit does for huma's routes what it would not: who calls, the body's type
// and size, and strict JSON. The body can be read again afterwards.
func (a *API) admit(w http.ResponseWriter, r *http.Request, c *call) bool {
	if c.route.Perm != "" && !a.identify(w, r, c) {
		return false
	}
	if c.route.accept == nil {
		return true
	}
	body, err := a.readAll(r, c.route, nil)
	if err == nil && !c.route.raw {
		err = checkJSON(body)
	}
	if err != nil {
		a.fail(w, c, err)
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	return true
}

// readAll reads a body of one of the route's types up to its size.
func (a *API) readAll(r *http.Request, rt *route, into []byte) ([]byte, error) {
	if err := contentType(r, rt.accept); err != nil {
		return into, err
	}
	tooLarge := func() error {
		return usher.Errorf(usher.TooLarge, "the body is larger than the %d bytes that this route takes", rt.maxBody)
	}
	n := r.ContentLength
	if n > rt.maxBody {
		return into, tooLarge()
	}
	into = slices.Grow(into[:0], int(max(n, 511))+1)
	for {
		k, err := r.Body.Read(into[len(into):cap(into)])
		into = into[:len(into)+k]
		switch {
		case int64(len(into)) > rt.maxBody:
			return into, tooLarge()
		case err == io.EOF:
			return into, nil
		case err != nil:
			return into, usher.Errorf(usher.Invalid, "the body could not be read to its end")
		case len(into) == cap(into):
			into = slices.Grow(into, len(into))
		}
	}
}

// contentType returns UnsupportedMedia unless the body is of one of the types.
func contentType(r *http.Request, accept []string) error {
	list := r.Header["Content-Type"]
	if len(list) == 1 {
		if slices.Contains(accept, list[0]) { // the usual case needs no parsing
			return nil
		}
		t, params, err := mime.ParseMediaType(list[0])
		charset := params["charset"]
		if err == nil && slices.Contains(accept, t) && (charset == "" || strings.EqualFold(charset, "utf-8")) {
			return nil
		}
	}
	got := "none"
	if len(list) > 0 {
		got = clip(strings.Join(list, ", "))
	}
	return usher.Errorf(usher.UnsupportedMedia, "the Content-Type must be %s, got %s", strings.Join(accept, " or "), got)
}

// callOf is the call of a request that huma handles.
func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }
