package scim

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Bounds of filters.
const (
	MaxFilter      = 4096 // bytes of a filter or a path
	maxFilterDepth = 32   // parentheses and brackets in each other
)

// Filter is a condition on resources (RFC 7644, 3.4.2.2). The nil Filter is
// true of every resource.
type Filter struct {
	op          string // and, or, not, has (a value path), pr, eq, ne, co, sw, ew, gt, ge, lt, le
	left, right *Filter
	attr        attrPath
	value       any // string, bool, float64 or nil
}

// attrPath names an attribute: of an extension if urn is set, a part of it
// where sub is. Names that a schema knows are written as it writes them.
type attrPath struct {
	urn, name, sub string
	def            *Attribute // of name; nil: unknown
	subDef         *Attribute // of sub
}

func (p attrPath) leaf() *Attribute {
	if p.sub != "" {
		return p.subDef
	}
	return p.def
}

// token is a word, a string in its quotes, or one of ( ) [ ].
type token struct {
	kind byte // 'w', 's', '(', ')', '[', ']', 0 at the end
	text string
	at   int
}

func (t token) String() string {
	if t.kind == 0 {
		return "the end"
	}
	return Clip(t.text)
}

// lexer takes a filter apart.
type lexer struct {
	s    string
	i    int
	kind Kind
}

func (l *lexer) next() (token, error) {
	for l.i < len(l.s) && (l.s[l.i] == ' ' || l.s[l.i] == '\t') {
		l.i++
	}
	at := l.i
	if at == len(l.s) {
		return token{at: at}, nil
	}
	switch c := l.s[at]; c {
	case '(', ')', '[', ']':
		l.i++
		return token{c, l.s[at:l.i], at}, nil
	case '"':
		for l.i++; l.i < len(l.s); l.i++ {
			switch l.s[l.i] {
			case '\\':
				l.i++
			case '"':
				l.i++
				var text string
				if err := json.Unmarshal([]byte(l.s[at:l.i]), &text); err != nil {
					return token{}, errorf(l.kind, "at character %d: the text in quotes must be a JSON string", at+1)
				}
				return token{'s', text, at}, nil
			}
		}
		return token{}, errorf(l.kind, "at character %d: a closing quote is missing", at+1)
	}
	for l.i < len(l.s) && !strings.ContainsRune(" \t()[]\"", rune(l.s[l.i])) {
		l.i++
	}
	return token{'w', l.s[at:l.i], at}, nil
}

// parser reads filters and paths.
type parser struct {
	lexer
	t     *Type
	tok   token
	depth int
}

func newParser(t *Type, s string, kind Kind) (*parser, error) {
	p := &parser{lexer: lexer{s: s, kind: kind}, t: t}
	if len(s) > MaxFilter {
		return nil, errorf(kind, "it is longer than %d bytes", MaxFilter)
	}
	return p, p.advance()
}

func (p *parser) advance() (err error) {
	p.tok, err = p.next()
	return err
}

func (p *parser) word(s string) bool { return p.tok.kind == 'w' && strings.EqualFold(p.tok.text, s) }

func (p *parser) unexpected(want string) error {
	return errorf(p.kind, "at character %d: expected %s, got %s", p.tok.at+1, want, p.tok)
}

// ParseFilter reads a filter on resources of a type: at most MaxFilter bytes.
// Text that is empty is no filter, which is an error.
func ParseFilter(t *Type, s string) (*Filter, error) {
	p, err := newParser(t, s, InvalidFilter)
	if err != nil {
		return nil, prefixed("the filter: ", err)
	}
	f, err := p.or(nil)
	if err == nil && p.tok.kind != 0 {
		err = p.unexpected("and, or, or the end")
	}
	if err != nil {
		return nil, prefixed("the filter: ", err)
	}
	return f, nil
}

func prefixed(what string, err error) error {
	if e, ok := err.(*Error); ok {
		return &Error{e.Kind, what + e.Detail}
	}
	return err
}

