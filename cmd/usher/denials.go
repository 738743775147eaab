package main

import "net/url"

type denialsCmd struct {
	Customer string `help:"Only this customer." placeholder:"C"`
	Feature  string `help:"Only this feature." placeholder:"F"`
	Outcome  string `help:"Only this outcome: denied, warned, shadowed, or excess (reported beyond every limit)." placeholder:"O"`
	From     string `help:"From the hour of this time on; a span is back from now (default 30 days before --to)." placeholder:"T"`
	To       string `help:"End, exclusive; a span is back from now (default the end of the environment's current minute)." placeholder:"T"`
}

func (c *denialsCmd) Run(a *app) error {
	from, to, err := a.span(c.From, c.To)
	if err != nil {
		return err
	}
	q := url.Values{"from": {from}, "to": {to}}
	for name, v := range map[string]string{"customer": c.Customer, "feature": c.Feature, "outcome": c.Outcome} {
		if v != "" {
			q.Set(name, v)
		}
	}
	var shown error
	_, err = a.ask("GET", "/v1/denials?"+q.Encode(), nil, func(o object) {
		var rows [][]string
		for _, d := range o.list("data") {
			rows = append(rows, []string{d.text("customer"), d.text("feature"), d.text("outcome"), d.text("reason"), d.text("count"),
				d.text("amount"), d.text("first"), d.text("last")})
		}
		shown = a.table("no denials", []string{"CUSTOMER", "FEATURE", "OUTCOME", "REASON", "COUNT", "AMOUNT", "FIRST HOUR", "LAST HOUR"}, rows)
	})
	if err == nil {
		err = shown
	}
	return err
}
