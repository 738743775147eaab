package ledger

import (
	"encoding/binary"
	"errors"

	"github.com/usher-sh/usher/internal/engine"
)

// AppendEntries appends the stored form of ledger entries to b.
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
// Damaged bytes are an error.
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
		key := engine.BucketKey{Feature: str(), Clock: str(), Start: num()}
		entries = append(entries, engine.Entry{Bucket: key, Allowance: str(), Amount: num()})
		if bad {
			break
		}
	}
	if bad {
		return nil, nil, errors.New("ledger: entries are damaged")
	}
	return entries, b, nil
}
