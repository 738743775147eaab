package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// A key is "usk_<environment>_<id>_<secret><checksum>", and its id begins with
// "key_". The secret is 256 bits, the checksum is the CRC-32 of all before it, so
// that a mistyped or cut-off key is recognised without asking the database.
const (
	keyPrefix   = "usk_"
	keyIDPrefix = "key_"
	idLen       = len(keyIDPrefix) + 26
	secretBytes = 32
	secretLen   = 52
	sumLen      = 7
)

var text32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// KeyName is what a key's text contains. Secret is the only part to hide.
type KeyName struct {
	Env    usher.Environment
	ID     string
	Secret string
}

// ParseKey splits a key and checks its form and checksum. It does not ask the
// database whether the key exists. The error does not repeat the key.
func ParseKey(key string) (KeyName, error) {
	n, ok := parseKey(key)
	if !ok {
		return KeyName{}, usher.Errorf(usher.Invalid, "not an API key: a key reads usk_<environment>_<id>_<secret>, and its last characters "+
			"are a checksum; this one is mistyped or cut off")
	}
	return n, nil
}

func parseKey(key string) (KeyName, bool) {
	rest, ok := strings.CutPrefix(key, keyPrefix)
	env, rest, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || len(rest) != idLen+1+secretLen+sumLen || !strings.HasPrefix(rest, keyIDPrefix) || rest[idLen] != '_' {
		return KeyName{}, false
	}
	id, rest := rest[:idLen], rest[idLen+1:]
	n := KeyName{Env: usher.Environment(env), ID: id, Secret: rest[:secretLen]}
	var sum [sumLen]byte
	if string(checksum(sum[:0], key[:len(key)-sumLen])) != rest[secretLen:] {
		return KeyName{}, false
	}
	return n, n.Env == usher.Production || n.Env == usher.Sandbox
}

func checksum(b []byte, s string) []byte {
	var buf [128]byte // keeps s off the heap
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], crc32.ChecksumIEEE(append(buf[:0], s...)))
	return text32.AppendEncode(b, sum[:])
}

// newKey makes a key with a random secret.
func newKey(env usher.Environment, now time.Time, random io.Reader) (key string, n KeyName, err error) {
	if random == nil {
		random = rand.Reader
	}
	var raw [secretBytes]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", KeyName{}, err
	}
	n = KeyName{Env: env, ID: usher.NewID(keyIDPrefix, now, random), Secret: text32.EncodeToString(raw[:])}
	body := keyPrefix + string(env) + "_" + n.ID + "_" + n.Secret
	return body + string(checksum(nil, body)), n, nil
}

func hash(secret string) [sha256.Size]byte {
	var buf [64]byte // keeps the secret off the heap
	return sha256.Sum256(append(buf[:0], secret...))
}

// NewKey describes a key to be made.
type NewKey struct {
	Name         string
	Role         string    // one of Roles
	ExpiresAt    time.Time // zero: never
	Customer     string    // that the key belongs to; "": none; required for the role scim
	NoProperties bool      // requests may not send properties of members and resources
	Rate         usher.RateLimit
}

// MaxRate bounds a key's own limit of calls.
const MaxRate = 1_000_000

// DefaultGrace is how long a rotated key stays valid by default, MaxGrace the
// longest.
const (
	DefaultGrace = 24 * time.Hour
	MaxGrace     = 90 * 24 * time.Hour
)

// Now is real time, as the service knows it.
func (s *Service) Now() time.Time { return s.now() }

// now returns real time in the precision of the database.
func (s *Service) now() time.Time { return s.c.Now().UTC().Truncate(time.Microsecond) }

// Create makes a key from a name, a role and an expiry (zero: never).
func (s *Service) Create(ctx context.Context, by usher.Actor, env usher.Environment, name, role string, expires time.Time) (
	key string, k usher.APIKey, err error) {
	return s.CreateKey(ctx, usher.By{Actor: by}, env, NewKey{Name: name, Role: role, ExpiresAt: expires})
}

// CustomerThere returns NotFound unless the customer that a key is to belong to
// exists. For "" it returns nil.
func (s *Service) CustomerThere(ctx context.Context, env usher.Environment, customer string) error {
	if customer == "" {
		return nil
	}
	_, err := s.c.DB.Customer(ctx, env, customer)
	return err
}

