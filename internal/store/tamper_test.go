package store

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// tenRows is a log of ten rows: the key and nine changes.
func tenRows(t *testing.T, db *DB) {
	t.Helper()
	for i := range 8 { // after the rows of the key and the epoch
		put(t, db, fmt.Sprintf("customer-%d", i))
	}
}

// breakIn drops the triggers, as an attacker with all rights can.
func breakIn(t *testing.T, db *DB) {
	t.Helper()
	if db.dialect == Postgres {
		for _, table := range []string{"audit", "audit_hash", "audit_head"} {
			write(t, db, `ALTER TABLE `+table+` DISABLE TRIGGER USER`)
		}
		return
	}
	for _, name := range []string{"audit_update", "audit_delete", "audit_insert", "audit_hash_update", "audit_hash_delete",
		"audit_hash_insert", "audit_head_update", "audit_head_delete"} {
		write(t, db, `DROP TRIGGER `+name)
	}
}

// leaf reads a row's bytes.
func leaf(t *testing.T, db *DB, n int64) []byte {
	t.Helper()
	var b []byte
	if err := db.w.QueryRowContext(t.Context(), `SELECT leaf FROM audit WHERE n = $1`, n).Scan(&b); err != nil {
		t.Fatal(err)
	}
	return b
}

// rebuild writes all hashes and the head anew over the rows as they are, signed
// by s, or with the old signature where s is nil.
func rebuild(t *testing.T, db *DB, s *audit.Signer) {
	t.Helper()
	head, err := db.AuditHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(t, db, `DELETE FROM audit_hash`)
	var tree audit.Tree
	var size int64
	if err := db.w.QueryRowContext(t.Context(), `SELECT count(*) FROM audit`).Scan(&size); err != nil {
		t.Fatal(err)
	}
	for n := range size {
		hashes, err := tree.Add(leaf(t, db, n))
		if err != nil {
			t.Fatal(err)
		}
		for k, h := range hashes {
			write(t, db, `INSERT INTO audit_hash (i, hash) VALUES ($1, $2)`, audit.First(n)+int64(k), h[:])
		}
	}
	root, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	if s != nil {
		if head.Note, err = s.Checkpoint(audit.Checkpoint{Size: size, Root: root}); err != nil {
			t.Fatal(err)
		}
		head.Key = s.Public()
	}
	write(t, db, `UPDATE audit_head SET size = $1, root = $2, note = $3, key = $4`, size, root[:], head.Note, head.Key)
}

// TestAudit_TriggersRefuse: what the database itself lets nobody do by accident.
func TestAudit_TriggersRefuse(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		tenRows(t, db)
		statements := []string{
			`UPDATE audit SET actor = 'x' WHERE n = 3`, `DELETE FROM audit WHERE n = 9`, `UPDATE audit_hash SET hash = hash`, `DELETE
				FROM audit_hash`,
			`UPDATE audit_head SET size = 3`, `DELETE FROM audit_head`,
		}
		if db.dialect == Postgres {
			statements = append(statements, `TRUNCATE audit`, `TRUNCATE audit_hash`, `TRUNCATE audit_head`)
		} else {
			statements = append(statements, `INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE n = 3`,
				`INSERT OR REPLACE INTO audit_hash SELECT * FROM audit_hash WHERE i = 3`)
		}
		for _, s := range statements {
			if _, err := db.w.ExecContext(t.Context(), s); err == nil || !strings.Contains(err.Error(), "append-only") {
				t.Errorf("%s: got %v, want that the log is append-only", s, err)
			}
		}
		if r := verify(t, db, audit.Options{}); r.Total != 0 || r.Leaves != 10 {
			t.Errorf("got %+v", r)
		}
	})
}

