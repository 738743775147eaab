// Package customers makes every change to what a customer holds: the customer
// itself, its subscriptions, overrides and grants. It also previews such changes. It
// does not decide (the engine does) and does not change the catalogue. A change is
// applied as a whole; if another change came in between, it is computed again.
package customers

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
)

// Config is what the service needs. DB and Live are required.
type Config struct {
	DB   *store.DB
	Live *live.Live
	// NewID makes a new id with a prefix; nil is usher.NewID with the time now.
	NewID func(prefix string) string
}

// Service changes what customers hold. Its methods are safe for concurrent use.
type Service struct{ cfg Config }

// New returns a Service. It starts nothing.
func New(cfg Config) *Service {
	if cfg.NewID == nil {
		cfg.NewID = func(prefix string) string { return usher.NewID(prefix, time.Now(), nil) }
	}
	return &Service{cfg}
}

// Guard protects a change: IfMatch against a customer that another caller has changed
// meanwhile, Answer against being made twice. The zero Guard does neither.
type Guard struct {
	// IfMatch is an If-Match header: the customer's revision in double quotes,
	// or *. The method returns PreconditionFailed for a customer at another
	// revision. "" accepts any.
	IfMatch string
	// answer is set by Once: the change completes it and stores it (S13); nil: the
	// caller gave no idempotency key.
	answer *store.StoredAnswer
}

// held is what a change is computed from: everything recorded about one
// customer, the catalogue of the same moment, and the time.
type held struct {
	store.CustomerState
	id      string
	now     time.Time
	book    *engine.Book
	catalog *usher.Catalog
	used    bool // use was ever counted for the customer
}

// read loads a customer and the catalogue that belongs to it.
func (s *Service) read(ctx context.Context, env usher.Environment, customer string) (h *held, err error) {
	err = s.cfg.Live.Retry(ctx, env, func() error {
		h, err = s.tryRead(ctx, env, customer)
		return err
	})
	return h, err
}

// tryRead loads a customer and the catalogue that belongs to it. It returns
// store.ErrStale if another catalogue came into force meanwhile.
func (s *Service) tryRead(ctx context.Context, env usher.Environment, customer string) (*held, error) {
	st, err := s.cfg.DB.LoadCustomer(ctx, env, customer, 0)
	if err != nil {
		return nil, err
	}
	// The customer was read from the database, the catalogue from memory. Both must be of
	// one revision, because references of the one are looked up in the other.
	if s.cfg.Live.CatalogRevision(env) < st.CatalogRevision {
		if err := s.cfg.Live.Refresh(ctx, env); err != nil {
			return nil, err
		}
	}
	before := s.cfg.Live.CatalogRevision(env)
	h := &held{CustomerState: st, id: customer, now: s.cfg.Live.Now(env),
		book: s.cfg.Live.Book(env), catalog: s.cfg.Live.Catalog(env)}
	if before != st.CatalogRevision || s.cfg.Live.CatalogRevision(env) != before {
		return nil, store.ErrStale
	}
	// The clock of a sandbox as the same transaction read it, so that time and state belong
	// together.
	if !st.Clock.IsZero() {
		h.now = st.Clock
	}
	h.used, err = s.cfg.DB.HasUse(ctx, env, customer)
	return h, err
}

// must returns NotFound if the customer is unknown or deleted.
func (h *held) must() error {
	if h.Customer == nil {
		return usher.Errorf(usher.NotFound, "no customer %q", h.id)
	}
	return nil
}

// zone returns the customer's newest zone. Trials and grace periods are counted in it.
func (h *held) zone() *time.Location {
	return h.zoneOf(h.Customer.Clocks[len(h.Customer.Clocks)-1])
}

func (h *held) zoneOf(c usher.Clock) *time.Location {
	name := c.Timezone
	if name == "" {
		name = h.book.Timezone
	}
	zone, err := calendar.Zone(name)
	if err != nil {
		return time.UTC
	}
	return zone
}

