package server

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/usage"
)

// keepBatches is how long nodes keep what they tell each other about use.
const keepBatches = time.Hour

// jobs returns the jobs that belong to no room above store. Other rooms have a method
// Jobs; Open puts all of them together.
func jobs(db *store.DB, l *live.Live, now func() time.Time) []job.Job {
	hours := &auditHours{db: db, live: l, ended: map[usher.Environment]time.Time{}}
	all := []job.Job{
		{Name: "prune_usage_batches", Every: 10 * time.Minute, First: 10 * time.Minute, Run: func(ctx context.Context) error {
			return db.PruneUsageBatches(ctx, now().Add(-keepBatches)) // what every node has long read
		}},
		{Name: "audit_hours", Every: 10 * time.Minute, Run: hours.note},
	}
	if db.Dialect() == store.SQLite {
		all = append(all, job.Job{Name: "checkpoint", Every: 15 * time.Second, First: 15 * time.Second, PerNode: true, Run: db.Checkpoint})
	}
	return all
}

// auditHours notes the use of ended hours in the audit log.
type auditHours struct {
	db   *store.DB
	live *live.Live
	// ended is the time of each environment at the run before. Nobody writes use
	// of an hour any more that had ended then.
	ended map[usher.Environment]time.Time
}

// note adds the hours that had ended at the run before. The log has each hour
// once, even if two nodes do so at the same time.
func (a *auditHours) note(ctx context.Context) error {
	var all []error
	for _, env := range usher.Environments {
		now := a.live.Now(env)
		if until := a.ended[env]; !until.IsZero() {
			if _, err := a.db.AuditHours(ctx, env, until); err != nil {
				all = append(all, fmt.Errorf("%s: %w", env, err))
				continue
			}
		}
		a.ended[env] = now
	}
	return errors.Join(all...)
}

// gauges show how much waits to be written and how much is held in memory.
func gauges(u *usage.Usage, l *live.Live, db *store.DB, version string, now func() time.Time) []prometheus.Collector {
	all := []prometheus.Collector{prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "usher_usage_waiting", Help: "Requests that wait for the writer of usage.",
	}, func() float64 { return float64(u.Waiting()) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "usher_break_glass_reviews_pending",
		Help: "Emergencies (break-glass) that no operator has reviewed; -1 if the database does not answer.",
	}, func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n, err := db.PendingReviews(ctx)
		if err != nil {
			return -1
		}
		return float64(n)
	})}
	all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "usher_build_info", Help: "Always 1; the labels say what runs on which database.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version(), "database": string(db.Dialect())},
	}, func() float64 { return 1 }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "usher_poll_lag_seconds",
		Help: "Time since the database was last read for other nodes' changes, if it cannot be read now; otherwise 0.",
	}, func() float64 {
		if t := l.AsOf(); !t.IsZero() {
			return now().Sub(t).Seconds()
		}
		return 0
	}))
	for _, env := range usher.Environments {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "usher_cache_bytes", Help: "Memory that customers, members and resources hold, estimated.",
			ConstLabels: prometheus.Labels{"environment": string(env)},
		}, func() float64 { return float64(l.CacheBytes(env)) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "usher_customers_loaded", Help: "Customers held in memory.", ConstLabels: prometheus.Labels{"environment": string(env)},
		}, func() float64 { return float64(l.Customers(env)) }))
	}
	return all
}
