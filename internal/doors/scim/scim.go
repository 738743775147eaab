// Package scim is the door for identity providers: SCIM 2.0 (RFC 7643, RFC 7644), for
// the one customer whose key is used. It reads and writes documents; package directory
// decides what may change.
package scim

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/scim"
)

const (
	root = "/scim/v2"
	// defaultPage and maxPage are how many resources an answer has by default, and at
	// most.
	defaultPage = 100
	maxPage     = 1000
	// maxScan is how many users or groups are looked at for a filter that no index
	// answers.
	maxScan = 50_000
	// maxJoin is the same for filters on groups, members and roles, which are
	// read one by one.
	maxJoin = 5_000
	// maxBody is large enough for a group with all of its members.
	maxBody = 4 << 20
)

var (
	mediaType = []string{"application/scim+json"}
	accept    = []string{"application/scim+json", "application/json"}
)

// userDoc and the types below describe SCIM's documents for the OpenAPI document.
type userDoc struct {
	_          struct{}       `additionalProperties:"true"` // what else SCIM's schemas have
	Schemas    []string       `json:"schemas,omitempty"`
	ID         string         `json:"id,omitempty" doc:"Given by the server"`
	ExternalID string         `json:"externalId,omitempty"`
	UserName   string         `json:"userName"`
	Active     bool           `json:"active,omitempty"`
	Roles      []roleDoc      `json:"roles,omitempty"`
	Groups     []valueDoc     `json:"groups,omitempty" doc:"Read only"`
	Meta       map[string]any `json:"meta,omitempty" doc:"Read only"`
}

type groupDoc struct {
	_           struct{}       `additionalProperties:"true"` // what else SCIM's schemas have
	Schemas     []string       `json:"schemas,omitempty"`
	ID          string         `json:"id,omitempty" doc:"Given by the server"`
	ExternalID  string         `json:"externalId,omitempty"`
	DisplayName string         `json:"displayName"`
	Members     []valueDoc     `json:"members,omitempty"`
	Meta        map[string]any `json:"meta,omitempty" doc:"Read only"`
}

type valueDoc struct {
	_       struct{} `additionalProperties:"true"` // such as primary
	Value   string   `json:"value"`
	Ref     string   `json:"$ref,omitempty"`
	Display string   `json:"display,omitempty"`
	Type    string   `json:"type,omitempty"`
}

// roleDoc is a role of a user.
type roleDoc struct{}

// Schema returns that a role is its key, or an object with its key.
func (roleDoc) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{{Type: huma.TypeString}, r.Schema(reflect.TypeFor[valueDoc](), true, "")}}
}

type patchDoc struct {
	Schemas    []string  `json:"schemas,omitempty"`
	Operations []stepDoc `json:"Operations"`
}

type stepDoc struct {
	Op    string `json:"op" doc:"add, remove or replace, in any case of letters"`
	Path  string `json:"path,omitempty"`
	Value any    `json:"value,omitempty"`
}

type listDoc struct {
	Schemas      []string         `json:"schemas"`
	TotalResults int              `json:"totalResults"`
	StartIndex   int              `json:"startIndex"`
	ItemsPerPage int              `json:"itemsPerPage"`
	Resources    []map[string]any `json:"Resources"`
}

// Config is what the door needs. Every field must be set, unless it says
// otherwise.
type Config struct {
	Live      *live.Live
	Decide    *decide.Service
	Directory *directory.Service // nil: every call is Unavailable
	// NewID makes the ids of members and groups; nil is usher.NewID with the time
	// now.
	NewID func(prefix string) string
	// PublicURL is scheme and host of the address that clients use, without a path.
	PublicURL string
}

// service is the handlers of SCIM. It is safe for concurrent use.
type service struct {
	Config
	state
}

func everything(all []scim.Document) *answer {
	return &answer{body: scim.List(all, 1, len(all))}
}

