package directory

import (
	"fmt"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// span is when an assignment is in force: [from, until). A zero until: without end.
type span struct {
	from  time.Time
	until time.Time
}

func spanOf(a *usher.Assignment) span {
	s := span{from: a.From}
	if a.Until != nil {
		s.until = *a.Until
	}
	return s
}

// within reports whether s is in force at no instant at which t is not.
func (s span) within(t span) bool {
	return !s.from.Before(t.from) && (t.until.IsZero() || !s.until.IsZero() && !s.until.After(t.until))
}

// checkGiving checks that the roles of assignments exist. If the change is made on
// behalf of a member, it also checks that this member holds what it gives (A05) and
// gives nothing to itself (A12).
func (w *work) checkGiving(actor usher.Actor) error {
	var p problems
	for i := range w.change.Assignments {
		a := &w.change.Assignments[i]
		if !w.roles.Has(a.Role) {
			p.add(fmt.Sprintf("assignments[%d].role", i), "there is no role %.80q", a.Role)
		}
		if a.GrantedBy == "" {
			a.GrantedBy = actor.String()
			if w.c.By != "" {
				a.GrantedBy = "member:" + w.c.By
			}
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	if w.c.By == "" {
		return nil
	}
	giver, err := w.s.cfg.Live.Member(w.ctx, w.env, w.change.Customer, w.c.By, w.now)
	if err != nil {
		return err
	}
	if !giver.Active() {
		return usher.Errorf(usher.Refused, "the member %q, on whose behalf this is done, is unknown or not active", w.c.By)
	}
	// What the giver holds is computed before the change: it cannot use what it gives itself
	// in the same change.
	w.has, w.own = giver.Holds(w.now), map[string]span{}
	facts, err := w.before.Facts(w.ctx, []string{w.c.By}, w.now, 0)
	if err != nil {
		return err
	}
	for _, a := range facts[w.c.By].Assignments {
		w.own[a.ID] = spanOf(&a)
	}
	for i := range w.change.Roles {
		r := &w.change.Roles[i]
		if beyond := w.lacks(w.roles.Asked(r.Permissions, r.Includes), nil); len(beyond) > 0 {
			return usher.Errorf(usher.Refused, "the role %q would give permissions that %q does not hold permanently: %s",
				r.Key, w.c.By, few(beyond))
		}
	}
	for i := range w.change.Assignments {
		a := &w.change.Assignments[i]
		if !a.Holder.Group && a.Holder.ID == w.c.By {
			return usher.Errorf(usher.Refused, "%q cannot give itself a role", w.c.By)
		}
		if beyond := w.lacks(w.roles.Gives(a.Role), a.Until); len(beyond) > 0 {
			return usher.Errorf(usher.Refused, "%q cannot give the role %q: it does not hold %s itself for as long", w.c.By, a.Role, few(beyond))
		}
	}
	return nil
}

// lacks returns those permissions that the member w.c.By cannot give until an end
// (nil: without end), because it does not hold them for as long itself.
func (w *work) lacks(permissions []string, until *time.Time) []string {
	return slices.DeleteFunc(slices.Clone(permissions), func(key string) bool {
		end, held := w.has[key]
		return held && (end.IsZero() || until != nil && !until.After(end))
	})
}

// checkJoins checks a change on behalf of a member, with the directory as it will be.
// The member must hold what the groups give to which it adds others (A05), and nothing
// in the change may give the member itself a role or a longer one (A12).
func (w *work) checkJoins(d store.Directory) error {
	if w.c.By == "" {
		return nil
	}
	facts, err := d.Facts(w.ctx, []string{w.c.By}, w.now, 0)
	if err != nil {
		return err
	}
	mine := facts[w.c.By].Assignments
	for i := range mine {
		a := &mine[i]
		// An assignment that is new, or in force for longer than before, came by this
		// change: through a group, because checkGiving refuses direct ones.
		if was, ok := w.own[a.ID]; !ok || !spanOf(a).within(was) {
			return usher.Errorf(usher.Refused, "%q cannot give itself the role %q, not even through a group", w.c.By, a.Role)
		}
	}
	seen := map[string]bool{}
	for _, m := range w.change.Join {
		if seen[m.Group] {
			continue
		}
		seen[m.Group] = true
		if err := w.mayGroup(d, w.roles, m.Group, fmt.Sprintf("put anyone into the group %q", m.Group)); err != nil {
			return err
		}
	}
	return nil
}
