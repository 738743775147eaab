package api

import (
	"path/filepath"
	"testing"

	"github.com/usher-sh/usher/internal/story"
)

// TestS18_NoAnchorMintsAnAllowance: whatever gives a customer its anchor, and
// however soon after its use, the use so far still counts.
func TestS18_NoAnchorMintsAnAllowance(t *testing.T) {
	t.Parallel()
	const catalogue = `An anchor
# S18
-- catalog.yaml --
usher: 1
features: {calls: {kind: metered}, daily: {kind: metered}}
plans:
  free: {default: true, entitlements: {calls: {limit: 5, per: month}, daily: {limit: 10, per: day}}}
  pro: {entitlements: {calls: {limit: 100, per: month}, daily: {limit: 10, per: day}}}
-- story --
at 2026-01-20T00:00:00Z
customer acme
`
	for name, script := range map[string]string{
		"a start in the past, after use": `at 2026-01-20T06:00:30Z
consume acme calls 5 -> yes within_limit
subscribe acme pro starts_at=2026-01-10T00:00:00Z
check acme calls -> yes within_limit used=5 remaining=95 window=2026-01-20T06:00:00Z/2026-02-10T00:00:00Z
at 2026-02-10T00:00:00Z
check acme calls -> yes within_limit used=0 window=2026-02-10T00:00:00Z/2026-03-10T00:00:00Z`,
		"a start in the past, before any use": `at 2026-01-20T06:00:30Z
subscribe acme pro starts_at=2026-01-10T00:00:00Z
check acme calls -> yes within_limit used=0 window=2026-01-10T00:00:00Z/2026-02-10T00:00:00Z`,
		"an anchor with the customer, at once": `subscribe acme pro
consume acme calls 50 -> yes within_limit
consume acme daily 8 -> yes within_limit
customer acme anchor=2026-01-20T12:00:00Z
check acme daily -> yes within_limit used=8 remaining=2 window=2026-01-20T00:00:00Z/2026-01-20T12:00:00Z
check acme calls -> yes within_limit used=50 remaining=50 window=2026-01-20T00:00:00Z/2026-01-20T12:00:00Z`,
		"an anchor with the first subscription, at once": `consume acme calls 5 -> yes within_limit
consume acme daily 8 -> yes within_limit
subscribe acme pro anchor=2026-01-20T12:00:00Z
check acme daily -> yes within_limit used=8 remaining=2
check acme calls -> yes within_limit used=5 remaining=95`,
		"a first subscription in the past, at once": `consume acme calls 5 -> yes within_limit
subscribe acme pro starts_at=2026-01-05T00:00:00Z
check acme calls -> yes within_limit used=5 remaining=95`,
		"twice in a minute": `consume acme calls 5 -> yes within_limit
customer acme anchor=2026-01-10T00:00:00Z
check acme calls -> no limit_reached used=5
at 2026-01-20T00:00:20Z
customer acme anchor=2026-01-15T00:00:00Z
check acme calls -> no limit_reached used=5`,
		"a time zone, at once": `consume acme daily 8 -> yes within_limit
customer acme timezone=Asia/Tokyo
check acme daily -> yes within_limit used=8`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := story.Parse([]byte(catalogue + script + "\n"))
			if err != nil {
				t.Fatal(err)
			}
			a := newActor(t, filepath.Join(t.TempDir(), "usher.db"), s.Lines[0].Args[0])
			a.where = name
			a.apply(s, "catalog.yaml")
			for _, l := range s.Lines[1:] {
				a.where = l.Text
				a.play(s, l)
			}
		})
	}
}
