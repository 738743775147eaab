package main

import "fmt"

type clockCmd struct {
	Get clockGetCmd `cmd:"" help:"Print the time of the environment."`
	Set clockSetCmd `cmd:"" help:"Set a sandbox's clock, which then stands still; once there is a catalogue or a customer, it only moves forward."`
}

type clockGetCmd struct{}

func (clockGetCmd) Run(a *app) error {
	_, err := a.ask("GET", "/v1/clock", nil, a.showClock)
	return err
}

type clockSetCmd struct {
	Now string `arg:"" name:"T" help:"Time, such as 2026-03-31, or a span forward, such as 14d."`
}

func (c *clockSetCmd) Run(a *app) error {
	if err := a.ahead().read(asked{flag: "T", text: &c.Now}); err != nil {
		return err
	}
	_, err := a.ask("PUT", "/v1/clock", body("now", c.Now), a.showClock)
	return err
}

func (a *app) showClock(o object) {
	line := o.text("now")
	if o.bool("test") {
		line += " (set; it stands still)"
	}
	fmt.Fprintln(a.out, line)
}
