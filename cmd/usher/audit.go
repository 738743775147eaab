package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
	"github.com/usher-sh/usher/internal/store"
)

type auditCmd struct {
	Verify     auditVerifyCmd     `cmd:"" help:"Check the whole audit log; exit code 1 means that it was tampered with."`
	Export     auditExportCmd     `cmd:"" help:"Write a signed file that usher-verify checks on another machine."`
	Show       auditShowCmd       `cmd:"" help:"List who did what, newest first."`
	Checkpoint auditCheckpointCmd `cmd:"" help:"Print the newest signed checkpoint, to be kept elsewhere."`
	Key        auditKeyCmd        `cmd:"" help:"Print the public key, or create a key to be kept outside the database."`
}

// auditKey reads a private key from a file; "" if there is none.
func auditKey(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", wrong("--audit-key: %s", err)
	}
	if _, err := audit.ParseKey(string(b)); err != nil {
		return "", wrong("--audit-key: %s: %s", file, err)
	}
	return string(b), nil
}

// opened runs do on a database, also while its server runs.
func (k keyDB) opened(a *app, do func(db *store.DB) error) error {
	db, err := k.open(a)
	if err != nil {
		return err
	}
	return errors.Join(do(db), db.Close())
}

// auditFilter selects rows.
type auditFilter struct {
	Actor    string `help:"Only what this actor did: key:…, operator:…, system or cli."`
	Action   string `help:"Only this action, or all actions that begin with it if it ends in a dot."`
	Customer string `help:"Only this customer."`
	Object   string `help:"Only changes of the object with this id or key."`
	From     string `help:"Only at or after this time; a span is back from now." placeholder:"T"`
	To       string `help:"Only before this time; a span is back from now." placeholder:"T"`
}

// query returns the query of the filter. environment is --environment, or - for rows of
// no environment.
func (f *auditFilter) query(environment string) (q usher.AuditQuery, err error) {
	q = usher.AuditQuery{Actor: f.Actor, Action: f.Action, Customer: f.Customer, Object: f.Object}
	switch environment {
	case "":
	case "-":
		q.Envs = []usher.Environment{""}
	case string(usher.Production), string(usher.Sandbox):
		q.Envs = []usher.Environment{usher.Environment(environment)}
	default:
		return q, wrong("unknown environment %q: --environment (USHER_ENVIRONMENT) must be production, sandbox, or - for rows of no environment",
			environment)
	}
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"--from", f.From, &q.From}, {"--to", f.To, &q.To}} {
		if t.text == "" {
			continue
		}
		if *t.to, err = machine(true).time(t.flag, t.text); err != nil {
			return q, err
		}
	}
	return q, nil
}

type auditVerifyCmd struct {
	keyDB
	Checkpoint string   `help:"File with a checkpoint that was kept elsewhere, which the log must contain." type:"path" placeholder:"FILE"`
	PublicKey  []string `help:"Public key that was kept elsewhere and must have signed the log; may be repeated." placeholder:"KEY"`
}

func (c *auditVerifyCmd) Run(a *app) error {
	o := audit.Options{Keys: c.PublicKey}
	for _, k := range o.Keys {
		if err := audit.CheckKey(k); err != nil {
			return wrong("--public-key: %s", err)
		}
	}
	if c.Checkpoint != "" {
		b, err := os.ReadFile(c.Checkpoint)
		if err != nil {
			return wrong("--checkpoint: %s", err)
		}
		o.Kept = string(b)
	}
	return c.opened(a, func(db *store.DB) error {
		var progress func(int64)
		if a.tty.err {
			progress = func(rows int64) { fmt.Fprintf(a.err, "\r\x1b[K%d leaves", rows) }
		}
		r, err := db.VerifyAudit(a, o, progress)
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
		if a.cli.JSON {
			err = a.printJSON(struct {
				*audit.Report
				Warnings []string `json:"warnings"`
			}{r, warnings})
		} else if err = r.Text(a.out); err == nil {
			verdict := "the audit log is whole"
			if r.Total > 0 {
				verdict = fmt.Sprintf("faults: %d: the audit log was tampered with, or damaged", r.Total)
			}
			_, err = fmt.Fprintln(a.out, verdict)
		}
		if err == nil && r.Total > 0 {
			return errNo
		}
		return err
	})
}

type auditExportCmd struct {
	keyDB
	auditFilter
	Checkpoint string `help:"File with a kept checkpoint; the export proves that the log contains it." type:"path" placeholder:"FILE"`
	Out        string `help:"File to write (default standard output)." type:"path" placeholder:"FILE"`
}

