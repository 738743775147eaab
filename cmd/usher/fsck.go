package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/fsck"
	"github.com/usher-sh/usher/internal/store"
)

type fsckCmd struct {
	DB     string `name:"db" required:"" help:"SQLite file or postgres:// address." placeholder:"FILE|postgres://…"`
	Repair bool   `help:"Rewrite stored figures that differ from the ledger; stop the server of a SQLite file first; on PostgreSQL, takes wait meanwhile."`
}

func (c *fsckCmd) Run(a *app) (err error) {
	if !strings.Contains(c.DB, "://") { // opening to repair would create one
		if info, err := os.Stat(c.DB); err != nil || info.Size() == 0 {
			return wrong("no database at %s: give the one that `usher serve` uses", c.DB)
		}
	}
	db, err := store.Open(a, store.Config{DSN: c.DB, Beside: !c.Repair})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	began := time.Now()
	o := fsck.Options{Repair: c.Repair}
	if a.tty.err {
		o.Progress = func(doing string, rows int64) { fmt.Fprintf(a.err, "\r\x1b[K%s: %d", doing, rows) }
	}
	r, err := fsck.Run(a, db, o)
	if a.tty.err {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	warnings, err := a.warnings(db)
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	if a.cli.JSON {
		err = a.printJSON(struct {
			fsck.Report
			Seconds  float64  `json:"seconds"`
			Warnings []string `json:"warnings"`
		}{r, took, warnings})
	} else {
		err = printReport(a.out, &r, took)
	}
	if err == nil && r.Total > 0 {
		return errNo
	}
	return err
}

// warnings reads what the database's own answers cannot show, and says it on standard
// error.
func (a *app) warnings(db *store.DB) ([]string, error) {
	all, err := db.Warnings(a)
	for _, w := range all {
		fmt.Fprintln(a.err, "warning:", w)
	}
	if all == nil {
		all = []string{}
	}
	return all, err
}

func printReport(out io.Writer, r *fsck.Report, seconds float64) error {
	for _, d := range r.Mended {
		fmt.Fprintln(out, "rewritten:", d)
	}
	if r.Repaired > 0 {
		fmt.Fprintf(out, "rewritten from the ledger: %s; checked again:\n", usher.CountOf(r.Repaired, "row"))
	}
	for _, d := range r.Differences {
		fmt.Fprintln(out, d)
	}
	if more := r.Total - int64(len(r.Differences)); more > 0 {
		fmt.Fprintf(out, "… and %d more\n", more)
	}
	fmt.Fprintf(out, "ledger: %s, %s of older ones, %s, %s, %s, %s held\n", usher.CountOf(r.Takes, "take"), usher.CountOf(r.Folded, "sum"),
		usher.CountOf(r.Events, "event"), usher.CountOf(r.Corrections, "correction"), usher.CountOf(r.Holds, "reservation"),
		usher.CountOf(r.Seats, "seat"))
	fmt.Fprintf(out, "stored: %s, %s, %s, %s of denials\n", usher.CountOf(r.Buckets, "bucket"), usher.CountOf(r.Rollups, "rollup"),
		usher.CountOf(r.Seen, "seen value"), usher.CountOf(r.Denials, "hour"))
	verdict := "they agree"
	if r.Total > 0 {
		derived := ""
		for _, d := range r.Differences {
			if d.Derived {
				derived = "; with the server stopped, --repair rewrites what follows from the ledger"
			}
		}
		verdict = fmt.Sprintf("differences: %d%s", r.Total, derived)
	}
	_, err := fmt.Fprintf(out, "%s (%.1f s)\n", verdict, seconds)
	return err
}
