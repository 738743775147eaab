package usher

import "time"

// Member is a person or program that acts for a customer. Its properties may be
// personal data, so they are stored in the member's own rows only, where they can
// be erased.
type Member struct {
	ID         string         `json:"id"`
	Type       string         `json:"type"`                 // AuthZEN's subject type (default DefaultMemberType)
	Active     bool           `json:"active"`               // an inactive member is denied everything
	Properties map[string]any `json:"properties,omitempty"` // JSON values, for conditions (A10)
	Source     Source         `json:"source,omitempty"`     // "" is manual
	CreatedAt  time.Time      `json:"created_at"`
}

// DefaultMemberType is the type of a member for whom none was given.
const DefaultMemberType = "user"

// Group is a set of members and of other groups. All of them hold the roles that
// are assigned to the group.
type Group struct {
	ID         string         `json:"id"`
	Title      string         `json:"title,omitempty"`
	Properties map[string]any `json:"properties,omitempty"` // for the program that manages it, such as SCIM's externalId; no condition reads them
	Source     Source         `json:"source,omitempty"`
	CreatedAt  time.Time      `json:"created_at"`
}

// Holder is who can hold a role or be in a group: a member or a group.
type Holder struct {
	Group bool   `json:"group,omitempty"` // ID is a group's
	ID    string `json:"id"`
}

// Membership says that a member or a group is in a group.
type Membership struct {
	Group  string `json:"group"`
	Holder Holder `json:"holder"`
}

// Assignment gives a role to a member or a group.
type Assignment struct {
	ID     string `json:"id"`
	Holder Holder `json:"holder"`
	Role   string `json:"role"` // of the catalogue or the customer's own
	// The role holds only for the resource with this type and id. ResourceID "" is
	// every resource of the type; both "" is everywhere.
	ResourceType string     `json:"resource_type,omitempty"`
	ResourceID   string     `json:"resource_id,omitempty"`
	From         time.Time  `json:"from"`            // the first instant (A07)
	Until        *time.Time `json:"until,omitempty"` // the first instant after; nil: no end
	Source       Source     `json:"source"`
	GrantedBy    string     `json:"granted_by,omitempty"` // an actor, or the member who gave it
	Reason       string     `json:"reason,omitempty"`
}

// AssignmentFilter selects assignments; the zero filter selects all.
type AssignmentFilter struct {
	Holder *Holder // who holds it; nil: any
	Role   string  // "": any
}

// Source says where a member, group or assignment comes from.
type Source string

// The sources.
const (
	SourceManual     Source = "manual"
	SourceSCIM       Source = "scim"
	SourceSSO        Source = "sso"
	SourceRequest    Source = "request"
	SourceBreakGlass Source = "break_glass"
)

// Resource is a thing of a customer that members act on, registered so that
// searches list it and conditions read its properties.
type Resource struct {
	Type       string         `json:"type"`
	ID         string         `json:"id"`
	Properties map[string]any `json:"properties,omitempty"`
	CreatedAt  time.Time      `json:"created_at"`
}

// Leg is what one part of a decision says.
type Leg string

// The answers of a leg.
const (
	LegPass Leg = "pass"
	LegFail Leg = "fail"
	LegNone Leg = "none" // not asked
)

// Legs are the parts of a decision about a member (A01). The decision is yes if
// the customer and the member exist and no leg fails.
type Legs struct {
	Role      Leg `json:"role" keep:"1" doc:"Whether a role gives the permission"`
	Plan      Leg `json:"plan" keep:"2" doc:"Whether the plan has the features"`
	Seat      Leg `json:"seat" keep:"3" doc:"Whether the member holds the seat that the role needs"`
	Limit     Leg `json:"limit" keep:"4" doc:"Whether the limits leave room"`
	Condition Leg `json:"condition" keep:"5" doc:"Whether the conditions hold"`
}

// AccessRequest is what conditions read: the member, the action, the resource,
// and the context that the caller sends. Properties and Context may be nil, which
// reads as empty.
type AccessRequest struct {
	Subject          Entity
	Action           string // the last segment of the permission: "export"
	ActionProperties map[string]any
	Resource         Entity
	Context          map[string]any
	Now              time.Time // the server's clock, or the instant that the question is about (A07)
}

// Entity is a subject or a resource. The pair of type and id names it: they are
// never joined into one string (A10).
type Entity struct {
	Type       string
	ID         string
	Properties map[string]any
}

// Condition is a compiled When. It is safe for concurrent use, and its cost is
// bounded. After an error the role that it guards gives nothing; other roles are
// not affected.
type Condition func(r *AccessRequest) (bool, error)
