package engine

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/usher-sh/usher"
)

// frame is everything about one feature that does not depend on use, over the
// span [from, until): the rules in force and the windows that they count in. It
// never changes, so decisions at the same time share it.
type frame struct {
	rules
	rows    []row  // ordered by the first of their slots in burn order
	burn    []part // every slot of every row, in burn order
	caps    []capRow
	lasts   int64     // until, without the steps of sliding caps, which change nothing if nothing falls out
	ends    time.Time // lasts as answers show it
	still   bool      // no first use and no sliding cap, so that only holds can make an answer change before lasts
	permits bool      // some row permits overage
	endless bool      // some row permits unlimited overage
	none    bool      // the only row is for use that nothing entitles
	moving  bool      // some row's window begins with its first use, so its end, and with it the order, depends on use
	sources []string  // as an answer shows them: nil if the plan alone says it
}

// row is all slots that one bucket counts: those of one clock, or one grant, or
// one rollover.
type row struct {
	key       BucketKey
	window    span
	unlimited bool
	limit     int64         // sum over its slots
	overage   usher.Overage // sum over its slots
	ids       []string      // of its slots, in burn order, each once
	began     int64         // window.start, or the start of the oldest window in carry
	carry     []BucketKey   // windows that were cut, and whose use counts in this one (S18); oldest first
	opening   *Opening      // use by clocks that are gone (S34); nil: none
	roll      *roll         // its limit follows from an earlier window (S21); nil: not rolled over
	firstUse  bool          // its window begins with its first use
	per       usher.Period
	grant     bool
	use       usher.AllowanceUse // the part of the answer that does not depend on use
}

// roll says what an earlier window leaves: the unused part of one of its slots, at
// most max. The slot's share of that window's use is what lies in
// [offset, offset+limit), because slots of one row burn one after the other.
type roll struct {
	source        []BucketKey // the window's bucket, after those that it carried
	opening       *Opening    // what the window opened with (S34)
	offset, limit int64
	max           int64
}

// part is a slot with its position in its row. A row counts use only in total;
// offset tells how much of that belongs to slots before this one.
type part struct {
	slot
	row     int
	offset  int64 // sum of the limits before it in its row
	overOff int64 // sum of the overage before it in its row
}

// capRow is a cap with its current window.
type capRow struct {
	key      BucketKey
	window   span
	id       string
	cap      usher.Cap
	openings []*Opening   // use in the spans of its window in which there was no such cap
	use      usher.CapUse // the part of the answer that does not depend on use
}

// Opening asks for use that a window begins with: the sum of Feature's use over
// [From, Until), in microseconds since 1970 UTC, by every clock that is not in
// Except (S34).
type Opening struct {
	Feature     string
	Clock       string // of the window that opens
	From, Until int64
	Except      []string // ascending
}

// excepts reports whether a clock is in Except.
func (o *Opening) excepts(clock string) bool {
	_, found := slices.BinarySearch(o.Except, clock)
	return found
}

// frameAt returns the feature's frame at an instant. The last one is kept, and
// nearly always still holds.
func (w *World) frameAt(f *feature, at int64) *frame {
	if fr := f.frame.Load(); fr != nil && fr.from <= at && at < fr.until {
		return fr
	}
	fr := w.buildFrame(f, at, nil)
	size := fr.size()
	if was := f.frame.Swap(fr); was != nil {
		size -= was.size()
	}
	if !f.passing {
		w.bytes.Add(size)
	}
	return fr
}

// size estimates the memory that the frame holds, in bytes.
func (fr *frame) size() int64 {
	return sizeFrame + sizeRow*int64(len(fr.rows)) + sizeCap*int64(len(fr.caps))
}

// buildFrame makes the feature's frame at an instant.
func (w *World) buildFrame(f *feature, at int64, tr *trace) *frame {
	fr := &frame{rules: w.rulesAt(f, at, tr)}
	if s := fr.rules.sources; len(s) > 1 || len(s) == 1 && s[0] != "plan:"+fr.plan.String() {
		fr.sources = s
	}
	fr.lasts = fr.until
	if f.def.Kind.Counts() {
		w.place(f, fr, at)
	}
	fr.ends, fr.still = instant(fr.lasts), !fr.moving
	for i := range fr.caps {
		fr.still = fr.still && !fr.caps[i].cap.Sliding
	}
	for i := range fr.rows {
		fr.permits = fr.permits || fr.rows[i].overage != usher.Overage{}
		fr.endless = fr.endless || fr.rows[i].overage.Unlimited
	}
	return fr
}

