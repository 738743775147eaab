package scim

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

const ann = `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"id":"u1","externalId":"Ext-1",
  "userName":"Ann@Example.com","active":true,
"name":{"familyName":"Lee","givenName":"Ann"},"title":"Guide","shoe":43,"meta":{"created":"2026-01-02T03:04:05Z","resourceType":"User"},
"emails":[{"value":"ann@work.example","type":"work","primary":true},{"value":"ann@home.example","type":"home"}],
"roles":[{"value":"admin","primary":true}],"groups":[{"value":"g1","display":"Staff"}],
"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User":{"department":"Sales","manager":{"value":"u2"}}}`

func document(t testing.TB, text string) Document {
	t.Helper()
	d, err := Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestFilter(t *testing.T) {
	t.Parallel()
	doc := document(t, ann)
	for text, want := range map[string]bool{
		`userName eq "ann@example.com"`:                          true, // not caseExact
		`USERNAME EQ "ANN@EXAMPLE.COM"`:                          true,
		`urn:ietf:params:scim:schemas:core:2.0:User:userName pr`: true,
		`externalId eq "Ext-1"`:                                  true,
		`externalId eq "ext-1"`:                                  false, // caseExact
		`id eq "u1" and active eq true`:                          true,
		`active eq "True"`:                                       true,
		`active eq false`:                                        false,
		`not (active eq false)`:                                  true,
		`not(active eq false) and title sw "gu"`:                 true,
		`title eq "x" or title eq "guide" and active eq true`:    true, // and binds first
		`(title eq "x" or title eq "guide") and active eq false`: false,
		`title co "UID"`:                                         true,
		`title ew "DE"`:                                          true,
		`title ne "guide"`:                                       false,
		`nickName ne "x"`:                                        true,
		`nickName pr`:                                            false,
		`nickName eq null`:                                       true,
		`name pr`:                                                true,
		`name.familyName eq "lee"`:                               true,
		`name.middleName pr`:                                     false,
		`emails eq "ann@home.example"`:                           true,
		`emails.type eq "home"`:                                  true,
		`emails[type eq "work" and value co "@work"]`:            true,
		`emails[type eq "work" and value co "@home"]`:            false,
		`emails[type eq "work"].value eq "ann@work.example"`:     true,
		`emails[type eq "home"].value eq "ann@work.example"`:     false,
		`emails[primary eq "True"]`:                              true,
		`emails[not (type eq "work")]`:                           true,
		`roles[value eq "admin"] and groups.value eq "g1"`:       true,
		`groups eq "g1"`:                                         true,
		`shoe gt 42.5`:                                           true,
		`shoe le 43`:                                             true,
		`shoe lt 43`:                                             false,
		`shoe eq "43"`:                                           false,
		`meta.created ge "2026-01-02T04:04:05+01:00"`:            true, // the same instant
		`meta.created lt "2026-01-02T03:04:05Z"`:                 false,
		`urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department eq "sales"`: true,
		`URN:IETF:params:scim:schemas:extension:enterprise:2.0:User:manager.value eq "u2"`: true,
		`urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager eq "u2"`:       true,
		`urn:ietf:params:scim:schemas:extension:enterprise:2.0:User.department sw "S"`:     true,
		`urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:costCenter pr`:         false,
		`urn:acme:User:badge eq "7"`:                                         false,
		`userName eq "a\"b\u00e9"`:                                           false,
		`userName sw "" and not` + ` (userName eq "x")`:                      true,
		`not eq "an attribute of this name"`:                                 false,
		strings.Repeat("(", 31) + `active eq true` + strings.Repeat(")", 31): true,
		`active eq true` + strings.Repeat(` and active eq true`, 200):        true,
	} {
		f, err := ParseFilter(User, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := f.Match(doc); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

func TestFilterRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", " ", "userName", "userName eq", `userName eq "a`, `userName eq a`, `userName like "a"`,
		`userName eq "a" and`, `userName eq "a" "b"`, `(userName pr`, `userName pr)`,
		`emails[type eq "work"`, `emails[]`, `emails[emails[type pr]]`, `"a" eq "b"`, `and`, `userName co true`, `active gt true`, `a.b.c pr`,
		`urn:x pr`, `urn: pr`, `a..b pr`, `a! pr`, `userName eq 1x`, `userName eq Infinity`, `userName eq 0x10`,
		`userName eq "\q"`, `emails[type eq "work"] .value pr`, strings.Repeat("(", 33) + "a pr" + strings.Repeat(")", 33),
		"a eq \"" + strings.Repeat("x", MaxFilter) + `"`} {
		_, err := ParseFilter(User, text)
		var e *Error
		if !errors.As(err, &e) || e.Kind != InvalidFilter || !strings.HasPrefix(e.Detail, "the filter: ") {
			t.Errorf("%.60s: got %v, want invalidFilter", text, err)
		}
	}
}

func TestFilterEquals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		t          *Type
		text, name string
		want       string
		ok         bool
	}{
		{User, `userName eq "A"`, "userName", "A", true},
		{User, `active eq true and (username eq "A")`, "userName", "A", true},
		{User, `userName eq "A" or active eq true`, "userName", "", false},
		{User, `not (userName eq "A")`, "userName", "", false},
		{User, `userName ne "A"`, "userName", "", false},
		{User, `userName eq null`, "userName", "", false},
		{User, `urn:acme:x:userName eq "A"`, "userName", "", false},
		{Group, `id eq "g" and members eq "u"`, "members", "u", true},
		{Group, `members[value eq "u"]`, "members", "u", true},
		{Group, `members.value eq "u"`, "members", "u", true},
		{Group, `members.type eq "User"`, "members", "", false},
	} {
		f, err := ParseFilter(c.t, c.text)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := f.Equals(c.name); got != c.want || ok != c.ok {
			t.Errorf("%s: got %q %v, want %q %v", c.text, got, ok, c.want, c.ok)
		}
	}
}

func TestPatch(t *testing.T) {
	t.Parallel()
	const enterprise = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
	user := `{"userName":"ann","active":true,"name":{"familyName":"Lee"},"emails":[{"value":"w","type":"work","primary":true}]}`
	group := `{"displayName":"G","members":[{"value":"a","type":"User"},{"value":"b","type":"User"}]}`
	for name, c := range map[string]struct {
		t                 *Type
		before, ops, want string // want: the resource, or the kind of the error
	}{
		"Okta deactivates": {User, user, `[{"op":"replace","value":{"active":false}}]`,
			`{"userName":"ann","active":false,"name":{"familyName":"Lee"},"emails":[{"value":"w","type":"work","primary":true}]}`},
		"Entra deactivates": {User, user, `[{"op":"Replace","path":"active","value":"False"}]`,
			`{"userName":"ann","active":false,"name":{"familyName":"Lee"},"emails":[{"value":"w","type":"work","primary":true}]}`},
		"Entra sets an address": {User, user, `[{"op":"Replace","path":"emails[type eq \"work\"].value","value":"x"}]`,
			`{"userName":"ann","active":true,"name":{"familyName":"Lee"},"emails":[{"value":"x","type":"work","primary":true}]}`},
		"a value filter creates": {User, `{"userName":"ann"}`,
			`[{"op":"Add","path":"emails[type eq \"work\"].value","value":"x"},{"op":"Add","path":"phoneNumbers[type eq \"mobile\" and ` +
				`primary eq \"True\"].value","value":"1"}]`,
			`{"userName":"ann","emails":[{"value":"x","type":"work"}],"phoneNumbers":[{"value":"1","type":"mobile","primary":true}]}`},
		"a replace creates nothing": {User, `{"userName":"ann"}`,
			`[{"op":"Replace","path":"emails[type eq \"work\"].value","value":"x"}]`, "noTarget"},
		"a replace in a value": {User, user, `[{"op":"replace","value":{"emails[type eq \"home\"].value":"h"}}]`,
			"noTarget"},
		"a replace of nobody": {Group, group, `[{"op":"replace","path":"members[value eq \"z\"]","value":{"value":"c"}}]`,
			"noTarget"},
		"a filter that cannot create": {User, user, `[{"op":"replace","path":"emails[type ne \"work\"].value","value":"x"}]`, "noTarget"},
		"paths as names in a value": {User, user, `[{"op":"Add","value":{"name.givenName":"Ann","emails[type eq \"home\"].value":"h","` +
			enterprise + `:department":"Sales","TITLE":"T"}}]`,
			`{"userName":"ann","active":true,"title":"T","name":{"familyName":"Lee","givenName":"Ann"},"emails":[{"value":"w","type":"work",` +
				`"primary":true},{"value":"h","type":"home"}],"` + enterprise + `":{"department":"Sales"}}`},
		"an extension as an object": {User, `{"userName":"a"}`,
			`[{"op":"add","value":{"` + enterprise + `":{"department":"D","manager":"m"}}}]`,
			`{"userName":"a","` + enterprise + `":{"department":"D","manager":{"value":"m"}}}`},
		"a manager as text": {User, `{"userName":"a"}`,
			`[{"op":"Add","path":"` + enterprise + `:manager","value":"m1"},{"op":"Replace","path":"` + enterprise + `:manager","value":"m2"}]`,
			`{"userName":"a","` + enterprise + `":{"manager":{"value":"m2"}}}`},
		"the last of an extension": {User, `{"userName":"a","` + enterprise + `":{"department":"D"}}`,
			`[{"op":"remove","path":"` + enterprise + `:department"}]`, `{"userName":"a"}`},
		"an extension goes": {User, `{"userName":"a","` + enterprise + `":{"department":"D"}}`,
			`[{"op":"remove","path":"` + enterprise + `"}]`, `{"userName":"a"}`},
		"parts that are not named": {User, user, `[{"op":"replace","path":"name","value":{"givenName":"Ann"}},{"op":"remove",` +
			`"path":"name.familyName"}]`, `{"userName":"ann","active":true,"name":{"givenName":"Ann"},"emails":[{"value":"w","type":"work",` +
			`"primary":true}]}`},
		"null is none": {User, user, `[{"op":"replace","path":"name","value":null},{"op":"replace","value":{"emails":null}}]`,
			`{"userName":"ann","active":true}`},
		"a part that is null": {User, user, `[{"op":"replace","path":"name","value":{"familyName":null,"givenName":"A"}}]`,
			`{"userName":"ann","active":true,"name":{"givenName":"A"},"emails":[{"value":"w","type":"work","primary":true}]}`},
		"one primary": {User, user, `[{"op":"add","path":"emails","value":[{"value":"x","primary":"true"}]}]`,
			`{"userName":"ann","active":true,"name":{"familyName":"Lee"},"emails":[{"value":"w","type":"work","primary":false},{"value":"x",` +
				`"primary":true}]}`},
		"what is unknown is kept": {User, `{"userName":"a"}`,
			`[{"op":"add","path":"badge","value":{"n":[1]}},{"op":"add","path":"urn:acme:2.0:User:floor","value":3}]`,
			`{"userName":"a","badge":{"n":[1]},"urn:acme:2.0:User":{"floor":3}}`},
		"a list of nothing": {User, user, `[{"op":"replace","path":"emails","value":[]}]`,
			`{"userName":"ann","active":true,"name":{"familyName":"Lee"},"emails":[]}`},
		"all values of a list": {User, user, `[{"op":"replace","path":"emails.value","value":"x"}]`,
			`{"userName":"ann","active":true,"name":{"familyName":"Lee"},"emails":[{"value":"x","type":"work","primary":true}]}`},
		"a filtered value replaced": {User, user, `[{"op":"replace","path":"emails[type eq \"work\"]","value":{"value":"x"}}]`,
			`{"userName":"ann","active":true,"name":{"familyName":"Lee"},"emails":[{"value":"x"}]}`},
		"a filtered value added to": {User, user, `[{"op":"add","path":"emails[type eq \"work\"]","value":{"display":"x"}}]`,
			`{"userName":"ann","active":true,"name":{"familyName":"Lee"},"emails":[{"value":"w","type":"work","primary":true,"display":"x"}]}`},
		"the last value goes": {User, user, `[{"op":"remove","path":"emails[type eq \"work\"]"}]`,
			`{"userName":"ann","active":true,"name":{"familyName":"Lee"}}`},
		"a role by its primary flag": {User, `{"userName":"a","roles":[{"value":"admin","primary":true}]}`,
			`[{"op":"Replace","path":"roles[primary eq \"True\"].value","value":"viewer"}]`,
			`{"userName":"a","roles":[{"value":"viewer","primary":true}]}`},
		"members added, one twice": {Group, group, `[{"op":"Add","path":"members","value":[{"value":"b"},{"$ref":null,"value":"c"}]}]`,
			`{"displayName":"G","members":[{"value":"a","type":"User"},{"value":"b","type":"User"},{"value":"c"}]}`},
		"one member, not in a list": {Group, group, `[{"op":"add","path":"members","value":{"value":"c"}}]`,
			`{"displayName":"G","members":[{"value":"a","type":"User"},{"value":"b","type":"User"},{"value":"c"}]}`},
		"removed by a list of values": {Group, group, `[{"op":"Remove","path":"members","value":[{"$ref":null,"value":"a"},{"value":"z"}]}]`,
			`{"displayName":"G","members":[{"value":"b","type":"User"}]}`},
		"removed by a filter": {Group, group, `[{"op":"remove","path":"members[value eq \"b\"]"},{"op":"remove","path":"members[value ` +
			`eq \"z\"]"}]`, `{"displayName":"G","members":[{"value":"a","type":"User"}]}`},
		"removed by two filters": {Group, group, `[{"op":"remove","path":"members[value eq \"a\" or value eq \"b\"]"}]`,
			`{"displayName":"G"}`},
		"all removed":     {Group, group, `[{"op":"remove","path":"members"}]`, `{"displayName":"G"}`},
		"nothing removed": {Group, group, `[{"op":"remove","path":"members","value":[]}]`, group},
		"Okta renames": {Group, group, `[{"op":"replace","value":{"id":"other","displayName":"H"}}]`,
			`{"displayName":"H","members":[{"value":"a","type":"User"},{"value":"b","type":"User"}]}`},
		"Okta replaces all members": {Group, group, `[{"op":"replace","path":"members","value":[{"value":"z","display":"Z"}]}]`,
			`{"displayName":"G","members":[{"value":"z","display":"Z"}]}`},
		"a malformed removal":     {Group, group, `[{"op":"remove","path":"members","value":[{}]}]`, "invalidValue"},
		"a removal of a number":   {Group, group, `[{"op":"remove","path":"members","value":[1]}]`, "invalidValue"},
		"remove without a path":   {User, user, `[{"op":"remove"}]`, "noTarget"},
		"add without a value":     {User, user, `[{"op":"add","path":"title"}]`, "invalidValue"},
		"no path and no object":   {User, user, `[{"op":"add","value":"x"}]`, "invalidValue"},
		"read only":               {User, user, `[{"op":"replace","path":"id","value":"x"}]`, "mutability"},
		"read only, deep":         {User, user, `[{"op":"replace","path":"meta.created","value":"x"}]`, "mutability"},
		"read only, a list":       {User, user, `[{"op":"add","path":"groups","value":[{"value":"x"}]}]`, "mutability"},
		"a wrong type":            {User, user, `[{"op":"replace","path":"userName","value":5}]`, "invalidValue"},
		"no boolean":              {User, user, `[{"op":"replace","path":"active","value":"perhaps"}]`, "invalidValue"},
		"an object for a text":    {User, user, `[{"op":"replace","path":"title","value":{}}]`, "invalidValue"},
		"a bad path":              {User, user, `[{"op":"replace","path":"emails[type eq","value":1}]`, "invalidPath"},
		"a path after a filter":   {User, user, `[{"op":"replace","path":"emails[type pr].a.b","value":1}]`, "invalidPath"},
		"a bad name in a value":   {User, user, `[{"op":"replace","value":{"a b":1}}]`, "invalidPath"},
		"a part of a text":        {User, `{"userName":"a","badge":"b"}`, `[{"op":"add","path":"badge.x","value":1}]`, "invalidPath"},
		"no op":                   {User, user, `[{"path":"title","value":"x"}]`, "invalidSyntax"},
		"an unknown op":           {User, user, `[{"op":"move","path":"title","value":"x"}]`, "invalidSyntax"},
		"a path that is not text": {User, user, `[{"op":"add","path":1,"value":"x"}]`, "invalidPath"},
		"no operations":           {User, user, `[]`, "invalidSyntax"},
		"no object":               {User, user, `["add"]`, "invalidSyntax"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ops, err := ParsePatch(c.t, document(t, `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":`+c.ops+`}`))
			var got Document
			if err == nil {
				got, err = c.t.Patch(document(t, c.before), ops)
			}
			var e *Error
			if errors.As(err, &e) {
				if string(e.Kind) != c.want {
					t.Errorf("got %s %s, want %s", e.Kind, e.Detail, c.want)
				}
				return
			}
			if err != nil || !strings.HasPrefix(c.want, "{") {
				t.Fatalf("got %v %v, want %s", got, err, c.want)
			}
			if want := document(t, c.want); !reflect.DeepEqual(got, want) {
				b, _ := json.Marshal(got)
				t.Errorf("got  %s\nwant %s", b, c.want)
			}
		})
	}
	if _, err := ParsePatch(User, document(t, `{"schemas":["urn:other"],"Operations":[{"op":"add","value":{}}]}`)); err == nil {
		t.Error("a PATCH of another schema is taken")
	}
	if _, err := ParsePatch(User, document(t, `{"operations":[{"OP":"ADD","Value":{"title":"x"}}]}`)); err != nil {
		t.Error("names of a PATCH in another case: ", err)
	}
}

