package engine_test

import (
	"math"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
)

// opened is when the customer of these tests begins.
var opened = time.Date(2026, 1, 15, 7, 30, 0, 0, time.UTC)

// untouched is a customer without use on a plan p with these entitlements.
func untouched(t *testing.T, features, entitlements string) *engine.Snapshot {
	t.Helper()
	c, err := catalogfile.Parse("catalog.yaml",
		[]byte("usher: 1\nfeatures: "+features+"\nplans: {p: {default: true, entitlements: "+entitlements+"}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	w := engine.NewWorld(engine.Facts{
		Book:     engine.NewBook(c, []usher.PlanVersion{{Version: 1, Plan: *catalogfile.Resolve(c, "p")}}, nil),
		Customer: &usher.Customer{ID: "acme", CreatedAt: opened, Clocks: []usher.Clock{{From: opened, Anchor: opened}}},
	})
	return engine.NewSnapshot(w, 1, nil, nil)
}

// A draw posts both halves: the credits that the pool gave, and the use that
// they paid for.
func TestS25_ADrawPostsBothHalves(t *testing.T) {
	t.Parallel()
	s := untouched(t, `
  pool: {kind: credits}
  img: {kind: metered, draws: {credits: pool, per_unit: 2}}`, `{pool: {limit: 100, per: month}, img: {limit: 3, per: month}}`)
	e := engine.Take(s, engine.Op{Customer: "acme", Feature: "img", Amount: 10}, opened)
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
	s := untouched(t, `{api: {kind: metered}}`, `{api: {limit: 10, per: month}}`)
	record := func(n int64) engine.Effect {
		return engine.Take(s, engine.Op{Kind: engine.Record, Customer: "acme", Feature: "api", Amount: n}, opened)
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

// stands fails unless a feature's use and holds are as expected.
func stands(t *testing.T, when string, s *engine.Snapshot, feature string, at time.Time, used, reserved int64) {
	t.Helper()
	if d := engine.Decide(s, engine.Query{Customer: "acme", Feature: feature}, at); d.Used != used || d.Reserved != reserved {
		t.Errorf("%s: used %d, reserved %d; want %d and %d", when, d.Used, d.Reserved, used, reserved)
	}
}

// hold reserves for a time and returns the open reservation.
func hold(t *testing.T, s *engine.Snapshot, id string, amount int64, ttl time.Duration) *engine.Hold {
	t.Helper()
	until := opened.Add(ttl)
	e := engine.Take(s, engine.Op{Kind: engine.Reserve, Customer: "acme", Feature: "api", Amount: amount, Hold: id, Until: until}, opened)
	if !e.Decision.Allowed {
		t.Fatalf("hold %s: %+v", id, e.Decision)
	}
	return &engine.Hold{ID: id, Customer: "acme", Feature: "api", Amount: amount, At: opened, Expires: until, Entries: e.Entries}
}

// What a hold held goes back exactly once, at the instant of its end, however often
// it is looked at, and nothing of another hold goes back with it.
func TestS23_AHoldGoesBackOnce(t *testing.T) {
	t.Parallel()
	s := untouched(t, `{api: {kind: metered}}`, `{api: {limit: 10, per: month}}`)
	short, long := hold(t, s, "rsv_1", 4, time.Minute), hold(t, s, "rsv_2", 5, time.Hour)
	end := short.Expires
	last := end.Add(-time.Microsecond)
	if s.Expire(last) {
		t.Error("something ended before its end")
	}
	stands(t, "before the end", s, "api", last, 0, 9)
	for range 3 {
		s.Expire(end)
		stands(t, "at the end", s, "api", end, 0, 5)
	}
	engine.Release(s, short, end)
	stands(t, "released after it ended", s, "api", end, 0, 5)
	engine.Release(s, long, end)
	stands(t, "the other released", s, "api", end, 0, 0)
}

// A settlement makes use of what it says, once, and nothing of its hold stays
// held. After the hold has ended it is recorded all the same.
func TestS23_ASettlementCountsOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		amount, used int64
		after        time.Duration
	}{
		{"less", 3, 3, 0}, {"as held", 4, 4, 0}, {"more", 6, 6, 0}, {"beyond the limit", 12, 12, 0}, {"nothing", 0, 0, 0}, {"after the end",
			3, 3, time.Minute},
	} {
		s := untouched(t, `{api: {kind: metered}}`, `{api: {limit: 10, per: month}}`)
		h := hold(t, s, "rsv_1", 4, time.Minute)
		hold(t, s, "rsv_2", 2, time.Hour) // which all of this leaves alone
		at := opened.Add(c.after)
		s.Expire(at)
		e := engine.Settle(s, h, c.amount, at)
		stands(t, c.name, s, "api", at, c.used, 2)
		if got := engine.Taken("api", e.Entries); got != c.amount {
			t.Errorf("%s: entries come to %d, want %d: %+v", c.name, got, c.amount, e.Entries)
		}
		if want := max(c.amount+2-10, 0); e.Decision.Excess != want {
			t.Errorf("%s: excess %d, want %d", c.name, e.Decision.Excess, want)
		}
		s.Expire(h.Expires)
		stands(t, c.name+", when the hold would have ended", s, "api", h.Expires, c.used, 2)
	}
}

