package engine

import (
	"cmp"
	"slices"
	"time"

	"github.com/usher-sh/usher"
)

// Hold is an open reservation (S23): Amount of Feature is out of reach of
// others from At until it is settled, released, or Expires.
type Hold struct {
	ID          string
	Customer    string
	Feature     string
	Amount      int64 // smallest units
	At, Expires time.Time
	Entries     []Entry // what it holds of which bucket, in the order of burning
}

// Lapse is one posting that ends by itself (S10): of a reservation, or the seat
// of a holder with an end. From Expires on it no longer counts, whether or not
// anything has run.
type Lapse struct {
	ID      string // of the reservation; of a seat, its holder
	Bucket  BucketKey
	Used    bool // it is counted in Used; else in Reserved
	Amount  int64
	At      int64 // when it began, microseconds since 1970 UTC
	Expires int64 // microseconds since 1970 UTC
}

// Lapses are the postings of an open reservation.
func (h *Hold) Lapses() []Lapse {
	out := make([]Lapse, len(h.Entries))
	for i, e := range h.Entries {
		out[i] = Lapse{ID: h.ID, Bucket: e.Bucket, Amount: e.Amount, At: h.At.UnixMicro(), Expires: h.Expires.UnixMicro()}
	}
	return out
}

// SetLapses says what in the buckets ends by itself. Only for a snapshot that
// nobody else reads yet.
func (s *Snapshot) SetLapses(list []Lapse) {
	s.lapses = slices.Clone(list)
	slices.SortFunc(s.lapses, func(x, y Lapse) int {
		if c := cmp.Compare(x.Expires, y.Expires); c != 0 {
			return c
		}
		return cmp.Compare(x.ID, y.ID)
	})
}

// Lapses are the postings that will end by themselves, soonest first.
func (s *Snapshot) Lapses() []Lapse { return s.lapses }

// Expire gives back what ended by an instant, once, on a clone; operations that
// follow on the clone count what is still held as held. It reports whether
// anything ended. The buckets of what ended must be in memory.
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

// forget drops the lapses of a reservation, or of a holder of a feature.
func (s *Snapshot) forget(id, feature string, seat bool) {
	s.lapses = slices.DeleteFunc(slices.Clone(s.lapses), func(l Lapse) bool {
		return l.ID == id && (l.Bucket.Clock == ClockSeats) == seat && (!seat || l.Bucket.Feature == feature)
	})
}

// remember adds lapses to those that there are.
func (s *Snapshot) remember(list ...Lapse) {
	s.SetLapses(append(slices.Clone(s.lapses), list...))
}

// lapsed is what a bucket still shows and what has ended by at.
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

// heldIn is what is held, at an instant, of the span that an opening sums: what
// was taken by clocks that are gone, and may yet become use (S34).
func (s *Snapshot) heldIn(o *Opening, at int64) (n int64) {
	for i := range s.lapses {
		l := &s.lapses[i]
		if l.Used || l.Bucket.Feature != o.Feature || isCap(l.Bucket.Clock) || l.At < o.From || l.At >= o.Until || o.excepts(l.Bucket.Clock) {
			continue
		}
		if s.held || l.Expires > at {
			n = satAdd(n, l.Amount)
		}
	}
	return n
}

// opened is what a window opens with.
func (s *Snapshot) opened(o *Opening, at int64) int64 {
	n := s.openings[o.Key()]
	if len(s.lapses) > 0 {
		n = satAdd(n, s.heldIn(o, at))
	}
	return n
}

