package main

import (
	"database/sql"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// fsck beside a running server: clean, then a changed row is named, --repair
// waits for the file's owner to go, mends, and says what it did.
func TestFsck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "usher.db")
	run := func(want int, args ...string) string {
		t.Helper()
		out, errs, code := runUsher(t, nil, args...)
		if code != want {
			t.Fatalf("usher %s ends with %d, want %d: %s%s", strings.Join(args, " "), code, want, out, errs)
		}
		return out + errs
	}
	run(exitUsage, "fsck")
	if out := run(exitUsage, "fsck", "--repair", "--db", file); !strings.Contains(out, "no database at") {
		t.Errorf("repairing what is not there: %s", out)
	}
	if out := run(exitUsage, "fsck", "--db", file); !strings.Contains(out, "no database at") {
		t.Errorf("without a file: %s", out)
	}
	key := map[string]string{}
	if err := json.Unmarshal([]byte(run(exitDone, "init", "--db", file, "--json")), &key); err != nil {
		t.Fatal(err)
	}
	server := startServer(t, dir, "port")
	env := []string{"USHER_URL=" + server.url, "USHER_KEY=" + key["production"]}
	for _, args := range [][]string{
		{"apply", "../../examples/team-chat/catalog.yaml", "--yes"},
		{"customer", "put", "acme"},
	} {
		if out, errs, code := runUsher(t, env, args...); code != exitDone {
			t.Fatalf("usher %v: %s%s", args, out, errs)
		}
	}
	if out := run(exitDone, "fsck", "--db", file); !strings.Contains(out, "they agree") {
		t.Errorf("clean: %s", out)
	}
	db, err := sql.Open("sqlite", file+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`INSERT INTO bucket
		VALUES ('acme', 'production', 'calls', 'day', 0, 86400000000, 0, 5, 0, 4, 0, 0, 0, 0)`); err != nil {
		t.Fatal(err)
	}
	out := run(exitNo, "fsck", "--db", file)
	for _, want := range []string{
		"bucket of production/acme calls day from 1970-01-01T00:00:00Z: the ledger says used 0, reserved 0, stored is used 4, reserved 0\n",
		"differences: 1; with the server stopped, --repair"} {
		if !strings.Contains(out, want) {
			t.Errorf("a changed row: %s; want %q", out, want)
		}
	}
	var report struct {
		Total       int64
		Seconds     float64
		Differences []struct{ What, Customer, Ledger, Stored string }
	}
	if err := json.Unmarshal([]byte(run(exitNo, "fsck", "--db", file, "--json")), &report); err != nil {
		t.Fatal(err)
	}
	if report.Total != 1 || len(report.Differences) != 1 || report.Differences[0].What != "bucket" ||
		report.Differences[0].Customer != "acme" || report.Seconds <= 0 {
		t.Errorf("as JSON: %+v", report)
	}
	if out := run(exitUsage, "fsck", "--db", file, "--repair"); !strings.Contains(out, "owned by another process") {
		t.Errorf("beside its owner: %s", out)
	}
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	server.Wait()
	out = run(exitDone, "fsck", "--db", file, "--repair")
	if !strings.Contains(out, "rewritten: bucket of production/acme") || !strings.Contains(out, "rewritten from the ledger: 1 row;") ||
		!strings.Contains(out, "they agree") {
		t.Errorf("repaired: %s", out)
	}
	run(exitDone, "fsck", "--db", file)
}
