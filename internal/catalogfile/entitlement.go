package catalogfile

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/usher-sh/usher"
)

var (
	allowanceFields = []string{"limit", "per", "anchor", "priority", "overage", "rollover"}
	limitFields     = append(slices.Clone(allowanceFields), "caps", "mode", "fail", "on_change")
	listFields      = []string{"allowances", "caps", "mode", "fail", "on_change"}
	countedFields   = append([]string{"allowances"}, limitFields...)
	seatFields      = []string{"limit", "overage", "priority", "mode", "fail"}
	valueFields     = []string{"value", "fail"}
	capFields       = []string{"limit", "per", "anchor", "sliding"}

	anchors = []usher.Anchor{usher.AnchorSubscription, usher.AnchorCalendar, usher.AnchorFirstUse}
)

const unlimitedWord = "unlimited"

// unlimited reports whether n is the word.
func (n *node) unlimited() bool {
	return n != nil && n.class() == isText && n.text == unlimitedWord
}

// entitlements reads what a plan or an add-on gives, by feature.
func (p *parser) entitlements(n *node) map[string]*usher.Entitlement {
	all := map[string]*usher.Entitlement{}
	if n == nil || n.class() == isNothing {
		return all
	}
	if n.kind != mapNode {
		p.bad(n, "must be a map of entitlements by feature, %s", n.got())
		return all
	}
	for i, key := range n.keys {
		f := p.cat.Features[key.text]
		switch {
		case f == nil:
			p.bad(key, "there is no feature %s%s", quote(key.text), didYouMean(key.text, sortedKeys(p.cat.Features)))
		case f.Kind != "" && (f.Kind != usher.Config || f.Type != ""): // else noted already
			all[key.text] = p.entitlement(f, p.cat.Meters[f.Meter], n.items[i])
		}
	}
	return all
}

// entitlement reads one entitlement, by its feature's kind.
func (p *parser) entitlement(f *usher.Feature, m *usher.Meter, n *node) *usher.Entitlement {
	e := &usher.Entitlement{}
	switch f.Kind {
	case usher.Switch:
		if n, e.Fail = p.valued(f, n); n != nil {
			e.On = p.flag(n)
		}
	case usher.Config:
		if n, e.Fail = p.valued(f, n); n != nil {
			e.Value = p.value(f, n)
		}
	case usher.Seats:
		p.seats(f, n, e)
	default:
		p.counted(f, m, n, e)
	}
	return e
}

// valued takes {value: …, fail: …} apart; a bare value has no fail.
func (p *parser) valued(f *usher.Feature, n *node) (*node, usher.Fail) {
	if n.kind != mapNode {
		return n, ""
	}
	value := n.get("value")
	if value == nil && f.Kind == usher.Switch {
		p.bad(n, "must be true or false, or {value: true, fail: open}: %s is a switch", f.Key)
		return nil, ""
	}
	if value == nil {
		p.bad(n, "must be a value, or {value: …, fail: open}: %s is a config feature of type %s", f.Key, f.Type)
		return nil, ""
	}
	p.fields(n, valueFields)
	return value, optional(p, n.get("fail"), fails)
}

// optional reads a word that may be absent.
func optional[T ~string](p *parser, n *node, words []T) T {
	if n == nil {
		return ""
	}
	w, _ := word(p, n, words)
	return w
}

// value reads a config feature's value by its type.
func (p *parser) value(f *usher.Feature, n *node) *usher.Value {
	v := &usher.Value{}
	switch f.Type {
	case usher.TypeInteger:
		i, err := strconv.ParseInt(n.text, 10, 64)
		if n.class() != isNumber || err != nil || !wholeText.MatchString(n.text) {
			p.bad(n, "must be a whole number such as 90, %s", n.got())
			return v
		}
		v.Int = i
	case usher.TypeDecimal:
		v.Int = p.signed(n, f.Precision)
	case usher.TypeEnum:
		if n.class() != isText || !slices.Contains(f.Values, n.text) {
			p.bad(n, "must be %s, %s%s", oneOf(f.Values), n.got(), enumHint(n, f.Values))
			return v
		}
		v.Text, v.Int = n.text, int64(slices.Index(f.Values, n.text))
	case usher.TypeString:
		v.Text, _ = p.text(n, maxText)
	case usher.TypeList:
		if n.kind != listNode {
			p.bad(n, "must be a list such as [eu, us], %s", n.got())
			return v
		}
		for _, item := range n.items {
			s, ok := p.text(item, maxTitle)
			if ok && slices.Contains(v.List, s) {
				p.bad(item, "%s is listed twice", quote(s))
			}
			v.List = append(v.List, s)
		}
		slices.Sort(v.List)
	}
	return v
}

