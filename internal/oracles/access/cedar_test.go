package access

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/usher-sh/usher"
)

// cedarWorld is a world as Cedar's policies and entities: members and groups are
// in their groups, permissions in what a role's own words mean, and each way
// through the roles of each assignment is a policy of its own.
type cedarWorld struct {
	w        *world
	policies map[*customer]*cedar.PolicySet
	entities types.EntityMap
}

// way is one path through included roles: where it ends, and all that it asks.
type way struct {
	role  string
	own   bool // the customer's
	asks  []string
	seats []string
}

// ways walks all paths from a role, the same as often as it is reached.
func (w *world) ways(c *customer, key string, own bool) []way {
	r := w.role(key)
	if own {
		if r != nil {
			return nil // nobody knows which of the two
		}
		r = c.role(key)
	}
	if r == nil {
		return nil
	}
	all := []way{{role: key, own: own}}
	for _, in := range r.Includes {
		all = append(all, w.ways(c, in, own && c.role(in) != nil)...)
	}
	for i := range all {
		if r.When != "" {
			all[i].asks = append(all[i].asks, r.When)
		}
		if r.Seat != "" {
			all[i].seats = append(all[i].seats, r.Seat)
		}
	}
	return all
}

func uid(kind, id string) types.EntityUID {
	return cedar.NewEntityUID(types.EntityType(kind), types.String(id))
}

func (c *customer) uid(h usher.Holder) types.EntityUID {
	if h.Group {
		return uid("Group", c.id+"|"+h.ID)
	}
	return uid("Member", c.id+"|"+h.ID)
}

// meaning is a pattern as a regular expression.
func meaning(pattern string) *regexp.Regexp {
	s := regexp.QuoteMeta(pattern)
	s = regexp.MustCompile(`\\\*\\\*$`).ReplaceAllString(s, `.+`)
	return regexp.MustCompile(`^` + strings.ReplaceAll(s, `\*`, `[^.]+`) + `$`)
}

// cedar is the condition as a policy says it.
func (e equality) cedar() string {
	place := func(s string) string {
		front, name, _ := strings.Cut(s, ".")
		switch front {
		case "subject":
			return "principal." + name
		case "context":
			return "context.said." + name
		case "action":
			return "context.action." + name
		}
		return s
	}
	return place(e.left) + " == " + place(e.right)
}

func cedarOf(when string) string {
	for _, e := range equalities {
		if e.cel() == when {
			return e.cedar()
		}
	}
	return "false"
}

func seatName(feature string) string { return strings.ReplaceAll(feature, "-", "_") }

func newCedarWorld(t testing.TB, w *world) *cedarWorld {
	c := &cedarWorld{w: w, policies: map[*customer]*cedar.PolicySet{}, entities: types.EntityMap{}}
	means := map[string][]types.EntityUID{} // by permission
	for _, p := range w.permissions {
		for _, r := range w.roles {
			for _, x := range r.Permissions {
				if meaning(x).MatchString(p) {
					means[p] = append(means[p], uid("Words", r.Key))
				}
			}
		}
		for _, cu := range w.customers {
			for _, r := range cu.custom {
				for _, x := range r.Permissions {
					if meaning(x).MatchString(p) {
						means[p] = append(means[p], uid("Words", cu.id+"|"+r.Key))
					}
				}
			}
		}
		c.put(types.Entity{UID: uid("Action", p), Parents: types.NewEntityUIDSet(means[p]...)})
	}
	for _, cu := range w.customers {
		above := map[types.EntityUID][]types.EntityUID{}
		for _, j := range cu.joins {
			h := cu.uid(j.Holder)
			above[h] = append(above[h], cu.uid(usher.Holder{Group: true, ID: j.Group}))
		}
		for h, list := range above {
			c.put(types.Entity{UID: h, Parents: types.NewEntityUIDSet(list...)})
		}
		c.policies[cu] = w.cedarPolicies(t, cu)
	}
	return c
}

func (c *cedarWorld) put(e types.Entity) { c.entities[e.UID] = e }

