package auth

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// NewOperator is what is said about an operator who is made.
type NewOperator struct {
	Name  string // "" is none
	Email string // "" is none
	// Subject is who the operator is at an identity provider, and comes in as; the
	// zero Subject is nobody. An empty Issuer is the configured one.
	Subject usher.SSOSubject
}

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
func identityOfOperator(o usher.Operator, env usher.Environment, now time.Time) Identity {
	i := Identity{Env: env, Actor: usher.Actor{Kind: "operator", ID: o.ID}, Properties: true}
	for _, r := range o.Roles {
		if r.InForce(now) {
			i.roles = append(i.roles, r)
		}
	}
	i.perms = held(i.roles, env, time.Unix(0, 0))
	return i
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
func (i *Identity) inside(now time.Time, about string, check func(i *Identity, o usher.Operator) error) store.May {
	return func(read func(id string) (usher.Operator, error)) error {
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
		var o usher.Operator
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
func (i *Identity) mayTouch(o usher.Operator, now time.Time) error {
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
func (s *Service) CreateOperator(ctx context.Context, by usher.By, n NewOperator) (usher.Operator, error) {
	o, err := s.newOperator(n)
	if err != nil {
		return usher.Operator{}, err
	}
	if n.Subject != (usher.SSOSubject{}) {
		if n.Subject, err = s.subject(n.Subject); err != nil {
			return usher.Operator{}, err
		}
		o.Linked = true
	}
	if err := s.c.DB.CreateOperator(ctx, o, n.Subject, by, o.CreatedAt); err != nil {
		return usher.Operator{}, err
	}
	return o, nil
}

// subject returns as with the configured issuer if it names none, once it is valid.
func (s *Service) subject(as usher.SSOSubject) (usher.SSOSubject, error) {
	var wrong []usher.Problem
	if as.Issuer == "" {
		if as.Issuer = s.c.OIDC.Issuer; as.Issuer == "" {
			wrong = append(wrong, usher.Problem{Location: "issuer", Message: "must be there: no identity provider is set up whose it could be"})
		}
	} else if !issuerAddress(as.Issuer) {
		wrong = append(wrong, usher.Problem{Location: "issuer", Message: "must be the provider's issuer, an https address, such as https://login.example.com"})
	}
	switch {
	case as.Subject == "":
		wrong = append(wrong, usher.Problem{Location: "subject", Message: "must be there: what the provider puts into sub"})
	case len(as.Subject) > maxSubject || usher.CheckID("subject", as.Subject) != nil:
		wrong = append(wrong, usher.Problem{Location: "subject", Message: fmt.Sprintf("must be what the provider puts into sub: at most %d bytes, without control characters", maxSubject)})
	}
	return as, problems(wrong)
}

func (s *Service) newOperator(n NewOperator) (o usher.Operator, err error) {
	if err := checkText("name", n.Name, maxName, false); err != nil {
		return o, err
	}
	o = usher.Operator{Name: n.Name, Active: true, CreatedAt: s.now(), Roles: []usher.OperatorRole{}}
	if o.Email, err = email(n.Email); err != nil {
		return o, err
	}
	o.ID = s.id("opr_")
	return o, nil
}

// Operators lists all operators, oldest first.
func (s *Service) Operators(ctx context.Context) ([]usher.Operator, error) {
	return s.c.DB.Operators(ctx)
}

// Operator reads an operator; NotFound where there is none.
func (s *Service) Operator(ctx context.Context, id string) (usher.Operator, error) {
	return s.c.DB.Operator(ctx, id)
}

// UpdateOperator changes an operator. Forbidden where it may do more than the
// caller; Conflict as CreateOperator; Refused where it is the last owner and would
// not be active.
func (s *Service) UpdateOperator(ctx context.Context, who *Identity, by usher.By, id string, u usher.OperatorUpdate) (usher.Operator, error) {
	o, err := s.c.DB.Operator(ctx, id)
	if err != nil {
		return usher.Operator{}, err
	}
	now := s.now()
	if err := who.mayTouch(o, now); err != nil {
		return usher.Operator{}, err
	}
	if u.Name != nil {
		if err := checkText("name", *u.Name, maxName, false); err != nil {
			return usher.Operator{}, err
		}
	}
	if u.Email != nil {
		e, err := email(*u.Email)
		if err != nil {
			return usher.Operator{}, err
		}
		u.Email = &e
	}
	if u.Subject != nil && *u.Subject != (usher.SSOSubject{}) {
		as, err := s.subject(*u.Subject)
		if err != nil {
			return usher.Operator{}, err
		}
		u.Subject = &as
	}
	err = s.c.DB.UpdateOperator(ctx, id, u, who.inside(now, id, func(i *Identity, o usher.Operator) error { return i.mayTouch(o, now) }), by, now)
	s.operators.forget(id)
	if err != nil {
		return usher.Operator{}, err
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
	err = s.c.DB.DeleteOperator(ctx, id, who.inside(now, id, func(i *Identity, o usher.Operator) error { return i.mayTouch(o, now) }), by, now)
	s.operators.forget(id)
	return err
}
