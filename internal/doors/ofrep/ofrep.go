// Package ofrep is the door of the OpenFeature Remote Evaluation Protocol 0.3:
// with it every OpenFeature SDK is a client of usher. A flag is a feature.
// `<feature>.allowed` is the yes or no of a feature that is not a switch, unless a
// feature has that key itself.
package ofrep

import (
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/live"
)

type contextDoc struct {
	_            struct{} `additionalProperties:"true"` // clients may send more about the user
	TargetingKey string   `json:"targetingKey" doc:"The customer"`
	Member       *string  `json:"member,omitempty" nullable:"false" doc:"The member of the customer who asks; absent: the customer itself"`
}

type inDoc struct {
	_       struct{}   `additionalProperties:"true"` // later versions of the protocol may add members
	Context contextDoc `json:"context" doc:"Who asks. Other properties are ignored"`
}

// itemDoc is one flag of the bulk answer: the flag, or the error instead of it.
type itemDoc struct{}

// Schema returns that it is one of the two.
func (itemDoc) Schema(r huma.Registry) *huma.Schema {
	flag, failure := r.Schema(reflect.TypeFor[flagDoc](), true, ""), r.Schema(reflect.TypeFor[failureDoc](), true, "")
	return &huma.Schema{OneOf: []*huma.Schema{flag, failure}}
}

type failureDoc struct {
	Key     string `json:"key,omitempty" doc:"The flag. Absent if the error is not about one flag"`
	Code    string `json:"errorCode" enum:"FLAG_NOT_FOUND,GENERAL,INVALID_CONTEXT,PARSE_ERROR,TARGETING_KEY_MISSING"`
	Details string `json:"errorDetails" doc:"What is wrong, and what would be right"`
}

// failures are the types of errors: those of the protocol, and problems about the
// caller.
var failures = map[string]any{"application/json": failureDoc{}, "application/problem+json": door.Problem{}}

type flagDoc struct {
	Key      string         `json:"key"`
	Value    any            `json:"value" doc:"A switch and .allowed: a boolean. A config: its value, or the zero of its type if it is denied. A feature that is counted: an object with the decision's numbers"`
	Reason   string         `json:"reason" enum:"TARGETING_MATCH,DISABLED,UNKNOWN" doc:"A yes, a no, or an answer from memory while the database is away"`
	Variant  string         `json:"variant,omitempty" doc:"on or off; an enum's value; or the plan"`
	Metadata map[string]any `json:"metadata,omitempty" doc:"The decision: scalars only"`
}

type bulkDoc struct {
	Flags        []itemDoc   `json:"flags"`
	EventStreams []streamDoc `json:"eventStreams,omitempty" doc:"The streams that announce changes"`
}

type streamDoc struct {
	Type               string `json:"type" enum:"sse"`
	URL                string `json:"url" doc:"Has a ticket that is valid for one to two hours"`
	InactivityDelaySec int    `json:"inactivityDelaySec"`
}

const about = "OpenFeature Remote Evaluation Protocol 0.3. Errors about a flag are `{key, errorCode, errorDetails}`. Errors about the " +
	"caller are `application/problem+json`, as on other routes. "

// asker is the customer and the member that a context names.
type asker struct{ customer, member string }

// failure is an error in the form of the protocol.
type failure struct {
	code   string // OpenFeature's error code
	status int    // the HTTP status; 0 is 400
	detail string
}

func (e *failure) Error() string { return e.detail }

// Config is what the door needs. Every field must be set, unless it says
// otherwise.
type Config struct {
	Live   *live.Live
	Decide *decide.Service
	Auth   *auth.Service // of the tickets of change streams
	// PublicURL is scheme and host of the address that clients use, without a path.
	// Without it, answers name no change stream.
	PublicURL string
	// Origins are the origins whose pages may call from a browser (CORS); nil is
	// none.
	Origins []string
	Log     *slog.Logger // nil is silent
}

// OFREP is the handlers of the protocol. It is safe for concurrent use.
type OFREP struct {
	Config
	streams streams
}

