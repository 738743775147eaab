package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher/internal/auth"
)

// routes is the route table: one route, one row. A route without a permission
// needs no key; those about the session find out by themselves who is there.
func (a *API) routes() {
	handle(a, "GET /healthz", "", healthzDoc, a.healthz)
	handle(a, "GET /readyz", "", readyzDoc, a.readyz)
	handle(a, "GET /metrics", "", metricsDoc, a.metricsPage)
	handle(a, "GET /openapi.json", "", openapiDoc, a.openapiPage)

	handle(a, "POST /v1/session/owner", "", ownerDoc, a.makeOwner)
	handle(a, "POST /v1/session", "", loginDoc, a.login)
	handle(a, "GET /v1/session", "", getSessionDoc, a.getSession)
	handle(a, "DELETE /v1/session", "", logoutDoc, a.logout)
	handle(a, "POST /v1/session/step-up", "", stepUpDoc, a.stepUp)
	handle(a, "GET /v1/session/oidc/start", "", startOIDCDoc, a.startOIDC)
	handle(a, "GET /v1/session/oidc/callback", "", finishOIDCDoc, a.finishOIDC)
	register(a, "DELETE /v1/operators/{id}/sessions", auth.PermOperatorsWrite, endSessionsDoc, a.endSessions)

	handle(a, "POST /v1/check", auth.PermDecide, checkDoc, a.check)
	handle(a, "POST /v1/check/batch", auth.PermDecide, batchDoc, a.checkBatch)
	handle(a, "POST /v1/explain", auth.PermDecide, explainDoc, a.explain)
	handle(a, "GET /v1/customers/{id}/entitlements", auth.PermDecide, entitlementsDoc, a.entitlements)
	handle(a, "POST /v1/consume", auth.PermConsume, consumeDoc, a.consume)
	handle(a, "POST /v1/events", auth.PermIngest, eventsDoc, a.events)
	handle(a, "POST /v1/reservations", auth.PermConsume, reserveDoc, a.reserve)
	handle(a, "GET /v1/reservations/{id}", auth.PermUsageRead, getReservationDoc, a.getReservation)
	handle(a, "POST /v1/reservations/{id}/settle", auth.PermConsume, settleDoc, a.settle)
	handle(a, "POST /v1/reservations/{id}/release", auth.PermConsume, releaseDoc, a.release)
	handle(a, "PUT /v1/customers/{id}/seats/{feature}/{holder}", auth.PermSeat, putSeatDoc, a.putSeat)
	handle(a, "DELETE /v1/customers/{id}/seats/{feature}/{holder}", auth.PermSeat, deleteSeatDoc, a.deleteSeat)
	register(a, "GET /v1/customers/{id}/seats/{feature}", auth.PermSeatsRead, listSeatsDoc, a.listSeats)
	handle(a, "POST /v1/corrections", auth.PermUsageWrite, correctDoc, a.correct)
	handle(a, "GET /v1/usage", auth.PermUsageRead, usageDoc, a.usage)
	handle(a, "GET /v1/denials", auth.PermUsageRead, denialsDoc, a.denials)

	a.authzenRoutes()

	handle(a, "POST /ofrep/v1/evaluate/flags/{key}", auth.PermFlags, ofrepFlagDoc, a.ofrepFlag)
	handle(a, "POST /ofrep/v1/evaluate/flags", auth.PermFlags, ofrepBulkDoc, a.ofrepBulk)
	handleStream(a, "GET /ofrep/v1/events", auth.PermFlags, ofrepEventsDoc, a.ofrepEvents)

	a.scimRoutes()

	register(a, "PUT /v1/catalog", auth.PermCatalogWrite, putCatalogDoc, a.putCatalog)
	handle(a, "GET /v1/catalog", auth.PermCatalogRead, getCatalogDoc, a.getCatalog)
	register(a, "GET /v1/catalog/revisions", auth.PermCatalogRead, listCatalogRevisionsDoc, a.listCatalogRevisions)

	register(a, "PUT /v1/customers/{id}", auth.PermCustomersWrite, putCustomerDoc, a.putCustomer)
	register(a, "GET /v1/customers/{id}", auth.PermCustomersRead, getCustomerDoc, a.getCustomer)
	register(a, "GET /v1/customers", auth.PermCustomersRead, listCustomersDoc, a.listCustomers)
	register(a, "DELETE /v1/customers/{id}", auth.PermCustomersWrite, deleteCustomerDoc, a.deleteCustomer)
	register(a, "POST /v1/customers/{id}/subscriptions", auth.PermSubscriptionsWrite, subscribeDoc, a.subscribe)
	register(a, "GET /v1/customers/{id}/subscriptions", auth.PermCustomersRead, listSubscriptionsDoc, a.listSubscriptions)
	register(a, "GET /v1/subscriptions/{id}", auth.PermCustomersRead, getSubscriptionDoc, a.getSubscription)
	register(a, "PATCH /v1/subscriptions/{id}", auth.PermSubscriptionsWrite, patchDoc, a.patchSubscription)
	register(a, "POST /v1/subscriptions/{id}/preview", auth.PermCustomersRead, previewDoc, a.previewSubscription)
	register(a, "POST /v1/customers/{id}/overrides", auth.PermOverridesWrite, addOverrideDoc, a.addOverride)
	register(a, "GET /v1/customers/{id}/overrides", auth.PermCustomersRead, listOverridesDoc, a.listOverrides)
	register(a, "DELETE /v1/overrides/{id}", auth.PermOverridesWrite, deleteOverrideDoc, a.deleteOverride)
	register(a, "POST /v1/customers/{id}/grants", auth.PermGrantsWrite, addGrantDoc, a.addGrant)
	register(a, "GET /v1/customers/{id}/grants", auth.PermCustomersRead, listGrantsDoc, a.listGrants)
	register(a, "DELETE /v1/grants/{id}", auth.PermGrantsWrite, deleteGrantDoc, a.deleteGrant)

	a.directoryRoutes()

	register(a, "PUT /v1/clock", auth.PermClockWrite, putClockDoc, a.putClock)
	register(a, "GET /v1/clock", auth.PermClockRead, getClockDoc, a.getClock)

	register(a, "GET /v1/audit", auth.PermAuditRead, listAuditDoc, a.listAudit)
	register(a, "GET /v1/audit/checkpoint", auth.PermAuditRead, getCheckpointDoc, a.getCheckpoint)
	register(a, "GET /v1/audit/key", auth.PermAuditRead, getAuditKeyDoc, a.getAuditKey)

	register(a, "GET /v1/keys", auth.PermKeysRead, listKeysDoc, a.listKeys)
	register(a, "POST /v1/keys", auth.PermKeysWrite, createKeyDoc, a.createKey)
	register(a, "POST /v1/keys/{id}/rotate", auth.PermKeysWrite, rotateKeyDoc, a.rotateKey)
	register(a, "DELETE /v1/keys/{id}", auth.PermKeysRevoke, revokeKeyDoc, a.revokeKey)
	register(a, "GET /v1/operators", auth.PermOperatorsRead, listOperatorsDoc, a.listOperators)
	register(a, "POST /v1/operators", auth.PermOperatorsWrite, createOperatorDoc, a.createOperator)
	register(a, "GET /v1/operators/{id}", auth.PermOperatorsRead, getOperatorDoc, a.getOperator)
	register(a, "PATCH /v1/operators/{id}", auth.PermOperatorsWrite, patchOperatorDoc, a.patchOperator)
	register(a, "DELETE /v1/operators/{id}", auth.PermOperatorsWrite, deleteOperatorDoc, a.deleteOperator)
	register(a, "PUT /v1/operators/{id}/roles/{role}", auth.PermOperatorsWrite, putRoleDoc, a.putRole)
	register(a, "DELETE /v1/operators/{id}/roles/{role}", auth.PermOperatorsWrite, deleteRoleDoc, a.deleteRole)
	register(a, "POST /v1/elevations", auth.PermElevationRequest, elevateDoc, a.elevate)
	register(a, "GET /v1/elevations", auth.PermElevationRequest, listElevationsDoc, a.listElevations)
	register(a, "POST /v1/elevations/{id}/approve", auth.PermElevationApprove, approveElevationDoc, a.approveElevation)
	register(a, "POST /v1/elevations/{id}/deny", auth.PermElevationApprove, denyElevationDoc, a.denyElevation)
	register(a, "POST /v1/elevations/{id}/review", auth.PermElevationApprove, reviewElevationDoc, a.reviewElevation)
}

