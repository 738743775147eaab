package access

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// words are conditions that are known by their text.
var words = map[string]usher.Condition{
	"true":   func(*usher.AccessRequest) (bool, error) { return true, nil },
	"false":  func(*usher.AccessRequest) (bool, error) { return false, nil },
	"broken": func(*usher.AccessRequest) (bool, error) { return true, fmt.Errorf("no such key") },
	"owner": func(r *usher.AccessRequest) (bool, error) {
		return r.Resource.Properties["owner"] == r.Subject.ID, nil
	},
}

func catalog(roles ...usher.Role) *usher.Catalog {
	c := &usher.Catalog{Permissions: map[string]*usher.Permission{}, Roles: map[string]*usher.Role{}}
	for _, key := range []string{"report.read", "report.export", "report.export.all", "document.update", "admin"} {
		c.Permissions[key] = &usher.Permission{Key: key}
	}
	for i := range roles {
		c.Roles[roles[i].Key] = &roles[i]
	}
	return c
}

func holder(key string) usher.Assignment { return usher.Assignment{Role: key, From: noon} }

func alice() *usher.Member { return &usher.Member{ID: "alice", Type: "user", Active: true} }

func TestA03_UnionThenTest(t *testing.T) {
	t.Parallel()
	b := NewBook(catalog(
		usher.Role{Key: "viewer", Permissions: []string{"report.read"}},
		usher.Role{Key: "analyst", Includes: []string{"viewer"}, Permissions: []string{"report.*"}, Seat: "members"},
		usher.Role{Key: "editor", Permissions: []string{"document.update"}, When: "owner"},
		usher.Role{Key: "never", Permissions: []string{"**"}, When: "false"},
		usher.Role{Key: "broken", Permissions: []string{"**"}, When: "broken"},
		usher.Role{Key: "boss", Includes: []string{"editor", "analyst"}, When: "true"},
	), words)
	seat := []Seat{{Feature: "members"}}
	until := noon.Add(time.Hour)
	for name, c := range map[string]struct {
		roles      []usher.Assignment
		seats      []Seat
		permission string
		resource   [2]string
		stored     map[string]any
		said       map[string]any
		want       [4]string // reason, role, condition, seat
	}{
		"granted": {roles: []usher.Assignment{holder("viewer")}, permission: "report.read",
			want: [4]string{"", "pass", "none", "none"}},
		"nothing": {permission: "report.read", want: [4]string{"no_role", "fail", "none", "none"}},
		"unknown": {roles: []usher.Assignment{holder("viewer")}, permission: "report.fly",
			want: [4]string{"unknown_permission", "fail", "none", "none"}},
		"a pattern is no question": {roles: []usher.Assignment{holder("analyst")}, permission: "report.*",
			want: [4]string{"unknown_permission", "fail", "none", "none"}},
		"a.b is not a.b.c": {roles: []usher.Assignment{holder("analyst")}, seats: seat, permission: "report.export.all",
			want: [4]string{"no_role", "fail", "none", "none"}},
		"no seat": {roles: []usher.Assignment{holder("analyst")}, permission: "report.export",
			want: [4]string{"", "pass", "none", "fail"}},
		"a seat": {roles: []usher.Assignment{holder("analyst")}, seats: seat, permission: "report.export",
			want: [4]string{"", "pass", "none", "pass"}},
		"a seat that ended": {roles: []usher.Assignment{holder("analyst")}, seats: []Seat{{"members", noon}},
			permission: "report.export", want: [4]string{"", "pass", "none", "fail"}},
		"another way needs no seat": {roles: []usher.Assignment{holder("analyst"), holder("viewer")}, permission: "report.read",
			want: [4]string{"", "pass", "none", "none"}},
		"included under the seat": {roles: []usher.Assignment{holder("analyst")}, permission: "report.read",
			want: [4]string{"", "pass", "none", "fail"}},
		"condition": {roles: []usher.Assignment{holder("editor")}, permission: "document.update",
			stored: map[string]any{"owner": "alice"}, want: [4]string{"", "pass", "pass", "none"}},
		"condition fails": {roles: []usher.Assignment{holder("editor")}, permission: "document.update",
			stored: map[string]any{"owner": "bob"}, want: [4]string{"condition_failed", "pass", "fail", "none"}},
		"said over stored": {roles: []usher.Assignment{holder("editor")}, permission: "document.update",
			stored: map[string]any{"owner": "bob"}, said: map[string]any{"owner": "alice"}, want: [4]string{"", "pass", "pass", "none"}},
		"nothing known of it": {roles: []usher.Assignment{holder("editor")}, permission: "document.update",
			want: [4]string{"condition_failed", "pass", "fail", "none"}},
		"an error is no yes": {roles: []usher.Assignment{holder("broken")}, permission: "admin",
			want: [4]string{"condition_failed", "pass", "fail", "none"}},
		"an error is no no": {roles: []usher.Assignment{holder("broken"), holder("viewer")}, permission: "report.read",
			want: [4]string{"", "pass", "none", "none"}},
		"conditions add up": {roles: []usher.Assignment{holder("boss")}, permission: "document.update",
			stored: map[string]any{"owner": "alice"}, want: [4]string{"", "pass", "pass", "none"}},
		"seats come along": {roles: []usher.Assignment{holder("boss")}, permission: "report.export",
			want: [4]string{"", "pass", "pass", "fail"}},
		"not yet": {roles: []usher.Assignment{{Role: "viewer", From: noon.Add(time.Microsecond)}},
			permission: "report.read", want: [4]string{"no_role", "fail", "none", "none"}},
		"over": {roles: []usher.Assignment{{Role: "viewer", From: noon.Add(-time.Hour), Until: &noon}},
			permission: "report.read", want: [4]string{"no_role", "fail", "none", "none"}},
		"for an hour": {roles: []usher.Assignment{{Role: "viewer", From: noon, Until: &until}}, permission: "report.read",
			want: [4]string{"", "pass", "none", "none"}},
		"in scope": {roles: []usher.Assignment{{Role: "viewer", ResourceType: "folder", ResourceID: "f1"}},
			permission: "report.read", resource: [2]string{"folder", "f1"}, want: [4]string{"", "pass", "none", "none"}},
		"all of a type": {roles: []usher.Assignment{{Role: "viewer", ResourceType: "folder"}}, permission: "report.read",
			resource: [2]string{"folder", "f1"}, want: [4]string{"", "pass", "none", "none"}},
		"another resource": {roles: []usher.Assignment{{Role: "viewer", ResourceType: "folder", ResourceID: "f1"}},
			permission: "report.read", resource: [2]string{"folder", "f2"}, want: [4]string{"no_role", "fail", "none", "none"}},
		"another type": {roles: []usher.Assignment{{Role: "viewer", ResourceType: "folder", ResourceID: "f1"}},
			permission: "report.read", resource: [2]string{"file", "f1"}, want: [4]string{"no_role", "fail", "none", "none"}},
		"scoped, asked everywhere": {roles: []usher.Assignment{{Role: "viewer", ResourceType: "folder", ResourceID: "f1"}},
			permission: "report.read", want: [4]string{"no_role", "fail", "none", "none"}},
		"a role that is gone": {roles: []usher.Assignment{holder("janitor")}, permission: "report.read",
			want: [4]string{"no_role", "fail", "none", "none"}},
	} {
		s := b.Customer(nil).Subject(Facts{Member: alice(), Assignments: c.roles, Seats: c.seats}, noon)
		q := &Question{Permission: c.permission, ResourceType: c.resource[0], ResourceID: c.resource[1], At: noon, Stored: c.stored,
			Said: &Said{Resource: c.said}}
		a := s.Decide(q)
		if got := [4]string{string(a.Reason), string(a.Role), string(a.Condition), string(a.Seat)}; got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		gives := slices.ContainsFunc(s.Explain(q), func(t Trace) bool { return t.Outcome == Gives })
		if want := a.Reason == "" && a.Seat != usher.LegFail; gives != want {
			t.Errorf("%s: the explanation says %v, the decision %v", name, gives, want)
		}
	}
}