func (w *world) cedarPolicies(t testing.TB, cu *customer) *cedar.PolicySet {
	var b strings.Builder
	b.WriteString("forbid (principal, action, resource) unless { principal has active && principal.active };\n")
	words := func(x way) string {
		if x.own {
			return fmt.Sprintf("Words::%q", cu.id+"|"+x.role)
		}
		return fmt.Sprintf("Words::%q", x.role)
	}
	for _, a := range cu.assignments {
		own := cu.role(a.Role) != nil
		tops := []way{{}}
		if own {
			tops = nil
			if w.ceiling != "" {
				tops = w.ways(cu, w.ceiling, false)
			}
		}
		for _, x := range w.ways(cu, a.Role, own) {
			for _, top := range tops {
				fmt.Fprintf(&b, "permit (principal in %s, action in %s, resource", cu.uid(a.Holder), words(x))
				if a.ResourceID != "" {
					fmt.Fprintf(&b, " == %s::%q", a.ResourceType, a.ResourceID)
				} else if a.ResourceType != "" {
					fmt.Fprintf(&b, " is %s", a.ResourceType)
				}
				b.WriteString(") when { true")
				if own {
					fmt.Fprintf(&b, " && action in %s", words(top))
				}
				if !a.From.IsZero() {
					fmt.Fprintf(&b, " && %d <= context.at", a.From.UnixMicro())
				}
				if a.Until != nil {
					fmt.Fprintf(&b, " && context.at < %d", a.Until.UnixMicro())
				}
				for _, list := range [][]string{x.asks, top.asks} {
					for _, when := range list {
						fmt.Fprintf(&b, " && %s", cedarOf(when))
					}
				}
				for _, list := range [][]string{x.seats, top.seats} {
					for _, s := range list {
						fmt.Fprintf(&b, " && principal has %[1]s && context.at < principal.%[1]s", seatName(s))
					}
				}
				b.WriteString(" };\n")
			}
		}
	}
	set, err := cedar.NewPolicySetFromBytes("world", []byte(b.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, &b)
	}
	return set
}

// attributes are properties as Cedar has them: text and yes or no.
func attributes(all ...map[string]any) types.RecordMap {
	m := types.RecordMap{}
	for _, properties := range all {
		for k, v := range properties {
			switch v := v.(type) {
			case string:
				m[types.String(k)] = types.String(v)
			case bool:
				m[types.String(k)] = types.Boolean(v)
			}
		}
	}
	return m
}

// asked is the world with those that a question is about in it.
type asked struct {
	types.EntityMap
	principal, resource types.Entity
}

func (a *asked) Get(id types.EntityUID) (types.Entity, bool) {
	switch id {
	case a.principal.UID:
		return a.principal, true
	case a.resource.UID:
		return a.resource, true
	}
	return a.EntityMap.Get(id)
}

// allows is Cedar's answer.
func (c *cedarWorld) allows(_ testing.TB, q *question) bool {
	who := q.customer.uid(usher.Holder{ID: q.member})
	principal := attributes(q.subj, q.said.Subject)
	principal["id"] = types.String(q.member)
	if m := q.customer.member(q.member); m != nil {
		principal["active"] = types.Boolean(m.Active)
	}
	for _, s := range q.customer.seats[q.member] {
		end := s.Expires
		if end.IsZero() {
			end = noon.Add(1000 * time.Hour)
		}
		if e, ok := principal[types.String(seatName(s.Feature))].(types.Long); !ok || int64(e) < end.UnixMicro() {
			principal[types.String(seatName(s.Feature))] = types.Long(end.UnixMicro())
		}
	}
	kind := q.kind
	if kind == "" {
		kind = "nothing"
	}
	a := asked{c.entities, types.Entity{UID: who, Parents: c.entities[who].Parents, Attributes: cedar.NewRecord(principal)},
		types.Entity{UID: uid(kind, q.id), Attributes: cedar.NewRecord(attributes(q.stored, q.said.Resource))}}
	said := types.RecordMap{"at": types.Long(q.at.UnixMicro()), "said": cedar.NewRecord(attributes(q.said.Context)),
		"action": cedar.NewRecord(attributes(q.said.Action))}
	got, _ := cedar.Authorize(c.policies[q.customer], &a,
		cedar.Request{Principal: who, Action: uid("Action", q.permission), Resource: a.resource.UID, Context: cedar.NewRecord(said)})
	return bool(got)
}
