package usage_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/usage"
)

func (n *node) reserve(t *testing.T, key string, amount int, ttl time.Duration) usher.Decision {
	t.Helper()
	d, err := n.usage.Reserve(t.Context(), usher.Sandbox, usage.ReserveOp{TTL: ttl, ConsumeOp: usage.ConsumeOp{
		Customer: "acme", Feature: "api_calls", Key: key, Amount: usher.Number(fmt.Sprint(amount))}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (n *node) settle(t *testing.T, id, amount string) (usher.Decision, error) {
	t.Helper()
	return n.usage.Settle(t.Context(), usher.Sandbox, id, usher.Number(amount))
}

func wantUse(t *testing.T, what string, d usher.Decision, used, reserved, remaining int64) {
	t.Helper()
	if d.Used != used || d.Reserved != reserved || d.Remaining != remaining {
		t.Errorf("%s: used %d, reserved %d, remaining %d; want %d, %d, %d (%+v)", what, d.Used, d.Reserved, d.Remaining, used, reserved,
			remaining, d)
	}
}

func wantError(t *testing.T, what string, err error, code usher.Code) {
	t.Helper()
	if usher.ErrorCode(err) != code || err == nil {
		t.Errorf("%s: got %v, want %s", what, err, code)
	}
}

// A hold counts against everybody until it ends, and ends once, whatever ends
// it: on this node, on another one, or nothing but time.
func TestS23_AHoldEndsOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")

		d := n.reserve(t, "r1", 400, time.Minute)
		wantUse(t, "held", d, 0, 400, 600)
		if d.Reservation == nil || d.Reservation.Amount != 400 || !d.Reservation.ExpiresAt.Equal(c.now().Add(time.Minute)) {
			t.Fatalf("got %+v", d.Reservation)
		}
		if again := n.reserve(t, "r1", 400, time.Minute); !again.Replayed || again.Reservation.ID != d.Reservation.ID {
			t.Errorf("again: got %+v", again)
		}
		// The cap of 700 a minute counts holds too.
		if d := n.consume(t, "api_calls", "k1", 301); d.Allowed || d.Reason != usher.CapReached {
			t.Errorf("over the cap: got %+v", d)
		}
		got, err := n.settle(t, d.Reservation.ID, "150")
		if err != nil {
			t.Fatal(err)
		}
		wantUse(t, "settled with less", got, 150, 0, 850)
		if len(got.Deductions) != 1 || got.Deductions[0].Amount != 150 || got.Reservation.State != usher.ReservationSettled {
			t.Errorf("got %+v", got)
		}
		if again, err := n.settle(t, d.Reservation.ID, "150"); err != nil || !again.Replayed || again.Used != 150 {
			t.Errorf("settled again: got %+v, %v", again, err)
		}
		_, err = n.settle(t, d.Reservation.ID, "151")
		wantError(t, "settled otherwise", err, usher.Conflict)
		_, err = n.usage.Release(t.Context(), usher.Sandbox, d.Reservation.ID)
		wantError(t, "released after it was settled", err, usher.Conflict)
		_, err = n.usage.Settle(t.Context(), usher.Production, d.Reservation.ID, "150")
		wantError(t, "another environment's", err, usher.NotFound)

		// Released: all of it is back, once.
		d = n.reserve(t, "r2", 500, time.Minute)
		wantUse(t, "held", d, 150, 500, 350)
		for range 2 {
			got, err := n.usage.Release(t.Context(), usher.Sandbox, d.Reservation.ID)
			if err != nil {
				t.Fatal(err)
			}
			wantUse(t, "released", got, 150, 0, 850)
		}
		_, err = n.settle(t, d.Reservation.ID, "1")
		wantError(t, "settled after it was released", err, usher.Conflict)

		// Expired: no job runs, and the next check knows.
		d = n.reserve(t, "r3", 500, time.Minute)
		c.set(c.now().Add(time.Minute - time.Microsecond))
		wantUse(t, "the last moment", n.check(t, "api_calls"), 150, 500, 350)
		c.set(c.now().Add(time.Microsecond))
		wantUse(t, "expired", n.check(t, "api_calls"), 150, 0, 850)
		wantUse(t, "and taken by others", n.consume(t, "api_calls", "k2", 700), 850, 0, 150)
		wantUse(t, "given back once", n.consume(t, "api_calls", "k3", 0), 850, 0, 150)

		// Settled after that: recorded all the same, and what nothing holds is excess.
		got, err = n.settle(t, d.Reservation.ID, "200")
		if err != nil {
			t.Fatal(err)
		}
		wantUse(t, "settled late", got, 1050, 0, 0)
		if got.Excess != 50 || !got.Reservation.Late {
			t.Errorf("settled late: got excess %d, %+v", got.Excess, got.Reservation)
		}
	})
}

