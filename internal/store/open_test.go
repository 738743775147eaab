package store

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// openForParent is the other process: it says how opening went, and holds the
// database until its standard input ends.
func openForParent(file string) {
	db, err := Open(context.Background(), Config{DSN: file, Beside: os.Getenv("STORE_TEST_BESIDE") != ""})
	if err != nil {
		fmt.Printf("%s: %v\n", usher.ErrorCode(err), err)
		os.Exit(0)
	}
	fmt.Println("open")
	bufio.NewReader(os.Stdin).ReadString('\n')
	db.Close()
	os.Exit(0)
}

// elsewhere opens file in another process and returns the first line it says.
func elsewhere(t *testing.T, file string, env ...string) (said string, quit func()) {
	t.Helper()
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "STORE_TEST_OPEN="+file)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line), func() { stdin.Close(); cmd.Wait() }
}

// TestPlainText: who talks to another machine without a word on encryption is
// told.
func TestPlainText(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	for dsn, want := range map[string]bool{
		"postgres://usher@db.example.com/usher": true, "postgresql://usher@10.1.2.3:5432/usher": true,
		"postgres://db.example.com,127.0.0.1/usher":                 true,
		"postgres://usher@db.example.com/usher?sslmode=verify-full": false,
		"postgres://usher@db.example.com/usher?sslmode=disable":     false, // which was said
		"postgres://usher@localhost/usher":                          false, "postgres://127.0.0.1/usher": false,
		"postgres://[::1]/usher":                 false,
		"postgres:///usher?host=/run/postgresql": false,
		"usher.db":                               false, "postgres://user:secret@host:notaport/db": false,
	} {
		if got := PlainText(dsn); got != want {
			t.Errorf("%s: got %v, want %v", dsn, got, want)
		}
	}
	t.Setenv("PGSSLMODE", "require")
	if PlainText("postgres://usher@db.example.com/usher") {
		t.Error("PGSSLMODE says it")
	}
}

func TestOneProcessOwnsAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "usher.db")
	said, quit := elsewhere(t, file)
	if said != "open" {
		t.Fatalf("the first process: %s", said)
	}
	_, err := Open(t.Context(), Config{DSN: file})
	wantCode(t, err, usher.Conflict)
	if err != nil && !strings.Contains(err.Error(), file) {
		t.Errorf("the error does not name the file: %v", err)
	}
	link := filepath.Join(dir, "link.db") // another name is the same file
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), Config{DSN: link})
	wantCode(t, err, usher.Conflict)

	beside, err := Open(t.Context(), Config{DSN: file, Beside: true})
	if err != nil {
		t.Fatalf("beside the owner: %v", err)
	}
	if err := beside.CreateKey(t.Context(), usher.APIKey{ID: "k", Env: env, Hash: []byte("h"), CreatedAt: day(1)},
		usher.By{Actor: usher.Actor{Kind: "cli"}}, day(1)); err != nil {
		t.Errorf("a key beside the owner: %v", err)
	}
	beside.Close()

	quit()
	db := openTest(t, file)
	if _, err := db.Key(t.Context(), "k"); err != nil {
		t.Errorf("the key made beside: %v", err)
	}
	if said, quit := elsewhere(t, file); !strings.HasPrefix(said, "conflict") {
		t.Errorf("another process, while this one owns the file: %s", said)
		quit()
	}
	if said, quit := elsewhere(t, file, "STORE_TEST_BESIDE=1"); said != "open" {
		t.Errorf("another process beside: %s", said)
	} else {
		quit()
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	foreign := filepath.Join(dir, "foreign.db")
	other, err := sql.Open("sqlite", foreign)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(`CREATE TABLE customer (id)`); err != nil {
		t.Fatal(err)
	}
	other.Close()
	for _, c := range []struct {
		name string
		conf Config
		code usher.Code
		says string
	}{
		{"nothing", Config{}, usher.Invalid, "no database given"},
		{"memory", Config{DSN: ":memory:"}, usher.Invalid, "plain path"},
		{"shared memory", Config{DSN: "file::memory:?cache=shared"}, usher.Invalid, "plain path"},
		{"other system", Config{DSN: "mysql://root:secret@localhost/x"}, usher.Invalid, "mysql://…"},
		{"no folder", Config{DSN: filepath.Join(dir, "no", "usher.db")}, usher.Invalid, "does not exist"},
		{"a folder", Config{DSN: dir}, usher.Invalid, "is not a file"},
		{"text", Config{DSN: file("text.db", "this is not a database, it only has the name of one")}, usher.Invalid,
			"not a SQLite database"},
		{"one byte", Config{DSN: file("byte.db", "S")}, usher.Invalid, "not a SQLite database"},
		{"damaged", Config{DSN: file("damaged.db", "SQLite format 3\x00"+strings.Repeat("x", 4080))}, usher.Invalid, "damaged"},
		{"another program's", Config{DSN: foreign}, usher.Invalid, "another program"},
		{"nothing to be beside of", Config{DSN: filepath.Join(dir, "none.db"), Beside: true}, usher.NotFound, "usher init"},
		{"beside an empty file", Config{DSN: file("empty.db", ""), Beside: true}, usher.NotFound, "usher init"},
		{"bad address", Config{DSN: "postgres://user:secret@host:notaport/db"}, usher.Invalid, "not valid"},
		{"no server", Config{DSN: "postgres://user:secret@/db?host=" + url.QueryEscape(dir)}, usher.Unavailable, "cannot be reached"},
	} {
		db, err := Open(t.Context(), c.conf)
		if err == nil {
			db.Close()
		}
		if err == nil || usher.ErrorCode(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want code %s and %q", c.name, err, c.code, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the password: %v", c.name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "none.db")); err == nil {
		t.Error("Beside created a file")
	}
	var n int
	other, _ = sql.Open("sqlite", foreign)
	defer other.Close()
	if err := other.QueryRow(`SELECT count(*) FROM sqlite_master`).Scan(&n); err != nil || n != 1 {
		t.Errorf("another program's database has %d objects (%v), want the 1 it had", n, err)
	}
}

func TestOddFileNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a b.db", "100%.db", "what?.db", "x#y.db", "a&b=c.db", "ünï.db", "it's.db", "%41.db"} {
		dir := t.TempDir()
		openTest(t, filepath.Join(dir, name))
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestRelativeFileName(t *testing.T) {
	t.Chdir(t.TempDir())
	openTest(t, "usher.db")
	if _, err := os.Stat("usher.db"); err != nil {
		t.Error(err)
	}
}

// each database, opened again with a version it does not know.
func TestNewerDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	newer := func(t *testing.T, dsn string) {
		db, err := Open(t.Context(), Config{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		write(t, db, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9000, `+map[Dialect]string{SQLite: "1",
			Postgres: "true"}[db.dialect]+`)`)
		db.Close()
		for _, beside := range []bool{false, true} {
			db, err := Open(t.Context(), Config{DSN: dsn, Beside: beside})
			wantCode(t, err, usher.Refused)
			if err == nil {
				db.Close()
			} else if !strings.Contains(err.Error(), "9000") || !strings.Contains(err.Error(), fmt.Sprintf("up to version %d", newest(t))) {
				t.Errorf("the error does not name both versions: %v", err)
			}
		}
	}
	t.Run("sqlite", func(t *testing.T) { newer(t, filepath.Join(t.TempDir(), "usher.db")) })
	t.Run("postgres", func(t *testing.T) { newer(t, postgresDSN(t)) })
}

func newest(t *testing.T) int64 {
	t.Helper()
	files, err := migrations.ReadDir("migrations/sqlite")
	if err != nil {
		t.Fatal(err)
	}
	other, err := migrations.ReadDir("migrations/postgres")
	if err != nil || len(other) != len(files) {
		t.Fatalf("SQLite has %d migrations, PostgreSQL %d (%v): they must be the same", len(files), len(other), err)
	}
	version, _, _ := strings.Cut(files[len(files)-1].Name(), "_")
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// From each earlier version the schema becomes the same, and data stays.
func TestMigratesFromEachEarlierVersion(t *testing.T) {
	t.Parallel()
	schema := func(db *DB) (text []string) {
		query := `SELECT coalesce(sql, name) FROM sqlite_master ORDER BY 1`
		if db.dialect == Postgres {
			query = `SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable ||
			' ' || coalesce(collation_name, '') FROM information_schema.columns WHERE table_schema = 'public'
				UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
				UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
					WHERE connamespace = 'public'::regnamespace ORDER BY 1`
		}
		rows, err := db.r.QueryContext(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				t.Fatal(err)
			}
			text = append(text, s)
		}
		return text
	}
	run := func(t *testing.T, fresh func() string) {
		want := schema(openTest(t, fresh()))
		if len(want) < 20 {
			t.Fatalf("the schema has %d parts", len(want))
		}
		for version := range newest(t) {
			dsn := fresh()
			at(t, dsn, version)
			db := openTest(t, dsn)
			if got := schema(db); !reflect.DeepEqual(got, want) {
				t.Errorf("from version %d: got %q\nwant %q", version, got, want)
			}
			if _, err := db.Environment(t.Context(), env); err != nil {
				t.Errorf("from version %d: %v", version, err)
			}
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		run(t, func() string { return filepath.Join(t.TempDir(), "usher.db") })
	})
	t.Run("postgres", func(t *testing.T) { run(t, func() string { return postgresDSN(t) }) })
}

// at makes a database of an earlier version; 0 is one whose making was cut off.
func at(t *testing.T, dsn string, version int64) {
	t.Helper()
	db := &DB{dialect: SQLite}
	driver := "sqlite"
	if strings.HasPrefix(dsn, "postgres:") {
		db.dialect, driver = Postgres, "pgx"
	}
	var err error
	if db.w, err = sql.Open(driver, dsn); err != nil {
		t.Fatal(err)
	}
	defer db.w.Close()
	m, err := db.migrator()
	if err != nil {
		t.Fatal(err)
	}
	if version == 0 {
		_, err = m.GetDBVersion(t.Context()) // makes goose's own table
	} else {
		_, err = m.UpTo(t.Context(), version)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Several nodes that start on an empty PostgreSQL at once all come up.
func TestNodesStartTogether(t *testing.T) {
	t.Parallel()
	dsn := postgresDSN(t)
	errs := make(chan error)
	for range 4 {
		go func() {
			db, err := Open(t.Context(), Config{DSN: dsn, MaxConns: 1})
			if err == nil {
				err = db.Ping(t.Context())
				db.Close()
			}
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestSQLiteIsDurable(t *testing.T) {
	t.Parallel()
	db := openTest(t, filepath.Join(t.TempDir(), "usher.db"))
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := db.w.QueryRowContext(t.Context(), `PRAGMA `+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("PRAGMA %s of the writer: got %s, %v, want %s", pragma, got, err, want)
		}
	}
	if _, err := db.r.ExecContext(t.Context(), `DELETE FROM environment`); err == nil {
		t.Error("a reading connection can write")
	}
}

// A new database, its log and its audit key are for their owner only, whatever the
// umask, and the key is in none of the database's files.
func TestNewFilesArePrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "usher.db")
	db := openTest(t, file)
	put(t, db, "acme")
	for _, name := range []string{"usher.db", "usher.db-wal", "usher.db-shm", "usher.db.lock", "usher.db.audit-key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v, want mode 0600", name, info, err)
		}
	}
	for _, name := range []string{"usher.db", "usher.db-wal"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || strings.Contains(string(b), "PRIVATE+KEY+") {
			t.Errorf("%s has the private key in it (%v)", name, err)
		}
	}
}

// A database that keeps its audit key inside, as earlier versions did, goes on with
// the same key in a file. Beside its owner nothing moves.
func TestTheAuditKeyMovesOutOfTheDatabase(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "usher.db")
	db, err := Open(t.Context(), Config{DSN: file})
	if err != nil {
		t.Fatal(err)
	}
	put(t, db, "acme")
	key := db.signKey.Private()
	write(t, db, `INSERT INTO audit_key (one, private) VALUES (1, $1)`, key)
	if err := errors.Join(db.Close(), os.Remove(file+KeySuffix)); err != nil {
		t.Fatal(err)
	}
	inside := func(db *DB) bool {
		t.Helper()
		_, ok, err := one(t.Context(), db, scanText, selectAuditKey)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	beside, err := Open(t.Context(), Config{DSN: file, Beside: true})
	if err != nil {
		t.Fatal(err)
	}
	put(t, beside, "beta")
	if _, err := os.Stat(file + KeySuffix); err == nil || !inside(beside) {
		t.Errorf("beside the owner the key moved: %v", err)
	}
	beside.Close()

	db, err = Open(t.Context(), Config{DSN: file})
	if err != nil {
		t.Fatal(err)
	}
	put(t, db, "gamma")
	b, err := os.ReadFile(file + KeySuffix)
	if err != nil || strings.TrimSpace(string(b)) != key || inside(db) {
		t.Errorf("got %q, %v in the file, and inside: %v, want the key in the file only", b, err, inside(db))
	}
	if r := verify(t, db, audit.Options{}); r.Total != 0 || len(r.Keys) != 1 {
		t.Errorf("got %+v, want one key and no faults", r)
	}
	if err := errors.Join(db.Close(), os.Remove(file+KeySuffix)); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || strings.Contains(string(b), "PRIVATE+KEY+") {
		t.Errorf("the key is still in the database's pages (%v)", err)
	}
	db, err = Open(t.Context(), Config{DSN: file})
	if err == nil {
		db.Close()
	}
	if wantCode(t, err, usher.Refused); !strings.Contains(err.Error(), file+KeySuffix) || !strings.Contains(err.Error(), "--new") {
		t.Errorf("without the file: got %v, want its name and what to do", err)
	}
}
