package strictjson

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/usher-sh/usher"
)

// String reads a string that is not empty. If another value stands there, it notes
// that at location and returns "". An empty string is refused because the caller
// could not distinguish it from a field that was left out, which often means more:
// all customers instead of one.
func (r *Reader) String(location string) string {
	text := r.MaybeEmpty(location)
	if text == "" && !r.noted(location) {
		r.Note(location, "must not be empty")
	}
	return text
}

// MaybeEmpty is String for a text that may be empty.
func (r *Reader) MaybeEmpty(location string) string {
	if r.Peek() != '"' {
		r.Wrong(location, "a string")
		return ""
	}
	return string(r.Text())
}

// noted reports whether the text turned out not to be JSON, or a problem of
// location is noted already.
func (r *Reader) noted(location string) bool {
	return r.Syntax != nil || slices.ContainsFunc(r.Problems, func(p usher.Problem) bool { return p.Location == location })
}

// ID notes at location what is wrong with an id that was read.
func (r *Reader) ID(location, id string) {
	if r.noted(location) {
		return
	}
	if err := usher.CheckID("", id); err != nil {
		r.Note(location, "%s", strings.TrimSpace(err.Error()))
	}
}

// Time reads an RFC 3339 time with its zone.
func (r *Reader) Time(location string) time.Time {
	if r.Peek() != '"' {
		r.Wrong(location, `an RFC 3339 time with its zone, such as "2026-03-31T00:00:00Z"`)
		return time.Time{}
	}
	t, err := usher.ParseTime(string(r.Text()))
	if err != nil && r.Syntax == nil {
		r.Note(location, "%s", err)
	}
	return t
}

// Number reads a quantity: a number, or a string that holds one. Its text is
// kept as it was written.
func (r *Reader) Number(location string) usher.Number {
	c := r.Peek()
	if c != '"' && c != '-' && (c < '0' || c > '9') {
		r.Wrong(location, `a number such as 10 or "1.5"`)
		return ""
	}
	var text []byte
	if c == '"' {
		text = r.Text()
	} else {
		text = r.Digits()
	}
	if r.Syntax != nil {
		return ""
	}
	// The form is checked here, so that a bad number is refused even if the
	// feature is unknown or counts nothing. How many digits may follow the point
	// depends on the feature: the caller checks that later.
	whole, _, _ := strings.Cut(string(text), ".")
	if !plain(text) {
		whole = string(text)
	}
	if _, err := usher.ParseQuantity(whole, 0); err != nil {
		r.Note(location, "%s", err.Error())
		return ""
	}
	return usher.Number(text)
}

// plain reports whether text is a plain decimal number, of any size.
func plain(text []byte) bool {
	whole, frac, point := strings.Cut(string(text), ".")
	return whole != "" && len(text) <= 64 && (!point || frac != "") &&
		strings.Trim(whole, "0123456789") == "" && strings.Trim(frac, "0123456789") == ""
}

// Whole reads a whole number from 0 to the largest int64.
func (r *Reader) Whole(location string) int64 {
	if c := r.Peek(); c != '-' && (c < '0' || c > '9') {
		r.Wrong(location, "a whole number")
		return 0
	}
	text := string(r.Digits())
	n, err := strconv.ParseInt(text, 10, 64)
	if r.Syntax == nil && (err != nil || n < 0) {
		r.Note(location, "must be a whole number from 0 to 9223372036854775807, got %s", Clip(text))
		return 0
	}
	return n
}

// Clip returns s in quotes for a message, cut after 40 bytes.
func Clip(s string) string {
	if len(s) > 40 {
		return strconv.Quote(s[:40]) + "…"
	}
	return strconv.Quote(s)
}

// Map reads an object of any values. Its numbers are json.Number, as they were
// written. It returns nil unless an object stands there.
func (r *Reader) Map(location string) map[string]any {
	if r.Peek() != '{' {
		r.Wrong(location, "an object")
		return nil
	}
	raw := r.Raw()
	if raw == nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	m := map[string]any{}
	if err := d.Decode(&m); err != nil {
		r.Note(location, "must be an object")
		return nil
	}
	return m
}

