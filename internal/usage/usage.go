// Package usage takes and records use: consumes, reservations, seats, events,
// corrections, and reports of them. All use of a process goes through one writer,
// which commits what has queued as one batch. It refuses to answer before the commit.
package usage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
)

// Config says where use is written. DB and Live are required.
type Config struct {
	DB   *store.DB
	Live *live.Live
	// Node is this process's name among the nodes of one database; "" chooses a
	// random one.
	Node string
	// NewID makes a new id with a prefix; nil is usher.NewID with the time now.
	NewID func(prefix string) string
	// Queue is how many requests may be without an answer; the next one is
	// Unavailable. 0 is 4,096.
	Queue int
	// Folding says how old answers are folded.
	Folding Folding
	// Log gets what goes wrong in the background; nil is slog.Default().
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
	retries int // for how many more batches stored answers are read first; only the writer touches it
	waiting atomic.Int64
	within  time.Duration // commitWithin, but for tests

	began     atomic.Int64            // when the batch that runs began, in ns; 0: none runs
	committed atomic.Int64            // when use was committed last, in ns; 0: never
	failed    atomic.Pointer[failure] // the last outage; nil: none
}

// failure is why a batch could not be committed, and when.
type failure struct {
	at  time.Time
	err error
}

// commitWithin is how long the writer tries to commit one batch. It is longer than
// any wait of the store's own, so what takes longer is not an outage that the store has named.
const commitWithin = 20 * time.Second

// Bounds of one batch, so that no caller waits for a batch that keeps growing.
const (
	maxOps    = 512 // takes
	maxBodies = 4   // requests of events, up to MaxEvents each
)

// retriesExpected is how many batches read the stored answers first after a retry was
// found, because retries seldom come alone.
const retriesExpected = 32

// request is one caller's work: a take or a body of events, never both. done is
// closed once its result is in it.
type request struct {
	take   *take
	events *body
	since  time.Time // when it was queued
	done   chan struct{}
}

// New starts the writer and the folding of old answers. Close stops both.
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
	u := &Usage{cfg: cfg, queue: make(chan *request, cfg.Queue), done: make(chan struct{}), replays: newReplays(8192), within: commitWithin}
	go u.write()
	return u
}

// Close refuses new requests, commits those that have queued, and returns when that
// is done or ctx ends.
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

// Waiting returns how many requests have no answer yet.
func (u *Usage) Waiting() int64 { return u.waiting.Load() }

// Bounds of Ready.
const (
	readyFor  = time.Second      // a commit shows for that long that more is possible
	stuckFor  = 3 * time.Second  // a batch that takes longer waits for the database
	failedFor = 10 * time.Second // an outage that no commit has followed
)

// Ready returns why nothing can be taken now; nil if it can. It goes by what the
// writer saw last, and asks the database if that says nothing. It takes nothing.
func (u *Usage) Ready(ctx context.Context) error {
	now := time.Now()
	if began := u.began.Load(); began != 0 && now.Sub(time.Unix(0, began)) > stuckFor {
		return usher.Errorf(usher.Unavailable, "the database has not answered for %s", now.Sub(time.Unix(0, began)).Round(time.Second))
	}
	committed := time.Unix(0, u.committed.Load())
	if now.Sub(committed) < readyFor {
		return nil
	}
	if f := u.failed.Load(); f != nil && f.at.After(committed) && now.Sub(f.at) < failedFor {
		return f.err
	}
	return u.cfg.DB.Writable(ctx)
}

