package engine_test

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// The properties hold for any customer, so worlds are drawn at random: plans
// with several clocks, caps, rollover, overage, draws; add-ons, grants and
// overrides that come and go; anchors and zones that change.

var epoch = time.Date(2026, 1, 15, 7, 30, 0, 0, time.UTC)

func drawPeriod(t *rapid.T) usher.Period {
	return rapid.SampledFrom([]usher.Period{{Every: 1, Unit: usher.Month}, {Every: 1, Unit: usher.Day}, {Every: 6, Unit: usher.Hour},
		{Every: 1, Unit: usher.Week}, {Every: 1, Unit: usher.Lifetime}, {Every: 2, Unit: usher.Month}}).Draw(t, "per")
}

func drawAllowance(t *rapid.T) usher.Allowance {
	a := usher.Allowance{Limit: rapid.Int64Range(0, 40).Draw(t, "limit"), Per: drawPeriod(t),
		Priority: rapid.SampledFrom([]int{100, 100, 50, 200}).Draw(t, "priority")}
	if a.Per.Unit != usher.Lifetime {
		a.Anchor = rapid.SampledFrom([]usher.Anchor{"", "", usher.AnchorCalendar, usher.AnchorFirstUse}).Draw(t, "anchor")
	}
	switch rapid.IntRange(0, 9).Draw(t, "soft") {
	case 0:
		a.Overage = usher.Overage{Unlimited: true}
	case 1, 2, 3:
		a.Overage = usher.Overage{Max: rapid.Int64Range(1, 9).Draw(t, "overage")}
	case 4:
		a.Unlimited, a.Limit = true, 0
	}
	if !a.Unlimited && a.Per.Unit != usher.Lifetime && a.Anchor != usher.AnchorFirstUse && rapid.Bool().Draw(t, "rolls") {
		a.Rollover = &usher.Rollover{Max: rapid.Int64Range(1, 30).Draw(t, "max"), Windows: rapid.IntRange(1, 3).Draw(t, "windows")}
	}
	return a
}

func drawEntitlement(t *rapid.T, draws bool) *usher.Entitlement {
	e := &usher.Entitlement{OnChange: rapid.SampledFrom([]usher.OnChange{"", "", usher.Reset}).Draw(t, "on_change")}
	least := 1
	if draws {
		least = 0
	}
	for range rapid.IntRange(least, 2).Draw(t, "allowances") {
		e.Allowances = append(e.Allowances, drawAllowance(t))
	}
	for range rapid.IntRange(0, 2).Draw(t, "caps") {
		c := usher.Cap{Limit: rapid.Int64Range(1, 60).Draw(t, "cap"),
			Per: rapid.SampledFrom([]usher.Period{{Every: 1, Unit: usher.Day}, {Every: 1, Unit: usher.Hour}}).Draw(t, "cap per")}
		c.Sliding = rapid.IntRange(0, 3).Draw(t, "sliding") == 0
		e.Caps = append(e.Caps, c)
	}
	return e
}

