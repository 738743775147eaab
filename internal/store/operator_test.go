package store

import (
	"context"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

func ownerFor(id string, until *time.Time) usher.OperatorRole {
	return usher.OperatorRole{ID: "oas_" + id, Role: "owner", From: day(1), Until: until, Source: usher.SourceManual, GrantedBy: "cli",
		Reason: "r"}
}

func TestOperators(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		by, at := usher.By{Actor: usher.Actor{Kind: "cli"}}, day(2)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		a := usher.Operator{ID: "opr_a", Name: "Ada 'x'", Email: "ada@example.com", Active: true, CreatedAt: day(1),
			Roles: []usher.OperatorRole{}}
		b := usher.Operator{ID: "opr_b", Active: true, CreatedAt: day(2), Roles: []usher.OperatorRole{}}
		c := usher.Operator{ID: "opr_c", Active: true, CreatedAt: day(2), Roles: []usher.OperatorRole{}} // no address either
		for _, o := range []usher.Operator{a, b, c} {
			must(db.CreateOperator(ctx, o, usher.SSOSubject{}, by, at))
		}
		wantCode(t, db.CreateOperator(ctx, usher.Operator{ID: "opr_d", Email: a.Email, CreatedAt: day(2)}, usher.SSOSubject{}, by, at),
			usher.Conflict)
		until := day(9)
		sales := usher.OperatorRole{ID: "oas_1", Role: "sales", Environment: usher.Sandbox, From: day(3), Until: &until,
			Source: usher.SourceManual, GrantedBy: "key:k", Reason: "why"}
		must(db.PutOperatorRole(ctx, "opr_b", sales, nil, by, at))
		sales.ID, sales.Until = "oas_2", nil
		must(db.PutOperatorRole(ctx, "opr_b", sales, nil, by, at)) // in place of the first
		b.Roles = []usher.OperatorRole{sales}
		if got, err := db.Operators(ctx); err != nil || !reflect.DeepEqual(got, []usher.Operator{a, b, c}) {
			t.Errorf("got %+v, %v, want %+v", got, err, []usher.Operator{a, b, c})
		}
		if got, err := db.OperatorByEmail(ctx, a.Email); err != nil || got.ID != "opr_a" {
			t.Errorf("got %+v, %v", got, err)
		}
		_, err := db.OperatorByEmail(ctx, "")
		wantCode(t, err, usher.NotFound)
		wantCode(t, db.PutOperatorRole(ctx, "nobody", sales, nil, by, at), usher.NotFound)
		wantCode(t, db.DeleteOperatorRole(ctx, "opr_b", "sales", "", nil, by, at), usher.NotFound)
		must(db.DeleteOperatorRole(ctx, "opr_b", "sales", usher.Sandbox, nil, by, at))
		email := a.Email
		wantCode(t, db.UpdateOperator(ctx, "opr_b", usher.OperatorUpdate{Email: &email}, nil, by, at), usher.Conflict)
		must(db.SetPassword(ctx, "opr_a", "$argon2id$x", Note{By: by, At: at}))
		must(db.DeleteOperator(ctx, "opr_a", nil, by, at))
		if hash, err := db.Password(ctx, "opr_a"); hash != "" || err != nil {
			t.Errorf("got %q, %v, want no password of who is erased", hash, err)
		}
		wantCode(t, db.DeleteOperator(ctx, "opr_a", nil, by, at), usher.NotFound)
		must(db.UpdateOperator(ctx, "opr_b", usher.OperatorUpdate{Email: &email}, nil, by, at)) // which is free now
	})
}

// TestA12_TheLastOwnerStays: however two go at once, one is left.
func TestA12_TheLastOwnerStays(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		by, at := usher.By{Actor: usher.Actor{Kind: "cli"}}, day(3)
		no, until := false, day(9)
		ways := map[string]func(id string) error{
			"deleted": func(id string) error { return db.DeleteOperator(ctx, id, nil, by, at) },
			"deactivated": func(id string) error {
				return db.UpdateOperator(ctx, id, usher.OperatorUpdate{Active: &no}, nil, by, at)
			},
			"demoted":      func(id string) error { return db.DeleteOperatorRole(ctx, id, "owner", "", nil, by, at) },
			"until a date": func(id string) error { return db.PutOperatorRole(ctx, id, ownerFor(id+"u", &until), nil, by, at) },
		}
		hire := func(id string) {
			t.Helper()
			err := db.CreateOperator(ctx, usher.Operator{ID: id, Active: true, CreatedAt: day(1)}, usher.SSOSubject{}, by, at)
			if err == nil {
				err = db.PutOperatorRole(ctx, id, ownerFor(id, nil), nil, by, at)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		last := "a"
		hire(last)
		for how, do := range ways {
			if err := do(last); usher.ErrorCode(err) != usher.Refused || !strings.Contains(err.Error(), "one active, permanent owner must remain") {
				t.Errorf("the last owner %s: got %v, want refused", how, err)
			}
		}
		for how, do := range ways {
			next := last + " " + how
			hire(next)
			errs := make([]error, 2)
			var wg sync.WaitGroup
			for i, id := range []string{last, next} {
				wg.Go(func() { errs[i] = do(id) })
			}
			wg.Wait()
			switch {
			case errs[0] == nil && usher.ErrorCode(errs[1]) == usher.Refused:
				last = next
			case errs[1] == nil && usher.ErrorCode(errs[0]) == usher.Refused:
			default:
				t.Fatalf("two %s at once: got %v, want one refused", how, errs)
			}
		}
		// Its time being over is no way either: the clock is the caller's.
		wantCode(t, db.DeleteOperator(ctx, last, nil, by, day(20)), usher.Refused)
	})
}

