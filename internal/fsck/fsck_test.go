package fsck_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/fsck"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/testpg"
	"github.com/usher-sh/usher/internal/usage"
)

// lifeCatalogue has something of everything that counts.
const lifeCatalogue = `usher: 1
meters:
  calls:    {event: call, sum: data.n, dimensions: [data.region, data.tier]}
  storage:  {event: storage.sampled, last: data.bytes, dimensions: [data.region]}
  active:   {event: session.gauge, max: data.sessions, dimensions: [data.region]}
  visitors: {event: page.viewed, unique: data.visitor}
  seen:     {event: page.viewed}
features:
  sso:      {kind: switch}
  calls:    {kind: metered, meter: calls}
  views:    {kind: metered, meter: seen}
  storage:  {kind: metered, meter: storage}
  active:   {kind: metered, meter: active}
  visitors: {kind: metered, meter: visitors}
  exports:  {kind: metered, mode: warn}
  reports:  {kind: metered}
  balance:  {kind: credits}
  tokens:   {kind: metered, draws: {credits: balance, per_unit: 3}}
  members:  {kind: seats}
plans:
  free:
    default: true
    entitlements:
      calls: {limit: 60, per: day, caps: [{limit: 30, per: hour}, {limit: 9, per: minute, sliding: true}]}
      views: {limit: 20, per: week, overage: {max: 5}}
      storage: {limit: 500, per: month}
      active: {limit: 10, per: day}
      visitors: {limit: 3, per: day}
      exports: {limit: 20, per: day}
      reports: {limit: 10, per: day, anchor: first_use}
      balance: {limit: 90, per: day}
      tokens: {limit: 5, per: day}
      members: 2
  pro:
    entitlements:
      sso: true
      calls: {limit: 200, per: day, overage: {max: 20}, rollover: {max: 50}}
      views: {limit: 40, per: month}
      storage: {limit: 900, per: month}
      active: {limit: 20, per: day}
      visitors: {limit: 30, per: day}
      exports: {limit: 40, per: day}
      reports: {limit: unlimited, per: month}
      balance: {limit: 200, per: month, overage: {max: 9}}
      tokens: {limit: 20, per: day}
      members: {limit: 4, overage: {max: 1}}
`

// life is a node whose customers do everything at random.
type life struct {
	*node
	nodes     []*node // of one database: they take turns
	t         *testing.T
	c         *clock
	rand      *rand.Rand
	shared    bool   // others live here as well
	name      string // its own among those
	n         int
	customers []string
	keys      []string            // of takes that may be corrected
	events    []usage.CorrectOp   // that may be corrected
	holds     []string            // that may be open
	count     map[string]int      // of what was done
	codes     map[usher.Code]bool // of refusals
}

