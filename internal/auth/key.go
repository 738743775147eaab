package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"hash/crc32"
	"io"
	"strings"

	"github.com/usher-sh/usher"
)

// A key is "usk_<environment>_<id>_<secret><checksum>". The secret is 256 bits,
// the checksum is the CRC-32 of all before it, so that a mistyped or cut-off
// key is told apart from an unknown one without asking anybody.
const (
	keyPrefix   = "usk_"
	idBytes     = 10
	secretBytes = 32
	idLen       = 16
	secretLen   = 52
	sumLen      = 7
)

var text32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// KeyName is what a key says about itself. Secret is the only part to hide.
type KeyName struct {
	Env    usher.Environment
	ID     string
	Secret string
}

// ParseKey takes a key apart and checks its form and checksum, without asking
// the database whether it exists. The error does not repeat the key.
func ParseKey(key string) (KeyName, error) {
	n, ok := parseKey(key)
	if !ok {
		return KeyName{}, usher.Errorf(usher.Invalid, "not an API key: a key reads usk_<environment>_<id>_<secret>, and its last characters are a checksum; this one is mistyped or cut off")
	}
	return n, nil
}

func parseKey(key string) (KeyName, bool) {
	rest, ok := strings.CutPrefix(key, keyPrefix)
	env, rest, ok2 := strings.Cut(rest, "_")
	id, rest, ok3 := strings.Cut(rest, "_")
	if !ok || !ok2 || !ok3 || len(id) != idLen || len(rest) != secretLen+sumLen {
		return KeyName{}, false
	}
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

// newKey makes a key of random bytes.
func newKey(env usher.Environment, random io.Reader) (key string, n KeyName, err error) {
	if random == nil {
		random = rand.Reader
	}
	var raw [idBytes + secretBytes]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", KeyName{}, err
	}
	n = KeyName{Env: env, ID: text32.EncodeToString(raw[:idBytes]), Secret: text32.EncodeToString(raw[idBytes:])}
	body := keyPrefix + string(env) + "_" + n.ID + "_" + n.Secret
	return body + string(checksum(nil, body)), n, nil
}

func hash(secret string) [sha256.Size]byte {
	var buf [64]byte // keeps the secret off the heap
	return sha256.Sum256(append(buf[:0], secret...))
}
