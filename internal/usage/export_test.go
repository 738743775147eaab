package usage

import (
	"context"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
)

// Queued is how many requests the writer has not taken from the queue.
func (u *Usage) Queued() int { return len(u.queue) }

// Working reports whether a batch runs now.
func (u *Usage) Working() bool { return u.began.Load() != 0 }

// ConsumeThenPanic is a consume that panics once it is decided: by then its use
// is in the batch's memory, and it has written a row, a seat, itself.
func (u *Usage) ConsumeThenPanic(ctx context.Context, env usher.Environment, op ConsumeOp, seatOf string) (usher.Decision, error) {
	t, err := u.newTake(ctx, env, ledger.Consume, op, "")
	if err != nil {
		return usher.Decision{}, err
	}
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		e, err := b.decide(t, w, engine.Op{Kind: engine.Consume, Customer: t.customer, Feature: t.feature, Amount: t.amount})
		if err != nil || !e.Decision.Allowed {
			return e, err
		}
		if err := b.tx.PutSeat(t.holder(), seatOf, engine.Seat{Holder: "panicked", At: w.now}, w.now, false); err != nil {
			return e, err
		}
		var none []engine.Entry
		return e, b.tx.Expire(t.holder(), time.UnixMicro(none[len(e.Entries)].Amount))
	}
	return u.take(ctx, t)
}

// IngestThenPanic records events and panics at the last one, when the others are
// booked.
func (u *Usage) IngestThenPanic(ctx context.Context, env usher.Environment, events []usher.Event) error {
	b := &body{env: env, events: events, invalid: make([]string, len(events)), hashes: make([][]byte, len(events)-1)}
	for i := range b.hashes {
		b.hashes[i] = contentHash(&events[i])
	}
	if err := u.submit(ctx, &request{events: b}); err != nil {
		return err
	}
	return b.err
}

// CommitWithin sets the writer's deadline. Nothing may have been submitted yet.
func (u *Usage) CommitWithin(d time.Duration) { u.within = d }

// ConsumeAfterTheDeadline is a consume that is decided only when the writer's
// deadline has passed.
func (u *Usage) ConsumeAfterTheDeadline(ctx context.Context, env usher.Environment, op ConsumeOp) (usher.Decision, error) {
	t, err := u.newTake(ctx, env, ledger.Consume, op, "")
	if err != nil {
		return usher.Decision{}, err
	}
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		<-b.ctx.Done()
		return b.decide(t, w, engine.Op{Kind: engine.Consume, Customer: t.customer, Feature: t.feature, Amount: t.amount})
	}
	return u.take(ctx, t)
}
