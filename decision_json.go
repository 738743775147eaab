package usher

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// AppendJSON appends the decision as the API shows it, and allocates only where
// b has no room. Quantities are numbers where Precision is 0 and decimal
// strings otherwise; the numbers are left out unless Counted, and limit and
// remaining where Unlimited.
func (d *Decision) AppendJSON(b []byte) []byte {
	return append(d.appendOpen(b, d.Sources != nil), '}')
}

// MarshalJSON is AppendJSON.
func (d Decision) MarshalJSON() ([]byte, error) { return d.AppendJSON(make([]byte, 0, 512)), nil }

// appendOpen leaves the closing brace to the caller, who may add members.
func (d *Decision) appendOpen(b []byte, rule bool) []byte {
	b = append(b, `{"allowed":`...)
	b = strconv.AppendBool(b, d.Allowed)
	b = appendString(append(b, `,"reason":`...), string(d.Reason))
	b = appendString(append(b, `,"customer":`...), d.Customer)
	if d.Feature != "" || d.Permission == "" {
		b = appendString(append(b, `,"feature":`...), d.Feature)
	}
	if d.Member != "" {
		b = appendString(append(b, `,"member":`...), d.Member)
	}
	if d.Permission != "" {
		b = appendString(append(b, `,"permission":`...), d.Permission)
	}
	if d.Legs != nil {
		b = d.Legs.appendJSON(append(b, `,"legs":`...))
	}
	if d.Kind != "" {
		b = appendString(append(b, `,"kind":`...), string(d.Kind))
	}
	if d.Value != nil {
		b = d.Value.appendJSON(append(b, `,"value":`...), d.Type, d.Precision)
	}
	if d.Counted {
		if !d.Unlimited {
			b = AppendQuantity(append(b, `,"limit":`...), d.Limit, d.Precision)
		}
		b = AppendQuantity(append(b, `,"used":`...), d.Used, d.Precision)
		b = AppendQuantity(append(b, `,"reserved":`...), d.Reserved, d.Precision)
		if !d.Unlimited {
			b = AppendQuantity(append(b, `,"remaining":`...), d.Remaining, d.Precision)
		}
		b = strconv.AppendBool(append(b, `,"unlimited":`...), d.Unlimited)
		b = AppendQuantity(append(b, `,"overage":`...), d.Overage, d.Precision)
		if d.Excess != 0 {
			b = AppendQuantity(append(b, `,"excess":`...), d.Excess, d.Precision)
		}
	}
	if d.Window != nil {
		b = d.Window.appendMember(b)
	}
	if d.Plan != (Ref{}) {
		b = d.Plan.appendJSON(append(b, `,"plan":`...))
	}
	if rule && d.Rule != "" {
		b = appendString(append(b, `,"rule":`...), string(d.Rule))
	}
	if d.Sources != nil {
		b = appendStrings(append(b, `,"sources":`...), d.Sources)
	}
	if len(d.Allowances) > 0 {
		b = append(b, `,"allowances":`...)
		for i := range d.Allowances {
			b = d.Allowances[i].appendJSON(appendSep(b, i), d.Precision)
		}
		b = append(b, ']')
	}
	if len(d.Caps) > 0 {
		b = append(b, `,"caps":`...)
		for i := range d.Caps {
			b = d.Caps[i].appendJSON(appendSep(b, i), d.Precision)
		}
		b = append(b, ']')
	}
	if d.Taken {
		b = AppendQuantity(append(b, `,"consumed":`...), d.Consumed, d.Precision)
		b = append(b, `,"deductions":[`...)
		for i := range d.Deductions {
			if i > 0 {
				b = append(b, ',')
			}
			b = d.Deductions[i].appendJSON(b, d.Precision)
		}
		b = append(b, ']')
	}
	if d.Reservation != nil {
		b = d.Reservation.appendJSON(append(b, `,"reservation":`...), d.Precision)
	}
	if d.Seat != nil {
		b = d.Seat.AppendJSON(append(b, `,"seat":`...))
	}
	if d.Correction != nil {
		b = d.Correction.appendJSON(append(b, `,"correction":`...), d.Precision)
	}
	if d.Replayed {
		b = append(b, `,"replayed":true`...)
	}
	if d.Degraded {
		b = append(b, `,"degraded":true`...)
	}
	if !d.AsOf.IsZero() {
		b = appendTime(append(b, `,"as_of":`...), d.AsOf)
	}
	return strconv.AppendInt(append(b, `,"revision":`...), d.Revision, 10)
}

