package catalogfile

import (
	"regexp"
	"slices"
	"strings"

	"github.com/usher-sh/usher"
)

var (
	meterFields = []string{"title", "event", "sum", "max", "last", "unique", "where", "dimensions"}
	fieldAggs   = []usher.Aggregation{usher.Sum, usher.Max, usher.Last, usher.Unique}

	meterPath = regexp.MustCompile(`^data(\.[A-Za-z0-9_-]+)+$`)
	wholeText = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
)

// meter reads one meter.
func (p *parser) meter(key string, n *node) *usher.Meter {
	m := &usher.Meter{Key: key, Aggregation: usher.Count}
	if !p.fields(n, meterFields) {
		return m
	}
	m.Title = p.title(n.get("title"))
	if event := n.get("event"); event != nil {
		m.Event, _ = p.text(event, 255)
	} else {
		p.bad(n, "event is missing: the type of the events that it reads, such as event: api.request")
	}
	for _, agg := range fieldAggs {
		field := n.get(string(agg))
		switch {
		case field == nil:
		case m.Aggregation != usher.Count:
			p.bad(field, "a meter has only one of sum, max, last and unique, this one already has %s", m.Aggregation)
		default:
			m.Aggregation = agg
			m.Field = p.path(field)
		}
	}
	if where := n.get("where"); where != nil {
		m.Where = p.where(where)
	}
	if dims := n.get("dimensions"); dims != nil {
		for _, item := range p.list(dims, "paths such as data.model") {
			path := p.path(item)
			if path != "" && slices.Contains(m.Dimensions, path) {
				p.bad(item, "%s is listed twice", quote(path))
			}
			m.Dimensions = append(m.Dimensions, path)
		}
		slices.Sort(m.Dimensions)
	}
	return m
}

// path reads where a value lies in an event, such as data.usage.tokens.
func (p *parser) path(n *node) string {
	if n.class() != isText || !meterPath.MatchString(n.text) {
		hint := ""
		if n.class() == isText && !strings.HasPrefix(n.text, "data") && meterPath.MatchString("data."+n.text) {
			hint = " (did you mean data." + clip(n.text) + "?)"
		}
		p.bad(n, "must be a path into the event's data, such as data.tokens, %s%s", n.got(), hint)
		return ""
	}
	if len(n.text) > maxTitle {
		p.bad(n, "must be at most %d bytes, this one is %d", maxTitle, len(n.text))
		return ""
	}
	if count := strings.Count(n.text, ".") + 1; count > maxPath {
		p.bad(n, "must have at most %d segments, this one has %d", maxPath, count)
		return ""
	}
	return n.text
}

// where reads a meter's filter: path to accepted value or values.
func (p *parser) where(n *node) map[string][]string {
	if n.kind != mapNode {
		p.bad(n, "must be a map of path to accepted value, such as {data.kind: image}, %s", n.got())
		return nil
	}
	var all map[string][]string
	for i, key := range n.keys {
		p.path(&node{text: key.text, line: key.line, column: key.column, up: n})
		items := []*node{n.items[i]}
		if n.items[i].kind == listNode {
			items = p.list(n.items[i], "accepted values")
		}
		var values []string
		for _, item := range items {
			value, ok := p.accepted(item)
			if ok && slices.Contains(values, value) {
				p.bad(item, "%s is listed twice", quote(value))
			}
			values = append(values, value)
		}
		slices.Sort(values)
		if all == nil {
			all = map[string][]string{}
		}
		all[key.text] = values
	}
	return all
}

// accepted reads one value of a filter: text, a whole number, true or false.
func (p *parser) accepted(n *node) (string, bool) {
	switch n.class() {
	case isText:
		if n.text == "" {
			return "", true
		}
		return p.text(n, maxText)
	case isBool:
		return strings.ToLower(n.text), true
	case isNumber:
		if wholeText.MatchString(n.text) && len(n.text) <= 20 {
			return n.text, true
		}
	}
	p.bad(n, "must be text, a whole number, true or false, %s", n.got())
	return "", false
}

