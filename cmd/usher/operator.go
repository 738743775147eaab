package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

type operatorCmd struct {
	Token operatorTokenCmd `cmd:"" help:"Create a token that makes its holder an owner; it works once, within a day."`
	List  operatorListCmd  `cmd:"" help:"List operators and their roles."`
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
