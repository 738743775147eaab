package decide

import (
	"context"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/engine"
)

// ResourceRef names a resource; the zero ResourceRef names none. Type and id are two
// values, never joined into one string (A10).
type ResourceRef struct{ Type, ID string }

// asked is a question about a member with everything that is needed to answer it.
type asked struct {
	subject  *access.Subject
	question access.Question
	snap     *engine.Snapshot
	at       time.Time
	asOf     time.Time // until when snap was up to date; zero: it is
	features []string  // the features that the plan and its limits must allow
	any      bool      // one of features is enough
	perm     *usher.Permission
}

// member answers a question about a member: all legs at one instant (A01).
func (s *Service) member(ctx context.Context, env usher.Environment, q CheckQuery, revision int64, buf *engine.Buf) (
	usher.Decision, error) {
	a, err := s.ask(ctx, env, q)
	if err != nil {
		return s.silent(env, q, err)
	}
	if !a.asOf.IsZero() {
		// An answer from memory may be older than the revision that was read.
		revision = min(revision, a.snap.Revision)
	}
	if buf == nil {
		buf = new(engine.Buf)
	}
	d, _, err := s.judge(env, &q, a, buf)
	d.Revision = revision
	if !a.asOf.IsZero() {
		d.Degraded, d.AsOf = true, a.asOf
	}
	return d, err
}

// ask loads everything that is needed to answer a question about a member.
func (s *Service) ask(ctx context.Context, env usher.Environment, q CheckQuery) (a asked, err error) {
	present := q.present || q.At.IsZero()
	if a.at = q.At; a.at.IsZero() {
		a.at = s.live.Now(env)
	}
	if a.subject, err = s.live.Member(ctx, env, q.Customer, q.Member, a.at); err != nil {
		return a, err
	}
	a.question = access.Question{Permission: q.Permission, ResourceType: q.Resource.Type, ResourceID: q.Resource.ID, At: a.at, Said: q.Said}
	// The properties of a resource may take a query, so they are read only if a condition of
	// the member can use them.
	if a.subject.Conditional() && q.Resource.ID != "" {
		if a.question.Stored, err = s.live.Properties(ctx, env, q.Customer, q.Resource.Type, q.Resource.ID, a.at); err != nil {
			return a, err
		}
	}
	if a.snap, err = s.live.Snapshot(ctx, env, q.Customer, a.at); err != nil {
		if usher.ErrorCode(err) != usher.Unavailable || !present {
			return a, err
		}
		a.snap, a.asOf = s.live.Remembered(env, q.Customer)
		if a.snap == nil || a.snap.Revision < q.MinRevision {
			return a, err
		}
	} else if present {
		a.asOf = s.live.AsOf()
	}
	return a, nil
}

// judge decides each leg and puts them together. The numbers of the decision are those
// of one feature: the only one that the question is about, or of several the first that
// denies, or the first that is enough.
func (s *Service) judge(env usher.Environment, q *CheckQuery, a asked, buf *engine.Buf) (usher.Decision, asked, error) {
	legs := &buf.Legs
	*legs = usher.Legs{Role: usher.LegNone, Plan: usher.LegNone, Seat: usher.LegNone, Limit: usher.LegNone, Condition: usher.LegNone}
	var reason usher.Reason
	var features []string
	any := false
	var until time.Time // when time alone may change a part of the answer
	if q.Permission != "" {
		answer := a.subject.Decide(&a.question)
		until = a.subject.ValidUntil(&a.question)
		legs.Role, legs.Condition, legs.Seat, reason, a.perm = answer.Role, answer.Condition, answer.Seat, answer.Reason, answer.Permission
		if a.perm != nil {
			features, any = a.perm.Features, a.perm.Any
		}
	} else if !a.subject.Active() {
		legs.Role, reason = usher.LegFail, usher.UnknownMember
	}
	// The take decides about its own feature against rows that it has locked. An answer
	// about it here could already be wrong.
	if q.Taking && slices.Contains(features, q.Feature) {
		if features = slices.DeleteFunc(slices.Clone(features), func(f string) bool { return f == q.Feature }); any {
			features = nil // the taken feature may be the one that is enough
		}
	}
	a.features, a.any = features, any
	d := usher.Decision{Allowed: true, Reason: usher.Granted}
	if q.Feature != "" && !q.Taking {
		var err error
		if d, err = s.part(env, q, a, q.Feature, buf); err != nil {
			return d, a, err
		}
		note(legs, &d)
		until = sooner(until, d.ValidUntil)
	}
	// A linked feature cannot undo a no. If all are needed, they are asked even after a no,
	// so that the legs show everything that is missing.
	if len(features) > 0 && (d.Allowed || !any) {
		linked, err := s.linked(env, q, a, legs, buf)
		if err != nil {
			return d, a, err
		}
		until = sooner(until, linked.ValidUntil)
		// A missing entitlement comes before a limit that is reached: more allowance would not
		// help.
		if q.Feature == "" || !linked.Allowed && (d.Allowed || isLimit(d.Reason) && !isLimit(linked.Reason)) {
			d = linked
		}
	}
	d.Customer, d.Member, d.Permission, d.Legs, d.ValidUntil = q.Customer, q.Member, q.Permission, legs, until
	switch {
	// The first part that denies gives the reason. Role and condition come before the plan,
	// so that nobody is told to buy what an administrator would still deny.
	case !a.snap.World.Known():
		reason = usher.UnknownCustomer
	case reason != "": // the member, its role or a condition denies already, which comes first
	case legs.Plan == usher.LegFail:
		reason = d.Reason
	case legs.Seat == usher.LegFail:
		reason = usher.NoSeat
	}
	if reason != "" {
		d.Allowed, d.Reason = false, reason
	}
	return d, a, nil
}

