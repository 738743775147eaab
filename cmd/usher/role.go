package main

import "fmt"

type roleCmd struct {
	List   roleListCmd   `cmd:"" help:"List the roles that a customer can assign: the catalogue's and its own."`
	Put    rolePutCmd    `cmd:"" help:"Create a role of the customer's own, or replace it."`
	Delete roleDeleteCmd `cmd:"" help:"Remove a role of the customer's own that no member or group holds."`
}

// roleOf names one role of a customer's own.
type roleOf struct {
	Customer string `arg:"" help:"Id of the customer."`
	Role     string `arg:"" help:"Key of the role."`
}

func (r *roleOf) path() (string, error) { return within(r.Customer, "roles", "ROLE", r.Role) }

type roleListCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
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
	Title      string   `help:"Name for people to read."`
	Permission []string `help:"Permission that the role gives, or a pattern such as report.*; may be repeated." placeholder:"P,…"`
	Include    []string `help:"Role whose permissions the role gives too; may be repeated." placeholder:"ROLE,…"`
	By         string   `help:"Member who creates the role, who must hold what the role gives." placeholder:"M"`
	Reason     string   `help:"Reason, which is recorded."`
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
