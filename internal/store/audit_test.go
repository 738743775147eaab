package store

import (
	"encoding/json"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// TestAudit_EveryWriteIsARow: customers, catalogue, clock and keys, each in its
// own transaction, newest first.
func TestAudit_EveryWriteIsARow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		put(t, db, "acme")
		apply(t, db, CatalogChange{Hash: "one"})
		by := usher.By{Actor: usher.Actor{Kind: "key", ID: "k9"}, RequestID: "req_9", Reason: "a trial run", Cause: "job_7"}
		if err := db.SetClock(t.Context(), usher.Sandbox, day(3), by, day(1)); err != nil {
			t.Fatal(err)
		}
		k := usher.APIKey{ID: "k", Env: env, Name: "Jane's laptop", Role: "admin", Hash: []byte("h"), CreatedAt: day(1)}
		if err := db.CreateKey(t.Context(), k, usher.By{Actor: usher.Actor{Kind: "cli"}}, day(1)); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second changes nothing and says nothing
			if err := db.RevokeKey(t.Context(), "k", usher.By{Actor: usher.Actor{Kind: "cli"}}, day(2)); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.CreateKey(t.Context(), k, usher.By{Actor: usher.Actor{Kind: "cli"}}, day(1)); usher.ErrorCode(err) != usher.Conflict {
			t.Errorf("got %v, want conflict", err)
		}
		rows, err := db.Audit(t.Context(), usher.AuditQuery{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i, e := range rows {
			if want := int64(len(rows) - 1 - i); e.N != want {
				t.Errorf("row %d has place %d, want %d", i, e.N, want)
			}
			got = append(got, e.Env+" "+e.Action+" "+e.Customer)
		}
		want := []string{"production key.revoke ", "production key.create ", "sandbox clock.set ", "production catalog.apply ",
			"production test acme", " database.epoch ", " audit.key "}
		if g, w := mustJSON(t, got), mustJSON(t, want); g != w {
			t.Errorf("got  %s\nwant %s", g, w)
		}
		if e := rows[2]; e.Actor != "key:k9" || e.RequestID != by.RequestID || e.Reason != by.Reason || e.Cause != by.Cause {
			t.Errorf("got %+v, want who and why from %+v", e, by)
		}
		if r := verify(t, db, audit.Options{}); r.Total != 0 || r.Leaves != 7 {
			t.Errorf("got %+v, want no faults in 7 leaves", r)
		}
	})
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func verify(t *testing.T, db *DB, o audit.Options) *audit.Report {
	t.Helper()
	r, err := db.VerifyAudit(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
