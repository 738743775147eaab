package api

import (
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/usage"
)

type correctIn struct {
	Ref     usher.UseRef `json:"ref" doc:"What to correct"`
	Feature string       `json:"feature,omitempty" doc:"The feature to correct, for an event that counted for several"`
	Amount  usher.Number `json:"amount" doc:"Units to give back, more than 0"`
	Reason  string       `json:"reason" maxLength:"1000"`
	Key     string       `json:"key,omitempty" doc:"The idempotency key; here or in the Idempotency-Key header"`
}

type denialDoc struct {
	Customer string       `json:"customer"`
	Feature  string       `json:"feature"`
	Outcome  string       `json:"outcome" enum:"denied,warned,shadowed,excess"`
	Reason   usher.Reason `json:"reason"`
	Count    int64        `json:"count"`
	Amount   int64        `json:"amount" quantity:"true" doc:"The sum of the amounts asked for"`
	First    time.Time    `json:"first" doc:"Start of the first hour with such a denial"`
	Last     time.Time    `json:"last" doc:"Start of the last hour with such a denial"`
}

type denialsOut struct {
	Data []denialDoc `json:"data"`
}

// correctionsRoutes registers what support does when a customer was charged for
// something that failed: give units back to the window they were taken from.
// The ledger keeps the take and the correction; nothing is erased. The denials
// beside it show which customers were turned away, and would be if a shadowed
// limit were enforced.
func (a *api) correctionsRoutes(d *door.Door) {
	d.Handle(door.Route{Pattern: "POST /v1/corrections", Perm: auth.PermUsageWrite,
		ID: "correct", Keyed: true, Tag: "Use", Summary: "Give back units of a take or an event", Status: http.StatusCreated,
		Text: "To the allowances that it burned, in the recorded order. Nothing is edited: a correction is an entry of its own. More than is " +
			"left, and a correction of a correction, are a 422.",
		Request: correctIn{}, Response: usher.Decision{},
		Example: `{"ref":"order-4711","feature":"api_calls","amount":3,"reason":"sent twice","key":"correct-4711"}`,
		Answer: `{"allowed":true,"reason":"within_limit","customer":"acme","feature":"api_calls","kind":"metered","limit":100000,
			"used":49,"reserved":0,"remaining":99951,"unlimited":false,"overage":0,"window":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"plan":"pro@1","correction":{"ref":"order-4711","amount":3,"left":7,"returned":[{
			"allowance":"plan:pro@1","amount":3}]},"revision":17}`}, a.correct)
	d.Handle(door.Route{Pattern: "GET /v1/denials", Perm: auth.PermUsageRead,
		ID: "listDenials", Tag: "Use", Summary: "What was denied, or would have been", Response: denialsOut{},
		Text: "In the hours of [from, to), the most frequent first, at most 1,000.",
		Params: []*huma.Param{
			{Name: "customer", In: "query", Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "feature", In: "query", Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "outcome", In: "query", Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"denied", "warned", "shadowed", "excess"}}},
			{Name: "from", In: "query", Required: true, Schema: &huma.Schema{Type: huma.TypeString, Format: "date-time"}},
			{Name: "to", In: "query", Required: true, Schema: &huma.Schema{Type: huma.TypeString, Format: "date-time"}},
		},
		Answer: `{"data":[{"customer":"acme","feature":"api_calls","outcome":"denied","reason":"limit_reached","count":4,
			"amount":503,"first":"2026-03-10T12:00:00Z","last":"2026-03-10T13:00:00Z"}]}`}, a.denials)
}

func (a *api) correct(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	var op usage.CorrectOp
	var d usher.Decision
	var err error
	if s.In, err = c.ReadAll(r, s.In); err == nil {
		op, err = readCorrect(&s.R, s.In, c.Key)
	}
	if err == nil {
		op.Actor = c.Actor.String()
		d, err = a.Usage.Correct(r.Context(), c.Env, op)
		c.Status = http.StatusCreated
	}
	taken(w, c, s, &d, err)
}

// readCorrect reads a correction's body; key is the header's.
func readCorrect(r *door.Reader, b []byte, key string) (op usage.CorrectOp, err error) {
	r.Reset(b)
	inBody, referred := false, false
	ok := r.Object("body", func(name []byte) {
		switch string(name) {
		case "ref":
			op.Ref, op.Source = ref(r, "body.ref")
			referred = true
		case "feature":
			op.Feature = r.String("body.feature")
			r.ID("body.feature", op.Feature)
		case "amount":
			op.Amount = r.Number("body.amount")
		case "reason":
			op.Reason = r.MaybeEmpty("body.reason")
		case "key":
			op.Key, inBody = r.MaybeEmpty("body.key"), true
		default:
			r.Unknown("body", name, "ref, feature, amount, reason, key")
		}
	})
	if ok && len(r.Problems) == 0 {
		if !referred {
			r.Note("body.ref", "must be %s", refForm)
		}
		if op.Amount == "" {
			r.Note("body.amount", "is required: the units to give back")
		}
		if op.Reason == "" {
			r.Note("body.reason", "is required: why something is given back")
		}
		op.Key = r.Key(op.Key, inBody, key)
	}
	return op, r.Err()
}

const refForm = `the key of a consume or a reservation, or {"source":…,"id":…} of an event`

// ref reads what a correction refers to: a key, or an event's id and source.
func ref(r *door.Reader, location string) (ref, source string) {
	switch r.Peek() {
	case '"':
		ref = r.String(location)
		r.ID(location, ref)
	case '{':
		ok := r.Object(location, func(name []byte) {
			switch string(name) {
			case "source":
				source = r.String(location + ".source")
			case "id":
				ref = r.String(location + ".id")
			default:
				r.Unknown(location, name, "source, id")
			}
		})
		if ok {
			r.ID(location+".source", source)
			r.ID(location+".id", ref)
		}
	default:
		r.Wrong(location, refForm)
	}
	return ref, source
}

func (a *api) denials(w http.ResponseWriter, r *http.Request, c *door.Call) {
	p, err := door.Parameters(r, "customer", "feature", "outcome", "from", "to")
	if err != nil {
		c.Fail(w, err)
		return
	}
	span, err := spanOf(p, []string{"from", "to"})
	if err != nil {
		c.Fail(w, err)
		return
	}
	list, err := a.Usage.Denials(r.Context(), c.Env, usage.DenialQuery{Customer: p["customer"], Feature: p["feature"], Outcome: p["outcome"],
		From: span["from"], To: span["to"]})
	if err != nil {
		c.Fail(w, err)
		return
	}
	s := door.Borrow()
	defer s.GiveBack()
	s.Out = append(s.Out[:0], `{"data":[`...)
	for i := range list {
		if i > 0 {
			s.Out = append(s.Out, ',')
		}
		s.Out = list[i].AppendJSON(s.Out)
	}
	s.Out = append(s.Out, ']', '}')
	c.Write(w, s.Out)
}
