// Command usher is the server, and the commands that talk to one. It wires the
// rooms together and decides nothing itself: every answer that it prints comes from the
// server.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/usher-sh/usher"
)

// The exit codes.
const (
	exitDone  = 0 // yes, or done
	exitNo    = 1 // a decision that says no
	exitUsage = 2 // wrong usage or input
	exitFault = 3 // could not reach the server, or it could not answer

	exitStopped = 130 // stopped with Ctrl-C, as shells count it
)

// errNo is a decision that says no and has been printed.
var errNo = errors.New("no")

type cli struct {
	URL         string `env:"USHER_URL" help:"Address of the server (default ${default})." default:"http://127.0.0.1:8080" placeholder:"URL"`
	Key         string `env:"USHER_KEY" help:"API key; prefer the variable USHER_KEY." placeholder:"usk_…"`
	Environment string `env:"USHER_ENVIRONMENT" aliases:"env" help:"production or sandbox; a key of the other one is refused." placeholder:"ENV"`
	JSON        bool   `name:"json" help:"Print JSON instead of text for people, errors too."`

	VersionFlag kong.VersionFlag `name:"version" help:"Print the version."`

	Demo     demoCmd     `cmd:"" group:"Server" help:"Serve a demo company and print what to try."`
	Dev      devCmd      `cmd:"" group:"Server" help:"Serve an empty sandbox on a temporary database and print how to reach it."`
	Init     initCmd     `cmd:"" group:"Server" help:"Create the schema and print an admin key for each environment and a token for an owner."`
	Serve    serveCmd    `cmd:"" group:"Server" help:"Start the server; on an empty database, do what init does first."`
	APIKey   keyCmd      `cmd:"" name:"key" group:"Server" help:"Manage API keys, of a server or with --db in the database itself."`
	Operator operatorCmd `cmd:"" name:"operator" group:"Server" help:"Manage operators in the database, with or without a running server."`
	Fsck     fsckCmd     `cmd:"" group:"Server" help:"Check that ledger, buckets and reports agree; exit code 1 means that they differ."`
	Backup   backupCmd   `cmd:"" group:"Server" help:"Write a checked backup to one file, with or without a running server."`
	Restore  restoreCmd  `cmd:"" group:"Server" help:"Create a database from a backup, with a new epoch; run it again to resume an interrupted restore."`
	Copy     copyCmd     `cmd:"" group:"Server" help:"Copy everything between SQLite and PostgreSQL; run it again to resume an interrupted copy."`
	Audit    auditCmd    `cmd:"" group:"Server" help:"Read the audit log and prove that nobody changed it."`

	Help       helpCmd       `cmd:"" group:"Server" help:"Show what a command does and takes."`
	Version    versionCmd    `cmd:"" group:"Server" help:"Print the version."`
	Completion completionCmd `cmd:"" group:"Server" help:"Print what makes a shell complete commands and flags."`

	Validate validateCmd `cmd:"" group:"Catalogue" help:"Check a catalogue file without a server."`
	Plan     planCmd     `cmd:"" group:"Catalogue" help:"Show what a catalogue file would change, and which customers it affects."`
	Apply    applyCmd    `cmd:"" group:"Catalogue" help:"Apply a catalogue file, which replaces the current one."`
	Pull     pullCmd     `cmd:"" group:"Catalogue" help:"Print the current catalogue, or an earlier one."`
	Schema   schemaCmd   `cmd:"" group:"Catalogue" help:"Print the JSON Schema of the catalogue file, for editors."`

	Customer     customerCmd     `cmd:"" group:"Customers" help:"Manage customers."`
	Subscribe    subscribeCmd    `cmd:"" group:"Customers" help:"Subscribe a customer to a plan."`
	Subscription subscriptionCmd `cmd:"" group:"Customers" help:"Manage a customer's subscriptions."`
	Entitlements entitlementsCmd `cmd:"" group:"Customers" help:"List what a customer may use, and how much is left."`
	Override     overrideCmd     `cmd:"" group:"Customers" help:"Make an exception for one customer, and manage them."`
	Grant        grantCmd        `cmd:"" group:"Customers" help:"Give a customer a one-off amount, and manage them."`
	Seat         seatCmd         `cmd:"" group:"Customers" help:"Manage who holds a customer's seats."`

	Member      memberCmd      `cmd:"" group:"Members" help:"Manage a customer's people and programs."`
	Group       groupCmd       `cmd:"" group:"Members" help:"Manage groups of members."`
	Role        roleCmd        `cmd:"" group:"Members" help:"Manage the roles that a customer can assign."`
	Assign      assignCmd      `cmd:"" group:"Members" help:"Give a role to a member or a group."`
	Unassign    unassignCmd    `cmd:"" group:"Members" help:"Take a role away, with the seat that it took."`
	Assignments assignmentsCmd `cmd:"" group:"Members" help:"List who holds which role."`
	Resource    resourceCmd    `cmd:"" group:"Members" help:"Manage the resources that members act on, for conditions and searches."`
	Directory   directoryCmd   `cmd:"" group:"Members" help:"Apply many changes to a customer's members from a JSON file, all or none."`

	Check   checkCmd   `cmd:"" group:"Decisions" help:"Ask whether a customer or a member may do something; exit code 0 is yes, 1 is no."`
	Explain explainCmd `cmd:"" group:"Decisions" help:"Show the reasons for the answer to a check."`
	WhoCan  whoCanCmd  `cmd:"" group:"Decisions" help:"List the members who have a permission."`
	WhatCan whatCanCmd `cmd:"" group:"Decisions" help:"List what a member may do, or on which resources."`
	Consume consumeCmd `cmd:"" group:"Decisions" help:"Check and take an amount in one step."`
	Reserve reserveCmd `cmd:"" group:"Decisions" help:"Check and hold an amount until it is settled, released or expires."`
	Settle  settleCmd  `cmd:"" group:"Decisions" help:"End a reservation with the amount actually used."`
	Release releaseCmd `cmd:"" group:"Decisions" help:"End a reservation and give back what it held."`

	Ingest  ingestCmd  `cmd:"" group:"Use" help:"Report use from files of CloudEvents (NDJSON) or CSV."`
	Usage   usageCmd   `cmd:"" group:"Use" help:"Show what a customer used."`
	Correct correctCmd `cmd:"" group:"Use" help:"Give back what was taken or reported by mistake."`
	Denials denialsCmd `cmd:"" group:"Use" help:"List requests that were denied, or would be if the limit were enforced."`
	Clock   clockCmd   `cmd:"" group:"Use" help:"Show the time of the environment, or set that of a sandbox."`
}

