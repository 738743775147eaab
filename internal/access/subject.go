package access

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// Facts is what is known about one member.
type Facts struct {
	Member *usher.Member // nil: unknown
	// Assignments are the member's own and those of its groups, direct or through
	// other groups.
	Assignments []usher.Assignment
	Seats       []Seat // that it holds now, without pending ones
}

// Seat is a seat that a member holds.
type Seat struct {
	Feature string
	Expires time.Time // zero: it does not end by itself
}

// Subject is one member, compiled. It never changes.
type Subject struct {
	Facts
	roles  *Roles
	always bits    // given everywhere, without an end, conditions or seats
	since  int64   // from when on always holds, µs
	grants []grant // the terms that hold for every resource
	scoped map[scope][]grant
	// ever and partly are all permissions that grants and scoped give at any time and
	// under any condition. Most answers of "no" need no more than a look at them.
	ever, partly bits
	asks         bool // some grant has conditions
	seated       bool // some grant needs seats
}

type scope struct{ resourceType, resourceID string } // id "": every resource of the type

// grant is one term of one assignment's role.
type grant struct {
	*term
	from, until int64 // µs
	assignment  int
}

// Subject compiles a member. Questions about any instant are answered correctly, and
// those about at and later fastest.
func (rs *Roles) Subject(f Facts, at time.Time) *Subject {
	n := (len(rs.book.perms) + 63) / 64
	sets := make(bits, 3*n)
	s := &Subject{Facts: f, roles: rs, always: sets[:n], ever: sets[n : 2*n], partly: sets[2*n:], since: math.MinInt64}
	for i := range f.Assignments {
		a := &f.Assignments[i]
		r := rs.find(a.Role)
		if r == nil || r.custom && rs.book.roles[a.Role] != nil {
			continue
		}
		g := grant{from: math.MinInt64, until: math.MaxInt64, assignment: i}
		if !a.From.IsZero() {
			g.from = a.From.UnixMicro()
		}
		if a.Until != nil {
			g.until = a.Until.UnixMicro()
		}
		for j := range r.terms {
			g.term = &r.terms[j]
			s.asks = s.asks || len(g.when) > 0
			s.seated = s.seated || len(g.seats) > 0
			if a.ResourceType != "" {
				if s.scoped == nil {
					s.scoped = map[scope][]grant{}
				}
				k := scope{a.ResourceType, a.ResourceID}
				s.scoped[k] = append(s.scoped[k], g)
				s.partly.or(g.bits)
				continue
			}
			// A grant without end, conditions and seats becomes one bit test in Decide, from
			// since on. One that begins after at stays out, because it would delay since, and
			// with it that test, for all others.
			if g.until == math.MaxInt64 && g.from <= at.UnixMicro() && len(g.when) == 0 && len(g.seats) == 0 {
				s.always.or(g.bits)
				s.since = max(s.since, g.from)
			}
			s.grants = append(s.grants, g)
			s.ever.or(g.bits)
		}
	}
	return s
}

// Bytes estimates the memory that the subject holds alone, in bytes: without its roles,
// which all members share.
func (s *Subject) Bytes() int {
	n := 400 + 24*len(s.always) + 260*len(s.Assignments) + 64*len(s.Seats) + 48*len(s.grants)
	for _, list := range s.scoped {
		n += 96 + 48*len(list)
	}
	if m := s.Member; m != nil {
		n += 200 + len(m.ID) + len(m.Type)
		for name, v := range m.Properties {
			n += 64 + len(name)
			if text, ok := v.(string); ok {
				n += len(text)
			} else {
				n += 256 // a list or an object: requests bound their size
			}
		}
	}
	return n
}

// Question is one question about a member.
type Question struct {
	Permission   string
	ResourceType string // "": about no resource, where scoped assignments do not count
	ResourceID   string
	At           time.Time
	// Conditions read Stored and Said: the properties that are registered for the
	// resource, and those that the caller sends, which replace them key by key.
	Stored map[string]any
	Said   *Said
}

// Said is the properties that a caller sends. Each may be nil.
type Said struct {
	Subject, Action, Resource, Context map[string]any
}

// Answer is the decision about the member: its role, conditions and seats.
type Answer struct {
	// Reason is the first that fails of member, role and condition; "" if none does.
	// A missing seat is in Seat and not in Reason, because the plan comes before it.
	Reason     usher.Reason
	Role       usher.Leg
	Condition  usher.Leg
	Seat       usher.Leg
	Permission *usher.Permission // nil: unknown
}

// Conditional reports whether any of the member's roles has a condition, so that
// Stored is read.
func (s *Subject) Conditional() bool { return s.asks }

// Seated reports whether any of the member's roles asks for a seat, so that
// Facts.Seats is read.
func (s *Subject) Seated() bool { return s.seated }

// Active reports whether the member exists and is active.
func (s *Subject) Active() bool { return s.Member != nil && s.Member.Active }

