// Package server wires all rooms into one server of this process: the only place
// that knows how they fit together. It refuses to decide anything itself.
package server

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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

// Config says what a server works with. Zero fields are what is usual, except DB.
type Config struct {
	// DB is a SQLite file, created if it does not exist, or a postgres:// address.
	DB string
	// OpenSQLite opens the SQLite file; see store.Config.
	OpenSQLite func(uri string) (*sql.DB, error)
	// MaxConns bounds the connections to PostgreSQL; see store.Config.
	MaxConns int
	// AuditKey is the private key that signs the audit log; "" is one in a file
	// beside a SQLite database, or in a PostgreSQL database; see store.Config.
	AuditKey string
	// Node is the name of this process among the nodes of the database; "" makes
	// one.
	Node string
	// CacheBytes bounds the memory for customers and members; see live.Config.
	CacheBytes int64
	// PollInterval is how often other nodes' changes are read; see live.Config.
	PollInterval time.Duration
	// Now is real time; nil is time.Now.
	Now func() time.Time
	// NewID makes a new id with a prefix; nil is usher.NewID with Now.
	NewID func(prefix string) string
	// Version is the program's, for the OpenAPI document.
	Version string
	// PublicURL is scheme and host of the address that clients use, without a path.
	PublicURL string
	// Origins are the origins of web pages that may ask for OpenFeature flags.
	Origins []string
	// OIDC is the identity provider that operators log in with; zero is none.
	OIDC auth.OIDC
	// RateLimit is calls a second for keys without a limit of their own; 0 is any
	// number.
	RateLimit float64
	// Proxies is the number of reverse proxies in front; see door.Config.
	Proxies int
	// Log takes what operators should know; nil is silent.
	Log *slog.Logger
	// LogRequests logs each request at level info, and not only at level debug.
	LogRequests bool
}

// Server is every room, wired, with its background jobs running. It is an
// http.Handler and safe for concurrent use until Close.
type Server struct {
	*door.Door
	DB        *store.DB
	Live      *live.Live
	Usage     *usage.Usage
	Auth      *auth.Service
	Customers *customers.Service
	Catalog   *catalog.Service
	Directory *directory.Service
	Decide    *decide.Service
	Jobs      *job.Runner

	flags      *ofrep.OFREP
	log        *slog.Logger
	stopping   atomic.Bool
	stop       context.CancelFunc
	background sync.WaitGroup
}

// Open opens the database, wires a server over it and starts its background jobs.
// Its errors are store.Open's. Close ends what it starts.
func Open(ctx context.Context, c Config) (*Server, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.NewID == nil {
		c.NewID = func(prefix string) string { return usher.NewID(prefix, c.Now(), nil) }
	}
	if store.PlainText(c.DB) {
		c.Log.Warn("connections may fall back to plain text: the database's address has no sslmode; sslmode=verify-full is right")
	}
	db, err := store.Open(ctx, store.Config{DSN: c.DB, OpenSQLite: c.OpenSQLite, MaxConns: c.MaxConns, AuditKey: c.AuditKey, Now: c.Now})
	if err != nil {
		return nil, err
	}
	warnings, err := db.Warnings(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	for _, w := range warnings {
		c.Log.Warn(w)
	}
	if c.AuditKey == "" && db.Dialect() == store.Postgres {
		c.Log.Warn("the audit log's private key is in the database, so a person with all rights on the database can rewrite the log: " +
			"`usher audit key --new FILE` and --audit-key FILE keep it outside")
	}
	node := cmp.Or(c.Node, usher.NewID("node_", c.Now(), nil))
	l, err := live.New(ctx, live.Config{DB: db, Now: c.Now, PollInterval: c.PollInterval, CacheBytes: c.CacheBytes, Node: node})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s := &Server{DB: db, Live: l, log: c.Log}
	s.Usage = usage.New(usage.Config{DB: db, Live: l, Node: node, NewID: c.NewID, Folding: usage.Folding{Now: c.Now}, Log: c.Log})
	s.Auth = auth.New(auth.Config{DB: db, Now: c.Now, Log: c.Log, PublicURL: c.PublicURL, OIDC: c.OIDC, RateLimit: c.RateLimit})
	s.Customers = customers.New(customers.Config{DB: db, Live: l, NewID: c.NewID})
	s.Catalog = catalog.New(catalog.Config{DB: db, Live: l})
	s.Directory = directory.New(directory.Config{DB: db, Live: l, Direct: s.Usage.Direct})
	s.Decide = decide.New(l)
	s.Jobs = job.New(job.Config{DB: db, Node: node, Now: c.Now, Log: c.Log}, slices.Concat(l.Jobs(), s.Usage.Jobs(), jobs(db, l, c.Now))...)

	s.Door = door.New(door.Config{Auth: s.Auth, Ready: s.ready, Log: c.Log, LogRequests: c.LogRequests,
		Version: c.Version, PublicURL: c.PublicURL, Proxies: c.Proxies,
		Metrics: append(gauges(s.Usage, l, db, c.Version, c.Now), s.Jobs)})
	api.Register(s.Door, api.Config{Live: l, Decide: s.Decide, Usage: s.Usage, Auth: s.Auth, Customers: s.Customers,
		Catalog: s.Catalog, Directory: s.Directory})
	authzen.Register(s.Door, authzen.Config{Live: l, Decide: s.Decide, PublicURL: c.PublicURL})
	s.flags = ofrep.Register(s.Door, ofrep.Config{Live: l, Decide: s.Decide, Auth: s.Auth, PublicURL: c.PublicURL, Origins: c.Origins,
		Log: c.Log})
	scim.Register(s.Door, scim.Config{Live: l, Decide: s.Decide, Directory: s.Directory, NewID: c.NewID, PublicURL: c.PublicURL})

	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.background.Go(func() { s.Jobs.Run(run) })
	return s, nil
}

// readyWithin bounds how long /readyz may take. A load balancer waits no longer.
const readyWithin = 2 * time.Second

// ready returns why checks cannot be answered, and why nothing can be taken. While
// the database is away a server that holds customers goes on answering checks from
// memory: were it called down, a load balancer would turn an outage of the
// database into one of every product that asks.
func (s *Server) ready(ctx context.Context) (checks, takes error) {
	if s.stopping.Load() {
		err := usher.Errorf(usher.Unavailable, "the server is stopping")
		return err, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if takes = s.DB.Ping(ctx); takes == nil {
		return nil, s.Usage.Ready(ctx)
	}
	for _, env := range usher.Environments {
		if s.Live.Customers(env) > 0 {
			return nil, takes
		}
	}
	return takes, takes
}

// stopWithin bounds how long requests that run may take once a stop is asked.
const stopWithin = 15 * time.Second

// Serve answers requests at l until ctx ends, and then finishes those that run.
// It calls ready once it answers, and returns ready's error. It does not Close.
func (s *Server) Serve(ctx context.Context, l net.Listener, ready func() error) error {
	srv := door.NewServer(l.Addr().String(), s)
	srv.RegisterOnShutdown(s.flags.EndStreams)
	srv.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	if err := ready(); err != nil {
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

// Close commits the use that is queued, stops the jobs and closes the database.
// No request may run any more.
func (s *Server) Close() error {
	within, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	err := s.Usage.Close(within)
	s.stop()
	s.background.Wait()
	s.Auth.Close()
	return errors.Join(err, s.DB.Close())
}
