package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher/internal/auth"
)

const agreeCatalog = `usher: 1
features:
  exports: {kind: switch}
  audit: {kind: switch}
  reports: {kind: metered, unit: report}
  members: {kind: seats, unit: member}
plans:
  free: {default: true, entitlements: {members: 3, exports: true, reports: {limit: 3, per: month}}}
permissions:
  report.read: {}
  report.run: {feature: reports}
  report.export: {feature: exports}
  report.audit: {feature: audit}
  report.either: {feature: [exports, audit], features: any}
  document.read: {}
  document.update: {}
  document.draft.update: {}
  admin: {}
roles:
  viewer: {permissions: [report.read, document.read]}
  analyst: {includes: [viewer], permissions: ["report.*"], seat: members}
  editor: {permissions: [document.*], when: "resource.properties.owner == subject.id"}
  regional: {permissions: ["*.read", document.draft.update], when: "subject.properties.region == resource.properties.region"}
  careful: {permissions: ["**"], when: "context.mfa == true"}
  exporter: {permissions: [report.export, report.either]}
`

// TestA11_EveryDoorAgrees asks the same on a directory made at random: a check,
// an explanation, an evaluation, a batch of them and each search say the same
// (A09, A11).
func TestA11_EveryDoorAgrees(t *testing.T) {
	t.Parallel()
	asked, allowed := 0, 0
	for seed := range uint64(3) {
		n, yes := agree(t, seed)
		asked, allowed = asked+n, allowed+yes
	}
	if asked < 2500 || allowed < asked/10 || allowed > asked*9/10 {
		t.Errorf("%d questions, %d of them a yes: they prove little", asked, allowed)
	}
	t.Logf("%d questions, %d of them a yes", asked, allowed)
}

// cell is one question; kind, name and resource are as AuthZEN says them.
type cell struct{ member, kind, name, resource string }

func agree(t *testing.T, seed uint64) (asked, allowed int) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 11))
	w := managed(t)
	w.ask(t, 200, "PUT", "/v1/catalog", agreeCatalog, "application/yaml")
	w.ask(t, 201, "PUT", "/v1/customers/firm", `{}`)
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	regions := []string{"eu", "us"}
	members := []string{"ann", "ben", "cem", "dan", "eva", "fay", "gus"}
	types := map[string]string{}
	for _, m := range members {
		types[m] = pick([]string{"user", "user", "user", "robot"})
		w.ask(t, 201, "PUT", "/v1/customers/firm/members/"+m, fmt.Sprintf(`{"type":%q,"active":%v,"properties":{"region":%q}}`, types[m],
			r.IntN(8) > 0, pick(regions)))
	}
	kinds := map[string][]string{"report": {"read", "run", "export", "audit", "either"}, "document": {"read", "update"},
		"document.draft": {"update"}}
	var resources []string // "type id"
	for kind := range kinds {
		for i := range 4 {
			resources = append(resources, fmt.Sprint(kind, " r", i))
		}
	}
	slices.Sort(resources)
	for _, ref := range resources {
		kind, id, _ := strings.Cut(ref, " ")
		w.ask(t, 201, "PUT", "/v1/customers/firm/resources/"+kind+"/"+id, fmt.Sprintf(`{"properties":{"owner":%q,"region":%q}}`, pick(members),
			pick(regions)))
	}
	for _, g := range []string{"all", "some"} {
		w.ask(t, 201, "PUT", "/v1/customers/firm/groups/"+g, `{}`)
		for range 2 {
			w.do("PUT", "/v1/customers/firm/groups/"+g+"/members/"+pick(members), "application/json", "")
		}
	}
	w.do("PUT", "/v1/customers/firm/groups/all/groups/some", "application/json", "")
	for range 18 {
		a := map[string]any{"role": pick([]string{"viewer", "analyst", "editor", "regional", "careful", "exporter"})}
		if r.IntN(4) == 0 {
			a["group"] = pick([]string{"all", "some"})
		} else {
			a["member"] = pick(members)
		}
		if r.IntN(2) == 0 {
			kind, id, _ := strings.Cut(pick(resources), " ")
			if a["resource_type"] = kind; r.IntN(3) > 0 {
				a["resource_id"] = id
			}
		}
		switch r.IntN(4) {
		case 0:
			a["until"] = w.now().Add(time.Duration(r.IntN(3)+1) * time.Hour)
		case 1:
			a["from"] = w.now().Add(time.Duration(r.IntN(3)-1) * time.Hour)
		}
		b, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.do("PUT", "/v1/customers/firm/assignments", "application/json", string(b)); got.Code != 200 &&
			got.Code != 422 { // no seat is free
			t.Fatalf("%s: got %d %s", b, got.Code, got.Body)
		}
	}
	w.pass(90 * time.Minute) // some begin, some are over

	for _, said := range []string{``, `,"context":{"customer":"firm","mfa":true}`, `,"context":{"mfa":false}`} {
		for _, properties := range []string{``, `,"properties":{"region":"eu","owner":"ann"}`} {
			yes := map[cell]bool{}
			var cells []cell
			var items []string
			for _, m := range members {
				for _, ref := range resources {
					kind, id, _ := strings.Cut(ref, " ")
					for _, name := range kinds[kind] {
						c := cell{m, kind, name, id}
						resource := fmt.Sprintf(`"resource":{"type":%q,"id":%q%s}`, kind, id, properties)
						own := fmt.Sprintf(`{"customer":"firm","member":%q,"permission":"%s.%s",%s%s}`, m, kind, name, resource, said)
						item := fmt.Sprintf(`{"subject":{"type":%q,"id":%q},"action":{"name":%q},%s%s}`, types[m], m, name, resource, said)
						d := w.ask(t, 200, "POST", "/v1/check", own)
						yes[c] = d["allowed"].(bool)
						full := w.ask(t, 200, "POST", "/access/v1/evaluation", item)
						why := full["context"].(map[string]any)
						if full["decision"] != d["allowed"] || why["reason"] != d["reason"] || fmt.Sprint(why["legs"]) != fmt.Sprint(d["legs"]) {
							t.Fatalf("seed %d: %s: the check says %v, the evaluation %v", seed, own, d, full)
						}
						x := w.ask(t, 200, "POST", "/v1/explain", own)
						if x["allowed"] != d["allowed"] || x["reason"] != d["reason"] {
							if n, _ := x["decision"].(map[string]any); n == nil || n["allowed"] != d["allowed"] || n["reason"] != d["reason"] {
								t.Fatalf("seed %d: %s: the check says %v, the explanation %v", seed, own, d, x)
							}
						}
						cells, items = append(cells, c), append(items, item)
						if asked++; yes[c] {
							allowed++
						}
					}
				}
			}
			var batch struct{ Evaluations []struct{ Decision bool } }
			w.into(t, "/access/v1/evaluations", `{"evaluations":[`+strings.Join(items, ",")+`]}`, &batch)
			for i, c := range cells {
				if batch.Evaluations[i].Decision != yes[c] {
					t.Fatalf("seed %d: %+v: alone %v, in a batch %v", seed, c, yes[c], batch.Evaluations[i].Decision)
				}
			}
			w.searchesAgree(t, fmt.Sprintf("seed %d%s%s", seed, said, properties), cells, types, yes, said, properties)
		}
	}
	return asked, allowed
}

