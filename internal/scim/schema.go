package scim

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Attribute describes one attribute (RFC 7643, 7).
type Attribute struct {
	Name            string      `json:"name"`
	Type            string      `json:"type"` // string, boolean, integer, dateTime, reference or complex
	MultiValued     bool        `json:"multiValued"`
	Description     string      `json:"description"`
	Required        bool        `json:"required"`
	CanonicalValues []string    `json:"canonicalValues,omitempty"`
	CaseExact       bool        `json:"caseExact"`
	Mutability      string      `json:"mutability"` // readWrite, readOnly, immutable or writeOnly
	Returned        string      `json:"returned"`   // always, default or never
	Uniqueness      string      `json:"uniqueness"` // none or server
	ReferenceTypes  []string    `json:"referenceTypes,omitempty"`
	SubAttributes   []Attribute `json:"subAttributes,omitempty"`
}

// Schema is a set of attributes under a URN.
type Schema struct {
	Schemas     []string    `json:"schemas"`
	ID          string      `json:"id"`
	Name        string      `json:"name"`
	Description string      `json:"description"`
	Attributes  []Attribute `json:"attributes"`
	Meta        Document    `json:"meta,omitempty"`
}

// Type is a type of resource: its core schema and what extends it. Attributes
// that neither knows are kept as they are.
type Type struct {
	Name       string // "User"
	Endpoint   string // "/Users"
	Schema     *Schema
	Extensions []*Schema
}

func attr(name, kind, description string, change ...func(*Attribute)) Attribute {
	a := Attribute{Name: name, Type: kind, Description: description, Mutability: "readWrite", Returned: "default", Uniqueness: "none"}
	for _, f := range change {
		f(&a)
	}
	return a
}

func many(a *Attribute)     { a.MultiValued = true }
func readOnly(a *Attribute) { a.Mutability = "readOnly" }
func exact(a *Attribute)    { a.CaseExact = true }
func required(a *Attribute) { a.Required = true }
func unique(a *Attribute)   { a.Uniqueness = "server" }
func with(list ...Attribute) func(*Attribute) {
	return func(a *Attribute) { a.SubAttributes = list }
}
func oneOf(values ...string) func(*Attribute) {
	return func(a *Attribute) { a.CanonicalValues = values }
}
func refersTo(kinds ...string) func(*Attribute) {
	return func(a *Attribute) { a.ReferenceTypes = kinds }
}

// plural returns an attribute that lists values with a type, one of them primary.
func plural(name, description string, more ...Attribute) Attribute {
	return attr(name, "complex", description, many, with(append([]Attribute{
		attr("value", "string", "The value"), attr("display", "string", "A name for people"),
		attr("type", "string", "What it is for, such as work"), attr("primary", "boolean", "Whether it is the preferred one; at most one is"),
	}, more...)...))
}

// common is what every resource has (RFC 7643, 3.1).
var common = []Attribute{
	attr("schemas", "reference", "The schemas of what is here", many, readOnly, exact),
	attr("id", "string", "The id, given by the server", readOnly, exact, unique),
	attr("externalId", "string", "The client's own id", exact),
	attr("meta", "complex", "About the resource", readOnly, with(
		attr("resourceType", "string", "The type", readOnly, exact), attr("created", "dateTime", "When it was made", readOnly),
		attr("lastModified", "dateTime", "When it was last changed through SCIM", readOnly),
		attr("location", "reference", "Where it is", readOnly, exact),
		attr("version", "string", "Its ETag", readOnly, exact))),
}

