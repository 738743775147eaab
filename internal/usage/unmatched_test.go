package usage_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// Events of a type that no meter reads are accepted and not lost from sight: the
// answer counts them, and their types are listed, each once for all that came.
func TestS17_UnmatchedEventsAreSeen(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		send := func(want usher.IngestResult, events ...usher.Event) {
			t.Helper()
			got, err := n.usage.Ingest(ctx, usher.Sandbox, events)
			if err != nil || got.Accepted != want.Accepted || got.Unmatched != want.Unmatched || got.Duplicates != want.Duplicates {
				t.Errorf("got %+v, %v; want %+v", got, err, want)
			}
		}
		read, typo, other := event("1", "api.request", ``, c.now()), event("2", "api.requets", ``, c.now()), event("3", "other", ``, c.now())
		send(usher.IngestResult{Accepted: 3, Unmatched: 2}, read, typo, other)
		stranger := event("4", "nothing", ``, c.now())
		stranger.Subject = "ghost"
		send(usher.IngestResult{Duplicates: 1}, typo, stranger) // neither a duplicate nor a rejected event counts again
		c.set(c.now().Add(time.Hour))
		late := event("5", "api.requets", ``, c.now().Add(-30*time.Minute))
		late.Source = "gateway"
		send(usher.IngestResult{Accepted: 1, Unmatched: 1}, late)
		first, next, err := n.usage.Unmatched(ctx, usher.Sandbox, "", 1)
		if err != nil || next != "api.requets" || len(first) != 1 ||
			first[0] != (usher.UnmatchedType{Type: "api.requets", Count: 2, LastSeen: c.now(), Source: "gateway"}) {
			t.Errorf("first page: got %+v, %q, %v", first, next, err)
		}
		rest, next, err := n.usage.Unmatched(ctx, usher.Sandbox, next, 1)
		if err != nil || next != "" || len(rest) != 1 || rest[0].Type != "other" || rest[0].Count != 1 {
			t.Errorf("second page: got %+v, %q, %v", rest, next, err)
		}
		if all, _, err := n.usage.Unmatched(ctx, usher.Production, "", 10); err != nil || len(all) != 0 {
			t.Errorf("the other environment: got %+v, %v", all, err)
		}

		// However many types come, those that were seen last are remembered, and no more.
		c.set(c.now().Add(time.Hour))
		var many []usher.Event
		for i := range store.MaxUnmatched - 1 {
			many = append(many, event(fmt.Sprintf("m%d", i), fmt.Sprintf("many.%d", i), ``, c.now()))
		}
		send(usher.IngestResult{Accepted: len(many), Unmatched: len(many)}, many...)
		all, _, err := n.usage.Unmatched(ctx, usher.Sandbox, "", 2*store.MaxUnmatched)
		if err != nil || len(all) != store.MaxUnmatched || all[0].Type != "api.requets" || all[1].Type == "other" {
			t.Errorf("got %d types, %v; want %d, without the one that was seen longest ago", len(all), err, store.MaxUnmatched)
		}
		n.agrees(t, c, "after")
	})
}
