package ledger

import (
	"encoding/binary"
	"errors"
	"reflect"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// A stored answer is a take's decision and its ledger entries as numbers: much
// smaller than JSON, and read back without loss. The first byte is the version.
const answerVersion = 3

// Posting is what a take did to the ledger, as it is kept with its answer.
type Posting struct {
	At      time.Time // the instant whose minute counts it
	Would   usher.Reason
	Outcome string
	Entries []engine.Entry
}

type encoder struct{ b []byte }

func (e *encoder) num(n int64)  { e.b = binary.AppendVarint(e.b, n) }
func (e *encoder) str(s string) { e.b = append(binary.AppendUvarint(e.b, uint64(len(s))), s...) }

// EncodeAnswer writes a take that was decided at an instant.
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

// size reads a list's length; what is longer than the rest of the bytes is bad.
func (d *decoder) size() int {
	n := d.num()
	if n < 0 || n > int64(len(d.b)) {
		d.bad = true
		return 0
	}
	return int(n)
}

// DecodeAnswer reads what EncodeAnswer wrote; customer and feature are in the
// row's own columns, and so is the instant at.
func DecodeAnswer(b []byte, at time.Time) (v usher.Decision, p Posting, err error) {
	if len(b) == 0 || b[0] != answerVersion {
		return v, p, errors.New("ledger: a stored answer has an unknown form")
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
