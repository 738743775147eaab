package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

const adviceCatalog = `
usher: 1
features:
  sso: {kind: switch}
  support: {kind: config, type: enum, values: [community, email]}
  calls: {kind: metered, unit: call}
  credits: {kind: credits, precision: 2}
  tokens: {kind: metered, draws: {credits: credits, per_unit: "0.5"}}
  seats: {kind: seats}
plans:
  free: {default: true, entitlements: {calls: {limit: 10, per: month}, seats: 2}}
  pro: {trial: 14 days, entitlements: {sso: true, calls: {limit: 100, per: month, caps: [{limit: 20, per: hour, sliding: true}]},
    seats: 5, credits: {limit: 10, per: month}, tokens: {}}}
  business: {entitlements: {sso: true, support: email, calls: {limit: 100, per: day, overage: {max: 50}}, seats: unlimited,
    credits: {limit: 100, per: month}, tokens: {}}}
  small: {entitlements: {calls: {limit: 5, per: month}, seats: 1}}
addons:
  pack: {entitlements: {calls: {limit: 50, per: month}}}
  crumbs: {entitlements: {calls: {limit: 1, per: month}}}
  sso-pack: {entitlements: {sso: true}}
  top-up: {entitlements: {credits: {limit: 5, per: month}}}
`

