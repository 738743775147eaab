package usher

import "time"

// Reason says why a decision is what it is. A "no" is an answer, not an error.
type Reason string

// The reasons. Where several deny, S37 gives the order.
const (
	Granted             Reason = "granted"
	WithinLimit         Reason = "within_limit"
	ReasonOverage       Reason = "overage"
	ReasonUnlimited     Reason = "unlimited"
	Warned              Reason = "warned"
	Shadowed            Reason = "shadowed"
	AlreadyHeld         Reason = "already_held"
	UnknownCustomer     Reason = "unknown_customer"
	UnknownFeature      Reason = "unknown_feature"
	Revoked             Reason = "revoked"
	ReasonSuspended     Reason = "suspended"
	TrialEnded          Reason = "trial_ended"
	SubscriptionEnded   Reason = "subscription_ended"
	NotStarted          Reason = "not_started"
	NotEntitled         Reason = "not_entitled"
	CapReached          Reason = "cap_reached"
	InsufficientCredits Reason = "insufficient_credits"
	SeatLimitReached    Reason = "seat_limit_reached"
	LimitReached        Reason = "limit_reached"
	ReasonUnavailable   Reason = "unavailable"
	UnknownMember       Reason = "unknown_member"
	UnknownPermission   Reason = "unknown_permission"
	NoRole              Reason = "no_role"
	ConditionFailed     Reason = "condition_failed"
	NoSeat              Reason = "no_seat"
)

// Reasons lists every reason: first those that allow, then those that deny in
// the order of S37, with those about members where A01 puts them, then
// unavailable, which can be either.
var Reasons = []Reason{
	Granted, WithinLimit, ReasonOverage, ReasonUnlimited, Warned, Shadowed, AlreadyHeld,
	UnknownCustomer, UnknownMember, UnknownPermission, NoRole, ConditionFailed,
	UnknownFeature, Revoked, ReasonSuspended, TrialEnded, SubscriptionEnded, NotStarted, NotEntitled,
	NoSeat, CapReached, InsufficientCredits, SeatLimitReached, LimitReached, ReasonUnavailable,
}

