package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/scim"
	"github.com/usher-sh/usher/internal/testpg"
)

const scimCatalog = `
usher: 1
features:
  members:  {kind: seats, title: Seats}
  auditors: {kind: seats}
  exports:  {kind: switch}
  sso:      {kind: switch}
  calls:    {kind: config, type: integer}
permissions:
  report.read:   {}
  report.export: {feature: exports}
  audit.read:    {feature: sso}
  pay.ask:       {}
  pay.approve:   {}
roles:
  viewer:   {title: Viewer, permissions: [report.read]}
  analyst:  {title: Analyst, includes: [viewer], permissions: [report.export], seat: members}
  auditor:  {permissions: [report.read], seat: auditors}
  reviewer: {permissions: [audit.read]}
  asker:    {permissions: [pay.ask]}
  approver: {permissions: [pay.approve]}
separation:
  pay: {roles: [asker, approver]}
custom_roles: {ceiling: analyst}
plans:
  pro:
    default: true
    entitlements: {members: 2, exports: true}
`

// scimWorld is acme with its identity provider, and globex with another.
func scimWorld(t testing.TB, dsn string) *world {
	w := newWorldOn(t, dsn, scimCatalog)
	var n atomic.Int64
	w.again(func(s *setup) {
		s.Door.PublicURL = "https://usher.test"
		s.NewID = func(prefix string) string { return fmt.Sprint(prefix, n.Add(1)) }
	})
	if got := w.json("PUT", "/v1/customers/globex", `{"name":"Globex"}`); got.Code != 201 {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	var err error
	w.keys["globex"], _, err = w.auth.CreateKey(t.Context(), usher.By{Actor: usher.Actor{Kind: "cli"}}, usher.Production,
		auth.NewKey{Name: "globex", Role: auth.RoleSCIM, Customer: "globex"})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// onBothSCIM tells a story on SQLite and on PostgreSQL.
func onBothSCIM(t *testing.T, story func(t *testing.T, w *world)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		story(t, scimWorld(t, filepath.Join(t.TempDir(), "usher.db")))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		server, err := testpg.Default()
		if err != nil {
			t.Skip("no PostgreSQL binaries: ", err)
		}
		dsn, err := server.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		story(t, scimWorld(t, dsn))
	})
}

// scim sends one request as acme's identity provider, unless a header says
// otherwise, and fails where the answer is not SCIM's.
func (w *world) scim(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	contentType := ""
	if body != "" {
		contentType = "application/scim+json"
	}
	got := w.do(method, strings.ReplaceAll(target, " ", "%20"), contentType, body, append([]string{"Authorization", "Bearer " +
		w.keys[auth.RoleSCIM]}, headers...)...)
	if got.Body.Len() > 0 && got.Header().Get("Content-Type") != "application/scim+json" {
		w.t.Errorf("%s %s: got Content-Type %q", method, target, got.Header().Get("Content-Type"))
	}
	if got.Code >= 400 {
		var e scim.ErrorResponse
		if err := json.Unmarshal(got.Body.Bytes(), &e); err != nil || e.Status != fmt.Sprint(got.Code) || e.Detail == "" ||
			!slices.Equal(e.Schemas, []string{scim.ErrorURN}) {
			w.t.Errorf("%s %s: %d with %s, which is not an error of SCIM", method, target, got.Code, got.Body)
		}
	}
	return got
}

