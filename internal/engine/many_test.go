package engine

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

// A customer may have thousands of grants, overrides and subscriptions. The
// engine therefore computes once which of them count when. The tests below hold
// that to a reference that asks every source at every instant.

var manyStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// manyBook is a catalogue with two families, a default plan, add-ons, rollover,
// caps and a plan that resets.
func manyBook() *Book {
	month, day := usher.Period{Every: 1, Unit: usher.Month}, usher.Period{Every: 1, Unit: usher.Day}
	ever := usher.Period{Every: 1, Unit: usher.Lifetime}
	roll := &usher.Rollover{Max: 40, Windows: 2}
	c := &usher.Catalog{
		Features: map[string]*usher.Feature{
			"api": {Key: "api", Kind: usher.Metered},
			"tok": {Key: "tok", Kind: usher.Metered, OnChange: usher.Reset},
			"sso": {Key: "sso", Kind: usher.Switch},
			"ret": {Key: "ret", Kind: usher.Config, Type: usher.TypeInteger, Combine: usher.CombineSum},
		},
		Plans: map[string]*usher.Plan{}, Addons: map[string]*usher.Addon{},
	}
	var plans []usher.PlanVersion
	plan := func(key, family string, isDefault bool, trial int, ents map[string]*usher.Entitlement) {
		p := &usher.Plan{Key: key, Family: family, Default: isDefault, Entitlements: ents}
		if trial > 0 {
			p.Trial = usher.Span{N: trial, Unit: usher.Day}
		}
		c.Plans[key] = p
		plans = append(plans, usher.PlanVersion{Version: 1, Plan: *p})
	}
	plan("free", "main", true, 0, map[string]*usher.Entitlement{
		"api": {Allowances: []usher.Allowance{{Limit: 10, Per: month, Priority: 100}}},
		"ret": {Value: &usher.Value{Int: 7}}})
	plan("pro", "main", false, 9, map[string]*usher.Entitlement{
		"api": {Allowances: []usher.Allowance{{Limit: 100, Per: month, Priority: 100, Rollover: roll}, {Limit: 5, Per: day, Priority: 90}},
			Caps: []usher.Cap{{Limit: 60, Per: day}}},
		"tok": {Allowances: []usher.Allowance{{Limit: 50, Per: month, Priority: 100}}},
		"sso": {On: true}, "ret": {Value: &usher.Value{Int: 30}}})
	plan("max", "main", false, 0, map[string]*usher.Entitlement{
		"api": {Allowances: []usher.Allowance{{Limit: 900, Per: ever, Priority: 100}}, Caps: []usher.Cap{{Limit: 500, Per: month}}},
		"tok": {Allowances: []usher.Allowance{{Unlimited: true, Per: month, Priority: 100}}, Mode: usher.Warn},
		"sso": {On: true}})
	plan("side", "other", false, 0, map[string]*usher.Entitlement{
		"api": {Allowances: []usher.Allowance{{Limit: 20, Per: month, Anchor: usher.AnchorCalendar, Priority: 100}}},
		"ret": {Value: &usher.Value{Int: 1}}})
	pack := usher.Addon{Key: "pack", Entitlements: map[string]*usher.Entitlement{
		"api": {Allowances: []usher.Allowance{{Limit: 3, Per: month, Priority: 100, Rollover: roll}}},
		"tok": {Allowances: []usher.Allowance{{Limit: 4, Per: day, Priority: 100}}}}}
	c.Addons["pack"] = &pack
	return NewBook(c, plans, []usher.AddonVersion{{Version: 1, Addon: pack}})
}

func manyCustomer() *usher.Customer {
	return &usher.Customer{ID: "acme", CreatedAt: manyStart, Clocks: []usher.Clock{{From: manyStart, Anchor: manyStart}}}
}

