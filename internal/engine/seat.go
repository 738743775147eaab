package engine

import (
	"time"

	"github.com/usher-sh/usher"
)

// ClockSeats is the clock under which a feature's seats are counted. Seats have no
// windows: a holder keeps the seat, whatever plan it came from.
const ClockSeats = "seats"

// Seat is one holder's place (S22).
type Seat struct {
	Holder  string
	Pending bool      // invited and not yet active; it takes a seat all the same
	Expires time.Time // zero: it does not end by itself
	At      time.Time // when the holder got it
}

// TakeSeat gives a holder a seat, or changes the seat that it has (S22). was is that
// seat, nil without one. A new seat counts 1. A change counts 0, so that a holder may
// always change its seat, even beyond the limit: AlreadyHeld says so. If the seat is denied, nothing
// changes. Call Expire first.
func TakeSeat(s *Snapshot, customer, feature string, was *Seat, want Seat, at time.Time) Effect {
	amount := int64(1)
	if was != nil {
		amount = 0
	}
	q := Query{Customer: customer, Feature: feature, Amount: amount, Buf: new(Buf)}
	f := s.World.feature(feature)
	if f == nil || s.World.customer == nil || f.def.Kind != usher.Seats {
		return Effect{Decision: Decide(s, q, at)}
	}
	now := at.UnixMicro()
	fr := s.World.frameAt(f, now)
	s.figures(f, fr, q.Buf, now)
	var e Effect
	s.begin(&e.Decision, customer, feature, f)
	s.answer(&e.Decision, f, fr, q.Buf, now)
	allowed, reason, would := e.Decision.Judge(amount)
	e.Would = would
	if !allowed {
		e.Decision.Reason, e.Decision.Allowed = reason, false
		return e
	}
	if was != nil {
		s.seat(f, *was, -1)
	}
	s.seat(f, want, 1)
	s.bound(f, fr, q.Buf, now)
	q.Amount = 0
	e.Decision = Decide(s, q, at)
	e.Decision.Reason = reason
	if was != nil && reason == usher.WithinLimit && e.Decision.Excess > 0 {
		e.Decision.Reason = usher.AlreadyHeld
	}
	e.Seated = true
	return e
}

// FreeSeat frees a holder's seat at once. Call Expire first.
func FreeSeat(s *Snapshot, customer, feature string, was Seat, at time.Time) Effect {
	var e Effect
	if f := s.World.feature(feature); f != nil {
		s.seat(f, was, -1)
		if now := at.UnixMicro(); f.def.Kind.Counts() && s.World.customer != nil {
			buf := new(Buf)
			fr := s.World.frameAt(f, now)
			s.figures(f, fr, buf, now)
			s.bound(f, fr, buf, now)
		} else { // nothing says how many seats there may be now: keep the stored limit, and let excess shrink
			s.adjust(BucketKey{f.def.Key, ClockSeats, 0}, 0, 0)
		}
	}
	e.after(s, customer, feature, at)
	return e
}

// seat counts a seat in (n is 1) or out (n is -1), and keeps its end.
func (s *Snapshot) seat(f *feature, seat Seat, n int64) {
	key := BucketKey{f.def.Key, ClockSeats, 0}
	b, _ := s.Bucket(key)
	b.End = maxMicro
	if seat.Pending {
		b.Reserved += n
	} else {
		b.Used += n
	}
	s.write(b)
	if n < 0 {
		s.forget(seat.Holder, f.def.Key, true)
	} else if !seat.Expires.IsZero() {
		s.remember(Lapse{ID: seat.Holder, Bucket: key, Used: !seat.Pending, Amount: 1,
			At: seat.At.UnixMicro(), Expires: seat.Expires.UnixMicro()})
	}
}

// bound writes into the bucket how many seats all sources permit together, because the
// database checks each bucket against its own limit (I1).
func (s *Snapshot) bound(f *feature, fr *frame, buf *Buf, at int64) {
	s.figures(f, fr, buf, at)
	b, ok := s.Bucket(BucketKey{f.def.Key, ClockSeats, 0})
	if !ok {
		return
	}
	b.Unlimited, b.Limit, b.Overage, b.Excess = false, 0, 0, 0
	for i := range buf.rows {
		n := &buf.rows[i]
		b.Unlimited = b.Unlimited || n.unlimited
		b.Limit = satAdd(b.Limit, n.limit)
		b.Overage += n.overage
		b.Excess += n.excess
	}
	if b.Unlimited {
		b.Limit, b.Overage, b.Excess = 0, 0, 0
	}
	s.write(b)
}

// seatRows divides the holders over the rows of the sources. One bucket counts them
// all, so before this the rows have no use. Active holders are placed before pending
// ones: in included seats in burn order, then in overage, and the rest as excess.
func (s *Snapshot) seatRows(f *feature, fr *frame, rows []figures, list *shelf, at int64) {
	i := list.find(ClockSeats, 0)
	if i < 0 {
		return
	}
	used, reserved := s.lapsed(&list.list[i], at)
	put := func(n *figures, room int64) {
		u := min(used, room)
		r := min(reserved, room-u)
		n.used, n.reserved = n.used+u, n.reserved+r
		used, reserved = used-u, reserved-r
	}
	for i := range fr.burn {
		p := &fr.burn[i]
		if p.unlimited {
			put(&rows[p.row], used+reserved)
		} else {
			put(&rows[p.row], p.limit)
		}
	}
	for i := range fr.burn {
		p := &fr.burn[i]
		if p.overage.Unlimited {
			put(&rows[p.row], used+reserved)
		} else {
			put(&rows[p.row], p.overage.Max)
		}
	}
	if i := bookkeeper(fr); i >= 0 {
		put(&rows[i], used+reserved)
	}
	for i := range fr.rows {
		rows[i].settle(fr.rows[i].overage)
	}
}