// Decide answers a question. The permission is given if any role gives it that is in
// force and in scope, held directly or through groups (A03). One way is enough whose
// conditions are true and whose seats are held. It allocates only to evaluate a
// condition.
func (s *Subject) Decide(q *Question) Answer {
	a := Answer{Role: usher.LegFail, Condition: usher.LegNone, Seat: usher.LegNone}
	i, known := s.roles.book.bit[q.Permission]
	if known {
		a.Permission = s.roles.book.perms[i]
	}
	switch {
	case !s.Active(): // an unknown or inactive member holds no role
		a.Reason = usher.UnknownMember
		return a
	case !known:
		a.Reason = usher.UnknownPermission
		return a
	}
	at := q.At.UnixMicro()
	if at >= s.since && s.always.has(i) {
		a.Role = usher.LegPass
		return a
	}
	best := shut
	if s.ever.has(i) {
		best = s.try(q, s.grants, i, at, shut, &a)
	}
	// Scoped assignments are looked at last: a question about no resource never asks them,
	// and most permissions are given everywhere.
	if best < open && q.ResourceType != "" && s.partly.has(i) {
		if best = s.try(q, s.scoped[scope{q.ResourceType, ""}], i, at, best, &a); best < open && q.ResourceID != "" {
			best = s.try(q, s.scoped[scope{q.ResourceType, q.ResourceID}], i, at, best, &a)
		}
	}
	switch {
	case best == shut:
		a.Reason = usher.NoRole
	case a.Condition == usher.LegFail:
		a.Reason = usher.ConditionFailed
	}
	return a
}

// How near a way comes to a yes, worst first.
const (
	shut     = iota // no role gives it
	doubtful        // a condition fails
	seatless        // a seat is missing
	open
)

// ValidUntil returns the next instant at which time alone may change the answer to a
// question; zero means that it never does. If a condition that may matter reads the
// time, this is the instant of the question itself.
func (s *Subject) ValidUntil(q *Question) (until time.Time) {
	i, known := s.roles.book.bit[q.Permission]
	at := q.At.UnixMicro()
	if !s.Active() || !known || at >= s.since && s.always.has(i) {
		return until
	}
	soonest := int64(math.MaxInt64)
	add := func(t int64) {
		if t > at {
			soonest = min(soonest, t)
		}
	}
	look := func(list []grant) {
		for j := range list {
			g := &list[j]
			if !g.bits.has(i) || g.until <= at {
				continue
			}
			add(g.from)
			add(g.until)
			for _, seat := range s.Seats {
				if !seat.Expires.IsZero() && slices.Contains(g.seats, seat.Feature) {
					add(seat.Expires.UnixMicro())
				}
			}
			// A text search is enough: at worst an answer is called short-lived that is not.
			if slices.ContainsFunc(g.when, func(text string) bool { return strings.Contains(text, "now") }) {
				soonest = at
			}
		}
	}
	if s.ever.has(i) {
		look(s.grants)
	}
	if q.ResourceType != "" && s.partly.has(i) {
		look(s.scoped[scope{q.ResourceType, ""}])
		if q.ResourceID != "" {
			look(s.scoped[scope{q.ResourceType, q.ResourceID}])
		}
	}
	if soonest == math.MaxInt64 {
		return until
	}
	return time.UnixMicro(soonest).UTC()
}

// try looks among some grants for a better way than the best so far.
func (s *Subject) try(q *Question, list []grant, i int, at int64, best int, a *Answer) int {
	for j := range list {
		g := &list[j]
		if !g.bits.has(i) || at < g.from || g.until <= at {
			continue
		}
		condition, seat, rank := usher.LegNone, usher.LegNone, open
		if len(g.seats) > 0 {
			if seat = usher.LegPass; !s.sits(g.seats, at) {
				seat, rank = usher.LegFail, seatless
			}
		}
		if len(g.when) > 0 {
			// A condition is expensive: it is evaluated only if this way would be better than
			// the best so far.
			if condition = usher.LegPass; rank > best && !s.holds(q, g.when) {
				condition, rank = usher.LegFail, doubtful
			}
		}
		if rank > best {
			best = rank
			a.Role, a.Condition, a.Seat = usher.LegPass, condition, seat
			if best == open {
				break
			}
		}
	}
	return best
}

func (s *Subject) sits(features []string, at int64) bool {
	for _, f := range features {
		if !slices.ContainsFunc(s.Seats, func(x Seat) bool { return x.Feature == f && (x.Expires.IsZero() || at < x.Expires.UnixMicro()) }) {
			return false
		}
	}
	return true
}

// holds reports whether every condition is true. A condition with an error is false.
func (s *Subject) holds(q *Question, when []string) bool {
	r := s.request(q)
	for _, text := range when {
		f := s.roles.book.conds[text]
		if f == nil {
			return false
		}
		if ok, err := f(r); err != nil || !ok {
			return false
		}
	}
	return true
}

