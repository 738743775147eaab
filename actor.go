package usher

// Actor is who does something. Every write has one.
type Actor struct {
	Kind string `json:"kind"` // "key", "operator", "system" (usher itself), or "cli" (a person who works on the database itself)
	ID   string `json:"id"`   // the id of the API key or the operator; "" for the others
	Role string `json:"role,omitempty"`
}

// String returns the actor as it is recorded: "key:abc", "system".
func (a Actor) String() string {
	if a.ID == "" {
		return a.Kind
	}
	return a.Kind + ":" + a.ID
}
