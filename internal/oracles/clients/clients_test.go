// Package clients proves that clients which are generated from /openapi.json
// compile and work against the real server. It contains only tests.
package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	// The generated Go client imports it.
	_ "github.com/oapi-codegen/runtime"

	"github.com/usher-sh/usher/internal/oracles/real"
)

func TestMain(m *testing.M) { real.Main(m) }

// document writes the server's OpenAPI document to dir and returns its path.
func document(t *testing.T, s *real.Server, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "openapi.json")
	if err := os.WriteFile(name, s.Do(t, http.MethodGet, "/openapi.json", "", ""), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// run runs a program that must succeed, and returns what it prints.
func run(t *testing.T, dir string, s *real.Server, args ...string) []byte {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "USHER_URL="+s.URL, "USHER_KEY="+s.Key, "NO_PROXY=127.0.0.1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return out
}

// TestGo: oapi-codegen makes a client that compiles, works, and keeps every int64.
func TestGo(t *testing.T) {
	s, dir := real.Serve(t), t.TempDir()
	generated, config := filepath.Join(dir, "usher.gen.go"), filepath.Join(dir, "config.yaml")
	text := "package: main\ngenerate: {models: true, client: true}\noutput: " + generated + "\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "", s, "go", "tool", "oapi-codegen", "-config", config, document(t, s, dir))
	// The compiler sees the generated file beside the program; the tree does not.
	here, err := filepath.Abs("testdata/gouse")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(here, "usher.gen.go"): generated}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "gouse")
	run(t, "", s, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, "./testdata/gouse")
	if out := run(t, "", s, program); !bytes.Equal(out, []byte("done\n")) {
		t.Errorf("got %q, want done", out)
	}
}

// TestTypeScript: openapi-typescript makes types with which a program compiles
// in strict mode, and works.
func TestTypeScript(t *testing.T) {
	installed := real.Installed(t)
	s, dir := real.Serve(t), t.TempDir()
	if err := os.Symlink(filepath.Join(installed, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Skipf("SKIPPED: no links here: %v", err)
	}
	for from, to := range map[string]string{"package.json": "package.json", "testdata/use.ts": "use.ts"} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	document(t, s, dir)
	run(t, dir, s, "node", "node_modules/openapi-typescript/bin/cli.js", "openapi.json", "-o", "usher.d.ts")
	run(t, dir, s, "node", "node_modules/typescript/bin/tsc", "--strict", "--exactOptionalPropertyTypes", "--module", "nodenext",
		"--target", "es2022", "--types", "node", "use.ts", "usher.d.ts")
	if out := run(t, dir, s, "node", "use.js"); !bytes.Equal(out, []byte("done\n")) {
		t.Errorf("got %q, want done", out)
	}
}
