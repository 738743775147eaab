package store

import (
	"errors"
	"reflect"
	"sync"
	"testing"

	"github.com/usher-sh/usher"
)

func answer(key string) *StoredAnswer {
	return &StoredAnswer{Key: key, Route: "POST /v1/customers/{id}/grants", BodyHash: []byte{0, 1, 255}, Status: 201,
		Body:     []byte(`{"id":"gr_1"}`),
		Customer: "acme", Feature: "api", At: day(2)}
}

func TestS13_OneKeyOneEffectOneAnswer(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		const key = `it's a "key" /:*%_`
		if a, err := db.Answer(ctx, env, key); a != nil || err != nil {
			t.Errorf("before: got %+v, %v, want nil", a, err)
		}
		change(t, db, CustomerChange{Customer: "acme", Put: customer("acme"), Grants: []usher.Grant{grant("gr_1", "acme", "api", 5)},
			Answer: answer(key)})
		if a, err := db.Answer(ctx, env, key); err != nil || !reflect.DeepEqual(a, answer(key)) {
			t.Errorf("got %+v, %v, want %+v", a, err, answer(key))
		}
		if a, err := db.Answer(ctx, usher.Sandbox, key); a != nil || err != nil {
			t.Errorf("the other environment: got %+v, %v, want nil", a, err)
		}
		before := dump(t, db)
		s := load(t, db, env, "acme", 0)
		for name, basis := range map[string]int64{"again": s.Revision, "again, and stale by its own first effect": s.Revision - 1} {
			_, err := db.ChangeCustomer(ctx, CustomerChange{Env: env, Note: note("x", day(2)), Customer: "acme", Basis: basis,
				Grants: []usher.Grant{grant("gr_2", "acme", "api", 5)}, Answer: answer(key)})
			if !errors.Is(err, ErrKeyTaken) {
				t.Errorf("%s: got %v, want ErrKeyTaken", name, err)
			}
		}
		if _, err := db.ApplyCatalog(ctx, CatalogChange{Env: env, Note: note("x", day(2)), Basis: s.EnvRevision,
			Answer: answer(key)}); !errors.Is(err, ErrKeyTaken) {
			t.Errorf("for a catalogue: got %v, want ErrKeyTaken", err)
		}
		if after := dump(t, db); !reflect.DeepEqual(before, after) {
			t.Error("a taken key left something")
		}
		if e, err := db.Environment(ctx, env); err != nil || e.Revision != 1 || e.CatalogRevision != 0 {
			t.Errorf("a taken key took a revision: %+v, %v", e, err)
		}
		change(t, db, CustomerChange{Env: usher.Sandbox, Customer: "acme", Put: customer("acme"),
			Answer: answer(key)}) // keys are per environment

		write(t, db, `INSERT INTO op (key, env, route, body_hash, customer, feature, at, amount, answer) VALUES ('take', 'production',
			'POST /v1/consume', $1, 'acme', 'api', 5, 1, $2)`, []byte{1}, []byte{1, 2, 3, 4, 5, 6, 7, 8})
		if a, err := db.Answer(ctx, env, "take"); err != nil || a.Route != "POST /v1/consume" || a.Status != 0 || len(a.Body) != 0 {
			t.Errorf("the key of a take: got %+v, %v", a, err)
		}
		bad := answer("bad")
		bad.Status = 503
		_, err := db.ChangeCustomer(ctx, CustomerChange{Env: env, Note: note("x", day(2)), Customer: "acme", Basis: s.Revision,
			Answer: bad})
		wantCode(t, err, usher.Internal)
	})
}

func TestS13_OneKeyFromManyAtOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() {
				id := string(rune('a' + i)) // each another customer, so that only the key is in the way
				_, errs[i] = db.ChangeCustomer(t.Context(), CustomerChange{Env: env, Note: note("x", day(2)), Customer: id,
					Put: customer(id), Answer: answer("key")})
			})
		}
		wg.Wait()
		applied := 0
		for _, err := range errs {
			if err == nil {
				applied++
			} else if !errors.Is(err, ErrKeyTaken) {
				t.Errorf("got %v, want ErrKeyTaken", err)
			}
		}
		if all, err := db.Customers(t.Context(), env, "", 100); applied != 1 || err != nil || len(all) != 1 {
			t.Errorf("one key was applied %d times and made %d customers (%v)", applied, len(all), err)
		}
	})
}
