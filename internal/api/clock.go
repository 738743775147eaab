package api

import (
	"context"
	"time"

	"github.com/usher-sh/usher/internal/store"
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

var (
	putClockDoc = doc{ID: "setClock", Tag: "Clock", Summary: "Set the sandbox's clock",
		Text: "It stands still between calls and never goes back. Production has no such clock: 422."}
	getClockDoc = doc{ID: "getClock", Tag: "Clock", Summary: "What time it is in the environment"}
)

func (a *API) putClock(ctx context.Context, c *call, in *clockIn) (*clockOut, error) {
	t, err := when("body.now", in.Body.Now)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, invalid("body.now", "must be a time")
	}
	err = a.DB.SetClock(ctx, c.Env, *t, store.Meta{Actor: c.Actor.String(), Action: "clock.set", Object: "clock", RequestID: c.RequestID, At: a.Live.Now(c.Env)})
	if err != nil {
		return nil, err
	}
	if err := a.Live.Refresh(context.WithoutCancel(ctx), c.Env); err != nil {
		return nil, err
	}
	return a.getClock(ctx, c, nil)
}

func (a *API) getClock(ctx context.Context, c *call, _ *struct{}) (*clockOut, error) {
	st, err := a.DB.Environment(ctx, c.Env)
	if err != nil {
		return nil, err
	}
	out := &clockOut{}
	out.Body.Now, out.Body.Test = a.Live.Now(c.Env), !st.Clock.IsZero()
	if out.Body.Test {
		out.Body.Now = st.Clock
	}
	return out, nil
}
