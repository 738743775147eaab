package engine

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// Hold is an open reservation (S23): from At until it is settled or released, or
// until Expires, nobody else can use Amount of Feature.
type Hold struct {
	ID          string
	Customer    string
	Feature     string
	Amount      int64 // smallest units
	At, Expires time.Time
	Entries     []Entry // what it holds of which bucket, in burn order
}

// Lapse is one posting of a reservation, or of a seat with an end, that stops
// counting by itself (S10). From Expires on it does not count, whether or not a job
// has run.
type Lapse struct {
	ID      string // of the reservation; of a seat, its holder
	Bucket  BucketKey
	Used    bool // it counts in the bucket's Used; otherwise in Reserved
	Amount  int64
	At      int64 // when it began, microseconds since 1970 UTC
	Expires int64 // microseconds since 1970 UTC
}

// Lapses returns the postings of an open reservation.
func (h *Hold) Lapses() []Lapse {
	out := make([]Lapse, len(h.Entries))
	for i, e := range h.Entries {
		out[i] = Lapse{ID: h.ID, Bucket: e.Bucket, Amount: e.Amount, At: h.At.UnixMicro(), Expires: h.Expires.UnixMicro()}
	}
	return out
}

// SetLapses sets the lapses of the snapshot's buckets. No other goroutine may have
// the snapshot yet.
func (s *Snapshot) SetLapses(list []Lapse) {
	s.lapses = slices.Clone(list)
	slices.SortFunc(s.lapses, func(x, y Lapse) int {
		if c := cmp.Compare(x.Expires, y.Expires); c != 0 {
			return c
		}
		return cmp.Compare(x.ID, y.ID)
	})
}

// Lapses returns the postings that will stop counting by themselves, soonest first.
func (s *Snapshot) Lapses() []Lapse { return s.lapses }

// Expire gives back what has expired by an instant, and reports whether anything
// has. Call it once, on a clone, before anything else changes the clone. From then
// on every lapse that is left counts as still held, whatever the instant asked about,
// so that nothing is given back twice. The buckets of what expired must be in memory.
func (s *Snapshot) Expire(now time.Time) bool {
	at, n := now.UnixMicro(), 0
	for n < len(s.lapses) && s.lapses[n].Expires <= at {
		l := &s.lapses[n]
		if l.Used {
			s.adjust(l.Bucket, -l.Amount, 0)
		} else {
			s.adjust(l.Bucket, 0, -l.Amount)
		}
		n++
	}
	s.lapses = s.lapses[n:]
	s.held = true
	return n > 0
}

// forget drops the lapses of a reservation, or of a holder's seat.
func (s *Snapshot) forget(id, feature string, seat bool) {
	s.lapses = slices.DeleteFunc(slices.Clone(s.lapses), func(l Lapse) bool {
		return l.ID == id && (l.Bucket.Clock == ClockSeats) == seat && (!seat || l.Bucket.Feature == feature)
	})
}

// remember adds lapses.
func (s *Snapshot) remember(list ...Lapse) {
	s.SetLapses(append(slices.Clone(s.lapses), list...))
}

// lapsed returns a bucket's use and holds without what has expired by at. After Expire
// the bucket has no such part.
func (s *Snapshot) lapsed(b *Bucket, at int64) (used, reserved int64) {
	used, reserved = b.Used, b.Reserved
	if s.held {
		return used, reserved
	}
	for j := range s.lapses {
		l := &s.lapses[j]
		if l.Expires > at {
			break
		}
		if l.Bucket == b.BucketKey {
			if l.Used {
				used -= l.Amount
			} else {
				reserved -= l.Amount
			}
		}
	}
	return used, reserved
}

// heldIn returns what is still reserved in the span of an opening, from clocks that
// are gone. It may become use, so it counts as the use of the span does (S34); the
// stored sums have only use.
func (s *Snapshot) heldIn(o *Opening, at int64) (n int64) {
	for i := range s.lapses {
		l := &s.lapses[i]
		inSpan := l.At >= o.From && l.At < o.Until
		if l.Used || l.Bucket.Feature != o.Feature || isCap(l.Bucket.Clock) || !inSpan || o.excepts(l.Bucket.Clock) {
			continue
		}
		if s.held || l.Expires > at {
			n = satAdd(n, l.Amount)
		}
	}
	return n
}

