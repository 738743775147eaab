package scim

import (
	"maps"
	"slices"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/scim"
)

// plan answers what the customer's plan gives, and decides each feature only once.
type plan struct {
	s     *call
	asked map[string]usher.Decision
}

func (p *plan) of(feature string) (usher.Decision, error) {
	if d, ok := p.asked[feature]; ok {
		return d, nil
	}
	d, err := p.s.Decide.Check(p.s.ctx, p.s.Env, decide.CheckQuery{Customer: p.s.Customer, Feature: feature}, nil)
	if err == nil {
		p.asked[feature] = d
	}
	return d, err
}

// gives reports whether the plan gives a feature, even if it is used up.
func (p *plan) gives(feature string) (bool, error) {
	d, err := p.of(feature)
	if d.Allowed {
		return true, err
	}
	switch d.Reason {
	case usher.SeatLimitReached, usher.LimitReached, usher.CapReached, usher.InsufficientCredits:
		return true, err
	}
	return false, err
}

// permits reports whether the plan gives what a permission asks for (A02).
func (p *plan) permits(key string) (bool, error) {
	perm := p.s.Live.Catalog(p.s.Env).Permissions[key]
	if perm == nil || len(perm.Features) == 0 {
		return perm != nil, nil
	}
	for _, f := range perm.Features {
		ok, err := p.gives(f)
		if err != nil || ok == perm.Any {
			return ok, err
		}
	}
	return !perm.Any, nil
}

// counts adds to a document how many seats of a feature there are, and how many are
// taken.
func counts(doc scim.Document, d *usher.Decision) {
	doc["limitedAssignmentsPermitted"] = d.Counted && !d.Unlimited
	if d.Counted {
		doc["totalAssignmentsUsed"] = float64(d.Used + d.Reserved)
		if !d.Unlimited {
			doc["totalAssignmentsPermitted"] = float64(d.Limit)
		}
	}
}

// roles returns the roles that the customer's users can be given. A role is supported
// if the plan gives the seats that it needs and, unless the role has no permissions,
// what at least one of its permissions needs.
func (s *call) roles() ([]scim.Document, error) {
	views, err := s.Directory.Roles(s.ctx, s.Env, s.Customer)
	if err != nil {
		return nil, err
	}
	p := &plan{s, map[string]usher.Decision{}}
	var all []scim.Document
	for i := range views {
		doc, err := s.role(p, &views[i], views)
		if err != nil {
			return nil, err
		}
		all = append(all, doc)
	}
	return all, nil
}

func (s *call) role(p *plan, v *directory.RoleView, all []directory.RoleView) (scim.Document, error) {
	kind := "built-in"
	if v.Custom {
		kind = "custom"
	}
	meta := scim.Document{"resourceType": "Role", "location": s.base + "/Roles/" + pathEscape(v.Key)}
	doc := scim.Document{
		"schemas": []any{scim.RoleURN}, "id": v.Key, "value": v.Key, "display": v.Title, "type": kind,
		"limitedAssignmentsPermitted": false, "contains": texts(v.Includes), "meta": meta,
	}
	if v.Title == "" {
		doc["display"] = v.Key
	}
	var above []string
	for i := range all {
		if slices.Contains(all[i].Includes, v.Key) {
			above = append(above, all[i].Key)
		}
	}
	doc["containedBy"] = texts(above)
	supported := len(v.Gives) == 0
	for _, key := range v.Gives {
		ok, err := p.permits(key)
		if err != nil {
			return nil, err
		}
		if supported = ok; ok {
			break
		}
	}
	var tightest *usher.Decision // of the features of which a holder needs a seat, the one with the fewest left
	for _, f := range v.Seats {
		ok, err := p.gives(f)
		if err != nil {
			return nil, err
		}
		supported = supported && ok
		d, err := p.of(f)
		if err != nil {
			return nil, err
		}
		if tightest == nil || tightest.Unlimited || !d.Unlimited && d.Remaining < tightest.Remaining {
			tightest = &d
		}
	}
	if tightest != nil {
		counts(doc, tightest)
	}
	doc["supported"] = supported
	return doc, nil
}

func texts(list []string) []any {
	out := make([]any, 0, len(list))
	for _, t := range list {
		out = append(out, t)
	}
	return out
}

// entitlements returns the switches and the features of kind seats of the catalogue.
func (s *call) entitlements() ([]scim.Document, error) {
	p := &plan{s, map[string]usher.Decision{}}
	features := s.Live.Catalog(s.Env).Features
	var all []scim.Document
	for _, key := range slices.Sorted(maps.Keys(features)) {
		f := features[key]
		if f.Kind != usher.Seats && f.Kind != usher.Switch {
			continue
		}
		d, err := p.of(key)
		if err != nil {
			return nil, err
		}
		supported, err := p.gives(key)
		if err != nil {
			return nil, err
		}
		meta := scim.Document{"resourceType": "Entitlement", "location": s.base + "/Entitlements/" + pathEscape(key)}
		doc := scim.Document{
			"schemas": []any{scim.EntitlementURN}, "id": key, "value": key, "display": f.Title, "type": string(f.Kind),
			"supported": supported, "contains": []any{}, "containedBy": []any{}, "meta": meta,
		}
		if f.Title == "" {
			doc["display"] = key
		}
		counts(doc, &d)
		all = append(all, doc)
	}
	return all, nil
}

func (s *call) listed(t *scim.Type, all []scim.Document, err error) (*answer, error) {
	if err != nil {
		return nil, err
	}
	q, err := s.query(t)
	if err != nil {
		return nil, err
	}
	return q.page(slices.DeleteFunc(all, func(d scim.Document) bool { return !q.filter.Match(d) })), nil
}

func (s *call) listRoles() (*answer, error) {
	all, err := s.roles()
	return s.listed(scim.Role, all, err)
}

func (s *call) getRole() (*answer, error) {
	all, err := s.roles()
	if err != nil {
		return nil, err
	}
	return s.named(all, "role")
}

func (s *call) listEntitlements() (*answer, error) {
	all, err := s.entitlements()
	return s.listed(scim.Entitlement, all, err)
}

func (s *call) getEntitlement() (*answer, error) {
	all, err := s.entitlements()
	if err != nil {
		return nil, err
	}
	return s.named(all, "entitlement")
}
