package ofrep

import (
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

// TestOFREP_WithoutTheState: while the database is away, a yes or no is what the
// feature's fail policy says, and a config has no value: its caller's default
// holds. One flag does not fail the others.
func TestOFREP_WithoutTheState(t *testing.T) {
	t.Parallel()
	d := usher.Decision{Allowed: true, Reason: usher.ReasonUnavailable, Feature: "audit", Kind: usher.Switch, Degraded: true}
	want := `{"key":"audit","value":true,"reason":"UNKNOWN","variant":"on",` +
		`"metadata":{"reason":"unavailable","allowed":true,"kind":"switch","degraded":true}}`
	if got := string(appendFlag(nil, &d, false, false, 0)); got != want || unanswerable(&d) != nil {
		t.Errorf("got %s, want %s", got, want)
	}
	d = usher.Decision{Reason: usher.ReasonUnavailable, Feature: "exports", Kind: usher.Metered, Degraded: true}
	want = `{"key":"exports","value":{"allowed":false,"reason":"unavailable"},"reason":"UNKNOWN",` +
		`"metadata":{"reason":"unavailable","allowed":false,"kind":"metered","degraded":true,"revision":7}}`
	if got := string(appendFlag(nil, &d, false, true, 7)); got != want || unanswerable(&d) != nil {
		t.Errorf("got %s, want %s", got, want)
	}
	d = usher.Decision{Allowed: true, Reason: usher.ReasonUnavailable, Feature: "retention", Kind: usher.Config, Type: usher.TypeInteger,
		Degraded: true}
	if err := unanswerable(&d); usher.ErrorCode(err) != usher.Unavailable {
		t.Errorf("a config: got %v, want unavailable", err)
	}
	at := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	d = usher.Decision{Allowed: true, Reason: usher.Granted, Feature: "retention", Kind: usher.Config, Type: usher.TypeInteger,
		Value: &usher.Value{Int: 90}, Degraded: true, AsOf: at}
	want = `{"key":"retention","value":90,"reason":"UNKNOWN",` +
		`"metadata":{"reason":"granted","allowed":true,"kind":"config","degraded":true,"as_of":"2026-03-10T12:00:00Z"}}`
	if got := string(appendFlag(nil, &d, false, false, 0)); got != want || unanswerable(&d) != nil {
		t.Errorf("from memory: got %s, want %s", got, want)
	}
	// The one flag of a bulk answer, and the whole of a single one.
	want = `{"key":"retention","errorCode":"GENERAL","errorDetails":"why"}`
	if got := string(appendFailure(nil, "retention", "GENERAL", "why")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestOFREP_UseAloneChangesNoFingerprint: nor does time alone, until an answer changes.
func TestOFREP_UseAloneChangesNoFingerprint(t *testing.T) {
	t.Parallel()
	d := usher.Decision{Allowed: true, Reason: usher.WithinLimit, Feature: "exports", Kind: usher.Metered, Counted: true, Limit: 10,
		OveragePermitted: true}
	used := d
	used.Used, used.Overage, used.OverageLeft = 12, 2, 3
	used.Credits = &usher.CreditsUse{Feature: "credits", Remaining: 4}
	used.ValidUntil = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	seen := func(d usher.Decision) string { return fingerprint([]usher.Decision{d}) }
	if seen(d) != seen(used) {
		t.Error("use changes the fingerprint")
	}
	more := d
	more.Limit = 11
	if seen(d) == seen(more) {
		t.Error("another limit does not change the fingerprint")
	}
}

func TestOFREP_StreamsAreBounded(t *testing.T) {
	t.Parallel()
	var s streams
	var leave []func()
	enter := func(key string) error {
		_, l, err := s.enter(key)
		if err == nil {
			leave = append(leave, l)
		}
		return err
	}
	for range maxStreamsPerKey {
		if err := enter("a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := enter("a"); usher.ErrorCode(err) != usher.RateLimited {
		t.Errorf("one more of a key: got %v", err)
	}
	if err := enter("b"); err != nil {
		t.Errorf("another key: got %v", err)
	}
	leave[0]()
	if err := enter("a"); err != nil {
		t.Errorf("after one has left: got %v", err)
	}
	for _, l := range leave[1:] {
		l()
	}
	if s.open != 0 || len(s.byKey) != 0 {
		t.Errorf("got %d %v, want none left", s.open, s.byKey)
	}
}
