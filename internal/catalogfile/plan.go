package catalogfile

import (
	"maps"
	"slices"
	"strings"

	"github.com/usher-sh/usher"
)

var (
	planFields  = []string{"title", "family", "default", "extends", "without", "trial", "past_due", "period", "entitlements"}
	addonFields = []string{"title", "entitlements"}
)

// Resolve returns a copy of a plan with extends and without applied (S29): it has
// the entitlements that the plan gives, inherited ones included, and neither
// Extends nor Without. An entitlement of the plan's own replaces the inherited
// one whole. It returns nil if there is no such plan. The entitlements are shared with c.
func Resolve(c *usher.Catalog, plan string) *usher.Plan {
	own := c.Plans[plan]
	if own == nil {
		return nil
	}
	chain := []*usher.Plan{own}
	for len(chain) <= MaxExtends {
		base := c.Plans[chain[len(chain)-1].Extends]
		if base == nil {
			break
		}
		chain = append(chain, base)
	}
	p := *own
	p.Extends, p.Without = "", nil
	p.Entitlements = make(map[string]*usher.Entitlement)
	for _, from := range slices.Backward(chain) {
		for _, key := range from.Without {
			delete(p.Entitlements, key)
		}
		maps.Copy(p.Entitlements, from.Entitlements)
	}
	return &p
}

// given returns what a plan gives for a feature, of its own or inherited, or nil.
func given(c *usher.Catalog, plan, feature string) *usher.Entitlement {
	for range MaxExtends + 1 {
		p := c.Plans[plan]
		if p == nil {
			return nil
		}
		if e := p.Entitlements[feature]; e != nil {
			return e
		}
		if slices.Contains(p.Without, feature) {
			return nil
		}
		plan = p.Extends
	}
	return nil
}

// plan reads one plan. What points at other plans is checked when all are read.
func (p *parser) plan(key string, n *node) *usher.Plan {
	plan := &usher.Plan{Key: key, Family: usher.DefaultFamily, Entitlements: map[string]*usher.Entitlement{}}
	if !p.fields(n, planFields) {
		return plan
	}
	plan.Title = p.title(n.get("title"))
	if family := n.get("family"); family != nil {
		s, ok := p.text(family, maxTitle)
		if ok && !usher.ValidKey(s) {
			p.bad(family, "invalid key %s: a key is 1 to %d of a-z 0-9 . _ - and begins with a letter or digit%s", quote(s), usher.MaxKey,
				keyHint(s, usher.ValidKey))
		}
		plan.Family = s
	}
	if def := n.get("default"); def != nil {
		plan.Default = p.flag(def)
	}
	if extends := n.get("extends"); extends != nil {
		plan.Extends, _ = p.text(extends, maxTitle)
	}
	if without := n.get("without"); without != nil {
		for _, item := range p.list(without, "inherited features") {
			s, ok := p.text(item, maxTitle)
			if ok && slices.Contains(plan.Without, s) {
				p.bad(item, "%s is listed twice", quote(s))
			}
			plan.Without = append(plan.Without, s)
		}
		slices.Sort(plan.Without)
	}
	if trial := n.get("trial"); trial != nil {
		span, ok := p.span(trial)
		if ok && span.N == 0 {
			p.bad(trial, "must be longer than zero; leave trial out for no trial")
		}
		plan.Trial = span
	}
	if due := n.get("past_due"); due != nil {
		plan.PastDue = p.pastDue(due)
	}
	if period := n.get("period"); period != nil {
		if plan.Period, _ = word(p, period, []usher.Unit{usher.Month, usher.Year}); plan.Period == usher.Month {
			plan.Period = ""
		}
	}
	plan.Entitlements = p.entitlements(n.get("entitlements"))
	return plan
}

// pastDue reads what an unpaid subscription becomes (S27). The default is nil.
func (p *parser) pastDue(n *node) *usher.PastDue {
	due := usher.DefaultPastDue
	if n.class() == isText {
		p.bad(n, "must be a map: write {then: %s}, or {grace: 7 days, then: %s}", clip(n.text), clip(n.text))
		return nil
	}
	if !p.fields(n, []string{"grace", "then"}) {
		return nil
	}
	if grace := n.get("grace"); grace != nil {
		due.Grace, _ = p.span(grace)
	}
	if then := n.get("then"); then != nil {
		due.Then, _ = p.text(then, maxTitle)
	}
	if due == usher.DefaultPastDue {
		return nil
	}
	return &due
}

