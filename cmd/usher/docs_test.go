package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// documentation reads a page of the project.
func documentation(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	helpCommand = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*(?: [a-z]+)?)  +\S`)
	helpFlag    = regexp.MustCompile(`(?m)^  (?:(-[a-z]), |    )(--[a-z-]+)`)
	flagWord    = regexp.MustCompile(`(?:^|[\s\[` + "`" + `(])(--?[a-zA-Z][a-z-]*)`)
)

// flagsOf are the flags that a command's --help lists, long and short.
func flagsOf(t *testing.T, command string) map[string]bool {
	t.Helper()
	out, errs, code := runUsher(t, nil, append(strings.Fields(command), "--help")...)
	if code != exitDone {
		t.Fatalf("usher %s --help ends with %d: %s", command, code, errs)
	}
	flags := map[string]bool{}
	for _, m := range helpFlag.FindAllStringSubmatch(out, -1) {
		flags[m[2]] = true
		if m[1] != "" {
			flags[m[1]] = true
		}
	}
	return flags
}

// TestDocsCommandLine: cli.md lists exactly the commands that there are, each
// with exactly its flags.
func TestDocsCommandLine(t *testing.T) {
	t.Parallel()
	page := documentation(t, "docs/reference/cli.md")
	help, _, _ := runUsher(t, nil, "--help")
	_, list, _ := strings.Cut(help, "\nServer\n")
	want := map[string]map[string]bool{}
	every := flagsOf(t, "")
	for _, m := range helpCommand.FindAllStringSubmatch(list, -1) {
		flags := flagsOf(t, m[1])
		maps.DeleteFunc(flags, func(f string, _ bool) bool { return every[f] })
		want[m[1]] = flags
	}
	if len(want) < 20 || len(every) < 4 {
		t.Fatalf("--help was not understood: %d commands, %d flags of every command", len(want), len(every))
	}

	got := map[string]map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `usher ((?:[^`])*)` \\|").FindAllStringSubmatch(page, -1) {
		words := strings.Fields(m[1])
		name := words[0]
		if len(words) > 1 && want[name] == nil {
			name += " " + words[1]
		}
		if want[name] == nil {
			t.Errorf("cli.md lists `usher %s`, and --help does not", name)
		}
		if got[name] != nil {
			t.Errorf("cli.md lists `usher %s` twice", name)
		}
		got[name] = map[string]bool{}
		for _, f := range flagWord.FindAllStringSubmatch(m[1], -1) {
			got[name][f[1]] = true
		}
	}
	known := maps.Clone(every)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		maps.Copy(known, want[name])
		if got[name] == nil {
			t.Errorf("cli.md does not list `usher %s`", name)
			continue
		}
		if g, w := slices.Sorted(maps.Keys(got[name])), slices.Sorted(maps.Keys(want[name])); !slices.Equal(g, w) {
			t.Errorf("usher %s: cli.md has the flags %v, want %v", name, g, w)
		}
	}
	for f := range every {
		if !regexp.MustCompile("(?m)^\\|.*`" + regexp.QuoteMeta(f) + "[ `]").MatchString(page) {
			t.Errorf("cli.md does not list the flag %s of every command", f)
		}
	}
	for _, f := range flagWord.FindAllStringSubmatch(page, -1) {
		if !known[f[1]] {
			t.Errorf("cli.md names %s, which is not a flag", f[1])
		}
	}
	for _, name := range docsPages(t) { // what any page tells to type exists
		call := regexp.MustCompile("(?:`|\\$ |bin/)usher ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?")
		for _, m := range call.FindAllStringSubmatch(documentation(t, name), -1) {
			if want[m[1]] == nil && want[m[1]+" "+m[2]] == nil && !(m[2] == "" && strings.Contains(help, "\n  "+m[1]+" ")) {
				t.Errorf("%s names `usher %s %s`, which is not a command", name, m[1], m[2])
			}
		}
	}
}

// docsPages are the pages that tell what to type.
func docsPages(t *testing.T) []string {
	t.Helper()
	pages := []string{"README.md"}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md", "examples/*.md", "examples/*/*.md"} {
		found, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(pattern)))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: no pages (%v)", pattern, err)
		}
		for _, f := range found {
			rel, err := filepath.Rel(filepath.Join("..", ".."), f)
			if err != nil {
				t.Fatal(err)
			}
			pages = append(pages, filepath.ToSlash(rel))
		}
	}
	return pages
}

