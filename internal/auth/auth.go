// Package auth identifies callers: it makes API keys, lets operators log in, and
// turns a key or a session into an environment, an actor and permissions. It
// refuses to keep a secret: only its SHA-256 is stored, and no log line or error
// ever holds it.
package auth

import (
	"context"
	"crypto/subtle"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// Config is what a Service works with.
type Config struct {
	DB     *store.DB
	Now    func() time.Time // real time, even if the sandbox has a test clock (S11); nil: time.Now
	Random io.Reader        // makes ids and secrets; nil is crypto/rand
	Log    *slog.Logger     // nil is silent
	// PublicURL is the scheme and host at which browsers reach usher, without a path.
	PublicURL string
	OIDC      OIDC // the identity provider that operators log in with; zero: none
	// RateLimit bounds the calls a second of each key without a limit of its own, and
	// as many at once; 0: no limit.
	RateLimit float64
	// Hash derives a key of 32 bytes from a password; nil is argon2id. Tests count
	// the calls.
	Hash func(password, salt []byte) []byte
}

// How long a key is remembered. Every node sees a revocation at its first call
// after a refresh, so within maxAge.
const (
	refreshAge = 400 * time.Millisecond // from this age on, a refresh runs in the background
	maxAge     = 900 * time.Millisecond // from this age on, calls wait for the refresh
	askFor     = 2 * time.Second        // how long they wait at most
	retryAfter = time.Second            // between attempts while the database does not answer
	// outage is how long a valid key stays valid while the database does not answer:
	// nobody can revoke a key then, and checks are answered from memory.
	outage     = 10 * time.Minute
	touchEvery = time.Minute
	maxKnown   = 10_000 // ids in memory, unknown ones too
)

// Service authenticates. Its methods are safe for concurrent use.
type Service struct {
	c         Config
	keys      *cache[knownKey]
	operators *cache[usher.Operator]
	*doors

	running sync.WaitGroup
	ctx     context.Context // of background work
	stop    context.CancelFunc
}

// New makes a Service. It starts nothing until the first call.
func New(c Config) *Service {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{c: c, doors: newDoors(c)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.keys = newCache(s, "API key", func(ctx context.Context, id string) (knownKey, error) {
		k, err := c.DB.Key(ctx, id)
		return knownKey{k, identityOf(&k)}, err
	})
	s.operators = newCache(s, "operator", c.DB.Operator)
	return s
}

// Close waits for background work. No method may be called afterwards.
func (s *Service) Close() {
	s.running.Wait()
	s.stop()
}

// errKey is the same for a missing, a malformed and an unknown key, so that
// callers cannot search for ids.
var (
	errKey     = usher.Errorf(usher.Unauthenticated, "a valid API key is required: send Authorization: Bearer usk_…")
	errExpired = usher.Errorf(usher.Unauthenticated, "the API key has expired")
	errRevoked = usher.Errorf(usher.Unauthenticated, "the API key was revoked")
)

// Identity is who calls, where, and what they may do. The zero Identity may do
// nothing.
type Identity struct {
	Env   usher.Environment
	Actor usher.Actor
	// Customer is the customer that a key belongs to: the one that AuthZEN uses if a
	// request names none, and the only one that SCIM serves. "": none.
	Customer string
	// Properties reports whether requests may send properties of members and
	// resources, which conditions then read instead of the stored ones (A10).
	Properties bool
	// Rate is the key's own limit of calls.
	Rate usher.RateLimit

	perms   permSet
	expires time.Time            // when a key ends; zero: never
	roles   []usher.OperatorRole // an operator's; read only
}

// Allows reports whether the caller has a permission.
func (i *Identity) Allows(p Permission) bool { return i.perms.has(p) }

// identityOf returns the identity of a live key.
func identityOf(k *usher.APIKey) Identity {
	return Identity{Env: k.Env, Actor: usher.Actor{Kind: "key", ID: k.ID, Role: k.Role}, Customer: k.Customer, Properties: !k.NoProperties,
		Rate:  k.Rate,
		perms: gives(k.Role, k.Env), expires: k.ExpiresAt}
}

// knownKey is a key with its identity, computed once.
type knownKey struct {
	usher.APIKey
	identity Identity
}

// Authenticate reads an Authorization header. It returns Unauthenticated unless
// the header holds a live key, and Unavailable if the database does not answer
// and the key is not remembered.
func (s *Service) Authenticate(ctx context.Context, header string) (Identity, error) {
	scheme, key, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return Identity{}, errKey
	}
	n, ok := parseKey(key)
	if !ok {
		return Identity{}, errKey
	}
	now := s.c.Now()
	e := s.keys.entry(n.ID)
	st, err := s.keys.look(ctx, e, n.ID, now)
	if err != nil {
		return Identity{}, err
	}
	h := hash(n.Secret)
	switch k := &st.value; {
	case !st.found || k.Env != n.Env || subtle.ConstantTimeCompare(h[:], k.Hash) != 1:
		return Identity{}, errKey
	case !k.RevokedAt.IsZero():
		return Identity{}, errRevoked
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return Identity{}, errExpired
	}
	s.touch(e, n.ID, now)
	return st.value.identity, nil
}

// touch records the use of a key in the background, at most once per touchEvery.
func (s *Service) touch(e *entry[knownKey], id string, now time.Time) {
	last, at := e.touched.Load(), now.Unix()
	if at-last < int64(touchEvery/time.Second) || !e.touched.CompareAndSwap(last, at) {
		return
	}
	s.running.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, askFor)
		defer cancel()
		if err := s.c.DB.TouchKeys(ctx, map[string]time.Time{id: now}); err != nil {
			s.c.Log.Warn("the last use of an API key was not noted", "key", id, "error", err)
		}
	})
}
