package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
)

// problem is every error's body (RFC 9457).
type problem struct {
	Type      string          `json:"type" doc:"A name of the kind of problem, stable: urn:usher:problem:<code>"`
	Title     string          `json:"title" doc:"The kind of problem in words"`
	Status    int             `json:"status" doc:"The HTTP status"`
	Code      usher.Code      `json:"code" doc:"The kind of problem, for programs"`
	Detail    string          `json:"detail" doc:"What is wrong here, and what would be right"`
	RequestID string          `json:"request_id" doc:"The request's X-Request-ID; the server's log has it too"`
	Errors    []usher.Problem `json:"errors,omitempty" doc:"Each thing that is wrong, and where"`

	retryAfter time.Duration
	allow      string
}

// methodNotAllowed is the one code that only HTTP has.
const methodNotAllowed usher.Code = "method_not_allowed"

var titles = map[usher.Code]string{
	usher.Invalid: "Invalid request", usher.Unauthenticated: "Not authenticated", usher.Forbidden: "Not allowed", usher.StepUpRequired: "Prove again who you are",
	usher.NotFound: "Not found", usher.Conflict: "Conflict", usher.KeyReused: "Idempotency key used before",
	usher.PreconditionFailed: "Precondition failed", usher.TooLarge: "Too large", usher.UnsupportedMedia: "Unsupported media type",
	usher.Refused: "Refused by a rule", usher.InUse: "In use", usher.NotConsumable: "Not consumable",
	usher.RateLimited: "Too many requests", usher.Internal: "Internal error", usher.Unavailable: "Unavailable",
	methodNotAllowed: "Method not allowed",
}

func newProblem(code usher.Code, detail string, list []usher.Problem) *problem {
	status := usher.Codes[code]
	if code == methodNotAllowed {
		status = http.StatusMethodNotAllowed
	}
	return &problem{Type: "urn:usher:problem:" + string(code), Title: titles[code], Status: status, Code: code, Detail: detail, Errors: list}
}

// Error, GetStatus, GetHeaders and ContentType make a problem huma's error.
func (p *problem) Error() string  { return p.Detail }
func (p *problem) GetStatus() int { return p.Status }
func (p *problem) GetHeaders() http.Header {
	h := http.Header{}
	p.headers(h)
	return h
}
func (p *problem) ContentType(string) string { return "application/problem+json" }

func (p *problem) headers(h http.Header) {
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((p.retryAfter+time.Second-1)/time.Second), 10))
	}
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
}

// problem makes an error fit to show. What has no code of usher's is a fault of
// the server: logged in full, shown as nothing but that.
func (a *API) problem(c *call, err error) *problem {
	var p *problem
	var e *usher.Error
	switch {
	case errors.As(err, &p):
	case errors.As(err, &e) && e.Code != usher.Internal && usher.Codes[e.Code] != 0:
		p = newProblem(e.Code, e.Detail, e.Problems)
		p.retryAfter = e.RetryAfter
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		p = newProblem(usher.Unavailable, "the request was given up before it could be answered, try again", nil)
	default:
		a.log.Error("request failed", "request_id", c.RequestID, "route", c.route.Pattern, "error", err)
		p = newProblem(usher.Internal, "internal error", nil)
	}
	if p.retryAfter <= 0 && (p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests) {
		p.retryAfter = time.Second
	}
	p.RequestID = c.RequestID
	return p
}

// fail answers with err.
func (a *API) fail(w http.ResponseWriter, c *call, err error) {
	if c.scim {
		a.failSCIM(w, c, err)
		return
	}
	p := a.problem(c, err)
	body, err := marshal(p)
	if err != nil { // cannot be: a problem is text and numbers
		a.log.Error("a problem cannot be written", "request_id", c.RequestID, "error", err)
	}
	h := w.Header()
	p.headers(h)
	h["Content-Type"] = problemType
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.status = p.Status
	w.WriteHeader(p.Status)
	w.Write(body)
}

// invalid is one wrong thing at a place.
func invalid(location, format string, args ...any) error {
	return invalids([]usher.Problem{{Location: location, Message: fmt.Sprintf(format, args...)}})
}

func invalids(list []usher.Problem) *usher.Error {
	detail := fmt.Sprintf("the request has %d problems", len(list))
	if len(list) == 1 {
		detail = strings.TrimPrefix(list[0].Location+": "+list[0].Message, ": ")
	}
	return &usher.Error{Code: usher.Invalid, Detail: detail, Problems: list}
}

// at puts a place to an error of a value: "must be …" becomes "body.amount: must be …".
func at(location string, err error) error {
	var e *usher.Error
	if errors.As(err, &e) && e.Code == usher.Invalid && len(e.Problems) == 0 {
		return invalid(location, "%s", strings.TrimPrefix(e.Detail, "the idempotency key "))
	}
	return err
}

// huma finds wrong input itself and has one function for all of its APIs to
// make an error of it.
func init() {
	huma.ValidateStrictCasing = true
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		p := humaProblem(status, msg, errs)
		if ctx != nil {
			if c, ok := ctx.Context().Value(callKey{}).(*call); ok {
				p.RequestID = c.RequestID
			}
		}
		return p
	}
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError { return humaProblem(status, msg, errs) }
}

func humaProblem(status int, msg string, errs []error) *problem {
	var code usher.Code
	switch status {
	case http.StatusRequestEntityTooLarge:
		code = usher.TooLarge
	case http.StatusUnsupportedMediaType:
		code = usher.UnsupportedMedia
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestTimeout:
		code = usher.Invalid
	default:
		return newProblem(usher.Internal, "internal error", nil)
	}
	var list []usher.Problem
	for _, err := range errs {
		var d huma.ErrorDetailer
		var e *usher.Error
		switch {
		case errors.As(err, &d):
			list = append(list, usher.Problem{Location: d.ErrorDetail().Location, Message: d.ErrorDetail().Message})
		case errors.As(err, &e):
			list = append(list, usher.Problem{Message: e.Detail})
			list = append(list, e.Problems...)
		case err != nil:
			list = append(list, usher.Problem{Message: err.Error()})
		}
	}
	if code == usher.Invalid && len(list) > 0 {
		msg = invalids(list).Detail
	}
	return newProblem(code, msg, list)
}
