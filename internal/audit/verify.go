package audit

import (
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults.
const (
	Altered    Kind = "altered"    // a row's text is not what was hashed
	Missing    Kind = "missing"    // a row is not there
	Order      Kind = "order"      // a row stands where another should, or twice
	Forged     Kind = "forged"     // a row that the signed checkpoint does not cover, or that is not in the tree
	Signature  Kind = "signature"  // a checkpoint or file is not signed with the right key
	Root       Kind = "root"       // the rows do not come to the signed hash
	Node       Kind = "tree"       // a stored hash is not that of what is below it
	Kept       Kind = "checkpoint" // the log does not contain the checkpoint that was kept
	Column     Kind = "column"     // a column of the table says other than the row
	Form       Kind = "form"       // what is read is not what it should be at all
	UsageHour  Kind = "usage"      // the usage ledger of an hour has changed since
	UnknownKey Kind = "key"        // a key signs that the log never announced
)

// Fault is one thing that is wrong; Text names the place.
type Fault struct {
	Kind Kind   `json:"kind"`
	Text string `json:"text"`
}

// maxFaults is how many faults of one kind a report lists; all are counted.
const maxFaults = 20

// Report is what was checked and what is wrong.
type Report struct {
	Leaves int64    `json:"leaves"`         // rows read
	Hashes int64    `json:"hashes"`         // stored hashes compared
	Proofs int64    `json:"proofs"`         // inclusion proofs checked
	Hours  int64    `json:"hours"`          // hours of usage compared
	Size   int64    `json:"size"`           // rows that the signed checkpoint covers
	Root   string   `json:"root"`           // its hash, base64
	Keys   []string `json:"keys"`           // public keys that the log announces, the newest last
	Kept   int64    `json:"kept,omitempty"` // rows of the kept checkpoint that it was compared with
	Faults []Fault  `json:"faults"`         // at most 20 of a kind
	Total  int64    `json:"total"`          // all faults
	counts map[Kind]int64
}

// Add adds a fault.
func (r *Report) Add(k Kind, format string, args ...any) {
	if r.counts == nil {
		r.counts = map[Kind]int64{}
	}
	r.Total++
	if r.counts[k]++; r.counts[k] <= maxFaults {
		r.Faults = append(r.Faults, Fault{k, fmt.Sprintf(format, args...)})
	}
}

// Options are what the verifying person knows from another source.
type Options struct {
	Keys []string // public keys, one of which must sign; none: the key that the log announces
	Kept string   // a signed checkpoint that the reader kept; "": none
}

// Walk verifies a whole log, row by row.
type Walk struct {
	Report
	o        Options
	signed   string
	head     Checkpoint // as the signed text says, before the signature is checked
	kept     Checkpoint
	tree     Tree
	next     int64
	broken   bool // a row is missing and its hash unknown: no root can be computed
	announce []string
	roots    map[int64]Hash // at head's and kept's sizes
}

// NewWalk begins to verify a log that ends in a signed checkpoint.
func NewWalk(signed string, o Options) *Walk {
	w := &Walk{o: o, signed: signed, roots: map[int64]Hash{}}
	w.Faults = []Fault{}
	if signed != "" {
		w.head = w.unsigned(signed, Signature, "the checkpoint")
	}
	if o.Kept != "" {
		w.kept = w.unsigned(o.Kept, Kept, "the kept checkpoint")
		w.Kept = w.kept.Size
	}
	w.Size, w.Root = w.head.Size, w.head.Root.String()
	return w
}

func (w *Walk) unsigned(signed string, k Kind, what string) Checkpoint {
	c, err := ReadCheckpoint(signed)
	if err != nil {
		w.Add(k, "%s cannot be read: %s", what, err)
	}
	return c
}

// Leaf takes the next row: its place, its bytes, and the hash that is stated
// beside it, if any. Rows come in order.
func (w *Walk) Leaf(n int64, leaf []byte, stated *Hash) {
	w.Leaves++
	switch {
	case n < w.next:
		w.Add(Order, "leaf %d comes after leaf %d: out of order, or twice", n, w.next-1)
		return
	case n > w.next:
		w.Gap(n)
	}
	if n >= w.head.Size {
		w.Add(Forged, "leaf %d is beyond the signed checkpoint, which covers %d leaves", n, w.head.Size)
	}
	h := tlog.RecordHash(leaf)
	if stated != nil && *stated != h {
		w.Add(Altered, "leaf %d was altered: its text does not have the hash that is stored for it", n)
		h = *stated // so that what follows shows whether the hashes are right
	}
	if e, err := Decode(leaf); err != nil {
		w.Add(Altered, "leaf %d is %s", n, err)
	} else {
		if e.N != n {
			w.Add(Order, "leaf %d is in place %d", e.N, n)
		}
		if key := e.keyOf(); key != "" {
			w.announce = append(w.announce, key)
		}
	}
	if n == 0 && len(w.announce) == 0 {
		w.Add(UnknownKey, "leaf 0 announces no public key")
	}
	w.add(h)
}

// Absent takes the place of a row that is not there and whose hash is known.
func (w *Walk) Absent(h Hash) {
	w.Add(Missing, "leaf %d is missing", w.next)
	w.add(h)
}

// Gap records that the rows from here up to n are missing.
func (w *Walk) Gap(n int64) {
	if n-1 == w.next {
		w.Add(Missing, "leaf %d is missing", w.next)
	} else {
		w.Add(Missing, "leaves %d to %d are missing", w.next, n-1)
	}
	w.broken, w.next = true, n
}

func (w *Walk) add(h Hash) {
	w.next++
	if w.broken {
		return
	}
	if _, err := w.tree.AddHash(h); err != nil {
		w.broken = true
		return
	}
	if w.next == w.head.Size || w.next == w.kept.Size {
		if root, err := w.tree.Root(); err == nil {
			w.roots[w.next] = root
		}
	}
}

// Next returns the number of the next row.
func (w *Walk) Next() int64 { return w.next }

// End checks the signatures, the roots, and the kept checkpoint.
func (w *Walk) End() *Report {
	w.Keys = w.announce
	if w.signed == "" {
		if w.next > 0 {
			w.Add(Signature, "the log has %d leaves and no signed checkpoint", w.next)
		}
		if w.o.Kept != "" {
			w.Add(Kept, "the log is empty, and the kept checkpoint covers %d leaves: the log was rolled back", w.kept.Size)
		}
		return &w.Report
	}
	w.signatures()
	if w.next < w.head.Size {
		w.Add(Missing, "leaves %d to %d are missing at the end: the signed checkpoint covers %d leaves", w.next, w.head.Size-1, w.head.Size)
	}
	if root, ok := w.roots[w.head.Size]; ok && root != w.head.Root {
		w.Add(Root, "the first %d leaves do not have the root hash of the checkpoint: got %s, want %s", w.head.Size, root, w.head.Root)
	}
	switch root, ok := w.roots[w.kept.Size]; {
	case w.o.Kept == "":
	case w.kept.Size > w.next:
		w.Add(Kept, "the log has %d leaves, and the kept checkpoint covers %d: the log was rolled back or cut off", w.next, w.kept.Size)
	case !ok:
		w.Add(Kept, "the kept checkpoint cannot be compared, because leaves are missing")
	case root != w.kept.Root:
		w.Add(Kept, "the first %d leaves are not those of the kept checkpoint: history was rewritten", w.kept.Size)
	}
	return &w.Report
}

// signatures checks who signed the checkpoints. The log's own word for its key
// is enough only where nobody gives one.
func (w *Walk) signatures() {
	current := w.o.Keys
	if len(w.announce) > 0 {
		newest := w.announce[len(w.announce)-1]
		if len(w.o.Keys) > 0 && !slices.Contains(w.o.Keys, newest) {
			w.Add(UnknownKey, "the log names the key %s, which is not the given key", newest)
		}
		current = []string{newest}
	}
	if _, err := OpenCheckpoint(w.signed, current...); err != nil {
		w.Add(Signature, "the checkpoint of %d leaves: %s", w.head.Size, err)
	}
	if w.o.Kept != "" {
		if _, err := OpenCheckpoint(w.o.Kept, slices.Concat(w.o.Keys, w.announce)...); err != nil {
			w.Add(Kept, "the kept checkpoint of %d leaves: %s", w.kept.Size, err)
		}
	}
}