// sooner returns the earlier of two instants; zero is never.
func sooner(x, y time.Time) time.Time {
	if x.IsZero() || !y.IsZero() && y.Before(x) {
		return y
	}
	return x
}

// linked answers for the features that a permission is linked with. If all are needed,
// the answer is the first no, where a plan that lacks a feature comes before a limit
// that is reached. If any is enough, it is the first yes, or the no that is nearest to a
// yes.
func (s *Service) linked(env usher.Environment, q *CheckQuery, a asked, legs *usher.Legs, buf *engine.Buf) (usher.Decision, error) {
	if len(a.features) == 1 {
		lend := buf
		if q.Feature != "" {
			lend = nil // buf has the lists of q.Feature's answer
		}
		d, err := s.part(env, q, a, a.features[0], lend)
		note(legs, &d)
		return d, err
	}
	var best usher.Decision
	var bestLegs usher.Legs
	var until time.Time
	for i, f := range a.features {
		d, err := s.part(env, q, a, f, nil)
		if err != nil {
			return d, err
		}
		var l usher.Legs
		note(&l, &d)
		until = sooner(until, d.ValidUntil)
		if a.any {
			if d.Allowed {
				merge(legs, l)
				d.ValidUntil = until
				return d, nil
			}
			// Nearest to a yes is a feature that the plan has and of which nothing is left.
			if i == 0 || bestLegs.Plan == usher.LegFail && l.Plan == usher.LegPass {
				best, bestLegs = d, l
			}
			continue
		}
		merge(legs, l)
		if i == 0 || best.Allowed && !d.Allowed || bestLegs.Plan == usher.LegPass && l.Plan == usher.LegFail {
			best, bestLegs = d, l
		}
	}
	if a.any {
		merge(legs, bestLegs)
	} else if best.Allowed { // all allow: no single feature's numbers are those of the answer
		best = usher.Decision{Allowed: true, Reason: usher.Granted}
	}
	best.ValidUntil = until
	return best, nil
}

// part answers for one feature.
func (s *Service) part(env usher.Environment, q *CheckQuery, a asked, feature string, buf *engine.Buf) (usher.Decision, error) {
	query := engine.Query{Customer: q.Customer, Feature: feature, Buf: buf}
	if f := s.live.Book(env).Features[feature]; f != nil && f.Kind.Counts() &&
		(f.Kind != usher.Seats || feature == q.Feature || q.Amount != "") {
		n, err := Amount(f, q.Amount)
		if err != nil {
			return usher.Decision{}, err
		}
		query.Amount = n
	}
	return engine.Decide(a.snap, query, a.at), nil
}

// note adds a feature's answer to the legs: whether the plan gives the feature, and
// whether anything is left of it.
func note(legs *usher.Legs, d *usher.Decision) {
	l := usher.Legs{Plan: usher.LegPass, Limit: usher.LegNone}
	switch {
	case isLimit(d.Reason):
		l.Limit = usher.LegFail
	case !d.Allowed:
		l.Plan = usher.LegFail
	case d.Kind.Counts():
		l.Limit = usher.LegPass
	}
	merge(legs, l)
}

