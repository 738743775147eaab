package store

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/usher-sh/usher"
)

// A bug must look like one: an outage would tell the caller to try again, and
// nobody would look for the cause.
func TestABugIsNoOutage(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		put(t, db, "acme")
		run := func(text string, args ...any) func() error {
			return func() error {
				return db.tx(t.Context(), func(tx *sql.Tx) error {
					_, err := exec(t.Context(), tx, text, args...)
					return err
				})
			}
		}
		read := func(to any, text string) func() error {
			return func() error {
				_, err := list(t.Context(), db, func(row *sql.Rows, _ *int) error { return row.Scan(to) }, text)
				return err
			}
		}
		var n int64
		for name, f := range map[string]func() error{
			"a syntax error":               run(`UPDATE customer SETT name = 'x'`),
			"a table that does not exist":  run(`UPDATE customers SET name = 'x'`),
			"a column that does not exist": read(&n, `SELECT nome FROM customer`),
			"NULL where it is not allowed": run(`UPDATE customer SET name = NULL`),
			"a primary key used twice": run(`INSERT INTO environment (env, revision, catalog_revision, clock_at)
				VALUES ('production', 0, 0, -1)`),
			"a check of the schema": run(`INSERT INTO bucket (customer, env, ` + bucketColumns + `)
				VALUES ('acme', 'production', 'api', '', 0, 1, 0, 5, 0, 6, 0, 0, 0, 0)`),
			"too few arguments":            run(`UPDATE customer SET name = $1 WHERE id = $2`, "x"),
			"a text scanned into a number": read(&n, `SELECT name FROM customer`),
			"NULL scanned into a number":   read(&n, `SELECT max(revision) FROM customer WHERE id = 'nobody'`),
			"a body that is not JSON": func() error {
				_, _, err := one(t.Context(), db, scanBody[usher.Customer], `SELECT '{"id":' FROM customer`)
				return err
			},
			"an error of the caller's function": func() error {
				return db.tx(t.Context(), func(*sql.Tx) error { return errors.New("the caller's own") })
			},
		} {
			err := f()
			var coded *usher.Error
			if err == nil || errors.As(err, &coded) {
				t.Errorf("%s: got %v, want an error without a code", name, err)
			}
		}
	})
}

// A caller that gave up gets the error of its context.
func TestACallerThatGaveUpIsNoOutage(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := db.Environment(ctx, env); !errors.Is(err, context.Canceled) || usher.ErrorCode(err) == usher.Unavailable {
			t.Errorf("before the call: got %v", err)
		}
		endless := `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n`
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := list(ctx, db, func(row *sql.Rows, n *int64) error { return row.Scan(n) }, endless)
		if !errors.Is(err, context.DeadlineExceeded) || usher.ErrorCode(err) == usher.Unavailable {
			t.Errorf("while the database works: got %v", err)
		}
	})
}

// with adds parameters of the server to an address.
func with(t *testing.T, dsn string, params ...string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func wantOutage(t *testing.T, err error, words string) {
	t.Helper()
	wantCode(t, err, usher.Unavailable)
	if err != nil && !strings.Contains(err.Error(), words) {
		t.Errorf("got %q, want it to say %q", err, words)
	}
}

func TestPostgresOutages(t *testing.T) {
	t.Parallel()
	dsn := postgresDSN(t)
	db := openTest(t, dsn)
	put(t, db, "acme")

	// The server's own limits, not the caller's.
	hasty := openTest(t, with(t, dsn, "lock_timeout", "20ms", "statement_timeout", "200ms"))
	err := hasty.tx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), `SELECT pg_sleep(10)`)
		return err
	})
	wantOutage(t, err, saysBusy)
	err = db.tx(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(t.Context(), `SELECT 1 FROM environment FOR UPDATE`); err != nil {
			return err
		}
		_, err := hasty.ChangeCustomer(t.Context(), CustomerChange{Env: env, Note: note("x", day(1)), Customer: "b", Put: customer("b")})
		wantOutage(t, err, saysBusy)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	standby, err := Open(t.Context(), Config{DSN: with(t, dsn, "default_transaction_read_only", "on"), Beside: true})
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Close()
	_, err = standby.ChangeCustomer(t.Context(), CustomerChange{Env: env, Note: note("x", day(1)), Customer: "b", Put: customer("b")})
	wantOutage(t, err, saysReadOnly)

	_, err = Open(t.Context(), Config{DSN: "postgres://usher@127.0.0.1:1/usher?sslmode=disable"})
	wantOutage(t, err, saysNoServer)

	admin := openTest(t, postgresDSN(t))
	name := strings.TrimPrefix(dsn[:strings.Index(dsn, "?")], "postgres:///")
	write(t, admin, `DROP DATABASE `+name+` WITH (FORCE)`)
	for _, err := range []error{db.Ping(t.Context()), db.Ping(t.Context())} { // one on a connection that is cut, one on a new one
		wantCode(t, err, usher.Unavailable)
	}
}

// Codes that no test server sends when asked.
func TestPostgresCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ code, severity, want string }{
		{"53300", "FATAL", saysOverload}, {"57P03", "FATAL", saysOverload}, {"57P02", "FATAL", saysLost}, {"58030", "ERROR", saysLost},
		{"53100", "ERROR", saysFull}, {"28P01", "FATAL", saysNoAccess}, {"08006", "ERROR", saysLost},
		{"08P01", "FATAL", saysLost}, // pgbouncer gives up a client
		{"08P01", "ERROR", ""},       // PostgreSQL: the message does not fit the statement
		{"42501", "ERROR", ""}, {"XX000", "ERROR", ""}, {"22003", "ERROR", ""}, {"", "ERROR", ""},
	} {
		if got := outage(&pgconn.PgError{Code: c.code, Severity: c.severity}); got != c.want {
			t.Errorf("%s %s: got %q, want %q", c.severity, c.code, got, c.want)
		}
	}
}

func TestSQLiteOutages(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "usher.db")
	db, err := Open(t.Context(), Config{DSN: file, OpenSQLite: func(uri string) (*sql.DB, error) {
		return sql.Open("sqlite", strings.Replace(uri, "busy_timeout%2810000%29", "busy_timeout%281%29", 1)) // 1 ms
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	put(t, db, "acme")
	other, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	conn, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), `BEGIN IMMEDIATE`); err != nil {
		t.Fatal(err)
	}
	_, err = db.ChangeCustomer(t.Context(), CustomerChange{Env: env, Note: note("x", day(1)), Customer: "b", Put: customer("b")})
	wantOutage(t, err, saysBusy)
	if _, err := conn.ExecContext(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	put(t, db, "b")
}