// TestAdvice_EachChangeHelps: each change that an explanation advises, when it is made,
// changes the answer to yes, and the limit is then what the advice said. Every change
// is made to a customer of its own in the same state.
func TestAdvice_EachChangeHelps(t *testing.T) {
	t.Parallel()
	const override = `"expires":"never","reason":"x"}`
	for _, c := range []struct {
		name, ask string
		setup     []string // method, path (of the customer, or absolute) and body
		want      []string // the kinds and targets that must be there, in this order; "!x" must not be there
	}{
		{"default plan, switch", `"feature":"sso"`, nil, []string{"plan business", "plan pro", "override sso", "!wait", "!addon sso-pack"}},
		{"default plan, used up", `"feature":"calls","amount":4`, []string{"use calls 8"},
			[]string{"wait", "plan business", "plan pro", "grant calls", "override calls", "!plan small", "!plan free"}},
		{"more than a window gives", `"feature":"calls","amount":30`, nil, []string{"plan business", "grant calls", "override calls", "!wait"}},
		{"more than the cap", `"feature":"calls","amount":21`, []string{"POST subscriptions {\"plan\":\"pro\"}"},
			[]string{"plan business", "!addon pack", "!plan pro", "!grant calls", "!wait"}},
		{"the cap is used up", `"feature":"calls","amount":15`, []string{"POST subscriptions {\"plan\":\"pro\"}", "use calls 8"},
			[]string{"wait", "plan business", "!addon pack"}},
		{"an add-on helps, another one does not", `"feature":"calls","amount":30`, []string{"POST subscriptions {\"plan\":\"small\"}"},
			[]string{"addon pack", "plan business", "!addon crumbs"}},
		{"the add-on is held", `"feature":"calls","amount":80`, []string{
			"POST subscriptions {\"plan\":\"small\",\"addons\":[{\"addon\":\"pack\"}]}"}, []string{"plan business", "grant calls", "!addon pack"}},
		{"suspended", `"feature":"sso"`, []string{"POST subscriptions {\"plan\":\"pro\"}", "patch {\"status\":\"suspended\"}"},
			[]string{"status", "!plan business", "!override sso", "!wait"}},
		{"trial ended", `"feature":"sso"`, []string{`POST subscriptions {"plan":"pro","starts_at":"2026-03-01T00:00:00Z",` +
			`"trial_ends_at":"2026-03-10T11:00:00Z"}`}, []string{"status", "plan business", "override sso"}},
		{"denied", `"feature":"sso"`, []string{"POST subscriptions {\"plan\":\"business\"}",
			`POST overrides {"feature":"sso","value":{"deny":true},` + override}, []string{"override", "!plan pro", "!override sso"}},
		{"denied for a while", `"feature":"sso"`, []string{"POST subscriptions {\"plan\":\"business\"}",
			`POST overrides {"feature":"sso","value":false,"expires_at":"2026-03-12T00:00:00Z","reason":"x"}`}, []string{"wait", "override"}},
		{"lowered", `"feature":"calls","amount":5`, []string{`POST overrides {"feature":"calls","value":{"add":-8},` + override},
			[]string{"wait", "override", "plan business", "grant calls", "override calls"}[1:]},
		{"credits", `"feature":"tokens","amount":31`, []string{"POST subscriptions {\"plan\":\"pro\"}"},
			[]string{"plan business", "grant credits", "grant tokens", "!addon top-up", "!wait"}},
		{"credits used up", `"feature":"tokens","amount":8`, []string{`POST subscriptions {"plan":"pro","trial_ends_at":null}`, "use tokens 15"},
			[]string{"wait", "addon top-up", "plan business", "grant credits", "grant tokens"}},
		{"seats", `"feature":"seats"`, []string{"PUT seats/seats/ann {}", "PUT seats/seats/bob {}"},
			[]string{"seat seats", "plan pro", "plan business", "override seats", "!plan small"}},
		{"config", `"feature":"support"`, nil, []string{"plan business", "!override support"}},
		{"not yet", `"feature":"sso"`, []string{`POST subscriptions {"plan":"pro","starts_at":"2026-03-20T00:00:00Z"}`},
			[]string{"wait", "plan business"}},
		{"held", `"feature":"calls","amount":5`, []string{"hold calls 8"}, []string{"wait", "plan business"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if got := w.do("PUT", "/v1/catalog", "application/yaml", adviceCatalog); got.Code != 200 {
				t.Fatalf("got %d %s", got.Code, got.Body)
			}
			s := &advised{world: w, subs: map[string]string{}}
			s.make("first", c.setup)
			x := s.explain("first", c.ask)
			var got []string
			for _, ch := range x.Changes {
				got = append(got, strings.TrimSpace(string(ch.Kind)+" "+ch.Target))
			}
			rest := got
			for _, want := range c.want {
				if no, ok := strings.CutPrefix(want, "!"); ok {
					if slices.ContainsFunc(got, func(g string) bool { return g == no || strings.HasPrefix(g, no+" ") }) {
						t.Errorf("got %q, want no %q", got, no)
					}
					continue
				}
				i := slices.IndexFunc(rest, func(g string) bool { return g == want || strings.HasPrefix(g, want+" ") })
				if i < 0 {
					t.Errorf("got %q, want %q in this order", got, c.want)
					break
				}
				rest = rest[i+1:]
			}
			for i, ch := range x.Changes {
				if ch.Kind == usher.AdviceWait {
					continue // last, because time passes for all
				}
				id := fmt.Sprint("c", i)
				s.make(id, c.setup)
				s.does(id, c.ask, ch.Kind, i)
			}
			for _, ch := range x.Changes {
				if ch.Kind == usher.AdviceWait {
					w.pass(ch.At.Sub(w.now()) - time.Microsecond)
					if d := s.check("first", c.ask); d.Allowed {
						t.Errorf("before %v: got yes, want the first instant", ch.At)
					}
					w.pass(time.Microsecond)
					s.yes("first", c.ask, ch)
				}
			}
		})
	}
}

// advised plays the same state for several customers, and makes what is advised.
type advised struct {
	*world
	subs map[string]string
}

func (s *advised) call(method, path, body string, into any) {
	s.t.Helper()
	kind := ""
	if body != "" {
		kind = "application/json"
	}
	got := s.do(method, path, kind, body)
	if got.Code >= 300 {
		s.t.Fatalf("%s %s %s: got %d %s", method, path, body, got.Code, got.Body)
	}
	if into != nil {
		if err := json.Unmarshal(got.Body.Bytes(), into); err != nil {
			s.t.Fatal(err)
		}
	}
}