// isLimit reports whether a reason says that nothing is left of what the plan gives.
func isLimit(r usher.Reason) bool {
	return r == usher.CapReached || r == usher.InsufficientCredits || r == usher.SeatLimitReached || r == usher.LimitReached
}

// Taken completes the legs of a question with Taking by the decision of its take.
func Taken(legs usher.Legs, d *usher.Decision) *usher.Legs {
	note(&legs, d)
	return &legs
}

// merge adds the legs Plan and Limit of l: fail wins over pass, and pass over none.
func merge(legs *usher.Legs, l usher.Legs) {
	worse := func(a *usher.Leg, b usher.Leg) {
		if b == usher.LegFail || b == usher.LegPass && *a != usher.LegFail {
			*a = b
		}
	}
	worse(&legs.Plan, l.Plan)
	worse(&legs.Limit, l.Limit)
}

// silent returns the answer if the member cannot be read. Without knowing who asks,
// the answer is no, whatever the feature's fail policy (A01). Other errors are returned
// as they are.
func (s *Service) silent(env usher.Environment, q CheckQuery, err error) (usher.Decision, error) {
	if usher.ErrorCode(err) != usher.Unavailable {
		return usher.Decision{}, err
	}
	none := usher.Legs{Role: usher.LegNone, Plan: usher.LegNone, Seat: usher.LegNone, Limit: usher.LegNone, Condition: usher.LegNone}
	return usher.Decision{
		Reason: usher.ReasonUnavailable, Customer: q.Customer, Feature: q.Feature, Member: q.Member, Permission: q.Permission,
		Legs: &none, Degraded: true, Revision: s.live.Revision(env),
	}, nil
}

// explainMember answers a question about a member and says why it answers so.
func (s *Service) explainMember(ctx context.Context, env usher.Environment, q CheckQuery, revision int64) (usher.Explanation, error) {
	a, err := s.ask(ctx, env, q)
	if err != nil {
		return usher.Explanation{}, err
	}
	d, a, err := s.judge(env, &q, a, new(engine.Buf))
	if err != nil {
		return usher.Explanation{}, err
	}
	x := usher.Explanation{Considered: []usher.SourceTrace{}, Changes: []usher.WhatWouldChange{}}
	feature := d.Feature
	if feature == "" {
		feature = q.Feature
	}
	if feature != "" {
		query := engine.Query{Customer: q.Customer, Feature: feature}
		if f := s.live.Book(env).Features[feature]; f != nil && f.Kind.Counts() &&
			(f.Kind != usher.Seats || feature == q.Feature || q.Amount != "") {
			if query.Amount, err = Amount(f, q.Amount); err != nil {
				return x, err
			}
		}
		x = engine.Explain(a.snap, query, a.at)
		if d.Legs == nil || !failsBesidePlan(d.Legs) && d.Reason != usher.UnknownMember {
			if err := s.advise(ctx, env, query, &x, a.at); err != nil {
				return x, err
			}
		}
	}
	d.Revision = revision
	if !a.asOf.IsZero() {
		d.Degraded, d.AsOf = true, a.asOf
	}
	x.Decision = d
	if q.Permission == "" {
		if d.Reason == usher.UnknownMember && d.Legs.Plan != usher.LegFail && d.Legs.Limit != usher.LegFail {
			x.Changes = append(x.Changes, register(&d))
		}
		return x, nil
	}
	t := &usher.AccessTrace{Features: a.features, Any: a.any, Assignments: []usher.AssignmentTrace{},
		Roles: a.subject.Roles().Giving(q.Permission)}
	if t.Roles == nil {
		t.Roles = []string{}
	}
	for _, e := range a.subject.Explain(&a.question) {
		x := usher.AssignmentTrace{
			ID: e.Assignment.ID, Role: e.Assignment.Role, ResourceType: e.Assignment.ResourceType, ResourceID: e.Assignment.ResourceID,
			From: e.Assignment.From, Until: e.Assignment.Until,
			Outcome: string(e.Outcome), Conditions: e.Conditions, Seats: e.Seats,
		}
		if e.Assignment.Holder.Group {
			x.Group = e.Assignment.Holder.ID
		}
		t.Assignments = append(t.Assignments, x)
	}
	x.Access = t
	x.Changes = append(accessChanges(&a, &d, t), x.Changes...)
	return x, nil
}

