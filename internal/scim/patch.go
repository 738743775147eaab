package scim

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Bounds of a PATCH.
const (
	MaxOperations = 2000
	maxSteps      = 20_000_000 // values of lists that all operations look at
)

// Operation is one step of a PATCH (RFC 7644, 3.5.2).
type Operation struct {
	op    string // add, remove, replace
	path  *path  // nil: the resource itself
	value any
	given bool // a value other than null
}

// path names what an operation changes: an attribute, those values of it that
// the filter is true of, or a part of either.
type path struct {
	attr   attrPath
	filter *Filter // in brackets; nil: none
	text   string
}

// ParsePatch reads the body of a PATCH on a type of resource. Names of
// operations may be in any case of letters.
func ParsePatch(t *Type, body Document) ([]Operation, error) {
	if schemas, ok := lookup(body, "schemas").([]any); ok && len(schemas) > 0 &&
		!slices.ContainsFunc(schemas, func(v any) bool { s, _ := v.(string); return strings.EqualFold(s, PatchURN) }) {
		return nil, errorf(InvalidSyntax, "schemas must name %s", PatchURN)
	}
	list, _ := lookup(body, "Operations").([]any)
	if len(list) == 0 {
		return nil, errorf(InvalidSyntax, "Operations must be a list of at least one operation")
	}
	if len(list) > MaxOperations {
		return nil, errorf(InvalidValue, "there are %d operations, at most %d are allowed: put many values in the list of one operation",
			len(list), MaxOperations)
	}
	ops := make([]Operation, 0, len(list))
	for i, v := range list {
		doc, ok := v.(Document)
		if !ok {
			return nil, errorf(InvalidSyntax, "operation %d must be an object", i+1)
		}
		name, _ := lookup(doc, "op").(string)
		o := Operation{op: strings.ToLower(name), value: lookup(doc, "value")}
		o.given = o.value != nil
		switch o.op {
		case "add", "remove", "replace":
		default:
			return nil, errorf(InvalidSyntax, "operation %d: op must be add, remove or replace", i+1)
		}
		switch text := lookup(doc, "path").(type) {
		case nil:
		case string:
			if text == "" {
				break
			}
			var err error
			if o.path, err = parsePath(t, text); err != nil {
				return nil, err
			}
		default:
			return nil, errorf(InvalidPath, "operation %d: path must be text", i+1)
		}
		ops = append(ops, o)
	}
	return ops, nil
}

// parsePath reads attr, attr.sub, attr[filter] and attr[filter].sub, of an
// extension where a schema's URN and a colon stand before.
func parsePath(t *Type, s string) (*path, error) {
	p, err := newParser(t, s, InvalidPath)
	if err == nil {
		var out *path
		if out, err = p.path(); err == nil {
			out.text = s
			return out, nil
		}
	}
	return nil, prefixed("the path "+Clip(s)+": ", err)
}

func (p *parser) path() (*path, error) {
	if p.tok.kind != 'w' {
		return nil, p.unexpected("an attribute")
	}
	attr, err := p.name(p.tok.text, nil)
	if err != nil {
		return nil, err
	}
	out := &path{attr: attr}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.tok.kind == '[' {
		if attr.sub != "" || attr.name == "" {
			return nil, p.unexpected("the end")
		}
		if out.filter, err = p.nested(']', &attr); err != nil {
			return nil, err
		}
		if p.tok.kind == 'w' && strings.HasPrefix(p.tok.text, ".") {
			sub, err := p.name(p.tok.text[1:], &attr)
			if err != nil {
				return nil, err
			}
			out.attr.sub, out.attr.subDef = sub.name, sub.def
			if err := p.advance(); err != nil {
				return nil, err
			}
		}
	}
	if p.tok.kind != 0 {
		return nil, p.unexpected("the end")
	}
	return out, nil
}

