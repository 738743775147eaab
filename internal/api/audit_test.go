package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/usher-sh/usher/internal/audit"
	"github.com/usher-sh/usher/internal/auth"
)

// TestAudit_Log: what was written over HTTP is in the log, newest first, by
// page and by filter, and each environment sees its own.
func TestAudit_Log(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 3 {
		w.call(201, "PUT", fmt.Sprintf("/v1/customers/c%d", i), `{"name":"Jane Doe","metadata":{"mail":"jane@example.com"}}`)
	}
	w.call(201, "POST", "/v1/customers/c1/overrides", `{"feature":"sso","value":true,"reason":"ticket 7","expires":"never"}`)
	list := func(query string, headers ...string) []string {
		t.Helper()
		var got []string
		m, r := w.call(200, "GET", "/v1/audit"+query, "", headers...)
		if strings.Contains(r.Body.String(), "Jane") || strings.Contains(r.Body.String(), "jane") {
			t.Errorf("the log holds personal data: %s", r.Body)
		}
		for _, row := range m["data"].([]any) {
			o := row.(map[string]any)
			customer, _ := o["customer"].(string)
			got = append(got, o["action"].(string)+" "+customer)
		}
		return got
	}
	want := func(got []string, list ...string) {
		t.Helper()
		if g, w := strings.Join(got, ", "), strings.Join(list, ", "); g != w {
			t.Errorf("got  %s\nwant %s", g, w)
		}
	}
	want(list("?limit=4"), "override.create c1", "customer.put c2", "customer.put c1", "customer.put c0")
	want(list("?customer=c1"), "override.create c1", "customer.put c1")
	want(list("?action=override."), "override.create c1")
	want(list("?action=customer.put&customer=c2"), "customer.put c2")
	want(list("?action=override"))
	want(list("?actor=nobody"))
	want(list("?to=2001-01-01T00:00:00Z"))
	m, _ := w.call(200, "GET", "/v1/audit?limit=1", "")
	want(list("?limit=2&cursor="+m["next_cursor"].(string)), "customer.put c2", "customer.put c1")
	row := m["data"].([]any)[0].(map[string]any)
	if row["reason"] != "ticket 7" || row["request_id"] != "t" || !strings.HasPrefix(row["actor"].(string), "key:") {
		t.Errorf("got %v", row)
	}
	// The installation's rows are production's to see, a sandbox sees its own.
	if all := list("?limit=1000"); !strings.Contains(strings.Join(all, ","), "audit.key") {
		t.Errorf("got %v, want the log's key, too", all)
	}
	want(list("", "Authorization", "Bearer "+w.keys["sandbox"]), "key.create ")
	w.call(400, "GET", "/v1/audit?cursor=x", "")
	w.call(400, "GET", "/v1/audit?from=yesterday", "")
	w.call(403, "GET", "/v1/audit", "", "Authorization", "Bearer "+w.keys[auth.RoleApp])

	key, _ := w.call(200, "GET", "/v1/audit/key", "")
	head, _ := w.call(200, "GET", "/v1/audit/checkpoint", "")
	c, err := audit.OpenCheckpoint(head["checkpoint"].(string), key["key"].(string))
	if err != nil || float64(c.Size) != head["size"].(float64) {
		t.Errorf("got %v, %v", head, err)
	}
}