// TestAudit_TamperingIsFound: an attacker has all rights on the database.
func TestAudit_TamperingIsFound(t *testing.T) {
	t.Parallel()
	stranger, err := audit.NewKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(t *testing.T, db *DB, n int64, from, to string) {
		b := bytes.Replace(leaf(t, db, n), []byte(from), []byte(to), 1)
		write(t, db, `UPDATE audit SET leaf = $1 WHERE n = $2`, b, n)
	}
	drop := func(t *testing.T, db *DB, from int64) {
		write(t, db, `DELETE FROM audit WHERE n >= $1`, from)
	}
	for name, story := range map[string]struct {
		tamper func(t *testing.T, db *DB, old usher.AuditHead)
		want   []string // each in some fault
		kept   bool     // with a checkpoint of all ten rows that a reader kept
		pinned bool     // with the public key that a reader kept
	}{
		"alter": {func(t *testing.T, db *DB, _ usher.AuditHead) { edit(t, db, 4, "key:test", "key:evil") },
			[]string{"altered: leaf 4 was altered", `column: leaf 4: the column actor says "key:test", and the row itself "key:evil"`},
			false, false},
		"alter a column": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			write(t, db, `UPDATE audit SET customer = 'other' WHERE n = 5`)
		},
			[]string{`column: leaf 5: the column customer says "other"`}, false, false},
		"alter with its hash": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			edit(t, db, 4, "key:test", "key:evil")
			h := tlog.RecordHash(leaf(t, db, 4))
			write(t, db, `UPDATE audit_hash SET hash = $1 WHERE i = $2`, h[:], audit.First(4))
		}, []string{"tree: the stored hash of leaves 4 to 5 is not that of the hashes below it",
			"root: the first 10 leaves do not have the root hash"}, false, false},
		"alter with all hashes": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			edit(t, db, 4, "key:test", "key:evil")
			write(t, db, `UPDATE audit SET actor = 'key:evil' WHERE n = 4`)
			rebuild(t, db, nil)
		}, []string{"root: the first 10 leaves do not have the root hash of the checkpoint", "column: audit_head says root"},
			false, false},
		"re-sign with another key": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			edit(t, db, 4, "key:test", "key:evil")
			rebuild(t, db, stranger)
		}, []string{"signature: the checkpoint of 10 leaves: it is signed with another key", "column: audit_head says key"}, false, false},
		"forge the whole log, its key too": {func(t *testing.T, db *DB, old usher.AuditHead) {
			edit(t, db, 0, old.Key, stranger.Public())
			edit(t, db, 0, old.Key, stranger.Public())
			write(t, db, `UPDATE audit SET object = $1 WHERE n = 0`, stranger.Public())
			rebuild(t, db, stranger)
		}, []string{"key: the log names the key usher-audit+"}, false, true},
		"the same, against a kept checkpoint": {func(t *testing.T, db *DB, old usher.AuditHead) {
			edit(t, db, 0, old.Key, stranger.Public())
			edit(t, db, 0, old.Key, stranger.Public())
			write(t, db, `UPDATE audit SET object = $1 WHERE n = 0`, stranger.Public())
			rebuild(t, db, stranger)
		}, []string{"checkpoint: the first 10 leaves are not those of the kept checkpoint: history was rewritten",
			"checkpoint: the kept checkpoint of 10 leaves: it is signed with another key"}, true, false},
		"delete": {func(t *testing.T, db *DB, _ usher.AuditHead) { write(t, db, `DELETE FROM audit WHERE n = 6`) },
			[]string{"missing: leaf 6 is missing"}, false, false},
		"delete with its hash": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			write(t, db, `DELETE FROM audit WHERE n = 6`)
			write(t, db, `DELETE FROM audit_hash WHERE i = $1`, audit.First(6))
		}, []string{"missing: leaf 6 is missing"}, false, false},
		"delete and close up": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			write(t, db, `DELETE FROM audit WHERE n = 6`)
			for n := int64(7); n < 10; n++ {
				write(t, db, `UPDATE audit SET n = $1 WHERE n = $2`, n-1, n)
			}
			rebuild(t, db, nil)
		}, []string{"order: leaf 7 is in place 6", "missing: leaves 9 to 9 are missing at the end"}, false, false},
		"delete a hash": {func(t *testing.T, db *DB, _ usher.AuditHead) { write(t, db, `DELETE FROM audit_hash WHERE i = 2`) },
			[]string{"tree: the stored hash of leaves 0 to 1 is missing"}, false, false},
		"alter a hash": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			write(t, db, `UPDATE audit_hash SET hash = $1 WHERE i = 2`, make([]byte, 32))
		}, []string{"tree: the stored hash of leaves 0 to 1 is not"}, false, false},
		"reorder": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			write(t, db, `UPDATE audit SET n = 100 WHERE n = 3`)
			write(t, db, `UPDATE audit SET n = 3 WHERE n = 7`)
			write(t, db, `UPDATE audit SET n = 7 WHERE n = 100`)
		}, []string{"altered: leaf 3 was altered", "altered: leaf 7 was altered", "order: leaf 7 is in place 3",
			"order: leaf 3 is in place 7"}, false, false},
		"truncate": {func(t *testing.T, db *DB, _ usher.AuditHead) { drop(t, db, 8) },
			[]string{"missing: leaf 8 is missing", "missing: leaf 9 is missing"}, false, false},
		"truncate with hashes": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			drop(t, db, 8)
			write(t, db, `DELETE FROM audit_hash WHERE i >= $1`, audit.First(8))
		}, []string{"missing: leaves 8 to 9 are missing at the end: the signed checkpoint covers 10 leaves"}, false, false},
		"truncate and set the head": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			drop(t, db, 8)
			rebuild(t, db, nil)
		}, []string{"missing: leaves 8 to 9 are missing at the end", "column: audit_head says 8 leaves, and its signed checkpoint 10"},
			false, false},
		"truncate all": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			drop(t, db, 0)
			write(t, db, `DELETE FROM audit_hash`)
			write(t, db, `UPDATE audit_head SET size = 0, root = $1, note = '', key = ''`, []byte{})
		}, []string{"checkpoint: the log is empty, and the kept checkpoint covers 10 leaves: the log was rolled back"}, true, false},
		"truncate all, and nothing was kept": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			write(t, db, `UPDATE operators SET revision = revision + 1`) // as every change of operators does
			drop(t, db, 0)
			write(t, db, `DELETE FROM audit_hash`)
			write(t, db, `UPDATE audit_head SET size = 0, root = $1, note = '', key = ''`, []byte{})
		}, []string{"missing: there is no row at all, but operators have had 1 change, each of which left one"}, false, false},
		"forge at the end": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			e := audit.Entry{N: 10, At: day(1), Actor: "key:evil", Action: "grant.create"}
			b, err := e.Encode()
			if err != nil {
				t.Fatal(err)
			}
			write(t, db, `INSERT INTO audit (n, leaf, at, env, actor, action, customer, object) VALUES (10, $1, $2, '', 'key:evil',
				'grant.create', '', '')`, b, micros(day(1)))
		}, []string{"forged: leaf 10 is beyond the signed checkpoint, which covers 10 leaves"}, false, false},
		"forge in the middle": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			for n := int64(9); n >= 5; n-- {
				write(t, db, `UPDATE audit SET n = $1 WHERE n = $2`, n+1, n)
			}
			write(t, db, `INSERT INTO audit SELECT 5, leaf, at, env, actor, action, customer, object FROM audit WHERE n = 4`)
			rebuild(t, db, nil)
		}, []string{"order: leaf 4 is in place 5", "forged: leaf 10 is beyond the signed checkpoint", "root: the first 10 leaves"},
			false, false},
		"nonsense": {func(t *testing.T, db *DB, _ usher.AuditHead) {
			write(t, db, `UPDATE audit SET leaf = $1 WHERE n = 2`, []byte("nonsense"))
			write(t, db, `UPDATE audit_head SET note = 'nonsense'`)
		}, []string{"altered: leaf 2 is not an audit row", "signature: the checkpoint cannot be read"}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, db *DB) {
				tenRows(t, db)
				head, err := db.AuditHead(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				o := audit.Options{}
				if story.kept {
					o.Kept = head.Note
				}
				if story.pinned {
					o.Keys = []string{head.Key}
				}
				if r := verify(t, db, o); r.Total != 0 || r.Leaves != 10 || r.Hashes != audit.Hashes(10) {
					t.Fatalf("before: got %+v, want no faults", r)
				}
				breakIn(t, db)
				story.tamper(t, db, head)
				var got strings.Builder
				for _, f := range verify(t, db, o).Faults {
					fmt.Fprintf(&got, "%s: %s\n", f.Kind, f.Text)
				}
				for _, want := range story.want {
					if !strings.Contains(got.String(), want) {
						t.Errorf("no fault %q in\n%s", want, got.String())
					}
				}
			})
		})
	}
}

