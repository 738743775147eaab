package scim

import (
	"net/http"
	"slices"
	"strings"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/scim"
)

// groupDoc returns a group as SCIM shows it. Without its members it is incomplete and
// has no version.
func (s *call) groupDoc(g *usher.Group, members bool) (scim.Document, error) {
	doc := scim.Group.View(g.Properties)
	for _, name := range derived {
		delete(doc, name)
	}
	doc["id"], doc["displayName"] = g.ID, g.Title
	if g.Title == "" {
		doc["displayName"] = g.ID
	}
	doc["schemas"] = append([]any{scim.GroupURN}, urnsOf(doc)...)
	if members {
		in, err := s.in(g.ID)
		if err != nil {
			return nil, err
		}
		list := make([]any, 0, len(in))
		for _, h := range in {
			kind, at := "User", "/Users/"
			if h.Group {
				kind, at = "Group", "/Groups/"
			}
			list = append(list, scim.Document{"value": h.ID, "type": kind, "$ref": s.base + at + pathEscape(h.ID)})
		}
		doc["members"] = list
	}
	s.meta(doc, "Group", "/Groups", g.ID, stamp(g.CreatedAt), g.Properties, members)
	return doc, nil
}

// in returns the members and groups that are directly in a group.
func (s *call) in(group string) (all []usher.Holder, err error) {
	var after *usher.Holder
	for {
		page, err := s.dir.In(s.ctx, group, after, 5000)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < 5000 {
			return all, nil
		}
		after = &page[len(page)-1]
	}
}

func (s *call) group(id string) (usher.Group, error) {
	g, err := s.dir.Group(s.ctx, id)
	if usher.ErrorCode(err) == usher.NotFound {
		err = usher.Errorf(usher.NotFound, "there is no group %s", door.Clip(id))
	}
	return g, err
}

func (s *call) answerGroup(status int, id string) (*answer, error) {
	q, err := s.query(scim.Group)
	if err != nil {
		return nil, err
	}
	g, err := s.group(id)
	if err != nil {
		return nil, err
	}
	members := q.show.Has("members")
	doc, err := s.groupDoc(&g, members)
	if err != nil {
		return nil, err
	}
	out := &answer{status: status, body: q.show.Of(doc)}
	if members {
		out.etag = version(doc)
	}
	if status == http.StatusCreated {
		out.location = doc["meta"].(scim.Document)["location"].(string)
	}
	return out, nil
}

func (s *call) getGroup() (*answer, error) { return s.answerGroup(0, s.id) }

func (s *call) groupPage(after string, limit int) ([]usher.Group, error) {
	return s.dir.Groups(s.ctx, after, limit)
}

// groupCandidates returns the groups that a filter must be applied to: as few as an
// index can find.
func (s *call) groupCandidates(f *scim.Filter) ([]usher.Group, error) {
	if unknowable(f, "id", "displayName", "members") {
		return nil, nil
	}
	if id, ok := f.Equals("id"); ok {
		g, err := s.dir.Group(s.ctx, id)
		if usher.ErrorCode(err) == usher.NotFound {
			return nil, nil
		}
		return []usher.Group{g}, err
	}
	if name, ok := f.Equals("displayName"); ok {
		found, err := s.dir.GroupsNamed(s.ctx, name)
		if err != nil {
			return nil, err
		}
		if g, err := s.dir.Group(s.ctx, name); err == nil && g.Title == "" {
			found = append(found, g)
		} else if err != nil && usher.ErrorCode(err) != usher.NotFound {
			return nil, err
		}
		if len(found) < 10 { // with 10 there may be more, so all are looked at
			return found, nil
		}
	}
	if id, ok := f.Equals("members"); ok {
		var found []usher.Group
		for _, group := range []bool{false, true} {
			in, err := s.dir.GroupsOf(s.ctx, usher.Holder{ID: id, Group: group})
			if err != nil {
				return nil, err
			}
			for _, id := range in {
				g, err := s.dir.Group(s.ctx, id)
				if usher.ErrorCode(err) == usher.NotFound || slices.ContainsFunc(found, func(other usher.Group) bool { return other.ID == id }) {
					continue
				} else if err != nil {
					return nil, err
				}
				found = append(found, g)
			}
		}
		return found, nil
	}
	most := maxScan
	if f.Names("members") {
		most = maxJoin
	}
	return scanned("groups", most, s.groupPage, func(g *usher.Group) string { return g.ID })
}

