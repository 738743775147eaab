package store

import (
	"context"
	"database/sql"
	"strings"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// Scan reads whole tables of one state of the database, a row at a time. It is
// valid only inside DB.Scan's function, and one of its methods runs at a time.
type Scan struct {
	tx  *sql.Tx
	ctx context.Context
}

// Scan runs fn on one state of the database: fn does not see later commits, and no
// writer waits. On SQLite the write-ahead log grows as long as fn runs. Scan
// returns an error of fn as it is.
func (db *DB) Scan(ctx context.Context, fn func(*Scan) error) (err error) {
	defer wrap(&err, "scan")
	return db.scan(ctx, func(s *Scan) error { return fromOutside(fn(s)) })
}

func (db *DB) scan(ctx context.Context, fn func(*Scan) error) error {
	o := &sql.TxOptions{ReadOnly: true}
	if db.dialect == Postgres {
		o.Isolation = sql.LevelRepeatableRead
	}
	tx, err := db.r.BeginTx(ctx, o)
	if err != nil {
		return err
	}
	defer tx.Rollback() // it wrote nothing
	if err := db.unhurried(ctx, tx); err != nil {
		return err
	}
	return fn(&Scan{tx, ctx})
}

// unhurried lets a transaction be idle: its caller computes, or writes what it read to
// a slow reader.
func (db *DB) unhurried(ctx context.Context, tx *sql.Tx) error {
	if db.dialect != Postgres {
		return nil
	}
	_, err := tx.ExecContext(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`)
	return err
}

// each calls fn with every row, scanned into to.
func (s *Scan) each(fn func() error, text string, to ...any) error {
	rows, err := s.tx.QueryContext(s.ctx, text)
	if err != nil {
		return err
	}
	return eachRow(rows, func() error {
		if err := rows.Scan(to...); err != nil {
			return err
		}
		return fromOutside(fn())
	})
}

// Management reports whether a stored answer is that of a change, not of a take.
func (o *Op) Management() bool { return strings.HasPrefix(string(o.Answer), answerMark) }

// Ops reads every stored answer. The Op is the same one each time.
func (s *Scan) Ops(fn func(*Op) error) (err error) {
	defer wrap(&err, "read ops")
	var o Op
	var at int64
	return s.each(func() error { o.At = fromMicros(at); return fn(&o) },
		`SELECT env, key, route, customer, feature, at, amount, answer FROM op`,
		&o.Env, &o.Key, &o.Route, &o.Customer, &o.Feature, &at, &o.Amount, &o.Answer)
}

// Events reads the ledger of every event, without its data. The EventRow is the
// same one each time.
func (s *Scan) Events(fn func(*EventRow) error) (err error) {
	defer wrap(&err, "read events")
	var e EventRow
	var at, received int64
	return s.each(func() error { e.At, e.ReceivedAt = fromMicros(at), fromMicros(received); return fn(&e) },
		`SELECT env, id, source, customer, at, received_at, entries FROM event`,
		&e.Env, &e.ID, &e.Source, &e.Customer, &at, &received, &e.Entries)
}

// FoldedRow is what takes whose answers were folded added to a bucket in one minute.
type FoldedRow struct {
	Holder
	Bucket engine.BucketKey
	Minute int64 // its start in µs
	Amount int64
}

// Folded reads every FoldedRow. It is the same one each time.
func (s *Scan) Folded(fn func(*FoldedRow) error) (err error) {
	defer wrap(&err, "read folded")
	var f FoldedRow
	return s.each(func() error { return fn(&f) }, `SELECT env, customer, feature, clock, start_at, minute_at, amount FROM folded`,
		&f.Env, &f.Customer, &f.Bucket.Feature, &f.Bucket.Clock, &f.Bucket.Start, &f.Minute, &f.Amount)
}

// HoldState is a reservation with its entries as they are stored.
type HoldState struct {
	Holder
	ID, Feature string
	State       string
	At          int64 // µs
	ClosedAt    int64 // µs; 0: open
	Entries     []byte
}

// Holds reads every reservation. The HoldState is the same one each time.
func (s *Scan) Holds(fn func(*HoldState) error) (err error) {
	defer wrap(&err, "read holds")
	var h HoldState
	return s.each(func() error { return fn(&h) }, `SELECT env, customer, id, feature, state, at, closed_at, entries FROM hold`,
		&h.Env, &h.Customer, &h.ID, &h.Feature, &h.State, &h.At, &h.ClosedAt, &h.Entries)
}

// OpenSeats reads every seat that is held.
func (s *Scan) OpenSeats(fn func(h Holder, feature string, pending bool) error) (err error) {
	defer wrap(&err, "read open seats")
	var h Holder
	var feature string
	var pending int64
	return s.each(func() error { return fn(h, feature, pending == 1) }, `SELECT env, customer, feature, pending FROM seat
		WHERE released_at = 0`,
		&h.Env, &h.Customer, &feature, &pending)
}

// CorrectionState is a correction with its entries as they are stored, and the
// event that it refers to, if any.
type CorrectionState struct {
	Holder
	Ref, Source, Key string
	Feature          string
	Amount           int64
	At               int64 // µs
	Entries          []byte
	EventAt          int64  // µs
	Event            []byte // the event's ledger; nil without an event
}

// Corrections reads every correction. The CorrectionState is the same one each
// time.
func (s *Scan) Corrections(fn func(*CorrectionState) error) (err error) {
	defer wrap(&err, "read corrections")
	var c CorrectionState
	return s.each(func() error { return fn(&c) }, `SELECT c.env, c.customer, c.ref, c.source, c.key, c.feature, c.amount, c.at, c.entries,
		coalesce(e.at, 0), e.entries FROM correction c LEFT JOIN event e ON c.source <> '' AND e.id = c.ref AND e.source = c.source
			AND e.env = c.env`,
		&c.Env, &c.Customer, &c.Ref, &c.Source, &c.Key, &c.Feature, &c.Amount, &c.At, &c.Entries, &c.EventAt, &c.Event)
}

// Buckets reads every bucket.
func (s *Scan) Buckets(fn func(h Holder, b engine.Bucket) error) (err error) {
	defer wrap(&err, "read buckets")
	var h Holder
	var b engine.Bucket
	var unlimited int64
	return s.each(func() error { b.Unlimited = unlimited == 1; return fn(h, b) }, `SELECT env, customer, `+bucketColumns+` FROM bucket`,
		&h.Env, &h.Customer, &b.Feature, &b.Clock, &b.Start, &b.End, &unlimited, &b.Limit, &b.Opening, &b.Used, &b.Reserved, &b.Overage,
		&b.Excess, &b.At)
}

// Rollups reads every span of use, by clock and then by dimension.
func (s *Scan) Rollups(fn func(RollupKey, RollupValue) error) (err error) {
	defer wrap(&err, "read rollups")
	var k RollupKey
	var v RollupValue
	err = s.each(func() error { return fn(k, v) }, `SELECT env, customer, feature, clock, grain, start_at, used, at FROM rollup`,
		&k.Env, &k.Customer, &k.Feature, &k.Value, &k.Grain, &k.Start, &v.Used, &v.At)
	if err != nil {
		return err
	}
	return s.each(func() error { return fn(k, v) }, `SELECT env, customer, feature, dimension, value, grain, start_at, used, at
		FROM rollup_dim`,
		&k.Env, &k.Customer, &k.Feature, &k.Dimension, &k.Value, &k.Grain, &k.Start, &v.Used, &v.At)
}

// Seen reads every value of a unique meter, with the start of its minute in µs.
func (s *Scan) Seen(fn func(h Holder, feature, value string, minute int64) error) (err error) {
	defer wrap(&err, "read seen")
	var h Holder
	var feature, value string
	var minute int64
	return s.each(func() error { return fn(h, feature, value, minute) }, `SELECT env, customer, feature, value, minute_at FROM seen`,
		&h.Env, &h.Customer, &feature, &value, &minute)
}

// Denials reads what was denied in every hour.
func (s *Scan) Denials(fn func(DenialKey, DenialCount) error) (err error) {
	defer wrap(&err, "read denials")
	var k DenialKey
	var n DenialCount
	return s.each(func() error { return fn(k, n) }, `SELECT env, customer, feature, hour_at, outcome, reason, n, amount FROM denial`,
		&k.Env, &k.Customer, &k.Feature, &k.Hour, &k.Outcome, &k.Reason, &n.N, &n.Amount)
}

// Catalogs reads the canonical text of every catalogue that was ever in force.
func (s *Scan) Catalogs(fn func(env usher.Environment, canonical string) error) (err error) {
	defer wrap(&err, "read catalogs")
	var env usher.Environment
	var text string
	return s.each(func() error { return fn(env, text) }, `SELECT env, canonical FROM catalog`, &env, &text)
}

// Quiet runs fn while no other process writes use. On SQLite this process owns the
// file; on PostgreSQL the takes of all nodes wait. It returns Unavailable if
// another session keeps locks for 30 s, and an error of fn as it is.
func (db *DB) Quiet(ctx context.Context, fn func() error) (err error) {
	defer wrap(&err, "quiet")
	if db.dialect == SQLite {
		if db.lock == nil {
			return usher.Errorf(usher.Refused, "the database was opened beside the process that owns it")
		}
		return fromOutside(fn())
	}
	tx, err := db.w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := db.unhurried(ctx, tx); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `SET LOCAL lock_timeout = '30s'`); err != nil {
		return err
	}
	// EXCLUSIVE conflicts with the row locks of every batch and with a fold's lock,
	// and lets readers go on.
	if _, err := tx.ExecContext(ctx, `LOCK TABLE customer IN EXCLUSIVE MODE`); err != nil {
		if postgresCode(err) == "55P03" {
			return usher.Errorf(usher.Unavailable, "another session has held locks on customers for 30 s: try again when it has ended")
		}
		return err
	}
	return fromOutside(fn())
}

// DropRollup removes a span of use.
func (u *UsageTx) DropRollup(k RollupKey) (err error) {
	defer wrap(&err, "drop rollup")
	text, args := `DELETE FROM rollup WHERE customer = $1 AND env = $2 AND feature = $3 AND grain = $4 AND start_at = $5 AND clock = $6`,
		[]any{k.Customer, string(k.Env), k.Feature, int64(k.Grain), k.Start, k.Value}
	if k.Dimension != "" {
		text = `DELETE FROM rollup_dim WHERE customer = $1 AND env = $2 AND feature = $3 AND grain = $4 AND start_at = $5 AND value = $6
			AND dimension = $7`
		args = append(args, k.Dimension)
	}
	_, err = exec(u.ctx, u.tx, text, args...)
	return err
}

// Unsee removes a value of a unique meter from a minute, which is its start in µs.
func (u *UsageTx) Unsee(h Holder, feature, value string, minute int64) (err error) {
	defer wrap(&err, "unsee")
	_, err = exec(u.ctx, u.tx, `DELETE FROM seen WHERE customer = $1 AND env = $2 AND feature = $3 AND value = $4 AND minute_at = $5`,
		h.Customer, string(h.Env), feature, value, minute)
	return err
}

// SetDenial replaces the count of one hour; a count of 0 removes it.
func (u *UsageTx) SetDenial(k DenialKey, n DenialCount) (err error) {
	defer wrap(&err, "set denial")
	_, err = exec(u.ctx, u.tx, `DELETE FROM denial WHERE customer = $1 AND env = $2 AND feature = $3 AND hour_at = $4 AND outcome = $5
		AND reason = $6`,
		k.Customer, string(k.Env), k.Feature, k.Hour, k.Outcome, string(k.Reason))
	if err != nil || n.N == 0 {
		return err
	}
	return u.putDenials(map[DenialKey]DenialCount{k: n})
}
