package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
)

type groupPath struct {
	ID    string `path:"id" doc:"The customer"`
	Group string `path:"group" doc:"An id that you choose: any UTF-8 of up to 255 bytes, percent-encoded"`
}

type groupIn struct {
	ID    string `path:"id" doc:"The customer"`
	Group string `path:"group" doc:"An id that you choose: any UTF-8 of up to 255 bytes, percent-encoded"`
	Body  struct {
		Title      string         `json:"title,omitempty" doc:"Up to 1,000 bytes"`
		Properties map[string]any `json:"properties,omitempty"`
		Members    *[]string      `json:"members,omitempty" maxItems:"10000"`
		Groups     *[]string      `json:"groups,omitempty" maxItems:"10000"`
		By         string         `json:"by,omitempty" doc:"The member on whose behalf it is done"`
	}
	RawBody []byte
}

type groupView struct {
	usher.Group
	Groups   []string `json:"groups,omitempty" doc:"The groups that it is directly in"`
	Revision int64    `json:"revision,omitempty" doc:"The revision that contains the change"`
}

type groupOut struct {
	Status int
	Body   groupView
}

// groupsRoutes registers groups of members, so that a role is given to a team
// once. Groups may be nested; a circle is refused when it would be made (A04).
// A group that an identity provider manages through SCIM is changed here only
// with care: the next sync replaces its members.
func (a *api) groupsRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "PUT /v1/customers/{id}/groups/{group}", Perm: auth.PermMembersWrite,
		ID: "putGroup", Tag: "Members", Also: http.StatusCreated, Summary: "Make a group, or replace it",
		Text:    "`members` and `groups`, where they are given, become who is in it; absent ones stay as they are.",
		Example: `{"title":"Staff","members":["ann"]}`,
		Answer:  `{"id":"staff","title":"Staff","created_at":"2026-03-10T12:00:00Z","revision":18}`}, a.putGroup)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/groups/{group}", Perm: auth.PermMembersRead,
		ID: "getGroup", Tag: "Members", Summary: "A group",
		Answer: `{"id":"staff","title":"Staff","created_at":"2026-03-10T12:00:00Z"}`}, a.getGroup)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/groups", Perm: auth.PermMembersRead,
		ID: "listGroups", Tag: "Members", Summary: "A customer's groups, by id",
		Answer: `{"data":[{"id":"staff","title":"Staff","created_at":"2026-03-10T12:00:00Z"}]}`}, a.listGroups)
	door.Register(d, door.Route{Pattern: "DELETE /v1/customers/{id}/groups/{group}", Perm: auth.PermMembersWrite,
		ID: "deleteGroup", Tag: "Members", Summary: "Remove a group with the roles that it holds; its members stay",
		Status: http.StatusNoContent}, a.deleteGroup)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/groups/{group}/members", Perm: auth.PermMembersRead,
		ID: "listGroupMembers", Tag: "Members", Summary: "Who is directly in a group: groups first, then members",
		Answer: `{"data":[{"id":"ann"}]}`}, a.listHolders)
	door.Register(d, door.Route{Pattern: "PUT /v1/customers/{id}/groups/{group}/members/{member}", Perm: auth.PermMembersWrite,
		ID: "joinGroup", Tag: "Members", Summary: "Put a member into a group", NoBody: true,
		Answer: `{"revision":18}`}, a.join)
	door.Register(d, door.Route{Pattern: "DELETE /v1/customers/{id}/groups/{group}/members/{member}", Perm: auth.PermMembersWrite,
		ID: "leaveGroup", Tag: "Members", Summary: "Take a member out of a group", Status: http.StatusNoContent}, a.leave)
	door.Register(d, door.Route{Pattern: "PUT /v1/customers/{id}/groups/{group}/groups/{inner}", Perm: auth.PermMembersWrite,
		ID: "nestGroup", Tag: "Members", Summary: "Put a group into a group", Text: "Refused if the group would contain itself.", NoBody: true,
		Answer: `{"revision":18}`}, a.nest)
	door.Register(d, door.Route{Pattern: "DELETE /v1/customers/{id}/groups/{group}/groups/{inner}", Perm: auth.PermMembersWrite,
		ID: "unnestGroup", Tag: "Members", Summary: "Take a group out of a group", Status: http.StatusNoContent}, a.unnest)
}

