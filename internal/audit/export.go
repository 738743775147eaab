package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Header is the first line of an export. The lines after it are one row each,
// the last is the signature of all before it.
type Header struct {
	Format     int               `json:"usher_audit_export"` // 1
	At         time.Time         `json:"at"`                 // when it was made
	Key        string            `json:"key"`                // the signer's public key
	Checkpoint string            `json:"checkpoint"`         // signed: the state of the log
	Filter     map[string]string `json:"filter,omitempty"`   // which rows; absent: all of them
	Since      *Since            `json:"since,omitempty"`
}

// Since proves that the log extends an older checkpoint that the reader kept.
type Since struct {
	Checkpoint string `json:"checkpoint"`
	Proof      []Hash `json:"proof"`
}

// exported is a row of an export.
type exported struct {
	N     int64  `json:"n"`
	Leaf  string `json:"leaf"`            // exactly the bytes that are hashed
	Hash  *Hash  `json:"hash,omitempty"`  // of the row, in an export of all rows
	Proof []Hash `json:"proof,omitempty"` // that the row is in the log, in an export of some rows
}

type signature struct {
	Signature string `json:"signature"`
}

// Export writes an export.
type Export struct {
	w      io.Writer
	h      hash.Hash
	signer *Signer
	full   bool
}

// NewExport writes the header.
func NewExport(w io.Writer, h Header, s *Signer) (*Export, error) {
	e := &Export{w: w, h: sha256.New(), signer: s, full: h.Filter == nil}
	h.Format, h.Key = 1, s.Public()
	return e, e.line(h)
}

func (e *Export) line(v any) error {
	b, err := marshal(v)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	e.h.Write(b)
	_, err = e.w.Write(b)
	return err
}

// Leaf writes a row. The proof is needed only in an export of some rows.
func (e *Export) Leaf(n int64, leaf []byte, proof []Hash) error {
	x := exported{N: n, Leaf: string(leaf), Proof: proof}
	if e.full {
		h := tlog.RecordHash(leaf)
		x.Hash, x.Proof = &h, nil
	}
	return e.line(x)
}

// End writes the signature.
func (e *Export) End() error {
	signed, err := e.signer.sign(exportText(e.h.Sum(nil)))
	if err != nil {
		return err
	}
	return e.line(signature{signed})
}

func exportText(sum []byte) string {
	return Name + " export\n" + base64.StdEncoding.EncodeToString(sum) + "\n"
}

// maxLine bounds a line of an export.
const maxLine = 4 << 20

// VerifyExport reads an export and checks every row, the checkpoint, the kept
// one, and the signature of the file. Without a key in o it trusts the key that
// the file names. An error means that the file could not be read.
func VerifyExport(r io.Reader, o Options) (*Report, *Header, error) {
	x := &exportReader{in: bufio.NewReaderSize(r, 64<<10), sum: sha256.New(), o: o}
	return x.run()
}

type exportReader struct {
	in  *bufio.Reader
	sum hash.Hash // of the lines before
	o   Options
	n   int64 // lines read
}

// next returns the next line with its newline, or nil at the end.
func (x *exportReader) next() (line []byte, err error) {
	for {
		part, err := x.in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == io.EOF && len(line) == 0:
			return nil, nil
		case err == io.EOF, err == nil:
			x.n++
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(line) > maxLine:
			return nil, fmt.Errorf("line %d is longer than %d bytes: it was not written by usher audit export", x.n+1, maxLine)
		}
	}
}

func (x *exportReader) run() (*Report, *Header, error) {
	first, err := x.next()
	if err != nil {
		return nil, nil, err
	}
	h := &Header{}
	if json.Unmarshal(first, h) != nil || h.Format != 1 {
		r := &Report{Faults: []Fault{}}
		r.Add(Form, "line 1 must be the header of an export in format 1")
		return r, h, nil
	}
	x.sum.Write(first)
	keys := x.o.Keys
	w := NewWalk(h.Checkpoint, x.o)
	if len(keys) == 0 {
		keys = []string{h.Key}
	} else if !slices.Contains(keys, h.Key) {
		w.Add(UnknownKey, "the file names the key %.100s, which is not the given key", h.Key)
	}
	var last, before int64 = -1, -1
	signed := false
	for {
		line, err := x.next()
		if err != nil {
			return nil, h, err
		}
		if line == nil {
			break
		}
		if signed {
			w.Add(Forged, "line %d comes after the signature of the file", x.n)
			break
		}
		if bytes.HasPrefix(line, []byte(`{"signature":`)) {
			signed = true
			x.signature(&w.Report, line, keys)
			continue
		}
		x.sum.Write(line)
		var l exported
		if err := json.Unmarshal(line, &l); err != nil {
			w.Add(Form, "line %d is not a row of an export", x.n)
			continue
		}
		if h.Filter == nil {
			if l.Hash == nil {
				w.Add(Form, "line %d: leaf %d has no hash", x.n, l.N)
			}
			w.Leaf(l.N, []byte(l.Leaf), l.Hash)
			continue
		}
		before, last = last, l.N
		w.proved(l, before)
	}
	if !signed {
		w.Add(Missing, "the file is cut off: its last line, the signature, is missing")
	}
	if h.Filter == nil {
		return w.End(), h, nil
	}
	w.Keys = keys
	if _, err := OpenCheckpoint(h.Checkpoint, keys...); err != nil {
		w.Add(Signature, "the checkpoint of %d leaves: %s", w.head.Size, err)
	}
	x.since(w, h, keys)
	return &w.Report, h, nil
}