// drawFacts makes one customer of a random catalogue, all modes enforce.
func drawFacts(t *rapid.T) engine.Facts {
	c := &usher.Catalog{Features: map[string]*usher.Feature{
		"api":  {Key: "api", Kind: usher.Metered},
		"pool": {Key: "pool", Kind: usher.Credits},
		"tok":  {Key: "tok", Kind: usher.Metered, Draws: &usher.Draws{Credits: "pool", Rate: rapid.Int64Range(1, 5).Draw(t, "rate")}},
	}, Plans: map[string]*usher.Plan{}, Addons: map[string]*usher.Addon{}}
	entitlements := func() map[string]*usher.Entitlement {
		all := map[string]*usher.Entitlement{}
		for _, key := range []string{"api", "pool", "tok"} {
			if rapid.IntRange(0, 4).Draw(t, "gives") > 0 {
				all[key] = drawEntitlement(t, key == "tok")
			}
		}
		return all
	}
	var plans []usher.PlanVersion
	for i, key := range []string{"free", "pro", "max"} {
		p := usher.Plan{Key: key, Family: "main", Default: i == 0 && rapid.Bool().Draw(t, "default"), Entitlements: entitlements()}
		if rapid.IntRange(0, 3).Draw(t, "trial") == 0 {
			p.Trial = usher.Span{N: rapid.IntRange(1, 20).Draw(t, "days"), Unit: usher.Day}
		}
		c.Plans[key] = &p
		plans = append(plans, usher.PlanVersion{Version: 1, Plan: p})
	}
	add := usher.Addon{Key: "add", Entitlements: entitlements()}
	c.Addons["add"] = &add
	f := engine.Facts{Book: engine.NewBook(c, plans, []usher.AddonVersion{{Version: 1, Addon: add}})}

	at := func(name string) time.Time {
		return epoch.Add(time.Duration(rapid.IntRange(0, 100*24*60).Draw(t, name)) * time.Minute)
	}
	maybe := func(name string) *time.Time {
		if rapid.Bool().Draw(t, name+"?") {
			return nil
		}
		v := at(name)
		return &v
	}
	f.Customer = &usher.Customer{ID: "acme", CreatedAt: epoch, Clocks: []usher.Clock{{From: epoch, Anchor: epoch}}}
	for range rapid.IntRange(0, 2).Draw(t, "clocks") {
		k := usher.Clock{From: at("from"), Anchor: at("anchor"),
			Timezone: rapid.SampledFrom([]string{"", "America/New_York", "Asia/Kolkata"}).Draw(t, "zone")}
		if k.From.After(f.Customer.Clocks[len(f.Customer.Clocks)-1].From) {
			f.Customer.Clocks = append(f.Customer.Clocks, k)
		}
	}
	if rapid.IntRange(0, 4).Draw(t, "subscribed") > 0 {
		s := usher.Subscription{ID: "sub", Customer: "acme", Family: "main", StartsAt: epoch, EndsAt: maybe("ends"), CreatedAt: epoch}
		for i := range rapid.IntRange(1, 4).Draw(t, "phases") {
			ph := usher.Phase{At: at("phase"), Status: rapid.SampledFrom([]usher.Status{"", "", usher.Active, usher.PastDueSt,
				usher.Canceled}).Draw(t, "status")}
			held := usher.HeldPlan{Ref: usher.Ref{Key: rapid.SampledFrom([]string{"free", "pro", "max"}).Draw(t, "plan"), Version: 1}}
			ph.Plan = &held
			if i == 0 {
				ph.At, ph.Status = epoch, ""
			}
			addons := []usher.HeldAddon{}
			if rapid.Bool().Draw(t, "addon") {
				addons = append(addons, usher.HeldAddon{Addon: usher.Ref{Key: "add", Version: 1}, Quantity: rapid.IntRange(1, 3).Draw(t, "quantity")})
			}
			ph.Addons = &addons
			s.Phases = append(s.Phases, ph)
		}
		slices.SortStableFunc(s.Phases, func(x, y usher.Phase) int { return x.At.Compare(y.At) })
		f.Subscriptions = []usher.Subscription{s}
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "grants") {
		f.Grants = append(f.Grants, usher.Grant{ID: fmt.Sprint("gr_", i), Customer: "acme",
			Feature: rapid.SampledFrom([]string{"api", "pool", "tok"}).Draw(t, "granted"),
			Amount:  rapid.Int64Range(1, 30).Draw(t, "amount"), Priority: rapid.SampledFrom([]int{100, 50}).Draw(t, "priority"),
			Kind: rapid.SampledFrom([]usher.GrantKind{usher.Promotion, usher.Purchase}).Draw(t,
				"kind"), EffectiveAt: at("effective"), ExpiresAt: maybe("expires")})
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "overrides") {
		o := usher.Override{ID: fmt.Sprint("ovr_", i), Customer: "acme",
			Feature:   rapid.SampledFrom([]string{"api", "pool", "tok"}).Draw(t, "overridden"),
			CreatedAt: at("created"), ExpiresAt: maybe("expires")}
		switch n := rapid.Int64Range(-30, 30).Draw(t, "n"); rapid.IntRange(0, 4).Draw(t, "form") {
		case 0:
			o.Deny = true
		case 1, 2:
			o.Add = &n
		default:
			n, per := max(n, -n), drawPeriod(t)
			o.Set = &usher.OverrideSet{Limit: &n, Per: &per}
		}
		f.Overrides = append(f.Overrides, o)
	}
	return f
}

// step is one operation of a random history.
type step struct {
	at time.Time
	op engine.Op
}

