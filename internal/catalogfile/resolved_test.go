package catalogfile

import (
	"encoding/json"
	"testing"
)

// TestResolvedJSON: the JSON of a catalogue is a catalogue file that gives the same,
// with nothing left to be resolved.
func TestResolvedJSON(t *testing.T) {
	t.Parallel()
	c, err := Parse("catalog.yaml", []byte(`usher: 1
features:
  sso: {kind: switch, title: "Single \"sign-on\""}
  days: {kind: config, type: integer}
  regions: {kind: config, type: list}
  credits: {kind: credits, precision: 3}
plans:
  free: {entitlements: {days: 7, sso: true}}
  pro: {extends: free, without: [sso], entitlements: {regions: [eu, us], credits: {limit: "0.500", per: {every: 6, unit: hour}}}}
`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := ResolvedJSON(c)
	if err != nil || !json.Valid(b) {
		t.Fatalf("got %v %s", err, b)
	}
	back, err := Parse("catalog.json", b)
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	pro := back.Plans["pro"]
	if pro.Extends != "" || len(pro.Without) > 0 || len(pro.Entitlements) != 3 || pro.Entitlements["days"].Value.Int != 7 {
		t.Errorf("got %+v, want pro with its own and the inherited entitlements, without sso", pro)
	}
	for key := range c.Plans {
		flat := *c
		if want, got := formatPlan(&flat, Resolve(c, key)), formatPlan(back, back.Plans[key]); len(want.keys) != len(got.keys) {
			t.Errorf("plan %s: got %v, want %v", key, got.keys, want.keys)
		}
	}
}
