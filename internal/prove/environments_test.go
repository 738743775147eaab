package prove

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestI10_EnvironmentsNeverMeet calls every route of the OpenAPI document with the key
// of one environment and the ids of the other, both ways. The answer must be that
// there is no such thing, it must not contain a byte of the other environment, and
// nothing there may change. A route that the walk cannot call fails the test.
func TestI10_EnvironmentsNeverMeet(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); meet(t, filepath.Join(t.TempDir(), "usher.db")) })
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		dsn, err := postgres(t).NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		meet(t, dsn)
	})
}

func meet(t *testing.T, dsn string) {
	out, err := exec.Command(binary(t), "init", "--json", "--db", dsn).Output()
	var keys map[string]string
	if err == nil {
		err = json.Unmarshal(out, &keys)
	}
	if err != nil || keys["production"] == "" || keys["sandbox"] == "" {
		t.Fatalf("usher init: %s, %v, want a key of each environment", out, err)
	}
	n := serve(t, dsn)
	var sides [2]*side
	for i, env := range []string{"production", "sandbox"} {
		sides[i] = &side{t: t, addr: n.addr, env: env, key: keys[env], secret: "zq7" + env + "zq7", tag: env[:1]}
		sides[i].furnish()
	}
	routes := sides[0].routes()
	sides[1].routes() // which sees that operators are not the sandbox's
	calls := 0
	for i, owner := range sides {
		// Its own key may do all of it; otherwise the rest would prove nothing.
		own := owner.things()
		for _, r := range routes {
			if r.method != "GET" {
				own = owner.things() // which no call before has changed
			}
			c := owner.request(r, own)
			status, _, body := owner.do(c)
			if status >= 300 && !(r.name() == "PUT /v1/clock" && owner.env == "production" && status == 422) {
				t.Errorf("%s: %s with its own key and ids: got %d %s", owner.env, c, status, body)
			}
		}
		other := sides[1-i]
		own = owner.things()
		before := owner.export(own)
		for _, shared := range []things{{}, {feature: "shared"}, {customer: "both"}, {customer: "both", feature: "shared"}} {
			other.both()
			for _, r := range routes {
				if mayOwn[r.name()] {
					continue
				}
				their := own
				if shared.customer != "" {
					their.customer = shared.customer
				}
				if shared.feature != "" {
					their.feature = shared.feature
				}
				c := other.request(r, their)
				other.foreign(owner, c, their, own)
				calls++
			}
		}
		// With a customer of the same id, which is another customer and has nothing.
		for name := range mayOwn {
			for _, r := range routes {
				if r.name() == name {
					c := other.request(r, own)
					other.silent(owner, c, own)
					calls++
				}
			}
		}
		for _, r := range routes {
			their := own
			their.feature = "shared"
			c := other.request(r, their)
			other.silent(owner, c, own)
			calls++
		}
		if after := owner.export(own); after != before {
			t.Errorf("%s changed while %s's key walked:\n%s", owner.env, other.env, firstDifference(before, after))
		}
	}
	t.Logf("%d routes, %d calls with the other environment's ids", len(routes), calls)
	sameKeys(t, sides)
	n.stop(t)
	fsck(t, dsn)
}

// mayOwn lists the routes that create something in the caller's own environment, even
// if its id exists in the other. Add a route here only if it does that.
var mayOwn = map[string]bool{"POST /v1/keys": true, "PUT /v1/customers/{id}": true, "PUT /v1/catalog": true, "PUT /v1/clock": true}

// side is one environment.
type side struct {
	t                           *testing.T
	addr, env, key, secret, tag string
	scim                        string // a key of the customer that things made last, for its identity provider
	n                           int
	told                        []string // ids that the server made
}

// things are the ids of what one environment has. None contains the secret.
type things struct {
	customer, feature, seats, plan, holder, ref string
	ids                                         map[string]string // by collection: "subscriptions" → sub_…
}

// call is one request.
type call struct{ method, path, contentType, body string }

func (c call) String() string { return strings.TrimSpace(c.method + " " + c.path + " " + c.body) }

