package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/scim"
	"github.com/usher-sh/usher/internal/store"
)

// The door for identity providers: SCIM 2.0 (RFC 7643, RFC 7644), for the one
// customer whose key is used.

const (
	scimRoot = "/scim/v2"
	scimTag  = "SCIM"
	// scimPage and scimMaxPage are how many resources an answer has where nobody
	// says, and at most.
	scimPage    = 100
	scimMaxPage = 1000
	// scimMaxScan is how many users or groups a filter looks through that no
	// index answers.
	scimMaxScan = 50_000
	// scimMaxJoin is the same for filters on groups, members and roles, which are
	// read one by one.
	scimMaxJoin = 5_000
	// scimMaxBody lets a group come with all of its members.
	scimMaxBody = 4 << 20
)

var (
	scimType   = []string{"application/scim+json"}
	scimAccept = []string{"application/scim+json", "application/json"}
)

// scimUserDoc and its neighbours are what the OpenAPI document says.
type scimUserDoc struct {
	Schemas    []string       `json:"schemas"`
	ID         string         `json:"id,omitempty" doc:"Given by the server"`
	ExternalID string         `json:"externalId,omitempty"`
	UserName   string         `json:"userName"`
	Active     bool           `json:"active,omitempty"`
	Roles      []scimValueDoc `json:"roles,omitempty"`
	Groups     []scimValueDoc `json:"groups,omitempty" doc:"Read only"`
	Meta       map[string]any `json:"meta,omitempty" doc:"Read only"`
}

type scimGroupDoc struct {
	Schemas     []string       `json:"schemas"`
	ID          string         `json:"id,omitempty" doc:"Given by the server"`
	ExternalID  string         `json:"externalId,omitempty"`
	DisplayName string         `json:"displayName"`
	Members     []scimValueDoc `json:"members,omitempty"`
	Meta        map[string]any `json:"meta,omitempty" doc:"Read only"`
}

type scimValueDoc struct {
	Value   string `json:"value"`
	Display string `json:"display,omitempty"`
	Type    string `json:"type,omitempty"`
}

type scimPatchDoc struct {
	Schemas    []string      `json:"schemas"`
	Operations []scimStepDoc `json:"Operations"`
}

type scimStepDoc struct {
	Op    string `json:"op" doc:"add, remove or replace, in any case of letters"`
	Path  string `json:"path,omitempty"`
	Value any    `json:"value,omitempty"`
}

type scimListDoc struct {
	Schemas      []string         `json:"schemas"`
	TotalResults int              `json:"totalResults"`
	StartIndex   int              `json:"startIndex"`
	ItemsPerPage int              `json:"itemsPerPage"`
	Resources    []map[string]any `json:"Resources"`
}

