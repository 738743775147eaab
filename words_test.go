package usher_test

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"
)

// The bounds of a Go file: a reader should see a line whole, and hold a file in
// mind.
const (
	maxColumns = 140 // a tab counts 1; tests too
	maxLines   = 600 // not of tests
)

// longTag are lines with a struct tag that Go does not let anybody break.
var longTag = regexp.MustCompile("`[a-z]+:\".*\"`")

// riddles are phrases that readers stumble over, and what to write instead. Each
// is an expression that begins with a letter, for whole words in lower case. They
// are found across line ends and comment marks.
var riddles = []struct{ phrase, instead string }{
	{`where nothing is said`, `"(default …)" or "by default"`},
	{`is no (field|parameter) of`, `"unknown field; known fields: …"`},
	{`is not the json that`, `"invalid JSON at line 1, column 1: …"`},
	{`is no (key|map|list|number|json|utf-8|text|address|date|path)`, `"is not a …", or what it must be`},
	{`whoever`, `the actor: "the operator", "the caller", "a person who …"`},
	{`somebody`, `the actor: "an operator", "another caller", "a person"`},
	{`those apart`, `what differs, and how it is compared`},
	{`t(old|ells?|elling) (\w+ ){0,3}apart`, `"distinguished by …" or "compared by …"`},
	{`what it is that`, `what it is`},
	{`own accord`, `"by itself"`},
	{`in truth`, `"actually"`},
	{`first first`, `"oldest first"`},
	{`for good`, `"permanently"`},
	{`the other way round`, `the second case in full`},
	{`where (there|it) is none`, `"if there is none"`},
	{`the only time that`, `"once"`},
	{`that is the most`, `"which is the limit"`},
	{`where nobody (else )?says`, `"by default"`},
	{`do (much|great) harm`, `"high-risk actions"`},
	{`for want of`, `"for lack of"`},
	{`permissions are members`, `"is required when \"permission\" is set"`},
	{`who sits`, `"holds the seat"`},
	{`as ever`, `"as always", or nothing`},
	{`may stand within each other`, `"may be nested"`},
	{`also where`, `"even if"`},
	{`those that are over`, `"ended ones"`},
	{`one logs in`, `the actor: "the operator logs in"`},
	{`(which|that|it|this) (is|was) no (error|failure|attempt|try|secret|route|flag|command|permission|switch|grant|outage|part|use)`, `"is not a …"`},
	{`(is|are) no (member|part|dependency|filter|outage|local|good|schemas|secret|error) (of|to|path|and|that|one)`, `"is not a …"`},
	{`hereby`, `"by this"`},
	{`thereby`, `"so that"`},
	{`whereby`, `"by which"`},
	{`hence`, `"so"`},
	{`upon`, `"on"`},
	{`lest`, `"so that … not"`},
	{`shall`, `"must" or "will"`},
}

func TestWords(t *testing.T) {
	t.Parallel()
	found, err := unplainLines(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Errorf("%s:%d: %s", f.file, f.line, f.text)
	}
}

// TestWords_Finds: each kind of breach is found, at its line.
func TestWords_Finds(t *testing.T) {
	t.Parallel()
	fsys := fstest.MapFS{
		"a/a.go": {Data: []byte("package a\n\n// Port is 8080 where\n// nothing is said.\nvar Port = 8080\n// " + strings.Repeat("é", 138) +
			"\n")},
		"a/b.go":        {Data: []byte("package a\n" + strings.Repeat("\n", maxLines))},
		"a/b_test.go":   {Data: []byte("package a\n" + strings.Repeat("\n", maxLines))},
		"docs/page.md":  {Data: []byte("# Page\n\nAsk\nwhoever knows.\n")},
		"docs/x.bin":    {Data: []byte("whoever")},
		"words_test.go": {Data: []byte("// whoever\n")},
	}
	found, err := unplainLines(fsys)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, fmt.Sprintf("%s:%d", f.file, f.line))
	}
	if want := []string{"a/a.go:3", "a/a.go:6", "a/b.go:601", "docs/page.md:4"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// breach is one place where a law of words or lines is broken.
type breach struct {
	file string
	line int // from 1
	text string
}

// unplainLines finds the riddles of all texts, and the Go lines and files that
// are too long.
func unplainLines(fsys fs.FS) (all []breach, err error) {
	phrases := make([]*regexp.Regexp, len(riddles))
	for i, r := range riddles {
		phrases[i] = regexp.MustCompile(r.phrase + `\b`)
	}
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "bin" ||
			d.Name() == "planted"): // planted bugs quote the code
			return fs.SkipDir
		case d.IsDir() || name == "words_test.go":
			return nil
		}
		switch path.Ext(name) {
		case ".go", ".md", ".txt", ".txtar", ".yaml", ".sql":
		default:
			return nil
		}
		src, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		lines := strings.Split(string(src), "\n")
		if path.Ext(name) == ".go" {
			all = append(all, longLines(name, lines)...)
		}
		// The text without line ends and comment marks, and where each line begins in it.
		var flat strings.Builder
		begins := make([]int, len(lines))
		for i, line := range lines {
			begins[i] = flat.Len()
			flat.WriteString(strings.TrimLeft(line, " \t/#*->|") + " ")
		}
		text := strings.ToLower(flat.String())
		for i, phrase := range phrases {
			for _, at := range phrase.FindAllStringIndex(text, -1) {
				if at[0] > 0 && 'a' <= text[at[0]-1] && text[at[0]-1] <= 'z' {
					continue // the end of a longer word
				}
				line, there := slices.BinarySearch(begins, at[0])
				if there {
					line++
				}
				all = append(all, breach{name, line, fmt.Sprintf("%q is a riddle: write %s", text[at[0]:at[1]], riddles[i].instead)})
			}
		}
		return nil
	})
	slices.SortFunc(all, func(a, b breach) int {
		return strings.Compare(fmt.Sprintf("%s %6d", a.file, a.line), fmt.Sprintf("%s %6d", b.file, b.line))
	})
	return all, err
}

// longLines finds what is too long of one Go file.
func longLines(name string, lines []string) (all []breach) {
	if count := len(lines) - 1; count > maxLines && !strings.HasSuffix(name, "_test.go") {
		all = append(all, breach{name, count, fmt.Sprintf("a file of %d lines: split it by duty, %d are enough", count, maxLines)})
	}
	for i, line := range lines {
		if n := utf8.RuneCountInString(line); n > maxColumns && !longTag.MatchString(line) {
			all = append(all, breach{name, i + 1, fmt.Sprintf("a line of %d columns: break it, %d are enough", n, maxColumns)})
		}
	}
	return all
}