// opened returns what a window opens with.
func (s *Snapshot) opened(o *Opening, at int64) int64 {
	n := s.openings[o.Key()]
	if len(s.lapses) > 0 {
		n = satAdd(n, s.heldIn(o, at))
	}
	return n
}

// reopen adds entries that were just posted at an earlier instant to the sums that the
// present windows open with. The sums were read from the database before, so they do
// not have these entries yet (S34).
func (s *Snapshot) reopen(feature string, entries []Entry, at, now time.Time) {
	f := s.World.feature(feature)
	if f == nil || !s.World.Known() {
		return
	}
	minute := at.UnixMicro() - at.UnixMicro()%minuteµs
	sums := map[BucketKey]int64{}
	add := func(o *Opening) {
		if o == nil || minute < o.From || minute >= o.Until {
			return
		}
		n := s.openings[o.Key()]
		for _, e := range entries {
			if e.Allowance != EntryCap && e.Bucket.Feature == o.Feature && !o.excepts(e.Bucket.Clock) {
				n = satAdd(n, e.Amount)
			}
		}
		sums[o.Key()] = max(n, 0)
	}
	for ; f != nil; f = f.pool {
		fr := s.World.frameAt(f, now.UnixMicro())
		for i := range fr.rows {
			add(fr.rows[i].opening)
			if r := fr.rows[i].roll; r != nil {
				add(r.opening)
			}
		}
		for i := range fr.caps {
			for _, o := range fr.caps[i].openings {
				add(o)
			}
		}
	}
	s.Open(sums)
}

// isCap reports whether a clock is a cap's.
func isCap(clock string) bool { return len(clock) > 4 && clock[:4] == "cap:" }

// adjust adds to a bucket's use and holds; usually the amounts are negative. It does
// not ask what is in force now, because the bucket may be of a window or a plan that
// is over. If less is beyond the limit afterwards, excess shrinks first and overage
// after it (S14, S20). What more use is beyond the limit is excess. A bucket that is
// not in memory does not change.
func (s *Snapshot) adjust(k BucketKey, used, reserved int64) {
	b, ok := s.Bucket(k)
	if !ok {
		return
	}
	b.Used, b.Reserved = b.Used+used, b.Reserved+reserved // the database refuses a negative count (I1)
	if !b.Unlimited {
		beyond := max(satAdd(satAdd(b.Used, b.Reserved), b.Opening)-b.Limit, 0)
		b.Overage = min(b.Overage, beyond)
		b.Excess = beyond - b.Overage
	}
	s.write(b)
}

// partOf returns the entries of the first n units of a take, in burn order: those of
// its own feature, those of the pool for the units that were drawn from it, and those
// of the caps that counted them. entries must come from net.
func partOf(feature string, entries []Entry, n int64) (out []Entry) {
	// drawn: units of the feature among the first n that the pool paid for. drawnAll:
	// such units of the whole take. poolAll: what the pool paid for them, in credits.
	var drawn, drawnAll, poolAll int64
	for _, e := range entries {
		switch {
		case e.Allowance == EntryDrawn:
			drawnAll += e.Amount
		case e.Allowance != EntryCap && e.Bucket.Feature != feature:
			poolAll += e.Amount
		}
	}
	keep := func(e Entry, left *int64) {
		if e.Amount = min(e.Amount, *left); e.Amount > 0 {
			*left -= e.Amount
			out = append(out, e)
		}
	}
	own := n
	for _, e := range entries {
		if e.Bucket.Feature != feature || e.Allowance == EntryCap {
			continue
		}
		before := own
		keep(e, &own)
		if e.Allowance == EntryDrawn {
			drawn += before - own
		}
	}
	var pool int64
	if drawnAll > 0 { // poolAll is a multiple of drawnAll: the quotient is the rate of the take
		pool = drawn * (poolAll / drawnAll)
	}
	left := pool
	for _, e := range entries {
		if e.Bucket.Feature != feature && e.Allowance != EntryCap {
			keep(e, &left)
		}
	}
	for _, e := range entries {
		if e.Allowance == EntryCap {
			counted := n - own
			if e.Bucket.Feature != feature {
				counted = pool
			}
			keep(e, &counted)
		}
	}
	return out
}