// submit queues a request and waits for its commit. A caller that goes away gets
// ctx's error; its request is committed all the same.
func (u *Usage) submit(ctx context.Context, r *request) error {
	r.done, r.since = make(chan struct{}), time.Now()
	u.closing.RLock()
	if u.closed {
		u.closing.RUnlock()
		return &usher.Error{Code: usher.Unavailable, Detail: "the server is stopping; try again", RetryAfter: time.Second}
	}
	if u.waiting.Add(1) > int64(u.cfg.Queue) {
		u.waiting.Add(-1)
		u.closing.RUnlock()
		return &usher.Error{Code: usher.Unavailable, Detail: "too many requests are waiting; try again", RetryAfter: time.Second}
	}
	u.queue <- r // has room for all that wait
	u.closing.RUnlock()
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write is the writer: it takes what has queued, commits it as one batch, and answers.
// It has no timer that waits for more: while one batch commits, the next one queues, so
// that batches grow with the load. What a batch leaves, because another node has locked
// its customer, goes with the next ones.
func (u *Usage) write() {
	defer close(u.done)
	var l lanes
	for open := true; open || len(l.all) > 0; {
		var batch []*request
		var takes, bodies int
		add := func(r *request) {
			if !l.admit(r) {
				batch = append(batch, r)
			}
			if r.take != nil {
				takes++
			} else {
				bodies++
			}
		}
		switch {
		case len(l.all) == 0:
			first, ok := <-u.queue
			if !ok {
				return
			}
			add(first)
		case open && l.idle():
			select {
			case first, ok := <-u.queue:
				if open = ok; ok {
					add(first)
				}
			case <-time.After(probeEvery):
			}
		case l.idle():
			time.Sleep(probeEvery)
		}
		for range 3 { // let callers that were just answered queue again: fuller batches
			runtime.Gosched()
		}
	drain:
		for open && takes < maxOps && bodies < maxBodies {
			select {
			case r, ok := <-u.queue:
				if !ok {
					open = false
					break drain
				}
				add(r)
			default:
				break drain
			}
		}
		if batch = append(l.next(), batch...); len(batch) > 0 {
			u.attempt(&l, batch, false)
		}
		for _, o := range l.due() {
			if u.attempt(&l, o.all(), true) > 0 {
				l.passed(o)
				break // the others' turn
			}
		}
	}
}

// run commits a batch. If that fails although the database can be reached, each request
// runs alone, so that one bad request does not fail the others. A request for which
// another transaction keeps a lock gets no result: it is locked.
func (u *Usage) run(batch []*request, wait bool) {
	// Not a caller's context: a caller that goes away must not undo the others' work.
	ctx, cancel := context.WithTimeout(context.Background(), u.within)
	defer cancel()
	u.began.Store(time.Now().UnixNano())
	defer u.began.Store(0)
	err := guarded(func() error { return u.commit(ctx, batch, wait) })
	if err == nil {
		return
	}
	if (usher.ErrorCode(err) != usher.Unavailable || store.Locked(err)) && len(batch) > 1 && ctx.Err() == nil {
		u.cfg.Log.Error("a batch could not be committed; each request runs alone", "requests", len(batch), "error", err)
		for _, r := range batch {
			u.conclude(r, u.late(ctx, guarded(func() error { return u.commit(ctx, []*request{r}, wait) })))
		}
		return
	}
	err = u.late(ctx, err)
	if usher.ErrorCode(err) == usher.Unavailable && !store.Locked(err) {
		u.failed.Store(&failure{time.Now(), err})
	}
	for _, r := range batch {
		u.conclude(r, err)
	}
}

// conclude gives a request the result of its commit, if it has none of its own.
func (u *Usage) conclude(r *request, err error) {
	switch {
	case err == nil:
	case store.Locked(err):
		r.lockedOut()
	default:
		u.fail(r, err)
	}
}

// late gives the error of a batch that ran into the writer's own deadline a code
// and words. The database may be well, so it is not the outage that the store would
// name; nor is it a bug. Whether the commit happened is not known: the caller
// repeats the call, and its key or the events' ids make that safe.
func (u *Usage) late(ctx context.Context, err error) error {
	var coded *usher.Error
	if err == nil || ctx.Err() == nil || errors.As(err, &coded) {
		return err
	}
	words := fmt.Sprintf("the use could not be committed within %s and may be committed later: repeat the call with the same key or ids",
		u.within)
	return fmt.Errorf("%w (%w)", &usher.Error{Code: usher.Unavailable, Detail: words, RetryAfter: time.Second}, err)
}

// fail answers a request with an error. One without a code is a fault of the
// server, which the caller sees as such: only the store says what is Unavailable.
func (u *Usage) fail(r *request, err error) {
	var e *usher.Error
	if !errors.As(err, &e) {
		u.cfg.Log.Error("usage could not be committed", "error", err)
	}
	if r.take != nil {
		r.take.err, r.take.locked = err, store.Holder{}
	} else {
		r.events.err, r.events.locked = err, store.Holder{}
	}
}
