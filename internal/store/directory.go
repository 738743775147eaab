package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// reader is what directory reads run on: the database, or one transaction of it.
type reader interface {
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

// kept is the database with its kept statements.
type kept struct{ db *DB }

func (k kept) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	return k.db.query(ctx, text, args...)
}

// rowsOf reads every row of text with scan.
func rowsOf[T any](ctx context.Context, r reader, scan func(row *sql.Rows, v *T) error, text string, args ...any) ([]T, error) {
	rows, err := r.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// Directory reads who one customer's people are and what they may do: as it is
// committed, or as a transaction sees it.
type Directory struct {
	db       *DB
	r        reader
	env      usher.Environment
	customer string
	known    int64 // lists are as known at this revision; 0: as recorded now
}

// AsKnown is the directory whose lists are as known at a revision.
func (d Directory) AsKnown(revision int64) Directory {
	d.known = revision
	return d
}

// Directory is a customer's directory as it is committed.
func (db *DB) Directory(env usher.Environment, customer string) Directory {
	return Directory{db: db, r: kept{db}, env: env, customer: customer}
}

// MemberFacts is what decides for one member, of one instant.
type MemberFacts struct {
	Member      *usher.Member      // nil: unknown
	Groups      []string           // that the member is in, through groups too
	Assignments []usher.Assignment // its own, and those of its groups; none that has ended
	Roles       []usher.Role       // the customer's own
	Seats       []HeldSeat         // that the member sits in; no invitations
	EnvRevision int64
	// CatalogRevision is of the catalogue in force at that instant; 0: none.
	CatalogRevision int64
}

// HeldSeat is a seat that somebody holds.
type HeldSeat struct {
	Feature string
	Expires time.Time // zero: it does not end by itself
}

// CROSS JOIN says to SQLite that groups come first: without statistics it would
// look through all memberships and assignments of the customer instead.
// factsNow reads members ($4 on) at an instant ($3). The cross joins tell SQLite
// to find the groups first: without statistics it would walk the whole customer.
const factsNow = `
WITH RECURSIVE g(member, id) AS (
  SELECT holder, grp FROM membership WHERE customer = $2 AND env = $1 AND holder IN ($M) AND is_group = 0 AND recorded_until IS NULL
  UNION
  SELECT g.member, m.grp FROM g CROSS JOIN membership m WHERE m.customer = $2 AND m.env = $1 AND m.holder = g.id AND m.is_group = 1 AND m.recorded_until IS NULL)
SELECT 0 AS part, '' AS member, '' AS id, '' AS body, revision AS n, catalog_revision AS m FROM environment WHERE env = $1
UNION ALL SELECT 1, id, '', body, 0, 0 FROM member WHERE customer = $2 AND env = $1 AND id IN ($M) AND recorded_until IS NULL
UNION ALL SELECT 2, member, id, '', 0, 0 FROM g
UNION ALL SELECT 3, holder, id, body, 0, 0 FROM assignment WHERE customer = $2 AND env = $1 AND holder IN ($M) AND is_group = 0 AND recorded_until IS NULL AND until_at > $3
UNION ALL SELECT 3, g.member, a.id, a.body, 0, 0 FROM g CROSS JOIN assignment a WHERE a.customer = $2 AND a.env = $1 AND a.holder = g.id AND a.is_group = 1 AND a.recorded_until IS NULL AND a.until_at > $3
UNION ALL SELECT 4, '', id, body, 0, 0 FROM custom_role WHERE customer = $2 AND env = $1 AND recorded_until IS NULL
UNION ALL SELECT 5, holder, feature, '', expires_at, 0 FROM seat WHERE customer = $2 AND env = $1 AND holder IN ($M) AND released_at = 0 AND pending = 0
ORDER BY 1, 2, 3`

// factsThen reads them as known at a revision ($R).
var factsThen = strings.NewReplacer(
	"m.recorded_until IS NULL", "m.recorded_from <= $R AND (m.recorded_until IS NULL OR m.recorded_until > $R)",
	"a.recorded_until IS NULL", "a.recorded_from <= $R AND (a.recorded_until IS NULL OR a.recorded_until > $R)",
	"recorded_until IS NULL", "recorded_from <= $R AND (recorded_until IS NULL OR recorded_until > $R)",
	"released_at = 0", "at <= $3 AND (released_at = 0 OR released_at > $3)",
	"catalog_revision AS m", "(SELECT coalesce(max(revision), 0) FROM catalog WHERE env = $1 AND revision <= $R) AS m",
).Replace(factsNow)

// Facts reads what decides for members at an instant: as recorded now where
// asKnown is 0, else as known at that revision, with the seats of the instant.
// Every member asked for has an entry, unknown ones too.
func (d Directory) Facts(ctx context.Context, members []string, at time.Time, asKnown int64) (map[string]*MemberFacts, error) {
	all := make(map[string]*MemberFacts, len(members))
	for part := range slices.Chunk(members, 256) {
		if err := d.facts(ctx, part, at, asKnown, all); err != nil {
			return nil, d.db.fault(err)
		}
	}
	return all, nil
}

func (d Directory) facts(ctx context.Context, members []string, at time.Time, asKnown int64, all map[string]*MemberFacts) error {
	// Few texts, so that statements are kept: the last id stands in for none.
	n := 1
	for n < len(members) {
		n *= 16
	}
	args := []any{string(d.env), d.customer, micros(at)}
	for i := range n {
		args = append(args, members[min(i, len(members)-1)])
	}
	text := strings.ReplaceAll(factsNow, "$M", places(n, 4))
	if asKnown != 0 {
		args = append(args, asKnown)
		text = strings.NewReplacer("$M", places(n, 4), "$R", fmt.Sprintf("$%d", len(args))).Replace(factsThen)
	}
	for _, id := range members {
		all[id] = &MemberFacts{}
	}
	rows, err := d.r.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	var environment MemberFacts
	var own []usher.Role
	for rows.Next() {
		var part, n, m int64
		var member, id, body string
		if err := rows.Scan(&part, &member, &id, &body, &n, &m); err != nil {
			return err
		}
		f := all[member]
		switch part {
		case 0:
			environment.EnvRevision, environment.CatalogRevision = n, m
		case 1:
			f.Member = &usher.Member{}
			err = json.Unmarshal([]byte(body), f.Member)
		case 2:
			f.Groups = append(f.Groups, id)
		case 3:
			f.Assignments, err = appendBody(f.Assignments, body)
		case 4:
			own, err = appendBody(own, body)
		case 5:
			f.Seats = append(f.Seats, HeldSeat{id, until(n)})
		}
		if err != nil {
			return fmt.Errorf("member %q of customer %q, stored row %q: %w", member, d.customer, id, err)
		}
	}
	for _, id := range members {
		f := all[id]
		f.EnvRevision, f.CatalogRevision, f.Roles = environment.EnvRevision, environment.CatalogRevision, own
	}
	return rows.Err()
}

// Revision is of the newest change to the directory; NotFound where the customer
// is unknown or deleted.
func (d Directory) Revision(ctx context.Context) (int64, error) {
	all, err := rowsOf(ctx, d.r, scanInt, `SELECT access_revision FROM customer WHERE env = $1 AND id = $2 AND deleted_at = 0`, string(d.env), d.customer)
	if err == nil && len(all) == 0 {
		return 0, usher.Errorf(usher.NotFound, "no customer %q", d.customer)
	}
	if err != nil {
		return 0, d.db.fault(err)
	}
	return all[0], nil
}

func scanInt(row *sql.Rows, n *int64) error   { return row.Scan(n) }
func scanText(row *sql.Rows, s *string) error { return row.Scan(s) }

// has reports which of the ids are there, in a table of the directory: member,
// groups or custom_role.
func (d Directory) has(ctx context.Context, table string, ids []string) (map[string]bool, error) {
	all := make(map[string]bool, len(ids))
	for part := range slices.Chunk(ids, rowsAtOnce) {
		args := []any{string(d.env), d.customer}
		for _, id := range part {
			args = append(args, id)
		}
		found, err := rowsOf(ctx, d.r, scanText, `SELECT id FROM `+table+` WHERE env = $1 AND customer = $2 AND recorded_until IS NULL AND id IN (`+places(len(part), 3)+`)`, args...)
		if err != nil {
			return nil, d.db.fault(err)
		}
		for _, id := range found {
			all[id] = true
		}
	}
	return all, nil
}

// places is "$3, $4" for n parameters from the given one.
func places(n, from int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", from+i)
	}
	return b.String()
}

