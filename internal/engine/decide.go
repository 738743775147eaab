package engine

import (
	"math"
	"slices"
	"time"

	"github.com/usher-sh/usher"
)

// Query is a question: may the snapshot's customer use Feature, Amount of it?
type Query struct {
	Customer string // as asked; echoed in the answer
	Feature  string
	Amount   int64 // smallest units, not negative; ignored by switch and config
	// Buf is memory for the answer's lists. A caller that reuses it between calls
	// decides without allocating; nil allocates what is needed.
	Buf *Buf
}

// Buf is memory that a caller lends to Decide. An answer's lists are valid
// until the next call with the same Buf.
type Buf struct {
	Allowances []usher.AllowanceUse
	Caps       []usher.CapUse
	Deductions []usher.Deduction
	Legs       usher.Legs // not used here: room for a caller that asks about members
	window     usher.Window
	rows       []figures
	pool       []figures
	caps       []capFigures
}

// capFigures are what a cap has counted and what it still lets through.
type capFigures struct{ used, left int64 }

// Decide answers q at an instant. The same arguments give the same answer,
// anywhere and at any time (S01-S05, S09, S10, S20, S34, S37). q.Amount must not
// be negative.
func Decide(s *Snapshot, q Query, at time.Time) usher.Decision {
	if q.Amount < 0 {
		panic("engine: Decide: Query.Amount must not be negative")
	}
	d := usher.Decision{Customer: q.Customer, Feature: q.Feature, Revision: s.Revision}
	f := s.World.features[q.Feature]
	if f != nil {
		d.Kind, d.Precision, d.Type = f.def.Kind, f.def.Precision, f.def.Type
	}
	if s.World.customer == nil {
		d.Reason = usher.UnknownCustomer
		return d
	}
	if f == nil {
		d.Reason = usher.UnknownFeature
		return d
	}
	now := at.UnixMicro()
	fr := s.World.frameAt(f, now)
	if !f.def.Kind.Counts() {
		answerPlain(&d, fr)
		return d
	}
	buf := q.Buf
	if buf == nil {
		buf = new(Buf)
	}
	s.figures(f, fr, buf, now)
	v := s.judge(f, fr, buf, q.Amount, now)
	s.answer(&d, f, fr, buf, now, v)
	return d
}

// answerPlain fills in a switch's or config's answer.
func answerPlain(d *usher.Decision, fr *frame) {
	d.Plan, d.Sources, d.Value = fr.plan, fr.sources, fr.value
	if fr.sources != nil {
		d.Rule = fr.rule
	}
	if fr.dead != "" {
		d.Reason = fr.dead
		return
	}
	d.Allowed, d.Reason = true, usher.Granted
}

// figures computes the figures of a frame's rows and caps.
func (s *Snapshot) figures(f *feature, fr *frame, buf *Buf, at int64) {
	list := s.use[f.def.Key]
	buf.rows = s.resolve(buf.rows[:0], list, f, fr, at)
	buf.caps = buf.caps[:0]
	for i := range fr.caps {
		used, left := s.capUse(list, &fr.caps[i], at)
		buf.caps = append(buf.caps, capFigures{used, left})
	}
	if f.def.Kind == usher.Seats {
		s.seatRows(f, fr, buf.rows, list, at)
	}
}

// resolve appends to out the figures of a frame's rows at an instant.
func (s *Snapshot) resolve(out []figures, list *shelf, f *feature, fr *frame, at int64) []figures {
	out = slices.Grow(out, len(fr.rows))
	for i := range fr.rows {
		out = append(out, figures{})
		s.resolveRow(&out[i], list, f, &fr.rows[i], at)
	}
	return out
}

