package prove

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/meter"
	"github.com/usher-sh/usher/internal/store"
)

// mirror answers the calls of a sandbox from the pure engine, with the least that a
// caller must keep. It reads from a database what customers hold, because other tests
// cover that, and keeps all use itself.
type mirror struct {
	facts   *store.DB
	now     time.Time
	book    *engine.Book
	worlds  map[string]*engine.World // compiled since the last change
	used    map[string]*ledger
	answers map[string]*kept  // by idempotency key
	takes   map[string]*taken // by idempotency key, reservation id, or source and id
	holds   map[string]*held
	events  map[string]string // content by source and id
}

// ledger is one customer's use.
type ledger struct {
	buckets map[engine.BucketKey]engine.Bucket
	minutes map[engine.BucketKey]int64           // Start is the minute
	values  map[string]map[string]map[int64]bool // minutes by feature and distinct value
	lapses  []engine.Lapse
	seats   map[string][]engine.Seat
}

// kept is an answer that a retry receives again.
type kept struct {
	request  string
	status   int
	decision usher.Decision
}

// taken is a take or one event's use of one feature, with the entries of its
// corrections.
type taken struct {
	customer, feature string
	at                time.Time
	entries           []engine.Entry
	first             int  // how many of the entries are its own
	correction        bool // it is one itself
	hold              string
	events            map[string]*taken // of an event: by feature
}

type held struct {
	engine.Hold
	end    string
	answer usher.Decision
}

func newMirror(facts *store.DB) *mirror {
	return &mirror{facts: facts, worlds: map[string]*engine.World{}, used: map[string]*ledger{}, answers: map[string]*kept{},
		takes: map[string]*taken{}, holds: map[string]*held{}, events: map[string]string{}, book: engine.NewBook(&usher.Catalog{}, nil, nil)}
}

// changed drops what was compiled, after a change of the catalogue or a customer.
func (m *mirror) changed() { m.worlds = map[string]*engine.World{} }

func (m *mirror) apply(file string) error {
	c, err := catalogfile.Parse("catalog.yaml", []byte(file))
	if err != nil {
		return err
	}
	plans, err := m.facts.PlanVersions(context.Background(), usher.Sandbox, 0)
	if err != nil {
		return err
	}
	addons, err := m.facts.AddonVersions(context.Background(), usher.Sandbox, 0)
	if err != nil {
		return err
	}
	m.book = engine.NewBook(c, plans, addons)
	return nil
}

func (m *mirror) world(id string) *engine.World {
	if w := m.worlds[id]; w != nil {
		return w
	}
	st, err := m.facts.LoadCustomer(context.Background(), usher.Sandbox, id, 0)
	if err != nil {
		panic(err) // the database of the test itself
	}
	m.worlds[id] = engine.NewWorld(engine.Facts{Book: m.book, Customer: st.Customer, Subscriptions: st.Subscriptions,
		Overrides: st.Overrides, Grants: st.Grants})
	return m.worlds[id]
}

func (m *mirror) ledger(id string) *ledger {
	if m.used[id] == nil {
		m.used[id] = &ledger{buckets: map[engine.BucketKey]engine.Bucket{}, minutes: map[engine.BucketKey]int64{},
			values: map[string]map[string]map[int64]bool{}, seats: map[string][]engine.Seat{}}
	}
	return m.used[id]
}

// snapshot contains only what Needs names for an instant.
func (m *mirror) snapshot(id, feature string, at time.Time) *engine.Snapshot {
	w, l := m.world(id), m.ledger(id)
	if !w.Known() {
		return engine.NewSnapshot(w, 0, nil, nil)
	}
	keys, openings := w.Needs(feature, at)
	s := engine.NewSnapshot(w, 0, l.load(keys), l.sums(openings))
	s.SetLapses(l.lapses)
	if at.Before(m.now) {
		s.Expire(m.now) // what has ended is gone from the past too
	}
	return s
}

