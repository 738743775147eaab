package api

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

// event is a CloudEvent of acme's.
func event(id, data string) string {
	return `{"specversion":"1.0","id":"` + id + `","source":"s","type":"llm.completion","subject":"acme","data":` + data + `}`
}

// problemBody is the exact body of an error without a list.
func problemBody(code usher.Code, detail string) string {
	p := door.NewProblem(code, detail, nil)
	p.RequestID = "t"
	b, _ := door.Marshal(p)
	return string(b)
}

// TestProblemBody pins the shape that the other tests take from newProblem.
func TestProblemBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.do("POST", "/v1/check", "application/json", `{"customer":"acme","feature":"api_calls","amount":-1}`)
	w.want(got, 400, `{"type":"urn:usher:problem:invalid","title":"Invalid request","status":400,"code":"invalid",`+
		`"detail":"body.amount: must not be negative, got \"-1\"","request_id":"t","errors":[{"location":"body.amount",`+
		`"message":"must not be negative, got \"-1\""}]}`)
	wantHeaders(t, got.Header(), map[string]string{"Content-Type": "application/problem+json", "X-Request-Id": "t",
		"X-Content-Type-Options": "nosniff"})
}

func TestBadChecks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const known = "unknown field; known fields: customer, feature, amount, member, permission, resource, context, at, min_revision"
	const broken = "body|invalid JSON at line 1, column "
	amount := func(a string) string { return `{"customer":"acme","feature":"api_calls","amount":` + a + `}` }
	when := func(a string) string { return `{"customer":"acme","feature":"api_calls","at":` + a + `}` }
	const time = `body.at|must be an RFC 3339 time with its zone, such as "2026-03-31T00:00:00Z", got `
	for body, want := range map[string]string{
		``:                     bad(broken + "1: expected an object, got the end"),
		`{`:                    bad(broken + "2: expected a name in double quotes, got the end"),
		`{"customer":"acme"`:   bad(broken + "19: expected `,` or `}`, got the end"),
		`{"customer" "acme"}`:  bad(broken + "13: expected `:`, got `\"`"),
		`{"customer":"acme",}`: bad(broken + "19: remove the `,` before the closing `}`"),
		`{'customer':1}`:       bad(broken + "2: expected a name in double quotes, got `'`"),
		`[]`:                   bad("body|must be an object, got an array"),
		`null`:                 bad("body|must be an object, got null"),
		`{}`: bad("body.customer|must not be empty",
			`body.feature|is required, unless "member" and "permission" are set`),
		`{"customer":"acme","feature":"sso"} x`: bad(broken + "37: expected nothing after the end of the value, got `x`"),
		`{"customer":"acme","customer":"b","feature":"sso"}`: bad(broken +
			`30: the name "customer" occurs twice in one object, first at line 1, column 2`),
		`{"customer":"acme","\u0063ustomer":"b","feature":"sso"}`: bad(broken +
			`35: the name "customer" occurs twice in one object, first at line 1, column 2`),
		`{"customer":"acme","feature":"sso","x":{"a":1,"a":2}}`: bad(broken +
			`50: the name "a" occurs twice in one object, first at line 1, column 41`),
		`{"customer":"acme","feature":"sso","x":1,"Amount":2}`: bad("body.x|"+known, "body.Amount|"+known),
		`{"customer":5,"feature":null,"amount":true,"member":["a"]}`: bad("body.customer|must be a string, got a number",
			"body.feature|must be a string, got null", `body.amount|must be a number such as 10 or "1.5", got a boolean`,
			"body.member|must be a string, got an array"),
		amount(`null`): bad(`body.amount|must be a number such as 10 or "1.5", got null`),
		amount(`-1`):   bad(`body.amount|must not be negative, got "-1"`),
		amount(`"-1"`): bad(`body.amount|must not be negative, got "-1"`),
		amount(`9223372036854775808`): bad(`body.amount|is beyond what can be counted (at most 9223372036854775807),` +
			` got 9223372036854775808`),
		amount(`1e3`):                                bad(`body.amount|must be a plain decimal number such as 10 or "1.5", got "1e3"`),
		amount(`"NaN"`):                              bad(`body.amount|must be a plain decimal number such as 10 or "1.5", got "NaN"`),
		amount(`""`):                                 bad(`body.amount|must be a plain decimal number such as 10 or "1.5", got ""`),
		amount(`" 1"`):                               bad(`body.amount|must be a plain decimal number such as 10 or "1.5", got " 1"`),
		amount(`NaN`):                                bad(broken + "51: expected a value, got `NaN`: text must be in double quotes"),
		amount(`01`):                                 bad(broken + "51: a number must not have leading zeros"),
		amount(`.5`):                                 bad(broken + "51: expected a value, got `.`"),
		when(`"2026-03-01T00:00:00"`):                bad(time + `"2026-03-01T00:00:00"`),
		when(`"2026-02-30T00:00:00Z"`):               bad(time + `"2026-02-30T00:00:00Z"`),
		when(`5`):                                    bad(time + `a number`),
		when(`"1969-12-31T23:59:59Z"`):               bad(`body.at|must lie between 1970 and 2200, got "1969-12-31T23:59:59Z"`),
		when(`"9999-01-01T00:00:00Z"`):               bad(`body.at|must lie between 1970 and 2200, got "9999-01-01T00:00:00Z"`),
		`{"customer":"a\u0000b","feature":"f"}`:      bad(broken + `21: a string must not hold \u0000`),
		`{"customer":"a\u0007b","feature":"f"}`:      bad("body.customer|must not contain control characters (U+0007)"),
		`{"customer":"a\ud800","feature":"f"}`:       bad(broken + "21: a string holds half of a surrogate pair"),
		"{\"customer\":\"a\xff\",\"feature\":\"f\"}": bad(broken + "16: a string is not valid UTF-8"),
		"{\"customer\":\"a\nb\",\"feature\":\"f\"}": bad(broken +
			`15: a string must end on its line: close the quote, or write \n for a line break`),
		`{"customer":"` + strings.Repeat("x", 256) + `","feature":"f"}`: bad("body.customer|must be at most 255 bytes, this one is 256"),
		`{"customer":"acme","feature":"sso","min_revision":-1}`: bad(`body.min_revision|must be a whole number from 0 to ` +
			`9223372036854775807, got "-1"`),
		`{"customer":"acme","feature":"sso","min_revision":1.5}`: bad(`body.min_revision|must be a whole number from 0 to ` +
			`9223372036854775807, got "1.5"`),
		`{"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`: bad(broken + "37: nested deeper than 32 levels"),
		strings.Repeat(`[`, 1<<19):                                        bad(broken + "33: nested deeper than 32 levels"),
	} {
		w.want(w.do("POST", "/v1/check", "application/json", body), 400, want)
		w.want(w.do("POST", "/v1/explain", "application/json", body), 400, want)
	}
	// Beyond a feature's own precision; the place is the same.
	for body, want := range map[string]string{
		amount(`1.5`): `"errors":[{"location":"body.amount","message":"must be a whole number, got 1.5"}]`,
		`{"customer":"acme","feature":"credits","amount":"1.2345"}`: `"errors":[{"location":"body.amount","message":"must have at ` +
			`most 3 digits after the point, got 1.2345"}]`,
		`{"customer":"acme","feature":"credits","amount":9223372036854776}`: `"errors":[{"location":"body.amount","message":"is beyond what ` +
			`can be counted (at most 9223372036854775.807), got 9223372036854776"}]`,
		`{"customer":"acme","feature":"sso","min_revision":99}`: `"errors":[{"location":"body.min_revision",`,
	} {
		if got := w.do("POST", "/v1/check", "application/json", body); got.Code != 400 || !strings.Contains(got.Body.String(), want) {
			t.Errorf("%s: got %d %s, want 400 with %s", body, got.Code, got.Body, want)
		}
	}
}

func TestBadBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := `{"customer":"a","feature":"b"}`
	for body, want := range map[string]string{
		`{}`:                         bad("body.checks|is required: an array of checks"),
		`{"checks":null}`:            bad("body.checks|must be an array, got null"),
		`{"checks":[` + one + `,5]}`: bad("body.checks[1]|must be an object, got a number"),
		`{"checks":[` + one + `,{"customer":"a"}],"x":0}`: bad(`body.checks[1].feature|is required, unless "member" and "permission" are set`,
			"body.x|unknown field; known fields: checks, min_revision"),
		`{"checks":[` + one + `,{"customer":"acme","feature":"tokens","amount":1.5}]}`: bad("body.checks[1].amount|must be a whole number," +
			" got 1.5"),
		`{"checks":[` + strings.Repeat(one+",", 1000) + one + `]}`: bad("body.checks|must hold at most 1000 checks"),
	} {
		w.want(w.do("POST", "/v1/check/batch", "application/json", body), 400, want)
	}
	got := w.do("POST", "/v1/check/batch", "application/json", `{"checks":[`+strings.Repeat(one+",", 999)+one+`]}`)
	if n := strings.Count(got.Body.String(), `"unknown_customer"`); got.Code != 200 || n != 1000 {
		t.Errorf("1,000 checks: got %d with %d decisions", got.Code, n)
	}
}

func TestBadConsumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for body, want := range map[string]string{
		`{"customer":"acme","feature":"tokens"}`: bad(`body.key|an idempotency key is required: ` +
			`send "key" in the body or an Idempotency-Key header, a new one for each operation and the same one for its retries`),
		`{"customer":"acme","feature":"tokens","key":""}`: bad(`body.key|an idempotency key is required: ` +
			`send "key" in the body or an Idempotency-Key header, a new one for each operation and the same one for its retries`),
		`{"customer":"acme","feature":"tokens","key":"é"}`: bad("body.key|must be printable ASCII; byte 0 is not"),
		`{"customer":"acme","feature":"tokens","key":"` + strings.Repeat("k", 256) +
			`"}`: bad("body.key|must be at most 255 characters, this one has 256"),
		`{"customer":"acme","feature":"tokens","key":"k","at":"2026-01-01T00:00:00Z"}`: bad("body.at|must not be sent: a consume counts " +
			"at the server's time"),
		`{"customer":"acme","feature":"tokens","key":"k","amount":-5,"ttl":"60s"}`: bad(`body.amount|must not be negative, got "-5"`,
			"body.ttl|unknown field; known fields: customer, feature, amount, key, member, permission, resource, context, min_revision"),
		`{"customer":"acme","feature":"tokens","key":1}`: bad("body.key|must be a string, got a number"),
		`{"customer":"acme","feature":"tokens","key":"k","key":"l"}`: bad(`body|invalid JSON at line 1, column 54: the ` +
			`name "key" occurs twice in one object, first at line 1, column 39`),
	} {
		w.want(w.do("POST", "/v1/consume", "application/json", body), 400, want)
	}
	body := `{"customer":"acme","feature":"tokens","key":"a"}`
	w.want(w.do("POST", "/v1/consume", "application/json", body, "Idempotency-Key", "b"), 400,
		bad("body.key|must be the same as the Idempotency-Key header, if both are sent"))
	w.want(w.do("POST", "/v1/consume", "application/json", body, "Idempotency-Key", "\x01"), 400,
		bad("header.Idempotency-Key|must be printable ASCII; byte 0 is not"))
	if got := w.do("POST", "/v1/check", "application/json", `{"customer":"acme","feature":"tokens"}`).Body.String(); !strings.Contains(got,
		`"used":0`) {
		t.Errorf("something was taken: %s", got)
	}
}

