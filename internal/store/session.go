package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/usher-sh/usher"
)

// keepSessions is how long the rows of sessions are kept, from the login: longer
// than any session or any started login lives, so that a login cannot be used
// twice.
const keepSessions = 48 * time.Hour

func scanSession(row *sql.Rows, s *usher.Session) error {
	var created, proved, seen, ended int64
	err := row.Scan(&s.Hash, &s.ID, &s.Operator, &s.Method, &s.Login, &created, &proved, &seen, &ended)
	s.CreatedAt, s.ProvedAt, s.SeenAt, s.EndedAt = fromMicros(created), fromZeroMicros(proved), fromMicros(seen), fromZeroMicros(ended)
	return err
}

// Session reads a session by the hash of its secret, ended ones too. NotFound if
// there is none.
func (db *DB) Session(ctx context.Context, hash []byte) (_ usher.Session, err error) {
	defer wrap(&err, "read session")
	s, ok, err := one(ctx, db, scanSession,
		`SELECT hash, id, operator, method, login, created_at, proved_at, seen_at, ended_at FROM session WHERE hash = $1`, hash)
	if err == nil && !ok {
		err = usher.Errorf(usher.NotFound, "no such session")
	}
	return s, err
}

// StartSession stores a new session and ends the session with the hash ended, if
// it is live (nil: none). It then ends the operator's least recently used
// sessions beyond most, which counts the new one; logins at the same moment may
// leave more. It returns Conflict if the login has made a session before.
func (db *DB) StartSession(ctx context.Context, s usher.Session, ended []byte, most int, note Note) (err error) {
	defer wrap(&err, "start session")
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
			(SELECT hash FROM session WHERE operator = $1 AND ended_at = 0 ORDER BY seen_at DESC,
				id LIMIT $3)`, s.Operator, micros(s.SeenAt), int64(most-1)); err != nil {
			return err
		}
		return db.startSession(ctx, tx, s, note)
	})
}

// FollowSession stores a session in place of a live one, which ends in the same
// transaction. It returns Unauthenticated if the old one has ended, and Conflict
// as StartSession does.
func (db *DB) FollowSession(ctx context.Context, s usher.Session, old []byte, note Note) (err error) {
	defer wrap(&err, "follow session")
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

func (db *DB) startSession(ctx context.Context, tx *sql.Tx, s usher.Session, note Note) error {
	_, err := exec(ctx, tx, `INSERT INTO session (hash, id, operator, method, login, created_at, proved_at, seen_at, ended_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)`, s.Hash, s.ID, s.Operator, s.Method, s.Login, micros(s.CreatedAt),
		zeroMicros(s.ProvedAt), micros(s.SeenAt))
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
func (db *DB) EndSession(ctx context.Context, s usher.Session, note Note) (err error) {
	defer wrap(&err, "end session")
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
	defer wrap(&err, "end sessions")
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

// NoteSession adds a row about failed logins, which made no session, to the audit
// log.
func (db *DB) NoteSession(ctx context.Context, note Note) (err error) {
	defer wrap(&err, "note session")
	return db.tx(ctx, func(tx *sql.Tx) error { return db.audit(ctx, tx, AuditEntry{Note: note}) })
}

// TouchSession stores when a live session was last used; an older time changes
// nothing.
func (db *DB) TouchSession(ctx context.Context, hash []byte, at time.Time) (err error) {
	defer wrap(&err, "touch session")
	return db.tx(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `UPDATE session SET seen_at = $2 WHERE hash = $1 AND seen_at < $2 AND ended_at = 0`, hash, micros(at))
		return err
	})
}
