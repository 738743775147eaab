package store

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// Subscription reads a subscription as recorded now; NotFound if there is none or
// its customer is deleted.
func (db *DB) Subscription(ctx context.Context, env usher.Environment, id string) (_ usher.Subscription, err error) {
	defer wrap(&err, "read subscription")
	return current[usher.Subscription](ctx, db, "subscription", "subscription", env, id)
}

// Holding counts the subscriptions that name exactly the same versions.
type Holding struct {
	Holds         string // " pro@1 api-pack@1 ": each version between two spaces
	Subscriptions int64
	Example       string // the id of one of the customers
}

// Refs returns the versions in Holds.
func (h Holding) Refs() []string { return strings.Fields(h.Holds) }

// Holders counts the subscriptions that are live or scheduled at now, grouped by
// the versions that they name in any phase, past ones included (S31).
func (db *DB) Holders(ctx context.Context, env usher.Environment, now time.Time) (_ []Holding, err error) {
	defer wrap(&err, "read holders")
	return list(ctx, db, func(row *sql.Rows, h *Holding) error { return row.Scan(&h.Holds, &h.Subscriptions, &h.Example) },
		`SELECT holds, count(*), min(customer) FROM subscription
		WHERE env = $1 AND recorded_until IS NULL AND ends_at > $2 GROUP BY holds ORDER BY holds`, string(env), micros(now))
}

// SubscriptionsHolding reads subscriptions, ended ones included, that name ref in
// any phase: "pro@1", or "pro" for any version of it. They are ordered by id, after
// the given one. Fewer than limit means the end.
func (db *DB) SubscriptionsHolding(ctx context.Context, env usher.Environment, ref, after string,
	limit int) (_ []usher.Subscription, err error) {
	defer wrap(&err, "read subscriptions holding")
	pattern := "% " + strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(ref)
	if strings.Contains(ref, "@") {
		pattern += " %"
	} else {
		pattern += "@%"
	}
	return list(ctx, db, scanBody[usher.Subscription], `SELECT body FROM subscription
		WHERE env = $1 AND recorded_until IS NULL AND id > $2 AND holds LIKE $3 ESCAPE '!' ORDER BY id LIMIT $4`,
		string(env), after, pattern, int64(limit))
}

func datedSubscriptions(all []usher.Subscription) []dated {
	rows := make([]dated, len(all))
	for i := range all {
		s := &all[i]
		rows[i] = dated{id: s.ID, customer: s.Customer, label: s.Family, holds: holds(s), endsAt: end(s.EndsAt), body: s}
	}
	return rows
}
