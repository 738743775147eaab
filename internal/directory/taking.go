package directory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/store"
)

// checkTaking checks a change on behalf of a member: what the member could not give, it
// cannot take away either (S56). It compares the change with the directory before it,
// in which roles are. checkGiving must have run.
func (w *work) checkTaking(roles *access.Roles, own []usher.Role) error {
	if w.c.By == "" {
		return nil
	}
	for _, check := range []func(*access.Roles) error{w.checkMembers, w.checkAssignments, w.checkGroups} {
		if err := check(roles); err != nil {
			return err
		}
	}
	for i := range own {
		r := &own[i]
		lost := roles.Asked(r.Permissions, r.Includes)
		if k := slices.IndexFunc(w.change.Roles, func(x usher.Role) bool { return x.Key == r.Key }); k >= 0 {
			lost = without(lost, w.roles.Asked(w.change.Roles[k].Permissions, w.change.Roles[k].Includes))
		} else if !slices.Contains(w.change.DropRoles, r.Key) {
			continue
		}
		if beyond := w.lacks(lost, nil); len(beyond) > 0 {
			return usher.Errorf(usher.Refused, "%q cannot take permissions from the role %q: it does not hold %s itself permanently",
				w.c.By, r.Key, few(beyond))
		}
	}
	return nil
}

// may returns Refused if the member w.c.By could not give the role of an assignment
// itself until the assignment ends. act is what it cannot do. An assignment that has
// ended does not matter.
func (w *work) may(roles *access.Roles, a *usher.Assignment, act string) error {
	if a.Until != nil && !a.Until.After(w.now) {
		return nil
	}
	if beyond := w.lacks(roles.Gives(a.Role), a.Until); len(beyond) > 0 {
		return usher.Errorf(usher.Refused, "%q cannot %s, because of the role %q: it does not hold %s itself for as long",
			w.c.By, act, a.Role, few(beyond))
	}
	return nil
}

// checkMembers checks removed, deactivated and reactivated members: they lose or gain
// all roles that they have, also through groups. A new type or new properties may turn
// any role with a condition on or off.
func (w *work) checkMembers(roles *access.Roles) error {
	ids := slices.Clone(w.change.DropMembers)
	for i := range w.change.Members {
		ids = append(ids, w.change.Members[i].ID)
	}
	facts, err := w.before.Facts(w.ctx, ids, w.now, 0)
	if err != nil {
		return err
	}
	for _, id := range w.change.DropMembers {
		for i := range facts[id].Assignments {
			if err := w.may(roles, &facts[id].Assignments[i], fmt.Sprintf("remove the member %q", id)); err != nil {
				return err
			}
		}
	}
	for i := range w.change.Members {
		m := &w.change.Members[i]
		was := facts[m.ID].Member
		if was == nil {
			continue
		}
		turned, moved := was.Active != m.Active, was.Type != m.Type || !sameProperties(was.Properties, m.Properties)
		act := fmt.Sprintf("change the type or the properties of the member %q", m.ID)
		switch {
		case turned && m.Active:
			act = fmt.Sprintf("reactivate the member %q", m.ID)
		case turned:
			act = fmt.Sprintf("deactivate the member %q", m.ID)
		}
		for k := range facts[m.ID].Assignments {
			a := &facts[m.ID].Assignments[k]
			conditional := moved && roles.Conditional(a.Role)
			if !turned && !conditional {
				continue
			}
			if conditional && m.ID == w.c.By {
				return usher.Errorf(usher.Refused, "%q cannot %s, because the role %q has conditions: it cannot give itself a role",
					w.c.By, act, a.Role)
			}
			if err := w.may(roles, a, act); err != nil {
				return err
			}
		}
	}
	return nil
}

// sameProperties reports whether two sets of properties are the same JSON.
func sameProperties(a, b map[string]any) bool {
	if len(a) == 0 && len(b) == 0 {
		return true
	}
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// checkAssignments checks assignments that are removed, or that begin later or end
// earlier than before.
func (w *work) checkAssignments(roles *access.Roles) error {
	old := func(id string) (*usher.Assignment, error) {
		a, there, err := read(w.ctx, w.before.Assignment, id)
		if !there {
			return nil, err
		}
		return &a, err
	}
	for _, id := range w.change.DropAssignments {
		was, err := old(id)
		if err != nil {
			return err
		}
		if was == nil {
			continue
		}
		if err := w.may(roles, was, fmt.Sprintf("take away the assignment %q", id)); err != nil {
			return err
		}
	}
	for i := range w.change.Assignments {
		a := &w.change.Assignments[i]
		was, err := old(a.ID)
		if err != nil {
			return err
		}
		if was == nil {
			continue
		}
		left := spanOf(was) // of the time that is still to come
		if left.from.Before(w.now) {
			left.from = w.now
		}
		if left.within(spanOf(a)) {
			continue
		}
		if err := w.may(roles, was, fmt.Sprintf("shorten the assignment %q", a.ID)); err != nil {
			return err
		}
	}
	return nil
}

// checkGroups checks groups that are removed, or that members or groups leave.
func (w *work) checkGroups(roles *access.Roles) error {
	for _, id := range w.change.DropGroups {
		if err := w.mayGroup(w.before, roles, id, fmt.Sprintf("remove the group %q", id)); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for _, m := range w.change.Leave {
		if seen[m.Group] {
			continue
		}
		seen[m.Group] = true
		if err := w.mayGroup(w.before, roles, m.Group, fmt.Sprintf("take anyone out of the group %q", m.Group)); err != nil {
			return err
		}
	}
	return nil
}

// mayGroup is like may, for all roles that a group gives in directory d, its own and
// those of the groups around it.
func (w *work) mayGroup(d store.Directory, roles *access.Roles, id, act string) error {
	above, err := d.Above(w.ctx, id)
	if err != nil {
		return err
	}
	// Members of a group also get the roles of the groups that it is in.
	for _, group := range append(above, id) {
		held, err := d.Assignments(w.ctx, usher.AssignmentFilter{Holder: &usher.Holder{Group: true, ID: group}}, "", 1<<30)
		if err != nil {
			return err
		}
		for i := range held {
			if err := w.may(roles, &held[i], act); err != nil {
				return err
			}
		}
	}
	return nil
}
