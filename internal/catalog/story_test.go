package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/testpg"
	"github.com/usher-sh/usher/internal/usage"
)

func TestMain(m *testing.M) { testpg.Main(m) }

const env = usher.Production

const base = `
usher: 1
meters:
  api: {event: api.request}
  tokens: {event: llm, sum: data.tokens}
features:
  sso: {kind: switch}
  api: {kind: metered, meter: api}
  tokens: {kind: metered, meter: tokens}
  seats: {kind: seats}
plans:
  free: {default: true, entitlements: {api: {limit: 10, per: month}}}
  pro: {extends: free, entitlements: {sso: true, api: {limit: 100, per: month}}}
  team: {entitlements: {seats: 5}}
addons:
  pack: {entitlements: {api: {limit: 5, per: month}}}
`

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

type world struct {
	t  testing.TB
	db *store.DB
	l  *live.Live
	s  *Service
	c  *customers.Service
	n  atomic.Int64

	months atomic.Int64 // since noon
}

func newWorld(t testing.TB) *world { return worldOn(t, filepath.Join(t.TempDir(), "usher.db")) }

func worldOn(t testing.TB, dsn string) *world {
	t.Helper()
	db, err := store.Open(context.Background(), store.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{t: t, db: db}
	l, err := live.New(t.Context(), live.Config{DB: db, Now: func() time.Time { return noon.AddDate(0, int(w.months.Load()), 0) }})
	if err != nil {
		t.Fatal(err)
	}
	w.l, w.s = l, New(Config{DB: db, Live: l})
	w.c = customers.New(customers.Config{DB: db, Live: l, NewID: func(p string) string { return fmt.Sprintf("%s%03d", p, w.n.Add(1)) }})
	return w
}

var actor = usher.Actor{Kind: "key", ID: "k1"}

func (w *world) try(file string, o Options) (Result, error) {
	return w.s.Apply(w.t.Context(), env, usher.By{Actor: actor, RequestID: "r"}, []byte(file), o)
}

func (w *world) apply(file string, o Options) Result {
	w.t.Helper()
	r, err := w.try(file, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) subscribe(id, plan string, addons ...string) customers.Subscription {
	w.t.Helper()
	if _, _, err := w.c.PutCustomer(w.t.Context(), env, usher.By{Actor: actor}, customers.Guard{}, id, customers.CustomerInput{}); err != nil {
		w.t.Fatal(err)
	}
	in := customers.NewSubscription{Plan: plan}
	for _, a := range addons {
		in.Addons = append(in.Addons, customers.AddonInput{Addon: a})
	}
	s, err := w.c.Subscribe(w.t.Context(), env, usher.By{Actor: actor}, customers.Guard{}, id, in)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) limit(id, feature string) int64 {
	w.t.Helper()
	s, err := w.l.Snapshot(w.t.Context(), env, id, noon)
	if err != nil {
		w.t.Fatal(err)
	}
	return engine.Decide(s, engine.Query{Customer: id, Feature: feature, Amount: 1}, noon).Limit
}

func (w *world) inUse(file string, o Options, locations ...string) {
	w.t.Helper()
	_, err := w.try(file, o)
	var e *usher.Error
	if !errors.As(err, &e) || e.Code != usher.InUse {
		w.t.Fatalf("got %v, want in_use", err)
	}
	var got []string
	for _, p := range e.Problems {
		if !slices.Contains(got, p.Location) {
			got = append(got, p.Location)
		}
	}
	if !slices.Equal(got, locations) {
		w.t.Errorf("got %v, want problems at %v", e.Problems, locations)
	}
}

func edit(file string, pairs ...string) string {
	out := strings.NewReplacer(pairs...).Replace(file)
	if out == file {
		panic("nothing was replaced")
	}
	return out
}

func js(v any) string { b, _ := json.Marshal(v); return string(b) }

func TestS29_VersionsOfWhatChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.apply(base, Options{})
	if r.Revision != 1 || js(r.Plans) != `{"free":"free@1","pro":"pro@1","team":"team@1"}` || js(r.Addons) != `{"pack":"pack@1"}` {
		t.Fatalf("got %s", js(r))
	}
	// Comments and order say nothing new.
	if r := w.apply("# hello\n"+base, Options{}); r.Revision != 1 || len(r.Changes) != 0 {
		t.Errorf("got %s", js(r))
	}
	w.subscribe("acme", "pro", "pack")
	w.subscribe("pin", "pro@1")
	if _, _, err := w.c.PutCustomer(t.Context(), env, usher.By{Actor: actor}, customers.Guard{}, "default",
		customers.CustomerInput{}); err != nil {
		t.Fatal(err)
	}
	before := w.l.Revision(env)

	more := edit(base, "api: {limit: 100", "api: {limit: 200", "{limit: 10,", "{limit: 20,", "{limit: 5,", "{limit: 6,")
	dry := w.apply(more, Options{DryRun: true})
	if w.l.Revision(env) != before || dry.Revision != before || !dry.DryRun ||
		js(dry.Plans) != `{"free":"free@2","pro":"pro@2","team":"team@1"}` {
		t.Errorf("got %s", js(dry))
	}
	want := `[{"version":"free@2","subscriptions":{},"default":true,` +
		`"text":"plan free: no subscription has an older version; customers on the default plan follow free@2 at once"},` +
		`{"version":"pro@2","subscriptions":{"pro@1":2},"text":"plan pro: 2 subscriptions on pro@1, which stay there"},` +
		`{"version":"pack@2","subscriptions":{"pack@1":1},"text":"add-on pack: 1 subscription on pack@1, which stays there"}]`
	if got := js(dry.Impact); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// Each text counts the subscriptions of its own plan or add-on.
	for _, x := range []struct{ migrate, plan, pack string }{
		{"pro", "plan pro: 2 subscriptions on pro@1; 1 migrates now", "add-on pack: 1 subscription on pack@1, which stays there"},
		{"all", "plan pro: 2 subscriptions on pro@1; 1 migrates now", "add-on pack: 1 subscription on pack@1; 1 migrates now"},
	} {
		dry := w.apply(more, Options{DryRun: true, Migrate: x.migrate})
		if dry.Migrated != 1 || dry.Impact[1].Text != x.plan || dry.Impact[2].Text != x.pack {
			t.Errorf("migrate %s: got %s", x.migrate, js(dry))
		}
	}
	r = w.apply(more, Options{})
	if r.Revision != before+1 || r.Migrated != 0 {
		t.Errorf("got %s", js(r))
	}
	if got := w.limit("acme", "api"); got != 105 {
		t.Errorf("a subscription moved by itself: limit %d", got)
	}
	if got := w.limit("default", "api"); got != 20 {
		t.Errorf("the default plan follows its newest version, got limit %d", got)
	}

	r = w.apply(more, Options{Migrate: "pro"})
	if r.Migrated != 1 || js(r.LeftPinned) != `["sub_002"]` || w.limit("acme", "api") != 205 || w.limit("pin", "api") != 100 {
		t.Errorf("got %s, limits %d and %d", js(r), w.limit("acme", "api"), w.limit("pin", "api"))
	}
	r = w.apply(more, Options{Migrate: "all"})
	if r.Migrated != 1 || w.limit("acme", "api") != 206 {
		t.Errorf("add-ons too, got %s, limit %d", js(r), w.limit("acme", "api"))
	}
	if again := w.apply(more, Options{Migrate: "all"}); again.Migrated != 0 || again.Revision != r.Revision {
		t.Errorf("got %s", js(again))
	}
	// Back to what it was is a new version again: versions are never reused.
	if r = w.apply(base, Options{}); r.Plans["pro"] != "pro@3" {
		t.Errorf("got %s", js(r.Plans))
	}
	if _, err := w.try(base, Options{Migrate: "prro"}); usher.ErrorCode(err) != usher.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestS29_MigratesWhatIsToCome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(base, Options{})
	s := w.subscribe("acme", "free")
	plan := "pro"
	if _, err := w.c.PatchSubscription(t.Context(), env, usher.By{Actor: actor}, customers.Guard{}, s.ID,
		customers.SubscriptionPatch{Plan: &plan, When: "2026-05-01T00:00:00Z"}); err != nil {
		t.Fatal(err)
	}
	if r := w.apply(edit(base, "api: {limit: 100", "api: {limit: 200"), Options{Migrate: "pro"}); r.Migrated != 1 {
		t.Errorf("got %s", js(r))
	}
	got, err := w.c.Subscription(t.Context(), env, s.ID)
	if err != nil || got.Plan != "free@1" || js(got.Scheduled) != `[{"at":"2026-05-01T00:00:00Z","plan":"pro@2"}]` {
		t.Errorf("got %s %v", js(got), err)
	}
}

func TestS29_FixedOnceUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(base, Options{})
	// Nothing holds it yet: anything goes.
	w.apply(edit(base, "api: {kind: metered, meter: api}", "api: {kind: metered, meter: api, precision: 2}"), Options{})
	w.apply(base, Options{})
	w.subscribe("acme", "pro")
	for _, change := range [][2]string{
		{"api: {kind: metered, meter: api}", "api: {kind: metered, meter: api, precision: 2}"},
		{"api: {kind: metered, meter: api}", "api: {kind: metered, meter: tokens}"},
		{"{event: api.request}", "{event: api.call}"},
		{"{event: api.request}", "{event: api.request, where: {data.a: [b]}}"},
		{"{event: api.request}", "{event: api.request, sum: data.n}"},
	} {
		w.inUse(edit(base, change[0], change[1]), Options{}, "features.api")
	}
	// Other fields apply at once, and so does a meter that nothing used reads.
	w.apply(edit(base, "api: {kind: metered, meter: api}", "api: {kind: metered, meter: api, mode: warn, unit: call}", "event: llm",
		"event: llm.done"), Options{})

	// A grant is use as well.
	if _, err := w.c.AddGrant(t.Context(), env, usher.By{Actor: actor}, customers.Guard{}, "acme",
		customers.NewGrant{Feature: "tokens", Amount: "5", Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	w.inUse(edit(base, "tokens: {kind: metered, meter: tokens}", "tokens: {kind: credits}"), Options{}, "features.tokens")
}

// What was counted keeps its meaning, also when its feature was away for a while.
func TestS29_FixedByRecordedUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(base, Options{})
	if _, _, err := w.c.PutCustomer(t.Context(), env, usher.By{Actor: actor}, customers.Guard{}, "acme",
		customers.CustomerInput{}); err != nil {
		t.Fatal(err)
	}
	u := usage.New(usage.Config{DB: w.db, Live: w.l})
	defer u.Close(t.Context())
	d, err := u.Consume(t.Context(), env, usage.ConsumeOp{Customer: "acme", Feature: "api", Key: "k1", Amount: "1"})
	if err != nil || !d.Allowed {
		t.Fatalf("got %+v %v", d, err)
	}
	finer := edit(base, "api: {kind: metered, meter: api}", "api: {kind: metered, meter: api, precision: 2}")
	w.inUse(finer, Options{}, "features.api")
	without := "usher: 1\nfeatures: {sso: {kind: switch}}\nplans: {free: {default: true, entitlements: {sso: true}}}\n"
	w.inUse(without, Options{}, "features.api") // its window is open
	w.months.Store(3)
	w.inUse(finer, Options{}, "features.api")
	w.apply(without, Options{})
	w.inUse(finer, Options{}, "features.api")
	w.apply(base, Options{})
}

func TestS31_RemovingWhatIsInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(base, Options{})
	s := w.subscribe("acme", "pro", "pack")
	w.subscribe("old", "team")
	noSSO := edit(base, "  sso: {kind: switch}\n", "", "sso: true, ", "")
	w.inUse(noSSO, Options{}, "features.sso")
	w.inUse(edit(base, "  team: {entitlements: {seats: 5}}\n", ""), Options{}, "plans.team")
	w.inUse(edit(base, "addons:\n  pack: {entitlements: {api: {limit: 5, per: month}}}\n", ""), Options{}, "addons.pack")
	// Migrating in the same breath frees it.
	if r := w.apply(noSSO, Options{Migrate: "all"}); r.Migrated != 1 {
		t.Errorf("got %s", js(r))
	}
	// What was only held in the past is free to go, and so is what is canceled.
	if _, err := w.c.PatchSubscription(t.Context(), env, usher.By{Actor: actor}, customers.Guard{}, s.ID,
		customers.SubscriptionPatch{Addons: &[]customers.AddonInput{}}); err != nil {
		t.Fatal(err)
	}
	noPack := edit(noSSO, "addons:\n  pack: {entitlements: {api: {limit: 5, per: month}}}\n", "")
	w.apply(noPack, Options{})
	if _, err := w.c.PatchSubscription(t.Context(), env, usher.By{Actor: actor}, customers.Guard{}, "sub_002",
		customers.SubscriptionPatch{Status: usher.Canceled}); err != nil {
		t.Fatal(err)
	}
	noTeam := edit(noPack, "  team: {entitlements: {seats: 5}}\n", "")
	w.apply(noTeam, Options{})
	// An override keeps its feature.
	o, err := w.c.AddOverride(t.Context(), env, usher.By{Actor: actor}, customers.Guard{}, "acme",
		customers.NewOverride{Feature: "seats", Value: json.RawMessage(`3`), Reason: "r", Expires: "never"})
	if err != nil {
		t.Fatal(err)
	}
	noSeats := edit(noTeam, "  seats: {kind: seats}\n", "")
	w.inUse(noSeats, Options{}, "features.seats")
	if err := w.c.RemoveOverride(t.Context(), env, usher.By{Actor: actor}, customers.Guard{}, o.ID); err != nil {
		t.Fatal(err)
	}
	w.apply(noSeats, Options{})
}

