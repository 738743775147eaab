package store

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"github.com/usher-sh/usher"
)

// The law of errors: every exported method that returns one defers wrap with its
// own name, first of all, and calls no other such method, so that an error has
// each name once and an outage always has its code.
func TestEveryMethodNamesItselfInItsErrors(t *testing.T) {
	t.Parallel()
	methods := exportedMethods(t)
	if len(methods) < 100 {
		t.Fatalf("found only %d methods with an error: the test reads the package wrongly", len(methods))
	}
	names := map[string]bool{}
	for _, m := range methods {
		names[m.Name.Name] = true
	}
	for _, m := range methods {
		name := words(m.Name.Name)
		if got := deferredWrap(m); got != name && got != "read "+name && got != "write "+name {
			t.Errorf("%s begins with wrap(&err, %q): want `defer wrap(&err, %q)`, or %q", m.Name.Name, got, name, "read "+name)
		}
		ast.Inspect(m.Body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			callee, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !names[callee.Sel.Name] {
				return true
			}
			of := callee.X
			if field, ok := of.(*ast.SelectorExpr); ok { // u.db
				of = field.Sel
			}
			if id, ok := of.(*ast.Ident); ok && (id.Name == "db" || id.Name == m.Recv.List[0].Names[0].Name) {
				t.Errorf("%s calls %s, which names itself too: share a lower-case function", m.Name.Name, callee.Sel.Name)
			}
			return true
		})
	}
}

// exportedMethods reads the methods of exported types whose last result is an error.
func exportedMethods(t *testing.T) (methods []*ast.FuncDecl) {
	t.Helper()
	pkgs, err := parser.ParseDir(token.NewFileSet(), ".", func(f fs.FileInfo) bool { return !strings.HasSuffix(f.Name(), "_test.go") }, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range pkgs["store"].Files {
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv == nil || !f.Name.IsExported() || f.Type.Results == nil || f.Name.Name == "Unwrap" {
				continue
			}
			of := f.Recv.List[0].Type
			if star, ok := of.(*ast.StarExpr); ok {
				of = star.X
			}
			results := f.Type.Results.List
			last, ok := results[len(results)-1].Type.(*ast.Ident)
			if ok && last.Name == "error" && ast.IsExported(of.(*ast.Ident).Name) {
				methods = append(methods, f)
			}
		}
	}
	return methods
}

// deferredWrap returns the name that a method's first statement wraps with.
func deferredWrap(m *ast.FuncDecl) string {
	if len(m.Body.List) == 0 {
		return ""
	}
	first, ok := m.Body.List[0].(*ast.DeferStmt)
	if !ok || len(first.Call.Args) != 2 {
		return ""
	}
	wrap, ok := first.Call.Fun.(*ast.Ident)
	to, pointer := first.Call.Args[0].(*ast.UnaryExpr)
	name, literal := first.Call.Args[1].(*ast.BasicLit)
	if !ok || wrap.Name != "wrap" || !pointer || !literal {
		return ""
	}
	if result, ok := to.X.(*ast.Ident); !ok || result.Name != "err" {
		return ""
	}
	text, _ := strconv.Unquote(name.Value)
	return text
}

// words splits a method's name: "put rollups" for PutRollups.
func words(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func TestErrorsNameTheMethodOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		_, err := db.Customer(t.Context(), env, "nobody")
		if want := `read customer: no customer "nobody"`; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		wantCode(t, err, usher.NotFound)

		write(t, db, `DROP TABLE rollup`)
		err = db.Usage(t.Context(), func(u *UsageTx) error {
			return u.PutRollups(MergeAdd, map[RollupKey]RollupValue{{Holder: Holder{env, "acme"}, Feature: "api",
				Grain: Minute}: {Used: 1}})
		})
		if err == nil || !strings.HasPrefix(err.Error(), "put rollups: ") || strings.Contains(err.Error(), "usage") {
			t.Errorf("got %v, want an error that begins with the method that failed and names no other", err)
		}
		_, err = db.UseByClock(t.Context(), env, "acme", "api", day(1), day(2))
		if err == nil || !strings.HasPrefix(err.Error(), "read use by clock: ") {
			t.Errorf("got %v, want an error that begins with the method", err)
		}
	})
}

// A caller's own error comes back as it is, even if it looks like an outage.
func TestErrorsOfTheCallersFunctionComeBackAsTheyAre(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		put(t, db, "acme")
		own := errors.Join(errors.New("the caller's"), syscall.ENOSPC)
		ctx := t.Context()
		_, changed := db.ChangeDirectory(ctx, &DirectoryChange{Env: env, Note: note("x", day(1)), Customer: "acme",
			Check: func(Directory) error { return own }})
		_, exported := db.ExportAudit(ctx, full{own}, AuditExport{})
		for name, err := range map[string]error{
			"Usage": db.Usage(ctx, func(*UsageTx) error { return own }),
			"Scan":  db.Scan(ctx, func(*Scan) error { return own }),
			"Quiet": db.Quiet(ctx, func() error { return own }),
			"a row": db.Scan(ctx, func(s *Scan) error { return s.Catalogs(func(usher.Environment, string) error { return own }) }),
			"Check": changed,
		} {
			if name != "a row" && err != own {
				t.Errorf("%s: got %v, want %v", name, err, own)
			}
		}
		if !errors.Is(exported, own) || usher.ErrorCode(exported) == usher.Unavailable {
			t.Errorf("ExportAudit: got %v, want the writer's error without a code", exported)
		}
	})
}

// full is a writer whose disk is full.
type full struct{ err error }

func (f full) Write([]byte) (int, error) { return 0, f.err }
