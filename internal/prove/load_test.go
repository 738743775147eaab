package prove

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// spread is the number of customers beside the hot one.
const spread = 64

// op is one operation of one unit, and the answers to it.
type op struct {
	key      string
	customer int           // 0 is the hot one
	first    int           // the node that the first attempt begins at
	hash     atomic.Uint64 // of the first answer, without "replayed"; 0: none was seen
	allowed  atomic.Bool
	fresh    atomic.Int32 // answers that were not replays: the taking itself
	lost     atomic.Bool  // some attempt had no answer
}

// load is a number of clients that take from customers and remember the answers,
// outside the server: a witness. They repeat each operation under its key until it is
// answered, at another node if there is one.
type load struct {
	t       *testing.T
	seed    uint64
	key     string // API key
	nodes   []atomic.Pointer[node]
	clients int
	hot     int64 // limit of the hot customer
	each    int64 // limit of each other one

	ops    []op // room for all that may come
	next   atomic.Int64
	newest atomic.Int64 // index + 1 of an operation under way, for another client to ask for as well; 0: none
	stop   atomic.Bool
	over   atomic.Bool // the test has ended: what is not answered stays so
	began  time.Time

	calls, retries, together, lost, refused, stopped atomic.Int64 // together: retries before the answer; refused: 503

	mu   sync.Mutex
	took [spread + 1]map[int64]string // the figure `used` of each granted unit, and its key
	errs int
}

const base = 1_900_000_000_000 // ms: where the time of the keys begins

// newLoad creates the catalogue and the customers. At most max operations begin; hot
// and each are the limits.
func newLoad(t *testing.T, seed uint64, key string, clients, max int, hot, each int64, nodes ...*node) *load {
	t.Helper()
	l := &load{t: t, seed: seed, key: key, nodes: make([]atomic.Pointer[node], len(nodes)), clients: clients, hot: hot, each: each,
		ops: make([]op, max)}
	for i, n := range nodes {
		l.nodes[i].Store(n)
	}
	for i := range l.took {
		l.took[i] = map[int64]string{}
	}
	addr := nodes[0].addr
	manage(t, addr, key, "PUT", "/v1/catalog", "application/yaml", fmt.Sprintf(`usher: 1
features: {hot: {kind: metered}, calls: {kind: metered}, lenient: {kind: metered, fail: open}}
plans:
  all:
    default: true
    entitlements: {hot: {limit: %d, per: lifetime}, calls: {limit: %d, per: lifetime}, lenient: {limit: 10, per: lifetime}}
`, hot, each))
	for i := range spread + 1 {
		manage(t, addr, key, "PUT", "/v1/customers/"+customer(i), "application/json", "{}")
	}
	c := &client{key: key}
	defer c.close()
	revision := check(t, c, addr, customer(0), "hot").Revision
	for _, n := range nodes { // each has taken all of it in
		body := fmt.Sprintf(`{"customer":%q,"feature":"hot","min_revision":%d}`, customer(0), revision)
		if a, err := c.post(n.addr, "/v1/check", body); err != nil || !a.allowed() && hot > 0 {
			t.Fatalf("check at another node: %d %s %v", a.status, a.body, err)
		}
	}
	return l
}

func customer(i int) string { return "c" + strconv.Itoa(i) }

func feature(customer int) string {
	if customer == 0 {
		return "hot"
	}
	return "calls"
}

func (l *load) limit(customer int) int64 {
	if customer == 0 {
		return l.hot
	}
	return l.each
}

// begin returns the next operation, nil if enough have begun. Every other one is the
// hot customer's. The key is a UUIDv7, so later ones sort later.
func (l *load) begin(client int) (int64, *op) {
	if l.stop.Load() {
		return 0, nil
	}
	i := l.next.Add(1) - 1
	if i >= int64(len(l.ops)) {
		return 0, nil
	}
	r := rand.New(rand.NewPCG(l.seed, uint64(i)))
	o := &l.ops[i]
	o.first = client
	if r.IntN(2) == 1 {
		o.customer = 1 + r.IntN(spread)
	}
	ms, random := uint64(base+i/8), r.Uint64()
	o.key = fmt.Sprintf("%08x-%04x-7%03x-%04x-%012x", ms>>16, ms&0xffff, i&7<<9|int64(random&0x1ff), 0x8000|random>>48&0x3fff,
		random>>9&(1<<48-1))
	return i, o
}

