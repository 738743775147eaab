package meter_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/meter"
)

func TestS24_ValuesAreExactOrRefused(t *testing.T) {
	t.Parallel()
	f := &usher.Feature{Key: "tokens", Kind: usher.Metered, Meter: "m", Precision: 2}
	m := map[string]*usher.Meter{"m": {Key: "m", Event: "e", Aggregation: usher.Sum, Field: "data.usage.n"}}
	for data, want := range map[string]string{
		`{"usage":{"n":1}}`:                    "100",
		`{"usage":{"n":1.25}}`:                 "125",
		`{"usage":{"n":"1.250"}}`:              "125",
		`{"usage":{"n":0}}`:                    "0",
		`{"usage":{"n":92233720368547758.07}}`: "9223372036854775807",
		`{"usage":{"n":92233720368547758.08}}`: "data.usage.n is beyond what can be counted",
		`{"usage":{"n":1.255}}`:                "data.usage.n must have at most 2 digits",
		`{"usage":{"n":1e2}}`:                  "data.usage.n must be a plain decimal number",
		`{"usage":{"n":-1}}`:                   "data.usage.n must not be negative",
		`{"usage":{"n":true}}`:                 "data.usage.n must be a number",
		`{"usage":{"n":null}}`:                 "data.usage.n is missing",
		`{"usage":[1]}`:                        "data.usage.n is missing",
		`{"usage":{"n":"NaN"}}`:                "data.usage.n must be a plain decimal number",
		``:                                     "data.usage.n is missing",
		`{"usage":`:                            "data must be valid JSON",
	} {
		got := ""
		r, err := meter.Read([]*usher.Feature{f}, m, &usher.Event{Type: "e", Data: json.RawMessage(data)})
		switch {
		case err != nil:
			got = err.Error()
		case len(r) == 1:
			got = fmt.Sprint(r[0].Amount)
		}
		if len(got) < len(want) || got[:len(want)] != want {
			t.Errorf("%s: got %q, want %q", data, got, want)
		}
	}
}

func TestFiltersAndDimensions(t *testing.T) {
	t.Parallel()
	f := &usher.Feature{Key: "uploads", Kind: usher.Metered, Meter: "m"}
	m := map[string]*usher.Meter{"m": {Key: "m", Event: "e", Aggregation: usher.Count,
		Where: map[string][]string{"data.kind": {"image", "7", "true"}}, Dimensions: []string{"data.region"}}}
	for data, want := range map[string]string{
		`{"kind":"image","region":"eu"}`: "[{data.region eu}]",
		`{"kind":7}`:                     "[{data.region }]",
		`{"kind":true,"region":3}`:       "[{data.region 3}]",
		`{"kind":"Image"}`:               "",
		`{}`:                             "",
		`null`:                           "",
	} {
		r, err := meter.Read([]*usher.Feature{f}, m, &usher.Event{Type: "e", Data: json.RawMessage(data)})
		got := ""
		if len(r) == 1 {
			got = fmt.Sprint(r[0].Dimensions)
		}
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", data, got, err, want)
		}
	}
}