// scimRoutes are the rows of the route table that speak SCIM.
func (a *API) scimRoutes() {
	about := doc{Tag: scimTag, MaxBody: scimMaxBody, produces: scimType[0], errors: scim.ErrorResponse{}, response: map[string]any{}}
	projection := []*huma.Param{queryParam("attributes", "Which attributes to answer with, separated by commas", false), queryParam("excludedAttributes", "Which not to", false)}
	paging := append([]*huma.Param{queryParam("filter", `Such as userName eq "ann@example.com"`, false), queryParam("startIndex", "Of the first resource, from 1", false),
		queryParam("count", "How many at most: default 100, up to 1000", false)}, projection...)
	row := func(pattern string, d doc, id, summary, text string, h func(*scimCall) (*scimAnswer, error)) {
		d.ID, d.Summary, d.Text = id, summary, text
		if strings.Contains(pattern, "{id}") {
			d.params = append([]*huma.Param{pathParam("id", "Its id")}, d.params...)
		}
		handle(a, pattern, auth.PermSCIM, d, a.scim(h))
	}
	with := func(change func(*doc)) doc {
		d := about
		change(&d)
		return d
	}
	listed := with(func(d *doc) { d.response, d.params = scimListDoc{}, paging })
	gone := with(func(d *doc) { d.response, d.Status = nil, http.StatusNoContent })
	user := func(status int, body any) doc {
		return with(func(d *doc) {
			d.Status, d.response, d.params, d.request = status, scimUserDoc{}, projection, body
			if body != nil {
				d.Accept = scimAccept
			}
		})
	}
	group := func(status int, body any) doc {
		d := user(status, body)
		d.response = scimGroupDoc{}
		return d
	}
	row("GET /scim/v2/Users", listed, "scimListUsers", "The customer's users", "", (*scimCall).listUsers)
	row("POST /scim/v2/Users", user(http.StatusCreated, scimUserDoc{}), "scimCreateUser", "Make a user", "Its id is the externalId where that can be one and is free.", (*scimCall).createUser)
	row("GET /scim/v2/Users/{id}", user(0, nil), "scimGetUser", "A user", "", (*scimCall).getUser)
	row("PUT /scim/v2/Users/{id}", user(0, scimUserDoc{}), "scimPutUser", "Replace a user", "`active`, `externalId` and `roles` that are left out stay as they are.", (*scimCall).putUser)
	row("PATCH /scim/v2/Users/{id}", user(0, scimPatchDoc{}), "scimPatchUser", "Change a user", "All operations or none.", (*scimCall).patchUser)
	row("DELETE /scim/v2/Users/{id}", gone, "scimDeleteUser", "Delete a user", "Frees its seats, takes it out of its groups and erases what was known of it.", (*scimCall).deleteUser)
	row("GET /scim/v2/Groups", listed, "scimListGroups", "The customer's groups", "", (*scimCall).listGroups)
	row("POST /scim/v2/Groups", group(http.StatusCreated, scimGroupDoc{}), "scimCreateGroup", "Make a group", "", (*scimCall).createGroup)
	row("GET /scim/v2/Groups/{id}", group(0, nil), "scimGetGroup", "A group", "", (*scimCall).getGroup)
	row("PUT /scim/v2/Groups/{id}", group(0, scimGroupDoc{}), "scimPutGroup", "Replace a group", "`externalId` and `members` that are left out stay as they are.", (*scimCall).putGroup)
	patched := group(http.StatusNoContent, scimPatchDoc{})
	patched.response, patched.Also = nil, http.StatusOK
	row("PATCH /scim/v2/Groups/{id}", patched, "scimPatchGroup", "Change a group", "All operations or none. The answer has a body only where attributes are asked for.", (*scimCall).patchGroup)
	row("DELETE /scim/v2/Groups/{id}", gone, "scimDeleteGroup", "Delete a group", "Its members lose what it gave them.", (*scimCall).deleteGroup)
	row("GET /scim/v2/Roles", listed, "scimListRoles", "The roles that users can be given, with seat counts", "", (*scimCall).listRoles)
	row("GET /scim/v2/Roles/{id}", about, "scimGetRole", "A role", "", (*scimCall).getRole)
	row("GET /scim/v2/Entitlements", listed, "scimListEntitlements", "The switches and seats of the customer's plan, with counts", "", (*scimCall).listEntitlements)
	row("GET /scim/v2/Entitlements/{id}", about, "scimGetEntitlement", "An entitlement", "", (*scimCall).getEntitlement)
	row("GET /scim/v2/ServiceProviderConfig", about, "scimConfig", "What is supported", "", func(s *scimCall) (*scimAnswer, error) {
		return &scimAnswer{body: scim.ServiceProviderConfig(s.base, scimMaxPage)}, nil
	})
	about.response = scimListDoc{}
	row("GET /scim/v2/ResourceTypes", about, "scimListResourceTypes", "The types of resources", "", func(s *scimCall) (*scimAnswer, error) { return everything(scim.ResourceTypes(s.base)), nil })
	row("GET /scim/v2/Schemas", about, "scimListSchemas", "The schemas", "", func(s *scimCall) (*scimAnswer, error) { return everything(scim.Schemas(s.base)), nil })
	about.response = map[string]any{}
	row("GET /scim/v2/ResourceTypes/{id}", about, "scimGetResourceType", "A type of resources", "", func(s *scimCall) (*scimAnswer, error) {
		return s.named(scim.ResourceTypes(s.base), "resource type")
	})
	row("GET /scim/v2/Schemas/{id}", about, "scimGetSchema", "A schema, by its URN", "", func(s *scimCall) (*scimAnswer, error) { return s.named(scim.Schemas(s.base), "schema") })
}

func everything(all []scim.Document) *scimAnswer {
	return &scimAnswer{body: scim.List(all, 1, len(all))}
}

func (s *scimCall) named(all []scim.Document, what string) (*scimAnswer, error) {
	for _, d := range all {
		if d["id"] == s.id {
			return &scimAnswer{body: d}, nil
		}
	}
	return nil, usher.Errorf(usher.NotFound, "there is no %s %s", what, clip(s.id))
}

// scimState is what the door keeps between calls.
type scimState struct {
	seed maphash.Seed
	// locks order the changes of one customer: two at once must not take one user
	// name, nor undo each other's half.
	locks  [64]sync.Mutex
	mu     sync.Mutex
	places map[scimPlace]scimSpot
}

// scimPlace is where a page of a list begins, scimSpot the id before it as of a
// revision of the directory.
type scimPlace struct {
	env      usher.Environment
	customer string
	kind     string
	index    int
}

