package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/api"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/doors/authzen"
	"github.com/usher-sh/usher/internal/doors/ofrep"
	"github.com/usher-sh/usher/internal/doors/scim"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/usage"
)

type serveCmd struct {
	DB           string        `name:"db" required:"" help:"A SQLite file or a postgres:// address." placeholder:"FILE|postgres://…"`
	Listen       string        `help:"Where to listen; port 0 takes a free one; ${default} where nothing is said." default:"127.0.0.1:8080" placeholder:"HOST:PORT"`
	PortFile     string        `help:"Write the address listened on to this file." type:"path" placeholder:"FILE"`
	PublicURL    string        `name:"public-url" help:"Where clients and browsers reach this server; http:// and the listen address where nothing is said." placeholder:"https://usher.example.com"`
	CORSOrigins  []string      `name:"cors-origin" help:"A web page's origin that may ask for OpenFeature flags from the browser; may be repeated." placeholder:"https://app.example.com"`
	PollInterval time.Duration `help:"How often other nodes' changes are read (PostgreSQL)." default:"200ms"`
	LogLevel     slog.Level    `help:"debug, info, warn or error." default:"info"`
	AuditKey     string        `help:"The file of the private key that signs the audit log; one in the database where nothing is said." type:"path" placeholder:"FILE"`
	Proxies      int           `help:"How many reverse proxies stand in front and add to X-Forwarded-For; 0: what connects is the caller." default:"0" placeholder:"N"`
	RateLimit    float64       `help:"Calls a second for keys that have no limit of their own; 0: any number." default:"0" placeholder:"N"`

	OIDC oidcFlags `embed:"" prefix:"oidc-"`
}

// oidcFlags are the identity provider that operators log in with.
type oidcFlags struct {
	Issuer           string            `help:"Operators log in with this identity provider (OpenID Connect)." placeholder:"https://…"`
	ClientID         string            `help:"What usher is called there." placeholder:"ID"`
	ClientSecret     string            `help:"Its secret there, better given as USHER_OIDC_CLIENT_SECRET or in a file; a public client has none." placeholder:"SECRET"`
	ClientSecretFile string            `help:"A file that holds the secret." type:"path" placeholder:"FILE"`
	RolesClaim       string            `help:"The claim that says what an operator is." default:"groups" placeholder:"CLAIM"`
	RoleMap          map[string]string `help:"Which role each value of the claim gives." mapsep:"," placeholder:"GROUP=ROLE,…"`
}

// provider reads what the flags say.
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

func (c *serveCmd) Run(a *app) error {
	listener, err := listen(c.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: c.LogLevel}))
	public, err := publicURL(c.PublicURL, listener)
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
	s, err := open(a, settings{DB: c.DB, AuditKey: c.AuditKey, Poll: c.PollInterval, PublicURL: public, CORSOrigins: c.CORSOrigins, OIDC: provider, RateLimit: c.RateLimit, Proxies: c.Proxies}, log)
	if err != nil {
		return err
	}
	if err := greet(a, s); err != nil {
		return errors.Join(err, s.close())
	}
	return s.serve(a, listener, c.PortFile, func(address string) error {
		if a.cli.JSON {
			return a.printJSON(map[string]string{"url": "http://" + address})
		}
		_, err := fmt.Fprintf(a.out, "usher %s serves http://%s on %s; Ctrl-C stops it\n", versionText(), address, nameOf(c.DB))
		return err
	})
}

// greet makes the first keys where there are none.
func greet(a *app, s *server) error {
	has, err := hasKeys(a, s.auth)
	if err != nil || has {
		return err
	}
	return firstKeys(a, s.auth)
}

// nameOf is a database for people: without a password.
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

// server is every room, wired.
type server struct {
	db        *store.DB
	live      *live.Live
	usage     *usage.Usage
	auth      *auth.Service
	customers *customers.Service
	catalog   *catalog.Service
	handler   *door.Door
	flags     *ofrep.OFREP
	jobs      *job.Runner
	log       *slog.Logger
	stopping  atomic.Bool

	stop       context.CancelFunc
	background sync.WaitGroup
}

