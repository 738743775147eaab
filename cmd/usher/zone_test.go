package main

import (
	"reflect"
	"testing"

	"github.com/usher-sh/usher/internal/calendar"
)

// TestInstantsInAZone: instants are shown in the customer's zone, to the second, and
// nothing else of an answer changes.
func TestInstantsInAZone(t *testing.T) {
	t.Parallel()
	zone, err := calendar.Zone("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	o, err := parseObject([]byte(`{"id":"2026-03-01T00:00:00Z","created_at":"2026-03-01T00:00:00.123456Z","anchor":"2026-07-01T04:00:00Z",
		"used":5,"expires_at":null,"until":"never","metadata":{"since":"2026-03-01T00:00:00Z"},
		"data":[{"start":"2026-03-08T06:59:59Z","end":"2026-03-08T07:00:00Z"}],"value":["2026-03-01T00:00:00Z"]}`))
	if err != nil {
		t.Fatal(err)
	}
	want, err := parseObject([]byte(`{"id":"2026-03-01T00:00:00Z","created_at":"2026-02-28T19:00:00-05:00",
		"anchor":"2026-07-01T00:00:00-04:00",
		"used":5,"expires_at":null,"until":"never","metadata":{"since":"2026-03-01T00:00:00Z"},
		"data":[{"start":"2026-03-08T01:59:59-05:00","end":"2026-03-08T03:00:00-04:00"}],"value":["2026-03-01T00:00:00Z"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := o.in(zone); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
