package api

import (
	"encoding/json"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

// field is a text of an answer.
func field(t *testing.T, got *httptest.ResponseRecorder, name string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(got.Body.Bytes(), &v); err != nil {
		t.Fatalf("got %d %s: %v", got.Code, got.Body, err)
	}
	s, _ := v[name].(string)
	return s
}

// TestKeysOverHTTP: a key is made, used, rotated and ended.
func TestKeysOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	post := func(path, body string, headers ...string) *httptest.ResponseRecorder {
		return w.do("POST", path, "application/json", body, headers...)
	}
	check := func(key string) int {
		return post("/v1/check", `{"customer":"acme","feature":"sso"}`, "Authorization", "Bearer "+key).Code
	}
	got := post("/v1/keys", `{"name":"shop","role":"app","customer":"acme","properties":false,"rate":{"per_second":5,"burst":10}}`)
	key, id := field(t, got, "key"), field(t, got, "id")
	for _, part := range []string{`"environment":"production"`, `"name":"shop"`, `"role":"app"`, `"customer":"acme"`, `"properties":false`,
		`"rate":{"per_second":5,"burst":10}`} {
		if got.Code != 201 || !strings.Contains(got.Body.String(), part) {
			t.Errorf("got %d %s, want 201 with %s", got.Code, got.Body, part)
		}
	}
	if check(key) != 200 {
		t.Error("the key does not let in")
	}
	got = post("/v1/keys/"+id+"/rotate", `{"grace":"1h"}`)
	next := field(t, got, "key")
	if got.Code != 201 || check(next) != 200 || check(key) != 200 || field(t, got, "rotates") != id ||
		!strings.Contains(got.Body.String(), `"rate":{"per_second":5,"burst":10}`) {
		t.Errorf("got %d %s, want two live keys", got.Code, got.Body)
	}
	if again := post("/v1/keys/"+id+"/rotate", `{}`); again.Code != 409 {
		t.Errorf("a third live key: got %d %s, want 409", again.Code, again.Body)
	}
	if gone := w.do("DELETE", "/v1/keys/"+id, "", ""); gone.Code != 204 || gone.Body.Len() != 0 || check(key) != 401 || check(next) != 200 {
		t.Errorf("got %d %s, want the first key to have ended", gone.Code, gone.Body)
	}
	list := w.do("GET", "/v1/keys?limit=1000", "", "")
	for _, secret := range []string{key[len(key)-40:], next[len(next)-40:]} {
		if strings.Contains(list.Body.String(), secret) || strings.Contains(w.log.String(), secret) {
			t.Error("a secret is told again")
		}
	}
	// The list comes in pages.
	seen, cursor := 0, ""
	for {
		page := w.do("GET", "/v1/keys?limit=2&cursor="+cursor, "", "")
		var v struct {
			Data []struct{ ID string }
			Next string `json:"next_cursor"`
		}
		if err := json.Unmarshal(page.Body.Bytes(), &v); err != nil || page.Code != 200 {
			t.Fatalf("got %d %s", page.Code, page.Body)
		}
		seen += len(v.Data)
		if cursor = v.Next; cursor == "" {
			break
		}
	}
	if want := strings.Count(list.Body.String(), `"id":`); seen != want || want < 4 {
		t.Errorf("got %d keys in pages and %d at once", seen, want)
	}
	// A key that ends is followed by one that ends then, unless the call says otherwise.
	ends := time.Now().Add(10 * time.Hour).UTC().Format(time.RFC3339)
	got = post("/v1/keys", `{"role":"read","expires_at":"`+ends+`"}`)
	old := field(t, got, "id")
	got = post("/v1/keys/"+old+"/rotate", `{"grace":"1h"}`)
	if got.Code != 201 || field(t, got, "expires_at") != ends {
		t.Errorf("got %d %s, want a key that ends at %s", got.Code, got.Body, ends)
	}
	// The answer is lost: revoke the new key and rotate the old one, which ends in an hour by now, again.
	if lost := w.do("DELETE", "/v1/keys/"+field(t, got, "id"), "", ""); lost.Code != 204 {
		t.Fatalf("got %d %s", lost.Code, lost.Body)
	}
	got = post("/v1/keys/"+old+"/rotate", `{"grace":"0s"}`)
	if got.Code != 201 || field(t, got, "expires_at") != ends {
		t.Errorf("got %d %s, want a key that ends at %s", got.Code, got.Body, ends)
	}
	sooner := time.Now().Add(2 * time.Hour).UTC().Format(time.RFC3339)
	got = post("/v1/keys/"+field(t, got, "id")+"/rotate", `{"expires_at":"`+sooner+`"}`)
	if got.Code != 201 || field(t, got, "expires_at") != sooner {
		t.Errorf("got %d %s, want a key that ends at %s", got.Code, got.Body, sooner)
	}
	for body, want := range map[string]int{`{"role":"root"}`: 400, `{"role":"owner"}`: 400, `{}`: 400, `{"role":"scim"}`: 400,
		`{"role":"app","rate":{"per_second":-1}}`: 400, `{"role":"app","name":null}`: 400,
		`{"role":"app","expires_at":"2020-01-01T00:00:00Z"}`: 400, `{"role":"app","expires_at":"soon"}`: 400,
		`{"role":"scim","customer":"acme"}`: 201, `{"role":"app","environment":"sandbox"}`: 400} {
		if got := post("/v1/keys", body); got.Code != want {
			t.Errorf("%s: got %d %s, want %d", body, got.Code, got.Body, want)
		}
	}
	for _, body := range []string{`{"grace":"-1h"}`, `{"grace":"9000h"}`, `{"grace":"soon"}`} {
		if got := post("/v1/keys/"+id+"/rotate", body); got.Code != 400 {
			t.Errorf("%s: got %d %s, want 400", body, got.Code, got.Body)
		}
	}
}

