package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// SeatNeeds is what a change of a directory means for seats: the seats that the
// roles of the changed members ask for afterwards.
type SeatNeeds struct {
	Members []string // changed members; a seat that a role took and no role needs any more is freed
	Gone    []string // those of Members who are no longer members: all their seats are freed
	// Needs is when the last role that asks for a seat ends, by member and feature;
	// the zero time: it does not end.
	Needs map[string]map[string]time.Time
}

// DirectoryChange is one atomic change of a customer's directory.
type DirectoryChange struct {
	Env      usher.Environment
	Note     Note
	Customer string
	// Basis and Catalog are what the change was computed from: Directory.Revision,
	// and the revision of the catalogue in force (0: none).
	Basis, Catalog int64

	// Each becomes the current row of its id, new or not.
	Members     []usher.Member
	Groups      []usher.Group
	Join        []usher.Membership
	Roles       []usher.Role
	Assignments []usher.Assignment
	Resources   []usher.Resource
	// What to remove; removing what does not exist changes nothing. A removed member
	// or group loses its memberships and assignments. The properties of a removed
	// member are erased from all of its past.
	DropMembers     []string
	DropGroups      []string
	Leave           []usher.Membership
	DropRoles       []string
	DropAssignments []string
	DropResources   []usher.Resource

	// Check looks at the directory as it will be. If it returns an error, the change
	// is undone and the error is returned as it is. It may run several times.
	Check func(d Directory) error
}

// ChangeDirectory applies c whole or not at all and returns its revision. It
// returns ErrStale if the directory or the catalogue has changed since the basis,
// and NotFound if the customer is unknown or deleted.
func (db *DB) ChangeDirectory(ctx context.Context, c *DirectoryChange) (revision int64, err error) {
	defer wrap(&err, "change directory")
	err = db.tx(ctx, func(tx *sql.Tx) (err error) {
		revision, err = db.changeDirectory(ctx, tx, c)
		return err
	})
	return revision, err
}

func (db *DB) changeDirectory(ctx context.Context, tx *sql.Tx, c *DirectoryChange) (int64, error) {
	revision, before, err := raise(ctx, tx, c.Env)
	if err != nil {
		return 0, err
	}
	var basis, deleted int64
	err = tx.QueryRowContext(ctx, `SELECT access_revision, deleted_at FROM customer WHERE env = $1 AND id = $2`+db.forUpdate(),
		string(c.Env), c.Customer).Scan(&basis, &deleted)
	if err == sql.ErrNoRows || err == nil && deleted != 0 {
		return 0, usher.Errorf(usher.NotFound, "no customer %q", c.Customer)
	} else if err != nil {
		return 0, err
	}
	if basis != c.Basis || before.CatalogRevision != c.Catalog {
		return 0, ErrStale
	}
	if _, err := exec(ctx, tx, `UPDATE customer SET access_revision = $3 WHERE env = $1 AND id = $2`, string(c.Env), c.Customer,
		revision); err != nil {
		return 0, err
	}
	w := directoryWriter{ctx: ctx, tx: tx, env: string(c.Env), customer: c.Customer, revision: revision}
	// Removals come first: what one change both removes and adds is there afterwards.
	w.drop(c)
	w.put(c)
	if w.err != nil {
		return 0, w.err
	}
	if c.Check != nil {
		if err := c.Check(Directory{r: inTx{tx}, env: c.Env, customer: c.Customer}); err != nil {
			return 0, fromOutside(err)
		}
	}
	c.Note.directory = true
	return revision, db.record(ctx, tx, c.Env, revision, c.Customer, c.Note)
}

// ChangeDirectory makes the same change as DB.ChangeDirectory, within a batch. If
// it returns an error, nothing of the change is left in the batch. undo takes the
// change back.
func (u *UsageTx) ChangeDirectory(c *DirectoryChange) (revision int64, undo func() error, err error) {
	defer wrap(&err, "change directory")
	// A batch has takes of other callers too: a change that is refused must not undo those.
	if _, err := u.tx.ExecContext(u.ctx, `SAVEPOINT directory`); err != nil {
		return 0, nil, err
	}
	undo = func() error {
		_, err := u.tx.ExecContext(u.ctx, `ROLLBACK TO SAVEPOINT directory`)
		return err
	}
	revision, err = u.db.changeDirectory(u.ctx, u.tx, c)
	if err != nil {
		if failed := undo(); failed != nil {
			err = errors.Join(err, failed)
		}
		return 0, nil, err
	}
	return revision, undo, nil
}