func TestOwnerTokens(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		if err := db.AddOwnerToken(ctx, []byte("h"), day(3), usher.By{Actor: usher.Actor{Kind: "cli"}}, day(2)); err != nil {
			t.Fatal(err)
		}
		redeem := func(id string, at time.Time) error {
			return db.RedeemOwnerToken(context.Background(), []byte("h"), usher.Operator{ID: id, Active: true, CreatedAt: at},
				ownerFor(id, nil), usher.By{Actor: usher.Actor{Kind: "operator", ID: id}}, at)
		}
		wantCode(t, redeem("late", day(3)), usher.Unauthenticated)
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			wg.Go(func() { errs[i] = redeem(string(rune('a'+i)), day(2)) })
		}
		wg.Wait()
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
			} else {
				wantCode(t, err, usher.Unauthenticated)
			}
		}
		if all, err := db.Operators(ctx); made != 1 || len(all) != 1 || err != nil {
			t.Errorf("%d redeemed it, %d operators, %v, want 1", made, len(all), err)
		}
	})
}

func TestElevations(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		by, at := usher.By{Actor: usher.Actor{Kind: "operator", ID: "b"}}, day(2)
		for _, id := range []string{"a", "b"} {
			if err := db.CreateOperator(ctx, usher.Operator{ID: id, Active: true, CreatedAt: day(1)}, usher.SSOSubject{}, by, at); err != nil {
				t.Fatal(err)
			}
		}
		ask := usher.Elevation{ID: "e1", Operator: "a", Role: "sales", Reason: "r", Seconds: 3600, State: usher.ElevationRequested,
			RequestedAt: day(2)}
		if err := db.RequestElevation(ctx, ask, nil, by, at); err != nil {
			t.Fatal(err)
		}
		if got, err := db.Elevation(ctx, "e1"); err != nil || !reflect.DeepEqual(got, ask) {
			t.Errorf("got %+v, %v, want %+v", got, err, ask)
		}
		until := day(2).Add(time.Hour)
		role := usher.OperatorRole{ID: "r1", Role: "sales", From: day(2), Until: &until, Source: usher.SourceRequest, GrantedBy: "operator:b"}
		errs := make([]error, 4) // many approve at once
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = db.DecideElevation(ctx, "e1", "ok", day(1), &role, by, at) })
		}
		wg.Wait()
		done := 0
		for _, err := range errs {
			if err == nil {
				done++
			} else {
				wantCode(t, err, usher.Conflict)
			}
		}
		if o, err := db.Operator(ctx, "a"); done != 1 || err != nil || len(o.Roles) != 1 {
			t.Errorf("%d approvals, %+v, %v, want 1", done, o.Roles, err)
		}
		if got, err := db.Elevation(ctx, "e1"); err != nil || got.State != usher.ElevationApproved || !got.Until.Equal(until) ||
			got.DecidedBy != "b" || got.Note != "ok" {
			t.Errorf("got %+v, %v", got, err)
		}
		glass := usher.Elevation{ID: "e2", Operator: "a", Role: "owner", Environment: usher.Production, Reason: "fire", Seconds: 60,
			BreakGlass: true, State: usher.ElevationApproved, RequestedAt: at, DecidedAt: &at, Review: usher.ReviewPending}
		role.ID, role.Source = "r2", usher.SourceBreakGlass
		if err := db.RequestElevation(ctx, glass, &role, by, at); err != nil {
			t.Fatal(err)
		}
		again := glass
		again.ID, role.ID = "e3", "r3"
		wantCode(t, db.RequestElevation(ctx, again, &role, by, at), usher.Refused)
		if got, err := db.Elevations(ctx, "", true); err != nil || len(got) != 1 || got[0].ID != "e2" {
			t.Errorf("got %+v, %v, want the one to review", got, err)
		}
		if n, err := db.PendingReviews(ctx); n != 1 || err != nil {
			t.Errorf("got %d, %v, want 1", n, err)
		}
		wantCode(t, db.ReviewElevation(ctx, "e1", "justified", "n", by, at), usher.Conflict)
		if err := db.ReviewElevation(ctx, "e2", "unjustified", "n", by, at); err != nil {
			t.Fatal(err)
		}
		if n, err := db.PendingReviews(ctx); n != 0 || err != nil {
			t.Errorf("got %d, %v, want 0", n, err)
		}
		if got, err := db.Elevations(ctx, "b", false); err != nil || len(got) != 0 {
			t.Errorf("got %+v, %v, want none of b's", got, err)
		}
		wantCode(t, db.DecideElevation(ctx, "nothing", "", day(1), nil, by, at), usher.NotFound)
	})
}

