package auth

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
)

// TestOnePureEvaluator: what operators may do is what the evaluator of customers'
// members says of the same roles, over catalogues of our own: for random
// operators, instants and environments, each permission.
func TestOnePureEvaluator(t *testing.T) {
	t.Parallel()
	books := map[usher.Environment]*access.Roles{}
	for _, env := range usher.Environments {
		books[env] = access.NewBook(Plane(env), nil).Customer(nil)
	}
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	instant := rapid.Custom(func(t *rapid.T) time.Time {
		return start.Add(time.Duration(rapid.IntRange(0, 8).Draw(t, "hour")) * time.Hour)
	})
	rapid.Check(t, func(t *rapid.T) {
		roles := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) usher.OperatorRole {
			r := usher.OperatorRole{Role: rapid.SampledFrom(append([]string{"nonsense"}, OperatorRoles...)).Draw(t, "role"),
				Environment: rapid.SampledFrom([]usher.Environment{"", usher.Production, usher.Sandbox}).Draw(t, "held in"),
				From:        instant.Draw(t, "from"), Source: rapid.SampledFrom([]usher.Source{usher.SourceManual, usher.SourceSSO,
					usher.SourceRequest, usher.SourceBreakGlass}).Draw(t, "source")}
			if rapid.Bool().Draw(t, "ends") {
				u := instant.Draw(t, "until")
				r.Until = &u
			}
			return r
		}), 0, 5).Draw(t, "roles")
		now := instant.Draw(t, "now")
		var inForce []usher.OperatorRole
		for _, r := range roles {
			if r.InForce(now) {
				inForce = append(inForce, r)
			}
		}
		// The evaluator is asked about all roles: which are in force it finds out itself.
		subject := func(env usher.Environment, rights bool) *access.Subject {
			f := access.Facts{Member: &usher.Member{ID: "opr_1", Active: true}}
			for _, r := range roles {
				if r.Environment != "" && r.Environment != env || rights && r.Source == usher.SourceBreakGlass {
					continue // held elsewhere; an emergency hands out no rights
				}
				f.Assignments = append(f.Assignments, usher.Assignment{Role: r.Role, From: r.From, Until: r.Until, Source: r.Source})
			}
			return books[env].Subject(f, now)
		}
		for _, env := range usher.Environments {
			got := held(inForce, env, time.Unix(0, 0))
			for _, p := range Permissions {
				of := env
				if ofInstallation.has(p) {
					of = usher.Production // operators are of the installation
				}
				a := subject(of, handsOn.has(p)).Decide(&access.Question{Permission: string(p), At: now})
				if want := a.Role == usher.LegPass; got.has(p) != want {
					t.Fatalf("%s in %s at %s of %+v: got %v, and the evaluator says %v (%s)", p, env, now, roles, got.has(p), want, a.Reason)
				}
			}
		}
	})
	// And keys, whose roles are the same table.
	for _, env := range usher.Environments {
		for _, role := range Roles {
			s := books[env].Subject(access.Facts{Member: &usher.Member{ID: "key", Active: true}, Assignments: []usher.Assignment{{Role: role}}},
				start)
			for _, p := range Permissions {
				want := s.Decide(&access.Question{Permission: string(p), At: start}).Role == usher.LegPass &&
					!(env == usher.Sandbox && ofInstallation.has(p))
				if got := Allows(role, env, p); got != want {
					t.Errorf("a key of role %s in %s, %s: got %v, and the evaluator says %v", role, env, p, got, want)
				}
			}
		}
	}
}
