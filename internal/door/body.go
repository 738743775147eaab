package door

import (
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/usher-sh/usher"
)

// Bodies that are being read or worked on have bounded memory, all calls together:
// callers with a key or a session share one budget, and all others a small one, so
// that strangers cannot take the memory that callers need.
const (
	bodyBytes     = 128 << 20
	strangerBytes = 8 << 20
)

// freeBody is how much of each body, in bytes, no budget counts: its connection has
// as much memory of its own. So a check is answered also while large bodies wait.
const freeBody = 4 << 10

// budget is memory that all calls share. Its methods are safe for concurrent use.
type budget struct {
	held atomic.Int64
	most int64 // bytes
}

// take takes n bytes, or returns false and takes none if fewer are left.
func (b *budget) take(n int64) bool {
	if b.held.Add(n) <= b.most {
		return true
	}
	b.held.Add(-n)
	return false
}

// hold makes the call hold memory of a body of n bytes in all, or returns false.
func (c *Call) hold(n int) bool {
	more := int64(n) - freeBody - c.held
	if more <= 0 {
		return true
	}
	if c.budget == nil {
		c.budget = &c.Route.door.bodies
		if c.Actor.Kind == "" {
			c.budget = &c.Route.door.strangers
		}
	}
	if !c.budget.take(more) {
		return false
	}
	c.held += more
	return true
}

// release gives back what the call held.
func (c *Call) release() {
	if c.held > 0 {
		c.budget.held.Add(-c.held)
		c.held = 0
	}
}

// ReadAll reads a body of one of the route's content types, up to the route's size,
// into the memory of into. Its errors are ReadBody's.
func (c *Call) ReadAll(r *http.Request, into []byte) ([]byte, error) {
	return c.ReadBody(r, c.Route.Accept, into)
}

// ReadBody reads a body of one of the content types, up to the route's size, into the
// memory of into. Memory grows with the bytes that have arrived, whatever length was
// announced, and counts as held until the call ends. It returns UnsupportedMedia,
// TooLarge, Invalid, or Unavailable if too many bytes are held by all calls together.
func (c *Call) ReadBody(r *http.Request, accept []string, into []byte) ([]byte, error) {
	if err := contentType(r, accept); err != nil {
		return into, err
	}
	most := c.Route.MaxBody
	tooLarge := func() error {
		return usher.Errorf(usher.TooLarge, "the body is larger than the %d bytes that this route accepts", most)
	}
	n := r.ContentLength
	if n > most {
		return into, tooLarge()
	}
	// One byte more than a body has: so its end is seen without growing again.
	end := int(most) + 1
	if n >= 0 {
		end = int(n) + 1
	}
	if into = into[:0]; !c.hold(cap(into)) {
		into = nil // borrowed memory that is larger than what is left
	}
	for {
		if len(into) == cap(into) {
			size := min(max(2*cap(into), 512), end)
			if cap(into) == 0 {
				size = min(freeBody, end)
			}
			size = max(size, len(into)+1)
			if !c.hold(size) {
				return into, usher.Errorf(usher.Unavailable, "the server is reading too many large bodies at once; try again")
			}
			into = append(make([]byte, 0, size), into...)
		}
		k, err := r.Body.Read(into[len(into):cap(into)])
		into = into[:len(into)+k]
		switch {
		// Checked while reading: a chunked body has no length that could be checked before.
		case int64(len(into)) > most:
			return into, tooLarge()
		case err == io.EOF:
			return into, nil
		case err != nil:
			return into, usher.Errorf(usher.Invalid, "the body could not be read to its end")
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
		got = Clip(strings.Join(list, ", "))
	}
	return usher.Errorf(usher.UnsupportedMedia, "the Content-Type must be %s, got %s", strings.Join(accept, " or "), got)
}

// IsType reports whether a body is of one content type.
func IsType(r *http.Request, want string) bool { return contentType(r, []string{want}) == nil }
