package catalogfile

import (
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones are the same on every machine
	"unicode"
	"unicode/utf8"

	"github.com/usher-sh/usher"
)

// parser builds a catalogue from nodes. A problem never stops it: everything that
// can still be checked is checked, so that the writer sees all problems at once.
type parser struct {
	*reader
	cat    *usher.Catalog
	clocks []clockUse
	bare   []bareUse
	whens  map[string][]string // what is wrong with each condition's text
	means  map[string]bool     // whether each pattern means a permission
}

// clockUse is a window that an entitlement names for a gauge. Each gauge has one
// window in the whole catalogue (S33), which checkClocks checks.
type clockUse struct {
	feature string
	at      *node
	per     usher.Period
	anchor  usher.Anchor
}

// bareUse is an unlimited allowance that names no window: it takes its
// feature's one window where the feature's meter does not add up.
type bareUse struct {
	feature string
	e       *usher.Entitlement
	i       int
}

var sections = []string{"usher", "timezone", "meters", "features", "plans", "addons", "permissions", "roles", "custom_roles", "separation"}

func (p *parser) catalog(root *node) {
	if root.kind != mapNode {
		p.bad(root, `a catalogue is a map that begins with "usher: 1", %s`, root.got())
		return
	}
	p.fields(root, sections)
	switch version := root.get("usher"); {
	case version == nil:
		p.bad(root, `"usher: %s" is missing: it says which version of the format the file is in`, fileFormat)
	case version.class() != isNumber || version.text != fileFormat:
		p.bad(version, "must be %s, the only supported version of the format, %s", fileFormat, version.got())
	}
	if n := root.get("timezone"); n != nil {
		p.cat.Timezone = p.timezone(n)
	}
	// In this order, whatever the order of the file: what names another thing is read after
	// it.
	p.cat.Meters = section(p, root.get("meters"), "meter", MaxEntries, p.meter)
	p.cat.Features = section(p, root.get("features"), "feature", MaxEntries, p.feature)
	p.checkFeatures(root.get("features"))
	p.cat.Plans = section(p, root.get("plans"), "plan", MaxEntries, p.plan)
	p.checkPlans(root.get("plans"))
	p.cat.Addons = section(p, root.get("addons"), "add-on", MaxEntries, p.addon)
	p.checkClocks()
	p.cat.Permissions = sectionOf(p, root.get("permissions"), "permission", MaxPermissions, p.permissionKey, p.permission)
	p.cat.Roles = section(p, root.get("roles"), "role", MaxRoles, p.role)
	p.cat.Separation = section(p, root.get("separation"), "separation rule", MaxSeparations, p.separation)
	p.cat.CustomRoles = p.customRoles(root.get("custom_roles"))
	p.checkRoles(root.get("roles"), root.get("separation"))
}

// section reads a map of at most most things by key. An absent or empty one is
// nil.
func section[T any](p *parser, n *node, what string, most int, read func(key string, n *node) *T) map[string]*T {
	return sectionOf(p, n, what, most, p.key, read)
}

// key checks the key of a thing.
func (p *parser) key(key *node) {
	if !usher.ValidKey(key.text) {
		p.bad(key, "invalid key %s: a key is 1 to %d of a-z 0-9 . _ - and begins with a letter or digit%s", quote(key.text), usher.MaxKey,
			keyHint(key.text, usher.ValidKey))
	}
}

// sectionOf is like section, for things whose keys another function checks.
func sectionOf[T any](p *parser, n *node, what string, most int, check func(key *node), read func(key string, n *node) *T) map[string]*T {
	if n == nil || n.class() == isNothing {
		return nil
	}
	if n.kind != mapNode {
		p.bad(n, "must be a map of %ss by key, %s", what, n.got())
		return nil
	}
	if len(n.keys) > most {
		p.bad(n, "may hold at most %d %ss, this one holds %d", most, what, len(n.keys))
		return nil
	}
	if len(n.keys) == 0 {
		return nil
	}
	all := make(map[string]*T, len(n.keys))
	for i, key := range n.keys {
		check(key)
		if t := read(key.text, n.items[i]); t != nil {
			all[key.text] = t
		}
	}
	return all
}

