package main

import "fmt"

type roleCmd struct {
	List   roleListCmd   `cmd:"" help:"List the roles that a customer can assign: the catalogue's and its own."`
	Put    rolePutCmd    `cmd:"" help:"Make a role of the customer's own, or replace it."`
	Delete roleDeleteCmd `cmd:"" help:"Remove a role of the customer's own that nobody holds."`
}

// roleOf names one role of a customer's own.
type roleOf struct {
	Customer string `arg:"" help:"The customer's id."`
	Role     string `arg:"" help:"The role's key."`
}

func (r *roleOf) path() (string, error) { return within(r.Customer, "roles", "ROLE", r.Role) }

type roleListCmd struct {
	Customer string `arg:"" help:"The customer's id."`
}

func (c *roleListCmd) Run(a *app) error {
	path, err := within(c.Customer)
	if err != nil {
		return err
	}
	var shown error
	_, err = a.ask("GET", path+"/roles", nil, func(o object) {
		var rows [][]string
		for _, r := range o.list("data") {
			of, gives := "catalogue", r.text("gives")
			if r.bool("custom") {
				of = "customer"
			}
			if gives == "" {
				gives = "nothing"
			}
			if when := r.text("when"); when != "" {
				gives += " (when " + when + ")"
			}
			rows = append(rows, []string{r.text("key"), of, r.text("seats"), gives})
		}
		shown = a.table("no roles", []string{"ROLE", "OF", "SEATS", "GIVES"}, rows)
	})
	if err == nil {
		err = shown
	}
	return err
}

type rolePutCmd struct {
	roleOf
	Title      string   `help:"For people."`
	Permission []string `help:"A permission that it gives, or a pattern such as report.*." placeholder:"P,…"`
	Include    []string `help:"A role whose permissions it gives too." placeholder:"ROLE,…"`
	By         string   `help:"The member on whose behalf it is made, who cannot give what it does not hold." placeholder:"M"`
	Reason     string   `help:"Why; it is kept."`
}

func (c *rolePutCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	in := body("title", c.Title, "by", c.By, "reason", c.Reason)
	if len(c.Permission) > 0 {
		in["permissions"] = c.Permission
	}
	if len(c.Include) > 0 {
		in["includes"] = c.Include
	}
	_, err = a.ask("PUT", path, in, func(o object) {
		gives := o.text("gives")
		if gives == "" {
			gives = "nothing"
		}
		fmt.Fprintf(a.out, "%s gives %s\n", o.text("key"), gives)
	})
	return err
}

type roleDeleteCmd struct{ roleOf }

func (c *roleDeleteCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	return a.remove(path, map[string]any{"role": c.Role}, "removed: "+c.Customer+" has no role "+c.Role+" of its own")
}
