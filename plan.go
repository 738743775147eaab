package usher

import "slices"

// Catalog is everything that is sold and decided: one file. Maps are by key.
type Catalog struct {
	Timezone string              `json:"timezone,omitempty"` // IANA; "" is UTC
	Meters   map[string]*Meter   `json:"meters,omitempty"`
	Features map[string]*Feature `json:"features,omitempty"`
	Plans    map[string]*Plan    `json:"plans,omitempty"`
	Addons   map[string]*Addon   `json:"addons,omitempty"`

	Permissions map[string]*Permission `json:"permissions,omitempty"`
	Roles       map[string]*Role       `json:"roles,omitempty"`
	CustomRoles *CustomRoles           `json:"custom_roles,omitempty"` // nil: customers make none
	Separation  map[string]*Separation `json:"separation,omitempty"`
}

// Plan is what is sold. Plans of one family exclude each other per customer.
// Entitlements are the plan's own in a file's plan, and the resolved ones
// (extends and without applied) in a published version.
type Plan struct {
	Key          string                  `json:"key"`
	Title        string                  `json:"title,omitempty"`
	Family       string                  `json:"family"`            // default DefaultFamily
	Default      bool                    `json:"default,omitempty"` // for customers without a subscription in the family (S28)
	Extends      string                  `json:"extends,omitempty"` // inherits entitlements only (S29); "" once resolved
	Without      []string                `json:"without,omitempty"` // inherited features that this plan does not give; nil once resolved
	Trial        Span                    `json:"trial,omitzero"`    // zero: none (S35)
	PastDue      *PastDue                `json:"past_due,omitempty"`
	Period       Unit                    `json:"period,omitempty"` // Month (also "") or Year: what period_end means (S35)
	Entitlements map[string]*Entitlement `json:"entitlements"`
}

// DefaultFamily is the family of a plan without one.
const DefaultFamily = "main"

// PastDue says what happens to an unpaid subscription (S27).
type PastDue struct {
	Grace Span   `json:"grace"` // counted from status_since
	Then  string `json:"then"`  // "suspend", "default", or a plan's key
}

// The values of PastDue.Then besides a plan's key.
const (
	ThenSuspend = "suspend"
	ThenDefault = "default"
)

// DefaultPastDue is the rule of a plan without one (S27).
var DefaultPastDue = PastDue{Grace: Span{7, Day}, Then: ThenDefault}

// Addon is a set of entitlements that a subscription can have, once or several
// times.
type Addon struct {
	Key          string                  `json:"key"`
	Title        string                  `json:"title,omitempty"`
	Entitlements map[string]*Entitlement `json:"entitlements"`
}

// PlanVersion is a published plan. It never changes (S29).
type PlanVersion struct {
	Version int `json:"version"` // from 1
	Plan
}

// Ref is the version's name, such as pro@3.
func (v *PlanVersion) Ref() Ref { return Ref{v.Key, v.Version} }

// AddonVersion is a published add-on. It never changes (S29).
type AddonVersion struct {
	Version int `json:"version"` // from 1
	Addon
}

// Ref is the version's name, such as api-pack@1.
func (v *AddonVersion) Ref() Ref { return Ref{v.Key, v.Version} }

// Entitlement is what one source gives for one feature. Which fields hold
// depends on the feature's kind: On for switch, Value for config, Allowances
// and Caps for metered, seats and credits. A metered entitlement without
// allowances ("{}") draws credits only.
type Entitlement struct {
	On         bool        `json:"on,omitempty"`
	Value      *Value      `json:"value,omitempty"`
	Allowances []Allowance `json:"allowances,omitempty"`
	Caps       []Cap       `json:"caps,omitempty"`
	Mode       Mode        `json:"mode,omitempty"`      // "": the feature's
	Fail       Fail        `json:"fail,omitempty"`      // "": the feature's
	OnChange   OnChange    `json:"on_change,omitempty"` // "": the feature's
}

// Allowance is an amount per window that use burns.
type Allowance struct {
	Limit     int64     `json:"limit"` // smallest units, 0 is entitled to nothing (S02)
	Unlimited bool      `json:"unlimited,omitempty"`
	Per       Period    `json:"per"` // Lifetime for seats and for a bare "unlimited"
	Anchor    Anchor    `json:"anchor,omitempty"`
	Priority  int       `json:"priority"` // 0 to 255, lower burns first; DefaultPriority
	Overage   Overage   `json:"overage,omitzero"`
	Rollover  *Rollover `json:"rollover,omitempty"`
}

// DefaultPriority is the priority of an allowance or a grant without one (S15).
const DefaultPriority = 100

// Overage is how far use may go beyond the limit (S20). The zero value is not at
// all.
type Overage struct {
	Unlimited bool  `json:"unlimited,omitempty"`
	Max       int64 `json:"max,omitempty"` // smallest units
}

// Rollover carries an allowance's unused limit into later windows (S21).
type Rollover struct {
	Max     int64 `json:"max"`     // smallest units
	Windows int   `json:"windows"` // how many later windows it lives, from 1
}

// MaxRolloverWindows bounds Rollover.Windows.
const MaxRolloverWindows = 12

// Cap is a limit per window besides the allowances: a take must fit both.
type Cap struct {
	Limit   int64  `json:"limit"` // smallest units
	Per     Period `json:"per"`
	Anchor  Anchor `json:"anchor,omitempty"`
	Sliding bool   `json:"sliding,omitempty"` // the last Per, at every instant
}

// Value is a config feature's value; which field holds depends on the type.
type Value struct {
	Int  int64    `json:"int,omitempty" keep:"1"`  // integer; decimal in smallest units; enum: its rank in Values
	Text string   `json:"text,omitempty" keep:"2"` // string, enum
	List []string `json:"list,omitempty" keep:"3"` // list: sorted, each once
}

// Equal reports whether v and w are the same value.
func (v Value) Equal(w Value) bool {
	return v.Int == w.Int && v.Text == w.Text && slices.Equal(v.List, w.List)
}
