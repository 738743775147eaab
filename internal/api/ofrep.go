package api

import (
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/decide"
)

// The OpenFeature Remote Evaluation Protocol 0.3: every OpenFeature SDK is a
// client of usher. A flag is a feature; `<feature>.allowed` is the yes or no of
// one that is not a switch, unless a feature has that key.

type ofrepIn struct {
	Context struct {
		TargetingKey string `json:"targetingKey" doc:"The customer"`
		Member       string `json:"member,omitempty" doc:"Who of the customer asks"`
	} `json:"context" doc:"What else it holds is ignored"`
}

type ofrepFlag struct {
	Key      string         `json:"key"`
	Value    any            `json:"value" doc:"A switch and .allowed: a boolean. A config: its value, or its type's zero where it is denied. What is counted: an object with the decision's numbers"`
	Reason   string         `json:"reason" enum:"TARGETING_MATCH,DISABLED,UNKNOWN" doc:"A yes, a no, or an answer from memory while the database is away"`
	Variant  string         `json:"variant,omitempty" doc:"on or off; an enum's value; or the plan"`
	Metadata map[string]any `json:"metadata,omitempty" doc:"The decision: scalars only"`
}

type ofrepBulk struct {
	Flags        []ofrepFlag   `json:"flags"`
	EventStreams []ofrepStream `json:"eventStreams,omitempty" doc:"Where changes are told"`
}

type ofrepStream struct {
	Type               string `json:"type" enum:"sse"`
	URL                string `json:"url" doc:"Holds a ticket that is good for one to two hours"`
	InactivityDelaySec int    `json:"inactivityDelaySec"`
}

const ofrepText = "OpenFeature Remote Evaluation Protocol 0.3. What cannot be answered is `{key, errorCode, errorDetails}`; a key that is not valid or may not do this is an error as everywhere. "

var (
	ofrepFlagDoc = doc{ID: "ofrepEvaluate", Tag: "OpenFeature", Summary: "One flag for one customer",
		Text: ofrepText + "404 with FLAG_NOT_FOUND where there is no such feature.", request: ofrepIn{}, response: ofrepFlag{},
		params: []*huma.Param{{Name: "key", In: "path", Required: true, Description: "A feature, or `<feature>.allowed`", Schema: &huma.Schema{Type: huma.TypeString}}}}
	ofrepBulkDoc = doc{ID: "ofrepEvaluateAll", Tag: "OpenFeature", Summary: "Every flag for one customer",
		Text: ofrepText + "304 where If-None-Match names the ETag of an answer that has not changed.", request: ofrepIn{}, response: ofrepBulk{},
		params: []*huma.Param{
			{Name: "If-None-Match", In: "header", Description: "ETags of answers that the caller has", Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "flagConfigEtag", In: "query", Description: "What a change event said; the answer is not from before it", Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "flagConfigLastModified", In: "query", Description: "What a change event said; not needed", Schema: &huma.Schema{Type: huma.TypeString}},
		}}
)

// ofrepAsk is what a context says.
type ofrepAsk struct{ customer, member string }

// ofrepError is an error as the protocol names it.
type ofrepError struct {
	code   string // of OpenFeature
	status int    // of HTTP; 0 is 400
	detail string
}

func (e *ofrepError) Error() string { return e.detail }

func (a *API) ofrepFlag(w http.ResponseWriter, r *http.Request, c *call) {
	s := a.borrow()
	defer a.giveBack(s)
	key := r.PathValue("key")
	ask, err := a.readOFREP(r, c, s)
	if err != nil {
		a.ofrepFail(w, c, key, err)
		return
	}
	feature, yes := key, false
	f := a.Live.Book(c.Env).Features[key]
	if base, ok := strings.CutSuffix(key, dotAllowed); f == nil && ok {
		if f = a.Live.Book(c.Env).Features[base]; f != nil && f.Kind != usher.Switch {
			feature, yes = base, true
		} else {
			f = nil
		}
	}
	if f == nil {
		a.ofrepFail(w, c, key, &ofrepError{"FLAG_NOT_FOUND", http.StatusNotFound, "there is no feature " + clip(key)})
		return
	}
	d, err := a.Decide.Check(r.Context(), c.Env, decide.CheckQuery{Customer: ask.customer, Member: ask.member, Feature: feature}, &s.buf)
	if err == nil && !yes {
		err = unanswerable(&d)
	}
	if err != nil {
		a.ofrepFail(w, c, key, err)
		return
	}
	a.metrics.decided(&d)
	s.out = appendFlag(s.out[:0], &d, yes, true, d.Revision)
	a.write(w, c, s.out)
}

