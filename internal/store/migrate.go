package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"io/fs"

	"github.com/pressly/goose/v3"

	"github.com/usher-sh/usher"
)

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

// schema returns what migrates the database and the version that it has; 0 is an empty
// one. It returns Refused for a version that this build cannot read.
func (db *DB) schema(ctx context.Context) (m *goose.Provider, have int64, err error) {
	if m, err = db.migrator(); err != nil {
		return nil, 0, err
	}
	sources := m.ListSources()
	db.newest = sources[len(sources)-1].Version
	if have, err = db.version(ctx); err != nil {
		return nil, 0, fault(err)
	}
	switch {
	case have > 0 && have < sources[0].Version:
		err = usher.Errorf(usher.Refused,
			"the database was made by a build from before the first release, which no release can read: create a new one with `usher init`")
	case have > db.newest:
		err = usher.Errorf(usher.Refused,
			"the database has schema version %d and this usher knows up to version %d: run the newer usher", have, db.newest)
	}
	return m, have, err
}

// migrate brings the schema up to date. The caller holds the lock that keeps other processes from doing the same.
func (db *DB) migrate(ctx context.Context, beside bool) error {
	m, have, err := db.schema(ctx)
	if err != nil {
		return err
	}
	if half, err := db.exists(ctx, "copying"); err != nil {
		return fault(err)
	} else if half {
		return usher.Errorf(usher.Refused,
			"the database is the target of a copy that has not ended: run the same `usher copy` or `usher restore` again, which goes on")
	}
	switch {
	case have == db.newest:
		return db.checkMigrations(ctx, have, !beside)
	case beside && have == 0:
		return usher.Errorf(usher.NotFound, "the database is empty: `usher init` or `usher serve` creates the schema")
	case beside:
		return usher.Errorf(usher.Conflict,
			"the database has schema version %d and this usher needs %d: start `usher serve` of this version once", have, db.newest)
	}
	if err := db.checkMigrations(ctx, have, false); err != nil {
		return err
	}
	if _, err = m.Up(ctx); err != nil {
		return fault(err)
	}
	return db.checkMigrations(ctx, db.newest, true)
}

// firstHash is the migration that makes the table of hashes.
const firstHash = 8

// checkMigrations compares the migrations of this build with those that the database
// has, up to a version, and returns Refused if one is not the same: it would read and
// write another schema than it knows. With record, it notes those not yet noted.
func (db *DB) checkMigrations(ctx context.Context, have int64, record bool) error {
	if have < firstHash {
		return nil
	}
	known, err := migrationHashes(db.dialect)
	if err != nil {
		return err
	}
	type row struct {
		version int64
		hash    string
	}
	rows, err := list(ctx, atOnce{db.w}, func(rows *sql.Rows, r *row) error { return rows.Scan(&r.version, &r.hash) },
		`SELECT version, hash FROM migration_hash`)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if hash, ok := known[r.version]; ok && hash != r.hash {
			return usher.Errorf(usher.Refused, "migration %d of the database differs from the one of this usher: "+
				"the database was made by a build that was never released, or this build was changed; run the usher that made it", r.version)
		}
		delete(known, r.version)
	}
	if !record {
		return nil
	}
	for version, hash := range known {
		if _, err := db.w.ExecContext(ctx, `INSERT INTO migration_hash (version, hash) VALUES ($1, $2)`, version, hash); err != nil {
			return fault(err)
		}
	}
	return nil
}

// migrationHashes returns the SHA-256 of each migration's text, by version.
func migrationHashes(d Dialect) (map[int64]string, error) {
	dir := "migrations/" + string(d)
	files, err := migrations.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := map[int64]string{}
	for _, f := range files {
		text, err := migrations.ReadFile(dir + "/" + f.Name())
		if err != nil {
			return nil, err
		}
		version, err := goose.NumericComponent(f.Name())
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(text)
		all[version] = hex.EncodeToString(sum[:])
	}
	return all, nil
}

// atOnce is a database as a reader that keeps no statements.
type atOnce struct{ *sql.DB }

func (d atOnce) query(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	return d.QueryContext(ctx, text, args...)
}

const selectVersion = `SELECT coalesce(max(version_id), 0) FROM goose_db_version`

// version is the newest migration applied; 0 is an empty database. It asks
// without goose, which would create its table first.
func (db *DB) version(ctx context.Context) (n int64, err error) {
	if is, err := db.exists(ctx, "goose_db_version"); err != nil || !is {
		return 0, err
	}
	err = db.w.QueryRowContext(ctx, selectVersion).Scan(&n)
	return n, err
}

// exists reports whether there is a table.
func (db *DB) exists(ctx context.Context, table string) (bool, error) {
	text := `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = $1`
	if db.dialect == Postgres {
		text = `SELECT count(*) FROM pg_class WHERE oid = to_regclass($1)`
	}
	var n int64
	err := db.w.QueryRowContext(ctx, text, table).Scan(&n)
	return n > 0, err
}
