package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/store"
)

type keyCmd struct {
	Create keyCreateCmd `cmd:"" help:"Create a key and print it once."`
	Rotate keyRotateCmd `cmd:"" help:"Create a key like another and print it once; the old key works for a while longer."`
	List   keyListCmd   `cmd:"" help:"List keys without their secrets."`
	Revoke keyRevokeCmd `cmd:"" help:"Revoke a key."`
}

// serverOrDB is for commands that call a server, or with --db open the database itself.
type serverOrDB struct {
	DB       string `name:"db" help:"SQLite file or postgres:// address to open instead of calling a server." placeholder:"FILE|postgres://…"`
	AuditKey string `help:"With --db, file of the private key of the audit log (default DB.audit-key for a SQLite file, else in the database)." type:"path" placeholder:"FILE"`
}

// itself returns the database to open, or false if a server is to be called.
func (s serverOrDB) itself() (keyDB, bool) { return keyDB(s), s.DB != "" }

type keyDB struct {
	DB       string `name:"db" required:"" help:"SQLite file or postgres:// address." placeholder:"FILE|postgres://…"`
	AuditKey string `help:"File of the private key of the audit log (default DB.audit-key for a SQLite file, else in the database)." type:"path" placeholder:"FILE"`
}

// open opens the database, also while its server runs.
func (k keyDB) open(a *app) (*store.DB, error) {
	key, err := auditKey(k.AuditKey)
	if err != nil {
		return nil, err
	}
	return store.Open(a, store.Config{DSN: k.DB, Beside: true, AuditKey: key})
}

// actorCLI is the actor of commands that open the database itself.
var actorCLI = usher.Actor{Kind: "cli"}

