package live

import (
	"context"
	"time"

	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/store"
)

// AsOf returns when other nodes' changes were last read, if they cannot be read now.
// The zero time means that this node is up to date.
func (l *Live) AsOf() time.Time {
	us := l.asOf.Load()
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// pollFor bounds how long reading other nodes' changes may take.
const pollFor = 2 * time.Second

// Jobs returns the work that keeps this node's memory up to date: reading other
// nodes' changes. On SQLite one process owns the file and all changes are its own;
// there it only looks whether the file is still in its place.
func (l *Live) Jobs() []job.Job {
	return []job.Job{{Name: "read_changes", Every: l.cfg.PollInterval, First: l.cfg.PollInterval, PerNode: true, Run: l.Poll}}
}

// Poll takes in other nodes' changes: revisions, clocks, and whose usage changed.
// After an error or a panic, answers carry the time of the last success until Poll
// succeeds: the next one reads the same changes again. Only one call may run at a
// time.
func (l *Live) Poll(ctx context.Context) error {
	done := false
	defer func() {
		if !done && ctx.Err() == nil {
			l.asOf.Store(l.polled.UnixMicro())
		}
	}()
	began := l.cfg.Now()
	asking, cancel := context.WithTimeout(ctx, pollFor)
	defer cancel()
	if err := l.poll(asking); err != nil {
		return err
	}
	l.asOf.Store(0)
	l.polled, done = began, true
	return nil
}

func (l *Live) poll(ctx context.Context) error {
	if err := l.cfg.DB.Watch(ctx); err != nil || l.cfg.DB.Dialect() == store.SQLite {
		return err
	}
	states, err := l.cfg.DB.Environments(ctx)
	if err != nil {
		return err
	}
	for name, e := range l.envs {
		if states[name].Revision != e.revision.Load() {
			if err := l.Refresh(ctx, name); err != nil {
				return err
			}
		}
	}
	for {
		batches, err := l.cfg.DB.UsageBatchesSince(ctx, l.batches)
		if err != nil {
			return err
		}
		for _, b := range batches {
			if seen, ok := l.batches[b.Node]; ok && b.N != seen+1 && b.Node != l.cfg.Node {
				// Batches are numbered by node. A gap means that rows were deleted
				// before this node read them, so any customer's use may have changed.
				for _, e := range l.envs {
					for customer := range e.customers.Keys() {
						l.used(e, customer)
					}
				}
			}
			if b.Node != l.cfg.Node {
				for env, customers := range b.Customers {
					for _, c := range customers {
						l.used(l.envs[env], c)
					}
				}
			}
			l.batches[b.Node] = b.N // after all else, so that a failure reads the batch again
		}
		if len(batches) < 1000 {
			return nil
		}
	}
}
