package catalogfile

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/usher-sh/usher"
)

// Change is one difference between two catalogues, in words.
type Change struct {
	Path   string `json:"path"`   // "plans.pro.entitlements.api_calls"
	Action string `json:"action"` // "add", "remove" or "change"
	Text   string `json:"text"`   // "plan pro: feature api_calls: limit 100000 → 120000 per month"
}

// The actions of a Change.
const (
	Add    = "add"
	Remove = "remove"
	Alter  = "change"
)

// Diff lists what makes new of old, in the order of the file: first what is not
// in plans, then each plan, then add-ons, then who may do what. Equal catalogues
// have no changes. A nil catalogue is an empty one. Plans and add-ons are
// compared as the file says them; where a plan inherits a change, the text names
// the plan. Of each role it says what it gains and loses in effect, even if
// its own words are the same.
func Diff(old, new *usher.Catalog) []Change {
	if old == nil {
		old = &usher.Catalog{}
	}
	if new == nil {
		new = &usher.Catalog{}
	}
	d := &differ{old: old, new: new, heirs: map[string][]string{}}
	for _, key := range sortedKeys(new.Plans) {
		if base := new.Plans[key].Extends; base != "" {
			d.heirs[base] = append(d.heirs[base], key)
		}
	}
	d.field("", "timezone", "time zone", or(old.Timezone, "UTC"), or(new.Timezone, "UTC"))
	things(d, "meters", "meter", old.Meters, new.Meters, d.meter)
	things(d, "features", "feature", old.Features, new.Features, d.feature)
	things(d, "plans", "plan", old.Plans, new.Plans, d.plan)
	things(d, "addons", "add-on", old.Addons, new.Addons, d.addon)
	d.access()
	return d.changes
}

type differ struct {
	old, new *usher.Catalog
	heirs    map[string][]string // in new: plan → the plans that extend it
	changes  []Change
	effects  *effects // what each role gives; nil until asked
}

func (d *differ) note(action, path, format string, args ...any) {
	d.changes = append(d.changes, Change{path, action, fmt.Sprintf(format, args...)})
}

// field adds a change if two texts differ; "" means absent.
func (d *differ) field(path, name, words, old, new string) {
	if old == new {
		return
	}
	prefix, at := "", name
	if path != "" {
		kind, key, _ := strings.Cut(path, ".")
		prefix, at = sectionWords[kind]+" "+key+": ", path+"."+name
	}
	switch {
	case old == "":
		d.note(Add, at, "%s%s %s", prefix, words, new)
	case new == "":
		d.note(Remove, at, "%s%s %s removed", prefix, words, old)
	default:
		d.note(Alter, at, "%s%s %s → %s", prefix, words, old, new)
	}
}

var sectionWords = map[string]string{"meters": "meter", "features": "feature", "plans": "plan", "addons": "add-on",
	"permissions": "permission", "roles": "role", "separation": "separation"}

// things compares two sections by key. It calls compare with a nil old for what is
// new.
func things[T any](d *differ, section, what string, old, new map[string]*T, compare func(path string, old, new *T)) {
	for _, key := range both(old, new) {
		a, b := old[key], new[key]
		path := section + "." + key
		switch {
		case a == nil:
			d.note(Add, path, "new %s %s", what, key)
		case b == nil:
			d.note(Remove, path, "%s %s removed", what, key)
			continue
		case reflect.DeepEqual(a, b):
			continue
		}
		compare(path, a, b)
	}
}

// both lists the keys of two maps, each once, sorted.
func both[T any](a, b map[string]*T) []string {
	keys := append(sortedKeys(a), sortedKeys(b)...)
	slices.Sort(keys)
	return slices.Compact(keys)
}

func (d *differ) meter(path string, a, b *usher.Meter) {
	if a == nil {
		return // its name says enough
	}
	d.field(path, "title", "title", quoteSome(a.Title), quoteSome(b.Title))
	d.field(path, "event", "event", a.Event, b.Event)
	d.field(path, "aggregation", "takes", aggregation(a), aggregation(b))
	d.field(path, "where", "where", whereWords(a), whereWords(b))
	d.field(path, "dimensions", "dimensions", strings.Join(a.Dimensions, ", "), strings.Join(b.Dimensions, ", "))
}