// route is a row of the table.
type route struct {
	Pattern string // "POST /v1/check"
	Perm    auth.Permission
	doc     doc

	accept  []string // content types of the body; nil: there is none
	maxBody int64
	raw     bool // the body is the handler's to read; else it is strict JSON
}

// doc is what the OpenAPI document says about a route.
type doc struct {
	ID      string // operationId: "putCustomer"
	Summary string // one line
	Text    string // more, in Markdown
	Tag     string
	Status  int      // of success; 0 is 200
	Also    int      // another status with the same body; 0 is none
	MaxBody int64    // bytes; 0 is 1 MiB
	Accept  []string // content types of the body; nil is application/json
	// Raw leaves the body as it is: the input has RawBody []byte.
	Raw bool
	// NoBody is for a PUT whose path says it all.
	NoBody bool

	params   []*huma.Param // of a hand-written route: what huma reads off a type
	request  any           // a value of the body's type, or nil
	optional bool          // the body may be left out
	response any
	errors   any    // a value of the errors' type, sent as produces; nil is problem
	produces string // content type of the response; "" is application/json
}

// maxBody is the largest body of a route that names no other.
const maxBody = 1 << 20

func (a *API) row(pattern string, perm auth.Permission, d doc) *route {
	rt := &route{Pattern: pattern, Perm: perm, doc: d, accept: d.Accept, maxBody: d.MaxBody, raw: d.Raw}
	if rt.maxBody == 0 {
		rt.maxBody = maxBody
	}
	if method, _, _ := strings.Cut(pattern, " "); rt.accept == nil && !d.NoBody && method != http.MethodGet && method != http.MethodDelete {
		rt.accept = jsonType
	}
	a.table = append(a.table, rt)
	return rt
}

