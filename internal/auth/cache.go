package auth

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usher-sh/usher"
)

// cache remembers for less than a second what the database says about ids, so
// that a call does not cost a query.
type cache[T any] struct {
	s     *Service
	what  string
	read  func(ctx context.Context, id string) (T, error) // NotFound if there is none
	mu    sync.RWMutex
	known map[string]*entry[T]
}

func newCache[T any](s *Service, what string, read func(context.Context, string) (T, error)) *cache[T] {
	return &cache[T]{s: s, what: what, read: read, known: make(map[string]*entry[T])}
}

// entry is what is known about one id.
type entry[T any] struct {
	mu      sync.Mutex // one refresh at a time
	state   atomic.Pointer[state[T]]
	busy    atomic.Bool  // a refresh runs in the background
	touched atomic.Int64 // Unix seconds when last use was last written
}

type state[T any] struct {
	value   T
	found   bool
	asked   time.Time // when the database answered
	retryAt time.Time // if it did not answer: not to be asked before
}

func (c *cache[T]) forget(id string) {
	c.mu.Lock()
	delete(c.known, id)
	c.mu.Unlock()
}

func (c *cache[T]) entry(id string) *entry[T] {
	c.mu.RLock()
	e := c.known[id]
	c.mu.RUnlock()
	if e != nil {
		return e
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.known[id]; e != nil {
		return e
	}
	if len(c.known) >= maxKnown {
		clear(c.known)
	}
	e = new(entry[T])
	c.known[id] = e
	return e
}

// look returns what is known about an id. It is at most maxAge old, or, while the
// database does not answer, at most outage.
func (c *cache[T]) look(ctx context.Context, e *entry[T], id string, now time.Time) (*state[T], error) {
	st := e.state.Load()
	if st != nil {
		age := now.Sub(st.asked)
		switch {
		case 0 <= age && age < refreshAge, 0 <= age && age < maxAge && now.Before(st.retryAt):
			return st, nil
		case 0 <= age && age < maxAge:
			if e.busy.CompareAndSwap(false, true) {
				c.s.running.Go(func() {
					defer e.busy.Store(false)
					e.mu.Lock()
					defer e.mu.Unlock()
					c.ask(c.s.ctx, e, id, now)
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
	return c.ask(ctx, e, id, now)
}

// usable reports whether st can be used without asking the database.
func (st *state[T]) usable(now time.Time) bool {
	age := now.Sub(st.asked)
	return age < maxAge && age > -maxAge || st.found && age < outage && now.Before(st.retryAt)
}

// ask asks the database and remembers the answer. The caller holds e.mu.
func (c *cache[T]) ask(ctx context.Context, e *entry[T], id string, now time.Time) (*state[T], error) {
	// A client that hangs up must not fail the others that wait for this.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askFor)
	defer cancel()
	v, err := c.read(ctx, id)
	if err == nil || usher.ErrorCode(err) == usher.NotFound {
		st := &state[T]{value: v, found: err == nil, asked: now}
		e.state.Store(st)
		return st, nil
	}
	old := e.state.Load()
	if old == nil || !old.found || now.Sub(old.asked) >= outage {
		c.s.c.Log.Error("the "+c.what+" could not be looked up", "id", id, "error", err)
		return nil, &usher.Error{Code: usher.Unavailable, Detail: "the " + c.what + " cannot be checked now, try again", RetryAfter: retryAfter}
	}
	c.s.c.Log.Warn("the "+c.what+" could not be looked up; what was known about it holds", "id", id, "error", err)
	st := *old
	st.retryAt = now.Add(retryAfter)
	e.state.Store(&st)
	return &st, nil
}
