package usher_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// module is the path that every import of our own begins with.
const module = "github.com/usher-sh/usher"

// floors is the whole building: a room imports from lower floors only, never
// from a neighbour, so that a change is felt upwards and never in a circle. A
// folder with Go files that is not here is a room that nobody planned: give it a
// floor here, with a reason, in the same change.
var floors = [][]string{
	// The nouns.
	0: {".", "docs", "learn"},
	// Pure: values in, values out.
	1: {
		"internal/engine", "internal/calendar", "internal/catalogfile", "internal/meter", "internal/access",
		"internal/audit", "internal/scim", "internal/strictjson", "internal/testpg", "internal/story",
		"internal/openapitest", // knows JSON Schema and HTTP only
	},
	// The outside world, and the forms in which it is kept.
	2: {
		"internal/store", "internal/ledger", "internal/job", "internal/stripe", "internal/hubspot",
		"internal/salesforce", "internal/webhook", "client",
	},
	// State and changes that floor 4 shares.
	3: {"internal/live", "internal/usage", "internal/customers", "internal/directory", "internal/auth", "internal/delivery"},
	// What the system does.
	4: {
		"internal/decide", "internal/catalog", "internal/bridge", "internal/report", "internal/lifecycle",
		"internal/simulate", "internal/fsck",
	},
	// What every door needs.
	5: {"internal/door"},
	// Doors: they decide nothing.
	6: {
		"internal/api", "internal/doors/scim", "internal/doors/authzen", "internal/doors/ofrep", "internal/doors/mcp",
		"internal/console", "internal/portal",
	},
	// Wiring; proofs and benchmarks load the whole from outside.
	7: {"internal/server", "cmd/usher", "cmd/usher-verify", "ushertest", "internal/prove", "internal/bench"},
}

// neighbours are the imports within one floor that are allowed, each with its
// reason.
var neighbours = map[string][]string{
	"internal/engine":      {"internal/calendar"},   // windows are the calendar's
	"internal/meter":       {"internal/calendar"},   // so are the windows of unique values
	"internal/catalogfile": {"internal/strictjson"}, // a catalogue may be JSON
	"internal/scim":        {"internal/strictjson"}, // documents are JSON
	"internal/store":       {"internal/ledger"},     // reservations and corrections keep their entries in the ledger's form
	"internal/job":         {"internal/store"},      // a lease is a row
	"internal/usage":       {"internal/live"},       // takes read and change the loaded world
	"internal/customers":   {"internal/live"},       // the change loop is live's
	"internal/directory":   {"internal/live"},       // here too
	"cmd/usher":            {"internal/server"},     // the rooms are wired in one place
	"ushertest":            {"internal/server"},     // here too
	"internal/prove":       {"internal/server"},     // here too
	"internal/bench":       {"internal/server"},     // here too
}

// doorFloors are the floors of doors. They import no store: each change and each
// rule about it is in a room below, where every door finds it.
var doorFloors = []int{5, 6}

// forTests are the rooms that only tests and ushertest may import.
var forTests = []string{"internal/testpg", "internal/story", "internal/openapitest"}

// standardOnly are the rooms that may import the standard library and usher only.
var standardOnly = []string{".", "internal/engine", "internal/calendar", "client"}

// onlyIn are the modules that one room alone may import: what others need of
// them, that room hands out as values of our own.
var onlyIn = map[string]string{
	"cel.dev/": "internal/catalogfile", // conditions: access gets functions
}

// public are the rooms that people import: everything exported there is a
// promise and says so in a doc comment.
var public = []string{".", "client", "ushertest"}

// vague are names that tell nobody what is inside.
var vague = []string{"util", "utils", "common", "models", "helpers", "types", "misc", "base", "shared", "lib"}

