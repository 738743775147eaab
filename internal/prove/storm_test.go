package prove

import (
	"path/filepath"
	"testing"
)

// shares returns the limits for n calls. About 70 of 100 calls are operations, half of
// them the hot customer's. Its limit is 80 % of what it asks for; the limit of each
// other customer is about what it asks for.
func shares(calls int) (hot, each int64) {
	return int64(calls) * 28 / 100, int64(calls) * 35 / 100 / spread
}

// TestStormOnSQLite: many clients take from one limit and from many, and retry at once
// and later. Exactly the limits are granted, and each key has one answer.
func TestStormOnSQLite(t *testing.T) {
	seed, calls := seed(t), size(20_000, 1_000_000)
	db := filepath.Join(t.TempDir(), "usher.db")
	key := create(t, db)
	n := serve(t, db)
	hot, each := shares(calls)
	l := newLoad(t, seed, key, 64, calls, hot, each, n)
	l.run(int64(calls))
	if l.lost.Load()+l.refused.Load() > 0 {
		t.Errorf("%d calls had no answer and %d a 503, want none", l.lost.Load(), l.refused.Load())
	}
	l.finish(false)
	n.stop(t)
	fsck(t, db)
}

// TestStormOnThreeNodes: the same on one PostgreSQL with three nodes. One is killed
// half-way; a retry goes to another node than the first attempt.
func TestStormOnThreeNodes(t *testing.T) {
	seed, calls := seed(t), size(6_000, 200_000)
	pg := postgres(t, "fsync=on")
	dsn, err := pg.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := create(t, dsn)
	nodes := []*node{serve(t, dsn), serve(t, dsn), serve(t, dsn)}
	hot, each := shares(calls)
	l := newLoad(t, seed, key, 64, calls, hot, each, nodes...)
	ended := l.start(int64(calls))
	if !l.until(int64(calls)*35/100, ended) {
		t.Error("the load ended before a node was killed")
	}
	l.nodes[0].Store(nil)
	nodes[0].kill()
	l.stopped.Add(1)
	<-ended
	if l.lost.Load() == 0 {
		t.Error("the node that was killed was doing nothing")
	}
	l.finish(false)
	for _, n := range nodes[1:] {
		n.stop(t)
	}
	fsck(t, dsn)
}