// resolveRow computes the figures of one row: it finds the row's bucket, adds what
// the window began with, and divides the sum over the limit.
func (s *Snapshot) resolveRow(n *figures, list *shelf, f *feature, r *row, at int64) {
	n.window, n.start, n.unlimited, n.limit = r.window, r.key.Start, r.unlimited, r.limit
	b := -1
	switch {
	case r.firstUse:
		// The window is open if the newest bucket of the clock has not ended yet.
		// Otherwise a use now would begin one, at the start of this minute.
		n.window, n.start = span{}, at-at%minuteµs
		if b = list.latest(r.key.Clock, at); b >= 0 && at < list.list[b].End {
			n.window, n.start = span{list.list[b].Start, list.list[b].End}, list.list[b].Start
		} else {
			b = -1
		}
	case f.gauge == usher.Last:
		b = list.latest(r.key.Clock, r.key.Start) // a level stays until a new one is reported (S33)
	default:
		b = list.find(r.key.Clock, r.key.Start)
	}
	if b >= 0 {
		n.used, n.reserved = list.list[b].Used, list.list[b].Reserved
		if len(s.lapses) > 0 {
			n.used, n.reserved = s.lapsed(&list.list[b], at)
		}
	}
	if r.opening != nil {
		n.opening = s.opened(r.opening, at)
	}
	own := n.used
	switch f.gauge {
	case usher.Last: // the newest value was found above, from whatever window it is
	case usher.Max: // a window that was cut counts too: the greatest value of both
		n.opening = satAdd(n.opening, highest(list, r.carry))
		n.used = max(n.used, n.opening)
		n.opening = n.used - own
	default:
		if len(r.carry) > 0 {
			n.opening = satAdd(n.opening, s.total(list, r.carry, at))
		}
		n.used = satAdd(n.used, n.opening)
	}
	// A late event can lower what an earlier window left. What was burned of it until
	// then stays permitted: it must not become excess after the fact.
	if r.roll != nil {
		n.limit = max(satAdd(own, n.reserved), s.rolledOver(list, r.roll, at))
	}
	n.settle(r.overage)
}

// rolledOver returns what one slot of an earlier window left for later ones (S21):
// its limit, less the window's use beyond the slots before it, at most max.
func (s *Snapshot) rolledOver(list *shelf, r *roll, at int64) int64 {
	used := s.total(list, r.source, at)
	if r.opening != nil {
		used = satAdd(used, s.opened(r.opening, at))
	}
	// The slots before this one burned first: they took the first offset units.
	left := r.limit - min(max(used-r.offset, 0), r.limit)
	return min(left, r.max)
}

// total returns what buckets count together, used and reserved, without what they
// opened with.
func (s *Snapshot) total(list *shelf, keys []BucketKey, at int64) (n int64) {
	for i := range keys {
		if b := list.find(keys[i].Clock, keys[i].Start); b >= 0 {
			n = satAdd(n, s.holds(&list.list[b], at))
		}
	}
	return n
}

// holds returns what a bucket counts at an instant, used and reserved.
func (s *Snapshot) holds(b *Bucket, at int64) int64 {
	if len(s.lapses) == 0 {
		return satAdd(b.Used, b.Reserved)
	}
	return satAdd(s.lapsed(b, at))
}

// highest returns the largest use of any of the buckets.
func highest(list *shelf, keys []BucketKey) (n int64) {
	for i := range keys {
		if b := list.find(keys[i].Clock, keys[i].Start); b >= 0 {
			n = max(n, list.list[b].Used)
		}
	}
	return n
}

// verdict says whether an amount may be taken, and how it would divide.
type verdict struct {
	allowed bool
	reason  usher.Reason
	would   usher.Reason // what denies before the mode softens it; "" if nothing does
	// own, pool, over, poolOver and beyond add up to the amount, all in units of the
	// feature: included in own allowances, included in the pool, own overage, the
	// pool's overage, and what nothing permits.
	own, pool, over, poolOver, beyond int64
	poolHeld                          int64 // what is included in the pool, in credits
	capped                            bool
	poolFrame                         *frame
}

