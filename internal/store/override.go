package store

import (
	"context"

	"github.com/usher-sh/usher"
)

// Override reads an override as recorded now; NotFound if there is none.
func (db *DB) Override(ctx context.Context, env usher.Environment, id string) (_ usher.Override, err error) {
	defer wrap(&err, "read override")
	return current[usher.Override](ctx, db, "overrides", "override", env, id)
}

func datedOverrides(all []usher.Override) []dated {
	rows := make([]dated, len(all))
	for i := range all {
		o := &all[i]
		rows[i] = dated{id: o.ID, customer: o.Customer, label: o.Feature, endsAt: end(o.ExpiresAt), body: o}
	}
	return rows
}
