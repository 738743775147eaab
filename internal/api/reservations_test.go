package api

import (
	"encoding/json"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/fsck"
	"github.com/usher-sh/usher/internal/testpg"
)

const heldCatalog = `
usher: 1
meters:
  tokens: {event: llm.completion, sum: data.tokens}
  peak: {event: llm.completion, max: data.tokens}
features:
  sso: {kind: switch}
  calls: {kind: metered}
  soft: {kind: metered}
  tokens: {kind: metered, meter: tokens}
  copies: {kind: metered, meter: tokens}
  peak: {kind: metered, meter: peak}
  credits: {kind: credits, precision: 3}
  members: {kind: seats}
plans:
  pro:
    default: true
    entitlements:
      sso: true
      calls: {limit: 100, per: month}
      soft: {limit: 1, per: month, mode: warn}
      tokens: {limit: 10, per: month}
      copies: {limit: 1000, per: month}
      credits: {limit: "5.000", per: month}
      members: 2
`

// onBoth tells a story on SQLite and on PostgreSQL.
func onBoth(t *testing.T, story func(t *testing.T, w *world)) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		story(t, newWorldOn(t, filepath.Join(t.TempDir(), "usher.db"), heldCatalog))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		server, err := testpg.Default()
		if err != nil {
			t.Skip("no PostgreSQL binaries: ", err)
		}
		dsn, err := server.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		story(t, newWorldOn(t, dsn, heldCatalog))
	})
}

func (w *world) json(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	contentType := ""
	if body != "" {
		contentType = "application/json"
	}
	return w.do(method, target, contentType, body, headers...)
}

// problemWith is the exact body of an error with its list: "location|message".
func problemWith(code usher.Code, detail string, problems ...string) string {
	var list []usher.Problem
	for _, p := range problems {
		location, message, _ := strings.Cut(p, "|")
		list = append(list, usher.Problem{Location: location, Message: message})
	}
	p := door.NewProblem(code, detail, list)
	p.RequestID = "t"
	b, _ := door.Marshal(p)
	return string(b)
}

const march = `"window":{"start":"2026-03-01T00:00:00Z","end":"2026-04-01T00:00:00Z"},"plan":"pro@1","mode":"enforce",`

// calls is a decision about acme's calls, up to what the call adds.
func calls(allowed, reason, used, reserved, remaining, rest string) string {
	return `{"allowed":` + allowed + `,"reason":"` + reason + `","customer":"acme","feature":"calls","kind":"metered",` +
		`"precision":0,"limit":100,"used":` + used + `,"reserved":` + reserved + `,"remaining":` + remaining +
		`,"unlimited":false,"overage":0,` + rest
}