// judge decides an amount against the figures in buf and changes nothing. The
// order is included amounts, credits, overage, the pool's overage (S15, S25); caps
// must let all of it through. The mode softens a refusal that is due to amounts,
// and never one that is due to a missing entitlement (S26).
func (s *Snapshot) judge(f *feature, fr *frame, buf *Buf, amount, at int64) verdict {
	v := verdict{reason: usher.WithinLimit}
	included, room, unlimited := sums(buf.rows)
	if fr.dead != "" {
		v.reason, v.would, v.beyond = fr.dead, fr.dead, amount
		return v
	}
	for i := range buf.caps {
		v.capped = v.capped || amount > buf.caps[i].left
	}
	rest := amount // what no step below has placed yet
	switch {
	case unlimited:
		v.own, rest, v.reason = rest, 0, usher.ReasonUnlimited
		for i := range buf.rows { // unlimited, but only as far as int64 can count (S24)
			if n := &buf.rows[i]; n.unlimited {
				if n.used > math.MaxInt64-amount {
					v.own, rest, v.reason = 0, amount, usher.LimitReached
				}
				break
			}
		}
	default:
		v.own = min(rest, included)
		rest -= v.own
		if f.pool != nil {
			rest = s.judgePool(f, buf, &v, rest, at)
		}
		v.over = min(rest, room)
		rest -= v.over
		if f.pool != nil && rest > 0 {
			v.poolOver = min(rest, v.poolOver)
			rest -= v.poolOver
		} else {
			v.poolOver = 0 // judgePool left here what the pool could hold; none is needed
		}
		if v.over > 0 || v.poolOver > 0 {
			v.reason = usher.ReasonOverage
		}
	}
	v.beyond = rest
	v.allowed = rest == 0 && !v.capped
	if v.allowed {
		return v
	}
	v.reason = f.refusal()
	if v.capped {
		v.reason = usher.CapReached
	}
	v.would = v.reason
	switch fr.mode {
	case usher.Warn:
		v.allowed, v.reason = true, usher.Warned
	case usher.Shadow:
		v.allowed, v.reason = true, usher.Shadowed
	}
	return v
}

// refusal returns the reason when too little is left (S37).
func (f *feature) refusal() usher.Reason {
	switch {
	case f.def.Draws != nil:
		return usher.InsufficientCredits
	case f.def.Kind == usher.Seats:
		return usher.SeatLimitReached
	}
	return usher.LimitReached
}

// judgePool takes from the pool what own allowances do not hold (S25), in whole
// units of the feature: included credits are divided by the rate, rounded down. It
// returns what is then left of rest. In v.poolOver it leaves what the pool's
// overage could still hold; judge takes that after the feature's own overage.
func (s *Snapshot) judgePool(f *feature, buf *Buf, v *verdict, rest, at int64) int64 {
	pf := f.pool
	v.poolFrame = s.World.frameAt(pf, at)
	if v.poolFrame.dead != "" {
		return rest
	}
	list := s.use[pf.def.Key]
	buf.pool = s.resolve(buf.pool[:0], list, pf, v.poolFrame, at)
	included, room, unlimited := sums(buf.pool)
	rate := f.def.Draws.Rate
	if unlimited { // as far as int64 can count (S24)
		included, room = math.MaxInt64, 0
		for i := range buf.pool {
			if n := &buf.pool[i]; n.unlimited {
				included = min(included, math.MaxInt64-satAdd(n.used, n.reserved))
			}
		}
	}
	for i := range v.poolFrame.caps {
		_, left := s.capUse(list, &v.poolFrame.caps[i], at)
		included = min(included, left)
		room = min(room, left-included)
	}
	v.poolHeld = included
	v.pool = min(rest, included/rate)
	// A unit may be paid partly from the last included credits and partly from the
	// overage, so both are added up before they are divided.
	v.poolOver = (satAdd(included, room) - v.pool*rate) / rate
	return rest - v.pool
}

// capUse returns what a cap has counted in its window and what it still lets
// through, both not negative.
func (s *Snapshot) capUse(list *shelf, c *capRow, at int64) (used, left int64) {
	if c.cap.Sliding {
		used = s.slidingUse(list, c, at)
	} else if b := list.find(c.key.Clock, c.key.Start); b >= 0 {
		used = s.holds(&list.list[b], at)
	}
	for _, o := range c.openings {
		used = satAdd(used, s.opened(o, at))
	}
	return used, max(0, c.cap.Limit-used)
}