// TestAKeyMakesNoMoreThanItself, and no other than of its environment.
func TestAKeyMakesNoMoreThanItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.do("POST", "/v1/keys", "application/json", `{"role":"developer"}`)
	dev := []string{"Authorization", "Bearer " + field(t, made, "key")}
	var admin string
	keys, err := w.auth.Keys(t.Context(), usher.Production)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if k.Role == auth.RoleAdmin {
			admin = k.ID
		}
	}
	for _, c := range []struct {
		path, body string
		want       int
	}{
		{"/v1/keys", `{"role":"developer"}`, 201}, {"/v1/keys", `{"role":"admin"}`, 403}, {"/v1/keys", `{"role":"app"}`, 403},
		{"/v1/keys/" + admin + "/rotate", `{}`, 403}, // it would have the new admin key in its hands
	} {
		if got := w.do("POST", c.path, "application/json", c.body, dev...); got.Code != c.want {
			t.Errorf("a developer's %s %s: got %d %s, want %d", c.path, c.body, got.Code, got.Body, c.want)
		}
	}
	// Nor one that may call more often.
	slow := []string{"Authorization", "Bearer " + field(t, w.do("POST", "/v1/keys", "application/json",
		`{"role":"admin","rate":{"per_second":100}}`), "key")}
	for path, want := range map[string]int{"/v1/keys": 403, "/v1/keys/" + admin + "/rotate": 403} {
		if got := w.do("POST", path, "application/json", map[bool]string{true: `{"role":"app"}`, false: `{}`}[path == "/v1/keys"],
			slow...); got.Code != want || !strings.Contains(got.Body.String(), "rate limit") {
			t.Errorf("a slow key's %s: got %d %s, want %d", path, got.Code, got.Body, want)
		}
	}
	if got := w.do("POST", "/v1/keys", "application/json", `{"role":"app","rate":{"per_second":100}}`, slow...); got.Code != 201 {
		t.Errorf("as slow a key: got %d %s", got.Code, got.Body)
	}
}