// gone is a snapshot with the same use in a world without the customer, or without
// the feature.
func gone(t *testing.T, s *engine.Snapshot, features string, customer *usher.Customer) *engine.Snapshot {
	t.Helper()
	c, err := catalogfile.Parse("catalog.yaml", []byte("usher: 1\nfeatures: "+features+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	w := engine.NewWorld(engine.Facts{Book: engine.NewBook(c, nil, nil), Customer: customer})
	left := engine.NewSnapshot(w, 2, s.Dirty(), nil)
	left.SetLapses(s.Lapses())
	return left
}

// A settlement after the customer was deleted, or after the feature left the
// catalogue, keeps all that was used: what was held as it was held, the rest as excess
// in the hold's window, and the answer says what is kept.
func TestS36_ADeletedCustomersSettlementIsKept(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name             string
		amount           int64
		after            time.Duration
		plan, excess     int64 // of the entries
		features         string
		customer         *usher.Customer
		beyond, reserved int64 // of the bucket
		why              usher.Reason
	}{
		{"more than held", 9, 0, 5, 4, `{api: {kind: metered}}`, nil, 1, 0, usher.UnknownCustomer},
		{"as held", 5, 0, 5, 0, `{api: {kind: metered}}`, nil, 0, 0, ""},
		{"less", 2, 0, 2, 0, `{api: {kind: metered}}`, nil, 0, 0, ""},
		{"after the end", 9, time.Minute, 0, 9, `{api: {kind: metered}}`, nil, 1, 0, usher.UnknownCustomer},
		{"no feature", 9, 0, 5, 4, `{}`, &usher.Customer{ID: "acme", CreatedAt: opened, Clocks: []usher.Clock{{From: opened, Anchor: opened}}},
			1, 0, usher.UnknownFeature},
		{"another kind", 9, 0, 5, 4, `{api: {kind: switch}}`, &usher.Customer{ID: "acme", CreatedAt: opened, Clocks: []usher.Clock{{From: opened,
			Anchor: opened}}}, 1, 0, usher.NotEntitled},
	} {
		s := untouched(t, `{api: {kind: metered}}`, `{api: {limit: 8, per: month, caps: [{limit: 20, per: day}]}}`)
		h := hold(t, s, "rsv_1", 5, time.Minute)
		s = gone(t, s, c.features, c.customer)
		at := opened.Add(c.after)
		s.Expire(at)
		if !engine.Settles(s, h, c.amount, at) {
			t.Fatalf("%s: cannot be settled", c.name)
		}
		e := engine.Settle(s, h, c.amount, at)
		got := map[string]int64{}
		for _, en := range e.Entries {
			got[en.Allowance] += en.Amount
		}
		if got["plan:p@1"] != c.plan || got[engine.EntryExcess] != c.excess || got[engine.EntryCap] != c.amount {
			t.Errorf("%s: entries %v, want %d of the plan, %d excess and %d of the cap", c.name, got, c.plan, c.excess, c.amount)
		}
		if b, ok := s.Bucket(h.Home()); !ok || b.Used != c.amount || b.Reserved != c.reserved || b.Excess != c.beyond {
			t.Errorf("%s: got bucket %+v, want used %d, excess %d", c.name, b, c.amount, c.beyond)
		}
		if e.Decision.Consumed != c.amount || e.Would != c.why {
			t.Errorf("%s: answered %d and %q, want %d and %q", c.name, e.Decision.Consumed, e.Would, c.amount, c.why)
		}
	}
}

// What cannot be counted is not settled, even if nothing can be decided.
func TestS24_ADeletedCustomersSettlementCounts(t *testing.T) {
	t.Parallel()
	s := untouched(t, `{api: {kind: metered}}`, `{api: {limit: 8, per: month}}`)
	h := hold(t, s, "rsv_1", 5, time.Minute)
	hold(t, s, "rsv_2", 2, time.Minute)
	s = gone(t, s, `{}`, nil)
	if engine.Settles(s, h, math.MaxInt64-1, opened) {
		t.Error("more than int64 can count is settled")
	}
	if !engine.Settles(s, h, math.MaxInt64-2, opened) {
		t.Error("what can be counted beside the other hold is not settled")
	}
	if s.Expire(h.Expires); !engine.Settles(s, h, math.MaxInt64, h.Expires) {
		t.Error("what can be counted is not settled")
	}
}

// A hold of a grant pays for no excess: that is counted beside it.
func TestS14_AGrantPaysForNoExcessOfADeletedCustomer(t *testing.T) {
	t.Parallel()
	h := &engine.Hold{Feature: "api", Entries: []engine.Entry{{Bucket: engine.BucketKey{Feature: "api", Clock: "grant:gr_1"}, Amount: 5}}}
	if got := h.Home(); got.Clock != engine.ClockNone || got.Feature != "api" {
		t.Errorf("excess goes to %+v, want what nothing entitles", got)
	}
}

// One holder has one seat, however often it asks, even if there are more
// holders than seats; a new one is refused then.
func TestS22_OneHolderOneSeat(t *testing.T) {
	t.Parallel()
	s := untouched(t, `{members: {kind: seats}}`, `{members: 2}`)
	seats := map[string]*engine.Seat{}
	sit := func(holder string, pending bool) bool {
		want := engine.Seat{Holder: holder, Pending: pending, At: opened}
		e := engine.TakeSeat(s, "acme", "members", seats[holder], want, opened)
		if e.Seated {
			seats[holder] = &want
		}
		return e.Decision.Allowed
	}
	if !sit("ann", false) || !sit("bob", true) {
		t.Fatal("two seats do not hold two")
	}
	stands(t, "two", s, "members", opened, 1, 1)
	if sit("cy", false) {
		t.Error("a third was seated")
	}
	stands(t, "a third refused", s, "members", opened, 1, 1)
	if !sit("ann", false) || !sit("bob", false) {
		t.Error("a holder was refused the seat that it has")
	}
	stands(t, "asked again", s, "members", opened, 2, 0)
	engine.FreeSeat(s, "acme", "members", *seats["ann"], opened)
	delete(seats, "ann")
	if !sit("cy", false) {
		t.Error("a freed seat is not free")
	}
	stands(t, "one left, one came", s, "members", opened, 2, 0)
}

// A correction gives back what it says, and its entries say so.
func TestS16_ACorrectionGivesBack(t *testing.T) {
	t.Parallel()
	s := untouched(t, `{api: {kind: metered}}`, `{api: {limit: 10, per: month}}`)
	e := engine.Take(s, engine.Op{Kind: engine.Record, Customer: "acme", Feature: "api", Amount: 14}, opened)
	back := engine.Correct(s, "acme", "api", e.Entries, 5, opened, opened)
	stands(t, "5 of 14 given back", s, "api", opened, 9, 0)
	if got := engine.Taken("api", append(e.Entries, back.Entries...)); got != 9 {
		t.Errorf("entries come to %d, want 9: %+v", got, back.Entries)
	}
	if back.Decision.Excess != 0 || back.Decision.Remaining != 1 {
		t.Errorf("excess %d, remaining %d; want 0 and 1", back.Decision.Excess, back.Decision.Remaining)
	}
}
