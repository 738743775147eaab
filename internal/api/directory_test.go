package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

const accessCatalog = `usher: 1
features:
  exports: {kind: switch}
  audit: {kind: switch}
  reports: {kind: metered, unit: report}
  members: {kind: seats, unit: member}
plans:
  free: {default: true, entitlements: {members: 2, reports: {limit: 3, per: month}}}
  pro: {extends: free, entitlements: {exports: true, members: 3}}
permissions:
  report.read: {}
  report.run: {feature: reports}
  report.export: {feature: exports, risk: high}
  report.both: {feature: [exports, audit]}
  report.either: {feature: [exports, audit], features: any}
  document.update: {}
  payment.create: {}
  payment.approve: {}
roles:
  viewer: {permissions: [report.read]}
  analyst: {includes: [viewer], permissions: ["report.*"], seat: members}
  editor: {permissions: [document.update], when: "resource.properties.owner == subject.id"}
  payer: {permissions: [payment.create]}
  approver: {permissions: [payment.approve]}
custom_roles: {ceiling: analyst}
separation:
  four-eyes: {roles: [payer, approver]}
`

// people is a world with the catalogue above, a customer firm on the free plan
// and a few members.
func people(t *testing.T) *world {
	t.Helper()
	return populate(t, newWorld(t))
}

// peopleOnBoth tells a story on SQLite and on PostgreSQL.
func peopleOnBoth(t *testing.T, story func(t *testing.T, w *world)) {
	onBoth(t, func(t *testing.T, w *world) { story(t, populate(t, w)) })
}

func populate(t *testing.T, w *world) *world {
	t.Helper()
	w.ask(t, 200, "PUT", "/v1/catalog", accessCatalog, "application/yaml")
	w.ask(t, 201, "PUT", "/v1/customers/firm", `{}`)
	for _, m := range []string{"alice", "bob", "carol"} {
		w.ask(t, 201, "PUT", "/v1/customers/firm/members/"+m, `{}`)
	}
	return w
}

