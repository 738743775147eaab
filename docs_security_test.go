package usher_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sources calls do with every Go file of the tree, those of nested modules
// included, and the folder that it is in, without internal/: "api", "usher" for
// the root.
func sources(t *testing.T, mode parser.Mode, do func(room, name string, f *ast.File)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules"):
			return fs.SkipDir
		case path.Ext(name) != ".go":
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, mode)
		if err != nil {
			return err
		}
		room := strings.TrimPrefix(path.Dir(name), "internal/")
		if room == "." {
			room = "usher"
		}
		do(room, name, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDocsSecurity: each row of the checklist names tests that are there, or says
// why it has none.
func TestDocsSecurity(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	sources(t, parser.SkipObjectResolution, func(room, name string, f *ast.File) {
		if !strings.HasSuffix(name, "_test.go") {
			return
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil &&
				(strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz")) {
				tests[room+"."+fn.Name.Name] = true
			}
		}
	})
	page, err := os.ReadFile("docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	id := regexp.MustCompile(`^(API([1-9]|10)|V([1-9]|1[0-7])\.\d+\.\d+ L[123])$`)
	named := regexp.MustCompile("`([a-z/-]+\\.(?:Test|Fuzz)\\w+)`")
	_, list, found := strings.Cut(string(page), "\n## Checklist\n")
	if !found {
		t.Fatal("docs/security.md has no checklist")
	}
	seen := map[string]bool{}
	chapters := map[string]bool{}
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| id |") || strings.HasPrefix(line, "| --- |") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) != 4 || !id.MatchString(cells[0]) || cells[1] == "" {
			t.Errorf("a row is an id such as V6.2.1 L1 or API1, what it asks, how, and its tests or why there are none: %s", line)
			continue
		}
		if seen[cells[0]] {
			t.Errorf("%s is there twice", cells[0])
		}
		seen[cells[0]] = true
		chapter, _, _ := strings.Cut(cells[0], ".")
		chapters[chapter] = true
		proof := cells[3]
		names := named.FindAllStringSubmatch(proof, -1)
		for _, m := range names {
			if !tests[m[1]] {
				t.Errorf("%s names the test %s, which does not exist", cells[0], m[1])
			}
		}
		reason := slices.ContainsFunc([]string{"not applicable: ", "not met: ", "no test: "}, func(s string) bool {
			return strings.HasPrefix(proof, s) && len(proof) > len(s)+10
		})
		if !reason && (len(names) == 0 || cells[2] == "" || strings.TrimSpace(named.ReplaceAllString(proof, "")) != "") {
			t.Errorf("%s has neither tests alone, and how they show it, nor a reason (not applicable: …, not met: …, no test: …): %s", cells[0],
				proof)
		}
	}
	if len(seen) < 100 {
		t.Errorf("got %d rows: was the whole list read?", len(seen))
	}
	for n := range 17 {
		if !chapters["V"+strconv.Itoa(n+1)] {
			t.Errorf("no row of chapter V%d", n+1)
		}
	}
}

// shipped reports whether a file is part of the programs that users run: no test,
// and no room that exists for tests and benchmarks.
func shipped(room, name string) bool {
	first, _, _ := strings.Cut(room, "/")
	return !strings.HasSuffix(name, "_test.go") && !slices.Contains(
		[]string{"testpg", "powercut", "prove", "bench", "oracles", "oidctest", "story", "ushertest", "examples"}, first)
}

// TestNoDangerousImports: what usher never does needs no defence: it starts no
// program, fills no template, reads no XML or gob, debugs nothing over HTTP, and
// has no weak hash, cipher or random number. demo invents a company by chance.
func TestNoDangerousImports(t *testing.T) {
	t.Parallel()
	banned := []string{"os/exec", "html/template", "text/template", "encoding/xml", "encoding/gob", "plugin", "unsafe", "C", "net/http/pprof",
		"expvar", "net/http/cgi", "net/rpc",
		"math/rand", "math/rand/v2", "crypto/md5", "crypto/sha1", "crypto/des", "crypto/rc4", "crypto/dsa", "crypto/elliptic",
		"golang.org/x/crypto/md4", "golang.org/x/crypto/ripemd160"}
	files := 0
	sources(t, parser.ImportsOnly, func(room, name string, f *ast.File) {
		if !shipped(room, name) {
			return
		}
		files++
		for _, i := range f.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			if slices.Contains(banned, p) && !(name == "cmd/usher/demo.go" && p == "math/rand/v2") {
				t.Errorf("%s imports %s", name, p)
			}
		}
	})
	if files < 100 {
		t.Errorf("%d files were read", files)
	}
}

// TestOutboundCalls: the server calls the identity provider that a flag names,
// and its database; the command line its server. Nothing else makes a client,
// none follows redirects or skips certificates, and no dependency is replaced.
func TestOutboundCalls(t *testing.T) {
	t.Parallel()
	clients := map[string]bool{}
	sources(t, parser.SkipObjectResolution, func(room, name string, f *ast.File) {
		if !shipped(room, name) {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				pkg, ok := n.X.(*ast.Ident)
				if !ok {
					break
				}
				switch pkg.Name + "." + n.Sel.Name {
				case "http.Client", "http.DefaultTransport":
					clients[name] = true
				case "http.Get", "http.Post", "http.PostForm", "http.Head", "http.DefaultClient", "net.Dial", "net.DialTimeout", "net.Dialer",
					"tls.Dial", "smtp.SendMail":
					if name == "internal/store/postgres.go" && n.Sel.Name == "Dialer" { // to the database
						break
					}
					t.Errorf("%s uses %s.%s", name, pkg.Name, n.Sel.Name)
				}
			case *ast.CompositeLit:
				if of, ok := n.Type.(*ast.SelectorExpr); ok && of.Sel.Name == "Client" && !slices.ContainsFunc(n.Elts, func(e ast.Expr) bool {
					field, ok := e.(*ast.KeyValueExpr)
					if !ok {
						return false
					}
					key, ok := field.Key.(*ast.Ident)
					return ok && key.Name == "CheckRedirect"
				}) {
					t.Errorf("%s makes a client that follows redirects", name)
				}
			case *ast.Ident:
				if n.Name == "InsecureSkipVerify" {
					t.Errorf("%s has InsecureSkipVerify", name)
				}
			}
			return true
		})
	})
	for name := range clients {
		if name != "internal/auth/oidc.go" && name != "cmd/usher/client.go" {
			t.Errorf("%s makes an HTTP client: what it calls belongs into docs/security.md", name)
		}
	}
	if len(clients) != 2 {
		t.Errorf("got %v, want the two that there are", clients)
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil || regexp.MustCompile(`(?m)^\s*replace\b`).Match(mod) {
		t.Errorf("go.mod replaces a dependency (%v)", err)
	}
}
