package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/usher-sh/usher"
)

// migrationLock is the advisory lock under which one process migrates: "usher".
const migrationLock = 0x75736872

func openPostgres(ctx context.Context, c Config) (_ *DB, err error) {
	cfg, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		return nil, usher.Errorf(usher.Invalid, "the PostgreSQL address is not valid: %v", err) // pgx leaves the password out
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "usher"
	}
	pool := stdlib.OpenDB(*cfg)
	conns := c.MaxConns
	if conns == 0 {
		conns = 16
	}
	conns = max(conns, 2) // migrating takes two
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	db := &DB{dialect: Postgres, r: pool, w: pool}
	defer func() {
		if err != nil {
			pool.Close()
		}
	}()

	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, db.fault(err)
	}
	defer conn.Close()
	if c.Beside {
		_, err = db.migrate(ctx, true)
		return db, err
	}
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, int64(migrationLock)); err != nil {
		return nil, db.fault(err)
	}
	defer conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, int64(migrationLock))
	changed, err := db.migrate(ctx, false)
	if err != nil {
		return nil, err
	}
	if changed {
		// Plans made before the first ANALYZE are guesses that stay cached.
		if _, err := conn.ExecContext(ctx, `ANALYZE`); err != nil {
			return nil, fmt.Errorf("analyze: %w", db.fault(err))
		}
	}
	return db, nil
}
