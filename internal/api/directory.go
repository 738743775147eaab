package api

import (
	"context"
	"fmt"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
)

// directoryRoutes registers a change of many members, groups, roles and
// assignments at once, for imports and syncs: all of it or none, under the same
// guards as each change alone.
func (a *api) directoryRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "POST /v1/customers/{id}/directory", Perm: auth.PermMembersWrite,
		ID: "changeDirectory", Tag: "Members", Summary: "Many changes of a directory at once: all or none",
		Text: "At most 10,000 changes. To remove something that does not exist is not an error.", MaxBody: 16 << 20,
		Example: `{"members":[{"id":"ann"}],"groups":[{"id":"staff"}],"join":[{"group":"staff","member":"ann"}],"assignments":[{
			"group":"staff","role":"viewer"}]}`,
		Answer: `{"revision":18}`}, a.changeDirectory)
}

// listOf reads a page of something of a customer's directory, by id.
func listOf[T any](ctx context.Context, a *api, c *door.Call, in *door.ListIn,
	read func(directory.Reader, context.Context, string, int) ([]T, error), id func(*T) string) (*door.ListOut[T], error) {
	after, err := door.Cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	d := a.Directory.Read(c.Env, in.ID)
	if _, err := d.Revision(ctx); err != nil {
		return nil, err
	}
	all, err := read(d, ctx, after, in.Limit+1)
	next := ""
	if len(all) > in.Limit {
		all = all[:in.Limit]
		next = id(&all[in.Limit-1])
	}
	return door.Listed(all, next), err
}

// ByQuery is part of the input of a route without a body. It is exported because only
// exported fields are read.
type ByQuery struct {
	By string `query:"by" doc:"The member on whose behalf it is done, who cannot give or take what it does not hold"`
}

type revisionOut struct {
	Body struct {
		Revision int64 `json:"revision" doc:"The revision that contains the change"`
	}
}

func (a *api) apply(ctx context.Context, c *door.Call, action, object, reason, customer string, change directory.Change) (
	*revisionOut, error) {
	by := c.By()
	by.Reason = reason
	change.Action, change.Object = action, object
	revision, err := a.Directory.Apply(ctx, c.Env, by, customer, change)
	out := &revisionOut{}
	out.Body.Revision = revision
	return out, err
}

type directoryMember struct {
	ID         string         `json:"id"`
	Type       string         `json:"type,omitempty"`
	Active     *bool          `json:"active,omitempty" doc:"Absent leaves it as it is, and is true for a new member"`
	Properties map[string]any `json:"properties,omitempty"`
}

type directoryGroup struct {
	ID         string         `json:"id"`
	Title      string         `json:"title,omitempty"`
	Properties map[string]any `json:"properties,omitempty"`
}

type directoryJoin struct {
	Group  string `json:"group" doc:"The group that it is put into or taken out of"`
	Member string `json:"member,omitempty"`
	Inner  string `json:"inner,omitempty" doc:"A group, instead of a member"`
}

type directoryRole struct {
	Key         string   `json:"key"`
	Title       string   `json:"title,omitempty"`
	Permissions []string `json:"permissions,omitempty"`
	Includes    []string `json:"includes,omitempty"`
}

type directoryAssignment struct {
	Member       string     `json:"member,omitempty"`
	Group        string     `json:"group,omitempty"`
	Role         string     `json:"role"`
	ResourceType string     `json:"resource_type,omitempty"`
	ResourceID   string     `json:"resource_id,omitempty"`
	From         *time.Time `json:"from,omitempty"`
	Until        *time.Time `json:"until,omitempty"`
	Reason       string     `json:"reason,omitempty" maxLength:"500"`
}

type directoryResource struct {
	Type       string         `json:"type"`
	ID         string         `json:"id"`
	Properties map[string]any `json:"properties,omitempty"`
}