// run runs clients until they made a number of calls or, if calls is 0, until stop is
// set or no operation is left. About 30 of 100 calls are retries: half of an operation
// that another client sends at that moment, half of any earlier one.
func (l *load) run(calls int64) {
	l.began = time.Now()
	var wg sync.WaitGroup
	for c := range l.clients {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(l.seed, uint64(c)<<40))
			conn := &client{key: l.key}
			defer conn.close()
			for !l.stop.Load() && (l.calls.Add(1) <= calls || calls == 0) {
				switch n := r.IntN(100); {
				case n < 15:
					if i := l.newest.Swap(0); i > 0 {
						l.again(conn, &l.ops[i-1])
						continue
					}
					fallthrough
				case n < 30:
					if begun := l.next.Load() - int64(l.clients); begun > 0 {
						if o := &l.ops[r.Int64N(min(begun, int64(len(l.ops))))]; o.hash.Load() != 0 {
							l.again(conn, o)
							continue
						}
					}
				}
				i, o := l.begin(c)
				if o == nil {
					return
				}
				l.newest.Store(i + 1)
				l.ask(conn, o, c)
			}
		})
	}
	wg.Wait()
	if calls > 0 {
		l.calls.Store(min(l.calls.Load(), calls))
	}
}

// again repeats an operation at another node than its first attempt.
func (l *load) again(c *client, o *op) {
	l.retries.Add(1)
	if o.hash.Load() == 0 {
		l.together.Add(1)
	}
	l.ask(c, o, o.first+1)
}

// restless is how long an operation may stay unanswered while databases and nodes come
// and go.
const restless = 90 * time.Second