func enumHint(n *node, words []string) string {
	if n.class() == isText {
		return didYouMean(n.text, words)
	}
	if n.kind == scalarNode && slices.Contains(words, n.text) {
		return " (write it in quotes)"
	}
	return ""
}

// signed reads a decimal that may be below 0, in smallest units.
func (p *parser) signed(n *node, precision int) int64 {
	if !p.decimal(n) {
		return 0
	}
	text, minus := n.text, false
	if text[0] == '-' {
		text, minus = text[1:], true
	}
	units, err := usher.ParseQuantity(text, precision)
	if err != nil {
		p.bad(n, "%s", err)
	}
	if minus {
		return -units
	}
	return units
}

// seats reads 3, unlimited or {limit: 3, …}; seats have no windows.
func (p *parser) seats(f *usher.Feature, n *node, e *usher.Entitlement) {
	a := usher.Allowance{Per: usher.Period{Every: 1, Unit: usher.Lifetime}, Priority: usher.DefaultPriority}
	limit := n
	switch n.class() {
	case isMap:
		if !p.seatFields(n) {
			return
		}
		if limit = n.get("limit"); limit == nil {
			p.bad(n, "limit is missing: how many seats, or unlimited")
			return
		}
		e.Mode, e.Fail = optional(p, n.get("mode"), modes), optional(p, n.get("fail"), fails)
		a.Priority = p.priority(n.get("priority"))
		a.Overage = p.overage(n.get("overage"), 0, limit)
	case isNumber, isText:
	default:
		p.bad(n, "must be a number of seats, unlimited or {limit: 3}, %s", n.got())
		return
	}
	a.Limit, a.Unlimited = p.limit(limit, f.Precision)
	e.Allowances = []usher.Allowance{a}
}

// seatFields is fields for seats; it also explains why windows have no place there.
func (p *parser) seatFields(n *node) bool {
	for _, key := range n.keys {
		switch key.text {
		case "per", "anchor", "rollover", "caps", "allowances", "on_change":
			p.bad(key, "seats have no windows: leave %s out", key.text)
		default:
			if !slices.Contains(seatFields, key.text) {
				p.unknown(key, seatFields)
			}
		}
	}
	return true
}

// limit reads an amount or unlimited.
func (p *parser) limit(n *node, precision int) (units int64, unlimited bool) {
	if n.unlimited() {
		return 0, true
	}
	switch class := n.class(); {
	case class == isNothing, strings.HasPrefix(n.text, "-"), strings.HasSuffix(strings.ToLower(n.text), "inf"):
		p.bad(n, "must be a number or unlimited, %s (for no limit write unlimited, for none at all 0)", n.got())
		return 0, false
	case class == isText && !looksLikeNumber(n.text):
		p.bad(n, "must be a number or unlimited, %s%s", n.got(), didYouMean(n.text, []string{unlimitedWord}))
		return 0, false
	case class != isText && class != isNumber:
		p.bad(n, "must be a number or unlimited, %s", n.got())
		return 0, false
	}
	units, _ = p.quantity(n, precision)
	return units, false
}

func (p *parser) priority(n *node) int {
	if n == nil {
		return usher.DefaultPriority
	}
	i, _ := p.whole(n, 0, 255)
	return i
}

