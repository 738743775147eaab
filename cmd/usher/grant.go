package main

import "fmt"

type grantCmd struct {
	Customer       string `arg:"" help:"Id of the customer."`
	Feature        string `arg:"" help:"Key of a metered feature or of credits."`
	Amount         string `arg:"" help:"Amount."`
	Reason         string `required:"" help:"Reason, which is recorded."`
	Kind           string `help:"Kind, one of ${enum} (default ${default})." default:"promotion" enum:"promotion,compensation,purchase"`
	Priority       *int   `help:"Priority from 0 to 255; lower is used first (default 100)."`
	EffectiveAt    string `help:"Start (default now)." placeholder:"T"`
	ExpiresAt      string `help:"End (default never)." placeholder:"T"`
	IdempotencyKey string `short:"k" help:"Idempotency key: the same key grants once." placeholder:"K"`
}

func (c *grantCmd) Run(a *app) error {
	in := body("feature", c.Feature, "amount", c.Amount, "kind", c.Kind, "effective_at", c.EffectiveAt, "expires_at", c.ExpiresAt,
		"reason", c.Reason, "key", c.IdempotencyKey)
	if c.Priority != nil {
		in["priority"] = *c.Priority
	}
	_, err := a.ask("POST", customerPath(c.Customer)+"/grants", in, func(o object) {
		fmt.Fprintf(a.out, "%s: %s of %s for %s\n", o.text("id"), o.text("amount"), c.Feature, c.Customer)
	})
	return err
}