// settings is what a server is made of.
type settings struct {
	DB        string
	AuditKey  string        // the file of the private key; "" is one in the database
	Poll      time.Duration // 0 is live's default
	PublicURL string        // scheme and host, without a path
	OIDC      auth.OIDC
	RateLimit float64 // calls a second of keys without a limit of their own; 0 is any number
	Proxies   int     // in front

	CORSOrigins []string // whose pages may ask for flags
}

// checkOrigins refuses what is no origin as browsers send it: an origin that is
// never met would look as if it were let in.
func checkOrigins(list []string) error {
	for _, o := range list {
		u, err := url.Parse(o)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || o != u.Scheme+"://"+strings.ToLower(u.Host) {
			return wrong("--cors-origin must be a scheme and a host in lower case, with its port where it has one, such as https://app.example.com, got %q", o)
		}
	}
	return nil
}

// publicURL is where the server is reached, by scheme and host. What a request
// says about that, its Host header for one, is never asked.
func publicURL(given string, l net.Listener) (string, error) {
	if given == "" {
		return "http://" + l.Addr().String(), nil
	}
	u, err := url.Parse(given)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", wrong("--public-url must be a scheme and a host without a path, such as https://usher.example.com")
	}
	return u.Scheme + "://" + strings.ToLower(u.Host), nil
}

// open wires a server over a database, which it creates where there is none.
func open(ctx context.Context, c settings, log *slog.Logger) (*server, error) {
	key, err := auditKey(c.AuditKey)
	if err != nil {
		return nil, err
	}
	if store.PlainText(c.DB) {
		log.Warn("connections may fall back to plain text: the database's address has no sslmode; sslmode=verify-full is right")
	}
	db, err := store.Open(ctx, store.Config{DSN: c.DB, AuditKey: key})
	if err != nil {
		return nil, err
	}
	name := usher.NewID("node_", time.Now(), nil)
	l, err := live.New(ctx, live.Config{DB: db, PollInterval: c.Poll, Node: name})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s := &server{db: db, live: l, log: log}
	s.usage = usage.New(usage.Config{DB: db, Live: l, Node: name, Log: log})
	s.auth = auth.New(auth.Config{DB: db, Log: log, PublicURL: c.PublicURL, OIDC: c.OIDC, RateLimit: c.RateLimit})
	s.customers = customers.New(customers.Config{DB: db, Live: l})
	s.catalog = catalog.New(catalog.Config{DB: db, Live: l})
	s.jobs = job.New(job.Config{DB: db, Node: name, Log: log}, slices.Concat(l.Jobs(), s.usage.Jobs(), jobsOf(db, l))...)
	d, people := decide.New(l), directory.New(directory.Config{DB: db, Live: l, Direct: s.usage.Direct})
	s.handler = door.New(door.Config{Auth: s.auth, Ready: db.Ping, Log: log, Version: versionText(), PublicURL: c.PublicURL, Proxies: c.Proxies,
		Metrics: append(gauges(s.usage, l, db), s.jobs)})
	api.Register(s.handler, api.Config{DB: db, Live: l, Decide: d, Usage: s.usage, Auth: s.auth, Customers: s.customers, Catalog: s.catalog, Directory: people})
	authzen.Register(s.handler, authzen.Config{Live: l, Decide: d, PublicURL: c.PublicURL})
	s.flags = ofrep.Register(s.handler, ofrep.Config{Live: l, Decide: d, Auth: s.auth, PublicURL: c.PublicURL, Origins: c.CORSOrigins, Log: log})
	scim.Register(s.handler, scim.Config{Live: l, Decide: d, Directory: people, PublicURL: c.PublicURL})
	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.background.Go(func() { s.jobs.Run(run) })
	return s, nil
}

// gauges says how much waits to be written and how much is held in memory.
func gauges(u *usage.Usage, l *live.Live, db *store.DB) []prometheus.Collector {
	all := []prometheus.Collector{prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "usher_usage_waiting", Help: "Requests that wait for the writer of usage.",
	}, func() float64 { return float64(u.Waiting()) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "usher_break_glass_reviews_pending", Help: "Emergencies (break-glass) that nobody has reviewed; -1 where the database does not say.",
	}, func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n, err := db.PendingReviews(ctx)
		if err != nil {
			return -1
		}
		return float64(n)
	})}
	for _, env := range usher.Environments {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "usher_customers_loaded", Help: "Customers held in memory.", ConstLabels: prometheus.Labels{"environment": string(env)},
		}, func() float64 { return float64(l.Customers(env)) }))
	}
	return all
}

