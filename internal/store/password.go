package store

import (
	"context"
	"database/sql"
	"strings"
	"time"
)

// SetPassword stores the hash of an operator's password in place of the one
// before, and ends all sessions of the operator.
func (db *DB) SetPassword(ctx context.Context, operator, hash string, note Note) (err error) {
	defer wrap(&err, "set password")
	return db.tx(ctx, func(tx *sql.Tx) error {
		if err := setPassword(ctx, tx, operator, hash, note.At); err != nil {
			return err
		}
		return db.audit(ctx, tx, AuditEntry{Note: note})
	})
}

func setPassword(ctx context.Context, tx *sql.Tx, operator, hash string, at time.Time) error {
	if _, err := exec(ctx, tx, `INSERT INTO operator_password (operator, hash, set_at) VALUES ($1, $2, $3)
		ON CONFLICT (operator) DO UPDATE SET hash = excluded.hash, set_at = excluded.set_at`, operator, hash, micros(at)); err != nil {
		return err
	}
	_, err := endSessions(ctx, tx, operator, at)
	return err
}

// Password reads the hash of an operator's password; "" if there is none.
func (db *DB) Password(ctx context.Context, operator string) (_ string, err error) {
	defer wrap(&err, "read password")
	hash, _, err := one(ctx, db, scanText, `SELECT hash FROM operator_password WHERE operator = $1`, operator)
	return hash, err
}

// PasswordOf reads the active operator with an email, in any case, and the hash
// of its password; both are "" if there is none.
func (db *DB) PasswordOf(ctx context.Context, email string) (operator, hash string, err error) {
	defer wrap(&err, "read password of")
	type row struct{ operator, hash string }
	r, _, err := one(ctx, db, func(rows *sql.Rows, v *row) error { return rows.Scan(&v.operator, &v.hash) },
		`SELECT o.id, p.hash FROM operator o JOIN operator_password p ON p.operator = o.id WHERE o.email = $1 AND o.active = 1`,
		strings.ToLower(email))
	return r.operator, r.hash, err
}
