package strictjson_test

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/strictjson"
)

// FuzzStrictJSON: what the reader accepts is JSON, and what it refuses of valid
// JSON is one of the things that it promises to refuse.
func FuzzStrictJSON(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,-0.5e+7,"x\u00e9\ud83d\ude00",true,null,{}],"b":""}`, `{"a":1,"a":2}`, `"\u0000"`, `"\ud800x"`, "\"\xff\"", `[1,]`, `01`, ` 7 `,
		`{"a" : "\\\"\/\b\f\n\r\t"}`, `{"a":1,"\u0061":2}`, "\x00", "1\x00", `truefalse`, `[true1]`,
		strings.Repeat("[", 32) + strings.Repeat("]", 32), strings.Repeat("[", 33) + strings.Repeat("]", 33),
		`{` + names(17) + `,"a16":1}`, `{` + names(17) + `}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r strictjson.Reader
		r.Reset(b)
		r.Skip()
		problems := r.End()
		valid := json.Valid(b)
		if len(problems) == 0 && !valid {
			t.Fatalf("%q was accepted", b)
		}
		if len(problems) == 0 && !utf8.Valid(b) {
			t.Fatalf("%q is not UTF-8 and was accepted", b)
		}
		if len(problems) > 0 && valid && utf8.Valid(b) {
			m := problems[0].Message
			if !strings.Contains(m, "twice") && !strings.Contains(m, "deeper") && !strings.Contains(m, "surrogate") &&
				!strings.Contains(m, `\u0000`) {
				t.Fatalf("%q was refused: %v", b, problems)
			}
		}
		// What is JSON is read to its end in Soft mode, whatever is noted.
		r.Reset(b)
		r.Soft = true
		r.Skip()
		if r.End(); r.Broken() && valid && r.Syntax.Message != "nested deeper than 32 levels" {
			t.Fatalf("%q: %v, though it is JSON", b, r.Syntax)
		}
		// A string reads as encoding/json reads it.
		if len(problems) == 0 && b[0] == '"' {
			var want string
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			r.Reset(b)
			if got := r.String("value"); got != want {
				t.Fatalf("%q: got %q, want %q", b, got, want)
			}
		}
	})
}

// names returns n members, each with a name of its own: "a0":1,"a1":1 …
func names(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = `"a` + strconv.Itoa(i) + `":1`
	}
	return strings.Join(list, ",")
}