type scimSpot struct {
	revision int64
	after    string
}

func (st *scimState) lock(env usher.Environment, customer string) (unlock func()) {
	m := &st.locks[maphash.String(st.seed, string(env)+"/"+customer)%uint64(len(st.locks))]
	m.Lock()
	return m.Unlock
}

// spot finds the id before a page's first resource, if it is known.
func (st *scimState) spot(p scimPlace, revision int64) (after string, ok bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	s, ok := st.places[p]
	return s.after, ok && s.revision == revision
}

func (st *scimState) keep(p scimPlace, s scimSpot) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.places == nil || len(st.places) >= 10_000 {
		st.places = map[scimPlace]scimSpot{}
	}
	st.places[p] = s
}

// scimCall is one request of an identity provider.
type scimCall struct {
	*API
	*call
	r        *http.Request
	ctx      context.Context
	id       string // of the path
	dir      store.Directory
	revision int64  // of the directory, before anything of it was read
	text     []byte // the body, once it was read
	base     string // of addresses
}

// scimAnswer is what becomes of it. No body is an answer without one.
type scimAnswer struct {
	status   int // 0 is 200, or 204 without a body
	body     any
	location string
	etag     string
}

// scim makes a handler of what one route does.
func (a *API) scim(h func(*scimCall) (*scimAnswer, error)) func(http.ResponseWriter, *http.Request, *call) {
	return func(w http.ResponseWriter, r *http.Request, c *call) {
		s := &scimCall{API: a, call: c, r: r, ctx: r.Context(), id: r.PathValue("id"), base: a.PublicURL + scimRoot}
		out, err := s.serve(h)
		var body []byte
		if err == nil && out.body != nil {
			body, err = marshal(out.body)
		}
		if err != nil {
			a.fail(w, c, err)
			return
		}
		header := w.Header()
		if out.etag != "" {
			header.Set("ETag", out.etag)
		}
		if out.location != "" {
			header.Set("Location", out.location)
		}
		c.status = cmp.Or(out.status, http.StatusOK)
		if out.body == nil && out.status == 0 {
			c.status = http.StatusNoContent
		}
		if r.Method == http.MethodGet && out.etag != "" && hasTag(r.Header.Get("If-None-Match"), out.etag) {
			c.status, body = http.StatusNotModified, nil
		}
		if body != nil {
			header["Content-Type"] = scimType
			header.Set("Content-Length", strconv.Itoa(len(body)))
		}
		w.WriteHeader(c.status)
		w.Write(body)
	}
}

func (s *scimCall) serve(h func(*scimCall) (*scimAnswer, error)) (*scimAnswer, error) {
	if s.Customer == "" {
		return nil, usher.Errorf(usher.Forbidden, "SCIM takes a key that belongs to one customer, whose users it manages; this key belongs to none")
	}
	if s.Directory == nil {
		return nil, usher.Errorf(usher.Unavailable, "this server keeps no directory")
	}
	s.dir = s.Directory.Read(s.Env, s.Customer)
	for range scimAttempts {
		var err error
		if s.revision, err = s.dir.Revision(s.ctx); usher.ErrorCode(err) == usher.NotFound {
			return nil, usher.Errorf(usher.NotFound, "the customer that this key belongs to is not there")
		} else if err != nil {
			return nil, err
		}
		// What was read may have changed before it was written, on another node.
		if out, err := h(s); !errors.Is(err, store.ErrStale) {
			return out, err
		}
	}
	return nil, usher.Errorf(usher.Unavailable, "too many changes at once to the same customer's people; nothing was changed, try again")
}

// scimAttempts is how often a request is served anew because another change
// came between.
const scimAttempts = 20

// lock lets one request of a customer after the other change what it has read,
// on this node.
func (s *scimCall) lock() (unlock func()) {
	unlock = s.provisioning.lock(s.Env, s.Customer)
	if revision, err := s.dir.Revision(s.ctx); err == nil {
		s.revision = revision
	}
	return unlock
}

// hasTag reports whether a list of ETags has one; "*" is any.
func hasTag(list, etag string) bool {
	for e := range strings.SplitSeq(list, ",") {
		e = strings.TrimSpace(e)
		if e == "*" || e != "" && strings.TrimPrefix(e, "W/") == strings.TrimPrefix(etag, "W/") {
			return true
		}
	}
	return false
}

// precondition refuses a change of what is no longer as the client saw it.
func (s *scimCall) precondition(doc scim.Document) error {
	want := strings.Join(s.r.Header.Values("If-Match"), ",")
	if want == "" || hasTag(want, version(doc)) {
		return nil
	}
	return usher.Errorf(usher.PreconditionFailed, "it has changed: it is at %s", version(doc))
}

