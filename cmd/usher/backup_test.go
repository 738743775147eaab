package main

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher/internal/testpg"
)

// initialized makes a database and returns production's key.
func initialized(t *testing.T, dsn string) string {
	t.Helper()
	out, errs, code := runUsher(t, nil, "init", "--json", "--db", dsn)
	var keys map[string]string
	if err := json.Unmarshal([]byte(out), &keys); err != nil || code != exitDone {
		t.Fatalf("init: %d %v %s", code, err, errs)
	}
	return keys["production"]
}

// sell puts a catalogue in force and makes customers, each with one call used.
func sell(t *testing.T, url, key string, customers ...string) {
	t.Helper()
	if status, body := ask(t, key, "PUT", url+"/v1/catalog", callsCatalog); status != http.StatusOK {
		t.Fatalf("catalogue: %d %s", status, body)
	}
	for _, c := range customers {
		if status, body := ask(t, key, "PUT", url+"/v1/customers/"+c, `{"name":"Acme"}`); status/100 != 2 {
			t.Fatalf("customer: %d %s", status, body)
		}
		if status, body := ask(t, key, "POST", url+"/v1/consume", takeOne(c)); status != http.StatusOK {
			t.Fatalf("consume: %d %s", status, body)
		}
	}
}

// takeOne is the take of each customer, under its own key.
func takeOne(customer string) string {
	return fmt.Sprintf(`{"customer":%q,"feature":"calls","key":%q}`, customer, "one-"+customer)
}

// wantUsher runs a command that must end with a code, and returns both outputs.
func wantUsher(t *testing.T, want int, args ...string) string {
	t.Helper()
	out, errs, code := runUsher(t, nil, args...)
	if code != want {
		t.Fatalf("usher %s ends with %d, want %d: %s%s", strings.Join(args, " "), code, want, out, errs)
	}
	return out + errs
}

// TestBackupBesideAServer: a backup of a running server has what it answered, is
// checked, and a restore of it serves the same.
func TestBackupBesideAServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, file, restored := filepath.Join(dir, "usher.db"), filepath.Join(dir, "monday.backup"), filepath.Join(dir, "new", "usher.db")
	key := initialized(t, db)
	server := startServer(t, dir, "port")
	sell(t, server.url, key, "acme", "beta")
	out := wantUsher(t, exitDone, "backup", file, "--db", db)
	for _, want := range []string{"private key", "the ledger agrees, the audit log is whole"} {
		if !strings.Contains(out, want) {
			t.Errorf("backup says nothing of %q:\n%s", want, out)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info, err)
	}
	if left, _ := filepath.Glob(file + ".*"); len(left) > 0 {
		t.Errorf("files are left beside the backup: %v", left)
	}
	if out := wantUsher(t, exitUsage, "backup", file, "--db", db); !strings.Contains(out, "exists") {
		t.Errorf("over a backup: %s", out)
	}
	for _, check := range [][]string{{"fsck"}, {"audit", "verify"}} {
		if out := wantUsher(t, exitDone, append(check, "--db", file)...); strings.Contains(out, "warning") {
			t.Errorf("%v of the backup: %s", check, out)
		}
	}
	if out := wantUsher(t, exitUsage, "serve", "--db", file, "--listen", "127.0.0.1:0"); !strings.Contains(out, "usher restore") {
		t.Errorf("serve a backup: %s", out)
	}
	bare := filepath.Join(dir, "bare.db") // what a plain copy of the file is
	if b, err := os.ReadFile(db); err != nil || os.WriteFile(bare, b, 0o600) != nil {
		t.Fatal(err)
	}
	if out := wantUsher(t, exitDone, "fsck", "--db", bare); !strings.Contains(out, "warning: ") || !strings.Contains(out, "without its log") {
		t.Errorf("fsck of the bare file: %s", out)
	}
	if out := wantUsher(t, exitDone, "audit", "verify", "--db", bare); !strings.Contains(out, "without its log") {
		t.Errorf("audit verify of the bare file: %s", out)
	}

	if err := os.Mkdir(filepath.Dir(restored), 0o700); err != nil {
		t.Fatal(err)
	}
	var r struct {
		Rows        int64
		NewAuditKey bool `json:"new_audit_key"`
		Verified    struct{ Differences, Faults int64 }
	}
	if err := json.Unmarshal([]byte(wantUsher(t, exitDone, "restore", file, "--db", restored, "--json")), &r); err != nil {
		t.Fatal(err)
	}
	if r.Rows < 20 || !r.NewAuditKey || r.Verified.Differences+r.Verified.Faults != 0 {
		t.Errorf("got %+v", r)
	}
	again := startServer(t, filepath.Dir(restored), "port")
	status, body := ask(t, key, "POST", again.url+"/v1/check", `{"customer":"acme","feature":"calls"}`)
	if status != http.StatusOK || !strings.Contains(body, `"used":1,`) {
		t.Errorf("the restored server: %d %s", status, body)
	}
	out = wantUsher(t, exitDone, "audit", "show", "--db", restored, "--action", "database.epoch", "--json")
	if strings.Count(out, "epo_") < 3 || !strings.Contains(out, `"by":"restore"`) {
		t.Errorf("the log's epochs: %s", out)
	}
}

