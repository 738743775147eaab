package usher

// By says who makes a change and why. Every write takes one, and the audit log
// keeps it.
type By struct {
	Actor     Actor
	RequestID string // the request that makes the change; "" outside a request
	Reason    string // why, in the actor's own words; "" when none was given
	// Cause is the id of what led to the change: an event, a change set, a review
	// or a job. "" when a person or a program made it directly.
	Cause string
}