// TestA01_MissingDataDenies: an unknown or inactive member may do nothing.
func TestA01_MissingDataDenies(t *testing.T) {
	t.Parallel()
	b := NewBook(catalog(usher.Role{Key: "all", Permissions: []string{"**"}}), nil)
	sleeping := alice()
	sleeping.Active = false
	for name, m := range map[string]*usher.Member{"unknown": nil, "inactive": sleeping} {
		s := b.Customer(nil).Subject(Facts{Member: m, Assignments: []usher.Assignment{holder("all")}}, noon)
		if a := s.Decide(&Question{Permission: "admin", At: noon}); a.Reason != usher.UnknownMember {
			t.Errorf("%s: got %q, want unknown_member", name, a.Reason)
		}
		if h := s.Holds(noon); len(h) > 0 {
			t.Errorf("%s holds %v", name, h)
		}
	}
}

func TestA05_CustomRolesStayUnderTheCeiling(t *testing.T) {
	t.Parallel()
	c := catalog(
		usher.Role{Key: "viewer", Permissions: []string{"report.read"}},
		usher.Role{Key: "analyst", Includes: []string{"viewer"}, Permissions: []string{"report.export"}, Seat: "members"},
		usher.Role{Key: "root", Permissions: []string{"**"}},
	)
	c.CustomRoles = &usher.CustomRoles{Ceiling: "analyst"}
	b := NewBook(c, words)
	rs := b.Customer([]usher.Role{
		{Key: "wide", Permissions: []string{"**"}},
		{Key: "nested", Includes: []string{"wide", "root"}},
		{Key: "loop", Includes: []string{"pool"}}, {Key: "pool", Includes: []string{"loop"}, Permissions: []string{"report.read"}},
		{Key: "viewer", Permissions: []string{"report.export"}}, // shadows
		{Key: "tricky", Permissions: []string{"report.read"}, When: "true", Seat: "other"},
	})
	for role, want := range map[string][]string{
		"wide": {"report.export", "report.read"}, "nested": {"report.export", "report.read"}, "root": {"admin", "document.update",
			"report.export", "report.export.all", "report.read"},
		"pool": {"report.read"}, "viewer": nil, "tricky": {"report.read"},
	} {
		if got := rs.Gives(role); !slices.Equal(got, want) {
			t.Errorf("%s gives %v, want %v", role, got, want)
		}
	}
	// The holder of a custom role needs the ceiling's seat as well.
	s := rs.Subject(Facts{Member: alice(), Assignments: []usher.Assignment{holder("wide")}}, noon)
	if a := s.Decide(&Question{Permission: "report.export", At: noon}); a.Seat != usher.LegFail {
		t.Errorf("got %v, want a seat asked", a)
	}
	if got := rs.Seats("wide"); !slices.Equal(got, []string{"members"}) {
		t.Errorf("got %v", got)
	}
	s = rs.Subject(Facts{Member: alice(), Assignments: []usher.Assignment{holder("viewer")}}, noon)
	if a := s.Decide(&Question{Permission: "report.read", At: noon}); a.Reason != usher.NoRole {
		t.Errorf("a shadowed role gives %v", a)
	}
	// If the catalogue does not allow custom roles, existing ones give nothing.
	c.CustomRoles = nil
	if got := NewBook(c, nil).Customer([]usher.Role{{Key: "wide", Permissions: []string{"**"}}}).Gives("wide"); got != nil {
		t.Errorf("without a ceiling: got %v", got)
	}
}

