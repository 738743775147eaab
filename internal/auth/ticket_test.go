package auth_test

import (
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/store"
)

// TestTickets: a ticket made on one node holds on another, for one to two hours,
// while its key does, and for nothing else.
func TestTickets(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db, err := store.Open(ctx, store.Config{DSN: filepath.Join(t.TempDir(), "usher.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var past atomic.Int64
	now := func() time.Time {
		return time.Date(2026, 3, 10, 12, 40, 0, 0, time.UTC).Add(time.Duration(past.Load()))
	}
	a, b := auth.New(auth.Config{DB: db, Now: now}), auth.New(auth.Config{DB: db, Now: now})
	defer a.Close()
	defer b.Close()
	issue := func() (auth.Identity, string) {
		t.Helper()
		key, _, err := a.Create(ctx, usher.Actor{Kind: "cli"}, usher.Production, "", auth.RoleApp, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		i, err := a.Authenticate(ctx, "Bearer "+key)
		if err != nil {
			t.Fatal(err)
		}
		ticket, err := a.Ticket(ctx, &i, "acme\x00alice")
		if err != nil {
			t.Fatal(err)
		}
		return i, ticket
	}
	i, ticket := issue()
	if again, _ := a.Ticket(ctx, &i, "acme\x00alice"); again != ticket {
		t.Errorf("got %s, then %s: within an hour it is the same", ticket, again)
	}
	got, scope, until, err := b.Redeem(ctx, ticket)
	if err != nil || scope != "acme\x00alice" || got.Actor != i.Actor || got.Env != i.Env ||
		!until.Equal(time.Date(2026, 3, 10, 14, 0, 0, 0, time.UTC)) {
		t.Errorf("got %+v %q %v %v, want %+v", got, scope, until, err, i)
	}
	refused := func(ticket string) {
		t.Helper()
		if _, _, _, err := b.Redeem(ctx, ticket); usher.ErrorCode(err) != usher.Unauthenticated {
			t.Errorf("%q: got %v, want it refused", ticket, err)
		}
	}
	for at := range ticket { // each character counts
		c := byte('A')
		if ticket[at] == c {
			c = 'B'
		}
		refused(ticket[:at] + string(c) + ticket[at+1:])
		refused(ticket[:at])
	}
	_, other := issue()
	id, rest, _ := strings.Cut(ticket, ".")
	otherID, otherRest, _ := strings.Cut(other, ".")
	for _, wrong := range []string{"", ".", "...", ticket + "=", ticket + ".", id + "." + otherRest, otherID + "." + rest,
		strings.Repeat("x", 5000) + "." + ticket} {
		refused(wrong)
	}
	past.Add(int64(80*time.Minute - time.Second))
	if _, _, _, err := b.Redeem(ctx, ticket); err != nil {
		t.Errorf("just before its end: got %v", err)
	}
	past.Add(int64(time.Second))
	refused(ticket)

	i, ticket = issue()
	if _, _, _, err := b.Redeem(ctx, ticket); err != nil {
		t.Error(err)
	}
	if err := a.Revoke(ctx, usher.Actor{Kind: "cli"}, i.Actor.ID); err != nil {
		t.Fatal(err)
	}
	past.Add(int64(time.Second))
	refused(ticket)
	if _, err := a.Ticket(ctx, &auth.Identity{Actor: usher.Actor{Kind: "operator", ID: "o"}}, "x"); usher.ErrorCode(err) != usher.Forbidden {
		t.Errorf("for a caller that is not a key: got %v, want forbidden", err)
	}
}