// TestSyntax: each message says where, what stands there and what would be right.
func TestSyntax(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		``:                            "line 1, column 1: expected a value, got the end",
		`{`:                           "line 1, column 2: expected a name in double quotes, got the end",
		"{\"é\":1,\n \"ö\" 2}":        "line 2, column 6: expected `:`, got `2`",
		`{"a":1 "b":2}`:               "line 1, column 8: expected `,` or `}`, got `\"`",
		`[1 2]`:                       "line 1, column 4: expected `,` or `]`, got `2`",
		`{"a":1,}`:                    "line 1, column 7: remove the `,` before the closing `}`",
		`[1,]`:                        "line 1, column 3: remove the `,` before the closing `]`",
		`{'a':1}`:                     "line 1, column 2: expected a name in double quotes, got `'`",
		`{a:1}`:                       "line 1, column 2: expected a name in double quotes, got `a`: text must be in double quotes",
		`{"a":yes}`:                   "line 1, column 6: expected a value, got `yes`: text must be in double quotes",
		`[truely]`:                    "line 1, column 2: expected a value, got `truely`: text must be in double quotes",
		`{"a":1} // end`:              "line 1, column 9: expected nothing after the end of the value, got `/`",
		`{"a":1, // first`:            "line 1, column 9: JSON has no comments: remove this one",
		`01`:                          "line 1, column 1: a number must not have leading zeros",
		`-x`:                          "line 1, column 2: expected a digit, got `x`",
		`1.`:                          "line 1, column 3: expected a digit after the point, got the end",
		`1e,`:                         "line 1, column 3: expected a digit in the exponent, got `,`",
		`"a`:                          "line 1, column 3: a string has no closing quote",
		"\"a\nb\"":                    `line 1, column 3: a string must end on its line: close the quote, or write \n for a line break`,
		"\"a\x01\"":                   `line 1, column 3: a control character in a string must be written as \u0001`,
		`"50\% off"`:                  `line 1, column 4: unknown escape \%: write \\ for a backslash`,
		`"\u12x4"`:                    `line 1, column 4: \u must be followed by four hexadecimal digits`,
		`"\u0000"`:                    `line 1, column 8: a string must not hold \u0000`,
		`"\udc00"`:                    "line 1, column 8: a string holds half of a surrogate pair",
		"\"\xff\"":                    "line 1, column 3: a string is not valid UTF-8",
		`{"a":1,"b":2,"a":3}`:         `line 1, column 17: the name "a" occurs twice in one object, first at line 1, column 2`,
		"{\"a\":1,\n\"\\u0061\":3}":   `line 2, column 9: the name "a" occurs twice in one object, first at line 1, column 2`,
		`{` + names(20) + `,"a18":3}`: `line 1, column 157: the name "a18" occurs twice in one object, first at line 1, column 136`,
		strings.Repeat("[", 40):       "line 1, column 33: nested deeper than 32 levels",
	} {
		var r strictjson.Reader
		r.Reset([]byte(src))
		r.Skip()
		want := []usher.Problem{{Message: "invalid JSON at " + want}}
		if got := r.End(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", src, got, want)
		}
	}
}

// TestProblems: what is JSON but wrong is noted, all of it, and reading goes on.
func TestProblems(t *testing.T) {
	t.Parallel()
	var r strictjson.Reader
	r.Reset([]byte(`{"name":5, "size":-1, "amount":"x", "at":"monday", "tags":"a", "about":[1], "x":{"deep":[1,2]}, ` +
		`"limit":9007199254740993, "more":{"n":1.10}}`))
	var limit int64
	var more map[string]any
	r.Object("item", func(name []byte) {
		where := "item." + string(name)
		switch string(name) {
		case "name":
			r.String(where)
		case "size":
			r.Whole(where)
		case "limit":
			limit = r.Whole(where)
		case "amount":
			r.Number(where)
		case "at":
			r.Time(where)
		case "tags":
			r.Array(where, func(int) { r.Skip() })
		case "about":
			r.Map(where)
		case "more":
			more = r.Map(where)
		default:
			r.Unknown("item", name, "name, size, limit")
		}
	})
	want := []usher.Problem{
		{Location: "item.name", Message: "must be a string, got a number"},
		{Location: "item.size", Message: `must be a whole number from 0 to 9223372036854775807, got "-1"`},
		{Location: "item.amount", Message: `must be a plain decimal number such as 10 or "1.5", got "x"`},
		{Location: "item.at", Message: `must be an RFC 3339 time with its zone, such as "2026-03-31T00:00:00Z", got "monday"`},
		{Location: "item.tags", Message: "must be an array, got a string"},
		{Location: "item.about", Message: "must be an object, got an array"},
		{Location: "item.x", Message: "unknown field; known fields: name, size, limit"},
	}
	if got := r.End(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if limit != 9007199254740993 || !reflect.DeepEqual(more, map[string]any{"n": json.Number("1.10")}) {
		t.Errorf("numbers must stay exact: got %d and %v", limit, more)
	}
}

// TestMemory: reading what a hot path reads allocates nothing but its strings.
func TestMemory(t *testing.T) {
	b := []byte(`{"customer":"acme","feature":"api_calls","amount":12,"x":[1,{"y":"z\n"}]}`)
	var r strictjson.Reader
	n := testing.AllocsPerRun(100, func() {
		r.Reset(b)
		r.Object("body", func([]byte) { r.Skip() })
		if len(r.End()) > 0 {
			t.Error(r.Problems)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