// description is the head of --help.
const description = `May this customer use this feature, this much, now?

Each flag of a command that opens the database itself has an environment variable: --poll-interval is USHER_POLL_INTERVAL. ` +
	`Commands that call a server read USHER_URL, USHER_KEY and USHER_ENVIRONMENT only. A time T is 2027-01-31T00:00:00Z, ` +
	`a date, which begins in UTC, or a span from now such as 14d; a SPAN is 90s, 24h, 14d or 2w. Exit codes: 0 yes or done, ` +
	`1 a decision that says no, 2 wrong usage or input, 3 could not reach the server or it could not answer, 130 stopped with Ctrl-C.`

// app is what every command gets: the flags, the standard streams and a context.
type app struct {
	context.Context
	in  io.Reader
	out io.Writer
	err io.Writer
	cli *cli
	tty terminals

	kong    *kong.Kong
	keyMade string // an idempotency key with which the command can be repeated; --json errors have it
}

func main() { os.Exit(run(os.Args[1:])) }

// exited is the panic with which kong ends the program early, after --help.
type exited int

func run(args []string) (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	a := &app{Context: ctx, in: os.Stdin, out: os.Stdout, err: os.Stderr, cli: &cli{}, tty: findTerminals()}
	defer func() {
		if p := recover(); p != nil {
			e, ok := p.(exited)
			if !ok {
				panic(p)
			}
			code = int(e)
		}
	}()
	k, err := kong.New(a.cli, kong.Name("usher"),
		kong.Description(description),
		kong.PostBuild(nameVariables), kong.NamedMapper("path", kong.MapperFunc(readPath)), spans,
		kong.Vars{"version": "usher " + versionText()}, kong.Writers(a.out, a.err),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}), kong.Bind(a))
	if err != nil {
		return a.fail(err)
	}
	a.kong = k
	c, err := k.Parse(args)
	if err != nil {
		if slices.Contains(args, "--json") {
			a.cli.JSON = true
			return a.fail(wrong("%s", err))
		}
		fmt.Fprintf(a.err, "usher: %s\n", err)
		fmt.Fprintln(a.err, "`usher --help` lists the commands, `usher COMMAND --help` the flags of one.")
		return exitUsage
	}
	if err := refuseEmpty(c); err != nil {
		return a.fail(err)
	}
	if err := c.Run(); err != nil {
		return a.fail(alone(err))
	}
	return exitDone
}

// alone takes a single error out of what joins it: kong joins the error of every command.
func alone(err error) error {
	for {
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok || len(joined.Unwrap()) != 1 {
			return err
		}
		err = joined.Unwrap()[0]
	}
}