// TestS23_Reservations holds, settles and releases, to the letter.
func TestS23_Reservations(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		const open = `"reservation":{"id":"rsv_1","amount":60,"expires_at":"2026-03-10T12:01:00Z"},`
		ask := `{"customer":"acme","feature":"calls","amount":60,"ttl":"60s","key":"h1"}`
		held := calls("true", "within_limit", "0", "60", "40", march+open)
		w.want(w.json("POST", "/v1/reservations", ask), 201, held+`"revision":3}`)
		w.want(w.json("POST", "/v1/reservations", ask), 201, held+`"replayed":true,"revision":3}`)
		w.want(w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":60,"ttl":"1m0s","min_revision":3}`,
			"Idempotency-Key", "h1"), 201, held+`"replayed":true,"revision":3}`)
		w.want(w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":60,"ttl":"61s","key":"h1"}`), 409,
			problemBody(usher.KeyReused, `the idempotency key "h1" was used for another call (reserve,`+
				` at 2026-03-10T12:00:00Z); use a new key for each operation`))
		w.want(w.json("POST", "/v1/consume", `{"customer":"acme","feature":"calls","amount":60,"key":"h1"}`), 409,
			problemBody(usher.KeyReused, `the idempotency key "h1" was used for another call (reserve,`+
				` at 2026-03-10T12:00:00Z); use a new key for each operation`))
		w.want(w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":41,"key":"h2"}`), 200,
			calls("false", "limit_reached", "0", "60", "40", march+`"revision":3}`))
		w.want(w.json("POST", "/v1/reservations", `{"customer":"nobody","feature":"calls","key":"h3"}`), 200,
			`{"allowed":false,"reason":"unknown_customer","customer":"nobody","feature":"calls","kind":"metered","revision":3}`)
		w.want(w.json("GET", "/v1/reservations/rsv_1", ""), 200, `{"id":"rsv_1","customer":"acme","feature":"calls","amount":60,`+
			`"state":"open","expires_at":"2026-03-10T12:01:00Z"}`)

		// Settled with less: the rest is free at once.
		w.pass(59 * time.Second)
		settled := calls("true", "within_limit", "45", "0", "55", march+
			`"consumed":45,"deductions":[{"allowance":"plan:pro@1","amount":45}],"reservation":{"id":"rsv_1","amount":60,`+
			`"expires_at":"2026-03-10T12:01:00Z","state":"settled","settled":45},`)
		w.want(w.json("POST", "/v1/reservations/rsv_1/settle", `{"amount":45}`), 200, settled+`"revision":3}`)
		w.want(w.json("POST", "/v1/reservations/rsv_1/settle", `{"amount":"45.0"}`), 200, settled+`"replayed":true,"revision":3}`)
		const again = "the reservation rsv_1 was settled with 45 at 2026-03-10T12:00:59Z; a settlement cannot be changed: correct it," +
			" or consume the rest"
		w.want(w.json("POST", "/v1/reservations/rsv_1/settle", `{"amount":46}`), 409, problemBody(usher.Conflict, again))
		w.want(w.json("POST", "/v1/reservations/rsv_1/settle", ``), 409, problemBody(usher.Conflict, again))
		w.want(w.json("POST", "/v1/reservations/rsv_1/release", ``), 409, problemBody(usher.Conflict, again))
		w.want(w.json("GET", "/v1/reservations/rsv_1", ""), 200, `{"id":"rsv_1","customer":"acme","feature":"calls","amount":60,`+
			`"state":"settled","expires_at":"2026-03-10T12:01:00Z","settled":45}`)

		// Settled with more than is held: excess where nothing is left.
		w.want(w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":55,"key":"h4"}`), 201,
			calls("true", "within_limit", "45", "55", "0", march+`"reservation":{"id":"rsv_7","amount":55,"expires_at":"2026-03-10T12:05:59Z"},`+
				`"revision":3}`))
		w.want(w.json("POST", "/v1/reservations/rsv_7/settle", `{"amount":58}`), 200,
			calls("true", "within_limit", "103", "0", "0", `"excess":3,`+march+
				`"consumed":58,"deductions":[{"allowance":"plan:pro@1","amount":55}],"reservation":{"id":"rsv_7","amount":55,`+
				`"expires_at":"2026-03-10T12:05:59Z","state":"settled","settled":58},"revision":3}`))
	})
}

