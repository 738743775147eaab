package scim

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/scim"
)

// derived are the attributes that are not stored as the client sent them: they are
// computed from something else, or never stored.
var derived = []string{"schemas", "id", "meta", "active", "groups", "roles", "members", "password"}

// makeID returns a new id.
func (s *call) makeID(prefix string) string {
	if s.NewID != nil {
		return s.NewID(prefix)
	}
	return usher.NewID(prefix, time.Now(), nil)
}

func pathEscape(id string) string { return url.PathEscape(id) }

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// userDoc returns a member as SCIM shows it. Groups and roles are read only if they are
// wanted; without them the document is incomplete and has no version.
func (s *call) userDoc(m *usher.Member, groups, roles bool) (scim.Document, error) {
	doc := scim.User.View(m.Properties)
	for _, name := range derived {
		delete(doc, name)
	}
	if name, _ := doc["userName"].(string); name == "" {
		doc["userName"] = m.ID // the member did not come by SCIM, so it has no user name
	}
	doc["id"], doc["active"] = m.ID, m.Active
	doc["schemas"] = append([]any{scim.UserURN}, urnsOf(doc)...)
	holder := usher.Holder{ID: m.ID}
	if groups {
		in, err := s.dir.GroupsOf(s.ctx, holder)
		if err != nil {
			return nil, err
		}
		list := make([]any, 0, len(in))
		for _, id := range in {
			g, err := s.dir.Group(s.ctx, id)
			if err != nil && usher.ErrorCode(err) != usher.NotFound {
				return nil, err
			}
			list = append(list, scim.Document{"value": id, "$ref": s.base + "/Groups/" + pathEscape(id), "display": g.Title, "type": "direct"})
		}
		doc["groups"] = list
	}
	if roles {
		held, err := s.held(m.ID)
		if err != nil {
			return nil, err
		}
		list := make([]any, 0, len(held))
		for _, a := range held {
			role := scim.Document{"value": a.Role}
			if len(held) == 1 { // mark a single role as primary: Entra changes it by that
				role["primary"] = true
			}
			if r := s.Live.Catalog(s.Env).Roles[a.Role]; r != nil && r.Title != "" {
				role["display"] = r.Title
			}
			list = append(list, role)
		}
		doc["roles"] = list
	}
	s.meta(doc, "User", "/Users", m.ID, stamp(m.CreatedAt), m.Properties, groups && roles)
	return doc, nil
}

// held returns the assignments of a member that were made by SCIM.
func (s *call) held(id string) ([]usher.Assignment, error) {
	all, err := s.dir.Assignments(s.ctx, usher.AssignmentFilter{Holder: &usher.Holder{ID: id}}, "", 10_000)
	return slices.DeleteFunc(all, func(a usher.Assignment) bool {
		return a.Source != usher.SourceSCIM || a.ResourceType != ""
	}), err
}

func (s *call) wholeUser(id string) (m usher.Member, doc scim.Document, err error) {
	if m, err = s.dir.Member(s.ctx, id); err == nil {
		doc, err = s.userDoc(&m, true, true)
	} else if usher.ErrorCode(err) == usher.NotFound {
		err = usher.Errorf(usher.NotFound, "there is no user %s", door.Clip(id))
	}
	return m, doc, err
}

// answerUser answers with a user as it is now.
func (s *call) answerUser(status int, id string) (*answer, error) {
	q, err := s.query(scim.User)
	if err != nil {
		return nil, err
	}
	_, doc, err := s.wholeUser(id)
	if err != nil {
		return nil, err
	}
	out := &answer{status: status, body: q.show.Of(doc), etag: version(doc)}
	if status == http.StatusCreated {
		out.location = doc["meta"].(scim.Document)["location"].(string)
	}
	return out, nil
}

func (s *call) getUser() (*answer, error) { return s.answerUser(0, s.id) }

// usersNamed returns the members with a user name, without regard to upper and lower
// case.
func (s *call) usersNamed(name string) ([]usher.Member, error) {
	all, err := s.dir.MembersNamed(s.ctx, name)
	if err != nil {
		return nil, err
	}
	// A member without a user name is found by its id.
	m, err := s.dir.Member(s.ctx, name)
	if usher.ErrorCode(err) == usher.NotFound {
		return all, nil
	}
	if own, _ := m.Properties["userName"].(string); err == nil && own == "" {
		all = append(all, m)
	}
	return all, err
}

