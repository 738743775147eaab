package main

import "fmt"

type resourceCmd struct {
	Put    resourcePutCmd    `cmd:"" help:"Register a resource, or change its properties."`
	Get    resourceGetCmd    `cmd:"" help:"Show a registered resource."`
	List   resourceListCmd   `cmd:"" help:"List the registered resources of a type."`
	Delete resourceDeleteCmd `cmd:"" help:"Remove a resource and its properties."`
}

// resourceOf names one resource.
type resourceOf struct {
	Customer string `arg:"" help:"Id of the customer."`
	Type     string `arg:"" help:"Type of the resource, such as document."`
	ID       string `arg:"" help:"Id of the resource, which you choose."`
}

func (r *resourceOf) path() (string, error) {
	path, err := within(r.Customer, "resources", "TYPE", r.Type)
	if err != nil {
		return "", err
	}
	id, err := segment(r.ID, "ID must not be empty")
	return path + "/" + id, err
}

type resourcePutCmd struct {
	resourceOf
	Property []string `sep:"none" help:"Property for conditions, JSON or text; may be repeated, and replaces all existing ones." placeholder:"K=V"`
}

func (c *resourcePutCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	in := body()
	if err := withProperties(in, c.Property); err != nil {
		return err
	}
	return a.put(path, in, a.showResource, "properties")
}

func (a *app) showResource(o object) {
	fmt.Fprintln(a.out, a.bold(o.text("type")+" "+o.text("id")))
	fields(a.out, "  ", "properties", propertiesText(o), "created", o.text("created_at"))
}

type resourceGetCmd struct{ resourceOf }

func (c *resourceGetCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	_, err = a.ask("GET", path, nil, a.showResource)
	return err
}

type resourceListCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
	Type     string `arg:"" help:"Type of the resources."`
}

func (c *resourceListCmd) Run(a *app) error {
	path, err := within(c.Customer, "resources", "TYPE", c.Type)
	if err != nil {
		return err
	}
	all, err := a.all(path)
	if err != nil || a.cli.JSON {
		return err
	}
	var rows [][]string
	for _, o := range all {
		rows = append(rows, []string{o.text("id"), o.text("created_at"), propertiesText(o)})
	}
	return a.table("none is registered", []string{"RESOURCE", "CREATED", "PROPERTIES"}, rows)
}

type resourceDeleteCmd struct{ resourceOf }

func (c *resourceDeleteCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	return a.remove(path, map[string]any{"type": c.Type, "id": c.ID}, "forgotten: "+c.Type+" "+c.ID)
}
