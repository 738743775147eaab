// Package store keeps everything in SQLite or PostgreSQL. All SQL of usher is
// here, one file per noun. The store decides nothing: it applies values atomically,
// reads them back, and refuses what would break an invariant of the schema.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/pressly/goose/v3"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// Config says which database to open and how.
type Config struct {
	// DSN is "postgres://…" or "postgresql://…", or the path of a SQLite file.
	// Open creates a file that does not exist.
	DSN string
	// MaxConns bounds the connections to PostgreSQL (default 16, at least 2).
	// SQLite always has one connection to write and at most 4 to read.
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
	lock    *flock.Flock
	now     func() time.Time

	beside  bool
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
	db, err := open(ctx, c)
	if err != nil {
		return nil, err
	}
	db.signKey, db.now, db.beside = key, c.Now, c.Beside
	if db.now == nil {
		db.now = time.Now
	}
	err = db.openAuditKey(ctx)
	if err == nil && !c.Beside { // beside the owner, a write that needs the key reports a missing one
		err = db.checkAuditKey(ctx)
	}
	if err != nil {
		return nil, errors.Join(fault(err), db.Close())
	}
	return db, nil
}

// KeySuffix ends the name of the file with the audit key of a SQLite database.
const KeySuffix = ".audit-key"

func open(ctx context.Context, c Config) (*DB, error) {
	switch {
	case strings.HasPrefix(c.DSN, "postgres://"), strings.HasPrefix(c.DSN, "postgresql://"):
		return openPostgres(ctx, c)
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
	return openSQLite(ctx, c)
}

// Close closes all connections and gives up ownership of a SQLite file.
func (db *DB) Close() (err error) {
	defer wrap(&err, "close")
	err = db.r.Close()
	if db.w != db.r {
		err = errors.Join(err, db.w.Close())
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
	var n int
	return db.r.QueryRowContext(ctx, `SELECT 1`).Scan(&n)
}

//go:embed migrations
var migrations embed.FS

func (db *DB) migrator() (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, "migrations/"+string(db.dialect))
	if err != nil {
		return nil, err
	}
	dialect := goose.DialectSQLite3
	if db.dialect == Postgres {
		dialect = goose.DialectPostgres
	}
	return goose.NewProvider(dialect, db.w, dir, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
}

// migrate brings the schema up to date. The caller holds the lock that keeps other processes from doing the same.
func (db *DB) migrate(ctx context.Context, beside bool) error {
	m, err := db.migrator()
	if err != nil {
		return err
	}
	sources := m.ListSources()
	newest := sources[len(sources)-1].Version
	have, err := db.version(ctx)
	if err != nil {
		return fault(err)
	}
	switch {
	case have > 0 && have < sources[0].Version:
		return usher.Errorf(usher.Refused,
			"the database was made by a build from before the first release, which no release can read: create a new one with `usher init`")
	case have > newest:
		return usher.Errorf(usher.Refused,
			"the database has schema version %d and this usher knows up to version %d: run the newer usher", have, newest)
	case have == newest:
		return nil
	case beside && have == 0:
		return usher.Errorf(usher.NotFound, "the database is empty: `usher init` or `usher serve` creates the schema")
	case beside:
		return usher.Errorf(usher.Conflict,
			"the database has schema version %d and this usher needs %d: start `usher serve` of this version once", have, newest)
	}
	_, err = m.Up(ctx)
	return fault(err)
}

// version is the newest migration applied; 0 is an empty database. It asks
// without goose, which would create its table first.
func (db *DB) version(ctx context.Context) (int64, error) {
	exists := `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'goose_db_version'`
	if db.dialect == Postgres {
		exists = `SELECT count(*) FROM pg_class WHERE oid = to_regclass('goose_db_version')`
	}
	var n int64
	if err := db.w.QueryRowContext(ctx, exists).Scan(&n); err != nil || n == 0 {
		return 0, err
	}
	err := db.w.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version`).Scan(&n)
	return n, err
}
