package catalogfile

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/usher-sh/usher"
)

// access adds the changes of permissions, roles, custom roles and separation.
func (d *differ) access() {
	things(d, "permissions", "permission", d.old.Permissions, d.new.Permissions, d.permission)
	d.roles()
	d.customRoles()
	things(d, "separation", "separation", d.old.Separation, d.new.Separation, d.separation)
}

func (d *differ) permission(path string, a, b *usher.Permission) {
	if a == nil {
		d.field(path, "feature", "asks the plan for", "", featuresWords(b))
		d.field(path, "risk", "risk", "", string(b.Risk))
		return
	}
	d.field(path, "title", "title", quoteSome(a.Title), quoteSome(b.Title))
	if was := featuresWords(a); was != "" && len(b.Features) == 0 {
		d.note(Remove, path+".feature", "permission %s: no longer asks the plan for %s", b.Key, was)
	} else {
		d.field(path, "feature", "asks the plan for", was, featuresWords(b))
	}
	d.field(path, "risk", "risk", or(string(a.Risk), string(usher.RiskLow)), or(string(b.Risk), string(usher.RiskLow)))
}

// featuresWords returns "exports and sso", "exports or sso", or "".
func featuresWords(p *usher.Permission) string {
	if p.Any {
		return strings.Join(p.Features, " or ")
	}
	return strings.Join(p.Features, " and ")
}

func (d *differ) separation(path string, a, b *usher.Separation) {
	if a == nil {
		a = &usher.Separation{Title: b.Title}
	}
	d.field(path, "title", "title", quoteSome(a.Title), quoteSome(b.Title))
	d.field(path, "roles", "keeps apart", strings.Join(a.Roles, ", "), strings.Join(b.Roles, ", "))
}

func (d *differ) customRoles() {
	was, is := "", ""
	if d.old.CustomRoles != nil {
		was = d.old.CustomRoles.Ceiling
	}
	if d.new.CustomRoles != nil {
		is = d.new.CustomRoles.Ceiling
	}
	const path = "custom_roles.ceiling"
	switch {
	case was == is:
	case was == "":
		d.note(Add, path, "custom roles: customers may make roles of what role %s gives", is)
	case is == "":
		d.note(Remove, path, "custom roles: customers may make none, and those that they made give nothing (the ceiling was %s)", was)
	default:
		d.note(Alter, path, "custom roles: ceiling %s → %s%s", was, is, d.ceilingWords(was, is))
	}
}

// ceilingWords returns what customers' own roles gain and lose when the ceiling
// changes.
func (d *differ) ceilingWords(was, is string) string {
	before, after := d.gives(0, was), d.gives(1, is)
	var all []string
	if lost := d.effects.less(before, after); len(lost) > 0 {
		all = append(all, "they lose "+few(lost))
	}
	if gained := d.effects.less(after, before); len(gained) > 0 {
		all = append(all, "they may give "+few(gained))
	}
	if len(all) == 0 {
		return ""
	}
	return ": " + strings.Join(all, ", ")
}

// roles notes what changed of roles, and of what each gives in effect, through
// patterns and through what it includes.
func (d *differ) roles() {
	for _, key := range both(d.old.Roles, d.new.Roles) {
		path := "roles." + key
		a, b := d.old.Roles[key], d.new.Roles[key]
		was, is := d.gives(0, key), d.gives(1, key)
		switch {
		case b == nil:
			loss := ""
			if lost := d.effects.names(func(i int) uint64 { return was.any[i] }); len(lost) > 0 {
				loss = ": who holds it loses " + few(lost)
			}
			d.note(Remove, path, "role %s removed%s", key, loss)
			continue
		case a == nil:
			d.note(Add, path, "new role %s", key)
			d.field(path, "includes", "includes", "", strings.Join(b.Includes, ", "))
			d.field(path, "seat", "needs a seat of", "", b.Seat)
			d.field(path, "when", "only when", "", b.When)
			if gives := d.effects.names(func(i int) uint64 { return is.any[i] }); len(gives) > 0 {
				d.note(Add, path+".permissions", "role %s: gives %s", key, few(gives))
			}
			continue
		case !reflect.DeepEqual(a, b):
			also := suffix(d.includedBy(key))
			d.field(path, "title", "title", quoteSome(a.Title), quoteSome(b.Title))
			d.field(path, "includes", "includes", strings.Join(a.Includes, ", "), strings.Join(b.Includes, ", "))
			d.field(path, "permissions", "lists", strings.Join(a.Permissions, ", "), strings.Join(b.Permissions, ", "))
			d.also(also, func() {
				if a.Seat != "" && b.Seat == "" {
					d.note(Remove, path+".seat", "role %s: no longer needs a seat of %s", key, a.Seat)
				} else {
					d.field(path, "seat", "needs a seat of", a.Seat, b.Seat)
				}
				if a.When != "" && b.When == "" {
					d.note(Remove, path+".when", "role %s: always, no longer only when %s", key, a.When)
				} else {
					d.field(path, "when", "only when", a.When, b.When)
				}
			})
		}
		custom := d.new.CustomRoles != nil && d.new.CustomRoles.Ceiling == key
		if gained := d.effects.less(is, was); len(gained) > 0 {
			note := ""
			if custom {
				note = "custom roles may give it too"
			}
			d.note(Add, path+".permissions", "role %s: gains %s%s", key, few(gained), suffix(note))
		}
		if lost := d.effects.less(was, is); len(lost) > 0 {
			note := ""
			if custom {
				note = "custom roles lose it too"
			}
			d.note(Remove, path+".permissions", "role %s: loses %s%s", key, few(lost), suffix(note))
		}
		if a.When == b.When && a.Seat == b.Seat {
			if bound := d.effects.freed(is, was); len(bound) > 0 {
				d.note(Alter, path+".permissions", "role %s: gives %s only under a condition or with a seat from now on", key, few(bound))
			}
			if free := d.effects.freed(was, is); len(free) > 0 {
				d.note(Alter, path+".permissions", "role %s: gives %s without a condition or seat from now on", key, few(free))
			}
		}
	}
}

