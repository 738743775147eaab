package engine_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// TestI1_Model plays random histories in random worlds on the engine and on the
// reference beside it, which must agree after every operation (I1). With
// USHER_PROVE=full it is a million operations; USHER_SEED repeats a run.
func TestI1_Model(t *testing.T) {
	t.Parallel()
	operations := 20_000
	if os.Getenv("USHER_PROVE") == "full" {
		operations = 1_000_000
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("USHER_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("USHER_SEED: %v", err)
		}
		seed = n
	}
	const shards = 2
	counts := make([]map[string]int, shards)
	t.Run("worlds", func(t *testing.T) {
		for i := range shards {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				counts[i] = map[string]int{}
				for world := uint64(0); counts[i]["operations"] < operations/shards && !t.Failed(); world++ {
					newModel(t, seed, uint64(i)<<32|world, counts[i]).run(min(400, operations/shards-counts[i]["operations"]))
				}
			})
		}
	})
	total := map[string]int{}
	for _, c := range counts {
		for k, n := range c {
			total[k] += n
		}
	}
	t.Logf("USHER_SEED=%d: %v", seed, total)
	for _, k := range []string{"allowed", "denied", "warned", "shadowed", "overage", "excess", "consume", "record", "late event",
		"reserve", "settle", "late settlement",
		"release", "expired", "correct", "sit", "leave", "plan", "grant", "override", "void", "check", "drawn", "rolled over", "opened"} {
		if total[k] == 0 && !t.Failed() {
			t.Errorf("no operation was %q: the model test does not see it", k)
		}
	}
}

// model is one world: its facts, the engine's use and the reference.
type model struct {
	t      *testing.T
	rnd    *rand.Rand
	name   string
	counts map[string]int
	trail  []string // the operations so far, for the report

	book   *engine.Book
	facts  engine.Facts
	world  *engine.World
	ledger *ledger
	ref    *ref
	now    int64 // minutes since 1970

	holds   []*modelHold
	takes   []*modelTake
	changed bool
}

type modelHold struct {
	engine.Hold
	ref *refHold
}

type modelTake struct {
	feature string
	at      int64
	entries []engine.Entry
	posts   []*refPost
}

func minuteTime(m int64) time.Time { return time.Unix(m*60, 0).UTC() }

var modelFeatures = []string{"api", "pool", "img", "members"}

