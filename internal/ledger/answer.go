package ledger

import (
	"encoding/binary"
	"errors"
	"reflect"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// answerVersion is the first byte of every stored answer. A change of the form
// takes a new version.
const answerVersion = 3

// Posting is what a take did to the ledger. It is stored with the take's answer.
type Posting struct {
	At      time.Time    // the instant whose minute counts the use
	Would   usher.Reason // why the take was denied, or would have been; "": it was not
	Outcome string       // of the denial, one of the Outcome constants; "": it was not denied
	Entries []engine.Entry
}

// encoder appends values to b. An integer is a varint, a string is its length and its
// bytes, a list is its length and its elements. A usual answer takes about 100 bytes,
// much less than as JSON.
type encoder struct{ b []byte }

func (e *encoder) num(n int64)  { e.b = binary.AppendVarint(e.b, n) }
func (e *encoder) str(s string) { e.b = append(binary.AppendUvarint(e.b, uint64(len(s))), s...) }

// EncodeAnswer returns the stored form of a take: its decision and what it did to
// the ledger. at is the instant of the decision, which the row has in a column of
// its own.
func EncodeAnswer(d *usher.Decision, p *Posting, at time.Time) []byte {
	e := &encoder{b: make([]byte, 1, 160)}
	e.b[0] = answerVersion
	e.value(reflect.ValueOf(d).Elem(), decisionForm)
	e.num(at.UnixMicro() - p.At.UnixMicro())
	e.str(string(p.Would))
	e.str(p.Outcome)
	e.b = AppendEntries(e.b, p.Entries)
	return e.b
}

// decoder reads what an encoder wrote. What cannot be read sets bad, and every
// later read returns zero: callers check bad once, at the end.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) num() int64 {
	n, k := binary.Varint(d.b)
	if k <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[k:]
	return n
}

func (d *decoder) str() string {
	n, k := binary.Uvarint(d.b)
	if k <= 0 || n > uint64(len(d.b)-k) {
		d.bad, d.b = true, nil
		return ""
	}
	s := string(d.b[k : k+int(n)])
	d.b = d.b[k+int(n):]
	return s
}

// size reads the length of a list. An element takes at least one byte, so a length
// beyond the bytes that are left is bad. So damaged bytes cannot make the reader
// allocate much memory.
func (d *decoder) size() int {
	n := d.num()
	if n < 0 || n > int64(len(d.b)) {
		d.bad = true
		return 0
	}
	return int(n)
}

// DecodeAnswer reads what EncodeAnswer wrote. at, customer and feature are in columns
// of the row: the caller passes at, and sets the other two in the decision. Unknown
// versions and damaged bytes are errors.
func DecodeAnswer(b []byte, at time.Time) (v usher.Decision, p Posting, err error) {
	if len(b) == 0 || b[0] != answerVersion {
		return v, p, errors.New("ledger: unknown version of a stored answer")
	}
	d := &decoder{b: b[1:]}
	d.value(reflect.ValueOf(&v).Elem(), decisionForm)
	p.At = time.UnixMicro(at.UnixMicro() - d.num()).UTC()
	p.Would, p.Outcome = usher.Reason(d.str()), d.str()
	p.Entries = d.entries()
	if d.bad {
		return usher.Decision{}, Posting{}, errors.New("ledger: a stored answer is damaged")
	}
	return v, p, nil
}

func (d *decoder) entries() []engine.Entry {
	if d.bad {
		return nil
	}
	list, rest, err := ReadEntries(d.b)
	d.b = rest
	d.bad = d.bad || err != nil
	return list
}
