package decide

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/engine"
)

// SearchQuery asks which members can do something, on which resources, or what a member
// can do. It finds exactly what checks of the same instant and revision allow (A11).
type SearchQuery struct {
	Customer    string
	Member      string      // for resources and permissions: the member who can
	Permission  string      // for members and resources: what they can do
	Resource    ResourceRef // for members and permissions: what they can do it to; for resources only its Type
	MemberType  string      // for members: only members of this type; "": of all types
	Said        *access.Said
	At          time.Time // zero: now
	After       string    // the Next of the page before
	Limit       int       // from 1 to 1,000; 0 is 100
	MinRevision int64
}

// Found is a member, a resource, or a permission: its Type is then that of the
// resource ("report"), and its ID the action ("export").
type Found struct{ Type, ID string }

// Page is one page of what was found. It may be shorter than the limit and still have
// a Next, because one page looks at scanAtOnce candidates at most.
type Page struct {
	Found    []Found
	Next     string // the After of the next page; "": this is the last
	Revision int64
}

// scanAtOnce bounds how many members or resources one page looks at.
const scanAtOnce = 10_000

// candidate is a member, a resource or a permission that may be found. query is the
// check that decides, and key the After of a page that begins behind it.
type candidate struct {
	found Found
	query CheckQuery
	key   string
}

// SearchMembers finds the registered members who can.
func (s *Service) SearchMembers(ctx context.Context, env usher.Environment, q SearchQuery) (Page, error) {
	return s.search(ctx, env, q, func(after string, n int) ([]candidate, error) {
		d, err := s.live.Directory(ctx, env, q.Customer, q.At)
		if err != nil {
			return nil, err
		}
		list, err := d.Members(ctx, after, n)
		all := make([]candidate, len(list))
		ids := make([]string, len(list))
		for i := range list {
			m := &list[i]
			c := q.check()
			c.Member, ids[i] = m.ID, m.ID
			all[i] = candidate{Found{m.Type, m.ID}, c, m.ID}
			if q.MemberType != "" && q.MemberType != m.Type {
				all[i].query.Member = "" // of another type: page skips it
			}
		}
		if err == nil && !s.live.Past(env, q.At) {
			// One query for the whole chunk instead of one for each check.
			err = s.live.Preload(ctx, env, q.Customer, ids)
		}
		return all, err
	})
}

// SearchResources finds the registered resources of a type on which the member can.
func (s *Service) SearchResources(ctx context.Context, env usher.Environment, q SearchQuery) (Page, error) {
	return s.search(ctx, env, q, func(after string, n int) ([]candidate, error) {
		d, err := s.live.Directory(ctx, env, q.Customer, q.At)
		if err != nil {
			return nil, err
		}
		list, err := d.Resources(ctx, q.Resource.Type, after, n)
		all := make([]candidate, len(list))
		for i := range list {
			c := q.check()
			c.Resource = ResourceRef{q.Resource.Type, list[i].ID}
			all[i] = candidate{Found{q.Resource.Type, list[i].ID}, c, list[i].ID}
		}
		return all, err
	})
}

// SearchPermissions finds what the member can do. If the query names a resource, only
// permissions of its type are looked at.
func (s *Service) SearchPermissions(ctx context.Context, env usher.Environment, q SearchQuery) (Page, error) {
	return s.search(ctx, env, q, func(after string, n int) (all []candidate, err error) {
		book, err := s.live.AccessAt(ctx, env, q.At)
		if err != nil {
			return nil, err
		}
		perms := book.Permissions()
		i, _ := slices.BinarySearchFunc(perms, after, func(p *usher.Permission, key string) int { return strings.Compare(p.Key, key) })
		for ; i < len(perms) && len(all) < n; i++ {
			kind, action := access.SplitPermission(perms[i].Key)
			if perms[i].Key == after || q.Resource.Type != "" && q.Resource.Type != kind {
				continue
			}
			c := q.check()
			c.Permission = perms[i].Key
			all = append(all, candidate{Found{kind, action}, c, perms[i].Key})
		}
		return all, nil
	})
}