func TestS23_ReleaseAndExpiry(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		reserve := func(key, amount string) string {
			t.Helper()
			got := w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":`+amount+`,"ttl":"10s","key":"`+key+`"}`)
			var d usher.Decision
			if err := json.Unmarshal(got.Body.Bytes(), &d); err != nil || got.Code != 201 || d.Reservation == nil {
				t.Fatalf("got %d %s, %v; want a reservation", got.Code, got.Body, err)
			}
			return d.Reservation.ID
		}
		end := func(id, state string) string {
			return `"reservation":{"id":"` + id + `","amount":100,"expires_at":"` +
				w.now().Truncate(time.Minute).Add(10*time.Second).Format(time.RFC3339) + `","state":"` + state + `"`
		}
		// Released, and released again: everything is back, once.
		id := reserve("a", "100")
		w.want(w.json("POST", "/v1/reservations/"+id+"/release", ``), 200, calls("true", "within_limit", "0", "0", "100", march+
			end(id, "released")+`},"revision":3}`))
		w.want(w.json("POST", "/v1/reservations/"+id+"/release", `{}`), 200, calls("true", "within_limit", "0", "0", "100", march+
			end(id, "released")+`},"replayed":true,"revision":3}`))
		w.want(w.json("POST", "/v1/reservations/"+id+"/settle", `{"amount":1}`), 409, problemBody(usher.Conflict, "the reservation "+id+
			" was released at 2026-03-10T12:00:00Z; if something was used after all, consume it"))
		w.want(w.json("GET", "/v1/reservations/"+id, ""), 200, `{"id":"`+id+
			`","customer":"acme","feature":"calls","amount":100,"state":"released","expires_at":"2026-03-10T12:00:10Z"}`)

		// Expired: at that instant the amount is free, for another.
		w.pass(time.Minute)
		late := reserve("b", "100")
		w.want(w.json("POST", "/v1/check", `{"customer":"acme","feature":"calls"}`), 200,
			calls("false", "limit_reached", "0", "100", "0", march+`"revision":3}`))
		w.pass(10 * time.Second)
		w.want(w.json("GET", "/v1/reservations/"+late, ""), 200, `{"id":"`+late+
			`","customer":"acme","feature":"calls","amount":100,"state":"expired","expires_at":"2026-03-10T12:01:10Z"}`)
		w.want(w.json("POST", "/v1/check", `{"customer":"acme","feature":"calls","amount":100}`), 200,
			calls("true", "within_limit", "0", "0", "100", march+`"revision":3}`))
		// Settled after that: counted all the same, and it says so.
		w.want(w.json("POST", "/v1/reservations/"+late+"/settle", ``), 200,
			calls("true", "within_limit", "100", "0", "0", march+`"consumed":100,"deductions":[{"allowance":"plan:pro@1","amount":100}],`+
				end(late, "settled")+`,"settled":100,"late":true},"revision":3}`))
		w.want(w.json("GET", "/v1/reservations/"+late, ""), 200, `{"id":"`+late+
			`","customer":"acme","feature":"calls","amount":100,"state":"settled","expires_at":"2026-03-10T12:01:10Z","settled":100,"late":true}`)
		w.want(w.json("POST", "/v1/consume", `{"customer":"acme","feature":"calls","key":"c"}`), 200,
			calls("false", "limit_reached", "100", "0", "0", march+`"consumed":0,"deductions":[],"revision":3}`))
		// Released after it expired: nothing comes back twice.
		w.pass(50 * time.Second)
		w.json("POST", "/v1/corrections", `{"ref":"b","amount":100,"reason":"a test","key":"back"}`)
		gone := reserve("d", "100")
		w.pass(11 * time.Second)
		w.want(w.json("POST", "/v1/consume", `{"customer":"acme","feature":"calls","amount":100,"key":"e"}`), 200,
			calls("true", "within_limit", "100", "0", "0", march+`"consumed":100,"deductions":[{"allowance":"plan:pro@1","amount":100}],`+
				`"revision":3}`))
		w.want(w.json("POST", "/v1/reservations/"+gone+"/release", ``), 200, calls("true", "within_limit", "100", "0", "0", march+
			end(gone, "expired")+`},"revision":3}`))
		w.want(w.json("POST", "/v1/check", `{"customer":"acme","feature":"calls"}`), 200,
			calls("false", "limit_reached", "100", "0", "0", march+`"revision":3}`))
	})
}

