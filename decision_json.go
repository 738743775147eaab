package usher

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// AppendJSON appends the decision as the API shows it. It allocates only if b has
// too little capacity, because every check goes through it. A quantity is a
// number if Precision is 0, otherwise a decimal string. Without Counted there are
// no quantities, and with Unlimited no limit and remaining.
func (d *Decision) AppendJSON(b []byte) []byte {
	return append(d.appendOpen(b, d.Sources != nil), '}')
}

// MarshalJSON writes what AppendJSON appends.
func (d Decision) MarshalJSON() ([]byte, error) { return d.AppendJSON(make([]byte, 0, 512)), nil }

// appendOpen appends all but the closing brace, so that the caller can add
// members.
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
	if d.Title != "" {
		b = appendString(append(b, `,"title":`...), d.Title)
	}
	if d.Unit != "" {
		b = appendString(append(b, `,"unit":`...), d.Unit)
	}
	if d.Counted || d.Precision != 0 {
		b = strconv.AppendInt(append(b, `,"precision":`...), int64(d.Precision), 10)
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
	if d.OveragePermitted {
		b = appendOverageLeft(b, d.OverageLeft, d.Precision)
	}
	if d.Window != nil {
		b = d.Window.appendMember(b)
	}
	if d.Credits != nil {
		b = d.Credits.appendJSON(append(b, `,"credits":`...))
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
	if d.Mode != "" {
		b = appendString(append(b, `,"mode":`...), string(d.Mode))
	}
	if d.Fail != "" {
		b = appendString(append(b, `,"fail":`...), string(d.Fail))
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
	if !d.ValidUntil.IsZero() {
		b = appendTime(append(b, `,"valid_until":`...), d.ValidUntil)
	}
	return strconv.AppendInt(append(b, `,"revision":`...), d.Revision, 10)
}

func (c *CreditsUse) appendJSON(b []byte) []byte {
	b = appendString(append(b, `{"feature":`...), c.Feature)
	b = appendString(append(b, `,"per_unit":`...), string(c.PerUnit))
	if c.Precision != 0 {
		b = strconv.AppendInt(append(b, `,"precision":`...), int64(c.Precision), 10)
	}
	b = AppendQuantity(append(b, `,"held":`...), c.Held, c.Precision)
	if c.Unlimited {
		b = append(b, `,"unlimited":true`...)
	} else {
		b = AppendQuantity(append(b, `,"remaining":`...), c.Remaining, c.Precision)
	}
	if c.OveragePermitted {
		b = appendOverageLeft(b, c.OverageLeft, c.Precision)
	}
	return append(b, '}')
}

func appendOverageLeft(b []byte, n int64, precision int) []byte {
	b = append(b, `,"overage_left":`...)
	if n == MaxQuantity {
		return append(b, `"unlimited"`...)
	}
	return AppendQuantity(b, n, precision)
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
	b = appendPeriod(append(b, `,"per":`...), c.Per)
	if c.Sliding {
		b = append(b, `,"sliding":true`...)
	}
	b = AppendQuantity(append(b, `,"limit":`...), c.Limit, precision)
	b = AppendQuantity(append(b, `,"used":`...), c.Used, precision)
	b = AppendQuantity(append(b, `,"remaining":`...), c.Remaining, precision)
	return append(c.Window.appendMember(b), '}')
}

func appendPeriod(b []byte, p Period) []byte {
	if p.Every == 1 {
		return appendString(b, string(p.Unit))
	}
	b = strconv.AppendInt(append(b, `{"every":`...), int64(p.Every), 10)
	return append(appendString(append(b, `,"unit":`...), string(p.Unit)), '}')
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

// appendMember appends `,"window":{…}`. A bound that is zero is left out.
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

// appendJSON appends the legs in their fixed order.
func (l *Legs) appendJSON(b []byte) []byte {
	b = append(append(b, `{"role":"`...), l.Role...)
	b = append(append(b, `","plan":"`...), l.Plan...)
	b = append(append(b, `","seat":"`...), l.Seat...)
	b = append(append(b, `","limit":"`...), l.Limit...)
	b = append(append(b, `","condition":"`...), l.Condition...)
	return append(b, `"}`...)
}