// change reads a customer, computes a change and applies it. If another change was
// committed in between, it starts over (live.Change). compute fills in c and returns a
// function from the revision of the change to the answer. If it returns nil for that,
// nothing is to be changed, and found is the answer.
func change[T any](ctx context.Context, s *Service, env usher.Environment, by usher.By, guard Guard, customer, action string,
	compute func(h *held, c *store.CustomerChange) (found T, made func(revision int64) T, err error)) (T, error) {
	var answer T
	err := s.cfg.Live.Change(ctx, env, customer, func() error {
		h, err := s.tryRead(ctx, env, customer)
		if err != nil {
			return err
		}
		tag := strconv.Quote(strconv.FormatInt(h.Revision, 10))
		if guard.IfMatch != "" && guard.IfMatch != tag && (guard.IfMatch != "*" || h.Customer == nil) {
			return usher.Errorf(usher.PreconditionFailed, "If-Match is %.80s, but customer %q is at revision %s", guard.IfMatch, customer, tag)
		}
		c := store.CustomerChange{Env: env, Customer: customer, Basis: h.Revision, BasisCatalog: h.CatalogRevision,
			Note: store.Note{By: by, Action: action, Object: customer, At: h.now}}
		old := h.copied() // compute changes h to the state after the change
		found, made, err := compute(h, &c)
		if err != nil || made == nil {
			answer = found
			return err
		}
		if err := old.audit(&c); err != nil {
			return err
		}
		if guard.answer != nil {
			// The answer contains the revision, which only the transaction knows: the store
			// calls BodyAt in it.
			a := *guard.answer
			a.Customer, a.At = customer, h.now
			a.BodyAt = func(revision int64) ([]byte, error) { return encode(made(revision)) }
			c.Answer = &a
		}
		revision, err := s.cfg.DB.ChangeCustomer(ctx, c)
		if err == nil {
			answer = made(revision)
		}
		return err
	})
	return answer, err
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimRight(b.Bytes(), "\n"), err
}

// problems collects what is wrong with an input, so that the caller sees all of it.
type problems []usher.Problem

func (p *problems) add(location, format string, args ...any) {
	*p = append(*p, usher.Problem{Location: location, Message: fmt.Sprintf(format, args...)})
}

// note adds the problems of an Invalid error, or the error itself as one problem.
func (p *problems) note(location string, err error) {
	var e *usher.Error
	switch {
	case err == nil:
	case errors.As(err, &e) && len(e.Problems) > 0:
		for _, q := range e.Problems {
			p.add(cmp.Or(q.Location, location), "%s", q.Message)
		}
	default:
		p.add(location, "%s", err)
	}
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	words := "the request has 1 problem"
	if len(p) > 1 {
		words = fmt.Sprintf("the request has %d problems", len(p))
	}
	return &usher.Error{Code: usher.Invalid, Detail: words + ": " + p[0].Location + " " + p[0].Message, Problems: p}
}

// page returns up to limit elements of all after an id, and the cursor of the next
// page, "" after the last. all must be sorted by id.
func page[T any](all []T, id func(*T) string, after string, limit int) ([]T, string) {
	i, found := slices.BinarySearchFunc(all, after, func(v T, after string) int { return strings.Compare(id(&v), after) })
	if found {
		i++
	}
	all = all[i:]
	if len(all) <= limit {
		return all, ""
	}
	return all[:limit], id(&all[limit-1])
}

// untidy returns what is wrong with s, which must be plain text of at most n bytes; ""
// if nothing is.
func untidy(s string, n int) string {
	switch {
	case len(s) > n:
		return fmt.Sprintf("must be at most %d bytes, this is %d", n, len(s))
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		return "must be valid UTF-8 without control characters"
	}
	return ""
}

func minute(t time.Time) time.Time { return t.UTC().Truncate(time.Minute) }

func micro(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func microp(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	v := micro(*t)
	return &v
}
