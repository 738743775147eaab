package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestEmptyIsRefused gives every flag and argument of every command as an empty
// text: an unset variable of a script must not become "all customers" or "no end".
func TestEmptyIsRefused(t *testing.T) {
	t.Parallel()
	k, err := kong.New(&cli{}, kong.Name("usher"), kong.Bind(&app{}), kong.PostBuild(nameVariables),
		kong.NamedMapper("path", kong.MapperFunc(readPath)))
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	try := func(args []string, what string) {
		t.Helper()
		k, err := kong.New(&cli{}, kong.Name("usher"), kong.Bind(&app{}), kong.PostBuild(nameVariables),
			kong.NamedMapper("path", kong.MapperFunc(readPath)))
		if err != nil {
			t.Fatal(err)
		}
		c, err := k.Parse(args)
		if err == nil {
			err = refuseEmpty(c)
		}
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("usher %q: got %v, want an error about %s", args, err, what)
		}
		tried++
	}
	takesText := func(v *kong.Value) bool {
		of := v.Target.Type()
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		return of.Kind() == reflect.String
	}
	var walk func(n *kong.Node, path []string)
	walk = func(n *kong.Node, path []string) {
		for _, c := range n.Children {
			walk(c, append(path[:len(path):len(path)], c.Name))
		}
		if len(n.Children) > 0 || n.Name == "usher" {
			return
		}
		required := func(but string) []string {
			args := path[:len(path):len(path)]
			for _, f := range n.Flags {
				// Of flags that exclude each other, one is enough.
				if f.Required && f.Name != but && (len(f.Xor) == 0 || f.Name == "member" && but != "group") {
					args = append(args, "--"+f.Name+"=1")
				}
			}
			return args
		}
		for _, f := range n.Flags {
			if !takesText(f.Value) || mayBeEmpty[f.Name] || f.Name == "help" {
				continue
			}
			args := append(required(f.Name), "--"+f.Name+"=")
			for range n.Positional {
				args = append(args, "1")
			}
			try(args, "--"+f.Name)
		}
		for i, p := range n.Positional {
			if !takesText(p) {
				continue
			}
			args := required("")
			for j := range n.Positional {
				args = append(args, []string{"1", ""}[btoi(i == j)])
			}
			try(args, strings.ToUpper(p.Name))
		}
	}
	walk(k.Model.Node, nil)
	if tried < 150 {
		t.Errorf("tried %d flags and arguments only", tried)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
