package engine_test

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
)

// drawWorld makes a random customer with a random history, also of reservations, and
// with all modes, fail policies and precisions. It returns the snapshot that a server
// would load at an instant, and the instant after the history.
func drawWorld(t *rapid.T) (load func(time.Time) *engine.Snapshot, now time.Time) {
	f := drawFacts(t)
	for _, key := range []string{"api", "pool", "tok"} {
		def := f.Book.Features[key]
		def.Title, def.Unit = key+" title", "unit"
		def.Mode = rapid.SampledFrom([]usher.Mode{"", "", usher.Enforce, usher.Warn, usher.Shadow}).Draw(t, "mode")
		def.Fail = rapid.SampledFrom([]usher.Fail{"", usher.FailOpen, usher.FailClosed}).Draw(t, "fail")
	}
	tok, pool := f.Book.Features["tok"], f.Book.Features["pool"]
	tok.Precision = rapid.SampledFrom([]int{0, 2}).Draw(t, "precision")
	digits := rapid.IntRange(0, 2).Draw(t, "digits")
	pool.Precision = tok.Precision + digits
	tok.Draws.PerUnit = usher.Number(usher.FormatQuantity(tok.Draws.Rate, digits))
	w, l := engine.NewWorld(f), newLedger()
	load = func(at time.Time) *engine.Snapshot {
		s := l.snapshot(w, "", at)
		s.SetLapses(l.lapses)
		return s
	}
	now = epoch
	for i, s := range drawSteps(t) {
		if s.at.After(now) { // an event may be late
			now = s.at
		}
		c := load(s.at).Clone()
		c.Expire(s.at)
		if rapid.IntRange(0, 3).Draw(t, "reserve") == 0 {
			s.op.Kind, s.op.Hold = engine.Reserve, "rsv_"+string(rune('a'+i))
			s.op.Until = s.at.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ttl")) * time.Minute)
		}
		l.keep(c, engine.Take(c, s.op, s.at), s.at)
	}
	return load, now
}

func drawAmount(t *rapid.T, name string) int64 {
	return rapid.OneOf(rapid.Int64Range(0, 60), rapid.Int64Range(0, 60), rapid.SampledFrom([]int64{math.MaxInt64, math.MaxInt64 - 30,
		math.MaxInt64 / 2, math.MaxInt64 / 3})).Draw(t, name)
}

// TestAllows: what Decision.Allows says about another amount is what the engine says
// about it, in every figure, and also of a decision that was read from JSON. With 100
// worlds of 120 questions each, these are more than 10,000 questions.
func TestAllows(t *testing.T) {
	t.Parallel()
	asked := 0
	rapid.Check(t, func(t *rapid.T) {
		load, now := drawWorld(t)
		for range 40 {
			at := now.Add(time.Duration(rapid.IntRange(0, 60*24*60).Draw(t, "later")) * time.Minute)
			s := load(at)
			for _, feature := range []string{"api", "pool", "tok"} {
				q := engine.Query{Customer: "acme", Feature: feature, Amount: drawAmount(t, "first")}
				table := engine.Decide(s, q, at)
				var read usher.Decision
				if err := json.Unmarshal(table.AppendJSON(nil), &read); err != nil {
					t.Fatal(err)
				}
				q.Amount = drawAmount(t, "then")
				want := engine.Decide(s, q, at)
				asked++
				if got := table.Allows(q.Amount); !reflect.DeepEqual(got, want) {
					t.Fatalf("%s %d:\nfrom the table %s\nfrom the engine %s", feature, q.Amount, got.AppendJSON(nil), want.AppendJSON(nil))
				}
				if got := read.Allows(q.Amount); !bytes.Equal(got.AppendJSON(nil), want.AppendJSON(nil)) {
					t.Fatalf("%s %d:\nfrom JSON %s\nfrom the engine %s", feature, q.Amount, got.AppendJSON(nil), want.AppendJSON(nil))
				}
			}
		}
	})
	if asked < 10_000 {
		t.Errorf("%d questions were asked, want 10,000", asked)
	}
}

