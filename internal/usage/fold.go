package usage

import (
	"context"
	"slices"
	"time"

	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
)

// Old answers are folded, so that the ledger does not grow without bound: stored answers
// that are older than ledger.Kept are deleted. What they took stays: one row for each
// bucket and minute has the sum. An answer is deleted and its use is added to the sums in
// one transaction, so that it is never counted twice or not at all.

// Folding says how old answers are folded. A zero field is its default.
type Folding struct {
	Now   func() time.Time // the real clock (default time.Now)
	Pause time.Duration    // after each chunk of a walk, so that takes go on (default 100 ms)
}

// Bounds of a walk.
const (
	foldReads  = 2000 // answers read at once
	foldWrites = 500  // answers folded in one transaction
)

// Jobs returns the work that folds old answers, once a day.
func (u *Usage) Jobs() []job.Job {
	return []job.Job{{Name: "fold_answers", Every: 24 * time.Hour, First: 5 * time.Minute, Run: func(ctx context.Context) error {
		n, err := u.Fold(ctx)
		if n > 0 {
			u.cfg.Log.Info("old answers were folded", "answers", n)
		}
		return err // the next walk folds what is left
	}}}
}

// Fold walks over all stored answers once, folds those older than ledger.Kept, and
// returns how many it folded. Several nodes may do so at once: each answer is folded
// by one of them.
func (u *Usage) Fold(ctx context.Context) (folded int64, err error) {
	before := u.cfg.Folding.Now().Add(-ledger.Kept)
	var after store.OpKey
	for {
		old, last, err := u.cfg.DB.OpsAfter(ctx, after, before, foldReads)
		if err != nil || last == (store.OpKey{}) {
			return folded, err
		}
		old = slices.DeleteFunc(old, func(o store.Op) bool { // keep answers that are young by a sandbox's own clock
			now, ok := u.cfg.Live.TestClock(o.Env)
			return ok && o.At.After(now.Add(-ledger.Kept))
		})
		for len(old) > 0 {
			part := old[:min(len(old), foldWrites)]
			old = old[len(part):]
			n, err := u.foldPart(ctx, part, before)
			if folded += n; err != nil {
				return folded, err
			}
		}
		after = last
		select {
		case <-ctx.Done():
			return folded, ctx.Err()
		case <-time.After(u.cfg.Folding.Pause):
		}
	}
}

// foldPart folds some answers in one transaction.
func (u *Usage) foldPart(ctx context.Context, ops []store.Op, before time.Time) (int64, error) {
	type place struct {
		holder store.Holder
		bucket engine.BucketKey
		minute int64
	}
	var keys []store.OpKey
	sums := map[place]int64{}
	for i := range ops {
		o := &ops[i]
		if !o.Management() {
			_, p, err := ledger.DecodeAnswer(o.Answer, o.At)
			if err != nil { // what it took is unknown, so its row stays; usher fsck reports it
				u.cfg.Log.Error("an old answer cannot be folded", "env", o.Env, "key", o.Key, "error", err)
				continue
			}
			for _, e := range p.Entries {
				h := store.Holder{Env: o.Env, Customer: o.Customer}
				sums[place{h, e.Bucket, store.Minute.Start(p.At.UnixMicro())}] += e.Amount
			}
		}
		keys = append(keys, store.OpKey{Env: o.Env, Key: o.Key})
	}
	if len(keys) == 0 {
		return 0, nil
	}
	rows := make([]store.FoldedRow, 0, len(sums))
	for p, n := range sums {
		rows = append(rows, store.FoldedRow{Holder: p.holder, Bucket: p.bucket, Minute: p.minute, Amount: n})
	}
	done, err := u.cfg.DB.Fold(ctx, keys, before, rows)
	if err != nil || !done { // another node folded some of them, so nothing was done; the next walk folds the rest
		return 0, err
	}
	return int64(len(keys)), nil
}
