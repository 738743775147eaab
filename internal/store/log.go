package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// A running server's newest changes are in the log beside a SQLite file (FILE-wal), so
// a copy of the file alone is old, or empty. Nothing in SQLite's format says so. usher
// therefore notes in the file itself, as its user_version, that a process owns it. A
// clean end takes the note away and moves the whole log into the file.

// fileMark is what a SQLite file says of itself.
type fileMark uint32

const (
	markClosed fileMark = 0
	markOwned  fileMark = 1
	markBackup fileMark = 2 // what `usher backup` writes
	markBare   fileMark = 3 // never stored: owned, and without a log beside it
)

// setMark changes what the file says of itself.
func (db *DB) setMark(ctx context.Context, m fileMark) error {
	_, err := db.w.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, m))
	return err
}

// markOpen notes that this process owns the file, and moves the log into it, so that a
// file that was just created has its tables. A full or failing disk is no reason not to
// open: what is there can be read, and the next checkpoint tries again.
func (db *DB) markOpen(ctx context.Context) error {
	var err error
	if db.mark != markOwned { // a killed process left the note
		err = db.setMark(ctx, markOwned)
	}
	if err == nil {
		err = db.checkpoint(ctx)
	}
	if outage(err) != "" {
		return nil
	}
	return err
}

// keepLog makes this process leave the log where it is when it closes the last
// connection. Without an owner the log is what a killed one left, and its being there
// says that nothing is lost.
func (db *DB) keepLog(ctx context.Context) error {
	conn, err := db.w.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(c any) error {
		_, err := c.(interface {
			FileControlPersistWAL(name string, mode int) (int, error)
		}).FileControlPersistWAL("main", 1)
		return err
	})
}

// markOf reads what a file says of itself. One that a process owns and that has no log
// beside it is bare: a copy of a running server's file alone.
func markOf(path string) (fileMark, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	defer f.Close()
	var head [64]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return 0, nil // empty: not yet a database
	}
	m := fileMark(binary.BigEndian.Uint32(head[60:])) // where SQLite keeps user_version
	if m != markOwned {
		return m, nil
	}
	if info, err := os.Stat(path + "-wal"); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return markBare, nil
	} else if err != nil {
		return 0, err
	}
	return m, nil
}

// Checkpoint moves what the log beside a SQLite file has into the file, as far as no
// reader needs it. On PostgreSQL it does nothing.
func (db *DB) Checkpoint(ctx context.Context) (err error) {
	defer wrap(&err, "checkpoint")
	if db.dialect == Postgres {
		return nil
	}
	return db.checkpoint(ctx)
}

func (db *DB) checkpoint(ctx context.Context) error {
	if err := db.mayWork(); err != nil {
		return err
	}
	var busy, logged, moved int64
	// On a connection that reads: the writer's stays free.
	return db.r.QueryRowContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`).Scan(&busy, &logged, &moved)
}

// Warnings returns what about the database may make its answers incomplete, each as
// one sentence: that it is a copy of a running server's file without its log, and that
// its audit log is shorter than its signed head says.
func (db *DB) Warnings(ctx context.Context) (all []string, err error) {
	defer wrap(&err, "read warnings")
	if db.mark == markBare {
		all = append(all, fmt.Sprintf("%s was copied from beside a running server without its log (-wal): the newest changes are missing; "+
			"`usher backup` makes a whole copy", db.file))
	}
	head, _, err := one(ctx, db, scanAuditHead, selectAuditHead)
	if err != nil || head.Note == "" {
		return all, err
	}
	signed, err := audit.ReadCheckpoint(head.Note)
	if err != nil {
		return append(all, fmt.Sprintf("the signed head of the audit log cannot be read: %s", err)), nil
	}
	rows, _, err := one(ctx, db, scanInt, `SELECT count(*) FROM audit`)
	if err == nil && rows < signed.Size {
		all = append(all, fmt.Sprintf("the audit log has %s, and its signed head says %d", usher.CountOf(rows, "row"), signed.Size))
	}
	return all, err
}