// writer returns a clone to take from, after Expire.
func (m *mirror) writer(id, feature string, at time.Time, more ...engine.Entry) *engine.Snapshot {
	w, l := m.world(id), m.ledger(id)
	var keys []engine.BucketKey
	var openings []engine.Opening
	if w.Known() {
		keys, openings = w.Needs(feature, m.now)
		k, o := w.Needs(feature, at)
		keys, openings = append(keys, k...), append(openings, o...)
	}
	for _, e := range more {
		keys = append(keys, e.Bucket)
	}
	for _, l := range l.lapses {
		if l.Expires <= m.now.UnixMicro() {
			keys = append(keys, l.Bucket)
		}
	}
	s := engine.NewSnapshot(w, 0, l.load(keys), l.sums(openings))
	s.SetLapses(l.lapses)
	c := s.Clone()
	c.Expire(m.now)
	return c
}

// load finds, for each key, the clock's latest bucket that began by then.
func (l *ledger) load(keys []engine.BucketKey) (out []engine.Bucket) {
	for _, k := range keys {
		best, found := engine.Bucket{}, false
		for _, b := range l.buckets {
			if b.Feature == k.Feature && b.Clock == k.Clock && b.Start <= k.Start && (!found || b.Start > best.Start) {
				best, found = b, true
			}
		}
		if found {
			out = append(out, best)
		}
	}
	return out
}

func (l *ledger) sums(openings []engine.Opening) map[engine.BucketKey]int64 {
	sums := map[engine.BucketKey]int64{}
	for _, o := range openings {
		var n int64
		for k, used := range l.minutes {
			if k.Feature == o.Feature && k.Start >= o.From && k.Start < o.Until && !slices.Contains(o.Except, k.Clock) {
				n += used
			}
		}
		sums[o.Key()] = n
	}
	return sums
}

// keep stores what an operation did.
func (l *ledger) keep(s *engine.Snapshot, entries []engine.Entry, at time.Time) {
	for _, b := range s.Dirty() {
		l.buckets[b.BucketKey] = b
	}
	l.lapses = s.Lapses()
	for _, e := range entries {
		if e.Allowance != engine.EntryCap { // which counts what is counted already
			l.minutes[engine.BucketKey{Feature: e.Bucket.Feature, Clock: e.Bucket.Clock, Start: minuteOf(at)}] += e.Amount
		}
	}
}

func minuteOf(t time.Time) int64 { return t.Truncate(time.Minute).UnixMicro() }

// asked has the fields of all bodies that the mirror reads.
type asked struct {
	Customer, Feature, Key, TTL, State, Now, Reason string
	Amount                                          usher.Number
	At                                              string
	ExpiresAt                                       string `json:"expires_at"`
	Ref                                             json.RawMessage
	Checks                                          []asked
}

// do answers one call. Status 0 means that the mirror does not know the route. Of an
// error it returns only the status and the code.
func (m *mirror) do(n int, method, path, body string) (int, string) {
	u, _ := url.Parse(path)
	parts := strings.Split(strings.TrimPrefix(u.Path, "/v1/"), "/")
	var b asked
	if body != "" && parts[0] != "events" && parts[0] != "catalog" && parts[0] != "subscriptions" {
		json.Unmarshal([]byte(body), &b) // a management call's body may have other types
	}
	last := parts[len(parts)-1]
	switch {
	case path == "/v1/clock":
		m.now, _ = usher.ParseTime(b.Now)
	case path == "/v1/check":
		return decided(m.check(b))
	case path == "/v1/check/batch":
		out := `{"decisions":[`
		for i, q := range b.Checks {
			d, code := m.check(q)
			if code != "" {
				return failed(code)
			}
			if i > 0 {
				out += ","
			}
			out += string(d.AppendJSON(nil))
		}
		return 200, out + `]}`
	case path == "/v1/explain":
		q, at, code := m.query(b)
		if code != "" {
			return failed(code)
		}
		text, err := json.Marshal(engine.Explain(m.snapshot(q.Customer, q.Feature, at), q, at))
		if err != nil {
			return failed(usher.Internal)
		}
		return 200, string(text)
	case last == "entitlements":
		at := u.Query().Get("at")
		out := `{"data":[`
		for i, f := range m.world(parts[1]).Features() {
			if i > 0 {
				out += ","
			}
			d, _ := m.check(asked{Customer: parts[1], Feature: f, At: at})
			out += string(d.AppendJSON(nil))
		}
		return 200, out + `]}`
	case path == "/v1/consume", path == "/v1/reservations":
		return m.take(n, path, body, b)
	case parts[0] == "reservations":
		return m.end(parts[1], last, b.Amount)
	case path == "/v1/corrections":
		return m.correct(path+body, b)
	case path == "/v1/events":
		return m.ingest(body)
	case len(parts) > 2 && parts[2] == "seats":
		return m.seat(method, parts[1], parts[3:], b)
	}
	return 0, ""
}

