package api

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzStrictJSON: what the reader takes is JSON, and what it refuses of valid
// JSON is one of the things that it promises to refuse.
func FuzzStrictJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,-0.5e+7,"x\u00e9\ud83d\ude00",true,null,{}],"b":""}`, `{"a":1,"a":2}`, `"\u0000"`, `"\ud800x"`, "\"\xff\"", `[1,]`, `01`, ` 7 `, `{"a" : "\\\"\/\b\f\n\r\t"}`,
		strings.Repeat("[", 32) + strings.Repeat("]", 32), strings.Repeat("[", 33) + strings.Repeat("]", 33), `{"customer":"acme","feature":"f","amount":"1.50","at":"2026-01-01T00:00:00Z"}`,
		`{"a":1,"\u0061":2}`, `{"a1":1,"a2":1,"a3":1,"a4":1,"a5":1,"a6":1,"a7":1,"a8":1,"a9":1,"a10":1,"a11":1,"a12":1,"a13":1,"a14":1,"a15":1,"a16":1,"a17":1,"a17":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := checkJSON(b)
		valid := json.Valid(b)
		if err == nil && !valid {
			t.Fatalf("%q was taken", b)
		}
		if err == nil && !utf8.Valid(b) {
			t.Fatalf("%q is not UTF-8 and was taken", b)
		}
		if err != nil && valid && utf8.Valid(b) {
			m := err.Error()
			if !strings.Contains(m, "twice") && !strings.Contains(m, "deeper") && !strings.Contains(m, "surrogate") && !strings.Contains(m, `\u0000`) {
				t.Fatalf("%q was refused: %v", b, err)
			}
		}
		// A text reads as encoding/json reads it.
		if err == nil && len(b) > 0 && b[0] == '"' {
			var want string
			if json.Unmarshal(b, &want) == nil {
				r := reader{b: b}
				if got := r.string("body"); got != want {
					t.Fatalf("%q: got %q, want %q", b, got, want)
				}
			}
		}
		// Nothing makes the door fall, and what passes is whole.
		var r reader
		r.reset(b)
		q := readQuery(&r, "body")
		if err := r.err(); err == nil && (q.Customer == "" || q.Feature == "" || !valid) {
			t.Fatalf("%q was read as %+v", b, q)
		}
		if qs, _, err := readBatch(&r, b); err == nil && (!valid || len(qs) > maxChecks) {
			t.Fatalf("%q was read as %d checks", b, len(qs))
		}
		if op, _, err := readConsume(&r, b, "key"); err == nil && (op.Customer == "" || op.Feature == "" || op.Key == "") {
			t.Fatalf("%q was read as %+v", b, op)
		}
		r.reset(b)
		r.soft = true
		r.event()
		if !r.broken && r.err() == nil && !valid {
			t.Fatalf("%q was taken for an event", b)
		}
	})
}