func (a *AllowanceUse) appendJSON(b []byte, precision int) []byte {
	b = appendString(append(b, `{"allowance":`...), a.ID)
	if len(a.Sources) > 1 {
		b = appendStrings(append(b, `,"sources":`...), a.Sources)
	}
	if !a.Unlimited {
		b = AppendQuantity(append(b, `,"limit":`...), a.Limit, precision)
	}
	b = AppendQuantity(append(b, `,"used":`...), a.Used, precision)
	b = AppendQuantity(append(b, `,"reserved":`...), a.Reserved, precision)
	if a.Unlimited {
		b = append(b, `,"unlimited":true`...)
	} else {
		b = AppendQuantity(append(b, `,"remaining":`...), a.Remaining, precision)
	}
	b = AppendQuantity(append(b, `,"overage":`...), a.Overage, precision)
	if a.Excess != 0 {
		b = AppendQuantity(append(b, `,"excess":`...), a.Excess, precision)
	}
	return append(a.Window.appendMember(b), '}')
}

func (c *CapUse) appendJSON(b []byte, precision int) []byte {
	b = appendString(append(b, `{"cap":`...), c.ID)
	b = append(b, `,"per":`...)
	if c.Per.Every == 1 {
		b = appendString(b, string(c.Per.Unit))
	} else {
		b = strconv.AppendInt(append(b, `{"every":`...), int64(c.Per.Every), 10)
		b = append(appendString(append(b, `,"unit":`...), string(c.Per.Unit)), '}')
	}
	if c.Sliding {
		b = append(b, `,"sliding":true`...)
	}
	b = AppendQuantity(append(b, `,"limit":`...), c.Limit, precision)
	b = AppendQuantity(append(b, `,"used":`...), c.Used, precision)
	b = AppendQuantity(append(b, `,"remaining":`...), c.Remaining, precision)
	return append(c.Window.appendMember(b), '}')
}

func (d *Deduction) appendJSON(b []byte, precision int) []byte {
	b = appendString(append(b, `{"allowance":`...), d.Allowance)
	if d.Feature != "" {
		precision = d.Precision
		b = appendString(append(b, `,"feature":`...), d.Feature)
	}
	return append(AppendQuantity(append(b, `,"amount":`...), d.Amount, precision), '}')
}

// appendJSON writes a config value by its type; a list is never null.
func (v *Value) appendJSON(b []byte, t ConfigType, precision int) []byte {
	switch t {
	case TypeInteger:
		return strconv.AppendInt(b, v.Int, 10)
	case TypeDecimal:
		b = appendQuantity(append(b, '"'), v.Int, precision)
		return append(b, '"')
	case TypeList:
		return appendStrings(b, v.List)
	}
	return appendString(b, v.Text)
}

// appendMember writes `,"window":{…}` with the bounds that there are.
func (w *Window) appendMember(b []byte) []byte {
	start, end := !w.Start.IsZero(), !w.End.IsZero()
	if !start && !end {
		return b
	}
	b = append(b, `,"window":{`...)
	if start {
		b = appendTime(append(b, `"start":`...), w.Start)
	}
	if start && end {
		b = append(b, ',')
	}
	if end {
		b = appendTime(append(b, `"end":`...), w.End)
	}
	return append(b, '}')
}

func (r Ref) appendJSON(b []byte) []byte {
	b = append(append(b, '"'), r.Key...) // a key needs no escapes
	if r.Version != 0 {
		b = strconv.AppendInt(append(b, '@'), int64(r.Version), 10)
	}
	return append(b, '"')
}

// appendTime writes RFC 3339 in UTC, with a fraction only where it is not zero.
func appendTime(b []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

func appendSep(b []byte, i int) []byte {
	if i == 0 {
		return append(b, '[')
	}
	return append(b, ',')
}

func appendStrings(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

// appendString writes a JSON string; bytes that are not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	done := 0 // s[:done] is written
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, s[done:i]...), "\uFFFD"...)
				done = i + 1
			}
			i += size
			continue
		}
		b = append(b, s[done:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		done = i
	}
	return append(append(b, s[done:]...), '"')
}

