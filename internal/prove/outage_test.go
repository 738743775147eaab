package prove

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/usher-sh/usher/internal/testpg"
)

// away checks what a node answers while its database is away: takes are refused with a
// time to retry, checks of loaded customers go on from memory, and other checks follow
// the feature's fail policy.
func away(t *testing.T, c *client, n *node) {
	t.Helper()
	a, err := c.post(n.addr, "/v1/consume", fmt.Sprintf(`{"customer":"calm","feature":"hot","key":"away-%d"}`, time.Now().UnixNano()))
	if err != nil || a.status != http.StatusServiceUnavailable || a.retryAfter == "" {
		t.Errorf("a consume without a database: got %d %s %v, Retry-After %q; want a 503 with Retry-After", a.status, a.body, err, a.retryAfter)
	}
	if d := check(t, c, n.addr, "known", "hot"); !d.Allowed || d.Reason != "within_limit" || d.Degraded && d.AsOf.IsZero() {
		t.Errorf("a check of a known customer without a database: got %+v, want what was known, and as_of where degraded", d)
	}
	for feature, open := range map[string]bool{"lenient": true, "calls": false} {
		// A new name each time, because the node may remember one that it was asked about.
		stranger := fmt.Sprintf("stranger-%d", time.Now().UnixNano())
		if d := check(t, c, n.addr, stranger, feature); d.Allowed != open || d.Reason != "unavailable" || !d.Degraded {
			t.Errorf("a check of %s for an unknown customer without a database: got %+v, want allowed %v, unavailable, degraded", feature, d, open)
		}
	}
}

// know creates the customers that away asks about.
func know(t *testing.T, l *load, addr string) {
	t.Helper()
	for _, name := range []string{"known", "calm"} {
		manage(t, addr, l.key, "PUT", "/v1/customers/"+name, "application/json", "{}")
	}
}

// learn makes every node load the known customer.
func learn(t *testing.T, c *client, nodes []*node) {
	t.Helper()
	revision := check(t, c, nodes[0].addr, "known", "hot").Revision
	for _, n := range nodes { // by the revision, because taking a change in forgets the customer
		a, err := c.post(n.addr, "/v1/check", fmt.Sprintf(`{"customer":"known","feature":"hot","min_revision":%d}`, revision))
		if err != nil || !a.allowed() {
			t.Fatalf("check of a known customer: %d %s %v", a.status, a.body, err)
		}
	}
}

// TestDatabaseIsKilled: all processes of PostgreSQL are killed and started again under
// the load of three nodes. With the database server's default settings acknowledged
// takes would be lost; usher sets stricter ones.
func TestDatabaseIsKilled(t *testing.T) {
	seed, times := seed(t), size(2, 10)
	r := rand.New(rand.NewPCG(seed, 3))
	const each = 1000 // operations between two outages
	pg := postgres(t, "synchronous_commit=off")
	dsn, err := pg.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := create(t, dsn)
	nodes := []*node{serve(t, dsn), serve(t, dsn), serve(t, dsn)}
	total := (times + 1) * each
	l := newLoad(t, seed, key, 24, 3*total, int64(total)/5, int64(total)/2/spread, nodes...)
	know(t, l, nodes[0].addr)
	c := &client{key: key}
	defer c.close()
	ended := l.start(0)
	for range times {
		if !l.until(l.next.Load()+each/2+r.Int64N(each), ended) {
			t.Fatal("the load ended before the database was killed")
		}
		learn(t, c, nodes)
		if err := pg.Kill(); err != nil {
			t.Fatal(err)
		}
		l.stopped.Add(1)
		for _, n := range nodes {
			away(t, c, n)
		}
		if err := pg.Restart(); err != nil {
			t.Fatal(err)
		}
		recovered(t, l, nodes)
	}
	l.until(l.next.Load()+each/2, ended)
	l.stop.Store(true)
	<-ended
	if l.refused.Load() == 0 {
		t.Error("no call was refused: the database was not missed")
	}
	l.finish(true)
	for _, n := range nodes {
		n.stop(t)
	}
	fsck(t, dsn)
}

// recovered waits until every node accepts takes again.
func recovered(t *testing.T, l *load, nodes []*node) {
	t.Helper()
	c := &client{key: l.key}
	defer c.close()
	for i, n := range nodes {
		body := fmt.Sprintf(`{"customer":"calm","feature":"calls","key":"back-%d-%d"}`, l.stopped.Load(), i)
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			a, err := c.post(n.addr, "/v1/consume", body)
			if err == nil && a.status == http.StatusOK {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("node %d does not take within 20 s after the database is back: %d %s %v\n%s", i, a.status, a.body, err, n.log)
			}
		}
		if res, err := http.Get("http://" + n.addr + "/readyz"); err != nil {
			t.Error(err)
		} else if res.Body.Close(); res.StatusCode != http.StatusOK {
			t.Errorf("node %d takes, and /readyz says %s", i, res.Status)
		}
	}
}

