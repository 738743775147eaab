package engine_test

import (
	"math"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/engine"
	"github.com/usher-sh/usher/internal/catalogfile"
)

// A draw posts both halves: the credits that the pool gave, and the use that
// they paid for.
func TestS25_ADrawPostsBothHalves(t *testing.T) {
	t.Parallel()
	c, err := catalogfile.Parse("catalog.yaml", []byte(`usher: 1
features:
  pool: {kind: credits}
  img: {kind: metered, draws: {credits: pool, per_unit: 2}}
plans:
  p: {default: true, entitlements: {pool: {limit: 100, per: month}, img: {limit: 3, per: month}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 15, 7, 30, 0, 0, time.UTC)
	w := engine.NewWorld(engine.Facts{
		Book:     engine.NewBook(c, []usher.PlanVersion{{Version: 1, Plan: *catalogfile.Resolve(c, "p")}}, nil),
		Customer: &usher.Customer{ID: "acme", CreatedAt: at, Clocks: []usher.Clock{{From: at, Anchor: at}}},
	})
	s := engine.NewSnapshot(w, 1, nil, nil)
	e := engine.Take(s, engine.Op{Customer: "acme", Feature: "img", Amount: 10}, at)
	if !e.Decision.Allowed {
		t.Fatalf("got %+v", e.Decision)
	}
	own, pool := map[string]int64{}, map[string]int64{}
	for _, en := range e.Entries {
		if en.Bucket.Feature == "img" {
			own[en.Allowance] += en.Amount
		} else {
			pool[en.Allowance] += en.Amount
		}
	}
	if own["plan:p@1"] != 3 || own[engine.EntryDrawn] != 7 || len(own) != 2 {
		t.Errorf("entries of img: %v, want 3 of its own allowance and 7 drawn", own)
	}
	if pool["plan:p@1"] != 14 || len(pool) != 1 {
		t.Errorf("entries of the pool: %v, want 14", pool)
	}
	// And the counts agree with the entries.
	if b, ok := s.Bucket(engine.BucketKey{Feature: "img", Clock: engine.ClockDrawn}); !ok || b.Used != 7 {
		t.Errorf("drawn is counted as %+v, want 7", b)
	}
}

// Reported use that would pass int64 is not booked, whatever the limits say.
func TestS24_UseThatCannotBeCountedIsNotBooked(t *testing.T) {
	t.Parallel()
	c, err := catalogfile.Parse("catalog.yaml", []byte(`usher: 1
features: {api: {kind: metered}}
plans: {p: {default: true, entitlements: {api: {limit: 10, per: month}}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 15, 7, 30, 0, 0, time.UTC)
	w := engine.NewWorld(engine.Facts{
		Book:     engine.NewBook(c, []usher.PlanVersion{{Version: 1, Plan: *catalogfile.Resolve(c, "p")}}, nil),
		Customer: &usher.Customer{ID: "acme", CreatedAt: at, Clocks: []usher.Clock{{From: at, Anchor: at}}},
	})
	s := engine.NewSnapshot(w, 1, nil, nil)
	record := func(n int64) engine.Effect {
		return engine.Take(s, engine.Op{Kind: engine.Record, Customer: "acme", Feature: "api", Amount: n}, at)
	}
	if e := record(math.MaxInt64 - 5); e.Overflow || e.Decision.Used != math.MaxInt64-5 {
		t.Errorf("the most but five: %+v", e)
	}
	if e := record(6); !e.Overflow || len(e.Entries) != 0 || e.Decision.Used != math.MaxInt64-5 {
		t.Errorf("one too many: %+v", e)
	}
	if e := record(5); e.Overflow || e.Decision.Used != math.MaxInt64 || e.Decision.Excess != math.MaxInt64-10 {
		t.Errorf("the last five: %+v", e)
	}
}
