package api

import (
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/usage"
)

type reserveIn struct {
	Customer    string         `json:"customer" minLength:"1" maxLength:"255"`
	Feature     string         `json:"feature" minLength:"1" maxLength:"255"`
	Amount      usher.Number   `json:"amount,omitempty" doc:"Default 1"`
	TTL         string         `json:"ttl,omitempty" doc:"How long it is held, such as 60s, 5m or 1h30m; from 1s to 168h, default 5m"`
	Key         string         `json:"key,omitempty" doc:"The idempotency key; here or in the Idempotency-Key header"`
	Member      string         `json:"member,omitempty" doc:"Who of the customer uses it: registered and active, or the answer is no"`
	Permission  string         `json:"permission,omitempty" doc:"What the member wants to do: all its legs must pass too"`
	Resource    *resourceIn    `json:"resource,omitempty" doc:"What it is done to"`
	Context     map[string]any `json:"context,omitempty" doc:"What else conditions read"`
	MinRevision int64          `json:"min_revision,omitempty"`
}

type settleIn struct {
	Amount usher.Number `json:"amount,omitempty" doc:"The true amount; default what is held"`
}

// heldDoc is a reservation by itself.
type heldDoc struct {
	ID        string       `json:"id"`
	Customer  string       `json:"customer"`
	Feature   string       `json:"feature"`
	Amount    usher.Number `json:"amount" doc:"Held"`
	State     string       `json:"state" enum:"open,settled,released,expired"`
	ExpiresAt time.Time    `json:"expires_at"`
	Settled   usher.Number `json:"settled,omitempty" doc:"The true amount, as long as the settlement's answer is kept"`
	Late      bool         `json:"late,omitempty" doc:"Settled after it had expired"`
}

var (
	reserveDoc = doc{ID: "reserve", Tag: "Use", Summary: "Hold an amount until it is settled, released or expires",
		Text:   "201 with `reservation` where it is held. A decision that says no is a 200 and holds nothing. The same key and body again answers as the first time, with `replayed`.",
		Status: http.StatusCreated, Also: http.StatusOK, request: reserveIn{}, response: decisionDoc{}}
	getReservationDoc = doc{ID: "getReservation", Tag: "Use", Summary: "A reservation as it stands", response: heldDoc{}, params: []*huma.Param{theReservation}}
	settleDoc         = doc{ID: "settle", Tag: "Use", Summary: "End a reservation with the true amount",
		Text:    "Never refused for want of allowance: what nothing holds is counted as excess, and what comes after the reservation expired is counted all the same, with `late`. The same settlement again answers as the first time; another one is a 409.",
		request: settleIn{}, optional: true, response: decisionDoc{}, params: []*huma.Param{theReservation}}
	releaseDoc = doc{ID: "release", Tag: "Use", Summary: "End a reservation and give back what it held",
		Text:    "Again, or after it expired, it gives back nothing and says so; after a settlement it is a 409.",
		request: struct{}{}, optional: true, response: decisionDoc{}, params: []*huma.Param{theReservation}}

	theReservation = pathParam("id", "The reservation's id: rsv_…")
)

func pathParam(name, text string) *huma.Param {
	return &huma.Param{Name: name, In: "path", Required: true, Description: text, Schema: &huma.Schema{Type: huma.TypeString}}
}

// taken answers with a decision, or with the error instead of it.
func (a *API) taken(w http.ResponseWriter, c *call, s *scratch, d *usher.Decision, err error) {
	if err != nil {
		a.fail(w, c, err)
		return
	}
	s.out = d.AppendJSON(s.out[:0])
	a.write(w, c, s.out)
}

func (a *API) reserve(w http.ResponseWriter, r *http.Request, c *call) {
	s := a.borrow()
	defer a.giveBack(s)
	var op usage.ReserveOp
	var q decide.CheckQuery
	var d usher.Decision
	var err error
	if s.in, err = a.readAll(r, c.route, s.in); err == nil {
		op, q, err = readReserve(&s.r, s.in, c.Key)
	}
	if err == nil {
		take := func() (usher.Decision, error) { return a.Usage.Reserve(r.Context(), c.Env, op) }
		if d, err = a.takeAs(r.Context(), c, q, op.Key, take); err == nil {
			a.metrics.decided(&d)
			if d.Reservation != nil {
				c.status = http.StatusCreated
			}
		}
	}
	a.taken(w, c, s, &d, err)
}

func (a *API) settle(w http.ResponseWriter, r *http.Request, c *call) {
	s := a.borrow()
	defer a.giveBack(s)
	var amount usher.Number
	var d usher.Decision
	err := a.readOptional(r, c, s, "amount", func(name []byte) bool {
		if string(name) != "amount" {
			return false
		}
		amount = s.r.Number("body.amount")
		return true
	}, "id")
	if err == nil {
		d, err = a.Usage.Settle(r.Context(), c.Env, r.PathValue("id"), amount)
	}
	a.taken(w, c, s, &d, err)
}

func (a *API) release(w http.ResponseWriter, r *http.Request, c *call) {
	s := a.borrow()
	defer a.giveBack(s)
	var d usher.Decision
	err := a.readOptional(r, c, s, "", func([]byte) bool { return false }, "id")
	if err == nil {
		d, err = a.Usage.Release(r.Context(), c.Env, r.PathValue("id"))
	}
	a.taken(w, c, s, &d, err)
}