// version is the ETag of a resource: a hash of all that it says but meta.
func version(doc scim.Document) string {
	b := make(scim.Document, len(doc))
	for name, v := range doc {
		if name != "meta" {
			b[name] = v
		}
	}
	text, _ := json.Marshal(b) // of JSON: it cannot fail
	sum := sha256.Sum256(text)
	return `W/"` + hex.EncodeToString(sum[:8]) + `"`
}

// body reads the request's JSON object.
func (s *scimCall) body() (scim.Document, error) {
	var err error
	if s.text == nil {
		s.text, err = s.readAll(s.r, s.route, nil)
	}
	b := s.text
	if err != nil {
		if usher.ErrorCode(err) == usher.Invalid {
			err = &scim.Error{Kind: scim.InvalidSyntax, Detail: err.Error()}
		}
		return nil, err
	}
	return scim.Decode(b)
}

// apply makes one change of the directory, whole or not at all, from what the
// request has read.
func (s *scimCall) apply(action, object string, c directory.Change) error {
	c.Basis = &s.revision
	_, err := s.Directory.Apply(s.ctx, s.Env, directory.Meta{Actor: s.Actor, RequestID: s.RequestID, Action: action, Object: object}, s.Customer, c)
	return err
}

// scimError makes a problem SCIM's. What a rule of the directory forbids is a
// 400: a 409 would tell an identity provider that the user is there already.
func scimError(p *problem, err error) scim.ErrorResponse {
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
	if errors.As(err, &of) && len(of.Problems) > 0 { // where is a place in the change, which the caller does not know
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

// failSCIM answers a request below scimRoot with err.
func (a *API) failSCIM(w http.ResponseWriter, c *call, err error) {
	var own *scim.Error
	var p *problem
	if errors.As(err, &own) {
		p = newProblem(usher.Invalid, own.Detail, nil)
	} else {
		p = a.problem(c, err)
	}
	answer := scimError(p, err)
	body, err := marshal(answer)
	if err != nil { // cannot be: it is text
		a.log.Error("an error cannot be written", "request_id", c.RequestID, "error", err)
	}
	h := w.Header()
	p.headers(h)
	h["Content-Type"] = scimType
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.status = p.Status
	w.WriteHeader(p.Status)
	w.Write(body)
}

// scimQuery is what a list is asked for.
type scimQuery struct {
	filter *scim.Filter
	show   scim.Projection
	start  int // from 1
	count  int // 0 is none: only the total is wanted
}

func (s *scimCall) query(t *scim.Type) (q scimQuery, err error) {
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
			err = &scim.Error{Kind: scim.InvalidValue, Detail: name + " must be a whole number, got " + clip(text)}
		}
		return n
	}
	q.start = max(number("startIndex", 1), 1)
	q.count = min(max(number("count", scimPage), 0), scimMaxPage)
	return q, err
}

// page cuts a page out of what was found.
func (q *scimQuery) page(all []scim.Document) *scimAnswer {
	from := min(q.start-1, len(all))
	to := min(from+q.count, len(all))
	shown := make([]scim.Document, 0, to-from)
	for _, d := range all[from:to] {
		shown = append(shown, q.show.Of(d))
	}
	return &scimAnswer{body: scim.List(shown, q.start, len(all))}
}

// unknowable reports whether a filter looks for a text that nothing can have:
// texts with a NUL are not stored.
func unknowable(f *scim.Filter, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		text, ok := f.Equals(name)
		return ok && strings.ContainsRune(text, 0)
	})
}

// tooMany is the answer to a filter that would look through everybody.
func tooMany(what string, most int) error {
	return &scim.Error{Kind: scim.TooMany, Detail: fmt.Sprintf("there are more than %d %s, and no index answers this filter: compare id, externalId, or the name with eq", most, what)}
}

// scanned reads all of a list for a filter, up to most.
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

// paged reads the page of a list that a query without a filter asks for.
func paged[T any](s *scimCall, kind string, q scimQuery, next func(after string, limit int) ([]T, error), id func(*T) string) ([]T, error) {
	if q.count == 0 {
		return nil, nil
	}
	place := scimPlace{s.Env, s.Customer, kind, q.start}
	after, known := s.provisioning.spot(place, s.revision)
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
		place.index += q.count
		s.provisioning.keep(place, scimSpot{s.revision, id(&page[len(page)-1])})
	}
	return page, err
}

// meta is what the answer says about a resource; version only of a whole one.
func (s *scimCall) meta(doc scim.Document, kind, endpoint, id string, created string, properties map[string]any, whole bool) {
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

// urnsOf are the extensions that a resource has, sorted.
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
