package api

import (
	"encoding/json"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

// members is a decision about acme's seats, of which there are 2.
func members(allowed, reason, used, reserved, remaining, rest string) string {
	return `{"allowed":` + allowed + `,"reason":"` + reason + `","customer":"acme","feature":"members","kind":"seats",` +
		`"precision":0,"limit":2,"used":` +
		used +
		`,"reserved":` + reserved + `,"remaining":` + remaining + `,"unlimited":false,"overage":0,"plan":"pro@1",` +
		`"mode":"enforce",` + rest + `"revision":3}`
}

// TestS22_Seats: one per holder, never more than there are, freed at once.
func TestS22_Seats(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		const at = "/v1/customers/acme/seats/members"
		const since = `,"since":"2026-03-10T12:00:00Z"`
		w.want(w.json("GET", at, ""), 200, `{"data":[]}`+"\n")
		w.want(w.json("PUT", at+"/ann", ""), 200, members("true", "within_limit", "1", "0", "1", `"seat":{"holder":"ann","state":"active"`+
			since+`},`))
		w.pass(time.Second)
		w.want(w.json("PUT", at+"/ann", "{}"), 200, members("true", "within_limit", "1", "0", "1", `"seat":{"holder":"ann",`+
			`"state":"active"`+
			since+`},`))
		w.want(w.json("PUT", at+"/bob", `{"state":"pending","expires_at":"2026-03-10T13:00:00+00:30"}`), 200,
			members("true", "within_limit", "1", "1", "0", `"seat":{"holder":"bob","state":"pending","since":"2026-03-10T12:00:01Z",`+
				`"expires_at":"2026-03-10T12:30:00Z"},`))
		w.want(w.json("PUT", at+"/cid", ""), 200, members("false", "seat_limit_reached", "1", "1", "0", ""))
		const ann, bob = `{"holder":"ann","state":"active"` + since +
			`}`, `{"holder":"bob","state":"pending","since":"2026-03-10T12:00:01Z","expires_at":"2026-03-10T12:30:00Z"}`
		w.want(w.json("GET", at, ""), 200, `{"data":[`+ann+`,`+bob+`]}`+"\n")
		var page struct {
			Next string `json:"next_cursor"`
		}
		first := w.json("GET", at+"?limit=1", "")
		if err := json.Unmarshal(first.Body.Bytes(), &page); err != nil || page.Next == "" ||
			!strings.HasPrefix(first.Body.String(), `{"data":[`+ann+`],`) {
			t.Fatalf("the first page: %s, %v", first.Body, err)
		}
		w.want(w.json("GET", at+"?limit=1&cursor="+page.Next, ""), 200, `{"data":[`+bob+`]}`+"\n")

		// Accepted: the invitation does not end any more. Freed: another may sit.
		w.want(w.json("PUT", at+"/bob", `{"state":"active"}`), 200, members("true", "within_limit", "2", "0", "0",
			`"seat":{"holder":"bob","state":"active","since":"2026-03-10T12:00:01Z"},`))
		w.want(w.json("DELETE", at+"/ann", ""), 204, "")
		w.want(w.json("DELETE", at+"/ann", ""), 204, "")
		w.want(w.json("PUT", at+"/cid", `{"ttl":"90s"}`), 200, members("true", "within_limit", "2", "0", "0",
			`"seat":{"holder":"cid","state":"active","since":"2026-03-10T12:00:01Z","expires_at":"2026-03-10T12:01:31Z"},`))
		// A floating seat: kept by asking again, free at its end.
		w.pass(time.Minute)
		w.want(w.json("PUT", at+"/cid", `{"ttl":"90s"}`), 200, members("true", "within_limit", "2", "0", "0",
			`"seat":{"holder":"cid","state":"active","since":"2026-03-10T12:00:01Z","expires_at":"2026-03-10T12:02:31Z"},`))
		w.pass(89 * time.Second)
		w.want(w.json("PUT", at+"/dan", ``), 200, members("false", "seat_limit_reached", "2", "0", "0", ""))
		w.pass(time.Second)
		w.want(w.json("PUT", at+"/dan", ``), 200, members("true", "within_limit", "2", "0", "0",
			`"seat":{"holder":"dan","state":"active","since":"2026-03-10T12:02:31Z"},`))
		w.want(w.json("PUT", "/v1/customers/nobody/seats/members/ann", ""), 200,
			`{"allowed":false,"reason":"unknown_customer","customer":"nobody","feature":"members","kind":"seats","revision":3}`)
		w.want(w.json("PUT", "/v1/customers/acme/seats/nothing/ann", ""), 200,
			`{"allowed":false,"reason":"unknown_feature","customer":"acme","feature":"nothing","revision":3}`)

		// A limit that is lowered evicts nobody; the list says who lies beyond it (S19).
		if got := w.json("POST", "/v1/customers/acme/overrides",
			`{"feature":"members","value":1,"reason":"a test","expires":"never"}`); got.Code != 201 {
			t.Fatalf("got %d %s", got.Code, got.Body)
		}
		w.want(w.json("GET", at, ""), 200, `{"data":[{"holder":"bob","state":"active","since":"2026-03-10T12:00:01Z"},{"holder":"dan",`+
			`"state":"active","since":"2026-03-10T12:02:31Z","excess":true}]}`+"\n")
		got := w.json("PUT", at+"/dan", `{"state":"pending"}`)
		if got.Code != 200 || !strings.Contains(got.Body.String(), `"allowed":true`) {
			t.Errorf("a holder beyond the limit changes the seat it has: got %d %s, want it to be allowed", got.Code, got.Body)
		}
	})
}

