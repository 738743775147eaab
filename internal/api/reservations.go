package api

import (
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/usage"
)

type reserveIn struct {
	Customer    string         `json:"customer" minLength:"1" maxLength:"255"`
	Feature     string         `json:"feature" minLength:"1" maxLength:"255"`
	Amount      usher.Number   `json:"amount,omitempty" doc:"Default 1"`
	TTL         string         `json:"ttl,omitempty" doc:"How long it is held, such as 60s, 5m or 1h30m; from 1s to 168h, default 5m"`
	Key         string         `json:"key,omitempty" doc:"The idempotency key; here or in the Idempotency-Key header"`
	Member      string         `json:"member,omitempty" doc:"The member who uses it; it must be registered and active, or the answer is no"`
	Permission  string         `json:"permission,omitempty" doc:"What the member wants to do: all its legs must pass too"`
	Resource    *resourceIn    `json:"resource,omitempty" doc:"The resource that the member acts on"`
	Context     map[string]any `json:"context,omitempty" doc:"More values that conditions can read"`
	MinRevision int64          `json:"min_revision,omitempty"`
}

type settleIn struct {
	Amount usher.Number `json:"amount,omitempty" doc:"The amount actually used; default all that is held"`
}

// heldReservationDoc is a reservation by itself.
type heldReservationDoc struct {
	ID        string                 `json:"id"`
	Customer  string                 `json:"customer"`
	Feature   string                 `json:"feature"`
	Amount    int64                  `json:"amount" quantity:"true" doc:"The amount that is held"`
	State     usher.ReservationState `json:"state"`
	ExpiresAt time.Time              `json:"expires_at"`
	Settled   int64                  `json:"settled,omitempty" quantity:"true" doc:"The amount actually used, as long as the answer of the settlement is kept"`
	Late      bool                   `json:"late,omitempty" doc:"Whether it was settled after it had expired"`
}

var (
	theReservation = door.PathParam("id", "The reservation's id: rsv_…")
)

// reservationsRoutes registers holds, for work whose true cost is known only
// afterwards, such as the answer of a language model. A hold takes room as a
// consume does; settling it counts what was actually used, and a hold that
// nobody settles gives its room back at its end (S23).
func (a *api) reservationsRoutes(d *door.Door) {
	d.Handle(door.Route{Pattern: "POST /v1/reservations", Perm: auth.PermConsume,
		ID: "reserve", Keyed: true, Tag: "Use", Summary: "Hold an amount until it is settled, released or expires",
		Text: "201 with `reservation` if the amount is held. A decision that says no is a 200 and holds nothing. The same key and body again " +
			"answers as the first time, with `replayed`.",
		Status: http.StatusCreated, Also: http.StatusOK, Request: reserveIn{}, Response: usher.Decision{},
		Example: `{"customer":"acme","feature":"api_calls","amount":60,"ttl":"60s","key":"job-7"}`,
		Answer: `{"allowed":true,"reason":"within_limit","customer":"acme","feature":"api_calls","kind":"metered","limit":100000,
			"used":42,"reserved":60,"remaining":99898,"unlimited":false,"overage":0,"window":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"plan":"pro@1","reservation":{"id":"rsv_0pgp1uvhptbsbekugbj2fb9o20","amount":60,
			"expires_at":"2026-03-10T12:01:00Z"},"revision":17}`}, a.reserve)
	d.Handle(door.Route{Pattern: "GET /v1/reservations/{id}", Perm: auth.PermUsageRead,
		ID: "getReservation", Tag: "Use", Summary: "A reservation and its state", Response: heldReservationDoc{},
		Params: []*huma.Param{theReservation},
		Answer: `{"id":"rsv_0pgp1uvhptbsbekugbj2fb9o20","customer":"acme","feature":"api_calls","amount":60,"state":"open",
			"expires_at":"2026-03-10T12:01:00Z"}`}, a.getReservation)
	d.Handle(door.Route{Pattern: "POST /v1/reservations/{id}/settle", Perm: auth.PermConsume,
		ID: "settle", Tag: "Use", Summary: "End a reservation with the amount actually used",
		Text: "Never refused for lack of allowance: what exceeds the allowances is counted as excess. A settlement after the reservation " +
			"expired is counted too, with `late`. The same settlement again answers as the first time; another one is a 409.",
		Request: settleIn{}, Optional: true, Response: usher.Decision{}, Params: []*huma.Param{theReservation},
		Example: `{"amount":45}`,
		Answer: `{"allowed":true,"reason":"within_limit","customer":"acme","feature":"api_calls","kind":"metered","limit":100000,
			"used":87,"reserved":0,"remaining":99913,"unlimited":false,"overage":0,"window":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"plan":"pro@1","consumed":45,"deductions":[{"allowance":"plan:pro@1",
			"amount":45}],"reservation":{"id":"rsv_0pgp1uvhptbsbekugbj2fb9o20","amount":60,"expires_at":"2026-03-10T12:01:00Z",
			"state":"settled","settled":45},"revision":17}`}, a.settle)
	d.Handle(door.Route{Pattern: "POST /v1/reservations/{id}/release", Perm: auth.PermConsume,
		ID: "release", Tag: "Use", Summary: "End a reservation and give back what it held",
		Text:    "Again, or after it expired, it gives back nothing and says so; after a settlement it is a 409.",
		Request: struct{}{}, Optional: true, Response: usher.Decision{}, Params: []*huma.Param{theReservation},
		Example: `{}`,
		Answer: `{"allowed":true,"reason":"within_limit","customer":"acme","feature":"api_calls","kind":"metered","limit":100000,
			"used":42,"reserved":0,"remaining":99958,"unlimited":false,"overage":0,"window":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"plan":"pro@1","reservation":{"id":"rsv_0pgp1uvhptbsbekugbj2fb9o20","amount":60,
			"expires_at":"2026-03-10T12:01:00Z","state":"released"},"revision":17}`}, a.release)
}

