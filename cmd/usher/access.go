package main

import "strings"

type whoCanCmd struct {
	Customer   string `arg:"" help:"Id of the customer."`
	Permission string `arg:"" help:"Key of the permission."`
	Resource   string `help:"Only on this resource." placeholder:"TYPE/ID"`
	Type       string `help:"Only members of this type." placeholder:"T"`
	At         string `help:"Time to answer for (default now)." placeholder:"T"`
}

func (c *whoCanCmd) Run(a *app) error {
	if err := a.ahead().read(asked{flag: "--at", text: &c.At}); err != nil {
		return err
	}
	in := body("customer", c.Customer, "permission", c.Permission, "type", c.Type, "at", c.At)
	if err := about(in, c.Resource); err != nil {
		return err
	}
	return a.found("/v1/search/members", in, "nobody", "MEMBER", "TYPE")
}

type whatCanCmd struct {
	Customer   string `arg:"" help:"Id of the customer."`
	Member     string `arg:"" help:"Id of the member."`
	Permission string `arg:"" optional:"" help:"List resources on which the member has this permission, instead of permissions."`
	Resource   string `help:"Only on this resource." placeholder:"TYPE/ID"`
	Type       string `help:"Only on resources of this type (default, with a permission, the part before its last dot)." placeholder:"T"`
	At         string `help:"Time to answer for (default now)." placeholder:"T"`
}

func (c *whatCanCmd) Run(a *app) error {
	if err := a.ahead().read(asked{flag: "--at", text: &c.At}); err != nil {
		return err
	}
	in := body("customer", c.Customer, "member", c.Member, "permission", c.Permission, "type", c.Type, "at", c.At)
	if c.Permission != "" {
		if c.Resource != "" {
			return wrong("--resource cannot be given with PERMISSION; `usher who-can PERMISSION --resource …` lists the members who may do that")
		}
		if i := strings.LastIndexByte(c.Permission, '.'); i > 0 && c.Type == "" {
			in["type"] = c.Permission[:i]
		}
		return a.found("/v1/search/resources", in, "nothing", "RESOURCE", "TYPE")
	}
	if err := about(in, c.Resource); err != nil {
		return err
	}
	return a.found("/v1/search/permissions", in, "nothing", "PERMISSION")
}

// about adds a resource, written TYPE/ID, to a request.
func about(in map[string]any, resource string) error {
	if resource == "" {
		return nil
	}
	kind, id, ok := strings.Cut(resource, "/")
	if !ok || kind == "" || id == "" {
		return wrong("--resource must be a type and an id such as document/d1, got %q", resource)
	}
	in["resource"] = map[string]any{"type": kind, "id": id}
	return nil
}

// found reads all pages of a search and prints the results.
func (a *app) found(path string, in map[string]any, none string, heading ...string) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	in["limit"] = 1000
	list := []object{}
	for {
		_, page, err := c.call(a, "POST", path, in)
		if err != nil {
			return err
		}
		list = append(list, page.list("data")...)
		next := page.text("next_cursor")
		if next == "" {
			break
		}
		in["cursor"] = next
	}
	if a.cli.JSON {
		return a.printJSON(map[string]any{"data": list})
	}
	var rows [][]string
	for _, o := range list {
		if len(heading) == 1 {
			rows = append(rows, []string{o.text("permission")})
		} else {
			rows = append(rows, []string{o.text("id"), o.text("type")})
		}
	}
	return a.table(none, heading, rows)
}
