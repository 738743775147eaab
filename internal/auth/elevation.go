package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/usher-sh/usher"
)

// Bounds of an elevation.
const (
	MaxElevation  = 8 * time.Hour
	MaxBreakGlass = time.Hour
	minElevation  = time.Minute
	requestFor    = 24 * time.Hour // older requests cannot be approved
)

// NewElevation asks for a role for a limited time.
type NewElevation struct {
	Role        string
	Environment usher.Environment // "": both
	Reason      string
	Duration    time.Duration // whole seconds, at most MaxElevation; in an emergency MaxBreakGlass
	BreakGlass  bool          // an emergency: the role holds at once, and another operator reviews it afterwards
}

// RequestElevation asks for a role for the caller, an operator. In an emergency
// it gives the role at once, without the permissions that give rights to others.
// It returns Refused for a key, and while the caller's last emergency waits for
// its review.
func (s *Service) RequestElevation(ctx context.Context, who *Identity, by usher.By, n NewElevation) (e usher.Elevation, err error) {
	if err := onlyOperators(who); err != nil {
		return e, err
	}
	if err := checkRole(n.Role, n.Environment); err != nil {
		return e, err
	}
	if err := checkText("reason", n.Reason, MaxReason, true); err != nil {
		return e, err
	}
	longest := MaxElevation
	if n.BreakGlass {
		longest = MaxBreakGlass
	}
	if n.Duration < minElevation || n.Duration > longest || n.Duration%time.Second != 0 {
		return e, problems([]usher.Problem{{Location: "duration", Message: fmt.Sprintf(`must be from %s to %s, such as "30m"`,
			span(minElevation), span(longest))}})
	}
	now := s.now()
	e = usher.Elevation{Operator: who.Actor.ID, Role: n.Role, Environment: n.Environment, Reason: n.Reason,
		Seconds:    int64(n.Duration / time.Second),
		BreakGlass: n.BreakGlass, State: usher.ElevationRequested, RequestedAt: now}
	e.ID = s.id("elv_")
	var role *usher.OperatorRole
	if n.BreakGlass {
		e.State, e.DecidedAt, e.Review = usher.ElevationApproved, &now, usher.ReviewPending
		role = s.elevated(e, now, usher.SourceBreakGlass, by.Actor.String())
		e.Until = role.Until
	}
	if err := s.c.DB.RequestElevation(ctx, e, role, by, now); err != nil {
		return usher.Elevation{}, err
	}
	if n.BreakGlass {
		s.operators.forget(who.Actor.ID)
		s.c.Log.Warn("BREAK GLASS: an operator took a role without approval; another operator must review it", "elevation", e.ID, "operator",
			e.Operator,
			"role", e.Role, "environment", string(e.Environment), "until", e.Until.Format(time.RFC3339), "request_id", by.RequestID)
	}
	return e, nil
}

func onlyOperators(who *Identity) error {
	if who.Actor.Kind != "operator" {
		return usher.Errorf(usher.Refused, "only an operator can do this: a key may be used by anyone, even by the operator who asked")
	}
	return nil
}

func (s *Service) elevated(e usher.Elevation, now time.Time, source usher.Source, by string) *usher.OperatorRole {
	until := now.Add(time.Duration(e.Seconds) * time.Second)
	return &usher.OperatorRole{ID: s.id("oas_"), Role: e.Role, Environment: e.Environment, From: now, Until: &until, Source: source,
		GrantedBy: by, Reason: e.Reason}
}

// DecideElevation approves or denies a request. It returns Forbidden if the
// caller is the operator who asked or, to approve, does not hold what the role
// gives for as long; and Conflict if the request is decided.
func (s *Service) DecideElevation(ctx context.Context, who *Identity, by usher.By, id string, approve bool,
	note string) (e usher.Elevation, err error) {
	if e, err = s.othersElevation(ctx, who, id, note, false); err != nil {
		return usher.Elevation{}, err
	}
	now := s.now()
	var role *usher.OperatorRole
	if approve {
		role = s.elevated(e, now, usher.SourceRequest, by.Actor.String())
		if err := who.MayGive(e.Role, e.Environment, role.Until); err != nil {
			return usher.Elevation{}, err
		}
	}
	err = s.c.DB.DecideElevation(ctx, id, note, now.Add(-requestFor), role, by, now)
	s.operators.forget(e.Operator)
	if err != nil {
		return usher.Elevation{}, err
	}
	return s.c.DB.Elevation(ctx, id)
}

// othersElevation reads an elevation of another operator than the caller.
func (s *Service) othersElevation(ctx context.Context, who *Identity, id, note string, needed bool) (usher.Elevation, error) {
	if err := onlyOperators(who); err != nil {
		return usher.Elevation{}, err
	}
	if err := checkText("note", note, MaxReason, needed); err != nil {
		return usher.Elevation{}, err
	}
	e, err := s.c.DB.Elevation(ctx, id)
	if err == nil && e.Operator == who.Actor.ID {
		err = usher.Errorf(usher.Forbidden, "operators cannot decide on their own requests: another operator must")
	}
	return e, err
}

// ReviewElevation records the outcome of the review of an emergency. It returns
// Forbidden if the caller is the operator who took the role, and Conflict if no
// review is due.
func (s *Service) ReviewElevation(ctx context.Context, who *Identity, by usher.By, id, outcome, note string) (usher.Elevation, error) {
	if outcome != usher.ReviewJustified && outcome != usher.ReviewUnjustified {
		return usher.Elevation{}, problems([]usher.Problem{{Location: "outcome", Message: "must be justified or unjustified"}})
	}
	if _, err := s.othersElevation(ctx, who, id, note, true); err != nil {
		return usher.Elevation{}, err
	}
	if err := s.c.DB.ReviewElevation(ctx, id, outcome, note, by, s.now()); err != nil {
		return usher.Elevation{}, err
	}
	return s.c.DB.Elevation(ctx, id)
}

// Elevations lists elevations, newest first: all if the caller may read
// operators, else the caller's own. With pending it lists only emergencies whose
// review is due.
func (s *Service) Elevations(ctx context.Context, who *Identity, pending bool) ([]usher.Elevation, error) {
	var of string
	if !who.Allows(PermOperatorsRead) {
		if who.Actor.Kind != "operator" {
			return nil, nil
		}
		of = who.Actor.ID
	}
	return s.c.DB.Elevations(ctx, of, pending)
}