// standard are the names of the standard library's packages, which a room must
// not take: readers would have to ask which of the two is meant.
var standard = strings.Fields(`
	adler32 aes arena asn1 ascii85 ast atomic base32 base64 big binary bits bufio build buildinfo bytes bzip2 cgi cgo
	cipher cmp cmplx color comment constant constraint context cookiejar coverage crc32 crc64 crypto csv debug des doc
	draw driver dsa dwarf ecdh ecdsa ed25519 elf elliptic embed encoding errors exec expvar fcgi filepath fips140 flag
	flate fmt fnv format fs fstest gif gob gosym gzip hash heap hex hkdf hmac html http httptest httptrace httputil
	image importer io iotest ioutil iter jpeg json jsonrpc list log lzw macho mail maphash maps math md5 metrics mime
	mlkem multipart net netip os palette parse parser path pbkdf2 pe pem pkix plan9obj plugin png pprof printer quick
	quotedprintable race rand rc4 reflect regexp ring rpc rsa runtime scanner sha1 sha256 sha3 sha512 signal slices
	slog slogtest smtp sort sql strconv strings structs subtle suffixarray sync synctest syntax syscall syslog tabwriter
	tar template testing text textproto time tls token trace tzdata unicode unique unsafe url user utf16 utf8 version
	weak x509 xml zip zlib`)

func TestFloors(t *testing.T) {
	t.Parallel()
	for _, line := range breaches(os.DirFS(".")) {
		t.Error(line)
	}
}

// breaches walks every Go file below fsys and says, a line each, where it breaks
// the law of the building. It reads the files itself: asking the go command
// would let the test cache serve yesterday's answer.
func breaches(fsys fs.FS) (lines []string) {
	rooms := map[string][]file{}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name == "." {
				return nil
			}
			base := path.Base(name)
			if base == "testdata" || base == "vendor" || base == "node_modules" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
				return fs.SkipDir
			}
			if _, err := fs.Stat(fsys, path.Join(name, "go.mod")); err == nil {
				return fs.SkipDir // another module with its own rules
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		src, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		room := path.Dir(name)
		rooms[room] = append(rooms[room], file{name, room, strings.HasSuffix(name, "_test.go"), syntax})
		return nil
	})
	if err != nil {
		return []string{err.Error()}
	}
	for room, files := range rooms {
		lines = append(lines, roomBreaches(room, files)...)
		for _, f := range files {
			lines = append(lines, f.breaches()...)
		}
	}
	slices.Sort(lines)
	return lines
}

// file is a parsed Go file and the room it is in.
type file struct {
	name, room string
	test       bool
	*ast.File
}

// floorOf is the room's floor, or -1 where it is not planned.
func floorOf(room string) int {
	return slices.IndexFunc(floors, func(rooms []string) bool { return slices.Contains(rooms, room) })
}

func roomBreaches(room string, files []file) (lines []string) {
	if floorOf(room) < 0 {
		lines = append(lines, room+": is not a planned room: give it a floor in floors_test.go, or put the code where it belongs")
	}
	if base := path.Base(room); slices.Contains(vague, base) {
		lines = append(lines, fmt.Sprintf("%s: %q says nothing about what is inside: name the room after its duty", room, base))
	} else if slices.Contains(standard, base) {
		lines = append(lines, fmt.Sprintf("%s: %q is also a package of the standard library: choose another name", room, base))
	}
	var code []file
	for _, f := range files {
		if !f.test {
			code = append(code, f)
		}
	}
	says := func(f file) bool {
		if f.Doc == nil {
			return false
		}
		opening := "Package " + f.Name.Name + " "
		if f.Name.Name == "main" {
			opening = "Command " + path.Base(room) + " "
		}
		return strings.HasPrefix(strings.Join(strings.Fields(f.Doc.Text()), " ")+" ", opening)
	}
	if len(code) > 0 && !slices.ContainsFunc(code, says) {
		begin := "Package " + code[0].Name.Name
		if code[0].Name.Name == "main" {
			begin = "Command " + path.Base(room)
		}
		lines = append(lines, room+`: has no package comment: say in one sentence what the room does and what it refuses to do ("`+begin+` …")`)
	}
	return lines
}