func (w *world) into(t *testing.T, path, body string, v any) {
	t.Helper()
	got := w.do("POST", path, "application/json", body)
	if err := json.Unmarshal(got.Body.Bytes(), v); err != nil || got.Code != 200 {
		t.Fatalf("%s %s: got %d %s: %v", path, body, got.Code, got.Body, err)
	}
}

// searchesAgree compares every search, read in small pages, with what was
// answered one by one.
func (w *world) searchesAgree(t *testing.T, where string, cells []cell, types map[string]string, yes map[cell]bool, said,
	properties string) {
	t.Helper()
	type results struct {
		Results []struct{ Type, ID, Name string }
		Data    []struct{ Type, ID, Permission string }
		Page    struct {
			Next string `json:"next_token"`
		}
		Next string `json:"next_cursor"`
	}
	// search reads all pages.
	search := func(path, body string) (found []string) {
		t.Helper()
		own := strings.HasPrefix(path, "/v1/")
		page := `,"page":{"limit":2}}`
		if own {
			page = `,"limit":2}`
		}
		for range 100 {
			var a results
			w.into(t, path, body+page, &a)
			for _, x := range a.Results {
				found = append(found, x.ID+x.Name)
			}
			for _, x := range a.Data {
				found = append(found, x.ID+x.Permission)
			}
			switch {
			case own && a.Next != "":
				page = fmt.Sprintf(`,"limit":2,"cursor":%q}`, a.Next)
			case !own && a.Page.Next != "":
				page = fmt.Sprintf(`,"page":{"token":%q}}`, a.Page.Next)
			default:
				return found
			}
		}
		t.Fatalf("%s: %s: the pages do not end", where, body)
		return nil
	}
	compare := func(what string, got []string, want map[string]bool) {
		t.Helper()
		var list []string
		for k, v := range want {
			if v {
				list = append(list, k)
			}
		}
		slices.Sort(list)
		slices.Sort(got)
		if !slices.Equal(got, list) {
			t.Fatalf("%s: %s: the search finds %v, one by one it is %v", where, what, got, list)
		}
	}
	done := map[string]bool{}
	first := func(key string) bool { was := done[key]; done[key] = true; return !was }
	for _, c := range cells {
		resource := fmt.Sprintf(`"resource":{"type":%q,"id":%q%s}`, c.kind, c.resource, properties)
		permission := c.kind + "." + c.name
		matching := func(key func(d cell) (string, bool)) map[string]bool {
			want := map[string]bool{}
			for _, d := range cells {
				if k, ok := key(d); ok {
					want[k] = yes[d]
				}
			}
			return want
		}
		if first("who" + permission + " " + c.resource) {
			for _, kind := range []string{"user", "robot"} {
				body := fmt.Sprintf(`{"subject":{"type":%q},"action":{"name":%q},%s%s`, kind, c.name, resource, said)
				compare(body, search("/access/v1/search/subject", body), matching(func(d cell) (string, bool) {
					return d.member, types[d.member] == kind && d.kind == c.kind && d.name == c.name && d.resource == c.resource
				}))
			}
			body := fmt.Sprintf(`{"customer":"firm","permission":%q,%s%s`, permission, resource, said)
			compare(body, search("/v1/search/members", body), matching(func(d cell) (string, bool) {
				return d.member, d.kind == c.kind && d.name == c.name && d.resource == c.resource
			}))
		}
		if first("where" + permission + " " + c.member) {
			want := matching(func(d cell) (string, bool) {
				return d.resource, d.member == c.member && d.kind == c.kind && d.name == c.name
			})
			body := fmt.Sprintf(`{"subject":{"type":%q,"id":%q},"action":{"name":%q},"resource":{"type":%q%s}%s`, types[c.member], c.member,
				c.name, c.kind, properties, said)
			compare(body, search("/access/v1/search/resource", body), want)
			if properties == "" {
				body = fmt.Sprintf(`{"customer":"firm","member":%q,"permission":%q,"type":%q%s`, c.member, permission, c.kind, said)
				compare(body, search("/v1/search/resources", body), want)
			}
		}
		if first("what" + c.member + " " + c.kind + " " + c.resource) {
			ours := func(d cell) bool { return d.member == c.member && d.kind == c.kind && d.resource == c.resource }
			body := fmt.Sprintf(`{"subject":{"type":%q,"id":%q},%s%s`, types[c.member], c.member, resource, said)
			compare(body, search("/access/v1/search/action", body), matching(func(d cell) (string, bool) { return d.name, ours(d) }))
			body = fmt.Sprintf(`{"customer":"firm","member":%q,%s%s`, c.member, resource, said)
			compare(body, search("/v1/search/permissions", body), matching(func(d cell) (string, bool) { return d.kind + "." + d.name, ours(d) }))
		}
	}
}

