package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usher-sh/usher/internal/testpg"
)

// newerUsher builds this usher with one more migration.
func newerUsher(t *testing.T) string {
	t.Helper()
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("SKIPPED: there is no go here to build a newer usher with")
	}
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	migration, overlay, program := filepath.Join(dir, "m.sql"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "newer")
	if err := os.WriteFile(migration, []byte("-- +goose Up\nCREATE TABLE newer (n BIGINT NOT NULL PRIMARY KEY);\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	replace := map[string]string{filepath.Join(root, "internal/store/migrations/postgres/09000_newer.sql"): migration}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err == nil {
		err = os.WriteFile(overlay, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(tool, "build", "-overlay", overlay, "-o", program, ".")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building a newer usher: %v\n%s", err, out)
	}
	return program
}

// TestNewerUsherBesideAnOlder: a server whose database a newer one migrates notices,
// takes nothing more and says why, and answers checks from memory; the newer one works.
func TestNewerUsherBesideAnOlder(t *testing.T) {
	t.Parallel()
	pg, err := testpg.Default()
	if errors.Is(err, testpg.ErrNoBinaries) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	dsn, err := pg.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	program := newerUsher(t)
	key := initialized(t, dsn)
	start := func(program string) string {
		t.Helper()
		port := filepath.Join(t.TempDir(), "port")
		c := exec.Command(program, "serve", "--db", dsn, "--listen", "127.0.0.1:0", "--port-file", port, "--log-level", "error")
		var errs bytes.Buffer
		c.Stderr = &errs
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			c.Process.Kill()
			c.Wait()
			if t.Failed() {
				t.Logf("%s says\n%s", program, &errs)
			}
		})
		url, err := await(port)
		if err != nil {
			t.Fatal(err)
		}
		return url
	}
	older := start("usher")
	sell(t, older, key, "acme")
	newer := start(program)
	calls := 0
	take := func(url string) func() (int, string) {
		return func() (int, string) {
			calls++
			return ask(t, key, "POST", url+"/v1/consume", fmt.Sprintf(`{"customer":"acme","feature":"calls","key":"take-%d"}`, calls))
		}
	}
	if body := until(t, http.StatusServiceUnavailable, take(older)); !strings.Contains(body, "newer usher") {
		t.Errorf("the older one says %s, want why", body)
	}
	status, body := ask(t, key, "GET", older+"/readyz?takes", "")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "newer usher") {
		t.Errorf("readyz: got %d %s", status, body)
	}
	status, body = ask(t, key, "POST", older+"/v1/check", `{"customer":"acme","feature":"calls"}`)
	if status != http.StatusOK || !strings.Contains(body, `"allowed":true`) || !strings.Contains(body, `"degraded":true`) {
		t.Errorf("a check: got %d %s, want yes, from memory", status, body)
	}
	if status, body := take(newer)(); status != http.StatusOK {
		t.Errorf("the newer one: got %d %s", status, body)
	}
	out, errs, code := runUsher(t, nil, "serve", "--db", dsn, "--listen", "127.0.0.1:0")
	if code != exitUsage || !strings.Contains(errs, "run the newer usher") {
		t.Errorf("an older one that starts: got %d %s%s", code, out, errs)
	}
}