// driver is the shell that a page's commands are typed into, one at a time: it
// reads them from descriptor 3, each ended by a zero byte, and says on 4 with
// which codes the ones that failed ended. An HTTP error makes curl fail.
const driver = `
curl() { command curl --fail-with-body --max-time 20 "$@"; }
make() { [ "$*" = build ]; } # bin/usher is there
trap 'failed="$failed $?"' ERR
while IFS= read -r -u 3 -d '' typed; do
	failed=
	eval "$typed" </dev/null
	printf '\0'
	echo "$failed" >&4
done
trap - ERR
jobs=$(jobs -p)
[ -z "$jobs" ] || { kill $jobs; wait; }
`

// shell is a bash session in a folder of its own, with bin/usher in it.
type shell struct {
	dir    string
	in     io.WriteCloser
	out    *bufio.Reader
	codes  *bufio.Reader
	stderr *bytes.Buffer // read only once the session has ended
}

// newShell starts a session; the test's end ends it and what it has started.
func newShell(t *testing.T, env ...string) *shell {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("SKIPPED: there is no bash here, so the pages are not tried")
	}
	if out, err := exec.Command("curl", "--help", "all").Output(); err != nil || !bytes.Contains(out, []byte("--json")) {
		t.Skip("SKIPPED: there is no curl of 7.82 or later here, so the pages are not tried")
	}
	program, err := exec.LookPath("usher") // this test's binary, as TestMain has it
	if err != nil {
		t.Fatal(err)
	}
	s := &shell{dir: t.TempDir(), stderr: &bytes.Buffer{}}
	if err := os.Mkdir(filepath.Join(s.dir, "bin"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(s.dir, "bin", "usher")); err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	typed, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	codes, codesIn, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // the race detector is slow
	c := exec.CommandContext(ctx, bash, "--norc", "-c", driver)
	c.Dir, c.Stderr, c.ExtraFiles, c.WaitDelay = s.dir, s.stderr, []*os.File{typed, codesIn}, 5*time.Second
	for _, e := range os.Environ() { // the person who runs the tests may use usher too
		if !strings.HasPrefix(e, "USHER_") {
			c.Env = append(c.Env, e)
		}
	}
	c.Env = append(append(c.Env, "LC_ALL=C"), env...)
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	typed.Close()
	codesIn.Close()
	s.in, s.out, s.codes = in, bufio.NewReader(stdout), bufio.NewReader(codes)
	t.Cleanup(func() {
		in.Close()
		io.Copy(io.Discard, s.out)
		if err := c.Wait(); err != nil {
			t.Logf("the session's end: %v", err)
		}
		cancel()
		codes.Close()
		if t.Failed() {
			t.Logf("standard error of the session:\n%s", s.stderr)
		}
	})
	return s
}

// run types a command and returns what it printed, and the codes of what failed
// in it.
func (s *shell) run(t *testing.T, command string) (out string, failed []string) {
	t.Helper()
	if _, err := io.WriteString(s.in, command+"\x00"); err != nil {
		t.Fatalf("%s: the session has ended: %v", command, err)
	}
	out, err := s.out.ReadString(0)
	codes, err2 := s.codes.ReadString('\n')
	if err := errors.Join(err, err2); err != nil {
		t.Fatalf("%s: the session has ended: %v", command, err)
	}
	return strings.TrimSuffix(out, "\x00"), strings.Fields(codes)
}

// fence is a block of a page, with the file that it is to be saved as.
var fence = regexp.MustCompile("(?ms)(?:Save\\s+this\\s+as\\s+`([^`\n]+)`:\n\n)?^```([a-z]*)\n(.*?)^```$")

// answer is a comment that says what a check prints first.
var answer = regexp.MustCompile(`(?m) # ((?:yes|no): .*)$`)

// commandsOf splits a block into commands: a line, or more where one goes on.
func commandsOf(t *testing.T, block string) []string {
	t.Helper()
	var all []string
	command := ""
	for line := range strings.Lines(block) {
		command += line
		if strings.HasSuffix(line, "\\\n") || strings.TrimSpace(command) == "" {
			continue
		}
		if exec.Command("bash", "-n", "-c", command).Run() == nil {
			all, command = append(all, strings.TrimRight(command, "\n")), ""
		}
	}
	if strings.TrimSpace(command) != "" {
		t.Fatalf("this is not a whole command:\n%s", command)
	}
	return all
}

