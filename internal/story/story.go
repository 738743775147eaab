// Package story reads decision stories: a catalogue and a script of lines with
// expected answers, one story a file. It only parses; the tests that run a story,
// through the engine or over HTTP, decide what each line does there.
//
// A story is a txtar archive. Its comment is a title line, a line "# S07 S18"
// that names its rules, and prose. Its files are catalogues ("catalog.yaml" is
// in force from the start) and "story", the script:
//
//	at 2026-01-31T00:00:00Z
//	customer acme timezone=America/New_York anchor=2026-01-31T00:00:00Z
//	subscribe acme pro@1 addons=api-pack:2,eu starts_at=… ends_at=… trial_ends_at=…|null anchor=…
//	patch acme [FAMILY] plan=… addons=… status=… ends_at=…|null when=now|period_end|T
//	override acme sso true expires_at=…
//	unoverride ovr_1
//	grant acme api_calls 5000 priority=50 kind=purchase effective_at=… expires_at=…
//	void gr_1
//	catalog second.yaml
//	record acme api_calls 20 at=… as=e1
//	consume acme api_calls 10 as=k1 -> yes within_limit used=30 remaining=70 deductions=plan:pro@1:10
//	correct k1 3 -> yes within_limit used=27 returned=plan:pro@1:3 left=7
//	reserve acme api_calls 10 ttl=60s -> yes within_limit used=27 reserved=10 remaining=63
//	settle rsv_1 7 -> yes within_limit used=34 reserved=0 state=settled
//	release rsv_1 -> error conflict
//	seat acme members ann state=pending expires_at=… ttl=… -> yes within_limit used=0 reserved=1
//	seats acme members -> ann bob:pending cat:excess
//	unseat acme members ann
//	check acme sso at=… -> no not_entitled
//	explain acme sso -> contains "no plan"
//
// patch changes the customer's newest subscription, or the newest of the family if
// one is named. Overrides, grants and reservations are called ovr_1, gr_1, rsv_1, …
// in the order in which the story creates them; as=k1 names a take or an event that
// is corrected later. settle without an amount settles what is held. seats expects
// all holders, oldest first, or "nobody". A line that begins with # is a comment.
package story

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"
)

// Story is one file, parsed.
type Story struct {
	Title string
	Rules []string          // "S07"
	Files map[string][]byte // all but the script, by name
	Lines []Line
}

// Line is one step of the script.
type Line struct {
	Number int    // in the script, from 1
	Text   string // as written
	Verb   string
	Args   []string          // the words after the verb
	Opts   map[string]string // name=value before the arrow
	Expect *Expect           // nil if the line has no arrow
}

// Expect is the answer after the arrow. Only the fields that it names are compared.
type Expect struct {
	Allowed  bool
	Reason   string
	Error    string   // a code such as "conflict" in place of an answer
	Fields   []Field  // in the order written; a bare word has no value
	Contains []string // of explain: texts that the trace must contain
	Seats    []string // of seats: "ann", "bob:pending", "cat:excess"; empty is nobody
}

// Field is one expected figure: "used" "30", "row[plan:pro@1].limit" "100".
type Field struct{ Name, Value string }

// verbs holds the smallest number of arguments of each verb.
var verbs = map[string]int{
	"at": 1, "customer": 1, "subscribe": 2, "patch": 1, "override": 3, "unoverride": 1, "grant": 3, "void": 1,
	"catalog": 1, "record": 3, "consume": 3, "check": 2, "explain": 2,
	"correct": 2, "reserve": 3, "settle": 1, "release": 1, "seat": 3, "seats": 2, "unseat": 3,
}

// silent lists the verbs without an arrow: they are not answered by a decision.
var silent = []string{"at", "customer", "subscribe", "patch", "override", "unoverride", "grant", "void", "catalog", "record", "unseat"}

var (
	rule   = regexp.MustCompile(`^S\d\d$`)
	option = regexp.MustCompile(`^([a-z_]+)=(.*)$`)
	field  = regexp.MustCompile(`^([a-z_]+(?:\[[^\]]+\])?(?:\.[a-z]+)?)=(.*)$`)
)

