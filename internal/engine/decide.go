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
	credits    usher.CreditsUse
	rows       []figures
	pool       []figures
	caps       []capFigures
	draw       draw
}

// capFigures are what a cap has counted and what it still lets through, and when a
// sliding cap counts less by itself (maxMicro: it counts nothing, or does not slide).
type capFigures struct{ used, left, falls int64 }

// draw is what a feature's pool still gives, in credits, behind the pool's caps.
type draw struct {
	frame          *frame // the pool's; nil: the feature draws nothing, because it has no pool or is unlimited by itself
	held           int64  // what the pool has counted, used and reserved
	included, room int64  // what is left of the limits, and of the permitted overage
	unlimited      bool   // there is no limit; included is what int64 can still count
	endless        bool   // there is no limit of the overage
	falls          int64  // when a sliding cap of the pool counts less by itself
}

// Decide answers q at an instant. The same arguments give the same answer,
// anywhere and at any time (S01-S05, S09, S10, S20, S34, S37). q.Amount must not
// be negative.
func Decide(s *Snapshot, q Query, at time.Time) (d usher.Decision) {
	if q.Amount < 0 {
		panic("engine: Decide: Query.Amount must not be negative")
	}
	f := s.World.feature(q.Feature)
	s.begin(&d, q.Customer, q.Feature, f)
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
	s.answer(&d, f, fr, buf, now)
	d.Allowed, d.Reason, _ = d.Judge(q.Amount)
	return d
}

// begin says in a new decision who was asked about and what the feature is; f is nil
// if it is unknown.
func (s *Snapshot) begin(d *usher.Decision, customer, feature string, f *feature) {
	d.Customer, d.Feature, d.Revision = customer, feature, s.Revision
	if f != nil {
		d.Kind, d.Title, d.Unit, d.Precision, d.Type = f.def.Kind, f.def.Title, f.def.Unit, f.def.Precision, f.def.Type
	}
}

// answerPlain fills in a switch's or config's answer.
func answerPlain(d *usher.Decision, fr *frame) {
	d.Plan, d.Sources, d.Value, d.Fail, d.ValidUntil = fr.plan, fr.sources, fr.value, fr.fail, fr.ends
	if fr.sources != nil {
		d.Rule = fr.rule
	}
	if fr.dead != "" {
		d.Reason = fr.dead
		return
	}
	d.Allowed, d.Reason = true, usher.Granted
}

// figures computes the figures of a frame's rows and caps, and of what it draws on.
func (s *Snapshot) figures(f *feature, fr *frame, buf *Buf, at int64) {
	list := s.use[f.def.Key]
	buf.rows = s.resolve(buf.rows[:0], list, f, fr, at)
	buf.caps = buf.caps[:0]
	for i := range fr.caps {
		buf.caps = append(buf.caps, s.capUse(list, &fr.caps[i], at))
	}
	if f.def.Kind == usher.Seats {
		s.seatRows(f, fr, buf.rows, list, at)
	}
	buf.draw = draw{}
	if f.pool != nil && fr.dead == "" {
		s.figuresOfPool(f.pool, buf, at)
	}
}