// manyFacts is a customer with n of everything, spread over days days.
func manyFacts(r *rand.Rand, n, days int) Facts {
	at := func() time.Time { return manyStart.Add(time.Duration(r.IntN(days*24)) * time.Hour) }
	maybe := func(after time.Time) *time.Time {
		if r.IntN(3) == 0 {
			return nil
		}
		v := after.Add(time.Duration(r.IntN(40*24)-24) * time.Hour) // now and then before it begins
		return &v
	}
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	f := Facts{Book: manyBook(), Customer: manyCustomer()}
	for t := manyStart; r.IntN(2) == 0; {
		t = t.AddDate(0, 0, 1+r.IntN(days))
		f.Customer.Clocks = append(f.Customer.Clocks, usher.Clock{From: t, Anchor: at(), Timezone: pick("", "America/New_York")})
	}
	for i := range n {
		f.Grants = append(f.Grants, usher.Grant{ID: fmt.Sprint("gr_", i), Feature: pick("api", "tok"),
			Amount: 1 + r.Int64N(30), Priority: 100 - 50*r.IntN(2),
			Kind: usher.GrantKind(pick(string(usher.Promotion), string(usher.Purchase))), EffectiveAt: at()})
		g := &f.Grants[i]
		g.ExpiresAt = maybe(g.EffectiveAt)
		if r.IntN(5) == 0 {
			g.VoidedAt = maybe(g.EffectiveAt)
		}
		o := usher.Override{ID: fmt.Sprint("ovr_", i), Feature: pick("api", "tok", "sso", "ret"), CreatedAt: at()}
		o.ExpiresAt = maybe(o.CreatedAt)
		k := r.Int64N(60) - 20
		switch r.IntN(6) {
		case 0:
			o.Deny = true
		case 1, 2:
			o.Add = &k
		default:
			k, on := max(k, 0), r.IntN(2) == 0
			o.Set = &usher.OverrideSet{}
			switch {
			case o.Feature == "sso":
				o.Set.On = &on
			case o.Feature == "ret":
				o.Set.Value = &usher.Value{Int: k}
			default:
				if r.IntN(3) > 0 {
					o.Set.Limit = &k
				}
				if r.IntN(2) == 0 {
					o.Set.Per = &usher.Period{Every: 1 + r.IntN(2), Unit: usher.Day}
				}
				if r.IntN(4) == 0 {
					o.Set.Rollover = &usher.Rollover{Max: 5, Windows: 1}
				}
				if r.IntN(4) == 0 {
					o.Set.Caps = &[]usher.Cap{{Limit: 9, Per: usher.Period{Every: 1, Unit: usher.Week}}}
				}
			}
		}
		f.Overrides = append(f.Overrides, o)
		s := usher.Subscription{ID: fmt.Sprint("sub_", i), Family: "main", StartsAt: at()}
		s.CreatedAt = s.StartsAt.Add(time.Duration(r.IntN(48)) * time.Hour)
		s.EndsAt = maybe(s.StartsAt)
		if r.IntN(6) == 0 {
			s.TrialEndsAt, s.EndsSet = maybe(s.StartsAt), at()
		}
		t := s.StartsAt
		for range 1 + r.IntN(3) {
			key := pick("free", "pro", "max")
			if i%4 == 3 {
				s.Family, key = "other", "side"
			}
			ph := usher.Phase{At: t, Plan: &usher.HeldPlan{Ref: usher.Ref{Key: key, Version: 1}}}
			if r.IntN(2) == 0 {
				ph.Addons = &[]usher.HeldAddon{{Addon: usher.Ref{Key: "pack", Version: 1}, Quantity: 1 + r.IntN(3)}}
			}
			if len(s.Phases) > 0 {
				ph.Status = usher.Status(pick("", string(usher.Active), string(usher.PastDueSt), string(usher.Suspended), string(usher.Canceled)))
			}
			s.Phases = append(s.Phases, ph)
			t = t.Add(time.Duration(1+r.IntN(20*24)) * time.Hour)
		}
		f.Subscriptions = append(f.Subscriptions, s)
	}
	return f
}

