package main

import (
	"errors"
	"fmt"
)

type seatCmd struct {
	Take seatTakeCmd `cmd:"" help:"Give a holder a seat, or change the seat that it has; exit code 1 means that no seat is free."`
	Free seatFreeCmd `cmd:"" help:"Free a holder's seat now."`
	List seatListCmd `cmd:"" help:"List who holds a seat, oldest first."`
}

// seatsOf names the seats of one feature.
type seatsOf struct {
	Customer string `arg:"" help:"Id of the customer."`
	Feature  string `arg:"" help:"Key of a feature of kind seats."`
}

func (s *seatsOf) path() (string, error) {
	customer, err := segment(s.Customer, "CUSTOMER must not be empty: give the customer's id")
	if err != nil {
		return "", err
	}
	feature, err := segment(s.Feature, "FEATURE must not be empty: give the key of a feature of kind seats")
	return "/v1/customers/" + customer + "/seats/" + feature, err
}

// seatOf names one seat.
type seatOf struct {
	seatsOf
	Holder string `arg:"" help:"Holder: your id of a person, a device or a session."`
}

func (s *seatOf) path() (string, error) {
	path, err := s.seatsOf.path()
	if err != nil {
		return "", err
	}
	holder, err := segment(s.Holder, "HOLDER must not be empty: say who holds the seat, by your id of a person, a device, a session")
	return path + "/" + holder, err
}

type seatTakeCmd struct {
	seatOf
	Pending   bool   `help:"Mark the seat as pending: the holder is invited, and the seat counts."`
	TTL       string `name:"ttl" xor:"end" help:"Time after which the seat frees itself unless taken again, such as 2m." placeholder:"SPAN"`
	ExpiresAt string `xor:"end" help:"Time at which the seat frees itself." placeholder:"T|period-end"`
}

func (c *seatTakeCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	err = a.until(c.Customer).read(asked{flag: "--expires-at", text: &c.ExpiresAt})
	if err = errors.Join(err, readSpan("--ttl", &c.TTL)); err != nil {
		return err
	}
	in := body("ttl", c.TTL, "expires_at", c.ExpiresAt)
	if c.Pending {
		in["state"] = "pending"
	}
	d, err := a.ask("PUT", path, in, a.showDecision)
	return verdict(d, err)
}

type seatFreeCmd struct{ seatOf }

func (c *seatFreeCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	cl, err := a.client()
	if err != nil {
		return err
	}
	if _, err := cl.send(a, "DELETE", path, "", nil); err != nil {
		return err
	}
	if a.cli.JSON {
		return a.printJSON(map[string]any{"holder": c.Holder, "state": "free"})
	}
	_, err = fmt.Fprintf(a.out, "freed: %s has no seat of %s at %s\n", c.Holder, c.Feature, c.Customer)
	return err
}

type seatListCmd struct{ seatsOf }

func (c *seatListCmd) Run(a *app) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	seats, err := a.all(path)
	if err != nil || a.cli.JSON {
		return err
	}
	var rows [][]string
	for _, s := range allIn(seats, a.zoneOf(c.Customer)) {
		limit, until := "within", s.text("expires_at")
		if s.bool("excess") {
			limit = "beyond"
		}
		if until == "" {
			until = "freed"
		}
		rows = append(rows, []string{s.text("holder"), s.text("state"), limit, s.text("since"), until})
	}
	return a.table("nobody holds a seat", []string{"HOLDER", "STATE", "LIMIT", "SINCE", "UNTIL"}, rows)
}