// HasMembers reports which of the ids are members.
func (d Directory) HasMembers(ctx context.Context, ids []string) (map[string]bool, error) {
	return d.has(ctx, "member", ids)
}

// HasGroups reports which of the ids are groups.
func (d Directory) HasGroups(ctx context.Context, ids []string) (map[string]bool, error) {
	return d.has(ctx, "groups", ids)
}

// Member reads a member; NotFound where there is none.
func (d Directory) Member(ctx context.Context, id string) (usher.Member, error) {
	return oneOf[usher.Member](ctx, d, "member", "member", ` AND id = $3`, id)
}

// Group reads a group; NotFound where there is none.
func (d Directory) Group(ctx context.Context, id string) (usher.Group, error) {
	return oneOf[usher.Group](ctx, d, "groups", "group", ` AND id = $3`, id)
}

// Assignment reads an assignment; NotFound where there is none.
func (d Directory) Assignment(ctx context.Context, id string) (usher.Assignment, error) {
	return oneOf[usher.Assignment](ctx, d, "assignment", "assignment", ` AND id = $3`, id)
}

// Resource reads a resource; NotFound where it is not registered.
func (d Directory) Resource(ctx context.Context, kind, id string) (usher.Resource, error) {
	return oneOf[usher.Resource](ctx, d, "resource", "resource", ` AND type = $4 AND id = $3`, id, kind)
}

