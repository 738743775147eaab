package engine_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
)

// ref is the reference of the model test: the rules as plain lists, slow and
// obvious. It keeps one list of all that was ever posted and computes every
// figure from it anew. It shares no code with the engine but the calendar.
// Instants are whole minutes since 1970.
type ref struct {
	mode   usher.Mode
	rate   int64
	anchor time.Time
	plans  map[string]map[string]*usher.Entitlement // by plan, by feature
	phases []refPhase                               // ascending
	grants []*refGrant
	adds   []*refAdd
	posts  []*refPost
	seats  []*refSeat // oldest first
}

type refPhase struct {
	at   int64
	plan string
}

type refGrant struct {
	id, feature string
	amount      int64
	priority    int
	paid        bool
	start, end  int64
}

// refAdd is an override: an amount added, or a deny.
type refAdd struct {
	feature    string
	n          int64
	deny       bool
	start, end int64
}

// refPost is one posting: n units of a feature in the window of a clock.
type refPost struct {
	feature, clock string
	start          int64 // of the window
	name           string
	n, at          int64
	hold           *refHold // nil: it is used
	parent         string   // of what rolled over: the clock that left it
}

type refHold struct {
	id, feature string
	amount      int64
	at, expires int64
	over        bool // settled, released, or expired and given back
	posts       []*refPost
}

type refSeat struct {
	holder  string
	pending bool
	expires int64 // end of time: it does not end by itself
}

// refSlot is one place that use can burn.
type refSlot struct {
	id, clock, parent string
	nth               string
	unlimited         bool
	limit             int64
	over              usher.Overage
	roll              *usher.Rollover
	per               usher.Period
	priority          int
	paid, rolled      bool
	grant             bool
	began, start, end int64
}

// refRow is the slots of one bucket, in burn order, with its figures.
type refRow struct {
	clock, parent                    string
	start                            int64
	slots                            []*refSlot
	grant, rolled, unlimited         bool
	limit, overMax                   int64
	overAny                          bool
	used, reserved                   int64
	remaining, overage, excess, room int64
}

const endOfTime = math.MaxInt64

func (m *ref) window(p usher.Period, t int64) (start, end int64) {
	if p.Unit == usher.Lifetime {
		return 0, endOfTime
	}
	w, _ := calendar.At(p, m.anchor, time.UTC, time.Unix(t*60, 0).UTC())
	return w.Start.Unix() / 60, w.End.Unix() / 60
}

// alive reports whether a posting still counts at now.
func (p *refPost) alive(now int64) bool { return p.hold == nil || !p.hold.over && now < p.hold.expires }

// plan is the plan at t and since when it is held.
func (m *ref) plan(t int64) (string, int64) {
	for i := len(m.phases) - 1; i >= 0; i-- {
		if m.phases[i].at <= t {
			return m.phases[i].plan, m.phases[i].at
		}
	}
	return "", 0
}

// slots lists what gives a feature at t, or why nothing does.
func (m *ref) slots(feature string, t int64) (list []*refSlot, caps []usher.Cap, dead usher.Reason) {
	var add *refAdd
	for _, o := range m.adds {
		if o.feature == feature && o.start <= t && t < o.end {
			if o.deny {
				return nil, nil, usher.Revoked
			}
			add = o // the latest wins
		}
	}
	key, began := m.plan(t)
	ent := m.plans[key][feature]
	if ent != nil {
		caps = ent.Caps
		for j, a := range ent.Allowances {
			nth := "" // of several allowances of one clock, what each leaves is kept apart
			for i, b := range ent.Allowances {
				if b.Per == a.Per && i < j {
					nth = fmt.Sprint("#", i+2)
				}
			}
			list = append(list, &refSlot{id: "plan:" + key + "@1", nth: nth, clock: a.Per.String(), unlimited: a.Unlimited, limit: a.Limit,
				over: a.Overage,
				roll: a.Rollover, per: a.Per, priority: a.Priority, began: began})
		}
	}
	if add != nil {
		n := add.n
		for _, s := range list {
			if s.unlimited {
				continue
			}
			if n >= 0 {
				s.limit += n
				break
			}
			less := min(s.limit, -n)
			s.limit -= less
			n += less
		}
	}
	waiting := false
	granted := false
	for _, g := range m.grants {
		switch {
		case g.feature != feature:
		case t < g.start && g.start < g.end:
			waiting = true
		case g.start <= t && t < g.end:
			granted = true
			list = append(list, &refSlot{id: "grant:" + g.id, clock: "grant:" + g.id, limit: g.amount, priority: g.priority, paid: g.paid,
				grant: true,
				began: g.start, start: g.start, end: g.end})
		}
	}
	switch {
	case ent != nil || granted:
	case waiting:
		dead = usher.NotStarted
	default:
		dead = usher.NotEntitled
	}
	return list, caps, dead
}