func failed(code usher.Code) (int, string) {
	return usher.Codes[code], fmt.Sprintf(`{"code":%q}`, code)
}

func decided(d usher.Decision, code usher.Code) (int, string) {
	if code != "" {
		return failed(code)
	}
	return 200, string(d.AppendJSON(nil))
}

func (m *mirror) query(b asked) (q engine.Query, at time.Time, code usher.Code) {
	q = engine.Query{Customer: b.Customer, Feature: b.Feature}
	if f := m.book.Features[b.Feature]; f != nil && f.Kind.Counts() {
		if q.Amount, code = units(f, b.Amount); code != "" {
			return q, at, code
		}
	}
	if at = m.now; b.At != "" {
		at, _ = usher.ParseTime(b.At)
	}
	return q, at, ""
}

func units(f *usher.Feature, n usher.Number) (int64, usher.Code) {
	if n == "" {
		n = "1"
	}
	amount, err := n.Units(f.Precision)
	if err != nil {
		return 0, usher.Invalid
	}
	return amount, ""
}

func (m *mirror) check(b asked) (usher.Decision, usher.Code) {
	q, at, code := m.query(b)
	if code != "" {
		return usher.Decision{}, code
	}
	return engine.Decide(m.snapshot(q.Customer, q.Feature, at), q, at), ""
}

// replay returns the answer under a key, if there is one.
func (m *mirror) replay(key, request string) (int, string, bool) {
	old := m.answers[key]
	if old == nil {
		return 0, "", false
	}
	if old.request != request {
		status, text := failed(usher.KeyReused)
		return status, text, true
	}
	d := old.decision
	d.Replayed = true
	return old.status, string(d.AppendJSON(nil)), true
}

func (m *mirror) take(n int, path, body string, b asked) (int, string) {
	f := m.book.Features[b.Feature]
	op := engine.Op{Kind: engine.Consume, Customer: b.Customer, Feature: b.Feature}
	if f != nil {
		if !f.Kind.Counts() || f.Kind == usher.Seats || m.book.Gauge(f) {
			return failed(usher.NotConsumable)
		}
		var code usher.Code
		if op.Amount, code = units(f, b.Amount); code != "" {
			return failed(code)
		}
	}
	if status, text, ok := m.replay(b.Key, path+body); ok {
		return status, text
	}
	reserve, status := path == "/v1/reservations", 200
	if reserve {
		ttl, _ := time.ParseDuration(b.TTL)
		if ttl == 0 {
			ttl = 5 * time.Minute
		}
		op.Kind, op.Hold, op.Until = engine.Reserve, fmt.Sprint("rsv_", n), m.now.Add(ttl)
	}
	c := m.writer(b.Customer, b.Feature, m.now)
	e := engine.Take(c, op, m.now)
	e.Decision.Taken = !reserve
	k := &taken{customer: b.Customer, feature: b.Feature, at: m.now}
	if reserve && e.Decision.Allowed {
		status = 201
		m.holds[op.Hold] = &held{Hold: engine.Hold{ID: op.Hold, Customer: b.Customer, Feature: b.Feature, Amount: op.Amount, At: m.now,
			Expires: op.Until, Entries: e.Entries}}
		e.Decision.Reservation = &usher.Reservation{ID: op.Hold, Amount: op.Amount, ExpiresAt: op.Until, State: usher.ReservationOpen}
		e.Entries = nil // it is not used yet
		k.hold = op.Hold
	}
	k.entries, k.first = e.Entries, len(e.Entries)
	m.ledger(b.Customer).keep(c, e.Entries, m.now)
	m.takes[b.Key], m.answers[b.Key] = k, &kept{path + body, status, e.Decision}
	return status, string(e.Decision.AppendJSON(nil))
}

