// Package decide answers: checks, batches, lists and explanations. It finds the
// snapshot and asks the engine; it keeps no state and changes nothing.
package decide

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/live"
)

// Service answers questions from what is loaded in memory. Its methods are safe for
// concurrent use.
type Service struct{ live *live.Live }

// New returns a Service.
func New(l *live.Live) *Service { return &Service{live: l} }

// CheckQuery is one question.
type CheckQuery struct {
	Customer    string
	Feature     string       // "": the features that the permission is linked with
	Member      string       // the member who asks; "": the customer itself
	Permission  string       // what the member wants to do; "": the question is about the feature alone
	Resource    ResourceRef  // what the member wants to do it to
	Said        *access.Said // properties that the caller sends, which replace registered ones; nil: none
	Amount      usher.Number // "": 1
	At          time.Time    // zero: now
	MinRevision int64        // 0: any
	// Taking says that a take of Feature follows, which decides about Feature
	// itself. So the question is about everything else.
	Taking bool

	present bool // At is the present: a batch reads the clock once for all its questions
}

// Check answers one question and takes nothing (S01, S12). The answer's lists use
// the memory of buf, which may be nil; so an answer is good until buf is used again.
// An error means that there is no answer.
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
		// If a change came in between, some answers are from before it and some from
		// after it: answer all again. After four attempts, return the mixed answers:
		// each is right for itself, and a busy environment must not delay for ever.
		if r := s.live.Revision(env); r == revision || attempt == 3 {
			return out, nil
		} else {
			revision = r
		}
	}
}

// Entitlements answers for every feature of the catalogue, in the order of keys, each
// for the amount 1. member is who asks; "" is the customer itself.
func (s *Service) Entitlements(ctx context.Context, env usher.Environment, customer, member string, at time.Time) (
	[]usher.Decision, error) {
	keys := slices.Sorted(maps.Keys(s.live.Book(env).Features))
	qs := make([]CheckQuery, len(keys))
	for i, key := range keys {
		qs[i] = CheckQuery{Customer: customer, Member: member, Feature: key, At: at}
	}
	return s.Batch(ctx, env, qs, 0)
}

// Explain answers one question and says why it answers so.
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
	if err := s.advise(ctx, env, query, &x, at); err != nil {
		return usher.Explanation{}, err
	}
	x.Decision.Revision = revision
	return x, nil
}

// advise adds to an explanation what would change the answer. It reads the customer and
// the use that each change would count from the database.
func (s *Service) advise(ctx context.Context, env usher.Environment, q engine.Query, x *usher.Explanation, at time.Time) error {
	if x.Decision.Allowed {
		return nil
	}
	facts, err := s.live.Facts(ctx, env, q.Customer)
	if err != nil {
		return err
	}
	x.Changes = engine.Advise(facts, q, &x.Decision, at, func(w *engine.World, at time.Time) *engine.Snapshot {
		var snap *engine.Snapshot
		if err == nil {
			snap, err = s.live.Imagine(ctx, env, q.Customer, w, q.Feature, at)
		}
		if err != nil {
			return nil
		}
		return snap
	})
	return err
}

// check answers with the given revision. The caller must have read it before, because
// state that is loaded after the revision was read is at least as new (S06).
func (s *Service) check(ctx context.Context, env usher.Environment, q CheckQuery, revision int64, buf *engine.Buf) (usher.Decision, error) {
	if q.Member != "" || q.Permission != "" {
		return s.member(ctx, env, q, revision, buf)
	}
	snap, query, at, err := s.prepare(ctx, env, q)
	var asOf time.Time
	present := q.present || q.At.IsZero()
	if err != nil {
		if usher.ErrorCode(err) == usher.Unavailable && present {
			// Only a question about the present: what is remembered is the newest state, which
			// says nothing about an earlier instant.
			snap, asOf = s.live.Remembered(env, q.Customer)
		}
		// The snapshot in memory may be older than a change that the caller knows of.
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

// prepare loads the snapshot and reads the amount by the feature's precision.
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

// Amount returns an amount of a feature in its smallest units; "" is one whole unit.
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

// unanswered returns the answer if the state cannot be read: what the feature's fail
// policy says, marked as degraded. Other errors are returned as they are.
func (s *Service) unanswered(env usher.Environment, q CheckQuery, err error) (usher.Decision, error) {
	if usher.ErrorCode(err) != usher.Unavailable {
		return usher.Decision{}, err
	}
	f := s.live.Book(env).Features[q.Feature]
	if f == nil {
		return usher.Decision{}, err
	}
	return usher.Decision{
		Allowed: f.Fail == usher.FailOpen, Reason: usher.ReasonUnavailable, Customer: q.Customer, Feature: q.Feature,
		Kind: f.Kind, Title: f.Title, Unit: f.Unit, Precision: f.Precision, Type: f.Type, Fail: f.Fail, Degraded: true,
		Revision: s.live.Revision(env),
	}, nil
}

// revision returns the environment's revision, which is at least min (S06). It returns
// Invalid if min does not exist yet.
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
			Location: "min_revision",
			Message:  fmt.Sprintf("is %d, but the newest revision is %d; send a revision that an answer or a change carried", min, r)}}}
	}
	return r, nil
}