// addon reads one add-on.
func (p *parser) addon(key string, n *node) *usher.Addon {
	a := &usher.Addon{Key: key, Entitlements: map[string]*usher.Entitlement{}}
	if !p.fields(n, addonFields) {
		return a
	}
	a.Title = p.title(n.get("title"))
	a.Entitlements = p.entitlements(n.get("entitlements"))
	return a
}

// checkPlans checks what plans say of each other.
func (p *parser) checkPlans(n *node) {
	if n == nil || n.kind != mapNode {
		return
	}
	defaults := map[string]string{} // family → plan
	looped := map[string]bool{}     // plans of cycles that were noted
	for i, key := range n.keys {
		plan, at := p.cat.Plans[key.text], n.items[i]
		if plan == nil || at.kind != mapNode {
			continue
		}
		if plan.Default {
			if first := defaults[plan.Family]; first == "" {
				defaults[plan.Family] = plan.Key
			} else if first != plan.Key {
				p.bad(at.get("default"), "family %s already has a default plan: %s", plan.Family, first)
			}
		}
		if plan.PastDue != nil {
			p.checkThen(plan, at.get("past_due").get("then"))
		}
		sound := true
		if plan.Extends != "" {
			sound = p.checkExtends(plan, at.get("extends"), looped)
		}
		if without := at.get("without"); without != nil && sound {
			p.checkWithout(plan, at, without)
		}
	}
}

func (p *parser) checkThen(plan *usher.Plan, at *node) {
	then := plan.PastDue.Then
	if at == nil || then == "" || then == usher.ThenSuspend || then == usher.ThenDefault {
		return
	}
	other := p.cat.Plans[then]
	switch {
	case other == nil:
		words := append([]string{usher.ThenSuspend, usher.ThenDefault}, sortedKeys(p.cat.Plans)...)
		p.bad(at, "must be suspend, default or the key of a plan, and there is no plan %s%s", quote(then), didYouMean(then, words))
	case other == plan:
		p.bad(at, "must be another plan, not %s itself", then)
	case other.Family != plan.Family:
		p.bad(at, "must be a plan of the same family: %s is of family %s, and %s of family %s", then, other.Family, plan.Key, plan.Family)
	}
}

// checkExtends reports whether the chain that begins at plan is sound.
func (p *parser) checkExtends(plan *usher.Plan, at *node, looped map[string]bool) bool {
	if p.cat.Plans[plan.Extends] == nil {
		p.bad(at, "there is no plan %s%s", quote(plan.Extends), didYouMean(plan.Extends, sortedKeys(p.cat.Plans)))
		return false
	}
	chain := []string{plan.Key}
	for next := p.cat.Plans[plan.Extends]; next != nil; next = p.cat.Plans[next.Extends] {
		if i := slices.Index(chain, next.Key); i >= 0 {
			if i == 0 && !looped[plan.Key] {
				p.bad(at, "makes a cycle: %s", strings.Join(append(chain, next.Key), " → "))
				for _, key := range chain {
					looped[key] = true
				}
			}
			return false
		}
		if chain = append(chain, next.Key); len(chain) > MaxExtends {
			if !looped[plan.Key] {
				p.bad(at, "makes a chain of more than %d plans", MaxExtends)
				looped[plan.Key] = true
			}
			return false
		}
	}
	return true
}

// checkWithout checks that what a plan does without is inherited.
func (p *parser) checkWithout(plan *usher.Plan, at, without *node) {
	if plan.Extends == "" {
		p.bad(without, "without removes inherited features, but this plan extends no other plan")
		return
	}
	for _, item := range without.items {
		if item.kind != scalarNode || item.text == "" {
			continue
		}
		if given(p.cat, plan.Extends, item.text) == nil {
			var all []string
			if len(p.problems) < MaxProblems {
				all = slices.Sorted(maps.Keys(Resolve(p.cat, plan.Extends).Entitlements))
			}
			p.bad(item, "%s is not inherited from %s%s", quote(item.text), plan.Extends, didYouMean(item.text, all))
		} else if plan.Entitlements[item.text] != nil {
			p.bad(item, "%s is given by this plan's own entitlements: remove it from one of the two", quote(item.text))
		}
	}
}
