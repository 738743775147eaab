// Package ushertest starts a real usher server inside a test: on a temporary
// SQLite file, with a clock that the test moves. It makes up no answer: what your
// code gets is what a server in production would say.
//
// [New] starts a server with a catalogue, [Server.Customer] sets up customers,
// [Server.Advance] lets time pass. Everything is in the production environment,
// and the server ends with the test.
//
// The package follows the version of the module: its names do not change within a
// major version.
package ushertest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/server"
)

// Server is a running server. Its methods are safe for concurrent use. They end
// the test at once if the server refuses what they ask for.
type Server struct {
	URL string // address, such as http://127.0.0.1:41234
	Key string // API key with all permissions

	t      testing.TB
	server *server.Server
	mu     sync.Mutex
	now    time.Time
	made   int // idempotency keys
}

// New starts a server with a catalogue, which is the text of a catalogue file. Its
// clock shows the present second and stands still until Advance. Warnings and
// errors of the server are in the output of the test.
func New(t testing.TB, catalog string) *Server {
	t.Helper()
	s := &Server{t: t, now: time.Now().UTC().Truncate(time.Second)}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	var err error
	file := filepath.Join(t.TempDir(), "usher.db")
	s.server, err = server.Open(context.Background(), server.Config{DB: file, Now: s.Now, Version: "test", Log: log})
	if err != nil {
		t.Fatalf("ushertest: %v", err)
	}
	web := httptest.NewServer(s.server)
	t.Cleanup(func() {
		web.Close()
		if err := s.server.Close(); err != nil {
			t.Errorf("ushertest: %v", err)
		}
	})
	s.URL = web.URL
	system := usher.Actor{Kind: "system"}
	s.Key, _, err = s.server.Auth.Create(context.Background(), system, usher.Production, "ushertest", auth.RoleAdmin, time.Time{})
	if err != nil {
		t.Fatalf("ushertest: %v", err)
	}
	s.send("PUT", "/v1/catalog", "application/yaml", []byte(catalog), nil)
	return s
}

// Now returns the time of the server's clock.
func (s *Server) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Advance moves the server's clock forwards and runs the background jobs that are
// due then, once each. It ends the test if d is negative.
func (s *Server) Advance(d time.Duration) {
	s.t.Helper()
	if d < 0 {
		s.t.Fatalf("ushertest: Advance(%v): the clock only moves forwards", d)
	}
	s.mu.Lock()
	s.now = s.now.Add(d)
	s.mu.Unlock()
	if err := s.server.Jobs.Due(context.Background()); err != nil {
		s.t.Fatalf("ushertest: %v", err)
	}
}

// Customer is one customer of a Server. Its methods return it, so that they can be
// chained.
type Customer struct {
	s            *Server
	id           string
	subscription string // the newest, by On; "" is none
	addons       []addon
}

type addon struct {
	Addon    string `json:"addon"`
	Quantity int    `json:"quantity"`
}

// Customer returns the customer with an id, and creates it if it does not exist.
func (s *Server) Customer(id string) *Customer {
	s.t.Helper()
	_, err := s.server.DB.Customer(context.Background(), usher.Production, id)
	switch {
	case usher.ErrorCode(err) == usher.NotFound:
		s.call("PUT", "/v1/customers/"+url.PathEscape(id), map[string]any{}, nil)
	case err != nil:
		s.t.Fatalf("ushertest: %v", err)
	}
	return &Customer{s: s, id: id}
}

// On subscribes the customer to a plan from now on. It replaces a plan of the same
// family.
func (c *Customer) On(plan string) *Customer {
	c.s.t.Helper()
	var made struct{ ID string }
	c.s.call("POST", "/v1/customers/"+url.PathEscape(c.id)+"/subscriptions", map[string]any{"plan": plan}, &made)
	c.subscription, c.addons = made.ID, nil
	return c
}

// With adds an add-on, n times, to the subscription that On made.
func (c *Customer) With(key string, n int) *Customer {
	c.s.t.Helper()
	if c.subscription == "" {
		c.s.t.Fatalf("ushertest: With(%q): an add-on needs a subscription, so call On first", key)
	}
	c.addons = append(c.addons, addon{key, n})
	c.s.call("PATCH", "/v1/subscriptions/"+c.subscription, map[string]any{"addons": c.addons}, nil)
	return c
}

// Used takes n of a metered feature now. It ends the test if the server denies it.
func (c *Customer) Used(feature string, n int64) *Customer {
	c.s.t.Helper()
	c.s.mu.Lock()
	c.s.made++
	key := "ushertest-" + strconv.Itoa(c.s.made)
	c.s.mu.Unlock()
	var d usher.Decision
	c.s.call("POST", "/v1/consume", map[string]any{"customer": c.id, "feature": feature, "amount": n, "key": key}, &d)
	if !d.Allowed {
		c.s.t.Fatalf("ushertest: Used(%q, %d): customer %q may not use so much: %s", feature, n, c.id, d.Reason)
	}
	return c
}

// call sends in as JSON and reads the answer into out, unless that is nil.
func (s *Server) call(method, path string, in, out any) {
	s.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		s.t.Fatalf("ushertest: %v", err)
	}
	s.send(method, path, "application/json", body, out)
}

// send makes one request, without the network, as the holder of Key.
func (s *Server) send(method, path, contentType string, body []byte, out any) {
	s.t.Helper()
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+s.Key)
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	s.server.ServeHTTP(w, r)
	if w.Code >= http.StatusMultipleChoices {
		s.t.Fatalf("ushertest: %s %s: %s", method, path, refusal(w.Body.Bytes()))
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
		s.t.Fatalf("ushertest: %s %s: %v", method, path, err)
	}
}

// refusal is a problem of the API as text, a line for each of its problems.
func refusal(b []byte) string {
	var p struct {
		Detail string
		Errors []usher.Problem
	}
	if json.Unmarshal(b, &p) != nil || p.Detail == "" {
		return string(b)
	}
	text := p.Detail
	for _, e := range p.Errors {
		text += fmt.Sprintf("\n  %s: %s", e.Location, e.Message)
	}
	return text
}
