package powercut

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/usage"
)

// steady is a database with some history, at rest.
type steady struct {
	disk    *Disk
	witness *witness
	dir     string
}

func newSteady(t *testing.T) *steady {
	t.Helper()
	c := newClock()
	s := &steady{dir: t.TempDir(), witness: newWitness(c)}
	s.disk = New(s.dir, seed)
	p, err := boot(t.Context(), s.disk, s.dir, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.end()
	if err := p.found(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.witness.work(t.Context(), p, "before", rand.New(rand.NewPCG(seed, 2)), 4, 10, func() bool { return false })
	if s.witness.report(t, "before any fault") {
		t.FailNow()
	}
	return s
}

// copyOf is a witness that knows as much.
func copyOf(w *witness) *witness {
	n := newWitness(newClock())
	for _, k := range w.keys {
		t := *w.takes[k]
		n.takes[k] = &t
	}
	n.keys = append(n.keys, w.keys...)
	for id, e := range w.events {
		n.events[id], n.told[id] = e, w.told[id]
	}
	return n
}

// Faults of the disk at every moment: usher says "unavailable" or the truth, and
// what it says while and after the disk fails is what is stored.
func TestFaults(t *testing.T) {
	t.Parallel()
	for i, kind := range []Kind{WriteError, SyncError, Full, ReadError} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			base := newSteady(t)
			moments := sized(20, 120)
			var hit, unavailable, asked, again, restarts int
			for k := 1; k <= moments; k++ {
				rng := rand.New(rand.NewPCG(seed, uint64(i*1000+k)))
				f := Fault{Kind: kind, At: int64(k)}
				if kind == SyncError { // a commit has one of many writes
					f.At = int64(1 + (k-1)%100)
				}
				if kind != Full && rng.IntN(2) == 0 {
					f.For = 1 + rng.Int64N(3)
				}
				where := fmt.Sprintf("%s from number %d on, for %d or (0) all (USHER_SEED=%d)", kind, f.At, f.For, seed)
				o, err := base.survive(t, f, rng)
				if err != nil {
					t.Fatalf("%s: %v", where, err)
				}
				if o.witness.report(t, where) {
					t.FailNow()
				}
				if o.failed > 0 {
					hit++
				}
				if o.recovered {
					again++
				} else {
					restarts++
				}
				unavailable += int(o.witness.denied.Load())
				asked += int(o.witness.asked.Load())
			}
			if hit < moments*3/4 || unavailable == 0 {
				t.Errorf("only %d of %d faults were met, %d answers were unavailable: nothing was proved", hit, moments, unavailable)
			}
			t.Logf(
				"USHER_SEED=%d: %s at %d moments (%d met): asked %d times, %d unavailable; took again without a restart %d, after one %d; %.1f s",
				seed, kind, moments, hit, asked, unavailable, again, restarts, time.Since(began).Seconds())
		})
	}
}

type outcome struct {
	witness   *witness
	failed    int64 // steps of the disk
	recovered bool  // without a restart
}

