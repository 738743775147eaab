package fsck

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/store"
)

// fix rewrites one row. It may run twice with the same result.
type fix struct {
	holder store.Holder
	do     func(*store.UsageTx) error
}

// newBucket returns the row of a bucket that is missing. The ledger has neither its
// limit nor its end. The limit becomes what the bucket holds, so that nothing is
// excess, and the end follows from the period of its clock; the next take replaces
// both.
func newBucket(k engine.BucketKey, v sum) engine.Bucket {
	b := engine.Bucket{BucketKey: k, Used: v.used, Reserved: v.reserved, At: v.at, End: math.MaxInt64}
	name, capped := strings.CutPrefix(k.Clock, "cap:")
	b.Unlimited = capped || k.Clock == engine.ClockDrawn
	if !b.Unlimited {
		b.Limit = beyond(b)
	}
	name, _, _ = strings.Cut(name, "/")
	if p, ok := periodOf(name); ok && p.Unit != usher.Lifetime {
		start := time.UnixMicro(k.Start).UTC()
		if w, ok := calendar.At(p, start, time.UTC, start); ok {
			b.End = w.End.UnixMicro()
		}
	}
	return b
}

// periodOf parses what Period.String wrote. It returns false if s is not a period.
func periodOf(s string) (usher.Period, bool) {
	p := usher.Period{Every: 1, Unit: usher.Unit(s)}
	if n, unit, ok := strings.Cut(s, " "); ok {
		every, err := strconv.Atoi(n)
		if err != nil || every < 1 || every > usher.MaxEvery {
			return p, false
		}
		p = usher.Period{Every: every, Unit: usher.Unit(unit)}
	}
	return p, slices.Contains(usher.Units, p.Unit)
}

// differ notes a difference, and repairs it if asked to and possible.
func (c *checker) differ(d Difference, do func(*store.UsageTx) error) error {
	h := store.Holder{Env: d.Environment, Customer: d.Customer}
	d.Derived = d.Derived && !c.spoiled[h]
	c.note(d)
	if !c.o.Repair || !d.Derived {
		return nil
	}
	c.fixes = append(c.fixes, fix{h, do})
	return c.mend(fixesAtOnce)
}

// mend rewrites the rows that differ, once there are at least enough of them.
func (c *checker) mend(enough int) error {
	if len(c.fixes) == 0 || len(c.fixes) < enough {
		return nil
	}
	holders := map[store.Holder]bool{}
	for _, f := range c.fixes {
		holders[f.holder] = true
	}
	err := c.db.Usage(c.ctx, func(tx *store.UsageTx) error {
		for _, f := range c.fixes {
			if err := f.do(tx); err != nil {
				return err
			}
		}
		// Nodes that hold these customers in memory must read their buckets again.
		return tx.Tell(usher.NewID("fsck_", time.Now(), nil), time.Now().UTC(), slices.Collect(maps.Keys(holders)))
	})
	if err != nil {
		return err
	}
	c.r.Repaired += int64(len(c.fixes))
	c.fixes = c.fixes[:0]
	return nil
}
