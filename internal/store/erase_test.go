package store

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// TestWhatIsForgottenIsNotInTheFile: a signing key that was replaced, and the
// name of an operator who was erased, are gone from the pages of a SQLite file.
func TestWhatIsForgottenIsNotInTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usher.db")
	in := func() (found []string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"PRIVATE+KEY+", "Grace Hopper", "grace@example.com"} {
			if bytes.Contains(b, []byte(text)) {
				found = append(found, text)
			}
		}
		return found
	}
	db, err := Open(t.Context(), Config{DSN: path})
	if err != nil {
		t.Fatal(err)
	}
	by := usher.By{Actor: usher.Actor{Kind: "cli"}}
	o := usher.Operator{ID: "opr_1", Name: "Grace Hopper", Email: "grace@example.com", CreatedAt: day(1)}
	if err := db.CreateOperator(t.Context(), o, usher.SSOSubject{}, by, day(1)); err != nil {
		t.Fatal(err)
	}
	write(t, db, `INSERT INTO audit_key (one, private) VALUES (1, $1)`, db.signKey.Private()) // as earlier versions kept it
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := in(); len(got) != 3 {
		t.Fatalf("got %q in the file: this shows nothing", got)
	}
	key, err := audit.NewKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if db, err = Open(t.Context(), Config{DSN: path, AuditKey: key.Private()}); err != nil {
		t.Fatal(err)
	}
	if err := db.DeleteOperator(t.Context(), o.ID, nil, by, day(1)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := in(); len(got) != 0 {
		t.Errorf("got %q in the file", got)
	}
}