// Who may do what comes into force with the catalogue, makes no versions, and may
// go again; the changes say what members gain and lose.
func TestRolesInForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plain := w.apply(base, Options{})
	w.subscribe("acme", "pro")
	roles := base + `permissions: {report.read: {}, report.export: {feature: sso, risk: high}}
roles:
  viewer: {permissions: [report.read]}
  analyst: {includes: [viewer], permissions: ["report.*"], seat: seats, when: "resource.properties.owner == subject.id"}
custom_roles: {ceiling: analyst}
`
	dry := w.apply(roles, Options{DryRun: true})
	if got := texts(dry.Changes); !strings.Contains(got, "new role analyst\n") ||
		!strings.Contains(got, "role analyst: gives report.export, report.read\n") || len(dry.Impact) != 0 {
		t.Errorf("got %s", js(dry))
	}
	first := w.apply(roles, Options{})
	if first.Hash == plain.Hash || js(first.Plans) != js(plain.Plans) || first.Revision != dry.Revision+1 {
		t.Errorf("got %s after %s", js(first), js(plain))
	}
	if again := w.apply("# the same\n"+roles, Options{}); again.Revision != first.Revision || len(again.Changes) != 0 {
		t.Errorf("got %s", js(again))
	}
	less := w.apply(edit(roles, ", report.export: {feature: sso, risk: high}", ""), Options{})
	if got, want := texts(less.Changes),
		"permission report.export removed\nrole analyst: loses report.export (custom roles lose it too)\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	gone := w.apply(base, Options{})
	if got := texts(gone.Changes); !strings.Contains(got, "role viewer removed: who holds it loses report.read\n") || gone.Hash != plain.Hash {
		t.Errorf("got %s", js(gone))
	}
	// A linked feature cannot go without its permission.
	_, err := w.try(edit(roles, "  sso: {kind: switch}\n", "", "sso: true, ", ""), Options{})
	if usher.ErrorCode(err) != usher.Invalid || !strings.Contains(err.Error(), "permissions.report.export.feature: there is no feature") {
		t.Errorf("got %v", err)
	}
}

