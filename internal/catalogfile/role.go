package catalogfile

import (
	"slices"
	"strings"

	"github.com/usher-sh/usher"
)

var (
	permissionFields  = []string{"title", "feature", "features", "risk"}
	roleFields        = []string{"title", "includes", "permissions", "seat", "when"}
	separationFields  = []string{"title", "roles"}
	customRolesFields = []string{"ceiling"}
)

// The words of a permission's features.
const (
	anyWord = "any"
	allWord = "all"
)

// permission reads one permission.
func (p *parser) permission(key string, n *node) *usher.Permission {
	perm := &usher.Permission{Key: key}
	if !p.fields(n, permissionFields) {
		return perm
	}
	perm.Title = p.title(n.get("title"))
	feature, features := n.get("feature"), n.get("features")
	switch {
	case feature == nil:
	case feature.kind == listNode:
		perm.Features = p.names(feature, "features", MaxEntries, func(item *node, s string) bool {
			_, f := lookup(p, item, "feature", p.cat.Features)
			return f != nil
		})
	default:
		if s, f := lookup(p, feature, "feature", p.cat.Features); f != nil {
			perm.Features = []string{s}
		}
	}
	if features != nil {
		word, ok := word(p, features, []string{anyWord, allWord})
		if ok && (feature == nil || feature.kind != listNode) {
			p.bad(features, "features says how a list is joined, but feature is not a list: remove features, or write feature: [one, another]")
		}
		perm.Any = word == anyWord && len(perm.Features) > 1 // any of one is all of it
	}
	if risk := n.get("risk"); risk != nil {
		if perm.Risk, _ = word(p, risk, usher.Risks); perm.Risk == usher.RiskLow {
			perm.Risk = ""
		}
	}
	return perm
}

// names reads a list of names, each once, and sorts those that fit.
func (p *parser) names(n *node, what string, most int, fits func(item *node, s string) bool) (all []string) {
	items := p.list(n, what)
	if len(items) > most {
		p.bad(n, "may list at most %d %s, this one lists %d", most, what, len(items))
		return nil
	}
	seen := make(map[string]bool, len(items))
	for _, item := range items {
		if item.class() != isText {
			p.text(item, maxTitle) // says what is wrong
			continue
		}
		if seen[item.text] {
			p.bad(item, "%s is listed twice", quote(item.text))
			continue
		}
		seen[item.text] = true
		if fits(item, item.text) {
			all = append(all, item.text)
		}
	}
	slices.Sort(all)
	return all
}

// role reads one role. What points at other roles is checked when all are read.
func (p *parser) role(key string, n *node) *usher.Role {
	r := &usher.Role{Key: key}
	if !p.fields(n, roleFields) {
		return r
	}
	r.Title = p.title(n.get("title"))
	if includes := n.get("includes"); includes != nil {
		r.Includes = p.names(includes, "roles", MaxIncludes, func(item *node, _ string) bool {
			_, ok := p.text(item, maxTitle)
			return ok
		})
	}
	if permissions := n.get("permissions"); permissions != nil {
		patterns := 0
		r.Permissions = p.names(permissions, "permissions", MaxPermissions, func(item *node, s string) bool {
			if strings.Contains(s, "*") {
				if patterns++; patterns == MaxPatterns+1 {
					p.bad(item, "a role may list at most %d permissions with a *: make them wider, or share them through includes", MaxPatterns)
				}
				if patterns > MaxPatterns {
					return false
				}
			}
			return p.pattern(item, s)
		})
	}
	if seat := n.get("seat"); seat != nil {
		var f *usher.Feature
		if r.Seat, f = lookup(p, seat, "feature", p.cat.Features); f != nil && f.Kind != "" && f.Kind != usher.Seats {
			p.bad(seat, "%s is of kind %s: a seat is a feature of kind seats%s", quote(r.Seat), f.Kind, p.seatHint())
		}
	}
	if when := n.get("when"); when != nil {
		r.When = p.when(when)
	}
	return r
}

// permissionKey checks the key of a permission.
func (p *parser) permissionKey(key *node) {
	if !usher.ValidPermission(key.text) {
		p.bad(key, "invalid permission %s: a permission is 1 to %d of A-Z a-z 0-9 _ : / - in parts between dots, none of them empty%s",
			quote(key.text), usher.MaxPermission, keyHint(key.text, usher.ValidPermission))
	}
}

// pattern reports whether s is a permission of the file, or a pattern that matches
// at least one.
func (p *parser) pattern(item *node, s string) bool {
	if _, ok := p.text(item, maxTitle); !ok {
		return false
	}
	if p.cat.Permissions[s] != nil {
		return true
	}
	if !usher.ValidPattern(s) {
		p.bad(item, `%s is neither a permission nor a pattern: in a pattern, * stands for one whole part between dots, as in "report.*", and `+
			`** at the end for one or more%s`, quote(s), p.permissionHint(s))
		return false
	}
	if !usher.IsPattern(s) {
		p.bad(item, "there is no permission %s%s", quote(s), p.permissionHint(s))
		return false
	}
	if !p.matches(s) {
		p.bad(item, "%s matches no permission of this file%s", quote(s), p.permissionHint(s))
		return false
	}
	return true
}

