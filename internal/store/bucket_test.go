package store

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

const insertBucket = `INSERT INTO bucket (customer, env, feature, clock, start_at, end_at, unlimited, lim, opening, used, reserved,
	overage, excess, at)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`

func bucket(t *testing.T, db *DB, customer, feature, clock string, start, end time.Time, used int64) engine.Bucket {
	t.Helper()
	b := engine.Bucket{BucketKey: engine.BucketKey{Feature: feature, Clock: clock, Start: micros(start)}, End: micros(end),
		Limit: math.MaxInt64, Used: used}
	write(t, db, insertBucket, customer, string(env), feature, clock, b.Start, b.End, int64(0), b.Limit, int64(0), used, int64(0),
		int64(0), int64(0), int64(0))
	return b
}

func TestLoadBucketsFindsTheLatestStart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		b1 := bucket(t, db, "acme", "api", "month", day(1), day(5), 1)
		b2 := bucket(t, db, "acme", "api", "month", day(5), day(10), 2) // cut short
		b3 := bucket(t, db, "acme", "api", "6 hour", day(2), day(3), 3)
		bucket(t, db, "acme", "tokens", "month", day(2), day(3), 4)
		bucket(t, db, "other", "api", "month", day(3), day(4), 5)
		before := engine.Bucket{BucketKey: engine.BucketKey{Feature: "api", Clock: "lifetime", Start: -3600e6}, End: math.MaxInt64,
			Unlimited: true,
			Opening:   1, Used: 2, Reserved: 3, Overage: 4, Excess: 5, At: 6}
		write(t, db, insertBucket, "acme", string(env), "api", "lifetime", before.Start, before.End, int64(1), int64(0), int64(1),
			int64(2), int64(3), int64(4), int64(5), int64(6))
		key := func(clock string, at time.Time) engine.BucketKey {
			return engine.BucketKey{Feature: "api", Clock: clock, Start: micros(at)}
		}
		for _, c := range []struct {
			name string
			keys []engine.BucketKey
			want []engine.Bucket
		}{
			{"none", nil, nil},
			{"before the first", []engine.BucketKey{key("month", day(1).Add(-time.Microsecond))}, nil},
			{"at a start", []engine.BucketKey{key("month", day(5))}, []engine.Bucket{b2}},
			{"just before a start", []engine.BucketKey{key("month", day(5).Add(-time.Microsecond))}, []engine.Bucket{b1}},
			{"long after", []engine.BucketKey{key("month", day(30))}, []engine.Bucket{b2}},
			{"several clocks", []engine.BucketKey{key("month", day(2)), key("6 hour", day(2)), key("day", day(2)),
				key("lifetime", day(1))}, []engine.Bucket{b1, b3, before}},
		} {
			got, err := db.LoadBuckets(t.Context(), env, "acme", c.keys)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s: got %+v, %v, want %+v", c.name, got, err, c.want)
			}
		}
		if got, err := db.LoadBuckets(t.Context(), usher.Sandbox, "acme", []engine.BucketKey{key("month", day(5))}); err != nil ||
			got != nil {
			t.Errorf("the other environment: got %+v, %v, want none", got, err)
		}
		// More keys than one statement takes.
		var keys []engine.BucketKey
		for i := range 2*keysAtOnce + 3 {
			clock := fmt.Sprint("clock ", i)
			bucket(t, db, "many", "api", clock, day(1), day(2), int64(i))
			keys = append(keys, key(clock, day(1)))
		}
		got, err := db.LoadBuckets(t.Context(), env, "many", keys)
		if err != nil || len(got) != len(keys) {
			t.Fatalf("got %d buckets for %d keys, %v", len(got), len(keys), err)
		}
		for i, b := range got {
			if b.Used != int64(i) || b.BucketKey != keys[i] {
				t.Errorf("bucket %d: got %+v, want that of %+v", i, b, keys[i])
			}
		}
		// Most of them have no bucket: a plan with many sliding caps asks so.
		bucket(t, db, "many", "zones", "month", day(1), day(2), 7)
		asked := []engine.BucketKey{{Feature: "zones", Clock: "month", Start: micros(day(3))}}
		for i := range 500 {
			asked = append(asked, engine.BucketKey{Feature: fmt.Sprint("feature ", i), Clock: "month", Start: micros(day(1))},
				key(fmt.Sprint("clock none ", i), day(1)))
		}
		asked = append(asked, keys[5])
		got, err = db.LoadBuckets(t.Context(), env, "many", asked)
		if err != nil || len(got) != 2 || got[0].Used != 7 || got[1].Used != 5 {
			t.Errorf("two of many: got %+v, %v", got, err)
		}
		if got, err := db.LoadBuckets(t.Context(), env, "nobody", asked); err != nil || got != nil {
			t.Errorf("a customer without buckets: got %+v, %v", got, err)
		}
	})
}

