package main

import (
	"bufio"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
)

type validateCmd struct {
	File string `arg:"" help:"Catalogue file; - is standard input."`
}

func (c *validateCmd) Run(a *app) error {
	src, err := a.readFile(c.File)
	if err != nil {
		return err
	}
	cat, err := catalogfile.Parse(c.File, src)
	if err != nil {
		return err
	}
	if a.cli.JSON {
		return a.printJSON(map[string]any{"valid": true, "meters": len(cat.Meters), "features": len(cat.Features), "plans": len(cat.Plans),
			"addons":      len(cat.Addons),
			"permissions": len(cat.Permissions), "roles": len(cat.Roles)})
	}
	access := ""
	if len(cat.Permissions)+len(cat.Roles) > 0 {
		access = ", " + usher.CountOf(len(cat.Permissions), "permission") + ", " + usher.CountOf(len(cat.Roles), "role")
	}
	fmt.Fprintf(a.out, "%s is valid: %s, %s, %s, %s%s\n", c.File, usher.CountOf(len(cat.Features), "feature"),
		usher.CountOf(len(cat.Plans), "plan"), usher.CountOf(len(cat.Addons), "add-on"), usher.CountOf(len(cat.Meters), "meter"), access)
	return nil
}

// readFile reads a file or standard input.
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(a.in, catalogfile.MaxSize+1))
	}
	return os.ReadFile(name)
}

// putCatalog checks a file here, so that problems name the file, and sends it.
func (a *app) putCatalog(c *client, file string, src []byte, query url.Values) ([]byte, object, error) {
	if _, err := catalogfile.Parse(file, src); err != nil {
		return nil, nil, err
	}
	b, err := c.send(a, "PUT", "/v1/catalog?"+query.Encode(), "application/yaml", src)
	if err != nil {
		return nil, nil, err
	}
	o, err := parseObject(b)
	return b, o, err
}

// dryRun asks the server what a file would change.
func (a *app) dryRun(c *client, file string, src []byte, migrate string) ([]byte, object, error) {
	q := url.Values{"dry_run": {"true"}}
	if migrate != "" {
		q.Set("migrate", migrate)
	}
	return a.putCatalog(c, file, src, q)
}

// showPlan prints what would change, and reports whether anything would change.
func (a *app) showPlan(out io.Writer, o object) bool {
	changes := o.list("changes")
	for _, ch := range changes {
		sign := map[string]string{"add": a.green("+"), "remove": a.red("-")}[ch.text("action")]
		if sign == "" {
			sign = "~"
		}
		fmt.Fprintf(out, "%s %s\n", sign, ch.text("text"))
	}
	for _, i := range o.list("impact") {
		fmt.Fprintln(out, "touches:", i.text("text"))
	}
	n, _ := strconv.Atoi(o.text("migrated"))
	moved := n > 0
	if moved {
		fmt.Fprintln(out, "migrates:", usher.CountOf(n, "subscription"))
	}
	if left := o.text("left_pinned"); left != "" {
		fmt.Fprintln(out, "stay where they are pinned:", left)
	}
	if len(changes) == 0 && !moved {
		fmt.Fprintln(out, "nothing would change")
		return false
	}
	return true
}

type planCmd struct {
	File    string `arg:"" help:"Catalogue file; - is standard input."`
	Migrate string `help:"Count the subscriptions of this plan, or of all plans, that would move to the newest versions." placeholder:"PLAN|all"`
}

func (c *planCmd) Run(a *app) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	src, err := a.readFile(c.File)
	if err != nil {
		return err
	}
	b, o, err := a.dryRun(cl, c.File, src, c.Migrate)
	if err != nil {
		return err
	}
	if a.cli.JSON {
		return a.printText(b)
	}
	a.showPlan(a.out, o)
	return nil
}

type applyCmd struct {
	File    string `arg:"" help:"Catalogue file; - is standard input."`
	Migrate string `help:"Move the subscriptions of this plan, or of all plans, to the newest versions now." placeholder:"PLAN|all"`
	Yes     bool   `short:"y" help:"Apply without asking."`
}

func (c *applyCmd) Run(a *app) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	src, err := a.readFile(c.File)
	if err != nil {
		return err
	}
	_, plan, err := a.dryRun(cl, c.File, src, c.Migrate)
	if err != nil {
		return err
	}
	words := a.out
	if a.cli.JSON {
		words = a.err
	}
	if a.showPlan(words, plan) && !c.Yes {
		if !a.tty.in || c.File == "-" {
			return wrong("nothing was applied: standard input is not a terminal, so give --yes")
		}
		fmt.Fprintf(a.err, "Apply this to %s at %s? [y/N] ", cl.environment(), cl.base)
		answer, _ := bufio.NewReader(a.in).ReadString('\n') // the end of the input counts as no
		if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
			fmt.Fprintln(a.err, "nothing was applied")
			return errNo
		}
	}
	q := url.Values{}
	if c.Migrate != "" {
		q.Set("migrate", c.Migrate)
	}
	b, o, err := a.putCatalog(cl, c.File, src, q)
	if err != nil {
		return err
	}
	if a.cli.JSON {
		return a.printText(b)
	}
	fmt.Fprintf(a.out, "in force: revision %s, %s\n", o.text("revision"), o.text("hash"))
	return nil
}

type schemaCmd struct{}

func (c *schemaCmd) Run(a *app) error { return a.printText(catalogfile.Schema()) }

type pullCmd struct {
	Revision int64 `help:"Revision of the environment at which the catalogue was in force (default now)." placeholder:"N"`

	Out string `short:"o" help:"File to write (default standard output)." type:"path" placeholder:"FILE"`
}

func (c *pullCmd) Run(a *app) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	accept := "application/yaml"
	if a.cli.JSON {
		accept = "application/json"
	}
	path := "/v1/catalog"
	if c.Revision != 0 {
		path += "?revision=" + strconv.FormatInt(c.Revision, 10)
	}
	b, err := cl.send(a, "GET", path, "", nil, "Accept", accept)
	if err != nil {
		return err
	}
	if c.Out == "" {
		return a.printText(b)
	}
	return writeFile(c.Out, b)
}
