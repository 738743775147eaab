package main

import (
	"encoding/json"
	"fmt"
)

type overrideCmd struct {
	Customer  string `arg:"" help:"Id of the customer."`
	Feature   string `arg:"" help:"Key of the feature."`
	Value     string `arg:"" help:"Value as in a plan, as JSON: true, 90, unlimited, {\"limit\":5}, or {\"add\":500} or {\"deny\":true}."`
	Reason    string `required:"" help:"Reason, which is recorded."`
	ExpiresAt string `required:"" help:"End, or never." placeholder:"T|never"`
}

func (c *overrideCmd) Run(a *app) error {
	in := body("feature", c.Feature, "value", jsonOrText(c.Value), "reason", c.Reason, "expires_at", c.ExpiresAt)
	if c.ExpiresAt == "never" {
		delete(in, "expires_at")
		in["expires"] = "never"
	}
	_, err := a.ask("POST", customerPath(c.Customer)+"/overrides", in, func(o object) {
		fmt.Fprintf(a.out, "%s: %s is %s for %s\n", o.text("id"), c.Feature, o.text("value"), c.Customer)
	})
	return err
}

// jsonOrText reads a value as JSON, or as text if it is not JSON.
func jsonOrText(s string) any {
	if json.Valid([]byte(s)) {
		return json.RawMessage(s)
	}
	return s
}
