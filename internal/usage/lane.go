package usage

import (
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// Nodes of one PostgreSQL write use at the same time, and a batch keeps its customers
// locked until it commits. If each waited for the others' customers, one node that is
// slow, or frozen in the middle of a batch, would hold up all customers of all nodes.
// So a batch takes the customers that are free. The requests of the others wait in
// lanes, one for each customer, and are tried again with every batch. A customer that
// was skipped several times is waited for, alone and briefly: the database serves those
// who wait in turn, so that a busy customer is not skipped for ever.

// maxSkips is how many batches go without a locked customer before it is waited for.
const maxSkips = 3

// pause is how long the writer waits for no locked customer after it has waited for one
// in vain: a node may be frozen, and all others' callers would wait as well.
const pause = time.Second

// probeEvery is how often locked customers are tried while there is nothing else to do.
const probeEvery = 10 * time.Millisecond

// patience bounds how long a request waits for locks of other nodes. The database ends
// the transaction of a frozen node much earlier.
const patience = 10 * time.Second

// lane has the requests that wait for one customer, oldest first.
type lane struct {
	key      laneKey
	requests []*request
	skipped  int  // batches in a row that went without the customer
	tried    bool // some of its requests are in the batch that runs
}

// laneKey is what a lane's requests wait for. Changes of a customer's directory have
// lanes of their own: they wait for the locks of management changes, which a batch of
// takes never needs, and so are never in one batch with takes.
type laneKey struct {
	store.Holder
	directs bool
}

// lanes are those of a writer, which owns them. Those that are waited for come in turn.
type lanes struct {
	all    []*lane
	paused time.Time // no customer is waited for until then
}

// open returns the lane of k, a new one if there is none.
func (l *lanes) open(k laneKey) *lane {
	if i := slices.IndexFunc(l.all, func(o *lane) bool { return o.key == k }); i >= 0 {
		return l.all[i]
	}
	o := &lane{key: k}
	l.all = append(l.all, o)
	return o
}

// admit puts a new request into the lane in which it must wait: behind others of a
// locked customer, or with the changes of a directory. It returns false if the request
// can be in the next batch.
func (l *lanes) admit(r *request) bool {
	if r.take != nil && r.take.directs {
		o := l.open(laneKey{r.take.holder(), true})
		o.requests = append(o.requests, r)
		return true
	}
	if len(l.all) == 0 {
		return false
	}
	locked := make(map[store.Holder]*lane, len(l.all))
	for _, o := range l.all {
		if !o.key.directs {
			locked[o.key.Holder] = o
		}
	}
	for h := range r.holders() {
		if o := locked[h]; o != nil {
			o.requests = append(o.requests, r)
			return true
		}
	}
	return false
}

// next takes from the lanes of locked customers what goes with the next batch: the
// oldest of each.
func (l *lanes) next() []*request {
	var all []*request
	bodies := 0
	for _, o := range l.all {
		if o.key.directs {
			continue
		}
		n := 0
		for n < len(o.requests) && n < max(1, maxOps/len(l.all)) {
			if o.requests[n].events != nil {
				if bodies == maxBodies {
					break
				}
				bodies++
			}
			n++
		}
		all = append(all, o.requests[:n]...)
		o.requests, o.tried = o.requests[n:], true
	}
	return all
}

// due returns the lanes that are waited for now.
func (l *lanes) due() []*lane {
	if time.Now().Before(l.paused) {
		return nil
	}
	var all []*lane
	for _, o := range l.all {
		if len(o.requests) > 0 && (o.key.directs || o.skipped >= maxSkips) {
			all = append(all, o)
		}
	}
	return all
}

// all takes what goes with a batch that waits for this lane alone.
func (o *lane) all() []*request {
	n, bodies := 0, 0
	for ; n < min(len(o.requests), maxOps) && bodies < maxBodies; n++ {
		if o.requests[n].events != nil {
			bodies++
		}
	}
	taken := o.requests[:n]
	o.requests, o.tried = o.requests[n:], true
	return taken
}

// putBack returns to the lanes what a batch left, and closes the lanes that are empty.
func (l *lanes) putBack(left []*request) {
	back := map[laneKey][]*request{}
	for _, r := range left {
		k := laneKey{r.locked(), r.take != nil && r.take.directs}
		back[k] = append(back[k], r)
		l.open(k)
	}
	for _, o := range l.all {
		if again := back[o.key]; len(again) > 0 {
			o.requests = append(again, o.requests...)
			o.skipped++
		} else if o.tried {
			o.skipped = 0
		}
		o.tried = false
	}
	l.all = slices.DeleteFunc(l.all, func(o *lane) bool { return len(o.requests) == 0 })
}

// passed moves a lane to the end, for which a batch has waited in vain.
func (l *lanes) passed(o *lane) {
	l.paused = time.Now().Add(pause)
	if i := slices.Index(l.all, o); i >= 0 { // else what it had waits for another customer now
		o.skipped = 0
		l.all = append(slices.Delete(l.all, i, i+1), o)
	}
}

// idle reports whether all lanes wait for locks, so that there is nothing to do for
// the moment.
func (l *lanes) idle() bool {
	return time.Now().Before(l.paused) && !slices.ContainsFunc(l.all, func(o *lane) bool { return !o.key.directs && o.skipped == 0 })
}

// holders returns the customers whose use a request changes.
func (r *request) holders() map[store.Holder]bool {
	if r.take != nil {
		return map[store.Holder]bool{r.take.holder(): true}
	}
	all := map[store.Holder]bool{}
	for i := range r.events.events {
		if s := r.events.events[i].Subject; s != "" {
			all[store.Holder{Env: r.events.env, Customer: s}] = true
		}
	}
	return all
}

// locked returns the customer for which a batch left the request; zero: it has a
// result.
func (r *request) locked() store.Holder {
	if r.take != nil {
		return r.take.locked
	}
	return r.events.locked
}

// lockedOut notes that another transaction keeps what a request needs locked.
func (r *request) lockedOut() {
	if r.take != nil {
		r.take.locked = r.take.holder()
		return
	}
	r.events.locked = store.Holder{Env: r.events.env, Customer: r.events.events[0].Subject}
}

// errHeld answers a request that waited for too long.
var errHeld = &usher.Error{Code: usher.Unavailable, Detail: "another server has locked the customer for too long; try again",
	RetryAfter: time.Second}

// attempt runs a batch, answers the requests that have a result, and puts the others
// back into the lanes. wait: wait briefly for locked customers. It returns how many
// it put back.
func (u *Usage) attempt(l *lanes, batch []*request, wait bool) int {
	u.run(batch, wait)
	var left []*request
	for _, r := range batch {
		if r.locked() != (store.Holder{}) {
			if time.Since(r.since) < patience {
				left = append(left, r)
				continue
			}
			u.fail(r, errHeld)
		}
		u.waiting.Add(-1)
		close(r.done)
	}
	l.putBack(left)
	return len(left)
}
