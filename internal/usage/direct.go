package usage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/store"
)

// callDirect names changes of a directory. They have no key, so it is not stored.
const callDirect = "directory"

// Direct applies a change of a customer's directory and, in the same transaction, the
// changes of seats that follow from it (A08): all or nothing. seats returns the seats
// that the members need; Direct calls it after each run of the change's Check. If the
// plan has too few seats, the change is Refused: no holder loses a seat to another.
// Other errors are those of store.ChangeDirectory.
func (u *Usage) Direct(ctx context.Context, c *store.DirectoryChange, seats func() store.SeatNeeds) (revision int64, err error) {
	var failed error
	t := &take{env: c.Env, call: callDirect, customer: c.Customer, directs: true}
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		failed = nil
		rev, undo, err := b.tx.ChangeDirectory(c)
		if errors.Is(err, store.ErrStale) {
			failed = err // for this caller alone: the batch goes on
			return engine.Effect{}, usher.Errorf(usher.Conflict, "the directory has changed")
		} else if err != nil {
			return engine.Effect{}, err
		}
		changes, err := b.seatChanges(t.holder(), w, seats())
		if err != nil {
			// The transaction goes on for the other requests, so this change is undone
			// by itself.
			if back := undo(); back != nil {
				return engine.Effect{}, back
			}
			return engine.Effect{}, err
		}
		if err := b.applySeatChanges(t.holder(), w, changes); err != nil {
			return engine.Effect{}, err
		}
		revision = rev
		return engine.Effect{}, nil
	}
	if _, err = u.take(ctx, t); failed != nil {
		err = failed
	}
	if err != nil {
		return 0, err
	}
	return revision, nil
}

// seatChange is a member's seat of a feature to take, to keep until another time, or to
// free.
type seatChange struct {
	member, feature string
	free            bool
	expires         time.Time    // of a seat to take or keep; zero: it does not end by itself
	was             *engine.Seat // the seat that the member has; nil: none
}

// seatChanges returns what must change so that the members have the seats that their
// roles ask for, those to free first. It refuses what the plan does not give before
// anything is changed.
func (b *batchRun) seatChanges(h store.Holder, w *world, wanted store.SeatNeeds) ([]seatChange, error) {
	held, err := b.tx.SeatsOf(h, wanted.Members)
	if err != nil {
		return nil, err
	}
	var all []seatChange
	come := map[string]int64{} // by feature that changes: how many members without a seat take one
	features := w.next.World.Book().Features
	for _, member := range wanted.Members {
		needs, gone := wanted.Needs[member], slices.Contains(wanted.Gone, member)
		has := map[string]bool{}
		for i := range held[member] {
			s := &held[member][i]
			has[s.Feature] = true
			m := seatChange{member: member, feature: s.Feature, was: &s.Seat}
			end, needed := needs[s.Feature]
			switch {
			// A seat that a caller gave is kept if it lasts long enough; a seat that a
			// role took ends exactly with the role.
			case needed && !s.Seat.Pending && (s.Seat.Expires.Equal(end) || !s.ByRole && outlasts(s.Seat.Expires, end)):
				continue
			case needed:
				m.expires = end
			case s.ByRole || gone:
				m.free = true
			default:
				continue
			}
			come[s.Feature] += 0 // the feature changes, even if nobody takes a new seat
			all = append(all, m)
		}
		for _, feature := range slices.Sorted(maps.Keys(needs)) {
			if f := features[feature]; f != nil && f.Kind == usher.Seats && !has[feature] {
				all = append(all, seatChange{member: member, feature: feature, expires: needs[feature]})
				come[feature]++
			}
		}
	}
	wanting := slices.Sorted(maps.Keys(come))
	for _, feature := range wanting {
		if err := b.load(h, w, []engine.BucketKey{{Feature: feature, Clock: engine.ClockSeats}}); err != nil {
			return nil, err
		}
		if err := b.ready(h, w, feature, w.now); err != nil {
			return nil, err
		}
	}
	// Count on a copy what will be free. A freed seat makes room, unless more seats
	// are taken than the plan gives.
	left := w.next.Clone()
	for _, m := range all {
		if m.free {
			engine.FreeSeat(left, h.Customer, m.feature, *m.was, w.now)
		}
	}
	refused := map[string]bool{} // features of which the plan gives no seats now; seats that are held stay as they are
	for _, feature := range wanting {
		d := engine.Decide(left, engine.Query{Customer: h.Customer, Feature: feature, Amount: come[feature]}, w.now)
		if refused[feature] = !d.Allowed; !d.Allowed && come[feature] > 0 {
			return nil, refusedSeat(&d, come[feature])
		}
	}
	all = slices.DeleteFunc(all, func(m seatChange) bool { return !m.free && refused[m.feature] })
	slices.SortStableFunc(all, func(x, y seatChange) int { // freed seats make room for those to take
		if x.free == y.free {
			return 0
		}
		if x.free {
			return -1
		}
		return 1
	})
	return all, nil
}

// outlasts reports whether an end is not before another. The zero time is no end.
func outlasts(end, other time.Time) bool {
	return end.IsZero() || !other.IsZero() && !end.Before(other)
}

// refusedSeat returns the error for n seats that d denies.
func refusedSeat(d *usher.Decision, n int64) error {
	words := fmt.Sprintf("%d seats of %s are needed", n, d.Feature)
	if n == 1 {
		words = "a seat of " + d.Feature + " is needed"
	}
	if d.Reason == usher.SeatLimitReached {
		return usher.Errorf(usher.Refused, "%s, and %d of %d are taken (%s): free one, or buy more", words, d.Used+d.Reserved, d.Limit, d.Reason)
	}
	return usher.Errorf(usher.Refused, "%s, and the customer's plan gives none (%s)", words, d.Reason)
}

// applySeatChanges takes, keeps and frees seats, in order.
func (b *batchRun) applySeatChanges(h store.Holder, w *world, changes []seatChange) error {
	for _, m := range changes {
		w.seated = true
		if m.free {
			engine.FreeSeat(w.next, h.Customer, m.feature, *m.was, w.now)
			if err := b.tx.CloseSeat(h, m.feature, m.member, w.now); err != nil {
				return err
			}
			continue
		}
		want := engine.Seat{Holder: m.member, Expires: m.expires, At: w.now}
		if m.was != nil {
			want.At = m.was.At
		}
		if e := engine.TakeSeat(w.next, h.Customer, m.feature, m.was, want, w.now); !e.Seated {
			return fmt.Errorf("usage: no free seat of %s, although one was counted (%s)", m.feature, e.Decision.Reason)
		}
		if m.was != nil {
			if err := b.tx.CloseSeat(h, m.feature, m.member, w.now); err != nil {
				return err
			}
		}
		if err := b.tx.PutSeat(h, m.feature, want, w.now, true); err != nil {
			return err
		}
	}
	return nil
}
