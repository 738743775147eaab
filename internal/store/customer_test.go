package store

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

func TestCustomerComesBackAsItWentIn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		epoch := time.Unix(0, 0).UTC() // an anchor at 0 is not "none"
		ends, limit := day(20), int64(1)<<62
		c := customer("acme")
		c.Anchor = &epoch
		c.Clocks = append(c.Clocks, usher.Clock{From: day(9).Add(time.Microsecond), Anchor: epoch})
		sub := subscription("sub_1", "acme", "pro@3")
		sub.EndsAt = &ends
		sub.Phases[0].Plan.Pinned = true
		sub.Phases = append(sub.Phases, usher.Phase{At: day(5),
			Addons: &[]usher.HeldAddon{{Addon: usher.Ref{Key: "api-pack", Version: 1}, Quantity: 2}}})
		o := override("ov_1", "acme", "api_calls")
		o.Deny, o.Set = false, &usher.OverrideSet{Limit: &limit, Per: &usher.Period{Every: 6, Unit: usher.Hour}}
		g := grant("gr_1", "acme", "api_calls", 1<<62)
		revision := change(t, db, CustomerChange{Customer: "acme", Put: c, Subscriptions: []usher.Subscription{sub},
			Overrides: []usher.Override{o}, Grants: []usher.Grant{g}})

		got := load(t, db, env, "acme", 0)
		want := CustomerState{Customer: c, Subscriptions: []usher.Subscription{sub}, Overrides: []usher.Override{o},
			Grants:   []usher.Grant{g},
			Revision: revision, EnvRevision: revision}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		if one, err := db.Customer(t.Context(), env, "acme"); err != nil || !reflect.DeepEqual(&one, c) {
			t.Errorf("Customer: got %+v, %v, want %+v", one, err, c)
		}
		if one, err := db.Subscription(t.Context(), env, "sub_1"); err != nil || !reflect.DeepEqual(one, sub) {
			t.Errorf("Subscription: got %+v, %v, want %+v", one, err, sub)
		}
		if one, err := db.Override(t.Context(), env, "ov_1"); err != nil || !reflect.DeepEqual(one, o) {
			t.Errorf("Override: got %+v, %v, want %+v", one, err, o)
		}
		if one, err := db.Grant(t.Context(), env, "gr_1"); err != nil || !reflect.DeepEqual(one, g) {
			t.Errorf("Grant: got %+v, %v, want %+v", one, err, g)
		}
	})
}

func TestI10_EnvironmentsAreApart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		change(t, db, CustomerChange{Customer: "acme", Put: customer("acme"),
			Subscriptions: []usher.Subscription{subscription("sub_1", "acme", "pro@1")},
			Overrides:     []usher.Override{override("ov_1", "acme", "sso")}, Grants: []usher.Grant{grant("gr_1", "acme", "api", 1)}})
		ctx := t.Context()
		if s := load(t, db, usher.Sandbox, "acme", 0); !reflect.DeepEqual(s, CustomerState{}) {
			t.Errorf("sandbox sees %+v", s)
		}
		_, err := db.Customer(ctx, usher.Sandbox, "acme")
		wantCode(t, err, usher.NotFound)
		_, err = db.Subscription(ctx, usher.Sandbox, "sub_1")
		wantCode(t, err, usher.NotFound)
		_, err = db.Override(ctx, usher.Sandbox, "ov_1")
		wantCode(t, err, usher.NotFound)
		_, err = db.Grant(ctx, usher.Sandbox, "gr_1")
		wantCode(t, err, usher.NotFound)
		if all, err := db.Customers(ctx, usher.Sandbox, "", 10); err != nil || len(all) != 0 {
			t.Errorf("Customers: got %v, %v, want none", all, err)
		}
		if h, err := db.Holders(ctx, usher.Sandbox, day(1)); err != nil || len(h) != 0 {
			t.Errorf("Holders: got %v, %v, want none", h, err)
		}
		if use, err := db.FeatureUse(ctx, usher.Sandbox, day(1)); err != nil || len(use) != 0 {
			t.Errorf("FeatureUse: got %v, %v, want none", use, err)
		}
		if c, err := db.ChangesSince(ctx, usher.Sandbox, 0); err != nil || len(c) != 0 {
			t.Errorf("ChangesSince: got %v, %v, want none", c, err)
		}
		_, err = db.LoadCustomer(ctx, "staging", "acme", 0)
		wantCode(t, err, usher.NotFound)
		_, err = db.ChangeCustomer(ctx, CustomerChange{Env: "staging", Customer: "acme", Put: customer("acme")})
		wantCode(t, err, usher.NotFound)
	})
}