// clocks are those in force at t.
func (m *ref) clocks(feature string, t int64) []string {
	list, _, _ := m.slots(feature, t)
	var out []string
	for _, s := range list {
		out = append(out, s.clock)
	}
	return out
}

// changes are the instants at which a source of the feature begins or ends.
func (m *ref) changes(feature string) (out []int64) {
	for _, p := range m.phases {
		out = append(out, p.at)
	}
	for _, g := range m.grants {
		if g.feature == feature {
			out = append(out, g.start, g.end)
		}
	}
	for _, o := range m.adds {
		if o.feature == feature {
			out = append(out, o.start, o.end)
		}
	}
	slices.Sort(out)
	return out
}

// opening is what the window of a clock began with where the clock appeared
// inside it: the use of that span which no surviving bucket holds (S34).
func (m *ref) opening(feature, clock string, start, t, now int64) (n int64) {
	changes := m.changes(feature)
	for i := len(changes) - 1; i >= 0; i-- {
		c := changes[i]
		if c <= start || c > t {
			continue
		}
		there := m.clocks(feature, c)
		if !slices.Contains(there, clock) || slices.Contains(m.clocks(feature, c-1), clock) {
			continue
		}
		for _, p := range m.posts {
			if p.feature == feature && start <= p.at && p.at < c && p.alive(now) && p.clock != "drawn" &&
				p.clock != clock && !slices.Contains(there, p.clock) && (p.parent == "" || !slices.Contains(there, p.parent)) {
				n += p.n
			}
		}
		return n
	}
	return 0
}

func (m *ref) posted(feature, clock string, start, now int64) (used, reserved int64) {
	for _, p := range m.posts {
		if p.feature == feature && p.clock == clock && p.start == start && p.alive(now) {
			if p.hold != nil {
				reserved += p.n
			} else {
				used += p.n
			}
		}
	}
	return
}

// earlier is the burn order (S15).
func earlier(x, y *refSlot) int {
	sign := func(less, more bool) int {
		if less {
			return -1
		}
		if more {
			return 1
		}
		return 0
	}
	for _, c := range []int{
		sign(x.unlimited && !y.unlimited, y.unlimited && !x.unlimited),
		sign(x.priority < y.priority, x.priority > y.priority),
		sign(x.end < y.end, x.end > y.end),
		sign(!x.paid && y.paid, x.paid && !y.paid),
		sign(x.rolled && !y.rolled, y.rolled && !x.rolled),
		sign(x.began < y.began, x.began > y.began),
	} {
		if c != 0 {
			return c
		}
	}
	return strings.Compare(x.id, y.id)
}

