package api

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/usher-sh/usher"
)

// maxDepth is how deep arrays and objects may nest in a request.
const maxDepth = 32

// reader reads JSON strictly, in one pass: duplicate names, trailing data, deep
// nesting, bytes that are not UTF-8, half surrogates and NUL are refused. It
// stops at the first thing that is not JSON; what is JSON but wrong is noted in
// problems, and reading goes on. The zero position is the root, named root.
type reader struct {
	b        []byte
	i        int
	depth    int
	broken   bool
	problems []usher.Problem
	scratch  []byte // of strings with escapes
	// soft makes what is JSON, but not strict JSON, a problem of the value at
	// hand instead of the end: one event must not fail its neighbours.
	soft bool
}

func (r *reader) reset(b []byte) {
	r.b, r.i, r.depth, r.broken, r.problems, r.soft = b, 0, 0, false, nil, false
}

// loose is fail, or with soft a note.
func (r *reader) loose(format string, args ...any) {
	if !r.soft {
		r.fail(format, args...)
	} else if !r.broken {
		r.note("", format, args...)
	}
}

// note records one wrong thing.
func (r *reader) note(location, format string, args ...any) {
	if len(r.problems) < 20 {
		r.problems = append(r.problems, usher.Problem{Location: location, Message: fmt.Sprintf(format, args...)})
	}
}

// fail ends the reading.
func (r *reader) fail(format string, args ...any) {
	if r.broken {
		return
	}
	r.broken = true
	line, column := 1, 1
	for _, c := range r.b[:min(r.i, len(r.b))] {
		if column++; c == '\n' {
			line, column = line+1, 1
		}
	}
	r.problems = []usher.Problem{{Location: "body", Message: fmt.Sprintf("is not the JSON that it should be: line %d column %d: ", line, column) + fmt.Sprintf(format, args...)}}
}

// err is what was wrong, or nil. It is asked once, at the end.
func (r *reader) err() error {
	if !r.broken {
		r.space()
		if r.i < len(r.b) {
			r.fail("there is more after the end of the value")
		}
	}
	if len(r.problems) == 0 {
		return nil
	}
	return invalids(r.problems)
}

func (r *reader) space() {
	for r.i < len(r.b) {
		switch r.b[r.i] {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return
		}
	}
}

// peek is the first byte of the next value; 0 at the end.
func (r *reader) peek() byte {
	r.space()
	if r.i < len(r.b) {
		return r.b[r.i]
	}
	return 0
}

func (r *reader) expect(c byte) bool {
	if r.peek() == c && !r.broken {
		r.i++
		return true
	}
	r.unexpected("`" + string(rune(c)) + "`")
	return false
}

func (r *reader) unexpected(want string) {
	switch {
	case r.i >= len(r.b) && len(r.b) == 0:
		r.fail("it is empty, expected %s", want)
	case r.i >= len(r.b):
		r.fail("it ends where %s is expected", want)
	default:
		c, _ := utf8.DecodeRune(r.b[r.i:])
		r.fail("got %q where %s is expected", c, want)
	}
}

// kind names the next value for a message.
func (r *reader) kind() string {
	switch c := r.peek(); {
	case c == '{':
		return "an object"
	case c == '[':
		return "an array"
	case c == '"':
		return "a string"
	case c == 't' || c == 'f':
		return "a boolean"
	case c == 'n':
		return "null"
	}
	return "a number"
}

func (r *reader) enter() bool {
	r.depth++
	if r.depth > 1000 {
		r.fail("it nests deeper than %d levels", maxDepth)
	} else if r.depth == maxDepth+1 {
		r.loose("it nests deeper than %d levels", maxDepth)
	}
	return !r.broken
}

// object reads an object, calling member at each value with its name, which is
// valid until the next string is read. It reports whether there was an object.
func (r *reader) object(location string, member func(name []byte)) bool {
	if r.peek() != '{' {
		r.wrong(location, "an object")
		return false
	}
	if !r.enter() {
		return false
	}
	r.i++
	var few [16]span
	seen := few[:0]
	var many map[string]bool
	if r.peek() == '}' {
		r.i++
		r.depth--
		return true
	}
	for !r.broken {
		if r.peek() != '"' {
			r.unexpected("a name in quotes")
			return false
		}
		from := r.i
		name := r.text()
		if r.broken {
			return false
		}
		if string(r.b[from+1:r.i-1]) != string(name) {
			name = append([]byte(nil), name...) // in scratch, which its value may use
			if many == nil {
				many = r.names(seen)
			}
		}
		switch {
		case many != nil:
			if many[string(name)] {
				r.loose("the name %q occurs twice in one object", name)
			}
			many[string(name)] = true
		case len(seen) == cap(seen):
			many = r.names(seen)
			if many[string(name)] {
				r.loose("the name %q occurs twice in one object", name)
			}
			many[string(name)] = true
		default:
			for _, s := range seen {
				if string(r.b[s.from:s.to]) == string(name) {
					r.loose("the name %q occurs twice in one object", name)
				}
			}
			seen = append(seen, span{from + 1, r.i - 1})
		}
		if !r.expect(':') || r.broken {
			return false
		}
		member(name)
		if r.broken {
			return false
		}
		switch r.peek() {
		case ',':
			r.i++
			continue
		case '}':
			r.i++
			r.depth--
			return true
		}
		r.unexpected("`,` or `}`")
	}
	return false
}

type span struct{ from, to int }

func (r *reader) names(seen []span) map[string]bool {
	m := make(map[string]bool, 32)
	for _, s := range seen {
		m[string(r.b[s.from:s.to])] = true
	}
	return m
}

