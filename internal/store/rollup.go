package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// Grain is the length of a span of use, in minutes.
type Grain int64

// The grains. Hours and days are those of UTC: in other zones, minutes fill the
// edges of a window.
const (
	Minute Grain = 1
	Hour   Grain = 60
	Day    Grain = 1440
)

// micros returns the length of one span in µs.
func (g Grain) micros() int64 { return int64(g) * 60_000_000 }

// Start returns the start, in µs, of the span around an instant in µs.
func (g Grain) Start(at int64) int64 {
	n := at % g.micros()
	if n < 0 {
		n += g.micros()
	}
	return at - n
}

// Span is rollups of one grain whose starts lie in [From, Until), in µs.
type Span struct {
	Grain       Grain
	From, Until int64
}

// Spans returns spans that cover [from, until) once: whole days, with hours and
// minutes at the edges. from and until are whole minutes.
func Spans(from, until time.Time) []Span { return spans(nil, Day, micros(from), micros(until)) }

func spans(out []Span, g Grain, from, until int64) []Span {
	if from >= until {
		return out
	}
	if g == Minute {
		return append(out, Span{g, from, until})
	}
	finer := Hour
	if g == Hour {
		finer = Minute
	}
	first, last := g.Start(from), g.Start(until)
	if first < from {
		first += g.micros()
	}
	if first >= last {
		return spans(out, finer, from, until)
	}
	out = spans(out, finer, from, first)
	out = append(out, Span{g, first, last})
	return spans(out, finer, last, until)
}

// JoinSpans merges spans of one grain that touch.
func JoinSpans(list []Span) []Span {
	var out []Span
	for _, s := range list {
		if n := len(out); n > 0 && out[n-1].Grain == s.Grain && out[n-1].Until == s.From {
			out[n-1].Until = s.Until
			continue
		}
		out = append(out, s)
	}
	return out
}

// spansAtOnce is the most look-ups of one statement.
const spansAtOnce = 16

// RollupRow is the use of one span.
type RollupRow struct {
	Start time.Time
	Value string    // of the dimension; "" without a dimension
	Clock string    // of the bucket that took it; "" with a dimension
	Used  int64     // smallest units; of max and last gauges the span's value
	At    time.Time // event time of a gauge's value
}

// bySpan returns a query with one look-up for each span. The first parameters are
// customer, env and feature; more is another condition.
func bySpan(columns, table, more string, list []Span, args []any) (string, []any) {
	var b strings.Builder
	for i, s := range list {
		if i > 0 {
			b.WriteString(` UNION ALL `)
		}
		n := len(args)
		p := func(k int) string { return dollar(n + k) }
		b.WriteString(`SELECT ` + columns + ` FROM ` + table + ` WHERE customer = $1 AND env = $2 AND feature = $3` + more +
			` AND grain = ` + p(1) + ` AND start_at >= ` + p(2) + ` AND start_at < ` + p(3))
		args = append(args, int64(s.Grain), s.From, s.Until)
	}
	return b.String(), args
}

func useByClockText(env usher.Environment, customer, feature string, from, until time.Time) (string, []any) {
	text, args := bySpan(`clock, used`, `rollup`, ``, Spans(from, until), []any{customer, string(env), feature})
	// On PostgreSQL the sum of bigints is numeric, which does not scan into an int64.
	return `SELECT clock, CAST(sum(used) AS BIGINT) FROM (` + text + `) AS r GROUP BY clock`, args
}

// UseByClock sums the use in minutes that start in [from, until), per clock.
func (db *DB) UseByClock(ctx context.Context, env usher.Environment, customer, feature string, from,
	until time.Time) (_ map[string]int64, err error) {
	defer wrap(&err, "read use by clock")
	return useByClock(ctx, db, env, customer, feature, from, until)
}

