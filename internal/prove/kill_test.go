package prove

import (
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestKill: the real binary on SQLite is killed again and again under load. After each
// restart every key that was acknowledged since the last one, and some earlier ones,
// must replay its answer. In the end every key does, and a call that was never answered
// has counted once.
func TestKill(t *testing.T) {
	seed, cycles := seed(t), size(8, 200)
	r := rand.New(rand.NewPCG(seed, 1))
	const each = 600 // operations a cycle
	db := filepath.Join(t.TempDir(), "usher.db")
	key := create(t, db)
	n := serve(t, db)
	total := cycles * each
	l := newLoad(t, seed, key, 16, 2*total, int64(total)*30/100, int64(total)/2/spread, n)
	ended := l.start(0)
	var sampled int64
	for done := int64(0); l.stopped.Load() < int64(cycles); {
		at := l.next.Load() + each*3/4 + r.Int64N(each/2)
		if !l.until(at, ended) {
			break
		}
		time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
		l.nodes[0].Store(nil) // the callers wait for the next
		n.kill()
		l.stopped.Add(1)
		n = serve(t, db)
		begun := min(l.next.Load(), int64(len(l.ops)))
		l.replay(done, begun, n)
		for range 5 { // of all earlier ones, in blocks
			from := r.Int64N(done + 1)
			to := min(from+20, done)
			l.replay(from, to, n)
			sampled += to - from
		}
		done = begun
		l.nodes[0].Store(n)
	}
	if got := l.stopped.Load(); got != int64(cycles) {
		t.Errorf("%d cycles, want %d: the load ended before", got, cycles)
	}
	l.stop.Store(true)
	<-ended
	if l.lost.Load() == 0 {
		t.Error("no call was under way when the server was killed: nothing was proved")
	}
	l.finish(true)
	t.Logf("cycles %d; of the earlier keys %d were asked for again on the way, and all in the end", l.stopped.Load(), sampled)
	n.stop(t)
	fsck(t, db)
}

// TestDisconnect: clients disconnect in the middle of a request, or before its answer,
// and ask again. Each key counts once.
func TestDisconnect(t *testing.T) {
	seed, keys := seed(t), size(200, 2000)
	r := rand.New(rand.NewPCG(seed, 2))
	db := filepath.Join(t.TempDir(), "usher.db")
	key := create(t, db)
	n := serve(t, db)
	newLoad(t, seed, key, 1, 0, int64(keys), 1, n)
	began := time.Now()
	var early, half int
	c := &client{key: key}
	defer c.close()
	for i := range keys {
		body := fmt.Sprintf(`{"customer":"c0","feature":"hot","key":"k%d"}`, i)
		b := request(nil, n.addr, key, "/v1/consume", body)
		conn, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		if r.IntN(3) == 0 {
			b = b[:r.IntN(len(b))]
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.IntN(1500)) * time.Microsecond)
		if r.IntN(2) == 0 {
			conn.(*net.TCPConn).SetLinger(0) // not even a goodbye
		}
		conn.Close()
		a, err := c.post(n.addr, "/v1/consume", body)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := a.decision(); err != nil || !d.Allowed || d.Used != int64(i+1) {
			t.Fatalf("key k%d after its first client went away: got %s, %v, want unit %d", i, a.body, err, i+1)
		}
		if a.replayed() {
			early++
		} else {
			half++
		}
	}
	if early == 0 || half == 0 {
		t.Errorf("%d keys were taken before their client went away and %d were not: want some of both", early, half)
	}
	if d := check(t, c, n.addr, "c0", "hot"); d.Allowed || d.Used != int64(keys) {
		t.Errorf("got allowed %v with %d used, want the limit of %d reached", d.Allowed, d.Used, keys)
	}
	t.Logf("operations %d, taken for a client that was gone %d, taken by the retry %d, %.1f s", keys, early, half, time.Since(began).Seconds())
	n.stop(t)
	fsck(t, db)
}
