package auth

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

func TestRotation(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ctx := t.Context()
	n := NewKey{Name: "ci", ExpiresAt: h.clock.now().Add(1000 * time.Hour),
		Role: RoleSCIM, Customer: "acme", NoProperties: true, Rate: usher.RateLimit{PerSecond: 5, Burst: 9}}
	first, k, err := h.CreateKey(ctx, by(), usher.Sandbox, n)
	if err != nil {
		t.Fatal(err)
	}
	second, next, err := h.RotateKey(ctx, by(), usher.Sandbox, k.ID, time.Hour, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if next.ID == k.ID || next.Name != "ci" || next.Role != RoleSCIM || next.Customer != "acme" || !next.NoProperties ||
		next.Rate != n.Rate || !next.ExpiresAt.Equal(n.ExpiresAt) || next.Line != k.ID || next.Env != usher.Sandbox {
		t.Errorf("got %+v, want a key like the first", next)
	}
	i, err := h.Authenticate(ctx, "Bearer "+second)
	if err != nil || i.Customer != "acme" || i.Properties || i.Rate != n.Rate || !i.Allows(PermSCIM) {
		t.Errorf("got %+v, %v", i, err)
	}
	accepted(t, h.Service, first)
	for _, id := range []string{k.ID, next.ID} { // two live at most
		_, _, err = h.RotateKey(ctx, by(), usher.Sandbox, id, time.Hour, time.Time{})
		code(t, "a third", err, usher.Conflict)
	}
	_, _, err = h.RotateKey(ctx, by(), usher.Production, next.ID, time.Hour, time.Time{})
	code(t, "from the other environment", err, usher.NotFound)
	h.clock.pass(time.Hour)
	refused(t, h.Service, "Bearer "+first, "expired")
	accepted(t, h.Service, second)
	_, _, err = h.RotateKey(ctx, by(), usher.Sandbox, k.ID, time.Hour, time.Time{})
	code(t, "of one that has ended", err, usher.Refused)
	_, _, err = h.RotateKey(ctx, by(), usher.Sandbox, next.ID, MaxGrace+1, time.Time{})
	code(t, "a long grace", err, usher.Invalid)
	third, _, err := h.RotateKey(ctx, by(), usher.Sandbox, next.ID, 0, h.clock.now().Add(time.Hour)) // at once
	if err != nil {
		t.Fatal(err)
	}
	accepted(t, h.Service, third)
	refused(t, h.Service, "Bearer "+second, "expired")
}

// TestRotationsAtOnce: of many, one is done.
func TestRotationsAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, k := h.create(t, usher.Production, RoleApp, time.Time{})
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wg.Go(func() {
			_, _, errs[i] = h.RotateKey(context.Background(), by(), usher.Production, k.ID, time.Hour, time.Time{})
		})
	}
	wg.Wait()
	done := 0
	for _, err := range errs {
		if err == nil {
			done++
		} else if usher.ErrorCode(err) != usher.Conflict {
			t.Error(err)
		}
	}
	if done != 1 {
		t.Errorf("%d rotations were done at once, want 1", done)
	}
}

func TestAKeyMakesNoMoreThanItself(t *testing.T) {
	t.Parallel()
	developer := func(env usher.Environment) *Identity {
		return &Identity{Env: env, Actor: usher.Actor{Kind: "key"}, Properties: true, perms: gives(RoleDeveloper, env)}
	}
	acme := &Identity{Env: usher.Production, Actor: usher.Actor{Kind: "key"}, Customer: "acme", perms: gives(RoleAdmin, usher.Production)}
	slow := func(perSecond, burst int64) *Identity {
		return &Identity{Env: usher.Production, Actor: usher.Actor{Kind: "key"}, Properties: true,
			Rate: usher.RateLimit{PerSecond: perSecond, Burst: burst}, perms: gives(RoleAdmin, usher.Production)}
	}
	for _, c := range []struct {
		who  *Identity
		n    NewKey
		want bool
	}{
		{developer(usher.Production), NewKey{Role: RoleDeveloper}, true},
		{developer(usher.Production), NewKey{Role: RoleApp}, false},
		{developer(usher.Production), NewKey{Role: RoleAdmin}, false},
		{developer(usher.Sandbox), NewKey{Role: RoleAdmin}, true},
		{acme, NewKey{Role: RoleApp, Customer: "acme", NoProperties: true}, true},
		{acme, NewKey{Role: RoleApp, Customer: "acme"}, false},
		{acme, NewKey{Role: RoleApp, NoProperties: true}, false},
		{acme, NewKey{Role: RoleSCIM, Customer: "bravo", NoProperties: true}, false},
		{&Identity{Env: usher.Production}, NewKey{Role: RoleOFREP}, false},
		{slow(10, 0), NewKey{Role: RoleApp}, false},
		{slow(10, 0), NewKey{Role: RoleApp, Rate: usher.RateLimit{PerSecond: 11}}, false},
		{slow(10, 0), NewKey{Role: RoleApp, Rate: usher.RateLimit{PerSecond: 10}}, true},
		{slow(10, 0), NewKey{Role: RoleApp, Rate: usher.RateLimit{PerSecond: 1, Burst: 11}}, false},
		{slow(10, 5), NewKey{Role: RoleApp, Rate: usher.RateLimit{PerSecond: 10}}, false},
		{slow(10, 5), NewKey{Role: RoleApp, Rate: usher.RateLimit{PerSecond: 10, Burst: 5}}, true},
		{slow(10, 5), NewKey{Role: RoleApp, Rate: usher.RateLimit{PerSecond: 5}}, true},
		{slow(0, 5), NewKey{Role: RoleApp}, false},
		{slow(0, 5), NewKey{Role: RoleApp, Rate: usher.RateLimit{Burst: 5}}, true},
		{slow(0, 0), NewKey{Role: RoleApp, Rate: usher.RateLimit{PerSecond: MaxRate}}, true},
	} {
		if err := c.who.MayMake(c.n); (err == nil) != c.want || err != nil && usher.ErrorCode(err) != usher.Forbidden {
			t.Errorf("%+v: got %v, want %v", c.n, err, c.want)
		}
	}
}
