package customers

import (
	"context"
	"slices"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// ExceptionPatch changes the end or the reason of an override or a grant (S53). A zero
// field leaves what it names as it is; at least one must be set.
type ExceptionPatch struct {
	ExpiresAt *time.Time // a new end, later than now
	Expires   string     // "never": no end; not together with ExpiresAt
	Reason    string
}

// apply returns the end and the reason after the patch. The exception must not have ended:
// a later end would change how use in between was counted.
func (x *ExceptionPatch) apply(h *held, begins time.Time, end *time.Time, reason string) (*time.Time, string, error) {
	var p problems
	if x.ExpiresAt == nil && x.Expires == "" && x.Reason == "" {
		p.add("", "must have at least one of expires_at, expires and reason")
	}
	switch next := microp(x.ExpiresAt); {
	case x.Expires != "" && x.Expires != "never":
		p.add("expires", `must be "never", or absent if expires_at is given, got %.40q`, x.Expires)
	case x.Expires != "" && next != nil:
		p.add("expires_at", `give one of "expires_at" and "expires": "never", or neither`)
	case x.Expires != "":
		end = nil
	case next == nil:
	case !next.After(h.now):
		p.add("expires_at", "must be later than now (%s)", h.now.Format(time.RFC3339Nano))
	case !next.After(begins):
		p.add("expires_at", "must be after effective_at (%s)", begins.Format(time.RFC3339Nano))
	default:
		end = next
	}
	if x.Reason != "" {
		p.reason(x.Reason)
		reason = x.Reason
	}
	return end, reason, p.err()
}

// PatchOverride changes the end or the reason of an override. It returns NotFound if
// there is none, and Conflict if it has ended.
func (s *Service) PatchOverride(ctx context.Context, env usher.Environment, by usher.By, guard Guard, id string, in ExceptionPatch) (
	Override, error) {
	o, err := s.cfg.DB.Override(ctx, env, id)
	if err != nil {
		return Override{}, err
	}
	patch := func(h *held, c *store.CustomerChange) (none Override, made func(int64) Override, err error) {
		i := slices.IndexFunc(h.Overrides, func(o usher.Override) bool { return o.ID == id })
		if h.Customer == nil || i < 0 {
			return none, nil, usher.Errorf(usher.NotFound, "no override %q", id)
		}
		o := h.Overrides[i]
		if o.ExpiresAt != nil && !o.ExpiresAt.After(h.now) {
			return none, nil, usher.Errorf(usher.Conflict, "override %s ended at %s: make a new one", id, o.ExpiresAt.Format(time.RFC3339))
		}
		if o.ExpiresAt, o.Reason, err = in.apply(h, time.Time{}, o.ExpiresAt, o.Reason); err != nil {
			return none, nil, err
		}
		if was := &h.Overrides[i]; sameTime(was.ExpiresAt, o.ExpiresAt) && was.Reason == o.Reason {
			return h.showOverride(was, h.Revision), nil, nil
		}
		c.Overrides = []usher.Override{o}
		c.Note.Object = id
		return none, func(revision int64) Override { return h.showOverride(&o, revision) }, nil
	}
	return change(ctx, s, env, by, guard, o.Customer, "override.change", patch)
}

// PatchGrant changes the end or the reason of a grant. It returns NotFound if there is
// none, and Conflict if it has ended or was voided.
func (s *Service) PatchGrant(ctx context.Context, env usher.Environment, by usher.By, guard Guard, id string, in ExceptionPatch) (
	Grant, error) {
	g, err := s.cfg.DB.Grant(ctx, env, id)
	if err != nil {
		return Grant{}, err
	}
	patch := func(h *held, c *store.CustomerChange) (none Grant, made func(int64) Grant, err error) {
		i := slices.IndexFunc(h.Grants, func(g usher.Grant) bool { return g.ID == id })
		if h.Customer == nil || i < 0 {
			return none, nil, usher.Errorf(usher.NotFound, "no grant %q", id)
		}
		g := h.Grants[i]
		switch {
		case g.VoidedAt != nil:
			return none, nil, usher.Errorf(usher.Conflict, "grant %s was voided at %s: make a new one", id, g.VoidedAt.Format(time.RFC3339))
		case g.ExpiresAt != nil && !g.ExpiresAt.After(h.now):
			return none, nil, usher.Errorf(usher.Conflict, "grant %s ended at %s: make a new one", id, g.ExpiresAt.Format(time.RFC3339))
		}
		if g.ExpiresAt, g.Reason, err = in.apply(h, g.EffectiveAt, g.ExpiresAt, g.Reason); err != nil {
			return none, nil, err
		}
		if was := &h.Grants[i]; sameTime(was.ExpiresAt, g.ExpiresAt) && was.Reason == g.Reason {
			return h.showGrant(was, h.Revision), nil, nil
		}
		c.Grants = []usher.Grant{g}
		c.Note.Object = id
		return none, func(revision int64) Grant { return h.showGrant(&g, revision) }, nil
	}
	return change(ctx, s, env, by, guard, g.Customer, "grant.change", patch)
}

func sameTime(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}