// failsBesidePlan reports whether something other than the plan and its limit denies.
// Then no change of the plan alone would make the answer a yes.
func failsBesidePlan(l *usher.Legs) bool {
	return l.Role == usher.LegFail || l.Condition == usher.LegFail || l.Seat == usher.LegFail
}

func register(d *usher.Decision) usher.WhatWouldChange {
	return usher.WhatWouldChange{Kind: usher.AdviceMember, What: "register the member, or make it active", Target: d.Member}
}

// accessChanges says what would change the answer about a member's permission. As
// Advise does, it decides again: with another role, with a seat, or later. Only if the
// member is unknown it names the first step, whatever else is missing.
func accessChanges(a *asked, d *usher.Decision, t *usher.AccessTrace) (all []usher.WhatWouldChange) {
	switch {
	case d.Allowed || d.Reason == usher.UnknownCustomer:
		return nil
	case d.Reason == usher.UnknownMember:
		return []usher.WhatWouldChange{register(d)}
	case d.Reason == usher.UnknownPermission:
		return []usher.WhatWouldChange{{Kind: usher.AdviceCatalogue, What: "add the permission to the catalogue", Target: d.Permission}}
	case d.Legs.Plan == usher.LegFail || d.Legs.Limit == usher.LegFail:
		return nil // the plan denies too, so nothing about the member alone is enough
	}
	would := func(f access.Facts, at time.Time) bool {
		q := a.question
		q.At = at
		x := a.subject.Roles().Subject(f, at).Decide(&q)
		return x.Reason == "" && x.Seat != usher.LegFail
	}
	for at, n := a.subject.ValidUntil(&a.question), 0; !at.IsZero() && n < maxWaits; n++ {
		if would(a.subject.Facts, at) {
			all = append(all, usher.WhatWouldChange{Kind: usher.AdviceWait, What: "a role begins", At: at})
			break
		}
		q := a.question
		q.At = at
		next := a.subject.ValidUntil(&q)
		if !next.After(at) {
			break
		}
		at = next
	}
	for _, f := range a.seatsMissing(t) {
		facts := a.subject.Facts
		facts.Seats = append(slices.Clip(facts.Seats), access.Seat{Feature: f})
		if a.seatFree(d.Customer, f) && would(facts, a.at) {
			all = append(all, usher.WhatWouldChange{Kind: usher.AdviceSeat, What: "give the member a seat of " + f, Target: f})
		}
	}
	for _, role := range t.Roles {
		facts := a.subject.Facts
		facts.Seats = append(slices.Clip(facts.Seats), a.seatsFree(d)...) // a role takes the seats that it needs (A08)
		facts.Assignments = append(slices.Clip(facts.Assignments), usher.Assignment{Role: role})
		if d.Legs.Role == usher.LegFail && would(facts, a.at) {
			all = append(all, usher.WhatWouldChange{Kind: usher.AdviceRole, What: "assign the role " + role, Target: role})
		}
	}
	return all
}

func (a *asked) seatFree(customer, feature string) bool {
	d := engine.Decide(a.snap, engine.Query{Customer: customer, Feature: feature, Amount: 1}, a.at)
	return d.Allowed
}

// seatsFree returns a seat of each feature that has one to give.
func (a *asked) seatsFree(d *usher.Decision) (all []access.Seat) {
	for key, f := range a.snap.World.Book().Features {
		if f.Kind == usher.Seats && a.seatFree(d.Customer, key) {
			all = append(all, access.Seat{Feature: key})
		}
	}
	return all
}

// maxWaits bounds how many instants to come are looked at.
const maxWaits = 64

// seatsMissing lists the features of which the member's roles need a seat that it does
// not have.
func (a *asked) seatsMissing(t *usher.AccessTrace) (all []string) {
	for _, x := range t.Assignments {
		if access.Outcome(x.Outcome) != access.SeatMissing {
			continue
		}
		for _, f := range x.Seats {
			if !slices.Contains(all, f) && !slices.ContainsFunc(a.subject.Seats, func(s access.Seat) bool { return s.Feature == f }) {
				all = append(all, f)
			}
		}
	}
	return all
}