// make makes a customer in a state.
func (s *advised) make(id string, setup []string) {
	s.t.Helper()
	s.call("PUT", "/v1/customers/"+id, `{"name":"`+id+`","anchor":"2026-01-01T00:00:00Z"}`, nil)
	for _, step := range setup {
		method, rest, _ := strings.Cut(step, " ")
		path, body, _ := strings.Cut(rest, " ")
		switch method {
		case "use":
			s.call("POST", "/v1/consume", `{"customer":"`+id+`","feature":"`+path+`","amount":`+body+`,"key":"`+id+`"}`, nil)
		case "hold":
			s.call("POST", "/v1/reservations", `{"customer":"`+id+`","feature":"`+path+`","amount":`+body+`,"ttl":"10m","key":"`+id+`"}`, nil)
		case "patch":
			s.call("PATCH", "/v1/subscriptions/"+s.subs[id], rest, nil)
		default:
			var made struct{ ID string }
			s.call(method, "/v1/customers/"+id+"/"+path, body, &made)
			if path == "subscriptions" {
				s.subs[id] = made.ID
			}
		}
	}
}

func (s *advised) explain(id, ask string) (x usher.Explanation) {
	s.t.Helper()
	s.call("POST", "/v1/explain", `{"customer":"`+id+`",`+ask+`}`, &x)
	if x.Decision.Allowed {
		s.t.Fatalf("%s is allowed: %+v", ask, x.Decision)
	}
	return x
}

func (s *advised) check(id, ask string) (d usher.Decision) {
	s.t.Helper()
	s.call("POST", "/v1/check", `{"customer":"`+id+`",`+ask+`}`, &d)
	return d
}

func (s *advised) yes(id, ask string, ch usher.WhatWouldChange) {
	s.t.Helper()
	d := s.check(id, ask)
	if !d.Allowed || d.Unlimited != ch.Unlimited || ch.Limit != nil && ch.Limit.Units != d.Limit {
		s.t.Errorf("after %+v: got %+v, want yes and that limit", ch, d)
	}
}

// does makes the change of a kind that stands at a place of a customer's own advice.
func (s *advised) does(id, ask string, kind usher.AdviceKind, i int) {
	s.t.Helper()
	x := s.explain(id, ask)
	if i >= len(x.Changes) || x.Changes[i].Kind != kind {
		s.t.Fatalf("%s: got %+v, want the advice of the first customer", id, x.Changes)
	}
	ch := x.Changes[i]
	s.pass(time.Microsecond)           // what is made now comes after what was made before
	made := func(what string) string { // the number in the words of an advice
		for _, word := range strings.Fields(what) {
			if strings.Trim(word, "0123456789.") == "" {
				return word
			}
		}
		return ""
	}
	path := "/v1/customers/" + id + "/"
	switch kind {
	case usher.AdvicePlan:
		if sub := s.subs[id]; strings.HasPrefix(ch.What, "move") {
			s.call("PATCH", "/v1/subscriptions/"+sub, `{"plan":"`+ch.Target+`"}`, nil)
		} else {
			s.call("POST", path+"subscriptions", `{"plan":"`+ch.Target+`"}`, nil)
		}
	case usher.AdviceAddon:
		s.call("PATCH", "/v1/subscriptions/"+s.subs[id], `{"addons":[{"addon":"`+ch.Target+`"}]}`, nil)
	case usher.AdviceGrant:
		s.call("POST", path+"grants", `{"feature":"`+ch.Target+`","amount":"`+made(ch.What)+`","reason":"x","key":"`+id+`-g"}`, nil)
	case usher.AdviceStatus:
		s.call("PATCH", "/v1/subscriptions/"+ch.Target, `{"status":"active"}`, nil)
	case usher.AdviceSeat:
		s.call("DELETE", path+"seats/seats/ann", "", nil)
	case usher.AdviceOverride:
		value := "true"
		switch n := made(ch.What); {
		case strings.HasPrefix(ch.Target, "ovr_"):
			s.call("DELETE", "/v1/overrides/"+ch.Target, "", nil)
			s.yes(id, ask, ch)
			return
		case strings.Contains(ch.What, "gives"):
			value = `{"limit":` + n + `,"per":"lifetime"}`
		case strings.Contains(ch.What, "adds"):
			value = `{"add":` + n + `}`
		case strings.Contains(ch.What, "lowers"):
			value = `{"add":-` + n + `}`
		}
		s.call("POST", path+"overrides", `{"feature":"`+ch.Target+`","value":`+value+`,"expires":"never","reason":"x"}`, nil)
	default:
		s.t.Fatalf("advice of kind %s: %+v", kind, ch)
	}
	s.yes(id, ask, ch)
}