func (s *side) do(c call) (int, http.Header, string) {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	defer stop()
	req, err := http.NewRequestWithContext(ctx, c.method, "http://"+s.addr+c.path, strings.NewReader(c.body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	if strings.HasPrefix(c.path, "/scim/") {
		req.Header.Set("Authorization", "Bearer "+s.scim)
	}
	if c.contentType != "" {
		req.Header.Set("Content-Type", c.contentType)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.Header.Get("Content-Type") == "text/event-stream" { // it does not end by itself
		time.AfterFunc(50*time.Millisecond, stop)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil && req.Context().Err() == nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

// made creates something and returns its id, if it has one.
func (s *side) made(method, path, body string) string {
	s.t.Helper()
	c := call{method, path, "application/json", body}
	if strings.HasPrefix(body, "usher:") {
		c.contentType = "application/yaml"
	} else if path == "/v1/events" {
		c.contentType = "application/cloudevents-batch+json"
	}
	status, _, text := s.do(c)
	var v struct {
		ID          string
		Reservation struct{ ID string }
	}
	if status >= 300 || json.Unmarshal([]byte(text), &v) != nil {
		s.t.Fatalf("%s: %s: got %d %s", s.env, c, status, text)
	}
	if v.ID == "" {
		v.ID = v.Reservation.ID
	}
	return v.ID
}

func (s *side) catalogue() string {
	return strings.NewReplacer("TAG", s.tag, "SECRET", s.secret).Replace(`usher: 1
meters: {m_TAG: {event: used, sum: data.n}}
features:
  calls_TAG: {kind: metered, title: SECRET calls, meter: m_TAG}
  members_TAG: {kind: seats, title: SECRET members}
  label_TAG: {kind: config, type: string}
  SECRET: {kind: switch}
  shared: {kind: metered}
  places: {kind: seats}
permissions: {do_TAG.read: {title: SECRET permission}}
roles: {role_TAG: {title: SECRET role, permissions: [do_TAG.read]}}
custom_roles: {ceiling: role_TAG}
plans:
  plan_TAG:
    title: SECRET plan
    entitlements:
      calls_TAG: {limit: 100, per: lifetime}
      members_TAG: 9
      label_TAG: SECRET value
      SECRET: true
      shared: {limit: 50, per: lifetime}
      places: 5
addons:
  addon_TAG: {title: SECRET addon, entitlements: {places: 1}}
`)
}

// furnish fills the environment.
func (s *side) furnish() {
	if s.env == "sandbox" {
		s.made("PUT", "/v1/clock", `{"now":"2026-05-01T00:00:00Z"}`)
	}
	s.made("PUT", "/v1/catalog", s.catalogue())
	s.both()
	s.provider("both")
	s.customer("secret-" + s.secret)
}

// provider creates the key of a customer's identity provider.
func (s *side) provider(who string) {
	s.t.Helper()
	status, _, text := s.do(call{"POST", "/v1/keys", "application/json", fmt.Sprintf(`{"role":"scim","customer":%q}`, who)})
	var made struct{ Key string }
	if err := json.Unmarshal([]byte(text), &made); err != nil || status >= 300 || made.Key == "" {
		s.t.Fatalf("%s: a key for SCIM: got %d %s", s.env, status, text)
	}
	s.scim = made.Key
}

// both creates the customer that has the same id in both environments, again if the
// walk deleted it.
func (s *side) both() { s.customer("both") }

func (s *side) customer(who string) {
	s.t.Helper()
	s.n++
	s.made("PUT", "/v1/customers/"+who, fmt.Sprintf(`{"name":%q,"metadata":{"m":%q}}`, s.secret, s.secret))
	s.told = append(s.told, s.made("POST", "/v1/customers/"+who+"/subscriptions", fmt.Sprintf(`{"plan":"plan_%s"}`, s.tag)))
	s.made("POST", "/v1/consume", fmt.Sprintf(`{"customer":%q,"feature":"shared","amount":1,"key":"%s.%d"}`, who, s.secret, s.n))
	s.made("PUT", "/v1/customers/"+who+"/seats/places/"+s.secret, "{}")
}

// things creates a customer with one of everything.
func (s *side) things() things {
	s.t.Helper()
	s.n++
	who := fmt.Sprintf("acme-%s%d", s.tag, s.n)
	base := "/v1/customers/" + who
	w := things{customer: who, feature: "calls_" + s.tag, seats: "members_" + s.tag, plan: "plan_" + s.tag, holder: "h1",
		ref: "take-" + who, ids: map[string]string{}}
	s.made("PUT", base, fmt.Sprintf(`{"name":%q,"metadata":{%q:%q}}`, s.secret, s.secret, s.secret))
	w.ids["subscriptions"] = s.made("POST", base+"/subscriptions", fmt.Sprintf(`{"plan":%q}`, w.plan))
	w.ids["overrides"] = s.made("POST", base+"/overrides",
		fmt.Sprintf(`{"feature":%q,"value":{"add":5},"reason":%q,"expires":"never"}`, w.feature, s.secret))
	w.ids["grants"] = s.made("POST", base+"/grants", fmt.Sprintf(`{"feature":%q,"amount":20,"reason":%q}`, w.feature, s.secret))
	s.made("POST", "/v1/consume", fmt.Sprintf(`{"customer":%q,"feature":%q,"amount":5,"key":%q}`, who, w.feature, w.ref))
	s.made("POST", "/v1/consume", fmt.Sprintf(`{"customer":%q,"feature":%q,"amount":5000,"key":%q}`, who, w.feature, s.secret+who))
	w.ids["reservations"] = s.made("POST", "/v1/reservations",
		fmt.Sprintf(`{"customer":%q,"feature":%q,"amount":3,"ttl":"100h","key":%q}`, who, w.feature, "hold-"+who))
	for _, holder := range []string{w.holder, s.secret} {
		s.made("PUT", base+"/seats/"+w.seats+"/"+holder, `{}`)
	}
	s.made("POST", "/v1/events", fmt.Sprintf(`[{"specversion":"1.0","id":%q,"source":%q,"type":"used","subject":%q,"data":{"n":2,"x":%q}}]`,
		"ev-"+who, s.secret, who, s.secret))
	s.made("POST", base+"/directory", strings.ReplaceAll(fmt.Sprintf(`{"members":[{"id":%q,"properties":{"x":"SECRET"}},{"id":"m-SECRET"}],
		"groups":[{"id":"g1","title":"SECRET"},{"id":"g2","properties":{"x":"SECRET"}},{"id":"SECRET"}],
		"join":[{"group":"g1","member":"m-SECRET"},{"group":"g1","inner":"g2"}],
		"roles":[{"key":"own","title":"SECRET","permissions":["do_%s.read"]}],
		"resources":[{"type":"folder","id":"r1","properties":{"x":"SECRET"}},{"type":"folder","id":"SECRET"}]}`,
		w.holder, s.tag), "SECRET", s.secret))
	w.ids["assignments"] = s.made("PUT", base+"/assignments",
		fmt.Sprintf(`{"member":%q,"role":"role_%s","reason":%q}`, w.holder, s.tag, s.secret))
	s.provider(who)
	w.ids["Users"] = s.made("POST", "/scim/v2/Users", fmt.Sprintf(`{"userName":%q}`, s.secret))
	w.ids["Groups"] = s.made("POST", "/scim/v2/Groups", fmt.Sprintf(`{"displayName":%q}`, s.secret))
	w.ids["keys"] = s.made("POST", "/v1/keys", `{"role":"read"}`)
	for _, id := range w.ids {
		if id == "" {
			s.t.Fatalf("%s: an id is missing: %v", s.env, w.ids)
		}
		s.told = append(s.told, id)
	}
	return w
}

// export returns everything that the environment shows.
func (s *side) export(own things) string {
	s.t.Helper()
	var b strings.Builder
	get := func(path string) string {
		status, header, body := s.do(call{method: "GET", path: path})
		if status != 200 {
			s.t.Fatalf("%s: GET %s: got %d %s", s.env, path, status, body)
		}
		fmt.Fprintln(&b, path, header.Get("ETag"), body)
		return body
	}
	var list struct {
		Data       []struct{ ID string }
		NextCursor string `json:"next_cursor"`
	}
	if err := json.Unmarshal([]byte(get("/v1/customers?limit=1000")), &list); err != nil || list.NextCursor != "" || len(list.Data) < 3 {
		s.t.Fatalf("%s: %d customers, %v", s.env, len(list.Data), err)
	}
	const span = "&from=2026-01-01T00:00:00Z&to=2030-01-01T00:00:00Z"
	for _, c := range list.Data {
		base := "/v1/customers/" + url.PathEscape(c.ID)
		for _, part := range []string{"", "/subscriptions", "/overrides", "/grants", "/seats/" + own.seats, "/seats/places", "/entitlements",
			"/entitlements?at=2026-06-01T00:00:00Z",
			"/members", "/groups", "/roles", "/assignments", "/resources/folder"} {
			get(base + part)
		}
		for _, f := range []string{own.feature, "shared"} {
			get("/v1/usage?window=month&customer=" + c.ID + "&feature=" + f + span)
		}
	}
	get("/v1/customers/" + own.customer + "/groups/g1/members")
	get("/v1/denials?" + strings.TrimPrefix(span, "&"))
	get("/v1/events/unmatched")
	get("/scim/v2/Users")
	get("/scim/v2/Groups")
	get("/v1/catalog")
	get("/v1/catalog/revisions")
	for _, kind := range []string{"subscriptions", "reservations"} {
		get("/v1/" + kind + "/" + own.ids[kind])
	}
	if s.env == "sandbox" {
		get("/v1/clock")
	}
	return b.String()
}

func firstDifference(before, after string) string {
	old, new := strings.Split(before, "\n"), strings.Split(after, "\n")
	for i := range min(len(old), len(new)) {
		if old[i] != new[i] {
			return old[i] + "\n" + new[i]
		}
	}
	return fmt.Sprintf("%d lines became %d", len(old), len(new))
}

// schema is the part of a JSON schema that the walk reads.
type schema struct {
	Ref        string `json:"$ref"`
	Type       any
	Properties map[string]schema
	Required   []string
	Items      *schema
}

// route is an operation of the document.
type route struct {
	method, path string
	parameters   []struct {
		Name, In string
		Required bool
	}
	content  map[string]struct{ Schema schema }
	required bool
	all      map[string]schema
}

func (r route) name() string { return r.method + " " + r.path }

// routes returns the document's routes that need a key.
func (s *side) routes() (list []route) {
	s.t.Helper()
	_, _, text := s.do(call{method: "GET", path: "/openapi.json"})
	var doc struct {
		Paths map[string]map[string]struct {
			Security   []any
			Parameters []struct {
				Name, In string
				Required bool
			}
			RequestBody *struct {
				Required bool
				Content  map[string]struct{ Schema schema }
			} `json:"requestBody"`
		}
		Components struct{ Schemas map[string]schema }
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		s.t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			op := doc.Paths[path][method]
			if !strings.Contains(fmt.Sprint(op.Security), "key") {
				continue
			}
			if ofInstallation(path) {
				s.installation(strings.ToUpper(method), path)
				continue
			}
			r := route{method: strings.ToUpper(method), path: path, parameters: op.Parameters, all: doc.Components.Schemas}
			if op.RequestBody != nil {
				r.content, r.required = op.RequestBody.Content, op.RequestBody.Required
			}
			list = append(list, r)
		}
	}
	slices.SortStableFunc(list, func(a, b route) int { // what deletes comes last
		return strings.Index(" DELETE", a.method) - strings.Index(" DELETE", b.method)
	})
	if len(list) < 30 {
		s.t.Fatalf("the OpenAPI document has %d routes that need a key", len(list))
	}
	return list
}

// aboutPeople reports whether a route is about a customer's members and what
// they may do.
func aboutPeople(path string) bool {
	rest, ok := strings.CutPrefix(path, "/v1/customers/{id}/")
	part, _, _ := strings.Cut(rest, "/")
	return ok && slices.Contains([]string{"members", "groups", "roles", "assignments", "resources", "directory"}, part)
}

// ofInstallation reports whether a route is about operators, who belong to the
// installation and to no environment. The walk leaves these out.
func ofInstallation(path string) bool {
	return strings.HasPrefix(path, "/v1/operators") || strings.HasPrefix(path, "/v1/elevations")
}

// installation fails the test if a sandbox key reaches operators.
func (s *side) installation(method, path string) {
	s.t.Helper()
	if s.env != "sandbox" {
		return
	}
	c := call{method: method, path: strings.NewReplacer("{", "", "}", "").Replace(path)}
	if method != "GET" && method != "DELETE" {
		c.contentType, c.body = "application/json", `{"role":"owner","reason":"r","duration":"1h","outcome":"justified","note":"n"}`
	}
	status, _, body := s.do(c)
	switch {
	case path == "/v1/elevations" && method == "GET": // its own, and a key has none
		if status != 200 || !strings.Contains(body, `"data":[]`) {
			s.t.Errorf("sandbox: %s: got %d %s, want an empty list", c, status, body)
		}
	case path == "/v1/elevations": // a key cannot be raised
		if status != 422 && status != 400 {
			s.t.Errorf("sandbox: %s: got %d %s, want it refused", c, status, body)
		}
	case status != 403:
		s.t.Errorf("sandbox: %s: got %d %s, want 403", c, status, body)
	}
}

// request builds a call of a route about an environment's things: path, query and body
// by the names in the document.
func (s *side) request(r route, w things) call {
	s.t.Helper()
	s.n++
	parts := strings.Split(r.path, "/")
	feature := w.feature
	if slices.Contains(parts, "seats") {
		if feature = w.seats; w.feature == "shared" {
			feature = "places"
		}
	}
	values := map[string]any{"customer": w.customer, "subject": w.customer, "feature": feature, "holder": w.holder, "plan": w.plan,
		"ref":    w.ref,
		"amount": 1, "key": fmt.Sprintf("walk-%s%d", s.tag,
			s.n), "ttl": "1h", "value": map[string]any{"add": 1}, "reason": "walk", "expires": "never",
		"role": "read", "status": "active", "state": "active", "now": "2026-05-01T00:00:00Z", "specversion": "1.0", "id": fmt.Sprint("walk",
			s.n), "source": "walk", "type": "used",
		"data": map[string]any{"n": 1}, "window": "month", "from": "2026-01-01T00:00:00Z", "to": "2030-01-01T00:00:00Z", "name": "walk",
		"metadata": map[string]string{}}
	if strings.HasPrefix(r.path, "/ofrep/") {
		values["key"], values["targetingKey"], values["context"] = feature, w.customer, map[string]string{"targetingKey": w.customer}
	}
	switch {
	case strings.HasPrefix(r.path, "/scim/"):
		values["schemas"], values["userName"], values["displayName"] = []string{}, fmt.Sprint("walk", s.n), "walk"
		values["Operations"] = []any{map[string]any{"op": "add", "path": "note", "value": "walk"}}
	case aboutPeople(r.path):
		values["member"], values["group"], values["inner"], values["assignment"] = w.holder, "g1", "g2", w.ids["assignments"]
		values["type"], values["resource"], values["role"] = "folder", "r1", "own"
		switch parts[4] {
		case "groups":
			values["members"], values["groups"] = []string{w.holder}, []string{"g2"}
		case "assignments":
			delete(values, "group")
			delete(values, "from")
			values["role"] = strings.Replace(w.plan, "plan_", "role_", 1)
		case "directory":
			values["members"], values["resources"] = []any{map[string]string{"id": w.holder}}, []any{map[string]string{"type": "folder", "id": "r1"}}
		}
	case strings.HasPrefix(r.path, "/v1/search/"):
		values["member"], values["permission"] = w.holder, "report.read"
	case strings.HasPrefix(r.path, "/access/"):
		values["subject"], values["action"] = map[string]string{"type": "user", "id": w.holder}, map[string]string{"name": "read"}
		values["resource"], values["context"] = map[string]string{"type": "report", "id": "r1"}, map[string]string{"customer": w.customer}
		values["evaluations"] = []any{map[string]any{}}
	}
	switch parts[min(2, len(parts)-1)] {
	case "plans":
		values["key"] = w.plan
	case "features":
		values["key"] = w.feature
	case "addons":
		values["key"] = strings.Replace(w.plan, "plan_", "addon_", 1)
	}
	query := url.Values{}
	for _, p := range r.parameters {
		value, known := values[p.Name].(string)
		switch {
		case p.In == "path" && p.Name == "id":
			collection := parts[slices.Index(parts, "{id}")-1]
			switch value = w.ids[collection]; collection {
			case "customers":
				value = w.customer
			case "Roles":
				value = strings.Replace(w.plan, "plan_", "role_", 1)
			case "Entitlements":
				if value = w.seats; w.feature == "shared" {
					value = "places"
				}
			case "ResourceTypes":
				value = "User"
			case "Schemas":
				value = "urn:ietf:params:scim:schemas:core:2.0:User"
			}
			known = value != ""
		case p.In == "header":
			continue
		}
		if !known && p.Required {
			s.t.Fatalf("%s: the walk has no %s in the %s: give it one", r.name(), p.Name, p.In)
		}
		switch {
		case !known:
		case p.In == "path":
			for i := range parts {
				if parts[i] == "{"+p.Name+"}" {
					parts[i] = url.PathEscape(value)
				}
			}
		default:
			query.Set(p.Name, value)
		}
	}
	c := call{method: r.method, path: strings.Join(parts, "/")}
	if strings.Contains(c.path, "{") {
		s.t.Fatalf("%s: the walk has not all of the path: %s", r.name(), c.path)
	}
	if len(query) > 0 {
		c.path += "?" + query.Encode()
	}
	for _, kind := range []string{"application/json", "application/yaml", "application/cloudevents+json"} {
		content, ok := r.content[kind]
		if !ok || c.contentType != "" && r.path != "/v1/events" {
			continue
		}
		c.contentType = kind
		if kind == "application/yaml" || r.path == "/v1/catalog" {
			c.contentType, c.body = "application/yaml", s.catalogue()
			continue
		}
		text, err := json.Marshal(s.example(r, content.Schema, values))
		if err != nil {
			s.t.Fatal(err)
		}
		c.body = string(text)
	}
	if r.required && c.contentType == "" {
		s.t.Fatalf("%s: the walk has no body of %v: give it one", r.name(), slices.Collect(maps.Keys(r.content)))
	}
	return c
}

// example returns a value of a schema, with the walk's values where it has one.
func (s *side) example(r route, of schema, values map[string]any) any {
	s.t.Helper()
	if name, ok := strings.CutPrefix(of.Ref, "#/components/schemas/"); ok {
		of = r.all[name]
	}
	if of.Items != nil {
		return []any{s.example(r, *of.Items, values)}
	}
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(of.Properties)) {
		p := of.Properties[name]
		v, known := values[name]
		switch {
		case known:
			out[name] = v
		case slices.Contains(of.Required, name) && p.Items != nil:
			out[name] = s.example(r, p, values)
		case slices.Contains(of.Required, name):
			s.t.Fatalf("%s: the walk has no %s in the body: give it one", r.name(), name)
		}
	}
	return out
}

// silent makes a call and fails the test if the answer contains anything of the other side.
func (s *side) silent(owner *side, c call, own things) (int, string) {
	s.t.Helper()
	status, header, body := s.do(c)
	var all bytes.Buffer
	header.Write(&all)
	all.WriteString(body)
	for _, told := range append([]string{owner.secret, owner.key}, owner.told...) {
		if strings.Contains(all.String(), told) && !strings.Contains(c.path+c.body, told) {
			s.t.Errorf("%s: %s tells %q of %s:\n%d %s", s.env, c, told, owner.env, status, all.String())
		}
	}
	return status, body
}

// foreign makes a call with the other side's ids, which must find nothing.
func (s *side) foreign(owner *side, c call, their, own things) {
	s.t.Helper()
	status, body := s.silent(owner, c, own)
	bad := func(want string) {
		s.t.Helper()
		s.t.Errorf("%s: %s of %s: got %d %s, want %s", s.env, c, owner.env, status, body, want)
	}
	whose := own.customer == their.customer // else a customer of that name is here as well
	named := func(name string) bool {
		return strings.Contains(c.path, name) || strings.Contains(c.body, `"`+name+`"`)
	}
	for _, id := range own.ids {
		if named(id) {
			if status != http.StatusNotFound {
				bad("404")
			}
			return
		}
	}
	if strings.HasSuffix(c.path, "/role_"+owner.tag) && status != http.StatusNotFound {
		bad("404")
	}
	if named(own.ref) && status != http.StatusNotFound {
		bad("404")
		return
	}
	foreignFeature := their.feature == own.feature && (named(own.feature) || named(own.seats))
	if !(whose && named(own.customer)) && !foreignFeature && !named(own.plan) {
		return // it names nothing that is only there
	}
	if status >= 300 {
		// An unknown customer is a 404. An unknown feature or plan in a request about a known
		// customer is a fault of the request.
		if status != http.StatusNotFound && !(foreignFeature || named(own.plan)) || status >= 500 {
			bad("404")
		}
		return
	}
	if strings.HasPrefix(c.path, "/ofrep/v1/events?") && body == "retry: 2000\n\n" {
		return // a stream of a customer that may come to be, which tells nothing
	}
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		bad("JSON, or 404")
		return
	}
	top, _ := v.(map[string]any)
	decisions, empty := 0, false
	for _, name := range []string{"data", "results"} {
		if list, ok := top[name].([]any); ok {
			empty = len(list) == 0
		}
	}
	if n, ok := top["accepted"].(float64); ok {
		empty = n == 0 || !whose
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			if allowed, ok := v["allowed"]; ok {
				decisions++
				if reason := v["reason"]; allowed != false || reason != "unknown_customer" && reason != "unknown_feature" {
					bad("unknown_customer or unknown_feature")
				}
			}
			if decision, ok := v["decision"]; ok {
				decisions++
				if why, _ := v["context"].(map[string]any); decision != false || why["reason"] != "unknown_customer" {
					bad("unknown_customer")
				}
			}
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(v)
	if decisions == 0 && !empty {
		bad("404, a decision that says unknown, or an empty list")
	}
}

// sameKeys: the same key, or event id, may be used once in each environment.
func sameKeys(t *testing.T, sides [2]*side) {
	t.Helper()
	for _, s := range sides {
		s.both()
	}
	for round := range 2 {
		for i, s := range sides {
			for _, c := range []call{
				{"POST", "/v1/consume", "application/json", fmt.Sprintf(`{"customer":"both","feature":"shared","amount":%d,"key":"one"}`, 1+i)},
				{"POST", "/v1/reservations", "application/json",
					fmt.Sprintf(`{"customer":"both","feature":"shared","amount":%d,"ttl":"1h","key":"two"}`, 1+i)},
				{"POST", "/v1/corrections", "application/json", fmt.Sprintf(`{"ref":"one","amount":1,"reason":"r%d","key":"three"}`, i)},
				{"POST", "/v1/customers/both/grants", "application/json",
					fmt.Sprintf(`{"feature":"shared","amount":%d,"reason":"r","key":"four"}`, 1+i)},
				{"POST", "/v1/events", "application/cloudevents+json",
					fmt.Sprintf(`{"specversion":"1.0","id":"five","source":"s","type":"used","subject":"both","data":{"n":%d}}`, 1+i)},
			} {
				status, header, body := s.do(c)
				again := strings.Contains(body, `"replayed":true`) || header.Get("Idempotent-Replayed") == "true" ||
					strings.Contains(body, `"duplicates":1`)
				if status >= 300 || again != (round == 1) || strings.Contains(body, `"rejected":[{`) {
					t.Errorf("%s: %s, time %d: got %d %s", s.env, c, round+1, status, body)
				}
			}
		}
	}
}