// More than was held comes from what is left, then it is excess (S14).
func TestS23_SettledWithMore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		d := n.reserve(t, "r1", 100, time.Hour)
		got, err := n.settle(t, d.Reservation.ID, "130")
		if err != nil {
			t.Fatal(err)
		}
		wantUse(t, "within the allowance", got, 130, 0, 870)
		d = n.reserve(t, "r2", 100, time.Hour)
		if got, err = n.settle(t, d.Reservation.ID, "900"); err != nil {
			t.Fatal(err)
		}
		wantUse(t, "beyond the allowance", got, 1030, 0, 0)
		if got.Excess != 30 {
			t.Errorf("excess: got %d, want 30", got.Excess)
		}
		// The hold of a window that is over counts there.
		c.set(at(t, "2026-04-10T12:30:00Z"))
		wantUse(t, "a new month", n.check(t, "api_calls"), 0, 0, 1000)
		c.set(at(t, "2026-05-10T11:59:30Z"))
		d = n.reserve(t, "r3", 100, time.Hour)
		c.set(at(t, "2026-05-10T12:00:30Z"))
		if got, err = n.settle(t, d.Reservation.ID, "250"); err != nil {
			t.Fatal(err)
		}
		wantUse(t, "settled in the next window", got, 0, 0, 1000)
		wantUse(t, "and check agrees", n.check(t, "api_calls"), 0, 0, 1000)
		points, err := n.usage.Query(t.Context(), usher.Sandbox, usage.UsageQuery{Customer: "acme", Feature: "api_calls", Window: usher.Hour,
			From: at(t, "2026-05-10T00:00:00Z"), To: at(t, "2026-05-11T00:00:00Z")})
		if err != nil || len(points) != 1 || points[0].Value != 250 || !points[0].Start.Equal(at(t, "2026-05-10T11:00:00Z")) {
			t.Errorf("the use stands where it was held: got %+v, %v", points, err)
		}
	})
}

