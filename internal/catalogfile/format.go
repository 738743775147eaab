package catalogfile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/usher-sh/usher"
)

// Format writes a catalogue in its canonical form: YAML with sections and
// fields in a fixed order, keys sorted, defaults left out, small maps on one
// line. What Parse reads of it is c again, and formats the same. Comments are
// not kept.
func Format(c *usher.Catalog) []byte {
	w := &writer{}
	top := &tree{block: true}
	top.add("usher", bare(fileFormat))
	if c != nil {
		top.text("timezone", c.Timezone)
		top.add("meters", formatAll(c.Meters, formatMeter))
		top.add("features", formatAll(c.Features, formatFeature))
		top.add("plans", formatAll(c.Plans, func(p *usher.Plan) *tree { return formatPlan(c, p) }))
		top.add("addons", formatAll(c.Addons, func(a *usher.Addon) *tree { return formatAddon(c, a) }))
		top.add("permissions", formatAll(c.Permissions, formatPermission))
		top.add("roles", formatAll(c.Roles, formatRole))
		if c.CustomRoles != nil {
			custom := &tree{}
			custom.text("ceiling", c.CustomRoles.Ceiling)
			top.add("custom_roles", custom)
		}
		top.add("separation", formatAll(c.Separation, formatSeparation))
	}
	w.fields(top, 0, false)
	return []byte(w.b.String())
}

