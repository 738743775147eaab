package directory

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalog"
)

func (n *node) catalog(t *testing.T, pairs ...string) {
	t.Helper()
	if _, err := catalog.New(catalog.Config{DB: n.db, Live: n.live}).Apply(t.Context(), env, usher.By{},
		[]byte(strings.NewReplacer(pairs...).Replace(file)), catalog.Options{}); err != nil {
		t.Fatal(err)
	}
}

// Holders keep their seats when the plan shrinks, but a seat that is freed beyond it
// goes to nobody: a swap is refused, and the other holders keep theirs (A08).
func TestA08_NoSwapBeyondThePlan(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		n := newNode(t, dsn, "a")
		n.found(t, 8)
		var change Change
		for _, id := range []string{"m0", "m1", "m2", "m3", "m4"} {
			change.Assign = append(change.Assign, give(id, "analyst"))
		}
		n.do(t, change)
		n.catalog(t, "members: 5", "members: 3")
		gone := give("m0", "analyst")
		gone.Source = usher.SourceManual
		for _, c := range []Change{
			{Unassign: []string{n.AssignmentID(gone)}, Assign: []usher.Assignment{give("m5", "analyst")}},
			{DropMembers: []string{"m0", "m1"}, Assign: []usher.Assignment{give("m5", "analyst")}},
		} {
			_, err := n.Apply(t.Context(), env, usher.By{}, "firm", c)
			if usher.ErrorCode(err) != usher.Refused {
				t.Errorf("got %v, want refused: 4 sit, or 3, and the plan gives 3", err)
			}
		}
		n.do(t, Change{DropMembers: []string{"m0", "m1", "m2"}, Assign: []usher.Assignment{give("m5", "analyst")}})
		if !n.can(t, "m5", "report.export", n.live.Now(env)) {
			t.Error("3 went and 1 came: there is room")
		}
	})
}

// meanwhile is a JSON value that does something whenever it is written.
type meanwhile func()

func (m meanwhile) MarshalJSON() ([]byte, error) {
	m()
	return []byte("1"), nil
}

// A change that was computed by one catalogue is not made under another.
func TestCatalogueBetween(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		n := newNode(t, dsn, "a")
		n.found(t, 2)
		times := 0
		// Properties are written as JSON when they are checked, between reading and writing.
		checked := meanwhile(func() {
			if times++; times == 1 {
				n.catalog(t, "  viewer: {permissions: [report.read]}\n", "", "includes: [viewer], ", "")
			}
		})
		_, err := n.Apply(t.Context(), env, usher.By{}, "firm", Change{Assign: []usher.Assignment{give("m0", "viewer")},
			Members: []usher.Member{{ID: "m0", Active: true, Properties: map[string]any{"x": checked}}}})
		if usher.ErrorCode(err) != usher.Invalid || times != 2 {
			t.Errorf("got %v after %d attempts, want invalid: the role is gone", err, times)
		}
	})
}

// Properties may hold any text; what no filter can ask for is found by none.
func TestAnyTextIsKept(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		n := newNode(t, dsn, "a")
		n.found(t, 1)
		long := make([]byte, 20_000)
		for i := range long {
			long[i] = byte('a' + i*i%23 + i/7%3)
		}
		for _, s := range []string{"a\x00b", string(long)} {
			n.do(t, Change{Members: []usher.Member{{ID: "m0", Active: true, Properties: map[string]any{"userName": s, "externalId": s}}},
				Groups: []usher.Group{{ID: "g", Properties: map[string]any{"externalId": s}}}})
			m, err := n.Read(env, "firm").Member(t.Context(), "m0")
			if err != nil || m.Properties["userName"] != s {
				t.Errorf("got %.100v %v", m, err)
			}
		}
		_, err := n.Apply(t.Context(), env, usher.By{Reason: "r"}, "firm",
			Change{Groups: []usher.Group{{ID: "g", Title: strings.Repeat("t", 300) + "\x00"}}})
		if usher.ErrorCode(err) != usher.Invalid {
			t.Errorf("got %v, want invalid: a title with a NUL", err)
		}
	})
}

// A customer's own roles are compiled whenever its members are read: what that
// costs is bounded.
func TestRolesAreBounded(t *testing.T) {
	t.Parallel()
	n := newNode(t, filepath.Join(t.TempDir(), "usher.db"), "a")
	n.found(t, 1)
	n.catalog(t, "separation:", "custom_roles: {ceiling: viewer}\nseparation:")
	roles := func(many int) (c Change) {
		for i := range many {
			r := usher.Role{Key: fmt.Sprintf("r%04d", i), Permissions: []string{"report.read"}}
			for j := range i {
				r.Includes = append(r.Includes, fmt.Sprintf("r%04d", many-1-i+j+1))
			}
			r.Key = fmt.Sprintf("r%04d", many-1-i)
			c.Roles = append(c.Roles, r)
		}
		return c
	}
	began := time.Now()
	_, err := n.Apply(t.Context(), env, usher.By{}, "firm", roles(600))
	if usher.ErrorCode(err) != usher.Invalid {
		t.Errorf("got %v, want invalid: 179,700 includes", err)
	}
	var patterns Change
	for i := range 2 {
		r := usher.Role{Key: fmt.Sprint("p", i)}
		for j := range 501 {
			r.Permissions = append(r.Permissions, fmt.Sprintf("x%d.*", j))
		}
		patterns.Roles = append(patterns.Roles, r)
	}
	if _, err := n.Apply(t.Context(), env, usher.By{}, "firm", patterns); usher.ErrorCode(err) != usher.Invalid {
		t.Errorf("got %v, want invalid: 1,002 patterns", err)
	}
	n.do(t, roles(140))
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}
