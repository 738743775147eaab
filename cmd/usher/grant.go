package main

import "fmt"

type grantCmd struct {
	Customer       string `arg:"" help:"The customer's id."`
	Feature        string `arg:"" help:"A metered feature, or credits."`
	Amount         string `arg:"" help:"How much."`
	Reason         string `required:"" help:"Why; it is kept."`
	Kind           string `help:"promotion, compensation or purchase." default:"promotion" enum:"promotion,compensation,purchase"`
	Priority       *int   `help:"0 to 255; lower burns first; 100 where nothing is said."`
	EffectiveAt    string `help:"Now where nothing is said." placeholder:"T"`
	ExpiresAt      string `help:"Never where nothing is said." placeholder:"T"`
	IdempotencyKey string `short:"k" help:"Given twice under one key, it is given once." placeholder:"K"`
}

func (c *grantCmd) Run(a *app) error {
	in := body("feature", c.Feature, "amount", c.Amount, "kind", c.Kind, "effective_at", c.EffectiveAt, "expires_at", c.ExpiresAt, "reason", c.Reason, "key", c.IdempotencyKey)
	if c.Priority != nil {
		in["priority"] = *c.Priority
	}
	_, err := a.ask("POST", customerPath(c.Customer)+"/grants", in, func(o object) {
		fmt.Fprintf(a.out, "%s: %s of %s for %s\n", o.text("id"), o.text("amount"), c.Feature, c.Customer)
	})
	return err
}