// crossOrigin lets pages of other sites read the answers. Config.Origins says which
// sites.
var crossOrigin = []door.Header{{Name: "Cross-Origin-Resource-Policy", Value: []string{"cross-origin"}}}

// Register adds the routes of OFREP to a door.
func Register(d *door.Door, c Config) *OFREP {
	o := &OFREP{Config: c}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d.Handle(door.Route{Pattern: "POST /ofrep/v1/evaluate/flags/{key}", Perm: auth.PermFlags, BareKey: true, Headers: crossOrigin,
		Origins: o.Origins, Errors: failures, ID: "ofrepEvaluate", Tag: "OpenFeature", Summary: "One flag for one customer",
		Text: about + "404 with FLAG_NOT_FOUND if the feature does not exist.", Request: inDoc{}, Response: flagDoc{},
		Params: []*huma.Param{{Name: "key", In: "path", Required: true, Description: "A feature, or `<feature>.allowed`",
			Schema: &huma.Schema{Type: huma.TypeString}}},
		Example: `{"context":{"targetingKey":"acme"}}`,
		Answer: `{"key":"sso","value":true,"reason":"TARGETING_MATCH","variant":"on","metadata":{"reason":"granted",
			"allowed":true,"kind":"switch","plan":"pro@1","revision":17}}`}, o.flag)
	d.Handle(door.Route{Pattern: "POST /ofrep/v1/evaluate/flags", Perm: auth.PermFlags, BareKey: true, Headers: crossOrigin,
		Origins: o.Origins, Errors: failures, ID: "ofrepEvaluateAll", Tag: "OpenFeature", Summary: "Every flag for one customer",
		Text: about, Request: inDoc{}, Response: bulkDoc{}, Cached: true,
		Sends: []door.Sent{{Name: "ETag", Description: "Changes when a flag of the customer changes"}},
		Params: []*huma.Param{
			{Name: "flagConfigEtag", In: "query", Description: "The etag of a change event. The answer includes that change",
				Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "flagConfigLastModified", In: "query", Description: "The lastModified of a change event. It is ignored",
				Schema: &huma.Schema{Type: huma.TypeString}},
		},
		Example: `{"context":{"targetingKey":"acme","member":"ann"}}`,
		Answer: `{"flags":[{"key":"sso","value":true,"reason":"TARGETING_MATCH","variant":"on","metadata":{"reason":"granted",
			"allowed":true,"kind":"switch","plan":"pro@1"}}],"eventStreams":[{"type":"sse",
			"url":"https://usher.example.com/ofrep/v1/events?ticket=…",
			"inactivityDelaySec":120}]}`}, o.bulk)
	o.eventsRoutes(d)
	return o
}

func (o *OFREP) flag(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	key := r.PathValue("key")
	ask, err := read(r, c, s)
	if err != nil {
		fail(w, c, key, err)
		return
	}
	feature, yes := key, false
	f := o.Live.Book(c.Env).Features[key]
	if base, ok := strings.CutSuffix(key, dotAllowed); f == nil && ok {
		if f = o.Live.Book(c.Env).Features[base]; f != nil && f.Kind != usher.Switch {
			feature, yes = base, true
		} else {
			f = nil
		}
	}
	if f == nil {
		fail(w, c, key, &failure{"FLAG_NOT_FOUND", http.StatusNotFound, "there is no feature " + door.Clip(key)})
		return
	}
	d, err := o.Decide.Check(r.Context(), c.Env, decide.CheckQuery{Customer: ask.customer, Member: ask.member, Feature: feature}, &s.Buf)
	if err == nil && !yes {
		err = unanswerable(&d)
	}
	if err != nil {
		fail(w, c, key, err)
		return
	}
	c.Decided(&d)
	s.Out = appendFlag(s.Out[:0], &d, yes, true, d.Revision)
	c.Write(w, s.Out)
}