// place puts a frame's slots into rows, and its caps into their windows. It
// narrows the frame to the span in which none of these windows ends.
func (w *World) place(f *feature, fr *frame, at int64) {
	narrow := func(s span) {
		fr.from, fr.until, fr.lasts = max(fr.from, s.start), min(fr.until, s.end), min(fr.lasts, s.end)
	}
	byClock := map[string]int{} // index of each clock's row
	type placed struct {
		*slot
		row, nth int
	}
	slots := make([]placed, 0, len(fr.slots)+4)
	put := func(s *slot, row int) { slots = append(slots, placed{s, row, len(slots)}) }
	fr.rows = make([]row, 0, len(fr.slots))
	for i := range fr.slots {
		s := &fr.slots[i]
		if s.kind == fromGrant {
			s.start = s.began
			fr.rows = append(fr.rows, row{key: BucketKey{f.def.Key, s.clock, s.start}, window: span{s.start, s.end}, grant: true})
			put(s, len(fr.rows)-1)
			continue
		}
		s.clock = clockName(s.per, s.anchor)
		i, ok := byClock[s.clock]
		if !ok {
			i = len(fr.rows)
			byClock[s.clock] = i
			r := row{key: BucketKey{f.def.Key, s.clock, 0}, window: forever, per: s.per}
			switch {
			case s.anchor == usher.AnchorFirstUse:
				r.firstUse, fr.moving = true, true
				r.key.Start = at // stands for the newest window that began by then
			case s.per.Unit != usher.Lifetime:
				w.open(f, &r, *s, at)
				narrow(r.window)
				r.opening = w.appeared(f, &r, at)
			default:
				r.opening = w.appeared(f, &r, at)
			}
			fr.rows = append(fr.rows, r)
		}
		s.start, s.end = fr.rows[i].window.start, fr.rows[i].window.end
		put(s, i)
	}
	// What earlier windows left. Downwards, because rows are added at the end.
	for i := len(fr.rows) - 1; i >= 0 && f.rolls; i-- {
		if r := &fr.rows[i]; !r.grant && !r.firstUse && r.window != forever {
			for _, rs := range w.rollovers(f, r) {
				fr.rows = append(fr.rows, rs.row)
				put(&rs.slot, len(fr.rows)-1)
			}
		}
	}
	slices.SortFunc(slots, func(x, y placed) int { return cmp.Or(before(x.slot, y.slot), x.nth-y.nth) })

	// Slots are now in burn order. Rows follow the order of their first slots, and
	// each part begins where the parts before it in its row end.
	rows := make([]row, 0, len(fr.rows)+1)
	moved := make(map[int]int, len(fr.rows)) // new index of a row, by its old one
	fr.burn = make([]part, 0, len(slots))
	for _, s := range slots {
		i, ok := moved[s.row]
		if !ok {
			i = len(rows)
			moved[s.row] = i
			rows = append(rows, fr.rows[s.row])
		}
		r := &rows[i]
		fr.burn = append(fr.burn, part{slot: *s.slot, row: i, offset: r.limit, overOff: r.overage.Max})
		r.unlimited = r.unlimited || s.unlimited
		r.limit = satAdd(r.limit, s.limit)
		r.overage.Unlimited = r.overage.Unlimited || s.overage.Unlimited
		r.overage.Max = satAdd(r.overage.Max, s.overage.Max)
		if !slices.Contains(r.ids, s.id) {
			r.ids = append(r.ids, s.id)
		}
	}
	fr.rows = rows
	if bookkeeper(fr) < 0 { // excess needs a row to be booked to (S14)
		fr.none = len(fr.rows) == 0
		fr.rows = append(fr.rows, row{key: BucketKey{f.def.Key, ClockNone, 0}, window: forever})
	}
	for i := range fr.rows {
		r := &fr.rows[i]
		r.use = usher.AllowanceUse{ID: r.entryName(), Sources: r.ids, Unlimited: r.unlimited}
		if !r.firstUse {
			r.use.Window = r.window.window()
		}
	}
	for _, c := range fr.rules.caps {
		cr := capRow{id: c.id, cap: c.cap, window: forever, key: BucketKey{f.def.Key, "cap:" + clockName(c.cap.Per, c.cap.Anchor), 0}}
		if c.cap.Sliding { // counted in steps, each with a bucket of its own: this is the newest
			_, step := slidingSpan(c.cap.Per)
			cr.key.Clock += "/sliding"
			cr.key.Start = at - at%step
			cr.window = span{cr.key.Start, cr.key.Start + step}
			fr.from, fr.until = max(fr.from, cr.window.start), min(fr.until, cr.window.end)
			fr.caps = append(fr.caps, cr)
			continue
		}
		if c.cap.Per.Unit != usher.Lifetime {
			cr.window, _ = w.windowAt(c.cap.Per, c.cap.Anchor, at)
			cr.key.Start = cr.window.start
			narrow(cr.window)
		}
		cr.openings = w.capAppeared(f, &cr, at)
		fr.caps = append(fr.caps, cr)
	}
	for i := range fr.caps {
		c := &fr.caps[i]
		c.use = usher.CapUse{ID: c.id, Per: c.cap.Per, Sliding: c.cap.Sliding, Limit: c.cap.Limit}
		if !c.cap.Sliding { // a sliding cap has no window to show: c.window is only its newest step
			c.use.Window = c.window.window()
		}
	}
}