// matches reports whether a pattern matches a permission of the file.
func (p *parser) matches(pattern string) bool {
	is, known := p.means[pattern]
	if !known {
		for key := range p.cat.Permissions {
			if is = usher.MatchPermission(pattern, key); is {
				break
			}
		}
		if p.means == nil {
			p.means = map[string]bool{}
		}
		p.means[pattern] = is
	}
	return is
}

// permissionHint suggests what the writer of s may have meant: a permission with
// a similar name, or a pattern that matches some.
func (p *parser) permissionHint(s string) string {
	if len(p.problems) >= MaxProblems {
		return ""
	}
	keys := sortedKeys(p.cat.Permissions)
	if hint := didYouMean(s, keys); hint != "" {
		return hint
	}
	// Parts are whole, and "a.*" does not mean "a.b.c" (A06).
	begin := strings.TrimRight(s, "*.")
	for _, wider := range []string{begin + ".*", begin + ".**"} {
		if wider != s && usher.ValidPattern(wider) && p.matches(wider) {
			return " (did you mean \"" + wider + "\"?)"
		}
	}
	first, rest, _ := strings.Cut(s, ".")
	var begins []string
	for _, key := range keys {
		if begin, _, more := strings.Cut(key, "."); more {
			begins = append(begins, begin)
		}
	}
	if near := nearest(first, slices.Compact(begins)); near != "" && near != first && rest != "" {
		if other := near + "." + rest; p.cat.Permissions[other] != nil || usher.ValidPattern(other) && p.matches(other) {
			return " (did you mean \"" + other + "\"?)"
		}
	}
	return ""
}

func (p *parser) seatHint() string {
	for _, key := range sortedKeys(p.cat.Features) {
		if p.cat.Features[key].Kind == usher.Seats {
			return ", such as " + key
		}
	}
	return ""
}

// customRoles reads what customers' own roles may hold (A05).
func (p *parser) customRoles(n *node) *usher.CustomRoles {
	if n == nil || n.class() == isNothing {
		return nil
	}
	c := &usher.CustomRoles{}
	if !p.fields(n, customRolesFields) {
		return c
	}
	ceiling := n.get("ceiling")
	if ceiling == nil {
		p.bad(n, "ceiling is missing: the role of this file that no custom role may exceed")
		return c
	}
	c.Ceiling, _ = lookup(p, ceiling, "role", p.cat.Roles)
	return c
}

// separation reads one rule of separated duties.
func (p *parser) separation(key string, n *node) *usher.Separation {
	s := &usher.Separation{Key: key}
	if !p.fields(n, separationFields) {
		return s
	}
	s.Title = p.title(n.get("title"))
	roles := n.get("roles")
	if roles == nil {
		p.bad(n, "roles is missing: two or more roles of which nobody may hold two, such as roles: [payer, approver]")
		return s
	}
	s.Roles = p.names(roles, "roles", MaxRoles, func(item *node, _ string) bool {
		_, r := lookup(p, item, "role", p.cat.Roles)
		return r != nil
	})
	if roles.kind == listNode && len(roles.items) == 1 {
		p.bad(roles, "must list at least two roles: nobody may hold two of them")
	}
	return s
}

// checkRoles checks what roles, and separation rules, say of each other.
func (p *parser) checkRoles(n, separation *node) {
	if n == nil || n.kind != mapNode || p.cat.Roles == nil {
		return
	}
	g := &roleGraph{roles: p.cat.Roles, state: map[string]int{}, reach: map[string][]string{}, ways: map[string][]way{}}
	at := make(map[string]*node, len(n.keys))
	for i, key := range n.keys {
		at[key.text] = n.items[i]
	}
	for _, key := range n.keys {
		if p.cat.Roles[key.text] != nil {
			p.visit(g, key.text, at)
		}
	}
	if separation != nil && separation.kind == mapNode {
		for i, key := range separation.keys {
			if s := p.cat.Separation[key.text]; s != nil {
				p.checkSeparation(g, s, separation.items[i], n, at)
			}
		}
	}
}

// roleGraph is the state of a depth-first walk over which role includes which.
type roleGraph struct {
	roles map[string]*usher.Role
	path  []string       // the roles that are being visited, each included by the one before
	state map[string]int // by role: open, sound or broken
	reach map[string][]string
	ways  map[string][]way
}

// The states of a role.
const (
	open   = 1 + iota // it is on the path
	sound             // reach and ways are known
	broken            // a problem of it, or of one that it includes, was noted
)