func TestMediaTypesAndSizes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ok := `{"customer":"acme","feature":"sso"}`
	for contentType, got := range map[string]string{"": "none", "text/plain": `"text/plain"`,
		"application/json; charset=latin1": `"application/json; charset=latin1"`,
		"application/json, text/plain":     `"application/json, text/plain"`} {
		w.want(w.do("POST", "/v1/check", contentType, ok), 415, problemBody(usher.UnsupportedMedia,
			"the Content-Type must be application/json, got "+got))
	}
	for _, contentType := range []string{"application/json", "Application/JSON;charset=UTF-8", "application/json; charset=utf-8"} {
		if got := w.do("POST", "/v1/check", contentType, ok); got.Code != 200 {
			t.Errorf("%s: got %d %s, want 200", contentType, got.Code, got.Body)
		}
	}
	w.want(w.do("POST", "/v1/events", "application/json", `{}`), 415, problemBody(usher.UnsupportedMedia,
		`the Content-Type must be application/cloudevents+json or application/cloudevents-batch+json, got "application/json"`))
	space := strings.Repeat(" ", 1<<20-len(ok))
	if got := w.do("POST", "/v1/check", "application/json", space+ok); got.Code != 200 {
		t.Errorf("1 MiB: got %d %s, want 200", got.Code, got.Body)
	}
	tooLarge := problemBody(usher.TooLarge, "the body is larger than the 1048576 bytes that this route accepts")
	w.want(w.do("POST", "/v1/check", "application/json", space+ok+" "), 413, tooLarge)
	w.want(w.do("POST", "/v1/events", eventsType, strings.Repeat(" ", 8<<20+1)), 413,
		problemBody(usher.TooLarge, "the body is larger than the 8388608 bytes that this route accepts"))
	// Without a length in advance.
	r := httptest.NewRequest("POST", "/v1/check", strings.NewReader(space+ok+" "))
	r.ContentLength = -1
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Request-ID", "t")
	r.Header.Set("Authorization", "Bearer "+w.keys[auth.RoleApp])
	out := httptest.NewRecorder()
	w.api.ServeHTTP(out, r)
	w.want(out, 413, tooLarge)
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want(w.do("GET", "/v1/nothing", "", ""), 404, problemBody(usher.NotFound, `there is no "/v1/nothing"; /openapi.json lists every route`))
	got := w.do("GET", "/v1/check", "", "")
	w.want(got, 405, problemBody(door.MethodNotAllowed, "GET does not exist here, but POST does"))
	wantHeaders(t, got.Header(), map[string]string{"Allow": "POST", "Content-Type": "application/problem+json"})
	got = w.do("DELETE", "/v1/usage", "", "")
	wantHeaders(t, got.Header(), map[string]string{"Allow": "GET, HEAD"})
	for target, want := range map[string]string{
		"/v1/customers/acme/entitlements?at=2026-03-01": bad(`query.at|must be an RFC 3339 time with its zone,` +
			` such as "2026-03-31T00:00:00Z", got "2026-03-01"`),
		"/v1/customers/acme/entitlements?at=x&b=1&at=y&a=": bad("query.at|must be given once",
			"query.a|unknown parameter; known parameters: at, member", "query.b|unknown parameter; known parameters: at, member"),
		"/v1/customers/a%07/entitlements": bad("path.id|must not contain control characters (U+0007)"),
		"/v1/usage?customer=acme&feature=tokens&window=day&from=2026-04-01": bad("query.to|is required",
			`query.from|must be an RFC 3339 time with its zone, such as "2026-03-31T00:00:00Z", got "2026-04-01"`),
	} {
		w.want(w.do("GET", target, "", ""), 400, want)
	}
}

