package access

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/catalogfile"
)

var seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the random worlds: the same again is the same")

// engine is usher's evaluator over a world, possibly with a mistake planted.
type engine struct {
	w        *world
	customer map[*customer]*access.Roles
	subjects map[[2]string]*access.Subject
	spoil    *spoil
}

// spoil is a mistake that usher could make, planted in its input.
type spoil struct {
	name    string
	world   func(*world)        // changes a copy
	facts   func(*access.Facts) // of every member
	ask     func(*access.Question)
	shallow bool // looks through one group only
}

func newEngine(t testing.TB, w *world, s *spoil) *engine {
	e := &engine{w: w, customer: map[*customer]*access.Roles{}, subjects: map[[2]string]*access.Subject{}, spoil: s}
	seen := w
	if s.world != nil {
		seen = w.copy()
		s.world(seen)
	}
	text := seen.catalogue()
	c, err := catalogfile.Parse("world.yaml", text)
	if err != nil {
		t.Fatalf("seed %d: %v\n%s", *seed, err, text)
	}
	conditions, err := catalogfile.Conditions(c)
	if err != nil {
		t.Fatal(err)
	}
	book := access.NewBook(c, conditions)
	for i, cu := range seen.customers {
		e.customer[w.customers[i]] = book.Customer(cu.custom)
	}
	return e
}

// copy is deep where spoils change something.
func (w *world) copy() *world {
	x := *w
	x.roles = append([]usher.Role(nil), w.roles...)
	x.customers = nil
	for _, c := range w.customers {
		y := *c
		y.custom = append([]usher.Role(nil), c.custom...)
		x.customers = append(x.customers, &y)
	}
	return &x
}

// allows returns usher's answer.
func (e *engine) allows(q *question, compiled time.Time) bool {
	key := [2]string{q.customer.id, q.member}
	s := e.subjects[key]
	if s == nil {
		depth := len(q.customer.groups)
		if e.spoil.shallow {
			depth = 1
		}
		f := q.customer.facts(q.member, depth)
		if e.spoil.facts != nil {
			e.spoil.facts(&f)
		}
		s = e.customer[q.customer].Subject(f, compiled)
		e.subjects[key] = s
	}
	said := q.said
	x := access.Question{Permission: q.permission, ResourceType: q.kind, ResourceID: q.id, At: q.at, Stored: q.stored, Said: &said}
	if e.spoil.ask != nil {
		e.spoil.ask(&x)
	}
	a := s.Decide(&x)
	return a.Reason == "" && a.Seat != usher.LegFail
}

// perWorld is how many questions are asked in one world.
const perWorld = 500

// compare asks usher and the oracles in the nth world, and returns where they differ.
func compare(t testing.TB, n uint64, s *spoil, questions int) (cases, yes, differs int, first string) {
	r := rand.New(rand.NewPCG(*seed, n))
	w := newWorld(r, false)
	e, casbin, cedar := newEngine(t, w, s), newCasbinWorld(t, w), newCedarWorld(t, w)
	compiled := near(r)
	for range questions {
		q := w.ask(r, time.Time{})
		got, one, other := e.allows(q, compiled), casbin.allows(t, q), cedar.allows(t, q)
		cases++
		if got {
			yes++
		}
		if one != other { // so that both find what either finds
			t.Errorf("-seed %d, world %d: %s: casbin %v, Cedar %v", *seed, n, q, one, other)
		}
		if got != one || got != other {
			differs++
			if first == "" {
				first = fmt.Sprintf("-seed %d, world %d: %s: usher %v, casbin %v, Cedar %v", *seed, n, q, got, one, other)
			}
		}
	}
	return cases, yes, differs, first
}

