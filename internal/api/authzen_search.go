package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/decide"
)

// sought is what a search is of.
type sought int

const (
	ofSubjects sought = iota
	ofResources
	ofActions
)

type (
	authzenPageIn struct {
		Token string `json:"token,omitempty" doc:"The next_token of the page before; the rest of the request is the same again"`
		Limit *int   `json:"limit,omitempty" minimum:"0" doc:"At most so many results, and at most 1,000; default 100"`
	}
	authzenPage struct {
		NextToken string `json:"next_token" doc:"Empty at the end"`
	}
	authzenKind struct {
		Type       string         `json:"type" minLength:"1" maxLength:"255"`
		ID         string         `json:"id,omitempty" doc:"Ignored"`
		Properties map[string]any `json:"properties,omitempty"`
	}
	authzenSubjectsIn struct {
		Subject  authzenKind     `json:"subject"`
		Action   authzenAction   `json:"action"`
		Resource authzenResource `json:"resource"`
		Context  map[string]any  `json:"context,omitempty"`
		Page     *authzenPageIn  `json:"page,omitempty"`
	}
	authzenResourcesIn struct {
		Subject  authzenSubject `json:"subject"`
		Action   authzenAction  `json:"action"`
		Resource authzenKind    `json:"resource"`
		Context  map[string]any `json:"context,omitempty"`
		Page     *authzenPageIn `json:"page,omitempty"`
	}
	authzenActionsIn struct {
		Subject  authzenSubject  `json:"subject"`
		Resource authzenResource `json:"resource"`
		Context  map[string]any  `json:"context,omitempty"`
		Page     *authzenPageIn  `json:"page,omitempty"`
	}
	authzenFound struct {
		Type string `json:"type"`
		ID   string `json:"id"`
	}
	authzenEntitiesOut struct {
		Results []authzenFound `json:"results"`
		Page    *authzenPage   `json:"page,omitempty"`
	}
	authzenActionsOut struct {
		Results []struct {
			Name string `json:"name"`
		} `json:"results"`
		Page *authzenPage `json:"page,omitempty"`
	}
)

const authzenSearchText = authzenText + "What is found is exactly what an evaluation allows, of what is registered. "

var (
	authzenSubjectsDoc = doc{ID: "authzenSearchSubjects", Tag: "AuthZEN", Summary: "Who may do this to this resource?", Text: authzenSearchText,
		request: authzenSubjectsIn{}, response: authzenEntitiesOut{}}
	authzenResourcesDoc = doc{ID: "authzenSearchResources", Tag: "AuthZEN", Summary: "To which resources of a type may this subject do this?", Text: authzenSearchText,
		request: authzenResourcesIn{}, response: authzenEntitiesOut{}}
	authzenActionsDoc = doc{ID: "authzenSearchActions", Tag: "AuthZEN", Summary: "What may this subject do to this resource?", Text: authzenSearchText,
		request: authzenActionsIn{}, response: authzenActionsOut{}}
)

// Bounds of a page.
const (
	defaultFound = 100
	maxFound     = 1000
)

// paging is what a request says about pages.
type paging struct {
	there bool
	limit int // -1: not said
	token string
}

// read reads the page of an AuthZEN search.
func (p *paging) read(r *reader) {
	p.there = true
	r.Object("page", func(name []byte) {
		switch string(name) {
		case "token":
			p.token = r.String("page.token")
		case "limit":
			p.limit = clampLimit(r.Whole("page.limit"))
		default:
			r.Skip()
		}
	})
}

func clampLimit(n int64) int { return int(min(n, maxFound)) }

// authzenSearch answers a search. The id of what is sought is ignored.
func (a *API) authzenSearch(of sought) func(http.ResponseWriter, *http.Request, *call) {
	return func(w http.ResponseWriter, r *http.Request, c *call) {
		s := a.borrow()
		defer a.giveBack(s)
		if _, err := a.readAuthZEN(r, c, s); err != nil {
			a.fail(w, c, err)
			return
		}
		var e evaluation
		p := paging{limit: -1}
		s.r.Object("", func(name []byte) {
			switch {
			case of == ofActions && string(name) == "action": // nothing of it is asked
				s.r.Skip()
			case e.member(&s.r, name):
			case string(name) == "page":
				p.read(&s.r)
			default:
				s.r.Skip()
			}
		})
		named := ""
		if !s.r.Broken() && len(s.r.Problems) == 0 {
			e.subject.needs(&s.r, subjectPlaces, of != ofSubjects)
			if of != ofActions {
				e.action.needs(&s.r, actionPlaces, true)
			}
			e.resource.needs(&s.r, resourcePlaces, of != ofResources)
			named = e.customer(&s.r)
		}
		s.r.front("body.", 0)
		err := s.r.err()
		var found decide.Page
		if err == nil {
			found, err = a.found(r.Context(), c, of, &e, named, &p)
		}
		if err != nil {
			a.fail(w, c, err)
			return
		}
		b := append(s.out[:0], `{"results":[`...)
		for i, f := range found.Found {
			if i > 0 {
				b = append(b, ',')
			}
			if of == ofActions {
				b = appendText(append(b, `{"name":`...), f.ID)
			} else {
				b = appendText(append(b, `{"type":`...), f.Type)
				b = appendText(append(b, `,"id":`...), f.ID)
			}
			b = append(b, '}')
		}
		b = append(b, ']')
		if p.there || found.Next != "" {
			b = appendText(append(b, `,"page":{"next_token":`...), found.Next)
			b = append(b, '}')
		}
		s.out = append(b, '}')
		a.write(w, c, s.out)
	}
}

