package engine

import (
	"math"
	"slices"
	"time"

	"github.com/usher-sh/usher"
)

// OpKind says what an operation does.
type OpKind uint8

// The kinds of operations.
const (
	Consume OpKind = iota // decide, then take all or nothing (S12)
	Record                // use that has happened already: always booked (S14)
	Level                 // a gauge's value: last, max, or one more distinct value (S33)
	Reserve               // as Consume, but held until it is settled (S23)
)

// Op is one operation: a change of use.
type Op struct {
	Kind     OpKind
	Customer string // echoed in the decision
	Feature  string
	Amount   int64     // smallest units, not negative; of a Level, the value (for unique: 1 if it is new in the window, else 0)
	Hold     string    // of a Reserve: its id
	Until    time.Time // of a Reserve: when it expires
}

// Entry is one posting of the ledger: an amount that went to a bucket, and the
// allowance that paid for it. The entries of a take's own feature add up to its
// amount, and those of a pool to what was drawn from it.
type Entry struct {
	Bucket    BucketKey
	Allowance string // "plan:pro@1", "overage:plan:pro@1", EntryExcess, EntryDrawn
	Amount    int64
}

// The names of entries that no allowance paid for.
const (
	EntryExcess = "excess" // beyond what anything permits (S14)
	EntryDrawn  = "drawn"  // paid for by a pool's credits (S25)
	EntryCap    = "cap"    // counted by a cap as well; not part of the take's sum
)

// ClockDrawn is the clock under which use that credits paid for is counted.
const ClockDrawn = "drawn"

// Effect is what a take did.
type Effect struct {
	Decision usher.Decision
	Entries  []Entry
	Overflow bool         // it could not be booked: use would pass int64 (S24)
	Would    usher.Reason // what denies it, or would deny it in mode enforce and as a Consume (S14, S26); "" is nothing
	Seated   bool         // of TakeSeat: the holder has the seat as wanted
}

// Take applies an operation to a clone of a snapshot at an instant and returns
// what it did (S12-S15, S20, S21, S23, S25). A denied Consume or Reserve changes
// nothing. The decision is the one after the take. op.Amount must not be negative.
// If a reservation or seat may have expired, call Expire first.
func Take(s *Snapshot, op Op, at time.Time) Effect {
	if op.Amount < 0 && op.Kind != Level {
		panic("engine: Take: Op.Amount must not be negative; Correct gives back")
	}
	q := Query{Customer: op.Customer, Feature: op.Feature, Amount: op.Amount, Buf: new(Buf)}
	f := s.World.feature(op.Feature)
	if f == nil || s.World.customer == nil || !f.def.Kind.Counts() {
		d := Decide(s, q, at)
		d.Taken = op.Kind == Consume
		e := Effect{Decision: d}
		if !d.Allowed {
			e.Would = d.Reason
		}
		return e
	}
	now := at.UnixMicro()
	fr := s.World.frameAt(f, now)
	buf := q.Buf
	s.figures(f, fr, buf, now)
	if op.Kind == Level {
		return s.level(f, fr, buf, op, now)
	}
	var e Effect
	s.begin(&e.Decision, op.Customer, op.Feature, f)
	d := &e.Decision
	d.Taken = op.Kind == Consume
	s.answer(d, f, fr, buf, now)
	allowed, reason, would := d.Judge(op.Amount)
	v := divide(f, fr, buf, op.Amount)
	// Record is booked even if the plan denies it, so this is its only limit: what
	// int64 can count.
	denied := (op.Kind == Consume || op.Kind == Reserve) && !allowed
	if !denied && (!fits(buf, op.Amount) || !s.drawFits(f, buf, v)) {
		e.Overflow, allowed, reason = true, false, f.refusal()
		would = reason
	}
	e.Would = would
	if denied || e.Overflow {
		d.Allowed, d.Reason = allowed, reason
		return e
	}
	// The decision shows the figures after the take, so they are computed again.
	s.book(f, fr, buf, v, op, now, &e)
	s.figures(f, fr, buf, now)
	s.answer(d, f, fr, buf, now)
	d.Allowed, d.Reason = allowed, reason
	if op.Kind == Reserve {
		h := Hold{ID: op.Hold, At: at, Expires: op.Until, Entries: e.Entries}
		s.remember(h.Lapses()...)
		return e
	}
	e.Decision.Consumed = op.Amount
	e.deduct(s, op.Feature)
	return e
}