// or reads alternatives; within is the attribute in whose brackets they stand.
func (p *parser) or(within *attrPath) (*Filter, error) {
	return p.chain("or", func() (*Filter, error) {
		return p.chain("and", func() (*Filter, error) { return p.term(within) })
	})
}

func (p *parser) chain(op string, part func() (*Filter, error)) (*Filter, error) {
	left, err := part()
	for err == nil && p.word(op) {
		if err = p.advance(); err != nil {
			break
		}
		var right *Filter
		if right, err = part(); err == nil {
			left = &Filter{op: op, left: left, right: right}
		}
	}
	return left, err
}

func (p *parser) nested(close byte, within *attrPath) (*Filter, error) {
	if p.depth++; p.depth > maxFilterDepth {
		return nil, errorf(p.kind, "it is nested deeper than %d levels", maxFilterDepth)
	}
	defer func() { p.depth-- }()
	if err := p.advance(); err != nil {
		return nil, err
	}
	f, err := p.or(within)
	if err == nil && p.tok.kind != close {
		err = p.unexpected(strconv.Quote(string(rune(close))))
	}
	if err == nil {
		err = p.advance()
	}
	return f, err
}

func (p *parser) term(within *attrPath) (*Filter, error) {
	if p.tok.kind == '(' {
		return p.nested(')', within)
	}
	if p.tok.kind != 'w' {
		return nil, p.unexpected("an attribute")
	}
	if p.word("not") {
		before := *p
		if err := p.advance(); err != nil {
			return nil, err
		}
		if p.tok.kind == '(' {
			f, err := p.nested(')', within)
			return &Filter{op: "not", left: f}, err
		}
		*p = before
	}
	attr, err := p.name(p.tok.text, within)
	if err != nil {
		return nil, err
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.tok.kind == '[' {
		if within != nil {
			return nil, p.unexpected("an operator")
		}
		f, err := p.nested(']', &attr)
		if err != nil {
			return nil, err
		}
		// emails[type eq "work"].value eq "x" is not a filter of the RFC, but providers send it.
		if p.tok.kind == 'w' && strings.HasPrefix(p.tok.text, ".") && p.s[p.tok.at-1] == ']' {
			sub, err := p.name(p.tok.text[1:], &attr)
			if err != nil {
				return nil, err
			}
			if err := p.advance(); err != nil {
				return nil, err
			}
			g, err := p.comparison(sub)
			if err != nil {
				return nil, err
			}
			f = &Filter{op: "and", left: f, right: g}
		}
		return &Filter{op: "has", attr: attr, left: f}, nil
	}
	return p.comparison(attr)
}

func (p *parser) comparison(attr attrPath) (*Filter, error) {
	if p.tok.kind != 'w' {
		return nil, p.unexpected("an operator such as eq")
	}
	op := strings.ToLower(p.tok.text)
	switch op {
	case "pr":
		return &Filter{op: op, attr: attr}, p.advance()
	case "eq", "ne", "co", "sw", "ew", "gt", "ge", "lt", "le":
	default:
		return nil, p.unexpected("one of the operators eq ne co sw ew gt ge lt le pr")
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	f := &Filter{op: op, attr: attr}
	switch {
	case p.tok.kind == 's':
		f.value = p.tok.text
	case p.tok.kind != 'w':
		return nil, p.unexpected("a value")
	case p.word("true"), p.word("false"):
		f.value = p.word("true")
	case p.word("null"):
	default:
		n, err := strconv.ParseFloat(p.tok.text, 64)
		if err != nil || !json.Valid([]byte(p.tok.text)) {
			return nil, p.unexpected(`a value: text in "quotes", a number, true, false or null`)
		}
		f.value = n
	}
	_, text := f.value.(string)
	_, number := f.value.(float64)
	switch op {
	case "co", "sw", "ew":
		if !text {
			return nil, errorf(p.kind, "%s compares text only", op)
		}
	case "gt", "ge", "lt", "le":
		if !text && !number {
			return nil, errorf(p.kind, "%s compares text, times and numbers only", op)
		}
	}
	return f, p.advance()
}

// name reads an attribute's name: name, name.sub, or either after a schema's URN
// and a colon.
func (p *parser) name(s string, within *attrPath) (a attrPath, err error) {
	whole := s
	bad := func() (attrPath, error) {
		return attrPath{}, errorf(p.kind, "%s is not an attribute's name", Clip(whole))
	}
	if within != nil {
		if !validName(s) {
			return bad()
		}
		a.name, a.def = s, within.def.sub(s)
		if a.def != nil {
			a.name = a.def.Name
		}
		return a, nil
	}
	var list []Attribute
	if len(s) > 4 && strings.EqualFold(s[:4], "urn:") {
		urn, rest := p.t.cutURN(s)
		switch {
		case urn == "":
			return bad()
		case strings.EqualFold(urn, p.t.Schema.ID):
			if s = rest; s == "" {
				return bad()
			}
		default:
			if e := p.t.extension(urn); e != nil {
				urn, list = e.ID, e.Attributes
			}
			a.urn = urn
			if rest == "" { // the extension as a whole
				return a, nil
			}
			s = rest
		}
	}
	name, sub, dotted := strings.Cut(s, ".")
	if !validName(name) || dotted && !validName(sub) {
		return bad()
	}
	a.name, a.sub = name, sub
	if a.urn == "" {
		a.def = p.t.attribute(name)
	} else {
		a.def = find(list, name)
	}
	if a.def != nil {
		a.name = a.def.Name
	}
	if sub != "" {
		if a.subDef = a.def.sub(sub); a.subDef != nil {
			a.sub = a.subDef.Name
		}
	}
	return a, nil
}

// cutURN splits a name at the end of its schema's URN, which it must have.
func (t *Type) cutURN(s string) (urn, rest string) {
	for _, known := range append([]*Schema{t.Schema}, t.Extensions...) {
		if len(s) >= len(known.ID) && strings.EqualFold(s[:len(known.ID)], known.ID) {
			if rest = s[len(known.ID):]; rest == "" || rest[0] == ':' || rest[0] == '.' {
				return known.ID, strings.TrimLeft(rest, ":.")
			}
		}
	}
	i := strings.LastIndexByte(s, ':')
	if i <= len("urn:") {
		return "", s
	}
	return s[:i], s[i+1:]
}

// validName allows what RFC 7643, 2.1 does, and more first characters, since
// clients have attributes of their own.
func validName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '$') {
			return false
		}
	}
	return s != ""
}

