package usage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/store"
)

// FsckOptions say how a database is checked. The zero value checks and repairs
// nothing.
type FsckOptions struct {
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

// Fsck computes from the ledger (stored takes, folded ones, events, open
// reservations and seats) what is derived of it (buckets, rollups, seen values,
// denials), and compares exactly (I4). It reads one state of the database
// beside running servers. With Repair it keeps writers away, rewrites what
// differs and is derived, and checks again; what a damaged ledger row might
// have counted in is left alone.
func Fsck(ctx context.Context, db *store.DB, o FsckOptions) (Report, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Keys <= 0 {
		o.Keys = fsckKeys
	}
	if !o.Repair {
		return fsck(ctx, db, o)
	}
	var first, second Report
	err := db.Quiet(ctx, func() (err error) {
		if first, err = fsck(ctx, db, o); err != nil || first.Total == 0 {
			second = first
			return err
		}
		o.Repair = false
		second, err = fsck(ctx, db, o)
		second.Repaired = first.Repaired
		second.Mended = slices.DeleteFunc(first.Differences, func(d Difference) bool { return !d.Derived })
		return err
	})
	return second, err
}

func fsck(ctx context.Context, db *store.DB, o FsckOptions) (r Report, err error) {
	// Answers older than Kept may have been folded already, denials among them;
	// an hour more, in case this machine's clock is not the server's.
	cutoff := o.Now().Add(-Kept + time.Hour).UnixMicro()
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
var errFull = errors.New("usage: too many sums for one pass")

// What a sum is of. Rollups and dimensions follow in the order of grains.
const (
	ofBucket = iota
	ofMinute
	ofHour
	ofDay
	ofDimMinute
	ofDimHour
	ofDimDay
	ofSeen
	ofDenial
	ofHold       // a reservation that some take made
	ofEnd        // how some take ended a reservation: used is 1 settled, 2 released
	ofCorrection // a correction that some take made: at is a hash of its entries
)

var grains = [...]store.Grain{store.Minute, store.Hour, store.Day}

var kindNames = [...]string{"bucket", "minute", "hour", "day", "dimension per minute", "dimension per hour", "dimension per day",
	"seen value", "denials of the hour", "reservation", "end of a reservation", "correction"}

// sumKey names a sum. Names are numbers in the checker's lists: there are many
// sums of few names.
type sumKey struct {
	place, name uint32
	kind        uint8
	value       string // of a dimension or a unique meter; the reason of denials; an id
	start       int64  // µs
}

type sum struct {
	used, reserved int64 // of denials: how many, and their amounts
	at             int64
	how            usher.Aggregation // Last and Max are levels; "" adds up
}

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
	o      *FsckOptions
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

// fix rewrites one row; it may run twice.
type fix struct {
	holder store.Holder
	do     func(*store.UsageTx) error
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

func (c *checker) key(kind int, h store.Holder, feature, name, value string, start int64) sumKey {
	p, ok := c.places[placeOf{h, feature}]
	if !ok {
		p = uint32(len(c.placeList))
		h := store.Holder{Env: h.Env, Customer: strings.Clone(h.Customer)}
		c.placeList = append(c.placeList, placeOf{h, strings.Clone(feature)})
		c.places[c.placeList[p]] = p
	}
	n, ok := c.names[name]
	if !ok {
		n = uint32(len(c.nameList))
		c.nameList = append(c.nameList, strings.Clone(name))
		c.names[c.nameList[n]] = n
	}
	return sumKey{p, n, uint8(kind), value, start}
}

// add merges use into a sum, as the writer merges it into a row.
func (c *checker) add(k sumKey, how usher.Aggregation, used, reserved, at int64) {
	v, ok := c.sums[k]
	switch how {
	case usher.Max:
		if !ok || used > v.used {
			v.used = used
		}
	case usher.Last:
		switch {
		case !ok || at > v.at:
			v.used, v.at = used, at
			delete(c.ties, k)
		case at == v.at && used != v.used && !slices.Contains(c.ties[k], used):
			c.ties[k] = append(c.ties[k], used)
		}
	default:
		v.used, v.reserved = v.used+used, v.reserved+reserved
		how = ""
	}
	v.how = how
	c.sums[k] = v
}

// spans adds to the minute, the hour and the day of an instant.
func (c *checker) spans(first int, h store.Holder, feature, name, value string, how usher.Aggregation, instant, used int64) {
	if !c.mine(h, feature) {
		return
	}
	at := int64(0)
	if how == usher.Last {
		at = instant
	}
	for i, g := range grains {
		c.add(c.key(first+i, h, feature, name, value, g.Start(instant)), how, used, 0, at)
	}
}

// entries books what a take did at an instant.
func (c *checker) entries(h store.Holder, list []engine.Entry, instant int64) {
	for i := range list {
		e := &list[i]
		c.entry(h, e.Bucket, e.Allowance == engine.EntryCap, e.Amount, instant)
	}
}

func (c *checker) entry(h store.Holder, b engine.BucketKey, counted bool, amount, instant int64) {
	if !c.mine(h, b.Feature) {
		return
	}
	c.add(c.key(ofBucket, h, b.Feature, b.Clock, "", b.Start), "", amount, 0, 0)
	if !counted {
		c.spans(ofMinute, h, b.Feature, b.Clock, "", "", instant, amount)
	}
}

func (c *checker) deny(h store.Holder, feature, outcome string, reason usher.Reason, amount, instant int64) {
	if outcome == "" || reason == usher.UnknownCustomer || reason == usher.UnknownFeature || !c.mine(h, feature) {
		return
	}
	k := c.key(ofDenial, h, feature, outcome, string(reason), store.Hour.Start(instant))
	v := c.sums[k]
	v.used++
	v.reserved = min(amount, math.MaxInt64-v.reserved) + v.reserved
	c.sums[k] = v
}

func (c *checker) op(o *store.Op) error {
	if o.Management() {
		return c.row(new(int64))
	}
	if err := c.row(&c.r.Takes); err != nil {
		return err
	}
	h := store.Holder{Env: o.Env, Customer: o.Customer}
	d, p, err := decodeAnswer(o.Answer, o.At)
	if err != nil {
		c.damaged(h, "take", o.Feature, o.Key, err)
		return nil
	}
	c.entries(h, p.entries, p.at.UnixMicro())
	c.deny(h, o.Feature, p.outcome, p.would, o.Amount, o.At.UnixMicro())
	if !c.mine(h, o.Feature) {
		return nil
	}
	switch o.Route {
	case routeReserve:
		if d.Reservation != nil {
			c.sums[c.key(ofHold, h, o.Feature, "", d.Reservation.ID, 0)] = sum{}
		}
	case routeSettle:
		c.sums[c.key(ofEnd, h, o.Feature, "", strings.TrimPrefix(o.Key, holdKey("")), 0)] = sum{used: 1}
	case routeRelease:
		c.sums[c.key(ofEnd, h, o.Feature, "", strings.TrimPrefix(o.Key, holdKey("")), 0)] = sum{used: 2}
	case routeCorrect:
		c.sums[c.key(ofCorrection, h, o.Feature, "", o.Key, 0)] = sum{used: o.Amount, at: hashOf(store.AppendEntries(nil, p.entries))}
	}
	return nil
}

func hashOf(b []byte) int64 {
	h := fnv.New64a()
	h.Write(b)
	return int64(h.Sum64())
}

// damaged notes a row of the ledger that cannot be read.
func (c *checker) damaged(h store.Holder, what, feature, name string, err error) {
	c.spoiled[store.Holder{Env: h.Env, Customer: strings.Clone(h.Customer)}] = true
	if c.part == 0 {
		c.note(Difference{What: what, Environment: h.Env, Customer: h.Customer, Feature: feature, Name: name, Ledger: "nothing that can be read", Stored: err.Error()})
	}
}

func (c *checker) folded(f *store.FoldedRow) error {
	if err := c.row(&c.r.Folded); err != nil {
		return err
	}
	c.entry(f.Holder, f.Bucket, strings.HasPrefix(f.Bucket.Clock, "cap:"), f.Amount, f.Minute)
	return nil
}

func (c *checker) event(e *store.EventRow) error {
	if err := c.row(&c.r.Events); err != nil {
		return err
	}
	h := store.Holder{Env: e.Env, Customer: e.Customer}
	list, err := decodeReadings(e.Entries)
	if err != nil {
		c.damaged(h, "event", "", e.Source+" "+e.ID, err)
		return nil
	}
	at := e.At.UnixMicro()
	for i := range list {
		r := &list[i]
		switch {
		case r.adds():
			c.entries(h, r.entries, at)
			c.deny(h, r.feature, r.outcome, r.reason, r.amount, e.ReceivedAt.UnixMicro())
		default:
			how := r.aggregation
			for _, en := range r.entries {
				if c.mine(h, en.Bucket.Feature) {
					c.add(c.key(ofBucket, h, en.Bucket.Feature, en.Bucket.Clock, "", en.Bucket.Start), how, en.Amount, 0, at)
				}
			}
			if how != usher.Unique {
				c.spans(ofMinute, h, r.feature, "gauge", "", how, at, r.amount)
			} else if c.mine(h, r.feature) {
				c.sums[c.key(ofSeen, h, r.feature, "", r.distinct, store.Minute.Start(at))] = sum{}
			}
		}
		for _, d := range r.dimensions {
			c.spans(ofDimMinute, h, r.feature, d.Path, d.Value, r.aggregation, at, r.amount)
		}
	}
	return nil
}

// correction compares one with the take that made it, and gives back what it
// gave back of dimensions.
func (c *checker) correction(x *store.CorrectionState) error {
	if err := c.row(&c.r.Corrections); err != nil {
		return err
	}
	if !c.mine(x.Holder, x.Feature) {
		return nil
	}
	note := func(ledger, stored string) {
		c.note(Difference{What: "correction", Environment: x.Env, Customer: x.Customer, Feature: x.Feature, Name: x.Key, Ledger: ledger, Stored: stored})
	}
	k := c.key(ofCorrection, x.Holder, x.Feature, "", x.Key, 0)
	made, ok := c.sums[k]
	delete(c.sums, k)
	switch {
	case !ok && x.At >= c.cutoff:
		note("no take that made it", fmt.Sprint("one of ", x.Amount))
	case ok && made.used != x.Amount:
		note(fmt.Sprint(made.used), fmt.Sprint(x.Amount))
	case ok && made.at != hashOf(x.Entries):
		note("other entries", "those of its row")
	}
	if x.Source == "" {
		return nil
	}
	if x.Event == nil {
		note("no event "+x.Source+" "+x.Ref, fmt.Sprint("a correction of it of ", x.Amount))
		return nil
	}
	list, err := decodeReadings(x.Event)
	if err != nil {
		return nil // named with the events
	}
	for i := range list {
		if r := &list[i]; r.adds() && r.feature == x.Feature {
			for _, d := range r.dimensions {
				c.spans(ofDimMinute, x.Holder, x.Feature, d.Path, d.Value, "", x.EventAt, -x.Amount)
			}
		}
	}
	return nil
}

// hold compares a reservation with the takes that made and ended it, and counts
// what an open one holds.
func (c *checker) hold(x *store.HoldState) error {
	if err := c.row(&c.r.Holds); err != nil {
		return err
	}
	if x.State == store.HoldOpen {
		list, _, err := store.ReadEntries(x.Entries)
		if err != nil {
			c.damaged(x.Holder, "reservation", x.Feature, x.ID, err)
		}
		for _, e := range list {
			if c.mine(x.Holder, e.Bucket.Feature) {
				c.add(c.key(ofBucket, x.Holder, e.Bucket.Feature, e.Bucket.Clock, "", e.Bucket.Start), "", 0, e.Amount, 0)
			}
		}
	}
	if !c.mine(x.Holder, x.Feature) {
		return nil
	}
	made := c.key(ofHold, x.Holder, x.Feature, "", x.ID, 0)
	ended := c.key(ofEnd, x.Holder, x.Feature, "", x.ID, 0)
	_, ok := c.sums[made]
	end := c.sums[ended].used
	delete(c.sums, made)
	delete(c.sums, ended)
	note := func(ledger string) {
		c.note(Difference{What: "reservation", Environment: x.Env, Customer: x.Customer, Feature: x.Feature, Name: x.ID, Ledger: ledger, Stored: x.State})
	}
	if !ok && x.At >= c.cutoff {
		note("no take that made it")
	}
	gone := end == 0 && x.ClosedAt < c.cutoff
	right := map[string]bool{store.HoldOpen: end == 0, store.HoldSettled: end == 1 || gone, store.HoldReleased: end == 2 || gone, store.HoldExpired: end != 1}
	if !right[x.State] {
		note([]string{"no take that ended it", store.HoldSettled, store.HoldReleased}[end])
	}
	return nil
}

func (c *checker) seat(h store.Holder, feature string, pending bool) error {
	if err := c.row(&c.r.Seats); err != nil {
		return err
	}
	if !c.mine(h, feature) {
		return nil
	}
	k := c.key(ofBucket, h, feature, engine.ClockSeats, "", 0)
	if pending {
		c.add(k, "", 0, 1, 0)
	} else {
		c.add(k, "", 1, 0, 0)
	}
	return nil
}

// take returns a sum and forgets it: what is left in the end is not stored.
func (c *checker) take(k sumKey) (v sum, ties []int64, ok bool) {
	v, ok = c.sums[k]
	ties = c.ties[k]
	delete(c.sums, k)
	delete(c.ties, k)
	return v, ties, ok
}

func (c *checker) bucket(h store.Holder, b engine.Bucket) error {
	if !c.mine(h, b.Feature) {
		return nil
	}
	c.stored(&c.r.Buckets)
	k := c.key(ofBucket, h, b.Feature, b.Clock, "", b.Start)
	v, ties, _ := c.take(k)
	right := b
	right.Reserved = v.reserved
	if !slices.Contains(ties, b.Used) {
		right.Used = v.used
	}
	if v.how == usher.Last {
		right.At = v.at
	}
	d := c.difference(k)
	d.Ledger, d.Stored = figures(right, v.how), figures(b, v.how)
	wrong := right != b
	if !wrong && !bounded(b) {
		wrong = true
		d.What, d.Ledger = "bounds of a bucket", "beyond its limit of "+fmt.Sprint(b.Limit)+" "+fmt.Sprint(beyond(b))
		d.Stored = fmt.Sprintf("overage %d and excess %d", b.Overage, b.Excess)
	}
	if !wrong {
		return nil
	}
	if right.Used < 0 || right.Reserved < 0 {
		d.Derived = false
	}
	return c.differ(d, func(tx *store.UsageTx) error {
		if !right.Unlimited {
			right.Overage = min(right.Overage, beyond(right))
			right.Excess = beyond(right) - right.Overage
		} else {
			right.Overage, right.Excess = 0, 0
		}
		return tx.PutBuckets(map[store.Holder][]engine.Bucket{h: {right}})
	})
}

func figures(b engine.Bucket, how usher.Aggregation) string {
	s := fmt.Sprintf("used %d, reserved %d", b.Used, b.Reserved)
	if how == usher.Last {
		s += " at " + instant(b.At)
	}
	return s
}

// beyond is what a bucket holds above its limit.
func beyond(b engine.Bucket) int64 {
	held := b.Used
	for _, n := range []int64{b.Reserved, b.Opening} {
		held = min(n, math.MaxInt64-held) + held
	}
	return max(held-b.Limit, 0)
}

// bounded reports whether a bucket's figures agree with each other (I1).
func bounded(b engine.Bucket) bool {
	if b.Used < 0 || b.Reserved < 0 || b.Opening < 0 || b.Overage < 0 || b.Excess < 0 || b.Limit < 0 {
		return false
	}
	if b.Unlimited {
		return b.Limit == 0 && b.Overage == 0 && b.Excess == 0
	}
	over := beyond(b)
	return b.Overage <= over && b.Excess == over-b.Overage
}

func (c *checker) rollup(k store.RollupKey, stored store.RollupValue) error {
	if !c.mine(k.Holder, k.Feature) {
		return nil
	}
	c.stored(&c.r.Rollups)
	i := slices.Index(grains[:], k.Grain)
	if i < 0 {
		return fmt.Errorf("usage: a rollup has the grain %d", k.Grain)
	}
	sk := c.key(ofMinute+i, k.Holder, k.Feature, k.Value, "", k.Start)
	if k.Dimension != "" {
		sk = c.key(ofDimMinute+i, k.Holder, k.Feature, k.Dimension, k.Value, k.Start)
	}
	v, ties, ok := c.take(sk)
	same := stored.Used == v.used || slices.Contains(ties, stored.Used)
	if v.how == usher.Last {
		same = same && stored.At == v.at
	}
	if same && (ok || k.Value != "gauge" || k.Dimension != "") {
		return nil
	}
	d := c.difference(sk)
	d.Ledger, d.Stored = fmt.Sprint(v.used), fmt.Sprint(stored.Used)
	if v.how == usher.Last {
		d.Ledger, d.Stored = d.Ledger+" at "+instant(v.at), d.Stored+" at "+instant(stored.At)
	}
	if !ok {
		d.Ledger = "nothing"
	}
	return c.differ(d, func(tx *store.UsageTx) error {
		if !ok {
			return tx.DropRollup(k)
		}
		return tx.PutRollups(store.MergeSet, map[store.RollupKey]store.RollupValue{k: {Used: v.used, At: v.at}})
	})
}

func (c *checker) seen(h store.Holder, feature, value string, minute int64) error {
	if !c.mine(h, feature) {
		return nil
	}
	c.stored(&c.r.Seen)
	k := c.key(ofSeen, h, feature, "", value, minute)
	if _, _, ok := c.take(k); ok {
		return nil
	}
	d := c.difference(k)
	d.Ledger, d.Stored = "not seen", "seen"
	return c.differ(d, func(tx *store.UsageTx) error { return tx.Unsee(h, feature, value, minute) })
}

func (c *checker) denial(k store.DenialKey, stored store.DenialCount) error {
	if !c.mine(k.Holder, k.Feature) {
		return nil
	}
	c.stored(&c.r.Denials)
	sk := c.key(ofDenial, k.Holder, k.Feature, k.Outcome, string(k.Reason), k.Hour)
	v, _, _ := c.take(sk)
	if c.seats[featureOf{k.Env, k.Feature}] {
		return nil
	}
	right := store.DenialCount{N: v.used, Amount: v.reserved}
	if k.Hour < c.cutoff { // the takes of some may be gone
		right.N, right.Amount = max(right.N, stored.N), max(right.Amount, stored.Amount)
	}
	if right == stored {
		return nil
	}
	d := c.difference(sk)
	d.Ledger, d.Stored = times(right), times(stored)
	return c.differ(d, func(tx *store.UsageTx) error { return tx.SetDenial(k, right) })
}

func times(n store.DenialCount) string { return fmt.Sprintf("%d of together %d", n.N, n.Amount) }

// missing goes through the sums that nothing stored stands for.
func (c *checker) missing() error {
	left := make([]sumKey, 0, len(c.sums))
	for k, v := range c.sums {
		if k.kind <= ofDimDay && v.used == 0 && v.reserved == 0 && (k.kind == ofBucket || v.how == "") {
			continue
		}
		left = append(left, k)
	}
	slices.SortFunc(left, func(x, y sumKey) int {
		p, q := &c.placeList[x.place], &c.placeList[y.place]
		return cmp.Or(strings.Compare(string(p.Env), string(q.Env)), strings.Compare(p.Customer, q.Customer), strings.Compare(p.feature, q.feature),
			cmp.Compare(x.kind, y.kind), strings.Compare(c.nameList[x.name], c.nameList[y.name]), strings.Compare(x.value, y.value), cmp.Compare(x.start, y.start))
	})
	for _, k := range left {
		v, p := c.sums[k], c.placeList[k.place]
		name := c.nameList[k.name]
		d := c.difference(k)
		d.Stored = "nothing"
		var do func(*store.UsageTx) error
		switch {
		case k.kind == ofBucket:
			b := newBucket(engine.BucketKey{Feature: p.feature, Clock: name, Start: k.start}, v)
			d.Ledger = figures(b, v.how)
			d.Derived = v.used >= 0 && v.reserved >= 0
			do = func(tx *store.UsageTx) error { return tx.PutBuckets(map[store.Holder][]engine.Bucket{p.Holder: {b}}) }
		case k.kind <= ofDimDay:
			d.Ledger = fmt.Sprint(v.used)
			rk := store.RollupKey{Holder: p.Holder, Feature: p.feature, Value: name, Grain: grains[(k.kind-ofMinute)%3], Start: k.start}
			if k.kind >= ofDimMinute {
				rk.Dimension, rk.Value = name, k.value
			}
			do = func(tx *store.UsageTx) error {
				return tx.PutRollups(store.MergeSet, map[store.RollupKey]store.RollupValue{rk: {Used: v.used, At: v.at}})
			}
		case k.kind == ofSeen:
			d.Ledger, d.Stored = "seen", "not seen"
			do = func(tx *store.UsageTx) error { return tx.See(p.Holder, p.feature, k.value, k.start) }
		case k.kind == ofDenial:
			n := store.DenialCount{N: v.used, Amount: v.reserved}
			d.Ledger = times(n)
			dk := store.DenialKey{Holder: p.Holder, Feature: p.feature, Hour: k.start, Outcome: name, Reason: usher.Reason(k.value)}
			do = func(tx *store.UsageTx) error { return tx.SetDenial(dk, n) }
		default: // a reservation or a correction without its row
			d.Name, d.Start, d.Derived = k.value, "", false
			d.Ledger = "that there is one"
		}
		if err := c.differ(d, do); err != nil {
			return err
		}
	}
	return nil
}

// newBucket makes a row that is gone from what it held. Its limit and its end
// are guesses, which the next take replaces: the limit is what it holds, so that
// nothing of it is excess.
func newBucket(k engine.BucketKey, v sum) engine.Bucket {
	b := engine.Bucket{BucketKey: k, Used: v.used, Reserved: v.reserved, At: v.at, End: math.MaxInt64}
	name, capped := strings.CutPrefix(k.Clock, "cap:")
	b.Unlimited = capped || k.Clock == engine.ClockDrawn
	if !b.Unlimited {
		b.Limit = beyond(b)
	}
	name, _, _ = strings.Cut(name, "/")
	if p, ok := periodOf(name); ok && p.Unit != usher.Lifetime {
		start := time.UnixMicro(k.Start).UTC()
		if w, ok := calendar.At(p, start, time.UTC, start); ok {
			b.End = w.End.UnixMicro()
		}
	}
	return b
}

// periodOf reads what Period.String wrote.
func periodOf(s string) (usher.Period, bool) {
	p := usher.Period{Every: 1, Unit: usher.Unit(s)}
	if n, unit, ok := strings.Cut(s, " "); ok {
		every, err := strconv.Atoi(n)
		if err != nil || every < 1 || every > usher.MaxEvery {
			return p, false
		}
		p = usher.Period{Every: every, Unit: usher.Unit(unit)}
	}
	return p, slices.Contains(usher.Units, p.Unit)
}

// stored counts one row of what is derived.
func (c *checker) stored(n *int64) {
	*n++
	if c.rows++; c.rows%progressRows == 0 && c.o.Progress != nil {
		c.o.Progress(c.doing, c.rows)
	}
}

func (c *checker) difference(k sumKey) Difference {
	p := &c.placeList[k.place]
	d := Difference{What: kindNames[k.kind], Environment: p.Env, Customer: p.Customer, Feature: p.feature, Name: c.nameList[k.name], Derived: true}
	if k.value != "" {
		d.Name = strings.TrimSpace(d.Name + " " + k.value)
	}
	d.Start = instant(k.start)
	return d
}

func instant(us int64) string { return time.UnixMicro(us).UTC().Format(time.RFC3339Nano) }

func (c *checker) note(d Difference) {
	c.r.Total++
	if len(c.r.Differences) < maxDifferences {
		c.r.Differences = append(c.r.Differences, d)
	}
}

// differ notes a difference, and mends it where that is wanted and can be.
func (c *checker) differ(d Difference, do func(*store.UsageTx) error) error {
	h := store.Holder{Env: d.Environment, Customer: d.Customer}
	d.Derived = d.Derived && !c.spoiled[h]
	c.note(d)
	if !c.o.Repair || !d.Derived {
		return nil
	}
	c.fixes = append(c.fixes, fix{h, do})
	return c.mend(fixesAtOnce)
}

// mend writes what is to be rewritten, once there is enough for a transaction.
func (c *checker) mend(enough int) error {
	if len(c.fixes) == 0 || len(c.fixes) < enough {
		return nil
	}
	holders := map[store.Holder]bool{}
	for _, f := range c.fixes {
		holders[f.holder] = true
	}
	err := c.db.Usage(c.ctx, func(tx *store.UsageTx) error {
		for _, f := range c.fixes {
			if err := f.do(tx); err != nil {
				return err
			}
		}
		return tx.Tell("fsck-"+uuid.NewString(), time.Now().UTC(), slices.Collect(maps.Keys(holders)))
	})
	if err != nil {
		return err
	}
	c.r.Repaired += int64(len(c.fixes))
	c.fixes = c.fixes[:0]
	return nil
}