func (o *OFREP) bulk(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	ask, err := read(r, c, s)
	if err == nil {
		o.catchUp(r, c.Env)
		s.Out, err = o.appendBulk(s.Out[:0], r, c, ask)
	}
	if err != nil {
		fail(w, c, "", err)
		return
	}
	sum := sha256.Sum256(s.Out)
	etag := `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
	if !c.Unchanged(w, r, etag) {
		c.Write(w, s.Out)
	}
}

// appendBulk appends the answer with all flags. It contains no revisions, so that it
// changes only if something changes for the caller, and its ETag with it.
func (o *OFREP) appendBulk(b []byte, r *http.Request, c *door.Call, ask asker) ([]byte, error) {
	list, err := o.everything(r, c.Env, ask)
	if err != nil {
		return b, err
	}
	b = append(b, `{"flags":[`...)
	features := o.Live.Book(c.Env).Features
	first := true
	for i := range list {
		d := &list[i]
		if d.Kind == "" {
			continue // the feature was removed from the catalogue meanwhile
		}
		c.Decided(d)
		for _, yes := range []bool{false, true} {
			if yes && (d.Kind == usher.Switch || features[d.Feature+dotAllowed] != nil) {
				continue
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			if err := unanswerable(d); err != nil && !yes {
				b = appendFailure(b, d.Feature, "GENERAL", err.Error())
				continue
			}
			b = appendFlag(b, d, yes, false, 0)
		}
	}
	b = append(b, ']')
	if url := o.streamURL(r, c, ask, fingerprint(list)); url != "" {
		b = door.AppendText(append(b, `,"eventStreams":[{"type":"sse","url":`...), url)
		b = strconv.AppendInt(append(b, `,"inactivityDelaySec":`...), inactivitySeconds, 10)
		b = append(b, '}', ']')
	}
	return append(b, '}'), nil
}

// everything returns the decision about every feature, by key.
func (o *OFREP) everything(r *http.Request, env usher.Environment, ask asker) ([]usher.Decision, error) {
	keys := slices.Sorted(maps.Keys(o.Live.Book(env).Features))
	qs := make([]decide.CheckQuery, len(keys))
	for i, key := range keys {
		qs[i] = decide.CheckQuery{Customer: ask.customer, Member: ask.member, Feature: key}
	}
	return o.Decide.Batch(r.Context(), env, qs, 0)
}

// catchUp reads the change that an event announced, if this node has not read it yet.
// The revision that the caller sends is only a hint: nothing depends on its truth.
func (o *OFREP) catchUp(r *http.Request, env usher.Environment) {
	said := r.URL.Query().Get("flagConfigEtag")
	if _, revision, ok := strings.Cut(strings.Trim(said, `"`), "."); ok {
		if n, err := strconv.ParseInt(revision, 10, 64); err == nil && n > o.Live.Revision(env) {
			if err := o.Live.Refresh(r.Context(), env); err != nil {
				o.Log.Debug("a change that an event announced could not be read yet", "error", err)
			}
		}
	}
}

// read reads the body. Unknown members of the context are ignored, as the protocol
// demands.
func read(r *http.Request, c *door.Call, s *door.Scratch) (ask asker, err error) {
	if s.In, err = c.ReadAll(r, s.In); err != nil {
		return ask, err
	}
	s.R.Reset(s.In)
	rd := &s.R
	var wrong, missing *failure
	missing = &failure{code: "TARGETING_KEY_MISSING", detail: "context.targetingKey is required: the customer"}
	id := func(location string) string {
		if rd.Peek() != '"' {
			if got := rd.Kind(); rd.Peek() != 0 {
				wrong = &failure{code: "INVALID_CONTEXT", detail: location + " must be a string, got " + got}
			}
			rd.Skip()
			return ""
		}
		v := string(rd.Text())
		if v != "" {
			if err := usher.CheckID(location, v); err != nil && wrong == nil {
				wrong = &failure{code: "INVALID_CONTEXT", detail: err.Error()}
			}
		}
		return v
	}
	rd.Object("body", func(name []byte) {
		if string(name) != "context" || rd.Peek() == 'n' {
			rd.Skip()
			return
		}
		if rd.Peek() != '{' {
			if got := rd.Kind(); rd.Peek() != 0 {
				wrong = &failure{code: "INVALID_CONTEXT", detail: "context must be an object, got " + got}
			}
			rd.Skip()
			return
		}
		rd.Object("body.context", func(name []byte) {
			switch string(name) {
			case "targetingKey":
				ask.customer = id("context.targetingKey")
			case "member":
				// A member that is null is not "no member": that would be
				// answered for the whole customer.
				if ask.member = id("context.member"); ask.member == "" && wrong == nil {
					wrong = &failure{code: "INVALID_CONTEXT", detail: "context.member must not be empty"}
				}
			default:
				rd.Skip()
			}
		})
	})
	if err := rd.Err(); err != nil {
		return ask, &failure{code: "PARSE_ERROR", detail: c.Problem(err).Detail}
	}
	switch {
	case wrong != nil:
		return ask, wrong
	case ask.customer == "":
		return ask, missing
	}
	c.About = ask.customer
	return ask, ofCustomer(&c.Identity, ask.customer)
}

// ofCustomer returns Forbidden if the key belongs to another customer.
func ofCustomer(i *auth.Identity, customer string) error {
	if i.Customer != "" && i.Customer != customer {
		return door.NewProblem(usher.Forbidden, "this key belongs to another customer than the targeting key", nil)
	}
	return nil
}

// unanswerable returns the error of a flag that has no value: a config whose state
// cannot be read. The error makes the SDK use the caller's default.
func unanswerable(d *usher.Decision) error {
	if d.Kind == usher.Config && d.Value == nil && d.Reason == usher.ReasonUnavailable {
		return &usher.Error{Code: usher.Unavailable, Detail: "the state that decides cannot be read now; try again"}
	}
	return nil
}

// fail answers with err in the protocol's form. Errors about the caller are problems, as
// on other routes.
func fail(w http.ResponseWriter, c *door.Call, key string, err error) {
	code, status, detail := "GENERAL", 0, ""
	if e, ok := err.(*failure); ok {
		code, status, detail = e.code, max(e.status, http.StatusBadRequest), e.detail
	} else {
		p := c.Problem(err)
		switch p.Status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
			c.Fail(w, err)
			return
		}
		if p.Code == usher.UnsupportedMedia || p.Code == usher.TooLarge || p.Code == usher.Invalid {
			code = "PARSE_ERROR"
		}
		p.SetHeaders(w.Header())
		status, detail = p.Status, p.Detail
	}
	body := appendFailure(nil, key, code, detail)
	h := w.Header()
	h["Content-Type"] = door.JSONType
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.Status = status
	w.WriteHeader(status)
	w.Write(body)
}

func appendFailure(b []byte, key, code, detail string) []byte {
	b = append(b, '{')
	if key != "" {
		b = append(door.AppendText(append(b, `"key":`...), key), ',')
	}
	b = append(append(append(b, `"errorCode":"`...), code...), `","errorDetails":`...)
	return append(door.AppendText(b, detail), '}')
}

// dotAllowed ends the key of the flag that says yes or no.
const dotAllowed = ".allowed"

// appendFlag appends one flag; yes says that it is the `.allowed` flag. There is always
// a value, because several SDKs take a missing value for an error.
func appendFlag(b []byte, d *usher.Decision, yes, revision bool, n int64) []byte {
	key, variant := d.Feature, ""
	if yes {
		key += dotAllowed
	}
	b = door.AppendText(append(b, `{"key":`...), key)
	b = append(b, `,"value":`...)
	switch {
	case yes || d.Kind == usher.Switch:
		b = strconv.AppendBool(b, d.Allowed)
		variant = "off"
		if d.Allowed {
			variant = "on"
		}
	case d.Kind == usher.Config:
		b = appendConfig(b, d)
		if d.Type == usher.TypeEnum && d.Value != nil {
			variant = d.Value.Text
		}
	default:
		b = append(strconv.AppendBool(append(b, `{"allowed":`...), d.Allowed), `,"reason":`...)
		b = appendNumbers(door.AppendText(b, string(d.Reason)), d)
		if d.Window != nil && d.Counted {
			open := byte('{')
			for _, end := range []struct {
				name string
				at   time.Time
			}{{"start", d.Window.Start}, {"end", d.Window.End}} {
				if end.at.IsZero() {
					continue
				}
				if open == '{' {
					b = append(b, `,"window":`...)
				}
				b = door.AppendText(append(b, open), end.name)
				b = appendInstant(append(b, ':'), end.at)
				open = ','
			}
			if open == ',' {
				b = append(b, '}')
			}
		}
		b = append(b, '}')
	}
	reason := "TARGETING_MATCH"
	switch {
	case d.Degraded:
		reason = "UNKNOWN"
	case !d.Allowed:
		reason = "DISABLED"
	}
	b = append(append(append(b, `,"reason":"`...), reason...), '"')
	if variant == "" && d.Plan != (usher.Ref{}) {
		variant = d.Plan.String()
	}
	if variant != "" {
		b = door.AppendText(append(b, `,"variant":`...), variant)
	}
	b = door.AppendText(append(b, `,"metadata":{"reason":`...), string(d.Reason))
	b = strconv.AppendBool(append(b, `,"allowed":`...), d.Allowed)
	b = door.AppendText(append(b, `,"kind":`...), string(d.Kind))
	if d.Plan != (usher.Ref{}) {
		b = door.AppendText(append(b, `,"plan":`...), d.Plan.String())
	}
	b = appendNumbers(b, d)
	if d.Window != nil && d.Counted && !d.Window.End.IsZero() {
		b = appendInstant(append(b, `,"resets_at":`...), d.Window.End)
	}
	if d.Degraded {
		b = append(b, `,"degraded":true`...)
	}
	if !d.AsOf.IsZero() {
		b = appendInstant(append(b, `,"as_of":`...), d.AsOf)
	}
	if revision {
		b = strconv.AppendInt(append(b, `,"revision":`...), n, 10)
	}
	return append(b, '}', '}')
}

// appendNumbers appends `,"limit":…` and the other numbers, as a decision shows them.
func appendNumbers(b []byte, d *usher.Decision) []byte {
	if !d.Counted {
		return b
	}
	if !d.Unlimited {
		b = usher.AppendQuantity(append(b, `,"limit":`...), d.Limit, d.Precision)
	}
	b = usher.AppendQuantity(append(b, `,"used":`...), d.Used, d.Precision)
	b = usher.AppendQuantity(append(b, `,"reserved":`...), d.Reserved, d.Precision)
	if !d.Unlimited {
		b = usher.AppendQuantity(append(b, `,"remaining":`...), d.Remaining, d.Precision)
	}
	b = strconv.AppendBool(append(b, `,"unlimited":`...), d.Unlimited)
	return usher.AppendQuantity(append(b, `,"overage":`...), d.Overage, d.Precision)
}

// appendConfig appends a config's value by its type, a decimal as a number. If it is
// denied, the value is the zero of the type. Without a value the SDK would use the
// caller's default, which may give what was denied.
func appendConfig(b []byte, d *usher.Decision) []byte {
	var v usher.Value
	if d.Value != nil {
		v = *d.Value
	}
	switch d.Type {
	case usher.TypeInteger:
		return strconv.AppendInt(b, v.Int, 10)
	case usher.TypeDecimal:
		return append(b, usher.FormatQuantity(v.Int, d.Precision)...)
	case usher.TypeList:
		b = append(b, '[')
		for i, item := range v.List {
			if i > 0 {
				b = append(b, ',')
			}
			b = door.AppendText(b, item)
		}
		return append(b, ']')
	}
	return door.AppendText(b, v.Text)
}

func appendInstant(b []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}
