package powercut

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
	"regexp"
	"unsafe"

	"github.com/ncruces/go-sqlite3"
	sqlite3driver "github.com/ncruces/go-sqlite3/driver"
	_ "github.com/ncruces/go-sqlite3/embed" // the SQLite that runs
	"modernc.org/sqlite"
)

// OpenSQLite opens a SQLite file of this disk for store.Config. usher's own driver does
// not accept a file layer in Go, so this is another driver, adapted to bind arguments
// and to fail as usher's does.
func (d *Disk) OpenSQLite(uri string) (*sql.DB, error) {
	c, err := (&sqlite3driver.SQLite{}).OpenConnector(uri + "&vfs=" + d.name)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector{c}), nil
}

var numbered = regexp.MustCompile(`\$([0-9]+)`)

// byNumber makes $3 the third argument. This driver takes $3 for a name and numbers
// names in the order in which they first occur.
func byNumber(text string) string { return numbered.ReplaceAllString(text, "?$1") }

// fault returns err as usher's driver would: with its result code.
func fault(err error) error {
	var e *sqlite3.Error
	var primary sqlite3.ErrorCode
	var extended sqlite3.ExtendedErrorCode
	code := 0
	switch {
	case errors.As(err, &e):
		code = int(e.ExtendedCode())
	case errors.As(err, &extended):
		code = int(extended)
	case errors.As(err, &primary):
		code = int(primary)
	default:
		return err
	}
	as := &sqlite.Error{}
	v := reflect.ValueOf(as).Elem()
	*(*int)(unsafe.Pointer(v.FieldByName("code").UnsafeAddr())) = code
	*(*string)(unsafe.Pointer(v.FieldByName("msg").UnsafeAddr())) = err.Error()
	return as
}

type connector struct{ driver.Connector }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	in, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, fault(err)
	}
	return conn{in.(sqlite3driver.Conn)}, nil
}

type conn struct{ sqlite3driver.Conn }

func (c conn) PrepareContext(ctx context.Context, text string) (driver.Stmt, error) {
	s, err := c.Conn.PrepareContext(ctx, byNumber(text))
	if err != nil {
		return nil, fault(err)
	}
	return stmt{s.(inner)}, nil
}

func (c conn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	t, err := c.Conn.BeginTx(ctx, o)
	if err != nil {
		return nil, fault(err)
	}
	return tx{t}, nil
}

// ExecContext also runs scripts of several statements, such as migrations.
func (c conn) ExecContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Result, error) {
	r, err := c.Conn.(driver.ExecerContext).ExecContext(ctx, text, args)
	return r, fault(err)
}

func (c conn) CheckNamedValue(v *driver.NamedValue) error {
	return c.Conn.(driver.NamedValueChecker).CheckNamedValue(v)
}

func (c conn) Close() error { return fault(c.Conn.Close()) }

type tx struct{ driver.Tx }

func (t tx) Commit() error   { return fault(t.Tx.Commit()) }
func (t tx) Rollback() error { return fault(t.Tx.Rollback()) }

type inner interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
	driver.NamedValueChecker
}

type stmt struct{ inner }

func (s stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	r, err := s.inner.ExecContext(ctx, args)
	return r, fault(err)
}

func (s stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	r, err := s.inner.QueryContext(ctx, args)
	if err != nil {
		return nil, fault(err)
	}
	return rows{r}, nil
}

func (s stmt) Close() error { return fault(s.inner.Close()) }

type rows struct{ driver.Rows }

func (r rows) Next(to []driver.Value) error {
	err := r.Rows.Next(to)
	if err == io.EOF {
		return err
	}
	return fault(err)
}

// Close returns no error: Next has already returned it, and usher's driver does not
// return it twice.
func (r rows) Close() error {
	r.Rows.Close()
	return nil
}
