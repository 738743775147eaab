package catalogfile

import (
	"slices"

	"github.com/usher-sh/usher"
)

var overrideFields = append(slices.Clone(allowanceFields), "caps", "mode", "fail")

// ParseOverride reads the value of an override of feature f from JSON (S03):
// the value that a plan would give (true, 90, {"limit": 5}, "unlimited"), where
// {…} names only what it sets; {"add": 500}, which may be negative; or
// {"deny": true}. Exactly one of set, add and deny is returned. meter is f's,
// or nil. Problems are located by path: "value.limit".
func ParseOverride(f *usher.Feature, meter *usher.Meter, raw []byte) (set *usher.OverrideSet, add *int64, deny bool, err error) {
	r := &reader{}
	if len(raw) > MaxSize {
		r.badAt(0, 0, "is too large")
		return nil, nil, false, r.err()
	}
	if !r.readable(raw) {
		return nil, nil, false, r.err()
	}
	n := r.readJSON(raw)
	if n == nil {
		return nil, nil, false, r.err()
	}
	p := &parser{reader: r, cat: &usher.Catalog{}}
	switch {
	case n.get("add") != nil:
		add = p.add(f, n)
	case n.get("deny") != nil:
		if deny = p.flag(n.get("deny")); !deny && len(r.problems) == 0 {
			p.bad(n.get("deny"), "must be true; delete the override to end a denial")
		}
		p.alone(n, "deny")
	default:
		set = p.overrideSet(f, meter, n)
	}
	if err := r.err(); err != nil {
		return nil, nil, false, err
	}
	return set, add, deny, nil
}

// alone adds a problem for each key other than only.
func (p *parser) alone(n *node, only string) {
	for _, key := range n.keys {
		if key.text != only {
			p.bad(key, "%s must be the only field: remove %s", only, quote(key.text))
		}
	}
}

func (p *parser) add(f *usher.Feature, n *node) *int64 {
	p.alone(n, "add")
	at := n.get("add")
	number := f.Kind == usher.Config && (f.Type == usher.TypeInteger || f.Type == usher.TypeDecimal)
	if !f.Kind.Counts() && !number {
		p.bad(at, "add is for metered, seats, credits and config numbers: %s is of kind %s, give its value", f.Key, f.Kind)
		return nil
	}
	units := p.signed(at, f.Precision)
	return &units
}

// overrideSet reads the value that a plan would give; each part may be absent.
func (p *parser) overrideSet(f *usher.Feature, m *usher.Meter, n *node) *usher.OverrideSet {
	set := &usher.OverrideSet{}
	switch f.Kind {
	case usher.Switch, usher.Config:
		value := n
		if value, set.Fail = p.valued(f, n); value == nil {
			return set
		}
		if f.Kind == usher.Switch {
			on := p.flag(value)
			set.On = &on
		} else {
			set.Value = p.value(f, value)
		}
		return set
	}
	switch {
	case n.unlimited():
		set.Unlimited = true
		return set
	case f.Kind == usher.Seats && n.kind == scalarNode:
		if n.class() != isNumber && n.class() != isText {
			p.bad(n, `must be a number of seats, "unlimited" or {"limit": 3}, %s`, n.got())
			return set
		}
		units, _ := p.limit(n, f.Precision)
		set.Limit = &units
		return set
	case n.class() == isNumber:
		p.bad(n, `must be a map: write {"limit": %s}, and "per" if no plan gives one`, clip(n.text))
		return set
	case n.kind != mapNode:
		p.bad(n, `must be "unlimited", {"limit": 1000, "per": "month"}, {"add": 500} or {"deny": true}, %s`, n.got())
		return set
	case len(n.keys) == 0:
		p.bad(n, `must name what it sets, such as {"limit": 1000}`)
		return set
	}
	if f.Kind == usher.Seats {
		p.seatFields(n)
	} else {
		p.overrideFields(n)
	}
	p.setFields(f, m, n, set)
	return set
}

// overrideFields adds a problem for each field that an override cannot have.
func (p *parser) overrideFields(n *node) {
	for _, key := range n.keys {
		switch key.text {
		case "allowances":
			p.bad(key, "an override sets one limit in place of all allowances: write limit and per")
		case "on_change":
			p.bad(key, "an override has no on_change: it belongs to plans and features")
		default:
			if !slices.Contains(overrideFields, key.text) {
				p.unknown(key, overrideFields)
			}
		}
	}
}

// setFields reads the fields that n names into set.
func (p *parser) setFields(f *usher.Feature, m *usher.Meter, n *node, set *usher.OverrideSet) {
	limit := n.get("limit")
	if limit != nil {
		units, unlimited := p.limit(limit, f.Precision)
		if set.Unlimited = unlimited; !unlimited {
			set.Limit = &units
		}
	}
	set.Mode, set.Fail = optional(p, n.get("mode"), modes), optional(p, n.get("fail"), fails)
	if priority := n.get("priority"); priority != nil {
		i := p.priority(priority)
		set.Priority = &i
	}
	if overage := n.get("overage"); overage != nil {
		o := p.overage(overage, f.Precision, limit)
		set.Overage = &o
	}
	if f.Kind == usher.Seats {
		return
	}
	var per usher.Period
	if at := n.get("per"); at != nil {
		var ok bool
		if per, ok = p.period(at); ok {
			set.Per = &per
		}
	}
	if at := n.get("anchor"); at != nil {
		var ok bool
		if set.Anchor, ok = word(p, at, anchors); ok {
			p.checkAnchor(at, per, set.Anchor, m)
		}
	}
	if at := n.get("rollover"); at != nil {
		set.Rollover = p.rollover(at, f.Precision, 0)
		p.checkRollover(at, per, set.Anchor, limit, m)
	}
	if at := n.get("caps"); at != nil {
		caps := []usher.Cap{}
		if at.kind != listNode || len(at.items) > 0 {
			caps = append(caps, p.caps(f, m, at)...)
		}
		set.Caps = &caps
	}
}
