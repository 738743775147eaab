package usher

import "time"

// Member is a person or program that acts for a customer. Its properties may be
// personal data: they are nowhere but in the member's own rows, where they can
// be erased.
type Member struct {
	ID         string         `json:"id"`
	Type       string         `json:"type"`                 // what AuthZEN calls the subject's type; DefaultMemberType where nobody says
	Active     bool           `json:"active"`               // one that is not is denied everything
	Properties map[string]any `json:"properties,omitempty"` // JSON values, for conditions (A10)
	Source     Source         `json:"source,omitempty"`     // "" is manual
	CreatedAt  time.Time      `json:"created_at"`
}

// DefaultMemberType is the type of a member for whom none was given.
const DefaultMemberType = "user"

// Group is a set of members and of other groups; what is assigned to it, they
// all hold.
type Group struct {
	ID         string         `json:"id"`
	Title      string         `json:"title,omitempty"`
	Properties map[string]any `json:"properties,omitempty"` // kept for whoever manages it, SCIM's externalId for one; no condition reads them
	Source     Source         `json:"source,omitempty"`
	CreatedAt  time.Time      `json:"created_at"`
}

// Holder is who can hold a role or be in a group: a member or a group.
type Holder struct {
	Group bool   `json:"group,omitempty"` // ID is a group's
	ID    string `json:"id"`
}

// Membership says that somebody is in a group.
type Membership struct {
	Group  string `json:"group"`
	Holder Holder `json:"holder"`
}

// Assignment gives a role to a member or a group.
type Assignment struct {
	ID     string `json:"id"`
	Holder Holder `json:"holder"`
	Role   string `json:"role"` // of the catalogue or the customer's own
	// ResourceType and ResourceID are where it holds: nowhere else. Both "" is
	// everywhere; ResourceID "" is every resource of the type.
	ResourceType string     `json:"resource_type,omitempty"`
	ResourceID   string     `json:"resource_id,omitempty"`
	From         time.Time  `json:"from"`            // from here on (A07)
	Until        *time.Time `json:"until,omitempty"` // up to here, not included; nil: for good
	Source       Source     `json:"source"`
	GrantedBy    string     `json:"granted_by,omitempty"` // an actor, or the member who gave it
	Reason       string     `json:"reason,omitempty"`
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

// Legs are the parts of a decision about a member (A01). The decision is yes
// where the customer and the member are there and no leg fails.
type Legs struct {
	Role      Leg `json:"role" keep:"1" doc:"Whether a role gives the permission"`
	Plan      Leg `json:"plan" keep:"2" doc:"Whether the plan has the features"`
	Seat      Leg `json:"seat" keep:"3" doc:"Whether the member holds the seat that the role needs"`
	Limit     Leg `json:"limit" keep:"4" doc:"Whether the limits leave room"`
	Condition Leg `json:"condition" keep:"5" doc:"Whether the conditions hold"`
}

// AccessRequest is what conditions read: who does what to what, and what else
// the caller says. Properties and Context may be nil, which reads as empty.
type AccessRequest struct {
	Subject          Entity
	Action           string // the last segment of the permission: "export"
	ActionProperties map[string]any
	Resource         Entity
	Context          map[string]any
	Now              time.Time // the server's, or the instant asked about; never the caller's word (A07)
}

// Entity is a subject or a resource. The pair of type and id names it: they are
// never joined into one string (A10).
type Entity struct {
	Type       string
	ID         string
	Properties map[string]any
}

// Condition is a compiled When: it is safe for concurrent use and bounded in
// cost. An error leaves what it guards ungranted, nothing more.
type Condition func(r *AccessRequest) (bool, error)
