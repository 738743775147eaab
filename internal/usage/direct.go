package usage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/engine"
	"github.com/usher-sh/usher/internal/store"
)

const routeDirect = "directory"

// Direct applies a change of a customer's directory and, in the same
// transaction, what it does to seats (A08): all or nothing. seats is asked once
// the change is made; it looks at the directory as it will be. Where one of the
// seats cannot be had, it is Refused; nobody who sits is evicted. Other errors
// are those of store.ChangeDirectory.
func (u *Usage) Direct(ctx context.Context, c *store.DirectoryChange, seats func(d store.Directory) ([]store.SeatChange, error)) (revision int64, err error) {
	var failed error
	t := &take{env: c.Env, route: routeDirect, customer: c.Customer, directs: true}
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		var wanted []store.SeatChange
		change := *c
		change.Check = func(d store.Directory) (err error) {
			if c.Check != nil {
				if err = c.Check(d); err != nil {
					return err
				}
			}
			wanted, err = seats(d)
			return err
		}
		failed = nil
		rev, undo, err := b.tx.ChangeDirectory(&change)
		if errors.Is(err, store.ErrStale) || errors.Is(err, store.ErrKeyTaken) {
			failed = err // this take's alone
			return engine.Effect{}, usher.Errorf(usher.Conflict, "the directory has changed")
		} else if err != nil {
			return engine.Effect{}, err
		}
		moves, err := b.moves(t.holder(), w, wanted)
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
	store.SeatChange
	was *engine.Seat
}

// moves finds what there is to do, and refuses what cannot be had, before
// anything of it is done.
func (b *batchRun) moves(h store.Holder, w *world, wanted []store.SeatChange) ([]move, error) {
	var all []move
	more := map[string]int64{} // by feature: how many seats more
	features := w.next.World.Book().Features
	for _, c := range wanted {
		if f := features[c.Feature]; f == nil || f.Kind != usher.Seats {
			continue
		}
		was, err := b.tx.Seat(h, c.Feature, c.Member)
		if err != nil {
			return nil, err
		}
		switch {
		case c.Free && was == nil:
			continue
		case c.Free:
			more[c.Feature]--
		case was == nil:
			more[c.Feature]++
		case was.Expires.Equal(c.Expires) && !was.Pending:
			continue
		}
		all = append(all, move{c, was})
	}
	for _, feature := range slices.Sorted(maps.Keys(more)) {
		if err := b.load(h, w, []engine.BucketKey{{Feature: feature, Clock: engine.ClockSeats}}); err != nil {
			return nil, err
		}
		if err := b.ready(h, w, feature, w.now); err != nil {
			return nil, err
		}
		if n := more[feature]; n > 0 {
			d := engine.Decide(w.next, engine.Query{Customer: h.Customer, Feature: feature, Amount: n}, w.now)
			if !d.Allowed {
				return nil, refusedSeat(&d, n)
			}
		}
	}
	slices.SortStableFunc(all, func(x, y move) int { // who goes makes room for who comes
		if x.Free == y.Free {
			return 0
		}
		if x.Free {
			return -1
		}
		return 1
	})
	return all, nil
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
		if m.Free {
			engine.Leave(w.next, h.Customer, m.Feature, *m.was, w.now)
			if err := b.tx.CloseSeat(h, m.Feature, m.Member, w.now); err != nil {
				return err
			}
			continue
		}
		want := engine.Seat{Holder: m.Member, Expires: m.Expires, At: w.now}
		if m.was != nil {
			want.At = m.was.At
		}
		if e := engine.Sit(w.next, h.Customer, m.Feature, m.was, want, w.now); !e.Seated {
			return fmt.Errorf("usage: a seat of %s that was free is not (%s)", m.Feature, e.Decision.Reason)
		}
		if m.was != nil {
			if err := b.tx.CloseSeat(h, m.Feature, m.Member, w.now); err != nil {
				return err
			}
		}
		if err := b.tx.PutSeat(h, m.Feature, want, w.now); err != nil {
			return err
		}
	}
	return nil
}
