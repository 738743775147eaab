package api

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

// TestS16_Corrections gives back, to the letter; nothing is given back twice.
func TestS16_Corrections(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		correct := func(status int, body, want string) {
			t.Helper()
			w.want(w.json("POST", "/v1/corrections", body), status, want)
		}
		w.json("POST", "/v1/consume", `{"customer":"acme","feature":"calls","amount":10,"key":"c1"}`)
		back := calls("true", "within_limit", "6", "0", "94", march+
			`"correction":{"ref":"c1","amount":4,"left":6,"returned":[{"allowance":"plan:pro@1","amount":4}]},`)
		correct(201, `{"ref":"c1","amount":4,"reason":"a fault of ours","key":"x1"}`, back+`"revision":3}`)
		correct(201, `{"ref":"c1","amount":"4.0","reason":"a fault of ours","key":"x1"}`, back+`"replayed":true,"revision":3}`)
		correct(409, `{"ref":"c1","amount":5,"reason":"a fault of ours","key":"x1"}`,
			problemBody(usher.KeyReused, `the idempotency key "x1" was used for another call (correct,`+
				` at 2026-03-10T12:00:00Z); use a new key for each operation`))
		correct(422, `{"ref":"c1","amount":7,"reason":"r","key":"x2"}`, problemBody(usher.Refused,
			"only 6 of the 10 that were taken are left to give back"))
		correct(201, `{"ref":"c1","amount":6,"reason":"r","key":"x3","feature":"calls"}`,
			calls("true", "within_limit", "0", "0", "100", march+`"correction":{"ref":"c1","amount":6,"left":0,`+
				`"returned":[{"allowance":"plan:pro@1","amount":6}]},"revision":3}`))
		correct(422, `{"ref":"c1","amount":1,"reason":"r","key":"x4"}`, problemBody(usher.Refused,
			"only 0 of the 10 that were taken are left to give back"))

		// What cannot be corrected.
		correct(422, `{"ref":"x1","amount":1,"reason":"r","key":"x5"}`, problemBody(usher.Refused,
			`"x1" is a correction, which cannot be corrected: consume or report again what was given back too much`))
		correct(404, `{"ref":"none","amount":1,"reason":"r","key":"x6"}`, problemBody(usher.NotFound, `no take with the key "none"`))
		correct(404, `{"ref":"§rsv_1","amount":1,"reason":"r","key":"x6"}`, problemBody(usher.NotFound, `no take with the key "§rsv_1"`))
		w.json("POST", "/v1/consume", `{"customer":"acme","feature":"calls","amount":101,"key":"no"}`)
		correct(422, `{"ref":"no","amount":1,"reason":"r","key":"x7"}`, problemBody(usher.Refused,
			`"no" took nothing, so there is nothing to give back`))
		w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":101,"key":"h0"}`)
		correct(422, `{"ref":"h0","amount":1,"reason":"r","key":"x8"}`, problemBody(usher.Refused,
			`"h0" was denied, so there is nothing to give back`))
		w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":9,"key":"h1"}`)
		correct(422, `{"ref":"h1","amount":1,"reason":"r","key":"x9"}`, problemBody(usher.Refused,
			"the reservation rsv_2 is not settled, so there is nothing to give back: release it"))
		w.json("POST", "/v1/reservations/rsv_2/settle", "")
		correct(422, `{"ref":"h1","feature":"tokens","amount":1,"reason":"r","key":"x9"}`,
			problemBody(usher.Refused, `"h1" took from calls, not from tokens`))
		correct(201, `{"ref":"h1","amount":2,"reason":"r","key":"x9"}`,
			calls("true", "within_limit", "7", "0", "93", march+`"correction":{"ref":"h1","amount":2,"left":7,`+
				`"returned":[{"allowance":"plan:pro@1","amount":2}]},"revision":3}`))

		// Of an event: the excess goes first; one that counted for two names one.
		w.json("POST", "/v1/events", event("e1", `{"tokens":12}`), "Content-Type", eventType)
		const ref = `"ref":{"source":"s","id":"e1"}`
		correct(400, `{`+ref+`,"amount":3,"reason":"r","key":"y1"}`,
			bad("body.feature|is required because the event counted for several features: one of copies, tokens"))
		correct(422, `{`+ref+`,"feature":"peak","amount":3,"reason":"r","key":"y1"}`, problemBody(usher.Refused,
			"the event added nothing to peak, so there is nothing to give back"))
		correct(404, `{"ref":{"source":"s","id":"e2"},"amount":3,"reason":"r","key":"y1"}`,
			problemBody(usher.NotFound, `no event with source "s" and id "e2"`))
		correct(201, `{`+ref+`,"feature":"copies","amount":3,"reason":"r","key":"y2"}`,
			`{"allowed":true,"reason":"within_limit","customer":"acme","feature":"copies","kind":"metered","precision":0,"limit":1000,"used":9,`+
				`"reserved":0,`+
				`"remaining":991,"unlimited":false,"overage":0,`+march+
				`"correction":{`+ref+`,"amount":3,"left":9,"returned":[{"allowance":"plan:pro@1","amount":3}]},"revision":3}`)
	})
}

