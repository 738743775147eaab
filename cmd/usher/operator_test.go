package main

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/server"
)

// TestOperatorsAcceptInvitations: `usher operator invite` prints a link, and the operator
// sets a password with it, without a key.
func TestOperatorsAcceptInvitations(t *testing.T) {
	t.Parallel()
	s, err := server.Open(t.Context(), server.Config{DB: filepath.Join(t.TempDir(), "usher.db"), PublicURL: "https://usher.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	site := httptest.NewServer(s)
	t.Cleanup(site.Close)
	admin, _, err := s.Auth.Create(t.Context(), actorCLI, usher.Production, "", auth.RoleAdmin, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	grace, err := s.Auth.CreateOperator(t.Context(), usher.By{Actor: actorCLI}, auth.NewOperator{Email: "grace@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	link, errs, code := runUsher(t, []string{"USHER_URL=" + site.URL, "USHER_KEY=" + admin}, "operator", "invite", grace.ID)
	if code != 0 || !strings.HasPrefix(link, "https://usher.example.com/login#uso_") {
		t.Fatalf("got %d %s %s, want a link", code, link, errs)
	}
	accept := func(in string) (string, error) {
		c := exec.Command("usher", "operator", "accept")
		c.Env = append(os.Environ(), "USHER_URL="+site.URL, "USHER_KEY=")
		c.Stdin = strings.NewReader(in)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	for in, want := range map[string]string{"": "two lines", link: "two lines", link + "short\n": "at least 12 characters",
		"uso_x\nfour small words here\n": "invitation is unknown"} {
		if out, err := accept(in); err == nil || !strings.Contains(out, want) {
			t.Errorf("%q: got %s, %v, want %q", in, out, err, want)
		}
	}
	if out, err := accept(link + "four small words here\n"); err != nil || out != "the password is set: log in as grace@example.com\n" {
		t.Errorf("got %s, %v", out, err)
	}
	if _, _, err := s.Auth.Login(t.Context(), auth.Visit{Address: "192.0.2.1"}, "grace@example.com", "four small words here"); err != nil {
		t.Error(err)
	}
}
