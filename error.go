package usher

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code says what kind of failure an Error is. Each has one HTTP status.
type Code string

// The codes, in the order of their HTTP status.
const (
	Invalid            Code = "invalid"                // 400: malformed or mistyped input
	Unauthenticated    Code = "unauthenticated"        // 401: no key, or an invalid one
	Forbidden          Code = "forbidden"              // 403: the key may not do this
	StepUpRequired     Code = "step_up_required"       // 403: the operator must prove again who they are
	NotFound           Code = "not_found"              // 404: no such management object
	Conflict           Code = "conflict"               // 409: the present state does not allow it
	KeyReused          Code = "key_reused"             // 409: the idempotency key was used with another body (S13)
	PreconditionFailed Code = "precondition_failed"    // 412: If-Match does not match
	TooLarge           Code = "too_large"              // 413: body over its limit
	UnsupportedMedia   Code = "unsupported_media_type" // 415
	Refused            Code = "refused"                // 422: well formed, but a rule forbids it
	InUse              Code = "in_use"                 // 422: customers still hold or use it (S31)
	NotConsumable      Code = "not_consumable"         // 422: the feature's meter neither counts nor sums (S33)
	RateLimited        Code = "rate_limited"           // 429: try again after RetryAfter
	Internal           Code = "internal"               // 500: a fault of the server
	Unavailable        Code = "unavailable"            // 503: the database is away or too busy
)

// Codes maps every code to its HTTP status.
var Codes = map[Code]int{
	Invalid: 400, Unauthenticated: 401, Forbidden: 403, StepUpRequired: 403, NotFound: 404, Conflict: 409, KeyReused: 409,
	PreconditionFailed: 412, TooLarge: 413, UnsupportedMedia: 415, Refused: 422, InUse: 422,
	NotConsumable: 422, RateLimited: 429, Internal: 500, Unavailable: 503,
}

// Problem is one thing that is wrong and where. Location is a path in the
// input ("plans.pro.trial", "body.amount") or "file:line:column".
type Problem struct {
	Location string `json:"location"`
	Message  string `json:"message"`
}

// Error is a failure that the caller may see as it is. An error of any other
// type is a fault of the server: logged in full, shown only as "internal".
type Error struct {
	Code       Code
	Detail     string
	Problems   []Problem     // all that were found, in the order of the input
	RetryAfter time.Duration // for RateLimited and Unavailable; 0 means the server's default
}

// Error joins the detail and the problems, one a line.
func (e *Error) Error() string {
	if len(e.Problems) == 0 {
		return e.Detail
	}
	var b strings.Builder
	b.WriteString(e.Detail)
	for _, p := range e.Problems {
		b.WriteString("\n  ")
		if p.Location != "" {
			b.WriteString(p.Location + ": ")
		}
		b.WriteString(p.Message)
	}
	return b.String()
}

// Errorf makes an Error with a formatted detail.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// ErrorCode returns err's code, or Internal if err has none.
func ErrorCode(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
