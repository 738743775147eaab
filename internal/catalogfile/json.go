package catalogfile

import (
	"bytes"
	"unicode/utf8"

	"github.com/usher-sh/usher/internal/strictjson"
)

// jsonReader builds nodes from JSON. Nodes have a line and a column, so it counts
// both as it reads on.
type jsonReader struct {
	*reader
	in           strictjson.Reader
	src          []byte
	at           int // the byte at line and column
	line, column int
	full         bool // there are too many nodes: stop
}

// readJSON returns the nodes of a JSON text. It returns nil, and notes the
// problems, unless the text is strict JSON.
func (r *reader) readJSON(src []byte) *node {
	j := &jsonReader{reader: r, src: src, line: 1, column: 1}
	j.in.Reset(src)
	j.in.Soft = true
	root := &node{}
	if r.name == "" {
		root.name = rootName
	}
	j.value(root, 1)
	j.in.End()
	if e := j.in.Syntax; e != nil && !j.full {
		r.badAt(e.Line, e.Column, e.Message)
	}
	if len(r.problems) > 0 {
		return nil
	}
	return root
}

// place sets the line and the column of n to byte i of the source.
func (j *jsonReader) place(n *node, i int) {
	skipped := j.src[j.at:i]
	if lines := bytes.Count(skipped, []byte("\n")); lines > 0 {
		j.line, j.column = j.line+lines, 1
		skipped = skipped[bytes.LastIndexByte(skipped, '\n')+1:]
	}
	j.at, j.column = i, j.column+utf8.RuneCount(skipped)
	n.line, n.column = j.line, j.column
}

// take moves the problems that strictjson found in the text of n to n.
func (j *jsonReader) take(n *node) {
	if j.in.Broken() {
		return
	}
	for _, p := range j.in.Problems {
		j.bad(n, "%s", p.Message)
	}
	j.in.Problems = j.in.Problems[:0]
}

// count reports whether one more node may be read.
func (j *jsonReader) count() bool {
	if j.nodes++; j.nodes <= MaxNodes {
		return true
	}
	if !j.full {
		j.full = true
		j.tooMany()
		j.in.Fail("too many values")
	}
	return false
}

// value reads one value into n, whose place in its parent is set.
func (j *jsonReader) value(n *node, depth int) {
	c := j.in.Peek()
	j.place(n, j.in.Offset())
	if !j.count() {
		return
	}
	if depth > MaxDepth {
		j.in.Fail("nested deeper than %d levels", MaxDepth)
		return
	}
	switch c {
	case '{':
		n.kind = mapNode
		j.in.Object("", func(name []byte) {
			item := &node{up: n, name: string(name)}
			key := &node{up: n, text: item.name}
			j.place(key, j.in.NameOffset())
			j.take(key)
			if j.count() {
				n.keys, n.items = append(n.keys, key), append(n.items, item)
				j.value(item, depth+1)
			}
		})
	case '[':
		n.kind = listNode
		j.in.Array("", func(i int) {
			item := &node{up: n, name: index(i)}
			n.items = append(n.items, item)
			j.value(item, depth+1)
		})
	case '"':
		n.text = string(j.in.Text())
		j.take(n)
	default:
		n.plain = true
		n.text = string(j.in.Raw())
	}
}