// answer writes the figures of a decision about amounts. Figures of several rows
// are summed; the window is the one that ends soonest. Rows and caps are listed
// only if the sums hide something: several rows, several caps, or a cap that
// denies.
func (s *Snapshot) answer(d *usher.Decision, f *feature, fr *frame, buf *Buf, at int64, v verdict) {
	d.Allowed, d.Reason = v.allowed, v.reason
	d.Plan, d.Sources = fr.plan, fr.sources
	if fr.sources != nil {
		d.Rule = fr.rule
	}
	var sum figures
	soonest, shown, first := int64(maxMicro), 0, -1
	for i := range buf.rows {
		n := &buf.rows[i]
		if fr.rows[i].shown(n) {
			shown++
		}
		sum.unlimited = sum.unlimited || n.unlimited
		sum.limit = satAdd(sum.limit, n.limit)
		sum.used = satAdd(sum.used, n.used)
		sum.reserved = satAdd(sum.reserved, n.reserved)
		sum.remaining = satAdd(sum.remaining, n.remaining)
		sum.overage = satAdd(sum.overage, n.overage)
		sum.excess = satAdd(sum.excess, n.excess)
		if n.window.end != 0 && n.window.end < soonest {
			soonest, first = n.window.end, i
		}
	}
	if fr.none && sum.used == 0 && sum.reserved == 0 && fr.dead != "" {
		return
	}
	d.Counted = true
	d.Unlimited = sum.unlimited
	d.Limit, d.Used, d.Reserved, d.Remaining = sum.limit, sum.used, sum.reserved, sum.remaining
	d.Overage, d.Excess = sum.overage, sum.excess
	if f.pool != nil && v.poolFrame != nil && v.poolFrame.dead == "" && !sum.unlimited {
		included, _, unlimited := sums(buf.pool)
		if unlimited {
			d.Unlimited = true
		} else {
			d.Remaining = satAdd(d.Remaining, included/f.def.Draws.Rate)
		}
	}
	if first >= 0 {
		r := &fr.rows[first]
		buf.window = r.use.Window
		if r.firstUse {
			buf.window = buf.rows[first].window.window()
		}
		d.Window = &buf.window
	}
	if shown > 1 || len(fr.caps) > 1 || d.Reason == usher.CapReached {
		buf.Allowances, buf.Caps = listRows(buf.Allowances[:0], fr, buf.rows), listCaps(buf.Caps[:0], fr, buf.caps)
		d.Allowances, d.Caps = buf.Allowances, buf.Caps
	}
}

// listRows appends the rows that an answer shows.
func listRows(out []usher.AllowanceUse, fr *frame, rows []figures) []usher.AllowanceUse {
	out = slices.Grow(out, len(fr.rows))
	for i := range fr.rows {
		r, n := &fr.rows[i], &rows[i]
		if !r.shown(n) {
			continue
		}
		out = append(out, r.use)
		a := &out[len(out)-1]
		a.Limit, a.Used, a.Reserved, a.Remaining, a.Overage, a.Excess = n.limit, n.used, n.reserved, n.remaining, n.overage, n.excess
		if r.firstUse {
			a.Window = n.window.window()
		}
	}
	return out
}

// listCaps appends the caps that an answer shows.
func listCaps(out []usher.CapUse, fr *frame, caps []capFigures) []usher.CapUse {
	for i := range fr.caps {
		out = append(out, fr.caps[i].use)
		c := &out[len(out)-1]
		c.Used, c.Remaining = caps[i].used, caps[i].left
	}
	return out
}

// shown reports whether an answer shows a row. The row for use that nothing
// entitles is shown only if there is such use.
func (r *row) shown(n *figures) bool { return len(r.ids) > 0 || n.used > 0 }
