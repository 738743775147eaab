package catalogfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// maxMarks bounds the characters that can start a node of a YAML file, so that a
// hostile file is refused before the library builds a tree of millions of nodes.
const maxMarks = 3 * MaxNodes

// read returns the nodes of a YAML or JSON text, or adds problems and returns nil.
func (r *reader) read(src []byte) *node {
	if len(src) > MaxSize {
		r.badAt(0, 0, fmt.Sprintf("a catalogue may have at most %d bytes (4 MiB), this one has %d", MaxSize, len(src)))
		return nil
	}
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	if !r.readable(src) {
		return nil
	}
	if trimmed := bytes.TrimLeft(src, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' {
		return r.readJSONish(src, trimmed)
	}
	return r.readYAML(src)
}

// readJSONish reads what begins with a brace: JSON, or else a YAML flow map.
func (r *reader) readJSONish(src, trimmed []byte) *node {
	asJSON := &reader{name: r.name}
	root := asJSON.readJSON(src)
	if root != nil {
		r.nodes = asJSON.nodes
		return root
	}
	asYAML := &reader{name: r.name}
	if root := asYAML.readYAML(src); root != nil {
		return root
	}
	// Both failed. A first key in quotes means that the writer meant JSON.
	rest := bytes.TrimLeft(trimmed[1:], " \t\r\n")
	if len(rest) == 0 || rest[0] == '"' || asJSON.nodes > MaxNodes {
		r.problems, r.more = asJSON.problems, asJSON.more
	} else {
		r.problems, r.more = asYAML.problems, asYAML.more
	}
	return nil
}

// readable adds a problem and returns false if src holds bytes that a text file
// cannot hold.
func (r *reader) readable(src []byte) bool {
	line, column := 1, 1
	for i := 0; i < len(src); {
		c, size := utf8.DecodeRune(src[i:])
		switch {
		case c == utf8.RuneError && size == 1:
			r.badAt(line, column, fmt.Sprintf("byte 0x%02X is not UTF-8: save the file as UTF-8", src[i]))
			return false
		case c == '\n':
			line, column = line+1, 0
		case c < 0x20 && c != '\t' && c != '\r' || c == 0x7f:
			r.badAt(line, column, fmt.Sprintf("control character U+%04X is not allowed in a catalogue", c))
			return false
		}
		column++
		i += size
	}
	return true
}

func (r *reader) readYAML(src []byte) *node {
	marks := 0
	for _, c := range src {
		switch c {
		case '\n', ',', ':', '-', '?', '[', '{':
			marks++
		}
	}
	if marks > maxMarks {
		r.badAt(0, 0, fmt.Sprintf("a catalogue may hold at most %d keys and values, and %d separators (lines, commas, colons, dashes, "+
			"brackets): this file has %d separators", MaxNodes, maxMarks, marks))
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(src), yaml.WithV4Defaults(),
		yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(MaxDepth))))
	if err != nil {
		r.badAt(0, 0, err.Error())
		return nil
	}
	var doc yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		r.badAt(0, 0, `the file is empty: a catalogue begins with "usher: 1"`)
		return nil
	case err != nil:
		r.syntax(err, src)
		return nil
	}
	var second yaml.Node
	if err := loader.Load(&second); err == nil {
		line, column := 0, 0
		if second.Line > 0 {
			line, column = second.Line, second.Column
		}
		r.badAt(line, column, "the file holds more than one document: a catalogue is one document, remove this ---")
		return nil
	} else if !errors.Is(err, io.EOF) {
		r.syntax(err, src)
		return nil
	}
	if len(doc.Content) != 1 {
		r.badAt(0, 0, `the file is empty: a catalogue begins with "usher: 1"`)
		return nil
	}
	root := r.fromYAML(doc.Content[0], nil, "", 1)
	if len(r.problems) > 0 {
		return nil
	}
	return root
}

