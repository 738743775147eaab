// Package scim speaks SCIM 2.0 (RFC 7643, RFC 7644): it reads resources,
// filters and PATCH requests as identity providers send them, applies them to
// JSON documents, and describes the schemas. It refuses to know who may do what
// and where anything is kept.
package scim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
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

// Error is a request that cannot be done, in SCIM's words.
type Error struct {
	Kind   Kind
	Detail string
}

// Error is the detail.
func (e *Error) Error() string { return e.Detail }

func errorf(kind Kind, format string, args ...any) *Error {
	return &Error{kind, fmt.Sprintf(format, args...)}
}

// Document is a resource as JSON: what json.Unmarshal makes of an object.
type Document = map[string]any

// MaxDepth is how deep objects and lists may lie in each other.
const MaxDepth = 16

// Decode reads a JSON object. It refuses what can be read in two ways: text
// after its end, invalid UTF-8, and two names that differ in nothing but case.
func Decode(body []byte) (Document, error) {
	if !utf8.Valid(body) {
		return nil, errorf(InvalidSyntax, "the body is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	v, err := decode(d, 0)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errorf(InvalidSyntax, "the body goes on after the JSON object")
		}
	}
	if err != nil {
		var own *Error
		if errors.As(err, &own) {
			return nil, own
		}
		return nil, errorf(InvalidSyntax, "the body is not JSON, at byte %d", d.InputOffset())
	}
	doc, ok := v.(Document)
	if !ok {
		return nil, errorf(InvalidSyntax, "the body must be a JSON object")
	}
	return doc, nil
}

func decode(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth++; depth > MaxDepth {
		return nil, errorf(InvalidSyntax, "the body is nested deeper than %d", MaxDepth)
	}
	if open == '[' {
		list := []any{}
		for d.More() {
			v, err := decode(d, depth)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.Token()
		return list, err
	}
	doc := Document{}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		if fold := strings.ToLower(name); seen[fold] {
			return nil, errorf(InvalidSyntax, "the body says %s twice", Clip(name))
		} else {
			seen[fold] = true
		}
		if doc[name], err = decode(d, depth); err != nil {
			return nil, err
		}
	}
	_, err = d.Token()
	return doc, err
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

// List makes a page that begins at startIndex, of total results. Its Resources
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

// Respond makes the body of an error with an HTTP status.
func Respond(status int, kind Kind, detail string) ErrorResponse {
	return ErrorResponse{[]string{ErrorURN}, kind, detail, fmt.Sprint(status)}
}