func (s *call) named(all []scim.Document, what string) (*answer, error) {
	for _, d := range all {
		if d["id"] == s.id {
			return &answer{body: d}, nil
		}
	}
	return nil, usher.Errorf(usher.NotFound, "there is no %s %s", what, door.Clip(s.id))
}

// state is what the door remembers between calls.
type state struct {
	mu     sync.Mutex
	places map[place]spot
}

// place is where a page of a list begins, and spot is the id before it at a revision of
// the directory. SCIM pages by number and the database by id, so the door remembers
// where the next page begins.
type place struct {
	env      usher.Environment
	customer string
	kind     string
	index    int
}

type spot struct {
	revision int64
	after    string
}

// spot finds the id before a page's first resource, if it is known.
func (st *state) spot(p place, revision int64) (after string, ok bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	s, ok := st.places[p]
	return s.after, ok && s.revision == revision
}

func (st *state) keep(p place, s spot) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.places == nil || len(st.places) >= 10_000 {
		st.places = map[place]spot{}
	}
	st.places[p] = s
}

// call is one request of an identity provider.
type call struct {
	*service
	*door.Call
	r        *http.Request
	ctx      context.Context
	id       string // of the path
	dir      directory.Reader
	revision int64  // of the directory, read before anything else of it
	text     []byte // the body, after it was read
	base     string // the beginning of addresses: PublicURL and the root path
}

// answer is the answer to a call; a nil body is an answer without a body.
type answer struct {
	status   int // 0 is 200, or 204 without a body
	body     any
	location string
	etag     string
}