// array reads an array, calling item at each value.
func (r *reader) array(location string, item func(i int)) bool {
	if r.peek() != '[' {
		r.wrong(location, "an array")
		return false
	}
	if !r.enter() {
		return false
	}
	r.i++
	if r.peek() == ']' {
		r.i++
		r.depth--
		return true
	}
	for i := 0; !r.broken; i++ {
		item(i)
		if r.broken {
			return false
		}
		switch r.peek() {
		case ',':
			r.i++
			continue
		case ']':
			r.i++
			r.depth--
			return true
		}
		r.unexpected("`,` or `]`")
	}
	return false
}

// wrong notes a value of the wrong type and reads over it.
func (r *reader) wrong(location, want string) {
	if r.peek() == 0 {
		r.unexpected(want)
		return
	}
	got := r.kind()
	r.skip()
	if !r.broken {
		r.note(location, "must be %s, got %s", want, got)
	}
}

// string reads a string value.
func (r *reader) string(location string) string {
	if r.peek() != '"' {
		r.wrong(location, "a string")
		return ""
	}
	return string(r.text())
}

// number reads a quantity: a number or a string that holds one, kept as text.
func (r *reader) number(location string) usher.Number {
	c := r.peek()
	if c != '"' && c != '-' && (c < '0' || c > '9') {
		r.wrong(location, `a number such as 10 or "1.5"`)
		return ""
	}
	var text []byte
	if c == '"' {
		text = r.text()
	} else {
		text = r.digits()
	}
	if r.broken {
		return ""
	}
	// The form is checked here, so that it is refused also where the feature is
	// unknown or counts nothing; the feature's precision comes later.
	whole, _, _ := strings.Cut(string(text), ".")
	if !plain(text) {
		whole = string(text)
	}
	if _, err := usher.ParseQuantity(whole, 0); err != nil {
		r.note(location, "%s", err.Error())
		return ""
	}
	return usher.Number(text)
}

// plain reports whether text is a plain decimal number, of any size.
func plain(text []byte) bool {
	whole, frac, point := strings.Cut(string(text), ".")
	return whole != "" && len(text) <= 64 && (!point || frac != "") && strings.Trim(whole, "0123456789") == "" && strings.Trim(frac, "0123456789") == ""
}

// whole reads a whole number from 0 to the largest int64.
func (r *reader) whole(location string) int64 {
	if c := r.peek(); c != '-' && (c < '0' || c > '9') {
		r.wrong(location, "a whole number")
		return 0
	}
	text := string(r.digits())
	n, err := strconv.ParseInt(text, 10, 64)
	if !r.broken && (err != nil || n < 0) {
		r.note(location, "must be a whole number from 0 to 9223372036854775807, got %s", clip(text))
		return 0
	}
	return n
}

// skip reads over one value of any type.
func (r *reader) skip() {
	switch c := r.peek(); {
	case c == '{':
		r.object("", func([]byte) { r.skip() })
	case c == '[':
		r.array("", func(int) { r.skip() })
	case c == '"':
		r.text()
	case c == 't':
		r.word("true")
	case c == 'f':
		r.word("false")
	case c == 'n':
		r.word("null")
	case c == '-' || '0' <= c && c <= '9':
		r.digits()
	default:
		r.unexpected("a value")
	}
}

func (r *reader) word(w string) {
	if len(r.b)-r.i < len(w) || string(r.b[r.i:r.i+len(w)]) != w {
		r.fail("expected %s", w)
		return
	}
	r.i += len(w)
}

// digits reads a number of JSON's form and returns its text.
func (r *reader) digits() []byte {
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
	if n := run(); n == 0 || n > 1 && r.b[lead] == '0' {
		r.i = lead
		r.fail("a number is a digit, or begins with one from 1 to 9")
		return nil
	}
	if r.i < len(r.b) && r.b[r.i] == '.' {
		r.i++
		if run() == 0 {
			r.fail("a digit must follow the point")
			return nil
		}
	}
	if r.i < len(r.b) && (r.b[r.i] == 'e' || r.b[r.i] == 'E') {
		r.i++
		if r.i < len(r.b) && (r.b[r.i] == '+' || r.b[r.i] == '-') {
			r.i++
		}
		if run() == 0 {
			r.fail("a digit must follow the exponent")
			return nil
		}
	}
	return r.b[from:r.i]
}

// text reads a string. The bytes are valid until the next string with escapes.
func (r *reader) text() []byte {
	r.i++ // the quote
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
			r.fail("a control character must be written as \\u%04x", c)
			return nil
		case c >= utf8.RuneSelf:
			ascii = false
		}
		r.i++
	}
	r.fail("a string does not end")
	return nil
}

// escaped reads on from the first escape of a string.
func (r *reader) escaped(from int) []byte {
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
			r.fail("a control character must be written as \\u%04x", c)
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
				r.loose("a string holds \\u0000")
			}
			if r.broken {
				return nil
			}
			s = utf8.AppendRune(s, u)
		default:
			r.i--
			r.fail("\\%c is no escape", c)
			return nil
		}
	}
	r.fail("a string does not end")
	return nil
}

func (r *reader) hex4() rune {
	if r.i+4 > len(r.b) {
		r.fail("\\u is followed by four hexadecimal digits")
		return utf8.RuneError
	}
	n, err := strconv.ParseUint(string(r.b[r.i:r.i+4]), 16, 16)
	if err != nil {
		r.fail("\\u is followed by four hexadecimal digits")
		return utf8.RuneError
	}
	r.i += 4
	return rune(n)
}

// checkJSON returns an Invalid error unless b is one JSON value that reader reads.
func checkJSON(b []byte) error {
	r := reader{b: b}
	r.skip()
	return r.err()
}

func clip(s string) string {
	if len(s) > 40 {
		return strconv.Quote(s[:40]) + "…"
	}
	return strconv.Quote(s)
}