// keepBatches is how long nodes keep what they tell each other about use.
const keepBatches = time.Hour

// jobsOf are the server's own jobs.
func jobsOf(db *store.DB, l *live.Live) []job.Job {
	hours := &auditHours{db: db, live: l, ended: map[usher.Environment]time.Time{}}
	return []job.Job{
		{Name: "prune_usage_batches", Every: 10 * time.Minute, First: 10 * time.Minute, Run: func(ctx context.Context) error {
			return db.PruneUsageBatches(ctx, time.Now().Add(-keepBatches)) // what every node has long read
		}},
		{Name: "audit_hours", Every: 10 * time.Minute, Run: hours.note},
	}
}

// stopWithin bounds how long requests that run may take once a stop is asked.
const stopWithin = 15 * time.Second

// listen comes before all else, so that a place that is taken changes nothing.
func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, wrong("cannot listen at %q: %s; --listen or USHER_LISTEN names another place", address, reason(err))
	}
	return l, nil
}

// serve answers until ctx ends, then finishes what runs, commits what is
// queued, and closes. ready is told the address.
func (s *server) serve(ctx context.Context, listener net.Listener, portFile string, ready func(address string) error) (err error) {
	defer func() { err = errors.Join(err, s.close()) }()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" && s.stopping.Load() {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		s.handler.ServeHTTP(w, r)
	})
	srv := door.NewServer(listener.Addr().String(), h)
	srv.RegisterOnShutdown(s.flags.EndStreams)
	srv.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	address := listener.Addr().String()
	if portFile != "" {
		if err := writeFile(portFile, []byte(address+"\n")); err != nil {
			srv.Close()
			return err
		}
		defer os.Remove(portFile)
	}
	if err := ready(address); err != nil {
		srv.Close()
		return err
	}
	select {
	case <-ctx.Done():
	case err := <-failed:
		return err
	}
	s.stopping.Store(true)
	s.log.Info("stopping: finishing the requests that run")
	within, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	if err := srv.Shutdown(within); err != nil {
		s.log.Warn("some requests did not finish in time and were cut off", "error", err)
		srv.Close()
	}
	return nil
}

// reason is the last, plainest part of a network error.
func reason(err error) string {
	var e *net.OpError
	if errors.As(err, &e) {
		return e.Err.Error()
	}
	return err.Error()
}

// close commits what is queued and lets go of the database.
func (s *server) close() error {
	within, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	err := s.usage.Close(within)
	s.stop()
	s.background.Wait()
	s.auth.Close()
	return errors.Join(err, s.db.Close())
}

// writeFile replaces a file whole, so that no reader sees half of it.
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

// firstKeys makes one admin key for each environment and prints them, the only
// time that they are seen.
func firstKeys(a *app, s *auth.Service) error {
	keys := map[usher.Environment]string{}
	for _, env := range usher.Environments {
		key, _, err := s.Create(a, actorCLI, env, "first", auth.RoleAdmin, time.Time{})
		if err != nil {
			return err
		}
		keys[env] = key
	}
	if a.cli.JSON {
		return a.printJSON(keys)
	}
	fmt.Fprintln(a.out, "Admin keys, shown only now; usher keeps no copy:")
	for _, env := range usher.Environments {
		fmt.Fprintf(a.out, "  %-11s %s\n", env, keys[env])
	}
	token, _, err := s.OwnerToken(a, usher.By{Actor: actorCLI})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "A token with which the first owner logs in; it works once, for a day:\n  %s\n", token)
	return nil
}

// hasKeys reports whether any key was ever made.
func hasKeys(ctx context.Context, s *auth.Service) (bool, error) {
	for _, env := range usher.Environments {
		keys, err := s.Keys(ctx, env)
		if err != nil || len(keys) > 0 {
			return len(keys) > 0, err
		}
	}
	return false, nil
}