// reference answers from the facts, one instant at a time.
type reference struct {
	w *World
	f Facts
}

// held is what every subscription is at an instant.
func (x reference) held(at int64) (all []holding) {
	order := slices.Clone(x.f.Subscriptions)
	slices.SortStableFunc(order, func(a, b usher.Subscription) int {
		if c := b.StartsAt.Compare(a.StartsAt); c != 0 {
			return c
		}
		return b.CreatedAt.Compare(a.CreatedAt)
	})
	b, taken := x.f.Book, map[string]bool{}
	for i := range order {
		s := &order[i]
		st := b.StateAt(s, time.UnixMicro(at).UTC(), FirstStart(x.f.Subscriptions, s.Family), x.w.zone)
		if st.Holds && taken[s.Family] {
			continue
		}
		taken[s.Family] = taken[s.Family] || st.Holds
		if p := b.plans[st.Plan]; p != nil {
			all = append(all, holding{fromPlan, "plan:" + st.Plan.String(), st.Plan, 1, st.Began.UnixMicro(), st.Dead, p.Entitlements})
		}
		for _, a := range st.Addons {
			all = append(all, holding{fromAddon, "addon:" + a.Addon.String(), a.Addon, int64(a.Quantity), s.StartsAt.UnixMicro(), st.Dead,
				b.addons[a.Addon].Entitlements})
		}
	}
	created := x.f.Customer.CreatedAt.UnixMicro()
	for _, ref := range b.defaults {
		if p := b.plans[ref]; at >= created && !taken[p.Family] {
			all = append(all, holding{fromPlan, "plan:" + ref.String(), ref, 1, created, "", p.Entitlements})
		}
	}
	return all
}

// rules evaluates every source of a feature at an instant.
func (x reference) rules(f *feature, at int64, tr *trace) (r rules) {
	var live []given
	var dead usher.Reason
	for _, h := range x.held(at) {
		switch ent := h.ents[f.def.Key]; {
		case ent == nil:
		case h.dead == "":
			live = append(live, given{&h, ent})
		default:
			if dead == "" || order(h.dead) < order(dead) {
				dead = h.dead
			}
			tr.holding(x.w, f, &h, ent, h.times, false, "gives nothing: "+string(h.dead))
		}
	}
	slices.SortStableFunc(live, func(a, b given) int {
		if a.kind != b.kind {
			return int(a.kind) - int(b.kind)
		}
		if a.began != b.began {
			return cmp.Compare(a.began, b.began)
		}
		return cmp.Compare(a.id, b.id)
	})
	var e exception
	for _, o := range f.overrides {
		if at < o.CreatedAt.UnixMicro() || at >= micro(o.ExpiresAt, maxMicro) {
			continue
		}
		switch {
		case o.Deny:
			e.deny = o
		case o.Add != nil:
			e.add = o
		default:
			e.set = o
		}
	}
	x.w.traceOverrides(f, e, at, tr)
	if e.deny != nil {
		x.w.ruleDenied(f, &r, live, e, tr)
		return r
	}
	x.w.ruleLive(f, &r, live, e, x.w.grantsAt(f, &rules{}, at, tr), tr)
	if r.dead != usher.NotEntitled {
		return r
	}
	if r.dead = cmp.Or(dead, usher.NotEntitled); dead != "" {
		return r
	}
	for _, g := range f.grants {
		if from, until := g.EffectiveAt.UnixMicro(), grantEnd(g); at < from && at < until {
			r.dead = usher.NotStarted
		}
	}
	return r
}

// clocks are those that allowances and grants of a feature burn at an instant.
func (x reference) clocks(f *feature, at int64) (out []string) {
	for _, s := range clocked(x.rules(f, at, nil).slots) {
		out = append(out, s.clock)
	}
	return out
}