// ResourceAt reads a resource as known at a revision; nil where it was not
// registered.
func (d Directory) ResourceAt(ctx context.Context, kind, id string, asKnown int64) (*usher.Resource, error) {
	all, err := rowsOf(ctx, d.r, scanBody[usher.Resource], `SELECT body FROM resource WHERE env = $1 AND customer = $2 AND type = $3 AND id = $4
		AND recorded_from <= $5 AND (recorded_until IS NULL OR recorded_until > $5)`, string(d.env), d.customer, kind, id, asKnown)
	if err != nil || len(all) == 0 {
		return nil, d.db.fault(err)
	}
	return &all[0], nil
}

func oneOf[T any](ctx context.Context, d Directory, table, what, where string, args ...any) (v T, err error) {
	all, err := rowsOf(ctx, d.r, scanBody[T], `SELECT body FROM `+table+` WHERE env = $1 AND customer = $2 AND recorded_until IS NULL`+where,
		append([]any{string(d.env), d.customer}, args...)...)
	switch {
	case err != nil:
		return v, d.db.fault(err)
	case len(all) == 0:
		return v, usher.Errorf(usher.NotFound, "no %s %q of customer %q", what, args[0], d.customer)
	}
	return all[0], nil
}

func pageOf[T any](ctx context.Context, d Directory, table, where, order string, limit int, args ...any) ([]T, error) {
	args = append(append([]any{string(d.env), d.customer}, args...), int64(limit))
	last, recorded := len(args), "recorded_until IS NULL"
	if d.known != 0 {
		args = append(args, d.known)
		recorded = fmt.Sprintf("recorded_from <= $%[1]d AND (recorded_until IS NULL OR recorded_until > $%[1]d)", len(args))
	}
	all, err := rowsOf(ctx, d.r, scanBody[T], fmt.Sprintf(`SELECT body FROM %s WHERE env = $1 AND customer = $2 AND %s%s ORDER BY %s LIMIT $%d`,
		table, recorded, where, order, last), args...)
	return all, d.db.fault(err)
}

// Members reads members by id, after the given one.
func (d Directory) Members(ctx context.Context, after string, limit int) ([]usher.Member, error) {
	return pageOf[usher.Member](ctx, d, "member", ` AND id > $3`, "id", limit, after)
}

// Groups reads groups by id, after the given one.
func (d Directory) Groups(ctx context.Context, after string, limit int) ([]usher.Group, error) {
	return pageOf[usher.Group](ctx, d, "groups", ` AND id > $3`, "id", limit, after)
}

