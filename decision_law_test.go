package usher_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/ledger"
)

// every returns a decision of which each field has a value of its own that is
// not zero, by reflection: a field that is added to the struct is filled as well.
// What excludes other fields is left to variants.
func every(t *testing.T) usher.Decision {
	t.Helper()
	var d usher.Decision
	n := 0
	var set func(path string, v reflect.Value)
	set = func(path string, v reflect.Value) {
		n++
		switch x := v.Addr().Interface().(type) {
		case *time.Time:
			*x = time.Date(2026, 3, 1, 0, 0, n, 1000, time.UTC)
			return
		}
		switch v.Kind() {
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Int, reflect.Int64:
			v.SetInt(int64(n + 100))
		case reflect.String:
			v.SetString(fmt.Sprint("text", n))
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			set(path, v.Elem())
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			for i := range 2 {
				set(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
			}
		case reflect.Struct:
			for f, x := range v.Fields() {
				set(path+"."+f.Name, x)
			}
		default:
			t.Fatalf("%s is a %s, which this test cannot fill: teach it", path, v.Kind())
		}
	}
	set("Decision", reflect.ValueOf(&d).Elem())
	d.Precision = 2
	for _, list := range [][]usher.Deduction{d.Deductions, d.Correction.Returned} {
		for i := range list {
			list[i].Precision = 3
		}
	}
	d.Credits.PerUnit, d.Credits.Precision, d.Credits.Rate, d.Credits.Unlimited = "1.5", 3, 15, false
	d.Reservation.State = usher.ReservationSettled // else Settled means nothing
	d.Unlimited, d.Allowances[0].Unlimited, d.Allowances[1].Unlimited = false, false, false
	d.Type, d.Value = usher.TypeString, &usher.Value{Text: "priority"}
	return d
}

// variants are decisions that together have every field: what cannot stand
// beside something else is in another one.
func variants(t *testing.T) map[string]usher.Decision {
	unlimited := every(t)
	unlimited.Unlimited, unlimited.Limit, unlimited.Remaining = true, 0, 0
	unlimited.Credits.Unlimited, unlimited.Credits.Remaining = true, 0
	for i := range unlimited.Allowances {
		a := &unlimited.Allowances[i]
		a.Unlimited, a.Limit, a.Remaining = true, 0, 0
	}
	integer, list := every(t), every(t)
	integer.Type, integer.Value = usher.TypeInteger, &usher.Value{Int: 90}
	list.Type, list.Value = usher.TypeList, &usher.Value{List: []string{"eu", "us"}}
	all := map[string]usher.Decision{"limited": every(t), "unlimited": unlimited, "integer": integer, "list": list}
	seen := map[string]bool{}
	for _, d := range all {
		for path, zero := range leaves(reflect.ValueOf(d), "Decision") {
			seen[path] = seen[path] || !zero
		}
	}
	for path, ok := range seen {
		if !ok {
			t.Errorf("%s is zero in every variant, so nothing shows that it survives", path)
		}
	}
	return all
}

// leaves says of each field without fields of its own whether it is zero.
func leaves(v reflect.Value, path string) map[string]bool {
	out := map[string]bool{}
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		switch {
		case v.Kind() == reflect.Pointer && !v.IsNil():
			walk(v.Elem(), path)
		case v.Kind() == reflect.Slice && v.Len() > 0:
			for i := range v.Len() {
				walk(v.Index(i), path)
			}
		case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
			for f, x := range v.Fields() {
				walk(x, path+"."+f.Name)
			}
		default:
			out[path] = v.IsZero()
		}
	}
	walk(v, path)
	return out
}

// lost lists the fields that got and want do not have in common.
func lost(got, want reflect.Value, path string) (out []string) {
	if reflect.DeepEqual(got.Interface(), want.Interface()) {
		return nil
	}
	switch {
	case want.Kind() == reflect.Struct && want.Type() != reflect.TypeFor[time.Time]():
		for f := range want.Type().Fields() {
			out = append(out, lost(got.FieldByIndex(f.Index), want.FieldByIndex(f.Index), path+"."+f.Name)...)
		}
		return out
	case want.Kind() == reflect.Pointer && !want.IsNil() && !got.IsNil():
		return lost(got.Elem(), want.Elem(), path)
	case want.Kind() == reflect.Slice && want.Len() == got.Len():
		for i := range want.Len() {
			out = append(out, lost(got.Index(i), want.Index(i), fmt.Sprintf("%s[%d]", path, i))...)
		}
		return out
	}
	return []string{fmt.Sprintf("%s: got %v, want %v", path, got, want)}
}

// TestLaw_DecisionSurvives: a field that is added to the decision, or to what it
// holds, is shown by AppendJSON, read by UnmarshalJSON and kept in the stored
// form; or this test fails and names it.
func TestLaw_DecisionSurvives(t *testing.T) {
	t.Parallel()
	for name, d := range variants(t) {
		var back usher.Decision
		text := d.AppendJSON(nil)
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		for _, path := range lost(reflect.ValueOf(back), reflect.ValueOf(d), "Decision") {
			t.Errorf("%s: JSON loses %s", name, path)
		}
		at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		back, _, err := ledger.DecodeAnswer(ledger.EncodeAnswer(&d, &ledger.Posting{At: at}, at), at)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		back.Customer, back.Feature = d.Customer, d.Feature // columns of the row
		for _, path := range lost(reflect.ValueOf(back), reflect.ValueOf(d), "Decision") {
			t.Errorf("%s: the stored form loses %s", name, path)
		}
	}
}