// ask makes a call and fails unless it has the status.
func (w *world) ask(t *testing.T, status int, method, path, body string, contentType ...string) map[string]any {
	t.Helper()
	kind := "application/json"
	if len(contentType) > 0 {
		kind = contentType[0]
	}
	rec := w.do(method, path, kind, body)
	if rec.Code != status {
		t.Fatalf("%s %s %s: got %d %s, want %d", method, path, body, rec.Code, rec.Body, status)
	}
	out := map[string]any{}
	if rec.Body.Len() > 0 {
		if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func (w *world) legs(t *testing.T, body string) string {
	t.Helper()
	d := w.ask(t, 200, "POST", "/v1/check", body)
	l, _ := d["legs"].(map[string]any)
	if l == nil {
		return fmt.Sprint(d["allowed"], " ", d["reason"])
	}
	return fmt.Sprint(d["allowed"], " ", d["reason"], " role=", l["role"], " plan=", l["plan"], " seat=", l["seat"], " limit=", l["limit"],
		" condition=", l["condition"])
}

func TestA01_OneDecisionWithEveryLeg(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		for _, role := range []string{`{"member":"alice","role":"analyst"}`, `{"member":"bob","role":"viewer"}`,
			`{"member":"carol","role":"editor"}`} {
			w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", role)
		}
		w.ask(t, 201, "PUT", "/v1/customers/firm/resources/document/d1", `{"properties":{"owner":"carol"}}`)
		steps := []struct{ name, body, want string }{
			{"no role", `{"customer":"firm","member":"bob","permission":"report.export"}`,
				"false no_role role=fail plan=fail seat=none limit=none condition=none"},
			{"the plan", `{"customer":"firm","member":"alice","permission":"report.export"}`,
				"false not_entitled role=pass plan=fail seat=pass limit=none condition=none"},
			{"all of two", `{"customer":"firm","member":"alice","permission":"report.both"}`,
				"false not_entitled role=pass plan=fail seat=pass limit=none condition=none"},
			{"limit", `{"customer":"firm","member":"alice","permission":"report.run","amount":4}`,
				"false limit_reached role=pass plan=pass seat=pass limit=fail condition=none"},
			{"within it", `{"customer":"firm","member":"alice","permission":"report.run","amount":3}`,
				"true within_limit role=pass plan=pass seat=pass limit=pass condition=none"},
			{"nothing to the plan", `{"customer":"firm","member":"bob","permission":"report.read"}`,
				"true granted role=pass plan=none seat=none limit=none condition=none"},
			{"condition", `{"customer":"firm","member":"carol","permission":"document.update","resource":{"type":"document","id":"d1"}}`,
				"true granted role=pass plan=none seat=none limit=none condition=pass"},
			{"said otherwise", `{"customer":"firm","member":"carol","permission":"document.update","resource":{"type":"document","id":"d1",` +
				`"properties":{"owner":"bob"}}}`, "false condition_failed role=pass plan=none seat=none limit=none condition=fail"},
			{"not registered", `{"customer":"firm","member":"carol","permission":"document.update","resource":{"type":"document","id":"d2"}}`,
				"false condition_failed role=pass plan=none seat=none limit=none condition=fail"},
			{"nobody", `{"customer":"firm","member":"dave","permission":"report.read"}`,
				"false unknown_member role=fail plan=none seat=none limit=none condition=none"},
			{"no customer", `{"customer":"none","member":"dave","permission":"report.read"}`,
				"false unknown_customer role=fail plan=none seat=none limit=none condition=none"},
			{"no permission", `{"customer":"firm","member":"bob","permission":"report.*"}`,
				"false unknown_permission role=fail plan=none seat=none limit=none condition=none"},
			{"a feature, by a member", `{"customer":"firm","member":"bob","feature":"exports"}`,
				"false not_entitled role=none plan=fail seat=none limit=none condition=none"},
			{"a feature, by nobody", `{"customer":"firm","member":"dave","feature":"reports"}`,
				"false unknown_member role=fail plan=pass seat=none limit=pass condition=none"},
			{"a feature, by the customer", `{"customer":"firm","feature":"exports"}`, "false not_entitled"},
			{"a plan before a limit", `{"customer":"firm","member":"alice","permission":"report.export","feature":"reports","amount":4}`,
				"false not_entitled role=pass plan=fail seat=pass limit=fail condition=none"},
			{"both", `{"customer":"firm","member":"bob","permission":"report.read","feature":"reports","amount":4}`,
				"false limit_reached role=pass plan=pass seat=none limit=fail condition=none"},
		}
		for _, s := range steps {
			if got := w.legs(t, s.body); got != s.want {
				t.Errorf("%s: got %s\nwant %s", s.name, got, s.want)
			}
		}
		// The plan changes, and with it what the role may use.
		w.ask(t, 201, "POST", "/v1/customers/firm/subscriptions", `{"plan":"pro"}`)
		for _, s := range []struct{ body, want string }{
			{`{"customer":"firm","member":"alice","permission":"report.export"}`,
				"true granted role=pass plan=pass seat=pass limit=none condition=none"},
			{`{"customer":"firm","member":"alice","permission":"report.both"}`,
				"false not_entitled role=pass plan=fail seat=pass limit=none condition=none"},
			{`{"customer":"firm","member":"alice","permission":"report.either"}`,
				"true granted role=pass plan=pass seat=pass limit=none condition=none"},
		} {
			if got := w.legs(t, s.body); got != s.want {
				t.Errorf("%s: got %s\nwant %s", s.body, got, s.want)
			}
		}
		// A member who is not active may do nothing, at once, and gives the seat back.
		w.ask(t, 200, "PUT", "/v1/customers/firm/members/alice", `{"active":false}`)
		if got := w.legs(t, `{"customer":"firm","member":"alice","permission":"report.read"}`); !strings.HasPrefix(got, "false unknown_member") {
			t.Error(got)
		}
		if seats := w.ask(t, 200, "GET", "/v1/customers/firm/seats/members", ``); len(seats["data"].([]any)) != 0 {
			t.Errorf("seats %v, want none", seats)
		}
	})
}

