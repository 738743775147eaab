package main

import (
	"database/sql"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/server"
)

// likeID matches what looks like an id that usher made, in any text.
var (
	likeID = regexp.MustCompile(`\b(sub|ovr|gr|rsv|mbr|grp|key|opr|oas|elv|ses|req|node|fsck)_[0-9A-Za-z-]+`)
	formID = regexp.MustCompile(`^[a-z]{2,4}_[0-9a-v]{26}$`)
)

// TestIDsHaveOneForm makes one of everything that usher names by itself, and
// looks at all answers and at all text in the database.
func TestIDsHaveOneForm(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ids.db")
	s, err := server.Open(t.Context(), server.Config{DB: file, PublicURL: "https://usher.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if _, err := (&demo{Server: s, ctx: t.Context(), now: time.Now().UTC().Truncate(time.Second)}).make(); err != nil {
		t.Fatal(err)
	}
	admin, _, err := s.Auth.Create(t.Context(), actorCLI, usher.Sandbox, "", auth.RoleAdmin, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	scim, _, err := s.Auth.CreateKey(t.Context(), usher.By{Actor: actorCLI}, usher.Sandbox, auth.NewKey{Role: auth.RoleSCIM, Customer: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := s.Auth.OwnerToken(t.Context(), usher.By{Actor: actorCLI})
	if err != nil {
		t.Fatal(err)
	}

	seen := map[string]bool{}
	look := func(where, text string) {
		for _, id := range likeID.FindAllString(text, -1) {
			if !formID.MatchString(id) {
				t.Errorf("%s: %q has another form than 2 to 4 letters, _ and 26 characters of 0-9 and a-v", where, id)
			}
			prefix, _, _ := strings.Cut(id, "_")
			seen[prefix] = true
		}
	}
	var cookie string
	send := func(key, method, path, body string) map[string]any {
		t.Helper()
		r := httptest.NewRequest(method, "https://usher.example.com"+path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		if key != "" {
			r.Header.Set("Authorization", "Bearer "+key)
		} else {
			r.Header.Set("Sec-Fetch-Site", "same-origin")
			r.Header.Set("Cookie", cookie)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 300 {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		look(method+" "+path, strings.Join([]string{w.Body.String(), w.Header().Get("X-Request-Id"), w.Header().Get("Location")}, "\n"))
		for _, c := range (&http.Response{Header: w.Header()}).Cookies() {
			cookie = c.Name + "=" + c.Value
		}
		var answer map[string]any
		if w.Body.Len() > 0 && json.Unmarshal(w.Body.Bytes(), &answer) != nil {
			t.Fatalf("%s %s: %s", method, path, w.Body)
		}
		return answer
	}
	send(admin, "POST", "/v1/customers/acme/overrides", `{"feature":"sso","value":true,"reason":"beta","expires":"never"}`)
	send(admin, "POST", "/v1/customers/acme/grants", `{"feature":"exports","amount":5,"reason":"sorry"}`)
	send(admin, "POST", "/v1/reservations", `{"customer":"acme","feature":"exports","amount":1,"key":"k1"}`)
	send(admin, "POST", "/v1/keys", `{"name":"app","role":"app"}`)
	send(admin, "GET", "/v1/customers/acme/subscriptions", "")
	user := send(scim, "POST", "/scim/v2/Users", `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"userName":"zoe@example.com"}`)
	send(scim, "POST", "/scim/v2/Groups", `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:Group"],"displayName":"Ops",`+
		`"members":[{"value":"`+user["id"].(string)+`"}]}`)
	send("", "POST", "/v1/session/owner", `{"token":"`+token+`","email":"ann@example.com","name":"Ann","password":"a long password of ann"}`)
	send("", "POST", "/v1/elevations", `{"role":"owner","duration":"30m","reason":"a test"}`)
	send("", "GET", "/v1/session", "")

	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, table := range texts(t, db, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`) {
		for _, column := range texts(t, db, `SELECT name FROM pragma_table_info('`+table+`')`) {
			for _, text := range texts(t, db, `SELECT DISTINCT CAST("`+column+`" AS TEXT) FROM "`+table+`"
				WHERE typeof("`+column+`") IN ('text', 'blob')`) {
				look(table+"."+column, text)
			}
		}
	}
	for _, prefix := range []string{"sub", "ovr", "gr", "rsv", "mbr", "grp", "key", "opr", "oas", "elv", "ses", "req"} {
		if !seen[prefix] {
			t.Errorf("no id begins with %s_: the test looked at too little", prefix)
		}
	}
}

// texts reads one column.
func texts(t *testing.T, db *sql.DB, query string) (all []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
