package store

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/usher-sh/usher"
)

func planVersion(key string, version int) usher.PlanVersion {
	return usher.PlanVersion{Version: version, Plan: usher.Plan{Key: key, Family: "main", Entitlements: map[string]*usher.Entitlement{
		"api": {Allowances: []usher.Allowance{{Limit: 1<<63 - 1, Per: usher.Period{Every: 1, Unit: usher.Month}, Priority: 100}}}}}}
}

func addonVersion(key string, version int) usher.AddonVersion {
	return usher.AddonVersion{Version: version, Addon: usher.Addon{Key: key,
		Entitlements: map[string]*usher.Entitlement{"sso": {On: true}}}}
}

func TestS29_PublishedVersionsStay(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		if c, err := db.Catalog(ctx, env); c != nil || err != nil {
			t.Errorf("before the first: got %+v, %v, want nil", c, err)
		}
		first := CatalogChange{Note: note("catalog.apply", day(2)), Source: "usher: 1\n# ünï\n", Canonical: "{}", Hash: "sha256:1",
			Plans:  []usher.PlanVersion{planVersion("pro", 1), planVersion("free", 1)},
			Addons: []usher.AddonVersion{addonVersion("pack", 1)}}
		r1 := apply(t, db, first)
		put(t, db, "acme")
		r2 := apply(t, db, CatalogChange{Note: note("catalog.apply", day(3)), Source: "b", Canonical: "c", Hash: "sha256:2",
			Plans: []usher.PlanVersion{planVersion("pro", 2)}})

		for asKnown, want := range map[int64][]usher.PlanVersion{
			0:      {planVersion("free", 1), planVersion("pro", 1), planVersion("pro", 2)},
			r2:     {planVersion("free", 1), planVersion("pro", 1), planVersion("pro", 2)},
			r2 - 1: {planVersion("free", 1), planVersion("pro", 1)},
		} {
			if got, err := db.PlanVersions(ctx, env, asKnown); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("plans as known at %d: got %+v, %v, want %+v", asKnown, got, err, want)
			}
		}
		if got, err := db.AddonVersions(ctx, env, 0); err != nil || !reflect.DeepEqual(got, first.Addons) {
			t.Errorf("add-ons: got %+v, %v, want %+v", got, err, first.Addons)
		}
		if got, err := db.PlanVersions(ctx, usher.Sandbox, 0); err != nil || len(got) != 0 {
			t.Errorf("sandbox: got %+v, %v, want none", got, err)
		}
		want1 := CatalogRow{r1, "sha256:1", first.Source, "{}", "key:test", day(2)}
		want2 := CatalogRow{r2, "sha256:2", "b", "c", "key:test", day(3)}
		if got, err := db.Catalog(ctx, env); err != nil || *got != want2 {
			t.Errorf("in force: got %+v, %v, want %+v", got, err, want2)
		}
		if got, err := db.CatalogAt(ctx, env, r2-1); err != nil || *got != want1 {
			t.Errorf("before: got %+v, %v, want %+v", got, err, want1)
		}
		want1.Source, want1.Canonical, want2.Source, want2.Canonical = "", "", "", ""
		if got, err := db.CatalogRevisions(ctx, env, 0, 10); err != nil || !slices.Equal(got, []CatalogRow{want2, want1}) {
			t.Errorf("history: got %+v, %v", got, err)
		}
		if got, err := db.CatalogRevisions(ctx, env, r2, 10); err != nil || !slices.Equal(got, []CatalogRow{want1}) {
			t.Errorf("history below %d: got %+v, %v", r2, got, err)
		}
		e, err := db.Environment(ctx, env)
		if err != nil || e.CatalogRevision != r2 || e.Revision != r2 {
			t.Errorf("environment: got %+v, %v, want both revisions %d", e, err, r2)
		}

		// The same version again is a fault, and leaves nothing.
		_, err = db.ApplyCatalog(ctx, CatalogChange{Env: env, Note: note("x", day(4)), Basis: e.Revision, Hash: "sha256:3",
			Plans: []usher.PlanVersion{planVersion("new", 1), planVersion("pro", 2)}})
		wantCode(t, err, usher.Internal)
		if now, err := db.Environment(ctx, env); err != nil || now != e {
			t.Errorf("after a refused catalogue: got %+v, %v, want %+v", now, err, e)
		}
		if got, err := db.PlanVersions(ctx, env, 0); err != nil || len(got) != 3 {
			t.Errorf("after a refused catalogue: got %d plan versions, %v, want 3", len(got), err)
		}
	})
}

func TestS29_MigrationMovesSubscriptionsInOneStep(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		n := rowsAtOnce + 7 // more than one statement
		var moved []usher.Subscription
		for i := range n {
			c, s := fmt.Sprintf("c%d", i), fmt.Sprintf("sub_%d", i)
			change(t, db, CustomerChange{Customer: c, Put: customer(c), Subscriptions: []usher.Subscription{subscription(s, c, "pro@1")}})
			moved = append(moved, subscription(s, c, "pro@2"))
		}
		stays := put(t, db, "stays")
		revision := apply(t, db, CatalogChange{Plans: []usher.PlanVersion{planVersion("pro", 2)}, Migrate: moved})
		for i := range n {
			s := load(t, db, env, fmt.Sprintf("c%d", i), 0)
			if s.Revision != revision || len(s.Subscriptions) != 1 || s.Subscriptions[0].Phases[0].Plan.String() != "pro@2" {
				t.Fatalf("customer %d: got %+v, want pro@2 at revision %d", i, s, revision)
			}
			if then := load(t, db, env, fmt.Sprintf("c%d", i), revision-1); then.Subscriptions[0].Phases[0].Plan.String() != "pro@1" {
				t.Fatalf("customer %d as known before: got %+v", i, then)
			}
		}
		if s := load(t, db, env, "stays", 0); s.Revision != stays {
			t.Errorf("a customer that was not touched has revision %d, want %d", s.Revision, stays)
		}
	})
}

