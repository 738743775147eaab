package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
)

// Correction gives back part of a take or an event (S16).
type Correction struct {
	Env      usher.Environment
	Ref      string // a take's key, or an event's id
	Source   string // the event's source; "" for a take
	Key      string // the correction's own idempotency key
	Customer string
	Feature  string
	Amount   int64 // given back, in smallest units; positive
	At       time.Time
	Reason   string
	Actor    string
	Entries  []engine.Entry // negative
}

// Corrections reads the corrections of a take or an event, oldest first.
func (u *UsageTx) Corrections(env usher.Environment, ref, source string) (_ []Correction, err error) {
	defer wrap(&err, "read corrections")
	return list(u.ctx, inTx{u.tx}, func(row *sql.Rows, c *Correction) error {
		c.Env, c.Ref, c.Source = env, ref, source
		var at int64
		var entries []byte
		err := row.Scan(&c.Key, &c.Customer, &c.Feature, &c.Amount, &at, &c.Reason, &c.Actor, &entries)
		if err != nil {
			return err
		}
		c.At = fromMicros(at)
		c.Entries, _, err = ledger.ReadEntries(entries)
		return err
	}, `SELECT key, customer, feature, amount, at, reason, actor, entries FROM correction
		WHERE ref = $1 AND source = $2 AND env = $3 ORDER BY at, key`, ref, source, string(env))
}

// InsertCorrection stores a correction.
func (u *UsageTx) InsertCorrection(c Correction) (err error) {
	defer wrap(&err, "insert correction")
	_, err = exec(u.ctx, u.tx, `INSERT INTO correction (ref, source, env, key, customer, feature, amount, at, reason, actor, entries)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		c.Ref, c.Source, string(c.Env), c.Key, c.Customer, c.Feature, c.Amount, micros(c.At), c.Reason, c.Actor,
		ledger.AppendEntries(nil, c.Entries))
	return err
}

// Op reads a stored take; nil if there is none.
func (db *DB) Op(ctx context.Context, env usher.Environment, key string) (_ *Op, err error) {
	defer wrap(&err, "read op")
	ops, err := db.ops(ctx, []OpKey{{env, key}})
	if err != nil {
		return nil, err
	}
	if op, ok := ops[OpKey{env, key}]; ok {
		return &op, nil
	}
	return nil, nil
}

// Event reads a stored event; nil if there is none.
func (db *DB) Event(ctx context.Context, env usher.Environment, id, source string) (_ *EventRow, err error) {
	defer wrap(&err, "read event")
	e, ok, err := one(ctx, db, func(r *sql.Rows, e *EventRow) error {
		var at, received int64
		err := r.Scan(&e.Customer, &e.Type, &at, &received, &e.Hash, &e.Data, &e.Entries)
		e.Env, e.ID, e.Source, e.At, e.ReceivedAt = env, id, source, fromMicros(at), fromMicros(received)
		return err
	}, `SELECT customer, type, at, received_at, hash, data, entries FROM event WHERE id = $1 AND source = $2 AND env = $3`, id, source,
		string(env))
	if err != nil || !ok {
		return nil, err
	}
	return &e, nil
}