// TestS22_HolderNames: an id is any text, percent-encoded where it must be.
func TestS22_HolderNames(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.json("POST", "/v1/customers/odd%2Fn%C3%A4me%20%3F&%25/overrides",
			`{"feature":"members","value":"unlimited","reason":"a test","expires":"never"}`)
		const at = "/v1/customers/odd%2Fn%C3%A4me%20%3F&%25/seats/members"
		for _, holder := range []string{"a/b", "ann@x.com", "a:b*", "*", "..", ".", "a//b", "ä ?&%=#", "%2F", "user:1+2", `"<q>"`, "日本", " ",
			strings.Repeat("x", 255)} {
			name := url.PathEscape(holder)
			if strings.Trim(holder, ".") == "" {
				name = strings.ReplaceAll(holder, ".", "%2e")
			}
			seat := `"seat":{"holder":` + quote(holder) + `,"state":"active","since":"2026-03-10T12:00:00Z"}`
			if got := w.json("PUT", at+"/"+name, ""); got.Code != 200 || !strings.Contains(got.Body.String(), seat) {
				t.Errorf("PUT %s: got %d %s, want %s", name, got.Code, got.Body, seat)
			}
			list := w.json("GET", at, "")
			if got, want := list.Body.String(), `{"data":[{"holder":`+quote(holder)+`,"state":"active","since":"2026-03-10T12:00:00Z"}]}`+
				"\n"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			w.want(w.json("DELETE", at+"/"+name, ""), 204, "")
			w.want(w.json("GET", at, ""), 200, `{"data":[]}`+"\n")
		}
		// As a browser or curl sends them.
		for _, name := range []string{"ann@x.com", "a:b*", "*"} {
			w.json("PUT", at+"/"+name, "")
			w.want(w.json("DELETE", at+"/"+url.QueryEscape(name), ""), 204, "")
		}
		w.want(w.json("GET", at, ""), 200, `{"data":[]}`+"\n")
	})
}

