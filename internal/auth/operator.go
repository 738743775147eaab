package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// Operator is one of us who works with usher.
type Operator = store.Operator

// NewOperator is what is said about an operator who is made.
type NewOperator struct {
	Name  string // "" is none
	Email string // "" is none
	// Subject is who the operator is at an identity provider, and comes in as; the
	// zero Subject is nobody. An empty Issuer is the configured one.
	Subject Subject
}

// Subject is somebody at an identity provider.
type Subject = store.Subject

// errOperator says the same for an operator who is not there and one who is not
// active.
var errOperator = usher.Errorf(usher.Unauthenticated, "no active operator: an owner can make one")

// OperatorIdentity is who an operator is in an environment at now, with what
// its roles in force give it. Unauthenticated where there is no such operator
// or it is not active. What is known is at most a second old.
func (s *Service) OperatorIdentity(ctx context.Context, operatorID string, env usher.Environment, now time.Time) (Identity, error) {
	if !slices.Contains(usher.Environments, env) {
		return Identity{}, usher.Errorf(usher.Invalid, "no environment %q: it is production or sandbox", env)
	}
	st, err := s.operators.look(ctx, s.operators.entry(operatorID), operatorID, s.c.Now())
	if err != nil {
		return Identity{}, err
	}
	if !st.found || !st.value.Active {
		return Identity{}, errOperator
	}
	return identityOfOperator(st.value, env, now), nil
}

// identityOfOperator is who an active operator is.
func identityOfOperator(o Operator, env usher.Environment, now time.Time) Identity {
	i := Identity{Env: env, Actor: usher.Actor{Kind: "operator", ID: o.ID}, Properties: true}
	for _, r := range o.Roles {
		if r.InForce(now) {
			i.roles = append(i.roles, r)
		}
	}
	i.perms = held(i.roles, env, time.Unix(0, 0))
	return i
}