// register adds a management route: a typed function whose input and output say
// what huma reads, checks, writes and documents. The body has been checked to be
// strict JSON of the right type and size, and the call to be permitted.
func register[In, Out any](a *API, pattern string, perm auth.Permission, d doc, h func(context.Context, *call, *In) (*Out, error)) {
	rt := a.row(pattern, perm, d)
	a.pending = rt
	op := a.operation(rt)
	op.MaxBodyBytes = -1 // a.admit has bounded it
	huma.Register(a.huma, *op, func(ctx context.Context, in *In) (*Out, error) {
		c := callOf(ctx)
		out, err := h(ctx, c, in)
		if err != nil {
			return nil, a.problem(c, err)
		}
		return out, nil
	})
	a.pending = nil
}

// handle adds a hand-written route, which reads and writes by itself.
func handle(a *API, pattern string, perm auth.Permission, d doc, h func(http.ResponseWriter, *http.Request, *call)) {
	rt := a.row(pattern, perm, d)
	op := a.operation(rt)
	a.describe(op, rt)
	a.huma.OpenAPI().AddOperation(op)
	wrapped := a.wrap(rt, func(w http.ResponseWriter, r *http.Request, c *call) {
		if rt.Perm != "" && !a.identify(w, r, c) {
			return
		}
		h(w, r, c)
	})
	a.on(pattern, wrapped)
	if path, ok := strings.CutPrefix(pattern, "POST "); ok && !strings.Contains(path, "{") {
		a.direct[path] = wrapped
	}
}

// operation is what both kinds of routes have in the OpenAPI document.
func (a *API) operation(rt *route) *huma.Operation {
	method, path, _ := strings.Cut(rt.Pattern, " ")
	op := &huma.Operation{
		Method: method, Path: path, OperationID: rt.doc.ID, Summary: rt.doc.Summary, Description: rt.doc.Text,
		DefaultStatus: rt.doc.Status,
	}
	if rt.doc.Tag != "" {
		op.Tags = []string{rt.doc.Tag}
	}
	if rt.Perm != "" {
		op.Security = []map[string][]string{{"key": {}}}
		if rt.Perm != auth.PermSCIM { // whose key says which customer
			op.Security = append(op.Security, map[string][]string{"session": {}})
		}
		op.Extensions = map[string]any{"x-permission": string(rt.Perm)}
	} else if takesSession[rt.Pattern] {
		op.Security = []map[string][]string{{"session": {}}}
	}
	return op
}
