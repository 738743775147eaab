package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/store"
)

// work is one attempt at a change. normal, custom, checkGiving and checkTaking check it
// before the transaction; check looks at its result inside the transaction.
type work struct {
	ctx     context.Context
	s       *Service
	env     usher.Environment
	c       *Change
	now     time.Time
	book    *access.Book
	before  store.Directory
	roles   *access.Roles // as they will be after the change
	change  store.DirectoryChange
	seats   bool            // seats may be taken or freed
	splits  bool            // the catalogue separates duties
	members []string        // members that the change affects, by the directory before it
	needs   store.SeatNeeds // the seats that members need after the change
	added   int             // how many items merge found to be new
	// For a change on behalf of a member: until when that member holds each permission,
	// and when each of its assignments, its own or through groups, is in force.
	has map[string]time.Time
	own map[string]span
}

func (s *Service) work(ctx context.Context, env usher.Environment, by usher.By, customer string, c *Change, known *int64) (*work, error) {
	catalog := s.cfg.Live.CatalogRevision(env) // read before the book: if it is older, the change is stale and runs again
	w := &work{ctx: ctx, s: s, env: env, c: c, now: s.cfg.Live.Now(env), book: s.cfg.Live.Access(env),
		before: s.cfg.DB.Directory(env, customer)}
	// Everything below is computed from this revision. The transaction refuses the change if
	// the directory has another one by then (store.ErrStale), and Apply begins again.
	basis, err := w.before.Revision(ctx)
	if err != nil {
		return nil, err
	}
	if known != nil && basis != *known {
		return nil, store.ErrStale
	}
	if err := w.merge(); err != nil {
		return nil, err
	}
	w.change = store.DirectoryChange{Env: env, Customer: customer, Basis: basis, Catalog: catalog,
		Note: store.Note{By: by, Action: cmp.Or(c.Action, "directory.change"), Object: cmp.Or(c.Object, customer), At: w.now}}
	if err := w.normal(); err != nil {
		return nil, err
	}
	old, err := w.before.Roles(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.custom(old); err != nil {
		return nil, err
	}
	if err := w.checkGiving(by.Actor); err != nil {
		return nil, err
	}
	if err := w.checkTaking(w.book.Customer(old), old); err != nil {
		return nil, err
	}
	if err := w.touched(old); err != nil {
		return nil, err
	}
	w.change.Note.After = w.summary()
	w.change.Check = w.check
	return w, nil
}

// check looks at the directory as it will be, inside the transaction. It refuses what
// breaks a rule and finds which seats the members need.
func (w *work) check(d store.Directory) error {
	if err := w.checkExists(d); err != nil {
		return err
	}
	for _, m := range w.change.Join {
		if !m.Holder.Group {
			continue
		}
		// The joins are written already: a group that is above itself now is a circle.
		above, err := d.Above(w.ctx, m.Holder.ID)
		if err != nil {
			return err
		}
		if slices.Contains(above, m.Holder.ID) {
			return usher.Errorf(usher.Refused, "the group %q would contain itself, through %q", m.Holder.ID, m.Group)
		}
	}
	if err := w.checkJoins(d); err != nil {
		return err
	}
	if len(w.change.DropRoles) > 0 {
		for _, key := range w.change.DropRoles {
			all, err := d.Assignments(w.ctx, usher.AssignmentFilter{Role: key}, "", 1<<30) // all, because most may have ended
			if err != nil {
				return err
			}
			all = slices.DeleteFunc(all, func(a usher.Assignment) bool { return a.Until != nil && !a.Until.After(w.now) })
			if len(all) > 0 {
				return usher.Errorf(usher.InUse,
					"the role %q is assigned (assignment %s, and perhaps others): remove the assignments first", key, all[0].ID)
			}
		}
	}
	if !w.seats && !w.splits {
		return nil
	}
	members, err := w.affected(d, w.roles)
	if err != nil {
		return err
	}
	// Members that were affected before the change lose something, those after it gain
	// something.
	members = sorted(append(members, w.members...))
	facts, err := d.Facts(w.ctx, members, w.now, 0)
	if err != nil {
		return err
	}
	w.needs = store.SeatNeeds{Members: members, Needs: map[string]map[string]time.Time{}}
	for _, id := range members {
		ends, held := w.holdings(facts[id])
		if w.needs.Needs[id] = ends; facts[id].Member == nil {
			w.needs.Gone = append(w.needs.Gone, id)
		}
		if rule, one, other := w.roles.Separated(held); rule != nil {
			return usher.Errorf(usher.Refused, "the member %q would hold %q and %q, which the rule %q keeps apart", id, one, other, rule.Key)
		}
	}
	return nil
}

// checkExists checks that the members and groups that the change names exist.
func (w *work) checkExists(d store.Directory) error {
	var members, groups []string
	name := func(h usher.Holder) {
		if h.Group {
			groups = append(groups, h.ID)
		} else {
			members = append(members, h.ID)
		}
	}
	for _, m := range w.change.Join {
		groups = append(groups, m.Group)
		name(m.Holder)
	}
	for i := range w.change.Assignments {
		name(w.change.Assignments[i].Holder)
	}
	haveMembers, err := d.HasMembers(w.ctx, sorted(members))
	if err != nil {
		return err
	}
	haveGroups, err := d.HasGroups(w.ctx, sorted(groups))
	if err != nil {
		return err
	}
	var p problems
	missing := func(location string, h usher.Holder) {
		switch {
		case h.Group && !haveGroups[h.ID]:
			p.add(location, "there is no group %q", h.ID)
		case !h.Group && !haveMembers[h.ID]:
			p.add(location, "there is no member %q", h.ID)
		}
	}
	for i, m := range w.change.Join {
		missing(fmt.Sprintf("join[%d].group", i), usher.Holder{Group: true, ID: m.Group})
		missing(fmt.Sprintf("join[%d].id", i), m.Holder)
	}
	for i := range w.change.Assignments {
		missing(fmt.Sprintf("assignments[%d].holder", i), w.change.Assignments[i].Holder)
	}
	return p.err()
}

// summary returns what the audit log says of a change: ids and roles, no personal
// data.
func (w *work) summary() json.RawMessage {
	d := &w.change
	type members struct {
		ID     string `json:"id"`
		Type   string `json:"type"`
		Active bool   `json:"active"`
		Said   bool   `json:"properties,omitempty"` // whether there are any
	}
	type named struct {
		Type string `json:"type"`
		ID   string `json:"id"`
	}
	v := struct {
		By              string             `json:"by,omitempty"` // Change.By
		Members         []members          `json:"members,omitempty"`
		DropMembers     []string           `json:"drop_members,omitempty"`
		Groups          []string           `json:"groups,omitempty"`
		DropGroups      []string           `json:"drop_groups,omitempty"`
		Join            []usher.Membership `json:"join,omitempty"`
		Leave           []usher.Membership `json:"leave,omitempty"`
		Roles           []usher.Role       `json:"roles,omitempty"`
		DropRoles       []string           `json:"drop_roles,omitempty"`
		Assignments     []usher.Assignment `json:"assignments,omitempty"`
		DropAssignments []string           `json:"drop_assignments,omitempty"`
		Resources       []named            `json:"resources,omitempty"`
		DropResources   []named            `json:"drop_resources,omitempty"`
	}{By: w.c.By, DropMembers: d.DropMembers, DropGroups: d.DropGroups, Join: d.Join, Leave: d.Leave, DropRoles: d.DropRoles,
		DropAssignments: d.DropAssignments}
	for _, m := range d.Members {
		v.Members = append(v.Members, members{m.ID, m.Type, m.Active, len(m.Properties) > 0})
	}
	for _, g := range d.Groups {
		v.Groups = append(v.Groups, g.ID)
	}
	for _, r := range d.Roles {
		r.Title = "" // free text
		v.Roles = append(v.Roles, r)
	}
	for _, a := range d.Assignments {
		a.Reason = ""
		v.Assignments = append(v.Assignments, a)
	}
	for _, r := range d.Resources {
		v.Resources = append(v.Resources, named{r.Type, r.ID})
	}
	for _, r := range d.DropResources {
		v.DropResources = append(v.DropResources, named{r.Type, r.ID})
	}
	b, err := json.Marshal(v)
	if err != nil { // text, times and flags
		return nil
	}
	return b
}
