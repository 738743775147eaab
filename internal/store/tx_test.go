package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/testpg"
)

// A driver that binds $2 to the first argument because it comes first in the
// text swaps values silently; all SQL here counts on numbers.
func TestPlaceholdersBindByNumber(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		var a, b, c string
		err := db.r.QueryRowContext(t.Context(), `SELECT CAST($2 AS TEXT), CAST($1 AS TEXT), CAST($2 AS TEXT)`, "one", "two").Scan(&a,
			&b, &c)
		if err != nil || a != "two" || b != "one" || c != "two" {
			t.Errorf("SELECT $2, $1, $2: got %s %s %s, %v", a, b, c, err)
		}
		write(t, db, `UPDATE environment SET revision = $3, clock_at = $2 WHERE env = $1`, "sandbox", int64(2), int64(3))
		if e, err := db.Environment(t.Context(), usher.Sandbox); err != nil || e.Revision != 3 || micros(e.Clock) != 2 {
			t.Errorf("UPDATE with $3, $2, $1: got %+v, %v", e, err)
		}
	})
}

func TestI6_DiskFullLeavesNothing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "usher.db")
	db := openTest(t, file)
	change(t, db, CustomerChange{Customer: "acme", Put: customer("acme"),
		Subscriptions: []usher.Subscription{subscription("sub_1", "acme", "free@1")}})
	var pages int
	if err := db.w.QueryRowContext(t.Context(), `PRAGMA page_count`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	before := dump(t, db)
	big := override("ov_1", "acme", "sso")
	big.Reason = strings.Repeat("why ", 20_000)
	try := func() (int64, error) {
		s := load(t, db, env, "acme", 0)
		return db.ChangeCustomer(t.Context(), CustomerChange{Env: env, Note: note("x", day(2)), Customer: "acme", Basis: s.Revision,
			Subscriptions: []usher.Subscription{subscription("sub_1", "acme", "pro@1")}, Overrides: []usher.Override{big},
			Answer: answer("key")})
	}
	// One page more each time, so that the disk is full at many places.
	refused := 0
	for extra := 0; ; extra++ {
		if _, err := db.w.ExecContext(t.Context(), fmt.Sprintf(`PRAGMA max_page_count = %d`, pages+extra)); err != nil {
			t.Fatal(err)
		}
		_, err := try()
		if err == nil {
			break
		}
		refused++
		if usher.ErrorCode(err) != usher.Unavailable || !strings.Contains(err.Error(), "disk is full") {
			t.Fatalf("%d pages left: got %v, want unavailable, because the disk is full", extra, err)
		}
		if after := dump(t, db); !reflect.DeepEqual(before, after) {
			t.Fatalf("%d pages left: a change that failed left something", extra)
		}
		if a, err := db.Answer(t.Context(), env, "key"); a != nil || err != nil {
			t.Fatalf("%d pages left: got an answer %+v, %v of a change that failed", extra, a, err)
		}
		if e, err := db.Environment(t.Context(), env); err != nil || e.Revision != 1 {
			t.Fatalf("%d pages left: revision is %d, %v, want 1", extra, e.Revision, err)
		}
	}
	if refused < 5 {
		t.Errorf("the disk was full only %d times", refused)
	}
	if s := load(t, db, env, "acme", 0); s.Revision != 2 || len(s.Overrides) != 1 {
		t.Errorf("with room again: got %+v", s)
	}
}

// Two transactions that lock two rows crosswise both get through.
func TestDeadlocksAreRunAgain(t *testing.T) {
	t.Parallel()
	db := openTest(t, postgresDSN(t))
	put(t, db, "a")
	put(t, db, "b")
	// Each holds its first row before either asks for the second, once.
	var met [2]chan struct{}
	met[0], met[1] = make(chan struct{}), make(chan struct{})
	errs := make(chan error)
	for i, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		go func() {
			runs := 0
			errs <- db.tx(t.Context(), func(tx *sql.Tx) error {
				runs++
				for j, id := range order {
					if j == 1 && runs == 1 {
						close(met[i])
						<-met[1-i]
					}
					if _, err := tx.ExecContext(t.Context(), `UPDATE customer SET name = name || '+' WHERE id = $1`, id); err != nil {
						return err
					}
				}
				return nil
			})
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"a", "b"} {
		if c, err := db.Customer(t.Context(), env, id); err != nil || !strings.HasSuffix(c.Name, id+"++") {
			t.Errorf("%s: got %q, %v, want both updates once", id, c.Name, err)
		}
	}
}

