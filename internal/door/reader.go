package door

import (
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/strictjson"
)

// Reader reads the bodies of hand-written routes and notes what is wrong, and where.
type Reader struct{ strictjson.Reader }

// Err returns Invalid with everything that was wrong, or nil. Call it once, after all
// was read.
func (r *Reader) Err() error {
	problems := r.End()
	if len(problems) == 0 {
		return nil
	}
	if r.Broken() {
		problems[0].Location = "body"
	}
	return Invalids(problems)
}

// CheckJSON returns Invalid unless b is one strict JSON value.
func CheckJSON(b []byte) error {
	var r Reader
	r.Reset(b)
	r.Skip()
	return r.Err()
}

// Clip returns s in quotes for a message, cut after 40 bytes.
func Clip(s string) string { return strictjson.Clip(s) }

// Front adds front to the beginning of the places of the problems from the nth on.
func (r *Reader) Front(front string, n int) {
	if r.Broken() {
		return
	}
	for i := range r.Problems[n:] {
		p := &r.Problems[n+i]
		p.Location = strings.TrimSuffix(front+p.Location, ".")
	}
}

// Key returns the idempotency key of the body or the header. If both have one, they
// must be the same.
func (r *Reader) Key(body string, inBody bool, header string) string {
	switch {
	case !inBody:
		body = header
	case header != "" && header != body:
		r.Note("body.key", "must be the same as the Idempotency-Key header, if both are sent")
	}
	if err := usher.CheckIdempotencyKey(body); err != nil {
		r.Note("body.key", "%s", strings.TrimPrefix(err.Error(), "the idempotency key "))
	}
	return body
}

// TTL reads a span of whole hours, minutes and seconds, from one second to most.
func (r *Reader) TTL(location string, most time.Duration) time.Duration {
	const example = `a span such as "60s", "5m" or "1h30m"`
	if r.Peek() != '"' {
		r.Wrong(location, example)
		return 0
	}
	text := string(r.Text())
	if r.Broken() {
		return 0
	}
	d, ok := parseTTL(text)
	switch {
	case !ok:
		r.Note(location, "must be %s, got %s", example, Clip(text))
	case d < time.Second || d > most:
		r.Note(location, "must be between 1s and %dh, got %s", most/time.Hour, Clip(text))
	default:
		return d
	}
	return 0
}

// parseTTL parses whole hours, minutes and seconds, in this order, each at most once. A
// span beyond time.Duration becomes the longest Duration.
func parseTTL(text string) (d time.Duration, ok bool) {
	last := time.Duration(math.MaxInt64)
	for i := 0; i < len(text); {
		n, from := int64(0), i
		for ; i < len(text) && '0' <= text[i] && text[i] <= '9'; i++ {
			n = min(n*10+int64(text[i]-'0'), math.MaxInt64/20)
		}
		if i == from || i == len(text) {
			return 0, false
		}
		unit := map[byte]time.Duration{'h': time.Hour, 'm': time.Minute, 's': time.Second}[text[i]]
		if unit == 0 || unit >= last {
			return 0, false
		}
		last = unit
		if n > int64((math.MaxInt64-d)/unit) {
			d = math.MaxInt64
		} else {
			d += time.Duration(n) * unit
		}
		i++
	}
	return d, text != ""
}

// Path notes which of a path's ids are not valid.
func (r *Reader) Path(req *http.Request, names ...string) {
	for _, name := range names {
		r.ID("path."+name, req.PathValue(name))
	}
}

// ReadOptional reads a body that may be left out, and checks the ids of the path with
// it. known lists the body's members for the error about an unknown one; "": it has
// none. member reads one member, and returns false if it does not know it.
func (c *Call) ReadOptional(r *http.Request, s *Scratch, known string, member func(name []byte) bool, ids ...string) (err error) {
	if s.In = s.In[:0]; r.ContentLength != 0 {
		if s.In, err = c.ReadAll(r, s.In); err != nil {
			return err
		}
	}
	s.R.Reset(s.In)
	s.R.Path(r, ids...)
	if len(s.In) == 0 {
		if len(s.R.Problems) > 0 {
			return Invalids(s.R.Problems)
		}
		return nil
	}
	s.R.Object("body", func(name []byte) {
		switch {
		case member(name):
		case known == "":
			where := "body." + ClipName(string(name))
			if s.R.Skip(); !s.R.Broken() {
				s.R.Note(where, "unknown field; this body has none: leave the body out, or send {}")
			}
		default:
			s.R.Unknown("body", name, known)
		}
	})
	return s.R.Err()
}
