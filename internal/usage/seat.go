package usage

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// SeatOp is a seat as asked for. Customer, Feature and Holder are required.
type SeatOp struct {
	Customer string
	Feature  string
	Holder   string
	Pending  bool // the holder is invited; a pending seat counts
	// ExpiresAt, or TTL from now, is when the seat ends by itself: an invitation
	// that expires, or a floating seat, which its holder keeps by asking again.
	// Both zero: it does not end by itself.
	ExpiresAt time.Time
	TTL       time.Duration
}

// callSeat names changes of seats. They have no key, so it is not stored.
const callSeat = "seat"

// PutSeat gives a holder a seat, or changes the seat that it has (S22). A denial is an
// answer, not an error. The same call again changes nothing.
func (u *Usage) PutSeat(ctx context.Context, env usher.Environment, op SeatOp) (usher.Decision, error) {
	if err := u.seats(env, op.Customer, op.Feature, op.Holder); err != nil {
		return usher.Decision{}, err
	}
	if op.TTL != 0 && !op.ExpiresAt.IsZero() {
		return usher.Decision{}, usher.Errorf(usher.Invalid, "give expires_at or ttl, not both")
	}
	t := &take{env: env, call: callSeat, customer: op.Customer, feature: op.Feature, amount: 1}
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		want := engine.Seat{Holder: op.Holder, Pending: op.Pending, Expires: op.ExpiresAt, At: w.now}
		if op.TTL != 0 {
			want.Expires = w.now.Add(op.TTL)
		}
		if !want.Expires.IsZero() && !want.Expires.After(w.now) {
			return engine.Effect{}, &usher.Error{Code: usher.Invalid, Detail: "the seat is not valid",
				Problems: []usher.Problem{{Location: "expires_at", Message: "must be later than now, " + w.now.Format(time.RFC3339)}}}
		}
		h := t.holder()
		if w.next.World.Known() {
			if err := b.ready(h, w, t.feature, w.now); err != nil {
				return engine.Effect{}, err
			}
		}
		was, err := b.tx.Seat(h, t.feature, op.Holder)
		if err != nil {
			return engine.Effect{}, err
		}
		if was != nil {
			want.At = was.At
		}
		e := engine.TakeSeat(w.next, t.customer, t.feature, was, want, w.now)
		shown := was
		if e.Seated {
			w.seated = true
			shown = &want
			switch {
			case was != nil && was.Pending == want.Pending && !was.Expires.IsZero() && !want.Expires.IsZero():
				err = b.tx.KeepSeat(h, t.feature, op.Holder, want.Expires)
			case was == nil || was.Pending != want.Pending || !was.Expires.Equal(want.Expires):
				if was != nil {
					err = b.tx.CloseSeat(h, t.feature, op.Holder, w.now)
				}
				if err == nil {
					err = b.tx.PutSeat(h, t.feature, want, w.now, false)
				}
			}
		}
		if shown != nil {
			s := seatOf(*shown)
			e.Decision.Seat = &s
		}
		return e, err
	}
	return u.take(ctx, t)
}

// DeleteSeat frees a holder's seat at once. It is not an error if the holder has none.
func (u *Usage) DeleteSeat(ctx context.Context, env usher.Environment, customer, feature, holder string) (usher.Decision, error) {
	if err := u.seats(env, customer, feature, holder); err != nil {
		return usher.Decision{}, err
	}
	t := &take{env: env, call: callSeat, customer: customer, feature: feature}
	t.decide = func(b *batchRun, w *world) (engine.Effect, error) {
		h := t.holder()
		was, err := b.tx.Seat(h, feature, holder)
		if err != nil {
			return engine.Effect{}, err
		}
		if err := b.load(h, w, []engine.BucketKey{{Feature: feature, Clock: engine.ClockSeats}}); err != nil {
			return engine.Effect{}, err
		}
		if w.next.World.Known() {
			if err := b.ready(h, w, feature, w.now); err != nil {
				return engine.Effect{}, err
			}
		}
		if was == nil || !w.next.World.Known() { // a deleted customer's seats stay with it (S36)
			return engine.Effect{Decision: engine.Decide(w.next, engine.Query{Customer: customer, Feature: feature}, w.now)}, nil
		}
		w.seated = true
		e := engine.FreeSeat(w.next, customer, feature, *was, w.now)
		return e, b.tx.CloseSeat(h, feature, holder, w.now)
	}
	return u.take(ctx, t)
}