// Many hold, settle, release and let go at once: never more than the limit, and
// at the end nothing is held.
func TestS23_ManyAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:00Z"))
		a := start(t, dsn, c)
		a.found(t, c, "acme")
		nodes := []*node{a}
		if dsn[0] == 'p' {
			nodes = append(nodes, start(t, dsn, c), start(t, dsn, c))
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var settled int64
		for i := range 24 {
			wg.Go(func() {
				n, other := nodes[i%len(nodes)], nodes[(i+1)%len(nodes)]
				for j := range 6 {
					key := fmt.Sprintf("%d-%d", i, j)
					d, err := n.usage.Reserve(context.Background(), usher.Sandbox,
						usage.ReserveOp{TTL: time.Hour, ConsumeOp: usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: key}})
					if err != nil {
						t.Error(err)
						return
					}
					if d.Used+d.Reserved > 50 {
						t.Errorf("held too much: %+v", d)
					}
					if !d.Allowed {
						continue
					}
					if j%3 == 0 {
						if _, err := other.usage.Release(context.Background(), usher.Sandbox, d.Reservation.ID); err != nil {
							t.Error(err)
						}
						continue
					}
					got, err := other.usage.Settle(context.Background(), usher.Sandbox, d.Reservation.ID, "1")
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					settled += got.Consumed
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		d := a.consume(t, "exports", "last", 0)
		if d.Used != settled || d.Reserved != 0 || d.Used > 50 || d.Excess != 0 {
			t.Errorf("settled %d, now %+v", settled, d)
		}
	})
}

const seatCatalogue = `usher: 1
features:
  members: {kind: seats}
  builds:  {kind: metered, mode: shadow}
  strict:  {kind: metered}
plans:
  free:
    default: true
    entitlements:
      members: 3
      builds: {limit: 10, per: month}
      strict: {limit: 10, per: month}
`

func (n *node) seat(t *testing.T, holder string, pending bool, ttl time.Duration) usher.Decision {
	t.Helper()
	d, err := n.usage.PutSeat(t.Context(), usher.Sandbox, usage.SeatOp{Customer: "acme", Feature: "members", Holder: holder, Pending: pending,
		TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestS22_Seats(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:00Z"))
		n := start(t, dsn, c)
		n.apply(t, c, seatCatalogue, "acme")

		wantUse(t, "ann", n.seat(t, "ann", false, 0), 1, 0, 2)
		wantUse(t, "ann again", n.seat(t, "ann", false, 0), 1, 0, 2)
		c.set(c.now().Add(time.Second))
		wantUse(t, "bob is invited", n.seat(t, "bob", true, time.Hour), 1, 1, 1)
		c.set(c.now().Add(time.Second))
		wantUse(t, "cleo", n.seat(t, "cleo", false, 0), 2, 1, 0)
		if d := n.seat(t, "dan", false, 0); d.Allowed || d.Reason != usher.SeatLimitReached || d.Seat != nil {
			t.Errorf("dan: got %+v", d)
		}
		if d := n.seat(t, "bob", false, 0); !d.Allowed || d.Seat.State != usher.SeatActive || !d.Seat.ExpiresAt.IsZero() {
			t.Errorf("bob comes: got %+v, %+v", d, d.Seat)
		} else {
			wantUse(t, "bob comes", d, 3, 0, 0)
		}
		if _, err := n.usage.DeleteSeat(t.Context(), usher.Sandbox, "acme", "members", "cleo"); err != nil {
			t.Fatal(err)
		}
		wantUse(t, "cleo goes", n.check(t, "members"), 2, 0, 1)
		// A floating seat lapses by itself, and its holder may come again.
		wantUse(t, "dan floats", n.seat(t, "dan", false, time.Minute), 3, 0, 0)
		c.set(c.now().Add(50 * time.Second))
		wantUse(t, "dan stays", n.seat(t, "dan", false, time.Minute), 3, 0, 0)
		c.set(c.now().Add(50 * time.Second))
		wantUse(t, "dan is still here", n.check(t, "members"), 3, 0, 0)
		c.set(c.now().Add(10 * time.Second))
		wantUse(t, "dan has lapsed", n.check(t, "members"), 2, 0, 1)
		wantUse(t, "eve", n.seat(t, "eve", false, 0), 3, 0, 0)
		if d := n.seat(t, "dan", false, time.Minute); d.Allowed {
			t.Errorf("dan comes back too late: got %+v", d)
		}
		list, next, err := n.usage.Seats(t.Context(), usher.Sandbox, "acme", "members", "", 2)
		if err != nil || len(list) != 2 || list[0].Holder != "ann" || list[1].Holder != "bob" || next == "" {
			t.Fatalf("got %+v, %q, %v", list, next, err)
		}
		list, next, err = n.usage.Seats(t.Context(), usher.Sandbox, "acme", "members", next, 2)
		if err != nil || len(list) != 1 || list[0].Holder != "eve" || next != "" || list[0].Excess {
			t.Fatalf("got %+v, %q, %v", list, next, err)
		}
	})
}

// N come at once for fewer seats: exactly as many as there are get one.
func TestS22_ManyComeAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:00Z"))
		a := start(t, dsn, c)
		a.apply(t, c, seatCatalogue, "acme")
		nodes := []*node{a}
		if dsn[0] == 'p' {
			nodes = append(nodes, start(t, dsn, c))
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := map[string]bool{}
		for i := range 20 {
			wg.Go(func() {
				holder := fmt.Sprintf("h%d", i%10) // each comes twice
				d, err := nodes[i%len(nodes)].usage.PutSeat(context.Background(), usher.Sandbox, usage.SeatOp{Customer: "acme", Feature: "members",
					Holder: holder})
				if err != nil {
					t.Error(err)
				} else if d.Allowed {
					mu.Lock()
					got[holder] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		list, _, err := a.usage.Seats(t.Context(), usher.Sandbox, "acme", "members", "", 100)
		if err != nil || len(got) != 3 || len(list) != 3 {
			t.Errorf("%d were told yes, %d sit (%v); want 3", len(got), len(list), err)
		}
	})
}

func TestS16_Corrections(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		correct := func(key, ref, source, amount string) (usher.Decision, error) {
			return n.usage.Correct(t.Context(), usher.Sandbox, usage.CorrectOp{Ref: ref, Source: source, Amount: usher.Number(amount),
				Reason: "a mistake", Key: key, Actor: "test"})
		}
		n.consume(t, "api_calls", "k1", 100)
		d, err := correct("c1", "k1", "", "30")
		if err != nil {
			t.Fatal(err)
		}
		wantUse(t, "corrected", d, 70, 0, 930)
		if x := d.Correction; x == nil || x.Amount != 30 || x.Left != 70 || len(x.Returned) != 1 ||
			x.Returned[0] != (usher.Deduction{Allowance: "plan:free@1", Amount: 30}) {
			t.Errorf("got %+v", d.Correction)
		}
		if d, err := correct("c1", "k1", "", "30"); err != nil || !d.Replayed || d.Correction.Left != 70 {
			t.Errorf("again: got %+v, %v", d, err)
		}
		_, err = correct("c2", "k1", "", "71")
		wantError(t, "more than is left", err, usher.Refused)
		_, err = correct("c2", "c1", "", "1")
		wantError(t, "a correction of a correction", err, usher.Refused)
		_, err = correct("c2", "nothing", "", "1")
		wantError(t, "of nothing", err, usher.NotFound)
		if d, err = correct("c2", "k1", "", "70"); err != nil {
			t.Fatal(err)
		}
		wantUse(t, "all of it", d, 0, 0, 1000)

		// An event of a window that is over, with its dimension.
		if r, err := n.usage.Ingest(t.Context(), usher.Sandbox,
			[]usher.Event{event("e1", "llm.completion", `{"tokens":80,"model":"gpt"}`, c.now())}); err != nil || r.Accepted != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		c.set(c.now().Add(48 * time.Hour))
		source := event("e1", "", "", time.Time{}).Source
		if d, err = correct("c3", "e1", source, "50"); err != nil {
			t.Fatal(err)
		}
		for _, group := range []string{"", "data.model"} {
			for _, w := range []usher.Unit{usher.Minute, usher.Hour, usher.Day, usher.Month} {
				points, err := n.usage.Query(t.Context(), usher.Sandbox, usage.UsageQuery{Customer: "acme", Feature: "tokens", Window: w,
					GroupBy: group,
					From:    at(t, "2026-03-01T00:00:00Z"), To: at(t, "2026-03-31T00:00:00Z")})
				if err != nil || len(points) != 1 || points[0].Value != 30 {
					t.Errorf("%s by %q: got %+v, %v", w, group, points, err)
				}
			}
		}
		_, err = correct("c4", "e1", source, "31")
		wantError(t, "more than is left of the event", err, usher.Refused)
	})
}

func TestS26_WhatWouldHaveBeenDeniedIsCounted(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:00Z"))
		n := start(t, dsn, c)
		n.apply(t, c, seatCatalogue, "acme")
		for i := range 4 {
			n.consume(t, "builds", fmt.Sprint("b", i), 5)
			n.consume(t, "strict", fmt.Sprint("s", i), 5)
		}
		got, err := n.usage.Denials(t.Context(), usher.Sandbox, usage.DenialQuery{From: at(t, "2026-03-10T12:30:00Z"),
			To: at(t, "2026-03-10T13:00:00Z")})
		if err != nil || len(got) != 2 {
			t.Fatalf("got %+v, %v", got, err)
		}
		for _, d := range got {
			want := map[string]string{"builds": "shadowed", "strict": "denied"}[d.Feature]
			if d.Outcome != want || d.Count != 2 || d.Amount != 10 || d.Reason != usher.LimitReached {
				t.Errorf("got %+v", d)
			}
		}
	})
}

