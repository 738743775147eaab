package server

import (
	"database/sql"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// TestAuditHours: a server notes the use of ended hours, each hour
// once, and not that of an hour that may still be written to.
func TestAuditHours(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "usher.db")
	var log strings.Builder
	s, err := Open(t.Context(), Config{DB: file, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	raw, err := sql.Open("sqlite", file+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	hour := time.Now().UTC().Truncate(time.Hour)
	take := func(key string, env usher.Environment, at time.Time) {
		t.Helper()
		if _, err := raw.ExecContext(t.Context(), `INSERT INTO op (key, env, route, body_hash, customer, feature, at, amount, answer)
			VALUES ($1, $2, 'POST /v1/consume', x'01', 'acme', 'api', $3, 1, x'010203')`,
			key, string(env), at.UnixMicro()); err != nil {
			t.Fatal(err)
		}
	}
	take("a", usher.Production, hour.Add(-3*time.Hour))
	take("b", usher.Production, hour.Add(-2*time.Hour))
	take("c", usher.Sandbox, hour.Add(-2*time.Hour))
	take("d", usher.Production, time.Now().Add(time.Hour)) // goes on
	hours := &auditHours{db: s.DB, live: s.Live, ended: map[usher.Environment]time.Time{}}
	noted := func() []string {
		t.Helper()
		rows, err := s.DB.Audit(t.Context(), usher.AuditQuery{Action: audit.ActionHour}, 10)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, e := range rows {
			list = append(list, e.Env+" "+e.Object)
		}
		return list
	}
	note := func() {
		t.Helper()
		if err := hours.note(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	note()
	if got := noted(); len(got) != 0 {
		t.Errorf("after the first run: got %q, want none: what runs may not be written yet", got)
	}
	note()
	note()
	if got := noted(); len(got) != 3 || !strings.Contains(strings.Join(got, "\n"), "production "+hour.Add(-3*time.Hour).Format(time.RFC3339)) {
		t.Errorf("got %q, want production's two hours and the sandbox's one", got)
	}
	r, err := s.DB.VerifyAudit(t.Context(), audit.Options{}, nil)
	if err != nil || r.Total != 0 || r.Hours != 3 {
		t.Errorf("got %+v, %v", r, err)
	}
	if log.Len() > 0 {
		t.Errorf("the server logged:\n%s", log.String())
	}
}
