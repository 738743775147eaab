package store

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/usher-sh/usher"
)

// Watch finds out whether this process may go on working with the database. It may
// not if the SQLite file that it has open is no longer the one at its path, because
// what it writes then is lost; and if a newer usher has changed the schema. While it
// may not, Watch returns Unavailable, and so does every other method that reads or
// writes, except those that read whole tables.
func (db *DB) Watch(ctx context.Context) (err error) {
	defer wrap(&err, "watch")
	stop, place, err := db.mustStop(ctx)
	if err != nil {
		return err // what was found before stands
	}
	db.stopped.Store(stop)
	if stop == nil {
		return nil
	}
	return fmt.Errorf("%w (%s)", stop, place)
}

// mustStop returns why this process may not go on, and where; nil: it may.
func (db *DB) mustStop(ctx context.Context) (stop *usher.Error, place string, err error) {
	if db.file != "" {
		info, err := os.Stat(db.file)
		if err == nil && os.SameFile(info, db.opened) {
			return nil, "", nil
		}
		return unavailable("the database file was moved, replaced or deleted while usher runs: nothing is stored until it is back, " +
			"or until usher is started again"), db.file, nil
	}
	if db.dialect == SQLite {
		return nil, "", nil // one process owns the file: nothing else migrates it
	}
	var have int64
	if err := db.r.QueryRowContext(ctx, selectVersion).Scan(&have); err != nil {
		return nil, "", err
	}
	if have <= db.newest {
		return nil, "", nil
	}
	return unavailable("a newer usher has changed the database: this server stores nothing more and must be replaced by that version"),
		fmt.Sprintf("the schema has version %d, this usher knows up to %d", have, db.newest), nil
}

func unavailable(detail string) *usher.Error {
	return &usher.Error{Code: usher.Unavailable, Detail: detail, RetryAfter: time.Second}
}

// mayWork returns what Watch last found.
func (db *DB) mayWork() error {
	if stop := db.stopped.Load(); stop != nil {
		return stop
	}
	return nil
}