func TestBadReservations(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, filepath.Join(t.TempDir(), "usher.db"), heldCatalog)
	const fields = "unknown field; known fields: customer, feature, amount, ttl, key, member, permission, resource, context, min_revision"
	const example = `must be a span such as "60s", "5m" or "1h30m", got `
	with := func(more string) string {
		return `{"customer":"acme","feature":"calls","key":"k",` + more + `}`
	}
	for body, want := range map[string]string{
		`{}`: bad("body.customer|must not be empty", "body.feature|must not be empty",
			`body.key|an idempotency key is required: send "key" in the body or an Idempotency-Key header,`+
				` a new one for each operation and the same one for its retries`),
		with(`"x":1,"at":"2026-01-01T00:00:00Z"`): bad("body.x|"+fields, "body.at|"+fields),
		with(`"amount":-1`):                       bad(`body.amount|must not be negative, got "-1"`),
		with(`"amount":null`):                     bad(`body.amount|must be a number such as 10 or "1.5", got null`),
		with(`"amount":1e3`):                      bad(`body.amount|must be a plain decimal number such as 10 or "1.5", got "1e3"`),
		with(`"amount":9223372036854775808`): bad(`body.amount|is beyond what can be counted (at most 9223372036854775807),` +
			` got 9223372036854775808`),
		with(`"amount":1.5`):   bad("body.amount|must be a whole number, got 1.5"),
		with(`"ttl":60`):       bad(`body.ttl|must be a span such as "60s", "5m" or "1h30m", got a number`),
		with(`"ttl":null`):     bad(`body.ttl|must be a span such as "60s", "5m" or "1h30m", got null`),
		with(`"ttl":"0s"`):     bad(`body.ttl|must be between 1s and 168h, got "0s"`),
		with(`"ttl":"169h"`):   bad(`body.ttl|must be between 1s and 168h, got "169h"`),
		with(`"ttl":"168h1s"`): bad(`body.ttl|must be between 1s and 168h, got "168h1s"`),
		with(`"ttl":"99999999999999999999h99999999999999999999s"`): bad(`body.ttl|must be between 1s and 168h, got ` +
			`"99999999999999999999h9999999999999999999"…`),
		with(`"member":""`): bad("body.member|must not be empty"),
		with(`"min_revision":99`): problemBody(usher.Invalid, "min_revision is 99, but the newest revision is 3; send a revision that an "+
			"answer or a change carried"),
	} {
		w.want(w.json("POST", "/v1/reservations", body), 400, want)
	}
	for _, ttl := range []string{"", "5", "s", "-5s", "+5s", "1.5h", "5 m", "1d", "5M", "5s5m", "5m5m", "1h30", "5ms", "60 seconds", "٣s",
		"m5"} {
		w.want(w.json("POST", "/v1/reservations", with(`"ttl":"`+ttl+`"`)), 400, bad("body.ttl|"+example+quote(ttl)))
	}
	w.want(w.json("POST", "/v1/reservations", with(`"amount":1`), "Idempotency-Key", "other"), 400,
		bad("body.key|must be the same as the Idempotency-Key header, if both are sent"))
	for feature, detail := range map[string]string{
		"sso":     "sso is a switch: there is nothing to consume; check it instead",
		"members": "members is of kind seats, which are held by named holders, not consumed; give a holder a seat instead",
		"peak":    "peak follows the meter peak, whose aggregation is max: report it with events",
	} {
		w.want(w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"`+feature+`","key":"k"}`), 422,
			problemBody(usher.NotConsumable, detail))
	}
	if got := w.json("POST", "/v1/check", `{"customer":"acme","feature":"calls"}`).Body.String(); !strings.Contains(got, `"reserved":0,`) {
		t.Errorf("something is held: %s", got)
	}

	for ttl, end := range map[string]string{"1s": "2026-03-10T12:00:01Z", "60s": "2026-03-10T12:01:00Z", "5m": "2026-03-10T12:05:00Z",
		"24h": "2026-03-11T12:00:00Z", "1h30m": "2026-03-10T13:30:00Z", "1h0m5s": "2026-03-10T13:00:05Z", "168h": "2026-03-17T12:00:00Z"} {
		got := w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","ttl":"`+ttl+`","key":"`+ttl+`"}`)
		if got.Code != 201 || !strings.Contains(got.Body.String(), `"expires_at":"`+end+`"}`) {
			t.Errorf("ttl %s: got %d %s, want it to end at %s", ttl, got.Code, got.Body, end)
		}
	}

	// What ends one.
	w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"credits","amount":"1.5","key":"cr"}`)
	id := strings.Split(strings.Split(w.json("POST", "/v1/reservations",
		`{"customer":"acme","feature":"credits","amount":"1.5","key":"cr"}`).Body.String(), `"reservation":{"id":"`)[1], `"`)[0]
	none := "unknown field; this body has none: leave the body out, or send {}"
	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/settle", `{"amount":-1}`, 400, bad(`body.amount|must not be negative, got "-1"`)},
		{"/settle", `{"amount":null}`, 400, bad(`body.amount|must be a number such as 10 or "1.5", got null`)},
		{"/settle", `{"amount":"0.0001"}`, 400, bad("body.amount|must have at most 3 digits after the point, got 0.0001")},
		{"/settle", `{"amount":1e0}`, 400, bad(`body.amount|must be a plain decimal number such as 10 or "1.5", got "1e0"`)},
		{"/settle", `{"Amount":1,"key":"k"}`, 400, bad("body.Amount|unknown field; known fields: amount",
			"body.key|unknown field; known fields: amount")},
		{"/settle", `[]`, 400, bad("body|must be an object, got an array")},
		{"/settle", `{`, 400, bad("body|invalid JSON at line 1, column 2: expected a name in double quotes, got the end")},
		{"/release", `{"amount":1}`, 400, bad("body.amount|" + none)},
		{"/release", `5`, 400, bad("body|must be an object, got a number")},
	} {
		w.want(w.json("POST", "/v1/reservations/"+id+c.path, c.body), c.status, c.want)
	}
	w.want(w.do("POST", "/v1/reservations/"+id+"/settle", "text/plain", "{}"), 415,
		problemBody(usher.UnsupportedMedia, `the Content-Type must be application/json, got "text/plain"`))
	w.want(w.json("GET", "/v1/reservations/"+id, ""), 200, `{"id":"`+id+
		`","customer":"acme","feature":"credits","amount":"1.500","state":"open","expires_at":"2026-03-10T12:05:00Z"}`)

	// One that is not there, in any environment but its own.
	for _, path := range []string{"/settle", "/release"} {
		w.want(w.json("POST", "/v1/reservations/rsv_nope"+path, ``), 404, problemBody(usher.NotFound, `no reservation "rsv_nope"`))
		w.want(w.json("POST", "/v1/reservations/"+id+path, ``, "Authorization", "Bearer "+w.keys["sandbox"]), 404,
			problemBody(usher.NotFound, `no reservation "`+id+`"`))
		w.want(w.json("POST", "/v1/reservations/a%07"+path, ``), 400, bad("path.id|must not contain control characters (U+0007)"))
		w.want(w.json("POST", "/v1/reservations/"+strings.Repeat("x", 256)+path, `{"x":1}`), 400,
			bad("path.id|must be at most 255 bytes, this one is 256",
				map[string]string{"/settle": "body.x|unknown field; known fields: amount", "/release": "body.x|" + none}[path]))
	}
	w.want(w.json("GET", "/v1/reservations/"+id, ``, "Authorization", "Bearer "+w.keys["sandbox"]), 404,
		problemBody(usher.NotFound, `no reservation "`+id+`"`))
	w.want(w.json("GET", "/v1/reservations/%07", ``), 400, bad("path.id|must not contain control characters (U+0007)"))
}

// TestS36_CustomerGone: what a deleted customer used is kept, in whatever way its
// reservations end, and the answers say what is kept. A revived one has it.
func TestS36_CustomerGone(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for _, key := range []string{"k1", "k2", "k3", "k4"} {
			if got := w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":5,"ttl":"1h","key":"`+key+
				`"}`); got.Code != 201 {
				t.Fatalf("got %d %s", got.Code, got.Body)
			}
		}
		if got := w.json("DELETE", "/v1/customers/acme", ``); got.Code != 204 {
			t.Fatalf("got %d %s", got.Code, got.Body)
		}
		has := func(what string, got *httptest.ResponseRecorder, status int, parts ...string) {
			t.Helper()
			for _, p := range parts {
				if got.Code != status || !strings.Contains(got.Body.String(), p) {
					t.Errorf("%s: got %d %s, want %d with %s", what, got.Code, got.Body, status, p)
				}
			}
		}
		has("settled", w.json("POST", "/v1/reservations/rsv_1/settle", `{"amount":9}`), 200, `"reason":"unknown_customer"`, `"consumed":9`,
			`"settled":9`, `"deductions":[{"allowance":"plan:pro@1","amount":5}]`)
		has("settled again", w.json("POST", "/v1/reservations/rsv_1/settle", `{"amount":9}`), 200, `"consumed":9`, `"replayed":true`)
		has("released", w.json("POST", "/v1/reservations/rsv_2/release", ``), 200, `"state":"released"`)
		has("corrected", w.json("POST", "/v1/corrections", `{"ref":"k1","amount":2,"reason":"test","key":"c1"}`), 201, `"left":7`,
			`"returned":[{"allowance":"plan:pro@1","amount":2}]`)
		w.pass(2 * time.Hour)
		has("settled late", w.json("POST", "/v1/reservations/rsv_3/settle", `{"amount":9}`), 200, `"consumed":9`, `"late":true`)
		has("expired", w.json("POST", "/v1/reservations/rsv_4/release", ``), 200, `"state":"expired"`)
		has("an event", w.do("POST", "/v1/events", eventType, `{"specversion":"1.0","id":"e1","source":"s","type":"llm.completion",
			"subject":"acme","data":{"tokens":3}}`), 200, `"accepted":0`, `"code":"unknown_customer"`)
		has("revived", w.json("PUT", "/v1/customers/acme", `{}`), 201, `"id":"acme"`)
		has("revived", w.json("POST", "/v1/check", `{"customer":"acme","feature":"calls"}`), 200, `"used":16,"reserved":0`)
		if r, err := fsck.Run(t.Context(), w.db, fsck.Options{Now: w.now}); err != nil || r.Total != 0 {
			t.Errorf("fsck: %+v, %v", r.Differences, err)
		}
	})
}

