package api

import (
	"context"
	"net/http"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

type operatorOut struct{ Body usher.Operator }

type createOperatorIn struct {
	Body struct {
		Name  string `json:"name,omitempty" maxLength:"255"`
		Email string `json:"email,omitempty" maxLength:"254" doc:"Nobody is found by it at an identity provider"`
		OperatorSubject
	}
}

// OperatorSubject is who an operator is at an identity provider.
type OperatorSubject struct {
	Subject *string `json:"subject,omitempty" nullable:"false" maxLength:"255" doc:"The operator's sub at the identity provider: a person who logs in there with it is this operator"`
	Issuer  string  `json:"issuer,omitempty" maxLength:"1024" doc:"Of the subject; absent: of the identity provider that is set up"`
}

// subject is nil if the operator has none.
func (s *OperatorSubject) subject() (*usher.SSOSubject, error) {
	if s.Subject == nil {
		if s.Issuer != "" {
			return nil, door.Invalid("body.subject", "is required with issuer")
		}
		return nil, nil
	}
	return &usher.SSOSubject{Issuer: s.Issuer, Subject: *s.Subject}, nil
}

type patchOperatorIn struct {
	ID   string `path:"id"`
	Body struct {
		Name   *string `json:"name,omitempty" nullable:"false" maxLength:"255" doc:"\"\" erases it"`
		Email  *string `json:"email,omitempty" nullable:"false" maxLength:"254" doc:"\"\" erases it"`
		Active *bool   `json:"active,omitempty" nullable:"false" doc:"false: may do nothing, and keeps its roles"`
		OperatorSubject
		Linked *bool `json:"linked,omitempty" nullable:"false" doc:"false: nobody at an identity provider logs in as this operator any more"`
	}
}

type putRoleIn struct {
	ID   string `path:"id"`
	Role string `path:"role"`
	Body struct {
		Environment usher.Environment `json:"environment,omitempty" doc:"Absent: both"`
		From        string            `json:"from,omitempty" format:"date-time" doc:"Default now"`
		Until       string            `json:"until,omitempty" format:"date-time" doc:"The first instant after; default: no end"`
		Reason      string            `json:"reason,omitempty" maxLength:"1000"`
	}
}

type deleteRoleIn struct {
	ID          string            `path:"id"`
	Role        string            `path:"role"`
	Environment usher.Environment `query:"environment" doc:"Absent: the role that holds in both"`
}

type elevationOut struct{ Body usher.Elevation }

type elevateIn struct {
	Body struct {
		Role        string            `json:"role"`
		Environment usher.Environment `json:"environment,omitempty" doc:"Absent: both"`
		Reason      string            `json:"reason" maxLength:"1000"`
		Duration    string            `json:"duration" doc:"From \"1m\" to \"8h\"; in an emergency to \"1h\""`
		BreakGlass  bool              `json:"break_glass,omitempty" doc:"An emergency: it holds at once, and another operator must review it"`
	}
}

type decideElevationIn struct {
	ID   string `path:"id"`
	Body struct {
		Note string `json:"note,omitempty" maxLength:"1000"`
	}
}

type reviewElevationIn struct {
	ID   string `path:"id"`
	Body struct {
		Outcome string `json:"outcome" enum:"justified,unjustified"`
		Note    string `json:"note" maxLength:"1000"`
	}
}

type listElevationsIn struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before"`
	Review string `query:"review" enum:"pending" doc:"pending: only emergencies that nobody has reviewed"`
}

