package api

import (
	"context"
	"net/http"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
)

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
	Revision int64 `json:"revision,omitempty" doc:"The revision that contains the change"`
}

type resourceOut struct {
	Status int
	Body   resourceView
}

// resourcesRoutes registers the things that members act on. A resource need not
// be registered for a check, which may bring its properties along; a search can
// only list what is registered.
func (a *api) resourcesRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "PUT /v1/customers/{id}/resources/{type}/{resource}", Perm: auth.PermMembersWrite,
		ID: "putResource", Tag: "Members", Also: http.StatusCreated, Summary: "Register a resource, or replace its properties",
		Text:    "Searches list it, and conditions read its properties.",
		Example: `{"properties":{"owner":"ann"}}`,
		Answer:  `{"type":"report","id":"q1","properties":{"owner":"ann"},"created_at":"2026-03-10T12:00:00Z","revision":18}`}, a.putResource)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/resources/{type}/{resource}", Perm: auth.PermMembersRead,
		ID: "getResource", Tag: "Members", Summary: "A registered resource",
		Answer: `{"type":"report","id":"q1","properties":{"owner":"ann"},"created_at":"2026-03-10T12:00:00Z"}`}, a.getResource)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/resources/{type}", Perm: auth.PermMembersRead,
		ID: "listResources", Tag: "Members", Summary: "The registered resources of a type, by id",
		Answer: `{"data":[{"type":"report","id":"q1","properties":{"owner":"ann"},"created_at":"2026-03-10T12:00:00Z"}]}`}, a.listResources)
	door.Register(d, door.Route{Pattern: "DELETE /v1/customers/{id}/resources/{type}/{resource}", Perm: auth.PermMembersWrite,
		ID: "deleteResource", Tag: "Members", Summary: "Delete a resource, and erase its properties from the past too",
		Status: http.StatusNoContent},
		a.deleteResource)
}

func (a *api) putResource(ctx context.Context, c *door.Call, in *putResourceIn) (*resourceOut, error) {
	if err := door.CheckIDs("id", in.ID, "type", in.Type, "resource", in.Resource); err != nil {
		return nil, err
	}
	if err := door.Exactly(in.RawBody, &in.Body); err != nil {
		return nil, err
	}
	got, err := a.Directory.PutResource(ctx, c.Env, c.By(), in.ID, usher.Resource{Type: in.Type, ID: in.Resource,
		Properties: in.Body.Properties})
	return &resourceOut{putStatus(got.New), resourceView{got.Value, got.Revision}}, err
}

func (a *api) getResource(ctx context.Context, c *door.Call, in *resourcePath) (*resourceOut, error) {
	r, err := a.Directory.Read(c.Env, in.ID).Resource(ctx, in.Type, in.Resource)
	return &resourceOut{http.StatusOK, resourceView{Resource: r}}, err
}

type resourcesIn struct {
	ID     string `path:"id" doc:"The customer"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before"`
	Type   string `path:"type"`
}

func (a *api) listResources(ctx context.Context, c *door.Call, in *resourcesIn) (*door.ListOut[usher.Resource], error) {
	page := &door.ListIn{ID: in.ID, Limit: in.Limit, Cursor: in.Cursor}
	return listOf(ctx, a, c, page, func(d directory.Reader, ctx context.Context, after string, limit int) ([]usher.Resource, error) {
		return d.Resources(ctx, in.Type, after, limit)
	}, func(r *usher.Resource) string { return r.ID })
}

func (a *api) deleteResource(ctx context.Context, c *door.Call, in *resourcePath) (*struct{}, error) {
	r, err := a.Directory.Read(c.Env, in.ID).Resource(ctx, in.Type, in.Resource)
	if err != nil {
		return nil, err
	}
	_, err = a.apply(ctx, c, "resource.delete", in.Resource, "", in.ID, directory.Change{DropResources: []usher.Resource{r}})
	return nil, err
}
