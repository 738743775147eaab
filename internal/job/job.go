// Package job runs named background work at an interval. Work that concerns the
// whole database holds a lease, so that one node at a time does it; work that
// each node needs for itself holds none. It refuses to know what the work does:
// rooms declare their jobs and one Runner runs them all.
package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// Job is one piece of background work.
type Job struct {
	// Name says what it does, in lower-case letters and "_". It names the lease
	// and the label in /metrics.
	Name string
	// Every is the time from the start of one run to the start of the next.
	Every time.Duration
	// First is the time from the first start of a server to the first run. The
	// database remembers when a job with a lease is due, so later starts of
	// servers do not count.
	First time.Duration
	// PerNode is set if each node does the work for itself, without a lease.
	PerNode bool
	// Run does the work once. It must be right to stop it anywhere and to begin
	// again: a node may die, and after a long pause two may run it at once.
	Run func(ctx context.Context) error
}

// Config says where leases are kept.
type Config struct {
	DB   *store.DB // may be nil if all jobs are PerNode
	Node string    // this process's name among the nodes of the database
	// Now is real time; nil is time.Now.
	Now func() time.Time
	// Log takes failures; nil is slog.Default().
	Log *slog.Logger
}

const (
	// leaseFor is how long another node waits when the one that runs a job dies.
	// A run that takes longer renews its lease in time.
	leaseFor   = time.Minute
	renewEvery = leaseFor / 3
	// lookEvery bounds how long a node does not look whether a job is due.
	lookEvery = time.Minute
	// backOff is the wait after a first failure. It doubles with each failure in a
	// row, up to the job's own interval.
	backOff = 10 * time.Second
	// endWithin bounds how long the end of a run may take to be recorded.
	endWithin = 5 * time.Second
	// maxError bounds the stored text of a failure, in bytes.
	maxError = 1000
)

// Runner runs jobs. Its methods are safe for concurrent use. It is also a
// collector for /metrics.
type Runner struct {
	cfg  Config
	jobs []*state
}

// state is a job and how it went, as this node knows it.
type state struct {
	Job
	running sync.Mutex // one run at a time in this process
	mu      sync.Mutex
	last    store.Job
}

// New makes a runner of jobs, which must have different names. Run starts them.
func New(cfg Config, jobs ...Job) *Runner {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	r := &Runner{cfg: cfg}
	for _, j := range jobs {
		if j.Name == "" || j.Every <= 0 || j.Run == nil || r.find(j.Name) != nil {
			panic(fmt.Sprintf("job: %q needs a name of its own, an interval and work", j.Name))
		}
		r.jobs = append(r.jobs, &state{Job: j, last: store.Job{Name: j.Name, Node: cfg.Node, DueAt: cfg.Now().Add(j.First)}})
	}
	return r
}

func (r *Runner) find(name string) *state {
	if i := slices.IndexFunc(r.jobs, func(j *state) bool { return j.Name == name }); i >= 0 {
		return r.jobs[i]
	}
	return nil
}

// Run runs the jobs whenever they are due, until ctx ends, and returns when all
// have stopped.
func (r *Runner) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, j := range r.jobs {
		all.Go(func() {
			wait := j.First
			if !j.PerNode {
				wait = min(wait, lookEvery)
			}
			for {
				t := time.NewTimer(wait)
				select {
				case <-ctx.Done():
					t.Stop()
					return
				case <-t.C:
				}
				began := time.Now()
				due, _ := r.do(ctx, j, j.PerNode) // do has logged the error
				if j.PerNode {                    // real time decides, also for a server whose clock a test moves
					wait = max(r.pause(j)-time.Since(began), 0)
				} else {
					wait = min(max(due.Sub(r.cfg.Now()), 0), lookEvery)
				}
			}
		})
	}
	all.Wait()
}

// Due runs each job that is due by now, once, in the order in which they were
// given to New. It returns the errors of those that failed.
func (r *Runner) Due(ctx context.Context) error {
	var all []error
	for _, j := range r.jobs {
		_, err := r.do(ctx, j, false)
		all = append(all, err)
	}
	return errors.Join(all...)
}

// RunNow runs a job once, due or not. NotFound if there is no job of that name;
// Conflict if another node runs it now.
func (r *Runner) RunNow(ctx context.Context, name string) error {
	j := r.find(name)
	if j == nil {
		return usher.Errorf(usher.NotFound, "no job %q", name)
	}
	_, err := r.do(ctx, j, true)
	return err
}

