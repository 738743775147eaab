package usher_test

import (
	"bytes"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

func TestIDsSortByTime(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 31, 23, 59, 59, 999_998_000, time.UTC)
	form := regexp.MustCompile(`^sub_[0-9a-v]{26}$`)
	var ids []string
	for range 2000 {
		ids = append(ids, usher.NewID("sub_", now, nil))
		now = now.Add(time.Microsecond)
	}
	for _, id := range ids {
		if !form.MatchString(id) {
			t.Fatalf("got %q, want sub_ and 26 characters of 0-9 and a-v", id)
		}
	}
	if !slices.IsSorted(ids) {
		t.Error("ids made one after another do not sort")
	}
	a, b := usher.NewID("sub_", now, nil), usher.NewID("sub_", now, nil)
	if a == b || a[:14] != b[:14] {
		t.Errorf("got %q and %q in one microsecond, want the same beginning and another end", a, b)
	}
	if a, b := usher.NewID("opr_", now, bytes.NewReader(make([]byte, 9))), usher.NewID("opr_", now, bytes.NewReader(make([]byte, 9))); a != b {
		t.Errorf("got %q and %q from the same time and bits", a, b)
	}
}

func BenchmarkNewID(b *testing.B) {
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		usher.NewID("req_", now, nil)
	}
}
