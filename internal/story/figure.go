package story

import (
	"cmp"
	"encoding/json"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// Figure returns one value of a decision as a story writes it; "-" means absent.
func Figure(d *usher.Decision, name string) string {
	q := func(n int64) string { return usher.FormatQuantity(n, d.Precision) }
	window := func(w usher.Window) string {
		side := func(t time.Time) string {
			if t.IsZero() {
				return "-"
			}
			return t.UTC().Format(time.RFC3339Nano)
		}
		return side(w.Start) + "/" + side(w.End)
	}
	counted := func(n int64) string {
		if !d.Counted {
			return "-"
		}
		return q(n)
	}
	switch name {
	case "limit", "remaining":
		if d.Unlimited {
			return "-"
		}
		if name == "limit" {
			return counted(d.Limit)
		}
		return counted(d.Remaining)
	case "used":
		return counted(d.Used)
	case "overage":
		return counted(d.Overage)
	case "excess":
		return counted(d.Excess)
	case "reserved":
		return counted(d.Reserved)
	case "consumed":
		return q(d.Consumed)
	case "unlimited":
		if d.Unlimited {
			return ""
		}
		return "limited"
	case "window":
		if d.Window == nil {
			return "-"
		}
		return window(*d.Window)
	case "plan":
		return cmp.Or(d.Plan.String(), "-")
	case "rule":
		return cmp.Or(string(d.Rule), "-")
	case "sources":
		return cmp.Or(strings.Join(d.Sources, ","), "-")
	case "deductions":
		return deductions(d, d.Deductions)
	case "state", "amount", "settled", "late":
		return reservation(d, name)
	case "seat":
		if d.Seat == nil {
			return "-"
		}
		return SeatWord(d.Seat)
	case "returned", "left":
		if d.Correction == nil {
			return "-"
		}
		if name == "left" {
			return q(d.Correction.Left)
		}
		return deductions(d, d.Correction.Returned)
	case "value":
		var fields struct {
			Value json.RawMessage `json:"value"`
		}
		text, _ := json.Marshal(d)
		json.Unmarshal(text, &fields)
		return cmp.Or(string(fields.Value), "-")
	case "rows":
		var ids []string
		for _, a := range d.Allowances {
			ids = append(ids, a.ID)
		}
		return cmp.Or(strings.Join(ids, ","), "-")
	}
	head, what, _ := strings.Cut(name, "].")
	if id, ok := strings.CutPrefix(head, "row["); ok {
		for _, a := range d.Allowances {
			if a.ID == id {
				switch what {
				case "limit":
					return q(a.Limit)
				case "used":
					return q(a.Used)
				case "reserved":
					return q(a.Reserved)
				case "remaining":
					return q(a.Remaining)
				case "overage":
					return q(a.Overage)
				case "excess":
					return q(a.Excess)
				case "window":
					return window(a.Window)
				}
			}
		}
		return "-"
	}
	if id, ok := strings.CutPrefix(head, "cap["); ok {
		for _, c := range d.Caps {
			if c.ID == id || c.ID+" "+c.Per.String() == id {
				switch what {
				case "limit":
					return q(c.Limit)
				case "used":
					return q(c.Used)
				case "remaining":
					return q(c.Remaining)
				case "window":
					return window(c.Window)
				}
			}
		}
		return "-"
	}
	return "unknown figure"
}

func deductions(d *usher.Decision, list []usher.Deduction) string {
	var parts []string
	for _, x := range list {
		precision := d.Precision
		if x.Feature != "" {
			precision = x.Precision
		}
		parts = append(parts, x.Allowance+":"+usher.FormatQuantity(x.Amount, precision))
	}
	return cmp.Or(strings.Join(parts, ","), "-")
}

func reservation(d *usher.Decision, name string) string {
	r := d.Reservation
	switch {
	case r == nil:
		return "-"
	case name == "state":
		return string(r.State)
	case name == "amount":
		return usher.FormatQuantity(r.Amount, d.Precision)
	case name == "settled":
		return usher.FormatQuantity(r.Settled, d.Precision)
	case r.Late:
		return ""
	}
	return "in time"
}

// SeatWord returns a seat as a story writes it: "ann", "bob:pending", "cat:excess".
func SeatWord(s *usher.Seat) string {
	word := s.Holder
	if s.State == usher.SeatPending {
		word += ":pending"
	}
	if s.Excess {
		word += ":excess"
	}
	return word
}
