package authzen

import (
	"context"
	"net/http"

	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/door"
)

type (
	pageInDoc struct {
		_     struct{} `additionalProperties:"true"`
		Token string   `json:"token,omitempty" doc:"The next_token of the page before. The rest of the request must be the same"`
		Limit *int     `json:"limit,omitempty" minimum:"0" doc:"The most results on one page, up to 1,000; default 100, which 0 means too"`
	}
	pageDoc struct {
		NextToken string `json:"next_token" doc:"Empty on the last page"`
	}
	kindDoc struct {
		_          struct{}       `additionalProperties:"true"`
		Type       string         `json:"type" minLength:"1" maxLength:"255"`
		ID         string         `json:"id,omitempty" doc:"Ignored"`
		Properties map[string]any `json:"properties,omitempty"`
	}
	subjectsInDoc struct {
		_        struct{}       `additionalProperties:"true"`
		Subject  kindDoc        `json:"subject"`
		Action   actionDoc      `json:"action"`
		Resource resourceDoc    `json:"resource"`
		Context  map[string]any `json:"context,omitempty"`
		Page     *pageInDoc     `json:"page,omitempty"`
	}
	resourcesInDoc struct {
		_        struct{}       `additionalProperties:"true"`
		Subject  subjectDoc     `json:"subject"`
		Action   actionDoc      `json:"action"`
		Resource kindDoc        `json:"resource"`
		Context  map[string]any `json:"context,omitempty"`
		Page     *pageInDoc     `json:"page,omitempty"`
	}
	actionsInDoc struct {
		_        struct{}       `additionalProperties:"true"`
		Subject  subjectDoc     `json:"subject"`
		Resource resourceDoc    `json:"resource"`
		Context  map[string]any `json:"context,omitempty"`
		Page     *pageInDoc     `json:"page,omitempty"`
	}
	foundDoc struct {
		Type string `json:"type"`
		ID   string `json:"id"`
	}
	entitiesOutDoc struct {
		Results []foundDoc `json:"results"`
		Page    *pageDoc   `json:"page,omitempty"`
	}
	nameDoc struct {
		Name string `json:"name"`
	}
	actionsOutDoc struct {
		Results []nameDoc `json:"results"`
		Page    *pageDoc  `json:"page,omitempty"`
	}
)

const aboutSearch = about + "A search finds exactly the registered members and resources that an evaluation allows. "

// paging is the part of a request that is about pages.
type paging struct {
	door.Paging
	there bool
}

// read reads the page of a search.
func (p *paging) read(r *door.Reader) {
	p.there = true
	r.Object("page", func(name []byte) {
		switch string(name) {
		case "token":
			p.Token = r.MaybeEmpty("page.token")
		case "limit":
			if p.Limit = int(min(r.Whole("page.limit"), door.MaxFound)); p.Limit == 0 {
				p.Limit = -1 // as if it were left out
			}
		default:
			r.Skip()
		}
	})
}

// searchRoutes registers the searches of AuthZEN: which subjects, resources or
// actions would evaluation allow? The id that is searched for is ignored, and
// the answers are what evaluation allows at one revision (A11).
func (a *service) searchRoutes(d *door.Door) {
	d.Handle(door.Route{Pattern: "POST " + searchPath + "subject", Perm: auth.PermSearch,
		ID: "authzenSearchSubjects", Tag: "AuthZEN", Summary: "Who may do this to this resource?", Text: aboutSearch,
		Request: subjectsInDoc{}, Response: entitiesOutDoc{},
		Example: `{"subject":{"type":"user"},"action":{"name":"read"},"resource":{"type":"report","id":"q1"},"context":{
			"customer":"acme"},"page":{"limit":2}}`,
		Answer: `{"results":[{"type":"user","id":"ann"},{"type":"user","id":"bob"}],"page":{"next_token":""}}`}, a.search(decide.OfMembers))
	d.Handle(door.Route{Pattern: "POST " + searchPath + "resource", Perm: auth.PermSearch,
		ID: "authzenSearchResources", Tag: "AuthZEN", Summary: "To which resources of a type may this subject do this?", Text: aboutSearch,
		Request: resourcesInDoc{}, Response: entitiesOutDoc{},
		Example: `{"subject":{"type":"user","id":"ann"},"action":{"name":"read"},"resource":{"type":"report"},"context":{
			"customer":"acme"}}`,
		Answer: `{"results":[{"type":"report","id":"q1"}]}`}, a.search(decide.OfResources))
	d.Handle(door.Route{Pattern: "POST " + searchPath + "action", Perm: auth.PermSearch,
		ID: "authzenSearchActions", Tag: "AuthZEN", Summary: "What may this subject do to this resource?", Text: aboutSearch,
		Request: actionsInDoc{}, Response: actionsOutDoc{},
		Example: `{"subject":{"type":"user","id":"ann"},"resource":{"type":"report","id":"q1"},"context":{"customer":"acme"}}`,
		Answer:  `{"results":[{"name":"read"}]}`}, a.search(decide.OfPermissions))
}