func newModel(t *testing.T, seed, world uint64, counts map[string]int) *model {
	m := &model{t: t, rnd: rand.New(rand.NewPCG(seed, world)), name: fmt.Sprintf("USHER_SEED=%d, world %d", seed, world), counts: counts,
		ledger: newLedger()}
	start := time.Date(2026, 1, 28+m.rnd.IntN(4), m.rnd.IntN(24), 0, 0, 0, time.UTC)
	m.now = start.Unix() / 60
	m.ref = &ref{mode: pick(m.rnd, usher.Enforce, usher.Enforce, usher.Enforce, usher.Warn, usher.Shadow), rate: 1 + m.rnd.Int64N(3),
		anchor: start,
		plans:  map[string]map[string]*usher.Entitlement{}}
	c := &usher.Catalog{Features: map[string]*usher.Feature{
		"api":     {Key: "api", Kind: usher.Metered, Mode: m.ref.mode},
		"pool":    {Key: "pool", Kind: usher.Credits, Mode: m.ref.mode},
		"img":     {Key: "img", Kind: usher.Metered, Mode: m.ref.mode, Draws: &usher.Draws{Credits: "pool", Rate: m.ref.rate}},
		"members": {Key: "members", Kind: usher.Seats, Mode: m.ref.mode},
	}, Plans: map[string]*usher.Plan{}}
	var plans []usher.PlanVersion
	for _, key := range []string{"a", "b", "c"} {
		p := usher.Plan{Key: key, Family: "main", Entitlements: map[string]*usher.Entitlement{}}
		for _, f := range modelFeatures {
			if m.rnd.IntN(6) > 0 {
				p.Entitlements[f] = m.entitlement(f)
			}
		}
		m.ref.plans[key] = p.Entitlements
		c.Plans[key] = &p
		plans = append(plans, usher.PlanVersion{Version: 1, Plan: p})
	}
	m.book = engine.NewBook(c, plans, nil)
	m.facts = engine.Facts{Book: m.book, Customer: &usher.Customer{ID: "acme", CreatedAt: start,
		Clocks: []usher.Clock{{From: start, Anchor: start}}},
		Subscriptions: []usher.Subscription{{ID: "sub", Customer: "acme", Family: "main", StartsAt: start, CreatedAt: start}}}
	m.plan("a")
	m.world = engine.NewWorld(m.facts)
	return m
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func (m *model) entitlement(feature string) *usher.Entitlement {
	r, e := m.rnd, &usher.Entitlement{}
	most := int64(40)
	if feature == "members" {
		e.Allowances = []usher.Allowance{{Limit: r.Int64N(5), Per: usher.Period{Every: 1, Unit: usher.Lifetime}, Priority: 100,
			Unlimited: r.IntN(12) == 0, Overage: usher.Overage{Max: r.Int64N(2)}}}
		if e.Allowances[0].Unlimited {
			e.Allowances[0].Limit, e.Allowances[0].Overage = 0, usher.Overage{}
		}
		return e
	}
	n := 1 + r.IntN(2)
	if feature == "img" {
		n = r.IntN(2)
	}
	rolls := false
	for range n {
		a := usher.Allowance{Limit: r.Int64N(most), Priority: pick(r, 100, 100, 50, 200),
			Per: pick(r, usher.Period{Every: 1, Unit: usher.Month}, usher.Period{Every: 1, Unit: usher.Day},
				usher.Period{Every: 6, Unit: usher.Hour}, usher.Period{Every: 1, Unit: usher.Week}, usher.Period{Every: 1, Unit: usher.Lifetime})}
		switch r.IntN(10) {
		case 0:
			a.Overage.Unlimited = true
		case 1, 2, 3:
			a.Overage.Max = 1 + r.Int64N(9)
		case 4:
			if r.IntN(3) == 0 {
				a.Unlimited, a.Limit = true, 0
			}
		}
		if !a.Unlimited && !rolls && a.Per.Unit != usher.Lifetime && r.IntN(3) == 0 {
			rolls = true
			a.Rollover = &usher.Rollover{Max: 1 + r.Int64N(30), Windows: 1 + r.IntN(3)}
		}
		e.Allowances = append(e.Allowances, a)
	}
	for range r.IntN(3) {
		e.Caps = append(e.Caps, usher.Cap{Limit: 5 + r.Int64N(60),
			Per: pick(r, usher.Period{Every: 1, Unit: usher.Day}, usher.Period{Every: 1, Unit: usher.Hour})})
	}
	return e
}

// plan changes the plan from now on.
func (m *model) plan(key string) {
	held := usher.HeldPlan{Ref: usher.Ref{Key: key, Version: 1}}
	m.facts.Subscriptions = slices.Clone(m.facts.Subscriptions)
	s := &m.facts.Subscriptions[0]
	s.Phases = append(slices.Clone(s.Phases), usher.Phase{At: minuteTime(m.now), Plan: &held})
	m.ref.phases = append(m.ref.phases, refPhase{m.now, key})
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	from := max(0, len(m.trail)-25)
	text := ""
	for _, line := range m.trail[from:] {
		text += "\n\t" + line
	}
	for key, p := range m.ref.plans {
		b, _ := json.Marshal(p)
		text += "\n\tplan " + key + ": " + string(b)
	}
	m.t.Fatalf("%s: operation %d at %s: %s\n\tthe last were:%s", m.name, len(m.trail), minuteTime(m.now).Format(time.RFC3339),
		fmt.Sprintf(format, args...), text)
}

func (m *model) note(what, format string, args ...any) {
	m.counts["operations"]++
	m.counts[what]++
	m.trail = append(m.trail, minuteTime(m.now).Format("01-02T15:04 ")+what+" "+fmt.Sprintf(format, args...))
}

// snapshot is what is in memory: what Needs names, and the buckets of entries.
func (m *model) snapshot(feature string, instants []int64, more ...engine.Entry) *engine.Snapshot {
	var buckets []engine.Bucket
	put := func(k engine.BucketKey) {
		if b, ok := m.ledger.buckets[k]; ok {
			buckets = append(buckets, b)
		}
	}
	sums := map[engine.BucketKey]int64{}
	for _, at := range instants {
		keys, openings := m.world.Needs(feature, minuteTime(at))
		for _, k := range keys {
			put(k)
		}
		for k, n := range m.ledger.sums(openings) {
			sums[k] = n
		}
	}
	for _, e := range more {
		put(e.Bucket)
	}
	for _, l := range m.ledger.lapses {
		put(l.Bucket)
	}
	s := engine.NewSnapshot(m.world, 1, buckets, sums)
	s.SetLapses(m.ledger.lapses)
	return s
}

func (m *model) writer(feature string, instants []int64, more ...engine.Entry) *engine.Snapshot {
	c := m.snapshot(feature, instants, more...).Clone()
	if c.Expire(minuteTime(m.now)) {
		m.counts["expired"]++
	}
	return c
}

// run plays operations.
func (m *model) run(n int) {
	for done := m.counts["operations"] + n; m.counts["operations"] < done; {
		m.pass()
		m.changed = false
		m.step()
		if len(m.trail)%8 == 0 && !m.changed {
			m.books()
		}
		m.ref.sweep(m.now)
	}
	m.books()
}

// pass lets time go by, now and then to the very instant at which something
// begins or ends.
func (m *model) pass() {
	m.now += pick[int64](m.rnd, 0, 0, 0, 0, 1, 1, 7, 60, 60*6, 60*24, 60*24*9)
	if m.rnd.IntN(8) > 0 {
		return
	}
	next := int64(endOfTime)
	for _, f := range modelFeatures {
		for _, c := range m.ref.changes(f) {
			if c > m.now {
				next = min(next, c)
			}
		}
	}
	for _, h := range m.holds {
		if h.ref.expires > m.now {
			next = min(next, h.ref.expires)
		}
	}
	if next-m.now < 60*24*9 {
		m.now = next
	}
}

func (m *model) step() {
	r := m.rnd
	feature := pick(r, "api", "api", "img", "pool")
	amount := pick(r, r.Int64N(4), r.Int64N(12), r.Int64N(30))
	switch n := r.IntN(100); {
	case n < 32:
		m.note("consume", "%s %d", feature, amount)
		m.take(engine.Op{Kind: engine.Consume, Feature: feature, Amount: amount}, m.now)
	case n < 42:
		at := max(m.now-pick[int64](r, 0, 0, 60, 60*7, 60*24*3), m.ref.phases[0].at)
		if at < m.now {
			m.counts["late event"]++
		}
		m.note("record", "%s %d at %s", feature, amount, minuteTime(at))
		m.take(engine.Op{Kind: engine.Record, Feature: feature, Amount: amount}, at)
	case n < 54:
		until := m.now + pick[int64](r, 1, 10, 60*6, 60*24*3)
		id := fmt.Sprint("rsv_", len(m.trail))
		m.note("reserve", "%s %s %d until %s", id, feature, amount, minuteTime(until))
		m.take(engine.Op{Kind: engine.Reserve, Feature: feature, Amount: amount, Hold: id, Until: minuteTime(until)}, m.now)
	case n < 64:
		m.end(true)
	case n < 69:
		m.end(false)
	case n < 76:
		m.correct()
	case n < 84:
		m.sit()
	case n < 87:
		m.leave()
	case n < 91:
		m.change()
	default:
		feature = pick(r, modelFeatures...)
		m.note("check", "%s %d", feature, amount)
		s := m.snapshot(feature, []int64{m.now}) // with what has ended still in it (S10)
		d := engine.Decide(s, engine.Query{Customer: "acme", Feature: feature, Amount: amount, Buf: new(engine.Buf)}, minuteTime(m.now))
		if feature == "members" {
			allowed, reason := m.ref.sit(amount, m.now)
			m.agree(d, feature, allowed, reason)
			return
		}
		a := m.ref.judge(feature, amount, m.now, m.now)
		m.agree(d, feature, a.allowed, a.reason)
	}
}

func (m *model) take(op engine.Op, at int64) {
	op.Customer = "acme"
	c := m.writer(op.Feature, []int64{m.now, at})
	e := engine.Take(c, op, minuteTime(at))
	var hold *refHold
	if op.Kind == engine.Reserve {
		hold = &refHold{id: op.Hold, feature: op.Feature, amount: op.Amount, at: at, expires: op.Until.Unix() / 60}
	}
	before := len(m.ref.posts)
	a := m.ref.take(op.Feature, op.Amount, at, m.now, op.Kind == engine.Record, hold)
	if op.Kind != engine.Record && !a.allowed && (len(e.Entries) > 0 || len(m.ref.posts) != before) {
		m.fail("denied, and yet %+v", e.Entries)
	}
	m.same(e.Entries, a.posts)
	switch {
	case op.Kind == engine.Reserve && a.allowed:
		hold.posts = a.posts
		m.holds = append(m.holds, &modelHold{engine.Hold{ID: op.Hold, Customer: "acme", Feature: op.Feature, Amount: op.Amount,
			At: minuteTime(at), Expires: op.Until, Entries: e.Entries}, hold})
		e.Entries = nil
	case len(e.Entries) > 0:
		m.takes = append(m.takes, &modelTake{op.Feature, at, e.Entries, a.posts})
	}
	m.ledger.keep(c, e, minuteTime(at))
	m.bounds(c)
	if op.Kind == engine.Record && at != m.now { // the answer is that of another instant
		return
	}
	m.agree(e.Decision, op.Feature, a.allowed, a.reason)
	m.counts[map[bool]string{true: "allowed", false: "denied"}[a.allowed]]++
	m.counts[string(a.reason)]++
}

func (m *model) end(settle bool) {
	if len(m.holds) == 0 {
		return
	}
	i := m.rnd.IntN(len(m.holds))
	h := m.holds[i]
	m.holds = slices.Delete(m.holds, i, i+1)
	at := h.At.Unix() / 60
	c := m.writer(h.Feature, []int64{m.now, at}, h.Entries...)
	var e engine.Effect
	if settle {
		amount := pick(m.rnd, h.Amount, m.rnd.Int64N(h.Amount+1), h.Amount+m.rnd.Int64N(15))
		m.note("settle", "%s of %s %d with %d", h.ID, h.Feature, h.Amount, amount)
		if m.now >= h.ref.expires {
			m.counts["late settlement"]++
		}
		e = engine.Settle(c, &h.Hold, amount, minuteTime(m.now))
		posts := m.ref.settle(h.ref, amount, m.now)
		m.same(e.Entries, posts)
		if engine.Taken(h.Feature, e.Entries) != amount {
			m.fail("settled %d, entries %+v", amount, e.Entries)
		}
		m.takes = append(m.takes, &modelTake{h.Feature, at, e.Entries, posts})
	} else {
		m.note("release", "%s of %s %d", h.ID, h.Feature, h.Amount)
		e = engine.Release(c, &h.Hold, minuteTime(m.now))
		h.ref.over = true
	}
	m.ledger.keep(c, e, h.At)
	m.bounds(c)
	a := m.ref.judge(h.Feature, 0, m.now, m.now)
	m.agree(e.Decision, h.Feature, a.allowed, a.reason)
}

func (m *model) correct() {
	if len(m.takes) == 0 {
		return
	}
	k := m.takes[max(0, len(m.takes)-1-m.rnd.IntN(20))]
	left := engine.Taken(k.feature, k.entries)
	if left == 0 {
		return
	}
	n := 1 + m.rnd.Int64N(left)
	m.note("correct", "%d of %d %s of %s", n, left, k.feature, minuteTime(k.at))
	c := m.writer(k.feature, []int64{m.now}, k.entries...)
	e := engine.Correct(c, "acme", k.feature, k.entries, n, minuteTime(k.at), minuteTime(m.now))
	k.entries = append(slices.Clip(k.entries), e.Entries...)
	m.ref.correct(k.feature, k.posts, n)
	m.ledger.keep(c, e, minuteTime(k.at))
	m.bounds(c)
	a := m.ref.judge(k.feature, 0, m.now, m.now)
	m.agree(e.Decision, k.feature, a.allowed, a.reason)
}

func (m *model) seated(holder string) (int, *engine.Seat) {
	list := slices.DeleteFunc(m.ledger.seats["members"],
		func(s engine.Seat) bool { return !s.Expires.IsZero() && !s.Expires.After(minuteTime(m.now)) })
	m.ledger.seats["members"] = list
	i := slices.IndexFunc(list, func(s engine.Seat) bool { return s.Holder == holder })
	if i < 0 {
		return i, nil
	}
	return i, &list[i]
}

func (m *model) sit() {
	m.ref.sweep(m.now)
	holder := pick(m.rnd, "ann", "bob", "cat", "dan", "eve", "fay")
	want := engine.Seat{Holder: holder, Pending: m.rnd.IntN(3) == 0, At: minuteTime(m.now)}
	expires := int64(endOfTime)
	if m.rnd.IntN(2) == 0 {
		expires = m.now + pick[int64](m.rnd, 1, 60, 60*24*2)
		want.Expires = minuteTime(expires)
	}
	m.note("sit", "%+v", want)
	_, was := m.seated(holder)
	i := slices.IndexFunc(m.ref.seats, func(s *refSeat) bool { return s.holder == holder })
	if (was != nil) != (i >= 0) {
		m.fail("%s sits: engine %v, reference %v", holder, was != nil, i >= 0)
	}
	n := int64(1)
	if was != nil {
		n, want.At = 0, was.At
	}
	allowed, reason := m.ref.sit(n, m.now)
	c := m.writer("members", []int64{m.now})
	e := engine.TakeSeat(c, "acme", "members", was, want, minuteTime(m.now))
	if e.Seated != allowed {
		m.fail("seated %v, want %v", e.Seated, allowed)
	}
	if allowed {
		if was != nil {
			*was, *m.ref.seats[i] = want, refSeat{holder, want.Pending, expires}
		} else {
			m.ledger.seats["members"] = append(m.ledger.seats["members"], want)
			m.ref.seats = append(m.ref.seats, &refSeat{holder, want.Pending, expires})
		}
	}
	m.ledger.keep(c, e, minuteTime(m.now))
	m.bounds(c)
	if n == 0 && reason == usher.WithinLimit && e.Decision.Excess > 0 { // bounds has compared the excess
		reason = usher.AlreadyHeld
	}
	m.agree(e.Decision, "members", allowed, reason)
}

func (m *model) leave() {
	m.ref.sweep(m.now)
	holder := pick(m.rnd, "ann", "bob", "cat", "dan", "eve", "fay")
	i, was := m.seated(holder)
	if was == nil {
		return
	}
	m.note("leave", "%s", holder)
	c := m.writer("members", []int64{m.now})
	e := engine.FreeSeat(c, "acme", "members", *was, minuteTime(m.now))
	m.ledger.seats["members"] = slices.Delete(m.ledger.seats["members"], i, i+1)
	m.ref.seats = slices.DeleteFunc(m.ref.seats, func(s *refSeat) bool { return s.holder == holder })
	m.ledger.keep(c, e, minuteTime(m.now))
	m.bounds(c)
	allowed, reason := m.ref.sit(0, m.now)
	m.agree(e.Decision, "members", allowed, reason)
}

// change changes a source, in a minute of its own.
func (m *model) change() {
	r := m.rnd
	m.now++
	m.changed = true
	switch r.IntN(5) {
	case 0, 1:
		key := pick(r, "a", "b", "c")
		if held, _ := m.ref.plan(m.now); held == key {
			return
		}
		m.note("plan", "%s", key)
		m.plan(key)
	case 2:
		g := &refGrant{id: fmt.Sprintf("gr_%03d", len(m.ref.grants)), feature: pick(r, "api", "pool", "img"), amount: 1 + r.Int64N(30),
			priority: pick(r, 100, 50), paid: r.IntN(2) == 0, start: m.now, end: endOfTime}
		if r.IntN(2) == 0 {
			g.start += r.Int64N(60 * 24 * 3)
		}
		if r.IntN(3) > 0 {
			g.end = g.start + 1 + r.Int64N(60*24*12)
		}
		m.note("grant", "%+v", *g)
		m.ref.grants = append(m.ref.grants, g)
	case 3:
		var open []*refGrant
		for _, g := range m.ref.grants {
			if g.end > m.now {
				open = append(open, g)
			}
		}
		if len(open) == 0 {
			return
		}
		g := pick(r, open...)
		m.note("void", "%s", g.id)
		g.end = m.now
	default:
		o := &refAdd{feature: pick(r, modelFeatures...), n: r.Int64N(40) - 20, deny: r.IntN(6) == 0, start: m.now,
			end: m.now + 1 + r.Int64N(60*24*10)}
		m.note("override", "%+v", *o)
		m.ref.adds = append(m.ref.adds, o)
	}
	m.facts.Grants = nil
	for _, g := range m.ref.grants {
		x := usher.Grant{ID: g.id, Customer: "acme", Feature: g.feature, Amount: g.amount, Priority: g.priority, Kind: usher.Promotion,
			EffectiveAt: minuteTime(g.start), CreatedAt: minuteTime(g.start)}
		if g.paid {
			x.Kind = usher.Purchase
		}
		if g.end != endOfTime {
			end := minuteTime(g.end)
			x.ExpiresAt = &end
		}
		m.facts.Grants = append(m.facts.Grants, x)
	}
	m.facts.Overrides = nil
	for i, o := range m.ref.adds {
		end := minuteTime(o.end)
		x := usher.Override{ID: fmt.Sprintf("ovr_%03d", i), Customer: "acme", Feature: o.feature, CreatedAt: minuteTime(o.start),
			ExpiresAt: &end, Deny: o.deny}
		if !o.deny {
			x.Add = &o.n
		}
		m.facts.Overrides = append(m.facts.Overrides, x)
	}
	m.world = engine.NewWorld(m.facts)
}

// agree compares a decision of now with the reference.
func (m *model) agree(d usher.Decision, feature string, allowed bool, reason usher.Reason) {
	m.t.Helper()
	if d.Allowed != allowed || d.Reason != reason {
		m.fail("%s: got %v %s, want %v %s\n\t%+v", feature, d.Allowed, d.Reason, allowed, reason, d)
	}
	if min(d.Used, d.Reserved, d.Limit, d.Remaining, d.Overage, d.Excess) < 0 {
		m.fail("%s: a figure below nothing: %+v", feature, d)
	}
	if !d.Unlimited && d.Used+d.Reserved > d.Limit+d.Overage+d.Excess {
		m.fail("%s: used + reserved > limit + overage + excess: %+v", feature, d)
	}
	if feature == "members" {
		used, reserved, limit, over, unlimited, _ := m.ref.seatFigures(m.now)
		beyond := max(used+reserved-limit, 0)
		want := [6]int64{used, reserved, limit, max(limit-used-reserved, 0), min(beyond, over), max(beyond-over, 0)}
		if unlimited {
			want = [6]int64{used, reserved, 0, 0, 0, 0}
			d.Limit, d.Remaining = 0, 0
		}
		if got := [6]int64{d.Used, d.Reserved, d.Limit, d.Remaining, d.Overage, d.Excess}; got != want {
			m.fail("members: used, reserved, limit, remaining, overage, excess: got %v, want %v", got, want)
		}
		return
	}
	rows, _, caps, dead := m.ref.rows(feature, m.now, m.now)
	for i, c := range d.Caps {
		if left := m.ref.capLeft(feature, caps[i], m.now, m.now); c.Remaining != left {
			m.fail("%s: cap %+v lets through %d more, want %d", feature, caps[i], c.Remaining, left)
		}
	}
	var sum refRow
	shown := 0
	for _, r := range rows {
		sum.used, sum.reserved, sum.limit = sum.used+r.used, sum.reserved+r.reserved, sum.limit+r.limit
		sum.remaining, sum.overage, sum.excess = sum.remaining+r.remaining, sum.overage+r.overage, sum.excess+r.excess
		sum.unlimited = sum.unlimited || r.unlimited
		if len(r.slots) > 0 || r.used > 0 {
			shown++
		}
		if r.rolled && r.limit > 0 {
			m.counts["rolled over"]++
		}
		if own, _ := m.ref.posted(feature, r.clock, r.start, m.now); r.used > own {
			m.counts["opened"]++
		}
	}
	if feature == "img" && dead == "" && !sum.unlimited {
		pool, _, caps, dead := m.ref.rows("pool", m.now, m.now)
		if dead == "" {
			var left int64
			for _, r := range pool {
				left += r.remaining
				sum.unlimited = sum.unlimited || r.unlimited
			}
			if sum.unlimited {
				left = math.MaxInt64
			}
			for _, c := range caps { // credits that no cap lets through are not there to be drawn
				left, sum.unlimited = min(left, m.ref.capLeft("pool", c, m.now, m.now)), false
			}
			sum.remaining += left / m.ref.rate
		}
	}
	if sum.excess > 0 {
		m.counts["excess"]++
	}
	if dead != "" && sum.used == 0 && sum.reserved == 0 {
		sum = refRow{}
	}
	got := [6]int64{d.Used, d.Reserved, d.Limit, d.Remaining, d.Overage, d.Excess}
	want := [6]int64{sum.used, sum.reserved, sum.limit, sum.remaining, sum.overage, sum.excess}
	if d.Unlimited {
		got[2], got[3], want[2], want[3] = 0, 0, 0, 0
	}
	if got != want || d.Unlimited != sum.unlimited {
		m.fail("%s: used, reserved, limit, remaining, overage, excess: got %v, want %v\n\tengine %+v\n\treference %s", feature, got, want, d,
			describe(rows))
	}
	if len(d.Allowances) == 0 {
		return
	}
	i := 0
	for _, r := range rows {
		if len(r.slots) == 0 && r.used == 0 {
			continue
		}
		if i >= len(d.Allowances) {
			m.fail("%s: %d rows, want %d: %+v\n\treference %s", feature, len(d.Allowances), shown, d.Allowances, describe(rows))
		}
		a := d.Allowances[i]
		i++
		id := "excess"
		if len(r.slots) > 0 {
			id = r.slots[0].id
		}
		got := [6]int64{a.Used, a.Reserved, a.Limit, a.Remaining, a.Overage, a.Excess}
		want := [6]int64{r.used, r.reserved, r.limit, r.remaining, r.overage, r.excess}
		if a.ID != id || a.Unlimited != r.unlimited || got != want {
			m.fail("%s: row %s: got %v, want %s %v\n\t%+v\n\treference %s", feature, a.ID, got, id, want, d.Allowances, describe(rows))
		}
	}
	if i != len(d.Allowances) {
		m.fail("%s: %d rows, want %d: %+v", feature, len(d.Allowances), i, d.Allowances)
	}
}

func describe(rows []*refRow) (text string) {
	for _, r := range rows {
		text += fmt.Sprintf("{%s %d: used %d reserved %d limit %d remaining %d overage %d excess %d", r.clock, r.start, r.used, r.reserved,
			r.limit, r.remaining, r.overage, r.excess)
		for _, s := range r.slots {
			text += fmt.Sprintf(" %s %d+%+v", s.id, s.limit, s.over)
		}
		text += "}"
	}
	return text
}

// same compares where a take went, in the order of burning: of the feature, and
// of the pool.
func (m *model) same(entries []engine.Entry, posts []*refPost) {
	m.t.Helper()
	var got []*refPost
	for _, e := range entries {
		if e.Amount <= 0 {
			m.fail("an empty entry: %+v", entries)
		}
		if e.Allowance == engine.EntryDrawn {
			m.counts["drawn"]++
		}
		if e.Allowance != engine.EntryCap {
			got = append(got, &refPost{feature: e.Bucket.Feature, clock: e.Bucket.Clock, start: e.Bucket.Start / 60_000_000, name: e.Allowance,
				n: e.Amount})
		}
	}
	words := func(list []*refPost) (out []string) {
		for _, pool := range []bool{false, true} {
			for _, p := range list {
				if p.n > 0 && (p.feature == "pool") == pool {
					out = append(out, fmt.Sprint(p.feature, " ", p.clock, " ", p.start, " ", p.name, " ", p.n))
				}
			}
		}
		return out
	}
	if g, w := words(merge(got)), words(posts); !slices.Equal(g, w) {
		m.fail("it burned\n\t%q, want\n\t%q", g, w)
	}
}

// bounds checks the invariant of every bucket that an operation wrote.
func (m *model) bounds(c *engine.Snapshot) {
	m.t.Helper()
	for _, b := range c.Dirty() {
		if min(b.Used, b.Reserved, b.Limit, b.Opening, b.Overage, b.Excess) < 0 || b.End <= b.Start ||
			!b.Unlimited && b.Used+b.Reserved+b.Opening > b.Limit+b.Overage+b.Excess {
			m.fail("a bucket out of bounds: %+v", b)
		}
	}
}

// books compares every bucket with the sum of what was posted to it, after what
// has ended was given back.
func (m *model) books() {
	c := m.writer("", []int64{m.now})
	m.ledger.keep(c, engine.Effect{}, minuteTime(m.now))
	m.bounds(c)
	type sum struct{ used, reserved int64 }
	sums := map[engine.BucketKey]sum{}
	for _, p := range m.ref.posts {
		if p.alive(m.now) && p.n > 0 {
			k := engine.BucketKey{Feature: p.feature, Clock: p.clock, Start: p.start * 60_000_000}
			s := sums[k]
			if p.hold != nil {
				s.reserved += p.n
			} else {
				s.used += p.n
			}
			sums[k] = s
		}
	}
	for _, s := range m.ref.seats {
		if s.expires > m.now {
			k := engine.BucketKey{Feature: "members", Clock: engine.ClockSeats}
			x := sums[k]
			if s.pending {
				x.reserved++
			} else {
				x.used++
			}
			sums[k] = x
		}
	}
	for k, b := range m.ledger.buckets {
		if len(k.Clock) > 4 && k.Clock[:4] == "cap:" {
			continue
		}
		if got := (sum{b.Used, b.Reserved}); got != sums[k] {
			m.fail("bucket %+v holds %+v, its postings %+v", k, got, sums[k])
		}
		delete(sums, k)
	}
	for k, s := range sums {
		m.fail("no bucket %+v, its postings are %+v", k, s)
	}
}