func newLife(t *testing.T, dsn string, seed uint64) *life {
	t.Helper()
	c := &clock{}
	c.set(at(t, "2026-03-27T10:00:00Z"))
	l := &life{node: start(t, dsn, c), t: t, c: c, rand: rand.New(rand.NewPCG(seed, 1)), customers: []string{"acme", "umbrella", "zürich"},
		count: map[string]int{}, codes: map[usher.Code]bool{}}
	l.nodes = []*node{l.node}
	if l.db.Dialect() == store.Postgres {
		l.nodes = append(l.nodes, start(t, dsn, c))
	}
	cat, err := catalogfile.Parse("test", []byte(lifeCatalogue))
	if err != nil {
		t.Fatal(err)
	}
	note := store.Note{By: usher.By{Actor: usher.Actor{Kind: "system"}}, Action: "catalog.apply", At: c.now()}
	change := store.CatalogChange{Env: usher.Sandbox, Note: note, Source: lifeCatalogue, Canonical: string(catalogfile.Format(cat)),
		Hash: catalogfile.Hash(cat)}
	for _, p := range []string{"free", "pro"} {
		change.Plans = append(change.Plans, usher.PlanVersion{Version: 1, Plan: *catalogfile.Resolve(cat, p)})
	}
	if _, err := l.db.ApplyCatalog(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	for _, id := range l.customers {
		l.put(id)
	}
	return l
}

func (l *life) put(id string) {
	l.t.Helper()
	now := l.c.now()
	l.change(id, store.CustomerChange{Put: &usher.Customer{ID: id, CreatedAt: now,
		Clocks: []usher.Clock{{From: now, Anchor: now.Truncate(time.Minute)}}}})
}

func (l *life) change(customer string, ch store.CustomerChange) {
	l.t.Helper()
	st, err := l.db.LoadCustomer(l.t.Context(), usher.Sandbox, customer, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	ch.Env, ch.Customer, ch.Basis, ch.BasisCatalog = usher.Sandbox, customer, st.Revision, st.CatalogRevision
	ch.Note = store.Note{By: usher.By{Actor: usher.Actor{Kind: "system"}}, Action: "test", At: l.c.now()}
	if _, err := l.db.ChangeCustomer(l.t.Context(), ch); err != nil {
		if l.shared && (errors.Is(err, store.ErrStale) || usher.ErrorCode(err) == usher.NotFound) {
			return // another life was faster
		}
		l.t.Fatal(err)
	}
	for _, n := range l.nodes {
		if err := n.live.Refresh(l.t.Context(), usher.Sandbox); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *life) id(prefix string) string { l.n++; return fmt.Sprintf("%s%s%d", prefix, l.name, l.n) }

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// did counts what was done; only refusals that are part of life may be errors.
func (l *life) did(what string, d usher.Decision, err error) bool {
	l.t.Helper()
	if err != nil {
		code := usher.ErrorCode(err)
		if !slices.Contains([]usher.Code{usher.Refused, usher.Conflict, usher.NotFound, usher.Invalid}, code) {
			l.t.Fatalf("%s: %v", what, err)
		}
		l.codes[code] = true
		return false
	}
	if !d.Allowed {
		what += ", denied"
	}
	l.count[what]++
	return d.Allowed
}

// step does one thing.
func (l *life) step() {
	ctx, r := l.t.Context(), l.rand
	who := pick(r, l.customers...)
	u := pick(r, l.nodes...).usage
	now := l.c.now()
	amount := func(n int) usher.Number { return usher.Number(fmt.Sprint(r.IntN(n))) }
	counted := []string{"calls", "views", "exports", "reports", "tokens", "balance"}
	switch n := r.IntN(100); {
	case n < 30:
		op := usage.ConsumeOp{Customer: who, Feature: pick(r, counted...), Key: l.id("k"), Amount: amount(12)}
		if r.IntN(20) == 0 {
			op.Customer = "ghost"
		}
		if d, err := u.Consume(ctx, usher.Sandbox, op); l.did("consume", d, err) {
			l.keys = append(l.keys, op.Key)
		}
	case n < 55:
		var list []usher.Event
		for range 1 + r.IntN(4) {
			e := usher.Event{ID: l.id("e"), Source: "test", Subject: who, Time: now.Add(-time.Duration(r.IntN(30*60)) * time.Minute)}
			e.Type = pick(r, "call", "storage.sampled", "session.gauge", "page.viewed")
			if r.IntN(3) == 0 {
				e.Time = now
			}
			e.Data = fmt.Appendf(nil, `{"n":%d,"bytes":%d,"sessions":%d,"visitor":"v%d","region":%q,"tier":"t%d"}`,
				r.IntN(9), r.IntN(900), r.IntN(30), r.IntN(6), pick(r, "eu", "us", ""), r.IntN(2))
			list = append(list, e)
			if f := map[string]string{"call": "calls", "page.viewed": "views"}[e.Type]; f != "" {
				l.events = append(l.events, usage.CorrectOp{Ref: e.ID, Source: e.Source, Feature: f})
			}
		}
		res, err := u.Ingest(ctx, usher.Sandbox, list)
		if err != nil || len(res.Rejected) > 0 && !l.shared {
			l.t.Fatalf("events: %+v, %v", res, err)
		}
		l.count["events"] += res.Accepted
	case n < 65:
		op := usage.ReserveOp{ConsumeOp: usage.ConsumeOp{Customer: who, Feature: pick(r, counted...), Key: l.id("r"), Amount: amount(9)},
			TTL: time.Duration(1+r.IntN(200)) * time.Minute}
		d, err := u.Reserve(ctx, usher.Sandbox, op)
		if l.did("reserve", d, err) {
			l.holds = append(l.holds, d.Reservation.ID)
			l.keys = append(l.keys, op.Key)
		}
	case n < 74 && len(l.holds) > 0:
		i := r.IntN(len(l.holds))
		id := l.holds[i]
		l.holds = slices.Delete(l.holds, i, i+1)
		if r.IntN(3) == 0 {
			d, err := u.Release(ctx, usher.Sandbox, id)
			if err == nil {
				l.did("release, "+string(d.Reservation.State), usher.Decision{Allowed: true}, nil)
			}
			return
		}
		d, err := u.Settle(ctx, usher.Sandbox, id, pick(r, "", amount(9), amount(30)))
		if err != nil {
			l.t.Fatal(err)
		}
		l.did(fmt.Sprint("settle, late ", d.Reservation.Late), usher.Decision{Allowed: true}, nil)
	case n < 83:
		op := usage.SeatOp{Customer: who, Feature: "members", Holder: fmt.Sprint("h", r.IntN(7)), Pending: r.IntN(3) == 0}
		if r.IntN(3) == 0 {
			op.TTL = time.Duration(1+r.IntN(300)) * time.Minute
		}
		if r.IntN(4) == 0 {
			d, err := u.DeleteSeat(ctx, usher.Sandbox, who, "members", op.Holder)
			l.did("leave", usher.Decision{Allowed: true}, err)
			_ = d
			return
		}
		d, err := u.PutSeat(ctx, usher.Sandbox, op)
		l.did("sit", d, err)
	case n < 91 && len(l.keys) > 0 && len(l.events) > 0:
		op := usage.CorrectOp{Ref: pick(r, l.keys...), Amount: usher.Number(fmt.Sprint(1 + r.IntN(4))), Reason: "test", Key: l.id("c"),
			Actor: "test"}
		what := "correct a take"
		if r.IntN(2) == 0 {
			e := pick(r, l.events...)
			op.Ref, op.Source, op.Feature, op.Amount, what = e.Ref, e.Source, e.Feature, "1", "correct an event"
		}
		d, err := u.Correct(ctx, usher.Sandbox, op)
		if err == nil {
			d.Allowed = true
		}
		l.did(what, d, err)
	case n < 94:
		id := l.id("s")
		sub := usher.Subscription{ID: id, Customer: who, Family: "main", StartsAt: now, CreatedAt: now, Phases: []usher.Phase{{At: now,
			Plan: &usher.HeldPlan{Ref: usher.Ref{Key: pick(r, "free", "pro"), Version: 1}}, Addons: &[]usher.HeldAddon{}, Status: usher.Active}}}
		ends := now.Add(time.Duration(1+r.IntN(50)) * time.Hour)
		sub.EndsAt = &ends
		l.change(who, store.CustomerChange{Subscriptions: []usher.Subscription{sub}})
		l.count["plan"]++
	case n < 95:
		until := now.Add(time.Duration(1+r.IntN(20)) * time.Hour)
		limit := int64(r.IntN(30))
		l.change(who, store.CustomerChange{
			Overrides: []usher.Override{{ID: l.id("o"), Customer: who, Feature: pick(r, append(counted, "members", "storage")...), ExpiresAt: &until,
				Set: &usher.OverrideSet{Limit: &limit}, Reason: "test", CreatedBy: "test", CreatedAt: now}}})
		l.count["override"]++
	case n < 97:
		l.change(who, store.CustomerChange{Grants: []usher.Grant{{ID: l.id("g"), Customer: who, Feature: pick(r, counted...),
			Amount: int64(r.IntN(30)), Kind: usher.Promotion,
			Priority: 50, EffectiveAt: now, Reason: "test", CreatedBy: "test", CreatedAt: now}}})
		l.count["grant"]++
	case n < 98 && r.IntN(3) == 0: // deleted, and back after others have noticed
		l.change(who, store.CustomerChange{Delete: true})
		l.count["delete"]++
		d, err := u.DeleteSeat(ctx, usher.Sandbox, who, "members", "h1")
		l.did("leave", d, err)
		if len(l.holds) > 0 && !l.shared {
			id := l.holds[0]
			l.holds = l.holds[1:]
			d, err := u.Settle(ctx, usher.Sandbox, id, amount(14))
			l.did("settle, deleted", usher.Decision{Allowed: err == nil, Consumed: d.Consumed}, err)
		}
		d, err = u.Consume(ctx, usher.Sandbox, usage.ConsumeOp{Customer: who, Feature: "calls", Key: l.id("k")})
		if err != nil || d.Allowed && !l.shared {
			l.t.Fatal(d, err)
		}
		l.put(who)
	case l.name != "": // one life moves the clock
	default:
		l.c.set(now.Add(time.Duration(1+r.IntN(400)) * time.Minute))
		l.count["time"]++
	}
}

func (l *life) fsck(o fsck.Options) fsck.Report {
	l.t.Helper()
	o.Now = l.c.now
	r, err := fsck.Run(l.t.Context(), l.db, o)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

func (l *life) clean(when string) fsck.Report {
	l.t.Helper()
	r := l.fsck(fsck.Options{})
	if r.Total != 0 || len(r.Differences) != 0 {
		l.t.Errorf("%s: %d differences, the first: %v", when, r.Total, r.Differences[:min(len(r.Differences), 12)])
	}
	return r
}

func raw(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	driver := "sqlite"
	if strings.HasPrefix(dsn, "postgres") {
		driver = "pgx"
	} else {
		dsn = "file:" + dsn + "?_pragma=busy_timeout(10000)"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// After a life of everything at random, the ledger, the buckets and the reports
// agree, in one pass or in many, and at many instants of it.
func TestI4_ARichLifeIsClean(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		seed := uint64(time.Now().UnixNano())
		if n, err := strconv.ParseUint(os.Getenv("USHER_SEED"), 10, 64); err == nil {
			seed = n
		}
		t.Log("USHER_SEED", seed)
		l := newLife(t, dsn, seed)
		for range 6 {
			for range 120 {
				l.step()
			}
			l.clean("in the middle of life")
			if t.Failed() {
				break
			}
		}
		t.Log(l.count, l.codes)
		for _, want := range []string{"consume", "consume, denied", "events", "reserve", "sit", "leave", "correct a take", "correct an event",
			"plan", "time"} {
			if l.count[want] == 0 {
				t.Errorf("this life had no %q: %v", want, l.count)
			}
		}
		one := l.clean("at the end")
		many := l.fsck(fsck.Options{Keys: 100})
		if many.Total != 0 || many.Passes <= one.Passes {
			t.Errorf("in several passes: %d differences in %d passes, the first: %v", many.Total, many.Passes,
				many.Differences[:min(len(many.Differences), 5)])
		}
		one.Passes, many.Passes = 0, 0
		if fmt.Sprint(one) != fmt.Sprint(many) {
			t.Errorf("several passes counted %+v, one counted %+v", many, one)
		}
	})
}

// Several lives at once, of the same customers and on PostgreSQL on two nodes,
// are clean whenever one looks.
func TestI4_LivesAtOnceAreClean(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		seed := uint64(time.Now().UnixNano())
		if n, err := strconv.ParseUint(os.Getenv("USHER_SEED"), 10, 64); err == nil {
			seed = n
		}
		t.Log("USHER_SEED", seed)
		first := newLife(t, dsn, seed)
		first.shared = true
		lives := []*life{first}
		for i := range 7 {
			l := *first
			l.name, l.rand, l.count, l.codes = string(rune('a'+i)), rand.New(rand.NewPCG(seed, uint64(i+2))), map[string]int{}, map[usher.Code]bool{}
			lives = append(lives, &l)
		}
		var wg sync.WaitGroup
		var working atomic.Int64
		for _, l := range lives {
			working.Add(1)
			wg.Go(func() {
				defer working.Add(-1)
				for range 120 {
					l.step()
				}
			})
		}
		for working.Load() > 0 && !t.Failed() {
			first.clean("while they live")
		}
		wg.Wait()
		first.clean("at the end")
	})
}

// Whatever is changed behind usher's back is found and named; what follows from
// the ledger is mended, and the rest is left.
func TestI4_TamperingIsFound(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		l := newLife(t, dsn, 7)
		for range 500 {
			l.step()
		}
		for _, feature := range []string{"reports", "calls"} { // what is open, settled and denied, for sure
			for i, key := range []string{"open", "settled"} {
				l.c.set(l.c.now().Add(24 * time.Hour))
				d, err := l.usage.Reserve(t.Context(), usher.Sandbox,
					usage.ReserveOp{ConsumeOp: usage.ConsumeOp{Customer: "acme", Feature: feature, Key: feature + key, Amount: "2"}, TTL: 100 * time.Hour})
				if err != nil || !d.Allowed {
					t.Fatal(d, err)
				}
				if i == 1 {
					if _, err := l.usage.Settle(t.Context(), usher.Sandbox, d.Reservation.ID, "1"); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		l.clean("before")
		db := raw(t, dsn)
		do := func(text string) {
			t.Helper()
			res, err := db.ExecContext(t.Context(), text)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if n, err := res.RowsAffected(); err != nil || n != 1 {
				t.Fatalf("%s: touched %d rows (%v), want 1", text, n, err)
			}
		}
		// one picks a row of a table by all of its key.
		one := func(table, columns, where string) string {
			return fmt.Sprintf(`(%s) = (SELECT %s FROM %s WHERE %s ORDER BY %s LIMIT 1)`, columns, columns, table, where, columns)
		}
		const (
			bucket = "customer, env, feature, clock, start_at"
			roll   = "customer, env, feature, grain, start_at, clock"
			dim    = "customer, env, feature, dimension, grain, start_at, value"
			seen   = "customer, env, feature, value, minute_at"
			denial = "customer, env, feature, hour_at, outcome, reason"
			seat   = "customer, env, feature, holder, n"
		)
		for _, x := range []struct {
			name, do string
			want     string // what is named
			undo     string // where a repair leaves it
		}{
			{"use of a bucket", `UPDATE bucket SET used = used + 1, excess = excess + 1 WHERE ` +
				one("bucket", bucket, "unlimited = 0 AND used > 0"), "bucket", ""},
			{"what a bucket holds", `UPDATE bucket SET reserved = reserved + 1 WHERE ` + one("bucket", bucket, "clock LIKE 'cap:%'"), "bucket", ""},
			{"excess of a bucket", `UPDATE bucket SET excess = excess + 1 WHERE ` + one("bucket", bucket, "unlimited = 0 AND used > 0"),
				"bounds of a bucket", ""},
			{"use of a gauge", `UPDATE bucket SET used = used + 1, excess = excess + 1 WHERE ` +
				one("bucket", bucket, "feature = 'storage' AND at > 0"), "bucket", ""},
			{"a bucket is gone", `DELETE FROM bucket WHERE ` + one("bucket", bucket, "used > 0 AND feature = 'calls'"), "bucket", ""},
			{"a bucket of nothing", `INSERT INTO bucket VALUES ('nobody', 'production', 'calls', 'day', 0, 1, 0, 5, 0, 5, 0, 0, 0, 0)`, "bucket",
				""},
			{"a minute", `UPDATE rollup SET used = used + 1 WHERE ` + one("rollup", roll, "grain = 1 AND clock <> 'gauge'"), "minute", ""},
			{"an hour", `UPDATE rollup SET used = used - 1 WHERE ` + one("rollup", roll, "grain = 60 AND clock <> 'gauge'"), "hour", ""},
			{"a day", `UPDATE rollup SET used = used + 5 WHERE ` + one("rollup", roll, "grain = 1440 AND clock <> 'gauge'"), "day", ""},
			{"a gauge's day", `UPDATE rollup SET used = 1000 WHERE ` + one("rollup", roll, "grain = 1440 AND clock = 'gauge'"), "day", ""},
			{"a day is gone", `DELETE FROM rollup WHERE ` + one("rollup", roll, "grain = 1440 AND used > 0"), "day", ""},
			{"a gauge's hour is gone", `DELETE FROM rollup WHERE ` + one("rollup", roll, "grain = 60 AND clock = 'gauge'"), "hour", ""},
			{"a minute of nothing", `INSERT INTO rollup VALUES ('acme', 'sandbox', 'calls', 1, 60000000, 'day', 3, 0)`, "minute", ""},
			{"a gauge of nothing", `INSERT INTO rollup VALUES ('acme', 'sandbox', 'storage', 1, 60000000, 'gauge', 0, 0)`, "minute", ""},
			{"a dimension's minute", `UPDATE rollup_dim SET used = used + 1 WHERE ` + one("rollup_dim", dim, "grain = 1 AND feature = 'calls'"),
				"dimension per minute", ""},
			{"a dimension's hour", `UPDATE rollup_dim SET used = used + 1000 WHERE ` + one("rollup_dim", dim, "grain = 60 AND feature = 'active'"),
				"dimension per hour", ""},
			{"a dimension's day is gone", `DELETE FROM rollup_dim WHERE ` + one("rollup_dim", dim, "grain = 1440 AND feature = 'storage'"),
				"dimension per day", ""},
			{"a value was not seen", `DELETE FROM seen WHERE ` + one("seen", seen, "minute_at > 0"), "seen value", ""},
			{"a value was seen", `INSERT INTO seen VALUES ('acme', 'sandbox', 'visitors', 'nobody', 60000000)`, "seen value", ""},
			{"more denials", `UPDATE denial SET n = n + 1 WHERE ` + one("denial", denial, "feature <> 'members'"), "denials of the hour", ""},
			{"fewer denied", `UPDATE denial SET amount = amount - 1 WHERE ` + one("denial", denial, "feature <> 'members' AND amount > 0"),
				"denials of the hour", ""},
			{"a denial is gone", `DELETE FROM denial WHERE ` + one("denial", denial, "feature <> 'members'"), "denials of the hour", ""},
			{"a seat is gone", `DELETE FROM seat WHERE ` + one("seat", seat, "released_at = 0"), "bucket", ""},
			{"a seat was freed", `UPDATE seat SET released_at = 1 WHERE ` + one("seat", seat, "released_at = 0"), "bucket", ""},
			{"a take is gone", `DELETE FROM op WHERE ` + one("op", "key, env", "route = 'consume' AND key = 'lone'"), "bucket", ""},
			{"an event is gone", `DELETE FROM event WHERE ` + one("event", "id, source, env", "type = 'session.gauge'"), "minute", ""},
			{"an open reservation was settled", `UPDATE hold SET state = 'settled', closed_at = at + 1 WHERE ` +
				one("hold", "id, env", "state = 'open'"), "reservation",
				`UPDATE hold SET state = 'open', closed_at = 0 WHERE closed_at = at + 1`},
			{"a settled one expired", `UPDATE hold SET state = 'expired' WHERE ` +
				one("hold", "id, env", "feature = 'reports' AND closed_at = at AND state = 'settled'"), "reservation",
				`UPDATE hold SET state = 'settled' WHERE feature = 'reports' AND closed_at = at AND state = 'expired'`},
			{"a reservation's take is gone", `DELETE FROM op WHERE key = 'reportsopen'`, "reservation", "-"},
			{"an answer is damaged", `UPDATE op SET answer = body_hash WHERE key = 'damaged'`, "take", "-"},
		} {
			switch { // what the story needs for sure
			case strings.Contains(x.do, "'lone'") || strings.Contains(x.do, "'damaged'"):
				l.c.set(l.c.now().Add(48 * time.Hour))
				key := "lone"
				if strings.Contains(x.do, "'damaged'") {
					key = "damaged"
				}
				if d, err := l.usage.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "umbrella", Feature: "reports", Key: key,
					Amount: "3"}); err != nil || !d.Allowed {
					t.Fatal(x.name, d, err)
				}
			}
			do(x.do)
			r := l.fsck(fsck.Options{})
			named := func(d fsck.Difference) bool { return d.What == x.want && d.Environment != "" && d.Customer != "" }
			if r.Total == 0 || !slices.ContainsFunc(r.Differences, named) {
				t.Errorf("%s: %d differences: %v; want a %q", x.name, r.Total, r.Differences, x.want)
			}
			if r.Total > 20 {
				t.Errorf("%s: %d differences, the first: %v", x.name, r.Total, r.Differences[:20])
			}
			after := l.fsck(fsck.Options{Repair: true})
			if x.undo == "" {
				if after.Total != 0 || after.Repaired != r.Total || int64(len(after.Mended)) != r.Total {
					t.Errorf("%s: found %v; the repair rewrote %d rows and left %v", x.name, r.Differences, after.Repaired, after.Differences)
				}
			} else {
				if after.Total == 0 || !slices.ContainsFunc(after.Differences, func(d fsck.Difference) bool { return d.What == x.want && !d.Derived }) {
					t.Errorf("%s: the repair left %v", x.name, after.Differences)
				}
				if x.undo != "-" {
					do(x.undo)
					l.fsck(fsck.Options{Repair: true})
				}
			}
			if x.undo == "-" {
				continue // the last ones stay as they are
			}
			l.clean(x.name + ", mended")
		}
		r := l.fsck(fsck.Options{})
		text := fmt.Sprint(r.Differences)
		if !strings.Contains(text, "take of sandbox/umbrella reports damaged: the ledger says nothing, because it cannot be read") {
			t.Errorf("the damaged answer is named so: %s", text)
		}
	})
}

// What a bucket that was lost and mended lets pass is what it let pass before.
func TestI4_AMendedBucketDecidesAsBefore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme")
		n.consume(t, "exports", "a", 30)
		n.consume(t, "api_calls", "b", 600)
		if _, err := raw(t, dsn).ExecContext(t.Context(), `DELETE FROM bucket`); err != nil {
			t.Fatal(err)
		}
		r, err := fsck.Run(t.Context(), n.db, fsck.Options{Repair: true, Now: c.now})
		if err != nil || r.Total != 0 || r.Repaired != 3 {
			t.Fatalf("%+v, %v; want 3 buckets rewritten", r, err)
		}
		u := n.deaf(t, c) // with no memory of its own
		if d := take(t, u, "c", "21"); d.Allowed || d.Used != 30 || d.Limit != 50 || d.Excess != 0 {
			t.Errorf("21 beyond 30 of 50: %+v", d)
		}
		if d := take(t, u, "d", "20"); !d.Allowed || d.Used != 50 || d.Excess != 0 {
			t.Errorf("20 beyond 30 of 50: %+v", d)
		}
		d, err := u.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "api_calls", Key: "e", Amount: "101"})
		if err != nil || d.Allowed || d.Reason != usher.CapReached {
			t.Errorf("beyond the cap of 700 a minute: %+v, %v", d, err)
		}
		if r, err := fsck.Run(t.Context(), n.db, fsck.Options{Now: c.now}); err != nil || r.Total != 0 {
			t.Errorf("after: %+v, %v", r, err)
		}
	})
}