func TestSearch(t *testing.T) {
	t.Parallel()
	w := records(t)
	revision := fmt.Sprint(w.ask(t, 200, "POST", "/v1/check", `{"customer":"records","feature":"x"}`)["revision"])
	for _, c := range []struct{ path, body, want string }{
		{"members", `{"customer":"records","permission":"record.read"}`, `{"type":"user","id":"alice"},{"type":"user","id":"bob"}`},
		{"members", `{"customer":"records","permission":"record.read","type":"robot"}`, ``},
		{"members", `{"customer":"records","permission":"record.write","resource":{"type":"record","id":"record-2"}}`,
			`{"type":"user","id":"bob"}`},
		{"members", `{"customer":"records","permission":"record.fly"}`, ``},
		{"members", `{"customer":"nobody","permission":"record.read"}`, ``},
		{"resources", `{"customer":"records","member":"alice","permission":"record.write","type":"record"}`, `{"type":"record","id":"record-1"}`},
		{"resources", `{"customer":"records","member":"nobody","permission":"record.write","type":"record"}`, ``},
		{"permissions", `{"customer":"records","member":"alice"}`, `{"permission":"record.read"}`},
		{"permissions", `{"customer":"records","member":"alice","resource":{"type":"record","id":"record-1"}}`,
			`{"permission":"record.read"},{"permission":"record.write"}`},
		{"permissions", `{"customer":"records","member":"alice","type":"record"}`, `{"permission":"record.read"}`},
		{"permissions", `{"customer":"records","member":"alice","type":"spaceship"}`, ``},
	} {
		w.want(w.do("POST", "/v1/search/"+c.path, "application/json", c.body), 200, `{"data":[`+c.want+`],"revision":`+revision+`}`)
	}
	for _, c := range []struct{ path, body, where string }{
		{"members", `{}`, "body.customer"},
		{"members", `{"customer":"records"}`, "body.permission"},
		{"members", `{"customer":"records","permission":"record.read","member":"alice"}`, "body.member"},
		{"members", `{"customer":"records","permission":"record.read","limit":0}`, "body.limit"},
		{"members", `{"customer":"records","permission":"record.read","limit":1001}`, "body.limit"},
		{"members", `{"customer":"records","permission":"record.read","cursor":"x"}`, "body.cursor"},
		{"members", `{"customer":"records","permission":"record.read","min_revision":100000}`, "body.min_revision"},
		{"members", `{"customer":"records","permission":"record.read","at":"now"}`, "body.at"},
		{"resources", `{"customer":"records","member":"alice","permission":"record.write"}`, "body.type"},
		{"resources", `{"customer":"records","permission":"record.write","type":"record"}`, "body.member"},
		{"permissions", `{"customer":"records"}`, "body.member"},
		{"permissions", `{"customer":"records","member":"alice","type":"record","resource":{"type":"record","id":"x"}}`, "body.type"},
	} {
		got := w.do("POST", "/v1/search/"+c.path, "application/json", c.body)
		if got.Code != 400 || !strings.Contains(got.Body.String(), `"location":"`+c.where+`"`) {
			t.Errorf("%s %s: got %d %s, want 400 at %s", c.path, c.body, got.Code, got.Body, c.where)
		}
	}
}

