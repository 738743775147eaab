package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// ErrStale means that a change was computed from a state that is no longer the
// newest. Nothing was applied: read and compute again.
var ErrStale = errors.New("store: computed from a state that has changed since")

// ErrKeyTaken means that the idempotency key of a change already has an answer.
// Nothing was applied: Answer reads the stored one.
var ErrKeyTaken = errors.New("store: the idempotency key is taken")

// forever is the open end of a stored span.
const forever = math.MaxInt64

// none is how a missing time is stored where 0 is a real time, in 1970.
const none = -1

// attempts is how often tx runs a transaction that conflicts with another.
const attempts = 8

// tx runs fn in a new transaction. If the transaction conflicts with another one
// (a deadlock, a busy SQLite), it is rolled back and fn runs again from the start,
// so fn must not keep state of an earlier run.
func (db *DB) tx(ctx context.Context, fn func(tx *sql.Tx) error) error { return db.txOn(ctx, db.w, fn) }

// txFor bounds a transaction with all its attempts, if the caller sets no earlier
// deadline: a database that is cut off answers nothing at all. The longest ones are a
// catalogue that moves many customers, and a day's audit hours.
const txFor = time.Minute

// txOn does as tx does, on connections of pool.
func (db *DB) txOn(callers context.Context, pool *sql.DB, fn func(tx *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(callers, txFor)
	defer cancel()
	for i := 1; ; i++ {
		err := db.once(ctx, pool, fn)
		// Our own deadline has passed, not the caller's: the database is too slow, which is an
		// outage.
		if err != nil && ctx.Err() != nil && callers.Err() == nil {
			return fmt.Errorf("%w (%w)", usher.Errorf(usher.Unavailable, saysSlow), err)
		}
		if err == nil || !conflict(err) || i == attempts {
			return fault(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		// A growing pause: 2 ms, 4 ms, … up to 14 ms.
		case <-time.After(time.Duration(i) * 2 * time.Millisecond):
		}
	}
}

func (db *DB) once(ctx context.Context, pool *sql.DB, fn func(tx *sql.Tx) error) error {
	if err := db.mayWork(); err != nil {
		return err
	}
	tx, err := pool.BeginTx(ctx, &sql.TxOptions{Isolation: db.isolation()})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// isolation names PostgreSQL's level, because a server may have another default.
// READ COMMITTED is enough, because every change locks its rows first.
func (db *DB) isolation() sql.IsolationLevel {
	if db.dialect == Postgres {
		return sql.LevelReadCommitted
	}
	return sql.LevelDefault
}

// reader runs a SELECT: on the database, as it is committed, or in one transaction.
// On the database the text must be one of a bounded number: SQLite keeps the
// compiled statement of each.
type reader interface {
	query(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

// inTx is a transaction as a reader.
type inTx struct{ *sql.Tx }

func (t inTx) query(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	return t.QueryContext(ctx, text, args...)
}

func (db *DB) query(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	if err := db.mayWork(); err != nil {
		return nil, err
	}
	if db.dialect == Postgres { // pgx keeps statements itself
		return db.r.QueryContext(ctx, text, args...)
	}
	stmt, ok := db.stmts.Load(text)
	if !ok {
		s, err := db.r.PrepareContext(ctx, text)
		if err != nil {
			return nil, err
		}
		// Another goroutine prepared the same text first: keep its statement.
		if stmt, ok = db.stmts.LoadOrStore(text, s); ok {
			s.Close()
		}
	}
	return stmt.(*sql.Stmt).QueryContext(ctx, args...)
}

// eachRow calls fn for every row, and closes rows.
func eachRow(rows *sql.Rows, fn func() error) error {
	defer rows.Close()
	for rows.Next() {
		if err := fn(); err != nil {
			return err
		}
	}
	return rows.Err()
}

// list reads every row of text with scan.
func list[T any](ctx context.Context, r reader, scan func(row *sql.Rows, v *T) error, text string, args ...any) ([]T, error) {
	rows, err := r.query(ctx, text, args...)
	if err != nil {
		return nil, fault(err)
	}
	var all []T
	err = eachRow(rows, func() error {
		var v T
		if err := scan(rows, &v); err != nil {
			return err
		}
		all = append(all, v)
		return nil
	})
	if err != nil {
		return nil, fault(err)
	}
	return all, nil
}

// one reads the first row of text with scan; ok is false if there is none.
func one[T any](ctx context.Context, r reader, scan func(row *sql.Rows, v *T) error, text string, args ...any) (v T, ok bool, err error) {
	all, err := list(ctx, r, scan, text, args...)
	if err != nil || len(all) == 0 {
		return v, false, err
	}
	return all[0], true, nil
}

func scanInt(row *sql.Rows, n *int64) error { return row.Scan(n) }

func scanText(row *sql.Rows, s *string) error { return row.Scan(s) }

// scanBody reads one JSON column.
func scanBody[T any](row *sql.Rows, v *T) error {
	var body string
	if err := row.Scan(&body); err != nil {
		return err
	}
	return json.Unmarshal([]byte(body), v)
}

// forUpdate ends a SELECT whose rows stay as they are until the transaction ends.
// SQLite has one writer, so nothing else can change them, and does not know the words.
func (db *DB) forUpdate() string {
	if db.dialect == Postgres {
		return " FOR UPDATE"
	}
	return ""
}

// exec runs one statement and returns how many rows it inserted, updated or deleted.
func exec(ctx context.Context, tx *sql.Tx, text string, args ...any) (int64, error) {
	res, err := tx.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// values returns "($1, $2), ($3, $4)" for rows of width columns, beginning at $from.
func values(rows, width, from int) string {
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("(" + places(width, from+i*width) + ")")
	}
	return b.String()
}

// places returns "$3, $4" for n parameters from the given one.
func places(n, from int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(dollar(from + i))
	}
	return b.String()
}

// dollar returns the name of a parameter: "$3".
func dollar(i int) string { return "$" + strconv.Itoa(i) }

func micros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// end returns the stored form of an end: forever for nil.
func end(t *time.Time) int64 {
	if t == nil {
		return forever
	}
	return micros(*t)
}

// zeroMicros returns 0 for the zero time. It is for times of the server's clock,
// which are never 1970.
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
