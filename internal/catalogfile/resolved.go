package catalogfile

import (
	"encoding/json"
	"maps"

	"github.com/usher-sh/usher"
)

// ResolvedJSON writes a catalogue as JSON in the form of a file, in which each plan
// lists all that it gives: what it extends and leaves out is applied. c must be valid,
// as Parse returns it.
func ResolvedJSON(c *usher.Catalog) ([]byte, error) {
	flat := *c
	flat.Plans = maps.Clone(c.Plans)
	for key := range flat.Plans {
		flat.Plans[key] = Resolve(c, key)
	}
	r := &reader{name: "catalogue"}
	root := r.read(Format(&flat))
	if root == nil {
		return nil, r.err()
	}
	return root.appendJSON(nil), nil
}

// appendJSON appends a value as JSON. Numbers stay the text that they are.
func (n *node) appendJSON(b []byte) []byte {
	text := func(s string) {
		quoted, _ := json.Marshal(s) // a string always has a form
		b = append(b, quoted...)
	}
	switch n.class() {
	case isMap:
		b = append(b, '{')
		for i, key := range n.keys {
			if i > 0 {
				b = append(b, ',')
			}
			text(key.text)
			b = n.items[i].appendJSON(append(b, ':'))
		}
		return append(b, '}')
	case isList:
		b = append(b, '[')
		for i := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = n.items[i].appendJSON(b)
		}
		return append(b, ']')
	case isNothing:
		return append(b, "null"...)
	case isBool, isNumber:
		return append(b, n.text...)
	}
	text(n.text)
	return b
}
