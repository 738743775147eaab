package auth

import (
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

// TestAKeyHandsOnNothingForLongerThanItLives: who holds a role for a while may
// make a key that ends with it, and that key must not make what stays.
func TestAKeyHandsOnNothingForLongerThanItLives(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	ctx := t.Context()
	until := m.clock.now().Add(time.Hour)
	deputy := m.hire(t, RoleSupport)
	if _, err := m.PutRole(ctx, m.who(t, m.owner, usher.Production), m.of(m.owner), deputy,
		NewRole{Role: RoleOwner, Until: &until}); err != nil {
		t.Fatal(err)
	}
	n := NewKey{Role: RoleAdmin, ExpiresAt: until}
	d := m.who(t, deputy, usher.Production)
	if err := d.MayMake(n); err != nil {
		t.Fatal(err)
	}
	key, _, err := m.CreateKey(ctx, m.of(deputy), usher.Production, n)
	if err != nil {
		t.Fatal(err)
	}
	short, err := m.Authenticate(ctx, "Bearer "+key)
	if err != nil {
		t.Fatal(err)
	}
	if !short.Allows(PermKeysWrite) {
		t.Fatal("the key may not make keys, so this shows nothing")
	}
	late := until.Add(time.Second)
	code(t, "an eternal key", short.MayMake(NewKey{Role: RoleAdmin}), usher.Forbidden)
	code(t, "a key for longer", short.MayMake(NewKey{Role: RoleRead, ExpiresAt: late}), usher.Forbidden)
	if err := short.MayMake(n); err != nil {
		t.Errorf("a key for as long: %v", err)
	}
	by := usher.By{Actor: short.Actor}
	_, err = m.PutRole(ctx, &short, by, deputy, NewRole{Role: RoleOwner})
	code(t, "its maker a permanent owner", err, usher.Forbidden)
	_, err = m.PutRole(ctx, &short, by, deputy, NewRole{Role: RoleOwner, Until: &late})
	code(t, "its maker an owner for longer", err, usher.Forbidden)
	if _, err := m.PutRole(ctx, &short, by, deputy, NewRole{Role: RoleSales, Until: &until}); err != nil {
		t.Errorf("a role for as long: %v", err)
	}
	// What ends is taken away all the same.
	if err := m.DeleteRole(ctx, &short, by, deputy, RoleSales, ""); err != nil {
		t.Error(err)
	}
}

// TestATryThatWasNotHeardCountsForNothing: while too many passwords are checked,
// who is sent away with a 503 has not failed.
func TestATryThatWasNotHeardCountsForNothing(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	h.owner(t, "ada@example.com")
	for range hashers + waiting {
		h.passwords.queue <- struct{}{}
	}
	v := Visit{Address: "192.0.2.1"}
	for range 2 * addressTries {
		_, _, err := h.Login(t.Context(), v, "ada@example.com", goodPassword)
		code(t, "a login while too many wait", err, usher.Unavailable)
	}
	for range hashers + waiting {
		<-h.passwords.queue
	}
	if _, _, err := h.Login(t.Context(), v, "ada@example.com", goodPassword); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	// What others earned meanwhile stays.
	for range freeTries {
		h.Login(t.Context(), v, "ada@example.com", "not this one at all")
	}
	for range hashers + waiting {
		h.passwords.queue <- struct{}{}
	}
	h.Login(t.Context(), v, "ada@example.com", "nor this one, either")
	for range hashers + waiting {
		<-h.passwords.queue
	}
	_, _, err := h.Login(t.Context(), v, "ada@example.com", goodPassword)
	code(t, "a login of an account that waits", err, usher.Unauthenticated)
}
