package engine_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/story"
)

// TestStories runs every story against the pure engine. The world is compiled
// anew after every change, and every operation is given only the use that Needs
// names, so that a story also fails where Needs forgets something.
func TestStories(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := story.Parse(src)
			if err != nil {
				t.Fatal(err)
			}
			r := newStage(t)
			r.apply(s.Files, "catalog.yaml")
			for _, line := range s.Lines {
				r.where = fmt.Sprintf("%s:%d: %s", file, line.Number, line.Text)
				r.run(s, line)
			}
		})
	}
}

// stage plays a story: the least that a server keeps.
type stage struct {
	t         testing.TB
	where     string
	now       time.Time
	catalog   *usher.Catalog
	plans     []usher.PlanVersion
	addons    []usher.AddonVersion
	book      *engine.Book
	customers map[string]*usher.Customer
	subs      map[string][]usher.Subscription
	overrides []usher.Override
	grants    []usher.Grant
	rev       int64
	worlds    map[string]*engine.World // compiled since the last change
	used      map[string]*ledger
	takes     map[string]*taken // by the name that the story gives it
	holds     []*held           // rsv_1 first
}

// ledger is one customer's use: buckets, sums per minute of each clock, lapses, and
// seats.
type ledger struct {
	buckets map[engine.BucketKey]engine.Bucket
	minutes map[engine.BucketKey]int64 // Start is the minute
	seen    map[string]bool            // values of unique meters
	lapses  []engine.Lapse
	seats   map[string][]engine.Seat // by feature, oldest first
}

// taken is a take or an event that may be corrected.
type taken struct {
	customer, feature string
	at                time.Time
	entries           []engine.Entry // its own, then those of its corrections
}

// held is a reservation.
type held struct {
	engine.Hold
	end    string         // how it was ended: "settle 7", "release"; "" is open, or expired
	answer usher.Decision // the one that ended it
}

const minute = 60_000_000

