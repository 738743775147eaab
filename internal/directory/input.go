package directory

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/usher-sh/usher"
)

// The bounds of a directory.
const (
	// MaxProperties is the largest properties of one member, group or resource,
	// in bytes of JSON.
	MaxProperties = 64 << 10
	// MaxDepth is how deep properties may nest.
	MaxDepth = 16
	// MaxTitle and MaxReason are the longest title and reason, in bytes.
	MaxTitle  = 1000
	MaxReason = 500
	// MaxItems is how many members, groups, roles, … one change may have together.
	MaxItems = 10_000
	// MaxCustomRoles is how many roles of its own a customer may have.
	MaxCustomRoles = 1000
	// MaxRoleItems bounds the permissions, and the includes, of a custom role.
	MaxRoleItems = 1000
	// MaxIncludes and MaxPatterns bound the includes, and the permissions with a *,
	// of all of a customer's roles together: each costs time whenever the roles are
	// compiled.
	MaxIncludes = 10_000
	MaxPatterns = 1000
)

// problems collects what is wrong, so that the caller sees all of it.
type problems []usher.Problem

func (p *problems) add(location, format string, args ...any) {
	if len(*p) < 100 {
		*p = append(*p, usher.Problem{Location: location, Message: fmt.Sprintf(format, args...)})
	}
}

func (p *problems) id(location, what, id string) {
	if err := usher.CheckID(what, id); err != nil {
		p.add(location, "%s", err)
	}
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	words := p[0].Location + ": " + p[0].Message
	if len(p) > 1 {
		words = fmt.Sprintf("the request has %d problems: %s", len(p), words)
	}
	return &usher.Error{Code: usher.Invalid, Detail: words, Problems: p}
}

// bounded returns Invalid if the change has more than MaxItems items.
func (c *Change) bounded() error {
	n := len(c.MergeMembers) + len(c.MergeGroups) + len(c.Members) + len(c.DropMembers) + len(c.Groups) + len(c.DropGroups) +
		len(c.Join) + len(c.Leave) + len(c.Roles) + len(c.DropRoles) + len(c.Assign) + len(c.Unassign) + len(c.Resources) + len(c.DropResources)
	if n <= MaxItems {
		return nil
	}
	var p problems
	p.add("", "may have at most %d items, this has %d", MaxItems, n)
	return p.err()
}

