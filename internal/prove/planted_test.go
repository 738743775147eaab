package prove

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

// moduleRoot is the module's folder, seen from this one.
const moduleRoot = "../.."

// plantedSample is how many bugs a run plants without USHER_PROVE=full.
const plantedSample = 3

// plantedPatience is how long one run of a bug's test may take. A test that hangs on a
// bug has not found it.
const plantedPatience = 60 * time.Second

// bug is one planted bug: testdata/planted/README.md says how it is written.
type bug struct {
	name  string     // of its file
	about string     // what it breaks
	rule  string     // "S07", "I1"
	file  string     // where, from the module's root; may be a pattern
	test  testTarget // what must catch it
	edits [][2]string
}

// testTarget is a package and the -run pattern of tests in it.
type testTarget struct{ pkg, run string }

func (t testTarget) String() string { return t.pkg + " " + t.run }

var ruled = regexp.MustCompile(`^[ASIB]\d+$`)

// readBug reads one bug. The error says what is wrong with its file.
func readBug(name string, src []byte) (bug, error) {
	a := txtar.Parse(src)
	b := bug{name: name}
	for i, line := range strings.Split(strings.TrimSpace(string(a.Comment)), "\n") {
		key, value, _ := strings.Cut(line, ": ")
		value = strings.TrimSpace(value)
		switch {
		case i == 0:
			b.about = line
		case key == "rule":
			b.rule = value
		case key == "file":
			b.file = value
		case key == "test":
			b.test.pkg, b.test.run, _ = strings.Cut(value, " ")
		default:
			return b, fmt.Errorf("%q: after the first line come rule:, file: and test: alone", line)
		}
	}
	switch {
	case b.about == "" || b.file == "" || b.test.run == "":
		return b, errors.New("needs a line on what it breaks, and rule:, file: and test:")
	case !ruled.MatchString(b.rule):
		return b, fmt.Errorf("rule %q is none: write it like S07, A03 or I1", b.rule)
	case !strings.HasPrefix(b.test.pkg, "./"):
		return b, fmt.Errorf("package %q: write it from the module's root, like ./internal/engine", b.test.pkg)
	case len(a.Files) == 0 || len(a.Files)%2 != 0:
		return b, errors.New("needs -- old -- and -- new --, in turn")
	}
	for i := 0; i < len(a.Files); i += 2 {
		if a.Files[i].Name != "old" || a.Files[i+1].Name != "new" {
			return b, errors.New("needs -- old -- and -- new --, in turn")
		}
		old, now := strings.TrimSpace(string(a.Files[i].Data)), strings.TrimSpace(string(a.Files[i+1].Data))
		if old == "" || old == now {
			return b, errors.New("its old text is empty, or the same as the new")
		}
		b.edits = append(b.edits, [2]string{old, now})
	}
	return b, nil
}

// plant returns a file's text with the bug in it. The error says that the bug no longer
// fits the code.
func (b *bug) plant(src []byte) ([]byte, error) {
	for _, e := range b.edits {
		if n := bytes.Count(src, []byte(e[0])); n != 1 {
			return nil, fmt.Errorf("no longer fits the code: %s has %q %d times, not once; write the bug anew for the code as it is", b.file,
				e[0], n)
		}
		src = bytes.Replace(src, []byte(e[0]), []byte(e[1]), 1)
	}
	return src, nil
}

// find returns the one file that the bug fits, and its text with the bug in it.
func (b *bug) find() (path string, planted []byte, err error) {
	files, err := filepath.Glob(filepath.Join(moduleRoot, filepath.FromSlash(b.file)))
	if err != nil || len(files) == 0 {
		return "", nil, fmt.Errorf("no longer fits the code: there is no %s", b.file)
	}
	var why error
	fits := 0
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			return "", nil, err
		}
		if src, err = b.plant(src); err != nil {
			why = err
			continue
		}
		path, planted = file, src
		fits++
	}
	switch {
	case fits == 0 && len(files) == 1:
		return "", nil, why
	case fits != 1:
		return "", nil, fmt.Errorf("no longer fits the code: %d of the files %s have its old text once, not one; write the bug anew for "+
			"the code as it is", fits, b.file)
	}
	path, err = filepath.Abs(path)
	return path, planted, err
}

