package main

import (
	"fmt"
	"strings"
)

type checkCmd struct {
	Customer string `arg:"" help:"The customer's id."`
	Feature  string `arg:"" help:"The feature's key."`
	Amount   string `help:"How much; 1 where nothing is said." placeholder:"N"`
	At       string `help:"The instant to answer for, such as 2026-03-31T00:00:00Z; now where nothing is said." placeholder:"T"`
	Member   string `help:"Who of the customer asks."`
}

func (c *checkCmd) body() map[string]any {
	return body("customer", c.Customer, "feature", c.Feature, "amount", c.Amount, "at", c.At, "member", c.Member)
}

func (c *checkCmd) Run(a *app) error {
	d, err := a.ask("POST", "/v1/check", c.body(), a.showDecision)
	return verdict(d, err)
}

type explainCmd struct{ checkCmd }

func (c *explainCmd) Run(a *app) error {
	d, err := a.ask("POST", "/v1/explain", c.body(), func(d object) {
		a.showDecision(d)
		fmt.Fprintln(a.out, "because")
		for _, s := range d.list("considered") {
			used := "not used"
			if s.bool("used") {
				used = "used"
			}
			line := fmt.Sprintf("  %s: %s (%s", s.text("id"), s.text("gives"), used)
			if why := s.text("why"); why != "" {
				line += ": " + why
			}
			fmt.Fprintln(a.out, line+")")
		}
		if len(d.list("considered")) == 0 {
			fmt.Fprintln(a.out, "  nothing gives this feature to this customer")
		}
		if changes := d.list("would_change"); len(changes) > 0 {
			fmt.Fprintln(a.out, "what would change it")
			for _, w := range changes {
				line := "  " + w.text("what")
				if at := w.text("at"); at != "" {
					line += " (" + at + ")"
				}
				fmt.Fprintln(a.out, line)
			}
		}
	})
	return verdict(d, err)
}

type consumeCmd struct {
	Customer       string `arg:"" help:"The customer's id."`
	Feature        string `arg:"" help:"The feature's key."`
	Amount         string `help:"How much; 1 where nothing is said." placeholder:"N"`
	IdempotencyKey string `short:"k" env:"-" help:"One effect and one answer per key; a new one where nothing is said." placeholder:"K"`
}

func (c *consumeCmd) Run(a *app) error {
	key, err := keyOr(c.IdempotencyKey)
	if err != nil {
		return err
	}
	d, err := a.ask("POST", "/v1/consume", body("customer", c.Customer, "feature", c.Feature, "amount", c.Amount, "key", key), a.showDecision)
	a.sayKey(err, key, "takes")
	return verdict(d, err)
}

// verdict is the exit code of a decision.
func verdict(d object, err error) error {
	if err == nil && !d.bool("allowed") {
		return errNo
	}
	return err
}

// showDecision says yes or no, why, and the numbers.
func (a *app) showDecision(d object) {
	line := a.red("no")
	if d.bool("allowed") {
		line = a.green("yes")
	}
	line += ": " + d.text("reason")
	if v, ok := d["value"]; ok {
		line += ", " + words(v)
	}
	if n := d.text("remaining"); n != "" {
		line += ", " + n
		if limit := d.text("limit"); notZero(limit) != "" || notZero(n) == "" { // credits can remain where no limit is
			line += " of " + limit
		}
		line += " remain"
	}
	if d.bool("degraded") {
		line += " (degraded: the server could not decide)"
	}
	fmt.Fprintln(a.out, line)
	a.showNumbers(d)
}

// showNumbers says what a decision counts.
func (a *app) showNumbers(d object) {
	limit := d.text("limit")
	if d.bool("unlimited") {
		limit = "unlimited"
	}
	replayed := ""
	if d.bool("replayed") {
		replayed = "a stored answer: this came before"
	}
	reservation, holds, seat := "", "", ""
	if r := d.object("reservation"); r != nil && r.text("state") == "" { // it is open
		reservation, holds = r.text("id"), r.text("amount")+" until "+r.text("expires_at")
	}
	if s := d.object("seat"); s != nil {
		seat = s.text("holder") + ", " + s.text("state") + " since " + s.text("since")
		if end := s.text("expires_at"); end != "" {
			seat += " until " + end
		}
	}
	fields(a.out, "  ", "plan", d.text("plan"), "from", d.text("sources"), "limit", limit, "used", d.text("used"), "reserved", notZero(d.text("reserved")),
		"overage", notZero(d.text("overage")), "excess", notZero(d.text("excess")), "window", d.window(), "consumed", d.text("consumed"), "replayed", replayed,
		"reservation", reservation, "holds", holds, "seat", seat)
	for _, u := range d.list("allowances") {
		fmt.Fprintf(a.out, "  allowance %s: %s\n", u.text("allowance"), numbers(u))
	}
	for _, u := range d.list("caps") {
		fmt.Fprintf(a.out, "  cap %s: %s\n", u.text("cap"), numbers(u))
	}
	for _, u := range d.list("deductions") {
		fmt.Fprintf(a.out, "  took %s of %s\n", share(u), u.text("allowance"))
	}
}

// share is how much a deduction is, and of which pool where it is not of the
// feature itself.
func share(u object) string {
	if pool := u.text("feature"); pool != "" {
		return u.text("amount") + " " + pool
	}
	return u.text("amount")
}

func notZero(s string) string {
	if strings.Trim(s, "0.") == "" {
		return ""
	}
	return s
}

func numbers(u object) string {
	s := u.text("used") + " used"
	if u.bool("unlimited") {
		s += ", unlimited"
	} else {
		s += " of " + u.text("limit")
	}
	if w := u.window(); w != "" {
		s += ", " + w
	}
	return s
}