// normal checks what can be checked without the database, and fills in defaults.
func (w *work) normal() error {
	c, d := w.c, &w.change
	var p problems
	if err := c.bounded(); err != nil {
		return err
	}
	place := func(list string, i int, name string) string { return fmt.Sprintf("%s[%d].%s", list, i, name) }
	seen := map[string]bool{}
	once := func(location, key string) {
		if seen[key] {
			p.add(location, "is given twice")
		}
		seen[key] = true
	}
	for i, m := range c.Members {
		p.id(place("members", i, "id"), "a member's id", m.ID)
		once(place("members", i, "id"), "m"+m.ID)
		if m.Type == "" {
			m.Type = usher.DefaultMemberType
		}
		p.id(place("members", i, "type"), "a member's type", m.Type)
		p.properties(place("members", i, "properties"), m.Properties)
		if m.CreatedAt.IsZero() {
			m.CreatedAt = w.now
		}
		d.Members = append(d.Members, m)
	}
	for i, g := range c.Groups {
		p.id(place("groups", i, "id"), "a group's id", g.ID)
		once(place("groups", i, "id"), "g"+g.ID)
		p.text(place("groups", i, "title"), g.Title, MaxTitle)
		p.properties(place("groups", i, "properties"), g.Properties)
		if g.CreatedAt.IsZero() {
			g.CreatedAt = w.now
		}
		d.Groups = append(d.Groups, g)
	}
	for i, m := range c.Join {
		p.id(place("join", i, "group"), "a group's id", m.Group)
		p.id(place("join", i, "id"), "an id", m.Holder.ID)
		if key := fmt.Sprintf("j%q%v%q", m.Group, m.Holder.Group, m.Holder.ID); !seen[key] { // a membership that is listed twice is stored once
			seen[key] = true
			d.Join = append(d.Join, m)
		}
	}
	for i, a := range c.Assign {
		p.id(place("assignments", i, "holder"), "a member's or group's id", a.Holder.ID)
		if a.ResourceID != "" && a.ResourceType == "" {
			p.add(place("assignments", i, "resource_type"), "is required with resource_id")
		}
		if a.ResourceType != "" {
			p.id(place("assignments", i, "resource_type"), "a resource's type", a.ResourceType)
		}
		if a.ResourceID != "" {
			p.id(place("assignments", i, "resource_id"), "a resource's id", a.ResourceID)
		}
		a.From = a.From.UTC().Truncate(time.Microsecond)
		if a.From.IsZero() {
			a.From = w.now
		}
		if a.Until != nil {
			until := a.Until.UTC().Truncate(time.Microsecond)
			a.Until = &until
			if !until.After(a.From) {
				p.add(place("assignments", i, "until"), "must be after from (%s)", a.From.Format(time.RFC3339Nano))
			} else if !until.After(w.now) {
				p.add(place("assignments", i, "until"), "must be later than now (%s)", w.now.Format(time.RFC3339Nano))
			}
		}
		p.text(place("assignments", i, "reason"), a.Reason, MaxReason)
		if a.Source == "" {
			a.Source = usher.SourceManual
		}
		a.ID = assignmentID(&a)
		once(place("assignments", i, "role"), "a"+a.ID)
		d.Assignments = append(d.Assignments, a)
	}
	for i, r := range c.Resources {
		p.id(place("resources", i, "type"), "a resource's type", r.Type)
		p.id(place("resources", i, "id"), "a resource's id", r.ID)
		once(place("resources", i, "id"), fmt.Sprintf("r%q%q", r.Type, r.ID))
		p.properties(place("resources", i, "properties"), r.Properties)
		if r.CreatedAt.IsZero() {
			r.CreatedAt = w.now
		}
		d.Resources = append(d.Resources, r)
	}
	for i, m := range c.Leave {
		p.id(place("leave", i, "group"), "a group's id", m.Group)
		p.id(place("leave", i, "id"), "an id", m.Holder.ID)
	}
	for i, r := range c.DropResources {
		p.id(place("drop_resources", i, "type"), "a resource's type", r.Type)
		p.id(place("drop_resources", i, "id"), "a resource's id", r.ID)
	}
	for _, l := range []struct {
		name, what string
		ids        []string
	}{{"drop_members", "a member's id", c.DropMembers}, {"drop_groups", "a group's id", c.DropGroups},
		{"drop_roles", "a role's key", c.DropRoles}, {"unassign", "an assignment's id", c.Unassign}} {
		for i, id := range l.ids {
			p.id(fmt.Sprintf("%s[%d]", l.name, i), l.what, id)
		}
	}
	p.text("reason", d.Note.Reason, MaxReason)
	if c.By != "" {
		p.id("by", "a member's id", c.By)
	}
	d.DropMembers, d.DropGroups, d.Leave = c.DropMembers, c.DropGroups, c.Leave
	d.DropRoles, d.DropAssignments, d.DropResources = c.DropRoles, c.Unassign, c.DropResources
	return p.err()
}

func (p *problems) text(location, s string, most int) {
	if len(s) > most {
		p.add(location, "must be at most %d bytes, this is %d", most, len(s))
	} else if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		p.add(location, "must be valid UTF-8 without control characters")
	}
}

func (p *problems) properties(location string, v map[string]any) {
	if v == nil {
		return
	}
	if d := depth(v); d > MaxDepth {
		p.add(location, "may be nested at most %d levels deep", MaxDepth)
		return
	}
	if b, err := json.Marshal(v); err != nil {
		p.add(location, "must be JSON values")
	} else if len(b) > MaxProperties {
		p.add(location, "may be at most %d bytes of JSON, these are %d", MaxProperties, len(b))
	}
}

func depth(v any) int {
	most := 0
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			most = max(most, depth(x))
		}
	case []any:
		for _, x := range v {
			most = max(most, depth(x))
		}
	default:
		return 0
	}
	return most + 1
}
