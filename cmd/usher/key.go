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
	Create keyCreateCmd `cmd:"" help:"Make a key and print it, the only time that it is seen."`
	Rotate keyRotateCmd `cmd:"" help:"Make a key like another and print it; the other goes on for a while."`
	List   keyListCmd   `cmd:"" help:"List keys, without their secrets."`
	Revoke keyRevokeCmd `cmd:"" help:"End a key for good."`
}

type keyDB struct {
	DB       string `name:"db" required:"" help:"The SQLite file or postgres:// address." placeholder:"FILE|postgres://…"`
	AuditKey string `help:"The file of the private key that signs the audit log, where it is not in the database." type:"path" placeholder:"FILE"`
}

// open opens the database beside the server that may own it.
func (k keyDB) open(a *app) (*store.DB, error) {
	key, err := auditKey(k.AuditKey)
	if err != nil {
		return nil, err
	}
	return store.Open(a, store.Config{DSN: k.DB, Beside: true, AuditKey: key})
}

// actorCLI is who works on the database itself: whoever may open it.
var actorCLI = usher.Actor{Kind: "cli"}

// with opens the database beside the server that may own it.
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
	Role    string `help:"What it may do: admin, app, read, authzen, ofrep, scim, or a role of operators but owner." default:"admin"`
	Name    string `help:"What it is for."`
	Expires string `help:"When it ends: an RFC 3339 time, or a span from now such as 720h." placeholder:"T|SPAN"`

	Customer     string `help:"Its own customer: of AuthZEN calls that name none, and the only one that SCIM serves."`
	NoProperties bool   `help:"What its calls say about members and resources does not override what is stored."`
	Rate         int64  `help:"Calls a second; the server's own limit where nothing is said." placeholder:"N"`
	Burst        int64  `help:"Calls at once; the server's own limit where nothing is said." placeholder:"N"`
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
	env, err := a.environment(usher.Production)
	if err != nil {
		return err
	}
	expires, err := expiry(c.Expires)
	if err != nil {
		return err
	}
	n := auth.NewKey{Name: c.Name, Role: c.Role, ExpiresAt: expires, Customer: c.Customer, NoProperties: c.NoProperties, Rate: store.Rate{PerSecond: c.Rate, Burst: c.Burst}}
	return c.with(a, func(s *auth.Service) error {
		if err := s.CustomerThere(a, env, c.Customer); err != nil {
			return err
		}
		key, k, err := s.CreateKey(a, usher.By{Actor: actorCLI}, env, n)
		return a.newKey(key, k, err)
	})
}

// newKey prints a key that was made, the only time that it is seen.
func (a *app) newKey(key string, k store.APIKey, err error) error {
	if err != nil {
		return err
	}
	if a.cli.JSON {
		return a.printJSON(body("id", k.ID, "env", string(k.Env), "role", k.Role, "name", k.Name, "customer", k.Customer, "expires_at", stamp(k.ExpiresAt), "key", key))
	}
	fmt.Fprintln(a.out, key)
	return nil
}

type keyRotateCmd struct {
	keyDB
	ID      string        `arg:"" help:"The old key's id, as usher key list shows it."`
	Grace   time.Duration `help:"How long the old key goes on; 0s ends it now." default:"24h"`
	Expires string        `help:"When the new key ends: an RFC 3339 time, or a span from now such as 720h; never where nothing is said." placeholder:"T|SPAN"`
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

// keyID is the id of a key, where the whole key was given.
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
				rows = append(rows, []string{k.ID, string(k.Env), k.Role, k.Name, k.Customer, stamp(k.CreatedAt), stamp(k.LastUsedAt), stamp(k.ExpiresAt), stamp(k.RevokedAt)})
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
	ID string `arg:"" help:"The key's id, as usher key list shows it."`
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
		fmt.Fprintf(a.out, "revoked %s; servers know within a second\n", id)
		return nil
	})
}

// stamp is a time in UTC, cut to the second; "" where it is zero.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
