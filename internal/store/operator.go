package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/usher-sh/usher"
)

// May decides within the transaction of a change whether it may be made, and
// returns why not; nil: it may. read reads operators as the transaction sees
// them.
type May func(read func(id string) (usher.Operator, error)) error

const selectOperator = `SELECT id, name, email, active, created_at,
	EXISTS (SELECT 1 FROM operator_subject s WHERE s.operator = operator.id) FROM operator `

func scanOperator(row *sql.Rows, o *usher.Operator) error {
	var active, created int64
	err := row.Scan(&o.ID, &o.Name, &o.Email, &active, &created, &o.Linked)
	o.Active, o.CreatedAt, o.Roles = active != 0, fromMicros(created), []usher.OperatorRole{}
	return err
}

// Operators reads all operators with their roles, oldest first.
func (db *DB) Operators(ctx context.Context) (_ []usher.Operator, err error) {
	defer wrap(&err, "read operators")
	all, err := list(ctx, db, scanOperator, selectOperator+`ORDER BY created_at, id`)
	if err != nil {
		return nil, err
	}
	roles, err := list(ctx, db, scanOperatorRole, selectOperatorRole+`ORDER BY from_at, id`)
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	for i := range all {
		at[all[i].ID] = i
	}
	for _, r := range roles {
		if i, ok := at[r.operator]; ok {
			all[i].Roles = append(all[i].Roles, r.OperatorRole)
		}
	}
	return all, nil
}

// Operator reads an operator with its roles; NotFound if there is none.
func (db *DB) Operator(ctx context.Context, id string) (_ usher.Operator, err error) {
	defer wrap(&err, "read operator")
	return readOperator(ctx, db, id)
}

// readOperator reads an operator with its roles; NotFound if there is none.
func readOperator(ctx context.Context, r reader, id string) (usher.Operator, error) {
	o, err := operatorRow(ctx, r, id)
	if err != nil {
		return usher.Operator{}, err
	}
	roles, err := list(ctx, r, scanOperatorRole, selectOperatorRole+`WHERE operator = $1 ORDER BY from_at, id`, id)
	for _, role := range roles {
		o.Roles = append(o.Roles, role.OperatorRole)
	}
	return o, err
}

// operatorRow reads an operator without its roles; NotFound if there is none.
func operatorRow(ctx context.Context, r reader, id string) (usher.Operator, error) {
	o, ok, err := one(ctx, r, scanOperator, selectOperator+`WHERE id = $1`, id)
	if err == nil && !ok {
		err = noOperator(id)
	}
	return o, err
}

// OperatorByEmail reads the operator with an address, in lower case; NotFound if
// there is none.
func (db *DB) OperatorByEmail(ctx context.Context, email string) (_ usher.Operator, err error) {
	defer wrap(&err, "read operator by email")
	o, ok, err := one(ctx, db, scanOperator, selectOperator+`WHERE email = $1 AND email <> ''`, email)
	if err == nil && !ok {
		err = usher.Errorf(usher.NotFound, "no operator has this address")
	}
	if err != nil {
		return usher.Operator{}, err
	}
	return readOperator(ctx, db, o.ID)
}

func noOperator(id string) error { return usher.Errorf(usher.NotFound, "no operator %q", id) }

// errLastOwner means that a change would remove the last owner. An owner until a
// date, or in one environment only, does not count: without another one, the
// installation would be left without an owner.
var errLastOwner = usher.Errorf(usher.Refused, "one active, permanent owner must remain: make another owner first")

// ownerRole is the role that the last-owner rule is about.
const ownerRole = "owner"

// operators runs a change to operators: one at a time in the whole installation,
// and never one that removes the last owner (A12).
func (db *DB) operators(ctx context.Context, at time.Time, fn func(tx *sql.Tx) error) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, `UPDATE operators SET revision = revision + 1`); err != nil { // the lock, on PostgreSQL
			return err
		}
		before, err := owners(ctx, tx, at)
		if err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		after, err := owners(ctx, tx, at)
		if err == nil && before > 0 && after == 0 {
			err = errLastOwner
		}
		return err
	})
}

