package main

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/engine"
)

const (
	permissions = 1000
	roles       = 100
	people      = 5000
	teams       = 200
	folders     = 500
	assigned    = 20_000
)

func permission(n int) string { return fmt.Sprintf("area%02d.thing%d.do%d", n/100, n/10%10, n%10) }

// company applies a catalogue of 1,000 permissions and 100 roles, and creates customer
// 0 with assignments to its members and groups. Each role gives 20 permissions; one
// in five also gives a pattern, and one in three includes another role. A quarter of
// the assignments is for one folder, and one in ten has an end.
func (w *world) company(b testing.TB, assignments int) {
	b.Helper()
	ctx := context.Background()
	r := rand.New(rand.NewPCG(8, 8))
	text := []byte("usher: 1\nfeatures: {sso: {kind: switch}}\nplans: {pro: {default: true, entitlements: {sso: true}}}\npermissions:\n")
	for i := range permissions {
		text = fmt.Appendf(text, "  %s: {}\n", permission(i))
	}
	text = append(text, "roles:\n"...)
	for i := range roles {
		text = fmt.Appendf(text, "  role%02d: {permissions: [", i)
		for j := range 20 {
			if j > 0 {
				text = append(text, ", "...)
			}
			text = append(text, permission(50*j+r.IntN(50))...)
		}
		if i%5 == 0 {
			text = fmt.Appendf(text, `, "area%02d.thing%d.*"`, r.IntN(10), r.IntN(10))
		}
		text = append(text, ']')
		if i%3 == 0 && i+1 < roles {
			text = fmt.Appendf(text, ", includes: [role%02d]", i+1+r.IntN(roles-i-1))
		}
		text = append(text, "}\n"...)
	}
	_, err := catalog.New(catalog.Config{DB: w.DB, Live: w.Live}).Apply(ctx, env, usher.By{}, text, catalog.Options{})
	must(b, err)
	w.customer(b, customer(0))
	var c directory.Change
	for i := range people {
		c.Members = append(c.Members, usher.Member{ID: person(i), Active: true})
	}
	for i := range teams {
		c.Groups = append(c.Groups, usher.Group{ID: team(i)})
		if i >= teams/4 { // four levels of them
			c.Join = append(c.Join, usher.Membership{Group: team(i / 4), Holder: usher.Holder{Group: true, ID: team(i)}})
		}
	}
	w.change(b, c)
	c = directory.Change{}
	for i := range people {
		c.Join = append(c.Join, usher.Membership{Group: team(r.IntN(teams)), Holder: usher.Holder{ID: person(i)}})
	}
	w.change(b, c)
	end := time.Now().Add(1000 * time.Hour)
	seen := map[usher.Assignment]bool{}
	for left := assignments; left > 0; {
		c = directory.Change{}
		for range min(left, 5000) {
			a := usher.Assignment{Holder: usher.Holder{ID: person(r.IntN(people))}, Role: fmt.Sprintf("role%02d", r.IntN(roles))}
			if len(c.Assign)%100 == 0 {
				a.Holder = usher.Holder{Group: true, ID: team(r.IntN(teams))}
			}
			if r.IntN(4) == 0 {
				a.ResourceType, a.ResourceID = "folder", folder(r.IntN(folders))
			}
			if seen[a] {
				continue
			}
			seen[a] = true
			if r.IntN(10) == 0 {
				a.Until = &end
			}
			c.Assign = append(c.Assign, a)
		}
		left -= len(c.Assign)
		w.change(b, c)
	}
}

func person(n int) string { return fmt.Sprintf("member%04d", n) }
func team(n int) string   { return fmt.Sprintf("team%03d", n) }
func folder(n int) string { return fmt.Sprintf("f%03d", n) }

// customer creates a customer on the plan that all have.
func (w *world) customer(b testing.TB, id string) {
	b.Helper()
	w.founding = id
	_, _, err := w.Customers.PutCustomer(context.Background(), env, usher.By{}, customers.Guard{}, id, customers.CustomerInput{Name: id})
	must(b, err)
}

func (w *world) change(b testing.TB, c directory.Change) {
	b.Helper()
	_, err := w.Directory.Apply(context.Background(), env, usher.By{Actor: usher.Actor{Kind: "cli"}, RequestID: "bench"}, customer(0), c)
	must(b, err)
}

