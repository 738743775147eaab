package directory

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/job"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/testpg"
	"github.com/usher-sh/usher/internal/usage"
)

func TestMain(m *testing.M) { testpg.Main(m) }

const file = `usher: 1
features:
  members: {kind: seats, unit: member}
plans:
  free: {default: true, entitlements: {members: 5}}
permissions:
  report.read: {}
  report.export: {}
  payment.create: {}
  payment.approve: {}
roles:
  viewer: {permissions: [report.read]}
  analyst: {includes: [viewer], permissions: ["report.*"], seat: members}
  payer: {permissions: [payment.create]}
  approver: {permissions: [payment.approve]}
separation:
  four-eyes: {roles: [payer, approver]}
`

const env = usher.Sandbox

// node is one process of usher, as far as directories need it.
type node struct {
	*Service
	db     *store.DB
	live   *live.Live
	usage  *usage.Usage
	decide *decide.Service
}

func newNode(t *testing.T, dsn, name string) *node {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{DSN: dsn, MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	l, err := live.New(t.Context(), live.Config{DB: db, Node: name, PollInterval: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	u := usage.New(usage.Config{DB: db, Live: l, Node: name})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { job.New(job.Config{}, l.Jobs()...).Run(ctx); close(done) }()
	t.Cleanup(func() {
		u.Close(context.Background())
		stop()
		<-done
		db.Close()
	})
	return &node{Service: New(Config{DB: db, Live: l, Direct: u.Direct}), db: db, live: l, usage: u, decide: decide.New(l)}
}

// found applies the catalogue and makes the customer firm with n members.
func (n *node) found(t *testing.T, members int) {
	t.Helper()
	ctx := t.Context()
	if _, err := catalog.New(catalog.Config{DB: n.db, Live: n.live}).Apply(ctx, env, usher.By{}, []byte(file), catalog.Options{}); err != nil {
		t.Fatal(err)
	}
	c := customers.New(customers.Config{DB: n.db, Live: n.live, NewID: func(p string) string { return p }})
	if _, _, err := c.PutCustomer(ctx, env, usher.By{}, customers.Guard{}, "firm", customers.CustomerInput{}); err != nil {
		t.Fatal(err)
	}
	var change Change
	for i := range members {
		change.Members = append(change.Members, usher.Member{ID: fmt.Sprint("m", i), Active: true})
	}
	n.do(t, change)
}

func (n *node) do(t *testing.T, c Change) int64 {
	t.Helper()
	revision, err := n.Apply(t.Context(), env, usher.By{Actor: usher.Actor{Kind: "test"}}, "firm", c)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func (n *node) can(t *testing.T, member, permission string, at time.Time) bool {
	t.Helper()
	d, err := n.decide.Check(t.Context(), env, decide.CheckQuery{Customer: "firm", Member: member, Permission: permission, At: at}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d.Allowed
}

func give(member, role string) usher.Assignment {
	return usher.Assignment{Holder: usher.Holder{ID: member}, Role: role}
}

// each tells a story on both databases.
func each(t *testing.T, story func(t *testing.T, dsn string)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		story(t, filepath.Join(t.TempDir(), "usher.db"))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		story(t, postgres(t))
	})
}

func postgres(t *testing.T) string {
	t.Helper()
	server, err := testpg.Default()
	if err != nil {
		t.Skip("no PostgreSQL binaries: ", err)
	}
	dsn, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

// all runs n at once and returns their errors.
func all(n int, do func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return errs
}

func count(t *testing.T, errs []error, code usher.Code) (done, refused int) {
	t.Helper()
	for _, err := range errs {
		switch {
		case err == nil:
			done++
		case usher.ErrorCode(err) == code:
			refused++
		default:
			t.Errorf("got %v, want %s", err, code)
		}
	}
	return done, refused
}

// TestA08_ExactlyTheSeats: of many who get a role with a seat at once, exactly
// as many do as there are seats, beside others who sit down by themselves.
func TestA08_ExactlyTheSeats(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		n := newNode(t, dsn, "a")
		n.found(t, 20)
		errs := all(24, func(i int) error {
			if i >= 20 {
				d, err := n.usage.PutSeat(t.Context(), env, usage.SeatOp{Customer: "firm", Feature: "members", Holder: fmt.Sprint("guest", i)})
				if err == nil && !d.Allowed {
					err = usher.Errorf(usher.Refused, "no seat")
				}
				return err
			}
			_, err := n.Apply(t.Context(), env, usher.By{}, "firm", Change{Assign: []usher.Assignment{give(fmt.Sprint("m", i), "analyst")}})
			return err
		})
		if done, _ := count(t, errs, usher.Refused); done != 5 {
			t.Errorf("%d sit, want 5", done)
		}
		d, err := n.decide.Check(t.Context(), env, decide.CheckQuery{Customer: "firm", Feature: "members", Amount: "0"}, nil)
		if err != nil || d.Used != 5 {
			t.Errorf("got %d, %v, want 5 used", d.Used, err)
		}
		for i := range 20 {
			if got, want := n.can(t, fmt.Sprint("m", i), "report.export", time.Time{}), errs[i] == nil; got != want {
				t.Errorf("m%d can: %v, want %v", i, got, want)
			}
		}
	})
}

// TestA04_A12_AtOnce: what two changes may not do together, they cannot do at
// once either, on one node or on two.
func TestA04_A12_AtOnce(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		nodes := []*node{newNode(t, dsn, "a")}
		nodes[0].found(t, 10)
		if strings.HasPrefix(dsn, "postgres") {
			nodes = append(nodes, newNode(t, dsn, "b"))
		}
		one := nodes[0]
		for i := range 8 {
			a, b := fmt.Sprint("a", i), fmt.Sprint("b", i)
			one.do(t, Change{Groups: []usher.Group{{ID: a}, {ID: b}}})
			errs := all(2, func(j int) error {
				in, out := a, b
				if j == 1 {
					in, out = b, a
				}
				_, err := nodes[j%len(nodes)].Apply(t.Context(), env, usher.By{}, "firm",
					Change{Join: []usher.Membership{{Group: out, Holder: usher.Holder{Group: true, ID: in}}}})
				return err
			})
			if done, refused := count(t, errs, usher.Refused); done != 1 || refused != 1 {
				t.Errorf("a circle of groups: %v", errs)
			}
			m := fmt.Sprint("m", i)
			errs = all(2, func(j int) error {
				_, err := nodes[j%len(nodes)].Apply(t.Context(), env, usher.By{}, "firm",
					Change{Assign: []usher.Assignment{give(m, []string{"payer", "approver"}[j])}})
				return err
			})
			if done, refused := count(t, errs, usher.Refused); done != 1 || refused != 1 {
				t.Errorf("separated duties: %v", errs)
			}
		}
	})
}

