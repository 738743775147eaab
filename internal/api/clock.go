package api

import (
	"context"
	"time"

	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

type clockIn struct {
	Body struct {
		Now string `json:"now" format:"date-time"`
	}
}

type clockOut struct {
	Body struct {
		Now  time.Time `json:"now"`
		Test bool      `json:"test" doc:"Whether the clock is set: it then stands still"`
	}
}

// clockRoutes registers the time of an environment. A test of a product must
// see a trial end or a month begin without waiting, so the sandbox's clock can
// be set, and then stands still. Production always has the server's time.
func (a *api) clockRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "PUT /v1/clock", Perm: auth.PermClockWrite,
		ID: "setClock", Tag: "Clock", Summary: "Set the sandbox's clock",
		Text:    "It stands still between calls and never goes back. Production has no such clock: 422.",
		Example: `{"now":"2026-04-01T00:00:00Z"}`,
		Answer:  `{"now":"2026-04-01T00:00:00Z","test":true}`}, a.putClock)
	door.Register(d, door.Route{Pattern: "GET /v1/clock", Perm: auth.PermClockRead,
		ID: "getClock", Tag: "Clock", Summary: "What time it is in the environment",
		Answer: `{"now":"2026-03-10T12:00:00Z","test":false}`}, a.getClock)
}

func (a *api) putClock(ctx context.Context, c *door.Call, in *clockIn) (*clockOut, error) {
	t, err := door.When("body.now", in.Body.Now)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, door.Invalid("body.now", "must be a time")
	}
	if err := a.Customers.SetClock(ctx, c.Env, c.By(), *t); err != nil {
		return nil, err
	}
	return a.getClock(ctx, c, nil)
}

func (a *api) getClock(ctx context.Context, c *door.Call, _ *struct{}) (*clockOut, error) {
	now, set, err := a.Customers.Clock(ctx, c.Env)
	if err != nil {
		return nil, err
	}
	out := &clockOut{}
	out.Body.Now, out.Body.Test = now, set
	return out, nil
}
