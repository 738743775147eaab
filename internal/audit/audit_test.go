package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// log is a log in memory.
type log struct {
	tree   Tree
	leaves [][]byte
	hashes []Hash
	signer *Signer
}

func (l *log) add(t testing.TB, e Entry) {
	t.Helper()
	e.N = l.tree.Size()
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := l.tree.Add(b)
	if err != nil {
		t.Fatal(err)
	}
	if First(e.N) != int64(len(l.hashes)) {
		t.Fatalf("row %d has its hash at %d, want %d", e.N, First(e.N), len(l.hashes))
	}
	l.leaves, l.hashes = append(l.leaves, b), append(l.hashes, hashes...)
}

func (l *log) ReadHashes(indexes []int64) ([]Hash, error) {
	var out []Hash
	for _, i := range indexes {
		out = append(out, l.hashes[i])
	}
	return out, nil
}

func (l *log) checkpoint(t testing.TB) string {
	t.Helper()
	root, err := l.tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.signer.Checkpoint(Checkpoint{l.tree.Size(), root})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newLog has a key and n more rows.
func newLog(t testing.TB, n int) *log {
	t.Helper()
	s, err := NewKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	l := &log{signer: s}
	l.add(t, KeyEntry(s.Public(), at))
	for i := range n {
		l.add(t, Entry{At: at.Add(time.Duration(i) * time.Second), Env: "production", Actor: "key:a", Action: "grant.create",
			Customer: fmt.Sprintf("c%d", i%3),
			Object:   fmt.Sprintf("gr_%d", i), Reason: "it's <due> & \u00e9", After: json.RawMessage(fmt.Sprintf(`{ "amount": %d, "a": null }`, i))})
	}
	return l
}

// export returns the log, or every third row of it, with a proof for a kept checkpoint.
func (l *log) export(t testing.TB, filtered bool, since string) []byte {
	t.Helper()
	var b bytes.Buffer
	h := Header{At: at, Checkpoint: l.checkpoint(t)}
	size := l.tree.Size()
	if filtered {
		h.Filter = map[string]string{"customer": "c1"}
	}
	if since != "" {
		kept, err := ReadCheckpoint(since)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := tlog.ProveTree(size, kept.Size, l)
		if err != nil {
			t.Fatal(err)
		}
		h.Since = &Since{since, proof}
	}
	e, err := NewExport(&b, h, l.signer)
	if err != nil {
		t.Fatal(err)
	}
	for n, leaf := range l.leaves {
		if filtered && n%3 != 2 {
			continue
		}
		proof, err := tlog.ProveRecord(size, int64(n), l)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Leaf(int64(n), leaf, proof); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.End(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func verified(file []byte, o Options) *Report {
	r, _, err := VerifyExport(bytes.NewReader(file), o)
	if err != nil {
		return &Report{Total: 1, Faults: []Fault{{Form, err.Error()}}}
	}
	return r
}

func text(r *Report) string {
	var b strings.Builder
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "%s: %s\n", f.Kind, f.Text)
	}
	return b.String()
}

// TestTreeIsRFC6962: the root that grows row by row is the one that tlog
// computes of all stored hashes, at every size.
func TestTreeIsRFC6962(t *testing.T) {
	t.Parallel()
	l := newLog(t, 0)
	for i := range 200 {
		got, err := l.tree.Root()
		want, err2 := tlog.TreeHash(l.tree.Size(), l)
		if err != nil || err2 != nil || got != want || int64(len(l.hashes)) != Hashes(l.tree.Size()) {
			t.Fatalf("size %d: got %s, %v, want %s, %v", l.tree.Size(), got, err, want, err2)
		}
		found := map[int64]Hash{}
		for _, i := range Frontier(l.tree.Size()) {
			found[i] = l.hashes[i]
		}
		again, err := NewTree(l.tree.Size(), found)
		if err != nil {
			t.Fatal(err)
		}
		if root, err := again.Root(); err != nil || root != want {
			t.Fatalf("read back: got %s, %v", root, err)
		}
		l.add(t, Entry{At: at, Object: fmt.Sprint(i)})
	}
}

func TestEntryHasOneForm(t *testing.T) {
	t.Parallel()
	a := Entry{N: 3, At: at.In(time.FixedZone("", 3600)).Add(999), Actor: "key:a", Action: "x",
		Before: json.RawMessage(`{"b":1.50, "a":{"d":2,"c":"<&>"}}`), After: json.RawMessage(" null ")}
	got, err := a.Encode()
	want := `{"n":3,"at":"2026-03-01T12:00:00Z","actor":"key:a","action":"x","before":{"a":{"c":"<&>","d":2},"b":1.50}}`
	if err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	a.After = json.RawMessage(`"` + strings.Repeat("x", MaxValue) + `"`)
	if got, err = a.Encode(); err != nil || len(got) > 400 || !strings.Contains(string(got), `"after":{"bytes":65538,"sha256":"`) {
		t.Errorf("a long value: got %.400s, %v", got, err)
	}
	a.After = json.RawMessage(`{"a":`)
	if _, err = a.Encode(); err == nil {
		t.Error("a value that is not JSON was accepted")
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	s, err := NewKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseKey(" " + s.Private() + "\n")
	if err != nil || again.Public() != s.Public() {
		t.Errorf("got %v, %v", again, err)
	}
	c := Checkpoint{Size: 7, Root: Hash{1}}
	signed, err := s.Checkpoint(c)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenCheckpoint(signed, s.Public(), s.Public()); err != nil || got != c {
		t.Errorf("got %v, %v", got, err)
	}
	other, err := NewKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCheckpoint(signed, other.Public()); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("got %v, want another key", err)
	}
	for _, bad := range []string{"", "x", s.Public(), s.Private()[:40], strings.Replace(s.Private(), Name, "other", 1)} {
		if _, err := ParseKey(bad); err == nil || strings.Contains(err.Error(), "x+") || bad != "" && len(bad) > 20 &&
			strings.Contains(err.Error(), bad) {
			t.Errorf("%.20q: got %v", bad, err)
		}
	}
	if CheckKey(s.Public()) != nil || CheckKey(s.Private()) == nil {
		t.Error("a key is taken for the other")
	}
}

func TestExportsVerify(t *testing.T) {
	t.Parallel()
	l := newLog(t, 10)
	kept := l.checkpoint(t)
	for range 10 {
		l.add(t, Entry{At: at, Actor: "key:a", Action: "x"})
	}
	for _, o := range []Options{{}, {Keys: []string{l.signer.Public()}}, {Keys: []string{l.signer.Public()}, Kept: kept},
		{Kept: l.checkpoint(t)}} {
		for _, filtered := range []bool{false, true} {
			r := verified(l.export(t, filtered, kept), o)
			if o.Kept != "" && o.Kept != kept { // the newest: needs no proof
				r = verified(l.export(t, filtered, ""), o)
			}
			if r.Total != 0 || r.Size != 21 || !filtered && r.Leaves != 21 || filtered && (r.Leaves != 7 || r.Proofs != 7) {
				t.Errorf("filtered %v: got %+v", filtered, r)
			}
		}
	}
	if r := verified(l.export(t, true, ""), Options{Kept: kept}); !strings.Contains(text(r), "no proof for the kept checkpoint") {
		t.Errorf("got %s", text(r))
	}
}

// TestTamperedExports: the words name the place.
func TestTamperedExports(t *testing.T) {
	t.Parallel()
	l := newLog(t, 9)
	old := l.checkpoint(t)
	oldLog := *l
	oldFile := oldLog.export(t, false, "")
	for range 5 {
		l.add(t, Entry{At: at, Actor: "key:a", Action: "x"})
	}
	newest := l.checkpoint(t)
	other := newLog(t, 14)
	pin := Options{Keys: []string{l.signer.Public()}}
	lines := func(b []byte) []string { return strings.SplitAfter(strings.TrimSuffix(string(b), "\n"), "\n") }
	full, some := lines(l.export(t, false, "")), lines(l.export(t, true, ""))
	full[len(full)-1] += "\n"
	some[len(some)-1] += "\n"
	with := func(f []string, change func(f []string) []string) []byte {
		return []byte(strings.Join(change(append([]string(nil), f...)), ""))
	}
	swap := func(f []string) []string { f[4], f[5] = f[5], f[4]; return f }
	replace := func(i int, from, to string) func(f []string) []string {
		return func(f []string) []string {
			if !strings.Contains(f[i], from) {
				t.Fatalf("no %q in %s", from, f[i])
			}
			f[i] = strings.Replace(f[i], from, to, 1)
			return f
		}
	}
	drop := func(i int) func(f []string) []string {
		return func(f []string) []string { return append(f[:i], f[i+1:]...) }
	}
	quote := func(s string) string { b, _ := marshal(s); return string(b) }
	for name, c := range map[string]struct {
		file []byte
		o    Options
		want []string
	}{
		"alter": {with(full, replace(5, `gr_3`, `gr_4`)), pin,
			[]string{"altered: leaf 4 was altered", "signature: the file was altered"}},
		"alter, proved": {with(some, replace(2, `gr_4`, `gr_9`)), pin,
			[]string{"altered: leaf 5 is not in the log", "signature: the file was altered"}},
		"delete":         {with(full, drop(5)), pin, []string{"missing: leaf 4 is missing", "signature: the file was altered"}},
		"delete, proved": {with(some, drop(2)), pin, []string{"signature: the file was altered"}},
		"swap": {with(full, swap), pin, []string{"missing: leaf 3 is missing", "order: leaf 3 comes after leaf 4",
			"signature: the file was altered"}},
		"swap, proved": {with(some, swap), pin, []string{"order: leaf 11 comes after leaf 14", "signature: the file was altered"}},
		"forge": {with(full, func(f []string) []string { return append(f[:5], append([]string{f[4]}, f[5:]...)...) }), pin,
			[]string{"order: leaf 3 comes after leaf 3", "signature: the file was altered"}},
		"cut off": {with(full, func(f []string) []string { return f[:10] }), pin,
			[]string{"missing: leaves 9 to 14 are missing at the end", "missing: the file is cut off"}},
		"no last row": {with(full, drop(len(full)-2)), pin, []string{"missing: leaves 14 to 14 are missing at the end"}},
		"no tail, and the head of then": {with(full, func(f []string) []string {
			f = replace(0, quote(newest), quote(old))(f)
			return append(f[:11], f[len(f)-1])
		}), pin, []string{"signature: the file was altered"}},
		"an old export": {oldFile, Options{Keys: pin.Keys, Kept: newest},
			[]string{"checkpoint: the log has 10 leaves, and the kept checkpoint covers 15"}},
		"another log": {other.export(t, false, ""), pin, []string{"key: the file names the key",
			"signature: the signature of the file: it is signed with another key"}},
		"another log, no key, kept": {other.export(t, false, ""), Options{Kept: newest},
			[]string{"history was rewritten", "checkpoint: the kept checkpoint of 15 leaves: it is signed with another key"}},
		"another filter": {with(some, replace(0, `"c1"`, `"c2"`)), pin, []string{"signature: the file was altered"}},
		"two signatures": {with(full, func(f []string) []string { return append(f, f[len(f)-1]) }), pin,
			[]string{"forged: line 18 comes after the signature"}},
		"no newline": {bytes.TrimSuffix([]byte(strings.Join(full, "")), []byte("\n")), pin,
			[]string{"signature: the line of the signature was altered"}},
		"nothing":        {nil, pin, []string{"form: line 1"}},
		"something else": {[]byte("{}\n"), pin, []string{"form: line 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := text(verified(c.file, c.o))
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("no fault %q in\n%s", want, got)
				}
			}
		})
	}
}

