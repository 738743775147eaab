// Package access compares usher's decisions about members with those of two other
// policy engines, casbin and cedar-go, in the same random worlds. It contains only
// tests. It uses usher's types for the questions; everything that determines the answer
// (patterns, groups, conditions) is written again here.
package access

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
)

// noon is the middle of the time that a world covers.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a catalogue and the people of some customers.
type world struct {
	permissions []string
	roles       []usher.Role // the catalogue's
	ceiling     string       // "": no custom roles
	customers   []*customer
}

// customer has names that other customers have too.
type customer struct {
	id          string
	custom      []usher.Role
	members     []usher.Member
	seats       map[string][]access.Seat // by member
	groups      []string
	joins       []usher.Membership
	assignments []usher.Assignment
	resources   []usher.Resource
}

// question is one question about a member of a customer.
type question struct {
	customer     *customer
	member       string
	permission   string
	kind, id     string // of the resource; "": none
	at           time.Time
	said         access.Said
	stored, subj map[string]any // what is registered about the resource and the member; nil: nothing
}

func (q *question) String() string {
	b, _ := json.Marshal(q.said)
	return fmt.Sprintf("%s of %s: %s on %q %q at %s, said %s", q.member, q.customer.id, q.permission, q.kind, q.id,
		q.at.Format(time.RFC3339Nano), b)
}

// equality is a condition: two things are the same. A thing is a place, such as
// resource.owner, or a word in quotes. Where a place has nothing, it is not true.
type equality struct{ left, right string }

var equalities = []equality{
	{"resource.owner", "subject.id"},
	{"subject.team", "resource.team"},
	{"resource.state", `"open"`},
	{"context.channel", `"web"`},
	{"action.mode", `"safe"`},
}

// cel returns the condition as usher's catalogue writes it.
func (e equality) cel() string {
	place := func(s string) string {
		front, name, _ := strings.Cut(s, ".")
		switch {
		case s[0] == '"' || s == "subject.id":
			return s
		case front == "context":
			return s
		}
		return front + ".properties." + name
	}
	return place(e.left) + " == " + place(e.right)
}

var features = []string{"seats-a", "seats-b"}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// chance returns true in n of 100 calls.
func chance(r *rand.Rand, n int) bool { return r.IntN(100) < n }

// some is up to most of a list, each once.
func some[T any](r *rand.Rand, list []T, most int) []T {
	var all []T
	for _, i := range r.Perm(len(list))[:min(r.IntN(most+1), len(list))] {
		all = append(all, list[i])
	}
	return all
}

var (
	words = []string{"a", "ab", "b", "report"} // one begins as another does
	kinds = []string{"doc", "docs", "folder"}
	ids   = []string{"1", "11", "2"}
)

// newWorld makes a world. real: one that can be written through usher's own
// doors, which refuse what cannot be right.
func newWorld(r *rand.Rand, real bool) *world {
	w := &world{}
	seen := map[string]bool{}
	for i := range 6 + r.IntN(12) {
		var key []string
		for range 1 + r.IntN(3+i%2) {
			key = append(key, pick(r, words))
		}
		if k := strings.Join(key, "."); !seen[k] {
			seen[k] = true
			w.permissions = append(w.permissions, k)
		}
	}
	const roles = 8
	for i := range roles {
		role := usher.Role{Key: fmt.Sprintf("r%d", i), Permissions: w.patterns(r, 4)}
		for j := i + 1; j < min(i+4, roles); j++ {
			if chance(r, 30) {
				role.Includes = append(role.Includes, fmt.Sprintf("r%d", j))
			}
		}
		if chance(r, 35) {
			role.When = pick(r, equalities[:1+r.IntN(len(equalities))]).cel()
		}
		if chance(r, 20) {
			role.Seat = pick(r, features)
		}
		w.roles = append(w.roles, role)
	}
	if chance(r, 80) {
		w.ceiling = fmt.Sprintf("r%d", r.IntN(4))
	}
	for i := range 2 {
		w.customers = append(w.customers, w.people(r, fmt.Sprintf("c%d", i), real))
	}
	return w
}

// patterns is some permissions and patterns that mean one at least.
func (w *world) patterns(r *rand.Rand, most int) []string {
	var all []string
	seen := map[string]bool{}
	for range r.IntN(most + 1) {
		key := strings.Split(pick(r, w.permissions), ".")
		for i := range key {
			if chance(r, 15) {
				key[i] = "*"
			}
		}
		if chance(r, 15) {
			key = append(key[:r.IntN(len(key))], "**")
		}
		if k := strings.Join(key, "."); !seen[k] {
			seen[k] = true
			all = append(all, k)
		}
	}
	return all
}

