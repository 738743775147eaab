package live

import (
	"context"
	"math"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/store"
)

// stamp marks what was read from the database. Stamps are compared by pointer: what
// was read under a stamp is up to date while the customer's entry still has the same
// one. It has a size, because pointers to values without one may be equal.
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
	// For CustomerOf: its answer, and the revision at which it was found.
	customer string
	revision int64
}

// weighPrincipal estimates the memory that a principal holds, in bytes.
func weighPrincipal(k memberKey, p *principal) uint32 {
	n := 400 + len(k.customer) + len(k.kind) + len(k.id)
	properties := p.properties
	if p.subject != nil {
		n += p.subject.Bytes()
	}
	for name, v := range properties {
		n += 64 + len(name)
		if text, ok := v.(string); ok {
			n += len(text)
		} else {
			n += 256 // a list or an object: requests bound their size
		}
	}
	return uint32(min(n, math.MaxUint32))
}

// stamps returns the entry with the stamps that a customer's principals must have.
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

// Access returns the permissions and roles of the catalogue in force, compiled.
func (l *Live) Access(env usher.Environment) *access.Book { return l.envs[env].book.Load().access }

// Member returns what decides for a member at an instant. At the present it comes
// from memory. For a past instant it is what was known then, under the catalogue of
// that time (S30). An unknown member is a Subject too, which is not Active.
func (l *Live) Member(ctx context.Context, env usher.Environment, customer, member string, at time.Time) (*access.Subject, error) {
	e := l.envs[env]
	if l.Past(env, at) {
		return l.memberThen(ctx, e, customer, member, at)
	}
	if p, ok := l.member(e, customer, member); ok {
		return p.subject, nil
	}
	loaded, err := l.members(ctx, e, customer, []string{member})
	if err != nil {
		return nil, err
	}
	return loaded[member], nil
}

// member returns a member from memory, if it is there and up to date.
func (l *Live) member(e *environment, customer, member string) (*principal, bool) {
	en := l.stamps(e, customer)
	p, ok := e.members.GetIfPresent(memberKey{customer, "", member})
	return p, ok && p.book == e.book.Load().access && p.directory == en.directory.Load() && (p.seats == nil || p.seats == en.seats.Load())
}