// book takes the amount as it was divided: from the own rows, from the
// pool, and as excess to the bookkeeper's row. Caps count all of it once more.
func (s *Snapshot) book(f *feature, fr *frame, buf *Buf, v division, op Op, at int64, e *Effect) {
	hold := op.Kind == Reserve
	s.burn(f, fr, buf.rows, v.own, v.over, at, hold, e)
	if drawn := v.pool + v.poolOver; drawn > 0 {
		rate := f.def.Draws.Rate
		included := min(drawn*rate, buf.draw.included)
		s.burn(f.pool, buf.draw.frame, buf.pool, included, drawn*rate-included, at, hold, e)
		s.count(buf.draw.frame.caps, drawn*rate, hold, e)
		// The feature's own buckets do not have these units, so they are counted here:
		// the feature's use must add up.
		key := BucketKey{f.def.Key, ClockDrawn, 0}
		b, _ := s.Bucket(key)
		b.End, b.Unlimited = maxMicro, true
		if hold {
			b.Reserved += drawn
		} else {
			b.Used += drawn
		}
		s.write(b)
		e.Entries = append(e.Entries, Entry{key, EntryDrawn, drawn})
	}
	if v.beyond > 0 {
		i := bookkeeper(fr)
		key := s.post(f, fr, buf.rows, i, v.beyond, at, hold)
		e.Entries = append(e.Entries, Entry{key, EntryExcess, v.beyond})
	}
	s.count(fr.caps, op.Amount, hold, e)
}

// burn takes included amounts and then overage, each in burn order (S15). Both must
// fit, as judge has seen to. What a part has left follows from its row's figures:
// its limit, less what its row holds beyond the parts before it.
func (s *Snapshot) burn(f *feature, fr *frame, rows []figures, included, over, at int64, hold bool, e *Effect) {
	add := func(i int, id string, n int64) {
		key := s.post(f, fr, rows, i, n, at, hold)
		e.Entries = append(e.Entries, Entry{key, id, n})
	}
	order := fr.burn
	if fr.moving {
		order = s.burnOrder(fr, rows, at)
	}
	for i := range order {
		if included == 0 {
			break
		}
		p := &order[i]
		n := &rows[p.row]
		if p.unlimited {
			add(p.row, p.id, included)
			included = 0
			break
		}
		limit := p.limit
		if fr.rows[p.row].roll != nil {
			limit = n.limit // what was left of an earlier window, which depends on use
		}
		// The row counts only a total. Of that, the parts before this one hold offset.
		held := satAdd(n.used, n.reserved)
		left := limit - min(max(held-p.offset, 0), limit)
		if take := min(left, included); take > 0 {
			add(p.row, p.id, take)
			included -= take
		}
	}
	for i := range order {
		if over == 0 {
			break
		}
		p := &order[i]
		n := &rows[p.row]
		room := p.overage.Max
		if p.overage.Unlimited {
			room = math.MaxInt64
		}
		beyond := max(satAdd(n.used, n.reserved)-n.limit, 0)
		room -= min(max(beyond-p.overOff, 0), room)
		if take := min(room, over); take > 0 {
			add(p.row, "overage:"+p.id, take)
			over -= take
		}
	}
}

// post adds n to a row's bucket and to its figures, as use or as a hold, and
// returns the bucket's key. It updates the figures because later parts of the same
// row are burned against them.
func (s *Snapshot) post(f *feature, fr *frame, rows []figures, i int, n, at int64, hold bool) BucketKey {
	r, num := &fr.rows[i], &rows[i]
	if hold {
		num.reserved += n
	} else {
		num.used += n
	}
	num.settle(r.overage)
	b := s.bucketOf(f, r, num, at)
	if hold {
		b.Reserved += n
	} else {
		b.Used += n
	}
	s.write(b)
	return b.BucketKey
}

// bucketOf returns a row's bucket with limit, opening, overage and excess as the
// figures say. The first use of a first_use row begins its window here.
func (s *Snapshot) bucketOf(f *feature, r *row, n *figures, at int64) Bucket {
	key := BucketKey{f.def.Key, r.key.Clock, n.start}
	b, _ := s.Bucket(key)
	b.End = n.window.end
	if r.firstUse && n.window.end == 0 {
		n.window = span{n.start, addPeriod(n.start, r.per, s.World, at)}
		b.End = n.window.end
	}
	b.Unlimited, b.Limit, b.Opening = n.unlimited, n.limit, n.opening
	b.Overage, b.Excess = n.overage, n.excess
	if n.unlimited {
		b.Limit, b.Overage, b.Excess = 0, 0, 0
	}
	return b
}

