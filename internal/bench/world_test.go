package main

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/server"
	"github.com/usher-sh/usher/internal/testpg"
	"github.com/usher-sh/usher/internal/usage"
)

func TestMain(m *testing.M) { testpg.Main(m) }

const catalogue = `usher: 1
meters:
  tokens: {event: llm.completion, sum: data.tokens, dimensions: [data.model]}
features:
  sso:    {kind: switch}
  calls:  {kind: metered}
  tokens: {kind: metered, meter: tokens}
plans:
  free: {default: true, entitlements: {calls: {limit: 10, per: month}}}
  pro:
    entitlements:
      sso: true
      calls: {limit: 1000000000000, per: month}
      tokens: {limit: 1000000000000, per: month, overage: unlimited}
`

// env is the environment that all benchmarks use.
const env = usher.Production

// world is a server with its rooms, in this process.
type world struct {
	*server.Server
	founding string      // the customer that is being created; ids contain it
	earlier  atomic.Bool // it is two minutes ago
	stop     func()      // closes the server, once
}

// open starts a server as cmd/usher does, with ids that name their customer.
func open(b testing.TB, dsn string) *world {
	b.Helper()
	w := &world{}
	var err error
	w.Server, err = server.Open(context.Background(), server.Config{DB: dsn, Version: "bench",
		Now: func() time.Time {
			if w.earlier.Load() {
				return time.Now().Add(-2 * time.Minute)
			}
			return time.Now()
		},
		NewID: func(prefix string) string {
			if w.founding == "" {
				return usher.NewID(prefix, time.Now(), nil)
			}
			return prefix + w.founding
		},
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	must(b, err)
	w.stop = sync.OnceFunc(func() {
		if err := w.Close(); err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(w.stop)
	return w
}

// customer returns the n-th customer's id. All ids have the same length.
func customer(n int) string { return fmt.Sprintf("c%07d", n) }

// found applies the catalogue and creates customers 0 to n-1, ten days ago on the plan
// pro, with the product's own functions. It does so two minutes ago: use is reported of
// the last minute, and would be of a time before the customers otherwise.
func (w *world) found(b testing.TB, n int) {
	b.Helper()
	w.earlier.Store(true)
	defer w.earlier.Store(false)
	ctx := context.Background()
	_, err := w.Catalog.Apply(ctx, env, usher.By{}, []byte(catalogue), catalog.Options{})
	must(b, err)
	since := time.Now().UTC().Add(-10 * 24 * time.Hour).Truncate(time.Minute)
	for i := range n {
		w.founding = customer(i)
		_, _, err := w.Customers.PutCustomer(ctx, env, usher.By{}, customers.Guard{}, customer(i),
			customers.CustomerInput{Name: "Company " + customer(i), Anchor: &since})
		must(b, err)
		_, err = w.Customers.Subscribe(ctx, env, usher.By{}, customers.Guard{}, customer(i),
			customers.NewSubscription{Plan: "pro", StartsAt: &since})
		must(b, err)
	}
	w.founding = ""
}

// key creates an application's API key.
func (w *world) key(b testing.TB) string {
	b.Helper()
	key, _, err := w.Auth.Create(context.Background(), usher.Actor{Kind: "cli"}, env, "bench", auth.RoleApp, time.Time{})
	must(b, err)
	return key
}

// listen serves h as the product does and returns its address.
func listen(b testing.TB, h http.Handler) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	s := door.NewServer("", h)
	go s.Serve(l)
	b.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// bulk opens the database without usher, to insert rows by the million. No server may
// use the file meanwhile.
func bulk(b testing.TB, dsn string, fill func(c *sql.Conn)) {
	b.Helper()
	postgres := strings.HasPrefix(dsn, "postgres")
	driver, name := "pgx", dsn
	if !postgres {
		// Nothing here must survive a crash; it is built again.
		pragmas := "?_pragma=journal_mode(OFF)&_pragma=synchronous(OFF)&_pragma=cache_size(-400000)&_pragma=locking_mode(EXCLUSIVE)"
		driver, name = "sqlite", "file:"+filepath.ToSlash(dsn)+pragmas
	}
	db, err := sql.Open(driver, name)
	must(b, err)
	defer db.Close()
	c, err := db.Conn(b.Context())
	must(b, err)
	defer c.Close()
	fill(c)
	if postgres {
		do(b, c, `VACUUM (ANALYZE)`) // otherwise it would run by itself during the measurement
		do(b, c, `CHECKPOINT`)
		return
	}
	// Written now and not during the measurement.
	f, err := os.OpenFile(dsn, os.O_RDWR, 0)
	must(b, err)
	must(b, f.Sync())
	must(b, f.Close())
}

func do(b testing.TB, c *sql.Conn, text string, args ...any) {
	b.Helper()
	if _, err := c.ExecContext(b.Context(), text, args...); err != nil {
		b.Fatalf("%s: %v", text, err)
	}
}

func columns(b testing.TB, c *sql.Conn, table string) []string {
	b.Helper()
	rows, err := c.QueryContext(b.Context(), `SELECT * FROM `+table+` LIMIT 0`)
	must(b, err)
	defer rows.Close()
	names, err := rows.Columns()
	must(b, err)
	return names
}

// multiply adds rows to a table: for each n in 1…count a copy of the rows that satisfy
// where. It computes the columns in change and copies all others.
func multiply(b testing.TB, c *sql.Conn, table, where string, count int, change func(column string) string) {
	b.Helper()
	var exprs []string
	names := columns(b, c, table)
	for _, name := range names {
		if e := change(name); e != "" {
			exprs = append(exprs, e)
		} else {
			exprs = append(exprs, "m."+name)
		}
	}
	do(b, c, `CREATE TEMP TABLE model AS SELECT * FROM `+table+` WHERE `+where)
	do(b, c, fmt.Sprintf(`INSERT INTO %s (%s) WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < %d)
		SELECT %s FROM series, model m`, table, strings.Join(names, ", "), count, strings.Join(exprs, ", ")))
	do(b, c, `DROP TABLE model`)
}

// multiplyCustomers creates customer n, for n in 1…count, from every row that names
// customer 0, in every table except the audit log, as if each had been created after
// the other, step revisions apart. SQLite only.
func multiplyCustomers(b testing.TB, c *sql.Conn, count int, step int64) {
	b.Helper()
	var tables []string
	rows, err := c.QueryContext(b.Context(),
		`SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name NOT LIKE 'audit%'`)
	must(b, err)
	for rows.Next() {
		var name string
		must(b, rows.Scan(&name))
		tables = append(tables, name)
	}
	must(b, rows.Close())
	for _, table := range tables {
		var mentions []string
		for _, name := range columns(b, c, table) {
			mentions = append(mentions, fmt.Sprintf(`(typeof(%s) = 'text' AND instr(%s, '%s') > 0)`, name, name, customer(0)))
		}
		where := strings.Join(mentions, " OR ")
		var found bool
		must(b, c.QueryRowContext(b.Context(), `SELECT EXISTS (SELECT 1 FROM `+table+` WHERE `+where+`)`).Scan(&found))
		if !found {
			continue
		}
		multiply(b, c, table, where, count, func(column string) string {
			if column == "revision" || column == "recorded_from" {
				return fmt.Sprintf("m.%s + n * %d", column, step)
			}
			return fmt.Sprintf(`CASE WHEN typeof(m.%s) = 'text' AND instr(m.%s, '%s') > 0
				THEN replace(m.%s, '%s', printf('c%%07d', n)) ELSE m.%s END`,
				column, column, customer(0), column, customer(0), column)
		})
	}
	do(b, c, `UPDATE environment SET revision = revision + $1 WHERE env = $2`, int64(count)*step, string(env))
}

// manyCustomers builds a SQLite file with a number of customers, each on a plan and
// with some use, and returns it with an application's key.
func manyCustomers(b testing.TB, dir string, count int) (file, key string) {
	b.Helper()
	file = filepath.Join(dir, fmt.Sprintf("customers-%d.db", count))
	w := open(b, file)
	w.found(b, 1)
	key = w.key(b)
	revision := w.Live.Revision(env)
	d, err := w.Usage.Consume(b.Context(), env, usage.ConsumeOp{Customer: customer(0), Feature: "calls", Key: "first-" + customer(0),
		Amount: "3"})
	must(b, err)
	if !d.Allowed {
		b.Fatalf("got %+v", d)
	}
	w.stop()
	bulk(b, file, func(c *sql.Conn) { multiplyCustomers(b, c, count-1, 2) })
	// Each decides as the first one does, and there is none after the last.
	w = open(b, file)
	defer w.stop()
	for _, n := range []int{0, 1, count / 2, count - 1, count} {
		d, err := decide.New(w.Live).Check(b.Context(), env, decide.CheckQuery{Customer: customer(n), Feature: "calls"}, nil)
		must(b, err)
		if want := n < count; d.Allowed != want || want && (d.Used != 3 || d.Plan.Key != "pro") {
			b.Fatalf("customer %d of %d: got %+v", n, count, d)
		}
	}
	if got, want := w.Live.Revision(env), revision+2*int64(count-1); got != want {
		b.Fatalf("revision %d, want %d", got, want)
	}
	return file, key
}

func must(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
