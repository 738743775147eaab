package usher

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// UnmarshalJSON reads what AppendJSON wrote. Members that it does not know are
// ignored; an object without allowed and reason is not a decision and is
// refused. What JSON does not say is guessed: Type is TypeString for every text, and
// the Precision of deductions comes from the digits after the point.
func (d *Decision) UnmarshalJSON(b []byte) error {
	read := reflect.New(readDecision)
	if err := json.Unmarshal(b, read.Interface()); err != nil {
		return err
	}
	var must struct {
		Allowed *bool  `json:"allowed"`
		Reason  Reason `json:"reason"`
	}
	if err := json.Unmarshal(b, &must); err != nil {
		return err
	}
	if must.Allowed == nil || must.Reason == "" {
		return Errorf(Invalid, `not a decision: "allowed" and "reason" are required`)
	}
	*d = Decision{}
	fill(reflect.ValueOf(d).Elem(), read.Elem())
	if d.Precision < 0 || d.Precision > MaxPrecision {
		return Errorf(Invalid, "precision must be from 0 to %d, got %d", MaxPrecision, d.Precision)
	}
	if c := d.Credits; c != nil {
		if err := c.setRate(d.Precision); err != nil {
			return err
		}
	}
	for i := range d.Deductions {
		d.Deductions[i].ownPrecision()
	}
	if c := d.Correction; c != nil {
		for i := range c.Returned {
			c.Returned[i].ownPrecision()
		}
	}
	if r := d.Reservation; r != nil && r.State == "" {
		r.State = ReservationOpen
	}
	value := read.Elem().FieldByName("Value").Interface().(json.RawMessage)
	if len(value) == 0 || string(value) == "null" {
		return nil
	}
	d.Value = new(Value)
	switch value[0] {
	case '"':
		d.Type = TypeString
		return json.Unmarshal(value, &d.Value.Text)
	case '[':
		d.Type = TypeList
		return json.Unmarshal(value, &d.Value.List)
	}
	d.Type = TypeInteger
	return json.Unmarshal(value, &d.Value.Int)
}

// setRate computes the rate of credits from the text that JSON has. precision is
// that of the feature that draws: the catalogue sees to it that the rate is whole.
func (c *CreditsUse) setRate(precision int) (err error) {
	if c.Precision < precision || c.Precision > MaxPrecision {
		return Errorf(Invalid, "credits.precision must be from %d to %d, got %d", precision, MaxPrecision, c.Precision)
	}
	if c.Rate, err = c.PerUnit.Units(c.Precision - precision); err == nil && c.Rate == 0 {
		err = Errorf(Invalid, "credits.per_unit must be above 0, got %s", c.PerUnit)
	}
	return err
}

// ownPrecision forgets the precision of what belongs to the decision's feature.
func (x *Deduction) ownPrecision() {
	if x.Feature == "" {
		x.Precision = 0
	}
}

// UnmarshalJSON reads what MarshalJSON wrote, as Decision.UnmarshalJSON does.
func (e *Explanation) UnmarshalJSON(b []byte) error {
	var d Decision
	if err := json.Unmarshal(b, &d); err != nil {
		return err
	}
	var t trace
	if err := json.Unmarshal(b, &t); err != nil {
		return err
	}
	*e = Explanation{Decision: d, Considered: t.Considered, Combined: d.Rule,
		Allowances: d.Allowances, Caps: d.Caps, Changes: t.Changes, Access: t.Access}
	return nil
}

// UnmarshalJSON reads a unit, such as "month", or {"every": 6, "unit": "hour"}.
func (p *Period) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		p.Every = 1
		return json.Unmarshal(b, &p.Unit)
	}
	type object Period
	return json.Unmarshal(b, (*object)(p))
}

// readDecision is Decision as encoding/json reads it: each quantity is a
// readQuantity, and the value is left as it is.
var readDecision = readStruct(reflect.TypeFor[Decision]())

// readQuantity is a quantity as it was written.
type readQuantity struct {
	units     int64
	precision int
	there     bool
}

// UnmarshalJSON reads a number or a decimal string, or "unlimited" as the largest
// quantity.
func (q *readQuantity) UnmarshalJSON(b []byte) error {
	if string(b) == `"unlimited"` {
		q.units, q.there = MaxQuantity, true
		return nil
	}
	var n Number
	if err := n.UnmarshalJSON(b); err != nil {
		return err
	}
	text, negative := strings.CutPrefix(string(n), "-")
	if _, frac, ok := strings.Cut(text, "."); ok {
		q.precision = len(frac)
	}
	if q.precision > MaxPrecision {
		return Errorf(Invalid, "must have at most %d digits after the point, got %s", MaxPrecision, clip(text))
	}
	units, err := ParseQuantity(text, q.precision)
	if negative {
		units = -units
	}
	q.units, q.there = units, true
	return err
}

// readType returns the type that JSON is read into for values of type t. What
// reads itself stays as it is.
func readType(t reflect.Type) reflect.Type {
	switch t.Kind() {
	case reflect.Pointer:
		if t.Elem() == reflect.TypeFor[Value]() {
			return reflect.TypeFor[json.RawMessage]()
		}
		return reflect.PointerTo(readType(t.Elem()))
	case reflect.Slice:
		return reflect.SliceOf(readType(t.Elem()))
	case reflect.Struct:
		p := reflect.PointerTo(t)
		if !p.Implements(reflect.TypeFor[json.Unmarshaler]()) && !p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
			return readStruct(t)
		}
	}
	return t
}

// readStruct returns the struct that JSON is read into for values of struct t.
func readStruct(t reflect.Type) reflect.Type {
	var fields []reflect.StructField
	for f := range t.Fields() {
		if f.Tag.Get("json") == "-" {
			continue
		}
		read := reflect.StructField{Name: f.Name, Type: readType(f.Type), Tag: f.Tag}
		if f.Tag.Get("quantity") != "" {
			read.Type = reflect.TypeFor[readQuantity]()
		}
		fields = append(fields, read)
	}
	return reflect.StructOf(fields)
}

// fill copies what was read, of a readType, into a value of the type itself. A
// struct with a Precision gets that of its own quantities.
func fill(to, read reflect.Value) {
	switch {
	case to.Type() == read.Type():
		to.Set(read)
	case to.Kind() == reflect.Pointer && read.Kind() == reflect.Pointer:
		if !read.IsNil() {
			to.Set(reflect.New(to.Type().Elem()))
			fill(to.Elem(), read.Elem())
		}
	case to.Kind() == reflect.Slice:
		if !read.IsNil() {
			to.Set(reflect.MakeSlice(to.Type(), read.Len(), read.Len()))
			for i := range read.Len() {
				fill(to.Index(i), read.Index(i))
			}
		}
	case to.Kind() == reflect.Struct:
		digits := 0
		for f, v := range read.Fields() {
			if q, ok := v.Interface().(readQuantity); ok {
				digits = max(digits, q.precision)
			}
			fill(to.FieldByName(f.Name), v)
		}
		for f, v := range to.Fields() {
			if name := f.Tag.Get("there"); name != "" {
				v.SetBool(read.FieldByName(name).Interface().(readQuantity).there)
			}
		}
		if p := to.FieldByName("Precision"); p.IsValid() && digits > 0 {
			p.SetInt(int64(digits))
		}
	case to.Kind() == reflect.Int64:
		to.SetInt(read.Interface().(readQuantity).units)
	}
}