// fromYAML returns the node of y under up. It adds a problem for each thing that
// the format does not support: aliases, tags, keys that are not text, keys that
// occur twice.
func (r *reader) fromYAML(y *yaml.Node, up *node, name string, depth int) *node {
	n := &node{line: y.Line, column: y.Column, up: up, name: name}
	if r.nodes++; r.nodes > MaxNodes {
		if r.nodes == MaxNodes+1 {
			r.tooMany()
		}
		return n
	}
	if depth > MaxDepth {
		r.bad(n, "nested deeper than %d levels", MaxDepth)
		return n
	}
	if y.Style&yaml.TaggedStyle != 0 {
		r.bad(n, "tags such as %s are not supported: write the value alone, text that looks like a number in quotes", clip(y.Tag))
		return n
	}
	switch y.Kind {
	case yaml.ScalarNode:
		n.text = y.Value
		n.plain = y.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	case yaml.AliasNode:
		r.bad(n, "aliases such as *%s are not supported: write the value out (plans share entitlements with extends)", clip(y.Value))
	case yaml.SequenceNode:
		n.kind = listNode
		for i, item := range y.Content {
			n.items = append(n.items, r.fromYAML(item, n, index(i), depth+1))
		}
	case yaml.MappingNode:
		n.kind = mapNode
		seen := make(map[string]*node, len(y.Content)/2)
		for i := 0; i+1 < len(y.Content); i += 2 {
			k := y.Content[i]
			key := &node{text: k.Value, plain: k.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0, line: k.Line, column: k.Column, up: n}
			r.nodes++
			switch {
			case k.Kind == yaml.AliasNode:
				r.bad(key, "aliases such as *%s are not supported: write the key out", clip(k.Value))
			case k.Kind != yaml.ScalarNode:
				r.bad(key, "a key must be text, not a map or a list")
			case k.Style&yaml.TaggedStyle != 0:
				r.bad(key, "tags such as %s are not supported: write the key alone", clip(k.Tag))
			case k.Value == "<<" && key.plain:
				r.bad(key, "merge keys (<<) are not supported: write the fields out (plans share entitlements with extends)")
				continue
			case key.class() == isNothing:
				r.bad(key, "a key must be text, got nothing")
			case key.class() != isText:
				r.bad(key, `a key must be text: write "%s" in quotes`, clip(k.Value))
			default:
				r.once(seen, key)
			}
			n.keys = append(n.keys, key)
			n.items = append(n.items, r.fromYAML(y.Content[i+1], n, k.Value, depth+1))
		}
	}
	return n
}

// once adds a problem if a map has the key already.
func (r *reader) once(seen map[string]*node, key *node) {
	if first := seen[key.text]; first == nil {
		seen[key.text] = key
	} else if r.name == "" {
		r.bad(key, "key %s occurs twice", quote(key.text))
	} else {
		r.bad(key, "key %s occurs twice, first on line %d", quote(key.text), first.line)
	}
}

func (r *reader) tooMany() {
	r.badAt(0, 0, fmt.Sprintf("a catalogue may hold at most %d keys and values, this one holds more", MaxNodes))
}

// syntax adds an error of the YAML library, reworded to say what to do.
func (r *reader) syntax(err error, src []byte) {
	var e *yaml.LoadError
	if !errors.As(err, &e) {
		r.badAt(0, 0, strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	message := e.Message
	if c := charAt(src, e.Mark.Line, e.Mark.Column); strings.Contains(message, "cannot start any token") && c != 0 {
		message = fmt.Sprintf("%q cannot begin a value: put the text in quotes", string(c))
		if c == '\t' {
			message = "a tab cannot indent: use spaces"
		}
	}
	for _, h := range syntaxHelp {
		if strings.Contains(message, h.found) {
			message = h.say
			break
		}
	}
	if e.ContextMark.Line > 0 && e.ContextMark.Line != e.Mark.Line {
		message += " (it belongs to what begins on line " + strconv.Itoa(e.ContextMark.Line) + ")"
	}
	r.badAt(e.Mark.Line, max(e.Mark.Column, 1), message)
}

// charAt returns the character at a line and column from 1, or 0 if there is none.
func charAt(src []byte, line, column int) rune {
	for ; line > 1; line-- {
		i := bytes.IndexByte(src, '\n')
		if i < 0 {
			return 0
		}
		src = src[i+1:]
	}
	for _, c := range string(src[:min(len(src), 4*column)]) {
		if column--; column == 0 {
			return c
		}
	}
	return 0
}

var syntaxHelp = []struct{ found, say string }{
	{"exceeded max depth", "nested deeper than " + strconv.Itoa(MaxDepth) + " levels"},
	{"mapping values are not allowed", `unexpected ":": check the indentation, or put text that holds ": " in quotes`},
	{"found a tab character", "a tab cannot indent: use spaces"},
	{"could not find expected ':'", `a ":" is missing after the key`},
	{"did not find expected key", "expected a key: check the indentation, and that quotes and brackets are closed"},
	{"did not find expected '-' indicator", `expected a "- ": check the indentation of the list`},
	{"did not find expected ',' or '}'", "expected `,` or `}`"},
	{"did not find expected ',' or ']'", "expected `,` or `]`"},
	{"did not find expected node content", "expected a value"},
	{"found unexpected end of stream", "the file ends inside quotes: a closing quote is missing"},
	{"block sequence entries are not allowed", `unexpected "- ": begin the list on its own line`},
	{"found unknown escape character", `unknown escape: in double quotes \ begins one; write \\ for a backslash, or use single quotes`},
	{"did not find expected <document start>", "the document has ended before this line: check the indentation"},
	{"found incompatible YAML document", "%YAML lines are not supported: remove this one"},
	{"unknown anchor", "aliases such as *name are not supported: write the value out, or put text that begins with * in quotes"},
	{"did not find expected alphabetic or numeric character", "put text that begins with * or & in quotes"},
}