var userSchema = &Schema{ID: UserURN, Name: "User", Description: "A member of the customer", Attributes: []Attribute{
	attr("userName", "string", "The name to log in with; no two users have one that differs only in case", required, unique),
	attr("name", "complex", "The parts of the name", with(
		attr("formatted", "string", "The whole name"), attr("familyName", "string", "The family name"),
		attr("givenName", "string", "The given name"),
		attr("middleName", "string", "The middle name"), attr("honorificPrefix", "string", "A title before the name"),
		attr("honorificSuffix", "string", "A title after the name"))),
	attr("displayName", "string", "The name to show"), attr("nickName", "string", "A casual name"),
	attr("profileUrl", "reference", "A page about the user", refersTo("external")),
	attr("title", "string", "A job title"), attr("userType", "string", "Such as employee or contractor"),
	attr("preferredLanguage", "string", "Such as en-US"), attr("locale", "string", "Such as en-US"),
	attr("timezone", "string", "Such as Europe/Berlin"),
	attr("active", "boolean", "Whether the user may do anything at all; one that is not holds no seat"),
	attr("password", "string", "Taken and thrown away: usher knows no passwords of users",
		func(a *Attribute) { a.Mutability, a.Returned = "writeOnly", "never" }),
	plural("emails", "Addresses of electronic mail"), plural("phoneNumbers", "Telephone numbers"),
	plural("ims", "Addresses of instant messages"),
	plural("photos", "Addresses of pictures"),
	attr("addresses", "complex", "Postal addresses", many, with(
		attr("formatted", "string", "The whole address"), attr("streetAddress", "string", "Street and number"),
		attr("locality", "string", "City"),
		attr("region", "string", "State or region"), attr("postalCode", "string", "Postal code"), attr("country", "string", "Country"),
		attr("type", "string", "What it is for, such as work"), attr("primary", "boolean", "Whether it is the preferred one"))),
	attr("groups", "complex", "The groups that the user is directly in", many, readOnly, with(
		attr("value", "string", "The group's id", readOnly, exact), attr("$ref", "reference", "Where the group is", readOnly, refersTo("Group")),
		attr("display", "string", "The group's name", readOnly), attr("type", "string", "direct", readOnly, oneOf("direct")))),
	plural("entitlements", "Kept as given; what the plan entitles is in /Entitlements"),
	plural("roles", "The roles given through SCIM, each by its value in /Roles"),
	plural("x509Certificates", "Certificates"),
}}

var enterpriseSchema = &Schema{ID: EnterpriseURN, Name: "EnterpriseUser", Description: "What a company knows of a user",
	Attributes: []Attribute{
		attr("employeeNumber", "string", "A number given by the company"), attr("costCenter", "string", "A cost centre"),
		attr("organization", "string", "An organization"),
		attr("division", "string", "A division"), attr("department", "string", "A department"),
		attr("manager", "complex", "Whom the user reports to", with(
			attr("value", "string", "The manager's id", exact), attr("$ref", "reference", "Where the manager is", refersTo("User")),
			attr("displayName", "string", "The manager's name"))),
	}}

var groupSchema = &Schema{ID: GroupURN, Name: "Group", Description: "A set of users and of other groups", Attributes: []Attribute{
	attr("displayName", "string", "The name", required),
	attr("members", "complex", "Who is directly in it", many, with(
		attr("value", "string", "The id of a user or a group", exact), attr("$ref", "reference", "Where it is", refersTo("User", "Group")),
		attr("type", "string", "User or Group", oneOf("User", "Group")))),
}}

// counted returns what a role and an entitlement have.
func counted(what string) []Attribute {
	return []Attribute{
		attr("value", "string", "The "+what+", as a user's attribute names it", readOnly, exact, required),
		attr("display", "string", "A name for people", readOnly),
		attr("type", "string", "What kind of "+what+" it is", readOnly),
		attr("supported", "boolean", "Whether the customer's plan gives it", readOnly, required),
		attr("limitedAssignmentsPermitted", "boolean", "Whether only so many users may have it", readOnly),
		attr("totalAssignmentsPermitted", "integer", "How many users may have it: the seats", readOnly),
		attr("totalAssignmentsUsed", "integer", "How many of the seats are taken", readOnly),
		attr("containedBy", "string", "What gives all of it and more", many, readOnly, exact),
		attr("contains", "string", "What it gives too", many, readOnly, exact),
	}
}