// The wire forms: what UnmarshalJSON reads.
type (
	decisionJSON struct {
		Allowed    *bool           `json:"allowed"`
		Reason     Reason          `json:"reason"`
		Customer   string          `json:"customer"`
		Feature    string          `json:"feature"`
		Member     string          `json:"member"`
		Permission string          `json:"permission"`
		Legs       *Legs           `json:"legs"`
		Kind       Kind            `json:"kind"`
		Value      json.RawMessage `json:"value"`
		Limit      wireQuantity    `json:"limit"`
		Used       wireQuantity    `json:"used"`
		Reserved   wireQuantity    `json:"reserved"`
		Remaining  wireQuantity    `json:"remaining"`
		Unlimited  bool            `json:"unlimited"`
		Overage    wireQuantity    `json:"overage"`
		Excess     wireQuantity    `json:"excess"`
		Window     *Window         `json:"window"`
		Plan       Ref             `json:"plan"`
		Rule       Combine         `json:"rule"`
		Sources    []string        `json:"sources"`
		Allowances []struct {
			ID        string       `json:"allowance"`
			Sources   []string     `json:"sources"`
			Unlimited bool         `json:"unlimited"`
			Limit     wireQuantity `json:"limit"`
			Used      wireQuantity `json:"used"`
			Reserved  wireQuantity `json:"reserved"`
			Remaining wireQuantity `json:"remaining"`
			Overage   wireQuantity `json:"overage"`
			Excess    wireQuantity `json:"excess"`
			Window    Window       `json:"window"`
		} `json:"allowances"`
		Caps []struct {
			ID        string       `json:"cap"`
			Per       wirePeriod   `json:"per"`
			Sliding   bool         `json:"sliding"`
			Limit     wireQuantity `json:"limit"`
			Used      wireQuantity `json:"used"`
			Remaining wireQuantity `json:"remaining"`
			Window    Window       `json:"window"`
		} `json:"caps"`
		Consumed    wireQuantity   `json:"consumed"`
		Deductions  wireDeductions `json:"deductions"`
		Reservation *struct {
			ID        string           `json:"id"`
			Amount    wireQuantity     `json:"amount"`
			ExpiresAt time.Time        `json:"expires_at"`
			State     ReservationState `json:"state"`
			Settled   wireQuantity     `json:"settled"`
			Late      bool             `json:"late"`
		} `json:"reservation"`
		Seat *struct {
			Holder    string    `json:"holder"`
			State     SeatState `json:"state"`
			Since     time.Time `json:"since"`
			ExpiresAt time.Time `json:"expires_at"`
			Excess    bool      `json:"excess"`
		} `json:"seat"`
		Correction *struct {
			Ref      wireRef        `json:"ref"`
			Amount   wireQuantity   `json:"amount"`
			Left     wireQuantity   `json:"left"`
			Returned wireDeductions `json:"returned"`
		} `json:"correction"`
		Replayed bool      `json:"replayed"`
		Degraded bool      `json:"degraded"`
		AsOf     time.Time `json:"as_of"`
		Revision int64     `json:"revision"`
	}
	wireQuantity struct {
		units     int64
		precision int
		there     bool
	}
	wirePeriod     struct{ Period }
	wireDeductions []struct {
		Allowance string       `json:"allowance"`
		Feature   string       `json:"feature"`
		Amount    wireQuantity `json:"amount"`
	}
	wireRef struct{ id, source string }
)

func (r *wireRef) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &r.id)
	}
	var w struct{ Source, ID string }
	err := json.Unmarshal(b, &w)
	r.id, r.source = w.ID, w.Source
	return err
}

func (w wireDeductions) list() (out []Deduction) {
	for _, x := range w {
		y := Deduction{Allowance: x.Allowance, Feature: x.Feature, Amount: x.Amount.units}
		if y.Feature != "" {
			y.Precision = x.Amount.precision
		}
		out = append(out, y)
	}
	return out
}

func (q *wireQuantity) UnmarshalJSON(b []byte) error {
	var n Number
	if err := n.UnmarshalJSON(b); err != nil {
		return err
	}
	text, negative := strings.CutPrefix(string(n), "-")
	if _, frac, ok := strings.Cut(text, "."); ok {
		q.precision = len(frac)
	}
	if q.precision > MaxPrecision {
		return Errorf(Invalid, "must have at most %d digits after the point, got %s", MaxPrecision, clip(text))
	}
	units, err := ParseQuantity(text, q.precision)
	if negative {
		units = -units
	}
	q.units, q.there = units, true
	return err
}

func (p *wirePeriod) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		p.Every = 1
		return json.Unmarshal(b, &p.Unit)
	}
	return json.Unmarshal(b, &p.Period)
}

