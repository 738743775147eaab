package access

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/casbin/casbin/v2"
	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
)

const sideModel = `
[request_definition]
r = sub, dom, act
[policy_definition]
p = sub, dom, act
[role_definition]
g = _, _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = g(r.sub, p.sub, r.dom) && r.dom == p.dom && r.act == p.act
`

// BenchmarkSide asks usher, casbin and Cedar the same random questions of the
// same world: so many rules, each of which gives a role a permission, twenty a
// role, and a thousand members with two roles each.
func BenchmarkSide(b *testing.B) {
	for _, rules := range []int{100, 2000} {
		side(b, rules)
	}
}

func side(b *testing.B, rules int) {
	const perRole, members = 20, 1000
	r := rand.New(rand.NewPCG(1, uint64(rules)))
	c := &usher.Catalog{Permissions: map[string]*usher.Permission{}, Roles: map[string]*usher.Role{}}
	var keys []string
	for i := range rules / 2 {
		keys = append(keys, fmt.Sprintf("area%02d.thing%d.do%d", i/100, i/10%10, i%10))
		c.Permissions[keys[i]] = &usher.Permission{Key: keys[i]}
	}
	var p, g [][]string
	var text strings.Builder
	for i := range rules / perRole {
		role := &usher.Role{Key: fmt.Sprintf("role%02d", i)}
		for _, j := range r.Perm(len(keys))[:perRole] {
			role.Permissions = append(role.Permissions, keys[j])
			p = append(p, []string{role.Key, "acme", keys[j]})
			fmt.Fprintf(&text, "permit (principal in Role::%q, action == Action::%q, resource);\n", role.Key, keys[j])
		}
		c.Roles[role.Key] = role
	}
	book := access.NewBook(c, nil).Customer(nil)
	subjects, entities := make([]*access.Subject, members), types.EntityMap{}
	for i := range members {
		f := access.Facts{Member: &usher.Member{ID: fmt.Sprintf("m%d", i), Active: true}}
		var in []types.EntityUID
		for _, j := range r.Perm(len(c.Roles))[:2] {
			role := fmt.Sprintf("role%02d", j)
			f.Assignments = append(f.Assignments, usher.Assignment{Holder: usher.Holder{ID: f.Member.ID}, Role: role})
			g = append(g, []string{f.Member.ID, role, "acme"})
			in = append(in, uid("Role", role))
		}
		subjects[i] = book.Subject(f, noon)
		id := uid("Member", f.Member.ID)
		entities[id] = types.Entity{UID: id, Parents: types.NewEntityUIDSet(in...)}
	}
	e := newCasbin(b, sideModel)
	add(b, e.AddPolicies, p)
	add(b, e.AddGroupingPolicies, g)
	set, err := cedar.NewPolicySetFromBytes("side", []byte(text.String()))
	if err != nil {
		b.Fatal(err)
	}
	type ask struct {
		who int
		id  string
		key string
	}
	questions := make([]ask, 1<<12)
	for i := range questions {
		n := r.IntN(members)
		key := pick(r, keys)
		if i%2 == 0 { // half of them are of one of its roles
			key = pick(r, c.Roles[subjects[n].Assignments[r.IntN(2)].Role].Permissions)
		}
		questions[i] = ask{n, subjects[n].Member.ID, key}
	}
	ours := func(q *ask) bool {
		return subjects[q.who].Decide(&access.Question{Permission: q.key, At: noon}).Reason == ""
	}
	theirs := func(q *ask) bool { return enforced(b, e, q.id, q.key) }
	cedars := func(q *ask) bool {
		ok, _ := cedar.Authorize(set, entities, cedar.Request{Principal: uid("Member", q.id), Action: uid("Action", q.key),
			Resource: uid("Thing", "1")})
		return bool(ok)
	}
	for i := range questions[:300] {
		if q := &questions[i]; ours(q) != theirs(q) || ours(q) != cedars(q) {
			b.Fatalf("%+v: usher %v, casbin %v, Cedar %v", q, ours(q), theirs(q), cedars(q))
		}
	}
	for _, x := range []struct {
		name string
		f    func(*ask) bool
	}{{"usher", ours}, {"casbin", theirs}, {"cedar", cedars}} {
		b.Run(fmt.Sprintf("rules=%d/%s", rules, x.name), func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				x.f(&questions[n&(len(questions)-1)])
				n++
			}
		})
	}
}

func enforced(b *testing.B, e *casbin.Enforcer, args ...any) bool {
	ok, err := e.Enforce(args[0], "acme", args[1])
	if err != nil {
		b.Fatal(err)
	}
	return ok
}
