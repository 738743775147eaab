package auth

import (
	"slices"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
)

// TestRolesGiveNoMoreThanTheyShould lists what each role may change: a developer
// who widens a role must do so here, too.
func TestRolesGiveNoMoreThanTheyShould(t *testing.T) {
	t.Parallel()
	every := strings.Join(func() (all []string) {
		for _, p := range Permissions {
			if !reading(p) {
				all = append(all, string(p))
			}
		}
		return all
	}(), " ")
	sandbox := strings.Replace(every, " elevation.approve operators.write", "", 1)
	for role, want := range map[string][2]string{ // production, sandbox
		RoleAdmin:     {every, sandbox},
		RoleOwner:     {every, sandbox},
		RoleApp:       {"consume seat ingest members.write access.decide flags", ""},
		RoleRead:      {"access.decide flags", ""},
		RoleAuthZEN:   {"access.decide", ""},
		RoleOFREP:     {"flags", ""},
		RoleSCIM:      {"scim", ""},
		RolePricing:   {"catalog.write elevation.request", ""},
		RoleSupport:   {"seat overrides.write grants.write members.write elevation.request", ""},
		RoleSales:     {"subscriptions.write grants.write elevation.request", ""},
		RoleFinance:   {"usage.write elevation.request", ""},
		RoleSecurity:  {"keys.revoke elevation.request", ""},
		RoleDeveloper: {"keys.write keys.revoke elevation.request", sandbox},
	} {
		for i, env := range []usher.Environment{usher.Production, usher.Sandbox} {
			w := want[i]
			if w == "" {
				w = want[0]
			}
			var got []string
			for _, p := range Permissions {
				if !reading(p) && Allows(role, env, p) {
					got = append(got, string(p))
				}
			}
			if g := strings.Join(got, " "); g != w {
				t.Errorf("%s in %s may change\n%s\nwant\n%s", role, env, g, w)
			}
		}
	}
	for _, c := range []struct {
		role string
		p    Permission
	}{{RoleApp, PermCustomersRead}, {RoleAuthZEN, PermDecide}, {RoleSCIM, PermMembersWrite}, {RoleOFREP, PermDecide},
		{RoleSupport, PermAuditRead}, {RoleDeveloper, PermAuditRead},
		{RoleRead, PermKeysRead}, {RoleRead, PermOperatorsRead}, {RoleRead, PermAuditRead}, {RoleSales, PermCustomersWrite},
		{reads, PermDecide}, {"", PermDecide}, {"**", PermDecide}, {RoleAdmin, "nothing"}, {RoleAdmin, ""}} {
		if Allows(c.role, usher.Production, c.p) {
			t.Errorf("%q may %q", c.role, c.p)
		}
	}
	if Allows(RoleAdmin, "staging", PermDecide) || (&Identity{}).Allows(PermDecide) {
		t.Error("what is not there gives something")
	}
}

func reading(p Permission) bool {
	return strings.HasSuffix(string(p), ".read") || p == PermDecide || p == PermSearch
}

func TestPermissionsFitTheirSet(t *testing.T) {
	t.Parallel()
	if len(Permissions) > 64 || len(bits) != len(Permissions) {
		t.Errorf("%d permissions, %d of them different, want at most 64, all different", len(Permissions), len(bits))
	}
	for _, p := range Permissions {
		if !usher.ValidKey(string(p)) {
			t.Errorf("%q is not a key", p)
		}
	}
	for _, role := range append(slices.Clone(Roles), OperatorRoles...) {
		if gives(role, usher.Production) == 0 {
			t.Errorf("the role %q gives nothing", role)
		}
	}
	for p, want := range map[Permission][2]usher.Risk{
		PermKeysWrite: {usher.RiskHigh, usher.RiskHigh}, PermOperatorsWrite: {usher.RiskHigh, usher.RiskHigh},
		PermElevationApprove: {usher.RiskHigh, usher.RiskHigh},
		PermCatalogWrite:     {usher.RiskHigh, usher.RiskMedium}, PermDecide: {usher.RiskLow, usher.RiskLow},
		"unknown": {usher.RiskHigh, usher.RiskHigh},
	} {
		if got := [2]usher.Risk{p.Risk(usher.Production), p.Risk(usher.Sandbox)}; got != want {
			t.Errorf("%s: got risk %v, want %v", p, got, want)
		}
	}
}

func TestAllowsCostsNothing(t *testing.T) {
	i := Identity{perms: gives(RoleApp, usher.Production)}
	if n := testing.AllocsPerRun(100, func() {
		if !i.Allows(PermConsume) || i.Allows(PermKeysWrite) {
			t.Error("wrong")
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func BenchmarkAllows(b *testing.B) {
	i := Identity{perms: gives(RoleApp, usher.Production)}
	b.ReportAllocs()
	for b.Loop() {
		if !i.Allows(PermDecide) {
			b.Fatal("no")
		}
	}
}
