package main

import (
	"errors"
	"fmt"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/store"
)

type initCmd struct {
	DB       string `name:"db" required:"" help:"SQLite file or postgres:// address." placeholder:"FILE|postgres://…"`
	AuditKey string `help:"File of the private key of the audit log (default DB.audit-key for a SQLite file, else in the database)." type:"path" placeholder:"FILE"`
}

func (c *initCmd) Run(a *app) (err error) {
	key, err := auditKey(c.AuditKey)
	if err != nil {
		return err
	}
	db, err := store.Open(a, store.Config{DSN: c.DB, AuditKey: key})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if key == "" && db.Dialect() == store.Postgres {
		fmt.Fprintln(a.err, "The audit log's private key is in the database; `usher audit key --new FILE` and --audit-key FILE keep it outside.")
	}
	s := auth.New(auth.Config{DB: db})
	defer s.Close()
	has, err := hasKeys(a, s)
	if err != nil {
		return err
	}
	if has {
		return usher.Errorf(usher.Conflict, "%s already has keys, which are printed only once; "+
			"`usher key create --db … --environment production` creates another", nameOf(c.DB))
	}
	if err := firstKeys(a, s); err != nil {
		return err
	}
	if !a.cli.JSON {
		fmt.Fprintf(a.out, "Next: usher serve --db %s\n", nameOf(c.DB))
	}
	return nil
}