func owners(ctx context.Context, tx *sql.Tx, at time.Time) (n int, err error) {
	err = tx.QueryRowContext(ctx, `SELECT count(*) FROM operator o WHERE o.active = 1 AND EXISTS (SELECT 1 FROM operator_role r
		WHERE r.operator = o.id AND r.role = $1 AND r.env = '' AND r.from_at <= $2 AND r.until_at = $3)`, ownerRole, micros(at),
		int64(forever)).Scan(&n)
	return n, err
}

// allowed asks may, if there is one, in a transaction that holds the lock.
func allowed(ctx context.Context, tx *sql.Tx, may May) error {
	if may == nil {
		return nil
	}
	return fromOutside(may(func(id string) (usher.Operator, error) { return readOperator(ctx, inTx{tx}, id) }))
}

// link gives an operator an account at an identity provider. It returns Conflict
// if another operator has that account.
func link(ctx context.Context, tx *sql.Tx, operator string, as usher.SSOSubject) error {
	var other string
	switch err := tx.QueryRowContext(ctx, `SELECT operator FROM operator_subject WHERE issuer = $1 AND subject = $2`, as.Issuer,
		as.Subject).Scan(&other); {
	case err == nil:
		return usher.Errorf(usher.Conflict, "this account at the identity provider belongs to the operator %q: give that operator the roles, "+
			"or erase it first", other)
	case err != sql.ErrNoRows:
		return err
	}
	_, err := exec(ctx, tx, `INSERT INTO operator_subject (issuer, subject, operator) VALUES ($1, $2, $3)`, as.Issuer, as.Subject, operator)
	return err
}

