package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/usher-sh/usher"
)

// AddOwnerToken stores the hash of a one-time token that makes an owner until
// expires. It drops those that have expired.
func (db *DB) AddOwnerToken(ctx context.Context, hash []byte, expires time.Time, by usher.By, at time.Time) (err error) {
	defer wrap(&err, "add owner token")
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, `DELETE FROM owner_token WHERE expires_at <= $1`, micros(at)); err != nil {
			return err
		}
		if _, err := exec(ctx, tx, `INSERT INTO owner_token (hash, expires_at) VALUES ($1, $2)`, hash, micros(expires)); err != nil {
			return err
		}
		return db.auditOperators(ctx, tx, by, at, "operator.token", "owner", nil, nil)
	})
}

// RedeemOwnerToken uses a token up and stores a new operator with a role. It
// returns Unauthenticated if there is no such token or it has expired.
func (db *DB) RedeemOwnerToken(ctx context.Context, hash []byte, o usher.Operator, r usher.OperatorRole, by usher.By,
	at time.Time) (err error) {
	defer wrap(&err, "redeem owner token")
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, `DELETE FROM owner_token WHERE hash = $1 AND expires_at > $2`, hash, micros(at))
		if err == nil && n == 0 {
			err = usher.Errorf(usher.Unauthenticated, "the owner token is unknown, used or older than a day: `usher operator token` makes another")
		}
		if err == nil {
			err = insertOperator(ctx, tx, o)
		}
		if err == nil {
			err = insertOperatorRole(ctx, tx, o.ID, r)
		}
		if err != nil {
			return err
		}
		by.Reason = r.Reason
		return db.auditOperators(ctx, tx, by, at, "operator.first_owner", o.ID, nil, shownRole(r))
	})
}
