// Package access decides what members may do, from roles, permissions and
// conditions, and says which of them decided. It is pure: values in, values out. It
// knows no plan, clock or storage, and does not guess: missing data denies.
package access

import (
	"slices"
	"strings"

	"github.com/usher-sh/usher"
)

// MaxTerms bounds the ways in which one role gives permissions: its distinct sets of
// conditions and seats.
const MaxTerms = 64

// Book is a catalogue's permissions and roles, compiled. It never changes.
type Book struct {
	bit    map[string]int // by permission
	perms  []*usher.Permission
	roles  map[string]*role
	splits []*usher.Separation
	// ceiling bounds custom roles; nil: custom roles are not allowed.
	ceiling *role
	conds   map[string]usher.Condition
}

// role is a role with everything that it includes.
type role struct {
	def    *usher.Role
	custom bool
	all    []string // the roles it is, itself first
	terms  []term
}

// term is a set of permissions and what they need: every condition must be true and
// every seat held.
type term struct {
	bits  bits
	when  []string
	seats []string
}

// bits is a set of permissions, by their index in the book.
type bits []uint64

// A word holds 64 permissions: i>>6 is the word, i&63 the bit in it.
func (b bits) has(i int) bool { return b[i>>6]&(1<<(i&63)) != 0 }
func (b bits) set(i int)      { b[i>>6] |= 1 << (i & 63) }

func (b bits) or(c bits) {
	for i := range c {
		b[i] |= c[i]
	}
}

func (b bits) and(c bits) (both bits, some bool) {
	both = make(bits, len(b))
	for i := range b {
		both[i] = b[i] & c[i]
		some = some || both[i] != 0
	}
	return both, some
}

func (b bits) empty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

// NewBook compiles a catalogue that catalogfile has accepted. conds must have a
// condition for each When; one that is missing is never true.
func NewBook(c *usher.Catalog, conds map[string]usher.Condition) *Book {
	b := &Book{bit: make(map[string]int, len(c.Permissions)), roles: make(map[string]*role, len(c.Roles)), conds: conds}
	for key := range c.Permissions {
		b.perms = append(b.perms, c.Permissions[key])
	}
	slices.SortFunc(b.perms, func(x, y *usher.Permission) int { return strings.Compare(x.Key, y.Key) })
	for i, p := range b.perms {
		b.bit[p.Key] = i
	}
	for key := range c.Roles {
		b.compile(key, c.Roles, nil)
	}
	if c.CustomRoles != nil {
		b.ceiling = b.roles[c.CustomRoles.Ceiling]
	}
	for _, s := range c.Separation {
		b.splits = append(b.splits, s)
	}
	slices.SortFunc(b.splits, func(x, y *usher.Separation) int { return strings.Compare(x.Key, y.Key) })
	return b
}

func (b *Book) none() bits { return make(bits, (len(b.perms)+63)/64) }

// expand returns the permissions that keys and patterns match. A key that does not
// exist matches none.
func (b *Book) expand(patterns []string) bits {
	set := b.none()
	for _, p := range patterns {
		if !usher.IsPattern(p) {
			if i, ok := b.bit[p]; ok {
				set.set(i)
			}
			continue
		}
		for i, q := range b.perms {
			if usher.MatchPermission(p, q.Key) {
				set.set(i)
			}
		}
	}
	return set
}

// compile compiles a role of the catalogue, once. A role in a cycle, which
// catalogfile refuses, gives nothing.
func (b *Book) compile(key string, defs map[string]*usher.Role, above []string) *role {
	if r := b.roles[key]; r != nil {
		return r
	}
	def := defs[key]
	if def == nil || slices.Contains(above, key) {
		return nil
	}
	r := &role{def: def}
	b.fill(r, func(name string) *role { return b.compile(name, defs, append(above, key)) })
	b.roles[key] = r
	return r
}

