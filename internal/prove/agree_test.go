package prove

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The members' world: roles with conditions and seats, on a plan that gives some of
// the features. Permissions are linked with switches, which OpenFeature shows as
// booleans.
const agreeCatalog = `usher: 1
features:
  exports: {kind: switch}
  audit: {kind: switch}
  reports: {kind: metered, unit: report}
  members: {kind: seats, unit: member}
plans:
  free: {default: true, entitlements: {exports: true, members: 6, reports: {limit: 3, per: month}}}
permissions:
  report.read: {}
  report.run: {feature: reports}
  report.export: {feature: exports}
  report.audit: {feature: audit}
  report.either: {feature: [exports, audit], features: any}
  report.both: {feature: [exports, audit]}
  document.update: {}
roles:
  viewer: {permissions: [report.read]}
  analyst: {includes: [viewer], permissions: ["report.*"], seat: members}
  editor: {permissions: [document.update, report.export], when: "resource.properties.owner == subject.id"}
custom_roles: {ceiling: analyst}
`

// TestA11_EveryDoorGivesTheSameAnswer asks the same questions of the real
// program through every API: check, batch, explain, AuthZEN, its batches and
// searches, OpenFeature, usher's own searches, and the command line.
func TestA11_EveryDoorGivesTheSameAnswer(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(seed(t), 1))
	dsn := filepath.Join(t.TempDir(), "usher.db")
	key := create(t, dsn)
	n := serve(t, dsn)
	ask := func(method, path, body string, into any) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+n.addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		if res.StatusCode >= 300 {
			t.Fatalf("%s %s %s: %s: %s", method, path, body, res.Status, b)
		}
		if into != nil {
			if err := json.Unmarshal(b, into); err != nil {
				t.Fatalf("%s %s: %s: %v", method, path, b, err)
			}
		}
	}
	manage(t, n.addr, key, "PUT", "/v1/catalog", "application/yaml", agreeCatalog)
	manage(t, n.addr, key, "PUT", "/v1/customers/firm", "application/json", `{}`)
	var bulk struct {
		Members     []map[string]any `json:"members"`
		Groups      []map[string]any `json:"groups"`
		Join        []map[string]any `json:"join"`
		Roles       []map[string]any `json:"roles"`
		Resources   []map[string]any `json:"resources"`
		Assignments []map[string]any `json:"assignments"`
	}
	members := []string{"m0", "m1", "m2", "m3", "m4", "m5", "m/6:*", "m 7"}
	resources := []string{"d0", "d1", "d/2:*"}
	for _, m := range members {
		bulk.Members = append(bulk.Members, map[string]any{"id": m, "active": r.IntN(6) > 0})
	}
	for i := range 3 {
		bulk.Groups = append(bulk.Groups, map[string]any{"id": fmt.Sprint("g", i)})
		bulk.Join = append(bulk.Join, map[string]any{"group": fmt.Sprint("g", i), "member": members[r.IntN(len(members))]})
	}
	bulk.Join = append(bulk.Join, map[string]any{"group": "g0", "inner": "g1"})
	bulk.Roles = []map[string]any{{"key": "mine", "permissions": []string{"report.read", "report.export"}}}
	for _, d := range resources {
		bulk.Resources = append(bulk.Resources, map[string]any{"type": "document", "id": d,
			"properties": map[string]any{"owner": members[r.IntN(len(members))]}})
	}
	for range 10 {
		a := map[string]any{"role": []string{"viewer", "editor", "editor", "mine"}[r.IntN(4)]}
		if r.IntN(3) == 0 {
			a["group"] = fmt.Sprint("g", r.IntN(3))
		} else {
			a["member"] = members[r.IntN(len(members))]
		}
		if r.IntN(3) == 0 {
			a["resource_type"] = "document"
			if r.IntN(2) == 0 {
				a["resource_id"] = resources[r.IntN(len(resources))]
			}
		}
		same := func(b map[string]any) bool { return fmt.Sprint(a) == fmt.Sprint(b) }
		if !slices.ContainsFunc(bulk.Assignments, same) {
			bulk.Assignments = append(bulk.Assignments, a)
		}
	}
	for i := range 2 {
		bulk.Assignments = append(bulk.Assignments, map[string]any{"role": "analyst", "member": members[i]})
	}
	text, err := json.Marshal(bulk)
	if err != nil {
		t.Fatal(err)
	}
	ask("POST", "/v1/customers/firm/directory", string(text), nil)

	type question struct{ member, permission, resource string }
	type decision struct {
		Allowed bool
		Reason  string
		Legs    map[string]string
	}
	quote := func(v any) string { b, _ := json.Marshal(v); return string(b) }
	permissions := []string{"report.read", "report.run", "report.export", "report.audit", "report.either", "report.both",
		"document.update", "document.fly"}
	allowed := map[question]bool{}
	var yes int
	for i := range size(150, 3000) {
		q := question{append(members, "nobody")[r.IntN(len(members)+1)], permissions[r.IntN(len(permissions))],
			append(resources, "none", "")[r.IntN(len(resources)+2)]}
		body := map[string]any{"customer": "firm", "member": q.member, "permission": q.permission}
		if q.resource != "" {
			body["resource"] = map[string]any{"type": "document", "id": q.resource}
		}
		var d, x decision
		ask("POST", "/v1/check", quote(body), &d)
		ask("POST", "/v1/explain", quote(body), &x)
		var batch struct{ Decisions []decision }
		ask("POST", "/v1/check/batch", `{"checks":[`+quote(body)+`,`+quote(body)+`]}`, &batch)
		allowed[q] = d.Allowed
		if d.Allowed {
			yes++
		}
		for _, other := range append(batch.Decisions, x) {
			if quote(other) != quote(d) {
				t.Errorf("%v: check %v, another %v", q, d, other)
			}
		}
		// AuthZEN names a permission by the resource's type.
		if kind, action, _ := strings.Cut(q.permission, "."); kind == "document" && q.resource != "" {
			var e struct{ Decision bool }
			ask("POST", "/access/v1/evaluation", quote(map[string]any{"subject": map[string]any{"type": "user", "id": q.member},
				"action":   map[string]any{"name": action},
				"resource": map[string]any{"type": kind, "id": q.resource}, "context": map[string]any{"customer": "firm"}}), &e)
			if e.Decision != d.Allowed {
				t.Errorf("%v: check %v, AuthZEN %v", q, d, e)
			}
		}
		if i%15 == 0 { // a process each
			args := []string{"check", "firm", "--member", q.member, "--permission", q.permission, "--json"}
			if q.resource != "" {
				args = append(args, "--resource-type", "document", "--resource-id", q.resource)
			}
			cmd := exec.Command(binary(t), args...)
			cmd.Env = append(cmd.Environ(), "USHER_URL=http://"+n.addr, "USHER_KEY="+key)
			out, err := cmd.Output()
			var exit *exec.ExitError
			if code := 0; errors.As(err, &exit) {
				if code = exit.ExitCode(); code != 1 || d.Allowed {
					t.Errorf("%v: check %v, the command line ends with %d", q, d, code)
				}
			} else if err != nil || !d.Allowed {
				t.Errorf("%v: check %v, the command line says yes, %v", q, d, err)
			}
			var c decision
			if err := json.Unmarshal(out, &c); err != nil || quote(c) != quote(d) {
				t.Errorf("%v: check %v, the command line %s, %v", q, d, out, err)
			}
		}
	}
	if yes == 0 || yes == len(allowed) {
		t.Errorf("%d of %d questions were answered yes: nothing was tried", yes, len(allowed))
	}

	// Who can: a search lists the members that a check allows.
	for q, ok := range allowed {
		if q.member == "nobody" {
			continue
		}
		body := map[string]any{"customer": "firm", "permission": q.permission, "limit": 1000}
		if q.resource != "" {
			body["resource"] = map[string]any{"type": "document", "id": q.resource}
		}
		var found struct{ Data []struct{ ID, Member string } }
		ask("POST", "/v1/search/members", quote(body), &found)
		listed := slices.ContainsFunc(found.Data, func(f struct{ ID, Member string }) bool { return f.ID == q.member || f.Member == q.member })
		if listed != ok {
			t.Errorf("%v: check %v, the search lists them: %v", q, ok, listed)
		}
	}

	// Features, by a member: check, OpenFeature and the list of entitlements.
	for _, m := range append(slices.Clone(members), "nobody") {
		var flags struct {
			Flags []struct {
				Key   string
				Value any
			}
		}
		ask("POST", "/ofrep/v1/evaluate/flags", `{"context":{"targetingKey":"firm","member":`+quote(m)+`}}`, &flags)
		for _, f := range []string{"exports", "audit", "reports.allowed"} {
			var d decision
			ask("POST", "/v1/check", `{"customer":"firm","feature":`+quote(strings.TrimSuffix(f, ".allowed"))+`,"member":`+quote(m)+`}`, &d)
			var one struct{ Value any }
			ask("POST", "/ofrep/v1/evaluate/flags/"+url.PathEscape(f), `{"context":{"targetingKey":"firm","member":`+quote(m)+`}}`, &one)
			i := slices.IndexFunc(flags.Flags, func(x struct {
				Key   string
				Value any
			}) bool {
				return x.Key == f
			})
			if i < 0 || flags.Flags[i].Value != d.Allowed || one.Value != d.Allowed {
				t.Errorf("%s of %s: check %v, OpenFeature %v and %v", f, m, d, one.Value, flags.Flags)
			}
		}
	}
}
