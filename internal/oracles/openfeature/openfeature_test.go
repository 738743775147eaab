// Package openfeature proves that OpenFeature's own SDKs work with usher: each of them,
// unchanged, against the real server. It contains only tests.
package openfeature

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

// server is a real `usher serve` on a database of its own.
type server struct{ url, key, flagsKey string }

var temporary string // removed at the end

func TestMain(m *testing.M) {
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

// serve starts usher, with the catalogue applied.
func serve(t *testing.T) *server {
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
	s := &server{url: "http://" + strings.TrimSpace(string(address)), key: keys["sandbox"]}
	catalogue, err := os.ReadFile("catalog.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s.do(t, "PUT", "/v1/catalog", "application/yaml", string(catalogue))
	var made struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(s.do(t, "POST", "/v1/keys", "application/json", `{"role":"ofrep","name":"flags"}`), &made); err != nil ||
		made.Key == "" {
		t.Fatalf("no key of role ofrep: %v", err)
	}
	s.flagsKey = made.Key
	return s
}

// do sends one request as an admin and fails the test if it does not succeed.
func (s *server) do(t *testing.T, method, path, kind, body string) []byte {
	t.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
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

// installed is a folder outside the tree with the scripts and the packages that
// package-lock.json names, kept from run to run.
func installed(t *testing.T) string {
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
	dir := filepath.Join(cache, "usher-tests", "openfeature-"+hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	copyIn(t, dir, "package.json", "package-lock.json", ".npmrc")
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

func copyIn(t *testing.T, dir string, names ...string) {
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

// TestJavaScript: the SDKs for servers and for browsers, with their providers.
func TestJavaScript(t *testing.T) {
	dir := installed(t)
	copyIn(t, dir, "world.mjs", "server.test.mjs", "web.test.mjs")
	s := serve(t)
	for _, script := range []string{"server.test.mjs", "web.test.mjs"} {
		t.Run(script, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			node := exec.CommandContext(ctx, "node", "--test", "--test-reporter=spec", script)
			node.Dir = dir
			node.Env = append(os.Environ(), "USHER_URL="+s.url, "USHER_KEY="+s.key, "USHER_FLAGS_KEY="+s.flagsKey, "NO_PROXY=127.0.0.1")
			out, err := node.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			} else if !bytes.Contains(out, []byte("fail 0")) || bytes.Contains(out, []byte("tests 0")) {
				t.Errorf("nothing was proved:\n%s", out)
			}
		})
	}
}
