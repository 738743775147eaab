package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/usage"
)

const (
	eventType  = "application/cloudevents+json"
	eventsType = "application/cloudevents-batch+json"
)

type eventIn struct {
	_           struct{}       `additionalProperties:"true"` // extension attributes of CloudEvents
	SpecVersion string         `json:"specversion" enum:"1.0"`
	ID          string         `json:"id" doc:"Identifies the event together with source; never used for another event"`
	Source      string         `json:"source"`
	Type        string         `json:"type" doc:"The type of event, which meters select by"`
	Subject     string         `json:"subject" doc:"The customer"`
	Time        string         `json:"time,omitempty" format:"date-time" doc:"When it happened; default now"`
	Data        map[string]any `json:"data,omitempty"`
}

// ceHeader documents an attribute of an event in binary mode.
func ceHeader(name, text string) *huma.Param {
	return &huma.Param{Name: "ce-" + name, In: "header", Description: "In binary mode. " + text, Schema: &huma.Schema{Type: huma.TypeString}}
}

// eventsRoutes registers reported use, as CloudEvents. An event says what has
// already happened, so it is always counted, also beyond a limit: the part that
// nothing covers becomes excess, which bills and alerts see. A bad event never
// fails its neighbours in the batch, and one that is sent again is a duplicate,
// by subject, source and id.
func (a *api) eventsRoutes(d *door.Door) {
	d.Handle(door.Route{Pattern: "POST /v1/events", Perm: auth.PermIngest,
		ID: "ingestEvents", Tag: "Use", Summary: "Record reported use: CloudEvents 1.0", MaxBody: 8 << 20,
		Text: "One event as `application/cloudevents+json`, an array of at most 10,000 as `application/cloudevents-batch+json`, or one in " +
			"binary mode: `ce-*` headers and the data as `application/json`. " +
			"`source` and `id` name an event: sent again, it is a duplicate. A bad event never fails its neighbours. An event of a type that no " +
			"meter reads is accepted, and counted in `unmatched`. Answers after the commit.",
		Accept: []string{eventType, eventsType, "application/json"}, Request: eventIn{}, Response: usher.IngestResult{},
		Requests: map[string]any{eventsType: []eventIn{}, "application/json": new(any)},
		Params: []*huma.Param{
			ceHeader("specversion", "1.0"), ceHeader("id", "With the source, the name of the event"), ceHeader("source", "Where it happened"),
			ceHeader("type", "What meters select by"), ceHeader("subject", "The customer"), ceHeader("time", "When it happened; default now"),
		},
		Example: `{"specversion":"1.0","id":"e1","source":"gateway","type":"api.request","subject":"acme","time":"2026-03-10T12:00:00Z",
			"data":{"bytes":512}}`,
		Answer: `{"accepted":1,"duplicates":0,"rejected":[]}`}, a.events)
	door.Register(d, door.Route{Pattern: "GET /v1/events/unmatched", Perm: auth.PermUsageRead,
		ID: "listUnmatchedEvents", Tag: "Use", Summary: "Types of events that were accepted although no meter read them",
		Text:   "By type: the 1,000 that came last. Such an event counts for no feature, also after a meter reads its type.",
		Answer: `{"data":[{"type":"api.requets","count":12,"last_seen":"2026-03-10T12:00:00Z","source":"gateway"}]}`}, a.unmatched)
}

func (a *api) events(w http.ResponseWriter, r *http.Request, c *door.Call) {
	b, rejected, err := readEvents(r, c)
	if err != nil {
		c.Fail(w, err)
		return
	}
	result, err := a.Usage.Ingest(r.Context(), c.Env, b.events)
	if err != nil {
		c.Fail(w, err)
		return
	}
	for _, x := range result.Rejected { // its indices are of those that were sent on
		x.Index = b.index[x.Index]
		rejected = append(rejected, x)
	}
	slices.SortFunc(rejected, func(x, y usher.Rejection) int { return cmp.Compare(x.Index, y.Index) })
	result.Rejected = rejected
	a.received.WithLabelValues("accepted").Add(float64(result.Accepted))
	a.received.WithLabelValues("unmatched").Add(float64(result.Unmatched))
	a.received.WithLabelValues("duplicate").Add(float64(result.Duplicates))
	for _, x := range rejected {
		a.received.WithLabelValues(x.Code).Inc()
	}
	body, err := door.Marshal(result)
	if err != nil {
		c.Fail(w, err)
		return
	}
	c.Write(w, body)
}

func (a *api) unmatched(ctx context.Context, c *door.Call, in *door.PageIn) (*door.ListOut[usher.UnmatchedType], error) {
	after, err := door.Cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	data, next, err := a.Usage.Unmatched(ctx, c.Env, after, in.Limit)
	return door.Listed(data, next), err
}

// eventBatch is events that are well formed, and where each stood.
type eventBatch struct {
	events []usher.Event
	index  []int
}