// fill computes what a role gives, together with the roles that it includes.
func (b *Book) fill(r *role, included func(string) *role) {
	var when, seats []string
	if r.def.When != "" {
		when = []string{r.def.When}
	}
	if r.def.Seat != "" {
		seats = []string{r.def.Seat}
	}
	r.all = []string{r.def.Key}
	have := map[string]bool{r.def.Key: true}
	if own := b.expand(r.def.Permissions); !own.empty() {
		r.terms = addTerm(r.terms, term{own, when, seats})
	}
	for _, name := range r.def.Includes {
		in := included(name)
		if in == nil {
			continue
		}
		for _, n := range in.all {
			if !have[n] {
				have[n] = true
				r.all = append(r.all, n)
			}
		}
		// What the role needs for its own permissions it needs for included ones too:
		// otherwise including a role would be a way around the condition.
		for _, t := range in.terms {
			r.terms = addTerm(r.terms, term{t.bits, union(t.when, when), union(t.seats, seats)})
		}
	}
}

// addTerm adds a term, or adds its permissions to the term with the same needs. Beyond
// MaxTerms it adds nothing, so that a role gives too little and never too much.
func addTerm(all []term, t term) []term {
	for i := range all {
		if slices.Equal(all[i].when, t.when) && slices.Equal(all[i].seats, t.seats) {
			// A copy, because an included role shares its bits with this term.
			both := slices.Clone(all[i].bits)
			both.or(t.bits)
			all[i].bits = both
			return all
		}
	}
	if len(all) >= MaxTerms {
		return all
	}
	return append(all, t)
}

