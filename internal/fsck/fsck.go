// Package fsck computes from the ledger what follows from it, compares that
// with what is stored, and mends differences where it is asked to. It never
// changes the ledger itself.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
)

// Options say how a database is checked. The zero value checks and repairs
// nothing.
type Options struct {
	Repair   bool                           // rewrite what follows from the ledger
	Now      func() time.Time               // the real clock; nil is time.Now
	Keys     int                            // sums held in memory at once, more take several passes; 0 is 500,000
	Progress func(doing string, rows int64) // now and then; nil is nobody
}

// Report is what a check found.
type Report struct {
	Takes       int64 `json:"takes"` // stored answers that took, held or denied
	Folded      int64 `json:"folded"`
	Events      int64 `json:"events"`
	Holds       int64 `json:"holds"`
	Seats       int64 `json:"seats"` // held
	Corrections int64 `json:"corrections"`
	Buckets     int64 `json:"buckets"`
	Rollups     int64 `json:"rollups"` // by clock and by dimension
	Seen        int64 `json:"seen"`
	Denials     int64 `json:"denials"`
	Passes      int   `json:"passes"` // over the ledger

	Repaired    int64        `json:"repaired,omitempty"` // rows rewritten before this check
	Mended      []Difference `json:"mended,omitempty"`   // which; of the first 1,000 differences
	Total       int64        `json:"total"`              // differences; Differences lists the first 1,000
	Differences []Difference `json:"differences"`
}

// Difference is one place where the ledger and what is stored do not agree.
type Difference struct {
	What        string            `json:"what"` // "bucket", "minute", "hour", "day", "seen", "denial", "reservation", "correction", "take", "event", …
	Environment usher.Environment `json:"environment"`
	Customer    string            `json:"customer"`
	Feature     string            `json:"feature,omitempty"`
	Name        string            `json:"name,omitempty"`  // the clock, the dimension, the reservation, the key
	Start       string            `json:"start,omitempty"` // of the window or the span
	Ledger      string            `json:"ledger"`
	Stored      string            `json:"stored"`
	Derived     bool              `json:"derived"` // it follows from the ledger, so that a repair can rewrite it
}

func (d Difference) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of %s/%s", d.What, d.Environment, d.Customer)
	for _, s := range []string{d.Feature, d.Name} {
		if s != "" {
			b.WriteString(" " + s)
		}
	}
	if d.Start != "" {
		b.WriteString(" from " + d.Start)
	}
	fmt.Fprintf(&b, ": the ledger says %s, stored is %s", d.Ledger, d.Stored)
	return b.String()
}

const (
	maxDifferences = 1000
	fsckKeys       = 500_000
	maxParts       = 1 << 16
	fixesAtOnce    = 200
	progressRows   = 20_000
)

// Run computes from the ledger (stored takes, folded ones, events, open
// reservations and seats) what is derived of it (buckets, rollups, seen values,
// denials), and compares exactly (I4). It reads one state of the database
// beside running servers. With Repair it keeps writers away, rewrites what
// differs and is derived, and checks again; what a damaged ledger row might
// have counted in is left alone.
func Run(ctx context.Context, db *store.DB, o Options) (Report, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Keys <= 0 {
		o.Keys = fsckKeys
	}
	if !o.Repair {
		return check(ctx, db, o)
	}
	var first, second Report
	err := db.Quiet(ctx, func() (err error) {
		if first, err = check(ctx, db, o); err != nil || first.Total == 0 {
			second = first
			return err
		}
		o.Repair = false
		second, err = check(ctx, db, o)
		second.Repaired = first.Repaired
		second.Mended = slices.DeleteFunc(first.Differences, func(d Difference) bool { return !d.Derived })
		return err
	})
	return second, err
}