// appeared looks at every change of any source since the row's window began.
func (x reference) appeared(f *feature, r *row, at int64) *Opening {
	w, clock := x.w, r.key.Clock
	cuts := w.changesIn(r.began, at+1)
	for i := len(cuts) - 1; i >= 0; i-- {
		t := cuts[i]
		if slices.Contains(x.clocks(f, t-1), clock) || !slices.Contains(x.clocks(f, t), clock) {
			continue
		}
		known := max(t, w.known[t])
		except := append(x.clocks(f, t), clock, ClockDrawn)
		if known > t {
			except = append(except, x.clocks(f, known)...)
		}
		alive := except
		for _, u := range append(w.changesIn(minMicro, t), t) {
			for _, s := range clocked(x.rules(f, u, nil).slots) {
				if s.rollover != nil && slices.Contains(alive, s.clock) {
					except = append(except, s.into)
				}
			}
		}
		slices.Sort(except)
		return &Opening{f.def.Key, clock, max(r.began, 0), known + 1, slices.Compact(except)}
	}
	return nil
}

// capAppeared looks at every change of any source in the cap's window.
func (x reference) capAppeared(f *feature, c *capRow, at int64) (out []*Opening) {
	has := func(t int64) bool {
		return slices.ContainsFunc(x.rules(f, t, nil).caps, func(o capRule) bool {
			return o.cap.Per == c.cap.Per && o.cap.Anchor == c.cap.Anchor
		})
	}
	from, there := max(c.window.start, 0), has(c.window.start)
	for _, t := range x.w.changesIn(c.window.start, at+1) {
		now := has(t)
		switch minute := t - t%minuteµs; {
		case there && !now:
			from = minute
		case !there && now:
			if m := x.w.known[t]; m > t {
				minute = m - m%minuteµs
			}
			out = append(out, &Opening{Feature: f.def.Key, Clock: c.key.Clock, From: from, Until: minute})
		}
		there = now
	}
	return out
}

// TestManySources holds what a world computes once to the reference: the rules
// at any instant with what Explain records, for how long they hold, and what
// windows and caps open with.
func TestManySources(t *testing.T) {
	t.Parallel()
	openings, capOpenings, denied := 0, 0, 0
	for seed := range uint64(24) {
		r := rand.New(rand.NewPCG(seed, 7))
		days := 60
		f := manyFacts(r, []int{1, 3, 12}[seed%3], days)
		w := NewWorld(f)
		x := reference{w, f}
		same := func(what string, at int64, got, want any) {
			t.Helper()
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: %s at %s:\ngot  %+v\nwant %+v", seed, what, stamp(at), got, want)
			}
		}
		var instants []int64
		for range 12 {
			at := manyStart.Add(time.Duration(r.IntN((days+30)*24*60)) * time.Minute).UnixMicro()
			instants = append(instants, at, w.changes[r.IntN(len(w.changes))])
		}
		for _, at := range instants {
			if at == minMicro || at == maxMicro {
				continue
			}
			for _, key := range w.Features() {
				f := w.feature(key)
				var gotTrace, wantTrace trace
				got, want := w.rulesAt(f, at, &gotTrace), x.rules(f, at, &wantTrace)
				from, until := max(got.from, at-int64(time.Hour/time.Microsecond)), min(got.until, at+int64(time.Hour/time.Microsecond))
				if at < got.from || at >= got.until {
					t.Fatalf("seed %d: the rules of %s hold from %s until %s", seed, stamp(at), stamp(got.from), stamp(got.until))
				}
				got.from, got.until = 0, 0
				same(key+"'s rules", at, got, want)
				same(key+"'s sources", at, gotTrace, wantTrace)
				same(key+"'s reason", at, w.deadAt(f, at), want.dead)
				same(key+"'s rules, earlier in their span", from, got, x.rules(f, from, nil))
				same(key+"'s rules, later in their span", until-1, got, x.rules(f, until-1, nil))
				if want.dead == usher.Revoked {
					denied++
				}
				if !f.def.Kind.Counts() {
					continue
				}
				fr := w.buildFrame(f, at, nil)
				for i := range fr.rows {
					row := &fr.rows[i]
					if row.grant || row.roll != nil || len(row.ids) == 0 {
						continue
					}
					if row.opening != nil {
						openings++
					}
					same(key+"'s opening of "+row.key.Clock, at, row.opening, x.appeared(f, row, at))
				}
				for i := range fr.caps {
					capOpenings += len(fr.caps[i].openings)
					same(key+"'s openings of "+fr.caps[i].key.Clock, at, fr.caps[i].openings, x.capAppeared(f, &fr.caps[i], at))
				}
			}
		}
	}
	if openings == 0 || capOpenings == 0 || denied == 0 {
		t.Fatalf("the worlds had %d openings, %d of caps, %d denials; want some of each", openings, capOpenings, denied)
	}
}

