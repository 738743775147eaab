package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

type memberCmd struct {
	Put    memberPutCmd    `cmd:"" help:"Register a member, or change what the flags name."`
	Get    memberGetCmd    `cmd:"" help:"Show a member, its groups and the roles that it holds directly."`
	List   memberListCmd   `cmd:"" help:"List a customer's members."`
	Delete memberDeleteCmd `cmd:"" help:"Remove a member with its roles, the seats that they took, and its properties."`
}

// within returns a path below a customer's. parts are groups of three: a fixed word, the
// argument's name in the help, and its value: within("acme", "members", "MEMBER",
// "ann"). It refuses values that are empty.
func within(customer string, parts ...string) (string, error) {
	id, err := segment(customer, "CUSTOMER must not be empty: give the customer's id")
	path := "/v1/customers/" + id
	for i := 0; i+2 < len(parts) && err == nil; i += 3 {
		var name string
		name, err = segment(parts[i+2], parts[i+1]+" must not be empty")
		path += "/" + parts[i] + "/" + name
	}
	return path, err
}

// properties reads K=V pairs, in which V is JSON or text.
func properties(flag string, all []string) (map[string]any, error) {
	if len(all) == 0 {
		return nil, nil
	}
	out := map[string]any{}
	for _, s := range all {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, wrong("%s must be a name and a value such as team=sales or level=3, got %q", flag, s)
		}
		out[k] = jsonOrText(v)
	}
	return out, nil
}

// withProperties adds --property to a request.
func withProperties(in map[string]any, all []string) error {
	p, err := properties("--property", all)
	if p != nil {
		in["properties"] = p
	}
	return err
}

// remove deletes an object and prints words.
func (a *app) remove(path string, what map[string]any, words string) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	if _, err := c.send(a, "DELETE", path, "", nil); err != nil {
		return err
	}
	if a.cli.JSON {
		what["deleted"] = true
		return a.printJSON(what)
	}
	_, err = fmt.Fprintln(a.out, words)
	return err
}

// byFlag is the member on whose behalf a command changes a directory.
type byFlag struct {
	By string `help:"Member on whose behalf this is done; it cannot give or take rights that it does not hold." placeholder:"M"`
}

// query returns the flag as a query; "" if it was not given.
func (f *byFlag) query() string {
	if f.By == "" {
		return ""
	}
	return "?by=" + url.QueryEscape(f.By)
}

// memberOf names one member.
type memberOf struct {
	Customer string `arg:"" help:"Id of the customer."`
	Member   string `arg:"" help:"Id of the member, which you choose."`
}

func (m *memberOf) path() (string, error) {
	return within(m.Customer, "members", "MEMBER", m.Member)
}

type memberPutCmd struct {
	memberOf
	Type     string   `help:"Type, such as user or service (default user)." placeholder:"T"`
	Active   bool     `xor:"active" help:"Let the member act again."`
	Inactive bool     `xor:"active" help:"Deny the member everything and free the seats that its roles took; it stays registered."`
	Property []string `sep:"none" help:"Property for conditions, JSON or text; may be repeated, and replaces all existing ones." placeholder:"K=V"`
	byFlag
}

func (c *memberPutCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	in := body("type", c.Type, "by", c.By)
	if c.Active || c.Inactive {
		in["active"] = c.Active
	}
	if err := withProperties(in, c.Property); err != nil {
		return err
	}
	return a.put(path, in, a.showMember, "type", "properties")
}

func (a *app) showMember(o object) {
	fmt.Fprintln(a.out, a.bold(o.text("id")))
	active := "yes"
	if !o.bool("active") {
		active = "no"
	}
	fields(a.out, "  ", "type", o.text("type"), "active", active, "source", o.text("source"), "groups", o.text("groups"),
		"properties", propertiesText(o), "created", o.text("created_at"))
}

// propertiesText returns properties as one line of JSON; "" if there are none.
func propertiesText(o object) string {
	p := o.object("properties")
	if len(p) == 0 {
		return ""
	}
	b, _ := json.Marshal(map[string]any(p)) // what was decoded can be encoded
	return string(b)
}

type memberGetCmd struct{ memberOf }

func (c *memberGetCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	var shown error
	_, err = a.ask("GET", path, nil, func(o object) {
		a.showMember(o)
		shown = a.showAssignments("no roles of its own", o.list("assignments"))
	})
	if err == nil {
		err = shown
	}
	return err
}

type memberListCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
}

func (c *memberListCmd) Run(a *app) error {
	path, err := within(c.Customer)
	if err != nil {
		return err
	}
	all, err := a.all(path + "/members")
	if err != nil || a.cli.JSON {
		return err
	}
	var rows [][]string
	for _, m := range all {
		active := "yes"
		if !m.bool("active") {
			active = "no"
		}
		rows = append(rows, []string{m.text("id"), m.text("type"), active, m.text("created_at")})
	}
	return a.table("no members", []string{"MEMBER", "TYPE", "ACTIVE", "CREATED"}, rows)
}

type memberDeleteCmd struct {
	memberOf
	byFlag
}

func (c *memberDeleteCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	return a.remove(path+c.query(), map[string]any{"member": c.Member}, "removed: "+c.Member+" is not a member of "+c.Customer)
}
