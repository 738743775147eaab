package catalogfile

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
)

// TestDiff compares the documented file with a copy in which some text is
// replaced.
func TestDiff(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/api.yaml")
	if err != nil {
		t.Fatal(err)
	}
	old := mustParse(t, string(src))
	tests := []struct {
		name    string
		replace []string // old, new, …
		want    string
	}{
		{"nothing", nil, ""},
		{"a comment", []string{"# counts events", "# counts"}, ""},
		{"a limit", []string{"limit: 100000", "limit: 120000"},
			"change plans.pro.entitlements.api_calls: plan pro: feature api_calls: limit 100000 → 120000 per month"},
		{"limit and window", []string{"{limit: 1000, per: month}", "{limit: 50, per: day, anchor: calendar}"},
			"change plans.free.entitlements.api_calls: plan free: feature api_calls: limit 1000 per month → 50 per day (anchor calendar)"},
		{"to unlimited", []string{"{limit: 1000, per: month}", "unlimited"},
			"change plans.free.entitlements.api_calls: plan free: feature api_calls: limit 1000 per month → unlimited"},
		{"an inherited value", []string{"      retention: 7\n", "      retention: 14\n", "      retention: 90\n", ""},
			"change plans.free.entitlements.retention: plan free: feature retention: 7 → 14\n" +
				"change plans.pro.entitlements.retention: plan pro: feature retention: 90 → 14 (from now on inherited, inherited by enterprise)"},
		{"an own value in place of the inherited one", []string{"api_calls: unlimited",
			"api_calls: unlimited\n      retention: 365\n      sso: true"},
			"change plans.enterprise.entitlements.retention: plan enterprise: feature retention: 90 → 365 (until now inherited)\n" +
				"change plans.enterprise.entitlements.sso: plan enterprise: feature sso: still on (until now inherited)"},
		{"seats", []string{"members: 3", "members: {limit: 5, overage: {max: 2}}"},
			"change plans.free.entitlements.members: plan free: feature members: limit 3 → 5, overage up to 2"},
		{"parts", []string{"overage: {max: 10000}", "overage: unlimited", "rollover: {max: 50000}", "mode: warn",
			"caps: [{limit: 600, per: minute}]", "caps: [{limit: 600, per: minute}, {limit: 5, per: hour, sliding: true}]"},
			"change plans.pro.entitlements.api_calls: plan pro: feature api_calls: overage up to 10000 → unlimited, no rollover (was up to " +
				"50000), caps 600 per minute → 600 per minute and 5 per hour sliding, mode warn"},
		{"credits", []string{`"500.000"`, `"0.5"`},
			"change plans.pro.entitlements.ai_credits: plan pro: feature ai_credits: limit 500.000 → 0.500 per month (inherited by enterprise)"},
		{"switch and enum", []string{"sso: true", "sso: false", "support: email", "support: priority"},
			"change plans.pro.entitlements.sso: plan pro: feature sso: on → off (inherited by enterprise)\n" +
				"change plans.pro.entitlements.support: plan pro: feature support: email → priority (inherited by enterprise)"},
		{"own allowance beside credits", []string{"tokens: {} ", "tokens: {limit: 100, per: day}"},
			"change plans.pro.entitlements.tokens: plan pro: feature tokens: limit 100 per day (inherited by enterprise)"},
		{"fields of a plan", []string{"trial: 14 days", "trial: 30 days\n    period: year", "past_due: {grace: 30 days, then: suspend}", "",
			"default: true", "default: false", "title: Pro", "title: Professional"},
			"change plans.enterprise.past_due: plan enterprise: when past due: suspend after 30 days → default after 7 days\n" +
				"remove plans.free.default: plan free: is no longer the default of family main\n" +
				"change plans.pro.title: plan pro: title \"Pro\" → \"Professional\"\n" +
				"change plans.pro.trial: plan pro: trial of 14 days → 30 days\n" +
				"change plans.pro.period: plan pro: period month → year"},
		{"other base", []string{"    extends: pro\n", "    extends: free\n"},
			"change plans.enterprise.extends: plan enterprise: extends pro → free\n" +
				"remove plans.enterprise.entitlements.ai_credits: plan enterprise: no longer gives feature ai_credits (was 500.000 per month) " +
				"(inherited)\n" +
				"remove plans.enterprise.entitlements.regions: plan enterprise: no longer gives feature regions (was [us]) (inherited)\n" +
				"change plans.enterprise.entitlements.retention: plan enterprise: feature retention: 90 → 7 (inherited)\n" +
				"remove plans.enterprise.entitlements.sso: plan enterprise: no longer gives feature sso (was on) (inherited)\n" +
				"change plans.enterprise.entitlements.support: plan enterprise: feature support: email → community (inherited)\n" +
				"remove plans.enterprise.entitlements.tokens: plan enterprise: no longer gives feature tokens (was by credits only) (inherited)"},
		{"without", []string{"    extends: pro\n", "    extends: pro\n    without: [sso]\n"},
			"add plans.enterprise.without: plan enterprise: without sso\n" +
				"remove plans.enterprise.entitlements.sso: plan enterprise: no longer gives feature sso (was on) (inherited)"},
		{"a new plan", []string{"addons:\n", "  team:\n    extends: free\n    entitlements: {sso: true, members: unlimited}\naddons:\n"},
			"add plans.team: new plan team\n" +
				"add plans.team.extends: plan team: extends free\n" +
				"add plans.team.entitlements.members: plan team: gives feature members: unlimited\n" +
				"add plans.team.entitlements.sso: plan team: gives feature sso: on"},
		{"an add-on", []string{"{title: Five seats, entitlements: {members: 5}}", "{title: Six seats, entitlements: {members: 6}}", "  eu: ",
			"  europe: "},
			"remove addons.eu: add-on eu removed\n" +
				"add addons.europe: new add-on europe\n" +
				"add addons.europe.entitlements.regions: add-on europe: gives feature regions: [eu]\n" +
				"change addons.seat-pack.title: add-on seat-pack: title \"Five seats\" → \"Six seats\"\n" +
				"change addons.seat-pack.entitlements.members: add-on seat-pack: feature members: limit 5 → 6"},
		{"meters", []string{"sum: data.tokens", "max: data.tokens", "where: {data.kind: [image, video]}", "where: {data.kind: image}",
			"{event: api.request}", "{event: api.call, dimensions: [data.model]}",
			"  visitors:  {event: page.viewed, unique: data.visitor}\n", "  clicks: {event: clicked}\n",
			`, draws: {credits: ai_credits, per_unit: "0.002"}`, "", "tokens: {} ", "tokens: unlimited"},
			"change meters.api_calls.event: meter api_calls: event api.request → api.call\n" +
				"add meters.api_calls.dimensions: meter api_calls: dimensions data.model\n" +
				"add meters.clicks: new meter clicks\n" +
				"change meters.tokens.aggregation: meter tokens: takes sum of data.tokens → max of data.tokens\n" +
				"change meters.uploads.where: meter uploads: where {data.kind: [image, video]} → {data.kind: image}\n" +
				"remove meters.visitors: meter visitors removed\n" +
				"remove features.tokens.draws: feature tokens: draws 0.002 of ai_credits per unit removed\n" +
				"change plans.pro.entitlements.tokens: plan pro: feature tokens: limit unlimited (inherited by enterprise)"},
		{"features", []string{"[community, email, priority]", "[community, email, priority, phone]", "unit: day", "unit: week, combine: min",
			"{kind: seats, unit: member}", "{kind: seats, mode: warn}", "UTC", "Europe/Paris"},
			"change timezone: time zone UTC → Europe/Paris\n" +
				"remove features.members.unit: feature members: unit \"member\" removed\n" +
				"change features.members.mode: feature members: mode enforce → warn\n" +
				"change features.retention.combine: feature retention: combine max → min\n" +
				"change features.retention.unit: feature retention: unit \"day\" → \"week\"\n" +
				"change features.support.values: feature support: values community, email, priority → community, email, priority, phone"},
	}
	for _, tt := range tests {
		text := string(src)
		for i := 0; i+1 < len(tt.replace); i += 2 {
			if !strings.Contains(text, tt.replace[i]) {
				t.Errorf("%s: there is no %q", tt.name, tt.replace[i])
			}
			text = strings.Replace(text, tt.replace[i], tt.replace[i+1], 1)
		}
		if got := lines(Diff(old, mustParse(t, text))); got != tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}

func lines(changes []Change) string {
	var all []string
	for _, c := range changes {
		all = append(all, fmt.Sprintf("%s %s: %s", c.Action, c.Path, c.Text))
	}
	return strings.Join(all, "\n")
}

func TestDiffFromAndToNothing(t *testing.T) {
	t.Parallel()
	c := api(t)
	added := lines(Diff(nil, c))
	for _, want := range []string{"add meters.tokens: new meter tokens", "add features.sso: new feature sso", "add plans.free: new plan free",
		"add plans.free.default: plan free: becomes the default of family main", "add addons.eu: new add-on eu"} {
		if !strings.Contains(added, want+"\n") {
			t.Errorf("got\n%s\nwithout %q", added, want)
		}
	}
	for _, change := range Diff(c, nil) {
		if change.Action != Remove {
			t.Errorf("got %+v of removing everything", change)
		}
	}
	if got := len(Diff(c, nil)); got != 20 {
		t.Errorf("got %d changes of removing everything, want one for each of 20 things", got)
	}
	if got := Diff(nil, &usher.Catalog{}); len(got) != 0 {
		t.Errorf("got %v of nothing", got)
	}
}

// TestDiffNamesHeirsUpToABound keeps a change of a base plan readable.
func TestDiffNamesHeirsUpToABound(t *testing.T) {
	t.Parallel()
	file := func(limit int) *usher.Catalog {
		var b strings.Builder
		fmt.Fprintf(&b, "usher: 1\nfeatures: {a: {kind: seats}}\nplans:\n  base: {entitlements: {a: %d}}\n", limit)
		for i := range 500 {
			fmt.Fprintf(&b, "  p%03d: {extends: base}\n", i)
		}
		return mustParse(t, b.String())
	}
	want := "change plans.base.entitlements.a: plan base: feature a: limit 1 → 2 (inherited by p000, p001, p002, p003, p004 and more)"
	if got := lines(Diff(file(1), file(2))); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
