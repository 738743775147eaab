package usher

import (
	"encoding/json"
	"time"
)

// Environment is an isolated world: its own catalogue, customers, keys, clock.
type Environment string

// The environments that exist from the start.
const (
	Production Environment = "production"
	Sandbox    Environment = "sandbox"
)

// Environments lists every environment.
var Environments = []Environment{Production, Sandbox}

// Customer is the account that buys. Its time zone and anchor place its windows.
type Customer struct {
	ID        string            `json:"id"`
	Name      string            `json:"name,omitempty"`
	Timezone  string            `json:"timezone,omitempty"` // IANA; "" is the environment's
	Anchor    *time.Time        `json:"anchor,omitempty"`   // nil: none was given; windows begin at CreatedAt
	Metadata  map[string]string `json:"metadata,omitempty"`
	CreatedAt time.Time         `json:"created_at"`
	// Clocks says from where windows are computed, over time: oldest first, never
	// empty. The clock in force at t is the last with From ≤ t, and before all of
	// them the first.
	Clocks []Clock `json:"clocks"`
}

// Clock is an anchor and a zone in force from an instant on (S18).
type Clock struct {
	From     time.Time `json:"from"`
	Anchor   time.Time `json:"anchor"`             // cut to the whole minute (S07)
	Timezone string    `json:"timezone,omitempty"` // "" is the environment's
}

// Status is a subscription's status.
type Status string

// The statuses. A caller can set the first four; time sets the others (S35).
const (
	Active    Status = "active"
	PastDueSt Status = "past_due"
	Suspended Status = "suspended"
	Canceled  Status = "canceled"
	Trialing  Status = "trialing"
	Ended     Status = "ended"
	Scheduled Status = "scheduled"
)

// Subscription is what a customer holds over time: a plan version and add-ons.
// Its state at t is computed from the phases with At ≤ t, in order: each
// replaces the fields that it sets.
type Subscription struct {
	ID          string     `json:"id"`
	Customer    string     `json:"customer"`
	Family      string     `json:"family"`
	StartsAt    time.Time  `json:"starts_at"`
	EndsAt      *time.Time `json:"ends_at,omitempty"`       // nil: open
	TrialEndsAt *time.Time `json:"trial_ends_at,omitempty"` // set: overrides the plan's trial
	NoTrial     bool       `json:"no_trial,omitempty"`      // trial_ends_at was given as null
	Phases      []Phase    `json:"phases"`                  // by At; the first is at StartsAt and names plan and add-ons
	CreatedAt   time.Time  `json:"created_at"`
	// EndsSet is when ends_at or trial_ends_at was last changed; zero: never. If
	// the end that was given lies before EndsSet, use in between was counted as if
	// the subscription went on.
	EndsSet time.Time `json:"ends_set,omitzero"`
}

// Phase is a change of a subscription that holds from At on.
type Phase struct {
	At     time.Time    `json:"at"`
	Plan   *HeldPlan    `json:"plan,omitempty"`   // nil: as before
	Addons *[]HeldAddon `json:"addons,omitempty"` // nil: as before; empty: none
	Status Status       `json:"status,omitempty"` // "": as before
}

// HeldPlan is a plan version on a subscription.
type HeldPlan struct {
	Ref
	Pinned bool // a caller named the version, so no migration changes it (S29)
}

type heldPlan struct {
	Ref    Ref  `json:"ref"`
	Pinned bool `json:"pinned,omitempty"`
}

// MarshalJSON writes an object. Without it, the embedded Ref's MarshalText would
// make the whole a string.
func (h HeldPlan) MarshalJSON() ([]byte, error) { return json.Marshal(heldPlan{h.Ref, h.Pinned}) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *HeldPlan) UnmarshalJSON(b []byte) error {
	var v heldPlan
	err := json.Unmarshal(b, &v)
	*h = HeldPlan{v.Ref, v.Pinned}
	return err
}

// HeldAddon is an add-on of a subscription. Quantity 3 counts as three instances
// of the add-on (S05).
type HeldAddon struct {
	Addon    Ref  `json:"addon"`    // with its version
	Quantity int  `json:"quantity"` // from 1 to MaxAddonQuantity
	Pinned   bool `json:"pinned,omitempty"`
}

// MaxAddonQuantity bounds HeldAddon.Quantity.
const MaxAddonQuantity = 10_000

// Override is an exception for one customer, with a reason and perhaps an end
// (S03). Exactly one of Set, Add and Deny is set.
type Override struct {
	ID        string       `json:"id"`
	Customer  string       `json:"customer"`
	Feature   string       `json:"feature"`
	Set       *OverrideSet `json:"set,omitempty"`
	Add       *int64       `json:"add,omitempty"` // smallest units, may be negative
	Deny      bool         `json:"deny,omitempty"`
	Reason    string       `json:"reason"`
	CreatedBy string       `json:"created_by"`
	CreatedAt time.Time    `json:"created_at"`
	ExpiresAt *time.Time   `json:"expires_at,omitempty"` // nil: never
}

// OverrideSet replaces parts of an entitlement. A field that is nil or "" leaves
// its part as plans and add-ons give it.
type OverrideSet struct {
	On        *bool     `json:"on,omitempty"`
	Value     *Value    `json:"value,omitempty"`
	Limit     *int64    `json:"limit,omitempty"` // smallest units
	Unlimited bool      `json:"unlimited,omitempty"`
	Per       *Period   `json:"per,omitempty"`
	Anchor    Anchor    `json:"anchor,omitempty"`
	Priority  *int      `json:"priority,omitempty"`
	Overage   *Overage  `json:"overage,omitempty"`
	Rollover  *Rollover `json:"rollover,omitempty"`
	Caps      *[]Cap    `json:"caps,omitempty"`
	Mode      Mode      `json:"mode,omitempty"`
	Fail      Fail      `json:"fail,omitempty"`
}

// GrantKind says whether a grant was paid for (S15).
type GrantKind string

// The kinds of grants. Only a purchase is paid.
const (
	Promotion    GrantKind = "promotion"
	Compensation GrantKind = "compensation"
	Purchase     GrantKind = "purchase"
)

// Grant is a one-off amount with priority and expiry. It counts over
// [EffectiveAt, ExpiresAt).
type Grant struct {
	ID          string     `json:"id"`
	Customer    string     `json:"customer"`
	Feature     string     `json:"feature"`
	Amount      int64      `json:"amount"` // smallest units
	Kind        GrantKind  `json:"kind"`
	Priority    int        `json:"priority"`
	EffectiveAt time.Time  `json:"effective_at"`
	ExpiresAt   *time.Time `json:"expires_at,omitempty"` // nil: never
	VoidedAt    *time.Time `json:"voided_at,omitempty"`  // from then on nothing is left of it
	Reason      string     `json:"reason"`
	CreatedBy   string     `json:"created_by"`
	CreatedAt   time.Time  `json:"created_at"`
}
