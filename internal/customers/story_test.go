package customers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

const env = usher.Sandbox

const testCatalog = `
usher: 1
meters:
  api_calls: {event: api.request}
  storage: {event: storage.sampled, last: data.bytes}
features:
  sso: {kind: switch}
  retention: {kind: config, type: integer}
  ratio: {kind: config, type: decimal, precision: 2}
  api_calls: {kind: metered, meter: api_calls}
  storage: {kind: metered, meter: storage}
  credits: {kind: credits, precision: 3}
  members: {kind: seats}
plans:
  free:
    default: true
    entitlements: {api_calls: {limit: 100, per: month}, retention: 7, storage: {limit: 10, per: month}}
  pro:
    trial: 14 days
    entitlements: {sso: true, api_calls: {limit: 1000, per: month}, retention: 90, members: 3}
  yearly: {period: year, entitlements: {sso: true}}
  support: {family: support, entitlements: {credits: {limit: 5, per: month}}}
addons:
  api-pack: {entitlements: {api_calls: {limit: 50, per: month}}}
  huge: {entitlements: {api_calls: {limit: 9000000000000000000, per: month}}}
`

// world is the room on a real database with a settable clock.
type world struct {
	t  testing.TB
	db *store.DB
	l  *live.Live
	s  *Service
	n  atomic.Int64
}

var noon = at("2026-03-10T12:00:30Z")

func at(s string) time.Time {
	t, err := usher.ParseTime(s)
	if err != nil {
		panic(err)
	}
	return t
}

func atp(s string) *time.Time { t := at(s); return &t }

var who = usher.By{Actor: usher.Actor{Kind: "key", ID: "k1"}, RequestID: "req_1"}

func newWorld(t testing.TB) *world {
	return worldOn(t, filepath.Join(t.TempDir(), "usher.db"))
}