// TestValidUntil_Holds: until valid_until, and while nothing is used or changed, the
// answer stays as it is.
func TestValidUntil_Holds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		load, now := drawWorld(t)
		for range 4 {
			at := now.Add(time.Duration(rapid.Int64Range(0, int64(60*24*time.Hour)/1000).Draw(t, "later")) * time.Microsecond)
			for _, feature := range []string{"api", "pool", "tok"} {
				q := engine.Query{Customer: "acme", Feature: feature, Amount: rapid.Int64Range(0, 30).Draw(t, "amount")}
				d := engine.Decide(load(at), q, at)
				span := 400 * 24 * time.Hour
				if !d.ValidUntil.IsZero() {
					if !d.ValidUntil.After(at) {
						t.Fatalf("at %v: valid until %v: %+v", at, d.ValidUntil, d)
					}
					span = d.ValidUntil.Sub(at)
				}
				part := time.Duration(rapid.IntRange(2, 100).Draw(t, "part"))
				for _, then := range []time.Time{at.Add(span - time.Microsecond), at.Add(span / part)} {
					then = then.Truncate(time.Microsecond)
					if x := engine.Decide(load(then), q, then); !reflect.DeepEqual(x, d) {
						t.Fatalf("%s\nat   %v %s\nthen %v %s", feature, at, d.AppendJSON(nil), then, x.AppendJSON(nil))
					}
				}
			}
		}
	})
}

// TestValidUntil_SlidingCap: valid_until of a sliding cap that holds use is the instant
// at which its next unit falls out, neither earlier nor later.
func TestValidUntil_SlidingCap(t *testing.T) {
	t.Parallel()
	c, err := catalogfile.Parse("catalog.yaml", []byte(`usher: 1
features:
  api: {kind: metered}
plans:
  pro: {default: true, entitlements: {api: {limit: 1000, per: month, caps: [{limit: 10, per: hour, sliding: true}]}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	book := engine.NewBook(c, []usher.PlanVersion{{Version: 1, Plan: *catalogfile.Resolve(c, "pro")}}, nil)
	w := engine.NewWorld(engine.Facts{Book: book,
		Customer: &usher.Customer{ID: "acme", CreatedAt: epoch, Clocks: []usher.Clock{{From: epoch, Anchor: epoch}}}})
	s := engine.NewSnapshot(w, 1, nil, nil).Clone()
	ask := func(at time.Time) usher.Decision {
		return engine.Decide(s, engine.Query{Customer: "acme", Feature: "api", Amount: 1}, at)
	}
	month := time.Date(2026, 2, 15, 7, 30, 0, 0, time.UTC)
	if d := ask(epoch); !d.ValidUntil.Equal(month) {
		t.Errorf("nothing is used: valid until %v, want the end of the month, %v", d.ValidUntil, month)
	}
	at := epoch
	for _, n := range []int64{3, 2, 1} {
		engine.Take(s, engine.Op{Customer: "acme", Feature: "api", Amount: n}, at)
		at = at.Add(10 * time.Minute)
	}
	used := int64(6)
	for _, n := range []int64{3, 2, 1} {
		d := ask(at)
		if d.Caps[0].Used != used {
			t.Fatalf("at %v the cap holds %d, want %d", at, d.Caps[0].Used, used)
		}
		if before := ask(d.ValidUntil.Add(-time.Microsecond)); before.Caps[0].Used != used {
			t.Errorf("just before %v the cap holds %d, want %d", d.ValidUntil, before.Caps[0].Used, used)
		}
		at, used = d.ValidUntil, used-n
		if then := ask(at); then.Caps[0].Used != used {
			t.Errorf("at %v the cap holds %d, want %d", at, then.Caps[0].Used, used)
		}
	}
	if d := ask(at); !d.ValidUntil.Equal(month) {
		t.Errorf("all fell out: valid until %v, want %v", d.ValidUntil, month)
	}
}