// UnmarshalJSON reads what AppendJSON wrote. Members that it does not know are
// ignored; one without allowed and reason is no decision and is refused. Two
// things that JSON does not say are guessed: Precision, from the digits after
// the point, and Type, which is TypeString for every text.
func (d *Decision) UnmarshalJSON(b []byte) error {
	var w decisionJSON
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	if w.Allowed == nil || w.Reason == "" {
		return Errorf(Invalid, `not a decision: "allowed" and "reason" must be there`)
	}
	*d = Decision{
		Allowed: *w.Allowed, Reason: w.Reason, Customer: w.Customer, Feature: w.Feature, Kind: w.Kind,
		Member: w.Member, Permission: w.Permission, Legs: w.Legs,
		Plan: w.Plan, Rule: w.Rule, Sources: w.Sources, Precision: w.Used.precision,
		Counted: w.Used.there, Unlimited: w.Unlimited, Limit: w.Limit.units, Used: w.Used.units,
		Reserved: w.Reserved.units, Remaining: w.Remaining.units, Overage: w.Overage.units, Excess: w.Excess.units,
		Window: w.Window, Consumed: w.Consumed.units, Taken: w.Consumed.there,
		Replayed: w.Replayed, Degraded: w.Degraded, AsOf: w.AsOf, Revision: w.Revision,
	}
	if w.Consumed.there && !w.Used.there {
		d.Precision = w.Consumed.precision
	}
	for _, a := range w.Allowances {
		d.Allowances = append(d.Allowances, AllowanceUse{ID: a.ID, Sources: a.Sources, Unlimited: a.Unlimited,
			Limit: a.Limit.units, Used: a.Used.units, Reserved: a.Reserved.units, Remaining: a.Remaining.units,
			Overage: a.Overage.units, Excess: a.Excess.units, Window: a.Window})
	}
	for _, c := range w.Caps {
		d.Caps = append(d.Caps, CapUse{ID: c.ID, Per: c.Per.Period, Sliding: c.Sliding,
			Limit: c.Limit.units, Used: c.Used.units, Remaining: c.Remaining.units, Window: c.Window})
	}
	d.Deductions = w.Deductions.list()
	if r := w.Reservation; r != nil {
		if r.State == "" {
			r.State = ReservationOpen
		}
		d.Reservation = &Reservation{ID: r.ID, Amount: r.Amount.units, ExpiresAt: r.ExpiresAt, State: r.State, Settled: r.Settled.units, Late: r.Late}
	}
	if s := w.Seat; s != nil {
		d.Seat = &Seat{Holder: s.Holder, State: s.State, Since: s.Since, ExpiresAt: s.ExpiresAt, Excess: s.Excess}
	}
	if c := w.Correction; c != nil {
		d.Correction = &Correction{Ref: c.Ref.id, Source: c.Ref.source, Amount: c.Amount.units, Left: c.Left.units, Returned: c.Returned.list()}
	}
	if len(w.Value) == 0 || string(w.Value) == "null" {
		return nil
	}
	d.Value = new(Value)
	switch w.Value[0] {
	case '"':
		d.Type = TypeString
		return json.Unmarshal(w.Value, &d.Value.Text)
	case '[':
		d.Type = TypeList
		return json.Unmarshal(w.Value, &d.Value.List)
	}
	d.Type = TypeInteger
	return json.Unmarshal(w.Value, &d.Value.Int)
}

// MarshalJSON is the decision's object with every allowance and cap listed, and
// with mode, considered and would_change as further members.
func (e Explanation) MarshalJSON() ([]byte, error) {
	d := e.Decision
	d.Allowances, d.Caps, d.Rule = e.Allowances, e.Caps, e.Combined
	b := d.appendOpen(make([]byte, 0, 2048), true)
	if e.Mode != "" {
		b = appendString(append(b, `,"mode":`...), string(e.Mode))
	}
	b = append(b, `,"considered":[`...)
	for i, s := range e.Considered {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, `{"id":`...), s.ID)
		b = appendString(append(b, `,"gives":`...), s.Gives)
		b = strconv.AppendBool(append(b, `,"used":`...), s.Used)
		if s.Why != "" {
			b = appendString(append(b, `,"why":`...), s.Why)
		}
		b = append(b, '}')
	}
	b = append(b, `],"would_change":[`...)
	for i, c := range e.Changes {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, `{"what":`...), c.What)
		if c.At != "" {
			b = appendString(append(b, `,"at":`...), c.At)
		}
		b = append(b, '}')
	}
	b = append(b, ']')
	if e.Access != nil {
		access, err := json.Marshal(e.Access)
		if err != nil {
			return nil, err
		}
		b = append(append(b, `,"access":`...), access...)
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads what MarshalJSON wrote, as Decision.UnmarshalJSON does.
func (e *Explanation) UnmarshalJSON(b []byte) error {
	var w struct {
		Mode       Mode              `json:"mode"`
		Considered []SourceTrace     `json:"considered"`
		Changes    []WhatWouldChange `json:"would_change"`
		Access     *AccessTrace      `json:"access"`
	}
	var d Decision
	if err := json.Unmarshal(b, &d); err != nil {
		return err
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*e = Explanation{Decision: d, Considered: w.Considered, Combined: d.Rule, Mode: w.Mode,
		Allowances: d.Allowances, Caps: d.Caps, Changes: w.Changes, Access: w.Access}
	return nil
}

// appendJSON appends the legs in their fixed order.
func (l *Legs) appendJSON(b []byte) []byte {
	b = append(append(b, `{"role":"`...), l.Role...)
	b = append(append(b, `","plan":"`...), l.Plan...)
	b = append(append(b, `","seat":"`...), l.Seat...)
	b = append(append(b, `","limit":"`...), l.Limit...)
	b = append(append(b, `","condition":"`...), l.Condition...)
	return append(b, `"}`...)
}
