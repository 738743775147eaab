package customers

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
	"github.com/usher-sh/usher/internal/store"
)

// TestAudit_WhatChanged: rows say what it was and what it is, and why.
func TestAudit_WhatChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	put := func(in CustomerInput) {
		t.Helper()
		if _, _, err := w.s.PutCustomer(t.Context(), env, who, Guard{}, "acme", in); err != nil {
			t.Fatal(err)
		}
	}
	put(CustomerInput{Name: "Acme"})
	put(CustomerInput{Name: "Acme Inc", Timezone: "Europe/Berlin", Metadata: map[string]string{"owner": "Jane"}})
	o, err := w.s.AddOverride(t.Context(), env, who, Guard{}, "acme", NewOverride{Feature: "retention", Value: json.RawMessage(`90`),
		Reason: "ticket 7", Expires: "never"})
	if err != nil {
		t.Fatal(err)
	}
	longer := ExceptionPatch{ExpiresAt: later(90), Reason: "ticket 8"}
	if _, err := w.s.PatchOverride(t.Context(), env, who, Guard{}, o.ID, longer); err != nil {
		t.Fatal(err)
	}
	if err := w.s.RemoveOverride(t.Context(), env, who, Guard{}, o.ID); err != nil {
		t.Fatal(err)
	}
	g, err := w.s.AddGrant(t.Context(), env, who, Guard{}, "acme", NewGrant{Feature: "api_calls", Amount: "5", Reason: "sorry"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second changes nothing and is not recorded
		if _, err := w.s.PatchGrant(t.Context(), env, who, Guard{}, g.ID, ExceptionPatch{ExpiresAt: later(1)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.s.VoidGrant(t.Context(), env, who, Guard{}, g.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.Subscribe(t.Context(), env, who, Guard{}, "acme", NewSubscription{Plan: "pro"}); err != nil {
		t.Fatal(err)
	}
	rows, err := w.db.Audit(t.Context(), usher.AuditQuery{Customer: "acme"}, 100)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{ // newest first: action, reason, parts of before and of after
		{"subscription.create", "", `{"customer":{"anchor":"2026-03-10T12:00:00Z","timezone":"Europe/Berlin"}}`, `"subscriptions":[{`,
			`"ref":"pro@1"`},
		{"grant.void", "", `"grants":[{"amount":5,`, `"voided_at":"2026-03-10T12:00:30Z"`},
		{"grant.change", "sorry", `"grants":[{"amount":5,`, `"expires_at":"2026-03-11T12:00:30Z"`},
		{"grant.create", "sorry", ``, `"grants":[{"amount":5,`},
		{"override.delete", "", `"value":90`, ``},
		{"override.change", "ticket 8", `"reason":"ticket 7"`, `"expires_at":"2026-06-08T12:00:30Z"`, `"reason":"ticket 8"`},
		{"override.create", "ticket 7", ``, `"value":90`},
		{"customer.put", "", `{"customer":{"anchor":"2026-03-10T12:00:00Z"}}`,
			`{"customer":{"anchor":"2026-03-10T12:00:00Z","changed":["name","metadata"],"timezone":"Europe/Berlin"}}`},
		{"customer.put", "", ``, `"changed":["name"]`},
	}
	if len(rows) != len(want) {
		t.Fatalf("got %d rows, want %d", len(rows), len(want))
	}
	for i, e := range rows {
		if e.Action != want[i][0] || e.Reason != want[i][1] || e.Actor != "key:k1" || e.RequestID != "req_1" || e.Customer != "acme" ||
			e.Clock == nil || e.Revision == 0 {
			t.Errorf("row %d: got %+v, want %q", e.N, e, want[i])
		}
		if !bytes.Contains(e.Before, []byte(want[i][2])) || want[i][2] == "" && e.Before != nil {
			t.Errorf("%s, before: got %s, want %s", e.Action, e.Before, want[i][2])
		}
		for _, part := range want[i][3:] {
			if !bytes.Contains(e.After, []byte(part)) || part == "" && e.After != nil {
				t.Errorf("%s, after: got %s, want %s", e.Action, e.After, part)
			}
		}
	}
}

// TestAudit_ErasureLeavesTheLogWhole: a deleted customer's name and metadata are
// nowhere in the log, which verifies as before.
func TestAudit_ErasureLeavesTheLogWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	personal := []string{"Jane Doe", "jane@example.com", "crm_owner_key"}
	in := CustomerInput{Name: personal[0], Metadata: map[string]string{personal[2]: personal[1]}}
	if _, _, err := w.s.PutCustomer(t.Context(), env, who, Guard{}, "c-81", in); err != nil {
		t.Fatal(err)
	}
	in.Name += " 2"
	if _, _, err := w.s.PutCustomer(t.Context(), env, who, Guard{}, "c-81", in); err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.Subscribe(t.Context(), env, who, Guard{}, "c-81", NewSubscription{Plan: "pro"}); err != nil {
		t.Fatal(err)
	}
	if err := w.s.DeleteCustomer(t.Context(), env, who, Guard{}, "c-81"); err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	n, err := w.db.ExportAudit(t.Context(), &all, store.AuditExport{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(all.String(), "customer.delete") || !strings.Contains(all.String(), "c-81") {
		t.Error("the export does not have the rows")
	}
	for _, s := range personal {
		if strings.Contains(all.String(), s) {
			t.Errorf("the log holds %q", s)
		}
	}
	r, err := w.db.VerifyAudit(t.Context(), audit.Options{}, nil)
	if err != nil || r.Total != 0 || r.Leaves != n {
		t.Errorf("got %+v, %v, want %d rows and no faults", r, err, n)
	}
	if head, err := w.db.AuditHead(t.Context()); err != nil {
		t.Error(err)
	} else if r, h, err := audit.VerifyExport(&all, audit.Options{Keys: []string{head.Key}}); err != nil || r.Total != 0 || h.Filter != nil {
		t.Errorf("the export: got %+v, %v", r, err)
	}
	// A part of it, by customer.
	var some bytes.Buffer
	if n, err = w.db.ExportAudit(t.Context(), &some,
		store.AuditExport{AuditQuery: usher.AuditQuery{Envs: []usher.Environment{env}, Customer: "c-81"}}); err != nil || n != 4 {
		t.Errorf("by customer: %d rows, %v, want 4", n, err)
	}
	if r, h, err := audit.VerifyExport(&some, audit.Options{}); err != nil || r.Total != 0 || r.Proofs != 4 || h.Filter["customer"] != "c-81" {
		t.Errorf("by customer: got %+v, %v", r, err)
	}
}

// later is noon and some days.
func later(days int) *time.Time { t := noon.AddDate(0, 0, days); return &t }

// TestException_EndedIsNotChanged: a later end of what has ended would cover use that was
// counted without it.
func TestException_EndedIsNotChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.s
	if _, _, err := s.PutCustomer(t.Context(), env, who, Guard{}, "acme", CustomerInput{}); err != nil {
		t.Fatal(err)
	}
	o, err := s.AddOverride(t.Context(), env, who, Guard{}, "acme", NewOverride{Feature: "retention", Value: []byte("90"), Reason: "r",
		ExpiresAt: later(1)})
	if err != nil {
		t.Fatal(err)
	}
	g, err := s.AddGrant(t.Context(), env, who, Guard{}, "acme", NewGrant{Feature: "api_calls", Amount: "5", Reason: "r",
		EffectiveAt: later(3), ExpiresAt: later(4)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.PatchGrant(t.Context(), env, who, Guard{}, g.ID, ExceptionPatch{ExpiresAt: later(2)})
	if usher.ErrorCode(err) != usher.Invalid {
		t.Errorf("a grant that ends before it begins: got %v", err)
	}
	w.clock(*later(4))
	_, err = s.PatchOverride(t.Context(), env, who, Guard{}, o.ID, ExceptionPatch{ExpiresAt: later(9)})
	if usher.ErrorCode(err) != usher.Conflict {
		t.Errorf("got %v, want a conflict: the override has ended", err)
	}
	_, err = s.PatchGrant(t.Context(), env, who, Guard{}, g.ID, ExceptionPatch{Expires: "never"})
	if usher.ErrorCode(err) != usher.Conflict {
		t.Errorf("got %v, want a conflict: the grant has ended", err)
	}
}
