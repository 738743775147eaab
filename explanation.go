package usher

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
