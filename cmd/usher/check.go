package main

import (
	"fmt"
	"strings"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
)

type checkCmd struct {
	Customer     string   `arg:"" help:"The customer's id."`
	Feature      string   `arg:"" optional:"" help:"The feature's key. It may be left out where a permission is asked for."`
	Amount       string   `help:"How much; 1 where nothing is said." placeholder:"N"`
	At           string   `help:"The instant to answer for, such as 2026-03-31T00:00:00Z; now where nothing is said." placeholder:"T"`
	Member       string   `help:"Who of the customer asks." placeholder:"M"`
	Permission   string   `help:"What the member wants to do; the plan is asked for the features that it is linked with." placeholder:"P"`
	Resource     string   `xor:"resource" help:"What it is done to: a type and an id, which begins after the first slash." placeholder:"TYPE/ID"`
	ResourceType string   `xor:"resource" and:"resource" help:"The same in two flags: the type." placeholder:"T"`
	ResourceID   string   `name:"resource-id" and:"resource" help:"The same in two flags: the id." placeholder:"ID"`
	Property     []string `sep:"none" help:"What conditions read of the resource, JSON or text, over what is registered." placeholder:"K=V"`
	Context      []string `sep:"none" help:"What else conditions read, as context.K." placeholder:"K=V"`
}

func (c *checkCmd) body() (map[string]any, error) {
	in := body("customer", c.Customer, "feature", c.Feature, "amount", c.Amount, "at", c.At, "member", c.Member, "permission", c.Permission)
	switch {
	case c.Feature == "" && c.Permission == "":
		return nil, wrong("FEATURE must be given, or --member and --permission")
	case c.Permission != "" && c.Member == "":
		return nil, wrong("--member must be given with --permission: permissions are members'")
	}
	if err := about(in, c.Resource); err != nil {
		return nil, err
	}
	if c.ResourceType != "" {
		in["resource"] = map[string]any{"type": c.ResourceType, "id": c.ResourceID}
	}
	said, err := properties("--property", c.Property)
	if err != nil {
		return nil, err
	}
	if said != nil {
		r, ok := in["resource"].(map[string]any)
		if !ok {
			return nil, wrong("--property is about a resource: give --resource, or --resource-type and --resource-id")
		}
		r["properties"] = said
	}
	if said, err = properties("--context", c.Context); said != nil {
		in["context"] = said
	}
	return in, err
}

func (c *checkCmd) Run(a *app) error {
	in, err := c.body()
	if err != nil {
		return err
	}
	d, err := a.ask("POST", "/v1/check", in, a.showDecision)
	return verdict(d, err)
}

type explainCmd struct{ checkCmd }

func (c *explainCmd) Run(a *app) error {
	in, err := c.body()
	if err != nil {
		return err
	}
	d, err := a.ask("POST", "/v1/explain", in, func(d object) {
		a.showDecision(d)
		fmt.Fprintln(a.out, "because")
		a.showAccess(d)
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
		if len(d.list("considered")) == 0 && d.text("feature") != "" {
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
	IdempotencyKey string `short:"k" help:"One effect and one answer per key; a new one where nothing is said." placeholder:"K"`
}

func (c *consumeCmd) Run(a *app) error {
	key := keyOr(c.IdempotencyKey)
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
	a.showLegs(d)
}

// showLegs says how the parts of a decision about a member were answered, those
// that were asked, and what a person can do about a no.
func (a *app) showLegs(d object) {
	legs := d.object("legs")
	if legs == nil {
		return
	}
	reason := usher.Reason(d.text("reason"))
	var rows [][]string
	for _, leg := range []struct{ name, advice string }{
		{"role", "ask your admin for a role that gives it"},
		{"condition", "the role's condition is not true here and now"},
		{"plan", "upgrade to a plan that has it"},
		{"seat", "ask your admin for a seat"},
		{"limit", "wait, or upgrade for more"},
	} {
		advice := leg.advice
		switch {
		case leg.name == "role" && reason == usher.UnknownPermission:
			advice = "the catalogue has no such permission"
		case reason == usher.UnknownMember && (leg.name == "role" || leg.name == "seat"):
			advice = "ask your admin to add this member, or to make it active"
		case leg.name == "plan" && reason == usher.UnknownFeature:
			advice = "the catalogue has no such feature"
		case reason == usher.UnknownCustomer:
			advice = "there is no such customer"
		}
		switch usher.Leg(legs.text(leg.name)) {
		case usher.LegPass:
			rows = append(rows, []string{"  " + leg.name, "pass"})
		case usher.LegFail:
			rows = append(rows, []string{"  " + leg.name, "fail", advice})
		}
	}
	if len(rows) > 0 {
		a.table("", []string{"  LEG", "ANSWER"}, rows)
	}
}

// outcomes says in words what became of an assignment.
var outcomes = map[access.Outcome]string{
	access.Gives: "gives it", access.SeatMissing: "would with a seat", access.Untrue: "its condition is not true", access.NotYet: "begins later",
	access.Over: "is over", access.Elsewhere: "is for other resources", access.Irrelevant: "does not give it", access.NoSuchRole: "there is no such role",
}

// showAccess says which of a member's roles were looked at.
func (a *app) showAccess(d object) {
	t := d.object("access")
	if t == nil {
		return
	}
	for _, x := range t.list("assignments") {
		line := "  role " + x.text("role")
		if g := x.text("group"); g != "" {
			line += " of group " + g
		}
		_, where, _ := assignmentText(x)
		line += " " + where + ": " + outcomes[access.Outcome(x.text("outcome"))]
		for _, text := range x.strings("conditions") {
			line += ", when " + text
		}
		if seats := x.text("seats"); seats != "" {
			line += ", with a seat of " + seats
		}
		fmt.Fprintln(a.out, line)
	}
	if len(t.list("assignments")) == 0 {
		fmt.Fprintln(a.out, "  nobody has given this member a role")
	}
	if features := t.text("features"); features != "" {
		join := "all of "
		if t.bool("any") {
			join = "any of "
		}
		if !strings.Contains(features, ",") {
			join = ""
		}
		fmt.Fprintf(a.out, "  the plan is asked for %s%s\n", join, features)
	}
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
