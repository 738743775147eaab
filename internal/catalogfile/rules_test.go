package catalogfile

import (
	"fmt"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
)

func api(t testing.TB) *usher.Catalog {
	t.Helper()
	src, err := os.ReadFile("testdata/api.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return mustParse(t, string(src))
}

var (
	month    = usher.Period{Every: 1, Unit: usher.Month}
	lifetime = usher.Period{Every: 1, Unit: usher.Lifetime}
)

// TestAPIExample reads the documented file and looks at each sort of thing.
func TestAPIExample(t *testing.T) {
	t.Parallel()
	c := api(t)
	if len(c.Meters) != 6 || len(c.Features) != 8 || len(c.Plans) != 3 || len(c.Addons) != 3 || c.Timezone != "" {
		t.Errorf("got %d meters, %d features, %d plans, %d add-ons, zone %q", len(c.Meters), len(c.Features), len(c.Plans), len(c.Addons),
			c.Timezone)
	}
	equal(t, "uploads", c.Meters["uploads"], &usher.Meter{Key: "uploads", Event: "file.uploaded", Aggregation: usher.Sum, Field: "data.bytes",
		Where: map[string][]string{"data.kind": {"image", "video"}}})
	equal(t, "support", c.Features["support"], &usher.Feature{Key: "support", Kind: usher.Config, Type: usher.TypeEnum,
		Values: []string{"community", "email", "priority"}, Combine: usher.CombineMax})
	equal(t, "api_calls", c.Plans["pro"].Entitlements["api_calls"], &usher.Entitlement{
		Allowances: []usher.Allowance{{Limit: 100_000, Per: month, Priority: 100, Overage: usher.Overage{Max: 10_000},
			Rollover: &usher.Rollover{Max: 50_000, Windows: 1}}},
		Caps: []usher.Cap{{Limit: 600, Per: usher.Period{Every: 1, Unit: usher.Minute}}},
	})
	equal(t, "support of pro", c.Plans["pro"].Entitlements["support"], &usher.Entitlement{Value: &usher.Value{Int: 1, Text: "email"}})
	equal(t, "trial", c.Plans["pro"].Trial, usher.Span{N: 14, Unit: usher.Day})
	equal(t, "past_due", c.Plans["enterprise"].PastDue, &usher.PastDue{Grace: usher.Span{N: 30, Unit: usher.Day}, Then: usher.ThenSuspend})
	equal(t, "credits", c.Plans["pro"].Entitlements["ai_credits"].Allowances[0].Limit, 500_000)
	equal(t, "tokens", c.Plans["pro"].Entitlements["tokens"], &usher.Entitlement{})
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

func refused(t *testing.T, src, want string) {
	t.Helper()
	_, err := Parse("x", []byte(src))
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s\ngot %v, want an error with %q", src, err, want)
	}
}

func TestS02_UnlimitedZeroAndAbsentDiffer(t *testing.T) {
	t.Parallel()
	c := mustParse(t, `
usher: 1
features: {a: {kind: metered}, b: {kind: metered}, c: {kind: metered}, s: {kind: seats}}
plans: {p: {entitlements: {a: unlimited, b: {limit: 0, per: month}, s: 0}}}`)
	e := c.Plans["p"].Entitlements
	equal(t, "unlimited", e["a"].Allowances, []usher.Allowance{{Unlimited: true, Per: lifetime, Priority: 100}})
	equal(t, "zero", e["b"].Allowances, []usher.Allowance{{Limit: 0, Per: month, Priority: 100}})
	equal(t, "no seats", e["s"].Allowances, []usher.Allowance{{Limit: 0, Per: lifetime, Priority: 100}})
	if e["c"] != nil {
		t.Errorf("absent: got %+v", e["c"])
	}
	refused(t, "usher: 1\nfeatures: {a: {kind: metered}}\nplans: {p: {entitlements: {a: null}}}",
		"must be unlimited or a map such as {limit: 1000, per: month}")
	refused(t, "usher: 1\nfeatures: {a: {kind: metered}}\nplans: {p: {entitlements: {a: {limit: null, per: month}}}}",
		"for no limit write unlimited, for none at all 0")
}

func TestS04_CombineDefaultsByType(t *testing.T) {
	t.Parallel()
	c := mustParse(t, `
usher: 1
features:
  i: {kind: config, type: integer}
  d: {kind: config, type: decimal}
  e: {kind: config, type: enum, values: [a]}
  l: {kind: config, type: list}
  s: {kind: config, type: string}
  o: {kind: config, type: list, combine: override}`)
	for key, want := range map[string]usher.Combine{"i": "max", "d": "max", "e": "max", "l": "union", "s": "override", "o": "override"} {
		equal(t, key, c.Features[key].Combine, want)
	}
}

func TestS24_QuantitiesAreReadAsText(t *testing.T) {
	t.Parallel()
	parse := func(limit string) (int64, error) {
		c, err := Parse("x", []byte("usher: 1\nfeatures: {a: {kind: metered, precision: 3}}\nplans: {p: {entitlements: {a: {limit: "+limit+
			", per: month}}}}"))
		if err != nil {
			return 0, err
		}
		return c.Plans["p"].Entitlements["a"].Allowances[0].Limit, nil
	}
	for text, want := range map[string]int64{
		"1.25": 1250, `"1.25"`: 1250, "0.1": 100, "9007199254740.993": 9007199254740993, "9223372036854775.807": math.MaxInt64, "1.5000000": 1500,
	} {
		if got, err := parse(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"0.0001", "9223372036854775.808", "1e3", "0x10", "1_000", "010", "-1", "+1", ".5", "1.", "1:30", "NaN",
		".nan", "true", "''", "[1]"} {
		if got, err := parse(text); err == nil {
			t.Errorf("%s: got %d, want an error", text, got)
		}
	}
}

func TestS24_AmountsAreWrittenWhole(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		n         int64
		precision int
		want      string
	}{
		{0, 0, "0"}, {0, 3, "0.000"}, {1, 3, "0.001"}, {12, 3, "0.012"}, {999, 3, "0.999"}, {1000, 3, "1.000"}, {-1, 2, "-0.01"},
		{math.MaxInt64, 9, "9223372036.854775807"}, {math.MinInt64, 9, "-9223372036.854775808"}, {math.MinInt64, 0, "-9223372036854775808"},
	} {
		if got := usher.FormatQuantity(tt.n, tt.precision); got != tt.want {
			t.Errorf("%d at %d: got %s, want %s", tt.n, tt.precision, got, tt.want)
		}
	}
}

func TestS25_DrawsRate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		perUnit, text string
		feature, pool int
		want          int64 // 0: refused
	}{
		{`"0.002"`, "0.002", 0, 3, 2},
		{`0.0020`, "0.002", 0, 3, 2},
		{`2`, "2", 0, 0, 2},
		{`2`, "2", 3, 3, 2},
		{`2`, "2", 1, 3, 200},
		{`"0.5"`, "0.5", 2, 3, 5},
		{`"0.05"`, "0.05", 2, 3, 0},
		{`1`, "1", 4, 3, 0},
		{`0`, "", 0, 3, 0},
		{`9223372036`, "9223372036", 0, 9, 9223372036_000_000_000},
	} {
		src := fmt.Sprintf("usher: 1\nfeatures: {pool: {kind: credits, precision: %d}, f: {kind: metered, precision: %d, draws: {credits: "+
			"pool, per_unit: %s}}}", tt.pool, tt.feature, tt.perUnit)
		c, err := Parse("x", []byte(src))
		if (err != nil) != (tt.want == 0) {
			t.Errorf("%+v: got %v", tt, err)
		} else if err == nil {
			equal(t, tt.perUnit, c.Features["f"].Draws, &usher.Draws{Credits: "pool", PerUnit: usher.Number(tt.text), Rate: tt.want})
		}
	}
}