func TestErrorsAreInPlainWords(t *testing.T) {
	t.Parallel()
	server, err := testpg.Start()
	if errors.Is(err, testpg.ErrNoBinaries) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	dsn, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/nosuchdb"
	_, err = Open(t.Context(), Config{DSN: u.String()})
	wantCode(t, err, usher.Unavailable)

	db, err := Open(t.Context(), Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	put(t, db, "acme")

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.Environment(gone, env); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has gone: got %v", err)
	}
	// The connection breaks under a transaction.
	err = db.tx(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(t.Context(), `UPDATE customer SET name = 'half'`); err != nil {
			return err
		}
		if _, err := tx.ExecContext(t.Context(), `SELECT pg_terminate_backend(pg_backend_pid())`); err != nil {
			return err
		}
		_, err := tx.ExecContext(t.Context(), `UPDATE customer SET name = 'whole'`)
		return err
	})
	wantCode(t, err, usher.Unavailable)
	if c, err := db.Customer(t.Context(), env, "acme"); err != nil || c.Name != "Acme acme" {
		t.Errorf("after a broken connection: got %q, %v, want it as it was, through a new one", c.Name, err)
	}
	server.Stop()
	wantCode(t, db.Ping(t.Context()), usher.Unavailable)
	_, err = db.LoadCustomer(t.Context(), env, "acme", 0)
	wantCode(t, err, usher.Unavailable)
	_, err = db.ChangeCustomer(t.Context(), CustomerChange{Env: env, Customer: "b", Put: customer("b")})
	wantCode(t, err, usher.Unavailable)
	if _, err := db.Keys(t.Context(), env); err == nil || strings.Contains(err.Error(), "postgres:///") {
		t.Errorf("got %v, want an error without the address", err)
	}
}

// None of the questions asked often reads a whole table.
func TestQuestionsAskedOftenUseAnIndex(t *testing.T) {
	t.Parallel()
	db := openTest(t, filepath.Join(t.TempDir(), "usher.db"))
	// A table, or one of the aliases of the texts below; not a VALUES list.
	whole := regexp.MustCompile(`^SCAN (c|k|t|environment|change|catalog|customer|customer_clock|` +
		`subscription|overrides|grants|op|bucket|rollup|hold|seat)( |$)`)
	number := regexp.MustCompile(`\$(\d+)`)
	byClock, _ := useByClockText(env, "acme", "api", day(1), day(40))
	for name, q := range map[string]string{
		"load":    loadNow,
		"then":    loadThen,
		"list":    selectCustomer + `c.env = $1 AND c.id > $2 ORDER BY c.id LIMIT $3`,
		"buckets": latestBuckets(3),
		"answer":  `SELECT answer FROM op WHERE key = $1 AND env = $2`,
		"changes": `SELECT revision FROM change WHERE env = $1 AND revision > $2 ORDER BY revision LIMIT $3`,
		"at":      `SELECT revision FROM change WHERE env = $1 AND at <= $2 ORDER BY at DESC, revision DESC LIMIT 1`,
		"close": `UPDATE subscription SET recorded_until = $1 WHERE env = $2 AND recorded_until IS NULL
			AND (id, customer) IN (VALUES ` + values(2, 2, 3) + `)`,
		"touch":    `UPDATE customer SET revision = $1 WHERE env = $2 AND id IN (VALUES ` + values(2, 1, 3) + `)`,
		"by clock": byClock,
		"lapses":   db.lapsesText(1),
		"expire":   `UPDATE hold SET state = 'expired' WHERE customer = $1 AND env = $2 AND closed_at = 0 AND expires_at <= $3`,
		"holders":  `SELECT holder FROM seat WHERE customer = $1 AND env = $2 AND feature = $3 AND released_at = 0`,
		"current": `SELECT t.body FROM grants t JOIN customer c ON c.env = t.env AND c.id = t.customer WHERE t.id = $1 AND t.env = $2
			AND t.recorded_until IS NULL AND c.deleted_at = 0`,
	} {
		args := make([]any, strings.Count(q, "?"), 20)
		for _, m := range number.FindAllStringSubmatch(q, -1) {
			if n, _ := strconv.Atoi(m[1]); n > len(args) {
				args = append(args, make([]any, n-len(args))...)
			}
		}
		rows, err := db.r.QueryContext(t.Context(), `EXPLAIN QUERY PLAN `+q, args...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for rows.Next() {
			var a, b, c int
			var step string
			if err := rows.Scan(&a, &b, &c, &step); err != nil {
				t.Fatal(err)
			}
			if whole.MatchString(step) {
				t.Errorf("%s: %s", name, step)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
}