// reopen adds what entries posted at an earlier instant to the sums that the
// windows of now open with: those were read before (S34).
func (s *Snapshot) reopen(feature string, entries []Entry, at, now time.Time) {
	f := s.World.features[feature]
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

func isCap(clock string) bool { return len(clock) > 4 && clock[:4] == "cap:" }

// adjust changes a bucket's use and holds by themselves, in whatever window it
// counts. What lies beyond its limit shrinks from the far end: excess first,
// then overage (S14, S20). Nothing grows but use that was held before.
func (s *Snapshot) adjust(k BucketKey, used, reserved int64) {
	b, ok := s.Bucket(k)
	if !ok {
		return
	}
	b.Used, b.Reserved = b.Used+used, b.Reserved+reserved // below zero is a bug, which the database refuses (I1)
	if !b.Unlimited {
		beyond := max(satAdd(satAdd(b.Used, b.Reserved), b.Opening)-b.Limit, 0)
		b.Overage = min(b.Overage, beyond)
		b.Excess = beyond - b.Overage
	}
	s.write(b)
}

// part is the first n units of a take, in the order in which it burned: of its
// own feature, of the pool as far as those units were drawn from it, and of the
// caps that counted them.
func partOf(feature string, entries []Entry, n int64) (out []Entry) {
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
	if drawnAll > 0 {
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

// net merges entries of one bucket and allowance, in the order of the first of
// each, and leaves out what came to nothing.
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

// posting is what entries are merged by.
type posting struct {
	bucket    BucketKey
	allowance string
}

// Taken is how many units of a feature entries come to.
func Taken(feature string, entries []Entry) (n int64) {
	for _, e := range entries {
		if e.Bucket.Feature == feature && e.Allowance != EntryCap {
			n = satAdd(n, e.Amount)
		}
	}
	return n
}

// Settle ends a reservation with the true amount (S23). What was held becomes
// use in the window of the hold, in the order in which it was held; the rest is
// given back. An amount beyond the hold, or all of it where the hold has
// expired, is booked as an event of the hold's instant would be: from what is
// still left there, then as overage, then as excess. The decision is that of
// the feature now. Expire comes before it; at the hold's instant all that Needs
// names must be in memory.
func Settle(s *Snapshot, h *Hold, amount int64, now time.Time) Effect {
	var e Effect
	f := s.World.features[h.Feature]
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
	if rest > 0 && f != nil {
		more := Take(s, Op{Kind: Record, Customer: h.Customer, Feature: h.Feature, Amount: rest}, h.At)
		e.Overflow, e.Would = more.Overflow, more.Would
		e.Entries = net(append(e.Entries, more.Entries...))
	}
	s.reopen(h.Feature, e.Entries, h.At, now)
	e.after(s, h.Customer, h.Feature, now)
	e.Decision.Taken, e.Decision.Consumed = true, amount
	e.deduct(s, h.Feature)
	return e
}

// Release ends a reservation and gives back all that it held. Where it has
// expired that has happened already. Expire comes before it.
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

// Correct gives amount units of a take back to the allowances that it burned,
// in the recorded order (S16). entries are the take's, followed by those of the
// corrections that it has had; amount is at most what Taken says they come to;
// at is the instant whose minute counts the take. The entries of the effect are
// negative. The buckets must be in memory.
func Correct(s *Snapshot, customer, feature string, entries []Entry, amount int64, at, now time.Time) Effect {
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

// after decides the feature as it stands now, without an amount.
func (e *Effect) after(s *Snapshot, customer, feature string, now time.Time) {
	e.Decision = Decide(s, Query{Customer: customer, Feature: feature, Buf: new(Buf)}, now)
}

// deduct lists the entries of allowances as the decision's deductions.
func (e *Effect) deduct(s *Snapshot, feature string) {
	for _, en := range e.Entries {
		if en.Allowance == EntryExcess || en.Allowance == EntryDrawn || en.Allowance == EntryCap {
			continue
		}
		d := usher.Deduction{Allowance: en.Allowance, Amount: en.Amount}
		if en.Bucket.Feature != feature {
			d.Feature = en.Bucket.Feature
			if p := s.World.features[d.Feature]; p != nil {
				d.Precision = p.def.Precision
			}
		}
		e.Decision.Deductions = append(e.Decision.Deductions, d)
	}
}
