package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

// records is a world with the things that the protocol's certification asks
// for: alice, bob who is an admin, and two records, of the customer records.
func records(t *testing.T) *world {
	t.Helper()
	w := managed(t)
	w.again(func(s *setup) { s.Door.PublicURL = "https://pdp.example.com" })
	w.furnish(t, "testdata/record.yaml", "records",
		`{"members":[{"id":"alice"},{"id":"bob","properties":{"role":"admin"}}],
		"resources":[{"type":"record","id":"record-1","properties":{"status":"active"}},
			{"type":"record","id":"record-2","properties":{"status":"archived"}}]}`,
		"alice reader", "alice writer", "alice soft-deleter", "bob reader", "bob archivist")
	return w
}

// furnish applies a catalogue and registers a customer's people; roles are
// "member role".
func (w *world) furnish(t *testing.T, catalogue, customer, people string, roles ...string) {
	t.Helper()
	src, err := os.ReadFile(catalogue)
	if err != nil {
		t.Fatal(err)
	}
	w.ask(t, 200, "PUT", "/v1/catalog", string(src), "application/yaml")
	w.ask(t, 201, "PUT", "/v1/customers/"+customer, `{}`)
	var p struct {
		Members   []map[string]any
		Resources []map[string]any
	}
	if err := json.Unmarshal([]byte(people), &p); err != nil {
		t.Fatal(err)
	}
	for _, m := range p.Members {
		w.ask(t, 201, "PUT", fmt.Sprintf("/v1/customers/%s/members/%s", customer, m["id"]), without(t, m, "id"))
	}
	for _, r := range p.Resources {
		w.ask(t, 201, "PUT", fmt.Sprintf("/v1/customers/%s/resources/%s/%s", customer, r["type"], r["id"]), without(t, r, "type", "id"))
	}
	for _, r := range roles {
		member, role, _ := strings.Cut(r, " ")
		w.ask(t, 200, "PUT", "/v1/customers/"+customer+"/assignments", fmt.Sprintf(`{"member":%q,"role":%q}`, member, role))
	}
}

// without is m as JSON but for some members, of which type is only left out of
// a resource.
func without(t *testing.T, m map[string]any, names ...string) string {
	t.Helper()
	rest := map[string]any{}
	for k, v := range m {
		if !slices.Contains(names, k) {
			rest[k] = v
		}
	}
	b, err := json.Marshal(rest)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// authzen asks without context in the answer.
func (w *world) authzen(path, body string, headers ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	return w.do("POST", "/access/v1/"+path, "application/json", body, append([]string{"Usher-Context", "none", "Authorization", "Bearer " +
		w.keys[auth.RoleAuthZEN]}, headers...)...)
}

const (
	alice = `"subject":{"type":"user","id":"alice"}`
	bob   = `"subject":{"type":"user","id":"bob"}`
	read  = `"action":{"name":"read"}`
	write = `"action":{"name":"write"}`
	rec1  = `"resource":{"type":"record","id":"record-1"}`
	rec2  = `"resource":{"type":"record","id":"record-2"}`
	yes   = `{"decision":true}`
	no    = `{"decision":false}`
)

func TestAuthZEN_Evaluation(t *testing.T) {
	t.Parallel()
	w := records(t)
	for body, want := range map[string]string{
		`{` + alice + `,` + read + `,` + rec1 + `}`:  yes,
		`{` + alice + `,` + write + `,` + rec1 + `}`: yes,
		`{` + bob + `,` + read + `,` + rec1 + `}`:    yes,
		`{` + bob + `,` + write + `,` + rec1 + `}`:   no, // a deny is a 200
		// What is said overrides what is stored, key by key (A10).
		`{` + alice + `,` + write + `,"resource":{"type":"record","id":"record-1","properties":{"status":"archived"}}}`: no,
		`{` + alice + `,` + write + `,` + rec2 + `}`:                                                                  no,
		`{` + bob + `,` + write + `,"resource":{"type":"record","id":"record-1","properties":{"status":"archived"}}}`: yes,
		`{"subject":{"type":"user","id":"bob","properties":{"role":"intern"}},` + write + `,` + rec2 +
			`}`: no,
		`{"subject":{"type":"user","id":"alice","properties":{"role":"admin"}},` + write + `,` + rec2 +
			`}`: no, // properties add no role
		`{` + alice + `,"action":{"name":"delete","properties":{"soft":true}},` + rec1 +
			`}`: yes,
		`{` + alice + `,"action":{"name":"delete","properties":{"soft":false}},` + rec1 +
			`}`: no,
		`{` + alice + `,"action":{"name":"delete"},` + rec1 +
			`}`: no,
		`{` + alice + `,` + read + `,` + rec1 + `,"context":{"time":"2025-06-27T18:03-07:00","ip":"192.168.1.1"}}`: yes,

		// Unknown members are ignored, everywhere.
		`{` + alice + `,` + read + `,` + rec1 + `,"foo":"bar","futureField":{"nested":true}}`: yes,
		`{"subject":{"type":"user","id":"alice","x":1},"action":{"name":"read","type":2,"id":[]},"resource":{"type":"record","id":"record-1",` +
			`"name":3},"options":{"a":"b"}}`: yes,
		// A subject of another type is another entity, and so is a resource (A10).
		`{"subject":{"type":"robot","id":"alice"},` + read + `,` + rec1 + `}`:                               no,
		`{"subject":{"type":"user:alice","id":""},` + read + `,` + rec1 + `}`:                               ``,
		`{` + alice + `,` + read + `,"resource":{"type":"file","id":"record-1"}}`:                           no,
		`{"subject":{"type":"user","id":"nobody"},` + read + `,` + rec1 + `}`:                               no,
		`{` + alice + `,"action":{"name":"fly"},` + rec1 + `}`:                                              no,
		`{` + alice + `,"action":{"name":"Read"},` + rec1 + `}`:                                             no,
		`{` + alice + `,` + read + `,"resource":{"type":"record","id":"not registered"}}`:                   yes, // the role is for all of them
		`{` + alice + `,` + read + `,` + rec1 + `,"context":{"customer":"records"}}`:                        yes,
		`{` + alice + `,` + read + `,` + rec1 + `,"context":{"customer":"acme"}}`:                           no, // who has another alice, or none
		`{` + alice + `,` + read + `,` + rec1 + `,"context":{"customer":"nobody"}}`:                         no,
		`{"subject":{"type":"user","id":"zoe"},` + read + `,` + rec1 + `,"context":{"customer":"records"}}`: no,
	} {
		got := w.authzen("evaluation", body)
		if want == "" {
			if got.Code != 400 {
				t.Errorf("%s: got %d %s, want 400", body, got.Code, got.Body)
			}
			continue
		}
		if got.Code != 200 || got.Body.String() != want {
			t.Errorf("%s: got %d %s, want %s", body, got.Code, got.Body, want)
		}
		wantHeaders(t, got.Header(), map[string]string{"Content-Type": "application/json", "X-Request-Id": "t"})
	}
}

// TestAuthZEN_NameWithDot: an action with a dot is found by evaluation, and listed by
// search as its last segment (S56). The type of the resource is never taken apart (A10).
func TestAuthZEN_NameWithDot(t *testing.T) {
	t.Parallel()
	w := managed(t)
	w.ask(t, 200, "PUT", "/v1/catalog", "usher: 1\npermissions: {a.b.c: {}}\nroles: {all: {permissions: [\"**\"]}}\n", "application/yaml")
	w.ask(t, 201, "PUT", "/v1/customers/firm", `{}`)
	w.ask(t, 201, "PUT", "/v1/customers/firm/members/alice", `{}`)
	for _, kind := range []string{"a", "a.b"} {
		w.ask(t, 201, "PUT", "/v1/customers/firm/resources/"+kind+"/x", `{}`)
	}
	w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"alice","role":"all"}`)
	w.ask(t, 201, "PUT", "/v1/customers/firm/members/bob", `{}`)
	w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"bob","role":"all","resource_type":"a.b"}`)
	bob := `{"subject":{"type":"user","id":"bob"},`
	w.want(w.authzen("evaluation", bob+`"action":{"name":"c"},"resource":{"type":"a.b","id":"x"}}`), 200, yes)
	w.want(w.authzen("evaluation", bob+`"action":{"name":"b.c"},"resource":{"type":"a","id":"x"}}`), 200, no)
	for _, c := range []struct{ path, body, want string }{
		{"evaluation", `"action":{"name":"c"},"resource":{"type":"a.b","id":"x"}`, yes},
		{"evaluation", `"action":{"name":"b.c"},"resource":{"type":"a","id":"x"}`, yes},
		{"search/resource", `"action":{"name":"c"},"resource":{"type":"a.b"}`, `{"results":[{"type":"a.b","id":"x"}]}`},
		{"search/resource", `"action":{"name":"b.c"},"resource":{"type":"a"}`, `{"results":[{"type":"a","id":"x"}]}`},
		{"search/action", `"resource":{"type":"a.b","id":"x"}`, `{"results":[{"name":"c"}]}`},
		{"search/action", `"resource":{"type":"a","id":"x"}`, `{"results":[]}`},
	} {
		w.want(w.authzen(c.path, `{`+alice+`,`+c.body+`}`), 200, c.want)
	}
}

