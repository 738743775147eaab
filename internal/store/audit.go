package store

import (
	"context"
	"database/sql"

	"github.com/usher-sh/usher"
)

// AuditEntry is one write, to be noted in the audit log.
type AuditEntry struct {
	Env      usher.Environment // "": the installation: operators, sessions
	Customer string            // "": none
	Revision int64             // 0: the write makes none
	Meta
}

// audit appends e to the audit log, in the transaction of the write itself. It
// is the last lock that a transaction takes (environment, customer, key, audit),
// so call it after every other statement that may wait for another writer.
// record calls it for every write that makes a revision.
func (db *DB) audit(ctx context.Context, tx *sql.Tx, e AuditEntry) error {
	return nil
}
