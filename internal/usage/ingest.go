package usage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/meter"
	"github.com/usher-sh/usher/internal/store"
)

// The bounds of an event's time (S17).
const (
	Late  = 40 * 24 * time.Hour // before now, at most
	Early = time.Hour           // after now, at most
)

// MaxEvents is how many events one request may have.
const MaxEvents = 10_000

// body is a request of events on its way through the writer.
type body struct {
	env    usher.Environment
	events []usher.Event
	// Computed before the request queues, for each event:
	invalid []string     // what is wrong with the event itself; "" is nothing
	hashes  [][]byte     // of the event's content
	locked  store.Holder // as of a take
	result  usher.IngestResult
	err     error
}

// Ingest records reported use (S14, S17). Each event is accepted, or rejected with a
// reason, on its own: a bad one does not fail the others. It returns after the commit.
func (u *Usage) Ingest(ctx context.Context, env usher.Environment, events []usher.Event) (usher.IngestResult, error) {
	if len(events) > MaxEvents {
		return usher.IngestResult{}, usher.Errorf(usher.TooLarge, "at most %d events a request, this one has %d", MaxEvents, len(events))
	}
	b := &body{env: env, events: events, invalid: make([]string, len(events)), hashes: make([][]byte, len(events))}
	for i := range events { // on the caller's goroutine, to spare the writer, of which there is one
		if b.invalid[i] = invalid(&events[i]); b.invalid[i] == "" {
			b.hashes[i] = contentHash(&events[i])
		}
	}
	if len(events) == 0 {
		return usher.IngestResult{Rejected: []usher.Rejection{}}, nil
	}
	if err := u.submit(ctx, &request{events: b}); err != nil {
		return usher.IngestResult{}, err
	}
	return b.result, b.err
}