// Digits reads a number and returns its text.
func (r *Reader) Digits() []byte {
	from := r.i
	if r.i < len(r.b) && r.b[r.i] == '-' {
		r.i++
	}
	run := func() int {
		n := r.i
		for r.i < len(r.b) && '0' <= r.b[r.i] && r.b[r.i] <= '9' {
			r.i++
		}
		return r.i - n
	}
	lead := r.i
	if n := run(); n > 1 && r.b[lead] == '0' {
		r.i = lead
		r.Fail("a number must not have leading zeros")
		return nil
	} else if n == 0 {
		r.Fail("expected a digit, got %s", r.found())
		return nil
	}
	if r.i < len(r.b) && r.b[r.i] == '.' {
		r.i++
		if run() == 0 {
			r.Fail("expected a digit after the point, got %s", r.found())
			return nil
		}
	}
	if r.i < len(r.b) && (r.b[r.i] == 'e' || r.b[r.i] == 'E') {
		r.i++
		if r.i < len(r.b) && (r.b[r.i] == '+' || r.b[r.i] == '-') {
			r.i++
		}
		if run() == 0 {
			r.Fail("expected a digit in the exponent, got %s", r.found())
			return nil
		}
	}
	return r.b[from:r.i]
}

// Text reads the string at whose opening quote Peek stopped and returns its
// text. The bytes are valid until the next string is read.
func (r *Reader) Text() []byte {
	r.i++ // the opening quote
	from := r.i
	ascii := true
	for r.i < len(r.b) {
		switch c := r.b[r.i]; {
		case c == '"':
			s := r.b[from:r.i]
			if !ascii && !utf8.Valid(s) {
				r.loose("a string is not valid UTF-8")
			}
			r.i++
			return s
		case c == '\\':
			return r.escaped(from)
		case c < 0x20:
			r.control(c)
			return nil
		case c >= utf8.RuneSelf:
			ascii = false
		}
		r.i++
	}
	r.unclosed()
	return nil
}

func (r *Reader) unclosed() { r.Fail("a string has no closing quote") }

func (r *Reader) control(c byte) {
	if c == '\n' {
		r.Fail(`a string must end on its line: close the quote, or write \n for a line break`)
		return
	}
	r.Fail(`a control character in a string must be written as \u%04x`, c)
}

// escaped reads on from the first escape of a string that began at from.
func (r *Reader) escaped(from int) []byte {
	s := append(r.scratch[:0], r.b[from:r.i]...)
	for r.i < len(r.b) {
		c := r.b[r.i]
		switch {
		case c == '"':
			r.i++
			r.scratch = s
			if !utf8.Valid(s) {
				r.loose("a string is not valid UTF-8")
			}
			return s
		case c < 0x20:
			r.control(c)
			return nil
		case c != '\\':
			s = append(s, c)
			r.i++
			continue
		}
		if r.i++; r.i >= len(r.b) {
			break
		}
		c = r.b[r.i]
		r.i++
		switch c {
		case '"', '\\', '/':
			s = append(s, c)
		case 'b':
			s = append(s, '\b')
		case 'f':
			s = append(s, '\f')
		case 'n':
			s = append(s, '\n')
		case 'r':
			s = append(s, '\r')
		case 't':
			s = append(s, '\t')
		case 'u':
			u := r.hex4()
			if utf16.IsSurrogate(u) {
				low := rune(-1)
				if r.i+1 < len(r.b) && r.b[r.i] == '\\' && r.b[r.i+1] == 'u' {
					r.i += 2
					low = r.hex4()
				}
				if u = utf16.DecodeRune(u, low); u == utf8.RuneError {
					r.loose("a string holds half of a surrogate pair")
				}
			}
			if u == 0 {
				r.loose(`a string must not hold \u0000`)
			}
			if r.Syntax != nil {
				return nil
			}
			s = utf8.AppendRune(s, u)
		default:
			r.i -= 2
			_, size := utf8.DecodeRune(r.b[r.i+1:])
			r.Fail(`unknown escape %s: write \\ for a backslash`, r.b[r.i:r.i+1+size])
			return nil
		}
	}
	r.unclosed()
	return nil
}

func (r *Reader) hex4() rune {
	if r.i+4 <= len(r.b) {
		if n, err := strconv.ParseUint(string(r.b[r.i:r.i+4]), 16, 16); err == nil {
			r.i += 4
			return rune(n)
		}
	}
	r.Fail(`\u must be followed by four hexadecimal digits`)
	return utf8.RuneError
}