// drawSteps makes a history: consumes in the order of time, and now and then a
// late event (S17).
func drawSteps(t *rapid.T) []step {
	var steps []step
	now := epoch
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 59, 60 * 7, 60 * 24, 60 * 24 * 9}).Draw(t,
			"minutes"))*time.Minute + time.Duration(rapid.IntRange(0, 59).Draw(t, "seconds"))*time.Second)
		s := step{now, engine.Op{Kind: engine.Consume, Customer: "acme",
			Feature: rapid.SampledFrom([]string{"api", "tok", "pool"}).Draw(t, "feature"), Amount: rapid.Int64Range(0, 25).Draw(t, "amount")}}
		if rapid.IntRange(0, 3).Draw(t, "event") == 0 {
			s.op.Kind = engine.Record
			s.at = now.Add(-time.Duration(rapid.SampledFrom([]int{0, 0, 60, 60 * 24 * 3}).Draw(t, "late")) * time.Minute)
			if s.at.Before(epoch) {
				s.at = epoch
			}
		}
		steps = append(steps, s)
	}
	return steps
}

func newLedger() *ledger {
	return &ledger{buckets: map[engine.BucketKey]engine.Bucket{}, minutes: map[engine.BucketKey]int64{}, seen: map[string]bool{},
		seats: map[string][]engine.Seat{}}
}

func (l *ledger) snapshot(w *engine.World, feature string, at time.Time) *engine.Snapshot {
	keys, openings := w.Needs(feature, at)
	return engine.NewSnapshot(w, 1, l.load(keys), l.sums(openings))
}

func (l *ledger) take(w *engine.World, s step) engine.Effect {
	c := l.snapshot(w, s.op.Feature, s.at).Clone()
	e := engine.Take(c, s.op, s.at)
	l.keep(c, e, s.at)
	return e
}

// sound checks what holds of every decision (S34).
func sound(t *rapid.T, f engine.Facts, d usher.Decision) {
	if d.Limit < 0 || d.Used < 0 || d.Remaining < 0 || d.Overage < 0 || d.Excess < 0 || d.Overage+d.Excess > d.Used {
		t.Fatalf("figures out of bounds: %+v", d)
	}
	if len(d.Allowances) > 0 {
		var used, limit, left, over, excess int64
		for _, a := range d.Allowances {
			used, limit, left, over, excess = used+a.Used, limit+a.Limit, left+a.Remaining, over+a.Overage, excess+a.Excess
			if a.Remaining < 0 || !a.Unlimited && a.Used-a.Overage-a.Excess > a.Limit {
				t.Fatalf("row out of bounds: %+v", a)
			}
			if d.Window != nil && !a.Window.End.IsZero() && a.Window.End.Before(d.Window.End) {
				t.Fatalf("window %v is not the one that ends soonest: %+v", d.Window, a)
			}
		}
		if used != d.Used || limit != d.Limit || over != d.Overage || excess != d.Excess || left != d.Remaining &&
			f.Book.Features[d.Feature].Draws == nil {
			t.Fatalf("rows do not add up: %+v", d)
		}
	}
}