func (f file) breaches() (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, f.name+": "+fmt.Sprintf(format, args...)) }
	for _, spec := range f.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			add("import %s: %v", spec.Path.Value, err)
			continue
		}
		room, own := strings.CutPrefix(name, module)
		room = strings.TrimPrefix(room, "/")
		if room == "" {
			room = "."
		}
		own = own && (name == module || strings.HasPrefix(name, module+"/"))
		first, _, _ := strings.Cut(name, "/")
		switch {
		case f.test:
			// Tests stand outside the building: they may use any room.
		case name == "C":
			add("imports C: usher is built without cgo")
		case first == "testing" && f.room != "ushertest":
			add("imports %s: only tests and ushertest may", name)
		case !own && strings.Contains(first, ".") && slices.Contains(standardOnly, f.room):
			add("imports %s: this room imports the standard library and usher only", name)
		case keeper(name) != "" && keeper(name) != f.room:
			add("imports %s: only %s may", name, keeper(name))
		case !own:
		case slices.Contains(forTests, room) && f.room != "ushertest":
			add("imports %s: only tests and ushertest may", room)
		case floorOf(room) < 0:
			add("imports %s, which is not a planned room", room)
		case floorOf(f.room) < 0: // said once, of the room
		case room == "internal/store" && slices.Contains(doorFloors, floorOf(f.room)):
			add("imports internal/store: a door decides and stores nothing, it asks a service of the rooms below")
		case floorOf(room) < floorOf(f.room), slices.Contains(neighbours[f.room], room):
		case floorOf(room) == floorOf(f.room):
			add("imports its neighbour %s (floor %d): move what both need a floor down", room, floorOf(room))
		default:
			add("imports %s (floor %d) from floor %d: imports go downwards only", room, floorOf(room), floorOf(f.room))
		}
	}
	if floor := floorOf(f.room); !f.test && 0 < floor && floor < doorFloors[0] {
		for _, text := range f.ofHTTP() {
			add("has %q: a room below the doors knows no HTTP, the door adds where in the request a field is", text)
		}
	}
	if !f.test && slices.Contains(public, f.room) {
		for _, name := range f.undocumented() {
			add("%s is exported without a doc comment: say what it promises", name)
		}
	}
	return lines
}

// httpWords are what texts of HTTP begin with: places in a request, and routes.
var httpWords = []string{"body.", "query.", "path.", "header.", "/v1/"}

// knowHTTP are the texts that rooms below the doors may have, each with its reason.
var knowHTTP = []string{
	"/v1/session/oidc/callback", // an identity provider must be told the address
}

// ofHTTP returns the texts of a file that only a door should know.
func (f file) ofHTTP() (texts []string) {
	ast.Inspect(f.File, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(lit.Value)
		if err == nil && !slices.Contains(knowHTTP, text) &&
			slices.ContainsFunc(httpWords, func(w string) bool { return strings.HasPrefix(text, w) }) {
			texts = append(texts, text)
		}
		return true
	})
	return texts
}

// keeper is the one room that may import a package, or "".
func keeper(name string) string {
	for module, room := range onlyIn {
		if strings.HasPrefix(name, module) {
			return room
		}
	}
	return ""
}

// undocumented lists what f exports without a word: functions, methods of
// exported types, types, constants and variables. In a group the group's
// comment or the line's will do.
func (f file) undocumented() (names []string) {
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				receiver := receiverOf(d.Recv.List[0].Type)
				if !ast.IsExported(receiver) {
					continue
				}
				name = receiver + "." + name
			}
			if d.Name.IsExported() && d.Doc == nil {
				names = append(names, name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() && s.Doc == nil && d.Doc == nil {
						names = append(names, s.Name.Name)
					}
				case *ast.ValueSpec:
					for _, id := range s.Names {
						if id.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
							names = append(names, id.Name)
						}
					}
				}
			}
		}
	}
	return names
}

