package usage

import (
	"sync"

	"github.com/usher-sh/usher/internal/store"
)

// replays keeps the newest stored takes in memory, so that an immediate retry is
// answered without rolling back the batch that it is in. It only saves work: the
// database decides whether a key has an answer. Its methods are safe for concurrent
// use.
type replays struct {
	mu   sync.Mutex
	ops  map[store.OpKey]store.Op
	ring []store.OpKey // in the order in which they came; the oldest is at next
	next int
}

// newReplays returns an empty memory for n takes.
func newReplays(n int) *replays {
	return &replays{ops: make(map[store.OpKey]store.Op, n), ring: make([]store.OpKey, n)}
}

func (r *replays) get(k store.OpKey) (store.Op, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	op, ok := r.ops[k]
	return op, ok
}

func (r *replays) store(op store.Op) {
	k := store.OpKey{Env: op.Env, Key: op.Key}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.ops[k]; ok {
		return
	}
	delete(r.ops, r.ring[r.next])
	r.ops[k], r.ring[r.next] = op, k
	r.next = (r.next + 1) % len(r.ring)
}