func TestAuthZEN_Malformed(t *testing.T) {
	t.Parallel()
	w := records(t)
	for body, want := range map[string]string{
		``:                             `body|invalid JSON at line 1, column 1: expected an object, got the end`,
		`{}`:                           `body.subject|is required`,
		`[]`:                           `body|must be an object, got an array`,
		`{` + read + `,` + rec1 + `}`:  `body.subject|is required`,
		`{` + alice + `,` + rec1 + `}`: `body.action|is required`,
		`{` + alice + `,` + read + `}`: `body.resource|is required`,
		`{"subject":{"id":"alice"},` + read + `,` + rec1 + `}`:               `body.subject.type|`,
		`{"subject":{"type":"user"},` + read + `,` + rec1 + `}`:              `body.subject.id|`,
		`{` + alice + `,"action":{},` + rec1 + `}`:                           `body.action.name|`,
		`{` + alice + `,` + read + `,"resource":{"id":"record-1"}}`:          `body.resource.type|`,
		`{` + alice + `,` + read + `,"resource":{"type":"record"}}`:          `body.resource.id|`,
		`{"subject":"alice",` + read + `,` + rec1 + `}`:                      `body.subject|must be an object, got a string`,
		`{"subject":null,` + read + `,` + rec1 + `}`:                         `body.subject|must be an object, got null`,
		`{` + alice + `,"action":{"name":123},` + rec1 + `}`:                 `body.action.name|must be a string, got a number`,
		`{` + alice + `,"action":"read",` + rec1 + `}`:                       `body.action|must be an object, got a string`,
		`{` + alice + `,` + read + `,"resource":{"type":"record","id":1}}`:   `body.resource.id|must be a string, got a number`,
		`{` + alice + `,` + read + `,` + rec1 + `,"context":"x"}`:            `body.context|must be an object, got a string`,
		`{` + alice + `,` + read + `,` + rec1 + `,"context":null}`:           `body.context|must be an object, got null`,
		`{` + alice + `,` + read + `,` + rec1 + `,"context":{"customer":1}}`: `body.context.customer|must be a string`,
		`{"subject":{"type":"user","id":"alice","properties":[]},` + read + `,` + rec1 +
			`}`: `body.subject.properties|must be an object, got an array`,
		`{` + alice + `,` + alice + `,` + read + `,` + rec1 + `}`: `body|invalid JSON at line 1, column 50: ` +
			`the name "subject" occurs twice`,
		`{"subject":{"type":"user","type":"x","id":"alice"},` + read + `,` + rec1 + `}`:                 `body|invalid JSON at line 1, column `,
		`{` + alice + `,` + read + `,` + rec1 + `} x`:                                                   `body|invalid JSON at line 1, column `,
		`{` + alice + `,` + read + `,` + rec1:                                                           `body|invalid JSON at line 1, column `,
		`{"subject":{"type":"user","id":"` + strings.Repeat("a", 300) + `"},` + read + `,` + rec1 + `}`: `body.subject.id|`,
	} {
		for _, path := range []string{"evaluation", "evaluations"} {
			got := w.authzen(path, body)
			where, words, _ := strings.Cut(want, "|")
			if got.Code != 400 || !strings.Contains(got.Body.String(), `{"location":"`+where+`","message":`+strings.TrimSuffix(quoted(words), `"`)) {
				t.Errorf("%s %s: got %d %s, want 400 %s", path, body, got.Code, got.Body, want)
			}
			wantHeaders(t, got.Header(), map[string]string{"X-Request-Id": "t"}) // on errors too
		}
	}
	fine := `{` + alice + `,` + read + `,` + rec1 + `}`
	for _, path := range []string{"evaluation", "evaluations", "search/subject", "search/resource", "search/action"} {
		for _, kind := range []string{"", "text/plain", "application/xml", "application/json; charset=latin1"} {
			if got := w.do("POST", "/access/v1/"+path, kind, fine); got.Code != 400 {
				t.Errorf("%s with Content-Type %q: got %d, want 400", path, kind, got.Code)
			}
		}
		if got := w.do("POST", "/access/v1/"+path, "application/json; charset=utf-8", fine); got.Code != 200 {
			t.Errorf("%s: got %d %s, want 200", path, got.Code, got.Body)
		}
		// 401 and 403 are about the caller.
		if got := w.authzen(path, fine, "Authorization", ""); got.Code != 401 {
			t.Errorf("%s without a key: got %d, want 401", path, got.Code)
		}
		if got := w.authzen(path, fine, "Authorization", "Bearer "+w.keys[auth.RoleOFREP]); got.Code != 403 {
			t.Errorf("%s with a key of another role: got %d, want 403", path, got.Code)
		}
		if got := w.authzen(path, fine, "Usher-Context", "loud"); got.Code != 400 {
			t.Errorf("%s with a wrong Usher-Context: got %d, want 400", path, got.Code)
		}
	}
}

