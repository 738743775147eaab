package api

import (
	"net/http"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/usage"
)

type consumeIn struct {
	Customer    string       `json:"customer" minLength:"1" maxLength:"255"`
	Feature     string       `json:"feature" minLength:"1" maxLength:"255"`
	Amount      usher.Number `json:"amount,omitempty" doc:"Default 1"`
	Key         string       `json:"key,omitempty" doc:"The idempotency key; here or in the Idempotency-Key header"`
	Member      string       `json:"member,omitempty" doc:"Who of the customer uses it"`
	MinRevision int64        `json:"min_revision,omitempty"`
}

var consumeDoc = doc{ID: "consume", Tag: "Use", Summary: "Decide and take in one step",
	Text: "Takes the amount if the decision allows it. The same key and body again answers as the first time, with `replayed`. A decision that says no is a 200 and takes nothing.", request: consumeIn{}, response: decisionDoc{}}

func (a *API) consume(w http.ResponseWriter, r *http.Request, c *call) {
	s := a.borrow()
	defer a.giveBack(s)
	var err error
	if s.in, err = a.readAll(r, c.route, s.in); err != nil {
		a.fail(w, c, err)
		return
	}
	op, err := readConsume(&s.r, s.in, c.Key)
	if err != nil {
		a.fail(w, c, err)
		return
	}
	d, err := a.Usage.Consume(r.Context(), c.Env, op)
	if err != nil {
		a.fail(w, c, err)
		return
	}
	a.metrics.decided(&d)
	s.out = d.AppendJSON(s.out[:0])
	a.write(w, c, s.out)
}

// readConsume reads a consume's body; key is the header's.
func readConsume(r *reader, b []byte, key string) (op usage.ConsumeOp, err error) {
	r.reset(b)
	inBody := false
	ok := r.object("body", func(name []byte) {
		switch string(name) {
		case "customer":
			op.Customer = r.string("body.customer")
		case "feature":
			op.Feature = r.string("body.feature")
		case "amount":
			op.Amount = r.number("body.amount")
		case "member":
			op.Member = r.string("body.member")
			r.id("body.member", op.Member)
		case "key":
			op.Key, inBody = r.string("body.key"), true
		case "at":
			if r.skip(); !r.broken {
				r.note("body.at", "must not be sent: a consume counts at the server's time")
			}
		case "min_revision":
			op.MinRevision = r.whole("body.min_revision")
		default:
			r.unknown("body", name, "customer, feature, amount, key, member, min_revision")
		}
	})
	if ok && len(r.problems) == 0 {
		r.id("body.customer", op.Customer)
		r.id("body.feature", op.Feature)
		op.Key = r.key(op.Key, inBody, key)
	}
	return op, r.err()
}
