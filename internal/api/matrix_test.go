package api

import (
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

var update = flag.Bool("update", false, "write docs/reference/permissions.md")

// matrix is docs/reference/permissions.md, made from the route table.
func (a *server) matrix() string {
	var b strings.Builder
	b.WriteString(`# Permissions

Every call of the API takes one permission. What has none is not allowed; a role that does not exist has none. This page
is made from the server's own tables.

## Which role has which permission

` + "`✓` in both environments, `s` in the sandbox only, `p` in production only. What is about operators is of the installation:\n" +
		"only what is held in production gives it, whichever environment a call is about.\n")
	table := func(title string, roles []string) {
		fmt.Fprintf(&b, "\n%s\n\n| permission | risk | %s |\n| --- | --- |%s\n", title, strings.Join(roles, " | "),
			strings.Repeat(" --- |", len(roles)))
		for _, p := range auth.Permissions {
			risk := string(p.Risk(usher.Production))
			if in := string(p.Risk(usher.Sandbox)); in != risk {
				risk += ", in the sandbox " + in
			}
			fmt.Fprintf(&b, "| `%s` | %s |", p, risk)
			for _, role := range roles {
				fmt.Fprintf(&b, " %s |", mark(role, p))
			}
			b.WriteString("\n")
		}
	}
	table("Roles of keys:", keyRoles)
	table("Roles of operators, which keys may have too, `owner` apart:", auth.OperatorRoles)
	b.WriteString("\n## Which call takes which permission\n\n| call | permission | roles in production | in the sandbox also | not in the " +
		"sandbox |\n| --- | --- | --- | --- | --- |\n")
	for _, rt := range a.Routes() {
		if rt.Perm == "" {
			continue
		}
		var in, also, not []string
		for _, role := range everyRole {
			p, s := auth.Allows(role, usher.Production, rt.Perm), auth.Allows(role, usher.Sandbox, rt.Perm)
			if p {
				in = append(in, role)
			}
			if s && !p {
				also = append(also, role)
			}
			if p && !s {
				not = append(not, role)
			}
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n", rt.Pattern, rt.Perm, strings.Join(in, " "), strings.Join(also, " "),
			strings.Join(not, " "))
	}
	b.WriteString("\nThese take no key: ")
	var open []string
	for _, rt := range a.Routes() {
		if rt.Perm == "" {
			open = append(open, "`"+rt.Pattern+"`")
		}
	}
	b.WriteString(strings.Join(open, ", ") + ".\n")
	return b.String()
}

func mark(role string, p auth.Permission) string {
	switch in, s := auth.Allows(role, usher.Production, p), auth.Allows(role, usher.Sandbox, p); {
	case in && s:
		return "✓"
	case in:
		return "p"
	case s:
		return "s"
	}
	return ""
}

var (
	keyRoles  = []string{auth.RoleAdmin, auth.RoleApp, auth.RoleRead, auth.RoleAuthZEN, auth.RoleOFREP, auth.RoleSCIM}
	everyRole = append(slices.Clone(keyRoles), auth.OperatorRoles...)
)

// TestMatrixPage: the page is what the table says. With -update it is written.
func TestMatrixPage(t *testing.T) {
	t.Parallel()
	want := newWorld(t).api.matrix()
	page := filepath.Join("..", "..", "docs", "reference", "permissions.md")
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(page)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what the route table says (%v): go test ./internal/api -run Matrix -update", page, err)
	}
}

// caller sends requests with one key or session.
type caller struct {
	name string
	env  usher.Environment
	role string // "" may do nothing
	send func(method, path, contentType, body string) *httptest.ResponseRecorder
}

