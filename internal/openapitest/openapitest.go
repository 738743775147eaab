// Package openapitest checks what a server answers against its own OpenAPI
// document. It is for tests only.
package openapitest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Document is an OpenAPI document that calls are checked against. It is safe
// for concurrent use.
type Document struct {
	root any
	mux  *http.ServeMux // finds the operation of a request

	mu       sync.Mutex
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema // by pointer
}

// TB is the part of testing.TB that is used here.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Operation is one operation of the document.
type Operation struct {
	Pattern string // "POST /v1/check"
	pointer string // of the operation in the document
	body    map[string]any
}

// ambient are the headers that any answer may have, which the document's text
// describes and no operation lists.
var ambient = []string{
	"Access-Control-Allow-Headers", "Access-Control-Allow-Methods", "Access-Control-Allow-Origin",
	"Access-Control-Expose-Headers", "Access-Control-Max-Age", "Cache-Control", "Connection", "Content-Length",
	"Content-Security-Policy", "Content-Type", "Cross-Origin-Resource-Policy", "Date", "Permissions-Policy",
	"Referrer-Policy", "Strict-Transport-Security", "Vary", "X-Content-Type-Options",
}

// itemwise are the operations that accept a request and refuse single items of it.
var itemwise = []string{"POST /v1/events", "POST /access/v1/evaluations"}

var (
	read  = map[[sha256.Size]byte]*Document{}
	mutex sync.Mutex
)

// Of returns the document that a server publishes. One that was read before is
// returned again: compiling its schemas takes a while.
func Of(t TB, server http.Handler) *Document {
	t.Helper()
	rec := httptest.NewRecorder()
	server.ServeHTTP(rec, httptest.NewRequest("GET", "/openapi.json", nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("GET /openapi.json: got %d %s", rec.Code, rec.Body)
	}
	sum := sha256.Sum256(rec.Body.Bytes())
	mutex.Lock()
	defer mutex.Unlock()
	if d := read[sum]; d != nil {
		return d
	}
	root, err := jsonschema.UnmarshalJSON(rec.Body)
	if err != nil {
		t.Fatalf("/openapi.json: %v", err)
	}
	closeObjects(root)
	d := &Document{root: root, mux: http.NewServeMux(), compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource("openapi.json", root); err != nil {
		t.Fatalf("/openapi.json: %v", err)
	}
	for path, item := range d.object("#/paths") {
		for method := range item.(map[string]any) {
			op := &Operation{Pattern: strings.ToUpper(method) + " " + path, pointer: "#/paths/" + escape(path) + "/" + method}
			op.body, _ = d.at(op.pointer).(map[string]any)
			d.mux.Handle(op.Pattern, op)
		}
	}
	read[sum] = d
	return d
}

// ServeHTTP is never called: an operation is a handler so that the mux finds it.
func (*Operation) ServeHTTP(http.ResponseWriter, *http.Request) {}

// closeObjects makes every object schema with properties refuse all others. The
// names of properties are no schemas, whatever they are.
func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		properties, _ := v["properties"].(map[string]any)
		if properties != nil && v["additionalProperties"] == nil {
			v["additionalProperties"] = false
		}
		for name, x := range v {
			if name != "example" && (name != "properties" || properties == nil) {
				closeObjects(x)
			}
		}
		for _, p := range properties {
			closeObjects(p)
		}
	case []any:
		for _, x := range v {
			closeObjects(x)
		}
	}
}

// Handler returns the server's handler, which also checks every call.
func (d *Document) Handler(t TB, server http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Helper()
		var sent []byte
		if r.Body != nil {
			sent, _ = io.ReadAll(io.LimitReader(r.Body, 16<<20))
			r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(sent), r.Body))
		}
		tap := &tap{ResponseWriter: w, status: http.StatusOK}
		server.ServeHTTP(tap, r)
		for _, wrong := range d.Check(r, sent, tap.status, w.Header(), tap.b.Bytes()) {
			t.Errorf("%s %s: got %d %s, and the OpenAPI document disagrees: %s", r.Method, r.URL, tap.status, clip(tap.b.Bytes()), wrong)
		}
	})
}

// tap keeps what is written.
type tap struct {
	http.ResponseWriter
	status int
	begun  bool
	b      bytes.Buffer
}