func TestBadCorrections(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, filepath.Join(t.TempDir(), "usher.db"), heldCatalog)
	w.json("POST", "/v1/consume", `{"customer":"acme","feature":"calls","amount":10,"key":"c1"}`)
	const form = `must be the key of a consume or a reservation, or {"source":…,"id":…} of an event`
	const key = `body.key|an idempotency key is required: send "key" in the body or an Idempotency-Key header,` +
		` a new one for each operation and the same one for its retries`
	with := func(more string) string { return `{"reason":"r","key":"k",` + more + `}` }
	for body, want := range map[string]string{
		`{}`: bad("body.ref|"+form, "body.amount|is required: the units to give back",
			"body.reason|is required: why something is given back", key),
		`{"ref":"c1","amount":1,"reason":""}`:            bad("body.reason|is required: why something is given back", key),
		with(`"ref":5,"amount":1`):                       bad("body.ref|" + form + ", got a number"),
		with(`"ref":null,"amount":1`):                    bad("body.ref|" + form + ", got null"),
		with(`"ref":"","amount":1`):                      bad("body.ref|must not be empty"),
		with(`"ref":{},"amount":1`):                      bad("body.ref.source|must not be empty", "body.ref.id|must not be empty"),
		with(`"ref":{"source":"","id":"c1"},"amount":1`): bad("body.ref.source|must not be empty"),
		with(`"ref":{"source":"s","id":"i","x":1}`):      bad("body.ref.x|unknown field; known fields: source, id"),
		with(`"ref":"c1","amount":1,"customer":"acme"`):  bad("body.customer|unknown field; known fields: ref, feature, amount, reason, key"),
		with(`"ref":"c1","amount":-1`):                   bad(`body.amount|must not be negative, got "-1"`),
		with(`"ref":"c1","amount":1e1`):                  bad(`body.amount|must be a plain decimal number such as 10 or "1.5", got "1e1"`),
		with(`"ref":"c1","amount":1,"feature":""`):       bad("body.feature|must not be empty"),
		with(`"ref":"c1","amount":0`):                    bad("body.amount|must be more than 0"),
		with(`"ref":"c1","amount":1.5`):                  bad("body.amount|must be a whole number, got 1.5"),
		`{"ref":"c1","amount":1,"key":"k","reason":"` + strings.Repeat("r", 1001) +
			`"}`: bad("body.reason|is required, at most 1000 bytes: why units are given back"),
	} {
		w.want(w.json("POST", "/v1/corrections", body), 400, want)
	}
	for _, role := range []string{auth.RoleApp, auth.RoleRead} {
		w.want(w.json("POST", "/v1/corrections", with(`"ref":"c1","amount":1`), "Authorization", "Bearer "+w.keys[role]), 403,
			problemBody(usher.Forbidden, `a key of role "`+role+`" may not do this: it needs the permission "usage.write"`))
	}
	// Another environment's take is not there.
	w.want(w.json("POST", "/v1/corrections", with(`"ref":"c1","amount":1`), "Authorization", "Bearer "+w.keys["sandbox"]), 404,
		problemBody(usher.NotFound, `no take with the key "c1"`))
	if got := w.json("POST", "/v1/check", `{"customer":"acme","feature":"calls"}`).Body.String(); !strings.Contains(got, `"used":10,`) {
		t.Errorf("something was given back: %s", got)
	}
}

