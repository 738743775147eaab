package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// TestEveryTableIsCopiedOrLeftOut: a new table is copied by itself, or is named with a
// reason; both databases have the same tables with the same keys.
func TestEveryTableIsCopiedOrLeftOut(t *testing.T) {
	t.Parallel()
	described := map[Dialect][]table{}
	for d, dsn := range map[Dialect]string{SQLite: filepath.Join(t.TempDir(), "usher.db"), Postgres: postgresDSN(t)} {
		db := openTest(t, dsn)
		text := `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'`
		if d == Postgres {
			text = `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'`
		}
		all, err := list(t.Context(), db, scanText, text)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.scan(t.Context(), func(s *Scan) (err error) {
			described[d], err = s.tables(d)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for _, name := range all {
			copied := slices.ContainsFunc(described[d], func(t table) bool { return t.name == name })
			if reason, out := leftOut[name]; copied == (out && reason != "") {
				t.Errorf("%s: the table %s is copied: %v, left out: %v, want one of both", d, name, copied, out)
			}
		}
		for name := range leftOut {
			if !slices.Contains(all, name) && name != "copying" {
				t.Errorf("%s: no table %s, which is left out", d, name)
			}
		}
	}
	if len(described[SQLite]) < 25 {
		t.Fatalf("only %d tables are copied", len(described[SQLite]))
	}
	for i, of := range described[SQLite] {
		other := described[Postgres][i]
		slices.Sort(of.columns)
		slices.Sort(other.columns)
		if !reflect.DeepEqual(of, other) {
			t.Errorf("SQLite and PostgreSQL differ:\n%+v\n%+v", of, other)
		}
	}
}

// populate fills a database with rows of every kind, odd values among them.
func populate(t *testing.T, db *DB) {
	t.Helper()
	by := usher.By{Actor: usher.Actor{Kind: "cli"}}
	apply(t, db, CatalogChange{Hash: "one"})
	for i := range 30 {
		id := fmt.Sprintf("customer-%02d", i)
		put(t, db, id)
		change(t, db, CustomerChange{Customer: id, Subscriptions: []usher.Subscription{subscription("sub_"+id, id, "pro@1")}})
		change(t, db, CustomerChange{Customer: id, Subscriptions: []usher.Subscription{subscription("sub_"+id, id, "pro@2")}})
	}
	if err := db.CreateKey(t.Context(), usher.APIKey{ID: "k", Env: env, Name: "Ünï \"quoted\"", Hash: []byte{0, 1, 255}, CreatedAt: day(1)},
		by, day(1)); err != nil {
		t.Fatal(err)
	}
	empty, big := "x''", "9223372036854775807"
	if db.dialect == Postgres {
		empty = `''`
	}
	write(t, db, `INSERT INTO event (id, source, env, customer, type, at, received_at, hash, data, entries)
		VALUES ('e', 's', 'production', 'customer-00', 't', -5, `+big+`, `+empty+`, '{"a": "'' \ 世界"}', `+empty+`)`)
	for i := range 250 {
		write(t, db, `INSERT INTO bucket VALUES ('customer-00', 'production', 'calls', $1, 0, 86400000000, 0, 5, 0, 0, 0, 0, 0, 0)`,
			fmt.Sprint("c", i))
	}
	write(t, db, `INSERT INTO audit_key (one, private) VALUES (1, 'secret') ON CONFLICT (one) DO NOTHING`)
	write(t, db, `INSERT INTO owner_token (hash, expires_at) VALUES ($1, 1)`, []byte("token"))
	write(t, db, `INSERT INTO operator_invite (operator, hash, expires_at) VALUES ('o', $1, 1)`, []byte("token"))
}

// content reads all rows that are copied, by table.
func content(t *testing.T, db *DB) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	if err := db.scan(t.Context(), func(s *Scan) error {
		tables, err := s.tables(db.dialect)
		if err != nil {
			return err
		}
		for _, of := range tables {
			columns := slices.Sorted(slices.Values(of.columns))
			rows, err := s.tx.QueryContext(t.Context(), `SELECT `+names(columns)+` FROM "`+of.name+`" ORDER BY `+names(of.key))
			if err != nil {
				return err
			}
			all[of.name] = []string{}
			if err := eachRow(rows, func() error {
				row, to := make([]any, len(columns)), make([]any, len(columns))
				for i := range row {
					to[i] = &row[i]
				}
				if err := rows.Scan(to...); err != nil {
					return err
				}
				text := ""
				for _, v := range row {
					if b, ok := v.([]byte); ok {
						v = fmt.Sprintf("%x", b)
					}
					text += fmt.Sprintf("%v|", v)
				}
				all[of.name] = append(all[of.name], strings.ReplaceAll(text, "<nil>", ""))
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// sameContent compares all but the epoch and the end of the audit log, which only has
// more rows.
func sameContent(t *testing.T, got, want map[string][]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		g := got[name]
		switch name {
		case "epoch", "audit_head":
			continue
		case "audit", "audit_hash":
			g = g[:min(len(g), len(want[name]))]
		}
		if !reflect.DeepEqual(g, want[name]) {
			t.Errorf("%s: got %d rows, want %d:\n%.2000q\n%.2000q", name, len(g), len(want[name]), g, want[name])
		}
	}
}

// TestCopyThereAndBack: everything moves from SQLite to PostgreSQL and back, with a new
// epoch each time, and the log proves it.
func TestCopyThereAndBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second, third := filepath.Join(dir, "first.db"), postgresDSN(t), filepath.Join(dir, "third.db")
	db, err := Open(t.Context(), Config{DSN: first})
	if err != nil {
		t.Fatal(err)
	}
	populate(t, db)
	want := content(t, db)
	_, err = Copy(t.Context(), CopyConfig{From: Config{DSN: first}, To: Config{DSN: second}, Kind: Move})
	if wantCode(t, err, usher.Conflict); err != nil && !strings.Contains(err.Error(), "owned by another process") {
		t.Errorf("while a server runs: got %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	epochs := map[string]bool{}
	for _, way := range [][2]string{{first, second}, {second, third}} {
		r, err := Copy(t.Context(), CopyConfig{From: Config{DSN: way[0]}, To: Config{DSN: way[1]}, Kind: Move})
		if err != nil {
			t.Fatal(err)
		}
		if r.Tables["bucket"] != 250 || r.Tables["subscription"] != 60 || r.Resumed || !r.NewKey {
			t.Errorf("got %+v", r)
		}
		to := openTest(t, way[1])
		sameContent(t, content(t, to), want)
		if got := verify(t, to, audit.Options{Kept: r.Head.Note}); got.Total != 0 {
			t.Errorf("the log: got %+v", got)
		}
		epoch, err := to.Epoch(t.Context())
		if err != nil || epochs[epoch] {
			t.Errorf("got the epoch %q, %v, want a new one", epoch, err)
		}
		epochs[epoch] = true
		rows, err := to.Audit(t.Context(), usher.AuditQuery{}, 1)
		if err != nil || rows[0].Action != audit.ActionEpoch || rows[0].Object != epoch ||
			!strings.Contains(string(rows[0].After), `"by":"copy"`) {
			t.Errorf("the newest row: got %+v, %v, want the new epoch", rows, err)
		}
		put(t, to, "another") // the log goes on
		want = content(t, to)
		for _, name := range slices.Sorted(maps.Keys(leftOut)) {
			n, _, err := one(t.Context(), to, scanInt, `SELECT count(*) FROM `+name)
			switch {
			case name == "copying":
				if err == nil {
					t.Error("the notes of the copy are still there")
				}
			case name == "audit_key" && to.dialect == Postgres: // its own
			case slices.Contains([]string{"audit_key", "owner_token", "operator_invite"}, name) && (err != nil || n != 0):
				t.Errorf("%s has %d rows in the copy, %v", name, n, err)
			}
		}
		if err := to.tx(t.Context(), func(tx *sql.Tx) error {
			_, err := exec(t.Context(), tx, `DELETE FROM audit WHERE n = 1`)
			return err
		}); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("the copy's triggers: got %v", err)
		}
		if to.dialect == Postgres {
			continue
		}
		_, err = Copy(t.Context(), CopyConfig{From: Config{DSN: way[0]}, To: Config{DSN: way[1]}, Kind: Restore})
		wantCode(t, err, usher.Conflict) // it is open
	}
	_, err = Copy(t.Context(), CopyConfig{From: Config{DSN: first}, To: Config{DSN: second}, Kind: Move})
	if wantCode(t, err, usher.Conflict); err != nil && !strings.Contains(err.Error(), "is a database already") {
		t.Errorf("onto a database: got %v", err)
	}
}

// TestCopyGoesOn: a copy that is cut off again and again comes to the same in the end,
// and nothing opens its target before. A source that changed meanwhile is refused.
func TestCopyGoesOn(t *testing.T) {
	t.Parallel()
	ways := map[string]func(t *testing.T) (from, to string){
		"to postgres": func(t *testing.T) (string, string) { return filepath.Join(t.TempDir(), "from.db"), postgresDSN(t) },
		"to sqlite":   func(t *testing.T) (string, string) { return postgresDSN(t), filepath.Join(t.TempDir(), "to.db") },
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := way(t)
			db, err := Open(t.Context(), Config{DSN: from})
			if err != nil {
				t.Fatal(err)
			}
			populate(t, db)
			want := content(t, db)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			c := CopyConfig{From: Config{DSN: from}, To: Config{DSN: to}, Kind: Move}
			cut := errors.New("cut off")
			resumed := 0
			for i := 1; ; i++ {
				ctx, cancel := context.WithCancelCause(t.Context())
				calls := 0
				c.Progress = func(string, int64, int64) {
					if calls++; calls == 3 {
						cancel(cut)
					}
				}
				r, err := Copy(ctx, c)
				cancel(nil)
				if r.Resumed {
					resumed++
				}
				if err == nil {
					break
				}
				if context.Cause(ctx) != cut || i == 100 {
					t.Fatalf("run %d: %v", i, err)
				}
				half, err := Open(t.Context(), Config{DSN: to})
				if wantCode(t, err, usher.Refused); err == nil {
					half.Close()
				} else if !strings.Contains(err.Error(), "usher copy") {
					t.Errorf("got %v", err)
				}
			}
			if resumed < 3 {
				t.Errorf("the copy went on %d times only", resumed)
			}
			done := openTest(t, to)
			sameContent(t, content(t, done), want)
			if r := verify(t, done, audit.Options{}); r.Total != 0 {
				t.Errorf("the log: got %+v", r)
			}
		})
	}
	t.Run("the source changes", func(t *testing.T) {
		t.Parallel()
		from, to := filepath.Join(t.TempDir(), "from.db"), filepath.Join(t.TempDir(), "to.db")
		db, err := Open(t.Context(), Config{DSN: from})
		if err != nil {
			t.Fatal(err)
		}
		populate(t, db)
		db.Close()
		ctx, cancel := context.WithCancel(t.Context())
		c := CopyConfig{From: Config{DSN: from}, To: Config{DSN: to}, Kind: Move, Progress: func(string, int64, int64) { cancel() }}
		if _, err := Copy(ctx, c); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if db, err = Open(t.Context(), Config{DSN: from}); err != nil {
			t.Fatal(err)
		}
		put(t, db, "later")
		db.Close()
		if _, err := Copy(t.Context(), c); usher.ErrorCode(err) != usher.Conflict || !strings.Contains(err.Error(), "has changed since") {
			t.Errorf("got %v, want a conflict", err)
		}
	})
}

// TestBackupAndRestore: a backup is made beside the owner, has all that was committed
// when it began, is one file that is served only after a restore, and begins another
// epoch then.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	story := func(t *testing.T, source string) {
		t.Parallel()
		db := openTest(t, source)
		dir := t.TempDir()
		file, restored := filepath.Join(dir, "backup"), filepath.Join(dir, "restored.db")
		populate(t, db)
		want := content(t, db)
		late := false
		progress := func(string, int64, int64) {
			if !late { // what comes later is not in it
				late = true
				put(t, db, "too-late")
			}
		}
		r, err := Copy(t.Context(), CopyConfig{From: Config{DSN: source}, To: Config{DSN: file}, Kind: Backup, Progress: progress})
		if err != nil || r.NewKey {
			t.Fatalf("got %+v, %v", r, err)
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != 1 {
			t.Errorf("got %v, %v, want one file", files, err)
		}
		if b, err := os.ReadFile(file); err != nil || strings.Contains(string(b), "PRIVATE+KEY") {
			t.Errorf("the private key is in the backup (%v)", err)
		}
		_, err = Open(t.Context(), Config{DSN: file})
		if wantCode(t, err, usher.Refused); err != nil && !strings.Contains(err.Error(), "usher restore") {
			t.Errorf("serving a backup: got %v", err)
		}
		beside, err := Open(t.Context(), Config{DSN: file, Beside: true})
		if err != nil {
			t.Fatal(err)
		}
		got := content(t, beside)
		for _, name := range []string{"customer", "audit_head", "epoch"} {
			if !reflect.DeepEqual(got[name], want[name]) {
				t.Errorf("%s: the backup has other rows than the database had", name)
			}
		}
		before, err := beside.Epoch(t.Context())
		if err != nil {
			t.Error(err)
		}
		beside.Close()
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Errorf("after reading: got %v, %v, want one file", files, err)
		}
		if r, err = Copy(t.Context(), CopyConfig{From: Config{DSN: file}, To: Config{DSN: restored}, Kind: Restore}); err != nil {
			t.Fatal(err)
		}
		back := openTest(t, restored)
		sameContent(t, content(t, back), want)
		if epoch, err := back.Epoch(t.Context()); err != nil || epoch == before || !r.NewKey {
			t.Errorf("got the epoch %q after %q, %v", epoch, before, err)
		}
		if got := verify(t, back, audit.Options{Kept: r.Head.Note}); got.Total != 0 || len(got.Keys) != 2 {
			t.Errorf("the log: got %+v, want two keys and no faults", got)
		}
	}
	t.Run("sqlite", func(t *testing.T) { story(t, filepath.Join(t.TempDir(), "usher.db")) })
	t.Run("postgres", func(t *testing.T) { story(t, postgresDSN(t)) })
}

// TestRestoreKeepsTheKeyThatIsThere: with the file of the key, the log goes on with it.
func TestRestoreKeepsTheKeyThatIsThere(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "usher.db")
	db, err := Open(t.Context(), Config{DSN: file})
	if err != nil {
		t.Fatal(err)
	}
	put(t, db, "acme")
	if _, err := Copy(t.Context(), CopyConfig{From: Config{DSN: file}, To: Config{DSN: file + ".backup"}, Kind: Backup}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Close(), os.Remove(file)); err != nil {
		t.Fatal(err)
	}
	r, err := Copy(t.Context(), CopyConfig{From: Config{DSN: file + ".backup"}, To: Config{DSN: file}, Kind: Restore})
	if err != nil || r.NewKey {
		t.Fatalf("got %+v, %v", r, err)
	}
	if got := verify(t, openTest(t, file), audit.Options{Keys: []string{r.Head.Key}}); got.Total != 0 || len(got.Keys) != 1 {
		t.Errorf("got %+v, want one key and no faults", got)
	}
}

// TestRestoreOfAnOlderVersion: the schema of a backup comes up to date as a database's.
func TestRestoreOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	old, file := filepath.Join(t.TempDir(), "old.db"), filepath.Join(t.TempDir(), "new.db")
	at(t, old, 6)
	if _, err := Copy(t.Context(), CopyConfig{From: Config{DSN: old}, To: Config{DSN: file}, Kind: Restore}); err != nil {
		t.Fatal(err)
	}
	db := openTest(t, file)
	if epoch, err := db.Epoch(t.Context()); err != nil || epoch == "" {
		t.Errorf("got the epoch %q, %v", epoch, err)
	}
	put(t, db, "acme")
}