// ask repeats an operation until it is answered, and remembers the answer. It begins
// at the node-th node and goes to the next one after each failure.
func (l *load) ask(c *client, o *op, node int) {
	body := `{"customer":"` + customer(o.customer) + `","feature":"` + feature(o.customer) + `","key":"` + o.key + `"}`
	for deadline := time.Now().Add(restless); ; node++ {
		n := l.nodes[node%len(l.nodes)].Load()
		if n != nil {
			switch a, err := c.post(n.addr, "/v1/consume", body); {
			case err != nil:
				o.lost.Store(true)
				l.lost.Add(1)
			case a.status == http.StatusServiceUnavailable:
				if seconds, err := strconv.Atoi(a.retryAfter); err != nil || seconds < 1 {
					l.errorf("a 503 says Retry-After %q, want seconds", a.retryAfter)
				}
				o.lost.Store(true)
				l.refused.Add(1)
			case a.status != http.StatusOK:
				l.errorf("key %s: %d %s", o.key, a.status, a.body)
				return
			default:
				l.remember(o, a)
				return
			}
		}
		if l.over.Load() {
			return
		}
		if time.Now().After(deadline) {
			l.errorf("key %s: no answer within %v", o.key, restless)
			l.stop.Store(true)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

var hashes = maphash.MakeSeed()

// remember compares an answer with the first one under the same key.
func (l *load) remember(o *op, a answer) {
	again := a.replayed()
	if again {
		a.body = bytes.Replace(a.body, replayed, nil, 1)
	}
	hash := maphash.Bytes(hashes, a.body) | 1
	if first := o.hash.CompareAndSwap(0, hash); !first {
		if o.hash.Load() != hash {
			l.errorf("key %s was answered in two ways, the second: %s", o.key, a.body)
		}
	} else if a.allowed() {
		o.allowed.Store(true)
		if n := a.used(); n < 1 || n > l.limit(o.customer) {
			l.errorf("key %s was given unit %d of a limit of %d: %s", o.key, n, l.limit(o.customer), a.body)
		}
		l.mu.Lock()
		other, twice := l.took[o.customer][a.used()]
		l.took[o.customer][a.used()] = o.key
		l.mu.Unlock()
		if twice {
			l.errorf("unit %d of %s was given to key %s and to key %s", a.used(), customer(o.customer), other, o.key)
		}
	}
	if !again && o.fresh.Add(1) > 1 {
		l.errorf("key %s was taken twice: %s", o.key, a.body)
	}
}

// errorf fails the test, and prints only the first few messages.
func (l *load) errorf(format string, args ...any) {
	l.mu.Lock()
	l.errs++
	n := l.errs
	l.mu.Unlock()
	if n <= 10 {
		l.t.Errorf(format, args...)
	} else {
		l.t.Fail()
	}
}

// finish checks a load that has ended: every operation has one answer, each customer
// was granted exactly what was asked for or its limit, and the server reports the same.
// If replay is set, every key is first sent once more.
func (l *load) finish(replay bool) {
	t := l.t
	t.Helper()
	seconds := time.Since(l.began).Seconds()
	begun := min(l.next.Load(), int64(len(l.ops)))
	if replay {
		l.replay(0, begun, nil)
	}
	var demand, granted [spread + 1]int64
	for i := range begun {
		o := &l.ops[i]
		demand[o.customer]++
		switch {
		case o.hash.Load() == 0:
			l.errorf("key %s has no answer", o.key)
		case o.fresh.Load() == 0 && !o.lost.Load():
			l.errorf("key %s has only replays of an answer that nobody was given", o.key)
		}
		if o.allowed.Load() {
			granted[o.customer]++
		}
	}
	c := &client{key: l.key}
	defer c.close()
	var all, full int64
	for i := range demand {
		want := min(demand[i], l.limit(i))
		if granted[i] != want {
			l.errorf("%s: granted %d, want %d: %d asked, limit %d", customer(i), granted[i], want, demand[i], l.limit(i))
		}
		// A node sees the use of other nodes a little later.
		var d decision
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if d = check(t, c, l.living().addr, customer(i), feature(i)); d.Used == want || time.Now().After(end) {
				break
			}
		}
		if d.Used != want {
			l.errorf("%s: the server says %d used, want the %d that were granted", customer(i), d.Used, want)
		}
		all += granted[i]
		if demand[i] >= l.limit(i) {
			full++
		}
	}
	if demand[0] <= l.hot {
		l.errorf("the hot limit of %d was not reached by %d operations: nothing was proved", l.hot, demand[0])
	}
	if l.together.Load() == 0 || l.retries.Load() == l.together.Load() {
		l.errorf("%d of %d retries were made before the answer: want some before it and some after", l.together.Load(), l.retries.Load())
	}
	t.Logf("operations %d, calls %d, retries %d (%d before the answer), without an answer %d, 503 %d, kills %d; "+
		"granted %d, at their limit %d of %d customers; hot limit %d of %d asked; %.1f s, %.0f calls/s",
		begun, l.calls.Load(), l.retries.Load(), l.together.Load(), l.lost.Load(), l.refused.Load(), l.stopped.Load(), all, full, spread+1, l.hot,
		demand[0], seconds, float64(l.calls.Load())/seconds)
}

// living returns a node that serves.
func (l *load) living() *node {
	for i := range l.nodes {
		if n := l.nodes[i].Load(); n != nil {
			return n
		}
	}
	l.t.Fatal("no node is left")
	return nil
}

// replay repeats every answered operation of [from, to), at one node or at all. The
// answer must be the first one again.
func (l *load) replay(from, to int64, at *node) {
	const callers = 8
	var wg sync.WaitGroup
	for k := range int64(callers) {
		wg.Go(func() {
			c := &client{key: l.key}
			defer c.close()
			for i := from + k; i < to; i += callers {
				o := &l.ops[i]
				if o.hash.Load() == 0 {
					continue // under way
				}
				n := at
				if n == nil {
					n = l.nodes[i%int64(len(l.nodes))].Load()
				}
				if n == nil {
					n = l.living()
				}
				a, err := c.post(n.addr, "/v1/consume", `{"customer":"`+customer(o.customer)+`","feature":"`+feature(o.customer)+`","key":"`+o.key+`"}`)
				switch {
				case err != nil || a.status != http.StatusOK:
					l.errorf("key %s, which was acknowledged: %d %s %v", o.key, a.status, a.body, err)
					return
				case !a.replayed():
					l.errorf("key %s was acknowledged and is forgotten: %s", o.key, strings.TrimSpace(string(a.body)))
				}
				l.remember(o, a)
			}
		})
	}
	wg.Wait()
}

// until waits for the n-th operation to begin; false if the load ended before.
func (l *load) until(n int64, ended <-chan struct{}) bool {
	for l.next.Load() < n {
		select {
		case <-ended:
			return false
		case <-time.After(time.Millisecond):
		}
	}
	return true
}

// start runs the load beside the caller; the channel closes when it has ended.
func (l *load) start(calls int64) (ended chan struct{}) {
	ended = make(chan struct{})
	l.t.Cleanup(func() { // of a test that failed on the way
		l.stop.Store(true)
		l.over.Store(true)
		<-ended
	})
	go func() {
		defer close(ended)
		l.run(calls)
	}()
	return ended
}