// TestA12_RevokedWithinASecond: on the node that revokes at once, on another
// within a second.
func TestA12_RevokedWithinASecond(t *testing.T) {
	t.Parallel()
	dsn := postgres(t)
	a, b := newNode(t, dsn, "a"), newNode(t, dsn, "b")
	a.found(t, 2)
	for i := range 5 {
		x := give("m1", []string{"viewer", "analyst"}[i%2])
		revision := a.do(t, Change{Assign: []usher.Assignment{x}})
		if d, err := b.decide.Check(t.Context(), env, decide.CheckQuery{Customer: "firm", Member: "m1", Permission: "report.read",
			MinRevision: revision}, nil); err != nil || !d.Allowed {
			t.Fatalf("b knows the revision and says %v, %v", d.Reason, err)
		}
		x.Source = usher.SourceManual
		a.do(t, Change{Unassign: []string{a.AssignmentID(x)}})
		if a.can(t, "m1", "report.read", time.Time{}) {
			t.Error("a still allows it")
		}
		seen := false
		for began := time.Now(); !seen && time.Since(began) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
			seen = !b.can(t, "m1", "report.read", time.Time{})
		}
		if !seen {
			t.Fatal("b still allows it")
		}
	}
	if poll := 200 * time.Millisecond; poll >= time.Second { // live.Config.PollInterval's default
		t.Error("nodes look at each other's changes too seldom")
	}
}

