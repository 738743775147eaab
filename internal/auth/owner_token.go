package auth

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/usher-sh/usher"
)

// A one-time token, for the first owner or of an invitation, is
// "uso_<secret><checksum>", 256 random bits.
const tokenPrefix = "uso_"

// TokenFor is how long a one-time token can be used.
const TokenFor = 24 * time.Hour

// OwnerToken makes a one-time token that makes its holder an owner, and returns
// it once: only its hash is stored. A person who can open the database may make
// one.
func (s *Service) OwnerToken(ctx context.Context, by usher.By) (token string, expires time.Time, err error) {
	token, h, err := s.token()
	if err != nil {
		return "", expires, err
	}
	now := s.now()
	expires = now.Add(TokenFor)
	return token, expires, s.c.DB.AddOwnerToken(ctx, h, expires, by, now)
}

// token makes a one-time token and its hash.
func (s *Service) token() (token string, hash []byte, err error) {
	raw, err := s.random(secretBytes)
	if err != nil {
		return "", nil, err
	}
	token = tokenPrefix + text32.EncodeToString(raw)
	token += string(checksum(nil, token))
	h := sha256.Sum256([]byte(token))
	return token, h[:], nil
}

// RedeemOwnerToken makes an operator who is a permanent owner, and uses the token
// up. It returns Unauthenticated if the token is unknown, used or expired, and
// does not say which.
func (s *Service) RedeemOwnerToken(ctx context.Context, token string, op NewOperator) (usher.Operator, error) {
	o, err := s.newOperator(op)
	if err != nil {
		return usher.Operator{}, err
	}
	r := usher.OperatorRole{Role: RoleOwner, From: o.CreatedAt, Source: usher.SourceManual, GrantedBy: "system",
		Reason: "the holder of an owner token"}
	r.ID = s.id("oas_")
	h := sha256.Sum256([]byte(token))
	if err := s.c.DB.RedeemOwnerToken(ctx, h[:], o, r, usher.By{Actor: usher.Actor{Kind: "operator", ID: o.ID}}, o.CreatedAt); err != nil {
		return usher.Operator{}, err
	}
	s.operators.forget(o.ID)
	o.Roles = []usher.OperatorRole{r}
	return o, nil
}