// Decision is the answer to "may this customer use this feature, this much,
// now?". Quantities are in smallest units of the feature; Precision says how
// many of their digits stand after the point.
//
// The tags of this struct and of those that it holds are the only description
// of the answer's JSON: UnmarshalJSON, the stored form and the OpenAPI document
// are derived from them. json names the member. quantity marks an amount, which
// is a number where Precision is 0 and a decimal string otherwise. there marks a
// flag without a member of its own: whether the named quantity is there. keep is the
// number of the field in the stored form of a take; it never changes, and a
// number that is no longer used is not given again; "-" has a column of its own.
// doc is the description in the OpenAPI document. AppendJSON alone is written by
// hand, because every check goes through it.
type Decision struct {
	Allowed    bool   `json:"allowed" keep:"1" doc:"Whether the customer may"`
	Reason     Reason `json:"reason" keep:"2" doc:"Why the answer is yes or no"`
	Customer   string `json:"customer" keep:"-" doc:"The customer who was asked about"`
	Feature    string `json:"feature,omitempty" keep:"-" doc:"The feature whose numbers these are. Absent where a permission is linked with no feature, or with several"`
	Member     string `json:"member,omitempty" keep:"5" doc:"The member who asked. Absent where the customer itself did"`
	Permission string `json:"permission,omitempty" keep:"6" doc:"The permission that was asked for"`
	Legs       *Legs  `json:"legs,omitempty" keep:"7" doc:"The parts of a decision about a member"` // nil without a member
	Kind       Kind   `json:"kind,omitempty" keep:"8" doc:"The kind of the feature. Absent where the feature is unknown"`
	Title      string `json:"title,omitempty" keep:"36" doc:"The feature's title in the catalogue"`
	Unit       string `json:"unit,omitempty" keep:"37" doc:"What the feature's amounts are of, such as call"`
	// digits after the point, 0 to MaxPrecision; shown with amounts, and where it is not 0
	Precision int        `json:"precision,omitempty" keep:"14" doc:"How many digits after the point the feature's amounts have. Absent: none, or no amounts"`
	Value     *Value     `json:"value,omitempty" keep:"9" doc:"The value of a config feature"`
	Type      ConfigType `json:"-" keep:"10"`                                                                 // of Value
	Plan      Ref        `json:"plan,omitzero" keep:"11" doc:"The plan, where exactly one gives the feature"` // S04
	Rule      Combine    `json:"rule,omitempty" keep:"12" doc:"How several sources were combined"`
	Sources   []string   `json:"sources,omitempty" keep:"13" doc:"What the answer used, where plan alone does not say it"`
	Mode      Mode       `json:"mode,omitempty" keep:"38" doc:"Whether the limit is enforced. Absent where the feature has no amounts"`
	Fail      Fail       `json:"fail,omitempty" keep:"39" doc:"What to assume while the server cannot be asked, where the catalogue or an override says it"`

	Counted   bool    `json:"-" keep:"15" there:"Used"` // the numbers below mean something
	Unlimited bool    `json:"unlimited,omitempty" keep:"16" doc:"Whether there is no limit; limit and remaining are absent then"`
	Limit     int64   `json:"limit,omitempty" quantity:"true" keep:"17" doc:"The total of what counts now"`
	Used      int64   `json:"used,omitempty" quantity:"true" keep:"18" doc:"What is used, overage and excess included"`
	Reserved  int64   `json:"reserved,omitempty" quantity:"true" keep:"19" doc:"What open reservations hold"`
	Remaining int64   `json:"remaining,omitempty" quantity:"true" keep:"20" doc:"What is left of the limit, never below 0"`
	Overage   int64   `json:"overage,omitempty" quantity:"true" keep:"21" doc:"The part of used that is beyond the limit and was permitted"`
	Excess    int64   `json:"excess,omitempty" quantity:"true" keep:"22" doc:"The part of used that is beyond what was permitted"`
	Window    *Window `json:"window,omitempty" keep:"23" doc:"The window that ends soonest. Absent where the amount never renews"`

	// overage is permitted, so OverageLeft means something; math.MaxInt64 is unlimited
	OveragePermitted bool        `json:"-" keep:"40" there:"OverageLeft"`
	OverageLeft      int64       `json:"overage_left,omitempty" quantity:"unlimited" keep:"41" doc:"What may still be used beyond the limit. Absent where no overage is permitted"`
	Credits          *CreditsUse `json:"credits,omitempty" keep:"42" doc:"The credits that the feature draws on. Absent where it draws on none"`

	Allowances []AllowanceUse `json:"allowances,omitempty" keep:"24" doc:"Each allowance, where there is more than one window"`
	Caps       []CapUse       `json:"caps,omitempty" keep:"25" doc:"Each cap, where any applies"`

	Consumed   int64       `json:"consumed,omitempty" quantity:"true" keep:"26" doc:"What this call took. Only in answers of consume and settle"`
	Deductions []Deduction `json:"deductions,omitempty" keep:"27" doc:"What this call took from each allowance. Only in answers of consume and settle"`
	// the decision is of a take: Consumed and Deductions are shown
	Taken    bool `json:"-" keep:"28" there:"Consumed"`
	Replayed bool `json:"replayed,omitempty" keep:"29" doc:"Whether this is the stored answer of an earlier call with the same key"` // S13

	Reservation *Reservation `json:"reservation,omitempty" keep:"30" doc:"What is held, or how that ended. Only in answers about reservations"`
	Seat        *Seat        `json:"seat,omitempty" keep:"31" doc:"The holder's seat, if any. Only in answers about seats"`
	Correction  *Correction  `json:"correction,omitempty" keep:"32" doc:"What was given back. Only in answers of corrections"`

	Degraded bool      `json:"degraded,omitempty" keep:"33" doc:"Whether the answer was made without the current state"`
	AsOf     time.Time `json:"as_of,omitzero" keep:"34" doc:"The instant of the state that answered. Absent: now"`
	// ValidUntil is the next instant at which time alone may change the answer: a
	// window, a source or a hold ends, or a unit falls out of a sliding cap. Zero: time
	// alone never changes it.
	ValidUntil time.Time `json:"valid_until,omitzero" keep:"43" doc:"The next instant at which time alone may change the answer. Absent: never"`
	Revision   int64     `json:"revision" keep:"35" doc:"The revision of the environment that answered"`
}

