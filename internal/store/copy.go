package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/gofrs/flock"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// CopyConfig says what is copied where.
type CopyConfig struct {
	// From is the database that is read, at one instant. Its Beside has no meaning. A
	// backup may be older than this build.
	From Config
	// To is a SQLite file that does not exist, an empty PostgreSQL database, or the
	// target of the same copy that was cut off.
	To Config
	// Kind is what the copy is for.
	Kind CopyKind
	// Progress is called with the rows copied so far, of all; nil is not called.
	Progress func(doing string, done, all int64)
}

// CopyKind is what a copy is for.
type CopyKind string

// The kinds of copies.
const (
	// Backup makes a SQLite file that is no database to serve. Servers of From may
	// run, and the epoch stays.
	Backup CopyKind = "backup"
	// Restore creates a database from a backup. It begins a new epoch.
	Restore CopyKind = "restore"
	// Move copies a database whose servers are stopped. It begins a new epoch.
	Move CopyKind = "copy"
)

// CopyReport is what was copied.
type CopyReport struct {
	Tables  map[string]int64  // rows of each table
	Rows    int64             // of all tables
	LeftOut map[string]string // tables that were not copied, with the reasons
	Head    usher.AuditHead   // of the source's audit log, which the target's contains
	Resumed bool              // an earlier copy had begun
	NewKey  bool              // no key of the audit log was found, so that it goes on with a new one
}

// copyAtOnce is how many rows one transaction of the target takes, and copyBytes about
// how much text and bytes.
const (
	copyAtOnce = 5000
	copyBytes  = 8 << 20
)

// Copy copies all tables from one database into another, of either kind, table by
// table in the order of their keys. The target notes with each transaction how far it
// is, so that a copy that was cut off goes on where it was; until it has ended nothing
// else opens the target. In the end the numbers of rows and the roots of the audit logs
// are compared. It returns Conflict if the target has data of its own, if the source of
// a Move has a server or has changed meanwhile, or since the copy began.
func Copy(ctx context.Context, c CopyConfig) (report CopyReport, err error) {
	defer wrap(&err, string(c.Kind))
	c.From.Beside, c.To.Beside = true, false
	var version int64
	from, err := open(ctx, c.From, func(ctx context.Context, db *DB) error {
		var err error
		if _, version, err = db.schema(ctx); err == nil && version == 0 {
			err = usher.Errorf(usher.NotFound, "the database to read is empty")
		}
		if err == nil && version < db.newest && c.Kind != Restore {
			err = usher.Errorf(usher.Conflict, "the database to read has schema version %d and this usher needs %d: "+
				"start `usher serve` of this version once", version, db.newest)
		}
		if err == nil {
			err = db.checkMigrations(ctx, version, false)
		}
		return err
	})
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if c.Kind == Move && from.file != "" {
		lock := flock.New(from.file+".lock", flock.SetPermissions(0o600))
		if ok, err := lock.TryLock(); err != nil || !ok {
			return report, usher.Errorf(usher.Conflict, "%s is owned by another process, a running `usher serve` perhaps: stop it first", from.file)
		}
		from.lock = lock // Close gives it up
	}
	r := &copier{CopyConfig: c, from: from, version: version, report: CopyReport{Tables: map[string]int64{}, LeftOut: maps.Clone(leftOut)}}
	delete(r.report.LeftOut, "copying")
	if r.to, err = open(ctx, c.To, r.prepare); err != nil {
		return report, err
	}
	if err = r.run(ctx); err != nil {
		return r.report, errors.Join(err, r.to.Close())
	}
	if c.Kind == Backup {
		return r.report, r.to.closeAsBackup(ctx)
	}
	return r.report, r.to.Close()
}

// copier is a copy under way.
type copier struct {
	CopyConfig
	from, to *DB
	version  int64 // of the source's schema
	source   *Scan
	tables   []table
	all      int64
	report   CopyReport
}

// prepare makes the target's schema, as old as the source's. A target that another copy
// has begun has it.
func (c *copier) prepare(ctx context.Context, to *DB) error {
	m, have, err := to.schema(ctx)
	if err != nil {
		return err
	}
	begun, err := to.exists(ctx, "copying")
	if err != nil {
		return fault(err)
	}
	if have > 0 && !begun {
		return usher.Errorf(usher.Conflict, "the target is a database already: name a new file or an empty PostgreSQL database")
	}
	if !begun {
		_, err := to.w.ExecContext(ctx, `CREATE TABLE copying (name TEXT NOT NULL PRIMARY KEY, text TEXT NOT NULL, n BIGINT NOT NULL)`)
		if err != nil {
			return fault(err)
		}
	}
	if have < c.version {
		_, err = m.UpTo(ctx, c.version)
	}
	return fault(err)
}