func (t *tap) WriteHeader(status int) {
	if !t.begun {
		t.status, t.begun = status, true
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *tap) Write(b []byte) (int, error) {
	t.begun = true
	t.b.Write(b)
	return t.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (t *tap) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func clip(b []byte) []byte { return b[:min(len(b), 600)] }

// Check returns what a call has that the document does not say: its status,
// content type, headers, and each property of the answer; and of a request that
// was accepted, each property and parameter.
func (d *Document) Check(r *http.Request, sent []byte, status int, header http.Header, answer []byte) (wrong []string) {
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	h, _ := d.mux.Handler(r)
	op, ok := h.(*Operation)
	if !ok || r.Method == http.MethodHead { // not a route, or GET without its body
		if ok || r.Method == http.MethodOptions || !strings.HasPrefix(header.Get("Content-Type"), "application/problem+json") {
			return nil
		}
		if err := d.validate("#/components/schemas/Problem", answer); err != nil {
			note("%v", err)
		}
		return wrong
	}
	response := op.pointer + "/responses/" + strconv.Itoa(status)
	if d.at(response) == nil && status >= 400 {
		response = op.pointer + "/responses/default"
	}
	said, _ := d.at(response).(map[string]any)
	if said == nil {
		note("the status is not documented")
		return wrong
	}
	declared, _ := said["headers"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if !slices.Contains(ambient, name) && !has(declared, name) {
			note("the header %s is not documented", name)
		}
	}
	for name, h := range declared {
		if required, _ := d.deref(h)["required"].(bool); required && header.Get(name) == "" {
			note("the header %s is required and absent", name)
		}
	}
	content, _ := said["content"].(map[string]any)
	kind, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	switch media, ok := content[kind].(map[string]any); {
	case len(answer) == 0 && (status == http.StatusNotModified || len(content) == 0):
	case !ok:
		note("the content type %q is not documented", header.Get("Content-Type"))
	case strings.HasSuffix(kind, "json") && media["schema"] != nil:
		if err := d.validate(response+"/content/"+escape(kind)+"/schema", answer); err != nil {
			note("%v", err)
		}
	}
	if status < 400 && !slices.Contains(itemwise, op.Pattern) {
		wrong = append(wrong, d.checkRequest(op, r, sent)...)
	}
	return wrong
}

// checkRequest returns what an accepted request has that is not documented.
func (d *Document) checkRequest(op *Operation, r *http.Request, sent []byte) (wrong []string) {
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	known := map[string]bool{}
	for _, p := range op.Parameters(d, "query") {
		known[p] = true
	}
	for name := range r.URL.Query() {
		if !known[name] {
			note("the query parameter %q was accepted and is not documented", name)
		}
	}
	content, _ := op.request(d)["content"].(map[string]any)
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if media, ok := content[kind].(map[string]any); ok && len(sent) > 0 && strings.HasSuffix(kind, "json") && media["schema"] != nil {
		if err := d.validate(op.pointer+"/requestBody/content/"+escape(kind)+"/schema", sent); err != nil {
			note("the request was accepted: %v", err)
		}
	} else if !ok && len(sent) > 0 && kind != "" && len(content) > 0 {
		note("the request's content type %q was accepted and is not documented", kind)
	}
	return wrong
}

func (op *Operation) request(d *Document) map[string]any { return d.deref(op.body["requestBody"]) }

// Parameters returns the names of an operation's parameters in a place: "path",
// "query", "header".
func (op *Operation) Parameters(d *Document, in string) (names []string) {
	list, _ := op.body["parameters"].([]any)
	for _, p := range list {
		if p := d.deref(p); p["in"] == in {
			names = append(names, p["name"].(string))
		}
	}
	return names
}

// Operations returns every operation, sorted by pattern.
func (d *Document) Operations() (list []*Operation) {
	for path, item := range d.object("#/paths") {
		for method := range item.(map[string]any) {
			op := &Operation{Pattern: strings.ToUpper(method) + " " + path, pointer: "#/paths/" + escape(path) + "/" + method}
			op.body, _ = d.at(op.pointer).(map[string]any)
			list = append(list, op)
		}
	}
	slices.SortFunc(list, func(a, b *Operation) int { return strings.Compare(a.Pattern, b.Pattern) })
	return list
}

// Properties returns the places of every property that an operation's JSON body
// may have, such as "resource.id", with a value of its type.
func (op *Operation) Properties(d *Document) map[string]any {
	out := map[string]any{}
	content, _ := op.request(d)["content"].(map[string]any)
	media, _ := content["application/json"].(map[string]any)
	schema, _ := media["schema"].(map[string]any)
	var walk func(schema map[string]any, place string, depth int)
	walk = func(schema map[string]any, place string, depth int) {
		schema = d.deref(schema)
		properties, _ := schema["properties"].(map[string]any)
		for name, p := range properties {
			p, _ := p.(map[string]any)
			where := strings.TrimPrefix(place+"."+name, ".")
			out[where] = d.sample(p)
			if d.deref(p)["properties"] != nil && depth < 4 {
				walk(p, where, depth+1)
			}
		}
	}
	walk(schema, "", 0)
	return out
}

// sample returns a value of a schema's type.
func (d *Document) sample(schema map[string]any) any {
	schema = d.deref(schema)
	if list, ok := schema["enum"].([]any); ok {
		return list[0]
	}
	for _, key := range []string{"oneOf", "anyOf"} {
		if list, ok := schema[key].([]any); ok {
			first, _ := list[0].(map[string]any)
			return d.sample(first)
		}
	}
	kind := schema["type"]
	if list, ok := kind.([]any); ok {
		kind = list[0]
	}
	switch kind {
	case "string":
		if schema["format"] == "date-time" {
			return "2026-03-10T12:00:00Z"
		}
		return "x"
	case "integer", "number":
		return 1
	case "boolean":
		return true
	case "array":
		return []any{}
	}
	return map[string]any{}
}

// Examples returns what is wrong with the examples of an operation: each JSON body
// must have one that is valid, unless its schema lets it be anything.
func (op *Operation) Examples(d *Document) (wrong []string) {
	look := func(pointer string) {
		for kind, m := range d.object(pointer + "/content") {
			media, _ := m.(map[string]any)
			schema, _ := media["schema"].(map[string]any)
			if !strings.HasSuffix(kind, "json") {
				continue
			}
			where := strings.TrimPrefix(pointer, op.pointer+"/") + " " + kind
			if media["example"] == nil {
				if free := len(schema) == 0 || schema["type"] == "object" && schema["properties"] == nil; !free {
					wrong = append(wrong, where+": no example")
				}
				continue
			}
			b, err := json.Marshal(media["example"])
			if err == nil {
				err = d.validate(pointer+"/content/"+escape(kind)+"/schema", b)
			}
			if err != nil {
				wrong = append(wrong, where+": "+err.Error())
			}
		}
	}
	look(op.pointer + "/requestBody")
	for status := range d.object(op.pointer + "/responses") {
		if status != "default" {
			look(op.pointer + "/responses/" + status)
		}
	}
	slices.Sort(wrong)
	return wrong
}

func has(declared map[string]any, name string) bool {
	for d := range declared {
		if http.CanonicalHeaderKey(d) == name {
			return true
		}
	}
	return false
}

// validate checks JSON against the schema at a pointer.
func (d *Document) validate(pointer string, b []byte) error {
	d.mu.Lock()
	s := d.schemas[pointer]
	if s == nil {
		var err error
		if s, err = d.compiler.Compile("openapi.json" + pointer); err != nil {
			d.mu.Unlock()
			return err
		}
		d.schemas[pointer] = s
	}
	d.mu.Unlock()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	var invalid *jsonschema.ValidationError
	if err := s.Validate(v); errors.As(err, &invalid) {
		return errors.New(strings.Join(leaves(invalid), "; "))
	}
	return err
}

// leaves lists what is wrong and where, without the way there.
func leaves(e *jsonschema.ValidationError) (list []string) {
	for _, cause := range e.Causes {
		list = append(list, leaves(cause)...)
	}
	if len(e.Causes) == 0 {
		list = append(list, strings.TrimPrefix(e.Error(), "- "))
	}
	return list
}

func (d *Document) object(pointer string) map[string]any {
	m, _ := d.at(pointer).(map[string]any)
	return m
}

// at returns what stands at a pointer such as "#/paths/~1v1~1check".
func (d *Document) at(pointer string) any {
	v := d.root
	for part := range strings.SplitSeq(strings.TrimPrefix(pointer, "#/"), "/") {
		m := d.deref(v)
		if m == nil {
			return nil
		}
		v = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
	}
	return v
}

// deref returns the object that v is or refers to, else nil.
func (d *Document) deref(v any) map[string]any {
	m, _ := v.(map[string]any)
	if ref, ok := m["$ref"].(string); ok {
		return d.object(ref)
	}
	return m
}

func escape(s string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(s) }
