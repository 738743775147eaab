package usher

import "time"

// AuditQuery selects rows of the audit log. A zero field selects all.
type AuditQuery struct {
	Envs     []Environment // any of these; "" is the installation, outside environments
	Actor    string        // as rows name it: "key:…", "operator:…", "system", "cli"
	Action   string        // an action; if it ends in ".", all actions that begin with it
	Customer string
	Object   string    // the id or key of what was changed
	From     time.Time // at or after, by the server's time
	To       time.Time // before
	Before   int64     // only rows with a smaller number; 0: from the newest
}

// AuditHead is the end of the audit log. The zero AuditHead is an empty log.
type AuditHead struct {
	Size int64  // rows
	Note string // the newest signed checkpoint; "": no rows yet
	Key  string // the public key that signed it
}