func aggregation(m *usher.Meter) string {
	if m.Field == "" {
		return string(m.Aggregation)
	}
	return string(m.Aggregation) + " of " + m.Field
}

func whereWords(m *usher.Meter) string {
	if len(m.Where) == 0 {
		return ""
	}
	line, _ := formatMeter(m).get("where").oneLine(1 << 30)
	return line
}

func (d *differ) feature(path string, a, b *usher.Feature) {
	if a == nil {
		return
	}
	d.field(path, "kind", "kind", string(a.Kind), string(b.Kind))
	d.field(path, "title", "title", quoteSome(a.Title), quoteSome(b.Title))
	d.field(path, "type", "type", string(a.Type), string(b.Type))
	d.field(path, "values", "values", strings.Join(a.Values, ", "), strings.Join(b.Values, ", "))
	d.field(path, "combine", "combine", string(a.Combine), string(b.Combine))
	d.field(path, "meter", "meter", a.Meter, b.Meter)
	d.field(path, "unit", "unit", quoteSome(a.Unit), quoteSome(b.Unit))
	d.field(path, "precision", "precision", strconv.Itoa(a.Precision), strconv.Itoa(b.Precision))
	d.field(path, "draws", "draws", drawsWords(a.Draws), drawsWords(b.Draws))
	if a.Kind == b.Kind {
		if a.Kind.Counts() {
			d.field(path, "mode", "mode", or(string(a.Mode), "enforce"), or(string(b.Mode), "enforce"))
		}
		d.field(path, "fail", "fail", or(string(a.Fail), "closed"), or(string(b.Fail), "closed"))
		d.field(path, "on_change", "on_change", or(string(a.OnChange), "carry"), or(string(b.OnChange), "carry"))
	}
}

func drawsWords(d *usher.Draws) string {
	if d == nil {
		return ""
	}
	return string(d.PerUnit) + " of " + d.Credits + " per unit"
}

func (d *differ) plan(path string, a, b *usher.Plan) {
	if a == nil {
		a = &usher.Plan{Key: b.Key, Title: b.Title, Family: b.Family}
	}
	d.field(path, "title", "title", quoteSome(a.Title), quoteSome(b.Title))
	d.field(path, "family", "family", a.Family, b.Family)
	if a.Default != b.Default {
		action, words := Add, "becomes the default of family "
		if a.Default {
			action, words = Remove, "is no longer the default of family "
		}
		d.note(action, path+".default", "plan %s: %s%s", b.Key, words, b.Family)
	}
	d.field(path, "extends", "extends", a.Extends, b.Extends)
	d.field(path, "without", "without", strings.Join(a.Without, ", "), strings.Join(b.Without, ", "))
	d.field(path, "trial", "trial of", spanWords(a.Trial), spanWords(b.Trial))
	d.field(path, "past_due", "when past due:", dueWords(a.PastDue), dueWords(b.PastDue))
	d.field(path, "period", "period", or(string(a.Period), "month"), or(string(b.Period), "month"))
	for _, key := range both(a.Entitlements, b.Entitlements) {
		d.planEntitlement(path, key, a, b)
	}
	if d.old.Plans[b.Key] != nil && (a.Extends != b.Extends || !slices.Equal(a.Without, b.Without)) {
		d.inherited(path, a, b)
	}
}

// inherited adds what a plan gains or loses because its extends or without changed.
func (d *differ) inherited(path string, a, b *usher.Plan) {
	was, is := Resolve(d.old, a.Key).Entitlements, Resolve(d.new, b.Key).Entitlements
	for _, key := range both(was, is) {
		if a.Entitlements[key] == nil && b.Entitlements[key] == nil {
			d.entitlement(path, "plan "+b.Key, key, suffix("inherited", d.inheritedBy(b.Key, key)), was[key], is[key])
		}
	}
}

func (d *differ) addon(path string, a, b *usher.Addon) {
	if a == nil {
		a = &usher.Addon{Key: b.Key, Title: b.Title}
	}
	d.field(path, "title", "title", quoteSome(a.Title), quoteSome(b.Title))
	for _, key := range both(a.Entitlements, b.Entitlements) {
		d.entitlement(path, "add-on "+b.Key, key, "", a.Entitlements[key], b.Entitlements[key])
	}
}

