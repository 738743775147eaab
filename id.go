package usher

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// idText is base32 with an alphabet in ASCII order, so that texts sort like the
// bytes they stand for.
var idText = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// NewID returns a new id: the prefix, which is two to four letters and "_", and
// 26 characters of 0-9 and a-v. They hold now in microseconds (56 bits), so that
// ids sort by time, and 72 random bits, so that no two nodes make the same id.
// An id is not a secret. random nil is crypto/rand. NewID panics if random fails.
func NewID(prefix string, now time.Time, random io.Reader) string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(now.UnixMicro())<<8) // the lowest byte is random
	if random == nil {
		rand.Read(raw[7:])
	} else {
		var bits [9]byte // apart, so that raw stays off the heap when random is nil
		if _, err := io.ReadFull(random, bits[:]); err != nil {
			panic(fmt.Sprintf("usher: no random bits for an id: %v", err))
		}
		copy(raw[7:], bits[:])
	}
	var text [32]byte
	return string(idText.AppendEncode(append(text[:0], prefix...), raw[:]))
}