// operatorsRoutes registers the people who run this installation, their roles,
// and the two ways to more rights for a while: an elevation that a second
// operator approves, and break-glass, which works at once and must be reviewed
// afterwards. Operators belong to the installation, so a role for production is
// needed to touch them.
func (a *api) operatorsRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "GET /v1/operators", Perm: auth.PermOperatorsRead,
		ID: "listOperators", Tag: "Operators", Summary: "Operators and their roles, oldest first",
		Answer: `{"data":[{"id":"opr_0pgp1ueh6c0q7k2njpc55dit58","name":"Ada","email":"ada@example.com","active":true,
			"linked":true,"created_at":"2026-03-10T12:00:00Z","roles":[{"id":"oas_0pgp1uehgt8rv9oisgk3qcijm0","role":"support",
			"environment":"production","from":"2026-03-10T12:00:00Z","source":"manual","granted_by":"operator:opr_0pgp1ubgfh1sjau9t7nehq43is",
			"reason":"joined"}]}]}`}, a.listOperators)
	door.Register(d, door.Route{Pattern: "POST /v1/operators", Perm: auth.PermOperatorsWrite,
		ID: "createOperator", Tag: "Operators", Summary: "Make an operator, who has no role yet", Status: http.StatusCreated,
		Text:    "With a subject it is who logs in with the identity provider as that; one who is an operator already is a 409.",
		Example: `{"name":"Ada","email":"ada@example.com"}`,
		Answer: `{"id":"opr_0pgp1ueh6c0q7k2njpc55dit58","name":"Ada","email":"ada@example.com","active":true,"linked":false,
			"created_at":"2026-03-10T12:00:00Z","roles":[]}`}, a.createOperator)
	door.Register(d, door.Route{Pattern: "GET /v1/operators/{id}", Perm: auth.PermOperatorsRead,
		ID: "getOperator", Tag: "Operators", Summary: "An operator and its roles",
		Answer: `{"id":"opr_0pgp1ueh6c0q7k2njpc55dit58","name":"Ada","email":"ada@example.com","active":true,"linked":true,
			"created_at":"2026-03-10T12:00:00Z","roles":[{"id":"oas_0pgp1uehgt8rv9oisgk3qcijm0","role":"support",
			"environment":"production","from":"2026-03-10T12:00:00Z","source":"manual","granted_by":"operator:opr_0pgp1ubgfh1sjau9t7nehq43is",
			"reason":"joined"}]}`}, a.getOperator)
	door.Register(d, door.Route{Pattern: "PATCH /v1/operators/{id}", Perm: auth.PermOperatorsWrite,
		ID: "changeOperator", Tag: "Operators", Summary: "Change an operator",
		Text: "An operator with more permissions than the caller is a 403. Making the last owner inactive is a 422. A subject replaces the " +
			"earlier one of that issuer, and its sessions end. A subject of another operator is a 409.",
		Example: `{"issuer":"https://login.example.com","subject":"00u1-ada"}`,
		Answer: `{"id":"opr_0pgp1ueh6c0q7k2njpc55dit58","name":"Ada","email":"ada@example.com","active":true,"linked":true,
			"created_at":"2026-03-10T12:00:00Z","roles":[{"id":"oas_0pgp1uehgt8rv9oisgk3qcijm0","role":"support",
			"environment":"production","from":"2026-03-10T12:00:00Z","source":"manual","granted_by":"operator:opr_0pgp1ubgfh1sjau9t7nehq43is",
			"reason":"joined"}]}`}, a.patchOperator)
	door.Register(d, door.Route{Pattern: "DELETE /v1/operators/{id}", Perm: auth.PermOperatorsWrite,
		ID: "deleteOperator", Tag: "Operators", Summary: "Erase an operator", Status: http.StatusNoContent,
		Text: "With name, address and roles; the audit log has only the id. The last owner stays: 422."}, a.deleteOperator)
	door.Register(d, door.Route{Pattern: "POST /v1/operators/{id}/invite", Perm: auth.PermOperatorsWrite,
		ID: "inviteOperator", Tag: "Operators", Summary: "Invite an operator to set a password", Status: http.StatusCreated, NoBody: true,
		Text: "For operators without an identity provider: the link works once, for a day, and a newer one voids it. The operator has the " +
			"roles that it was given. An operator who is not active is a 409, one without an email a 422, and one with more permissions " +
			"than the caller a 403. Only this answer shows the token, so the call accepts no Idempotency-Key.",
		Answer: `{"url":"https://usher.example.com/login#uso_…","token":"uso_…","expires_at":"2026-03-11T12:00:00Z"}`}, a.inviteOperator)
	door.Register(d, door.Route{Pattern: "PUT /v1/operators/{id}/roles/{role}", Perm: auth.PermOperatorsWrite,
		ID: "putOperatorRole", Tag: "Operators", Summary: "Give an operator a role",
		Text: "It replaces what the operator was given of that role in that environment. Giving a role to oneself, with more permissions " +
			"than the caller has, or for longer, is a 403. Limiting the last owner in time is a 422.",
		Example: `{"environment":"production","reason":"joined"}`,
		Answer: `{"id":"opr_0pgp1ueh6c0q7k2njpc55dit58","name":"Ada","email":"ada@example.com","active":true,"linked":true,
			"created_at":"2026-03-10T12:00:00Z","roles":[{"id":"oas_0pgp1uehgt8rv9oisgk3qcijm0","role":"support",
			"environment":"production","from":"2026-03-10T12:00:00Z","source":"manual","granted_by":"operator:opr_0pgp1ubgfh1sjau9t7nehq43is",
			"reason":"joined"}]}`}, a.putRole)
	door.Register(d, door.Route{Pattern: "DELETE /v1/operators/{id}/roles/{role}", Perm: auth.PermOperatorsWrite,
		ID: "deleteOperatorRole", Tag: "Operators", Summary: "Take a role from an operator", Status: http.StatusNoContent,
		Text: "Whatever gave it. The last owner stays one: 422."}, a.deleteRole)
	door.Register(d, door.Route{Pattern: "POST /v1/elevations", Perm: auth.PermElevationRequest,
		ID: "requestElevation", Tag: "Operators", Summary: "Ask for a role for a while", Status: http.StatusCreated,
		Text: "For the caller, an operator. With break_glass it holds at once, without what hands out rights, is in the audit log as " +
			"elevation.break_glass, and must be reviewed before there can be another.",
		Example: `{"role":"pricing","environment":"production","reason":"ticket 7","duration":"1h"}`,
		Answer: `{"id":"elv_0pgp1ublkoqa666unidgulh64k","operator":"opr_0pgp1ueh6c0q7k2njpc55dit58","role":"pricing",
			"environment":"production","reason":"ticket 7","seconds":3600,"state":"requested",
			"requested_at":"2026-03-10T12:00:00Z"}`}, a.elevate)
	door.Register(d, door.Route{Pattern: "GET /v1/elevations", Perm: auth.PermElevationRequest,
		ID: "listElevations", Tag: "Operators", Summary: "Requests and emergencies, newest first",
		Text: "The latest 1,000: all with the permission operators.read, else the caller's own.",
		Answer: `{"data":[{"id":"elv_0pgp1ublkoqa666unidgulh64k","operator":"opr_0pgp1ueh6c0q7k2njpc55dit58","role":"pricing",
			"environment":"production","reason":"ticket 7","seconds":3600,"state":"requested",
			"requested_at":"2026-03-10T12:00:00Z"}]}`}, a.listElevations)
	door.Register(d, door.Route{Pattern: "POST /v1/elevations/{id}/approve", Perm: auth.PermElevationApprove,
		ID: "approveElevation", Tag: "Operators", Summary: "Approve another's request",
		Text:    "The caller is an operator, another than who asked, and holds what the role gives. A request that is a day old is a 422.",
		Example: `{}`,
		Answer: `{"id":"elv_0pgp1ublkoqa666unidgulh64k","operator":"opr_0pgp1ueh6c0q7k2njpc55dit58","role":"pricing",
			"environment":"production","reason":"ticket 7","seconds":3600,"state":"approved","requested_at":"2026-03-10T12:00:00Z",
			"decided_by":"opr_0pgp1ubgfh1sjau9t7nehq43is","decided_at":"2026-03-10T12:01:00Z",
			"until":"2026-03-10T13:01:00Z"}`}, a.approveElevation)
	door.Register(d, door.Route{Pattern: "POST /v1/elevations/{id}/deny", Perm: auth.PermElevationApprove,
		ID: "denyElevation", Tag: "Operators", Summary: "Deny another's request",
		Example: `{"note":"ask again on Monday"}`,
		Answer: `{"id":"elv_0pgp1ublkoqa666unidgulh64k","operator":"opr_0pgp1ueh6c0q7k2njpc55dit58","role":"pricing",
			"environment":"production","reason":"ticket 7","seconds":3600,"state":"denied","requested_at":"2026-03-10T12:00:00Z",
			"decided_by":"opr_0pgp1ubgfh1sjau9t7nehq43is","decided_at":"2026-03-10T12:01:00Z","note":"ask again on Monday"}`}, a.denyElevation)
	door.Register(d, door.Route{Pattern: "POST /v1/elevations/{id}/review", Perm: auth.PermElevationApprove,
		ID: "reviewElevation", Tag: "Operators", Summary: "Review another's emergency",
		Example: `{"outcome":"justified","note":"the outage of 9 March"}`,
		Answer: `{"id":"elv_0pgp1ublkoqa666unidgulh64k","operator":"opr_0pgp1ueh6c0q7k2njpc55dit58","role":"pricing",
			"environment":"production","reason":"ticket 7","seconds":3600,"state":"approved","requested_at":"2026-03-10T12:00:00Z",
			"decided_by":"opr_0pgp1ubgfh1sjau9t7nehq43is","decided_at":"2026-03-10T12:01:00Z","until":"2026-03-10T13:01:00Z",
			"break_glass":true,"review":"justified","review_note":"the outage of 9 March"}`}, a.reviewElevation)
}