// BenchmarkB8_Access asks random members for random permissions, half of them
// about a folder: once through the evaluator alone, and once as the server does it,
// which also finds the member, the customer and the clock.
func BenchmarkB8_Access(b *testing.B) {
	w := open(b, filepath.Join(b.TempDir(), "usher.db"))
	w.company(b, assigned)
	const many = 1 << 16
	r := rand.New(rand.NewPCG(1, 1))
	now := w.Live.Now(env)
	questions := make([]decide.CheckQuery, many)
	subjects := map[string]*access.Subject{}
	asked := make([]access.Question, many)
	of := make([]*access.Subject, many)
	for i := range questions {
		q := &questions[i]
		q.Customer, q.Member, q.Permission = customer(0), person(r.IntN(people)), permission(r.IntN(permissions))
		if i%2 == 0 {
			q.Resource = decide.ResourceRef{Type: "folder", ID: folder(r.IntN(folders))}
		}
		if subjects[q.Member] == nil {
			s, err := w.Live.Member(b.Context(), env, q.Customer, q.Member, now)
			must(b, err)
			subjects[q.Member] = s
		}
		of[i], asked[i] = subjects[q.Member], access.Question{Permission: q.Permission, ResourceType: q.Resource.Type,
			ResourceID: q.Resource.ID, At: now}
	}
	b.Run("decide", func(b *testing.B) {
		yes, n := 0, 0
		b.ReportAllocs()
		for b.Loop() {
			i := n & (many - 1)
			if of[i].Decide(&asked[i]).Reason == "" {
				yes++
			}
			n++
		}
		b.ReportMetric(100*float64(yes)/float64(n), "%yes")
	})
	b.Run("check", func(b *testing.B) {
		s, ctx := decide.New(w.Live), context.Background()
		buf := new(engine.Buf)
		yes, n := 0, 0
		b.ReportAllocs()
		for b.Loop() {
			d, err := s.Check(ctx, env, questions[n&(many-1)], buf)
			if err != nil {
				b.Fatal(err)
			}
			if d.Allowed {
				yes++
			}
			n++
		}
		b.ReportMetric(100*float64(yes)/float64(n), "%yes")
	})
}

// BenchmarkB10_Recompile changes one assignment among a million, and measures
// from then on until that member, and another one, have been decided about.
func BenchmarkB10_Recompile(b *testing.B) {
	b.Run("spread", func(b *testing.B) { recompile(b, 1000) })
	b.Run("one-customer", func(b *testing.B) { recompile(b, 1) })
}

// recompile has a million assignments in all, of a given number of customers.
func recompile(b *testing.B, many int) {
	file := filepath.Join(b.TempDir(), "usher.db")
	w := open(b, file)
	w.company(b, 1000)
	for i := 1; i < many; i++ {
		w.customer(b, customer(i))
	}
	w.stop()
	bulk(b, file, func(c *sql.Conn) {
		where := `holder = '` + person(0) + `' OR id = (SELECT min(id) FROM assignment WHERE is_group = 0)`
		// Each row is a copy of one that usher wrote, with another holder and id.
		do(b, c, `DELETE FROM assignment WHERE NOT (`+where+`)`)
		have := number(b, c, `SELECT count(*) FROM assignment`)
		holder := `printf('member%04d', n % 5000)`
		multiply(b, c, "assignment", `id = (SELECT min(id) FROM assignment WHERE is_group = 0)`, million, func(column string) string {
			switch column {
			case "id":
				return `printf('asg_%026d', n)`
			case "holder":
				return holder
			case "customer":
				return fmt.Sprintf(`printf('c%%07d', n %% %d)`, many)
			case "body":
				return `json_set(m.body, '$.id', printf('asg_%026d', n), '$.holder.id', ` + holder + `)`
			}
			return ""
		})
		if got := number(b, c, `SELECT count(*) FROM assignment`); got != have+million {
			b.Fatalf("%d assignments, want %d", got, have+million)
		}
	})
	w = open(b, file)
	s := decide.New(w.Live)
	const role = "role07"
	gives := w.Live.Access(env).Customer(nil).Gives(role)[0]
	ask := func(n int, want bool) {
		d, err := s.Check(b.Context(), env, decide.CheckQuery{Customer: customer(0), Member: person(n), Permission: gives,
			Resource: decide.ResourceRef{Type: "thing", ID: "1"}}, nil)
		must(b, err)
		if want && !d.Allowed {
			b.Fatalf("got %+v", d)
		}
	}
	one := func(n int) (apply, same, other float64) {
		ask(n, false)
		ask(n+1, false)
		began := time.Now()
		w.change(b, directory.Change{Assign: []usher.Assignment{{Holder: usher.Holder{ID: person(n)}, Role: role, ResourceType: "thing"}}})
		done := time.Now()
		ask(n, true)
		then := time.Now()
		ask(n+1, false)
		ms := func(d time.Duration) float64 { return d.Seconds() * 1000 }
		return ms(done.Sub(began)), ms(then.Sub(done)), ms(time.Since(done))
	}
	one(1)
	for b.Loop() {
		var apply, same, both []float64
		for i := range 50 {
			x, y, z := one(10 + 2*i)
			apply, same, both = append(apply, x), append(same, y), append(both, z)
		}
		b.ReportMetric(median(apply), "apply-ms")
		b.ReportMetric(median(same), "same-ms")
		b.ReportMetric(maximum(both), "both-ms") // the slowest
	}
	b.ReportMetric(0, "ns/op")
}

func maximum(list []float64) (most float64) {
	for _, v := range list {
		most = max(most, v)
	}
	return most
}