// "What did we answer, and why, on 3 May as known then?" has an answer.
func TestS30_AsKnownThen(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		free, pro := subscription("sub_1", "acme", "free@1"), subscription("sub_1", "acme", "pro@1")
		moved := customer("acme")
		moved.Clocks = append(slices.Clone(moved.Clocks), usher.Clock{From: day(5), Anchor: day(5)})
		at := func(n int) Note { return note("test", day(n)) }

		catalog := apply(t, db, CatalogChange{Hash: "one", Note: at(2)})
		r1 := change(t, db, CustomerChange{Customer: "acme", Note: at(3), Put: customer("acme"), Subscriptions: []usher.Subscription{free},
			Overrides: []usher.Override{override("ov_1", "acme", "sso")}})
		other := change(t, db, CustomerChange{Customer: "other", Note: at(4), Put: customer("other")})
		r2 := change(t, db, CustomerChange{Customer: "acme", Note: at(5), Put: moved, Subscriptions: []usher.Subscription{pro},
			CloseOverrides: []string{"ov_1"}, Grants: []usher.Grant{grant("gr_1", "acme", "api", 5)}})
		r3 := apply(t, db, CatalogChange{Hash: "two", Note: at(6)})
		r4 := change(t, db, CustomerChange{Customer: "acme", Note: at(7), Delete: true})

		type known struct {
			Clocks, Subscriptions, Overrides, Grants int
			Plan                                     string
			Catalog                                  int64
		}
		for _, c := range []struct {
			name     string
			revision int64
			want     known
		}{
			{"before it came", catalog, known{Catalog: catalog}},
			{"first", r1, known{Clocks: 1, Subscriptions: 1, Overrides: 1, Plan: "free@1", Catalog: catalog}},
			{"another customer's change", other, known{Clocks: 1, Subscriptions: 1, Overrides: 1, Plan: "free@1", Catalog: catalog}},
			{"second", r2, known{Clocks: 2, Subscriptions: 1, Grants: 1, Plan: "pro@1", Catalog: catalog}},
			{"new catalogue", r3, known{Clocks: 2, Subscriptions: 1, Grants: 1, Plan: "pro@1", Catalog: r3}},
			{"deleted", r4, known{Catalog: r3}},
			{"now", 0, known{Catalog: r3}},
		} {
			s := load(t, db, env, "acme", c.revision)
			got := known{Subscriptions: len(s.Subscriptions), Overrides: len(s.Overrides), Grants: len(s.Grants),
				Catalog: s.CatalogRevision}
			if s.Customer != nil {
				got.Clocks = len(s.Customer.Clocks)
			}
			if len(s.Subscriptions) > 0 {
				got.Plan = s.Subscriptions[0].Phases[0].Plan.String()
			}
			if got != c.want {
				t.Errorf("as known %s (%d): got %+v, want %+v", c.name, c.revision, got, c.want)
			}
			if s.EnvRevision != r4 || s.Revision != r4 {
				t.Errorf("as known %s: revisions are %d and %d, want today's, %d", c.name, s.Revision, s.EnvRevision, r4)
			}
		}
		for _, c := range []struct {
			at   time.Time
			want int64
		}{{day(1).Add(-1), 0}, {day(3).Add(-time.Microsecond), catalog}, {day(3), r1}, {day(4), other}, {day(5), r2}, {day(30), r4}} {
			if got, err := db.RevisionAt(t.Context(), env, c.at); err != nil || got != c.want {
				t.Errorf("RevisionAt(%s): got %d, %v, want %d", c.at, got, err, c.want)
			}
		}
		_, err := db.LoadCustomer(t.Context(), env, "acme", r4+1)
		wantCode(t, err, usher.Invalid)
		_, err = db.LoadCustomer(t.Context(), env, "acme", -1)
		wantCode(t, err, usher.Invalid)
	})
}