// Match reports whether f is true of a resource.
func (f *Filter) Match(doc Document) bool {
	if f == nil {
		return true
	}
	switch f.op {
	case "and":
		return f.left.Match(doc) && f.right.Match(doc)
	case "or":
		return f.left.Match(doc) || f.right.Match(doc)
	case "not":
		return !f.left.Match(doc)
	case "has":
		found := false
		each(f.attr.top(doc), func(v any) {
			if inner, ok := v.(Document); ok {
				found = found || f.left.Match(inner)
			} else { // a plain value is its own "value"
				found = found || f.left.Match(Document{"value": v})
			}
		})
		return found
	case "ne":
		same := *f
		same.op = "eq"
		return !same.Match(doc)
	}
	found, present := false, false
	test := func(v any) {
		if inner, ok := v.(Document); ok {
			if f.op == "pr" {
				present = present || len(inner) > 0
				return
			}
			v = lookup(inner, "value")
		}
		if v == nil || v == "" {
			return
		}
		present = true
		found = found || f.compare(v)
	}
	each(f.attr.top(doc), func(v any) {
		if f.attr.sub == "" {
			test(v)
		} else if inner, ok := v.(Document); ok {
			each(lookup(inner, f.attr.sub), test)
		}
	})
	switch {
	case f.op == "pr":
		return present
	case f.op == "eq" && f.value == nil:
		return !present
	}
	return found
}

