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

// Session is an operator's session in a browser. What the browser holds is not
// in it, only its hash.
type Session struct {
	Hash      []byte // SHA-256 of the cookie's secret
	ID        string // opaque, for people and the audit log
	Operator  string
	Method    string    // how the operator came in: "password" or "oidc"
	Login     string    // the login at the identity provider that it came from, used once; "" is none
	CreatedAt time.Time // of the login
	ProvedAt  time.Time // when the operator last proved who they are; zero: not known
	SeenAt    time.Time // of the latest call, not to the second
	EndedAt   time.Time // zero: live
}

// keepSessions is how long the rows of sessions are kept, counted from the
// login: longer than any session and any login's state live.
const keepSessions = 48 * time.Hour

func scanSession(row *sql.Rows, s *Session) error {
	var created, proved, seen, ended int64
	err := row.Scan(&s.Hash, &s.ID, &s.Operator, &s.Method, &s.Login, &created, &proved, &seen, &ended)
	s.CreatedAt, s.ProvedAt, s.SeenAt, s.EndedAt = fromMicros(created), fromZeroMicros(proved), fromMicros(seen), fromZeroMicros(ended)
	return err
}

// Session reads a session by the hash of its secret, ended ones too. NotFound
// where there is none.
func (db *DB) Session(ctx context.Context, hash []byte) (Session, error) {
	s, ok, err := one(ctx, db, scanSession,
		`SELECT hash, id, operator, method, login, created_at, proved_at, seen_at, ended_at FROM session WHERE hash = $1`, hash)
	if err == nil && !ok {
		err = usher.Errorf(usher.NotFound, "no such session")
	}
	return s, err
}

// StartSession stores a new session and ends the one whose hash is ended, if
// that lives; nil ends none. Of the operator's sessions the most that were used
// last live on, the new one among them; logins at the same moment may leave more.
// Conflict where the login has made a session before.
func (db *DB) StartSession(ctx context.Context, s Session, ended []byte, most int, note Note) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, `DELETE FROM session WHERE created_at < $1`, micros(s.SeenAt.Add(-keepSessions))); err != nil {
			return err
		}
		if ended != nil {
			if _, err := endSession(ctx, tx, ended, s.SeenAt); err != nil {
				return err
			}
		}
		if _, err := exec(ctx, tx, `UPDATE session SET ended_at = $2 WHERE operator = $1 AND ended_at = 0 AND hash NOT IN
			(SELECT hash FROM session WHERE operator = $1 AND ended_at = 0 ORDER BY seen_at DESC, id LIMIT $3)`, s.Operator, micros(s.SeenAt), int64(most-1)); err != nil {
			return err
		}
		return db.startSession(ctx, tx, s, note)
	})
}

// FollowSession stores a session in place of a live one, which ends in the same
// step. Unauthenticated where that has ended meanwhile; Conflict as StartSession.
func (db *DB) FollowSession(ctx context.Context, s Session, old []byte, note Note) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		n, err := endSession(ctx, tx, old, s.SeenAt)
		if err == nil && n == 0 {
			err = usher.Errorf(usher.Unauthenticated, "the session has ended: log in again")
		}
		if err != nil {
			return err
		}
		return db.startSession(ctx, tx, s, note)
	})
}

func (db *DB) startSession(ctx context.Context, tx *sql.Tx, s Session, note Note) error {
	_, err := exec(ctx, tx, `INSERT INTO session (hash, id, operator, method, login, created_at, proved_at, seen_at, ended_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)`, s.Hash, s.ID, s.Operator, s.Method, s.Login, micros(s.CreatedAt), zeroMicros(s.ProvedAt), micros(s.SeenAt))
	if duplicate(err) {
		return usher.Errorf(usher.Conflict, "this login was used before")
	}
	if err != nil {
		return err
	}
	return db.audit(ctx, tx, AuditEntry{Note: note})
}