// count adds n to the buckets of caps. Caps of the same clock share a bucket, which
// counts n once.
func (s *Snapshot) count(caps []capRow, n int64, hold bool, e *Effect) {
	if n == 0 {
		return
	}
	for i := range caps {
		c := &caps[i]
		if slices.ContainsFunc(caps[:i], func(x capRow) bool { return x.key == c.key }) {
			continue
		}
		b, _ := s.Bucket(c.key)
		b.End, b.Unlimited = c.window.end, true // it only counts; judge has compared it with the cap
		if hold {
			b.Reserved = satAdd(b.Reserved, n)
		} else {
			b.Used = satAdd(b.Used, n)
		}
		s.write(b)
		e.Entries = append(e.Entries, Entry{c.key, EntryCap, n})
	}
}

// write puts a bucket and notes that it changed. Most takes change a few buckets, so
// the list of changed keys has a set beside it only once it is long.
func (s *Snapshot) write(b Bucket) {
	s.Put(b)
	if s.changed == nil && len(s.dirty) > shortShelf {
		s.changed = make(map[BucketKey]bool, 2*len(s.dirty))
		for _, k := range s.dirty {
			s.changed[k] = true
		}
	}
	if s.changed != nil {
		if s.changed[b.BucketKey] {
			return
		}
		s.changed[b.BucketKey] = true
	} else if slices.Contains(s.dirty, b.BucketKey) {
		return
	}
	s.dirty = append(s.dirty, b.BucketKey)
}

// level applies a gauge's value: last takes it, max takes it if it is higher, unique
// adds it. A level is always booked, to the bookkeeper's row.
func (s *Snapshot) level(f *feature, fr *frame, buf *Buf, op Op, at int64) Effect {
	var e Effect
	s.begin(&e.Decision, op.Customer, op.Feature, f)
	i := bookkeeper(fr)
	r, n := &fr.rows[i], &buf.rows[i]
	key := BucketKey{f.def.Key, r.key.Clock, n.start}
	stored, exists := s.Bucket(key)
	used := stored.Used
	switch f.gauge {
	case usher.Last:
		if exists && at < stored.At {
			return e // an older value than the one there is; of equal ones the later arrival counts (S17)
		}
		used = op.Amount
	case usher.Max:
		used = max(used, op.Amount)
	case usher.Unique:
		used += op.Amount
	}
	switch f.gauge {
	case usher.Max:
		n.used = max(n.used, used)
		n.opening = n.used - used
	default:
		n.used = satAdd(used, n.opening)
	}
	n.settle(r.overage)
	b := s.bucketOf(f, r, n, at)
	b.Used, b.At = used, max(at, stored.At)
	s.write(b)
	e.Entries = []Entry{{key, r.entryName(), op.Amount}}
	return e
}

// entryName returns the name under which a gauge's value is posted.
func (r *row) entryName() string {
	if len(r.ids) == 0 {
		return EntryExcess
	}
	return r.ids[0]
}

// Fits reports whether an amount can still be counted for a feature at an instant
// without passing int64, here or in the pool (S24). An unknown feature counts
// nothing, so anything fits.
func Fits(s *Snapshot, feature string, amount int64, at time.Time) bool {
	f := s.World.feature(feature)
	if f == nil {
		return true
	}
	if d := f.def.Draws; d != nil && amount > math.MaxInt64/2/d.Rate {
		return false
	}
	now := at.UnixMicro()
	fr := s.World.frameAt(f, now)
	buf := &Buf{}
	s.figures(f, fr, buf, now)
	return fits(buf, amount)
}

// GaugeWindow returns the window in which a gauge's value at an instant counts, in
// microseconds since 1970 UTC. The feature must be known and count.
func GaugeWindow(s *Snapshot, feature string, at time.Time) (from, until int64) {
	f := s.World.feature(feature)
	fr := s.World.frameAt(f, at.UnixMicro())
	w := fr.rows[bookkeeper(fr)].window
	return w.start, w.end
}
