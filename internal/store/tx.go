package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// ErrStale means that a change was computed from a state that is no longer the
// newest. Nothing was applied: read again, compute again.
var ErrStale = errors.New("store: computed from a state that has changed since")

// ErrKeyTaken means that the idempotency key of a change has an answer already.
// Nothing was applied: Answer has it.
var ErrKeyTaken = errors.New("store: the idempotency key is taken")

// forever is the open end of a stored span.
const forever = math.MaxInt64

// none is a stored time that is not there, where 0 would be 1970.
const none = -1

// attempts is how often a transaction runs before a conflict is given up.
const attempts = 8

// tx runs fn in a transaction of its own. Where the database cannot serialise
// it with another, it is rolled back and fn runs again: fn must not keep state.
func (db *DB) tx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	for i := 1; ; i++ {
		err := db.once(ctx, fn)
		if err == nil || !conflict(err) || i == attempts {
			return db.fault(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(i) * 2 * time.Millisecond):
		}
	}
}

func (db *DB) once(ctx context.Context, fn func(tx *sql.Tx) error) error {
	tx, err := db.w.BeginTx(ctx, &sql.TxOptions{Isolation: db.isolation()})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// isolation is named on PostgreSQL, because a server may have another default.
func (db *DB) isolation() sql.IsolationLevel {
	if db.dialect == Postgres {
		return sql.LevelReadCommitted
	}
	return sql.LevelDefault
}

// query reads. text must be one of a bounded number of texts.
func (db *DB) query(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	if db.dialect == Postgres { // pgx keeps statements itself
		return db.r.QueryContext(ctx, text, args...)
	}
	stmt, ok := db.stmts.Load(text)
	if !ok {
		s, err := db.r.PrepareContext(ctx, text)
		if err != nil {
			return nil, err
		}
		if stmt, ok = db.stmts.LoadOrStore(text, s); ok {
			s.Close()
		}
	}
	return stmt.(*sql.Stmt).QueryContext(ctx, args...)
}

// list reads every row of text with scan.
func list[T any](ctx context.Context, db *DB, scan func(row *sql.Rows, v *T) error, text string, args ...any) ([]T, error) {
	rows, err := db.query(ctx, text, args...)
	if err != nil {
		return nil, db.fault(err)
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, db.fault(err)
		}
		all = append(all, v)
	}
	return all, db.fault(rows.Err())
}

// one reads the first row of text with scan; ok is false where there is none.
func one[T any](ctx context.Context, db *DB, scan func(row *sql.Rows, v *T) error, text string, args ...any) (v T, ok bool, err error) {
	all, err := list(ctx, db, scan, text, args...)
	if err != nil || len(all) == 0 {
		return v, false, err
	}
	return all[0], true, nil
}

// scanBody reads one JSON column.
func scanBody[T any](row *sql.Rows, v *T) error {
	var body string
	if err := row.Scan(&body); err != nil {
		return err
	}
	return json.Unmarshal([]byte(body), v)
}

// exec runs one statement and returns how many rows it touched.
func exec(ctx context.Context, tx *sql.Tx, text string, args ...any) (int64, error) {
	res, err := tx.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// values is "($1,$2),($3,$4)" for rows of width columns, beginning at $from.
func values(rows, width, from int) string {
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('(')
		for j := range width {
			if j > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "$%d", from+i*width+j)
		}
		b.WriteByte(')')
	}
	return b.String()
}

func micros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// end is the stored form of a time that may be open.
func end(t *time.Time) int64 {
	if t == nil {
		return forever
	}
	return micros(*t)
}

// zeroMicros is 0 for the zero time: for times of the server, which are never 1970.
func zeroMicros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return micros(t)
}

func fromZeroMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return fromMicros(us)
}