// net merges the entries of one bucket and allowance, in the order of the first of
// each, and leaves out sums of 0.
func net(entries []Entry) []Entry {
	at := make(map[posting]int, len(entries)) // where each is in out
	var out []Entry
	for _, e := range entries {
		k := posting{e.Bucket, e.Allowance}
		if i, ok := at[k]; ok {
			out[i].Amount += e.Amount
			continue
		}
		at[k] = len(out)
		out = append(out, e)
	}
	return slices.DeleteFunc(out, func(e Entry) bool { return e.Amount == 0 })
}

// posting identifies the entries that net merges.
type posting struct {
	bucket    BucketKey
	allowance string
}

// Taken returns how many units of a feature entries come to.
func Taken(feature string, entries []Entry) (n int64) {
	for _, e := range entries {
		if e.Bucket.Feature == feature && e.Allowance != EntryCap {
			n = satAdd(n, e.Amount)
		}
	}
	return n
}

// Settle ends a reservation with the amount actually used (S23). What was held
// becomes use in the window of the hold, in the order in which it was held; the rest
// is given back. An amount beyond the hold, or all of it if the hold has expired, is
// booked like an event at the instant of the hold: from what is still left there, then
// as overage, then as excess. If the customer was deleted, or the feature has left the
// catalogue, nothing says any more what is left: all beyond the hold is excess, in the
// bucket h.Home names (S36). The decision is about the feature now. Call Expire first.
// The buckets that Needs names at the hold's instant, and Home, must be in memory.
// amount must not be negative, and as Settles permits.
func Settle(s *Snapshot, h *Hold, amount int64, now time.Time) Effect {
	if amount < 0 {
		panic("engine: Settle: amount must not be negative")
	}
	var e Effect
	f := s.World.feature(h.Feature)
	rest := amount
	if now.Before(h.Expires) {
		s.forget(h.ID, h.Feature, false)
		held := net(h.Entries)
		kept := partOf(h.Feature, held, min(amount, h.Amount))
		used := make(map[posting]int64, len(kept))
		for _, k := range kept {
			used[posting{k.Bucket, k.Allowance}] = k.Amount
		}
		for _, en := range held {
			s.adjust(en.Bucket, used[posting{en.Bucket, en.Allowance}], -en.Amount)
		}
		e.Entries = kept
		rest -= min(amount, h.Amount)
	}
	if rest > 0 && !s.counts(f) {
		e.Entries = net(append(e.Entries, s.strand(h, rest)...))
	} else if rest > 0 {
		more := Take(s, Op{Kind: Record, Customer: h.Customer, Feature: h.Feature, Amount: rest}, h.At)
		e.Overflow, e.Would = more.Overflow, more.Would
		e.Entries = net(append(e.Entries, more.Entries...))
	}
	s.reopen(h.Feature, e.Entries, h.At, now)
	e.after(s, h.Customer, h.Feature, now)
	if rest > 0 && !s.counts(f) && !e.Decision.Allowed {
		e.Would = e.Decision.Reason
	}
	e.Decision.Taken, e.Decision.Consumed = true, Taken(h.Feature, e.Entries)
	e.deduct(s, h.Feature)
	return e
}

// Settles reports whether a reservation can be settled with an amount without passing
// int64 (S24).
func Settles(s *Snapshot, h *Hold, amount int64, now time.Time) bool {
	rest := amount // what is new use
	if now.Before(h.Expires) {
		rest = max(amount-h.Amount, 0)
	}
	if s.counts(s.World.feature(h.Feature)) {
		return Fits(s, h.Feature, rest, h.At)
	}
	b, _ := s.Bucket(h.Home())
	return satAdd(satAdd(b.Used, b.Reserved), b.Opening) <= math.MaxInt64-rest
}