// note is a row of the table copying in the target.
type copyNote struct {
	text string
	n    int64
}

func (c *copier) note(ctx context.Context, tx *sql.Tx, name, text string, n int64) error {
	_, err := exec(ctx, tx, `INSERT INTO copying (name, text, n) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET text = excluded.text, n = excluded.n`, name, text, n)
	return err
}

// notes reads what the target knows of the copy, by name: "source", "rows" once all rows
// are there, "table:…" with the last key and the number of rows, "trigger:…".
func (c *copier) notes(ctx context.Context) (map[string]copyNote, error) {
	type row struct {
		name string
		copyNote
	}
	rows, err := list(ctx, atOnce{c.to.w}, func(rows *sql.Rows, r *row) error { return rows.Scan(&r.name, &r.text, &r.n) },
		`SELECT name, text, n FROM copying ORDER BY name`)
	all := map[string]copyNote{}
	for _, r := range rows {
		all[r.name] = r.copyNote
	}
	return all, err
}

func (c *copier) run(ctx context.Context) error {
	var identity string
	err := c.from.scan(ctx, func(s *Scan) (err error) {
		c.source = s
		if identity, err = c.look(ctx, s, true); err != nil {
			return err
		}
		notes, err := c.notes(ctx)
		if err != nil {
			return err
		}
		switch before, begun := notes["source"]; {
		case !begun:
			if err := c.begin(ctx, identity); err != nil {
				return err
			}
		case before.text != identity:
			return usher.Errorf(usher.Conflict, "the source has changed since the copy began: begin again with a new target")
		default:
			c.report.Resumed = true
		}
		if _, done := notes["rows"]; done {
			return nil
		}
		return c.rows(ctx, notes)
	})
	if err != nil {
		return err
	}
	if c.Kind == Move {
		err := c.from.scan(ctx, func(s *Scan) error {
			// A server of the source could have committed after the copy read its rows: those
			// changes would be lost.
			now, err := c.look(ctx, s, false)
			if err == nil && now != identity {
				err = usher.Errorf(usher.Conflict, "the source changed while it was copied: stop its servers and begin again with a new target")
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return c.end(ctx)
}

// look reads what tells one state of the source from another: the rows of each table
// and the root of the audit log. With keep, the copy is one of that state.
func (c *copier) look(ctx context.Context, s *Scan, keep bool) (string, error) {
	tables, err := s.tables(c.from.dialect)
	if err != nil {
		return "", err
	}
	counts, all := map[string]int64{}, int64(0)
	for _, t := range tables {
		if counts[t.name], err = s.count(ctx, t.name); err != nil {
			return "", err
		}
		all += counts[t.name]
	}
	var head usher.AuditHead
	var root string
	if _, ok := counts["audit_head"]; ok {
		if head, _, err = one(ctx, inTx{s.tx}, scanAuditHead, selectAuditHead); err == nil {
			root, err = auditRoot(ctx, s.tx)
		}
		if err != nil {
			return "", err
		}
	}
	if keep {
		c.tables, c.all, c.report.Head = tables, all, head
	}
	b, err := json.Marshal(map[string]any{"version": c.version, "rows": counts, "root": root})
	return string(b), err
}

// auditRoot is the hash of the whole audit log.
func auditRoot(ctx context.Context, tx *sql.Tx) (string, error) {
	var root []byte
	err := tx.QueryRowContext(ctx, `SELECT root FROM audit_head WHERE one = 1`).Scan(&root)
	return hex.EncodeToString(root), err
}

// begin empties the target of what its migrations wrote, and takes its triggers away
// until all rows are there: they would refuse rows of the audit log that are not new.
func (c *copier) begin(ctx context.Context, identity string) error {
	return c.to.tx(ctx, func(tx *sql.Tx) error {
		for _, t := range c.tables {
			if t.name == "audit_head" { // it has its one row from the start
				continue
			}
			if _, err := exec(ctx, tx, `DELETE FROM "`+t.name+`"`); err != nil {
				return err
			}
		}
		if c.to.dialect == SQLite {
			type trigger struct{ name, text string }
			all, err := list(ctx, inTx{tx}, func(row *sql.Rows, t *trigger) error { return row.Scan(&t.name, &t.text) },
				`SELECT name, sql FROM sqlite_master WHERE type = 'trigger'`)
			if err != nil {
				return err
			}
			for _, t := range all {
				if err := c.note(ctx, tx, "trigger:"+t.name, t.text, 0); err != nil {
					return err
				}
				if _, err := exec(ctx, tx, `DROP TRIGGER "`+t.name+`"`); err != nil {
					return err
				}
			}
		}
		return c.note(ctx, tx, "source", identity, 0)
	})
}

// rows copies what is not there yet, and compares in the end.
func (c *copier) rows(ctx context.Context, notes map[string]copyNote) error {
	var done int64
	for _, t := range c.tables {
		if err := c.sameColumns(ctx, &t); err != nil {
			return err
		}
		n := notes["table:"+t.name]
		done += n.n
		if err := c.table(ctx, &t, n, &done); err != nil {
			return fmt.Errorf("table %s: %w", t.name, err)
		}
	}
	return c.to.tx(ctx, func(tx *sql.Tx) error {
		to := &Scan{tx, ctx}
		for _, t := range c.tables {
			want, err := c.source.count(ctx, t.name)
			if err != nil {
				return err
			}
			got, err := to.count(ctx, t.name)
			if err != nil {
				return err
			}
			if got != want {
				return fmt.Errorf("the table %s has %s in the target and %d in the source", t.name, usher.CountOf(got, "row"), want)
			}
		}
		if c.report.Head.Note != "" {
			want, err := auditRoot(ctx, c.source.tx)
			if err != nil {
				return err
			}
			if got, err := auditRoot(ctx, tx); err != nil || got != want {
				return errors.Join(err, fmt.Errorf("the audit log's root is %s in the target and %s in the source", got, want))
			}
		}
		notes, err := list(ctx, inTx{tx}, scanText, `SELECT text FROM copying WHERE name LIKE 'trigger:%'`)
		if err != nil {
			return err
		}
		for _, text := range notes {
			if _, err := exec(ctx, tx, text); err != nil {
				return err
			}
		}
		return c.note(ctx, tx, "rows", "", 0)
	})
}

// sameColumns returns an error unless the target has the table with the same columns.
func (c *copier) sameColumns(ctx context.Context, t *table) error {
	return c.to.scan(ctx, func(s *Scan) error {
		of, err := s.table(c.to.dialect, t.name)
		if err != nil {
			return err
		}
		got, want := slices.Sorted(slices.Values(of.columns)), slices.Sorted(slices.Values(t.columns))
		if !slices.Equal(got, want) {
			return fmt.Errorf("the table %s has the columns %v in the target and %v in the source", t.name, got, want)
		}
		return nil
	})
}

// table copies the rows of a table beyond the last one that the target has.
func (c *copier) table(ctx context.Context, t *table, before copyNote, done *int64) error {
	var after []any
	if before.text != "" {
		var err error
		if after, err = readKey(before.text); err != nil {
			return err
		}
	}
	rows, err := c.source.tx.QueryContext(ctx, t.selectAfter(after != nil), after...)
	if err != nil {
		return err
	}
	var batch [][]any
	size, n := 0, before.n
	put := func() error {
		if len(batch) == 0 {
			return nil
		}
		last, err := t.keyText(batch[len(batch)-1])
		if err != nil {
			return err
		}
		if err := c.put(ctx, t, batch, last, n+int64(len(batch))); err != nil {
			return err
		}
		n += int64(len(batch))
		*done += int64(len(batch))
		if c.Progress != nil {
			c.Progress(t.name, *done, c.all)
		}
		batch, size = batch[:0], 0
		return nil
	}
	err = eachRow(rows, func() error {
		row, to := make([]any, len(t.columns)), make([]any, len(t.columns))
		for i := range row {
			to[i] = &row[i]
		}
		if err := rows.Scan(to...); err != nil {
			return err
		}
		for i, v := range row {
			switch v := v.(type) {
			case string:
				size += len(v)
			case []byte:
				if size += len(v); v == nil { // SQLite's driver reads empty bytes so, and would write NULL
					row[i] = []byte{}
				}
			}
		}
		if batch = append(batch, row); len(batch) == copyAtOnce || size >= copyBytes {
			return put()
		}
		return nil
	})
	if err == nil {
		err = put()
	}
	return err
}

// put writes rows and the place of the last one in one transaction.
func (c *copier) put(ctx context.Context, t *table, rows [][]any, last string, n int64) error {
	columns := t.columns
	return c.to.tx(ctx, func(tx *sql.Tx) error {
		if t.name == "audit_head" {
			if err := putAuditHead(ctx, tx, columns, rows[0]); err != nil {
				return err
			}
			return c.note(ctx, tx, "table:"+t.name, last, n)
		}
		const most = 100 // rows of one statement
		into := `INSERT INTO "` + t.name + `" (` + names(columns) + `) VALUES `
		var stmt *sql.Stmt
		if len(rows) >= most {
			var err error
			if stmt, err = tx.PrepareContext(ctx, into+values(most, len(columns), 1)); err != nil {
				return err
			}
			defer stmt.Close()
		}
		for part := range slices.Chunk(rows, most) {
			args := slices.Concat(part...)
			var err error
			if len(part) == most {
				_, err = stmt.ExecContext(ctx, args...)
			} else {
				_, err = exec(ctx, tx, into+values(len(part), len(columns), 1), args...)
			}
			if err != nil {
				return err
			}
		}
		return c.note(ctx, tx, "table:"+t.name, last, n)
	})
}

// putAuditHead replaces the row that says that the log is empty: the log's end can only
// move on.
func putAuditHead(ctx context.Context, tx *sql.Tx, columns []string, row []any) error {
	if row[slices.Index(columns, "size")] == int64(0) {
		return nil
	}
	set := ""
	for i, name := range columns {
		if i > 0 {
			set += ", "
		}
		set += `"` + name + `" = ` + dollar(i+1)
	}
	_, err := exec(ctx, tx, `UPDATE audit_head SET `+set+` WHERE one = 1`, row...)
	return err
}

// end brings the target's schema up to date and begins its own life. Before, it is the
// target of a copy; after, a database.
func (c *copier) end(ctx context.Context) error {
	notes, err := c.notes(ctx)
	if err != nil {
		return err
	}
	for _, t := range c.tables {
		n := notes["table:"+t.name].n
		c.report.Tables[t.name] = n
		c.report.Rows += n
	}
	m, err := c.to.migrator()
	if err != nil {
		return err
	}
	if c.Kind != Backup {
		if _, err := m.Up(ctx); err != nil {
			return err
		}
		if _, err := c.to.w.ExecContext(ctx, `ANALYZE`); err != nil { // plans of empty tables are slow
			return err
		}
	}
	have, err := c.to.version(ctx)
	if err != nil {
		return err
	}
	if err := c.to.checkMigrations(ctx, have, true); err != nil {
		return err
	}
	inside, err := c.findKey(ctx)
	if err != nil {
		return err
	}
	return c.to.tx(ctx, func(tx *sql.Tx) error {
		if c.Kind != Backup {
			if err := c.to.newEpoch(ctx, tx, string(c.Kind)); err != nil {
				return err
			}
			if inside != "" {
				if _, err := exec(ctx, tx, `INSERT INTO audit_key (one, private) VALUES (1, $1)`, inside); err != nil {
					return err
				}
			}
		}
		_, err := exec(ctx, tx, `DROP TABLE copying`)
		return err
	})
}

// findKey finds the key that signs the target's log from here on: the given one, the one
// beside the SQLite file, or a new one, which the log announces. It returns a new key
// that must be kept in the database.
func (c *copier) findKey(ctx context.Context) (inside string, err error) {
	if c.Kind == Backup {
		return "", nil
	}
	if c.To.AuditKey != "" {
		if c.to.signKey, err = audit.ParseKey(c.To.AuditKey); err != nil {
			return "", usher.Errorf(usher.Invalid, "%s", err)
		}
		return "", c.to.checkAuditKey(ctx)
	}
	if err := c.to.openAuditKey(ctx); err != nil {
		return "", err
	}
	if c.to.signKey != nil {
		return "", c.to.checkAuditKey(ctx)
	}
	if c.to.signKey, err = audit.NewKey(rand.Reader); err != nil {
		return "", err
	}
	c.report.NewKey = true
	if c.to.keyFile == "" {
		return c.to.signKey.Private(), nil
	}
	return "", writeSecret(c.to.keyFile, c.to.signKey.Private()+"\n")
}

// closeAsBackup closes a SQLite file so that it stands alone: without a log beside it,
// and known as a backup.
func (db *DB) closeAsBackup(ctx context.Context) error {
	err := db.r.Close()
	if err == nil {
		err = db.setMark(ctx, markBackup)
	}
	if err == nil {
		_, err = db.w.ExecContext(ctx, `PRAGMA journal_mode = DELETE`)
	}
	err = errors.Join(err, db.w.Close(), db.lock.Unlock())
	os.Remove(db.file + ".lock") // no other process knows the name of an unfinished backup
	return err
}
