package api

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/usher-sh/usher"
)

type statusDoc struct {
	Status string `json:"status" enum:"ok"`
}

var (
	healthzDoc = doc{ID: "healthz", Tag: "Server", Summary: "Whether the process is up", response: statusDoc{}}
	readyzDoc  = doc{ID: "readyz", Tag: "Server", Summary: "Whether requests can be answered", Text: "503 while they cannot.", response: statusDoc{}}
	metricsDoc = doc{ID: "metrics", Tag: "Server", Summary: "Metrics in the Prometheus text format", response: "", produces: "text/plain"}
	openapiDoc = doc{ID: "openapi", Tag: "Server", Summary: "This document", response: map[string]any{}}
)

func (a *API) healthz(w http.ResponseWriter, _ *http.Request, c *call) {
	a.write(w, c, []byte(`{"status":"ok"}`))
}

func (a *API) readyz(w http.ResponseWriter, r *http.Request, c *call) {
	if err := a.DB.Ping(r.Context()); err != nil {
		a.log.Warn("not ready", "error", err)
		a.fail(w, c, usher.Errorf(usher.Unavailable, "the database does not answer"))
		return
	}
	a.write(w, c, []byte(`{"status":"ok"}`))
}

func (a *API) metricsPage(w http.ResponseWriter, r *http.Request, c *call) {
	sw := &statusWriter{ResponseWriter: w}
	c.wrote = &sw.wrote
	promhttp.HandlerFor(a.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(sw, r)
	c.status = sw.status
}

func (a *API) openapiPage(w http.ResponseWriter, _ *http.Request, c *call) {
	b, err := a.openapi()
	if err != nil {
		a.fail(w, c, err)
		return
	}
	a.write(w, c, b)
}

// write answers with JSON, and with 200 unless c.status says otherwise.
func (a *API) write(w http.ResponseWriter, c *call, body []byte) {
	h := w.Header()
	h["Content-Type"] = jsonType
	if len(body) > 2000 { // net/http counts what fits its buffer by itself
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	if c.status != http.StatusOK {
		w.WriteHeader(c.status)
	}
	w.Write(body)
}
