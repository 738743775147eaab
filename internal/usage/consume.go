package usage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/engine"
	"github.com/usher-sh/usher/internal/store"
)

// ConsumeOp is one consume as asked.
type ConsumeOp struct {
	Customer    string
	Feature     string
	Member      string
	Key         string       // the idempotency key; required (S13)
	Amount      usher.Number // "": 1
	MinRevision int64        // 0: any
}

// routeConsume names the call in stored answers, so that a key cannot be used
// for two kinds of call.
const routeConsume = "POST /v1/consume"

// take is a consume on its way through the writer.
type take struct {
	env      usher.Environment
	op       ConsumeOp
	amount   int64
	hash     []byte
	at       time.Time
	decision usher.Decision
	entries  []engine.Entry
	err      error
}

// Consume decides and takes in one step (S12). A denial takes nothing and is no
// error. The same key and body again gives the first answer (S13).
func (u *Usage) Consume(ctx context.Context, env usher.Environment, op ConsumeOp) (usher.Decision, error) {
	if err := usher.CheckIdempotencyKey(op.Key); err != nil {
		return usher.Decision{}, err
	}
	if op.MinRevision > u.cfg.Live.Revision(env) {
		if err := u.cfg.Live.Refresh(ctx, env); err != nil {
			return usher.Decision{}, err
		}
		if r := u.cfg.Live.Revision(env); op.MinRevision > r {
			return usher.Decision{}, usher.Errorf(usher.Invalid, "min_revision is %d, and the newest revision is %d; send one that an answer or a change carried", op.MinRevision, r)
		}
	}
	t := &take{env: env, op: op}
	book := u.cfg.Live.Book(env)
	amount := op.Amount
	if amount == "" {
		amount = "1"
	}
	if f := book.Features[op.Feature]; f != nil {
		if err := consumable(book, f); err != nil {
			return usher.Decision{}, err
		}
		n, err := amount.Units(f.Precision)
		if err != nil {
			return usher.Decision{}, &usher.Error{Code: usher.Invalid, Detail: "the amount of " + f.Key + " is not valid",
				Problems: []usher.Problem{{Location: "body.amount", Message: err.Error()}}}
		}
		t.amount = n
	}
	t.hash = t.bodyHash(amount)
	if err := u.submit(ctx, &request{take: t}); err != nil {
		return usher.Decision{}, err
	}
	return t.decision, t.err
}

// consumable returns a NotConsumable error unless the feature's use adds up (S33).
func consumable(book *engine.Book, f *usher.Feature) error {
	switch {
	case f.Kind == usher.Switch || f.Kind == usher.Config:
		return usher.Errorf(usher.NotConsumable, "%s is a %s: there is nothing to consume; ask with /v1/check", f.Key, f.Kind)
	case f.Kind == usher.Seats:
		return usher.Errorf(usher.NotConsumable, "%s is seats: they are held by named holders, not consumed", f.Key)
	case book.Gauge(f):
		return usher.Errorf(usher.NotConsumable, "%s follows the meter %s, whose aggregation is %s: report it with /v1/events", f.Key, f.Meter, book.Meter(f).Aggregation)
	}
	return nil
}

func (t *take) opKey() store.OpKey   { return store.OpKey{Env: t.env, Key: t.op.Key} }
func (t *take) holder() store.Holder { return store.Holder{Env: t.env, Customer: t.op.Customer} }

// bodyHash is what makes two bodies the same: all but min_revision (S13).
func (t *take) bodyHash(amount usher.Number) []byte {
	h := sha256.New()
	for _, s := range []string{routeConsume, t.op.Customer, t.op.Feature, t.op.Member} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	// 1 and "1.0" are the same amount whatever the precision.
	if n, err := amount.Units(usher.MaxPrecision); err == nil {
		amount = usher.Number(usher.FormatQuantity(n, usher.MaxPrecision))
	}
	h.Write([]byte(amount))
	return h.Sum(nil)[:16]
}

// row is the take as it is kept.
func (t *take) row() store.Op {
	return store.Op{Env: t.env, Key: t.op.Key, Route: routeConsume, BodyHash: t.hash, Customer: t.op.Customer, Feature: t.op.Feature,
		At: t.at, Amount: t.amount, Answer: encodeAnswer(&t.decision, t.entries)}
}

// answer gives a take the answer that is stored under its key, or a KeyReused
// error where that was to another call.
func (t *take) answer(op store.Op) {
	if op.Route != routeConsume || !bytes.Equal(op.BodyHash, t.hash) {
		t.err = usher.Errorf(usher.KeyReused, "the idempotency key %q was used for another call (%s, at %s); use a new key for each operation",
			t.op.Key, op.Route, op.At.Format(time.RFC3339))
		return
	}
	d, err := decodeAnswer(op.Answer)
	if err != nil {
		t.err = err
		return
	}
	d.Customer, d.Feature, d.Replayed = op.Customer, op.Feature, true
	t.decision = d
}
