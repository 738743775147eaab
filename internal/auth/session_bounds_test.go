package auth

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

// TestSessionsAreBounded: an operator has so many sessions at most, and a login
// ends the one that was used longest ago, on every node.
func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	other := h.node(t)
	_, bob := h.owner(t, "bob@example.com")
	first, _ := h.owner(t, "ann@example.com")
	cookies := []string{first}
	login := func() {
		t.Helper()
		h.clock.pass(time.Second)
		cookie, _, err := h.Login(t.Context(), Visit{Address: "192.0.2.1"}, "ann@example.com", goodPassword)
		if err != nil {
			t.Fatal(err)
		}
		cookies = append(cookies, cookie)
	}
	for len(cookies) < MaxSessions {
		login()
	}
	h.clock.pass(2 * touchSession)
	there(t, h.Service, first, "the oldest, in use")
	login()
	there(t, other, first, "the oldest, in use, after a login too many")
	gone(t, h.Service, cookies[1], "the one that was used longest ago")
	gone(t, other, cookies[1], "the one that was used longest ago, on another node")
	there(t, h.Service, cookies[2], "the one after that")
	there(t, h.Service, cookies[len(cookies)-1], "the new one")
	if n, err := h.EndSessions(t.Context(), &Identity{Actor: usher.Actor{Kind: "operator", ID: bob.Operator}}, usher.By{},
		bob.Operator); err != nil || n != 1 {
		t.Errorf("bob has %d sessions, %v, want the one that he had", n, err)
	}
}

// TestEndSessions: nobody ends the sessions of who may do more, but everybody
// their own.
func TestEndSessions(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	cookie, ann := h.owner(t, "ann@example.com")
	who := func(id string) *Identity {
		t.Helper()
		i, err := h.OperatorIdentity(t.Context(), id, usher.Production, h.clock.now())
		if err != nil {
			t.Fatal(err)
		}
		return &i
	}
	_, bob := h.owner(t, "bob@example.com")
	owner := who(ann.Operator)
	if _, err := h.PutRole(t.Context(), owner, usher.By{Actor: owner.Actor}, bob.Operator, NewRole{Role: RoleSecurity}); err != nil {
		t.Fatal(err)
	}
	if err := h.DeleteRole(t.Context(), owner, usher.By{Actor: owner.Actor}, bob.Operator, RoleOwner, ""); err != nil {
		t.Fatal(err)
	}
	less := who(bob.Operator)
	if _, err := h.EndSessions(t.Context(), less, usher.By{Actor: less.Actor}, ann.Operator); usher.ErrorCode(err) != usher.Forbidden {
		t.Errorf("an owner's sessions, by security: got %v, want Forbidden", err)
	}
	there(t, h.Service, cookie, "the owner's session")
	if _, err := h.EndSessions(t.Context(), owner, usher.By{Actor: owner.Actor}, "opr_nobody"); usher.ErrorCode(err) != usher.NotFound {
		t.Errorf("nobody's sessions: got %v, want NotFound", err)
	}
	for _, by := range []*Identity{less, owner} { // himself, and then there is none
		if _, err := h.EndSessions(t.Context(), by, usher.By{Actor: by.Actor}, bob.Operator); err != nil {
			t.Errorf("the sessions of security, by %s: %v", by.Actor.ID, err)
		}
	}
}

// TestTurnedAwayAtTheProvider: logins at the identity provider that come to
// nothing are in the audit log, all of a minute in one row.
func TestTurnedAwayAtTheProvider(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	forge := func(times int) {
		t.Helper()
		for range times {
			if _, _, _, err := h.FinishOIDC(t.Context(), Visit{RequestID: "r1"}, Returned{State: "zq7", Code: "zq7",
				Cookie: "zq7"}); usher.ErrorCode(err) != usher.Unauthenticated {
				t.Fatalf("got %v, want Unauthenticated", err)
			}
		}
		h.running.Wait()
	}
	forge(5)
	h.clock.pass(time.Minute)
	forge(3)
	rows, err := h.db.Audit(t.Context(), usher.AuditQuery{Action: "session."}, 10)
	if err != nil || len(rows) != 2 {
		t.Fatalf("got %d rows, %v, want one a minute", len(rows), err)
	}
	for i, want := range []int{5, 1} { // newest first; the first counts itself, the next what came since
		var after struct {
			Failures int
			Method   string
		}
		if err := json.Unmarshal(rows[i].After, &after); err != nil || after.Failures != want || after.Method != usher.LoginOIDC ||
			rows[i].Action != "session.refuse" || rows[i].Actor != "system" || rows[i].Object != "" || rows[i].RequestID != "r1" {
			t.Errorf("row %d: got %+v %s, %v, want %d failures", i, rows[i], rows[i].After, err, want)
		}
	}
}
