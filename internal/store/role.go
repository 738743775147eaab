package store

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// RolesHeld reads how often each role is assigned in an environment, without
// assignments that ended by at.
func (db *DB) RolesHeld(ctx context.Context, env usher.Environment, at time.Time) (_ map[string]int64, err error) {
	defer wrap(&err, "read roles held")
	type row struct {
		role string
		n    int64
	}
	rows, err := list(ctx, db, func(r *sql.Rows, v *row) error { return r.Scan(&v.role, &v.n) },
		`SELECT role, count(*) FROM assignment WHERE env = $1 AND recorded_until IS NULL AND until_at > $2 GROUP BY role`, string(env),
		micros(at))
	all := make(map[string]int64, len(rows))
	for _, r := range rows {
		all[r.role] = r.n
	}
	return all, err
}

// CustomRoleKeys reads the keys of the roles that customers defined, each once.
func (db *DB) CustomRoleKeys(ctx context.Context, env usher.Environment) (_ []string, err error) {
	defer wrap(&err, "read custom role keys")
	return list(ctx, db, scanText, `SELECT DISTINCT id FROM custom_role WHERE env = $1 AND recorded_until IS NULL ORDER BY id`, string(env))
}

// RoleHolder is one assignment, with what rules over all assignments need.
type RoleHolder struct {
	Customer string
	Holder   usher.Holder
	Role     string
}

// RoleHolders reads who holds any of the roles in an environment, by customer,
// without assignments that ended by at.
func (db *DB) RoleHolders(ctx context.Context, env usher.Environment, roles []string, at time.Time) (all []RoleHolder, err error) {
	defer wrap(&err, "read role holders")
	for part := range slices.Chunk(roles, rowsAtOnce) {
		args := []any{string(env), micros(at)}
		for _, r := range part {
			args = append(args, r)
		}
		found, err := list(ctx, db, func(row *sql.Rows, h *RoleHolder) error {
			var group int64
			err := row.Scan(&h.Customer, &group, &h.Holder.ID, &h.Role)
			h.Holder.Group = group != 0
			return err
		}, `SELECT customer, is_group, holder, role FROM assignment WHERE env = $1 AND until_at > $2 AND recorded_until IS NULL
			AND role IN (`+places(len(part), 3)+`)`, args...)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	slices.SortStableFunc(all, func(x, y RoleHolder) int { return strings.Compare(x.Customer, y.Customer) })
	return all, nil
}
