package api

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/door"
)

type catalogIn struct {
	DryRun  bool   `query:"dry_run" doc:"Show what would change, and change nothing"`
	Migrate string `query:"migrate" doc:"A plan's key, or all: subscriptions on older versions move to the newest at once"`
	IfMatch string `header:"If-Match" doc:"The ETag of the catalogue that this one replaces"`
	RawBody []byte `contentType:"application/yaml"`
}

type catalogResultOut struct {
	ETag string `header:"ETag"`
	Body catalog.Result
}

// catalogEntry is a plan, a feature or an add-on with the fields of the file.
type catalogEntry map[string]any

type entryIn struct {
	Key string `path:"key"`
}

type entryOut struct{ Body catalogEntry }

func (a *api) entries(c *door.Call, section string) ([]catalogEntry, error) {
	list, err := a.Catalog.Entries(c.Env, section)
	all := make([]catalogEntry, len(list))
	for i := range list {
		all[i] = list[i]
	}
	return all, err
}

// catalogRoutes registers the catalogue: the one file that says what is sold.
// It is replaced whole, never edited in place, so that a revision is what a
// person reviewed. ?dry_run shows the changes and the customers that they
// affect; If-Match refuses a file that was written against an older one.
// Customers keep the plan version that they bought unless ?migrate moves them.
func (a *api) catalogRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "PUT /v1/catalog", Perm: auth.PermCatalogWrite,
		ID: "applyCatalog", Tag: "Catalogue", Summary: "Apply a catalogue file", Raw: true, MaxBody: catalogfile.MaxSize,
		Accept: []string{"application/yaml", "application/x-yaml", "text/yaml", "application/json"},
		Text: "All or nothing. A file that says the same as the one in force makes no revision. A new version is made only of the plans and " +
			"add-ons that changed; subscriptions stay on theirs unless migrated.",
		Example: "usher: 1\nfeatures:\n  sso: {kind: switch}\nplans:\n  pro: {entitlements: {sso: true}}\n",
		Answer: `{"revision":17,"hash":"sha256:e0f80f215bf21c5a1b1d0f5a57eda66b760410cfdf2c93a4c3f255c684300cdf","changes":[{
			"path":"plans.pro.entitlements.sso","action":"add","text":"plan pro: sso is included"}],"plans":{"pro":"pro@2"},
			"addons":{},"impact":[],"migrated":0,"left_pinned":[]}`}, a.putCatalog)
	d.Handle(door.Route{Pattern: "GET /v1/catalog", Perm: auth.PermCatalogRead,
		ID: "getCatalog", Tag: "Catalogue", Summary: "The catalogue file in force, as it was sent",
		Text: "With Accept: application/json, the catalogue as JSON, in which each plan lists all that it gives.",
		Params: []*huma.Param{
			{Name: "revision", In: "query", Description: "The catalogue that was in force at this revision of the environment; default now",
				Schema: &huma.Schema{Type: huma.TypeInteger, Format: "int64", Minimum: new(float64(1))}},
			{Name: "Accept", In: "header", Description: "application/json, or application/yaml (default): as it was sent",
				Schema: &huma.Schema{Type: huma.TypeString}},
		},
		Response: "", Produces: "application/yaml, application/json", Responses: map[string]any{"application/json": map[string]any{}},
		Sends:  []door.Sent{{Name: "ETag", Description: "The hash of the catalogue, for If-Match"}},
		Answer: "usher: 1\nfeatures:\n  sso: {kind: switch}\nplans:\n  pro: {entitlements: {sso: true}}\n"}, a.getCatalog)
	d.Handle(door.Route{Pattern: "GET /v1/catalog/schema", Perm: auth.PermCatalogRead,
		ID: "getCatalogSchema", Tag: "Catalogue", Summary: "The JSON Schema of the catalogue file, for editors",
		Response: map[string]any{}}, a.getCatalogSchema)
	for _, x := range []struct{ section, list, one, what, example string }{
		{"plans", "listPlans", "getPlan", "plan", `"key":"pro","version":"pro@2","entitlements":{"sso":true}`},
		{"features", "listFeatures", "getFeature", "feature", `"key":"sso","kind":"switch"`},
		{"addons", "listAddons", "getAddon", "add-on", `"key":"sso-pack","version":"sso-pack@1","entitlements":{"sso":true}`},
	} {
		door.Register(d, door.Route{Pattern: "GET /v1/" + x.section, Perm: auth.PermCatalogRead,
			ID: x.list, Tag: "Catalogue", Summary: "Each " + x.what + " of the catalogue in force, by key",
			Answer: `{"data":[{` + x.example + `}]}`},
			func(_ context.Context, c *door.Call, in *door.PageIn) (*door.ListOut[catalogEntry], error) {
				all, err := a.entries(c, x.section)
				if err != nil {
					return nil, err
				}
				return door.Page(all, func(e catalogEntry) string { return e["key"].(string) }, in)
			})
		door.Register(d, door.Route{Pattern: "GET /v1/" + x.section + "/{key}", Perm: auth.PermCatalogRead,
			ID: x.one, Tag: "Catalogue", Summary: "A " + x.what + " of the catalogue in force", Answer: `{` + x.example + `}`},
			func(_ context.Context, c *door.Call, in *entryIn) (*entryOut, error) {
				all, err := a.entries(c, x.section)
				if err != nil {
					return nil, err
				}
				for _, e := range all {
					if e["key"] == in.Key {
						return &entryOut{e}, nil
					}
				}
				return nil, usher.Errorf(usher.NotFound, "there is no %s %s", x.what, door.Clip(in.Key))
			})
	}
	door.Register(d, door.Route{Pattern: "GET /v1/catalog/revisions", Perm: auth.PermCatalogRead,
		ID: "listCatalogRevisions", Tag: "Catalogue", Summary: "What was in force, newest first",
		Answer: `{"data":[{"revision":2,"hash":"sha256:b98521cf352048bf46c9d8761627bd652586d2b33a4dc9a9c23efc0e5662575c",
			"actor":"key:key_0pgp1jbeml64gssk02rrp3n4to","applied_at":"2026-03-10T12:00:00Z"}]}`}, a.listCatalogRevisions)
}

