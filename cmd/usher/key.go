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
	keyDB
	Role    string `help:"admin, app, read, authzen, ofrep, scim, or a role of operators except owner (default ${default})." default:"admin"`
	Name    string `help:"Name for people to read."`
	Expires string `help:"End: an RFC 3339 time or a span from now such as 720h (default never)." placeholder:"T|SPAN"`

	Customer     string `help:"Customer of the key: for AuthZEN calls that name none, and the only one that SCIM serves."`
	NoProperties bool   `help:"Ignore properties of members and resources that its calls send."`
	Rate         int64  `help:"Calls per second (default the server's limit)." placeholder:"N"`
	Burst        int64  `help:"Calls in one burst (default the server's limit)." placeholder:"N"`
}

// expiry reads --expires; "" is the zero time.
func expiry(text string) (t time.Time, err error) {
	if text == "" {
		return t, nil
	}
	if span, bad := time.ParseDuration(text); bad == nil {
		return time.Now().Add(span), nil
	}
	if t, err = time.Parse(time.RFC3339, text); err != nil {
		err = wrong("--expires must be a time such as 2027-01-31T00:00:00Z or a span such as 720h, got %q", text)
	}
	return t, err
}

func (c *keyCreateCmd) Run(a *app) error {
	env, err := a.environment("")
	if err != nil {
		return err
	}
	if env == "" {
		return wrong("a key belongs to one environment: give --environment production or --environment sandbox (or USHER_ENVIRONMENT)")
	}
	expires, err := expiry(c.Expires)
	if err != nil {
		return err
	}
	n := auth.NewKey{Name: c.Name, Role: c.Role, ExpiresAt: expires, Customer: c.Customer, NoProperties: c.NoProperties,
		Rate: usher.RateLimit{PerSecond: c.Rate, Burst: c.Burst}}
	return c.with(a, func(s *auth.Service) error {
		if err := s.CustomerThere(a, env, c.Customer); err != nil {
			return err
		}
		key, k, err := s.CreateKey(a, usher.By{Actor: actorCLI}, env, n)
		return a.newKey(key, k, err)
	})
}

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
	keyDB
	ID      string        `arg:"" help:"Id of the old key, as usher key list shows it."`
	Grace   time.Duration `help:"Time that the old key still works; 0s ends it now (default ${default})." default:"24h"`
	Expires string        `help:"End of the new key: an RFC 3339 time or a span from now such as 720h (default the end of the old one)." placeholder:"T|SPAN"`
}

func (c *keyRotateCmd) Run(a *app) error {
	expires, err := expiry(c.Expires)
	if err != nil {
		return err
	}
	return c.with(a, func(s *auth.Service) error {
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

type keyListCmd struct{ keyDB }

func (c *keyListCmd) Run(a *app) error {
	envs := usher.Environments
	if one, err := a.environment(""); err != nil {
		return err
	} else if one != "" {
		envs = []usher.Environment{one}
	}
	return c.with(a, func(s *auth.Service) error {
		heading := []string{"ID", "ENV", "ROLE", "NAME", "CUSTOMER", "CREATED", "LAST USED", "EXPIRES", "REVOKED"}
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
	keyDB
	ID string `arg:"" help:"Id of the key, as usher key list shows it."`
}

func (c *keyRevokeCmd) Run(a *app) error {
	return c.with(a, func(s *auth.Service) error {
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
		fmt.Fprintf(a.out, "revoked %s; all servers refuse it within a second\n", id)
		return nil
	})
}

// stamp formats a time in UTC, cut to the second; "" if it is zero.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
