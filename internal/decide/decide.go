// Package decide answers: checks, batches, lists and explanations. It finds the
// snapshot and asks the engine; it keeps no state and changes nothing.
package decide

import (
	"context"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/live"
)

// Service answers questions from the loaded world.
type Service struct{ live *live.Live }

// New makes a Service.
func New(l *live.Live) *Service { return &Service{live: l} }

// CheckQuery is one question.
type CheckQuery struct {
	Customer    string
	Feature     string       // "": those that the permission is linked with
	Member      string       // who of the customer asks; "": the customer itself
	Permission  string       // what the member wants to do; "": the feature is all that is asked
	Resource    ResourceRef  // what it is done to
	Said        *access.Said // about them, over what is registered; nil: nothing
	Amount      usher.Number // "": 1
	At          time.Time    // zero: now
	MinRevision int64        // 0: any
	// Taking is of a question before a take: the take decides about Feature, and
	// only everything else is asked.
	Taking bool

	present bool // At is the present, which a batch has read once
}

// Check answers one question (S01, S12: it takes nothing). buf lends memory to
// the answer's lists and may be nil. An error means that there is no answer.
func (s *Service) Check(ctx context.Context, env usher.Environment, q CheckQuery, buf *engine.Buf) (usher.Decision, error) {
	revision, err := s.revision(ctx, env, q.MinRevision)
	if err != nil {
		return usher.Decision{}, err
	}
	return s.check(ctx, env, q, revision, buf)
}

// Batch answers questions in order, all at one revision and one instant unless
// a question names its own.
func (s *Service) Batch(ctx context.Context, env usher.Environment, qs []CheckQuery, minRevision int64) ([]usher.Decision, error) {
	revision, err := s.revision(ctx, env, minRevision)
	if err != nil {
		return nil, err
	}
	now := s.live.Now(env)
	out := make([]usher.Decision, len(qs))
	for attempt := 0; ; attempt++ {
		for i, q := range qs {
			if q.At.IsZero() {
				q.At, q.present = now, true
			}
			q.MinRevision = max(q.MinRevision, minRevision)
			if out[i], err = s.check(ctx, env, q, revision, nil); err != nil {
				return nil, err
			}
		}
		// A change that came between would mix two states: answer again.
		if r := s.live.Revision(env); r == revision || attempt == 3 {
			return out, nil
		} else {
			revision = r
		}
	}
}

// Entitlements answers for every feature of the catalogue, by key, amount 1.
func (s *Service) Entitlements(ctx context.Context, env usher.Environment, customer string, at time.Time) ([]usher.Decision, error) {
	features := s.live.Book(env).Features
	w := engine.NewWorld(engine.Facts{Book: s.live.Book(env)})
	qs := make([]CheckQuery, 0, len(features))
	for _, f := range w.Features() {
		qs = append(qs, CheckQuery{Customer: customer, Feature: f, At: at})
	}
	return s.Batch(ctx, env, qs, 0)
}

// Explain answers one question and says why.
func (s *Service) Explain(ctx context.Context, env usher.Environment, q CheckQuery) (usher.Explanation, error) {
	revision, err := s.revision(ctx, env, q.MinRevision)
	if err != nil {
		return usher.Explanation{}, err
	}
	if q.Member != "" || q.Permission != "" {
		return s.explainMember(ctx, env, q, revision)
	}
	snap, query, at, err := s.prepare(ctx, env, q)
	if err != nil {
		return usher.Explanation{}, err
	}
	x := engine.Explain(snap, query, at)
	x.Decision.Revision = revision
	return x, nil
}

// check answers at the revision that the caller read before: whoever reads the
// revision first gets state that is at least as new (S06).
func (s *Service) check(ctx context.Context, env usher.Environment, q CheckQuery, revision int64, buf *engine.Buf) (usher.Decision, error) {
	if q.Member != "" || q.Permission != "" {
		return s.member(ctx, env, q, revision, buf)
	}
	snap, query, at, err := s.prepare(ctx, env, q)
	var asOf time.Time
	present := q.present || q.At.IsZero()
	if err != nil {
		if usher.ErrorCode(err) == usher.Unavailable && present {
			snap, asOf = s.live.Remembered(env, q.Customer)
		}
		// What is remembered may be from before a change that the caller knows of.
		if snap == nil || snap.Revision < q.MinRevision {
			return s.unanswered(env, q, err)
		}
		revision = snap.Revision
	} else if present {
		asOf = s.live.AsOf()
	}
	query.Buf = buf
	d := engine.Decide(snap, query, at)
	d.Revision = revision
	if !asOf.IsZero() {
		d.Degraded, d.AsOf = true, asOf
	}
	return d, nil
}

// prepare finds the snapshot and reads the amount by the feature's precision.
func (s *Service) prepare(ctx context.Context, env usher.Environment, q CheckQuery) (*engine.Snapshot, engine.Query, time.Time, error) {
	query := engine.Query{Customer: q.Customer, Feature: q.Feature}
	if f := s.live.Book(env).Features[q.Feature]; f != nil && f.Kind.Counts() {
		n, err := Amount(f, q.Amount)
		if err != nil {
			return nil, query, time.Time{}, err
		}
		query.Amount = n
	}
	at := q.At
	if at.IsZero() {
		at = s.live.Now(env)
	}
	snap, err := s.live.Snapshot(ctx, env, q.Customer, at)
	return snap, query, at, err
}

// Amount reads an amount of a feature; absent is one whole unit.
func Amount(f *usher.Feature, n usher.Number) (int64, error) {
	if n == "" {
		n = "1"
	}
	units, err := n.Units(f.Precision)
	if err != nil {
		return 0, &usher.Error{Code: usher.Invalid, Detail: "the amount of " + f.Key + " is not valid",
			Problems: []usher.Problem{{Location: "amount", Message: err.Error()}}}
	}
	return units, nil
}

// unanswered is the answer where the state cannot be read: what the feature's
// fail policy says, marked as degraded.
func (s *Service) unanswered(env usher.Environment, q CheckQuery, err error) (usher.Decision, error) {
	if usher.ErrorCode(err) != usher.Unavailable {
		return usher.Decision{}, err
	}
	f := s.live.Book(env).Features[q.Feature]
	if f == nil {
		return usher.Decision{}, err
	}
	return usher.Decision{Allowed: f.Fail == usher.FailOpen, Reason: usher.ReasonUnavailable, Customer: q.Customer, Feature: q.Feature, Kind: f.Kind,
		Precision: f.Precision, Type: f.Type, Degraded: true, Revision: s.live.Revision(env)}, nil
}

// revision is the environment's, at least min (S06).
func (s *Service) revision(ctx context.Context, env usher.Environment, min int64) (int64, error) {
	r := s.live.Revision(env)
	if r >= min {
		return r, nil
	}
	if err := s.live.Refresh(ctx, env); err != nil {
		return 0, err
	}
	if r = s.live.Revision(env); r < min {
		return 0, &usher.Error{Code: usher.Invalid, Detail: "min_revision is ahead of the environment", Problems: []usher.Problem{{
			Location: "min_revision", Message: usher.Errorf(usher.Invalid, "is %d, and the newest revision is %d; send one that an answer or a change carried", min, r).Error()}}}
	}
	return r, nil
}