// receiverOf is the type's name in (x T), (x *T) and (x *T[K]).
func receiverOf(e ast.Expr) string {
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// TestFloorsChecker plants every breach and looks for its line: a law that
// cannot fail is none.
func TestFloorsChecker(t *testing.T) {
	t.Parallel()
	const root = "// Package usher is nouns.\npackage usher\n"
	pkg := func(name string, imports ...string) string {
		src := "// Package " + name + " does one thing.\npackage " + name + "\n"
		for _, i := range imports {
			src += "import _ " + strconv.Quote(i) + "\n"
		}
		return src
	}
	tests := map[string]struct {
		files map[string]string
		want  []string // what each line must contain, in order; none: no breach
	}{
		"downwards": {files: map[string]string{
			"internal/store/a.go":    pkg("store", "context", module, module+"/internal/engine", "github.com/jackc/pgx/v5"),
			"internal/decide/a.go":   pkg("decide", module+"/internal/live", module+"/internal/engine"),
			"internal/usage/a.go":    pkg("usage", module+"/internal/live", module+"/internal/store"),
			"internal/engine/a.go":   pkg("engine", module+"/internal/calendar", "time"),
			"client/a.go":            pkg("client", module, "net/http"),
			"cmd/usher/main.go":      "// Command usher serves.\npackage main\nimport _ \"" + module + "/internal/api\"\n",
			"ushertest/ushertest.go": pkg("ushertest", "testing", module+"/internal/testpg", module+"/internal/api", module+"/internal/server"),
		}},
		"upward": {files: map[string]string{"internal/store/a.go": pkg("store", module+"/internal/live")},
			want: []string{"internal/store/a.go: imports internal/live (floor 3) from floor 2"}},
		"from root": {files: map[string]string{"b.go": "package usher\nimport _ \"" + module + "/internal/engine\"\n"},
			want: []string{"b.go: imports internal/engine (floor 1) from floor 0"}},
		"a client that reads the database": {
			files: map[string]string{"client/a.go": pkg("client", module+"/internal/store")},
			want:  []string{"client/a.go: imports its neighbour internal/store"}},
		"a door that stores": {files: map[string]string{
			"internal/api/a.go":         pkg("api", module+"/internal/store"),
			"internal/api/a_test.go":    pkg("api", module+"/internal/store"),
			"internal/door/a.go":        pkg("door", module+"/internal/auth", module+"/internal/store"),
			"internal/doors/scim/a.go":  pkg("scim", module+"/internal/directory", module+"/internal/store"),
			"internal/server/server.go": pkg("server", module+"/internal/store"),
		}, want: []string{"internal/api/a.go: imports internal/store: a door", "internal/door/a.go: imports internal/store: a door",
			"internal/doors/scim/a.go: imports internal/store: a door"}},
		"a room that knows HTTP": {files: map[string]string{
			"internal/usage/a.go":      pkg("usage") + "const place, path = \"body.amount\", \"/v1/check\"\n",
			"internal/usage/a_test.go": "package usage\nconst place2 = \"body.amount\"\n",
			"internal/api/a.go":        pkg("api") + "const place = \"body.amount\"\n",
		}, want: []string{`internal/usage/a.go: has "/v1/check": a room`, `internal/usage/a.go: has "body.amount": a room`}},
		"neighbour": {files: map[string]string{"internal/live/a.go": pkg("live", module+"/internal/usage")},
			want: []string{"internal/live/a.go: imports its neighbour internal/usage (floor 3)"}},
		"the relaxed rule is one way": {
			files: map[string]string{"internal/calendar/a.go": pkg("calendar", module+"/internal/engine")},
			want:  []string{"internal/calendar/a.go: imports its neighbour internal/engine"}},
		"third party": {
			files: map[string]string{
				"internal/engine/a.go":   pkg("engine", "github.com/google/uuid"),
				"internal/calendar/a.go": pkg("calendar", "golang.org/x/text/language"),
				"b.go":                   "package usher\nimport _ \"go.yaml.in/yaml/v4\"\n",
				"internal/meter/a.go":    pkg("meter", "go.yaml.in/yaml/v4"),
			},
			want: []string{
				"b.go: imports go.yaml.in/yaml/v4: this room", "internal/calendar/a.go: imports golang.org/x/text/language: this room",
				"internal/engine/a.go: imports github.com/google/uuid: this room"}},
		"a module of one room": {
			files: map[string]string{"internal/access/a.go": pkg("access", "cel.dev/cel-go/cel"),
				"internal/catalogfile/a.go": pkg("catalogfile", "cel.dev/cel-go/cel")},
			want: []string{"internal/access/a.go: imports cel.dev/cel-go/cel: only internal/catalogfile may"}},
		"a module that begins like ours is third party": {
			files: map[string]string{"internal/engine/a.go": pkg("engine", module+"x/y")},
			want:  []string{"this room imports the standard library and usher only"}},
		"unplanned room": {files: map[string]string{"internal/billing/a.go": pkg("billing")},
			want: []string{"internal/billing: is not a planned room"}},
		"import of no room": {files: map[string]string{"internal/api/a.go": pkg("api", module+"/internal/nowhere")},
			want: []string{"imports internal/nowhere, which is not a planned room"}},
		"a room inside a room": {files: map[string]string{"internal/store/sqlite/a.go": pkg("sqlite")},
			want: []string{"internal/store/sqlite: is not a planned room"}},
		"testing in code": {files: map[string]string{"internal/live/a.go": pkg("live", "testing"),
			"internal/auth/a.go": pkg("auth", "testing/fstest")},
			want: []string{"internal/auth/a.go: imports testing/fstest: only tests", "internal/live/a.go: imports testing: only tests"}},
		"test room in code": {files: map[string]string{"internal/store/a.go": pkg("store", module+"/internal/testpg")},
			want: []string{"internal/store/a.go: imports internal/testpg: only tests"}},
		"cgo": {files: map[string]string{"internal/store/a.go": pkg("store", "C")},
			want: []string{"internal/store/a.go: imports C"}},
		"no package comment": {files: map[string]string{"internal/live/a.go": "package live\n"},
			want: []string{"internal/live: has no package comment"}},
		"a comment on the wrong": {files: map[string]string{"internal/live/a.go": "// Copyright of someone.\npackage live\n"},
			want: []string{"internal/live: has no package comment"}},
		"a comment in a test": {files: map[string]string{"internal/live/a.go": "package live\n", "internal/live/a_test.go": pkg("live")},
			want: []string{"internal/live: has no package comment"}},
		"a comment in one of two": {files: map[string]string{"internal/live/a.go": "package live\n", "internal/live/live.go": pkg("live")}},
		"a command's comment": {files: map[string]string{"cmd/usher/main.go": "// Package main is it.\npackage main\n"},
			want: []string{"cmd/usher: has no package comment"}},
		"vague name": {files: map[string]string{"internal/util/a.go": pkg("util")},
			want: []string{`internal/util: "util" says nothing`, "internal/util: is not a planned room"}},
		"standard name": {files: map[string]string{"internal/http/a.go": pkg("http")},
			want: []string{`internal/http: "http" is also a package`, "internal/http: is not a planned room"}},
		"tests are exempt": {files: map[string]string{"internal/engine/a_test.go": "package engine_test\nimport _ \"" + module +
			"/internal/api\"\nimport _ \"pgregory.net/rapid\"\nimport _ \"testing\"\n"}},
		"left alone": {files: map[string]string{
			"internal/store/testdata/a.go": "package x\n", "_old/a.go": "package x\n", ".git/a.go": "package x\n",
			"oracles/go.mod": "module oracles\n", "oracles/a.go": "package x\n", "docs/a.md": "", "ui/a.ts": ""}},
		"broken file": {files: map[string]string{"internal/engine/a.go": "pack age"},
			want: []string{"internal/engine/a.go:1:1: expected 'package'"}},
		"no doc comments": {
			files: map[string]string{
				"b.go": "package usher\ntype A struct{}\nfunc (a *A) M() {}\nfunc (a A) m() {}\ntype b struct{}\nfunc (b) M() {}\nfunc F() {}\nvar " +
					"V, w = 1, 2\nconst C = 1\n" +
					"type G[T any] struct{}\nfunc (G[T]) M() {}\n",
				"client/a.go":               "// Package client is it.\npackage client\nvar E error\n",
				"internal/meter/a.go":       pkg("meter") + "func F() {}\n",
				"internal/engine/a_test.go": "package engine\nfunc F() {}\n",
			},
			want: []string{"b.go: A is", "b.go: A.M is", "b.go: C is", "b.go: F is", "b.go: G is", "b.go: G.M is", "b.go: V is",
				"client/a.go: E is"}},
		"doc comments": {files: map[string]string{"b.go": "package usher\n// A is.\ntype A struct{}\n" +
			"// The group.\nconst (\n\tB = 1\n\tC = 2\n)\nvar (\n\tD = 1 // the line\n\t// E is.\n\tE = 2\n)\n// F does.\nfunc F() {}\n"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fsys := fstest.MapFS{"a.go": {Data: []byte(root)}, "go.mod": {Data: []byte("module " + module + "\n")}}
			for name, src := range test.files {
				fsys[name] = &fstest.MapFile{Data: []byte(src)}
			}
			got := breaches(fsys)
			ok := len(got) == len(test.want)
			for i := 0; ok && i < len(got); i++ {
				ok = strings.Contains(got[i], test.want[i]) && !strings.Contains(got[i], "\n")
			}
			if !ok {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}