func quoted(s string) string { b, _ := door.Marshal(s); return string(b) }

func TestAuthZEN_Context(t *testing.T) {
	t.Parallel()
	w := people(t)
	w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"alice","role":"analyst"}`)
	ask := func(action, context string) string {
		t.Helper()
		return w.do("POST", "/access/v1/evaluation", "application/json", `{`+alice+`,"action":{"name":"`+action+
			`"},"resource":{"type":"report","id":"r"}}`, "Usher-Context", context).Body.String()
	}
	revision := w.ask(t, 200, "POST", "/v1/check", `{"customer":"firm","feature":"exports"}`)["revision"]
	end := fmt.Sprintf(`"revision":%v}}`, revision)
	const legs = `"legs":{"role":"pass","plan":"fail","seat":"pass","limit":"none","condition":"none"},`
	if got, want := ask("export", "full"), `{"decision":false,"context":{"reason":"not_entitled",`+legs+`"feature":"exports",`+
		end; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := ask("run", "full"), `{"decision":true,"context":{"reason":"within_limit","legs":{"role":"pass","plan":"pass",`+
		`"seat":"pass","limit":"pass","condition":"none"},"feature":"reports","plan":"free@1",`+end; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := ask("run", "none"); got != yes {
		t.Errorf("got %s, want %s", got, yes)
	}
	var d struct{ Context usher.Legs }
	if err := json.Unmarshal([]byte(ask("fly", "full")), &d); err != nil {
		t.Error(err)
	}
}

// TestAuthZEN_Customer: whose member the subject is.
func TestAuthZEN_Customer(t *testing.T) {
	t.Parallel()
	w := records(t)
	ask := func(context string, headers ...string) string {
		t.Helper()
		return w.authzen("evaluation", `{`+alice+`,`+read+`,`+rec1+context+`}`, headers...).Body.String()
	}
	same := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	same("the only customer that has her", ask(``), yes)
	w.ask(t, 201, "PUT", "/v1/customers/other", `{}`)
	w.ask(t, 201, "PUT", "/v1/customers/other/members/alice", `{}`)
	same("two have her", ask(``), no)
	same("named", ask(`,"context":{"customer":"records"}`), yes)
	same("named, the other", ask(`,"context":{"customer":"other"}`), no)
	key, _, err := w.auth.CreateKey(t.Context(), usher.By{Actor: usher.Actor{Kind: "cli"}}, usher.Production,
		auth.NewKey{Name: "pdp", Role: auth.RoleAuthZEN, Customer: "records"})
	if err != nil {
		t.Fatal(err)
	}
	same("the key's own", ask(``, "Authorization", "Bearer "+key), yes)
	same("named over the key's own", ask(`,"context":{"customer":"other"}`, "Authorization", "Bearer "+key), no)

	// Subject search: of the members who may act on the resource.
	w.want(w.authzen("search/subject", `{"subject":{"type":"user"},`+read+`,`+rec1+`}`), 200,
		`{"results":[{"type":"user","id":"alice"},{"type":"user","id":"bob"}]}`)
	w.ask(t, 201, "PUT", "/v1/customers/other/resources/record/record-1", `{}`)
	w.want(w.authzen("search/subject", `{"subject":{"type":"user"},`+read+`,`+rec1+`}`), 200, `{"results":[]}`)
	w.want(w.authzen("search/subject", `{"subject":{"type":"user"},`+read+`,`+rec1+`,"context":{"customer":"records"}}`), 200,
		`{"results":[{"type":"user","id":"alice"},{"type":"user","id":"bob"}]}`)
}