func (q *SearchQuery) check() CheckQuery {
	return CheckQuery{Customer: q.Customer, Member: q.Member, Permission: q.Permission, Resource: q.Resource, Said: q.Said, At: q.At,
		MinRevision: q.MinRevision}
}

func (s *Service) search(ctx context.Context, env usher.Environment, q SearchQuery, next func(after string, n int) ([]candidate, error)) (
	Page, error) {
	revision, err := s.revision(ctx, env, q.MinRevision)
	if err != nil {
		return Page{}, err
	}
	if q.Limit <= 0 {
		q.Limit = 100
	}
	present := q.At.IsZero()
	if present {
		q.At = s.live.Now(env)
	}
	for attempt := 0; ; attempt++ {
		page, err := s.page(ctx, env, q, revision, present, next)
		if err != nil {
			return page, err
		}
		// If a change came in between, the page may mix two states: search again.
		if r := s.live.Revision(env); r == revision || attempt == 3 {
			page.Revision = revision
			return page, nil
		} else {
			revision = r
		}
	}
}

// page checks candidates in chunks until the page is full, there are no more, or
// scanAtOnce were checked.
func (s *Service) page(ctx context.Context, env usher.Environment, q SearchQuery, revision int64, present bool,
	next func(after string, n int) ([]candidate, error)) (p Page, err error) {
	p.Found = []Found{}
	var buf engine.Buf
	after := q.After
	for scanned := 0; scanned < scanAtOnce; {
		const chunk = 200
		list, err := next(after, chunk)
		if err != nil {
			return p, err
		}
		for i := range list {
			c := &list[i]
			after = c.key
			scanned++
			if c.query.Member == "" {
				continue
			}
			c.query.At, c.query.present = q.At, present
			d, err := s.check(ctx, env, c.query, revision, &buf)
			if err != nil {
				return p, err
			}
			// A page must not leave out what could not be decided: the caller would take it for
			// a no.
			if d.Reason == usher.ReasonUnavailable {
				return p, usher.Errorf(usher.Unavailable, "the directory cannot be read now; try again")
			}
			if d.Allowed {
				if p.Found = append(p.Found, c.found); len(p.Found) == q.Limit {
					// The page is full. A next one exists only if a candidate may follow; a chunk
					// that is not full was the last.
					if i < len(list)-1 || len(list) == chunk {
						p.Next = after
					}
					return p, nil
				}
			}
		}
		if len(list) < chunk {
			return p, nil
		}
	}
	p.Next = after
	return p, nil
}

// CustomerOf returns the only customer that has a member or, if member is "", a
// resource. If no customer has it, it returns the environment's only customer. ""
// means that there is not exactly one.
func (s *Service) CustomerOf(ctx context.Context, env usher.Environment, member string, r ResourceRef) (string, error) {
	return s.live.CustomerOf(ctx, env, member, r.Type, r.ID)
}

// Sought is what a search looks for.
type Sought int

// The kinds of searches.
const (
	OfMembers Sought = iota
	OfResources
	OfPermissions
)

// Search finds one page of members, resources or permissions.
func (s *Service) Search(ctx context.Context, env usher.Environment, of Sought, q SearchQuery) (Page, error) {
	switch of {
	case OfMembers:
		return s.SearchMembers(ctx, env, q)
	case OfResources:
		return s.SearchResources(ctx, env, q)
	}
	return s.SearchPermissions(ctx, env, q)
}

// Parts returns all that makes two searches the same, without After and Limit: the
// token of a next page is bound to it.
func (q *SearchQuery) Parts() []any {
	said := q.Said
	if said == nil {
		said = &access.Said{}
	}
	return []any{q.Customer, q.Member, q.Permission, q.Resource.Type, q.Resource.ID, q.MemberType,
		said.Subject, said.Action, said.Resource, said.Context, q.At.UnixMicro()}
}