// planEntitlement compares what a plan gives for a feature that it names before
// or after; on the other side it may inherit it.
func (d *differ) planEntitlement(path, key string, a, b *usher.Plan) {
	own, is := a.Entitlements[key], b.Entitlements[key]
	if reflect.DeepEqual(own, is) {
		return
	}
	var how string
	was := own
	if was == nil {
		if was = given(d.old, b.Key, key); was != nil {
			how = "until now inherited"
		}
	}
	if is == nil {
		if is = given(d.new, b.Key, key); is != nil {
			how = "from now on inherited"
		}
	}
	source, heirs := "plan "+b.Key, d.inheritedBy(b.Key, key)
	if was != nil && is != nil && difference(d.old.Features[key], d.new.Features[key], was, is) == "" {
		d.note(Alter, path+".entitlements."+key, "%s: feature %s: still %s%s", source, key, sum(d.new.Features[key], is), suffix(how, heirs))
		return
	}
	d.entitlement(path, source, key, suffix(how, heirs), was, is)
}

// suffix puts what there is to add in brackets.
func suffix(notes ...string) string {
	notes = slices.DeleteFunc(notes, func(s string) bool { return s == "" })
	if len(notes) == 0 {
		return ""
	}
	return " (" + strings.Join(notes, ", ") + ")"
}

// inheritedBy names the plans that a change of a plan's feature reaches too.
func (d *differ) inheritedBy(plan, feature string) string {
	const most = 5
	heirs := d.inheritors(plan, feature, nil, 0)
	switch {
	case len(heirs) == 0:
		return ""
	case len(heirs) > most:
		return "inherited by " + strings.Join(heirs[:most], ", ") + " and more"
	}
	return "inherited by " + strings.Join(heirs, ", ")
}

// inheritors lists plans that inherit a feature from plan in both catalogues;
// it may leave some out when there are very many. What else a plan gets or loses
// is noted with the plan.
func (d *differ) inheritors(plan, feature string, found []string, depth int) []string {
	for _, key := range d.heirs[plan] {
		if len(found) > 100 || depth > MaxExtends {
			return found
		}
		if !inherits(d.old.Plans[key], plan, feature) || !inherits(d.new.Plans[key], plan, feature) {
			continue
		}
		found = d.inheritors(key, feature, append(found, key), depth+1)
	}
	return found
}

func inherits(p *usher.Plan, base, feature string) bool {
	return p != nil && p.Extends == base && p.Entitlements[feature] == nil && !slices.Contains(p.Without, feature)
}

// entitlement compares what a source gives for one feature; nil is nothing.
func (d *differ) entitlement(path, source, key, also string, a, b *usher.Entitlement) {
	at := path + ".entitlements." + key
	was, is := d.old.Features[key], d.new.Features[key]
	switch {
	case a == nil && b == nil:
	case a == nil:
		d.note(Add, at, "%s: gives feature %s: %s%s", source, key, sum(is, b), also)
	case b == nil:
		d.note(Remove, at, "%s: no longer gives feature %s (was %s)%s", source, key, sum(was, a), also)
	default:
		if words := difference(was, is, a, b); words != "" {
			d.note(Alter, at, "%s: feature %s: %s%s", source, key, words, also)
		}
	}
}

// difference returns what changed in words, or "".
func difference(was, is *usher.Feature, a, b *usher.Entitlement) string {
	before, after := facets(was, a), facets(is, b)
	if len(a.Allowances) == 1 && len(b.Allowances) == 1 {
		// The usual case: "limit 100000 → 120000 per month".
		x, y := a.Allowances[0], b.Allowances[0]
		if limit := limitWords(is, y); x.Per == y.Per && x.Anchor == y.Anchor && limitWords(was, x) != limit {
			after[0].text = limit + clockPhrase(is, y)
			before[0].text = limitWords(was, x)
		}
	}
	var all []string
	for i := range before {
		x, y := before[i].text, after[i].text
		switch name := before[i].name; {
		case x == y:
		case x == "":
			all = append(all, name+" "+y)
		case y == "":
			all = append(all, "no "+name+" (was "+x+")")
		case name == "":
			all = append(all, x+" → "+y)
		default:
			all = append(all, name+" "+x+" → "+y)
		}
	}
	return strings.Join(all, ", ")
}