// way is one combination of conditions and seats under which a role gives its
// permissions: all of them must hold.
type way struct{ when, seats []string }

// visit computes which roles a role reaches and under which conditions. It adds a
// problem for each cycle and each bound that is exceeded (A04: nothing is cut
// silently).
func (p *parser) visit(g *roleGraph, key string, at map[string]*node) {
	if g.state[key] != 0 {
		return
	}
	r := g.roles[key]
	g.state[key] = open
	g.path = append(g.path, key)
	is := sound
	var reach []string
	var own way
	if r.When != "" {
		own.when = []string{r.When}
	}
	if r.Seat != "" {
		own.seats = []string{r.Seat}
	}
	var ways []way
	if len(r.Permissions) > 0 {
		ways = append(ways, own)
	}
	includes := at[key].get("includes")
	for _, name := range r.Includes {
		if g.roles[name] == nil {
			p.bad(itemOf(includes, name), "there is no role %s%s", quote(name), p.roleHint(name))
			continue
		}
		if g.state[name] == open {
			cycle := append(slices.Clone(g.path[slices.Index(g.path, name):]), name)
			p.bad(itemOf(includes, name), "makes a cycle: %s", cycleWords(cycle))
			is = broken
			continue
		}
		p.visit(g, name, at)
		if g.state[name] == broken {
			is = broken
		}
		if is == broken {
			continue
		}
		// What a role includes it gives under its own condition and seat, in addition to those
		// of the included role.
		reach = append(append(reach, name), g.reach[name]...)
		for _, w := range g.ways[name] {
			ways = addWay(ways, way{joined(w.when, own.when), joined(w.seats, own.seats)})
		}
	}
	slices.Sort(reach)
	reach = slices.Compact(reach)
	switch {
	case is == broken:
	case len(reach) > MaxIncludes:
		p.bad(includes, "includes %d roles in all, and may include at most %d", len(reach), MaxIncludes)
		is = broken
	case len(ways) > MaxWays:
		p.bad(includes, "depends on more than %d different combinations of conditions and seats: put conditions on fewer of the roles that it "+
			"includes", MaxWays)
		is = broken
	}
	g.path = g.path[:len(g.path)-1]
	g.state[key], g.reach[key], g.ways[key] = is, reach, ways
}

// addWay adds a way that all does not have yet. It keeps at most MaxWays+1: one
// more than allowed is enough to refuse the role.
func addWay(all []way, w way) []way {
	for _, have := range all {
		if slices.Equal(have.when, w.when) && slices.Equal(have.seats, w.seats) {
			return all
		}
	}
	if len(all) > MaxWays {
		return all
	}
	return append(all, w)
}

// joined returns the sorted union of two sets.
func joined(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// cycleWords returns a cycle in words, without its middle if it is long.
func cycleWords(cycle []string) string {
	const most = 8
	if len(cycle) > 2*most {
		cycle = slices.Concat(cycle[:most], []string{"…"}, cycle[len(cycle)-most:])
	}
	return strings.Join(cycle, " → ")
}

func (p *parser) roleHint(name string) string {
	if len(p.problems) >= MaxProblems {
		return ""
	}
	return didYouMean(name, sortedKeys(p.cat.Roles))
}

// itemOf returns the item of a list whose text is s, or else the list.
func itemOf(list *node, s string) *node {
	for _, item := range list.items {
		if item.text == s {
			return item
		}
	}
	return list
}

// checkSeparation refuses a separation rule under which a role could be held by
// nobody, because the role includes two roles that the rule keeps apart.
func (p *parser) checkSeparation(g *roleGraph, s *usher.Separation, at, roles *node, byKey map[string]*node) {
	if len(s.Roles) < 2 {
		return
	}
	apart := make(map[string]bool, len(s.Roles))
	for _, role := range s.Roles {
		apart[role] = true
	}
	has := func(role string) (two []string) {
		if g.state[role] != sound {
			return nil
		}
		if apart[role] {
			two = append(two, role)
		}
		for _, name := range g.reach[role] {
			if apart[name] {
				two = append(two, name)
			}
		}
		return two
	}
	list := at.get("roles")
	for _, key := range roles.keys {
		two := has(key.text)
		if len(two) < 2 {
			continue
		}
		if apart[key.text] {
			p.bad(itemOf(list, key.text), "%s includes %s, so that nobody could hold %s: separated roles may not include each other", key.text,
				two[1], key.text)
			continue
		}
		r := g.roles[key.text]
		if slices.ContainsFunc(r.Includes, func(name string) bool { return len(has(name)) > 1 }) {
			continue // the problem is reported at the role that it includes
		}
		p.bad(byKey[key.text].get("includes"), "gives both %s and %s, which separation %s keeps apart, so that nobody could hold %s", two[0],
			two[1], s.Key, key.text)
	}
}
