package api

import (
	"net/http"
	"strings"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/usage"
)

type consumeIn struct {
	Customer    string         `json:"customer" minLength:"1" maxLength:"255"`
	Feature     string         `json:"feature" minLength:"1" maxLength:"255"`
	Amount      usher.Number   `json:"amount,omitempty" doc:"Default 1"`
	Key         string         `json:"key,omitempty" doc:"The idempotency key; here or in the Idempotency-Key header"`
	Member      string         `json:"member,omitempty" doc:"The member who uses it; it must be registered and active, or the answer is no"`
	Permission  string         `json:"permission,omitempty" doc:"What the member wants to do: all its legs must pass too"`
	Resource    *resourceIn    `json:"resource,omitempty" doc:"The resource that the member acts on"`
	Context     map[string]any `json:"context,omitempty" doc:"More values that conditions can read"`
	MinRevision int64          `json:"min_revision,omitempty"`
}

// consumeRoutes registers the take: decide and count in one transaction, so
// that parallel callers can never take more than the limit. Each take has an
// idempotency key: a client that lost the answer repeats the call and gets the
// stored answer, also if it was a no.
func (a *api) consumeRoutes(d *door.Door) {
	d.Handle(door.Route{Pattern: "POST /v1/consume", Perm: auth.PermConsume,
		ID: "consume", Keyed: true, Tag: "Use", Summary: "Check and take an amount in one step",
		Text: "Takes the amount if the decision allows it. The same key and body again answers as the first time, with `replayed`. A decision " +
			"that says no is a 200 and takes nothing.", Request: consumeIn{}, Response: usher.Decision{},
		Example: `{"customer":"acme","feature":"api_calls","amount":10,"key":"order-4711"}`,
		Answer: `{"allowed":true,"reason":"within_limit","customer":"acme","feature":"api_calls","kind":"metered","limit":100000,
			"used":52,"reserved":0,"remaining":99948,"unlimited":false,"overage":0,"window":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"plan":"pro@1","consumed":10,"deductions":[{"allowance":"plan:pro@1",
			"amount":10}],"revision":17}`}, a.consume)
}

func (a *api) consume(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	var err error
	if s.In, err = c.ReadAll(r, s.In); err != nil {
		c.Fail(w, err)
		return
	}
	op, q, err := readConsume(&s.R, s.In, c.Key)
	c.About = op.Customer
	if err == nil {
		err = maySay(c, q.Said)
	}
	if err != nil {
		c.Fail(w, err)
		return
	}
	d, err := a.Decide.Consume(r.Context(), c.Env, a.Usage, q, op)
	if err != nil {
		c.Fail(w, err)
		return
	}
	c.Decided(&d)
	s.Out = d.AppendJSON(s.Out[:0])
	c.Write(w, s.Out)
}

// about reads what a take says about its member, and reports whether name is
// part of that.
func about(r *door.Reader, name []byte, q *decide.CheckQuery) bool {
	switch string(name) {
	case "member":
		q.Member = r.String("body.member")
		r.ID("body.member", q.Member)
	case "permission":
		q.Permission = r.String("body.permission")
		r.ID("body.permission", q.Permission)
	case "resource":
		readResource(r, "body.resource", q)
	case "context":
		if m := r.Map("body.context"); m != nil {
			said(q).Context = m
		}
	default:
		return false
	}
	return true
}

// asked completes what a take says about its member with the take itself.
func asked(r *door.Reader, q *decide.CheckQuery, op *usage.ConsumeOp) {
	switch {
	case q.Permission != "" && q.Member == "":
		r.Note("body.member", "is required when \"permission\" is set")
	case q.Permission == "" && (q.Resource != decide.ResourceRef{} || q.Said != nil):
		r.Note("body.permission", "is required when \"resource\" or \"context\" is set")
	}
	op.Member = q.Member
	if q.Permission != "" {
		op.About = strings.Join([]string{q.Permission, q.Resource.Type, q.Resource.ID}, "\x00")
	}
}

// readConsume reads a consume's body; key is the header's.
func readConsume(r *door.Reader, b []byte, key string) (op usage.ConsumeOp, q decide.CheckQuery, err error) {
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
		case "key":
			op.Key, inBody = r.MaybeEmpty("body.key"), true
		case "at":
			if r.Skip(); !r.Broken() {
				r.Note("body.at", "must not be sent: a consume counts at the server's time")
			}
		case "min_revision":
			op.MinRevision = r.Whole("body.min_revision")
		default:
			if !about(r, name, &q) {
				r.Unknown("body", name, "customer, feature, amount, key, member, permission, resource, context, min_revision")
			}
		}
	})
	if ok && len(r.Problems) == 0 {
		r.ID("body.customer", op.Customer)
		r.ID("body.feature", op.Feature)
		op.Key = r.Key(op.Key, inBody, key)
		asked(r, &q, &op)
	}
	return op, q, r.Err()
}
