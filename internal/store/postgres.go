package store

import (
	"context"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/usher-sh/usher"
)

// migrationLock is the advisory lock under which one process migrates: "usher".
const migrationLock = 0x75736872

// PlainText reports whether connections to dsn may go to another machine without
// encryption: neither dsn nor PGSSLMODE sets sslmode. A SQLite file makes no
// connections.
func PlainText(dsn string) bool {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") || os.Getenv("PGSSLMODE") != "" {
		return false
	}
	u, err := url.Parse(dsn)
	if err == nil && u.Query().Get("sslmode") != "" {
		return false
	}
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return false // Open says why
	}
	local := func(host string) bool {
		ip, err := netip.ParseAddr(host)
		return strings.HasPrefix(host, "/") || host == "localhost" || err == nil && ip.IsLoopback()
	}
	far := !local(cfg.Host)
	for _, f := range cfg.Fallbacks {
		far = far || !local(f.Host)
	}
	return far
}

func openPostgres(ctx context.Context, c Config) (_ *DB, err error) {
	cfg, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		return nil, usher.Errorf(usher.Invalid, "the PostgreSQL address is not valid: %v", err) // pgx leaves the password out
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "usher"
	}
	// A plan that was made while a table was small reads the whole table after it
	// has grown, up to a hundred times slower, until autovacuum analyzes it. ANALYZE
	// of the empty tables makes that worse. Planning each time costs 50 µs.
	cfg.RuntimeParams["plan_cache_mode"] = "force_custom_plan"
	// If the server's own default is off, a crash loses commits that were answered.
	// The address may ask for more (remote_apply).
	if cfg.RuntimeParams["synchronous_commit"] == "" {
		cfg.RuntimeParams["synchronous_commit"] = "on"
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
		return nil, fault(err)
	}
	defer conn.Close()
	if !c.Beside {
		if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, int64(migrationLock)); err != nil {
			return nil, fault(err)
		}
		defer conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, int64(migrationLock))
	}
	if err := db.migrate(ctx, c.Beside); err != nil {
		return nil, err
	}
	return db, nil
}
