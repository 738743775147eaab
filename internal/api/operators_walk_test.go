package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

// holding is a role that an operator here holds.
type holding struct {
	role  string
	env   usher.Environment // "" is both
	until time.Duration     // from the beginning; 0: permanently
	glass bool              // taken in an emergency
}

// walker is an operator with a live session.
type walker struct {
	name, id, cookie string
	holds            []holding
}

// may is what the holdings give after a time, said in other words than the code
// that is tested: a role counts in its environment; what is about operators
// counts in any where it is held in production; an emergency hands out no rights.
func (s *walker) may(p auth.Permission, env usher.Environment, after time.Duration) bool {
	for _, h := range s.holds {
		if h.until != 0 && after >= h.until {
			continue
		}
		of := env
		switch p {
		case auth.PermOperatorsRead, auth.PermOperatorsWrite, auth.PermElevationApprove:
			of = usher.Production
		}
		if h.glass && (p == auth.PermKeysWrite || p == auth.PermOperatorsWrite || p == auth.PermElevationApprove) {
			continue
		}
		if (h.env == "" || h.env == of) && auth.Allows(h.role, of, p) {
			return true
		}
	}
	return false
}

// TestLaw_SessionsTimesRoutes walks every route with the session of an operator
// of every role, held in production, in the sandbox and in both, calling about
// each environment: exactly what the roles in force give is let in, high-risk actions
// only after a fresh proof, and roles end when they end.
func TestLaw_SessionsTimesRoutes(t *testing.T) {
	t.Parallel()
	o := newOffice(t, nil)
	made := 0
	peer := func() {
		made++
		o.peer = fmt.Sprintf("10.%d.%d.1:1000", made>>8, made&255)
	}
	ask := func(status int, cookie, method, path, body string) string {
		t.Helper()
		got := o.send(method, path, body, cookie)
		if got.Code != status {
			t.Fatalf("%s %s: got %d %s, want %d", method, path, got.Code, got.Body, status)
		}
		return got.Body.String()
	}
	join := func(name string) *walker {
		t.Helper()
		peer()
		s := &walker{name: name}
		s.cookie = o.owner(fmt.Sprintf("p%d@example.com", made))
		var out sessionOut
		mustJSON(t, []byte(ask(200, s.cookie, "GET", "/v1/session", "")), &out)
		s.id = out.Operator.ID
		return s
	}
	boss := join("the owner")
	boss.holds = []holding{{role: auth.RoleOwner}}
	person := func(name string, holds ...holding) *walker {
		t.Helper()
		s := join(name)
		for _, h := range holds {
			until := ""
			if h.until != 0 {
				until = `,"until":"` + time.Now().Add(h.until).UTC().Format(time.RFC3339Nano) + `"`
			}
			env := ""
			if h.env != "" {
				env = `,"environment":"` + string(h.env) + `"`
			}
			if h.role != auth.RoleOwner || env != "" || until != "" {
				ask(200, boss.cookie, "PUT", "/v1/operators/"+s.id+"/roles/"+h.role, `{"reason":"walk"`+env+until+`}`)
			}
		}
		s.holds = holds
		if len(holds) == 0 || holds[0] != (holding{role: auth.RoleOwner}) {
			ask(204, boss.cookie, "DELETE", "/v1/operators/"+s.id+"/roles/owner", "")
		}
		return s
	}
	people := []*walker{boss, person("nobody in particular")}
	for _, role := range auth.OperatorRoles {
		for _, env := range append([]usher.Environment{""}, usher.Environments...) {
			people = append(people, person(fmt.Sprintf("%s of %q", role, env), holding{role: role, env: env}))
		}
	}
	const short = 5 * time.Minute
	temporary := []*walker{
		person("sales until soon", holding{role: auth.RoleSales, until: short}),
		person("an owner until soon, else finance", holding{role: auth.RoleFinance}, holding{role: auth.RoleOwner, env: usher.Production,
			until: short}),
		person("developer in the sandbox until soon, else security", holding{role: auth.RoleSecurity},
			holding{role: auth.RoleDeveloper, env: usher.Sandbox, until: short}),
	}
	elevated := func(base, role string, env usher.Environment, glass bool) {
		t.Helper()
		s := person(fmt.Sprintf("%s, %s of %q for a while, an emergency: %v", base, role, env, glass), holding{role: base})
		body := `{"role":"` + role + `","reason":"walk","duration":"5m","break_glass":` + fmt.Sprint(glass)
		if env != "" {
			body += `,"environment":"` + string(env) + `"`
		}
		var e usher.Elevation
		mustJSON(t, []byte(ask(201, s.cookie, "POST", "/v1/elevations", body+`}`)), &e)
		if !glass {
			ask(200, boss.cookie, "POST", "/v1/elevations/"+e.ID+"/approve", `{}`)
		}
		s.holds = append(s.holds, holding{role, env, short, glass})
		temporary = append(temporary, s)
	}
	for _, glass := range []bool{false, true} {
		elevated(auth.RoleFinance, auth.RoleOwner, "", glass)
		elevated(auth.RoleSupport, auth.RolePricing, usher.Production, glass)
		elevated(auth.RoleSales, auth.RoleDeveloper, usher.Sandbox, glass)
	}
	// A request that nobody has decided gives nothing.
	waits := person("finance who asked", holding{role: auth.RoleFinance})
	ask(201, waits.cookie, "POST", "/v1/elevations", `{"role":"owner","reason":"walk","duration":"1h"}`)
	people = append(people, temporary...)
	people = append(people, waits)

	gone, away, out := person("erased", holding{role: auth.RoleSupport}), person("not active",
		holding{role: auth.RoleSupport}), person("logged out", holding{role: auth.RoleSupport})
	ask(204, boss.cookie, "DELETE", "/v1/operators/"+gone.id, "")
	ask(200, boss.cookie, "PATCH", "/v1/operators/"+away.id, `{"active":false}`)
	ask(204, out.cookie, "DELETE", "/v1/session", "")

	calls := 0
	walk := func(after time.Duration, proved bool, people []*walker) {
		t.Helper()
		o.ahead.Store(int64(after))
		for _, rt := range o.api.Routes() {
			if rt.Perm == "" {
				continue
			}
			method, path, _ := strings.Cut(rt.Pattern, " ")
			for _, s := range people {
				for _, env := range usher.Environments {
					calls++
					peer()
					got := o.send(method, sample(path), "{", s.cookie, "Content-Type", "x/y", "Usher-Environment", string(env))
					in := got.Code != 401 && got.Code != 403
					want, code := s.may(rt.Perm, env, after), usher.Forbidden
					if want && !proved && rt.Perm.Risk(env) == usher.RiskHigh {
						want, code = false, usher.StepUpRequired
					}
					if rt.Perm == auth.PermSCIM {
						want = false // it takes a key that belongs to a customer
					}
					if in != want || got.Code >= 500 || !in && !strings.Contains(got.Body.String(), `"code":"`+string(code)+`"`) &&
						!strings.Contains(rt.Pattern, "/scim/") {
						t.Errorf("%s after %v as %s in %s: got %d %s, want it let in: %v, else %s", rt.Pattern, after, s.name, env, got.Code, got.Body,
							want, code)
					}
				}
			}
		}
	}
	walk(0, true, people)
	walk(short+time.Minute, true, temporary)
	walk(15*time.Minute, false, people)
	for _, s := range []*walker{gone, away, out, {name: "no session", cookie: strings.Repeat("a", 52)}} {
		for _, rt := range o.api.Routes() {
			if rt.Perm == "" {
				continue
			}
			method, path, _ := strings.Cut(rt.Pattern, " ")
			for _, env := range usher.Environments {
				calls++
				peer()
				if got := o.send(method, sample(path), "{}", s.cookie, "Usher-Environment", string(env)); got.Code != 401 {
					t.Errorf("%s as %s in %s: got %d %s, want 401", rt.Pattern, s.name, env, got.Code, got.Body)
				}
			}
		}
	}
	t.Logf("%d calls", calls)
}

func mustJSON(t *testing.T, b []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
}