// Beside 16 callers at work, each check sees one state, and that is clean.
func TestI4_CleanBesideARunningServer(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		c := &clock{}
		c.set(at(t, "2026-03-31T10:00:00Z"))
		n := start(t, dsn, c)
		n.found(t, c, "acme", "umbrella")
		beside, err := store.Open(t.Context(), store.Config{DSN: dsn, Beside: true})
		if err != nil {
			t.Fatal(err)
		}
		defer beside.Close()
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for j := 0; ctx.Err() == nil; j++ {
					who := []string{"acme", "umbrella"}[j%2]
					if _, err := n.usage.Consume(t.Context(), usher.Sandbox,
						usage.ConsumeOp{Customer: who, Feature: []string{"exports", "api_calls"}[j/2%2], Key: fmt.Sprintf("k-%d-%d", i, j)}); err != nil {
						t.Error(err)
						return
					}
					if j%5 == i%5 {
						e := event(fmt.Sprintf("e-%d-%d", i, j), "llm.completion", `{"tokens":3,"model":"a"}`, c.now())
						if _, err := n.usage.Ingest(t.Context(), usher.Sandbox, []usher.Event{e}); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		last := int64(0)
		until := time.Now().Add(time.Minute)
		for i := 0; i < 5; {
			r, err := fsck.Run(t.Context(), beside, fsck.Options{Now: c.now})
			if err != nil {
				t.Fatal(err)
			}
			if r.Total != 0 {
				t.Errorf("check %d: %v", i, r.Differences)
			}
			if r.Takes > last { // a state of its own
				i, last = i+1, r.Takes
			} else if time.Now().After(until) {
				t.Fatalf("the callers make no progress beyond %d takes", last)
			}
		}
		stop()
		wg.Wait()
	})
}

