package directory

import (
	"context"
	"slices"
	"strings"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// MemberInput is what a caller sends to register or change a member. Fields that are
// left out do not change.
type MemberInput struct {
	ID         string
	Type       string         // "": as it is; usher.DefaultMemberType for a new member
	Active     *bool          // nil: as it is; true for a new member
	Properties map[string]any // they replace all present ones
}

// GroupInput is what a caller sends to create or change a group.
type GroupInput struct {
	ID         string
	Title      string
	Properties map[string]any // they replace all present ones
	// Members and Groups are the ids of all members and groups that will be directly in
	// the group; nil changes nothing.
	Members, Groups *[]string
}

// Written is one object as a change stored it.
type Written[T any] struct {
	Value    T
	New      bool  // it did not exist before
	Revision int64 // of the directory, with the change
}

// PutMember registers a member, or replaces what is known about it.
// onBehalfOf is Change.By. Errors are those of Apply.
func (s *Service) PutMember(ctx context.Context, env usher.Environment, by usher.By, customer string, in MemberInput, onBehalfOf string) (
	Written[usher.Member], error) {
	w, revision, err := s.run(ctx, env, by, customer, Change{Action: "member.put", Object: in.ID, MergeMembers: []MemberInput{in},
		By: onBehalfOf})
	if err != nil {
		return Written[usher.Member]{}, alone(err, "members")
	}
	return Written[usher.Member]{w.change.Members[0], w.added > 0, revision}, nil
}

// PutGroup creates a group, or replaces what is known about it and who is directly in
// it. onBehalfOf is Change.By. Errors are those of Apply.
func (s *Service) PutGroup(ctx context.Context, env usher.Environment, by usher.By, customer string, in GroupInput, onBehalfOf string) (
	Written[usher.Group], error) {
	w, revision, err := s.run(ctx, env, by, customer, Change{Action: "group.put", Object: in.ID, MergeGroups: []GroupInput{in},
		By: onBehalfOf})
	if err != nil {
		return Written[usher.Group]{}, alone(err, "groups")
	}
	return Written[usher.Group]{w.change.Groups[0], w.added > 0, revision}, nil
}

// PutResource registers a resource, or replaces its properties. Errors are those
// of Apply.
func (s *Service) PutResource(ctx context.Context, env usher.Environment, by usher.By, customer string, r usher.Resource) (
	Written[usher.Resource], error) {
	w, revision, err := s.run(ctx, env, by, customer, Change{Action: "resource.put", Object: r.ID, Resources: []usher.Resource{r}})
	if err != nil {
		return Written[usher.Resource]{}, alone(err, "resources")
	}
	return Written[usher.Resource]{w.change.Resources[0], w.added > 0, revision}, nil
}

// Assign gives a role to a member or a group. If the holder has the role on the same
// resource already, Assign replaces its dates and its reason. onBehalfOf is Change.By.
// Errors are those of Apply.
func (s *Service) Assign(ctx context.Context, env usher.Environment, by usher.By, customer string, a usher.Assignment, onBehalfOf string) (
	Written[usher.Assignment], error) {
	if a.Source == "" {
		a.Source = usher.SourceManual // part of the id
	}
	c := Change{Action: "assignment.put", Object: assignmentID(&a), Assign: []usher.Assignment{a}, By: onBehalfOf}
	w, revision, err := s.run(ctx, env, by, customer, c)
	if err != nil {
		return Written[usher.Assignment]{}, alone(err, "assignments")
	}
	return Written[usher.Assignment]{Value: w.change.Assignments[0], Revision: revision}, nil
}

// PutRole creates or replaces a custom role. onBehalfOf is Change.By. Errors are those
// of Apply.
func (s *Service) PutRole(ctx context.Context, env usher.Environment, by usher.By, customer string, r usher.Role, onBehalfOf string) (
	RoleView, error) {
	c := Change{Action: "role.put", Object: r.Key, Roles: []usher.Role{r}, By: onBehalfOf}
	if _, _, err := s.run(ctx, env, by, customer, c); err != nil {
		return RoleView{}, alone(err, "roles")
	}
	all, err := s.Roles(ctx, env, customer)
	if i := slices.IndexFunc(all, func(v RoleView) bool { return v.Key == r.Key }); i >= 0 {
		return all[i], err
	}
	return RoleView{}, err // another change dropped it meanwhile
}

// alone gives the problems of a list's only item the places of a request about
// that item alone: "members[0].type" becomes "type".
func alone(err error, list string) error {
	e, ok := err.(*usher.Error)
	if !ok || len(e.Problems) == 0 {
		return err
	}
	out := *e
	out.Problems = slices.Clone(e.Problems)
	for i := range out.Problems {
		if rest, ok := strings.CutPrefix(out.Problems[i].Location, list+"[0]."); ok {
			out.Problems[i].Location = rest
		}
	}
	return &out
}

// merge completes the change from the present directory. Each attempt calls it again, so
// that it never keeps something that is older than what it replaces.
func (w *work) merge() error {
	if err := w.c.bounded(); err != nil { // before anything is read
		return err
	}
	for _, in := range w.c.MergeMembers {
		m := usher.Member{ID: in.ID, Type: in.Type, Active: true, Properties: in.Properties}
		old, there, err := read(w.ctx, w.before.Member, in.ID)
		if err != nil {
			return err
		}
		if there {
			m.CreatedAt, m.Source, m.Active = old.CreatedAt, old.Source, old.Active
			if m.Type == "" {
				m.Type = old.Type
			}
		} else {
			w.added++
		}
		if in.Active != nil {
			m.Active = *in.Active
		}
		w.c.Members = append(w.c.Members, m)
	}
	for i := range w.c.MergeGroups {
		if err := w.mergeGroup(&w.c.MergeGroups[i]); err != nil {
			return err
		}
	}
	w.c.MergeMembers, w.c.MergeGroups = nil, nil
	w.c.Resources = slices.Clone(w.c.Resources) // the caller's stay as they are
	for i := range w.c.Resources {
		r := &w.c.Resources[i]
		if usher.CheckID("type", r.Type) != nil {
			continue
		}
		old, there, err := read(w.ctx, func(ctx context.Context, id string) (usher.Resource, error) {
			return w.before.Resource(ctx, r.Type, id)
		}, r.ID)
		if err != nil {
			return err
		}
		if there {
			r.CreatedAt = old.CreatedAt
		} else {
			w.added++
		}
	}
	return nil
}

func (w *work) mergeGroup(in *GroupInput) error {
	g := usher.Group{ID: in.ID, Title: in.Title, Properties: in.Properties}
	old, there, err := read(w.ctx, w.before.Group, in.ID)
	if err != nil {
		return err
	}
	if there {
		g.CreatedAt, g.Source = old.CreatedAt, old.Source
	} else {
		w.added++
	}
	w.c.Groups = append(w.c.Groups, g)
	if in.Members == nil && in.Groups == nil {
		return nil
	}
	// The input says who will be in the group. It becomes joins and leaves, so that only
	// what differs is written and checked.
	held, err := w.before.In(w.ctx, in.ID, nil, 1<<30)
	if err != nil {
		return err
	}
	leaves := make(map[usher.Holder]bool, len(held)) // of who is in the group: whether it is to leave
	for _, h := range held {
		leaves[h] = h.Group && in.Groups != nil || !h.Group && in.Members != nil
	}
	become := func(group bool, ids *[]string) {
		if ids == nil {
			return
		}
		for _, id := range *ids {
			h := usher.Holder{Group: group, ID: id}
			if _, there := leaves[h]; there {
				leaves[h] = false
			} else {
				w.c.Join = append(w.c.Join, usher.Membership{Group: in.ID, Holder: h})
			}
		}
	}
	become(false, in.Members)
	become(true, in.Groups)
	for _, h := range held {
		if leaves[h] {
			w.c.Leave = append(w.c.Leave, usher.Membership{Group: in.ID, Holder: h})
		}
	}
	return nil
}

// read reads something that need not be there. An id that nothing can have, which
// normal refuses, is not asked for: a database may not take it for text.
func read[T any](ctx context.Context, from func(ctx context.Context, id string) (T, error), id string) (v T, there bool, err error) {
	if usher.CheckID("id", id) != nil {
		return v, false, nil
	}
	v, err = from(ctx, id)
	if usher.ErrorCode(err) == usher.NotFound {
		return v, false, nil
	}
	return v, err == nil, err
}

// Reader reads one customer's directory as it is committed.
type Reader struct{ store.Directory }

// Read returns a reader of a customer's directory.
func (s *Service) Read(env usher.Environment, customer string) Reader {
	return Reader{s.cfg.DB.Directory(env, customer)}
}
