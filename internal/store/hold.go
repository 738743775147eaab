package store

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
)

// The states of a reservation.
const (
	HoldOpen     = "open"
	HoldSettled  = "settled"
	HoldReleased = "released"
	HoldExpired  = "expired"
)

// HoldRow is a stored reservation.
type HoldRow struct {
	Env  usher.Environment
	Hold engine.Hold
	// State is how it ended. An open reservation past its end has expired, even if
	// the row does not say so yet (S10).
	State string
}

const holdColumns = `id, env, customer, feature, amount, at, expires_at, state, entries`

func scanHold(row *sql.Rows, h *HoldRow) error {
	var at, expires int64
	var env string
	var entries []byte
	err := row.Scan(&h.Hold.ID, &env, &h.Hold.Customer, &h.Hold.Feature, &h.Hold.Amount, &at, &expires, &h.State, &entries)
	if err != nil {
		return err
	}
	h.Env, h.Hold.At, h.Hold.Expires = usher.Environment(env), fromMicros(at), fromMicros(expires)
	h.Hold.Entries, _, err = ledger.ReadEntries(entries)
	return err
}

// Hold reads a reservation; nil if there is none.
func (db *DB) Hold(ctx context.Context, env usher.Environment, id string) (_ *HoldRow, err error) {
	defer wrap(&err, "read hold")
	return hold(ctx, db, env, id)
}

// Hold reads as DB.Hold does, in the transaction.
func (u *UsageTx) Hold(env usher.Environment, id string) (_ *HoldRow, err error) {
	defer wrap(&err, "read hold")
	return hold(u.ctx, inTx{u.tx}, env, id)
}

func hold(ctx context.Context, r reader, env usher.Environment, id string) (*HoldRow, error) {
	h, ok, err := one(ctx, r, scanHold, `SELECT `+holdColumns+` FROM hold WHERE id = $1 AND env = $2`, id, string(env))
	if err != nil || !ok {
		return nil, err
	}
	return &h, nil
}

// InsertHolds stores new reservations.
func (u *UsageTx) InsertHolds(env usher.Environment, holds []engine.Hold) (err error) {
	defer wrap(&err, "insert holds")
	holds = slices.Clone(holds)
	slices.SortFunc(holds, func(x, y engine.Hold) int { return strings.Compare(x.ID, y.ID) })
	args := make([]any, 0, 10*len(holds))
	for i := range holds {
		h := &holds[i]
		args = append(args, h.ID, string(env), h.Customer, h.Feature, h.Amount, micros(h.At), micros(h.Expires), int64(0), HoldOpen,
			ledger.AppendEntries(nil, h.Entries))
	}
	_, err = u.insert(`hold (id, env, customer, feature, amount, at, expires_at, closed_at, state, entries)`, "ttttiiiitb", args, ``)
	return err
}

// CloseHold ends an open reservation, or one that has expired unsettled.
func (u *UsageTx) CloseHold(env usher.Environment, id, state string, at time.Time) (err error) {
	defer wrap(&err, "close hold")
	_, err = exec(u.ctx, u.tx, `UPDATE hold SET state = $1, closed_at = $2 WHERE id = $3 AND env = $4`, state, micros(at), id, string(env))
	return err
}

// Expire closes a customer's reservations and seats that ended by at, so that they
// are given back once.
func (u *UsageTx) Expire(h Holder, at time.Time) (err error) {
	defer wrap(&err, "expire")
	if _, err := exec(u.ctx, u.tx, `UPDATE hold SET state = 'expired', closed_at = expires_at WHERE customer = $1 AND env = $2
		AND closed_at = 0 AND expires_at <= $3`,
		h.Customer, string(h.Env), micros(at)); err != nil {
		return err
	}
	_, err = exec(u.ctx, u.tx, `UPDATE seat SET released_at = expires_at WHERE customer = $1 AND env = $2 AND released_at = 0
		AND expires_at < 9223372036854775807 AND expires_at <= $3`,
		h.Customer, string(h.Env), micros(at))
	return err
}

// lapsesText reads the open reservations, and the seats with an end, of n customers,
// whose ids and environments are lapsesArgs.
func (db *DB) lapsesText(n int) string {
	empty, first := `x''`, `VALUES `+questions(n, 2)
	if db.dialect == Postgres {
		empty, first = `''::bytea`, `SELECT * FROM `+unnest("tt", 1)
	}
	// The list of customers is there twice. PostgreSQL's numbered parameters can be
	// used again; SQLite's are unnumbered (see questions), so lapsesArgs repeats them.
	return `SELECT 0, customer, env, id, feature, at, expires_at, 0, entries FROM hold WHERE closed_at = 0
		AND (customer, env) IN (` + first + `)
		UNION ALL SELECT 1, customer, env, holder, feature, since, expires_at, pending, ` + empty + ` FROM seat
		WHERE released_at = 0 AND expires_at < 9223372036854775807 AND (customer, env) IN (` + first + `)`
}

func (db *DB) lapsesArgs(holders []Holder) []any {
	args := make([]any, 0, 4*len(holders))
	for _, h := range holders {
		args = append(args, h.Customer, string(h.Env))
	}
	if db.dialect == Postgres {
		return columns("tt", args)
	}
	return append(args, args...)
}

type lapseRow struct {
	kind        int // 0: a reservation; 1: a seat
	holder      Holder
	id, feature string
	at, expires int64 // µs
	pending     int
	entries     []byte
}

func scanLapse(rows *sql.Rows, r *lapseRow) error {
	var env string
	err := rows.Scan(&r.kind, &r.holder.Customer, &env, &r.id, &r.feature, &r.at, &r.expires, &r.pending, &r.entries)
	r.holder.Env = usher.Environment(env)
	return err
}

func (r *lapseRow) lapses() ([]engine.Lapse, error) {
	if r.kind == 1 {
		return []engine.Lapse{{ID: r.id, Bucket: engine.BucketKey{Feature: r.feature, Clock: engine.ClockSeats}, Used: r.pending == 0,
			Amount: 1, At: r.at, Expires: r.expires}}, nil
	}
	h := engine.Hold{ID: r.id, At: fromMicros(r.at), Expires: fromMicros(r.expires)}
	var err error
	if h.Entries, _, err = ledger.ReadEntries(r.entries); err != nil {
		return nil, err
	}
	return h.Lapses(), nil
}

// Lapses reads the open reservations and seats of a customer that end by
// themselves.
func (db *DB) Lapses(ctx context.Context, h Holder) (_ []engine.Lapse, err error) {
	defer wrap(&err, "read lapses")
	all := map[Holder][]engine.Lapse{}
	err = db.lapses(ctx, db, []Holder{h}, all)
	return all[h], err
}

// Lapses reads as DB.Lapses does, in the transaction, for several customers.
func (u *UsageTx) Lapses(holders []Holder) (_ map[Holder][]engine.Lapse, err error) {
	defer wrap(&err, "read lapses")
	all := map[Holder][]engine.Lapse{}
	for part := range slices.Chunk(holders, 256) {
		if err := u.db.lapses(u.ctx, inTx{u.tx}, part, all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (db *DB) lapses(ctx context.Context, r reader, holders []Holder, to map[Holder][]engine.Lapse) error {
	rows, err := list(ctx, r, scanLapse, db.lapsesText(len(holders)), db.lapsesArgs(holders)...)
	if err != nil {
		return err
	}
	for i := range rows {
		l, err := rows[i].lapses()
		if err != nil {
			return err
		}
		to[rows[i].holder] = append(to[rows[i].holder], l...)
	}
	return nil
}