// A queue that is full says so at once, and when to come back; what was let in
// is committed all the same.
func TestAFullQueueSaysComeBack(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		u := usage.New(usage.Config{DB: n.db, Live: n.live, Node: "small", Queue: 4})
		gone, leave := context.WithCancel(t.Context())
		leave() // such a caller queues its request and does not wait
		consume := func(key string) error {
			_, err := u.Consume(gone, usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: key})
			return err
		}
		release := n.hold(t)
		for _, key := range []string{"a", "b", "c", "d"} {
			if err := consume(key); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", key, err)
			}
		}
		var e *usher.Error
		if err := consume("e"); !errors.As(err, &e) || e.Code != usher.Unavailable || e.RetryAfter <= 0 {
			t.Errorf("one too many: got %v, want to be told to come back", err)
		}
		release()
		if err := u.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if d := n.consume(t, "exports", "last", 0); d.Used != 4 {
			t.Errorf("what was let in is not all there: %+v", d)
		}
	})
}

// Spans of a report that follow one another count nothing twice, wherever they
// are cut.
func TestUsageOfSpansAddsUp(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:10Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		n.consume(t, "exports", "a", 1)
		c.set(at(t, "2026-03-10T12:00:50Z"))
		n.consume(t, "exports", "b", 2)
		total := int64(0)
		cuts := []string{"2026-03-10T11:59:30Z", "2026-03-10T12:00:00Z", "2026-03-10T12:00:30Z", "2026-03-10T12:00:31Z", "2026-03-10T12:01:00Z",
			"2026-03-10T12:30:15Z"}
		for i := 1; i < len(cuts); i++ {
			points, err := n.usage.Query(t.Context(), usher.Sandbox, usage.UsageQuery{Customer: "acme", Feature: "exports", Window: usher.Hour,
				From: at(t, cuts[i-1]), To: at(t, cuts[i])})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range points {
				total += p.Value
			}
		}
		if total != 3 {
			t.Errorf("the spans add up to %d, want 3", total)
		}
	})
}