// proved checks one row of an export of some rows.
func (w *Walk) proved(l exported, before int64) {
	w.Leaves++
	w.Proofs++
	if l.N <= before {
		w.Add(Order, "leaf %d comes after leaf %d: out of order, or twice", l.N, before)
	}
	if e, err := Decode([]byte(l.Leaf)); err != nil {
		w.Add(Altered, "leaf %d is %s", l.N, err)
	} else if e.N != l.N {
		w.Add(Order, "leaf %d is in place %d", e.N, l.N)
	}
	if l.N < 0 || l.N >= w.head.Size {
		w.Add(Forged, "leaf %d is beyond the signed checkpoint, which covers %d leaves", l.N, w.head.Size)
	} else if err := tlog.CheckRecord(l.Proof, w.head.Size, w.head.Root, l.N, tlog.RecordHash([]byte(l.Leaf))); err != nil {
		w.Add(Altered, "leaf %d is not in the log: it, or the proof that it is, was altered or forged", l.N)
	}
}

// since checks a kept checkpoint against an export of some rows, by its proof.
func (x *exportReader) since(w *Walk, h *Header, keys []string) {
	switch {
	case x.o.Kept == "":
		return
	case w.kept.Size > w.head.Size:
		w.Add(Kept, "the log has %d leaves, and the kept checkpoint covers %d: the log was rolled back or cut off", w.head.Size, w.kept.Size)
		return
	case w.kept == w.head:
	case h.Since == nil || h.Since.Checkpoint != x.o.Kept:
		w.Add(Kept, "the file holds no proof for the kept checkpoint: export with --checkpoint, or export all rows")
	case w.kept.Size < 1 || tlog.CheckTree(h.Since.Proof, w.head.Size, w.head.Root, w.kept.Size, w.kept.Root) != nil:
		w.Add(Kept, "the log does not contain the first %d leaves of the kept checkpoint: history was rewritten", w.kept.Size)
	}
	if _, err := OpenCheckpoint(x.o.Kept, keys...); err != nil {
		w.Add(Kept, "the kept checkpoint of %d leaves: %s", w.kept.Size, err)
	}
}

// signature checks the last line. Its form is strict, so that no byte of a file
// can change unseen.
func (x *exportReader) signature(r *Report, line []byte, keys []string) {
	var s signature
	if err := json.Unmarshal(line, &s); err != nil {
		r.Add(Signature, "the signature of the file cannot be read")
		return
	}
	if want, err := marshal(s); err != nil || !bytes.Equal(append(want, '\n'), line) {
		r.Add(Signature, "the line of the signature was altered")
		return
	}
	text, err := open(s.Signature, keys)
	switch want := exportText(x.sum.Sum(nil)); {
	case err != nil:
		r.Add(Signature, "the signature of the file: %s", err)
	case text != want:
		r.Add(Signature, "the file was altered since it was signed")
	}
}

// Text prints a report for people: faults first, then what was checked.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	listed := map[Kind]int64{}
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "%s: %s\n", f.Kind, f.Text)
		listed[f.Kind]++
	}
	for _, f := range slices.Compact(slices.Sorted(slices.Values(r.kinds()))) {
		if more := r.counts[f] - listed[f]; more > 0 {
			fmt.Fprintf(&b, "%s: … and %d more\n", f, more)
		}
	}
	fmt.Fprintf(&b, "checked: %d leaves", r.Leaves)
	for _, part := range []struct {
		n    int64
		what string
	}{{r.Hashes, "stored hashes"}, {r.Proofs, "inclusion proofs"}, {r.Hours, "hours of usage"}} {
		if part.n > 0 {
			fmt.Fprintf(&b, ", %d %s", part.n, part.what)
		}
	}
	fmt.Fprintf(&b, "; the signed checkpoint covers %d leaves, root %s\n", r.Size, r.Root)
	if r.Kept > 0 {
		fmt.Fprintf(&b, "compared with a kept checkpoint of %d leaves\n", r.Kept)
	}
	for i, k := range r.Keys {
		if i == len(r.Keys)-1 {
			fmt.Fprintf(&b, "signed with %s\n", k)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) kinds() (all []Kind) {
	for k := range r.counts {
		all = append(all, k)
	}
	return all
}