// Roles reads the customer's own roles by key.
func (d Directory) Roles(ctx context.Context) ([]usher.Role, error) {
	return pageOf[usher.Role](ctx, d, "custom_role", ``, "id", math.MaxInt32)
}

// Resources reads the registered resources of a type by id, after the given one.
func (d Directory) Resources(ctx context.Context, kind, after string, limit int) ([]usher.Resource, error) {
	return pageOf[usher.Resource](ctx, d, "resource", ` AND type = $3 AND id > $4`, "id", limit, kind, after)
}

// MembersNamed reads the members with a user name, in any case of letters.
func (d Directory) MembersNamed(ctx context.Context, userName string) ([]usher.Member, error) {
	return pageOf[usher.Member](ctx, d, "member", ` AND user_name <> '' AND user_name = $3`, "id", 10, strings.ToLower(userName))
}

// MembersOutside reads the members with an id of another system.
func (d Directory) MembersOutside(ctx context.Context, externalID string) ([]usher.Member, error) {
	return pageOf[usher.Member](ctx, d, "member", ` AND external_id <> '' AND external_id = $3`, "id", 10, externalID)
}

// GroupsNamed reads the groups with a title, in any case of letters.
func (d Directory) GroupsNamed(ctx context.Context, title string) ([]usher.Group, error) {
	return pageOf[usher.Group](ctx, d, "groups", ` AND name = $3`, "id", 10, strings.ToLower(title))
}

// CountMembers is how many members there are.
func (d Directory) CountMembers(ctx context.Context) (int64, error) { return d.count(ctx, "member") }

// CountGroups is how many groups there are.
func (d Directory) CountGroups(ctx context.Context) (int64, error) { return d.count(ctx, "groups") }

func (d Directory) count(ctx context.Context, table string) (int64, error) {
	all, err := rowsOf(ctx, d.r, scanInt, `SELECT count(*) FROM `+table+` WHERE env = $1 AND customer = $2 AND recorded_until IS NULL`, string(d.env), d.customer)
	if err != nil {
		return 0, d.db.fault(err)
	}
	return all[0], nil
}

// AssignmentFilter says which assignments are meant; the zero filter is all.
type AssignmentFilter struct {
	Holder *usher.Holder
	Role   string
}

// Assignments reads assignments by id, after the given one, those that are over
// included.
func (d Directory) Assignments(ctx context.Context, f AssignmentFilter, after string, limit int) ([]usher.Assignment, error) {
	where, args := ` AND id > $3`, []any{after}
	if f.Holder != nil {
		where += ` AND holder = $4 AND is_group = $5`
		args = append(args, f.Holder.ID, bit(f.Holder.Group))
	}
	if f.Role != "" {
		args = append(args, f.Role)
		where += fmt.Sprintf(` AND role = $%d`, len(args)+2)
	}
	return pageOf[usher.Assignment](ctx, d, "assignment", where, "id", limit, args...)
}

// In reads who is directly in a group: groups before members, each by id, after
// the given one (nil: from the start).
func (d Directory) In(ctx context.Context, group string, after *usher.Holder, limit int) ([]usher.Holder, error) {
	where, args := ``, []any{string(d.env), d.customer, group}
	if after != nil {
		where = ` AND (1 - is_group, holder) > ($4, $5)`
		args = append(args, 1-bit(after.Group), after.ID)
	}
	all, err := rowsOf(ctx, d.r, scanHolder, fmt.Sprintf(`SELECT is_group, holder FROM membership WHERE env = $1 AND customer = $2 AND grp = $3 AND recorded_until IS NULL%s
		ORDER BY 1 - is_group, holder LIMIT $%d`, where, len(args)+1), append(args, int64(limit))...)
	return all, d.db.fault(err)
}

func scanHolder(row *sql.Rows, h *usher.Holder) error {
	var group int64
	err := row.Scan(&group, &h.ID)
	h.Group = group != 0
	return err
}