func (a *API) getReservation(w http.ResponseWriter, r *http.Request, c *call) {
	s := a.borrow()
	defer a.giveBack(s)
	s.r.Reset(nil)
	s.r.path(r, "id")
	if len(s.r.Problems) > 0 {
		a.fail(w, c, invalids(s.r.Problems))
		return
	}
	h, err := a.Usage.Reservation(r.Context(), c.Env, r.PathValue("id"))
	if err != nil {
		a.fail(w, c, err)
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
	}{ID: h.ID, Customer: h.Customer, Feature: h.Feature, Amount: usher.AppendQuantity(nil, h.Amount, h.Precision), State: h.State, ExpiresAt: h.ExpiresAt.UTC(), Late: h.Late}
	if h.State == usher.ReservationSettled {
		out.Settled = usher.AppendQuantity(nil, h.Settled, h.Precision)
	}
	body, err := marshal(out)
	if err != nil {
		a.fail(w, c, err)
		return
	}
	a.write(w, c, body)
}

// readReserve reads a reservation's body; key is the header's.
func readReserve(r *reader, b []byte, key string) (op usage.ReserveOp, q decide.CheckQuery, err error) {
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
			op.TTL = r.ttl("body.ttl", usage.MaxTTL)
		case "key":
			op.Key, inBody = r.String("body.key"), true
		case "min_revision":
			op.MinRevision = r.Whole("body.min_revision")
		default:
			if !r.about(name, &q) {
				r.Unknown("body", name, "customer, feature, amount, ttl, key, member, permission, resource, context, min_revision")
			}
		}
	})
	if ok && len(r.Problems) == 0 {
		r.ID("body.customer", op.Customer)
		r.ID("body.feature", op.Feature)
		op.Key = r.key(op.Key, inBody, key)
		r.asked(&q, &op.ConsumeOp)
	}
	return op, q, r.err()
}

// key is the idempotency key of the body or the header; they must not differ.
func (r *reader) key(body string, inBody bool, header string) string {
	switch {
	case !inBody:
		body = header
	case header != "" && header != body:
		r.Note("body.key", "must be the same as the Idempotency-Key header, where both are sent")
	}
	if err := usher.CheckIdempotencyKey(body); err != nil {
		r.Note("body.key", "%s", strings.TrimPrefix(err.Error(), "the idempotency key "))
	}
	return body
}

// ttl reads a span of whole hours, minutes and seconds, from a second to most.
func (r *reader) ttl(location string, most time.Duration) time.Duration {
	const example = `a span such as "60s", "5m" or "1h30m"`
	if r.Peek() != '"' {
		r.Wrong(location, example)
		return 0
	}
	text := string(r.Text())
	if r.Broken() {
		return 0
	}
	d, ok := parseTTL(text)
	switch {
	case !ok:
		r.Note(location, "must be %s, got %s", example, clip(text))
	case d < time.Second || d > most:
		r.Note(location, "must be between 1s and %dh, got %s", most/time.Hour, clip(text))
	default:
		return d
	}
	return 0
}

// parseTTL reads whole hours, minutes and seconds, in this order, each at most
// once. One that is too long to count is the longest.
func parseTTL(text string) (d time.Duration, ok bool) {
	last := time.Duration(math.MaxInt64)
	for i := 0; i < len(text); {
		n, from := int64(0), i
		for ; i < len(text) && '0' <= text[i] && text[i] <= '9'; i++ {
			n = min(n*10+int64(text[i]-'0'), math.MaxInt64/20)
		}
		if i == from || i == len(text) {
			return 0, false
		}
		unit := map[byte]time.Duration{'h': time.Hour, 'm': time.Minute, 's': time.Second}[text[i]]
		if unit == 0 || unit >= last {
			return 0, false
		}
		last = unit
		if n > int64((math.MaxInt64-d)/unit) {
			d = math.MaxInt64
		} else {
			d += time.Duration(n) * unit
		}
		i++
	}
	return d, text != ""
}

// path notes which of a path's ids cannot be one.
func (r *reader) path(req *http.Request, names ...string) {
	for _, name := range names {
		r.ID("path."+name, req.PathValue(name))
	}
}

// readOptional reads a body that may be left out, and checks the ids of the
// path with it. known lists its members, "" where it has none; member reads
// one, and says whether there is such a one.
func (a *API) readOptional(r *http.Request, c *call, s *scratch, known string, member func(name []byte) bool, ids ...string) (err error) {
	if s.in = s.in[:0]; r.ContentLength != 0 {
		if s.in, err = a.readAll(r, c.route, s.in); err != nil {
			return err
		}
	}
	s.r.Reset(s.in)
	s.r.path(r, ids...)
	if len(s.in) == 0 {
		if len(s.r.Problems) > 0 {
			return invalids(s.r.Problems)
		}
		return nil
	}
	s.r.Object("body", func(name []byte) {
		switch {
		case member(name):
		case known == "":
			where := "body." + clipName(string(name))
			if s.r.Skip(); !s.r.Broken() {
				s.r.Note(where, "unknown field; this body has none: leave the body out, or send {}")
			}
		default:
			s.r.Unknown("body", name, known)
		}
	})
	return s.r.err()
}