func check(ctx context.Context, db *store.DB, o Options) (r Report, err error) {
	// Answers older than Kept may have been folded already, denials among them;
	// an hour more, in case this machine's clock is not the server's.
	cutoff := o.Now().Add(-ledger.Kept + time.Hour).UnixMicro()
	err = db.Scan(ctx, func(s *store.Scan) error {
		c := &checker{ctx: ctx, db: db, s: s, o: &o, r: &r, cutoff: cutoff, spoiled: map[store.Holder]bool{}, seats: map[featureOf]bool{}}
		if err := s.Catalogs(c.catalog); err != nil {
			return err
		}
		for c.parts = 1; ; c.parts *= 4 {
			err := c.run()
			if !errors.Is(err, errFull) {
				return err
			}
			r = Report{Passes: r.Passes}
		}
	})
	if r.Differences == nil {
		r.Differences = []Difference{}
	}
	return r, err
}

// errFull means that more sums are needed than memory should hold.
var errFull = errors.New("fsck: too many sums for one pass")

// placeOf is one feature of a customer: the unit that passes are divided by.
type placeOf struct {
	store.Holder
	feature string
}

type featureOf struct {
	env     usher.Environment
	feature string
}

type checker struct {
	ctx    context.Context
	db     *store.DB
	s      *store.Scan
	o      *Options
	r      *Report
	cutoff int64 // µs: what is older may have been folded

	part, parts uint32
	places      map[placeOf]uint32
	placeList   []placeOf
	names       map[string]uint32
	nameList    []string
	sums        map[sumKey]sum
	ties        map[sumKey][]int64 // further values of a last gauge's newest instant

	spoiled map[store.Holder]bool // with ledger rows that cannot be read
	seats   map[featureOf]bool    // whose refusals leave nothing in the ledger
	fixes   []fix
	doing   string
	rows    int64
}

func (c *checker) catalog(env usher.Environment, text string) error {
	if !strings.Contains(text, "seats") {
		return nil
	}
	cat, err := catalogfile.Parse("catalogue", []byte(text))
	if err != nil {
		return fmt.Errorf("a catalogue of %s cannot be read: %w", env, err)
	}
	for key, f := range cat.Features {
		if f.Kind == usher.Seats {
			c.seats[featureOf{env, key}] = true
		}
	}
	return nil
}

// run makes one pass for each part.
func (c *checker) run() error {
	clear(c.spoiled)
	for c.part = 0; c.part < c.parts; c.part++ {
		c.r.Passes++
		c.places, c.placeList, c.names, c.nameList = map[placeOf]uint32{}, nil, map[string]uint32{}, nil
		c.sums, c.ties = map[sumKey]sum{}, map[sumKey][]int64{}
		for _, step := range []struct {
			name string
			do   func() error
		}{
			{"takes", func() error { return c.s.Ops(c.op) }},
			{"folded takes", func() error { return c.s.Folded(c.folded) }},
			{"events", func() error { return c.s.Events(c.event) }},
			{"corrections", func() error { return c.s.Corrections(c.correction) }},
			{"reservations", func() error { return c.s.Holds(c.hold) }},
			{"seats", func() error { return c.s.OpenSeats(c.seat) }},
			{"buckets", func() error { return c.s.Buckets(c.bucket) }},
			{"rollups", func() error { return c.s.Rollups(c.rollup) }},
			{"seen values", func() error { return c.s.Seen(c.seen) }},
			{"denials", func() error { return c.s.Denials(c.denial) }},
			{"what is missing", c.missing},
		} {
			c.doing, c.rows = step.name, 0
			if err := step.do(); err != nil {
				return err
			}
		}
		if err := c.mend(0); err != nil {
			return err
		}
	}
	return nil
}

// row counts one row of the ledger, which every pass reads.
func (c *checker) row(n *int64) error {
	if c.part == 0 {
		*n++
	}
	if c.rows++; c.rows%progressRows == 0 {
		if c.o.Progress != nil {
			c.o.Progress(c.doing, c.rows)
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
	}
	if c.part == 0 && len(c.sums) > c.o.Keys && c.parts < maxParts {
		return errFull
	}
	return nil
}

// mine reports whether a feature of a customer is checked in this pass.
func (c *checker) mine(h store.Holder, feature string) bool {
	if c.parts == 1 {
		return true
	}
	f := fnv.New32a()
	for _, s := range []string{string(h.Env), h.Customer, feature} {
		f.Write([]byte(s))
		f.Write([]byte{0})
	}
	return f.Sum32()%c.parts == c.part
}