// GroupsOf reads the groups that somebody is directly in, by id.
func (d Directory) GroupsOf(ctx context.Context, h usher.Holder) ([]string, error) {
	all, err := rowsOf(ctx, d.r, scanText, `SELECT grp FROM membership WHERE env = $1 AND customer = $2 AND holder = $3 AND is_group = $4 AND recorded_until IS NULL ORDER BY grp`,
		string(d.env), d.customer, h.ID, bit(h.Group))
	return all, d.db.fault(err)
}

// Above reads the groups that a group is in, through groups too, by id. A cycle
// shows as the group itself among them.
func (d Directory) Above(ctx context.Context, group string) ([]string, error) {
	all, err := rowsOf(ctx, d.r, scanText, `WITH RECURSIVE g(id) AS (
		SELECT grp FROM membership WHERE env = $1 AND customer = $2 AND holder = $3 AND is_group = 1 AND recorded_until IS NULL
		UNION SELECT m.grp FROM g CROSS JOIN membership m WHERE m.env = $1 AND m.customer = $2 AND m.holder = g.id AND m.is_group = 1 AND m.recorded_until IS NULL)
		SELECT id FROM g ORDER BY id`, string(d.env), d.customer, group)
	return all, d.db.fault(err)
}

// Under reads the members of groups, through groups too, each once, by id.
func (d Directory) Under(ctx context.Context, groups []string) ([]string, error) {
	var all []string
	for part := range slices.Chunk(groups, rowsAtOnce) {
		args := []any{string(d.env), d.customer}
		for _, g := range part {
			args = append(args, g)
		}
		found, err := rowsOf(ctx, d.r, scanText, `WITH RECURSIVE g(id) AS (
			SELECT id FROM groups WHERE env = $1 AND customer = $2 AND recorded_until IS NULL AND id IN (`+places(len(part), 3)+`)
			UNION SELECT m.holder FROM g CROSS JOIN membership m WHERE m.env = $1 AND m.customer = $2 AND m.grp = g.id AND m.is_group = 1 AND m.recorded_until IS NULL)
			SELECT DISTINCT m.holder FROM g CROSS JOIN membership m WHERE m.env = $1 AND m.customer = $2 AND m.grp = g.id AND m.is_group = 0 AND m.recorded_until IS NULL`, args...)
		if err != nil {
			return nil, d.db.fault(err)
		}
		all = append(all, found...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// CustomersWithMember reads the customers that have a member of an id, at most
// limit, by id.
func (db *DB) CustomersWithMember(ctx context.Context, env usher.Environment, member string, limit int) ([]string, error) {
	return list(ctx, db, scanText, `SELECT customer FROM member WHERE id = $1 AND env = $2 AND recorded_until IS NULL ORDER BY customer LIMIT $3`, member, string(env), int64(limit))
}

// CustomersWithResource is the same for a resource.
func (db *DB) CustomersWithResource(ctx context.Context, env usher.Environment, kind, id string, limit int) ([]string, error) {
	return list(ctx, db, scanText, `SELECT customer FROM resource WHERE id = $1 AND type = $2 AND env = $3 AND recorded_until IS NULL ORDER BY customer LIMIT $4`, id, kind, string(env), int64(limit))
}

// RolesHeld is how often each role is assigned in an environment; what has ended
// by at does not count.
func (db *DB) RolesHeld(ctx context.Context, env usher.Environment, at time.Time) (map[string]int64, error) {
	type row struct {
		role string
		n    int64
	}
	rows, err := list(ctx, db, func(r *sql.Rows, v *row) error { return r.Scan(&v.role, &v.n) },
		`SELECT role, count(*) FROM assignment WHERE env = $1 AND recorded_until IS NULL AND until_at > $2 GROUP BY role`, string(env), micros(at))
	all := make(map[string]int64, len(rows))
	for _, r := range rows {
		all[r.role] = r.n
	}
	return all, err
}

// CustomRoleKeys reads the keys of all customers' own roles, each once.
func (db *DB) CustomRoleKeys(ctx context.Context, env usher.Environment) ([]string, error) {
	return list(ctx, db, scanText, `SELECT DISTINCT id FROM custom_role WHERE env = $1 AND recorded_until IS NULL ORDER BY id`, string(env))
}

// SeatNeeds is what a change of a directory does to seats: what the roles of the
// members that it touches ask for, after it.
type SeatNeeds struct {
	Members []string // that the change touches; a seat that a role took and none needs any more is freed
	Gone    []string // of them, those who are members no longer: all their seats are freed
	// Needs is by member and feature: when the last role that asks for the seat
	// ends; the zero time: it does not.
	Needs map[string]map[string]time.Time
}

// DirectoryChange is one atomic change of a customer's directory.
type DirectoryChange struct {
	Env      usher.Environment
	Meta     Meta
	Customer string
	Basis    int64 // what it was computed from: Directory.Revision

	// Each becomes the current row of its id, new or not.
	Members     []usher.Member
	Groups      []usher.Group
	Join        []usher.Membership
	Roles       []usher.Role
	Assignments []usher.Assignment
	Resources   []usher.Resource
	// What is no longer there; what was not there already does not matter.
	// A member or group that goes leaves its groups and assignments. The
	// properties of a member that goes are erased from all of its past.
	DropMembers     []string
	DropGroups      []string
	Leave           []usher.Membership
	DropRoles       []string
	DropAssignments []string
	DropResources   []usher.Resource

	// Check looks at the directory as it will be. Its error undoes the change,
	// and is returned as it is. It may run several times.
	Check func(d Directory) error

	Answer *StoredAnswer // nil: no idempotency key was given
}

// ChangeDirectory applies c whole or not at all and returns its revision. It
// returns ErrKeyTaken where the answer's key has one already, ErrStale where the
// directory has changed since the basis, and NotFound where the customer is
// unknown or deleted.
func (db *DB) ChangeDirectory(ctx context.Context, c *DirectoryChange) (revision int64, err error) {
	err = db.tx(ctx, func(tx *sql.Tx) (err error) {
		revision, err = db.changeDirectory(ctx, tx, c)
		return err
	})
	return revision, err
}

func (db *DB) changeDirectory(ctx context.Context, tx *sql.Tx, c *DirectoryChange) (int64, error) {
	revision, _, err := raise(ctx, tx, c.Env)
	if err != nil {
		return 0, err
	}
	var basis, deleted int64
	lock := ""
	if db.dialect == Postgres {
		lock = " FOR UPDATE"
	}
	err = tx.QueryRowContext(ctx, `SELECT access_revision, deleted_at FROM customer WHERE env = $1 AND id = $2`+lock, string(c.Env), c.Customer).Scan(&basis, &deleted)
	if err == sql.ErrNoRows || err == nil && deleted != 0 {
		return 0, usher.Errorf(usher.NotFound, "no customer %q", c.Customer)
	} else if err != nil {
		return 0, err
	}
	if basis != c.Basis {
		return 0, ErrStale
	}
	if err := keyFree(ctx, tx, c.Env, c.Answer); err != nil {
		return 0, err
	}
	if _, err := exec(ctx, tx, `UPDATE customer SET access_revision = $3 WHERE env = $1 AND id = $2`, string(c.Env), c.Customer, revision); err != nil {
		return 0, err
	}
	w := directoryWriter{ctx: ctx, tx: tx, env: string(c.Env), customer: c.Customer, revision: revision}
	w.drop(c)
	w.put(c)
	if w.err != nil {
		return 0, w.err
	}
	if c.Check != nil {
		if err := c.Check(Directory{db: db, r: tx, env: c.Env, customer: c.Customer}); err != nil {
			return 0, err
		}
	}
	if err := storeAnswer(ctx, tx, c.Env, revision, c.Answer); err != nil {
		return 0, err
	}
	c.Meta.directory = true
	return revision, db.record(ctx, tx, c.Env, revision, c.Customer, c.Meta)
}

// ChangeDirectory does in a batch what DB.ChangeDirectory does alone. Where it
// returns an error, nothing of it is left in the batch; undo takes back a change
// that was made.
func (u *UsageTx) ChangeDirectory(c *DirectoryChange) (revision int64, undo func() error, err error) {
	if _, err := u.tx.ExecContext(u.ctx, `SAVEPOINT directory`); err != nil {
		return 0, nil, err
	}
	undo = func() error {
		_, err := u.tx.ExecContext(u.ctx, `ROLLBACK TO SAVEPOINT directory`)
		return err
	}
	revision, err = u.db.changeDirectory(u.ctx, u.tx, c)
	if err != nil {
		return 0, nil, errors.Join(err, undo())
	}
	return revision, undo, nil
}

// LockEnvironments takes the environments' locks before any customer's: the
// order that all changes take. Only PostgreSQL has other writers to lock out.
func (u *UsageTx) LockEnvironments(envs []usher.Environment) error {
	if u.db.dialect != Postgres {
		return nil
	}
	for _, env := range envs {
		if _, err := u.tx.ExecContext(u.ctx, `SELECT 1 FROM environment WHERE env = $1 FOR UPDATE`, string(env)); err != nil {
			return err
		}
	}
	return nil
}

// directoryWriter writes rows until the first error.
type directoryWriter struct {
	ctx           context.Context
	tx            *sql.Tx
	env, customer string
	revision      int64
	err           error
}

// close ends the current rows that where says. A row that began with this very
// change is no history: it goes.
func (w *directoryWriter) close(table, where string, args ...any) {
	if w.err != nil {
		return
	}
	args = append([]any{w.env, w.customer, w.revision}, args...)
	_, w.err = exec(w.ctx, w.tx, `DELETE FROM `+table+` WHERE env = $1 AND customer = $2 AND recorded_until IS NULL AND recorded_from = $3`+where, args...)
	if w.err == nil {
		_, w.err = exec(w.ctx, w.tx, `UPDATE `+table+` SET recorded_until = $3 WHERE env = $1 AND customer = $2 AND recorded_until IS NULL`+where, args...)
	}
}

func (w *directoryWriter) add(table, columns string, args ...any) {
	if w.err != nil {
		return
	}
	args = append([]any{w.env, w.customer, w.revision}, args...)
	_, w.err = exec(w.ctx, w.tx, `INSERT INTO `+table+` (env, customer, recorded_from, `+columns+`) VALUES (`+places(len(args), 1)+`)`, args...)
}

func (w *directoryWriter) body(v any) string {
	b, err := json.Marshal(v)
	if err != nil && w.err == nil {
		w.err = err
	}
	return string(b)
}

func (w *directoryWriter) drop(c *DirectoryChange) {
	for _, m := range c.Leave {
		w.close("membership", ` AND grp = $4 AND holder = $5 AND is_group = $6`, m.Group, m.Holder.ID, bit(m.Holder.Group))
	}
	for _, id := range c.DropAssignments {
		w.close("assignment", ` AND id = $4`, id)
	}
	for _, id := range c.DropRoles {
		w.close("custom_role", ` AND id = $4`, id)
	}
	for _, r := range c.DropResources {
		w.close("resource", ` AND type = $4 AND id = $5`, r.Type, r.ID)
		w.erase("resource", ` AND type = $3 AND id = $4`, w.body(usher.Resource{Type: r.Type, ID: r.ID}), r.Type, r.ID)
	}
	for _, id := range c.DropGroups {
		w.close("groups", ` AND id = $4`, id)
		w.close("membership", ` AND (grp = $4 OR holder = $4 AND is_group = 1)`, id)
		w.close("assignment", ` AND holder = $4 AND is_group = 1`, id)
	}
	for _, id := range c.DropMembers {
		w.close("member", ` AND id = $4`, id)
		w.close("membership", ` AND holder = $4 AND is_group = 0`, id)
		w.close("assignment", ` AND holder = $4 AND is_group = 0`, id)
		w.erase("member", ` AND id = $3`, "", id)
	}
}

// erase takes personal data out of all of the past (S36): what decides without
// it stays.
func (w *directoryWriter) erase(table, where, body string, args ...any) {
	if w.err != nil {
		return
	}
	if table == "resource" {
		_, w.err = exec(w.ctx, w.tx, `UPDATE resource SET body = $`+fmt.Sprint(len(args)+3)+` WHERE env = $1 AND customer = $2`+where, append(append([]any{w.env, w.customer}, args...), body)...)
		return
	}
	for _, active := range []bool{true, false} {
		bare := w.body(usher.Member{ID: args[0].(string), Type: usher.DefaultMemberType, Active: active})
		_, err := exec(w.ctx, w.tx, `UPDATE member SET body = $4, user_name = '', external_id = '' WHERE env = $1 AND customer = $2 AND id = $3 AND active = $5`,
			w.env, w.customer, args[0], bare, bit(active))
		if w.err = err; err != nil {
			return
		}
	}
}

func (w *directoryWriter) put(c *DirectoryChange) {
	for i := range c.Members {
		m := &c.Members[i]
		w.close("member", ` AND id = $4`, m.ID)
		w.add("member", `id, active, user_name, external_id, body`, m.ID, bit(m.Active), strings.ToLower(textOf(m.Properties, "userName")), textOf(m.Properties, "externalId"), w.body(m))
	}
	for i := range c.Groups {
		g := &c.Groups[i]
		w.close("groups", ` AND id = $4`, g.ID)
		w.add("groups", `id, name, external_id, body`, g.ID, strings.ToLower(g.Title), textOf(g.Properties, "externalId"), w.body(g))
	}
	for _, m := range c.Join {
		w.close("membership", ` AND grp = $4 AND holder = $5 AND is_group = $6`, m.Group, m.Holder.ID, bit(m.Holder.Group))
		w.add("membership", `grp, holder, is_group`, m.Group, m.Holder.ID, bit(m.Holder.Group))
	}
	for i := range c.Roles {
		r := &c.Roles[i]
		w.close("custom_role", ` AND id = $4`, r.Key)
		w.add("custom_role", `id, body`, r.Key, w.body(r))
	}
	for i := range c.Assignments {
		a := &c.Assignments[i]
		w.close("assignment", ` AND id = $4`, a.ID)
		w.add("assignment", `id, is_group, holder, role, resource_type, resource_id, from_at, until_at, body`,
			a.ID, bit(a.Holder.Group), a.Holder.ID, a.Role, a.ResourceType, a.ResourceID, micros(a.From), end(a.Until), w.body(a))
	}
	for i := range c.Resources {
		r := &c.Resources[i]
		w.close("resource", ` AND type = $4 AND id = $5`, r.Type, r.ID)
		w.add("resource", `type, id, body`, r.Type, r.ID, w.body(r))
	}
}

func textOf(properties map[string]any, name string) string {
	s, _ := properties[name].(string)
	return s
}

// closeDirectory ends all of a deleted customer's directory and erases its
// people's properties (S36).
func closeDirectory(ctx context.Context, tx *sql.Tx, env usher.Environment, revision int64, customer string) error {
	w := directoryWriter{ctx: ctx, tx: tx, env: string(env), customer: customer, revision: revision}
	for _, table := range []string{"member", "groups", "membership", "custom_role", "assignment", "resource"} {
		w.close(table, ``)
	}
	members, err := column(ctx, tx, `SELECT DISTINCT id FROM member WHERE env = $1 AND customer = $2`, string(env), customer)
	if err != nil {
		return err
	}
	for _, id := range members {
		w.erase("member", ` AND id = $3`, "", id)
	}
	if w.err == nil {
		_, w.err = exec(ctx, tx, `UPDATE customer SET access_revision = $3 WHERE env = $1 AND id = $2`, string(env), customer, revision)
	}
	return w.err
}

// RoleHolder is one assignment, as far as rules about all of them ask.
type RoleHolder struct {
	Customer string
	Holder   usher.Holder
	Role     string
}

// RoleHolders reads who holds any of the roles, in all of an environment, by
// customer; what has ended by at does not count.
func (db *DB) RoleHolders(ctx context.Context, env usher.Environment, roles []string, at time.Time) (all []RoleHolder, err error) {
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
		}, `SELECT customer, is_group, holder, role FROM assignment WHERE env = $1 AND until_at > $2 AND recorded_until IS NULL AND role IN (`+places(len(part), 3)+`)`, args...)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	slices.SortStableFunc(all, func(x, y RoleHolder) int { return strings.Compare(x.Customer, y.Customer) })
	return all, nil
}
