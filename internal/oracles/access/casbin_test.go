package access

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/casbin/casbin/v2"
	"github.com/casbin/casbin/v2/model"

	"github.com/usher-sh/usher"
)

// casbinWorld is a world as casbin policies: one enforcer knows who holds which
// role where and when, others what roles give. A condition or a seat is a
// property of a role, so that a role whose own is not met gives nothing and leads
// nowhere: for each set of roles that are open there is an enforcer of its own,
// whose hierarchy has only them.
type casbinWorld struct {
	w      *world
	held   *casbin.Enforcer
	gives  map[string]*casbin.Enforcer // by which roles are open
	asking *question
	now    *casbin.Enforcer // of the question that is asked
}

// Roles and groups are in a customer's domain, so that no name is shared.
const heldModel = `
[request_definition]
r = sub, dom, perm, kind, id, at
[policy_definition]
p = sub, dom, role, kind, id, from, until
[role_definition]
g = _, _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.dom == p.dom && g(r.sub, p.sub, r.dom) && \
  (p.kind == "" || p.kind == r.kind && (p.id == "" || p.id == r.id)) && during(r.at, p.from, p.until) && gives(p.role)
`

const givesModel = `
[request_definition]
r = role, dom, perm
[policy_definition]
p = role, dom, pattern
[role_definition]
g = _, _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.dom == p.dom && segments(r.perm, p.pattern) && g(r.role, p.role, r.dom)
`

