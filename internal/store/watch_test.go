package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// TestEpoch: a database has one epoch from its first opening on, which its log names.
func TestEpoch(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		epoch, err := db.Epoch(t.Context())
		if err != nil || !strings.HasPrefix(epoch, "epo_") {
			t.Fatalf("got %q, %v", epoch, err)
		}
		if err := db.firstEpoch(t.Context()); err != nil {
			t.Fatal(err)
		}
		rows, err := db.Audit(t.Context(), usher.AuditQuery{Action: audit.ActionEpoch}, 10)
		if err != nil || len(rows) != 1 || rows[0].Object != epoch || string(rows[0].After) != `{"by":"init","epoch":"`+epoch+`"}` {
			t.Errorf("got %+v, %v, want one row that names %s", rows, err, epoch)
		}
		write(t, db, `UPDATE epoch SET id = 'epo_other'`)
		if r := verify(t, db, audit.Options{}); r.Total != 1 || r.Faults[0].Kind != audit.Column {
			t.Errorf("another epoch: got %+v, want a fault", r.Faults)
		}
	})
}

// TestWatchFile: a file that is moved away, replaced or deleted stops its owner from
// reading and writing, until it is back.
func TestWatchFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, away := filepath.Join(dir, "usher.db"), filepath.Join(dir, "away.db")
	db := openTest(t, file)
	put(t, db, "acme")
	works := func(when string, want bool) {
		t.Helper()
		err := db.Watch(t.Context())
		_, read := db.Customer(t.Context(), env, "acme")
		written := db.Usage(t.Context(), func(*UsageTx) error { return nil })
		for what, err := range map[string]error{"watch": err, "read": read, "write": written, "ping": db.Ping(t.Context())} {
			if want && err != nil {
				t.Errorf("%s, %s: %v", when, what, err)
			} else if !want && (usher.ErrorCode(err) != usher.Unavailable || !strings.Contains(err.Error(), "moved, replaced or deleted")) {
				t.Errorf("%s, %s: got %v, want unavailable and why", when, what, err)
			}
		}
	}
	works("in its place", true)
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	rename(file, away)
	works("moved", false)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	works("replaced", false)
	rename(away, file)
	works("back", true)
}

// TestWatchSchema: a node notices that a newer usher has changed the schema.
func TestWatchSchema(t *testing.T) {
	t.Parallel()
	db := openTest(t, postgresDSN(t))
	if err := db.Watch(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, db, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9000, true)`)
	err := db.Watch(t.Context())
	if wantCode(t, err, usher.Unavailable); !strings.Contains(err.Error(), "newer usher") || !strings.Contains(err.Error(), "9000") {
		t.Errorf("got %v", err)
	}
	wantCode(t, db.Usage(t.Context(), func(*UsageTx) error { return nil }), usher.Unavailable)
	write(t, db, `DELETE FROM goose_db_version WHERE version_id = 9000`)
	if err := db.Watch(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestMigrationsAreCheckedByHash: a database whose migration had another text is
// refused, by every command that opens it.
func TestMigrationsAreCheckedByHash(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, dsn string) {
		db, err := Open(t.Context(), Config{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		known, err := migrationHashes(db.dialect)
		if err != nil {
			t.Fatal(err)
		}
		noted, _, err := one(t.Context(), db, scanInt, `SELECT count(*) FROM migration_hash`)
		if err != nil || noted != int64(len(known)) {
			t.Errorf("got %d hashes, %v, want %d", noted, err, len(known))
		}
		write(t, db, `UPDATE migration_hash SET hash = 'another' WHERE version = 3`)
		db.Close()
		for _, beside := range []bool{false, true} {
			db, err := Open(t.Context(), Config{DSN: dsn, Beside: beside})
			if err == nil {
				db.Close()
			}
			if wantCode(t, err, usher.Refused); err != nil && !strings.Contains(err.Error(), "migration 3") {
				t.Errorf("got %v, want the migration named", err)
			}
		}
	}
	t.Run("sqlite", func(t *testing.T) { check(t, filepath.Join(t.TempDir(), "usher.db")) })
	t.Run("postgres", func(t *testing.T) { check(t, postgresDSN(t)) })
}

// TestCopiesWithoutTheLog: the file alone has its tables from the start. A copy of it
// that was made while a process owned it is known as such; one with its log, and one
// of a file that was closed, are whole.
func TestCopiesWithoutTheLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "usher.db")
	db, err := Open(t.Context(), Config{DSN: file})
	if err != nil {
		t.Fatal(err)
	}
	copied := func(name string, suffixes ...string) string {
		t.Helper()
		to := filepath.Join(dir, name)
		for _, s := range append(suffixes, "") {
			b, err := os.ReadFile(file + s)
			if err == nil {
				err = os.WriteFile(to+s, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return to
	}
	warnings := func(file string) string {
		t.Helper()
		db, err := Open(t.Context(), Config{DSN: file, Beside: true})
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		defer db.Close()
		all, err := db.Warnings(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(all, "\n")
	}
	put(t, db, "acme")
	bare, whole := copied("bare.db"), copied("whole.db", "-wal")
	for range 2 { // reading changes nothing
		if got := warnings(bare); !strings.Contains(got, "without its log") || !strings.Contains(got, "usher backup") {
			t.Errorf("the file alone: got %q, want a warning", got)
		}
		for _, name := range []string{file, whole} {
			if got := warnings(name); got != "" {
				t.Errorf("%s: got %q, want no warning", name, got)
			}
		}
	}
	if err := db.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	newest := openTest(t, copied("newest.db", KeySuffix))
	if _, err := newest.Customer(t.Context(), env, "acme"); err != nil {
		t.Errorf("after a checkpoint the file alone has all: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := warnings(copied("closed.db")); got != "" {
		t.Errorf("a closed file: got %q, want no warning", got)
	}
	short := openTest(t, copied("short.db", KeySuffix))
	breakIn(t, short)
	write(t, short, `DELETE FROM audit WHERE n = 2`)
	if got, err := short.Warnings(t.Context()); err != nil || len(got) != 1 || !strings.Contains(got[0],
		"the audit log has 2 rows, and its signed head says 3") {
		t.Errorf("a short log: got %q, %v", got, err)
	}
}