// TestOverlay holds the spans that win to asking each one at each instant.
func TestOverlay(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		spans := make([]span, r.IntN(12))
		for i := range spans {
			spans[i] = span{r.Int64N(30), r.Int64N(30)}
		}
		turns := overlay(spans)
		for at := range int64(31) {
			want := -1
			for i, s := range spans {
				if s.start <= at && at < s.end {
					want = i
				}
			}
			if got, in := turnAt(turns, at); got != want || at < in.start || at >= in.end {
				t.Fatalf("%v at %d: got %d in %v, want %d", spans, at, got, in, want)
			}
		}
	}
}

// crowded is a customer with n grants, n overrides or n subscriptions, each with
// an end of its own, most of them inside the window of now.
func crowded(n int, what string) (Facts, time.Time) {
	f := Facts{Book: manyBook(), Customer: manyCustomer()}
	held := usher.Phase{At: manyStart, Plan: &usher.HeldPlan{Ref: usher.Ref{Key: "pro", Version: 1}}}
	f.Subscriptions = []usher.Subscription{{ID: "sub", Family: "main", StartsAt: manyStart, CreatedAt: manyStart, NoTrial: true,
		Phases: []usher.Phase{held}}}
	step := 20 * 24 * time.Hour / time.Duration(n)
	for i := range n {
		from := manyStart.Add(time.Duration(i) * step)
		until := from.Add(30 * 24 * time.Hour)
		switch what {
		case "grants":
			f.Grants = append(f.Grants, usher.Grant{ID: fmt.Sprintf("gr_%06d", i), Feature: "api", Amount: 10, Priority: 100,
				EffectiveAt: from, ExpiresAt: &until})
		case "overrides":
			limit := int64(1000 + i)
			o := usher.Override{ID: fmt.Sprintf("ovr_%06d", i), Feature: "api", CreatedAt: from, ExpiresAt: &until,
				Set: &usher.OverrideSet{Limit: &limit}}
			if i%2 == 0 {
				o.Set.Per = &usher.Period{Every: 1 + i%4, Unit: usher.Day}
			}
			f.Overrides = append(f.Overrides, o)
		case "subscriptions":
			until = from.Add(step)
			s := usher.Subscription{ID: fmt.Sprintf("sub_%06d", i), Family: "main", StartsAt: from, EndsAt: &until, CreatedAt: from, NoTrial: true,
				Phases: []usher.Phase{{At: from, Plan: &usher.HeldPlan{Ref: usher.Ref{Key: []string{"pro", "max"}[i%2], Version: 1}}}}}
			f.Subscriptions = append(f.Subscriptions, s)
		}
	}
	return f, manyStart.Add(20*24*time.Hour + time.Hour)
}

// first loads a customer and decides for the first time.
func first(f Facts, at time.Time) *Snapshot {
	w := NewWorld(f)
	keys, _ := w.Needs("", at)
	s := NewSnapshot(w, 1, nil, nil)
	for _, k := range keys {
		s.Has(k)
	}
	Decide(s, Query{Customer: "acme", Feature: "api", Amount: 1}, at)
	return s
}

