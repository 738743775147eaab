package catalogfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
)

// overrideFeatures is one feature of each sort, with meters by key.
const overrideFeatures = `
usher: 1
meters: {n: {event: x}, g: {event: x, last: data.n}}
features:
  sso: {kind: switch}
  int: {kind: config, type: integer}
  dec: {kind: config, type: decimal, precision: 2}
  enu: {kind: config, type: enum, values: [low, high]}
  str: {kind: config, type: string}
  lst: {kind: config, type: list}
  calls: {kind: metered, meter: n, precision: 1}
  gauge: {kind: metered, meter: g}
  pool: {kind: credits, precision: 3}
  seats: {kind: seats}
`

func TestS03_ParseOverride(t *testing.T) {
	t.Parallel()
	c := mustParse(t, overrideFeatures)
	tests := []struct{ feature, value, want string }{
		{"sso", `true`, `{"on":true}`},
		{"sso", `false`, `{"on":false}`},
		{"sso", `{"value":true,"fail":"open"}`, `{"on":true,"fail":"open"}`},
		{"sso", `{"deny":true}`, `deny`},
		{"int", `90`, `{"value":{"int":90}}`},
		{"int", ` {"value": -90} `, `{"value":{"int":-90}}`},
		{"dec", `"1.5"`, `{"value":{"int":150}}`},
		{"dec", `1.5`, `{"value":{"int":150}}`},
		{"enu", `"high"`, `{"value":{"int":1,"text":"high"}}`},
		{"str", `"unlimited"`, `{"value":{"text":"unlimited"}}`},
		{"lst", `["us","eu"]`, `{"value":{"list":["eu","us"]}}`},
		{"calls", `"unlimited"`, `{"unlimited":true}`},
		{"calls", `{"limit":5}`, `{"limit":50}`},
		{"calls", `{"limit":"unlimited"}`, `{"unlimited":true}`},
		{"calls", `{"limit":0.5,"per":"day","anchor":"subscription","priority":0,"overage":"none","rollover":{"max":0},"caps":[],` +
			`"mode":"enforce","fail":"closed"}`,
			`{"limit":5,"per":{"every":1,"unit":"day"},"anchor":"subscription","priority":0,"overage":{},"rollover":{"max":0,"windows":1},` +
				`"caps":[],"mode":"enforce","fail":"closed"}`},
		{"calls", `{"caps":[{"limit":5,"per":"minute"}]}`, `{"caps":[{"limit":50,"per":{"every":1,"unit":"minute"}}]}`},
		{"calls", `{"mode":"warn"}`, `{"mode":"warn"}`},
		{"calls", `{"add":500}`, `add 5000`},
		{"calls", `{"add":-0.5}`, `add -5`},
		{"calls", `{"add":"-500.0"}`, `add -5000`},
		{"calls", `{"add":9223372036854775807}`, `value.add: is beyond what can be counted (at most 922337203685477580.7), got ` +
			`9223372036854775807`},
		{"calls", `{"deny":true}`, `deny`},
		{"gauge", `{"limit":5,"per":"day"}`, `{"limit":5,"per":{"every":1,"unit":"day"}}`},
		{"pool", `{"limit":"0.001"}`, `{"limit":1}`},
		{"seats", `10`, `{"limit":10}`},
		{"seats", `"unlimited"`, `{"unlimited":true}`},
		{"seats", `{"limit":3,"overage":{"max":1},"mode":"warn"}`, `{"limit":3,"overage":{"max":1},"mode":"warn"}`},
		{"seats", `{"mode":"warn"}`, `{"mode":"warn"}`},
		{"seats", `{"add":-1}`, `add -1`},

		{"sso", `1`, `value: must be true or false, got 1 (write true)`},
		{"sso", `{"limit":5}`, `value: must be true or false, or {value: true, fail: open}: sso is a switch`},
		{"sso", `{"add":5}`, `value.add: add is for metered, seats, credits and config numbers: sso is of kind switch, give its value`},
		{"sso", ``, `value: expected a value, got the end`},
		{"sso", `nope`, "value: expected a value, got `nope`: text must be in double quotes"},
		{"sso", `true true`, "value: expected nothing after the end of the value, got `true`"},
		{"sso", "\"\xff\"", `value: byte 0xFF is not UTF-8: save the file as UTF-8`},
		{"int", `1.5`, `value: must be a whole number such as 90, got 1.5`},
		{"int", `null`, `value: must be a whole number such as 90, got nothing`},
		{"enu", `"hihg"`, `value: must be low or high, got "hihg" (did you mean "high"?)`},
		{"lst", `["a",1]`, `value[1]: must be text: write "1" in quotes`},
		{"calls", `5`, `value: must be a map: write {"limit": 5}, and "per" if no plan gives one`},
		{"calls", `true`, `value: must be "unlimited", {"limit": 1000, "per": "month"}, {"add": 500} or {"deny": true}, got true`},
		{"calls", `{}`, `value: must name what it sets, such as {"limit": 1000}`},
		{"calls", `{"limit":-1,"per":"months","priority":300}`,
			`value.limit: must be a number or unlimited, got -1 (for no limit write unlimited, for none at all 0)
value.per: must be minute, hour, day, week, month, quarter, year or lifetime, got "months" (did you mean "month"?)
value.priority: must be a whole number from 0 to 255, got 300`},
		{"calls", `{"limit":0.25}`, `value.limit: must have at most 1 digit after the point, got 0.25`},
		{"calls", `{"limit":1e3}`, `value.limit: must be in plain digits such as 1000 (no +, _, exponent, leading zero or other base), got 1e3`},
		{"calls", `{"limit":5,"limit":6}`, `value: the name "limit" occurs twice in one object, first at line 1, column 2`},
		{"calls", `{"limt":5}`, `value: unknown field "limt"; did you mean "limit"?`},
		{"calls", `{"allowances":[]}`, `value: an override sets one limit in place of all allowances: write limit and per`},
		{"calls", `{"on_change":"reset"}`, `value: an override has no on_change: it belongs to plans and features`},
		{"calls", `{"add":5,"limit":5}`, `value: add must be the only field: remove "limit"`},
		{"calls", `{"deny":true,"reason":"x"}`, `value: deny must be the only field: remove "reason"`},
		{"calls", `{"deny":false}`, `value.deny: must be true; delete the override to end a denial`},
		{"calls", `{"add":"many"}`, `value.add: must be a number such as 10 or "1.5", got "many"`},
		{"calls", `{"per":"lifetime","anchor":"calendar"}`,
			`value.anchor: a lifetime window is never renewed, so it has no anchor: leave anchor out`},
		{"calls", `{"caps":[{"limit":5}]}`, `value.caps[0]: per is missing: how often the cap is renewed, such as per: minute`},
		{"gauge", `{"caps":[{"limit":5,"per":"day"}]}`, `value.caps: caps need a meter that counts or sums; g takes the last value`},
		{"gauge", `{"rollover":{"max":5}}`, `value.rollover: rollover needs a meter that counts or sums; g takes the last value`},
		{"seats", `1.5`, `value: must be a whole number, got 1.5`},
		{"seats", `true`, `value: must be a number of seats, "unlimited" or {"limit": 3}, got true`},
		{"seats", `{"limit":3,"per":"month"}`, `value: seats have no windows: leave per out`},
		{"seats", strings.Repeat("[", 100), `value: nested deeper than 32 levels`},
	}
	for _, tt := range tests {
		f := c.Features[tt.feature]
		if got := override(f, c.Meters[f.Meter], tt.value); got != tt.want {
			t.Errorf("%s %s: got\n%s\nwant\n%s", tt.feature, clip(tt.value), got, tt.want)
		}
	}
}

