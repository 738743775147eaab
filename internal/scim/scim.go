// Package scim speaks SCIM 2.0 (RFC 7643, RFC 7644): it reads resources,
// filters and PATCH requests as identity providers send them, applies them to
// JSON documents, and describes the schemas. It refuses to know who may do what
// and where anything is kept.
package scim

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/usher-sh/usher/internal/strictjson"
)

// The schemas that requests and answers name.
const (
	UserURN        = "urn:ietf:params:scim:schemas:core:2.0:User"
	GroupURN       = "urn:ietf:params:scim:schemas:core:2.0:Group"
	EnterpriseURN  = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
	RoleURN        = "urn:ietf:params:scim:schemas:core:2.0:Role"        // draft-ietf-scim-roles-entitlements
	EntitlementURN = "urn:ietf:params:scim:schemas:core:2.0:Entitlement" // the same
	ListURN        = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
	PatchURN       = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
	ErrorURN       = "urn:ietf:params:scim:api:messages:2.0:Error"
	configURN      = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"
	typeURN        = "urn:ietf:params:scim:schemas:core:2.0:ResourceType"
	schemaURN      = "urn:ietf:params:scim:schemas:core:2.0:Schema"
)

// Kind is SCIM's word for what is wrong with a request (RFC 7644, table 9).
type Kind string

// The kinds in use.
const (
	InvalidFilter Kind = "invalidFilter"
	TooMany       Kind = "tooMany" // the filter asks for more than is looked through
	Uniqueness    Kind = "uniqueness"
	Mutability    Kind = "mutability" // the attribute is not the client's to change
	InvalidSyntax Kind = "invalidSyntax"
	InvalidPath   Kind = "invalidPath"
	NoTarget      Kind = "noTarget" // the path names nothing that could be changed
	InvalidValue  Kind = "invalidValue"
	InvalidVers   Kind = "invalidVers"
)

// Error says why a request is refused, in SCIM's words.
type Error struct {
	Kind   Kind
	Detail string
}

// Error returns Detail.
func (e *Error) Error() string { return e.Detail }

func errorf(kind Kind, format string, args ...any) *Error {
	return &Error{kind, fmt.Sprintf(format, args...)}
}

// Document is a resource: what json.Unmarshal makes of a JSON object.
type Document = map[string]any

// MaxDepth is how deep objects and lists may nest.
const MaxDepth = 16

// Decode reads a JSON object. It refuses what can be read in two ways: what
// strictjson refuses, and names that differ only in case, as SCIM ignores case.
// Numbers become float64.
func Decode(body []byte) (Document, error) {
	var r strictjson.Reader
	r.Reset(body)
	if c := r.Peek(); c != '{' && c != 0 {
		return nil, errorf(InvalidSyntax, "the body must be a JSON object")
	}
	v := decode(&r, 1)
	if list := r.End(); len(list) > 0 {
		return nil, errorf(InvalidSyntax, "the body has %s", list[0].Message)
	}
	doc, _ := v.(Document)
	return doc, nil
}

// decode reads one value, depth objects and lists deep.
func decode(r *strictjson.Reader, depth int) any {
	c := r.Peek()
	if (c == '{' || c == '[') && depth > MaxDepth {
		r.Fail("nested deeper than %d levels", MaxDepth)
		return nil
	}
	switch c {
	case '{':
		doc := Document{}
		seen := map[string]bool{}
		r.Object("", func(name []byte) {
			key := string(name)
			fold := strings.ToLower(key)
			if seen[fold] {
				r.Fail("the name %s occurs twice in one object; case does not count", Clip(key))
				return
			}
			seen[fold] = true
			doc[key] = decode(r, depth+1)
		})
		return doc
	case '[':
		list := []any{}
		r.Array("", func(int) { list = append(list, decode(r, depth+1)) })
		return list
	case '"':
		return r.String("")
	}
	raw := r.Raw() // a number, true, false or null
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		r.Fail("the number %s is too large", raw)
	}
	return v
}

// Clip quotes what a caller wrote, for an error: its first 60 bytes.
func Clip(s string) string {
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}

// ListResponse is one page of resources (RFC 7644, 3.4.2).
type ListResponse struct {
	Schemas      []string   `json:"schemas"`
	TotalResults int        `json:"totalResults"`
	StartIndex   int        `json:"startIndex"`
	ItemsPerPage int        `json:"itemsPerPage"`
	Resources    []Document `json:"Resources"`
}

// List returns a page that begins at startIndex, of total results. Its Resources
// are never null.
func List(page []Document, startIndex, total int) ListResponse {
	if page == nil {
		page = []Document{}
	}
	return ListResponse{[]string{ListURN}, total, startIndex, len(page), page}
}

// ErrorResponse is an error's body (RFC 7644, 3.12): its status is text.
type ErrorResponse struct {
	Schemas  []string `json:"schemas"`
	ScimType Kind     `json:"scimType,omitempty"`
	Detail   string   `json:"detail"`
	Status   string   `json:"status"`
}

// Respond returns the body of an error with an HTTP status.
func Respond(status int, kind Kind, detail string) ErrorResponse {
	return ErrorResponse{[]string{ErrorURN}, kind, detail, fmt.Sprint(status)}
}