// TestOperatorsOverHTTP: an operator is made, given a role, changed and erased.
func TestOperatorsOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	send := func(method, path, body string, want int) *httptest.ResponseRecorder {
		t.Helper()
		kind := ""
		if body != "" {
			kind = "application/json"
		}
		got := w.do(method, path, kind, body)
		if got.Code != want {
			t.Errorf("%s %s %s: got %d %s, want %d", method, path, body, got.Code, got.Body, want)
		}
		return got
	}
	id := field(t, send("POST", "/v1/operators", `{"name":"Ada","email":"Ada@Example.com"}`, 201), "id")
	one := "/v1/operators/" + id
	got := send("GET", one, "", 200)
	if b := got.Body.String(); !strings.Contains(b, `"email":"ada@example.com"`) || !strings.Contains(b, `"roles":[]`) ||
		!strings.Contains(b, `"active":true`) {
		t.Errorf("got %s", b)
	}
	send("POST", "/v1/operators", `{"email":"ada@example.com"}`, 409)
	send("POST", "/v1/operators", `{"email":"ada"}`, 400)
	got = send("PUT", one+"/roles/support", `{"environment":"production","reason":"joined"}`, 200)
	if b := got.Body.String(); !strings.Contains(b, `"role":"support","environment":"production"`) ||
		!strings.Contains(b, `"granted_by":"key:`) || !strings.Contains(b, `"source":"manual"`) {
		t.Errorf("got %s", b)
	}
	send("PUT", one+"/roles/admin", `{}`, 400)
	send("PUT", one+"/roles/support", `{"environment":"staging"}`, 400)
	send("PUT", one+"/roles/support", `{"until":"2020-01-01T00:00:00Z"}`, 400)
	send("DELETE", one+"/roles/support", "", 404) // that would be the one of both
	send("DELETE", one+"/roles/support?environment=production", "", 204)
	send("PATCH", one, `{"active":false,"name":""}`, 200)
	send("PATCH", one, `{"name":null}`, 400)
	send("DELETE", one, "", 204)
	send("GET", one, "", 404)
	send("PATCH", one, `{}`, 404)
	send("PUT", one+"/roles/support", `{}`, 404)

	// A person at an identity provider is one operator, and in no answer
	// nor in the audit log.
	const sub = `"issuer":"https://login.example.com","subject":"00u1-grace"`
	grace := send("POST", "/v1/operators", `{"name":"Grace",`+sub+`}`, 201)
	if b := grace.Body.String(); !strings.Contains(b, `"linked":true`) || strings.Contains(b, "00u1") {
		t.Errorf("got %s, want linked and no subject", b)
	}
	send("POST", "/v1/operators", `{`+sub+`}`, 409)
	send("POST", "/v1/operators", `{"subject":"00u1-grace"}`, 400) // of no provider
	send("POST", "/v1/operators", `{"issuer":"https://login.example.com"}`, 400)
	send("POST", "/v1/operators", `{"issuer":"https://login.example.com","subject":""}`, 400)
	grown := "/v1/operators/" + field(t, grace, "id")
	ada := "/v1/operators/" + field(t, send("POST", "/v1/operators", `{}`, 201), "id")
	send("PATCH", ada, `{`+sub+`}`, 409)
	send("PATCH", grown, `{"subject":""}`, 400) // an unset variable must not unlink
	send("PATCH", grown, `{"linked":true}`, 400)
	send("PATCH", grown, `{"linked":false,`+sub+`}`, 400)
	send("PATCH", grown, `{"linked":false}`, 200)
	send("PATCH", ada, `{`+sub+`}`, 200)
	if b := send("GET", "/v1/audit", "", 200).Body.String(); strings.Contains(b, "00u1") || !strings.Contains(b, `"linked":true`) {
		t.Errorf("got %s, want the link in the audit log without the subject", b)
	}
	send("DELETE", ada, "", 204)
	send("DELETE", grown, "", 204)

	send("PUT", one+"/roles/support", `{"from":"2020-01-01T00:00:00Z"}`, 400)
	// A key of one customer has nothing to do with those who work for all.
	w.do("PUT", "/v1/customers/acme", "application/json", `{}`)
	acme := []string{"Authorization", "Bearer " + field(t, send("POST", "/v1/keys", `{"role":"admin","customer":"acme"}`, 201), "key")}
	if got := w.do("POST", "/v1/operators", "application/json", `{}`, acme...); got.Code != 403 ||
		!strings.Contains(got.Body.String(), "all customers") {
		t.Errorf("an operator made by a key of acme: got %d %s, want 403", got.Code, got.Body)
	}

	// The last owner stays.
	owner := "/v1/operators/" + field(t, send("POST", "/v1/operators", `{}`, 201), "id")
	send("PUT", owner+"/roles/owner", `{}`, 200)
	send("DELETE", owner, "", 422)
	send("PATCH", owner, `{"active":false}`, 422)
	send("DELETE", owner+"/roles/owner", "", 422)
	// Behind a key there may be anybody.
	send("POST", "/v1/elevations", `{"role":"sales","reason":"x","duration":"1h"}`, 422)
	send("POST", "/v1/elevations/elv_x/approve", `{}`, 422)
	send("GET", "/v1/elevations?review=pending", "", 200)
	send("GET", "/v1/elevations?review=all", "", 400)
	// Operators are not the sandbox's.
	for _, path := range []string{"/v1/operators", owner} {
		if got := w.do("GET", path, "", "", "Authorization", "Bearer "+w.keys["sandbox"]); got.Code != 403 {
			t.Errorf("%s from the sandbox: got %d, want 403", path, got.Code)
		}
	}
}