// override returns what ParseOverride gives back, as text.
func override(f *usher.Feature, m *usher.Meter, value string) string {
	set, add, deny, err := ParseOverride(f, m, []byte(value))
	given := 0
	for _, is := range []bool{set != nil, add != nil, deny, err != nil} {
		if is {
			given++
		}
	}
	var e *usher.Error
	switch {
	case given != 1:
		return fmt.Sprintf("not one of set %v, add %v, deny %v, err %v", set, add, deny, err)
	case errors.As(err, &e):
		var all []string
		for _, p := range e.Problems {
			all = append(all, p.Location+": "+p.Message)
		}
		return strings.Join(all, "\n")
	case err != nil:
		return "a plain error: " + err.Error()
	case add != nil:
		return fmt.Sprint("add ", *add)
	case deny:
		return "deny"
	}
	b, _ := json.Marshal(set)
	return string(b)
}

func FuzzParseOverride(f *testing.F) {
	c := mustParse(f, overrideFeatures)
	for _, value := range []string{`true`, `{"limit":5,"per":"day"}`, `{"add":-5}`, `{"deny":true}`, `"unlimited"`,
		`{"caps":[{"limit":1,"per":{"every":2,"unit":"hour"}}]}`, `[1,"a"]`} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, feature := range c.Features {
			got := override(feature, c.Meters[feature.Meter], value)
			if strings.HasPrefix(got, "not one") || strings.HasPrefix(got, "a plain error") {
				t.Fatalf("%s %q: %s", feature.Key, value, got)
			}
		}
	})
}
