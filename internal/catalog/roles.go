package catalog

import (
	"context"
	"maps"
	"slices"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/store"
)

// roles finds what a new catalogue may not do to roles that customers use: remove a
// role that is assigned, use the key of a customer's own role (A05), or separate
// duties that one member has together (A12). add notes a problem.
func (p *plan) roles(ctx context.Context, add func(location, format string, args ...any)) error {
	old := p.old
	if old == nil {
		old = &usher.Catalog{}
	}
	if len(old.Roles)+len(p.next.Roles) == 0 {
		return nil
	}
	held, err := p.db.RolesHeld(ctx, p.env, p.now)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(old.Roles)) {
		if n := held[key]; p.next.Roles[key] == nil && n > 0 {
			add("roles."+key, "cannot be removed: it has %s; remove them first", usher.CountOf(n, "assignment"))
		}
	}
	custom, err := p.db.CustomRoleKeys(ctx, p.env)
	if err != nil {
		return err
	}
	for _, key := range custom {
		if p.next.Roles[key] != nil {
			add("roles."+key, "is the key of roles that customers have made, which it would hide: choose another key")
		}
	}
	return p.separate(ctx, custom, add)
}

// separate finds the members who would break a rule of separated duties.
func (p *plan) separate(ctx context.Context, custom []string, add func(location, format string, args ...any)) error {
	if len(p.next.Separation) == 0 {
		return nil
	}
	book := access.NewBook(p.next, nil)
	plain := book.Customer(nil)
	asked := slices.Clone(custom)
	for key := range p.next.Roles {
		for _, s := range p.next.Separation {
			if slices.ContainsFunc(s.Roles, func(r string) bool { return plain.Includes(key, r) }) {
				asked = append(asked, key)
			}
		}
	}
	slices.Sort(asked)
	all, err := p.db.RoleHolders(ctx, p.env, slices.Compact(asked), p.now)
	if err != nil {
		return err
	}
	for len(all) > 0 {
		n := slices.IndexFunc(all, func(h store.RoleHolder) bool { return h.Customer != all[0].Customer })
		if n < 0 {
			n = len(all)
		}
		// One role can include two separated roles only if it is the customer's own:
		// the catalogue's roles were checked when the file was parsed.
		if n > 1 || slices.Contains(custom, all[0].Role) {
			if err := p.joins(ctx, book, all[:n], add); err != nil {
				return err
			}
		}
		all = all[n:]
	}
	return nil
}

// joins finds the members of one customer who hold two roles that a rule separates.
func (p *plan) joins(ctx context.Context, book *access.Book, holders []store.RoleHolder,
	add func(location, format string, args ...any)) error {
	d := p.db.Directory(p.env, holders[0].Customer)
	own, err := d.Roles(ctx)
	if err != nil {
		return err
	}
	roles := book.Customer(own)
	byMember := map[string][]string{}
	for _, h := range holders {
		members := []string{h.Holder.ID}
		if h.Holder.Group {
			if members, err = d.Under(ctx, []string{h.Holder.ID}); err != nil {
				return err
			}
		}
		for _, m := range members {
			byMember[m] = append(byMember[m], h.Role)
		}
	}
	for _, m := range slices.Sorted(maps.Keys(byMember)) {
		if rule, one, other := roles.Separated(byMember[m]); rule != nil {
			add("separation."+rule.Key, "member %s of customer %s holds %s and %s: take one away first",
				m, holders[0].Customer, one, other)
		}
	}
	return nil
}
