package store

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
)

// Statements over many rows. Each has one text for any number of rows, or one
// for each of a few sizes, so that it is compiled once: on PostgreSQL the rows
// come as one array for each column; on SQLite as VALUES of sizes that are powers
// of two. Columns have a kind each: t text, i bigint, b bytes.

// largest is the most rows of one statement on SQLite.
const largest = 128

var arrays = map[byte]string{'t': "::text[]", 'i': "::bigint[]", 'b': "::bytea[]"}

// unnest is the rows of arrays whose first parameter is $from.
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

// columns turns rows, one after another in args, into one array a column.
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

// size is the largest power of two that n rows fill.
func size(n int) int {
	k := largest
	for k > n {
		k /= 2
	}
	return k
}

// insert adds rows, one after another in args, and returns how many it touched.
// into is "op (key, env)", after what follows the rows.
func (u *UsageTx) insert(into, kinds string, args []any, after string) (touched int64, err error) {
	if len(args) == 0 {
		return 0, nil
	}
	if u.db.dialect == Postgres {
		return exec(u.ctx, u.tx, `INSERT INTO `+into+` SELECT * FROM `+unnest(kinds, 1)+` `+after, columns(kinds, args)...)
	}
	for len(args) > 0 {
		n := size(len(args) / len(kinds))
		res, err := u.prepared(into+after, n, func() string {
			return `INSERT INTO ` + into + ` VALUES ` + questions(n, len(kinds)) +
				` ` + after
		}).
			exec(args[:n*len(kinds)])
		if err != nil {
			return 0, err
		}
		touched += res
		args = args[n*len(kinds):]
	}
	return touched, nil
}

// among reads what a question finds for keys, one after another in args. The
// question ends in IN, where the list of keys follows, and then after.
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
			for part = part[:len(part):len(part)]; len(part) < n*width; { // the same key again finds nothing more
				part = append(part, last...)
			}
			rows, err = u.prepared(question+after, n, func() string {
				return question + `(VALUES ` + questions(n, width) + `)` +
					after
			}).query(part)
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

// questions is n rows of unnumbered parameters. On SQLite a numbered one is a
// name, which is looked up along a list of all of them.
func questions(n, width int) string {
	row := "(" + strings.Repeat("?,", width-1) + "?)"
	return strings.Repeat(row+",", n-1) + row
}

// statement names a text and its number of rows.
type statement struct {
	text string
	n    int
}

// compiled is a statement of a batch on SQLite: one that is kept on the writing
// connection, or, the first time, its text.
type compiled struct {
	u    *UsageTx
	stmt *sql.Stmt
	text string
}

// prepared finds a statement that is kept. A new one is compiled for this batch,
// and kept once its transaction, which has the only connection, is over.
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

// keep compiles what a batch would have liked to find. Only the one writer calls
// it; a failure costs speed alone.
func (db *DB) keep(ctx context.Context, wanted map[statement]string) {
	for k, text := range wanted {
		if s, err := db.w.PrepareContext(ctx, text); err == nil {
			db.kept[k] = s
		}
	}
}