// Touches reports whether any operation may change an attribute.
func Touches(ops []Operation, name string) bool {
	for _, o := range ops {
		if o.path != nil {
			if o.path.attr.urn == "" && o.path.attr.name == name {
				return true
			}
			continue
		}
		doc, _ := o.value.(Document)
		for key := range doc {
			if len(key) >= len(name) && strings.EqualFold(key[:len(name)], name) || strings.Contains(key, ":") {
				return true
			}
		}
	}
	return false
}

// Patch applies operations, in order, to a normalized resource, which it
// changes. What the client may not change is refused where a path names it, and
// left as it is where it only stands in a value. The result is normalized.
func (t *Type) Patch(doc Document, ops []Operation) (Document, error) {
	w := &patcher{t: t}
	for _, o := range ops {
		if err := w.apply(doc, o); err != nil {
			return nil, err
		}
	}
	return t.Normalize(doc)
}

type patcher struct {
	t     *Type
	steps int
}

func (w *patcher) look(n int) error {
	if w.steps += n; w.steps > maxSteps {
		return errorf(InvalidValue, "the operations take too long: send fewer in one request, or put the values in one list")
	}
	return nil
}

func (w *patcher) apply(doc Document, o Operation) error {
	if o.path != nil {
		return w.at(doc, o, *o.path, true)
	}
	if o.op == "remove" {
		return errorf(NoTarget, "remove needs a path")
	}
	value, ok := o.value.(Document)
	if !ok {
		return errorf(InvalidValue, "an operation without a path needs an object as its value, got %s", kindOf(o.value))
	}
	for _, key := range slices.Sorted(maps.Keys(value)) {
		p, err := parsePath(w.t, key)
		if err != nil {
			return err
		}
		if err := w.at(doc, Operation{op: o.op, value: value[key], given: value[key] != nil}, *p, false); err != nil {
			return err
		}
	}
	return nil
}

// at applies o where p says. named: the client wrote the path, so what it may
// not change is an error.
func (w *patcher) at(doc Document, o Operation, p path, named bool) error {
	for _, a := range []*Attribute{p.attr.def, p.attr.subDef} {
		if a != nil && a.Mutability == "readOnly" {
			if named {
				return errorf(Mutability, "%s is read-only", p.text)
			}
			return nil
		}
	}
	if !o.given {
		if o.op == "add" {
			return errorf(InvalidValue, "add to %s needs a value", p.text)
		}
		o.op = "remove"
	}
	home := doc
	if p.attr.urn != "" {
		key := keyOf(doc, p.attr.urn)
		if p.attr.name == "" {
			return w.extension(doc, key, o, p)
		}
		inner, ok := doc[key].(Document)
		if !ok {
			if o.op == "remove" {
				return nil
			}
			inner = Document{}
			doc[key] = inner
		}
		defer func() {
			if len(inner) == 0 {
				delete(doc, key)
			}
		}()
		home = inner
	}
	key := keyOf(home, p.attr.name)
	switch {
	case p.filter != nil:
		return w.filtered(home, key, o, p)
	case p.attr.sub != "":
		return w.sub(home, key, o, p)
	}
	return w.whole(home, key, o, p)
}

// extension changes what is under a schema's URN as a whole.
func (w *patcher) extension(doc Document, key string, o Operation, p path) error {
	if o.op == "remove" {
		delete(doc, key)
		return nil
	}
	value, ok := o.value.(Document)
	if !ok {
		return errorf(InvalidValue, "%s needs an object, got %s", p.text, kindOf(o.value))
	}
	for _, name := range slices.Sorted(maps.Keys(value)) {
		inner, err := parsePath(w.t, p.attr.urn+":"+name)
		if err != nil {
			return err
		}
		if err := w.at(doc, Operation{op: o.op, value: value[name], given: value[name] != nil}, *inner, false); err != nil {
			return err
		}
	}
	return nil
}