// TestAudit_RollBack: a whole database as it was yesterday agrees with itself,
// and not with a checkpoint of today.
func TestAudit_RollBack(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		tenRows(t, db)
		old, err := db.AuditHead(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var root []byte
		if err := db.w.QueryRowContext(t.Context(), `SELECT root FROM audit_head`).Scan(&root); err != nil {
			t.Fatal(err)
		}
		put(t, db, "later")
		kept, err := db.AuditHead(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []string{old.Note, kept.Note} {
			if r := verify(t, db, audit.Options{Kept: c, Keys: []string{old.Key}}); r.Total != 0 {
				t.Errorf("got %+v", r)
			}
		}
		breakIn(t, db)
		write(t, db, `DELETE FROM audit WHERE n = 10`)
		write(t, db, `DELETE FROM audit_hash WHERE i >= $1`, audit.First(10))
		write(t, db, `UPDATE audit_head SET size = 10, note = $1, root = $2`, old.Note, root)
		if r := verify(t, db, audit.Options{}); r.Total != 0 {
			t.Errorf("an old state agrees with itself: got %+v", r)
		}
		r := verify(t, db, audit.Options{Kept: kept.Note})
		want := "the log has 10 leaves, and the kept checkpoint covers 11: the log was rolled back or cut off"
		if len(r.Faults) != 1 || r.Faults[0].Text != want {
			t.Errorf("got %+v", r.Faults)
		}
		put(t, db, "another history")
		r = verify(t, db, audit.Options{Kept: kept.Note})
		if len(r.Faults) != 1 || !strings.Contains(r.Faults[0].Text, "history was rewritten") {
			t.Errorf("got %+v", r.Faults)
		}
	})
}

