package catalog

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/store"
)

// refuse returns InUse if the file would redefine what was used (S29) or remove what
// is needed (S31). The error lists all of it, and who needs it.
func (p *plan) refuse(ctx context.Context) error {
	old := p.old
	if old == nil {
		old = &usher.Catalog{}
	}
	var removed []string // plans and add-ons, by key
	for key := range old.Plans {
		if p.next.Plans[key] == nil {
			removed = append(removed, key)
		}
	}
	for key := range old.Addons {
		if p.next.Addons[key] == nil {
			removed = append(removed, key)
		}
	}
	use, err := p.db.FeatureUse(ctx, p.env, p.now)
	if err != nil {
		return err
	}
	r := &refusal{p: p, use: use, users: map[string][]user{}}
	// Features that are removed or redefined, by key.
	for _, key := range slices.Sorted(maps.Keys(old.Features)) {
		was, is := old.Features[key], p.next.Features[key]
		if is == nil {
			r.features = append(r.features, key)
			r.wanted = append(r.wanted, key)
		} else if what := redefined(old, p.next, was, is); what != "" {
			r.redefined = append(r.redefined, redefinition{key, what})
			r.wanted = append(r.wanted, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p.next.Features)) {
		if old.Features[key] == nil {
			if err := r.returned(ctx, key); err != nil {
				return err
			}
		}
	}
	slices.Sort(removed)
	if err := r.findHolders(ctx, removed); err != nil {
		return err
	}
	return r.judge(ctx, removed)
}

// redefined lists what differs of a feature that must not change once it was used; ""
// if nothing does.
func redefined(old, next *usher.Catalog, was, is *usher.Feature) string {
	var what []string
	note := func(name, a, b string) {
		if a != b {
			what = append(what, fmt.Sprintf("%s %s → %s", name, word(a), word(b)))
		}
	}
	note("kind", string(was.Kind), string(is.Kind))
	note("type", string(was.Type), string(is.Type))
	note("precision", fmt.Sprint(was.Precision), fmt.Sprint(is.Precision))
	note("meter", was.Meter, is.Meter)
	if a, b := old.Meters[was.Meter], next.Meters[is.Meter]; a != nil && b != nil && was.Meter == is.Meter {
		at := "meter " + a.Key + "'s "
		note(at+"event", a.Event, b.Event)
		note(at+"aggregation", string(a.Aggregation), string(b.Aggregation))
		note(at+"field", a.Field, b.Field)
		if !reflect.DeepEqual(a.Where, b.Where) && len(a.Where)+len(b.Where) > 0 {
			what = append(what, at+"filter")
		}
	}
	return strings.Join(what, ", ")
}

func word(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

type redefinition struct{ feature, what string }

// user is one subscription that needs something.
type user struct{ subscription, customer, version string }

type refusal struct {
	p         *plan
	use       map[string]store.FeatureUse
	features  []string // removed features
	redefined []redefinition
	wanted    []string          // features whose holders matter
	users     map[string][]user // "feature:sso", "plan:pro" → up to maxListed
}

// returned looks at a feature that an earlier catalogue had and the one in force does
// not. It is compared with what it was when its use was recorded. Otherwise removing it
// and adding it again would be a way around S29.
func (r *refusal) returned(ctx context.Context, key string) error {
	p := r.p
	if used, err := p.db.HasUsage(ctx, p.env, key); err != nil || !used {
		return err
	}
	// Newest first: the last definition before the removal is the one that recorded use has.
	for before := int64(0); ; {
		rows, err := p.db.CatalogRevisions(ctx, p.env, before, 50)
		if err != nil {
			return err
		}
		for _, row := range rows {
			full, err := p.db.CatalogAt(ctx, p.env, row.Revision)
			if err != nil {
				return err
			}
			then, err := catalogfile.Parse("stored catalogue", []byte(full.Canonical))
			if err != nil {
				return err
			}
			if was := then.Features[key]; was != nil {
				if what := redefined(then, p.next, was, p.next.Features[key]); what != "" {
					r.redefined = append(r.redefined, redefinition{key, what})
				}
				return nil
			}
			before = row.Revision
		}
		if len(rows) < 50 {
			return nil
		}
	}
}

// gives reports whether a published version gives a feature.
func (p *plan) gives(ref usher.Ref, feature string) bool {
	if v, ok := p.book.Plan(ref); ok && v.Entitlements[feature] != nil {
		return true
	}
	v, ok := p.book.Addon(ref)
	return ok && v.Entitlements[feature] != nil
}

// findHolders finds the subscriptions that need what is removed or redefined.
func (r *refusal) findHolders(ctx context.Context, removed []string) error {
	p := r.p
	for _, name := range p.held() {
		ref, err := usher.ParseRef("version", name)
		if err != nil {
			return err
		}
		var needs []string
		if slices.Contains(removed, ref.Key) {
			needs = append(needs, "version:"+ref.Key)
		}
		for _, feature := range r.wanted {
			if p.gives(ref, feature) {
				needs = append(needs, "feature:"+feature)
			}
		}
		if len(needs) == 0 {
			continue
		}
		err = p.holding(ctx, name, func(s *usher.Subscription) (bool, error) {
			refs, err := p.needs(ctx, s)
			if err != nil || !slices.Contains(refs, ref) {
				return true, err
			}
			// The list of users is bounded. Once every need of this version has enough, the walk
			// over its subscriptions ends.
			more := false
			for _, n := range needs {
				if len(r.users[n]) < maxListed {
					r.users[n] = append(r.users[n], user{s.ID, s.Customer, name})
					more = true
				}
			}
			return more, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *refusal) judge(ctx context.Context, removed []string) error {
	p := r.p
	var problems []usher.Problem
	add := func(location, format string, args ...any) {
		if len(problems) < maxListed {
			problems = append(problems, usher.Problem{Location: location, Message: fmt.Sprintf(format, args...)})
		}
	}
	list := func(location, verb string, users []user) {
		for _, u := range users {
			add(location, "%s: subscription %s of customer %s holds %s", verb, u.subscription, u.customer, u.version)
		}
	}
	for _, d := range r.redefined {
		at := "features." + d.feature
		why := r.words(d.feature)
		used, err := p.db.HasUsage(ctx, p.env, d.feature)
		if err != nil {
			return err
		}
		if used {
			why = append(why, "use of it has been recorded")
		}
		if len(why) > 0 {
			add(at, "%s cannot change any more: %s; make a new feature", d.what, strings.Join(why, ", "))
		}
		list(at, d.what+" cannot change", r.users["feature:"+d.feature])
	}
	for _, key := range r.features {
		at := "features." + key
		if why := r.words(key); len(why) > 0 {
			add(at, "cannot be removed: %s", strings.Join(why, ", "))
		}
		list(at, "cannot be removed", r.users["feature:"+key])
	}
	for _, key := range removed {
		section := "addons."
		if p.old.Plans[key] != nil && p.next.Plans[key] == nil {
			section = "plans."
		}
		list(section+key, "cannot be removed", r.users["version:"+key])
	}
	if err := p.roles(ctx, add); err != nil {
		return err
	}
	if len(problems) == 0 {
		return nil
	}
	return &usher.Error{Code: usher.InUse, Problems: problems,
		Detail: "the catalogue was not applied: it changes or removes what is in use; migrate, end or expire the users first: " +
			problems[0].Location + " " + problems[0].Message}
}

// words lists what uses a feature besides subscriptions.
func (r *refusal) words(feature string) (why []string) {
	u := r.use[feature]
	count := func(n int64, what string) {
		if n > 0 {
			why = append(why, usher.CountOf(n, what))
		}
	}
	count(u.Overrides, "live override")
	count(u.Grants, "live grant")
	if u.Buckets > 0 {
		why = append(why, usher.CountOf(u.Buckets, "open window")+" with use")
	}
	count(u.Holds, "open reservation")
	if len(why) > 0 {
		why[len(why)-1] += " (for example of customer " + u.Example + ")"
	}
	return why
}

// status returns the present status of a subscription.
func (p *plan) status(s *usher.Subscription, all []usher.Subscription, c *usher.Customer) usher.Status {
	name := c.Clocks[len(c.Clocks)-1].Timezone
	if name == "" {
		name = p.book.Timezone
	}
	zone, err := calendar.Zone(name)
	if err != nil {
		zone = time.UTC
	}
	return p.book.StateAt(s, p.now, engine.FirstStart(all, s.Family), zone).Status
}
