// Package real runs the real programs for tests: usher itself on a database of
// its own, and the npm packages that a lock file names.
package real

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Server is a real `usher serve`. Key is an admin's key of the sandbox.
type Server struct{ URL, Key string }

var temporary string // removed at the end

// Main runs the tests of a package and removes the programs that were built.
func Main(m *testing.M) {
	dir, err := os.MkdirTemp("", "usher-oracles-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	temporary = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// built is the real binary, built once.
var built = sync.OnceValues(func() (string, error) {
	name := filepath.Join(temporary, "usher")
	build := exec.Command("go", "build", "-o", name, "./cmd/usher")
	build.Dir = "../../.."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return name, nil
})

// Serve starts usher, with catalog.yaml of the caller's folder applied.
func Serve(t *testing.T) *Server {
	t.Helper()
	dir := t.TempDir()
	usher, err := built()
	if err != nil {
		t.Fatal(err)
	}
	db, port := filepath.Join(dir, "usher.db"), filepath.Join(dir, "address")
	run := func(args ...string) []byte {
		t.Helper()
		out, err := exec.Command(usher, args...).Output()
		if err != nil {
			t.Fatalf("usher %s: %v", strings.Join(args, " "), err)
		}
		return out
	}
	var keys map[string]string
	if err := json.Unmarshal(run("init", "--json", "--db", db), &keys); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(usher, "serve", "--db", db, "--listen", "127.0.0.1:0", "--port-file", port)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		began := time.Now()
		cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if took := time.Since(began); err != nil || took > 5*time.Second {
			t.Errorf("stopping took %s: %v: streams that are open must not be waited for", took, err)
		}
		if t.Failed() {
			t.Logf("the server said:\n%s", log.String())
		}
	})
	var address []byte
	for deadline := time.Now().Add(30 * time.Second); len(address) == 0; time.Sleep(10 * time.Millisecond) {
		address, _ = os.ReadFile(port)
		if time.Now().After(deadline) {
			t.Fatalf("it does not serve:\n%s", log.String())
		}
	}
	s := &Server{URL: "http://" + strings.TrimSpace(string(address)), Key: keys["sandbox"]}
	catalogue, err := os.ReadFile("catalog.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s.Do(t, "PUT", "/v1/catalog", "application/yaml", string(catalogue))
	return s
}

// Do sends one request as an admin and fails the test if it does not succeed.
func (s *Server) Do(t *testing.T, method, path, kind, body string) []byte {
	t.Helper()
	req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.Key)
	req.Header.Set("Content-Type", kind)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		t.Fatalf("%s %s: got %d %s, %v", method, path, res.StatusCode, answer, err)
	}
	return answer
}

// Installed returns a folder outside the tree with the packages that the
// package-lock.json of the caller's folder names. It is kept from run to run. A
// test skips if there is no npm, or if npm cannot reach its registry.
func Installed(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: no %s here: %v", program, err)
		}
	}
	lock, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "usher-tests", hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Copy(t, dir, "package.json", "package-lock.json", ".npmrc")
	done := filepath.Join(dir, "installed")
	if _, err := os.Stat(done); err == nil {
		return dir
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	ci := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts")
	ci.Dir = dir
	if out, err := ci.CombinedOutput(); err != nil {
		for _, away := range []string{"ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "ECONNRESET", "E403"} {
			if bytes.Contains(out, []byte(away)) {
				t.Skipf("SKIPPED: the package registry cannot be reached from here (%s)", away)
			}
		}
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Copy copies files of the caller's folder to dir.
func Copy(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