func (a *api) listOperators(ctx context.Context, c *door.Call, in *door.PageIn) (*door.ListOut[usher.Operator], error) {
	all, err := a.Auth.Operators(ctx)
	if err != nil {
		return nil, err
	}
	return door.Page(all, func(o usher.Operator) string { return o.ID }, in)
}

func (a *api) getOperator(ctx context.Context, c *door.Call, in *door.PathID) (*operatorOut, error) {
	o, err := a.Auth.Operator(ctx, in.ID)
	return &operatorOut{o}, err
}

func (a *api) createOperator(ctx context.Context, c *door.Call, in *createOperatorIn) (*operatorOut, error) {
	if err := c.MayMakeOperators(); err != nil {
		return nil, err
	}
	n := auth.NewOperator{Name: in.Body.Name, Email: in.Body.Email}
	as, err := in.Body.subject()
	if err != nil {
		return nil, err
	}
	if as != nil {
		n.Subject = *as
	}
	o, err := a.Auth.CreateOperator(ctx, c.By(), n)
	return &operatorOut{o}, err
}

func (a *api) patchOperator(ctx context.Context, c *door.Call, in *patchOperatorIn) (*operatorOut, error) {
	as, err := in.Body.subject()
	switch {
	case err != nil:
		return nil, err
	case in.Body.Linked == nil:
	case as != nil || *in.Body.Linked:
		return nil, door.Invalid("body.linked", "must be false, without a subject: a subject links the operator by itself")
	default:
		as = &usher.SSOSubject{}
	}
	o, err := a.Auth.UpdateOperator(ctx, &c.Identity, c.By(), in.ID, usher.OperatorUpdate{Name: in.Body.Name, Email: in.Body.Email,
		Active: in.Body.Active, Subject: as})
	return &operatorOut{o}, err
}