// The types of resources.
var (
	User  = &Type{Name: "User", Endpoint: "/Users", Schema: userSchema, Extensions: []*Schema{enterpriseSchema}}
	Group = &Type{Name: "Group", Endpoint: "/Groups", Schema: groupSchema}
	Role  = &Type{Name: "Role", Endpoint: "/Roles",
		Schema: &Schema{ID: RoleURN, Name: "Role", Description: "A role that users of the customer may be given", Attributes: counted("role")}}
	Entitlement = &Type{Name: "Entitlement", Endpoint: "/Entitlements",
		Schema: &Schema{ID: EntitlementURN, Name: "Entitlement", Description: "What the customer's plan may entitle it to",
			Attributes: counted("entitlement")}}
)

// Types lists every type of resource.
var Types = []*Type{User, Group, Role, Entitlement}

// Schemas returns the schemas of all types, for the address base, which ends without
// a slash.
func Schemas(base string) (all []Document) {
	for _, t := range Types {
		for _, s := range append([]*Schema{t.Schema}, t.Extensions...) {
			described := *s
			described.Schemas = []string{schemaURN}
			described.Meta = Document{"resourceType": "Schema", "location": base + "/Schemas/" + s.ID}
			all = append(all, asDocument(described))
		}
	}
	return all
}

// ResourceTypes returns the types, for the address base.
func ResourceTypes(base string) (all []Document) {
	for _, t := range Types {
		extensions := []any{}
		for _, s := range t.Extensions {
			extensions = append(extensions, Document{"schema": s.ID, "required": false})
		}
		all = append(all, Document{"schemas": []any{typeURN}, "id": t.Name, "name": t.Name, "endpoint": t.Endpoint,
			"description": t.Schema.Description,
			"schema":      t.Schema.ID, "schemaExtensions": extensions,
			"meta": Document{"resourceType": "ResourceType", "location": base + "/ResourceTypes/" + t.Name}})
	}
	return all
}

// ServiceProviderConfig says what is supported, for the address base: lists have
// at most maxResults resources.
func ServiceProviderConfig(base string, maxResults int) Document {
	no := Document{"supported": false}
	return Document{
		"schemas": []any{configURN}, "patch": Document{"supported": true},
		"bulk":           Document{"supported": false, "maxOperations": 0, "maxPayloadSize": 0},
		"filter":         Document{"supported": true, "maxResults": maxResults},
		"changePassword": no, "sort": no, "etag": Document{"supported": true},
		"authenticationSchemes": []any{Document{"type": "oauthbearertoken", "name": "API key", "primary": true,
			"description": "An API key of the customer, as Authorization: Bearer usk_…"}},
		"RolesAndEntitlements": Document{
			"roles":        Document{"supported": true, "multipleRolesSupported": true, "primarySupported": false, "typeSupported": false},
			"entitlements": Document{"supported": true, "multipleEntitlementsSupported": false, "primarySupported": false, "typeSupported": false}},
		"meta": Document{"resourceType": "ServiceProviderConfig", "location": base + "/ServiceProviderConfig"},
	}
}

func asDocument(v any) Document {
	b, err := json.Marshal(v)
	var d Document
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err != nil {
		panic(err) // a schema is text
	}
	return d
}

// attribute finds what every resource has, or what the core schema knows.
func (t *Type) attribute(name string) *Attribute {
	for _, list := range [][]Attribute{common, t.Schema.Attributes} {
		if a := find(list, name); a != nil {
			return a
		}
	}
	return nil
}

func (t *Type) extension(urn string) *Schema {
	for _, s := range t.Extensions {
		if strings.EqualFold(s.ID, urn) {
			return s
		}
	}
	return nil
}

