package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

type operatorCmd struct {
	Token  operatorTokenCmd  `cmd:"" help:"Create a token that makes its holder an owner; it works once, within a day."`
	List   operatorListCmd   `cmd:"" help:"List operators and their roles."`
	Invite operatorInviteCmd `cmd:"" help:"Create a link with which an operator sets a password; it works once, within a day, and voids the one before."`
	Accept operatorAcceptCmd `cmd:"" help:"Accept an invitation and set your password; a key is not needed."`
}

type operatorInviteCmd struct {
	ID string `arg:"" help:"Id of the operator, as usher operator list shows it."`
}

func (c *operatorInviteCmd) Run(a *app) error {
	id, err := segment(c.ID, "ID must not be empty: give the operator's id")
	if err != nil {
		return err
	}
	_, err = a.ask("POST", "/v1/operators/"+id+"/invite", nil, func(o object) { fmt.Fprintln(a.out, o.text("url")) })
	return err
}

type operatorAcceptCmd struct{}

// Run asks for the link and the password: as arguments they would be in the history of
// the shell.
func (c *operatorAcceptCmd) Run(a *app) error {
	cl, err := a.server()
	if err != nil {
		return err
	}
	lines := bufio.NewReader(a.in)
	link, err := a.line(lines, "Link or token of the invitation: ", true)
	if err != nil {
		return err
	}
	_, token, linked := strings.Cut(link, "#")
	if !linked {
		token = link
	}
	password, err := a.line(lines, "New password, at least 12 characters: ", false)
	if err != nil {
		return err
	}
	if a.tty.in {
		if again, err := a.line(lines, "The same again: ", false); err != nil {
			return err
		} else if again != password {
			return wrong("the two passwords differ: nothing was set, and the invitation still works")
		}
	}
	b, o, err := cl.call(a, "POST", "/v1/session/invite", map[string]any{"token": token, "password": password})
	if err != nil {
		return err
	}
	if a.cli.JSON {
		return a.printText(b)
	}
	fmt.Fprintf(a.out, "the password is set: log in as %s\n", o.object("operator").text("email"))
	return nil
}

// line asks for one line of text on a terminal, or reads the next line of standard input.
// If shown is false, a terminal does not show what is typed.
func (a *app) line(in *bufio.Reader, question string, shown bool) (text string, err error) {
	if a.tty.in {
		fmt.Fprint(a.err, question)
	}
	if a.tty.in && !shown {
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(a.err)
		return string(b), err
	}
	text, err = in.ReadString('\n')
	if errors.Is(err, io.EOF) && text != "" {
		err = nil
	}
	if errors.Is(err, io.EOF) {
		err = wrong("standard input must have two lines: the link or token of the invitation, and the new password")
	}
	return strings.TrimRight(text, "\r\n"), err
}

type operatorTokenCmd struct{ keyDB }

func (c *operatorTokenCmd) Run(a *app) error {
	return c.with(a, func(s *auth.Service) error {
		token, expires, err := s.OwnerToken(a, usher.By{Actor: actorCLI})
		if err != nil {
			return err
		}
		if a.cli.JSON {
			return a.printJSON(map[string]string{"token": token, "expires_at": stamp(expires)})
		}
		fmt.Fprintln(a.out, token)
		return nil
	})
}

type operatorListCmd struct{ keyDB }

func (c *operatorListCmd) Run(a *app) error {
	return c.with(a, func(s *auth.Service) error {
		all, err := s.Operators(a)
		if err != nil {
			return err
		}
		if a.cli.JSON {
			if all == nil {
				all = []usher.Operator{}
			}
			return a.printJSON(map[string]any{"data": all})
		}
		now := time.Now()
		var rows [][]string
		for _, o := range all {
			var roles []string
			for _, r := range o.Roles {
				if !r.InForce(now) {
					continue
				}
				text := r.Role
				if r.Environment != "" {
					text += " in " + string(r.Environment)
				}
				if r.Until != nil {
					text += " until " + stamp(*r.Until)
				}
				roles = append(roles, text)
			}
			active := "yes"
			if !o.Active {
				active = "no"
			}
			rows = append(rows, []string{o.ID, o.Name, o.Email, active, strings.Join(roles, ", ")})
		}
		return a.table("no operators; `usher operator token` creates a token for the first owner",
			[]string{"ID", "NAME", "EMAIL", "ACTIVE", "ROLES"}, rows)
	})
}