// TestAudit_KeyFromOutside: it is announced, the one in the database is gone,
// and nobody writes without it.
func TestAudit_KeyFromOutside(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		put(t, db, "one")
		before, err := db.AuditHead(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		signer, err := audit.NewKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		db.signKey = signer
		put(t, db, "two")
		r := verify(t, db, audit.Options{Keys: []string{signer.Public()}, Kept: before.Note})
		if r.Total != 0 || len(r.Keys) != 2 {
			t.Errorf("got %+v", r)
		}
		if _, ok, err := one(t.Context(), db, scanBody[string], `SELECT private FROM audit_key`); ok || err != nil {
			t.Errorf("the old key is still there: %v, %v", ok, err)
		}
		db.signKey = nil
		db.keptKey.Store(nil)
		err = db.CreateKey(t.Context(), usher.APIKey{ID: "k", Env: env, Hash: []byte("h"), CreatedAt: day(1)},
			usher.By{Actor: usher.Actor{Kind: "cli"}}, day(1))
		if usher.ErrorCode(err) != usher.Refused || !strings.Contains(err.Error(), "--audit-key") {
			t.Errorf("without the key: got %v, want refused", err)
		}
		if err := db.checkAuditKey(t.Context()); usher.ErrorCode(err) != usher.Refused {
			t.Errorf("opening without the key: got %v, want refused", err)
		}
	})
}

// TestAudit_ManyWriters: rows are dense and each write has one, however many write
// at once.
func TestAudit_ManyWriters(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		const writers, each = 8, 10
		done := make(chan error)
		for w := range writers {
			go func() {
				var err error
				for i := 0; i < each && err == nil; i++ {
					k := usher.APIKey{ID: fmt.Sprintf("k%d-%d", w, i), Env: usher.Environments[w%2], Hash: []byte("h"), CreatedAt: day(1)}
					err = db.CreateKey(t.Context(), k, usher.By{Actor: usher.Actor{Kind: "cli"}}, day(1))
				}
				done <- err
			}()
		}
		for range writers {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if r := verify(t, db, audit.Options{}); r.Total != 0 || r.Leaves != writers*each+2 {
			t.Errorf("got %+v, want %d rows and no faults", r, writers*each+2)
		}
	})
}
