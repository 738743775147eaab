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

const routeDirect = "directory"

// Direct applies a change of a customer's directory and, in the same
// transaction, what it does to seats (A08): all or nothing. seats is asked after
// the change's Check, each time that it ran. Where one of the seats cannot be
// had, it is Refused; nobody who sits is evicted. Other errors are those of
// store.ChangeDirectory.
func (u *Usage) Direct(ctx context.Context, c *store.DirectoryChange, seats func() store.SeatNeeds) (revision int64, err error) {
	var failed error
	t := &take{env: c.Env, route: routeDirect, customer: c.Customer, directs: true}
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		failed = nil
		rev, undo, err := b.tx.ChangeDirectory(c)
		if errors.Is(err, store.ErrStale) {
			failed = err // this take's alone
			return engine.Effect{}, usher.Errorf(usher.Conflict, "the directory has changed")
		} else if err != nil {
			return engine.Effect{}, err
		}
		moves, err := b.moves(t.holder(), w, seats())
		if err != nil {
			if back := undo(); back != nil {
				return engine.Effect{}, back
			}
			return engine.Effect{}, err
		}
		if err := b.move(t.holder(), w, moves); err != nil {
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

// move is a seat to take, keep or free, with the one that the member has.
type move struct {
	member, feature string
	free            bool
	expires         time.Time
	was             *engine.Seat
}

// moves finds what there is to do, and refuses what cannot be had, before
// anything of it is done.
func (b *batchRun) moves(h store.Holder, w *world, wanted store.SeatNeeds) ([]move, error) {
	held, err := b.tx.SeatsOf(h, wanted.Members)
	if err != nil {
		return nil, err
	}
	var all []move
	come := map[string]int64{} // by feature of the moves: how many sit down who did not
	features := w.next.World.Book().Features
	for _, member := range wanted.Members {
		needs, gone := wanted.Needs[member], slices.Contains(wanted.Gone, member)
		sits := map[string]bool{}
		for i := range held[member] {
			s := &held[member][i]
			sits[s.Feature] = true
			m := move{member: member, feature: s.Feature, was: &s.Seat}
			end, needed := needs[s.Feature]
			switch {
			case needed && !s.Seat.Pending && (s.Seat.Expires.Equal(end) || !s.ByRole && outlasts(s.Seat.Expires, end)):
				continue
			case needed:
				m.expires = end
			case s.ByRole || gone:
				m.free = true
			default:
				continue
			}
			come[s.Feature] += 0
			all = append(all, m)
		}
		for _, feature := range slices.Sorted(maps.Keys(needs)) {
			if f := features[feature]; f != nil && f.Kind == usher.Seats && !sits[feature] {
				all = append(all, move{member: member, feature: feature, expires: needs[feature]})
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
	// Who goes makes room, but not where more sit than the plan gives.
	left := w.next.Clone()
	for _, m := range all {
		if m.free {
			engine.FreeSeat(left, h.Customer, m.feature, *m.was, w.now)
		}
	}
	refused := map[string]bool{} // the plan gives no seats: whoever sits stays as it is
	for _, feature := range wanting {
		d := engine.Decide(left, engine.Query{Customer: h.Customer, Feature: feature, Amount: come[feature]}, w.now)
		if refused[feature] = !d.Allowed; !d.Allowed && come[feature] > 0 {
			return nil, refusedSeat(&d, come[feature])
		}
	}
	all = slices.DeleteFunc(all, func(m move) bool { return !m.free && refused[m.feature] })
	slices.SortStableFunc(all, func(x, y move) int { // who goes makes room for who comes
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

// outlasts reports whether an end is not before another; the zero time is none.
func outlasts(end, other time.Time) bool {
	return end.IsZero() || !other.IsZero() && !end.Before(other)
}

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

func (b *batchRun) move(h store.Holder, w *world, moves []move) error {
	for _, m := range moves {
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
			return fmt.Errorf("usage: a seat of %s that was free is not (%s)", m.feature, e.Decision.Reason)
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
