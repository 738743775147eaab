package usage

import (
	"context"
	"strconv"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
)

// The bounds of a reservation's life. If an amount must be held for longer, consume it
// and correct it afterwards.
const (
	DefaultTTL = 5 * time.Minute
	MaxTTL     = 7 * 24 * time.Hour
)

// ReserveOp is one reservation as asked. TTL is from a second to MaxTTL.
type ReserveOp struct {
	ConsumeOp
	TTL time.Duration // 0: DefaultTTL
}

// Reserve holds an amount until it is settled, released or expires (S23). It is
// divided over the allowances as a consume would be. A denial holds nothing and is no
// error.
func (u *Usage) Reserve(ctx context.Context, env usher.Environment, op ReserveOp) (usher.Decision, error) {
	if op.TTL == 0 {
		op.TTL = DefaultTTL
	}
	if op.TTL < time.Second || op.TTL > MaxTTL {
		return usher.Decision{}, &usher.Error{Code: usher.Invalid, Detail: "the reservation is not valid",
			Problems: []usher.Problem{{Location: "ttl", Message: `must be between "1s" and "168h"`}}}
	}
	t, err := u.newTake(ctx, env, ledger.Reserve, op.ConsumeOp, op.TTL.String())
	if err != nil {
		return u.orKnown(ctx, t, err)
	}
	id := u.cfg.NewID("rsv_")
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		until := w.now.Add(op.TTL)
		e, err := b.decide(t, w, engine.Op{Kind: engine.Reserve, Customer: t.customer, Feature: t.feature, Amount: t.amount,
			Hold: id, Until: until})
		op.complete(&e)
		if err != nil || !e.Decision.Allowed {
			return e, err
		}
		b.holds[env] = append(b.holds[env], engine.Hold{ID: id, Customer: t.customer, Feature: t.feature, Amount: t.amount,
			At: w.now, Expires: until, Entries: e.Entries})
		e.Entries = nil // nothing is used yet
		e.Decision.Reservation = &usher.Reservation{ID: id, Amount: t.amount, ExpiresAt: until, State: usher.ReservationOpen}
		return e, nil
	}
	return u.take(ctx, t)
}

// Settle ends a reservation with the amount actually used; "" is the amount held. It
// is never refused because too little is left: what exceeds the allowances is booked
// as excess, and a settlement after the reservation expired is booked too, also if the
// customer was deleted or the feature has left the catalogue since (S36). The same
// settlement again returns the first answer; another one is a Conflict.
func (u *Usage) Settle(ctx context.Context, env usher.Environment, id string, amount usher.Number) (usher.Decision, error) {
	t, held, err := u.end(ctx, env, id, ledger.Settle)
	if err != nil {
		return usher.Decision{}, err
	}
	f, err := u.feature(ctx, env, t.feature, held.Hold.At)
	if err != nil {
		return usher.Decision{}, err
	}
	t.amount = held.Hold.Amount
	if amount != "" {
		if t.amount, err = units(f, amount); err != nil {
			return usher.Decision{}, err
		}
	}
	t.hash = bodyHash(ledger.Settle, id, strconv.FormatInt(t.amount, 10))
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		h, err := b.open(env, id, w)
		if err != nil {
			return engine.Effect{}, err
		}
		if err := b.loadHold(t.holder(), w, h); err != nil {
			return engine.Effect{}, err
		}
		late := !w.now.Before(h.Expires)
		if !engine.Settles(w.next, h, t.amount, w.now) {
			return engine.Effect{}, usher.Errorf(usher.Refused, "with this amount the total of %s would exceed what can be counted", h.Feature)
		}
		e := engine.Settle(w.next, h, t.amount, w.now)
		if e.Overflow {
			return e, errOverflow
		}
		t.posting.At = h.At
		e.Decision.Precision = f.Precision // also if the decision knows no customer or no feature any more
		e.Decision.Reservation = &usher.Reservation{ID: id, Amount: h.Amount, ExpiresAt: held.Hold.Expires, State: usher.ReservationSettled,
			Settled: e.Decision.Consumed, Late: late}
		return e, b.tx.CloseHold(env, id, store.HoldSettled, w.now)
	}
	return u.take(ctx, t)
}

