package main

import (
	"net/url"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

type usageCmd struct {
	Customer string `arg:"" help:"Id of the customer."`
	Feature  string `arg:"" help:"Key of a metered feature."`
	From     string `help:"Start; a span is back from now (default 30 days before --to)." placeholder:"T"`
	To       string `help:"End, exclusive; a span is back from now (default the end of the environment's current minute)." placeholder:"T"`
	Window   string `help:"Window, one of ${enum} (default ${default})." default:"day" enum:"minute,hour,day,month"`
	GroupBy  string `help:"Dimension of the feature's meter, such as data.model." placeholder:"PATH"`
}

func (c *usageCmd) Run(a *app) error {
	from, to, err := a.span(c.From, c.To)
	if err != nil {
		return err
	}
	q := url.Values{"customer": {c.Customer}, "feature": {c.Feature}, "from": {from}, "to": {to}, "window": {c.Window}}
	heading := []string{"START", "END", "VALUE"}
	if c.GroupBy != "" {
		q.Set("group_by", c.GroupBy)
		heading = append(heading, strings.ToUpper(strings.TrimPrefix(c.GroupBy, "data.")))
	}
	zone := a.zoneOf(c.Customer)
	var shown error
	_, err = a.ask("GET", "/v1/usage?"+q.Encode(), nil, func(o object) {
		var rows [][]string
		for _, p := range o.in(zone).list("data") {
			row := []string{p.text("start"), p.text("end"), p.text("value")}
			if c.GroupBy != "" {
				row = append(row, p.object("group").text(c.GroupBy))
			}
			rows = append(rows, row)
		}
		shown = a.table("no use", heading, rows)
	})
	if err == nil {
		err = shown
	}
	return err
}

// span fills in --from and --to: by default the 30 days that end with the
// environment's present minute.
func (a *app) span(from, to string) (string, string, error) {
	if err := a.ago().read(asked{flag: "--from", text: &from}, asked{flag: "--to", text: &to}); err != nil {
		return "", "", err
	}
	if to == "" {
		now, err := a.present()
		if err != nil {
			return "", "", err
		}
		to = now.UTC().Truncate(time.Minute).Add(time.Minute).Format(time.RFC3339)
	}
	if from == "" {
		t, err := time.Parse(time.RFC3339, to)
		if err != nil {
			return "", "", err
		}
		from = t.AddDate(0, 0, -30).UTC().Format(time.RFC3339)
	}
	return from, to, nil
}

// present returns the environment's time, or this machine's time if the key may not read
// that.
func (a *app) present() (time.Time, error) {
	cl, err := a.client()
	if err != nil {
		return time.Time{}, err
	}
	_, o, err := cl.call(a, "GET", "/v1/clock", nil)
	if usher.ErrorCode(err) == usher.Forbidden {
		return time.Now(), nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339, o.text("now"))
}