// TestAuthZEN_NoProperties: a key that may not say properties is answered by
// what is registered; the customer may be named all the same.
func TestAuthZEN_NoProperties(t *testing.T) {
	t.Parallel()
	w := records(t)
	key, _, err := w.auth.CreateKey(t.Context(), usher.By{Actor: usher.Actor{Kind: "cli"}}, usher.Production,
		auth.NewKey{Name: "pep", Role: auth.RoleAuthZEN, NoProperties: true})
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]string{
		`{` + alice + `,` + write + `,"resource":{"type":"record","id":"record-1","properties":{"status":"archived"}}}`: yes,
		`{` + alice + `,` + write + `,"resource":{"type":"record","id":"record-2","properties":{"status":"active"}}}`:   no,
		`{` + alice + `,"action":{"name":"delete","properties":{"soft":true}},` + rec1 + `}`:                            no,
		`{` + alice + `,` + write + `,` + rec1 + `,"context":{"customer":"records"}}`:                                   yes,
	} {
		w.want(w.authzen("evaluation", body, "Authorization", "Bearer "+key), 200, want)
	}
}

func TestAuthZEN_Evaluations(t *testing.T) {
	t.Parallel()
	w := records(t)
	list := func(items ...string) string { return `{"evaluations":[` + strings.Join(items, ",") + `]}` }
	broken := func(message string) string {
		return `{"decision":false,"context":{"error":{"status":400,"message":` + quoted(message) + `}}}`
	}
	for _, c := range []struct{ what, body, want string }{
		{"defaults", `{` + alice + `,` + read + `,"evaluations":[{` + rec1 + `},{` + rec2 + `}]}`, list(yes, yes)},
		{"defaults at the end", `{"evaluations":[{` + read + `},{` + write + `}],` + bob + `,` + rec1 + `}`, list(yes, no)},
		{"of their own", `{"evaluations":[{` + alice + `,` + read + `,` + rec1 + `},{` + bob + `,` + write + `,` + rec1 + `}]}`, list(yes, no)},
		{"properties of the default", `{` + write + `,"resource":{"type":"record","id":"record-1","properties":{"status":"archived"}},` +
			`"evaluations":[{` + alice + `},{` + bob + `}]}`, list(no, yes)},
		// An item's resource without properties does not get the default's.
		{"replaced whole", `{` + alice + `,` + write + `,"resource":{"type":"record","id":"record-1","properties":{"status":"archived"}},` +
			`"evaluations":[{},{` + rec1 + `}]}`, list(no, yes)},
		{"a context replaced whole", `{` + alice + `,` + read + `,` + rec1 +
			`,"context":{"customer":"acme"},"evaluations":[{},{"context":{}}]}`, list(no, yes)},
		{"one item", `{` + alice + `,` + read + `,"evaluations":[{` + rec1 + `}]}`, list(yes)},
		{"missing", `{` + alice + `,` + read + `,` + rec1 + `}`, yes},
		{"empty", `{` + alice + `,` + read + `,` + rec1 + `,"evaluations":[]}`, yes},
		{"empty, with options", `{` + alice + `,` + read + `,` + rec1 +
			`,"evaluations":[],"options":{"evaluations_semantic":"deny_on_first_deny","x":1}}`, yes},
		{"execute_all", `{` + alice + `,` + rec2 + `,"evaluations":[{` + read + `},{` + write + `},{` + read +
			`}],"options":{"evaluations_semantic":"execute_all"}}`, list(yes, no, yes)},
		{"deny_on_first_deny", `{` + alice + `,` + rec2 + `,"evaluations":[{` + read + `},{` + write + `},{` + read +
			`}],"options":{"evaluations_semantic":"deny_on_first_deny"}}`, list(yes, no)},
		{"deny_on_first_deny, none", `{` + alice + `,` + rec2 + `,"evaluations":[{` + read + `},{` + read +
			`}],"options":{"evaluations_semantic":"deny_on_first_deny"}}`, list(yes, yes)},
		{"permit_on_first_permit", `{` + alice + `,` + rec2 + `,"evaluations":[{` + write + `},{` + read + `},{` + write +
			`}],"options":{"evaluations_semantic":"permit_on_first_permit"}}`, list(no, yes)},
		{"permit_on_first_permit, none", `{` + alice + `,` + rec2 + `,"evaluations":[{` + write + `},{` + write +
			`}],"options":{"evaluations_semantic":"permit_on_first_permit"}}`, list(no, no)},
		{"a broken item denies", `{` + alice + `,` + read + `,"evaluations":[{},{` + rec1 +
			`}],"options":{"evaluations_semantic":"deny_on_first_deny"}}`, list(no)},
		{"a broken item permits nothing", `{` + alice + `,` + read + `,"evaluations":[1,{` + rec1 +
			`},2],"options":{"evaluations_semantic":"permit_on_first_permit"}}`, list(no, yes)},
	} {
		got := w.authzen("evaluations", c.body)
		if got.Code != 200 || got.Body.String() != c.want {
			t.Errorf("%s: got %d %s, want %s", c.what, got.Code, got.Body, c.want)
		}
	}

	// What is wrong with an item is told in it, and its neighbours do not mind.
	got := w.do("POST", "/access/v1/evaluations", "application/json", `{`+alice+`,`+read+`,"resource":{"type":"record"},"evaluations":[{`+
		rec1+`},{},{"resource":{"id":"record-1"}},7,{"subject":"alice","resource":{"id":1}},{`+rec1+`,"action":{}},{`+rec1+
		`,"context":{"customer":[]}},{`+rec2+`,"x":null}]}`)
	var a struct {
		Evaluations []struct {
			Decision bool
			Context  struct {
				Reason string
				Error  *struct {
					Status  int
					Message string
				}
			}
		}
	}
	if err := json.Unmarshal(got.Body.Bytes(), &a); err != nil || got.Code != 200 || len(a.Evaluations) != 8 {
		t.Fatalf("got %d %s: %v", got.Code, got.Body, err)
	}
	for i, want := range []string{"", "resource.id: ", "resource.type: ", "must be an object, got a number",
		"subject: must be an object, got a string; resource.id: must be a string, got a number", "action.name: ",
		"context.customer: must be a string", ""} {
		e := a.Evaluations[i]
		if fine := want == ""; fine != e.Decision || fine == (e.Context.Error != nil) || !fine &&
			(e.Context.Error.Status != 400 || !strings.Contains(e.Context.Error.Message, want)) {
			t.Errorf("item %d: got %+v %+v, want %q", i, e, e.Context.Error, want)
		}
	}
	if want := broken("must be an object, got a number"); !strings.Contains(got.Body.String(), want) {
		t.Errorf("got %s, want %s in it", got.Body, want)
	}

	for body, want := range map[string]string{
		`{` + alice + `,"evaluations":{}}`:   `{"location":"body.evaluations","message":"must be an array, got an object"}`,
		`{` + alice + `,"evaluations":null}`: `{"location":"body.evaluations","message":"must be an array, got null"}`,
		`{` + alice + `,` + read + `,` + rec1 + `,"options":{"evaluations_semantic":"all"}}`: `{"location":"body.options.evaluations_semantic",` +
			`"message":` +
			`"must be execute_all, deny_on_first_deny or permit_on_first_permit, got \"all\""}`,
		`{` + alice + `,"evaluations":[{}],"options":{"evaluations_semantic":"EXECUTE_ALL"}}`: `{"location":"body.options.evaluations_semantic",`,
		`{` + alice + `,"evaluations":[{}],"options":{"evaluations_semantic":1}}`: `{"location":"body.options.evaluations_semantic",` +
			`"message":"must be a string, got a number"}`,
		`{` + alice + `,"evaluations":[{}],"options":[]}`: `{"location":"body.options",` +
			`"message":"must be an object, got an array"}`,
		`{"subject":1,"evaluations":[{` + alice + `,` + read + `,` + rec1 +
			`}]}`: `{"location":"body.subject","message":"must be an object, got a number"}`,
		`{` + alice + `,` + read + `,"evaluations":[` + strings.Repeat(`{`+rec1+`},`, 1000) +
			`{}]}`: `{"location":"body.evaluations","message":"must hold at most 1000 items"}`,
		`{` + alice + `,"evaluations":[{}` + `}`: `invalid JSON at line 1, column `,
	} {
		if got := w.authzen("evaluations", body); got.Code != 400 || !strings.Contains(got.Body.String(), want) {
			t.Errorf("%.200s: got %d %.400s, want 400 with %s", body, got.Code, got.Body, want)
		}
	}
	if got := w.authzen("evaluations", `{`+alice+`,`+read+`,"evaluations":[`+strings.Repeat(`{`+rec1+`},`, 999)+`{`+rec1+
		`}]}`); got.Code != 200 || strings.Count(got.Body.String(), yes) != 1000 {
		t.Errorf("1,000 items: got %d with %d yes", got.Code, strings.Count(got.Body.String(), yes))
	}
}