func TestS31_WhoHoldsWhat(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		withPack := subscription("sub_3", "b", "pro@1")
		withPack.Phases = append(withPack.Phases, usher.Phase{At: day(9), Plan: &usher.HeldPlan{Ref: usher.Ref{Key: "pro", Version: 1}},
			Addons: &[]usher.HeldAddon{{Addon: usher.Ref{Key: "api-pack", Version: 1}, Quantity: 2},
				{Addon: usher.Ref{Key: "api-pack", Version: 1}, Quantity: 1}}})
		ended := subscription("sub_4", "b", "old@1")
		ended.EndsAt = new(day(5))
		like := subscription("sub_5", "b", "p_o@1")
		change(t, db, CustomerChange{Customer: "a", Put: customer("a"),
			Subscriptions: []usher.Subscription{subscription("sub_1", "a", "pro@1"), subscription("sub_2", "a", "pro@12")}})
		change(t, db, CustomerChange{Customer: "b", Put: customer("b"), Subscriptions: []usher.Subscription{withPack, ended, like,
			subscription("sub_6", "b", "pro@1")}})
		change(t, db, CustomerChange{Customer: "c", Put: customer("c"),
			Subscriptions: []usher.Subscription{subscription("sub_7", "c", "pro@1")}})
		change(t, db, CustomerChange{Customer: "c",
			Subscriptions: []usher.Subscription{subscription("sub_7", "c", "free@1")}}) // what it was does not count
		want := []Holding{{" free@1 ", 1, "c"}, {" p_o@1 ", 1, "b"}, {" pro@1 ", 2, "a"}, {" pro@1 api-pack@1 ", 1, "b"},
			{" pro@12 ", 1, "a"}}
		if got, err := db.Holders(ctx, env, day(5)); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		if got, err := db.Holders(ctx, env, day(5).Add(-1000)); err != nil || len(got) != 6 {
			t.Errorf("before its end: got %+v, %v, want old@1 as well", got, err)
		}
		if got := want[3].Refs(); !slices.Equal(got, []string{"pro@1", "api-pack@1"}) {
			t.Errorf("Refs: got %q", got)
		}
		for ref, want := range map[string][]string{
			"pro@1": {"sub_1", "sub_3", "sub_6"}, "pro": {"sub_1", "sub_2", "sub_3", "sub_6"}, "p_o@1": {"sub_5"},
			"api-pack@1": {"sub_3"}, "old@1": {"sub_4"},
			"pack@1": nil, "ro@1": nil, "pro@": nil, "%": nil, "": nil, "pack": nil,
		} {
			var got []string
			for after := ""; ; {
				page, err := db.SubscriptionsHolding(ctx, env, ref, after, 2)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range page {
					got = append(got, s.ID)
				}
				if len(page) < 2 {
					break
				}
				after = page[1].ID
			}
			if !slices.Equal(got, want) {
				t.Errorf("holding %q: got %q, want %q", ref, got, want)
			}
		}
	})
}

func TestS31_WhatUsesAFeature(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		over, voided := override("ov_2", "a", "sso"), grant("gr_2", "a", "api", 5)
		over.ExpiresAt, voided.VoidedAt = new(day(5)), new(day(5))
		change(t, db, CustomerChange{Customer: "a", Put: customer("a"), Overrides: []usher.Override{override("ov_1", "a", "sso"), over},
			Grants: []usher.Grant{grant("gr_1", "a", "api", 5), voided}})
		bucket(t, db, "b", "api", "month", day(1), day(10), 3)
		bucket(t, db, "b", "api", "day", day(1), day(2), 3)
		bucket(t, db, "b", "old", "month", day(1), day(5), 3)
		bucket(t, db, "b", "empty", "month", day(1), day(10), 0)
		want := map[string]FeatureUse{"sso": {Overrides: 1, Example: "a"}, "api": {Grants: 1, Buckets: 1, Example: "a"}}
		if got, err := db.FeatureUse(ctx, env, day(5)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		want = map[string]FeatureUse{"sso": {Overrides: 2, Example: "a"}, "api": {Grants: 2, Buckets: 1, Example: "a"},
			"old": {Buckets: 1, Example: "b"}}
		if got, err := db.FeatureUse(ctx, env, day(5).Add(-1000)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("just before: got %+v, %v, want %+v", got, err, want)
		}
		for feature, want := range map[string]bool{"api": true, "old": true, "empty": true, "sso": false} {
			if got, err := db.HasUsage(ctx, env, feature); err != nil || got != want {
				t.Errorf("HasUsage(%s): got %v, %v, want %v", feature, got, err, want)
			}
		}
		if got, err := db.HasUsage(ctx, usher.Sandbox, "api"); err != nil || got {
			t.Errorf("HasUsage in the other environment: got %v, %v", got, err)
		}
	})
}