// keyHint returns a suggestion: the key nearest to s that is valid, or "".
func keyHint(s string, valid func(string) bool) string {
	if dotted := strings.Join(strings.FieldsFunc(s, func(c rune) bool { return c == '.' }), "."); dotted != s && valid(dotted) {
		return ", such as " + dotted
	}
	var b strings.Builder
	for _, c := range strings.ToLower(strings.TrimSpace(s)) {
		if c == ' ' || c == '/' {
			c = '-'
		}
		if c < 0x80 && (b.Len() > 0 || unicode.IsLetter(c) || unicode.IsDigit(c)) && usher.ValidKey("a"+string(c)) {
			b.WriteRune(c)
		}
	}
	if usher.ValidKey(b.String()) {
		return ", such as " + b.String()
	}
	return ""
}

// fields adds a problem for each key of a map that is not known, and reports
// whether n is a map.
func (p *parser) fields(n *node, known []string) bool {
	if n.kind != mapNode {
		hint := ""
		if n.class() == isNothing {
			hint = " (write {} for an empty one)"
		}
		p.bad(n, "must be a map with fields such as %s, %s%s", strings.Join(known[:min(len(known), 3)], ", "), n.got(), hint)
		return false
	}
	for _, key := range n.keys {
		if !slices.Contains(known, key.text) {
			p.unknown(key, known)
		}
	}
	return true
}

func (p *parser) unknown(key *node, known []string) {
	if near := nearest(key.text, known); near != "" {
		p.bad(key, "unknown field %s; did you mean %q?", quote(key.text), near)
		return
	}
	p.bad(key, "unknown field %s; known fields: %s", quote(key.text), strings.Join(known, ", "))
}

// text reads a text of at most most bytes. An empty one is refused unless most
// is maxText.
func (p *parser) text(n *node, most int) (string, bool) {
	switch n.class() {
	case isText:
	case isNumber, isBool:
		p.bad(n, `must be text: write "%s" in quotes`, clip(n.text))
		return "", false
	default:
		p.bad(n, "must be text, %s", n.got())
		return "", false
	}
	switch {
	case n.text == "" && most != maxText:
		p.bad(n, "must not be empty")
		return "", false
	case len(n.text) > most:
		p.bad(n, "must be at most %d bytes, this one is %d", most, len(n.text))
		return "", false
	case !utf8.ValidString(n.text):
		p.bad(n, "must be valid UTF-8")
		return "", false
	}
	for _, c := range n.text {
		if unicode.IsControl(c) {
			p.bad(n, "must not contain control characters or line ends (U+%04X)", c)
			return "", false
		}
	}
	return n.text, true
}

// title reads an optional one-line text.
func (p *parser) title(n *node) string {
	if n == nil {
		return ""
	}
	s, _ := p.text(n, maxTitle)
	return s
}

// lookup reads the key of something that the catalogue must have.
func lookup[T any](p *parser, n *node, what string, all map[string]*T) (string, *T) {
	s, ok := p.text(n, maxTitle)
	if !ok {
		return "", nil
	}
	t := all[s]
	if t == nil {
		hint := ""
		if len(p.problems) < MaxProblems { // else nobody reads it
			hint = didYouMean(s, sortedKeys(all))
		}
		p.bad(n, "there is no %s %s%s", what, quote(s), hint)
	}
	return s, t
}

// word reads one of a few words.
func word[T ~string](p *parser, n *node, words []T) (T, bool) {
	if n.class() == isText && slices.Contains(words, T(n.text)) {
		return T(n.text), true
	}
	hint := ""
	if n.class() == isText {
		hint = didYouMean(n.text, words)
		for _, other := range otherWords[strings.ToLower(n.text)] {
			if slices.Contains(words, T(other)) {
				hint = " (did you mean " + strconv.Quote(other) + "?)"
			}
		}
	}
	p.bad(n, "must be %s, %s%s", oneOf(words), n.got(), hint)
	return "", false
}

// otherWords maps what people write to the words that they may mean.
var otherWords = map[string][]string{
	"min": {"minute"}, "hourly": {"hour"}, "daily": {"day"}, "weekly": {"week"}, "monthly": {"month"}, "quarterly": {"quarter"},
	"yearly": {"year"}, "annual": {"year"}, "annually": {"year"},
	"forever": {"lifetime"}, "never": {"lifetime"}, "once": {"lifetime"}, "total": {"lifetime"},
	"boolean": {"switch"}, "bool": {"switch"}, "flag": {"switch"}, "quota": {"metered"}, "usage": {"metered"}, "limit": {"metered"},
	"meter": {"metered"}, "value": {"config"}, "setting": {"config"},
	"int": {"integer"}, "number": {"integer"}, "float": {"decimal"}, "text": {"string"}, "array": {"list"}, "set": {"list"},
	"hard": {"enforce"}, "strict": {"enforce"}, "soft": {"warn"}, "dry_run": {"shadow"}, "log": {"shadow"},
	"deny": {"closed"}, "allow": {"open"}, "keep": {"carry"}, "add": {"sum"}, "last": {"override"}, "first": {"override"},
	"signup": {"subscription"}, "creation": {"subscription"}, "billing": {"subscription"},
}

