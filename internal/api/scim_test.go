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
	w.api.PublicURL = "https://usher.test"
	w.api.NewID = func() func(string) string {
		var mu sync.Mutex
		n := 0
		return func(prefix string) string {
			mu.Lock()
			defer mu.Unlock()
			n++
			return fmt.Sprint(prefix, n)
		}
	}()
	if got := w.json("PUT", "/v1/customers/globex", `{"name":"Globex"}`); got.Code != 201 {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	var err error
	w.keys["globex"], _, err = w.auth.CreateKey(t.Context(), auth.By{Actor: usher.Actor{Kind: "cli"}}, usher.Production, auth.NewKey{Name: "globex", Role: auth.RoleSCIM, Customer: "globex"})
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
	got := w.do(method, strings.ReplaceAll(target, " ", "%20"), contentType, body, append([]string{"Authorization", "Bearer " + w.keys[auth.RoleSCIM]}, headers...)...)
	if got.Body.Len() > 0 && got.Header().Get("Content-Type") != "application/scim+json" {
		w.t.Errorf("%s %s: got Content-Type %q", method, target, got.Header().Get("Content-Type"))
	}
	if got.Code >= 400 {
		var e scim.ErrorResponse
		if err := json.Unmarshal(got.Body.Bytes(), &e); err != nil || e.Status != fmt.Sprint(got.Code) || e.Detail == "" || !slices.Equal(e.Schemas, []string{scim.ErrorURN}) {
			w.t.Errorf("%s %s: %d with %s, which is no error of SCIM", method, target, got.Code, got.Body)
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
	_, err := w.api.Directory.Apply(w.t.Context(), usher.Production, directory.Meta{Actor: usher.Actor{Kind: "cli"}, Action: "test"}, "acme",
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
			return where + " is no list of as many"
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
