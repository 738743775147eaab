package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
	"github.com/usher-sh/usher/internal/store"
)

// TestAnotherMachine: an export, a public key and a kept checkpoint are enough.
func TestAnotherMachine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, err := store.Open(t.Context(), store.Config{DSN: filepath.Join(dir, "usher.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	write := func(id string) usher.AuditHead {
		t.Helper()
		if err := db.CreateKey(t.Context(), usher.APIKey{ID: id, Env: usher.Production, Hash: []byte("h")},
			usher.By{Actor: usher.Actor{Kind: "cli"}}, time.Now()); err != nil {
			t.Fatal(err)
		}
		head, err := db.AuditHead(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return head
	}
	file := func(name, text string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	export := func(x store.AuditExport) string {
		t.Helper()
		var b bytes.Buffer
		if _, err := db.ExportAudit(t.Context(), &b, x); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	early := write("k1")
	then := export(store.AuditExport{})
	write("k2")
	head := write("k3")
	all := export(store.AuditExport{})
	some := export(store.AuditExport{AuditQuery: usher.AuditQuery{Object: "k2"}, Since: early.Note})
	stranger, err := audit.NewKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		in   string
		code int
		want string
	}{
		"all": {[]string{"--key", head.Key, file("all", all)}, "", exitWhole,
			"checked: 5 leaves; the signed checkpoint covers 5 leaves"},
		"standard input": {[]string{"--key", head.Key, "-"}, all, exitWhole, "every row of the log is in it"},
		"some":           {[]string{"--key", head.Key, "-"}, some, exitWhole, `the signer says that they are all with {"object":"k2"}`},
		"kept": {[]string{"--key", head.Key, "--checkpoint", file("early", early.Note), "-"}, all, exitWhole,
			"compared with a kept checkpoint of 3 leaves"},
		"some, kept": {[]string{"--key", head.Key, "--checkpoint", file("early2", early.Note), "-"}, some, exitWhole,
			"compared with a kept checkpoint of 3 leaves"},
		"rolled back": {[]string{"--key", head.Key, "--checkpoint", file("now", head.Note), "-"}, then, exitFault,
			"the log has 3 leaves, and the kept checkpoint covers 5"},
		"altered": {[]string{"--key", head.Key, "-"}, strings.Replace(all, "key.create", "key.revoke", 1), exitFault,
			"altered: leaf 2 was altered"},
		"another key":        {[]string{"--key", stranger.Public(), "-"}, all, exitFault, "which is not the given key"},
		"JSON":               {[]string{"--json", "--key", head.Key, "-"}, all, exitWhole, `"leaves": 5`},
		"no key":             {[]string{"-"}, all, exitUsage, "usage: usher-verify"},
		"no public key":      {[]string{"--key", "x", "-"}, all, exitUsage, "is not the public key of an audit log"},
		"no file":            {[]string{"--key", head.Key, filepath.Join(dir, "none")}, "", exitUsage, "no such file"},
		"something else":     {[]string{"--key", head.Key, "-"}, "hello\n", exitFault, "form: line 1"},
		"a line too long":    {[]string{"--key", head.Key, "-"}, all + strings.Repeat("x", 5<<20), exitUsage, "is longer than"},
		"no such checkpoint": {[]string{"--key", head.Key, "--checkpoint", filepath.Join(dir, "none"), "-"}, all, exitUsage, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			if code := run(c.args, strings.NewReader(c.in), &out, &errs); code != c.code || !strings.Contains(out.String()+errs.String(), c.want) {
				t.Errorf("got %d, %s%s, want %d, %s", code, &out, &errs, c.code, c.want)
			}
		})
	}
}
