package main

import (
	"fmt"
	"net/url"
	"strings"
)

type customerCmd struct {
	Put  customerPutCmd  `cmd:"" help:"Create a customer, or change what the flags name."`
	Get  customerGetCmd  `cmd:"" help:"Show a customer and what it holds."`
	List customerListCmd `cmd:"" help:"List customers."`
}

func customerPath(id string) string { return "/v1/customers/" + url.PathEscape(id) }

type customerPutCmd struct {
	ID       string            `arg:"" help:"Id of the customer, which you choose."`
	Name     *string           `help:"Name for people to read; an empty one removes it."`
	Timezone string            `help:"IANA time zone, such as Europe/Berlin (default the catalogue's)."`
	Anchor   string            `help:"Time from which its windows are counted (default as it was)." placeholder:"T"`
	Metadata map[string]string `help:"Key and value of your own; may be repeated, and replaces all existing ones." placeholder:"K=V" mapsep:","`
}

func (c *customerPutCmd) Run(a *app) error {
	in := body("timezone", c.Timezone, "anchor", c.Anchor)
	set(in, "name", c.Name)
	if len(c.Metadata) > 0 {
		in["metadata"] = c.Metadata
	}
	return a.put(customerPath(c.ID), in, a.showCustomer, "name", "timezone", "metadata")
}

func (a *app) showCustomer(o object) {
	fmt.Fprintln(a.out, a.bold(o.text("id")))
	pairs := []string{"name", o.text("name"), "timezone", o.text("timezone"), "anchor", o.text("anchor"), "created", o.text("created_at")}
	if m := o.object("metadata"); len(m) > 0 {
		pairs = append(pairs, "metadata", words(map[string]any(m)))
	}
	fields(a.out, "  ", pairs...)
}

type customerGetCmd struct {
	ID string `arg:"" help:"Id of the customer."`
}

func (c *customerGetCmd) Run(a *app) error {
	if _, err := a.ask("GET", customerPath(c.ID), nil, a.showCustomer); err != nil || a.cli.JSON {
		return err
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	_, subs, err := cl.call(a, "GET", customerPath(c.ID)+"/subscriptions", nil)
	if err != nil {
		return err
	}
	for _, s := range subs.list("data") {
		a.showSubscription(s)
	}
	_, all, err := cl.call(a, "GET", customerPath(c.ID)+"/entitlements", nil)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, d := range all.list("data") {
		yes := a.red("no")
		if d.bool("allowed") {
			yes = a.green("yes")
		}
		limit := d.text("limit")
		if d.bool("unlimited") {
			limit = "unlimited"
		}
		rows = append(rows, []string{d.text("feature"), d.text("reason"), d.text("value"), limit, d.text("used"), d.text("remaining"), yes})
	}
	return a.table("no features", []string{"FEATURE", "REASON", "VALUE", "LIMIT", "USED", "REMAIN", "ALLOWED"}, rows)
}

type customerListCmd struct{}

func (c *customerListCmd) Run(a *app) error {
	all, err := a.all("/v1/customers")
	if err != nil || a.cli.JSON {
		return err
	}
	var rows [][]string
	for _, o := range all {
		rows = append(rows, []string{o.text("id"), o.text("name"), o.text("timezone"), o.text("created_at")})
	}
	return a.table("no customers", []string{"ID", "NAME", "TIMEZONE", "CREATED"}, rows)
}

// quantities reads "api-pack=2" and "eu".
func quantities(all []string) ([]map[string]any, error) {
	var out []map[string]any
	for _, s := range all {
		key, n, given := strings.Cut(s, "=")
		q := 1
		if given {
			if _, err := fmt.Sscanf(n, "%d", &q); err != nil || q < 1 || fmt.Sprint(q) != n {
				return nil, wrong("--addon must be a key and a number such as api-pack=2, got %q", s)
			}
		}
		out = append(out, map[string]any{"addon": key, "quantity": q})
	}
	return out, nil
}
