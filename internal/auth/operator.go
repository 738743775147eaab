package auth

import (
	"context"
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
}

// OperatorIdentity is who an operator is in an environment at now, with what
// its roles in force give it. Unauthenticated where there is no such operator
// or it is not active. What is known is at most a second old.
func (s *Service) OperatorIdentity(ctx context.Context, operatorID string, env usher.Environment, now time.Time) (Identity, error) {
	return Identity{}, usher.Errorf(usher.Unauthenticated, "no active operator")
}

// RedeemOwnerToken makes an operator who is an owner from now on, for the
// holder of a one-time token, which is then used up. Unauthenticated where the
// token is unknown, used or expired: which of these is not said.
func (s *Service) RedeemOwnerToken(ctx context.Context, token string, op NewOperator) (Operator, error) {
	return Operator{}, usher.Errorf(usher.Unauthenticated, "not a valid owner token")
}