// found finds what an AuthZEN search asks for; nothing where no customer, no such
// member or no such permission is known.
func (a *API) found(ctx context.Context, c *call, of sought, e *evaluation, named string, p *paging) (none decide.Page, err error) {
	q := decide.SearchQuery{Said: e.said(c)}
	switch of {
	case ofSubjects:
		q.MemberType, q.Permission, q.Resource = e.subject.kind, e.permission(), decide.ResourceRef{Type: e.resource.kind, ID: e.resource.id}
	case ofResources:
		q.Member, q.Permission, q.Resource = e.subject.id, e.permission(), decide.ResourceRef{Type: e.resource.kind}
	default:
		q.Member, q.Resource = e.subject.id, decide.ResourceRef{Type: e.resource.kind, ID: e.resource.id}
	}
	about := q.Resource
	if q.Customer, err = a.customerOf(ctx, c, named, q.Member, about); err != nil {
		return none, err
	}
	// The hash of the question is that of its words, also where they find nothing.
	hash := questionHash(c, of, &q, e.subject.kind)
	if err := p.resume(&q, hash, "body.page.token", "body.page.limit"); err != nil {
		return none, err
	}
	if q.Customer == "" || of != ofActions && a.Live.Access(c.Env).Permission(q.Permission) == nil {
		return none, nil
	}
	if of != ofSubjects {
		if another, err := a.another(ctx, c, q.Customer, &e.subject); another || err != nil {
			return none, err
		}
	}
	return a.find(ctx, c, of, q, hash)
}

// find asks for one page, and seals where the next one begins.
func (a *API) find(ctx context.Context, c *call, of sought, q decide.SearchQuery, hash []byte) (page decide.Page, err error) {
	if q.Limit == 0 { // as many as nobody wants; whatever there is comes later
		page.Next = seal(hash, 0, q.After)
		return page, nil
	}
	switch of {
	case ofSubjects:
		page, err = a.Decide.SearchMembers(ctx, c.Env, q)
	case ofResources:
		page, err = a.Decide.SearchResources(ctx, c.Env, q)
	default:
		page, err = a.Decide.SearchPermissions(ctx, c.Env, q)
	}
	if page.Next != "" {
		page.Next = seal(hash, q.Limit, page.Next)
	}
	return page, err
}

// questionHash is the same only for the same question, whatever its page.
func questionHash(c *call, of sought, q *decide.SearchQuery, subjectType string) []byte {
	said := q.Said
	if said == nil {
		said = &access.Said{}
	}
	b, _ := json.Marshal([]any{of, c.Env, q.Customer, q.Member, q.Permission, q.Resource.Type, q.Resource.ID, q.MemberType, subjectType, // of text, numbers and JSON: it cannot fail
		said.Subject, said.Action, said.Resource, said.Context, q.At.UnixMicro()})
	sum := sha256.Sum256(b)
	return sum[:]
}

// A token is the limit and what the next page comes after, under a sum that also
// covers the question. It is no secret: whoever made one up could ask for no more
// than with the first page.

// seal makes a token.
func seal(hash []byte, limit int, after string) string {
	rest := append(binary.AppendUvarint(nil, uint64(limit)), after...)
	return base64.RawURLEncoding.EncodeToString(append(sumOf(hash, rest), rest...))
}

func sumOf(hash, rest []byte) []byte {
	sum := sha256.Sum256(append(append([]byte("usher page\x00"), hash...), rest...))
	return sum[:16]
}

// resume sets the page of q: where the token leads, or the first one. It returns
// Invalid for a token that is not of this question, and for another limit.
func (p *paging) resume(q *decide.SearchQuery, hash []byte, token, limit string) error {
	q.Limit = p.limit
	if p.limit < 0 {
		q.Limit = defaultFound
	}
	if p.token == "" {
		return nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(p.token)
	if err != nil || len(b) < 17 || string(sumOf(hash, b[16:])) != string(b[:16]) {
		return invalid(token, "must be what an answer to the same question ended with: anything that is asked differently begins anew, without it")
	}
	n, size := binary.Uvarint(b[16:])
	if size <= 0 || n > maxFound || 16+size < len(b) && usher.CheckID("", string(b[16+size:])) != nil { // the sum is no secret
		return invalid(token, "must be what an answer to the same question ended with")
	}
	if p.limit >= 0 && p.limit != int(n) {
		return invalid(limit, "must be the same on every page, %s, or left out", strconv.FormatUint(n, 10))
	}
	q.Limit, q.After = int(n), string(b[16+size:])
	return nil
}
