package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/server"
	"github.com/usher-sh/usher/internal/testpg"
)

const trace = "../../../shared/data/llm-trace-code.csv"

const traceCatalog = `
usher: 1
meters:
  calls:   {event: llm.completion}
  tokens:  {event: llm.completion, sum: data.tokens}
  context: {event: llm.completion, sum: data.context}
features:
  calls:   {kind: metered, meter: calls}
  tokens:  {kind: metered, meter: tokens}
  context: {kind: metered, meter: context}
plans:
  metered:
    default: true
    entitlements:
      calls: {limit: 100, per: day, overage: unlimited}
      tokens: {limit: 1000, per: month, overage: unlimited}
      context: unlimited
`

// TestTrace: what usher says was used, per customer and minute, is what the file
// says, added up without usher (S11, S17).
func TestTrace(t *testing.T) {
	t.Parallel()
	f, err := os.Open(trace)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("SKIPPED: %s is not here", trace)
	} else if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	type place struct{ customer, feature, minute string }
	want := map[place]int64{}
	for i, r := range all[1:] {
		at, err := time.Parse("2006-01-02 15:04:05.9999999", r[0])
		if err != nil {
			t.Fatal(err)
		}
		minute := at.Truncate(time.Minute).Format(time.RFC3339)
		customer := fmt.Sprintf("customer-%d", (i+1)%7)
		context, _ := strconv.ParseInt(r[1], 10, 64)
		tokens, _ := strconv.ParseInt(r[2], 10, 64)
		want[place{customer, "calls", minute}]++
		want[place{customer, "context", minute}] += context
		want[place{customer, "tokens", minute}] += tokens
	}
	run := func(t *testing.T, dsn string) {
		s, err := server.Open(t.Context(), server.Config{DB: dsn})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		web := httptest.NewServer(s)
		defer web.Close()
		key, _, err := s.Auth.Create(t.Context(), actorCLI, usher.Sandbox, "", auth.RoleAdmin, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		env := []string{"USHER_URL=" + web.URL, "USHER_KEY=" + key}
		do := func(args ...string) string {
			t.Helper()
			out, errs, code := runUsher(t, env, args...)
			if code != exitDone {
				t.Fatalf("usher %q: exit code %d: %s", args, code, errs)
			}
			return out
		}
		file := filepath.Join(t.TempDir(), "catalog.yaml")
		if err := os.WriteFile(file, []byte(traceCatalog), 0o600); err != nil {
			t.Fatal(err)
		}
		do("clock", "set", "2023-11-17T00:00:00Z")
		do("apply", "--yes", file)
		for i := range 7 {
			do("customer", "put", fmt.Sprintf("customer-%d", i))
		}
		data, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(t.TempDir(), "trace.csv") // the sidecar lies beside it
		if err := os.WriteFile(copied, data, 0o600); err != nil {
			t.Fatal(err)
		}
		ingest := []string{"ingest", copied, "--timezone", "UTC", "--map",
			"id={row},source==azure-trace,type==llm.completion,subject=customer-{row%7}," +
				"time=TIMESTAMP,data.context=ContextTokens,data.tokens=GeneratedTokens"}
		if got, want := do(ingest...), "8819 accepted, 0 duplicates, 0 rejected\n"; got != want {
			t.Errorf("first: got %q, want %q", got, want)
		}
		if got, want := do(ingest...), "0 accepted, 8819 duplicates, 0 rejected\n"; got != want {
			t.Errorf("again: got %q, want %q", got, want)
		}
		got := map[place]int64{}
		for i := range 7 {
			for _, feature := range []string{"calls", "context", "tokens"} {
				customer := fmt.Sprintf("customer-%d", i)
				var answer struct {
					Data []struct {
						Start string
						Value int64
					}
				}
				text := do("usage", customer, feature, "--from", "2023-11-16T00:00:00Z", "--to", "2023-11-17T00:00:00Z", "--window", "minute", "--json")
				if err := json.Unmarshal([]byte(text), &answer); err != nil {
					t.Fatal(err)
				}
				for _, p := range answer.Data {
					got[place{customer, feature, p.Start}] = p.Value
				}
			}
		}
		if len(got) != len(want) {
			t.Errorf("got %d windows, want %d", len(got), len(want))
		}
		for p, n := range want {
			if got[p] != n {
				t.Errorf("%v: got %d, want %d", p, got[p], n)
			}
		}
	}
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); run(t, filepath.Join(t.TempDir(), "usher.db")) })
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		pg, err := testpg.Default()
		if errors.Is(err, testpg.ErrNoBinaries) {
			t.Skip("SKIPPED:", err)
		} else if err != nil {
			t.Fatal(err)
		}
		dsn, err := pg.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		run(t, dsn)
	})
}
