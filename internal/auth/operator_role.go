package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// held returns the permissions that roles give in an environment, without the
// roles that end before until; with the zero until, of permanent roles only.
func held(roles []usher.OperatorRole, env usher.Environment, until time.Time) (s permSet) {
	for i := range roles {
		r := &roles[i]
		if r.Until != nil && (until.IsZero() || r.Until.Before(until)) {
			continue
		}
		var set permSet
		if r.Environment == "" || r.Environment == env {
			set = gives(r.Role, env)
		}
		if r.Environment == "" || r.Environment == usher.Production {
			set |= gives(r.Role, usher.Production) & ofInstallation
		}
		if r.Source == usher.SourceBreakGlass {
			set &^= handsOn
		}
		s |= set
	}
	return s
}

// lasting returns the permissions that the caller holds in an environment at
// least until a time (zero: permanently), so that nobody hands a permission on
// for longer than they hold it. What is held in production may be handed on in
// the sandbox too.
func (i *Identity) lasting(env usher.Environment, until time.Time) (s permSet) {
	if i.Actor.Kind == "operator" {
		s = held(i.roles, env, until)
		if env == usher.Sandbox {
			s |= held(i.roles, usher.Production, until)
		}
		return s
	}
	if !i.expires.IsZero() && (until.IsZero() || until.After(i.expires)) {
		return 0
	}
	if i.Env == env || i.Env == usher.Production {
		s = i.perms
	}
	return s
}

// MayGive returns Forbidden unless the caller holds every permission that a role
// gives in an environment ("": both), at least until the given time (nil:
// permanently).
func (i *Identity) MayGive(role string, env usher.Environment, until *time.Time) error {
	if err := i.MayMakeOperators(); err != nil {
		return err
	}
	var end time.Time
	if until != nil {
		end = *until
	}
	for _, e := range usher.Environments {
		if env != "" && env != e {
			continue
		}
		if missing := gives(role, e) &^ i.lasting(e, end); missing != 0 {
			return usher.Errorf(usher.Forbidden, "the role %q gives more in %s than you hold, or for longer: %s", role, e, missing.text())
		}
	}
	return nil
}

// NewRole describes a role to be given to an operator.
type NewRole struct {
	Role        string
	Environment usher.Environment // "" is both
	From        time.Time         // zero: now
	Until       *time.Time        // nil: permanent
	Reason      string
}

func checkRole(role string, env usher.Environment) error {
	var wrong []usher.Problem
	if !slices.Contains(OperatorRoles, role) {
		wrong = append(wrong, usher.Problem{Location: "role", Message: fmt.Sprintf("no role %q: it is one of %s", role,
			strings.Join(OperatorRoles, ", "))})
	}
	if env != "" && !slices.Contains(usher.Environments, env) {
		wrong = append(wrong, usher.Problem{Location: "environment", Message: "must be production or sandbox, or be left out for both"})
	}
	return problems(wrong)
}

// PutRole gives an operator a role. It replaces what PutRole gave of that role in
// that environment before. It returns Forbidden if the caller is that operator or
// does not hold what the role gives, and Refused if the last owner would become a
// temporary one.
func (s *Service) PutRole(ctx context.Context, who *Identity, by usher.By, id string, n NewRole) (usher.Operator, error) {
	if err := checkRole(n.Role, n.Environment); err != nil {
		return usher.Operator{}, err
	}
	if err := checkText("reason", n.Reason, MaxReason, false); err != nil {
		return usher.Operator{}, err
	}
	now := s.now()
	r := usher.OperatorRole{Role: n.Role, Environment: n.Environment, From: cut(n.From), Source: usher.SourceManual,
		GrantedBy: by.Actor.String(), Reason: n.Reason}
	switch {
	case n.From.IsZero():
		r.From = now
	case r.From.Before(now): // a role does not change what was decided in the past (A07)
		return usher.Operator{}, problems([]usher.Problem{{Location: "from", Message: "must not have passed: leave it out for a role that " +
			"holds from now on"}})
	}
	if n.Until != nil {
		t := cut(*n.Until)
		if !t.After(r.From) || !t.After(now) {
			return usher.Operator{}, problems([]usher.Problem{{Location: "until", Message: "must be after from, and not have passed"}})
		}
		r.Until = &t
	}
	if who.Actor.Kind == "operator" && who.Actor.ID == id {
		return usher.Operator{}, usher.Errorf(usher.Forbidden, "operators cannot give roles to themselves: another operator can, or request "+
			"an elevation")
	}
	if err := who.MayGive(r.Role, r.Environment, r.Until); err != nil {
		return usher.Operator{}, err
	}
	o, err := s.c.DB.Operator(ctx, id)
	if err != nil {
		return usher.Operator{}, err
	}
	r.ID = s.id("oas_")
	err = s.c.DB.PutOperatorRole(ctx, o.ID, r, who.inside(now, "", func(i *Identity, _ usher.Operator) error {
		return i.MayGive(r.Role, r.Environment, r.Until)
	}), by, now)
	s.operators.forget(id)
	if err != nil {
		return usher.Operator{}, err
	}
	return s.c.DB.Operator(ctx, id)
}

// DeleteRole takes a role in an environment ("": both) from an operator, from
// whatever source it came. It returns Forbidden if the role gives what the caller
// does not hold, and Refused for the last owner's role.
func (s *Service) DeleteRole(ctx context.Context, who *Identity, by usher.By, id, role string, env usher.Environment) error {
	if err := checkRole(role, env); err != nil {
		return err
	}
	now := s.now()
	if err := who.MayGive(role, env, &now); err != nil {
		return err
	}
	err := s.c.DB.DeleteOperatorRole(ctx, id, role, env, who.inside(now, "", func(i *Identity, _ usher.Operator) error {
		return i.MayGive(role, env, &now)
	}), by, now)
	s.operators.forget(id)
	return err
}