// takeAll takes one more than the first grants hold, then one unit, as the
// writer does: on clones.
func takeAll(s *Snapshot, amount int64, at time.Time) *Snapshot {
	c := s.Clone()
	Take(c, Op{Customer: "acme", Feature: "api", Amount: amount}, at)
	c.Prune(at)
	n := c.Clone()
	Take(n, Op{Customer: "acme", Feature: "api", Amount: 1}, at)
	return n
}

// TestManySourcesGrowLinearly: ten times the sources cost at most about ten times
// the memory, to decide first and to take. What looks at every pair of sources
// would cost a hundred times.
func TestManySourcesGrowLinearly(t *testing.T) {
	cost := func(do func()) (allocs, bytes float64) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do()
		runtime.ReadMemStats(&after)
		return float64(after.Mallocs - before.Mallocs), float64(after.TotalAlloc - before.TotalAlloc)
	}
	check := func(what string, do func(n int) func()) {
		t.Helper()
		do(100)() // what is made once, zones for one, is made here
		fewAllocs, fewBytes := cost(do(500))
		allocs, bytes := cost(do(5000))
		if allocs > 13*fewAllocs || bytes > 13*fewBytes {
			t.Errorf("%s: 500 cost %.0f allocations and %.0f bytes, 5000 %.0f and %.0f: want at most 13 times as many",
				what, fewAllocs, fewBytes, allocs, bytes)
		}
	}
	for _, what := range crowds {
		check("the first decision with "+what, func(n int) func() {
			f, at := crowded(n, what)
			return func() { first(f, at) }
		})
	}
	check("a take from grants", func(n int) func() {
		f, at := crowded(n, "grants")
		s := first(f, at)
		return func() { takeAll(s, int64(5*n), at) }
	})
}

// TestManyBuckets: a long shelf finds what a short one would, on clones of clones
// too, and a clone's changes are not seen through the original.
func TestManyBuckets(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	s := NewSnapshot(NewWorld(Facts{Book: manyBook()}), 1, nil, nil)
	want := map[BucketKey]int64{}
	for step := range 400 {
		k := BucketKey{"api", fmt.Sprint("grant:", r.IntN(60)), r.Int64N(3)}
		if step%20 == 0 {
			was := s
			s = s.Clone()
			k := BucketKey{"api", "only the clone", int64(step)}
			s.Put(Bucket{BucketKey: k, Used: 1})
			want[k] = 1
			if was.Has(k) {
				t.Fatalf("step %d: the original has the clone's bucket", step)
			}
		}
		s.Put(Bucket{BucketKey: k, Used: int64(step)})
		want[k] = int64(step)
		for k, used := range want {
			if b, ok := s.Bucket(k); !ok || b.Used != used {
				t.Fatalf("step %d: %v has %d, %v; want %d", step, k, b.Used, ok, used)
			}
		}
		if n := len(s.use["api"].list); n != len(want) {
			t.Fatalf("step %d: %d buckets, want %d", step, n, len(want))
		}
	}
}

var crowds = []string{"grants", "overrides", "subscriptions"}

func BenchmarkFirstDecision(b *testing.B) {
	for _, what := range crowds {
		for _, n := range []int{100, 1000, 10_000} {
			b.Run(fmt.Sprint(what, "/", n), func(b *testing.B) {
				f, at := crowded(n, what)
				b.ReportAllocs()
				for b.Loop() {
					first(f, at)
				}
			})
		}
	}
}

func BenchmarkTakeFromMany(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint("grants/", n), func(b *testing.B) {
			f, at := crowded(n, "grants")
			s := first(f, at)
			b.ReportAllocs()
			for b.Loop() {
				takeAll(s, int64(5*n), at)
			}
		})
	}
}