func newStage(t testing.TB) *stage {
	return &stage{t: t, customers: map[string]*usher.Customer{}, subs: map[string][]usher.Subscription{}, used: map[string]*ledger{},
		takes:  map[string]*taken{},
		worlds: map[string]*engine.World{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

func (r *stage) fatal(format string, args ...any) {
	r.t.Helper()
	r.t.Fatalf("%s\n\t"+format, append([]any{r.where}, args...)...)
}

func (r *stage) changed() {
	r.rev++
	r.worlds = map[string]*engine.World{}
}

// apply publishes a catalogue: a new version of what changed (S29).
func (r *stage) apply(files map[string][]byte, name string) {
	r.t.Helper()
	c, err := catalogfile.Parse(name, files[name])
	if err != nil {
		r.fatal("%v", err)
	}
	for _, key := range sorted(c.Plans) {
		p, version := catalogfile.Resolve(c, key), 1
		for _, old := range r.plans {
			if old.Key == key {
				version = old.Version + 1
				if reflect.DeepEqual(old.Plan, *p) {
					version = 0
				}
			}
		}
		if version > 0 {
			r.plans = append(r.plans, usher.PlanVersion{Version: version, Plan: *p})
		}
	}
	for _, key := range sorted(c.Addons) {
		version := 1
		for _, old := range r.addons {
			if old.Key == key {
				version = old.Version + 1
				if reflect.DeepEqual(old.Addon, *c.Addons[key]) {
					version = 0
				}
			}
		}
		if version > 0 {
			r.addons = append(r.addons, usher.AddonVersion{Version: version, Addon: *c.Addons[key]})
		}
	}
	r.catalog, r.book = c, engine.NewBook(c, r.plans, r.addons)
	r.changed()
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (r *stage) time(s string) time.Time {
	r.t.Helper()
	at, err := usher.ParseTime(s)
	if err != nil {
		r.fatal("%v", err)
	}
	return at
}

// maybe is an option's time; nil where it is absent or null.
func (r *stage) maybe(l story.Line, name string) *time.Time {
	r.t.Helper()
	if s := l.Opts[name]; s != "" && s != "null" {
		at := r.time(s)
		return &at
	}
	return nil
}

func (r *stage) run(s *story.Story, l story.Line) {
	r.t.Helper()
	who := l.Args[0]
	switch l.Verb {
	case "at":
		if next := r.time(who); next.Before(r.now) && r.rev > 1 {
			r.fatal("the clock goes backwards")
		} else {
			r.now = next
		}
		return
	case "catalog":
		r.apply(s.Files, who)
		return
	case "customer":
		r.customer(who, l)
	case "subscribe":
		r.subscribe(who, l)
	case "patch":
		r.patch(who, l)
	case "override":
		f := r.feature(l.Args[1])
		set, add, deny, err := catalogfile.ParseOverride(f, r.book.Meter(f), []byte(l.Args[2]))
		if err != nil {
			r.fatal("%v", err)
		}
		r.overrides = append(r.overrides, usher.Override{ID: fmt.Sprintf("ovr_%d", len(r.overrides)+1), Customer: who, Feature: f.Key,
			Set: set, Add: add, Deny: deny, Reason: "story", CreatedAt: r.now, ExpiresAt: r.maybe(l, "expires_at")})
	case "unoverride":
		for i := range r.overrides {
			if r.overrides[i].ID == who {
				r.overrides[i].ExpiresAt = &[]time.Time{r.now}[0]
			}
		}
	case "grant":
		f := r.feature(l.Args[1])
		g := usher.Grant{ID: fmt.Sprintf("gr_%d", len(r.grants)+1), Customer: who, Feature: f.Key, Amount: r.amount(f, l.Args[2]),
			Kind:     usher.Promotion,
			Priority: usher.DefaultPriority, EffectiveAt: r.now, ExpiresAt: r.maybe(l, "expires_at"), Reason: "story", CreatedAt: r.now}
		if at := r.maybe(l, "effective_at"); at != nil {
			g.EffectiveAt = *at
		}
		if p := l.Opts["priority"]; p != "" {
			g.Priority, _ = strconv.Atoi(p)
		}
		if k := l.Opts["kind"]; k != "" {
			g.Kind = usher.GrantKind(k)
		}
		r.grants = append(r.grants, g)
	case "void":
		for i := range r.grants {
			if r.grants[i].ID == who {
				r.grants[i].VoidedAt = &[]time.Time{r.now}[0]
			}
		}
	default:
		r.use(who, l)
		return
	}
	r.changed()
}

func (r *stage) feature(key string) *usher.Feature {
	r.t.Helper()
	f := r.catalog.Features[key]
	if f == nil {
		r.fatal("no feature %q", key)
	}
	return f
}

func (r *stage) amount(f *usher.Feature, text string) int64 {
	r.t.Helper()
	n, err := usher.ParseQuantity(text, f.Precision)
	if err != nil {
		r.fatal("%v", err)
	}
	return n
}

// clock gives the customer an anchor or zone from an instant on (S18).
func (r *stage) clock(c *usher.Customer, from time.Time, anchor time.Time, zone string) {
	k := usher.Clock{From: from.Truncate(time.Minute), Anchor: anchor.Truncate(time.Minute), Timezone: zone}
	if i := len(c.Clocks) - 1; !c.Clocks[i].From.Before(k.From) {
		k.From = c.Clocks[i].From
		c.Clocks[i] = k
		return
	}
	c.Clocks = append(c.Clocks, k)
}

func (r *stage) customer(id string, l story.Line) {
	anchor, zone := r.maybe(l, "anchor"), l.Opts["timezone"]
	c := r.customers[id]
	if c == nil {
		k := usher.Clock{From: r.now, Anchor: r.now.Truncate(time.Minute), Timezone: zone}
		if anchor != nil {
			k.Anchor = anchor.Truncate(time.Minute)
		}
		r.customers[id] = &usher.Customer{ID: id, Timezone: zone, Anchor: anchor, CreatedAt: r.now, Clocks: []usher.Clock{k}}
		r.used[id] = newLedger()
		return
	}
	last := c.Clocks[len(c.Clocks)-1]
	if anchor == nil {
		anchor = &last.Anchor
	} else {
		c.Anchor = anchor
	}
	c.Timezone = zone
	r.clock(c, r.now, *anchor, zone)
}

func (r *stage) plan(text string) usher.HeldPlan {
	r.t.Helper()
	ref, err := usher.ParseRef("plan", text)
	if err != nil {
		r.fatal("%v", err)
	}
	if ref.Version > 0 {
		return usher.HeldPlan{Ref: ref, Pinned: true}
	}
	p, ok := r.book.Newest(ref.Key)
	if !ok {
		r.fatal("no plan %q", text)
	}
	return usher.HeldPlan{Ref: p.Ref()}
}

// addonsOf reads "api-pack:2,eu"; "none" is none.
func (r *stage) addonsOf(text string) []usher.HeldAddon {
	r.t.Helper()
	var out []usher.HeldAddon
	for _, part := range strings.Split(text, ",") {
		if part == "none" {
			continue
		}
		key, times, ok := strings.Cut(part, ":")
		n := 1
		if ok {
			n, _ = strconv.Atoi(times)
		}
		a, ok := r.book.NewestAddon(key)
		if !ok {
			r.fatal("no add-on %q", key)
		}
		out = append(out, usher.HeldAddon{Addon: a.Ref(), Quantity: n})
	}
	return out
}

func (r *stage) subscribe(id string, l story.Line) {
	r.t.Helper()
	c := r.customers[id]
	plan := r.plan(l.Args[1])
	version, _ := r.book.Plan(plan.Ref)
	start := r.now
	if at := r.maybe(l, "starts_at"); at != nil {
		start = *at
	}
	addons := r.addonsOf(cmp.Or(l.Opts["addons"], "none"))
	s := usher.Subscription{ID: fmt.Sprintf("sub_%d", len(r.subs[id])+1), Customer: id, Family: version.Family, StartsAt: start,
		EndsAt:      r.maybe(l, "ends_at"),
		TrialEndsAt: r.maybe(l, "trial_ends_at"), NoTrial: l.Opts["trial_ends_at"] == "null", CreatedAt: r.now,
		Phases: []usher.Phase{{At: start, Plan: &plan, Addons: &addons}}}
	for i := range r.subs[id] { // a plan of the same family replaces the current one
		if old := &r.subs[id][i]; old.Family == s.Family && !old.StartsAt.After(start) && (old.EndsAt == nil || old.EndsAt.After(start)) {
			old.EndsAt = &start
		}
	}
	r.subs[id] = append(r.subs[id], s)
	anchor := r.maybe(l, "anchor")
	switch {
	case anchor != nil:
	case c.Anchor == nil && len(r.subs[id]) == 1:
		anchor = &start
	default:
		return
	}
	if c.Anchor == nil && !start.After(c.CreatedAt) {
		c.Clocks[0].Anchor = anchor.Truncate(time.Minute)
	} else {
		from := r.now
		if start.After(from) {
			from = start
		}
		r.clock(c, from, *anchor, c.Timezone)
	}
	c.Anchor = anchor
}

func (r *stage) patch(id string, l story.Line) {
	r.t.Helper()
	var s *usher.Subscription
	for i := range r.subs[id] {
		if len(l.Args) == 1 || r.subs[id][i].Family == l.Args[1] {
			s = &r.subs[id][i]
		}
	}
	if s == nil {
		r.fatal("no subscription")
	}
	when := r.now
	switch w := l.Opts["when"]; w {
	case "", "now":
	case "period_end":
		c := r.customers[id]
		st := r.book.StateAt(s, r.now, engine.FirstStart(r.subs[id], s.Family), time.UTC)
		p, _ := r.book.Plan(st.Plan)
		k := c.Clocks[len(c.Clocks)-1]
		zone, err := calendar.Zone(k.Timezone)
		if err != nil {
			r.fatal("%v", err)
		}
		win, _ := calendar.At(usher.Period{Every: 1, Unit: cmp.Or(p.Period, usher.Month)}, k.Anchor, zone, r.now)
		when = win.End
	default:
		when = r.time(w)
	}
	ph := usher.Phase{At: when, Status: usher.Status(l.Opts["status"])}
	if v := l.Opts["plan"]; v != "" {
		p := r.plan(v)
		ph.Plan = &p
	}
	if v := l.Opts["addons"]; v != "" {
		a := r.addonsOf(v)
		ph.Addons = &a
	}
	if v := l.Opts["ends_at"]; v != "" {
		s.EndsAt, s.EndsSet = r.maybe(l, "ends_at"), r.now
	}
	if ph.Plan != nil || ph.Addons != nil || ph.Status != "" {
		s.Phases = append(s.Phases, ph)
		slices.SortStableFunc(s.Phases, func(x, y usher.Phase) int { return x.At.Compare(y.At) })
	}
}

// world is the customer's, compiled anew after each change.
func (r *stage) world(id string) *engine.World {
	if w := r.worlds[id]; w != nil {
		return w
	}
	r.worlds[id] = engine.NewWorld(r.facts(id))
	return r.worlds[id]
}

// facts are what the story has said about a customer.
func (r *stage) facts(id string) engine.Facts {
	f := engine.Facts{Book: r.book, Customer: r.customers[id], Subscriptions: r.subs[id]}
	for _, o := range r.overrides {
		if o.Customer == id {
			f.Overrides = append(f.Overrides, o)
		}
	}
	for _, g := range r.grants {
		if g.Customer == id {
			f.Grants = append(f.Grants, g)
		}
	}
	return f
}

// snapshot holds what Needs names, and nothing else.
func (r *stage) snapshot(id, feature string, at time.Time) *engine.Snapshot {
	return r.used[id].of(r.world(id), r.rev, feature, at)
}

// of joins a world with the use that Needs names; l may be nil.
func (l *ledger) of(w *engine.World, revision int64, feature string, at time.Time) *engine.Snapshot {
	if l == nil {
		return engine.NewSnapshot(w, revision, nil, nil)
	}
	keys, openings := w.Needs(feature, at)
	s := engine.NewSnapshot(w, revision, l.load(keys), l.sums(openings))
	s.SetLapses(l.lapses)
	return s
}

// writer is a clone to take from: of now, of an instant before it, and of
// buckets that an operation names itself. What has ended is given back.
func (r *stage) writer(id, feature string, at time.Time, more ...engine.Entry) *engine.Snapshot {
	w, l := r.world(id), r.used[id]
	if l == nil {
		return r.snapshot(id, feature, at).Clone()
	}
	keys, openings := w.Needs(feature, r.now)
	k, o := w.Needs(feature, at)
	keys, openings = append(keys, k...), append(openings, o...)
	for _, e := range more {
		keys = append(keys, e.Bucket)
	}
	for _, l := range l.lapses {
		if l.Expires <= r.now.UnixMicro() {
			keys = append(keys, l.Bucket)
		}
	}
	s := engine.NewSnapshot(w, r.rev, l.load(keys), l.sums(openings))
	s.SetLapses(l.lapses)
	c := s.Clone()
	c.Expire(r.now)
	return c
}

// load finds, for each key, the clock's latest bucket that began by then.
func (l *ledger) load(keys []engine.BucketKey) (out []engine.Bucket) {
	for _, k := range keys {
		best, found := engine.Bucket{}, false
		for _, b := range l.buckets {
			if b.Feature == k.Feature && b.Clock == k.Clock && b.Start <= k.Start && (!found || b.Start > best.Start) {
				best, found = b, true
			}
		}
		if found {
			out = append(out, best)
		}
	}
	return out
}

func (l *ledger) sums(openings []engine.Opening) map[engine.BucketKey]int64 {
	sums := map[engine.BucketKey]int64{}
	for _, o := range openings {
		var n int64
		for k, used := range l.minutes {
			if k.Feature == o.Feature && k.Start >= o.From && k.Start < o.Until && !slices.Contains(o.Except, k.Clock) {
				n += used
			}
		}
		sums[o.Key()] = n
	}
	return sums
}

// keep stores what a take did.
func (l *ledger) keep(s *engine.Snapshot, e engine.Effect, at time.Time) {
	for _, b := range s.Dirty() {
		l.buckets[b.BucketKey] = b
	}
	l.lapses = s.Lapses()
	us := at.UnixMicro()
	for _, en := range e.Entries {
		if en.Allowance == engine.EntryCap {
			continue
		}
		l.minutes[engine.BucketKey{Feature: en.Bucket.Feature, Clock: en.Bucket.Clock, Start: us - us%minute}] += en.Amount
	}
}

// use runs a line that asks or takes.
func (r *stage) use(who string, l story.Line) {
	r.t.Helper()
	switch l.Verb {
	case "settle", "release":
		r.end(l)
		return
	case "correct":
		r.correct(l)
		return
	}
	f := r.catalog.Features[l.Args[1]]
	q := engine.Query{Customer: who, Feature: l.Args[1], Amount: 1}
	switch l.Verb {
	case "seat", "unseat", "seats":
		r.seat(l, who, f)
		return
	}
	if f != nil && len(l.Args) > 2 && !(l.Verb == "record" && r.unique(f)) {
		q.Amount = r.amount(f, l.Args[2])
	}
	at := r.now
	if t := r.maybe(l, "at"); t != nil {
		at = *t
	}
	switch l.Verb {
	case "check":
		r.compare(l, f, engine.Decide(r.snapshot(who, q.Feature, at), q, at))
	case "explain":
		x := engine.Explain(r.snapshot(who, q.Feature, at), q, at)
		x.Changes = engine.Advise(r.facts(who), q, &x.Decision, at, func(w *engine.World, at time.Time) *engine.Snapshot {
			return r.used[who].of(w, r.rev, q.Feature, at)
		})
		text, err := json.Marshal(x)
		if err != nil {
			r.fatal("%v", err)
		}
		for _, want := range l.Expect.Contains {
			if !strings.Contains(string(text), want) {
				r.t.Errorf("%s\n\tgot %s\n\twant it to contain %q", r.where, text, want)
			}
		}
	case "consume", "reserve":
		if f != nil && f.Kind.Counts() && r.book.Gauge(f) {
			r.fatal("%s cannot be taken from (S33)", f.Key)
		}
		op := engine.Op{Kind: engine.Consume, Customer: who, Feature: q.Feature, Amount: q.Amount}
		if l.Verb == "reserve" {
			op.Kind, op.Hold, op.Until = engine.Reserve, fmt.Sprintf("rsv_%d", len(r.holds)+1), r.now.Add(r.ttl(l, 5*time.Minute))
		}
		c := r.writer(who, q.Feature, at)
		e := engine.Take(c, op, at)
		if l.Verb == "reserve" && e.Decision.Allowed {
			r.holds = append(r.holds, &held{Hold: engine.Hold{ID: op.Hold, Customer: who, Feature: f.Key, Amount: op.Amount, At: at,
				Expires: op.Until, Entries: e.Entries}})
			e.Decision.Reservation = &usher.Reservation{ID: op.Hold, Amount: op.Amount, ExpiresAt: op.Until, State: usher.ReservationOpen}
			r.takes[op.Hold] = &taken{customer: who, feature: f.Key} // nothing, as yet
			e.Entries = nil                                          // it is not used yet
		}
		if l := r.used[who]; l != nil {
			l.keep(c, e, at)
		}
		r.name(l, who, at, e)
		r.compare(l, f, e.Decision)
	case "record":
		op := engine.Op{Kind: engine.Record, Customer: who, Feature: q.Feature, Amount: q.Amount}
		if r.book.Gauge(f) {
			op.Kind = engine.Level
		}
		if r.unique(f) {
			from, _ := engine.GaugeWindow(r.snapshot(who, q.Feature, at), f.Key, at)
			id := fmt.Sprint(f.Key, " ", from, " ", l.Args[2])
			if r.used[who].seen[id] {
				op.Amount = 0
			}
			r.used[who].seen[id] = true
		}
		c := r.writer(who, q.Feature, at)
		e := engine.Take(c, op, at)
		if e.Overflow {
			r.fatal("it overflows")
		}
		r.used[who].keep(c, e, at)
		r.name(l, who, at, e)
	}
}

// name keeps what a take did under the name that the story gives it.
func (r *stage) name(l story.Line, who string, at time.Time, e engine.Effect) {
	if as := l.Opts["as"]; as != "" {
		r.takes[as] = &taken{who, l.Args[1], at, e.Entries}
	}
}

func (r *stage) ttl(l story.Line, none time.Duration) time.Duration {
	r.t.Helper()
	if l.Opts["ttl"] == "" {
		return none
	}
	d, err := time.ParseDuration(l.Opts["ttl"])
	if err != nil {
		r.fatal("%v", err)
	}
	return d
}

// failed compares an error's code.
func (r *stage) failed(l story.Line, code usher.Code) {
	r.t.Helper()
	if got := string(code); l.Expect.Error != got {
		r.t.Errorf("%s\n\tgot the error %s", r.where, got)
	}
}

// end settles or releases a reservation: one end, one answer (S23).
func (r *stage) end(l story.Line) {
	r.t.Helper()
	n, _ := strconv.Atoi(strings.TrimPrefix(l.Args[0], "rsv_"))
	if n < 1 || n > len(r.holds) {
		r.failed(l, usher.NotFound)
		return
	}
	h := r.holds[n-1]
	f, amount := r.feature(h.Feature), h.Amount
	if len(l.Args) > 1 {
		amount = r.amount(f, l.Args[1])
	}
	end := l.Verb
	if end == "settle" {
		end = fmt.Sprint("settle ", amount)
	}
	switch h.end {
	case end:
		r.compare(l, f, h.answer)
		return
	case "":
	default:
		r.failed(l, usher.Conflict)
		return
	}
	c := r.writer(h.Customer, h.Feature, h.At, h.Entries...)
	late := !r.now.Before(h.Expires)
	shown := usher.Reservation{ID: h.ID, Amount: h.Amount, ExpiresAt: h.Expires, State: usher.ReservationReleased}
	var e engine.Effect
	if l.Verb == "settle" {
		e = engine.Settle(c, &h.Hold, amount, r.now)
		shown.State, shown.Settled, shown.Late = usher.ReservationSettled, amount, late
		r.takes[h.ID] = &taken{h.Customer, h.Feature, h.At, e.Entries}
	} else if e = engine.Release(c, &h.Hold, r.now); late {
		shown.State = usher.ReservationExpired
	}
	e.Decision.Reservation = &shown
	r.used[h.Customer].keep(c, e, h.At)
	h.end, h.answer = end, e.Decision
	r.compare(l, f, e.Decision)
}

// correct gives back units of what the story named (S16).
func (r *stage) correct(l story.Line) {
	r.t.Helper()
	k := r.takes[l.Args[0]]
	if k == nil {
		r.failed(l, usher.NotFound)
		return
	}
	f := r.feature(k.feature)
	amount, left := r.amount(f, l.Args[1]), engine.Taken(k.feature, k.entries)
	if amount > left || left == 0 {
		r.failed(l, usher.Refused)
		return
	}
	c := r.writer(k.customer, k.feature, r.now, k.entries...)
	e := engine.Correct(c, k.customer, k.feature, k.entries, amount, k.at, r.now)
	r.used[k.customer].keep(c, e, k.at)
	k.entries = append(k.entries, e.Entries...)
	back := &usher.Correction{Ref: usher.UseRef{ID: l.Args[0]}, Amount: amount, Left: left - amount}
	for _, en := range e.Entries {
		if en.Allowance == engine.EntryCap || en.Allowance == engine.EntryDrawn {
			continue
		}
		d := usher.Deduction{Allowance: en.Allowance, Amount: -en.Amount}
		if en.Bucket.Feature != k.feature {
			d.Feature, d.Precision = en.Bucket.Feature, r.feature(en.Bucket.Feature).Precision
		}
		back.Returned = append(back.Returned, d)
	}
	e.Decision.Correction = back
	r.compare(l, f, e.Decision)
}

// seat gives, frees or lists places (S19, S22).
func (r *stage) seat(l story.Line, who string, f *usher.Feature) {
	r.t.Helper()
	feature, u := l.Args[1], r.used[who]
	if u == nil {
		u = newLedger()
	}
	u.seats[feature] = slices.DeleteFunc(u.seats[feature], func(s engine.Seat) bool { return !s.Expires.IsZero() && !s.Expires.After(r.now) })
	if l.Verb == "seats" {
		d := engine.Decide(r.snapshot(who, feature, r.now), engine.Query{Customer: who, Feature: feature}, r.now)
		var got []string
		for i, s := range u.seats[feature] {
			shown := usher.Seat{Holder: s.Holder, State: usher.SeatActive, Excess: !d.Unlimited && int64(i) >= d.Used+d.Reserved-d.Excess}
			if s.Pending {
				shown.State = usher.SeatPending
			}
			got = append(got, story.SeatWord(&shown))
		}
		if !slices.Equal(got, l.Expect.Seats) {
			r.t.Errorf("%s\n\tgot %q", r.where, got)
		}
		return
	}
	holder := l.Args[2]
	var was *engine.Seat
	i := slices.IndexFunc(u.seats[feature], func(s engine.Seat) bool { return s.Holder == holder })
	if i >= 0 {
		was = &u.seats[feature][i]
	}
	c := r.writer(who, feature, r.now)
	var e engine.Effect
	switch {
	case l.Verb == "seat":
		want := engine.Seat{Holder: holder, Pending: l.Opts["state"] == string(usher.SeatPending), At: r.now}
		if at := r.maybe(l, "expires_at"); at != nil {
			want.Expires = *at
		}
		if ttl := r.ttl(l, 0); ttl != 0 {
			want.Expires = r.now.Add(ttl)
		}
		if was != nil {
			want.At = was.At
		}
		e = engine.TakeSeat(c, who, feature, was, want, r.now)
		switch {
		case !e.Seated:
		case was == nil:
			u.seats[feature] = append(u.seats[feature], want)
			was = &want
		default:
			*was = want
		}
		if was != nil {
			e.Decision.Seat = &usher.Seat{Holder: holder, State: usher.SeatActive}
			if was.Pending {
				e.Decision.Seat.State = usher.SeatPending
			}
		}
	case was != nil:
		e = engine.FreeSeat(c, who, feature, *was, r.now)
		u.seats[feature] = slices.Delete(u.seats[feature], i, i+1)
	}
	u.keep(c, e, r.now)
	if l.Expect != nil {
		r.compare(l, f, e.Decision)
	}
}

func (r *stage) unique(f *usher.Feature) bool {
	m := r.book.Meter(f)
	return m != nil && m.Aggregation == usher.Unique
}

// compare checks what a line names of a decision.
func (r *stage) compare(l story.Line, f *usher.Feature, d usher.Decision) {
	r.t.Helper()
	want := l.Expect
	bad := func(name, got, want string) {
		r.t.Helper()
		text, _ := json.Marshal(d)
		r.t.Errorf("%s\n\tgot %s %s, want %s\n\tin %s", r.where, name, got, want, text)
	}
	if want.Error != "" {
		bad("answer", string(d.Reason), "the error "+want.Error)
	}
	if got := fmt.Sprint(d.Allowed, " ", d.Reason); want.Error == "" && got != fmt.Sprint(want.Allowed, " ", want.Reason) {
		bad("answer", got, fmt.Sprint(want.Allowed, " ", want.Reason))
	}
	for _, field := range want.Fields {
		if got := story.Figure(&d, field.Name); got != field.Value {
			bad(field.Name, got, field.Value)
		}
	}
	// Whatever a story looks at, a decision adds up (S34).
	if f != nil && len(d.Allowances) > 0 && !d.Unlimited && f.Draws == nil {
		var used, reserved, limit, left, excess int64
		for _, a := range d.Allowances {
			used, reserved, limit, left, excess = used+a.Used, reserved+a.Reserved, limit+a.Limit, left+a.Remaining, excess+a.Excess
		}
		if used != d.Used || reserved != d.Reserved || limit != d.Limit || left != d.Remaining || excess != d.Excess {
			bad("sums over rows", fmt.Sprint(used, reserved, limit, left, excess), fmt.Sprint(d.Used, d.Reserved, d.Limit, d.Remaining, d.Excess))
		}
	}
}