// TestS30_ThePastIsAsItWasKnown: what was allowed then is told of then, whatever
// has changed since: roles, groups, members and the catalogue.
func TestS30_ThePastIsAsItWasKnown(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		n := newNode(t, dsn, "a")
		start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		hour := 0
		pass := func() time.Time {
			hour++
			at := start.Add(time.Duration(hour) * time.Hour)
			if err := n.db.SetClock(t.Context(), env, at, usher.By{Actor: usher.Actor{Kind: "test"}}, at); err != nil {
				t.Fatal(err)
			}
			if err := n.live.Refresh(t.Context(), env); err != nil {
				t.Fatal(err)
			}
			return at.Add(30 * time.Minute)
		}
		pass()
		n.found(t, 1)
		type fact struct {
			at     time.Time
			export bool
			read   bool
		}
		var facts []fact
		x := give("m0", "viewer")
		steps := []struct {
			change       Change
			export, read bool
		}{
			{Change{}, false, false},
			{Change{Assign: []usher.Assignment{x}}, false, true},
			{Change{Groups: []usher.Group{{ID: "g"}, {ID: "h"}}, Join: []usher.Membership{{Group: "g", Holder: usher.Holder{ID: "m0"}},
				{Group: "h", Holder: usher.Holder{Group: true, ID: "g"}}},
				Assign: []usher.Assignment{{Holder: usher.Holder{Group: true, ID: "h"}, Role: "analyst"}}}, true, true},
			{Change{Members: []usher.Member{{ID: "m0"}}}, false, false},
			{Change{Members: []usher.Member{{ID: "m0", Active: true}}}, true, true},
			{Change{DropGroups: []string{"g"}}, false, true},
			{Change{DropMembers: []string{"m0"}}, false, false},
		}
		for _, s := range steps {
			at := pass()
			n.do(t, s.change)
			facts = append(facts, fact{at, s.export, s.read})
		}
		for i, f := range facts {
			if export, read := n.can(t, "m0", "report.export", f.at), n.can(t, "m0", "report.read", f.at); i < len(facts)-1 &&
				(export != f.export || read != f.read) {
				t.Errorf("after step %d: export %v read %v, want %v %v", i, export, read, f.export, f.read)
			}
		}
		if n.can(t, "m0", "report.read", time.Time{}) {
			t.Error("a member that is gone can still read")
		}
		// Before all that is known, nobody could do anything.
		if n.can(t, "m0", "report.read", start.Add(-time.Hour)) {
			t.Error("before the beginning: allowed")
		}
	})
}

// TestA11_SearchIsWhatChecksAllow over a directory with everything in it.
func TestA11_SearchIsWhatChecksAllow(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		n := newNode(t, dsn, "a")
		n.found(t, 30)
		var c Change
		for i := range 30 {
			m := fmt.Sprint("m", i)
			switch i % 4 {
			case 0:
				c.Assign = append(c.Assign, give(m, "viewer"))
			case 1:
				a := give(m, "viewer")
				a.ResourceType, a.ResourceID = "folder", fmt.Sprint("f", i%3)
				c.Assign = append(c.Assign, a)
			case 2:
				c.Members = append(c.Members, usher.Member{ID: m})
				c.Assign = append(c.Assign, give(m, "viewer"))
			}
		}
		for i := range 7 {
			c.Resources = append(c.Resources, usher.Resource{Type: "folder", ID: fmt.Sprint("f", i)})
		}
		n.do(t, c)
		for _, r := range []decide.ResourceRef{{}, {Type: "folder", ID: "f1"}, {Type: "folder"}} {
			var want []string
			for i := range 30 {
				d, err := n.decide.Check(t.Context(), env, decide.CheckQuery{Customer: "firm", Member: fmt.Sprint("m", i), Permission: "report.read",
					Resource: r}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if d.Allowed {
					want = append(want, fmt.Sprint("m", i))
				}
			}
			slices.Sort(want)
			for _, limit := range []int{1, 3, 1000} {
				var got []string
				q := decide.SearchQuery{Customer: "firm", Permission: "report.read", Resource: r, Limit: limit}
				for {
					p, err := n.decide.SearchMembers(t.Context(), env, q)
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range p.Found {
						got = append(got, f.ID)
					}
					if q.After = p.Next; p.Next == "" {
						break
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("on %v, %d at once: got %v, want %v", r, limit, got, want)
				}
			}
		}
		p, err := n.decide.SearchResources(t.Context(), env, decide.SearchQuery{Customer: "firm", Member: "m1", Permission: "report.read",
			Resource: decide.ResourceRef{Type: "folder"}})
		if want := []decide.Found{{Type: "folder", ID: "f1"}}; err != nil || !slices.Equal(p.Found, want) {
			t.Errorf("got %v, %v, want %v", p.Found, err, want)
		}
		p, err = n.decide.SearchPermissions(t.Context(), env, decide.SearchQuery{Customer: "firm", Member: "m0"})
		if want := []decide.Found{{Type: "report", ID: "read"}}; err != nil || !slices.Equal(p.Found, want) {
			t.Errorf("got %v, %v, want %v", p.Found, err, want)
		}
	})
}

