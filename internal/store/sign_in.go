package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// SignIn is a person who logged in, as the identity provider describes them.
type SignIn struct {
	Subject usher.SSOSubject
	Name    string   // of an operator who is made now
	Email   string   // at the provider; one that is not valid or that another operator has is not taken over
	Roles   []string // what the provider's claim gives in both environments, each once
	NewID   func(prefix string) string
}

// SignIn finds or makes the operator with in.Subject, gives it in.Email, and makes
// in.Roles its only roles of source sso, from at on; the last owner keeps that role.
// It returns Forbidden if the operator is not active or has no role; then none is made,
// but roles that an operator lost stay lost. The actor is the system.
func (db *DB) SignIn(ctx context.Context, in SignIn, requestID string, at time.Time) (operator string, err error) {
	defer wrap(&err, "sign in")
	var forbidden error
	err = db.tx(ctx, func(tx *sql.Tx) error {
		forbidden = nil
		if _, err := exec(ctx, tx, `UPDATE operators SET revision = revision + 1`); err != nil { // one change of operators at a time
			return err
		}
		var active int64
		var made bool
		err := tx.QueryRowContext(ctx, `SELECT o.id, o.active FROM operator_subject s JOIN operator o ON o.id = s.operator WHERE s.issuer =
			$1 AND s.subject = $2`,
			in.Subject.Issuer, in.Subject.Subject).Scan(&operator, &active)
		switch {
		case err == sql.ErrNoRows && len(in.Roles) == 0:
			return usher.Errorf(usher.Forbidden, "your account at the identity provider gives you no role here: ask an owner")
		case err == sql.ErrNoRows:
			operator, made = in.NewID("opr_"), true
			if err := makeOperator(ctx, tx, operator, in, at); err != nil {
				return err
			}
		case err != nil:
			return err
		case active == 0:
			return usher.Errorf(usher.Forbidden, "this operator is not active: ask an owner")
		}
		moved := false
		if !made {
			if moved, err = followEmail(ctx, tx, operator, in.Email); err != nil {
				return err
			}
		}
		changed, err := setSSORoles(ctx, tx, operator, in, at)
		if err != nil {
			return err
		}
		var roles int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM operator_role WHERE operator = $1 AND from_at <= $2 AND until_at > $2`,
			operator, micros(at)).Scan(&roles); err != nil {
			return err
		}
		if roles == 0 { // the loss of the last role is committed all the same
			forbidden = usher.Errorf(usher.Forbidden, "your account at the identity provider gives you no role here any more: "+
				"ask an owner")
		}
		if !made && !changed && !moved {
			return nil
		}
		e := AuditEntry{Note: Note{By: usher.By{Actor: bySystem.Actor, RequestID: requestID}, Action: "operator.sso", Object: operator, At: at}}
		after := map[string]any{"roles": append([]string{}, in.Roles...), "created": made}
		if moved {
			after["email_changed"] = true // the address itself stays out of the log
		}
		if e.After, err = json.Marshal(after); err != nil {
			return err
		}
		return db.audit(ctx, tx, e)
	})
	if err == nil {
		err = forbidden
	}
	return operator, err
}

func makeOperator(ctx context.Context, tx *sql.Tx, id string, in SignIn, at time.Time) error {
	email, err := freeEmail(ctx, tx, id, in.Email)
	if err != nil {
		return err
	}
	name := in.Name
	if usher.CheckID("name", name) != nil {
		name = ""
	}
	if _, err := exec(ctx, tx, `INSERT INTO operator (id, name, email, active, created_at) VALUES ($1, $2, $3, 1, $4)`, id, name, email,
		micros(at)); err != nil {
		return err
	}
	_, err = exec(ctx, tx, `INSERT INTO operator_subject (issuer, subject, operator) VALUES ($1, $2, $3)`, in.Subject.Issuer,
		in.Subject.Subject, id)
	return err
}

// freeEmail returns an address as it is stored, in lower case; "" if it is not valid
// or another operator has it.
func freeEmail(ctx context.Context, tx *sql.Tx, operator, email string) (string, error) {
	email = strings.ToLower(email)
	if usher.CheckID("email", email) != nil {
		return "", nil
	}
	var taken bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM operator WHERE email = $1 AND id <> $2)`, email, operator).Scan(&taken)
	if taken {
		email = ""
	}
	return email, err
}

// followEmail gives an operator the address that the provider says, and reports
// whether that is another one than before. Without a usable one nothing changes.
func followEmail(ctx context.Context, tx *sql.Tx, operator, email string) (changed bool, err error) {
	if email, err = freeEmail(ctx, tx, operator, email); err != nil || email == "" {
		return false, err
	}
	n, err := exec(ctx, tx, `UPDATE operator SET email = $2 WHERE id = $1 AND email <> $2`, operator, email)
	return n > 0, err
}

// setSSORoles makes in.Roles the operator's only roles of source sso, and reports
// whether that changed anything.
func setSSORoles(ctx context.Context, tx *sql.Tx, operator string, in SignIn, at time.Time) (changed bool, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, role FROM operator_role WHERE operator = $1 AND source = $2 AND until_at > $3`, operator,
		string(usher.SourceSSO), micros(at))
	if err != nil {
		return false, err
	}
	defer rows.Close()
	type held struct{ id, role string }
	var old []held
	for rows.Next() {
		var h held
		if err := rows.Scan(&h.id, &h.role); err != nil {
			return false, err
		}
		old = append(old, h)
	}
	if err := rows.Err(); err != nil {
		return false, err
	}
	rows.Close()
	has := map[string]bool{}
	for _, h := range old {
		if has[h.role] = true; slices.Contains(in.Roles, h.role) {
			continue
		}
		if h.role == "owner" {
			var other bool
			err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM operator_role r JOIN operator o ON o.id = r.operator
				WHERE r.role = 'owner' AND r.env = '' AND r.id <> $1 AND r.from_at <= $2 AND r.until_at = $3 AND o.active = 1)`, h.id, micros(at),
				int64(forever)).Scan(&other)
			if err != nil {
				return false, err
			}
			if !other {
				continue // the last owner is protected (A12)
			}
		}
		if _, err := exec(ctx, tx, `UPDATE operator_role SET until_at = $2 WHERE id = $1`, h.id, micros(at)); err != nil {
			return false, err
		}
		changed = true
	}
	for _, role := range in.Roles {
		if has[role] {
			continue
		}
		if _, err := exec(ctx, tx, `INSERT INTO operator_role (id, operator, role, env, from_at, until_at, source, granted_by, reason) VALUES
			($1, $2, $3, '', $4, $5, $6, 'system', '')`,
			in.NewID("oas_"), operator, role, micros(at), int64(forever), string(usher.SourceSSO)); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, nil
}

// OperatorOf returns the id of the operator with an account at an identity
// provider; "" if there is none.
func (db *DB) OperatorOf(ctx context.Context, as usher.SSOSubject) (_ string, err error) {
	defer wrap(&err, "read operator of")
	id, _, err := one(ctx, db, scanText, `SELECT operator FROM operator_subject WHERE issuer = $1 AND subject = $2`, as.Issuer, as.Subject)
	return id, err
}
