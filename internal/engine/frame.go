package engine

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/usher-sh/usher"
)

// frame is everything about one feature that does not depend on use, over the
// span [from, until): the rules in force and the windows they count in.
type frame struct {
	rules
	rows    []row  // allowances, by their first slot in burn order
	burn    []part // every slot of every row, in burn order
	caps    []capRow
	none    bool // the one row stands for use that nothing entitles
	moving  bool // some row's window begins with its first use, so burn must be sorted anew
	sources []string
}

// row is one bucket that holds allowances of one clock, or one grant, or one
// rollover.
type row struct {
	key       BucketKey
	window    span
	unlimited bool
	limit     int64
	overage   usher.Overage // summed over its slots
	ids       []string      // of its slots, in burn order, each once
	began     int64         // window.start, or where the windows began that were cut and carried
	carry     []BucketKey   // the windows that were cut before this one begins (S18), oldest first
	opening   *Opening      // use by clocks that are gone (S34)
	roll      *roll         // its limit follows from an earlier window (S21)
	firstUse  bool          // its window begins with its first use
	per       usher.Period
	grant     bool
	use       usher.AllowanceUse // the part of the answer that does not depend on use
}

// roll says what an earlier window leaves: the unused part of the slot that
// lies at [offset, offset+limit) of the source bucket's use, at most max.
type roll struct {
	source        []BucketKey // its bucket, after those that it carried
	opening       *Opening    // what it opened with (S34)
	offset, limit int64
	max           int64
}

// part is one slot's place in burn order.
type part struct {
	slot
	row     int
	offset  int64 // sum of the limits before it in its row
	overOff int64 // sum of the overage before it in its row
}

type capRow struct {
	key      BucketKey
	window   span
	id       string
	cap      usher.Cap
	openings []*Opening   // use while the cap was not there
	use      usher.CapUse // the part of the answer that does not depend on use
}

// Opening asks for use that a window begins with: the sum of Feature's use over
// [From, Until), in microseconds, by every clock but those in Except (S34).
type Opening struct {
	Feature     string
	Clock       string // of the window that opens
	From, Until int64
	Except      []string
}

// frameAt returns the feature's frame at an instant, from the last one where
// that still holds.
func (w *World) frameAt(f *feature, at int64) *frame {
	if fr := f.frame.Load(); fr != nil && fr.from <= at && at < fr.until {
		return fr
	}
	fr := w.buildFrame(f, at, nil)
	f.frame.Store(fr)
	return fr
}

func (w *World) buildFrame(f *feature, at int64, tr *trace) *frame {
	fr := &frame{rules: w.rulesAt(f, at, tr)}
	if s := fr.rules.sources; len(s) > 1 || len(s) == 1 && s[0] != "plan:"+fr.plan.String() {
		fr.sources = s
	}
	if !f.def.Kind.Counts() {
		return fr
	}
	w.place(f, fr, at)
	return fr
}

// place puts the slots into rows by their clocks and windows.
func (w *World) place(f *feature, fr *frame, at int64) {
	narrow := func(s span) {
		fr.from, fr.until = max(fr.from, s.start), min(fr.until, s.end)
	}
	byClock := map[string]int{}
	type placed struct {
		slot
		row int
	}
	var slots []placed
	for _, s := range fr.slots {
		if s.kind == fromGrant {
			s.start, s.end = s.began, maxMicro
			for i := range f.grants {
				if "grant:"+f.grants[i].ID == s.id {
					s.end = grantEnd(&f.grants[i])
				}
			}
			fr.rows = append(fr.rows, row{key: BucketKey{f.def.Key, s.clock, s.start}, window: span{s.start, s.end}, grant: true})
			slots = append(slots, placed{s, len(fr.rows) - 1})
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
				r.key.Start = at // the newest that began by then
			case s.per.Unit != usher.Lifetime:
				w.open(f, &r, s, at)
				narrow(r.window)
				r.opening = w.appeared(f, &r, at)
			default:
				r.opening = w.appeared(f, &r, at)
			}
			fr.rows = append(fr.rows, r)
		}
		s.start, s.end = fr.rows[i].window.start, fr.rows[i].window.end
		slots = append(slots, placed{s, i})
	}
	for i := len(fr.rows) - 1; i >= 0 && w.rolls(f); i-- {
		if r := &fr.rows[i]; !r.grant && !r.firstUse && r.window != forever {
			for _, rs := range w.rollovers(f, r) {
				fr.rows = append(fr.rows, rs.row)
				slots = append(slots, placed{rs.slot, len(fr.rows) - 1})
			}
		}
	}
	slices.SortStableFunc(slots, func(x, y placed) int { return before(&x.slot, &y.slot) })

	// Rows in the order of their first slots; parts with their offsets.
	rows := make([]row, 0, len(fr.rows))
	moved := map[int]int{}
	for _, s := range slots {
		i, ok := moved[s.row]
		if !ok {
			i = len(rows)
			moved[s.row] = i
			rows = append(rows, fr.rows[s.row])
		}
		r := &rows[i]
		fr.burn = append(fr.burn, part{slot: s.slot, row: i, offset: r.limit, overOff: r.overage.Max})
		r.unlimited = r.unlimited || s.unlimited
		r.limit = satAdd(r.limit, s.limit)
		r.overage.Unlimited = r.overage.Unlimited || s.overage.Unlimited
		r.overage.Max = satAdd(r.overage.Max, s.overage.Max)
		if !slices.Contains(r.ids, s.id) {
			r.ids = append(r.ids, s.id)
		}
	}
	fr.rows = rows
	if bookkeeper(fr) < 0 { // a place for what nothing holds (S14)
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
		if c.cap.Sliding {
			_, step := slidingSpan(c.cap.Per)
			cr.key.Clock += "/sliding"
			cr.key.Start = at - at%step
			cr.window = span{cr.key.Start, cr.key.Start + step}
			narrow(cr.window)
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
		if !c.cap.Sliding { // whose window is always the span before now; c.window is one step of it
			c.use.Window = c.window.window()
		}
	}
}