// overage reads none, unlimited or {max: n}. limit is the limit beside it.
func (p *parser) overage(n *node, precision int, limit *node) (o usher.Overage) {
	switch {
	case n == nil:
		return o
	case n.class() == isText && n.text == "none":
	case n.unlimited():
		o.Unlimited = true
	case n.kind == mapNode:
		if p.fields(n, []string{"max"}) {
			if most := n.get("max"); most != nil {
				o.Max, _ = p.quantity(most, precision)
			} else {
				p.bad(n, "max is missing: how far use may go beyond the limit")
			}
		}
	case n.class() == isNumber:
		p.bad(n, "must be none, unlimited or {max: n}: write {max: %s}", clip(n.text))
	default:
		p.bad(n, "must be none, unlimited or {max: 1000}, %s", n.got())
	}
	if limit.unlimited() && o != (usher.Overage{}) {
		p.bad(n, "an unlimited allowance has no overage: leave overage out")
	}
	return o
}

// rollover reads {max: n, windows: n}. least is the least max.
func (p *parser) rollover(n *node, precision int, least int64) *usher.Rollover {
	r := &usher.Rollover{Windows: 1}
	if n.class() == isNumber {
		p.bad(n, "must be a map: write {max: %s}", clip(n.text))
		return r
	}
	if !p.fields(n, []string{"max", "windows"}) {
		return r
	}
	if most := n.get("max"); most != nil {
		var ok bool
		if r.Max, ok = p.quantity(most, precision); ok && r.Max < least {
			p.bad(most, "must be more than 0; leave rollover out for no rollover")
		}
	} else {
		p.bad(n, "max is missing: how much of an unused limit may be carried over")
	}
	if windows := n.get("windows"); windows != nil {
		r.Windows, _ = p.whole(windows, 1, usher.MaxRolloverWindows)
	}
	return r
}

// period reads month, or {every: 6, unit: hour}.
func (p *parser) period(n *node) (usher.Period, bool) {
	per := usher.Period{Every: 1}
	if n.kind != mapNode {
		if n.class() != isText {
			p.bad(n, "must be %s, or such as {every: 6, unit: hour}, %s", oneOf(usher.Units), n.got())
			return per, false
		}
		unit, ok := word(p, n, usher.Units)
		per.Unit = unit
		return per, ok
	}
	if !p.fields(n, []string{"every", "unit"}) {
		return per, false
	}
	every, unit, ok := n.get("every"), n.get("unit"), true
	if every == nil || unit == nil {
		p.bad(n, "needs both every and unit, such as {every: 6, unit: hour}")
		return per, false
	}
	per.Every, ok = p.whole(every, 1, usher.MaxEvery)
	var known bool
	if per.Unit, known = word(p, unit, usher.Units); known && per.Unit == usher.Lifetime && per.Every != 1 {
		p.bad(every, "must be 1 for lifetime, which does not repeat")
		return per, false
	}
	return per, ok && known
}

// window reads per and anchor of n. The default anchor is "".
func (p *parser) window(n *node, m *usher.Meter) (per usher.Period, anchor usher.Anchor, ok bool) {
	if at := n.get("per"); at != nil {
		per, ok = p.period(at)
	}
	if at := n.get("anchor"); at != nil {
		var known bool
		if anchor, known = word(p, at, anchors); !known {
			return per, "", false
		}
		p.checkAnchor(at, per, anchor, m)
		if anchor == usher.AnchorSubscription {
			anchor = ""
		}
	}
	return per, anchor, ok
}

func (p *parser) checkAnchor(at *node, per usher.Period, anchor usher.Anchor, m *usher.Meter) {
	switch {
	case per.Unit == usher.Lifetime:
		p.bad(at, "a lifetime window is never renewed, so it has no anchor: leave anchor out")
	case anchor == usher.AnchorFirstUse && gauge(m):
		p.bad(at, "first_use needs a meter that counts or sums; %s takes the %s", m.Key, aggWord(m.Aggregation))
	}
}

// checkRollover adds a problem if a rollover is impossible here.
func (p *parser) checkRollover(at *node, per usher.Period, anchor usher.Anchor, limit *node, m *usher.Meter) {
	switch {
	case gauge(m):
		p.bad(at, "rollover needs a meter that counts or sums; %s takes the %s", m.Key, aggWord(m.Aggregation))
	case limit.unlimited():
		p.bad(at, "an unlimited allowance leaves nothing to roll over: leave rollover out")
	case per.Unit == usher.Lifetime:
		p.bad(at, "a lifetime has no later window to roll over into: leave rollover out")
	case anchor == usher.AnchorFirstUse:
		p.bad(at, "windows from first_use do not follow each other: leave rollover out")
	}
}

