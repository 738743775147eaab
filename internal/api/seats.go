package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/usage"
)

type seatIn struct {
	State     string     `json:"state,omitempty" enum:"active,pending" doc:"Default active. A pending holder is invited, and counts"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"When the seat ends by itself; absent: it does not"`
	TTL       string     `json:"ttl,omitempty" doc:"The same as a span from now, such as 90s, 30m or 24h, up to 8760h: a floating seat, which its holder keeps by asking again"`
}

type seatsIn struct {
	ID      string `path:"id" doc:"The customer"`
	Feature string `path:"feature" doc:"Of kind seats"`
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor  string `query:"cursor" doc:"The next_cursor of the page before"`
}

var (
	seatParams = []*huma.Param{door.PathParam("id", "The customer"), door.PathParam("feature", "Of kind seats"),
		door.PathParam("holder", "The holder's id, percent-encoded if needed")}
)

// maxSeatTTL bounds a seat's ttl. What is longer has a date: expires_at.
const maxSeatTTL = 365 * 24 * time.Hour

// seatsRoutes registers who holds a seat. A seat is taken by a holder, which is
// any id of the caller's: a person, a device, a session. A seat with an end is
// a floating one, kept by asking again; a pending one is an invitation, and
// counts. Nobody is evicted when a plan shrinks: holders stay and the newest
// are shown as beyond the limit (S19).
func (a *api) seatsRoutes(d *door.Door) {
	d.Handle(door.Route{Pattern: "PUT /v1/customers/{id}/seats/{feature}/{holder}", Perm: auth.PermSeat,
		ID: "putSeat", Tag: "Seats", Summary: "Give a holder a seat, or change the seat it has",
		Text:    "The same call again changes nothing. A refused seat is a 200 with `allowed: false`. No holder ever loses a seat by this.",
		Request: seatIn{}, Optional: true, Response: usher.Decision{}, Params: seatParams,
		Example: `{"state":"active"}`,
		Answer: `{"allowed":true,"reason":"within_limit","customer":"acme","feature":"members","kind":"seats","limit":10,
			"used":1,"reserved":0,"remaining":9,"unlimited":false,"overage":0,"plan":"pro@1","seat":{"holder":"ann",
			"state":"active","since":"2026-03-10T12:00:00Z"},"revision":17}`}, a.putSeat)
	d.Handle(door.Route{Pattern: "DELETE /v1/customers/{id}/seats/{feature}/{holder}", Perm: auth.PermSeat,
		ID: "deleteSeat", Tag: "Seats", Summary: "Free a seat at once",
		Text: "204 even if the holder has none.", Status: http.StatusNoContent, Params: seatParams}, a.deleteSeat)
	door.Register(d, door.Route{Pattern: "GET /v1/customers/{id}/seats/{feature}", Perm: auth.PermSeatsRead,
		ID: "listSeats", Tag: "Seats", Summary: "The holders of seats, oldest first",
		Answer: `{"data":[{"holder":"ann","state":"active","since":"2026-03-10T12:00:00Z"},{"holder":"bob","state":"pending",
			"since":"2026-03-10T12:00:00Z","expires_at":"2026-03-17T12:00:00Z"}]}`}, a.listSeats)
}

func (a *api) putSeat(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	op := usage.SeatOp{Customer: r.PathValue("id"), Feature: r.PathValue("feature"), Holder: r.PathValue("holder")}
	var d usher.Decision
	err := c.ReadOptional(r, s, "state, expires_at, ttl", func(name []byte) bool {
		switch string(name) {
		case "state":
			wrong := len(s.R.Problems)
			switch state := s.R.MaybeEmpty("body.state"); {
			case len(s.R.Problems) > wrong || state == string(usher.SeatActive):
			case state == string(usher.SeatPending):
				op.Pending = true
			default:
				s.R.Note("body.state", "must be active or pending, got %s", door.Clip(state))
			}
		case "expires_at":
			op.ExpiresAt = s.R.Time("body.expires_at")
		case "ttl":
			op.TTL = s.R.TTL("body.ttl", maxSeatTTL)
		default:
			return false
		}
		return true
	}, "id", "feature", "holder")
	if err == nil && op.TTL != 0 && !op.ExpiresAt.IsZero() {
		err = door.Invalid("body.ttl", "must not be sent with expires_at: one of them says when the seat ends")
	}
	if err == nil {
		if d, err = a.Usage.PutSeat(r.Context(), c.Env, op); err == nil {
			c.Decided(&d)
		}
	}
	taken(w, c, s, &d, err)
}

func (a *api) deleteSeat(w http.ResponseWriter, r *http.Request, c *door.Call) {
	var p door.Reader
	p.Path(r, "id", "feature", "holder")
	if len(p.Problems) > 0 {
		c.Fail(w, door.Invalids(p.Problems))
		return
	}
	d, err := a.Usage.DeleteSeat(r.Context(), c.Env, r.PathValue("id"), r.PathValue("feature"), r.PathValue("holder"))
	switch {
	case err != nil:
	case d.Reason == usher.UnknownCustomer:
		err = usher.Errorf(usher.NotFound, "no customer %q", d.Customer)
	case d.Reason == usher.UnknownFeature:
		err = usher.Errorf(usher.NotFound, "no feature %q", d.Feature)
	}
	if err != nil {
		c.Fail(w, err)
		return
	}
	c.Status = http.StatusNoContent
	w.WriteHeader(c.Status)
}

func (a *api) listSeats(ctx context.Context, c *door.Call, in *seatsIn) (*door.ListOut[usher.Seat], error) {
	after, err := door.Cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	list, next, err := a.Usage.Seats(ctx, c.Env, in.ID, in.Feature, after, in.Limit)
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Since, list[i].ExpiresAt = list[i].Since.UTC(), list[i].ExpiresAt.UTC()
	}
	return door.Listed(list, next), nil
}