// also adds words to the changes that note makes.
func (d *differ) also(words string, note func()) {
	first := len(d.changes)
	note()
	for i := first; i < len(d.changes); i++ {
		d.changes[i].Text += words
	}
}

// includedBy names the roles of the new catalogue that include a role, directly
// or through others.
func (d *differ) includedBy(key string) string {
	const most = 5
	var all []string
	for _, name := range sortedKeys(d.new.Roles) {
		if name == key || !includes(d.new, name, key, map[string]bool{}) {
			continue
		}
		if all = append(all, name); len(all) > most {
			return "included by " + strings.Join(all[:most], ", ") + " and more"
		}
	}
	if len(all) == 0 {
		return ""
	}
	return "included by " + strings.Join(all, ", ")
}

func includes(c *usher.Catalog, role, other string, seen map[string]bool) bool {
	r := c.Roles[role]
	if r == nil || seen[role] {
		return false
	}
	seen[role] = true
	for _, name := range r.Includes {
		if name == other || includes(c, name, other, seen) {
			return true
		}
	}
	return false
}

// effect is what a role gives: sets of permissions, one bit each.
type effect struct{ any, always []uint64 } // always: under no condition, without a seat

// effects caches what the roles of both catalogues give.
type effects struct {
	keys  []string // the permissions of both, sorted
	place map[string]int
	means [2]map[string][]uint64 // in old and new, by pattern
	roles [2]map[string]effect   // likewise, by role
}

// gives returns what a role of the old (0) or new (1) catalogue gives, including
// what it gives through the roles that it includes.
func (d *differ) gives(which int, role string) effect {
	if d.effects == nil {
		d.effects = &effects{keys: both(d.old.Permissions, d.new.Permissions), place: map[string]int{}}
		for i, key := range d.effects.keys {
			d.effects.place[key] = i
		}
		for i := range 2 {
			d.effects.means[i], d.effects.roles[i] = map[string][]uint64{}, map[string]effect{}
		}
	}
	all := d.effects
	if e, known := all.roles[which][role]; known {
		return e
	}
	e := effect{all.none(), all.none()}
	all.roles[which][role] = e // a cycle, which Parse refuses, gives what is known so far
	c := d.old
	if which == 1 {
		c = d.new
	}
	r := c.Roles[role]
	if r == nil {
		return e
	}
	always := r.When == "" && r.Seat == ""
	add := func(from effect) {
		for i := range e.any {
			e.any[i] |= from.any[i]
			if always {
				e.always[i] |= from.always[i]
			}
		}
	}
	for _, pattern := range r.Permissions {
		set := all.pattern(c, which, pattern)
		add(effect{set, set})
	}
	for _, name := range r.Includes {
		add(d.gives(which, name))
	}
	return e
}

func (e *effects) none() []uint64 { return make([]uint64, (len(e.keys)+63)/64) }

// pattern returns what a key or pattern means in a catalogue.
func (e *effects) pattern(c *usher.Catalog, which int, pattern string) []uint64 {
	if set, known := e.means[which][pattern]; known {
		return set
	}
	set := e.none()
	for i, key := range e.keys {
		if c.Permissions[key] != nil && usher.MatchPermission(pattern, key) {
			set[i>>6] |= 1 << (i & 63)
		}
	}
	e.means[which][pattern] = set
	return set
}

// names lists the permissions whose words make what true, sorted.
func (e *effects) names(what func(i int) uint64) (all []string) {
	for i, key := range e.keys {
		if what(i>>6)&(1<<(i&63)) != 0 {
			all = append(all, key)
		}
	}
	return all
}

// less lists what a gives and b does not.
func (e *effects) less(a, b effect) []string {
	return e.names(func(i int) uint64 { return a.any[i] &^ b.any[i] })
}

// freed lists what both give, and only b always.
func (e *effects) freed(a, b effect) []string {
	return e.names(func(i int) uint64 { return a.any[i] &^ a.always[i] & b.always[i] })
}

// few lists keys, at most ten of them by name.
func few(keys []string) string {
	const most = 10
	if len(keys) <= most {
		return strings.Join(keys, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(keys[:most], ", "), len(keys)-most)
}