// do runs a job if it is due, or at once if it must, and returns when it is due
// again.
func (r *Runner) do(ctx context.Context, j *state, must bool) (due time.Time, err error) {
	j.running.Lock()
	defer j.running.Unlock()
	now := r.cfg.Now()
	last := j.status()
	if j.PerNode {
		if !must && now.Before(last.DueAt) {
			return last.DueAt, nil
		}
		err = r.work(ctx, j)
		return r.ended(ctx, j, last, now, err).DueAt, err
	}
	until := now
	if must {
		until = now.AddDate(1000, 0, 0)
	}
	taken, mine, err := r.cfg.DB.TakeJob(ctx, j.Name, r.cfg.Node, now.Add(j.First), until, now, now.Add(leaseFor))
	if err != nil {
		return r.ended(ctx, j, last, now, err).DueAt, err
	}
	j.note(taken)
	if !mine {
		due = taken.DueAt
		if taken.LeaseUntil.After(due) { // another node runs it, and may die
			due = taken.LeaseUntil
		}
		if must {
			err = usher.Errorf(usher.Conflict, "the job %q runs on another node", j.Name)
		}
		return due, err
	}
	leased, end := context.WithCancelCause(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() { r.renew(leased, end, j.Name) })
	err = r.work(leased, j)
	if err != nil && context.Cause(leased) == errLost {
		err = errLost
	}
	end(nil)
	renewing.Wait()
	done := r.ended(ctx, j, taken, now, err)
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
	defer cancel()
	if err := r.cfg.DB.EndJob(within, done); err != nil { // the lease ends by itself
		r.cfg.Log.Debug("the end of a job was not recorded", "job", j.Name, "error", err)
	}
	return done.DueAt, err
}

// errLost ends a run whose lease another node has taken.
var errLost = errors.New("another node has the lease: this run took too long to renew it")

// renew keeps the lease of a job until ctx ends. It ends the run if another node
// has taken the lease.
func (r *Runner) renew(ctx context.Context, end context.CancelCauseFunc, name string) {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		held, err := r.cfg.DB.RenewJob(ctx, name, r.cfg.Node, r.cfg.Now().Add(leaseFor))
		if err == nil && !held {
			end(errLost)
			return
		}
	}
}

// work runs a job's function. A panic in it is an error, logged with its stack.
func (r *Runner) work(ctx context.Context, j *state) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.cfg.Log.Error("a job panicked", "job", j.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return j.Run(ctx)
}

// ended notes how a run that began at a time went, and returns the job as it is
// to be recorded. A run that the end of the server stopped did not fail.
func (r *Runner) ended(ctx context.Context, j *state, last store.Job, began time.Time, err error) store.Job {
	now := r.cfg.Now()
	last.LeaseUntil = time.Time{}
	switch {
	case err == nil:
		if last.Failures > 0 {
			r.cfg.Log.Info("a job works again", "job", j.Name, "failures", last.Failures)
		}
		last.SucceededAt, last.Failures, last.DueAt = now, 0, began.Add(j.Every)
	case ctx.Err() != nil:
	default:
		level := slog.LevelDebug // the first failure in a row has been logged
		if last.Failures == 0 {
			level = slog.LevelError
		}
		r.cfg.Log.Log(ctx, level, "a job failed; it is tried again", "job", j.Name, "error", err)
		last.FailedAt, last.Error = now, cut(err.Error())
		last.Failures++
		last.DueAt = now.Add(wait(j.Every, last.Failures))
	}
	j.note(last)
	return last
}

// pause is how long a job of this node waits from the start of a run.
func (r *Runner) pause(j *state) time.Duration {
	if n := j.status().Failures; n > 0 {
		return wait(j.Every, n)
	}
	return j.Every
}

// wait is the back-off after a number of failures in a row.
func wait(every time.Duration, failures int64) time.Duration {
	return min(every, backOff<<min(failures-1, 30))
}

// cut makes an error a text that every database stores.
func cut(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s[:min(len(s), maxError)], ""), "\x00", "")
}

func (j *state) status() store.Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

func (j *state) note(last store.Job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last = last
}

// What /metrics shows of each job. A node shows what it read of a job with a
// lease when it last looked, so within a minute or the job's interval.
var (
	byJob         = []string{"job"}
	succeededDesc = prometheus.NewDesc("usher_job_last_success_timestamp_seconds", "When the job last succeeded; 0 is never.", byJob, nil)
	failedDesc    = prometheus.NewDesc("usher_job_last_error_timestamp_seconds", "When the job last failed; 0 is never.", byJob, nil)
	failuresDesc  = prometheus.NewDesc("usher_job_failures", "Failures of the job since it last succeeded.", byJob, nil)
)

// Describe is part of prometheus.Collector.
func (r *Runner) Describe(ch chan<- *prometheus.Desc) {
	ch <- succeededDesc
	ch <- failedDesc
	ch <- failuresDesc
}

// Collect is part of prometheus.Collector.
func (r *Runner) Collect(ch chan<- prometheus.Metric) {
	for _, j := range r.jobs {
		s := j.status()
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, j.Name)
		}
		gauge(succeededDesc, seconds(s.SucceededAt))
		gauge(failedDesc, seconds(s.FailedAt))
		gauge(failuresDesc, float64(s.Failures))
	}
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}