// candidates returns the members that a filter must be applied to: as few as an index
// can find.
func (s *call) candidates(f *scim.Filter) ([]usher.Member, error) {
	if unknowable(f, "id", "userName", "externalId") {
		return nil, nil
	}
	if id, ok := f.Equals("id"); ok {
		m, err := s.dir.Member(s.ctx, id)
		if usher.ErrorCode(err) == usher.NotFound {
			return nil, nil
		}
		return []usher.Member{m}, err
	}
	if name, ok := f.Equals("userName"); ok {
		return s.usersNamed(name)
	}
	if external, ok := f.Equals("externalId"); ok {
		if found, err := s.dir.MembersOutside(s.ctx, external); err != nil || len(found) < 10 { // with 10 there may be more, so all are looked at
			return found, err
		}
	}
	most := maxScan
	if f.Names("groups") || f.Names("roles") {
		most = maxJoin
	}
	return scanned("users", most, s.members, func(m *usher.Member) string { return m.ID })
}

func (s *call) members(after string, limit int) ([]usher.Member, error) {
	return s.dir.Members(s.ctx, after, limit)
}

func (s *call) listUsers() (*answer, error) {
	q, err := s.query(scim.User)
	if err != nil {
		return nil, err
	}
	groups, roles := q.show.Has("groups"), q.show.Has("roles")
	if q.filter == nil {
		total, err := s.dir.CountMembers(s.ctx)
		if err != nil {
			return nil, err
		}
		found, err := paged(s, "User", q, s.members, func(m *usher.Member) string { return m.ID })
		if err != nil {
			return nil, err
		}
		var shown []scim.Document
		for i := range found {
			doc, err := s.userDoc(&found[i], groups, roles)
			if err != nil {
				return nil, err
			}
			shown = append(shown, q.show.Of(doc))
		}
		return &answer{body: scim.List(shown, q.start, int(total))}, nil
	}
	found, err := s.candidates(q.filter)
	if err != nil {
		return nil, err
	}
	// Match with the attributes that the filter names; the page below gets those that the
	// client wants.
	var kept []usher.Member
	for i := range found {
		doc, err := s.userDoc(&found[i], q.filter.Names("groups"), q.filter.Names("roles"))
		if err != nil {
			return nil, err
		}
		if q.filter.Match(doc) {
			kept = append(kept, found[i])
		}
	}
	var shown []scim.Document
	from := min(q.start-1, len(kept))
	for i := range kept[from:min(from+q.count, len(kept))] {
		doc, err := s.userDoc(&kept[from+i], groups, roles)
		if err != nil {
			return nil, err
		}
		shown = append(shown, q.show.Of(doc))
	}
	return &answer{body: scim.List(shown, q.start, len(kept))}, nil
}

func (s *call) createUser() (*answer, error) {
	doc, err := s.body()
	if err == nil {
		doc, err = scim.User.Normalize(doc)
	}
	if err != nil {
		return nil, err
	}
	m := usher.Member{Type: usher.DefaultMemberType, Active: true, Source: usher.SourceSCIM}
	if m.ID, err = s.newUserID(doc); err != nil {
		return nil, err
	}
	if err := s.saveUser("scim.user.create", m, nil, doc, nil); err != nil {
		return nil, err
	}
	return s.answerUser(http.StatusCreated, m.ID)
}

// newUserID returns the id of a new user. It is the identity provider's own id if that
// can be an id here: then programs that know the provider's ids know usher's too.
func (s *call) newUserID(doc scim.Document) (string, error) {
	if external, _ := doc["externalId"].(string); opaqueID(external) {
		there, err := s.dir.HasMembers(s.ctx, []string{external})
		if err != nil || !there[external] {
			return external, err
		}
	}
	return s.makeID("mbr_"), nil
}

// minOpaque is the shortest id, in bytes, that counts as made by a machine.
const minOpaque = 16

// opaqueID reports whether an id looks as if a machine made it: long, with a digit, and
// only letters, digits, "-" and "_". Mail addresses, and the part before their @, which
// some providers send, do not look so. Ids are in the audit log, and personal data must
// not be there.
func opaqueID(id string) bool {
	return minOpaque <= len(id) && plainID(id) && strings.ContainsAny(id, "0123456789") && !strings.ContainsAny(id, ".~")
}

// plainID reports whether an id needs no escapes in an address.
func plainID(id string) bool {
	for _, c := range []byte(id) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~", c) >= 0) {
			return false
		}
	}
	return strings.Trim(id, ".") != "" && len(id) <= 255
}