// end settles or releases a reservation: one end, one answer.
func (m *mirror) end(id, how string, asked usher.Number) (int, string) {
	h := m.holds[id]
	if h == nil {
		return failed(usher.NotFound)
	}
	amount := h.Amount
	if f := m.book.Features[h.Feature]; how == "settle" && asked != "" {
		var code usher.Code
		if amount, code = units(f, asked); code != "" {
			return failed(code)
		}
	}
	end := how
	if how == "settle" {
		end = fmt.Sprint("settle ", amount)
	}
	switch h.end {
	case end:
		d := h.answer
		d.Replayed = true
		return decided(d, "")
	case "":
	default:
		return failed(usher.Conflict)
	}
	c := m.writer(h.Customer, h.Feature, h.At, h.Entries...)
	late := !m.now.Before(h.Expires)
	shown := usher.Reservation{ID: h.ID, Amount: h.Amount, ExpiresAt: h.Expires, State: usher.ReservationReleased}
	var e engine.Effect
	if how == "settle" {
		e = engine.Settle(c, &h.Hold, amount, m.now)
		shown.State, shown.Settled, shown.Late = usher.ReservationSettled, amount, late
		m.takes["hold "+h.ID] = &taken{customer: h.Customer, feature: h.Feature, at: h.At, entries: e.Entries, first: len(e.Entries)}
	} else if e = engine.Release(c, &h.Hold, m.now); late {
		shown.State = usher.ReservationExpired
	}
	e.Decision.Reservation = &shown
	m.ledger(h.Customer).keep(c, e.Entries, h.At)
	h.end, h.answer = end, e.Decision
	return decided(e.Decision, "")
}

func (m *mirror) correct(request string, b asked) (int, string) {
	var event struct{ Source, ID string }
	ref := ""
	json.Unmarshal(b.Ref, &event) // one of the two fits
	json.Unmarshal(b.Ref, &ref)
	var k *taken
	if event.ID != "" {
		if k = m.takes[event.Source+" "+event.ID]; k == nil {
			return failed(usher.NotFound)
		}
		var of []*taken
		for _, feature := range sorted(k.events) {
			if b.Feature == "" || b.Feature == feature {
				of = append(of, k.events[feature])
			}
		}
		switch len(of) {
		case 0:
			return failed(usher.Refused)
		case 1:
			k = of[0]
		default:
			return failed(usher.Invalid)
		}
	} else {
		if k = m.takes[ref]; k == nil {
			return failed(usher.NotFound)
		}
		if k.hold != "" {
			k = m.takes["hold "+k.hold]
		}
		if k == nil || k.correction || k.first == 0 {
			return failed(usher.Refused)
		}
	}
	f := m.book.Features[k.feature]
	amount, code := units(f, b.Amount)
	if amount == 0 {
		code = usher.Invalid
	}
	if code != "" {
		return failed(code)
	}
	if status, text, ok := m.replay(b.Key, request); ok {
		return status, text
	}
	left := engine.Taken(k.feature, k.entries)
	if amount > left {
		return failed(usher.Refused)
	}
	c := m.writer(k.customer, k.feature, m.now, k.entries...)
	e := engine.Correct(c, k.customer, k.feature, k.entries, amount, k.at, m.now)
	m.ledger(k.customer).keep(c, e.Entries, k.at)
	k.entries = append(k.entries, e.Entries...)
	back := &usher.Correction{Ref: usher.UseRef{ID: ref}, Amount: amount, Left: left - amount}
	if event.ID != "" {
		back.Ref = usher.UseRef{ID: event.ID, Source: event.Source}
	}
	for _, en := range e.Entries {
		if en.Allowance == engine.EntryCap || en.Allowance == engine.EntryDrawn {
			continue
		}
		d := usher.Deduction{Allowance: en.Allowance, Amount: -en.Amount}
		if en.Bucket.Feature != k.feature {
			d.Feature, d.Precision = en.Bucket.Feature, m.book.Features[en.Bucket.Feature].Precision
		}
		back.Returned = append(back.Returned, d)
	}
	e.Decision.Correction = back
	m.takes[b.Key] = &taken{correction: true}
	m.answers[b.Key] = &kept{request, 201, e.Decision}
	return 201, string(e.Decision.AppendJSON(nil))
}

