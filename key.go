package usher

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxKey is the longest catalogue key in bytes.
const MaxKey = 64

// ValidKey reports whether s is a catalogue key: [a-z0-9][a-z0-9._-]{0,63}.
func ValidKey(s string) bool {
	if len(s) == 0 || len(s) > MaxKey {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// CheckID returns an Invalid error unless id can name a customer, member or
// holder: 1 to 255 bytes of valid UTF-8 without control characters. Ids are
// opaque and compared byte by byte.
func CheckID(what, id string) error {
	switch {
	case id == "":
		return Errorf(Invalid, "%s must not be empty", what)
	case len(id) > 255:
		return Errorf(Invalid, "%s must be at most 255 bytes, this one is %d", what, len(id))
	case !utf8.ValidString(id):
		return Errorf(Invalid, "%s must be valid UTF-8", what)
	}
	for _, r := range id {
		if r < 0x20 || 0x7f <= r && r < 0xa0 {
			return Errorf(Invalid, "%s must not contain control characters (U+%04X)", what, r)
		}
	}
	return nil
}

// CheckIdempotencyKey returns an Invalid error unless key is 1 to 255
// printable ASCII characters (S13).
func CheckIdempotencyKey(key string) error {
	if key == "" {
		return Errorf(Invalid, `an idempotency key is required: send "key" in the body or an Idempotency-Key header, a new one for each `+
			`operation and the same one for its retries`)
	}
	if len(key) > 255 {
		return Errorf(Invalid, "the idempotency key must be at most 255 characters, this one has %d", len(key))
	}
	for i := 0; i < len(key); i++ {
		if key[i] < 0x20 || key[i] > 0x7e {
			return Errorf(Invalid, "the idempotency key must be printable ASCII; byte %d is not", i)
		}
	}
	return nil
}

// Ref names a plan or an add-on, with or without a version: "pro", "pro@3".
// The zero Ref names nothing.
type Ref struct {
	Key     string `keep:"1"`
	Version int    `keep:"2"` // from 1; 0 means none was given: the newest
}

// ParseRef reads "pro" or "pro@3". what ("plan", "add-on") is for the error.
func ParseRef(what, s string) (Ref, error) {
	key, version, pinned := strings.Cut(s, "@")
	r := Ref{Key: key}
	if pinned {
		n, err := strconv.Atoi(version)
		if err != nil || n < 1 || version[0] == '0' || version[0] == '+' {
			return Ref{}, Errorf(Invalid, `%s %q: the version after @ must be a whole number from 1, as in "pro@3"`, what, s)
		}
		r.Version = n
	}
	if !ValidKey(key) {
		return Ref{}, Errorf(Invalid, "%s %q: a key is 1 to 64 of a-z 0-9 . _ - and begins with a letter or digit", what, s)
	}
	return r, nil
}

// String is the form that ParseRef reads.
func (r Ref) String() string {
	if r.Version == 0 {
		return r.Key
	}
	return r.Key + "@" + strconv.Itoa(r.Version)
}

// MarshalText makes a Ref a string in JSON.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (r *Ref) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRef("reference", string(text))
	return err
}
