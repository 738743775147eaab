package usher

import (
	"encoding/json"
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

// Reservation is an amount that is held until a caller settles or releases it, or
// it expires. Quantities are in smallest units of the decision's feature.
type Reservation struct {
	ID        string           `json:"id" keep:"1" doc:"The id of the reservation"`
	Amount    int64            `json:"amount" quantity:"true" keep:"2" doc:"The amount that is held"`
	ExpiresAt time.Time        `json:"expires_at" keep:"3" doc:"When the reservation expires"`
	State     ReservationState `json:"state,omitempty" keep:"4" doc:"What became of the reservation. Absent in a decision: open"`
	// 0 until it is settled
	Settled int64 `json:"settled,omitempty" quantity:"true" keep:"5" doc:"The amount actually used, once settled"`
	Late    bool  `json:"late,omitempty" keep:"6" doc:"Whether it was settled after it had expired; the use is recorded all the same"`
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
	Holder    string    `json:"holder" keep:"1" doc:"The holder of the seat"`
	State     SeatState `json:"state" keep:"2" doc:"Whether the holder is active or only invited"`
	Since     time.Time `json:"since" keep:"3" doc:"When the holder got the seat"`
	ExpiresAt time.Time `json:"expires_at,omitzero" keep:"4" doc:"When the seat ends. Absent: it does not end by itself"`
	Excess    bool      `json:"excess,omitempty" keep:"5" doc:"Whether the seat is beyond the limit; the newest seats are"` // S19
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
	Ref      UseRef      `json:"ref" keep:"1" doc:"The take or the event that was corrected"`
	Amount   int64       `json:"amount" quantity:"true" keep:"2" doc:"What was given back"`
	Left     int64       `json:"left" quantity:"true" keep:"3" doc:"What is still counted of the take or the event"`
	Returned []Deduction `json:"returned" keep:"4" doc:"To which allowances it was given back"`
}

// UseRef names a take by its idempotency key, or an event by its source and id.
// In JSON a take is a string and an event is {"source", "id"}.
type UseRef struct {
	ID     string `keep:"1"` // the key of the take, or the id of the event
	Source string `keep:"2"` // of the event; "" of a take
}

func (r UseRef) appendJSON(b []byte) []byte {
	if r.Source == "" {
		return appendString(b, r.ID)
	}
	b = appendString(append(b, `{"source":`...), r.Source)
	return append(appendString(append(b, `,"id":`...), r.ID), '}')
}

// UnmarshalJSON reads either form.
func (r *UseRef) UnmarshalJSON(b []byte) error {
	*r = UseRef{}
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &r.ID)
	}
	var w struct {
		Source string `json:"source"`
		ID     string `json:"id"`
	}
	err := json.Unmarshal(b, &w)
	*r = UseRef{ID: w.ID, Source: w.Source}
	return err
}

func (c *Correction) appendJSON(b []byte, precision int) []byte {
	b = c.Ref.appendJSON(append(b, `{"ref":`...))
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

// Denial counts what one customer was denied of one feature, or would have been,
// over a span of hours.
type Denial struct {
	Customer  string
	Feature   string
	Outcome   string // "denied", "warned", "shadowed" (S26), "excess" (S14)
	Reason    Reason
	Count     int64
	Amount    int64 // the sum of what was asked for, smallest units
	Precision int
	First     time.Time // start of the first hour with a denial
	Last      time.Time // start of the last hour with a denial
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
