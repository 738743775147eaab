package job_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/testpg"
)

// each runs a story on both databases.
func each(t *testing.T, story func(t *testing.T, db *store.DB)) {
	open := func(t *testing.T, dsn string) *store.DB {
		t.Helper()
		db, err := store.Open(t.Context(), store.Config{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		story(t, open(t, filepath.Join(t.TempDir(), "usher.db")))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		pg, err := testpg.Default()
		if err != nil {
			t.Skip("no PostgreSQL binaries: ", err)
		}
		dsn, err := pg.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		story(t, open(t, dsn))
	})
}

// clock is a time that only a test moves.
type clock struct{ us atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.us.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMicro())
	return c
}

func (c *clock) now() time.Time       { return time.UnixMicro(c.us.Load()).UTC() }
func (c *clock) pass(d time.Duration) { c.us.Add(d.Microseconds()) }

// lines is a log that tests read.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// node is one process that runs jobs.
func node(db *store.DB, name string, c *clock, log *lines, jobs ...job.Job) *job.Runner {
	return job.New(job.Config{DB: db, Node: name, Now: c.now, Log: slog.New(slog.NewTextHandler(log, nil))}, jobs...)
}

// gauges reads what a runner shows in /metrics, by metric and job.
func gauges(t *testing.T, r *job.Runner) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(r)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			all[strings.TrimPrefix(f.GetName(), "usher_job_")+" "+m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
		}
	}
	return all
}

// Two nodes share the work of a database: each interval one of them does it, and
// both say when it was done.
func TestOneNodeAtATime(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		c, log := newClock(), &lines{}
		var runs, both atomic.Int64
		work := job.Job{Name: "sweep", Every: time.Hour, First: time.Minute, Run: func(context.Context) error {
			if both.Add(1) > 1 {
				t.Error("two nodes run it at once")
			}
			time.Sleep(20 * time.Millisecond)
			both.Add(-1)
			runs.Add(1)
			return nil
		}}
		a, b := node(db, "a", c, log, work), node(db, "b", c, log, work)
		due := func() {
			t.Helper()
			var all sync.WaitGroup
			for _, n := range []*job.Runner{a, b} {
				all.Go(func() {
					if err := n.Due(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		}
		due()
		if n := runs.Load(); n != 0 {
			t.Fatalf("got %d runs before the first is due", n)
		}
		c.pass(time.Minute)
		for i := range int64(3) {
			due()
			due()
			if n := runs.Load(); n != i+1 {
				t.Fatalf("after %d intervals: got %d runs", i, n)
			}
			for _, n := range []*job.Runner{a, b} {
				if got, want := gauges(t, n)["last_success_timestamp_seconds sweep"], float64(c.now().Unix()); got != want {
					t.Errorf("/metrics says %v, want %v", got, want)
				}
			}
			c.pass(time.Hour)
		}
		if log.String() != "" {
			t.Errorf("logged:\n%s", log)
		}
	})
}

// A node dies in the middle of a run: another one takes over when the lease has
// ended, and what the dead one says afterwards is not heard.
func TestANodeDies(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		c, log := newClock(), &lines{}
		started, hang, done := make(chan struct{}), make(chan struct{}), make(chan error)
		a := node(db, "a", c, log, job.Job{Name: "sweep", Every: time.Hour, Run: func(context.Context) error {
			close(started)
			<-hang
			return errors.New("woke up late")
		}})
		go func() { done <- a.Due(t.Context()) }()
		<-started
		var runs int
		b := node(db, "b", c, log, job.Job{Name: "sweep", Every: time.Hour, Run: func(context.Context) error { runs++; return nil }})
		due := func() {
			t.Helper()
			if err := b.Due(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		due()
		if err := b.RunNow(t.Context(), "sweep"); usher.ErrorCode(err) != usher.Conflict || runs != 0 {
			t.Errorf("got %v and %d runs while a runs it, want a conflict and none", err, runs)
		}
		c.pass(61 * time.Second)
		due()
		if runs != 1 {
			t.Fatalf("got %d runs after the lease, want 1", runs)
		}
		close(hang)
		if err := <-done; err == nil {
			t.Error("a's run did not fail")
		}
		due()
		c.pass(59 * time.Minute)
		due() // it would be due if a's failure had been recorded
		if g := gauges(t, b); runs != 1 || g["failures sweep"] != 0 {
			t.Errorf("got %d runs and %v, want b's success to stand", runs, g)
		}
	})
}

// A job fails, once by a panic, and is tried again: soon, then more and more
// rarely, never more rarely than its interval. The log has the first failure.
func TestBackOff(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		for _, perNode := range []bool{false, true} {
			c, log := newClock(), &lines{}
			fails := true
			runs := 0
			name := map[bool]string{true: "poll", false: "sweep"}[perNode]
			n := node(db, "a", c, log, job.Job{Name: name, Every: time.Minute, PerNode: perNode, Run: func(context.Context) error {
				runs++
				if runs == 2 {
					panic("a bug")
				}
				if fails {
					return errors.New("no room\x00 left")
				}
				return nil
			}})
			if n.Due(t.Context()) == nil {
				t.Fatal("Due hides the failure")
			}
			for i, pause := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute} {
				c.pass(pause - time.Microsecond)
				if err := n.Due(t.Context()); err != nil || runs != i+1 {
					t.Fatalf("after %v and failure %d: run %d, %v", pause, i+1, runs, err)
				}
				c.pass(time.Microsecond)
				if err := n.Due(t.Context()); err == nil || runs != i+2 {
					t.Fatalf("after %v and failure %d: run %d, %v", pause, i+1, runs, err)
				}
			}
			g := gauges(t, n)
			if g["failures "+name] != 6 || g["last_error_timestamp_seconds "+name] != float64(c.now().Unix()) ||
				g["last_success_timestamp_seconds "+name] != 0 {
				t.Errorf("/metrics says %v", g)
			}
			text := log.String()
			if strings.Count(text, "a job failed") != 1 || !strings.Contains(text, "job_test.go") {
				t.Errorf("the log must have the first failure and the panic's stack:\n%s", text)
			}
			fails = false
			c.pass(time.Minute)
			if err := n.Due(t.Context()); err != nil {
				t.Fatal(err)
			}
			g = gauges(t, n)
			if g["failures "+name] != 0 || g["last_success_timestamp_seconds "+name] == 0 || !strings.Contains(log.String(), "works again") {
				t.Errorf("/metrics says %v, the log:\n%s", g, log)
			}
		}
	})
}

