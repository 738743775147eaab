// Package api is the door of /v1: one small handler per route, beside the row
// that registers it. It decides nothing: it asks the rooms below and writes
// their answers.
package api

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/usage"
)

// Config is what the API needs. Every field must be set.
type Config struct {
	Live      *live.Live
	Decide    *decide.Service
	Usage     *usage.Usage
	Auth      *auth.Service
	Customers *customers.Service
	Catalog   *catalog.Service
	Directory *directory.Service
}

// api is the handlers of /v1. It is safe for concurrent use.
type api struct {
	Config
	received *prometheus.CounterVec // events, by what became of them
}

// Register adds the routes of /v1 to a door.
func Register(d *door.Door, c Config) {
	a := &api{Config: c, received: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "usher_events_total",
		Help: "Events received, by what became of them: accepted (of these, unmatched: no meter reads the type), duplicate, " +
			"or the code of the rejection."}, []string{"result"})}
	d.Collect(a.received)
	a.sessionRoutes(d)
	a.checkRoutes(d)
	a.consumeRoutes(d)
	a.eventsRoutes(d)
	a.reservationsRoutes(d)
	a.seatsRoutes(d)
	a.correctionsRoutes(d)
	a.usageRoutes(d)
	a.searchRoutes(d)
	a.catalogRoutes(d)
	a.customersRoutes(d)
	a.subscriptionsRoutes(d)
	a.overridesRoutes(d)
	a.grantsRoutes(d)
	a.membersRoutes(d)
	a.groupsRoutes(d)
	a.rolesRoutes(d)
	a.assignmentsRoutes(d)
	a.resourcesRoutes(d)
	a.directoryRoutes(d)
	a.clockRoutes(d)
	a.auditRoutes(d)
	a.keysRoutes(d)
	a.operatorsRoutes(d)
}
