package api

import (
	"context"
	"net/http"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
)

type assignIn struct {
	ID   string `path:"id" doc:"The customer"`
	Body struct {
		Member       string     `json:"member,omitempty" doc:"Who holds it; or a group"`
		Group        string     `json:"group,omitempty"`
		Role         string     `json:"role"`
		ResourceType string     `json:"resource_type,omitempty" doc:"Only on resources of this type; absent: everywhere"`
		ResourceID   string     `json:"resource_id,omitempty" doc:"Only on this resource; absent: on every resource of the type"`
		From         *time.Time `json:"from,omitempty" doc:"Default now"`
		Until        *time.Time `json:"until,omitempty" doc:"The first instant after; absent: no end"`
		Reason       string     `json:"reason,omitempty" maxLength:"500"`
		By           string     `json:"by,omitempty" doc:"The member on whose behalf it is given, who cannot give or take what it does not hold, nor give to itself"`
	}
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
	Revision     int64      `json:"revision,omitempty" doc:"The revision that contains the change"`
}

func showAssignment(x *usher.Assignment) assignmentDoc {
	d := assignmentDoc{ID: x.ID, Role: x.Role, ResourceType: x.ResourceType, ResourceID: x.ResourceID, From: x.From.UTC(), Until: x.Until,
		Source: string(x.Source), GrantedBy: x.GrantedBy, Reason: x.Reason}
	if x.Holder.Group {
		d.Group = x.Holder.ID
	} else {
		d.Member = x.Holder.ID
	}
	return d
}

type assignmentOut struct{ Body assignmentDoc }

// assignmentsRoutes registers who holds which role. An administrator gives a
// role to a member or a group: everywhere or on one resource, from one time
// until another. With "by" the call acts for a member, who can give no more
// than it holds itself (A05). A seat that the role needs is taken in the
// transaction that gives the role (A08), so a full plan refuses both.
func (a *api) assignmentsRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "PUT /v1/customers/{id}/assignments", Perm: auth.PermMembersWrite,
		ID: "assign", Tag: "Members", Summary: "Give a role to a member or a group",
		Text: "If the holder has the role on the same resource already, its dates and reason are replaced. A role that needs a seat takes " +
			"one in the same step. If no seat is free, the call is refused, and no other member loses a seat.",
		Example: `{"member":"ann","role":"viewer","reason":"joined the team"}`,
		Answer: `{"id":"asg_ggggs8ddk3gllql159bjdgge","member":"ann","role":"viewer","from":"2026-03-10T12:00:00Z","source":"manual",
			"granted_by":"key:key_0pgp1jbeml64gssk02rrp3n4to","reason":"joined the team","revision":18}`}, a.assign)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/assignments", Perm: auth.PermMembersRead,
		ID: "listAssignments", Tag: "Members", Summary: "Who holds which role, by id, ended assignments included",
		Answer: `{"data":[{"id":"asg_ggggs8ddk3gllql159bjdgge","member":"ann","role":"viewer","from":"2026-03-10T12:00:00Z",
			"source":"manual","granted_by":"key:key_0pgp1jbeml64gssk02rrp3n4to","reason":"joined the team"}]}`}, a.listAssignments)
	door.Register(d, door.Route{Pattern: "DELETE /v1/customers/{id}/assignments/{assignment}", Perm: auth.PermMembersWrite,
		ID: "unassign", Tag: "Members", Summary: "Take a role away, with the seat that it took", Status: http.StatusNoContent}, a.unassign)
}

func (a *api) assign(ctx context.Context, c *door.Call, in *assignIn) (*assignmentOut, error) {
	b := &in.Body
	if (b.Member == "") == (b.Group == "") {
		return nil, door.Invalid("body.member", "or body.group must be given, and not both")
	}
	x := usher.Assignment{Holder: usher.Holder{ID: b.Member}, Role: b.Role, ResourceType: b.ResourceType, ResourceID: b.ResourceID,
		Until: b.Until, Reason: b.Reason, Source: usher.SourceManual}
	if b.Group != "" {
		x.Holder = usher.Holder{Group: true, ID: b.Group}
	}
	if b.From != nil {
		x.From = *b.From
	}
	by := c.By()
	by.Reason = b.Reason
	got, err := a.Directory.Assign(ctx, c.Env, by, in.ID, x, b.By)
	if err != nil {
		return nil, err
	}
	out := &assignmentOut{showAssignment(&got.Value)}
	out.Body.Revision = got.Revision
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

func (a *api) listAssignments(ctx context.Context, c *door.Call, in *assignmentsIn) (*door.ListOut[assignmentDoc], error) {
	f := usher.AssignmentFilter{Role: in.Role}
	switch {
	case in.Member != "" && in.Group != "":
		return nil, door.Invalid("query.member", "or query.group may be given, not both")
	case in.Member != "":
		f.Holder = &usher.Holder{ID: in.Member}
	case in.Group != "":
		f.Holder = &usher.Holder{Group: true, ID: in.Group}
	}
	page := &door.ListIn{ID: in.ID, Limit: in.Limit, Cursor: in.Cursor}
	return listOf(ctx, a, c, page, func(d directory.Reader, ctx context.Context, after string, limit int) ([]assignmentDoc, error) {
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
	ByQuery
}

func (a *api) unassign(ctx context.Context, c *door.Call, in *unassignIn) (*struct{}, error) {
	if _, err := a.Directory.Read(c.Env, in.ID).Assignment(ctx, in.Assignment); err != nil {
		return nil, err
	}
	_, err := a.apply(ctx, c, "assignment.delete", in.Assignment, "", in.ID, directory.Change{Unassign: []string{in.Assignment}, By: in.By})
	return nil, err
}