// ingest records events, each on its own (S14, S17).
func (m *mirror) ingest(body string) (int, string) {
	var events []struct {
		ID, Source, Type, Subject, Time string
		Data                            json.RawMessage
	}
	if json.Unmarshal([]byte(body), &events) != nil {
		return failed(usher.Invalid)
	}
	result := usher.IngestResult{Rejected: []usher.Rejection{}}
	for i, e := range events {
		reject := func(code string) { result.Rejected = append(result.Rejected, usher.Rejection{Index: i, Code: code}) }
		name, content := e.Source+" "+e.ID, fmt.Sprint(e.Type, " ", e.Subject, " ", e.Time, " ", string(e.Data))
		if old, ok := m.events[name]; ok {
			if old == content {
				result.Duplicates++
			} else {
				reject(usher.RejectIDReused)
			}
			continue
		}
		at := m.now
		if e.Time != "" {
			at, _ = usher.ParseTime(e.Time)
		}
		switch {
		case at.Before(m.now.Add(-40 * 24 * time.Hour)):
			reject(usher.RejectTooLate)
			continue
		case at.After(m.now.Add(time.Hour)):
			reject(usher.RejectTooEarly)
			continue
		case !m.world(e.Subject).Known():
			reject(usher.RejectUnknownCustomer)
			continue
		}
		readings, err := meter.Read(m.book.Reading(e.Type), m.book.Meters,
			&usher.Event{ID: e.ID, Source: e.Source, Type: e.Type, Subject: e.Subject, Time: at, Data: e.Data})
		if err != nil {
			reject(usher.RejectInvalidValue)
			continue
		}
		k := &taken{events: map[string]*taken{}}
		for _, r := range readings {
			if entries := m.record(e.Subject, r, at); r.Adds {
				k.events[r.Feature.Key] = &taken{customer: e.Subject, feature: r.Feature.Key, at: at, entries: entries, first: len(entries)}
			}
		}
		m.takes[name], m.events[name] = k, content
		result.Accepted++
	}
	text, _ := json.Marshal(result)
	return 200, string(text)
}