func TestAuthZEN_Search(t *testing.T) {
	t.Parallel()
	w := records(t)
	w.ask(t, 201, "PUT", "/v1/customers/records/members/r2", `{"type":"robot"}`)
	w.ask(t, 200, "PUT", "/v1/customers/records/assignments", `{"member":"r2","role":"reader"}`)
	for _, c := range []struct{ path, body, want string }{
		{"subject", `{"subject":{"type":"user"},` + read + `,` + rec1 + `}`, `{"type":"user","id":"alice"},{"type":"user","id":"bob"}`},
		{"subject", `{"subject":{"type":"user","id":"ignored","x":1},` + read + `,` + rec1 + `}`,
			`{"type":"user","id":"alice"},{"type":"user","id":"bob"}`},
		{"subject", `{"subject":{"type":"robot"},` + read + `,` + rec1 + `}`, `{"type":"robot","id":"r2"}`},
		{"subject", `{"subject":{"type":"user"},` + write + `,"resource":{"type":"record","id":"record-2","properties":{"status":"archived"}}}`,
			`{"type":"user","id":"bob"}`},
		{"subject", `{"subject":{"type":"user"},` + read + `,` + rec1 + `,"context":{"time":"now"}}`,
			`{"type":"user","id":"alice"},{"type":"user","id":"bob"}`},
		{"subject", `{"subject":{"type":"spaceship"},` + read + `,` + rec1 + `}`, ``},
		{"subject", `{"subject":{"type":"user"},"action":{"name":"fly"},` + rec1 + `}`, ``},
		{"resource", `{` + alice + `,` + read + `,"resource":{"type":"record"}}`,
			`{"type":"record","id":"record-1"},{"type":"record","id":"record-2"}`},
		{"resource", `{` + alice + `,` + write + `,"resource":{"type":"record","id":"ignored"}}`, `{"type":"record","id":"record-1"}`},
		{"resource", `{"subject":{"type":"user","id":"bob","properties":{"role":"admin"}},` + write + `,"resource":{"type":"record"}}`,
			`{"type":"record","id":"record-2"}`},
		{"resource", `{"subject":{"type":"robot","id":"alice"},` + read + `,"resource":{"type":"record"}}`, ``},
		{"resource", `{` + alice + `,` + read + `,"resource":{"type":"spaceship"}}`, ``},
		{"resource", `{"subject":{"type":"user","id":"nobody"},` + read + `,"resource":{"type":"record"}}`, ``},
		{"action", `{` + alice + `,` + rec1 + `}`, `{"name":"read"},{"name":"write"}`},
		{"action", `{` + alice + `,` + rec2 + `}`, `{"name":"read"}`},
		{"action", `{` + alice + `,"action":{"name":"ignored"},` + rec1 + `}`, `{"name":"read"},{"name":"write"}`},
		{"action", `{` + alice + `,"action":7,` + rec1 + `}`, `{"name":"read"},{"name":"write"}`},
		{"action", `{"subject":{"type":"user","id":"bob","properties":{"role":"admin"}},"resource":{"type":"record","id":"record-2",` +
			`"properties":{"status":"archived"}}}`, `{"name":"read"},{"name":"write"}`},
		{"action", `{"subject":{"type":"user","id":"nonexistent-user"},` + rec1 + `}`, ``},
		{"action", `{` + alice + `,"resource":{"type":"spaceship","id":"x"}}`, ``},
		{"action", `{` + alice + `,` + rec1 + `,"context":{"customer":"nobody"}}`, ``},
	} {
		got := w.authzen("search/"+c.path, c.body)
		if want := `{"results":[` + c.want + `]}`; got.Code != 200 || got.Body.String() != want {
			t.Errorf("%s %s: got %d %s, want %s", c.path, c.body, got.Code, got.Body, want)
		}
	}
	for _, c := range []struct{ path, body, where string }{
		{"subject", `{"subject":{"type":"user"},` + rec1 + `}`, "body.action"},
		{"subject", `{` + read + `,` + rec1 + `}`, "body.subject"},
		{"subject", `{"subject":{},` + read + `,` + rec1 + `}`, "body.subject.type"},
		{"subject", `{"subject":{"type":"user"},` + read + `,"resource":{"type":"record"}}`, "body.resource.id"},
		{"subject", `{"subject":{"type":"user","id":1},` + read + `,` + rec1 + `}`, "body.subject.id"},
		{"resource", `{` + read + `,"resource":{"type":"record"}}`, "body.subject"},
		{"resource", `{"subject":{"type":"user"},` + read + `,"resource":{"type":"record"}}`, "body.subject.id"},
		{"resource", `{` + alice + `,` + read + `,"resource":{}}`, "body.resource.type"},
		{"resource", `{` + alice + `,"resource":{"type":"record"}}`, "body.action"},
		{"action", `{` + alice + `}`, "body.resource"},
		{"action", `{` + rec1 + `}`, "body.subject"},
		{"action", `{` + alice + `,"resource":{"type":"record"}}`, "body.resource.id"},
		{"action", `{` + alice + `,` + rec1 + `,"page":7}`, "body.page"},
		{"action", `{` + alice + `,` + rec1 + `,"page":{"limit":-1}}`, "body.page.limit"},
		{"action", `{` + alice + `,` + rec1 + `,"page":{"limit":1.5}}`, "body.page.limit"},
		{"action", `{` + alice + `,` + rec1 + `,"page":{"limit":"1"}}`, "body.page.limit"},
		{"action", `{` + alice + `,` + rec1 + `,"page":{"token":1}}`, "body.page.token"},
		{"action", `{` + alice + `,` + rec1 + `,"page":{"token":"x"}}`, "body.page.token"},
		{"action", ``, "body"},
	} {
		got := w.authzen("search/"+c.path, c.body)
		if got.Code != 400 || !strings.Contains(got.Body.String(), `"location":"`+c.where+`"`) {
			t.Errorf("%s %s: got %d %s, want 400 at %s", c.path, c.body, got.Code, got.Body, c.where)
		}
	}
}