func newCasbin(t testing.TB, text string) *casbin.Enforcer {
	m, err := model.NewModelFromString(text)
	if err != nil {
		t.Fatal(err)
	}
	e, err := casbin.NewEnforcer(m)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func add(t testing.TB, f func([][]string) (bool, error), rules [][]string) {
	if len(rules) == 0 {
		return
	}
	if _, err := f(rules); err != nil {
		t.Fatal(err)
	}
}

// named is a holder as casbin knows it: text.
func named(h usher.Holder) string {
	if h.Group {
		return "group:" + h.ID
	}
	return "member:" + h.ID
}

func newCasbinWorld(t testing.TB, w *world) *casbinWorld {
	c := &casbinWorld{w: w, held: newCasbin(t, heldModel), gives: map[string]*casbin.Enforcer{}}
	var p, g [][]string
	for _, cu := range w.customers {
		for _, j := range cu.joins {
			g = append(g, []string{named(j.Holder), named(usher.Holder{Group: true, ID: j.Group}), cu.id})
		}
		for _, a := range cu.assignments {
			from, until := "", ""
			if !a.From.IsZero() {
				from = strconv.FormatInt(a.From.UnixMicro(), 10)
			}
			if a.Until != nil {
				until = strconv.FormatInt(a.Until.UnixMicro(), 10)
			}
			line := []string{named(a.Holder), cu.id, a.Role, a.ResourceType, a.ResourceID, from, until}
			if !slices.ContainsFunc(p, func(q []string) bool { return slices.Equal(q, line) }) {
				p = append(p, line)
			}
		}
	}
	c.held.AddFunction("during", func(args ...any) (any, error) { return during(args[0].(string), args[1].(string), args[2].(string)) })
	c.held.AddFunction("gives", func(args ...any) (any, error) { return c.roleGives(args[0].(string)) })
	add(t, c.held.AddPolicies, p)
	add(t, c.held.AddGroupingPolicies, g)
	return c
}

func during(now, from, until string) (bool, error) {
	at, err := strconv.ParseInt(now, 10, 64) // text: the engine makes a float of a number
	if err != nil {
		return false, err
	}
	if from != "" {
		if n, err := strconv.ParseInt(from, 10, 64); err != nil || at < n {
			return false, err
		}
	}
	if until != "" {
		if n, err := strconv.ParseInt(until, 10, 64); err != nil || n <= at {
			return false, err
		}
	}
	return true, nil
}

// segments is what a pattern means, segment by segment.
func segments(key, pattern string) bool {
	k, p := strings.Split(key, "."), strings.Split(pattern, ".")
	for i := range p {
		if p[i] == "**" && i == len(p)-1 {
			return len(k) > i
		}
		if i >= len(k) || p[i] != "*" && p[i] != k[i] {
			return false
		}
	}
	return len(k) == len(p)
}

// roleGives asks what a role gives in the question; a customer's own gives what
// the ceiling gives too.
func (c *casbinWorld) roleGives(role string) (bool, error) {
	q := c.asking
	if q.customer.role(role) == nil {
		return c.now.Enforce(role, q.customer.id, q.permission)
	}
	if c.w.role(role) != nil || c.w.ceiling == "" {
		return false, nil
	}
	ok, err := c.now.Enforce("own/"+role, q.customer.id, q.permission)
	if !ok || err != nil {
		return false, err
	}
	return c.now.Enforce(c.w.ceiling, q.customer.id, q.permission)
}

// value is what stands at a place of an equality.
func (q *question) value(place string) any {
	if place[0] == '"' {
		return strings.Trim(place, `"`)
	}
	front, name, _ := strings.Cut(place, ".")
	over := map[string][]map[string]any{"subject": {q.said.Subject, q.subj}, "resource": {q.said.Resource, q.stored},
		"action": {q.said.Action}, "context": {q.said.Context}}[front]
	if place == "subject.id" {
		return q.member
	}
	for _, m := range over {
		if v, ok := m[name]; ok {
			return v
		}
	}
	return nil
}

func (q *question) holds(when string) bool {
	for _, e := range equalities {
		if e.cel() == when {
			l := q.value(e.left)
			return l != nil && l == q.value(e.right)
		}
	}
	return false
}

func (q *question) sits(feature string) bool {
	for _, s := range q.customer.seats[q.member] {
		if s.Feature == feature && (s.Expires.IsZero() || q.at.Before(s.Expires)) {
			return true
		}
	}
	return false
}

// allows is casbin's answer.
func (c *casbinWorld) allows(t testing.TB, q *question) bool {
	// Nobody unknown, inactive or about nothing known gets as far as the policies.
	if m := q.customer.member(q.member); m == nil || !m.Active || !slices.Contains(c.w.permissions, q.permission) {
		return false
	}
	shut := map[string]bool{}
	var key strings.Builder
	for _, r := range c.w.roles {
		if r.When != "" && !q.holds(r.When) || r.Seat != "" && !q.sits(r.Seat) {
			shut[r.Key] = true
			key.WriteString(r.Key)
		}
	}
	c.asking, c.now = q, c.gives[key.String()]
	if c.now == nil {
		c.now = c.open(t, shut)
		c.gives[key.String()] = c.now
	}
	ok, err := c.held.Enforce(named(usher.Holder{ID: q.member}), q.customer.id, q.permission, q.kind, q.id,
		strconv.FormatInt(q.at.UnixMicro(), 10))
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// open is an enforcer that knows the roles that are not shut. A customer's own
// role that is called as one of the catalogue is in nobody's way and gives nothing.
func (c *casbinWorld) open(t testing.TB, shut map[string]bool) *casbin.Enforcer {
	e := newCasbin(t, givesModel)
	e.AddFunction("segments", func(args ...any) (any, error) { return segments(args[0].(string), args[1].(string)), nil })
	var p, g [][]string
	for _, cu := range c.w.customers {
		for _, r := range c.w.roles {
			if shut[r.Key] {
				continue
			}
			for _, x := range r.Permissions {
				p = append(p, []string{r.Key, cu.id, x})
			}
			for _, in := range r.Includes {
				g = append(g, []string{r.Key, in, cu.id})
			}
		}
		for _, r := range cu.custom {
			if c.w.role(r.Key) != nil {
				continue
			}
			for _, x := range r.Permissions {
				p = append(p, []string{"own/" + r.Key, cu.id, x})
			}
			for _, in := range r.Includes {
				switch {
				case cu.role(in) == nil:
					g = append(g, []string{"own/" + r.Key, in, cu.id})
				case c.w.role(in) == nil:
					g = append(g, []string{"own/" + r.Key, "own/" + in, cu.id})
				}
			}
		}
	}
	add(t, e.AddPolicies, p)
	add(t, e.AddGroupingPolicies, g)
	return e
}