func (a *api) deleteOperator(ctx context.Context, c *door.Call, in *door.PathID) (*nothingOut, error) {
	return nil, a.Auth.DeleteOperator(ctx, &c.Identity, c.By(), in.ID)
}

type inviteOut struct {
	Body struct {
		URL       string    `json:"url" doc:"Where the operator sets the password; the token is behind the #"`
		Token     string    `json:"token" doc:"Of the invitation, for POST /v1/session/invite"`
		ExpiresAt time.Time `json:"expires_at"`
	}
}

func (a *api) inviteOperator(ctx context.Context, c *door.Call, in *door.PathID) (*inviteOut, error) {
	if c.Key != "" {
		return nil, door.Invalid("header.Idempotency-Key",
			"is not taken here: the answer would have to be stored, and the token with it. Leave it out: a new invitation voids a lost one")
	}
	token, expires, err := a.Auth.Invite(ctx, &c.Identity, c.By(), in.ID)
	if err != nil {
		return nil, err
	}
	out := &inviteOut{}
	out.Body.URL, out.Body.Token, out.Body.ExpiresAt = a.Auth.InviteURL(token), token, expires
	return out, nil
}

func (a *api) putRole(ctx context.Context, c *door.Call, in *putRoleIn) (*operatorOut, error) {
	n := auth.NewRole{Role: in.Role, Environment: in.Body.Environment, Reason: in.Body.Reason}
	from, err := door.When("body.from", in.Body.From)
	if err != nil {
		return nil, err
	}
	if from != nil {
		n.From = *from
	}
	if n.Until, err = door.When("body.until", in.Body.Until); err != nil {
		return nil, err
	}
	o, err := a.Auth.PutRole(ctx, &c.Identity, c.By(), in.ID, n)
	return &operatorOut{o}, err
}