// TestS23_FeatureGone: the feature was removed while some of it was held. What was
// used is counted all the same, read by the catalogue of that time.
func TestS23_FeatureGone(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for _, key := range []string{"k", "l"} {
			body := `{"customer":"acme","feature":"calls","amount":3,"ttl":"168h","key":"` + key + `"}`
			if got := w.json("POST", "/v1/reservations", body); got.Code != 201 {
				t.Fatalf("got %d %s", got.Code, got.Body)
			}
		}
		const without = "usher: 1\nfeatures: {sso: {kind: switch}}\nplans: {pro: {default: true, entitlements: {sso: true}}}\n"
		if got := w.do("PUT", "/v1/catalog?migrate=all", "application/yaml", without); got.Code != 422 ||
			!strings.Contains(got.Body.String(), "2 open reservations") {
			t.Errorf("while it is held: got %d %s, want 422 that names the reservation", got.Code, got.Body)
		}
		w.pass(29 * 24 * time.Hour) // it has expired, and nothing of it is in an open window
		if got := w.do("PUT", "/v1/catalog", "application/yaml", without); got.Code != 200 {
			t.Fatalf("got %d %s", got.Code, got.Body)
		}
		if got := w.json("POST", "/v1/reservations/rsv_1/settle", `{"amount":1}`); got.Code != 200 ||
			!strings.Contains(got.Body.String(), `"reason":"unknown_feature"`) || !strings.Contains(got.Body.String(), `"consumed":1`) {
			t.Errorf("settle: got %d %s, want 200, consumed 1", got.Code, got.Body)
		}
		if got := w.json("POST", "/v1/reservations/rsv_2/release", ``); got.Code != 200 ||
			!strings.Contains(got.Body.String(), `"state":"expired"`) {
			t.Errorf("release: got %d %s, want 200, expired", got.Code, got.Body)
		}
	})
}
