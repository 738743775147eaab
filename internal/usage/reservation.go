package usage

import (
	"context"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
)

// Held is a reservation as it is now.
type Held struct {
	usher.Reservation
	Customer, Feature string
	Precision         int // of the quantities: decimal places of the feature
}

// Reservation returns a reservation; NotFound if there is none. It is expired once its
// time is over, even if no row says so yet. Settled is 0 once the settlement's answer
// is no longer stored (ledger.Kept).
func (u *Usage) Reservation(ctx context.Context, env usher.Environment, id string) (*Held, error) {
	if err := usher.CheckID("id", id); err != nil {
		return nil, err
	}
	row, err := u.cfg.DB.Hold(ctx, env, id)
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, usher.Errorf(usher.NotFound, "no reservation %q", id)
	}
	h := &row.Hold
	out := &Held{Customer: h.Customer, Feature: h.Feature,
		Reservation: usher.Reservation{ID: id, Amount: h.Amount, ExpiresAt: h.Expires, State: usher.ReservationState(row.State)}}
	if f := u.cfg.Live.Book(env).Features[h.Feature]; f != nil {
		out.Precision = f.Precision
	}
	switch row.State {
	case store.HoldSettled:
		op, err := u.cfg.DB.Op(ctx, env, ledger.HoldKey(id))
		if err != nil || op == nil {
			return out, err
		}
		d, _, err := ledger.DecodeAnswer(op.Answer, op.At)
		if err != nil {
			return nil, err
		}
		if d.Reservation != nil {
			out.Settled, out.Late = d.Reservation.Settled, d.Reservation.Late
		}
	case store.HoldOpen:
		if !u.cfg.Live.Now(env).Before(h.Expires) {
			out.State = usher.ReservationExpired
		}
	}
	return out, nil
}