func (s *call) listGroups() (*answer, error) {
	q, err := s.query(scim.Group)
	if err != nil {
		return nil, err
	}
	members := q.show.Has("members")
	var found []usher.Group
	var total int
	if q.filter == nil {
		n, err := s.dir.CountGroups(s.ctx)
		if err != nil {
			return nil, err
		}
		total = int(n)
		if found, err = paged(s, "Group", q, s.groupPage, func(g *usher.Group) string { return g.ID }); err != nil {
			return nil, err
		}
	} else {
		all, err := s.groupCandidates(q.filter)
		if err != nil {
			return nil, err
		}
		for i := range all {
			doc, err := s.groupDoc(&all[i], q.filter.Names("members"))
			if err != nil {
				return nil, err
			}
			if q.filter.Match(doc) {
				found = append(found, all[i])
			}
		}
		total = len(found)
		from := min(q.start-1, total)
		found = found[from:min(from+q.count, total)]
	}
	var shown []scim.Document
	for i := range found {
		doc, err := s.groupDoc(&found[i], members)
		if err != nil {
			return nil, err
		}
		shown = append(shown, q.show.Of(doc))
	}
	return &answer{body: scim.List(shown, q.start, total)}, nil
}

func (s *call) createGroup() (*answer, error) {
	doc, err := s.body()
	if err == nil {
		doc, err = scim.Group.Normalize(doc)
	}
	if err != nil {
		return nil, err
	}
	g := usher.Group{Source: usher.SourceSCIM}
	if external, _ := doc["externalId"].(string); plainID(external) {
		there, err := s.dir.HasGroups(s.ctx, []string{external})
		if err != nil {
			return nil, err
		}
		if !there[external] {
			g.ID = external
		}
	}
	if g.ID == "" {
		g.ID = s.makeID("grp_")
	}
	if err := s.saveGroup("scim.group.create", g, nil, doc, nil); err != nil {
		return nil, err
	}
	return s.answerGroup(http.StatusCreated, g.ID)
}

// saveGroup stores a group as doc describes it, in one change. If doc has no members
// attribute, the members stay.
func (s *call) saveGroup(action string, g usher.Group, view, doc scim.Document, keep []string) error {
	g.Title, _ = doc["displayName"].(string)
	if strings.TrimSpace(g.Title) == "" {
		return &scim.Error{Kind: scim.InvalidValue, Detail: "displayName is required: the name of the group"}
	}
	g.Properties = properties(g.Properties, view, doc, keep)
	delete(g.Properties, "displayName")
	g.Properties["meta"] = map[string]any{"lastModified": stamp(s.Live.Now(s.Env))}
	c := directory.Change{Groups: []usher.Group{g}}
	if given, ok := doc["members"].([]any); ok {
		want, err := s.holders(given)
		if err != nil {
			return err
		}
		var have []usher.Holder
		if view != nil {
			if have, err = s.in(g.ID); err != nil {
				return err
			}
		}
		left := make(map[usher.Holder]bool, len(have))
		for _, h := range have {
			left[h] = true
		}
		for _, h := range want {
			if left[h] {
				delete(left, h)
			} else {
				c.Join = append(c.Join, usher.Membership{Group: g.ID, Holder: h})
			}
		}
		for _, h := range have {
			if left[h] {
				c.Leave = append(c.Leave, usher.Membership{Group: g.ID, Holder: h})
			}
		}
	}
	return s.apply(action, g.ID, c)
}