// search answers a search. The id of the entity that is searched for is ignored.
func (a *service) search(of decide.Sought) func(http.ResponseWriter, *http.Request, *door.Call) {
	return func(w http.ResponseWriter, r *http.Request, c *door.Call) {
		s := door.Borrow()
		defer s.GiveBack()
		if _, err := read(r, c, s); err != nil {
			c.Fail(w, err)
			return
		}
		var e evaluation
		p := paging{Paging: door.Paging{Limit: -1}}
		s.R.Object("", func(name []byte) {
			switch {
			case of == decide.OfPermissions && string(name) == "action": // the search finds actions, so a given one is ignored
				s.R.Skip()
			case e.member(&s.R, name):
			case string(name) == "page":
				p.read(&s.R)
			default:
				s.R.Skip()
			}
		})
		named := ""
		if !s.R.Broken() && len(s.R.Problems) == 0 {
			e.subject.needs(&s.R, subjectPlaces, of != decide.OfMembers)
			if of != decide.OfPermissions {
				e.action.needs(&s.R, actionPlaces, true)
			}
			e.resource.needs(&s.R, resourcePlaces, of != decide.OfResources)
			named = e.customer(&s.R)
		}
		s.R.Front("body.", 0)
		err := s.R.Err()
		var found decide.Page
		if err == nil {
			found, err = a.found(r.Context(), c, of, &e, named, &p)
		}
		if err != nil {
			c.Fail(w, err)
			return
		}
		b := append(s.Out[:0], `{"results":[`...)
		for i, f := range found.Found {
			if i > 0 {
				b = append(b, ',')
			}
			if of == decide.OfPermissions {
				b = door.AppendText(append(b, `{"name":`...), f.ID)
			} else {
				b = door.AppendText(append(b, `{"type":`...), f.Type)
				b = door.AppendText(append(b, `,"id":`...), f.ID)
			}
			b = append(b, '}')
		}
		b = append(b, ']')
		if p.there || found.Next != "" {
			b = door.AppendText(append(b, `,"page":{"next_token":`...), found.Next)
			b = append(b, '}')
		}
		s.Out = append(b, '}')
		c.Write(w, s.Out)
	}
}

// found runs an AuthZEN search. It finds nothing if the customer, the member or the
// permission is unknown.
func (a *service) found(ctx context.Context, c *door.Call, of decide.Sought, e *evaluation, named string, p *paging) (
	none decide.Page, err error) {
	q := decide.SearchQuery{Said: e.said(c)}
	switch of {
	case decide.OfMembers:
		q.MemberType, q.Permission, q.Resource = e.subject.kind, e.permission(), decide.ResourceRef{Type: e.resource.kind, ID: e.resource.id}
	case decide.OfResources:
		q.Member, q.Permission, q.Resource = e.subject.id, e.permission(), decide.ResourceRef{Type: e.resource.kind}
	default:
		q.Member, q.Resource = e.subject.id, decide.ResourceRef{Type: e.resource.kind, ID: e.resource.id}
	}
	if q.Customer, err = a.customerOf(ctx, c, named, q.Member, q.Resource); err != nil {
		return none, err
	}
	// Read the token before anything is looked up, so that a wrong one is refused even
	// if the search finds nothing.
	question := door.Question(append(q.Parts(), of, c.Env, e.subject.kind)...)
	if q.Limit, q.After, err = p.Resume(question, "body.page.token", "body.page.limit"); err != nil {
		return none, err
	}
	if q.Customer == "" || of != decide.OfPermissions && a.Live.Access(c.Env).Permission(q.Permission) == nil {
		return none, nil
	}
	if of != decide.OfMembers {
		if another, err := a.another(ctx, c, q.Customer, &e.subject); another || err != nil {
			return none, err
		}
	}
	page, err := a.Decide.Search(ctx, c.Env, of, q)
	if page.Next != "" {
		page.Next = door.Seal(question, q.Limit, page.Next)
	}
	return page, err
}
