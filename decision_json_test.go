package usher

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestDecisionJSON(t *testing.T) {
	t.Parallel()
	day := func(n int) time.Time { return time.Date(2026, 3, n, 0, 0, 0, 0, time.UTC) }
	berlin := time.FixedZone("", 3600)
	for name, c := range map[string]struct {
		d    Decision
		want string
	}{
		"as in the contract": {
			Decision{Allowed: true, Reason: WithinLimit, Customer: "acme", Feature: "api_calls", Kind: Metered, Counted: true,
				Limit: 100000, Used: 42, Remaining: 99958, Window: &Window{day(1), day(30)}, Plan: Ref{"pro", 1}, Revision: 17},
			`{"allowed":true,"reason":"within_limit","customer":"acme","feature":"api_calls","kind":"metered","precision":0,` +
				`"limit":100000,` +
				`"used":42,"reserved":0,"remaining":99958,"unlimited":false,"overage":0,"window":{"start":"2026-03-01T00:00:00Z",` +
				`"end":"2026-03-30T00:00:00Z"},"plan":"pro@1","revision":17}`,
		},
		"unknown": {
			Decision{Reason: UnknownFeature, Customer: "a\"\\\n\x01\xff<&>é\u2028", Feature: "x"},
			`{"allowed":false,"reason":"unknown_feature","customer":"a\"\\\n\u0001�<&>é` + "\u2028" + `","feature":"x","revision":0}`,
		},
		"switch of several sources": {
			Decision{Allowed: true, Reason: Granted, Customer: "a", Feature: "sso", Kind: Switch, Rule: CombineUnion,
				Sources: []string{"plan:a@1", "addon:b@2"}, Revision: 1},
			`{"allowed":true,"reason":"granted","customer":"a","feature":"sso","kind":"switch","rule":"union",` +
				`"sources":["plan:a@1","addon:b@2"],` +
				`"revision":1}`,
		},
		"integer": {
			Decision{Allowed: true, Reason: Granted, Kind: Config, Type: TypeInteger, Value: &Value{Int: -7}},
			`{"allowed":true,"reason":"granted","customer":"","feature":"","kind":"config","value":-7,"revision":0}`,
		},
		"decimal": {
			Decision{Allowed: true, Reason: Granted, Kind: Config, Type: TypeDecimal, Precision: 2, Value: &Value{Int: 5}},
			`{"allowed":true,"reason":"granted","customer":"","feature":"","kind":"config","precision":2,"value":"0.05","revision":0}`,
		},
		"enum": {
			Decision{Allowed: true, Reason: Granted, Kind: Config, Type: TypeEnum, Value: &Value{Int: 1, Text: "email"}},
			`{"allowed":true,"reason":"granted","customer":"","feature":"","kind":"config","value":"email","revision":0}`,
		},
		"empty list": {
			Decision{Allowed: true, Reason: Granted, Kind: Config, Type: TypeList, Value: &Value{}},
			`{"allowed":true,"reason":"granted","customer":"","feature":"","kind":"config","value":[],"revision":0}`,
		},
		"a take with everything": {
			Decision{Allowed: true, Reason: ReasonOverage, Customer: "a", Feature: "c", Kind: Credits, Title: "Runs", Unit: "run", Precision: 3,
				Counted: true, Mode: Warn, Fail: FailOpen, OveragePermitted: true, OverageLeft: 2, ValidUntil: day(4),
				Credits: &CreditsUse{Feature: "pool", PerUnit: "0.5", Precision: 4, Rate: 5, Remaining: 7, OveragePermitted: true,
					OverageLeft: MaxQuantity},
				Limit: 1500, Used: 2005, Reserved: 1, Overage: 5, Excess: 500, Window: &Window{End: day(2)}, Rule: CombineSum,
				Sources: []string{"plan:p@1"},
				Allowances: []AllowanceUse{
					{ID: "plan:p@1", Sources: []string{"plan:p@1", "addon:x@1"}, Limit: 1500, Used: 2005, Reserved: 1, Overage: 5, Excess: 500,
						Window: Window{day(1).In(berlin), day(2)}},
					{ID: "grant:g", Sources: []string{"grant:g"}, Unlimited: true},
				},
				Caps: []CapUse{{ID: "plan:p@1", Per: Period{1, Minute}, Sliding: true, Limit: 10, Used: 4, Remaining: 6,
					Window: Window{Start: day(1)}}, {ID: "plan:p@1", Per: Period{6, Hour}}},
				Taken: true, Consumed: 1250, Deductions: []Deduction{{Allowance: "plan:p@1", Amount: 1250},
					{Allowance: "grant:g", Feature: "pool", Precision: 1, Amount: 3}},
				Replayed: true, Degraded: true, AsOf: day(3).Add(1500 * time.Microsecond), Revision: 9},
			`{"allowed":true,"reason":"overage","customer":"a","feature":"c","kind":"credits","title":"Runs","unit":"run","precision":3,` +
				`"limit":"1.500","used":"2.005","reserved":"0.001",` +
				`"remaining":"0.000","unlimited":false,"overage":"0.005","excess":"0.500","overage_left":"0.002",` +
				`"window":{"end":"2026-03-02T00:00:00Z"},"credits":{"feature":"pool","per_unit":"0.5","precision":4,"held":"0.0000",` +
				`"remaining":"0.0007","overage_left":"unlimited"},"rule":"sum",` +
				`"sources":["plan:p@1"],"mode":"warn","fail":"open",` +
				`"allowances":[{"allowance":"plan:p@1","sources":["plan:p@1","addon:x@1"],"limit":"1.500","used":"2.005",` +
				`"reserved":"0.001",` +
				`"remaining":"0.000","overage":"0.005","excess":"0.500","window":{"start":"2026-03-01T00:00:00Z",` +
				`"end":"2026-03-02T00:00:00Z"}},` +
				`{"allowance":"grant:g","used":"0.000","reserved":"0.000","unlimited":true,"overage":"0.000"}],` +
				`"caps":[{"cap":"plan:p@1","per":"minute","sliding":true,"limit":"0.010","used":"0.004","remaining":"0.006",` +
				`"window":{"start":"2026-03-01T00:00:00Z"}},{"cap":"plan:p@1","per":{"every":6,"unit":"hour"},` +
				`"limit":"0.000","used":"0.000",` +
				`"remaining":"0.000"}],` +
				`"consumed":"1.250","deductions":[{"allowance":"plan:p@1","amount":"1.250"},{"allowance":"grant:g","feature":"pool",` +
				`"amount":"0.3"}],"replayed":true,"degraded":true,"as_of":"2026-03-03T00:00:00.0015Z",` +
				`"valid_until":"2026-03-04T00:00:00Z","revision":9}`,
		},
		"a refused take": {
			Decision{Reason: NotEntitled, Customer: "a", Feature: "b", Kind: Metered, Counted: true, Taken: true},
			`{"allowed":false,"reason":"not_entitled","customer":"a","feature":"b","kind":"metered","precision":0,"limit":0,"used":0,` +
				`"reserved":0,` +
				`"remaining":0,"unlimited":false,"overage":0,"consumed":0,"deductions":[],"revision":0}`,
		},
		"unlimited": {
			Decision{Allowed: true, Reason: ReasonUnlimited, Kind: Seats, Counted: true, Unlimited: true, Used: 3, Window: &Window{}},
			`{"allowed":true,"reason":"unlimited","customer":"","feature":"","kind":"seats","precision":0,"used":3,` +
				`"reserved":0,"unlimited":true,"overage":0,` +
				`"revision":0}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := string(c.d.AppendJSON(nil))
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			again, err := roundTrip(got)
			if err != nil || again != strings.ToValidUTF8(got, "\uFFFD") {
				t.Errorf("read and written again, got %v\n%s\nwant\n%s", err, again, got)
			}
		})
	}
}

func roundTrip(text string) (string, error) {
	var d Decision
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return "", err
	}
	return string(d.AppendJSON(nil)), nil
}

func TestDecisionJSONAllocatesNothing(t *testing.T) {
	d := Decision{Allowed: true, Reason: WithinLimit, Customer: "acme", Feature: "api_calls", Kind: Metered, Counted: true,
		Limit: 100000, Used: 42, Remaining: 99958, Window: &Window{MinTime, MaxTime}, Plan: Ref{"pro", 1}, Precision: 3,
		Allowances: make([]AllowanceUse, 3), Caps: make([]CapUse, 2), Revision: 17}
	b := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { b = d.AppendJSON(b[:0]) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func TestDecisionJSONRefusesOther(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{}`, `null`, `[]`, `{"allowed":null,"reason":"granted"}`, `{"allowed":true}`, `{"allowed":"yes","reason":"granted"}`,
		`{"allowed":true,"reason":"within_limit","used":1e3}`, `{"allowed":true,"reason":"within_limit","used":9223372036854775808}`,
		`{"allowed":true,"reason":"within_limit","used":1,"precision":10}`,
		`{"allowed":true,"reason":"within_limit","used":1,"credits":{"feature":"c","per_unit":"0.001","remaining":1}}`,
		`{"allowed":true,"reason":"within_limit","used":1,"credits":{"feature":"c","per_unit":"0","remaining":1}}`,
		`{"allowed":true,"reason":"granted","value":1.5}`, `{"allowed":true,"reason":"granted","plan":"Pro"}`,
	} {
		var d Decision
		if err := d.UnmarshalJSON([]byte(text)); err == nil {
			t.Errorf("%s was read as %+v, want an error", text, d)
		}
	}
}

func TestExplanationJSON(t *testing.T) {
	t.Parallel()
	e := Explanation{
		Decision: Decision{Reason: LimitReached, Customer: "a", Feature: "f", Kind: Metered, Counted: true, Limit: 1, Used: 1,
			Plan: Ref{"pro", 1}, Mode: Enforce, Revision: 4},
		Considered: []SourceTrace{
			{ID: "plan:pro@1", Kind: "plan", Ref: "pro@1", Gives: "1 per month", Used: true, Subscription: "sub_1", From: MinTime,
				Amount: &Quantity{Units: 1}, Per: &Length{1, Month}},
			{ID: "grant:g", Kind: "grant", Ref: "g", Gives: "5", Why: "expired", Until: MinTime, Amount: &Quantity{Units: 5, Precision: 1}}},
		Combined:   CombineSum,
		Allowances: []AllowanceUse{{ID: "plan:pro@1", Limit: 1, Used: 1}},
		Changes: []WhatWouldChange{{Kind: AdviceWait, What: "a new window begins", At: MinTime, Limit: &Quantity{Units: 1}},
			{Kind: AdvicePlan, What: "move to the plan max", Target: "max", Unlimited: true}},
	}
	min := MinTime.Format(time.RFC3339)
	want := `{"allowed":false,"reason":"limit_reached","customer":"a","feature":"f","kind":"metered","precision":0,` +
		`"limit":1,"used":1,"reserved":0,` +
		`"remaining":0,"unlimited":false,"overage":0,"plan":"pro@1","rule":"sum","mode":"enforce",` +
		`"allowances":[{"allowance":"plan:pro@1","limit":1,"used":1,"reserved":0,"remaining":0,"overage":0}],"revision":4,` +
		`"considered":[{"id":"plan:pro@1","kind":"plan","ref":"pro@1","gives":"1 per month","used":true,"subscription":"sub_1",` +
		`"from":"` + min + `","amount":1,"per":"month"},{"id":"grant:g","kind":"grant","ref":"g","gives":"5","used":false,` +
		`"why":"expired","until":"` + min + `","amount":"0.5"}],"would_change":[{"kind":"wait","what":"a new window begins","limit":1,` +
		`"at":"` + min + `"},{"kind":"plan","what":"move to the plan max","target":"max","unlimited":true}]}`
	got, err := json.Marshal(e)
	if err != nil || string(got) != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
	}
	var back Explanation
	if err := json.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	if again, _ := json.Marshal(back); string(again) != want {
		t.Errorf("read and written again, got\n%s\nwant\n%s", again, want)
	}
}