// follow does what a page says, to the letter.
func (s *shell) follow(t *testing.T, page, address string) {
	t.Helper()
	key, ran := "", 0
	adminKey := regexp.MustCompile(`usk_sandbox_\w+`)
	expect := func(command string) string {
		ran++
		command = strings.ReplaceAll(command, "127.0.0.1:8080", address)
		if strings.Contains(command, "usk_…") {
			if key == "" {
				t.Fatalf("%s: nothing has printed a key so far", command)
			}
			command = strings.ReplaceAll(command, "usk_…", key)
		}
		out, failed := s.run(t, command)
		if k := adminKey.FindString(out); k != "" {
			key = k
		}
		var codes []string
		if m := answer.FindStringSubmatch(command); m != nil {
			if first, _, _ := strings.Cut(out, "\n"); first != m[1] {
				t.Errorf("%s\nprints %q", command, first)
			}
			if strings.HasPrefix(m[1], "no: ") {
				codes = []string{"1"}
			}
		}
		if !slices.Equal(slices.Compact(slices.Clone(failed)), codes) {
			t.Errorf("%s\nfails with %v, want %v; it prints\n%s", command, failed, codes, out)
		}
		if strings.Contains(command, "usher serve") { // nobody types faster than it starts
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				c, err := net.Dial("tcp", address)
				if err == nil {
					c.Close()
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s: nothing listens on %s: %v", command, address, err)
				}
			}
		}
		return out
	}
	for _, b := range fence.FindAllStringSubmatch(page, -1) {
		file, language, text := b[1], b[2], b[3]
		switch {
		case file != "":
			if err := os.WriteFile(filepath.Join(s.dir, file), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		case language == "sh":
			for _, command := range commandsOf(t, text) {
				expect(command)
			}
		case language == "console":
			for _, part := range strings.Split("\n"+text, "\n$ ")[1:] {
				command, want, _ := strings.Cut(part, "\n")
				want = strings.TrimSuffix(want, "\n")
				if got := strings.TrimSuffix(expect(command), "\n"); got != want {
					t.Errorf("$ %s\ngot:\n%s\nwant:\n%s", command, got, want)
				}
			}
		default:
			t.Errorf("nobody tries this block, which is no `sh`, no `console` and not to be saved:\n%s", text)
		}
	}
	if ran == 0 {
		t.Error("the page tells nothing to do: is the pattern right?")
	}
}

// freeAddress is one on which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestDocsPages does what the tutorial and the how-to pages say.
func TestDocsPages(t *testing.T) {
	t.Parallel()
	pages := []string{"docs/tutorial.md"}
	found, err := filepath.Glob("../../docs/how-to/*.md")
	if err != nil || len(found) == 0 {
		t.Fatalf("no how-to pages (%v)", err)
	}
	for _, f := range found {
		pages = append(pages, "docs/how-to/"+filepath.Base(f))
	}
	for _, name := range pages {
		t.Run(strings.TrimPrefix(name, "docs/"), func(t *testing.T) {
			t.Parallel()
			address := freeAddress(t)
			s := newShell(t, "USHER_LISTEN="+address)
			page := documentation(t, name)
			if name != "docs/tutorial.md" { // these begin where the tutorial has a server
				begin, _, ok := strings.Cut(documentation(t, "docs/tutorial.md"), "## 2.")
				if !ok {
					t.Fatal("the tutorial has no part 2")
				}
				page = begin + page
			}
			s.follow(t, page, address)
		})
	}
}

// TestDocsDemo: README.md shows what the demo answers, to the letter.
func TestDocsDemo(t *testing.T) {
	t.Parallel()
	readme := documentation(t, "README.md")
	_, block, _ := strings.Cut(readme, "<!-- demo: begin -->")
	block, after, ok := strings.Cut(block, "<!-- demo: end -->")
	curls := regexp.MustCompile("(?ms)^```sh\ncurl .*?^```$").FindString(after)
	if !ok || curls == "" {
		t.Fatal("README.md does not show the demo, or how to ask it with curl")
	}
	s := newShell(t)
	serve := `bin/usher demo --listen 127.0.0.1:0 --port-file port --json >demo.json &`
	if _, failed := s.run(t, serve); len(failed) > 0 {
		t.Fatal(failed)
	}
	if _, err := await(filepath.Join(s.dir, "port")); err != nil {
		t.Fatal(err)
	}
	var demo struct{ URL, Key string }
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(s.dir, "demo.json"))
		if err == nil && json.Unmarshal(b, &demo) == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the demo says nothing: %v", err)
		}
	}
	s.run(t, fmt.Sprintf("export USHER_URL=%s USHER_KEY=%s", demo.URL, demo.Key))
	// the answer that the block shows is no
	for _, part := range strings.Split(fence.FindStringSubmatch(block)[3], "$ ")[1:] {
		command, want, _ := strings.Cut(part, "\n")
		got, failed := s.run(t, command)
		if got != want || !slices.Equal(slices.Compact(slices.Clone(failed)), []string{"1"}) {
			t.Errorf("$ %s\ngot (codes %v):\n%s\nwant:\n%s", command, failed, got, want)
		}
	}
	got, failed := s.run(t, fence.FindStringSubmatch(curls)[3])
	if !strings.Contains(got, `"allowed":true`) || len(failed) > 0 {
		t.Errorf("%s\nfails with %v, prints %s", curls, failed, got)
	}
}
