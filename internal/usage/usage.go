// Package usage takes and records use: consume, ingest and usage queries. All
// use goes through one writer, which commits what has queued as one batch. It
// refuses to answer before the commit.
package usage

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
)

// Config says where use is written.
type Config struct {
	DB   *store.DB
	Live *live.Live
	// Node is this process's name among the nodes of one database; "" makes one.
	Node string
	// NewID makes a new id with a prefix; nil is usher.NewID with the time now.
	NewID func(prefix string) string
	// Queue is how many requests may wait; one more is told to come back. 0 is
	// 4,096.
	Queue int
	// Folding says how old answers are forgotten.
	Folding Folding
	// Log takes faults; nil is slog.Default().
	Log *slog.Logger
}

// Usage writes and reads use. Its methods are safe for concurrent use.
type Usage struct {
	cfg     Config
	queue   chan *request
	done    chan struct{}
	closing sync.RWMutex
	closed  bool
	replays *replays
	retries int // how many batches more are looked through for stored keys first; owned by the writer
	waiting atomic.Int64
}

// The most that one transaction takes.
const (
	maxOps    = 512 // takes
	maxBodies = 4   // requests of events
)

// request is one caller's work: a take, or a body of events.
type request struct {
	take   *take
	events *body
	done   chan struct{}
}

// New starts the writer. Close stops it.
func New(cfg Config) *Usage {
	if cfg.Queue <= 0 {
		cfg.Queue = 4096
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.NewID == nil {
		cfg.NewID = func(prefix string) string { return usher.NewID(prefix, time.Now(), nil) }
	}
	f := &cfg.Folding
	f.Pause = cmp.Or(f.Pause, 100*time.Millisecond)
	if f.Now == nil {
		f.Now = time.Now
	}
	if cfg.Node == "" {
		cfg.Node = cfg.NewID("node_")
	}
	u := &Usage{cfg: cfg, queue: make(chan *request, cfg.Queue), done: make(chan struct{}), replays: newReplays(8192)}
	go u.write()
	return u
}

// Close takes no more work, writes what has queued, and returns when it is
// committed or ctx ends.
func (u *Usage) Close(ctx context.Context) error {
	u.closing.Lock()
	if !u.closed {
		u.closed = true
		close(u.queue)
	}
	u.closing.Unlock()
	select {
	case <-u.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Waiting is how many requests wait for the writer.
func (u *Usage) Waiting() int64 { return u.waiting.Load() }

// submit hands a request to the writer and waits for its commit. A caller that
// goes away does not stop it.
func (u *Usage) submit(ctx context.Context, r *request) error {
	r.done = make(chan struct{})
	u.closing.RLock()
	if u.closed {
		u.closing.RUnlock()
		return &usher.Error{Code: usher.Unavailable, Detail: "the server is stopping; try again", RetryAfter: time.Second}
	}
	select {
	case u.queue <- r:
		u.waiting.Add(1)
		u.closing.RUnlock()
	default:
		u.closing.RUnlock()
		return &usher.Error{Code: usher.Unavailable, Detail: "too many requests wait to be written; try again", RetryAfter: time.Second}
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write is the one writer: it takes what has queued, commits it as one batch,
// and answers. There is no timer: the commit before is the delay.
func (u *Usage) write() {
	defer close(u.done)
	for first := range u.queue {
		for range 3 { // let those who were just answered queue again
			runtime.Gosched()
		}
		batch := []*request{first}
		takes, bodies := count(first)
	drain:
		for takes < maxOps && bodies < maxBodies {
			select {
			case r, ok := <-u.queue:
				if !ok {
					break drain
				}
				batch = append(batch, r)
				t, b := count(r)
				takes, bodies = takes+t, bodies+b
			default:
				break drain
			}
		}
		u.waiting.Add(-int64(len(batch)))
		u.run(batch)
		for _, r := range batch {
			close(r.done)
		}
	}
}

func count(r *request) (takes, bodies int) {
	if r.take != nil {
		return 1, 0
	}
	return 0, 1
}

// run commits a batch. Where a batch fails for another reason than the database
// being away, each request runs alone, so that one cannot spoil the rest.
func (u *Usage) run(batch []*request) {
	// Not the callers' contexts: none of them may undo the others' work.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := guarded(func() error { return u.commit(ctx, batch) })
	if err == nil {
		return
	}
	if usher.ErrorCode(err) != usher.Unavailable && len(batch) > 1 && ctx.Err() == nil {
		u.cfg.Log.Error("a batch could not be committed; each request runs alone", "requests", len(batch), "error", err)
		for _, r := range batch {
			if err := guarded(func() error { return u.commit(ctx, []*request{r}) }); err != nil {
				u.fail(r, err)
			}
		}
		return
	}
	for _, r := range batch {
		u.fail(r, err)
	}
}

// fail answers a request with an error. One without a code is a fault of the
// server, which the caller sees as such: only the store says what is Unavailable.
func (u *Usage) fail(r *request, err error) {
	var e *usher.Error
	if !errors.As(err, &e) {
		u.cfg.Log.Error("usage could not be committed", "error", err)
	}
	if r.take != nil {
		r.take.err = err
	} else {
		r.events.err = err
	}
}
