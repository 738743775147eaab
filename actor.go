package usher

// Actor is who does something. Every write has one.
type Actor struct {
	Kind string `json:"kind"` // "key", "system", or "cli": who works on the database itself
	ID   string `json:"id"`   // the API key's id; "" for the others
	Role string `json:"role,omitempty"`
}

// String is the actor as it is recorded: "key:abc", "system".
func (a Actor) String() string {
	if a.ID == "" {
		return a.Kind
	}
	return a.Kind + ":" + a.ID
}