// open sets a row's window at an instant, and what it carries. If a new anchor or
// zone cut the window before this one short, the use of that window counts here too;
// otherwise moving the anchor would give a fresh allowance (S18). If the window before
// that was cut as well, its use is carried too.
func (w *World) open(f *feature, r *row, s slot, at int64) {
	var cut int64
	r.window, cut = w.windowAt(s.per, s.anchor, at)
	// A plan change with on_change: reset begins an empty window (S18), and so ends
	// the window that was open until then.
	for i, end := w.eraAfter(r.window.start), r.window.end; i < len(w.timeline) && w.timeline[i].from < end; i++ {
		if t := w.timeline[i].from; resets(f, &w.timeline[i-1], &w.timeline[i]) {
			if t <= at {
				r.window.start, cut = t, 0
			} else {
				r.window.end = min(r.window.end, t)
			}
		}
	}
	r.key.Start, r.began = r.window.start, r.window.start
	if cut != 0 && s.onChange != usher.Reset {
		prev := row{key: r.key}
		w.open(f, &prev, s, r.window.start-1)
		r.carry, r.began = append(prev.carry, prev.key), prev.began
	}
}

// changesIn lists the instants in (start, end) at which a source changes.
func (w *World) changesIn(start, end int64) []int64 {
	i, found := slices.BinarySearch(w.changes, start)
	if found {
		i++
	}
	j, _ := slices.BinarySearch(w.changes, end)
	if j < i {
		return nil
	}
	return w.changes[i:j]
}

// resets reports whether, from one era to the next, the feature's plan is
// replaced by one whose entitlement says on_change: reset.
func resets(f *feature, old, now *era) bool {
	for _, s := range now.held {
		for i := range s.held {
			h := &s.held[i]
			ent := h.ents[f.def.Key]
			if ent == nil || h.kind != fromPlan || h.dead != "" {
				continue
			}
			if oc := ent.OnChange; oc != usher.Reset && (oc != "" || f.def.OnChange != usher.Reset) {
				continue
			}
			for _, was := range old.held {
				for k := range was.held {
					o := &was.held[k]
					if o.kind == fromPlan && o.dead == "" && was.family == s.family && o.ref != h.ref && o.ents[f.def.Key] != nil {
						return true
					}
				}
			}
		}
	}
	return false
}

// clocksAt returns the clocks of all allowances and grants of the feature that are
// in force at an instant. It reads every grant.
func (w *World) clocksAt(f *feature, at int64) []string {
	runs := w.runsOf(f)
	out := slices.Clone(runs[runAt(runs, at)].clocks)
	if x, _ := f.exceptionAt(at); x.deny != nil {
		return out
	}
	for _, g := range f.grants {
		if g.EffectiveAt.UnixMicro() <= at && at < grantEnd(g) {
			out = append(out, "grant:"+g.ID)
		}
	}
	return out
}

// clocked returns the slots with the names of their clocks, and of the clocks for
// what they leave. The latter differ for each slot: the second of one source and
// clock ends in #2.
func clocked(slots []slot) []slot {
	slots = slices.Clone(slots)
	type name struct{ id, clock string }
	seen := make(map[name]int, len(slots))
	for i := range slots {
		s := &slots[i]
		s.clock = cmp.Or(s.clock, clockName(s.per, s.anchor))
		s.into = "rollover:" + s.id + "/" + s.clock
		n := name{s.id, s.clock}
		if seen[n]++; seen[n] > 1 {
			s.into += "#" + strconv.Itoa(seen[n])
		}
	}
	return slots
}

