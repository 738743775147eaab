package door

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/usher-sh/usher"
)

// metrics are the metrics of the doors in /metrics.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	decisions map[usher.Reason]prometheus.Counter
}

func newMetrics(more []prometheus.Collector) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usher_http_requests_total",
			Help: "Requests answered, by route and HTTP status.",
		}, []string{"route", "code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "usher_http_request_duration_seconds",
			Help:    "Time from the request's header to the end of its answer.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route"}),
		decisions: make(map[usher.Reason]prometheus.Counter, len(usher.Reasons)),
	}
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "usher_decisions_total",
		Help: "Decisions answered, by reason.",
	}, []string{"reason"})
	for _, r := range usher.Reasons {
		m.decisions[r] = decisions.WithLabelValues(string(r))
	}
	m.registry.MustRegister(m.requests, m.latency, decisions, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(more...)
	return m
}

func (m *metrics) decided(d *usher.Decision) {
	if c := m.decisions[d.Reason]; c != nil {
		c.Inc()
	}
}

// routeMetrics are the metrics of one route. The counters of common statuses are looked
// up once, because every request needs one; and not before the first request, because
// a hundred routes that nobody calls would make /metrics 200 kB.
type routeMetrics struct {
	m       *metrics
	pattern string
	first   sync.Once
	ok      prometheus.Counter
	latency prometheus.Observer
	others  sync.Map // status → prometheus.Counter
}

func (m *metrics) route(pattern string) *routeMetrics {
	return &routeMetrics{m: m, pattern: pattern}
}

func (r *routeMetrics) done(status int, took time.Duration) {
	r.first.Do(func() {
		r.ok, r.latency = r.m.requests.WithLabelValues(r.pattern, "200"), r.m.latency.WithLabelValues(r.pattern)
	})
	r.latency.Observe(took.Seconds())
	if status == 200 {
		r.ok.Inc()
		return
	}
	c, ok := r.others.Load(status)
	if !ok {
		c, _ = r.others.LoadOrStore(status, r.m.requests.WithLabelValues(r.pattern, strconv.Itoa(status)))
	}
	c.(prometheus.Counter).Inc()
}
