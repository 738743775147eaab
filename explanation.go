package usher

import "time"

// Explanation is a decision with its trace: what was considered, the rule that
// combined it, the numbers, and what would change the answer. It comes from the
// same evaluation as the decision.
type Explanation struct {
	Decision   Decision
	Considered []SourceTrace     `json:"considered"`
	Combined   Combine           `json:"rule,omitempty"`
	Mode       Mode              `json:"mode,omitempty"`
	Allowances []AllowanceUse    `json:"allowances,omitempty"`
	Caps       []CapUse          `json:"caps,omitempty"`
	Changes    []WhatWouldChange `json:"would_change"`
	Access     *AccessTrace      `json:"access,omitempty"` // of a decision about a member's permission
}

// AccessTrace says what was considered about a member's permission.
type AccessTrace struct {
	Features    []string          `json:"features,omitempty"` // that the plan was asked for
	Any         bool              `json:"any,omitempty"`      // one of them is enough
	Assignments []AssignmentTrace `json:"assignments"`
	Roles       []string          `json:"roles"` // that would give the permission, by key
}

// AssignmentTrace is one assignment that was considered, and what came of it.
type AssignmentTrace struct {
	ID           string     `json:"id"`
	Role         string     `json:"role"`
	Group        string     `json:"group,omitempty"` // through which the member has it
	ResourceType string     `json:"resource_type,omitempty"`
	ResourceID   string     `json:"resource_id,omitempty"`
	From         time.Time  `json:"from"`
	Until        *time.Time `json:"until,omitempty"`
	Outcome      string     `json:"outcome"` // gives, seat_missing, condition_failed, not_started, ended, out_of_scope, not_given, unknown_role
	Conditions   []string   `json:"conditions,omitempty"`
	Seats        []string   `json:"seats,omitempty"`
}

// SourceTrace is one source that an evaluation considered.
type SourceTrace struct {
	ID    string `json:"id"`    // "plan:pro@1", "override:ovr_…"
	Gives string `json:"gives"` // in words
	Used  bool   `json:"used"`
	Why   string `json:"why,omitempty"` // why it was not used, or the reason given with it
}

// WhatWouldChange is one thing that would make the answer another.
type WhatWouldChange struct {
	What string `json:"what"`         // in words
	At   string `json:"at,omitempty"` // RFC 3339, where it comes by itself
}