// open sets a row's window and the window that was cut where it begins.
func (w *World) open(f *feature, r *row, s slot, at int64) {
	var cut int64
	r.window, cut = w.windowAt(s.per, s.anchor, at)
	// A plan change that resets begins a window of its own (S18).
	for _, t := range w.changesIn(r.window.start, r.window.end) {
		if w.resets(f, t) {
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

// resets reports whether at t the feature's plan is replaced by one whose
// entitlement says on_change: reset.
func (w *World) resets(f *feature, t int64) bool {
	old, now := w.eraAt(t-1), w.eraAt(t)
	if old == now {
		return false
	}
	for _, h := range now.held {
		ent := h.ents[f.def.Key]
		if ent == nil || h.kind != fromPlan || h.dead != "" {
			continue
		}
		if oc := ent.OnChange; oc != usher.Reset && (oc != "" || f.def.OnChange != usher.Reset) {
			continue
		}
		for _, o := range old.held {
			if o.kind == fromPlan && o.dead == "" && o.family == h.family && o.ref != h.ref && o.ents[f.def.Key] != nil {
				return true
			}
		}
	}
	return false
}

// clocksAt lists the clocks that allowances of the feature burn at an instant.
func (w *World) clocksAt(f *feature, at int64) []string {
	r := w.rulesAt(f, at, nil)
	var out []string
	for _, s := range clocked(r.slots) {
		out = append(out, s.clock)
	}
	return out
}

// clocked names the clocks of slots, and those of what they leave: one for each
// slot, also where a source has several of one clock.
func clocked(slots []slot) []slot {
	slots = slices.Clone(slots)
	for i := range slots {
		s := &slots[i]
		s.clock = cmp.Or(s.clock, clockName(s.per, s.anchor))
		s.into = "rollover:" + s.id + "/" + s.clock
		n := 1
		for j := range i {
			if slots[j].id == s.id && slots[j].clock == s.clock {
				n++
			}
		}
		if n > 1 {
			s.into += "#" + strconv.Itoa(n)
		}
	}
	return slots
}

// appeared returns what a clock opens with if it appeared inside its window:
// the use of the span so far that no surviving bucket holds (S34). nil where
// the clock was there from the window's start, and of seats, which have no
// windows.
func (w *World) appeared(f *feature, r *row, at int64) *Opening {
	if f.gauge != "" || f.def.Kind == usher.Seats {
		return nil
	}
	clock := r.key.Clock
	cuts := w.changesIn(r.began, at+1)
	for i := len(cuts) - 1; i >= 0; i-- {
		t := cuts[i]
		if slices.Contains(w.clocksAt(f, t-1), clock) {
			continue
		}
		if !slices.Contains(w.clocksAt(f, t), clock) {
			continue
		}
		known := max(t, w.known[t])
		except := append(w.clocksAt(f, t), clock, ClockDrawn) // what credits paid for is paid
		if known > t {                                        // what was in force by then holds its own
			except = append(except, w.clocksAt(f, known)...)
		}
		if w.rolls(f) { // what was left of these clocks burns in buckets of its own
			alive := except
			for _, u := range append(w.changesIn(minMicro, t), t) {
				for _, s := range clocked(w.rulesAt(f, u, nil).slots) {
					if s.rollover != nil && slices.Contains(alive, s.clock) {
						except = append(except, s.into)
					}
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

// capAppeared is the same for a cap, which counts all use of its window: that of
// every span in which it was not there. What it counted itself is in its bucket.
func (w *World) capAppeared(f *feature, c *capRow, at int64) (out []*Opening) {
	from, there := max(c.window.start, 0), w.hasCap(f, c.cap, c.window.start)
	for _, t := range w.changesIn(c.window.start, at+1) {
		has := w.hasCap(f, c.cap, t)
		switch minute := t - t%minuteµs; {
		case there && !has:
			from = minute
		case !there && has:
			if m := w.known[t]; m > t { // it has counted since it was known
				minute = m - m%minuteµs
			}
			out = append(out, &Opening{Feature: f.def.Key, Clock: c.key.Clock, From: from, Until: minute})
		}
		there = has
	}
	return out
}

func (w *World) hasCap(f *feature, c usher.Cap, at int64) bool {
	r := w.rulesAt(f, at, nil)
	return slices.ContainsFunc(r.caps, func(x capRule) bool { return x.cap.Per == c.Per && x.cap.Anchor == c.Anchor })
}

type rolled struct {
	row  row
	slot slot
}

// rollovers lists what earlier windows of a row's clock left (S21). Each lives
// in a bucket of its own, from the end of the window that left it.
func (w *World) rollovers(f *feature, r *row) []rolled {
	var out []rolled
	edge := r.began // the end of the window that may have left something
	for back := 1; back <= usher.MaxRolloverWindows; back++ {
		rules := w.rulesAt(f, edge-1, nil)
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
					end := r.window.end
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

// rolls reports whether anything that the customer ever held of the feature
// rolls over.
func (w *World) rolls(f *feature) bool {
	for i := range f.overrides {
		if s := f.overrides[i].Set; s != nil && s.Rollover != nil {
			return true
		}
	}
	for i := range w.timeline {
		for _, h := range w.timeline[i].held {
			if e := h.ents[f.def.Key]; e != nil && slices.ContainsFunc(e.Allowances, func(a usher.Allowance) bool { return a.Rollover != nil }) {
				return true
			}
		}
	}
	return false
}
