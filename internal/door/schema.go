package door

import (
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
)

const schemaPrefix = "#/components/schemas/"

// schemas returns the registry of named schemas. The nouns of the root package have
// their schemas here, once for every door.
func schemas() huma.Registry {
	r := huma.NewMapRegistry(schemaPrefix, schemaName)
	alias[usher.Number, amount](r)
	alias[usher.Ref, ref](r)
	alias[usher.Value, value](r)
	alias[usher.Period, period](r)
	alias[usher.UseRef, useRef](r)
	alias[usher.Reason, enum[usher.Reason]](r)
	alias[usher.Kind, enum[usher.Kind]](r)
	alias[usher.GrantKind, enum[usher.GrantKind]](r)
	alias[usher.Environment, enum[usher.Environment]](r)
	alias[usher.Combine, enum[usher.Combine]](r)
	alias[usher.Mode, enum[usher.Mode]](r)
	alias[usher.Quantity, shownQuantity](r)
	alias[usher.Length, period](r)
	alias[usher.AdviceKind, enum[usher.AdviceKind]](r)
	alias[usher.Fail, enum[usher.Fail]](r)
	alias[usher.Leg, enum[usher.Leg]](r)
	alias[usher.Status, enum[usher.Status]](r)
	alias[usher.ReservationState, enum[usher.ReservationState]](r)
	alias[usher.SeatState, enum[usher.SeatState]](r)
	alias[usher.Code, enum[usher.Code]](r)
	return r
}

func alias[T, As any](r huma.Registry) {
	r.RegisterTypeAlias(reflect.TypeFor[T](), reflect.TypeFor[As]())
}

// schemaName names a type in the document.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[usher.Problem]():
		return "ProblemItem" // Problem is the whole error
	case reflect.TypeFor[usher.AllowanceUse](), reflect.TypeFor[usher.CapUse](), reflect.TypeFor[usher.CreditsUse]():
		return strings.TrimSuffix(t.Name(), "Use")
	}
	name := strings.TrimSuffix(huma.DefaultSchemaNamer(t, hint), "Doc")
	if of, ok := strings.CutPrefix(name, "ListBody"); ok {
		return strings.TrimSuffix(of, "Body") + "List"
	}
	name = strings.TrimSuffix(name, "Body")
	for _, end := range [][2]string{{"In", "Input"}, {"Out", "Output"}} {
		if of, ok := strings.CutSuffix(name, end[0]); ok {
			name = of + end[1]
		}
	}
	dir, own := path.Split(t.PkgPath())
	switch {
	case own == "catalogfile":
		return "Catalog" + name
	case path.Base(dir) == "doors", own == "catalog", own == "audit", own == "scim": // these have names of their own
		return strings.ToUpper(own[:1]) + own[1:] + name
	}
	return name
}

// openAnswers lets the objects of answers have further properties: a client must
// not fail when a later version adds one. Objects of requests stay closed.
func openAnswers(doc *huma.OpenAPI) {
	asked := map[string]bool{}
	var walk func(s *huma.Schema)
	walk = func(s *huma.Schema) {
		if s == nil {
			return
		}
		if name := strings.TrimPrefix(s.Ref, schemaPrefix); s.Ref != "" && !asked[name] {
			asked[name] = true
			walk(doc.Components.Schemas.Map()[name])
		}
		walk(s.Items)
		for _, p := range s.Properties {
			walk(p)
		}
		for _, p := range slices.Concat(s.OneOf, s.AnyOf) {
			walk(p)
		}
	}
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Put, item.Post, item.Patch} {
			if op == nil || op.RequestBody == nil {
				continue
			}
			for _, m := range op.RequestBody.Content {
				walk(m.Schema)
			}
		}
	}
	for name, s := range doc.Components.Schemas.Map() {
		if closed, ok := s.AdditionalProperties.(bool); ok && !closed && !asked[name] {
			s.AdditionalProperties = nil
		}
	}
}

// named registers a schema under a name and returns a reference to it. It panics if
// another type has the name: two different things would look the same.
func named(r huma.Registry, name string, s *huma.Schema) *huma.Schema {
	if r.TypeFromRef(schemaPrefix+name) != nil {
		panic("door: " + name + " is the name of two schemas")
	}
	if r.Map()[name] == nil {
		s.PrecomputeMessages()
		r.Map()[name] = s
	}
	return &huma.Schema{Ref: schemaPrefix + name}
}

// enum is the schema of a noun with a fixed list of values.
type enum[T ~string] struct{}

// Schema names the list.
func (enum[T]) Schema(r huma.Registry) *huma.Schema {
	e := enums[reflect.TypeFor[T]()]
	return named(r, e.name, &huma.Schema{Type: huma.TypeString, Description: e.text, Enum: e.values})
}

