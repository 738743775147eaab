package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

type reserveCmd struct {
	Customer       string `arg:"" help:"The customer's id."`
	Feature        string `arg:"" help:"The feature's key."`
	Amount         string `help:"How much to hold; 1 where nothing is said." placeholder:"N"`
	TTL            string `name:"ttl" help:"How long, such as 60s or 5m, at most 168h; 5m where nothing is said." placeholder:"SPAN"`
	IdempotencyKey string `short:"k" help:"One hold and one answer per key; a new one where nothing is said." placeholder:"K"`
}

func (c *reserveCmd) Run(a *app) error {
	key := keyOr(c.IdempotencyKey)
	d, err := a.ask("POST", "/v1/reservations", body("customer", c.Customer, "feature", c.Feature, "amount", c.Amount, "ttl", c.TTL, "key", key), a.showDecision)
	a.sayKey(err, key, "holds")
	return verdict(d, err)
}

type settleCmd struct {
	Reservation string `arg:"" help:"Its id: rsv_…"`
	Amount      string `help:"What was used in truth; all that is held where nothing is said." placeholder:"N"`
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
	Reservation string `arg:"" help:"Its id: rsv_…"`
}

func (c *releaseCmd) Run(a *app) error {
	path, err := reservationPath(c.Reservation)
	if err != nil {
		return err
	}
	_, err = a.ask("POST", path+"/release", nil, func(d object) {
		r := d.object("reservation")
		if r.text("state") == string(usher.ReservationExpired) {
			fmt.Fprintln(a.out, "expired: nothing was held any more")
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

// segment is a name as one part of a path; empty is what to say where it is
// empty.
func segment(name, empty string) (string, error) {
	switch name {
	case "":
		return "", wrong("%s", empty)
	case ".", "..": // a server cannot tell them from steps in the path
		return strings.ReplaceAll(name, ".", "%2E"), nil
	}
	return url.PathEscape(name), nil
}

// keyOr is the idempotency key that was given, or else a new one.
func keyOr(given string) string {
	if given != "" {
		return given
	}
	return usher.NewID("idem_", time.Now(), nil)
}

// sayKey names the key where nobody knows whether it did what it does: takes,
// holds, gives back.
func (a *app) sayKey(err error, key, does string) {
	if err != nil && exitCode(err) == exitFault {
		fmt.Fprintf(a.err, "usher: the key was %s: the same command with --idempotency-key %s never %s twice\n", key, key, does)
	}
}
