package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/usher-sh/usher"
)

type operatorRoleRow struct {
	operator string
	usher.OperatorRole
}

const selectOperatorRole = `SELECT operator, id, role, env, from_at, until_at, source, granted_by, reason FROM operator_role `

func scanOperatorRole(row *sql.Rows, r *operatorRoleRow) error {
	var from, until int64
	err := row.Scan(&r.operator, &r.ID, &r.Role, &r.Environment, &from, &until, &r.Source, &r.GrantedBy, &r.Reason)
	r.From = fromMicros(from)
	if until != forever {
		t := fromMicros(until)
		r.Until = &t
	}
	return err
}

func insertOperatorRole(ctx context.Context, tx *sql.Tx, operator string, r usher.OperatorRole) error {
	_, err := exec(ctx, tx, `INSERT INTO operator_role (id, operator, role, env, from_at, until_at, source, granted_by, reason) VALUES
		($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		r.ID, operator, r.Role, string(r.Environment), micros(r.From), end(r.Until), string(r.Source), r.GrantedBy, r.Reason)
	return err
}

// roleShown is what the audit log says about an operator's role.
type roleShown struct {
	Role        string            `json:"role"`
	Environment usher.Environment `json:"environment,omitempty"`
	From        *time.Time        `json:"from,omitempty"`
	Until       *time.Time        `json:"until,omitempty"`
	Source      usher.Source      `json:"source,omitempty"`
}

func shownRole(r usher.OperatorRole) roleShown {
	return roleShown{Role: r.Role, Environment: r.Environment, From: &r.From, Until: r.Until, Source: r.Source}
}

// PutOperatorRole gives an operator a role, if may allows it. It replaces the
// assignments of the same role, environment and source. It returns NotFound if
// there is no such operator, and Refused if the last owner would become a
// temporary one.
func (db *DB) PutOperatorRole(ctx context.Context, operator string, r usher.OperatorRole, may May, by usher.By, at time.Time) (err error) {
	defer wrap(&err, "put operator role")
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		if _, err := operatorRow(ctx, inTx{tx}, operator); err != nil {
			return err
		}
		if err := allowed(ctx, tx, may); err != nil {
			return err
		}
		if _, err := exec(ctx, tx, `DELETE FROM operator_role WHERE operator = $1 AND role = $2 AND env = $3 AND source = $4`,
			operator, r.Role, string(r.Environment), string(r.Source)); err != nil {
			return err
		}
		if err := insertOperatorRole(ctx, tx, operator, r); err != nil {
			return err
		}
		by.Reason = r.Reason
		return db.auditOperators(ctx, tx, by, at, "operator.role.put", operator, nil, shownRole(r))
	})
}

// DeleteOperatorRole takes a role in an environment ("": both) from an operator,
// from whatever source it came, if may allows it. It returns NotFound if the
// operator has no such role, and Refused for the last owner's role.
func (db *DB) DeleteOperatorRole(ctx context.Context, operator, role string, env usher.Environment, may May, by usher.By,
	at time.Time) (err error) {
	defer wrap(&err, "delete operator role")
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		if err := allowed(ctx, tx, may); err != nil {
			return err
		}
		n, err := exec(ctx, tx, `DELETE FROM operator_role WHERE operator = $1 AND role = $2 AND env = $3`, operator, role, string(env))
		if err == nil && n == 0 {
			err = usher.Errorf(usher.NotFound, "the operator %q has no role %q there", operator, role)
		}
		if err != nil {
			return err
		}
		return db.auditOperators(ctx, tx, by, at, "operator.role.delete", operator, roleShown{Role: role, Environment: env}, nil)
	})
}
