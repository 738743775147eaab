package main

import (
	"encoding/json"
	"fmt"
)

type overrideCmd struct {
	Set    overrideSetCmd    `cmd:"" default:"withargs" help:"Make an exception for one customer; the word set may be left out."`
	List   overrideListCmd   `cmd:"" help:"List a customer's overrides, ended ones too."`
	Extend overrideExtendCmd `cmd:"" help:"Change the end or the reason of an override."`
	Delete overrideDeleteCmd `cmd:"" help:"End an override now."`
}

type overrideSetCmd struct {
	Customer  string `arg:"" help:"Id of the customer."`
	Feature   string `arg:"" help:"Key of the feature."`
	Value     string `arg:"" help:"Value as in a plan, as JSON: true, 90, unlimited, {\"limit\":5}, or {\"add\":500} or {\"deny\":true}."`
	Reason    string `required:"" help:"Reason, which is recorded."`
	ExpiresAt string `required:"" help:"End, or never." placeholder:"T|period-end|never"`
}

func (c *overrideSetCmd) Run(a *app) error {
	if err := a.until(c.Customer).read(asked{"--expires-at", &c.ExpiresAt, "never"}); err != nil {
		return err
	}
	in := body("feature", c.Feature, "value", jsonOrText(c.Value), "reason", c.Reason)
	ends(in, c.ExpiresAt)
	_, err := a.ask("POST", customerPath(c.Customer)+"/overrides", in, func(o object) {
		fmt.Fprintf(a.out, "%s: %s is %s for %s\n", o.text("id"), c.Feature, o.text("value"), c.Customer)
	})
	return err
}

// ends adds an end, perhaps never, to a request; "" adds nothing.
func ends(in map[string]any, at string) {
	switch at {
	case "":
	case "never":
		in["expires"] = "never"
	default:
		in["expires_at"] = at
	}
}

// jsonOrText reads a value as JSON, or as text if it is not JSON.
func jsonOrText(s string) any {
	if json.Valid([]byte(s)) {
		return json.RawMessage(s)
	}
	return s
}

type overrideListCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
}

func (c *overrideListCmd) Run(a *app) error {
	all, err := a.all(customerPath(c.Customer) + "/overrides")
	if err != nil || a.cli.JSON {
		return err
	}
	return a.overrides("no overrides", all)
}

func (a *app) overrides(none string, all []object) error {
	var rows [][]string
	for _, o := range all {
		rows = append(rows, []string{o.text("id"), o.text("feature"), o.text("value"), endOf(o), o.text("reason"), o.text("created_by")})
	}
	return a.table(none, []string{"OVERRIDE", "FEATURE", "VALUE", "UNTIL", "REASON", "BY"}, rows)
}

// endOf returns when an override or a grant ends, or never.
func endOf(o object) string {
	if o.text("voided_at") != "" {
		return "voided " + o.text("voided_at")
	}
	if end := o.text("expires_at"); end != "" {
		return end
	}
	return "never"
}

// extension is what extend changes.
type extension struct {
	ExpiresAt string `help:"New end, or never (default as it is)." placeholder:"T|never"`
	Reason    string `help:"New reason, which is recorded (default as it is)." placeholder:"TEXT"`
}

func (x *extension) body(a *app) (map[string]any, error) {
	if x.ExpiresAt == "" && x.Reason == "" {
		return nil, wrong("give --expires-at, --reason or both")
	}
	if err := a.ahead().read(asked{"--expires-at", &x.ExpiresAt, "never"}); err != nil {
		return nil, err
	}
	in := body("reason", x.Reason)
	ends(in, x.ExpiresAt)
	return in, nil
}

type overrideExtendCmd struct {
	Override string `arg:"" help:"Id of the override, ovr_…, as override list shows it."`
	extension
}

func (c *overrideExtendCmd) Run(a *app) error {
	path, err := segment(c.Override, "OVERRIDE must not be empty: give the id that override list shows")
	if err != nil {
		return err
	}
	in, err := c.body(a)
	if err != nil {
		return err
	}
	_, err = a.ask("PATCH", "/v1/overrides/"+path, in, func(o object) {
		fmt.Fprintf(a.out, "%s: %s is %s for %s until %s\n", o.text("id"), o.text("feature"), o.text("value"), o.text("customer"), endOf(o))
	})
	return err
}

type overrideDeleteCmd struct {
	Override string `arg:"" help:"Id of the override, ovr_…, as override list shows it."`
}

func (c *overrideDeleteCmd) Run(a *app) error {
	path, err := segment(c.Override, "OVERRIDE must not be empty: give the id that override list shows")
	if err != nil {
		return err
	}
	return a.remove("/v1/overrides/"+path, map[string]any{"override": c.Override}, "ended: "+c.Override)
}
