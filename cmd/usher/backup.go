package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/fsck"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
)

type backupCmd struct {
	File string `arg:"" help:"New file to write the backup to." type:"path"`
	DB   string `name:"db" required:"" help:"SQLite file or postgres:// address of the database." placeholder:"FILE|postgres://…"`
}

func (c *backupCmd) Run(a *app) (err error) {
	if _, err := os.Lstat(c.File); err == nil {
		return usher.Errorf(usher.Conflict, "%s exists: name a new file", c.File)
	}
	part := c.File + ".partial"
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} { // of a backup that was cut off
		if err := os.Remove(part + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	r, err := a.copy(store.CopyConfig{From: store.Config{DSN: c.DB}, To: store.Config{DSN: part}, Kind: store.Backup})
	if err != nil {
		return errors.Join(err, remove(part))
	}
	v, err := a.verify(part, r.Head)
	if err != nil {
		return errors.Join(err, remove(part))
	}
	if err := os.Rename(part, c.File); err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(c.File)); err == nil {
		dir.Sync() // the new name; a system that cannot do so keeps it by itself
		dir.Close()
	}
	return a.copied(r, v, "file", c.File, "in the file "+c.File)
}

// remove removes a file that was not finished.
func remove(name string) error {
	if err := os.Remove(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

type restoreCmd struct {
	File     string `arg:"" help:"File that usher backup wrote." type:"path"`
	DB       string `name:"db" required:"" help:"New SQLite file, or postgres:// address of an empty database." placeholder:"FILE|postgres://…"`
	AuditKey string `help:"File of the private key of the audit log (default DB.audit-key for a SQLite file, else in the database)." type:"path" placeholder:"FILE"`
}

func (c *restoreCmd) Run(a *app) error {
	key, err := auditKey(c.AuditKey)
	if err != nil {
		return err
	}
	if strings.Contains(c.File, "://") {
		return wrong("%s is not a file: `usher copy` reads databases", c.File)
	}
	r, err := a.copy(store.CopyConfig{From: store.Config{DSN: c.File}, To: store.Config{DSN: c.DB, AuditKey: key}, Kind: store.Restore})
	if err != nil {
		return err
	}
	v, err := a.verify(c.DB, r.Head)
	if err != nil {
		return err
	}
	return a.copied(r, v, "db", nameOf(c.DB), "in "+nameOf(c.DB))
}

type copyCmd struct {
	From     string `name:"from" required:"" help:"SQLite file or postgres:// address to read, whose servers are stopped." placeholder:"FILE|postgres://…"`
	To       string `name:"to" required:"" help:"New SQLite file, or postgres:// address of an empty database." placeholder:"FILE|postgres://…"`
	AuditKey string `help:"File of the private key of the audit log from now on (default TO.audit-key for a SQLite file, else in the database)." type:"path" placeholder:"FILE"`
}

// sampled is how many customers of each environment must get the same answers.
const sampled = 100

func (c *copyCmd) Run(a *app) error {
	key, err := auditKey(c.AuditKey)
	if err != nil {
		return err
	}
	r, err := a.copy(store.CopyConfig{From: store.Config{DSN: c.From}, To: store.Config{DSN: c.To, AuditKey: key}, Kind: store.Move})
	if err != nil {
		return err
	}
	v, err := a.verify(c.To, r.Head)
	if err != nil {
		return err
	}
	if v.Customers, err = sameAnswers(a, c.From, c.To, sampled); err != nil {
		return err
	}
	return a.copied(r, v, "db", nameOf(c.To), "in "+nameOf(c.To))
}

// copy copies and shows how far it is: a bar on a terminal, else a line every few
// seconds.
func (a *app) copy(c store.CopyConfig) (store.CopyReport, error) {
	var bar *progressbar.ProgressBar
	said := time.Now()
	c.Progress = func(doing string, done, all int64) {
		switch {
		case !a.tty.err:
			if time.Since(said) >= sayEvery {
				said = time.Now()
				fmt.Fprintf(a.err, "%s: %d of %d rows, %d%%\n", doing, done, all, done*100/max(all, 1))
			}
			return
		case bar == nil:
			bar = progressbar.NewOptions64(all, progressbar.OptionSetWriter(a.err), progressbar.OptionSetPredictTime(true),
				progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionUseANSICodes(a.tty.colour),
				progressbar.OptionShowIts(), progressbar.OptionSetItsString("rows"))
		}
		bar.Describe(doing)
		bar.Set64(done)
	}
	r, err := store.Copy(a, c)
	if bar != nil {
		bar.Finish()
	}
	return r, err
}

// verified is what was checked of a copy.
type verified struct {
	Differences int64    `json:"differences"` // that fsck found
	Faults      int64    `json:"faults"`      // of the audit log
	Customers   int      `json:"customers"`   // that were asked for on both sides
	Warnings    []string `json:"warnings"`
}

// verify checks a copy as fsck and audit verify do. Its log must contain the source's
// head.
func (a *app) verify(dsn string, head usher.AuditHead) (v verified, err error) {
	db, err := store.Open(a, store.Config{DSN: dsn, Beside: true})
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	o := fsck.Options{}
	say := func(doing string, rows int64) {}
	if a.tty.err {
		say = func(doing string, rows int64) { fmt.Fprintf(a.err, "\r\x1b[Kchecking %s: %d", doing, rows) }
		o.Progress = say
		defer fmt.Fprint(a.err, "\r\x1b[K")
	}
	r, err := fsck.Run(a, db, o)
	if err != nil {
		return v, err
	}
	log, err := db.VerifyAudit(a, audit.Options{Kept: head.Note}, func(rows int64) { say("the audit log", rows) })
	if err != nil {
		return v, err
	}
	v.Differences, v.Faults = r.Total, log.Total
	if v.Warnings, err = a.warnings(db); err != nil {
		return v, err
	}
	if a.cli.JSON {
		return v, nil
	}
	for _, d := range r.Differences[:min(len(r.Differences), 10)] {
		fmt.Fprintln(a.err, d)
	}
	for _, f := range log.Faults[:min(len(log.Faults), 10)] {
		fmt.Fprintf(a.err, "%s: %s\n", f.Kind, f.Text)
	}
	return v, nil
}

// copied says what was copied, what was not, and whether it is whole.
func (a *app) copied(r store.CopyReport, v verified, name, target, where string) error {
	if a.cli.JSON {
		if err := a.printJSON(map[string]any{name: target, "rows": r.Rows, "tables": r.Tables, "left_out": r.LeftOut, "audit_rows": r.Head.Size,
			"resumed": r.Resumed, "new_audit_key": r.NewKey, "verified": v}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.out, "%s of %s are %s, and an audit log of %s\n", usher.CountOf(r.Rows, "row"), usher.CountOf(len(r.Tables), "table"),
			where, usher.CountOf(r.Head.Size, "row"))
		fmt.Fprintln(a.out, "not in it: the audit log's private key, secrets in files, and")
		for _, table := range slices.Sorted(maps.Keys(r.LeftOut)) {
			fmt.Fprintf(a.out, "  %-16s %s\n", table, r.LeftOut[table])
		}
		if r.NewKey {
			fmt.Fprintln(a.out, "the audit log goes on with a new key, which it announces: the earlier one is not here")
		}
		if v.Customers > 0 {
			fmt.Fprintf(a.out, "the answers of %s are the same on both sides\n", usher.CountOf(v.Customers, "customer"))
		}
	}
	if v.Differences+v.Faults > 0 {
		fmt.Fprintf(a.err, "It is an exact copy, but fsck finds %s in it and audit verify %s: the source has them too.\n",
			usher.CountOf(v.Differences, "difference"), usher.CountOf(v.Faults, "fault"))
		return errNo
	}
	if !a.cli.JSON {
		fmt.Fprintln(a.out, "checked: the ledger agrees, the audit log is whole")
	}
	return nil
}

// sameAnswers asks both databases what some customers of each environment have, at one
// instant, and returns how many customers were asked for.
func sameAnswers(ctx context.Context, from, to string, n int) (asked int, err error) {
	var sides [2]*decide.Service
	var dbs [2]*store.DB
	for i, dsn := range []string{from, to} {
		db, err := store.Open(ctx, store.Config{DSN: dsn, Beside: true})
		if err != nil {
			return 0, err
		}
		defer db.Close() // nothing is written
		l, err := live.New(ctx, live.Config{DB: db, Node: "copy"})
		if err != nil {
			return 0, err
		}
		dbs[i], sides[i] = db, decide.New(l)
	}
	at := time.Now()
	for _, env := range usher.Environments {
		customers, err := dbs[0].SampleCustomers(ctx, env, n)
		if err != nil {
			return asked, err
		}
		for _, customer := range customers {
			var answers [2]string
			for i := range sides {
				all, err := sides[i].Entitlements(ctx, env, customer, "", at)
				if err != nil {
					return asked, err
				}
				for _, d := range all {
					answers[i] += string(d.AppendJSON(nil)) + "\n"
				}
			}
			if answers[0] != answers[1] {
				return asked, fmt.Errorf("the customer %s of %s has different answers in the copy:\n%s\nthan in the source:\n%s",
					customer, env, answers[1], answers[0])
			}
			asked++
		}
	}
	return asked, nil
}
