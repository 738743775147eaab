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

type memberPath struct {
	ID     string `path:"id" doc:"The customer"`
	Member string `path:"member" doc:"Yours: any UTF-8 of up to 255 bytes, percent-encoded"`
}

type memberIn struct {
	ID     string `path:"id" doc:"The customer"`
	Member string `path:"member" doc:"Yours: any UTF-8 of up to 255 bytes, percent-encoded"`
	Body   struct {
		Type       string         `json:"type,omitempty" maxLength:"255" doc:"What AuthZEN calls the subject's type; default user"`
		Active     *bool          `json:"active,omitempty"`
		Properties map[string]any `json:"properties,omitempty" doc:"Anything, for conditions: subject.properties"`
	}
	RawBody []byte
}

type memberView struct {
	usher.Member
	Groups      []string        `json:"groups,omitempty" doc:"That it is directly in"`
	Assignments []assignmentDoc `json:"assignments,omitempty" doc:"Its own, not its groups'"`
	Revision    int64           `json:"revision,omitempty" doc:"That has the change"`
}

type memberOut struct {
	Status int
	Body   memberView
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

func (a *API) putMember(ctx context.Context, c *call, in *memberIn) (*memberOut, error) {
	if err := noNulls(in.RawBody, "properties"); err != nil {
		return nil, err
	}
	if err := checkIDs("id", in.ID, "member", in.Member); err != nil {
		return nil, err
	}
	if err := exactly(in.RawBody, &in.Body); err != nil {
		return nil, err
	}
	m := usher.Member{ID: in.Member, Type: in.Body.Type, Active: true, Properties: in.Body.Properties}
	out := &memberOut{Status: http.StatusCreated}
	merge := func(d store.Directory, change *directory.Change) error {
		now := m // as the caller gave it
		switch old, err := d.Member(ctx, in.Member); {
		case err == nil:
			now.Active, now.Source, now.CreatedAt, out.Status = old.Active, old.Source, old.CreatedAt, http.StatusOK
			if now.Type == "" {
				now.Type = old.Type
			}
		case usher.ErrorCode(err) != usher.NotFound:
			return err
		default:
			out.Status = http.StatusCreated
		}
		if in.Body.Active != nil {
			now.Active = *in.Body.Active
		}
		change.Members, out.Body.Member = []usher.Member{now}, now
		return nil
	}
	revision, err := a.Directory.Apply(ctx, c.Env, a.directoryMeta(c, "member.put", in.Member, ""), in.ID, directory.Change{Merge: merge})
	if err != nil {
		return nil, located(err, "members")
	}
	m = out.Body.Member
	if m.Type == "" {
		m.Type = usher.DefaultMemberType
	}
	if m.CreatedAt.IsZero() {
		if stored, err := a.Directory.Read(c.Env, in.ID).Member(ctx, in.Member); err == nil {
			m = stored
		}
	}
	out.Body = memberView{Member: m, Revision: revision}
	return out, nil
}

func (a *API) getMember(ctx context.Context, c *call, in *memberPath) (*memberOut, error) {
	d := a.Directory.Read(c.Env, in.ID)
	m, err := d.Member(ctx, in.Member)
	if err != nil {
		return nil, err
	}
	out := &memberOut{Status: http.StatusOK, Body: memberView{Member: m}}
	if out.Body.Groups, err = d.GroupsOf(ctx, usher.Holder{ID: in.Member}); err != nil {
		return nil, err
	}
	list, err := d.Assignments(ctx, store.AssignmentFilter{Holder: &usher.Holder{ID: in.Member}}, "", 1000)
	for i := range list {
		out.Body.Assignments = append(out.Body.Assignments, showAssignment(&list[i]))
	}
	return out, err
}

func (a *API) listMembers(ctx context.Context, c *call, in *listIn) (*listOut[usher.Member], error) {
	return listOf(ctx, a, c, in, store.Directory.Members, func(m *usher.Member) string { return m.ID })
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

func (a *API) deleteMember(ctx context.Context, c *call, in *memberPath) (*struct{}, error) {
	if _, err := a.Directory.Read(c.Env, in.ID).Member(ctx, in.Member); err != nil {
		return nil, err
	}
	_, err := a.Directory.Apply(ctx, c.Env, a.directoryMeta(c, "member.delete", in.Member, ""), in.ID, directory.Change{DropMembers: []string{in.Member}})
	return nil, err
}

type groupPath struct {
	ID    string `path:"id" doc:"The customer"`
	Group string `path:"group" doc:"Yours: any UTF-8 of up to 255 bytes, percent-encoded"`
}

type groupIn struct {
	ID    string `path:"id" doc:"The customer"`
	Group string `path:"group" doc:"Yours: any UTF-8 of up to 255 bytes, percent-encoded"`
	Body  struct {
		Title      string         `json:"title,omitempty" doc:"Up to 1,000 bytes"`
		Properties map[string]any `json:"properties,omitempty"`
		Members    *[]string      `json:"members,omitempty" maxItems:"10000"`
		Groups     *[]string      `json:"groups,omitempty" maxItems:"10000"`
	}
	RawBody []byte
}

type groupView struct {
	usher.Group
	Groups   []string `json:"groups,omitempty" doc:"That it is directly in"`
	Revision int64    `json:"revision,omitempty" doc:"That has the change"`
}

type groupOut struct {
	Status int
	Body   groupView
}

func (a *API) putGroup(ctx context.Context, c *call, in *groupIn) (*groupOut, error) {
	if err := noNulls(in.RawBody, "properties"); err != nil {
		return nil, err
	}
	if err := checkIDs("id", in.ID, "group", in.Group); err != nil {
		return nil, err
	}
	if err := exactly(in.RawBody, &in.Body); err != nil {
		return nil, err
	}
	g := usher.Group{ID: in.Group, Title: in.Body.Title, Properties: in.Body.Properties}
	d := a.Directory.Read(c.Env, in.ID)
	out := &groupOut{Status: http.StatusCreated}
	merge := func(d store.Directory, change *directory.Change) error {
		now := g
		switch old, err := d.Group(ctx, in.Group); {
		case err == nil:
			now.Source, now.CreatedAt, out.Status = old.Source, old.CreatedAt, http.StatusOK
		case usher.ErrorCode(err) != usher.NotFound:
			return err
		default:
			out.Status = http.StatusCreated
		}
		change.Groups, out.Body.Group = []usher.Group{now}, now
		if in.Body.Members == nil && in.Body.Groups == nil {
			return nil
		}
		held, err := d.In(ctx, in.Group, nil, 1<<30)
		if err != nil {
			return err
		}
		left := make(map[usher.Holder]bool, len(held))
		for _, h := range held {
			left[h] = h.Group && in.Body.Groups != nil || !h.Group && in.Body.Members != nil
		}
		become := func(group bool, ids *[]string) {
			if ids == nil {
				return
			}
			for _, id := range *ids {
				h := usher.Holder{Group: group, ID: id}
				if _, there := left[h]; there {
					left[h] = false
				} else {
					change.Join = append(change.Join, usher.Membership{Group: in.Group, Holder: h})
				}
			}
		}
		become(false, in.Body.Members)
		become(true, in.Body.Groups)
		for _, h := range held {
			if left[h] {
				change.Leave = append(change.Leave, usher.Membership{Group: in.Group, Holder: h})
			}
		}
		return nil
	}
	revision, err := a.Directory.Apply(ctx, c.Env, a.directoryMeta(c, "group.put", in.Group, ""), in.ID, directory.Change{Merge: merge})
	if err != nil {
		return nil, located(err, "groups")
	}
	g = out.Body.Group
	if g.CreatedAt.IsZero() {
		if stored, err := d.Group(ctx, in.Group); err == nil {
			g = stored
		}
	}
	out.Body = groupView{Group: g, Revision: revision}
	return out, nil
}

func (a *API) getGroup(ctx context.Context, c *call, in *groupPath) (*groupOut, error) {
	d := a.Directory.Read(c.Env, in.ID)
	g, err := d.Group(ctx, in.Group)
	if err != nil {
		return nil, err
	}
	out := &groupOut{Status: http.StatusOK, Body: groupView{Group: g}}
	out.Body.Groups, err = d.GroupsOf(ctx, usher.Holder{Group: true, ID: in.Group})
	return out, err
}

func (a *API) listGroups(ctx context.Context, c *call, in *listIn) (*listOut[usher.Group], error) {
	return listOf(ctx, a, c, in, store.Directory.Groups, func(g *usher.Group) string { return g.ID })
}

func (a *API) deleteGroup(ctx context.Context, c *call, in *groupPath) (*struct{}, error) {
	if _, err := a.Directory.Read(c.Env, in.ID).Group(ctx, in.Group); err != nil {
		return nil, err
	}
	_, err := a.Directory.Apply(ctx, c.Env, a.directoryMeta(c, "group.delete", in.Group, ""), in.ID, directory.Change{DropGroups: []string{in.Group}})
	return nil, err
}

type holdersIn struct {
	ID     string `path:"id" doc:"The customer"`
	Group  string `path:"group" doc:"Yours: any UTF-8 of up to 255 bytes, percent-encoded"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before"`
}

func (a *API) listHolders(ctx context.Context, c *call, in *holdersIn) (*listOut[usher.Holder], error) {
	text, err := cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	var after *usher.Holder
	if kind, id, ok := strings.Cut(text, " "); ok && (kind == "g" || kind == "m") {
		after = &usher.Holder{Group: kind == "g", ID: id}
	} else if text != "" {
		return nil, invalid("query.cursor", "must be the next_cursor of an answer")
	}
	d := a.Directory.Read(c.Env, in.ID)
	if _, err := d.Group(ctx, in.Group); err != nil {
		return nil, err
	}
	all, err := d.In(ctx, in.Group, after, in.Limit+1)
	next := ""
	if len(all) > in.Limit {
		all = all[:in.Limit]
		last := all[in.Limit-1]
		next = "m " + last.ID
		if last.Group {
			next = "g " + last.ID
		}
	}
	return listed(all, next), err
}

type joinIn struct {
	ID     string `path:"id" doc:"The customer"`
	Group  string `path:"group" doc:"Yours: any UTF-8 of up to 255 bytes, percent-encoded"`
	Member string `path:"member"`
}

type nestIn struct {
	ID    string `path:"id" doc:"The customer"`
	Group string `path:"group" doc:"Yours: any UTF-8 of up to 255 bytes, percent-encoded"`
	Inner string `path:"inner" doc:"The group that is put into it"`
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

func (a *API) join(ctx context.Context, c *call, in *joinIn) (*revisionOut, error) {
	return a.apply(ctx, c, "group.join", in.Group, "", in.ID, directory.Change{Join: []usher.Membership{{Group: in.Group, Holder: usher.Holder{ID: in.Member}}}})
}

func (a *API) leave(ctx context.Context, c *call, in *joinIn) (*struct{}, error) {
	_, err := a.apply(ctx, c, "group.leave", in.Group, "", in.ID, directory.Change{Leave: []usher.Membership{{Group: in.Group, Holder: usher.Holder{ID: in.Member}}}})
	return nil, err
}

func (a *API) nest(ctx context.Context, c *call, in *nestIn) (*revisionOut, error) {
	return a.apply(ctx, c, "group.nest", in.Group, "", in.ID, directory.Change{Join: []usher.Membership{{Group: in.Group, Holder: usher.Holder{Group: true, ID: in.Inner}}}})
}

func (a *API) unnest(ctx context.Context, c *call, in *nestIn) (*struct{}, error) {
	_, err := a.apply(ctx, c, "group.unnest", in.Group, "", in.ID, directory.Change{Leave: []usher.Membership{{Group: in.Group, Holder: usher.Holder{Group: true, ID: in.Inner}}}})
	return nil, err
}

func (a *API) listRoles(ctx context.Context, c *call, in *pathID) (*listOut[directory.RoleView], error) {
	all, err := a.Directory.Roles(ctx, c.Env, in.ID)
	return listed(all, ""), err
}

type customRolePath struct {
	ID   string `path:"id" doc:"The customer"`
	Role string `path:"role"`
}

type customRoleIn struct {
	ID   string `path:"id" doc:"The customer"`
	Role string `path:"role"`
	Body struct {
		Title       string   `json:"title,omitempty"`
		Permissions []string `json:"permissions,omitempty" maxItems:"1000" doc:"Keys, and patterns such as report.* and **"`
		Includes    []string `json:"includes,omitempty" maxItems:"1000"`
		By          string   `json:"by,omitempty" doc:"The member on whose behalf it is made, who cannot give what it does not hold"`
		Reason      string   `json:"reason,omitempty" maxLength:"500"`
	}
	RawBody []byte
}

type customRoleOut struct{ Body directory.RoleView }

func (a *API) putCustomRole(ctx context.Context, c *call, in *customRoleIn) (*customRoleOut, error) {
	if err := noNulls(in.RawBody); err != nil {
		return nil, err
	}
	r := usher.Role{Key: in.Role, Title: in.Body.Title, Permissions: in.Body.Permissions, Includes: in.Body.Includes}
	_, err := a.apply(ctx, c, "role.put", in.Role, in.Body.Reason, in.ID, directory.Change{Roles: []usher.Role{r}, By: in.Body.By})
	if err != nil {
		return nil, located(err, "roles")
	}
	all, err := a.Directory.Roles(ctx, c.Env, in.ID)
	if err != nil {
		return nil, err
	}
	out := &customRoleOut{}
	if i := slices.IndexFunc(all, func(v directory.RoleView) bool { return v.Key == in.Role }); i >= 0 {
		out.Body = all[i]
	}
	return out, nil
}

func (a *API) deleteCustomRole(ctx context.Context, c *call, in *customRolePath) (*struct{}, error) {
	all, err := a.Directory.Read(c.Env, in.ID).Roles(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(all, func(r usher.Role) bool { return r.Key == in.Role }) {
		return nil, usher.Errorf(usher.NotFound, "customer %q has no role %q of its own", in.ID, in.Role)
	}
	_, err = a.apply(ctx, c, "role.delete", in.Role, "", in.ID, directory.Change{DropRoles: []string{in.Role}})
	return nil, err
}

type assignIn struct {
	ID   string `path:"id" doc:"The customer"`
	Body struct {
		Member       string     `json:"member,omitempty" doc:"Who holds it; or a group"`
		Group        string     `json:"group,omitempty"`
		Role         string     `json:"role"`
		ResourceType string     `json:"resource_type,omitempty" doc:"Only there; absent is everywhere"`
		ResourceID   string     `json:"resource_id,omitempty" doc:"Absent is every resource of the type"`
		From         *time.Time `json:"from,omitempty" doc:"Default now"`
		Until        *time.Time `json:"until,omitempty" doc:"Not included; absent is for good"`
		Reason       string     `json:"reason,omitempty" maxLength:"500"`
		By           string     `json:"by,omitempty" doc:"The member on whose behalf it is given, who cannot give what it does not hold, nor to itself"`
	}
	RawBody []byte
}

type assignmentDoc struct {
	ID           string     `json:"id"`
	Member       string     `json:"member,omitempty"`
	Group        string     `json:"group,omitempty"`
	Role         string     `json:"role"`
	ResourceType string     `json:"resource_type,omitempty"`
	ResourceID   string     `json:"resource_id,omitempty"`
	From         time.Time  `json:"from"`
	Until        *time.Time `json:"until,omitempty"`
	Source       string     `json:"source" enum:"manual,scim,sso,request,break_glass"`
	GrantedBy    string     `json:"granted_by,omitempty"`
	Reason       string     `json:"reason,omitempty"`
	Revision     int64      `json:"revision,omitempty" doc:"That has the change"`
}

func showAssignment(x *usher.Assignment) assignmentDoc {
	d := assignmentDoc{ID: x.ID, Role: x.Role, ResourceType: x.ResourceType, ResourceID: x.ResourceID, From: x.From.UTC(), Until: x.Until, Source: string(x.Source), GrantedBy: x.GrantedBy, Reason: x.Reason}
	if x.Holder.Group {
		d.Group = x.Holder.ID
	} else {
		d.Member = x.Holder.ID
	}
	return d
}

type assignmentOut struct{ Body assignmentDoc }

func (a *API) assign(ctx context.Context, c *call, in *assignIn) (*assignmentOut, error) {
	if err := noNulls(in.RawBody); err != nil {
		return nil, err
	}
	b := &in.Body
	if (b.Member == "") == (b.Group == "") {
		return nil, invalid("body.member", "or body.group must be given, and not both")
	}
	x := usher.Assignment{Holder: usher.Holder{ID: b.Member}, Role: b.Role, ResourceType: b.ResourceType, ResourceID: b.ResourceID, Until: b.Until, Reason: b.Reason, Source: usher.SourceManual}
	if b.Group != "" {
		x.Holder = usher.Holder{Group: true, ID: b.Group}
	}
	if b.From != nil {
		x.From = *b.From
	}
	x.ID = a.Directory.AssignmentID(x)
	done, err := a.apply(ctx, c, "assignment.put", x.ID, b.Reason, in.ID, directory.Change{Assign: []usher.Assignment{x}, By: b.By})
	if err != nil {
		return nil, located(err, "assignments")
	}
	if stored, err := a.Directory.Read(c.Env, in.ID).Assignment(ctx, x.ID); err == nil {
		x = stored
	}
	out := &assignmentOut{showAssignment(&x)}
	out.Body.Revision = done.Body.Revision
	return out, nil
}

type assignmentsIn struct {
	ID     string `path:"id" doc:"The customer"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before"`
	Member string `query:"member"`
	Group  string `query:"group"`
	Role   string `query:"role"`
}

func (a *API) listAssignments(ctx context.Context, c *call, in *assignmentsIn) (*listOut[assignmentDoc], error) {
	f := store.AssignmentFilter{Role: in.Role}
	switch {
	case in.Member != "" && in.Group != "":
		return nil, invalid("query.member", "or query.group may be given, not both")
	case in.Member != "":
		f.Holder = &usher.Holder{ID: in.Member}
	case in.Group != "":
		f.Holder = &usher.Holder{Group: true, ID: in.Group}
	}
	return listOf(ctx, a, c, &listIn{in.ID, in.Limit, in.Cursor}, func(d store.Directory, ctx context.Context, after string, limit int) ([]assignmentDoc, error) {
		list, err := d.Assignments(ctx, f, after, limit)
		all := make([]assignmentDoc, len(list))
		for i := range list {
			all[i] = showAssignment(&list[i])
		}
		return all, err
	}, func(x *assignmentDoc) string { return x.ID })
}

type unassignIn struct {
	ID         string `path:"id" doc:"The customer"`
	Assignment string `path:"assignment"`
}

func (a *API) unassign(ctx context.Context, c *call, in *unassignIn) (*struct{}, error) {
	if _, err := a.Directory.Read(c.Env, in.ID).Assignment(ctx, in.Assignment); err != nil {
		return nil, err
	}
	_, err := a.apply(ctx, c, "assignment.delete", in.Assignment, "", in.ID, directory.Change{Unassign: []string{in.Assignment}})
	return nil, err
}

type resourcePath struct {
	ID       string `path:"id" doc:"The customer"`
	Type     string `path:"type"`
	Resource string `path:"resource"`
}

type putResourceIn struct {
	ID       string `path:"id" doc:"The customer"`
	Type     string `path:"type"`
	Resource string `path:"resource"`
	Body     struct {
		Properties map[string]any `json:"properties,omitempty" doc:"Anything, for conditions: resource.properties"`
	}
	RawBody []byte
}

type resourceView struct {
	usher.Resource
	Revision int64 `json:"revision,omitempty" doc:"That has the change"`
}

type resourceOut struct {
	Status int
	Body   resourceView
}

func (a *API) putResource(ctx context.Context, c *call, in *putResourceIn) (*resourceOut, error) {
	if err := noNulls(in.RawBody, "properties"); err != nil {
		return nil, err
	}
	if err := checkIDs("id", in.ID, "type", in.Type, "resource", in.Resource); err != nil {
		return nil, err
	}
	if err := exactly(in.RawBody, &in.Body); err != nil {
		return nil, err
	}
	r := usher.Resource{Type: in.Type, ID: in.Resource, Properties: in.Body.Properties}
	d := a.Directory.Read(c.Env, in.ID)
	out := &resourceOut{Status: http.StatusCreated}
	switch old, err := d.Resource(ctx, in.Type, in.Resource); {
	case err == nil:
		r.CreatedAt, out.Status = old.CreatedAt, http.StatusOK
	case usher.ErrorCode(err) == usher.NotFound:
	default:
		return nil, err
	}
	done, err := a.apply(ctx, c, "resource.put", in.Resource, "", in.ID, directory.Change{Resources: []usher.Resource{r}})
	if err != nil {
		return nil, located(err, "resources")
	}
	if stored, err := d.Resource(ctx, in.Type, in.Resource); err == nil {
		r = stored
	}
	out.Body = resourceView{r, done.Body.Revision}
	return out, nil
}

func (a *API) getResource(ctx context.Context, c *call, in *resourcePath) (*resourceOut, error) {
	r, err := a.Directory.Read(c.Env, in.ID).Resource(ctx, in.Type, in.Resource)
	return &resourceOut{http.StatusOK, resourceView{Resource: r}}, err
}

type resourcesIn struct {
	ID     string `path:"id" doc:"The customer"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before"`
	Type   string `path:"type"`
}

func (a *API) listResources(ctx context.Context, c *call, in *resourcesIn) (*listOut[usher.Resource], error) {
	return listOf(ctx, a, c, &listIn{in.ID, in.Limit, in.Cursor}, func(d store.Directory, ctx context.Context, after string, limit int) ([]usher.Resource, error) {
		return d.Resources(ctx, in.Type, after, limit)
	}, func(r *usher.Resource) string { return r.ID })
}

func (a *API) deleteResource(ctx context.Context, c *call, in *resourcePath) (*struct{}, error) {
	r, err := a.Directory.Read(c.Env, in.ID).Resource(ctx, in.Type, in.Resource)
	if err != nil {
		return nil, err
	}
	_, err = a.apply(ctx, c, "resource.delete", in.Resource, "", in.ID, directory.Change{DropResources: []usher.Resource{r}})
	return nil, err
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
