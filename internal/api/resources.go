package api

import (
	"context"
	"net/http"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/store"
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
