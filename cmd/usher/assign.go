package main

import (
	"fmt"
	"io"
	"os"

	"github.com/usher-sh/usher"
)

type assignCmd struct {
	Customer     string `arg:"" help:"The customer's id."`
	Role         string `arg:"" help:"A role of the catalogue or the customer's own."`
	Member       string `xor:"holder" required:"" help:"Who gets it; this or --group." placeholder:"M"`
	Group        string `xor:"holder" required:"" help:"The group that gets it; this or --member." placeholder:"G"`
	Resource     string `xor:"resource" help:"On this resource only: its type and its id." placeholder:"TYPE/ID"`
	ResourceType string `xor:"resource" help:"On resources of this type only." placeholder:"T"`
	ResourceID   string `name:"resource-id" help:"With --resource-type: on this one only." placeholder:"ID"`
	From         string `help:"Now where nothing is said." placeholder:"T"`
	Until        string `help:"For good where nothing is said." placeholder:"T"`
	Reason       string `help:"Why; it is kept."`
	By           string `help:"The member on whose behalf it is given, who cannot give what it does not hold, nor to itself." placeholder:"M"`
}

func (c *assignCmd) Run(a *app) error {
	path, err := within(c.Customer)
	if err != nil {
		return err
	}
	in := body("member", c.Member, "group", c.Group, "role", c.Role, "resource_type", c.ResourceType, "resource_id", c.ResourceID,
		"from", c.From, "until", c.Until, "reason", c.Reason, "by", c.By)
	if c.Resource != "" {
		if c.ResourceID != "" {
			return wrong("--resource-id goes with --resource-type; --resource has the id already")
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

// assignmentText says of an assignment who holds it, where and when.
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
	Customer   string `arg:"" help:"The customer's id."`
	Assignment string `arg:"" help:"The assignment's id, asg_…, as assign and assignments print it."`
}

func (c *unassignCmd) Run(a *app) error {
	path, err := within(c.Customer, "assignments", "ASSIGNMENT", c.Assignment)
	if err != nil {
		return err
	}
	return a.remove(path, map[string]any{"assignment": c.Assignment}, "taken away: "+c.Assignment)
}

type assignmentsCmd struct {
	Customer string `arg:"" help:"The customer's id."`
	Member   string `xor:"holder" help:"Only those that this member holds itself." placeholder:"M"`
	Group    string `xor:"holder" help:"Only those that this group holds." placeholder:"G"`
	Role     string `help:"Only of this role." placeholder:"ROLE"`
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
	Customer string `arg:"" help:"The customer's id."`
	File     string `arg:"" help:"JSON, of up to 10,000 changes; - is standard input."`
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
		return wrong("%s is no JSON object: %s", c.File, err)
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

// maxDirectory is in bytes; the server reads no more.
const maxDirectory = 16 << 20

// readUpTo reads a file or standard input of at most this many bytes.
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
