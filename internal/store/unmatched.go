package store

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strings"

	"github.com/usher-sh/usher"
)

// MaxUnmatched is how many types of unmatched events an environment remembers: those
// that were seen last.
const MaxUnmatched = 1000

// UnmatchedKey identifies a type of events of an environment.
type UnmatchedKey struct {
	Env  usher.Environment
	Type string
}

// PutUnmatched adds to the counts of types whose events no meter read, and forgets the
// types beyond MaxUnmatched that were seen longest ago. It must be the last
// statement of a batch, because all nodes write these rows: they are locked only until
// the commit, which follows.
func (u *UsageTx) PutUnmatched(counts map[UnmatchedKey]usher.UnmatchedType) (err error) {
	defer wrap(&err, "put unmatched")
	keys := make([]UnmatchedKey, 0, len(counts))
	for k := range counts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y UnmatchedKey) int { // one order, so that nodes cannot deadlock
		return cmp.Or(strings.Compare(string(x.Env), string(y.Env)), strings.Compare(x.Type, y.Type))
	})
	args := make([]any, 0, 5*len(keys))
	for _, k := range keys {
		t := counts[k]
		args = append(args, string(k.Env), k.Type, t.Count, micros(t.LastSeen), t.Source)
	}
	if _, err := u.insert(`unmatched (env, type, n, last_at, source)`, "ttiit", args, `
		ON CONFLICT (env, type) DO UPDATE SET n = unmatched.n + excluded.n, last_at = excluded.last_at, source = excluded.source`); err != nil {
		return err
	}
	for i, k := range keys {
		if i > 0 && keys[i-1].Env == k.Env {
			continue
		}
		if _, err := exec(u.ctx, u.tx, `DELETE FROM unmatched WHERE env = $1 AND type NOT IN (SELECT type FROM unmatched WHERE env = $1
			ORDER BY last_at DESC, type LIMIT $2)`, string(k.Env), int64(MaxUnmatched)); err != nil {
			return err
		}
	}
	return nil
}

// Unmatched reads up to n types of events that no meter read, in order, after a type.
func (db *DB) Unmatched(ctx context.Context, env usher.Environment, after string, n int) (_ []usher.UnmatchedType, err error) {
	defer wrap(&err, "read unmatched")
	return list(ctx, db, func(r *sql.Rows, t *usher.UnmatchedType) error {
		var last int64
		err := r.Scan(&t.Type, &t.Count, &last, &t.Source)
		t.LastSeen = fromMicros(last)
		return err
	}, `SELECT type, n, last_at, source FROM unmatched WHERE env = $1 AND type > $2 ORDER BY type LIMIT $3`, string(env), after, int64(n))
}
