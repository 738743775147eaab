package catalogfile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

const accessFile = `usher: 1
features:
  exports: {kind: switch}
  sso: {kind: switch}
  members: {kind: seats}
permissions:
  report.read: {}
  report.export: {feature: exports, risk: high}
  document.update: {}
  invoice.pay: {}
  invoice.approve: {}
roles:
  viewer: {permissions: [report.read]}
  analyst: {includes: [viewer], permissions: ["report.*"], seat: members, title: Analyst}
  editor: {permissions: [document.update], when: "resource.properties.owner == subject.id"}
  payer: {permissions: [invoice.pay]}
  approver: {permissions: [invoice.approve]}
  chief: {includes: [viewer, editor, payer]}
custom_roles: {ceiling: analyst}
separation:
  four-eyes: {title: Pay or approve, roles: [payer, approver]}
`

// TestA02_LinkedFeatures: all of several features are needed unless the file
// says any, and any of one is all of it.
func TestA02_LinkedFeatures(t *testing.T) {
	t.Parallel()
	c := mustParse(t, `
usher: 1
features: {b: {kind: switch}, a: {kind: switch}}
permissions:
  none: {}
  one: {feature: a}
  list: {feature: [a]}
  any-of-one: {feature: [a], features: any}
  all: {feature: [b, a]}
  said: {feature: [b, a], features: all, risk: low}
  any: {feature: [b, a], features: any, risk: high, title: Any}`)
	one := []string{"a"}
	both := []string{"a", "b"}
	for key, want := range map[string]usher.Permission{
		"none": {}, "one": {Features: one}, "list": {Features: one}, "any-of-one": {Features: one},
		"all": {Features: both}, "said": {Features: both}, "any": {Features: both, Any: true, Risk: usher.RiskHigh, Title: "Any"},
	} {
		want.Key = key
		equal(t, key, c.Permissions[key], &want)
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	c := mustParse(t, accessFile)
	equal(t, "analyst", c.Roles["analyst"], &usher.Role{Key: "analyst", Title: "Analyst", Includes: []string{"viewer"},
		Permissions: []string{"report.*"}, Seat: "members"})
	equal(t, "editor", c.Roles["editor"].When, "resource.properties.owner == subject.id")
	equal(t, "ceiling", c.CustomRoles, &usher.CustomRoles{Ceiling: "analyst"})
	equal(t, "separation", c.Separation["four-eyes"], &usher.Separation{Key: "four-eyes", Title: "Pay or approve",
		Roles: []string{"approver", "payer"}})
	none := mustParse(t, "usher: 1\npermissions: {}\nroles: null\ncustom_roles:\nseparation: {}\n")
	if none.Permissions != nil || none.Roles != nil || none.CustomRoles != nil || none.Separation != nil {
		t.Errorf("got %+v of empty sections", none)
	}
}

// TestA04_NothingIsCutSilently: what is too deep or too wide is refused when it
// is written.
func TestA04_NothingIsCutSilently(t *testing.T) {
	t.Parallel()
	chain := func(n int, extra func(i int) string) string {
		var b strings.Builder
		b.WriteString("usher: 1\nfeatures: {s: {kind: seats}}\npermissions: {x: {}}\nroles:\n  r0: {permissions: [x]}\n")
		for i := 1; i < n; i++ {
			fmt.Fprintf(&b, "  r%d: {includes: [r%d]%s}\n", i, i-1, extra(i))
		}
		return b.String()
	}
	plain := func(int) string { return "" }
	mustParse(t, chain(MaxIncludes+1, plain))
	refused(t, chain(MaxIncludes+2, plain), "roles.r65.includes: includes 65 roles in all, and may include at most 64")
	when := func(i int) string { return fmt.Sprintf(`, permissions: [x], when: "subject.properties.level > %d"`, i) }
	mustParse(t, chain(MaxWays, when))
	// Six roles with a choice of two conditions each: 64 ways, and a seventh is too much.
	diamonds := func(n int) string {
		var b strings.Builder
		b.WriteString("usher: 1\npermissions: {x: {}}\nroles:\n  r0: {permissions: [x]}\n")
		for i := 1; i <= n; i++ {
			fmt.Fprintf(&b, "  a%d: {includes: [r%d], when: \"subject.id == 'a%d'\"}\n  b%d: {includes: [r%d], when: \"subject.id == 'b%d'\"}\n  "+
				"r%d: {includes: [a%d, b%d]}\n", i, i-1, i, i, i-1, i, i, i, i)
		}
		return b.String()
	}
	mustParse(t, diamonds(6))
	refused(t, diamonds(7), "roles.r7.includes: depends on more than 64 different combinations of conditions and seats")
	refused(t, diamonds(15), "roles.r7.includes: depends on")
	// One way may be taken twice: it is one.
	mustParse(t, strings.NewReplacer("'a", "'x", "'b", "'x").Replace(diamonds(15)))
}

// TestManyRoles: the largest files are read, and compared, soon.
func TestManyRoles(t *testing.T) {
	t.Parallel()
	file := func(last string) string {
		var b strings.Builder
		b.WriteString("usher: 1\npermissions:\n")
		for i := range MaxPermissions {
			fmt.Fprintf(&b, "  p%d.a.b: {}\n", i)
		}
		b.WriteString("roles:\n")
		for i := range MaxRoles {
			fmt.Fprintf(&b, "  r%d: {when: \"subject.id == 'r%d'\", permissions: [", i, i)
			for j := range MaxPatterns {
				fmt.Fprintf(&b, "p%d.%s, ", j*MaxRoles/MaxPatterns+i%15, []string{"*.b", "**", "a.*"}[i%3])
			}
			b.WriteString("p0.a.b]}\n")
		}
		return b.String() + last
	}
	began := time.Now()
	c := mustParse(t, file(""))
	Format(c)
	if got := len(Diff(nil, c)); got < MaxRoles {
		t.Errorf("got %d changes", got)
	}
	t.Logf("%v", time.Since(began))
	if _, err := Conditions(c); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	refused(t, strings.Replace(file(""), "  r0: {", "  one-more: {}\n  r0: {", 1), "roles: may hold at most 1000 roles, this one holds 1001")
	refused(t, strings.Replace(file(""), "[p0.", "[p0.*.*, p0.", 1), "a role may list at most 64 permissions with a *")
	var b strings.Builder
	b.WriteString("usher: 1\npermissions: {a.b.c: {}}\nroles:\n")
	for i := range MaxRoles {
		fmt.Fprintf(&b, "  r%d: {includes: [r%d, x%d], permissions: [", i, (i+1)%MaxRoles, i)
		for j := range 60 {
			fmt.Fprintf(&b, "\"*.*.*.k%d-%d\", ", i, j)
		}
		b.WriteString("]}\n")
	}
	began = time.Now()
	refused(t, b.String(), "and 60901 more") // every pattern, every include, and the cycle
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestManyMistakes: hints are made only of what is read.
func TestManyMistakes(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("usher: 1\nfeatures:\n")
	for i := range MaxEntries {
		fmt.Fprintf(&b, "  feature-%d: {kind: switch}\n", i)
	}
	b.WriteString("permissions:\n")
	for i := range 20 {
		fmt.Fprintf(&b, "  p%d: {feature: [x", i)
		for j := range 5000 {
			fmt.Fprintf(&b, ", faeture-%d", j)
		}
		b.WriteString("]}\n")
	}
	began := time.Now()
	refused(t, b.String(), "… and 99920 more")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestDiffOfAccess compares a file with a copy in which some text is replaced:
// what matters of roles is what they give in effect.
func TestDiffOfAccess(t *testing.T) {
	t.Parallel()
	old := mustParse(t, accessFile)
	tests := []struct {
		name    string
		replace []string
		want    string
	}{
		{"order and notation", []string{`[viewer, editor, payer]`, `[payer, "editor", viewer]`, "risk: high", `risk: "high"`}, ""},
		{"a new permission that a pattern means", []string{"  document.update: {}",
			"  document.update: {}\n  report.delete: {feature: [sso, exports], features: any, risk: medium}"},
			"add permissions.report.delete: new permission report.delete\n" +
				"add permissions.report.delete.feature: permission report.delete: asks the plan for exports or sso\n" +
				"add permissions.report.delete.risk: permission report.delete: risk medium\n" +
				"add roles.analyst.permissions: role analyst: gains report.delete (custom roles may give it too)"},
		{"a permission less", []string{"  report.export: {feature: exports, risk: high}\n", ""},
			"remove permissions.report.export: permission report.export removed\n" +
				"remove roles.analyst.permissions: role analyst: loses report.export (custom roles lose it too)"},
		{"a permission's fields", []string{"{feature: exports, risk: high}", "{feature: [exports, sso], title: Export}", "invoice.pay: {}",
			"invoice.pay: {feature: sso}"},
			"add permissions.invoice.pay.feature: permission invoice.pay: asks the plan for sso\n" +
				"add permissions.report.export.title: permission report.export: title \"Export\"\n" +
				"change permissions.report.export.feature: permission report.export: asks the plan for exports → exports and sso\n" +
				"change permissions.report.export.risk: permission report.export: risk high → low"},
		{"nothing of the plan", []string{"{feature: exports, risk: high}", "{risk: high}"},
			"remove permissions.report.export.feature: permission report.export: no longer asks the plan for exports"},
		{"a role less", []string{"  payer: {permissions: [invoice.pay]}\n", "", ", payer]", "]",
			"separation:\n  four-eyes: {title: Pay or approve, roles: [payer, approver]}\n", ""},
			"change roles.chief.includes: role chief: includes editor, payer, viewer → editor, viewer\n" +
				"remove roles.chief.permissions: role chief: loses invoice.pay\n" +
				"remove roles.payer: role payer removed: who holds it loses invoice.pay\n" +
				"remove separation.four-eyes: separation four-eyes removed"},
		{"a new role", []string{"custom_roles:", "  boss: {includes: [chief], permissions: [report.export], seat: members, when: \"subject.id " +
			"== 'b'\"}\ncustom_roles:"},
			"add roles.boss: new role boss\n" +
				"add roles.boss.includes: role boss: includes chief\n" +
				"add roles.boss.seat: role boss: needs a seat of members\n" +
				"add roles.boss.when: role boss: only when subject.id == 'b'\n" +
				"add roles.boss.permissions: role boss: gives document.update, invoice.pay, report.export, report.read"},
		{"other words, the same effect", []string{`["report.*"]`, `["report.**", report.read]`},
			"change roles.analyst.permissions: role analyst: lists report.* → report.**, report.read"},
		{"more, also by way of others", []string{"{permissions: [report.read]}", "{permissions: [report.read, document.update]}"},
			"add roles.analyst.permissions: role analyst: gains document.update (custom roles may give it too)\n" +
				"change roles.chief.permissions: role chief: gives document.update without a condition or seat from now on\n" +
				"change roles.viewer.permissions: role viewer: lists report.read → document.update, report.read\n" +
				"add roles.viewer.permissions: role viewer: gains document.update"},
		{"a condition", []string{"viewer: {permissions: [report.read]}",
			"viewer: {permissions: [report.read], when: \"now < timestamp('2030-01-01T00:00:00Z')\"}", "== subject.id", "!= subject.id"},
			"change roles.chief.permissions: role chief: gives report.read only under a condition or with a seat from now on\n" +
				"change roles.editor.when: role editor: only when resource.properties.owner == subject.id → resource.properties.owner != subject.id " +
				"(included by chief)\n" +
				"add roles.viewer.when: role viewer: only when now < timestamp('2030-01-01T00:00:00Z') (included by analyst, chief)"},
		{"no condition, no seat", []string{`, when: "resource.properties.owner == subject.id"`, "", ", seat: members, title: Analyst", ""},
			"remove roles.analyst.title: role analyst: title \"Analyst\" removed\n" +
				"remove roles.analyst.seat: role analyst: no longer needs a seat of members\n" +
				"change roles.chief.permissions: role chief: gives document.update without a condition or seat from now on\n" +
				"remove roles.editor.when: role editor: always, no longer only when resource.properties.owner == subject.id (included by chief)"},
		{"another ceiling", []string{"ceiling: analyst", "ceiling: chief"},
			"change custom_roles.ceiling: custom roles: ceiling analyst → chief: they lose report.export, they may give document.update, " +
				"invoice.pay"},
		{"no custom roles", []string{"custom_roles: {ceiling: analyst}\n", ""},
			"remove custom_roles.ceiling: custom roles: customers may make none, and those that they made give nothing (the ceiling was analyst)"},
		{"separation", []string{"title: Pay or approve, roles: [payer, approver]", "roles: [payer, approver, viewer]", "[viewer, editor, payer]",
			"[editor, payer]"},
			"change roles.chief.includes: role chief: includes editor, payer, viewer → editor, payer\n" +
				"remove roles.chief.permissions: role chief: loses report.read\n" +
				"remove separation.four-eyes.title: separation four-eyes: title \"Pay or approve\" removed\n" +
				"change separation.four-eyes.roles: separation four-eyes: keeps apart approver, payer → approver, payer, viewer"},
	}
	for _, tt := range tests {
		text := accessFile
		for i := 0; i+1 < len(tt.replace); i += 2 {
			if !strings.Contains(text, tt.replace[i]) {
				t.Errorf("%s: there is no %q", tt.name, tt.replace[i])
			}
			text = strings.Replace(text, tt.replace[i], tt.replace[i+1], 1)
		}
		changed := mustParse(t, text)
		if got := lines(Diff(old, changed)); got != tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.name, got, tt.want)
		}
		if (tt.want == "") != (Hash(old) == Hash(changed)) {
			t.Errorf("%s: the hash says otherwise", tt.name)
		}
	}
	added := lines(Diff(nil, old))
	for _, want := range []string{"add custom_roles.ceiling: custom roles: customers may make roles of what role analyst gives",
		"add separation.four-eyes: new separation four-eyes",
		"add separation.four-eyes.roles: separation four-eyes: keeps apart approver, payer",
		"add roles.analyst.permissions: role analyst: gives report.export, report.read"} {
		if !strings.Contains(added+"\n", want+"\n") {
			t.Errorf("got\n%s\nwithout %q", added, want)
		}
	}
	for _, change := range Diff(old, nil) {
		if change.Action != Remove {
			t.Errorf("got %+v of removing everything", change)
		}
	}
	loop := &usher.Catalog{Roles: map[string]*usher.Role{"a": {Key: "a", Includes: []string{"b"}},
		"b": {Key: "b", Includes: []string{"a"}, When: "true"}}}
	Diff(loop, old) // made by hand: it must end
	Diff(old, loop)
}
