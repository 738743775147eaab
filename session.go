package usher

import "time"

// Session is an operator's session in a browser. The secret that the browser's
// cookie holds is not stored, only its hash.
type Session struct {
	Hash      []byte // SHA-256 of the cookie's secret
	ID        string // opaque, "ses_…"; for people and the audit log
	Operator  string
	Method    string    // how the operator logged in: LoginPassword or LoginOIDC
	Login     string    // the login at the identity provider that made the session, which can be used once; "": none
	CreatedAt time.Time // of the login
	ProvedAt  time.Time // when the operator last proved who they are; zero: unknown
	SeenAt    time.Time // of the latest call, up to a minute early
	EndedAt   time.Time // zero: not ended by a logout or another operator
}

// How an operator logged in.
const (
	LoginPassword = "password"
	LoginOIDC     = "oidc"
)

// How long a session lives, and how long its operator's proof of identity counts.
const (
	SessionIdle     = 30 * time.Minute // without a call
	SessionAbsolute = 12 * time.Hour   // from the login
	ProofHolds      = 10 * time.Minute // for high-risk actions
)

// IdleEnds returns when the session ends unless it is used before.
func (s *Session) IdleEnds() time.Time { return s.SeenAt.Add(SessionIdle) }

// Ends returns when the session ends in any case.
func (s *Session) Ends() time.Time { return s.CreatedAt.Add(SessionAbsolute) }

// Proved reports whether the operator proved who they are recently enough for
// high-risk actions.
func (s *Session) Proved(now time.Time) bool {
	return !s.ProvedAt.IsZero() && now.Sub(s.ProvedAt) < ProofHolds
}