func useByClock(ctx context.Context, r reader, env usher.Environment, customer, feature string, from,
	until time.Time) (map[string]int64, error) {
	if !from.Before(until) {
		return map[string]int64{}, nil
	}
	type row struct {
		clock string
		used  int64
	}
	text, args := useByClockText(env, customer, feature, from, until)
	rows, err := list(ctx, r, func(rows *sql.Rows, v *row) error { return rows.Scan(&v.clock, &v.used) }, text, args...)
	sums := make(map[string]int64, len(rows))
	for _, r := range rows {
		sums[r.clock] = r.used
	}
	return sums, err
}

func scanRollup(row *sql.Rows, r *RollupRow) error {
	var start, at int64
	err := row.Scan(&start, &r.Value, &r.Clock, &r.Used, &at)
	r.Start, r.At = fromMicros(start), fromMicros(at)
	return err
}

// Rollups reads spans, by start: per clock if dimension is "", else per value of
// that dimension.
func (db *DB) Rollups(ctx context.Context, env usher.Environment, customer, feature, dimension string,
	spans []Span) (_ []RollupRow, err error) {
	defer wrap(&err, "read rollups")
	var all []RollupRow
	for part := range slices.Chunk(spans, spansAtOnce) {
		args := []any{customer, string(env), feature}
		columns, table, more := `start_at, '' AS value, clock, used, at`, `rollup`, ``
		if dimension != "" {
			args = append(args, dimension)
			columns, table, more = `start_at, value, '' AS clock, used, at`, `rollup_dim`, ` AND dimension = $4`
		}
		text, args := bySpan(columns, table, more, part, args)
		rows, err := list(ctx, db, scanRollup, text+` ORDER BY 1, 3, 2`, args...)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
	}
	return all, nil
}

// Groups reads spans by start: those of each value of a dimension, as Rollups does, and
// those of each clock, which are all of the use, also without a value. Both are of one
// state of the database in each span.
func (db *DB) Groups(ctx context.Context, env usher.Environment, customer, feature, dimension string, spans []Span) (
	_ []RollupRow, err error) {
	defer wrap(&err, "read groups")
	var all []RollupRow
	for part := range slices.Chunk(spans, spansAtOnce) {
		groups, args := bySpan(`start_at, value, '' AS clock, used, at`, `rollup_dim`, ` AND dimension = $4`, part,
			[]any{customer, string(env), feature, dimension})
		total, args := bySpan(`start_at, '' AS value, clock, used, at`, `rollup`, ``, part, args)
		rows, err := list(ctx, db, scanRollup, groups+` UNION ALL `+total+` ORDER BY 1, 3, 2`, args...)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
	}
	return all, nil
}

// SeenIn counts, for each window, the different values that a unique meter saw in
// its minutes. The windows are in order and do not overlap. It reads everything
// that the customer has of the feature between the first and the last, once.
func (db *DB) SeenIn(ctx context.Context, env usher.Environment, customer, feature string, windows []usher.Window) (_ []int64, err error) {
	defer wrap(&err, "read seen in")
	counts := make([]int64, len(windows))
	if len(windows) == 0 {
		return counts, nil
	}
	for i := 1; i < len(windows); i++ {
		if windows[i].Start.Before(windows[i-1].End) {
			return nil, fmt.Errorf("store: windows %d and %d overlap", i-1, i)
		}
	}
	// In the order of the primary key, the minutes of a value come together and
	// ascending: no set of values has to be kept.
	rows, err := db.query(ctx, `SELECT value, minute_at FROM seen WHERE customer = $1 AND env = $2 AND feature = $3
		AND minute_at >= $4 AND minute_at < $5 ORDER BY value, minute_at`,
		customer, string(env), feature, micros(windows[0].Start), micros(windows[len(windows)-1].End))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	last, w, counted := "", 0, false
	for first := true; rows.Next(); first = false {
		var value string
		var minute int64
		if err := rows.Scan(&value, &minute); err != nil {
			return nil, err
		}
		if first || value != last {
			last, w, counted = value, 0, false
		}
		for w < len(windows) && minute >= micros(windows[w].End) {
			w, counted = w+1, false
		}
		if w < len(windows) && minute >= micros(windows[w].Start) && !counted {
			counts[w]++
			counted = true
		}
	}
	return counts, rows.Err()
}
