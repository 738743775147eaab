package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
)

// Problem is the body of every error (RFC 9457).
type Problem struct {
	Type      string          `json:"type" doc:"A name of the kind of problem, stable: urn:usher:problem:<code>"`
	Title     string          `json:"title" doc:"The kind of problem in words"`
	Status    int             `json:"status" doc:"The HTTP status"`
	Code      usher.Code      `json:"code" doc:"The kind of problem, for programs"`
	Detail    string          `json:"detail" doc:"What is wrong here, and what would be right"`
	RequestID string          `json:"request_id" doc:"The request's X-Request-ID, at most 128 bytes of it; the server's log has the same"`
	Errors    []usher.Problem `json:"errors,omitempty" doc:"Each thing that is wrong, and where"`

	retryAfter time.Duration
	allow      string
}

// The codes that only HTTP has.
const (
	MethodNotAllowed usher.Code = "method_not_allowed"
	clientGone       usher.Code = "client_gone" // for metrics: no client ever reads it
)

// statusGone is the status of a request whose client went away before the answer. It
// is not in a standard, but widely used.
const statusGone = 499

var titles = map[usher.Code]string{
	usher.Invalid: "Invalid request", usher.Unauthenticated: "Not authenticated", usher.Forbidden: "Not allowed",
	usher.StepUpRequired: "A recent login is required",
	usher.NotFound:       "Not found", usher.Conflict: "Conflict", usher.KeyReused: "Idempotency key used before",
	usher.PreconditionFailed: "Precondition failed", usher.TooLarge: "Too large", usher.UnsupportedMedia: "Unsupported media type",
	usher.Refused: "Refused by a rule", usher.InUse: "In use", usher.NotConsumable: "Not consumable",
	usher.RateLimited: "Too many requests", usher.Internal: "Internal error", usher.Unavailable: "Unavailable",
	MethodNotAllowed: "Method not allowed", clientGone: "Client gone",
}

func NewProblem(code usher.Code, detail string, list []usher.Problem) *Problem {
	status := usher.Codes[code]
	switch code {
	case MethodNotAllowed:
		status = http.StatusMethodNotAllowed
	case clientGone:
		status = statusGone
	}
	return &Problem{Type: "urn:usher:problem:" + string(code), Title: titles[code], Status: status, Code: code, Detail: detail, Errors: list}
}

