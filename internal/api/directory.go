package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/store"
)

// directoryRoutes are about who a customer's people are and what they may do.
func (a *API) directoryRoutes() {
	const read, write = auth.PermMembersRead, auth.PermMembersWrite
	register(a, "PUT /v1/customers/{id}/members/{member}", write, putMemberDoc, a.putMember)
	register(a, "GET /v1/customers/{id}/members/{member}", read, getMemberDoc, a.getMember)
	register(a, "GET /v1/customers/{id}/members", read, listMembersDoc, a.listMembers)
	register(a, "DELETE /v1/customers/{id}/members/{member}", write, deleteMemberDoc, a.deleteMember)
	register(a, "PUT /v1/customers/{id}/groups/{group}", write, putGroupDoc, a.putGroup)
	register(a, "GET /v1/customers/{id}/groups/{group}", read, getGroupDoc, a.getGroup)
	register(a, "GET /v1/customers/{id}/groups", read, listGroupsDoc, a.listGroups)
	register(a, "DELETE /v1/customers/{id}/groups/{group}", write, deleteGroupDoc, a.deleteGroup)
	register(a, "GET /v1/customers/{id}/groups/{group}/members", read, listHoldersDoc, a.listHolders)
	register(a, "PUT /v1/customers/{id}/groups/{group}/members/{member}", write, joinDoc, a.join)
	register(a, "DELETE /v1/customers/{id}/groups/{group}/members/{member}", write, leaveDoc, a.leave)
	register(a, "PUT /v1/customers/{id}/groups/{group}/groups/{inner}", write, nestDoc, a.nest)
	register(a, "DELETE /v1/customers/{id}/groups/{group}/groups/{inner}", write, unnestDoc, a.unnest)
	register(a, "GET /v1/customers/{id}/roles", read, listRolesDoc, a.listRoles)
	register(a, "PUT /v1/customers/{id}/roles/{role}", write, putCustomRoleDoc, a.putCustomRole)
	register(a, "DELETE /v1/customers/{id}/roles/{role}", write, deleteCustomRoleDoc, a.deleteCustomRole)
	register(a, "PUT /v1/customers/{id}/assignments", write, assignDoc, a.assign)
	register(a, "GET /v1/customers/{id}/assignments", read, listAssignmentsDoc, a.listAssignments)
	register(a, "DELETE /v1/customers/{id}/assignments/{assignment}", write, unassignDoc, a.unassign)
	register(a, "PUT /v1/customers/{id}/resources/{type}/{resource}", write, putResourceDoc, a.putResource)
	register(a, "GET /v1/customers/{id}/resources/{type}/{resource}", read, getResourceDoc, a.getResource)
	register(a, "GET /v1/customers/{id}/resources/{type}", read, listResourcesDoc, a.listResources)
	register(a, "DELETE /v1/customers/{id}/resources/{type}/{resource}", write, deleteResourceDoc, a.deleteResource)
	register(a, "POST /v1/customers/{id}/directory", write, changeDirectoryDoc, a.changeDirectory)
}

var (
	putMemberDoc     = doc{ID: "putMember", Tag: "Members", Summary: "Register a member, or replace what is known about it", Text: "An absent `active` leaves it as it is, and is true for a new member. Properties replace those that were there."}
	getMemberDoc     = doc{ID: "getMember", Tag: "Members", Summary: "A member, the groups it is in and the roles it holds itself"}
	listMembersDoc   = doc{ID: "listMembers", Tag: "Members", Summary: "A customer's members, by id"}
	deleteMemberDoc  = doc{ID: "deleteMember", Tag: "Members", Summary: "Remove a member", Text: "It leaves its groups, loses its roles and frees the seats that they took. Its properties are erased, from the past too.", Status: http.StatusNoContent}
	putGroupDoc      = doc{ID: "putGroup", Tag: "Members", Summary: "Make a group, or replace it", Text: "`members` and `groups`, where they are given, become who is in it; absent ones stay as they are."}
	getGroupDoc      = doc{ID: "getGroup", Tag: "Members", Summary: "A group"}
	listGroupsDoc    = doc{ID: "listGroups", Tag: "Members", Summary: "A customer's groups, by id"}
	deleteGroupDoc   = doc{ID: "deleteGroup", Tag: "Members", Summary: "Remove a group with the roles that it holds; its members stay", Status: http.StatusNoContent}
	listHoldersDoc   = doc{ID: "listGroupMembers", Tag: "Members", Summary: "Who is directly in a group: groups first, then members"}
	joinDoc          = doc{ID: "joinGroup", Tag: "Members", Summary: "Put a member into a group", NoBody: true}
	leaveDoc         = doc{ID: "leaveGroup", Tag: "Members", Summary: "Take a member out of a group", Status: http.StatusNoContent}
	nestDoc          = doc{ID: "nestGroup", Tag: "Members", Summary: "Put a group into a group", Text: "Refused where it would be in itself.", NoBody: true}
	unnestDoc        = doc{ID: "unnestGroup", Tag: "Members", Summary: "Take a group out of a group", Status: http.StatusNoContent}
	listRolesDoc     = doc{ID: "listCustomerRoles", Tag: "Members", Summary: "The roles that a customer can assign: the catalogue's and its own"}
	putCustomRoleDoc = doc{ID: "putCustomRole", Tag: "Members", Summary: "Make a role of the customer's own, or replace it",
		Text: "It never gives more than the catalogue's `custom_roles.ceiling`, nor, with `by`, more than that member holds. A key of the catalogue's is refused."}
	deleteCustomRoleDoc = doc{ID: "deleteCustomRole", Tag: "Members", Summary: "Remove a role of the customer's own", Text: "Refused while somebody holds it.", Status: http.StatusNoContent}
	assignDoc           = doc{ID: "assign", Tag: "Members", Summary: "Give a role to a member or a group",
		Text: "The same role on the same resource again replaces its dates and reason. A role that asks for a seat takes one in the same step; where none is free it is refused, and nobody loses theirs."}
	listAssignmentsDoc = doc{ID: "listAssignments", Tag: "Members", Summary: "Who holds which role, by id, those that are over included"}
	unassignDoc        = doc{ID: "unassign", Tag: "Members", Summary: "Take a role away, with the seat that it took", Status: http.StatusNoContent}
	putResourceDoc     = doc{ID: "putResource", Tag: "Members", Summary: "Register a resource, or replace its properties", Text: "Searches list it, and conditions read its properties."}
	getResourceDoc     = doc{ID: "getResource", Tag: "Members", Summary: "A registered resource"}
	listResourcesDoc   = doc{ID: "listResources", Tag: "Members", Summary: "The registered resources of a type, by id"}
	deleteResourceDoc  = doc{ID: "deleteResource", Tag: "Members", Summary: "Forget a resource, and its properties in the past too", Status: http.StatusNoContent}
	changeDirectoryDoc = doc{ID: "changeDirectory", Tag: "Members", Summary: "Many changes of a directory at once: all or none",
		Text: "At most 10,000 things. What is dropped and was not there does not matter.", MaxBody: 16 << 20}
)

