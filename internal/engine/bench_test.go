package engine_test

import (
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
)

// benchBook has a feature of each kind that B1 measures.
const benchCatalog = `usher: 1
features:
  sso: {kind: switch}
  retention: {kind: config, type: integer}
  api: {kind: metered}
plans:
  pro:
    entitlements:
      sso: true
      retention: 90
      api: {limit: 100000, per: month, caps: [{limit: 5000, per: minute}, {limit: 50000, per: day}]}
addons:
  daily: {entitlements: {api: {limit: 500, per: day, anchor: calendar}}}
`

// benchSnapshot is a customer with three allowances (the plan's month, an
// add-on's calendar day, a grant) and two caps, all of them in use.
func benchSnapshot(tb testing.TB) (*engine.Snapshot, time.Time) {
	tb.Helper()
	c, err := catalogfile.Parse("catalog.yaml", []byte(benchCatalog))
	if err != nil {
		tb.Fatal(err)
	}
	book := engine.NewBook(c, []usher.PlanVersion{{Version: 1, Plan: *catalogfile.Resolve(c, "pro")}},
		[]usher.AddonVersion{{Version: 1, Addon: *c.Addons["daily"]}})
	at := time.Date(2026, 1, 15, 7, 30, 0, 0, time.UTC)
	w := engine.NewWorld(engine.Facts{Book: book,
		Customer: &usher.Customer{ID: "acme", CreatedAt: at, Clocks: []usher.Clock{{From: at, Anchor: at}}},
		Subscriptions: []usher.Subscription{{ID: "sub", Customer: "acme", Family: "main", StartsAt: at, CreatedAt: at,
			Phases: []usher.Phase{{At: at,
				Plan: &usher.HeldPlan{Ref: usher.Ref{Key: "pro",
					Version: 1}}, Addons: &[]usher.HeldAddon{{Addon: usher.Ref{Key: "daily", Version: 1}, Quantity: 1}}}}}},
		Grants: []usher.Grant{{ID: "gr_1", Customer: "acme", Feature: "api", Amount: 100, Priority: 50, EffectiveAt: at}},
	})
	at = at.Add(time.Hour)
	s := engine.NewSnapshot(w, 1, nil, nil)
	if e := engine.Take(s, engine.Op{Customer: "acme", Feature: "api", Amount: 650}, at); !e.Decision.Allowed ||
		len(e.Decision.Allowances) != 3 || len(e.Decision.Caps) != 2 {
		tb.Fatalf("got %+v", e.Decision)
	}
	return s, at
}

func benchmarkDecide(b *testing.B, q engine.Query, reason usher.Reason) {
	s, at := benchSnapshot(b)
	q.Customer, q.Buf = "acme", new(engine.Buf)
	if d := engine.Decide(s, q, at); d.Reason != reason {
		b.Fatalf("got %+v", d)
	}
	b.ReportAllocs()
	for b.Loop() {
		d := engine.Decide(s, q, at)
		if !d.Allowed {
			b.Fatal(d.Reason)
		}
	}
}

func BenchmarkB1_Switch(b *testing.B) {
	benchmarkDecide(b, engine.Query{Feature: "sso"}, usher.Granted)
}

func BenchmarkB1_Config(b *testing.B) {
	benchmarkDecide(b, engine.Query{Feature: "retention"}, usher.Granted)
}

func BenchmarkB1_Metered(b *testing.B) {
	benchmarkDecide(b, engine.Query{Feature: "api", Amount: 10}, usher.WithinLimit)
}

// TestB1_NoAllocations: with memory lent to it, a decision allocates nothing.
func TestB1_NoAllocations(t *testing.T) {
	s, at := benchSnapshot(t)
	buf := new(engine.Buf)
	for _, feature := range []string{"sso", "retention", "api"} {
		q := engine.Query{Customer: "acme", Feature: feature, Amount: 10, Buf: buf}
		if n := testing.AllocsPerRun(100, func() { engine.Decide(s, q, at) }); n != 0 {
			t.Errorf("%s: %v allocations, want none", feature, n)
		}
	}
}