var (
	featureFields = []string{"kind", "title", "unit", "meter", "precision", "type", "values", "combine", "draws", "mode", "fail", "on_change"}
	// onlyFor says which kinds have a field; every kind has the others.
	onlyFor = map[string][]usher.Kind{
		"meter":     {usher.Metered},
		"draws":     {usher.Metered},
		"precision": {usher.Metered, usher.Credits, usher.Config},
		"type":      {usher.Config},
		"values":    {usher.Config},
		"combine":   {usher.Config},
		"mode":      {usher.Metered, usher.Seats, usher.Credits},
	}

	modes     = []usher.Mode{usher.Enforce, usher.Warn, usher.Shadow}
	fails     = []usher.Fail{usher.FailClosed, usher.FailOpen}
	onChanges = []usher.OnChange{usher.Carry, usher.Reset}

	// combines says which rules suit a config type, the default first.
	combines = map[usher.ConfigType][]usher.Combine{
		usher.TypeInteger: {usher.CombineMax, usher.CombineMin, usher.CombineSum, usher.CombineOverride},
		usher.TypeDecimal: {usher.CombineMax, usher.CombineMin, usher.CombineSum, usher.CombineOverride},
		usher.TypeEnum:    {usher.CombineMax, usher.CombineMin, usher.CombineOverride},
		usher.TypeList:    {usher.CombineUnion, usher.CombineOverride},
		usher.TypeString:  {usher.CombineOverride},
	}
)

// feature reads one feature. What points at other features is checked when all
// are read.
func (p *parser) feature(key string, n *node) *usher.Feature {
	f := &usher.Feature{Key: key}
	if n.class() == isText && slices.Contains(usher.Kinds, usher.Kind(n.text)) {
		p.bad(n, "must be a map: write {kind: %s}", n.text)
		return f
	}
	if !p.fields(n, featureFields) {
		return f
	}
	kind := n.get("kind")
	if kind == nil {
		p.bad(n, "kind is missing: one of %s", oneOf(usher.Kinds))
		return f
	}
	var ok bool
	if f.Kind, ok = word(p, kind, usher.Kinds); !ok {
		return f
	}
	for _, field := range n.keys {
		if kinds := onlyFor[field.text]; kinds != nil && !slices.Contains(kinds, f.Kind) {
			p.bad(field, "%s is only for kind %s, this feature is of kind %s", field.text, oneOf(kinds), f.Kind)
		}
	}
	f.Title, f.Unit = p.title(n.get("title")), p.title(n.get("unit"))
	if mode := n.get("mode"); mode != nil && f.Kind.Counts() {
		if f.Mode, _ = word(p, mode, modes); f.Mode == usher.Enforce {
			f.Mode = ""
		}
	}
	if fail := n.get("fail"); fail != nil {
		if f.Fail, _ = word(p, fail, fails); f.Fail == usher.FailClosed {
			f.Fail = ""
		}
	}
	if change := n.get("on_change"); change != nil {
		if f.OnChange, _ = word(p, change, onChanges); f.OnChange == usher.Carry {
			f.OnChange = ""
		}
	}
	if precision := n.get("precision"); precision != nil && slices.Contains(onlyFor["precision"], f.Kind) {
		f.Precision, _ = p.whole(precision, 0, usher.MaxPrecision)
	}
	switch f.Kind {
	case usher.Config:
		p.config(f, n)
	case usher.Metered:
		if meter := n.get("meter"); meter != nil {
			f.Meter, _ = lookup(p, meter, "meter", p.cat.Meters)
		}
		if draws := n.get("draws"); draws != nil {
			f.Draws = p.draws(draws)
		}
	}
	return f
}

// config reads the fields of a config feature.
func (p *parser) config(f *usher.Feature, n *node) {
	typ := n.get("type")
	if typ == nil {
		p.bad(n, "type is missing: one of %s", oneOf(usher.ConfigTypes))
		return
	}
	var ok bool
	if f.Type, ok = word(p, typ, usher.ConfigTypes); !ok {
		return
	}
	if precision := n.get("precision"); precision != nil && f.Type != usher.TypeDecimal {
		p.bad(precision, "a config feature has a precision only with type: decimal, this one is of type %s", f.Type)
		f.Precision = 0
	}
	values := n.get("values")
	switch {
	case f.Type == usher.TypeEnum && values == nil:
		p.bad(n, "values are missing: an enum lists its words, low to high, such as values: [basic, full]")
	case f.Type == usher.TypeEnum:
		for _, item := range p.list(values, "words, low to high") {
			s, ok := p.text(item, maxTitle)
			if ok && slices.Contains(f.Values, s) {
				p.bad(item, "%s is listed twice", quote(s))
			}
			f.Values = append(f.Values, s)
		}
	case values != nil:
		p.bad(values, "values are only for type: enum, this feature is of type %s", f.Type)
	}
	f.Combine = combines[f.Type][0]
	if combine := n.get("combine"); combine != nil {
		all := []usher.Combine{usher.CombineMax, usher.CombineMin, usher.CombineSum, usher.CombineUnion, usher.CombineOverride}
		if f.Combine, ok = word(p, combine, all); ok && !slices.Contains(combines[f.Type], f.Combine) {
			p.bad(combine, "%s does not suit type %s: use %s", f.Combine, f.Type, oneOf(combines[f.Type]))
		}
	}
}

