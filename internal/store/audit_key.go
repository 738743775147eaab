package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// auditSigner returns the signer of a log whose newest public key is key, and
// whether the log must announce the signer's key first. The signer's key comes
// from Config or the file beside the database; else the first write creates it in
// the database.
func (db *DB) auditSigner(ctx context.Context, tx *sql.Tx, key string) (s *audit.Signer, announce bool, err error) {
	if given := db.signKey; given != nil {
		if given.Public() == key {
			return given, false, nil
		}
		var old bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM audit WHERE action = $1 AND object = $2)`, audit.ActionKey,
			given.Public()).Scan(&old); err != nil {
			return nil, false, err
		}
		if old {
			return nil, false, retiredKey(key)
		}
		if db.beside && key != "" {
			return nil, false, usher.Errorf(usher.Refused,
				"the audit log is signed with %s, not with the given key: to replace it, start `usher serve` with the new one first", key)
		}
		_, err := exec(ctx, tx, `DELETE FROM audit_key`) // it never signs again
		return given, true, err
	}
	if kept := db.keptKey.Load(); kept != nil && kept.Public() == key {
		return kept, false, nil
	}
	var private string
	err = tx.QueryRowContext(ctx, selectAuditKey).Scan(&private)
	switch {
	case err == sql.ErrNoRows && key == "":
		if s, err = audit.NewKey(rand.Reader); err == nil {
			_, err = exec(ctx, tx, `INSERT INTO audit_key (one, private) VALUES (1, $1)`, s.Private())
		}
		return s, true, err // keptKey is set when the key is read back, committed
	case err == sql.ErrNoRows:
		return nil, false, db.noAuditKey(key)
	case err != nil:
		return nil, false, err
	}
	if s, err = audit.ParseKey(private); err != nil {
		return nil, false, err
	}
	if key != "" && s.Public() != key {
		return nil, false, db.noAuditKey(key)
	}
	db.keptKey.Store(s)
	return s, key == "", nil
}

func (db *DB) noAuditKey(public string) error {
	where := "not in the database"
	if db.keyFile != "" {
		where = "neither in the file " + db.keyFile + " nor in the database"
	}
	return usher.Errorf(usher.Refused, "the audit log is signed with %s, whose private key is %s: give it with --audit-key or "+
		"USHER_AUDIT_KEY; "+
		"if it is lost, `usher audit key --new FILE` makes another one, which the log announces", public, where)
}

const selectAuditKey = `SELECT private FROM audit_key WHERE one = 1`

// openAuditKey finds the key of a SQLite database that was opened without one: in
// the file beside it. The owner of a database without a key makes one, and moves a
// key that an earlier version kept inside out into the file.
func (db *DB) openAuditKey(ctx context.Context) error {
	if db.signKey != nil || db.keyFile == "" {
		return nil
	}
	inside, _, err := one(ctx, db, scanText, selectAuditKey)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(db.keyFile)
	switch {
	case err == nil:
		if db.signKey, err = audit.ParseKey(string(b)); err != nil {
			return usher.Errorf(usher.Invalid, "the file %s: %s", db.keyFile, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return usher.Errorf(usher.Invalid, "the audit key cannot be read: %s", err)
	case db.beside:
		return nil // the owner makes the file
	default:
		made, err := db.makeAuditKey(ctx, inside)
		if err != nil || made == nil {
			return err
		}
		db.signKey = made
	}
	if inside == "" || db.beside || strings.TrimSpace(inside) != db.signKey.Private() {
		return nil
	}
	return db.tx(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `DELETE FROM audit_key`)
		return err
	})
}

// makeAuditKey writes the key that is inside, or a new one if the log has none yet,
// into the file beside the database. nil: the log's key is elsewhere.
func (db *DB) makeAuditKey(ctx context.Context, inside string) (*audit.Signer, error) {
	var s *audit.Signer
	var err error
	if inside != "" {
		s, err = audit.ParseKey(inside)
	} else {
		head, _, failed := one(ctx, db, scanAuditHead, selectAuditHead)
		if failed != nil || head.Key != "" {
			return nil, failed
		}
		s, err = audit.NewKey(rand.Reader)
	}
	if err != nil {
		return nil, err
	}
	if err := writeSecret(db.keyFile, s.Private()+"\n"); err != nil {
		return nil, usher.Errorf(usher.Invalid, "the audit key cannot be written: %s", err)
	}
	return s, nil
}

// writeSecret writes a file that only its owner may read, and returns once it is on
// the disk. No reader sees half of it.
func writeSecret(name, text string) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	if dir, err := os.Open(filepath.Dir(name)); err == nil {
		dir.Sync() // the name; a system that cannot do so keeps it by itself
		dir.Close()
	}
	return nil
}

// checkAuditKey returns Refused if the log cannot be signed for lack of a key, or a
// retired one.
func (db *DB) checkAuditKey(ctx context.Context) error {
	head, _, err := one(ctx, db, scanAuditHead, selectAuditHead)
	if err != nil || head.Key == "" {
		return err
	}
	if db.signKey != nil {
		if db.signKey.Public() == head.Key {
			return nil
		}
		retired, _, err := one(ctx, db, scanInt, `SELECT count(*) FROM audit WHERE action = $1 AND object = $2`, audit.ActionKey,
			db.signKey.Public())
		if err == nil && retired > 0 {
			err = retiredKey(head.Key)
		}
		return err
	}
	_, inside, err := one(ctx, db, scanText, selectAuditKey)
	if err == nil && !inside {
		err = db.noAuditKey(head.Key)
	}
	return err
}

func retiredKey(newest string) error {
	return usher.Errorf(usher.Refused, "the given audit key is retired: the log is signed with the newer key %s; give that one", newest)
}
