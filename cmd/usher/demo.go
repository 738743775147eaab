package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/directory"
	"github.com/usher-sh/usher/internal/server"
	"github.com/usher-sh/usher/internal/usage"
)

//go:embed demo/catalog.yaml
var demoCatalog []byte

type demoCmd struct {
	Listen   string `help:"Address to listen on (default ${default})." default:"127.0.0.1:8080" placeholder:"HOST:PORT"`
	DB       string `name:"db" help:"New SQLite file to keep the demo in (default a temporary file)." placeholder:"FILE"`
	PortFile string `help:"File to write the listen address to." type:"path" placeholder:"FILE"`
}

func (c *demoCmd) Run(a *app) (err error) {
	listener, err := listen(c.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	db := c.DB
	if db == "" {
		dir, err := os.MkdirTemp("", "usher-demo-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		db = filepath.Join(dir, "demo.db")
	} else if _, err := os.Stat(db); err == nil {
		return usher.Errorf(usher.Conflict, "%s exists: the demo needs a new file; `usher serve --db %s` serves this one", db, db)
	}
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := open(a, "", server.Config{DB: db, PublicURL: "http://" + listener.Addr().String(), Log: log})
	if err != nil {
		return err
	}
	began := time.Now()
	fmt.Fprintln(a.err, "Making a demo company with a month of use …")
	var key string
	events, err := (&demo{Server: s, ctx: a, now: time.Now().UTC().Truncate(time.Second)}).make()
	if err == nil {
		key, _, err = s.Auth.Create(a, actorCLI, usher.Sandbox, "demo", auth.RoleAdmin, time.Time{})
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	return serve(a, s, listener, c.PortFile, func(address string) error {
		if a.cli.JSON {
			return a.printJSON(map[string]any{"url": "http://" + address, "key": key})
		}
		_, err := fmt.Fprintf(a.out, demoText, len(demoCustomers), events, time.Since(began).Seconds(), address, os.Args[0], key)
		return err
	})
}

const demoText = `A demo company sells a document API: %[1]d customers and %[2]d events, made in %.1[3]f s.
It is served here; Ctrl-C stops it. In another terminal:

  export USHER_URL=http://%[4]s
  export USHER_KEY=%[6]s

  %[5]s customer list                      # all customers, and what each one shows
  %[5]s check acme api_calls --amount 10   # may acme make 10 calls? yes
  %[5]s explain over-limit api_calls       # no, and why, and what would change it
  %[5]s check acme --member cleo --permission document.write   # no: ask an admin for a role
  %[5]s check acme --member ann --permission audit.read        # no: the role is there, the plan must be upgraded
  %[5]s consume acme exports               # decide and take in one step
  %[5]s seat list canceled members         # the holders of seats, and which are beyond the limit
  %[5]s denials                            # what was denied, or reported beyond the limits
  %[5]s usage acme api_calls --window day --group-by data.endpoint
`

// demoCustomer is one customer of the demo. Each shows something else, with as little use
// as that needs: the demo must start in seconds.
type demoCustomer struct {
	id, name, zone string
	plan           string // "" is the default plan
	began          int    // days ago
	addons         []customers.AddonInput
	trial          int          // days until the trial ends; 0: no trial
	status         usher.Status // set now
	calls          int          // over the last 30 days
	pages          int          // documents read over the last 30 days
	members        []string     // holders of seats, which are taken before status is set
	invited        []string     // holders of pending seats
}

var demoCustomers = []demoCustomer{
	{id: "acme", name: "Acme: pro, all well", plan: "pro", began: 100, zone: "America/New_York", calls: 2500, pages: 300,
		members: []string{"ann", "bob"}, invited: []string{"cleo"}},
	{id: "trial-ends", name: "Tria: the trial ends in two days", plan: "pro", began: 12, trial: 2, calls: 600, pages: 60},
	{id: "over-limit", name: "Overton: out of API calls", plan: "free", began: 20, zone: "Europe/Berlin", calls: 1300},
	{id: "past-due", name: "Pastoria: past due, in grace", plan: "pro", began: 45, status: usher.PastDueSt, calls: 400},
	{id: "suspended", name: "Susan & Co: suspended", plan: "pro", began: 60, status: usher.Suspended, calls: 200},
	{id: "canceled", name: "Cancello: canceled, with more members than it may have now", plan: "pro", began: 80, status: usher.Canceled,
		calls: 200, members: []string{"carla", "carlo", "carmen"}},
	{id: "exception", name: "Excepta: more retention by override", plan: "pro", began: 30, calls: 300},
	{id: "two-addons", name: "Addison: two call packs and the EU", plan: "pro", began: 50, calls: 700,
		addons: []customers.AddonInput{{Addon: "api-pack", Quantity: 2}, {Addon: "eu", Quantity: 1}}},
	{id: "grant-ends", name: "Grantham: a grant that ends tomorrow", plan: "pro", began: 25, calls: 500},
	{id: "overage", name: "Overland: in overage", plan: "business", began: 29, calls: 8500, pages: 100},
	{id: "downgrade", name: "Downing: goes down at the end of the period", plan: "business", began: 40, zone: "Asia/Tokyo", calls: 400},
	{id: "unlimited", name: "Unlimited Inc.: enterprise", plan: "enterprise", began: 200, calls: 900, pages: 100},
	{id: "brand-new", name: "Nova: came today, on the default plan"},
}

// demo creates the company.
type demo struct {
	*server.Server
	ctx context.Context
	now time.Time
}

const demoEnv = usher.Sandbox

// make creates the company and returns the number of its events.
func (d *demo) make() (int, error) {
	actor := usher.Actor{Kind: "system"}
	if _, err := d.Catalog.Apply(d.ctx, demoEnv, usher.By{Actor: actor}, demoCatalog, catalog.Options{}); err != nil {
		return 0, err
	}
	if err := d.Live.Refresh(d.ctx, demoEnv); err != nil {
		return 0, err
	}
	by := usher.By{Actor: actor}
	for i := range demoCustomers {
		if err := d.customer(by, &demoCustomers[i]); err != nil {
			return 0, fmt.Errorf("demo customer %s: %w", demoCustomers[i].id, err)
		}
	}
	if err := d.people(actor); err != nil {
		return 0, fmt.Errorf("demo members: %w", err)
	}
	n, err := d.events()
	if err != nil {
		return n, err
	}
	for i := range 3 { // some use is taken, not reported
		op := usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: "demo-export-" + strconv.Itoa(i), Amount: "1"}
		_, err := d.Usage.Consume(d.ctx, demoEnv, op)
		if err != nil {
			return n, err
		}
	}
	_, err = d.Usage.Reserve(d.ctx, demoEnv, usage.ReserveOp{TTL: usage.MaxTTL, // some is held by an export that runs
		ConsumeOp: usage.ConsumeOp{Customer: "acme", Feature: "exports", Key: "demo-export-running", Amount: "2"}})
	return n, err
}

func (d *demo) days(n int) *time.Time { t := d.now.AddDate(0, 0, n); return &t }

func (d *demo) customer(by usher.By, c *demoCustomer) error {
	_, _, err := d.Customers.PutCustomer(d.ctx, demoEnv, by, customers.Guard{}, c.id, customers.CustomerInput{Name: c.name, Timezone: c.zone})
	if err != nil || c.plan == "" {
		return err
	}
	in := customers.NewSubscription{Plan: c.plan, StartsAt: d.days(-c.began), Addons: c.addons, TrialEnd: customers.MaybeTime{Given: true}}
	if c.trial > 0 {
		in.TrialEnd.At = d.days(c.trial)
	}
	sub, err := d.Customers.Subscribe(d.ctx, demoEnv, by, customers.Guard{}, c.id, in)
	if err != nil {
		return err
	}
	if err := d.seats(c); err != nil {
		return err
	}
	if c.status != "" {
		patch := customers.SubscriptionPatch{Status: c.status}
		if _, err := d.Customers.PatchSubscription(d.ctx, demoEnv, by, customers.Guard{}, sub.ID, patch); err != nil {
			return err
		}
	}
	switch c.id {
	case "exception":
		_, err = d.Customers.AddOverride(d.ctx, demoEnv, by, customers.Guard{}, c.id, customers.NewOverride{
			Feature: "retention", Value: json.RawMessage("180"), Reason: "promised while the contract is negotiated", ExpiresAt: d.days(60)})
	case "grant-ends":
		_, err = d.Customers.AddGrant(d.ctx, demoEnv, by, customers.Guard{}, c.id, customers.NewGrant{Feature: "api_calls", Amount: "10000",
			Reason: "sorry for the outage", ExpiresAt: d.days(1)})
	case "downgrade":
		plan := "free"
		patch := customers.SubscriptionPatch{Plan: &plan, When: "period_end"}
		_, err = d.Customers.PatchSubscription(d.ctx, demoEnv, by, customers.Guard{}, sub.ID, patch)
	}
	return err
}

func (d *demo) seats(c *demoCustomer) error {
	take := func(holder string, op usage.SeatOp) error {
		op.Customer, op.Feature, op.Holder = c.id, "members", holder
		r, err := d.Usage.PutSeat(d.ctx, demoEnv, op)
		if err == nil && !r.Allowed {
			err = fmt.Errorf("no seat for %s: %s", holder, r.Reason)
		}
		return err
	}
	for _, h := range c.members {
		if err := take(h, usage.SeatOp{}); err != nil {
			return err
		}
	}
	for _, h := range c.invited {
		if err := take(h, usage.SeatOp{Pending: true, ExpiresAt: *d.days(7)}); err != nil {
			return err
		}
	}
	return nil
}

// people gives acme's members their roles. ann and bob already hold the seats that
// their roles need.
func (d *demo) people(actor usher.Actor) error {
	var c directory.Change
	for _, m := range []struct{ id, role string }{{"ann", "admin"}, {"bob", "editor"}, {"cleo", "viewer"}} {
		c.Members = append(c.Members, usher.Member{ID: m.id, Active: true})
		c.Assign = append(c.Assign, usher.Assignment{Holder: usher.Holder{ID: m.id}, Role: m.role, Reason: "the demo"})
	}
	_, err := d.Directory.Apply(d.ctx, demoEnv, usher.By{Actor: actor, Reason: "the demo"}, "acme", c)
	return err
}

// events reports a month of use, which is the same on the same day.
func (d *demo) events() (int, error) {
	random := rand.New(rand.NewPCG(7, uint64(d.now.Unix()/86400)))
	endpoints := []string{"documents", "documents", "documents", "search", "search", "users"}
	kinds := []string{"contract", "invoice", "letter"}
	var all []usher.Event
	add := func(c *demoCustomer, kind string, data map[string]any) error {
		b, err := json.Marshal(data)
		ago := time.Duration(random.Int64N(int64(min(30, c.began)) * int64(24*time.Hour)))
		all = append(all, usher.Event{ID: fmt.Sprintf("%06d", len(all)), Source: "demo", Type: kind, Subject: c.id,
			Time: d.now.Add(-ago).Truncate(time.Millisecond), Data: b})
		return err
	}
	for i := range demoCustomers {
		c := &demoCustomers[i]
		for range c.calls {
			if err := add(c, "api.request", map[string]any{"endpoint": endpoints[random.IntN(len(endpoints))]}); err != nil {
				return 0, err
			}
		}
		for range c.pages {
			if err := add(c, "document.read", map[string]any{"pages": 1 + random.IntN(4), "kind": kinds[random.IntN(len(kinds))]}); err != nil {
				return 0, err
			}
		}
		for day := range min(c.began, 30) {
			if day%5 == 0 {
				if err := add(c, "storage.sampled", map[string]any{"megabytes": 100 + random.IntN(300)}); err != nil {
					return 0, err
				}
			}
		}
	}
	for from := 0; from < len(all); from += 5000 {
		r, err := d.Usage.Ingest(d.ctx, demoEnv, all[from:min(from+5000, len(all))])
		if err != nil {
			return 0, err
		}
		if len(r.Rejected) > 0 {
			return 0, fmt.Errorf("demo event %d: %s", from+r.Rejected[0].Index, r.Rejected[0].Message)
		}
	}
	return len(all), nil
}