// draws reads which pool a feature takes credits from, and how many.
func (p *parser) draws(n *node) *usher.Draws {
	d := &usher.Draws{}
	if !p.fields(n, []string{"credits", "per_unit"}) {
		return d
	}
	if pool := n.get("credits"); pool != nil {
		d.Credits, _ = p.text(pool, maxTitle)
	} else {
		p.bad(n, "credits is missing: the key of the feature of kind credits that it draws from")
	}
	rate := n.get("per_unit")
	if rate == nil {
		p.bad(n, `per_unit is missing: how many credits one unit takes, such as per_unit: "0.002"`)
		return d
	}
	units, ok := p.quantity(rate, usher.MaxPrecision)
	if ok && units == 0 {
		p.bad(rate, "must be more than 0")
	}
	if ok && units > 0 {
		text := strings.TrimRight(usher.FormatQuantity(units, usher.MaxPrecision), "0")
		d.PerUnit = usher.Number(strings.TrimSuffix(text, "."))
	}
	return d
}

// checkFeatures checks what features say of each other, and fills in the rates.
func (p *parser) checkFeatures(n *node) {
	if n == nil || n.kind != mapNode {
		return
	}
	for i, key := range n.keys {
		f := p.cat.Features[key.text]
		if f == nil || f.Draws == nil {
			continue
		}
		draws := n.items[i].get("draws")
		if m := p.cat.Meters[f.Meter]; m != nil && !m.Aggregation.Adds() {
			p.bad(draws, "draws needs a meter that counts or sums; %s takes the %s", m.Key, aggWord(m.Aggregation))
		}
		at := draws.get("credits")
		if f.Draws.Credits == "" || f.Draws.PerUnit == "" {
			continue
		}
		pool := p.cat.Features[f.Draws.Credits]
		switch {
		case pool == nil:
			p.bad(at, "there is no feature %s%s", quote(f.Draws.Credits), didYouMean(f.Draws.Credits, p.pools()))
			continue
		case pool.Kind == "":
			continue // noted already
		case pool.Kind != usher.Credits:
			p.bad(at, "%s is of kind %s: draws takes from a feature of kind credits%s", quote(pool.Key), pool.Kind, p.poolHint())
			continue
		}
		per := draws.get("per_unit")
		_, fraction, _ := strings.Cut(string(f.Draws.PerUnit), ".")
		if need := len(fraction) + f.Precision; need > pool.Precision {
			p.bad(per, "%s has %s after the point and %s has precision %d, so %s needs precision %d or more; it has %d",
				f.Draws.PerUnit, digitCount(len(fraction)), key.text, f.Precision, pool.Key, need, pool.Precision)
			continue
		}
		rate, err := f.Draws.PerUnit.Units(pool.Precision - f.Precision)
		if err != nil {
			p.bad(per, "is beyond what can be counted")
			continue
		}
		f.Draws.Rate = rate
	}
}

func digitCount(n int) string {
	if n == 1 {
		return "1 digit"
	}
	return string(rune('0'+n)) + " digits"
}

// pools lists the features that can be drawn from.
func (p *parser) pools() []string {
	var keys []string
	for _, key := range sortedKeys(p.cat.Features) {
		if p.cat.Features[key].Kind == usher.Credits {
			keys = append(keys, key)
		}
	}
	return keys
}

func (p *parser) poolHint() string {
	if pools := p.pools(); len(pools) > 0 {
		return ", such as " + pools[0]
	}
	return ""
}

// gauge reports whether a feature's meter neither counts nor sums (S33).
func gauge(m *usher.Meter) bool { return m != nil && !m.Aggregation.Adds() }

// aggWord returns what a gauge takes, in words.
func aggWord(a usher.Aggregation) string {
	switch a {
	case usher.Max:
		return "largest value"
	case usher.Last:
		return "last value"
	}
	return "number of different values"
}
