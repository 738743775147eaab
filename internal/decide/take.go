package decide

import (
	"cmp"
	"context"
	"strconv"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/usage"
)

// Consume decides and takes in one step. If q names a member, everything about
// the member must pass too; q is then completed with the take's customer,
// feature and amount.
func (s *Service) Consume(ctx context.Context, env usher.Environment, u *usage.Usage, q CheckQuery, op usage.ConsumeOp) (
	usher.Decision, error) {
	d, denied, err := s.takeAs(ctx, env, u, q, op, func(op usage.ConsumeOp) (usher.Decision, error) { return u.Consume(ctx, env, op) })
	if !denied {
		return d, err
	}
	d.Taken = true // a denied consume shows what it took: nothing
	return d, err
}

// Reserve is Consume for a reservation.
func (s *Service) Reserve(ctx context.Context, env usher.Environment, u *usage.Usage, q CheckQuery, op usage.ReserveOp) (
	usher.Decision, error) {
	d, _, err := s.takeAs(ctx, env, u, q, op.ConsumeOp, func(o usage.ConsumeOp) (usher.Decision, error) {
		return u.Reserve(ctx, env, usage.ReserveOp{ConsumeOp: o, TTL: op.TTL})
	})
	return d, err
}

// takeAs takes on behalf of a member, if everything about the member allows it. That
// is checked before the take. So a denial because of the member is not stored under
// the key, and a retry of a take that was made gets its first answer, whatever the
// member may do by then (S13). denied reports that the member is why nothing was
// taken.
func (s *Service) takeAs(ctx context.Context, env usher.Environment, u *usage.Usage, q CheckQuery, op usage.ConsumeOp,
	take func(usage.ConsumeOp) (usher.Decision, error)) (_ usher.Decision, denied bool, err error) {
	if q.Member == "" {
		d, err := take(op)
		return d, false, err
	}
	q.Customer, q.Feature, q.Amount, q.MinRevision, q.Taking = op.Customer, op.Feature, op.Amount, op.MinRevision, true
	asked, err := s.Check(ctx, env, q, nil)
	if err != nil || !asked.Allowed {
		// A key that has an answer gets that answer again. If the key cannot be looked up, the
		// call fails: a denial could contradict a take that was made.
		known, unread := u.Known(ctx, env, op.Key)
		if err = cmp.Or(err, unread); unread != nil || err != nil && !known {
			return asked, false, err
		}
		if !known {
			if asked.Feature == "" {
				asked.Feature = q.Feature
			}
			return asked, true, nil
		}
	}
	op.Complete = func(d *usher.Decision) {
		d.Member, d.Permission = q.Member, q.Permission
		if asked.Legs != nil {
			d.Legs = Taken(*asked.Legs, d)
		}
	}
	d, err := take(op)
	return d, false, err
}

// CheckAmounts returns Invalid with a problem for every amount of a batch that is not
// a valid amount of its feature.
func (s *Service) CheckAmounts(env usher.Environment, qs []CheckQuery) error {
	features := s.live.Book(env).Features
	var wrong []usher.Problem
	for i := range qs {
		f := features[qs[i].Feature]
		if f == nil || !f.Kind.Counts() || qs[i].Amount == "" {
			continue
		}
		if _, err := qs[i].Amount.Units(f.Precision); err != nil {
			wrong = append(wrong, usher.Problem{Location: "checks[" + strconv.Itoa(i) + "].amount", Message: err.Error()})
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return &usher.Error{Code: usher.Invalid, Detail: "amounts are not valid", Problems: wrong}
}
