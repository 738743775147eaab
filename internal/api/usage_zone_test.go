package api

import (
	"testing"
	"time"
)

// TestUsage_UniqueAcrossZones: where a customer's zone changed, days of the old
// zone and of the new one overlap. Each value is still told, in a day that began
// before it.
func TestUsage_UniqueAcrossZones(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, t.TempDir()+"/usher.db", `
usher: 1
meters: {who: {event: view, unique: data.who}}
features: {who: {kind: metered, meter: who}}
plans: {p: {default: true, entitlements: {who: {limit: 100, per: day}}}}
`)
	event := func(id, who string) {
		t.Helper()
		w.want(w.do("POST", "/v1/events", "application/cloudevents+json", `{"specversion":"1.0","id":"`+id+
			`","source":"s","type":"view","subject":"zoned","data":{"who":"`+who+`"}}`), 200,
			`{"accepted":1,"duplicates":0,"rejected":[]}`)
	}
	put := func(zone string) {
		t.Helper()
		if got := w.json("PUT", "/v1/customers/zoned", `{"timezone":"`+zone+`"}`); got.Code >= 300 {
			t.Fatal(got.Code, got.Body)
		}
	}
	put("America/New_York")
	event("1", "ann")
	w.pass(time.Hour) // 2026-03-10T13:00Z
	put("Asia/Tokyo")
	event("2", "bob")
	got := w.json("GET", "/v1/usage?customer=zoned&feature=who&window=day&from=2026-03-09T00:00:00Z&to=2026-03-13T00:00:00Z", "")
	w.want(got, 200, `{"data":[{"start":"2026-03-10T04:00:00Z","end":"2026-03-11T04:00:00Z","value":2}]}`)
}
