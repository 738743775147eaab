package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/usher-sh/usher"
)

// RollupRow is the use of one minute.
type RollupRow struct {
	Minute time.Time // its start
	Value  string    // of the dimension, where one was asked for
	Clock  string    // whose bucket took it, where no dimension was asked for
	Used   int64     // smallest units; of max and last gauges the minute's value
	At     time.Time // event time of a gauge's value
}

const useByClock = `SELECT clock, CAST(sum(used) AS BIGINT) FROM rollup WHERE customer = $1 AND env = $2 AND feature = $3
	AND minute_at >= $4 AND minute_at < $5 GROUP BY clock`

// UseByClock sums the use in minutes that start in [from, until), per clock.
func (db *DB) UseByClock(ctx context.Context, env usher.Environment, customer, feature string, from, until time.Time) (map[string]int64, error) {
	type row struct {
		clock string
		used  int64
	}
	// The sum of bigints is numeric on PostgreSQL.
	rows, err := list(ctx, db, func(r *sql.Rows, v *row) error { return r.Scan(&v.clock, &v.used) },
		useByClock, customer, string(env), feature, micros(from), micros(until))
	if err != nil {
		return nil, err
	}
	sums := make(map[string]int64, len(rows))
	for _, r := range rows {
		sums[r.clock] = r.used
	}
	return sums, nil
}

// Rollups reads the minutes that start in [from, until), in order: per clock
// where dimension is "", else per value of that dimension.
func (db *DB) Rollups(ctx context.Context, env usher.Environment, customer, feature, dimension string, from, until time.Time) ([]RollupRow, error) {
	text := `SELECT minute_at, '', clock, used, at FROM rollup WHERE customer = $1 AND env = $2 AND feature = $3
		AND minute_at >= $4 AND minute_at < $5 ORDER BY minute_at, clock`
	args := []any{customer, string(env), feature, micros(from), micros(until)}
	if dimension != "" {
		text = `SELECT minute_at, value, '', used, at FROM rollup_dim WHERE customer = $1 AND env = $2 AND feature = $3
			AND minute_at >= $4 AND minute_at < $5 AND dimension = $6 ORDER BY minute_at, value`
		args = append(args, dimension)
	}
	return list(ctx, db, func(row *sql.Rows, r *RollupRow) error {
		var minute, at int64
		err := row.Scan(&minute, &r.Value, &r.Clock, &r.Used, &at)
		r.Minute, r.At = fromMicros(minute), fromMicros(at)
		return err
	}, text, args...)
}

// SeenIn counts, for each window, the different values of a unique meter seen in
// its minutes. The windows are in order and do not overlap. It reads once over
// all that the customer has of the feature between the first and the last.
func (db *DB) SeenIn(ctx context.Context, env usher.Environment, customer, feature string, windows []usher.Window) ([]int64, error) {
	counts := make([]int64, len(windows))
	if len(windows) == 0 {
		return counts, nil
	}
	for i := 1; i < len(windows); i++ {
		if windows[i].Start.Before(windows[i-1].End) {
			return nil, fmt.Errorf("store: windows %d and %d overlap", i-1, i)
		}
	}
	// In the key's own order, each value's minutes come together and ascending:
	// no set of values need be held.
	rows, err := db.query(ctx, `SELECT value, minute_at FROM seen WHERE customer = $1 AND env = $2 AND feature = $3
		AND minute_at >= $4 AND minute_at < $5 ORDER BY value, minute_at`,
		customer, string(env), feature, micros(windows[0].Start), micros(windows[len(windows)-1].End))
	if err != nil {
		return nil, db.fault(err)
	}
	defer rows.Close()
	last, w, counted := "", 0, false
	for first := true; rows.Next(); first = false {
		var value string
		var minute int64
		if err := rows.Scan(&value, &minute); err != nil {
			return nil, db.fault(err)
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
	return counts, db.fault(rows.Err())
}
