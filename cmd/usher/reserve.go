package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

type reserveCmd struct {
	Customer       string `arg:"" help:"Id of the customer."`
	Feature        string `arg:"" help:"Key of the feature."`
	Amount         string `help:"Amount to hold (default 1)." placeholder:"N"`
	TTL            string `name:"ttl" help:"Time to hold it, such as 60s, at most 168h (default 5m)." placeholder:"SPAN"`
	IdempotencyKey string `short:"k" help:"Idempotency key: the same key holds once (default a new one)." placeholder:"K"`
}

func (c *reserveCmd) Run(a *app) error {
	if err := readSpan("--ttl", &c.TTL); err != nil {
		return err
	}
	key := keyOr(c.IdempotencyKey)
	in := body("customer", c.Customer, "feature", c.Feature, "amount", c.Amount, "ttl", c.TTL, "key", key)
	d, err := a.ask("POST", "/v1/reservations", in, a.showDecision)
	a.sayKey(err, key, "holds")
	return verdict(d, err)
}

type settleCmd struct {
	Reservation string `arg:"" help:"Id of the reservation, rsv_…, as usher reserve prints it."`
	Amount      string `help:"Amount actually used (default all that is held)." placeholder:"N"`
}

func (c *settleCmd) Run(a *app) error {
	path, err := reservationPath(c.Reservation)
	if err != nil {
		return err
	}
	_, err = a.ask("POST", path+"/settle", body("amount", c.Amount), func(d object) {
		r := d.object("reservation")
		line := "settled: " + r.text("settled") + " of " + r.text("amount") + " held"
		if r.bool("late") {
			line += ", after it had expired"
		}
		fmt.Fprintln(a.out, line)
		a.showNumbers(d)
	})
	return err
}

type releaseCmd struct {
	Reservation string `arg:"" help:"Id of the reservation, rsv_…, as usher reserve prints it."`
}

func (c *releaseCmd) Run(a *app) error {
	path, err := reservationPath(c.Reservation)
	if err != nil {
		return err
	}
	_, err = a.ask("POST", path+"/release", nil, func(d object) {
		r := d.object("reservation")
		if r.text("state") == string(usher.ReservationExpired) {
			fmt.Fprintln(a.out, "expired: nothing was held")
		} else {
			fmt.Fprintf(a.out, "released: %s\n", r.text("amount"))
		}
		a.showNumbers(d)
	})
	return err
}

func reservationPath(id string) (string, error) {
	s, err := segment(id, "RESERVATION must not be empty: give the id that `usher reserve` printed, rsv_…")
	return "/v1/reservations/" + s, err
}

// segment escapes a name as one part of a path. If the name is empty, it returns the
// error empty.
func segment(name, empty string) (string, error) {
	switch name {
	case "":
		return "", wrong("%s", empty)
	case ".", "..": // a server would take them for steps in the path
		return strings.ReplaceAll(name, ".", "%2E"), nil
	}
	return url.PathEscape(name), nil
}

// keyOr returns the given idempotency key, or a new one if it is "".
func keyOr(given string) string {
	if given != "" {
		return given
	}
	return usher.NewID("idem_", time.Now(), nil)
}

// sayKey prints the idempotency key if it is not known whether the command did what
// it does (takes, holds, gives back).
func (a *app) sayKey(err error, key, does string) {
	if err == nil || exitCode(err) != exitFault {
		return
	}
	if a.keyMade = key; !a.cli.JSON {
		fmt.Fprintf(a.err, "usher: the idempotency key was %s: the same command with --idempotency-key %s never %s twice\n", key, key, does)
	}
}
