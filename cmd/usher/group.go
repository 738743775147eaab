package main

import "fmt"

type groupCmd struct {
	Put    groupPutCmd    `cmd:"" help:"Create a group, or change what the flags name."`
	Get    groupGetCmd    `cmd:"" help:"Show a group and who is directly in it."`
	List   groupListCmd   `cmd:"" help:"List a customer's groups."`
	Delete groupDeleteCmd `cmd:"" help:"Remove a group and the roles that it holds; its members stay."`
	Add    groupAddCmd    `cmd:"" help:"Add a member or a group to a group."`
	Remove groupRemoveCmd `cmd:"" help:"Remove a member or a group from a group."`
}

// groupOf names one group.
type groupOf struct {
	Customer string `arg:"" help:"Id of the customer."`
	Group    string `arg:"" help:"Id of the group, which you choose."`
}

func (g *groupOf) path() (string, error) { return within(g.Customer, "groups", "GROUP", g.Group) }

type groupPutCmd struct {
	groupOf
	Title    *string  `help:"Name for people to read; an empty one removes it."`
	Member   []string `sep:"none" help:"Member of the group; may be repeated, and replaces all existing ones (default as it was)." placeholder:"M"`
	Inner    []string `sep:"none" help:"Group inside the group; may be repeated, and replaces all existing ones." placeholder:"G"`
	Property []string `sep:"none" help:"Property, JSON or text; may be repeated, and replaces all existing ones." placeholder:"K=V"`
	byFlag
}

func (c *groupPutCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	in := body("by", c.By)
	set(in, "title", c.Title)
	if c.Member != nil {
		in["members"] = c.Member
	}
	if c.Inner != nil {
		in["groups"] = c.Inner
	}
	if err := withProperties(in, c.Property); err != nil {
		return err
	}
	return a.put(path, in, a.showGroup, "title", "properties")
}

func (a *app) showGroup(o object) {
	fmt.Fprintln(a.out, a.bold(o.text("id")))
	fields(a.out, "  ", "title", o.text("title"), "source", o.text("source"), "in groups", o.text("groups"),
		"properties", propertiesText(o), "created", o.text("created_at"))
}

type groupGetCmd struct{ groupOf }

func (c *groupGetCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	if _, err := a.ask("GET", path, nil, a.showGroup); err != nil || a.cli.JSON {
		return err
	}
	all, err := a.all(path + "/members")
	if err != nil {
		return err
	}
	var rows [][]string
	for _, h := range all {
		kind := "member"
		if h.bool("group") {
			kind = "group"
		}
		rows = append(rows, []string{h.text("id"), kind})
	}
	return a.table("nobody is in it", []string{"IN IT", "IS A"}, rows)
}

type groupListCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
}

func (c *groupListCmd) Run(a *app) error {
	path, err := within(c.Customer)
	if err != nil {
		return err
	}
	all, err := a.all(path + "/groups")
	if err != nil || a.cli.JSON {
		return err
	}
	var rows [][]string
	for _, g := range all {
		rows = append(rows, []string{g.text("id"), g.text("created_at"), g.text("title")})
	}
	return a.table("no groups", []string{"GROUP", "CREATED", "TITLE"}, rows)
}

type groupDeleteCmd struct {
	groupOf
	byFlag
}

func (c *groupDeleteCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	return a.remove(path+c.query(), map[string]any{"group": c.Group}, "removed: "+c.Customer+" has no group "+c.Group)
}

// inGroup names a member or a group in a group.
type inGroup struct {
	groupOf
	ID    string `arg:"" name:"member" help:"Id of the member, or with --inner of a group."`
	Inner bool   `help:"MEMBER is a group."`
	byFlag
}

func (g *inGroup) path() (string, error) {
	kind := "members"
	if g.Inner {
		kind = "groups"
	}
	return within(g.Customer, "groups", "GROUP", g.Group, kind, "MEMBER", g.ID)
}

type groupAddCmd struct{ inGroup }

func (c *groupAddCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	_, err = a.ask("PUT", path+c.query(), nil, func(object) { fmt.Fprintf(a.out, "%s is in %s\n", c.ID, c.Group) })
	return err
}

type groupRemoveCmd struct{ inGroup }

func (c *groupRemoveCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	return a.remove(path+c.query(), map[string]any{"group": c.Group, "id": c.ID}, c.ID+" is not in "+c.Group)
}
