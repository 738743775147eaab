package store

import (
	"context"

	"github.com/usher-sh/usher"
)

// Grant reads a grant as recorded now; NotFound if there is none.
func (db *DB) Grant(ctx context.Context, env usher.Environment, id string) (_ usher.Grant, err error) {
	defer wrap(&err, "read grant")
	return current[usher.Grant](ctx, db, "grants", "grant", env, id)
}

func datedGrants(all []usher.Grant) []dated {
	rows := make([]dated, len(all))
	for i := range all {
		g := &all[i]
		rows[i] = dated{id: g.ID, customer: g.Customer, label: g.Feature, endsAt: min(end(g.ExpiresAt), end(g.VoidedAt)), body: g}
	}
	return rows
}