// readEvents reads a request in any of the three modes. What is not JSON at all
// fails it; an invalid event is rejected on its own.
func readEvents(r *http.Request, c *door.Call) (b eventBatch, rejected []usher.Rejection, err error) {
	rejected = []usher.Rejection{}
	binary := len(r.Header["Ce-Specversion"]) > 0 || len(r.Header["Ce-Id"]) > 0
	accept := []string{eventType, eventsType}
	if binary {
		accept = door.JSONType
		if r.ContentLength == 0 && len(r.Header["Content-Type"]) == 0 {
			accept = nil // no data, so no type of it
		}
	}
	// The events keep parts of the body for longer than this call, where the
	// client goes away before the commit: no borrowed memory here.
	var body []byte
	if accept != nil {
		if body, err = c.ReadBody(r, accept, nil); err != nil {
			return b, nil, err
		}
	}
	p := &door.Reader{}
	p.Reset(body)
	p.Soft = true
	add := func(e usher.Event, i int) {
		// A soft reader goes on after a problem; what it notes belongs to this event alone.
		if len(p.Problems) > 0 {
			x := p.Problems[0]
			rejected = append(rejected, usher.Rejection{Index: i, Code: usher.RejectInvalid,
				Message: strings.TrimSpace(x.Location + " " + x.Message)})
			p.Problems = nil
			return
		}
		b.events = append(b.events, e)
		b.index = append(b.index, i)
	}
	switch {
	case binary:
		var e usher.Event
		if len(bytes.TrimSpace(body)) > 0 {
			e.Data = readData(p)
		}
		if p.Broken() {
			return b, nil, p.Err()
		}
		if p.End(); p.Broken() {
			return b, nil, p.Err()
		}
		readHeaders(p, r.Header, &e)
		add(e, 0)
		return b, rejected, nil
	case door.IsType(r, eventsType):
		if p.Peek() != '[' {
			p.Wrong("body", "an array of events")
			return b, nil, p.Err()
		}
		n := 0
		p.Array("body", func(i int) {
			// Read on to the end, so that the error can say how many there are.
			if n++; n > usage.MaxEvents {
				p.Skip()
				p.Problems = clearUnlessBroken(p)
				return
			}
			e := readEvent(p)
			if !p.Broken() {
				add(e, i)
			}
		})
		if n > usage.MaxEvents && !p.Broken() {
			return b, nil, usher.Errorf(usher.TooLarge, "a request takes at most %d events, this one has %d", usage.MaxEvents, n)
		}
	default:
		if p.Peek() != '{' {
			p.Wrong("body", "an event")
			return b, nil, p.Err()
		}
		if e := readEvent(p); !p.Broken() {
			add(e, 0)
		}
	}
	return b, rejected, p.Err()
}

func clearUnlessBroken(p *door.Reader) []usher.Problem {
	if p.Broken() {
		return p.Problems
	}
	return nil
}

// readEvent reads one event in structured mode. Attributes that usher does not
// know are extensions and of no concern.
func readEvent(r *door.Reader) (e usher.Event) {
	if r.Peek() != '{' {
		r.Wrong("", "an event")
		return e
	}
	version := ""
	r.Object("", func(name []byte) {
		switch string(name) {
		case "specversion":
			version = readAttribute(r, "specversion")
		case "id":
			e.ID = readAttribute(r, "id")
		case "source":
			e.Source = readAttribute(r, "source")
		case "type":
			e.Type = readAttribute(r, "type")
		case "subject":
			e.Subject = readAttribute(r, "subject")
		case "time":
			if !r.Null() {
				e.Time = r.Time("time")
			}
		case "data":
			e.Data = readData(r)
		case "data_base64":
			if r.Skip(); !r.Broken() {
				r.Note("data_base64", "is not read: send data, a JSON object")
			}
		default:
			r.Skip()
		}
	})
	checkAttributes(r, version, &e)
	return e
}

// readAttribute reads a required attribute; null is none.
func readAttribute(r *door.Reader, name string) string {
	if r.Null() {
		return ""
	}
	return r.String(name)
}

// checkAttributes notes what is wrong with the required ones.
func checkAttributes(r *door.Reader, version string, e *usher.Event) {
	if r.Broken() || len(r.Problems) > 0 {
		return
	}
	if version != "1.0" {
		r.Note("specversion", `must be "1.0", got %s`, door.Clip(version))
	}
	r.ID("id", e.ID)
	r.ID("source", e.Source)
	r.ID("type", e.Type)
	r.ID("subject", e.Subject)
}

// readData reads an event's data: an object, or null for none.
func readData(r *door.Reader) json.RawMessage {
	switch {
	case r.Null():
		return nil
	case r.Peek() == '{':
		return r.Raw()
	}
	r.Wrong("data", "an object")
	return nil
}

// readHeaders reads an event's attributes in binary mode.
func readHeaders(r *door.Reader, h http.Header, e *usher.Event) {
	get := func(name string) string {
		list := h[http.CanonicalHeaderKey("ce-"+name)]
		if len(list) == 0 {
			return ""
		}
		value, ok := headerText(list[0])
		if len(list) > 1 || !ok {
			r.Note("ce-"+name, "must be given once, percent-encoded")
		}
		return value
	}
	version := get("specversion")
	e.ID, e.Source, e.Type, e.Subject = get("id"), get("source"), get("type"), get("subject")
	if text := get("time"); text != "" {
		t, err := usher.ParseTime(text)
		if err != nil {
			r.Note("ce-time", "%s", err)
		}
		e.Time = t
	}
	checkAttributes(r, version, e)
}

// headerText undoes the quoting and the percent-encoding of the HTTP binding.
func headerText(s string) (string, bool) {
	if n := len(s); n >= 2 && s[0] == '"' && s[n-1] == '"' {
		var b strings.Builder
		for i := 1; i < n-1; i++ {
			if s[i] == '\\' && i+1 < n-1 {
				i++
			}
			b.WriteByte(s[i])
		}
		s = b.String()
	}
	if !strings.Contains(s, "%") {
		return s, utf8.ValidString(s)
	}
	text, err := url.PathUnescape(s)
	return text, err == nil && utf8.ValidString(text)
}