// A sandbox's clock that one node has moved binds the next take on every node.
func TestS11_AClockThatAnotherNodeMoved(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		if dsn[0] != 'p' {
			t.Skip("a SQLite file has one node")
		}
		c := &clock{}
		c.set(at(t, "2026-03-10T12:00:00Z"))
		a := start(t, dsn, c)
		a.found(t, c, "acme")
		deaf := a.deaf(t, c)
		for i, now := range []string{"2026-03-11T00:00:00Z", "2026-03-12T00:00:00Z"} {
			if err := a.db.SetClock(t.Context(), usher.Sandbox, at(t, now), usher.By{Actor: usher.Actor{Kind: "system"}}, c.now()); err != nil {
				t.Fatal(err)
			}
			d, err := deaf.Reserve(t.Context(), usher.Sandbox,
				usage.ReserveOp{TTL: time.Hour, ConsumeOp: usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: fmt.Sprint("r", i)}})
			if err != nil || !d.Reservation.ExpiresAt.Equal(at(t, now).Add(time.Hour)) {
				t.Errorf("at %s: got %+v, %v", now, d.Reservation, err)
			}
		}
	})
}

// A key that was forgotten and is used again has none of the old take's
// corrections.
func TestS16_OfAForgottenKey(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-01-05T12:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		u := n.slow(t, c)
		correct := func(key, amount string) error {
			_, err := n.usage.Correct(t.Context(), usher.Sandbox, usage.CorrectOp{Ref: "k", Amount: usher.Number(amount), Reason: "test", Key: key})
			return err
		}
		n.consume(t, "api_calls", "k", 30)
		if err := correct("c1", "20"); err != nil {
			t.Fatal(err)
		}
		c.set(at(t, "2026-04-05T12:00:00Z"))
		if folded, err := u.Fold(t.Context()); err != nil || folded != 2 {
			t.Fatal(folded, err)
		}
		again := n.deaf(t, c)
		if d, err := again.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "api_calls", Key: "k",
			Amount: "25"}); err != nil || d.Replayed || !d.Allowed {
			t.Fatal(d, err)
		}
		if err := correct("c2", "10"); err != nil {
			t.Error(err)
		}
		wantError(t, "more than is left", correct("c3", "16"), usher.Refused)
	})
}