func (s *Subject) request(q *Question) *usher.AccessRequest {
	_, action := SplitPermission(q.Permission)
	r := &usher.AccessRequest{
		Subject:  usher.Entity{Type: s.Member.Type, ID: s.Member.ID, Properties: s.Member.Properties},
		Action:   action,
		Resource: usher.Entity{Type: q.ResourceType, ID: q.ResourceID, Properties: q.Stored},
		Now:      q.At.UTC(),
	}
	if q.Said != nil {
		r.Subject.Properties = overlay(r.Subject.Properties, q.Said.Subject)
		r.Resource.Properties = overlay(r.Resource.Properties, q.Said.Resource)
		r.ActionProperties, r.Context = q.Said.Action, q.Said.Context
	}
	return r
}

// overlay returns stored properties, replaced key by key by those that were sent.
func overlay(stored, said map[string]any) map[string]any {
	if len(stored) == 0 {
		return said
	}
	if len(said) == 0 {
		return stored
	}
	all := maps.Clone(stored)
	maps.Copy(all, said)
	return all
}

// SplitPermission splits a permission at its last dot, into the resource type and the
// action.
func SplitPermission(key string) (resourceType, action string) {
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		return key[:i], key[i+1:]
	}
	return "", key
}

// Holds returns the permissions that the member has at an instant without conditions
// and for every resource, each with its end (zero: none). A member may give these to
// others, for no longer than it has them (A05). Seats do not matter here.
func (s *Subject) Holds(at time.Time) map[string]time.Time {
	all := map[string]time.Time{}
	if !s.Active() {
		return all
	}
	us := at.UnixMicro()
	for i := range s.grants {
		g := &s.grants[i]
		if len(g.when) > 0 || us < g.from || g.until <= us {
			continue
		}
		var end time.Time
		if g.until != math.MaxInt64 {
			end = time.UnixMicro(g.until).UTC()
		}
		for _, key := range s.roles.book.names(g.bits) {
			// Of several assignments that give it, the one that ends last counts.
			if was, there := all[key]; !there || !was.IsZero() && (end.IsZero() || end.After(was)) {
				all[key] = end
			}
		}
	}
	return all
}

// Trace is one assignment that was considered, and its outcome.
type Trace struct {
	Assignment usher.Assignment
	Outcome    Outcome
	Conditions []string // of the way that came nearest to a yes
	Seats      []string // of the same way
}

// Outcome says what an assignment contributes to the answer.
type Outcome string

// The outcomes, nearest to a yes first.
const (
	Gives       Outcome = "gives"        // enough for a yes
	SeatMissing Outcome = "seat_missing" // enough, but for a seat
	Untrue      Outcome = "condition_failed"
	NotYet      Outcome = "not_started"
	Over        Outcome = "ended"
	Elsewhere   Outcome = "out_of_scope" // of other resources
	Irrelevant  Outcome = "not_given"    // its role does not give the permission
	NoSuchRole  Outcome = "unknown_role"
)

// Explain returns the outcome of each assignment, in the order of Facts.
func (s *Subject) Explain(q *Question) []Trace {
	all := make([]Trace, len(s.Assignments))
	i, known := s.roles.book.bit[q.Permission]
	at := q.At.UnixMicro()
	for j := range s.Assignments {
		x := &s.Assignments[j]
		t := &all[j]
		*t = Trace{Assignment: *x, Outcome: Irrelevant}
		r := s.roles.find(x.Role)
		if r == nil || r.custom && s.roles.book.roles[x.Role] != nil {
			t.Outcome = NoSuchRole
			continue
		}
		if !known || !r.sum(s.roles.book).has(i) {
			continue
		}
		switch {
		case x.ResourceType != "" && (x.ResourceType != q.ResourceType || x.ResourceID != "" && x.ResourceID != q.ResourceID):
			t.Outcome = Elsewhere
			continue
		case !x.From.IsZero() && q.At.Before(x.From):
			t.Outcome = NotYet
			continue
		case x.Until != nil && !q.At.Before(*x.Until):
			t.Outcome = Over
			continue
		}
		best := shut
		for k := range r.terms {
			g := &r.terms[k]
			if !g.bits.has(i) {
				continue
			}
			rank, outcome := open, Gives
			switch {
			case len(g.when) > 0 && !s.holds(q, g.when):
				rank, outcome = doubtful, Untrue
			case !s.sits(g.seats, at):
				rank, outcome = seatless, SeatMissing
			}
			if rank > best {
				best = rank
				t.Outcome, t.Conditions, t.Seats = outcome, g.when, g.seats
			}
		}
	}
	return all
}

// Roles returns the customer's roles that the member was compiled with.
func (s *Subject) Roles() *Roles { return s.roles }