// nameVariables gives each flag of a command that opens the database itself an
// environment variable, because servers are configured so. Other commands have none
// of their own: a forgotten variable must not change what a command does.
func nameVariables(k *kong.Kong) error {
	return kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		if n, ok := node.(*kong.Node); ok && opensDatabase(n) {
			for _, f := range n.Flags {
				name := "USHER_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
				f.Envs, f.Tag.Envs = []string{name}, []string{name}
			}
		}
		return next(nil)
	})
}

// opensDatabase reports whether a command takes a database.
func opensDatabase(n *kong.Node) bool {
	return slices.ContainsFunc(n.Flags, func(f *kong.Flag) bool {
		return f.Name == "db" || strings.HasPrefix(f.PlaceHolder, "FILE|postgres:")
	})
}

// environment returns --environment, or otherwise if it is not set.
func (a *app) environment(otherwise usher.Environment) (usher.Environment, error) {
	env := usher.Environment(a.cli.Environment)
	if env == "" {
		return otherwise, nil
	}
	if !slices.Contains(usher.Environments, env) {
		return "", wrong("unknown environment %q: --environment (USHER_ENVIRONMENT) must be production or sandbox", env)
	}
	return env, nil
}

// guard refuses a key that belongs to another environment than --environment.
func (a *app) guard(of usher.Environment) error {
	want, err := a.environment(of)
	if err == nil && want != of {
		err = wrong("the key belongs to %s, but --environment (USHER_ENVIRONMENT) is %s", of, want)
	}
	return err
}

// fail prints what went wrong and returns the exit code.
func (a *app) fail(err error) int {
	if errors.Is(err, errNo) {
		return exitNo
	}
	code := exitCode(err)
	if a.Err() != nil && code == exitFault {
		code = exitStopped
	}
	if a.cli.JSON {
		e := json.NewEncoder(a.err)
		e.SetEscapeHTML(false)
		problem := problemOf(err, code)
		problem.Key = a.keyMade
		e.Encode(problem)
		return code
	}
	fmt.Fprintf(a.err, "usher: %s\n", message(err))
	return code
}

// jsonError is an error as --json prints it, in the form of the server's errors.
type jsonError struct {
	Code   usher.Code      `json:"code"`
	Detail string          `json:"detail"`
	Errors []usher.Problem `json:"errors,omitempty"`
	Key    string          `json:"idempotency_key,omitempty"` // with which the same command does nothing twice
}

func problemOf(err error, code int) jsonError {
	var e *usher.Error
	if errors.As(err, &e) && err == error(e) {
		return jsonError{Code: e.Code, Detail: e.Detail, Errors: e.Problems}
	}
	p := jsonError{Code: usher.Internal, Detail: message(err)}
	if code == exitUsage {
		p.Code = usher.Invalid
	}
	return p
}

func exitCode(err error) int {
	var e *usher.Error
	var path *fs.PathError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		code := exitUsage
		for _, err := range joined.Unwrap() {
			code = max(code, exitCode(err))
		}
		return code
	}
	switch {
	case errors.As(err, &e):
		switch e.Code {
		case usher.Internal, usher.Unavailable, usher.RateLimited:
			return exitFault
		}
		return exitUsage
	case errors.As(err, &path):
		return exitUsage
	}
	return exitFault
}

// message returns the text of an error. If there is one problem, and the detail contains
// it already, it is left out.
func message(err error) string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var texts []string
		for _, err := range joined.Unwrap() {
			texts = append(texts, message(err))
		}
		return strings.Join(texts, "\n")
	}
	var e *usher.Error
	if !errors.As(err, &e) || err != error(e) {
		return err.Error()
	}
	if len(e.Problems) == 1 {
		if p := e.Problems[0]; strings.Contains(e.Detail, p.Message) && strings.Contains(e.Detail, p.Location) {
			return e.Detail
		}
	}
	return e.Error()
}

func wrong(format string, args ...any) error { return usher.Errorf(usher.Invalid, format, args...) }

// version is set by the linker for releases.
var version string

// versionText returns the version of the program, or "unknown".
func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

type helpCmd struct {
	Command []string `arg:"" optional:"" help:"Command, such as customer get (default all of them)."`
}

func (c *helpCmd) Run(a *app) error {
	_, err := a.kong.Parse(append(slices.Clone(c.Command), "--help")) // it prints and ends the program
	return wrong("%s: `usher --help` lists the commands", err)
}

type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	if a.cli.JSON {
		return a.printJSON(map[string]string{"version": versionText()})
	}
	fmt.Fprintln(a.out, "usher", versionText())
	return nil
}
