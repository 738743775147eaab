package usage

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/meter"
	"github.com/usher-sh/usher/internal/store"
)

// CorrectOp asks for units of a take or an event to be given back. Ref, Amount, Reason
// and Key are required.
type CorrectOp struct {
	Ref     string       // the key of a consume or a reservation, or the id of an event
	Source  string       // the event's source; "": Ref is a key
	Feature string       // needed if the event counted for several features; otherwise ""
	Amount  usher.Number // to give back, more than 0
	Reason  string       // at most maxReason bytes
	Key     string       // the idempotency key
	Actor   string       // who corrects
}

// maxReason is the longest reason, in bytes.
const maxReason = 1000

// original is the take or event that a correction refers to.
type original struct {
	customer, feature string
	at                time.Time // the instant whose minute counts it
	recorded          time.Time // when a take was decided (after ledger.Kept its key can be used again); zero for an event
	entries           []engine.Entry
	dimensions        []meter.Dimension
}

// Correct gives units back to the allowances that a take or an event used, in the
// recorded order (S16). The original is not edited: the correction has entries of its
// own. A correction of more than is left of the original is Refused, and so is one of
// another correction.
func (u *Usage) Correct(ctx context.Context, env usher.Environment, op CorrectOp) (usher.Decision, error) {
	var problems []usher.Problem
	bad := func(where, what string) {
		problems = append(problems, usher.Problem{Location: where, Message: what})
	}
	if op.Amount == "" {
		bad("amount", "is required: the units to give back")
	}
	if op.Reason == "" || len(op.Reason) > maxReason {
		bad("reason", "is required, at most 1000 bytes: why units are given back")
	}
	if op.Ref == "" {
		bad("ref", "must be the key of a take, or the source and id of an event")
	}
	if len(problems) > 0 {
		return usher.Decision{}, &usher.Error{Code: usher.Invalid, Detail: "the correction is not valid", Problems: problems}
	}
	if err := usher.CheckIdempotencyKey(op.Key); err != nil {
		return usher.Decision{}, err
	}
	// An answer is kept for longer than what it gave back from, which may be folded by
	// now, and is known without the catalogue.
	if d, err := u.corrected(ctx, env, op); d != nil || err != nil {
		return *cmp.Or(d, new(usher.Decision)), err
	}
	ref, o, err := u.original(ctx, env, op)
	if err != nil {
		return usher.Decision{}, err
	}
	f, err := u.feature(ctx, env, o.feature, o.at)
	if err != nil {
		return usher.Decision{}, err
	}
	t := &take{env: env, call: ledger.Correct, key: op.Key, customer: o.customer, feature: o.feature}
	if t.amount, err = units(f, op.Amount); err != nil {
		return usher.Decision{}, err
	}
	if t.amount == 0 {
		return usher.Decision{}, &usher.Error{Code: usher.Invalid, Detail: "the correction is not valid",
			Problems: []usher.Problem{{Location: "amount", Message: "must be more than 0"}}}
	}
	t.hash = op.hash(o.feature, t.amount)
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		// If the key has an answer, return that: deciding again would find less left.
		earlier, err := b.tx.Corrections(env, ref, op.Source)
		if err != nil {
			return engine.Effect{}, err
		}
		entries := slices.Clone(o.entries)
		for _, c := range earlier {
			if c.Key == op.Key {
				if b.ended[op.Key] {
					return engine.Effect{}, usher.Errorf(usher.Conflict, "the correction %q was made long ago, and its answer is no longer kept", op.Key)
				}
				b.ended[op.Key] = true
				return engine.Effect{}, errTaken
			}
			// Corrections of an older take, whose key was forgotten and used again, do not count.
			if c.Feature == o.feature && !c.At.Before(o.recorded) {
				entries = append(entries, c.Entries...)
			}
		}
		left := engine.Taken(o.feature, entries)
		if t.amount > left {
			return engine.Effect{}, usher.Errorf(usher.Refused, "only %s of the %s that were taken are left to give back",
				usher.FormatQuantity(left, f.Precision), usher.FormatQuantity(engine.Taken(o.feature, o.entries), f.Precision))
		}
		h := t.holder()
		keys := make([]engine.BucketKey, len(o.entries))
		for i, e := range o.entries {
			keys[i] = e.Bucket
		}
		if err := b.load(h, w, keys); err != nil {
			return engine.Effect{}, err
		}
		if w.next.World.Known() {
			if err := b.ready(h, w, o.feature, w.now); err != nil {
				return engine.Effect{}, err
			}
		}
		w.outside(o.at)
		e := engine.Correct(w.next, t.customer, o.feature, entries, t.amount, o.at, w.now)
		t.posting.At = o.at
		back := &usher.Correction{Ref: usher.UseRef{ID: op.Ref, Source: op.Source}, Amount: t.amount, Left: left - t.amount}
		for _, en := range e.Entries {
			if en.Allowance == engine.EntryCap || en.Allowance == engine.EntryDrawn {
				continue
			}
			d := usher.Deduction{Allowance: en.Allowance, Amount: -en.Amount}
			if en.Bucket.Feature != o.feature {
				d.Feature = en.Bucket.Feature
				if p := u.cfg.Live.Book(env).Features[d.Feature]; p != nil {
					d.Precision = p.Precision
				}
			}
			back.Returned = append(back.Returned, d)
		}
		e.Decision.Precision, e.Decision.Correction = f.Precision, back
		for _, d := range o.dimensions {
			b.roll(store.MergeAdd, store.RollupKey{Holder: h, Feature: o.feature, Dimension: d.Path, Value: d.Value}, o.at, -t.amount, 0)
		}
		return e, b.tx.InsertCorrection(store.Correction{Env: env, Ref: ref, Source: op.Source, Key: op.Key, Customer: t.customer,
			Feature: o.feature, Amount: t.amount, At: w.now, Reason: op.Reason, Actor: op.Actor, Entries: e.Entries})
	}
	return u.take(ctx, t)
}

