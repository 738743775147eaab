package live

import (
	"context"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/store"
)

// stamp is told apart by its address: what was read under one is good while the
// customer's entry still has it.
type stamp struct{ _ byte }

// memberKey names a member (kind "") or a resource of a customer.
type memberKey struct{ customer, kind, id string }

// principal is a member as it was read, or a resource.
type principal struct {
	subject    *access.Subject // of a member
	properties map[string]any  // of a resource; nil: not registered
	book       *access.Book
	directory  *stamp
	seats      *stamp // nil: no role of the member asks for a seat
	// Of whose a member or resource is: the answer, and when it was right.
	customer string
	revision int64
}

// stamps are what a customer's principals are good under.
func (l *Live) stamps(e *environment, customer string) *entry {
	en, ok := e.customers.GetIfPresent(customer)
	if !ok {
		en, _ = e.customers.SetIfAbsent(customer, newEntry())
	}
	return en
}

func newEntry() *entry {
	en := &entry{}
	en.directory.Store(&stamp{})
	en.seats.Store(&stamp{})
	return en
}

// Access is the catalogue's permissions and roles in force, compiled.
func (l *Live) Access(env usher.Environment) *access.Book { return l.envs[env].book.Load().access }

// Member is what decides for a member at an instant. At the present it comes
// from memory; at a past one it is as it was known then, under the catalogue of
// then (S30). An unknown member is a Subject too: not Active.
func (l *Live) Member(ctx context.Context, env usher.Environment, customer, member string, at time.Time) (*access.Subject, error) {
	e := l.envs[env]
	now := l.Now(env)
	if now.Sub(at) > time.Second {
		return l.memberThen(ctx, e, customer, member, at)
	}
	en := l.stamps(e, customer)
	book := e.book.Load().access
	key := memberKey{customer, "", member}
	if p, ok := e.members.GetIfPresent(key); ok && p.book == book && p.directory == en.directory.Load() && (p.seats == nil || p.seats == en.seats.Load()) {
		return p.subject, nil
	}
	p := &principal{book: book, directory: en.directory.Load(), seats: en.seats.Load()}
	// All that has not ended by the earliest instant that memory answers for: a
	// question about a later one must not keep from others what ends before it.
	f, err := l.cfg.DB.Directory(env, customer).Facts(ctx, member, now.Add(-time.Second), 0)
	if err != nil {
		return nil, err
	}
	if f.CatalogRevision != e.book.Load().revision {
		if err := l.Refresh(ctx, env); err != nil {
			return nil, err
		}
		p.book = e.book.Load().access
	}
	p.subject = compile(p.book, &f, at)
	if !p.subject.Seated() {
		p.seats = nil
	}
	e.members.Set(key, p)
	return p.subject, nil
}

func compile(b *access.Book, f *store.MemberFacts, at time.Time) *access.Subject {
	facts := access.Facts{Member: f.Member, Assignments: f.Assignments}
	for _, s := range f.Seats {
		facts.Seats = append(facts.Seats, access.Seat{Feature: s.Feature, Expires: s.Expires})
	}
	return b.Customer(f.Roles).Subject(facts, at)
}

// memberThen reads a member as known at a past instant.
func (l *Live) memberThen(ctx context.Context, e *environment, customer, member string, at time.Time) (*access.Subject, error) {
	revision, err := l.cfg.DB.RevisionAt(ctx, e.name, at)
	if err != nil {
		return nil, err
	}
	if revision == 0 { // before all that is known
		return access.NewBook(&usher.Catalog{}, nil).Customer(nil).Subject(access.Facts{}, at), nil
	}
	f, err := l.cfg.DB.Directory(e.name, customer).Facts(ctx, member, at, revision)
	if err != nil {
		return nil, err
	}
	ed, err := l.editionThen(ctx, e, f.CatalogRevision)
	if err != nil {
		return nil, err
	}
	return compile(ed.access, &f, at), nil
}

// editionThen is a catalogue of the past. The last one asked for is kept.
func (l *Live) editionThen(ctx context.Context, e *environment, revision int64) (*edition, error) {
	if ed := e.book.Load(); ed.revision == revision {
		return ed, nil
	}
	if ed := e.past.Load(); ed != nil && ed.revision == revision {
		return ed, nil
	}
	ed, err := l.edition(ctx, e.name, revision)
	if err == nil {
		e.past.Store(ed)
	}
	return ed, err
}

// Properties are what is registered about a resource at an instant; nil where it
// is not registered.
func (l *Live) Properties(ctx context.Context, env usher.Environment, customer, kind, id string, at time.Time) (map[string]any, error) {
	e := l.envs[env]
	d := l.cfg.DB.Directory(env, customer)
	if now := l.Now(env); now.Sub(at) > time.Second {
		revision, err := l.cfg.DB.RevisionAt(ctx, env, at)
		if err != nil || revision == 0 {
			return nil, err
		}
		r, err := d.ResourceAt(ctx, kind, id, revision)
		if err != nil || r == nil {
			return nil, err
		}
		return r.Properties, nil
	}
	en := l.stamps(e, customer)
	key := memberKey{customer, kind, id}
	if p, ok := e.members.GetIfPresent(key); ok && p.directory == en.directory.Load() {
		return p.properties, nil
	}
	p := &principal{directory: en.directory.Load()}
	switch r, err := d.Resource(ctx, kind, id); {
	case err == nil:
		p.properties = r.Properties
	case usher.ErrorCode(err) == usher.NotFound:
	default:
		return nil, err
	}
	e.members.Set(key, p)
	return p.properties, nil
}

// Seated says that a customer's seats have changed: roles that ask for one are
// looked at anew.
func (l *Live) Seated(env usher.Environment, customer string) {
	if en, ok := l.envs[env].customers.GetIfPresent(customer); ok {
		en.seats.Store(&stamp{})
	}
}

// CustomerOf is the only customer that has a member or, where member is "", a
// resource; else the environment's only customer; "" where there is none such.
func (l *Live) CustomerOf(ctx context.Context, env usher.Environment, member, kind, id string) (string, error) {
	e := l.envs[env]
	key := memberKey{"", "", member}
	if member == "" {
		key = memberKey{"", kind, id}
	}
	revision := e.revision.Load()
	if p, ok := e.members.GetIfPresent(key); ok && p.revision == revision {
		return p.customer, nil
	}
	var found []string
	var err error
	if member != "" {
		found, err = l.cfg.DB.CustomersWithMember(ctx, env, member, 2)
	} else if kind != "" {
		found, err = l.cfg.DB.CustomersWithResource(ctx, env, kind, id, 2)
	}
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		all, err := l.cfg.DB.Customers(ctx, env, "", 2)
		if err != nil {
			return "", err
		}
		for _, c := range all {
			found = append(found, c.ID)
		}
	}
	p := &principal{revision: revision}
	if len(found) == 1 {
		p.customer = found[0]
	}
	e.members.Set(key, p)
	return p.customer, nil
}

// Directory reads a customer's directory as it is committed.
func (l *Live) Directory(env usher.Environment, customer string) store.Directory {
	return l.cfg.DB.Directory(env, customer)
}