func worldOn(t testing.TB, dsn string) *world {
	t.Helper()
	db, err := store.Open(context.Background(), store.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	l, err := live.New(t.Context(), live.Config{DB: db, Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, db: db, l: l}
	w.s = New(Config{DB: db, Live: l, NewID: func(prefix string) string { return fmt.Sprintf("%s%04d", prefix, w.n.Add(1)) }})
	w.clock(noon)
	cat, err := catalogfile.Parse("test.yaml", []byte(testCatalog))
	if err != nil {
		t.Fatal(err)
	}
	c := store.CatalogChange{Env: env, Source: testCatalog, Canonical: testCatalog, Hash: "sha256:test", Basis: 1,
		Note: store.Note{By: usher.By{Actor: usher.Actor{Kind: "system"}}, Action: "test", Object: "test", At: noon}}
	for key := range cat.Plans {
		c.Plans = append(c.Plans, usher.PlanVersion{Version: 1, Plan: *catalogfile.Resolve(cat, key)})
	}
	for _, a := range cat.Addons {
		c.Addons = append(c.Addons, usher.AddonVersion{Version: 1, Addon: *a})
	}
	if _, err := db.ApplyCatalog(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	w.refresh()
	return w
}

func (w *world) refresh() {
	w.t.Helper()
	if err := w.l.Refresh(w.t.Context(), env); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) clock(t time.Time) {
	w.t.Helper()
	if err := w.db.SetClock(w.t.Context(), env, t, usher.By{Actor: usher.Actor{Kind: "system"}}, noon); err != nil {
		w.t.Fatal(err)
	}
	w.refresh()
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (w *world) put(id string, in CustomerInput) Customer {
	w.t.Helper()
	c, _, err := w.s.PutCustomer(w.t.Context(), env, who, Guard{}, id, in)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) subscribe(id string, in NewSubscription) Subscription {
	w.t.Helper()
	return must(w.s.Subscribe(w.t.Context(), env, who, Guard{}, id, in))(w.t)
}

func (w *world) patch(id string, in SubscriptionPatch) Subscription {
	w.t.Helper()
	return must(w.s.PatchSubscription(w.t.Context(), env, who, Guard{}, id, in))(w.t)
}

func (w *world) decide(id, feature string, t time.Time) usher.Decision {
	w.t.Helper()
	s := must(w.l.Snapshot(w.t.Context(), env, id, t))(w.t)
	return engine.Decide(s, engine.Query{Customer: id, Feature: feature, Amount: 1}, t)
}

func (w *world) load(id string) store.CustomerState {
	w.t.Helper()
	return must(w.db.LoadCustomer(w.t.Context(), env, id, 0))(w.t)
}

func wantCode(t testing.TB, err error, want usher.Code, location string) {
	t.Helper()
	var e *usher.Error
	if !errors.As(err, &e) || e.Code != want {
		t.Fatalf("got %v, want a %s error", err, want)
	}
	if location != "" && !slices.ContainsFunc(e.Problems, func(p usher.Problem) bool { return p.Location == location }) {
		t.Errorf("got problems %v, want one at %s", e.Problems, location)
	}
}

func str[T any](v T) *T { return &v }

func js(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestS18_Anchor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	clocks := func(id string) string { w.t.Helper(); return js(w.load(id).Customer.Clocks) }
	want := func(what, id, want string) {
		t.Helper()
		if got := clocks(id); got != want {
			t.Errorf("%s: got clocks %s, want %s", what, got, want)
		}
	}
	created := `{"from":"2026-03-10T12:00:00Z","anchor":"2026-03-10T12:00:00Z"}`

	if c := w.put("a", CustomerInput{Anchor: atp("2026-01-31T08:30:59Z")}); !c.Anchor.Equal(at("2026-01-31T08:30:00Z")) {
		t.Errorf("got anchor %s, want it cut to the minute", c.Anchor)
	}
	w.subscribe("a", NewSubscription{Plan: "pro", StartsAt: atp("2026-02-01T00:00:00Z")})
	want("given with the customer", "a", `[{"from":"2026-03-10T12:00:00Z","anchor":"2026-01-31T08:30:00Z"}]`)

	w.put("b", CustomerInput{})
	want("creation", "b", `[`+created+`]`)
	w.subscribe("b", NewSubscription{Plan: "pro", StartsAt: atp("2026-02-01T00:00:10Z"), Anchor: atp("2026-01-31T00:00:00Z")})
	want("the first subscription names one, from before there was a customer", "b",
		`[{"from":"2026-03-10T12:00:00Z","anchor":"2026-01-31T00:00:00Z"}]`)
	w.subscribe("b", NewSubscription{Plan: "free", Anchor: atp("2026-01-15T00:00:00Z"), StartsAt: atp("2026-04-01T00:00:30Z")})
	want("a later one names another, from its start", "b",
		`[{"from":"2026-03-10T12:00:00Z","anchor":"2026-01-31T00:00:00Z"},{"from":"2026-04-01T00:00:00Z","anchor":"2026-01-15T00:00:00Z"}]`)

	w.put("c", CustomerInput{})
	w.subscribe("c", NewSubscription{Plan: "pro", StartsAt: atp("2026-02-20T00:00:00Z")})
	want("the first start", "c", `[{"from":"2026-03-10T12:00:00Z","anchor":"2026-02-20T00:00:00Z"}]`)
	w.subscribe("c", NewSubscription{Plan: "free"})
	want("a later start changes nothing", "c", `[{"from":"2026-03-10T12:00:00Z","anchor":"2026-02-20T00:00:00Z"}]`)

	w.put("d", CustomerInput{})
	w.put("z", CustomerInput{Timezone: "Europe/Berlin"})
	w.put("f", CustomerInput{})
	w.put("e", CustomerInput{})
	w.subscribe("e", NewSubscription{Plan: "pro", StartsAt: atp("2026-06-01T00:00:00Z")})
	want("a start to come", "e", `[`+created+`,{"from":"2026-06-01T00:00:00Z","anchor":"2026-06-01T00:00:00Z"}]`)

	w.clock(at("2026-03-12T09:00:45Z"))
	w.subscribe("d", NewSubscription{Plan: "pro"})
	want("windows before the first subscription are cut", "d", `[`+created+`,{"from":"2026-03-12T09:00:00Z","anchor":"2026-03-12T09:00:00Z"}]`)
	w.subscribe("e", NewSubscription{Plan: "pro", StartsAt: atp("2026-05-01T00:00:00Z")})
	want("a start that never comes is forgotten", "e", `[`+created+`,{"from":"2026-05-01T00:00:00Z","anchor":"2026-05-01T00:00:00Z"}]`)

	w.subscribe("f", NewSubscription{Plan: "pro", StartsAt: atp("2026-02-20T00:00:00Z")})
	want("a first start from before there was a customer cuts nothing", "f",
		`[{"from":"2026-03-10T12:00:00Z","anchor":"2026-02-20T00:00:00Z"}]`)

	before := w.load("z").Revision
	w.put("z", CustomerInput{Timezone: "Europe/Berlin"})
	if got := w.load("z").Revision; got != before {
		t.Errorf("the same put made revision %d after %d", got, before)
	}
	w.put("z", CustomerInput{Timezone: "Asia/Tokyo", Anchor: atp("2026-03-10T12:00:00Z")})
	want("a new zone, the same anchor", "z",
		`[{"from":"2026-03-10T12:00:00Z","anchor":"2026-03-10T12:00:00Z","timezone":"Europe/Berlin"},`+
			`{"from":"2026-03-12T09:00:00Z","anchor":"2026-03-10T12:00:00Z","timezone":"Asia/Tokyo"}]`)
	w.put("z", CustomerInput{Timezone: "Asia/Tokyo", Name: "Z"})
	if c := w.load("z").Customer; c.Anchor == nil || len(c.Clocks) != 2 {
		t.Errorf("got %s, want the anchor to stay where none is given", js(c))
	}
	w.put("z", CustomerInput{Timezone: "Europe/Berlin"})
	want("back within the minute", "z", `[{"from":"2026-03-10T12:00:00Z","anchor":"2026-03-10T12:00:00Z","timezone":"Europe/Berlin"}]`)
}

func TestCustomerInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	long := make(map[string]string)
	for i := range 51 {
		long[fmt.Sprint(i)] = ""
	}
	for location, in := range map[string]CustomerInput{
		"timezone":   {Timezone: "Mars/Olympus"},
		"name":       {Name: string(make([]byte, 201))},
		"metadata":   {Metadata: long},
		"metadata.k": {Metadata: map[string]string{"k": "a\x00"}},
	} {
		_, _, err := w.s.PutCustomer(t.Context(), env, who, Guard{}, "a", in)
		wantCode(t, err, usher.Invalid, location)
	}
	_, _, err := w.s.PutCustomer(t.Context(), env, who, Guard{}, "a\n", CustomerInput{})
	wantCode(t, err, usher.Invalid, "id")
	for i := range 5 {
		w.put(fmt.Sprint("c", i), CustomerInput{Metadata: map[string]string{"n": fmt.Sprint(i)}})
	}
	first, next, err := w.s.Customers(t.Context(), env, "", 3)
	if err != nil || len(first) != 3 || next != "c2" {
		t.Fatalf("got %v %q %v", first, next, err)
	}
	rest, next, err := w.s.Customers(t.Context(), env, next, 3)
	if err != nil || len(rest) != 2 || next != "" {
		t.Fatalf("got %v %q %v", rest, next, err)
	}
}

func TestS36_DeleteAndRevive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", CustomerInput{Name: "Acme", Anchor: atp("2026-01-31T00:00:00Z"), Metadata: map[string]string{"x": "y"}})
	w.subscribe("a", NewSubscription{Plan: "pro"})
	must(w.s.AddGrant(t.Context(), env, who, Guard{}, "a", NewGrant{Feature: "api_calls", Amount: "10", Reason: "r"}))(t)
	w.clock(noon.AddDate(0, 0, 1))
	if err := w.s.DeleteCustomer(t.Context(), env, who, Guard{}, "a"); err != nil {
		t.Fatal(err)
	}
	if d := w.decide("a", "sso", noon); d.Reason != usher.UnknownCustomer {
		t.Errorf("got %s", d.Reason)
	}
	_, err := w.s.Customer(t.Context(), env, "a")
	wantCode(t, err, usher.NotFound, "")
	wantCode(t, w.s.DeleteCustomer(t.Context(), env, who, Guard{}, "a"), usher.NotFound, "")
	_, err = w.s.Subscribe(t.Context(), env, who, Guard{}, "a", NewSubscription{Plan: "pro"})
	wantCode(t, err, usher.NotFound, "")

	w.clock(noon.AddDate(0, 1, 0))
	c, created, err := w.s.PutCustomer(t.Context(), env, who, Guard{}, "a", CustomerInput{})
	if err != nil || !created || c.Name != "" || len(c.Metadata) != 0 || !c.Anchor.Equal(at("2026-01-31T00:00:00Z")) {
		t.Errorf("got %s %t %v, want the anchor and nothing else", js(c), created, err)
	}
	// Its trial was had: once ever (S35).
	s := w.subscribe("a", NewSubscription{Plan: "pro"})
	if s.Status == usher.Trialing {
		t.Errorf("got a second trial: %s", js(s))
	}
	if len(w.load("a").Grants) != 0 {
		t.Error("a grant came back")
	}
}

func TestS05_AddonsAreInstances(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", CustomerInput{})
	s := w.subscribe("a", NewSubscription{Plan: "pro", Addons: []AddonInput{{"api-pack", 0}, {"api-pack@1", 2}}})
	if got := js(s.Addons); got != `[{"addon":"api-pack@1","quantity":3}]` {
		t.Errorf("got %s", got)
	}
	if d := w.decide("a", "api_calls", noon); d.Limit != 1150 {
		t.Errorf("got limit %d, want 1000 + 3 × 50", d.Limit)
	}
	w.patch(s.ID, SubscriptionPatch{Addons: &[]AddonInput{{"api-pack", 2}}})
	if d := w.decide("a", "api_calls", noon); d.Limit != 1100 {
		t.Errorf("got limit %d, want 1000 + 2 × 50", d.Limit)
	}
	for location, in := range map[string][]AddonInput{
		"addons[0].quantity": {{"api-pack", 10_001}},
		"addons[1].quantity": {{"api-pack", 6000}, {"api-pack", 6000}},
		"addons[0].addon":    {{"api-pac", 1}},
		"addons":             {{"huge", 2}},
	} {
		_, err := w.s.PatchSubscription(t.Context(), env, who, Guard{}, s.ID, SubscriptionPatch{Addons: &in})
		wantCode(t, err, usher.Invalid, location)
	}
	_, err := w.s.Subscribe(t.Context(), env, who, Guard{}, "a", NewSubscription{Plan: "prro"})
	wantCode(t, err, usher.Invalid, "plan")
	_, err = w.s.Subscribe(t.Context(), env, who, Guard{}, "a", NewSubscription{Plan: "pro@2"})
	wantCode(t, err, usher.Invalid, "plan")
	_, err = w.s.Subscribe(t.Context(), env, who, Guard{}, "nobody", NewSubscription{Plan: "pro"})
	wantCode(t, err, usher.NotFound, "")
}

func TestS28_ReplacesWithinTheFamily(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", CustomerInput{})
	first := w.subscribe("a", NewSubscription{Plan: "pro", StartsAt: atp("2026-02-01T00:00:00Z")})
	other := w.subscribe("a", NewSubscription{Plan: "support"})
	later := w.subscribe("a", NewSubscription{Plan: "yearly", StartsAt: atp("2026-04-01T00:00:00Z")})
	get := func(id string) Subscription { return must(w.s.Subscription(t.Context(), env, id))(t) }
	if s := get(first.ID); s.EndsAt == nil || !s.EndsAt.Equal(at("2026-04-01T00:00:00Z")) || get(other.ID).EndsAt != nil {
		t.Errorf("got %s and %s", js(s), js(get(other.ID)))
	}
	if later.Status != usher.Scheduled || !later.CurrentPeriod.End.After(at("2026-12-01T00:00:00Z")) {
		t.Errorf("got %s", js(later))
	}
	now := w.subscribe("a", NewSubscription{Plan: "free"})
	if s := get(later.ID); s.EndsAt == nil || !s.EndsAt.Equal(s.StartsAt) || s.Status != usher.Ended {
		t.Errorf("a scheduled one that is replaced never begins, got %s", js(s))
	}
	if s := get(first.ID); s.Status != usher.Ended || !s.EndsAt.Equal(now.StartsAt) {
		t.Errorf("got %s", js(s))
	}
	if d := w.decide("a", "sso", noon); d.Allowed {
		t.Error("free has no sso")
	}
	w.patch(now.ID, SubscriptionPatch{Status: usher.Canceled})
	if d := w.decide("a", "api_calls", noon); !d.Allowed || d.Limit != 100 {
		t.Errorf("got %+v, want the default plan", d)
	}
	all, next, err := w.s.Subscriptions(t.Context(), env, "a", "", 2)
	if err != nil || len(all) != 2 || next == "" {
		t.Fatalf("got %v %q %v", all, next, err)
	}
}

func TestS35_Trials(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", CustomerInput{})
	s := w.subscribe("a", NewSubscription{Plan: "pro"})
	if s.Status != usher.Trialing || !s.TrialEndsAt.Equal(noon.AddDate(0, 0, 14)) {
		t.Fatalf("got %s", js(s))
	}
	w.clock(noon.AddDate(0, 0, 10))
	// Again within the family: the trial still ends when it would have.
	s = w.subscribe("a", NewSubscription{Plan: "pro"})
	if s.Status != usher.Trialing || !s.TrialEndsAt.Equal(noon.AddDate(0, 0, 14)) {
		t.Fatalf("a second subscription got another trial: %s", js(s))
	}
	w.clock(noon.AddDate(0, 0, 14))
	s = must(w.s.Subscription(t.Context(), env, s.ID))(t)
	if s.Status != usher.Ended || s.CurrentPeriod != nil {
		t.Fatalf("got %s", js(s))
	}
	_, err := w.s.PatchSubscription(t.Context(), env, who, Guard{}, s.ID, SubscriptionPatch{Plan: str("yearly")})
	wantCode(t, err, usher.Conflict, "")
	if s = w.patch(s.ID, SubscriptionPatch{Status: usher.Active}); s.Status != usher.Active {
		t.Fatalf("set to active later, got %s", js(s))
	}
	if d := w.decide("a", "sso", noon.AddDate(0, 0, 14)); !d.Allowed {
		t.Errorf("got %s", d.Reason)
	}

	w.put("b", CustomerInput{})
	if s = w.subscribe("b", NewSubscription{Plan: "pro", TrialEnd: MaybeTime{Given: true}}); s.Status != usher.Active {
		t.Errorf("null is no trial, got %s", js(s))
	}
	w.put("c", CustomerInput{})
	s = w.subscribe("c", NewSubscription{Plan: "yearly", TrialEnd: MaybeTime{true, atp("2026-06-01T00:00:00Z")}})
	if s.Status != usher.Trialing || !s.TrialEndsAt.Equal(at("2026-06-01T00:00:00Z")) {
		t.Errorf("got %s", js(s))
	}
	_, err = w.s.Subscribe(t.Context(), env, who, Guard{}, "c",
		NewSubscription{Plan: "pro", TrialEnd: MaybeTime{true, atp("2026-01-01T00:00:00Z")}, EndsAt: atp("2026-01-01T00:00:00Z")})
	wantCode(t, err, usher.Invalid, "trial_ends_at")
	wantCode(t, err, usher.Invalid, "ends_at")

	// A subscription that never began has had no trial.
	w.put("d", CustomerInput{})
	w.subscribe("d", NewSubscription{Plan: "pro", StartsAt: atp("2026-05-01T00:00:00Z")})
	if err := w.s.DeleteCustomer(t.Context(), env, who, Guard{}, "d"); err != nil {
		t.Fatal(err)
	}
	w.put("d", CustomerInput{})
	s = w.subscribe("d", NewSubscription{Plan: "pro", StartsAt: atp("2026-07-01T00:00:00Z")})
	if s.TrialEndsAt == nil || !s.TrialEndsAt.Equal(at("2026-07-15T00:00:00Z")) {
		t.Errorf("got %s, want a trial from 1 July", js(s))
	}
}

func TestS27_PastDue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", CustomerInput{})
	s := w.subscribe("a", NewSubscription{Plan: "yearly"})
	s = w.patch(s.ID, SubscriptionPatch{Status: usher.PastDueSt})
	if s.Status != usher.PastDueSt || !s.StatusSince.Equal(noon) {
		t.Fatalf("got %s", js(s))
	}
	w.clock(noon.AddDate(0, 0, 6))
	s = w.patch(s.ID, SubscriptionPatch{Status: usher.PastDueSt})
	if !s.StatusSince.Equal(noon) {
		t.Errorf("saying it again moved the grace to %s", s.StatusSince)
	}
	if d := w.decide("a", "sso", noon.AddDate(0, 0, 6)); !d.Allowed {
		t.Errorf("within the grace, got %s", d.Reason)
	}
	w.clock(noon.AddDate(0, 0, 7))
	if d := w.decide("a", "sso", noon.AddDate(0, 0, 7)); d.Allowed {
		t.Error("after the grace the default plan holds")
	}
}

func TestPatch_When(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", CustomerInput{Anchor: atp("2026-01-31T00:00:00Z")})
	s := w.subscribe("a", NewSubscription{Plan: "pro", TrialEnd: MaybeTime{Given: true}})
	s = w.patch(s.ID, SubscriptionPatch{Plan: str("free"), Status: usher.Suspended, When: "period_end"})
	if got := js(s.Scheduled); got != `[{"at":"2026-03-31T00:00:00Z","plan":"free@1","status":"suspended"}]` || s.Plan != "pro@1" {
		t.Fatalf("got %s", js(s))
	}
	s = w.patch(s.ID, SubscriptionPatch{Addons: &[]AddonInput{{"api-pack", 1}}, When: "2026-04-15T00:00:00Z"})
	if len(s.Scheduled) != 2 {
		t.Fatalf("got %s", js(s))
	}
	s = w.patch(s.ID, SubscriptionPatch{Plan: str("yearly")})
	if got := js(s.Scheduled); s.Plan != "yearly@1" || got != `[{"at":"2026-03-31T00:00:00Z","status":"suspended"},`+
		`{"at":"2026-04-15T00:00:00Z","addons":[{"addon":"api-pack@1","quantity":1}]}]` {
		t.Errorf("a plan now cancels a plan to come and nothing else, got %s %s", s.Plan, got)
	}
	s = w.patch(s.ID, SubscriptionPatch{Plan: str("pro"), When: "period_end"})
	if last := s.Scheduled[len(s.Scheduled)-1]; !last.At.Equal(at("2027-01-31T00:00:00Z")) {
		t.Errorf("the period of a yearly plan is a year, got %s", js(s.Scheduled))
	}
	if s = w.patch(s.ID, SubscriptionPatch{Status: usher.PastDueSt}); s.Status != usher.PastDueSt || s.Scheduled[0].Status != "" {
		t.Errorf("a status now cancels a status to come, got %s", js(s))
	}
	for _, c := range []struct {
		in       SubscriptionPatch
		code     usher.Code
		location string
	}{
		{SubscriptionPatch{}, usher.Invalid, ""},
		{SubscriptionPatch{Status: "trialing"}, usher.Invalid, "status"},
		{SubscriptionPatch{Status: usher.Active, When: "soon"}, usher.Invalid, "when"},
		{SubscriptionPatch{Status: usher.Active, When: "2026-03-01T00:00:00Z"}, usher.Invalid, "when"},
		{SubscriptionPatch{Plan: str("support")}, usher.Refused, ""},
		{SubscriptionPatch{EndsAt: MaybeTime{true, atp("2026-03-01T00:00:00Z")}}, usher.Invalid, "ends_at"},
	} {
		_, err := w.s.PatchSubscription(t.Context(), env, who, Guard{}, s.ID, c.in)
		wantCode(t, err, c.code, c.location)
	}
	_, err := w.s.PatchSubscription(t.Context(), env, who, Guard{}, "sub_none", SubscriptionPatch{Status: usher.Active})
	wantCode(t, err, usher.NotFound, "")

	// Ended by date: active revives it, unless another took its place.
	s = w.patch(s.ID, SubscriptionPatch{EndsAt: MaybeTime{true, atp("2026-03-20T00:00:00Z")}})
	w.clock(at("2026-03-20T00:00:00Z"))
	if s = w.patch(s.ID, SubscriptionPatch{Status: usher.Active}); s.Status != usher.Active || s.EndsAt != nil {
		t.Errorf("got %s", js(s))
	}
	w.subscribe("a", NewSubscription{Plan: "free"})
	_, err = w.s.PatchSubscription(t.Context(), env, who, Guard{}, s.ID, SubscriptionPatch{Status: usher.Active})
	wantCode(t, err, usher.Conflict, "")
}

func TestPreviewChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", CustomerInput{})
	s := w.subscribe("a", NewSubscription{Plan: "pro"})
	before := w.load("a")
	p := must(w.s.Preview(t.Context(), env, s.ID, SubscriptionPatch{Plan: str("free"), Addons: &[]AddonInput{{"api-pack", 1}}}))(t)
	var got []string
	for _, f := range p.Features {
		if f.Changed {
			got = append(got, fmt.Sprintf("%s %s/%d→%s/%d", f.Feature, f.Before.Reason, f.Before.Limit, f.After.Reason, f.After.Limit))
		}
	}
	want := []string{"api_calls within_limit/1000→within_limit/150", "members within_limit/3→not_entitled/0", "retention granted/0→granted/0",
		"sso granted/0→not_entitled/0", "storage not_entitled/0→within_limit/10"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if after := w.load("a"); js(after) != js(before) {
		t.Errorf("a preview changed %s to %s", js(before), js(after))
	}
	_, err := w.s.Preview(t.Context(), env, s.ID, SubscriptionPatch{Plan: str("support")})
	wantCode(t, err, usher.Refused, "")
}

// Two changes at once both apply: the one that comes second is computed anew.
func TestConcurrentPatchesBothApply(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", CustomerInput{})
	s := w.subscribe("a", NewSubscription{Plan: "pro"})
	cfg := w.s.cfg // of another node: no lock and no memory in common
	cfg.Live = must(live.New(t.Context(), live.Config{DB: w.db, Now: func() time.Time { return noon }}))(t)
	other := New(cfg)
	errs := make(chan error, 2)
	go func() {
		_, err := w.s.PatchSubscription(t.Context(), env, who, Guard{}, s.ID, SubscriptionPatch{Plan: str("free")})
		errs <- err
	}()
	go func() {
		_, err := other.PatchSubscription(t.Context(), env, who, Guard{}, s.ID, SubscriptionPatch{Addons: &[]AddonInput{{"api-pack", 4}}})
		errs <- err
	}()
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if s = must(w.s.Subscription(t.Context(), env, s.ID))(t); s.Plan != "free@1" || js(s.Addons) != `[{"addon":"api-pack@1","quantity":4}]` {
		t.Errorf("got %s", js(s))
	}
	// A change that came between is seen: the plan is loaded, changed behind, stored.
	once := false
	upgrade := func(h *held, c *store.CustomerChange) (none struct{}, made func(int64) struct{}, err error) {
		if !once {
			once = true
			w.patch(s.ID, SubscriptionPatch{Status: usher.PastDueSt})
		}
		next, _, err := h.patch(s.ID, SubscriptionPatch{Plan: str("yearly")})
		c.Subscriptions = []usher.Subscription{next}
		return none, func(int64) struct{} { return none }, err
	}
	_, err := change(t.Context(), other, env, who, Guard{}, "a", "test", upgrade)
	if s = must(w.s.Subscription(t.Context(), env, s.ID))(t); err != nil || s.Plan != "yearly@1" || s.Status != usher.PastDueSt {
		t.Errorf("got %s %v, want both changes", js(s), err)
	}
}

func TestS03_Overrides(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", CustomerInput{})
	add := func(feature, value string) (Override, error) {
		return w.s.AddOverride(t.Context(), env, who, Guard{}, "a", NewOverride{Feature: feature, Value: json.RawMessage(value), Reason: "beta",
			Expires: "never"})
	}
	for _, c := range []struct{ feature, value, want string }{
		{"sso", `true`, `true`},
		{"retention", `365`, `365`},
		{"ratio", `"1.5"`, `"1.50"`},
		{"api_calls", `{"limit": 5}`, `{"limit":5}`},
		{"api_calls", `{"add": -5}`, `{"add":-5}`},
		{"api_calls", `{"limit": 5, "per": {"every": 6, "unit": "hour"}, "overage": {"max": 2}}`,
			`{"limit":5,"overage":{"max":2},"per":{"every":6,"unit":"hour"}}`},
		{"api_calls", `"unlimited"`, `"unlimited"`},
		{"credits", `{"limit": "1.5", "per": "month"}`, `{"limit":"1.500","per":"month"}`},
		{"members", `5`, `{"limit":5}`},
		{"sso", `{"deny": true}`, `{"deny":true}`},
	} {
		o, err := add(c.feature, c.value)
		if err != nil || string(o.Value) != c.want || o.CreatedBy != "key:k1" {
			t.Errorf("%s %s: got %s %v, want value %s", c.feature, c.value, js(o), err, c.want)
			continue
		}
		// What is shown can be sent again.
		if _, err := add(c.feature, string(o.Value)); err != nil {
			t.Errorf("%s: %v", o.Value, err)
		}
	}
	if d := w.decide("a", "sso", noon); d.Reason != usher.Revoked {
		t.Errorf("got %s", d.Reason)
	}
	for _, c := range []struct{ feature, value, location string }{
		{"sso", `{"add": 1}`, "value.add"},
		{"nope", `true`, "feature"},
		{"sso", ``, "value"},
		{"sso", `1`, "value"},
	} {
		_, err := add(c.feature, c.value)
		wantCode(t, err, usher.Invalid, c.location)
	}
	w.put("b", CustomerInput{})
	_, err := w.s.AddOverride(t.Context(), env, who, Guard{}, "b", NewOverride{Feature: "credits", Value: json.RawMessage(`{"limit": 5}`),
		Reason: "x", Expires: "never"})
	wantCode(t, err, usher.Invalid, "value.per")
	for location, in := range map[string]NewOverride{
		"reason":     {Expires: "never"},
		"expires_at": {Reason: "x"},
		"expires":    {Reason: "x", Expires: "soon"},
	} {
		in.Feature, in.Value = "sso", json.RawMessage(`true`)
		_, err := w.s.AddOverride(t.Context(), env, who, Guard{}, "b", in)
		wantCode(t, err, usher.Invalid, location)
	}
	for _, in := range []NewOverride{{Expires: "never", ExpiresAt: atp("2027-01-01T00:00:00Z")}, {ExpiresAt: &noon}} {
		in.Feature, in.Value, in.Reason = "sso", json.RawMessage(`true`), "x"
		_, err := w.s.AddOverride(t.Context(), env, who, Guard{}, "b", in)
		wantCode(t, err, usher.Invalid, "expires_at")
	}
	o := must(w.s.AddOverride(t.Context(), env, who, Guard{}, "b", NewOverride{Feature: "sso", Value: json.RawMessage(`true`), Reason: "x",
		ExpiresAt: atp("2026-03-11T00:00:00Z")}))(t)
	if !w.decide("b", "sso", noon).Allowed {
		t.Error("the override gives nothing")
	}
	if err := w.s.RemoveOverride(t.Context(), env, who, Guard{}, o.ID); err != nil {
		t.Fatal(err)
	}
	if w.decide("b", "sso", noon).Allowed {
		t.Error("the override outlived its removal")
	}
	wantCode(t, w.s.RemoveOverride(t.Context(), env, who, Guard{}, o.ID), usher.NotFound, "")
}

func TestGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", CustomerInput{})
	g := must(w.s.AddGrant(t.Context(), env, who, Guard{}, "a", NewGrant{Feature: "credits", Amount: "12.5", Reason: "welcome",
		Priority: str(0)}))(t)
	if string(g.Amount) != `"12.500"` || g.Kind != usher.Promotion || g.Priority != 0 || !g.EffectiveAt.Equal(noon) {
		t.Errorf("got %s", js(g))
	}
	if d := w.decide("a", "credits", noon); d.Limit != 12500 {
		t.Errorf("got %+v", d)
	}
	if err := w.s.VoidGrant(t.Context(), env, who, Guard{}, g.ID); err != nil {
		t.Fatal(err)
	}
	before := w.load("a").Revision
	if err := w.s.VoidGrant(t.Context(), env, who, Guard{}, g.ID); err != nil || w.load("a").Revision != before {
		t.Errorf("voiding again: %v", err)
	}
	if d := w.decide("a", "credits", noon); d.Allowed {
		t.Error("a void grant gives")
	}
	wantCode(t, w.s.VoidGrant(t.Context(), env, who, Guard{}, "gr_none"), usher.NotFound, "")
	for _, feature := range []string{"sso", "members", "storage"} {
		_, err := w.s.AddGrant(t.Context(), env, who, Guard{}, "a", NewGrant{Feature: feature, Amount: "1", Reason: "r"})
		wantCode(t, err, usher.Refused, "")
	}
	for location, in := range map[string]NewGrant{
		"amount":     {Amount: "1.5"},
		"reason":     {Amount: "1", Reason: " \n"},
		"priority":   {Amount: "1", Priority: str(256)},
		"kind":       {Amount: "1", Kind: "gift"},
		"expires_at": {Amount: "1", ExpiresAt: &noon},
	} {
		in.Feature = "api_calls"
		if in.Reason == "" {
			in.Reason = "r"
		}
		_, err := w.s.AddGrant(t.Context(), env, who, Guard{}, "a", in)
		wantCode(t, err, usher.Invalid, location)
	}
	must(w.s.AddGrant(t.Context(), env, who, Guard{}, "a", NewGrant{Feature: "api_calls", Amount: "9223372036854775807", Reason: "r"}))(t)
	_, err := w.s.AddGrant(t.Context(), env, who, Guard{}, "a", NewGrant{Feature: "api_calls", Amount: "1", Reason: "r"})
	wantCode(t, err, usher.Invalid, "amount")
	all, next, err := w.s.Grants(t.Context(), env, "a", "", 1)
	if err != nil || len(all) != 1 || all[0].VoidedAt == nil || next != g.ID {
		t.Errorf("got %s %q %v", js(all), next, err)
	}
}

func TestS13_AnswerIsStoredWithTheChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("a", CustomerInput{})
	call := Call{Key: "k", Name: "createGrant", Object: "a", Body: map[string]any{"amount": 5}, Status: 201}
	times := 0
	give := func(c Call) (Grant, bool, error) {
		return Once(t.Context(), w.s, env, Guard{}, c, func(g Guard) (Grant, error) {
			times++
			return w.s.AddGrant(t.Context(), env, who, g, "a", NewGrant{Feature: "api_calls", Amount: "5", Reason: "<r>"})
		})
	}
	g, replayed, err := give(call)
	if err != nil || replayed {
		t.Fatal(replayed, err)
	}
	a := must(w.db.Answer(t.Context(), env, "k"))(t)
	var stored Grant
	if err := json.Unmarshal(a.Body, &stored); err != nil || js(stored) != js(g) || stored.Revision != w.load("a").Revision {
		t.Errorf("got %s %v, want %s", a.Body, err, js(g))
	}
	call.Body = map[string]any{"amount": "5.0"} // the same number
	if again, replayed, err := give(call); err != nil || !replayed || js(again) != js(g) || times != 1 || len(w.load("a").Grants) != 1 {
		t.Errorf("the same call again: got %s %v %v after %d", js(again), replayed, err, times)
	}
	for _, other := range []Call{{Key: "k", Name: "createGrant", Object: "b", Body: call.Body},
		{Key: "k", Name: "createOverride", Object: "a", Body: call.Body},
		{Key: "k", Name: "createGrant", Object: "a", Body: 6}} {
		if _, _, err := give(other); usher.ErrorCode(err) != usher.KeyReused || times != 1 {
			t.Errorf("%+v: got %v, want key_reused", other, err)
		}
	}
	// Another call got the key between reading and writing.
	guard := Guard{answer: &store.StoredAnswer{Key: "k", Route: "createGrant", BodyHash: []byte{1}, Status: 201}}
	_, err = w.s.AddGrant(t.Context(), env, who, guard, "a", NewGrant{Feature: "api_calls", Amount: "5", Reason: "<r>"})
	if !errors.Is(err, store.ErrKeyTaken) || len(w.load("a").Grants) != 1 {
		t.Errorf("got %v", err)
	}
}

