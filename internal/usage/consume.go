package usage

import (
	"cmp"
	"context"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
)

// ConsumeOp is one consume as asked. Customer, Feature and Key are required.
type ConsumeOp struct {
	Customer    string
	Feature     string
	Member      string
	About       string       // what else was asked about the member, as part of the body's hash; "" is nothing
	Key         string       // the idempotency key (S13)
	Amount      usher.Number // "": 1
	MinRevision int64        // the oldest revision to decide at; 0: any
	// Complete adds to the decision what else the caller is told, before the answer is
	// stored; nil: nothing.
	Complete func(*usher.Decision)
}

// Consume decides and takes in one step (S12). A denial takes nothing and is no
// error. The same key and body again gives the first answer (S13).
func (u *Usage) Consume(ctx context.Context, env usher.Environment, op ConsumeOp) (usher.Decision, error) {
	t, err := u.newTake(ctx, env, ledger.Consume, op, "")
	if err != nil {
		return u.orKnown(ctx, t, err)
	}
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		e, err := b.decide(t, w, engine.Op{Kind: engine.Consume, Customer: t.customer, Feature: t.feature, Amount: t.amount})
		op.complete(&e)
		return e, err
	}
	return u.take(ctx, t)
}

// Known reports whether a take was stored under an idempotency key.
func (u *Usage) Known(ctx context.Context, env usher.Environment, key string) (bool, error) {
	stored, err := u.cfg.DB.Ops(ctx, []store.OpKey{{Env: env, Key: key}})
	return len(stored) > 0, err
}

// complete adds what the caller is told beside the decision.
func (op *ConsumeOp) complete(e *engine.Effect) {
	if op.Complete != nil {
		op.Complete(&e.Decision)
	}
}

// orKnown returns the stored answer of a take that err keeps from being decided, and
// err if there is none: an answer is kept for as long as ledger.Kept, whatever was
// removed or changed since it was given (S13).
func (u *Usage) orKnown(ctx context.Context, t *take, err error) (usher.Decision, error) {
	if t == nil {
		return usher.Decision{}, err
	}
	op, unread := u.cfg.DB.Op(ctx, t.env, t.key)
	if unread != nil || op == nil {
		return usher.Decision{}, cmp.Or(unread, err)
	}
	t.answer(*op)
	return t.decision, t.err
}

// newTake checks what a consume and a reservation have in common. extra is what else
// makes two bodies differ. With an error it returns the take too, if its key is valid.
func (u *Usage) newTake(ctx context.Context, env usher.Environment, route string, op ConsumeOp, extra string) (*take, error) {
	if err := usher.CheckIdempotencyKey(op.Key); err != nil {
		return nil, err
	}
	amount := cmp.Or(op.Amount, "1")
	t := &take{env: env, call: route, key: op.Key, customer: op.Customer, feature: op.Feature, asked: amount}
	// 1 and 1.0 are the same amount, so they are the same body.
	if n, err := amount.Units(usher.MaxPrecision); err == nil {
		amount = usher.Number(usher.FormatQuantity(n, usher.MaxPrecision))
	}
	if op.About != "" {
		extra += "\x00" + op.About
	}
	t.hash = bodyHash(route, op.Customer, op.Feature, op.Member, extra, string(amount))
	if err := u.reach(ctx, env, op.MinRevision); err != nil {
		return t, err
	}
	return t, t.read(u.cfg.Live.Book(env))
}

// read reads the amount by the precision of the feature in a catalogue, or returns why
// nothing of the feature can be taken. An unknown feature is no error here: the
// decision denies it.
func (t *take) read(book *engine.Book) (err error) {
	t.book = book
	f := book.Features[t.feature]
	if f == nil {
		return nil
	}
	if err := consumable(book, f); err != nil {
		return err
	}
	t.amount, err = units(f, t.asked)
	return err
}

// feature returns a feature of which something was taken at an instant: as the newest
// catalogue has it, which another node may have applied a moment ago, or else as it
// was then. A feature's precision stays what it was, so that either reads amounts.
func (u *Usage) feature(ctx context.Context, env usher.Environment, key string, taken time.Time) (*usher.Feature, error) {
	if f := u.cfg.Live.Book(env).Features[key]; f != nil {
		return f, nil
	}
	if err := u.cfg.Live.Refresh(ctx, env); err != nil {
		return nil, err
	}
	if f := u.cfg.Live.Book(env).Features[key]; f != nil {
		return f, nil
	}
	f, err := u.cfg.Live.FeatureThen(ctx, env, key, taken)
	if err == nil && f == nil {
		err = usher.Errorf(usher.Refused, "the feature %s is no longer in the catalogue", key)
	}
	return f, err
}

// reach returns once this node knows a revision. It returns Invalid if the revision
// does not exist yet (S06).
func (u *Usage) reach(ctx context.Context, env usher.Environment, revision int64) error {
	if revision <= u.cfg.Live.Revision(env) {
		return nil
	}
	if err := u.cfg.Live.Refresh(ctx, env); err != nil {
		return err
	}
	if r := u.cfg.Live.Revision(env); revision > r {
		return usher.Errorf(usher.Invalid,
			"min_revision is %d, but the newest revision is %d; send a revision that an answer or a change carried",
			revision, r)
	}
	return nil
}

// units returns an amount in the feature's smallest units (S24).
func units(f *usher.Feature, amount usher.Number) (int64, error) {
	n, err := amount.Units(f.Precision)
	if err != nil {
		return 0, &usher.Error{Code: usher.Invalid, Detail: "the amount of " + f.Key + " is not valid",
			Problems: []usher.Problem{{Location: "amount", Message: err.Error()}}}
	}
	return n, nil
}

// consumable returns a NotConsumable error unless the feature's use adds up (S33).
func consumable(book *engine.Book, f *usher.Feature) error {
	switch {
	case f.Kind == usher.Switch || f.Kind == usher.Config:
		return usher.Errorf(usher.NotConsumable, "%s is a %s: there is nothing to consume; check it instead", f.Key, f.Kind)
	case f.Kind == usher.Seats:
		return usher.Errorf(usher.NotConsumable,
			"%s is of kind seats, which are held by named holders, not consumed; give a holder a seat instead", f.Key)
	case book.Gauge(f):
		return usher.Errorf(usher.NotConsumable, "%s follows the meter %s, whose aggregation is %s: report it with events",
			f.Key, f.Meter, book.Meter(f).Aggregation)
	}
	return nil
}

// decide applies an operation at the environment's present.
func (b *batchRun) decide(t *take, w *world, op engine.Op) (engine.Effect, error) {
	if book := w.next.World.Book(); book != t.book { // a catalogue was applied since the amount was read
		if err := t.read(book); err != nil {
			return engine.Effect{}, err
		}
		op.Amount = t.amount
	}
	if w.next.World.Known() {
		if err := b.ready(t.holder(), w, t.feature, w.now); err != nil {
			return engine.Effect{}, err
		}
	}
	return engine.Take(w.next, op, w.now), nil
}

// minute returns the start of an instant's minute.
func minute(t time.Time) time.Time { return t.Truncate(time.Minute) }