// Parse reads a story. The error names the line and what would be right.
func Parse(src []byte) (*Story, error) {
	a := txtar.Parse(src)
	s := &Story{Files: map[string][]byte{}}
	for i, line := range strings.Split(string(a.Comment), "\n") {
		if i == 0 {
			s.Title = strings.TrimSpace(line)
		}
		if names, ok := strings.CutPrefix(line, "# "); ok && i > 0 {
			for _, name := range strings.Fields(names) {
				if !rule.MatchString(name) {
					return nil, fmt.Errorf("unknown rule %q; a rule is a letter and two digits, such as S07", name)
				}
				s.Rules = append(s.Rules, name)
			}
		}
	}
	if s.Title == "" || len(s.Rules) == 0 {
		return nil, fmt.Errorf(`a story must begin with its title and a line "# S07 …" that names its rules`)
	}
	script := ""
	for _, f := range a.Files {
		if f.Name == "story" {
			script = string(f.Data)
			continue
		}
		s.Files[f.Name] = f.Data
	}
	if s.Files["catalog.yaml"] == nil || script == "" {
		return nil, fmt.Errorf(`a story must have the files "catalog.yaml" and "story"`)
	}
	for i, text := range strings.Split(script, "\n") {
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		line, err := parseLine(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", i+1, text, err)
		}
		line.Number = i + 1
		s.Lines = append(s.Lines, line)
	}
	return s, nil
}

func parseLine(text string) (Line, error) {
	l := Line{Text: text, Opts: map[string]string{}}
	before, after, arrow := strings.Cut(text, " -> ")
	words := split(before)
	l.Verb = words[0]
	for _, w := range words[1:] {
		if m := option.FindStringSubmatch(w); m != nil {
			l.Opts[m[1]] = m[2]
		} else {
			l.Args = append(l.Args, w)
		}
	}
	least, ok := verbs[l.Verb]
	if !ok {
		return l, fmt.Errorf("unknown verb %q", l.Verb)
	}
	if len(l.Args) < least {
		return l, fmt.Errorf("%s needs %d arguments", l.Verb, least)
	}
	if slices.Contains(silent, l.Verb) == arrow {
		return l, fmt.Errorf("%s have no arrow; all other verbs have one", strings.Join(silent, ", "))
	}
	if arrow {
		e, err := parseExpect(l.Verb, split(after))
		if err != nil {
			return l, err
		}
		l.Expect = e
	}
	return l, nil
}

func parseExpect(verb string, words []string) (*Expect, error) {
	e := &Expect{}
	if verb == "explain" {
		if len(words) < 2 || words[0] != "contains" {
			return nil, fmt.Errorf(`an explain line expects: contains "text" …`)
		}
		for _, w := range words[1:] {
			e.Contains = append(e.Contains, strings.Trim(w, `"`))
		}
		return e, nil
	}
	if verb == "seats" {
		if len(words) == 0 {
			return nil, fmt.Errorf("a seats line expects holders, or nobody")
		}
		if words[0] != "nobody" {
			e.Seats = words
		}
		return e, nil
	}
	if len(words) == 2 && words[0] == "error" {
		e.Error = words[1]
		return e, nil
	}
	if len(words) < 2 || words[0] != "yes" && words[0] != "no" {
		return nil, fmt.Errorf("expected: yes|no REASON … or error CODE")
	}
	e.Allowed, e.Reason = words[0] == "yes", words[1]
	for _, w := range words[2:] {
		if m := field.FindStringSubmatch(w); m != nil {
			e.Fields = append(e.Fields, Field{m[1], m[2]})
		} else if w == "unlimited" || w == "late" {
			e.Fields = append(e.Fields, Field{Name: w})
		} else {
			return nil, fmt.Errorf("invalid expectation %q; write a field and a value, such as used=5", w)
		}
	}
	return e, nil
}

// split splits a line at blanks that are outside quotes, braces and brackets.
func split(s string) (words []string) {
	depth, quoted, start := 0, false, -1
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		blank := s[i] == ' ' && !quoted && depth == 0
		if blank && start >= 0 {
			words = append(words, s[start:i])
			start = -1
		} else if !blank && start < 0 {
			start = i
		}
	}
	if start >= 0 {
		words = append(words, s[start:])
	}
	return words
}
