package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/door"
)

type (
	foundDoc struct {
		Type string `json:"type"`
		ID   string `json:"id"`
	}
	searchMembersIn struct {
		SearchQuestion
		Permission string      `json:"permission" minLength:"1" maxLength:"255"`
		Resource   *resourceIn `json:"resource,omitempty" doc:"The resource that the member acts on"`
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
		Resource *resourceIn `json:"resource,omitempty" doc:"Only permissions on resources of its type, and allowed on it"`
		Type     string      `json:"type,omitempty" doc:"Instead of a resource: only permissions on this type that are allowed on all its resources"`
	}
	// SearchQuestion is what every search has. The document reads only exported
	// types where one is embedded.
	SearchQuestion struct {
		Customer    string         `json:"customer" minLength:"1" maxLength:"255"`
		Context     map[string]any `json:"context,omitempty" doc:"More values that conditions can read"`
		At          *time.Time     `json:"at,omitempty" doc:"The instant to answer for; default now"`
		Limit       int            `json:"limit,omitempty" minimum:"1" maximum:"1000" default:"100"`
		Cursor      string         `json:"cursor,omitempty" doc:"The next_cursor of the page before"`
		MinRevision int64          `json:"min_revision,omitempty" doc:"Answer from this revision or a newer one"`
	}
	searchOut struct {
		Data       []foundDoc `json:"data"`
		NextCursor string     `json:"next_cursor,omitempty" doc:"Absent on the last page. A page can hold fewer than the limit and have one"`
		Revision   int64      `json:"revision"`
	}
	permissionDoc struct {
		Permission string `json:"permission"`
	}
	searchPermissionsOut struct {
		Data       []permissionDoc `json:"data"`
		NextCursor string          `json:"next_cursor,omitempty"`
		Revision   int64           `json:"revision"`
	}
)

const searchText = "Exactly what a check allows, of what is registered."

// searchRoutes registers the questions in reverse: which members may do this,
// and what may this member do? The answers list exactly what a check would
// allow, at one revision (A11).
func (a *api) searchRoutes(d *door.Door) {
	d.Handle(door.Route{Pattern: "POST /v1/search/members", Perm: auth.PermSearch,
		ID: "searchMembers", Tag: "Decisions", Summary: "Which members can do this?", Text: searchText, Request: searchMembersIn{},
		Response: searchOut{},
		Example:  `{"customer":"acme","permission":"report.read","resource":{"type":"report","id":"q1"},"limit":2}`,
		Answer: `{"data":[{"type":"user","id":"ann"},{"type":"user","id":"bob"}],"next_cursor":"hKDB0aFv1Le3KpPRD_K1bQJiZW4",
			"revision":17}`}, a.search(decide.OfMembers))
	d.Handle(door.Route{Pattern: "POST /v1/search/resources", Perm: auth.PermSearch,
		ID: "searchResources", Tag: "Decisions", Summary: "On which resources of a type can the member do this?", Text: searchText,
		Request: searchResourcesIn{}, Response: searchOut{},
		Example: `{"customer":"acme","member":"ann","permission":"report.read","type":"report"}`,
		Answer:  `{"data":[{"type":"report","id":"q1"}],"revision":17}`}, a.search(decide.OfResources))
	d.Handle(door.Route{Pattern: "POST /v1/search/permissions", Perm: auth.PermSearch,
		ID: "searchPermissions", Tag: "Decisions", Summary: "What can the member do?", Text: searchText, Request: searchPermissionsIn{},
		Response: searchPermissionsOut{},
		Example:  `{"customer":"acme","member":"ann","resource":{"type":"report","id":"q1"}}`,
		Answer:   `{"data":[{"permission":"report.read"}],"revision":17}`}, a.search(decide.OfPermissions))
}

// search answers who can, on what, or what.
func (a *api) search(of decide.Sought) func(http.ResponseWriter, *http.Request, *door.Call) {
	return func(w http.ResponseWriter, r *http.Request, c *door.Call) {
		s := door.Borrow()
		defer s.GiveBack()
		var err error
		if s.In, err = c.ReadAll(r, s.In); err != nil {
			c.Fail(w, err)
			return
		}
		s.R.Reset(s.In)
		q, p := readSearch(&s.R, of)
		c.About = q.Customer
		if err = s.R.Err(); err == nil {
			err = maySay(c, q.Said)
		}
		question := door.Question(append(q.Parts(), of, c.Env)...)
		if err == nil {
			q.Limit, q.After, err = p.Resume(question, "body.cursor", "body.limit")
		}
		var page decide.Page
		if err == nil {
			page, err = a.Decide.Search(r.Context(), c.Env, of, q)
		}
		if err != nil {
			c.Fail(w, err)
			return
		}
		b := append(s.Out[:0], `{"data":[`...)
		for i, f := range page.Found {
			if i > 0 {
				b = append(b, ',')
			}
			if of == decide.OfPermissions {
				b = door.AppendText(append(b, `{"permission":`...), permissionOf(f))
			} else {
				b = door.AppendText(append(b, `{"type":`...), f.Type)
				b = door.AppendText(append(b, `,"id":`...), f.ID)
			}
			b = append(b, '}')
		}
		b = append(b, ']')
		if page.Next != "" {
			b = door.AppendText(append(b, `,"next_cursor":`...), door.Seal(question, q.Limit, page.Next))
		}
		s.Out = append(strconv.AppendInt(append(b, `,"revision":`...), page.Revision, 10), '}')
		c.Write(w, s.Out)
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
func readSearch(r *door.Reader, of decide.Sought) (q decide.SearchQuery, p door.Paging) {
	known := map[decide.Sought]string{
		decide.OfMembers:     "customer, permission, resource, type",
		decide.OfResources:   "customer, member, permission, type",
		decide.OfPermissions: "customer, member, resource, type",
	}[of] + ", context, at, limit, cursor, min_revision"
	p.Limit = -1
	kind := ""
	var asked decide.CheckQuery // readResource's
	ok := r.Object("body", func(name []byte) {
		switch n := string(name); {
		case n == "customer":
			q.Customer = r.String("body.customer")
		case n == "member" && of != decide.OfMembers:
			q.Member = r.String("body.member")
		case n == "permission" && of != decide.OfPermissions:
			q.Permission = r.String("body.permission")
		case n == "resource" && of != decide.OfResources:
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
			if v := r.Whole("body.limit"); v < 1 || v > door.MaxFound {
				r.Note("body.limit", "must be a whole number from 1 to %d", door.MaxFound)
			} else {
				p.Limit = int(v)
			}
		case n == "cursor":
			p.Token = r.MaybeEmpty("body.cursor")
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
	if of != decide.OfMembers {
		r.ID("body.member", q.Member)
	}
	if of != decide.OfPermissions {
		r.ID("body.permission", q.Permission)
	}
	switch {
	case of == decide.OfMembers:
		q.MemberType = kind
	case of == decide.OfResources:
		r.ID("body.type", kind)
		q.Resource.Type = kind
	case kind != "" && q.Resource.Type != "":
		r.Note("body.type", "must not be given with a resource, which says it")
	case kind != "":
		q.Resource.Type = kind
	}
	return q, p
}