// TestTwoOracles: usher, casbin and Cedar answer the same in random worlds.
func TestTwoOracles(t *testing.T) {
	t.Parallel()
	worlds := 240
	if testing.Short() {
		worlds = 20
	}
	t.Logf("-seed %d", *seed)
	var next, cases, yes atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range 2 {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(worlds) && !t.Failed(); n = next.Add(1) {
				c, y, differs, first := compare(t, uint64(n), &spoil{}, perWorld)
				cases.Add(int64(c))
				yes.Add(int64(y))
				if differs > 0 {
					t.Errorf("%d of %d differ; the first: %s", differs, c, first)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d cases in %s, %d%% of them a yes", cases.Load(), time.Since(began).Round(time.Millisecond), 100*yes.Load()/max(cases.Load(), 1))
	if p := 100 * yes.Load() / max(cases.Load(), 1); p < 5 || p > 80 {
		t.Errorf("%d%% of the answers are a yes: the questions prove little", p)
	}
}

// spoils lists mistakes that must be found.
var spoils = []*spoil{
	{name: "segments are no boundary", world: func(w *world) {
		w.everyPattern(func(p string) string {
			if strings.HasSuffix(p, ".*") {
				return p + "*"
			}
			return p
		})
	}},
	{name: "a key means what is under it", world: func(w *world) {
		w.everyRole(func(r *usher.Role) {
			for _, p := range r.Permissions {
				for _, k := range w.permissions {
					if !strings.Contains(p, "*") && strings.HasPrefix(k, p+".") {
						r.Permissions = append(r.Permissions[:len(r.Permissions):len(r.Permissions)], k)
					}
				}
			}
			r.Permissions = unique(r.Permissions)
		})
	}},
	{name: "one group level only", shallow: true},
	{name: "until is included", facts: func(f *access.Facts) {
		for i := range f.Assignments {
			if a := &f.Assignments[i]; a.Until != nil {
				until := a.Until.Add(time.Microsecond)
				a.Until = &until
			}
		}
	}},
	{name: "from is not included", facts: func(f *access.Facts) {
		for i := range f.Assignments {
			if a := &f.Assignments[i]; !a.From.IsZero() {
				a.From = a.From.Add(time.Microsecond)
			}
		}
	}},
	{name: "a seat's end is included", facts: func(f *access.Facts) {
		f.Seats = append([]access.Seat(nil), f.Seats...)
		for i := range f.Seats {
			if s := &f.Seats[i]; !s.Expires.IsZero() {
				s.Expires = s.Expires.Add(time.Microsecond)
			}
		}
	}},
	{name: "a seat is not asked for", world: func(w *world) { w.everyRole(func(r *usher.Role) { r.Seat = "" }) }},
	{name: "a condition is not read", world: func(w *world) { w.everyRole(func(r *usher.Role) { r.When = "" }) }},
	{name: "custom roles know no ceiling", world: func(w *world) {
		if w.ceiling != "" {
			w.roles = append(w.roles, usher.Role{Key: "top", Permissions: []string{"**"}})
			w.ceiling = "top"
		}
	}},
	{name: "one level of includes only", world: func(w *world) {
		whole := w.copy()
		for i := range w.roles {
			r := &w.roles[i]
			add := r.Permissions[:len(r.Permissions):len(r.Permissions)]
			if r.When == "" && r.Seat == "" {
				for _, in := range r.Includes {
					if x := whole.role(in); x.When == "" && x.Seat == "" {
						add = append(add, x.Permissions...)
					}
				}
				r.Includes, r.Permissions = nil, unique(add)
			}
		}
	}},
	{name: "a resource's id is not looked at", facts: func(f *access.Facts) {
		for i := range f.Assignments {
			f.Assignments[i].ResourceID = ""
		}
	}},
	{name: "a resource's type is not looked at", facts: func(f *access.Facts) {
		for i := range f.Assignments {
			f.Assignments[i].ResourceType, f.Assignments[i].ResourceID = "", ""
		}
	}},
	{name: "who is not active", facts: func(f *access.Facts) {
		if f.Member != nil {
			f.Member.Active = true
		}
	}},
	{name: "who is not known", facts: func(f *access.Facts) {
		if f.Member == nil {
			f.Member = &usher.Member{ID: "ghost", Active: true}
		}
	}},
	{name: "what is said does not count", ask: func(q *access.Question) { q.Said = nil }},
	{name: "what is stored overrides", ask: func(q *access.Question) {
		q.Said.Resource = merged(q.Said.Resource, q.Stored)
	}},
}

func unique(list []string) []string {
	var all []string
	seen := map[string]bool{}
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			all = append(all, s)
		}
	}
	return all
}

// everyRole changes the roles of a copy.
func (w *world) everyRole(f func(*usher.Role)) {
	for i := range w.roles {
		f(&w.roles[i])
	}
	for _, c := range w.customers {
		for i := range c.custom {
			f(&c.custom[i])
		}
	}
}

func (w *world) everyPattern(f func(string) string) {
	w.everyRole(func(r *usher.Role) {
		var all []string
		for _, p := range r.Permissions {
			all = append(all, f(p))
		}
		r.Permissions = unique(all)
	})
}

// TestMistakesAreFound: each planted mistake is found in the same kind of worlds, so
// agreement means something.
func TestMistakesAreFound(t *testing.T) {
	t.Parallel()
	for _, s := range spoils {
		asked, found := 0, ""
		for n := uint64(1); n <= 60 && found == ""; n++ {
			var c int
			c, _, _, found = compare(t, n, s, 200)
			asked += c
		}
		if found == "" {
			t.Errorf("%q: not found in %d cases (-seed %d)", s.name, asked, *seed)
			continue
		}
		t.Logf("%q: found in %d cases", s.name, asked)
	}
}
