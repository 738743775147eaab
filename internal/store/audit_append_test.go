package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// TestAudit_RememberedEnd: what a process remembers of the log's end may be of a
// transaction that never committed, or older than what another process added.
func TestAudit_RememberedEnd(t *testing.T) {
	t.Parallel()
	for _, dialect := range []Dialect{SQLite, Postgres} {
		t.Run(string(dialect), func(t *testing.T) {
			t.Parallel()
			dsn := filepath.Join(t.TempDir(), "usher.db")
			if dialect == Postgres {
				dsn = postgresDSN(t)
			}
			a := openTest(t, dsn)
			b, err := Open(t.Context(), Config{DSN: dsn, Beside: true})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			rows := int64(2) // of the key and the epoch
			key := func(db *DB, id string) error {
				return db.CreateKey(t.Context(), usher.APIKey{ID: id, Env: env, Hash: []byte("h"), CreatedAt: day(1)},
					usher.By{Actor: usher.Actor{Kind: "cli"}}, day(1))
			}
			whole := func(when string) {
				t.Helper()
				if r := verify(t, a, audit.Options{}); r.Total != 0 || r.Leaves != rows {
					t.Errorf("%s: got %+v, want %d rows and no faults", when, r, rows)
				}
			}
			one := func(db *DB, id string) {
				t.Helper()
				rows++
				if err := key(db, id); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 20 {
				one([]*DB{a, b, b, a, a}[i%5], fmt.Sprintf("turn-%d", i))
			}
			whole("in turn")
			no := errors.New("no")
			for i := range 3 {
				err := a.tx(t.Context(), func(tx *sql.Tx) error {
					for range i + 1 {
						if err := a.audit(t.Context(), tx, AuditEntry{Note: note("test.undone", day(1))}); err != nil {
							return err
						}
					}
					return no
				})
				if !errors.Is(err, no) {
					t.Fatal(err)
				}
				one(a, fmt.Sprintf("after-%d", i))
			}
			whole("after rows that were undone")
			// Two rows of one transaction.
			rows += 2
			if err := a.tx(t.Context(), func(tx *sql.Tx) error {
				return errors.Join(a.audit(t.Context(), tx, AuditEntry{Note: note("test.one", day(1))}),
					a.audit(t.Context(), tx, AuditEntry{Note: note("test.two", day(1))}))
			}); err != nil {
				t.Fatal(err)
			}
			whole("two in one transaction")
			var wait sync.WaitGroup
			for w := range 6 {
				wait.Go(func() {
					for i := range 10 {
						if err := key([]*DB{a, b}[w%2], fmt.Sprintf("at-once-%d-%d", w, i)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wait.Wait()
			rows += 60
			whole("at once")
		})
	}
}

// TestAudit_AtOnce: a row that follows a row of the same process is one statement.
func TestAudit_AtOnce(t *testing.T) {
	t.Parallel()
	db := openTest(t, postgresDSN(t))
	put(t, db, "one")
	put(t, db, "two") // the key, made by the first, is remembered once it is read back
	for i := range 3 {
		err := db.tx(t.Context(), func(tx *sql.Tx) error {
			done, err := db.auditAtOnce(context.WithoutCancel(t.Context()), tx, &AuditEntry{Note: note("test", day(1))})
			if err == nil && !done {
				t.Errorf("row %d took more than one statement", i)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if r := verify(t, db, audit.Options{}); r.Total != 0 || r.Leaves != 7 {
		t.Errorf("got %+v", r)
	}
}
