package store

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

const bucketColumns = `feature, clock, start_at, end_at, unlimited, lim, opening, used, reserved, overage, excess, at`

func scanBucket(row *sql.Rows, b *engine.Bucket) error {
	var unlimited int64
	err := row.Scan(&b.Feature, &b.Clock, &b.Start, &b.End, &unlimited, &b.Limit, &b.Opening, &b.Used, &b.Reserved, &b.Overage,
		&b.Excess, &b.At)
	b.Unlimited = unlimited == 1
	return err
}

// keysAtOnce is the most look-ups of one statement.
const keysAtOnce = 32

// LoadBuckets reads, for each key, the bucket of that feature and clock that
// started last at or before key.Start. A key without a bucket adds nothing; a
// bucket that several keys find is in the list several times.
func (db *DB) LoadBuckets(ctx context.Context, env usher.Environment, customer string,
	keys []engine.BucketKey) (_ []engine.Bucket, err error) {
	defer wrap(&err, "load buckets")
	if len(keys) > 2*keysAtOnce {
		// A plan with many sliding caps asks for a bucket of each step of each cap, and
		// most customers have used few of them: look first which clocks have any.
		have, err := db.clocksOf(ctx, env, customer)
		if err != nil {
			return nil, err
		}
		kept := make([]engine.BucketKey, 0, len(keys))
		for _, k := range keys {
			if have[clockOf{k.Feature, k.Clock}] {
				kept = append(kept, k)
			}
		}
		keys = kept
	}
	var all []engine.Bucket
	for len(keys) > 0 {
		n := min(len(keys), keysAtOnce)
		args := []any{customer, string(env)}
		for _, k := range keys[:n] {
			args = append(args, k.Feature, k.Clock, k.Start)
		}
		found, err := list(ctx, db, scanBucket, latestBuckets(n), args...)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
		keys = keys[n:]
	}
	return all, nil
}

// clockOf names a clock of a feature.
type clockOf struct{ feature, clock string }

// clocksOf returns the clocks for which a customer has buckets. It costs one look-up in
// the index for each, however many buckets they have.
func (db *DB) clocksOf(ctx context.Context, env usher.Environment, customer string) (map[clockOf]bool, error) {
	const next = ` FROM bucket b WHERE b.customer = $1 AND b.env = $2 AND (b.feature, b.clock) > (c.feature, c.clock)
		ORDER BY b.feature, b.clock LIMIT 1`
	found, err := list(ctx, db, func(r *sql.Rows, c *clockOf) error { return r.Scan(&c.feature, &c.clock) }, `
		WITH RECURSIVE c (feature, clock) AS (
			SELECT * FROM (SELECT feature, clock FROM bucket WHERE customer = $1 AND env = $2 ORDER BY feature, clock LIMIT 1) AS first
			UNION ALL SELECT (SELECT b.feature`+next+`), (SELECT b.clock`+next+`) FROM c WHERE c.feature IS NOT NULL)
		SELECT feature, clock FROM c WHERE feature IS NOT NULL`, customer, string(env))
	all := make(map[clockOf]bool, len(found))
	for _, c := range found {
		all[c] = true
	}
	return all, err
}

// latestBuckets returns a query with one index look-up for each key.
func latestBuckets(keys int) string {
	var b strings.Builder
	for i := range keys {
		if i > 0 {
			b.WriteString(` UNION ALL `)
		}
		p := func(n int) string { return dollar(3 + 3*i + n) }
		b.WriteString(`SELECT * FROM (SELECT ` + bucketColumns + ` FROM bucket WHERE customer = $1 AND env = $2 AND feature = ` + p(0) +
			` AND clock = ` + p(1) + ` AND start_at <= ` + p(2) + ` ORDER BY start_at DESC LIMIT 1) AS b` + strconv.Itoa(i))
	}
	return b.String()
}

// HasUsage reports whether any use of feature was ever counted (S29).
func (db *DB) HasUsage(ctx context.Context, env usher.Environment, feature string) (_ bool, err error) {
	defer wrap(&err, "has usage")
	_, ok, err := one(ctx, db, scanInt,
		`SELECT 1 FROM bucket WHERE env = $1 AND feature = $2 LIMIT 1`, string(env), feature)
	return ok, err
}

// HasUse reports whether any use of a customer was ever counted.
func (db *DB) HasUse(ctx context.Context, env usher.Environment, customer string) (_ bool, err error) {
	defer wrap(&err, "has use")
	_, ok, err := one(ctx, db, scanInt,
		`SELECT 1 FROM bucket WHERE customer = $1 AND env = $2 LIMIT 1`, customer, string(env))
	return ok, err
}

// FeatureUse is what removing a feature would lose (S31).
type FeatureUse struct {
	Overrides int64  // not expired
	Grants    int64  // neither expired nor voided
	Buckets   int64  // with use or holds, in an open window
	Holds     int64  // open reservations of any window
	Example   string // the id of one of the customers
}

// FeatureUse reads, per feature, what is live at now. It leaves out features
// without any.
func (db *DB) FeatureUse(ctx context.Context, env usher.Environment, now time.Time) (_ map[string]FeatureUse, err error) {
	defer wrap(&err, "read feature use")
	type row struct {
		part, n          int64
		feature, example string
	}
	rows, err := list(ctx, db, func(r *sql.Rows, v *row) error { return r.Scan(&v.part, &v.feature, &v.n, &v.example) }, `
		SELECT 0, feature, count(*), min(customer) FROM overrides WHERE env = $1 AND recorded_until IS NULL AND ends_at > $2
			GROUP BY feature
		UNION ALL SELECT 1, feature, count(*), min(customer) FROM grants WHERE env = $1 AND recorded_until IS NULL AND ends_at > $2
			GROUP BY feature
		UNION ALL SELECT 2, feature, count(*), min(customer) FROM bucket
			WHERE env = $1 AND start_at <= $2 AND end_at > $2 AND (opening > 0 OR used > 0 OR reserved > 0) GROUP BY feature
		UNION ALL SELECT 3, feature, count(*), min(customer) FROM hold WHERE env = $1 AND closed_at = 0 AND expires_at > $2 GROUP BY feature
		ORDER BY 1, 2`, string(env), micros(now))
	if err != nil {
		return nil, err
	}
	all := map[string]FeatureUse{}
	for _, r := range rows {
		u := all[r.feature]
		switch r.part {
		case 0:
			u.Overrides = r.n
		case 1:
			u.Grants = r.n
		case 2:
			u.Buckets = r.n
		case 3:
			u.Holds = r.n
		}
		if u.Example == "" {
			u.Example = r.example
		}
		all[r.feature] = u
	}
	return all, nil
}
