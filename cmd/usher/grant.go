package main

import "fmt"

type grantCmd struct {
	Add    grantAddCmd    `cmd:"" default:"withargs" help:"Give a customer a one-off amount; the word add may be left out."`
	List   grantListCmd   `cmd:"" help:"List a customer's grants, ended ones too."`
	Extend grantExtendCmd `cmd:"" help:"Change the end or the reason of a grant."`
	Void   grantVoidCmd   `cmd:"" help:"Take away what is left of a grant; what was used of it stays used."`
}

type grantAddCmd struct {
	Customer       string `arg:"" help:"Id of the customer."`
	Feature        string `arg:"" help:"Key of a metered feature or of credits."`
	Amount         string `arg:"" help:"Amount."`
	Reason         string `required:"" help:"Reason, which is recorded."`
	Kind           string `help:"Kind, one of ${enum} (default ${default})." default:"promotion" enum:"promotion,compensation,purchase"`
	Priority       *int   `help:"Priority from 0 to 255; lower is used first (default 100)."`
	EffectiveAt    string `help:"Start (default now)." placeholder:"T"`
	ExpiresAt      string `help:"End (default never)." placeholder:"T|period-end|never"`
	IdempotencyKey string `short:"k" help:"Idempotency key: the same key grants once." placeholder:"K"`
}

func (c *grantAddCmd) Run(a *app) error {
	err := a.until(c.Customer).read(asked{flag: "--effective-at", text: &c.EffectiveAt}, asked{"--expires-at", &c.ExpiresAt, "never"})
	if err != nil {
		return err
	}
	if c.ExpiresAt == "never" { // the server's default
		c.ExpiresAt = ""
	}
	in := body("feature", c.Feature, "amount", c.Amount, "kind", c.Kind, "effective_at", c.EffectiveAt, "expires_at", c.ExpiresAt,
		"reason", c.Reason, "key", c.IdempotencyKey)
	if c.Priority != nil {
		in["priority"] = *c.Priority
	}
	_, err = a.ask("POST", customerPath(c.Customer)+"/grants", in, func(o object) {
		fmt.Fprintf(a.out, "%s: %s of %s for %s\n", o.text("id"), o.text("amount"), c.Feature, c.Customer)
	})
	return err
}

type grantListCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
}

func (c *grantListCmd) Run(a *app) error {
	all, err := a.all(customerPath(c.Customer) + "/grants")
	if err != nil || a.cli.JSON {
		return err
	}
	return a.grants("no grants", all)
}

func (a *app) grants(none string, all []object) error {
	var rows [][]string
	for _, o := range all {
		rows = append(rows, []string{o.text("id"), o.text("feature"), o.text("amount"), o.text("kind"), o.text("effective_at"), endOf(o),
			o.text("reason"), o.text("created_by")})
	}
	return a.table(none, []string{"GRANT", "FEATURE", "AMOUNT", "KIND", "FROM", "UNTIL", "REASON", "BY"}, rows)
}

type grantExtendCmd struct {
	Grant string `arg:"" help:"Id of the grant, gr_…, as grant list shows it."`
	extension
}

func (c *grantExtendCmd) Run(a *app) error {
	path, err := segment(c.Grant, "GRANT must not be empty: give the id that grant list shows")
	if err != nil {
		return err
	}
	in, err := c.body(a)
	if err != nil {
		return err
	}
	_, err = a.ask("PATCH", "/v1/grants/"+path, in, func(o object) {
		fmt.Fprintf(a.out, "%s: %s of %s for %s until %s\n", o.text("id"), o.text("amount"), o.text("feature"), o.text("customer"), endOf(o))
	})
	return err
}

type grantVoidCmd struct {
	Grant string `arg:"" help:"Id of the grant, gr_…, as grant list shows it."`
}

func (c *grantVoidCmd) Run(a *app) error {
	path, err := segment(c.Grant, "GRANT must not be empty: give the id that grant list shows")
	if err != nil {
		return err
	}
	return a.remove("/v1/grants/"+path, map[string]any{"grant": c.Grant}, "voided: "+c.Grant)
}
