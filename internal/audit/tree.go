package audit

import (
	"fmt"
	"maps"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is a hash of the tree: SHA-256, as in RFC 6962.
type Hash = tlog.Hash

// Tree is the hashes of the whole subtrees of a log that grows: all that is
// needed to compute the root, in at most 63 hashes. The zero Tree is empty.
type Tree struct {
	n     int64
	whole map[int64]Hash // by tlog's index
}

// Frontier lists the indexes of the hashes that NewTree needs for a log of n
// rows: at most 63.
func Frontier(n int64) (indexes []int64) {
	if n <= 0 {
		return nil
	}
	tlog.TreeHash(n, tlog.HashReaderFunc(func(i []int64) ([]Hash, error) {
		indexes = append(indexes, i...)
		return make([]Hash, len(i)), nil
	}))
	return indexes
}

// NewTree returns the tree of n rows, given the hashes of Frontier(n).
func NewTree(n int64, hashes map[int64]Hash) (*Tree, error) {
	t := &Tree{n: n, whole: map[int64]Hash{}}
	for _, i := range Frontier(n) {
		h, ok := hashes[i]
		if !ok {
			return nil, fmt.Errorf("audit: hash %d of the log is missing", i)
		}
		t.whole[i] = h
	}
	return t, nil
}

// Clone returns a copy that grows on its own.
func (t *Tree) Clone() *Tree { return &Tree{t.n, maps.Clone(t.whole)} }

// Size returns how many rows the tree has.
func (t *Tree) Size() int64 { return t.n }

// ReadHashes implements tlog.HashReader.
func (t *Tree) ReadHashes(indexes []int64) ([]Hash, error) {
	out := make([]Hash, len(indexes))
	for k, i := range indexes {
		h, ok := t.whole[i]
		if !ok {
			return nil, fmt.Errorf("audit: hash %d is not of a whole subtree", i)
		}
		out[k] = h
	}
	return out, nil
}

// Add appends a row and returns the hashes to store, the first of which is the
// row's own, at the indexes from First(n) on.
func (t *Tree) Add(leaf []byte) ([]Hash, error) { return t.AddHash(tlog.RecordHash(leaf)) }

// AddHash adds a row of which only the hash is known.
func (t *Tree) AddHash(h Hash) ([]Hash, error) {
	hashes, err := tlog.StoredHashesForRecordHash(t.n, h, t)
	if err != nil {
		return nil, err
	}
	if t.whole == nil {
		t.whole = map[int64]Hash{}
	}
	first := First(t.n)
	t.n++
	for k, h := range hashes {
		t.whole[first+int64(k)] = h
	}
	next := make(map[int64]Hash, len(t.whole)) // what is part of a larger one is not needed again
	for _, i := range Frontier(t.n) {
		next[i] = t.whole[i]
	}
	t.whole = next
	return hashes, nil
}

// Root returns the hash of all rows.
func (t *Tree) Root() (Hash, error) { return tlog.TreeHash(t.n, t) }

// First returns the index of row n's own hash; its parents' that n completes follow.
func First(n int64) int64 { return tlog.StoredHashIndex(0, n) }

// Hashes returns how many hashes a log of n rows stores.
func Hashes(n int64) int64 { return tlog.StoredHashCount(n) }

// span names the rows that the hash at an index covers, for messages.
func span(i int64) string {
	level, n := tlog.SplitStoredHashIndex(i)
	if level == 0 {
		return fmt.Sprintf("leaf %d", n)
	}
	return fmt.Sprintf("leaves %d to %d", n<<level, (n+1)<<level-1)
}