func TestS27_PastDueDefaults(t *testing.T) {
	t.Parallel()
	c := mustParse(t, `
usher: 1
plans:
  a: {}
  b: {past_due: {}}
  c: {past_due: {grace: 7 days, then: default}}
  d: {past_due: {grace: 1 month}}
  e: {past_due: {then: d}}`)
	for key, want := range map[string]*usher.PastDue{
		"a": nil, "b": nil, "c": nil,
		"d": {Grace: usher.Span{N: 1, Unit: usher.Month}, Then: usher.ThenDefault},
		"e": {Grace: usher.Span{N: 7, Unit: usher.Day}, Then: "d"},
	} {
		equal(t, key, c.Plans[key].PastDue, want)
	}
}

func TestS28_OneDefaultPerFamily(t *testing.T) {
	t.Parallel()
	mustParse(t, "usher: 1\nplans: {a: {default: true}, b: {default: true, family: other}}")
	refused(t, "usher: 1\nplans: {a: {default: true}, b: {default: true, family: main}}", "family main already has a default plan: a")
}

func TestS29_ResolveExtendsAndWithout(t *testing.T) {
	t.Parallel()
	c := mustParse(t, `
usher: 1
features: {a: {kind: metered}, b: {kind: switch}, c: {kind: switch}, d: {kind: switch}}
plans:
  free: {title: Free, default: true, trial: 14 days, period: year, past_due: {then: suspend},
    entitlements: {a: {limit: 5, per: month, overage: {max: 3}, caps: [{limit: 1, per: day}]}, b: true, c: true}}
  pro: {extends: free, without: [c], family: other, entitlements: {a: {limit: 9, per: month}}}
  top: {extends: pro, entitlements: {c: false, d: true}}`)
	pro := Resolve(c, "pro")
	equal(t, "pro", pro, &usher.Plan{Key: "pro", Family: "other", Entitlements: map[string]*usher.Entitlement{
		"a": {Allowances: []usher.Allowance{{Limit: 9, Per: month, Priority: 100}}}, // replaced whole: no overage, no caps
		"b": {On: true},
	}})
	top := Resolve(c, "top")
	equal(t, "top", top.Entitlements, map[string]*usher.Entitlement{
		"a": pro.Entitlements["a"], "b": {On: true}, "c": {On: false}, "d": {On: true},
	})
	if top.Default || top.Trial != (usher.Span{}) || top.PastDue != nil || top.Period != "" || top.Title != "" {
		t.Errorf("more than entitlements was inherited: %+v", top)
	}
	if got := Resolve(c, "none"); got != nil {
		t.Errorf("got %+v for no plan", got)
	}
	if c.Plans["pro"].Extends != "free" || len(c.Plans["pro"].Entitlements) != 1 {
		t.Error("Resolve changed the catalogue")
	}
	loop := &usher.Catalog{Plans: map[string]*usher.Plan{"a": {Key: "a", Extends: "b"}, "b": {Key: "b", Extends: "a"}}}
	if Resolve(loop, "a") == nil { // made by hand: it must end
		t.Error("got nil")
	}
}

