package store

import (
	"context"
	"database/sql"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

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

// What usher's connections set for themselves, because the defaults of a server wait
// for ever. An address that names one of these settings wins.
//
// A node may be frozen, or cut off from the database, in the middle of a transaction:
// nobody else gets its locks until the database ends it.
var (
	// everyConnection is for all of them.
	everyConnection = map[string]string{
		"application_name": "usher",
		// If the server's own default is off, a crash loses commits that were answered.
		// The address may ask for more (remote_apply).
		"synchronous_commit": "on",
		// A plan that was made while a table was small reads the whole table after it
		// has grown, up to a hundred times slower, until autovacuum analyzes it. ANALYZE
		// of the empty tables makes that worse. Planning each time costs 50 µs.
		"plan_cache_mode": "force_custom_plan",
		// Between two statements usher computes for milliseconds; three seconds is a node
		// that is frozen. Its locks are free then, well within the 5 s that a caller may
		// wait for a customer, and when it wakes up it finds that its transaction is gone.
		"idle_in_transaction_session_timeout": "3s",
		// Longer than a frozen node may hold a lock, shorter than the time in which an
		// HTTP request must be answered (30 s).
		"lock_timeout": "10s",
		// The same for a machine that is gone or cut off while the server waits for it:
		// silence for 5 + 3 × 2 s, or 10 s in which it takes none of what it was sent (in ms).
		// On a unix socket these do nothing.
		"tcp_keepalives_idle":     "5",
		"tcp_keepalives_interval": "2",
		"tcp_keepalives_count":    "3",
		"tcp_user_timeout":        "10000",
	}
	// writerConnection is for those of Usage, beside everyConnection.
	writerConnection = map[string]string{
		// One writer works for all callers of a node, so it waits briefly for what another
		// transaction has locked: LockFree does not wait at all, and what does wait (a
		// customer that was skipped several times, a key that another node writes just
		// now) waits for some batches of another node, not for a frozen one.
		"lock_timeout": "200ms",
		// The largest batch, 4 × 10,000 events, takes a second or two. Within a batch's
		// own deadline, so that the server gives up before the node does.
		"statement_timeout": "8s",
		// The writer's statements have one text each, for any number of rows, and find
		// every row by an index. So they are planned once, and never as a scan or a hash of
		// a whole table: what a table's size suggests when it is small, or not yet analyzed,
		// is wrong later. Planning each batch anew costs 0.75 ms.
		"plan_cache_mode":  "force_generic_plan",
		"enable_seqscan":   "off",
		"enable_hashjoin":  "off",
		"enable_mergejoin": "off",
	}
)

// dialer makes connections that find out that the server's machine is gone, as the
// settings tcp_… of everyConnection do at the other end.
var dialer = net.Dialer{
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
	Control: func(network, _ string, c syscall.RawConn) error {
		return giveUp(network, c, 10_000)
	},
}

// writerConns is how many connections Usage has. The writer of a node needs one.
const writerConns = 2

// pool returns connections with settings. Earlier ones win, and those of the address
// before all.
func pool(address *pgx.ConnConfig, max int, settings ...map[string]string) *sql.DB {
	cfg := address.Copy()
	for _, set := range settings {
		for name, value := range set {
			if _, ok := cfg.RuntimeParams[name]; !ok {
				cfg.RuntimeParams[name] = value
			}
		}
	}
	p := stdlib.OpenDB(*cfg)
	p.SetMaxOpenConns(max)
	p.SetMaxIdleConns(max)
	return p
}

func openPostgres(ctx context.Context, c Config, prepare func(context.Context, *DB) error) (*DB, error) {
	cfg, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		return nil, usher.Errorf(usher.Invalid, "the PostgreSQL address is not valid: %v", err) // pgx leaves the password out
	}
	cfg.DialFunc = dialer.DialContext
	db := &DB{dialect: Postgres, now: c.Now, beside: c.Beside}
	if err := db.preparePostgres(ctx, cfg, prepare); err != nil {
		return nil, err
	}
	conns := c.MaxConns
	if conns == 0 {
		conns = 16
	}
	db.r = pool(cfg, max(conns, 2), everyConnection)
	db.w, db.takes = db.r, pool(cfg, writerConns, writerConnection, everyConnection)
	return db, nil
}

// preparePostgres sees to the schema. Its connections are its own, and wait as
// long as it takes: for another process that does the same, and for an index on a
// large table.
func (db *DB) preparePostgres(ctx context.Context, cfg *pgx.ConnConfig, prepare func(context.Context, *DB) error) error {
	own := pool(cfg, 2) // one for the lock
	defer own.Close()
	db.r, db.w = own, own
	conn, err := own.Conn(ctx)
	if err != nil {
		return fault(err)
	}
	defer conn.Close()
	if !db.beside {
		if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, int64(migrationLock)); err != nil {
			return fault(err)
		}
		defer conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, int64(migrationLock))
	}
	return prepare(ctx, db)
}
