package store

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/usher-sh/usher"
)

// Directory reads who one customer's people are and what they may do: what is
// committed, or what one transaction sees.
type Directory struct {
	r        reader
	env      usher.Environment
	customer string
	known    int64 // lists are as known at this revision; 0: as recorded now
}

// AsKnown returns the directory with lists as known at a revision.
func (d Directory) AsKnown(revision int64) Directory {
	d.known = revision
	return d
}

// Directory returns a customer's directory as committed.
func (db *DB) Directory(env usher.Environment, customer string) Directory {
	return Directory{r: db, env: env, customer: customer}
}

// Revision reads the revision of the newest change to the directory; NotFound if
// the customer is unknown or deleted.
func (d Directory) Revision(ctx context.Context) (_ int64, err error) {
	defer wrap(&err, "read revision")
	revision, ok, err := one(ctx, d.r, scanInt, `SELECT access_revision FROM customer WHERE env = $1 AND id = $2 AND deleted_at = 0`,
		string(d.env), d.customer)
	if err == nil && !ok {
		err = usher.Errorf(usher.NotFound, "no customer %q", d.customer)
	}
	return revision, err
}

// has reports which of the ids a table of the directory has: member, groups or
// custom_role.
func (d Directory) has(ctx context.Context, table string, ids []string) (map[string]bool, error) {
	all := make(map[string]bool, len(ids))
	for part := range slices.Chunk(ids, rowsAtOnce) {
		args := []any{string(d.env), d.customer}
		for _, id := range part {
			args = append(args, id)
		}
		found, err := list(ctx, d.r, scanText, `SELECT id FROM `+table+` WHERE env = $1 AND customer = $2 AND recorded_until IS NULL
			AND id IN (`+places(len(part), 3)+`)`, args...)
		if err != nil {
			return nil, err
		}
		for _, id := range found {
			all[id] = true
		}
	}
	return all, nil
}

// HasGroups reports which of the ids are groups.
func (d Directory) HasGroups(ctx context.Context, ids []string) (_ map[string]bool, err error) {
	defer wrap(&err, "has groups")
	return d.has(ctx, "groups", ids)
}

// Group reads a group; NotFound if there is none.
func (d Directory) Group(ctx context.Context, id string) (_ usher.Group, err error) {
	defer wrap(&err, "read group")
	return item[usher.Group](ctx, d, "groups", "group", ` AND id = $3`, id)
}

// Assignment reads an assignment; NotFound if there is none.
func (d Directory) Assignment(ctx context.Context, id string) (_ usher.Assignment, err error) {
	defer wrap(&err, "read assignment")
	return item[usher.Assignment](ctx, d, "assignment", "assignment", ` AND id = $3`, id)
}

// Resource reads a resource; NotFound if it is not registered.
func (d Directory) Resource(ctx context.Context, kind, id string) (_ usher.Resource, err error) {
	defer wrap(&err, "read resource")
	return item[usher.Resource](ctx, d, "resource", "resource", ` AND type = $4 AND id = $3`, id, kind)
}

// ResourceAt reads a resource as known at a revision; nil if it was not registered.
func (d Directory) ResourceAt(ctx context.Context, kind, id string, asKnown int64) (_ *usher.Resource, err error) {
	defer wrap(&err, "read resource at")
	r, ok, err := one(ctx, d.r, scanBody[usher.Resource], `SELECT body FROM resource WHERE env = $1 AND customer = $2 AND type = $3
		AND id = $4
		AND `+wasCurrent("", "$5"), string(d.env), d.customer, kind, id, asKnown)
	if err != nil || !ok {
		return nil, err
	}
	return &r, nil
}

// item reads one row of a table of the directory by its id, which is $3; NotFound
// if there is none. what is the word for it.
func item[T any](ctx context.Context, d Directory, table, what, where string, args ...any) (T, error) {
	v, ok, err := one(ctx, d.r, scanBody[T], `SELECT body FROM `+table+` WHERE env = $1 AND customer = $2 AND recorded_until IS NULL`+where,
		append([]any{string(d.env), d.customer}, args...)...)
	if err == nil && !ok {
		err = usher.Errorf(usher.NotFound, "no %s %q of customer %q", what, args[0], d.customer)
	}
	return v, err
}

// page reads rows of a table of the directory, at most limit. The parameters of
// where begin at $3.
func page[T any](ctx context.Context, d Directory, table, where, order string, limit int, args ...any) ([]T, error) {
	args = append(append([]any{string(d.env), d.customer}, args...), int64(limit))
	last, recorded := dollar(len(args)), isCurrent
	if d.known != 0 {
		args = append(args, d.known)
		recorded = wasCurrent("", dollar(len(args)))
	}
	return list(ctx, d.r, scanBody[T], `SELECT body FROM `+table+` WHERE env = $1 AND customer = $2 AND `+recorded+where+
		` ORDER BY `+order+` LIMIT `+last, args...)
}

// Groups reads groups by id, after the given one.
func (d Directory) Groups(ctx context.Context, after string, limit int) (_ []usher.Group, err error) {
	defer wrap(&err, "read groups")
	return page[usher.Group](ctx, d, "groups", ` AND id > $3`, "id", limit, after)
}

// Roles reads the customer's own roles by key.
func (d Directory) Roles(ctx context.Context) (_ []usher.Role, err error) {
	defer wrap(&err, "read roles")
	return page[usher.Role](ctx, d, "custom_role", ``, "id", math.MaxInt32)
}