// TestCopyBetweenDatabases: SQLite to PostgreSQL and back, killed on the way; the
// server answers as before.
func TestCopyBetweenDatabases(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Default()
	if errors.Is(err, testpg.ErrNoBinaries) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	middle, err := pg.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first, last := filepath.Join(dir, "usher.db"), filepath.Join(dir, "last", "usher.db")
	if err := os.Mkdir(filepath.Dir(last), 0o700); err != nil {
		t.Fatal(err)
	}
	key := initialized(t, first)
	server := startServer(t, dir, "port")
	sell(t, server.url, key, "acme", "beta", "gamma")
	if out := wantUsher(t, exitUsage, "copy", "--from", first, "--to", middle); !strings.Contains(out, "stop it first") {
		t.Errorf("beside a server: %s", out)
	}
	server.Process.Signal(os.Interrupt)
	server.Wait()
	raw, err := sql.Open("sqlite", first)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 { // enough that a kill finds it at work
		if _, err := raw.Exec(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
			INSERT INTO op SELECT 'http-' || ? || '-' || i, 'production', 'PUT /v1/x', x'01', '', '', 1, 0, CAST('http' AS BLOB)
			FROM n`, i); err != nil {
			t.Fatal(err)
		}
	}
	raw.Close()
	killed := 0
	for i := 0; ; i++ {
		c := exec.Command("usher", "copy", "--from", first, "--to", middle, "--json")
		var out, errs strings.Builder
		c.Stdout, c.Stderr = &out, &errs
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if i < 3 {
			kill := time.AfterFunc(time.Duration(i+1)*150*time.Millisecond, func() { c.Process.Kill() })
			err = c.Wait()
			kill.Stop()
		} else {
			err = c.Wait()
		}
		if err == nil {
			break
		}
		if killed > 0 && strings.Contains(errs.String(), "is a database already") {
			break // the last kill came after the copy was whole
		}
		if killed++; c.ProcessState.ExitCode() >= 0 {
			t.Fatalf("copy: %v\n%s", err, &errs)
		}
	}
	t.Logf("killed %d times", killed)
	out := wantUsher(t, exitDone, "copy", "--from", middle, "--to", last)
	for _, want := range []string{"the answers of 3 customers are the same", "the audit log is whole", "session"} {
		if !strings.Contains(out, want) {
			t.Errorf("copy says nothing of %q:\n%s", want, out)
		}
	}
	if out := wantUsher(t, exitUsage, "copy", "--from", first, "--to", middle); !strings.Contains(out, "is a database already") {
		t.Errorf("onto a database: %s", out)
	}
	again := startServer(t, filepath.Dir(last), "port")
	for _, c := range []string{"acme", "beta", "gamma"} {
		status, body := ask(t, key, "POST", again.url+"/v1/consume", takeOne(c))
		if status != http.StatusOK || !strings.Contains(body, `"replayed":true`) {
			t.Errorf("%s: %d %s, want the stored answer", c, status, body)
		}
	}
	file := filepath.Join(dir, "postgres.backup")
	wantUsher(t, exitDone, "backup", file, "--db", middle)
	wantUsher(t, exitDone, "fsck", "--db", file)
}