// Release ends a reservation and gives back what it held. A second release, or one
// after the reservation expired, gives back nothing and is no error; one after a
// settlement is a Conflict.
func (u *Usage) Release(ctx context.Context, env usher.Environment, id string) (usher.Decision, error) {
	t, held, err := u.end(ctx, env, id, ledger.Release)
	if err != nil {
		return usher.Decision{}, err
	}
	f, err := u.feature(ctx, env, t.feature, held.Hold.At)
	if err != nil {
		f = &usher.Feature{} // nothing is read by its precision, and no number of it is shown
	}
	t.hash = bodyHash(ledger.Release, id)
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		h, err := b.open(env, id, w)
		if err != nil {
			return engine.Effect{}, err
		}
		if err := b.loadHold(t.holder(), w, h); err != nil {
			return engine.Effect{}, err
		}
		state := usher.ReservationReleased
		if !w.now.Before(h.Expires) {
			state = usher.ReservationExpired
		}
		e := engine.Release(w.next, h, w.now)
		e.Decision.Precision = f.Precision
		e.Decision.Reservation = &usher.Reservation{ID: id, Amount: h.Amount, ExpiresAt: held.Hold.Expires, State: state}
		return e, b.tx.CloseHold(env, id, string(state), w.now)
	}
	return u.take(ctx, t)
}

// end makes the take that ends a reservation; NotFound if there is no such reservation.
func (u *Usage) end(ctx context.Context, env usher.Environment, id, call string) (*take, *store.HoldRow, error) {
	if err := usher.CheckID("id", id); err != nil {
		return nil, nil, err
	}
	held, err := u.cfg.DB.Hold(ctx, env, id)
	if err != nil {
		return nil, nil, err
	}
	if held == nil {
		return nil, nil, usher.Errorf(usher.NotFound, "no reservation %q", id)
	}
	t := &take{env: env, call: call, key: ledger.HoldKey(id), customer: held.Hold.Customer, feature: held.Hold.Feature}
	t.reused = func(op store.Op) error {
		if op.Route == ledger.Release {
			return usher.Errorf(usher.Conflict, "the reservation %s was released at %s; if something was used after all, consume it",
				id, op.At.Format(time.RFC3339))
		}
		amount := strconv.FormatInt(op.Amount, 10)
		if f, err := u.feature(ctx, env, op.Feature, held.Hold.At); err == nil {
			amount = usher.FormatQuantity(op.Amount, f.Precision)
		}
		return usher.Errorf(usher.Conflict,
			"the reservation %s was settled with %s at %s; a settlement cannot be changed: correct it, or consume the rest",
			id, amount, op.At.Format(time.RFC3339))
	}
	return t, held, nil
}

// open reads a reservation that was neither settled nor released. If it was, open
// returns errTaken, so that the stored answer is read. An expired reservation has given
// back what it held already; if a sandbox's clock was set back since, it is treated as
// expiring now, so that it does not give that back again.
func (b *batchRun) open(env usher.Environment, id string, w *world) (*engine.Hold, error) {
	row, err := b.tx.Hold(env, id)
	if err != nil {
		return nil, err
	}
	if row == nil || b.ended[id] {
		return nil, usher.Errorf(usher.Conflict, "the reservation %s ended long ago; its answer is no longer kept", id)
	}
	if row.State == store.HoldSettled || row.State == store.HoldReleased {
		b.ended[id] = true
		return nil, errTaken
	}
	if row.State == store.HoldExpired && w.now.Before(row.Hold.Expires) {
		row.Hold.Expires = w.now
	}
	return &row.Hold, nil
}

// loadHold loads a reservation's buckets and what decisions at its instant and now
// read.
func (b *batchRun) loadHold(h store.Holder, w *world, hold *engine.Hold) error {
	keys := make([]engine.BucketKey, len(hold.Entries), len(hold.Entries)+1)
	for i, e := range hold.Entries {
		keys[i] = e.Bucket
	}
	keys = append(keys, hold.Home())
	if err := b.load(h, w, keys); err != nil {
		return err
	}
	if !w.next.World.Known() {
		return nil
	}
	w.outside(hold.At)
	if err := b.ready(h, w, hold.Feature, hold.At); err != nil {
		return err
	}
	return b.ready(h, w, hold.Feature, w.now)
}