// Hash returns "sha256:" and the hex digest of the canonical form: one catalogue has
// one hash, be it written as YAML or JSON, in any order, with any comments.
func Hash(c *usher.Catalog) string {
	sum := sha256.Sum256(Format(c))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// formatAll returns a section, or nil if it is empty.
func formatAll[T any](all map[string]*T, format func(*T) *tree) *tree {
	section := &tree{block: true}
	for _, key := range sortedKeys(all) {
		if all[key] != nil {
			section.add(key, format(all[key]))
		}
	}
	if len(section.keys) == 0 {
		return nil
	}
	return section
}

func formatMeter(m *usher.Meter) *tree {
	t := &tree{}
	t.text("title", m.Title)
	t.text("event", m.Event)
	if m.Field != "" {
		t.text(string(m.Aggregation), m.Field)
	}
	if len(m.Where) > 0 {
		where := &tree{}
		for _, path := range slices.Sorted(maps.Keys(m.Where)) {
			if values := m.Where[path]; len(values) == 1 {
				where.add(path, scalar(values[0]))
			} else {
				where.add(path, texts(values))
			}
		}
		t.add("where", where)
	}
	if len(m.Dimensions) > 0 {
		t.add("dimensions", texts(m.Dimensions))
	}
	return t
}

func formatFeature(f *usher.Feature) *tree {
	t := &tree{}
	t.text("kind", string(f.Kind))
	t.text("title", f.Title)
	t.text("type", string(f.Type))
	if len(f.Values) > 0 {
		t.add("values", texts(f.Values))
	}
	if rules := combines[f.Type]; len(rules) > 0 && f.Combine != rules[0] {
		t.text("combine", string(f.Combine))
	}
	t.text("meter", f.Meter)
	t.text("unit", f.Unit)
	if f.Precision != 0 {
		t.add("precision", bare(strconv.Itoa(f.Precision)))
	}
	if f.Draws != nil {
		draws := &tree{}
		draws.text("credits", f.Draws.Credits)
		draws.add("per_unit", quoted(string(f.Draws.PerUnit)))
		t.add("draws", draws)
	}
	if f.Mode != usher.Enforce {
		t.text("mode", string(f.Mode))
	}
	if f.Fail != usher.FailClosed {
		t.text("fail", string(f.Fail))
	}
	if f.OnChange != usher.Carry {
		t.text("on_change", string(f.OnChange))
	}
	return t
}

func formatPlan(c *usher.Catalog, p *usher.Plan) *tree {
	t := &tree{block: true}
	t.text("title", p.Title)
	if p.Family != usher.DefaultFamily {
		t.text("family", p.Family)
	}
	if p.Default {
		t.add("default", bare("true"))
	}
	t.text("extends", p.Extends)
	if len(p.Without) > 0 {
		t.add("without", texts(p.Without))
	}
	if p.Trial != (usher.Span{}) {
		t.add("trial", bare(p.Trial.String()))
	}
	if p.PastDue != nil && *p.PastDue != usher.DefaultPastDue {
		due := &tree{}
		if p.PastDue.Grace != usher.DefaultPastDue.Grace {
			due.add("grace", bare(p.PastDue.Grace.String()))
		}
		if p.PastDue.Then != usher.DefaultPastDue.Then {
			due.text("then", p.PastDue.Then)
		}
		t.add("past_due", due)
	}
	if p.Period != usher.Month {
		t.text("period", string(p.Period))
	}
	if e := formatEntitlements(c, p.Entitlements); e != nil {
		e.block = true
		t.add("entitlements", e)
	}
	return t
}

func formatAddon(c *usher.Catalog, a *usher.Addon) *tree {
	t := &tree{}
	t.text("title", a.Title)
	t.add("entitlements", formatEntitlements(c, a.Entitlements))
	return t
}

func formatPermission(p *usher.Permission) *tree {
	t := &tree{}
	t.text("title", p.Title)
	switch {
	case len(p.Features) == 1:
		t.text("feature", p.Features[0])
	case len(p.Features) > 1:
		t.add("feature", texts(p.Features))
		if p.Any {
			t.add("features", bare(anyWord))
		}
	}
	if p.Risk != usher.RiskLow {
		t.text("risk", string(p.Risk))
	}
	return t
}

func formatRole(r *usher.Role) *tree {
	t := &tree{}
	t.text("title", r.Title)
	if len(r.Includes) > 0 {
		t.add("includes", texts(r.Includes))
	}
	if len(r.Permissions) > 0 {
		t.add("permissions", texts(r.Permissions))
	}
	t.text("seat", r.Seat)
	t.text("when", r.When)
	return t
}

func formatSeparation(s *usher.Separation) *tree {
	t := &tree{}
	t.text("title", s.Title)
	t.add("roles", texts(s.Roles))
	return t
}

func formatEntitlements(c *usher.Catalog, all map[string]*usher.Entitlement) *tree {
	t := &tree{}
	for _, key := range sortedKeys(all) {
		if f := c.Features[key]; f != nil && all[key] != nil {
			t.add(key, formatEntitlement(f, all[key]))
		}
	}
	if len(t.keys) == 0 {
		return nil
	}
	return t
}

// formatEntitlement writes the shortest form that reads as e.
func formatEntitlement(f *usher.Feature, e *usher.Entitlement) *tree {
	t := &tree{}
	var value *tree
	switch f.Kind {
	case usher.Switch:
		value = bare(strconv.FormatBool(e.On))
	case usher.Config:
		value = formatValue(f, e.Value)
	default:
		if len(e.Allowances) == 1 {
			t = formatAllowance(f, e.Allowances[0])
			if len(t.keys) == 1 && e.Mode == "" && e.Fail == "" && e.OnChange == "" && len(e.Caps) == 0 {
				return t.values[0] // a bare limit
			}
		} else if len(e.Allowances) > 1 {
			list := &tree{list: true}
			for _, a := range e.Allowances {
				list.values = append(list.values, formatAllowance(f, a))
			}
			t.add("allowances", list)
		}
		if len(e.Caps) > 0 {
			list := &tree{list: true}
			for _, c := range e.Caps {
				list.values = append(list.values, formatCap(f, c))
			}
			t.add("caps", list)
		}
		t.text("mode", string(e.Mode))
		t.text("fail", string(e.Fail))
		t.text("on_change", string(e.OnChange))
		return t
	}
	if e.Fail == "" {
		return value
	}
	t.add("value", value)
	t.text("fail", string(e.Fail))
	return t
}

func formatValue(f *usher.Feature, v *usher.Value) *tree {
	if v == nil {
		v = &usher.Value{}
	}
	switch f.Type {
	case usher.TypeInteger:
		return bare(strconv.FormatInt(v.Int, 10))
	case usher.TypeDecimal:
		return amount(v.Int, f.Precision)
	case usher.TypeList:
		return texts(v.List)
	}
	return scalar(v.Text)
}

func formatAllowance(f *usher.Feature, a usher.Allowance) *tree {
	t := &tree{}
	if a.Unlimited {
		t.add("limit", bare(unlimitedWord))
	} else {
		t.add("limit", amount(a.Limit, f.Precision))
	}
	if f.Kind != usher.Seats && !(a.Unlimited && a.Per.Unit == usher.Lifetime) {
		t.add("per", formatPeriod(a.Per))
	}
	formatAnchor(t, a.Anchor)
	if a.Priority != usher.DefaultPriority {
		t.add("priority", bare(strconv.Itoa(a.Priority)))
	}
	switch {
	case a.Overage.Unlimited:
		t.add("overage", bare(unlimitedWord))
	case a.Overage.Max != 0:
		most := &tree{}
		most.add("max", amount(a.Overage.Max, f.Precision))
		t.add("overage", most)
	}
	if r := a.Rollover; r != nil {
		rollover := &tree{}
		rollover.add("max", amount(r.Max, f.Precision))
		if r.Windows != 1 {
			rollover.add("windows", bare(strconv.Itoa(r.Windows)))
		}
		t.add("rollover", rollover)
	}
	return t
}

func formatCap(f *usher.Feature, c usher.Cap) *tree {
	t := &tree{}
	t.add("limit", amount(c.Limit, f.Precision))
	t.add("per", formatPeriod(c.Per))
	formatAnchor(t, c.Anchor)
	if c.Sliding {
		t.add("sliding", bare("true"))
	}
	return t
}

func formatPeriod(p usher.Period) *tree {
	if p.Every == 1 {
		return bare(string(p.Unit))
	}
	t := &tree{}
	t.add("every", bare(strconv.Itoa(p.Every)))
	t.add("unit", bare(string(p.Unit)))
	return t
}

func formatAnchor(t *tree, a usher.Anchor) {
	if a != usher.AnchorSubscription {
		t.text("anchor", string(a))
	}
}

// amount returns a number if the precision is 0, else a decimal in quotes.
func amount(units int64, precision int) *tree {
	if precision == 0 {
		return bare(strconv.FormatInt(units, 10))
	}
	return quoted(usher.FormatQuantity(units, precision))
}

// tree is a piece of YAML to write: a scalar, a map or a list.
type tree struct {
	scalar string // as it is written; "" for a map or a list
	keys   []string
	values []*tree
	list   bool
	block  bool // never on one line
}

func bare(s string) *tree { return &tree{scalar: s} }

func quoted(s string) *tree { return &tree{scalar: quoteYAML(s)} }

// scalar returns text, in quotes where it needs them.
func scalar(s string) *tree {
	if plainText(s) {
		return bare(s)
	}
	return quoted(s)
}

func texts(all []string) *tree {
	t := &tree{list: true}
	for _, s := range all {
		t.values = append(t.values, scalar(s))
	}
	return t
}

// add adds a field unless value is nil.
func (t *tree) add(key string, value *tree) {
	if value != nil {
		t.keys, t.values = append(t.keys, scalar(key).scalar), append(t.values, value)
	}
}

// text adds a field unless s is empty.
func (t *tree) text(key, s string) {
	if s != "" {
		t.add(key, scalar(s))
	}
}

// plainText reports whether every reader of YAML takes s, unquoted, for text.
func plainText(s string) bool {
	if s == "" || len(s) > maxTitle || s[len(s)-1] == ' ' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || strings.IndexByte(" ._-/+()", c) >= 0)) {
			return false
		}
	}
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "y", "n", "null":
		return false
	}
	return true
}

