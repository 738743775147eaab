package door

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strconv"

	"github.com/usher-sh/usher"
)

// Bounds of a page of a search, in results.
const (
	defaultFound = 100
	MaxFound     = 1000
)

// Paging is what a search says about pages.
type Paging struct {
	Limit int    // of results; -1: not said
	Token string // of the page before; "": the first page
}

// A token is the limit and what the next page comes after, under a sum that also
// covers the question. It is no secret: a caller who makes one up can ask for no
// more than with the first page.

// Question returns a hash that is the same only for the same question, given by
// its parts: text, numbers and what JSON holds.
func Question(parts ...any) []byte {
	b, _ := json.Marshal(parts) // of text, numbers and JSON: it cannot fail
	sum := sha256.Sum256(b)
	return sum[:]
}

// Seal returns the token of the page that comes after an id.
func Seal(question []byte, limit int, after string) string {
	rest := append(binary.AppendUvarint(nil, uint64(limit)), after...)
	return base64.RawURLEncoding.EncodeToString(append(sumOf(question, rest), rest...))
}

func sumOf(question, rest []byte) []byte {
	sum := sha256.Sum256(append(append([]byte("usher page\x00"), question...), rest...))
	return sum[:16]
}

// Resume returns the page that is asked for: where the token leads, or the first
// one. It returns Invalid at the places of the token and the limit for a token
// that is not of this question, and for another limit.
func (p *Paging) Resume(question []byte, token, limit string) (n int, after string, err error) {
	if p.Token == "" {
		if p.Limit < 0 {
			return defaultFound, "", nil
		}
		return p.Limit, "", nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(p.Token)
	if err != nil || len(b) < 17 || string(sumOf(question, b[16:])) != string(b[:16]) {
		return 0, "", Invalid(token,
			"must be what an answer to the same question ended with: anything that is asked differently begins anew, without it")
	}
	told, size := binary.Uvarint(b[16:])
	if size <= 0 || told > MaxFound || 16+size < len(b) && usher.CheckID("", string(b[16+size:])) != nil { // the sum is no secret
		return 0, "", Invalid(token, "must be what an answer to the same question ended with")
	}
	if p.Limit >= 0 && p.Limit != int(told) {
		return 0, "", Invalid(limit, "must be the same on every page, %s, or left out", strconv.FormatUint(told, 10))
	}
	return int(told), string(b[16+size:]), nil
}
