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

// Folding says how old answers are forgotten. A zero field is what is usual.
type Folding struct {
	Now   func() time.Time // the real clock: time.Now
	Pause time.Duration    // after each chunk of a walk, so that takes go on: 100 ms
}

// How much of the stored answers one step of a walk reads, and how much of it
// one transaction changes.
const (
	foldReads  = 2000
	foldWrites = 500
)

// Jobs returns the work that forgets old answers, once a day.
func (u *Usage) Jobs() []job.Job {
	return []job.Job{{Name: "fold_answers", Every: 24 * time.Hour, First: 5 * time.Minute, Run: func(ctx context.Context) error {
		n, err := u.Fold(ctx)
		if n > 0 {
			u.cfg.Log.Info("old answers were folded", "answers", n)
		}
		return err // the next walk takes what is left
	}}}
}

// Fold walks over all stored answers once, forgets those older than ledger.Kept, and
// adds what they took to the folded ledger. Nodes may do so at once: each
// answer is folded by one of them. It returns how many this walk folded.
func (u *Usage) Fold(ctx context.Context) (folded int64, err error) {
	before := u.cfg.Folding.Now().Add(-ledger.Kept)
	var after store.OpKey
	for {
		old, last, err := u.cfg.DB.OpsAfter(ctx, after, before, foldReads)
		if err != nil || last == (store.OpKey{}) {
			return folded, err
		}
		old = slices.DeleteFunc(old, func(o store.Op) bool { // what is young by a sandbox's own clock
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
			if err != nil { // what it took is not known: it stays for usher fsck to show
				u.cfg.Log.Error("an old answer cannot be folded", "env", o.Env, "key", o.Key, "error", err)
				continue
			}
			for _, e := range p.Entries {
				sums[place{store.Holder{Env: o.Env, Customer: o.Customer}, e.Bucket, store.Minute.Start(p.At.UnixMicro())}] += e.Amount
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
	if err != nil || !done { // another node was faster: it, or the next walk, has the rest
		return 0, err
	}
	return int64(len(keys)), nil
}