func TestA08_SeatsComeWithRoles(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		sits := func(want ...string) {
			t.Helper()
			got := []string{}
			for _, s := range w.ask(t, 200, "GET", "/v1/customers/firm/seats/members", ``)["data"].([]any) {
				got = append(got, s.(map[string]any)["holder"].(string))
			}
			if !reflect.DeepEqual(got, want) && len(got)+len(want) > 0 {
				t.Errorf("got seats of %v, want %v", got, want)
			}
		}
		a := w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"alice","role":"analyst"}`)
		w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"bob","role":"analyst","until":"2999-01-01T00:00:00Z"}`)
		sits("alice", "bob")
		refused := w.ask(t, 422, "PUT", "/v1/customers/firm/assignments", `{"member":"carol","role":"analyst"}`)
		if !strings.Contains(refused["detail"].(string), "2 of 2") {
			t.Errorf("got %v", refused)
		}
		sits("alice", "bob")
		if got := w.ask(t, 200, "GET", "/v1/customers/firm/assignments?member=carol", ``); len(got["data"].([]any)) != 0 {
			t.Errorf("half applied: %v", got)
		}
		// A group takes a seat for each of its members, or none.
		w.ask(t, 201, "PUT", "/v1/customers/firm/groups/team", `{"title":"Team","members":["bob","carol"]}`)
		w.ask(t, 422, "PUT", "/v1/customers/firm/assignments", `{"group":"team","role":"analyst"}`)
		w.ask(t, 204, "DELETE", "/v1/customers/firm/assignments/"+a["id"].(string), ``)
		sits("bob")
		w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"group":"team","role":"analyst"}`)
		sits("bob", "carol")
		w.ask(t, 422, "PUT", "/v1/customers/firm/groups/team/members/alice", ``)
		w.ask(t, 204, "DELETE", "/v1/customers/firm/groups/team/members/carol", ``)
		w.ask(t, 200, "PUT", "/v1/customers/firm/groups/team/members/alice", ``)
		sits("alice", "bob")
		if got := w.legs(t, `{"customer":"firm","member":"alice","permission":"report.read"}`); !strings.HasPrefix(got, "true") {
			t.Error(got)
		}
		w.ask(t, 204, "DELETE", "/v1/customers/firm/members/bob", ``)
		sits("alice")
		w.ask(t, 204, "DELETE", "/v1/customers/firm/groups/team", ``)
		sits()
	})
}

func TestA04_A05_A12_WhatDirectoriesRefuse(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		put := func(status int, path, body string, words ...string) {
			t.Helper()
			got := w.ask(t, status, "PUT", "/v1/customers/firm/"+path, body)
			for _, word := range words {
				if !strings.Contains(fmt.Sprint(got), word) {
					t.Errorf("%s %s: got %v, want %q in it", path, body, got, word)
				}
			}
		}
		// Cycles, also long ones.
		for _, g := range []string{"a", "b", "c"} {
			put(201, "groups/"+g, `{}`)
		}
		put(200, "groups/a/groups/b", ``)
		put(200, "groups/b/groups/c", ``)
		put(422, "groups/c/groups/a", ``, "contain itself")
		put(422, "groups/a/groups/a", ``, "contain itself")
		put(422, "groups/c", `{"groups":["a"]}`, "contain itself")
		// Custom roles: ceiling, shadowing, cycles, wildcards.
		put(200, "roles/mine", `{"title":"Mine","permissions":["report.read","report.*"]}`)
		put(422, "roles/more", `{"permissions":["payment.create"]}`, "ceiling", "payment.create")
		put(422, "roles/more", `{"permissions":["**"]}`, "ceiling")
		put(422, "roles/more", `{"includes":["payer"]}`, "ceiling")
		put(422, "roles/viewer", `{"permissions":["report.read"]}`, "catalogue's")
		put(400, "roles/more", `{"permissions":["report*","*.**","**.read","report.fly"]}`, "report*", "report.fly")
		put(400, "roles/more", `{"includes":["nobody"]}`, "nobody")
		put(400, "roles/More", `{}`, "a-z")
		put(422, "roles/mine", `{"includes":["mine"]}`, "mine → mine")
		put(200, "roles/other", `{"includes":["mine"]}`)
		put(422, "roles/mine", `{"includes":["other"]}`, "→")
		// The acting member gives no more than it holds, and nothing to itself.
		put(200, "assignments", `{"member":"alice","role":"viewer"}`)
		put(422, "roles/hers", `{"permissions":["report.export"],"by":"alice"}`, "does not hold", "report.export")
		put(200, "roles/hers", `{"permissions":["report.read"],"by":"alice"}`)
		put(422, "assignments", `{"member":"bob","role":"payer","by":"alice"}`, "does not hold")
		put(200, "assignments", `{"member":"bob","role":"viewer","by":"alice"}`, "member:alice")
		put(422, "assignments", `{"member":"alice","role":"viewer","resource_type":"folder","by":"alice"}`, "itself")
		put(422, "assignments", `{"member":"bob","role":"viewer","by":"nobody"}`, "unknown")
		// A role that is held stays.
		put(200, "assignments", `{"member":"carol","role":"other"}`)
		w.ask(t, 422, "DELETE", "/v1/customers/firm/roles/other", ``)
		w.ask(t, 422, "DELETE", "/v1/customers/firm/roles/mine", ``)
		// Separated duties, directly and through groups, whichever comes first.
		put(200, "assignments", `{"member":"bob","role":"payer"}`)
		put(422, "assignments", `{"member":"bob","role":"approver"}`, "four-eyes")
		put(200, "assignments", `{"group":"c","role":"approver"}`)
		put(422, "groups/c/members/bob", ``, "four-eyes")
		put(200, "groups/c/members/carol", ``)
		put(422, "assignments", `{"group":"a","role":"payer"}`, "four-eyes", "carol")
		// Dates, and what is not there.
		put(400, "assignments", `{"member":"bob","role":"viewer","from":"2026-02-01T00:00:00Z","until":"2026-02-01T00:00:00Z"}`, "after from")
		put(400, "assignments", `{"member":"bob","role":"viewer","from":"2020-02-01T00:00:00Z","until":"2020-03-01T00:00:00Z"}`, "later than now")
		put(400, "assignments", `{"member":"nobody","role":"viewer"}`, "nobody")
		put(400, "assignments", `{"group":"nobody","role":"viewer"}`, "nobody")
		put(400, "assignments", `{"member":"bob","role":"nothing"}`, "nothing")
		put(400, "assignments", `{"member":"bob","group":"a","role":"viewer"}`, "not both")
		put(400, "assignments", `{"member":"bob","role":"viewer","resource_id":"x"}`, "resource_type")
		put(400, "groups/a/members/nobody", ``, "nobody")
		put(400, "members/"+strings.Repeat("x", 256), `{}`, "255")
		put(400, "members/a%00b", `{}`, "U+0000")
		put(400, "members/a%07b", `{}`, "control")
		put(400, "members/a%ffb", `{}`, "UTF-8")
		put(201, "members/a%2Fb:*", `{}`)
		w.ask(t, 404, "PUT", "/v1/customers/none/members/alice", `{}`)
		// Many at once: all or none, and what is not said stays.
		put(200, "members/bob", `{"active":false}`)
		w.ask(t, 200, "POST", "/v1/customers/firm/directory", `{"members":[{"id":"bob","properties":{"a":1}}]}`)
		if got := w.ask(t, 200, "GET", "/v1/customers/firm/members/bob", ``); got["active"] != false {
			t.Errorf("a member that was switched off is on again: %v", got)
		}
		w.ask(t, 422, "POST", "/v1/customers/firm/directory", `{"members":[{"id":"dave"}],"assignments":[{"member":"dave","role":"payer"},`+
			`{"member":"dave","role":"approver"}]}`)
		w.ask(t, 404, "GET", "/v1/customers/firm/members/dave", ``)
		w.ask(t, 200, "POST", "/v1/customers/firm/directory", `{"members":[{"id":"dave"}],"groups":[{"id":"new"}],"join":[{"group":"new",`+
			`"member":"dave"}],"assignments":[{"group":"new","role":"payer"}],"resources":[{"type":"folder","id":"f"}]}`)
		if got := w.legs(t, `{"customer":"firm","member":"dave","permission":"payment.create"}`); !strings.HasPrefix(got, "true") {
			t.Error(got)
		}
	})
}

// TestErasedMembersLeaveNothing: what was known about a member who goes is in no
// row, and what decided then decides then still.
func TestErasedMembersLeaveNothing(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		w.ask(t, 201, "PUT", "/v1/customers/firm/members/eve", `{"properties":{"userName":"eve@example.com","name":"Eve Example"}}`)
		w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"eve","role":"viewer"}`)
		w.ask(t, 204, "DELETE", "/v1/customers/firm/members/eve", ``)
		w.ask(t, 404, "GET", "/v1/customers/firm/members/eve", ``)
		if got := w.legs(t, `{"customer":"firm","member":"eve","permission":"report.read"}`); !strings.HasPrefix(got, "false unknown_member") {
			t.Error(got)
		}
		w.ask(t, 201, "PUT", "/v1/customers/firm/members/eve", `{}`)
		if got := w.legs(t, `{"customer":"firm","member":"eve","permission":"report.read"}`); !strings.HasPrefix(got, "false no_role") {
			t.Error(got)
		}
		if got := w.ask(t, 200, "GET", "/v1/customers/firm/members/eve", ``); strings.Contains(fmt.Sprint(got), "example.com") {
			t.Errorf("got %v", got)
		}
	})
}

