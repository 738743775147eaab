package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/usher-sh/usher"
)

// Invite stores the hash of an operator's invitation, which holds until expires, in
// place of the one before, if may allows it. It returns NotFound if there is no such
// operator, Conflict if it is not active, and Refused if it has no email to log in with.
func (db *DB) Invite(ctx context.Context, operator string, hash []byte, expires time.Time, may May, by usher.By, at time.Time) (err error) {
	defer wrap(&err, "invite")
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		o, err := operatorRow(ctx, inTx{tx}, operator)
		if err == nil {
			err = allowed(ctx, tx, may)
		}
		switch {
		case err != nil:
			return err
		case !o.Active:
			return usher.Errorf(usher.Conflict, "the operator %q is not active: make it active first", operator)
		case o.Email == "":
			return usher.Errorf(usher.Refused, "the operator %q has no email, which it would log in with: set one first", operator)
		}
		if _, err := exec(ctx, tx, `DELETE FROM operator_invite WHERE operator = $1 OR expires_at <= $2`, operator, micros(at)); err != nil {
			return err
		}
		if _, err := exec(ctx, tx, `INSERT INTO operator_invite (operator, hash, expires_at) VALUES ($1, $2, $3)`, operator, hash,
			micros(expires)); err != nil {
			return err
		}
		return db.auditOperators(ctx, tx, by, at, "operator.invite", operator, nil, nil)
	})
}

// errInvite is the same for every invitation that is not valid.
var errInvite = usher.Errorf(usher.Unauthenticated, "the invitation is unknown, used, replaced by a newer one or older "+
	"than a day: ask for another")

// Invited reads the active operator whose invitation has a hash at an instant. It
// returns Unauthenticated if there is none.
func (db *DB) Invited(ctx context.Context, hash []byte, at time.Time) (_ usher.Operator, err error) {
	defer wrap(&err, "read invited")
	o, ok, err := one(ctx, db, scanOperator, selectOperator+`WHERE active = 1
		AND id = (SELECT i.operator FROM operator_invite i WHERE i.hash = $1 AND i.expires_at > $2)`, hash, micros(at))
	if err == nil && !ok {
		err = errInvite
	}
	return o, err
}

// AcceptInvite uses an operator's invitation up: it stores the hash of the operator's
// password in place of the one before, and ends all sessions of the operator. It returns
// Unauthenticated if the invitation is not valid any more.
func (db *DB) AcceptInvite(ctx context.Context, operator string, invite []byte, password string, note Note) (err error) {
	defer wrap(&err, "accept invite")
	return db.tx(ctx, func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, `DELETE FROM operator_invite WHERE operator = $1 AND hash = $2 AND expires_at > $3
			AND EXISTS (SELECT 1 FROM operator WHERE id = $1 AND active = 1)`, operator, invite, micros(note.At))
		if err == nil && n == 0 {
			err = errInvite
		}
		if err == nil {
			err = setPassword(ctx, tx, operator, password, note.At)
		}
		if err != nil {
			return err
		}
		return db.audit(ctx, tx, AuditEntry{Note: note})
	})
}