// sum returns a whole entitlement in words.
func sum(f *usher.Feature, e *usher.Entitlement) string {
	var all []string
	for i, facet := range facets(f, e) {
		switch {
		case facet.text == "":
		case i == 0:
			all = append(all, facet.text)
		default:
			all = append(all, facet.name+" "+facet.text)
		}
	}
	if len(all) == 0 {
		return "by credits only"
	}
	return strings.Join(all, ", ")
}

// facet is one part of an entitlement in words; "" if it has none.
type facet struct{ name, text string }

// facets always gives the same facets in the same order, what it is worth first.
func facets(f *usher.Feature, e *usher.Entitlement) []facet {
	if f == nil {
		f = &usher.Feature{}
	}
	all := []facet{{}, {name: "overage"}, {name: "rollover"}, {name: "priority"}, {name: "caps"}, {name: "mode"}, {name: "fail"},
		{name: "on_change"}}
	switch f.Kind {
	case usher.Switch:
		all[0].text = "off"
		if e.On {
			all[0].text = "on"
		}
	case usher.Config:
		all[0].text, _ = formatValue(f, e.Value).oneLine(1 << 30)
	default:
		all[0].name = "limit"
		var limits, caps []string
		for _, a := range e.Allowances {
			words := limitWords(f, a) + clockPhrase(f, a)
			if len(e.Allowances) > 1 {
				words = strings.Join(append([]string{words}, extras(f, a)...), ", ")
			} else {
				for i, x := range extraFacets(f, a) {
					all[1+i].text = x.text
				}
			}
			limits = append(limits, words)
		}
		all[0].text = strings.Join(limits, " + ")
		for _, c := range e.Caps {
			words := usher.FormatQuantity(c.Limit, f.Precision) + perPhrase(c.Per, c.Anchor)
			if c.Sliding {
				words += " sliding"
			}
			caps = append(caps, words)
		}
		all[4].text = strings.Join(caps, " and ")
	}
	all[5].text, all[6].text, all[7].text = string(e.Mode), string(e.Fail), string(e.OnChange)
	return all
}

// extraFacets returns the parts of an allowance other than limit and window.
func extraFacets(f *usher.Feature, a usher.Allowance) []facet {
	all := []facet{{name: "overage"}, {name: "rollover"}, {name: "priority"}}
	switch {
	case a.Overage.Unlimited:
		all[0].text = unlimitedWord
	case a.Overage.Max > 0:
		all[0].text = "up to " + usher.FormatQuantity(a.Overage.Max, f.Precision)
	}
	if r := a.Rollover; r != nil {
		all[1].text = "up to " + usher.FormatQuantity(r.Max, f.Precision)
		if r.Windows > 1 {
			all[1].text += " for " + usher.CountOf(r.Windows, "window")
		}
	}
	if a.Priority != usher.DefaultPriority {
		all[2].text = strconv.Itoa(a.Priority)
	}
	return all
}

func extras(f *usher.Feature, a usher.Allowance) []string {
	var all []string
	for _, x := range extraFacets(f, a) {
		if x.text != "" {
			all = append(all, x.name+" "+x.text)
		}
	}
	return all
}

func limitWords(f *usher.Feature, a usher.Allowance) string {
	if a.Unlimited {
		return unlimitedWord
	}
	precision := 0
	if f != nil {
		precision = f.Precision
	}
	return usher.FormatQuantity(a.Limit, precision)
}

// clockPhrase returns " per month"; "" for what has no windows to speak of.
func clockPhrase(f *usher.Feature, a usher.Allowance) string {
	if f != nil && f.Kind == usher.Seats || a.Unlimited && a.Per.Unit == usher.Lifetime {
		return ""
	}
	return perPhrase(a.Per, a.Anchor)
}

func perPhrase(per usher.Period, anchor usher.Anchor) string {
	if per.Unit == usher.Lifetime {
		return " for a lifetime"
	}
	return " per " + clockWords(per, anchor)
}

func spanWords(s usher.Span) string {
	if s == (usher.Span{}) {
		return ""
	}
	return s.String()
}

// dueWords returns what happens when a payment is overdue, the default included.
func dueWords(p *usher.PastDue) string {
	if p == nil {
		p = &usher.DefaultPastDue
	}
	return p.Then + " after " + p.Grace.String()
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func quoteSome(s string) string {
	if s == "" {
		return ""
	}
	return strconv.Quote(s)
}