// handler returns the HTTP handler of a route.
func (v *service) handler(h func(*call) (*answer, error)) door.Handler {
	return func(w http.ResponseWriter, r *http.Request, c *door.Call) {
		s := &call{service: v, Call: c, r: r, ctx: r.Context(), id: r.PathValue("id"), base: v.PublicURL + root}
		out, err := s.serve(h)
		var body []byte
		if err == nil && out.body != nil {
			body, err = door.Marshal(out.body)
		}
		if err != nil {
			c.Fail(w, err)
			return
		}
		header := w.Header()
		if out.etag != "" {
			header.Set("ETag", out.etag)
		}
		if out.location != "" {
			header.Set("Location", out.location)
		}
		c.Status = cmp.Or(out.status, http.StatusOK)
		if out.body == nil && out.status == 0 {
			c.Status = http.StatusNoContent
		}
		if r.Method == http.MethodGet && out.etag != "" && hasTag(r.Header.Get("If-None-Match"), out.etag) {
			c.Status, body = http.StatusNotModified, nil
		}
		if body != nil {
			header["Content-Type"] = mediaType
			header.Set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(c.Status)
		w.Write(body)
	}
}

func (s *call) serve(h func(*call) (*answer, error)) (*answer, error) {
	if s.Customer == "" {
		return nil, usher.Errorf(usher.Forbidden,
			"SCIM needs a key of one customer, whose users it manages; this key does not belong to a customer")
	}
	if s.Directory == nil {
		return nil, usher.Errorf(usher.Unavailable, "this server has no member directory")
	}
	s.dir = s.Directory.Read(s.Env, s.Customer)
	var out *answer
	run := func() (err error) {
		// Read first: apply refuses a change that was computed from an older directory than
		// this.
		if s.revision, err = s.dir.Revision(s.ctx); usher.ErrorCode(err) == usher.NotFound {
			return usher.Errorf(usher.NotFound, "the customer of this key does not exist")
		} else if err != nil {
			return err
		}
		out, err = h(s)
		return err
	}
	if s.r.Method == http.MethodGet {
		err := run()
		return out, err
	}
	// Read the body before the change starts: a slow client must not hold up other
	// changes of the customer.
	if err := s.readBody(); err != nil {
		return nil, err
	}
	err := s.Live.Change(s.ctx, s.Env, s.Customer, run)
	return out, err
}

// hasTag reports whether a list of ETags contains etag; "*" is any.
func hasTag(list, etag string) bool {
	for e := range strings.SplitSeq(list, ",") {
		e = strings.TrimSpace(e)
		if e == "*" || e != "" && strings.TrimPrefix(e, "W/") == strings.TrimPrefix(etag, "W/") {
			return true
		}
	}
	return false
}

// precondition refuses a change if the resource has another version than the client
// saw.
func (s *call) precondition(doc scim.Document) error {
	want := strings.Join(s.r.Header.Values("If-Match"), ",")
	if want == "" || hasTag(want, version(doc)) {
		return nil
	}
	return usher.Errorf(usher.PreconditionFailed, "the resource has changed: its version is %s", version(doc))
}

// version returns the ETag of a resource: a hash of everything in it but meta.
func version(doc scim.Document) string {
	b := make(scim.Document, len(doc))
	for name, v := range doc {
		// meta has the version itself, and times that change without a change of content.
		if name != "meta" {
			b[name] = v
		}
	}
	text, _ := json.Marshal(b) // only JSON values: it cannot fail
	sum := sha256.Sum256(text)
	return `W/"` + hex.EncodeToString(sum[:8]) + `"`
}

// body reads the request's JSON object.
func (s *call) body() (scim.Document, error) { return scim.Decode(s.text) }

func (s *call) readBody() (err error) {
	if s.r.Method == http.MethodDelete {
		return nil
	}
	if s.text, err = s.ReadAll(s.r, nil); usher.ErrorCode(err) == usher.Invalid {
		err = &scim.Error{Kind: scim.InvalidSyntax, Detail: err.Error()}
	}
	return err
}

// apply makes one change of the directory, as a whole or not at all. If the directory has
// changed since the request read it, it returns store.ErrStale, and live.Change computes
// the request again.
func (s *call) apply(action, object string, c directory.Change) error {
	c.Action, c.Object = action, object
	_, err := s.Directory.ApplyAt(s.ctx, s.Env, s.By(), s.Customer, c, s.revision)
	return err
}

// response returns a problem as an error of SCIM. If a rule of the directory forbids the
// change, it is a 400: a 409 would tell the identity provider that the user exists
// already.
func response(p *door.Problem, err error) scim.ErrorResponse {
	var e *scim.Error
	var of *usher.Error
	if errors.As(err, &e) {
		p.Status = http.StatusBadRequest
		if e.Kind == scim.Uniqueness {
			p.Status = http.StatusConflict
		}
		return scim.Respond(p.Status, e.Kind, e.Detail)
	}
	var kind scim.Kind
	detail := p.Detail
	if errors.As(err, &of) && len(of.Problems) > 0 { // their places are in the change, which the caller does not know
		var words []string
		for _, problem := range of.Problems[:min(len(of.Problems), 10)] {
			words = append(words, problem.Message)
		}
		detail = strings.Join(words, "; ")
	}
	switch p.Code {
	case usher.Invalid:
		kind = scim.InvalidValue
	case usher.Refused:
		p.Status, kind = http.StatusBadRequest, scim.InvalidValue
	case usher.InUse:
		p.Status = http.StatusConflict
	}
	return scim.Respond(p.Status, kind, detail)
}

// fail answers with err in the form of SCIM's errors.
func fail(w http.ResponseWriter, c *door.Call, err error) {
	var own *scim.Error
	var p *door.Problem
	if errors.As(err, &own) {
		p = door.NewProblem(usher.Invalid, own.Detail, nil)
	} else {
		p = c.Problem(err)
	}
	body := response(p, err)
	p.Send(w, c, mediaType, body)
}

// query is the query string of a list.
type query struct {
	filter *scim.Filter
	show   scim.Projection
	start  int // from 1
	count  int // 0: no resources, only the total
}

func (s *call) query(t *scim.Type) (q query, err error) {
	values := s.r.URL.Query()
	if q.show, err = scim.ParseProjection(t, values.Get("attributes"), values.Get("excludedAttributes")); err != nil {
		return q, err
	}
	if text := values.Get("filter"); text != "" {
		if q.filter, err = scim.ParseFilter(t, text); err != nil {
			return q, err
		}
	}
	number := func(name string, otherwise int) int {
		text := values.Get(name)
		if text == "" || err != nil {
			return otherwise
		}
		n, wrong := strconv.Atoi(text)
		if wrong != nil {
			err = &scim.Error{Kind: scim.InvalidValue, Detail: name + " must be a whole number, got " + door.Clip(text)}
		}
		return n
	}
	q.start = max(number("startIndex", 1), 1)
	q.count = min(max(number("count", defaultPage), 0), maxPage)
	return q, err
}

// page returns the answer with one page of what was found.
func (q *query) page(all []scim.Document) *answer {
	from := min(q.start-1, len(all))
	to := min(from+q.count, len(all))
	shown := make([]scim.Document, 0, to-from)
	for _, d := range all[from:to] {
		shown = append(shown, q.show.Of(d))
	}
	return &answer{body: scim.List(shown, q.start, len(all))}
}

// unknowable reports whether a filter compares with a text that no resource can have:
// no stored text contains U+0000, and the database would fail on it.
func unknowable(f *scim.Filter, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		text, ok := f.Equals(name)
		return ok && strings.ContainsRune(text, 0)
	})
}