// TestAuthZEN_Pages: a token leads on, again and again to the same place, and
// only for the question that it was made for.
func TestAuthZEN_Pages(t *testing.T) {
	t.Parallel()
	w := records(t)
	for i := range 25 {
		w.ask(t, 201, "PUT", fmt.Sprintf("/v1/customers/records/members/m%02d", i), `{}`)
		if i%3 == 0 {
			w.ask(t, 200, "PUT", "/v1/customers/records/assignments", fmt.Sprintf(`{"member":"m%02d","role":"reader"}`, i))
		}
	}
	type answer struct {
		Results []struct{ Type, ID string }
		Page    *struct {
			NextToken *string `json:"next_token"`
		}
	}
	ask := func(question, page string) (a answer) {
		t.Helper()
		got := w.authzen("search/subject", `{`+question+`,"page":`+page+`}`)
		if err := json.Unmarshal(got.Body.Bytes(), &a); err != nil || got.Code != 200 || a.Page == nil || a.Page.NextToken == nil {
			t.Fatalf("%s %s: got %d %s: %v", question, page, got.Code, got.Body, err)
		}
		return a
	}
	const question = `"subject":{"type":"user"},` + read + `,` + rec1
	whole := ask(question, `{}`)
	if len(whole.Results) != 11 || *whole.Page.NextToken != "" {
		t.Fatalf("got %+v, want 11 on one page", whole)
	}
	var all []struct{ Type, ID string }
	var tokens []string
	page := `{"limit":3}`
	for {
		a := ask(question, page)
		all = append(all, a.Results...)
		if *a.Page.NextToken == "" {
			break
		}
		if len(a.Results) != 3 || len(tokens) > 5 {
			t.Fatalf("got a page of %d, want 3", len(a.Results))
		}
		tokens = append(tokens, *a.Page.NextToken)
		page = `{"token":"` + tokens[len(tokens)-1] + `"}` // the limit stays
	}
	if !slices.Equal(all, whole.Results) {
		t.Errorf("the pages have\n%v\nwant\n%v", all, whole.Results)
	}
	token := tokens[0]
	again := ask(question, `{"token":"`+token+`"}`)
	if !slices.Equal(again.Results, whole.Results[3:6]) || *again.Page.NextToken != tokens[1] {
		t.Errorf("the same token again: got %+v, want the same page", again)
	}
	same := ask(`"page2":{},`+strings.Replace(question, `"type":"user"`, `"id":"someone","type":"user"`, 1), `{"token":"`+token+
		`","limit":3,"x":1}`) // what is ignored changes nothing
	if !slices.Equal(same.Results, again.Results) {
		t.Errorf("got %+v, want the same page", same)
	}
	if a := ask(question, `{"limit":5000}`); len(a.Results) != 11 {
		t.Errorf("a large limit: got %d", len(a.Results))
	}
	if a := ask(question, `{"limit":0}`); len(a.Results) != 11 || *a.Page.NextToken != "" {
		t.Errorf("limit 0: got %+v, want the default", a)
	}
	if a := ask(question, `{"token":"`+tokens[0]+`","limit":0}`); !slices.Equal(a.Results, whole.Results[3:6]) {
		t.Errorf("limit 0 on the next page: got %+v, want what the first page had", a)
	}

	changed := func(what, path, question, page string) {
		t.Helper()
		if got := w.authzen("search/"+path, `{`+question+`,"page":`+page+`}`); got.Code != 400 ||
			!strings.Contains(got.Body.String(), `"location":"body.page.`) {
			t.Errorf("%s: got %d %s, want 400 about the page", what, got.Code, got.Body)
		}
	}
	first := `{"token":"` + token + `"}`
	changed("another limit", "subject", question, `{"token":"`+token+`","limit":4}`)
	changed("another action", "subject", strings.Replace(question, "read", "write", 1), first)
	changed("another resource", "subject", strings.Replace(question, "record-1", "record-2", 1), first)
	changed("another type", "subject", strings.Replace(question, "user", "robot", 1), first)
	changed("a property", "subject", strings.Replace(question, `"record-1"`, `"record-1","properties":{"a":1}`, 1), first)
	changed("a context", "subject", question+`,"context":{}`, first)
	changed("another customer", "subject", question+`,"context":{"customer":"acme"}`, first)
	changed("another search", "resource", alice+`,`+read+`,"resource":{"type":"record"}`, first)
	changed("another search", "action", alice+`,`+rec1, first)
	for i := range token {
		b := []byte(token)
		b[i] ^= 1
		changed("an altered token", "subject", question, `{"token":`+quoted(string(b))+`}`)
	}
	changed("a shortened token", "subject", question, `{"token":"`+token[:len(token)-1]+`"}`)
	changed("a token of nothing", "subject", question, `{"token":"AAAA"}`)
}

