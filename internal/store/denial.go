package store

import (
	"context"
	"database/sql"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// DenialKey identifies one hour's denials of one kind.
type DenialKey struct {
	Holder
	Feature string
	Hour    int64 // its start in µs
	Outcome string
	Reason  usher.Reason
}

// DenialCount is the number of denials and the sum of what they asked for.
type DenialCount struct{ N, Amount int64 }

// PutDenials adds counts. Amounts stop at the largest number.
func (u *UsageTx) PutDenials(counts map[DenialKey]DenialCount) (err error) {
	defer wrap(&err, "put denials")
	return u.putDenials(counts)
}

func (u *UsageTx) putDenials(counts map[DenialKey]DenialCount) error {
	keys := make([]DenialKey, 0, len(counts))
	for k := range counts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y DenialKey) int {
		for _, c := range []int{strings.Compare(x.Customer, y.Customer), strings.Compare(string(x.Env), string(y.Env)),
			strings.Compare(x.Feature, y.Feature),
			int(min(max(x.Hour-y.Hour, -1), 1)), strings.Compare(x.Outcome, y.Outcome),
			strings.Compare(string(x.Reason), string(y.Reason))} {
			if c != 0 {
				return c
			}
		}
		return 0
	})
	args := make([]any, 0, 8*len(keys))
	for _, k := range keys {
		args = append(args, k.Customer, string(k.Env), k.Feature, k.Hour, k.Outcome, string(k.Reason), counts[k].N, counts[k].Amount)
	}
	_, err := u.insert(`denial (customer, env, feature, hour_at, outcome, reason, n, amount)`, "tttittii", args, `
		ON CONFLICT (customer, env, feature, hour_at, outcome, reason) DO UPDATE SET n = denial.n + excluded.n,
		amount = CASE WHEN denial.amount > 9223372036854775807 - excluded.amount THEN 9223372036854775807
			ELSE denial.amount + excluded.amount END`)
	return err
}

// DenialRow is what one customer was denied of one feature, added up.
type DenialRow struct {
	Customer, Feature string
	Outcome           string
	Reason            usher.Reason
	N, Amount         int64
	First, Last       time.Time // starts of the first and the last hour
}

// Denials sums the hours that start in [from, until), per customer, feature,
// outcome and reason, the most frequent first, at most n rows. An empty customer,
// feature or outcome selects all.
func (db *DB) Denials(ctx context.Context, env usher.Environment, customer, feature, outcome string, from, until time.Time,
	n int) (_ []DenialRow, err error) {
	defer wrap(&err, "read denials")
	const giga = 1_000_000_000
	// Amounts are summed in two parts, so that no sum can overflow.
	text := `SELECT customer, feature, outcome, reason, CAST(sum(n) AS BIGINT), CAST(sum(amount / 1000000000) AS BIGINT),
		CAST(sum(amount % 1000000000) AS BIGINT),
		min(hour_at), max(hour_at) FROM denial WHERE env = $1 AND hour_at >= $2 AND hour_at < $3`
	args := []any{string(env), micros(from), micros(until)}
	for _, c := range []struct{ column, value string }{{"customer", customer}, {"feature", feature}, {"outcome", outcome}} {
		if c.value != "" {
			args = append(args, c.value)
			text += ` AND ` + c.column + ` = ` + dollar(len(args))
		}
	}
	args = append(args, n)
	text += ` GROUP BY customer, feature, outcome, reason ORDER BY 5 DESC, customer, feature, outcome, reason LIMIT ` + dollar(len(args))
	return list(ctx, db, func(r *sql.Rows, d *DenialRow) error {
		var first, last, high, low int64
		var reason string
		err := r.Scan(&d.Customer, &d.Feature, &d.Outcome, &reason, &d.N, &high, &low, &first, &last)
		if d.Amount = math.MaxInt64; high+low/giga < math.MaxInt64/giga {
			d.Amount = high*giga + low
		}
		d.Reason, d.First, d.Last = usher.Reason(reason), fromMicros(first), fromMicros(last)
		return err
	}, text, args...)
}
