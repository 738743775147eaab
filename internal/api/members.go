package api

import (
	"context"
	"net/http"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
)

type memberPath struct {
	ID     string `path:"id" doc:"The customer"`
	Member string `path:"member" doc:"An id that you choose: any UTF-8 of up to 255 bytes, percent-encoded"`
}

type memberIn struct {
	ID     string `path:"id" doc:"The customer"`
	Member string `path:"member" doc:"An id that you choose: any UTF-8 of up to 255 bytes, percent-encoded"`
	Body   struct {
		Type       string         `json:"type,omitempty" maxLength:"255" doc:"What AuthZEN calls the subject's type; default user"`
		Active     *bool          `json:"active,omitempty"`
		Properties map[string]any `json:"properties,omitempty" doc:"Anything, for conditions: subject.properties"`
		By         string         `json:"by,omitempty" doc:"The member on whose behalf it is done"`
	}
	RawBody []byte
}

type memberView struct {
	usher.Member
	Groups      []string        `json:"groups,omitempty" doc:"The groups that it is directly in"`
	Assignments []assignmentDoc `json:"assignments,omitempty" doc:"Roles that the member holds itself, not through groups"`
	Revision    int64           `json:"revision,omitempty" doc:"The revision that contains the change"`
}

type memberOut struct {
	Status int
	Body   memberView
}

// membersRoutes registers the people and programs inside a customer, by the
// caller's own ids. A member must be registered and active before any decision
// about it can be a yes (A01). An inactive member keeps its roles and loses
// their seats, so that it can come back; a deleted one loses both.
func (a *api) membersRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "PUT /v1/customers/{id}/members/{member}", Perm: auth.PermMembersWrite,
		ID: "putMember", Tag: "Members", Also: http.StatusCreated, Summary: "Register a member, or replace what is known about it",
		Text: "An absent `active` leaves it as it is, and is true for a new member. Properties replace those that were there. With `by`, a " +
			"member is not deactivated or reactivated who has roles that `by` could not give.",
		Example: `{"properties":{"name":"Ann"}}`,
		Answer: `{"id":"ann","type":"user","active":true,"properties":{"name":"Ann"},"created_at":"2026-03-10T12:00:00Z",
			"revision":18}`}, a.putMember)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/members/{member}", Perm: auth.PermMembersRead,
		ID: "getMember", Tag: "Members", Summary: "A member, the groups it is in and the roles it holds itself",
		Answer: `{"id":"ann","type":"user","active":true,"properties":{"name":"Ann"},"created_at":"2026-03-10T12:00:00Z",
			"assignments":[{"id":"asg_ggggs8ddk3gllql159bjdgge","member":"ann","role":"viewer","from":"2026-03-10T12:00:00Z",
			"source":"manual","granted_by":"key:key_0pgp1jbeml64gssk02rrp3n4to","reason":"joined the team"}]}`}, a.getMember)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/members", Perm: auth.PermMembersRead,
		ID: "listMembers", Tag: "Members", Summary: "A customer's members, by id",
		Answer: `{"data":[{"id":"ann","type":"user","active":true,"properties":{"name":"Ann"},
			"created_at":"2026-03-10T12:00:00Z"}]}`}, a.listMembers)
	door.Register(d, door.Route{Pattern: "DELETE /v1/customers/{id}/members/{member}", Perm: auth.PermMembersWrite,
		ID: "deleteMember", Tag: "Members", Summary: "Remove a member",
		Text:   "It leaves its groups, loses its roles and frees the seats that they took. Its properties are erased, from the past too.",
		Status: http.StatusNoContent}, a.deleteMember)
}

func (a *api) putMember(ctx context.Context, c *door.Call, in *memberIn) (*memberOut, error) {
	if err := door.CheckIDs("id", in.ID, "member", in.Member); err != nil {
		return nil, err
	}
	if err := door.Exactly(in.RawBody, &in.Body); err != nil {
		return nil, err
	}
	got, err := a.Directory.PutMember(ctx, c.Env, c.By(), in.ID, directory.MemberInput{ID: in.Member, Type: in.Body.Type,
		Active: in.Body.Active, Properties: in.Body.Properties}, in.Body.By)
	return &memberOut{putStatus(got.New), memberView{Member: got.Value, Revision: got.Revision}}, err
}

// putStatus is the status of an answer to PUT.
func putStatus(made bool) int {
	if made {
		return http.StatusCreated
	}
	return http.StatusOK
}

func (a *api) getMember(ctx context.Context, c *door.Call, in *memberPath) (*memberOut, error) {
	d := a.Directory.Read(c.Env, in.ID)
	m, err := d.Member(ctx, in.Member)
	if err != nil {
		return nil, err
	}
	out := &memberOut{Status: http.StatusOK, Body: memberView{Member: m}}
	if out.Body.Groups, err = d.GroupsOf(ctx, usher.Holder{ID: in.Member}); err != nil {
		return nil, err
	}
	list, err := d.Assignments(ctx, usher.AssignmentFilter{Holder: &usher.Holder{ID: in.Member}}, "", 1000)
	for i := range list {
		out.Body.Assignments = append(out.Body.Assignments, showAssignment(&list[i]))
	}
	return out, err
}

func (a *api) listMembers(ctx context.Context, c *door.Call, in *door.ListIn) (*door.ListOut[usher.Member], error) {
	return listOf(ctx, a, c, in, directory.Reader.Members, func(m *usher.Member) string { return m.ID })
}

type deleteMemberIn struct {
	ID     string `path:"id" doc:"The customer"`
	Member string `path:"member" doc:"An id that you choose: any UTF-8 of up to 255 bytes, percent-encoded"`
	ByQuery
}

func (a *api) deleteMember(ctx context.Context, c *door.Call, in *deleteMemberIn) (*struct{}, error) {
	if _, err := a.Directory.Read(c.Env, in.ID).Member(ctx, in.Member); err != nil {
		return nil, err
	}
	_, err := a.Directory.Apply(ctx, c.Env, c.By(), in.ID, directory.Change{Action: "member.delete", Object: in.Member,
		DropMembers: []string{in.Member}, By: in.By})
	return nil, err
}