// whole changes an attribute itself.
func (w *patcher) whole(home Document, key string, o Operation, p path) error {
	old := home[key]
	list, many := old.([]any)
	many = many || p.attr.def != nil && p.attr.def.MultiValued
	if o.op == "remove" {
		if !o.given || !many {
			delete(home, key)
			return nil
		}
		return w.without(home, key, list, o, p)
	}
	value, err := form(p.attr.def, p.text, o.value)
	if err != nil {
		return err
	}
	inner, nested := value.(Document)
	if before, ok := old.(Document); ok && nested { // parts that are not named stay
		for name, v := range inner {
			before[keyOf(before, name)] = v
		}
		if given, ok := o.value.(Document); ok {
			for name, v := range given {
				if v == nil {
					delete(before, keyOf(before, name))
				}
			}
		}
		return nil
	}
	if !many || o.op == "replace" {
		home[key] = value
		return nil
	}
	more, ok := value.([]any)
	if !ok {
		more = []any{value}
	}
	return w.add(home, key, list, more)
}

// identity returns what distinguishes the values of a list: their "value", or
// else everything in them.
func identity(v any) string {
	if doc, ok := v.(Document); ok {
		if value, ok := lookup(doc, "value").(string); ok {
			return "v" + value
		}
	}
	b, _ := json.Marshal(v) // of JSON: it cannot fail
	return string(b)
}

// add puts values at the end of a list; one that is there already takes the
// place of the old.
func (w *patcher) add(home Document, key string, list, more []any) error {
	if err := w.look(len(list) + len(more)); err != nil {
		return err
	}
	at := make(map[string]int, len(list)+len(more))
	for i, v := range list {
		at[identity(v)] = i
	}
	for _, v := range more {
		id := identity(v)
		i, there := at[id]
		if !there {
			i = len(list)
			at[id] = i
			list = append(list, v)
		} else {
			before, ok := list[i].(Document)
			now, ok2 := v.(Document)
			if ok && ok2 {
				for name, v := range now {
					before[keyOf(before, name)] = v
				}
			}
		}
		prime(list, i)
	}
	home[key] = list
	return nil
}

// prime sees to it that nothing but list[i], where that is primary, is primary.
func prime(list []any, i int) {
	if doc, ok := list[i].(Document); !ok || lookup(doc, "primary") != true {
		return
	}
	for j, v := range list {
		if doc, ok := v.(Document); ok && j != i && lookup(doc, "primary") == true {
			doc[keyOf(doc, "primary")] = false
		}
	}
}

// without takes the values of a list that o names out of it: Entra names members
// to remove so, where RFC 7644 has a filter in the path.
func (w *patcher) without(home Document, key string, list []any, o Operation, p path) error {
	gone := map[string]bool{}
	var wrong error
	each(o.value, func(v any) {
		switch v := v.(type) {
		case string:
			gone["v"+v] = true
		case Document:
			if _, ok := lookup(v, "value").(string); !ok {
				wrong = errorf(InvalidValue, `each value to remove from %s must be {"value": "…"}`, p.text)
			}
			gone[identity(v)] = true
		default:
			wrong = errorf(InvalidValue, "a value to remove from %s must be text or an object, got %s", p.text, kindOf(v))
		}
	})
	if wrong != nil {
		return wrong
	}
	if err := w.look(len(list)); err != nil {
		return err
	}
	set(home, key, slices.DeleteFunc(list, func(v any) bool {
		if text, ok := v.(string); ok {
			return gone["v"+text]
		}
		return gone[identity(v)]
	}))
	return nil
}

func set(home Document, key string, list []any) {
	if len(list) == 0 {
		delete(home, key)
		return
	}
	home[key] = list
}

// sub changes a part of an attribute: of each value, where it is a list.
func (w *patcher) sub(home Document, key string, o Operation, p path) error {
	value, err := form(p.attr.subDef, p.text, o.value)
	if err != nil {
		return err
	}
	many := p.attr.def != nil && p.attr.def.MultiValued
	switch old := home[key].(type) {
	case nil:
		if o.op == "remove" {
			return nil
		}
		made := Document{p.attr.sub: value}
		if home[key] = any(made); many {
			home[key] = []any{made}
		}
	case []any:
		if err := w.look(len(old)); err != nil {
			return err
		}
		if o.op != "remove" && len(old) == 0 {
			home[key] = []any{Document{p.attr.sub: value}}
		}
		for _, v := range old {
			part(v, o.op, p.attr.sub, value)
		}
	case Document:
		part(old, o.op, p.attr.sub, value)
		if len(old) == 0 {
			delete(home, key)
		}
	default:
		if o.op == "remove" {
			return nil
		}
		return errorf(InvalidPath, "%s: %s has no parts", p.text, p.attr.name)
	}
	return nil
}

