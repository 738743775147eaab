package store

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
)

// Statements over many rows. Each has one text for any number of rows, or a few
// texts, so that it is compiled once. On PostgreSQL the rows are one array for each
// column; on SQLite they are VALUES lists whose sizes are powers of two. Each column
// has a kind: t text, i bigint, b bytes.

// largest is the most rows of one statement on SQLite.
const largest = 128

var arrays = map[byte]string{'t': "::text[]", 'i': "::bigint[]", 'b': "::bytea[]"}

// unnest returns the rows of arrays whose first parameter is $from.
func unnest(kinds string, from int) string {
	var b strings.Builder
	b.WriteString("unnest(")
	for i := range kinds {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("$" + strconv.Itoa(from+i) + arrays[kinds[i]])
	}
	return b.String() + ")"
}

// columns turns rows, one after another in args, into one array for each column.
func columns(kinds string, args []any) []any {
	n := len(args) / len(kinds)
	out := make([]any, len(kinds))
	for i := range kinds {
		switch kinds[i] {
		case 't':
			c := make([]string, n)
			for j := range c {
				c[j] = args[j*len(kinds)+i].(string)
			}
			out[i] = c
		case 'i':
			c := make([]int64, n)
			for j := range c {
				c[j] = args[j*len(kinds)+i].(int64)
			}
			out[i] = c
		case 'b':
			c := make([][]byte, n)
			for j := range c {
				c[j], _ = args[j*len(kinds)+i].([]byte)
			}
			out[i] = c
		}
	}
	return out
}

// size returns the largest power of two that is at most n and largest.
func size(n int) int {
	k := largest
	for k > n {
		k /= 2
	}
	return k
}

// insert adds rows, one after another in args, and returns how many it inserted or
// updated. into is "op (key, env)"; after is the SQL after the rows.
func (u *UsageTx) insert(into, kinds string, args []any, after string) (touched int64, err error) {
	if len(args) == 0 {
		return 0, nil
	}
	if u.db.dialect == Postgres {
		return exec(u.ctx, u.tx, `INSERT INTO `+into+` SELECT * FROM `+unnest(kinds, 1)+` `+after, columns(kinds, args)...)
	}
	for len(args) > 0 {
		n := size(len(args) / len(kinds))
		text := func() string { return `INSERT INTO ` + into + ` VALUES ` + questions(n, len(kinds)) + ` ` + after }
		res, err := u.prepared(into+after, n, text).exec(args[:n*len(kinds)])
		if err != nil {
			return 0, err
		}
		touched += res
		args = args[n*len(kinds):]
	}
	return touched, nil
}

// among reads the rows of keys, one after another in args. question ends in IN; the
// list of keys and after follow.
func (u *UsageTx) among(question, kinds string, args []any, after string, scan func(*sql.Rows) error) error {
	width := len(kinds)
	for len(args) > 0 {
		var rows *sql.Rows
		var err error
		if u.db.dialect == Postgres {
			rows, err = u.tx.QueryContext(u.ctx, question+`(SELECT * FROM `+unnest(kinds, 1)+`)`+after, columns(kinds, args)...)
			args = nil
		} else {
			part := args[:min(len(args), largest*width)]
			args = args[len(part):]
			n := 1
			for n*width < len(part) {
				n *= 2
			}
			last := part[len(part)-width:]
			for part = part[:len(part):len(part)]; len(part) < n*width; { // the last key fills up; it finds nothing new
				part = append(part, last...)
			}
			text := func() string { return question + `(VALUES ` + questions(n, width) + `)` + after }
			rows, err = u.prepared(question+after, n, text).query(part)
		}
		if err != nil {
			return err
		}
		if err := eachRow(rows, func() error { return scan(rows) }); err != nil {
			return err
		}
	}
	return nil
}

// questions returns n rows of unnumbered parameters. SQLite treats a numbered one
// as a name and searches a list of all names for each, which is slow for many.
func questions(n, width int) string {
	row := "(" + strings.Repeat("?,", width-1) + "?)"
	return strings.Repeat(row+",", n-1) + row
}

// statement identifies a text with a number of rows.
type statement struct {
	text string
	n    int
}

// compiled is a statement of a batch on SQLite: a kept statement of the writing
// connection, or, the first time, its text.
type compiled struct {
	u    *UsageTx
	stmt *sql.Stmt
	text string
}

// prepared finds a kept statement. A new one is compiled for this batch, and kept
// after the transaction, which uses the only connection.
func (u *UsageTx) prepared(name string, n int, text func() string) compiled {
	k := statement{name, n}
	if s, ok := u.db.kept[k]; ok {
		return compiled{u, u.tx.StmtContext(u.ctx, s), ""}
	}
	t := text()
	if u.wanted == nil {
		u.wanted = map[statement]string{}
	}
	u.wanted[k] = t
	return compiled{u, nil, t}
}

func (c compiled) exec(args []any) (int64, error) {
	if c.stmt == nil {
		return exec(c.u.ctx, c.u.tx, c.text, args...)
	}
	res, err := c.stmt.ExecContext(c.u.ctx, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (c compiled) query(args []any) (*sql.Rows, error) {
	if c.stmt == nil {
		return c.u.tx.QueryContext(c.u.ctx, c.text, args...)
	}
	return c.stmt.QueryContext(c.u.ctx, args...)
}

// keep compiles the statements that a batch did not find. Only Usage calls it, under
// the lock writing; a failure only costs speed.
func (db *DB) keep(ctx context.Context, wanted map[statement]string) {
	for k, text := range wanted {
		if s, err := db.w.PrepareContext(ctx, text); err == nil {
			db.kept[k] = s
		}
	}
}
