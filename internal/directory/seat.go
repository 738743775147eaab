package directory

import (
	"maps"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/store"
)

// touched finds the members whose roles the change affects, by the directory before
// it. Without roles that need seats and without separated duties nothing depends on
// them, and none are looked up.
func (w *work) touched(old []usher.Role) (err error) {
	w.splits = w.book.Separates()
	// A member who is removed frees all its seats, also those that were given by hand. If
	// the catalogue no longer has a role with a seat, seats that such roles took may still
	// be held.
	if w.seats = w.book.Seated() || len(w.change.DropMembers) > 0; !w.seats {
		if w.seats, err = w.before.HasRoleSeats(w.ctx); err != nil {
			return err
		}
	}
	if w.seats || w.splits {
		w.members, err = w.affected(w.before, w.book.Customer(old))
	}
	return err
}

// affected lists the members whose roles the change affects, directly or through the
// groups that they are in in directory d.
func (w *work) affected(d store.Directory, roles *access.Roles) ([]string, error) {
	members, groups := map[string]bool{}, map[string]bool{}
	add := func(h usher.Holder) {
		if h.Group {
			groups[h.ID] = true
		} else {
			members[h.ID] = true
		}
	}
	for i := range w.change.Members {
		members[w.change.Members[i].ID] = true
	}
	for _, id := range w.change.DropMembers {
		members[id] = true
	}
	for _, id := range w.change.DropGroups {
		groups[id] = true
	}
	for _, list := range [][]usher.Membership{w.change.Join, w.change.Leave} {
		for _, m := range list {
			add(m.Holder)
		}
	}
	for i := range w.change.Assignments {
		add(w.change.Assignments[i].Holder)
	}
	for _, id := range w.change.DropAssignments {
		a, err := d.Assignment(w.ctx, id)
		if usher.ErrorCode(err) == usher.NotFound {
			continue
		} else if err != nil {
			return nil, err
		}
		add(a.Holder)
	}
	// A role that changes affects all members who hold it or a role that includes it.
	if len(w.change.Roles)+len(w.change.DropRoles) > 0 {
		var changed []string
		for i := range w.change.Roles {
			changed = append(changed, w.change.Roles[i].Key)
		}
		changed = append(changed, w.change.DropRoles...)
		all, err := d.Assignments(w.ctx, usher.AssignmentFilter{}, "", 1<<30)
		if err != nil {
			return nil, err
		}
		for i := range all {
			includes := func(key string) bool { return roles.Includes(all[i].Role, key) || w.roles.Includes(all[i].Role, key) }
			if slices.ContainsFunc(changed, includes) {
				add(all[i].Holder)
			}
		}
	}
	under, err := d.Under(w.ctx, slices.Collect(maps.Keys(groups)))
	if err != nil {
		return nil, err
	}
	for _, id := range under {
		members[id] = true
	}
	return slices.Sorted(maps.Keys(members)), nil
}

// holdings returns the seats that a member's roles ask for, now or later, each with its
// end (zero: it has none), and the roles themselves.
func (w *work) holdings(f *store.MemberFacts) (ends map[string]time.Time, held []string) {
	for i := range f.Assignments {
		a := &f.Assignments[i]
		held = append(held, a.Role)
		// An inactive member keeps its roles, which separated duties count, and holds no
		// seats.
		if f.Member == nil || !f.Member.Active {
			continue
		}
		for _, feature := range w.roles.Seats(a.Role) {
			if ends == nil {
				ends = map[string]time.Time{}
			}
			end, there := ends[feature]
			switch {
			case a.Until == nil:
				ends[feature] = time.Time{}
			case !there || !end.IsZero() && end.Before(*a.Until):
				ends[feature] = *a.Until
			}
		}
	}
	return ends, held
}

// wanted returns the seats that members need after the change. check must have run.
// Direct takes those that are missing, and frees those that a role took and no role
// asks for any more.
func (w *work) wanted() store.SeatNeeds { return w.needs }
