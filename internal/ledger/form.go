package ledger

import (
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/usher-sh/usher"
)

// The stored form of a struct is a list of its fields that are not zero, each as
// its number and its value, with a 0 at the end. The number is the field's keep
// tag; the row keeps a field with "-" in a column of its own. The form follows from
// the struct: a new field needs a number and nothing else, and what was stored
// before it can still be read.

// form is how a type is stored.
type form struct {
	kind   reflect.Kind
	time   bool
	of     *form   // of a pointer or a slice: how its elements are stored
	fields []field // of a struct
}

// field is one field that is stored.
type field struct {
	index  int
	number byte
	form   *form
}

var decisionForm = formOf(reflect.TypeFor[usher.Decision]())

// formOf returns how t is stored. It panics if t has no stored form, which is a
// mistake in the declaration of a struct.
func formOf(t reflect.Type) *form {
	f := &form{kind: t.Kind(), time: t == reflect.TypeFor[time.Time]()}
	switch {
	case f.time:
	case f.kind == reflect.Pointer, f.kind == reflect.Slice:
		f.of = formOf(t.Elem())
	case f.kind == reflect.Struct:
		var seen [128]bool
		for i := range t.NumField() {
			x := t.Field(i)
			tag := x.Tag.Get("keep")
			if tag == "-" {
				continue
			}
			number, err := strconv.ParseUint(tag, 10, 7)
			if err != nil || number == 0 || seen[number] {
				panic(fmt.Sprintf("ledger: %s.%s must have a keep tag of its own from 1 to 127, got %q", t, x.Name, tag))
			}
			seen[number] = true
			f.fields = append(f.fields, field{i, byte(number), formOf(x.Type)})
		}
	case f.kind != reflect.Bool && f.kind != reflect.Int && f.kind != reflect.Int64 && f.kind != reflect.String:
		panic(fmt.Sprintf("ledger: %s has no stored form", t))
	}
	return f
}

// zero reports whether v is zero, so that it is left out.
func (f *form) zero(v reflect.Value) bool {
	switch f.kind { // the common ones, faster than IsZero
	case reflect.Bool:
		return !v.Bool()
	case reflect.Int, reflect.Int64:
		return v.Int() == 0
	case reflect.String, reflect.Slice:
		return v.Len() == 0
	}
	return v.IsZero()
}

// value writes a value.
func (e *encoder) value(v reflect.Value, f *form) {
	switch f.kind {
	case reflect.Bool:
		if v.Bool() {
			e.b = append(e.b, 1)
		} else {
			e.b = append(e.b, 0)
		}
	case reflect.Int, reflect.Int64:
		e.num(v.Int())
	case reflect.String:
		e.str(v.String())
	case reflect.Pointer:
		e.value(v.Elem(), f.of)
	case reflect.Slice:
		e.num(int64(v.Len()))
		for i := range v.Len() {
			e.value(v.Index(i), f.of)
		}
	case reflect.Struct:
		if f.time {
			e.num(v.Addr().Interface().(*time.Time).UnixMicro())
			return
		}
		for i := range f.fields {
			x := &f.fields[i]
			if v := v.Field(x.index); !x.form.zero(v) {
				e.b = append(e.b, x.number)
				e.value(v, x.form)
			}
		}
		e.b = append(e.b, 0)
	}
}

// value reads what encoder.value wrote. v must be zero, because fields that are zero
// were left out.
func (d *decoder) value(v reflect.Value, f *form) {
	switch f.kind {
	case reflect.Bool:
		v.SetBool(d.byte() == 1)
	case reflect.Int, reflect.Int64:
		v.SetInt(d.num())
	case reflect.String:
		v.SetString(d.str())
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(v.Elem(), f.of)
	case reflect.Slice:
		n := d.size()
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			d.value(v.Index(i), f.of)
		}
	case reflect.Struct:
		if f.time {
			*v.Addr().Interface().(*time.Time) = time.UnixMicro(d.num()).UTC()
			return
		}
		for number := d.byte(); number != 0; number = d.byte() {
			i := 0
			for i < len(f.fields) && f.fields[i].number != number {
				i++
			}
			if i == len(f.fields) {
				d.bad, d.b = true, nil
				return
			}
			d.value(v.Field(f.fields[i].index), f.fields[i].form)
		}
	}
}

// byte reads one byte, or returns 0 and sets bad at the end.
func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.bad = true
		return 0
	}
	b := d.b[0]
	d.b = d.b[1:]
	return b
}
