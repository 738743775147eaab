package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/testpg"
)

func TestMain(m *testing.M) {
	if file := os.Getenv("STORE_TEST_OPEN"); file != "" {
		openForParent(file) // see TestOneProcessOwnsAFile
	}
	testpg.Main(m)
}

// each runs a story on a fresh database of each kind.
func each(t *testing.T, story func(t *testing.T, db *DB)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		story(t, openTest(t, filepath.Join(t.TempDir(), "usher.db")))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		story(t, openTest(t, postgresDSN(t)))
	})
}

func postgresDSN(t testing.TB) string {
	t.Helper()
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
	return dsn
}

func openTest(t *testing.T, dsn string) *DB {
	t.Helper()
	db, err := Open(context.Background(), Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

const env = usher.Production

// day is midnight of a day in January 2026.
func day(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }

func note(action string, at time.Time) Note {
	return Note{By: usher.By{Actor: usher.Actor{Kind: "key", ID: "test"}, RequestID: "req_1"}, Action: action, Object: "it", At: at}
}

func customer(id string) *usher.Customer {
	anchor := day(1)
	return &usher.Customer{ID: id, Name: "Acme " + id, Timezone: "Europe/Berlin", Anchor: &anchor, CreatedAt: day(1),
		Metadata: map[string]string{"crm": "42"}, Clocks: []usher.Clock{{From: day(1), Anchor: anchor, Timezone: "Europe/Berlin"}}}
}

func subscription(id, customer, plan string) usher.Subscription {
	ref, err := usher.ParseRef("plan", plan)
	if err != nil {
		panic(err)
	}
	return usher.Subscription{ID: id, Customer: customer, Family: "main", StartsAt: day(1), CreatedAt: day(1),
		Phases: []usher.Phase{{At: day(1), Plan: &usher.HeldPlan{Ref: ref}, Addons: &[]usher.HeldAddon{}, Status: usher.Active}}}
}

func override(id, customer, feature string) usher.Override {
	return usher.Override{ID: id, Customer: customer, Feature: feature, Deny: true, Reason: "test", CreatedBy: "key:test",
		CreatedAt: day(1)}
}

func grant(id, customer, feature string, amount int64) usher.Grant {
	return usher.Grant{ID: id, Customer: customer, Feature: feature, Amount: amount, Kind: usher.Promotion, Priority: 100,
		EffectiveAt: day(1), Reason: "test", CreatedBy: "key:test", CreatedAt: day(1)}
}

// change applies c, computed from the newest state, and returns its revision.
func change(t *testing.T, db *DB, c CustomerChange) int64 {
	t.Helper()
	if c.Env == "" {
		c.Env = env
	}
	if c.Note.Actor.Kind == "" {
		c.Note = note("test", day(1))
	}
	s := load(t, db, c.Env, c.Customer, 0)
	c.Basis, c.BasisCatalog = s.Revision, s.CatalogRevision
	revision, err := db.ChangeCustomer(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func put(t *testing.T, db *DB, id string) int64 {
	t.Helper()
	return change(t, db, CustomerChange{Customer: id, Put: customer(id)})
}

func load(t *testing.T, db *DB, env usher.Environment, id string, asKnown int64) CustomerState {
	t.Helper()
	s, err := db.LoadCustomer(t.Context(), env, id, asKnown)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// apply puts a catalogue in force that only matters for its revision.
func apply(t *testing.T, db *DB, c CatalogChange) int64 {
	t.Helper()
	if c.Env == "" {
		c.Env = env
	}
	if c.Note.Actor.Kind == "" {
		c.Note = note("catalog.apply", day(1))
	}
	e, err := db.Environment(t.Context(), c.Env)
	if err != nil {
		t.Fatal(err)
	}
	c.Basis = e.Revision
	revision, err := db.ApplyCatalog(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// write runs statements that only the usage room's writer has in earnest.
func write(t *testing.T, db *DB, text string, args ...any) {
	t.Helper()
	if _, err := db.w.ExecContext(t.Context(), text, args...); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, want usher.Code) {
	t.Helper()
	if err == nil || usher.ErrorCode(err) != want {
		t.Errorf("got error %v (%s), want code %s", err, usher.ErrorCode(err), want)
	}
}
