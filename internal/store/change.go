package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/usher-sh/usher"
)

// Meta says who does what; it is stored with every change, in its transaction.
type Meta struct {
	Actor     string // "key:…", "system", …
	Action    string // "subscription.create", …
	Object    string // the id or key of what was changed; opaque, no personal data
	RequestID string
	At        time.Time // in the environment's clock (S11)

	// What follows is in the audit log only.
	Reason string // why, in the words of who did it; "" where nobody said
	// Before and After are what changed, as JSON objects as the API shows them;
	// nil is nothing. They never hold personal data: of names, metadata and
	// properties they say only that they changed.
	Before, After json.RawMessage

	directory bool // the change is to a customer's directory
}

// Change is one step of an environment's revision (S06).
type Change struct {
	Revision int64
	Customer string // "": the environment itself: its catalogue or its clock
	// Directory: only who the customer's people are and what they may do.
	Directory bool
	Meta
}

// maxChanges bounds one answer of ChangesSince.
const maxChanges = 1000

// ChangesSince reads env's changes with a revision greater than the given one,
// in order, at most 1,000: a full answer means ask again. Revisions are dense,
// and one that is read has all before it committed.
func (db *DB) ChangesSince(ctx context.Context, env usher.Environment, revision int64) ([]Change, error) {
	return list(ctx, db, scanChange, `SELECT revision, customer, access, at, actor, action, object, request_id
		FROM change WHERE env = $1 AND revision > $2 ORDER BY revision LIMIT $3`, string(env), revision, int64(maxChanges))
}

func scanChange(row *sql.Rows, c *Change) error {
	var at, access int64
	err := row.Scan(&c.Revision, &c.Customer, &access, &at, &c.Actor, &c.Action, &c.Object, &c.RequestID)
	c.At, c.Directory = fromMicros(at), access != 0
	return err
}

// RevisionAt is the newest revision recorded at or before t; 0 where there is none.
func (db *DB) RevisionAt(ctx context.Context, env usher.Environment, t time.Time) (int64, error) {
	revision, _, err := one(ctx, db, func(row *sql.Rows, n *int64) error { return row.Scan(n) },
		`SELECT revision FROM change WHERE env = $1 AND at <= $2 ORDER BY at DESC, revision DESC LIMIT 1`, string(env), micros(t))
	return revision, err
}

// record notes a change in the history and in the audit log. It is the only way
// to either, so that no revision is without its audit row, and the last step of
// a transaction, as audit is.
func (db *DB) record(ctx context.Context, tx *sql.Tx, env usher.Environment, revision int64, customer string, m Meta) error {
	_, err := exec(ctx, tx, `INSERT INTO change (env, revision, at, actor, action, customer, object, request_id, access)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, string(env), revision, micros(m.At), m.Actor, m.Action, customer, m.Object, m.RequestID, bit(m.directory))
	if err != nil {
		return err
	}
	return db.audit(ctx, tx, AuditEntry{Env: env, Customer: customer, Revision: revision, Meta: m})
}
