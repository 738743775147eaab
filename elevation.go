package usher

import "time"

// Elevation gives an operator a role for a limited time. Either the operator asks
// and another operator approves; or, in an emergency (break-glass), the operator
// takes the role at once and another operator reviews that afterwards.
type Elevation struct {
	ID          string      `json:"id"` // opaque, "elv_…"
	Operator    string      `json:"operator" doc:"The operator who asks for the role and gets it"`
	Role        string      `json:"role"`
	Environment Environment `json:"environment,omitempty" doc:"Absent: both"`
	Reason      string      `json:"reason"`
	Seconds     int64       `json:"seconds" doc:"How long the role lasts, from the approval"`
	BreakGlass  bool        `json:"break_glass,omitempty"`
	State       string      `json:"state" enum:"requested,approved,denied"`
	RequestedAt time.Time   `json:"requested_at"`
	DecidedBy   string      `json:"decided_by,omitempty" doc:"An operator's id"`
	DecidedAt   *time.Time  `json:"decided_at,omitempty"`
	Until       *time.Time  `json:"until,omitempty" doc:"When an approved one ends"`
	Note        string      `json:"note,omitempty" doc:"Of the operator who decided"`
	Review      string      `json:"review,omitempty" enum:"pending,justified,unjustified" doc:"Of an emergency"`
	ReviewedBy  string      `json:"reviewed_by,omitempty" doc:"An operator's id"`
	ReviewedAt  *time.Time  `json:"reviewed_at,omitempty"`
	ReviewNote  string      `json:"review_note,omitempty"`
}

// The states of an elevation.
const (
	ElevationRequested = "requested"
	ElevationApproved  = "approved" // an emergency is from the start
	ElevationDenied    = "denied"
)

// The states of the review of an emergency. "" means that the elevation was no
// emergency.
const (
	ReviewPending     = "pending"
	ReviewJustified   = "justified"
	ReviewUnjustified = "unjustified"
)
