package catalogfile

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// rootName is the path of the outermost node if there is no file.
const rootName = "value"

type nodeKind uint8

const (
	scalarNode nodeKind = iota
	mapNode
	listNode
)

// node is one value of the input with its place. Scalars keep their text as it
// was written, so that no number ever is a float.
type node struct {
	kind         nodeKind
	plain        bool   // a scalar without quotes: may be a number, true, false or null
	text         string // scalar
	keys         []*node
	items        []*node // of a map beside keys
	line, column int     // from 1
	up           *node
	name         string // what up calls it: a key, or "[2]"
}

// path returns the place of n, such as "plans.pro.entitlements.api_calls.caps[0]".
func (n *node) path() string {
	var names []string
	for ; n != nil; n = n.up {
		if n.name != "" {
			names = append(names, n.name)
		}
	}
	var b strings.Builder
	for i := len(names) - 1; i >= 0; i-- {
		if b.Len() > 0 && names[i][0] != '[' {
			b.WriteByte('.')
		}
		b.WriteString(names[i])
	}
	return b.String()
}

// get returns the value of a key, or nil.
func (n *node) get(key string) *node {
	if n == nil || n.kind != mapNode {
		return nil
	}
	for i, k := range n.keys {
		if k.text == key {
			return n.items[i]
		}
	}
	return nil
}

// class is what a value is, as a person would say it.
type class string

const (
	isNothing class = "nothing"
	isBool    class = "true or false"
	isNumber  class = "a number"
	isText    class = "text"
	isMap     class = "a map"
	isList    class = "a list"
)

func (n *node) class() class {
	switch {
	case n.kind == mapNode:
		return isMap
	case n.kind == listNode:
		return isList
	case !n.plain:
		return isText
	}
	switch n.text {
	case "", "~", "null", "Null", "NULL":
		return isNothing
	case "true", "True", "TRUE", "false", "False", "FALSE":
		return isBool
	}
	if looksLikeNumber(n.text) {
		return isNumber
	}
	return isText
}

// looksLikeNumber reports whether any YAML reader would read s as a number.
func looksLikeNumber(s string) bool {
	switch strings.ToLower(strings.TrimLeft(s, "+-")) {
	case ".inf", ".nan":
		return true
	}
	digits := strings.TrimLeft(s, "+-.")
	if digits == "" || digits[0] < '0' || digits[0] > '9' || len(s)-len(digits) > 2 {
		return false
	}
	s = strings.ReplaceAll(s, "_", "")
	if _, err := strconv.ParseInt(s, 0, 64); err == nil || isRange(err) {
		return true
	}
	_, err := strconv.ParseFloat(s, 64)
	return err == nil || isRange(err)
}

func isRange(err error) bool {
	e, ok := err.(*strconv.NumError)
	return ok && e.Err == strconv.ErrRange
}

// got describes n for the end of a message.
func (n *node) got() string {
	switch n.class() {
	case isNothing:
		return "got nothing"
	case isMap:
		return "got a map"
	case isList:
		return "got a list"
	case isText:
		return "got " + quote(n.text)
	}
	return "got " + clip(n.text)
}

func index(i int) string { return "[" + strconv.Itoa(i) + "]" }

func quote(s string) string { return strconv.Quote(clip(s)) }

func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// nearest returns the candidate that a writer of word most likely meant, or "".
func nearest[T ~string](word string, candidates []T) T {
	// One mistake, and one more for each five letters, three at most: a longer distance
	// suggests unrelated words.
	limit := 1 + min(len(word)/5, 2)
	var best T
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(string(c)), limit); d <= limit {
			if d < limit || best == "" {
				best = c
			}
			limit = min(limit, d)
		}
	}
	return best
}

// distance returns how many letters of a must be added, dropped, changed or
// swapped with their neighbour to get b. It stops counting at limit+1.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit || len(a) > 80 || len(b) > 80 {
		return limit + 1
	}
	// The optimal string alignment distance, in three rows instead of a table: this row, the
	// one above, and the one above that for swaps.
	var rows [3][81]int
	two, one, row := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		one[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		least := row[0]
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			d := min(one[j]+cost, one[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, two[j-1]+1)
			}
			row[j+1] = d
			least = min(least, d)
		}
		// Later rows cannot be smaller, so the distance exceeds the limit.
		if least > limit {
			return limit + 1
		}
		two, one, row = one, row, two
	}
	return one[len(b)]
}

// didYouMean returns " (did you mean …?)" or "".
func didYouMean[T ~string](word string, candidates []T) string {
	if near := nearest(word, candidates); near != "" && string(near) != word {
		return " (did you mean " + strconv.Quote(string(near)) + "?)"
	}
	return ""
}

// oneOf lists words: "a, b or c".
func oneOf[T ~string](words []T) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}