// figuresOfPool computes what the pool still gives (S25), unless own allowances are
// unlimited, so that nothing is drawn.
func (s *Snapshot) figuresOfPool(pool *feature, buf *Buf, at int64) {
	for i := range buf.rows {
		if buf.rows[i].unlimited {
			return
		}
	}
	d := &buf.draw
	d.frame, d.falls = s.World.frameAt(pool, at), maxMicro
	buf.pool = buf.pool[:0]
	if d.frame.dead != "" {
		return
	}
	list := s.use[pool.def.Key]
	buf.pool = s.resolve(buf.pool, list, pool, d.frame, at)
	d.included, d.room, d.unlimited = sums(buf.pool)
	d.endless = d.frame.endless
	for i := range buf.pool {
		d.held = satAdd(d.held, satAdd(buf.pool[i].used, buf.pool[i].reserved))
	}
	if d.unlimited { // as far as int64 can count (S24)
		d.included, d.room, d.endless = math.MaxInt64, 0, false
		for i := range buf.pool {
			if n := &buf.pool[i]; n.unlimited {
				d.included = min(d.included, math.MaxInt64-satAdd(n.used, n.reserved))
			}
		}
	}
	for i := range d.frame.caps {
		c := s.capUse(list, &d.frame.caps[i], at)
		d.included = min(d.included, c.left)
		d.room = min(d.room, c.left-d.included)
		d.falls = min(d.falls, c.falls)
		d.unlimited, d.endless = false, false
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

// division says how a take divides an amount. The fields add up to it, all in units
// of the feature: included in own allowances, included in the pool, own overage, the
// pool's overage, and what nothing permits.
type division struct {
	own, pool, over, poolOver, beyond int64
}

// divide divides an amount over the figures in buf and changes nothing. The order is
// included amounts, credits, overage, the pool's overage (S15, S25). The pool gives
// whole units of the feature: credits are divided by the rate, rounded down.
func divide(f *feature, fr *frame, buf *Buf, amount int64) (v division) {
	if fr.dead != "" {
		v.beyond = amount
		return v
	}
	included, room, unlimited := sums(buf.rows)
	if unlimited {
		v.own = amount
		return v
	}
	rest := amount // what no step below has placed yet
	v.own = min(rest, included)
	rest -= v.own
	d := &buf.draw
	if d.frame != nil {
		v.pool = min(rest, d.included/f.def.Draws.Rate)
		rest -= v.pool
	}
	v.over = min(rest, room)
	rest -= v.over
	if d.frame != nil && rest > 0 {
		// A unit may be paid partly from the last included credits and partly from the
		// overage, so both are added up before they are divided.
		rate := f.def.Draws.Rate
		v.poolOver = min(rest, (satAdd(d.included, d.room)-v.pool*rate)/rate)
		rest -= v.poolOver
	}
	v.beyond = rest
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

// capUse returns what a cap has counted in its window and what it still lets
// through, both not negative.
func (s *Snapshot) capUse(list *shelf, c *capRow, at int64) (n capFigures) {
	n.falls = maxMicro
	if c.cap.Sliding {
		n.used, n.falls = s.slidingUse(list, c, at)
	} else if b := list.find(c.key.Clock, c.key.Start); b >= 0 {
		n.used = s.holds(&list.list[b], at)
	}
	for _, o := range c.openings {
		n.used = satAdd(n.used, s.opened(o, at))
	}
	n.left = max(0, c.cap.Limit-n.used)
	return n
}

// answer writes the figures of a decision about amounts, for Judge to compare with
// one. Figures of several rows are summed; the window is the one that ends soonest.
// Rows are listed only if there is more than one window: several rows, or a cap.
func (s *Snapshot) answer(d *usher.Decision, f *feature, fr *frame, buf *Buf, at int64) {
	d.Plan, d.Sources, d.Mode, d.Fail = fr.plan, fr.sources, fr.mode, fr.fail
	if d.ValidUntil = fr.ends; !fr.still || buf.draw.frame != nil || len(s.lapses) > 0 {
		d.ValidUntil = instant(s.lasts(f, fr, buf, at))
	}
	if fr.sources != nil {
		d.Rule = fr.rule
	}
	d.Allowed, d.Reason = true, usher.WithinLimit
	if fr.dead != "" {
		d.Allowed, d.Reason = false, fr.dead
	}
	var sum figures
	soonest, shown, first := int64(maxMicro), 0, -1
	for i := range buf.rows {
		n, r := &buf.rows[i], &fr.rows[i]
		if r.shown(n) {
			shown++
		}
		sum.unlimited = sum.unlimited || n.unlimited
		sum.limit = satAdd(sum.limit, n.limit)
		sum.used = satAdd(sum.used, n.used)
		sum.reserved = satAdd(sum.reserved, n.reserved)
		sum.remaining = satAdd(sum.remaining, n.remaining)
		sum.overage = satAdd(sum.overage, n.overage)
		sum.excess = satAdd(sum.excess, n.excess)
		sum.room = satAdd(sum.room, n.room)
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
	if fr.permits && !sum.unlimited && fr.dead == "" {
		d.OveragePermitted, d.OverageLeft = true, overageLeft(sum.room, fr.endless)
	}
	if p := &buf.draw; p.frame != nil {
		c := &buf.credits
		*c = usher.CreditsUse{Feature: f.pool.def.Key, PerUnit: f.def.Draws.PerUnit, Precision: f.pool.def.Precision, Rate: f.def.Draws.Rate,
			Held: p.held}
		d.Credits = c
		if c.Unlimited = p.unlimited; p.unlimited {
			d.Unlimited = true
		} else {
			c.Remaining = p.included
			d.Remaining = satAdd(d.Remaining, p.included/c.Rate)
			if p.frame.permits && p.frame.dead == "" {
				c.OveragePermitted, c.OverageLeft = true, overageLeft(p.room, p.endless)
			}
		}
	}
	d.Window = nil
	if first >= 0 {
		r := &fr.rows[first]
		buf.window = r.use.Window
		if r.firstUse {
			buf.window = buf.rows[first].window.window()
		}
		d.Window = &buf.window
	}
	if len(fr.caps) > 0 {
		buf.Caps = listCaps(buf.Caps[:0], fr, buf.caps)
		d.Caps = buf.Caps
	}
	if shown > 1 || len(fr.caps) > 0 {
		buf.Allowances = listRows(buf.Allowances[:0], fr, buf.rows)
		d.Allowances = buf.Allowances
	}
}

// overageLeft returns what an answer shows of the room for overage.
func overageLeft(room int64, endless bool) int64 {
	if endless {
		return usher.MaxQuantity
	}
	return room
}

// lasts returns the next instant at which time alone may change the figures: the
// frame ends, a window that began with its first use ends, a unit falls out of a
// sliding cap, or a hold ends. maxMicro is never.
func (s *Snapshot) lasts(f *feature, fr *frame, buf *Buf, at int64) int64 {
	until := lastsRows(fr, buf.rows)
	for i := range buf.caps {
		until = min(until, buf.caps[i].falls)
	}
	d := &buf.draw
	if d.frame != nil {
		until = min(until, lastsRows(d.frame, buf.pool), d.falls)
	}
	for i := range s.lapses { // soonest first
		l := &s.lapses[i]
		if l.Expires > at && (l.Bucket.Feature == f.def.Key || d.frame != nil && l.Bucket.Feature == f.pool.def.Key) {
			return min(until, l.Expires)
		}
	}
	return until
}

// lastsRows returns until when a frame and the windows of its rows last.
func lastsRows(fr *frame, rows []figures) int64 {
	until := fr.lasts
	for i := range rows {
		if n := &rows[i]; fr.moving && fr.rows[i].firstUse && n.window.end != 0 {
			until = min(until, n.window.end)
		}
	}
	return until
}

// instant returns an instant as a time; maxMicro, which is never, is the zero time.
func instant(at int64) time.Time {
	if at == maxMicro {
		return time.Time{}
	}
	return time.UnixMicro(at).UTC()
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
	out = slices.Grow(out, len(fr.caps))
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