// with runs do on the keys and operators of the database, also while its server
// runs.
func (k keyDB) with(a *app, do func(s *auth.Service) error) (err error) {
	db, err := k.open(a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	s := auth.New(auth.Config{DB: db})
	defer s.Close()
	return do(s)
}

type keyCreateCmd struct {
	serverOrDB
	Role    string `help:"admin, app, read, authzen, ofrep, scim, or a role of operators except owner (default ${default})." default:"admin"`
	Name    string `help:"Name for people to read."`
	Expires string `help:"End (default never)." placeholder:"T"`

	Customer     string `help:"Customer of the key: for AuthZEN calls that name none, and the only one that SCIM serves."`
	NoProperties bool   `help:"Ignore properties of members and resources that its calls send."`
	Rate         int64  `help:"Calls per second (default the server's limit)." placeholder:"N"`
	Burst        int64  `help:"Calls in one burst (default the server's limit)." placeholder:"N"`
}

func (c *keyCreateCmd) Run(a *app) error {
	expires, err := expiry("--expires", c.Expires)
	if err != nil {
		return err
	}
	db, ok := c.itself()
	if !ok {
		return c.ask(a, expires)
	}
	env, err := a.environment("")
	if err != nil {
		return err
	}
	if env == "" {
		return wrong("a key belongs to one environment: give --environment production or --environment sandbox (or USHER_ENVIRONMENT)")
	}
	n := auth.NewKey{Name: c.Name, Role: c.Role, ExpiresAt: expires, Customer: c.Customer, NoProperties: c.NoProperties,
		Rate: usher.RateLimit{PerSecond: c.Rate, Burst: c.Burst}}
	return db.with(a, func(s *auth.Service) error {
		if err := s.CustomerThere(a, env, c.Customer); err != nil {
			return err
		}
		key, k, err := s.CreateKey(a, usher.By{Actor: actorCLI}, env, n)
		return a.newKey(key, k, err)
	})
}

// ask makes the key over HTTP. It is of the environment of the key that asks.
func (c *keyCreateCmd) ask(a *app, expires time.Time) error {
	in := body("role", c.Role, "name", c.Name, "customer", c.Customer, "expires_at", stamp(expires))
	if c.NoProperties {
		in["properties"] = false
	}
	rate := map[string]any{}
	if c.Rate != 0 {
		rate["per_second"] = c.Rate
	}
	if c.Burst != 0 {
		rate["burst"] = c.Burst
	}
	if len(rate) > 0 {
		in["rate"] = rate
	}
	_, err := a.ask("POST", "/v1/keys", in, a.showKey)
	return err
}

func (a *app) showKey(o object) { fmt.Fprintln(a.out, o.text("key")) }

// newKey prints a new key. It is shown only this once.
func (a *app) newKey(key string, k usher.APIKey, err error) error {
	if err != nil {
		return err
	}
	if a.cli.JSON {
		return a.printJSON(body("id", k.ID, "env", string(k.Env), "role", k.Role, "name", k.Name, "customer", k.Customer,
			"expires_at", stamp(k.ExpiresAt), "key", key))
	}
	fmt.Fprintln(a.out, key)
	return nil
}

type keyRotateCmd struct {
	serverOrDB
	ID      string        `arg:"" help:"Id of the old key, as usher key list shows it."`
	Grace   time.Duration `help:"Time that the old key still works; 0s ends it now (default ${default})." default:"24h"`
	Expires string        `help:"End of the new key (default the end of the old one)." placeholder:"T"`
}

func (c *keyRotateCmd) Run(a *app) error {
	expires, err := expiry("--expires", c.Expires)
	if err != nil {
		return err
	}
	db, ok := c.itself()
	if !ok {
		path, err := segment(keyID(c.ID), "ID must not be empty: give the id that key list shows")
		if err != nil {
			return err
		}
		_, err = a.ask("POST", "/v1/keys/"+path+"/rotate", body("grace", c.Grace.String(), "expires_at", stamp(expires)), a.showKey)
		return err
	}
	return db.with(a, func(s *auth.Service) error {
		id := keyID(c.ID)
		env, err := s.EnvOf(a, id)
		if err == nil {
			err = a.guard(env)
		}
		if err != nil {
			return err
		}
		key, k, err := s.RotateKey(a, usher.By{Actor: actorCLI}, env, id, c.Grace, expires)
		return a.newKey(key, k, err)
	})
}

// keyID returns the id of a key. A caller may pass the whole key instead of the id.
func keyID(id string) string {
	if k, err := auth.ParseKey(id); err == nil {
		return k.ID
	}
	return id
}

type keyListCmd struct{ serverOrDB }

func (c *keyListCmd) Run(a *app) error {
	heading := []string{"ID", "ENV", "ROLE", "NAME", "CUSTOMER", "CREATED", "LAST USED", "EXPIRES", "REVOKED"}
	db, ok := c.itself()
	if !ok {
		all, err := a.all("/v1/keys")
		if err != nil || a.cli.JSON {
			return err
		}
		var rows [][]string
		for _, k := range all {
			rows = append(rows, []string{k.text("id"), k.text("environment"), k.text("role"), k.text("name"), k.text("customer"),
				k.text("created_at"), k.text("last_used_at"), k.text("expires_at"), k.text("revoked_at")})
		}
		return a.table("no keys", heading, rows)
	}
	envs := usher.Environments
	if one, err := a.environment(""); err != nil {
		return err
	} else if one != "" {
		envs = []usher.Environment{one}
	}
	return db.with(a, func(s *auth.Service) error {
		names := []string{"id", "env", "role", "name", "customer", "created_at", "last_used_at", "expires_at", "revoked_at"}
		var rows [][]string
		for _, env := range envs {
			keys, err := s.Keys(a, env)
			if err != nil {
				return err
			}
			for _, k := range keys {
				rows = append(rows, []string{k.ID, string(k.Env), k.Role, k.Name, k.Customer,
					stamp(k.CreatedAt), stamp(k.LastUsedAt), stamp(k.ExpiresAt), stamp(k.RevokedAt)})
			}
		}
		if !a.cli.JSON {
			return a.table("no keys", heading, rows)
		}
		all := make([]map[string]string, len(rows))
		for i, r := range rows {
			all[i] = map[string]string{}
			for j, v := range r {
				if v != "" {
					all[i][names[j]] = v
				}
			}
		}
		return a.printJSON(map[string]any{"data": all})
	})
}

type keyRevokeCmd struct {
	serverOrDB
	ID string `arg:"" help:"Id of the key, as usher key list shows it."`
}

func (c *keyRevokeCmd) Run(a *app) error {
	db, ok := c.itself()
	if !ok {
		path, err := segment(keyID(c.ID), "ID must not be empty: give the id that key list shows")
		if err != nil {
			return err
		}
		return a.remove("/v1/keys/"+path, map[string]any{"revoked": keyID(c.ID)}, "revoked "+keyID(c.ID)+revokedText)
	}
	return db.with(a, func(s *auth.Service) error {
		id := keyID(c.ID)
		env, err := s.EnvOf(a, id)
		if err == nil {
			err = a.guard(env)
		}
		if err != nil {
			return err
		}
		if err := s.Revoke(a, actorCLI, id); err != nil {
			return err
		}
		if a.cli.JSON {
			return a.printJSON(map[string]string{"revoked": id})
		}
		fmt.Fprintln(a.out, "revoked "+id+revokedText)
		return nil
	})
}

const revokedText = "; all servers refuse it within a second"

// stamp formats a time in UTC, cut to the second; "" if it is zero.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
