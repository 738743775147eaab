package usage_test

import (
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/usage"
)

// Groups add up to the total, whatever took the use: an event with a value or without
// one, a consume, a settlement, and corrections of each.
func TestGroupsAddUpToTheTotal(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		ask := func(window usher.Unit, group string) []usher.UsagePoint {
			t.Helper()
			got, err := n.usage.Query(ctx, usher.Sandbox, usage.UsageQuery{Customer: "acme", Feature: "tokens", Window: window, GroupBy: group,
				From: at(t, "2026-03-10T00:00:00Z"), To: at(t, "2026-03-13T00:00:00Z")})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		res, err := n.usage.Ingest(ctx, usher.Sandbox, []usher.Event{
			event("1", "llm.completion", `{"tokens":7,"model":"a"}`, c.now()), event("2", "llm.completion", `{"tokens":5,"model":"b"}`, c.now()),
			event("3", "llm.completion", `{"tokens":2}`, c.now()), event("4", "llm.completion", `{"tokens":1,"model":""}`, c.now())})
		if err != nil || res.Accepted != 4 {
			t.Fatal(res, err)
		}
		n.consume(t, "tokens", "k1", 11)
		c.set(c.now().Add(25 * time.Hour)) // a day with consumes only
		n.consume(t, "tokens", "k2", 13)
		d, err := n.usage.Reserve(ctx, usher.Sandbox, usage.ReserveOp{ConsumeOp: usage.ConsumeOp{Customer: "acme", Feature: "tokens", Key: "r1",
			Amount: "9"}})
		if err != nil || !d.Allowed {
			t.Fatal(d, err)
		}
		if _, err := n.settle(t, d.Reservation.ID, "4"); err != nil {
			t.Fatal(err)
		}
		for _, op := range []usage.CorrectOp{{Ref: "k1", Amount: "3", Key: "c1"}, {Ref: "1", Source: "test", Amount: "2", Key: "c2"},
			{Ref: "r1", Amount: "1", Key: "c3"}, {Ref: "3", Source: "test", Amount: "1", Key: "c4"}} {
			op.Reason = "test"
			if _, err := n.usage.Correct(ctx, usher.Sandbox, op); err != nil {
				t.Fatal(err)
			}
		}
		for _, window := range []usher.Unit{usher.Minute, usher.Hour, usher.Day, usher.Month} {
			total, sums := map[time.Time]int64{}, map[time.Time]int64{}
			for _, p := range ask(window, "") {
				total[p.Start] = p.Value
			}
			for _, p := range ask(window, "data.model") {
				if sums[p.Start] += p.Value; p.Value < 0 {
					t.Errorf("%s: a group has %d", window, p.Value)
				}
			}
			for start := range sums {
				if sums[start] != total[start] {
					t.Errorf("%s from %s: the groups add up to %d, the total is %d", window, start, sums[start], total[start])
				}
			}
			if len(sums) != len(total) || len(total) == 0 {
				t.Errorf("%s: %d windows have groups, %d have use", window, len(sums), len(total))
			}
		}
		want := map[string]int64{"2026-03-10 a": 5, "2026-03-10 b": 5, "2026-03-10 ": 10, "2026-03-11 ": 16}
		for _, p := range ask(usher.Day, "data.model") {
			k := p.Start.Format("2006-01-02 ") + p.Group["data.model"]
			if p.Value != want[k] {
				t.Errorf("%q: got %d, want %d", k, p.Value, want[k])
			}
			delete(want, k)
		}
		if len(want) > 0 {
			t.Errorf("missing: %v", want)
		}
	})
}