// dump reads every dated row, its end apart.
func dump(t *testing.T, db *DB) map[string]*int64 {
	t.Helper()
	all := map[string]*int64{}
	for table, columns := range map[string]string{
		"customer_clock": "env || '|' || id || '|' || clocks || '|' || recorded_from",
		"subscription": "env || '|' || id || '|' || customer || '|' || family || '|' || body || '|' || holds || '|' || ends_at" +
			" || '|' || recorded_from",
		"overrides": "env || '|' || id || '|' || customer || '|' || feature || '|' || body || '|' || ends_at" +
			" || '|' || recorded_from",
		"grants": "env || '|' || id || '|' || customer || '|' || feature || '|' || body || '|' || ends_at" +
			" || '|' || recorded_from",
	} {
		rows, err := db.r.QueryContext(t.Context(), `SELECT `+columns+`, recorded_until FROM `+table)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var key string
			var until *int64
			if err := rows.Scan(&key, &until); err != nil {
				t.Fatal(err)
			}
			if _, twice := all[table+":"+key]; twice {
				t.Errorf("%s: a row is there twice: %s", table, key)
			}
			all[table+":"+key] = until
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// Whatever is done, rows that were there stay as they were, but for one closing.
func TestS30_ClosingIsTheOnlyUpdate(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		acme := func(c CustomerChange) int64 { c.Customer = "acme"; return change(t, db, c) }
		renamed, moved := customer("acme"), customer("acme")
		renamed.Name = "Acme Inc."
		moved.Clocks = append(slices.Clone(moved.Clocks), usher.Clock{From: day(5), Anchor: day(5)})
		voided := grant("gr_1", "acme", "api", 5)
		voided.VoidedAt = new(day(3))
		steps := []func() int64{
			func() int64 { return put(t, db, "acme") },
			func() int64 { return put(t, db, "other") },
			func() int64 { return apply(t, db, CatalogChange{Hash: "one"}) },
			func() int64 {
				return acme(CustomerChange{Subscriptions: []usher.Subscription{subscription("sub_1", "acme", "free@1"),
					subscription("sub_2", "acme", "pro@1")}})
			},
			func() int64 { return acme(CustomerChange{Put: renamed}) },
			func() int64 { return acme(CustomerChange{Put: moved}) },
			func() int64 {
				return acme(CustomerChange{Overrides: []usher.Override{override("ov_1", "acme", "sso"),
					override("ov_2", "acme", "sso")}, Grants: []usher.Grant{grant("gr_1", "acme", "api", 5)}})
			},
			func() int64 { return acme(CustomerChange{CloseOverrides: []string{"ov_1"}}) },
			func() int64 { return acme(CustomerChange{Grants: []usher.Grant{voided}}) },
			func() int64 { return acme(CustomerChange{CloseGrants: []string{"gr_1"}}) },
			func() int64 {
				return apply(t, db, CatalogChange{Hash: "two", Migrate: []usher.Subscription{subscription("sub_1", "acme", "free@2")}})
			},
			func() int64 { return acme(CustomerChange{Delete: true, CloseOverrides: []string{"ov_2"}}) },
			func() int64 { return acme(CustomerChange{Put: moved}) },
		}
		for i, step := range steps {
			before := dump(t, db)
			revision := step()
			after := dump(t, db)
			for key, until := range before {
				now, there := after[key]
				switch {
				case !there:
					t.Errorf("step %d: gone or overwritten: %s", i, key)
				case until != nil && (now == nil || *now != *until):
					t.Errorf("step %d: closed twice: %s", i, key)
				case until == nil && now != nil && *now != revision:
					t.Errorf("step %d: closed at %d, not at the change's revision %d: %s", i, *now, revision, key)
				}
			}
			for key, until := range after {
				if _, old := before[key]; !old && until != nil {
					t.Errorf("step %d: added closed: %s", i, key)
				}
			}
		}
	})
}

// Of two changes computed from the same state one is applied.
func TestS30_TwoWritersCannotBothCloseARow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		change(t, db, CustomerChange{Customer: "acme", Put: customer("acme"),
			Subscriptions: []usher.Subscription{subscription("sub_1", "acme", "free@1")}})
		basis := load(t, db, env, "acme", 0)
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = db.ChangeCustomer(t.Context(), CustomerChange{Env: env, Note: note("race", day(2)), Customer: "acme",
					Basis:         basis.Revision,
					Subscriptions: []usher.Subscription{subscription("sub_1", "acme", fmt.Sprintf("pro@%d", i+1))}})
			})
		}
		wg.Wait()
		var applied int
		for _, err := range errs {
			if err == nil {
				applied++
			} else if !errors.Is(err, ErrStale) {
				t.Errorf("got %v, want ErrStale", err)
			}
		}
		if applied != 1 {
			t.Errorf("%d of %d changes from one basis were applied, want 1", applied, len(errs))
		}
		if e, err := db.Environment(t.Context(), env); err != nil || e.Revision != basis.EnvRevision+1 {
			t.Errorf("revision is %d, %v, want %d: a refused change takes none", e.Revision, err, basis.EnvRevision+1)
		}
		// The index is the last line of defence, whatever the code above it does.
		_, err := db.w.ExecContext(t.Context(), `INSERT INTO subscription (env, id, customer, family, body, holds, ends_at, recorded_from)
			VALUES ($1, 'sub_1', 'acme', 'main', '{}', ' ', 1, 99)`, string(env))
		if !duplicate(err) {
			t.Errorf("a second current row: got %v, want a violation of the unique index", err)
		}
	})
}