// callers is a key of each role that keys may have, in each environment, and
// keys that let nobody in.
func callers(t *testing.T, w *world) (good, bad []caller) {
	t.Helper()
	cli := usher.By{Actor: usher.Actor{Kind: "cli"}}
	from := 0
	add := func(to *[]caller, name string, env usher.Environment, role, header string) {
		*to = append(*to, caller{name, env, role, func(method, path, contentType, body string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(method, path, strings.NewReader(body))
			r.Header.Set("Authorization", header)
			r.Header.Set("Content-Type", contentType)
			from++
			r.RemoteAddr = fmt.Sprintf("10.%d.%d.1:1000", from>>8, from&255) // one address may not fail so often
			out := httptest.NewRecorder()
			w.api.ServeHTTP(out, r)
			return out
		}})
	}
	for _, env := range usher.Environments {
		for _, role := range auth.Roles {
			key, _, err := w.auth.CreateKey(t.Context(), cli, env, auth.NewKey{Role: role, Customer: "acme"})
			if err != nil {
				t.Fatal(err)
			}
			add(&good, role+" in "+string(env), env, role, "Bearer "+key)
		}
		revoked, k, err := w.auth.CreateKey(t.Context(), cli, env, auth.NewKey{Role: auth.RoleAdmin})
		if err == nil {
			err = w.auth.RevokeKey(t.Context(), cli, k.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		add(&bad, "a revoked key of "+string(env), env, "", "Bearer "+revoked)
		expired, _, err := w.auth.CreateKey(t.Context(), cli, env, auth.NewKey{Role: auth.RoleAdmin,
			ExpiresAt: time.Now().Add(5 * time.Millisecond)})
		if err != nil {
			t.Fatal(err)
		}
		add(&bad, "an expired key of "+string(env), env, "", "Bearer "+expired)
	}
	time.Sleep(10 * time.Millisecond)
	add(&bad, "no key", usher.Production, "", "")
	add(&bad, "another's key", usher.Production, "", "Bearer usk_production_key_aaaaaaaaaaaaaaaaaaaaaaaaaa_"+strings.Repeat("a", 59))
	return good, bad
}

// TestLaw_RolesTimesRoutes walks every route with a key of every role in both
// environments: exactly what the matrix allows answers other than 401 and 403,
// and without a live key every keyed route is a 401.
func TestLaw_RolesTimesRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good, bad := callers(t, w)
	calls := 0
	for _, rt := range w.api.Routes() {
		method, path, _ := strings.Cut(rt.Pattern, " ")
		// A type that no route takes, and ids that nobody has: what gets past the
		// permission ends as 404, 415, or at worst as a 400.
		path = sample(path)
		if rt.Perm == "" {
			continue // TestLaw_KeylessRoutes walks it
		}
		if len(method) == 0 || !strings.HasPrefix(path, "/") {
			t.Fatalf("%q is no route", rt.Pattern)
		}
		for _, c := range good {
			calls++
			got := c.send(method, path, "x/y", "{")
			in := got.Code != 401 && got.Code != 403
			if want := auth.Allows(c.role, c.env, rt.Perm); in != want || got.Code >= 500 {
				t.Errorf("%s as %s: got %d %s, want it let in: %v", rt.Pattern, c.name, got.Code, got.Body, want)
			}
		}
		for _, c := range bad {
			calls++
			if got := c.send(method, path, "application/json", "{}"); got.Code != 401 {
				t.Errorf("%s with %s: got %d, want 401", rt.Pattern, c.name, got.Code)
			}
		}
	}
	t.Logf("%d calls", calls)
}

// TestLaw_OperatorsTimesRoutes: the same for operators: what the roles in force
// give is what the route table asks.
func TestLaw_OperatorsTimesRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	cli := usher.By{Actor: usher.Actor{Kind: "cli"}}
	admin, err := w.auth.Authenticate(ctx, "Bearer "+w.keys[auth.RoleAdmin])
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range auth.OperatorRoles {
		for _, held := range append([]usher.Environment{""}, usher.Environments...) {
			o, err := w.auth.CreateOperator(ctx, cli, auth.NewOperator{})
			if err == nil {
				_, err = w.auth.PutRole(ctx, &admin, cli, o.ID, auth.NewRole{Role: role, Environment: held})
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, env := range usher.Environments {
				who, err := w.auth.OperatorIdentity(ctx, o.ID, env, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				for _, rt := range w.api.Routes() {
					if rt.Perm == "" {
						continue
					}
					want := (held == "" || held == env) && auth.Allows(role, env, rt.Perm)
					if strings.HasPrefix(string(rt.Perm), "operators.") || rt.Perm == auth.PermElevationApprove {
						want = held != usher.Sandbox && auth.Allows(role, usher.Production, rt.Perm)
					}
					if got := who.Allows(rt.Perm); got != want {
						t.Errorf("%s as %s of %q in %s: got %v, want %v", rt.Pattern, role, held, env, got, want)
					}
				}
			}
		}
	}
}

// TestKeysOfOneEnvironmentDoNotSeeTheOthers walks what is made with a key of
// production with keys of the sandbox.
func TestKeysOfOneEnvironmentDoNotSeeTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.do("POST", "/v1/keys", "application/json", `{"name":"zq7","role":"read"}`)
	if made.Code != 201 {
		t.Fatalf("got %d %s", made.Code, made.Body)
	}
	id := field(t, made, "id")
	sandbox := []string{"Authorization", "Bearer " + w.keys["sandbox"]}
	if got := w.do("GET", "/v1/keys", "", "", sandbox...); got.Code != 200 || strings.Contains(got.Body.String(), id) ||
		strings.Contains(got.Body.String(), "zq7") {
		t.Errorf("got %d %s, want the sandbox's keys only", got.Code, got.Body)
	}
	for _, call := range [][2]string{{"DELETE", "/v1/keys/" + id}, {"POST", "/v1/keys/" + id + "/rotate"}} {
		body, kind := "", ""
		if call[0] == "POST" {
			body, kind = "{}", "application/json"
		}
		if got := w.do(call[0], call[1], kind, body, sandbox...); got.Code != 404 {
			t.Errorf("%v from the sandbox: got %d %s, want 404", call, got.Code, got.Body)
		}
		if got := w.do(call[0], strings.Replace(call[1], id, "nobody", 1), kind, body, sandbox...); got.Code != 404 {
			t.Errorf("%v of nobody: got %d, want 404", call, got.Code)
		}
	}
	if got := w.do("GET", "/v1/keys", "", ""); !strings.Contains(got.Body.String(), id) {
		t.Errorf("got %s, want production's own key", got.Body)
	}
}