// TestEveryEditOfAnExportIsFound: bytes changed, taken out, put in, moved;
// lines dropped, doubled, swapped; the end cut off.
func TestEveryEditOfAnExportIsFound(t *testing.T) {
	t.Parallel()
	l := newLog(t, 12)
	o := Options{Keys: []string{l.signer.Public()}}
	files := [][]byte{l.export(t, false, ""), l.export(t, true, "")}
	rapid.Check(t, func(t *rapid.T) {
		file := files[rapid.IntRange(0, 1).Draw(t, "filtered")]
		b := bytes.Clone(file)
		for range rapid.IntRange(1, 3).Draw(t, "edits") {
			if len(b) == 0 {
				break
			}
			i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
			lines := bytes.SplitAfter(b, []byte("\n"))
			j, k := rapid.IntRange(0, len(lines)-1).Draw(t, "line"), rapid.IntRange(0, len(lines)-1).Draw(t, "other")
			switch rapid.IntRange(0, 6).Draw(t, "kind") {
			case 0:
				b[i] = rapid.Byte().Draw(t, "byte")
			case 1:
				b = append(b[:i], b[i+1:]...)
			case 2:
				b = append(b[:i], append([]byte{rapid.Byte().Draw(t, "byte")}, b[i:]...)...)
			case 3:
				b = b[:i]
			case 4:
				lines[j], lines[k] = lines[k], lines[j]
				b = bytes.Join(lines, nil)
			case 5:
				b = bytes.Join(append(lines[:j:j], lines[j+1:]...), nil)
			case 6:
				b = bytes.Join(append(lines[:j:j], append([][]byte{lines[k]}, lines[j:]...)...), nil)
			}
		}
		if r := verified(b, o); (r.Total == 0) != bytes.Equal(b, file) {
			t.Fatalf("faults: %d, and the file is changed: %v\n%s", r.Total, !bytes.Equal(b, file), b)
		}
	})
}

