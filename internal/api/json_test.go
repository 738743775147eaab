package api

import (
	"encoding/json"
	"testing"

	"github.com/usher-sh/usher/internal/door"
)

// FuzzBodies: no body makes a reader panic, and what a reader accepts is JSON
// with everything that the route needs.
func FuzzBodies(f *testing.F) {
	for _, s := range []string{
		`{"customer":"acme","feature":"f","amount":"1.50","at":"2026-01-01T00:00:00Z"}`,
		`{"customer":"acme","feature":"f","member":"m","permission":"p","resource":{"type":"t","id":"i","properties":{"a":1}},` +
			`"context":{"b":[true]}}`,
		`{"checks":[{"customer":"acme","feature":"f"}],"min_revision":3}`, `{"a":1,"a":2}`, `[1,]`,
		`{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"acme","time":"2026-01-01T00:00:00Z","data":{"n":1}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		valid := json.Valid(b)
		var r door.Reader
		r.Reset(b)
		q := readQuery(&r, "body")
		if err := r.Err(); err == nil && (q.Customer == "" || q.Feature == "" || !valid) {
			t.Fatalf("%q was read as %+v", b, q)
		}
		if qs, _, err := readBatch(&r, b); err == nil && (!valid || len(qs) > maxChecks) {
			t.Fatalf("%q was read as %d checks", b, len(qs))
		}
		if op, _, err := readConsume(&r, b, "key"); err == nil && (op.Customer == "" || op.Feature == "" || op.Key == "") {
			t.Fatalf("%q was read as %+v", b, op)
		}
		r.Reset(b)
		r.Soft = true
		readEvent(&r)
		if !r.Broken() && r.Err() == nil && !valid {
			t.Fatalf("%q was taken for an event", b)
		}
	})
}
