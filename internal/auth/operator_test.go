package auth

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

func by() usher.By { return usher.By{Actor: usher.Actor{Kind: "cli"}} }

// team is a house with an owner, made the way that the first one is.
type team struct {
	*house
	owner string
}

func newTeam(t *testing.T) *team {
	t.Helper()
	h := newHouse(t)
	token, _, err := h.OwnerToken(t.Context(), by())
	if err != nil {
		t.Fatal(err)
	}
	o, err := h.RedeemOwnerToken(t.Context(), token, NewOperator{Name: "Ada", Email: "Ada@Example.com"})
	if err != nil {
		t.Fatal(err)
	}
	return &team{h, o.ID}
}

func (m *team) who(t *testing.T, id string, env usher.Environment) *Identity {
	t.Helper()
	i, err := m.OperatorIdentity(t.Context(), id, env, m.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	return &i
}

func (m *team) of(id string) usher.By { return usher.By{Actor: usher.Actor{Kind: "operator", ID: id}} }

// hire makes an operator with roles, "role" or "role/environment".
func (m *team) hire(t *testing.T, roles ...string) string {
	t.Helper()
	o, err := m.CreateOperator(t.Context(), m.of(m.owner), NewOperator{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range roles {
		role, env, _ := strings.Cut(r, "/")
		if _, err := m.PutRole(t.Context(), m.who(t, m.owner, usher.Production), m.of(m.owner), o.ID,
			NewRole{Role: role, Environment: usher.Environment(env)}); err != nil {
			t.Fatal(err)
		}
	}
	return o.ID
}

func code(t *testing.T, what string, err error, want usher.Code) {
	t.Helper()
	if usher.ErrorCode(err) != want || err == nil {
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}

func TestOwnerTokensAreForOneUseAndOneDay(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ctx := t.Context()
	token, expires, err := h.OwnerToken(ctx, by())
	if err != nil || !strings.HasPrefix(token, "uso_") || len(token) != 4+secretLen+sumLen || !expires.Equal(h.clock.now().Add(24*time.Hour)) {
		t.Fatalf("got %q until %v, %v", token, expires, err)
	}
	other := "a"
	if token[4] == 'a' {
		other = "b"
	}
	_, err = h.RedeemOwnerToken(ctx, token[:4]+other+token[5:], NewOperator{})
	code(t, "another token", err, usher.Unauthenticated)
	_, err = h.RedeemOwnerToken(ctx, "", NewOperator{})
	code(t, "no token", err, usher.Unauthenticated)
	_, err = h.RedeemOwnerToken(ctx, token, NewOperator{Email: "no address"})
	code(t, "no address", err, usher.Invalid) // and the token is not used up

	// Many at once: one owner.
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 8 {
		wg.Go(func() {
			_, err := h.RedeemOwnerToken(context.Background(), token, NewOperator{})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else if usher.ErrorCode(err) != usher.Unauthenticated {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("%d owners came of one token, want 1", made)
	}
	token, _, err = h.OwnerToken(ctx, by())
	if err != nil {
		t.Fatal(err)
	}
	h.clock.pass(24 * time.Hour)
	_, err = h.RedeemOwnerToken(ctx, token, NewOperator{})
	code(t, "a token of yesterday", err, usher.Unauthenticated)
}

func TestOperatorIdentity(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	ctx := t.Context()
	o := m.who(t, m.owner, usher.Sandbox)
	if o.Env != usher.Sandbox || o.Actor != (usher.Actor{Kind: "operator", ID: m.owner}) || !o.Allows(PermOperatorsWrite) ||
		!o.Allows(PermKeysWrite) {
		t.Errorf("got %+v, want an owner of both environments", o)
	}
	_, err := m.OperatorIdentity(ctx, "opr_nobody", usher.Production, m.clock.now())
	code(t, "nobody", err, usher.Unauthenticated)
	_, err = m.OperatorIdentity(ctx, m.owner, "", m.clock.now())
	code(t, "nowhere", err, usher.Invalid)

	dev := m.hire(t, RoleDeveloper)
	p, s := m.who(t, dev, usher.Production), m.who(t, dev, usher.Sandbox)
	if p.Allows(PermCatalogWrite) || !p.Allows(PermCatalogRead) || !p.Allows(PermKeysWrite) || !s.Allows(PermCatalogWrite) ||
		s.Allows(PermOperatorsWrite) || s.Allows(PermElevationApprove) {
		t.Error("a developer may do everything in the sandbox and read in production; operators are of the installation")
	}
	pricing := m.hire(t, RolePricing+"/sandbox")
	if m.who(t, pricing, usher.Production).Allows(PermDecide) || !m.who(t, pricing, usher.Sandbox).Allows(PermCatalogWrite) {
		t.Error("a role of the sandbox gives something in production, or nothing there")
	}
	if none := m.who(t, m.hire(t), usher.Production); none.perms != 0 {
		t.Error("an operator without a role may do something")
	}

	// [from, until)
	until := m.clock.now().Add(2 * time.Hour)
	later := m.hire(t)
	if _, err := m.PutRole(ctx, m.who(t, m.owner, usher.Production), m.of(m.owner), later,
		NewRole{Role: RoleSales, From: m.clock.now().Add(time.Hour), Until: &until}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{false, true, false} {
		if got := m.who(t, later, usher.Production).Allows(PermGrantsWrite); got != want {
			t.Errorf("at %v: got %v, want %v", m.clock.now(), got, want)
		}
		m.clock.pass(time.Hour)
	}
}

// TestAnOperatorIsOutWithinASecond: on this node at once, on another without
// being told.
func TestAnOperatorIsOutWithinASecond(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	ctx := t.Context()
	other := New(Config{DB: m.db, Now: m.clock.now})
	t.Cleanup(other.Close)
	id := m.hire(t, RoleSupport)
	see := func(s *Service) bool {
		i, err := s.OperatorIdentity(ctx, id, usher.Production, m.clock.now())
		return err == nil && i.Allows(PermMembersWrite)
	}
	if !see(m.Service) || !see(other) {
		t.Fatal("support may not write members")
	}
	if err := m.DeleteRole(ctx, m.who(t, m.owner, usher.Production), m.of(m.owner), id, RoleSupport, ""); err != nil {
		t.Fatal(err)
	}
	if see(m.Service) {
		t.Error("the role still holds on the node that took it")
	}
	m.clock.pass(maxAge)
	if see(other) {
		t.Error("the role still holds elsewhere")
	}
	no := false
	if _, err := m.UpdateOperator(ctx, m.who(t, m.owner, usher.Production), m.of(m.owner), id, usher.OperatorUpdate{Active: &no}); err != nil {
		t.Fatal(err)
	}
	_, err := m.OperatorIdentity(ctx, id, usher.Production, m.clock.now())
	code(t, "who is not active", err, usher.Unauthenticated)
}

// TestNobodyRaisesTheirOwnRights (A12).
func TestNobodyRaisesTheirOwnRights(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	ctx := t.Context()
	give := func(from *Identity, to, role string, env usher.Environment, until *time.Time) error {
		_, err := m.PutRole(ctx, from, usher.By{Actor: from.Actor}, to, NewRole{Role: role, Environment: env, Until: until})
		return err
	}
	code(t, "an owner to itself", give(m.who(t, m.owner, usher.Production), m.owner, RoleSales, "", nil), usher.Forbidden)
	friend := m.hire(t)
	// A caller who may write operators, and no more than support may: an owner
	// in production only gives nothing for both... but what is held in
	// production is held for the sandbox too.
	half := m.hire(t, RoleOwner+"/production")
	if err := give(m.who(t, half, usher.Production), friend, RoleSupport, usher.Sandbox, nil); err != nil {
		t.Error(err)
	}
	key, _ := m.create(t, usher.Sandbox, RoleAdmin, time.Time{})
	sandbox, err := m.Authenticate(ctx, "Bearer "+key)
	if err != nil {
		t.Fatal(err)
	}
	code(t, "a sandbox key for production", give(&sandbox, friend, RoleSupport, usher.Production, nil), usher.Forbidden)
	code(t, "a sandbox key for both", give(&sandbox, friend, RoleSupport, "", nil), usher.Forbidden)
	support := m.who(t, m.hire(t, RoleSupport), usher.Production)
	code(t, "support makes an owner", give(support, friend, RoleOwner, "", nil), usher.Forbidden)
	_, err = m.UpdateOperator(ctx, support, usher.By{}, m.owner, usher.OperatorUpdate{Email: new(string)})
	code(t, "support takes an owner's address", err, usher.Forbidden)
	code(t, "support deletes an owner", m.DeleteOperator(ctx, support, usher.By{}, m.owner), usher.Forbidden)
	code(t, "support takes an owner's role", m.DeleteRole(ctx, support, usher.By{}, m.owner, RoleOwner, ""), usher.Forbidden)

	// What is held for a while is not handed on for longer.
	until := m.clock.now().Add(time.Hour)
	m.hire(t, RoleOwner)
	deputy := m.hire(t)
	if err := give(m.who(t, m.owner, usher.Production), deputy, RoleOwner, "", &until); err != nil {
		t.Fatal(err)
	}
	d := m.who(t, deputy, usher.Production)
	code(t, "a permanent deputy", give(d, friend, RoleSales, "", nil), usher.Forbidden)
	longer := until.Add(time.Second)
	code(t, "a deputy for longer", give(d, friend, RoleSales, "", &longer), usher.Forbidden)
	if err := give(d, friend, RoleSales, "", &until); err != nil {
		t.Errorf("for as long: %v", err)
	}
	code(t, "a deputy's eternal key", d.MayMake(NewKey{Role: RoleAdmin}), usher.Forbidden)
	if err := d.MayMake(NewKey{Role: RoleAdmin, ExpiresAt: until}); err != nil {
		t.Errorf("a deputy's key for as long: %v", err)
	}
}

// TestTheLastOwnerStays: even if two leave at the same time (A12).
func TestTheLastOwnerStays(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	ctx := t.Context()
	cli := &Identity{Env: usher.Production, Actor: usher.Actor{Kind: "key", ID: "k"}, perms: gives(RoleAdmin, usher.Production)}
	no, until := false, m.clock.now().Add(time.Hour)
	_, err := m.UpdateOperator(ctx, cli, by(), m.owner, usher.OperatorUpdate{Active: &no})
	code(t, "deactivated", err, usher.Refused)
	code(t, "deleted", m.DeleteOperator(ctx, cli, by(), m.owner), usher.Refused)
	code(t, "demoted", m.DeleteRole(ctx, cli, by(), m.owner, RoleOwner, ""), usher.Refused)
	_, err = m.PutRole(ctx, cli, by(), m.owner, NewRole{Role: RoleOwner, Until: &until})
	code(t, "until a date", err, usher.Refused)
	_, err = m.PutRole(ctx, cli, by(), m.owner, NewRole{Role: RoleOwner, From: until})
	code(t, "from a date", err, usher.Refused)
	// An owner of one environment, and one who is not active, are no help.
	m.hire(t, RoleOwner+"/production")
	idle := m.hire(t, RoleOwner)
	if _, err := m.UpdateOperator(ctx, cli, by(), idle, usher.OperatorUpdate{Active: &no}); err != nil {
		t.Fatal(err)
	}
	code(t, "with half an owner", m.DeleteOperator(ctx, cli, by(), m.owner), usher.Refused)
	if o, err := m.Operator(ctx, m.owner); err != nil || len(o.Roles) != 1 || !o.Active || o.Email != "ada@example.com" {
		t.Errorf("got %+v, %v, want the owner as it was", o, err)
	}
	// Ten pairs go at once: one of each stays.
	last := m.owner
	for range 10 {
		pair := []string{last, m.hire(t, RoleOwner)}
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, id := range pair {
			wg.Go(func() { errs[i] = m.DeleteOperator(context.Background(), cli, by(), id) })
		}
		wg.Wait()
		switch {
		case errs[0] == nil && usher.ErrorCode(errs[1]) == usher.Refused:
			last = pair[1]
		case errs[1] == nil && usher.ErrorCode(errs[0]) == usher.Refused:
			last = pair[0]
		default:
			t.Fatalf("got %v, want that one goes and one stays", errs)
		}
		m.owner = last
	}
}

func TestElevation(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	ctx := t.Context()
	ask := func(id string, n NewElevation) (usher.Elevation, error) {
		return m.RequestElevation(ctx, m.who(t, id, usher.Production), m.of(id), n)
	}
	dev, second := m.hire(t, RoleDeveloper), m.hire(t, RoleOwner)
	n := NewElevation{Role: RolePricing, Environment: usher.Production, Reason: "the price list of May", Duration: time.Hour}
	e, err := ask(dev, n)
	if err != nil || e.State != usher.ElevationRequested || m.who(t, dev, usher.Production).Allows(PermCatalogWrite) {
		t.Fatalf("got %+v, %v, want a request that gives nothing", e, err)
	}
	decide := func(by, id string, yes bool) (usher.Elevation, error) {
		return m.DecideElevation(ctx, m.who(t, by, usher.Production), m.of(by), id, yes, "ok")
	}
	_, err = decide(dev, e.ID, true)
	code(t, "by who asks", err, usher.Forbidden)
	key := &Identity{Env: usher.Production, Actor: usher.Actor{Kind: "key", ID: "k"}, perms: gives(RoleAdmin, usher.Production)}
	_, err = m.DecideElevation(ctx, key, by(), e.ID, true, "")
	code(t, "by a key", err, usher.Refused)
	_, err = m.RequestElevation(ctx, key, by(), n)
	code(t, "for a key", err, usher.Refused)
	_, err = decide(m.hire(t, RoleSupport), e.ID, true)
	code(t, "by who does not hold it", err, usher.Forbidden)
	if e, err = decide(second, e.ID, true); err != nil || e.State != usher.ElevationApproved || e.DecidedBy != second ||
		!e.Until.Equal(m.clock.now().Add(time.Hour)) {
		t.Fatalf("got %+v, %v, want it approved for an hour", e, err)
	}
	if !m.who(t, dev, usher.Production).Allows(PermCatalogWrite) || m.who(t, dev, usher.Production).lasting(usher.Production,
		time.Time{}).has(PermCatalogWrite) {
		t.Error("an approved request gives nothing, or permanently")
	}
	_, err = decide(m.owner, e.ID, false)
	code(t, "twice", err, usher.Conflict)
	m.clock.pass(time.Hour)
	if m.who(t, dev, usher.Production).Allows(PermCatalogWrite) {
		t.Error("the role holds beyond its time")
	}

	for what, bad := range map[string]NewElevation{
		"too long": {Role: RolePricing, Reason: "x", Duration: MaxElevation + time.Second}, "no time": {Role: RolePricing, Reason: "x"},
		"no reason": {Role: RolePricing, Duration: time.Hour}, "no role": {Role: "admin", Reason: "x", Duration: time.Hour},
		"nowhere":        {Role: RolePricing, Environment: "staging", Reason: "x", Duration: time.Hour},
		"long emergency": {Role: RolePricing, Reason: "x", Duration: 2 * time.Hour, BreakGlass: true},
	} {
		_, err := ask(dev, bad)
		code(t, what, err, usher.Invalid)
	}
	e, err = ask(dev, n)
	if err != nil {
		t.Fatal(err)
	}
	m.clock.pass(25 * time.Hour)
	_, err = decide(second, e.ID, true)
	code(t, "an old request", err, usher.Refused)
	if e, err = decide(second, e.ID, false); err != nil || e.State != usher.ElevationDenied {
		t.Errorf("got %+v, %v, want it denied", e, err)
	}
	if mine, err := m.Elevations(ctx, m.who(t, dev, usher.Production), false); err != nil || len(mine) != 2 {
		t.Errorf("got %v, %v, want its own two", mine, err)
	}
	if others, err := m.Elevations(ctx, m.who(t, m.hire(t, RoleSales), usher.Production), false); err != nil || len(others) != 0 {
		t.Errorf("got %v, %v, want nothing of others", others, err)
	}
}

func TestBreakGlass(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	ctx := t.Context()
	dev := m.hire(t, RoleDeveloper)
	n := NewElevation{Role: RoleOwner, Reason: "the catalogue is broken and nobody answers", Duration: time.Hour, BreakGlass: true}
	glass := func() (usher.Elevation, error) {
		return m.RequestElevation(ctx, m.who(t, dev, usher.Production), m.of(dev), n)
	}
	e, err := glass()
	if err != nil || e.State != usher.ElevationApproved || e.Review != usher.ReviewPending {
		t.Fatalf("got %+v, %v, want the role at once, and a review due", e, err)
	}
	if log := m.log.String(); !strings.Contains(log, "BREAK GLASS") || !strings.Contains(log, e.ID) || !strings.Contains(log, "level=WARN") {
		t.Errorf("the log does not say it: %s", log)
	}
	w := m.who(t, dev, usher.Production)
	if !w.Allows(PermCatalogWrite) || !w.Allows(PermAuditRead) {
		t.Error("the glass is broken and nothing is there")
	}
	// It repairs, it does not hand out rights.
	if w.Allows(PermOperatorsWrite) || w.Allows(PermElevationApprove) {
		t.Error("an emergency hands out rights")
	}
	if err := w.MayMake(NewKey{Role: RoleAdmin, ExpiresAt: m.clock.now().Add(time.Minute)}); usher.ErrorCode(err) != usher.Forbidden {
		t.Errorf("an emergency's admin key: got %v, want forbidden", err)
	}
	if n, err := m.db.PendingReviews(ctx); n != 1 || err != nil {
		t.Errorf("got %d, %v, want 1 review due", n, err)
	}
	m.clock.pass(2 * time.Hour)
	if m.who(t, dev, usher.Production).Allows(PermCatalogWrite) {
		t.Error("the emergency goes on")
	}
	_, err = glass()
	code(t, "again without a review", err, usher.Refused)
	review := func(id, outcome, note string) error {
		_, err := m.ReviewElevation(ctx, m.who(t, id, usher.Production), m.of(id), e.ID, outcome, note)
		return err
	}
	code(t, "reviewed by oneself", review(dev, usher.ReviewJustified, "was needed"), usher.Forbidden)
	code(t, "without a note", review(m.owner, usher.ReviewJustified, ""), usher.Invalid)
	code(t, "without an outcome", review(m.owner, "fine", "was needed"), usher.Invalid)
	if err := review(m.owner, usher.ReviewJustified, "was needed"); err != nil {
		t.Fatal(err)
	}
	code(t, "reviewed twice", review(m.owner, usher.ReviewJustified, "was needed"), usher.Conflict)
	if _, err := glass(); err != nil {
		t.Errorf("after the review: %v", err)
	}
}

// TestOperatorsAreErasable: what is personal is changed and erased, and nobody
// else has the same address.
func TestOperatorsAreErasable(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	ctx := t.Context()
	_, err := m.CreateOperator(ctx, by(), NewOperator{Email: "ADA@example.com"})
	code(t, "the same address", err, usher.Conflict)
	o, err := m.CreateOperator(ctx, by(), NewOperator{Name: "Grace", Email: "grace@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	owner := m.who(t, m.owner, usher.Production)
	empty := ""
	if o, err = m.UpdateOperator(ctx, owner, by(), o.ID, usher.OperatorUpdate{Name: &empty, Email: &empty}); err != nil || o.Name != "" ||
		o.Email != "" {
		t.Errorf("got %+v, %v, want it without a name", o, err)
	}
	if err := m.DeleteOperator(ctx, owner, by(), o.ID); err != nil {
		t.Fatal(err)
	}
	_, err = m.Operator(ctx, o.ID)
	code(t, "erased", err, usher.NotFound)
	code(t, "erased twice", m.DeleteOperator(ctx, owner, by(), o.ID), usher.NotFound)
}

// TestRolesDoNotBeginInThePast: what was done without a role was not done with
// it.
func TestRolesDoNotBeginInThePast(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	friend := m.hire(t)
	put := func(from time.Time) error {
		_, err := m.PutRole(t.Context(), m.who(t, m.owner, usher.Production), m.of(m.owner), friend, NewRole{Role: RoleSales, From: from})
		return err
	}
	err := put(m.clock.now().Add(-time.Second))
	code(t, "a second ago", err, usher.Invalid)
	if err == nil || !strings.Contains(err.Error(), "leave it out") {
		t.Errorf("got %v, want it to say what is right", err)
	}
	if err := put(m.clock.now()); err != nil {
		t.Errorf("now: %v", err)
	}
}

// TestRightsAreCheckedInsideTheChange: an operator who is promoted between the
// first look and the change is not changed by one who may do less, and an operator
// who has lost a right meanwhile does not use it.
func TestRightsAreCheckedInsideTheChange(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	ctx, now := t.Context(), m.clock.now()
	key := &Identity{Env: usher.Production, Actor: usher.Actor{Kind: "key", ID: "k"},
		perms: gives(RoleSecurity, usher.Production) | setOf(PermOperatorsWrite)}
	target := m.hire(t, RoleSecurity)
	o, err := m.Operator(ctx, target)
	if err == nil {
		err = key.mayTouch(o, now) // the first look
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.PutRole(ctx, m.who(t, m.owner, usher.Production), m.of(m.owner), target, NewRole{Role: RoleOwner}); err != nil {
		t.Fatal(err)
	}
	touch := func(i *Identity, o usher.Operator) error { return i.mayTouch(o, now) }
	no := false
	code(t, "deactivated", m.c.DB.UpdateOperator(ctx, target, usher.OperatorUpdate{Active: &no}, key.inside(now, target, touch),
		m.of(m.owner), now), usher.Forbidden)
	code(t, "deleted", m.c.DB.DeleteOperator(ctx, target, key.inside(now, target, touch), m.of(m.owner), now), usher.Forbidden)

	// What the caller was when the call came is not what it is now.
	boss := m.hire(t, RoleOwner)
	was := m.who(t, boss, usher.Production)
	if err := m.DeleteRole(ctx, m.who(t, m.owner, usher.Production), m.of(m.owner), boss, RoleOwner, ""); err != nil {
		t.Fatal(err)
	}
	friend := m.hire(t, RoleSales)
	attempts := func(want usher.Code) {
		t.Helper()
		_, err := m.UpdateOperator(ctx, was, m.of(boss), friend, usher.OperatorUpdate{Active: &no})
		code(t, "an update", err, want)
		code(t, "a deletion", m.DeleteOperator(ctx, was, m.of(boss), friend), want)
		code(t, "a role taken", m.DeleteRole(ctx, was, m.of(boss), friend, RoleSales, ""), want)
		_, err = m.PutRole(ctx, was, m.of(boss), friend, NewRole{Role: RoleSupport})
		code(t, "a role given", err, want)
	}
	attempts(usher.Forbidden)
	if _, err := m.UpdateOperator(ctx, m.who(t, m.owner, usher.Production), m.of(m.owner), boss,
		usher.OperatorUpdate{Active: &no}); err != nil {
		t.Fatal(err)
	}
	attempts(usher.Unauthenticated)
	if o, err := m.Operator(ctx, friend); err != nil || !o.Active || len(o.Roles) != 1 {
		t.Errorf("got %+v, %v, want the operator as it was", o, err)
	}
}

// TestAKeyOfOneCustomerLeavesOperatorsAlone: they work for all customers.
func TestAKeyOfOneCustomerLeavesOperatorsAlone(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	friend := m.hire(t)
	acme := &Identity{Env: usher.Production, Actor: usher.Actor{Kind: "key", ID: "k"}, Customer: "acme",
		perms: gives(RoleAdmin, usher.Production)}
	code(t, "makes one", acme.MayMakeOperators(), usher.Forbidden)
	_, err := m.PutRole(t.Context(), acme, by(), friend, NewRole{Role: RoleSupport})
	code(t, "gives a role", err, usher.Forbidden)
	code(t, "deletes one", m.DeleteOperator(t.Context(), acme, by(), friend), usher.Forbidden)
}

// TestSubjectsOfOperators: who an operator is elsewhere is said once, is nobody
// else, and is not in the audit log.
func TestSubjectsOfOperators(t *testing.T) {
	t.Parallel()
	m := newTeam(t)
	ctx := t.Context()
	const issuer, subject = "https://login.example.com", "00u1-grace"
	_, err := m.CreateOperator(ctx, by(), NewOperator{Subject: usher.SSOSubject{Subject: subject}})
	code(t, "of no provider", err, usher.Invalid)
	m.c.OIDC.Issuer = issuer
	for _, bad := range []usher.SSOSubject{{Subject: strings.Repeat("x", 256)}, {Subject: "a\nb"},
		{Issuer: "http://example.com", Subject: subject}, {Issuer: issuer}} {
		_, err := m.CreateOperator(ctx, by(), NewOperator{Subject: bad})
		code(t, fmt.Sprintf("%.40v", bad), err, usher.Invalid)
	}
	grace, err := m.CreateOperator(ctx, by(), NewOperator{Name: "Grace", Subject: usher.SSOSubject{Subject: subject}})
	if err != nil || !grace.Linked {
		t.Fatalf("got %+v, %v", grace, err)
	}
	_, err = m.CreateOperator(ctx, by(), NewOperator{Subject: usher.SSOSubject{Issuer: issuer, Subject: subject}})
	code(t, "a second of the same", err, usher.Conflict)
	if all, err := m.Operators(ctx); err != nil || len(all) != 2 || all[0].Linked == all[1].Linked {
		t.Errorf("got %+v, %v, want the owner and Grace, who is linked", all, err)
	}
	owner := m.who(t, m.owner, usher.Production)
	set := func(id, subject string) (usher.Operator, error) {
		return m.UpdateOperator(ctx, owner, m.of(m.owner), id, usher.OperatorUpdate{Subject: &usher.SSOSubject{Subject: subject}})
	}
	_, err = set(m.owner, subject)
	code(t, "another's", err, usher.Conflict)
	if o, err := set(grace.ID, subject); err != nil || !o.Linked {
		t.Errorf("the same once more: got %+v, %v", o, err)
	}
	// Another in its place: the one before is nobody, and its sessions end.
	if err := m.c.DB.StartSession(ctx, usher.Session{Hash: []byte("h"), ID: "ses_1", Operator: grace.ID, Method: usher.LoginOIDC,
		CreatedAt: m.clock.now(), SeenAt: m.clock.now()}, nil, 20, store.Note{By: by(), At: m.clock.now()}); err != nil {
		t.Fatal(err)
	}
	if _, err := set(grace.ID, "00u2-grace"); err != nil {
		t.Fatal(err)
	}
	if id, err := m.c.DB.OperatorOf(ctx, usher.SSOSubject{Issuer: issuer, Subject: subject}); id != "" || err != nil {
		t.Errorf("the one before is still %q, %v", id, err)
	}
	if s, err := m.c.DB.Session(ctx, []byte("h")); err != nil || s.EndedAt.IsZero() {
		t.Errorf("got %+v, %v, want the session ended", s, err)
	}
	if o, err := set(grace.ID, ""); err != nil || o.Linked {
		t.Errorf("nobody any more: got %+v, %v", o, err)
	}
	// Erased, it is free.
	if _, err := set(grace.ID, subject); err != nil {
		t.Fatal(err)
	}
	if err := m.DeleteOperator(ctx, owner, m.of(m.owner), grace.ID); err != nil {
		t.Fatal(err)
	}
	if o, err := set(m.owner, subject); err != nil || !o.Linked {
		t.Errorf("of who was erased: got %+v, %v", o, err)
	}
}