func find(list []Attribute, name string) *Attribute {
	for i := range list {
		if strings.EqualFold(list[i].Name, name) {
			return &list[i]
		}
	}
	return nil
}

func (a *Attribute) sub(name string) *Attribute {
	if a == nil {
		return nil
	}
	return find(a.SubAttributes, name)
}

// Known reports whether one of the type's schemas has a top-level name, a
// schema's URN included.
func (t *Type) Known(name string) bool {
	return t.attribute(name) != nil || t.extension(name) != nil || strings.EqualFold(name, t.Schema.ID)
}

// Normalize gives the attributes that the schemas know their proper name and form:
// "False" is false, a single value of a list is a list, a text where an object
// is due is its value. Nulls go. The error says what cannot be right.
func (t *Type) Normalize(doc Document) (Document, error) {
	out := Document{}
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		v := doc[name]
		if v == nil {
			continue
		}
		if s := t.extension(name); s != nil {
			inner, ok := v.(Document)
			if !ok {
				return nil, errorf(InvalidValue, "%s must be an object", s.ID)
			}
			extension := Document{}
			for key, v := range inner {
				if v == nil {
					continue
				}
				a := find(s.Attributes, key)
				if a != nil {
					key = a.Name
				}
				var err error
				if extension[key], err = form(a, s.ID+":"+key, v); err != nil {
					return nil, err
				}
			}
			if len(extension) > 0 {
				out[s.ID] = extension
			}
			continue
		}
		a := t.attribute(name)
		if a != nil {
			name = a.Name
		}
		v, err := form(a, name, v)
		if err != nil {
			return nil, err
		}
		out[name] = v
	}
	return out, nil
}

// form gives a value the form that its attribute asks for; of an unknown
// attribute, which is nil, any form is right.
func form(a *Attribute, where string, v any) (any, error) {
	if a == nil || v == nil {
		return v, nil
	}
	if !a.MultiValued {
		return formOne(a, where, v)
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	out := make([]any, 0, len(list))
	for _, v := range list {
		if v == nil {
			continue
		}
		v, err := formOne(a, where, v)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func formOne(a *Attribute, where string, v any) (any, error) {
	switch a.Type {
	case "complex":
		if text, ok := v.(string); ok && a.sub("value") != nil {
			v = Document{"value": text}
		}
		doc, ok := v.(Document)
		if !ok {
			return nil, errorf(InvalidValue, "%s must be an object, got %s", where, kindOf(v))
		}
		out := Document{}
		for name, v := range doc {
			if v == nil {
				continue
			}
			sub := a.sub(name)
			if sub != nil {
				name = sub.Name
			}
			v, err := form(sub, where+"."+name, v)
			if err != nil {
				return nil, err
			}
			out[name] = v
		}
		return out, nil
	case "boolean":
		switch b := v.(type) {
		case bool:
			return b, nil
		case string:
			switch strings.ToLower(b) {
			case "true":
				return true, nil
			case "false":
				return false, nil
			}
		}
		return nil, errorf(InvalidValue, "%s must be true or false, got %s", where, kindOf(v))
	case "integer":
		if _, ok := v.(float64); !ok {
			return nil, errorf(InvalidValue, "%s must be a number, got %s", where, kindOf(v))
		}
	default:
		if _, ok := v.(string); !ok {
			return nil, errorf(InvalidValue, "%s must be text, got %s", where, kindOf(v))
		}
	}
	return v, nil
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return Clip(v)
	case bool:
		return map[bool]string{true: "true", false: "false"}[v]
	case float64:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}

// View returns the properties that a type of resource shows, however they were set:
// in their right form, without those that the schemas know and that do not fit.
// It shares what no schema knows.
func (t *Type) View(properties map[string]any) Document {
	out := Document{}
	for name, v := range properties {
		one, err := t.Normalize(Document{name: v})
		if err != nil {
			continue
		}
		for name, v := range one {
			out[name] = v
		}
	}
	return out
}
