package story_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/usher-sh/usher/internal/story"
)

func parse(script string) (*story.Story, error) {
	return story.Parse([]byte("Title\n# S07 S18\nProse.\n-- catalog.yaml --\nusher: 1\n-- story --\n" + script))
}

func TestParse(t *testing.T) {
	t.Parallel()
	s, err := parse(`
# a remark
override acme calls {"limit": 5, "per": "day"} expires_at=2026-01-01T00:00:00Z
check acme calls 2 -> no limit_reached used=5 row[plan:pro@1].limit=3 unlimited value={"a": 1}
explain acme calls -> contains "two words" one
settle rsv_1 7 -> error conflict
release rsv_2 -> yes within_limit late
seats acme members -> ann bob:pending
seats acme members -> nobody
`)
	if err != nil {
		t.Fatal(err)
	}
	if s.Title != "Title" || !reflect.DeepEqual(s.Rules, []string{"S07", "S18"}) || len(s.Files) != 1 || len(s.Lines) != 7 {
		t.Fatalf("got %+v", s)
	}
	got := s.Lines[0]
	if got.Verb != "override" || !reflect.DeepEqual(got.Args, []string{"acme", "calls", `{"limit": 5, "per": "day"}`}) ||
		got.Opts["expires_at"] != "2026-01-01T00:00:00Z" || got.Number != 3 || got.Expect != nil {
		t.Errorf("override: got %+v", got)
	}
	want := story.Expect{Reason: "limit_reached", Fields: []story.Field{{"used", "5"}, {"row[plan:pro@1].limit", "3"}, {"unlimited", ""},
		{"value", `{"a": 1}`}}}
	if !reflect.DeepEqual(*s.Lines[1].Expect, want) {
		t.Errorf("check: got %+v, want %+v", *s.Lines[1].Expect, want)
	}
	if got := s.Lines[2].Expect.Contains; !reflect.DeepEqual(got, []string{"two words", "one"}) {
		t.Errorf("explain: got %q", got)
	}
	if got := s.Lines[3].Expect; got.Error != "conflict" || got.Allowed {
		t.Errorf("settle: got %+v", got)
	}
	if got := s.Lines[4].Expect; !got.Allowed || !reflect.DeepEqual(got.Fields, []story.Field{{"late", ""}}) {
		t.Errorf("release: got %+v", got)
	}
	if got := s.Lines[5].Expect.Seats; !reflect.DeepEqual(got, []string{"ann", "bob:pending"}) {
		t.Errorf("seats: got %q", got)
	}
	if got := s.Lines[6].Expect.Seats; len(got) != 0 {
		t.Errorf("nobody: got %q", got)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]string{
		"settle rsv_1 4":                "arrow",
		"grant acme api 4 -> error x":   "arrow",
		"settle rsv_1 4 -> error":       "error CODE",
		"settle -> error x":             "needs 1 arguments",
		"dance acme":                    "unknown verb",
		"check acme":                    "needs 2 arguments",
		"check acme sso":                "arrow",
		"at T -> yes granted":           "arrow",
		"check acme sso -> maybe x":     "yes|no",
		"check acme sso -> yes x Used":  "invalid expectation",
		"explain acme sso -> has words": "contains",
	} {
		if _, err := parse(script); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", script, err, want)
		}
	}
	for _, src := range []string{"", "Title\n", "Title\n# S7\n", "Title\n# S07\n-- story --\nat T\n"} {
		if _, err := story.Parse([]byte(src)); err == nil {
			t.Errorf("%q: got no error", src)
		}
	}
}