// CreditsUse is what a feature that draws on credits may still draw (S25).
type CreditsUse struct {
	Feature   string `json:"feature" keep:"1" doc:"The feature of kind credits"`
	PerUnit   Number `json:"per_unit" keep:"2" doc:"The credits that one whole unit of the decision's feature takes, as decimal text"`
	Precision int    `json:"precision,omitempty" keep:"3" doc:"How many digits after the point the credits have. Absent: none"`
	Rate      int64  `json:"-" keep:"4"` // PerUnit as smallest units of the credits for one smallest unit of the feature
	Held      int64  `json:"held" quantity:"true" keep:"9" doc:"The credits that are used or reserved"`
	Unlimited bool   `json:"unlimited,omitempty" keep:"5" doc:"Whether there is no limit; remaining is absent then"`
	Remaining int64  `json:"remaining,omitempty" quantity:"true" keep:"6" doc:"The credits that are left and that the caps of the credits let through"`

	OveragePermitted bool  `json:"-" keep:"7" there:"OverageLeft"`
	OverageLeft      int64 `json:"overage_left,omitempty" quantity:"unlimited" keep:"8" doc:"The credits that may still be used beyond the limit. Absent where no overage is permitted"`
}

// AllowanceUse is one allowance's window, or one grant, with its numbers (S34).
type AllowanceUse struct {
	ID        string   `json:"allowance" keep:"1" doc:"The id of the allowance, such as plan:pro@1"` // the first of its sources in burn order
	Sources   []string `json:"sources,omitempty" keep:"2" doc:"Where the allowance comes from, if from several places"`
	Unlimited bool     `json:"unlimited,omitempty" keep:"3" doc:"Whether there is no limit; limit and remaining are absent then"`
	Limit     int64    `json:"limit,omitempty" quantity:"true" keep:"4" doc:"What the allowance gives in its window"`
	Used      int64    `json:"used" quantity:"true" keep:"5" doc:"What is used, overage and excess included"`
	Reserved  int64    `json:"reserved" quantity:"true" keep:"6" doc:"What open reservations hold"`
	Remaining int64    `json:"remaining,omitempty" quantity:"true" keep:"7" doc:"What is left, never below 0"`
	Overage   int64    `json:"overage" quantity:"true" keep:"8" doc:"The part of used that is beyond the limit and was permitted"`
	Excess    int64    `json:"excess,omitempty" quantity:"true" keep:"9" doc:"The part of used that is beyond what was permitted"`
	Window    Window   `json:"window,omitzero" keep:"10" doc:"The current window. Absent where the amount never renews"`
}

// CapUse is one cap with its numbers.
type CapUse struct {
	ID        string `json:"cap" keep:"1" doc:"Where the cap comes from, such as plan:pro@1"`
	Per       Period `json:"per" keep:"2" doc:"The length of the cap's window"`
	Sliding   bool   `json:"sliding,omitempty" keep:"3" doc:"Whether the window slides instead of starting anew"`
	Limit     int64  `json:"limit" quantity:"true" keep:"4" doc:"The most that may be used in the window"`
	Used      int64  `json:"used" quantity:"true" keep:"5" doc:"What is used in the window"`
	Remaining int64  `json:"remaining" quantity:"true" keep:"6" doc:"What is left in the window, never below 0"`
	Window    Window `json:"window,omitzero" keep:"7" doc:"The current window"`
}

// Deduction is what a take burned of one allowance (S15).
type Deduction struct {
	Allowance string `json:"allowance" keep:"1" doc:"The allowance that was used: plan:pro@1, grant:gr_…, overage:plan:pro@1 …"`
	Feature   string `json:"feature,omitempty" keep:"2" doc:"The credits that were used. Absent where it is the decision's own feature"`
	Precision int    `json:"-" keep:"3"` // of Feature, where it is named
	Amount    int64  `json:"amount" quantity:"true" keep:"4" doc:"How much was used"`
}
