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
	Granted, WithinLimit, ReasonOverage, ReasonUnlimited, Warned, Shadowed,
	UnknownCustomer, UnknownMember, UnknownPermission, NoRole, ConditionFailed,
	UnknownFeature, Revoked, ReasonSuspended, TrialEnded, SubscriptionEnded, NotStarted, NotEntitled,
	NoSeat, CapReached, InsufficientCredits, SeatLimitReached, LimitReached, ReasonUnavailable,
}

// Decision is the answer to "may this customer use this feature, this much,
// now?". Quantities are in smallest units of the feature; Precision says how
// many of their digits stand after the point.
type Decision struct {
	Allowed    bool
	Reason     Reason
	Customer   string
	Feature    string // "" where a permission was asked for that names none, or several
	Member     string // who of the customer asked; "" is the customer itself
	Permission string // what of the member was asked; ""
	Legs       *Legs  // of a decision about a member; else nil
	Kind       Kind   // "" where the feature is unknown
	Value      *Value // config
	Type       ConfigType
	Plan       Ref // zero unless exactly one plan gives the feature (S04)
	Rule       Combine
	Sources    []string // what the answer used; nil where Plan says it all
	Precision  int

	Counted   bool  // the numbers below mean something
	Unlimited bool  // Limit and Remaining do not apply
	Limit     int64 // sum of what counts now
	Used      int64 // includes Overage and Excess
	Reserved  int64
	Remaining int64 // never below 0
	Overage   int64
	Excess    int64
	Window    *Window // of the row that ends soonest; nil without bounds

	Allowances []AllowanceUse // listed where there is more than one window
	Caps       []CapUse

	Consumed   int64 // what this take took
	Deductions []Deduction
	Taken      bool // the decision is of a take: Consumed and Deductions are shown
	Replayed   bool // a stored answer (S13)

	Reservation *Reservation // of the calls about reservations
	Seat        *Seat        // of the calls about seats, where the holder has one
	Correction  *Correction  // of a correction

	Degraded bool
	AsOf     time.Time // zero: now
	Revision int64
}

// AllowanceUse is one allowance's window, or one grant, with its numbers (S34).
type AllowanceUse struct {
	ID        string // the first of its sources in burn order: "plan:pro@1"
	Sources   []string
	Unlimited bool
	Limit     int64
	Used      int64
	Reserved  int64
	Remaining int64
	Overage   int64
	Excess    int64
	Window    Window // zero: without bounds
}

// CapUse is one cap with its numbers.
type CapUse struct {
	ID        string // "plan:pro@1"
	Per       Period
	Sliding   bool
	Limit     int64
	Used      int64
	Remaining int64
	Window    Window
}

// Deduction is what a take burned of one allowance (S15).
type Deduction struct {
	Allowance string // "plan:pro@1", "grant:gr_…", "overage:plan:pro@1", …
	Feature   string // the pool, where the take drew credits; "" is the decision's own
	Precision int    // of Feature, where it is named
	Amount    int64
}
