// Package clients proves that clients which are generated from /openapi.json
// compile and work against the real server. It contains only tests.
package clients

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	page := filepath.Join(dir, "main.go")
	if err := os.WriteFile(page, saved(t, "main.go"), 0o644); err != nil {
		t.Fatal(err)
	}
	// The compiler sees the generated file beside the programs; the tree does not.
	here, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(here, "gouse", "usher.gen.go"):  generated,
		filepath.Join(here, "gopage", "usher.gen.go"): generated,
		filepath.Join(here, "gopage", "main.go"):      page,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644); err != nil {
		t.Fatal(err)
	}
	subscribe(t, s)
	for _, c := range []struct{ name, want string }{{"gouse", "done\n"}, {"gopage", "true 9007199254740993 <nil>\n"}} {
		program := filepath.Join(dir, c.name)
		run(t, "", s, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, "./testdata/"+c.name)
		if out := run(t, "", s, program); string(out) != c.want {
			t.Errorf("%s: got %q, want %q", c.name, out, c.want)
		}
	}
}

// saved returns a program of generate-a-client.md.
func saved(t *testing.T, name string) []byte {
	t.Helper()
	page, err := os.ReadFile("../../../docs/how-to/generate-a-client.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)Save this as `" + regexp.QuoteMeta(name) + "`:\n\n```[a-z]+\n(.*?)^```$").FindSubmatch(page)
	if block == nil {
		t.Fatalf("generate-a-client.md has no %s", name)
	}
	return block[1]
}

// subscribe makes the customer of generate-a-client.md, who has used 3 calls.
func subscribe(t *testing.T, s *real.Server) {
	t.Helper()
	s.Do(t, http.MethodPut, "/v1/customers/acme", "application/json", `{}`)
	s.Do(t, http.MethodPost, "/v1/customers/acme/subscriptions", "application/json", `{"plan":"pro"}`)
	s.Do(t, http.MethodPost, "/v1/consume", "application/json", `{"customer":"acme","feature":"calls","amount":3,"key":"order-1"}`)
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
	if err := os.WriteFile(filepath.Join(dir, "app.ts"), saved(t, "app.ts"), 0o644); err != nil {
		t.Fatal(err)
	}
	document(t, s, dir)
	subscribe(t, s)
	run(t, dir, s, "node", "node_modules/openapi-typescript/bin/cli.js", "openapi.json", "-o", "usher.d.ts")
	run(t, dir, s, "node", "node_modules/typescript/bin/tsc", "--strict", "--exactOptionalPropertyTypes", "--module", "nodenext",
		"--target", "es2022", "--types", "node", "use.ts", "app.ts", "usher.d.ts")
	for _, c := range []struct{ name, want string }{{"use.js", "done\n"}, {"app.js", "true unlimited 3\n"}} {
		if out := run(t, dir, s, "node", c.name); string(out) != c.want {
			t.Errorf("%s: got %q, want %q", c.name, out, c.want)
		}
	}
}