func endSession(ctx context.Context, tx *sql.Tx, hash []byte, at time.Time) (int64, error) {
	return exec(ctx, tx, `UPDATE session SET ended_at = $2 WHERE hash = $1 AND ended_at = 0`, hash, micros(at))
}

// EndSession ends a session at note.At; one that has ended stays as it is.
func (db *DB) EndSession(ctx context.Context, s Session, note Note) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		n, err := endSession(ctx, tx, s.Hash, note.At)
		if err != nil || n == 0 {
			return err
		}
		return db.audit(ctx, tx, AuditEntry{Note: note})
	})
}

// EndSessions ends all live sessions of an operator at note.At and says how many.
func (db *DB) EndSessions(ctx context.Context, operator string, note Note) (n int64, err error) {
	err = db.tx(ctx, func(tx *sql.Tx) error {
		n, err = endSessions(ctx, tx, operator, note.At)
		if err != nil || n == 0 {
			return err
		}
		return db.audit(ctx, tx, AuditEntry{Note: note})
	})
	return n, err
}

func endSessions(ctx context.Context, tx *sql.Tx, operator string, at time.Time) (int64, error) {
	return exec(ctx, tx, `UPDATE session SET ended_at = $2 WHERE operator = $1 AND ended_at = 0`, operator, micros(at))
}

// NoteSession puts what happened to nobody's session into the audit log.
func (db *DB) NoteSession(ctx context.Context, note Note) error {
	return db.tx(ctx, func(tx *sql.Tx) error { return db.audit(ctx, tx, AuditEntry{Note: note}) })
}

// TouchSession notes that a live session is in use, never backwards.
func (db *DB) TouchSession(ctx context.Context, hash []byte, at time.Time) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `UPDATE session SET seen_at = $2 WHERE hash = $1 AND seen_at < $2 AND ended_at = 0`, hash, micros(at))
		return err
	})
}

// SetPassword stores the hash of an operator's password in place of the one
// before, and ends all sessions of the operator.
func (db *DB) SetPassword(ctx context.Context, operator, hash string, note Note) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, `INSERT INTO operator_password (operator, hash, set_at) VALUES ($1, $2, $3)
			ON CONFLICT (operator) DO UPDATE SET hash = excluded.hash, set_at = excluded.set_at`, operator, hash, micros(note.At)); err != nil {
			return err
		}
		if _, err := endSessions(ctx, tx, operator, note.At); err != nil {
			return err
		}
		return db.audit(ctx, tx, AuditEntry{Note: note})
	})
}

// Password reads the hash of an operator's password; "" where there is none.
func (db *DB) Password(ctx context.Context, operator string) (string, error) {
	hash, _, err := one(ctx, db, func(row *sql.Rows, v *string) error { return row.Scan(v) },
		`SELECT hash FROM operator_password WHERE operator = $1`, operator)
	return hash, err
}

// PasswordOf reads the active operator with an email, in any case, and the hash
// of its password; both are "" where there is none.
func (db *DB) PasswordOf(ctx context.Context, email string) (operator, hash string, err error) {
	type row struct{ operator, hash string }
	r, _, err := one(ctx, db, func(rows *sql.Rows, v *row) error { return rows.Scan(&v.operator, &v.hash) },
		`SELECT o.id, p.hash FROM operator o JOIN operator_password p ON p.operator = o.id WHERE o.email = $1 AND o.active = 1`, strings.ToLower(email))
	return r.operator, r.hash, err
}

// SignIn is who an identity provider says came.
type SignIn struct {
	Issuer, Subject string
	Name, Email     string   // of an operator who is made now; an email that another one has is left out
	Roles           []string // what the provider's claim gives now, in both environments, each once
	NewID           func(prefix string) string
}

