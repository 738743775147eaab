package store

import (
	"context"
	"database/sql"
	"math"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// Seat reads a holder's open seat; nil if there is none.
func (u *UsageTx) Seat(h Holder, feature, holder string) (_ *engine.Seat, err error) {
	defer wrap(&err, "read seat")
	s := &engine.Seat{Holder: holder}
	var pending, since, expires int64
	err = u.tx.QueryRowContext(u.ctx, `SELECT pending, since, expires_at FROM seat WHERE customer = $1 AND env = $2 AND feature = $3
		AND holder = $4 AND released_at = 0`,
		h.Customer, string(h.Env), feature, holder).Scan(&pending, &since, &expires)
	if err == sql.ErrNoRows {
		return nil, nil
	}
	s.Pending, s.At, s.Expires = pending == 1, fromMicros(since), until(expires)
	return s, err
}

// until returns a stored end as a time; the zero time: no end.
func until(us int64) time.Time {
	if us == math.MaxInt64 {
		return time.Time{}
	}
	return fromMicros(us)
}

// PutSeat stores a holder's seat; the caller has closed the row before it, if any.
// byRole: a role took the seat, and losing the role frees it.
func (u *UsageTx) PutSeat(h Holder, feature string, s engine.Seat, at time.Time, byRole bool) (err error) {
	defer wrap(&err, "put seat")
	pending, expires := 0, int64(math.MaxInt64)
	if s.Pending {
		pending = 1
	}
	if !s.Expires.IsZero() {
		expires = micros(s.Expires)
	}
	_, err = exec(u.ctx, u.tx, `INSERT INTO seat (customer, env, feature, holder, n, pending, since, at, expires_at, released_at, by_role)
		VALUES ($1, $2, $3, $4, (SELECT 1 + coalesce(max(n), 0) FROM seat WHERE customer = $1 AND env = $2 AND feature = $3
			AND holder = $4), $5, $6, $7, $8, 0, $9)`,
		h.Customer, string(h.Env), feature, s.Holder, pending, micros(s.At), micros(at), expires, bit(byRole))
	return err
}

// KeepSeat changes the end of a holder's open seat.
func (u *UsageTx) KeepSeat(h Holder, feature, holder string, expires time.Time) (err error) {
	defer wrap(&err, "keep seat")
	_, err = exec(u.ctx, u.tx, `UPDATE seat SET expires_at = $1 WHERE customer = $2 AND env = $3 AND feature = $4 AND holder = $5
		AND released_at = 0`,
		micros(expires), h.Customer, string(h.Env), feature, holder)
	return err
}

// CloseSeat ends a holder's open seat.
func (u *UsageTx) CloseSeat(h Holder, feature, holder string, at time.Time) (err error) {
	defer wrap(&err, "close seat")
	_, err = exec(u.ctx, u.tx, `UPDATE seat SET released_at = $1 WHERE customer = $2 AND env = $3 AND feature = $4 AND holder = $5
		AND released_at = 0`,
		micros(at), h.Customer, string(h.Env), feature, holder)
	return err
}

// Seats reads the open seats of a customer's feature that have not ended at now, by
// since and holder, after the given ones (the zero time: from the start), at most
// n. It also returns how many seats come before them.
func (db *DB) Seats(ctx context.Context, env usher.Environment, customer, feature string, now, after time.Time, holder string,
	n int) (_ []engine.Seat, _ int64, err error) {
	defer wrap(&err, "read seats")
	from := int64(math.MinInt64)
	if !after.IsZero() {
		from = micros(after)
	}
	const held = `FROM seat WHERE customer = $1 AND env = $2 AND feature = $3 AND released_at = 0 AND expires_at > $4 AND `
	seats, err := list(ctx, db, func(r *sql.Rows, s *engine.Seat) error {
		var pending, since, expires int64
		err := r.Scan(&s.Holder, &pending, &since, &expires)
		s.Pending, s.At, s.Expires = pending == 1, fromMicros(since), until(expires)
		return err
	}, `SELECT holder, pending, since, expires_at `+held+`(since, holder) > ($5, $6) ORDER BY since, holder LIMIT $7`,
		customer, string(env), feature, micros(now), from, holder, n)
	if err != nil {
		return nil, 0, err
	}
	before, _, err := one(ctx, db, scanInt,
		`SELECT count(*) `+held+`(since, holder) <= ($5, $6)`, customer, string(env), feature, micros(now), from, holder)
	return seats, before, err
}

// RoleSeat is an open seat, and whether a role took it.
type RoleSeat struct {
	Feature string
	Seat    engine.Seat
	ByRole  bool
}

// SeatsOf reads the open seats of a customer's holders, by holder.
func (u *UsageTx) SeatsOf(h Holder, holders []string) (_ map[string][]RoleSeat, err error) {
	defer wrap(&err, "read seats of")
	all := map[string][]RoleSeat{}
	for part := range slices.Chunk(holders, rowsAtOnce) {
		args := []any{h.Customer, string(h.Env)}
		for _, id := range part {
			args = append(args, id)
		}
		rows, err := list(u.ctx, inTx{u.tx}, func(row *sql.Rows, s *RoleSeat) error {
			var pending, since, expires, role int64
			err := row.Scan(&s.Seat.Holder, &s.Feature, &pending, &since, &expires, &role)
			s.Seat.Pending, s.Seat.At, s.Seat.Expires, s.ByRole = pending == 1, fromMicros(since), until(expires), role == 1
			return err
		}, `SELECT holder, feature, pending, since, expires_at, by_role FROM seat WHERE customer = $1 AND env = $2 AND released_at = 0
			AND holder IN (`+places(len(part), 3)+`)`, args...)
		if err != nil {
			return nil, err
		}
		for _, s := range rows {
			all[s.Seat.Holder] = append(all[s.Seat.Holder], s)
		}
	}
	return all, nil
}

// HasRoleSeats reports whether roles hold any seat of the customer.
func (d Directory) HasRoleSeats(ctx context.Context) (_ bool, err error) {
	defer wrap(&err, "has role seats")
	_, ok, err := one(ctx, d.r, scanInt, `SELECT 1 FROM seat WHERE customer = $1 AND env = $2 AND released_at = 0 AND by_role = 1
		LIMIT 1`, d.customer, string(d.env))
	return ok, err
}
