package door

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/usher-sh/usher"
)

type healthDoc struct {
	Status string `json:"status" enum:"ok"`
}

// pages are the routes of the server itself.
func (d *Door) pages() {
	d.Handle(Route{Pattern: "GET /healthz", ID: "healthz", Tag: "Server",
		Summary:  "Whether the process is up",
		Response: healthDoc{},
		Answer:   `{"status":"ok"}`}, d.healthz)
	d.Handle(Route{Pattern: "GET /readyz", ID: "readyz", Tag: "Server",
		Summary:  "Whether requests can be answered",
		Text:     "503 while they cannot.",
		Response: healthDoc{},
		Answer:   `{"status":"ok"}`}, d.readyz)
	d.Handle(Route{Pattern: "GET /metrics", ID: "metrics", Tag: "Server",
		Summary:  "Metrics in the Prometheus text format",
		Response: "", Produces: "text/plain"}, d.metricsPage)
	d.Handle(Route{Pattern: "GET /openapi.json", ID: "openapi", Tag: "Server",
		Summary:  "This document",
		Response: map[string]any{},
		Answer:   `{"openapi":"3.1.0"}`}, d.openapiPage)
}

func (d *Door) healthz(w http.ResponseWriter, _ *http.Request, c *Call) {
	c.Write(w, []byte(`{"status":"ok"}`))
}

func (d *Door) readyz(w http.ResponseWriter, r *http.Request, c *Call) {
	if d.Ready != nil {
		if err := d.Ready(r.Context()); err != nil {
			if usher.ErrorCode(err) != usher.Unavailable && !c.gone() {
				err = fmt.Errorf("%w (%w)", usher.Errorf(usher.Unavailable, "the database does not answer"), err)
			}
			c.Fail(w, err)
			return
		}
	}
	c.Write(w, []byte(`{"status":"ok"}`))
}

func (d *Door) metricsPage(w http.ResponseWriter, r *http.Request, c *Call) {
	sw := &statusWriter{ResponseWriter: w}
	c.Wrote = &sw.wrote
	promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(sw, r)
	c.Status = sw.status
}

func (d *Door) openapiPage(w http.ResponseWriter, _ *http.Request, c *Call) {
	b, err := d.openapi()
	if err != nil {
		c.Fail(w, err)
		return
	}
	c.Write(w, b)
}