func (f *Filter) compare(v any) bool {
	switch want := f.value.(type) {
	case bool:
		b, ok := v.(bool)
		return ok && f.op == "eq" && b == want
	case float64:
		n, ok := v.(float64)
		return ok && ordered(f.op, cmp.Compare(n, want))
	case string:
		got, ok := v.(string)
		if b, is := v.(bool); is { // active eq "True" is sent
			return f.op == "eq" && strings.EqualFold(want, strconv.FormatBool(b))
		}
		if !ok {
			return false
		}
		def := f.attr.leaf()
		if def != nil && def.Type == "dateTime" {
			a, err := time.Parse(time.RFC3339Nano, got)
			b, err2 := time.Parse(time.RFC3339Nano, want)
			if err == nil && err2 == nil && f.op != "co" && f.op != "sw" && f.op != "ew" {
				return ordered(f.op, a.Compare(b))
			}
		}
		if def != nil && def.Type == "complex" {
			def = def.sub("value")
		}
		if def == nil || !def.CaseExact {
			got, want = strings.ToLower(got), strings.ToLower(want)
		}
		switch f.op {
		case "co":
			return strings.Contains(got, want)
		case "sw":
			return strings.HasPrefix(got, want)
		case "ew":
			return strings.HasSuffix(got, want)
		}
		return ordered(f.op, strings.Compare(got, want))
	}
	return false
}

func ordered(op string, c int) bool {
	switch op {
	case "eq":
		return c == 0
	case "gt":
		return c > 0
	case "ge":
		return c >= 0
	case "lt":
		return c < 0
	case "le":
		return c <= 0
	}
	return false
}

// top returns the value of the path's attribute in a resource, ignoring the
// sub-attribute.
func (p attrPath) top(doc Document) any {
	if p.urn != "" {
		inner, _ := lookup(doc, p.urn).(Document)
		if p.name == "" {
			if inner == nil {
				return nil
			}
			return inner
		}
		doc = inner
	}
	return lookup(doc, p.name)
}

// lookup finds a name, in any case of letters where it is not there as written.
func lookup(doc Document, name string) any {
	if v, ok := doc[name]; ok {
		return v
	}
	return doc[keyOf(doc, name)]
}

// keyOf returns the spelling of a name that doc uses, or name if doc lacks it.
func keyOf(doc Document, name string) string {
	if _, ok := doc[name]; ok {
		return name
	}
	for key := range doc {
		if strings.EqualFold(key, name) {
			return key
		}
	}
	return name
}

func each(v any, do func(any)) {
	switch v := v.(type) {
	case nil:
	case []any:
		for _, e := range v {
			do(e)
		}
	default:
		do(v)
	}
}

// Equals finds the text that an attribute must equal in every resource that f is
// true of, so that an index can be asked for them: name is "userName", or
// "members" for the value of a member.
func (f *Filter) Equals(name string) (value string, ok bool) {
	if f == nil {
		return "", false
	}
	switch f.op {
	case "and":
		if value, ok = f.left.Equals(name); ok {
			return value, true
		}
		return f.right.Equals(name)
	case "has":
		if f.attr.urn == "" && f.attr.name == name {
			return f.left.Equals("value")
		}
	case "eq":
		if f.attr.urn == "" && f.attr.name == name && (f.attr.sub == "" || f.attr.sub == "value") {
			value, ok = f.value.(string)
		}
	}
	return value, ok
}

// Names reports whether f reads an attribute.
func (f *Filter) Names(name string) bool {
	switch {
	case f == nil:
		return false
	case f.op == "and" || f.op == "or" || f.op == "not":
		return f.left.Names(name) || f.right.Names(name)
	}
	return f.attr.urn == "" && f.attr.name == name
}