var enums = map[reflect.Type]struct {
	name, text string
	values     []any
}{
	reflect.TypeFor[usher.Reason](): {"Reason", "Why a decision is yes or no", texts(usher.Reasons...)},
	reflect.TypeFor[usher.Kind]():   {"Kind", "The kind of a feature", texts(usher.Kinds...)},
	reflect.TypeFor[usher.Combine](): {"Rule", "How several sources of a feature are combined",
		texts(usher.CombineMax, usher.CombineMin, usher.CombineSum, usher.CombineUnion, usher.CombineOverride)},
	reflect.TypeFor[usher.Mode](): {"Mode", "Whether a feature's limit is enforced, or only reported",
		texts(usher.Enforce, usher.Warn, usher.Shadow)},
	reflect.TypeFor[usher.Fail](): {"FailPolicy", "What to assume about a feature while the server cannot be asked",
		texts(usher.FailClosed, usher.FailOpen)},
	reflect.TypeFor[usher.AdviceKind](): {"AdviceKind", "What would change an answer", texts(usher.AdviceKinds...)},
	reflect.TypeFor[usher.Leg](): {"Leg", "The answer of one part of a decision about a member; none: it was not asked",
		texts(usher.LegPass, usher.LegFail, usher.LegNone)},
	reflect.TypeFor[usher.Status](): {"Status", "The status of a subscription",
		texts(usher.Active, usher.PastDueSt, usher.Suspended, usher.Canceled, usher.Trialing, usher.Ended, usher.Scheduled)},
	reflect.TypeFor[usher.ReservationState](): {"ReservationState", "What became of a reservation",
		texts(usher.ReservationOpen, usher.ReservationSettled, usher.ReservationReleased, usher.ReservationExpired)},
	reflect.TypeFor[usher.GrantKind]():   {"GrantKind", "Why an amount was given", texts(usher.Promotion, usher.Compensation, usher.Purchase)},
	reflect.TypeFor[usher.Environment](): {"Environment", "An environment of the installation", texts(usher.Environments...)},
	reflect.TypeFor[usher.SeatState](): {"SeatState", "Whether a holder is active or only invited; both count",
		texts(usher.SeatActive, usher.SeatPending)},
	reflect.TypeFor[usher.Code](): {"Code", "The kind of a problem, for programs", codes()},
}

func texts[T ~string](list ...T) (out []any) {
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}

// codes lists every code of a problem.
func codes() []any {
	list := slices.Collect(maps.Keys(usher.Codes))
	return texts(slices.Sorted(slices.Values(append(list, MethodNotAllowed)))...)
}

// amount is the schema of a quantity in a request.
type amount struct{}

// Schema names Amount.
func (amount) Schema(r huma.Registry) *huma.Schema {
	return named(r, "Amount", &huma.Schema{Description: `An amount to take, give or hold: a number or a decimal string such as "1.5". ` +
		`Use a string for fractions and, in languages whose numbers are floating point, for more than 2^53.`,
		AnyOf: []*huma.Schema{{Type: huma.TypeInteger, Format: "int64"}, {Type: huma.TypeNumber, Format: "double"},
			{Type: huma.TypeString, Pattern: decimal}}})
}

const decimal = `^[0-9]+(\.[0-9]+)?$`

// quantity is the schema of a quantity in an answer.
func quantity(r huma.Registry) *huma.Schema {
	return named(r, "Quantity",
		&huma.Schema{Description: `An amount of a feature: an integer up to 2^63-1 where the feature has no precision, else a decimal string ` +
			`such as "1.500". JavaScript and TypeScript read integers exactly up to 2^53 only.`,
			OneOf: []*huma.Schema{{Type: huma.TypeInteger, Format: "int64"}, {Type: huma.TypeString, Pattern: `^-?[0-9]+(\.[0-9]+)?$`}}})
}

// shownQuantity is the schema of a quantity that knows its precision.
type shownQuantity struct{}

// Schema names Quantity.
func (shownQuantity) Schema(r huma.Registry) *huma.Schema { return quantity(r) }

// showQuantities makes each field with a quantity tag a Quantity in the document.
func showQuantities(r huma.Registry) {
	for name, s := range r.Map() {
		t := r.TypeFromRef(schemaPrefix + name)
		if t == nil || t.Kind() != reflect.Struct {
			continue
		}
		for _, f := range reflect.VisibleFields(t) {
			member, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			p := s.Properties[member]
			if p == nil {
				continue
			}
			switch f.Tag.Get("quantity") {
			case "true":
				q := quantity(r)
				q.Description = p.Description
				s.Properties[member] = q
			case "unlimited":
				s.Properties[member] = &huma.Schema{Description: p.Description,
					OneOf: []*huma.Schema{quantity(r), {Type: huma.TypeString, Enum: []any{"unlimited"}}}}
			}
		}
	}
}

// ref is the schema of a plan's or an add-on's name.
type ref struct{}

// Schema says that a reference is text.
func (ref) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: `A key with or without its version: "pro", "pro@3"`}
}

// value is the schema of a config feature's value.
type value struct{}

// Schema names Value.
func (value) Schema(r huma.Registry) *huma.Schema {
	return named(r, "Value",
		&huma.Schema{Description: "The value of a config feature: text for string and enum, an integer, a decimal string, or a list of texts",
			OneOf: []*huma.Schema{{Type: huma.TypeString}, {Type: huma.TypeInteger, Format: "int64"},
				{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeString}}}})
}

// period is the schema of a window's length.
type period struct{}

// Schema names Period.
func (period) Schema(r huma.Registry) *huma.Schema {
	unit := &huma.Schema{Type: huma.TypeString, Enum: texts(usher.Units...)}
	return named(r, "Length", &huma.Schema{Description: `The length of a window: "month", or {"every": 6, "unit": "hour"}`,
		OneOf: []*huma.Schema{unit, {Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"every", "unit"},
			Properties: map[string]*huma.Schema{"every": {Type: huma.TypeInteger}, "unit": unit}}}})
}

// useRef is the schema of what a correction gives back.
type useRef struct{}

// Schema names UseRef.
func (useRef) Schema(r huma.Registry) *huma.Schema {
	text := &huma.Schema{Type: huma.TypeString}
	return named(r, "UseRef", &huma.Schema{Description: "The idempotency key of a consume or a reservation, or the source and id of an event",
		OneOf: []*huma.Schema{text, {Type: huma.TypeObject, AdditionalProperties: false, Required: []string{"source", "id"},
			Properties: map[string]*huma.Schema{"source": text, "id": text}}}})
}
