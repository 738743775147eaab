package usher

import (
	"strconv"
	"time"
)

// ReservationState says what became of a reservation (S23).
type ReservationState string

// The states of a reservation.
const (
	ReservationOpen     ReservationState = "open"
	ReservationSettled  ReservationState = "settled"
	ReservationReleased ReservationState = "released"
	ReservationExpired  ReservationState = "expired"
)

// Reservation is an amount that is held until it is settled, released or
// expires. Quantities are in smallest units of the decision's feature.
type Reservation struct {
	ID        string
	Amount    int64 // held
	ExpiresAt time.Time
	State     ReservationState
	Settled   int64 // the true amount; 0 until it is settled
	Late      bool  // it was settled after it had expired: the use is recorded all the same
}

func (r *Reservation) appendJSON(b []byte, precision int) []byte {
	b = appendString(append(b, `{"id":`...), r.ID)
	b = AppendQuantity(append(b, `,"amount":`...), r.Amount, precision)
	b = appendTime(append(b, `,"expires_at":`...), r.ExpiresAt)
	if r.State != ReservationOpen {
		b = appendString(append(b, `,"state":`...), string(r.State))
	}
	if r.State == ReservationSettled {
		b = AppendQuantity(append(b, `,"settled":`...), r.Settled, precision)
	}
	if r.Late {
		b = append(b, `,"late":true`...)
	}
	return append(b, '}')
}

// SeatState says whether a holder is active or only invited (S22).
type SeatState string

// The states of a seat. Both count.
const (
	SeatActive  SeatState = "active"
	SeatPending SeatState = "pending"
)

// Seat is one holder's place in a feature of kind seats.
type Seat struct {
	Holder    string
	State     SeatState
	Since     time.Time
	ExpiresAt time.Time // zero: it does not end by itself
	Excess    bool      // it lies beyond the limit: the latest to come do (S19)
}

// AppendJSON appends the seat as the API shows it.
func (s *Seat) AppendJSON(b []byte) []byte {
	b = appendString(append(b, `{"holder":`...), s.Holder)
	b = appendString(append(b, `,"state":`...), string(s.State))
	b = appendTime(append(b, `,"since":`...), s.Since)
	if !s.ExpiresAt.IsZero() {
		b = appendTime(append(b, `,"expires_at":`...), s.ExpiresAt)
	}
	if s.Excess {
		b = append(b, `,"excess":true`...)
	}
	return append(b, '}')
}

// Correction is what was given back of a take or an event (S16).
type Correction struct {
	Ref      string // the key of the take, or the id of the event
	Source   string // of the event; "" of a take
	Amount   int64  // given back, smallest units
	Left     int64  // what the take still comes to
	Returned []Deduction
}

func (c *Correction) appendJSON(b []byte, precision int) []byte {
	if c.Source == "" {
		b = appendString(append(b, `{"ref":`...), c.Ref)
	} else {
		b = appendString(append(b, `{"ref":{"source":`...), c.Source)
		b = append(appendString(append(b, `,"id":`...), c.Ref), '}')
	}
	b = AppendQuantity(append(b, `,"amount":`...), c.Amount, precision)
	b = AppendQuantity(append(b, `,"left":`...), c.Left, precision)
	b = append(b, `,"returned":[`...)
	for i := range c.Returned {
		if i > 0 {
			b = append(b, ',')
		}
		b = c.Returned[i].appendJSON(b, precision)
	}
	return append(b, ']', '}')
}

// Denial is what was denied, or would have been, of one feature to one customer
// over a span of hours.
type Denial struct {
	Customer  string
	Feature   string
	Outcome   string // "denied", "warned", "shadowed" (S26), "excess" (S14)
	Reason    Reason
	Count     int64
	Amount    int64 // asked for together, smallest units
	Precision int
	First     time.Time // start of the first hour with one
	Last      time.Time // start of the last
}

// AppendJSON appends the denial as the API shows it.
func (d *Denial) AppendJSON(b []byte) []byte {
	b = appendString(append(b, `{"customer":`...), d.Customer)
	b = appendString(append(b, `,"feature":`...), d.Feature)
	b = appendString(append(b, `,"outcome":`...), d.Outcome)
	b = appendString(append(b, `,"reason":`...), string(d.Reason))
	b = strconv.AppendInt(append(b, `,"count":`...), d.Count, 10)
	b = AppendQuantity(append(b, `,"amount":`...), d.Amount, d.Precision)
	b = appendTime(append(b, `,"first":`...), d.First)
	return append(appendTime(append(b, `,"last":`...), d.Last), '}')
}
