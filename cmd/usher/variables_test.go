package main

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/kong"
)

// TestVariables walks every command: a flag of one that opens the database has
// its own environment variable, other commands have none but the three common
// ones.
func TestVariables(t *testing.T) {
	t.Parallel()
	k, err := kong.New(&cli{}, kong.Bind(&app{}), kong.PostBuild(nameVariables))
	if err != nil {
		t.Fatal(err)
	}
	var own, common int
	taken := map[string]bool{}
	for _, f := range k.Model.Flags {
		want := map[string][]string{"url": {"USHER_URL"}, "key": {"USHER_KEY"}, "environment": {"USHER_ENVIRONMENT"}}[f.Name]
		if !slices.Equal(f.Envs, want) {
			t.Errorf("--%s reads %q, want %q", f.Name, f.Envs, want)
		}
		for _, name := range f.Envs {
			taken[name] = true
		}
	}
	var walk func(n *kong.Node)
	walk = func(n *kong.Node) {
		for _, c := range n.Children {
			opens := slices.ContainsFunc(c.Flags, func(f *kong.Flag) bool { return f.Name == "db" || c.Name == "copy" })
			for _, f := range c.Flags {
				var want []string
				if opens {
					want = []string{"USHER_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))}
					own++
					if taken[want[0]] {
						t.Errorf("%s --%s: %s is common to all commands: give the flag another name", c.FullPath(), f.Name, want[0])
					}
				} else {
					common++
				}
				if !slices.Equal(f.Envs, want) {
					t.Errorf("%s --%s reads %q, want %q", c.FullPath(), f.Name, f.Envs, want)
				}
			}
			walk(c)
		}
	}
	walk(k.Model.Node)
	if own < 40 || common < 60 || len(taken) != 3 {
		t.Errorf("saw %d flags of database commands, %d of others, %d common variables: the walk missed some", own, common, len(taken))
	}
}

// TestVariablesAtWork: a variable reaches the commands that name it, in --help
// too, and a forgotten one does not change what a client asks.
func TestVariablesAtWork(t *testing.T) {
	t.Parallel()
	help, _, _ := runUsher(t, nil, "serve", "--help")
	if !strings.Contains(strings.Join(strings.Fields(help), " "), "($USHER_POLL_INTERVAL)") {
		t.Errorf("serve --help does not name USHER_POLL_INTERVAL:\n%s", help)
	}
	db := t.TempDir() + "/u.db"
	if _, errs, code := runUsher(t, []string{"USHER_DB=" + db}, "init"); code != exitDone {
		t.Fatalf("init with USHER_DB ends with %d: %s", code, errs)
	}
	key, errs, code := runUsher(t, []string{"USHER_DB=" + db, "USHER_ENVIRONMENT=sandbox"}, "key", "create")
	if code != exitDone || !strings.HasPrefix(key, "usk_sandbox_") {
		t.Fatalf("got %q, %d %s, want a key of the sandbox", key, code, errs)
	}
	key = strings.TrimSpace(key)
	nobody := []string{"USHER_URL=http://127.0.0.1:1", "USHER_KEY=" + key, "USHER_YES=false", "USHER_AMOUNT=no number", "USHER_JSON=x"}
	for env, want := range map[string]struct {
		code int
		says string
	}{
		"production": {exitUsage, "does not belong to production"},
		"staging":    {exitUsage, `unknown environment "staging"`},
		"sandbox":    {exitFault, "nothing listens"},
		"":           {exitFault, "nothing listens"},
	} {
		_, errs, code := runUsher(t, append(slices.Clone(nobody), "USHER_ENVIRONMENT="+env), "check", "acme", "sso")
		if code != want.code || !strings.Contains(errs, want.says) {
			t.Errorf("environment %q: got %d %s, want %d %s", env, code, errs, want.code, want.says)
		}
	}
}

// TestHelpIsPlain: each help text is one sentence, and says the default if there
// is one.
func TestHelpIsPlain(t *testing.T) {
	t.Parallel()
	k, err := kong.New(&cli{}, kong.Bind(&app{}))
	if err != nil {
		t.Fatal(err)
	}
	said := 0
	plain := func(what, help string) {
		t.Helper()
		said++
		first, _ := utf8.DecodeRuneInString(help)
		if !strings.HasSuffix(help, ".") || strings.Contains(strings.TrimSuffix(help, "."), ". ") || unicode.IsSpace(first) {
			t.Errorf("%s: %q is not one sentence", what, help)
		}
	}
	var walk func(n *kong.Node)
	walk = func(n *kong.Node) {
		for _, f := range n.Flags {
			if f.Name == "help" {
				continue
			}
			plain(n.FullPath()+" --"+f.Name, f.Help)
			if f.HasDefault && !strings.Contains(f.Help, "(default ${default})") && !strings.Contains(f.Help, "(default "+f.Default+")") {
				t.Errorf("%s --%s: %q does not say (default %s)", n.FullPath(), f.Name, f.Help, f.Default)
			}
		}
		for _, p := range n.Positional {
			plain(n.FullPath()+" "+p.Name, p.Help)
		}
		for _, c := range n.Children {
			plain(c.FullPath(), c.Help)
			walk(c)
		}
	}
	walk(k.Model.Node)
	if said < 200 {
		t.Errorf("saw %d help texts only", said)
	}
}