// CreateKey makes a key, stores its record and returns the key itself, which
// nothing can show again.
func (s *Service) CreateKey(ctx context.Context, by usher.By, env usher.Environment, n NewKey) (key string, k usher.APIKey, err error) {
	if !slices.Contains(usher.Environments, env) {
		return "", k, usher.Errorf(usher.Invalid, "unknown environment %q: it must be production or sandbox", env)
	}
	now := s.now()
	if err := n.check(now); err != nil {
		return "", k, err
	}
	key, k, err = s.freshKey(env, now)
	if err != nil {
		return "", k, err
	}
	k.Name, k.Role, k.ExpiresAt, k.Customer, k.NoProperties, k.Rate = n.Name, n.Role, cut(n.ExpiresAt), n.Customer, n.NoProperties, n.Rate
	if err := s.c.DB.CreateKey(ctx, k, by, now); err != nil {
		return "", usher.APIKey{}, err
	}
	s.keys.forget(k.ID)
	return key, k, nil
}

func cut(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func (n *NewKey) check(now time.Time) error {
	var wrong []usher.Problem
	note := func(location, format string, args ...any) {
		wrong = append(wrong, usher.Problem{Location: location, Message: fmt.Sprintf(format, args...)})
	}
	if !slices.Contains(Roles, n.Role) {
		note("role", "no role %q: it is one of %s", n.Role, strings.Join(Roles, ", "))
	}
	if n.Name != "" {
		if err := usher.CheckID("the name of a key", n.Name); err != nil {
			note("name", "%s", err)
		}
	}
	if n.Customer != "" {
		if err := usher.CheckID("the customer of a key", n.Customer); err != nil {
			note("customer", "%s", err)
		}
	} else if n.Role == RoleSCIM {
		note("customer", "a key of role scim serves one customer: say which")
	}
	if expires := cut(n.ExpiresAt); !n.ExpiresAt.IsZero() && !expires.After(now) {
		note("expires_at", "the key would expire at %s, which has passed", expires.Format(time.RFC3339))
	}
	for what, v := range map[string]int64{"rate.per_second": n.Rate.PerSecond, "rate.burst": n.Rate.Burst} {
		if v < 0 || v > MaxRate {
			note(what, "must be 0, which is the server's own limit, to %d", MaxRate)
		}
	}
	return problems(wrong)
}

// problems returns an Invalid error with the list; nil if it is empty.
func problems(list []usher.Problem) error {
	switch len(list) {
	case 0:
		return nil
	case 1:
		return &usher.Error{Code: usher.Invalid, Detail: list[0].Location + ": " + list[0].Message, Problems: list}
	}
	slices.SortStableFunc(list, func(a, b usher.Problem) int { return strings.Compare(a.Location, b.Location) })
	return &usher.Error{Code: usher.Invalid, Detail: fmt.Sprintf("%d problems", len(list)), Problems: list}
}

func (s *Service) freshKey(env usher.Environment, now time.Time) (string, usher.APIKey, error) {
	key, n, err := newKey(env, now, s.c.Random)
	if err != nil {
		return "", usher.APIKey{}, err
	}
	h := hash(n.Secret)
	return key, usher.APIKey{ID: n.ID, Env: env, Hash: h[:], CreatedAt: now}, nil
}

// LineEnd returns when a key would end if it had never been rotated: when the newest key
// of its line ends, which no rotation has shortened yet. Zero: never. It returns
// NotFound if env has no such key.
func (s *Service) LineEnd(ctx context.Context, env usher.Environment, id string) (time.Time, error) {
	k, err := s.Key(ctx, env, id)
	if err != nil {
		return time.Time{}, err
	}
	all, err := s.c.DB.Keys(ctx, env) // oldest first
	line := func(k *usher.APIKey) string { return cmp.Or(k.Line, k.ID) }
	for i := range all {
		if line(&all[i]) == line(&k) {
			k.ExpiresAt = all[i].ExpiresAt
		}
	}
	return k.ExpiresAt, err
}

// RotateKey makes a key like the one with an id, which ends after grace. The new
// key expires at expires (zero: when the old one would have, LineEnd). It returns NotFound if env has no such
// key, Refused if the key has ended, and Conflict if it was rotated before and
// both keys are live.
func (s *Service) RotateKey(ctx context.Context, by usher.By, env usher.Environment, id string, grace time.Duration,
	expires time.Time) (key string, k usher.APIKey, err error) {
	now := s.now()
	switch {
	case grace < 0 || grace > MaxGrace:
		return "", k, problems([]usher.Problem{{Location: "grace", Message: fmt.Sprintf("must be from 0s to %s", span(MaxGrace))}})
	case !expires.IsZero() && !expires.After(now):
		return "", k, problems([]usher.Problem{{Location: "expires_at", Message: "the key would expire at " +
			cut(expires).Format(time.RFC3339) + ", which has passed"}})
	}
	key, next, err := s.freshKey(env, now)
	if err != nil {
		return "", k, err
	}
	if expires.IsZero() {
		if expires, err = s.LineEnd(ctx, env, id); err != nil {
			return "", usher.APIKey{}, err
		}
	}
	if next.ExpiresAt = expires; !expires.IsZero() {
		next.ExpiresAt = cut(expires)
	}
	k, err = s.c.DB.RotateKey(ctx, env, id, next, now.Add(grace), by, now)
	if err != nil {
		return "", usher.APIKey{}, err
	}
	s.keys.forget(id)
	s.keys.forget(k.ID)
	return key, k, nil
}

// span formats a duration for people.
func span(d time.Duration) string {
	return strings.TrimSuffix(strings.TrimSuffix(d.String(), "0s"), "0m")
}

// Key reads a key of env; NotFound if env has no such key.
func (s *Service) Key(ctx context.Context, env usher.Environment, id string) (usher.APIKey, error) {
	k, err := s.c.DB.Key(ctx, id)
	if err == nil && k.Env != env {
		return usher.APIKey{}, usher.Errorf(usher.NotFound, "no key %q", id)
	}
	return k, err
}

// Keys lists env's keys, revoked and expired ones too, oldest first.
func (s *Service) Keys(ctx context.Context, env usher.Environment) ([]usher.APIKey, error) {
	return s.c.DB.Keys(ctx, env)
}

// Revoke ends a key of any environment permanently: at once on this node, within
// a second on others. It returns NotFound if there is no such key.
func (s *Service) Revoke(ctx context.Context, by usher.Actor, id string) error {
	return s.RevokeKey(ctx, usher.By{Actor: by}, id)
}

// RevokeKey is Revoke with the request that asks for it.
func (s *Service) RevokeKey(ctx context.Context, by usher.By, id string) error {
	err := s.c.DB.RevokeKey(ctx, id, by, s.now())
	s.keys.forget(id)
	return err
}

// MayMake returns Forbidden unless the caller may make such a key. The key must
// not have more permissions than the caller, nor have them for longer. A key that
// belongs to a customer creates keys of that customer only, and a key with a rate
// limit creates keys whose limit is not higher.
func (i *Identity) MayMake(n NewKey) error {
	need := gives(n.Role, i.Env)
	if missing := need &^ i.lasting(i.Env, n.ExpiresAt); missing != 0 {
		return usher.Errorf(usher.Forbidden, "a key of role %q may do more than you, or for longer: %s", n.Role, missing.text())
	}
	if i.Customer != "" && n.Customer != i.Customer {
		return usher.Errorf(usher.Forbidden, "your key belongs to the customer %q and can create keys for that customer only", i.Customer)
	}
	if i.Actor.Kind == "key" && !i.Properties && !n.NoProperties {
		return usher.Errorf(usher.Forbidden, "your key may not send properties, and neither may a key that it creates: "+
			"send \"properties\": false")
	}
	most, got := i.Rate, n.Rate
	for _, r := range []*usher.RateLimit{&most, &got} { // default: as many at once as in a second
		if r.Burst == 0 {
			r.Burst = r.PerSecond
		}
	}
	over := func(got, most int64) bool { return most > 0 && (got == 0 || got > most) }
	if i.Actor.Kind == "key" && (over(got.PerSecond, most.PerSecond) || over(got.Burst, most.Burst)) {
		return usher.Errorf(usher.Forbidden, "your key has a rate limit, and a key that it creates cannot have a higher one: send \"rate\" with "+
			"per_second and burst of %d and %d at most (0: what the server sets)", most.PerSecond, most.Burst)
	}
	return nil
}

// EnvOf returns the environment of a key; NotFound if there is no such key.
func (s *Service) EnvOf(ctx context.Context, id string) (usher.Environment, error) {
	k, err := s.c.DB.Key(ctx, id)
	return k.Env, err
}
