package store

import (
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

// A reader that follows the log while many write sees every revision once, in
// order, and never one before those below it.
func TestS06_RevisionsAreDenseAndVisibleInOrder(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		const writers, each = 16, 8
		ids := make([]string, writers)
		for i := range ids {
			ids[i] = fmt.Sprintf("customer %d", i)
		}
		var wg sync.WaitGroup
		var done atomic.Bool
		for _, id := range ids {
			wg.Go(func() {
				var basis int64
				for range each {
					revision, err := db.ChangeCustomer(t.Context(), CustomerChange{Env: env, Note: note("put", day(1)), Customer: id,
						Basis: basis, Put: customer(id)})
					if err != nil {
						t.Error(err)
						return
					}
					if revision <= basis {
						t.Errorf("revision %d follows %d", revision, basis)
					}
					basis = revision
				}
			})
		}
		go func() { wg.Wait(); done.Store(true) }()
		var seen int64
		for last := false; ; {
			last = done.Load()
			changes, err := db.ChangesSince(t.Context(), env, seen)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range changes {
				if c.Revision != seen+1 {
					t.Fatalf("revision %d was visible after %d", c.Revision, seen)
				}
				seen = c.Revision
			}
			if last && len(changes) == 0 {
				break
			}
		}
		if seen != writers*each {
			t.Errorf("%d changes made %d revisions", writers*each, seen)
		}
		all, err := db.Environments(t.Context())
		if err != nil || all[env].Revision != seen || all[usher.Sandbox].Revision != 0 || len(all) != 2 {
			t.Errorf("Environments: got %v, %v", all, err)
		}
	})
}

func TestS06_ChangesSayWhoAndWhat(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		put(t, db, "acme")
		apply(t, db, CatalogChange{Hash: "one"})
		got, err := db.ChangesSince(t.Context(), env, 0)
		want := []Change{{1, "acme", false, day(1), "key:test", "test", "it", "req_1"},
			{2, "", false, day(1), "key:test", "catalog.apply", "it", "req_1"}}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		for i := range maxChanges {
			write(t, db, `INSERT INTO change (env, revision, at, actor, action, customer, object, request_id)
				VALUES ('production', $1, 0, '', '', 'x', '', '')`, int64(i+3))
		}
		if got, err := db.ChangesSince(t.Context(), env, 1); err != nil || len(got) != maxChanges || got[0].Revision != 2 {
			t.Errorf("got %d changes, %v, want %d", len(got), err, maxChanges)
		}
	})
}

func TestS11_Clock(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		set := func(at time.Time) error {
			return db.SetClock(t.Context(), usher.Sandbox, at, bySystem, time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
		}
		wantCode(t, db.SetClock(t.Context(), usher.Production, day(1), bySystem, day(1)), usher.Refused)
		epoch := time.Unix(0, 0).UTC()
		if err := set(epoch); err != nil {
			t.Fatalf("the first may be any instant: %v", err)
		}
		if e, err := db.Environment(t.Context(), usher.Sandbox); err != nil || !e.Clock.Equal(epoch) || e.Clock.IsZero() ||
			e.Revision != 1 {
			t.Errorf("got %+v, %v, want the clock at 1970 and revision 1", e, err)
		}
		for _, at := range []time.Time{day(5), day(5)} { // standing still is allowed
			if err := set(at); err != nil {
				t.Error(err)
			}
		}
		wantCode(t, set(day(5).Add(-time.Microsecond)), usher.Conflict)
		if e, err := db.Environment(t.Context(), usher.Sandbox); err != nil || !e.Clock.Equal(day(5)) || e.Revision != 3 {
			t.Errorf("got %+v, %v, want the clock at %s and revision 3", e, err, day(5))
		}
		if s := load(t, db, usher.Sandbox, "nobody", 0); !s.Clock.Equal(day(5)) {
			t.Errorf("LoadCustomer: the clock is %s, want %s", s.Clock, day(5))
		}
		changes, err := db.ChangesSince(t.Context(), usher.Sandbox, 2)
		if err != nil || len(changes) != 1 || !changes[0].At.Equal(day(5)) || changes[0].Action != "clock.set" {
			t.Errorf("recorded: %+v, %v", changes, err)
		}
		if e, err := db.Environment(t.Context(), usher.Production); err != nil || !e.Clock.IsZero() {
			t.Errorf("production: got %+v, %v, want real time", e, err)
		}
	})
}

// Once something has happened in real time, the first clock may not go before it.
func TestS11_FirstClockOfAUsedSandbox(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		now := day(10)
		change(t, db, CustomerChange{Env: usher.Sandbox, Customer: "acme", Put: customer("acme")})
		change(t, db, CustomerChange{Env: usher.Sandbox, Customer: "acme", Delete: true}) // it was there all the same
		wantCode(t, db.SetClock(t.Context(), usher.Sandbox, day(9), bySystem, now), usher.Conflict)
		if err := db.SetClock(t.Context(), usher.Sandbox, day(10), bySystem, now); err != nil {
			t.Error(err)
		}
	})
	each(t, func(t *testing.T, db *DB) {
		now := day(10)
		apply(t, db, CatalogChange{Env: usher.Sandbox})
		wantCode(t, db.SetClock(t.Context(), usher.Sandbox, day(9), bySystem, now), usher.Conflict)
		if err := db.SetClock(t.Context(), usher.Sandbox, day(11), bySystem, now); err != nil {
			t.Error(err)
		}
	})
}
