package ledger

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// A stored answer is a take's decision and its ledger entries as numbers: much
// smaller than JSON, and read back without loss. The first byte is the version.
const answerVersion = 2

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
func (e *encoder) flag(f bool) {
	if f {
		e.b = append(e.b, 1)
	} else {
		e.b = append(e.b, 0)
	}
}
func (e *encoder) strs(l []string) {
	e.num(int64(len(l)))
	for _, s := range l {
		e.str(s)
	}
}
func (e *encoder) time(t time.Time) {
	e.flag(!t.IsZero())
	if !t.IsZero() {
		e.num(t.UnixMicro())
	}
}
func (e *encoder) window(w usher.Window) { e.time(w.Start); e.time(w.End) }

// EncodeAnswer writes a take that was decided at an instant.
func EncodeAnswer(d *usher.Decision, p *Posting, at time.Time) []byte {
	e := &encoder{b: make([]byte, 1, 160)}
	e.b[0] = answerVersion
	e.flag(d.Allowed)
	e.str(string(d.Reason))
	e.str(string(d.Kind))
	e.str(d.Plan.Key)
	e.num(int64(d.Plan.Version))
	e.str(string(d.Rule))
	e.strs(d.Sources)
	e.num(int64(d.Precision))
	e.flag(d.Counted)
	e.flag(d.Unlimited)
	for _, n := range []int64{d.Limit, d.Used, d.Reserved, d.Remaining, d.Overage, d.Excess, d.Consumed, d.Revision} {
		e.num(n)
	}
	e.flag(d.Window != nil)
	if d.Window != nil {
		e.window(*d.Window)
	}
	e.num(int64(len(d.Allowances)))
	for _, a := range d.Allowances {
		e.str(a.ID)
		e.strs(a.Sources)
		e.flag(a.Unlimited)
		for _, n := range []int64{a.Limit, a.Used, a.Reserved, a.Remaining, a.Overage, a.Excess} {
			e.num(n)
		}
		e.window(a.Window)
	}
	e.num(int64(len(d.Caps)))
	for _, c := range d.Caps {
		e.str(c.ID)
		e.num(int64(c.Per.Every))
		e.str(string(c.Per.Unit))
		e.flag(c.Sliding)
		for _, n := range []int64{c.Limit, c.Used, c.Remaining} {
			e.num(n)
		}
		e.window(c.Window)
	}
	e.deductions(d.Deductions)
	e.flag(d.Reservation != nil)
	if r := d.Reservation; r != nil {
		e.str(r.ID)
		e.num(r.Amount)
		e.time(r.ExpiresAt)
		e.str(string(r.State))
		e.num(r.Settled)
		e.flag(r.Late)
	}
	e.flag(d.Correction != nil)
	if c := d.Correction; c != nil {
		e.str(c.Ref.ID)
		e.str(c.Ref.Source)
		e.num(c.Amount)
		e.num(c.Left)
		e.deductions(c.Returned)
	}
	e.flag(d.Taken)
	e.num(at.UnixMicro() - p.At.UnixMicro())
	e.str(string(p.Would))
	e.str(p.Outcome)
	e.b = AppendEntries(e.b, p.Entries)
	return e.b
}

func (e *encoder) deductions(list []usher.Deduction) {
	e.num(int64(len(list)))
	for _, x := range list {
		e.str(x.Allowance)
		e.str(x.Feature)
		e.num(int64(x.Precision))
		e.num(x.Amount)
	}
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

func (d *decoder) flag() bool {
	if len(d.b) == 0 {
		d.bad = true
		return false
	}
	f := d.b[0] == 1
	d.b = d.b[1:]
	return f
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

func (d *decoder) strs() []string {
	var l []string
	for range d.size() {
		l = append(l, d.str())
	}
	return l
}

func (d *decoder) time() time.Time {
	if !d.flag() {
		return time.Time{}
	}
	return time.UnixMicro(d.num()).UTC()
}

func (d *decoder) window() usher.Window { return usher.Window{Start: d.time(), End: d.time()} }

func (d *decoder) nums(to ...*int64) {
	for _, p := range to {
		*p = d.num()
	}
}

// DecodeAnswer reads what EncodeAnswer wrote; customer and feature are in the
// row's own columns, and so is the instant at.
func DecodeAnswer(b []byte, at time.Time) (v usher.Decision, p Posting, err error) {
	if len(b) == 0 || b[0] != answerVersion {
		return v, p, errors.New("ledger: a stored answer has an unknown form")
	}
	d := &decoder{b: b[1:]}
	v.Allowed = d.flag()
	v.Reason = usher.Reason(d.str())
	v.Kind = usher.Kind(d.str())
	v.Plan = usher.Ref{Key: d.str(), Version: int(d.num())}
	v.Rule = usher.Combine(d.str())
	v.Sources = d.strs()
	v.Precision = int(d.num())
	v.Counted = d.flag()
	v.Unlimited = d.flag()
	d.nums(&v.Limit, &v.Used, &v.Reserved, &v.Remaining, &v.Overage, &v.Excess, &v.Consumed, &v.Revision)
	if d.flag() {
		w := d.window()
		v.Window = &w
	}
	for range d.size() {
		a := usher.AllowanceUse{ID: d.str(), Sources: d.strs(), Unlimited: d.flag()}
		d.nums(&a.Limit, &a.Used, &a.Reserved, &a.Remaining, &a.Overage, &a.Excess)
		a.Window = d.window()
		v.Allowances = append(v.Allowances, a)
	}
	for range d.size() {
		c := usher.CapUse{ID: d.str(), Per: usher.Period{Every: int(d.num()), Unit: usher.Unit(d.str())}, Sliding: d.flag()}
		d.nums(&c.Limit, &c.Used, &c.Remaining)
		c.Window = d.window()
		v.Caps = append(v.Caps, c)
	}
	v.Deductions = d.deductions()
	if d.flag() {
		v.Reservation = &usher.Reservation{ID: d.str(), Amount: d.num(), ExpiresAt: d.time(), State: usher.ReservationState(d.str()), Settled: d.num(), Late: d.flag()}
	}
	if d.flag() {
		v.Correction = &usher.Correction{Ref: usher.UseRef{ID: d.str(), Source: d.str()}, Amount: d.num(), Left: d.num(), Returned: d.deductions()}
	}
	v.Taken = d.flag()
	p.At = time.UnixMicro(at.UnixMicro() - d.num()).UTC()
	p.Would, p.Outcome = usher.Reason(d.str()), d.str()
	p.Entries = d.entries()
	if d.bad {
		return usher.Decision{}, Posting{}, errors.New("ledger: a stored answer is damaged")
	}
	return v, p, nil
}

func (d *decoder) deductions() (list []usher.Deduction) {
	for range d.size() {
		list = append(list, usher.Deduction{Allowance: d.str(), Feature: d.str(), Precision: int(d.num()), Amount: d.num()})
	}
	return list
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