func TestAuthZEN_Metadata(t *testing.T) {
	t.Parallel()
	w := records(t)
	r := httptest.NewRequest("GET", "/.well-known/authzen-configuration", nil)
	r.Host = "evil.example.net"
	r.Header.Set("X-Forwarded-Host", "evil.example.net")
	out := httptest.NewRecorder()
	w.api.ServeHTTP(out, r)
	w.want(out, 200, `{"policy_decision_point":"https://pdp.example.com",`+
		`"access_evaluation_endpoint":"https://pdp.example.com/access/v1/evaluation",`+
		`"access_evaluations_endpoint":"https://pdp.example.com/access/v1/evaluations",`+
		`"search_subject_endpoint":"https://pdp.example.com/access/v1/search/subject",`+
		`"search_resource_endpoint":"https://pdp.example.com/access/v1/search/resource",`+
		`"search_action_endpoint":"https://pdp.example.com/access/v1/search/action","capabilities":["urn:usher:authzen:context"]}`)
	wantHeaders(t, out.Header(), map[string]string{"Content-Type": "application/json", "Cache-Control": "public, max-age=3600"})
}

// TestA12_AuthZENSeesRevocation: nothing is cached: the next answer knows of the
// change.
func TestA12_AuthZENSeesRevocation(t *testing.T) {
	t.Parallel()
	w := records(t)
	body := `{` + alice + `,` + read + `,` + rec1 + `}`
	w.want(w.authzen("evaluation", body), 200, yes)
	w.ask(t, 200, "PUT", "/v1/customers/records/members/alice", `{"active":false}`)
	w.want(w.authzen("evaluation", body), 200, no)
	w.want(w.authzen("evaluations", `{"evaluations":[`+body+`]}`), 200, `{"evaluations":[`+no+`]}`)
	w.want(w.authzen("search/action", body), 200, `{"results":[]}`)
	w.ask(t, 200, "PUT", "/v1/customers/records/members/alice", `{"active":true}`)
	w.want(w.authzen("evaluation", body), 200, yes)
	until := w.now().Add(time.Hour).Format(time.RFC3339)
	w.ask(t, 200, "PUT", "/v1/customers/records/assignments", `{"member":"alice","role":"reader","until":"`+until+`"}`)
	w.want(w.authzen("evaluation", body), 200, yes)
	w.pass(time.Hour)
	w.want(w.authzen("evaluation", body), 200, no)
	// The caller's word for the time moves nothing (A07).
	w.want(w.authzen("evaluation", strings.TrimSuffix(body, "}")+`,"context":{"time":"2020-01-01T00:00:00Z","at":"2020-01-01T00:00:00Z"}}`),
		200, no)
}

