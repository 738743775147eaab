package engine_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
)

// wideBook is a catalogue whose one plan gives n metered features with a limit and a
// cap each.
func wideBook(t testing.TB, n int) *engine.Book {
	t.Helper()
	text := "usher: 1\nfeatures:\n"
	for i := range n {
		text += fmt.Sprintf("  f%03d: {kind: metered}\n", i)
	}
	text += "plans:\n  pro:\n    default: true\n    entitlements:\n"
	for i := range n {
		text += fmt.Sprintf("      f%03d: {limit: 1000, per: month, caps: [{limit: 10, per: minute}]}\n", i)
	}
	c, err := catalogfile.Parse("wide", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var plans []usher.PlanVersion
	for _, p := range c.Plans {
		plans = append(plans, usher.PlanVersion{Plan: *p, Version: 1})
	}
	return engine.NewBook(c, plans, nil)
}

// TestBytes: what a snapshot says that it holds is about what the heap holds, for
// customers that are idle and for those that are asked about every feature.
func TestBytes(t *testing.T) {
	const customers = 400
	at := time.Date(2026, 3, 15, 12, 0, 0, 0, time.UTC)
	for _, features := range []int{10, 50, 200} {
		book := wideBook(t, features)
		for _, asked := range []int{0, 5, features} {
			made := make([]*engine.Snapshot, customers)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for i := range made {
				created := at.Add(-time.Duration(i) * time.Hour)
				c := &usher.Customer{ID: fmt.Sprint("customer", i), CreatedAt: created,
					Clocks: []usher.Clock{{From: created, Anchor: created}}}
				w := engine.NewWorld(engine.Facts{Book: book, Customer: c})
				w.Needs("", at)
				made[i] = engine.NewSnapshot(w, 1, nil, nil)
				for n := range asked {
					engine.Decide(made[i], engine.Query{Feature: fmt.Sprintf("f%03d", n), Amount: 1}, at)
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			heap := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / customers
			said := made[customers/2].Bytes()
			t.Logf("%3d features, %3d of them asked about: %6d bytes a customer, estimated as %6d", features, asked, heap, said)
			if said < heap/2 || said > 2*heap {
				t.Errorf("%d features, %d asked about: a customer holds %d bytes, estimated as %d", features, asked, heap, said)
			}
			runtime.KeepAlive(made)
		}
	}
}
