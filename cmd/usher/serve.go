package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/server"
)

type serveCmd struct {
	DB           string        `name:"db" required:"" help:"SQLite file or postgres:// address." placeholder:"FILE|postgres://…"`
	Listen       string        `help:"Address to listen on (default ${default})." default:"127.0.0.1:8080" placeholder:"HOST:PORT"`
	PortFile     string        `help:"File to write the listen address to." type:"path" placeholder:"FILE"`
	TLSCert      string        `name:"tls-cert" help:"File of the TLS certificate and its chain, read again when it changes." type:"path" placeholder:"FILE"`
	TLSKey       string        `name:"tls-key" help:"File of the certificate's private key." type:"path" placeholder:"FILE"`
	AdminKeyFile string        `help:"File to write the admin keys of an empty database to, once, for its owner only." type:"path" placeholder:"FILE"`
	PublicURL    string        `name:"public-url" help:"Address that clients use (default http:// or https:// and the listen address)." placeholder:"URL"`
	CORSOrigins  []string      `name:"cors-origin" help:"Origin of web pages that may ask for flags; may be repeated." placeholder:"ORIGIN"`
	PollInterval time.Duration `help:"Interval at which the database is watched and other nodes' changes are read (default ${default})." default:"200ms"`
	CacheBytes   byteSize      `help:"Memory for customers and members, such as 512MiB (default a quarter of the machine's or the container's)." placeholder:"BYTES"`
	LogLevel     slog.Level    `help:"Log level: debug, info, warn or error (default ${default})." default:"info"`
	LogFormat    string        `help:"Log format: ${enum} (default ${default})." default:"text" enum:"text,json"`
	LogRequests  bool          `help:"Log each request at level info."`
	AuditKey     string        `help:"File of the private key of the audit log (default DB.audit-key for a SQLite file, else in the database)." type:"path" placeholder:"FILE"`
	Proxies      int           `help:"Number of reverse proxies in front that add to X-Forwarded-For (default ${default})." default:"0" placeholder:"N"`
	RateLimit    float64       `help:"Calls per second for keys that have no limit of their own; 0 is unlimited (default ${default})." default:"0" placeholder:"N"`

	OIDC oidcFlags `embed:"" prefix:"oidc-"`
}

// oidcFlags describe the identity provider that operators log in with.
type oidcFlags struct {
	Issuer           string            `help:"Issuer of the OpenID Connect provider that operators log in with." placeholder:"https://…"`
	ClientID         string            `help:"Client id of usher at the identity provider." placeholder:"ID"`
	ClientSecret     string            `help:"Client secret; prefer --oidc-client-secret-file; a public client has none." placeholder:"SECRET"`
	ClientSecretFile string            `help:"File with the client secret." type:"path" placeholder:"FILE"`
	RolesClaim       string            `help:"Claim with the operator's groups (default ${default})." default:"groups" placeholder:"CLAIM"`
	RoleMap          map[string]string `help:"Role that each value of the claim gives." mapsep:"," placeholder:"GROUP=ROLE,…"`
}

// provider reads the flags and the file with the secret.
func (f *oidcFlags) provider() (auth.OIDC, error) {
	p := auth.OIDC{Issuer: f.Issuer, ClientID: f.ClientID, ClientSecret: f.ClientSecret, RolesClaim: f.RolesClaim, Roles: f.RoleMap}
	if f.ClientSecretFile != "" {
		b, err := os.ReadFile(f.ClientSecretFile)
		if err != nil {
			return p, wrong("--oidc-client-secret-file: %s", err)
		}
		p.ClientSecret = strings.TrimRight(string(b), "\r\n")
	}
	return p, p.Check()
}

// logger returns the log that the flags ask for: one line for each record, as text or JSON.
func (c *serveCmd) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

