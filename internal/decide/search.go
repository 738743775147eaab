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

// SearchQuery asks who can, on what, or what. What it finds is exactly what a
// check of the same instant and revision allows (A11).
type SearchQuery struct {
	Customer    string
	Member      string      // of resources and permissions: who
	Permission  string      // of members and resources: to do what
	Resource    ResourceRef // of members and permissions: to what; of resources, its Type alone
	MemberType  string      // of members: only those of this type; "" is all
	Said        *access.Said
	At          time.Time // zero: now
	After       string    // the Next of the page before
	Limit       int       // from 1 to 1,000; 0 is 100
	MinRevision int64
}

// Found is a member or a resource, or a permission as what it is done to and
// what is done.
type Found struct{ Type, ID string }

// Page is what was found. A page may hold fewer than the limit and have a Next.
type Page struct {
	Found    []Found
	Next     string // "": there is no more
	Revision int64
}

// scanAtOnce bounds how many members or resources one page looks at.
const scanAtOnce = 10_000

// candidate is one that may be found: what is asked of it, and where the next
// page begins after it.
type candidate struct {
	found Found
	query CheckQuery
	key   string
}

// SearchMembers finds who of the registered members can.
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
				all[i].query.Member = "" // asked of nobody
			}
		}
		if err == nil && !s.live.Past(env, q.At) {
			err = s.live.Expect(ctx, env, q.Customer, ids)
		}
		return all, err
	})
}

// SearchResources finds on which of the registered resources of a type the
// member can.
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

// SearchPermissions finds what the member can do: to a resource, where one is
// named, only what is done to its type.
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
	return CheckQuery{Customer: q.Customer, Member: q.Member, Permission: q.Permission, Resource: q.Resource, Said: q.Said, At: q.At, MinRevision: q.MinRevision}
}

func (s *Service) search(ctx context.Context, env usher.Environment, q SearchQuery, next func(after string, n int) ([]candidate, error)) (Page, error) {
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
		// A change that came between would mix two states: search again.
		if r := s.live.Revision(env); r == revision || attempt == 3 {
			page.Revision = revision
			return page, nil
		} else {
			revision = r
		}
	}
}

func (s *Service) page(ctx context.Context, env usher.Environment, q SearchQuery, revision int64, present bool, next func(after string, n int) ([]candidate, error)) (p Page, err error) {
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
			if d.Reason == usher.ReasonUnavailable {
				return p, usher.Errorf(usher.Unavailable, "the directory cannot be read now; try again")
			}
			if d.Allowed {
				if p.Found = append(p.Found, c.found); len(p.Found) == q.Limit {
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

// CustomerOf is the only customer that has a member or, where member is "", a
// resource; else the environment's only customer; "" where there is none such.
func (s *Service) CustomerOf(ctx context.Context, env usher.Environment, member string, r ResourceRef) (string, error) {
	return s.live.CustomerOf(ctx, env, member, r.Type, r.ID)
}

// Sought is what a search is of.
type Sought int

// What searches can be of.
const (
	OfMembers Sought = iota
	OfResources
	OfPermissions
)

// Search finds one page of what is sought.
func (s *Service) Search(ctx context.Context, env usher.Environment, of Sought, q SearchQuery) (Page, error) {
	switch of {
	case OfMembers:
		return s.SearchMembers(ctx, env, q)
	case OfResources:
		return s.SearchResources(ctx, env, q)
	}
	return s.SearchPermissions(ctx, env, q)
}

// Parts returns what makes the question what it is, whatever its page.
func (q *SearchQuery) Parts() []any {
	said := q.Said
	if said == nil {
		said = &access.Said{}
	}
	return []any{q.Customer, q.Member, q.Permission, q.Resource.Type, q.Resource.ID, q.MemberType,
		said.Subject, said.Action, said.Resource, said.Context, q.At.UnixMicro()}
}