// TestSCIM_Transcripts runs what identity providers send, to the letter, against
// the answers that they need. In a transcript ">" begins a request, with headers
// and a body below, and "<" its answer: the status, headers, and a body of which
// all that is written must be there. "*" is any value, and a name after "!" must
// not be there. Requests below /v1 are the vendor's own, and so is ASSIGN, which
// gives a role to a group.
func TestSCIM_Transcripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/scim/*.txt")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d transcripts, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			onBothSCIM(t, func(t *testing.T, w *world) {
				for _, step := range regexp.MustCompile(`(?m)^> `).Split(string(text), -1)[1:] {
					w.exchange(t, step)
				}
			})
		})
	}
}

var headerLine = regexp.MustCompile(`^([A-Z][A-Za-z-]+): (.*)$`)

func (w *world) exchange(t *testing.T, step string) {
	t.Helper()
	request, answer, ok := strings.Cut(step, "\n< ")
	if !ok {
		t.Fatalf("no answer: %s", step)
	}
	part := func(text string) (first string, headers []string, body string) {
		var rest []string
		for i, line := range strings.Split(text, "\n") {
			switch m := headerLine.FindStringSubmatch(line); {
			case i == 0:
				first = line
			case strings.HasPrefix(line, "#"):
			case m != nil && len(rest) == 0:
				headers = append(headers, m[1], m[2])
			default:
				rest = append(rest, line)
			}
		}
		return first, headers, strings.TrimSpace(strings.Join(rest, "\n"))
	}
	line, headers, body := part(request)
	method, target, _ := strings.Cut(line, " ")
	if words := strings.Fields(target); method == "ASSIGN" {
		w.assign(usher.Holder{Group: words[0] == "group", ID: words[1]}, words[2])
		return
	}
	target = strings.NewReplacer(" ", "%20", `"`, "%22").Replace(target)
	send := []string{"Authorization", "Bearer " + w.keys[auth.RoleSCIM]}
	if strings.HasPrefix(target, "/v1/") {
		send = []string{"Authorization", "Bearer " + w.keys[auth.RoleAdmin]}
	}
	contentType := ""
	if body != "" {
		if contentType = "application/scim+json; charset=utf-8"; strings.HasPrefix(target, "/v1/") {
			contentType = "application/json"
		}
	}
	for i := 0; i < len(headers); i += 2 {
		switch headers[i] {
		case "Content-Type":
			contentType = headers[i+1]
		case "As":
			send[1] = "Bearer " + w.keys[headers[i+1]]
		default:
			send = append(send, headers[i], headers[i+1])
		}
	}
	got := w.do(method, target, contentType, body, send...)
	status, wantHeader, want := part(answer)
	if fmt.Sprint(got.Code) != strings.Fields(status)[0] {
		t.Errorf("%s: got %d %s, want %s", line, got.Code, got.Body, status)
		return
	}
	for i := 0; i < len(wantHeader); i += 2 {
		if v := got.Header().Get(wantHeader[i]); v != wantHeader[i+1] && !(wantHeader[i+1] == "*" && v != "") {
			t.Errorf("%s: got %s %q, want %q", line, wantHeader[i], v, wantHeader[i+1])
		}
	}
	if want == "" {
		if got.Body.Len() > 0 && got.Code == 204 {
			t.Errorf("%s: got a body: %s", line, got.Body)
		}
		return
	}
	var have, need any
	if err := json.Unmarshal([]byte(want), &need); err != nil {
		t.Fatalf("%s: the answer in the transcript: %v", line, err)
	}
	if err := json.Unmarshal(got.Body.Bytes(), &have); err != nil {
		t.Errorf("%s: got %s: %v", line, got.Body, err)
		return
	}
	if where := lacks(have, need, "body"); where != "" {
		t.Errorf("%s: %s\ngot  %s\nwant %s", line, where, got.Body, want)
	}
}

// assign gives a role as the vendor's product does.
func (w *world) assign(h usher.Holder, role string) {
	w.t.Helper()
	_, err := w.api.setup.API.Directory.Apply(w.t.Context(), usher.Production, usher.By{Actor: usher.Actor{Kind: "cli"}}, "acme",
		directory.Change{Assign: []usher.Assignment{{Holder: h, Role: role}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// lacks says where have is not what need says; "" is nowhere.
func lacks(have, need any, where string) string {
	switch need := need.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return where + " is no object"
		}
		for _, name := range slices.Sorted(maps.Keys(need)) {
			if not, ok := strings.CutPrefix(name, "!"); ok {
				if _, there := h[not]; there {
					return where + "." + not + " is there"
				}
				continue
			}
			v, ok := h[name]
			if !ok {
				return where + "." + name + " is not there"
			}
			if found := lacks(v, need[name], where+"."+name); found != "" {
				return found
			}
		}
	case []any:
		h, ok := have.([]any)
		if !ok || len(h) != len(need) {
			return where + " is not a list of as many"
		}
		for i := range need {
			if found := lacks(h[i], need[i], fmt.Sprintf("%s[%d]", where, i)); found != "" {
				return found
			}
		}
	default:
		if need != "*" && need != have {
			return fmt.Sprintf("%s is %v", where, have)
		}
	}
	return ""
}

// TestSCIM_Traps goes through what others get wrong, one by one.
func TestSCIM_Traps(t *testing.T) {
	t.Parallel()
	onBothSCIM(t, func(t *testing.T, w *world) {
		ok := func(status int, got *httptest.ResponseRecorder, contains ...string) {
			t.Helper()
			if got.Code != status {
				t.Errorf("got %d %s, want %d", got.Code, got.Body, status)
			}
			for _, part := range contains {
				if !strings.Contains(got.Body.String(), part) {
					t.Errorf("got %d %s, want %s in it", got.Code, got.Body, part)
				}
			}
		}
		patch := func(target, ops string) *httptest.ResponseRecorder {
			t.Helper()
			return w.scim("PATCH", target, `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":`+ops+`}`)
		}
		seats := func() string {
			t.Helper()
			return w.json("GET", "/v1/customers/acme/seats/members", "").Body.String()
		}
		for _, name := range []string{"ann", "bob", "cid"} {
			ok(201, w.scim("POST", "/scim/v2/Users", `{"userName":"`+name+`@x","externalId":"00u-`+name+
				`-000000001","roles":["viewer"],"team":"t-`+name+`"}`), `"value":"viewer"`)
		}
		all := w.scim("GET", "/scim/v2/Users", "").Body.String()

		// Nothing is half applied: the seats are two, the third is refused, and so
		// is all that came with it.
		for _, name := range []string{"ann", "bob"} {
			ok(200, patch("/scim/v2/Users/00u-"+name+"-000000001", `[{"op":"add","path":"roles","value":[{"value":"analyst"}]}]`))
		}
		ok(400, patch("/scim/v2/Users/00u-cid-000000001", `[{"op":"replace","path":"title","value":"Boss"},{"op":"add","path":"roles",`+
			`"value":[{"value":"analyst"}]}]`), `"scimType":"invalidValue"`, "seat")
		ok(200, w.scim("GET", "/scim/v2/Users/00u-cid-000000001", ""), `"roles":[{"display":"Viewer","primary":true,"value":"viewer"}]`)
		if strings.Contains(w.scim("GET", "/scim/v2/Users/00u-cid-000000001", "").Body.String(), "Boss") {
			t.Error("half of a refused change is there")
		}
		ok(400, w.scim("POST", "/scim/v2/Users", `{"userName":"dan@x","externalId":"00u-dan-000000001","roles":["analyst"]}`), "seat")
		ok(404, w.scim("GET", "/scim/v2/Users/00u-dan-000000001", ""))
		ok(200, w.scim("GET", "/scim/v2/Roles?filter=value%20eq%20%22analyst%22", ""), `"totalAssignmentsPermitted":2,"totalAssignmentsUsed":2`,
			`"contains":["viewer"]`, `"supported":true`)
		ok(200, w.scim("GET", "/scim/v2/Roles/viewer", ""), `"containedBy":["analyst"]`, `"limitedAssignmentsPermitted":false`)
		ok(200, w.scim("GET", "/scim/v2/Roles/auditor", ""), `"supported":false`)  // the plan has no such seats
		ok(200, w.scim("GET", "/scim/v2/Roles/reviewer", ""), `"supported":false`) // nor what it allows
		ok(200, w.scim("GET", "/scim/v2/Entitlements", ""), `"totalResults":4`, `"id":"sso"`)
		ok(200, w.scim("GET", "/scim/v2/Entitlements/members", ""),
			`"supported":true,"totalAssignmentsPermitted":2,"totalAssignmentsUsed":2,"type":"seats"`)
		ok(200, w.scim("GET", "/scim/v2/Entitlements?filter=type eq \"switch\" and supported eq true", ""), `"totalResults":1`, `"id":"exports"`)
		ok(404, w.scim("GET", "/scim/v2/Roles/nothing", ""))
		ok(404, w.scim("GET", "/scim/v2/Entitlements/calls", ""))

		// Deactivated, the seat is free for another; active again, it is not there.
		ok(200, patch("/scim/v2/Users/00u-ann-000000001", `[{"op":"replace","value":{"Active":"False"}}]`), `"active":false`)
		ok(200, patch("/scim/v2/Users/00u-cid-000000001", `[{"op":"add","path":"roles","value":[{"value":"analyst"}]}]`))
		ok(400, patch("/scim/v2/Users/00u-ann-000000001", `[{"op":"replace","path":"active","value":true}]`), "seat")
		ok(200, w.scim("GET", "/scim/v2/Users/00u-ann-000000001", ""), `"active":false`)
		ok(204, w.scim("DELETE", "/scim/v2/Users/00u-cid-000000001", ""))
		ok(404, w.scim("DELETE", "/scim/v2/Users/00u-cid-000000001", ""))
		ok(404, patch("/scim/v2/Users/00u-cid-000000001", `[{"op":"replace","path":"title","value":"x"}]`))
		ok(404, w.scim("PUT", "/scim/v2/Users/00u-cid-000000001", `{"userName":"cid@x"}`))
		ok(200, patch("/scim/v2/Users/00u-ann-000000001", `[{"op":"replace","path":"active","value":true}]`))
		if got := seats(); !strings.Contains(got, `"00u-ann-000000001"`) || !strings.Contains(got, `"00u-bob-000000001"`) ||
			strings.Contains(got, `"00u-cid-000000001"`) {
			t.Errorf("seats: %s", got)
		}
		ok(201, w.scim("POST", "/scim/v2/Users", `{"userName":"cid@x","externalId":"00u-cid-000000001"}`), `"id":"00u-cid-000000001"`,
			`"roles":[]`)
		if got := w.scim("GET", "/scim/v2/Users/00u-cid-000000001", "").Body.String(); strings.Contains(got, "t-cid") {
			t.Errorf("what was erased is back: %s", got)
		}

		// Roles: unknown, kept apart, taken away; those that others gave stay.
		ok(400, patch("/scim/v2/Users/00u-cid-000000001", `[{"op":"add","path":"roles","value":["nobody"]}]`), "no role", "invalidValue")
		ok(400, patch("/scim/v2/Users/00u-cid-000000001", `[{"op":"add","path":"roles","value":["asker","approver"]}]`), "keeps apart")
		w.assign(usher.Holder{ID: "00u-cid-000000001"}, "asker")
		ok(400, patch("/scim/v2/Users/00u-cid-000000001", `[{"op":"add","path":"roles","value":["approver"]}]`), "keeps apart")
		ok(200, patch("/scim/v2/Users/00u-cid-000000001", `[{"op":"add","path":"roles","value":["viewer"]}]`))
		ok(200, w.scim("PUT", "/scim/v2/Users/00u-cid-000000001", `{"userName":"cid@x"}`), `"value":"viewer"`)
		ok(200, w.scim("PUT", "/scim/v2/Users/00u-cid-000000001", `{"userName":"cid@x","roles":[]}`), `"roles":[]`)
		ok(200, w.json("POST", "/v1/check", `{"customer":"acme","member":"00u-cid-000000001","permission":"pay.ask"}`), `"allowed":true`)
		ok(200, w.scim("PUT", "/scim/v2/Users/00u-ann-000000001", `{"userName":"ann@x","TEAM":null,"active":true}`), `"team":"t-ann"`)

		// One name, one user, in any case; a user's own is no conflict.
		ok(409, patch("/scim/v2/Users/00u-ann-000000001", `[{"op":"replace","path":"userName","value":"BOB@x"}]`), `"scimType":"uniqueness"`)
		ok(200, patch("/scim/v2/Users/00u-ann-000000001", `[{"op":"replace","path":"userName","value":"ANN@x"}]`))
		ok(409, w.scim("PUT", "/scim/v2/Users/00u-ann-000000001", `{"userName":"bob@X"}`))

		// Bad input.
		ok(400, w.scim("POST", "/scim/v2/Users", `{}`), "userName is required")
		ok(400, w.scim("POST", "/scim/v2/Users", `{"userName":" "}`))
		ok(400, w.scim("POST", "/scim/v2/Users", `{"userName":"x","username":"y"}`), "invalidSyntax")
		ok(400, w.scim("POST", "/scim/v2/Users", `{"userName":"x","active":"perhaps"}`), "invalidValue")
		ok(400, w.scim("POST", "/scim/v2/Users", `{"userName":7}`), "invalidValue")
		ok(400, w.scim("POST", "/scim/v2/Users", `[`), "invalidSyntax")
		ok(400, w.scim("POST", "/scim/v2/Users", `{"userName":"big","note":"`+strings.Repeat("x", 70_000)+`"}`), "at most")
		ok(413, w.scim("POST", "/scim/v2/Users", `{"userName":"`+strings.Repeat("x", 4<<20)+`"}`))
		ok(400, w.scim("POST", "/scim/v2/Users", `{"userName":"deep","a":`+strings.Repeat("[", 20)+strings.Repeat("]", 20)+`}`))
		ok(415, w.scim("POST", "/scim/v2/Users", `{"userName":"x"}`, "Content-Type", "text/plain"))
		ok(400, patch("/scim/v2/Users/00u-ann-000000001", `[{"op":"remove","path":"userName"}]`), "userName is required")
		ok(400, patch("/scim/v2/Users/00u-ann-000000001", `[{"op":"remove","path":"active"}]`))
		ok(400, patch("/scim/v2/Users/00u-ann-000000001", `[{"op":"replace","path":"id","value":"x"}]`), "mutability")
		ok(400, patch("/scim/v2/Users/00u-ann-000000001", `[{"op":"replace","path":"groups","value":[]}]`), "mutability")
		ok(200, patch("/scim/v2/Users/00u-ann-000000001", `[{"op":"replace","value":{"id":"x","meta":{},"groups":[],"title":"T"}}]`),
			`"id":"00u-ann-000000001"`, `"title":"T"`)
		ok(400, patch("/scim/v2/Users/00u-ann-000000001", `[{"op":"remove"}]`), "noTarget")
		ok(400, w.scim("GET", "/scim/v2/Users?filter=userName", ""), "invalidFilter")
		ok(400, w.scim("GET", "/scim/v2/Users?filter="+strings.Repeat("(", 40)+"a+pr"+strings.Repeat(")", 40), ""), "invalidFilter")
		ok(400, w.scim("GET", "/scim/v2/Users?startIndex=x", ""))
		ok(400, w.scim("GET", "/scim/v2/Users?count=1.5", ""))
		ok(404, w.scim("GET", "/scim/v2/Me", ""))
		ok(404, w.scim("POST", "/scim/v2/Bulk", `{}`))
		ok(404, w.scim("GET", "/scim/v2/Users/", "")) // an empty id names no user
		// The display of a group's members is neither kept nor advertised, and found by no filter.
		if got := w.scim("GET", "/scim/v2/Schemas/"+scim.GroupURN, ""); got.Code != 200 || strings.Contains(got.Body.String(), `"display"`) {
			t.Errorf("the schema of groups has display: %s", got.Body)
		}
		for _, filter := range []string{`members.display eq "Bob"`, `members[display eq "Bob"]`} {
			ok(200, w.scim("GET", "/scim/v2/Groups?filter="+filter, ""), `"totalResults":0`)
		}
		// A base URL that ends with a slash, or begins with one too many.
		for _, base := range []string{"/scim/v2", "/scim/v2/", "//scim/v2", "/scim//v2//"} {
			ok(200, w.scim("GET", base, ""), "ServiceProviderConfig")
			ok(200, w.scim("GET", base+"/Users?count=1", ""), `"totalResults"`)
			ok(200, w.scim("GET", base+"/Users/00u-bob-000000001", ""), `"00u-bob-000000001"`)
			ok(404, w.scim("GET", base+"/Users//00u-bob-000000001", ""))
			ok(404, w.scim("DELETE", base+"/Users/", ""))
			ok(404, w.scim("GET", base+"/./Users", ""))
		}
		ok(404, w.scim("GET", "/scim/v2x/Users", ""))
		ok(405, w.scim("POST", "/scim/v2/Users/.search", `{}`))
		ok(401, w.scim("GET", "/scim/v2/Users", "", "Authorization", "Bearer x"))
		ok(403, w.scim("GET", "/scim/v2/Users", "", "Authorization", "Bearer "+w.keys[auth.RoleRead]))
		ok(403, w.scim("GET", "/scim/v2/Users", "", "Authorization", "Bearer "+w.keys[auth.RoleAdmin]), "needs a key of one customer")

		// A mail address is not an id, nor a name that a person chose.
		for name, id := range map[string]string{"ann.smith": "mbr_", "annsmith": "mbr_", "johann-sebastian-bach": "mbr_",
			"johann.sebastian.bach1685": "mbr_", "00u1": "mbr_",
			"108712345678901234567": "108712345678901234567", "00ujl29u0le5T6Aj10h7": "00ujl29u0le5T6Aj10h7",
			"0a21f0f2-8d2a-4f8e-bf98-7363c4aed4ef": "0a21f0f2-8d2a-4f8e-bf98-7363c4aed4ef"} {
			got := w.scim("POST", "/scim/v2/Users", `{"userName":"opaque@x","externalId":"`+name+`"}`)
			ok(201, got, `"id":"`+id, `"externalId":"`+name+`"`)
			ok(204, w.scim("DELETE", strings.TrimPrefix(got.Header().Get("Location"), "https://usher.test"), ""))
		}
		zoe := w.scim("POST", "/scim/v2/Users", `{"userName":"zoe@x","externalId":"zoe@x"}`)
		ok(201, zoe, `"id":"mbr_`, `"externalId":"zoe@x"`)
		ok(200, w.scim("GET", `/scim/v2/Users?filter=externalId eq "zoe@x" and roles pr`, ""), `"totalResults":0`)
		ok(204, w.scim("DELETE", strings.TrimPrefix(zoe.Header().Get("Location"), "https://usher.test"), ""))

		// ETags.
		etag := w.scim("GET", "/scim/v2/Users/00u-bob-000000001", "").Header().Get("ETag")
		ok(304, w.scim("GET", "/scim/v2/Users/00u-bob-000000001", "", "If-None-Match", etag))
		ok(412, w.scim("PUT", "/scim/v2/Users/00u-bob-000000001", `{"userName":"bob@x"}`, "If-Match", `W/"old"`))
		ok(412, w.scim("DELETE", "/scim/v2/Users/00u-bob-000000001", "", "If-Match", `W/"old"`))
		ok(200, w.scim("PUT", "/scim/v2/Users/00u-bob-000000001", `{"userName":"bob@x","title":"New"}`, "If-Match", etag))
		ok(412, w.scim("PATCH", "/scim/v2/Users/00u-bob-000000001", `{"Operations":[{"op":"replace","value":{"title":"x"}}]}`, "If-Match", etag))
		ok(200, w.scim("PATCH", "/scim/v2/Users/00u-bob-000000001", `{"Operations":[{"op":"replace","value":{"title":"x"}}]}`, "If-Match", "*"))

		// Groups in groups, but never in a circle.
		for _, name := range []string{"in", "out"} {
			ok(201, w.scim("POST", "/scim/v2/Groups", `{"displayName":"G `+name+`","externalId":"`+name+`"}`), `"members":[]`)
		}
		ok(204, patch("/scim/v2/Groups/out", `[{"op":"add","path":"members","value":[{"value":"in","type":"Group"},`+
			`{"value":"00u-ann-000000001"}]}]`))
		ok(400, patch("/scim/v2/Groups/in", `[{"op":"add","path":"members","value":[{"value":"out"}]}]`), "contain itself")
		ok(400, patch("/scim/v2/Groups/in", `[{"op":"add","path":"members","value":[{"value":"in"}]}]`), "contain itself")
		ok(400, patch("/scim/v2/Groups/in", `[{"op":"add","path":"members","value":[{"value":"nobody"}]}]`), "invalidValue")
		ok(400, patch("/scim/v2/Groups/in", `[{"op":"add","path":"members","value":[{"value":"00u-ann-000000001","type":"Robot"}]}]`))
		ok(400, w.scim("POST", "/scim/v2/Groups", `{"members":[]}`), "displayName is required")
		ok(200, w.scim("GET", "/scim/v2/Groups/out", ""), `"type":"Group","value":"in"`, `"type":"User","value":"00u-ann-000000001"`)
		ok(200, w.scim("PATCH", "/scim/v2/Groups/out?attributes=displayName",
			`{"Operations":[{"op":"replace","path":"displayName","value":"Out"}]}`), `"displayName":"Out"`)
		ok(200, w.scim("PUT", "/scim/v2/Groups/out", `{"displayName":"Out"}`), `"value":"00u-ann-000000001"`)
		ok(200, w.scim("GET", `/scim/v2/Groups?filter=members[value eq "00u-ann-000000001"]`, ""), `"totalResults":1`)
		ok(200, w.scim("GET", `/scim/v2/Users?filter=groups.display eq "out"&attributes=id`, ""), `"totalResults":1`, `"id":"00u-ann-000000001"`)
		getag := w.scim("GET", "/scim/v2/Groups/out", "").Header().Get("ETag")
		ok(412, w.scim("DELETE", "/scim/v2/Groups/out", "", "If-Match", `"x"`))
		ok(204, w.scim("DELETE", "/scim/v2/Groups/out", "", "If-Match", getag))
		ok(404, w.scim("DELETE", "/scim/v2/Groups/out", ""))

		// Pages.
		for _, c := range []struct{ query, want string }{
			{"", `"totalResults":3,"startIndex":1,"itemsPerPage":3`}, {"count=2", `"totalResults":3,"startIndex":1,"itemsPerPage":2`},
			{"startIndex=3&count=2", `"totalResults":3,"startIndex":3,"itemsPerPage":1,"Resources":[{"active":true,` +
				`"externalId":"00u-cid-000000001"`}, {"startIndex=9", `"startIndex":9,"itemsPerPage":0,"Resources":[]`},
			{"count=0", `"totalResults":3,"startIndex":1,"itemsPerPage":0,"Resources":[]`},
			{"count=-1&startIndex=-5", `"totalResults":3,"startIndex":1,"itemsPerPage":0,"Resources":[]`},
			{"startIndex=2&count=1&filter=id pr", `"totalResults":3,"startIndex":2,"itemsPerPage":1`},
		} {
			ok(200, w.scim("GET", "/scim/v2/Users?"+c.query, ""), c.want)
		}

		// Another customer's provider sees nothing of all this, and changes nothing.
		before := w.scim("GET", "/scim/v2/Users", "").Body.String() + w.scim("GET", "/scim/v2/Groups", "").Body.String()
		other := []string{"Authorization", "Bearer " + w.keys["globex"]}
		ok(200, w.scim("GET", "/scim/v2/Users", "", other...), `"totalResults":0`)
		ok(200, w.scim("GET", `/scim/v2/Users?filter=userName eq "ann@x"`, "", other...), `"totalResults":0`)
		for _, target := range []string{"/scim/v2/Users/00u-ann-000000001", "/scim/v2/Groups/in"} {
			ok(404, w.scim("GET", target, "", other...))
			ok(404, w.scim("PUT", target, `{"userName":"x","displayName":"x"}`, other...))
			ok(404, w.scim("PATCH", target, `{"Operations":[{"op":"replace","value":{"active":false}}]}`, other...))
			ok(404, w.scim("DELETE", target, "", other...))
		}
		ok(201, w.scim("POST", "/scim/v2/Users", `{"userName":"ann@x","externalId":"00u-ann-000000001"}`, other...), `"id":"00u-ann-000000001"`)
		ok(204, w.scim("DELETE", "/scim/v2/Users/00u-ann-000000001", "", other...))
		if after := w.scim("GET", "/scim/v2/Users", "").Body.String() + w.scim("GET", "/scim/v2/Groups", "").Body.String(); after != before {
			t.Errorf("acme changed:\n%s\n%s", before, after)
		}
		if !strings.Contains(all, `"totalResults":3`) {
			t.Errorf("got %s", all)
		}
	})
}

// TestSCIM_ManualMembers: members that the vendor made are users too, and what
// the vendor keeps of them stays.
func TestSCIM_ManualMembers(t *testing.T) {
	t.Parallel()
	onBothSCIM(t, func(t *testing.T, w *world) {
		_, err := w.api.setup.API.Directory.Apply(t.Context(), usher.Production, usher.By{Actor: usher.Actor{Kind: "cli"}}, "acme",
			directory.Change{Members: []usher.Member{
				{ID: "eve@x", Type: "user", Active: true, Properties: map[string]any{"name": "Eve",
					"region": "eu", "groups": "mine", "active": "no"}}}})
		if err != nil {
			t.Fatal(err)
		}
		got := w.scim("GET", `/scim/v2/Users?filter=userName eq "eve@x"`, "").Body.String()
		if !strings.Contains(got, `"totalResults":1`) || !strings.Contains(got, `"groups":[]`) || strings.Contains(got, `"Eve"`) ||
			!strings.Contains(got, `"active":true`) {
			t.Errorf("got %s", got)
		}
		if got := w.scim("POST", "/scim/v2/Users", `{"userName":"eve@x"}`); got.Code != 409 {
			t.Errorf("got %d %s, want 409", got.Code, got.Body)
		}
		for _, c := range [][2]string{{"PUT", `{"userName":"Eve@x","externalId":"e1","displayName":"Eve","password":"secret!"}`},
			{"PATCH", `{"Operations":[{"op":"add","value":{"password":"secret!"}}]}`}} {
			if got := w.scim(c[0], "/scim/v2/Users/eve@x", c[1]); got.Code != 200 {
				t.Errorf("got %d %s", got.Code, got.Body)
			}
		}
		m, err := w.api.setup.API.Directory.Read(usher.Production, "acme").Member(t.Context(), "eve@x")
		if err != nil {
			t.Fatal(err)
		}
		delete(m.Properties, "meta")
		want := map[string]any{"name": "Eve", "region": "eu", "groups": "mine", "active": "no", "userName": "Eve@x", "externalId": "e1",
			"displayName": "Eve"}
		if fmt.Sprint(m.Properties) != fmt.Sprint(want) || !m.Active {
			t.Errorf("got %v %v, want %v", m.Active, m.Properties, want)
		}
	})
}

// TestSCIM_ManyAtOnce: a group of a thousand is one change, and of those who take
// one name at once, one does.
func TestSCIM_ManyAtOnce(t *testing.T) {
	t.Parallel()
	w := scimWorld(t, filepath.Join(t.TempDir(), "usher.db"))
	var c directory.Change
	var values []string
	for i := range 1000 {
		id := fmt.Sprintf("u%04d", i)
		c.Members = append(c.Members, usher.Member{ID: id, Active: true, Properties: map[string]any{"userName": id}})
		values = append(values, `{"value":"`+id+`"}`)
	}
	by := usher.By{Actor: usher.Actor{Kind: "cli"}}
	if _, err := w.api.setup.API.Directory.Apply(t.Context(), usher.Production, by, "acme", c); err != nil {
		t.Fatal(err)
	}
	w.scim("POST", "/scim/v2/Groups", `{"displayName":"All","externalId":"all"}`)
	revision := func() int64 {
		n, err := w.api.setup.API.Directory.Read(usher.Production, "acme").Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := revision()
	got := w.scim("PATCH", "/scim/v2/Groups/all", `{"Operations":[{"op":"add","path":"members","value":[`+strings.Join(values, ",")+`]}]}`)
	if got.Code != 204 || revision() != before+1 {
		t.Errorf("got %d %s, from revision %d to %d", got.Code, got.Body, before, revision())
	}
	if got := w.scim("GET", "/scim/v2/Groups/all", "").Body.String(); strings.Count(got, `"value":`) != 1000 {
		t.Errorf("the group has %d members", strings.Count(got, `"value":`))
	}
	// All pages, in order, each once.
	seen := map[string]bool{}
	for start := 1; start <= 1000; start += 300 {
		var page struct{ Resources []struct{ ID string } }
		if err := json.Unmarshal(w.scim("GET", fmt.Sprintf("/scim/v2/Users?startIndex=%d&count=300&attributes=id", start), "").Body.Bytes(),
			&page); err != nil {
			t.Fatal(err)
		}
		for i, r := range page.Resources {
			if want := fmt.Sprintf("u%04d", start+i-1); r.ID != want || seen[r.ID] {
				t.Fatalf("at %d: got %s, want %s", start+i, r.ID, want)
			}
			seen[r.ID] = true
		}
	}
	if len(seen) != 1000 {
		t.Errorf("the pages have %d users", len(seen))
	}
	var wg sync.WaitGroup
	codes := make([]int, 8)
	for i := range codes {
		wg.Go(func() {
			codes[i] = w.scim("POST", "/scim/v2/Users", fmt.Sprintf(`{"userName":"Same@x","externalId":"same%d"}`, i)).Code
		})
	}
	wg.Wait()
	slices.Sort(codes)
	if want := []int{201, 409, 409, 409, 409, 409, 409, 409}; !slices.Equal(codes, want) {
		t.Errorf("got %v, want %v", codes, want)
	}
}
