package auth

import (
	"context"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// Invite makes an invitation with which an operator who has no account at an identity
// provider sets a password, and returns its token once: only its hash is stored. It
// can be used once, for TokenFor; a newer one voids it. It returns Forbidden if the
// operator may do more than the caller, NotFound if there is none, Conflict if it is not
// active, and Refused if it has no email to log in with.
func (s *Service) Invite(ctx context.Context, who *Identity, by usher.By, id string) (token string, expires time.Time, err error) {
	now := s.now()
	o, err := s.c.DB.Operator(ctx, id)
	if err == nil {
		err = who.mayTouch(o, now)
	}
	if err != nil {
		return "", expires, err
	}
	token, h, err := s.token()
	if err != nil {
		return "", expires, err
	}
	expires = now.Add(TokenFor)
	err = s.c.DB.Invite(ctx, id, h, expires, who.inside(now, id, func(i *Identity, o usher.Operator) error { return i.mayTouch(o, now) }),
		by, now)
	if err != nil {
		return "", time.Time{}, err
	}
	return token, expires, nil
}

// InviteURL returns the address at which an operator accepts an invitation. The token is
// in the fragment, which browsers do not send.
func (s *Service) InviteURL(token string) string {
	return strings.TrimRight(s.c.PublicURL, "/") + "/login#" + token
}

// AcceptInvite sets the password of the operator with an invitation and logs the
// operator in, who keeps the roles that were given. It returns Unauthenticated if the
// token is not valid, and Invalid if the password is too weak, which does not use up the
// token.
func (s *Service) AcceptInvite(ctx context.Context, v Visit, token, password string) (cookie string, out *usher.Session, err error) {
	now, from := s.now(), block(v.Address)
	if wait := s.addresses.wait(from, now); wait > 0 {
		return "", nil, tooMany(wait)
	}
	s.addresses.failed(from, addressTries, now) // counted as a failure until it succeeds
	sum := sha256.Sum256([]byte(token))
	o, err := s.c.DB.Invited(ctx, sum[:], now)
	if err != nil {
		return "", nil, err
	}
	if err := checkPassword(password, o.Email, o.Name); err != nil {
		s.addresses.uncount(from) // the token is right
		return "", nil, err
	}
	stored, err := s.passwords.hash(ctx, from, password)
	if err != nil {
		s.addresses.uncount(from)
		return "", nil, err
	}
	now = s.now()
	if err := s.c.DB.AcceptInvite(ctx, o.ID, sum[:], stored, s.note(v, o.ID, "session.invite", o.ID, now, nil)); err != nil {
		return "", nil, err
	}
	s.addresses.succeeded(from)
	s.accounts.succeeded(o.Email) // a lock of the account was about the password before
	return s.begin(ctx, v, o.ID, usher.LoginPassword, "", now, nil)
}