// held is what roles in force give in an environment, those apart that end
// before until; the zero until is for good.
func held(roles []store.OperatorRole, env usher.Environment, until time.Time) (s permSet) {
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

// lasting is what the caller may do in an environment at least until a time, so
// that nothing that is held for a while is handed on for longer. The zero time
// is for good. What is held in production may be handed on for the sandbox too.
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
// gives in an environment ("" is both), and does so until a time; nil is for
// good.
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

// MayMakeOperators returns Forbidden where the caller is a key of one customer:
// operators are for all of them.
func (i *Identity) MayMakeOperators() error {
	if i.Customer != "" {
		return usher.Errorf(usher.Forbidden, "your key is of the customer %q: operators, who work for all customers, are changed with a key that has none", i.Customer)
	}
	return nil
}

// inside checks once more, within the change's own transaction, that the caller
// may still do it: who called, if an operator, and whom it is about may have
// changed meanwhile. about is "" where only the caller counts.
func (i *Identity) inside(now time.Time, about string, check func(i *Identity, o Operator) error) store.May {
	return func(read func(id string) (Operator, error)) error {
		me := *i
		if i.Actor.Kind == "operator" {
			o, err := read(i.Actor.ID)
			if usher.ErrorCode(err) == usher.NotFound || err == nil && !o.Active {
				return errOperator
			}
			if err != nil {
				return err
			}
			if me = identityOfOperator(o, i.Env, now); !me.Allows(PermOperatorsWrite) && i.Allows(PermOperatorsWrite) {
				return usher.Errorf(usher.Forbidden, "you may not change operators any more: %s was taken from you meanwhile", PermOperatorsWrite)
			}
		}
		var o Operator
		if about != "" {
			var err error
			if o, err = read(about); err != nil {
				return err
			}
		}
		return check(&me, o)
	}
}

// mayTouch returns Forbidden unless the caller holds now what all roles of an
// operator give, past ones apart: nobody changes those who may do more.
func (i *Identity) mayTouch(o Operator, now time.Time) error {
	if err := i.MayMakeOperators(); err != nil {
		return err
	}
	for _, r := range o.Roles {
		if r.Until != nil && !now.Before(*r.Until) {
			continue
		}
		at := now
		if err := i.MayGive(r.Role, r.Environment, &at); err != nil {
			return usher.Errorf(usher.Forbidden, "the operator %q may do more than you: another one changes it", o.ID)
		}
	}
	return nil
}

func (s *Service) id(prefix string) string { return usher.NewID(prefix, s.c.Now(), s.c.Random) }

func (s *Service) random(n int) ([]byte, error) {
	r := s.c.Random
	if r == nil {
		r = rand.Reader
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

const (
	maxName  = 255
	maxEmail = 254 // RFC 5321, 4.5.3.1.3
	// maxSubject bounds who somebody is at a provider, in bytes (OpenID Connect
	// Core 1.0, 2).
	maxSubject = 255
	// MaxReason bounds reasons and notes, in bytes.
	MaxReason = 1000
)

// email is an address as it is stored: lower case, so that one person is one
// operator.
func email(s string) (string, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	name, host, ok := strings.Cut(s, "@")
	if s != "" && (!ok || name == "" || host == "" || len(s) > maxEmail || strings.ContainsAny(s, " \t\r\n<>,;") || strings.Contains(host, "@")) {
		return "", problems([]usher.Problem{{Location: "email", Message: "must be an address such as ada@example.com"}})
	}
	if s != "" {
		if err := usher.CheckID("email", s); err != nil {
			return "", err
		}
	}
	return s, nil
}

func checkText(location, s string, limit int, needed bool) error {
	var why string
	switch {
	case s == "" && needed:
		why = "must be there"
	case s == "":
		return nil
	case len(s) > limit:
		why = fmt.Sprintf("must be at most %d bytes, this is %d", limit, len(s))
	case usher.CheckID(location, s) != nil && limit <= maxName, strings.ContainsRune(s, 0), !validText(s):
		why = "must be text without control characters"
	default:
		return nil
	}
	return problems([]usher.Problem{{Location: location, Message: why}})
}

func validText(s string) bool {
	for _, r := range s {
		if r == 0xFFFD || r < 0x20 && r != '\n' && r != '\t' {
			return false
		}
	}
	return true
}

// CreateOperator makes an operator, who has no role yet. Conflict where another
// has the address, or is who is named at the identity provider.
func (s *Service) CreateOperator(ctx context.Context, by usher.By, n NewOperator) (Operator, error) {
	o, err := s.newOperator(n)
	if err != nil {
		return Operator{}, err
	}
	if n.Subject != (Subject{}) {
		if n.Subject, err = s.subject(n.Subject, false); err != nil {
			return Operator{}, err
		}
		o.Linked = true
	}
	if err := s.c.DB.CreateOperator(ctx, o, n.Subject, by, o.CreatedAt); err != nil {
		return Operator{}, err
	}
	return o, nil
}

// subject is as with the configured issuer where it names none. An empty subject
// is taken where none says so.
func (s *Service) subject(as Subject, none bool) (Subject, error) {
	var wrong []usher.Problem
	if as.Issuer == "" {
		if as.Issuer = s.c.OIDC.Issuer; as.Issuer == "" {
			wrong = append(wrong, usher.Problem{Location: "issuer", Message: "must be there: no identity provider is set up whose it could be"})
		}
	} else if !issuerAddress(as.Issuer) {
		wrong = append(wrong, usher.Problem{Location: "issuer", Message: "must be the provider's issuer, an https address, such as https://login.example.com"})
	}
	switch {
	case as.Subject == "" && none:
	case as.Subject == "":
		wrong = append(wrong, usher.Problem{Location: "subject", Message: "must be there: what the provider puts into sub"})
	case len(as.Subject) > maxSubject || usher.CheckID("subject", as.Subject) != nil:
		wrong = append(wrong, usher.Problem{Location: "subject", Message: fmt.Sprintf("must be what the provider puts into sub: at most %d bytes, without control characters", maxSubject)})
	}
	return as, problems(wrong)
}

func (s *Service) newOperator(n NewOperator) (o Operator, err error) {
	if err := checkText("name", n.Name, maxName, false); err != nil {
		return o, err
	}
	o = Operator{Name: n.Name, Active: true, CreatedAt: s.now(), Roles: []store.OperatorRole{}}
	if o.Email, err = email(n.Email); err != nil {
		return o, err
	}
	o.ID = s.id("opr_")
	return o, nil
}

// Operators lists all operators, oldest first.
func (s *Service) Operators(ctx context.Context) ([]Operator, error) { return s.c.DB.Operators(ctx) }

// Operator reads an operator; NotFound where there is none.
func (s *Service) Operator(ctx context.Context, id string) (Operator, error) {
	return s.c.DB.Operator(ctx, id)
}

// UpdateOperator changes an operator. Forbidden where it may do more than the
// caller; Conflict as CreateOperator; Refused where it is the last owner and would
// not be active.
func (s *Service) UpdateOperator(ctx context.Context, who *Identity, by usher.By, id string, u store.OperatorUpdate) (Operator, error) {
	o, err := s.c.DB.Operator(ctx, id)
	if err != nil {
		return Operator{}, err
	}
	now := s.now()
	if err := who.mayTouch(o, now); err != nil {
		return Operator{}, err
	}
	if u.Name != nil {
		if err := checkText("name", *u.Name, maxName, false); err != nil {
			return Operator{}, err
		}
	}
	if u.Email != nil {
		e, err := email(*u.Email)
		if err != nil {
			return Operator{}, err
		}
		u.Email = &e
	}
	if u.Subject != nil {
		as, err := s.subject(*u.Subject, true)
		if err != nil {
			return Operator{}, err
		}
		u.Subject = &as
	}
	err = s.c.DB.UpdateOperator(ctx, id, u, who.inside(now, id, func(i *Identity, o Operator) error { return i.mayTouch(o, now) }), by, now)
	s.operators.forget(id)
	if err != nil {
		return Operator{}, err
	}
	return s.c.DB.Operator(ctx, id)
}

// DeleteOperator erases an operator. Forbidden where it may do more than the
// caller; Refused where it is the last owner.
func (s *Service) DeleteOperator(ctx context.Context, who *Identity, by usher.By, id string) error {
	o, err := s.c.DB.Operator(ctx, id)
	if err != nil {
		return err
	}
	now := s.now()
	if err := who.mayTouch(o, now); err != nil {
		return err
	}
	err = s.c.DB.DeleteOperator(ctx, id, who.inside(now, id, func(i *Identity, o Operator) error { return i.mayTouch(o, now) }), by, now)
	s.operators.forget(id)
	return err
}

// NewRole is what is said about a role that an operator is given.
type NewRole struct {
	Role        string
	Environment usher.Environment // "" is both
	From        time.Time         // zero is now
	Until       *time.Time        // nil is for good
	Reason      string
}

func checkRole(role string, env usher.Environment) error {
	var wrong []usher.Problem
	if !slices.Contains(OperatorRoles, role) {
		wrong = append(wrong, usher.Problem{Location: "role", Message: fmt.Sprintf("no role %q: it is one of %s", role, strings.Join(OperatorRoles, ", "))})
	}
	if env != "" && !slices.Contains(usher.Environments, env) {
		wrong = append(wrong, usher.Problem{Location: "environment", Message: "is production or sandbox; left out, it is both"})
	}
	return problems(wrong)
}

// PutRole gives an operator a role, in place of what it was given of that role
// in that environment. Nobody gives to themselves, nor what they do not hold:
// Forbidden. Refused where the last owner would be one until a date.
func (s *Service) PutRole(ctx context.Context, who *Identity, by usher.By, id string, n NewRole) (Operator, error) {
	if err := checkRole(n.Role, n.Environment); err != nil {
		return Operator{}, err
	}
	if err := checkText("reason", n.Reason, MaxReason, false); err != nil {
		return Operator{}, err
	}
	now := s.now()
	r := store.OperatorRole{Role: n.Role, Environment: n.Environment, From: cut(n.From), Source: usher.SourceManual, GrantedBy: by.Actor.String(), Reason: n.Reason}
	switch {
	case n.From.IsZero():
		r.From = now
	case r.From.Before(now): // what was done meanwhile was done without it (A07)
		return Operator{}, problems([]usher.Problem{{Location: "from", Message: "must not have passed: leave it out for a role that holds from now on"}})
	}
	if n.Until != nil {
		t := cut(*n.Until)
		if !t.After(r.From) || !t.After(now) {
			return Operator{}, problems([]usher.Problem{{Location: "until", Message: "must be after from, and not have passed"}})
		}
		r.Until = &t
	}
	if who.Actor.Kind == "operator" && who.Actor.ID == id {
		return Operator{}, usher.Errorf(usher.Forbidden, "operators cannot give roles to themselves: another operator can, or request an elevation")
	}
	if err := who.MayGive(r.Role, r.Environment, r.Until); err != nil {
		return Operator{}, err
	}
	o, err := s.c.DB.Operator(ctx, id)
	if err != nil {
		return Operator{}, err
	}
	r.ID = s.id("oas_")
	err = s.c.DB.PutOperatorRole(ctx, o.ID, r, who.inside(now, "", func(i *Identity, _ Operator) error { return i.MayGive(r.Role, r.Environment, r.Until) }), by, now)
	s.operators.forget(id)
	if err != nil {
		return Operator{}, err
	}
	return s.c.DB.Operator(ctx, id)
}

// DeleteRole takes a role in an environment ("" is both) from an operator,
// whatever gave it. Forbidden where it gives what the caller does not hold;
// Refused where it is the last owner's.
func (s *Service) DeleteRole(ctx context.Context, who *Identity, by usher.By, id, role string, env usher.Environment) error {
	if err := checkRole(role, env); err != nil {
		return err
	}
	now := s.now()
	if err := who.MayGive(role, env, &now); err != nil {
		return err
	}
	err := s.c.DB.DeleteOperatorRole(ctx, id, role, env, who.inside(now, "", func(i *Identity, _ Operator) error { return i.MayGive(role, env, &now) }), by, now)
	s.operators.forget(id)
	return err
}

// A token for the first owner is "uso_<secret><checksum>", 256 random bits.
const tokenPrefix = "uso_"

// TokenFor is how long a token for an owner can be used.
const TokenFor = 24 * time.Hour

// OwnerToken makes a one-time token that makes its holder an owner. This is the
// only time that it is seen. Whoever may open the database may make one.
func (s *Service) OwnerToken(ctx context.Context, by usher.By) (token string, expires time.Time, err error) {
	raw, err := s.random(secretBytes)
	if err != nil {
		return "", expires, err
	}
	token = tokenPrefix + text32.EncodeToString(raw)
	token += string(checksum(nil, token))
	now := s.now()
	expires = now.Add(TokenFor)
	h := sha256.Sum256([]byte(token))
	return token, expires, s.c.DB.AddOwnerToken(ctx, h[:], expires, by, now)
}

// RedeemOwnerToken makes an operator who is an owner from now on, for the
// holder of a one-time token, which is then used up. Unauthenticated where the
// token is unknown, used or expired: which of these is not said.
func (s *Service) RedeemOwnerToken(ctx context.Context, token string, op NewOperator) (Operator, error) {
	o, err := s.newOperator(op)
	if err != nil {
		return Operator{}, err
	}
	r := store.OperatorRole{Role: RoleOwner, From: o.CreatedAt, Source: usher.SourceManual, GrantedBy: "system", Reason: "the holder of an owner token"}
	r.ID = s.id("oas_")
	h := sha256.Sum256([]byte(token))
	if err := s.c.DB.RedeemOwnerToken(ctx, h[:], o, r, usher.By{Actor: usher.Actor{Kind: "operator", ID: o.ID}}, o.CreatedAt); err != nil {
		return Operator{}, err
	}
	s.operators.forget(o.ID)
	o.Roles = []store.OperatorRole{r}
	return o, nil
}

// How long roles are given for a while.
const (
	MaxElevation  = 8 * time.Hour
	MaxBreakGlass = time.Hour
	minElevation  = time.Minute
	requestFor    = 24 * time.Hour // a request that nobody has decided by then is made again
)

// NewElevation asks for a role for a while.
type NewElevation struct {
	Role        string
	Environment usher.Environment // "" is both
	Reason      string
	Duration    time.Duration // whole seconds, at most MaxElevation; in an emergency MaxBreakGlass
	BreakGlass  bool          // an emergency: it holds at once, and is reviewed afterwards
}

// RequestElevation asks for a role for the caller, an operator; in an emergency
// it gives it at once, what hands out rights apart. Refused for a key, and where
// the caller's last emergency waits for its review.
func (s *Service) RequestElevation(ctx context.Context, who *Identity, by usher.By, n NewElevation) (e store.Elevation, err error) {
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
		return e, problems([]usher.Problem{{Location: "duration", Message: fmt.Sprintf(`must be from %s to %s, such as "30m"`, span(minElevation), span(longest))}})
	}
	now := s.now()
	e = store.Elevation{Operator: who.Actor.ID, Role: n.Role, Environment: n.Environment, Reason: n.Reason, Seconds: int64(n.Duration / time.Second),
		BreakGlass: n.BreakGlass, State: store.ElevationRequested, RequestedAt: now}
	e.ID = s.id("elv_")
	var role *store.OperatorRole
	if n.BreakGlass {
		e.State, e.DecidedAt, e.Review = store.ElevationApproved, &now, store.ReviewPending
		role = s.elevated(e, now, usher.SourceBreakGlass, by.Actor.String())
		e.Until = role.Until
	}
	if err := s.c.DB.RequestElevation(ctx, e, role, by, now); err != nil {
		return store.Elevation{}, err
	}
	if n.BreakGlass {
		s.operators.forget(who.Actor.ID)
		s.c.Log.Warn("BREAK GLASS: an operator took a role without approval; another operator must review it", "elevation", e.ID, "operator", e.Operator,
			"role", e.Role, "environment", string(e.Environment), "until", e.Until.Format(time.RFC3339), "request_id", by.RequestID)
	}
	return e, nil
}

func onlyOperators(who *Identity) error {
	if who.Actor.Kind != "operator" {
		return usher.Errorf(usher.Refused, "only an operator can do this: behind a key there may be anybody, also who asked")
	}
	return nil
}

func (s *Service) elevated(e store.Elevation, now time.Time, source usher.Source, by string) *store.OperatorRole {
	until := now.Add(time.Duration(e.Seconds) * time.Second)
	return &store.OperatorRole{ID: s.id("oas_"), Role: e.Role, Environment: e.Environment, From: now, Until: &until, Source: source,
		GrantedBy: by, Reason: e.Reason}
}

// DecideElevation approves a request or denies it. The caller is another
// operator than who asked, and to approve holds what the role gives for as long:
// Forbidden else. Conflict where it is decided already.
func (s *Service) DecideElevation(ctx context.Context, who *Identity, by usher.By, id string, approve bool, note string) (e store.Elevation, err error) {
	if e, err = s.othersElevation(ctx, who, id, note, false); err != nil {
		return store.Elevation{}, err
	}
	now := s.now()
	var role *store.OperatorRole
	if approve {
		role = s.elevated(e, now, usher.SourceRequest, by.Actor.String())
		if err := who.MayGive(e.Role, e.Environment, role.Until); err != nil {
			return store.Elevation{}, err
		}
	}
	err = s.c.DB.DecideElevation(ctx, id, note, now.Add(-requestFor), role, by, now)
	s.operators.forget(e.Operator)
	if err != nil {
		return store.Elevation{}, err
	}
	return s.c.DB.Elevation(ctx, id)
}

// othersElevation reads an elevation that the caller, an operator, may judge.
func (s *Service) othersElevation(ctx context.Context, who *Identity, id, note string, needed bool) (store.Elevation, error) {
	if err := onlyOperators(who); err != nil {
		return store.Elevation{}, err
	}
	if err := checkText("note", note, MaxReason, needed); err != nil {
		return store.Elevation{}, err
	}
	e, err := s.c.DB.Elevation(ctx, id)
	if err == nil && e.Operator == who.Actor.ID {
		err = usher.Errorf(usher.Forbidden, "nobody judges their own request: another operator does")
	}
	return e, err
}

// The outcomes of a review.
const (
	ReviewJustified   = "justified"
	ReviewUnjustified = "unjustified"
)

// ReviewElevation ends the review of an emergency. The caller is another
// operator than who took the role: Forbidden else. Conflict where none is due.
func (s *Service) ReviewElevation(ctx context.Context, who *Identity, by usher.By, id, outcome, note string) (store.Elevation, error) {
	if outcome != ReviewJustified && outcome != ReviewUnjustified {
		return store.Elevation{}, problems([]usher.Problem{{Location: "outcome", Message: "is justified or unjustified"}})
	}
	if _, err := s.othersElevation(ctx, who, id, note, true); err != nil {
		return store.Elevation{}, err
	}
	if err := s.c.DB.ReviewElevation(ctx, id, outcome, note, by, s.now()); err != nil {
		return store.Elevation{}, err
	}
	return s.c.DB.Elevation(ctx, id)
}

// Elevations lists elevations, the newest first: all where the caller may read
// operators, else its own. pending leaves only those whose review is due.
func (s *Service) Elevations(ctx context.Context, who *Identity, pending bool) ([]store.Elevation, error) {
	var of string
	if !who.Allows(PermOperatorsRead) {
		if who.Actor.Kind != "operator" {
			return nil, nil
		}
		of = who.Actor.ID
	}
	return s.c.DB.Elevations(ctx, of, pending)
}
