package main

import "fmt"

type roleCmd struct {
	List   roleListCmd   `cmd:"" help:"List the roles that a customer can assign: the catalogue's and its own."`
	Put    rolePutCmd    `cmd:"" help:"Create a role of the customer's own, or change what the flags name."`
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
	Title      *string  `help:"Name for people to read; an empty one removes it."`
	Permission []string `help:"Permission that the role gives, or a pattern such as report.*; may be repeated, and replaces all existing ones." placeholder:"P,…"`
	Include    []string `help:"Role whose permissions the role gives too; may be repeated, and replaces all existing ones." placeholder:"ROLE,…"`
	By         string   `help:"Member on whose behalf the role is created or changed; it must hold everything that the role gives or gave." placeholder:"M"`
	Reason     string   `help:"Reason, which is recorded."`
}

func (c *rolePutCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	in := body("by", c.By, "reason", c.Reason)
	set(in, "title", c.Title)
	if len(c.Permission) > 0 {
		in["permissions"] = c.Permission
	}
	if len(c.Include) > 0 {
		in["includes"] = c.Include
	}
	get := func(cl *client) (object, error) {
		roles, err := within(c.Customer)
		if err != nil {
			return nil, err
		}
		_, all, err := cl.call(a, "GET", roles+"/roles", nil)
		for _, r := range all.list("data") {
			if r.bool("custom") && r.text("key") == c.Role {
				return r, err
			}
		}
		return nil, err
	}
	return a.putOver(path, get, in, func(o object) {
		gives := o.text("gives")
		if gives == "" {
			gives = "nothing"
		}
		fmt.Fprintf(a.out, "%s gives %s\n", o.text("key"), gives)
	}, "title", "permissions", "includes")
}

type roleDeleteCmd struct {
	roleOf
	byFlag
}

func (c *roleDeleteCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	return a.remove(path+c.query(), map[string]any{"role": c.Role}, "removed: "+c.Customer+" has no role "+c.Role+" of its own")
}
