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
	Anchor    *time.Time        `json:"anchor,omitempty"`   // nil: none yet but the moment of creation
	Metadata  map[string]string `json:"metadata,omitempty"`
	CreatedAt time.Time         `json:"created_at"`
	// Clocks places the windows over time, oldest first, never empty: the entry
	// in force at t is the last with From ≤ t. The first holds for all time
	// before as well.
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

// The statuses. The first four can be set; the others follow from time (S35).
const (
	Active    Status = "active"
	PastDueSt Status = "past_due"
	Suspended Status = "suspended"
	Canceled  Status = "canceled"
	Trialing  Status = "trialing"
	Ended     Status = "ended"
	Scheduled Status = "scheduled"
)

// Subscription is customer + plan version + add-ons + phases over time. Its
// state at t is the fold of the phases with At ≤ t: each replaces what it names.
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
	// EndsSet is when ends_at or trial_ends_at was last given after the creation:
	// an end before it was not known to the use until then. Zero: never.
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
	Pinned bool // named with its version, so that migration leaves it (S29)
}

type heldPlan struct {
	Ref    Ref  `json:"ref"`
	Pinned bool `json:"pinned,omitempty"`
}

// MarshalJSON keeps the embedded Ref's text form inside an object.
func (h HeldPlan) MarshalJSON() ([]byte, error) { return json.Marshal(heldPlan{h.Ref, h.Pinned}) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *HeldPlan) UnmarshalJSON(b []byte) error {
	var v heldPlan
	err := json.Unmarshal(b, &v)
	*h = HeldPlan{v.Ref, v.Pinned}
	return err
}

// HeldAddon is one add-on attached Quantity times, each its own instance (S05).
type HeldAddon struct {
	Addon    Ref  `json:"addon"`    // with its version
	Quantity int  `json:"quantity"` // from 1 to MaxQuantityOfAddon
	Pinned   bool `json:"pinned,omitempty"`
}

// MaxAddonQuantity bounds HeldAddon.Quantity.
const MaxAddonQuantity = 10_000

// Override is a dated, reasoned exception for one customer (S03). Exactly one
// of Set, Add and Deny holds.
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

// OverrideSet replaces what it names of an entitlement; nil and "" leave the
// rest as plans and add-ons give it.
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
	VoidedAt    *time.Time `json:"voided_at,omitempty"`  // what was left then is gone
	Reason      string     `json:"reason"`
	CreatedBy   string     `json:"created_by"`
	CreatedAt   time.Time  `json:"created_at"`
}