// Error, GetStatus, GetHeaders and ContentType make a Problem an error of huma.
func (p *Problem) Error() string  { return p.Detail }
func (p *Problem) GetStatus() int { return p.Status }
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	p.SetHeaders(h)
	return h
}
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// SetHeaders sets the headers of a problem: Retry-After, Allow and WWW-Authenticate.
func (p *Problem) SetHeaders(h http.Header) {
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

// Problem returns an error as the caller may see it, and logs failures of the server:
//
//   - An error without a code is a bug: it is logged in full, and the caller sees
//     "internal error". The same is true of a deadline that has passed, because a room
//     that sets a deadline returns an error with a code itself.
//   - Unavailable is an outage or overload: the status is 503, and it is logged too.
//   - A client that no longer waits gets no answer. That is not a failure of the server:
//     the status is 499, and nothing is logged.
func (c *Call) Problem(err error) *Problem {
	var p *Problem
	var e *usher.Error
	switch {
	case errors.As(err, &p):
	case c.gone() && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		p = NewProblem(clientGone, "the client closed the request before it was answered", nil)
	case errors.As(err, &e) && e.Code != usher.Internal && usher.Codes[e.Code] != 0:
		p = NewProblem(e.Code, e.Detail, e.Problems)
		if !c.Route.Raw {
			p.Errors = c.Route.inRequest(e.Problems)
			if p.Code == usher.Invalid && len(p.Errors) > 0 {
				p.Detail = Invalids(p.Errors).Detail
			}
		}
		p.retryAfter = e.RetryAfter
		if p.Status >= http.StatusInternalServerError {
			c.failed(slog.LevelWarn, "request could not be served", slog.Any("error", err))
		}
	default:
		c.failed(slog.LevelError, "request failed", slog.Any("error", err))
		p = NewProblem(usher.Internal, "internal error", nil)
	}
	if p.retryAfter <= 0 && (p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests) {
		p.retryAfter = time.Second
	}
	p.RequestID = c.RequestID
	return p
}

// inRequest returns problems with their places in the request. Rooms below know no
// HTTP, so a place without a prefix is an id of the route's path, or else in the
// body, or in the query if the route has no body.
func (rt *Route) inRequest(list []usher.Problem) []usher.Problem {
	from := "body"
	if rt.Accept == nil {
		from = "query"
	}
	list = slices.Clone(list) // the error may be shared
	for i := range list {
		switch in, _, _ := strings.Cut(list[i].Location, "."); {
		case slices.Contains([]string{"body", "path", "query", "header"}, in):
		case strings.Contains(rt.Pattern, "{"+in+"}"):
			list[i].Location = "path." + list[i].Location
		default:
			list[i].Location = strings.TrimSuffix(from+"."+list[i].Location, ".")
		}
	}
	return list
}

// Fail answers with err, in the form of the route's protocol.
func (c *Call) Fail(w http.ResponseWriter, err error) {
	fail := c.fail
	if fail == nil {
		fail = c.Route.Fail
	}
	if fail != nil {
		fail(w, c, err)
		return
	}
	p := c.Problem(err)
	p.Send(w, c, problemType, p)
}

// Send answers with a problem's status and headers, and with body as JSON. contentType
// is the value of the header Content-Type.
func (p *Problem) Send(w http.ResponseWriter, c *Call, contentType []string, body any) {
	b, err := Marshal(body)
	if err != nil { // it cannot fail: an error has only texts and numbers
		c.Route.door.log.Error("an error cannot be written", "request_id", c.RequestID, "error", err)
	}
	h := w.Header()
	p.SetHeaders(h)
	h["Content-Type"] = contentType
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.Status = p.Status
	w.WriteHeader(p.Status)
	w.Write(b)
}

// Invalid returns an error with one problem at a place.
func Invalid(location, format string, args ...any) error {
	return Invalids([]usher.Problem{{Location: location, Message: fmt.Sprintf(format, args...)}})
}

func Invalids(list []usher.Problem) *usher.Error {
	detail := fmt.Sprintf("the request has %d problems", len(list))
	if len(list) == 1 {
		detail = strings.TrimPrefix(list[0].Location+": "+list[0].Message, ": ")
	}
	return &usher.Error{Code: usher.Invalid, Detail: detail, Problems: list}
}

// At adds a place to the error of a value: "must be …" becomes "body.amount: must be …".
func At(location string, err error) error {
	var e *usher.Error
	if errors.As(err, &e) && e.Code == usher.Invalid && len(e.Problems) == 0 {
		return Invalid(location, "%s", strings.TrimPrefix(e.Detail, "the idempotency key "))
	}
	return err
}

// huma checks the input of typed routes itself. It has one global function that makes
// an error of what is wrong; this one makes our problems.
func init() {
	huma.ValidateStrictCasing = true
	huma.DefaultArrayNullable = false // a list is never null: an empty one is []
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		p := humaProblem(status, msg, errs)
		if ctx != nil {
			if c, ok := ctx.Context().Value(callKey{}).(*Call); ok {
				p.RequestID = c.RequestID
				if p.Code == usher.Internal {
					c.failed(slog.LevelError, "request failed", slog.String("error", msg), slog.Any("errors", errs))
				}
			}
		}
		return p
	}
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError { return humaProblem(status, msg, errs) }
}

func humaProblem(status int, msg string, errs []error) *Problem {
	var code usher.Code
	switch status {
	case http.StatusRequestEntityTooLarge:
		code = usher.TooLarge
	case http.StatusUnsupportedMediaType:
		code = usher.UnsupportedMedia
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestTimeout:
		code = usher.Invalid
	default:
		return NewProblem(usher.Internal, "internal error", nil)
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
		msg = Invalids(list).Detail
	}
	return NewProblem(code, msg, list)
}
