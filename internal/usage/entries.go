package usage

import (
	"errors"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
)

// flush writes the rollups that the batch has added up so far.
func (b *batchRun) flush() error {
	for m, r := range b.rollups {
		if len(r) > 0 {
			if err := b.tx.PutRollups(m, r); err != nil {
				return err
			}
			clear(r)
		}
	}
	return nil
}

// take decides one take. An error with a code that blames the caller ends this take
// alone; any other ends the attempt.
func (b *batchRun) take(t *take) error {
	h := t.holder()
	w := b.worlds[h]
	t.at, t.posting, t.decision, t.err = w.now, ledger.Posting{At: w.now}, usher.Decision{}, nil
	e, err := t.decide(b, w)
	var own *usher.Error
	if errors.As(err, &own) && own.Code != usher.Unavailable && own.Code != usher.Internal {
		t.err = err
		return b.remember(t)
	}
	if err != nil {
		return err
	}
	e.Decision.Revision = b.u.cfg.Live.Revision(h.Env)
	if t.call == ledger.Consume {
		e.Decision.Taken = true
	}
	t.posting.Would, t.posting.Outcome, t.posting.Entries = e.Would, ledger.Outcome(&e, t.call == ledger.Settle), e.Entries
	t.decision = e.Decision
	b.post(h, e.Entries, t.posting.At)
	w.outside(t.posting.At)
	b.deny(h, w, t.feature, t.posting.Outcome, e.Would, t.amount, w.now)
	return nil
}

// remember looks for a stored answer of a take that cannot be decided (S13): what was
// answered once is answered again, whatever has changed since.
func (b *batchRun) remember(t *take) error {
	if t.key == "" {
		return nil
	}
	found, err := b.tx.Ops([]store.OpKey{t.opKey()})
	if err != nil || len(found) == 0 {
		return err
	}
	if b.known == nil {
		b.known = found
	} else {
		b.known[t.opKey()] = found[t.opKey()]
	}
	return nil
}

// post adds entries to the minute, the hour and the day of an instant.
func (b *batchRun) post(h store.Holder, entries []engine.Entry, at time.Time) {
	for _, e := range entries {
		if e.Allowance != engine.EntryCap { // a cap counts use that its allowance counts too
			b.roll(store.MergeAdd, store.RollupKey{Holder: h, Feature: e.Bucket.Feature, Value: e.Bucket.Clock}, at, e.Amount, 0)
		}
	}
}

// roll merges use into the minute, the hour and the day of an instant. at is the
// instant of a last gauge's value in microseconds, else 0.
func (b *batchRun) roll(m store.Merge, k store.RollupKey, instant time.Time, used, at int64) {
	for _, g := range []store.Grain{store.Minute, store.Hour, store.Day} {
		k.Grain, k.Start = g, g.Start(instant.UnixMicro())
		b.merge(m, k, used, at)
	}
}

func (b *batchRun) merge(m store.Merge, k store.RollupKey, used, at int64) {
	v, ok := b.rollups[m][k]
	switch m {
	case store.MergeAdd:
		v.Used += used
	case store.MergeMax:
		if !ok || used > v.Used {
			v.Used = used
		}
	case store.MergeLast:
		if !ok || at >= v.At {
			v = store.RollupValue{Used: used, At: at}
		}
	}
	b.rollups[m][k] = v
}
