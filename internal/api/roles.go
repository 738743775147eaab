package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
)

// rolesRoutes registers the roles that a customer can give: the catalogue's,
// and its own. A role of its own never gives more than the catalogue's ceiling
// permits, nor more than its creator holds (A05); after a downgrade what is
// above the ceiling is masked, not deleted.
func (a *api) rolesRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/roles", Perm: auth.PermMembersRead,
		ID: "listCustomerRoles", Tag: "Members", Summary: "The roles that a customer can assign: the catalogue's and its own",
		Answer: `{"data":[{"key":"auditor","title":"Auditor","custom":true,"permissions":["report.read"],"gives":["report.read"],"seats":[]}]}`},
		a.listRoles)
	door.Register(d, door.Route{Pattern: "PUT /v1/customers/{id}/roles/{role}", Perm: auth.PermMembersWrite,
		ID: "putCustomRole", Tag: "Members", Summary: "Make a role of the customer's own, or replace it",
		Text: "It never gives more than the catalogue's `custom_roles.ceiling`, nor, with `by`, more than that member holds; nor " +
			"does `by` take more from it. A key of the catalogue's is refused.",
		Example: `{"title":"Auditor","permissions":["report.read"]}`,
		Answer: `{"key":"auditor","title":"Auditor","custom":true,"permissions":["report.read"],"gives":["report.read"],"seats":[
			]}`}, a.putCustomRole)
	door.Register(d, door.Route{Pattern: "DELETE /v1/customers/{id}/roles/{role}", Perm: auth.PermMembersWrite,
		ID: "deleteCustomRole", Tag: "Members", Summary: "Remove a role of the customer's own", Text: "Refused while the role is assigned.",
		Status: http.StatusNoContent}, a.deleteCustomRole)
}

func (a *api) listRoles(ctx context.Context, c *door.Call, in *door.PathID) (*door.ListOut[directory.RoleView], error) {
	all, err := a.Directory.Roles(ctx, c.Env, in.ID)
	return door.Listed(all, ""), err
}

type customRolePath struct {
	ID   string `path:"id" doc:"The customer"`
	Role string `path:"role"`
	ByQuery
}

type customRoleIn struct {
	ID   string `path:"id" doc:"The customer"`
	Role string `path:"role"`
	Body struct {
		Title       string   `json:"title,omitempty"`
		Permissions []string `json:"permissions,omitempty" maxItems:"1000" doc:"Keys, and patterns such as report.* and **"`
		Includes    []string `json:"includes,omitempty" maxItems:"1000"`
		By          string   `json:"by,omitempty" doc:"The member on whose behalf it is made, who cannot give or take what it does not hold"`
		Reason      string   `json:"reason,omitempty" maxLength:"500"`
	}
}

type customRoleOut struct{ Body directory.RoleView }

func (a *api) putCustomRole(ctx context.Context, c *door.Call, in *customRoleIn) (*customRoleOut, error) {
	r := usher.Role{Key: in.Role, Title: in.Body.Title, Permissions: in.Body.Permissions, Includes: in.Body.Includes}
	by := c.By()
	by.Reason = in.Body.Reason
	got, err := a.Directory.PutRole(ctx, c.Env, by, in.ID, r, in.Body.By)
	return &customRoleOut{got}, err
}

func (a *api) deleteCustomRole(ctx context.Context, c *door.Call, in *customRolePath) (*struct{}, error) {
	all, err := a.Directory.Read(c.Env, in.ID).Roles(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(all, func(r usher.Role) bool { return r.Key == in.Role }) {
		return nil, usher.Errorf(usher.NotFound, "customer %q has no role %q of its own", in.ID, in.Role)
	}
	_, err = a.apply(ctx, c, "role.delete", in.Role, "", in.ID, directory.Change{DropRoles: []string{in.Role}, By: in.By})
	return nil, err
}
