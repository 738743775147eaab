package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/decide"
)

type (
	searchMembersIn struct {
		SearchQuestion
		Permission string      `json:"permission" minLength:"1" maxLength:"255"`
		Resource   *resourceIn `json:"resource,omitempty" doc:"What it is done to"`
		Type       string      `json:"type,omitempty" doc:"Only members of this type"`
	}
	searchResourcesIn struct {
		SearchQuestion
		Member     string `json:"member" minLength:"1" maxLength:"255"`
		Permission string `json:"permission" minLength:"1" maxLength:"255"`
		Type       string `json:"type" minLength:"1" maxLength:"255" doc:"Of the resources"`
	}
	searchPermissionsIn struct {
		SearchQuestion
		Member   string      `json:"member" minLength:"1" maxLength:"255"`
		Resource *resourceIn `json:"resource,omitempty" doc:"Only what is done to its type, and allowed on it"`
		Type     string      `json:"type,omitempty" doc:"Instead of a resource: only what is done to this type, and allowed on all of it"`
	}
	// SearchQuestion is what every search has. The document reads only exported
	// types where one is embedded.
	SearchQuestion struct {
		Customer    string         `json:"customer" minLength:"1" maxLength:"255"`
		Context     map[string]any `json:"context,omitempty" doc:"What else conditions read"`
		At          *time.Time     `json:"at,omitempty" doc:"The instant to answer for; default now"`
		Limit       int            `json:"limit,omitempty" minimum:"1" maximum:"1000" default:"100"`
		Cursor      string         `json:"cursor,omitempty" doc:"The next_cursor of the page before"`
		MinRevision int64          `json:"min_revision,omitempty" doc:"Answer from this revision or a newer one"`
	}
	searchOut struct {
		Data       []authzenFound `json:"data"`
		NextCursor string         `json:"next_cursor,omitempty" doc:"Absent on the last page. A page can hold fewer than the limit and have one"`
		Revision   int64          `json:"revision"`
	}
	searchPermissionsOut struct {
		Data []struct {
			Permission string `json:"permission"`
		} `json:"data"`
		NextCursor string `json:"next_cursor,omitempty"`
		Revision   int64  `json:"revision"`
	}
)

const searchText = "Exactly what a check allows, of what is registered."

var (
	searchMembersDoc     = doc{ID: "searchMembers", Tag: "Decisions", Summary: "Which members can do this?", Text: searchText, request: searchMembersIn{}, response: searchOut{}}
	searchResourcesDoc   = doc{ID: "searchResources", Tag: "Decisions", Summary: "On which resources of a type can the member do this?", Text: searchText, request: searchResourcesIn{}, response: searchOut{}}
	searchPermissionsDoc = doc{ID: "searchPermissions", Tag: "Decisions", Summary: "What can the member do?", Text: searchText, request: searchPermissionsIn{}, response: searchPermissionsOut{}}
)

// search answers who can, on what, or what.
func (a *API) search(of sought) func(http.ResponseWriter, *http.Request, *call) {
	return func(w http.ResponseWriter, r *http.Request, c *call) {
		s := a.borrow()
		defer a.giveBack(s)
		var err error
		if s.in, err = a.readAll(r, c.route, s.in); err != nil {
			a.fail(w, c, err)
			return
		}
		s.r.Reset(s.in)
		q, p := readSearch(&s.r, of)
		if err = s.r.err(); err == nil && q.Said != nil && !c.Properties {
			err = usher.Errorf(usher.Forbidden, "this key may not send properties or context: conditions read what is registered")
		}
		hash := questionHash(c, of, &q, "")
		if err == nil {
			err = p.resume(&q, hash, "body.cursor", "body.limit")
		}
		var page decide.Page
		if err == nil {
			page, err = a.find(r.Context(), c, of, q, hash)
		}
		if err != nil {
			a.fail(w, c, err)
			return
		}
		b := append(s.out[:0], `{"data":[`...)
		for i, f := range page.Found {
			if i > 0 {
				b = append(b, ',')
			}
			if of == ofActions {
				b = appendText(append(b, `{"permission":`...), permissionOf(f))
			} else {
				b = appendText(append(b, `{"type":`...), f.Type)
				b = appendText(append(b, `,"id":`...), f.ID)
			}
			b = append(b, '}')
		}
		b = append(b, ']')
		if page.Next != "" {
			b = appendText(append(b, `,"next_cursor":`...), page.Next)
		}
		s.out = append(strconv.AppendInt(append(b, `,"revision":`...), page.Revision, 10), '}')
		a.write(w, c, s.out)
	}
}

// permissionOf is the key of a permission that was found.
func permissionOf(f decide.Found) string {
	if f.Type == "" {
		return f.ID
	}
	return f.Type + "." + f.ID
}

// readSearch reads the body of a search.
func readSearch(r *reader, of sought) (q decide.SearchQuery, p paging) {
	known := map[sought]string{
		ofSubjects:  "customer, permission, resource, type",
		ofResources: "customer, member, permission, type",
		ofActions:   "customer, member, resource, type",
	}[of] + ", context, at, limit, cursor, min_revision"
	p.limit = -1
	kind := ""
	var asked decide.CheckQuery // readResource's
	ok := r.Object("body", func(name []byte) {
		switch n := string(name); {
		case n == "customer":
			q.Customer = r.String("body.customer")
		case n == "member" && of != ofSubjects:
			q.Member = r.String("body.member")
		case n == "permission" && of != ofActions:
			q.Permission = r.String("body.permission")
		case n == "resource" && of != ofResources:
			readResource(r, "body.resource", &asked)
		case n == "type":
			kind = r.String("body.type")
			r.ID("body.type", kind)
		case n == "context":
			if m := r.Map("body.context"); m != nil {
				said(&asked).Context = m
			}
		case n == "at":
			q.At = r.Time("body.at")
		case n == "limit":
			if v := r.Whole("body.limit"); v < 1 || v > maxFound {
				r.Note("body.limit", "must be a whole number from 1 to %d", maxFound)
			} else {
				p.limit = int(v)
			}
		case n == "cursor":
			p.token = r.String("body.cursor")
		case n == "min_revision":
			q.MinRevision = r.Whole("body.min_revision")
		default:
			r.Unknown("body", name, known)
		}
	})
	q.Resource, q.Said = asked.Resource, asked.Said
	if !ok || len(r.Problems) > 0 {
		return q, p
	}
	r.ID("body.customer", q.Customer)
	if of != ofSubjects {
		r.ID("body.member", q.Member)
	}
	if of != ofActions {
		r.ID("body.permission", q.Permission)
	}
	switch {
	case of == ofSubjects:
		q.MemberType = kind
	case of == ofResources:
		r.ID("body.type", kind)
		q.Resource.Type = kind
	case kind != "" && q.Resource.Type != "":
		r.Note("body.type", "must not be given with a resource, which says it")
	case kind != "":
		q.Resource.Type = kind
	}
	return q, p
}
