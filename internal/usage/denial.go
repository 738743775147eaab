package usage

import (
	"context"
	"math"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
)

// deny counts what was denied, or would have been (S26). Denials because the customer
// or the feature is unknown are not counted.
func (b *batchRun) deny(h store.Holder, w *world, feature, outcome string, reason usher.Reason, amount int64, at time.Time) {
	if outcome == "" || !w.next.World.Known() || w.next.World.Book().Features[feature] == nil {
		return
	}
	k := store.DenialKey{Holder: h, Feature: feature, Hour: store.Hour.Start(at.UnixMicro()), Outcome: outcome, Reason: reason}
	c := b.denials[k]
	c.N++
	c.Amount = min(amount, math.MaxInt64-c.Amount) + c.Amount // at most MaxInt64: it must not overflow
	b.denials[k] = c
}

// DenialQuery asks what was denied, or would have been, in the hours of
// [From, To). Empty names are any.
type DenialQuery struct {
	Customer, Feature, Outcome string
	From, To                   time.Time
}

// maxDenials bounds one answer.
const maxDenials = 1000

// Denials returns what was denied, the most frequent first, at most 1,000 rows.
func (u *Usage) Denials(ctx context.Context, env usher.Environment, q DenialQuery) ([]usher.Denial, error) {
	var problems []usher.Problem
	if !q.From.Before(q.To) {
		problems = append(problems, usher.Problem{Location: "to", Message: "must be after from"})
	}
	switch q.Outcome {
	case "", ledger.OutcomeDenied, ledger.OutcomeWarned, ledger.OutcomeShadowed, ledger.OutcomeExcess:
	default:
		problems = append(problems, usher.Problem{Location: "outcome", Message: "must be denied, warned, shadowed or excess"})
	}
	if len(problems) > 0 {
		return nil, &usher.Error{Code: usher.Invalid, Detail: "the query is not valid", Problems: problems}
	}
	from := time.UnixMicro(store.Hour.Start(q.From.UnixMicro())).UTC()
	rows, err := u.cfg.DB.Denials(ctx, env, q.Customer, q.Feature, q.Outcome, from, q.To, maxDenials)
	if err != nil {
		return nil, err
	}
	out := make([]usher.Denial, len(rows))
	for i, r := range rows {
		out[i] = usher.Denial{Customer: r.Customer, Feature: r.Feature, Outcome: r.Outcome, Reason: r.Reason, Count: r.N, Amount: r.Amount,
			First: r.First, Last: r.Last}
		if f := u.cfg.Live.Book(env).Features[r.Feature]; f != nil {
			out[i].Precision = f.Precision
		}
	}
	return out, nil
}