func (c *auditExportCmd) Run(a *app) error {
	q, err := c.query(a.cli.Environment)
	if err != nil {
		return err
	}
	x := store.AuditExport{AuditQuery: q}
	if c.Checkpoint != "" {
		b, err := os.ReadFile(c.Checkpoint)
		if err != nil {
			return wrong("--checkpoint: %s", err)
		}
		x.Since = string(b)
	}
	return c.opened(a, func(db *store.DB) (err error) {
		out := a.out
		if c.Out != "" {
			f, err := os.OpenFile(c.Out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return wrong("--out: %s", err)
			}
			defer f.Close()
			out = f
		}
		w := bufio.NewWriterSize(out, 1<<16)
		n, err := db.ExportAudit(a, w, x)
		if err == nil {
			err = w.Flush()
		}
		if err != nil {
			if c.Out != "" {
				os.Remove(c.Out)
			}
			return err
		}
		if c.Out != "" {
			_, err = fmt.Fprintf(a.out, "%s in %s\n", usher.CountOf(n, "row"), c.Out)
		}
		return err
	})
}

type auditShowCmd struct {
	serverOrDB
	auditFilter
	Limit int `help:"Largest number of rows (default ${default})." default:"20"`
}

func (c *auditShowCmd) Run(a *app) error {
	if c.Limit < 1 || c.Limit > 10_000 {
		return wrong("--limit must be from 1 to 10000, got %d", c.Limit)
	}
	db, ok := c.itself()
	if !ok {
		return c.ask(a)
	}
	q, err := c.query(a.cli.Environment)
	if err != nil {
		return err
	}
	return db.opened(a, func(db *store.DB) error {
		all, err := db.Audit(a, q, c.Limit)
		if err != nil {
			return err
		}
		if a.cli.JSON {
			if all == nil {
				all = []audit.Entry{}
			}
			return a.printJSON(map[string]any{"data": all})
		}
		var rows [][]string
		for _, e := range all {
			rows = append(rows, []string{fmt.Sprint(e.N), stamp(e.At), e.Env, e.Actor, e.Action, e.Customer, e.Object, shorten(e.Reason)})
		}
		return a.table("no rows", auditHeading, rows)
	})
}

var auditHeading = []string{"N", "AT", "ENV", "ACTOR", "ACTION", "CUSTOMER", "OBJECT", "REASON"}

// ask reads the log over HTTP: the rows that the key may see.
func (c *auditShowCmd) ask(a *app) error {
	if err := machine(true).read(asked{flag: "--from", text: &c.From}, asked{flag: "--to", text: &c.To}); err != nil {
		return err
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	all, err := a.pages(cl, "/v1/audit", c.Limit, "actor", c.Actor, "action", c.Action, "customer", c.Customer, "object", c.Object,
		"from", c.From, "to", c.To)
	if err != nil {
		return err
	}
	if a.cli.JSON {
		return a.printJSON(map[string]any{"data": all})
	}
	var rows [][]string
	for _, e := range all {
		at, err := usher.ParseTime(e.text("at"))
		if err != nil {
			return err
		}
		rows = append(rows, []string{e.text("n"), stamp(at), e.text("env"), e.text("actor"), e.text("action"), e.text("customer"),
			e.text("object"), shorten(e.text("reason"))})
	}
	return a.table("no rows", auditHeading, rows)
}

// shorten cuts a text that is too long for a table.
func shorten(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:39]) + "…"
	}
	return s
}

type auditCheckpointCmd struct{ serverOrDB }

func (c *auditCheckpointCmd) Run(a *app) error {
	db, ok := c.itself()
	if !ok {
		_, err := a.ask("GET", "/v1/audit/checkpoint", nil, func(o object) { fmt.Fprint(a.out, o.text("checkpoint")) })
		return err
	}
	return db.opened(a, func(db *store.DB) error {
		head, err := db.AuditHead(a)
		if err != nil {
			return err
		}
		if head.Size == 0 {
			return usher.Errorf(usher.NotFound, "the audit log is empty")
		}
		if a.cli.JSON {
			return a.printJSON(map[string]any{"size": head.Size, "checkpoint": head.Note})
		}
		_, err = fmt.Fprint(a.out, head.Note)
		return err
	})
}

type auditKeyCmd struct {
	DB  string `name:"db" help:"SQLite file or postgres:// address to open instead of calling a server." placeholder:"FILE|postgres://…"`
	New string `help:"Create a key, write its private half to this file and print its public half." type:"path" placeholder:"FILE"`
}

func (c *auditKeyCmd) Run(a *app) error {
	if c.New != "" {
		s, err := audit.NewKey(rand.Reader)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(c.New, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return wrong("--new: %s", err)
		}
		_, err = f.WriteString(s.Private() + "\n")
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		return c.print(a, s.Public())
	}
	if c.DB == "" {
		_, err := a.ask("GET", "/v1/audit/key", nil, func(o object) { fmt.Fprintln(a.out, o.text("key")) })
		return err
	}
	return keyDB{DB: c.DB}.opened(a, func(db *store.DB) error {
		head, err := db.AuditHead(a)
		if err != nil {
			return err
		}
		if head.Key == "" {
			return usher.Errorf(usher.NotFound, "the audit log is empty: its key is created with the first row")
		}
		return c.print(a, head.Key)
	})
}

func (c *auditKeyCmd) print(a *app, public string) error {
	if a.cli.JSON {
		return a.printJSON(map[string]string{"key": strings.TrimSpace(public)})
	}
	_, err := fmt.Fprintln(a.out, public)
	return err
}