// near is an instant at noon, on the hour or a microsecond beside.
func near(r *rand.Rand) time.Time {
	return noon.Add(time.Duration(r.IntN(5)-2)*time.Hour + time.Duration(r.IntN(3)-1)*time.Microsecond)
}

func (w *world) people(r *rand.Rand, id string, real bool) *customer {
	c := &customer{id: id, seats: map[string][]access.Seat{}}
	var assignable []string
	for _, role := range w.roles {
		assignable = append(assignable, role.Key)
	}
	if w.ceiling != "" {
		for i := range r.IntN(4) {
			role := usher.Role{Key: fmt.Sprintf("own%d", i), Permissions: w.patterns(r, 3), Includes: some(r, assignable, 2)}
			if !real && chance(r, 5) {
				role.Key = pick(r, w.roles).Key // means nothing: nobody knows which of the two
				role.Includes = nil
				if c.role(role.Key) != nil {
					continue
				}
			}
			c.custom = append(c.custom, role)
			assignable = append(assignable, role.Key)
		}
	}
	if !real {
		assignable = append(assignable, "gone")
	}
	for _, m := range []string{"alice", "bob", "carol", "dave", "erin"} {
		if chance(r, 10) {
			continue // has roles, and is not known
		}
		c.members = append(c.members, usher.Member{ID: m, Type: "user", Active: !chance(r, 10), Properties: someOf(r, "team", "red", "blue")})
		for _, f := range features {
			if chance(r, 50) {
				s := access.Seat{Feature: f}
				if chance(r, 50) {
					s.Expires = near(r)
				}
				c.seats[m] = append(c.seats[m], s)
			}
		}
	}
	c.groups = []string{"g0", "g1", "g2", "g3", "alice"} // a group may be called as a member is
	var holders []usher.Holder
	member := []string{"alice", "bob", "carol", "dave", "erin"}
	if real {
		member = member[:0]
		for _, m := range c.members {
			member = append(member, m.ID)
		}
	}
	for _, m := range member {
		holders = append(holders, usher.Holder{ID: m})
	}
	for i, g := range c.groups {
		for j := i + 1; j < len(c.groups); j++ {
			if chance(r, 40) {
				c.joins = append(c.joins, usher.Membership{Group: c.groups[j], Holder: usher.Holder{Group: true, ID: g}})
			}
		}
		for _, m := range member {
			if chance(r, 20) {
				c.joins = append(c.joins, usher.Membership{Group: g, Holder: usher.Holder{ID: m}})
			}
		}
		holders = append(holders, usher.Holder{Group: true, ID: g})
	}
	seen := map[string]bool{}
	for range 8 + r.IntN(12) {
		a := usher.Assignment{Holder: pick(r, holders), Role: pick(r, assignable), Source: usher.SourceManual}
		if chance(r, 40) {
			a.ResourceType = pick(r, kinds)
			if chance(r, 60) {
				a.ResourceID = pick(r, ids)
			}
		}
		if chance(r, 50) {
			a.From = near(r)
		}
		if chance(r, 50) {
			until := near(r)
			a.Until = &until
			if real && !until.After(noon) || !until.After(a.From) {
				continue
			}
		}
		key := fmt.Sprint(a.Holder, a.Role, a.ResourceType, "/", a.ResourceID)
		if seen[key] && real {
			continue
		}
		seen[key] = true
		c.assignments = append(c.assignments, a)
	}
	for _, kind := range kinds {
		for _, id := range ids {
			if chance(r, 70) {
				p := someOf(r, "owner", "alice", "bob", "carol", "dave")
				p = merged(p, someOf(r, "team", "red", "blue"))
				p = merged(p, someOf(r, "state", "open", "shut"))
				c.resources = append(c.resources, usher.Resource{Type: kind, ID: id, Properties: p})
			}
		}
	}
	return c
}

// someOf is a property with one of the values, or with something that is not a
// text, or nothing.
func someOf(r *rand.Rand, name string, values ...string) map[string]any {
	switch {
	case chance(r, 25):
		return nil
	case chance(r, 5):
		return map[string]any{name: true}
	}
	return map[string]any{name: pick(r, values)}
}

