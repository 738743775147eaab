package catalogfile

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

// condition compiles one condition in a catalogue of its own.
func condition(t testing.TB, when string) usher.Condition {
	t.Helper()
	text, _ := json.Marshal(when)
	c := mustParse(t, `{"usher": 1, "roles": {"r": {"when": `+string(text)+`}}}`)
	all, err := Conditions(c)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[when] == nil {
		t.Fatalf("got %d conditions for %s", len(all), when)
	}
	return all[when]
}

func object(t testing.TB, src string, numbers bool) map[string]any {
	t.Helper()
	var m map[string]any
	d := json.NewDecoder(strings.NewReader(src))
	if numbers {
		d.UseNumber()
	}
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestConditions asks what a document editor, an office and a bank may ask. An
// error is a no: missing data denies (A01).
func TestConditions(t *testing.T) {
	t.Parallel()
	const fails = "fails"
	ask := func(numbers bool) *usher.AccessRequest {
		return &usher.AccessRequest{
			Subject: usher.Entity{Type: "user", ID: "alice",
				Properties: object(t, `{"level": 3, "ratio": 0.5, "big": 9007199254740993, "teams": ["eu", "ops"], "email": "alice@acme.com", `+
					`"vip": true, "nested": {"a": {"b": [1, {"c": "x"}]}}, "nothing": null}`, numbers)},
			Action:           "update",
			ActionProperties: map[string]any{"soft": true},
			Resource: usher.Entity{Type: "document", ID: "d1",
				Properties: object(t, `{"owner": "alice", "team": "eu", "amount": 100.5, "until": "2026-03-11T00:00:00Z", "members": [{"id": `+
					`"bob"}, {"id": "alice"}]}`, numbers)},
			Context: map[string]any{"ip": "10.1.2.3"},
			Now:     time.Date(2026, 3, 10, 12, 30, 0, 0, time.FixedZone("x", 3*3600)),
		}
	}
	tests := map[string]string{
		"resource.properties.owner == subject.id":                                      "true",
		"resource.properties.owner != subject.id":                                      "false",
		"subject.properties.level >= 3":                                                "true",
		"subject.properties.level == 3":                                                "true",
		"subject.properties.level == 3.0":                                              "true",
		"subject.properties.level > 3":                                                 "false",
		"subject.properties.level in [1, 2, 3]":                                        "true",
		"subject.properties.ratio < 1":                                                 "true",
		"resource.properties.amount <= 100.5 && resource.properties.amount > 100":      "true",
		"subject.properties.vip":                                                       "true",
		"subject.properties.email":                                                     fails, // not a boolean
		"subject.properties.nothing == null":                                           "true",
		"subject.properties.missing == 'x'":                                            fails,
		"subject.properties.missing == 'x' || subject.id == 'alice'":                   "true", // as CEL has it
		"!(subject.properties.missing == 'x')":                                         fails,
		"has(subject.properties.missing)":                                              "false",
		"has(subject.properties.nested.a.b)":                                           "true",
		"subject.properties.nested.a.b[1].c == 'x'":                                    "true",
		"subject.properties.nested.a.b[7].c == 'x'":                                    fails,
		"subject.properties['level'] == 3":                                             "true",
		"resource.properties.team in subject.properties.teams":                         "true",
		"'level' in subject.properties":                                                "true",
		"subject.properties.teams.exists(t, t == resource.properties.team)":            "true",
		"resource.properties.members.exists(m, m.id == subject.id)":                    "true",
		"resource.properties.members.all(m, m.id == subject.id)":                       "false",
		"size(subject.properties.teams) == 2":                                          "true",
		"subject.properties.email.endsWith('@acme.com')":                               "true",
		"subject.properties.email.matches('^[a-z]+@acme[.]com$')":                      "true",
		"subject.type == 'user' && resource.type == 'document' && resource.id == 'd1'": "true",
		"action.name == 'update' && action.properties.soft":                            "true",
		"context.ip.startsWith('10.')":                                                 "true",
		"context.country == 'de'":                                                      fails,
		"now < timestamp('2026-03-10T10:00:00Z')":                                      "true",
		"now < timestamp(resource.properties.until)":                                   "true",
		"now - timestamp('2026-03-10T09:00:00Z') == duration('30m')":                   "true",
		"now.getHours() == 9":                                                          "true", // UTC, whatever the zone of the clock
		"now.getHours('Europe/Berlin') == 10":                                          "true",
		"now.getDayOfWeek('+02:00') == 2":                                              "true",
		"subject.properties.level + 'x' == ''":                                         fails,
		"1 / (subject.properties.level - subject.properties.level) == 1":               fails,
		"true": "true",
	}
	for when, want := range tests {
		is := condition(t, when)
		for _, numbers := range []bool{false, true} {
			r := ask(numbers)
			got := fails
			if yes, err := is(r); err == nil {
				got = fmt.Sprint(yes)
			} else if yes {
				t.Errorf("%s: yes beside the error %v", when, err)
			}
			if got != want {
				_, err := is(r)
				t.Errorf("%s (json.Number %v): got %s (%v), want %s", when, numbers, got, err, want)
			}
		}
	}
	// Exact numbers stay exact where the request kept them.
	if yes, err := condition(t, "subject.properties.big == 9007199254740993")(ask(true)); !yes {
		t.Errorf("got %v %v", yes, err)
	}
	for _, level := range []any{3, int64(3), float64(3), json.Number("3"), json.Number("3.0"), json.Number("3e0"), uint64(3), int32(3)} {
		for _, when := range []string{"subject.properties.level >= 3", "subject.properties.level == 3", "subject.properties.level in [3]"} {
			r := &usher.AccessRequest{Subject: usher.Entity{Properties: map[string]any{"level": level}}}
			if yes, err := condition(t, when)(r); !yes {
				t.Errorf("%s of %T %v: got %v %v", when, level, level, yes, err)
			}
		}
	}
}

// TestConditionsOfNothing: properties and context always exist.
func TestConditionsOfNothing(t *testing.T) {
	t.Parallel()
	for when, want := range map[string]string{
		"subject.properties == {} && action.properties == {} && resource.properties == {} && context == {}": "true <nil>",
		"size(subject.properties) + size(context) == 0":                                                     "true <nil>",
		"has(context.ip)":                  "false <nil>",
		"subject.properties.all(k, false)": "true <nil>",
		"context.ip == ''":                 "false no such key: ip",
		"subject.id == '' && resource.id == '' && action.name == ''": "true <nil>",
	} {
		yes, err := condition(t, when)(&usher.AccessRequest{})
		if got := fmt.Sprint(yes, err); got != want {
			t.Errorf("%s: got %s, want %s", when, strings.ReplaceAll(got, "\n", " "), want)
		}
	}
	if yes, err := condition(t, "true")(nil); yes || err == nil {
		t.Errorf("of no request: got %v %v", yes, err)
	}
}

// TestHostileProperties: whatever a request brings, a condition ends soon, with
// an error.
func TestHostileProperties(t *testing.T) {
	t.Parallel()
	million := make([]any, 1_000_000)
	for i := range million {
		million[i] = "x"
	}
	numbers := make([]any, MaxItems)
	for i := range numbers {
		numbers[i] = float64(i)
	}
	square := make([]any, 1000)
	for i := range square {
		square[i] = million[:1000]
	}
	var deep any = "x"
	for range 100_000 {
		deep = map[string]any{"a": deep, "b": []any{}}
	}
	texts := make([]any, 900)
	for i := range texts {
		texts[i] = strings.Repeat("a", MaxText)
	}
	wide := map[string]any{}
	for i := range 100_000 {
		wide[fmt.Sprint("k", i)] = i
	}
	hostile := map[string]any{"million": million, "numbers": numbers, "square": square, "deep": deep, "texts": texts, "wide": wide,
		"long": strings.Repeat("a", 10_000_000), "text": strings.Repeat("a", MaxText), "digits": json.Number(strings.Repeat("9", 5000)),
		"function": func() {}, "strings": make([]string, 10_000)}
	for _, when := range []string{
		"'y' in subject.properties.million",
		"subject.properties.million.exists(x, x == 'y')",
		"subject.properties.million == subject.properties.million",
		"size(subject.properties.million) > 1",
		"subject.properties.numbers.exists(x, subject.properties.numbers.exists(y, x + y == -1))",
		"subject.properties.numbers.map(x, subject.properties.numbers.map(y, y)) == []",
		"subject.properties.numbers.all(x, now.getHours('Europe/Berlin') >= 0)",
		"subject.properties.square == subject.properties.square",
		"subject.properties.square.exists(x, x == 1)",
		"subject.properties.deep == subject.properties.deep",
		"subject.properties.deep.a.a.a == 'x'",
		"subject.properties.texts.exists(x, subject.properties.texts.exists(y, x != y))",
		"subject.properties.texts.all(x, x.matches('(a|aa|aaa)+$'))",
		"subject.properties.texts.all(x, x + x + x + x != 'a')",
		"subject.properties.wide == subject.properties.wide",
		"subject.properties.wide.exists(k, k == 'x')",
		"subject.properties == context",
		"subject.properties.exists(k, k == 'x')",
		"subject.properties.long == 'x'",
		"subject.properties.long.contains('x')",
		"subject.properties.long.matches('(a|aa)+$')",
		"size(subject.properties.long) > 1",
		"subject.properties.long + 'x' == 'x'",
		"subject.properties.digits > 3",
		"subject.properties.function == 'x'",
		"'x' in subject.properties.strings",
		"[subject.properties.text].map(t, t + t + t + t + t + t + t + t + t + t + t + t + t + t + t + t + t + t + t + t + t + t + t + t + t + " +
			"t + t + t)[0] == 'x'",
	} {
		is := condition(t, when)
		began := time.Now()
		yes, err := is(&usher.AccessRequest{Subject: usher.Entity{Properties: hostile}})
		if took := time.Since(began); err == nil || yes || took > time.Second {
			t.Errorf("%s: got %v %v after %v, want an error soon", when, yes, err, took)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", when, len(err.Error()))
		}
	}
	// What is beside it does no harm.
	r := &usher.AccessRequest{Subject: usher.Entity{ID: "alice", Properties: hostile},
		Resource: usher.Entity{Properties: map[string]any{"owner": "alice"}}}
	for _, when := range []string{"resource.properties.owner == subject.id", "subject.properties.numbers.exists(x, x == 999)",
		"0 in subject.properties.numbers",
		"subject.properties.text.matches('^a+$')", "subject.properties.text == subject.properties.text", "has(subject.properties.wide)"} {
		if yes, err := condition(t, when)(r); !yes {
			t.Errorf("%s: got %v %v", when, yes, err)
		}
	}
}

// TestHostileConditions: compiling ends soon as well.
func TestHostileConditions(t *testing.T) {
	t.Parallel()
	for _, when := range []string{
		strings.Repeat("(", 499) + "1" + strings.Repeat(")", 499),
		strings.Repeat("(", 1000),
		strings.Repeat("[", 499) + strings.Repeat("]", 499),
		strings.Repeat("{'a':", 199) + "1" + strings.Repeat("}", 199),
		strings.Repeat("-", 999) + "1",
		strings.Repeat("true?", 150) + "true" + strings.Repeat(":true", 40),
		strings.Repeat("a.", 499) + "b",
		strings.Repeat("[1].map(x, ", 60) + "1" + strings.Repeat(")", 60),
		strings.Repeat("[1].all(x, ", 30) + "true" + strings.Repeat(")", 30),
		strings.Repeat("a[", 300) + strings.Repeat("]", 300),
		"[1,2,3,4,5,6,7,8,9].map(a,[1,2,3,4,5,6,7,8,9].map(b,[1,2,3,4,5,6,7,8,9].map(c,a))) == []",
		"subject.properties.a.map(x, subject.properties.b.map(y, y)).map(z, z.map(q, q + q)) == []" + strings.Repeat(
			" && subject.properties.a.map(x, subject.properties.b.map(y, x == y)) == [[]]", 10),
		"subject.id.matches('" + strings.Repeat("(a{9}){9}", 60) + "')",
		"subject.id.matches('((((a{30}){30})')",
		"subject.id.matches('(a{30}){30}')",
		"\"\\xff\" == subject.id &",
		"'" + strings.Repeat("a", 998),
		strings.Repeat("\\", 900),
		strings.Repeat("é", 499),
		strings.Repeat("true||", 166) + "tru",
		strings.Repeat("1+", 499) + "1",
		strings.Repeat("a(", 499),
		strings.Repeat("a", 1001),
		"type(subject.id)", "subject", "optional.of(1) == 1", "cel.bind(x, 1, x == 1)", "subject.?id == 1", "dyn(1)==1 ? 'a' : 'b'",
	} {
		text, _ := json.Marshal(when)
		began := time.Now()
		_, err := Parse("x", []byte(`{"usher": 1, "roles": {"r": {"when": `+string(text)+`}}}`))
		took := time.Since(began)
		if err == nil || took > time.Second {
			t.Errorf("%s: got %v after %v, want an error soon", clip(when), err, took)
		} else if len(err.Error()) > 2000 {
			t.Errorf("%s: an error of %d bytes", clip(when), len(err.Error()))
		}
	}
	for _, when := range []string{ // long, and harmless
		strings.Repeat("true && ", 120) + "true",
		strings.Repeat("!", 996) + "true",
		"subject.id in [" + strings.Repeat("'a', ", 150) + "'b']",
		strings.Repeat("subject.id == 'a' || ", 45) + "true",
		strings.Repeat(" ", 5000) + "true", // what is around it is nothing
	} {
		text, _ := json.Marshal(when)
		if _, err := Parse("x", []byte(`{"usher": 1, "roles": {"r": {"when": `+string(text)+`}}}`)); err != nil {
			t.Errorf("%s: got %v", clip(when), err)
		}
	}
}

// TestConditionsTogether asks one condition from many sides at once.
func TestConditionsTogether(t *testing.T) {
	t.Parallel()
	is := condition(t, "subject.properties.teams.exists(t, t == resource.id) && subject.id.matches('^[0-9]+$')")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			id := fmt.Sprint(i)
			for n := range 200 {
				resource := id
				if n%2 == 1 {
					resource = "x"
				}
				yes, err := is(&usher.AccessRequest{Subject: usher.Entity{ID: id, Properties: map[string]any{"teams": []any{"a", id}}},
					Resource: usher.Entity{ID: resource}})
				if err != nil || yes != (n%2 == 0) {
					t.Errorf("got %v %v for %s and %s", yes, err, id, resource)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestConditionsOfAStrangeCatalogue: one that Parse did not make may hold what
// does not compile.
func TestConditionsOfAStrangeCatalogue(t *testing.T) {
	t.Parallel()
	_, err := Conditions(&usher.Catalog{Roles: map[string]*usher.Role{"a": {Key: "a"}, "b": {Key: "b", When: "1 +"}}})
	if usher.ErrorCode(err) != usher.Invalid || !strings.Contains(err.Error(), "roles.b.when: ") {
		t.Errorf("got %v", err)
	}
	if all, err := Conditions(&usher.Catalog{}); err != nil || all == nil || len(all) != 0 {
		t.Errorf("got %v %v", all, err)
	}
}

// FuzzCondition compiles any text and asks it of a request with some of each
// value: it ends soon, and no error is a yes.
func FuzzCondition(f *testing.F) {
	for _, when := range []string{
		"resource.properties.owner == subject.id", "subject.properties.level >= 3 && now.getHours('Europe/Berlin') < 18",
		"subject.properties.teams.exists(t, t in resource.properties.teams)",
		"subject.properties.teams.map(t, t + t).filter(t, t.matches('^a+')).size() > 1",
		"has(context.ip) ? context.ip == 'x' : !subject.properties.vip", "subject.properties == {'a': [1, 2.0, b'x', null, 3u]}",
		"timestamp(resource.properties.at) - now > duration('1h') || int(string(subject.properties.level)) % 2 == 0",
		"type(context) == map && dyn([1]) == [1.0]",
	} {
		f.Add(when)
	}
	many := make([]any, MaxItems)
	for i := range many {
		many[i] = strings.Repeat("a", MaxText)
	}
	properties := map[string]any{"level": json.Number("3"), "teams": []any{"a", "b", 1.5, nil, true, map[string]any{"id": "x"}},
		"at": "2026-03-10T12:00:00Z", "vip": true, "many": many, "owner": "alice"}
	r := &usher.AccessRequest{Subject: usher.Entity{Type: "user", ID: "alice", Properties: properties},
		Resource: usher.Entity{Type: "document", ID: "d", Properties: properties},
		Action:   "read", ActionProperties: properties, Context: properties, Now: time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)}
	f.Fuzz(func(t *testing.T, when string) {
		if len(when) > MaxWhen {
			return
		}
		defer time.AfterFunc(5*time.Second, func() { panic("it does not end: " + when) }).Stop()
		is, problems := compile(when)
		if (is == nil) != (len(problems) > 0) {
			t.Fatalf("got %v beside %q", is != nil, problems)
		}
		if is != nil {
			if yes, err := is(r); yes && err != nil {
				t.Fatalf("yes beside %v", err)
			}
		}
	})
}

func BenchmarkCondition(b *testing.B) {
	r := &usher.AccessRequest{
		Subject:  usher.Entity{Type: "user", ID: "alice", Properties: map[string]any{"level": float64(3), "teams": []any{"a", "b", "c", "eu"}}},
		Resource: usher.Entity{Type: "document", ID: "d1", Properties: map[string]any{"owner": "alice", "team": "eu"}},
		Now:      time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC),
	}
	for name, when := range map[string]string{
		"owner": "resource.properties.owner == subject.id",
		"level": "subject.properties.level >= 3",
		"team":  "resource.properties.team in subject.properties.teams",
		"loop":  "subject.properties.teams.exists(t, t == resource.properties.team)",
		"time":  "now < timestamp('2030-01-01T00:00:00Z')",
	} {
		is := condition(b, when)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if yes, err := is(r); !yes {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompileConditions(b *testing.B) {
	c := &usher.Catalog{Roles: map[string]*usher.Role{"r": {When: "resource.properties.owner == subject.id && subject.properties.level >= 3"}}}
	for b.Loop() {
		if _, err := Conditions(c); err != nil {
			b.Fatal(err)
		}
	}
}