type changeDirectoryBody struct {
	Members       []directoryMember     `json:"members,omitempty" doc:"Each replaces the stored member with its id"`
	Groups        []directoryGroup      `json:"groups,omitempty"`
	Join          []directoryJoin       `json:"join,omitempty"`
	Roles         []directoryRole       `json:"roles,omitempty"`
	Assignments   []directoryAssignment `json:"assignments,omitempty"`
	Resources     []directoryResource   `json:"resources,omitempty"`
	DropMembers   []string              `json:"drop_members,omitempty"`
	DropGroups    []string              `json:"drop_groups,omitempty"`
	Leave         []directoryJoin       `json:"leave,omitempty"`
	DropRoles     []string              `json:"drop_roles,omitempty"`
	Unassign      []string              `json:"unassign,omitempty" doc:"Ids of assignments"`
	DropResources []directoryResource   `json:"drop_resources,omitempty"`
	By            string                `json:"by,omitempty" doc:"The member on whose behalf it is done"`
	Reason        string                `json:"reason,omitempty" maxLength:"500"`
}

type changeDirectoryIn struct {
	ID      string `path:"id" doc:"The customer"`
	Body    changeDirectoryBody
	RawBody []byte
}

// oneHolder is Invalid where a list of a change names a member and a group at
// once, or neither.
func oneHolder(b *changeDirectoryBody) error {
	var wrong []usher.Problem
	check := func(list string, i int, member, group, other string) {
		if (member == "") == (group == "") && len(wrong) < 100 {
			wrong = append(wrong, usher.Problem{Location: fmt.Sprintf("body.%s[%d].member", list, i),
				Message: "or " + other + " must be given, and not both"})
		}
	}
	for i, x := range b.Join {
		check("join", i, x.Member, x.Inner, "inner")
	}
	for i, x := range b.Leave {
		check("leave", i, x.Member, x.Inner, "inner")
	}
	for i, x := range b.Assignments {
		check("assignments", i, x.Member, x.Group, "group")
	}
	if len(wrong) > 0 {
		return door.Invalids(wrong)
	}
	return nil
}

func (a *api) changeDirectory(ctx context.Context, c *door.Call, in *changeDirectoryIn) (*revisionOut, error) {
	if err := door.Exactly(in.RawBody, &in.Body); err != nil {
		return nil, err
	}
	b := &in.Body
	if err := oneHolder(b); err != nil {
		return nil, err
	}
	change := directory.Change{DropMembers: b.DropMembers, DropGroups: b.DropGroups, DropRoles: b.DropRoles, Unassign: b.Unassign, By: b.By}
	for _, m := range b.Members {
		change.MergeMembers = append(change.MergeMembers, directory.MemberInput(m))
	}
	for _, g := range b.Groups {
		change.MergeGroups = append(change.MergeGroups, directory.GroupInput{ID: g.ID, Title: g.Title, Properties: g.Properties})
	}
	for i, list := range [][]directoryJoin{b.Join, b.Leave} {
		for _, j := range list {
			m := usher.Membership{Group: j.Group, Holder: usher.Holder{ID: j.Member}}
			if j.Inner != "" {
				m.Holder = usher.Holder{Group: true, ID: j.Inner}
			}
			if i == 0 {
				change.Join = append(change.Join, m)
			} else {
				change.Leave = append(change.Leave, m)
			}
		}
	}
	for _, r := range b.Roles {
		change.Roles = append(change.Roles, usher.Role{Key: r.Key, Title: r.Title, Permissions: r.Permissions, Includes: r.Includes})
	}
	for _, x := range b.Assignments {
		out := usher.Assignment{Holder: usher.Holder{ID: x.Member}, Role: x.Role, ResourceType: x.ResourceType, ResourceID: x.ResourceID,
			Until: x.Until, Reason: x.Reason}
		if x.Group != "" {
			out.Holder = usher.Holder{Group: true, ID: x.Group}
		}
		if x.From != nil {
			out.From = *x.From
		}
		change.Assign = append(change.Assign, out)
	}
	for i, list := range [][]directoryResource{b.Resources, b.DropResources} {
		for _, r := range list {
			out := usher.Resource{Type: r.Type, ID: r.ID, Properties: r.Properties}
			if i == 0 {
				change.Resources = append(change.Resources, out)
			} else {
				change.DropResources = append(change.DropResources, out)
			}
		}
	}
	return a.apply(ctx, c, "directory.change", "", b.Reason, in.ID, change)
}
