package audit

import (
	"crypto/sha256"
	"crypto/sha3"
	"encoding/binary"
	"encoding/hex"
)

// Hour is what a row of ActionHour says of one hour of an environment's usage
// ledger: its rows by when they were written.
type Hour struct {
	Takes       Rows `json:"takes"`
	Events      Rows `json:"events"`
	Corrections Rows `json:"corrections"`
}

// Rows is how many rows there are, and a hash of them as a set: their order does
// not matter, so that one pass over a table hashes every hour of it.
type Rows struct {
	Rows   int64  `json:"rows"`
	SHA256 string `json:"sha256,omitempty"` // of the sum; "": no rows
}

// lanes is the length of a Sum: with 1,024 lanes of 16 bits nobody can find two
// sets with the same sum (LtHash).
const lanes = 1024

// Sum adds up rows: each is stretched to 1,024 numbers of 16 bits, and the
// numbers are added lane by lane. The zero Sum has no rows.
type Sum struct {
	n     int64
	lanes [lanes]uint16
}

// Add adds a row, given as its fields: numbers and texts in a fixed order.
func (s *Sum) Add(fields ...[]byte) {
	h := sha3.NewSHAKE128()
	var b [2 * lanes]byte
	for _, f := range fields {
		h.Write(binary.AppendUvarint(b[:0], uint64(len(f)))) // so that no two rows read the same
		h.Write(f)
	}
	h.Read(b[:])
	for i := range s.lanes {
		s.lanes[i] += binary.LittleEndian.Uint16(b[2*i:])
	}
	s.n++
}

// Rows returns the sum so far.
func (s *Sum) Rows() Rows {
	if s == nil || s.n == 0 {
		return Rows{}
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(s.n))
	for _, l := range s.lanes {
		b = binary.LittleEndian.AppendUint16(b, l)
	}
	sum := sha256.Sum256(b)
	return Rows{s.n, hex.EncodeToString(sum[:])}
}
