package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

type customerCmd struct {
	Put    customerPutCmd    `cmd:"" help:"Create a customer, or change what the flags name."`
	Get    customerGetCmd    `cmd:"" help:"Show a customer, what it holds, its exceptions, and what it may use."`
	List   customerListCmd   `cmd:"" help:"List customers."`
	Delete customerDeleteCmd `cmd:"" help:"Delete a customer: all that it holds ends, its name and metadata are erased, its use stays."`
}

func customerPath(id string) string {
	s, _ := segment(id, "CUSTOMER must not be empty") // no empty argument gets here (refuseEmpty)
	return "/v1/customers/" + s
}

type customerPutCmd struct {
	ID       string            `arg:"" help:"Id of the customer, which you choose."`
	Name     *string           `help:"Name for people to read; an empty one removes it."`
	Timezone string            `help:"IANA time zone, such as Europe/Berlin (default the catalogue's)."`
	Anchor   string            `help:"Time from which its windows are counted (default as it was)." placeholder:"T"`
	Metadata map[string]string `help:"Key and value of your own; may be repeated, and replaces all existing ones." placeholder:"K=V" mapsep:","`
}

func (c *customerPutCmd) Run(a *app) error {
	if err := a.ahead().read(asked{flag: "--anchor", text: &c.Anchor}); err != nil {
		return err
	}
	in := body("timezone", c.Timezone, "anchor", c.Anchor)
	set(in, "name", c.Name)
	if len(c.Metadata) > 0 {
		in["metadata"] = c.Metadata
	}
	return a.put(customerPath(c.ID), in, a.showCustomer, "name", "timezone", "metadata")
}

func (a *app) showCustomer(o object) {
	o = o.in(o.zone())
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
	cl, err := a.client()
	if err != nil {
		return err
	}
	path := customerPath(c.ID)
	_, o, err := cl.call(a, "GET", path, nil)
	if err != nil {
		return err
	}
	held := map[string][]object{}
	for _, name := range []string{"subscriptions", "overrides", "grants"} {
		if held[name], err = a.pages(cl, path+"/"+name, most); err != nil {
			return err
		}
	}
	_, all, err := cl.call(a, "GET", path+"/entitlements", nil)
	if err != nil {
		return err
	}
	now, err := a.present()
	if err != nil {
		return err
	}
	overrides, grants := notOver(held["overrides"], now), notOver(held["grants"], now)
	if a.cli.JSON {
		o["subscriptions"], o["overrides"], o["grants"], o["entitlements"] = held["subscriptions"], overrides, grants, all["data"]
		return a.printJSON(o)
	}
	zone := o.zone()
	overrides, grants = allIn(overrides, zone), allIn(grants, zone)
	a.showCustomer(o)
	for _, s := range allIn(held["subscriptions"], zone) {
		a.showSubscription(s)
	}
	if len(overrides) > 0 {
		if err := a.overrides("", overrides); err != nil {
			return err
		}
	}
	if len(grants) > 0 {
		if err := a.grants("", grants); err != nil {
			return err
		}
	}
	return a.entitlements(all.list("data"))
}

// notOver returns the overrides or grants that have not ended and were not voided. It is
// never nil.
func notOver(all []object, now time.Time) []object {
	left := []object{}
	for _, o := range all {
		end, err := usher.ParseTime(o.text("expires_at"))
		if o.text("voided_at") == "" && (err != nil || end.After(now)) { // an error: there is no end
			left = append(left, o)
		}
	}
	return left
}

func (a *app) entitlements(all []object) error {
	var rows [][]string
	for _, d := range all {
		yes := a.red("no")
		if d.bool("allowed") {
			yes = a.green("yes")
		}
		rows = append(rows, []string{d.text("feature"), d.text("reason"), d.text("value"), limitOf(d), d.text("used"), d.text("remaining"), yes})
	}
	return a.table("no features", []string{"FEATURE", "REASON", "VALUE", "LIMIT", "USED", "REMAIN", "ALLOWED"}, rows)
}

type entitlementsCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
	Member   string `help:"Member of the customer who asks." placeholder:"M"`
}

func (c *entitlementsCmd) Run(a *app) error {
	path := customerPath(c.Customer) + "/entitlements"
	if c.Member != "" {
		path += "?" + url.Values{"member": {c.Member}}.Encode()
	}
	var shown error
	_, err := a.ask("GET", path, nil, func(o object) { shown = a.entitlements(o.list("data")) })
	if err == nil {
		err = shown
	}
	return err
}

type customerDeleteCmd struct {
	ID string `arg:"" help:"Id of the customer."`
}

func (c *customerDeleteCmd) Run(a *app) error {
	return a.remove(customerPath(c.ID), map[string]any{"customer": c.ID},
		"deleted: "+c.ID+"; its name and metadata are erased, its use stays recorded")
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