func (c *serveCmd) Run(a *app) error {
	tuneCollector()
	listener, err := listen(c.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	log := c.logger(a.err)
	scheme := "http"
	if c.TLSCert != "" || c.TLSKey != "" {
		if listener, err = listenTLS(listener, c.TLSCert, c.TLSKey, log); err != nil {
			return err
		}
		scheme = "https"
	} else if !loopback(listener.Addr()) {
		log.Warn("keys and answers cross the network in plain text: give --tls-cert and --tls-key, "+
			"or let only a proxy with TLS reach this address", "listen", listener.Addr())
	}
	public, err := publicURL(c.PublicURL, scheme, listener)
	if err != nil {
		return err
	}
	if err := checkOrigins(c.CORSOrigins); err != nil {
		return err
	}
	provider, err := c.OIDC.provider()
	if err != nil {
		return err
	}
	s, err := open(a, c.AuditKey, server.Config{DB: c.DB, PollInterval: c.PollInterval,
		CacheBytes: c.cacheBytes(), PublicURL: public, Origins: c.CORSOrigins,
		OIDC: provider, RateLimit: c.RateLimit, Proxies: c.Proxies, Log: log, LogRequests: c.LogRequests})
	if err != nil {
		return err
	}
	if err := c.greet(a, s.Auth, log); err != nil {
		return errors.Join(err, s.Close())
	}
	return serve(a, s, listener, c.PortFile, func(address string) error {
		if a.cli.JSON {
			return a.printJSON(map[string]string{"url": scheme + "://" + address})
		}
		_, err := fmt.Fprintf(a.out, "usher %s serves %s://%s on %s; Ctrl-C stops it\n", versionText(), scheme, address, nameOf(c.DB))
		return err
	})
}

// greet creates the first keys, if the database has none. It prints them to a terminal
// only: if the output goes to a file or a log, the keys would be kept there.
func (c *serveCmd) greet(a *app, s *auth.Service, log *slog.Logger) error {
	has, err := hasKeys(a, s)
	if err != nil || has {
		return err
	}
	if c.AdminKeyFile != "" {
		return adminKeyFile(a, s, c.AdminKeyFile)
	}
	if a.tty.out {
		return firstKeys(a, s)
	}
	log.Warn("the database has no API keys, and none were created because standard output is not a terminal: "+
		"create one with the command, or start with --admin-key-file FILE", "command", "usher key create --db "+nameOf(c.DB))
	return nil
}

// adminKeyFile creates the first keys and writes them to a new file, in the form of
// `usher init --json`.
func adminKeyFile(ctx context.Context, s *auth.Service, name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return wrong("--admin-key-file: %s", err)
	}
	keys, err := adminKeys(ctx, s)
	if err == nil {
		err = json.NewEncoder(f).Encode(keys)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil && keys == nil {
		os.Remove(name)
	}
	return err
}

// nameOf returns the name of a database for people, without its password.
func nameOf(dsn string) string {
	if !strings.Contains(dsn, "://") {
		return dsn
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "PostgreSQL"
	}
	return "PostgreSQL at " + u.Host + u.Path
}

// checkOrigins refuses origins in another form than browsers send: they would never
// match.
func checkOrigins(list []string) error {
	for _, o := range list {
		u, err := url.Parse(o)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || o != u.Scheme+"://"+strings.ToLower(u.Host) {
			return wrong("--cors-origin must be a scheme, a host in lower case and perhaps a port, such as https://app.example.com, got %q", o)
		}
	}
	return nil
}

// publicURL returns the scheme and host of the address that clients use. A request's
// Host header is never used for it, because callers choose that.
func publicURL(given, scheme string, l net.Listener) (string, error) {
	if given == "" {
		return scheme + "://" + l.Addr().String(), nil
	}
	u, err := url.Parse(given)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", wrong("--public-url must be a scheme and a host without a path, such as https://usher.example.com")
	}
	return u.Scheme + "://" + strings.ToLower(u.Host), nil
}

// open reads the audit key's file and opens a server.
func open(ctx context.Context, auditKeyFile string, c server.Config) (*server.Server, error) {
	key, err := auditKey(auditKeyFile)
	if err != nil {
		return nil, err
	}
	c.AuditKey, c.Version = key, versionText()
	return server.Open(ctx, c)
}

// listen listens on an address. The server does this before it touches the database, so
// that a failure changes nothing.
func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, wrong("cannot listen on %q: %s; set another address with --listen or USHER_LISTEN", address, reason(err))
	}
	return l, nil
}

// serve runs a server until ctx ends and closes it. It writes the address to
// portFile, if that is not "", and calls ready with it once the server answers.
func serve(ctx context.Context, s *server.Server, l net.Listener, portFile string, ready func(address string) error) (err error) {
	defer func() { err = errors.Join(err, s.Close()) }()
	if portFile != "" {
		defer os.Remove(portFile)
	}
	address := l.Addr().String()
	return s.Serve(ctx, l, func() error {
		if portFile != "" {
			if err := writeFile(portFile, []byte(address+"\n")); err != nil {
				return err
			}
		}
		return ready(address)
	})
}

// reason returns the innermost part of a network error, which says the most.
func reason(err error) string {
	var e *net.OpError
	if errors.As(err, &e) {
		return e.Err.Error()
	}
	return err.Error()
}

// writeFile replaces a whole file, so that no reader sees half of it.
func writeFile(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// adminKeys creates an admin key for each environment.
func adminKeys(ctx context.Context, s *auth.Service) (map[usher.Environment]string, error) {
	keys := map[usher.Environment]string{}
	for _, env := range usher.Environments {
		key, _, err := s.Create(ctx, actorCLI, env, "first", auth.RoleAdmin, time.Time{})
		if err != nil {
			return nil, err
		}
		keys[env] = key
	}
	return keys, nil
}

// firstKeys creates an admin key for each environment and a token for the first
// owner, and prints them. They are shown only this once.
func firstKeys(a *app, s *auth.Service) error {
	keys, err := adminKeys(a, s)
	if err != nil {
		return err
	}
	if a.cli.JSON {
		return a.printJSON(keys)
	}
	fmt.Fprintln(a.out, "Admin keys, printed only now; usher keeps no copy:")
	for _, env := range usher.Environments {
		fmt.Fprintf(a.out, "  %-11s %s\n", env, keys[env])
	}
	token, _, err := s.OwnerToken(a, usher.By{Actor: actorCLI})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "A token for the first owner to log in with; it works once, for a day:\n  %s\n", token)
	return nil
}

// hasKeys reports whether any key was ever created.
func hasKeys(ctx context.Context, s *auth.Service) (bool, error) {
	for _, env := range usher.Environments {
		keys, err := s.Keys(ctx, env)
		if err != nil || len(keys) > 0 {
			return len(keys) > 0, err
		}
	}
	return false, nil
}
