package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test binary the command "usher" where it is called so.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"usher": main})
}

// TestScenarios runs the stories of testdata/scenarios, each against servers
// that it starts itself.
func TestScenarios(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "../../testdata/scenarios",
		RequireExplicitExec: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"await": awaitCmd,
			"login": loginCmd,
			"exit":  exitCmd,
			"note":  noteCmd,
		},
	})
}

// awaitCmd waits until the server that writes the port file answers, and sets
// USHER_URL: await FILE.
func awaitCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await PORTFILE")
	}
	url, err := await(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Setenv("USHER_URL", url)
}

func await(portFile string) (url string, err error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(portFile)
		if err != nil {
			continue
		}
		url = "http://" + strings.TrimSpace(string(b))
		if res, err := http.Get(url + "/healthz"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return url, nil
			}
		}
	}
	return "", errors.New("no server answers at what " + portFile + " names")
}

// loginCmd takes an environment's key out of what init --json printed: login
// FILE ENVIRONMENT.
func loginCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: login FILE ENVIRONMENT")
	}
	var keys map[string]string
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &keys))
	if keys[args[1]] == "" {
		ts.Fatalf("%s has no key of %s", args[0], args[1])
	}
	ts.Setenv("USHER_KEY", keys[args[1]])
}

// exitCmd runs a command that must end with this code: exit N COMMAND…
func exitCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var e *exec.ExitError
		if !errors.As(err, &e) {
			ts.Fatalf("%s", err)
		}
		got = e.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// noteCmd keeps the one match of a pattern in the last standard output as a
// variable: note NAME PATTERN.
func noteCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: note NAME PATTERN")
	}
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	found := pattern.FindAllString(ts.ReadFile("stdout"), -1)
	if len(found) != 1 {
		ts.Fatalf("%s matches %d times, want once: %q", args[1], len(found), found)
	}
	ts.Setenv(args[0], found[0])
}

// runUsher runs the command as its own process and returns what it prints.
func runUsher(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	c := exec.Command("usher", args...)
	c.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var e *exec.ExitError
	if err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}
