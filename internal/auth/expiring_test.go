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
	if _, err := m.PutRole(ctx, m.who(t, m.owner, usher.Production), m.of(m.owner), deputy, NewRole{Role: RoleOwner, Until: &until}); err != nil {
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
	by := By{Actor: short.Actor}
	_, err = m.PutRole(ctx, &short, by, deputy, NewRole{Role: RoleOwner})
	code(t, "its maker an owner for good", err, usher.Forbidden)
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