// record books one feature's use of an event.
func (m *mirror) record(who string, r meter.Reading, at time.Time) []engine.Entry {
	l, feature := m.ledger(who), r.Feature.Key
	op := engine.Op{Kind: engine.Record, Customer: who, Feature: feature, Amount: r.Amount}
	if !r.Adds {
		op.Kind = engine.Level
	}
	c := m.writer(who, feature, at)
	if r.Aggregation == usher.Unique {
		from, until := engine.GaugeWindow(c, feature, at)
		if l.values[feature] == nil {
			l.values[feature] = map[string]map[int64]bool{}
		}
		if l.values[feature][r.Distinct] == nil {
			l.values[feature][r.Distinct] = map[int64]bool{}
		}
		op.Amount = 1
		for minute := range l.values[feature][r.Distinct] {
			if from <= minute && minute < until {
				op.Amount = 0
			}
		}
		l.values[feature][r.Distinct][minuteOf(at)] = true
	}
	e := engine.Take(c, op, at)
	entries := e.Entries
	if !r.Adds {
		entries = nil // a level is no sum
	}
	l.keep(c, entries, at)
	return e.Entries
}

// seat gives, frees or lists seats (S19, S22).
func (m *mirror) seat(method, who string, path []string, b asked) (int, string) {
	feature := path[0]
	f, l, known := m.book.Features[feature], m.ledger(who), m.world(who).Known()
	if f != nil && f.Kind != usher.Seats {
		return failed(usher.Refused)
	}
	if method != "PUT" && (!known || f == nil) {
		return failed(usher.NotFound)
	}
	seats := slices.DeleteFunc(l.seats[feature], func(s engine.Seat) bool { return !s.Expires.IsZero() && !s.Expires.After(m.now) })
	l.seats[feature] = seats
	if method == "GET" {
		return m.seats(who, feature, seats)
	}
	holder := path[1]
	var was *engine.Seat
	i := slices.IndexFunc(seats, func(s engine.Seat) bool { return s.Holder == holder })
	if i >= 0 {
		was = &seats[i]
	}
	c := m.writer(who, feature, m.now)
	if method == "DELETE" {
		if was != nil {
			e := engine.FreeSeat(c, who, feature, *was, m.now)
			l.seats[feature] = slices.Delete(seats, i, i+1)
			l.keep(c, e.Entries, m.now)
		} else {
			l.keep(c, nil, m.now)
		}
		return 204, ""
	}
	want := engine.Seat{Holder: holder, Pending: b.State == "pending", At: m.now}
	if b.ExpiresAt != "" {
		want.Expires, _ = usher.ParseTime(b.ExpiresAt)
	} else if b.TTL != "" {
		ttl, _ := time.ParseDuration(b.TTL)
		want.Expires = m.now.Add(ttl)
	}
	if !want.Expires.IsZero() && !want.Expires.After(m.now) {
		return failed(usher.Invalid)
	}
	if was != nil {
		want.At = was.At
	}
	e := engine.TakeSeat(c, who, feature, was, want, m.now)
	shown := was
	if e.Seated {
		shown = &want
		if was == nil {
			l.seats[feature] = append(seats, want)
		} else {
			*was = want
		}
	}
	if shown != nil {
		s := seatOf(*shown)
		e.Decision.Seat = &s
	}
	l.keep(c, e.Entries, m.now)
	return decided(e.Decision, "")
}

func seatOf(s engine.Seat) usher.Seat {
	out := usher.Seat{Holder: s.Holder, State: usher.SeatActive, Since: s.At, ExpiresAt: s.Expires}
	if s.Pending {
		out.State = usher.SeatPending
	}
	return out
}

func (m *mirror) seats(who, feature string, seats []engine.Seat) (int, string) {
	d := engine.Decide(m.snapshot(who, feature, m.now), engine.Query{Customer: who, Feature: feature}, m.now)
	list := slices.Clone(seats)
	slices.SortFunc(list, func(a, b engine.Seat) int {
		if n := a.At.Compare(b.At); n != 0 {
			return n
		}
		return strings.Compare(a.Holder, b.Holder)
	})
	out := `{"data":[`
	for i, s := range list {
		shown := seatOf(s)
		shown.Excess = !d.Unlimited && int64(i) >= d.Used+d.Reserved-d.Excess
		if i > 0 {
			out += ","
		}
		out += string(shown.AppendJSON(nil))
	}
	return 200, out + `]}`
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
