package door

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
)

// Absent means absent. What selects, limits, ends or names something is never an
// empty text: a caller with an unset variable would get everything instead of one
// thing. Null is refused for the same reason, except in the fields where it takes
// away what was set.
var (
	freeText = []string{"name", "title", "description", "email", "cursor"} // and the values of maps
	nullable = []string{"parent", "ends_at", "trial_ends_at"}
)

// strictBody makes an operation's JSON body strict in the document, and returns
// its schema; nil if it has none.
func (d *Door) strictBody(op *huma.Operation) *huma.Schema {
	if op.RequestBody == nil || op.RequestBody.Content["application/json"] == nil {
		return nil
	}
	body := op.RequestBody.Content["application/json"].Schema
	d.strict(body, "", map[*huma.Schema]bool{})
	return d.resolve(body)
}

// resolve follows a reference.
func (d *Door) resolve(s *huma.Schema) *huma.Schema {
	if s != nil && s.Ref != "" {
		return d.huma.OpenAPI().Components.Schemas.SchemaFromRef(s.Ref)
	}
	return s
}

// strict writes into the schema of a request what checkBody refuses. name is of
// the field that has the schema.
func (d *Door) strict(s *huma.Schema, name string, seen map[*huma.Schema]bool) {
	s = d.resolve(s)
	if s == nil || seen[s] {
		return
	}
	seen[s] = true
	s.Nullable = s.Nullable && slices.Contains(nullable, name)
	if s.Type == huma.TypeString && s.MinLength == nil && s.Enum == nil && s.Format == "" && !slices.Contains(freeText, name) {
		s.MinLength = new(1)
	}
	for field, p := range s.Properties {
		d.strict(p, field, seen)
	}
	if s.Items != nil {
		d.strict(s.Items, "", seen)
	}
	s.PrecomputeMessages()
}

// checkBody returns Invalid unless b is one strict JSON value without null and
// without empty texts where the route's schema refuses them. Types and names are
// checked later.
func (rt *Route) checkBody(b []byte) error {
	var r Reader
	r.Reset(b)
	rt.door.checkValue(&r, "body", "", rt.body)
	return r.Err()
}

// checkValue checks the value at location, which is of the field name. Where the
// schema names no fields, anything goes.
func (d *Door) checkValue(r *Reader, location, name string, s *huma.Schema) {
	s = d.resolve(s)
	if s == nil {
		r.Skip()
		return
	}
	switch r.Peek() {
	case 'n':
		if !s.Nullable {
			r.Note(location, "must not be null: leave it out")
		}
		r.Skip()
	case '"':
		if text := r.Text(); len(text) == 0 && name != "value" && !slices.Contains(freeText, name) {
			r.Note(location, "must not be empty: give a value, or leave it out")
		}
	case '{':
		values, _ := s.AdditionalProperties.(*huma.Schema)
		r.Object(location, func(field []byte) {
			at := location + "." + ClipName(string(field))
			switch known := s.Properties[string(field)]; {
			case known != nil:
				d.checkValue(r, at, string(field), known)
			case values != nil:
				d.checkValue(r, at, "description", values) // free text
			default:
				r.Skip()
			}
		})
	case '[':
		r.Array(location, func(i int) { d.checkValue(r, fmt.Sprintf("%s[%d]", location, i), "", s.Items) })
	default:
		r.Skip()
	}
}

// noEmptyParameters returns Invalid if a parameter of the query or the header
// If-Match was sent empty.
func noEmptyParameters(r *http.Request) error {
	var wrong []usher.Problem
	if r.URL.RawQuery != "" {
		for name, values := range r.URL.Query() {
			if slices.Contains(values, "") && name != "cursor" { // an empty cursor is the start of a list
				wrong = append(wrong, usher.Problem{Location: "query." + ClipName(name), Message: "must not be empty: give a value, or leave it out"})
			}
		}
	}
	if values, sent := r.Header["If-Match"]; sent && slices.Contains(values, "") {
		wrong = append(wrong, usher.Problem{Location: "header.If-Match", Message: "must not be empty: give a value, or leave it out"})
	}
	if wrong == nil {
		return nil
	}
	slices.SortFunc(wrong, func(a, b usher.Problem) int { return strings.Compare(a.Location, b.Location) })
	return Invalids(wrong[:min(len(wrong), 20)])
}
