package scim

import (
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/scim"
)

// Register adds the routes of SCIM to a door.
func Register(d *door.Door, c Config) {
	s := &service{Config: c}
	d.Below(root, fail)
	d.AnySlashes(root)
	about := door.Route{Perm: auth.PermSCIM, Tag: "SCIM", MaxBody: maxBody, Produces: mediaType[0], Fail: fail,
		Errors: map[string]any{mediaType[0]: scim.ErrorResponse{}}, Response: map[string]any{}}
	projection := []*huma.Param{door.QueryParam("attributes", "Which attributes to answer with, separated by commas", false),
		door.QueryParam("excludedAttributes", "Which not to", false)}
	paging := append([]*huma.Param{door.QueryParam("filter", `Such as userName eq "ann@example.com"`, false),
		door.QueryParam("startIndex", "Of the first resource, from 1", false),
		door.QueryParam("count", "How many at most: default 100, up to 1000", false)}, projection...)
	row := func(pattern string, rt door.Route, id, summary, text string, h func(*call) (*answer, error)) {
		rt.Pattern, rt.ID, rt.Summary, rt.Text = pattern, id, summary, text
		rt.Example, rt.Answer = examples[id].request, examples[id].answer
		if strings.Contains(pattern, "{id}") {
			rt.Params = append([]*huma.Param{door.PathParam("id", "Its id")}, rt.Params...)
		}
		d.Handle(rt, s.handler(h))
	}
	with := func(change func(*door.Route)) door.Route {
		rt := about
		change(&rt)
		return rt
	}
	listed := with(func(rt *door.Route) { rt.Response, rt.Params = listDoc{}, paging })
	ifMatch := &huma.Param{Name: "If-Match", In: "header", Schema: &huma.Schema{Type: huma.TypeString},
		Description: "The ETag of the resource. The call is refused with 412 if the resource has changed since"}
	gone := with(func(rt *door.Route) {
		rt.Response, rt.Status, rt.Params = nil, http.StatusNoContent, []*huma.Param{ifMatch}
	})
	user := func(status int, body any) door.Route {
		return with(func(rt *door.Route) {
			rt.Status, rt.Response, rt.Params, rt.Request = status, userDoc{}, projection, body
			rt.Sends = []door.Sent{{Name: "ETag", Description: "The version of the resource"},
				{Name: "Location", Description: "The address of the resource"}}
			rt.Cached = status == 0 && body == nil
			if body != nil {
				rt.Accept = accept
				if status == 0 {
					rt.Params = append(slices.Clip(projection), ifMatch)
				}
			}
		})
	}
	group := func(status int, body any) door.Route {
		rt := user(status, body)
		rt.Response = groupDoc{}
		return rt
	}
	row("GET /scim/v2/Users", listed, "scimListUsers", "The customer's users", "", (*call).listUsers)
	row("POST /scim/v2/Users", user(http.StatusCreated, userDoc{}), "scimCreateUser", "Make a user",
		"The id is the externalId if that is a possible id and is free.", (*call).createUser)
	row("GET /scim/v2/Users/{id}", user(0, nil), "scimGetUser", "A user", "", (*call).getUser)
	row("PUT /scim/v2/Users/{id}", user(0, userDoc{}), "scimPutUser", "Replace a user",
		"If `active`, `externalId` or `roles` are left out, they do not change.", (*call).putUser)
	row("PATCH /scim/v2/Users/{id}", user(0, patchDoc{}), "scimPatchUser", "Change a user", "All operations or none.", (*call).patchUser)
	row("DELETE /scim/v2/Users/{id}", gone, "scimDeleteUser", "Delete a user",
		"Frees the user's seats, removes it from its groups and erases its data.", (*call).deleteUser)
	row("GET /scim/v2/Groups", listed, "scimListGroups", "The customer's groups", "", (*call).listGroups)
	row("POST /scim/v2/Groups", group(http.StatusCreated, groupDoc{}), "scimCreateGroup", "Make a group", "", (*call).createGroup)
	row("GET /scim/v2/Groups/{id}", group(0, nil), "scimGetGroup", "A group", "", (*call).getGroup)
	row("PUT /scim/v2/Groups/{id}", group(0, groupDoc{}), "scimPutGroup", "Replace a group",
		"If `externalId` or `members` are left out, they do not change.", (*call).putGroup)
	patched := group(0, patchDoc{})
	patched.Also = http.StatusNoContent
	row("PATCH /scim/v2/Groups/{id}", patched, "scimPatchGroup", "Change a group",
		"All operations or none. The answer has a body only if the query asks for attributes.", (*call).patchGroup)
	row("DELETE /scim/v2/Groups/{id}", gone, "scimDeleteGroup", "Delete a group",
		"Its members lose the roles that the group gave them.", (*call).deleteGroup)
	row("GET /scim/v2/Roles", listed, "scimListRoles", "The roles that users can be given, with seat counts", "", (*call).listRoles)
	row("GET /scim/v2/Roles/{id}", about, "scimGetRole", "A role", "", (*call).getRole)
	row("GET /scim/v2/Entitlements", listed, "scimListEntitlements", "The switches and seats of the customer's plan, with counts", "",
		(*call).listEntitlements)
	row("GET /scim/v2/Entitlements/{id}", about, "scimGetEntitlement", "An entitlement", "", (*call).getEntitlement)
	config := func(s *call) (*answer, error) { return &answer{body: scim.ServiceProviderConfig(s.base, maxPage)}, nil }
	row("GET /scim/v2", about, "scimBase", "What is supported",
		"The same as ServiceProviderConfig, for clients that try the base URL. A base URL may end with a slash.", config)
	row("GET /scim/v2/ServiceProviderConfig", about, "scimConfig", "What is supported", "", config)
	about.Response = listDoc{}
	row("GET /scim/v2/ResourceTypes", about, "scimListResourceTypes", "The types of resources", "",
		func(s *call) (*answer, error) { return everything(scim.ResourceTypes(s.base)), nil })
	row("GET /scim/v2/Schemas", about, "scimListSchemas", "The schemas", "",
		func(s *call) (*answer, error) { return everything(scim.Schemas(s.base)), nil })
	about.Response = map[string]any{}
	row("GET /scim/v2/ResourceTypes/{id}", about, "scimGetResourceType", "A type of resources", "", func(s *call) (*answer, error) {
		return s.named(scim.ResourceTypes(s.base), "resource type")
	})
	row("GET /scim/v2/Schemas/{id}", about, "scimGetSchema", "A schema, by its URN", "",
		func(s *call) (*answer, error) { return s.named(scim.Schemas(s.base), "schema") })
}