// bugs reads all bugs, in the order of their names.
func bugs(t *testing.T) []bug {
	t.Helper()
	files, err := filepath.Glob("testdata/planted/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no planted bugs: %v", err)
	}
	var all []bug
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b, err := readBug(strings.TrimSuffix(filepath.Base(file), ".txt"), src)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		all = append(all, b)
	}
	return all
}

// Each bug still fits the code: its old text occurs in its file exactly once.
func TestPlantedBugsFit(t *testing.T) {
	t.Parallel()
	for _, b := range bugs(t) {
		if _, _, err := b.find(); err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
	}
}

// The tests find bugs: each planted bug compiles and makes the test that it names fail,
// which passes without it. USHER_PROVE=full plants all of them, other runs a few that
// the seed chooses. USHER_SEED repeats a choice.
func TestPlantedBugsAreCaught(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("compiles packages anew")
	}
	began := time.Now()
	all := bugs(t)
	if os.Getenv("USHER_PROVE") != "full" {
		seed := seed(t)
		rand.New(rand.NewPCG(seed, seed)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:min(plantedSample, len(all))]
	}

	// The tests must pass without bugs; otherwise their failure would prove nothing. Each
	// runs once, when the first bug needs it.
	packages := map[string]func() (testBinary, error){}
	unfit := map[testTarget]func() string{} // "": it passes
	for _, b := range all {
		at := b.test
		if packages[at.pkg] == nil {
			packages[at.pkg] = sync.OnceValues(func() (testBinary, error) { return compileTests(t, at.pkg, "") })
		}
		if unfit[at] == nil {
			unfit[at] = sync.OnceValue(func() string {
				bin, err := packages[at.pkg]()
				if err != nil {
					return fmt.Sprint("it does not compile: ", err)
				}
				return bin.test(t, at.run).unfit()
			})
		}
	}
	var planted, caught, skipped atomic.Int64
	twoAtOnce(all, func(b bug) {
		t.Run(b.name, func(t *testing.T) {
			planted.Add(1)
			switch why := unfit[b.test](); {
			case strings.HasPrefix(why, skippedHere):
				skipped.Add(1)
				t.Skipf("planted: %s: %s: SKIPPED: %s %s", b.name, b.rule, b.test, why)
			case why != "":
				t.Fatalf("%s, without any bug: %s", b.test, why)
			}
			start := time.Now()
			by, err := b.try(t)
			if err != nil {
				t.Fatalf("%s: %v\n\tbreaks: %s\n\tmust be caught by: %s", b.name, err, b.about, b.test)
			}
			caught.Add(1)
			t.Logf("planted: %s: %s: caught by %s: %.1f s", b.name, b.rule, by, time.Since(start).Seconds())
		})
	})
	t.Logf("planted: %d of %d bugs caught, %d skipped: %.0f s", caught.Load(), planted.Load(), skipped.Load(), time.Since(began).Seconds())
}

// try plants the bug in a copy, which the compiler reads instead of the file, and
// returns the name of the test that failed.
func (b *bug) try(t *testing.T) (caughtBy string, err error) {
	path, src, err := b.find()
	if err != nil {
		return "", err
	}
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, filepath.Base(path)), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(changed, src, 0o600), os.WriteFile(overlay, list, 0o600)); err != nil {
		return "", err
	}
	bin, err := compileTests(t, b.test.pkg, overlay)
	if err != nil {
		return "", fmt.Errorf("does not compile, and what does not compile is not caught: %w", err)
	}
	defer bin.remove()
	o := bin.test(t, b.test.run)
	switch {
	case o.hung:
		return "", fmt.Errorf("hangs: its test must say what is wrong within %s", plantedPatience)
	case o.failed == "" && !o.panicked:
		return "", fmt.Errorf("SURVIVED: no test failed\n%s", o.text)
	case o.failed == "":
		return "a panic", nil
	}
	return o.failed, nil
}

