// Package strictjson reads JSON strictly, in one pass and without building a
// tree. It refuses what two programs may read in two ways: names that occur
// twice in one object, text after the end, bytes that are not UTF-8, half
// surrogate pairs and NUL. It never makes a float of a number, and it does not
// read from a stream: the caller bounds the size of the bytes.
package strictjson

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/usher-sh/usher"
)

// The bounds of one text.
const (
	// MaxDepth is how deep arrays and objects may nest.
	MaxDepth = 32
	// MaxProblems is how many problems are noted; further ones are dropped.
	MaxProblems = 20

	hardDepth = 1000     // where reading ends in Soft mode too: the stack is finite
	keep      = 64 << 10 // bytes of memory that Reset keeps
)

// Reader reads one JSON text, value by value. It stops at the first thing that
// is not JSON: Syntax is set then, and every method returns at once. What is
// JSON but not what was asked for is noted in Problems, and reading goes on, so
// that the caller learns of all problems at once. The zero Reader has nothing to
// read; call Reset first.
type Reader struct {
	// Soft notes what is JSON but not strict JSON (a name that occurs twice, half
	// a surrogate pair) in Problems, without a location, instead of ending the
	// reading. Use it where one bad value must not fail its neighbours.
	Soft bool
	// Problems are what was wrong so far, in reading order. If Syntax is set, it
	// is the only problem, without a location.
	Problems []usher.Problem
	// Syntax is where and why reading ended early, or nil.
	Syntax *SyntaxError

	b       []byte
	i       int
	name    int // where the last name of an object begins
	depth   int
	scratch []byte // the last string with escapes, unescaped
}

// SyntaxError says where a text is not strict JSON. Line and Column count from
// 1, Column in characters.
type SyntaxError struct {
	Line, Column int
	Message      string
}

// Error returns "invalid JSON at line 1, column 1: …".
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("invalid JSON at line %d, column %d: %s", e.Line, e.Column, e.Message)
}

// Reset makes r read b from its start, not Soft, and forgets everything else but
// a little memory. r keeps b until the next Reset.
func (r *Reader) Reset(b []byte) {
	scratch := r.scratch
	if cap(scratch) > keep {
		scratch = nil
	}
	*r = Reader{b: b, scratch: scratch}
}

// Broken reports whether the text turned out not to be JSON: nothing more is
// read of it.
func (r *Reader) Broken() bool { return r.Syntax != nil }

// Offset returns how many bytes have been read. After Peek it is where the next
// value begins.
func (r *Reader) Offset() int { return r.i }

// NameOffset returns the byte at which the name of the current member begins. Call
// it before the member's value is read.
func (r *Reader) NameOffset() int { return r.name }

// End checks that nothing follows the value that was read, and returns all
// problems. Call it once, at the end.
func (r *Reader) End() []usher.Problem {
	if r.Syntax == nil && (r.Peek() != 0 || r.i < len(r.b)) {
		r.Fail("expected nothing after the end of the value, got %s", r.found())
	}
	return r.Problems
}

// Note adds a problem, unless there are MaxProblems of them.
func (r *Reader) Note(location, format string, args ...any) {
	if len(r.Problems) < MaxProblems {
		r.Problems = append(r.Problems, usher.Problem{Location: location, Message: fmt.Sprintf(format, args...)})
	}
}

// Fail ends the reading at the current place. The first call counts.
func (r *Reader) Fail(format string, args ...any) {
	if r.Syntax != nil {
		return
	}
	line, column := position(r.b, r.i)
	r.Syntax = &SyntaxError{line, column, fmt.Sprintf(format, args...)}
	r.Problems = []usher.Problem{{Message: r.Syntax.Error()}}
}

// loose ends the reading, or in Soft mode adds a problem.
func (r *Reader) loose(format string, args ...any) {
	if !r.Soft {
		r.Fail(format, args...)
	} else if r.Syntax == nil {
		r.Note("", format, args...)
	}
}

// position returns the line and the column of byte i of b.
func position(b []byte, i int) (line, column int) {
	before := b[:min(i, len(b))]
	return 1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}

func (r *Reader) space() {
	for r.i < len(r.b) {
		switch r.b[r.i] {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return
		}
	}
}

// Peek returns the first byte of the next value, after any white space, and 0 at
// the end of the text.
func (r *Reader) Peek() byte {
	r.space()
	if r.i < len(r.b) {
		return r.b[r.i]
	}
	return 0
}

// unexpected ends the reading where something other than want stands.
func (r *Reader) unexpected(want string) {
	c := r.Peek()
	if c == '/' || c == '#' {
		r.Fail("JSON has no comments: remove this one")
		return
	}
	if isWord(c) && want[0] != '`' { // a value or a name
		r.Fail("expected %s, got %s: text must be in double quotes", want, r.found())
		return
	}
	r.Fail("expected %s, got %s", want, r.found())
}

