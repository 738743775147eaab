package store

import (
	"reflect"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

func TestKeys(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		a := usher.APIKey{ID: "a", Env: env, Name: "ci 'x'", Role: "developer", Hash: []byte{0, 255, 1}, CreatedAt: day(2), ExpiresAt: day(9)}
		b := usher.APIKey{ID: "b", Env: env, Role: "owner", Hash: []byte{2}, CreatedAt: day(1)}
		c := usher.APIKey{ID: "c", Env: usher.Sandbox, Role: "owner", Hash: []byte{3}, CreatedAt: day(1)}
		for _, k := range []usher.APIKey{a, b, c} {
			if err := db.CreateKey(ctx, k, usher.By{Actor: usher.Actor{Kind: "cli"}}, day(1)); err != nil {
				t.Fatal(err)
			}
		}
		again := a
		again.Env = usher.Sandbox // ids are one namespace
		wantCode(t, db.CreateKey(ctx, again, usher.By{Actor: usher.Actor{Kind: "cli"}}, day(1)), usher.Conflict)
		if err := db.TouchKeys(ctx, map[string]time.Time{"a": day(4), "b": day(3), "nobody": day(3)}); err != nil {
			t.Error(err)
		}
		if err := db.TouchKeys(ctx, map[string]time.Time{"a": day(3)}); err != nil { // late
			t.Error(err)
		}
		a.LastUsedAt, b.LastUsedAt = day(4), day(3)
		for _, at := range []time.Time{day(5), day(6)} {
			if err := db.RevokeKey(ctx, "b", usher.By{Actor: usher.Actor{Kind: "cli"}}, at); err != nil {
				t.Error(err)
			}
		}
		b.RevokedAt = day(5)
		wantCode(t, db.RevokeKey(ctx, "nobody", usher.By{Actor: usher.Actor{Kind: "cli"}}, day(5)), usher.NotFound)
		if got, err := db.Key(ctx, "a"); err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("got %+v, %v, want %+v", got, err, a)
		}
		_, err := db.Key(ctx, "nobody")
		wantCode(t, err, usher.NotFound)
		if got, err := db.Keys(ctx, env); err != nil || !reflect.DeepEqual(got, []usher.APIKey{b, a}) {
			t.Errorf("got %+v, %v, want %+v", got, err, []usher.APIKey{b, a})
		}
	})
}