// TestS12_TakesAddUp plays random histories and checks each take against the
// check before it, its entries, and the invariant of every bucket.
func TestS12_TakesAddUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		w, l := engine.NewWorld(f), newLedger()
		for _, s := range drawSteps(t) {
			snap := l.snapshot(w, s.op.Feature, s.at)
			q := engine.Query{Customer: "acme", Feature: s.op.Feature, Amount: s.op.Amount}
			before := engine.Decide(snap, q, s.at)
			sound(t, f, before)
			c := snap.Clone()
			e := engine.Take(c, s.op, s.at)
			if again := engine.Decide(snap, q, s.at); !reflect.DeepEqual(again, before) {
				t.Fatalf("the take was seen through the snapshot it was cloned from:\n%+v\n%+v", before, again)
			}
			if e.Overflow {
				t.Fatalf("overflow: %+v", s)
			}
			l.keep(c, e, s.at)
			sound(t, f, e.Decision)
			if s.op.Kind == engine.Consume && e.Decision.Allowed != before.Allowed {
				t.Fatalf("%+v: check says %v %s, consume %v %s", s, before.Allowed, before.Reason, e.Decision.Allowed, e.Decision.Reason)
			}
			if s.op.Kind == engine.Consume && !e.Decision.Allowed {
				if len(c.Dirty()) > 0 || len(e.Entries) > 0 || e.Decision.Consumed != 0 || e.Decision.Used != before.Used {
					t.Fatalf("a denied consume changed something: %+v", e)
				}
				continue
			}
			var own, pool, drawn int64
			for _, en := range e.Entries {
				switch {
				case en.Amount <= 0:
					t.Fatalf("empty entry %+v", en)
				case en.Allowance == engine.EntryCap: // counted by its allowance already
				case en.Bucket.Feature != s.op.Feature:
					pool += en.Amount
				default:
					own += en.Amount
				}
				if en.Allowance == engine.EntryDrawn {
					drawn += en.Amount
				}
			}
			if own != s.op.Amount {
				t.Fatalf("%+v: entries add up to %d: %+v", s, own, e.Entries)
			}
			if d := f.Book.Features[s.op.Feature].Draws; d != nil && pool != drawn*d.Rate {
				t.Fatalf("%+v: drew %d for %d: %+v", s, pool, drawn, e.Entries)
			}
			if got, want := e.Decision.Used, before.Used+s.op.Amount-drawn; got != want {
				t.Fatalf("%+v: used %d, want %d\nbefore %+v\nafter %+v\nentries %+v", s, got, want, before, e.Decision, e.Entries)
			}
			if s.op.Kind == engine.Consume {
				var deducted int64
				for _, x := range e.Decision.Deductions {
					if x.Feature == "" {
						deducted += x.Amount
					}
				}
				if e.Decision.Consumed != s.op.Amount || deducted+drawn != s.op.Amount || e.Decision.Excess > before.Excess {
					t.Fatalf("%+v: deductions %+v, excess %d → %d", s, e.Decision.Deductions, before.Excess, e.Decision.Excess)
				}
			}
			for _, b := range c.Dirty() {
				if !b.Unlimited && b.Used-b.Overage-b.Excess+b.Opening+b.Reserved > b.Limit || b.End <= b.Start ||
					min(b.Used, b.Reserved, b.Opening, b.Overage, b.Excess, b.Limit) < 0 {
					t.Fatalf("bucket out of bounds: %+v", b)
				}
			}
		}
	})
}

// TestS12_ExactlyTheLimit: N consumes of 1 against limit L allow min(N, L).
func TestS12_ExactlyTheLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		w, l := engine.NewWorld(f), newLedger()
		at := epoch.Add(time.Duration(rapid.IntRange(0, 100*24*60).Draw(t, "at")) * time.Minute)
		feature := rapid.SampledFrom([]string{"api", "tok", "pool"}).Draw(t, "feature")
		ask := func(n int64) bool {
			return engine.Decide(l.snapshot(w, feature, at), engine.Query{Customer: "acme", Feature: feature, Amount: n}, at).Allowed
		}
		var limit int64 // the largest single take that is allowed
		for limit < 400 && ask(limit+1) {
			limit++
		}
		tries, got := rapid.Int64Range(0, 420).Draw(t, "tries"), int64(0)
		for range tries {
			if l.take(w, step{at, engine.Op{Kind: engine.Consume, Customer: "acme", Feature: feature, Amount: 1}}).Decision.Allowed {
				got++
			}
		}
		if want := min(tries, limit); got != want && limit < 400 {
			t.Fatalf("%s: %d of %d consumes of 1 were allowed, want %d", feature, got, tries, want)
		}
	})
}

// TestI9_SplitRun: a world compiled anew for every step answers as one that
// lives through the whole history, and a second run as the first (S10).
func TestI9_SplitRun(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f, steps := drawFacts(t), drawSteps(t)
		lived, one, other := engine.NewWorld(f), newLedger(), newLedger()
		for _, s := range steps {
			x, y := one.take(lived, s), other.take(engine.NewWorld(f), s)
			if !reflect.DeepEqual(x, y) {
				t.Fatalf("%+v:\nlong-lived %+v\nfresh      %+v", s, x, y)
			}
		}
		if !reflect.DeepEqual(one.buckets, other.buckets) {
			t.Fatalf("buckets differ:\n%+v\n%+v", one.buckets, other.buckets)
		}
	})
}