func TestBadSeats(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, filepath.Join(t.TempDir(), "usher.db"), heldCatalog)
	const at = "/v1/customers/acme/seats/members"
	const fields = "unknown field; known fields: state, expires_at, ttl"
	for body, want := range map[string]string{
		`{"x":1,"holder":"ann"}`: bad("body.x|"+fields, "body.holder|"+fields),
		`{"state":"asleep"}`:     bad(`body.state|must be active or pending, got "asleep"`),
		`{"state":null}`:         bad("body.state|must be a string, got null"),
		`{"state":""}`:           bad(`body.state|must be active or pending, got ""`),
		`{"expires_at":"tomorrow"}`: bad(`body.expires_at|must be an RFC 3339 time with its zone, such as "2026-03-31T00:00:00Z",` +
			` got "tomorrow"`),
		`{"expires_at":null}`: bad(`body.expires_at|must be an RFC 3339 time with its zone, such as "2026-03-31T00:00:00Z",` +
			` got null`),
		`{"expires_at":"2026-03-10T12:00:00Z"}`: bad("body.expires_at|must be later than now, 2026-03-10T12:00:00Z"),
		`{"ttl":"0s"}`:                          bad(`body.ttl|must be between 1s and 8760h, got "0s"`),
		`{"ttl":"8761h"}`:                       bad(`body.ttl|must be between 1s and 8760h, got "8761h"`),
		`{"ttl":"soon"}`:                        bad(`body.ttl|must be a span such as "60s", "5m" or "1h30m", got "soon"`),
		`{"ttl":"60s",` +
			`"expires_at":"2026-04-01T00:00:00Z"}`: bad("body.ttl|must not be sent with expires_at: one of them says when the seat " +
			"ends"),
		`null`: bad("body|must be an object, got null"),
	} {
		w.want(w.json("PUT", at+"/ann", body), 400, want)
	}
	long := strings.Repeat("x", 256)
	for path, want := range map[string]string{
		at + "/" + long: bad("path.holder|must be at most 255 bytes, this one is 256"),
		at + "/a%00b":   bad("path.holder|must not contain control characters (U+0000)"),
		at + "/a%0Ab":   bad("path.holder|must not contain control characters (U+000A)"),
		at + "/%ff":     bad("path.holder|must be valid UTF-8"),
		"/v1/customers/a%07/seats/" + long + "/%7F": bad("path.id|must not contain control characters (U+0007)",
			"path.feature|must be at most 255 bytes, this one is 256", "path.holder|must not contain control characters (U+007F)"),
	} {
		w.want(w.json("PUT", path, ""), 400, want)
		w.want(w.json("DELETE", path, ""), 400, want)
	}
	// A holder without a name has no path at all.
	nameless := problemBody(usher.NotFound, "the path has an empty segment, or a segment . or ..; an id of . or .. must be "+
		"percent-encoded, and no id is empty")
	for _, method := range []string{"PUT", "DELETE", "GET"} {
		w.want(w.json(method, at+"/", ""), 404, nameless)
		w.want(w.json(method, "/v1/customers/acme/seats//ann", ""), 404, nameless)
		w.want(w.json(method, at+"/..", ""), 404, nameless)
	}
	w.want(w.json("PUT", at, ""), 405, problemBody(door.MethodNotAllowed, "PUT does not exist here, but GET, HEAD does"))
	w.want(w.json("PUT", "/v1/customers/acme/seats/calls/ann", ""), 422, problemBody(usher.Refused,
		"calls is of kind metered, not seats: it has no holders"))
	w.want(w.json("DELETE", "/v1/customers/acme/seats/sso/ann", ""), 422, problemBody(usher.Refused,
		"sso is of kind switch, not seats: it has no holders"))
	w.want(w.json("GET", "/v1/customers/acme/seats/sso", ""), 422, problemBody(usher.Refused,
		"sso is of kind switch, not seats: it has no holders")+"\n")
	w.want(w.json("DELETE", "/v1/customers/nobody/seats/members/ann", ""), 404, problemBody(usher.NotFound, `no customer "nobody"`))
	w.want(w.json("DELETE", "/v1/customers/acme/seats/nothing/ann", ""), 404, problemBody(usher.NotFound, `no feature "nothing"`))
	w.want(w.json("GET", "/v1/customers/nobody/seats/members", ""), 404, problemBody(usher.NotFound, `no customer "nobody"`)+"\n")
	w.want(w.json("GET", "/v1/customers/acme/seats/nothing", ""), 404, problemBody(usher.NotFound, `no feature "nothing"`)+"\n")
	for query, want := range map[string]string{
		"?limit=0":     `"location":"query.limit"`,
		"?limit=1001":  `"location":"query.limit"`,
		"?cursor=%21":  `"errors":[{"location":"query.cursor","message":"must be the next_cursor of an answer"}]`,
		"?cursor=bm8":  `"errors":[{"location":"query.cursor","message":"must be the next_cursor of the page before"}]`,
		"?holder=none": `holder`,
	} {
		if got := w.json("GET", at+query, ""); got.Code != 400 || !strings.Contains(got.Body.String(), want) {
			t.Errorf("%s: got %d %s, want 400 with %s", query, got.Code, got.Body, want)
		}
	}
	w.want(w.json("GET", at, ""), 200, `{"data":[]}`+"\n")
	// Who may: a product seats and frees; a reader reads.
	read, app := "Bearer "+w.keys[auth.RoleRead], "Bearer "+w.keys[auth.RoleApp]
	w.want(w.json("PUT", at+"/ann", "", "Authorization", read), 403, problemBody(usher.Forbidden,
		`a key of role "read" may not do this: it needs the permission "seat"`))
	if got := w.json("PUT", at+"/ann", "", "Authorization", app); got.Code != 200 {
		t.Errorf("PUT as app: got %d %s", got.Code, got.Body)
	}
	if got := w.json("GET", at, "", "Authorization", read); got.Code != 200 || !strings.Contains(got.Body.String(), `"ann"`) {
		t.Errorf("GET as read: got %d %s", got.Code, got.Body)
	}
}
