package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"github.com/usher-sh/usher"
)

// Passwords are for owners who were made by a token and for operators who were
// invited; others log in with the identity provider. The rules are those of NIST SP 800-63B: a minimum length
// and no common password, but no rules of composition.
const (
	minPassword = 12   // characters
	maxPassword = 1024 // bytes

	saltBytes = 16
	hashBytes = 32
	// passwordForm is argon2id with 19 MiB, 2 passes and 1 lane, as OWASP recommends.
	// A stored password begins with it.
	passwordForm = "$argon2id$v=19$m=19456,t=2,p=1$"

	// hashers bounds how many passwords are hashed at once, each in 19 MiB, and
	// waiting how many more may wait. The next one is Unavailable.
	hashers = 2
	waiting = 16
	// waitingEach bounds how many of one address may wait, so that one address cannot
	// take all places; waitAtMost bounds how long each waits.
	waitingEach = 2
	waitAtMost  = 3 * time.Second
)

// argon is the key derivation. A test counts its calls instead of its time.
func argon(password, salt []byte) []byte {
	return argon2.IDKey(password, salt, 2, 19<<10, 1, hashBytes)
}

// passwords hashes passwords, a few at a time.
type passwords struct {
	kdf    func(password, salt []byte) []byte
	random io.Reader
	queue  chan struct{} // one place for each that hashes or waits
	slots  chan struct{} // one place for each that hashes
	wait   time.Duration // waitAtMost; a test's is shorter

	mu   sync.Mutex
	from map[string]int // how many wait, by address
}

func newPasswords(kdf func(password, salt []byte) []byte, random io.Reader) *passwords {
	if kdf == nil {
		kdf = argon
	}
	if random == nil {
		random = rand.Reader
	}
	return &passwords{kdf: kdf, random: random, queue: make(chan struct{}, hashers+waiting), slots: make(chan struct{}, hashers),
		wait: waitAtMost, from: map[string]int{}}
}

// errBusy means that a password was not checked.
var errBusy = &usher.Error{Code: usher.Unavailable, Detail: "too many passwords are being checked now, try again", RetryAfter: time.Second}

// derive runs the key derivation once there is room. address is the caller's, for
// waitingEach.
func (p *passwords) derive(ctx context.Context, address, password string, salt []byte) ([]byte, error) {
	select {
	case p.queue <- struct{}{}:
		defer func() { <-p.queue }()
	default:
		return nil, errBusy
	}
	if err := p.turn(ctx, address); err != nil {
		return nil, err
	}
	defer func() { <-p.slots }()
	return p.kdf([]byte(password), salt), nil
}

// turn waits for a slot, first come first served, and takes it.
func (p *passwords) turn(ctx context.Context, address string) error {
	select {
	case p.slots <- struct{}{}: // free, and so nobody waits
		return nil
	default:
	}
	p.mu.Lock()
	full := p.from[address] >= waitingEach
	if !full {
		p.from[address]++
	}
	p.mu.Unlock()
	if full {
		return errBusy
	}
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.from[address]--; p.from[address] == 0 {
			delete(p.from, address)
		}
	}()
	late := time.NewTimer(p.wait)
	defer late.Stop()
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-late.C:
		return errBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hash returns the stored form of a password that came from an address.
func (p *passwords) hash(ctx context.Context, address, password string) (string, error) {
	var salt [saltBytes]byte
	if _, err := io.ReadFull(p.random, salt[:]); err != nil {
		return "", err
	}
	key, err := p.derive(ctx, address, password, salt[:])
	if err != nil {
		return "", err
	}
	b64 := base64.RawStdEncoding
	return passwordForm + b64.EncodeToString(salt[:]) + "$" + b64.EncodeToString(key), nil
}

// matches reports whether password, which came from an address, is the stored
// one. If none is stored (""), the answer is no after the same work, so that the
// time tells nothing.
func (p *passwords) matches(ctx context.Context, address, stored, password string) (bool, error) {
	var salt, want []byte
	if rest, ok := strings.CutPrefix(stored, passwordForm); ok {
		s, k, _ := strings.Cut(rest, "$")
		salt, _ = base64.RawStdEncoding.DecodeString(s)
		want, _ = base64.RawStdEncoding.DecodeString(k)
	}
	known := len(salt) == saltBytes && len(want) == hashBytes
	if !known {
		salt, want = make([]byte, saltBytes), make([]byte, hashBytes)
	}
	if len(password) > maxPassword {
		password, known = "", false
	}
	got, err := p.derive(ctx, address, password, salt)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1 && known, nil
}

// checkPassword returns an Invalid error unless password is good enough for an
// operator with these names. The error does not repeat the password.
func checkPassword(password string, names ...string) error {
	switch n := utf8.RuneCountInString(password); {
	case !utf8.ValidString(password):
		return usher.Errorf(usher.Invalid, "the password must be valid UTF-8")
	case n < minPassword:
		return usher.Errorf(usher.Invalid, "the password must have at least %d characters; a few words in a row work well", minPassword)
	case len(password) > maxPassword:
		return usher.Errorf(usher.Invalid, "the password must be at most %d bytes", maxPassword)
	}
	folded := strings.ToLower(password)
	for _, name := range names {
		local, _, _ := strings.Cut(name, "@")
		for _, n := range []string{name, local} {
			if n = strings.ToLower(n); len(n) >= 3 && onlyOf(folded, n) {
				return usher.Errorf(usher.Invalid, "the password must not be made of the operator's own name")
			}
		}
	}
	for _, common := range commonParts {
		if onlyOf(folded, common) {
			return usher.Errorf(usher.Invalid, "the password is too common: choose another")
		}
	}
	return nil
}

// commonParts are what the most frequent long passwords are made of, repeated
// and followed by a few digits or signs.
var commonParts = []string{"password", "passwort", "passw0rd", "p@ssword", "p@ssw0rd", "qwertyuiop", "qwerty", "qwertz", "asdfghjkl",
	"zxcvbnm", "1q2w3e4r", "1qaz2wsx", "q1w2e3r4",
	"letmein", "welcome", "iloveyou", "admin", "administrator", "changeme", "changeit", "secret", "default", "monkey", "dragon",
	"football", "baseball", "sunshine", "princess",
	"superman", "batman", "trustno1", "usher", "owner", "operator", "company", "correcthorsebatterystaple", "abc",
	"abcdefghijklmnopqrstuvwxyz", "test", "example", "login", "master", "hello"}

// onlyOf reports whether s is part, over and over, with no more than digits,
// signs or one repeated character around it.
func onlyOf(s, part string) bool {
	rest := strings.ReplaceAll(s, part, "")
	for _, r := range rest {
		if 'a' <= r && r <= 'z' || r > 0x7f {
			return false
		}
	}
	return rest != s || allSame(s) || strings.Trim(s, "0123456789") == ""
}

func allSame(s string) bool { return strings.Trim(s, s[:1]) == "" }
