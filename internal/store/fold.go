package store

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// OpsAfter looks at n stored answers after a key, by key and environment. old are
// those from before an instant; last is the key of the last one, the zero OpKey if
// there are no more.
func (db *DB) OpsAfter(ctx context.Context, after OpKey, before time.Time, n int) (old []Op, last OpKey, err error) {
	defer wrap(&err, "read ops after")
	// The answers of newer ones are not read: they are only passed over.
	rows, err := db.query(ctx, `SELECT key, env, customer, at, CASE WHEN at < $1 THEN answer END FROM op
		WHERE (key, env) > ($2, $3) ORDER BY key, env LIMIT $4`, micros(before), after.Key, string(after.Env), int64(n))
	if err != nil {
		return nil, OpKey{}, err
	}
	defer rows.Close()
	for rows.Next() {
		var o Op
		var at int64
		if err := rows.Scan(&o.Key, &o.Env, &o.Customer, &at, &o.Answer); err != nil {
			return nil, OpKey{}, err
		}
		last = OpKey{o.Env, o.Key}
		if o.Answer != nil {
			o.At = fromMicros(at)
			old = append(old, o)
		}
	}
	return old, last, rows.Err()
}

// errFolded means that another node has folded the same answers already.
var errFolded = errors.New("store: answers are gone already")

// Fold deletes stored answers and adds what they took to the table folded, whole or
// not at all. It returns false if some of the answers were gone already. Give at
// most 500 keys, so that no take waits for long.
func (db *DB) Fold(ctx context.Context, keys []OpKey, before time.Time, sums []FoldedRow) (_ bool, err error) {
	defer wrap(&err, "fold")
	slices.SortFunc(sums, func(x, y FoldedRow) int { // one order, so that nodes cannot deadlock
		return cmp.Or(strings.Compare(x.Customer, y.Customer), strings.Compare(string(x.Env), string(y.Env)),
			strings.Compare(x.Bucket.Feature, y.Bucket.Feature),
			strings.Compare(x.Bucket.Clock, y.Bucket.Clock), cmp.Compare(x.Bucket.Start, y.Bucket.Start), cmp.Compare(x.Minute, y.Minute))
	})
	err = db.usage(ctx, db.w, func(u *UsageTx) error {
		args := make([]any, 0, 2*len(keys)+1)
		for _, k := range keys {
			args = append(args, k.Key, string(k.Env))
		}
		at := "?"
		if db.dialect == Postgres {
			at = values(1, 1, len(args)+1)
		}
		n, err := exec(ctx, u.tx, `DELETE FROM op WHERE (key, env) IN (VALUES `+db.rows(len(keys), 2)+`) AND at < `+at,
			append(args, micros(before))...)
		if err != nil {
			return err
		}
		if n != int64(len(keys)) {
			return errFolded
		}
		for part := range slices.Chunk(sums, 256) {
			args := make([]any, 0, 7*len(part))
			for i := range part {
				f := &part[i]
				args = append(args, f.Customer, string(f.Env), f.Bucket.Feature, f.Bucket.Clock, f.Bucket.Start, f.Minute, f.Amount)
			}
			if _, err := exec(ctx, u.tx, `INSERT INTO folded (customer, env, feature, clock, start_at, minute_at, amount)
				VALUES `+db.rows(len(part), 7)+`
				ON CONFLICT (customer, env, feature, clock, start_at, minute_at) DO UPDATE
					SET amount = folded.amount + excluded.amount`, args...); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errFolded) {
		return false, nil
	}
	return err == nil, err
}