func TestS33_OneWindowWhereQuantitiesDoNotAdd(t *testing.T) {
	t.Parallel()
	c := mustParse(t, `
usher: 1
meters: {m: {event: x, last: data.n}}
features: {a: {kind: metered, meter: m}, b: {kind: metered, meter: m}}
plans:
  big: {entitlements: {a: unlimited, b: unlimited}}
  huge: {entitlements: {a: {limit: unlimited, priority: 5}}}
  small: {entitlements: {a: {limit: 5, per: day, anchor: calendar}}}
addons:
  more: {entitlements: {a: {limit: 5, per: {every: 1, unit: day}, anchor: calendar}}}`)
	day := usher.Period{Every: 1, Unit: usher.Day}
	equal(t, "big", c.Plans["big"].Entitlements["a"].Allowances,
		[]usher.Allowance{{Unlimited: true, Per: day, Anchor: usher.AnchorCalendar, Priority: 100}})
	equal(t, "huge", c.Plans["huge"].Entitlements["a"].Allowances,
		[]usher.Allowance{{Unlimited: true, Per: day, Anchor: usher.AnchorCalendar, Priority: 5}})
	equal(t, "without any window", c.Plans["big"].Entitlements["b"].Allowances,
		[]usher.Allowance{{Unlimited: true, Per: lifetime, Priority: 100}})
	const head = "usher: 1\nmeters: {m: {event: x, unique: data.n}}\nfeatures: {p: {kind: credits}, a: {kind: metered, meter: m}}\n"
	refused(t, head+"plans: {x: {entitlements: {a: {limit: 5, per: day}}}}\naddons: {y: {entitlements: {a: {limit: 5, per: month}}}}",
		"all plans and add-ons must have one window for a: here it is per month, on line 4 per day")
	refused(t, head+"plans: {x: {entitlements: {a: {limit: 5, per: day, rollover: {max: 1}}}}}", "rollover needs a meter that counts or sums")
	refused(t, strings.Replace(head, "meter: m}", "meter: m, draws: {credits: p, per_unit: 1}}", 1), "draws needs a meter that counts or sums")
	refused(t, head+"plans: {x: {entitlements: {a: {limit: 5, per: day, anchor: first_use}}}}", "first_use needs a meter that counts or sums")
}

// TestTypeOfError checks what the doors rely on.
func TestTypeOfError(t *testing.T) {
	t.Parallel()
	_, err := Parse("catalog.yaml", []byte("usher: 1\nplans: {free: {titel: x}}\n"))
	want := "catalog.yaml has 1 problem\n  catalog.yaml:2:16: plans.free: unknown field \"titel\"; did you mean \"title\"?"
	if err == nil || err.Error() != want || usher.ErrorCode(err) != usher.Invalid {
		t.Errorf("got %v, want %s", err, want)
	}
}