// TestKeysOfNobodyAndTwice: a key's customer is there, and no key is made twice
// for one that cannot be answered again.
func TestKeysOfNobodyAndTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const path, kind = "/v1/keys", "application/json"
	for _, env := range []string{auth.RoleAdmin, "sandbox"} {
		got := w.do("POST", path, kind, `{"role":"scim","customer":"nobody"}`, "Authorization", "Bearer "+w.keys[env])
		if got.Code != 404 || !strings.Contains(got.Body.String(), `no customer \"nobody\"`) {
			t.Errorf("a key of nobody: got %d %s, want 404", got.Code, got.Body)
		}
	}
	if got := w.do("POST", path, kind, `{"role":"scim","customer":"acme"}`, "Authorization", "Bearer "+w.keys["sandbox"]); got.Code != 404 {
		t.Errorf("a key of the sandbox of production's customer: got %d %s, want 404", got.Code, got.Body)
	}
	if got := w.do("PUT", "/v1/customers/brief", kind, `{}`); got.Code != 201 {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	made := w.do("POST", path, kind, `{"role":"scim","customer":"brief"}`)
	if made.Code != 201 {
		t.Fatalf("got %d %s", made.Code, made.Body)
	}
	if got := w.do("DELETE", "/v1/customers/brief", "", ""); got.Code != 204 {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	rotate := path + "/" + field(t, made, "id") + "/rotate"
	if got := w.do("POST", rotate, kind, `{}`); got.Code != 404 {
		t.Errorf("a key of a customer who is gone, rotated: got %d %s, want 404", got.Code, got.Body)
	}
	// When a key was last used is written in the background, at any moment.
	lastUsed := regexp.MustCompile(`,"last_used_at":"[^"]*"`)
	list := func() string { return lastUsed.ReplaceAllString(w.do("GET", path, "", "").Body.String(), "") }
	before := list()
	for _, p := range []string{path, rotate} {
		body := `{}`
		if p == path {
			body = `{"role":"read"}`
		}
		got := w.do("POST", p, kind, body, "Idempotency-Key", "again")
		if got.Code != 400 || !strings.Contains(got.Body.String(), "header.Idempotency-Key") {
			t.Errorf("%s with an idempotency key: got %d %s, want 400", p, got.Code, got.Body)
		}
	}
	if after := list(); after != before {
		t.Errorf("keys were made:\n%s\n%s", before, after)
	}
}