// tooMany returns the error for a filter that would have to look at all resources.
func tooMany(what string, most int) error {
	return &scim.Error{Kind: scim.TooMany,
		Detail: fmt.Sprintf("there are more than %d %s, and no index answers this filter: compare id, externalId, or the name with eq", most,
			what)}
}

// scanned reads a whole list for a filter. It returns tooMany if there are more than
// most.
func scanned[T any](what string, most int, next func(after string, limit int) ([]T, error), id func(*T) string) ([]T, error) {
	var all []T
	for after := ""; ; {
		page, err := next(after, 1000)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(all) > most {
			return nil, tooMany(what, most)
		}
		if len(page) < 1000 {
			return all, nil
		}
		after = id(&page[len(page)-1])
	}
}

// paged reads one page of a list for a query without a filter.
func paged[T any](s *call, kind string, q query, next func(after string, limit int) ([]T, error), id func(*T) string) ([]T, error) {
	if q.count == 0 {
		return nil, nil
	}
	at := place{s.Env, s.Customer, kind, q.start}
	after, known := s.state.spot(at, s.revision)
	if !known {
		for skip := q.start - 1; skip > 0; {
			page, err := next(after, min(skip, 1000))
			if err != nil || len(page) == 0 {
				return nil, err
			}
			skip -= len(page)
			after = id(&page[len(page)-1])
		}
	}
	page, err := next(after, q.count)
	if err == nil && len(page) == q.count {
		at.index += q.count
		s.keep(at, spot{s.revision, id(&page[len(page)-1])})
	}
	return page, err
}

// meta adds the attribute meta. An incomplete resource (whole is false) gets no version.
func (s *call) meta(doc scim.Document, kind, endpoint, id string, created string, properties map[string]any, whole bool) {
	m := scim.Document{"resourceType": kind, "created": created, "lastModified": created, "location": s.base + endpoint + "/" + pathEscape(id)}
	if stored, ok := properties["meta"].(map[string]any); ok {
		if at, ok := stored["lastModified"].(string); ok {
			m["lastModified"] = at
		}
	}
	if whole {
		m["version"] = version(doc)
	}
	doc["meta"] = m
}

// urnsOf returns the URNs of a resource's extensions, sorted.
func urnsOf(doc scim.Document) (all []any) {
	var list []string
	for name := range doc {
		if strings.HasPrefix(strings.ToLower(name), "urn:") {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	for _, name := range list {
		all = append(all, name)
	}
	return all
}