// flag reads true or false.
func (p *parser) flag(n *node) bool {
	if n.class() == isBool {
		return strings.EqualFold(n.text, "true")
	}
	hint := ""
	switch strings.ToLower(n.text) {
	case "yes", "y", "on", "1":
		hint = " (write true)"
	case "no", "n", "off", "0":
		hint = " (write false)"
	}
	if n.kind == scalarNode && n.class() == isText && !n.plain && (strings.EqualFold(n.text, "true") || strings.EqualFold(n.text, "false")) {
		hint = " (write it without quotes)"
	}
	p.bad(n, "must be true or false, %s%s", n.got(), hint)
	return false
}

// whole reads a whole number from low to high.
func (p *parser) whole(n *node, low, high int) (int, bool) {
	i, err := strconv.Atoi(n.text)
	if n.class() != isNumber || err != nil || i < low || i > high || strconv.Itoa(i) != n.text {
		p.bad(n, "must be a whole number from %d to %d, %s", low, high, n.got())
		return low, false
	}
	return i, true
}

// quantity reads an amount in smallest units (S24).
func (p *parser) quantity(n *node, precision int) (int64, bool) {
	if !p.decimal(n) {
		return 0, false
	}
	units, err := usher.ParseQuantity(n.text, precision)
	if err != nil {
		p.bad(n, "%s", err)
		return 0, false
	}
	return units, true
}

// decimal reports whether n is a number in plain decimal notation, as text or
// bare; other notations mean different things to different readers.
func (p *parser) decimal(n *node) bool {
	switch n.class() {
	case isNumber, isText:
	default:
		p.bad(n, `must be a number such as 10 or "1.5", %s`, n.got())
		return false
	}
	digits := strings.TrimPrefix(n.text, "-")
	plain := digits != ""
	for _, c := range digits {
		plain = plain && (c >= '0' && c <= '9' || c == '.')
	}
	if plain && !(len(digits) > 1 && digits[0] == '0' && digits[1] != '.') {
		return true
	}
	if n.class() == isText && !looksLikeNumber(n.text) {
		p.bad(n, `must be a number such as 10 or "1.5", %s`, n.got())
	} else {
		p.bad(n, "must be in plain digits such as 1000 (no +, _, exponent, leading zero or other base), %s", n.got())
	}
	return false
}

// span reads "14 days".
func (p *parser) span(n *node) (usher.Span, bool) {
	if n.class() != isText {
		hint := ""
		if n.class() == isNumber {
			hint = " (write " + clip(n.text) + " days)"
		}
		p.bad(n, `must be a span such as "14 days", %s%s`, n.got(), hint)
		return usher.Span{}, false
	}
	s, err := usher.ParseSpan(n.text)
	if err != nil {
		p.bad(n, "%s", err)
		return usher.Span{}, false
	}
	return s, true
}

// timezone reads an IANA zone; UTC is "".
func (p *parser) timezone(n *node) string {
	s, ok := p.text(n, maxTitle)
	if !ok {
		return ""
	}
	if s == "UTC" {
		return ""
	}
	// Sources of zones differ in these: links of one machine, leap seconds.
	known := s != "Local" && !strings.HasPrefix(s, "posix") && !strings.HasPrefix(s, "right/") && s != "localtime"
	if known {
		_, err := time.LoadLocation(s)
		known = err == nil
	}
	if !known {
		p.bad(n, "must be an IANA time zone such as UTC, Europe/Berlin or America/New_York, %s", n.got())
		return ""
	}
	return s
}

// list reads a list of at least one item.
func (p *parser) list(n *node, what string) []*node {
	if n.kind != listNode {
		p.bad(n, "must be a list of %s, %s", what, n.got())
		return nil
	}
	if len(n.items) == 0 {
		p.bad(n, "must be a list of %s, got an empty one", what)
	}
	return n.items
}

func sortedKeys[T any](all map[string]*T) []string {
	keys := make([]string, 0, len(all))
	for k := range all {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