// TestCataloguesThatRolesForbid: what members hold keeps a catalogue from being
// applied where it would leave them with nothing, or with too much.
func TestCataloguesThatRolesForbid(t *testing.T) {
	t.Parallel()
	w := people(t)
	for _, x := range []string{`{"member":"alice","role":"viewer"}`, `{"member":"bob","role":"payer"}`, `{"member":"bob","role":"editor"}`} {
		w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", x)
	}
	w.ask(t, 200, "PUT", "/v1/customers/firm/roles/mine", `{"permissions":["report.read"]}`)
	for _, c := range []struct{ old, new, want string }{
		{"  viewer: {permissions: [report.read]}\n  analyst: {includes: [viewer],", "  analyst: {",
			"roles.viewer cannot be removed: it has 1 assignment; remove them first"},
		{"  payer: {", "  mine: {permissions: [report.read]}\n  payer: {", "roles.mine is the key of roles that customers have made"},
		{"roles: [payer, approver]", "roles: [payer, approver, editor]",
			"separation.four-eyes member bob of customer firm holds editor and payer"},
	} {
		next := strings.Replace(accessCatalog, c.old, c.new, 1)
		if next == accessCatalog {
			t.Fatalf("%q is not in the catalogue", c.old)
		}
		got := w.ask(t, 422, "PUT", "/v1/catalog", next, "application/yaml")
		if !strings.Contains(fmt.Sprint(got["detail"]), c.want) {
			t.Errorf("got %v, want %s", got, c.want)
		}
	}
	// A role that changes is another at once; a ceiling that falls masks.
	next := strings.Replace(accessCatalog, "viewer: {permissions: [report.read]}", "viewer: {permissions: [document.update]}", 1)
	w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"carol","role":"mine"}`)
	w.ask(t, 200, "PUT", "/v1/catalog", strings.Replace(next, "ceiling: analyst", "ceiling: payer", 1), "application/yaml")
	for _, c := range []struct{ body, want string }{
		{`{"customer":"firm","member":"alice","permission":"report.read"}`, "false no_role"},
		{`{"customer":"firm","member":"alice","permission":"document.update"}`, "true granted"},
		{`{"customer":"firm","member":"carol","permission":"report.read"}`, "false no_role"},
	} {
		if got := w.legs(t, c.body); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: got %s, want %s", c.body, got, c.want)
		}
	}
	w.ask(t, 200, "PUT", "/v1/catalog", accessCatalog, "application/yaml")
	if got := w.legs(t, `{"customer":"firm","member":"carol","permission":"report.read"}`); !strings.HasPrefix(got, "true") {
		t.Errorf("masked, not deleted: got %s", got)
	}
}

// TestTakesAskAboutTheMember: a consume and a reservation on a member's behalf
// take nothing where the member may not.
func TestTakesAskAboutTheMember(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		a := w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"alice","role":"analyst"}`)
		consume := func(key, rest string) map[string]any {
			t.Helper()
			return w.ask(t, 200, "POST", "/v1/consume", `{"customer":"firm","feature":"reports","key":"`+key+`"`+rest+`}`)
		}
		for _, c := range []struct{ rest, want string }{
			{`,"member":"nobody"`, "unknown_member"}, {`,"member":"bob","permission":"report.run"`, "no_role"},
			{`,"member":"alice","permission":"report.export"`, "not_entitled"}, {`,"member":"alice","permission":"report.fly"`,
				"unknown_permission"},
			{`,"member":"alice","permission":"report.run","amount":4`, "limit_reached"},
		} {
			d := consume("no"+c.want, c.rest)
			if d["allowed"] != false || d["reason"] != c.want || fmt.Sprint(d["consumed"]) != "0" && d["consumed"] != nil {
				t.Errorf("%s: got %v, want %s and nothing taken", c.rest, d, c.want)
			}
		}
		with := `,"member":"alice","permission":"report.run"`
		if l := consume("full", with+`,"amount":4`)["legs"]; fmt.Sprint(l) != "map[condition:none limit:fail plan:pass role:pass seat:pass]" {
			t.Errorf("got %v", l)
		}
		d := consume("k1", with)
		if d["allowed"] != true || fmt.Sprint(d["consumed"]) != "1" || d["member"] != "alice" {
			t.Errorf("got %v", d)
		}
		// Another permission is another body under the same key.
		w.ask(t, 409, "POST", "/v1/consume", `{"customer":"firm","feature":"reports","key":"k1","member":"alice","permission":"report.read"}`)
		r := w.ask(t, 201, "POST", "/v1/reservations", `{"customer":"firm","feature":"reports","key":"r1"`+with+`}`)
		if r["reservation"] == nil {
			t.Errorf("got %v", r)
		}
		// Revoked: the next take is denied, the one that was made keeps its answer.
		w.ask(t, 204, "DELETE", "/v1/customers/firm/assignments/"+a["id"].(string), ``)
		if d = consume("k2", with); d["reason"] != "no_role" {
			t.Errorf("got %v", d)
		}
		if d = consume("k1", with); d["replayed"] != true || d["allowed"] != true {
			t.Errorf("got %v", d)
		}
		if d := w.ask(t, 200, "POST", "/v1/reservations", `{"customer":"firm","feature":"reports","key":"r2"`+with+
			`}`); d["reason"] != "no_role" || d["reservation"] != nil {
			t.Errorf("got %v", d)
		}
		if d := w.ask(t, 200, "POST", "/v1/check", `{"customer":"firm","feature":"reports"}`); fmt.Sprint(d["used"], d["reserved"]) != "1 1" {
			t.Errorf("got %v", d)
		}
		w.ask(t, 400, "POST", "/v1/consume", `{"customer":"firm","feature":"reports","key":"k","permission":"report.run"}`)
		w.ask(t, 400, "POST", "/v1/consume", `{"customer":"firm","feature":"reports","key":"k","member":"alice","resource":{"type":"a",`+
			`"id":"b"}}`)
	})
}