func TestErrStale(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		put(t, db, "acme")
		stale := load(t, db, env, "acme", 0)
		try := func() error {
			_, err := db.ChangeCustomer(t.Context(), CustomerChange{Env: env, Note: note("x", day(1)), Customer: "acme",
				Basis: stale.Revision, BasisCatalog: stale.CatalogRevision, Overrides: []usher.Override{override("ov_1", "acme", "sso")}})
			return err
		}
		put(t, db, "other") // another customer's change is no reason
		if err := try(); err != nil {
			t.Fatal(err)
		}
		if err := try(); !errors.Is(err, ErrStale) {
			t.Errorf("customer changed since: got %v, want ErrStale", err)
		}
		stale = load(t, db, env, "acme", 0)
		apply(t, db, CatalogChange{})
		if err := try(); !errors.Is(err, ErrStale) {
			t.Errorf("catalogue changed since: got %v, want ErrStale", err)
		}
		e, _ := db.Environment(t.Context(), env)
		put(t, db, "other")
		if _, err := db.ApplyCatalog(t.Context(), CatalogChange{Env: env, Note: note("x", day(1)), Basis: e.Revision}); !errors.Is(err,
			ErrStale) {
			t.Errorf("a customer changed since a catalogue was computed: got %v, want ErrStale", err)
		}
		if _, err := db.ChangeCustomer(t.Context(), CustomerChange{Env: env, Customer: "acme", Put: customer("acme")}); !errors.Is(err,
			ErrStale) {
			t.Errorf("put as if it were new: got %v, want ErrStale", err)
		}
	})
}

func TestChangesAreRefusedWhole(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		change(t, db, CustomerChange{Customer: "acme", Put: customer("acme"), Overrides: []usher.Override{override("ov_1", "acme", "sso")}})
		change(t, db, CustomerChange{Customer: "other", Put: customer("other"),
			Overrides: []usher.Override{override("ov_2", "other", "sso")}})
		before := dump(t, db)
		for name, c := range map[string]struct {
			change CustomerChange
			want   usher.Code
		}{
			"unknown customer": {CustomerChange{Customer: "nobody",
				Overrides: []usher.Override{override("ov_9", "nobody", "sso")}}, usher.NotFound},
			"no such override": {CustomerChange{Customer: "acme", Put: customer("acme"), CloseOverrides: []string{"ov_9"}},
				usher.NotFound},
			"another's override": {CustomerChange{Customer: "acme", Put: customer("acme"), CloseOverrides: []string{"ov_2"}},
				usher.NotFound},
			"no such grant": {CustomerChange{Customer: "acme", Grants: []usher.Grant{grant("gr_1", "acme", "api", 1)},
				CloseGrants: []string{"gr_9"}}, usher.NotFound},
			"id of another customer": {CustomerChange{Customer: "acme", Put: customer("acme"),
				Overrides: []usher.Override{override("ov_2", "acme", "sso")}}, usher.Conflict},
			"row of another customer": {CustomerChange{Customer: "acme",
				Overrides: []usher.Override{override("ov_3", "other", "sso")}}, usher.Internal},
			"customer without clock":    {CustomerChange{Customer: "new", Put: &usher.Customer{ID: "new"}}, usher.Internal},
			"deleted and put":           {CustomerChange{Customer: "acme", Put: customer("acme"), Delete: true}, usher.Internal},
			"unknown customer, deleted": {CustomerChange{Customer: "nobody", Delete: true}, usher.NotFound},
		} {
			s := load(t, db, env, c.change.Customer, 0)
			c.change.Env, c.change.Basis, c.change.Note = env, s.Revision, note(name, day(2))
			_, err := db.ChangeCustomer(t.Context(), c.change)
			if usher.ErrorCode(err) != c.want || err == nil {
				t.Errorf("%s: got %v, want code %s", name, err, c.want)
			}
		}
		if after := dump(t, db); !reflect.DeepEqual(before, after) {
			t.Errorf("a refused change left something")
		}
		if e, err := db.Environment(t.Context(), env); err != nil || e.Revision != 2 {
			t.Errorf("revision is %d, %v, want 2", e.Revision, err)
		}
	})
}

