package door

import (
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/usher-sh/usher"
)

type healthDoc struct {
	Status string `json:"status" enum:"ok"`
}

type readyDoc struct {
	Checks string `json:"checks" enum:"ok,down" doc:"Whether checks can be answered"`
	Takes  string `json:"takes" enum:"ok,down" doc:"Whether use can be written: consumes, reservations, seats, events"`
}

// notReadyDoc is a problem that also says what works.
type notReadyDoc struct {
	Problem
	Checks string `json:"checks,omitempty" enum:"ok,down" doc:"Whether checks can be answered"`
	Takes  string `json:"takes,omitempty" enum:"ok,down" doc:"Whether use can be written"`
}

// pages registers the routes of the server itself.
func (d *Door) pages() {
	d.Handle(Route{Pattern: "GET /healthz", ID: "healthz", Tag: "Server",
		Summary:  "Whether the process is up",
		Response: healthDoc{},
		Answer:   `{"status":"ok"}`}, d.healthz)
	d.Handle(Route{Pattern: "GET /readyz", ID: "readyz", Tag: "Server",
		Summary: "Whether checks can be answered, and whether anything can be taken",
		Text: "503 while checks cannot be answered. With ?takes it is 503 also while nothing can be taken: " +
			"for a load balancer whose callers mostly take.",
		Params: []*huma.Param{{Name: "takes", In: "query", AllowEmptyValue: true, Schema: &huma.Schema{Type: "string", Enum: []any{"", "true"}},
			Description: "503 also while nothing can be taken"}},
		Response: readyDoc{}, Errors: map[string]any{"application/problem+json": notReadyDoc{}},
		Answer: `{"checks":"ok","takes":"ok"}`}, d.readyz)
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
	query := r.URL.Query()
	if v := query.Get("takes"); v != "" && v != "true" {
		c.Fail(w, Invalid("query.takes", "must be empty or true"))
		return
	}
	var checks, takes error
	if d.Ready != nil {
		checks, takes = d.Ready(r.Context())
	}
	works := readyDoc{Checks: word(checks), Takes: word(takes)}
	switch {
	case checks != nil:
		c.notReady(w, checks, works)
	case takes != nil && query.Has("takes"):
		c.notReady(w, takes, works)
	default:
		if takes != nil {
			d.log.Warn("nothing can be taken", "error", takes)
		}
		c.Write(w, []byte(`{"checks":"`+works.Checks+`","takes":"`+works.Takes+`"}`))
	}
}

// word says whether something works.
func word(err error) string {
	if err != nil {
		return "down"
	}
	return "ok"
}

// notReady answers why the server is not ready, and what works: a 503, whatever the
// error is.
func (c *Call) notReady(w http.ResponseWriter, err error, works readyDoc) {
	if usher.ErrorCode(err) != usher.Unavailable && !c.gone() {
		err = fmt.Errorf("%w (%w)", usher.Errorf(usher.Unavailable, "the database does not answer"), err)
	}
	p := c.Problem(err)
	p.Send(w, c, problemType, notReadyDoc{*p, works.Checks, works.Takes})
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
