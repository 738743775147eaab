package live

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// attempts bounds how often a change is computed again because another change
// was committed first.
const attempts = 20

// locks let this process make one change to a customer at a time, so that its
// changes do not make each other stale. Two customers may share a lock: then one
// waits without need, which does no harm.
type locks struct {
	seed maphash.Seed
	all  [64]sync.Mutex
}

func (l *locks) of(env usher.Environment, customer string) *sync.Mutex {
	return &l.all[maphash.String(l.seed, string(env)+"/"+customer)%uint64(len(l.all))]
}

// Change makes a change to a customer, or with customer "" to the environment.
// fn reads, computes and commits. If it returns store.ErrStale, another change was
// committed in between, and Change calls fn again, at most 20 times in all; after
// that the error is Unavailable. Other errors of fn are returned as they are. When
// Change returns, this node's answers include the change. fn must not call Change.
func (l *Live) Change(ctx context.Context, env usher.Environment, customer string, fn func() error) error {
	if customer != "" {
		lock := l.locks.of(env, customer)
		lock.Lock()
		defer lock.Unlock()
	}
	if err := l.Retry(ctx, env, fn); err != nil {
		return err
	}
	// The change is committed, even if the caller no longer waits.
	return l.Refresh(context.WithoutCancel(ctx), env)
}

// Retry calls fn until it returns anything but store.ErrStale, at most 20 times;
// after that the error is Unavailable. It refreshes env before each retry.
func (l *Live) Retry(ctx context.Context, env usher.Environment, fn func() error) error {
	for range attempts {
		err := fn()
		if !errors.Is(err, store.ErrStale) {
			return err
		}
		if err := l.Refresh(ctx, env); err != nil {
			return err
		}
	}
	return usher.Errorf(usher.Unavailable, "too many changes at the same time; nothing was changed, try again")
}