func TestS17_BadEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	attributes := func(change string) string {
		return `{"specversion":"1.0","source":"s","type":"t","subject":"acme",` + change + `}`
	}
	deep := strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40)
	items := []struct{ event, code, message string }{
		{event("ok-1", `{"tokens":1}`), "", ""},
		{`5`, "invalid", "must be an event, got a number"},
		{`{}`, "invalid", `specversion must be "1.0", got ""`},
		{`{"specversion":"0.3","id":"1","source":"s","type":"t","subject":"acme"}`, "invalid", `specversion must be "1.0", got "0.3"`},
		{attributes(`"time":null`), "invalid", "id must not be empty"},
		{`{"specversion":"1.0","id":"1","type":"t","subject":"acme"}`, "invalid", "source must not be empty"},
		{`{"specversion":"1.0","id":"1","source":"s","type":"t"}`, "invalid", "subject must not be empty"},
		{`{"specversion":"1.0","id":"1","source":"s","subject":"acme"}`, "invalid", "type must not be empty"},
		{attributes(`"id":7`), "invalid", "id must be a string, got a number"},
		{attributes(`"id":"` + strings.Repeat("x", 256) + `"`), "invalid", "id must be at most 255 bytes, this one is 256"},
		{attributes(`"id":"a","id":"b"`), "invalid", `the name "id" occurs twice in one object, first at line 1, column 896`},
		{attributes(`"id":"a","time":"yesterday"`), "invalid", `time must be an RFC 3339 time with its zone, such as "2026-03-31T00:00:00Z",` +
			` got "yesterday"`},
		{attributes(`"id":"a","data":"x"`), "invalid", "data must be an object, got a string"},
		{attributes(`"id":"a","data_base64":"eA=="`), "invalid", "data_base64 is not read: send data, a JSON object"},
		{attributes(`"id":"a","data":{"a":"\u0000"}`), "invalid", `a string must not hold \u0000`},
		{attributes(`"id":"a","data":` + deep), "invalid", "nested deeper than 32 levels"},
		{event("v1", `{}`), "invalid_value", "data.tokens is missing: it must be a number"},
		{event("v2", `{"tokens":-1}`), "invalid_value", `data.tokens must not be negative, got "-1"`},
		{`{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"nobody"}`, "unknown_customer", `no customer "nobody"`},
		{event("ok-1", `{"tokens":2}`), "id_reused", `source "s" and id "ok-1" came before with other content; an event cannot be changed`},
		{attributes(`"id":"ok-2","ext":{"any":["thing"]},"data":null`), "", ""},
	}
	var all []string
	want := usher.IngestResult{Accepted: 2, Unmatched: 1, Rejected: []usher.Rejection{}}
	for i, x := range items {
		all = append(all, x.event)
		if x.code != "" {
			want.Rejected = append(want.Rejected, usher.Rejection{Index: i, Code: x.code, Message: x.message})
		}
	}
	body, err := door.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	w.want(w.do("POST", "/v1/events", eventsType, "["+strings.Join(all, ",")+"]"), 200, string(body))
	w.want(w.do("POST", "/v1/events", eventType, items[0].event), 200, `{"accepted":0,"duplicates":1,"rejected":[]}`)
	w.want(w.do("POST", "/v1/events", eventType, `{}`), 200, `{"accepted":0,"duplicates":0,"rejected":[{"index":0,"code":"invalid",`+
		`"message":"specversion must be \"1.0\", got \"\""}]}`)
	w.want(w.do("POST", "/v1/events", eventsType, `[]`), 200, `{"accepted":0,"duplicates":0,"rejected":[]}`)

	w.want(w.do("POST", "/v1/events", eventsType, `{}`), 400, bad("body|must be an array of events, got an object"))
	w.want(w.do("POST", "/v1/events", eventType, `[]`), 400, bad("body|must be an event, got an array"))
	w.want(w.do("POST", "/v1/events", eventsType, `[{]`), 400, bad("body|invalid JSON at line 1, column 3: expected a name in double "+
		"quotes, got `]`"))
	w.want(w.do("POST", "/v1/events", eventsType, `[] []`), 400,
		bad("body|invalid JSON at line 1, column 4: expected nothing after the end of the value, got `[`"))
	w.want(w.do("POST", "/v1/events", eventsType, strings.Repeat("[", 100_000)), 400,
		bad("body|invalid JSON at line 1, column 1001: nested deeper than 32 levels"))
	w.want(w.do("POST", "/v1/events", eventsType, "["+strings.Repeat("{},", 10000)+"{}]"), 413,
		problemBody(usher.TooLarge, "a request takes at most 10000 events, this one has 10001"))
}

func TestEventsInBinaryMode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	send := func(contentType, body string, headers ...string) *httptest.ResponseRecorder {
		base := []string{"ce-specversion", "1.0", "ce-source", "s", "ce-type", "llm.completion", "ce-subject", "odd%2Fn%C3%A4me ?&%25"}
		return w.do("POST", "/v1/events", contentType, body, append(base, headers...)...)
	}
	const one = `{"accepted":1,"duplicates":0,"rejected":[]}`
	w.want(send("application/json", `{"tokens":3}`, "ce-id", "1"), 200, one)
	w.want(send("", ``, "ce-id", `"2"`, "ce-type", "other", "ce-time", "2026-03-09T00:00:00Z"), 200,
		`{"accepted":1,"duplicates":0,"unmatched":1,"rejected":[]}`)
	rejected := func(message string) string {
		return `{"accepted":0,"duplicates":0,"rejected":[{"index":0,"code":"invalid","message":` + quote(message) + `}]}`
	}
	w.want(send("application/json", `{"tokens":3}`), 200, rejected("id must not be empty"))
	w.want(send("application/json", `[3]`, "ce-id", "3"), 200, rejected("data must be an object, got an array"))
	w.want(send("application/json", `{}`, "ce-id", "%zz"), 200, rejected("ce-id must be given once, percent-encoded"))
	w.want(send("application/json", `{`, "ce-id", "4"), 400, bad("body|invalid JSON at line 1, column 2: expected a name in double quotes,"+
		" got the end"))
	w.want(send("text/plain", `x`, "ce-id", "5"), 415, problemBody(usher.UnsupportedMedia, `the Content-Type must be application/json,`+
		` got "text/plain"`))
	if got := w.do("POST", "/v1/check", "application/json",
		`{"customer":"odd/näme ?&%","feature":"tokens"}`).Body.String(); !strings.Contains(got, `"used":3,`) {
		t.Errorf("got %s, want 3 used", got)
	}
}

func quote(s string) string {
	b, _ := door.Marshal(s)
	return string(b)
}