// Resources reads the registered resources of a type by id, after the given one.
func (d Directory) Resources(ctx context.Context, kind, after string, limit int) (_ []usher.Resource, err error) {
	defer wrap(&err, "read resources")
	return page[usher.Resource](ctx, d, "resource", ` AND type = $3 AND id > $4`, "id", limit, kind, after)
}

// GroupsNamed reads the groups with a title, ignoring case; at most 10.
func (d Directory) GroupsNamed(ctx context.Context, title string) (_ []usher.Group, err error) {
	defer wrap(&err, "read groups named")
	return page[usher.Group](ctx, d, "groups", ` AND name = $3`, "id", 10, strings.ToLower(title))
}

// CountGroups returns how many groups there are.
func (d Directory) CountGroups(ctx context.Context) (_ int64, err error) {
	defer wrap(&err, "count groups")
	return d.count(ctx, "groups")
}

func (d Directory) count(ctx context.Context, table string) (int64, error) {
	n, _, err := one(ctx, d.r, scanInt, `SELECT count(*) FROM `+table+` WHERE env = $1 AND customer = $2 AND recorded_until IS NULL`,
		string(d.env), d.customer)
	return n, err
}

// Assignments reads assignments by id, after the given one. It includes those
// that have ended.
func (d Directory) Assignments(ctx context.Context, f usher.AssignmentFilter, after string, limit int) (_ []usher.Assignment, err error) {
	defer wrap(&err, "read assignments")
	where, args := ` AND id > $3`, []any{after}
	if f.Holder != nil {
		where += ` AND holder = $4 AND is_group = $5`
		args = append(args, f.Holder.ID, bit(f.Holder.Group))
	}
	if f.Role != "" {
		args = append(args, f.Role)
		where += fmt.Sprintf(` AND role = $%d`, len(args)+2)
	}
	return page[usher.Assignment](ctx, d, "assignment", where, "id", limit, args...)
}

// In reads who is directly in a group: groups first, then members, each by id,
// after the given one (nil: from the start).
func (d Directory) In(ctx context.Context, group string, after *usher.Holder, limit int) (_ []usher.Holder, err error) {
	defer wrap(&err, "read in")
	where, args := ``, []any{string(d.env), d.customer, group}
	if after != nil {
		where = ` AND (1 - is_group, holder) > ($4, $5)`
		args = append(args, 1-bit(after.Group), after.ID)
	}
	return list(ctx, d.r, scanHolder, fmt.Sprintf(`SELECT is_group, holder FROM membership WHERE env = $1 AND customer = $2 AND grp = $3
		AND recorded_until IS NULL%s
		ORDER BY 1 - is_group, holder LIMIT $%d`, where, len(args)+1), append(args, int64(limit))...)
}

func scanHolder(row *sql.Rows, h *usher.Holder) error {
	var group int64
	err := row.Scan(&group, &h.ID)
	h.Group = group != 0
	return err
}

// GroupsOf reads the groups that a member or group is directly in, by id.
func (d Directory) GroupsOf(ctx context.Context, h usher.Holder) (_ []string, err error) {
	defer wrap(&err, "read groups of")
	return list(ctx, d.r, scanText, `SELECT grp FROM membership WHERE env = $1 AND customer = $2 AND holder = $3 AND is_group = $4
		AND recorded_until IS NULL ORDER BY grp`,
		string(d.env), d.customer, h.ID, bit(h.Group))
}

// Above reads the groups that a group is in, directly or through other groups, by
// id. In a cycle, the group itself is among them.
func (d Directory) Above(ctx context.Context, group string) (_ []string, err error) {
	defer wrap(&err, "read above")
	return list(ctx, d.r, scanText, `WITH RECURSIVE g(id) AS (
		SELECT grp FROM membership WHERE env = $1 AND customer = $2 AND holder = $3 AND is_group = 1 AND recorded_until IS NULL
		UNION SELECT m.grp FROM g CROSS JOIN membership m WHERE m.env = $1 AND m.customer = $2 AND m.holder = g.id AND m.is_group = 1
			AND m.recorded_until IS NULL)
		SELECT id FROM g ORDER BY id`, string(d.env), d.customer, group)
}

// Under reads the members of groups, direct or through other groups, each once,
// by id.
func (d Directory) Under(ctx context.Context, groups []string) (_ []string, err error) {
	defer wrap(&err, "read under")
	var all []string
	for part := range slices.Chunk(groups, rowsAtOnce) {
		args := []any{string(d.env), d.customer}
		for _, g := range part {
			args = append(args, g)
		}
		found, err := list(ctx, d.r, scanText, `WITH RECURSIVE g(id) AS (
			SELECT id FROM groups WHERE env = $1 AND customer = $2 AND recorded_until IS NULL AND id IN (`+places(len(part), 3)+`)
			UNION SELECT m.holder FROM g CROSS JOIN membership m WHERE m.env = $1 AND m.customer = $2 AND m.grp = g.id
				AND m.is_group = 1 AND m.recorded_until IS NULL)
			SELECT DISTINCT m.holder FROM g CROSS JOIN membership m WHERE m.env = $1 AND m.customer = $2 AND m.grp = g.id
				AND m.is_group = 0 AND m.recorded_until IS NULL`, args...)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// CustomersWithResource reads the customers that have a resource, at most limit,
// by id.
func (db *DB) CustomersWithResource(ctx context.Context, env usher.Environment, kind, id string, limit int) (_ []string, err error) {
	defer wrap(&err, "read customers with resource")
	return list(ctx, db, scanText, `SELECT customer FROM resource WHERE id = $1 AND type = $2 AND env = $3 AND recorded_until IS NULL
		ORDER BY customer LIMIT $4`, id, kind, string(env), int64(limit))
}
