package scim

import "strings"

// Projection is which attributes an answer has (RFC 7644, 3.9). The zero
// Projection keeps all attributes.
type Projection struct {
	only, but []attrPath
	limited   bool // only was given
}

// ParseProjection reads the lists of names, separated by commas, that attributes
// and excludedAttributes have.
func ParseProjection(t *Type, attributes, excluded string) (p Projection, err error) {
	read := func(list string) (paths []attrPath, err error) {
		if len(list) > MaxFilter {
			return nil, errorf(InvalidValue, "attributes and excludedAttributes must be at most %d bytes", MaxFilter)
		}
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			a, err := (&parser{lexer: lexer{kind: InvalidValue}, t: t}).name(name, nil)
			if err != nil {
				return nil, err
			}
			paths = append(paths, a)
		}
		return paths, nil
	}
	if p.only, err = read(attributes); err == nil {
		p.but, err = read(excluded)
	}
	p.limited = len(p.only) > 0
	return p, err
}

// always reports whether every answer has the attribute.
func always(name string) bool { return name == "schemas" || name == "id" }

// Has reports whether an answer has an attribute, or a part of it.
func (p Projection) Has(name string) bool {
	if always(name) {
		return true
	}
	for _, a := range p.but {
		if a.urn == "" && a.sub == "" && a.name == name {
			return false
		}
	}
	if !p.limited {
		return true
	}
	for _, a := range p.only {
		if a.urn == "" && a.name == name {
			return true
		}
	}
	return false
}

// Of returns a resource with the requested attributes. It shares what it
// does not change.
func (p Projection) Of(doc Document) Document {
	if !p.limited && len(p.but) == 0 {
		return doc
	}
	out := Document{}
	for name, v := range doc {
		if !p.limited || always(name) {
			out[name] = v
		}
	}
	for _, a := range p.only {
		home, from := out, doc
		if a.urn != "" {
			key := keyOf(doc, a.urn)
			inner, ok := doc[key].(Document)
			if !ok {
				continue
			}
			if a.name == "" {
				out[key] = inner
				continue
			}
			made, ok := out[key].(Document)
			if !ok {
				made = Document{}
				out[key] = made
			}
			home, from = made, inner
		}
		key := keyOf(from, a.name)
		v, ok := from[key]
		if !ok {
			continue
		}
		if a.sub != "" {
			v = merge(home[key], v, a.sub)
		}
		home[key] = v
	}
	for _, a := range p.but {
		if a.urn == "" && always(a.name) {
			continue
		}
		home := out
		if a.urn != "" {
			key := keyOf(out, a.urn)
			inner, ok := out[key].(Document)
			if !ok {
				continue
			}
			if a.name == "" {
				delete(out, key)
				continue
			}
			copied := Document{}
			for name, v := range inner {
				copied[name] = v
			}
			out[key], home = copied, copied
		}
		key := keyOf(home, a.name)
		if a.sub == "" {
			delete(home, key)
		} else if v, ok := home[key]; ok {
			home[key] = less(v, a.sub)
		}
	}
	return out
}

// merge adds a part of whole to what is there of it already.
func merge(there, whole any, sub string) any {
	switch whole := whole.(type) {
	case Document:
		out, ok := there.(Document)
		if !ok {
			out = Document{}
		}
		if key := keyOf(whole, sub); whole[key] != nil {
			out[key] = whole[key]
		}
		return out
	case []any:
		before, ok := there.([]any)
		out := make([]any, len(whole))
		for i, v := range whole {
			var old any
			if ok {
				old = before[i]
			}
			out[i] = merge(old, v, sub)
		}
		return out
	}
	return whole
}

// less returns v without one attribute.
func less(v any, sub string) any {
	switch v := v.(type) {
	case Document:
		out := Document{}
		for name, part := range v {
			if !strings.EqualFold(name, sub) {
				out[name] = part
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = less(v[i], sub)
		}
		return out
	}
	return v
}