// TestA05_NothingToItselfThroughGroups: a caller that acts on a member's behalf puts
// nobody, and not that member, into a group that has what it does not hold.
func TestA05_NothingToItselfThroughGroups(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		change := func(status int, body string) {
			t.Helper()
			w.ask(t, status, "POST", "/v1/customers/firm/directory", body)
		}
		change(200, `{"groups":[{"id":"payers"},{"id":"all"},{"id":"readers"},{"id":"inner"},{"id":"empty"}],
			"join":[{"group":"payers","inner":"all"},{"group":"inner","member":"bob"}],
			"assignments":[{"group":"payers","role":"payer"},{"group":"readers","role":"viewer","until":"2099-01-01T00:00:00Z"},
			{"member":"bob","role":"viewer","until":"2099-01-01T00:00:00Z"}]}`)
		change(422, `{"by":"bob","join":[{"group":"payers","member":"bob"}]}`)
		change(422, `{"by":"bob","join":[{"group":"payers","member":"alice"}]}`)
		change(422, `{"by":"bob","join":[{"group":"all","member":"alice"}]}`) // which is in payers
		change(422, `{"by":"bob","join":[{"group":"readers","member":"bob"}]}`)
		change(422, `{"by":"bob","join":[{"group":"readers","inner":"inner"}]}`)      // where bob is
		change(422, `{"by":"bob","assignments":[{"group":"inner","role":"viewer"}]}`) // permanently, although his own role had an end
		change(422, `{"by":"bob","join":[{"group":"empty","member":"bob"}],"assignments":[{"group":"empty","role":"viewer"}]}`)
		change(422, `{"by":"carol","join":[{"group":"readers","member":"alice"}]}`)
		const want = "false no_role role=fail plan=none seat=none limit=none condition=none"
		if got := w.legs(t, `{"customer":"firm","member":"bob","permission":"payment.create"}`); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		change(200, `{"by":"bob","join":[{"group":"readers","member":"alice"},{"group":"empty","member":"bob"}]}`)
		change(200, `{"by":"bob","assignments":[{"member":"carol","role":"viewer","until":"2099-01-01T00:00:00Z"}]}`)
	})
}