// rows are the buckets of a feature at t, in burn order, and all slots of them,
// with what is known now. The last row that is neither a grant nor rolled over
// keeps the books of excess.
func (m *ref) rows(feature string, t, now int64) (rows []*refRow, burn []*refSlot, caps []usher.Cap, dead usher.Reason) {
	list, caps, dead := m.slots(feature, t)
	var clocks []*refSlot
	for _, s := range list {
		if s.grant {
			continue
		}
		s.start, s.end = m.window(s.per, t)
		if !slices.ContainsFunc(clocks, func(c *refSlot) bool { return c.clock == s.clock }) {
			clocks = append(clocks, s)
		}
	}
	for _, c := range clocks {
		if c.per.Unit != usher.Lifetime {
			list = append(list, m.rolled(feature, c, now)...)
		}
	}
	slices.SortStableFunc(list, earlier)
	for _, s := range list {
		i := slices.IndexFunc(rows, func(r *refRow) bool { return r.clock == s.clock && r.start == s.start })
		if i < 0 {
			i = len(rows)
			rows = append(rows, &refRow{clock: s.clock, parent: s.parent, start: s.start, grant: s.grant, rolled: s.rolled})
		}
		r := rows[i]
		r.slots = append(r.slots, s)
		r.unlimited = r.unlimited || s.unlimited
		r.limit += s.limit
		r.overMax += s.over.Max
		r.overAny = r.overAny || s.over.Unlimited
	}
	if bookkeeperOf(rows) == nil {
		rows = append(rows, &refRow{clock: "none"})
	}
	for _, r := range rows {
		r.used, r.reserved = m.posted(feature, r.clock, r.start, now)
		if len(r.slots) > 0 && !r.grant && !r.rolled {
			r.used += m.opening(feature, r.clock, r.start, t, now)
		}
		if r.rolled { // what was burned before it shrank stays
			r.limit = max(r.limit, r.used+r.reserved)
			r.slots[0].limit = r.limit
		}
		r.settle()
	}
	return rows, list, caps, dead
}

func bookkeeperOf(rows []*refRow) *refRow {
	for i := len(rows) - 1; i >= 0; i-- {
		if !rows[i].grant && !rows[i].rolled {
			return rows[i]
		}
	}
	return nil
}

// settle divides what lies beyond the limit into overage and excess.
func (r *refRow) settle() {
	r.remaining, r.overage, r.excess, r.room = 0, 0, 0, 0
	if r.unlimited {
		return
	}
	most := r.overMax
	if r.overAny {
		most = 1 << 50
	}
	beyond := max(r.used+r.reserved-r.limit, 0)
	r.remaining = max(r.limit-r.used-r.reserved, 0)
	r.overage = min(beyond, most)
	r.excess = beyond - r.overage
	r.room = most - r.overage
}

// rolled lists what earlier windows of a clock left (S21).
func (m *ref) rolled(feature string, c *refSlot, now int64) (out []*refSlot) {
	edge := c.start
	for back := 1; back <= 12; back++ {
		then, _, dead := m.slots(feature, edge-1)
		then = slices.DeleteFunc(then, func(s *refSlot) bool { return s.clock != c.clock })
		if dead != "" || len(then) == 0 {
			return out
		}
		start, _ := m.window(c.per, edge-1)
		for _, s := range then {
			s.start = start
		}
		slices.SortStableFunc(then, earlier)
		used, reserved := m.posted(feature, c.clock, start, now)
		held := used + reserved + m.opening(feature, c.clock, start, edge-1, now)
		for _, s := range then {
			if s.unlimited {
				continue
			}
			left := max(s.limit-held, 0)
			held = max(held-s.limit, 0)
			if s.roll != nil && s.roll.Windows >= back {
				out = append(out, &refSlot{id: "rollover:" + s.id, clock: "rollover:" + s.id + "/" + c.clock + s.nth, parent: c.clock,
					limit:    min(left, s.roll.Max),
					priority: s.priority, rolled: true, began: edge, start: edge, end: c.end})
			}
		}
		edge = start
	}
	return out
}

// capLeft is what all use of a feature in the cap's window leaves, whatever held
// it. To an instant that has passed, later use counts where the cap counted it.
func (m *ref) capLeft(feature string, c usher.Cap, t, now int64) int64 {
	start, end := m.window(c.Per, t)
	left := c.Limit
	for _, p := range m.posts {
		if p.feature != feature || p.at < start || p.at >= end || !p.alive(now) {
			continue
		}
		if p.at > t {
			_, then, _ := m.slots(feature, p.at)
			if !slices.ContainsFunc(then, func(x usher.Cap) bool { return x.Per == c.Per }) {
				continue
			}
		}
		left -= p.n
	}
	return max(left, 0)
}

// refAnswer is what the reference says of a take, and where it would go.
type refAnswer struct {
	allowed bool
	reason  usher.Reason
	posts   []*refPost
}