// A bug in the arithmetic becomes an error instead of a wrong number.
func TestI1_TheSchemaRefusesWrongBuckets(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		const huge = int64(math.MaxInt64)
		n := 0
		try := func(end, unlimited, lim, opening, used, reserved, overage, excess int64) error {
			n++
			_, err := db.w.ExecContext(t.Context(), insertBucket, "acme", "production", "api", fmt.Sprint(n), int64(10), end, unlimited,
				lim, opening, used, reserved, overage, excess, int64(0))
			return err
		}
		for name, err := range map[string]error{
			"empty":                 try(20, 0, 0, 0, 0, 0, 0, 0),
			"full":                  try(20, 0, 10, 0, 7, 3, 0, 0),
			"opened full":           try(20, 0, 10, 4, 6, 0, 0, 0),
			"beyond, all booked":    try(20, 0, 10, 0, 17, 3, 4, 6),
			"unlimited":             try(20, 1, 0, 0, 1000, 0, 0, 0),
			"huge":                  try(20, 0, huge, 0, huge, 0, 0, 0),
			"huge, with excess":     try(20, 0, huge, 0, huge, 0, 5, 5),
			"huge excess of little": try(huge, 0, 0, 0, huge, 0, 0, huge),
		} {
			if err != nil {
				t.Errorf("%s: refused: %v", name, err)
			}
		}
		for name, err := range map[string]error{
			"one over":        try(20, 0, 10, 0, 8, 3, 0, 0),
			"one over opened": try(20, 0, 10, 5, 6, 0, 0, 0),
			"one not booked":  try(20, 0, 10, 0, 17, 3, 4, 5),
			"huge, over":      try(20, 0, huge-1, 0, huge, 0, 0, 0),
			"negative used":   try(20, 0, 10, 0, -1, 0, 0, 0),
			"negative limit":  try(20, 0, -1, 0, 0, 0, 0, 0),
			"negative hold":   try(20, 0, 10, 0, 1, -1, 0, 0),
			"negative excess": try(20, 1, 10, 0, 0, 0, 0, -1),
			"negative over":   try(20, 1, 10, 0, 0, 0, -1, 0),
			"negative open":   try(20, 1, 10, -1, 0, 0, 0, 0),
			"empty window":    try(10, 0, 10, 0, 0, 0, 0, 0),
			"half unlimited":  try(20, 2, 10, 0, 0, 0, 0, 0),
		} {
			if err == nil {
				t.Errorf("%s: stored", name)
			}
		}
		// Neither a float nor a text passes for a number, nor NULL for anything.
		for _, set := range []string{"used = NULL", "used = 'abc'", "used = 1.5", "clock = NULL", "env = NULL"} {
			if _, err := db.w.ExecContext(t.Context(), `UPDATE bucket SET `+set+` WHERE lim = 0`); err == nil && set != "used = 1.5" {
				t.Errorf("%s: stored", set)
			}
		}
		if _, err := db.w.ExecContext(t.Context(), `UPDATE bucket SET used = used + used, unlimited = 1`); err == nil {
			t.Error("a sum beyond int64 was stored")
		}
	})
}