// LockEnvironments locks the environments. Call it before Lock, because all changes
// lock environments before customers. Only PostgreSQL has other writers.
func (u *UsageTx) LockEnvironments(envs []usher.Environment) (err error) {
	defer wrap(&err, "lock environments")
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

// close ends the current rows that where selects. A row that this very change
// added is deleted: nobody has read it.
func (w *directoryWriter) close(table, where string, args ...any) {
	if w.err != nil {
		return
	}
	args = append([]any{w.env, w.customer, w.revision}, args...)
	_, w.err = exec(w.ctx, w.tx, `DELETE FROM `+table+` WHERE env = $1 AND customer = $2 AND recorded_until IS NULL
		AND recorded_from = $3`+where, args...)
	if w.err == nil {
		_, w.err = exec(w.ctx, w.tx, `UPDATE `+table+` SET recorded_until = $3
			WHERE env = $1 AND customer = $2 AND recorded_until IS NULL`+where, args...)
	}
}

func (w *directoryWriter) add(table, columns string, args ...any) {
	if w.err != nil {
		return
	}
	args = append([]any{w.env, w.customer, w.revision}, args...)
	_, w.err = exec(w.ctx, w.tx, `INSERT INTO `+table+` (env, customer, recorded_from, `+columns+`) VALUES (`+places(len(args), 1)+`)`,
		args...)
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
		w.eraseResource(r)
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
		w.eraseMember(id)
	}
}

// eraseMember removes personal data from all of a member's past (S36). What decides
// without it stays.
func (w *directoryWriter) eraseMember(id string) {
	for _, active := range []bool{true, false} {
		bare := w.body(usher.Member{ID: id, Type: usher.DefaultMemberType, Active: active})
		if w.err != nil {
			return
		}
		_, w.err = exec(w.ctx, w.tx, `UPDATE member SET body = $4, user_name = '', external_id = '' WHERE env = $1 AND customer = $2
			AND id = $3 AND active = $5`,
			w.env, w.customer, id, bare, bit(active))
	}
}

// eraseResource removes the properties from all of a resource's past.
func (w *directoryWriter) eraseResource(r usher.Resource) {
	bare := w.body(usher.Resource{Type: r.Type, ID: r.ID})
	if w.err != nil {
		return
	}
	_, w.err = exec(w.ctx, w.tx, `UPDATE resource SET body = $5 WHERE env = $1 AND customer = $2 AND type = $3 AND id = $4`, w.env,
		w.customer, r.Type, r.ID, bare)
}

func (w *directoryWriter) put(c *DirectoryChange) {
	for i := range c.Members {
		m := &c.Members[i]
		w.close("member", ` AND id = $4`, m.ID)
		w.add("member", `id, active, user_name, external_id, body`, m.ID, bit(m.Active),
			found(strings.ToLower(textOf(m.Properties, "userName"))), textOf(m.Properties, "externalId"), w.body(m))
	}
	for i := range c.Groups {
		g := &c.Groups[i]
		w.close("groups", ` AND id = $4`, g.ID)
		w.add("groups", `id, name, external_id, body`, g.ID, found(strings.ToLower(g.Title)), textOf(g.Properties, "externalId"), w.body(g))
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

// maxFound is the longest text that members and groups can be found by, in bytes.
// PostgreSQL indexes up to about 2,700 bytes.
const maxFound = 1024

// found returns s if rows can be found by it, else "": if s is longer than maxFound,
// or has a NUL, which PostgreSQL cannot store in a text.
func found(s string) string {
	if len(s) > maxFound || strings.Contains(s, "\x00") {
		return ""
	}
	return s
}

func textOf(properties map[string]any, name string) string {
	s, _ := properties[name].(string)
	return found(s)
}

// closeDirectory ends all of a deleted customer's directory and erases its
// people's properties (S36).
func closeDirectory(ctx context.Context, tx *sql.Tx, env usher.Environment, revision int64, customer string) error {
	w := directoryWriter{ctx: ctx, tx: tx, env: string(env), customer: customer, revision: revision}
	for _, table := range []string{"member", "groups", "membership", "custom_role", "assignment", "resource"} {
		w.close(table, ``)
	}
	members, err := list(ctx, inTx{tx}, scanText, `SELECT DISTINCT id FROM member WHERE env = $1 AND customer = $2`, string(env), customer)
	if err != nil {
		return err
	}
	for _, id := range members {
		w.eraseMember(id)
	}
	resources, err := list(ctx, inTx{tx}, func(row *sql.Rows, r *usher.Resource) error { return row.Scan(&r.Type, &r.ID) },
		`SELECT DISTINCT type, id FROM resource WHERE env = $1 AND customer = $2 AND body LIKE '%"properties"%'`, string(env), customer)
	if err != nil {
		return err
	}
	for _, r := range resources {
		w.eraseResource(r)
	}
	if w.err == nil {
		_, w.err = exec(ctx, tx, `UPDATE customer SET access_revision = $3 WHERE env = $1 AND id = $2`, string(env), customer, revision)
	}
	return w.err
}