func (a *api) putGroup(ctx context.Context, c *door.Call, in *groupIn) (*groupOut, error) {
	if err := door.CheckIDs("id", in.ID, "group", in.Group); err != nil {
		return nil, err
	}
	if err := door.Exactly(in.RawBody, &in.Body); err != nil {
		return nil, err
	}
	got, err := a.Directory.PutGroup(ctx, c.Env, c.By(), in.ID, directory.GroupInput{ID: in.Group, Title: in.Body.Title,
		Properties: in.Body.Properties, Members: in.Body.Members, Groups: in.Body.Groups}, in.Body.By)
	return &groupOut{putStatus(got.New), groupView{Group: got.Value, Revision: got.Revision}}, err
}

func (a *api) getGroup(ctx context.Context, c *door.Call, in *groupPath) (*groupOut, error) {
	d := a.Directory.Read(c.Env, in.ID)
	g, err := d.Group(ctx, in.Group)
	if err != nil {
		return nil, err
	}
	out := &groupOut{Status: http.StatusOK, Body: groupView{Group: g}}
	out.Body.Groups, err = d.GroupsOf(ctx, usher.Holder{Group: true, ID: in.Group})
	return out, err
}

func (a *api) listGroups(ctx context.Context, c *door.Call, in *door.ListIn) (*door.ListOut[usher.Group], error) {
	return listOf(ctx, a, c, in, directory.Reader.Groups, func(g *usher.Group) string { return g.ID })
}

type deleteGroupIn struct {
	ID    string `path:"id" doc:"The customer"`
	Group string `path:"group" doc:"An id that you choose: any UTF-8 of up to 255 bytes, percent-encoded"`
	ByQuery
}

func (a *api) deleteGroup(ctx context.Context, c *door.Call, in *deleteGroupIn) (*struct{}, error) {
	if _, err := a.Directory.Read(c.Env, in.ID).Group(ctx, in.Group); err != nil {
		return nil, err
	}
	_, err := a.Directory.Apply(ctx, c.Env, c.By(), in.ID, directory.Change{Action: "group.delete", Object: in.Group,
		DropGroups: []string{in.Group}, By: in.By})
	return nil, err
}

type holdersIn struct {
	ID     string `path:"id" doc:"The customer"`
	Group  string `path:"group" doc:"An id that you choose: any UTF-8 of up to 255 bytes, percent-encoded"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before"`
}

func (a *api) listHolders(ctx context.Context, c *door.Call, in *holdersIn) (*door.ListOut[usher.Holder], error) {
	text, err := door.Cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	var after *usher.Holder
	if kind, id, ok := strings.Cut(text, " "); ok && (kind == "g" || kind == "m") {
		after = &usher.Holder{Group: kind == "g", ID: id}
	} else if text != "" {
		return nil, door.Invalid("query.cursor", "must be the next_cursor of an answer")
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
	return door.Listed(all, next), err
}

type joinIn struct {
	ID     string `path:"id" doc:"The customer"`
	Group  string `path:"group" doc:"An id that you choose: any UTF-8 of up to 255 bytes, percent-encoded"`
	Member string `path:"member"`
	ByQuery
}

type nestIn struct {
	ID    string `path:"id" doc:"The customer"`
	Group string `path:"group" doc:"An id that you choose: any UTF-8 of up to 255 bytes, percent-encoded"`
	Inner string `path:"inner" doc:"The group that is put into it"`
	ByQuery
}

func (a *api) join(ctx context.Context, c *door.Call, in *joinIn) (*revisionOut, error) {
	return a.apply(ctx, c, "group.join", in.Group, "", in.ID,
		directory.Change{Join: []usher.Membership{{Group: in.Group, Holder: usher.Holder{ID: in.Member}}}, By: in.By})
}

func (a *api) leave(ctx context.Context, c *door.Call, in *joinIn) (*struct{}, error) {
	_, err := a.apply(ctx, c, "group.leave", in.Group, "", in.ID,
		directory.Change{Leave: []usher.Membership{{Group: in.Group, Holder: usher.Holder{ID: in.Member}}}, By: in.By})
	return nil, err
}

func (a *api) nest(ctx context.Context, c *door.Call, in *nestIn) (*revisionOut, error) {
	return a.apply(ctx, c, "group.nest", in.Group, "", in.ID,
		directory.Change{Join: []usher.Membership{{Group: in.Group, Holder: usher.Holder{Group: true, ID: in.Inner}}}, By: in.By})
}

func (a *api) unnest(ctx context.Context, c *door.Call, in *nestIn) (*struct{}, error) {
	_, err := a.apply(ctx, c, "group.unnest", in.Group, "", in.ID,
		directory.Change{Leave: []usher.Membership{{Group: in.Group, Holder: usher.Holder{Group: true, ID: in.Inner}}}, By: in.By})
	return nil, err
}
