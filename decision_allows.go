package usher

import "math"

// Allows returns what a check of the same feature would answer for another amount,
// in smallest units, while the numbers of d hold: until d.ValidUntil, and as long as
// nothing is used or changed. It asks nobody. A negative amount counts as 0.
//
// An answer that no amount changes is returned as it is: of a switch or a config, of
// a feature that the customer is not entitled to, and of a member who may not. For a
// permission that is linked with several features, the numbers are those of one of
// them, so ask the server instead. What a take did is left out of the answer.
func (d Decision) Allows(amount int64) Decision {
	d.Taken, d.Consumed, d.Deductions, d.Replayed = false, 0, nil, false
	d.Reservation, d.Seat, d.Correction = nil, nil, nil
	d.Allowed, d.Reason, _ = d.Judge(max(amount, 0))
	if d.Legs != nil && d.Counted && d.Reason.aboutAmount() {
		legs := *d.Legs
		legs.Limit = LegPass
		if !d.Allowed {
			legs.Limit = LegFail
		}
		d.Legs = &legs
	}
	return d
}

// Judge compares an amount with the numbers of d, and returns what Allows answers.
// The server's own decisions end with it. would is the reason that denies, or would
// if the mode were enforce; "" if nothing does. amount must not be negative.
//
// Included amounts come first, then credits, then overage, then the overage of the
// credits (S15, S25). Each cap must let all of it through. The mode softens a refusal
// that is due to amounts, and never one that is due to a missing entitlement (S26).
func (d *Decision) Judge(amount int64) (allowed bool, reason, would Reason) {
	if !d.Counted || !d.Reason.aboutAmount() {
		if d.Allowed {
			return true, d.Reason, ""
		}
		return false, d.Reason, d.Reason
	}
	reason = d.covers(amount)
	for i := range d.Caps {
		if amount > d.Caps[i].Remaining {
			reason = CapReached
			break
		}
	}
	switch reason {
	case WithinLimit, ReasonOverage, ReasonUnlimited:
		return true, reason, ""
	}
	switch d.Mode {
	case Warn:
		return true, Warned, reason
	case Shadow:
		return true, Shadowed, reason
	}
	return false, reason, reason
}

// covers says what covers an amount, or why nothing does. It looks at no cap.
func (d *Decision) covers(amount int64) Reason {
	c := d.Credits
	refused := LimitReached
	switch {
	case c != nil:
		refused = InsufficientCredits
	case d.Kind == Seats:
		refused = SeatLimitReached
	}
	if amount > math.MaxInt64-addUp(d.Used, d.Reserved) { // the use could not be counted (S24)
		return refused
	}
	if d.Unlimited && c == nil {
		return ReasonUnlimited
	}
	if c != nil && c.Unlimited {
		if amount > (math.MaxInt64-c.Held)/c.Rate {
			return refused
		}
		return WithinLimit
	}
	if amount <= d.Remaining { // own allowances and, in whole units, the credits
		return WithinLimit
	}
	rest := amount - d.Remaining
	if d.OveragePermitted {
		rest -= min(rest, d.OverageLeft)
	}
	if rest > 0 && c != nil && c.OveragePermitted {
		// A unit may be paid partly from the last included credits and partly from the
		// overage, so what is left of both is added up before it is divided.
		rest -= min(rest, addUp(c.Remaining%c.Rate, c.OverageLeft)/c.Rate)
	}
	if rest > 0 {
		return refused
	}
	return ReasonOverage
}

// aboutAmount reports whether a reason says how an amount compares with the limits,
// so that another amount may have another answer.
func (r Reason) aboutAmount() bool {
	switch r {
	case WithinLimit, ReasonOverage, ReasonUnlimited, Warned, Shadowed, CapReached, InsufficientCredits, SeatLimitReached, LimitReached:
		return true
	}
	return false
}

// addUp returns x+y of two numbers that are not negative, at most math.MaxInt64.
func addUp(x, y int64) int64 {
	if x > math.MaxInt64-y {
		return math.MaxInt64
	}
	return x + y
}
