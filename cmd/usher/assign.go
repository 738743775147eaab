package main

import (
	"fmt"
	"io"
	"os"

	"github.com/usher-sh/usher"
)

type assignCmd struct {
	Customer     string `arg:"" help:"Id of the customer."`
	Role         string `arg:"" help:"Key of a role of the catalogue or of the customer's own."`
	Member       string `xor:"holder" required:"" help:"Member who gets the role; give this or --group." placeholder:"M"`
	Group        string `xor:"holder" required:"" help:"Group that gets the role; give this or --member." placeholder:"G"`
	Resource     string `xor:"resource" help:"Only on this resource." placeholder:"TYPE/ID"`
	ResourceType string `xor:"resource" help:"Only on resources of this type." placeholder:"T"`
	ResourceID   string `name:"resource-id" help:"Id of the only resource, with --resource-type." placeholder:"ID"`
	From         string `help:"Start (default now)." placeholder:"T"`
	Until        string `help:"End (default never)." placeholder:"T|period-end"`
	Reason       string `help:"Reason, which is recorded."`
	By           string `help:"Member on whose behalf the role is given; it must hold everything that the role gives, for as long, and cannot give itself a role." placeholder:"M"`
}

func (c *assignCmd) Run(a *app) error {
	path, err := within(c.Customer)
	if err == nil {
		err = a.until(c.Customer).read(asked{flag: "--from", text: &c.From}, asked{flag: "--until", text: &c.Until})
	}
	if err != nil {
		return err
	}
	in := body("member", c.Member, "group", c.Group, "role", c.Role, "resource_type", c.ResourceType, "resource_id", c.ResourceID,
		"from", c.From, "until", c.Until, "reason", c.Reason, "by", c.By)
	if c.Resource != "" {
		if c.ResourceID != "" {
			return wrong("--resource-id needs --resource-type; --resource already has the id")
		}
		if err := about(in, c.Resource); err != nil {
			return err
		}
		r := in["resource"].(map[string]any)
		delete(in, "resource")
		in["resource_type"], in["resource_id"] = r["type"], r["id"]
	}
	_, err = a.ask("PUT", path+"/assignments", in, func(o object) {
		holder, where, _ := assignmentText(o)
		fmt.Fprintf(a.out, "%s: %s is %s %s\n", o.text("id"), holder, o.text("role"), where)
	})
	return err
}

// assignmentText describes an assignment: who holds it, where and when.
func assignmentText(o object) (holder, where, until string) {
	holder, where, until = o.text("member"), "everywhere", o.text("until")
	if g := o.text("group"); g != "" {
		holder = "group " + g
	}
	if t := o.text("resource_type"); t != "" {
		where = "on every " + t
		if id := o.text("resource_id"); id != "" {
			where = "on " + t + " " + id
		}
	}
	if until == "" {
		until = "taken away"
	}
	return holder, where, until
}

func (a *app) showAssignments(none string, list []object) error {
	var rows [][]string
	for _, o := range list {
		holder, where, until := assignmentText(o)
		rows = append(rows, []string{o.text("id"), holder, o.text("role"), where, o.text("from"), until, o.text("granted_by")})
	}
	return a.table(none, []string{"ASSIGNMENT", "HOLDER", "ROLE", "WHERE", "FROM", "UNTIL", "GIVEN BY"}, rows)
}

type unassignCmd struct {
	Customer   string `arg:"" help:"Id of the customer."`
	Assignment string `arg:"" help:"Id of the assignment, asg_…, as assign and assignments print it."`
	byFlag
}

func (c *unassignCmd) Run(a *app) error {
	path, err := within(c.Customer, "assignments", "ASSIGNMENT", c.Assignment)
	if err != nil {
		return err
	}
	return a.remove(path+c.query(), map[string]any{"assignment": c.Assignment}, "taken away: "+c.Assignment)
}

type assignmentsCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
	Member   string `xor:"holder" help:"Only roles that this member holds directly." placeholder:"M"`
	Group    string `xor:"holder" help:"Only roles that this group holds." placeholder:"G"`
	Role     string `help:"Only this role." placeholder:"ROLE"`
}

func (c *assignmentsCmd) Run(a *app) error {
	path, err := within(c.Customer)
	if err != nil {
		return err
	}
	all, err := a.all(path+"/assignments", "member", c.Member, "group", c.Group, "role", c.Role)
	if err != nil || a.cli.JSON {
		return err
	}
	return a.showAssignments("no assignments", all)
}

type directoryCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
	File     string `arg:"" help:"JSON file of up to 10,000 changes; - is standard input."`
}

func (c *directoryCmd) Run(a *app) error {
	path, err := within(c.Customer)
	if err != nil {
		return err
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	src, err := a.readUpTo(c.File, maxDirectory)
	if err != nil {
		return err
	}
	if _, err := parseObject(src); err != nil {
		return wrong("%s must be a JSON object: %s", c.File, err)
	}
	b, err := cl.send(a, "POST", path+"/directory", "application/json", src)
	if err != nil {
		return err
	}
	if a.cli.JSON {
		return a.printText(b)
	}
	o, err := parseObject(b)
	if err != nil {
		return &usher.Error{Code: usher.Unavailable, Detail: "the answer of " + cl.base + " is not JSON: is it usher?"}
	}
	_, err = fmt.Fprintf(a.out, "done: revision %s of the environment has it\n", o.text("revision"))
	return err
}

// maxDirectory is the largest file that the server reads, in bytes.
const maxDirectory = 16 << 20

// readUpTo reads a file or standard input of at most most bytes.
func (a *app) readUpTo(name string, most int64) ([]byte, error) {
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, most+1))
	if err == nil && int64(len(b)) > most {
		err = wrong("%s is larger than %d bytes: send it in parts", name, most)
	}
	return b, err
}
