package customers

import (
	"context"
	"time"

	"github.com/usher-sh/usher"
)

// Clock returns what time it is in an environment. set reports whether that is the
// sandbox's own clock, which stands still between calls of SetClock.
func (s *Service) Clock(ctx context.Context, env usher.Environment) (now time.Time, set bool, err error) {
	st, err := s.cfg.DB.Environment(ctx, env)
	if err != nil {
		return time.Time{}, false, err
	}
	if !st.Clock.IsZero() {
		return st.Clock, true, nil
	}
	return s.cfg.Live.Now(env), false, nil
}

// SetClock sets the sandbox's clock, which never goes back. It returns Refused for
// production and Conflict for a time before the current one. Once it returns, this node answers
// by the new time, other nodes when they next look for changes.
func (s *Service) SetClock(ctx context.Context, env usher.Environment, by usher.By, now time.Time) error {
	if err := s.cfg.DB.SetClock(ctx, env, now, by, s.cfg.Live.Now(env)); err != nil {
		return err
	}
	return s.cfg.Live.Refresh(context.WithoutCancel(ctx), env)
}
