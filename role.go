package usher

import "strings"

// Permission is an action that a customer's members may be allowed, such as
// report.export.
type Permission struct {
	Key   string `json:"key"`
	Title string `json:"title,omitempty"`
	// Features are the features that the plan must give, each once, sorted; none:
	// the plan does not matter (A02).
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
	Seat        string   `json:"seat,omitempty"`        // a feature of kind seats: a member needs a seat of it; "" is none
	When        string   `json:"when,omitempty"`        // CEL: the role gives nothing unless it is true; "" is always true
}

// CustomRoles says what the roles that customers make may give.
type CustomRoles struct {
	Ceiling string `json:"ceiling"` // a role of the catalogue: no custom role gives more than it (A05)
}

// Separation is a rule of separated duties: no member may hold two of its roles,
// directly, through groups or through roles that include them.
type Separation struct {
	Key   string   `json:"key"`
	Title string   `json:"title,omitempty"`
	Roles []string `json:"roles"` // at least two, each once, sorted
}

// MaxPermission is the longest key of a permission, and the longest pattern, in bytes.
const MaxPermission = 128

// ValidPermission reports whether s can be the key of a permission: segments of
// A-Z a-z 0-9 _ : / - joined by dots, none of them empty, such as report.export,
// route.GET, tools/call or s3:GetObject (S56). Upper and lower case differ.
func ValidPermission(s string) bool { return ValidPattern(s) && !IsPattern(s) }

// ValidPattern reports whether s is a pattern for permissions. A pattern is a key
// in which a segment (the text between two dots) may be "*", which matches any
// one segment, and the last segment may be "**", which matches one or more. So
// "a.b" does not match "a.b.c" (A06).
func ValidPattern(s string) bool {
	if len(s) > MaxPermission {
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
		case !validSegment(segment):
			return false
		}
	}
	return true
}

func validSegment(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == ':', c == '/', c == '-':
		default:
			return false
		}
	}
	return s != ""
}

// IsPattern reports whether s, a valid pattern, can match more than one key.
func IsPattern(s string) bool { return strings.Contains(s, "*") }

// MatchPermission reports whether a valid pattern matches a permission's key.
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