// merged is a with b over it.
func merged(a, b map[string]any) map[string]any {
	if len(a) == 0 && len(b) == 0 {
		return nil
	}
	all := map[string]any{}
	for _, m := range []map[string]any{a, b} {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

// ask returns a question about an instant that is not before from.
func (w *world) ask(r *rand.Rand, from time.Time) *question {
	q := &question{customer: pick(r, w.customers), member: pick(r, []string{"alice", "bob", "carol", "dave", "erin", "nobody"}),
		permission: pick(r, w.permissions), at: near(r)}
	if q.at.Before(from) {
		q.at = from
	}
	if chance(r, 3) {
		q.permission = pick(r, []string{"a.unheard", "a.*", "**"})
	}
	if chance(r, 75) {
		q.kind, q.id = pick(r, kinds), pick(r, ids)
	}
	// Half of the questions are about what a member was given.
	if list := q.customer.assignments; len(list) > 0 && chance(r, 50) {
		a := pick(r, list)
		if !a.Holder.Group {
			q.member = a.Holder.ID
		}
		if a.ResourceType != "" {
			q.kind = a.ResourceType
			if q.id = pick(r, ids); a.ResourceID != "" {
				q.id = a.ResourceID
			}
		}
		if role := w.role(a.Role); role != nil && len(role.Permissions) > 0 {
			if p := pick(r, role.Permissions); !strings.Contains(p, "*") {
				q.permission = p
			}
		}
	}
	if q.kind != "" {
		for _, x := range q.customer.resources {
			if x.Type == q.kind && x.ID == q.id {
				q.stored = x.Properties
			}
		}
	}
	for _, m := range q.customer.members {
		if m.ID == q.member {
			q.subj = m.Properties
		}
	}
	if chance(r, 40) {
		q.said.Subject = someOf(r, "team", "red", "blue")
		q.said.Action = someOf(r, "mode", "safe", "wild")
		q.said.Context = someOf(r, "channel", "web", "mail")
	}
	if chance(r, 20) && q.kind != "" {
		q.said.Resource = merged(someOf(r, "owner", "alice", "bob"), someOf(r, "state", "open", "shut"))
	}
	return q
}

func (c *customer) role(key string) *usher.Role {
	for i := range c.custom {
		if c.custom[i].Key == key {
			return &c.custom[i]
		}
	}
	return nil
}

func (w *world) role(key string) *usher.Role {
	for i := range w.roles {
		if w.roles[i].Key == key {
			return &w.roles[i]
		}
	}
	return nil
}

func (c *customer) member(id string) *usher.Member {
	for i := range c.members {
		if c.members[i].ID == id {
			return &c.members[i]
		}
	}
	return nil
}

// catalogue is the world's as a file: JSON is YAML.
func (w *world) catalogue() []byte {
	type m = map[string]any
	fs, in, perms, roles := m{}, m{}, m{}, m{}
	for _, f := range features {
		fs[f] = m{"kind": "seats"}
		in[f] = m{"limit": 1000}
	}
	for _, p := range w.permissions {
		perms[p] = m{}
	}
	for _, r := range w.roles {
		x := m{}
		if len(r.Permissions) > 0 {
			x["permissions"] = r.Permissions
		}
		if len(r.Includes) > 0 {
			x["includes"] = r.Includes
		}
		if r.When != "" {
			x["when"] = r.When
		}
		if r.Seat != "" {
			x["seat"] = r.Seat
		}
		roles[r.Key] = x
	}
	all := m{"usher": 1, "features": fs, "plans": m{"pro": m{"default": true, "entitlements": in}}, "permissions": perms, "roles": roles}
	if w.ceiling != "" {
		all["custom_roles"] = m{"ceiling": w.ceiling}
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		panic(err)
	}
	return b
}

// facts is what usher's own evaluator is told of a member, with groups looked
// through to a depth: the assignments of the member and its groups.
func (c *customer) facts(member string, depth int) access.Facts {
	f := access.Facts{Seats: c.seats[member]}
	if m := c.member(member); m != nil {
		one := *m
		f.Member = &one
	}
	in := map[usher.Holder]bool{{ID: member}: true}
	for range depth {
		next := map[usher.Holder]bool{}
		for _, j := range c.joins {
			if in[j.Holder] {
				next[usher.Holder{Group: true, ID: j.Group}] = true
			}
		}
		for h := range next {
			in[h] = true
		}
	}
	for _, a := range c.assignments {
		if in[a.Holder] {
			f.Assignments = append(f.Assignments, a)
		}
	}
	return f
}