// saveUser stores a member as doc describes it, with its roles, in one change. view is
// the document that the client saw before; nil for a new member. Attributes that no
// schema knows are kept if keep names them.
func (s *call) saveUser(action string, m usher.Member, view, doc scim.Document, keep []string) error {
	name, _ := doc["userName"].(string)
	if strings.TrimSpace(name) == "" {
		return &scim.Error{Kind: scim.InvalidValue, Detail: "userName is required: the name that the user logs in with"}
	}
	same, err := s.usersNamed(name)
	if err != nil {
		return err
	}
	// The directory lets two members have one name. SCIM does not, and a client creates a
	// user only after a search by name.
	for _, other := range same {
		if other.ID != m.ID {
			return &scim.Error{Kind: scim.Uniqueness, Detail: "there is a user with this userName already"}
		}
	}
	if active, ok := doc["active"].(bool); ok {
		m.Active = active
	} else if _, was := view["active"]; was && doc["active"] == nil && action == "scim.user.patch" {
		return &scim.Error{Kind: scim.InvalidValue, Detail: "active cannot be removed; it must be true or false"}
	}
	m.Properties = properties(m.Properties, view, doc, keep)
	m.Properties["meta"] = map[string]any{"lastModified": stamp(s.Live.Now(s.Env))}
	c := directory.Change{Members: []usher.Member{m}}
	if given, ok := doc["roles"]; ok || action == "scim.user.patch" {
		keys, err := roleKeys(given)
		if err != nil {
			return err
		}
		held, err := s.held(m.ID)
		if err != nil {
			return err
		}
		for _, a := range held {
			if i := slices.Index(keys, a.Role); i >= 0 {
				keys = slices.Delete(keys, i, i+1)
			} else {
				c.Unassign = append(c.Unassign, a.ID)
			}
		}
		for _, key := range keys {
			c.Assign = append(c.Assign, usher.Assignment{Holder: usher.Holder{ID: m.ID}, Role: key, Source: usher.SourceSCIM})
		}
	}
	return s.apply(action, m.ID, c)
}

// properties returns what is stored of a resource: what doc has, what was stored before
// and SCIM does not show, and what keep names.
func properties(before map[string]any, view, doc scim.Document, keep []string) map[string]any {
	out := map[string]any{}
	// What SCIM does not show stays: a client cannot mean to remove what it never saw.
	for name, v := range before {
		if _, shown := view[name]; !shown || slices.Contains(keep, name) || slices.Contains(derived, name) {
			out[name] = v
		}
	}
	for name, v := range doc {
		if slices.Contains(derived, name) || v == nil {
			continue
		}
		if list, ok := v.([]any); ok && len(list) == 0 { // an empty list is the same as no attribute (RFC 7643, 2.5)
			delete(out, name)
			continue
		}
		out[name] = v
	}
	delete(out, "password")
	return out
}

// roleKeys reads the attribute roles. Each is an object with a value, or that object as
// JSON in a text, which is how Entra sends app roles.
func roleKeys(v any) ([]string, error) {
	list, _ := v.([]any)
	keys := []string{}
	for _, v := range list {
		doc, _ := v.(scim.Document)
		key, _ := doc["value"].(string)
		if strings.HasPrefix(key, "{") {
			var packed struct{ Value string }
			if json.Unmarshal([]byte(key), &packed) == nil {
				key = packed.Value
			}
		}
		if key == "" {
			return nil, &scim.Error{Kind: scim.InvalidValue, Detail: `each of roles must be {"value": "<role>"}, with a value of /Roles`}
		}
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func (s *call) putUser() (*answer, error) {
	given, err := s.body()
	if err != nil {
		return nil, err
	}
	doc, err := scim.User.Normalize(given)
	if err != nil {
		return nil, err
	}
	m, view, err := s.wholeUser(s.id)
	if err == nil {
		err = s.precondition(view)
	}
	if err != nil {
		return nil, err
	}
	// Attributes that no schema knows belong to other programs, so they are kept unless
	// the client names them. externalId is kept because Okta leaves it out.
	var keep []string
	for name := range view {
		if _, named := given[name]; !named && (name == "externalId" || !scim.User.Known(name) && !strings.HasPrefix(name, "urn:")) {
			keep = append(keep, name)
		}
	}
	if err := s.saveUser("scim.user.put", m, view, doc, keep); err != nil {
		return nil, err
	}
	return s.answerUser(0, m.ID)
}

func (s *call) patchUser() (*answer, error) {
	body, err := s.body()
	if err != nil {
		return nil, err
	}
	ops, err := scim.ParsePatch(scim.User, body)
	if err != nil {
		return nil, err
	}
	m, doc, err := s.wholeUser(s.id)
	if err == nil {
		err = s.precondition(doc)
	}
	if err != nil {
		return nil, err
	}
	view := scim.Document{}
	for name, v := range doc {
		view[name] = v
	}
	if doc, err = scim.User.Patch(doc, ops); err != nil {
		return nil, err
	}
	if err := s.saveUser("scim.user.patch", m, view, doc, nil); err != nil {
		return nil, err
	}
	return s.answerUser(0, m.ID)
}

func (s *call) deleteUser() (*answer, error) {
	m, doc, err := s.wholeUser(s.id)
	if err == nil {
		err = s.precondition(doc)
	}
	if err == nil {
		err = s.apply("scim.user.delete", m.ID, directory.Change{DropMembers: []string{m.ID}})
	}
	return &answer{}, err
}