func (a *api) deleteRole(ctx context.Context, c *door.Call, in *deleteRoleIn) (*nothingOut, error) {
	return nil, a.Auth.DeleteRole(ctx, &c.Identity, c.By(), in.ID, in.Role, in.Environment)
}

func (a *api) elevate(ctx context.Context, c *door.Call, in *elevateIn) (*elevationOut, error) {
	d, err := time.ParseDuration(in.Body.Duration)
	if err != nil {
		return nil, door.Invalid("body.duration", `must be a span such as "30m", got %q`, door.Clip(in.Body.Duration))
	}
	e, err := a.Auth.RequestElevation(ctx, &c.Identity, c.By(), auth.NewElevation{Role: in.Body.Role, Environment: in.Body.Environment,
		Reason:   in.Body.Reason,
		Duration: d, BreakGlass: in.Body.BreakGlass})
	return &elevationOut{e}, err
}

func (a *api) approveElevation(ctx context.Context, c *door.Call, in *decideElevationIn) (*elevationOut, error) {
	return a.decideElevation(ctx, c, in, true)
}

func (a *api) denyElevation(ctx context.Context, c *door.Call, in *decideElevationIn) (*elevationOut, error) {
	return a.decideElevation(ctx, c, in, false)
}

func (a *api) decideElevation(ctx context.Context, c *door.Call, in *decideElevationIn, approve bool) (*elevationOut, error) {
	e, err := a.Auth.DecideElevation(ctx, &c.Identity, c.By(), in.ID, approve, in.Body.Note)
	return &elevationOut{e}, err
}

func (a *api) reviewElevation(ctx context.Context, c *door.Call, in *reviewElevationIn) (*elevationOut, error) {
	e, err := a.Auth.ReviewElevation(ctx, &c.Identity, c.By(), in.ID, in.Body.Outcome, in.Body.Note)
	return &elevationOut{e}, err
}

func (a *api) listElevations(ctx context.Context, c *door.Call, in *listElevationsIn) (*door.ListOut[usher.Elevation], error) {
	all, err := a.Auth.Elevations(ctx, &c.Identity, in.Review == usher.ReviewPending)
	if err != nil {
		return nil, err
	}
	return door.Page(all, func(e usher.Elevation) string { return e.ID }, &door.PageIn{Limit: in.Limit, Cursor: in.Cursor})
}