// holders reads the attribute members, each once. If an entry does not say whether its
// id is a user's or a group's, the directory is asked.
func (s *call) holders(list []any) ([]usher.Holder, error) {
	var all []usher.Holder
	var open []string // ids that may be a user's or a group's
	seen := map[string]bool{}
	for _, v := range list {
		doc, _ := v.(scim.Document)
		id, _ := doc["value"].(string)
		if id == "" {
			return nil, &scim.Error{Kind: scim.InvalidValue, Detail: `each of members must be {"value": "<id>"}`}
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		kind, _ := doc["type"].(string)
		ref, _ := doc["$ref"].(string)
		switch {
		case strings.EqualFold(kind, "Group"), kind == "" && strings.Contains(ref, "/Groups/"):
			all = append(all, usher.Holder{Group: true, ID: id})
		case strings.EqualFold(kind, "User"):
			all = append(all, usher.Holder{ID: id})
		case kind != "":
			return nil, &scim.Error{Kind: scim.InvalidValue, Detail: "the type of a member must be User or Group, got " + door.Clip(kind)}
		default:
			open = append(open, id)
		}
	}
	users, err := s.dir.HasMembers(s.ctx, open)
	if err != nil {
		return nil, err
	}
	groups, err := s.dir.HasGroups(s.ctx, slices.DeleteFunc(slices.Clone(open), func(id string) bool { return users[id] }))
	for _, id := range open {
		all = append(all, usher.Holder{ID: id, Group: groups[id]})
	}
	return all, err
}

func (s *call) putGroup() (*answer, error) {
	given, err := s.body()
	if err != nil {
		return nil, err
	}
	doc, err := scim.Group.Normalize(given)
	if err != nil {
		return nil, err
	}
	g, view, err := s.wholeGroup(s.id)
	if err == nil {
		err = s.precondition(view)
	}
	if err != nil {
		return nil, err
	}
	var keep []string
	for name := range view {
		if _, named := given[name]; !named && (name == "externalId" || !scim.Group.Known(name) && !strings.HasPrefix(name, "urn:")) {
			keep = append(keep, name)
		}
	}
	if err := s.saveGroup("scim.group.put", g, view, doc, keep); err != nil {
		return nil, err
	}
	return s.answerGroup(0, g.ID)
}

func (s *call) wholeGroup(id string) (g usher.Group, doc scim.Document, err error) {
	if g, err = s.group(id); err == nil {
		doc, err = s.groupDoc(&g, true)
	}
	return g, doc, err
}

func (s *call) patchGroup() (*answer, error) {
	body, err := s.body()
	if err != nil {
		return nil, err
	}
	ops, err := scim.ParsePatch(scim.Group, body)
	if err != nil {
		return nil, err
	}
	if _, err := s.query(scim.Group); err != nil {
		return nil, err
	}
	g, err := s.group(s.id)
	if err != nil {
		return nil, err
	}
	touched := scim.Touches(ops, "members")
	doc, err := s.groupDoc(&g, touched || s.r.Header.Get("If-Match") != "")
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
	if doc, err = scim.Group.Patch(doc, ops); err != nil {
		return nil, err
	}
	if _, some := doc["members"]; touched && !some {
		doc["members"] = []any{}
	}
	if err := s.saveGroup("scim.group.patch", g, view, doc, nil); err != nil {
		return nil, err
	}
	if s.r.URL.Query().Get("attributes") == "" { // a group can be large, so it is not sent back unasked (RFC 7644, 3.5.2)
		return &answer{}, nil
	}
	return s.answerGroup(http.StatusOK, g.ID)
}

func (s *call) deleteGroup() (*answer, error) {
	g, err := s.group(s.id)
	if err == nil && s.r.Header.Get("If-Match") != "" {
		var doc scim.Document
		if doc, err = s.groupDoc(&g, true); err == nil {
			err = s.precondition(doc)
		}
	}
	if err == nil {
		err = s.apply("scim.group.delete", g.ID, directory.Change{DropGroups: []string{g.ID}})
	}
	return &answer{}, err
}
