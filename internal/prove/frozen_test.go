//go:build unix

package prove

import (
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
)

// TestFrozenNode: of two nodes on one PostgreSQL, one is frozen in the middle of a
// take's transaction. The other goes on with all other customers at once, and with the
// locked one once the database has ended that transaction. The node that wakes up
// grants nothing of what it had begun.
func TestFrozenNode(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 5))
	pg := postgres(t)
	dsn, err := pg.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := create(t, dsn)
	other, frozen := serve(t, dsn), serve(t, dsn+"&application_name=frozen")
	manage(t, other.addr, key, "PUT", "/v1/catalog", "application/yaml", `usher: 1
features: {calls: {kind: metered}}
plans: {all: {default: true, entitlements: {calls: {limit: 100000, per: lifetime}}}}
`)
	for _, c := range []string{"held", "free-0", "free-1", "free-2"} {
		manage(t, other.addr, key, "PUT", "/v1/customers/"+c, "application/json", "{}")
	}
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	idle := func() bool { // the frozen node's transaction is there, and waits for it
		var n int
		if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'frozen'
			AND state = 'idle in transaction'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
	locked := func() bool {
		_, err := db.ExecContext(t.Context(), `SELECT 1 FROM customer WHERE env = 'production' AND id = 'held' FOR UPDATE NOWAIT`)
		return err != nil && strings.Contains(err.Error(), "55P03")
	}
	take := func(c *client, n *node, customer, key string) answer {
		a, err := c.post(n.addr, "/v1/consume", fmt.Sprintf(`{"customer":%q,"feature":"calls","key":%q}`, customer, key))
		if err != nil {
			t.Errorf("%s of %s: %v", key, customer, err)
		}
		return a
	}
	granted := func(a answer) bool { return a.status == http.StatusOK && a.allowed() && !a.replayed() }

	// Freeze it until it is caught with the customer locked.
	begun := &client{key: key}
	defer begun.close()
	answers := make(chan answer, 1)
	lost, taken := "", 0
	for i := 0; lost == ""; i++ {
		if i == 2000 {
			t.Fatal("the node was never caught in the middle of a take")
		}
		name := fmt.Sprint("begun-", i)
		go func() { answers <- take(begun, frozen, "held", name) }()
		time.Sleep(time.Duration(r.IntN(5000)) * time.Microsecond)
		if err := frozen.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // what it had sent has been done
		if idle() && locked() {
			lost = name
			break
		}
		frozen.Process.Signal(syscall.SIGCONT)
		if a := <-answers; !granted(a) {
			t.Fatalf("%s before the freeze: %d %s", name, a.status, a.body)
		}
		taken++
	}
	froze := time.Now()

	var wait sync.WaitGroup
	wait.Go(func() { // its customer, at the other node
		c := &client{key: key}
		defer c.close()
		for i, name := range []string{lost, "after"} {
			if a := take(c, other, "held", name); !granted(a) || a.used() != int64(taken+1+i) {
				t.Errorf("%s of the locked customer: %d %s, want unit %d", name, a.status, a.body, taken+1+i)
			}
			if i == 0 {
				t.Logf("the locked customer's first take: %.2f s after the freeze", time.Since(froze).Seconds())
			}
		}
	})
	c := &client{key: key}
	defer c.close()
	var slowest time.Duration
	free := 0
	for idle() {
		began := time.Now()
		if a := take(c, other, fmt.Sprint("free-", free%3), fmt.Sprint("free-", free)); !granted(a) {
			t.Fatalf("take %d of a free customer: %d %s", free, a.status, a.body)
		}
		slowest = max(slowest, time.Since(began))
		if free++; free == 5 {
			res, err := http.Get("http://" + other.addr + "/readyz?takes")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if string(body) != `{"checks":"ok","takes":"ok"}` {
				t.Errorf("/readyz?takes of the node that goes on: %s %s", res.Status, body)
			}
		}
	}
	t.Logf("other customers: %d takes while the frozen node's transaction lasted, the slowest %v", free, slowest.Round(time.Millisecond))
	if free < 10 {
		t.Errorf("%d takes of other customers while one was locked, want them to go on", free)
	}
	wait.Wait()

	frozen.Process.Signal(syscall.SIGCONT)
	if a := <-answers; a.status != http.StatusServiceUnavailable || a.retryAfter == "" {
		t.Errorf("what the frozen node had begun: %d %s, want a 503 with Retry-After", a.status, a.body)
	}
	if a := take(begun, frozen, "held", lost); a.status != http.StatusOK || !a.replayed() || a.used() != int64(taken+1) {
		t.Errorf("the same key again at the node that woke up: %d %s, want the other node's answer", a.status, a.body)
	}
	if a := take(begun, frozen, "held", "awake"); !granted(a) || a.used() != int64(taken+3) {
		t.Errorf("a new take at the node that woke up: %d %s, want unit %d", a.status, a.body, taken+3)
	}
	frozen.stop(t)
	other.stop(t)
	fsck(t, dsn)
}
