package usher

import "time"

// Operator is a person who works with usher. Name and Email are personal data:
// they are stored only in the operator's own row, so that they can be erased.
type Operator struct {
	ID        string         `json:"id"` // opaque, "opr_…"
	Name      string         `json:"name,omitempty"`
	Email     string         `json:"email,omitempty"` // lower case; no two operators have the same
	Active    bool           `json:"active"`          // an operator who is not active may do nothing
	Linked    bool           `json:"linked"`          // whether the operator has an SSOSubject
	CreatedAt time.Time      `json:"created_at"`
	Roles     []OperatorRole `json:"roles" nullable:"false"` // oldest first; past and future ones too
}

// OperatorRole gives an operator a role in the half-open span from From to Until.
type OperatorRole struct {
	ID          string      `json:"id"` // opaque, "oas_…"
	Role        string      `json:"role"`
	Environment Environment `json:"environment,omitempty"` // "": both
	From        time.Time   `json:"from"`                  // A07
	Until       *time.Time  `json:"until,omitempty"`       // nil: permanent
	Source      Source      `json:"source"`                // manual, sso, request or break_glass
	GrantedBy   string      `json:"granted_by"`            // an actor: "operator:opr_…", "key:…", "cli"
	Reason      string      `json:"reason,omitempty"`
}

// InForce reports whether r gives anything at now.
func (r *OperatorRole) InForce(now time.Time) bool {
	return !now.Before(r.From) && (r.Until == nil || now.Before(*r.Until))
}

// SSOSubject is a person's account at an identity provider. Issuer and Subject
// identify it together; the zero SSOSubject is no account.
type SSOSubject struct {
	Issuer  string // the provider's address, its "iss"
	Subject string // the provider's id of the person, its "sub"
}

// OperatorUpdate changes an operator; a nil field stays as it is.
type OperatorUpdate struct {
	Name, Email *string
	Active      *bool
	// Subject replaces the operator's account at Subject.Issuer. An empty
	// Subject.Subject removes it.
	Subject *SSOSubject
}