// TestInvitations: one for each operator, for one use, until its end.
func TestInvitations(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		by, a, b := usher.By{Actor: usher.Actor{Kind: "cli"}}, []byte("a"), []byte("b")
		note := func(at time.Time) Note { return Note{By: by, Action: "session.invite", Object: "ann", At: at} }
		for _, o := range []usher.Operator{{ID: "ann", Email: "ann@example.com", Active: true}, {ID: "nameless", Active: true},
			{ID: "away", Email: "away@example.com"}} {
			o.CreatedAt = day(1)
			if err := db.CreateOperator(ctx, o, usher.SSOSubject{}, by, day(1)); err != nil {
				t.Fatal(err)
			}
		}
		wantCode(t, db.Invite(ctx, "nobody", a, day(3), nil, by, day(2)), usher.NotFound)
		wantCode(t, db.Invite(ctx, "nameless", a, day(3), nil, by, day(2)), usher.Refused)
		wantCode(t, db.Invite(ctx, "away", a, day(3), nil, by, day(2)), usher.Conflict)
		for _, hash := range [][]byte{a, b} { // the second voids the first
			if err := db.Invite(ctx, "ann", hash, day(3), nil, by, day(2)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := db.Invited(ctx, a, day(2))
		wantCode(t, err, usher.Unauthenticated)
		wantCode(t, db.AcceptInvite(ctx, "ann", a, "hash", note(day(2))), usher.Unauthenticated)
		if o, err := db.Invited(ctx, b, day(2)); err != nil || o.ID != "ann" || o.Email != "ann@example.com" {
			t.Errorf("got %+v, %v", o, err)
		}
		_, err = db.Invited(ctx, b, day(3))
		wantCode(t, err, usher.Unauthenticated)
		wantCode(t, db.AcceptInvite(ctx, "ann", b, "hash", note(day(3))), usher.Unauthenticated)
		wantCode(t, db.AcceptInvite(ctx, "away", b, "hash", note(day(2))), usher.Unauthenticated)
		errs := make([]error, 4)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = db.AcceptInvite(ctx, "ann", b, "hash", note(day(2))) })
		}
		wg.Wait()
		done := 0
		for _, err := range errs {
			if err == nil {
				done++
			} else {
				wantCode(t, err, usher.Unauthenticated)
			}
		}
		if hash, err := db.Password(ctx, "ann"); done != 1 || hash != "hash" || err != nil {
			t.Errorf("accepted %d times, the password is %q, %v", done, hash, err)
		}
	})
}

func TestKeyRotation(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		by, at := usher.By{Actor: usher.Actor{Kind: "cli"}}, day(2)
		k := usher.APIKey{ID: "a", Env: env, Name: "n", Role: "scim", Hash: []byte{1}, CreatedAt: day(1), Customer: "acme",
			NoProperties: true, Rate: usher.RateLimit{PerSecond: 3, Burst: 4}}
		if err := db.CreateKey(ctx, k, by, at); err != nil {
			t.Fatal(err)
		}
		errs := make([]error, 4)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				id := string(rune('b' + i))
				_, errs[i] = db.RotateKey(ctx, env, "a", usher.APIKey{ID: id, Hash: []byte(id), CreatedAt: day(2)}, day(3), by, at)
			})
		}
		wg.Wait()
		done := 0
		for _, err := range errs {
			if err == nil {
				done++
			} else {
				wantCode(t, err, usher.Conflict)
			}
		}
		keys, err := db.Keys(ctx, env)
		if err != nil || done != 1 || len(keys) != 2 || !keys[0].ExpiresAt.Equal(day(3)) {
			t.Fatalf("%d rotations at once, %+v, %v, want 1", done, keys, err)
		}
		want := k
		want.ID, want.Hash, want.CreatedAt, want.Line = keys[1].ID, []byte(keys[1].ID), day(2), "a"
		if !reflect.DeepEqual(keys[1], want) {
			t.Errorf("got %+v, want %+v", keys[1], want)
		}
		_, err = db.RotateKey(ctx, usher.Sandbox, "a", usher.APIKey{ID: "x"}, day(3), by, at)
		wantCode(t, err, usher.NotFound)
		_, err = db.RotateKey(ctx, env, "a", usher.APIKey{ID: "x"}, day(3), by, day(3))
		wantCode(t, err, usher.Refused)
		if _, err = db.RotateKey(ctx, env, want.ID, usher.APIKey{ID: "x", Hash: []byte("x"), CreatedAt: day(3)}, day(3), by, day(3)); err != nil {
			t.Errorf("after the grace: %v", err)
		}
	})
}
