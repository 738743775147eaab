package store

import (
	"time"

	"github.com/usher-sh/usher"
)

// Operator is one of us who works with usher: a person, or a program that signs
// in. Name and Email are personal data: they are nowhere but in its own row,
// where they can be erased.
type Operator struct {
	ID        string         `json:"id"` // opaque, "opr_…"
	Name      string         `json:"name,omitempty"`
	Email     string         `json:"email,omitempty"`
	Active    bool           `json:"active"` // one that is not may do nothing
	CreatedAt time.Time      `json:"created_at"`
	Roles     []OperatorRole `json:"roles"` // past and future ones too, oldest first
}

// OperatorRole gives an operator a role.
type OperatorRole struct {
	ID          string            `json:"id"` // opaque, "oas_…"
	Operator    string            `json:"-"`
	Role        string            `json:"role"`
	Environment usher.Environment `json:"environment,omitempty"` // "" is both
	From        time.Time         `json:"from"`                  // from here on (A07)
	Until       *time.Time        `json:"until,omitempty"`       // up to here, not included; nil: for good
	Source      usher.Source      `json:"source"`                // manual, sso, request or break_glass
	GrantedBy   string            `json:"granted_by"`            // an actor: "operator:opr_…", "key:…", "system"
	Reason      string            `json:"reason,omitempty"`
}