// TestS26_Denials: what was denied, warned and counted beyond what was permitted.
func TestS26_Denials(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for _, key := range []string{"1", "2", "3", "3"} { // a retry is denied once
			w.json("POST", "/v1/consume", `{"customer":"acme","feature":"calls","amount":101,"key":"`+key+`"}`)
		}
		w.pass(time.Hour)
		w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":200,"key":"4"}`)
		w.json("POST", "/v1/consume", `{"customer":"acme","feature":"soft","amount":5,"key":"5"}`)
		w.json("POST", "/v1/events", event("e1", `{"tokens":12}`), "Content-Type", eventType)
		w.json("POST", "/v1/consume", `{"customer":"odd/näme ?&%","feature":"credits","amount":"5.001","key":"6"}`)
		w.json("POST", "/v1/consume", `{"customer":"nobody","feature":"calls","key":"7"}`)
		const span = "?from=2026-03-10T12:00:00Z&to=2026-03-10T14:00:00Z"
		ask := func(more, want string) {
			t.Helper()
			w.want(w.json("GET", "/v1/denials"+span+more, ""), 200, `{"data":[`+want+`]}`)
		}
		const denied = `{"customer":"acme","feature":"calls","outcome":"denied","reason":"limit_reached","count":4,"amount":503,` +
			`"first":"2026-03-10T12:00:00Z","last":"2026-03-10T13:00:00Z"}`
		const warned = `{"customer":"acme","feature":"soft","outcome":"warned","reason":"limit_reached","count":1,"amount":5,` +
			`"first":"2026-03-10T13:00:00Z","last":"2026-03-10T13:00:00Z"}`
		const credits = `{"customer":"odd/näme ?&%","feature":"credits","outcome":"denied","reason":"limit_reached","count":1,` +
			`"amount":"5.001","first":"2026-03-10T13:00:00Z","last":"2026-03-10T13:00:00Z"}`
		ask("&customer=acme&feature=calls", denied)
		ask("&outcome=warned", warned)
		ask("&outcome=denied", denied+","+credits)
		ask("&customer=odd/n%C3%A4me%20?%26%25", credits)
		ask("&customer=nobody", "")
		got := w.json("GET", "/v1/denials"+span+"&outcome=excess", "").Body.String()
		if !strings.Contains(got, `"feature":"tokens","outcome":"excess"`) || strings.Contains(got, "copies") {
			t.Errorf("excess: got %s, want that of tokens", got)
		}
		w.want(w.json("GET", "/v1/denials?from=2026-03-10T13:00:00Z&to=2026-03-10T14:00:00Z&feature=calls", ""), 200,
			`{"data":[{"customer":"acme","feature":"calls","outcome":"denied","reason":"limit_reached","count":1,"amount":200,`+
				`"first":"2026-03-10T13:00:00Z","last":"2026-03-10T13:00:00Z"}]}`)
		for query, want := range map[string]string{
			"": bad("query.from|is required", "query.to|is required"),
			"?from=2026-03-10&to=2026-03-11T00:00:00Z": bad(`query.from|must be an RFC 3339 time with its zone,` +
				` such as "2026-03-31T00:00:00Z", got "2026-03-10"`),
			"?from=2026-03-10T00:00:00Z&to=2026-03-10T00:00:00Z&outcome=allowed": bad("query.to|must be after from",
				"query.outcome|must be denied, warned, shadowed or excess"),
			span + "&outcome=&limit=5": bad("query.outcome|must not be empty",
				"query.limit|unknown parameter; known parameters: customer, feature, outcome, from, to"),
		} {
			w.want(w.json("GET", "/v1/denials"+query, ""), 400, want)
		}
		w.want(w.json("GET", "/v1/denials"+span, "", "Authorization", "Bearer "+w.keys["sandbox"]), 200, `{"data":[]}`)
		w.want(w.json("GET", "/v1/denials"+span+"&feature=soft", "", "Authorization", "Bearer "+w.keys[auth.RoleRead]), 200, `{"data":[`+warned+
			`]}`)
	})
}
