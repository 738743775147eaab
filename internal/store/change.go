package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/usher-sh/usher"
)

// Note describes a write. It is stored in the write's own transaction: in the
// audit log, and for a change that makes a revision also in the history.
type Note struct {
	usher.By           // Reason and Cause are in the audit log only
	Action   string    // "subscription.create", …
	Object   string    // the id or key of what was changed; opaque, no personal data
	At       time.Time // in the environment's clock (S11)

	// Before and After are what changed, as JSON objects in the form that the API
	// shows; nil is nothing. They are in the audit log only and never hold personal
	// data: of names, metadata and properties they say only that they changed.
	Before, After json.RawMessage

	directory bool // the change is to a customer's directory
}

// bySystem is usher itself.
var bySystem = usher.By{Actor: usher.Actor{Kind: "system"}}

// Change is one step of an environment's revision (S06).
type Change struct {
	Revision int64
	Customer string // "": the environment itself: its catalogue or its clock
	// Directory: only who the customer's people are and what they may do.
	Directory bool
	At        time.Time // in the environment's clock (S11)
	Actor     string    // as usher.Actor writes it: "key:…", "system", …
	Action    string    // "subscription.create", …
	Object    string    // the id or key of what was changed
	RequestID string    // "" outside a request
}

// maxChanges bounds one answer of ChangesSince.
const maxChanges = 1000

// ChangesSince reads env's changes after a revision, in order, at most 1,000: after
// a full answer, ask again. Revisions are dense, and when one can be read, all
// before it are committed.
func (db *DB) ChangesSince(ctx context.Context, env usher.Environment, revision int64) (_ []Change, err error) {
	defer wrap(&err, "read changes since")
	return list(ctx, db, scanChange, `SELECT revision, customer, access, at, actor, action, object, request_id
		FROM change WHERE env = $1 AND revision > $2 ORDER BY revision LIMIT $3`, string(env), revision, int64(maxChanges))
}

func scanChange(row *sql.Rows, c *Change) error {
	var at, access int64
	err := row.Scan(&c.Revision, &c.Customer, &access, &at, &c.Actor, &c.Action, &c.Object, &c.RequestID)
	c.At, c.Directory = fromMicros(at), access != 0
	return err
}

// RevisionAt reads the newest revision recorded at or before t; 0 if there is none.
func (db *DB) RevisionAt(ctx context.Context, env usher.Environment, t time.Time) (_ int64, err error) {
	defer wrap(&err, "read revision at")
	revision, _, err := one(ctx, db, scanInt,
		`SELECT revision FROM change WHERE env = $1 AND at <= $2 ORDER BY at DESC, revision DESC LIMIT 1`, string(env), micros(t))
	return revision, err
}

// record adds a change to the history and to the audit log. No other function
// writes the history, so that every revision has its audit row. It is the last step
// of a transaction, as audit is.
func (db *DB) record(ctx context.Context, tx *sql.Tx, env usher.Environment, revision int64, customer string, n Note) error {
	_, err := exec(ctx, tx, `INSERT INTO change (env, revision, at, actor, action, customer, object, request_id, access)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		string(env), revision, micros(n.At), n.Actor.String(), n.Action, customer, n.Object, n.RequestID, bit(n.directory))
	if err != nil {
		return err
	}
	return db.audit(ctx, tx, AuditEntry{Env: env, Customer: customer, Revision: revision, Note: n})
}
