package store

import (
	"fmt"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// take writes one batch as the writer does: a lock, an op, a bucket, a rollup.
func take(db *DB, t *testing.T, key string, used int64) error {
	h := Holder{usher.Production, "acme"}
	return db.Usage(t.Context(), func(u *UsageTx) error {
		if _, err := u.Lock([]Holder{h}, nil); err != nil {
			return err
		}
		n, err := u.InsertOps([]Op{{Env: h.Env, Key: key, Route: "POST /v1/consume", BodyHash: []byte{1}, Customer: "acme",
			Feature: "calls", At: day(1), Amount: 1, Answer: make([]byte, 3000)}})
		if err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("key %s is taken", key)
		}
		b := engine.Bucket{BucketKey: engine.BucketKey{Feature: "calls", Clock: "month", Start: micros(day(1))}, End: micros(day(30)),
			Limit: 100, Used: used}
		if err := u.PutBuckets(map[Holder][]engine.Bucket{h: {b}}); err != nil {
			return err
		}
		return u.PutRollups(MergeAdd, map[RollupKey]RollupValue{{Holder: h, Feature: "calls", Value: "month", Grain: Minute,
			Start: micros(day(1))}: {Used: 1}})
	})
}

// A take on a full disk is refused whole, and goes through when there is room.
func TestI6_TakeOnAFullDiskLeavesNothing(t *testing.T) {
	t.Parallel()
	db := openTest(t, filepath.Join(t.TempDir(), "usher.db"))
	put(t, db, "acme")
	if err := take(db, t, "first", 1); err != nil {
		t.Fatal(err)
	}
	var pages int
	if err := db.w.QueryRowContext(t.Context(), `PRAGMA page_count`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	if _, err := db.w.ExecContext(t.Context(), fmt.Sprintf(`PRAGMA max_page_count = %d`, pages)); err != nil {
		t.Fatal(err)
	}
	before := dump(t, db)
	refused := false
	for i := int64(2); i < 50 && !refused; i++ {
		if err := take(db, t, fmt.Sprint("more", i), i); err != nil {
			refused = true
			if usher.ErrorCode(err) != usher.Unavailable {
				t.Fatalf("got %v, want unavailable", err)
			}
			if after := dump(t, db); !reflect.DeepEqual(before, after) {
				t.Error("a take that failed left something")
			}
		}
		before = dump(t, db)
	}
	if !refused {
		t.Fatal("the disk was never full")
	}
	if _, err := db.w.ExecContext(t.Context(), `PRAGMA max_page_count = 100000`); err != nil {
		t.Fatal(err)
	}
	if err := take(db, t, "again", 60); err != nil {
		t.Error("with room again:", err)
	}
}

// The schema refuses a bucket with more than its limit (I1): a bug becomes an
// error instead of a wrong number.
func TestI1_SchemaRefusesMoreThanTheLimit(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		put(t, db, "acme")
		if err := take(db, t, "a", 100); err != nil {
			t.Fatal(err)
		}
		if err := take(db, t, "b", 101); err == nil {
			t.Error("a bucket over its limit was stored")
		}
		got, err := db.Ops(t.Context(), []OpKey{{usher.Production, "a"}, {usher.Production, "b"}})
		if err != nil || len(got) != 1 {
			t.Errorf("got ops %v, %v; want a alone", got, err)
		}
	})
}

// Totals add up, max keeps the greater, last the later, on both databases.
func TestRollupsMerge(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		put(t, db, "acme")
		h := Holder{usher.Production, "acme"}
		minute := micros(day(1))
		merge := func(m Merge, feature, dimension string, used, at int64) {
			t.Helper()
			err := db.Usage(t.Context(), func(u *UsageTx) error {
				return u.PutRollups(m, map[RollupKey]RollupValue{{Holder: h, Feature: feature, Dimension: dimension, Value: "v",
					Grain: Minute, Start: minute}: {Used: used, At: at}})
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, d := range []string{"", "data.model"} {
			for i, n := range []int64{5, 9, 7} {
				merge(MergeAdd, "sum", d, n, 0)
				merge(MergeMax, "max", d, n, int64(i))
				merge(MergeLast, "last", d, n, []int64{10, 30, 20}[i])
			}
			for feature, want := range map[string]int64{"sum": 21, "max": 9, "last": 9} {
				rows, err := db.Rollups(t.Context(), h.Env, "acme", feature, d, Spans(day(1), day(1).Add(time.Minute)))
				if err != nil || len(rows) != 1 || rows[0].Used != want {
					t.Errorf("%s by %q: %v, %v; want %d", feature, d, rows, err, want)
				}
			}
		}
	})
}
