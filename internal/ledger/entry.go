package ledger

import (
	"encoding/binary"
	"errors"

	"github.com/usher-sh/usher/internal/engine"
)

// AppendEntries appends ledger entries as numbers and short strings: much
// smaller than JSON, and read back without loss.
func AppendEntries(b []byte, entries []engine.Entry) []byte {
	str := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	b = binary.AppendUvarint(b, uint64(len(entries)))
	for i := range entries {
		e := &entries[i]
		str(e.Bucket.Feature)
		str(e.Bucket.Clock)
		b = binary.AppendVarint(b, e.Bucket.Start)
		str(e.Allowance)
		b = binary.AppendVarint(b, e.Amount)
	}
	return b
}

// ReadEntries reads what AppendEntries wrote and returns the bytes after it.
func ReadEntries(b []byte) (entries []engine.Entry, rest []byte, err error) {
	bad := false
	size := func() uint64 {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > uint64(len(b)-k) {
			bad, b = true, nil
			return 0
		}
		b = b[k:]
		return n
	}
	str := func() string {
		n := size()
		s := string(b[:n])
		b = b[n:]
		return s
	}
	num := func() int64 {
		n, k := binary.Varint(b)
		if k <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[k:]
		return n
	}
	n := size()
	if n > 0 {
		entries = make([]engine.Entry, 0, n)
	}
	for range n {
		entries = append(entries, engine.Entry{Bucket: engine.BucketKey{Feature: str(), Clock: str(), Start: num()}, Allowance: str(), Amount: num()})
		if bad {
			break
		}
	}
	if bad {
		return nil, nil, errors.New("ledger: entries are damaged")
	}
	return entries, b, nil
}
