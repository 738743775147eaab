package main

import (
	"fmt"
	"strings"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
)

type checkCmd struct {
	Customer     string   `arg:"" help:"Id of the customer."`
	Feature      string   `arg:"" optional:"" help:"Key of the feature; optional with --permission."`
	Amount       string   `help:"Amount (default 1)." placeholder:"N"`
	At           string   `help:"Time to answer for, such as 2026-03-31 (default now)." placeholder:"T"`
	Member       string   `help:"Member who asks." placeholder:"M"`
	Permission   string   `help:"Permission that the member needs; the plan must give the features that it is linked with." placeholder:"P"`
	Resource     string   `xor:"resource" help:"Resource that the member acts on; its id begins after the first slash." placeholder:"TYPE/ID"`
	ResourceType string   `xor:"resource" and:"resource" help:"Type of the resource, with --resource-id." placeholder:"T"`
	ResourceID   string   `name:"resource-id" and:"resource" help:"Id of the resource, with --resource-type." placeholder:"ID"`
	Property     []string `sep:"none" help:"Property of the resource for conditions, JSON or text; overrides the registered one; may be repeated." placeholder:"K=V"`
	Context      []string `sep:"none" help:"Value that conditions read as context.K; may be repeated." placeholder:"K=V"`
}

func (c *checkCmd) body(a *app) (map[string]any, error) {
	if err := a.ahead().read(asked{flag: "--at", text: &c.At}); err != nil {
		return nil, err
	}
	in := body("customer", c.Customer, "feature", c.Feature, "amount", c.Amount, "at", c.At, "member", c.Member, "permission", c.Permission)
	switch {
	case c.Feature == "" && c.Permission == "":
		return nil, wrong("give FEATURE, or --member and --permission")
	case c.Permission != "" && c.Member == "":
		return nil, wrong("--permission needs --member")
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
			return nil, wrong("--property needs --resource, or --resource-type and --resource-id")
		}
		r["properties"] = said
	}
	if said, err = properties("--context", c.Context); said != nil {
		in["context"] = said
	}
	return in, err
}

func (c *checkCmd) Run(a *app) error {
	in, err := c.body(a)
	if err != nil {
		return err
	}
	d, err := a.ask("POST", "/v1/check", in, a.showDecision)
	return verdict(d, err)
}

type explainCmd struct{ checkCmd }

func (c *explainCmd) Run(a *app) error {
	in, err := c.body(a)
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
			if end := s.text("until"); end != "" {
				used += ", until " + end
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
				if limit := w.text("limit"); limit != "" {
					line += ": the limit is then " + limit
				} else if w.bool("unlimited") {
					line += ": there is no limit then"
				}
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
	Customer       string `arg:"" help:"Id of the customer."`
	Feature        string `arg:"" help:"Key of the feature."`
	Amount         string `help:"Amount (default 1)." placeholder:"N"`
	IdempotencyKey string `short:"k" help:"Idempotency key: the same key takes once (default a new one)." placeholder:"K"`
}

func (c *consumeCmd) Run(a *app) error {
	key := keyOr(c.IdempotencyKey)
	d, err := a.ask("POST", "/v1/consume", body("customer", c.Customer, "feature", c.Feature, "amount", c.Amount, "key", key), a.showDecision)
	a.sayKey(err, key, "takes")
	return verdict(d, err)
}

// verdict turns a decision that says no into errNo, and so into an exit code.
func verdict(d object, err error) error {
	if err == nil && !d.bool("allowed") {
		return errNo
	}
	return err
}

// showDecision prints yes or no, the reason and the numbers.
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
		if limit := d.text("limit"); notZero(limit) != "" || notZero(n) == "" { // a feature that only draws credits has no limit of its own
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

// showLegs prints the answered parts of a decision about a member, and what a
// person can do about a no.
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

// outcomes describes what became of an assignment.
var outcomes = map[access.Outcome]string{
	access.Gives: "gives it", access.SeatMissing: "would with a seat", access.Untrue: "its condition is not true",
	access.NotYet: "begins later", access.Over: "is over", access.Elsewhere: "is for other resources",
	access.Irrelevant: "does not give it", access.NoSuchRole: "there is no such role",
}

// showAccess prints which of a member's roles were considered.
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

// showNumbers prints the numbers of a decision.
func (a *app) showNumbers(d object) {
	limit := d.text("limit")
	if d.bool("unlimited") {
		limit = "unlimited"
	}
	replayed := ""
	if d.bool("replayed") {
		replayed = "a stored answer: an earlier call had this key"
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
	mode, credits := d.text("mode"), ""
	if mode == string(usher.Enforce) {
		mode = "" // the usual one
	}
	if c := d.object("credits"); c != nil {
		left := c.text("remaining")
		if c.bool("unlimited") {
			left = "unlimited"
		}
		credits = left + " of " + c.text("feature") + " left, " + c.text("per_unit") + " for each unit"
	}
	fields(a.out, "  ", "plan", d.text("plan"), "from", d.text("sources"), "limit", limit, "used", d.text("used"),
		"reserved", notZero(d.text("reserved")), "overage", notZero(d.text("overage")), "excess", notZero(d.text("excess")),
		"overage left", d.text("overage_left"), "credits", credits, "mode", mode, "fail", d.text("fail"), "window", d.window(),
		"consumed", d.text("consumed"), "replayed", replayed,
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

// share returns the amount of a deduction as text. If it is of another feature's pool,
// the pool is named.
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
