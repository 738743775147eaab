package main

import (
	"fmt"
	"strings"
)

type subscriptionCmd struct {
	List    subscriptionListCmd    `cmd:"" help:"List a customer's subscriptions, ended ones too."`
	Change  subscriptionChangeCmd  `cmd:"" help:"Change a subscription, now or later."`
	Cancel  subscriptionCancelCmd  `cmd:"" help:"Cancel a subscription, at the end of its period unless --when says otherwise."`
	Preview subscriptionPreviewCmd `cmd:"" help:"Show what a change would come to, feature by feature, and change nothing."`
}

type subscriptionListCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
}

func (c *subscriptionListCmd) Run(a *app) error {
	all, err := a.all(customerPath(c.Customer) + "/subscriptions")
	if err != nil || a.cli.JSON {
		return err
	}
	if len(all) == 0 {
		_, err = fmt.Fprintln(a.out, "no subscriptions")
	}
	for _, s := range all {
		a.showSubscription(s)
	}
	return err
}

// subscriptionOf names a subscription.
type subscriptionOf struct {
	Subscription string `arg:"" help:"Id of the subscription, sub_…, or of a customer that has only one."`
}

// path returns the path of the subscription.
func (s *subscriptionOf) path(a *app) (string, error) {
	if strings.HasPrefix(s.Subscription, "sub_") {
		id, err := segment(s.Subscription, "")
		return "/v1/subscriptions/" + id, err
	}
	cl, err := a.client()
	if err != nil {
		return "", err
	}
	all, err := a.pages(cl, customerPath(s.Subscription)+"/subscriptions", most)
	if err != nil {
		return "", err
	}
	all = running(all)
	if len(all) != 1 {
		var ids []string
		for _, o := range all {
			ids = append(ids, o.text("id")+" ("+o.text("plan")+")")
		}
		if ids == nil {
			return "", wrong("customer %q has no subscription that is not over; `usher subscribe` makes one", s.Subscription)
		}
		return "", wrong("customer %q has several subscriptions, give the id of one: %s", s.Subscription, strings.Join(ids, ", "))
	}
	return "/v1/subscriptions/" + all[0].text("id"), nil
}

// subscriptionChange is what a change names; what was left out stays.
type subscriptionChange struct {
	Plan        string   `help:"Plan of the same family, or a version such as pro@1 (default as it is)." placeholder:"PLAN"`
	Addon       []string `help:"Add-on and how many times; may be repeated, and replaces all others." placeholder:"ADDON=N"`
	NoAddons    bool     `help:"Take all add-ons away."`
	EndsAt      string   `help:"End, or none (default as it is)." placeholder:"T|none"`
	TrialEndsAt string   `help:"End of the trial, or none (default as it is)." placeholder:"T|none"`
	Status      string   `help:"Status: active, past_due, suspended or canceled (default as it is)." placeholder:"STATUS"`
	When        string   `help:"When plan, add-ons and status change (default ${default})." default:"now" placeholder:"T|now|period-end"`
}

func (c *subscriptionChange) body(a *app) (map[string]any, error) {
	if c.NoAddons && c.Addon != nil {
		return nil, wrong("give --addon or --no-addons, not both")
	}
	err := a.ahead().read(asked{"--ends-at", &c.EndsAt, "none"}, asked{"--trial-ends-at", &c.TrialEndsAt, "none"})
	if err != nil {
		return nil, err
	}
	when, err := a.whenOf(c.When)
	if err != nil {
		return nil, err
	}
	in := body("plan", c.Plan, "ends_at", c.EndsAt, "trial_ends_at", c.TrialEndsAt, "status", c.Status)
	for name, text := range map[string]string{"ends_at": c.EndsAt, "trial_ends_at": c.TrialEndsAt} {
		if text == "none" {
			in[name] = nil
		}
	}
	addons, err := quantities(c.Addon)
	if err != nil {
		return nil, err
	}
	if addons != nil {
		in["addons"] = addons
	}
	if c.NoAddons {
		in["addons"] = []any{}
	}
	if len(in) == 0 {
		return nil, wrong("say what to change: give --plan, --addon, --no-addons, --ends-at, --trial-ends-at or --status")
	}
	in["when"] = when
	return in, nil
}

// whenOf reads --when: now, period-end or a time, as the server names them.
func (a *app) whenOf(text string) (string, error) {
	if text == "period-end" || text == "period_end" {
		return "period_end", nil
	}
	err := a.ahead().read(asked{"--when", &text, "now"})
	return text, err
}

type subscriptionChangeCmd struct {
	subscriptionOf
	subscriptionChange
}

func (c *subscriptionChangeCmd) Run(a *app) error {
	in, err := c.body(a)
	if err != nil {
		return err
	}
	path, err := c.path(a)
	if err != nil {
		return err
	}
	_, err = a.ask("PATCH", path, in, a.showSubscription)
	return err
}

type subscriptionCancelCmd struct {
	subscriptionOf
	When string `help:"When it is canceled (default ${default})." default:"period-end" placeholder:"T|now|period-end"`
}

func (c *subscriptionCancelCmd) Run(a *app) error {
	when, err := a.whenOf(c.When)
	if err != nil {
		return err
	}
	path, err := c.path(a)
	if err != nil {
		return err
	}
	_, err = a.ask("PATCH", path, map[string]any{"status": "canceled", "when": when}, a.showSubscription)
	return err
}

type subscriptionPreviewCmd struct {
	subscriptionOf
	subscriptionChange
}

func (c *subscriptionPreviewCmd) Run(a *app) error {
	in, err := c.body(a)
	if err != nil {
		return err
	}
	path, err := c.path(a)
	if err != nil {
		return err
	}
	var shown error
	_, err = a.ask("POST", path+"/preview", in, func(o object) {
		fmt.Fprintf(a.out, "from %s\n", o.text("at"))
		var rows [][]string
		for _, f := range o.list("features") {
			if f.bool("changed") {
				rows = append(rows, []string{f.text("feature"), gist(f.object("before")), gist(f.object("after"))})
			}
		}
		shown = a.table("no feature changes", []string{"FEATURE", "BEFORE", "AFTER"}, rows)
	})
	if err == nil {
		err = shown
	}
	return err
}

// gist describes a decision in a few words.
func gist(d object) string {
	words := []string{"no: " + d.text("reason")}
	if d.bool("allowed") {
		words[0] = "yes: " + d.text("reason")
	}
	if v := d.text("value"); v != "" {
		words = append(words, v)
	}
	if limit := limitOf(d); limit != "" {
		words = append(words, "limit "+limit)
	}
	return strings.Join(words, ", ")
}

// limitOf returns the limit of a decision.
func limitOf(d object) string {
	if d.bool("unlimited") {
		return "unlimited"
	}
	return d.text("limit")
}