// record books one request's events. It may run several times, so it starts from
// nothing.
func (b *batchRun) record(e *body) error {
	e.result, e.err = usher.IngestResult{Rejected: []usher.Rejection{}}, nil
	now := b.u.cfg.Live.Now(e.env)
	keys := make([]store.EventKey, len(e.events))
	for i := range e.events {
		keys[i] = store.EventKey{Env: e.env, ID: e.events[i].ID, Source: e.events[i].Source}
	}
	stored, err := b.tx.EventHashes(keys)
	if err != nil {
		return err
	}
	rows := make([]store.EventRow, 0, len(e.events))
	for i := range e.events {
		ev := &e.events[i]
		reject := func(code, format string, args ...any) {
			e.result.Rejected = append(e.result.Rejected, usher.Rejection{Index: i, Code: code, Message: fmt.Sprintf(format, args...)})
		}
		if problem := e.invalid[i]; problem != "" {
			reject(usher.RejectInvalid, "%s", problem)
			continue
		}
		hash := e.hashes[i]
		if old, ok := stored[keys[i]]; ok {
			if bytes.Equal(old, hash) {
				e.result.Duplicates++
			} else {
				reject(usher.RejectIDReused, "source %q and id %q came before with other content; an event cannot be changed", ev.Source, ev.ID)
			}
			continue
		}
		at := ev.Time
		if at.IsZero() {
			at = now
		}
		if at.Before(now.Add(-Late)) {
			reject(usher.RejectTooLate, "time is more than 40 days ago (%s)", at.Format(time.RFC3339))
			continue
		}
		if at.After(now.Add(Early)) {
			reject(usher.RejectTooEarly, "time is more than an hour ahead (%s)", at.Format(time.RFC3339))
			continue
		}
		h := store.Holder{Env: e.env, Customer: ev.Subject}
		w := b.worlds[h]
		if !w.next.World.Known() {
			reject(usher.RejectUnknownCustomer, "no customer %q", ev.Subject)
			continue
		}
		book := w.next.World.Book()
		features := book.Reading(ev.Type)
		readings, err := meter.Read(features, book.Meters, ev)
		if err != nil {
			reject(usher.RejectInvalidValue, "%s", err)
			continue
		}
		done, err := b.readings(h, w, readings, at)
		if errors.Is(err, errOverflow) {
			reject(usher.RejectOverflow, "the total would exceed what can be counted")
			continue
		}
		if err != nil {
			return err
		}
		rows = append(rows, store.EventRow{Env: e.env, ID: ev.ID, Source: ev.Source, Customer: ev.Subject, Type: ev.Type, At: at,
			ReceivedAt: w.now, Hash: hash, Data: string(ev.Data), Entries: ledger.EncodeReadings(done)})
		stored[keys[i]] = hash
		e.result.Accepted++
		if len(features) == 0 {
			e.result.Unmatched++
			b.unread(e.env, ev, w.now)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	n, err := b.tx.InsertEvents(rows)
	if err != nil {
		return err
	}
	if n < int64(len(rows)) {
		return errTaken // another node stored some of them in the meantime: see which, and decide again
	}
	return nil
}

// unread counts an event that no meter reads.
func (b *batchRun) unread(env usher.Environment, ev *usher.Event, now time.Time) {
	k := store.UnmatchedKey{Env: env, Type: ev.Type}
	t, ok := b.unmatched[k]
	if !ok && len(b.unmatched) >= store.MaxUnmatched {
		return // more types at once than are remembered
	}
	b.unmatched[k] = usher.UnmatchedType{Type: ev.Type, Count: t.Count + 1, LastSeen: now, Source: ev.Source}
}

// Unmatched lists up to limit types of events that were accepted although no meter read
// them, by type, after a type, and returns the last one if there are more; "" after the
// last page. An environment remembers the store.MaxUnmatched types that it saw last.
func (u *Usage) Unmatched(ctx context.Context, env usher.Environment, after string, limit int) ([]usher.UnmatchedType, string, error) {
	list, err := u.cfg.DB.Unmatched(ctx, env, after, limit+1)
	if err != nil || len(list) <= limit {
		return list, "", err
	}
	return list[:limit], list[limit-1].Type, nil
}

// errOverflow means that a total would exceed an int64.
var errOverflow = errors.New("usage: beyond what can be counted")

// readings applies one event to every feature whose meter reads it, all or none, and
// returns what it did.
func (b *batchRun) readings(h store.Holder, w *world, readings []meter.Reading, at time.Time) ([]ledger.Reading, error) {
	for _, r := range readings {
		if err := b.ready(h, w, r.Feature.Key, at); err != nil {
			return nil, err
		}
	}
	w.outside(at)
	// Check all features before any is booked, so that an event counts for all or none.
	for _, r := range readings {
		if r.Adds && !engine.Fits(w.next, r.Feature.Key, r.Amount, at) {
			return nil, errOverflow
		}
	}
	var all []ledger.Reading
	for _, r := range readings {
		done := ledger.Reading{Feature: r.Feature.Key, Aggregation: r.Aggregation, Amount: r.Amount, Distinct: r.Distinct}
		key := store.RollupKey{Holder: h, Feature: r.Feature.Key}
		op := engine.Op{Kind: engine.Record, Customer: h.Customer, Feature: r.Feature.Key, Amount: r.Amount}
		merge, when := store.MergeAdd, int64(0)
		if !r.Adds {
			op.Kind = engine.Level
			switch r.Aggregation {
			case usher.Last:
				merge, when = store.MergeLast, at.UnixMicro()
			case usher.Max:
				merge, when = store.MergeMax, at.UnixMicro()
			case usher.Unique:
				// The bucket counts different values: 1 more if the window has not seen
				// this one yet.
				from, until := engine.GaugeWindow(w.next, r.Feature.Key, at)
				seen, err := b.tx.SeenWithin(h, r.Feature.Key, r.Distinct, from, until)
				if err != nil {
					return nil, err
				}
				op.Amount = 1
				if seen {
					op.Amount = 0
				}
				if err := b.tx.See(h, r.Feature.Key, r.Distinct, minute(at).UnixMicro()); err != nil {
					return nil, err
				}
			}
		}
		e := engine.Take(w.next, op, at)
		done.Entries = e.Entries
		switch {
		case r.Adds:
			b.post(h, e.Entries, at)
			done.Outcome, done.Reason = ledger.Outcome(&e, true), e.Would
			b.deny(h, w, done.Feature, done.Outcome, done.Reason, r.Amount, w.now)
		case r.Aggregation != usher.Unique: // reports count unique values from the values seen, not from rollups
			key.Value = "gauge"
			b.roll(merge, key, at, r.Amount, when)
		}
		if r.Aggregation != usher.Unique {
			done.Dimensions = r.Dimensions
			for _, d := range r.Dimensions {
				key.Dimension, key.Value = d.Path, d.Value
				b.roll(merge, key, at, r.Amount, when)
			}
		}
		all = append(all, done)
	}
	return all, nil
}

// invalid returns what is wrong with an event itself; "" is nothing.
func invalid(e *usher.Event) string {
	for _, f := range []struct{ name, value string }{{"id", e.ID}, {"source", e.Source}, {"type", e.Type}, {"subject", e.Subject}} {
		if err := usher.CheckID(f.name, f.value); err != nil {
			return err.Error()
		}
	}
	if bytes.Contains(e.Data, []byte(`\u0000`)) {
		return "data must not contain the character U+0000"
	}
	return ""
}

// contentHash hashes what makes two events with one id the same: all of their content.
// data counts as JSON text without white space.
func contentHash(e *usher.Event) []byte {
	text := make([]byte, 0, 64+len(e.Type)+len(e.Subject)+len(e.Data))
	text = append(strconv.AppendQuote(text, e.Type), ' ')
	text = append(strconv.AppendQuote(text, e.Subject), ' ')
	if !e.Time.IsZero() {
		text = append(strconv.AppendInt(text, e.Time.UnixMicro(), 10), ' ')
	}
	b := bytes.NewBuffer(text)
	if json.Compact(b, e.Data) != nil {
		b.Truncate(len(text))
		b.WriteString(strings.TrimSpace(string(e.Data)))
	}
	sum := sha256.Sum256(b.Bytes())
	return sum[:16]
}