// A repair on PostgreSQL keeps takes away as long as it computes and writes; they
// go on after it and the ledger stays right.
func TestI4_RepairBesideARunningServer(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Default()
	if err != nil {
		t.Skip("no PostgreSQL binaries: ", err)
	}
	dsn, err := pg.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{}
	c.set(at(t, "2026-03-31T10:00:00Z"))
	n := start(t, dsn, c)
	n.found(t, c, "acme")
	n.consume(t, "api_calls", "first", 1)
	db := raw(t, dsn)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := 0; ctx.Err() == nil; j++ {
				if _, err := n.usage.Consume(t.Context(), usher.Sandbox, usage.ConsumeOp{Customer: "acme", Feature: "api_calls",
					Key: fmt.Sprintf("k-%d-%d", i, j)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 5 {
		tx, err := db.BeginTx(t.Context(), nil) // between two batches
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{`LOCK TABLE customer IN EXCLUSIVE MODE`, `UPDATE bucket SET used = 0, overage = 0, excess = 0`} {
			if _, err := tx.ExecContext(t.Context(), text); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		r, err := fsck.Run(t.Context(), n.db, fsck.Options{Repair: true, Now: c.now})
		if err != nil || r.Total != 0 || r.Repaired == 0 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	stop()
	wg.Wait()
	if r, err := fsck.Run(t.Context(), n.db, fsck.Options{Now: c.now}); err != nil || r.Total != 0 {
		t.Errorf("after: %+v, %v", r, err)
	}
}

// Seats beyond a lowered limit stay right while their holders leave, also when
// the customer is gone by then.
func TestI4_SeatsOfADeletedCustomerStayRight(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		l := newLife(t, dsn, 1)
		for _, h := range []string{"a", "b"} {
			d, err := l.usage.PutSeat(ctx, usher.Sandbox, usage.SeatOp{Customer: "acme", Feature: "members", Holder: h})
			if err != nil || !d.Allowed {
				t.Fatal(d, err)
			}
		}
		zero := int64(0)
		l.change("acme", store.CustomerChange{Overrides: []usher.Override{{ID: "o", Customer: "acme", Feature: "members",
			Set:    &usher.OverrideSet{Limit: &zero},
			Reason: "test", CreatedBy: "test", CreatedAt: l.c.now()}}})
		if d, err := l.usage.PutSeat(ctx, usher.Sandbox, usage.SeatOp{Customer: "acme", Feature: "members", Holder: "a",
			Pending: true}); err != nil || d.Excess != 2 {
			t.Fatal(d, err)
		}
		l.clean("beyond the limit")
		l.change("acme", store.CustomerChange{Delete: true})
		if _, err := l.usage.DeleteSeat(ctx, usher.Sandbox, "acme", "members", "a"); err != nil {
			t.Fatal(err)
		}
		l.clean("one left")
	})
}

// What a deleted customer used is kept, whatever ends the hold, and its answer says
// what is kept. An answer that says anything else is found, and not mended: only the
// ledger knows.
func TestI4_AnAnswerThatSaysMoreThanIsKept(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		l := newLife(t, dsn, 1)
		hold := func(key string) string {
			t.Helper()
			d, err := l.usage.Reserve(ctx, usher.Sandbox, usage.ReserveOp{ConsumeOp: usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: key,
				Amount: "5"}, TTL: time.Hour})
			if err != nil || !d.Allowed {
				t.Fatal(d, err)
			}
			return d.Reservation.ID
		}
		settled, released, late := hold("r1"), hold("r2"), hold("r3")
		l.change("acme", store.CustomerChange{Delete: true})
		d, err := l.usage.Settle(ctx, usher.Sandbox, settled, "9")
		if err != nil || d.Consumed != 9 || len(d.Deductions) != 1 || d.Deductions[0].Amount != 5 || d.Reason != usher.UnknownCustomer {
			t.Fatal(d, err)
		}
		if _, err := l.usage.Release(ctx, usher.Sandbox, released); err != nil {
			t.Fatal(err)
		}
		l.clean("one settled, one released")
		l.c.set(l.c.now().Add(2 * time.Hour))
		if d, err := l.usage.Settle(ctx, usher.Sandbox, late, "9"); err != nil || d.Consumed != 9 || !d.Reservation.Late {
			t.Fatal(d, err)
		}
		d, err = l.usage.Correct(ctx, usher.Sandbox, usage.CorrectOp{Ref: "r1", Amount: "6", Reason: "test", Key: "c1"})
		if err != nil || d.Correction.Left != 3 {
			t.Fatal(d, err)
		}
		l.clean("one settled late, one corrected")
		l.put("acme")
		l.clean("revived")
		op, err := l.db.Op(ctx, usher.Sandbox, ledger.HoldKey(late))
		if err != nil {
			t.Fatal(err)
		}
		said, p, err := ledger.DecodeAnswer(op.Answer, op.At)
		if err != nil {
			t.Fatal(err)
		}
		said.Consumed, said.Reservation.Settled = 10, 10
		text := `UPDATE op SET answer = ? WHERE key = ?`
		if strings.HasPrefix(dsn, "postgres") {
			text = `UPDATE op SET answer = $1 WHERE key = $2`
		}
		if _, err := raw(t, dsn).ExecContext(ctx, text, ledger.EncodeAnswer(&said, &p, op.At), op.Key); err != nil {
			t.Fatal(err)
		}
		r := l.fsck(fsck.Options{Repair: true})
		if r.Total != 1 || r.Differences[0].What != "answer of a take" || r.Differences[0].Ledger != "9" || r.Differences[0].Stored != "10" {
			t.Errorf("got %+v, want the settlement that says 10 and kept 9", r.Differences)
		}
	})
}

// A whole life that is older than 62 days folds to a ledger that is as right.
func TestI4_AFoldedLifeIsClean(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, dsn string) {
		l := newLife(t, dsn, 11)
		for range 300 {
			l.step()
		}
		half := l.c.now()
		l.c.set(half.Add(40 * 24 * time.Hour))
		for range 100 {
			l.step()
		}
		before := l.clean("before")
		l.c.set(half.Add(ledger.Kept + time.Hour))
		folder := usage.New(usage.Config{DB: l.db, Live: l.live, Node: "folder", Folding: usage.Folding{Now: l.c.now, Pause: time.Millisecond}})
		t.Cleanup(func() {
			if err := folder.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		k, err := folder.Fold(t.Context())
		if err != nil || k == 0 || k >= before.Takes {
			t.Errorf("folded %d of %d, %v; want a part", k, before.Takes, err)
		}
		after := l.clean("after")
		if after.Takes+k != before.Takes || after.Folded == 0 {
			t.Errorf("folded %d; before %+v, after %+v", k, before, after)
		}
		for range 100 {
			l.step()
		}
		l.clean("later")
	})
}
