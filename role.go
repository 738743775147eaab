package usher

import "strings"

// Permission is an action that a customer's members may be allowed, such as
// report.export.
type Permission struct {
	Key   string `json:"key"`
	Title string `json:"title,omitempty"`
	// Features are what the plan must entitle for it, each once, sorted; none:
	// the plan is not asked (A02).
	Features []string `json:"features,omitempty"`
	Any      bool     `json:"any,omitempty"`  // one of Features is enough; else all of them (A02)
	Risk     Risk     `json:"risk,omitempty"` // "" is low
}

// Risk is how much harm the use of a permission can do.
type Risk string

// The risks.
const (
	RiskLow    Risk = "low"
	RiskMedium Risk = "medium"
	RiskHigh   Risk = "high"
)

// Risks lists every risk, lowest first.
var Risks = []Risk{RiskLow, RiskMedium, RiskHigh}

// Role is a set of permissions under a name: the catalogue's, or a customer's
// own (a custom role, which has neither Seat nor When).
type Role struct {
	Key         string   `json:"key"`
	Title       string   `json:"title,omitempty"`
	Includes    []string `json:"includes,omitempty"`    // roles whose permissions it has too, each once, sorted
	Permissions []string `json:"permissions,omitempty"` // keys and patterns (MatchPermission), each once, sorted
	Seat        string   `json:"seat,omitempty"`        // a feature of kind seats that its holder must sit in; "" is none
	When        string   `json:"when,omitempty"`        // CEL; what the role gives holds only where it is true; "" is always
}

// CustomRoles says what customers' own roles may hold.
type CustomRoles struct {
	Ceiling string `json:"ceiling"` // a role of the catalogue: no custom role gives more than it (A05)
}

// Separation is a rule of separated duties: nobody may hold two of its roles,
// directly, through groups or through roles that include them.
type Separation struct {
	Key   string   `json:"key"`
	Title string   `json:"title,omitempty"`
	Roles []string `json:"roles"` // at least two, each once, sorted
}

// ValidPattern reports whether s names permissions: a key, or a key of which
// whole segments are "*" (any one segment) or the last is "**" (any one or
// more). Segments are what stands between dots, so "a.b" never means "a.b.c"
// (A06).
func ValidPattern(s string) bool {
	if s == "" || len(s) > MaxKey {
		return false
	}
	rest, more := s, true
	for more {
		var segment string
		segment, rest, more = strings.Cut(rest, ".")
		switch {
		case segment == "**":
			if more {
				return false
			}
		case segment == "*":
		case strings.Contains(segment, "*"):
			return false
		case !validSegment(segment):
			return false
		}
	}
	return IsPattern(s) || ValidKey(s)
}

func validSegment(s string) bool { return ValidKey("a"+s) && s != "" }

// IsPattern reports whether s, a valid pattern, can mean more than one key.
func IsPattern(s string) bool { return strings.Contains(s, "*") }

// MatchPermission reports whether a valid pattern means a permission's key.
func MatchPermission(pattern, key string) bool {
	for {
		p, ps, pmore := strings.Cut(pattern, ".")
		if p == "**" {
			return key != ""
		}
		k, ks, kmore := strings.Cut(key, ".")
		if p != "*" && p != k || k == "" || pmore != kmore {
			return false
		}
		if !pmore {
			return true
		}
		pattern, key = ps, ks
	}
}
