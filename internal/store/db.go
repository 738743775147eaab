// Package store keeps everything in SQLite or PostgreSQL. All SQL of usher is
// here, one file per noun. The store decides nothing: it applies values atomically,
// reads them back, and refuses what would break an invariant of the schema.
package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// Config says which database to open and how.
type Config struct {
	// DSN is "postgres://…" or "postgresql://…", or the path of a SQLite file.
	// Open creates a file that does not exist.
	DSN string
	// MaxConns bounds the connections to PostgreSQL (default 16, at least 2), besides
	// at most 2 that write use. SQLite always has one connection to write and at most 4 to read.
	MaxConns int
	// Beside opens a database while another process owns it, as `usher key` does:
	// it takes no lock, creates nothing and does not migrate.
	Beside bool
	// OpenSQLite opens a SQLite file for database/sql; the URI holds the pragmas
	// and the mode of transactions. nil: the built-in driver. Tests pass a driver
	// whose files fail.
	OpenSQLite func(uri string) (*sql.DB, error)
	// AuditKey is the private key that signs the audit log, in the form that
	// audit.ParseKey reads. "": for SQLite it is in a file beside the database, with
	// KeySuffix after its name, which Open creates unless Beside is set; for
	// PostgreSQL, and with OpenSQLite, the first write creates one in the database.
	AuditKey string
	// Now returns real time, for the audit log (default time.Now).
	Now func() time.Time
}

// Dialect is a kind of database.
type Dialect string

// The databases that usher runs on.
const (
	SQLite   Dialect = "sqlite"
	Postgres Dialect = "postgres"
)

// DB is an open, migrated database. Its methods are safe for concurrent use.
// Their errors have code Unavailable for an outage, and only for an outage: the
// database cannot be reached, shuts down, has no room, or was busy for too long.
// Nothing is known to be applied then; try again. An error without a code is a
// bug, or the caller's context that ended.
type DB struct {
	dialect Dialect
	r       *sql.DB // reads; cannot write on SQLite
	w       *sql.DB // writes: one connection on SQLite; on PostgreSQL the same as r
	takes   *sql.DB // writes of Usage: on PostgreSQL connections of its own; on SQLite w
	lock    *flock.Flock
	now     func() time.Time

	beside  bool
	file    string                       // the SQLite file, with links resolved; "": another driver's, or PostgreSQL
	opened  os.FileInfo                  // of file, as it was opened
	mark    fileMark                     // of file, when it was opened
	newest  int64                        // the newest migration that this build knows
	stopped atomic.Pointer[usher.Error]  // why this process may not go on, as Watch found it; nil: it may
	keyFile string                       // where the audit key of a SQLite file is unless Config gives one; "": in the database
	signKey *audit.Signer                // from Config or keyFile; nil: the key is in the database
	keptKey atomic.Pointer[audit.Signer] // the key in the database, once it was read
	// auditEnd is the end of the audit log that this process saw last. It saves
	// reading the hashes. nil: not known.
	auditEnd atomic.Pointer[auditEnd]

	hours sync.Map // usher.Environment → hourMarks

	writing sync.Mutex              // SQLite: one batch at a time
	kept    map[statement]*sql.Stmt // SQLite: of w; guarded by writing
	stmts   sync.Map                // SQLite: text → *sql.Stmt of r, because it compiles each statement anew
}

// Open opens the database, brings its schema up to date, and, for SQLite, owns
// the file until Close. It returns Conflict if another process owns the file,
// Refused for the database of a newer usher, Invalid for a path that cannot be a
// database, and Unavailable if the database cannot be reached.
func Open(ctx context.Context, c Config) (*DB, error) {
	var key *audit.Signer
	if c.AuditKey != "" {
		var err error
		if key, err = audit.ParseKey(c.AuditKey); err != nil {
			return nil, usher.Errorf(usher.Invalid, "%s", err)
		}
	}
	db, err := open(ctx, c, func(ctx context.Context, db *DB) error { return db.migrate(ctx, c.Beside) })
	if err != nil {
		return nil, err
	}
	db.signKey = key
	err = db.openAuditKey(ctx)
	if err == nil && !c.Beside { // beside the owner, a write that needs the key reports a missing one
		if err = db.checkAuditKey(ctx); err == nil {
			err = db.firstEpoch(ctx)
		}
	}
	if err != nil {
		return nil, errors.Join(fault(err), db.Close())
	}
	return db, nil
}

// KeySuffix ends the name of the file with the audit key of a SQLite database.
const KeySuffix = ".audit-key"

// open connects to the database and lets prepare see to its schema.
func open(ctx context.Context, c Config, prepare func(context.Context, *DB) error) (*DB, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case strings.HasPrefix(c.DSN, "postgres://"), strings.HasPrefix(c.DSN, "postgresql://"):
		return openPostgres(ctx, c, prepare)
	case c.DSN == "":
		return nil, usher.Errorf(usher.Invalid, `no database given: give the path of a SQLite file or a postgres://… address`)
	case strings.Contains(c.DSN, ":memory:"), strings.HasPrefix(c.DSN, "file:"):
		return nil, usher.Errorf(usher.Invalid,
			`the database %q must be the plain path of a file; for a temporary database, use a file in a temporary folder`, c.DSN)
	case strings.Contains(c.DSN, "://"):
		scheme, _, _ := strings.Cut(c.DSN, "://")
		return nil, usher.Errorf(usher.Invalid,
			`unknown kind of database %s://…: give the path of a SQLite file or a postgres://… address`, scheme)
	}
	return openSQLite(ctx, c, prepare)
}

// Close closes all connections and gives up ownership of a SQLite file.
func (db *DB) Close() (err error) {
	defer wrap(&err, "close")
	if db.file != "" && !db.beside && db.mayWork() == nil {
		err = db.setMark(context.Background(), markClosed)
	}
	err = errors.Join(err, db.r.Close())
	if db.w != db.r {
		err = errors.Join(err, db.w.Close())
	}
	if db.takes != db.w {
		err = errors.Join(err, db.takes.Close())
	}
	if db.lock != nil {
		// The lock file stays: removing it would let two processes each lock
		// "the" file, one of them an unlinked one.
		err = errors.Join(err, db.lock.Unlock())
	}
	return err
}

// Dialect returns the kind of database.
func (db *DB) Dialect() Dialect { return db.dialect }

// Ping returns an Unavailable error unless the database answers.
func (db *DB) Ping(ctx context.Context) (err error) {
	defer wrap(&err, "ping")
	if err := db.mayWork(); err != nil {
		return err
	}
	var n int
	return db.r.QueryRowContext(ctx, `SELECT 1`).Scan(&n)
}