// TestFailover: the primary is killed under the load of three nodes and its synchronous
// standby takes over. Nothing that was acknowledged is lost.
func TestFailover(t *testing.T) {
	seed, times := seed(t), size(1, 2)
	r := rand.New(rand.NewPCG(seed, 4))
	for range times {
		failover(t, r)
	}
}

func failover(t *testing.T, r *rand.Rand) {
	const each = 1000 // operations before and after
	primary := postgres(t)
	if _, err := primary.NewDatabase(t.Context()); err != nil {
		t.Fatal(err)
	}
	standby, err := primary.Standby()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standby.Stop)
	dsn := testpg.URL("usher1", standby, primary)
	key := create(t, dsn)
	nodes := []*node{serve(t, dsn), serve(t, dsn), serve(t, dsn)}
	l := newLoad(t, r.Uint64(), key, 24, 6*each, 2*each/5, each/spread, nodes...)
	know(t, l, nodes[0].addr)
	c := &client{key: key}
	defer c.close()
	ended := l.start(0)
	if !l.until(each*3/4+r.Int64N(each/2), ended) {
		t.Fatal("the load ended before the primary was killed")
	}
	learn(t, c, nodes)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	l.stopped.Add(1)
	began := time.Now()
	for _, n := range nodes {
		away(t, c, n)
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	recovered(t, l, nodes)
	t.Logf("takes again %.1f s after the primary was killed", time.Since(began).Seconds())
	l.until(l.next.Load()+each, ended)
	l.stop.Store(true)
	<-ended
	l.finish(true)
	for _, n := range nodes {
		n.stop(t)
	}
	fsck(t, dsn)
}

// TestDatabaseVanishes: a node without its database reports it, keeps running, and
// serves again when the database is back.
func TestDatabaseVanishes(t *testing.T) {
	pg := postgres(t)
	dsn, err := pg.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := create(t, dsn)
	n := serve(t, dsn)
	l := newLoad(t, 0, key, 1, 0, 10, 10, n)
	know(t, l, n.addr)
	ready := func(takes string) int {
		res, err := http.Get("http://" + n.addr + "/readyz" + takes)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if got := ready("?takes"); got != http.StatusOK {
		t.Errorf("/readyz?takes: got %d, want 200", got)
	}
	c := &client{key: key}
	defer c.close()
	learn(t, c, []*node{n})
	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := ready("?takes"); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz?takes without a database: got %d, want 503", got)
	}
	if got := ready(""); got != http.StatusOK {
		t.Errorf("/readyz without a database: got %d, want 200, as checks are answered from memory", got)
	}
	for range 3 {
		away(t, c, n)
	}
	if err := pg.Restart(); err != nil {
		t.Fatal(err)
	}
	recovered(t, l, []*node{n})
	if d := check(t, c, n.addr, "calm", "calls"); d.Used != 1 {
		t.Errorf("got %d used after the outage, want the 1 that was taken", d.Used)
	}
	n.stop(t)
}

// TestLaggingNode: a node that has not yet loaded a catalogue that another node applied
// accepts takes of whole units of the new features in it.
func TestLaggingNode(t *testing.T) {
	pg := postgres(t)
	dsn, err := pg.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := create(t, dsn)
	lagging, other := serve(t, dsn, "--poll-interval", "1h"), serve(t, dsn)
	manage(t, other.addr, key, "PUT", "/v1/catalog", "application/yaml", `usher: 1
features: {calls: {kind: metered, precision: 2}}
plans: {all: {default: true, entitlements: {calls: {limit: 3, per: lifetime}}}}
`)
	manage(t, other.addr, key, "PUT", "/v1/customers/acme", "application/json", "{}")
	c := &client{key: key}
	defer c.close()
	var granted int
	for i := range 5 {
		a, err := c.post(lagging.addr, "/v1/consume", fmt.Sprintf(`{"customer":"acme","feature":"calls","key":"k%d"}`, i))
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("consume: %d %s %v", a.status, a.body, err)
		}
		if a.allowed() {
			granted++
		}
	}
	if granted != 3 {
		t.Errorf("%d of 5 were granted, want the limit of 3", granted)
	}
}
