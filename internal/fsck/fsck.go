// Package fsck checks the database: it computes from the ledger everything that follows
// from it, compares that exactly with what is stored (I4), and repairs differences if
// asked to. It never changes the ledger itself.
//
// The ledger is the stored takes, the folded takes, the events, the corrections, and
// the open reservations and seats. Buckets, rollups, values seen by unique meters and
// counts of denials follow from it. compute.go adds the ledger up into sums. compare.go
// reads each stored row, compares it with its sum, and removes the sum; a sum that is
// left in the end has no row. mend.go rewrites rows.
//
// Sums are held in memory. If there are too many, the features of customers are divided
// into parts by a hash, and each part is checked in a pass of its own over the whole
// ledger.
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

// Options say how a database is checked. The zero value checks and repairs nothing.
type Options struct {
	Repair   bool                           // rewrite rows that differ from what follows from the ledger
	Now      func() time.Time               // the real clock; nil is time.Now
	Keys     int                            // sums held in memory at once (more take several passes); 0 is 500,000
	Progress func(doing string, rows int64) // called every 20,000 rows; nil is not called
}

// Report is what a check found.
type Report struct {
	Takes       int64 `json:"takes"`  // stored answers of takes
	Folded      int64 `json:"folded"` // sums of takes whose answers are no longer stored
	Events      int64 `json:"events"`
	Holds       int64 `json:"holds"`
	Seats       int64 `json:"seats"` // taken now
	Corrections int64 `json:"corrections"`
	Buckets     int64 `json:"buckets"`
	Rollups     int64 `json:"rollups"` // by clock and by dimension
	Seen        int64 `json:"seen"`    // values of unique meters, by minute
	Denials     int64 `json:"denials"` // by hour
	Passes      int   `json:"passes"`  // over the ledger

	Repaired    int64        `json:"repaired,omitempty"` // rows rewritten before this check
	Mended      []Difference `json:"mended,omitempty"`   // of the first 1,000 differences, the rows that were rewritten
	Total       int64        `json:"total"`              // how many differences; Differences lists the first 1,000
	Differences []Difference `json:"differences"`
}

// Difference is one row that differs from what the ledger says.
type Difference struct {
	What        string            `json:"what"` // one of kindNames, "bounds of a bucket", "answer of a take", or a row of the ledger: "take", "event"
	Environment usher.Environment `json:"environment"`
	Customer    string            `json:"customer"`
	Feature     string            `json:"feature,omitempty"`
	Name        string            `json:"name,omitempty"`  // of the clock, the dimension, the reservation or the key
	Start       string            `json:"start,omitempty"` // of the window or the span
	Ledger      string            `json:"ledger"`
	Stored      string            `json:"stored"`
	Derived     bool              `json:"derived"` // it follows from the ledger, so a repair rewrites it
}

// String returns the difference as one line of English.
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
	maxDifferences = 1000    // listed
	fsckKeys       = 500_000 // the default of Options.Keys
	maxParts       = 1 << 16 // passes at most; with still more sums, memory use grows
	fixesAtOnce    = 200     // rows rewritten in one transaction
	progressRows   = 20_000  // between two calls of Progress
)

// Run checks a database. It reads one consistent state, also while servers run. With
// Repair it locks writers out, rewrites the rows that differ and follow from the
// ledger, and checks again. It does not repair rows of a customer with a ledger row
// that cannot be read, because that row may have counted in them.
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
		// The second check shows what the repair left, and that it broke nothing.
		o.Repair = false
		second, err = check(ctx, db, o)
		second.Repaired = first.Repaired
		second.Mended = slices.DeleteFunc(first.Differences, func(d Difference) bool { return !d.Derived })
		return err
	})
	return second, err
}

func check(ctx context.Context, db *store.DB, o Options) (r Report, err error) {
	// Answers older than this may have been folded, so that nothing tells which denials
	// and ends of reservations they had. One hour is for clocks of servers that differ
	// from this machine's.
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

// errFull means that there are more sums than Options.Keys: more parts are needed.
var errFull = errors.New("fsck: too many sums for one pass")

// placeOf is one feature of a customer. A place is checked in one pass.
type placeOf struct {
	store.Holder
	feature string
}

type featureOf struct {
	env     usher.Environment
	feature string
}

// checker is a check under way.
type checker struct {
	ctx    context.Context
	db     *store.DB
	s      *store.Scan
	o      *Options
	r      *Report
	cutoff int64 // µs; older answers may have been folded

	part, parts uint32
	places      map[placeOf]uint32
	placeList   []placeOf
	names       map[string]uint32
	nameList    []string
	sums        map[sumKey]sum
	ties        map[sumKey][]int64 // other values of a last gauge at its newest instant: any of them is right

	spoiled map[store.Holder]bool // customers with ledger rows that cannot be read
	seats   map[featureOf]bool    // features of kind seats, ever: a denied seat stores no answer, so the ledger lacks its denials
	fixes   []fix
	doing   string
	rows    int64
}

// catalog notes the features of kind seats in one catalogue.
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

// run makes one pass for each part. errFull means that there must be more parts.
func (c *checker) run() error {
	clear(c.spoiled)
	for c.part = 0; c.part < c.parts; c.part++ {
		c.r.Passes++
		c.places, c.placeList, c.names, c.nameList = map[placeOf]uint32{}, nil, map[string]uint32{}, nil
		c.sums, c.ties = map[sumKey]sum{}, map[sumKey][]int64{}
		// The order matters. Takes come before the corrections and reservations that they
		// made. The whole ledger is added up before stored rows are read, because each row is
		// compared with its complete sum and removes it; sums that are left have no row.
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
			{"missing rows", c.missing},
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

// row counts one row of the ledger. Every pass reads it; the first one counts it.
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
	// The first part stands for all: a hash spreads the features evenly over the parts.
	if c.part == 0 && len(c.sums) > c.o.Keys && c.parts < maxParts {
		return errFull
	}
	return nil
}

// mine reports whether this pass checks a feature of a customer.
func (c *checker) mine(h store.Holder, feature string) bool {
	if c.parts == 1 {
		return true
	}
	f := fnv.New32a()
	for _, s := range []string{string(h.Env), h.Customer, feature} {
		f.Write([]byte(s))
		// Ends each text, so that "a", "bc" and "ab", "c" have different hashes.
		f.Write([]byte{0})
	}
	return f.Sum32()%c.parts == c.part
}