// SignIn finds or makes the operator whom a provider knows by issuer and
// subject, and lets its roles of source sso be exactly in.Roles from at on;
// the last owner keeps that role. Forbidden where the operator then has no role,
// for which none is made, or is not active. The system is the actor.
func (db *DB) SignIn(ctx context.Context, in SignIn, requestID string, at time.Time) (operator string, err error) {
	var forbidden error
	err = db.tx(ctx, func(tx *sql.Tx) error {
		forbidden = nil
		if _, err := exec(ctx, tx, `UPDATE operators SET revision = revision + 1`); err != nil { // one change of operators at a time
			return err
		}
		var active int64
		var made bool
		err := tx.QueryRowContext(ctx, `SELECT o.id, o.active FROM operator_subject s JOIN operator o ON o.id = s.operator WHERE s.issuer = $1 AND s.subject = $2`,
			in.Issuer, in.Subject).Scan(&operator, &active)
		switch {
		case err == sql.ErrNoRows && len(in.Roles) == 0:
			return usher.Errorf(usher.Forbidden, "what the identity provider says about you gives you no role here: ask an owner")
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
		changed, err := setSSORoles(ctx, tx, operator, in, at)
		if err != nil {
			return err
		}
		var roles int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM operator_role WHERE operator = $1 AND from_at <= $2 AND until_at > $2`, operator, micros(at)).Scan(&roles); err != nil {
			return err
		}
		if roles == 0 { // what was taken away stays taken away
			forbidden = usher.Errorf(usher.Forbidden, "what the identity provider says about you gives you no role here any more: ask an owner")
		}
		if !made && !changed {
			return nil
		}
		e := AuditEntry{Note: Note{By: usher.By{Actor: bySystem.Actor, RequestID: requestID}, Action: "operator.sso", Object: operator, At: at}}
		if e.After, err = json.Marshal(map[string]any{"roles": append([]string{}, in.Roles...), "created": made}); err != nil {
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
	email := strings.ToLower(in.Email)
	if usher.CheckID("email", email) != nil {
		email = ""
	}
	name := in.Name
	if usher.CheckID("name", name) != nil {
		name = ""
	}
	var taken bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM operator WHERE email = $1 AND email <> '')`, email).Scan(&taken); err != nil {
		return err
	}
	if taken {
		email = ""
	}
	if _, err := exec(ctx, tx, `INSERT INTO operator (id, name, email, active, created_at) VALUES ($1, $2, $3, 1, $4)`, id, name, email, micros(at)); err != nil {
		return err
	}
	_, err := exec(ctx, tx, `INSERT INTO operator_subject (issuer, subject, operator) VALUES ($1, $2, $3)`, in.Issuer, in.Subject, id)
	return err
}

// setSSORoles lets the operator's roles of source sso be in.Roles, and reports
// whether that changed anything.
func setSSORoles(ctx context.Context, tx *sql.Tx, operator string, in SignIn, at time.Time) (changed bool, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, role FROM operator_role WHERE operator = $1 AND source = $2 AND until_at > $3`, operator, string(usher.SourceSSO), micros(at))
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
				WHERE r.role = 'owner' AND r.env = '' AND r.id <> $1 AND r.from_at <= $2 AND r.until_at = $3 AND o.active = 1)`, h.id, micros(at), int64(forever)).Scan(&other)
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
		if _, err := exec(ctx, tx, `INSERT INTO operator_role (id, operator, role, env, from_at, until_at, source, granted_by, reason) VALUES ($1, $2, $3, '', $4, $5, $6, 'system', '')`,
			in.NewID("oas_"), operator, role, micros(at), int64(forever), string(usher.SourceSSO)); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, nil
}

// OperatorOf is the operator whom a provider knows by issuer and subject; "" is
// none.
func (db *DB) OperatorOf(ctx context.Context, issuer, subject string) (string, error) {
	id, _, err := one(ctx, db, func(row *sql.Rows, v *string) error { return row.Scan(v) },
		`SELECT operator FROM operator_subject WHERE issuer = $1 AND subject = $2`, issuer, subject)
	return id, err
}
