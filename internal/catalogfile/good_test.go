package catalogfile

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/usher-sh/usher"
)

// goodFiles gives every good file of testdata by path.
func goodFiles(t testing.TB) map[string][]byte {
	t.Helper()
	paths, _ := filepath.Glob("testdata/good/*")
	paths = append(paths, "testdata/api.yaml")
	all := map[string][]byte{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = b
	}
	if len(all) < 5 {
		t.Fatalf("only %d good files", len(all))
	}
	return all
}

func mustParse(t testing.TB, src string) *usher.Catalog {
	t.Helper()
	c, err := Parse("test.yaml", []byte(src))
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, src)
	}
	return c
}

// asJSON writes a file's nodes as JSON, the keys of maps in a shuffled order.
func asJSON(t testing.TB, src []byte) []byte {
	t.Helper()
	r := &reader{name: "test"}
	n := r.read(src)
	if n == nil {
		t.Fatalf("%v", r.err())
	}
	var b bytes.Buffer
	writeJSON(&b, n, rand.New(rand.NewPCG(1, 2)))
	return b.Bytes()
}

func writeJSON(b *bytes.Buffer, n *node, random *rand.Rand) {
	switch n.class() {
	case isMap:
		b.WriteByte('{')
		for i, j := range random.Perm(len(n.keys)) {
			if i > 0 {
				b.WriteString(",\n")
			}
			key, _ := json.Marshal(n.keys[j].text)
			b.Write(key)
			b.WriteByte(':')
			writeJSON(b, n.items[j], random)
		}
		b.WriteByte('}')
	case isList:
		b.WriteByte('[')
		for i, item := range n.items {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSON(b, item, random)
		}
		b.WriteByte(']')
	case isText:
		text, _ := json.Marshal(n.text)
		b.Write(text)
	case isNothing:
		b.WriteString("null")
	default:
		b.WriteString(strings.ToLower(n.text))
	}
}

func TestGoodFilesRoundTrip(t *testing.T) {
	t.Parallel()
	for path, src := range goodFiles(t) {
		c, err := Parse(path, src)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		out := Format(c)
		again, err := Parse("formatted", out)
		if err != nil {
			t.Errorf("%s: what Format wrote does not parse: %v\n%s", path, err, out)
			continue
		}
		if !reflect.DeepEqual(c, again) {
			t.Errorf("%s: Parse(Format(c)) is another catalogue:\n%s\n%s", path, out, Format(again))
		}
		if twice := Format(again); !bytes.Equal(out, twice) {
			t.Errorf("%s: Format is not idempotent:\n%s\n%s", path, out, twice)
		}
		fromJSON, err := Parse(path+".json", asJSON(t, src))
		if err != nil {
			t.Errorf("%s as JSON: %v\n%s", path, err, asJSON(t, src))
			continue
		}
		if !reflect.DeepEqual(c, fromJSON) || Hash(c) != Hash(fromJSON) {
			t.Errorf("%s: as JSON it is another catalogue:\n%s\n%s", path, Format(c), Format(fromJSON))
		}
		if changes := Diff(c, fromJSON); len(changes) != 0 {
			t.Errorf("%s: equal catalogues differ: %v", path, changes)
		}
		stored, _ := json.Marshal(c)
		var back usher.Catalog
		if err := json.Unmarshal(stored, &back); err != nil || Hash(&back) != Hash(c) {
			t.Errorf("%s: stored as JSON and read back, the hash is another (%v)", path, err)
		}
	}
}

// TestGoldenFormat shows the canonical form; its hash is part of what a
// revision says, so a change here changes every hash.
func TestGoldenFormat(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"testdata/api.yaml", "testdata/good/everything.yaml"} {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got := Format(mustParse(t, string(src)))
		path := "testdata/golden/" + filepath.Base(name)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got\n%swant\n%s(%v)", name, got, want, err)
		}
	}
}

