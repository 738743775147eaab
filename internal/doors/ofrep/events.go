package ofrep

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

// Change events for OFREP: a stream per browser that says only "ask again"
// (server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html).

const (
	inactivitySeconds = 120                    // after this time a hidden page closes its stream
	heartbeat         = 15 * time.Second       // keeps proxies from cutting a silent stream
	lookEvery         = time.Second            // how soon a revoked key is noticed
	gatherFor         = 100 * time.Millisecond // changes within this time make one event
	maxStreams        = 10_000                 // of a process
	maxStreamsPerKey  = 2_000
)

// streams are the open change streams.
type streams struct {
	mu     sync.Mutex
	closed bool
	ending chan struct{}
	open   int
	byKey  map[string]int
}

// enter counts one more stream of a key. The caller must call leave when the stream
// ends. ending is closed when the server stops.
func (s *streams) enter(key string) (ending <-chan struct{}, leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending == nil {
		s.ending, s.byKey = make(chan struct{}), map[string]int{}
	}
	switch {
	case s.closed:
		return nil, nil, &usher.Error{Code: usher.Unavailable, Detail: "the server is stopping; try again", RetryAfter: time.Second}
	case s.open >= maxStreams || s.byKey[key] >= maxStreamsPerKey:
		return nil, nil, &usher.Error{Code: usher.RateLimited, RetryAfter: time.Minute,
			Detail: fmt.Sprintf("too many change streams are open: at most %d for one key, and %d on one server", maxStreamsPerKey, maxStreams)}
	}
	s.open++
	s.byKey[key]++
	return s.ending, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		if s.byKey[key]--; s.byKey[key] == 0 {
			delete(s.byKey, key)
		}
	}, nil
}

// eventsRoutes registers the stream that tells a client when flags may have
// changed, so that it asks again then and need not poll.
func (o *OFREP) eventsRoutes(d *door.Door) {
	d.Handle(door.Route{Pattern: "GET /ofrep/v1/events", Perm: auth.PermFlags, BareKey: true, Ticket: true, Headers: crossOrigin,
		Origins: o.Origins, Errors: failures, ID: "ofrepEvents", Tag: "OpenFeature", Summary: "Tells when to ask for the flags again",
		Text: "Server-sent events `{\"type\":\"refetchEvaluation\",\"etag\":…,\"lastModified\":…}` when a flag changes for the customer: " +
			"its value, its limit, or whether it is allowed. Use alone sends no event. The address in `eventStreams` of the bulk answer " +
			"has a ticket and needs no key.",
		Produces: "text/event-stream", Response: "",
		Sends: []door.Sent{{Name: "X-Accel-Buffering", Description: "no, so that proxies do not buffer the stream"}},
		Params: []*huma.Param{
			{Name: "ticket", In: "query", Description: "From the bulk answer; instead of a key", Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "targetingKey", In: "query", Description: "The customer, if a key is sent", Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "member", In: "query", Description: "The member of the customer, if a key is sent", Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "Last-Event-ID", In: "header", Description: "The last event that the caller has", Schema: &huma.Schema{Type: huma.TypeString}},
		}}, o.events)
}

// EndStreams ends the open change streams and refuses new ones, so that a server that
// stops does not wait for them.
func (o *OFREP) EndStreams() {
	s := &o.streams
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.ending == nil {
		s.ending = make(chan struct{})
	}
	close(s.ending)
}

const eventsPath = "/ofrep/v1/events"

// streamURL returns the address of a change stream for the caller; "" if there is none,
// because only a caller with a key gets a ticket. The address stays the same for an
// hour if nothing changes, so that the bulk answer can keep its ETag.
func (o *OFREP) streamURL(r *http.Request, c *door.Call, ask asker, seen string) string {
	if o.PublicURL == "" {
		return ""
	}
	ticket, err := o.Auth.Ticket(r.Context(), &c.Identity, strings.Join([]string{"ofrep", ask.customer, ask.member, seen}, "\x00"))
	if err != nil {
		return ""
	}
	return o.PublicURL + eventsPath + "?ticket=" + url.QueryEscape(ticket)
}

// fingerprint returns a short text that changes when an answer changes: a value, a
// limit, a yes or no. Use alone does not change it.
func fingerprint(list []usher.Decision) string {
	h := sha256.New()
	var b []byte
	for i := range list {
		d := list[i]
		d.Used, d.Reserved, d.Remaining, d.Overage, d.Excess = 0, 0, 0, 0, 0
		d.OverageLeft, d.Credits, d.ValidUntil = 0, nil, time.Time{}
		d.Revision, d.AsOf, d.Degraded, d.Window, d.Allowances, d.Caps, d.Sources = 0, time.Time{}, false, nil, nil, nil, nil
		b = d.AppendJSON(b[:0])
		h.Write(append(b, '\n'))
	}
	var sum [sha256.Size]byte
	return base64.RawURLEncoding.EncodeToString(h.Sum(sum[:0])[:12])
}

// listener is the reader of a change stream.
type listener struct {
	ask   asker
	seen  string // the fingerprint of the answers that it has
	until time.Time
	// still returns an error once the key of the stream is no longer valid.
	still func(context.Context) error
}