func TestUseIsSummedOverMinutes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		minute := func(n int) time.Time { return day(1).Add(time.Duration(n) * time.Minute) }
		for _, r := range []struct {
			minute int
			clock  string
			used   int64
		}{{0, "month", 1}, {1, "month", 2}, {1, "gr_1", 4}, {2, "month", -8}, {3, "month", 16}, {9, "month", 1 << 62}} {
			write(t, db, `INSERT INTO rollup (customer, env, feature, grain, start_at, clock, used, at) VALUES ('acme', 'production',
				'api', 1, $1, $2, $3, 7)`, micros(minute(r.minute)), r.clock, r.used)
			write(t, db, `INSERT INTO rollup_dim (customer, env, feature, grain, dimension, value, start_at, used, at)
				VALUES ('acme', 'production', 'api', 1, 'data.model', $1, $2, $3, 7)`, r.clock, micros(minute(r.minute)), r.used)
		}
		if got, err := db.UseByClock(ctx, env, "acme", "api", minute(1), minute(3)); err != nil ||
			!reflect.DeepEqual(got, map[string]int64{"month": -6, "gr_1": 4}) {
			t.Errorf("UseByClock: got %v, %v", got, err)
		}
		if got, err := db.UseByClock(ctx, env, "acme", "tokens", minute(1), minute(3)); err != nil || len(got) != 0 {
			t.Errorf("UseByClock of nothing: got %v, %v", got, err)
		}
		at := fromMicros(7)
		want := []RollupRow{{minute(1), "", "gr_1", 4, at}, {minute(1), "", "month", 2, at}, {minute(2), "", "month", -8, at}}
		if got, err := db.Rollups(ctx, env, "acme", "api", "", Spans(minute(1), minute(3))); err != nil || !slices.Equal(got, want) {
			t.Errorf("Rollups: got %+v, %v, want %+v", got, err, want)
		}
		for i := range want {
			want[i].Value, want[i].Clock = want[i].Clock, ""
		}
		if got, err := db.Rollups(ctx, env, "acme", "api", "data.model", Spans(minute(1), minute(3))); err != nil ||
			!slices.Equal(got, want) {
			t.Errorf("Rollups by dimension: got %+v, %v, want %+v", got, err, want)
		}
		if got, err := db.Rollups(ctx, env, "acme", "api", "data.other", Spans(minute(1), minute(3))); err != nil || len(got) != 0 {
			t.Errorf("Rollups by another dimension: got %+v, %v", got, err)
		}

		for value, minutes := range map[string][]int{"ann": {0, 1, 5}, "bob": {1, 2}, "": {2}, "zoë": {4, 9}, "late": {20}} {
			for _, m := range minutes {
				write(t, db, `INSERT INTO seen (customer, env, feature, value, minute_at) VALUES ('acme', 'production', 'visitors', $1,
					$2)`, value, micros(minute(m)))
			}
		}
		windows := []usher.Window{{Start: minute(0), End: minute(2)}, {Start: minute(2), End: minute(3)},
			{Start: minute(4), End: minute(10)}, {Start: minute(11), End: minute(12)}}
		if got, err := db.SeenIn(ctx, env, "acme", "visitors", windows); err != nil || !slices.Equal(got, []int64{2, 2, 2, 0}) {
			t.Errorf("SeenIn: got %v, %v, want 2 2 2 0", got, err)
		}
		if got, err := db.SeenIn(ctx, env, "acme", "visitors", []usher.Window{{Start: minute(0), End: minute(30)}}); err != nil ||
			got[0] != 5 {
			t.Errorf("SeenIn over all: got %v, %v, want 5", got, err)
		}
		if got, err := db.SeenIn(ctx, usher.Sandbox, "acme", "visitors", windows); err != nil || !slices.Equal(got, []int64{0, 0, 0, 0}) {
			t.Errorf("SeenIn of the other environment: got %v, %v", got, err)
		}
		if _, err := db.SeenIn(ctx, env, "acme", "visitors", []usher.Window{windows[1], windows[0]}); err == nil {
			t.Error("windows out of order were counted")
		}
	})
}

func TestUsageBatchesOfOtherNodes(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		batch := func(node string, n int64, at time.Time) UsageBatch {
			write(t, db, `INSERT INTO usage_batch (node, n, at, customers) VALUES ($1, $2, $3, '{"production":["acme","b:/*"]}')`, node,
				n, micros(at))
			return UsageBatch{node, n, at, map[usher.Environment][]string{env: {"acme", "b:/*"}}}
		}
		a1, a2, a3 := batch("a", 1, day(1)), batch("a", 2, day(2)), batch("a", 3, day(3))
		b1, c1 := batch("b", 1, day(1)), batch("c", 1, day(3))
		for _, c := range []struct {
			seen map[string]int64
			want []UsageBatch
		}{
			{nil, []UsageBatch{a1, a2, a3, b1, c1}},
			{map[string]int64{"a": 2}, []UsageBatch{a3, b1, c1}},
			{map[string]int64{"a": 1, "b": 1, "gone": 7}, []UsageBatch{a2, a3, c1}},
			{map[string]int64{"a": 3, "b": 1, "c": 1}, nil},
		} {
			if got, err := db.UsageBatchesSince(ctx, c.seen); err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("since %v: got %+v, %v, want %+v", c.seen, got, err, c.want)
			}
		}
		if err := db.PruneUsageBatches(ctx, day(3)); err != nil {
			t.Fatal(err)
		}
		if got, err := db.UsageBatchesSince(ctx, nil); err != nil || !reflect.DeepEqual(got, []UsageBatch{a3, b1, c1}) {
			t.Errorf("pruned: got %+v, %v, want what is newest of each node", got, err)
		}
		if got, err := db.UsageNodes(ctx); err != nil || !reflect.DeepEqual(got, map[string]int64{"a": 3, "b": 1, "c": 1}) {
			t.Errorf("UsageNodes: got %v, %v", got, err)
		}
	})
}