func isWord(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' }

// found names what stands at the current place: a word, a character or the end.
func (r *Reader) found() string {
	if r.i >= len(r.b) {
		return "the end"
	}
	end := r.i
	for end < len(r.b) && end-r.i < 40 && (isWord(r.b[end]) || '0' <= r.b[end] && r.b[end] <= '9') {
		end++
	}
	if end == r.i {
		_, size := utf8.DecodeRune(r.b[r.i:])
		end += size
	}
	return fmt.Sprintf("`%s`", r.b[r.i:end])
}

// Kind names the type of the next value for a message: "an object".
func (r *Reader) Kind() string {
	switch c := r.Peek(); {
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

func (r *Reader) enter() bool {
	r.depth++
	if r.depth > hardDepth {
		r.Fail("nested deeper than %d levels", MaxDepth)
	} else if r.depth == MaxDepth+1 {
		r.loose("nested deeper than %d levels", MaxDepth)
	}
	return r.Syntax == nil
}

// next reads the comma before another element, or the closing byte, and reports
// whether another element follows.
func (r *Reader) next(closing byte, either string) bool {
	switch r.Peek() {
	case ',':
		comma := r.i
		r.i++
		if r.Peek() == closing {
			r.i = comma
			r.Fail("remove the `,` before the closing `%c`", closing)
			return false
		}
		return true
	case closing:
		r.i++
		r.depth--
		return false
	}
	r.unexpected(either)
	return false
}

// span is a name in the text, without its quotes.
type span struct{ from, to int }

// Object reads an object and calls member at each value with its name. member
// must read the value; name is valid until the next string is read. Object
// reports whether an object was read to its end; otherwise it notes what is
// wrong at location.
func (r *Reader) Object(location string, member func(name []byte)) bool {
	if r.Peek() != '{' {
		r.Wrong(location, "an object")
		return false
	}
	if !r.enter() {
		return false
	}
	r.i++
	if r.Peek() == '}' {
		r.i++
		r.depth--
		return true
	}
	// The names of small objects are compared one by one, as they stand in the
	// text. A map takes over once there are many names or one is escaped.
	var few [16]span
	seen := few[:0]
	var many map[string]int
	for more := true; more; {
		if r.Peek() != '"' {
			r.unexpected("a name in double quotes")
			return false
		}
		from := r.i
		r.name = from
		name := r.Text()
		if r.Syntax != nil {
			return false
		}
		if string(r.b[from+1:r.i-1]) != string(name) {
			name = append([]byte(nil), name...) // it is in scratch, which its value may use
			if many == nil {
				many = r.names(seen)
			}
		} else if many == nil && len(seen) == cap(seen) {
			many = r.names(seen)
		}
		if many != nil {
			if first, twice := many[string(name)]; twice {
				r.twice(name, first)
			} else {
				many[string(name)] = from
			}
		} else {
			for _, s := range seen {
				if string(r.b[s.from:s.to]) == string(name) {
					r.twice(name, s.from-1)
				}
			}
			seen = append(seen, span{from + 1, r.i - 1})
		}
		if r.Peek() != ':' {
			r.unexpected("`:`")
		}
		if r.Syntax != nil {
			return false
		}
		r.i++
		member(name)
		if r.Syntax != nil {
			return false
		}
		more = r.next('}', "`,` or `}`")
	}
	return r.Syntax == nil
}

// names returns the names that an object has had so far, and where each begins.
func (r *Reader) names(seen []span) map[string]int {
	m := make(map[string]int, 32)
	for _, s := range seen {
		m[string(r.b[s.from:s.to])] = s.from - 1
	}
	return m
}

func (r *Reader) twice(name []byte, first int) {
	line, column := position(r.b, first)
	r.loose("the name %q occurs twice in one object, first at line %d, column %d", name, line, column)
}

// Array reads an array and calls item at each value with its index from 0; item
// must read the value. Array reports whether an array was read to its end;
// otherwise it notes what is wrong at location.
func (r *Reader) Array(location string, item func(i int)) bool {
	if r.Peek() != '[' {
		r.Wrong(location, "an array")
		return false
	}
	if !r.enter() {
		return false
	}
	r.i++
	if r.Peek() == ']' {
		r.i++
		r.depth--
		return true
	}
	for i, more := 0, true; more; i++ {
		item(i)
		if r.Syntax != nil {
			return false
		}
		more = r.next(']', "`,` or `]`")
	}
	return r.Syntax == nil
}

// Wrong notes that the value at location is not what it must be, and reads over
// it.
func (r *Reader) Wrong(location, want string) {
	if r.Peek() == 0 {
		r.unexpected(want)
		return
	}
	got := r.Kind()
	r.Skip()
	if r.Syntax == nil {
		r.Note(location, "must be %s, got %s", want, got)
	}
}

// Unknown notes that the object at location has no field of this name, lists the
// fields that it has, and reads over the value.
func (r *Reader) Unknown(location string, name []byte, known string) {
	where := string(name)
	if len(where) > 64 {
		where = strings.ToValidUTF8(where[:64], "") + "…"
	}
	if location != "" {
		where = location + "." + where
	}
	if r.Skip(); r.Syntax == nil {
		r.Note(where, "unknown field; known fields: %s", known)
	}
}

// Skip reads over one value of any type.
func (r *Reader) Skip() {
	switch c := r.Peek(); {
	case c == '{':
		r.Object("", func([]byte) { r.Skip() })
	case c == '[':
		r.Array("", func(int) { r.Skip() })
	case c == '"':
		r.Text()
	case c == '-' || '0' <= c && c <= '9':
		r.Digits()
	case c == 't' && r.word("true"), c == 'f' && r.word("false"), c == 'n' && r.word("null"):
	default:
		r.unexpected("a value")
	}
}

// Null reads null and reports whether it was there.
func (r *Reader) Null() bool { return r.Peek() == 'n' && r.word("null") }

// word reads w, unless a longer word stands there.
func (r *Reader) word(w string) bool {
	end := r.i + len(w)
	if end > len(r.b) || string(r.b[r.i:end]) != w || end < len(r.b) && isWord(r.b[end]) {
		return false
	}
	r.i = end
	return true
}

// Raw reads over one value and returns its bytes as they stand in the text, or
// nil if they are not JSON.
func (r *Reader) Raw() []byte {
	r.Peek()
	from := r.i
	if r.Skip(); r.Syntax != nil {
		return nil
	}
	return r.b[from:r.i]
}