// FuzzDecisionJSON: whatever the fields hold, the text is one JSON object that
// says them, and reading it gives the same text again.
func FuzzDecisionJSON(f *testing.F) {
	f.Add("acme", "plan:pro@1", int64(1250), 3, int64(1767225600000001), true)
	f.Add("\x00\x7f\xff\xed\xa0\x80\u2028</script>", "", int64(-1), 9, int64(-1), false)
	f.Add("\"\\/\b\f", "\r", int64(1)<<62, 0, int64(0), true)
	f.Fuzz(func(t *testing.T, text, id string, n int64, precision int, at int64, flag bool) {
		precision = max(0, precision) % (MaxPrecision + 1)
		n = max(n, 0)
		when := time.UnixMicro(at % MaxTime.UnixMicro()).UTC()
		d := Decision{Allowed: flag, Reason: WithinLimit, Customer: text, Feature: id, Kind: Metered, Precision: precision,
			Counted: true, Unlimited: flag, Limit: n, Used: n, Remaining: n, Excess: n, Window: &Window{End: when},
			Sources:    []string{id, text},
			Allowances: []AllowanceUse{{ID: id, Sources: []string{text, id}, Limit: n, Window: Window{Start: when}}},
			Caps:       []CapUse{{ID: text, Per: Period{1 + precision, Hour}, Limit: n}},
			Taken:      true, Consumed: n, Deductions: []Deduction{{Allowance: text, Feature: id, Precision: precision, Amount: n}},
			AsOf: when, Revision: n}
		if when.IsZero() || when.Year() < 0 {
			t.Skip()
		}
		got := d.AppendJSON(nil)
		if !utf8.Valid(got) {
			t.Fatalf("%q is not UTF-8", got)
		}
		var m map[string]any
		dec := json.NewDecoder(bytes.NewReader(got))
		dec.UseNumber()
		if err := dec.Decode(&m); err != nil {
			t.Fatalf("%v in %s", err, got)
		}
		if want := strings.ToValidUTF8(text, "\uFFFD"); utf8.ValidString(text) && m["customer"] != want {
			t.Errorf("customer: got %q, want %q", m["customer"], want)
		}
		var d2 Decision
		if err := json.Unmarshal(got, &d2); err != nil {
			t.Fatalf("%v in %s", err, got)
		}
		if again := d2.AppendJSON(nil); !bytes.Equal(again, got) {
			t.Errorf("read and written again, got\n%s\nwant\n%s", again, got)
		}
		if utf8.ValidString(text) && utf8.ValidString(id) && id != "" {
			d2.Limit, d2.Remaining = d.Limit, d.Remaining
			if !reflect.DeepEqual(d2.Deductions, d.Deductions) || !d2.AsOf.Equal(d.AsOf) || d2.Used != n {
				t.Errorf("got %+v, want %+v", d2, d)
			}
		}
	})
}
