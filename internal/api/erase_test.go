package api

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
	"github.com/usher-sh/usher/internal/testpg"
)

// allValues is every value of every table of the database at dsn, as text, by
// "table.column".
func allValues(t *testing.T, dsn string) map[string][]byte {
	t.Helper()
	driver, list := "sqlite", `SELECT name FROM sqlite_master WHERE type = 'table'`
	if strings.HasPrefix(dsn, "postgres") {
		driver, list = "pgx", `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	read := func(query string, each func(columns []string, values []any)) {
		t.Helper()
		rows, err := db.QueryContext(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values, into := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			each(columns, values)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	var tables []string
	read(list, func(_ []string, v []any) { tables = append(tables, fmt.Sprintf("%s", v[0])) })
	all := map[string][]byte{}
	for _, table := range tables {
		read(`SELECT * FROM "`+table+`"`, func(columns []string, values []any) {
			for i, v := range values {
				if b, ok := v.([]byte); ok {
					v = string(b)
				}
				all[table+"."+columns[i]] = append(all[table+"."+columns[i]], fmt.Sprint(v, "\n")...)
			}
		})
	}
	return all
}

// secret is in all that is said of a person here, and in nothing else.
const secret = "Zq7Ann"

// traces lists the columns that say something of a person, in any spelling that
// a row may have of it.
func traces(t *testing.T, dsn string) (found []string) {
	t.Helper()
	b64 := strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "=")
	for column, text := range allValues(t, dsn) {
		lower := bytes.ToLower(text)
		for _, form := range []string{secret, fmt.Sprintf("%x", secret), url.QueryEscape(secret)} {
			if bytes.Contains(lower, []byte(strings.ToLower(form))) {
				found = append(found, column+": "+form)
			}
		}
		if bytes.Contains(text, []byte(b64[:len(b64)-1])) {
			found = append(found, column+": base64")
		}
	}
	return found
}

// TestErasure: a member who was put with properties, changed, taken into groups
// and roles, decided about and deleted leaves nothing of who it was in any table,
// nor in the log, and the audit log is whole as before.
func TestErasure(t *testing.T) {
	t.Parallel()
	of := map[string]func(t *testing.T) string{
		"sqlite": func(t *testing.T) string { return filepath.Join(t.TempDir(), "usher.db") },
		"postgres": func(t *testing.T) string {
			server, err := testpg.Default()
			if err != nil {
				t.Skip("no PostgreSQL binaries: ", err)
			}
			dsn, err := server.NewDatabase(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return dsn
		},
	}
	for dialect, dsnOf := range of {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			dsn := dsnOf(t)
			w := scimWorld(t, dsn)
			ask := func(status int, method, path, body string, headers ...string) string {
				t.Helper()
				kind := ""
				if body != "" {
					kind = "application/json"
				}
				got := w.do(method, path, kind, strings.ReplaceAll(body, "ANN", secret), headers...)
				if got.Code != status {
					t.Fatalf("%s %s: got %d %s, want %d", method, path, got.Code, got.Body, status)
				}
				return got.Body.String()
			}
			scim := func(status int, method, path, body string) string {
				t.Helper()
				got := w.scim(method, path, strings.ReplaceAll(body, "ANN", secret))
				if got.Code != status {
					t.Fatalf("%s %s: got %d %s, want %d", method, path, got.Code, got.Body, status)
				}
				var id struct{ ID string }
				if got.Body.Len() > 0 {
					if err := json.Unmarshal(got.Body.Bytes(), &id); err != nil {
						t.Fatal(err)
					}
				}
				return id.ID
			}
			nothing := func(when string) {
				t.Helper()
				if found := traces(t, dsn); len(found) > 0 {
					t.Errorf("%s: %q are left", when, found)
				}
				if log := strings.ToLower(w.log.String()); strings.Contains(log, strings.ToLower(secret)) {
					t.Errorf("%s: the server's log says it:\n%s", when, log)
				}
				r, err := w.db.VerifyAudit(t.Context(), audit.Options{}, nil)
				if err != nil || r.Total != 0 {
					t.Errorf("%s: the audit log: %+v, %v", when, r, err)
				}
			}
			head, err := w.db.AuditHead(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			nothing("before")

			// By HTTP.
			const member = "/v1/customers/acme/members/m1"
			ask(201, "PUT", member, `{"properties":{"userName":"ANN@example.com","name":{"familyName":"ANN"},`+
				`"emails":[{"value":"ANN@example.com"}]}}`)
			if len(traces(t, dsn)) == 0 {
				t.Fatal("what is stored is not found: this test would prove nothing")
			}
			ask(200, "PUT", member, `{"properties":{"userName":"ANN2@example.com","name":{"familyName":"ANN-Two"},"nick":["ANN"]}}`)
			ask(200, "POST", "/v1/customers/acme/directory", `{"members":[{"id":"m1","properties":{"userName":"ANN3@example.com"}},{"id":"m2",`+
				`"properties":{"name":"ANN"}}]}`, "Idempotency-Key", "bulk")
			ask(200, "PUT", "/v1/customers/acme/assignments", `{"member":"m1","role":"viewer","reason":"ticket 7"}`)
			ask(200, "POST", "/v1/check", `{"customer":"acme","member":"m1","permission":"report.read"}`)
			ask(200, "POST", "/access/v1/evaluation", `{"subject":{"type":"user","id":"m1","properties":{"name":"ANN"}},`+
				`"action":{"name":"read"},"resource":{"type":"report","id":"1"},"context":{"customer":"acme","who":"ANN"}}`)
			ask(200, "GET", member, "")
			ask(204, "DELETE", member, "")
			ask(204, "DELETE", "/v1/customers/acme/members/m2", "")
			nothing("by HTTP")

			// By SCIM.
			const user = `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"userName":"ANN@example.com","externalId":"ANN@example.com",` +
				`"displayName":"ANN","name":{"givenName":"ANN","familyName":"ANN"},"emails":[{"value":"ANN@example.com","primary":true}],"active":true}`
			id := scim(201, "POST", "/scim/v2/Users", user)
			if strings.Contains(strings.ToLower(id), strings.ToLower(secret)) {
				t.Errorf("the id %q says who it is: ids are in the log", id)
			}
			second := scim(201, "POST", "/scim/v2/Users", strings.ReplaceAll(user, "ANN", "ANN-2"))
			if got := w.scim("POST", "/scim/v2/Users", strings.ReplaceAll(user, "ANN", secret)); got.Code != 409 {
				t.Errorf("the same user again: got %d %s", got.Code, got.Body)
			}
			scim(200, "GET", `/scim/v2/Users?filter=userName eq "`+secret+`@example.com"`, "")
			group := scim(201, "POST", "/scim/v2/Groups", `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:Group"],"displayName":"Sales",`+
				`"members":[{"value":"`+id+`","display":"ANN"}]}`)
			scim(200, "PUT", "/scim/v2/Users/"+id, strings.ReplaceAll(user, "ANN", "ANN-Other"))
			scim(200, "PATCH", "/scim/v2/Users/"+id, `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],`+
				`"Operations":[{"op":"replace","path":"name.familyName","value":"ANN-Third"},{"op":"replace","path":"userName",`+
				`"value":"ANN4@example.com"}]}`)
			scim(200, "GET", "/scim/v2/Groups/"+group, "")
			ask(200, "PUT", "/v1/customers/acme/assignments", `{"member":"`+id+`","role":"viewer"}`)
			scim(204, "DELETE", "/scim/v2/Users/"+id, "")
			scim(204, "DELETE", "/scim/v2/Users/"+second, "")
			nothing("by SCIM")

			// With its customer, who has a name as well.
			ask(201, "PUT", "/v1/customers/ann", `{"name":"ANN","metadata":{"owner":"ANN"}}`)
			ask(200, "PUT", "/v1/customers/ann", `{"name":"ANN and sons","metadata":{"owner":"ANN"}}`)
			ask(201, "PUT", "/v1/customers/ann/members/m3", `{"properties":{"name":"ANN"}}`)
			ask(204, "DELETE", "/v1/customers/ann", "")
			nothing("with its customer")

			// What was kept before all this still proves the log.
			if r, err := w.db.VerifyAudit(t.Context(), audit.Options{Kept: head.Note, Keys: []string{head.Key}}, nil); err != nil || r.Total != 0 {
				t.Errorf("against the kept checkpoint: %+v, %v", r, err)
			}
			if rows, err := w.db.Audit(t.Context(), usher.AuditQuery{Action: "member."}, 100); err != nil || len(rows) < 4 {
				t.Errorf("got %d rows about members, %v: their ids stay in the log", len(rows), err)
			}
		})
	}
}