// counted reads the entitlement of a metered or credits feature.
func (p *parser) counted(f *usher.Feature, m *usher.Meter, n *node, e *usher.Entitlement) {
	switch {
	case n.unlimited():
		p.addAllowance(f, m, n, e, usher.Allowance{Unlimited: true, Priority: usher.DefaultPriority}, false)
		return
	case n.class() == isNumber:
		p.bad(n, "needs a period: write {limit: %s, per: month}", clip(n.text))
		return
	case n.kind != mapNode:
		p.bad(n, "must be unlimited or a map such as {limit: 1000, per: month}, %s", n.got())
		return
	}
	limit, list := n.get("limit"), n.get("allowances")
	switch {
	case limit != nil && list != nil:
		p.bad(list, "limit and allowances exclude each other: put the limit in the list")
		return
	case list != nil:
		for _, key := range n.keys {
			if slices.Contains(allowanceFields, key.text) {
				p.bad(key, "with allowances, %s belongs in each item of the list", key.text)
			} else if !slices.Contains(listFields, key.text) {
				p.unknown(key, listFields)
			}
		}
		items := p.list(list, "allowances such as {limit: 1000, per: month}")
		if len(items) > maxParts {
			p.bad(list, "may hold at most %d allowances, this one holds %d", maxParts, len(items))
			items = nil
		}
		for _, item := range items {
			if p.fields(item, allowanceFields) {
				p.allowance(f, m, item, e)
			}
		}
	case limit != nil:
		p.fields(n, countedFields)
		p.allowance(f, m, n, e)
	default:
		p.fields(n, countedFields)
		p.withoutLimit(f, n)
	}
	e.Mode, e.Fail, e.OnChange = optional(p, n.get("mode"), modes), optional(p, n.get("fail"), fails),
		optional(p, n.get("on_change"), onChanges)
	if caps := n.get("caps"); caps != nil {
		e.Caps = p.caps(f, m, caps)
	}
}

// withoutLimit checks an entitlement that names no limit: only a feature that
// draws credits can do without.
func (p *parser) withoutLimit(f *usher.Feature, n *node) {
	for _, field := range allowanceFields[1:] {
		if n.get(field) != nil {
			p.bad(n, "limit is missing: write a number or unlimited")
			return
		}
	}
	if f.Draws != nil {
		return
	}
	if f.Kind == usher.Credits {
		p.bad(n, `limit is missing: a pool of credits needs one, such as {limit: "500", per: month}`)
		return
	}
	p.bad(n, "limit is missing: write {limit: 1000, per: month}, or unlimited (only a feature with draws may have no limit)")
}

// allowance reads one allowance of n, which has other fields too where it is
// the whole entitlement.
func (p *parser) allowance(f *usher.Feature, m *usher.Meter, n *node, e *usher.Entitlement) {
	limit := n.get("limit")
	if limit == nil {
		p.bad(n, "limit is missing: write a number or unlimited")
		return
	}
	a := usher.Allowance{Priority: p.priority(n.get("priority"))}
	a.Limit, a.Unlimited = p.limit(limit, f.Precision)
	var windowed bool
	a.Per, a.Anchor, windowed = p.window(n, m)
	if n.get("per") == nil {
		switch {
		case !a.Unlimited:
			p.bad(n, "per is missing: how often the limit is renewed, such as per: month, or lifetime for never")
		case n.get("anchor") != nil:
			p.bad(n.get("anchor"), "anchor needs a period: write per too, such as per: month")
		}
	}
	a.Overage = p.overage(n.get("overage"), f.Precision, limit)
	if rollover := n.get("rollover"); rollover != nil {
		a.Rollover = p.rollover(rollover, f.Precision, 1)
		p.checkRollover(rollover, a.Per, a.Anchor, limit, m)
	}
	p.addAllowance(f, m, n, e, a, windowed)
}