// quoteYAML writes s in double quotes.
func quoteYAML(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == ' ' || unicode.IsGraphic(c) && !unicode.IsSpace(c) && c != utf8.RuneError:
			b.WriteRune(c)
		case c <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, c)
		case c <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			fmt.Fprintf(&b, `\U%08x`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// lineWidth is the longest line, in bytes, on which a map is written whole.
const lineWidth = 100

type writer struct{ b strings.Builder }

// oneLine returns t on one line, and whether it fits in room bytes.
func (t *tree) oneLine(room int) (string, bool) {
	switch {
	case t.scalar != "":
		return t.scalar, true
	case len(t.values) == 0 && t.list:
		return "[]", true
	case len(t.values) == 0:
		return "{}", true
	case t.block:
		return "", false
	}
	open, end := "{", "}"
	if t.list {
		open, end = "[", "]"
	}
	var b strings.Builder
	b.WriteString(open)
	for i, v := range t.values {
		if i > 0 {
			b.WriteString(", ")
		}
		if !t.list {
			b.WriteString(t.keys[i] + ": ")
		}
		s, ok := v.oneLine(room - b.Len())
		if !ok {
			return "", false
		}
		b.WriteString(s)
		if b.Len() >= room {
			return "", false
		}
	}
	b.WriteString(end)
	return b.String(), true
}

// fields writes a map, one key a line. begun: the first line's indent is there.
func (w *writer) fields(t *tree, indent int, begun bool) {
	for i, key := range t.keys {
		if !begun || i > 0 {
			w.b.WriteString(strings.Repeat(" ", indent))
		}
		w.b.WriteString(key + ":")
		w.value(t.values[i], indent, indent+len(key)+2)
	}
}

// value writes what stands after a key.
func (w *writer) value(t *tree, indent, column int) {
	if line, ok := t.oneLine(lineWidth - column); ok {
		w.b.WriteString(" " + line + "\n")
		return
	}
	w.b.WriteByte('\n')
	if !t.list {
		w.fields(t, indent+2, false)
		return
	}
	for _, item := range t.values {
		w.b.WriteString(strings.Repeat(" ", indent+2) + "- ")
		if line, ok := item.oneLine(lineWidth - indent - 4); ok {
			w.b.WriteString(line + "\n")
		} else {
			w.fields(item, indent+4, true)
		}
	}
}

// get returns the value of a field, or an empty map.
func (t *tree) get(key string) *tree {
	for i, k := range t.keys {
		if k == key {
			return t.values[i]
		}
	}
	return &tree{}
}