// judge decides an amount at t and divides it, with what is known now.
func (m *ref) judge(feature string, amount, t, now int64) refAnswer {
	rows, burn, caps, dead := m.rows(feature, t, now)
	a := refAnswer{reason: usher.WithinLimit}
	if dead != "" {
		a.reason = dead
		a.post(feature, bookkeeperOf(rows), "excess", amount, t)
		return a
	}
	capped, unlimited := false, false
	for _, c := range caps {
		capped = capped || amount > m.capLeft(feature, c, t, now)
	}
	for _, r := range rows {
		unlimited = unlimited || r.unlimited
	}
	rest := amount
	rest = a.include(feature, rows, burn, rest, t)
	if unlimited {
		a.reason = usher.ReasonUnlimited
	}
	if feature == "img" && rest > 0 {
		prows, pburn, pcaps, pdead := m.rows("pool", t, now)
		var drawn int64
		if pdead == "" {
			var included, room, most int64
			for _, r := range prows {
				if r.unlimited {
					included = 1 << 50
				}
				included, room = included+r.remaining, room+r.room
			}
			most = included + room
			for _, c := range pcaps {
				most = min(most, m.capLeft("pool", c, t, now))
			}
			included = min(included, most)
			units := min(rest, included/m.rate)
			rest -= units
			own := a.over(feature, rows, burn, &rest, t)
			beyond := min(rest, (most-units*m.rate)/m.rate)
			rest -= beyond
			drawn = units + beyond
			credits := drawn * m.rate
			left := m.burnPool(&a, prows, pburn, credits, included, t)
			if left != 0 {
				panic("the pool does not hold what it was counted to hold")
			}
			if own || beyond > 0 {
				a.reason = usher.ReasonOverage
			}
			if drawn > 0 {
				a.posts = append(a.posts, &refPost{feature: "img", clock: "drawn", name: "drawn", n: drawn, at: t})
			}
		}
	}
	if a.over(feature, rows, burn, &rest, t) {
		a.reason = usher.ReasonOverage
	}
	a.post(feature, bookkeeperOf(rows), "excess", rest, t)
	a.allowed = rest == 0 && !capped
	if a.allowed {
		return a
	}
	switch {
	case capped:
		a.reason = usher.CapReached
	case feature == "img":
		a.reason = usher.InsufficientCredits
	default:
		a.reason = usher.LimitReached
	}
	switch m.mode {
	case usher.Warn:
		a.allowed, a.reason = true, usher.Warned
	case usher.Shadow:
		a.allowed, a.reason = true, usher.Shadowed
	}
	return a
}

func (m *ref) burnPool(a *refAnswer, rows []*refRow, burn []*refSlot, credits, included, t int64) int64 {
	first := min(credits, included)
	rest := a.include("pool", rows, burn, first, t) + credits - first
	a.over("pool", rows, burn, &rest, t)
	return rest
}

func (a *refAnswer) post(feature string, r *refRow, name string, n, t int64) {
	if n > 0 {
		a.posts = append(a.posts, &refPost{feature: feature, clock: r.clock, parent: r.parent, start: r.start, name: name, n: n, at: t})
		r.used += n
	}
}

func rowOf(rows []*refRow, s *refSlot) *refRow {
	for _, r := range rows {
		if slices.Contains(r.slots, s) {
			return r
		}
	}
	return nil
}

// include burns included amounts in burn order and returns what they do not
// hold. The use of a bucket fills its slots in burn order.
func (a *refAnswer) include(feature string, rows []*refRow, burn []*refSlot, rest, t int64) int64 {
	for _, s := range burn {
		r := rowOf(rows, s)
		if s.unlimited {
			a.post(feature, r, s.id, rest, t)
			return 0
		}
		held := r.used + r.reserved
		for _, before := range r.slots {
			if before == s {
				break
			}
			held -= before.limit
		}
		n := min(rest, s.limit-min(max(held, 0), s.limit))
		a.post(feature, r, s.id, n, t)
		rest -= n
	}
	return rest
}

// over burns overage in burn order, and reports whether there was any.
func (a *refAnswer) over(feature string, rows []*refRow, burn []*refSlot, rest *int64, t int64) bool {
	any := false
	for _, s := range burn {
		r := rowOf(rows, s)
		most := s.over.Max
		if s.over.Unlimited {
			most = 1 << 50
		}
		beyond := max(r.used+r.reserved-r.limit, 0)
		for _, before := range r.slots {
			if before == s {
				break
			}
			beyond -= before.over.Max
		}
		n := min(*rest, most-min(max(beyond, 0), most))
		if r.unlimited {
			n = 0
		}
		a.post(feature, r, "overage:"+s.id, n, t)
		*rest -= n
		any = any || n > 0
	}
	return any
}