func TestHashIgnoresCommentsOrderAndDefaults(t *testing.T) {
	t.Parallel()
	a := mustParse(t, "usher: 1\nplans: {a: {}, b: {title: B}}\n")
	b := mustParse(t, "# x\nplans:\n  b: {title: 'B', family: main, default: false, period: month, past_due: {grace: 7 days}}\n  a: "+
		"{entitlements: {}}\ntimezone: UTC\nusher: 1\n")
	if Hash(a) != Hash(b) {
		t.Errorf("got %s and %s, want one hash:\n%s\n%s", Hash(a), Hash(b), Format(a), Format(b))
	}
	c := mustParse(t, "usher: 1\nplans: {a: {}, b: {title: C}}\n")
	if Hash(a) == Hash(c) {
		t.Error("another title has the same hash")
	}
	if got := Hash(a); len(got) != len("sha256:")+64 || !strings.HasPrefix(got, "sha256:") {
		t.Errorf("got hash %q", got)
	}
}

func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("catalog.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := compiler.Compile("catalog.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t testing.TB, s *jsonschema.Schema, src []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(src))
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	return s.Validate(v)
}

func TestSchemaAcceptsGoodFiles(t *testing.T) {
	t.Parallel()
	s := compileSchema(t)
	for path, src := range goodFiles(t) {
		if err := validate(t, s, asJSON(t, src)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestSchemaRefusesStructure gives the schema what is wrong in itself, without
// looking elsewhere in the file; Parse must refuse it too.
func TestSchemaRefusesStructure(t *testing.T) {
	t.Parallel()
	s := compileSchema(t)
	for _, src := range []string{
		`{}`,
		`{usher: 2}`,
		`{usher: 1, policies: {}}`,
		`{usher: 1, permissions: {a.: {}}}`,
		`{usher: 1, permissions: {a: {risk: huge}}}`,
		`{usher: 1, permissions: {a: {features: any}}}`,
		`{usher: 1, features: {f: {kind: switch}}, permissions: {a: {feature: []}}}`,
		`{usher: 1, features: {f: {kind: switch}}, permissions: {a: {feature: [f, f]}}}`,
		`{usher: 1, permissions: {a: {}}, roles: {r: {permissions: [a*]}}}`,
		`{usher: 1, permissions: {a: {}}, roles: {r: {permissions: ["**.a"]}}}`,
		`{usher: 1, permissions: {a: {}}, roles: {r: {permissions: [a, a]}}}`,
		`{usher: 1, permissions: {a: {}}, roles: {r: {permissions: []}}}`,
		`{usher: 1, roles: {r: {when: true}}}`,
		`{usher: 1, roles: {r: {when: ""}}}`,
		`{usher: 1, roles: {r: {include: [r]}}}`,
		`{usher: 1, roles: {r: {}}, custom_roles: {}}`,
		`{usher: 1, roles: {r: {}}, custom_roles: r}`,
		`{usher: 1, roles: {r: {}}, separation: {s: {roles: [r]}}}`,
		`{usher: 1, roles: {r: {}}, separation: {s: {}}}`,
		`{usher: 1, plans: []}`,
		`{usher: 1, plans: {Pro: {}}}`,
		`{usher: 1, plans: {a: {titel: x}}}`,
		`{usher: 1, plans: {a: {trial: two weeks}}}`,
		`{usher: 1, plans: {a: {default: maybe}}}`,
		`{usher: 1, plans: {a: {past_due: {then: 5}}}}`,
		`{usher: 1, plans: {a: {period: week}}}`,
		`{usher: 1, meters: {a: {}}}`,
		`{usher: 1, meters: {a: {event: x, sum: tokens}}}`,
		`{usher: 1, meters: {a: {event: x, sum: data.a, max: data.a}}}`,
		`{usher: 1, meters: {a: {event: x, where: {data.a: []}}}}`,
		`{usher: 1, features: {a: {kind: boolean}}}`,
		`{usher: 1, features: {a: {kind: switch, mode: warn}}}`,
		`{usher: 1, features: {a: {kind: config}}}`,
		`{usher: 1, features: {a: {kind: config, type: enum}}}`,
		`{usher: 1, features: {a: {kind: config, type: integer, precision: 1}}}`,
		`{usher: 1, features: {a: {kind: config, type: integer, values: [a]}}}`,
		`{usher: 1, features: {a: {kind: metered, precision: 10}}}`,
		`{usher: 1, features: {a: {kind: metered, draws: {credits: b}}}}`,
		`{usher: 1, features: {a: {kind: seats, unit: ""}}}`,
		`{usher: 1, features: {a: {kind: metered}}, plans: {p: {entitlements: {a: {limit: -1, per: month}}}}}`,
		`{usher: 1, features: {a: {kind: metered}}, plans: {p: {entitlements: {a: {limit: "1e3", per: month}}}}}`,
		`{usher: 1, features: {a: {kind: metered}}, plans: {p: {entitlements: {a: {limit: 5, per: months}}}}}`,
		`{usher: 1, features: {a: {kind: metered}}, plans: {p: {entitlements: {a: {per: month}}}}}`,
		`{usher: 1, features: {a: {kind: metered}}, plans: {p: {entitlements: {a: {limit: 5, per: month, overage: 5}}}}}`,
		`{usher: 1, features: {a: {kind: metered}}, plans: {p: {entitlements: {a: {allowances: []}}}}}`,
		`{usher: 1, features: {a: {kind: metered}}, addons: {p: {entitlements: {a: {limit: unlimited, caps: [{limit: 1}]}}}}}`,
		`{usher: 1, features: {a: {kind: switch}}, addons: {p: {entitlements: {a: {value: true, mode: warn}}}}}`,
	} {
		if err := validate(t, s, asJSON(t, []byte(src))); err == nil {
			t.Errorf("the schema accepts %s", src)
		}
		if _, err := Parse("x", []byte(src)); err == nil {
			t.Errorf("Parse accepts %s", src)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, src := range goodFiles(f) {
		f.Add(src)
		f.Add(asJSON(f, src))
	}
	paths, _ := filepath.Glob("testdata/bad/*.txtar")
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range archiveLine.Split(string(b), -1) {
			f.Add([]byte(part))
		}
	}
	s := compileSchema(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := Parse("fuzz.yaml", src)
		if err != nil {
			if c != nil || usher.ErrorCode(err) != usher.Invalid {
				t.Fatalf("got %v and %v", c, err)
			}
			return
		}
		out := Format(c)
		again, err := Parse("formatted.yaml", out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !reflect.DeepEqual(c, again) {
			t.Fatalf("Parse(Format(c)) is another catalogue:\n%s\n%s", out, Format(again))
		}
		if twice := Format(again); !bytes.Equal(out, twice) || Hash(c) != Hash(again) {
			t.Fatalf("Format is not idempotent:\n%s\n%s", out, twice)
		}
		if changes := Diff(c, again); len(changes) > 0 {
			t.Fatalf("equal catalogues differ: %v", changes)
		}
		for key := range c.Plans {
			Resolve(c, key)
		}
		Diff(nil, c)
		Diff(c, nil)
		if _, err := Conditions(c); err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, asJSON(t, out)); err != nil {
			t.Fatalf("the schema refuses it: %v\n%s", err, out)
		}
	})
}

// TestMixedTokens puts tokens of the format where others stood: what still
// parses must satisfy the schema as it is, and survive Format.
func TestMixedTokens(t *testing.T) {
	t.Parallel()
	s := compileSchema(t)
	token := regexp.MustCompile(`"[^"]*"|[A-Za-z0-9_.-]+`)
	var tokens []string
	for _, src := range goodFiles(t) {
		if json.Valid(src) || bytes.Contains(src, []byte("\r")) {
			continue
		}
		tokens = append(tokens, token.FindAllString(string(src), -1)...)
	}
	tokens = append(tokens, "0", "1", "5", "0.5", "none", "true", "false", "null", "[]", "{}", "month", "unlimited", "calendar", `""`, "-1",
		"[a]", "~")
	everything, err := os.ReadFile("testdata/good/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	places := token.FindAllIndex(everything, -1)
	random := rand.New(rand.NewPCG(3, 4))
	parsed := 0
	for range 2500 {
		place := places[random.IntN(len(places))]
		src := string(everything[:place[0]]) + tokens[random.IntN(len(tokens))] + string(everything[place[1]:])
		c, err := Parse("mixed.yaml", []byte(src))
		if err != nil {
			continue
		}
		parsed++
		out := Format(c)
		again, err := Parse("formatted.yaml", out)
		if err != nil || !reflect.DeepEqual(c, again) || !bytes.Equal(out, Format(again)) {
			t.Fatalf("it does not survive Format: %v\n%s\n%s", err, src, out)
		}
		if err := validate(t, s, asJSON(t, []byte(src))); err != nil {
			t.Fatalf("the schema refuses it: %v\n%s", err, src)
		}
	}
	if parsed < 200 {
		t.Errorf("only %d mixed files parsed", parsed)
	}
}