// taken answers with a decision, or with the error instead of it.
func taken(w http.ResponseWriter, c *door.Call, s *door.Scratch, d *usher.Decision, err error) {
	if err != nil {
		c.Fail(w, err)
		return
	}
	s.Out = d.AppendJSON(s.Out[:0])
	c.Write(w, s.Out)
}

func (a *api) reserve(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	var op usage.ReserveOp
	var q decide.CheckQuery
	var d usher.Decision
	var err error
	if s.In, err = c.ReadAll(r, s.In); err == nil {
		op, q, err = readReserve(&s.R, s.In, c.Key)
		c.About = op.Customer
	}
	if err == nil {
		err = maySay(c, q.Said)
	}
	if err == nil {
		if d, err = a.Decide.Reserve(r.Context(), c.Env, a.Usage, q, op); err == nil {
			c.Decided(&d)
			if d.Reservation != nil {
				c.Status = http.StatusCreated
			}
		}
	}
	taken(w, c, s, &d, err)
}

func (a *api) settle(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	var amount usher.Number
	var d usher.Decision
	err := c.ReadOptional(r, s, "amount", func(name []byte) bool {
		if string(name) != "amount" {
			return false
		}
		amount = s.R.Number("body.amount")
		return true
	}, "id")
	if err == nil {
		d, err = a.Usage.Settle(r.Context(), c.Env, r.PathValue("id"), amount)
	}
	taken(w, c, s, &d, err)
}

func (a *api) release(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	var d usher.Decision
	err := c.ReadOptional(r, s, "", func([]byte) bool { return false }, "id")
	if err == nil {
		d, err = a.Usage.Release(r.Context(), c.Env, r.PathValue("id"))
	}
	taken(w, c, s, &d, err)
}

func (a *api) getReservation(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	s.R.Reset(nil)
	s.R.Path(r, "id")
	if len(s.R.Problems) > 0 {
		c.Fail(w, door.Invalids(s.R.Problems))
		return
	}
	h, err := a.Usage.Reservation(r.Context(), c.Env, r.PathValue("id"))
	if err != nil {
		c.Fail(w, err)
		return
	}
	out := struct {
		ID        string                 `json:"id"`
		Customer  string                 `json:"customer"`
		Feature   string                 `json:"feature"`
		Amount    rawJSON                `json:"amount"`
		State     usher.ReservationState `json:"state"`
		ExpiresAt time.Time              `json:"expires_at"`
		Settled   rawJSON                `json:"settled,omitempty"`
		Late      bool                   `json:"late,omitempty"`
	}{ID: h.ID, Customer: h.Customer, Feature: h.Feature, Amount: usher.AppendQuantity(nil, h.Amount, h.Precision), State: h.State,
		ExpiresAt: h.ExpiresAt.UTC(), Late: h.Late}
	if h.State == usher.ReservationSettled {
		out.Settled = usher.AppendQuantity(nil, h.Settled, h.Precision)
	}
	body, err := door.Marshal(out)
	if err != nil {
		c.Fail(w, err)
		return
	}
	c.Write(w, body)
}

// readReserve reads a reservation's body; key is the header's.
func readReserve(r *door.Reader, b []byte, key string) (op usage.ReserveOp, q decide.CheckQuery, err error) {
	r.Reset(b)
	inBody := false
	ok := r.Object("body", func(name []byte) {
		switch string(name) {
		case "customer":
			op.Customer = r.String("body.customer")
		case "feature":
			op.Feature = r.String("body.feature")
		case "amount":
			op.Amount = r.Number("body.amount")
		case "ttl":
			op.TTL = r.TTL("body.ttl", usage.MaxTTL)
		case "key":
			op.Key, inBody = r.MaybeEmpty("body.key"), true
		case "min_revision":
			op.MinRevision = r.Whole("body.min_revision")
		default:
			if !about(r, name, &q) {
				r.Unknown("body", name, "customer, feature, amount, ttl, key, member, permission, resource, context, min_revision")
			}
		}
	})
	if ok && len(r.Problems) == 0 {
		r.ID("body.customer", op.Customer)
		r.ID("body.feature", op.Feature)
		op.Key = r.Key(op.Key, inBody, key)
		asked(r, &q, &op.ConsumeOp)
	}
	return op, q, r.Err()
}