func part(v any, op, name string, value any) {
	doc, ok := v.(Document)
	if !ok {
		return
	}
	key := keyOf(doc, name)
	if op == "remove" {
		delete(doc, key)
		return
	}
	if more, ok := value.([]any); ok && op == "add" {
		if list, ok := doc[key].([]any); ok {
			doc[key] = append(list, more...)
			return
		}
	}
	doc[key] = value
}

// filtered changes those values of a list that the filter is true of. If it is true
// of none, a replace fails (RFC 7644, 3.5.2.3), and an add makes one that it is true of:
// Entra adds a work address so that was never there.
func (w *patcher) filtered(home Document, key string, o Operation, p path) error {
	list, ok := home[key].([]any)
	if !ok && home[key] != nil {
		list = []any{home[key]}
	}
	if err := w.look(len(list)); err != nil {
		return err
	}
	match := func(v any) bool {
		if doc, ok := v.(Document); ok {
			return p.filter.Match(doc)
		}
		return p.filter.Match(Document{"value": v})
	}
	if o.op == "remove" {
		if p.attr.sub == "" {
			set(home, key, slices.DeleteFunc(list, match))
			return nil
		}
		for _, v := range list {
			if match(v) {
				part(v, "remove", p.attr.sub, nil)
			}
		}
		return nil
	}
	def := p.attr.subDef
	if p.attr.sub == "" {
		def = p.attr.def
	}
	value := o.value
	var err error
	if p.attr.sub != "" {
		value, err = form(def, p.text, o.value)
	} else {
		if one, ok := value.([]any); ok && len(one) == 1 {
			value = one[0]
		}
		if def != nil {
			value, err = formOne(def, p.text, value)
		}
		if _, ok := value.(Document); err == nil && !ok {
			err = errorf(InvalidValue, "%s needs an object, got %s", p.text, kindOf(value))
		}
	}
	if err != nil {
		return err
	}
	put := func(doc Document) {
		if p.attr.sub != "" {
			part(doc, o.op, p.attr.sub, value)
			return
		}
		if o.op == "replace" {
			clear(doc)
		}
		for name, v := range value.(Document) {
			doc[keyOf(doc, name)] = v
		}
	}
	found := false
	for i, v := range list {
		if doc, ok := v.(Document); ok && match(v) {
			found = true
			put(doc)
			prime(list, i)
		}
	}
	if found {
		home[key] = list
		return nil
	}
	if o.op == "replace" {
		return errorf(NoTarget, "%s matches nothing that could be replaced: add it, or read the resource again", p.text)
	}
	made := Document{}
	if !p.filter.fill(made) {
		return errorf(NoTarget, "%s matches nothing that could be changed", p.text)
	}
	if p.attr.def != nil {
		v, err := formOne(p.attr.def, p.text, made)
		if err != nil {
			return err
		}
		made = v.(Document)
	}
	op := o.op
	o.op = "add" // the made value keeps what the filter says
	put(made)
	o.op = op
	list = append(list, made)
	prime(list, len(list)-1)
	home[key] = list
	return nil
}

// fill sets attributes of doc so that f is true of it. It reports whether it
// could: f must consist of equalities only.
func (f *Filter) fill(doc Document) bool {
	switch f.op {
	case "and":
		return f.left.fill(doc) && f.right.fill(doc)
	case "eq":
		if f.attr.sub != "" || f.value == nil {
			return false
		}
		doc[f.attr.name] = f.value
		return true
	}
	return false
}