func (a *api) putCatalog(ctx context.Context, c *door.Call, in *catalogIn) (*catalogResultOut, error) {
	r, err := a.Catalog.Apply(ctx, c.Env, c.By(), in.RawBody,
		catalog.Options{DryRun: in.DryRun, Migrate: in.Migrate, IfMatch: in.IfMatch})
	if err != nil {
		return nil, err
	}
	out := &catalogResultOut{Body: r}
	if !r.DryRun {
		out.ETag = strconv.Quote(r.Hash)
	}
	return out, nil
}

func (a *api) getCatalog(w http.ResponseWriter, r *http.Request, c *door.Call) {
	query, err := door.Parameters(r, "revision")
	var revision int64
	if text, ok := query["revision"]; ok && err == nil {
		if revision, err = strconv.ParseInt(text, 10, 64); err != nil || revision < 1 {
			err = door.Invalid("query.revision", "must be a whole number from 1, got %s", door.Clip(text))
		}
	}
	if err != nil {
		c.Fail(w, err)
		return
	}
	get, kind := a.Catalog.Get, "application/yaml"
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		get, kind = a.Catalog.Resolved, "application/json"
	}
	row, source, err := get(r.Context(), c.Env, revision)
	if err != nil {
		c.Fail(w, err)
		return
	}
	h := w.Header()
	if bytes.HasPrefix(bytes.TrimSpace(source), []byte("{")) {
		kind = "application/json"
	}
	h.Set("Content-Type", kind)
	h.Add("Vary", "Accept")
	h.Set("ETag", strconv.Quote(row.Hash))
	h.Set("Content-Length", strconv.Itoa(len(source)))
	w.Write(source)
}

func (a *api) getCatalogSchema(w http.ResponseWriter, r *http.Request, c *door.Call) {
	if _, err := door.Parameters(r); err != nil {
		c.Fail(w, err)
		return
	}
	c.Write(w, catalogfile.Schema())
}

func (a *api) listCatalogRevisions(ctx context.Context, c *door.Call, in *door.PageIn) (*door.ListOut[catalog.Applied], error) {
	text, err := door.Cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	before := int64(0)
	if text != "" {
		if before, err = strconv.ParseInt(text, 10, 64); err != nil || before < 1 {
			return nil, door.Invalid("query.cursor", "must be the next_cursor of an answer")
		}
	}
	data, next, err := a.Catalog.Revisions(ctx, c.Env, before, in.Limit)
	if next == 0 {
		return door.Listed(data, ""), err
	}
	return door.Listed(data, strconv.FormatInt(next, 10)), err
}
