package main

import "fmt"

type subscribeCmd struct {
	Customer    string   `arg:"" help:"Id of the customer."`
	Plan        string   `arg:"" help:"Key of a plan, or a version such as pro@1, from which migrations do not move the subscription."`
	StartsAt    string   `help:"Start, which may be in the past (default now)." placeholder:"T"`
	EndsAt      string   `help:"End (default never)." placeholder:"T"`
	TrialEndsAt string   `help:"End of the trial, or none (default the plan's own trial)." placeholder:"T|none"`
	Anchor      string   `help:"Time from which the customer's windows are counted." placeholder:"T"`
	Addon       []string `help:"Add-on and how many times; may be repeated." placeholder:"ADDON=N"`
}

func (c *subscribeCmd) Run(a *app) error {
	err := a.ahead().read(asked{flag: "--starts-at", text: &c.StartsAt}, asked{flag: "--ends-at", text: &c.EndsAt},
		asked{flag: "--trial-ends-at", text: &c.TrialEndsAt, word: "none"}, asked{flag: "--anchor", text: &c.Anchor})
	if err != nil {
		return err
	}
	in := body("plan", c.Plan, "starts_at", c.StartsAt, "ends_at", c.EndsAt, "trial_ends_at", c.TrialEndsAt, "anchor", c.Anchor)
	if c.TrialEndsAt == "none" {
		in["trial_ends_at"] = nil
	}
	addons, err := quantities(c.Addon)
	if err != nil {
		return err
	}
	if addons != nil {
		in["addons"] = addons
	}
	_, err = a.ask("POST", customerPath(c.Customer)+"/subscriptions", in, a.showSubscription)
	return err
}

func (a *app) showSubscription(o object) {
	fmt.Fprintf(a.out, "%s: %s, %s\n", o.text("id"), o.text("plan"), o.text("status"))
	addons := ""
	for i, d := range o.list("addons") {
		if i > 0 {
			addons += ", "
		}
		addons += d.text("quantity") + " × " + d.text("addon")
	}
	period := ""
	if p := o.object("current_period"); p != nil {
		period = p.text("start") + " to " + p.text("end")
	}
	fields(a.out, "  ", "add-ons", addons, "starts", o.text("starts_at"), "trial ends", o.text("trial_ends_at"),
		"ends", o.text("ends_at"), "period", period)
	for _, s := range o.list("scheduled") {
		fields(a.out, "  ", "from "+s.text("at"), s.text("plan")+" "+s.text("status"))
	}
}