// appeared returns what a row's window opens with if its clock appeared inside the
// window: the use of the span so far that no surviving bucket counts (S34). It
// returns nil if the clock was there from the window's start, and for seats and
// gauges, whose figures are levels and not sums.
func (w *World) appeared(f *feature, r *row, at int64) *Opening {
	if f.gauge != "" || f.def.Kind == usher.Seats {
		return nil
	}
	clock := r.key.Clock
	if len(w.changesIn(r.began, at+1)) == 0 {
		return nil
	}
	runs := w.runsOf(f)
	for i := runAt(runs, at); i > 0 && runs[i].from > r.began; i-- {
		t := runs[i].from
		if slices.Contains(runs[i-1].clocks, clock) || !slices.Contains(runs[i].clocks, clock) {
			continue
		}
		// The clock appeared at t. A change that is dated back was made later, at
		// known: until then use went to the clocks of before.
		known := max(t, w.known[t])
		except := append(w.clocksAt(f, t), clock, ClockDrawn) // what credits paid for needs no allowance
		alive := runs[i].clocks
		if known > t { // clocks that are in force then have buckets of their own
			except = append(except, w.clocksAt(f, known)...)
			alive = slices.Concat(alive, runs[runAt(runs, known)].clocks)
		}
		for _, past := range runs[:i+1] { // what was rolled over from clocks that are alive has buckets of its own
			for _, l := range past.left {
				if slices.Contains(alive, l.clock) {
					except = append(except, l.into)
				}
			}
		}
		slices.Sort(except)
		// One more than the instant: what a clock that is gone took right then, or
		// until the change was known, is use of that span as well.
		return &Opening{Feature: f.def.Key, Clock: clock, From: max(r.began, 0), Until: known + 1, Except: slices.Compact(except)}
	}
	return nil
}

// capAppeared returns what a cap's window opens with. A cap counts all use of its
// window, so it needs the use of every span in which it was not there; what it
// counted itself is in its bucket. Spans are cut to whole minutes, as the sums are.
func (w *World) capAppeared(f *feature, c *capRow, at int64) (out []*Opening) {
	if len(w.changesIn(c.window.start, at+1)) == 0 {
		return nil
	}
	runs, this := w.runsOf(f), capClock{c.cap.Per, c.cap.Anchor}
	i := runAt(runs, c.window.start)
	from, there := max(c.window.start, 0), slices.Contains(runs[i].caps, this)
	for _, r := range runs[i+1:] {
		t := r.from
		if t > at {
			break
		}
		has := slices.Contains(r.caps, this)
		switch minute := t - t%minuteµs; {
		case there && !has:
			from = minute
		case !there && has:
			if m := w.known[t]; m > t { // a cap that was dated back has counted only since the change was made
				minute = m - m%minuteµs
			}
			out = append(out, &Opening{Feature: f.def.Key, Clock: c.key.Clock, From: from, Until: minute})
		}
		there = has
	}
	return out
}

// rolled is a row for what an earlier window left, and its one slot.
type rolled struct {
	row  row
	slot slot
}

// rollovers returns what earlier windows of a row's clock left and that still
// lives (S21). Each is counted in a bucket of its own, which starts at the end of
// the window that left it. It goes back window by window until no allowance of the
// clock was in force, at most usher.MaxRolloverWindows.
func (w *World) rollovers(f *feature, r *row) []rolled {
	// The walk goes back through time: edge is the end of the window that is looked
	// at, and back says how many windows ago it ended.
	var out []rolled
	edge := r.began
	for back := 1; back <= usher.MaxRolloverWindows; back++ {
		rules := w.termsAt(f, edge-1)
		if rules.dead != "" {
			break
		}
		var offset int64
		list := slices.DeleteFunc(clocked(rules.slots), func(s slot) bool { return s.clock != r.key.Clock })
		if len(list) == 0 {
			break
		}
		slices.SortStableFunc(list, func(x, y slot) int { return before(&x, &y) })
		prev := row{key: BucketKey{f.def.Key, r.key.Clock, 0}}
		w.open(f, &prev, list[0], edge-1)
		opening := w.appeared(f, &prev, edge-1)
		for _, s := range list {
			if s.unlimited {
				continue
			}
			if ro := s.rollover; ro != nil {
				if ro.Windows >= back {
					id := "rollover:" + s.id
					end := r.window.end // it lives for ro.Windows windows, of which back have begun
					for n := back; n < ro.Windows; n++ {
						next, _ := w.windowAt(s.per, s.anchor, end)
						end = next.end
					}
					out = append(out, rolled{
						row: row{key: BucketKey{f.def.Key, s.into, edge}, window: span{edge, end},
							roll: &roll{source: append(slices.Clip(prev.carry), prev.key), opening: opening, offset: offset, limit: s.limit, max: ro.Max}},
						slot: slot{id: id, clock: s.into, kind: s.kind, rolled: true, priority: s.priority, began: edge, start: edge, end: r.window.end},
					})
				}
			}
			offset = satAdd(offset, s.limit)
		}
		edge = prev.began
	}
	return out
}