// corrected returns the stored answer under a correction's key; nil: there is none.
func (u *Usage) corrected(ctx context.Context, env usher.Environment, op CorrectOp) (*usher.Decision, error) {
	stored, err := u.cfg.DB.Op(ctx, env, op.Key)
	if err != nil || stored == nil {
		return nil, err
	}
	t := &take{env: env, call: ledger.Correct, key: op.Key}
	if stored.Route == ledger.Correct && (op.Feature == "" || op.Feature == stored.Feature) {
		d, _, err := ledger.DecodeAnswer(stored.Answer, stored.At)
		if err != nil {
			return nil, err
		}
		if n, err := op.Amount.Units(d.Precision); err == nil {
			t.hash = op.hash(stored.Feature, n)
		}
	}
	t.answer(*stored)
	return &t.decision, t.err
}

// hash hashes what makes two corrections the same.
func (op *CorrectOp) hash(feature string, amount int64) []byte {
	return bodyHash(ledger.Correct, op.Ref, op.Source, feature, strconv.FormatInt(amount, 10), op.Reason)
}

// original returns what a correction refers to, and the ref under which its
// corrections are stored. For a reservation that is the key of its settlement, because
// only the settlement used something.
func (u *Usage) original(ctx context.Context, env usher.Environment, op CorrectOp) (string, *original, error) {
	if op.Source != "" {
		o, err := u.originalEvent(ctx, env, op)
		return op.Ref, o, err
	}
	row, err := u.cfg.DB.Op(ctx, env, op.Ref)
	if err != nil {
		return "", nil, err
	}
	if row == nil || row.Key[0] > '~' { // beyond ASCII: ledger.HoldKey made it, no caller did
		return "", nil, usher.Errorf(usher.NotFound, "no take with the key %q", op.Ref)
	}
	ref := op.Ref
	if row.Route == ledger.Reserve {
		d, _, err := ledger.DecodeAnswer(row.Answer, row.At)
		if err != nil {
			return "", nil, err
		}
		if d.Reservation == nil {
			return "", nil, usher.Errorf(usher.Refused, "%q was denied, so there is nothing to give back", op.Ref)
		}
		ref = ledger.HoldKey(d.Reservation.ID)
		if row, err = u.cfg.DB.Op(ctx, env, ref); err != nil {
			return "", nil, err
		}
		if row != nil && row.Route == ledger.Release {
			return "", nil, usher.Errorf(usher.Refused, "the reservation %s was released: all that it held was given back", d.Reservation.ID)
		}
		if row == nil || row.Route != ledger.Settle {
			return "", nil, usher.Errorf(usher.Refused, "the reservation %s is not settled, so there is nothing to give back: release it",
				d.Reservation.ID)
		}
	}
	switch row.Route {
	case ledger.Consume, ledger.Settle:
	case ledger.Correct:
		return "", nil, usher.Errorf(usher.Refused,
			"%q is a correction, which cannot be corrected: consume or report again what was given back too much", op.Ref)
	default:
		return "", nil, usher.Errorf(usher.Refused, "%q is the key of another call (%s), which took nothing", op.Ref, row.Route)
	}
	_, p, err := ledger.DecodeAnswer(row.Answer, row.At)
	if err != nil {
		return "", nil, err
	}
	if len(p.Entries) == 0 {
		return "", nil, usher.Errorf(usher.Refused, "%q took nothing, so there is nothing to give back", op.Ref)
	}
	if op.Feature != "" && op.Feature != row.Feature {
		return "", nil, usher.Errorf(usher.Refused, "%q took from %s, not from %s", op.Ref, row.Feature, op.Feature)
	}
	return ref, &original{customer: row.Customer, feature: row.Feature, at: p.At, recorded: row.At, entries: p.Entries}, nil
}

// originalEvent returns the event that a correction refers to, and the one feature for
// which it is corrected.
func (u *Usage) originalEvent(ctx context.Context, env usher.Environment, op CorrectOp) (*original, error) {
	row, err := u.cfg.DB.Event(ctx, env, op.Ref, op.Source)
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, usher.Errorf(usher.NotFound, "no event with source %q and id %q", op.Source, op.Ref)
	}
	list, err := ledger.DecodeReadings(row.Entries)
	if err != nil {
		return nil, err
	}
	var names []string
	var found *original
	for i := range list {
		r := &list[i]
		if !r.Adds() || op.Feature != "" && r.Feature != op.Feature {
			continue
		}
		names = append(names, r.Feature)
		found = &original{customer: row.Customer, feature: r.Feature, at: row.At, entries: r.Entries, dimensions: r.Dimensions}
	}
	switch {
	case len(names) > 1:
		return nil, &usher.Error{Code: usher.Invalid, Detail: "the correction is not valid",
			Problems: []usher.Problem{{Location: "feature",
				Message: "is required because the event counted for several features: one of " + strings.Join(names, ", ")}}}
	case found == nil && op.Feature != "":
		return nil, usher.Errorf(usher.Refused, "the event added nothing to %s, so there is nothing to give back", op.Feature)
	case found == nil:
		return nil, usher.Errorf(usher.Refused,
			"the event added nothing, so there is nothing to give back: a gauge is corrected by its next value")
	}
	return found, nil
}