// testBinary is the compiled tests of a package.
type testBinary struct{ path, dir string }

// compileTests builds the tests of a package, with an overlay if one is given.
func compileTests(t *testing.T, pkg, overlay string) (testBinary, error) {
	dir, err := filepath.Abs(filepath.Join(moduleRoot, pkg))
	if err != nil {
		return testBinary{}, err
	}
	b := testBinary{filepath.Join(t.TempDir(), "tests"), dir}
	args := []string{"test", "-c", "-vet=off", "-o", b.path}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, ".")...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return b, fmt.Errorf("%w\n%s", err, out)
	}
	return b, nil
}

// remove deletes the binary at once, because each has tens of megabytes.
func (b testBinary) remove() { _ = os.Remove(b.path) }

// testOutcome is the result of a run of tests.
type testOutcome struct {
	failed   string // the first test that did
	passed   bool   // all that ran did, and some ran
	skipped  bool   // none passed or failed
	panicked bool
	hung     bool
	text     string
}

var said = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): (\S+)`)

// test runs the tests that a pattern names.
func (b testBinary) test(t *testing.T, run string) testOutcome {
	ctx, cancel := context.WithTimeout(t.Context(), plantedPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.path, "-test.v", "-test.run", run, "-test.count=1")
	cmd.Dir = b.dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it may have a server of its own to stop
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "USHER_") })
	out, err := cmd.CombinedOutput()
	o := testOutcome{text: string(out[max(0, len(out)-4000):]), hung: ctx.Err() != nil}
	count := map[string]int{}
	for _, m := range said.FindAllSubmatch(out, -1) {
		verdict, name := string(m[1]), string(m[2])
		count[verdict]++
		if verdict == "FAIL" && len(name) > len(o.failed) {
			o.failed = name // the innermost says most
		}
	}
	o.panicked = bytes.Contains(out, []byte("\npanic: "))
	o.passed = err == nil && count["PASS"] > 0 && count["FAIL"] == 0 && count["SKIP"] == 0
	o.skipped = err == nil && count["SKIP"] > 0
	return o
}

const skippedHere = "is skipped here"

// unfit returns why the test cannot catch a bug; "" if it can.
func (o testOutcome) unfit() string {
	switch {
	case o.passed:
		return ""
	case o.hung:
		return "it hangs\n" + o.text
	case o.skipped:
		return skippedHere
	case o.failed != "" || o.panicked:
		return "it fails\n" + o.text
	}
	return "there is no such test"
}

// twoAtOnce runs f for every item, two at a time: compiling takes whole cores.
func twoAtOnce[T any](items []T, f func(T)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 2)
	for _, item := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(item)
		})
	}
	wg.Wait()
}

// What the runner reads of a run is what happened.
func TestPlantedRunnerReads(t *testing.T) {
	t.Parallel()
	const good = "Breaks it.\nrule: S07\nfile: a.go\ntest: ./engine ^TestX$\n-- old --\n\tx < 1\n-- new --\n\tx <= 1\n"
	b, err := readBug("b", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.plant([]byte("if x < 1 {")); err != nil || string(got) != "if x <= 1 {" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, src := range []string{"if x < 2 {", "x < 1; x < 1"} {
		if got, err := b.plant([]byte(src)); err == nil {
			t.Errorf("%q: got %q, want that it no longer fits", src, got)
		}
	}
	for _, change := range [][2]string{{"S07", "seven"}, {"./engine", "engine"}, {" ^TestX$", ""}, {"<= 1", "< 1"},
		{"-- new --", "-- old --"}, {"file: ", "fille: "}} {
		src := strings.Replace(good, change[0], change[1], 1)
		if _, err := readBug("b", []byte(src)); err == nil {
			t.Errorf("accepted:\n%s", src)
		}
	}
}