// TestAskingAboutTheFutureChangesNothing: what is read to answer for then is not
// what answers for now.
func TestAskingAboutTheFutureChangesNothing(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"bob","role":"viewer","until":"2099-01-01T00:00:00Z"}`)
		for _, q := range []struct{ at, want string }{{`,"at":"2099-01-01T00:00:00Z"`, "false no_role"}, {``, "true granted"},
			{`,"at":"2098-12-31T23:59:59.999999Z"`, "true granted"}} {
			if got := w.legs(t, `{"customer":"firm","member":"bob","permission":"report.read"`+q.at+`}`); !strings.HasPrefix(got, q.want) {
				t.Errorf("%s: got %s, want %s", q.at, got, q.want)
			}
		}
	})
}

// TestAbsentActiveIsKept: of a member's deactivation and changes that do not
// speak of it, at once, the deactivation is never lost.
func TestAbsentActiveIsKept(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		for range 10 {
			w.ask(t, 200, "PUT", "/v1/customers/firm/members/bob", `{"active":true}`)
			var wg sync.WaitGroup
			for i := range 6 {
				body := fmt.Sprintf(`{"properties":{"i":%d}}`, i)
				if i == 3 {
					body = `{"active":false}`
				}
				wg.Go(func() { w.do("PUT", "/v1/customers/firm/members/bob", "application/json", body) })
			}
			wg.Wait()
			if m := w.ask(t, 200, "GET", "/v1/customers/firm/members/bob", ""); m["active"] != false {
				t.Fatalf("got %v, want it not active", m)
			}
		}
	})
}

// TestIDsThatNothingHas: ids with a NUL or with invalid UTF-8 are the
// caller's mistake, on both databases, and a bulk change says whom it means.
func TestIDsThatNothingHas(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		const firm = "/v1/customers/firm"
		w.ask(t, 201, "PUT", firm+"/groups/g", `{}`)
		for _, bad := range []string{"a%00", "%FF"} {
			for _, c := range []string{"GET /members/", "DELETE /members/", "GET /groups/", "DELETE /groups/", "DELETE /groups/g/members/",
				"DELETE /groups/g/groups/", "PUT /groups/g/members/",
				"DELETE /roles/", "DELETE /assignments/", "GET /resources/", "GET /resources/document/", "DELETE /resources/document/",
				"GET /assignments?member=", "GET /assignments?group=", "GET /assignments?role="} {
				method, path, _ := strings.Cut(c, " ")
				w.ask(t, 400, method, firm+path+bad, "")
			}
			w.ask(t, 400, "GET", "/v1/customers/"+bad+"/members", "")
		}
		for _, cursor := range []string{"members?cursor=AA", "assignments?cursor=_w", "groups/g/members?cursor=bSAA"} {
			w.ask(t, 400, "GET", firm+"/"+cursor, "")
		}
		for _, body := range []string{`{"drop_members":["a\u0000"]}`, `{"unassign":["a\u0000"]}`,
			`{"leave":[{"group":"g","member":"a\u0000"}]}`, `{"drop_resources":[{"type":"t","id":""}]}`, `{"by":"\u0000"}`,
			`{"join":[{"group":"g","member":"bob","inner":"g"}]}`, `{"join":[{"group":"g"}]}`,
			`{"assignments":[{"member":"bob","group":"g","role":"viewer"}]}`} {
			w.ask(t, 400, "POST", firm+"/directory", body)
		}
	})
}

// TestSeatsGoWithTheRolesThatTookThem and with nothing else: not one that was
// given by hand, even if the role no longer asks for a seat.
func TestSeatsGoWithTheRolesThatTookThem(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		w.ask(t, 201, "POST", "/v1/customers/firm/subscriptions", `{"plan":"pro"}`)
		sits := func(want string) {
			t.Helper()
			var got []string
			for _, s := range w.ask(t, 200, "GET", "/v1/customers/firm/seats/members", ``)["data"].([]any) {
				got = append(got, s.(map[string]any)["holder"].(string))
			}
			if strings.Join(got, " ") != want {
				t.Errorf("got seats of %v, want %s", got, want)
			}
		}
		give := func(member string) string {
			t.Helper()
			return w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"`+member+`","role":"analyst"}`)["id"].(string)
		}
		take := func(id string) { w.ask(t, 204, "DELETE", "/v1/customers/firm/assignments/"+id, ``) }
		// By hand before the role: it stays when the role goes.
		w.ask(t, 200, "PUT", "/v1/customers/firm/seats/members/alice", `{}`)
		a := give("alice")
		b := give("bob")
		sits("alice bob")
		take(a)
		take(b)
		sits("alice")
		// By hand but only invited, or for a while: the role makes it its own.
		w.ask(t, 200, "PUT", "/v1/customers/firm/seats/members/bob", `{"state":"pending"}`)
		b = give("bob")
		if got := w.legs(t, `{"customer":"firm","member":"bob","permission":"report.read"}`); !strings.HasPrefix(got, "true") {
			t.Error(got)
		}
		take(b)
		sits("alice")
		// The role asks for no seat any more: a member who had one because of it gives
		// it back with the next change about them.
		b = give("bob")
		sits("alice bob")
		w.ask(t, 200, "PUT", "/v1/catalog", strings.Replace(accessCatalog, ", seat: members", "", 1), "application/yaml")
		w.ask(t, 200, "PUT", "/v1/customers/firm/members/bob", `{}`)
		sits("alice")
		w.ask(t, 200, "PUT", "/v1/catalog", accessCatalog, "application/yaml")
		w.ask(t, 200, "PUT", "/v1/customers/firm/members/bob", `{}`)
		sits("alice bob")
		// Who goes, goes with every seat.
		w.ask(t, 204, "DELETE", "/v1/customers/firm/members/alice", ``)
		sits("bob")
		// The plan gives no seats any more: what is there stays, and roles can change.
		w.ask(t, 200, "PUT", "/v1/catalog", strings.Replace(accessCatalog, "{members: 2, reports", "{reports", 1), "application/yaml")
		w.ask(t, 201, "POST", "/v1/customers/firm/overrides", `{"feature":"members","value":{"deny":true},"reason":"unpaid","expires":"never"}`)
		w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"bob","role":"analyst","until":"2999-01-01T00:00:00Z"}`)
		if got := w.legs(t, `{"customer":"firm","member":"bob","permission":"report.read"}`); !strings.HasPrefix(got, "true") {
			t.Error(got)
		}
		w.ask(t, 422, "PUT", "/v1/customers/firm/assignments", `{"member":"carol","role":"analyst"}`)
		take(b)
		sits("")
	})
}

// TestSearchesOfThePast list who was there then.
func TestSearchesOfThePast(t *testing.T) {
	t.Parallel()
	w := people(t)
	w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"alice","role":"viewer"}`)
	then := w.now()
	w.pass(time.Hour)
	w.ask(t, 204, "DELETE", "/v1/customers/firm/members/alice", ``)
	w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"bob","role":"viewer"}`)
	for at, want := range map[string]string{"": "bob", `,"at":"` + then.Add(time.Minute).Format(time.RFC3339) + `"`: "alice"} {
		got := w.ask(t, 200, "POST", "/v1/search/members", `{"customer":"firm","permission":"report.read"`+at+`}`)
		if text := fmt.Sprint(got["data"]); strings.Count(text, "map[") != 1 || !strings.Contains(text, want) {
			t.Errorf("at %q: got %v, want %s", at, got, want)
		}
	}
}

// TestDeletedCustomersLeaveNoProperties: of its people, and of their things.
func TestDeletedCustomersLeaveNoProperties(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		w.ask(t, 201, "PUT", "/v1/customers/firm/resources/file/f1", `{"properties":{"author":"Eve Example"}}`)
		w.ask(t, 200, "PUT", "/v1/customers/firm/resources/file/f1", `{"properties":{"author":"Eve Sample"}}`)
		revision := w.api.setup.API.Live.Revision(usher.Production)
		w.ask(t, 204, "DELETE", "/v1/customers/firm", ``)
		for known := revision - 1; known <= revision; known++ {
			r, err := w.api.setup.API.Directory.Read(usher.Production, "firm").ResourceAt(t.Context(), "file", "f1", known)
			if err != nil || r == nil || len(r.Properties) > 0 {
				t.Errorf("as known at %d: got %+v, %v, want the resource without properties", known, r, err)
			}
		}
	})
}

// TestA05_NothingForLongerThanItIsHeld: who holds a role for a while hands it on
// for no longer, neither directly nor through a group nor in a role of its own.
func TestA05_NothingForLongerThanItIsHeld(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		const june, july, august = "2999-06-01T00:00:00Z", "2999-07-01T00:00:00Z", "2999-08-01T00:00:00Z"
		put := func(status int, path, body string) {
			t.Helper()
			w.ask(t, status, "PUT", "/v1/customers/firm/"+path, body)
		}
		put(200, "assignments", `{"member":"alice","role":"payer","until":"`+july+`"}`)
		put(422, "assignments", `{"member":"bob","role":"payer","by":"alice"}`)
		put(422, "assignments", `{"member":"bob","role":"payer","until":"`+august+`","by":"alice"}`)
		put(200, "assignments", `{"member":"bob","role":"payer","until":"`+july+`","by":"alice"}`)
		put(200, "assignments", `{"member":"bob","role":"payer","until":"`+june+`","by":"alice"}`)
		put(201, "groups/long", `{}`)
		put(201, "groups/short", `{}`)
		put(200, "assignments", `{"group":"long","role":"payer"}`)
		put(200, "assignments", `{"group":"short","role":"payer","until":"`+june+`"}`)
		w.ask(t, 422, "POST", "/v1/customers/firm/directory", `{"by":"alice","join":[{"group":"long","member":"carol"}]}`)
		w.ask(t, 200, "POST", "/v1/customers/firm/directory", `{"by":"alice","join":[{"group":"short","member":"carol"}]}`)
		// The longest of several counts, and a role without an end has none.
		put(200, "assignments", `{"member":"carol","role":"viewer","until":"`+june+`"}`)
		put(422, "roles/hers", `{"permissions":["report.read"],"by":"carol"}`)
		put(201, "groups/all", `{"members":["carol"]}`)
		put(200, "assignments", `{"group":"all","role":"viewer"}`)
		put(200, "roles/hers", `{"permissions":["report.read"],"by":"carol"}`)
		put(200, "assignments", `{"member":"bob","role":"viewer","by":"carol"}`)
	})
}