// TestPatchBounds: work grows with what is sent, up to a limit.
func TestPatchBounds(t *testing.T) {
	t.Parallel()
	var members []any
	for i := range 30_000 {
		members = append(members, Document{"value": strings.Repeat("x", 1+i%9) + string(rune('a'+i%26))})
	}
	step := Document{"op": "remove", "path": `members[value eq "none"]`}
	var steps []any
	for range MaxOperations {
		steps = append(steps, step)
	}
	ops, err := ParsePatch(Group, Document{"Operations": steps})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Group.Patch(Document{"displayName": "G", "members": members}, ops)
	var e *Error
	if !errors.As(err, &e) || e.Kind != InvalidValue {
		t.Errorf("got %v, want a refusal", err)
	}
	if _, err := ParsePatch(Group, Document{"Operations": append(steps, step)}); err == nil {
		t.Error("more operations than there may be are taken")
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x", "[]", "1", `{"a":1`, `{"a":1}{}`, `{"a":1,"A":2}`, `{"a":{"b":1,"B":1}}`, "{\"a\":\"\xff\"}",
		`{"a":1e999}`,
		`{"a":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`} {
		_, err := Decode([]byte(text))
		var e *Error
		if !errors.As(err, &e) || e.Kind != InvalidSyntax {
			t.Errorf("%.40q: got %v, want invalidSyntax", text, err)
		}
	}
}

func TestNormalizeAndView(t *testing.T) {
	t.Parallel()
	got, err := User.Normalize(document(t, `{"username":"a","ACTIVE":"TRUE","emails":"x","roles":["admin",null],"name":{"FAMILYNAME":"L",`+
		`"x":1},"title":null,"other":{"A":1}}`))
	want := document(t, `{"userName":"a","active":true,"emails":[{"value":"x"}],"roles":[{"value":"admin"}],"name":{"familyName":"L",`+
		`"x":1},"other":{"A":1}}`)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v %v, want %v", got, err, want)
	}
	for _, text := range []string{`{"name":"x"}`, `{"userName":[]}`, `{"emails":[1]}`, `{"active":1}`, `{"emails":[{"primary":"x"}]}`,
		`{"` + EnterpriseURN + `":1}`, `{"` + EnterpriseURN + `":{"department":1}}`} {
		if _, err := User.Normalize(document(t, text)); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
	got = User.View(document(t, `{"name":"a text","plan":{"x":1},"userName":"a"}`))
	if want := document(t, `{"plan":{"x":1},"userName":"a"}`); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestProjection(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ only, but, want string }{
		{"userName", "", `{"schemas":["` + UserURN + `"],"id":"u1","userName":"Ann@Example.com"}`},
		{"NAME.familyname,emails.type", "", `{"schemas":["` + UserURN +
			`"],"id":"u1","name":{"familyName":"Lee"},"emails":[{"type":"work"},{"type":"home"}]}`},
		{"emails.type,emails.value", "", `{"schemas":["` + UserURN +
			`"],"id":"u1","emails":[{"type":"work","value":"ann@work.example"},{"type":"home","value":"ann@home.example"}]}`},
		{EnterpriseURN + ":department", "", `{"schemas":["` + UserURN + `"],"id":"u1","` + EnterpriseURN + `":{"department":"Sales"}}`},
		{"", "id,schemas,emails,meta,name,groups,roles,shoe,title,externalId,active," + EnterpriseURN,
			`{"schemas":["` + UserURN + `"],"id":"u1","userName":"Ann@Example.com"}`},
		{"emails," + EnterpriseURN, "emails.value,emails.primary," + EnterpriseURN + ":manager",
			`{"schemas":["` + UserURN + `"],"id":"u1","emails":[{"type":"work"},{"type":"home"}],"` + EnterpriseURN + `":{"department":"Sales"}}`},
		{"nothing", "", `{"schemas":["` + UserURN + `"],"id":"u1"}`},
	} {
		p, err := ParseProjection(User, c.only, c.but)
		if err != nil {
			t.Fatal(err)
		}
		doc := document(t, ann)
		if got, want := p.Of(doc), document(t, c.want); !reflect.DeepEqual(got, want) {
			t.Errorf("%s but %s: got %v, want %v", c.only, c.but, got, want)
		}
		if !reflect.DeepEqual(doc, document(t, ann)) {
			t.Errorf("%s but %s: changes the resource", c.only, c.but)
		}
	}
	if _, err := ParseProjection(User, "a b", ""); err == nil {
		t.Error("a name that is none is taken")
	}
}

// TestSchemas: what the server says about itself is whole.
func TestSchemas(t *testing.T) {
	t.Parallel()
	ids := map[any]bool{}
	for _, s := range Schemas("https://x/scim/v2") {
		ids[s["id"]] = true
		var walk func(list []any)
		walk = func(list []any) {
			for _, v := range list {
				a := v.(Document)
				for _, name := range []string{"name", "type", "description", "mutability", "returned", "uniqueness"} {
					if a[name] == "" || a[name] == nil {
						t.Errorf("%v %v says no %s", s["id"], a["name"], name)
					}
				}
				subs, _ := a["subAttributes"].([]any)
				if (a["type"] == "complex") != (len(subs) > 0) {
					t.Errorf("%v %v is %v with %d parts", s["id"], a["name"], a["type"], len(subs))
				}
				walk(subs)
			}
		}
		walk(s["attributes"].([]any))
	}
	for _, r := range ResourceTypes("https://x/scim/v2") {
		if !ids[r["schema"]] {
			t.Errorf("%v has the schema %v, which is not there", r["name"], r["schema"])
		}
	}
	b, err := json.Marshal(List(nil, 1, 0))
	if want := `{"schemas":["` + ListURN + `"],"totalResults":0,"startIndex":1,"itemsPerPage":0,"Resources":[]}`; err != nil ||
		string(b) != want {
		t.Errorf("got %s %v, want %s", b, err, want)
	}
	b, err = json.Marshal(Respond(409, Uniqueness, "x"))
	if want := `{"schemas":["` + ErrorURN + `"],"scimType":"uniqueness","detail":"x","status":"409"}`; err != nil || string(b) != want {
		t.Errorf("got %s %v, want %s", b, err, want)
	}
}

// FuzzFilter: any text is a filter or an error, and any filter has an answer.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{`userName eq "a"`, `emails[type eq "work" and value co "@"].value ne "x" or not (active eq true)`,
		`a.b pr and urn:x:y:z.q gt 1e3`, `((`, `"`, `a eq "\`, `x[y[z pr]]`, `not not (a pr)`} {
		f.Add(seed)
	}
	doc := document(f, ann)
	f.Fuzz(func(t *testing.T, s string) {
		for _, kind := range []*Type{User, Group} {
			g, err := ParseFilter(kind, s)
			var e *Error
			switch {
			case err == nil:
				g.Match(doc)
				g.Equals("userName")
				g.Names("emails")
			case !errors.As(err, &e) || e.Kind != InvalidFilter:
				t.Errorf("%q: %v", s, err)
			}
		}
	})
}

// FuzzPath: any path of any operation changes the resource or is an error; the
// result is still a resource.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{`emails[type eq "work"].value`, `name.familyName`, EnterpriseURN + `:manager`, EnterpriseURN,
		`members[value eq "x"]`, `a[`, `a].b`, `urn:a:b:c.d`, `roles[primary eq "True"].value`} {
		f.Add("add", seed, `"x"`)
		f.Add("remove", seed, `[{"value":"x"}]`)
		f.Add("replace", seed, `{"value":"x","a":[1]}`)
	}
	f.Fuzz(func(t *testing.T, op, path, value string) {
		var v any
		if json.Unmarshal([]byte(value), &v) != nil {
			return
		}
		ops, err := ParsePatch(User, Document{"Operations": []any{Document{"op": op, "path": path, "value": v},
			Document{"op": "add", "value": Document{path: v}}}})
		var e *Error
		var got Document
		if err == nil {
			doc, err2 := User.Normalize(document(t, ann))
			if err2 != nil {
				t.Fatal(err2)
			}
			got, err = User.Patch(doc, ops)
		}
		if err != nil {
			if !errors.As(err, &e) {
				t.Errorf("%s %q %s: %v", op, path, value, err)
			}
			return
		}
		again, err := User.Normalize(got)
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Errorf("%s %q %s: %v is not normal: %v %v", op, path, value, got, again, err)
		}
		if got["id"] != "u1" {
			t.Errorf("%s %q %s: the id is %v", op, path, value, got["id"])
		}
	})
}