// TestEveryByteOfTheSignatureCounts: base64 has spellings that decode to the same.
func TestEveryByteOfTheSignatureCounts(t *testing.T) {
	t.Parallel()
	l := newLog(t, 2)
	file := l.export(t, false, "")
	o := Options{Keys: []string{l.signer.Public()}}
	for i := bytes.LastIndex(file, []byte(`{"signature"`)); i < len(file); i++ {
		for _, c := range []byte("AZaz09+/=\n \"") {
			b := bytes.Clone(file)
			b[i] = c
			if r := verified(b, o); (r.Total == 0) != bytes.Equal(b, file) {
				t.Errorf("byte %d as %q: %d faults", i, c, r.Total)
			}
		}
	}
}

func TestSumIsOfASet(t *testing.T) {
	t.Parallel()
	var a, b, c Sum
	a.Add([]byte("x"), []byte("y"))
	a.Add([]byte("z"))
	b.Add([]byte("z"))
	b.Add([]byte("x"), []byte("y"))
	c.Add([]byte("xy"), nil)
	c.Add([]byte("z"))
	if a.Rows() != b.Rows() || a.Rows() == c.Rows() || a.Rows().Rows != 2 || (*Sum)(nil).Rows() != (Rows{}) {
		t.Errorf("got %v, %v, %v", a.Rows(), b.Rows(), c.Rows())
	}
}

func BenchmarkSum(b *testing.B) {
	var s Sum
	row := make([]byte, 300)
	for b.Loop() {
		s.Add(row)
	}
}
