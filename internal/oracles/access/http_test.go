package access

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/server"
)

// served is usher over a SQLite file at noon, with a world written through its
// own rooms.
type served struct {
	*server.Server
	key string
}

func serve(t *testing.T, w *world) *served {
	t.Helper()
	ctx, env := context.Background(), usher.Production
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("-seed %d: %v", *seed, err)
		}
	}
	made := 0
	s := &served{}
	var err error
	s.Server, err = server.Open(ctx, server.Config{DB: filepath.Join(t.TempDir(), "usher.db"), Now: func() time.Time { return noon },
		NewID: func(prefix string) string { made++; return fmt.Sprint(prefix, made) }})
	must(err)
	t.Cleanup(func() { s.Close() })
	s.key, _, err = s.Auth.Create(ctx, usher.Actor{Kind: "cli"}, env, "oracles", auth.RoleApp, time.Time{})
	must(err)
	// Customers' own roles are made under a ceiling that is lowered later: what
	// is above it then is masked.
	high := w.copy()
	high.roles = append(high.roles, usher.Role{Key: "top", Permissions: []string{"**"}})
	if w.ceiling != "" {
		high.ceiling = "top"
	}
	_, err = s.Catalog.Apply(ctx, env, usher.By{}, high.catalogue(), catalog.Options{})
	must(err)
	for _, c := range w.customers {
		_, _, err = s.Customers.PutCustomer(ctx, env, usher.By{}, customers.Guard{}, c.id, customers.CustomerInput{Name: c.id})
		must(err)
		change := directory.Change{Members: c.members, Join: c.joins, Roles: c.custom, Assign: c.assignments, Resources: c.resources}
		for _, g := range c.groups {
			change.Groups = append(change.Groups, usher.Group{ID: g})
		}
		_, err = s.Directory.Apply(ctx, env, usher.By{Actor: usher.Actor{Kind: "cli"}, RequestID: "test"}, c.id, change)
		must(err)
	}
	low := w.copy()
	low.roles = append(low.roles, high.roles[len(high.roles)-1])
	_, err = s.Catalog.Apply(ctx, env, usher.By{}, low.catalogue(), catalog.Options{})
	must(err)
	// Seats came with the roles (A08): whether someone has one is a fact here.
	for _, c := range w.customers {
		c.seats = map[string][]access.Seat{}
		for _, m := range c.members {
			f, err := s.DB.Directory(env, c.id).Facts(ctx, []string{m.ID}, noon, 0)
			must(err)
			for _, x := range f[m.ID].Seats {
				c.seats[m.ID] = append(c.seats[m.ID], access.Seat{Feature: x.Feature, Expires: x.Expires})
			}
		}
	}
	return s
}

// allows posts a check.
func (s *served) allows(t *testing.T, q *question) bool {
	t.Helper()
	in := map[string]any{"customer": q.customer.id, "member": q.member, "permission": q.permission}
	if !q.at.Equal(noon) {
		in["at"] = q.at
	}
	if q.kind != "" {
		x := map[string]any{"type": q.kind, "id": q.id}
		if q.said.Resource != nil {
			x["properties"] = q.said.Resource
		}
		in["resource"] = x
	}
	if q.said.Context != nil {
		in["context"] = q.said.Context
	}
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest("POST", "/v1/check", strings.NewReader(string(body)))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.key)
	res := httptest.NewRecorder()
	s.ServeHTTP(res, req)
	var out struct {
		Allowed bool
		Legs    *usher.Legs
	}
	if err := json.Unmarshal(res.Body.Bytes(), &out); err != nil || res.Code != 200 || out.Legs == nil {
		t.Fatalf("-seed %d: %s: got %d %s", *seed, body, res.Code, res.Body)
	}
	return out.Allowed
}

// TestTheServer: the same through POST /v1/check of worlds that are in a SQLite
// file, written by catalogue and directory.
func TestTheServer(t *testing.T) {
	t.Parallel()
	worlds, perWorld := 20, 400
	if testing.Short() {
		worlds = 3
	}
	t.Logf("-seed %d", *seed)
	cases, yes := 0, 0
	began := time.Now()
	for n := range worlds {
		r := rand.New(rand.NewPCG(*seed, uint64(1_000_000+n)))
		w := newWorld(r, true)
		s := serve(t, w)
		casbin, cedar := newCasbinWorld(t, w), newCedarWorld(t, w)
		for range perWorld {
			q := w.ask(r, noon)
			q.said.Subject, q.said.Action = nil, nil // a check has no place for them
			got, one, other := s.allows(t, q), casbin.allows(t, q), cedar.allows(t, q)
			cases++
			if got {
				yes++
			}
			if got != one || got != other {
				t.Fatalf("-seed %d, server %d: %s: usher %v, casbin %v, Cedar %v", *seed, n, q, got, one, other)
			}
		}
	}
	t.Logf("%d cases in %s, %d%% of them a yes", cases, time.Since(began).Round(time.Millisecond), 100*yes/cases)
}