// recordsOn is a small world for measurements.
func recordsOn(t testing.TB) *world {
	t.Helper()
	src, err := os.ReadFile("testdata/record.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldOn(t, filepath.Join(t.TempDir(), "usher.db"), string(src))
	for _, c := range [][2]string{
		{"/v1/customers/acme/members/alice", `{}`}, {"/v1/customers/acme/resources/record/record-1", `{}`},
		{"/v1/customers/acme/assignments", `{"member":"alice","role":"reader"}`},
	} {
		if got := w.do("PUT", c[0], "application/json", c[1]); got.Code >= 300 {
			t.Fatalf("%s: got %d %s", c[0], got.Code, got.Body)
		}
	}
	return w
}

// BenchmarkB9_AuthZENRatio measures POST /access/v1/evaluation against a bare
// handler, as BenchmarkB2_CheckRatio does.
func BenchmarkB9_AuthZENRatio(b *testing.B) {
	w := recordsOn(b)
	const body = `{` + alice + `,` + read + `,` + rec1 + `}`
	ours, bare := listen(b, w.api), listen(b, http.HandlerFunc(bareEvaluation))
	raw := fmt.Appendf(nil, "POST /access/v1/evaluation HTTP/1.1\r\nHost: usher\r\nContent-Type: application/json\r\nAuthorization: "+
		"Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
		w.keys[auth.RoleAuthZEN], len(body), body)
	for _, addr := range []string{ours, bare} {
		if rate(b, addr, raw, 200*time.Millisecond) == 0 {
			b.Fatal("no answers")
		}
	}
	var ratios, us, them []float64
	for b.Loop() {
		for i := range 7 {
			var x, y float64
			if i%2 == 0 {
				x, y = rate(b, ours, raw, 500*time.Millisecond), rate(b, bare, raw, 500*time.Millisecond)
			} else {
				y, x = rate(b, bare, raw, 500*time.Millisecond), rate(b, ours, raw, 500*time.Millisecond)
			}
			ratios, us, them = append(ratios, x/y), append(us, x), append(them, y)
		}
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(us), "evaluations/s")
	b.ReportMetric(median(them), "bare/s")
	b.ReportMetric(0, "ns/op")
}

// bareEvaluation is what the evaluation is measured against: no key, no world.
func bareEvaluation(w http.ResponseWriter, r *http.Request) {
	type entity struct {
		Type       string         `json:"type"`
		ID         string         `json:"id"`
		Name       string         `json:"name"`
		Properties map[string]any `json:"properties"`
	}
	var in struct {
		Subject  entity         `json:"subject"`
		Action   entity         `json:"action"`
		Resource entity         `json:"resource"`
		Context  map[string]any `json:"context"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"decision": in.Subject.ID == "alice"})
}

// TestAuthZENAllocatesLittle keeps the evaluation's own part small.
func TestAuthZENAllocatesLittle(t *testing.T) {
	w := recordsOn(t)
	r, err := http.NewRequest("POST", "/access/v1/evaluation", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.keys[auth.RoleAuthZEN])
	r.Header.Set("Content-Type", "application/json")
	body := []byte(`{` + alice + `,` + read + `,` + rec1 + `}`)
	in := bytes.NewReader(body)
	r.Body, r.ContentLength = readCloser{in}, int64(len(body))
	out := discard{http.Header{}}
	if n := testing.AllocsPerRun(200, func() {
		in.Reset(body)
		w.api.Door.ServeHTTP(out, r)
	}); n > 16 {
		t.Errorf("got %v allocations, want at most 16", n)
	}
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }
