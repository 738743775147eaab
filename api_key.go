package usher

import "time"

// APIKey is what is stored about an API key. The secret is not stored, only its
// hash.
type APIKey struct {
	ID         string // opaque, "key_…"
	Env        Environment
	Name       string
	Role       string
	Hash       []byte // SHA-256 of the secret
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	RevokedAt  time.Time // zero: not revoked
	LastUsedAt time.Time // to the minute; zero: never

	Customer     string    // the customer that the key belongs to; "": none
	NoProperties bool      // requests may not send properties of members and resources (A10)
	Rate         RateLimit // the key's own
	Line         string    // the first key of its line of rotations; "": this key is the first
}

// RateLimit bounds how often one key may call. The zero RateLimit is the server's
// own limit.
type RateLimit struct {
	PerSecond int64 `json:"per_second"` // calls; 0: the server's limit
	Burst     int64 `json:"burst"`      // calls at once; 0: the server's limit
}
