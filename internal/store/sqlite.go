package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"
	_ "modernc.org/sqlite" // binds $N by number; drivers that bind by order swap arguments

	"github.com/usher-sh/usher"
)

// applicationID is what the first migration writes into the file's header: "ushr".
const applicationID = 0x75736872

// readConns is how many SQLite connections read. More of them were no faster.
const readConns = 4

func openSQLite(ctx context.Context, c Config, prepare func(context.Context, *DB) error) (_ *DB, err error) {
	path, err := checkFile(c.DSN, c.Beside)
	if err != nil {
		return nil, err
	}
	db := &DB{dialect: SQLite, kept: map[statement]*sql.Stmt{}, now: c.Now, beside: c.Beside}
	defer func() {
		if err != nil {
			if db.w != nil {
				db.w.Close()
			}
			if db.r != nil {
				db.r.Close()
			}
			if db.lock != nil {
				db.lock.Unlock()
			}
		}
	}()
	if c.OpenSQLite == nil {
		if db.mark, err = markOf(path); err != nil {
			return nil, usher.Errorf(usher.Invalid, "the database %s cannot be read: %v", c.DSN, plain(err))
		}
		if db.mark == markBackup && !c.Beside {
			return nil, usher.Errorf(usher.Refused, "%s is a backup: `usher restore %s --db FILE` creates a database from it", c.DSN, c.DSN)
		}
	}
	if !c.Beside {
		lock := flock.New(path+".lock", flock.SetPermissions(0o600))
		switch ok, err := lock.TryLock(); {
		case err != nil:
			return nil, usher.Errorf(usher.Invalid, "the lock file %s.lock of the database cannot be opened: %v", c.DSN, plain(err))
		case !ok:
			return nil, usher.Errorf(usher.Conflict,
				"the database %s is owned by another process, a running `usher serve` perhaps: stop it first", c.DSN)
		}
		db.lock = lock
	}
	if c.OpenSQLite == nil {
		db.file, db.keyFile = path, path+KeySuffix
		if !c.Beside {
			if err := private(path); err != nil {
				return nil, usher.Errorf(usher.Invalid, "the database %s cannot be created: %v", c.DSN, plain(err))
			}
		}
		if db.opened, err = os.Stat(path); err != nil {
			return nil, usher.Errorf(usher.Invalid, "the database %s cannot be read: %v", c.DSN, plain(err))
		}
	}
	// synchronous(FULL): with NORMAL a power cut loses commits that were answered.
	// _txlock=immediate: a transaction that reads first and writes later would fail
	// as busy if another process wrote in between.
	pragmas := []string{"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "cache_size(-65536)",
		"wal_autocheckpoint(16384)",
		"secure_delete(fast)"} // overwrites deleted data in pages that are written anyway
	if c.Beside { // a backup has no log beside it, and stays so when it is read
		pragmas = slices.Delete(pragmas, 1, 2)
	}
	db.w, err = c.openFile(path, url.Values{"_txlock": {"immediate"}, "_pragma": pragmas})
	if err != nil {
		return nil, err
	}
	db.w.SetMaxOpenConns(1)
	db.w.SetMaxIdleConns(1)
	if err := db.own(ctx, c.DSN); err != nil {
		return nil, err
	}
	if err := prepare(ctx, db); err != nil {
		return nil, err
	}
	db.r, err = c.openFile(path, url.Values{"_pragma": {"busy_timeout(10000)", "query_only(1)"}})
	if err != nil {
		return nil, err
	}
	db.r.SetMaxOpenConns(readConns)
	db.r.SetMaxIdleConns(readConns)
	db.takes = db.w
	switch {
	case db.file == "":
	case c.Beside:
		err = db.keepLog(ctx)
	default:
		err = db.markOpen(ctx)
	}
	return db, fault(err)
}

func (c Config) openFile(path string, q url.Values) (*sql.DB, error) {
	path = filepath.ToSlash(path)
	if path[0] != '/' { // C:/…
		path = "/" + path
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	if c.OpenSQLite != nil {
		return c.OpenSQLite(u.String())
	}
	return sql.Open("sqlite", u.String())
}

// checkFile returns the file's absolute path with links resolved, so that one
// file has one lock. Its error says why the file cannot be a database.
func checkFile(name string, mustExist bool) (string, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return "", usher.Errorf(usher.Invalid, "the database %s: %v", name, err)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return "", usher.Errorf(usher.Invalid, "the database %s: its folder %s does not exist", name, filepath.Dir(path))
	} else if err != nil {
		return "", usher.Errorf(usher.Invalid, "the database %s: %v", name, plain(err))
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		if mustExist {
			return "", usher.Errorf(usher.NotFound, "there is no database %s: `usher init` or `usher serve` creates it", name)
		}
		return filepath.Join(dir, filepath.Base(path)), nil
	} else if err != nil {
		return "", usher.Errorf(usher.Invalid, "the database %s: %v", name, plain(err))
	}
	if !info.Mode().IsRegular() {
		return "", usher.Errorf(usher.Invalid, "the database %s is not a file", name)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", usher.Errorf(usher.Invalid, "the database %s: %v", name, plain(err))
	}
	f, err := os.Open(path)
	if err != nil {
		return "", usher.Errorf(usher.Invalid, "the database %s cannot be opened: %v", name, plain(err))
	}
	defer f.Close()
	magic := []byte("SQLite format 3\x00")
	head := make([]byte, len(magic))
	n, err := io.ReadFull(f, head)
	if n > 0 && !bytes.Equal(head, magic) {
		return "", usher.Errorf(usher.Invalid, "the file %s is not a SQLite database", name)
	}
	if n > 0 && err != nil {
		return "", usher.Errorf(usher.Invalid, "the database %s cannot be read: %v", name, plain(err))
	}
	return path, nil
}

// private creates a file that does not exist so that only its owner may read it.
// SQLite gives the log beside it the same mode.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil // it keeps the mode that it has
	} else if err != nil {
		return err
	}
	return f.Close()
}

// own returns Invalid if the file holds another program's tables.
func (db *DB) own(ctx context.Context, name string) error {
	var id, tables int64
	err := db.w.QueryRowContext(ctx, `PRAGMA application_id`).Scan(&id)
	if err == nil {
		err = db.w.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'
			AND name NOT IN ('goose_db_version', 'copying')`).Scan(&tables)
	}
	switch {
	case sqliteCode(err) == sqliteCantOpen, sqliteCode(err) == sqliteReadOnly:
		return usher.Errorf(usher.Invalid, "the database %s cannot be opened for writing: %v", name, err)
	case sqliteCode(err) == sqliteNotADB, sqliteCode(err) == sqliteCorrupt:
		return usher.Errorf(usher.Invalid, "the file %s is damaged or not a SQLite database: %v", name, err)
	case err != nil:
		return fault(err)
	case tables > 0 && id != applicationID:
		return usher.Errorf(usher.Invalid, "the file %s is a SQLite database of another program", name)
	}
	return nil
}

// plain drops operation and path from a file error: the message has them already.
func plain(err error) error {
	var e *os.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
