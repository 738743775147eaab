// Package auth tells who calls: it makes API keys and turns one into an
// environment and an actor. It refuses to keep a secret: only its SHA-256 is
// stored, and no log line or error ever holds it.
package auth

import (
	"context"
	"crypto/subtle"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// Config is what a Service works with.
type Config struct {
	DB     *store.DB
	Now    func() time.Time // real time, also where the sandbox has a test clock (S11); nil is time.Now
	Random io.Reader        // where keys come from; nil is crypto/rand
	Log    *slog.Logger     // nil is silent
	// PublicURL is scheme and host of where browsers reach usher, without a path.
	PublicURL string
}

// How long what is known about a key is used. A revocation is seen by the next
// call after a refresh, so within maxAge, on every node.
const (
	refreshAge = 400 * time.Millisecond // from here on a refresh runs beside the calls
	maxAge     = 900 * time.Millisecond // from here on calls wait for it
	askFor     = 2 * time.Second        // how long they wait at most
	retryAfter = time.Second            // between attempts while the database does not answer
	// outage is how long a key that was valid stays so while the database does
	// not answer. Nobody can revoke a key in a database that is away, and checks
	// that memory can answer should be.
	outage     = 10 * time.Minute
	touchEvery = time.Minute
	maxKnown   = 10_000 // ids in memory, unknown ones too
)

// Service authenticates. Its methods are safe for concurrent use.
type Service struct {
	c     Config
	mu    sync.RWMutex
	known map[string]*entry

	running sync.WaitGroup
	ctx     context.Context // of what runs beside the calls
	stop    context.CancelFunc
}

// entry is what is known about one id.
type entry struct {
	mu      sync.Mutex // one refresh at a time
	state   atomic.Pointer[state]
	busy    atomic.Bool  // a refresh runs beside the calls
	touched atomic.Int64 // Unix seconds when last use was last written
}

type state struct {
	key     store.APIKey
	found   bool
	asked   time.Time // when the database answered
	retryAt time.Time // not before, where it did not
}

// New makes a Service. It starts nothing until the first call.
func New(c Config) *Service {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{c: c, known: make(map[string]*entry)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Close waits for what runs beside the calls; none may be made afterwards.
func (s *Service) Close() {
	s.running.Wait()
	s.stop()
}

// Create makes and stores a key. This is the only time that it is seen. The
// zero expires is never.
func (s *Service) Create(ctx context.Context, by usher.Actor, env usher.Environment, name, role string, expires time.Time) (key string, k store.APIKey, err error) {
	switch {
	case !slices.Contains(usher.Environments, env):
		return "", k, usher.Errorf(usher.Invalid, "no environment %q: it is production or sandbox", env)
	case !slices.Contains(Roles, role):
		return "", k, usher.Errorf(usher.Invalid, "no role %q: it is one of %s", role, strings.Join(Roles, ", "))
	case name != "":
		if err := usher.CheckID("the name of a key", name); err != nil {
			return "", k, err
		}
	}
	now := s.c.Now().UTC().Truncate(time.Microsecond)
	expires = expires.UTC().Truncate(time.Microsecond)
	if !expires.IsZero() && !expires.After(now) {
		return "", k, usher.Errorf(usher.Invalid, "the key would expire at %s, which has passed", expires.Format(time.RFC3339))
	}
	key, n, err := newKey(env, s.c.Random)
	if err != nil {
		return "", k, err
	}
	h := hash(n.Secret)
	k = store.APIKey{ID: n.ID, Env: env, Name: name, Role: role, Hash: h[:], CreatedAt: now, ExpiresAt: expires}
	if err := s.c.DB.CreateKey(ctx, k, store.Meta{Actor: by.String(), At: now}); err != nil {
		return "", store.APIKey{}, err
	}
	s.forget(n.ID)
	return key, k, nil
}

// Keys lists env's keys, revoked and expired ones too, oldest first.
func (s *Service) Keys(ctx context.Context, env usher.Environment) ([]store.APIKey, error) {
	return s.c.DB.Keys(ctx, env)
}

// Revoke ends a key for good: at once on this node, within a second on others.
// NotFound where there is no such key.
func (s *Service) Revoke(ctx context.Context, by usher.Actor, id string) error {
	err := s.c.DB.RevokeKey(ctx, id, store.Meta{Actor: by.String(), At: s.c.Now()})
	s.forget(id)
	return err
}

func (s *Service) forget(id string) {
	s.mu.Lock()
	delete(s.known, id)
	s.mu.Unlock()
}

// errKey says the same for a missing, malformed and unknown key, so that ids
// cannot be searched for.
var (
	errKey     = usher.Errorf(usher.Unauthenticated, "a valid API key is required: send Authorization: Bearer usk_…")
	errExpired = usher.Errorf(usher.Unauthenticated, "the API key has expired")
	errRevoked = usher.Errorf(usher.Unauthenticated, "the API key was revoked")
)

// Identity is who calls, where, and what they may do.
type Identity struct {
	Env   usher.Environment
	Actor usher.Actor
	// Customer is a key's own: the one that AuthZEN takes where a request names
	// none, and the only one that SCIM serves. "" is none.
	Customer string
	// Properties is whether what the request says about members and resources
	// may override what is stored about them, in conditions (A10).
	Properties bool
}

// Allows reports whether the caller has a permission.
func (i *Identity) Allows(p Permission) bool { return Allows(i.Actor.Role, p) }

// Authenticate reads an Authorization header. It returns Unauthenticated unless
// that holds a live key, and Unavailable where the database cannot say.
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
	e := s.entry(n.ID)
	st, err := s.look(ctx, e, n.ID, now)
	if err != nil {
		return Identity{}, err
	}
	h := hash(n.Secret)
	switch k := &st.key; {
	case !st.found || k.Env != n.Env || subtle.ConstantTimeCompare(h[:], k.Hash) != 1:
		return Identity{}, errKey
	case !k.RevokedAt.IsZero():
		return Identity{}, errRevoked
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return Identity{}, errExpired
	}
	s.touch(e, n.ID, now)
	k := &st.key
	return Identity{Env: k.Env, Actor: usher.Actor{Kind: "key", ID: k.ID, Role: k.Role}, Customer: k.Customer, Properties: !k.NoProperties}, nil
}

func (s *Service) entry(id string) *entry {
	s.mu.RLock()
	e := s.known[id]
	s.mu.RUnlock()
	if e != nil {
		return e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.known[id]; e != nil {
		return e
	}
	if len(s.known) >= maxKnown {
		clear(s.known)
	}
	e = new(entry)
	s.known[id] = e
	return e
}

// look returns what is known about an id, not older than maxAge unless the
// database does not answer.
func (s *Service) look(ctx context.Context, e *entry, id string, now time.Time) (*state, error) {
	st := e.state.Load()
	if st != nil {
		age := now.Sub(st.asked)
		switch {
		case 0 <= age && age < refreshAge, 0 <= age && age < maxAge && now.Before(st.retryAt):
			return st, nil
		case 0 <= age && age < maxAge:
			if e.busy.CompareAndSwap(false, true) {
				s.running.Go(func() {
					defer e.busy.Store(false)
					e.mu.Lock()
					defer e.mu.Unlock()
					s.ask(s.ctx, e, id, now)
				})
			}
			return st, nil
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if newer := e.state.Load(); newer != st && newer.usable(now) {
		return newer, nil // another call asked meanwhile
	}
	if st != nil && st.usable(now) {
		return st, nil
	}
	return s.ask(ctx, e, id, now)
}

// usable reports whether st holds without asking.
func (st *state) usable(now time.Time) bool {
	age := now.Sub(st.asked)
	return age < maxAge && age > -maxAge || st.found && age < outage && now.Before(st.retryAt)
}

// ask asks the database and remembers the answer. The caller holds e.mu.
func (s *Service) ask(ctx context.Context, e *entry, id string, now time.Time) (*state, error) {
	// A client that hangs up must not fail the others that wait for this.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askFor)
	defer cancel()
	k, err := s.c.DB.Key(ctx, id)
	if err == nil || usher.ErrorCode(err) == usher.NotFound {
		st := &state{key: k, found: err == nil, asked: now}
		e.state.Store(st)
		return st, nil
	}
	old := e.state.Load()
	if old == nil || !old.found || now.Sub(old.asked) >= outage {
		s.c.Log.Error("an API key could not be looked up", "key", id, "error", err)
		return nil, &usher.Error{Code: usher.Unavailable, Detail: "the API key cannot be checked now, try again", RetryAfter: retryAfter}
	}
	s.c.Log.Warn("an API key could not be looked up; what was known about it holds", "key", id, "error", err)
	st := *old
	st.retryAt = now.Add(retryAfter)
	e.state.Store(&st)
	return &st, nil
}

// touch notes the use of a key, beside the call, at most once in touchEvery.
func (s *Service) touch(e *entry, id string, now time.Time) {
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
