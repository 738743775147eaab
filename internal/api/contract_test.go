package api

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/testpg"
)

// TestContract walks through the answers that the reference shows, to the
// letter: a customer on pro from 31 March, 42 calls used.
func TestContract(t *testing.T) {
	t.Parallel()
	story := func(t *testing.T, dsn string) {
		a := newActor(t, dsn, "2026-03-31T00:00:00Z")
		a.where = t.Name()
		src, err := os.ReadFile("../catalogfile/testdata/api.yaml")
		if err != nil {
			t.Fatal(err)
		}
		want := func(got []byte, want string) {
			t.Helper()
			if string(got) != want+"\n" && string(got) != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		}
		var applied struct {
			Revision int64             `json:"revision"`
			Hash     string            `json:"hash"`
			Plans    map[string]string `json:"plans"`
			Changes  []json.RawMessage `json:"changes"`
		}
		if err := json.Unmarshal(a.call(200, "PUT", "/v1/catalog?dry_run=true", src), &applied); err != nil {
			t.Fatal(err)
		}
		dry := applied.Hash
		if err := json.Unmarshal(a.call(200, "PUT", "/v1/catalog", src), &applied); err != nil {
			t.Fatal(err)
		}
		if applied.Revision != 2 || applied.Hash != dry || len(applied.Hash) != len("sha256:")+64 || applied.Plans["pro"] != "pro@1" ||
			len(applied.Changes) == 0 {
			t.Errorf("apply: %+v", applied)
		}
		a.call(201, "PUT", "/v1/customers/acme", map[string]any{"name": "Acme", "timezone": "America/New_York",
			"anchor": "2026-03-31T04:00:00Z", "metadata": map[string]string{}})
		a.call(200, "PUT", "/v1/customers/acme", map[string]any{"name": "Acme", "metadata": map[string]string{}, "timezone": "UTC"})
		a.call(201, "PUT", "/v1/customers/globex", map[string]any{"name": "Globex"})
		sub := a.call(201, "POST", "/v1/customers/globex/subscriptions", map[string]any{"plan": "pro", "addons": []any{}})
		var s struct{ ID, Plan string }
		if err := json.Unmarshal(sub, &s); err != nil || s.Plan != "pro@1" || s.ID[:4] != "sub_" {
			t.Errorf("subscription: %s, %v", sub, err)
		}
		const calls = `"unit":"call","precision":0,"limit":100000,"used":42,"reserved":0,"remaining":99958,"unlimited":false,"overage":0,` +
			`"overage_left":10000,"window":{"start":"2026-03-31T00:00:00Z","end":"2026-04-30T00:00:00Z"},"plan":"pro@1","mode":"enforce",` +
			`"allowances":[{"allowance":"plan:pro@1","limit":100000,"used":42,"reserved":0,"remaining":99958,"overage":0,` +
			`"window":{"start":"2026-03-31T00:00:00Z","end":"2026-04-30T00:00:00Z"}}],"caps":[{"cap":"plan:pro@1","per":"minute",` +
			`"limit":600,"used":42,"remaining":558,"window":{"start":"2026-03-31T00:00:00Z","end":"2026-03-31T00:01:00Z"}}]`
		want(a.call(200, "POST", "/v1/consume", map[string]any{"customer": "globex", "feature": "api_calls", "amount": 42, "key": "k1"}),
			`{"allowed":true,"reason":"within_limit","customer":"globex","feature":"api_calls","kind":"metered",`+calls+`,`+
				`"consumed":42,"deductions":[{"allowance":"plan:pro@1","amount":42}],`+
				`"valid_until":"2026-03-31T00:01:00Z","revision":6}`)
		want(a.call(200, "POST", "/v1/check", map[string]any{"customer": "globex", "feature": "api_calls", "amount": 10}),
			`{"allowed":true,"reason":"within_limit","customer":"globex","feature":"api_calls","kind":"metered",`+calls+`,`+
				`"valid_until":"2026-03-31T00:01:00Z","revision":6}`)
		want(a.call(200, "POST", "/v1/consume", map[string]any{"customer": "globex", "feature": "api_calls", "amount": "42.0", "key": "k1"}),
			`{"allowed":true,"reason":"within_limit","customer":"globex","feature":"api_calls","kind":"metered",`+calls+`,`+
				`"consumed":42,"deductions":[{"allowance":"plan:pro@1","amount":42}],"replayed":true,`+
				`"valid_until":"2026-03-31T00:01:00Z","revision":6}`)
		want(a.call(200, "POST", "/v1/check", map[string]any{"customer": "globex", "feature": "sso"}),
			`{"allowed":true,"reason":"granted","customer":"globex","feature":"sso","kind":"switch","title":"Single sign-on",`+
				`"plan":"pro@1","valid_until":"2026-04-14T00:00:00Z","revision":6}`)
		want(a.call(200, "POST", "/v1/check", map[string]any{"customer": "globex", "feature": "retention"}),
			`{"allowed":true,"reason":"granted","customer":"globex","feature":"retention","kind":"config","unit":"day","value":90,`+
				`"plan":"pro@1","valid_until":"2026-04-14T00:00:00Z","revision":6}`)
		want(a.call(200, "POST", "/v1/check", map[string]any{"customer": "nobody", "feature": "sso"}),
			`{"allowed":false,"reason":"unknown_customer","customer":"nobody","feature":"sso","kind":"switch","title":"Single sign-on",`+
				`"revision":6}`)
		want(a.call(200, "POST", "/v1/check", map[string]any{"customer": "globex", "feature": "nothing"}),
			`{"allowed":false,"reason":"unknown_feature","customer":"globex","feature":"nothing","revision":6}`)
		want(a.call(200, "POST", "/v1/check", map[string]any{"customer": "globex", "feature": "tokens", "amount": 250001}),
			`{"allowed":false,"reason":"insufficient_credits","customer":"globex","feature":"tokens","kind":"metered","unit":"token",`+
				`"precision":0,"limit":0,"used":0,"reserved":0,"remaining":250000,"unlimited":false,"overage":0,`+
				`"credits":{"feature":"ai_credits","per_unit":"0.002","precision":3,"held":"0.000","remaining":"500.000"},`+
				`"plan":"pro@1","mode":"enforce","valid_until":"2026-04-14T00:00:00Z","revision":6}`)
		want(a.call(200, "POST", "/v1/consume", map[string]any{"customer": "globex", "feature": "ai_credits", "amount": "0.125", "key": "k2"}),
			`{"allowed":true,"reason":"within_limit","customer":"globex","feature":"ai_credits","kind":"credits",`+
				`"unit":"credit","precision":3,`+
				`"limit":"500.000",`+
				`"used":"0.125","reserved":"0.000","remaining":"499.875","unlimited":false,"overage":"0.000",`+
				`"window":{"start":"2026-03-31T00:00:00Z","end":"2026-04-30T00:00:00Z"},"plan":"pro@1","mode":"enforce",`+
				`"consumed":"0.125","deductions":[{"allowance":"plan:pro@1","amount":"0.125"}],`+
				`"valid_until":"2026-04-14T00:00:00Z","revision":6}`)

		// What is patched, overridden and granted is decided at once.
		until := a.now.Add(time.Hour).Format(time.RFC3339)
		a.call(201, "POST", "/v1/customers/acme/overrides", map[string]any{"feature": "sso", "value": true, "reason": "beta",
			"expires_at": until})
		want(a.call(200, "POST", "/v1/check", map[string]any{"customer": "acme", "feature": "sso"}),
			`{"allowed":true,"reason":"granted","customer":"acme","feature":"sso","kind":"switch","title":"Single sign-on",`+
				`"rule":"override","sources":["override:ovr_000002"],"valid_until":"2026-03-31T01:00:00Z","revision":7}`)
		a.call(201, "POST", "/v1/customers/globex/grants", map[string]any{"feature": "api_calls", "amount": 5000, "priority": 50,
			"reason": "sorry", "key": "g1"})
		a.call(201, "POST", "/v1/customers/globex/grants", map[string]any{"feature": "api_calls", "amount": 5000, "priority": 50,
			"reason": "sorry", "key": "g1"})
		var d usher.Decision
		if err := json.Unmarshal(a.call(200, "POST", "/v1/consume", map[string]any{"customer": "globex", "feature": "api_calls", "amount": 558,
			"key": "k3"}), &d); err != nil {
			t.Fatal(err)
		}
		if d.Limit != 105000 || d.Used != 600 || len(d.Allowances) != 2 || len(d.Deductions) != 1 || d.Deductions[0].Allowance[:6] != "grant:" {
			t.Errorf("after one grant, sent twice: %+v", d)
		}
		if err := json.Unmarshal(a.call(200, "POST", "/v1/check", map[string]any{"customer": "globex", "feature": "api_calls"}),
			&d); err != nil || d.Reason != usher.CapReached || len(d.Caps) != 1 {
			t.Errorf("the 601st call of the minute: %+v, %v", d, err)
		}
		// The history, and the file as it was sent.
		var list struct {
			Data       []struct{ Revision int64 } `json:"data"`
			NextCursor string                     `json:"next_cursor"`
		}
		if err := json.Unmarshal(a.call(200, "GET", "/v1/catalog/revisions", nil), &list); err != nil || len(list.Data) != 1 {
			t.Errorf("revisions: %+v, %v", list, err)
		}
		if got := a.call(200, "GET", "/v1/catalog", nil); string(got) != string(src) {
			t.Errorf("the file in force is not the file that was sent: %d and %d bytes", len(got), len(src))
		}
	}
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); story(t, filepath.Join(t.TempDir(), "usher.db")) })
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
		story(t, dsn)
	})
}