func (o *OFREP) events(w http.ResponseWriter, r *http.Request, c *door.Call) {
	l, err := o.listener(r, c)
	if err != nil {
		fail(w, c, "", err)
		return
	}
	ending, leave, err := o.streams.enter(c.Actor.ID)
	if err != nil {
		fail(w, c, "", err)
		return
	}
	defer leave()
	changed, stop := o.Live.Watch(c.Env)
	defer stop()
	// The time limits of other routes would end a stream after seconds.
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Time{})
	h := w.Header()
	h["Content-Type"] = []string{"text/event-stream"}
	h["Cache-Control"] = door.NoStore
	h["X-Accel-Buffering"] = []string{"no"} // proxies must not buffer events
	w.WriteHeader(http.StatusOK)
	began := true
	c.Wrote = &began
	// A client that does not read is cut off, so that it does not hold up this goroutine.
	send := func(text string) bool {
		control.SetWriteDeadline(time.Now().Add(heartbeat + 10*time.Second))
		_, err := w.Write([]byte(text))
		return err == nil && control.Flush() == nil
	}
	if !send("retry: 2000\n\n") {
		return
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	gather := time.NewTimer(0) // look at once: something may have changed since the caller asked for the flags
	defer gather.Stop()
	gathers := true
	var quiet time.Duration
	for {
		select {
		case <-r.Context().Done():
			return
		case <-ending:
			return
		case <-changed:
			if !gathers { // a timer that runs is not reset: changes without a pause must not delay the event for ever
				gathers = true
				gather.Reset(gatherFor)
			}
			continue
		case <-look.C:
			if !time.Now().Before(l.until) && !l.until.IsZero() {
				return
			}
			// While the database is away the key cannot be looked up; the stream goes on with
			// what was known.
			if err := l.still(r.Context()); err != nil && usher.ErrorCode(err) != usher.Unavailable {
				return
			}
			if quiet += lookEvery; quiet < heartbeat {
				continue
			}
			quiet = 0
			if !send(":\n\n") {
				return
			}
			// This also finds what changes by itself, with time or use.
		case <-gather.C:
			gathers = false
		}
		list, err := o.everything(r, c.Env, l.ask)
		if err != nil {
			continue // the event is sent once the flags can be answered
		}
		now := fingerprint(list)
		if now == l.seen || degraded(list) {
			continue
		}
		first := l.seen == ""
		l.seen = now
		if first {
			continue // the first look: there is nothing to compare with
		}
		// A node that is asked for the event's revision must know at least what the answers
		// were made of. A customer who was loaded just now may be newer than the revision
		// that this node has read, so it reads that again.
		if err := o.Live.Refresh(r.Context(), c.Env); err != nil {
			o.Log.Debug("the revision of an event could not be read; it may name an earlier one", "error", err)
		}
		etag := now + "." + strconv.FormatInt(o.Live.Revision(c.Env), 10)
		if !send("id: " + etag + "\nevent: message\ndata: {\"type\":\"refetchEvaluation\",\"etag\":\"\\\"" + etag + "\\\"\",\"lastModified\":" +
			strconv.FormatInt(o.Live.Now(c.Env).Unix(), 10) + "}\n\n") {
			return
		}
	}
}

// degraded reports whether an answer is from memory because the database is away. Such
// an answer is not a change, so it sends no event.
func degraded(list []usher.Decision) bool {
	for i := range list {
		if list[i].Degraded {
			return true
		}
	}
	return false
}

// listener reads who opens a stream: from a ticket, or from a key and the query.
func (o *OFREP) listener(r *http.Request, c *door.Call) (l listener, err error) {
	known := []string{"targetingKey", "member"}
	byTicket := r.URL.Query().Has("ticket")
	if byTicket {
		known = []string{"ticket"}
	}
	query, err := door.Parameters(r, known...)
	if err != nil {
		return l, err
	}
	if byTicket {
		var scope string
		if c.Identity, scope, l.until, err = o.Auth.Redeem(r.Context(), query["ticket"]); err != nil {
			return l, err
		}
		parts := strings.Split(scope, "\x00")
		if !c.Allows(c.Route.Perm) || len(parts) != 4 || parts[0] != "ofrep" {
			return l, usher.Errorf(usher.Forbidden, "this ticket is for something else")
		}
		l.ask, l.seen = asker{parts[1], parts[2]}, parts[3]
		l.still = func(ctx context.Context) error {
			_, _, _, err := o.Auth.Redeem(ctx, query["ticket"])
			return err
		}
	} else {
		l.ask = asker{query["targetingKey"], query["member"]}
		for name, id := range map[string]string{"targetingKey": l.ask.customer, "member": l.ask.member} {
			if name == "member" && id == "" {
				continue
			}
			if err := usher.CheckID("", id); err != nil {
				return l, door.Invalid("query."+name, "%s", strings.TrimSpace(err.Error()))
			}
		}
		header := c.Credentials
		l.still = func(ctx context.Context) error {
			_, err := o.Auth.Authenticate(ctx, header)
			return err
		}
	}
	// The id of an event begins with the fingerprint of the answers that its reader has.
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		l.seen, _, _ = strings.Cut(id, ".")
	}
	return l, ofCustomer(&c.Identity, l.ask.customer)
}
