package main

import "fmt"

type correctCmd struct {
	Ref            string `arg:"" help:"Idempotency key of the consume or reservation, or with --source the id of an event."`
	Amount         string `required:"" help:"Amount to give back." placeholder:"N"`
	Reason         string `required:"" help:"Reason, which is recorded." placeholder:"TEXT"`
	Source         string `help:"Source of the event whose id is REF." placeholder:"S"`
	Feature        string `help:"Feature to correct, for an event that counted for several." placeholder:"F"`
	IdempotencyKey string `short:"k" help:"Idempotency key: the same key gives back once (default a new one)." placeholder:"K"`
}

func (c *correctCmd) Run(a *app) error {
	if c.Ref == "" {
		return wrong("REF must not be empty: give the idempotency key of the consume or reservation, or with --source the id of an event")
	}
	key := keyOr(c.IdempotencyKey)
	in := body("ref", c.Ref, "feature", c.Feature, "amount", c.Amount, "reason", c.Reason, "key", key)
	if c.Source != "" {
		in["ref"] = map[string]any{"source": c.Source, "id": c.Ref}
	}
	_, err := a.ask("POST", "/v1/corrections", in, func(d object) {
		o := d.object("correction")
		fmt.Fprintf(a.out, "gave back %s of %s; %s of it stay used\n", o.text("amount"), d.text("feature"), o.text("left"))
		for _, u := range o.list("returned") {
			fmt.Fprintf(a.out, "  returned %s to %s\n", share(u), u.text("allowance"))
		}
		a.showNumbers(d)
	})
	a.sayKey(err, key, "gives back")
	return err
}