// Preload reads the members that are not in memory in one query, for questions about
// the present that come next.
func (l *Live) Preload(ctx context.Context, env usher.Environment, customer string, members []string) error {
	e := l.envs[env]
	var missing []string
	for _, m := range members {
		if _, ok := l.member(e, customer, m); !ok {
			missing = append(missing, m)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, err := l.members(ctx, e, customer, missing)
	return err
}

// members reads members and remembers them.
func (l *Live) members(ctx context.Context, e *environment, customer string, ids []string) (map[string]*access.Subject, error) {
	en, ed := l.stamps(e, customer), e.book.Load()
	was := principal{book: ed.access, directory: en.directory.Load(), seats: en.seats.Load()}
	// Memory answers for instants from a second ago on. So read all that had not
	// ended a second ago: what ends between then and now still decides for questions
	// about the instants before its end.
	now := l.Now(e.name)
	facts, err := l.cfg.DB.Directory(e.name, customer).Facts(ctx, ids, now.Add(-time.Second), 0)
	if err != nil {
		return nil, err
	}
	if facts[ids[0]].CatalogRevision != ed.revision {
		if err := l.Refresh(ctx, e.name); err != nil {
			return nil, err
		}
		was.book = e.book.Load().access
	}
	roles := was.book.Customer(facts[ids[0]].Roles)
	loaded := make(map[string]*access.Subject, len(ids))
	for _, id := range ids {
		p := was
		p.subject = subject(roles, facts[id], now)
		if !p.subject.Seated() {
			p.seats = nil
		}
		e.members.Set(memberKey{customer, "", id}, &p)
		loaded[id] = p.subject
	}
	return loaded, nil
}

func subject(roles *access.Roles, f *store.MemberFacts, at time.Time) *access.Subject {
	facts := access.Facts{Member: f.Member, Assignments: f.Assignments}
	for _, s := range f.Seats {
		facts.Seats = append(facts.Seats, access.Seat{Feature: s.Feature, Expires: s.Expires})
	}
	return roles.Subject(facts, at)
}

// memberThen reads a member as known at a past instant.
func (l *Live) memberThen(ctx context.Context, e *environment, customer, member string, at time.Time) (*access.Subject, error) {
	revision, err := l.cfg.DB.RevisionAt(ctx, e.name, at)
	if err != nil {
		return nil, err
	}
	if revision == 0 { // before the first revision: nothing was known
		return access.NewBook(&usher.Catalog{}, nil).Customer(nil).Subject(access.Facts{}, at), nil
	}
	facts, err := l.cfg.DB.Directory(e.name, customer).Facts(ctx, []string{member}, at, revision)
	if err != nil {
		return nil, err
	}
	f := facts[member]
	ed, err := l.editionThen(ctx, e, f.CatalogRevision)
	if err != nil {
		return nil, err
	}
	return subject(ed.access.Customer(f.Roles), f, at), nil
}

// editionThen returns a catalogue of the past. The last one is kept in memory,
// because questions about the past often come in series.
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

// FeatureThen returns a feature as the catalogue in force at a past instant had it; nil
// if it had none.
func (l *Live) FeatureThen(ctx context.Context, env usher.Environment, key string, at time.Time) (*usher.Feature, error) {
	revision, err := l.cfg.DB.RevisionAt(ctx, env, at)
	if err != nil {
		return nil, err
	}
	row, err := l.cfg.DB.CatalogAt(ctx, env, revision)
	if err != nil || row == nil {
		return nil, err
	}
	ed, err := l.editionThen(ctx, l.envs[env], row.Revision)
	if err != nil {
		return nil, err
	}
	return ed.book.Features[key], nil
}

// Properties returns the properties of a registered resource at an instant; nil if
// it is not registered.
func (l *Live) Properties(ctx context.Context, env usher.Environment, customer, kind, id string, at time.Time) (map[string]any, error) {
	e := l.envs[env]
	d := l.cfg.DB.Directory(env, customer)
	if l.Past(env, at) {
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

// Seated notes that a customer's seats have changed, so that members with roles that
// ask for a seat are read again.
func (l *Live) Seated(env usher.Environment, customer string) {
	if en, ok := l.envs[env].customers.GetIfPresent(customer); ok {
		en.seats.Store(&stamp{})
	}
}

// CustomerOf returns the only customer that has a member or, if member is "", a
// resource. If no customer has it, it returns the environment's only customer. ""
// means that there is not exactly one.
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

// Past reports whether an instant is so long ago, more than a second, that a
// question about it is answered from the database, with what was known then. The
// zero time is now.
func (l *Live) Past(env usher.Environment, at time.Time) bool {
	return !at.IsZero() && l.Now(env).Sub(at) > time.Second
}

// Directory returns a customer's directory: as it is now, or for a past instant as it
// was known then.
func (l *Live) Directory(ctx context.Context, env usher.Environment, customer string, at time.Time) (store.Directory, error) {
	d := l.cfg.DB.Directory(env, customer)
	if !l.Past(env, at) {
		return d, nil
	}
	revision, err := l.cfg.DB.RevisionAt(ctx, env, at)
	return d.AsKnown(max(revision, 1)), err // nothing was known before the first
}

// AccessAt returns the permissions and roles in force at an instant, compiled.
func (l *Live) AccessAt(ctx context.Context, env usher.Environment, at time.Time) (*access.Book, error) {
	if !l.Past(env, at) {
		return l.Access(env), nil
	}
	revision, err := l.cfg.DB.RevisionAt(ctx, env, at)
	if err != nil {
		return nil, err
	}
	if revision, err = l.cfg.DB.CatalogRevisionAt(ctx, env, revision); err != nil {
		return nil, err
	}
	ed, err := l.editionThen(ctx, l.envs[env], revision)
	if err != nil {
		return nil, err
	}
	return ed.access, nil
}