func texts(changes []catalogfile.Change) string {
	var b strings.Builder
	for _, c := range changes {
		b.WriteString(c.Text + "\n")
	}
	return b.String()
}

func TestIfMatchAndHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, _, err := w.s.Get(t.Context(), env, 0); usher.ErrorCode(err) != usher.NotFound {
		t.Errorf("got %v", err)
	}
	for _, tag := range []string{"*", `"sha256:x"`} {
		if _, err := w.try(base, Options{IfMatch: tag}); usher.ErrorCode(err) != usher.PreconditionFailed {
			t.Errorf("%s: got %v", tag, err)
		}
	}
	first := w.apply(base, Options{})
	next := edit(base, "{limit: 10,", "{limit: 20,")
	second := w.apply(next, Options{IfMatch: `"nope", "` + first.Hash + `"`})
	if _, err := w.try(base, Options{IfMatch: `"` + first.Hash + `"`}); usher.ErrorCode(err) != usher.PreconditionFailed {
		t.Errorf("got %v", err)
	}
	row, source, err := w.s.Get(t.Context(), env, 0)
	if err != nil || string(source) != next || row.Hash != second.Hash || row.Actor != "key:k1" {
		t.Errorf("got %s %s %v", js(row), source, err)
	}
	page, more, err := w.s.Revisions(t.Context(), env, 0, 1)
	if err != nil || len(page) != 1 || page[0].Hash != second.Hash || more != second.Revision {
		t.Fatalf("got %s %d %v", js(page), more, err)
	}
	page, more, err = w.s.Revisions(t.Context(), env, more, 1)
	if err != nil || len(page) != 1 || page[0].Hash != first.Hash || more != 0 {
		t.Fatalf("got %s %d %v", js(page), more, err)
	}
	_, err = w.try("usher: 1\nplans: {a: {extends: b}}\nfoo: 1\n", Options{})
	var e *usher.Error
	if !errors.As(err, &e) || e.Code != usher.Invalid || len(e.Problems) != 2 ||
		!strings.HasPrefix(e.Problems[0].Location, "catalog.yaml:2:") {
		t.Errorf("got %v", err)
	}
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	server, err := testpg.Default()
	if errors.Is(err, testpg.ErrNoBinaries) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	dsn, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := worldOn(t, dsn)
	w.apply(base, Options{})
	w.subscribe("acme", "pro", "pack")
	more := edit(base, "api: {limit: 100", "api: {limit: 200", "{limit: 5,", "{limit: 6,")
	if r := w.apply(more, Options{Migrate: "all"}); r.Migrated != 1 || w.limit("acme", "api") != 206 {
		t.Errorf("got %s, limit %d", js(r), w.limit("acme", "api"))
	}
	w.inUse(edit(more, "addons:\n  pack: {entitlements: {api: {limit: 6, per: month}}}\n", ""), Options{}, "addons.pack")
}

// A customer's own role that joins two duties may be all that anybody holds.
func TestA12_ACustomRoleJoinsDuties(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	duties := base + `permissions: {payment.create: {}, payment.approve: {}}
roles:
  payer: {permissions: [payment.create]}
  approver: {permissions: [payment.approve]}
  boss: {permissions: ["**"]}
custom_roles: {ceiling: boss}
`
	r := w.apply(duties, Options{})
	w.subscribe("acme", "pro")
	_, err := w.db.ChangeDirectory(t.Context(), &store.DirectoryChange{Env: env, Customer: "acme", Catalog: r.Revision,
		Note:        store.Note{By: usher.By{Actor: usher.Actor{Kind: "test"}}, Action: "test", At: noon},
		Members:     []usher.Member{{ID: "ann", Type: "user", Active: true}},
		Roles:       []usher.Role{{Key: "both", Includes: []string{"approver", "payer"}}},
		Assignments: []usher.Assignment{{ID: "a", Holder: usher.Holder{ID: "ann"}, Role: "both", From: noon}}})
	if err != nil {
		t.Fatal(err)
	}
	w.inUse(duties+"separation: {four-eyes: {roles: [payer, approver]}}\n", Options{}, "separation.four-eyes")
}
