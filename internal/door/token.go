package door

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strconv"

	"github.com/usher-sh/usher"
)

// The bounds of one page of a search, in results.
const (
	defaultFound = 100
	MaxFound     = 1000
)

// Paging is the part of a search request that is about pages.
type Paging struct {
	Limit int    // results on one page; -1: the default
	Token string // from the page before; "": the first page
}

// A token has the limit and the id after which the next page begins, with a checksum
// that also covers the question, so that it fits no other question. It is not a secret:
// with a forged token a caller gets nothing that the first page would not give.

// Question returns a hash of a question, which is given by its parts: texts, numbers
// and other JSON values.
func Question(parts ...any) []byte {
	b, _ := json.Marshal(parts) // only texts, numbers and JSON values: it cannot fail
	sum := sha256.Sum256(b)
	return sum[:]
}

// Seal returns the token of the page that begins after an id.
func Seal(question []byte, limit int, after string) string {
	rest := append(binary.AppendUvarint(nil, uint64(limit)), after...)
	return base64.RawURLEncoding.EncodeToString(append(sumOf(question, rest), rest...))
}

func sumOf(question, rest []byte) []byte {
	sum := sha256.Sum256(append(append([]byte("usher page\x00"), question...), rest...))
	return sum[:16]
}

// Resume returns the limit and the id after which the page begins: from the token, or
// for the first page. token and limit are the places of the two in the request. A
// token of another question, and a limit that differs from the token's, are Invalid.
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
			"must come from the answer to the same question; without it, another question begins at its first page")
	}
	told, size := binary.Uvarint(b[16:])
	if size <= 0 || told > MaxFound || 16+size < len(b) && usher.CheckID("", string(b[16+size:])) != nil { // the sum is no secret
		return 0, "", Invalid(token, "must come from the answer to the same question")
	}
	if p.Limit >= 0 && p.Limit != int(told) {
		return 0, "", Invalid(limit, "must be the same on every page, %s, or left out", strconv.FormatUint(told, 10))
	}
	return int(told), string(b[16+size:]), nil
}
