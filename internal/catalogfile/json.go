package catalogfile

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// jsonReader makes nodes of JSON as RFC 8259 has it, with line and column,
// which encoding/json does not tell.
type jsonReader struct {
	*reader
	src          []byte
	at           int
	line, column int
	failed       bool // a syntax error was noted: stop
}

// readJSON makes nodes of JSON, or notes the problems and is nil.
func (r *reader) readJSON(src []byte) *node {
	j := &jsonReader{reader: r, src: src, line: 1, column: 1}
	root := &node{}
	if r.name == "" {
		root.name = rootName
	}
	j.value(root, 1)
	if !j.failed {
		if j.space(); j.at < len(j.src) {
			j.fail("nothing may follow the value")
		}
	}
	if len(r.problems) > 0 {
		return nil
	}
	return root
}

func (j *jsonReader) fail(format string, args ...any) {
	if !j.failed {
		j.failed = true
		j.badAt(j.line, j.column, fmt.Sprintf(format, args...))
	}
}

// skip moves over n bytes.
func (j *jsonReader) skip(n int) {
	for end := j.at + n; j.at < end; {
		if j.src[j.at] == '\n' {
			j.line, j.column = j.line+1, 1
			j.at++
			continue
		}
		_, size := utf8.DecodeRune(j.src[j.at:])
		j.at += size
		j.column++
	}
}

func (j *jsonReader) space() {
	for j.at < len(j.src) {
		switch j.src[j.at] {
		case ' ', '\t', '\r', '\n':
			j.skip(1)
		default:
			return
		}
	}
}

// peek is the next byte after space; 0 at the end.
func (j *jsonReader) peek() byte {
	if j.space(); j.at < len(j.src) {
		return j.src[j.at]
	}
	return 0
}

// found says what is next, for a message.
func (j *jsonReader) found() string {
	if j.at >= len(j.src) {
		return "the end"
	}
	c, _ := utf8.DecodeRune(j.src[j.at:])
	return fmt.Sprintf("%q", string(c))
}

// count reports whether one more node may be read.
func (j *jsonReader) count() bool {
	if j.nodes++; j.nodes <= MaxNodes {
		return true
	}
	if !j.failed {
		j.failed = true
		j.tooMany()
	}
	return false
}

// value reads one value into n, whose place in its parent is set.
func (j *jsonReader) value(n *node, depth int) {
	c := j.peek()
	n.line, n.column = j.line, j.column
	if !j.count() {
		return
	}
	if depth > MaxDepth {
		j.fail("nests deeper than %d levels", MaxDepth)
		return
	}
	switch {
	case c == '{':
		j.object(n, depth)
	case c == '[':
		j.array(n, depth)
	case c == '"':
		n.text, _ = j.text()
	default:
		n.plain = true
		n.text = j.word()
	}
}

func (j *jsonReader) object(n *node, depth int) {
	n.kind = mapNode
	seen := map[string]*node{}
	j.skip(1)
	if j.peek() == '}' {
		j.skip(1)
		return
	}
	for !j.failed {
		if c := j.peek(); c == '}' {
			j.fail(`no "," may stand before the closing "}"`)
			return
		} else if c == '/' || c == '#' {
			j.fail("JSON has no comments")
			return
		} else if c != '"' {
			j.fail(`a key in double quotes was expected, got %s`, j.found())
			return
		}
		key := &node{line: j.line, column: j.column, up: n}
		var ok bool
		if key.text, ok = j.text(); !ok || !j.count() {
			return
		}
		if j.peek() != ':' {
			j.fail(`a ":" was expected after key %s, got %s`, quote(key.text), j.found())
			return
		}
		j.skip(1)
		j.once(seen, key)
		item := &node{up: n, name: key.text}
		n.keys, n.items = append(n.keys, key), append(n.items, item)
		if j.value(item, depth+1); j.failed {
			return
		}
		switch j.peek() {
		case ',':
			j.skip(1)
		case '}':
			j.skip(1)
			return
		default:
			j.fail(`a "," or "}" was expected, got %s`, j.found())
		}
	}
}

func (j *jsonReader) array(n *node, depth int) {
	n.kind = listNode
	j.skip(1)
	if j.peek() == ']' {
		j.skip(1)
		return
	}
	for !j.failed {
		if j.peek() == ']' {
			j.fail(`no "," may stand before the closing "]"`)
			return
		}
		item := &node{up: n, name: index(len(n.items))}
		n.items = append(n.items, item)
		if j.value(item, depth+1); j.failed {
			return
		}
		switch j.peek() {
		case ',':
			j.skip(1)
		case ']':
			j.skip(1)
			return
		default:
			j.fail(`a "," or "]" was expected, got %s`, j.found())
		}
	}
}

// text reads a string.
func (j *jsonReader) text() (string, bool) {
	for i := j.at + 1; i < len(j.src); i++ {
		switch c := j.src[i]; {
		case c == '\\':
			i++
		case c == '"':
			var s string
			if err := json.Unmarshal(j.src[j.at:i+1], &s); err != nil {
				j.fail("a string with an unknown escape: \\ begins one, write \\\\ for a backslash")
				return "", false
			}
			j.skip(i + 1 - j.at)
			return s, true
		case c < 0x20:
			j.fail("a string must end on its line: a closing quote is missing")
			return "", false
		}
	}
	j.fail("a closing quote is missing")
	return "", false
}

// word reads a number, true, false or null.
func (j *jsonReader) word() string {
	i := j.at
	for i < len(j.src) {
		c := j.src[i]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '+' || c == '.' || c == '_' {
			i++
			continue
		}
		break
	}
	word := j.src[j.at:i]
	if len(word) == 0 || !json.Valid(word) {
		switch {
		case len(word) == 0:
			j.fail("a value was expected, got %s", j.found())
		case word[0] >= '0' && word[0] <= '9' || word[0] == '-' || word[0] == '+' || word[0] == '.':
			j.fail("%s is not a JSON number: write a plain decimal number", quote(string(word)))
		default:
			j.fail("%s is not JSON: text must be in double quotes", quote(string(word)))
		}
		return ""
	}
	j.skip(len(word))
	return string(word)
}
