package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/usher-sh/usher/internal/audit"
)

// A running server's newest changes are in the log beside a SQLite file (FILE-wal), so
// a copy of the file alone is old, or empty. Nothing in SQLite's format says so. usher
// therefore notes in the file itself, as its user_version, that a process owns it: 1
// while it does, 0 after a clean end, which moves the whole log into the file.

// markOpen notes that this process owns the file, and moves the log into it, so that a
// file that was just created has its tables.
func (db *DB) markOpen(ctx context.Context) error {
	if _, err := db.w.ExecContext(ctx, `PRAGMA user_version = 1`); err != nil {
		return err
	}
	return db.checkpoint(ctx)
}

// markClosed notes that no process owns the file. Closing the last connection moves
// the log into it.
func (db *DB) markClosed() error {
	_, err := db.w.Exec(`PRAGMA user_version = 0`)
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

// copiedBare reports whether a file says that a process owns it, and has no log
// beside it: it is a copy of a running server's file alone.
func copiedBare(path string) (bool, error) {
	if info, err := os.Stat(path + "-wal"); err == nil && info.Size() > 0 {
		return false, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var head [64]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return false, nil // empty: not yet a database
	}
	return binary.BigEndian.Uint32(head[60:]) != 0, nil // where SQLite keeps user_version
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
	if db.bare {
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
		all = append(all, fmt.Sprintf("the audit log has %d rows, and its signed head says %d", rows, signed.Size))
	}
	return all, err
}
