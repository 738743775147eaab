package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"

	"github.com/usher-sh/usher"
)

// Result codes of SQLite (https://www.sqlite.org/rescode.html) without their
// extension, which is in the higher bytes.
const (
	sqliteBusy     = 5
	sqliteReadOnly = 8
	sqliteIOErr    = 10
	sqliteCorrupt  = 11
	sqliteFull     = 13
	sqliteCantOpen = 14
	sqliteProtocol = 15 // other connections kept the log's lock
	sqliteNotADB   = 26
)

// sqliteCode returns the result code of an error of SQLite; else 0.
func sqliteCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// postgresCode returns the SQLSTATE of an error that a PostgreSQL server sent; else "".
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
	const unique, primaryKey = 2067, 1555 // SQLITE_CONSTRAINT_UNIQUE and _PRIMARYKEY
	var e *sqlite.Error
	return postgresCode(err) == "23505" || errors.As(err, &e) && (e.Code() == unique || e.Code() == primaryKey)
}

// wrap is what every exported method with an error defers first:
//
//	defer wrap(&err, "put rollups")
//
// It names the method in the error, and gives an outage its code. An error that
// comes from outside it returns as it is.
func wrap(err *error, method string) {
	if *err == nil {
		return
	}
	if out, ok := (*err).(outside); ok {
		*err = out.error
		return
	}
	*err = fmt.Errorf("%s: %w", method, fault(*err))
}

// outside is an error of what the caller of a method handed in: a function, a
// writer. It is not an outage of the database, whatever it looks like.
type outside struct{ error }

func (o outside) Unwrap() error { return o.error }

// fromOutside marks err, unless it is nil.
func fromOutside(err error) error {
	if err == nil {
		return nil
	}
	return outside{err}
}

// fault gives an outage, which is not the caller's mistake and not a bug, the
// code Unavailable and plain words. It returns every other error as it is: an
// error without a code is a bug or a broken installation, and shows as one.
func fault(err error) error {
	var coded *usher.Error
	var out outside
	switch {
	case err == nil, errors.As(err, &out), errors.As(err, &coded), errors.Is(err, ErrStale), errors.Is(err, ErrKeyTaken):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err // the caller gave up; the database may be well
	}
	if words := outage(err); words != "" {
		return fmt.Errorf("%w (%w)", usher.Errorf(usher.Unavailable, "%s", words), err)
	}
	return err
}

// What an outage says to the caller.
const (
	saysFull     = "the database's disk is full: nothing was stored"
	saysDisk     = "the database's disk failed or cannot be written"
	saysBusy     = "the database was busy for too long"
	saysSlow     = "the database took too long to answer"
	saysOverload = "the database accepts no more work at the moment"
	saysReadOnly = "the database is read-only, perhaps a standby"
	saysLost     = "the connection to the database was lost"
	saysNoAccess = "the database refuses usher's login"
	saysNoServer = "the database cannot be reached"
)

// outage returns what to say about an error that means that the database cannot
// work now, and "" for every other error.
func outage(err error) string {
	if errors.Is(err, syscall.ENOSPC) {
		return saysFull
	}
	if code := sqliteCode(err); code != 0 {
		return sqliteOutage(code)
	}
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return postgresOutage(answer)
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return saysNoServer
	}
	var network net.Error
	var unsent interface{ SafeToRetry() bool } // of pgx: the connection was closed before it sent anything
	if errors.As(err, &network) || errors.As(err, &unsent) && unsent.SafeToRetry() {
		return saysLost
	}
	for _, lost := range []error{driver.ErrBadConn, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, lost) {
			return saysLost
		}
	}
	return ""
}

func sqliteOutage(code int) string {
	switch code {
	case sqliteFull:
		return saysFull
	case sqliteIOErr, sqliteCantOpen, sqliteReadOnly:
		return saysDisk
	case sqliteBusy, sqliteProtocol:
		return saysBusy
	}
	return "" // SQL, constraints, misuse; and damage, which no second try mends
}

// postgresOutage goes by the server's own codes:
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
func postgresOutage(e *pgconn.PgError) string {
	switch e.Code {
	case "53100": // disk_full
		return saysFull
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return saysBusy
	case "55P03", "57014": // lock_not_available, query_canceled: lock_timeout and statement_timeout
		return saysBusy
	case "57P03": // cannot_connect_now: it starts up or shuts down
		return saysOverload
	case "25006": // read_only_sql_transaction
		return saysReadOnly
	case "57P01", "57P02", "57P04", "57P05", "25P03": // shut down, crashed, database dropped, idle for too long
		return saysLost
	case "3D000": // invalid_catalog_name: there is no such database
		return saysNoAccess
	case "08P01": // protocol_violation: our bug, unless a pooler ends the connection with it, as pgbouncer does
		if e.Severity != "FATAL" {
			return ""
		}
	}
	switch e.Code[:min(2, len(e.Code))] {
	case "08", "58": // connection exception; system error, outside PostgreSQL
		return saysLost
	case "28": // invalid authorization
		return saysNoAccess
	case "53": // insufficient resources
		return saysOverload
	}
	return ""
}