// seats returns an error unless the ids are valid and the feature is unknown or of
// kind seats.
func (u *Usage) seats(env usher.Environment, customer, feature, holder string) error {
	for _, p := range []struct{ name, id string }{{"id", customer}, {"feature", feature}, {"holder", holder}} {
		if err := usher.CheckID(p.name, p.id); err != nil {
			return &usher.Error{Code: usher.Invalid, Detail: "the seat is not valid",
				Problems: []usher.Problem{{Location: p.name, Message: err.Error()}}}
		}
	}
	if f := u.cfg.Live.Book(env).Features[feature]; f != nil && f.Kind != usher.Seats {
		return usher.Errorf(usher.Refused, "%s is of kind %s, not seats: it has no holders", f.Key, f.Kind)
	}
	return nil
}

func seatOf(s engine.Seat) usher.Seat {
	out := usher.Seat{Holder: s.Holder, State: usher.SeatActive, Since: s.At, ExpiresAt: s.Expires}
	if s.Pending {
		out.State = usher.SeatPending
	}
	return out
}

// Seats lists the holders of a feature's seats, oldest first, at most limit, and
// returns the cursor of the next page, "" after the last. If there are more seats than
// the plan gives, the newest are marked as excess (S19).
func (u *Usage) Seats(ctx context.Context, env usher.Environment, customer, feature, cursor string, limit int) (
	[]usher.Seat, string, error) {
	if err := u.seats(env, customer, feature, "-"); err != nil {
		return nil, "", err
	}
	var after time.Time
	var holder string
	if cursor != "" {
		text, err := base64.RawURLEncoding.DecodeString(cursor)
		since, name, ok := strings.Cut(string(text), " ")
		us, err2 := strconv.ParseInt(since, 10, 64)
		if err != nil || err2 != nil || !ok {
			return nil, "", &usher.Error{Code: usher.Invalid, Detail: "the cursor is not valid",
				Problems: []usher.Problem{{Location: "cursor", Message: "must be the next_cursor of the page before"}}}
		}
		after, holder = time.UnixMicro(us).UTC(), name
	}
	now := u.cfg.Live.Now(env)
	s, err := u.cfg.Live.Snapshot(ctx, env, customer, now)
	if err != nil {
		return nil, "", err
	}
	if !s.World.Known() {
		return nil, "", usher.Errorf(usher.NotFound, "no customer %q", customer)
	}
	if u.cfg.Live.Book(env).Features[feature] == nil {
		return nil, "", usher.Errorf(usher.NotFound, "no feature %q", feature)
	}
	held, before, err := u.cfg.DB.Seats(ctx, env, customer, feature, now, after, holder, limit+1)
	if err != nil {
		return nil, "", err
	}
	d := engine.Decide(s, engine.Query{Customer: customer, Feature: feature}, now)
	permitted := int64(-1) // unlimited
	if !d.Unlimited {
		permitted = d.Used + d.Reserved - d.Excess
		if d.Excess == 0 { // what is free counts too: another node may have given a seat since
			permitted += d.Remaining
		}
	}
	next := ""
	if len(held) > limit {
		held = held[:limit]
		last := held[limit-1]
		next = base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(last.At.UnixMicro(), 10) + " " + last.Holder))
	}
	out := make([]usher.Seat, len(held))
	for i := range held {
		out[i] = seatOf(held[i])
		out[i].Excess = permitted >= 0 && before+int64(i) >= permitted
	}
	return out, next, nil
}