// survive runs a story of one fault: before, while, after, and after a restart.
func (s *steady) survive(t *testing.T, f Fault, rng *rand.Rand) (outcome, error) {
	ctx := t.Context()
	w := copyOf(s.witness)
	o := outcome{witness: w}
	d := s.disk.Copy(s.dir, rng.Uint64())
	defer func() { d.Retire() }()
	p, err := boot(ctx, d, s.dir, w.clock, often(rng))
	if err != nil {
		return o, err
	}
	never := func() bool { return false }
	d.Break(f)
	var met atomic.Int64
	w.work(ctx, p, "while", rng, 4, 20+int(f.At), func() bool { // until it is met, and some more
		if f.Kind == ReadError { // memory answers most
			p.live.Forget(usher.Sandbox, people[met.Load()%3])
		}
		return d.Failed() > 0 && met.Add(1) > 60
	})
	if rng.IntN(2) == 0 { // customers are read again while the disk fails
		for _, who := range people {
			p.live.Forget(usher.Sandbox, who)
		}
	}
	if f.Kind != ReadError { // then nobody can look
		if err := w.same(ctx, p, d, s.dir); err != nil {
			return o, err
		}
	}
	o.failed = d.Repair()
	if err := w.same(ctx, p, d, s.dir); err != nil {
		return o, err
	}
	// There is room again, or the disk is another: takes work again at once, or
	// after a restart.
	o.recovered = w.consume(ctx, p, usage.ConsumeOp{Customer: "acme", Feature: "calls", Key: "room again"}) == nil
	if o.recovered && rng.IntN(2) == 0 {
		w.work(ctx, p, "after", rng, 4, 5, never)
		if err := w.settle(ctx, p, false); err != nil {
			return o, fmt.Errorf("after the fault: %w", err)
		}
		if err := w.audit(ctx, p, d, s.dir); err != nil {
			return o, fmt.Errorf("after the fault: %w", err)
		}
	}
	// Then it ends: by a stop, or by a power cut.
	if rng.IntN(2) == 0 {
		p.end()
	} else {
		d.Cut()
		p.end()
		old := d
		d = d.PowerOn(s.dir)
		old.Retire()
	}
	p, err = boot(ctx, d, s.dir, w.clock, nil)
	if err != nil {
		return o, fmt.Errorf("restart: %w", err)
	}
	defer p.end()
	if err := w.settle(ctx, p, true); err != nil {
		return o, fmt.Errorf("after the restart: %w", err)
	}
	return o, w.audit(ctx, p, d, s.dir)
}

// often is oftenMoved in half of the stories.
func often(rng *rand.Rand) pragmas {
	if rng.IntN(2) == 0 {
		return nil
	}
	return oftenMoved
}

// same compares what checks say with what is stored now: neither use that was
// rolled back, nor less than was committed. A check may have no answer.
func (w *witness) same(ctx context.Context, p *process, d *Disk, dir string) error {
	db, err := beside(d, dir)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, who := range people {
		for _, f := range features {
			c, ok := w.check(ctx, p, who, f)
			if !ok {
				continue
			}
			var stored int64 // all in one window: the clock stands still
			if err := db.QueryRowContext(ctx, `SELECT coalesce(sum(used), 0) FROM bucket WHERE customer = $1 AND feature = $2`, who, f).Scan(
				&stored); err != nil {
				return fmt.Errorf("reading beside usher: %w", err)
			}
			if c.Used != stored {
				w.broken("check of %s %s: used %d, stored %d", who, f, c.Used, stored)
			}
		}
	}
	return nil
}

// A change that the disk refuses says so, in words for the one and the other.
func TestFaultsAreNamed(t *testing.T) {
	s := newSteady(t)
	for kind, words := range map[Kind]string{WriteError: "disk failed", SyncError: "disk failed", Full: "disk is full",
		ReadError: "disk failed"} {
		w := copyOf(s.witness)
		d := s.disk.Copy(s.dir, seed)
		p, err := boot(t.Context(), d, s.dir, w.clock, nil)
		if err != nil {
			t.Fatal(err)
		}
		d.Break(Fault{Kind: kind, At: 1})
		_, _, err = p.customers.PutCustomer(t.Context(), usher.Sandbox, usher.By{Actor: usher.Actor{Kind: "system"}}, customers.Guard{}, "dora",
			customers.CustomerInput{})
		if usher.ErrorCode(err) != usher.Unavailable || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: a change says %v, want code %q and %q", kind, err, usher.Unavailable, words)
		}
		if kind != ReadError {
			if _, err := p.usage.Consume(t.Context(), usher.Sandbox,
				usage.ConsumeOp{Customer: "acme", Feature: "calls", Key: "one"}); usher.ErrorCode(err) != usher.Unavailable ||
				!strings.Contains(err.Error(), words) {
				t.Errorf("%s: a take says %v, want code %q and %q", kind, err, usher.Unavailable, words)
			}
		}
		p.end()
		d.Retire()
	}
}