// addAllowance adds a to e, and notes its window for checkClocks. Without a
// window it is unlimited for a lifetime.
func (p *parser) addAllowance(f *usher.Feature, m *usher.Meter, n *node, e *usher.Entitlement, a usher.Allowance, windowed bool) {
	if a.Per.Unit == "" {
		a.Per = usher.Period{Every: 1, Unit: usher.Lifetime}
	}
	e.Allowances = append(e.Allowances, a)
	switch {
	case !gauge(m):
	case windowed:
		at := n
		if per := n.get("per"); per != nil {
			at = per
		}
		p.clocks = append(p.clocks, clockUse{f.Key, at, a.Per, a.Anchor})
	case a.Unlimited:
		p.bare = append(p.bare, bareUse{f.Key, e, len(e.Allowances) - 1})
	}
}

// checkClocks checks that each feature whose meter does not add up has one
// window, and gives it to the unlimited allowances that name none.
func (p *parser) checkClocks() {
	first := map[string]clockUse{}
	for _, use := range p.clocks {
		one, ok := first[use.feature]
		if !ok {
			first[use.feature] = use
			continue
		}
		if one.per != use.per || one.anchor != use.anchor {
			m := p.cat.Meters[p.cat.Features[use.feature].Meter]
			p.bad(use.at, "%s takes the %s, so all plans and add-ons must have one window for %s: here it is%s, on line %d%s",
				m.Key, aggWord(m.Aggregation), use.feature, perPhrase(use.per, use.anchor), one.at.line, perPhrase(one.per, one.anchor))
		}
	}
	// After all plans and add-ons were read: an unlimited allowance may come before the one
	// that names the window.
	for _, use := range p.bare {
		if one, ok := first[use.feature]; ok {
			use.e.Allowances[use.i].Per, use.e.Allowances[use.i].Anchor = one.per, one.anchor
		}
	}
}

// clockWords returns "month", "6 hours from first_use".
func clockWords(per usher.Period, anchor usher.Anchor) string {
	s := per.String()
	if per.Every != 1 {
		s += "s"
	}
	if anchor = cmp.Or(anchor, usher.AnchorSubscription); anchor != usher.AnchorSubscription {
		s += " (anchor " + string(anchor) + ")"
	}
	return s
}

// caps reads the caps of an entitlement.
func (p *parser) caps(f *usher.Feature, m *usher.Meter, n *node) []usher.Cap {
	if gauge(m) {
		p.bad(n, "caps need a meter that counts or sums; %s takes the %s", m.Key, aggWord(m.Aggregation))
		return nil
	}
	if n.kind == mapNode {
		p.bad(n, "must be a list of caps: write [{limit: 600, per: minute}]")
		return nil
	}
	items := p.list(n, "caps such as {limit: 600, per: minute}")
	if len(items) > maxParts {
		p.bad(n, "may hold at most %d caps, this one holds %d", maxParts, len(items))
		return nil
	}
	var all []usher.Cap
	for _, item := range items {
		if p.fields(item, capFields) {
			all = append(all, p.cap(f, item))
		}
	}
	return all
}

func (p *parser) cap(f *usher.Feature, n *node) usher.Cap {
	var c usher.Cap
	switch limit := n.get("limit"); {
	case limit == nil:
		p.bad(n, "limit is missing: write a number, such as limit: 600")
	case limit.unlimited():
		p.bad(limit, "a cap must be a number: leave an unlimited one out")
	default:
		c.Limit, _ = p.quantity(limit, f.Precision)
	}
	if n.get("per") == nil {
		p.bad(n, "per is missing: how often the cap is renewed, such as per: minute")
	}
	var ok bool
	c.Per, c.Anchor, ok = p.window(n, nil)
	sliding := n.get("sliding")
	if sliding == nil {
		return c
	}
	if c.Sliding = p.flag(sliding); !c.Sliding || !ok {
		return c
	}
	switch c.Per.Unit {
	case usher.Minute, usher.Hour, usher.Day:
		if c.Per.Unit == usher.Day && c.Per.Every > 1 || c.Per.Unit == usher.Hour && c.Per.Every > 24 || c.Per.Every > 24*60 {
			p.bad(sliding, "a sliding cap may span a day at most, this one spans %s", clockWords(c.Per, ""))
		}
	default:
		p.bad(sliding, "a sliding cap may span a day at most (minute, hour or day), this one spans a %s", c.Per.Unit)
	}
	if anchor := n.get("anchor"); anchor != nil {
		p.bad(anchor, "a sliding cap has no anchor: leave it out")
	}
	return c
}