func TestSeparatedDuties(t *testing.T) {
	t.Parallel()
	c := catalog(usher.Role{Key: "payer"}, usher.Role{Key: "approver"}, usher.Role{Key: "chief", Includes: []string{"approver"}})
	c.Separation = map[string]*usher.Separation{"four-eyes": {Key: "four-eyes", Roles: []string{"approver", "payer"}}}
	rs := NewBook(c, nil).Customer([]usher.Role{{Key: "mine", Includes: []string{"payer"}}})
	for _, held := range [][]string{{"payer", "approver"}, {"chief", "payer"}, {"mine", "chief"}} {
		if rule, one, other := rs.Separated(held); rule == nil || one != "approver" || other != "payer" {
			t.Errorf("%v: got %v %s %s, want four-eyes", held, rule, one, other)
		}
	}
	for _, held := range [][]string{{"payer"}, {"approver", "chief"}, {"mine", "payer", "nobody"}, nil} {
		if rule, _, _ := rs.Separated(held); rule != nil {
			t.Errorf("%v: got %v, want none", held, rule)
		}
	}
}

// TestAgainstTheDefinition compares with a slow evaluation of each rule.
func TestAgainstTheDefinition(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	seats, whens := []string{"", "", "a", "b"}, []string{"", "", "true", "false", "broken"}
	for range 20_000 {
		c := catalog()
		keys := []string{"report.read", "report.export", "report.export.all", "document.update", "admin"}
		patterns := append([]string{"report.*", "**", "*.update", "report.**", "*", "*.*"}, keys...)
		n := 1 + r.IntN(5)
		var names []string
		for i := range n {
			role := &usher.Role{Key: fmt.Sprint("r", i), Seat: pick(seats), When: pick(whens)}
			for range r.IntN(3) {
				role.Permissions = append(role.Permissions, pick(patterns))
			}
			if i > 0 && r.IntN(2) == 0 {
				role.Includes = []string{pick(names)}
			}
			c.Roles[role.Key] = role
			names = append(names, role.Key)
		}
		f := Facts{Member: alice()}
		for range r.IntN(4) {
			a := usher.Assignment{Role: pick(names), From: noon.Add(time.Duration(r.IntN(3)-1) * time.Hour)}
			if r.IntN(3) == 0 {
				u := noon.Add(time.Duration(r.IntN(3)-1) * time.Hour)
				a.Until = &u
			}
			if r.IntN(3) == 0 {
				a.ResourceType = pick([]string{"folder", "file"})
				a.ResourceID = pick([]string{"", "1", "2"})
			}
			f.Assignments = append(f.Assignments, a)
		}
		if s := pick(seats); s != "" {
			f.Seats = []Seat{{Feature: s}}
		}
		q := &Question{Permission: pick(keys), ResourceType: pick([]string{"", "folder", "file"}), At: noon}
		if q.ResourceType != "" {
			q.ResourceID = pick([]string{"", "1", "2"})
		}
		// naive: walk every path of every assignment.
		role, open := false, false
		var walk func(key string, ok bool)
		walk = func(key string, ok bool) {
			d := c.Roles[key]
			ok = ok && (d.When == "" || d.When == "true") && (d.Seat == "" || len(f.Seats) == 1 && f.Seats[0].Feature == d.Seat)
			for _, p := range d.Permissions {
				if usher.MatchPermission(p, q.Permission) {
					role, open = true, open || ok
				}
			}
			for _, in := range d.Includes {
				walk(in, ok)
			}
		}
		for _, a := range f.Assignments {
			if a.From.After(noon) || a.Until != nil && !noon.Before(*a.Until) ||
				a.ResourceType != "" && (a.ResourceType != q.ResourceType || a.ResourceID != "" && a.ResourceID != q.ResourceID) {
				continue
			}
			walk(a.Role, true)
		}
		at := noon.Add(time.Duration(r.IntN(3)-1) * time.Hour) // the answer must not depend on the instant that it was compiled for
		got := NewBook(c, words).Customer(nil).Subject(f, at).Decide(q)
		if (got.Role == usher.LegPass) != role || (got.Reason == "" && got.Seat != usher.LegFail) != open {
			t.Fatalf("%+v\nroles %v\nfacts %+v\ngot %+v, want role %v, open %v", q, c.Roles, f, got, role, open)
		}
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	s := b1000(t).Customer(nil).Subject(Facts{Member: alice(), Assignments: some(20)}, noon)
	q := &Question{Permission: "p7.a3", At: noon, ResourceType: "folder", ResourceID: "f3"}
	if n := testing.AllocsPerRun(100, func() { s.Decide(q) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// b1000 is a book of 1,000 permissions in 100 roles.
func b1000(testing.TB) *Book {
	c := &usher.Catalog{Permissions: map[string]*usher.Permission{}, Roles: map[string]*usher.Role{}}
	for i := range 100 {
		r := &usher.Role{Key: fmt.Sprint("r", i), Permissions: []string{fmt.Sprintf("p%d.*", i)}}
		if i%10 > 0 {
			r.Includes = []string{fmt.Sprint("r", i-1)}
		}
		c.Roles[r.Key] = r
		for j := range 10 {
			key := fmt.Sprintf("p%d.a%d", i, j)
			c.Permissions[key] = &usher.Permission{Key: key}
		}
	}
	return NewBook(c, nil)
}

func some(n int) []usher.Assignment {
	all := make([]usher.Assignment, n)
	for i := range all {
		all[i] = usher.Assignment{Role: fmt.Sprint("r", i*5), From: noon}
		if i%2 == 0 {
			all[i].ResourceType, all[i].ResourceID = "folder", fmt.Sprint("f", i)
		}
	}
	return all
}

func BenchmarkDecide(b *testing.B) {
	s := b1000(b).Customer(nil).Subject(Facts{Member: alice(), Assignments: some(20)}, noon)
	for name, q := range map[string]*Question{
		"yes": {Permission: "p5.a3", At: noon}, "no": {Permission: "p99.a3", At: noon, ResourceType: "folder", ResourceID: "f4"},
		"scoped": {Permission: "p10.a3", At: noon, ResourceType: "folder", ResourceID: "f2"},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Decide(q)
			}
		})
	}
}