// A server that stops in the middle of a run hands the work to another node at
// once: this is not a failure.
func TestStop(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		c, log := newClock(), &lines{}
		started := make(chan struct{})
		a := node(db, "a", c, log, job.Job{Name: "sweep", Every: time.Hour, Run: func(ctx context.Context) error {
			close(started)
			<-ctx.Done()
			return ctx.Err()
		}})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { a.Run(ctx); close(done) }()
		<-started
		stop()
		<-done
		runs := 0
		b := node(db, "b", c, log, job.Job{Name: "sweep", Every: time.Hour, Run: func(context.Context) error { runs++; return nil }})
		if err := b.Due(t.Context()); err != nil || runs != 1 {
			t.Errorf("got %d runs, %v, want that b runs it at once", runs, err)
		}
		if log.String() != "" || gauges(t, b)["failures sweep"] != 0 {
			t.Errorf("the stop counts as a failure:\n%s", log)
		}
	})
}

// Each node does a job without a lease, at its interval of real time.
func TestPerNode(t *testing.T) {
	t.Parallel()
	c, log := newClock(), &lines{}
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 2 {
		left := 3
		ran := make(chan struct{})
		all.Go(func() {
			node(nil, "", c, log, job.Job{Name: "poll", Every: time.Millisecond, PerNode: true, Run: func(context.Context) error {
				if left--; left == 0 {
					close(ran)
				}
				return nil
			}}).Run(ctx)
		})
		<-ran
	}
	stop()
	all.Wait()
	if err := node(nil, "", c, log).RunNow(t.Context(), "nothing"); usher.ErrorCode(err) != usher.NotFound {
		t.Errorf("got %v, want not_found", err)
	}
}

// A run by hand does not wait until the job is due.
func TestRunNow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *store.DB) {
		c, log := newClock(), &lines{}
		runs := 0
		run := func(context.Context) error { runs++; return nil }
		n := node(db, "a", c, log, job.Job{Name: "sweep", Every: time.Hour, First: time.Hour, Run: run})
		for want := 1; want <= 2; want++ {
			if err := n.RunNow(t.Context(), "sweep"); err != nil || runs != want {
				t.Fatalf("got run %d, %v, want %d", runs, err, want)
			}
		}
	})
}
