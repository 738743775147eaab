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

// NewOperator describes an operator to be made.
type NewOperator struct {
	Name  string // "": none
	Email string // "": none
	// Subject is the account at an identity provider with which the operator logs in;
	// zero: none. An empty Issuer is the configured provider's.
	Subject usher.SSOSubject
}

// errOperator is the same for an unknown operator and for one who is not active.
var errOperator = usher.Errorf(usher.Unauthenticated, "no active operator: an owner can make one")

// OperatorIdentity returns an operator's identity in an environment, with the
// permissions of the roles in force at now. It returns Unauthenticated if there
// is no such operator or the operator is not active. The answer may be a second
// old.
func (s *Service) OperatorIdentity(ctx context.Context, operatorID string, env usher.Environment, now time.Time) (Identity, error) {
	if !slices.Contains(usher.Environments, env) {
		return Identity{}, usher.Errorf(usher.Invalid, "unknown environment %q: it must be production or sandbox", env)
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

// identityOfOperator returns the identity of an active operator.
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

// MayMakeOperators returns Forbidden if the caller is a key that belongs to a
// customer: operators work for all customers.
func (i *Identity) MayMakeOperators() error {
	if i.Customer != "" {
		return usher.Errorf(usher.Forbidden, "your key belongs to the customer %q, and operators work for all customers: use a key that "+
			"belongs to no customer", i.Customer)
	}
	return nil
}

// inside repeats a check within the transaction of the change, because the
// calling operator, or the operator that the change is about, may have changed
// since the call was let in. about is that operator's id; "": only the caller
// counts.
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

// mayTouch returns Forbidden unless the caller holds all permissions of an
// operator's present and future roles: nobody changes an operator who may do
// more.
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
			return usher.Errorf(usher.Forbidden, "the operator %q may do more than you: only an operator with at least the same rights "+
				"can change it", o.ID)
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
	// maxSubject bounds a person's id at a provider, in bytes (OpenID Connect Core
	// 1.0, 2).
	maxSubject = 255
	// MaxReason bounds reasons and notes, in bytes.
	MaxReason = 1000
)

// email returns an address as it is stored, in lower case, so that one person is
// one operator.
func email(s string) (string, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	name, host, ok := strings.Cut(s, "@")
	if s != "" && (!ok || name == "" || host == "" || len(s) > maxEmail || strings.ContainsAny(s, " \t\r\n<>,;") ||
		strings.Contains(host, "@")) {
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

// CreateOperator makes an operator without roles. It returns Conflict if another
// operator has the address or the account at the identity provider.
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
			wrong = append(wrong, usher.Problem{Location: "issuer", Message: "is required: no identity provider is configured"})
		}
	} else if !issuerAddress(as.Issuer) {
		wrong = append(wrong, usher.Problem{Location: "issuer", Message: "must be the provider's issuer, an https address, such as " +
			"https://login.example.com"})
	}
	switch {
	case as.Subject == "":
		wrong = append(wrong, usher.Problem{Location: "subject", Message: "is required: the id of the person at the provider, its sub"})
	case len(as.Subject) > maxSubject || usher.CheckID("subject", as.Subject) != nil:
		wrong = append(wrong, usher.Problem{Location: "subject", Message: fmt.Sprintf("must be what the provider puts into sub: at most %d "+
			"bytes, without control characters", maxSubject)})
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

// Operator reads an operator; NotFound if there is none.
func (s *Service) Operator(ctx context.Context, id string) (usher.Operator, error) {
	return s.c.DB.Operator(ctx, id)
}

// UpdateOperator changes an operator. It returns Forbidden if the operator may do
// more than the caller, Conflict as CreateOperator does, and Refused if it would
// deactivate the last owner.
func (s *Service) UpdateOperator(ctx context.Context, who *Identity, by usher.By, id string, u usher.OperatorUpdate) (
	usher.Operator, error) {
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
	err = s.c.DB.UpdateOperator(ctx, id, u, who.inside(now, id, func(i *Identity, o usher.Operator) error { return i.mayTouch(o, now) }),
		by, now)
	s.operators.forget(id)
	if err != nil {
		return usher.Operator{}, err
	}
	return s.c.DB.Operator(ctx, id)
}

// DeleteOperator erases an operator. It returns Forbidden if the operator may do
// more than the caller, and Refused for the last owner.
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
