package catalogfile

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
)

var update = flag.Bool("update", false, "write what the golden files should say")

// archive is a txtar file: a comment, then files each under "-- name --".
type archive struct {
	comment string
	names   []string
	files   map[string]string
}

var archiveLine = regexp.MustCompile(`(?m)^-- (\S+) --\n`)

func readArchive(t *testing.T, path string) archive {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	marks := archiveLine.FindAllStringSubmatchIndex(text, -1)
	if len(marks) == 0 {
		t.Fatalf("%s holds no files", path)
	}
	a := archive{comment: text[:marks[0][0]], files: map[string]string{}}
	for i, m := range marks {
		end := len(text)
		if i+1 < len(marks) {
			end = marks[i+1][0]
		}
		name := text[m[2]:m[3]]
		a.names = append(a.names, name)
		a.files[name] = text[m[1]:end]
	}
	return a
}

// TestBadFiles parses every bad file and compares all that is said of it with
// the file's .want.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	paths, _ := filepath.Glob("testdata/bad/*.txtar")
	if len(paths) == 0 {
		t.Fatal("no bad files")
	}
	for _, path := range paths {
		a := readArchive(t, path)
		var out bytes.Buffer
		out.WriteString(a.comment)
		for _, name := range a.names {
			if strings.HasSuffix(name, ".want") {
				continue
			}
			want := strings.TrimSuffix(strings.TrimSuffix(name, ".yaml"), ".json") + ".want"
			got := problems(t, name, []byte(a.files[name]))
			fmt.Fprintf(&out, "-- %s --\n%s-- %s --\n%s", name, a.files[name], want, got)
			if !*update && got != a.files[want] {
				t.Errorf("%s: %s\ngot:\n%swant:\n%s", path, name, got, a.files[want])
			}
		}
		if *update {
			if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// problems returns what Parse says of a bad file, one problem a line.
func problems(t *testing.T, name string, src []byte) string {
	t.Helper()
	c, err := Parse(name, src)
	var e *usher.Error
	if !errors.As(err, &e) || c != nil {
		t.Errorf("%s: got %v, %v, want no catalogue and an *usher.Error", name, c, err)
		return ""
	}
	if e.Code != usher.Invalid || e.Detail == "" || len(e.Problems) == 0 {
		t.Errorf("%s: got code %s, detail %q, %d problems", name, e.Code, e.Detail, len(e.Problems))
	}
	var b strings.Builder
	for _, p := range e.Problems {
		place, ok := strings.CutPrefix(p.Location, name)
		if !ok {
			t.Errorf("%s: the location %q does not name the file", name, p.Location)
		}
		fmt.Fprintf(&b, "%s: %s\n", strings.TrimPrefix(place, ":"), p.Message)
	}
	return b.String()
}