// take judges and books: a Consume or Reserve all or nothing, an event always.
func (m *ref) take(feature string, amount, t, now int64, event bool, hold *refHold) refAnswer {
	a := m.judge(feature, amount, t, now)
	if !a.allowed && !event {
		a.posts = nil
		return a
	}
	for _, p := range a.posts {
		p.hold = hold
	}
	a.posts = merge(a.posts)
	m.posts = append(m.posts, a.posts...)
	return a
}

// merge makes one of postings to one bucket under one name, in the order of the
// first of each.
func merge(list []*refPost) (out []*refPost) {
	for _, p := range list {
		i := slices.IndexFunc(out, func(o *refPost) bool {
			return o.feature == p.feature && o.clock == p.clock && o.start == p.start && o.name == p.name
		})
		if i < 0 {
			out = append(out, p)
		} else {
			out[i].n += p.n
			p.n = 0
		}
	}
	return out
}

// first takes the first n units out of postings, in their order, and returns
// how much of each that is. Credits go with the units that they paid for.
func (m *ref) first(feature string, posts []*refPost, n int64) []int64 {
	out := make([]int64, len(posts))
	var drawn int64
	for i, p := range posts {
		if p.feature == feature {
			out[i] = min(n, p.n)
			n -= out[i]
			if p.clock == "drawn" {
				drawn += out[i]
			}
		}
	}
	credits := drawn * m.rate
	for i, p := range posts {
		if p.feature != feature {
			out[i] = min(credits, p.n)
			credits -= out[i]
		}
	}
	return out
}

// settle ends a hold and returns the postings of its use.
func (m *ref) settle(h *refHold, amount, now int64) []*refPost {
	var used []*refPost
	rest := amount
	if !h.over && now < h.expires {
		for i, n := range m.first(h.feature, h.posts, min(amount, h.amount)) {
			p := h.posts[i]
			if p.hold, p.n = nil, n; n > 0 {
				used = append(used, p)
			}
		}
		rest -= min(amount, h.amount)
	}
	h.over = true
	if rest > 0 {
		used = append(used, m.take(h.feature, rest, h.at, now, true, nil).posts...)
	}
	return merge(used)
}

// correct gives the first n units of a take back.
func (m *ref) correct(feature string, posts []*refPost, n int64) {
	for i, back := range m.first(feature, posts, n) {
		posts[i].n -= back
	}
}

// sweep drops postings that came to nothing, so that the list stays short.
func (m *ref) sweep(now int64) {
	m.posts = slices.DeleteFunc(m.posts, func(p *refPost) bool { return p.n == 0 || !p.alive(now) })
	m.seats = slices.DeleteFunc(m.seats, func(s *refSeat) bool { return s.expires <= now })
}

// seatFigures are used, reserved, limit, overage permitted, and why nobody may
// sit.
func (m *ref) seatFigures(t int64) (active, pending, limit, over int64, unlimited bool, dead usher.Reason) {
	list, _, dead := m.slots("members", t)
	for _, s := range list {
		limit, over, unlimited = limit+s.limit, over+s.over.Max, unlimited || s.unlimited
	}
	for _, s := range m.seats {
		if s.expires <= t {
			continue
		}
		if s.pending {
			pending++
		} else {
			active++
		}
	}
	return
}

// sit decides n more seats.
func (m *ref) sit(n, t int64) (bool, usher.Reason) {
	active, pending, limit, over, unlimited, dead := m.seatFigures(t)
	held := active + pending
	switch {
	case dead != "":
		return false, dead
	case unlimited:
		return true, usher.ReasonUnlimited
	case n == 0 || held+n <= limit:
		return true, usher.WithinLimit
	case held+n <= limit+over:
		return true, usher.ReasonOverage
	case m.mode == usher.Warn:
		return true, usher.Warned
	case m.mode == usher.Shadow:
		return true, usher.Shadowed
	}
	return false, usher.SeatLimitReached
}
