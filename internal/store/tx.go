package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"

	"github.com/usher-sh/usher"
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

// Result codes of SQLite without their extension.
const (
	sqliteBusy     = 5
	sqliteReadOnly = 8
	sqliteIOErr    = 10
	sqliteCorrupt  = 11
	sqliteFull     = 13
	sqliteCantOpen = 14
	sqliteNotADB   = 26
)

func sqliteCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

func postgresCode(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// conflict reports whether the same transaction may succeed when run again.
func conflict(err error) bool {
	code := postgresCode(err)
	return code == "40001" || code == "40P01" || sqliteCode(err) == sqliteBusy
}

// duplicate reports whether err is a violation of a unique index.
func duplicate(err error) bool {
	var e *sqlite.Error
	return postgresCode(err) == "23505" || errors.As(err, &e) && (e.Code() == 2067 || e.Code() == 1555)
}

// fault gives errors of the kind "not now" a code and plain words, and leaves
// all others as they are.
func (db *DB) fault(err error) error {
	var coded *usher.Error
	if err == nil || errors.As(err, &coded) || errors.Is(err, ErrStale) || errors.Is(err, ErrKeyTaken) {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if words := unavailable(err); words != "" {
		return fmt.Errorf("%w (%w)", usher.Errorf(usher.Unavailable, "%s", words), err)
	}
	return fmt.Errorf("%s: %w", db.dialect, err)
}

func unavailable(err error) string {
	const full = "the database's disk is full: nothing was stored"
	if errors.Is(err, syscall.ENOSPC) {
		return full
	}
	switch sqliteCode(err) {
	case sqliteFull:
		return full
	case sqliteIOErr, sqliteCantOpen, sqliteReadOnly:
		return "the database's disk failed or cannot be written"
	case sqliteBusy:
		return "the database was busy for too long"
	}
	switch code := postgresCode(err); {
	case code == "53100":
		return full
	case conflict(err):
		return "the database was busy for too long"
	case strings.HasPrefix(code, "53"), code == "57P03":
		return "the database takes no more work at the moment"
	case code == "25006":
		return "the database is read-only, a standby perhaps"
	case strings.HasPrefix(code, "08"), code == "57P01", code == "57P02", strings.HasPrefix(code, "58"):
		return "the connection to the database was lost"
	case strings.HasPrefix(code, "28"), code == "3D000":
		return "the database does not let usher in"
	}
	var connect *pgconn.ConnectError
	var network net.Error
	var closed interface{ SafeToRetry() bool } // of pgx: nothing was sent
	switch {
	case errors.As(err, &connect):
		return "the database cannot be reached"
	case errors.As(err, &network), errors.As(err, &closed) && closed.SafeToRetry(), errors.Is(err, driver.ErrBadConn), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return "the connection to the database was lost"
	}
	return ""
}