// One whole story on PostgreSQL.
func TestPostgres(t *testing.T) {
	t.Parallel()
	server, err := testpg.Default()
	if errors.Is(err, testpg.ErrNoBinaries) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	w := worldOn(t, must(server.NewDatabase(t.Context()))(t))
	w.put("Ärger/ä:%", CustomerInput{Name: "Acme", Anchor: atp("2026-01-31T00:00:00Z")})
	s := w.subscribe("Ärger/ä:%", NewSubscription{Plan: "pro", Addons: []AddonInput{{"api-pack", 2}}})
	w.patch(s.ID, SubscriptionPatch{Plan: str("free"), When: "period_end"})
	o := must(w.s.AddOverride(t.Context(), env, who, Guard{}, "Ärger/ä:%", NewOverride{Feature: "retention", Value: json.RawMessage(`365`),
		Reason: "x", Expires: "never"}))(t)
	g := must(w.s.AddGrant(t.Context(), env, who, Guard{}, "Ärger/ä:%", NewGrant{Feature: "api_calls", Amount: "5", Reason: "r"}))(t)
	if d := w.decide("Ärger/ä:%", "api_calls", noon); d.Limit != 1105 {
		t.Errorf("got %+v", d)
	}
	if err := w.s.RemoveOverride(t.Context(), env, who, Guard{}, o.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.s.VoidGrant(t.Context(), env, who, Guard{}, g.ID); err != nil {
		t.Fatal(err)
	}
	w.clock(at("2026-03-31T00:00:00Z"))
	w.patch(s.ID, SubscriptionPatch{Status: usher.Active})
	if d := w.decide("Ärger/ä:%", "api_calls", at("2026-03-31T00:00:00Z")); d.Limit != 200 {
		t.Errorf("got %+v", d)
	}
	if err := w.s.DeleteCustomer(t.Context(), env, who, Guard{}, "Ärger/ä:%"); err != nil {
		t.Fatal(err)
	}
	w.put("Ärger/ä:%", CustomerInput{})
	if subs, _, err := w.s.Subscriptions(t.Context(), env, "Ärger/ä:%", "", 10); err != nil || len(subs) != 1 ||
		subs[0].Status != usher.Ended {
		t.Errorf("got %s %v", js(subs), err)
	}
}
