package directory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/usher-sh/usher"
)

// custom checks the customer's own roles as they will be after the change (A05).
func (w *work) custom(old []usher.Role) error {
	defs := map[string]*usher.Role{}
	for i := range old {
		defs[old[i].Key] = &old[i]
	}
	for _, key := range w.c.DropRoles {
		delete(defs, key)
	}
	var p problems
	ceiling, allowed := w.book.Ceiling()
	for i := range w.c.Roles {
		r := w.c.Roles[i]
		where := func(name string) string { return fmt.Sprintf("roles[%d].%s", i, name) }
		r.Permissions, r.Includes = sorted(r.Permissions), sorted(r.Includes)
		switch {
		case !allowed:
			return usher.Errorf(usher.Refused,
				"customers cannot make roles of their own, because the catalogue does not set custom_roles.ceiling")
		case !usher.ValidKey(r.Key):
			p.add(where("key"), "must be 1 to %d of a-z 0-9 . _ - and begin with a letter or digit, got %.80q", usher.MaxKey, r.Key)
		case w.book.HasRole(r.Key):
			return usher.Errorf(usher.Refused, "the role %q is the catalogue's: a customer's own role must have another key", r.Key)
		}
		p.text(where("title"), r.Title, MaxTitle)
		if r.Seat != "" || r.When != "" {
			p.add(where("when"), "a customer's own role cannot have a seat or a condition; it has those of the roles that it includes")
		}
		if len(r.Permissions) > MaxRoleItems || len(r.Includes) > MaxRoleItems {
			p.add(where("permissions"), "may have at most %d entries, and so may includes", MaxRoleItems)
			continue
		}
		for _, perm := range r.Permissions {
			switch {
			case !usher.ValidPattern(perm):
				p.add(where("permissions"),
					`%.80q is not a permission: it must be a key, in which any segment may be "*" and the last may be "**"`, perm)
			case !usher.IsPattern(perm) && w.book.Permission(perm) == nil:
				p.add(where("permissions"), "the catalogue has no permission %q", perm)
			}
		}
		defs[r.Key] = &r
		w.change.Roles = append(w.change.Roles, r)
	}
	if len(defs) > MaxCustomRoles {
		p.add("roles", "a customer may have at most %d", MaxCustomRoles)
	}
	all := make([]usher.Role, 0, len(defs))
	includes, patterns := 0, 0
	for _, key := range slices.Sorted(maps.Keys(defs)) {
		all = append(all, *defs[key])
		includes += len(defs[key].Includes)
		for _, perm := range defs[key].Permissions {
			if usher.IsPattern(perm) {
				patterns++
			}
		}
	}
	// Bounds are checked only if roles change: a customer beyond one must still be able to
	// change everything else.
	if patterns > MaxPatterns && len(w.change.Roles) > 0 {
		p.add("roles", "may have at most %d permissions with a * together, these have %d", MaxPatterns, patterns)
	}
	if includes > MaxIncludes && len(w.change.Roles) > 0 {
		p.add("roles", "may include at most %d roles together, these include %d", MaxIncludes, includes)
	}
	for i := range w.change.Roles {
		for _, in := range w.change.Roles[i].Includes {
			if defs[in] == nil && !w.book.HasRole(in) {
				p.add(fmt.Sprintf("roles[%d].includes", i), "there is no role %.80q", in)
			}
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	for i := range w.change.Roles {
		if path := cycle(defs, w.change.Roles[i].Key); path != nil {
			return usher.Errorf(usher.Refused, "the roles include each other in a circle: %s", strings.Join(path, " → "))
		}
	}
	// From here on w.roles is what members can hold after the change.
	w.roles = w.book.Customer(all)
	for i := range w.change.Roles {
		r := &w.change.Roles[i]
		if beyond := without(w.roles.Asked(r.Permissions, r.Includes), ceiling); len(beyond) > 0 {
			return usher.Errorf(usher.Refused, "the role %q would give more than the ceiling of customers' own roles: %s", r.Key, few(beyond))
		}
		// No member could hold a role that includes two separated ones.
		if rule, one, other := w.roles.Separated([]string{r.Key}); rule != nil {
			return usher.Errorf(usher.Refused, "the role %q would join %q and %q, which the rule %q keeps apart", r.Key, one, other, rule.Key)
		}
	}
	for _, key := range w.c.DropRoles {
		for _, r := range all {
			if slices.Contains(r.Includes, key) {
				return usher.Errorf(usher.InUse, "the role %q is included by %q: change that role first", key, r.Key)
			}
		}
	}
	return nil
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// cycle returns a path of includes from a role back to itself; nil if there is none.
func cycle(defs map[string]*usher.Role, start string) []string {
	done := map[string]bool{}
	var walk func(key string, path []string) []string
	walk = func(key string, path []string) []string {
		if key == start && len(path) > 0 {
			return append(path, key)
		}
		if done[key] || defs[key] == nil {
			return nil
		}
		done[key] = true
		for _, in := range defs[key].Includes {
			if found := walk(in, append(slices.Clone(path), key)); found != nil {
				return found
			}
		}
		return nil
	}
	return walk(start, nil)
}

// without returns the elements of all that are not in some.
func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(some, s) })
}

func few(list []string) string {
	if len(list) > 5 {
		return strings.Join(list[:5], ", ") + fmt.Sprintf(" and %d more", len(list)-5)
	}
	return strings.Join(list, ", ")
}

// RoleView is a role that a customer can assign.
type RoleView struct {
	Key         string   `json:"key"`
	Title       string   `json:"title,omitempty"`
	Custom      bool     `json:"custom"` // the customer's own
	Includes    []string `json:"includes,omitempty"`
	Permissions []string `json:"permissions"`     // as they were written: keys and patterns
	Gives       []string `json:"gives"`           // all permissions that it gives, by key, some perhaps under conditions
	Seats       []string `json:"seats,omitempty"` // features of kind seats of which its holders need a seat
	When        string   `json:"when,omitempty"`
}

// Roles lists the catalogue's roles and the customer's own, by key.
func (s *Service) Roles(ctx context.Context, env usher.Environment, customer string) ([]RoleView, error) {
	d := s.Read(env, customer)
	if _, err := d.Revision(ctx); err != nil {
		return nil, err
	}
	own, err := d.Roles(ctx)
	if err != nil {
		return nil, err
	}
	roles := s.cfg.Live.Access(env).Customer(own)
	var all []RoleView
	view := func(r *usher.Role, custom bool) {
		v := RoleView{Key: r.Key, Title: r.Title, Custom: custom, Includes: r.Includes, Permissions: r.Permissions, Gives: roles.Gives(r.Key),
			Seats: roles.Seats(r.Key), When: r.When}
		if v.Permissions == nil {
			v.Permissions = []string{}
		}
		if v.Gives == nil {
			v.Gives = []string{}
		}
		all = append(all, v)
	}
	for _, r := range s.cfg.Live.Catalog(env).Roles {
		view(r, false)
	}
	for i := range own {
		view(&own[i], true)
	}
	slices.SortFunc(all, func(x, y RoleView) int { return strings.Compare(x.Key, y.Key) })
	return all, nil
}
