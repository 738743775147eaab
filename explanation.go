package usher

import (
	"bytes"
	"encoding/json"
	"time"
)

// Explanation is a decision with its trace: what was considered, the rule that
// combined it, the numbers, and what would change the answer. It comes from the
// same evaluation as the decision.
type Explanation struct {
	Decision   Decision
	Considered []SourceTrace     `json:"considered"`
	Combined   Combine           `json:"rule,omitempty"`
	Allowances []AllowanceUse    `json:"allowances,omitempty"`
	Caps       []CapUse          `json:"caps,omitempty"`
	Changes    []WhatWouldChange `json:"would_change"`
	Access     *AccessTrace      `json:"access,omitempty"` // of a decision about a member's permission
}

// trace is what an explanation has beside its decision.
type trace struct {
	Considered []SourceTrace     `json:"considered"`
	Changes    []WhatWouldChange `json:"would_change"`
	Access     *AccessTrace      `json:"access,omitempty"`
}

// MarshalJSON writes the decision's object with every allowance and cap listed,
// and with considered, would_change and access as further members.
func (e Explanation) MarshalJSON() ([]byte, error) {
	d := e.Decision
	d.Allowances, d.Caps, d.Rule = e.Allowances, e.Caps, e.Combined
	t := trace{Considered: e.Considered, Changes: e.Changes, Access: e.Access}
	if t.Considered == nil {
		t.Considered = []SourceTrace{}
	}
	if t.Changes == nil {
		t.Changes = []WhatWouldChange{}
	}
	var more bytes.Buffer
	enc := json.NewEncoder(&more)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(t); err != nil {
		return nil, err
	}
	b := append(d.appendOpen(make([]byte, 0, 2048), true), ',')
	return append(b, more.Bytes()[1:more.Len()-1]...), nil
}

// AccessTrace says what was considered about a member's permission.
type AccessTrace struct {
	Features    []string          `json:"features,omitempty"` // the features that the permission asks of the plan
	Any         bool              `json:"any,omitempty"`      // one of Features is enough
	Assignments []AssignmentTrace `json:"assignments"`
	Roles       []string          `json:"roles"` // the roles that give the permission, by key
}

// AssignmentTrace is one assignment that was considered, and what came of it.
type AssignmentTrace struct {
	ID           string     `json:"id"`
	Role         string     `json:"role"`
	Group        string     `json:"group,omitempty"` // the group that gives it to the member; "": it is the member's own
	ResourceType string     `json:"resource_type,omitempty"`
	ResourceID   string     `json:"resource_id,omitempty"`
	From         time.Time  `json:"from"`
	Until        *time.Time `json:"until,omitempty"`
	// gives, seat_missing, condition_failed, not_started, ended, out_of_scope, not_given, unknown_role
	Outcome    string   `json:"outcome"`
	Conditions []string `json:"conditions,omitempty"`
	Seats      []string `json:"seats,omitempty"`
}

// SourceTrace is one source that an evaluation considered.
type SourceTrace struct {
	ID    string `json:"id"`    // "plan:pro@1", "override:ovr_…"
	Kind  string `json:"kind"`  // plan, addon, override or grant
	Ref   string `json:"ref"`   // "pro@1", "ovr_…"
	Gives string `json:"gives"` // in words
	Used  bool   `json:"used"`
	Why   string `json:"why,omitempty"` // why it was not used, or the reason given with it

	Subscription string    `json:"subscription,omitempty"` // that has the plan or the add-on; "": a default plan
	Quantity     int64     `json:"quantity,omitempty"`     // of an add-on
	From         time.Time `json:"from,omitzero"`
	Until        time.Time `json:"until,omitzero"`   // when it ends, or stops being as it is; absent: never
	Amount       *Quantity `json:"amount,omitempty"` // absent: unlimited, several amounts, or none
	Per          *Length   `json:"per,omitempty"`    // absent: the amount never renews
}

// WhatWouldChange is one event or action that would make the answer a yes.
type WhatWouldChange struct {
	Kind   AdviceKind `json:"kind"`
	What   string     `json:"what"`             // in words
	Target string     `json:"target,omitempty"` // of a plan, an add-on, a role, a feature or a customer the key or id; of others their id
	// Limit is what the limit would be; absent if there would be none, or if the feature
	// has no amounts.
	Limit     *Quantity `json:"limit,omitempty"`
	Unlimited bool      `json:"unlimited,omitempty"`
	At        time.Time `json:"at,omitzero"` // when it happens by itself; absent: a person must act
}

// AdviceKind says what would change an answer.
type AdviceKind string

// The kinds of advice.
const (
	AdviceWait      AdviceKind = "wait"      // time alone; At says until when
	AdvicePlan      AdviceKind = "plan"      // move to, or subscribe to, the plan Target
	AdviceAddon     AdviceKind = "addon"     // add the add-on Target to a subscription
	AdviceGrant     AdviceKind = "grant"     // grant an amount of the feature Target
	AdviceOverride  AdviceKind = "override"  // remove the override Target, or make one for the feature Target
	AdviceRole      AdviceKind = "role"      // assign the role Target to the member
	AdviceSeat      AdviceKind = "seat"      // free seats of the feature Target, or give the member one
	AdviceStatus    AdviceKind = "status"    // set the status of the subscription Target to active
	AdviceMember    AdviceKind = "member"    // register the member Target, or make it active
	AdviceCustomer  AdviceKind = "customer"  // create the customer Target
	AdviceCatalogue AdviceKind = "catalogue" // add Target to the catalogue
)

// AdviceKinds lists every kind of advice.
var AdviceKinds = []AdviceKind{AdviceWait, AdvicePlan, AdviceAddon, AdviceGrant, AdviceOverride, AdviceRole, AdviceSeat,
	AdviceStatus, AdviceMember, AdviceCustomer, AdviceCatalogue}