func TestS36_DeletedAndPutAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		ended := subscription("sub_1", "acme", "pro@1")
		change(t, db, CustomerChange{Customer: "acme", Put: customer("acme"),
			Subscriptions: []usher.Subscription{ended, subscription("sub_2", "acme", "addon@1")},
			Overrides:     []usher.Override{override("ov_1", "acme", "sso")}, Grants: []usher.Grant{grant("gr_1", "acme", "api", 5)}})
		ended.EndsAt = new(day(4))
		gone := change(t, db, CustomerChange{Customer: "acme", Note: note("customer.delete", day(4)), Delete: true,
			Subscriptions: []usher.Subscription{ended}})

		s := load(t, db, env, "acme", 0)
		if s.Customer != nil || s.Revision != gone || len(s.Overrides)+len(s.Grants) != 0 {
			t.Errorf("deleted: got %+v", s)
		}
		if !reflect.DeepEqual(s.Subscriptions, []usher.Subscription{ended}) {
			t.Errorf("deleted: got subscriptions %+v, want the one that the change named", s.Subscriptions)
		}
		want := customer("acme")
		want.Name, want.Metadata = "", nil
		if !reflect.DeepEqual(s.Deleted, want) {
			t.Errorf("left of it: got %+v, want %+v", s.Deleted, want)
		}
		_, err := db.Customer(ctx, env, "acme")
		wantCode(t, err, usher.NotFound)
		_, err = db.Subscription(ctx, env, "sub_1")
		wantCode(t, err, usher.NotFound)
		_, err = db.Subscription(ctx, env, "sub_2")
		wantCode(t, err, usher.NotFound)
		_, err = db.Grant(ctx, env, "gr_1")
		wantCode(t, err, usher.NotFound)
		if all, err := db.Customers(ctx, env, "", 10); err != nil || len(all) != 0 {
			t.Errorf("Customers: got %v, %v, want none", all, err)
		}
		var left string
		if err := db.r.QueryRowContext(ctx, `SELECT name || metadata FROM customer`).Scan(&left); err != nil || left != "null" {
			t.Errorf("name and metadata are %q, %v, want them erased", left, err)
		}
		again := s.Deleted
		again.Name = "Acme again"
		change(t, db, CustomerChange{Customer: "acme", Put: again})
		s = load(t, db, env, "acme", 0)
		if s.Deleted != nil || !reflect.DeepEqual(s.Customer, again) || len(s.Subscriptions) != 1 || len(s.Overrides)+len(s.Grants) != 0 {
			t.Errorf("put again: got %+v", s)
		}
	})
}

func TestCustomersArePagedById(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		// Bytes decide: no locale, no case folding, no escape is in the way.
		want := []string{" ", "'; DROP TABLE customer; --", "*", "/", "10", "9", ":", "A", "Z", "_", "a", "a/b", "a:b", "a\"b", "a%b",
			"b", "acme", "Ünï", "zoë", "日本", "😀", "é", "e\u0301"}
		for _, id := range want {
			put(t, db, id)
		}
		slices.Sort(want)
		for _, limit := range []int{1, 3, 100} {
			var got []string
			for after := ""; ; {
				page, err := db.Customers(t.Context(), env, after, limit)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range page {
					got = append(got, c.ID)
				}
				if len(page) < limit {
					break
				}
				after = page[len(page)-1].ID
			}
			if !slices.Equal(got, want) {
				t.Errorf("limit %d: got  %q\nwant %q", limit, got, want)
			}
		}
		for _, id := range want {
			if c, err := db.Customer(t.Context(), env, id); err != nil || c.ID != id {
				t.Errorf("Customer(%q): got %q, %v", id, c.ID, err)
			}
			if s := load(t, db, env, id, 0); s.Customer == nil || s.Customer.ID != id {
				t.Errorf("LoadCustomer(%q): got %+v", id, s.Customer)
			}
		}
	})
}
