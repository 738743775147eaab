package openfeature

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher/internal/oracles/real"
)

// TestDocs: what use-openfeature.md shows prints what its comments say.
func TestDocs(t *testing.T) {
	dir := real.Installed(t)
	page, err := os.ReadFile("../../../docs/how-to/use-openfeature.md")
	if err != nil {
		t.Fatal(err)
	}
	scripts := t.TempDir()
	// The packages are found from where the scripts are.
	if err := os.Symlink(filepath.Join(dir, "node_modules"), filepath.Join(scripts, "node_modules")); err != nil {
		t.Skipf("SKIPPED: no links here: %v", err)
	}
	want := map[string][]string{}
	for _, block := range regexp.MustCompile("(?ms)Save this as `([^`]+)`:\n\n```[a-z]+\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		if err := os.WriteFile(filepath.Join(scripts, block[1]), []byte(block[2]), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, line := range regexp.MustCompile(`(?m)console\.log.* // ([^ ,\n]+)`).FindAllStringSubmatch(block[2], -1) {
			want[block[1]] = append(want[block[1]], line[1])
		}
	}
	if len(want["app.mjs"]) != 4 || len(want["page.mjs"]) != 2 {
		t.Fatalf("the page was not understood: got %v", want)
	}
	browser := "import { EventSource } from 'eventsource';\nglobalThis.EventSource ??= EventSource;\n"
	if err := os.WriteFile(filepath.Join(scripts, "browser.mjs"), []byte(browser), 0o644); err != nil {
		t.Fatal(err)
	}
	s := serve(t)
	catalogue, err := os.ReadFile(filepath.Join(scripts, "catalog.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s.Do(t, "PUT", "/v1/catalog", "application/yaml", string(catalogue))
	s.Do(t, "PUT", "/v1/customers/acme", "application/json", `{}`)
	node := func(args ...string) <-chan string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "node", args...)
		cmd.Dir, cmd.Stderr = scripts, os.Stderr
		cmd.Env = append(os.Environ(), "USHER_URL="+s.URL, "USHER_FLAGS_KEY="+s.flagsKey, "NO_PROXY=127.0.0.1")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines := make(chan string, 10)
		go func() {
			defer close(lines)
			for in := bufio.NewScanner(out); in.Scan(); {
				lines <- in.Text()
			}
		}()
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return lines
	}
	next := func(name string, lines <-chan string, want string) {
		t.Helper()
		select {
		case got := <-lines:
			if got != want {
				t.Errorf("%s prints %q, want %q", name, got, want)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s does not print %q", name, want)
		}
	}
	lines := node("app.mjs")
	for _, line := range want["app.mjs"] {
		next("app.mjs", lines, line)
	}
	lines = node("--import", "./browser.mjs", "page.mjs")
	next("page.mjs", lines, want["page.mjs"][0])
	s.Do(t, "POST", "/v1/customers/acme/overrides", "application/json",
		`{"feature":"retention","value":`+strings.TrimSpace(want["page.mjs"][1])+`,"reason":"test","expires":"never"}`)
	next("page.mjs", lines, want["page.mjs"][1])
}
