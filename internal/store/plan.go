package store

import (
	"context"

	"github.com/usher-sh/usher"
)

// PlanVersions reads every published plan by key and version: all if asKnown is 0,
// else those published up to that revision of the environment.
func (db *DB) PlanVersions(ctx context.Context, env usher.Environment, asKnown int64) (_ []usher.PlanVersion, err error) {
	defer wrap(&err, "read plan versions")
	return published[usher.PlanVersion](ctx, db, env, "plan_version", asKnown)
}

// AddonVersions reads published add-ons as PlanVersions reads plans.
func (db *DB) AddonVersions(ctx context.Context, env usher.Environment, asKnown int64) (_ []usher.AddonVersion, err error) {
	defer wrap(&err, "read addon versions")
	return published[usher.AddonVersion](ctx, db, env, "addon_version", asKnown)
}

func published[T any](ctx context.Context, db *DB, env usher.Environment, table string, asKnown int64) ([]T, error) {
	if asKnown == 0 {
		asKnown = forever
	}
	return list(ctx, db, scanBody[T], `SELECT body FROM `+table+` WHERE env = $1 AND revision <= $2 ORDER BY key, version`, string(env),
		asKnown)
}
