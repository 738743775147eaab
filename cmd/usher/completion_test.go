package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestCompletion asks bash itself what it would offer.
func TestCompletion(t *testing.T) {
	t.Parallel()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("SKIPPED: there is no bash here")
	}
	script, errs, code := runUsher(t, nil, "completion", "bash")
	if code != exitDone {
		t.Fatalf("ends with %d: %s", code, errs)
	}
	for typed, want := range map[string]string{
		"usher cust":                   "customer",
		"usher customer ":              "put get list delete",
		"usher customer get acme --js": "--json",
		"usher --json customer d":      "delete",
		"usher override --rea":         "--reason",
		"usher override ext":           "extend",
		"usher subscription change --": "--plan",
		"usher nothing":                "",
	} {
		words := strings.Split(typed, " ")
		ask := script + "\nCOMP_WORDS=(" + typedWords(words) + ")\nCOMP_CWORD=" + "$((${#COMP_WORDS[@]} - 1))\n_usher\necho \"${COMPREPLY[*]}\""
		out, err := exec.Command(bash, "--norc", "-c", ask).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", typed, err, out)
		}
		if got := strings.TrimSpace(string(out)); got != want && (want == "" || !strings.HasPrefix(got, want)) {
			t.Errorf("%s: got %q, want %q", typed, got, want)
		}
	}
	for _, shell := range []string{"zsh", "fish"} { // their grammar at least, where they are there
		program, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("SKIPPED: there is no %s here", shell)
			continue
		}
		script, _, _ := runUsher(t, nil, "completion", shell)
		c := exec.Command(program, "-n")
		c.Stdin = strings.NewReader(script)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
}

func typedWords(words []string) string { return "'" + strings.Join(words, "' '") + "'" }