// TestS10_Stable: one snapshot, loaded once and taken from, answers for as long
// as Stable says.
func TestS10_Stable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f, steps := drawFacts(t), drawSteps(t)
		w, l := engine.NewWorld(f), newLedger()
		var snap *engine.Snapshot
		var last, until time.Time
		for _, s := range steps {
			s.op.Kind = engine.Consume
			if s.at.Before(last) { // a snapshot is loaded for what comes
				s.at = last
			}
			last = s.at
			if snap == nil || !until.IsZero() && !s.at.Before(until) {
				snap = l.snapshot(w, "", s.at)
				_, until = w.Stable(s.at)
			}
			want := l.snapshot(w, s.op.Feature, s.at).Clone()
			x := engine.Take(want, s.op, s.at)
			c := snap.Clone()
			y := engine.Take(c, s.op, s.at)
			if !reflect.DeepEqual(x, y) {
				t.Fatalf("%+v:\nloaded now  %+v\nloaded once %+v", s, x, y)
			}
			l.keep(want, x, s.at)
			snap = c
			snap.Prune(s.at)
		}
	})
}

// TestS24_NothingWraps: figures near the bounds of int64 never go around.
func TestS24_NothingWraps(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		big := rapid.SampledFrom([]int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 2, 1}).Draw(t, "add")
		f.Overrides = append(f.Overrides, usher.Override{ID: "ovr_9", Customer: "acme", Feature: "api", Add: &big, CreatedAt: epoch})
		w, l := engine.NewWorld(f), newLedger()
		for range 6 {
			s := step{epoch, engine.Op{Kind: engine.OpKind(rapid.IntRange(0, 1).Draw(t, "kind")), Customer: "acme",
				Feature: rapid.SampledFrom([]string{"api", "tok"}).Draw(t, "feature"),
				Amount:  rapid.SampledFrom([]int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 2, math.MaxInt64/2 + 1, 3}).Draw(t, "amount")}}
			e := l.take(w, s)
			for _, b := range l.buckets {
				if min(b.Used, b.Opening, b.Overage, b.Excess, b.Limit) < 0 {
					t.Fatalf("%+v: %+v", s, b)
				}
			}
			d := e.Decision
			if min(d.Used, d.Limit, d.Remaining, d.Overage, d.Excess) < 0 {
				t.Fatalf("%+v: %+v", s, d)
			}
		}
	})
}

// TestS18_WindowsTile: whatever anchors and zones come, the windows of a clock
// follow each other without gap or overlap.
func TestS18_WindowsTile(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		per := drawPeriod(t)
		if per.Unit == usher.Lifetime {
			per = usher.Period{Every: 1, Unit: usher.Quarter}
		}
		anchor := rapid.SampledFrom([]usher.Anchor{usher.AnchorSubscription, usher.AnchorCalendar}).Draw(t, "anchor kind")
		f := drawFacts(t)
		p := usher.Plan{Key: "p", Family: "main", Default: true,
			Entitlements: map[string]*usher.Entitlement{"api": {Allowances: []usher.Allowance{{Limit: 9, Per: per, Anchor: anchor}}}}}
		c := &usher.Catalog{Features: map[string]*usher.Feature{"api": {Key: "api", Kind: usher.Metered}}, Plans: map[string]*usher.Plan{"p": &p}}
		w := engine.NewWorld(engine.Facts{Book: engine.NewBook(c, []usher.PlanVersion{{Version: 1, Plan: p}}, nil), Customer: f.Customer})
		l := newLedger()
		window := func(at time.Time) usher.Window {
			return *engine.Decide(l.snapshot(w, "api", at), engine.Query{Feature: "api"}, at).Window
		}
		at := epoch
		for range 40 {
			win := window(at)
			if !win.Start.Before(win.End) || at.Before(win.Start) || !at.Before(win.End) {
				t.Fatalf("%v is not in its window %v", at, win)
			}
			for _, inside := range []time.Time{win.Start, win.End.Add(-time.Microsecond)} {
				if inside.Before(epoch) { // before the customer was
					continue
				}
				if got := window(inside); got != win {
					t.Fatalf("window of %v is %v, of %v %v", at, win, inside, got)
				}
			}
			next := window(win.End)
			if !next.Start.Equal(win.End) {
				t.Fatalf("%v is followed by %v", win, next)
			}
			at = win.End
		}
	})
}
