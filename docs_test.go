package usher_test

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
)

// pages reads every Markdown page that a reader may come across.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range []string{"docs", "examples"} {
		err := fs.WalkDir(os.DirFS("."), dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && path.Ext(name) == ".md" {
				var text []byte
				text, err = os.ReadFile(name)
				all[name] = string(text)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md"} {
		all[name] = readPage(t, name)
	}
	return all
}

func readPage(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDocsCodes: a code that a caller can meet is explained where it looks for
// it, as `code`.
func TestDocsCodes(t *testing.T) {
	t.Parallel()
	codes := map[string][]string{}
	for _, r := range usher.Reasons {
		codes["docs/terms.md"] = append(codes["docs/terms.md"], string(r))
		codes["docs/reference/decisions.md"] = append(codes["docs/reference/decisions.md"], string(r))
	}
	for _, s := range []usher.Status{usher.Active, usher.PastDueSt, usher.Suspended, usher.Canceled, usher.Trialing, usher.Ended,
		usher.Scheduled} {
		codes["docs/terms.md"] = append(codes["docs/terms.md"], string(s))
	}
	for _, k := range usher.Kinds {
		codes["docs/terms.md"] = append(codes["docs/terms.md"], string(k))
		codes["docs/reference/catalogue.md"] = append(codes["docs/reference/catalogue.md"], string(k))
	}
	for _, u := range usher.Units {
		codes["docs/reference/catalogue.md"] = append(codes["docs/reference/catalogue.md"], string(u))
	}
	for c := range usher.Codes {
		codes["docs/reference/http.md"] = append(codes["docs/reference/http.md"], string(c))
	}
	codes["docs/reference/http.md"] = append(codes["docs/reference/http.md"], usher.RejectInvalid, usher.RejectUnknownCustomer,
		usher.RejectTooLate, usher.RejectTooEarly, usher.RejectIDReused, usher.RejectInvalidValue, usher.RejectOverflow)
	all := pages(t)
	for page, list := range codes {
		for _, code := range list {
			if !strings.Contains(all[page], "`"+code+"`") {
				t.Errorf("%s does not explain `%s`", page, code)
			}
		}
	}
}

// TestDocsCatalogues: every catalogue on a page is one that usher reads.
func TestDocsCatalogues(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile("(?ms)^```yaml[^\n]*\n(.*?)^```")
	found := 0
	for name, text := range pages(t) {
		for i, m := range block.FindAllStringSubmatch(text, -1) {
			if !strings.HasPrefix(m[1], "usher: 1\n") {
				continue
			}
			found++
			if _, err := catalogfile.Parse(fmt.Sprintf("%s, block %d", name, i+1), []byte(m[1])); err != nil {
				t.Error(err)
			}
		}
	}
	if found == 0 {
		t.Error("no catalogue was found on any page: is the pattern right?")
	}
}

// TestDocsLinks: a link to a file leads to one, and one to a heading to a
// heading.
func TestDocsLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	all := pages(t)
	for name, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, heading, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file := name
			if target != "" {
				file = path.Join(path.Dir(name), target)
			}
			if info, err := os.Stat(filepath.FromSlash(file)); err != nil {
				t.Errorf("%s: the link %s leads nowhere", name, m[1])
			} else if heading != "" && !info.IsDir() && !hasHeading(readPage(t, file), heading) {
				t.Errorf("%s: the link %s leads to no heading of %s", name, m[1], file)
			}
		}
	}
}

// hasHeading reports whether a page has a heading that renders as #anchor.
func hasHeading(page, anchor string) bool {
	for line := range strings.Lines(page) {
		text, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " ")
		if !ok || !strings.HasPrefix(line, "#") {
			continue
		}
		var slug strings.Builder
		for _, c := range strings.ToLower(strings.TrimSpace(text)) {
			switch {
			case c == ' ':
				slug.WriteByte('-')
			case c == '-', c == '_', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c > 0x7f:
				slug.WriteRune(c)
			}
		}
		if slug.String() == anchor {
			return true
		}
	}
	return false
}