// relink applies OperatorUpdate.Subject and reports whether that changed anything.
// If it replaces another account, the operator's sessions end: a person with that
// account may have begun them.
func relink(ctx context.Context, tx *sql.Tx, operator string, as usher.SSOSubject, at time.Time) (changed bool, err error) {
	var same bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM operator_subject
		WHERE issuer = $1 AND subject = $2 AND operator = $3)`, as.Issuer, as.Subject, operator).Scan(&same); err != nil || same {
		return false, err
	}
	n, err := exec(ctx, tx, `DELETE FROM operator_subject WHERE operator = $1 AND ($2 = '' OR issuer = $2)`, operator, as.Issuer)
	if err != nil {
		return false, err
	}
	if n > 0 {
		if _, err := endSessions(ctx, tx, operator, at); err != nil {
			return false, err
		}
	}
	if as.Subject == "" {
		return n > 0, nil
	}
	return true, link(ctx, tx, operator, as)
}

// operatorShown is what the audit log says about an operator: no personal data,
// so not the account at the identity provider, only whether there is one.
type operatorShown struct {
	Active  bool     `json:"active"`
	Linked  bool     `json:"linked,omitempty"`
	Changed []string `json:"changed,omitempty"`
}

func (db *DB) auditOperators(ctx context.Context, tx *sql.Tx, by usher.By, at time.Time, action, object string, before,
	after any) (err error) {
	e := AuditEntry{Note: Note{By: by, Action: action, Object: object, At: at}}
	for _, x := range []struct {
		to *json.RawMessage
		v  any
	}{{&e.Before, before}, {&e.After, after}} {
		if x.v != nil {
			if *x.to, err = json.Marshal(x.v); err != nil {
				return err
			}
		}
	}
	return db.audit(ctx, tx, e)
}

func insertOperator(ctx context.Context, tx *sql.Tx, o usher.Operator) error {
	_, err := exec(ctx, tx, `INSERT INTO operator (id, name, email, active, created_at) VALUES ($1, $2, $3, $4, $5)`,
		o.ID, o.Name, o.Email, bit(o.Active), micros(o.CreatedAt))
	return emailTaken(err)
}

func emailTaken(err error) error {
	if duplicate(err) {
		return usher.Errorf(usher.Conflict, "another operator has this address")
	}
	return err
}

// CreateOperator stores a new operator without roles, with the account as at an
// identity provider (zero: none). It returns Conflict if another operator has the
// address or the account.
func (db *DB) CreateOperator(ctx context.Context, o usher.Operator, as usher.SSOSubject, by usher.By, at time.Time) (err error) {
	defer wrap(&err, "create operator")
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		if err := insertOperator(ctx, tx, o); err != nil {
			return err
		}
		if as != (usher.SSOSubject{}) {
			if err := link(ctx, tx, o.ID, as); err != nil {
				return err
			}
		}
		return db.auditOperators(ctx, tx, by, at, "operator.create", o.ID, nil, operatorShown{Active: o.Active,
			Linked: as != (usher.SSOSubject{})})
	})
}

// UpdateOperator changes an operator if may allows it. It returns NotFound if
// there is none, Conflict as CreateOperator does, and Refused if it would
// deactivate the last owner.
func (db *DB) UpdateOperator(ctx context.Context, id string, u usher.OperatorUpdate, may May, by usher.By, at time.Time) (err error) {
	defer wrap(&err, "update operator")
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		o, err := operatorRow(ctx, inTx{tx}, id)
		if err == nil {
			err = allowed(ctx, tx, may)
		}
		if err != nil {
			return err
		}
		before := operatorShown{Active: o.Active, Linked: o.Linked}
		var after operatorShown
		if u.Name != nil && *u.Name != o.Name {
			o.Name = *u.Name
			after.Changed = append(after.Changed, "name")
		}
		if u.Email != nil && *u.Email != o.Email {
			o.Email = *u.Email
			after.Changed = append(after.Changed, "email")
		}
		if u.Active != nil {
			o.Active = *u.Active
		}
		if u.Subject != nil {
			changed, err := relink(ctx, tx, id, *u.Subject, at)
			if err != nil {
				return err
			}
			if changed {
				after.Changed = append(after.Changed, "subject")
			}
			if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM operator_subject WHERE operator = $1)`, id).Scan(&o.Linked); err != nil {
				return err
			}
		}
		after.Active, after.Linked = o.Active, o.Linked
		if len(after.Changed) == 0 && after.Active == before.Active {
			return nil
		}
		if !o.Active {
			if _, err := exec(ctx, tx, `DELETE FROM operator_invite WHERE operator = $1`, id); err != nil {
				return err
			}
		}
		if _, err := exec(ctx, tx, `UPDATE operator SET name = $2, email = $3, active = $4 WHERE id = $1`, id, o.Name, o.Email,
			bit(o.Active)); err != nil {
			return emailTaken(err)
		}
		return db.auditOperators(ctx, tx, by, at, "operator.update", id, before, after)
	})
}

// DeleteOperator erases an operator with its roles, sessions, password, invitation and
// account at the identity provider, if may allows it. It returns NotFound if
// there is none, and Refused for the last owner.
func (db *DB) DeleteOperator(ctx context.Context, id string, may May, by usher.By, at time.Time) (err error) {
	defer wrap(&err, "delete operator")
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		o, err := operatorRow(ctx, inTx{tx}, id)
		if err == nil {
			err = allowed(ctx, tx, may)
		}
		if err != nil {
			return err
		}
		for _, text := range []string{`DELETE FROM operator WHERE id = $1`, `DELETE FROM operator_role WHERE operator = $1`,
			`DELETE FROM operator_password WHERE operator = $1`, `DELETE FROM operator_subject WHERE operator = $1`,
			`DELETE FROM operator_invite WHERE operator = $1`, `DELETE FROM session WHERE operator = $1`} {
			if _, err := exec(ctx, tx, text, id); err != nil {
				return err
			}
		}
		return db.auditOperators(ctx, tx, by, at, "operator.delete", id, operatorShown{Active: o.Active}, nil)
	})
}