// counts reports whether the customer and the feature are known, and the feature's use
// is counted, so that Take can decide.
func (s *Snapshot) counts(f *feature) bool { return f != nil && s.World.Known() && f.def.Kind.Counts() }

// Home returns the bucket that counts what a settlement uses beyond the hold if
// nothing can be decided about it any more: that of the last plan or add-on allowance
// that is held, because its window is the hold's, else the one of use that nothing
// entitles. A grant never pays for excess (S14).
func (h *Hold) Home() BucketKey {
	for i := len(h.Entries) - 1; i >= 0; i-- {
		k := h.Entries[i].Bucket
		grant := strings.HasPrefix(k.Clock, "grant:") || strings.HasPrefix(k.Clock, "rollover:")
		if k.Feature == h.Feature && !isCap(k.Clock) && !grant && k.Clock != ClockDrawn {
			return k
		}
	}
	return BucketKey{h.Feature, ClockNone, 0}
}

// strand books n units of a settlement as excess where h.Home says. The caps that
// count the hold count them too.
func (s *Snapshot) strand(h *Hold, n int64) []Entry {
	home := h.Home()
	if !s.Has(home) {
		s.Put(Bucket{BucketKey: home, End: maxMicro})
	}
	s.adjust(home, n, 0)
	out := []Entry{{home, EntryExcess, n}}
	for _, e := range net(h.Entries) {
		if e.Allowance == EntryCap && e.Bucket.Feature == h.Feature {
			s.adjust(e.Bucket, n, 0)
			out = append(out, Entry{e.Bucket, EntryCap, n})
		}
	}
	return out
}

// Release ends a reservation and gives back all that it held. An expired reservation
// has given that back already. Call Expire first.
func Release(s *Snapshot, h *Hold, now time.Time) Effect {
	var e Effect
	if now.Before(h.Expires) {
		s.forget(h.ID, h.Feature, false)
		for _, en := range h.Entries {
			s.adjust(en.Bucket, 0, -en.Amount)
		}
	}
	e.after(s, h.Customer, h.Feature, now)
	return e
}

// Correct gives amount units of a take back to the allowances that it burned, in
// the recorded order (S16). entries are the take's, followed by those of earlier
// corrections; amount must not be negative and is at most Taken(feature, entries);
// at is the instant whose minute counts the take. The effect's entries are
// negative. The buckets must be in memory.
func Correct(s *Snapshot, customer, feature string, entries []Entry, amount int64, at, now time.Time) Effect {
	if amount < 0 {
		panic("engine: Correct: amount must not be negative")
	}
	var e Effect
	for _, en := range partOf(feature, net(entries), amount) {
		s.adjust(en.Bucket, -en.Amount, 0)
		en.Amount = -en.Amount
		e.Entries = append(e.Entries, en)
	}
	s.reopen(feature, e.Entries, at, now)
	e.after(s, customer, feature, now)
	return e
}

// after sets the effect's decision: what a check of the feature says now, without an
// amount.
func (e *Effect) after(s *Snapshot, customer, feature string, now time.Time) {
	e.Decision = Decide(s, Query{Customer: customer, Feature: feature, Buf: new(Buf)}, now)
}

// deduct sets the decision's deductions: the entries that an allowance paid for.
func (e *Effect) deduct(s *Snapshot, feature string) {
	for _, en := range e.Entries {
		if en.Allowance == EntryExcess || en.Allowance == EntryDrawn || en.Allowance == EntryCap {
			continue
		}
		d := usher.Deduction{Allowance: en.Allowance, Amount: en.Amount}
		if en.Bucket.Feature != feature {
			d.Feature = en.Bucket.Feature
			if p := s.World.feature(d.Feature); p != nil {
				d.Precision = p.def.Precision
			}
		}
		e.Decision.Deductions = append(e.Decision.Deductions, d)
	}
}