func (a *API) directoryMeta(c *call, action, object, reason string) directory.Meta {
	return directory.Meta{Actor: c.Actor, RequestID: c.RequestID, Action: action, Object: object, Reason: reason}
}

// checkIDs is Invalid where the ids of a path cannot be ids.
func checkIDs(pairs ...string) error {
	var wrong []usher.Problem
	for i := 0; i < len(pairs); i += 2 {
		if err := usher.CheckID("it", pairs[i+1]); err != nil {
			wrong = append(wrong, usher.Problem{Location: "path." + pairs[i], Message: strings.TrimPrefix(err.Error(), "it ")})
		}
	}
	if len(wrong) > 0 {
		return invalids(wrong)
	}
	return nil
}

// located gives the problems of one thing the places of a request about it alone.
func located(err error, list string) error {
	e, ok := err.(*usher.Error)
	if !ok || len(e.Problems) == 0 {
		return err
	}
	out := *e
	out.Problems = slices.Clone(e.Problems)
	for i := range out.Problems {
		if rest, ok := strings.CutPrefix(out.Problems[i].Location, list+"[0]."); ok {
			out.Problems[i].Location = "body." + rest
		}
	}
	return invalids(out.Problems)
}

// exactly reads properties anew, so that numbers stay as they were written.
func exactly(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return invalid("body", "%s", err)
	}
	return nil
}

// listOf reads a page of something of a customer's directory, by id.
func listOf[T any](ctx context.Context, a *API, c *call, in *listIn, read func(store.Directory, context.Context, string, int) ([]T, error), id func(*T) string) (*listOut[T], error) {
	after, err := cursor(in.Cursor)
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
	return listed(all, next), err
}

type revisionOut struct {
	Body struct {
		Revision int64 `json:"revision" doc:"That has the change"`
	}
}

func (a *API) apply(ctx context.Context, c *call, action, object, reason, customer string, change directory.Change) (*revisionOut, error) {
	revision, err := a.Directory.Apply(ctx, c.Env, a.directoryMeta(c, action, object, reason), customer, change)
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
	Group  string `json:"group" doc:"That it is put into, or taken out of"`
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
	Members       []directoryMember     `json:"members,omitempty" doc:"Replace what was known of each"`
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
			wrong = append(wrong, usher.Problem{Location: fmt.Sprintf("body.%s[%d].member", list, i), Message: "or " + other + " must be given, and not both"})
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
		return invalids(wrong)
	}
	return nil
}

func (a *API) changeDirectory(ctx context.Context, c *call, in *changeDirectoryIn) (*revisionOut, error) {
	if err := exactly(in.RawBody, &in.Body); err != nil {
		return nil, err
	}
	b := &in.Body
	if err := oneHolder(b); err != nil {
		return nil, err
	}
	change := directory.Change{DropMembers: b.DropMembers, DropGroups: b.DropGroups, DropRoles: b.DropRoles, Unassign: b.Unassign, By: b.By}
	change.Merge = func(d store.Directory, change *directory.Change) error {
		for _, m := range b.Members {
			out := usher.Member{ID: m.ID, Type: m.Type, Active: true, Properties: m.Properties}
			if old, err := d.Member(ctx, m.ID); err == nil {
				out.CreatedAt, out.Source, out.Active = old.CreatedAt, old.Source, old.Active
				if m.Type == "" {
					out.Type = old.Type
				}
			} else if usher.ErrorCode(err) != usher.NotFound {
				return err
			}
			if m.Active != nil {
				out.Active = *m.Active
			}
			change.Members = append(change.Members, out)
		}
		for _, g := range b.Groups {
			out := usher.Group{ID: g.ID, Title: g.Title, Properties: g.Properties}
			if old, err := d.Group(ctx, g.ID); err == nil {
				out.CreatedAt, out.Source = old.CreatedAt, old.Source
			} else if usher.ErrorCode(err) != usher.NotFound {
				return err
			}
			change.Groups = append(change.Groups, out)
		}
		return nil
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
		out := usher.Assignment{Holder: usher.Holder{ID: x.Member}, Role: x.Role, ResourceType: x.ResourceType, ResourceID: x.ResourceID, Until: x.Until, Reason: x.Reason}
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