// TestS56_PermissionsAreNamedAsAPIsNameThem: methods, tools and actions of clouds are
// permissions as they are written.
func TestS56_PermissionsAreNamedAsAPIsNameThem(t *testing.T) {
	t.Parallel()
	w := managed(t)
	long := strings.Repeat("x", 128-len("mcp."))
	w.ask(t, 200, "PUT", "/v1/catalog", `usher: 1
permissions:
  route.GET: {}
  route.get: {}
  tools/call: {}
  mcp.tools/call: {}
  tools/call.invoke: {}
  s3:GetObject: {}
  "-": {}
  mcp.`+long+`: {}
roles:
  caller: {permissions: [tools/call, "mcp.*", "tools/call.*", "s3:GetObject"]}
  reader: {permissions: [route.GET]}
custom_roles: {ceiling: caller}
`, "application/yaml")
	w.ask(t, 201, "PUT", "/v1/customers/firm", `{}`)
	for member, role := range map[string]string{"alice": "caller", "bob": "reader"} {
		w.ask(t, 201, "PUT", "/v1/customers/firm/members/"+member, `{}`)
		w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"`+member+`","role":"`+role+`"}`)
	}
	for _, c := range []struct {
		member, permission string
		want               bool
	}{
		{"alice", "tools/call", true}, {"alice", "tools/call.invoke", true},
		{"alice", "s3:GetObject", true}, {"alice", "mcp." + long, true},
		{"alice", "S3:GetObject", false}, {"alice", "route.GET", false}, {"bob", "route.GET", true}, {"bob", "route.get", false},
		{"alice", "-", false},
	} {
		got := w.ask(t, 200, "POST", "/v1/check", `{"customer":"firm","member":"`+c.member+`","permission":"`+c.permission+`"}`)
		if got["allowed"] != c.want {
			t.Errorf("%s %s: got %v, want %v", c.member, c.permission, got, c.want)
		}
	}
	w.ask(t, 200, "PUT", "/v1/customers/firm/roles/own", `{"permissions":["mcp.tools/call","tools/call.*"]}`)
	for _, c := range []struct{ name, want string }{
		{"tools/call", yes}, {long, yes}, {long + "x", no}, {"Tools/call", no}, {"tools/call.", no}, {".", no}, {"*", no}, {"**", no},
		{"a b", no}, {"café", no}, {`a\u0007b`, no}, {strings.Repeat("y", 1000), no},
	} {
		w.want(w.authzen("evaluation", `{`+alice+`,"action":{"name":"`+c.name+`"},"resource":{"type":"mcp","id":"server"}}`), 200, c.want)
	}
	w.want(w.authzen("evaluation", `{`+alice+`,"action":{"name":"call"},"resource":{"type":"café tools","id":"server"}}`), 200, no)
	w.want(w.authzen("search/subject", `{"subject":{"type":"user"},"action":{"name":"tools/call"},`+
		`"resource":{"type":"mcp","id":"server"},"context":{"customer":"firm"}}`), 200, `{"results":[{"type":"user","id":"alice"}]}`)
	w.want(w.authzen("search/action", `{`+alice+`,"resource":{"type":"tools/call","id":"x"}}`), 200, `{"results":[{"name":"invoke"}]}`)
}

// TestAuthZEN_Gateway answers the public interop scenario of API gateways, in which the
// methods of HTTP are actions on routes.
func TestAuthZEN_Gateway(t *testing.T) {
	t.Parallel()
	const file = "../../../shared/data/authzen/gateway.json"
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("%s is not there: the interop scenario was NOT tried", file)
	} else if err != nil {
		t.Fatal(err)
	}
	var scenario struct {
		Evaluation []struct {
			Request  json.RawMessage
			Expected bool
		}
	}
	if err := json.Unmarshal(text, &scenario); err != nil {
		t.Fatal(err)
	}
	w := managed(t)
	var people, roles []string
	for part, role := range map[string]string{"A": "editor", "E": "editor", "I": "editor", "M": "viewer", "Q": "viewer"} {
		id := "CiRmZD" + part + "2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs"
		people = append(people, fmt.Sprintf(`{"id":%q,"type":"identity"}`, id))
		roles = append(roles, id+" "+role)
	}
	w.furnish(t, "testdata/gateway.yaml", "smiths", `{"members":[`+strings.Join(people, ",")+`]}`, roles...)
	for i, c := range scenario.Evaluation {
		w.want(w.authzen("evaluation", string(c.Request)), 200, fmt.Sprintf(`{"decision":%v}`, c.Expected))
		if t.Failed() {
			t.Fatalf("evaluation %d: %s", i, c.Request)
		}
	}
	if len(scenario.Evaluation) != 25 {
		t.Errorf("got %d decisions, want 25", len(scenario.Evaluation))
	}
}

// TestAuthZEN_Todo answers the public interop scenario of the to-do application.
func TestAuthZEN_Todo(t *testing.T) {
	t.Parallel()
	const file = "../../../shared/data/authzen-todo-decisions.json"
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("%s is not there: the interop scenario was NOT tried", file)
	} else if err != nil {
		t.Fatal(err)
	}
	var scenario struct {
		Evaluation []struct {
			Request  json.RawMessage
			Expected bool
		}
		Evaluations []struct {
			Request  json.RawMessage
			Expected []struct{ Decision bool }
		}
	}
	if err := json.Unmarshal(text, &scenario); err != nil {
		t.Fatal(err)
	}
	w := managed(t)
	cast := map[string][]string{ // by email: the id's part that differs, and the roles
		"rick@the-citadel.com": {"A", "admin", "evil_genius"}, "morty@the-citadel.com": {"E", "editor"}, "summer@the-smiths.com": {"I", "editor"},
		"beth@the-smiths.com": {"M", "viewer"}, "jerry@the-smiths.com": {"Q", "viewer"},
	}
	var people []string
	var roles []string
	for email, who := range cast {
		id := "CiRmZD" + who[0] + "2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs"
		people = append(people, fmt.Sprintf(`{"id":%q,"properties":{"email":%q}}`, id, email))
		for _, role := range who[1:] {
			roles = append(roles, id+" "+role)
		}
	}
	w.furnish(t, "testdata/todo.yaml", "smiths", `{"members":[`+strings.Join(people, ",")+`]}`, roles...)
	for i, c := range scenario.Evaluation {
		w.want(w.authzen("evaluation", string(c.Request)), 200, fmt.Sprintf(`{"decision":%v}`, c.Expected))
		if t.Failed() {
			t.Fatalf("evaluation %d: %s", i, c.Request)
		}
	}
	for i, c := range scenario.Evaluations {
		var want []string
		for _, e := range c.Expected {
			want = append(want, fmt.Sprintf(`{"decision":%v}`, e.Decision))
		}
		w.want(w.authzen("evaluations", string(c.Request)), 200, `{"evaluations":[`+strings.Join(want, ",")+`]}`)
		if t.Failed() {
			t.Fatalf("evaluations %d: %s", i, c.Request)
		}
	}
	if len(scenario.Evaluation) != 40 || len(scenario.Evaluations) != 3 {
		t.Errorf("got %d decisions and %d batches, want 40 and 3", len(scenario.Evaluation), len(scenario.Evaluations))
	}
}
