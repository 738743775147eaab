package decide_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/testpg"
)

const file = `usher: 1
features:
  sso:  {kind: switch, fail: open}
  docs: {kind: metered, precision: 2}
plans: {free: {default: true, entitlements: {sso: true, docs: {limit: "1.50", per: month}}}}
`

func service(t *testing.T) (*decide.Service, *live.Live, int64) {
	return serviceOn(t, filepath.Join(t.TempDir(), "u.db"))
}

func serviceOn(t *testing.T, dsn string) (*decide.Service, *live.Live, int64) {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	c, err := catalogfile.Parse("test", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-time.Hour)
	note := store.Note{By: usher.By{Actor: usher.Actor{Kind: "system"}}, Action: "test", At: at}
	rev, err := db.ApplyCatalog(t.Context(), store.CatalogChange{Env: usher.Sandbox, Note: note, Source: file,
		Canonical: string(catalogfile.Format(c)),
		Hash:      catalogfile.Hash(c), Plans: []usher.PlanVersion{{Version: 1, Plan: *catalogfile.Resolve(c, "free")}}})
	if err != nil {
		t.Fatal(err)
	}
	rev, err = db.ChangeCustomer(t.Context(), store.CustomerChange{Env: usher.Sandbox, Note: note, Customer: "acme", BasisCatalog: rev,
		Put: &usher.Customer{ID: "acme", CreatedAt: at, Clocks: []usher.Clock{{From: at, Anchor: at}}}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := live.New(t.Context(), live.Config{DB: db})
	if err != nil {
		t.Fatal(err)
	}
	return decide.New(l), l, rev
}

// A caller never sees older state than it asks for, and cannot ask for a state
// that does not exist.
func TestS06_MinRevision(t *testing.T) {
	t.Parallel()
	s, _, rev := service(t)
	d, err := s.Check(t.Context(), usher.Sandbox, decide.CheckQuery{Customer: "acme", Feature: "sso", MinRevision: rev}, nil)
	if err != nil || !d.Allowed || d.Revision != rev {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := s.Check(t.Context(), usher.Sandbox, decide.CheckQuery{Customer: "acme", Feature: "sso", MinRevision: rev + 1},
		nil); usher.ErrorCode(err) != usher.Invalid {
		t.Errorf("a revision to come: %v", err)
	}
}

// A batch has one revision and the order of its questions; amounts are read by
// each feature's precision.
func TestBatchAndEntitlements(t *testing.T) {
	t.Parallel()
	s, _, rev := service(t)
	ds, err := s.Batch(t.Context(), usher.Sandbox, []decide.CheckQuery{
		{Customer: "acme", Feature: "docs", Amount: "1.5"}, {Customer: "acme", Feature: "docs", Amount: "1.51"},
		{Customer: "nobody", Feature: "sso"}, {Customer: "acme", Feature: "nothing"}}, 0)
	if err != nil || len(ds) != 4 {
		t.Fatal(ds, err)
	}
	for i, want := range []usher.Reason{usher.WithinLimit, usher.LimitReached, usher.UnknownCustomer, usher.UnknownFeature} {
		if ds[i].Reason != want || ds[i].Revision != rev {
			t.Errorf("%d: %+v, want %s at %d", i, ds[i], want, rev)
		}
	}
	ds, err = s.Entitlements(t.Context(), usher.Sandbox, "acme", "", time.Time{})
	if err != nil || len(ds) != 2 || ds[0].Feature != "docs" || ds[0].Remaining != 150 || ds[1].Feature != "sso" {
		t.Errorf("%+v, %v", ds, err)
	}
}

// While the database is away, each feature's own policy answers, and says that
// it does (S06).
func TestS06_FailPolicyWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	server, err := testpg.Start()
	if err != nil {
		t.Skip("no PostgreSQL binaries: ", err)
	}
	defer server.Stop()
	dsn, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, l, rev := serviceOn(t, dsn)
	running, stop := context.WithCancel(t.Context())
	defer stop()
	go job.New(job.Config{}, l.Jobs()...).Run(running)
	check := func(customer, feature string) usher.Decision {
		t.Helper()
		d, err := s.Check(t.Context(), usher.Sandbox, decide.CheckQuery{Customer: customer, Feature: feature}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := check("acme", "docs"); !d.Allowed || d.Degraded {
		t.Errorf("before: %+v", d)
	}
	server.Stop()
	// A warm customer needs no database; once this node has noticed that it hears
	// of no changes, the answer says since when.
	for l.AsOf().IsZero() {
		if d := check("acme", "docs"); !d.Allowed {
			t.Fatalf("a warm customer needs no database: %+v", d)
		}
		time.Sleep(time.Millisecond)
	}
	if d := check("acme", "docs"); !d.Allowed || !d.Degraded || d.AsOf.IsZero() {
		t.Errorf("a warm customer, behind: %+v", d)
	}
	// So does one whose use could not be written, and is to be read again.
	l.Forget(usher.Sandbox, "acme")
	if d := check("acme", "docs"); !d.Allowed || d.Reason != usher.WithinLimit || !d.Degraded || d.AsOf.IsZero() {
		t.Errorf("a customer remembered: %+v", d)
	}
	// Never older than was asked for: then the fail policy answers (S06).
	newest, err := s.Check(t.Context(), usher.Sandbox, decide.CheckQuery{Customer: "acme", Feature: "docs", MinRevision: rev}, nil)
	if err != nil || newest.AsOf.IsZero() || newest.Revision != rev {
		t.Errorf("of its own revision: %+v, %v", newest, err)
	}
	// A batch says so as well.
	batch, err := s.Batch(t.Context(), usher.Sandbox, []decide.CheckQuery{{Customer: "acme", Feature: "docs"},
		{Customer: "cold", Feature: "sso"}}, 0)
	if err != nil || !batch[0].Allowed || !batch[0].Degraded || batch[0].AsOf.IsZero() || !batch[1].Degraded {
		t.Errorf("a batch: %+v, %v", batch, err)
	}
	if d := check("cold", "sso"); !d.Allowed || d.Reason != usher.ReasonUnavailable || !d.Degraded {
		t.Errorf("fail: open: %+v", d)
	}
	if d := check("cold", "docs"); d.Allowed || d.Reason != usher.ReasonUnavailable || !d.Degraded {
		t.Errorf("fail: closed: %+v", d)
	}
}

// What is remembered of a customer from before a change is of its own, older
// revision, and never stands for a newer one that the caller asks for (S06).
func TestS06_RememberedIsNeverPassedOffAsNewer(t *testing.T) {
	t.Parallel()
	server, err := testpg.Start()
	if err != nil {
		t.Skip("no PostgreSQL binaries: ", err)
	}
	defer server.Stop()
	dsn, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, l, rev := serviceOn(t, dsn)
	if d, err := s.Check(t.Context(), usher.Sandbox, decide.CheckQuery{Customer: "acme", Feature: "docs"}, nil); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	db, err := store.Open(t.Context(), store.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	newer, err := db.ChangeCustomer(t.Context(), store.CustomerChange{Env: usher.Sandbox,
		Note: store.Note{By: usher.By{Actor: usher.Actor{Kind: "system"}}, Action: "test", At: time.Now()}, Customer: "acme", Basis: rev,
		BasisCatalog: l.CatalogRevision(usher.Sandbox),
		Overrides: []usher.Override{{ID: "o", Customer: "acme", Feature: "docs", Deny: true, Reason: "fraud", CreatedBy: "test",
			CreatedAt: time.Now()}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Refresh(t.Context(), usher.Sandbox); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	d, err := s.Check(t.Context(), usher.Sandbox, decide.CheckQuery{Customer: "acme", Feature: "docs"}, nil)
	if err != nil || !d.Degraded || d.AsOf.IsZero() || d.Revision != rev {
		t.Errorf("from memory: %+v, %v; want revision %d, marked", d, err, rev)
	}
	d, err = s.Check(t.Context(), usher.Sandbox, decide.CheckQuery{Customer: "acme", Feature: "docs", MinRevision: newer}, nil)
	if err != nil || d.Allowed || d.Reason != usher.ReasonUnavailable {
		t.Errorf("asked for revision %d: %+v, %v; want the fail policy", newer, d, err)
	}
}