// TestSeatsEndWithRoles: a role until a date holds its seat until then.
func TestSeatsEndWithRoles(t *testing.T) {
	t.Parallel()
	n := newNode(t, filepath.Join(t.TempDir(), "usher.db"), "a")
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := func(at time.Time) {
		t.Helper()
		err := n.db.SetClock(t.Context(), env, at, usher.By{Actor: usher.Actor{Kind: "test"}}, at)
		if err = errors.Join(err, n.live.Refresh(t.Context(), env)); err != nil {
			t.Fatal(err)
		}
	}
	clock(at)
	n.found(t, 3)
	short, long := at.Add(time.Hour), at.Add(3*time.Hour)
	x, y := give("m0", "analyst"), give("m0", "analyst")
	x.Until, y.Until = &short, &long
	y.ResourceType = "folder"
	n.do(t, Change{Assign: []usher.Assignment{x, y}})
	used := func() int64 {
		t.Helper()
		d, err := n.decide.Check(t.Context(), env, decide.CheckQuery{Customer: "firm", Feature: "members", Amount: "0"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return d.Used
	}
	if !n.can(t, "m0", "report.export", time.Time{}) || used() != 1 {
		t.Fatal("no seat was taken")
	}
	clock(at.Add(2 * time.Hour))
	if n.can(t, "m0", "report.export", time.Time{}) || used() != 1 {
		t.Error("the first is over, the second keeps the seat")
	}
	clock(long)
	if used() != 0 {
		t.Error("the seat did not end with the last role that asked for it")
	}
}

// TestApplyAt: of several who change what all have read, on one node or on two,
// one succeeds and the others are told to read again.
func TestApplyAt(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		nodes := []*node{newNode(t, dsn, "a")}
		nodes[0].found(t, 1)
		if strings.HasPrefix(dsn, "postgres") {
			nodes = append(nodes, newNode(t, dsn, "b"))
		}
		for i := range 5 {
			basis, err := nodes[0].Read(env, "firm").Revision(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			stale := 0
			for _, err := range all(4, func(j int) error {
				c := Change{Groups: []usher.Group{{ID: fmt.Sprint("g", i, j)}}}
				_, err := nodes[j%len(nodes)].ApplyAt(t.Context(), env, usher.By{}, "firm", c, basis)
				return err
			}) {
				if errors.Is(err, store.ErrStale) {
					stale++
				} else if err != nil {
					t.Error(err)
				}
			}
			if stale != 3 {
				t.Errorf("%d of 4 were told to read again, want 3", stale)
			}
		}
	})
}

// TestA12_RevokedAtOnce: on the node that changes a directory the next decision
// knows, whichever part of it gave what is gone.
func TestA12_RevokedAtOnce(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		n := newNode(t, dsn, "a")
		n.found(t, 1)
		x := give("m0", "viewer")
		x.Source = usher.SourceManual
		group := x
		group.Holder = usher.Holder{Group: true, ID: "g"}
		in := []usher.Membership{{Group: "g", Holder: usher.Holder{ID: "m0"}}}
		n.do(t, Change{Groups: []usher.Group{{ID: "g"}}, Assign: []usher.Assignment{group}})
		for i, s := range []struct {
			change Change
			want   bool
		}{
			{Change{Assign: []usher.Assignment{x}}, true}, {Change{Unassign: []string{n.AssignmentID(x)}}, false},
			{Change{Join: in}, true}, {Change{Leave: in}, false}, {Change{Join: in}, true},
			{Change{Members: []usher.Member{{ID: "m0"}}}, false}, {Change{Members: []usher.Member{{ID: "m0", Active: true}}}, true},
			{Change{Unassign: []string{n.AssignmentID(group)}}, false}, {Change{Assign: []usher.Assignment{group}}, true},
			{Change{DropGroups: []string{"g"}}, false},
		} {
			n.do(t, s.change)
			if got := n.can(t, "m0", "report.read", time.Time{}); got != s.want {
				t.Errorf("step %d: got %v, want %v", i, got, s.want)
			}
		}
	})
}

// TestRolesInUse: a role that one holds still is not dropped, however many held
// it once.
func TestRolesInUse(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		n := newNode(t, dsn, "a")
		n.found(t, 150)
		if _, err := catalog.New(catalog.Config{DB: n.db, Live: n.live}).Apply(t.Context(), env, usher.By{},
			[]byte(file+"custom_roles: {ceiling: payer}\n"), catalog.Options{}); err != nil {
			t.Fatal(err)
		}
		soon := n.live.Now(env).Add(2 * time.Second)
		c := Change{Roles: []usher.Role{{Key: "own", Permissions: []string{"payment.create"}}}}
		last := ""
		for i := range 150 {
			a := give(fmt.Sprint("m", i), "own")
			a.Source = usher.SourceManual
			if id := n.AssignmentID(a); id > last { // in the order of ids, it comes last
				last = id
			}
			c.Assign = append(c.Assign, a)
		}
		for i := range c.Assign {
			if n.AssignmentID(c.Assign[i]) != last {
				c.Assign[i].Until = &soon
			}
		}
		n.do(t, c)
		time.Sleep(time.Until(soon))
		if _, err := n.Apply(t.Context(), env, usher.By{}, "firm", Change{DropRoles: []string{"own"}}); usher.ErrorCode(err) != usher.InUse {
			t.Errorf("got %v, want it in use", err)
		}
		n.do(t, Change{Unassign: []string{last}})
		n.do(t, Change{DropRoles: []string{"own"}})
	})
}