func (a *API) ofrepBulk(w http.ResponseWriter, r *http.Request, c *call) {
	s := a.borrow()
	defer a.giveBack(s)
	ask, err := a.readOFREP(r, c, s)
	if err == nil {
		a.catchUp(r, c.Env)
		s.out, err = a.appendBulk(s.out[:0], r, c, ask)
	}
	if err != nil {
		a.ofrepFail(w, c, "", err)
		return
	}
	sum := sha256.Sum256(s.out)
	etag := `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
	w.Header()["Etag"] = []string{etag}
	if matches(r.Header["If-None-Match"], etag) {
		c.status = http.StatusNotModified
		w.WriteHeader(http.StatusNotModified)
		return
	}
	a.write(w, c, s.out)
}

// appendBulk writes the whole answer. Revisions are not in it: it changes only
// when something changes for who asks.
func (a *API) appendBulk(b []byte, r *http.Request, c *call, ask ofrepAsk) ([]byte, error) {
	list, err := a.everything(r, c.Env, ask)
	if err != nil {
		return b, err
	}
	b = append(b, `{"flags":[`...)
	features := a.Live.Book(c.Env).Features
	first := true
	for i := range list {
		d := &list[i]
		if d.Kind == "" {
			continue // the catalogue changed meanwhile
		}
		a.metrics.decided(d)
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
	if url := a.streamURL(r, c, ask, fingerprint(list)); url != "" {
		b = appendText(append(b, `,"eventStreams":[{"type":"sse","url":`...), url)
		b = strconv.AppendInt(append(b, `,"inactivityDelaySec":`...), inactivitySeconds, 10)
		b = append(b, '}', ']')
	}
	return append(b, '}'), nil
}

// everything is the decision of every feature, by key.
func (a *API) everything(r *http.Request, env usher.Environment, ask ofrepAsk) ([]usher.Decision, error) {
	keys := slices.Sorted(maps.Keys(a.Live.Book(env).Features))
	qs := make([]decide.CheckQuery, len(keys))
	for i, key := range keys {
		qs[i] = decide.CheckQuery{Customer: ask.customer, Member: ask.member, Feature: key}
	}
	return a.Decide.Batch(r.Context(), env, qs, 0)
}

// catchUp takes in the change that an event told of, which this node may not
// have read yet. What the caller says is only a hint.
func (a *API) catchUp(r *http.Request, env usher.Environment) {
	said := r.URL.Query().Get("flagConfigEtag")
	if _, revision, ok := strings.Cut(strings.Trim(said, `"`), "."); ok {
		if n, err := strconv.ParseInt(revision, 10, 64); err == nil && n > a.Live.Revision(env) {
			if err := a.Live.Refresh(r.Context(), env); err != nil {
				a.log.Debug("a change that an event told of could not be read yet", "error", err)
			}
		}
	}
}

// matches reports whether an If-None-Match header names etag. The comparison is
// the weak one (RFC 9110 13.1.2).
func matches(header []string, etag string) bool {
	for _, line := range header {
		for item := range strings.SplitSeq(line, ",") {
			if item = strings.TrimSpace(item); item == "*" || strings.TrimPrefix(item, "W/") == etag {
				return true
			}
		}
	}
	return false
}

// readOFREP reads the body: a context is open, so what is not known there is
// read over.
func (a *API) readOFREP(r *http.Request, c *call, s *scratch) (ask ofrepAsk, err error) {
	if s.in, err = a.readAll(r, c.route, s.in); err != nil {
		return ask, err
	}
	s.r.Reset(s.in)
	rd := &s.r
	var wrong, missing *ofrepError
	missing = &ofrepError{code: "TARGETING_KEY_MISSING", detail: "context.targetingKey must be there: the customer"}
	id := func(location string) string {
		if rd.Peek() != '"' {
			if got := rd.Kind(); rd.Peek() != 0 {
				wrong = &ofrepError{code: "INVALID_CONTEXT", detail: location + " must be a string, got " + got}
			}
			rd.Skip()
			return ""
		}
		v := string(rd.Text())
		if v != "" {
			if err := usher.CheckID(location, v); err != nil && wrong == nil {
				wrong = &ofrepError{code: "INVALID_CONTEXT", detail: err.Error()}
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
				wrong = &ofrepError{code: "INVALID_CONTEXT", detail: "context must be an object, got " + got}
			}
			rd.Skip()
			return
		}
		rd.Object("body.context", func(name []byte) {
			switch string(name) {
			case "targetingKey":
				ask.customer = id("context.targetingKey")
			case "member":
				if rd.Peek() == 'n' {
					rd.Skip()
				} else if ask.member = id("context.member"); ask.member == "" && wrong == nil {
					wrong = &ofrepError{code: "INVALID_CONTEXT", detail: "context.member must not be empty"}
				}
			default:
				rd.Skip()
			}
		})
	})
	if err := rd.err(); err != nil {
		return ask, &ofrepError{code: "PARSE_ERROR", detail: err.Error()}
	}
	switch {
	case wrong != nil:
		return ask, wrong
	case ask.customer == "":
		return ask, missing
	}
	return ask, ofCustomer(&c.Identity, ask.customer)
}

// ofCustomer returns Forbidden where a key is of another customer.
func ofCustomer(i *auth.Identity, customer string) error {
	if i.Customer != "" && i.Customer != customer {
		return newProblem(usher.Forbidden, "this key is for another customer than the targeting key names", nil)
	}
	return nil
}

// unanswerable is the error of a flag that has no value: a config while its
// state cannot be read. The caller's default is the better answer then.
func unanswerable(d *usher.Decision) error {
	if d.Kind == usher.Config && d.Value == nil && d.Reason == usher.ReasonUnavailable {
		return &usher.Error{Code: usher.Unavailable, Detail: "the state that decides cannot be read now, try again"}
	}
	return nil
}

// ofrepFail answers with err in the protocol's form. What is about the caller is
// the same as everywhere.
func (a *API) ofrepFail(w http.ResponseWriter, c *call, key string, err error) {
	code, status, detail := "GENERAL", 0, ""
	if e, ok := err.(*ofrepError); ok {
		code, status, detail = e.code, max(e.status, http.StatusBadRequest), e.detail
	} else {
		p := a.problem(c, err)
		switch p.Status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
			a.fail(w, c, err)
			return
		}
		if p.Code == usher.UnsupportedMedia || p.Code == usher.TooLarge || p.Code == usher.Invalid {
			code = "PARSE_ERROR"
		}
		p.headers(w.Header())
		status, detail = p.Status, p.Detail
	}
	body := appendFailure(nil, key, code, detail)
	h := w.Header()
	h["Content-Type"] = jsonType
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.status = status
	w.WriteHeader(status)
	w.Write(body)
}

func appendFailure(b []byte, key, code, detail string) []byte {
	b = append(b, '{')
	if key != "" {
		b = append(appendText(append(b, `"key":`...), key), ',')
	}
	b = append(append(append(b, `"errorCode":"`...), code...), `","errorDetails":`...)
	return append(appendText(b, detail), '}')
}

// dotAllowed ends the key of the flag that says yes or no.
const dotAllowed = ".allowed"

// appendFlag writes one flag; yes is the flag that says yes or no. A value is
// always there: several SDKs take a missing one for an error.
func appendFlag(b []byte, d *usher.Decision, yes, revision bool, n int64) []byte {
	key, variant := d.Feature, ""
	if yes {
		key += dotAllowed
	}
	b = appendText(append(b, `{"key":`...), key)
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
		b = appendNumbers(appendText(b, string(d.Reason)), d)
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
				b = appendText(append(b, open), end.name)
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
		b = appendText(append(b, `,"variant":`...), variant)
	}
	b = appendText(append(b, `,"metadata":{"reason":`...), string(d.Reason))
	b = strconv.AppendBool(append(b, `,"allowed":`...), d.Allowed)
	b = appendText(append(b, `,"kind":`...), string(d.Kind))
	if d.Plan != (usher.Ref{}) {
		b = appendText(append(b, `,"plan":`...), d.Plan.String())
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

// appendNumbers writes `,"limit":…` and so on, as a decision shows them.
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

// appendConfig writes a config's value by its type, a decimal as a number. A
// denied one is the zero of its type, never the caller's default: that may give
// what was denied.
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
			b = appendText(b, item)
		}
		return append(b, ']')
	}
	return appendText(b, v.Text)
}

func appendInstant(b []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

// appendText writes a JSON string.
func appendText(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e || s[i] == '"' || s[i] == '\\' {
			text, err := marshal(s)
			if err != nil { // cannot be: a string can be written
				return append(b, '"', '"')
			}
			return append(b, text...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// crossOrigin answers for browsers on pages of the origins that may call OFREP,
// and nothing else. Whether the request is answered by that.
func (a *API) crossOrigin(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if !slices.Contains(a.CORSOrigins, origin) {
		return false
	}
	// Never with credentials: a cookie of this host must not count here.
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "ETag, Retry-After, X-Request-ID")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, If-None-Match, Last-Event-ID, X-Request-ID")
	h.Set("Access-Control-Max-Age", "3600")
	w.WriteHeader(http.StatusNoContent)
	return true
}