// union returns the sorted union of two sets.
func union(a, b []string) []string {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// Permission returns a permission of the catalogue, nil if there is none.
func (b *Book) Permission(key string) *usher.Permission {
	if i, ok := b.bit[key]; ok {
		return b.perms[i]
	}
	return nil
}

// Permissions returns every permission, by key. The caller must not change the list.
func (b *Book) Permissions() []*usher.Permission { return b.perms }

// HasRole reports whether the catalogue has a role.
func (b *Book) HasRole(key string) bool { return b.roles[key] != nil }

// Roles is the roles that a customer may assign: the catalogue's and its own.
type Roles struct {
	book   *Book
	custom map[string]*role
}

// Customer joins a customer's custom roles with the catalogue's. Each gives no more
// than the ceiling, under the ceiling's own conditions (A05). If a custom role has
// the key of one of the catalogue's, neither gives anything, because it is unknown
// which of the two an assignment means.
func (b *Book) Customer(custom []usher.Role) *Roles {
	rs := &Roles{book: b}
	if len(custom) == 0 {
		return rs
	}
	defs := make(map[string]*usher.Role, len(custom))
	for i := range custom {
		defs[custom[i].Key] = &custom[i]
	}
	rs.custom = make(map[string]*role, len(custom))
	var compile func(key string, above []string) *role
	compile = func(key string, above []string) *role {
		def := defs[key]
		if def == nil {
			return b.roles[key]
		}
		if r := rs.custom[key]; r != nil {
			return r
		}
		if slices.Contains(above, key) {
			return nil
		}
		bare := *def
		// A custom role has no condition or seat of its own; the needs come from the roles
		// that it includes and from the ceiling.
		bare.When, bare.Seat = "", ""
		r := &role{def: def, custom: true}
		whole := &role{def: &bare}
		b.fill(whole, func(name string) *role { return compile(name, append(above, key)) })
		r.all = whole.all
		if b.roles[key] == nil && b.ceiling != nil {
			for _, t := range whole.terms {
				// Each permission keeps the needs under which the ceiling gives it.
				for _, c := range b.ceiling.terms {
					if both, some := t.bits.and(c.bits); some {
						r.terms = addTerm(r.terms, term{both, union(t.when, c.when), union(t.seats, c.seats)})
					}
				}
			}
		}
		rs.custom[key] = r
		return r
	}
	for key := range defs {
		compile(key, nil)
	}
	return rs
}

// find returns a role by key, nil if neither the catalogue nor the customer has it.
func (rs *Roles) find(key string) *role {
	if r := rs.custom[key]; r != nil {
		return r
	}
	return rs.book.roles[key]
}

// Has reports whether the customer can assign a role.
func (rs *Roles) Has(key string) bool { return rs.find(key) != nil }

// Seats returns the features of kind seats of which a role may need its holder to
// have a seat, sorted.
func (rs *Roles) Seats(key string) []string {
	r := rs.find(key)
	if r == nil {
		return nil
	}
	var all []string
	for _, t := range r.terms {
		all = union(all, t.seats)
	}
	return all
}

// Gives returns the permissions that a role can give, under any conditions, by key.
func (rs *Roles) Gives(key string) []string {
	r := rs.find(key)
	if r == nil {
		return nil
	}
	return rs.book.names(r.sum(rs.book))
}

// Conditional reports whether a role gives anything under a condition.
func (rs *Roles) Conditional(key string) bool {
	r := rs.find(key)
	return r != nil && slices.ContainsFunc(r.terms, func(t term) bool { return len(t.when) > 0 })
}

func (r *role) sum(b *Book) bits {
	set := b.none()
	for _, t := range r.terms {
		set.or(t.bits)
	}
	return set
}

func (b *Book) names(set bits) []string {
	var all []string
	for i, p := range b.perms {
		if set.has(i) {
			all = append(all, p.Key)
		}
	}
	return all
}

// Asked returns the permissions that a custom role names, before the ceiling, by key.
// includes are roles whose permissions it has too.
func (rs *Roles) Asked(permissions, includes []string) []string {
	set := rs.book.expand(permissions)
	for _, name := range includes {
		if r := rs.find(name); r != nil {
			set.or(r.sum(rs.book))
		}
	}
	return rs.book.names(set)
}

// Ceiling returns the permissions that custom roles may give, by key. ok is false if
// the catalogue does not allow custom roles.
func (b *Book) Ceiling() (permissions []string, ok bool) {
	if b.ceiling == nil {
		return nil, false
	}
	return b.names(b.ceiling.sum(b)), true
}

// Includes reports whether role key is, or includes through others, role other.
func (rs *Roles) Includes(key, other string) bool {
	r := rs.find(key)
	return r != nil && slices.Contains(r.all, other)
}

// Separated returns a rule of separated duties that a member with all of these roles
// would break, and two of the roles; nil if there is none.
func (rs *Roles) Separated(held []string) (rule *usher.Separation, one, other string) {
	if len(rs.book.splits) == 0 {
		return nil, "", ""
	}
	have := map[string]bool{}
	for _, key := range held {
		if r := rs.find(key); r != nil {
			for _, n := range r.all {
				have[n] = true
			}
		}
	}
	for _, s := range rs.book.splits {
		one = ""
		for _, key := range s.Roles {
			switch {
			case !have[key]:
			case one != "":
				return s, one, key
			default:
				one = key
			}
		}
	}
	return nil, "", ""
}

// Separates reports whether the catalogue has any rule of separated duties.
func (b *Book) Separates() bool { return len(b.splits) > 0 }

// Giving returns the roles that can give a permission, by key.
func (rs *Roles) Giving(permission string) []string {
	i, ok := rs.book.bit[permission]
	if !ok {
		return nil
	}
	var all []string
	for key, r := range rs.book.roles {
		if r != nil && r.sum(rs.book).has(i) && rs.custom[key] == nil {
			all = append(all, key)
		}
	}
	for key, r := range rs.custom {
		if r.sum(rs.book).has(i) {
			all = append(all, key)
		}
	}
	slices.Sort(all)
	return all
}

// Seated reports whether any role of the catalogue needs a seat.
func (b *Book) Seated() bool {
	for _, r := range b.roles {
		if r.def.Seat != "" {
			return true
		}
	}
	return false
}
